//! Runs the collectors: polled ones at aligned intervals, streaming ones in their own threads, and one queue to the
//! engine with the ticks in it.
//!
//! A stalled collector never stalls another one or the tick. All polled collectors share one worker thread, so that an
//! idle host wakes one thread a round; when a pass takes longer than [`Options::patience`] while others wait, a fresh
//! worker takes over and the stalled one ends when its pass returns. [`Runner::next`] is both the engine's source of
//! events and the watchdog that does so. A round ends when everything due in it has reported or its grace time is over;
//! then comes [`Event::Tick`], after all batches that belong to it.
//!
//! The runner never looks at values, and never blocks a collector: what does not fit into the queue is dropped, counted
//! and told (`self.lost`).

pub mod clock;
mod queue;
mod schedule;
mod status;
mod stop;
mod streaming;
mod worker;

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use whystall_event::{Batch, Stamp};

use crate::health::State as Health;
use crate::{Built, Stop, Unavailable};
use queue::{Item, Queue};
use schedule::Schedule;
use status::{Own, Status};
use worker::Source;

pub use status::CollectorStatus;
pub use stop::Stopper;

/// Builds a collector again after a panic left it in an unknown state.
pub type Rebuild = Box<dyn FnMut() -> Result<Built, Unavailable> + Send>;

/// A collector to run.
pub struct Job {
    name: String,
    interval: Duration,
    budget: Option<Duration>,
    built: Result<Built, Unavailable>,
    rebuild: Option<Rebuild>,
}

impl Job {
    /// A collector called `name` with a pass each `interval` (which means nothing to a streaming one). One that cannot
    /// work on this host is not run, and reported in `self.collector`.
    pub fn new(name: impl Into<String>, interval: Duration, built: Result<Built, Unavailable>) -> Job {
        Job { name: name.into(), interval, budget: None, built, rebuild: None }
    }

    /// The time that a pass may take, half of the interval if not given.
    #[must_use]
    pub fn budget(mut self, budget: Duration) -> Job {
        self.budget = Some(budget);
        self
    }

    /// How to build it again after a panic; without it the same value is run again.
    #[must_use]
    pub fn rebuild(mut self, rebuild: Rebuild) -> Job {
        self.rebuild = Some(rebuild);
        self
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job").field("name", &self.name).field("interval", &self.interval).finish()
    }
}

/// How a [`Runner`] runs.
#[derive(Debug, Clone)]
pub struct Options {
    /// The time between ticks.
    pub interval: Duration,
    /// How long a tick waits for collectors that have not reported. Default: a quarter of the interval, at most 250 ms.
    pub grace: Duration,
    /// How long one pass may hold up the others before a fresh worker takes over. Default: a third of the grace time.
    pub patience: Duration,
    /// What the batches in the queue may weigh together, in bytes. Default: 32 MiB.
    pub queue_bytes: usize,
}

impl Options {
    /// Ticks each `interval`, the rest by default.
    pub fn every(interval: Duration) -> Options {
        let grace = (interval / 4).min(Duration::from_millis(250));
        Options { interval, grace, patience: grace / 3, queue_bytes: 32 << 20 }
    }
}

/// What the engine's thread is to do next.
#[derive(Debug)]
pub enum Event {
    /// Take in a batch.
    Batch(Batch),
    /// Tick.
    Tick(Tick),
    /// Nothing happened within the timeout.
    Idle,
    /// [`Stopper::stop`] was called and the queue is empty.
    Stopped,
}

/// The end of a round: all batches that belong to it have been handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tick {
    /// The engine's time: when the round ended. Never before the rows of its batches.
    pub at: Stamp,
    /// When the round should have begun, CLOCK_BOOTTIME nanoseconds.
    pub boundary_ns: u64,
    /// How long after its boundary the tick was fetched, without suspend: the time of collecting and any lateness.
    pub late_ns: u64,
    /// How long the machine was suspended since the tick before.
    pub suspended_ns: u64,
    /// How far the wall clock was set (not slewed) since the tick before; 0 if less than two seconds.
    pub clock_step_ns: i64,
    /// Ticks left out since the one before, because nobody had the CPU or the machine slept.
    pub missed: u64,
}

