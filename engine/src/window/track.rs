//! One field over one span for all subjects of a kind, and the windows that read it.

mod answer;

use std::collections::VecDeque;
use std::sync::Arc;

use super::aggregates::{Aggregates, BLOCK, Block, Nature, Needs};
use super::cells::{CounterCell, ValueCell};
use super::gate::Gate;
use super::histogram::Histograms;
use super::weighted::{Decay, Normal};
use super::{Calc, Filter, WindowId};

/// The most panes of a window; longer spans have longer panes.
const MAX_PANES: u64 = 60;

/// What one tick brings to every track.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TickInfo {
    /// The tick's number.
    pub(crate) index: u64,
    /// When it is, CLOCK_BOOTTIME nanoseconds.
    pub(crate) now: u64,
    /// Nanoseconds since the tick before; 0 for the first one.
    pub(crate) elapsed: f64,
    /// The declared interval, nanoseconds.
    pub(crate) interval: f64,
    /// The first tick after a break does not feed weighted means.
    pub(crate) after_break: bool,
}

/// A window's answer for every row.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) id: WindowId,
    calc: Calc,
    coverage: f64,
    pub(crate) values: Vec<f64>,
    pub(crate) deviation: Vec<f64>,
    pub(crate) current: Vec<f64>,
}

impl Output {
    fn columns(&mut self) -> [&mut Vec<f64>; 3] {
        [&mut self.values, &mut self.deviation, &mut self.current]
    }
}

/// Room to work on a block of rows.
#[derive(Debug)]
pub(crate) struct Scratch {
    tick: Block,
    totals: Block,
    last: [f64; BLOCK],
    covered_ns: [f64; BLOCK],
}

impl Scratch {
    pub(crate) fn new() -> Scratch {
        Scratch { tick: Block::new(), totals: Block::new(), last: [0.0; BLOCK], covered_ns: [0.0; BLOCK] }
    }
}

/// One (field, filter, span): its aggregates and the windows that read them.
#[derive(Debug)]
pub(crate) struct Track {
    pub(crate) field: Arc<str>,
    pub(crate) filter: Vec<Filter>,
    pub(crate) over_ns: u64,
    /// The longest interval between readings that counts, nanoseconds.
    pub(crate) limit_ns: u64,
    pub(crate) outputs: Vec<Output>,
    /// What must come before what it counts.
    pub(crate) gate: Option<Box<Gate>>,
    /// How the stream declares the field, once known.
    pub(crate) nature: Option<Nature>,
    /// The cell among a subject's cells of its sort, if some window can read the field.
    pub(crate) slot: Option<usize>,
    /// Whether this tick works on its rows, see [`Track::begin`].
    pub(crate) working: bool,
    has: Needs,
    started: bool,
    panes: u64,
    pane_ticks: u64,
    open: u64,
    cap: usize,
    aggregates: Aggregates,
    normal: Vec<Normal>,
    decay: Decay,
    /// Occurrences: the last pane into which some came.
    busy: Option<u64>,
    /// Occurrences: per row the last pane that had one, plus one.
    last_pane: Vec<u64>,
    /// Occurrences: covered nanoseconds by pane, their sum, and the weighted calculations' coverage.
    stream_panes: VecDeque<(u64, f64)>,
    stream_covered: f64,
    stream_normal: f64,
}

impl Track {
    pub(crate) fn new(field: Arc<str>, filter: Vec<Filter>, over_ns: u64, interval_ns: u64) -> Track {
        let ticks = over_ns.div_ceil(interval_ns).max(1);
        let pane_ticks = ticks.div_ceil(MAX_PANES).max(1);
        // With longer panes the open one is partly filled; one more pane keeps the whole span in sight.
        let panes = if pane_ticks == 1 { ticks } else { ticks.div_ceil(pane_ticks) + 1 };
        Track {
            field,
            filter,
            over_ns,
            limit_ns: over_ns.max(interval_ns.saturating_mul(3)),
            outputs: Vec::new(),
            gate: None,
            nature: None,
            slot: None,
            working: false,
            has: Needs::default(),
            started: false,
            panes,
            pane_ticks,
            open: 0,
            cap: 0,
            aggregates: Aggregates::default(),
            normal: Vec::new(),
            decay: Decay::new(over_ns as f64),
            busy: None,
            last_pane: Vec::new(),
            stream_panes: VecDeque::new(),
            stream_covered: 0.0,
            stream_normal: 0.0,
        }
    }

