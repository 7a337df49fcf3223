//! What becomes of a pass over the rules: findings that fire, that are concluded anew, that are kept silent, that end.

use std::rc::Rc;

use whystall_event::{Stamp, Subject};

use super::{Engine, cpus, sources};
use crate::conclude::Asked;
use crate::except::{Candidate, Except};
use crate::finding::Phase;
use crate::incident::Member;
use crate::script::Conclusion;
use crate::verdict::Explained;

/// A finding that is kept silent by an exception is asked about again after this time.
const EXCEPT_AGAIN_NS: u64 = 10_000_000_000;
/// Findings that are concluded again in a tick because something fired that they may explain.
const MAX_EXPLAINERS: usize = 32;

/// What one pass over a rule asks of the incidents.
pub(super) enum Change {
    Fired(Member),
    Concluded(Subject, Conclusion, Explanation),
    Stale(Subject, bool),
    Ended(Subject, Explanation),
}

type Explanation = Option<Rc<Explained>>;

impl Engine {
    /// Findings that were kept silent and are no more.
    pub(super) fn excepted_again(&mut self) -> Vec<Member> {
        if self.excepted.is_empty() || self.now.boot_ns < self.excepted_ns.saturating_add(EXCEPT_AGAIN_NS) {
            return Vec::new();
        }
        self.excepted_ns = self.now.boot_ns;
        let (except, now) = (&mut self.except, self.now);
        self.excepted.extract_if(.., |_, m| !silent(except, m, true, now)).map(|(_, m)| m).collect()
    }

    pub(super) fn apply(&mut self, i: usize, changes: Vec<Change>, fired: &mut Vec<Member>) {
        let id = self.rules[i].rule.manifest.id.clone();
        let now = self.now;
        for change in changes {
            match change {
                Change::Fired(member) if silent(&mut self.except, &member, false, now) => {
                    self.excepted.insert((id.clone(), member.subject.clone()), member);
                }
                Change::Fired(member) => fired.push(member),
                Change::Concluded(subject, c, explained) => {
                    let key = (id.clone(), subject);
                    match self.excepted.remove(&key) {
                        Some(mut member) => {
                            member.conclude(c, explained);
                            if silent(&mut self.except, &member, true, now) {
                                self.excepted.insert(key, member);
                            } else {
                                fired.push(member);
                            }
                        }
                        None => self.incidents.concluded(&id, &key.1, c, explained),
                    }
                }
                Change::Stale(subject, stale) => self.incidents.stale(&id, &subject, stale),
                Change::Ended(subject, explained) => {
                    if self.excepted.remove(&(id.clone(), subject.clone())).is_none() {
                        self.incidents.ended(&id, &subject, now.boot_ns, false, explained);
                    }
                }
            }
        }
    }

    /// What may explain something that fires now has to take it into account: its figures may have moved since it was
    /// concluded, and whether it rules the new finding's cause out decides whether they belong together.
    pub(super) fn conclude_explainers(&mut self, fired: &[Member]) {
        let mut names: Vec<&str> = fired.iter().map(|m| m.manifest.id.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        if names.is_empty() {
            return;
        }
        for (rule, subject) in self.incidents.explainers(&names).into_iter().take(MAX_EXPLAINERS) {
            let found = self
                .rules
                .iter()
                .position(|a| a.rule.manifest.id == rule && a.suspended_until <= self.now.boot_ns);
            let Some(active) = found.map(|i| &mut self.rules[i]) else { continue };
            let Some(inst) = active.instances.iter_mut().find(|i| i.findings.contains_key(&subject)) else {
                continue;
            };
            let held = self.data.borrow();
            let table = held.windows.table(inst.kind);
            let cpus = cpus(&held.windows, &active.rule, inst);
            let sources = sources(&held.windows, &active.rule, inst, &cpus);
            let (Some(f), Some(row)) = (inst.findings.get_mut(&subject), table.row(&subject)) else {
                continue;
            };
            // Figures of the way out would explain nothing.
            if f.phase != Phase::Firing || f.concluded_ns == self.now.boot_ns {
                continue;
            }
            let asked = Asked {
                rule: &active.rule,
                sandbox: &self.sandbox,
                sources: &sources,
                ids: &inst.ids,
                data: &self.data,
                enter: inst.enter.as_ref(),
                leave: &inst.leave,
                now: self.now,
            };
            // A failure is told when the finding is concluded in its turn.
            let Ok(c) = asked.conclude(&subject, row) else { continue };
            f.conclusion = Some(c.clone());
            let explained = asked.explain(&subject, row);
            self.incidents.concluded(&rule, &subject, c, Some(explained));
        }
    }
}

fn silent(except: &mut Option<Box<dyn Except>>, m: &Member, again: bool, at: Stamp) -> bool {
    let finding = Candidate { rule: &m.manifest.id, subject: &m.subject, conclusion: &m.conclusion, again };
    except.as_mut().is_some_and(|e| e.excepts(&finding, at))
}