/// Everything behind the lock.
struct State {
    queue: Queue,
    schedule: Schedule,
    statuses: Vec<Status>,
    /// The polled collectors: number in `statuses`, budget, and the collector itself unless it is in a pass.
    polled: Vec<Polled>,
    own: Own,
    drift: clock::Drift,
    /// The worker that owns the schedule; others end after their pass.
    lead: u64,
    /// When the lead's pass began.
    lead_busy: Option<u64>,
    threads: Vec<JoinHandle<()>>,
    stopping: bool,
}

struct Polled {
    status: usize,
    budget_ns: u64,
    source: Option<Source>,
}

struct Shared {
    state: Mutex<State>,
    /// The receiver waits here.
    ready: Condvar,
    /// Workers, and streaming collectors that back off, wait here.
    work: Condvar,
    stop: Stop,
    interval_ns: u64,
    patience_ns: u64,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No foreign code runs under the lock, so that what a panic might leave behind is still sound.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the round if it is time to; returns whether it did.
    fn close_round(&self, st: &mut State, now: u64) -> bool {
        let Some(closed) = st.schedule.close(now) else {
            return false;
        };
        let reading = clock::Reading::take();
        let jump = st.drift.observe(reading);
        let tick = queue::Tick {
            at: reading.stamp,
            boundary_ns: closed.boundary_ns,
            suspended_ns: jump.suspended_ns,
            clock_step_ns: jump.clock_step_ns,
            missed: closed.missed,
        };
        for p in 0..st.polled.len() {
            let status = st.polled[p].status;
            st.statuses[status].seen.interval_ns = Some(st.schedule.effective(p));
        }
        let State { queue, own, statuses, .. } = st;
        own.report(statuses, &tick, self.interval_ns, |batch| queue.push_own(batch));
        queue.push_tick(tick);
        self.ready.notify_one();
        true
    }

    /// Starts a worker that owns the schedule from now on.
    fn start_worker(self: &Arc<Shared>, st: &mut State) -> std::io::Result<()> {
        // The thread waits for the lock that the caller holds.
        let (shared, me) = (self.clone(), st.lead + 1);
        let thread = std::thread::Builder::new()
            .name(WORKER.into())
            .stack_size(STACK)
            .spawn(move || worker::work(&shared, me))?;
        st.lead = me;
        st.lead_busy = None;
        // Those that a stalled pass has outlived are done by now.
        st.threads.retain(|t| !t.is_finished());
        st.threads.push(thread);
        Ok(())
    }
}

impl State {
    /// Puts a collector's batch into the queue; false if it was dropped.
    fn deliver(&mut self, status: usize, mut batch: Batch) -> bool {
        let Some(s) = self.statuses.get_mut(status) else {
            return false;
        };
        s.before_send(&mut batch);
        match self.queue.push(batch) {
            None => true,
            Some(batch) => {
                s.lost(&batch);
                false
            }
        }
    }
}

/// The name of worker threads.
const WORKER: &str = "collect";
/// Stack of a collector's thread: address space, only what is touched becomes memory.
const STACK: usize = 512 << 10;

/// The running collectors, held by the engine's thread.
pub struct Runner {
    shared: Arc<Shared>,
}

impl fmt::Debug for Runner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runner").finish_non_exhaustive()
    }
}

