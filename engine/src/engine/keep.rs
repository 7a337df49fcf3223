//! An engine's state across a restart: see [`Snapshot`].

use std::collections::HashSet;
use std::hash::{BuildHasher, Hash, Hasher};

use whystall_event::{Stamp, Subject};

use super::Engine;
use crate::finding::{Finding, Phase};
use crate::snapshot::{KeptFinding, Snapshot};

/// Findings that are handed on at most.
const MAX_KEPT: usize = 2_000;

impl Engine {
    /// Open findings and incidents, to go on with after a restart.
    pub fn snapshot(&self, now: Stamp) -> Snapshot {
        let mut findings = Vec::new();
        for a in &self.rules {
            for f in a.instances.iter().flat_map(|i| i.findings.values()) {
                if findings.len() >= MAX_KEPT {
                    break;
                }
                let (held_ns, ticks) = f.held(now.boot_ns);
                findings.push(KeptFinding {
                    rule: a.rule.manifest.id.clone(),
                    subject: f.subject.clone(),
                    phase: f.phase,
                    started_ns: f.started_ns,
                    held_ns,
                    ticks,
                    conclusion: f.conclusion.clone(),
                    conclusions: f.conclusions,
                });
            }
        }
        let incidents = self.incidents.keep();
        Snapshot { boot_ns: now.boot_ns, wall_ns: now.wall_ns, findings, incidents }
    }

    /// How many findings are open, and a number that changes when a snapshot would say something else, apart from how
    /// long phases last.
    pub fn state_mark(&self) -> (usize, u64) {
        let mut h = foldhash::fast::FixedState::with_seed(0).build_hasher();
        let mut n = 0;
        for a in &self.rules {
            for f in a.instances.iter().flat_map(|i| i.findings.values()) {
                n += 1;
                (&a.rule.manifest.id, &f.subject, f.phase as u8).hash(&mut h);
            }
        }
        self.incidents.marks().for_each(|m| m.hash(&mut h));
        (n, h.finish())
    }

    /// Goes on where an earlier engine was. To be called once, after [`Engine::load`] and before the first tick. The time
    /// between both does not count as holding or clearing. Returns the ids of incidents that go on.
    pub fn restore(&mut self, from: &Snapshot, now: Stamp) -> Vec<String> {
        let told: HashSet<(&str, &Subject)> = from
            .incidents
            .iter()
            .flat_map(|i| i.members.iter().filter(|m| m.ended_ns.is_none()))
            .map(|m| (m.rule.as_str(), &m.subject))
            .collect();
        let mut taken: HashSet<(&str, &Subject)> = HashSet::new();
        for k in from.findings.iter().take(MAX_KEPT) {
            let Some(active) = self.rules.iter_mut().find(|a| a.rule.manifest.id == k.rule) else { continue };
            let policy = active.rule.policy();
            let Some(inst) = active.instances.iter_mut().find(|i| i.kind == k.subject.kind()) else {
                continue;
            };
            let mut f = Finding::begin(k.subject.clone(), from.moved(k.started_ns, now));
            f.conclusion.clone_from(&k.conclusion);
            f.conclusions = k.conclusions;
            f.concluded_ns = now.boot_ns;
            let key = (k.rule.as_str(), &k.subject);
            // One that fires without an incident (it was kept silent, or found no room) fires again.
            let again = k.phase != Phase::Pending && !told.contains(&key);
            let (phase, held) = if again {
                (Phase::Pending, (policy.fire_hold_ns, u64::MAX))
            } else {
                (k.phase, (k.held_ns, k.ticks))
            };
            inst.findings.insert(k.subject.clone(), f.resume(phase, held, now.boot_ns));
            taken.insert(key);
        }
        let rules = &self.rules;
        let manifest =
            |id: &str| rules.iter().find(|a| a.rule.manifest.id == id).map(|a| a.rule.manifest.clone());
        self.incidents.restore(from, now, manifest, |rule, subject| taken.contains(&(rule, subject)))
    }
}
