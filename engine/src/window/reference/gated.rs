//! The model of windows that count only after another: from the whole history of the other's values.

use proptest::prelude::*;
use whystall_event::{FieldKind, Mode, Subject, SubjectKind};

use super::{Model, SUBJECTS, Sample};
use crate::window::{Calc, WindowId, Windows};

pub(super) const WITHIN: u64 = 4_000_000_000;

/// One other window's values so far.
#[derive(Default)]
pub(super) struct Gated {
    /// By tick: when, and each subject's value.
    history: Vec<(u64, [f64; SUBJECTS])>,
    /// The model without what came while the gate was shut, and for each subject what the newest tick says.
    masked: Option<Model>,
    now: [Say; SUBJECTS],
}

#[derive(Clone, Copy, Default)]
struct Say {
    known: bool,
    overdue: bool,
}

impl Gated {
    pub(super) fn tick(&mut self, windows: &Windows, model: &Model, other: WindowId, now: u64) {
        let column = windows.column(other);
        let value = |n: usize| {
            let row = windows.table(SubjectKind::Cpu).row(&Subject::Cpu(n as u32));
            row.and_then(|r| column.get(r as usize)).copied().unwrap_or(f64::NAN)
        };
        self.history.push((now, std::array::from_fn(value)));
        let mut masked = model.clone();
        for n in 0..SUBJECTS {
            self.now[n] = self.subject(&mut masked, n);
        }
        self.masked = Some(masked);
    }

    fn subject(&self, masked: &mut Model, n: usize) -> Say {
        let begin = masked.lives[n].as_ref().map_or(usize::MAX, |l| l.from).max(masked.from);
        let occurrences = masked.stream.mode == Mode::Occurrences;
        let counter = masked.stream.fields[0].kind == FieldKind::Counter;
        let (mut last, mut was, mut met, mut say) = (None, false, false, Say::default());
        for i in begin..self.history.len() {
            let (now, values) = &self.history[i];
            let x = values[n];
            if !x.is_nan() {
                if x != 0.0 {
                    met &= was;
                    last = Some(*now);
                }
                was = x != 0.0;
            }
            let passed = last.map(|l| now - l);
            let open = passed.is_some_and(|p| p <= WITHIN);
            let samples = &mut masked.ticks[i].samples[n][0];
            if open {
                let grown = samples.iter().filter_map(|s| s.growth).sum::<f64>() != 0.0;
                met |= if occurrences { !samples.is_empty() } else { counter && grown };
            } else if occurrences {
                samples.clear();
            } else {
                for s in samples {
                    *s = Sample { value: 0.0, growth: s.growth.map(|_| 0.0), covered: s.covered };
                }
            }
            let late = passed.is_some_and(|p| p > WITHIN && p <= WITHIN + masked.over);
            say = Say { known: open || !x.is_nan(), overdue: late && !met };
        }
        say
    }

    pub(super) fn compare(
        &self,
        windows: &Windows,
        id: WindowId,
        calc: Calc,
        n: usize,
        coverage: f64,
    ) -> Result<(), TestCaseError> {
        let Some(model) = &self.masked else { return Ok(()) };
        let Some(row) = windows.table(SubjectKind::Cpu).row(&Subject::Cpu(n as u32)) else { return Ok(()) };
        if model.lives[n].as_ref().is_none_or(|l| l.gone_at.is_some()) {
            return Ok(());
        }
        let (mut value, _, part) = model.answer(calc, n, 0, coverage);
        if (part - coverage).abs() < 1e-5 && part != coverage {
            return Ok(()); // too near to the line for single precision
        }
        let say = self.now[n];
        if !say.known {
            value = f64::NAN;
        }
        let at = |c: &[f64]| c.get(row as usize).copied().unwrap_or(f64::NAN);
        let (got, overdue) = (at(windows.column(id)), at(windows.current(id)));
        let near = (got - value).abs() <= 1e-6 * (1.0 + got.abs().max(value.abs()));
        prop_assert!(
            got.is_nan() == value.is_nan() && (got.is_nan() || near),
            "{calc}: {got}, expected {value}"
        );
        if say.known {
            prop_assert_eq!(overdue, f64::from(say.overdue), "overdue of {} for cpu:{}", calc, n);
        } else {
            prop_assert!(overdue.is_nan(), "overdue is {overdue}, and the other is unknown");
        }
        Ok(())
    }
}
