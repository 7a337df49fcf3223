//! The run: collectors into the engine on one thread, verdicts out on another, and the main thread waiting for signals.

use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::sync::mpsc::{Receiver, SyncSender, channel as unbounded, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use whystall_collectors::runner::{Event, Job, Options, Runner, Stopper, clock};
use whystall_engine::script::{Diagnostic, Level, Rule, Sandbox};
use whystall_engine::{HostFacts, Schema, Tick};

use super::alerts::{self, Alerts};
use super::judge::Judge;
use super::output::{Form, Printer, channel, log};
use super::rule_files::RuleFile;
use super::rule_set::{Choice, RuleSet};
use super::service::{self, Beat, Watchdog};
use super::signals::{Signals, Wake, Waker};
use super::swap::{Order, Polled, Swap};
use super::workloads::Names;
use super::{exceptions::Exceptions, limits, reload, sources};
use crate::config::{Config, ConfigError};
use crate::notify::service::{Handle, Service};

/// Collectors get so long to end.
const STOP_WITHIN: Duration = Duration::from_secs(2);
/// What is still to be printed gets so long when the run ends.
const DRAIN_WITHIN: Duration = Duration::from_secs(2);
/// What is still to be delivered gets so long when the run ends; the rest is kept for the next start.
const DELIVER_WITHIN: Duration = Duration::from_secs(5);
/// After this time, what only the start needed is given back: rules are loaded, probes attached, tables filled.
const SETTLED: Duration = Duration::from_secs(5);
/// How long the engine sleeps if nothing happens; collectors wake it.
const IDLE: Duration = Duration::from_secs(3600);

/// What a run needs.
#[derive(Debug)]
pub struct Plan {
    /// The config.
    pub config: Config,
    /// The collectors, as jobs.
    pub jobs: Vec<Job>,
    /// What rules can read here.
    pub schema: Schema,
    /// Rule files.
    pub files: Vec<RuleFile>,
    /// The host.
    pub facts: HostFacts,
    /// How verdicts are printed.
    pub form: Form,
    /// When to end by itself.
    pub duration: Option<Duration>,
    /// Where config and rules came from, to read them again.
    pub from: reload::Files,
    /// What takes part in reloads.
    pub hooks: Vec<Box<dyn reload::Hook>>,
}

/// Why a run did not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The config's settings of rules are wrong.
    #[error("{0}")]
    Config(ConfigError),
    /// The system refuses something.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A part of whystall failed in a way that it must not.
    #[error("the {0} thread ended unexpectedly")]
    Thread(&'static str),
}

/// What the engine's thread reports once, when it is ready.
struct Ready {
    end: End,
    rules: usize,
    /// Lines for people.
    notes: Vec<String>,
    /// Diagnostics of rules that do not load.
    broken: Vec<Diagnostic>,
}

/// The engine's end of the store.
struct Kept {
    handle: Handle,
    /// The rules' state of an earlier run.
    rules: Option<String>,
}

/// Ends the collectors that run now, which a reload may replace.
#[derive(Debug, Clone)]
struct End(Arc<Mutex<(bool, Stopper)>>);

impl End {
    fn new(stopper: Stopper) -> End {
        End(Arc::new(Mutex::new((false, stopper))))
    }

    fn stop(&self) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.0 = true;
        held.1.stop();
    }

    fn replace(&self, stopper: Stopper) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if held.0 {
            stopper.stop();
        }
        held.1 = stopper;
    }
}

