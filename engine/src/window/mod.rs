//! Time windows: aggregates of fields over spans of time, for every subject.
//!
//! Values come in as batches and touch one cell each; a tick closes the cells into panes and brings every declared
//! window's column up to date, one value a row of [`SubjectTable`]. NaN means unknown: too little of the span was
//! watched. Only fields that some window reads are kept.
//!
//! What counts as watched: for sampled streams the time between two readings of the same subject, unless it is so long
//! that nobody knows where in it something happened; for streams of occurrences the time up to which the collector says
//! that it delivered everything. Time is passed in; nothing here asks a clock, does IO or fails.

mod aggregates;
mod cells;
mod filter;
mod gate;
mod group;
mod histogram;
mod pace;
mod panes;
mod spec;
mod stream;
mod track;
mod weighted;

#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;

use whystall_event::{Batch, SEC, Stamp, Subject, SubjectKind};

use crate::subjects::SubjectTable;
pub use gate::After;
use gate::Gate;
use group::{Group, Others};
use pace::Pace;
pub use spec::{Calc, DEFAULT_COVERAGE, Filter, Limits, WindowId, WindowSpec, WindowStats, allowed};
use stream::StreamState;
use track::{Output, Scratch, TickInfo, Track};

/// How often silent subjects are looked for.
const SWEEP_NS: u64 = 30 * SEC;

/// A declared window and where it is computed.
#[derive(Debug)]
struct Slot {
    spec: WindowSpec,
    uses: usize,
    stream: usize,
    track: usize,
}

/// All declared windows, their subjects and values.
#[derive(Debug)]
pub struct Windows {
    interval: u64,
    limits: Limits,
    tables: [SubjectTable; 6],
    streams: Vec<StreamState>,
    by_name: HashMap<Arc<str>, usize, foldhash::fast::RandomState>,
    /// Streams by the address of their declaration, which the stream's state keeps alive.
    by_address: HashMap<usize, usize, foldhash::fast::RandomState>,
    slots: Vec<Slot>,
    pace: Pace,
    /// The last break: what is older is not counted.
    since: u64,
    after_break: bool,
    next_sweep: u64,
    scratch: Box<Scratch>,
    /// Values of the windows that others come after, of the newest tick.
    others: Others,
    stats: WindowStats,
}

impl Windows {
    /// Windows that are ticked every `interval_ns` nanoseconds.
    pub fn new(interval_ns: u64, limits: Limits) -> Windows {
        let interval = interval_ns.max(1);
        let table = |k: SubjectKind| SubjectTable::new(k, limits.subjects_per_kind[k as usize]);
        Windows {
            interval,
            tables: SubjectKind::ALL.map(table),
            limits,
            streams: Vec::new(),
            by_name: HashMap::default(),
            by_address: HashMap::default(),
            slots: Vec::new(),
            pace: Pace::new(interval),
            since: 0,
            after_break: false,
            next_sweep: 0,
            scratch: Box::new(Scratch::new()),
            others: Others::default(),
            stats: WindowStats::default(),
        }
    }

    /// Declares a window. The same spec gives the same id and is counted; nothing is allocated per subject before data
    /// comes. A window that reads aggregates another one already has knows their past at once; others warm up.
    pub fn declare(&mut self, spec: &WindowSpec) -> WindowId {
        if let Some(i) = self.slots.iter().position(|s| s.uses > 0 && s.spec == *spec) {
            self.slots[i].uses += 1;
            return WindowId(i as u32);
        }
        let free = self.slots.iter().position(|s| s.uses == 0);
        let id = WindowId(free.unwrap_or(self.slots.len()) as u32);
        let (stream, track) = self.place(id, spec);
        let slot = Slot { spec: spec.clone(), uses: 1, stream, track };
        match free {
            Some(i) => self.slots[i] = slot,
            None => self.slots.push(slot),
        }
        id
    }

    /// Finds or makes the track that serves `spec` and adds the window to it.
    fn place(&mut self, id: WindowId, spec: &WindowSpec) -> (usize, usize) {
        let over = spec.over_ns.clamp(1, spec::MAX_OVER_NS);
        let index = self.stream_index(&spec.stream);
        let state = &mut self.streams[index];
        let group = state.groups[spec.kind as usize].get_or_insert_with(|| Box::new(Group::new()));
        let serves = |t: &Option<Track>| {
            t.as_ref().is_some_and(|t| {
                t.field == spec.field
                    && t.over_ns == over
                    && t.filter == spec.filter
                    && t.gate.as_ref().map(|g| g.after) == spec.after
                    && t.can_serve(spec.calc)
            })
        };
        let track = group.tracks.iter().position(serves).unwrap_or_else(|| {
            let mut new = Track::new(spec.field.clone(), spec.filter.clone(), over, self.interval);
            new.gate = spec.after.map(|a| Box::new(Gate::new(a, over)));
            match group.tracks.iter().position(Option::is_none) {
                Some(gap) => {
                    group.tracks[gap] = Some(new);
                    gap
                }
                None => {
                    group.tracks.push(Some(new));
                    group.tracks.len() - 1
                }
            }
        });
        if let Some(t) = &mut group.tracks[track] {
            t.add(id, spec.calc, spec.coverage);
        }
        self.rebind(index);
        (index, track)
    }

