//! The verdict as data: what is printed, stored and sent. Field names are a contract with users and other tools.

use serde::{Deserialize, Serialize};

use crate::script::Severity;

/// The name and version of this shape.
pub const SCHEMA: &str = "whystall.verdict/1";

/// The state of an incident as a verdict tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum State {
    /// The incident has begun.
    Firing,
    /// Its cause, members or figures changed.
    Updated,
    /// All its findings have cleared.
    Resolved,
    /// A rule was removed or switched off while it fired; nothing is known about the host.
    Withdrawn,
}

/// How sure a conclusion is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum Confidence {
    /// A guess that fits.
    Low,
    /// The confirming signals are there, some alternatives are open.
    Medium,
    /// Confirmed, and the alternatives are ruled out.
    High,
}

impl Confidence {
    /// The confidence with this name.
    pub fn from_name(s: &str) -> Option<Confidence> {
        match s {
            "low" => Some(Confidence::Low),
            "medium" => Some(Confidence::Medium),
            "high" => Some(Confidence::High),
            _ => None,
        }
    }
}

/// What a cgroup or task belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Workload {
    /// Kubernetes namespace.
    pub namespace: Option<String>,
    /// Pod name, or its UID where the name is not known.
    pub pod: Option<String>,
    /// Container name, or its id where the name is not known.
    pub container: Option<String>,
    /// systemd unit.
    pub unit: Option<String>,
}

impl Workload {
    /// `NAMESPACE/POD/CONTAINER` or `NAMESPACE/POD`, if the pod's name is known. Untrusted.
    pub fn short(&self) -> Option<String> {
        let (namespace, pod) = (self.namespace.as_ref()?, self.pod.as_ref()?);
        Some(match &self.container {
            // An id instead of a name: as much of it as tools take.
            Some(id) if id.len() == 64 => format!("{namespace}/{pod}/{}", id.get(..12).unwrap_or(id)),
            Some(name) => format!("{namespace}/{pod}/{name}"),
            None => format!("{namespace}/{pod}"),
        })
    }
}

/// A victim or culprit.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Actor {
    /// `task`, `cgroup`, `cpu`, `device`, `irq` or `file`.
    pub kind: String,
    /// Its pid, for a task.
    pub pid: Option<u32>,
    /// The task's name. Untrusted.
    pub comm: Option<String>,
    /// Its cgroup's path. Untrusted.
    pub cgroup: Option<String>,
    /// A name, for what is neither task nor cgroup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its part of the whole, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<f64>,
    /// The figure it was chosen by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    /// That figure's unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// Kernel stack, innermost first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stack: Vec<String>,
    /// What it belongs to.
    pub workload: Option<Workload>,
}

/// A figure a conclusion rests on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Evidence {
    /// Full field name.
    pub field: String,
    /// Whose figure.
    pub subject: String,
    /// The calculation.
    pub calc: String,
    /// Over which span.
    pub window: String,
    /// The value in `unit`; null if unknown.
    pub value: Option<f64>,
    /// `ms`, `bytes`, `1/s`, …; empty for plain numbers.
    pub unit: String,
    /// The line it was compared with, in `unit`.
    pub threshold: Option<f64>,
    /// The window's name in the rule.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub window_name: String,
}

/// A cause that it was not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RuledOut {
    /// The cause's id.
    pub cause: String,
    /// The figure that says so.
    pub because: String,
}

/// Something to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Hint {
    /// For people.
    pub text: String,
    /// An argument vector, never a shell line.
    pub command: Option<Vec<String>>,
    /// What the command may break.
    pub risk: Option<String>,
    /// The page of documentation.
    pub docs: Option<String>,
}

/// One link of the causal chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Link {
    /// The rule.
    pub rule: String,
    /// Its conclusion.
    pub cause: String,
    /// Where.
    pub subject: String,
    /// One sentence.
    pub summary: String,
    /// When this finding began, RFC 3339.
    pub started_at: String,
}

/// An incident's conclusion.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Verdict {
    /// Always [`SCHEMA`].
    pub schema: String,
    /// The incident's id, the same through its life.
    pub incident: String,
    /// 1 for the first verdict of an incident, then counting.
    pub seq: u32,
    /// What happened to the incident.
    pub state: State,
    /// The root's rule.
    pub rule: String,
    /// The root's cause.
    pub cause: String,
    /// The worst severity in the incident.
    pub severity: Severity,
    /// How sure the root's conclusion is.
    pub confidence: Confidence,
    /// The root's subject. Untrusted.
    pub subject: String,
    /// What the subject belongs to.
    pub workload: Option<Workload>,
    /// One sentence a person can act on. Untrusted.
    pub summary: String,
    /// RFC 3339.
    pub started_at: String,
    /// RFC 3339.
    pub updated_at: String,
    /// RFC 3339, once resolved.
    pub resolved_at: Option<String>,
    /// From the root cause to the last symptom.
    pub chain: Vec<Link>,
    /// Who suffers.
    pub victims: Vec<Actor>,
    /// Who did it.
    pub culprits: Vec<Actor>,
    /// Figures.
    pub evidence: Vec<Evidence>,
    /// What it was not.
    pub ruled_out: Vec<RuledOut>,
    /// What to do.
    pub hints: Vec<Hint>,
    /// The host's name.
    pub host: String,
    /// How many findings the incident has; the chain shows the first of them.
    #[serde(default)]
    pub findings: u64,
    /// For an incident that is withdrawn because it turned out to be part of another: that one's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merged_into: Option<String>,
    /// The conditions of the chain's first findings, term by term, as `whystall explain` shows them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub explained: Vec<Explained>,
}

/// Why a finding fires, or not any more: the conditions of its rule with their values.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Explained {
    /// The rule.
    pub rule: String,
    /// The finding's subject. Untrusted.
    pub subject: String,
    /// When the values were read, RFC 3339.
    pub at: String,
    /// Whether the rule's windows were unknown when the verdict was made.
    pub stale: bool,
    /// What must hold for it to begin.
    pub enter: Condition,
    /// What must hold for it to end.
    pub leave: Condition,
}

/// A condition and its parts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Condition {
    /// Whether it holds; null if unknown.
    pub holds: Option<bool>,
    /// Its parts from the left, each followed by its own parts. Empty if it is the opposite of the other condition.
    pub terms: Vec<Term>,
}

/// One part of a condition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Term {
    /// How deep it stands: 0 for the condition itself.
    pub depth: u64,
    /// The part as a person would write it, params replaced by their values.
    pub text: String,
    /// Whether it holds; null if unknown, and for a plain figure.
    pub holds: Option<bool>,
    /// The figure; null if unknown, absent for parts that are no comparison.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    /// What it is compared with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<f64>,
}
