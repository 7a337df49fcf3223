//! RULE, typed: what a rule file declares about itself.

mod links;
mod read;
mod shape;
mod streams;
mod windows;

use std::sync::Arc;

use whystall_event::{Stream, SubjectKind};

use super::diag::Place;
use crate::window::Calc;

pub(crate) use read::read;
pub use shape::Shape;

/// The version of the rule interface that this engine speaks.
pub const API: u32 = 1;

/// How bad a rule's findings are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// Somebody should look today.
    Warning,
    /// Somebody should look now.
    Critical,
}

impl Severity {
    /// The severity with this name.
    pub fn from_name(s: &str) -> Option<Severity> {
        match s {
            "info" => Some(Severity::Info),
            "warning" => Some(Severity::Warning),
            "critical" => Some(Severity::Critical),
            _ => None,
        }
    }

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Critical => "critical",
        }
    }
}

/// A param's value.
#[derive(Debug, Clone, PartialEq)]
pub enum ParamValue {
    /// Numbers are always floating-point, so that no division is an integer's.
    Number(f64),
    /// True or false.
    Bool(bool),
    /// Text.
    Text(String),
}

/// Something operators may tune.
#[derive(Debug, Clone, PartialEq)]
pub struct Param {
    /// Its name, read as `p.NAME`.
    pub name: String,
    /// Its value; after overrides, the operator's.
    pub value: ParamValue,
    /// Bounds for numbers.
    pub bounds: (f64, f64),
    /// Unit for people, may be empty.
    pub unit: String,
    /// What it means.
    pub help: String,
    pub(crate) at: Place,
}

impl Param {
    /// Whether `value` may stand in for this param's value.
    pub fn check(&self, value: &ParamValue) -> Result<(), String> {
        match (&self.value, value) {
            (ParamValue::Number(_), ParamValue::Number(x)) => {
                let (lo, hi) = self.bounds;
                if (lo..=hi).contains(x) {
                    Ok(())
                } else if hi == f64::INFINITY {
                    Err(format!("{x} is below its minimum {lo}"))
                } else if lo == f64::NEG_INFINITY {
                    Err(format!("{x} is above its maximum {hi}"))
                } else {
                    Err(format!("{x} is not between {lo} and {hi}"))
                }
            }
            (ParamValue::Bool(_), ParamValue::Bool(_)) | (ParamValue::Text(_), ParamValue::Text(_)) => Ok(()),
            (ParamValue::Number(_), _) => Err("a number is expected".into()),
            (ParamValue::Bool(_), _) => Err("true or false is expected".into()),
            (ParamValue::Text(_), _) => Err("a string is expected".into()),
        }
    }
}

/// How a window over another kind's subjects becomes one value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Take {
    /// Sum of all known values.
    Sum,
    /// The largest.
    Max,
    /// How many subjects have a known value above the line (in the window's shown unit).
    CountOver(f64),
    /// The part of the subjects with a known value that are above the line.
    ShareOver(f64),
}

/// Whose values a window reads.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum At {
    /// The rule's own subject.
    Own,
    /// The host.
    Host,
    /// The parent cgroup.
    Parent,
    /// The CPU whose number another window of the rule says, by its index.
    Cpu(usize),
    /// All subjects of a kind, reduced to one value.
    Across(SubjectKind, Take),
}

/// A declared window.
#[derive(Debug, Clone, PartialEq)]
pub struct WindowDecl {
    /// Its name, read as `w.NAME`.
    pub name: String,
    /// The stream it reads.
    pub stream: Arc<str>,
    /// The field.
    pub field: Arc<str>,
    /// The calculation.
    pub calc: Calc,
    /// The span, nanoseconds.
    pub over_ns: u64,
    /// Whose values.
    pub at: At,
    /// The least covered part below which the value is unknown.
    pub coverage: f64,
    /// Only rows whose texts match.
    pub filter: Vec<(Arc<str>, Vec<Arc<str>>)>,
    /// Only what comes after this window, by index, was other than zero, and within this time, nanoseconds.
    pub after: Option<(usize, u64)>,
    /// The kinds the stream is about.
    pub kinds: Vec<SubjectKind>,
    /// What the value is.
    pub shape: Shape,
    /// The stream's text fields; items of `ctx.top` carry them.
    pub texts: Vec<Arc<str>>,
    pub(crate) at_place: Place,
}

