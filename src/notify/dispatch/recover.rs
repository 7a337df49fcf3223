//! A daemon begins with what an earlier one left, takes a changed config in, and heeds commands.

use std::sync::Arc;

use whystall_engine::verdict::{State, Verdict};
use whystall_event::parse_rfc3339;

use super::timers::Timer;
use super::{Dispatch, Effects, Incident, Labels, Lane, Pending, Policy, Thread};
use crate::store::{Op, Recovered, Row, RowKind, RowUpdate};

impl Dispatch {
    /// Takes in what an earlier daemon left. Rows of receivers that are no longer configured are given up.
    pub fn recover(&mut self, from: Recovered, now_ns: u64) -> Effects {
        self.clock(now_ns);
        self.next_row = self.next_row.max(from.last_row + 1);
        for v in &from.incidents {
            self.know(v);
        }
        for t in from.threads {
            let lane = self.lane(&t.receiver);
            match (lane, self.incidents.get_key_value(t.incident.as_str())) {
                (Some(lane), Some((id, _))) => {
                    let repeat_ns = self.repeat_of(id, lane);
                    let thread =
                        Thread { opened: t.opened, told_ns: t.told_ns, repeat_ns, ..Thread::default() };
                    let at = t.told_ns.saturating_add(repeat_ns);
                    self.timers.insert((at, Timer::Repeat(id.clone(), lane)));
                    self.threads.insert((id.clone(), lane), thread);
                }
                _ => self.out.ops.push(Op::EndThread { incident: t.incident, receiver: t.receiver }),
            }
        }
        for row in from.rows {
            self.adopt(row);
        }
        let threads: Vec<_> = self.threads.keys().cloned().collect();
        for (incident, lane) in threads {
            self.tidy(&incident, lane);
        }
        let incidents: Vec<Arc<str>> = self.incidents.keys().cloned().collect();
        for id in incidents {
            self.arm_escalations(&id);
        }
        self.pump();
        std::mem::take(&mut self.out)
    }

    /// When a receiver was last told that whystall is alive, and what it was not told, as kept under `heartbeat/NAME`
    /// and `digest/NAME`.
    pub fn recall(&mut self, lane: usize, heartbeat: Option<&str>, digest: Option<&str>) {
        if let Some(last) = heartbeat.and_then(|h| h.parse().ok()) {
            self.arm_heartbeat(lane, last);
        }
        if let Some(d) = digest.and_then(|d| serde_json::from_str(d).ok()) {
            self.lanes[lane].digest = d;
            self.note_digest(lane);
        }
    }

    fn know(&mut self, v: &Verdict) {
        let labels = Labels::of(v, &self.policy.tags);
        let incident = Incident {
            silenced: self.is_silenced_now(&labels),
            labels,
            severity: v.severity.name(),
            seq: v.seq,
            state: v.state,
            opened_ns: parse_rfc3339(&v.started_at).unwrap_or(self.now_ns),
        };
        self.incidents.insert(v.incident.as_str().into(), incident);
    }

    fn is_silenced_now(&self, labels: &Labels) -> bool {
        self.silences.iter().any(|s| {
            let glob = |p: &String| crate::config::Glob::new(p.as_str());
            s.until_ns > self.now_ns && s.matchers.iter().all(|(l, p)| labels.has(l, &glob(p)))
        })
    }

    fn lane(&self, name: &str) -> Option<usize> {
        self.lanes.iter().position(|l| l.policy.name == name)
    }

    fn repeat_of(&self, id: &Arc<str>, lane: usize) -> u64 {
        let Some(inc) = self.incidents.get(id) else { return 0 };
        let mut routes = self.policy.routes.iter();
        let own = |r: &&super::RoutePolicy| r.receivers.contains(&lane) && inc.labels.fit(&r.matches);
        routes.find(own).map_or(4 * 3600 * whystall_event::SEC, |r| r.repeat_ns)
    }

