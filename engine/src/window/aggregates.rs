//! The pane aggregates of one track, as many as its windows need.

use whystall_event::{FieldKind, Mode, Unit};

use super::histogram::Histograms;
use super::panes::{Covered, Least, Most, Panes, Ring, Total};
use super::{Calc, allowed};

/// Rows that are worked on together, so that their cells and scratch stay in the nearest cache.
pub(crate) const BLOCK: usize = 128;

/// How a field was declared by its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Nature {
    pub(crate) kind: FieldKind,
    pub(crate) unit: Unit,
    pub(crate) mode: Mode,
}

impl Nature {
    /// Whether its values are readings of a counter, which live in cells of their own.
    pub(crate) fn is_counter(self) -> bool {
        self.mode == Mode::Sampled && self.kind == FieldKind::Counter
    }

    /// Whether its values are things that happened.
    pub(crate) fn is_occurrence(self) -> bool {
        self.mode == Mode::Occurrences
    }

    /// Whether `calc` means something for it.
    pub(crate) fn allows(self, calc: Calc) -> bool {
        allowed(calc, self.kind, self.unit, self.mode).is_ok()
    }
}

/// The aggregates that a calculation needs, as bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Needs(u8);

impl Needs {
    const SUM: Needs = Needs(1);
    const COUNT: Needs = Needs(2);
    const MIN: Needs = Needs(4);
    const MAX: Needs = Needs(8);
    const DELTA: Needs = Needs(16);
    const HISTOGRAM: Needs = Needs(32);
    /// Exponentially weighted state.
    pub(crate) const NORMAL: Needs = Needs(64);
    const PANES: Needs = Needs(128);

    pub(crate) fn of(calc: Calc, nature: Nature) -> Needs {
        if !nature.allows(calc) {
            return Needs(0);
        }
        let needs = match calc {
            Calc::Ewma | Calc::Baseline => return Needs::NORMAL,
            Calc::Last => Needs(0),
            Calc::Mean => Needs::SUM.and(Needs::COUNT),
            Calc::Min => Needs::MIN,
            Calc::Max => Needs::MAX,
            Calc::Count => Needs::COUNT,
            Calc::Rate if nature.is_occurrence() => Needs::COUNT,
            Calc::Delta if !nature.is_counter() => Needs::DELTA,
            Calc::Sum | Calc::Rate | Calc::Delta | Calc::Share => Needs::SUM,
            Calc::P50 | Calc::P90 | Calc::P99 => Needs::HISTOGRAM,
        };
        needs.and(Needs::PANES)
    }

    pub(crate) fn and(self, other: Needs) -> Needs {
        Needs(self.0 | other.0)
    }

    pub(crate) fn has(self, other: Needs) -> bool {
        self.0 & other.0 == other.0
    }
}

/// Values of a block of rows: one tick's, or whole windows'.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) sum: [f64; BLOCK],
    pub(crate) count: [f64; BLOCK],
    pub(crate) min: [f64; BLOCK],
    pub(crate) max: [f64; BLOCK],
    pub(crate) delta: [f64; BLOCK],
    /// In ticks.
    pub(crate) covered: [f32; BLOCK],
}

impl Block {
    pub(crate) fn new() -> Block {
        let z = [0.0; BLOCK];
        Block { sum: z, count: z, min: z, max: z, delta: z, covered: [0.0; BLOCK] }
    }
}

/// The pane aggregates of one track.
#[derive(Debug, Default)]
pub(crate) struct Aggregates {
    sum: Option<Panes<Total>>,
    count: Option<Panes<Total>>,
    min: Option<Panes<Least>>,
    max: Option<Panes<Most>>,
    delta: Option<Panes<Total>>,
    covered: Option<Panes<Covered>>,
    pub(crate) histograms: Option<Histograms>,
}

