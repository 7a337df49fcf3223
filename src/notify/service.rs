//! The store's thread and the one that delivers. The first owns the store and the dispatcher and does what they say in
//! this order: commit, then send. The second runs receivers on a small async runtime and exists only if there are any.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use whystall_collectors::runner::clock;
use whystall_engine::verdict::{State, Verdict};
use whystall_event::format_rfc3339;

use super::dispatch::{Dispatch, Effects, Policy, Send as Sending};
use super::inbox::{Inbox, Work};
use super::{Content, Notification, Outcome, Receiver};
use crate::store::{Body, Op, Retention, Store};

/// How often the store is looked at for what commands changed, where there are receivers.
const LOOK: Duration = Duration::from_secs(1);
/// How often old incidents are removed; for the first time after a minute.
const PRUNE_EVERY: Duration = Duration::from_secs(3600);
const PRUNE_FIRST: Duration = Duration::from_secs(60);
/// The longest sleep.
const IDLE: Duration = Duration::from_secs(3600);
/// Receivers have deadlines of their own; this one is for those that forget.
const DELIVERY_WITHIN: Duration = Duration::from_secs(300);
/// The key under which the rules' state is kept.
pub const RULES: &str = "rules";

/// Receivers, in the policy's order.
pub type Receivers = Vec<Arc<dyn Receiver>>;
/// Puts names into a verdict before it is kept and told.
pub type Prepare = Box<dyn FnMut(&mut Verdict) + Send>;
/// Tells operators a line.
pub type Log = Box<dyn Fn(&str) + Send>;

/// What the service begins with.
pub struct Setup {
    /// The opened store.
    pub store: Store,
    /// What is kept.
    pub retention: Retention,
    /// Who is told what.
    pub policy: Policy,
    /// The receivers of the policy, in its order.
    pub receivers: Receivers,
    /// See [`Prepare`].
    pub prepare: Prepare,
    /// See [`Log`].
    pub log: Log,
}

impl fmt::Debug for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Setup").field("policy", &self.policy).finish_non_exhaustive()
    }
}

/// A changed config.
pub struct Fresh {
    /// Who is told what; its tags are taken from the one before.
    pub policy: Policy,
    /// The receivers of the policy, in its order.
    pub receivers: Receivers,
    /// What is kept.
    pub retention: Retention,
    /// See [`Prepare`].
    pub prepare: Prepare,
}

impl fmt::Debug for Fresh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fresh").field("policy", &self.policy).finish_non_exhaustive()
    }
}

/// The other threads' end. Nothing here waits.
#[derive(Debug, Clone)]
pub struct Handle(Arc<Inbox>);

impl Handle {
    /// A transition of an incident.
    pub fn verdict(&self, v: Verdict) {
        self.0.verdict(v);
    }

    /// Verdicts that wait for the store.
    pub fn waiting(&self) -> usize {
        self.0.waiting()
    }

    /// The rules' state, to begin with after a restart.
    pub fn rules(&self, json: String) {
        self.0.put(|w| w.rules = Some(json));
    }

    /// The engine begins, and knows of these incidents of an earlier run; others that are open are withdrawn.
    pub fn known(&self, incidents: Vec<String>) {
        self.0.put(|w| w.known = Some(incidents));
    }

    /// The rules' tags, by rule.
    pub fn tags(&self, tags: BTreeMap<String, Vec<String>>) {
        self.0.put(|w| w.tags = Some(tags));
    }

    /// What went wrong with the store since the last call.
    pub fn take_troubles(&self) -> Vec<String> {
        self.0.take_troubles()
    }

    /// The config changed.
    pub fn configure(&self, fresh: Fresh) {
        self.0.put(|w| w.fresh = Some(Box::new(fresh)));
    }
}

/// The running threads.
#[derive(Debug)]
pub struct Service {
    inbox: Arc<Inbox>,
    thread: JoinHandle<()>,
}

