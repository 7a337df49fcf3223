//! Joins findings that belong together into incidents and says which finding is the root.
//!
//! Everything is ordered by data, never by hash, address or the order of rules, so that a replay gives the same
//! incidents. What was joined stays together: a finding that turns out to be deeper becomes the root of the incident
//! that is already told, and a finding that links two incidents makes them one.

mod chain;
mod id;
mod keep;
mod member;
mod tell;
#[cfg(test)]
mod tests;

use std::rc::Rc;

use whystall_event::{Stamp, Subject, SubjectKind};

use crate::script::{Conclusion, Severity};
use crate::verdict::{Confidence, Explained, State, Verdict};
use chain::{Chain, chain};
use id::incident_id;
pub(crate) use member::Member;
use member::TOLERANCE_NS;

/// Open findings in all incidents together, at most; further ones are counted only. Each new finding is held against all
/// of them, so this also bounds what a storm of findings costs a tick. The host's own have room beyond it: there is at
/// most one a rule, and none must be lost to a storm of others.
pub(crate) const MAX_MEMBERS: usize = 2_000;
/// Findings that are over and that an open incident still remembers.
const MAX_ENDED: usize = 128;

/// What a verdict says, without its figures.
#[derive(Debug, PartialEq)]
struct Telling {
    rule: String,
    subject: Subject,
    cause: String,
    confidence: Confidence,
    severity: Option<Severity>,
    links: usize,
}

#[derive(Debug)]
struct Incident {
    /// Empty until it is told.
    id: String,
    seq: u32,
    /// The start of its earliest finding.
    opened_ns: u64,
    members: Vec<Member>,
    /// What the newest verdict said; only a change of it is worth an update.
    told: Option<Telling>,
    changed: bool,
}

/// All open incidents.
#[derive(Debug, Default)]
pub(crate) struct Incidents {
    open: Vec<Incident>,
    /// Findings that are new or have a new conclusion, by rule and subject: what they belong to is still to be seen.
    moved: Vec<(String, Subject)>,
    /// Findings that found no room.
    pub(crate) overflow: u64,
}

impl Incidents {
    /// Findings that begin to fire in this tick, in any order.
    pub(crate) fn fired(&mut self, mut members: Vec<Member>) {
        members.sort_by(|a, b| a.order().cmp(&b.order()));
        let open = self.open.iter().flat_map(|i| &i.members);
        let mut room = MAX_MEMBERS
            .saturating_sub(open.filter(|m| m.is_open() && m.subject.kind() != SubjectKind::Host).count());
        for m in members {
            if m.subject.kind() != SubjectKind::Host {
                if room == 0 {
                    self.overflow += 1;
                    continue;
                }
                room -= 1;
            }
            self.add(m);
        }
    }

    fn add(&mut self, member: Member) {
        if let Some((i, m)) = self.find(&member.manifest.id, &member.subject) {
            self.open[i].members[m] = member;
            self.open[i].changed = true;
            return;
        }
        self.moved.push((member.manifest.id.clone(), member.subject.clone()));
        self.open.push(Incident {
            id: String::new(),
            seq: 0,
            opened_ns: member.started_ns,
            members: vec![member],
            told: None,
            changed: true,
        });
    }

    /// Joins the incident `at` with all that its finding `m` is related to. Verdicts go to those that told something
    /// and end by it.
    fn join(&mut self, at: usize, m: usize, now: Stamp, host: &str, out: &mut Vec<Verdict>) {
        let member = &self.open[at].members[m];
        let mut all: Vec<usize> = (0..self.open.len())
            .filter(|&i| i == at || self.open[i].members.iter().any(|m| m.related(member)))
            .collect();
        if all.len() == 1 {
            return;
        }
        // The one that was told first goes on, so that as few as possible end.
        let age = |i: &usize| {
            let inc = &self.open[*i];
            (inc.told.is_none(), inc.opened_ns, inc.members.iter().map(Member::order).min())
        };
        let Some(stays) = all.iter().copied().min_by(|a, b| age(a).cmp(&age(b))) else { return };
        all.retain(|i| *i != stays);
        let id = self.open[stays].id.clone();
        let mut came = Vec::new();
        for &i in &all {
            let inc = &mut self.open[i];
            if inc.told.is_some()
                && let Some(chain) = chain(&inc.members)
            {
                out.push(inc.tell(&chain, State::Withdrawn, now, host, Some(&id)));
            }
            came.append(&mut inc.members);
        }
        let inc = &mut self.open[stays];
        for m in came {
            // What is over and fires again is one finding.
            inc.members.retain(|old| old.is_open() || !old.is(&m.manifest.id, &m.subject));
            inc.opened_ns = inc.opened_ns.min(m.started_ns);
            inc.members.push(m);
        }
        inc.changed = true;
        self.open.retain(|i| !i.members.is_empty());
    }

    /// A finding that fires has a new conclusion.
    pub(crate) fn concluded(
        &mut self,
        rule: &str,
        subject: &Subject,
        conclusion: Conclusion,
        explained: Option<Rc<Explained>>,
    ) {
        if let Some((i, m)) = self.find(rule, subject) {
            self.open[i].members[m].conclude(conclusion, explained);
            self.open[i].changed = true;
            self.moved.push((rule.to_string(), subject.clone()));
        }
    }

