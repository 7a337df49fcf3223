//! Exceptions from rules, as the config declares them: findings that neither fire nor join an incident.
//!
//! Each finding is judged by itself, so an incident goes on with the findings that are not excepted. What is kept silent
//! is counted and told when the run ends.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use whystall_engine::verdict::Workload;
use whystall_engine::{Candidate, Except};
use whystall_event::{Stamp, Subject, format_rfc3339};

use super::workloads::{Names, workload_of};
use crate::config::{Config, Exception};

/// What an exception can match besides the kinds of subjects.
pub const LABELS: [&str; 7] = ["subject", "namespace", "pod", "container", "unit", "cause", "culprit"];

/// The config's exceptions.
#[derive(Debug, Default)]
pub struct Exceptions {
    by_rule: BTreeMap<String, Vec<Exception>>,
}

impl Exceptions {
    /// All exceptions of a config.
    pub fn of(config: &Config) -> Exceptions {
        let some = config.rules.iter().filter(|(_, r)| !r.exceptions.is_empty());
        Exceptions { by_rule: some.map(|(id, r)| (id.clone(), r.exceptions.clone())).collect() }
    }

    /// A line for people about each: what is kept silent, why, and until when.
    pub fn lines(&self, wall_ns: u64) -> Vec<String> {
        let all = self.by_rule.iter().flat_map(|(id, list)| list.iter().map(move |e| (id, e)));
        all.map(|(id, e)| {
            let what: Vec<String> = e.matches.iter().map(|(k, g)| format!("{k} {}", g.as_str())).collect();
            let until = match e.until_ns {
                None => String::new(),
                Some(ns) => {
                    let day = format_rfc3339(ns.saturating_sub(1));
                    let day = day.get(..10).unwrap_or_default();
                    let verb = if e.holds_at(wall_ns) { "until" } else { "expired after" };
                    format!(", {verb} {day}")
                }
            };
            format!("{id} is silent about {}: {}{until}", what.join(", "), e.reason)
        })
        .collect()
    }
}

/// Findings kept silent, by rule and reason.
#[derive(Debug, Clone, Default)]
pub struct Silenced(Rc<RefCell<BTreeMap<(String, String), u64>>>);

impl Silenced {
    /// A line for people about each rule and reason.
    pub fn lines(&self) -> Vec<String> {
        let counts = self.0.borrow();
        let line = |((rule, reason), n): (&(String, String), &u64)| {
            let what = if *n == 1 { "finding was" } else { "findings were" };
            format!("{n} {what} kept silent by an exception from {rule}: {reason}")
        };
        counts.iter().map(line).collect()
    }
}

/// The exceptions as the engine asks for them.
#[derive(Debug)]
pub struct Filter {
    exceptions: Exceptions,
    /// For exceptions by names of pods and containers; a replay knows only what paths tell.
    names: Option<Names>,
    silenced: Silenced,
}

impl Filter {
    /// Exceptions that count what they keep silent in `silenced`.
    pub fn new(exceptions: Exceptions, names: Option<Names>, silenced: Silenced) -> Filter {
        Filter { exceptions, names, silenced }
    }
}

impl Except for Filter {
    fn excepts(&mut self, finding: &Candidate<'_>, at: Stamp) -> bool {
        let Some(list) = self.exceptions.by_rule.get(finding.rule) else { return false };
        let by_name =
            list.iter().any(|e| ["namespace", "pod", "container"].iter().any(|k| e.matches.contains_key(*k)));
        let workload = match (finding.subject, &mut self.names) {
            (Subject::Cgroup(path), Some(names)) if by_name => names.workload(path, at.boot_ns),
            (Subject::Cgroup(path), _) => workload_of(path),
            _ => None,
        };
        let holds = |e: &&Exception| e.holds_at(at.wall_ns) && matches(e, finding, workload.as_ref());
        let Some(e) = list.iter().find(holds) else { return false };
        if !finding.again {
            let key = (finding.rule.to_string(), e.reason.clone());
            *self.silenced.0.borrow_mut().entry(key).or_default() += 1;
        }
        true
    }
}

