//! The thread of a streaming collector: runs it, starts it again with backoff when it ends, and is its sink.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use whystall_event::{Batch, Stamp};

use super::worker::{MOST_PANICS, panic_text};
use super::{Rebuild, Shared, clock};
use crate::health::State as Health;
use crate::{Built, CollectError, Sink, Streaming};

const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);
/// A run that lasted this long forgives what went before it.
const LONG_RUN: Duration = Duration::from_secs(60);

/// Runs `source` until the end of the run, or until it is dead.
pub(super) fn run(
    shared: &Arc<Shared>,
    status: usize,
    source: Box<dyn Streaming>,
    mut rebuild: Option<Rebuild>,
) {
    let sink = RunnerSink { shared, status };
    let mut source = Some(source);
    let mut backoff = FIRST_BACKOFF;
    loop {
        let began = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| {
            if source.is_none() {
                source = match rebuild.as_mut().map(|build| build()) {
                    Some(Ok(Built::Streaming(s))) => Some(s),
                    Some(Ok(Built::Polled(_))) | None => None,
                    Some(Err(e)) => return Err(CollectError::Other(format!("cannot be built again: {e}"))),
                };
            }
            match source.as_mut() {
                Some(s) => s.run(&sink, &shared.stop),
                None => Err(CollectError::Other("is gone".into())),
            }
        }));
        if shared.stop.is_set() {
            return;
        }
        if result.is_err() && rebuild.is_some() {
            let broken = source.take();
            let _ = catch_unwind(AssertUnwindSafe(|| drop(broken)));
        }
        let lasted = began.elapsed();
        if lasted >= LONG_RUN {
            backoff = FIRST_BACKOFF;
        }
        if ended(shared, status, result, lasted) || pause(shared, jittered(backoff)) {
            return;
        }
        backoff = (backoff * 2).min(LONGEST_BACKOFF);
        if let Some(s) = shared.lock().statuses.get_mut(status) {
            s.seen.restarts += 1;
        }
    }
}

/// Records how a run ended; true if the collector is dead.
fn ended(
    shared: &Shared,
    status: usize,
    result: std::thread::Result<Result<(), CollectError>>,
    lasted: Duration,
) -> bool {
    let mut st = shared.lock();
    let Some(s) = st.statuses.get_mut(status) else {
        return true;
    };
    s.interrupted();
    s.seen.duration_ns = Some(super::nanos(lasted));
    if lasted >= LONG_RUN {
        s.recent_panics = 0;
    }
    match result {
        Ok(Ok(())) => s.set(Health::Failing, Some("its source ended")),
        Ok(Err(CollectError::Nothing(why))) => s.set(Health::Nothing, Some(&why)),
        Ok(Err(e)) => {
            s.seen.failures += 1;
            s.set(Health::Failing, Some(&e.to_string()));
        }
        Err(payload) => {
            let why = panic_text(&*payload);
            s.seen.panics += 1;
            s.recent_panics += 1;
            s.problem(&why);
            if s.recent_panics >= MOST_PANICS {
                s.set(Health::Dead, Some(&why));
                return true;
            }
            s.set(Health::Failing, Some(&why));
        }
    }
    false
}

/// Waits; true if the run ends.
fn pause(shared: &Shared, time: Duration) -> bool {
    let until = Instant::now() + time;
    let mut st = shared.lock();
    while !st.stopping {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        st = shared.work.wait_timeout(st, left).unwrap_or_else(PoisonError::into_inner).0;
    }
    true
}

/// Up to a quarter more or less, so that hosts that fail together do not retry together.
fn jittered(backoff: Duration) -> Duration {
    let random = clock::now().wall_ns / 1000 % 1000;
    backoff.mul_f64(0.75 + random as f64 / 2000.0)
}

struct RunnerSink<'a> {
    shared: &'a Shared,
    status: usize,
}

impl Sink for RunnerSink<'_> {
    fn now(&self) -> Stamp {
        clock::now()
    }

    fn send(&self, batch: Batch) -> bool {
        let mut st = self.shared.lock();
        let sent = st.deliver(self.status, batch);
        // The receiver looks at its next tick; only a queue that fills up wakes it before.
        if st.queue.half_full() {
            self.shared.ready.notify_one();
        }
        sent
    }

    fn problem(&self, what: &str) {
        if let Some(s) = self.shared.lock().statuses.get_mut(self.status) {
            s.problem(what);
        }
    }
}
