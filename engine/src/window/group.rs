//! All tracks of one stream for one kind of subjects, with their cells: a subject's cells lie side by side, so that a
//! row of a batch touches adjacent memory.

use std::collections::HashMap;

use whystall_event::{Batch, FieldKind, MAX_FIELDS, Mode, RowRef, Stream, SubjectKind};

use super::WindowId;
use super::aggregates::{BLOCK, Nature};
use super::cells::{CounterCell, ValueCell};
use super::filter::BoundFilter;
use super::track::{Scratch, TickInfo, Track};
use crate::subjects::NO_ROW;

/// Cells of all rows: `width` to a row.
#[derive(Debug)]
struct Cells<C> {
    width: usize,
    cells: Vec<C>,
}

impl<C: Default + Copy> Cells<C> {
    fn new() -> Cells<C> {
        Cells { width: 0, cells: Vec::new() }
    }

    fn grow(&mut self, cap: usize) {
        self.cells.resize(cap * self.width, C::default());
    }

    fn row(&mut self, row: usize) -> &mut [C] {
        &mut self.cells[row * self.width..(row + 1) * self.width]
    }

    fn column(&mut self, slot: usize, start: usize, n: usize) -> impl ExactSizeIterator<Item = &mut C> {
        self.cells[start * self.width + slot..].iter_mut().step_by(self.width).take(n)
    }

    /// Lays the cells out anew: the new slots in order, each with its old slot if it had one.
    fn lay_out(&mut self, slots: &[Option<usize>], cap: usize) {
        let old = std::mem::take(&mut self.cells);
        let old_width = self.width;
        self.width = slots.len();
        self.cells.reserve_exact(cap * slots.len());
        for row in 0..cap {
            let cell = |s: &Option<usize>| s.map_or_else(C::default, |s| old[row * old_width + s]);
            self.cells.extend(slots.iter().map(cell));
        }
    }
}

/// Values of the windows that gates look at.
pub(crate) type Others = HashMap<WindowId, Vec<f64>, foldhash::fast::RandomState>;

/// How a value of a row gets to its cell; in the order of the cells.
#[derive(Debug)]
struct Step {
    field: usize,
    kind: FieldKind,
    track: usize,
    limit_ns: u64,
    over_ns: u64,
    histogram: bool,
    filter: Option<BoundFilter>,
}

impl Step {
    /// Whether `row` has a value for the cell.
    #[inline(always)]
    fn takes(&self, row: &RowRef<'_>) -> bool {
        row.present >> self.field & 1 == 1 && self.filter.as_ref().is_none_or(|f| f.matches(row))
    }
}

/// What taking values in counted.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Taken {
    /// Values that went into cells.
    pub(crate) events: u64,
    /// Values older than their window.
    pub(crate) too_old: u64,
}

/// All tracks of one stream for one kind of subjects.
#[derive(Debug)]
pub(crate) struct Group {
    /// A released track leaves a gap, so that the indices of the others stay.
    pub(crate) tracks: Vec<Option<Track>>,
    counter_steps: Vec<Step>,
    value_steps: Vec<Step>,
    counters: Cells<CounterCell>,
    values: Cells<ValueCell>,
    occurrences: bool,
    /// Rows below this may have values.
    rows: usize,
    cap: usize,
    live: bool,
}

impl Group {
    pub(crate) fn new() -> Group {
        Group {
            tracks: Vec::new(),
            counter_steps: Vec::new(),
            value_steps: Vec::new(),
            counters: Cells::new(),
            values: Cells::new(),
            occurrences: false,
            rows: 0,
            cap: 0,
            live: false,
        }
    }

    /// Whether some window can take values of the stream.
    pub(crate) fn reads(&self) -> bool {
        !(self.counter_steps.is_empty() && self.value_steps.is_empty())
    }

    /// Whether some window counts only after another.
    pub(crate) fn gated(&self) -> bool {
        self.tracks.iter().flatten().any(|t| t.gate.is_some())
    }

