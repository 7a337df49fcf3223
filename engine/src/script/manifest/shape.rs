//! The unit of a window's value, and how values are shown to people.

use whystall_event::{FieldKind, Unit};

use crate::window::Calc;

/// The unit of a window's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// The unit of the amounts.
    pub unit: Unit,
    /// Whether it is per second.
    pub per_second: bool,
    /// Whether `.sigma`, `.dev` and `.mean` exist.
    pub baseline: bool,
}

impl Shape {
    pub(super) fn of(calc: Calc, kind: FieldKind, unit: Unit) -> Shape {
        let plain = |unit| Shape { unit, per_second: false, baseline: false };
        match calc {
            Calc::Count => plain(Unit::Count),
            Calc::Share => plain(Unit::Ratio),
            Calc::Rate if kind == FieldKind::Counter => Shape { unit, per_second: true, baseline: false },
            Calc::Rate => Shape { unit: Unit::Count, per_second: true, baseline: false },
            Calc::Ewma | Calc::Baseline => {
                Shape { unit, per_second: kind == FieldKind::Counter, baseline: calc == Calc::Baseline }
            }
            _ => plain(unit),
        }
    }

    /// What an inside value is divided by to be shown.
    pub const fn scale(self) -> f64 {
        self.unit.scale()
    }

    /// The unit as evidence shows it: `ms`, `ms/s`, `bytes`, `1/s`, or nothing.
    pub fn shown(self) -> String {
        match (self.unit.shown(), self.per_second) {
            ("", true) => "1/s".into(),
            (u, true) => format!("{u}/s"),
            (u, false) => u.into(),
        }
    }

    /// An inside value for people: `412 ms`, `3.2 GiB`, `12 %`, `204/s`.
    pub fn text(self, inside: f64) -> String {
        if inside.is_nan() {
            return "unknown".into();
        }
        let per = if self.per_second { "/s" } else { "" };
        match self.unit {
            Unit::Time if inside.abs() >= 10e9 => format!("{} s{per}", digits(inside / 1e9)),
            Unit::Time => format!("{} ms{per}", digits(inside / 1e6)),
            Unit::Bytes => {
                let (mut x, mut unit) = (inside, "B");
                for next in ["KiB", "MiB", "GiB", "TiB"] {
                    if x.abs() < 1024.0 {
                        break;
                    }
                    (x, unit) = (x / 1024.0, next);
                }
                format!("{} {unit}{per}", digits(x))
            }
            Unit::Pages => format!("{} pages{per}", digits(inside)),
            Unit::Ratio => format!("{} %{per}", digits(inside * 100.0)),
            Unit::Count | Unit::None => format!("{}{per}", digits(inside)),
        }
    }
}

/// Three significant digits below a thousand, whole numbers above.
fn digits(x: f64) -> String {
    let a = x.abs();
    if a >= 100.0 || x == x.trunc() {
        format!("{x:.0}")
    } else if a >= 10.0 {
        format!("{x:.1}")
    } else if a >= 0.01 {
        format!("{x:.2}")
    } else {
        format!("{x:.1e}")
    }
}
