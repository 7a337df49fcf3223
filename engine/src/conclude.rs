//! Asks a rule for its conclusion about one finding, and writes down how its conditions came out.

use std::cell::RefCell;
use std::rc::Rc;

use whystall_event::{Stamp, Subject, format_rfc3339};

use crate::data::Data;
use crate::script::{Conclusion, Ctx, Judged, Numbers, Program, Rule, Sandbox, Source, trace};
use crate::verdict::{Condition, Confidence, Explained, Term};
use crate::window::WindowId;

/// How a rule's findings end.
#[derive(Debug)]
pub(crate) enum Leave {
    /// `leave` is the opposite of `enter`.
    NotEnter,
    Lowered(Program),
    Script,
}

/// A rule with its windows at this moment.
pub(crate) struct Asked<'a> {
    pub(crate) rule: &'a Rc<Rule>,
    pub(crate) sandbox: &'a Rc<Sandbox>,
    pub(crate) sources: &'a [Source<'a>],
    pub(crate) ids: &'a Rc<Vec<Option<WindowId>>>,
    pub(crate) data: &'a Rc<RefCell<Data>>,
    pub(crate) enter: Option<&'a Program>,
    pub(crate) leave: &'a Leave,
    pub(crate) now: Stamp,
}

impl Asked<'_> {
    /// What the rule concludes about a subject.
    pub(crate) fn conclude(&self, subject: &Subject, row: u32) -> Result<Conclusion, String> {
        let numbers: Vec<Numbers> = self.sources.iter().map(|s| s.at(row as usize)).collect();
        let ctx = Ctx {
            data: self.data.clone(),
            manifest: self.rule.manifest.clone(),
            ids: self.ids.clone(),
            subject: subject.clone(),
            now_ns: self.now.boot_ns,
        };
        self.rule.conclude(self.sandbox, subject, numbers, ctx)
    }

    /// Both conditions, term by term.
    pub(crate) fn explain(&self, subject: &Subject, row: u32) -> Rc<Explained> {
        let enter = match self.enter {
            Some(p) => self.traced(p, row),
            None => self.windows(row),
        };
        let leave = match self.leave {
            Leave::Lowered(p) => self.traced(p, row),
            Leave::Script => self.windows(row),
            Leave::NotEnter => Condition { holds: enter.holds.map(|h| !h), terms: Vec::new() },
        };
        Rc::new(Explained {
            rule: self.rule.manifest.id.clone(),
            subject: subject.to_string(),
            at: format_rfc3339(self.now.wall_ns),
            stale: false,
            enter,
            leave,
        })
    }

    fn traced(&self, p: &Program, row: u32) -> Condition {
        let names: Vec<&str> = self.rule.manifest.windows.iter().map(|w| w.name.as_str()).collect();
        trace(p, self.sources, row as usize, &names)
    }

    /// Of a condition that runs in the interpreter only what it may read is known.
    fn windows(&self, row: u32) -> Condition {
        let figures = self.rule.manifest.windows.iter().zip(self.sources).map(|(d, s)| {
            let value = s.at(row as usize).value / d.shape.scale();
            Term {
                depth: 0,
                text: d.name.clone(),
                holds: None,
                value: value.is_finite().then_some(value),
                line: None,
            }
        });
        Condition { holds: None, terms: figures.collect() }
    }
}

/// What a finding is told with while its rule's `verdict` has not said more.
pub(crate) fn provisional(rule: &Rule, why: String) -> Conclusion {
    let mut c = Conclusion::new(&rule.manifest.id, Confidence::Low);
    c.summary = format!("{}{why}", rule.manifest.title);
    c
}

pub(crate) fn opposite(j: &Judged) -> Judged {
    match j {
        Judged::True => Judged::False,
        Judged::False => Judged::True,
        other => other.clone(),
    }
}