impl Service {
    /// Starts.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub fn start(setup: Setup) -> io::Result<Service> {
        let inbox = Arc::new(Inbox::default());
        let own = inbox.clone();
        let thread = Builder::new().name("store".into()).spawn(move || Keeper::new(setup, own).run())?;
        Ok(Service { inbox, thread })
    }

    /// An end for another thread.
    pub fn handle(&self) -> Handle {
        Handle(self.inbox.clone())
    }

    /// Whether it ended, which it does not by itself.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Writes what waits and delivers what it can, but returns after `within` at the latest, and a little for writing.
    /// Returns whether everything was written.
    pub fn stop(self, within: Duration) -> bool {
        let end = Instant::now() + within;
        self.inbox.put(|w| w.stop = Some(end));
        // A disk that hangs must not hold the end up for ever.
        let patience = end + Duration::from_secs(3);
        while !self.thread.is_finished() && Instant::now() < patience {
            std::thread::sleep(Duration::from_millis(2));
        }
        self.thread.is_finished() && self.thread.join().is_ok()
    }
}

struct Keeper {
    store: Store,
    dispatch: Dispatch,
    inbox: Arc<Inbox>,
    deliver: Option<Deliverer>,
    setup_log: Log,
    prepare: Prepare,
    retention: Retention,
    tags: BTreeMap<String, Vec<String>>,
    prune_at: Instant,
    look_at: Instant,
    /// Where deliveries would be under way that an earlier set of receivers began.
    generation: u64,
}

impl Keeper {
    fn new(setup: Setup, inbox: Arc<Inbox>) -> Keeper {
        let now = clock::now().wall_ns;
        let deliver = Deliverer::start(setup.receivers, &inbox, &setup.log);
        let mut k = Keeper {
            store: setup.store,
            dispatch: Dispatch::new(setup.policy, now),
            inbox,
            deliver,
            setup_log: setup.log,
            prepare: setup.prepare,
            retention: setup.retention,
            tags: BTreeMap::new(),
            prune_at: Instant::now() + PRUNE_FIRST,
            look_at: Instant::now(),
            generation: 0,
        };
        let mut effects = k.look(now, true);
        match k.store.recover() {
            Ok(left) => join(&mut effects, k.dispatch.recover(left, now)),
            Err(e) => (k.setup_log)(&format!("the store cannot be read: {e}")),
        }
        k.recall();
        k.act(effects, now);
        k
    }

    fn recall(&mut self) {
        for (lane, name) in self.dispatch.receivers().into_iter().enumerate() {
            let get = |what: &str| self.store.meta(&format!("{what}/{name}")).ok().flatten();
            let (heartbeat, digest) = (get("heartbeat"), get("digest"));
            self.dispatch.recall(lane, heartbeat.as_deref(), digest.as_deref());
        }
    }

    fn run(mut self) {
        loop {
            let mut work = self.inbox.take(self.sleep());
            let now = clock::now().wall_ns;
            let stop = work.stop;
            let mut effects = Effects::default();
            self.take_in(&mut work, now, &mut effects);
            if self.deliver.is_some() && Instant::now() >= self.look_at {
                self.look_at = Instant::now() + LOOK;
                join(&mut effects, self.look(now, false));
            }
            join(&mut effects, self.dispatch.advance(now));
            self.act(effects, now);
            if Instant::now() >= self.prune_at {
                self.prune_at = Instant::now() + PRUNE_EVERY;
                if let Err(e) = self.store.prune(self.retention, now) {
                    (self.setup_log)(&format!("old incidents cannot be removed from the store: {e}"));
                }
            }
            if let Some(end) = stop {
                let idle = self.dispatch.flying() == 0 && self.inbox.waiting() == 0;
                if idle || Instant::now() >= end {
                    let left = self.dispatch.pending();
                    if left > 0 {
                        let fate = if self.store.is_durable() { "kept for the next start" } else { "lost" };
                        (self.setup_log)(&format!("{left} notifications are not delivered yet and {fate}"));
                    }
                    return;
                }
            }
        }
    }

