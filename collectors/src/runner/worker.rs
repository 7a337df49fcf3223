//! The thread that makes the passes of polled collectors.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::schedule::Verdict;
use super::{Rebuild, Shared, State, clock};
use crate::health::State as Health;
use crate::{Built, CollectError, Pass, Polled};

/// Panics, without a long good time between them, after which a collector is dead.
pub(super) const MOST_PANICS: u32 = 5;
/// Good passes that let earlier panics be forgotten.
const FORGET_PASSES: u32 = 60;

/// A polled collector and how to build it again.
pub(super) struct Source {
    /// `None` after a panic, until it is built again.
    polled: Option<Box<dyn Polled>>,
    rebuild: Option<Rebuild>,
}

impl Source {
    pub(super) fn new(polled: Box<dyn Polled>, rebuild: Option<Rebuild>) -> Source {
        Source { polled: Some(polled), rebuild }
    }
}

/// How a pass ended.
enum Outcome {
    Fine,
    Nothing(String),
    Failed(String),
    Panicked(String),
}

struct Report {
    outcome: Outcome,
    rebuilt: bool,
    took_ns: u64,
    cpu_ns: u64,
}

/// Runs what is due until the end of the run or until another worker took over.
pub(super) fn work(shared: &Arc<Shared>, me: u64) {
    let mut st = shared.lock();
    while !st.stopping && st.lead == me {
        let now = clock::now().boot_ns;
        st.schedule.begin(now);
        if let Some(p) = st.schedule.take(now) {
            let Some((mut source, budget_ns)) =
                st.polled.get_mut(p).and_then(|p| Some((p.source.take()?, p.budget_ns)))
            else {
                st.schedule.done(p, now, 0, Verdict::Dead);
                continue;
            };
            st.lead_busy = Some(now);
            drop(st);
            let began = clock::now();
            let mut pass = Pass::new(began, clock::now, budget_ns);
            let report = run_pass(&mut source, &mut pass);
            st = shared.lock();
            if st.lead == me {
                st.lead_busy = None;
            }
            finish(&mut st, p, source, pass, &report);
            if st.queue.half_full() {
                shared.ready.notify_one();
            }
            shared.close_round(&mut st, clock::now().boot_ns);
            continue;
        }
        if shared.close_round(&mut st, now) {
            continue;
        }
        // A worker whose successor waits for a straggler leaves the grace time to the receiver.
        let wait = Duration::from_nanos(st.schedule.next_wake().saturating_sub(now));
        let wait = wait.clamp(Duration::from_micros(50), Duration::from_secs(3600));
        st = shared.work.wait_timeout(st, wait).unwrap_or_else(PoisonError::into_inner).0;
    }
}

fn run_pass(source: &mut Source, pass: &mut Pass) -> Report {
    let cpu = clock::thread_cpu_ns();
    let began = pass.at.boot_ns;
    let mut rebuilt = false;
    let result = catch_unwind(AssertUnwindSafe(|| {
        if source.polled.is_none() {
            rebuilt = true;
            source.polled = match source.rebuild.as_mut().map(|build| build()) {
                Some(Ok(Built::Polled(p))) => Some(p),
                Some(Ok(Built::Streaming(_))) | None => None,
                Some(Err(e)) => return Err(CollectError::Other(format!("cannot be built again: {e}"))),
            };
        }
        match source.polled.as_mut() {
            Some(p) => p.collect(pass),
            None => Err(CollectError::Other("is gone".into())),
        }
    }));
    let outcome = match result {
        Ok(Ok(())) => Outcome::Fine,
        Ok(Err(CollectError::Nothing(why))) => Outcome::Nothing(why),
        Ok(Err(e)) => Outcome::Failed(e.to_string()),
        Err(payload) => {
            // What a panic interrupted may be half a truth.
            pass.batches.clear();
            if source.rebuild.is_some() {
                let broken = source.polled.take();
                let _ = catch_unwind(AssertUnwindSafe(|| drop(broken)));
            }
            Outcome::Panicked(panic_text(&*payload))
        }
    };
    Report {
        outcome,
        rebuilt,
        took_ns: clock::now().boot_ns.saturating_sub(began),
        cpu_ns: clock::thread_cpu_ns().saturating_sub(cpu),
    }
}

/// What a panic said.
pub(super) fn panic_text(payload: &(dyn std::any::Any + Send)) -> String {
    let said = payload.downcast_ref::<&str>().copied();
    let said = said.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    format!("panicked: {}", said.unwrap_or("without a message"))
}

/// Takes in what a pass brought.
fn finish(st: &mut State, p: usize, source: Source, pass: Pass, report: &Report) {
    let Some(polled) = st.polled.get_mut(p) else {
        return;
    };
    polled.source = Some(source);
    let (number, budget_ns) = (polled.status, polled.budget_ns);
    for batch in pass.batches {
        st.deliver(number, batch);
    }
    let Some(s) = st.statuses.get_mut(number) else {
        return;
    };
    s.seen.passes += 1;
    s.seen.duration_ns = Some(report.took_ns);
    s.seen.overruns += u64::from(report.took_ns > budget_ns);
    s.seen.restarts += u64::from(report.rebuilt);
    // Being slow because the host stalls is no reason to look away, and a pass that blocks already holds up only itself;
    // using much of a CPU is a reason.
    let costly = report.cpu_ns > budget_ns;
    let mut verdict = if costly { Verdict::Bad } else { Verdict::Good };
    match &report.outcome {
        Outcome::Fine => {
            s.set(Health::Ok, None);
            s.good_in_row = s.good_in_row.saturating_add(1);
            if s.good_in_row >= FORGET_PASSES {
                s.recent_panics = 0;
            }
        }
        Outcome::Nothing(why) => s.set(Health::Nothing, Some(why)),
        Outcome::Failed(why) => {
            verdict = Verdict::Bad;
            s.seen.failures += 1;
            s.good_in_row = 0;
            s.set(Health::Failing, Some(why));
        }
        Outcome::Panicked(why) => {
            verdict = Verdict::Bad;
            s.seen.panics += 1;
            s.good_in_row = 0;
            s.recent_panics += 1;
            s.problem(why);
            if s.recent_panics >= MOST_PANICS {
                verdict = Verdict::Dead;
                s.set(Health::Dead, Some(why));
            } else {
                s.set(Health::Failing, Some(why));
            }
        }
    }
    st.schedule.done(p, clock::now().boot_ns, report.took_ns, verdict);
}
