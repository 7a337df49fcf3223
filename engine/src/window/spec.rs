//! What a window is: its calculation, its span and which fields it may read. Declarations only.

use std::sync::Arc;

use whystall_event::{FieldKind, Mode, SEC, SubjectKind, Unit};

use super::gate::After;

/// How a window turns the values of its span into one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Calc {
    /// The newest value in the span.
    Last,
    /// The arithmetic mean of the values.
    Mean,
    /// The least value.
    Min,
    /// The greatest value.
    Max,
    /// The sum of the occurrences' values.
    Sum,
    /// The number of occurrences.
    Count,
    /// Per second: a counter's growth, or the number of occurrences.
    Rate,
    /// How much a counter or gauge moved over the span.
    Delta,
    /// The part of wall time (0 to 1) that a time counter or the occurrences' durations took.
    Share,
    /// The median, within the error of a histogram bucket: a sixteenth at most.
    P50,
    /// The 90th percentile.
    P90,
    /// The 99th percentile.
    P99,
    /// The exponentially weighted mean with the span as its time constant.
    Ewma,
    /// The exponentially weighted mean and deviation with the span as time constant: what is normal here.
    Baseline,
}

impl Calc {
    /// Every calculation.
    pub const ALL: [Calc; 14] = [
        Calc::Last,
        Calc::Mean,
        Calc::Min,
        Calc::Max,
        Calc::Sum,
        Calc::Count,
        Calc::Rate,
        Calc::Delta,
        Calc::Share,
        Calc::P50,
        Calc::P90,
        Calc::P99,
        Calc::Ewma,
        Calc::Baseline,
    ];

    /// The name in rules, lower case.
    pub const fn name(self) -> &'static str {
        match self {
            Calc::Last => "last",
            Calc::Mean => "mean",
            Calc::Min => "min",
            Calc::Max => "max",
            Calc::Sum => "sum",
            Calc::Count => "count",
            Calc::Rate => "rate",
            Calc::Delta => "delta",
            Calc::Share => "share",
            Calc::P50 => "p50",
            Calc::P90 => "p90",
            Calc::P99 => "p99",
            Calc::Ewma => "ewma",
            Calc::Baseline => "baseline",
        }
    }

    /// The calculation with this name.
    pub fn from_name(name: &str) -> Option<Calc> {
        Calc::ALL.into_iter().find(|c| c.name() == name)
    }

    /// The quantile of a percentile calculation, 0 to 1.
    pub(crate) const fn quantile(self) -> Option<f64> {
        match self {
            Calc::P50 => Some(0.50),
            Calc::P90 => Some(0.90),
            Calc::P99 => Some(0.99),
            _ => None,
        }
    }

    /// Whether it can be counted only after something else: it is the sum of what its ticks brought.
    pub(crate) const fn is_amount(self) -> bool {
        matches!(self, Calc::Count | Calc::Sum | Calc::Rate | Calc::Delta | Calc::Share)
    }

    /// Whether it is exponentially weighted: it has no panes, and remembers beyond its span.
    pub(crate) const fn is_weighted(self) -> bool {
        matches!(self, Calc::Ewma | Calc::Baseline)
    }
}

impl std::fmt::Display for Calc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A condition on the text fields of occurrences: the field's name, and the patterns of which one must match. A `*` at
/// a pattern's start or end stands for any text.
pub type Filter = (Arc<str>, Vec<Arc<str>>);

/// A declared window. Two equal ones share everything.
#[derive(Debug, Clone, PartialEq)]
pub struct WindowSpec {
    /// The stream's name.
    pub stream: Arc<str>,
    /// The field's name within the stream.
    pub field: Arc<str>,
    /// The kind of subjects that it is computed for.
    pub kind: SubjectKind,
    /// The calculation.
    pub calc: Calc,
    /// The span, or the time constant of `ewma` and `baseline`, in nanoseconds.
    pub over_ns: u64,
    /// The least part of the span (0 to 1) that must have been watched; below it the value is unknown.
    pub coverage: f64,
    /// Only occurrences that match all of these are counted; empty for sampled streams.
    pub filter: Vec<Filter>,
    /// Only what comes after another window was other than zero is counted.
    pub after: Option<After>,
}

