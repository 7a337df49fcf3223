//! Who is told what and when, as a pure state machine: verdicts, outcomes and the time come in; changes of the store and
//! deliveries to begin come out. No IO and no clock: tests run days in milliseconds.
//!
//! What holds, whatever happens:
//! * A transition and the rows of the outbox that it makes leave as one list of [`Op`]s: one transaction.
//! * A row is done only when its receiver took it, refused it for good, or a bound was met, which is counted and told.
//! * To one receiver the rows of one incident go in order, one at a time; the end of an incident is told only to who
//!   was told of its beginning.
//! * An incident that was merged into another (its verdict is withdrawn and says so) is told no more, but for its end
//!   where it had been told. This is the inhibition by the causal chain: findings that explain each other are one
//!   incident with one thread of notifications.

mod incoming;
mod lane;
mod outcome;
mod policy;
mod recover;
#[cfg(test)]
mod tests;
mod timers;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use whystall_engine::verdict::State;

pub use policy::{LABELS, Labels, Policy, ReceiverPolicy, RoutePolicy};

use super::{NOTICE_SCHEMA, Notice, NoticeKind};
use crate::store::{Op, Row, RowKind, Silence, state_name};
use lane::Lane;
use timers::Timer;

/// A delivery to begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Send {
    /// The row.
    pub row: u64,
    /// The receiver's index in the policy.
    pub receiver: usize,
    /// The notification's id.
    pub nid: String,
    /// The incident, unless it is a notice.
    pub incident: Option<String>,
    /// The verdict's number.
    pub seq: u32,
    /// Tries before this one.
    pub attempts: u32,
}

/// What a call led to.
#[derive(Debug, Default, PartialEq)]
pub struct Effects {
    /// To write as one transaction, before anything is sent.
    pub ops: Vec<Op>,
    /// To deliver.
    pub sends: Vec<Send>,
    /// To tell operators.
    pub log: Vec<String>,
}

#[derive(Debug)]
struct Incident {
    labels: Labels,
    severity: &'static str,
    seq: u32,
    state: State,
    opened_ns: u64,
    silenced: bool,
}

impl Incident {
    fn over(&self) -> bool {
        is_final(self.state)
    }
}

fn is_final(s: State) -> bool {
    matches!(s, State::Resolved | State::Withdrawn)
}

/// One incident and one receiver.
#[derive(Debug, Default)]
struct Thread {
    /// Whether the receiver knows of the incident.
    opened: bool,
    told_ns: u64,
    /// Rows in order; only the first may be under way.
    queue: VecDeque<u64>,
    repeat_ns: u64,
}

#[derive(Debug)]
struct Pending {
    nid: String,
    lane: usize,
    incident: Option<Arc<str>>,
    seq: u32,
    /// None for a notice.
    state: Option<State>,
    severity: &'static str,
    created_ns: u64,
    due_ns: u64,
    attempts: u32,
    flying: bool,
    /// Since when there is no token for it.
    held_since_ns: Option<u64>,
}

impl Pending {
    fn priority(&self) -> u8 {
        match self.state {
            _ if self.severity == "critical" => 0,
            None => 1,
            Some(s) if is_final(s) => 1,
            Some(_) => 2,
        }
    }
}

type Key = (Arc<str>, usize);

/// The state machine.
#[derive(Debug)]
pub struct Dispatch {
    policy: Policy,
    incidents: BTreeMap<Arc<str>, Incident>,
    threads: BTreeMap<Key, Thread>,
    rows: BTreeMap<u64, Pending>,
    lanes: Vec<Lane>,
    timers: BTreeSet<(u64, Timer)>,
    silences: Vec<Silence>,
    next_row: u64,
    now_ns: u64,
    out: Effects,
}

impl Dispatch {
    /// Nothing known yet.
    pub fn new(policy: Policy, now_ns: u64) -> Dispatch {
        let lanes = policy.receivers.iter().map(|r| Lane::new(r.clone(), now_ns)).collect();
        let mut d = Dispatch {
            policy,
            incidents: BTreeMap::new(),
            threads: BTreeMap::new(),
            rows: BTreeMap::new(),
            lanes,
            timers: BTreeSet::new(),
            silences: Vec::new(),
            next_row: 1,
            now_ns,
            out: Effects::default(),
        };
        for lane in 0..d.lanes.len() {
            d.arm_heartbeat(lane, now_ns);
        }
        d
    }

