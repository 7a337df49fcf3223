//! From aggregates to a window's values: the one place that says what is known and what each calculation means.

use super::{Nature, Output, Scratch, TickInfo, Track};
use crate::window::Calc;

/// Tolerance in comparing coverage: single precision, and intervals that are a little off the tick.
const HAIR: f64 = 1.0 - 1e-6;

impl Track {
    /// Gives every window its values of `n` rows from `start`.
    pub(super) fn answer(&mut self, tick: &TickInfo, s: &Scratch, start: usize, n: usize) {
        let Some(nature) = self.nature else { return };
        let mut outputs = std::mem::take(&mut self.outputs);
        for o in &mut outputs {
            let Some(out) = o.values.get_mut(start..start + n) else {
                continue;
            };
            if o.calc.is_weighted() {
                self.answer_weighted(o, start, n);
            } else if nature.is_occurrence() {
                self.answer_occurrences(o.calc, o.coverage, out, s, start);
            } else {
                self.answer_sampled(o.calc, o.coverage, out, s, start, tick.interval);
            }
        }
        self.outputs = outputs;
    }

    fn answer_weighted(&self, o: &mut Output, start: usize, n: usize) {
        for row in start..start + n {
            let normal = &self.normal[row];
            let covered = if self.occurrences() { self.stream_normal } else { normal.covered };
            let known = self.is_covered(covered, o.coverage) && !normal.mean.is_nan();
            o.values[row] = if known { normal.mean } else { f64::NAN };
            if let Some(d) = o.deviation.get_mut(row) {
                *d = if known { normal.variance.sqrt() } else { f64::NAN };
            }
        }
    }

    fn answer_occurrences(&self, calc: Calc, coverage: f64, out: &mut [f64], s: &Scratch, start: usize) {
        if !self.is_covered(self.stream_covered, coverage) {
            out.fill(f64::NAN);
            return;
        }
        let t = &s.totals;
        let (per_ns, per_s) = (1.0 / self.stream_covered, 1e9 / self.stream_covered);
        match calc {
            Calc::Sum => set(out, |i| t.sum[i]),
            Calc::Count => set(out, |i| t.count[i]),
            Calc::Rate => set(out, |i| t.count[i] * per_s),
            Calc::Share => set(out, |i| t.sum[i] * per_ns),
            Calc::Mean => set(out, |i| t.sum[i] / t.count[i]),
            Calc::Min => set(out, |i| if t.min[i].is_finite() { t.min[i] } else { f64::NAN }),
            Calc::Max => set(out, |i| if t.max[i].is_finite() { t.max[i] } else { 0.0 }),
            Calc::Last => set(out, |i| {
                let recent = self.last_pane[start + i] + self.panes > self.open + 1;
                if recent { s.last[i] } else { f64::NAN }
            }),
            Calc::P50 | Calc::P90 | Calc::P99 => self.quantiles(out, calc, start),
            Calc::Delta | Calc::Ewma | Calc::Baseline => out.fill(f64::NAN),
        }
    }

    fn answer_sampled(
        &self,
        calc: Calc,
        coverage: f64,
        out: &mut [f64],
        s: &Scratch,
        start: usize,
        interval: f64,
    ) {
        let t = &s.totals;
        let least = (coverage * self.over_ns as f64 / interval * HAIR) as f32;
        let least = least.max(f32::MIN_POSITIVE);
        let known = |i: usize, value: f64| if t.covered[i] >= least { value } else { f64::NAN };
        let seconds = interval / 1e9;
        match calc {
            Calc::Rate => set(out, |i| known(i, t.sum[i] / (f64::from(t.covered[i]) * seconds))),
            Calc::Share => set(out, |i| known(i, t.sum[i] / (f64::from(t.covered[i]) * interval))),
            Calc::Delta if self.nature.is_some_and(Nature::is_counter) => set(out, |i| known(i, t.sum[i])),
            Calc::Delta => set(out, |i| known(i, t.delta[i])),
            Calc::Last => set(out, |i| known(i, s.last[i])),
            Calc::Mean => set(out, |i| known(i, t.sum[i] / t.count[i])),
            Calc::Min => set(out, |i| known(i, t.min[i])),
            Calc::Max => set(out, |i| known(i, t.max[i])),
            Calc::P50 | Calc::P90 | Calc::P99 => {
                self.quantiles(out, calc, start);
                out.iter_mut().enumerate().for_each(|(i, v)| *v = known(i, *v));
            }
            Calc::Sum | Calc::Count | Calc::Ewma | Calc::Baseline => out.fill(f64::NAN),
        }
    }

    fn quantiles(&self, out: &mut [f64], calc: Calc, start: usize) {
        let q = calc.quantile().unwrap_or(f64::NAN);
        let histograms = self.aggregates.histograms.as_ref();
        set(out, |i| histograms.map_or(f64::NAN, |h| h.quantile(start + i, q)));
    }

    /// Whether enough of the span was covered.
    fn is_covered(&self, covered: f64, coverage: f64) -> bool {
        covered > 0.0 && covered >= coverage * self.over_ns as f64 * HAIR
    }

    /// Answers for the rows from `start`, which have no values in any pane.
    pub(crate) fn idle(&mut self, start: usize) {
        let (occurrences, covered, over) = (self.occurrences(), self.stream_covered, self.over_ns as f64);
        for o in &mut self.outputs {
            let zero = matches!(o.calc, Calc::Sum | Calc::Count | Calc::Rate | Calc::Share | Calc::Max);
            let known = occurrences && zero && covered > 0.0 && covered >= o.coverage * over * HAIR;
            let from = start.min(o.values.len());
            o.values[from..].fill(if known { 0.0 } else { f64::NAN });
        }
    }

    /// The covered part of the span for one row.
    pub(crate) fn coverage(&self, calc: Calc, row: usize, interval: f64) -> f64 {
        let covered = match (self.occurrences(), calc.is_weighted()) {
            (true, true) => self.stream_normal,
            (true, false) => self.stream_covered,
            (false, true) => self.normal.get(row).map_or(0.0, |n| n.covered),
            (false, false) => f64::from(self.aggregates.covered(row)) * interval,
        };
        (covered / self.over_ns as f64).clamp(0.0, 1.0)
    }
}

#[inline(always)]
fn set(out: &mut [f64], value: impl Fn(usize) -> f64) {
    for (i, o) in out.iter_mut().enumerate() {
        *o = value(i);
    }
}
