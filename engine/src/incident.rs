//! Joins findings that belong together into incidents and says which finding is the root.
//!
//! An edge goes from finding a to finding b if a's rule `explains` b's rule and both touch the same place as the edge
//! demands. Findings of one rule about related subjects (a cgroup and its ancestor, two CPUs at once) belong together
//! too. The root is the finding that no other explains. Everything is ordered by data, never by hash or address, so
//! that a replay gives the same incidents.

use std::rc::Rc;

use whystall_event::{Stamp, Subject, SubjectKind, format_rfc3339, workload};

use crate::script::{Conclusion, Manifest, Severity, When};
use crate::verdict::{Actor, Confidence, Link, SCHEMA, State, Verdict, Workload};

/// Findings in all open incidents together, at most; further ones are counted only. Each new finding is held against all
/// of them, so this also bounds what a storm of findings costs a tick.
const MAX_MEMBERS: usize = 2_000;
/// Links of a chain and actors shown at most.
const MAX_SHOWN: usize = 32;

/// A finding as incidents see it.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) manifest: Rc<Manifest>,
    pub(crate) subject: Subject,
    pub(crate) started_ns: u64,
    pub(crate) conclusion: Conclusion,
    pub(crate) open: bool,
    pub(crate) withdrawn: bool,
    places: Vec<Subject>,
}

impl Member {
    pub(crate) fn new(
        manifest: Rc<Manifest>,
        subject: Subject,
        started_ns: u64,
        conclusion: Conclusion,
    ) -> Member {
        let places = places(&subject, &conclusion);
        Member { manifest, subject, started_ns, conclusion, open: true, withdrawn: false, places }
    }

    fn is(&self, rule: &str, subject: &Subject) -> bool {
        self.manifest.id == rule && self.subject == *subject
    }

    fn severity(&self) -> Severity {
        self.conclusion.severity.unwrap_or(self.manifest.severity)
    }

    fn touch(&self, other: &Member, when: When) -> bool {
        let pairs = |kind: SubjectKind, same: fn(&Subject, &Subject) -> bool| {
            self.places.iter().filter(|p| p.kind() == kind).any(|a| other.places.iter().any(|b| same(a, b)))
        };
        match when {
            When::Host => true,
            When::SameCpu => pairs(SubjectKind::Cpu, |a, b| a == b),
            When::SameTask => pairs(SubjectKind::Task, |a, b| a == b),
            // The root cgroup contains everything, so it relates nothing.
            When::SameCgroup => pairs(SubjectKind::Cgroup, |a, b| {
                let root = |s: &Subject| s.parent().is_none();
                b.kind() == SubjectKind::Cgroup && !root(a) && !root(b) && (a.contains(b) || b.contains(a))
            }),
        }
    }

    /// Whether this finding explains `other`.
    fn explains(&self, other: &Member) -> bool {
        self.manifest.explains.iter().any(|e| {
            e.rule == other.manifest.id
                && (e.causes.is_empty() || e.causes.contains(&other.conclusion.cause))
                && self.touch(other, e.when)
        })
    }

    /// Whether two findings of one rule are one event seen twice.
    fn same_event(&self, other: &Member) -> bool {
        self.manifest.id == other.manifest.id
            && match (&self.subject, &other.subject) {
                (Subject::Host, _) | (_, Subject::Host) => true,
                (Subject::Cpu(_), Subject::Cpu(_)) => true,
                (a, b) => {
                    // The root cgroup contains everything, so it relates nothing.
                    let related =
                        a.parent().is_some() && b.parent().is_some() && (a.contains(b) || b.contains(a));
                    related
                        || self.touch(other, When::SameCgroup)
                        || self.touch(other, When::SameTask)
                        || self.touch(other, When::SameCpu)
                }
            }
    }

    fn related(&self, other: &Member) -> bool {
        self.explains(other) || other.explains(self) || self.same_event(other)
    }
}

/// The subjects a finding happens at: its own and those its conclusion names.
fn places(subject: &Subject, conclusion: &Conclusion) -> Vec<Subject> {
    let mut out = vec![subject.clone()];
    out.extend(conclusion.touches.iter().filter_map(|t| t.parse().ok()));
    for a in conclusion.culprits.iter().chain(&conclusion.victims) {
        out.extend(a.pid.map(Subject::Task));
        out.extend(a.cgroup.as_deref().filter(|c| c.starts_with('/')).map(Subject::cgroup));
    }
    out.sort();
    out.dedup();
    out
}

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
    id: String,
    seq: u32,
    opened: Stamp,
    members: Vec<Member>,
    /// What the newest verdict said; only a change of it is worth an update.
    told: Option<Telling>,
    changed: bool,
}