fn matches(e: &Exception, f: &Candidate<'_>, workload: Option<&Workload>) -> bool {
    e.matches.iter().all(|(key, glob)| {
        let label = |f: fn(&Workload) -> &Option<String>| {
            workload.and_then(|w| f(w).as_deref()).is_some_and(|t| glob.matches(t))
        };
        match key.as_str() {
            "subject" => glob.matches(&f.subject.to_string()),
            "namespace" => label(|w| &w.namespace),
            "pod" => label(|w| &w.pod),
            "container" => label(|w| &w.container),
            "unit" => label(|w| &w.unit),
            "cause" => glob.matches(&f.conclusion.cause),
            "culprit" => f
                .conclusion
                .culprits
                .iter()
                .any(|a| [&a.comm, &a.cgroup, &a.name].into_iter().flatten().any(|t| glob.matches(t))),
            key => key == f.subject.kind().name() && glob.matches(&f.subject.name()),
        }
    })
}

#[cfg(test)]
mod tests {
    use whystall_engine::script::{Conclusion, Severity};
    use whystall_engine::verdict::{Actor, Confidence};

    use super::*;
    use crate::config::KnownNames;

    const BEFORE: u64 = 1_767_225_600_000_000_000;
    const AFTER: u64 = 1_900_000_000_000_000_000;

    fn filter(exceptions: &str) -> Filter {
        let toml = format!("[rules.\"a.b\"]\nexceptions = [{exceptions}]\n");
        let config = Config::parse(&toml, "t", &KnownNames::default()).unwrap();
        Filter::new(Exceptions::of(&config), None, Silenced::default())
    }

    fn asks(f: &mut Filter, rule: &str, subject: &str, wall_ns: u64, again: bool) -> bool {
        let culprit = Actor { comm: Some("backup".into()), ..Actor::default() };
        let conclusion = Conclusion {
            cause: "memcg.limit".into(),
            confidence: Confidence::High,
            summary: String::new(),
            severity: Some(Severity::Info),
            evidence: Vec::new(),
            ruled_out: Vec::new(),
            hints: Vec::new(),
            culprits: vec![culprit],
            victims: Vec::new(),
            touches: Vec::new(),
        };
        let subject = subject.parse().unwrap();
        let c = Candidate { rule, subject: &subject, conclusion: &conclusion, again };
        f.excepts(&c, Stamp { boot_ns: 0, wall_ns })
    }

    #[test]
    fn findings_are_kept_silent_until_their_day_and_counted_once() {
        let mut f = filter("{ cgroup = \"/batch/*\", reason = \"by design\", until = \"2027-01-31\" }");
        assert!(asks(&mut f, "a.b", "cgroup:/batch/x", BEFORE, false));
        assert!(asks(&mut f, "a.b", "cgroup:/batch/x", BEFORE, true));
        assert!(!asks(&mut f, "a.b", "cgroup:/batch/x", AFTER, true), "expired");
        assert!(!asks(&mut f, "a.b", "cgroup:/web", BEFORE, false));
        assert!(!asks(&mut f, "a.c", "cgroup:/batch/x", BEFORE, false), "another rule");
        assert_eq!(f.silenced.lines(), ["1 finding was kept silent by an exception from a.b: by design"]);
        assert_eq!(
            f.exceptions.lines(BEFORE),
            ["a.b is silent about cgroup /batch/*: by design, until 2027-01-31"]
        );
        assert!(f.exceptions.lines(AFTER)[0].ends_with("expired after 2027-01-31"));
    }

    #[test]
    fn all_that_is_named_must_match() {
        let mut f =
            filter("{ unit = \"web.service\", cause = \"memcg.*\", culprit = \"back*\", reason = \"x\" }");
        assert!(asks(&mut f, "a.b", "cgroup:/system.slice/web.service", 0, false));
        assert!(!asks(&mut f, "a.b", "cgroup:/system.slice/db.service", 0, false));
        let mut f = filter("{ subject = \"cpu:1\", culprit = \"other\", reason = \"x\" }");
        assert!(!asks(&mut f, "a.b", "cpu:1", 0, false));
        assert!(asks(&mut filter("{ cpu = \"1\", reason = \"x\" }"), "a.b", "cpu:1", 0, false));
    }
}
