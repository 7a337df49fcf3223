//! Verdicts and silences come in: routes, grouping, and the bound on what waits.

use std::collections::BTreeMap;
use std::sync::Arc;

use whystall_engine::verdict::{State, Verdict};
use whystall_event::parse_rfc3339;

use super::timers::Timer;
use super::{Dispatch, Effects, Incident, Labels, is_final};
use crate::config::Glob;
use crate::store::{Op, RowKind, Silence};

impl Dispatch {
    /// A transition of an incident.
    pub fn verdict(&mut self, v: Verdict, now_ns: u64) -> Effects {
        self.clock(now_ns);
        let id: Arc<str> = v.incident.as_str().into();
        let labels = Labels::of(&v, &self.policy.tags);
        let silenced = self.is_silenced(&labels);
        let opened_ns = parse_rfc3339(&v.started_at).unwrap_or(now_ns).min(now_ns);
        let known = self.incidents.get(&id).map(|i| i.opened_ns);
        let incident = Incident {
            labels,
            severity: v.severity.name(),
            seq: v.seq,
            state: v.state,
            opened_ns: known.unwrap_or(opened_ns),
            silenced,
        };
        let merged = v.merged_into.is_some();
        self.incidents.insert(id.clone(), incident);
        self.out.ops.push(Op::Verdict(Box::new(v)));
        if known.is_none() {
            self.arm_escalations(&id);
        }
        self.tell(&id, merged);
        self.forget_if_over(&id);
        self.pump();
        std::mem::take(&mut self.out)
    }

    /// Makes the rows for an incident's newest verdict.
    fn tell(&mut self, id: &Arc<str>, merged: bool) {
        let Some(inc) = self.incidents.get(id) else { return };
        let (over, silenced, new_since) = (inc.over(), inc.silenced, self.now_ns);
        let targets = self.targets(&inc.labels);
        for lane in 0..self.lanes.len() {
            let key = (id.clone(), lane);
            let target = targets.get(&lane).copied();
            let Some(thread) = self.threads.get_mut(&key) else {
                if let Some((wait, repeat)) = target.filter(|_| !over && !silenced) {
                    self.threads.entry(key).or_default().repeat_ns = repeat;
                    self.add(id, lane, RowKind::Verdict, new_since.saturating_add(wait));
                }
                continue;
            };
            if let Some((_, repeat)) = target {
                thread.repeat_ns = repeat;
            }
            let (opened, queue) = (thread.opened, thread.queue.clone());
            let idle = |d: &Dispatch, r: &u64| d.rows.get(r).is_some_and(|p| !p.flying);
            if over && merged {
                // What was not told yet is told by the incident that goes on.
                for r in queue.iter().filter(|r| idle(self, r)).copied().collect::<Vec<_>>() {
                    self.cancel(r);
                }
            }
            let left = self.threads.get(&key).map_or(0, |t| t.queue.len());
            if over {
                if opened || left > 0 {
                    // Nothing more will come: what waits for company goes now.
                    for r in queue {
                        if self.rows.get(&r).is_some_and(|p| p.attempts == 0 && p.due_ns > new_since) {
                            self.move_to(r, new_since);
                        }
                    }
                    self.add(id, lane, RowKind::Verdict, new_since);
                } else {
                    self.tidy(id, lane);
                }
                continue;
            }
            if silenced {
                continue;
            }
            // What still waits for company is replaced by what is newer.
            let grouped = queue.back().and_then(|r| Some((*r, self.rows.get(r)?))).filter(|(_, p)| {
                !opened && queue.len() == 1 && !p.flying && p.attempts == 0 && p.due_ns > new_since
            });
            let due = match grouped.map(|(r, p)| (r, p.due_ns)) {
                Some((r, due)) => {
                    self.cancel(r);
                    due
                }
                None => new_since,
            };
            self.add(id, lane, RowKind::Verdict, due);
        }
    }

    /// Which receivers a verdict with these labels goes to, with group wait and repeat interval of the first route that
    /// says so.
    fn targets(&self, labels: &Labels) -> BTreeMap<usize, (u64, u64)> {
        let mut out = BTreeMap::new();
        for route in self.policy.routes.iter().filter(|r| labels.fit(&r.matches)) {
            for lane in &route.receivers {
                out.entry(*lane).or_insert((route.group_wait_ns, route.repeat_ns));
            }
        }
        out
    }

