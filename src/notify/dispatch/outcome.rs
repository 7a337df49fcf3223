//! Deliveries: which begin, and what came of them.

use std::sync::Arc;

use whystall_engine::verdict::State;
use whystall_event::format_duration;

use super::lane::backoff;
use super::policy::{HOLD_FOR, MAX_RETRY_AFTER, REFUSAL_EVERY};
use super::timers::Timer;
use super::{Dispatch, Effects, Send, is_final};
use crate::notify::{NoticeKind, Outcome};
use crate::store::{Op, RowUpdate};

/// Longest reason that is kept.
const MAX_WHY: usize = 500;

impl Dispatch {
    /// Begins every delivery that may begin.
    pub(super) fn pump(&mut self) {
        for lane in 0..self.lanes.len() {
            self.pump_lane(lane);
        }
    }

    fn pump_lane(&mut self, at: usize) {
        let now = self.now_ns;
        loop {
            let lane = &mut self.lanes[at];
            while let Some(&(due, id)) = lane.waiting.first().filter(|(due, _)| *due <= now) {
                lane.waiting.remove(&(due, id));
                if let Some(p) = self.rows.get(&id) {
                    lane.ready.insert((p.priority(), id));
                }
            }
            if lane.room(now) == 0 {
                return;
            }
            let Some((_, id)) = lane.ready.pop_first() else { return };
            let Some(p) = self.rows.get_mut(&id) else { continue };
            let key = p.incident.clone().map(|i| (i, at));
            let opened = key.as_ref().and_then(|k| self.threads.get(k)).is_none_or(|t| t.opened);
            let last = p.state.is_some_and(is_final);
            if last && !opened {
                // It never heard of the incident, so its end is no news.
                self.cancel(id);
                if let Some((incident, _)) = key {
                    self.tidy(&incident, at);
                }
                continue;
            }
            let important = p.severity == "critical" || last || p.state.is_none();
            // A retry has its token already.
            if p.attempts == 0
                && let Err(then) = lane.bucket.take(important, now)
            {
                let end = p.held_since_ns.get_or_insert(now).saturating_add(HOLD_FOR);
                if important || then <= end {
                    lane.waiting.insert((then, id));
                    p.due_ns = then;
                } else {
                    self.hold_back(id, at);
                }
                continue;
            }
            p.flying = true;
            lane.flying += 1;
            self.out.sends.push(Send {
                row: id,
                receiver: at,
                nid: p.nid.clone(),
                incident: p.incident.as_deref().map(str::to_string),
                seq: p.seq,
                attempts: p.attempts,
            });
        }
    }

    /// Counts a row for the digest instead of telling it. If its incident lasts, it is told with the next repeat.
    fn hold_back(&mut self, id: u64, lane: usize) {
        let Some(p) = self.cancel(id) else { return };
        *self.lanes[lane].digest.held.entry(p.severity.to_string()).or_insert(0) += 1;
        self.note_digest(lane);
        if let Some(incident) = p.incident {
            self.arm_repeat(&incident, lane);
            self.tidy(&incident, lane);
        }
    }

