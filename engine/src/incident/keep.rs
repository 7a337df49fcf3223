//! Incidents across a restart.

use std::rc::Rc;

use whystall_event::{Stamp, Subject};

use super::{Incident, Incidents, Member, chain};
use crate::script::Manifest;
use crate::snapshot::{KeptIncident, KeptMember, Snapshot};

impl Incidents {
    /// Incidents that were told.
    pub(crate) fn keep(&self) -> Vec<KeptIncident> {
        let told = self.open.iter().filter(|i| i.told.is_some());
        told.map(|i| KeptIncident {
            id: i.id.clone(),
            seq: i.seq,
            opened_ns: i.opened_ns,
            members: i.members.iter().map(kept).collect(),
        })
        .collect()
    }

    /// What tells one state of the incidents from another: id, number of verdicts and findings.
    pub(crate) fn marks(&self) -> impl Iterator<Item = (&str, u32, usize)> {
        self.open.iter().map(|i| (i.id.as_str(), i.seq, i.members.len()))
    }

    /// Takes incidents over whose rules are still there. `lasts` says whether a finding was taken over; what was not
    /// ends as withdrawn. Returns their ids.
    pub(crate) fn restore(
        &mut self,
        from: &Snapshot,
        now: Stamp,
        manifest: impl Fn(&str) -> Option<Rc<Manifest>>,
        lasts: impl Fn(&str, &Subject) -> bool,
    ) -> Vec<String> {
        let mut ids = Vec::new();
        for k in &from.incidents {
            let mut members = Vec::new();
            for m in &k.members {
                let Some(manifest) = manifest(&m.rule) else { continue };
                let started = from.moved(m.started_ns, now);
                let mut member =
                    Member::new(manifest, m.subject.clone(), started, m.conclusion.clone(), None);
                member.withdrawn = m.withdrawn;
                member.ended_ns = m.ended_ns.map(|at| from.moved(at, now));
                if member.is_open() && !lasts(&m.rule, &m.subject) {
                    (member.ended_ns, member.withdrawn) = (Some(now.boot_ns), true);
                }
                members.push(member);
            }
            let Some(order) = chain(&members) else { continue };
            let mut inc = Incident {
                id: k.id.clone(),
                seq: k.seq,
                opened_ns: from.moved(k.opened_ns, now),
                members,
                told: None,
                // What ended with the restart is told with the next tick.
                changed: true,
            };
            inc.told = Some(inc.telling(&order));
            ids.push(inc.id.clone());
            self.open.push(inc);
        }
        ids
    }
}

fn kept(m: &Member) -> KeptMember {
    KeptMember {
        rule: m.manifest.id.clone(),
        subject: m.subject.clone(),
        started_ns: m.started_ns,
        ended_ns: m.ended_ns,
        conclusion: m.conclusion.clone(),
        withdrawn: m.withdrawn,
    }
}
