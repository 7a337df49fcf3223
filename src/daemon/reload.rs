//! Reads the config and the rules again when their files change or SIGHUP asks for it: off the hot path, all or nothing.
//!
//! One thread looks, reads, compiles, checks and tests. What passes goes to the engine's thread as text ([`super::swap`]);
//! what does not leaves everything as it is, with a message and a finding of `self.degraded` for as long as it lasts.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use whystall_collectors::Roots;
use whystall_engine::Schema;
use whystall_engine::script::{Diagnostic, Level, Libraries, Overrides, Sandbox, run_tests};

use super::exceptions::Exceptions;
use super::output::log;
use super::rule_files::{self, RuleFile};
use super::rule_set::{Choice, Loaded, RuleSet};
use super::swap::{Change, Counts, Order, text};
use super::watch::{Mark, POLL, Watch, look};
use super::{limits, sources};
use crate::config::{CollectorConfig, Config, ConfigError, DEFAULT_PATH, KnownNames, LoadError, Problem};

/// After an event, files are read when nothing happened for so long,
const QUIET: Duration = Duration::from_millis(200);
/// or when this has passed since the first event.
const PATIENCE: Duration = Duration::from_secs(2);
/// Characters of a refusal's reason that a finding carries.
const BRIEF: usize = 300;

/// The files that a run was made from.
#[derive(Debug, Clone, Default)]
pub struct Files {
    /// The config of `--config`; else the default one, if it exists.
    pub config: Option<PathBuf>,
    /// The directories of `--rules`.
    pub rules: Vec<PathBuf>,
    /// Whether built-in rules are used.
    pub builtin: bool,
}

impl Files {
    fn config_path(&self) -> &Path {
        self.config.as_deref().unwrap_or(Path::new(DEFAULT_PATH))
    }

    fn dirs(&self, config: &Config) -> Vec<PathBuf> {
        config.rules_dirs.iter().flatten().chain(&self.rules).cloned().collect()
    }
}