    /// The time has come to `now_ns`: what is due is sent.
    pub fn advance(&mut self, now_ns: u64) -> Effects {
        self.clock(now_ns);
        self.run_timers();
        self.pump();
        std::mem::take(&mut self.out)
    }

    /// When [`Dispatch::advance`] has something to do by itself.
    pub fn next_wake(&self) -> Option<u64> {
        let timer = self.timers.first().map(|(at, _)| *at);
        let lanes = self.lanes.iter().filter_map(|l| {
            let due = if l.ready.is_empty() { l.waiting.first()?.0 } else { 0 };
            let due = due.max(l.health.blocked_ns);
            // One under way wakes when it is done.
            (l.flying == 0 || l.room(due) > 0).then_some(due)
        });
        lanes.chain(timer).min()
    }

    /// Rows that are not done.
    pub fn pending(&self) -> usize {
        self.rows.len()
    }

    /// Rows under way.
    pub fn flying(&self) -> usize {
        self.lanes.iter().map(|l| l.flying).sum()
    }

    /// Ids of incidents that are open, as the dispatcher knows.
    pub fn open_incidents(&self) -> Vec<String> {
        self.incidents.iter().filter(|(_, i)| !i.over()).map(|(id, _)| id.to_string()).collect()
    }

    /// Takes the time in. A wall clock that was set back must not make rows wait for the time it had.
    fn clock(&mut self, now_ns: u64) {
        let back = self.now_ns.saturating_sub(now_ns);
        self.now_ns = now_ns;
        if back < 60 * whystall_event::SEC {
            return;
        }
        for lane in &mut self.lanes {
            let latest = now_ns.saturating_add(lane.policy.backoff_ns.1);
            lane.health.blocked_ns = lane.health.blocked_ns.min(latest);
            let moved: Vec<(u64, u64)> = std::mem::take(&mut lane.waiting)
                .into_iter()
                .map(|(due, id)| (due.min(latest), id))
                .collect();
            lane.waiting.extend(moved);
        }
        let moved: Vec<(u64, Timer)> = std::mem::take(&mut self.timers)
            .into_iter()
            .map(|(at, t)| (at.saturating_sub(back), t))
            .collect();
        self.timers.extend(moved);
    }

    /// Adds a row about an incident.
    fn add(&mut self, incident: &Arc<str>, lane: usize, kind: RowKind, due_ns: u64) {
        let Some(inc) = self.incidents.get(incident) else { return };
        let id = self.next_row;
        let place = lane::fnv(&self.lanes[lane].policy.name) as u32;
        let again = if kind == RowKind::Repeat { format!(".r{id}") } else { String::new() };
        let nid = format!("{incident}.{}.{place:08x}{again}", inc.seq);
        let p = Pending {
            nid,
            lane,
            incident: Some(incident.clone()),
            seq: inc.seq,
            state: Some(inc.state),
            severity: inc.severity,
            created_ns: self.now_ns,
            due_ns,
            attempts: 0,
            flying: false,
            held_since_ns: None,
        };
        self.insert(p, kind, None);
    }

    /// Adds a row about whystall itself.
    fn notice(&mut self, lane: usize, kind: NoticeKind, title: String, text: String) -> u64 {
        let n = Notice {
            schema: NOTICE_SCHEMA.into(),
            kind,
            title,
            text,
            at: whystall_event::format_rfc3339(self.now_ns),
            host: self.policy.host.clone(),
        };
        let id = self.next_row;
        let p = Pending {
            nid: format!("notice.{}.{id}", self.now_ns / 1_000_000),
            lane,
            incident: None,
            seq: 0,
            state: None,
            severity: "info",
            created_ns: self.now_ns,
            due_ns: self.now_ns,
            attempts: 0,
            flying: false,
            held_since_ns: None,
        };
        self.insert(p, RowKind::Notice, serde_json::to_string(&n).ok());
        id
    }

