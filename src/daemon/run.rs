//! The run: collectors into the engine on one thread, verdicts out on another, and the main thread waiting for signals.

use std::io;
use std::rc::Rc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use whystall_collectors::runner::{Event, Job, Options, Runner, Stopper};
use whystall_engine::script::{Diagnostic, Level, Rule, Sandbox};
use whystall_engine::{HostFacts, Schema, Tick};

use super::judge::Judge;
use super::output::{Form, Printer, channel, log};
use super::rule_files::RuleFile;
use super::rule_set::{Choice, RuleSet};
use super::signals::{Signals, Wake, Waker};
use super::workloads::Names;
use super::{exceptions::Exceptions, sources};
use crate::config::{Config, ConfigError};

/// Collectors get so long to end.
const STOP_WITHIN: Duration = Duration::from_secs(2);
/// What is still to be printed gets so long when the run ends.
const DRAIN_WITHIN: Duration = Duration::from_secs(2);
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
    stopper: Stopper,
    rules: usize,
    /// Lines for people.
    notes: Vec<String>,
    /// Diagnostics of rules that do not load.
    broken: Vec<Diagnostic>,
}

/// Runs until a signal, the end of the time, or a closed standard output. `about` says what is watched, `notes` what is
/// not.
///
/// # Errors
/// If it cannot start, or a thread of it fails.
pub fn run(plan: Plan, signals: &mut Signals, about: &str, notes: &[String]) -> Result<(), RunError> {
    let interval = sources::tick(&plan.config);
    let (form, until) = (plan.form, plan.duration.map(|d| Instant::now() + d));
    let host = plan.facts.host.clone();
    let (printer, printing) = channel();
    let (ready_to, ready) = sync_channel(1);
    let waker = signals.waker();
    let engine = thread("engine", &waker, move || engine(plan, printer, &ready_to))?;
    let printer = thread("output", &waker, move || printing.run(form, Names::default()))?;
    let ready = match ready.recv() {
        Ok(Ok(ready)) => ready,
        Ok(Err(e)) => return Err(e),
        Err(_) => return Err(RunError::Thread("engine")),
    };
    log(&format!(
        "watching {host}: {about}, {} rules, every {}",
        ready.rules,
        whystall_event::format_duration(sources::nanos(interval))
    ));
    notes.iter().chain(&ready.notes).for_each(|n| log(n));
    for d in &ready.broken {
        // A diagnostic has several lines and is escaped.
        let _ = io::Write::write_fmt(&mut io::stderr(), format_args!("{d}"));
    }
    loop {
        match signals.wait(until)? {
            // Only a thread's end wakes: it failed, or standard output was closed.
            Wake::End | Wake::Timeout | Wake::Closed | Wake::Woken => break,
            Wake::Reload => log(
                "SIGHUP: the config and the rules are read at the start only; restart to use changed ones",
            ),
        }
    }
    ready.stopper.stop();
    let stuck = join(engine, "engine")??;
    if !stuck.is_empty() {
        log(&format!("these collectors did not end in time: {}", stuck.join(", ")));
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

/// The engine's thread: compiles the rules, starts the collectors, and judges. Returns the collectors that did not end.
fn engine(
    plan: Plan,
    mut printer: Printer,
    ready: &SyncSender<Result<Ready, RunError>>,
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
    let told = Ready {
        stopper: runner.stopper(),
        rules: count,
        notes: set.notes.into_iter().chain(strangers).chain(idle).collect(),
        broken: set.diagnostics.into_iter().filter(|d| d.level == Level::Error).collect(),
    };
    if ready.send(Ok(told)).is_err() {
        return Ok(runner.stop(STOP_WITHIN));
    }
    drop((set.running, plan.schema));
    loop {
        match runner.next(IDLE) {
            Event::Batch(batch) => judge.ingest(&batch),
            Event::Tick(t) => {
                let (verdicts, problems) = judge.tick(Tick { at: t.at, suspended_ns: t.suspended_ns });
                for p in problems {
                    printer.log(format!("rule {}: {}", p.rule, p.what));
                }
                for v in verdicts {
                    printer.verdict(v);
                }
            }
            Event::Idle => {}
            Event::Stopped => {
                judge.silenced().lines().into_iter().for_each(|line| printer.log(line));
                return Ok(runner.stop(STOP_WITHIN));
            }
        }
    }
}