/// Runs until a signal, the end of the time, or a closed standard output. `about` says what is watched, `notes` what is
/// not.
///
/// # Errors
/// If it cannot start, or a thread of it fails.
pub fn run(mut plan: Plan, signals: &mut Signals, about: &str, notes: &[String]) -> Result<(), RunError> {
    let interval = sources::tick(&plan.config);
    let (form, until) = (plan.form, plan.duration.map(|d| Instant::now() + d));
    let host = plan.facts.host.clone();
    let Alerts { service: notifier, rules, notes: told } =
        alerts::start(&plan.config, &host).map_err(RunError::Config)?;
    let kept = notifier.as_ref().map(|s| Kept { handle: s.handle(), rules });
    let beat = Beat::default();
    let mut watchdog = Watchdog::new(beat.clone(), interval);
    let (printer, printing) = channel();
    let (ready_to, ready) = sync_channel(1);
    let waker = signals.waker();
    let (orders_to, orders) = unbounded();
    let (from, mut hooks) = (plan.from.clone(), std::mem::take(&mut plan.hooks));
    hooks.push(Box::new(alerts::OnReload::new(notifier.as_ref().map(Service::handle), host.clone())));
    let mut begun = reload::Begun {
        config: plan.config.clone(),
        schema: plan.schema.clone(),
        files: plan.files.clone(),
        broken: false,
    };
    let engine = thread("engine", &waker, move || engine(plan, kept, &beat, printer, &ready_to, orders))?;
    let printer = thread("output", &waker, move || printing.run(form, Names::default()))?;
    let ready = match ready.recv() {
        Ok(Ok(ready)) => ready,
        Ok(Err(e)) => return Err(e),
        Err(_) => return Err(RunError::Thread("engine")),
    };
    log(&format!(
        "watching {host}: {about}, {} {}, every {}",
        ready.rules,
        if ready.rules == 1 { "rule" } else { "rules" },
        whystall_event::format_duration(sources::nanos(interval))
    ));
    notes.iter().chain(&told).chain(&ready.notes).for_each(|n| log(n));
    for d in &ready.broken {
        // A diagnostic has several lines and is escaped.
        let _ = io::Write::write_fmt(&mut io::stderr(), format_args!("{d}"));
    }
    begun.broken = !ready.broken.is_empty();
    let reload = reload::start(from, begun, hooks, orders_to)?;
    service::ready();
    let mut settles = Some(Instant::now() + SETTLED);
    loop {
        if settles.is_some_and(|at| Instant::now() >= at) {
            limits::give_back();
            settles = None;
        }
        // The watchdog's time is one more to wake at.
        let alive = watchdog.as_mut().map(|w| w.poll(Instant::now()));
        let wake = signals.wait(until.into_iter().chain(alive).chain(settles).min())?;
        if wake == Wake::Timeout && until.is_none_or(|u| Instant::now() < u) {
            continue;
        }
        match wake {
            // Only a thread's end wakes: it failed, or standard output was closed.
            Wake::End | Wake::Timeout | Wake::Closed | Wake::Woken => break,
            Wake::Reload => {
                log("SIGHUP: reading the config and the rules again");
                reload.ask();
            }
        }
    }
    service::stopping();
    ready.end.stop();
    let stuck = join(engine, "engine")??;
    if !stuck.is_empty() {
        log(&format!("these collectors did not end in time: {}", stuck.join(", ")));
    }
    if notifier.is_some_and(|s| !s.stop(DELIVER_WITHIN)) {
        log("the store did not end in time; its last changes may be missing");
    }
    // The engine has dropped its end of the channel, so the printer ends when all is printed, if somebody reads it.
    let end = Instant::now() + DRAIN_WITHIN;
    while !printer.is_finished() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(2));
    }
    if !printer.is_finished() {
        log("the last verdicts were not printed because nobody read them");
        return Ok(());
    }
    match join(printer, "output")? {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(e.into()),
        _ => Ok(()),
    }
}

/// A thread that wakes the main thread when it ends, however it ends.
fn thread<T: Send + 'static>(
    name: &'static str,
    waker: &Waker,
    f: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    struct Wakes(Waker);
    impl Drop for Wakes {
        fn drop(&mut self) {
            self.0.wake();
        }
    }
    let wakes = Wakes(waker.clone());
    Builder::new().name(name.into()).spawn(move || {
        let _wakes = wakes;
        f()
    })
}

fn join<T>(thread: JoinHandle<T>, name: &'static str) -> Result<T, RunError> {
    thread.join().map_err(|_| RunError::Thread(name))
}

/// Each rule's tags, for routes.
fn tags<'a>(rules: impl Iterator<Item = &'a Rc<Rule>>) -> BTreeMap<String, Vec<String>> {
    rules.map(|r| (r.manifest.id.clone(), r.manifest.tags.clone())).collect()
}

