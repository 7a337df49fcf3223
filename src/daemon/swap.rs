//! The engine's side of a reload: compiles what passed elsewhere, a rule at a time between batches and ticks, and then
//! puts the whole set in place at once.
//!
//! Compiled rules cannot change threads, so that each is compiled twice: on the reload's thread, which also checks and
//! tests it, and here. A tick waits for one rule at most, about a millisecond.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError};

use whystall_collectors::runner::Job;
use whystall_engine::Schema;
use whystall_engine::script::{Libraries, Overrides, Rule, Sandbox, compile_with};

use super::exceptions::Exceptions;
use super::rule_files::RuleFile;
use super::rule_set::Loaded;

/// What the reload's thread asks of the engine's.
#[derive(Debug)]
pub enum Order {
    /// The files as they are now were refused, for this reason; what runs goes on.
    Refused(String),
    /// The files are again what runs.
    Good,
    /// Put this in force.
    Change(Box<Change>),
}

/// Everything that a reload changes.
#[derive(Debug)]
pub struct Change {
    /// What the rules share.
    pub libraries: Arc<Libraries>,
    /// The rules that are to run, in order.
    pub rules: Vec<(RuleFile, Overrides)>,
    /// Other collectors, with what rules can then read.
    pub collectors: Option<(Vec<Job>, Schema)>,
    /// The exceptions of the config.
    pub exceptions: Exceptions,
    /// Told when it is in force, or why it cannot be.
    pub done: SyncSender<Result<Counts, String>>,
}

/// What became of the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Rules that run now.
    pub running: usize,
    /// Those that ran before and have another text or other settings.
    pub changed: usize,
    /// Those that did not run before.
    pub new: usize,
    /// Those that do not run any more.
    pub gone: usize,
}

/// What is to be put in place now.
#[derive(Debug)]
pub struct Ready {
    /// All rules.
    pub rules: Vec<Rc<Rule>>,
    /// Other collectors.
    pub jobs: Option<Vec<Job>>,
    /// The exceptions.
    pub exceptions: Exceptions,
    done: SyncSender<Result<Counts, String>>,
    counts: Counts,
}

impl Ready {
    /// Says that it is in force.
    pub fn tell(self) {
        // A reload's thread that has ended needs no answer.
        let _ = self.done.send(Ok(self.counts));
    }
}

/// What the caller has to do after [`Swap::poll`].
#[derive(Debug, PartialEq, Eq)]
pub enum Polled {
    /// Nothing.
    Nothing,
    /// Note that files are refused for this reason, or are not any more.
    Refused(Option<String>),
}

/// A rule that runs, and what it was compiled from.
#[derive(Debug, Clone)]
struct Running {
    text: u64,
    overrides: Overrides,
    rule: Rc<Rule>,
}

/// A change under way.
#[derive(Debug)]
struct Work {
    change: Change,
    next: usize,
    compiled: Vec<Running>,
}

/// Takes orders and works on them.
#[derive(Debug)]
pub struct Swap {
    orders: Option<Receiver<Order>>,
    running: Vec<Running>,
    libraries: Arc<Libraries>,
    schema: Schema,
    work: Option<Work>,
}

impl Swap {
    /// `running` are the rules that run, compiled with `libraries` and `schema`.
    pub fn new(
        orders: Receiver<Order>,
        running: &[Loaded],
        libraries: Arc<Libraries>,
        schema: Schema,
    ) -> Swap {
        let known = |l: &Loaded| Running {
            text: text(&l.file),
            overrides: l.overrides.clone(),
            rule: l.rule.clone(),
        };
        Swap {
            orders: Some(orders),
            running: running.iter().map(known).collect(),
            libraries,
            schema,
            work: None,
        }
    }

    /// Whether [`Swap::step`] has something to do.
    pub fn busy(&self) -> bool {
        self.work.is_some()
    }

    /// Takes the next order, if none is being worked on.
    pub fn poll(&mut self) -> Polled {
        let Some(orders) = self.orders.as_ref().filter(|_| self.work.is_none()) else {
            return Polled::Nothing;
        };
        match orders.try_recv() {
            Ok(Order::Refused(why)) => Polled::Refused(Some(why)),
            Ok(Order::Good) => Polled::Refused(None),
            Ok(Order::Change(change)) => {
                self.work = Some(Work { change: *change, next: 0, compiled: Vec::new() });
                Polled::Nothing
            }
            Err(TryRecvError::Empty) => Polled::Nothing,
            Err(TryRecvError::Disconnected) => {
                self.orders = None;
                Polled::Refused(Some("files are not read again any more: the reload's thread ended".into()))
            }
        }
    }

    /// Compiles one more rule, or keeps the one that runs if nothing of it changed. Returns the whole set after the last.
    pub fn step(&mut self, sandbox: &Sandbox) -> Option<Ready> {
        let work = self.work.as_mut()?;
        if let Some((file, overrides)) = work.change.rules.get(work.next) {
            work.next += 1;
            let text = text(file);
            let same = |r: &&Running| r.text == text && r.overrides == *overrides;
            let schema = work.change.collectors.as_ref().map(|(_, schema)| schema);
            // With other collectors windows may mean something else, and with other libraries functions.
            let alike = schema.is_none() && work.change.libraries == self.libraries;
            let kept = self.running.iter().find(same).filter(|_| alike).cloned();
            let rule = match kept {
                Some(kept) => Ok(kept.rule),
                None => {
                    let schema = schema.unwrap_or(&self.schema);
                    let compiled = compile_with(
                        sandbox,
                        schema,
                        &work.change.libraries,
                        &file.file,
                        &file.text,
                        overrides,
                    );
                    compiled.rule.ok_or_else(|| match compiled.diagnostics.first() {
                        Some(d) => d.to_string(),
                        None => format!("{} does not load", file.file),
                    })
                }
            };
            match rule {
                Ok(rule) => {
                    work.compiled.push(Running { text, overrides: overrides.clone(), rule });
                    return None;
                }
                Err(why) => {
                    let work = self.work.take()?;
                    let _ = work.change.done.send(Err(why));
                    return None;
                }
            }
        }
        let Work { change, compiled, .. } = self.work.take()?;
        let counts = count(&self.running, &compiled);
        let rules = compiled.iter().map(|r| r.rule.clone()).collect();
        self.running = compiled;
        self.libraries = change.libraries;
        let jobs = change.collectors.map(|(jobs, schema)| {
            self.schema = schema;
            jobs
        });
        Some(Ready { rules, jobs, exceptions: change.exceptions, done: change.done, counts })
    }
}

fn count(before: &[Running], after: &[Running]) -> Counts {
    let id = |r: &Running| r.rule.manifest.id.clone();
    let mut counts = Counts { running: after.len(), ..Counts::default() };
    for r in after {
        match before.iter().find(|b| id(b) == id(r)) {
            None => counts.new += 1,
            Some(b) if b.text != r.text || b.overrides != r.overrides => counts.changed += 1,
            Some(_) => {}
        }
    }
    counts.gone = before.iter().filter(|b| !after.iter().any(|r| id(b) == id(r))).count();
    counts
}

/// Stands for a file's name and text.
pub fn text(file: &RuleFile) -> u64 {
    let mut h = DefaultHasher::new();
    (&file.file, &file.text).hash(&mut h);
    h.finish()
}