impl Runner {
    /// Starts the collectors; the first round begins at once, later ones at multiples of the interval.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub fn start(jobs: Vec<Job>, options: &Options) -> std::io::Result<Runner> {
        let interval_ns = nanos(options.interval).max(1);
        let mut schedule = Schedule::new(clock::now().boot_ns, interval_ns, nanos(options.grace));
        let (mut statuses, mut polled, mut streams) = (Vec::new(), Vec::new(), Vec::new());
        for job in jobs {
            let number = statuses.len();
            let mut status = Status::new(&job.name, matches!(job.built, Ok(Built::Streaming(_))));
            match job.built {
                Err(e) => status.set(Health::Unavailable, Some(&e.to_string())),
                Ok(Built::Streaming(s)) => streams.push((number, job.name, s, job.rebuild)),
                Ok(Built::Polled(p)) => {
                    let budget = job.budget.unwrap_or(job.interval / 2);
                    schedule.add(nanos(job.interval));
                    let source = Some(Source::new(p, job.rebuild));
                    polled.push(Polled { status: number, budget_ns: nanos(budget), source });
                }
            }
            statuses.push(status);
        }
        let state = State {
            queue: Queue::new(options.queue_bytes),
            schedule,
            statuses,
            polled,
            own: Own::new(),
            drift: clock::Drift::default(),
            lead: 0,
            lead_busy: None,
            threads: Vec::new(),
            stopping: false,
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            ready: Condvar::new(),
            work: Condvar::new(),
            stop: Stop::default(),
            interval_ns,
            patience_ns: nanos(options.patience),
        });
        // From here on a failure must not leave threads behind: dropping the runner stops them.
        let runner = Runner { shared };
        for (number, name, source, rebuild) in streams {
            let shared = runner.shared.clone();
            let thread = std::thread::Builder::new()
                .name(name)
                .stack_size(STACK)
                .spawn(move || streaming::run(&shared, number, source, rebuild))?;
            runner.shared.lock().threads.push(thread);
        }
        runner.shared.start_worker(&mut runner.shared.lock())?;
        Ok(runner)
    }

    /// Waits for what is to be done next, at most `timeout`.
    pub fn next(&mut self, timeout: Duration) -> Event {
        let until = Instant::now().checked_add(timeout);
        let shared = &self.shared;
        let mut st = shared.lock();
        loop {
            let now = clock::now();
            self.watch(&mut st, now.boot_ns);
            match st.queue.pop() {
                Some(Item::Batch(batch)) => return Event::Batch(batch),
                Some(Item::Tick(tick)) => return Event::Tick(self.fetched(&mut st, tick, now)),
                None if st.stopping => return Event::Stopped,
                None => {}
            }
            let left = until.map_or(Duration::MAX, |t| t.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return Event::Idle;
            }
            let watch = Duration::from_nanos(self.watch_again(&st).saturating_sub(now.boot_ns));
            let wait = left.min(watch.max(Duration::from_micros(100))).min(Duration::from_secs(3600));
            st = shared.ready.wait_timeout(st, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Stands in for a worker that is stuck or starved: opens and ends rounds in time, and starts a fresh worker when the
    /// present one has been in a pass for too long while others wait.
    fn watch(&self, st: &mut State, now: u64) {
        if st.stopping {
            return;
        }
        let waiting = st.schedule.next_wake() <= now;
        if let Some(since) = st.lead_busy
            && waiting
            && now.saturating_sub(since) >= self.shared.patience_ns
            && let Err(e) = self.shared.start_worker(st)
        {
            // The others wait on; tried again when the patience has passed once more.
            st.lead_busy = Some(now);
            if let Some(s) = st.schedule.running().next().and_then(|p| st.polled.get(p)).map(|p| p.status) {
                st.statuses[s]
                    .problem(&format!("is stuck, and no thread can be started for the others: {e}"));
            }
        }
        // The worker opens rounds itself unless it is stuck or does not get the CPU.
        let overdue = now.saturating_sub(self.shared.patience_ns);
        st.schedule.begin_overdue(now, overdue);
        self.shared.close_round(st, now);
    }

    /// When [`Runner::watch`] has something to do if nobody else does anything until then.
    fn watch_again(&self, st: &State) -> u64 {
        let patience = self.shared.patience_ns;
        let takeover =
            st.lead_busy.map_or(u64::MAX, |t| t.saturating_add(patience).max(st.schedule.next_wake()));
        let round = st.schedule.grace_over();
        round.unwrap_or(st.schedule.next_round().saturating_add(patience)).min(takeover)
    }

    fn fetched(&self, st: &mut State, tick: queue::Tick, now: Stamp) -> Tick {
        let late_ns = status::lateness(&tick, now);
        let half = self.shared.interval_ns / 2;
        // Lateness of the round itself has been told with it.
        if late_ns > half && status::lateness(&tick, tick.at) <= half {
            st.own.fetched_late(tick.boundary_ns, late_ns);
        }
        Tick {
            at: tick.at,
            boundary_ns: tick.boundary_ns,
            late_ns,
            suspended_ns: tick.suspended_ns,
            clock_step_ns: tick.clock_step_ns,
            missed: tick.missed,
        }
    }

    /// The health of every collector now, in the order of the jobs.
    pub fn status(&self) -> Vec<CollectorStatus> {
        self.shared.lock().statuses.iter().map(|s| s.seen.clone()).collect()
    }

    /// A handle that ends the run from another thread.
    pub fn stopper(&self) -> Stopper {
        Stopper(self.shared.clone())
    }
}

fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