impl Aggregates {
    /// Adds those of `needs`, with `len` panes for `cap` rows, that are not there yet.
    pub(crate) fn add(&mut self, needs: Needs, nature: Nature, len: usize, cap: usize) {
        if needs.has(Needs::SUM) {
            self.sum.get_or_insert_with(|| Panes::new(len, cap));
        }
        if needs.has(Needs::COUNT) {
            self.count.get_or_insert_with(|| Panes::new(len, cap));
        }
        if needs.has(Needs::MIN) {
            self.min.get_or_insert_with(|| Panes::new(len, cap));
        }
        if needs.has(Needs::MAX) {
            self.max.get_or_insert_with(|| Panes::new(len, cap));
        }
        if needs.has(Needs::DELTA) {
            self.delta.get_or_insert_with(|| Panes::new(len, cap));
        }
        if needs.has(Needs::HISTOGRAM) {
            self.histograms.get_or_insert_default();
        }
        // Occurrences are covered by their stream, for all rows alike.
        if needs.has(Needs::PANES) && !nature.is_occurrence() {
            self.covered.get_or_insert_with(|| Panes::new(len, cap));
        }
    }

    fn rings(&mut self) -> impl Iterator<Item = &mut dyn Ring> {
        let all: [Option<&mut dyn Ring>; 6] = [
            self.sum.as_mut().map(|p| p as _),
            self.count.as_mut().map(|p| p as _),
            self.min.as_mut().map(|p| p as _),
            self.max.as_mut().map(|p| p as _),
            self.delta.as_mut().map(|p| p as _),
            self.covered.as_mut().map(|p| p as _),
        ];
        all.into_iter().flatten()
    }

    /// Opens the pane `steps` further for `rows` rows; `first` is the oldest pane that stays.
    pub(crate) fn advance(&mut self, steps: u64, rows: usize, first: u64) {
        self.rings().for_each(|r| r.advance(steps, rows));
        if let Some(h) = &mut self.histograms {
            h.expire(first);
        }
    }

    /// Joins a tick's values of `n` rows from `start` into the open pane and gives the windows' totals.
    pub(crate) fn push(&mut self, start: usize, n: usize, tick: &Block, totals: &mut Block) {
        if let Some(p) = &mut self.sum {
            p.push(start, &tick.sum[..n], &mut totals.sum);
        }
        if let Some(p) = &mut self.count {
            p.push(start, &tick.count[..n], &mut totals.count);
        }
        if let Some(p) = &mut self.min {
            p.push(start, &tick.min[..n], &mut totals.min);
        }
        if let Some(p) = &mut self.max {
            p.push(start, &tick.max[..n], &mut totals.max);
        }
        if let Some(p) = &mut self.delta {
            p.push(start, &tick.delta[..n], &mut totals.delta);
        }
        if let Some(p) = &mut self.covered {
            p.push(start, &tick.covered[..n], &mut totals.covered);
        }
    }

    /// Makes room for `cap` rows.
    pub(crate) fn grow(&mut self, cap: usize) {
        self.rings().for_each(|r| r.grow(cap));
    }

    /// Ticks covered in a row's window.
    pub(crate) fn covered(&self, row: usize) -> f32 {
        self.covered.as_ref().map_or(0.0, |p| p.total(row))
    }

    /// Forgets one row.
    pub(crate) fn clear_row(&mut self, row: usize) {
        self.rings().for_each(|r| r.clear_row(row));
        if let Some(h) = &mut self.histograms {
            h.clear_row(row);
        }
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.rings().for_each(|r| r.clear());
        if let Some(h) = &mut self.histograms {
            h.clear();
        }
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        [&self.sum, &self.count, &self.delta].into_iter().flatten().map(Ring::bytes).sum::<usize>()
            + self.min.as_ref().map_or(0, Ring::bytes)
            + self.max.as_ref().map_or(0, Ring::bytes)
            + self.covered.as_ref().map_or(0, Ring::bytes)
            + self.histograms.as_ref().map_or(0, Histograms::bytes)
    }
}