impl WindowSpec {
    /// A window over `stream.field` with the usual coverage of one half and no filter.
    pub fn new(stream: &str, field: &str, kind: SubjectKind, calc: Calc, over_ns: u64) -> WindowSpec {
        WindowSpec {
            stream: stream.into(),
            field: field.into(),
            kind,
            calc,
            over_ns,
            coverage: DEFAULT_COVERAGE,
            filter: Vec::new(),
            after: None,
        }
    }
}

/// The least covered part of a window that does not say its own.
pub const DEFAULT_COVERAGE: f64 = 0.5;

/// The longest span that is taken literally; longer ones are cut to it.
pub(crate) const MAX_OVER_NS: u64 = 366 * 86_400 * SEC;

/// Whether `calc` means something for fields of this kind, unit and mode; if not, why (lower case, for people).
pub fn allowed(calc: Calc, kind: FieldKind, unit: Unit, mode: Mode) -> Result<(), &'static str> {
    use Calc::*;
    match (mode, kind) {
        (Mode::Sampled, FieldKind::Counter) => match calc {
            Last | Rate | Delta | Ewma | Baseline => Ok(()),
            Share if unit == Unit::Time => Ok(()),
            Share => Err("share is the part of wall time, and this counter does not count time; use rate"),
            Sum | Count => Err("a counter is already a running sum; use delta or rate"),
            Mean | Min | Max | P50 | P90 | P99 => {
                Err("only a counter's growth means something; use rate, delta, ewma or baseline")
            }
        },
        (Mode::Sampled, FieldKind::Gauge) => match calc {
            Last | Mean | Min | Max | Delta | P50 | P90 | P99 | Ewma | Baseline => Ok(()),
            Sum | Count => {
                Err("the sum or count of readings depends on the interval only; use mean, max or delta")
            }
            Rate => Err("a gauge is a level, it has no rate; use delta, or a counter field"),
            Share => Err("share needs time; use mean for a level"),
        },
        (Mode::Sampled, FieldKind::Duration) => Err("durations belong to streams of occurrences"),
        (Mode::Sampled, FieldKind::Text) => Err("this text is an attribute of the subject, it has no window"),
        (Mode::Occurrences, FieldKind::Text) => match calc {
            Count | Rate => Ok(()),
            _ => Err("text can be counted only; use count or rate"),
        },
        (Mode::Occurrences, _) => match calc {
            Delta => Err("occurrences have no difference; use sum, count or rate"),
            Share if kind != FieldKind::Duration => Err("share is the part of wall time; it needs durations"),
            _ => Ok(()),
        },
    }
}

/// Bounds that keep memory finite whatever the host does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// The most subjects of each kind, by the kind's number.
    pub subjects_per_kind: [usize; 6],
    /// How long a subject may be silent in sampled streams beyond the longest window before it is dropped, nanoseconds.
    pub silent_ns: u64,
    /// How long a row of a subject that is gone stays occupied, nanoseconds.
    pub gone_ns: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            subjects_per_kind: [1, 8192, 1024, 20_000, 65_536, 8192],
            silent_ns: 600 * SEC,
            gone_ns: 60 * SEC,
        }
    }
}

/// A declared window's handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct WindowId(pub u32);

/// What the windows did and hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WindowStats {
    /// Rows about subjects beyond the cap, by the kind's number.
    pub over_cap: [u64; 6],
    /// Occurrences that were older than their window, and rows from before a break.
    pub too_old: u64,
    /// Fields that a stream declared anew with another kind, unit or mode while windows read them.
    pub mismatched: u64,
    /// Values that went into a window's cell.
    pub events: u64,
    /// Bytes held by tables, columns and caches (capacity, not length).
    pub bytes: usize,
}