    /// Fits tracks, cells and steps to the stream's declaration and to the windows as they are now; what stays keeps
    /// its state. Returns the number of fields that changed their nature.
    pub(crate) fn bind(&mut self, stream: &Stream, tick: u64) -> u64 {
        let mut changed = 0;
        let (mut counter_slots, mut value_slots) = (Vec::new(), Vec::new());
        self.counter_steps.clear();
        self.value_steps.clear();
        self.occurrences = stream.mode == Mode::Occurrences;
        let field_of = |t: &Track| stream.field_index(&t.field).filter(|i| *i < MAX_FIELDS);
        for (index, track) in self.tracks.iter_mut().enumerate() {
            let Some(track) = track else { continue };
            let Some(field) = field_of(track) else {
                track.unbind();
                continue;
            };
            let declared = &stream.fields[field];
            let nature = Nature { kind: declared.kind, unit: declared.unit, mode: stream.mode };
            changed += u64::from(track.bind(nature, tick));
            track.grow(self.cap);
            if !track.fit() {
                track.slot = None;
                continue;
            }
            let step = Step {
                field,
                kind: declared.kind,
                track: index,
                limit_ns: track.limit_ns,
                over_ns: track.over_ns,
                histogram: track.histograms().is_some(),
                filter: BoundFilter::bind(&track.filter, stream),
            };
            let (slots, steps) = match nature.is_counter() {
                true => (&mut counter_slots, &mut self.counter_steps),
                false => (&mut value_slots, &mut self.value_steps),
            };
            let old = track.slot.replace(slots.len());
            slots.push(old);
            steps.push(step);
        }
        self.counters.lay_out(&counter_slots, self.cap);
        self.values.lay_out(&value_slots, self.cap);
        changed
    }

    /// Makes room for `row`, doubling up to `limit` rows.
    fn reach(&mut self, row: usize, limit: usize) {
        if row >= self.cap {
            self.cap = (row + 1).next_power_of_two().max(8).min(limit.max(row + 1));
            self.counters.grow(self.cap);
            self.values.grow(self.cap);
            self.tracks.iter_mut().flatten().for_each(|t| t.grow(self.cap));
        }
        self.rows = row + 1;
    }

    /// Takes the rows of a batch that are about this group's `kind` of subjects. `rows` has each one's row in the table
    /// or [`NO_ROW`], `last` is the highest of this kind; the table has at most `limit` rows.
    pub(crate) fn take(
        &mut self,
        batch: &Batch,
        rows: &[u32],
        kind: SubjectKind,
        last: usize,
        limit: usize,
        interval: f64,
    ) -> Taken {
        let own = || {
            let pairs =
                batch.rows().zip(rows).filter(move |(v, r)| **r != NO_ROW && v.subject.kind() == kind);
            pairs.map(|(v, r)| (v, *r as usize))
        };
        if last >= self.rows {
            self.reach(last, limit);
        }
        let mut taken = Taken::default();
        if !self.counter_steps.is_empty() {
            own().for_each(|(values, row)| self.take_counters(row, &values, &mut taken));
        }
        if !self.value_steps.is_empty() {
            let now = batch.at.boot_ns;
            own().for_each(|(values, row)| self.take_values(row, &values, now, interval, &mut taken));
        }
        self.live |= taken.events > 0;
        taken
    }

    #[inline(always)]
    fn take_counters(&mut self, row: usize, values: &RowRef<'_>, taken: &mut Taken) {
        for (cell, step) in self.counters.row(row).iter_mut().zip(&self.counter_steps) {
            if step.takes(values) {
                cell.read(values.values[step.field], values.boot_ns, step.limit_ns);
                taken.events += 1;
            }
        }
    }

