//! Exceptions from rules, as the config declares them: a filter on verdicts.
//!
//! An incident is kept silent if every finding in its chain is excepted; one that also has others is told whole. What was
//! told as firing is also told as resolved, whatever the exceptions say by then.

use std::collections::{BTreeMap, HashSet};

use whystall_engine::verdict::{State, Verdict, Workload};

use crate::config::{Config, Exception};

/// What an exception can match besides the kinds of subjects.
pub const LABELS: [&str; 5] = ["subject", "namespace", "pod", "container", "unit"];

/// Incidents remembered as told.
const MAX_TOLD: usize = 10_000;

/// The config's exceptions, and what was told in spite of them.
#[derive(Debug, Default)]
pub struct Exceptions {
    by_rule: BTreeMap<String, Vec<Exception>>,
    told: HashSet<String>,
    /// Verdicts kept silent so far.
    pub silenced: u64,
}

impl Exceptions {
    /// All exceptions of a config.
    pub fn of(config: &Config) -> Exceptions {
        let some = config.rules.iter().filter(|(_, r)| !r.exceptions.is_empty());
        Exceptions {
            by_rule: some.map(|(id, r)| (id.clone(), r.exceptions.clone())).collect(),
            ..Exceptions::default()
        }
    }

    /// Takes over the exceptions of a changed config; what was told stays known.
    pub fn replace(&mut self, newer: Exceptions) {
        self.by_rule = newer.by_rule;
    }

    /// Whether to tell this verdict at this wall time; counts those that are not.
    pub fn tell(&mut self, v: &Verdict, wall_ns: u64) -> bool {
        let over = matches!(v.state, State::Resolved | State::Withdrawn);
        if self.by_rule.is_empty() && over {
            self.told.remove(&v.incident);
            return true;
        }
        if over && self.told.remove(&v.incident) {
            return true;
        }
        let own = [(v.rule.as_str(), v.subject.as_str())];
        let links: Vec<(&str, &str)> =
            v.chain.iter().map(|l| (l.rule.as_str(), l.subject.as_str())).collect();
        let findings = if links.is_empty() { &own[..] } else { &links[..] };
        let excepted = findings.iter().all(|(rule, subject)| {
            // The workload is known for the root only.
            let workload = v.workload.as_ref().filter(|_| *subject == v.subject);
            self.by_rule
                .get(*rule)
                .is_some_and(|list| list.iter().any(|e| e.holds_at(wall_ns) && matches(e, subject, workload)))
        });
        if excepted {
            self.silenced += 1;
        } else if !over && self.told.len() < MAX_TOLD {
            self.told.insert(v.incident.clone());
        }
        !excepted
    }
}

fn matches(e: &Exception, subject: &str, workload: Option<&Workload>) -> bool {
    let (kind, name) = subject.split_once(':').unwrap_or((subject, ""));
    e.matches.iter().all(|(key, glob)| {
        let label = |f: fn(&Workload) -> &Option<String>| workload.and_then(|w| f(w).as_deref());
        let text = match key.as_str() {
            "subject" => Some(subject),
            "namespace" => label(|w| &w.namespace),
            "pod" => label(|w| &w.pod),
            "container" => label(|w| &w.container),
            "unit" => label(|w| &w.unit),
            key if key == kind => Some(name),
            _ => None,
        };
        text.is_some_and(|t| glob.matches(t))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::KnownNames;
    use crate::render::sample;

    #[test]
    fn only_whole_incidents_are_silenced_and_until_their_day() {
        let toml = "[rules.\"memory.direct_reclaim_burst\"]\nexceptions = [{ cgroup = \"/kubepods/*\", reason = \"by design\", until = \"2027-01-31\" }]\n";
        let config = Config::parse(toml, "t", &KnownNames::default()).unwrap();
        let mut e = Exceptions::of(&config);
        let (before, after) = (1_767_225_600_000_000_000, 1_900_000_000_000_000_000);
        let mut v = sample::verdict();
        assert!(e.tell(&v, before), "its chain has a finding of another rule");
        v.state = State::Resolved;
        assert!(e.tell(&v, before));
        v.chain.truncate(1);
        (v.state, v.incident) = (State::Firing, "2".into());
        assert!(!e.tell(&v, before));
        assert_eq!(e.silenced, 1);
        assert!(e.tell(&v, after), "expired");
        v.state = State::Resolved;
        assert!(e.tell(&v, before), "what was told as firing is told as resolved");
        assert!(!e.tell(&v, before));
        v.subject = "cgroup:/system.slice".into();
        v.chain[0].subject.clone_from(&v.subject);
        assert!(e.tell(&v, before));
    }
}