/// When two findings are related.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Anywhere on the host.
    Host,
    /// They touch the same CPU.
    SameCpu,
    /// One touches a cgroup of the other, or an ancestor of it.
    SameCgroup,
    /// They touch the same task.
    SameTask,
}

/// A causal edge: this rule's finding explains the other rule's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explains {
    /// The other rule's id.
    pub rule: String,
    /// Where they must meet.
    pub when: When,
    /// Only if the other finding concluded one of these causes; empty for any.
    pub causes: Vec<String>,
    /// Only if this rule's finding concluded one of these causes; empty for any.
    pub by: Vec<String>,
}

/// What happens to a finding while its windows are unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnMissing {
    /// It stays as it is and is marked stale.
    Hold,
    /// It clears as if the condition were false.
    Clear,
}

/// Everything RULE says.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// `area.name`.
    pub id: String,
    /// Severity, after overrides.
    pub severity: Severity,
    /// Free labels.
    pub tags: Vec<String>,
    /// The kinds of subjects it judges, at least one.
    pub subjects: Vec<SubjectKind>,
    /// Collectors or streams without which it does not run.
    pub needs: Vec<String>,
    /// Collectors or streams that it uses where they exist.
    pub wants: Vec<String>,
    /// Params by name.
    pub params: Vec<Param>,
    /// Windows by name.
    pub windows: Vec<WindowDecl>,
    /// Index of the window that must not be zero for `enter` to be asked.
    pub wake: Option<usize>,
    /// How long `enter` must hold.
    pub fire_hold_ns: u64,
    /// N of the last M ticks instead of all of them.
    pub quorum: Option<(u32, u32)>,
    /// How long `leave` must hold.
    pub clear_hold_ns: u64,
    /// What unknown does.
    pub on_missing: OnMissing,
    /// Causal edges.
    pub explains: Vec<Explains>,
    /// `sandbox`, `incubating` or `stable`.
    pub maturity: String,
    /// The first sentence of the page.
    pub title: String,
    /// The page: the `//!` text.
    pub page: String,
    /// Streams that the rule itself declares.
    pub streams: Vec<Arc<Stream>>,
    /// Names of windows and params that are declared, but wrongly: functions may read them without a second complaint;
    /// `*` is all of them.
    pub(crate) broken: Vec<String>,
    /// RULE could not be read at all, so nothing is known of its windows and params.
    pub(crate) missing: bool,
}

impl Manifest {
    /// What functions are checked against where RULE cannot be read.
    pub(crate) fn unreadable() -> Manifest {
        Manifest {
            id: String::new(),
            severity: Severity::Info,
            tags: Vec::new(),
            subjects: Vec::new(),
            needs: Vec::new(),
            wants: Vec::new(),
            params: Vec::new(),
            windows: Vec::new(),
            wake: None,
            fire_hold_ns: 0,
            quorum: None,
            clear_hold_ns: 0,
            on_missing: OnMissing::Hold,
            explains: Vec::new(),
            maturity: String::new(),
            title: String::new(),
            page: String::new(),
            streams: Vec::new(),
            broken: Vec::new(),
            missing: true,
        }
    }

    /// Whether `name` may be read although nothing is known of it.
    pub(crate) fn is_vague(&self, name: &str) -> bool {
        self.missing || self.broken.iter().any(|b| b == name || b == "*")
    }
}

/// `w.on_KIND`: whether the rule judges a subject of that kind now.
pub(crate) const RESERVED_WINDOWS: [&str; 6] =
    ["on_host", "on_cpu", "on_node", "on_cgroup", "on_task", "on_device"];