    /// Drops one use of a window; with the last, the window and what only it needs are gone. The state of others stays.
    pub fn release(&mut self, id: WindowId) {
        let Some(slot) = self.slots.get_mut(id.0 as usize).filter(|s| s.uses > 0) else {
            return;
        };
        slot.uses -= 1;
        if slot.uses > 0 {
            return;
        }
        let (stream, track, kind) = (slot.stream, slot.track, slot.spec.kind as usize);
        let state = &mut self.streams[stream];
        let Some(group) = &mut state.groups[kind] else {
            return;
        };
        if let Some(t) = &mut group.tracks[track] {
            t.outputs.retain(|o| o.id != id);
            if t.outputs.is_empty() {
                group.tracks[track] = None;
            }
        }
        if group.tracks.iter().all(Option::is_none) {
            state.groups[kind] = None;
        }
        self.rebind(stream);
    }

    fn stream_index(&mut self, name: &str) -> usize {
        if let Some(i) = self.by_name.get(name) {
            return *i;
        }
        self.streams.push(StreamState::new());
        self.by_name.insert(name.into(), self.streams.len() - 1);
        self.streams.len() - 1
    }

    /// Fits a stream's state to its windows as they are now.
    fn rebind(&mut self, index: usize) {
        let state = &mut self.streams[index];
        if let Some(stream) = state.bound.clone() {
            self.stats.mismatched += state.bind(&stream, self.pace.index());
        }
    }

    /// The state of the batch's stream, told by its declaration's address or else by name.
    fn find(&mut self, batch: &Batch) -> usize {
        let address = |s: &Arc<whystall_event::Stream>| Arc::as_ptr(s) as usize;
        if let Some(i) = self.by_address.get(&address(&batch.stream)) {
            return *i;
        }
        let index = self.stream_index(&batch.stream.name);
        let state = &mut self.streams[index];
        if let Some(old) = &state.bound {
            self.by_address.remove(&address(old));
        }
        self.stats.mismatched += state.bind(&batch.stream, self.pace.index());
        self.by_address.insert(address(&batch.stream), index);
        index
    }

    /// Takes a batch in. It counts for the tick that comes next.
    pub fn ingest(&mut self, batch: &Batch) {
        let index = self.find(batch);
        let taken = self.streams[index].ingest(
            batch,
            &mut self.tables,
            &self.limits.subjects_per_kind,
            self.since,
            self.interval,
        );
        self.stats.events += taken.events;
        self.stats.too_old += taken.too_old;
        for subject in &batch.gone {
            let kind = subject.kind() as usize;
            if let Some(row) = self.tables[kind].mark_gone(subject, batch.at.boot_ns) {
                self.streams.iter_mut().for_each(|s| s.mask_row(kind, row));
            }
        }
    }

    /// Closes the tick: cells become panes, old panes leave, and every column is brought up to date.
    pub fn tick(&mut self, now: Stamp) {
        // The host always exists, also for a rule that reads only other subjects' windows.
        self.tables[SubjectKind::Host as usize].resolve(&Subject::Host, now.boot_ns);
        self.let_go(now.boot_ns);
        let (index, elapsed) = self.pace.tick(now.boot_ns);
        let tick = TickInfo {
            index,
            now: now.boot_ns,
            elapsed: elapsed as f64,
            interval: self.interval as f64,
            after_break: std::mem::take(&mut self.after_break),
        };
        for table in &mut self.tables {
            table.link_parents();
        }
        for stream in &mut self.streams {
            stream.tick(&tick, &mut self.scratch, &self.tables, None);
        }
        self.tick_gated(&tick);
    }

    /// Windows that count only after others, once these have their values.
    fn tick_gated(&mut self, tick: &TickInfo) {
        let asked = |s: &Slot| s.spec.after.filter(|_| s.uses > 0).map(|a| a.window);
        let ids: Vec<WindowId> = self.slots.iter().filter_map(asked).collect();
        let mut others = std::mem::take(&mut self.others);
        others.retain(|id, _| ids.contains(id));
        for id in &ids {
            let column = others.entry(*id).or_default();
            column.clear();
            column.extend_from_slice(self.column(*id));
        }
        if !ids.is_empty() {
            for stream in &mut self.streams {
                stream.tick(tick, &mut self.scratch, &self.tables, Some(&others));
            }
        }
        self.others = others;
    }