    /// Takes a pending row of the store in, unless it is known.
    fn adopt(&mut self, row: Row) {
        if self.rows.contains_key(&row.id) {
            return;
        }
        let incident = match &row.incident {
            None => None,
            Some(i) => self.incidents.get_key_value(i.as_str()).map(|(id, _)| id.clone()),
        };
        let lane = self.lane(&row.receiver);
        let (Some(lane), true) = (lane, incident.is_some() == row.incident.is_some()) else {
            let why =
                if lane.is_none() { "its receiver is no longer configured" } else { "its incident is gone" };
            self.out.ops.push(Op::Update(Box::new(RowUpdate {
                id: row.id,
                failed: true,
                attempts: row.attempts,
                due_ns: row.due_ns,
                why: why.to_string(),
                progress: None,
            })));
            return;
        };
        if let Some(id) = &incident {
            let key = (id.clone(), lane);
            if !self.threads.contains_key(&key) {
                let repeat_ns = self.repeat_of(id, lane);
                self.threads.insert(key, Thread { repeat_ns, ..Thread::default() });
            }
        }
        let state = match row.state.as_str() {
            _ if row.kind == RowKind::Notice => None,
            "firing" => Some(State::Firing),
            "resolved" => Some(State::Resolved),
            "withdrawn" => Some(State::Withdrawn),
            _ => Some(State::Updated),
        };
        let severity = match row.severity.as_str() {
            "critical" => "critical",
            "warning" => "warning",
            _ => "info",
        };
        let pending = Pending {
            nid: row.nid,
            lane,
            incident,
            seq: row.seq,
            state,
            severity,
            created_ns: row.created_ns,
            due_ns: row.due_ns.min(self.now_ns.saturating_add(super::policy::MAX_RETRY_AFTER)),
            attempts: row.attempts,
            flying: false,
            held_since_ns: None,
        };
        self.enqueue(row.id, pending);
    }

    /// Somebody asked to try rows again: `all` are those that the store has pending, `which` a receiver, a row's id or a
    /// notification's id, or nothing for all.
    pub fn retry(&mut self, all: Recovered, which: &str, now_ns: u64) -> Effects {
        self.clock(now_ns);
        for v in &all.incidents {
            if !self.incidents.contains_key(v.incident.as_str()) {
                self.know(v);
            }
        }
        for row in all.rows {
            self.adopt(row);
        }
        for (at, lane) in self.lanes.iter_mut().enumerate() {
            let named = which.is_empty() || lane.policy.name == which;
            if named || self.rows.values().any(|p| p.lane == at && p.nid == which) {
                lane.health.blocked_ns = 0;
            }
        }
        let named = |(id, p): (&u64, &Pending)| {
            let lane = &self.lanes[p.lane].policy.name;
            (which.is_empty() || lane == which || p.nid == which || id.to_string() == which).then_some(*id)
        };
        let rows: Vec<u64> = self.rows.iter().filter_map(named).collect();
        for id in rows {
            self.move_to(id, now_ns);
        }
        self.pump();
        std::mem::take(&mut self.out)
    }

    /// The config or the rules changed. Rows stay with receivers of the same name; those of receivers that went are
    /// given up. Must not be called while deliveries are under way.
    pub fn configure(&mut self, policy: Policy, left: Recovered, now_ns: u64) -> Effects {
        let mut fresh = Dispatch::new(policy, now_ns);
        fresh.silences = std::mem::take(&mut self.silences);
        fresh.next_row = self.next_row;
        for (at, lane) in fresh.lanes.iter_mut().enumerate() {
            if let Some(old) = self.lanes.iter_mut().find(|l| l.policy.name == lane.policy.name) {
                let kept = Lane::new(lane.policy.clone(), now_ns);
                lane.health = std::mem::take(&mut old.health);
                lane.digest = std::mem::take(&mut old.digest);
                lane.bucket = kept.bucket;
                if !lane.digest.is_empty() {
                    fresh.timers.insert((now_ns, Timer::Digest(at)));
                }
            }
        }
        *self = fresh;
        self.recover(left, now_ns)
    }

    /// The receivers' names, in order.
    pub fn receivers(&self) -> Vec<String> {
        self.lanes.iter().map(|l| l.policy.name.clone()).collect()
    }

    /// Tags of rules, for routes.
    pub fn tags(&mut self, tags: std::collections::BTreeMap<String, Vec<String>>) {
        self.policy.tags = tags;
    }
}