    fn forget_if_over(&mut self, id: &Arc<str>) {
        if self.incidents.get(id).is_some_and(Incident::over)
            && !(0..self.lanes.len()).any(|l| self.threads.contains_key(&(id.clone(), l)))
        {
            self.incidents.remove(id);
        }
    }

    fn is_silenced(&self, labels: &Labels) -> bool {
        self.silences.iter().any(|s| {
            s.until_ns > self.now_ns
                && !s.matchers.is_empty()
                && s.matchers.iter().all(|(label, pattern)| labels.has(label, &Glob::new(pattern.as_str())))
        })
    }

    /// The silences as they are now.
    pub fn silences(&mut self, all: Vec<Silence>, now_ns: u64) -> Effects {
        self.clock(now_ns);
        self.silences = all.into_iter().filter(|s| s.until_ns > now_ns).collect();
        self.heed_silences();
        self.pump();
        std::mem::take(&mut self.out)
    }

    /// Open incidents that are silenced now are told no more; those that no longer are, are told.
    pub(super) fn heed_silences(&mut self) {
        let now = self.now_ns;
        self.timers.retain(|(_, t)| *t != Timer::Silences);
        if let Some(next) = self.silences.iter().map(|s| s.until_ns).filter(|u| *u > now).min() {
            self.timers.insert((next, Timer::Silences));
        }
        let open: Vec<Arc<str>> =
            self.incidents.iter().filter(|(_, i)| !i.over()).map(|(id, _)| id.clone()).collect();
        for id in open {
            let Some(labels) = self.incidents.get(&id).map(|i| i.labels.clone()) else { continue };
            let silenced = self.is_silenced(&labels);
            let Some(inc) = self.incidents.get_mut(&id) else { continue };
            let before = std::mem::replace(&mut inc.silenced, silenced);
            if before && !silenced {
                self.tell(&id, false);
            }
            if !before && silenced {
                let keys = (0..self.lanes.len()).filter_map(|l| self.threads.get(&(id.clone(), l)));
                let rows: Vec<u64> = keys.flat_map(|t| t.queue.iter().copied()).collect();
                for r in rows {
                    if self.rows.get(&r).is_some_and(|p| !p.flying && !p.state.is_some_and(is_final)) {
                        self.cancel(r);
                    }
                }
            }
        }
    }

    /// Drops what is over a receiver's bound, and a little more so that this is rare: first what a newer row of the same
    /// incident replaces, then incidents that are over and that the receiver never heard of, then the oldest. The newest
    /// state of each open incident goes last.
    pub(super) fn bound(&mut self, lane: usize) {
        let most = self.lanes[lane].policy.max_pending.max(1);
        if self.lanes[lane].all.len() <= most {
            return;
        }
        let target = most - most / 20;
        for stage in 0..3 {
            let mut drop: Vec<u64> = Vec::new();
            let mut excess = self.lanes[lane].all.len().saturating_sub(target);
            for id in &self.lanes[lane].all {
                if excess == 0 {
                    break;
                }
                let Some(p) = self.rows.get(id).filter(|p| !p.flying) else { continue };
                let Some(incident) = &p.incident else { continue };
                let Some(thread) = self.threads.get(&(incident.clone(), lane)) else { continue };
                let is_last = thread.queue.back() == Some(id);
                let over = self.incidents.get(incident).is_none_or(Incident::over);
                let goes = match stage {
                    0 => !is_last && p.state == Some(State::Updated),
                    1 => over && !thread.opened,
                    // The end of what was told is kept, and so is the newest of what lasts.
                    _ => !is_last,
                };
                if goes {
                    drop.push(*id);
                    excess -= 1;
                }
            }
            for id in drop {
                if let Some(p) = self.cancel(id) {
                    let counts = &mut self.lanes[lane].digest.dropped;
                    *counts.entry(p.severity.to_string()).or_insert(0) += 1;
                    if let Some(incident) = &p.incident {
                        self.tidy(&incident.clone(), lane);
                    }
                }
            }
            if self.lanes[lane].all.len() <= target {
                break;
            }
        }
        // Only newest states of open incidents are left: the oldest of them.
        while self.lanes[lane].all.len() > most {
            let oldest =
                self.lanes[lane].all.iter().copied().find(|r| self.rows.get(r).is_some_and(|p| !p.flying));
            let Some(p) = oldest.and_then(|id| self.cancel(id)) else { break };
            *self.lanes[lane].digest.dropped.entry(p.severity.to_string()).or_insert(0) += 1;
        }
        self.note_digest(lane);
    }
}
