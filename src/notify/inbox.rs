//! What waits for the store's thread. Everybody puts in and never waits: the engine's tick least of all.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use whystall_engine::verdict::Verdict;

use super::Outcome;

/// Verdicts that wait at most; the oldest go first.
const MAX_VERDICTS: usize = 4_096;
/// Lines for the engine that wait at most.
const MAX_TROUBLES: usize = 64;
/// Verdicts taken at once: one transaction.
const BATCH: usize = 256;

/// What was put in since the last look.
#[derive(Debug, Default)]
pub(super) struct Work {
    pub(super) verdicts: VecDeque<Verdict>,
    pub(super) outcomes: Vec<(u64, Outcome)>,
    /// The rules' state, as it is kept for a restart.
    pub(super) rules: Option<String>,
    /// The incidents that the engine still knows after a restart.
    pub(super) known: Option<Vec<String>>,
    pub(super) tags: Option<BTreeMap<String, Vec<String>>>,
    pub(super) fresh: Option<Box<super::service::Fresh>>,
    /// Until when to go on after the end was asked for.
    pub(super) stop: Option<Instant>,
    /// Verdicts that found no room.
    pub(super) lost: u64,
}

/// The queue to the store's thread.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    work: Mutex<Work>,
    woken: Condvar,
    /// The other direction: what the engine is to know.
    troubles: Mutex<Vec<String>>,
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what waits, and wakes the store's thread.
    pub(super) fn put(&self, change: impl FnOnce(&mut Work)) {
        change(&mut self.lock());
        self.woken.notify_one();
    }

    /// Adds a verdict; if too many wait, the oldest goes and is counted.
    pub(super) fn verdict(&self, v: Verdict) {
        self.put(|w| {
            w.verdicts.push_back(v);
            if w.verdicts.len() > MAX_VERDICTS {
                w.verdicts.pop_front();
                w.lost += 1;
            }
        });
    }

    /// Tells the engine's side.
    pub(super) fn trouble(&self, news: Vec<String>) {
        let mut troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        troubles.extend(news);
        troubles.truncate(MAX_TROUBLES);
    }

    /// What the engine's side was told since the last call.
    pub(super) fn take_troubles(&self) -> Vec<String> {
        std::mem::take(&mut *self.troubles.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Verdicts that wait.
    pub(super) fn waiting(&self) -> usize {
        self.lock().verdicts.len()
    }

    /// Waits until something is there or `timeout` is over, and takes it. The wish to stop stays.
    pub(super) fn take(&self, timeout: Duration) -> Work {
        let idle = |w: &mut Work| {
            w.verdicts.is_empty()
                && w.outcomes.is_empty()
                && w.rules.is_none()
                && w.known.is_none()
                && w.tags.is_none()
                && w.fresh.is_none()
                && w.stop.is_none()
        };
        let waited = self.woken.wait_timeout_while(self.lock(), timeout, idle);
        let mut work = waited.unwrap_or_else(PoisonError::into_inner).0;
        let stop = work.stop;
        let mut taken = std::mem::take(&mut *work);
        work.stop = stop;
        if taken.verdicts.len() > BATCH {
            work.verdicts = taken.verdicts.split_off(BATCH);
        }
        taken
    }
}