    /// Whether a window with `calc` can read this track without borrowing a past that it does not have.
    pub(crate) fn can_serve(&self, calc: Calc) -> bool {
        !self.started || self.nature.is_none_or(|n| self.has.has(Needs::of(calc, n)))
    }

    /// Adds a window; [`Track::fit`] must follow.
    pub(crate) fn add(&mut self, id: WindowId, calc: Calc, coverage: f64) {
        let (values, deviation, current) = Default::default();
        self.outputs.push(Output { id, calc, coverage, values, deviation, current });
    }

    /// Takes the field's declaration, and forgets everything if it differs from the one before. True if there was
    /// another one before.
    pub(crate) fn bind(&mut self, nature: Nature, tick: u64) -> bool {
        if self.nature == Some(nature) {
            return false;
        }
        let changed = self.nature.is_some();
        self.unbind();
        self.nature = Some(nature);
        self.open = tick / self.pane_ticks;
        changed
    }

    /// Forgets everything: the stream declares the field no more, or otherwise.
    pub(crate) fn unbind(&mut self) {
        self.nature = None;
        self.slot = None;
        self.working = false;
        self.has = Needs::default();
        self.started = false;
        self.aggregates = Aggregates::default();
        self.normal = Vec::new();
        self.busy = None;
        self.last_pane = Vec::new();
        self.stream_panes.clear();
        self.stream_covered = 0.0;
        self.stream_normal = 0.0;
        for column in self.outputs.iter_mut().flat_map(Output::columns) {
            *column = Vec::new();
        }
    }

    /// Makes what the windows need and the track lacks. False if no window can read the field.
    pub(crate) fn fit(&mut self) -> bool {
        let Some(nature) = self.nature else { return false };
        let useful = self.outputs.iter().filter(|o| nature.allows(o.calc));
        let needs = useful.clone().fold(Needs::default(), |n, o| n.and(Needs::of(o.calc, nature)));
        self.aggregates.add(needs, nature, self.panes as usize, self.cap);
        self.has = self.has.and(needs);
        let any = useful.count() > 0;
        self.grow(self.cap);
        any
    }

    /// Makes room for `cap` rows.
    pub(crate) fn grow(&mut self, cap: usize) {
        self.cap = cap;
        self.aggregates.grow(cap);
        if self.has.has(Needs::NORMAL) {
            self.normal.resize(cap, Normal::default());
        }
        if self.occurrences() {
            self.last_pane.resize(cap, 0);
        }
    }

    fn occurrences(&self) -> bool {
        self.nature.is_some_and(Nature::is_occurrence)
    }

    /// The histograms, where percentiles are asked for.
    pub(crate) fn histograms(&mut self) -> Option<&mut Histograms> {
        self.aggregates.histograms.as_mut()
    }

    /// Begins a tick: opens its pane. `covered_ns` is what a stream of occurrences covered since the tick before,
    /// `live` whether any of its values came. False if no row has anything: then [`Track::idle`] answers for all.
    pub(crate) fn begin(&mut self, tick: &TickInfo, rows: usize, covered_ns: f64, live: bool) -> bool {
        let open = tick.index / self.pane_ticks;
        let steps = open.saturating_sub(self.open);
        let first = (open + 1).saturating_sub(self.panes);
        self.open = open;
        self.started |= live || covered_ns > 0.0;
        if self.occurrences() {
            // Occurrences older than the span are not counted, so time beyond it is not either.
            self.cover(tick, first, covered_ns.min(self.over_ns as f64));
            if live {
                self.busy = Some(open);
            }
            // Empty panes are the same wherever the ring stands.
            if self.busy.is_none_or(|b| b < first) {
                if self.busy.take().is_some() {
                    self.aggregates.clear();
                    self.last_pane.fill(0);
                }
                return self.has.has(Needs::NORMAL) && rows > 0;
            }
        }
        self.aggregates.advance(steps, rows, first);
        true
    }