    /// What came of a delivery.
    pub fn outcome(&mut self, row: u64, outcome: Outcome, now_ns: u64) -> Effects {
        self.clock(now_ns);
        if self.rows.get(&row).is_some_and(|p| p.flying) {
            match outcome {
                Outcome::Delivered { note } => self.delivered(row, note),
                Outcome::Retry { why, after, progress } => {
                    let after = after.map(|d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX));
                    self.retry_later(row, why, after.map(|a| a.min(MAX_RETRY_AFTER)), progress);
                }
                Outcome::Permanent { why } => self.refused(row, &why),
            }
        }
        self.pump();
        std::mem::take(&mut self.out)
    }

    fn delivered(&mut self, row: u64, note: Option<String>) {
        let now = self.now_ns;
        let is_digest = |l: &super::Lane| l.digest_row == Some(row);
        let Some(lane) = self.rows.get(&row).map(|p| p.lane) else { return };
        if is_digest(&self.lanes[lane]) {
            self.lanes[lane].digest_row = None;
            self.note_digest(lane);
        }
        let Some(p) = self.cancel(row) else { return };
        if let Some(note) = note {
            self.out.log.push(format!("receiver {}: {note}", self.lanes[lane].policy.name));
        }
        self.well_again(lane);
        let Some(incident) = p.incident else { return };
        if !p.state.is_some_and(is_final) {
            if let Some(t) = self.threads.get_mut(&(incident.clone(), lane)) {
                (t.opened, t.told_ns) = (true, now);
            }
            self.out.ops.push(Op::Thread {
                incident: incident.to_string(),
                receiver: self.lanes[lane].policy.name.clone(),
                opened: true,
                told_ns: now,
            });
            self.arm_repeat(&incident, lane);
        }
        self.tidy(&incident, lane);
    }

    /// A receiver took something.
    fn well_again(&mut self, lane: usize) {
        let (now, l) = (self.now_ns, &mut self.lanes[lane]);
        let (was_down, told) = (l.fails(), l.health.told);
        l.health = super::lane::Health::default();
        if was_down {
            // What failed because of the outage need not wait any longer.
            let waiting: Vec<u64> = l.waiting.iter().map(|(_, id)| *id).collect();
            for id in waiting {
                if self.rows.get(&id).is_some_and(|p| p.attempts > 0 && p.due_ns > now) {
                    self.move_to(id, now);
                }
            }
        }
        if told {
            let name = self.lanes[lane].policy.name.clone();
            let left = self.lanes[lane].all.len();
            let text = format!("notifications waiting for it: {left}");
            self.tell_others(lane, format!("receiver {name} works again"), text);
        }
    }

    fn retry_later(&mut self, row: u64, why: String, after: Option<u64>, progress: Option<String>) {
        let (now, why) = (self.now_ns, shorten(&why));
        let Some(p) = self.rows.get_mut(&row) else { return };
        let lane = &mut self.lanes[p.lane];
        p.flying = false;
        lane.flying -= 1;
        lane.failed(now, row, &p.nid, after);
        let at = p.lane;
        if now.saturating_sub(p.created_ns) >= lane.policy.retry_for_ns {
            let why = format!("given up after {}: {why}", format_duration(lane.policy.retry_for_ns));
            *lane.digest.gave_up.entry(p.severity.to_string()).or_insert(0) += 1;
            self.give_up(row, why);
            self.note_digest(at);
            self.note_outage(at);
            return;
        }
        let wait = backoff(p.attempts, lane.policy.backoff_ns, &p.nid).max(after.unwrap_or(0));
        p.attempts = p.attempts.saturating_add(1);
        p.due_ns = now.saturating_add(wait);
        lane.waiting.insert((p.due_ns, row));
        let update =
            RowUpdate { id: row, failed: false, attempts: p.attempts, due_ns: p.due_ns, why, progress };
        self.out.ops.push(Op::Update(Box::new(update)));
        self.note_outage(at);
    }

    fn refused(&mut self, row: u64, why: &str) {
        let now = self.now_ns;
        let Some(p) = self.rows.get(&row) else { return };
        let lane = p.lane;
        let why = shorten(why);
        // It answers, so it is there.
        self.well_again(lane);
        self.give_up(row, why.clone());
        let l = &mut self.lanes[lane];
        let name = l.policy.name.clone();
        self.out.log.push(format!("receiver {name} refuses a notification for good: {why}"));
        if l.refusal_told_ns.is_none_or(|t| now.saturating_sub(t) >= REFUSAL_EVERY) {
            l.refusal_told_ns = Some(now);
            let text = format!("{why}\n`whystall notify outbox list` shows what was not delivered");
            self.tell_others(lane, format!("receiver {name} refuses notifications"), text);
        }
    }

    /// Takes a row out; it stays in the store as failed, for people to look at and retry.
    fn give_up(&mut self, row: u64, why: String) {
        let Some(p) = self.remove(row) else { return };
        self.out.ops.push(Op::Update(Box::new(RowUpdate {
            id: row,
            failed: true,
            attempts: p.attempts.saturating_add(1),
            due_ns: self.now_ns,
            why,
            progress: None,
        })));
        if let Some(incident) = p.incident {
            self.tidy(&incident, p.lane);
        }
    }

    /// Tells every other receiver that works; only the log if there is none.
    pub(super) fn tell_others(&mut self, about: usize, title: String, text: String) {
        self.out.log.push(format!("{title}: {}", text.lines().next().unwrap_or_default()));
        let others = (0..self.lanes.len()).filter(|&l| l != about && !self.lanes[l].fails());
        for lane in others.collect::<Vec<_>>() {
            self.notice(lane, NoticeKind::Receiver, title.clone(), text.clone());
        }
    }

    fn arm_repeat(&mut self, incident: &Arc<str>, lane: usize) {
        let Some(t) = self.threads.get(&(incident.clone(), lane)) else { return };
        if t.repeat_ns > 0 && self.incidents.get(incident).is_some_and(|i| i.state != State::Resolved) {
            let at = self.now_ns.saturating_add(t.repeat_ns);
            self.timers.insert((at, Timer::Repeat(incident.clone(), lane)));
        }
    }
}

fn shorten(why: &str) -> String {
    whystall_event::text::shorten(why, MAX_WHY).to_string()
}