/// All open incidents.
#[derive(Debug, Default)]
pub(crate) struct Incidents {
    open: Vec<Incident>,
    /// Findings that found no room.
    pub(crate) overflow: u64,
}

impl Incidents {
    /// A finding fires now.
    pub(crate) fn fired(&mut self, member: Member, now: Stamp, host: &str) -> Vec<Verdict> {
        let mut out = Vec::new();
        if self.open.iter().map(|i| i.members.len()).sum::<usize>() >= MAX_MEMBERS {
            self.overflow += 1;
            return out;
        }
        let joins: Vec<usize> = (0..self.open.len())
            .filter(|i| self.open[*i].members.iter().any(|m| m.open && m.related(&member)))
            .collect();
        let Some((&first, others)) = joins.split_first() else {
            let id = incident_id(host, &member, now);
            let opened = Stamp { boot_ns: member.started_ns, wall_ns: now.wall_at(member.started_ns) };
            self.open.push(Incident { id, seq: 0, opened, members: vec![member], told: None, changed: true });
            return out;
        };
        // A finding that links several incidents shows that they were one: the oldest goes on.
        for &i in others.iter().rev() {
            let mut merged = self.open.remove(i);
            if merged.seq > 0 {
                let note = format!("merged into incident {}", self.open[first].id);
                out.push(merged.tell(State::Withdrawn, now, host, Some(note)));
            }
            self.open[first].members.append(&mut merged.members);
        }
        let incident = &mut self.open[first];
        incident.members.retain(|m| !m.is(&member.manifest.id, &member.subject));
        incident.members.push(member);
        incident.changed = true;
        out
    }

    /// A finding that fires has a new conclusion.
    pub(crate) fn concluded(&mut self, rule: &str, subject: &Subject, conclusion: Conclusion) {
        if let Some((i, m)) = self.find(rule, subject) {
            let m = &mut self.open[i].members[m];
            m.places = places(&m.subject, &conclusion);
            m.conclusion = conclusion;
            self.open[i].changed = true;
        }
    }

    /// A finding is over, or its rule is gone (`withdrawn`).
    pub(crate) fn ended(&mut self, rule: &str, subject: &Subject, withdrawn: bool) {
        if let Some((i, m)) = self.find(rule, subject) {
            self.open[i].members[m].open = false;
            self.open[i].members[m].withdrawn = withdrawn;
            self.open[i].changed = true;
        }
    }

    fn find(&self, rule: &str, subject: &Subject) -> Option<(usize, usize)> {
        self.open.iter().enumerate().find_map(|(i, inc)| {
            inc.members.iter().position(|m| m.open && m.is(rule, subject)).map(|m| (i, m))
        })
    }

    /// The verdicts that this tick's changes call for, in a stable order.
    pub(crate) fn settle(&mut self, now: Stamp, host: &str) -> Vec<Verdict> {
        let mut out = Vec::new();
        for inc in &mut self.open {
            if !std::mem::take(&mut inc.changed) {
                continue;
            }
            let Some((root, chain)) = inc.root_and_chain() else { continue };
            let over = inc.members.iter().all(|m| !m.open);
            let m = &inc.members[root];
            let telling = Telling {
                rule: m.manifest.id.clone(),
                subject: m.subject.clone(),
                cause: m.conclusion.cause.clone(),
                confidence: m.conclusion.confidence,
                severity: inc.members.iter().map(Member::severity).max(),
                links: chain.len(),
            };
            let state = match (&inc.told, over) {
                (None, true) => continue,
                (None, false) => State::Firing,
                (Some(_), true) if inc.members.iter().all(|m| m.withdrawn) => State::Withdrawn,
                (Some(_), true) => State::Resolved,
                (Some(told), false) if *told == telling => continue,
                (Some(_), false) => State::Updated,
            };
            inc.told = Some(telling);
            out.push(inc.tell(state, now, host, None));
        }
        self.open.retain(|inc| inc.members.iter().any(|m| m.open));
        out
    }

    pub(crate) fn len(&self) -> usize {
        self.open.len()
    }
}