    fn insert(&mut self, p: Pending, kind: RowKind, notice: Option<String>) {
        let id = self.next_row;
        self.next_row += 1;
        self.out.ops.push(Op::Put(Box::new(Row {
            id,
            nid: p.nid.clone(),
            receiver: self.lanes[p.lane].policy.name.clone(),
            incident: p.incident.as_deref().map(str::to_string),
            seq: p.seq,
            kind,
            state: p.state.map_or("notice", state_name).to_string(),
            severity: p.severity.to_string(),
            created_ns: p.created_ns,
            due_ns: p.due_ns,
            attempts: 0,
            notice,
        })));
        self.enqueue(id, p);
    }

    /// Puts a row into its thread and, if it is the first there, into its receiver's lane.
    fn enqueue(&mut self, id: u64, p: Pending) {
        let lane = p.lane;
        self.lanes[lane].all.insert(id);
        let first = match &p.incident {
            None => true,
            Some(incident) => {
                let queue = &mut self.threads.entry((incident.clone(), lane)).or_default().queue;
                let at = queue.partition_point(|other| *other < id);
                queue.insert(at, id);
                let was_first = queue.get(1).copied().filter(|_| at == 0);
                // An older one that came back goes first, unless the other is under way.
                match was_first.and_then(|r| Some((r, self.rows.get(&r)?))) {
                    Some((_, r)) if r.flying => {
                        queue.swap(0, 1);
                        false
                    }
                    Some((id, r)) => {
                        self.lanes[lane].waiting.remove(&(r.due_ns, id));
                        self.lanes[lane].ready.remove(&(r.priority(), id));
                        true
                    }
                    None => at == 0,
                }
            }
        };
        if first {
            self.lanes[lane].waiting.insert((p.due_ns, id));
        }
        self.rows.insert(id, p);
        self.bound(lane);
    }

    /// Takes a row away; the next of its thread comes up.
    fn remove(&mut self, id: u64) -> Option<Pending> {
        let p = self.rows.remove(&id)?;
        let lane = &mut self.lanes[p.lane];
        lane.all.remove(&id);
        lane.waiting.remove(&(p.due_ns, id));
        lane.ready.remove(&(p.priority(), id));
        for known in [&mut lane.heartbeat_row, &mut lane.digest_row] {
            if *known == Some(id) {
                *known = None;
            }
        }
        if p.flying {
            lane.flying -= 1;
        }
        if let Some(incident) = &p.incident
            && let Some(thread) = self.threads.get_mut(&(incident.clone(), p.lane))
        {
            let first = thread.queue.front() == Some(&id);
            thread.queue.retain(|r| *r != id);
            if first && let Some((next, r)) = thread.queue.front().and_then(|n| Some((*n, self.rows.get(n)?)))
            {
                self.lanes[p.lane].waiting.insert((r.due_ns, next));
            }
        }
        Some(p)
    }

    /// Takes a row away that nobody needs any more.
    fn cancel(&mut self, id: u64) -> Option<Pending> {
        let p = self.remove(id)?;
        self.out.ops.push(Op::Done(id));
        Some(p)
    }

    /// Makes a row due at another time.
    fn move_to(&mut self, id: u64, due_ns: u64) {
        let Some(p) = self.rows.get_mut(&id) else { return };
        let lane = &mut self.lanes[p.lane];
        let known = lane.waiting.remove(&(p.due_ns, id));
        p.due_ns = due_ns;
        if known {
            lane.waiting.insert((due_ns, id));
        }
    }

    /// Forgets a thread that has nothing more to tell, and an incident without threads that is over.
    fn tidy(&mut self, incident: &Arc<str>, lane: usize) {
        let over = self.incidents.get(incident).is_none_or(Incident::over);
        let key = (incident.clone(), lane);
        if over && self.threads.get(&key).is_some_and(|t| t.queue.is_empty()) {
            self.threads.remove(&key);
            let receiver = self.lanes[lane].policy.name.clone();
            self.out.ops.push(Op::EndThread { incident: incident.to_string(), receiver });
        }
        let has_threads = (0..self.lanes.len()).any(|l| self.threads.contains_key(&(incident.clone(), l)));
        if over && !has_threads {
            self.incidents.remove(incident);
        }
    }
}