    /// Frees the rows of subjects that are gone for a while or silent for long.
    fn let_go(&mut self, now: u64) {
        let sweep = now >= self.next_sweep;
        let mut silent_ns = 0;
        if sweep {
            self.next_sweep = now.saturating_add(SWEEP_NS);
            let used = self.slots.iter().filter(|s| s.uses > 0 && !s.spec.calc.is_weighted());
            let longest = used.map(|s| s.spec.over_ns).max().unwrap_or(0);
            silent_ns = self.limits.silent_ns.saturating_add(longest);
        }
        for (kind, table) in self.tables.iter_mut().enumerate() {
            let streams = &mut self.streams;
            let mut forget = |row| streams.iter_mut().for_each(|s| s.clear_row(kind, row));
            table.drain(now, self.limits.gone_ns, &mut forget);
            if sweep {
                table.drop_silent(now, silent_ns, &mut forget);
            }
        }
    }

    /// A break at `now` (suspend, a step of the clock): no interval across it counts, what windows held is forgotten,
    /// and everything is unknown until it is covered again. `ewma` and `baseline` keep their means, and take nothing
    /// from the next tick.
    pub fn break_all(&mut self, now: Stamp) {
        self.since = now.boot_ns;
        self.after_break = true;
        self.next_sweep = self.next_sweep.min(now.boot_ns.saturating_add(SWEEP_NS));
        self.pace.restart();
        self.streams.iter_mut().for_each(StreamState::sever);
    }

    /// The subjects of one kind. All columns of windows for this kind have its rows.
    pub fn table(&self, kind: SubjectKind) -> &SubjectTable {
        &self.tables[kind as usize]
    }

    fn output(&self, id: WindowId) -> Option<(&Track, &Output)> {
        let slot = self.slots.get(id.0 as usize).filter(|s| s.uses > 0)?;
        let group = self.streams.get(slot.stream)?.groups[slot.spec.kind as usize].as_ref()?;
        let track = group.tracks.get(slot.track)?.as_ref()?;
        Some((track, track.outputs.iter().find(|o| o.id == id)?))
    }

    /// A window's values as of the last tick, one a row of the kind's table; NaN is unknown. It may be shorter than the
    /// table: what is missing is unknown. Inside units: time in nanoseconds, `rate` per second, `share` 0 to 1.
    pub fn column(&self, id: WindowId) -> &[f64] {
        self.output(id).map_or(&[], |(_, o)| &o.values)
    }

    /// A baseline's deviation (exponentially weighted standard deviation) per row; empty for other calculations.
    pub fn deviation(&self, id: WindowId) -> &[f64] {
        self.output(id).map_or(&[], |(_, o)| &o.deviation)
    }

    /// The newest tick's own value per row for `baseline` and `ewma` (per second for counters), NaN where the tick had
    /// none; for a window that comes after another, 1 where it is overdue; empty for other windows.
    pub fn current(&self, id: WindowId) -> &[f64] {
        self.output(id).map_or(&[], |(_, o)| &o.current)
    }

    /// The covered part of a window's span for one row, 0 to 1.
    pub fn covered(&self, id: WindowId, row: u32) -> f64 {
        let Some((track, _)) = self.output(id) else {
            return 0.0;
        };
        let spec = &self.slots[id.0 as usize].spec;
        match self.tables[spec.kind as usize].mask().get(row as usize) {
            Some(m) if !m.is_nan() => track.coverage(spec.calc, row as usize, self.interval as f64),
            _ => 0.0,
        }
    }

    /// The declaration of a window. `id` must come from [`Windows::declare`] of these windows; of a released one it is
    /// the last that had this id.
    pub fn spec(&self, id: WindowId) -> &WindowSpec {
        &self.slots[id.0 as usize].spec
    }

    /// The newest value of a sampled stream's text field for `subject`: an attribute such as a unit or a device model.
    pub fn text(&self, stream: &str, field: &str, subject: &Subject) -> Option<&Arc<str>> {
        let state = &self.streams[*self.by_name.get(stream)?];
        let kind = subject.kind();
        state.text(field, kind as usize, self.table(kind).row(subject)?)
    }

    /// What the windows did and hold.
    pub fn stats(&self) -> WindowStats {
        let mut stats = self.stats.clone();
        for (over, table) in stats.over_cap.iter_mut().zip(&self.tables) {
            *over = table.over_cap();
        }
        stats.bytes = size_of::<Scratch>()
            + self.tables.iter().map(SubjectTable::bytes).sum::<usize>()
            + self.streams.iter().map(StreamState::bytes).sum::<usize>()
            + self.slots.capacity() * size_of::<Slot>();
        stats
    }
}