impl Incident {
    /// Indices of the root and of the chain from it to the last symptom.
    fn root_and_chain(&self) -> Option<(usize, Vec<usize>)> {
        let ms = &self.members;
        // One explanation is enough to see how findings hang together; a flood of them is cut.
        let n = ms.len().min(256);
        let edges: Vec<Vec<usize>> =
            (0..n).map(|a| (0..n).filter(|&b| a != b && ms[a].explains(&ms[b])).collect()).collect();
        let explained: Vec<bool> = (0..n).map(|b| edges.iter().any(|e| e.contains(&b))).collect();
        let reach = |from: usize| {
            let mut seen = vec![false; n];
            let mut order = vec![from];
            seen[from] = true;
            let mut i = 0;
            while i < order.len() {
                for &b in &edges[order[i]] {
                    if !seen[b] {
                        seen[b] = true;
                        order.push(b);
                    }
                }
                i += 1;
            }
            order
        };
        // In a cycle everything is explained; then the earliest stands for the root.
        let all_explained = explained.iter().all(|e| *e);
        let root = (0..n).filter(|&i| all_explained || !explained[i]).min_by(|&a, &b| {
            let key = |i: usize| {
                let m = &ms[i];
                (
                    std::cmp::Reverse(reach(i).len().min(MAX_SHOWN)),
                    std::cmp::Reverse(m.severity()),
                    std::cmp::Reverse(m.conclusion.confidence),
                    m.started_ns,
                    m.manifest.id.clone(),
                    m.subject.clone(),
                )
            };
            key(a).cmp(&key(b))
        })?;
        let mut chain = reach(root);
        let mut rest: Vec<usize> = (0..n).filter(|i| !chain.contains(i)).collect();
        rest.sort_by_key(|&i| (ms[i].started_ns, ms[i].manifest.id.clone(), ms[i].subject.clone()));
        chain.extend(rest);
        Some((root, chain))
    }

    fn tell(&mut self, state: State, now: Stamp, host: &str, note: Option<String>) -> Verdict {
        self.seq += 1;
        let (root, chain) = self.root_and_chain().unwrap_or((0, vec![0]));
        let m = &self.members[root];
        let time = |boot| format_rfc3339(now.wall_at(boot));
        let updated_at = format_rfc3339(now.wall_ns);
        let over = matches!(state, State::Resolved | State::Withdrawn);
        let gather = |of: fn(&Conclusion) -> &Vec<Actor>| {
            let mut out: Vec<Actor> = Vec::new();
            for a in chain.iter().flat_map(|i| of(&self.members[*i].conclusion)) {
                let same = |b: &Actor| {
                    (&a.kind, a.pid, &a.comm, &a.cgroup, &a.name)
                        == (&b.kind, b.pid, &b.comm, &b.cgroup, &b.name)
                };
                if out.len() < MAX_SHOWN && !out.iter().any(same) {
                    let mut a = a.clone();
                    a.workload = a.cgroup.as_deref().and_then(workload_of);
                    out.push(a);
                }
            }
            out
        };
        let mut hints = m.conclusion.hints.clone();
        let page = format!("rules/{}", m.manifest.id.replace('.', "/"));
        for h in &mut hints {
            h.docs.get_or_insert_with(|| page.clone());
        }
        Verdict {
            schema: SCHEMA.to_string(),
            incident: self.id.clone(),
            seq: self.seq,
            state,
            rule: m.manifest.id.clone(),
            cause: m.conclusion.cause.clone(),
            severity: self.members.iter().map(Member::severity).max().unwrap_or(Severity::Info),
            confidence: m.conclusion.confidence,
            subject: m.subject.to_string(),
            workload: match &m.subject {
                Subject::Cgroup(p) => workload_of(p),
                _ => None,
            },
            summary: note.unwrap_or_else(|| m.conclusion.summary.clone()),
            started_at: time(self.opened.boot_ns),
            resolved_at: over.then(|| updated_at.clone()),
            updated_at,
            chain: chain
                .iter()
                .take(MAX_SHOWN)
                .map(|i| &self.members[*i])
                .map(|m| Link {
                    rule: m.manifest.id.clone(),
                    cause: m.conclusion.cause.clone(),
                    subject: m.subject.to_string(),
                    summary: m.conclusion.summary.clone(),
                    started_at: time(m.started_ns),
                })
                .collect(),
            victims: gather(|c| &c.victims),
            culprits: gather(|c| &c.culprits),
            evidence: m.conclusion.evidence.clone(),
            ruled_out: m.conclusion.ruled_out.clone(),
            hints,
            host: host.to_string(),
        }
    }
}

fn workload_of(path: &str) -> Option<Workload> {
    let o = workload::owner(path);
    let w = Workload { namespace: None, pod: o.pod_uid, container: o.container_id, unit: o.unit };
    (w != Workload::default()).then_some(w)
}

/// A ULID whose random part is a hash of what the incident is, so that a replay gives the same.
fn incident_id(host: &str, m: &Member, now: Stamp) -> String {
    let ms = now.wall_at(m.started_ns) / 1_000_000;
    // FNV-1a: stable across versions and machines, which the standard hasher does not promise.
    let mut h: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    for b in format!("{host}\0{}\0{}\0{}", m.manifest.id, m.subject, m.started_ns).bytes() {
        h = (h ^ u128::from(b)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
    }
    let bits = u128::from(ms & ((1 << 48) - 1)) << 80 | (h >> 48);
    const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    (0..26).map(|i| ALPHABET[(bits >> (125 - 5 * i) & 31) as usize] as char).collect()
}