    #[inline(always)]
    fn take_values(&mut self, row: usize, values: &RowRef<'_>, now: u64, interval: f64, taken: &mut Taken) {
        let at = values.boot_ns;
        for (cell, step) in self.values.row(row).iter_mut().zip(&self.value_steps) {
            if !step.takes(values) {
                continue;
            }
            let bits = values.values[step.field];
            let value = match step.kind {
                FieldKind::Gauge => f64::from_bits(bits),
                FieldKind::Counter | FieldKind::Duration => bits as f64,
                FieldKind::Text => 1.0,
            };
            if !self.occurrences {
                if !cell.read(value, at, step.limit_ns, interval) {
                    continue;
                }
            } else if now.saturating_sub(at) <= step.over_ns {
                cell.occur(value);
            } else {
                taken.too_old += 1;
                continue;
            }
            taken.events += 1;
            if step.histogram
                && let Some(h) = self.tracks[step.track].as_mut().and_then(Track::histograms)
            {
                h.add(row, value);
            }
        }
    }

    /// Closes the tick. `covered_ns` is what a stream of occurrences covered; `len` and `mask` describe the table.
    /// Without `others` it closes the tracks without a gate; with them, those that have one.
    pub(crate) fn tick(
        &mut self,
        tick: &TickInfo,
        s: &mut Scratch,
        covered_ns: f64,
        len: usize,
        mask: Option<&[f64]>,
        others: Option<&Others>,
    ) {
        let live = self.live;
        if others.is_some() || !self.gated() {
            self.live = false;
        }
        let mine = |t: &Track| t.gate.is_some() == others.is_some();
        let columns = if self.occurrences { len } else { self.rows };
        let rows = self.rows;
        let mut any = false;
        for track in self.tracks.iter_mut().flatten().filter(|t| t.slot.is_some() && mine(t)) {
            track.resize_outputs(columns);
            if let (Some(gate), Some(others)) = (&mut track.gate, others) {
                gate.begin(others.get(&gate.after.window).map_or(&[][..], |c| &c[..]), columns, tick.now);
            }
            track.working = track.begin(tick, rows, covered_ns, live);
            track.idle(if track.working { rows } else { 0 });
            any |= track.working;
        }
        let mut start = 0;
        while any && start < rows {
            let n = BLOCK.min(rows - start);
            for track in self.tracks.iter_mut().flatten().filter(|t| t.working && mine(t)) {
                let (Some(slot), Some(nature)) = (track.slot, track.nature) else {
                    continue;
                };
                if nature.is_counter() {
                    track.tick_counters(tick, s, start, self.counters.column(slot, start, n));
                } else {
                    track.tick_values(tick, s, start, self.values.column(slot, start, n));
                }
            }
            start += n;
        }
        for track in self.tracks.iter_mut().flatten().filter(|t| mine(t)) {
            track.finish_gate();
            if let Some(mask) = mask {
                track.mask(mask);
            }
        }
    }

    /// Forgets one row.
    pub(crate) fn clear_row(&mut self, row: usize) {
        if row < self.cap {
            self.counters.row(row).fill(CounterCell::default());
            self.values.row(row).fill(ValueCell::default());
        }
        self.tracks.iter_mut().flatten().for_each(|t| t.clear_row(row));
    }

    /// Makes one row's values unknown.
    pub(crate) fn mask_row(&mut self, row: usize) {
        self.tracks.iter_mut().flatten().for_each(|t| t.mask_row(row));
    }

    /// Forgets window contents and readings of all rows; weighted means stay.
    pub(crate) fn sever(&mut self) {
        self.counters.cells.iter_mut().for_each(CounterCell::sever);
        self.values.cells.iter_mut().for_each(ValueCell::sever);
        self.tracks.iter_mut().flatten().for_each(Track::sever);
        self.live = false;
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        self.counters.cells.capacity() * size_of::<CounterCell>()
            + self.values.cells.capacity() * size_of::<ValueCell>()
            + (self.counter_steps.capacity() + self.value_steps.capacity()) * size_of::<Step>()
            + self.tracks.capacity() * size_of::<Option<Track>>()
            + self.tracks.iter().flatten().map(Track::bytes).sum::<usize>()
    }
}