/// The engine's thread: compiles the rules, starts the collectors, and judges. Returns the collectors that did not end.
fn engine(
    plan: Plan,
    kept: Option<Kept>,
    beat: &Beat,
    mut printer: Printer,
    ready: &SyncSender<Result<Ready, RunError>>,
    orders: Receiver<Order>,
) -> Result<Vec<String>, RunError> {
    let interval = sources::tick(&plan.config);
    let sandbox = Rc::new(Sandbox::new());
    let choice = Choice { config: &plan.config, only_served: true };
    let set = RuleSet::load(plan.files, &sandbox, &plan.schema, choice);
    if !set.bad_settings.is_empty() {
        let source = plan.config.source().clone();
        let _ = ready.send(Err(RunError::Config(ConfigError { problems: set.bad_settings, source })));
        return Ok(Vec::new());
    }
    let rules: Vec<Rc<Rule>> = set.running.iter().map(|l| l.rule.clone()).collect();
    let count = rules.len();
    let mut judge = Judge::new(rules, &sandbox, sources::nanos(interval), plan.facts);
    judge.except(Exceptions::of(&plan.config), Some(Names::default()));
    let store = kept.map(|k| {
        k.handle.tags(tags(set.running.iter().map(|l| &l.rule)));
        k.handle.known(judge.restore(k.rules.as_deref(), clock::now()));
        k.handle
    });
    let mut runner = match Runner::start(plan.jobs, &Options::every(interval)) {
        Ok(runner) => runner,
        Err(e) => {
            let _ = ready.send(Err(e.into()));
            return Ok(Vec::new());
        }
    };
    let idle = set.idle.iter().map(|i| format!("not running {}: {}", i.id, i.why));
    let strangers = set.strangers.iter().map(|p| {
        format!(
            "warning: line {} of the config: {}{}",
            p.line,
            p.message,
            p.help.as_ref().map(|h| format!(" ({h})")).unwrap_or_default()
        )
    });
    judge.refused(reload::brief(&set.diagnostics));
    let end = End::new(runner.stopper());
    let told = Ready {
        end: end.clone(),
        rules: count,
        notes: set.notes.into_iter().chain(strangers).chain(idle).collect(),
        broken: set.diagnostics.into_iter().filter(|d| d.level == Level::Error).collect(),
    };
    if ready.send(Ok(told)).is_err() {
        return Ok(runner.stop(STOP_WITHIN));
    }
    let mut swap = Swap::new(orders, &set.running, set.libraries, plan.schema);
    drop(set.running);
    loop {
        // While there is a change to prepare, only what is queued goes before it.
        match runner.next(if swap.busy() { Duration::ZERO } else { IDLE }) {
            Event::Batch(batch) => judge.ingest(&batch),
            Event::Tick(t) => {
                for trouble in store.as_ref().map(Handle::take_troubles).unwrap_or_default() {
                    judge.problem("store", &trouble, t.at);
                }
                let (verdicts, problems) = judge.tick(Tick { at: t.at, suspended_ns: t.suspended_ns });
                for p in problems {
                    printer.log(format!("rule {}: {}", p.rule, p.what));
                }
                for v in verdicts {
                    if let Some(s) = &store {
                        s.verdict(v.clone());
                    }
                    printer.verdict(v);
                }
                if let Some((s, state)) = store.as_ref().and_then(|s| Some((s, judge.changed_state(t.at)?))) {
                    s.rules(state);
                }
                beat.beat();
                if let Polled::Refused(why) = swap.poll() {
                    judge.refused(why);
                }
            }
            Event::Idle => {
                if let Some(mut changed) = swap.step(&sandbox) {
                    if let Some(s) = &store {
                        s.tags(tags(changed.rules.iter()));
                    }
                    judge.load(std::mem::take(&mut changed.rules));
                    judge.refused(None);
                    if let Some(jobs) = changed.jobs.take() {
                        replace(&mut runner, &mut judge, jobs, interval, &end)?;
                    }
                    judge.except(std::mem::take(&mut changed.exceptions), Some(Names::default()));
                    changed.tell();
                }
            }
            Event::Stopped => {
                if let Some(s) = &store {
                    s.rules(judge.state(clock::now()));
                }
                judge.silenced().lines().into_iter().for_each(|line| printer.log(line));
                return Ok(runner.stop(STOP_WITHIN));
            }
        }
    }
}

/// Starts other collectors, then ends the present ones; what these have delivered is still taken in.
fn replace(
    runner: &mut Runner,
    judge: &mut Judge,
    jobs: Vec<Job>,
    interval: Duration,
    end: &End,
) -> Result<(), RunError> {
    let next = Runner::start(jobs, &Options::every(interval))?;
    end.replace(next.stopper());
    let mut old = std::mem::replace(runner, next);
    old.stopper().stop();
    loop {
        match old.next(Duration::ZERO) {
            Event::Batch(batch) => judge.ingest(&batch),
            // The new ones tick.
            Event::Tick(_) => {}
            Event::Idle | Event::Stopped => break,
        }
    }
    // A collector that is stuck must not hold up the engine; without a thread, dropping it ends it as well.
    let _ = Builder::new().name("ending".into()).spawn(move || old.stop(STOP_WITHIN));
    Ok(())
}