/// What a reload came to.
#[derive(Debug)]
pub enum Outcome<'a> {
    /// This config and its rules are in force.
    Applied(&'a Config),
    /// Nothing had changed.
    Unchanged,
    /// Nothing was changed, for this reason.
    Refused(&'a str),
}

/// A part that takes part in reloads, called on the reload's thread in this order.
pub trait Hook: Send + std::fmt::Debug {
    /// A reload begins.
    fn begins(&mut self) {}
    /// Says why this config cannot be put in force. Must change nothing.
    ///
    /// # Errors
    /// The reason; then the reload is refused.
    fn check(&mut self, _config: &Config) -> Result<(), String> {
        Ok(())
    }
    /// It is over.
    fn ended(&mut self, _outcome: &Outcome<'_>) {}
}

/// Why files are refused.
#[derive(Debug)]
struct Refusal {
    /// In one line.
    brief: String,
    /// For people, in lines.
    full: String,
}

impl Refusal {
    fn new(what: impl Into<String>) -> Refusal {
        let brief = what.into();
        Refusal { full: String::new(), brief }
    }

    fn config(e: &ConfigError) -> Refusal {
        let brief = match e.problems.first() {
            Some(p) => format!("{}:{}:{}: {}", e.source.origin(), p.line, p.column, p.message),
            None => format!("{} is wrong", e.source.origin()),
        };
        Refusal { brief, full: e.to_string() }
    }
}

/// The main thread's handle.
#[derive(Debug, Clone)]
pub struct Reload {
    asked: Arc<AtomicBool>,
    wake: SyncSender<()>,
}

impl Reload {
    /// Reads everything again even if no file seems to have changed. Returns at once.
    pub fn ask(&self) {
        self.asked.store(true, Ordering::Release);
        // A wake that waits is enough.
        let _ = self.wake.try_send(());
    }
}

/// What runs when the run begins.
#[derive(Debug)]
pub struct Begun {
    /// Its config.
    pub config: Config,
    /// What its rules can read.
    pub schema: Schema,
    /// All files that were read.
    pub files: Vec<RuleFile>,
    /// Whether some of them were left out as broken.
    pub broken: bool,
}

/// Starts the thread, which ends with the process. Orders go to the engine's thread.
///
/// # Errors
/// If the system refuses a thread.
pub fn start(
    from: Files,
    begun: Begun,
    hooks: Vec<Box<dyn Hook>>,
    orders: Sender<Order>,
) -> io::Result<Reload> {
    let (wake, wakes) = sync_channel(1);
    let asked = Arc::new(AtomicBool::new(false));
    let reload = Reload { asked: asked.clone(), wake: wake.clone() };
    std::thread::Builder::new().name("reload".into()).spawn(move || {
        let watch = Watch::new(move || {
            // A wake that waits is enough.
            let _ = wake.try_send(());
        });
        let examined = content(&begun.config, &begun.files);
        let known = begun.files.iter().map(text).collect();
        Reloader {
            from,
            config: begun.config,
            schema: begun.schema,
            known,
            examined,
            in_force: (!begun.broken).then_some(examined),
            refused: begun.broken,
            hooks,
            orders,
        }
        .run(watch, &wakes, &asked);
    })?;
    Ok(reload)
}

struct Reloader {
    from: Files,
    /// In force.
    config: Config,
    schema: Schema,
    /// Files whose text is in force or was when the run began; their tests need not run again.
    known: BTreeSet<u64>,
    /// What was read last.
    examined: u64,
    /// What runs, unless that was never read as a whole.
    in_force: Option<u64>,
    refused: bool,
    hooks: Vec<Box<dyn Hook>>,
    orders: Sender<Order>,
}

/// The engine's thread has ended.
struct Over;

impl Reloader {
    fn run(mut self, mut watch: Watch, wakes: &Receiver<()>, asked: &AtomicBool) {
        let mut mark: Option<Mark> = None;
        loop {
            let seen = self.look(&mut watch);
            if let Some(problem) = watch.take_problem() {
                let every = whystall_event::format_duration(sources::nanos(POLL));
                log(&format!("{problem}; files are looked at every {every} instead"));
            }
            let asked_now = asked.swap(false, Ordering::AcqRel);
            if asked_now || mark != Some(seen) {
                mark = Some(seen);
                if self.examine(asked_now).is_err() {
                    return;
                }
                limits::give_back();
                // What is watched may be something else with another config.
                mark = mark.filter(|m| *m == self.look(&mut watch));
                if mark.is_none() {
                    settle(wakes, asked);
                    continue;
                }
            }
            match wakes.recv_timeout(POLL) {
                Ok(()) => settle(wakes, asked),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn look(&self, watch: &mut Watch) -> Mark {
        let dirs = self.from.dirs(&self.config);
        let once = || look(self.from.config_path(), &dirs);
        let seen = once();
        // A change between looking and watching wakes nobody: look again once watching.
        if watch.follow(&seen) { once().mark } else { seen.mark }
    }

    /// Reads everything, and reloads if it is not what was read last.
    fn examine(&mut self, asked: bool) -> Result<(), Over> {
        let read = self.read();
        if let Ok((config, files)) = &read {
            let now = content(config, files);
            if now == self.examined && !asked {
                return Ok(());
            }
            self.examined = now;
        } else {
            self.examined = 0;
        }
        self.hooks.iter_mut().for_each(|h| h.begins());
        let same = self.in_force == Some(self.examined);
        let result = match read {
            Err(refusal) => Err(refusal),
            Ok(_) if same => Ok(None),
            Ok((config, files)) => match self.prepare(config, files) {
                Err(refusal) => Err(refusal),
                Ok(prepared) => self.swap(prepared)?.map(Some),
            },
        };
        let outcome = match &result {
            Ok(applied) => {
                match applied {
                    Some(counts) => log(&told(counts)),
                    None if self.refused => {
                        log("reload: the files are again as they run");
                        self.orders.send(Order::Good).map_err(|_| Over)?;
                    }
                    None => log("reload: nothing changed"),
                }
                self.refused = false;
                if applied.is_some() { Outcome::Applied(&self.config) } else { Outcome::Unchanged }
            }
            Err(refusal) => {
                self.refused = true;
                log(&format!("reload refused, what ran before goes on: {}", refusal.brief));
                // Several lines, escaped where they were made.
                let _ = io::Write::write_all(&mut io::stderr(), refusal.full.as_bytes());
                let brief = refusal.brief.chars().take(BRIEF).collect();
                self.orders.send(Order::Refused(brief)).map_err(|_| Over)?;
                Outcome::Refused(&refusal.brief)
            }
        };
        self.hooks.iter_mut().for_each(|h| h.ended(&outcome));
        Ok(())
    }

    fn read(&self) -> Result<(Config, Vec<RuleFile>), Refusal> {
        let names = KnownNames::of(whystall_collectors::ALL, whystall_collectors::exec::KEYS);
        let config = Config::load(self.from.config.as_deref(), &names).map_err(|e| match e {
            LoadError::Wrong(e) => Refusal::config(&e),
            e => Refusal::new(e.to_string()),
        })?;
        let files = rule_files::of_run(&self.from.dirs(&config), self.from.builtin)
            .map_err(|e| Refusal::new(e.to_string()))?;
        Ok((config, files))
    }

    /// Everything that can be found wrong is found here.
    fn prepare(&mut self, mut config: Config, files: Vec<RuleFile>) -> Result<Prepared, Refusal> {
        let mut notes = Vec::new();
        if config.interval_ns != self.config.interval_ns {
            notes.push("`interval` is changed by a restart only".to_string());
            config.interval_ns = self.config.interval_ns;
        }
        let examined: Vec<u64> = files.iter().map(text).collect();
        // A library concerns every rule.
        let all = files.iter().any(|f| f.library().is_some() && !self.known.contains(&text(f)));
        let collectors = if same_collectors(&self.config, &config) {
            None
        } else {
            let roots = Roots::default();
            let entries = sources::build_all(&config, &roots).map_err(|e| Refusal::config(&e))?;
            let schema = sources::schema(&entries, sources::tick(&config));
            Some((sources::jobs(entries, &roots), schema))
        };
        let schema = collectors.as_ref().map_or(&self.schema, |(_, s)| s);
        let sandbox = Rc::new(Sandbox::new());
        let set = RuleSet::load(files, &sandbox, schema, Choice { config: &config, only_served: true });
        if !set.bad_settings.is_empty() {
            let source = config.source().clone();
            return Err(Refusal::config(&ConfigError { problems: set.bad_settings, source }));
        }
        if let Some(brief) = brief(&set.diagnostics) {
            let mut full = String::new();
            for d in set.diagnostics.iter().filter(|d| d.level == Level::Error) {
                let _ = write!(full, "{d}");
            }
            return Err(Refusal { brief, full });
        }
        let changed = set.running.iter().filter(|l| all || !self.known.contains(&text(&l.file)));
        let failures: Vec<String> = changed.flat_map(|l| failures(l, &sandbox, schema)).collect();
        if let Some(first) = failures.first() {
            let full = failures.iter().fold(String::new(), |mut all, f| {
                let _ = writeln!(all, "  {}", whystall_event::text::escape(f));
                all
            });
            return Err(Refusal { brief: format!("a test fails: {first}"), full });
        }
        for hook in &mut self.hooks {
            hook.check(&config).map_err(Refusal::new)?;
        }
        let stranger = |p: &Problem| format!("warning: line {} of the config: {}", p.line, p.message);
        notes.extend(set.strangers.iter().map(stranger));
        notes.extend(set.notes);
        notes.extend(set.idle.iter().map(|i| format!("not running {}: {}", i.id, i.why)));
        let rules = set.running.into_iter().map(|l| (l.file, l.overrides)).collect();
        Ok(Prepared { config, collectors, libraries: set.libraries, rules, notes, examined })
    }

    /// Puts it in force and waits until it is.
    fn swap(&mut self, p: Prepared) -> Result<Result<Counts, Refusal>, Over> {
        let (done, answer) = sync_channel(1);
        let schema = p.collectors.as_ref().map(|(_, s)| s.clone());
        let exceptions = Exceptions::of(&p.config);
        let change =
            Change { libraries: p.libraries, rules: p.rules, collectors: p.collectors, exceptions, done };
        self.orders.send(Order::Change(Box::new(change))).map_err(|_| Over)?;
        match answer.recv().map_err(|_| Over)? {
            Err(why) => Ok(Err(Refusal::new(why))),
            Ok(counts) => {
                self.config = p.config;
                self.schema = schema.unwrap_or_else(|| std::mem::take(&mut self.schema));
                self.known = p.examined.into_iter().collect();
                self.in_force = Some(self.examined);
                p.notes.iter().for_each(|n| log(n));
                Ok(Ok(counts))
            }
        }
    }
}

/// What passed.
struct Prepared {
    config: Config,
    collectors: Option<(Vec<whystall_collectors::runner::Job>, Schema)>,
    libraries: Arc<Libraries>,
    rules: Vec<(RuleFile, Overrides)>,
    notes: Vec<String>,
    examined: Vec<u64>,
}

/// Waits until files are left alone. A signal does not wait.
fn settle(wakes: &Receiver<()>, asked: &AtomicBool) {
    let until = Instant::now() + PATIENCE;
    while !asked.load(Ordering::Acquire) {
        let left = until.saturating_duration_since(Instant::now()).min(QUIET);
        if left.is_zero() || wakes.recv_timeout(left).is_err() {
            return;
        }
    }
}

/// Stands for the texts of everything.
fn content(config: &Config, files: &[RuleFile]) -> u64 {
    let mut h = DefaultHasher::new();
    config.source().text().hash(&mut h);
    for f in files {
        text(f).hash(&mut h);
    }
    h.finish()
}

fn same_collectors(a: &Config, b: &Config) -> bool {
    let all = |c: &Config| -> Vec<(String, Option<bool>, Option<u64>, toml::Table)> {
        let one = |(name, c): (&String, &CollectorConfig)| {
            (name.clone(), c.enabled, c.interval_ns, c.settings.clone())
        };
        c.collectors.iter().chain(&c.exec).map(one).collect()
    };
    let counts = |c: &Config| (c.collectors.len(), c.exec.len());
    counts(a) == counts(b) && all(a) == all(b)
}

/// What is wrong in one line; `None` if there is no error.
pub fn brief(diagnostics: &[Diagnostic]) -> Option<String> {
    let mut errors = diagnostics.iter().filter(|d| d.level == Level::Error);
    let first = errors.next()?;
    let more = match errors.count() {
        0 => String::new(),
        n => format!(" (and {n} more)"),
    };
    let at = if first.place.line == 0 {
        String::new()
    } else {
        format!(":{}:{}", first.place.line, first.place.column)
    };
    Some(format!("{}{at}: {} [{}]{more}", first.file, first.message, first.code))
}

/// Runs a rule's tests as it is written, whatever the config sets.
fn failures(loaded: &Loaded, sandbox: &Rc<Sandbox>, schema: &Schema) -> Vec<String> {
    let plain = Overrides::default();
    let rule = if loaded.overrides == plain {
        Some(loaded.rule.clone())
    } else {
        loaded.rule.again(sandbox, schema, &loaded.file.text, &plain).rule
    };
    let Some(rule) = rule else { return vec![format!("{} does not load", loaded.file.file)] };
    let outcomes = run_tests(&rule, &loaded.file.text, sandbox, schema);
    let one = |t: whystall_engine::script::TestOutcome| {
        t.failures
            .into_iter()
            .map(move |(place, what)| {
                format!("{}:{}:{}: {}: {what}", t.file, place.line, place.column, t.test)
            })
            .collect::<Vec<_>>()
    };
    outcomes.into_iter().flat_map(one).collect()
}

fn told(c: &Counts) -> String {
    format!("reloaded: {} rules run ({} changed, {} new, {} gone)", c.running, c.changed, c.new, c.gone)
}
