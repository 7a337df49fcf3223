//! An incident's verdict, from its findings.

use whystall_event::{Stamp, Subject, format_rfc3339, workload};

use super::Incident;
use super::chain::Chain;
use super::member::Member;
use crate::script::{Conclusion, Severity};
use crate::verdict::{Actor, Explained, Link, RuledOut, SCHEMA, State, Verdict, Workload};

/// Links of a chain and actors shown at most.
pub(super) const MAX_SHOWN: usize = 32;
/// Findings whose conditions are shown term by term.
const MAX_EXPLAINED: usize = 8;

/// What was ruled out: by the root first, then by the others; nothing that one of them concludes.
pub(super) fn ruled_out(members: &[Member], chain: &Chain) -> Vec<RuledOut> {
    let mut out: Vec<RuledOut> = Vec::new();
    let shown = || chain.order.iter().take(MAX_SHOWN).map(|i| &members[*i]);
    for r in shown().flat_map(|m| &m.conclusion.ruled_out) {
        let concluded = shown().any(|m| m.conclusion.cause == r.cause);
        if out.len() < MAX_SHOWN && !concluded && !out.iter().any(|o| o.cause == r.cause) {
            out.push(r.clone());
        }
    }
    out
}

/// Whether something that the root itself ruled out stands.
pub(super) fn root_ruled_out(members: &[Member], chain: &Chain, left: &[RuledOut]) -> bool {
    members[chain.root].conclusion.ruled_out.iter().any(|r| left.iter().any(|l| l.cause == r.cause))
}

impl Incident {
    /// `merged` is the incident that goes on with this one's findings.
    pub(super) fn tell(
        &mut self,
        chain: &Chain,
        state: State,
        now: Stamp,
        host: &str,
        merged: Option<&str>,
    ) -> Verdict {
        self.seq += 1;
        let members = &self.members;
        let m = &members[chain.root];
        let time = |boot| format_rfc3339(now.wall_at(boot));
        let over = matches!(state, State::Resolved | State::Withdrawn);
        let end = members.iter().filter_map(|m| m.ended_ns).max().filter(|_| merged.is_none());
        let shown = || chain.order.iter().take(MAX_SHOWN).map(|i| &members[*i]);
        let actors = |of: fn(&Conclusion) -> &Vec<Actor>| gather(shown().flat_map(|m| of(&m.conclusion)));
        let mut hints = m.conclusion.hints.clone();
        let page = format!("rules/{}", m.manifest.id.replace('.', "/"));
        for h in &mut hints {
            h.docs.get_or_insert_with(|| page.clone());
        }
        let ruled_out = ruled_out(members, chain);
        Verdict {
            schema: SCHEMA.to_string(),
            incident: self.id.clone(),
            seq: self.seq,
            state,
            rule: m.manifest.id.clone(),
            cause: m.conclusion.cause.clone(),
            severity: members.iter().map(Member::severity).max().unwrap_or(Severity::Info),
            confidence: m.confidence(root_ruled_out(members, chain, &ruled_out)),
            subject: m.subject.to_string(),
            workload: match &m.subject {
                Subject::Cgroup(p) => workload_of(p),
                _ => None,
            },
            summary: match merged {
                Some(other) => format!("merged into incident {other}"),
                None => m.conclusion.summary.clone(),
            },
            started_at: time(self.opened_ns),
            updated_at: format_rfc3339(now.wall_ns),
            resolved_at: over.then(|| end.map_or_else(|| format_rfc3339(now.wall_ns), time)),
            chain: shown()
                .map(|m| Link {
                    rule: m.manifest.id.clone(),
                    cause: m.conclusion.cause.clone(),
                    subject: m.subject.to_string(),
                    summary: m.conclusion.summary.clone(),
                    started_at: time(m.started_ns),
                })
                .collect(),
            victims: actors(|c| &c.victims),
            culprits: actors(|c| &c.culprits),
            evidence: m.conclusion.evidence.clone(),
            ruled_out,
            hints,
            host: host.to_string(),
            findings: members.len() as u64,
            merged_into: merged.map(str::to_string),
            explained: shown()
                .filter_map(|m| Some(Explained { stale: m.stale, ..m.explained.as_deref()?.clone() }))
                .take(MAX_EXPLAINED)
                .collect(),
        }
    }
}

/// The actors of several conclusions, each once.
fn gather<'a>(actors: impl Iterator<Item = &'a Actor>) -> Vec<Actor> {
    let mut out: Vec<Actor> = Vec::new();
    for a in actors {
        let same = |b: &Actor| {
            (&a.kind, a.pid, &a.comm, &a.cgroup, &a.name) == (&b.kind, b.pid, &b.comm, &b.cgroup, &b.name)
        };
        if out.len() < MAX_SHOWN && !out.iter().any(same) {
            let workload = a.cgroup.as_deref().and_then(workload_of);
            out.push(Actor { workload, ..a.clone() });
        }
    }
    out
}

fn workload_of(path: &str) -> Option<Workload> {
    let o = workload::owner(path);
    let w = Workload { namespace: None, pod: o.pod_uid, container: o.container_id, unit: o.unit };
    (w != Workload::default()).then_some(w)
}