    fn cover(&mut self, tick: &TickInfo, first: u64, covered_ns: f64) {
        while self.stream_panes.front().is_some_and(|p| p.0 < first) {
            self.stream_panes.pop_front();
        }
        match self.stream_panes.back_mut() {
            Some(p) if p.0 == self.open => p.1 += covered_ns,
            _ => self.stream_panes.push_back((self.open, covered_ns)),
        }
        self.stream_covered = self.stream_panes.iter().map(|p| p.1).sum();
        if !tick.after_break {
            self.stream_normal = self.decay.cover(self.stream_normal, covered_ns, tick.elapsed);
        }
    }

    /// Takes and closes the counters' cells of rows from `start`, at most [`BLOCK`].
    pub(crate) fn tick_counters<'a>(
        &mut self,
        tick: &TickInfo,
        s: &mut Scratch,
        start: usize,
        cells: impl ExactSizeIterator<Item = &'a mut CounterCell>,
    ) {
        let n = cells.len().min(BLOCK);
        let per_tick = 1.0 / tick.interval;
        for (i, c) in cells.enumerate().take(n) {
            s.tick.sum[i] = c.sum;
            s.covered_ns[i] = c.covered;
            s.tick.covered[i] = (c.covered * per_tick) as f32;
            s.last[i] = c.last as f64;
            c.close();
        }
        self.admit(s, start, n);
        if self.has.has(Needs::NORMAL) {
            self.weigh(tick, s, start, n, |s, i| s.tick.sum[i] / s.covered_ns[i] * 1e9);
        }
        self.aggregates.push(start, n, &s.tick, &mut s.totals);
        self.answer(tick, s, start, n);
    }

    /// Takes and closes the cells of gauges or occurrences of rows from `start`, at most [`BLOCK`].
    pub(crate) fn tick_values<'a>(
        &mut self,
        tick: &TickInfo,
        s: &mut Scratch,
        start: usize,
        cells: impl ExactSizeIterator<Item = &'a mut ValueCell>,
    ) {
        let n = cells.len().min(BLOCK);
        let per_tick = 1.0 / tick.interval;
        for (i, c) in cells.enumerate().take(n) {
            s.tick.sum[i] = c.sum;
            s.tick.count[i] = f64::from(c.count);
            s.tick.min[i] = c.min;
            s.tick.max[i] = c.max;
            s.tick.delta[i] = c.delta;
            s.tick.covered[i] = (c.covered * per_tick) as f32;
            s.covered_ns[i] = c.covered;
            s.last[i] = c.last;
            if c.count > 0 {
                if let Some(p) = self.last_pane.get_mut(start + i) {
                    *p = self.open + 1;
                }
                if let Some(h) = &mut self.aggregates.histograms {
                    h.seal(start + i, self.open);
                }
                c.close();
            }
        }
        self.admit(s, start, n);
        if self.has.has(Needs::NORMAL) {
            self.weigh(tick, s, start, n, |s, i| s.tick.sum[i] / s.tick.count[i]);
        }
        self.aggregates.push(start, n, &s.tick, &mut s.totals);
        self.answer(tick, s, start, n);
    }

    /// Leaves out what came while the gate was not open.
    fn admit(&mut self, s: &mut Scratch, start: usize, n: usize) {
        let (Some(gate), Some(nature)) = (&mut self.gate, self.nature) else { return };
        let came = |s: &Scratch, i: usize| match (nature.is_occurrence(), nature.is_counter()) {
            (true, _) => s.tick.count[i] > 0.0,
            (_, true) => s.tick.sum[i] != 0.0,
            _ => s.tick.delta[i] != 0.0,
        };
        for i in 0..n {
            if !gate.is_open(start + i) {
                (s.tick.sum[i], s.tick.count[i], s.tick.delta[i]) = (0.0, 0.0, 0.0);
            } else if came(s, i) {
                gate.meet(start + i);
            }
        }
    }

    /// Brings the gate's say into the windows' values.
    pub(crate) fn finish_gate(&mut self) {
        let Some(gate) = &self.gate else { return };
        for o in &mut self.outputs {
            gate.finish(&mut o.values, &mut o.current);
        }
    }

    /// Feeds the weighted means. `value` is a row's value of this tick, NaN if it has none.
    fn weigh(
        &mut self,
        tick: &TickInfo,
        s: &Scratch,
        start: usize,
        n: usize,
        value: impl Fn(&Scratch, usize) -> f64,
    ) {
        let occurrences = self.occurrences();
        for (i, normal) in self.normal[start..start + n].iter_mut().enumerate() {
            let value = if tick.after_break { f64::NAN } else { value(s, i) };
            let covered = s.covered_ns[i];
            if !occurrences && !tick.after_break {
                normal.covered = self.decay.cover(normal.covered, covered, tick.elapsed);
            }
            if !value.is_nan() {
                let dt = if occurrences { tick.elapsed.max(tick.interval) } else { covered };
                self.decay.update(normal, value, dt);
            }
            for o in &mut self.outputs {
                if let Some(c) = o.current.get_mut(start + i) {
                    *c = value;
                }
            }
        }
    }

    /// Gives the windows' columns `len` rows.
    pub(crate) fn resize_outputs(&mut self, len: usize) {
        let Some(nature) = self.nature else { return };
        for o in self.outputs.iter_mut().filter(|o| o.values.len() != len && nature.allows(o.calc)) {
            o.values.resize(len, f64::NAN);
            if o.calc.is_weighted() || self.gate.is_some() {
                o.current.resize(len, f64::NAN);
            }
            if o.calc == Calc::Baseline {
                o.deviation.resize(len, f64::NAN);
            }
        }
    }

    /// Makes the values of rows with a mask of NaN unknown.
    pub(crate) fn mask(&mut self, mask: &[f64]) {
        for column in self.outputs.iter_mut().flat_map(Output::columns) {
            column.iter_mut().zip(mask).for_each(|(v, m)| *v += m);
        }
    }

    /// Makes one row's values unknown.
    pub(crate) fn mask_row(&mut self, row: usize) {
        for column in self.outputs.iter_mut().flat_map(Output::columns) {
            if let Some(v) = column.get_mut(row) {
                *v = f64::NAN;
            }
        }
    }

    /// Forgets one row.
    pub(crate) fn clear_row(&mut self, row: usize) {
        self.aggregates.clear_row(row);
        if let Some(p) = self.last_pane.get_mut(row) {
            *p = 0;
        }
        if let Some(g) = &mut self.gate {
            g.clear_row(row);
        }
        if let Some(n) = self.normal.get_mut(row) {
            *n = Normal::default();
        }
        self.mask_row(row);
    }

    /// Forgets the panes of all rows; weighted means stay.
    pub(crate) fn sever(&mut self) {
        self.aggregates.clear();
        if let Some(g) = &mut self.gate {
            g.clear();
        }
        self.last_pane.fill(0);
        self.stream_panes.clear();
        self.stream_covered = 0.0;
        self.busy = None;
        self.open = 0;
        for o in &mut self.outputs {
            o.current.fill(f64::NAN);
            if !o.calc.is_weighted() {
                o.values.fill(f64::NAN);
            }
        }
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        let columns = |o: &Output| o.values.capacity() + o.deviation.capacity() + o.current.capacity();
        self.aggregates.bytes()
            + self.gate.as_ref().map_or(0, |g| g.bytes())
            + self.normal.capacity() * size_of::<Normal>()
            + (self.last_pane.capacity() + self.stream_panes.capacity() * 2) * 8
            + self.outputs.iter().map(|o| columns(o) * 8).sum::<usize>()
    }
}