    /// Whether a finding's windows are unknown now.
    pub(crate) fn stale(&mut self, rule: &str, subject: &Subject, stale: bool) {
        if let Some((i, m)) = self.find(rule, subject) {
            self.open[i].members[m].stale = stale;
        }
    }

    /// A finding is over, or its rule is gone (`withdrawn`).
    pub(crate) fn ended(
        &mut self,
        rule: &str,
        subject: &Subject,
        now_ns: u64,
        withdrawn: bool,
        explained: Option<Rc<Explained>>,
    ) {
        if let Some((i, m)) = self.find(rule, subject) {
            let member = &mut self.open[i].members[m];
            member.ended_ns = Some(now_ns);
            member.withdrawn = withdrawn;
            if explained.is_some() {
                member.explained = explained;
            }
            self.open[i].changed = true;
        }
    }

    fn find(&self, rule: &str, subject: &Subject) -> Option<(usize, usize)> {
        self.open.iter().enumerate().find_map(|(i, inc)| {
            inc.members.iter().position(|m| m.is_open() && m.is(rule, subject)).map(|m| (i, m))
        })
    }

    /// Open findings of rules that say they explain one of `rules`.
    pub(crate) fn explainers(&self, rules: &[&str]) -> Vec<(String, Subject)> {
        let explains = |m: &Member| m.manifest.explains.iter().any(|e| rules.contains(&e.rule.as_str()));
        let members = self.open.iter().flat_map(|i| &i.members).filter(|m| m.is_open() && explains(m));
        let mut found: Vec<_> = members.map(|m| (m.manifest.id.clone(), m.subject.clone())).collect();
        found.sort();
        found
    }

    /// The verdicts that this tick's changes call for, in a stable order.
    pub(crate) fn settle(&mut self, now: Stamp, host: &str) -> Vec<Verdict> {
        let mut out = Vec::new();
        let mut moved = std::mem::take(&mut self.moved);
        moved.sort();
        moved.dedup();
        for (rule, subject) in moved {
            if let Some((i, m)) = self.find(&rule, &subject) {
                self.join(i, m, now, host, &mut out);
            }
        }
        self.open.sort_by(|a, b| age(a).cmp(&age(b)));
        for inc in &mut self.open {
            out.extend(inc.settle(now, host));
        }
        self.open.retain(|inc| !inc.members.is_empty());
        out
    }

    pub(crate) fn len(&self) -> usize {
        self.open.len()
    }
}

fn age(inc: &Incident) -> (u64, Option<(u64, &str, &Subject)>) {
    (inc.opened_ns, inc.members.iter().map(Member::order).min())
}

impl Incident {
    /// One that has ended loses its findings.
    fn settle(&mut self, now: Stamp, host: &str) -> Option<Verdict> {
        let over = self.members.iter().all(|m| !m.is_open());
        let withdrawn = over && self.members.iter().all(|m| m.withdrawn);
        let last = self.members.iter().filter_map(|m| m.ended_ns).max().unwrap_or(0);
        let joinable = now.boot_ns <= last.saturating_add(TOLERANCE_NS);
        if over && self.told.is_some() && joinable && !withdrawn {
            // A cause that is found late, or a late symptom, can still join.
            return None;
        }
        if !over && !self.changed {
            return None;
        }
        self.changed = false;
        let chain = chain(&self.members)?;
        let telling = self.telling(&chain);
        let state = match (&self.told, over) {
            (None, true) => {
                self.members.clear();
                return None;
            }
            (None, false) => State::Firing,
            (Some(_), true) if withdrawn => State::Withdrawn,
            (Some(_), true) => State::Resolved,
            (Some(told), false) if *told == telling => {
                self.forget(&chain);
                return None;
            }
            (Some(_), false) => State::Updated,
        };
        if self.id.is_empty()
            && let Some(first) = self.members.iter().min_by(|a, b| a.order().cmp(&b.order()))
        {
            self.id = incident_id(host, first, now);
        }
        self.told = Some(telling);
        let verdict = self.tell(&chain, state, now, host, None);
        if over {
            self.members.clear()
        } else {
            self.forget(&chain)
        }
        Some(verdict)
    }

    fn telling(&self, chain: &Chain) -> Telling {
        let m = &self.members[chain.root];
        let left = tell::ruled_out(&self.members, chain);
        Telling {
            rule: m.manifest.id.clone(),
            subject: m.subject.clone(),
            cause: m.conclusion.cause.clone(),
            confidence: m.confidence(tell::root_ruled_out(&self.members, chain, &left)),
            severity: self.members.iter().map(Member::severity).max(),
            // More are not shown.
            links: chain.order.len().min(tell::MAX_SHOWN),
        }
    }

    /// Lets the oldest go of those that are over, but for the root: an incident may last for days.
    fn forget(&mut self, chain: &Chain) {
        let mut ended: Vec<(u64, usize)> = (0..self.members.len())
            .filter(|i| *i != chain.root)
            .filter_map(|i| self.members[i].ended_ns.map(|at| (at, i)))
            .collect();
        if ended.len() <= MAX_ENDED {
            return;
        }
        ended.sort_unstable();
        let mut gone: Vec<usize> = ended[..ended.len() - MAX_ENDED].iter().map(|(_, i)| *i).collect();
        gone.sort_unstable_by(|a, b| b.cmp(a));
        for i in gone {
            self.members.remove(i);
        }
    }
}
