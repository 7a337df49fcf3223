//! Writing, and what waits in memory while the file cannot be written.

use std::collections::VecDeque;

use whystall_event::SEC;

use super::ops::{Body, Op};
use super::{Store, StoreError, repair};

/// What waits may take so much memory; the oldest goes first.
const MAX_WEIGHT: usize = 4 << 20;
const RETRY_NS: u64 = 5 * SEC;

/// Transactions that could not be written.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    waiting: VecDeque<Vec<Op>>,
    weight: usize,
    retry_ns: u64,
    /// Verdicts that found no room.
    lost: u64,
}

fn weight(ops: &[Op]) -> usize {
    ops.iter().map(Op::weight).sum()
}

impl Backlog {
    fn push(&mut self, ops: Vec<Op>) {
        self.weight += weight(&ops);
        self.waiting.push_back(ops);
        while self.weight > MAX_WEIGHT && self.waiting.len() > 1 {
            let Some(gone) = self.waiting.pop_front() else { break };
            self.weight -= weight(&gone);
            self.lost += gone.iter().filter(|o| matches!(o, Op::Verdict(_))).count() as u64;
        }
    }
}

impl Store {
    /// Writes `ops` as one transaction, or keeps them in memory if that fails. Returns whether everything is written.
    pub fn commit(&mut self, ops: Vec<Op>, now_ns: u64) -> bool {
        if self.backlog.waiting.is_empty() {
            if ops.is_empty() {
                return true;
            }
            match self.write(&ops, now_ns) {
                Ok(()) => return true,
                Err(e) => {
                    self.news.push(format!("the store cannot be written, so news are kept in memory: {e}"));
                    self.backlog.push(ops);
                    self.backlog.retry_ns = now_ns.saturating_add(RETRY_NS);
                    return false;
                }
            }
        }
        if !ops.is_empty() {
            self.backlog.push(ops);
        }
        // A clock that was set back must not stop it.
        let wait = self.backlog.retry_ns.saturating_sub(now_ns);
        if wait > 0 && wait <= RETRY_NS {
            return false;
        }
        while let Some(ops) = self.backlog.waiting.pop_front() {
            if self.write(&ops, now_ns).is_err() {
                self.backlog.waiting.push_front(ops);
                self.backlog.retry_ns = now_ns.saturating_add(RETRY_NS);
                return false;
            }
            self.backlog.weight = self.backlog.weight.saturating_sub(weight(&ops));
        }
        let lost = std::mem::take(&mut self.backlog.lost);
        self.news.push(match lost {
            0 => "the store can be written again, and nothing is missing from it".to_string(),
            n => format!("the store can be written again; {n} verdicts are missing from it"),
        });
        true
    }

    /// Whether something waits to be written.
    pub fn is_behind(&self) -> bool {
        !self.backlog.waiting.is_empty()
    }

    fn write(&mut self, ops: &[Op], now_ns: u64) -> Result<(), StoreError> {
        match self.transaction(ops) {
            Err(e) if repair::is_damage(&e) => {
                let Some(path) = self.path.clone() else { return Err(e.into()) };
                let (db, told) = repair::replace(Some(&self.db), &path, now_ns, &e)?;
                self.db = db;
                self.news.push(told);
                Ok(self.transaction(ops)?)
            }
            Err(e) if repair::is_full(&e) => {
                // What the log holds may make the room that is missing.
                self.make_room();
                Ok(self.transaction(ops)?)
            }
            other => Ok(other?),
        }
    }

    fn transaction(&mut self, ops: &[Op]) -> Result<(), rusqlite::Error> {
        let tx = self.db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        ops.iter().try_for_each(|op| op.apply(&tx))?;
        tx.commit()
    }

    /// What a row of the outbox has to tell, and what its last try left to do.
    pub fn body(&self, id: u64, incident: Option<&str>, seq: u32) -> (Body, Option<String>) {
        let (mut body, mut progress) = self.body_on_disk(id, incident, seq);
        for op in self.backlog.waiting.iter().flatten() {
            match op {
                Op::Verdict(v) if Some(v.incident.as_str()) == incident && v.seq == seq => {
                    body = serde_json::to_string(v).map_or(Body::Gone, Body::Verdict);
                }
                Op::Put(r) if r.id == id => {
                    if let Some(n) = &r.notice {
                        body = Body::Notice(n.clone());
                    }
                }
                Op::Update(u) if u.id == id => progress.clone_from(&u.progress),
                _ => {}
            }
        }
        (body, progress)
    }
}
