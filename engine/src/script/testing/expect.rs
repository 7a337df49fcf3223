//! Whether an expectation of a test is met.

use std::collections::BTreeMap;

use whystall_event::Subject;

use super::super::conclusion::Conclusion;
use super::super::rule::Rule;
use super::record::{Expectation, Want};
use crate::engine::FindingState;
use crate::finding::Phase;
use crate::verdict::{Link, Verdict};

impl Expectation {
    pub(super) fn met(
        &self,
        findings: &[FindingState],
        fired: &[Subject],
        rule: &Rule,
        seen: &Seen,
    ) -> Result<(), String> {
        match self.what {
            Want::Chain => return self.chained(rule, seen),
            Want::Health => {
                let now = if seen.suspended.is_some() { "suspended" } else { "ok" };
                let why = seen.suspended.as_deref().map(|w| format!(" ({w})")).unwrap_or_default();
                return match *self.text == *now {
                    true => Ok(()),
                    false => Err(format!("expected the rule to be {}, it is {now}{why}", self.text)),
                };
            }
            _ => {}
        }
        let on: Option<Subject> = self.on.as_deref().and_then(|s| s.parse().ok());
        let mine = |s: &Subject| on.as_ref().is_none_or(|o| o == s);
        let here: Vec<&FindingState> = findings.iter().filter(|f| mine(&f.subject)).collect();
        let in_phase = |p: Phase| here.iter().any(|f| f.phase == p);
        let now = || match &here[..] {
            [] if fired.iter().any(mine) => "resolved".to_string(),
            [] => "silent".to_string(),
            list => list
                .iter()
                .map(|f| format!("{} {:?}", f.subject, f.phase).to_lowercase())
                .collect::<Vec<_>>()
                .join(", "),
        };
        if self.what == Want::State {
            let met = match self.text.as_str() {
                "pending" => in_phase(Phase::Pending),
                "firing" => in_phase(Phase::Firing),
                "recovering" => in_phase(Phase::Recovering),
                "stale" => here.iter().any(|f| f.stale),
                "resolved" => fired.iter().any(mine) && here.is_empty(),
                _ => !fired.iter().any(mine) && !in_phase(Phase::Firing),
            };
            return if met { Ok(()) } else { Err(format!("expected {}, found {}", self.text, now())) };
        }
        let conclusions: Vec<_> = here.iter().filter_map(|f| f.conclusion.as_ref()).collect();
        if conclusions.is_empty() {
            return Err(format!(
                "expected {:?} `{}`, but nothing has fired ({})",
                self.what,
                self.text,
                now()
            ));
        }
        let text = self.text.as_str();
        let has = |s: &str| s.contains(text);
        let (met, found): (bool, Vec<String>) = match self.what {
            Want::State | Want::Chain | Want::Health => (true, Vec::new()),
            Want::Cause => look(&conclusions, |c| vec![c.cause.clone()], |s| s == text),
            Want::Confidence => {
                look(&conclusions, |c| vec![format!("{:?}", c.confidence).to_lowercase()], |s| s == text)
            }
            Want::Severity => look(
                &conclusions,
                |c| vec![c.severity.unwrap_or(rule.manifest.severity).name().to_string()],
                |s| s == text,
            ),
            Want::Says => look(&conclusions, |c| vec![c.summary.clone()], has),
            Want::RulesOut => {
                look(&conclusions, |c| c.ruled_out.iter().map(|r| r.cause.clone()).collect(), |s| s == text)
            }
            Want::Evidence => look(
                &conclusions,
                |c| c.evidence.iter().flat_map(|e| [e.field.clone(), e.window_name.clone()]).collect(),
                |s| s == text,
            ),
            Want::Hint => look(
                &conclusions,
                |c| {
                    c.hints
                        .iter()
                        .map(|h| format!("{} {}", h.text, h.command.clone().unwrap_or_default().join(" ")))
                        .collect()
                },
                has,
            ),
            Want::Culprit => look(&conclusions, |c| c.culprits.iter().map(actor).collect(), has),
            Want::Victim => look(&conclusions, |c| c.victims.iter().map(actor).collect(), has),
        };
        if met { Ok(()) } else { Err(format!("expected {:?} `{text}`, found {found:?}", self.what)) }
    }
}

/// What a test has seen beside the rule's own findings.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Why the rule is suspended.
    pub(super) suspended: Option<String>,
    /// The newest verdict of each incident, by its id.
    pub(super) verdicts: BTreeMap<String, Verdict>,
}

impl Expectation {
    /// `a.b > c.d`: from the root to the last symptom, rules or causes.
    fn chained(&self, rule: &Rule, seen: &Seen) -> Result<(), String> {
        let wanted: Vec<&str> = self.text.split('>').map(str::trim).collect();
        let mut found = Vec::new();
        for v in seen.verdicts.values().filter(|v| v.chain.iter().any(|l| l.rule == rule.manifest.id)) {
            let fits = |(w, l): (&&str, &Link)| l.rule == **w || l.cause == **w;
            if v.chain.len() == wanted.len() && wanted.iter().zip(&v.chain).all(fits) {
                return Ok(());
            }
            found.push(v.chain.iter().map(|l| l.rule.as_str()).collect::<Vec<_>>().join(" > "));
        }
        Err(format!("expected the chain `{}`, found {found:?}", self.text))
    }
}

fn actor(a: &crate::verdict::Actor) -> String {
    let pid = a.pid.map(|p| p.to_string()).unwrap_or_default();
    [
        a.kind.as_str(),
        &pid,
        a.comm.as_deref().unwrap_or(""),
        a.cgroup.as_deref().unwrap_or(""),
        a.name.as_deref().unwrap_or(""),
    ]
    .join(" ")
}

fn look(
    conclusions: &[&Conclusion],
    of: impl Fn(&Conclusion) -> Vec<String>,
    fits: impl Fn(&str) -> bool,
) -> (bool, Vec<String>) {
    let found: Vec<String> = conclusions.iter().flat_map(|c| of(c)).collect();
    (found.iter().any(|s| fits(s)), found)
}