    fn sleep(&self) -> Duration {
        let now = clock::now().wall_ns;
        let due = self.dispatch.next_wake().map(|at| Duration::from_nanos(at.saturating_sub(now)));
        let mut sleep = due.unwrap_or(IDLE).min(self.prune_at.saturating_duration_since(Instant::now()));
        if self.deliver.is_some() {
            sleep = sleep.min(self.look_at.saturating_duration_since(Instant::now()));
        }
        if self.store.is_behind() {
            sleep = sleep.min(LOOK);
        }
        // Rounded up, so that what is due is due when it wakes; and while it stops, it looks at the deadline.
        sleep.max(Duration::from_millis(1))
    }

    fn take_in(&mut self, work: &mut Work, now: u64, effects: &mut Effects) {
        if let Some(tags) = work.tags.take() {
            self.tags.clone_from(&tags);
            self.dispatch.tags(tags);
        }
        if let Some(known) = work.known.take() {
            match self.store.recover() {
                Ok(left) => {
                    for v in left.incidents.into_iter().filter(|v| is_open(v) && !known.contains(&v.incident))
                    {
                        join(effects, self.dispatch.verdict(withdrawn(v, now), now));
                    }
                }
                Err(e) => effects.log.push(format!("open incidents of an earlier run cannot be read: {e}")),
            }
        }
        for (row, outcome) in work.outcomes.drain(..) {
            join(effects, self.dispatch.outcome(row, outcome, now));
        }
        for mut v in work.verdicts.drain(..) {
            (self.prepare)(&mut v);
            join(effects, self.dispatch.verdict(v, now));
        }
        if work.lost > 0 {
            effects.log.push(format!("{} verdicts were lost because the store was too slow", work.lost));
        }
        if let Some(json) = work.rules.take() {
            effects.ops.push(Op::Meta(RULES.into(), json));
        }
        if let Some(fresh) = work.fresh.take() {
            self.configure(*fresh, now, effects);
        }
    }

    /// Changes receivers. What is under way is begun again: at least once, with the same id.
    fn configure(&mut self, mut fresh: Fresh, now: u64, effects: &mut Effects) {
        // What was decided so far goes first: the rows are read back.
        let before = std::mem::take(effects);
        self.store.commit(before.ops, now);
        effects.log = before.log;
        self.generation += 1;
        self.deliver = Deliverer::start(fresh.receivers, &self.inbox, &self.setup_log);
        self.prepare = fresh.prepare;
        self.retention = fresh.retention;
        fresh.policy.tags.clone_from(&self.tags);
        match self.store.recover() {
            Ok(left) => join(effects, self.dispatch.configure(fresh.policy, left, now)),
            Err(e) => effects.log.push(format!("the outbox cannot be read: {e}")),
        }
        self.recall();
    }

    /// Heeds what commands changed in the store.
    fn look(&mut self, now: u64, first: bool) -> Effects {
        let mut effects = Effects::default();
        if !self.store.changed_outside() && !first {
            return effects;
        }
        match self.store.silences() {
            Ok(all) => join(&mut effects, self.dispatch.silences(all, now)),
            Err(e) => effects.log.push(format!("silences cannot be read: {e}")),
        }
        match self.store.take_requests() {
            Ok(requests) if requests.is_empty() || first => {}
            Ok(requests) => match self.store.recover() {
                Ok(all) => {
                    let mut all = Some(all);
                    for which in requests {
                        let all = all.take().unwrap_or_default();
                        join(&mut effects, self.dispatch.retry(all, &which, now));
                    }
                }
                Err(e) => effects.log.push(format!("the outbox cannot be read: {e}")),
            },
            Err(e) => effects.log.push(format!("requests cannot be read: {e}")),
        }
        effects
    }

