//! What happens by itself as time passes: repeats, escalations, heartbeats, digests, the ends of silences.

use std::sync::Arc;

use super::Dispatch;
use super::policy::{DIGEST_AFTER, DIGEST_EVERY, FAILING_AFTER};
use crate::notify::NoticeKind;
use crate::store::{Op, RowKind};

/// What is due.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// An incident that lasts is told again.
    Repeat(Arc<str>, usize),
    /// An incident that lasts is told to others; the number is the route's.
    Escalate(Arc<str>, usize),
    /// A receiver is told that whystall is alive.
    Heartbeat(usize),
    /// A receiver is told what it was not told.
    Digest(usize),
    /// A silence ends.
    Silences,
}

impl Dispatch {
    pub(super) fn run_timers(&mut self) {
        while let Some((at, timer)) = self.timers.first().cloned().filter(|(at, _)| *at <= self.now_ns) {
            self.timers.remove(&(at, timer.clone()));
            match timer {
                Timer::Repeat(incident, lane) => self.repeat(&incident, lane),
                Timer::Escalate(incident, route) => self.escalate(&incident, route),
                Timer::Heartbeat(lane) => self.heartbeat(lane),
                Timer::Digest(lane) => self.send_digest(lane),
                Timer::Silences => self.heed_silences(),
            }
        }
    }

    fn repeat(&mut self, incident: &Arc<str>, lane: usize) {
        let lasts = self.incidents.get(incident).is_some_and(|i| !i.over() && !i.silenced);
        let Some(t) = self.threads.get(&(incident.clone(), lane)).filter(|_| lasts) else { return };
        let due = t.told_ns.saturating_add(t.repeat_ns);
        if !t.queue.is_empty() || t.opened && due > self.now_ns {
            // What waits tells it, and a later timer follows what was told later.
            return;
        }
        let kind = if t.opened { RowKind::Repeat } else { RowKind::Verdict };
        self.add(incident, lane, kind, self.now_ns);
    }

    pub(super) fn arm_escalations(&mut self, incident: &Arc<str>) {
        let Some(inc) = self.incidents.get(incident).filter(|i| !i.over()) else { return };
        for (number, route) in self.policy.routes.iter().enumerate() {
            if let Some((after, _)) = &route.escalate {
                let at = inc.opened_ns.saturating_add(*after);
                self.timers.insert((at, Timer::Escalate(incident.clone(), number)));
            }
        }
    }

    fn escalate(&mut self, incident: &Arc<str>, route: usize) {
        let Some(route) = self.policy.routes.get(route) else { return };
        let fits = |i: &super::Incident| !i.over() && !i.silenced && i.labels.fit(&route.matches);
        if !self.incidents.get(incident).is_some_and(fits) {
            return;
        }
        let (repeat, to) =
            (route.repeat_ns, route.escalate.as_ref().map(|(_, to)| to.clone()).unwrap_or_default());
        for lane in to {
            let key = (incident.clone(), lane);
            if !self.threads.contains_key(&key) {
                self.threads.entry(key).or_default().repeat_ns = repeat;
                self.add(incident, lane, RowKind::Verdict, self.now_ns);
            }
        }
    }

    pub(super) fn arm_heartbeat(&mut self, lane: usize, last_ns: u64) {
        if let Some(every) = self.lanes[lane].policy.heartbeat_ns {
            self.timers.retain(|(_, t)| *t != Timer::Heartbeat(lane));
            let at = last_ns.min(self.now_ns).saturating_add(every);
            self.timers.insert((at, Timer::Heartbeat(lane)));
        }
    }

    fn heartbeat(&mut self, lane: usize) {
        self.arm_heartbeat(lane, self.now_ns);
        // One that waits says as much as two.
        if self.lanes[lane].heartbeat_row.is_none() {
            let open = self.incidents.values().filter(|i| !i.over()).count();
            let title = format!("whystall on {} is alive", self.policy.host);
            let text = format!("open incidents: {open}\nnotifications waiting: {}", self.rows.len());
            let row = self.notice(lane, NoticeKind::Heartbeat, title, text);
            self.lanes[lane].heartbeat_row = Some(row);
            let key = format!("heartbeat/{}", self.lanes[lane].policy.name);
            self.out.ops.push(Op::Meta(key, self.now_ns.to_string()));
        }
    }

    /// The counts of a receiver's digest changed: they are kept, and told soon.
    pub(super) fn note_digest(&mut self, lane: usize) {
        let l = &self.lanes[lane];
        if l.digest.is_empty() {
            return;
        }
        let json = serde_json::to_string(&l.digest).unwrap_or_default();
        self.out.ops.push(Op::Meta(format!("digest/{}", l.policy.name), json));
        let armed = self.timers.iter().any(|(_, t)| *t == Timer::Digest(lane));
        if !armed && l.digest_row.is_none() {
            self.timers.insert((self.now_ns.saturating_add(DIGEST_AFTER), Timer::Digest(lane)));
        }
    }

    fn send_digest(&mut self, lane: usize) {
        let l = &mut self.lanes[lane];
        if l.digest.is_empty() || l.digest_row.is_some() {
            return;
        }
        // While it is down, the counts grow and are told as one.
        if l.fails() {
            self.timers.insert((self.now_ns.saturating_add(DIGEST_EVERY), Timer::Digest(lane)));
            return;
        }
        let digest = std::mem::take(&mut l.digest);
        let name = l.policy.name.clone();
        let title = format!("{} notifications were not told one by one", digest.total());
        self.out.log.push(format!("receiver {name}: {title}: {}", digest.text().replace('\n', "; ")));
        let row = self.notice(lane, NoticeKind::Digest, title, digest.text());
        self.lanes[lane].digest_row = Some(row);
        self.out.ops.push(Op::Meta(format!("digest/{name}"), String::new()));
    }

    /// A receiver failed: others are told if that lasts.
    pub(super) fn note_outage(&mut self, lane: usize) {
        let (now, l) = (self.now_ns, &mut self.lanes[lane]);
        let long = l.health.since_ns.is_some_and(|s| now.saturating_sub(s) >= FAILING_AFTER);
        if !l.fails() || !long || std::mem::replace(&mut l.health.told, true) {
            return;
        }
        let last = self.out.ops.iter().rev().find_map(|op| match op {
            Op::Update(u) => Some(u.why.clone()),
            _ => None,
        });
        let name = self.lanes[lane].policy.name.clone();
        let text = format!(
            "{}\nnotifications waiting for it: {}; it is tried again",
            last.unwrap_or_default(),
            self.lanes[lane].all.len()
        );
        self.tell_others(lane, format!("receiver {name} fails"), text);
    }
}
