//! Findings that operators do not want to hear of: they neither fire nor join an incident.

use whystall_event::{Stamp, Subject};

use crate::script::Conclusion;

/// A finding that would fire.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// The rule's id.
    pub rule: &'a str,
    /// What it is about.
    pub subject: &'a Subject,
    /// What the rule concludes.
    pub conclusion: &'a Conclusion,
    /// It was kept silent before and is only asked about again.
    pub again: bool,
}

/// Who knows the exceptions. Asked when a finding fires and, while it is kept silent, again and again: exceptions expire.
pub trait Except: std::fmt::Debug {
    /// Whether this finding is to be kept silent.
    fn excepts(&mut self, finding: &Candidate<'_>, at: Stamp) -> bool;
}