    /// Commits, then sends.
    fn act(&mut self, effects: Effects, now: u64) {
        self.store.commit(effects.ops, now);
        let news = self.store.take_news();
        for line in effects.log.iter().chain(&news) {
            (self.setup_log)(line);
        }
        self.inbox.trouble(news);
        for s in effects.sends {
            let outcome = match self.notification(&s) {
                Some(n) => match &self.deliver {
                    Some(d) => {
                        d.send(Job { row: s.row, receiver: s.receiver, n });
                        continue;
                    }
                    None => Outcome::Retry { why: "no receivers run".into(), after: None, progress: None },
                },
                None => Outcome::Permanent { why: "its verdict is no longer in the store".into() },
            };
            self.inbox.put(|w| w.outcomes.push((s.row, outcome)));
        }
    }

    fn notification(&self, s: &Sending) -> Option<Notification> {
        let (body, progress) = self.store.body(s.row, s.incident.as_deref(), s.seq);
        let content = match body {
            Body::Verdict(json) => Content::Verdict(Box::new(serde_json::from_str(&json).ok()?)),
            Body::Notice(json) => Content::Notice(serde_json::from_str(&json).ok()?),
            Body::Gone => return None,
        };
        Some(Notification { id: s.nid.clone(), content, attempts: s.attempts, progress })
    }
}

fn join(to: &mut Effects, more: Effects) {
    to.ops.extend(more.ops);
    to.sends.extend(more.sends);
    to.log.extend(more.log);
}

fn is_open(v: &Verdict) -> bool {
    matches!(v.state, State::Firing | State::Updated)
}

/// The end of an incident of an earlier run that nobody watches any more.
fn withdrawn(v: Verdict, now: u64) -> Verdict {
    let at = format_rfc3339(now);
    Verdict {
        seq: v.seq.saturating_add(1),
        state: State::Withdrawn,
        summary: format!("whystall was restarted and no longer knows whether this lasts: {}", v.summary),
        updated_at: at.clone(),
        resolved_at: Some(at),
        ..v
    }
}

/// One delivery.
struct Job {
    row: u64,
    receiver: usize,
    n: Notification,
}

/// The delivering thread; dropping this ends it and what it has under way.
struct Deliverer {
    to: UnboundedSender<Job>,
}

impl Deliverer {
    fn start(receivers: Receivers, inbox: &Arc<Inbox>, log: &Log) -> Option<Deliverer> {
        if receivers.is_empty() {
            return None;
        }
        let (to, from) = unbounded_channel();
        let inbox = inbox.clone();
        let started = tokio::runtime::Builder::new_current_thread().enable_all().build().and_then(|rt| {
            Builder::new().name("notify".into()).spawn(move || {
                rt.block_on(deliver(receivers, from, inbox));
                // A receiver in a blocking call must not hold the end up.
                rt.shutdown_background();
            })
        });
        match started {
            Ok(_) => Some(Deliverer { to }),
            Err(e) => {
                log(&format!("notifications cannot be delivered: {e}"));
                None
            }
        }
    }

    fn send(&self, job: Job) {
        // The thread lives as long as this.
        let _ = self.to.send(job);
    }
}

async fn deliver(receivers: Receivers, mut from: UnboundedReceiver<Job>, inbox: Arc<Inbox>) {
    while let Some(job) = from.recv().await {
        let Some(receiver) = receivers.get(job.receiver).cloned() else { continue };
        let mut report = Report { inbox: inbox.clone(), row: job.row, outcome: None };
        tokio::spawn(async move {
            let tried = tokio::time::timeout(DELIVERY_WITHIN, receiver.deliver(&job.n)).await;
            report.is(tried.unwrap_or_else(|_| Outcome::Retry {
                why: "the receiver took too long".into(),
                after: None,
                progress: job.n.progress.clone(),
            }));
        });
    }
}

/// Reports what came of a delivery, also if the receiver panicked.
struct Report {
    inbox: Arc<Inbox>,
    row: u64,
    outcome: Option<Outcome>,
}

impl Report {
    fn is(&mut self, outcome: Outcome) {
        self.outcome = Some(outcome);
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        let failed = || Outcome::Retry { why: "the delivery broke off".into(), after: None, progress: None };
        let (row, outcome) = (self.row, self.outcome.take().unwrap_or_else(failed));
        self.inbox.put(|w| w.outcomes.push((row, outcome)));
    }
}
