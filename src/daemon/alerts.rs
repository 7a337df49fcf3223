//! The run's store and receivers: opened and built as the config wants them, with what cannot be said as notes.

use std::path::PathBuf;
use std::sync::Arc;

use whystall_collectors::runner::clock;

use super::output::log;
use super::reload::{Hook, Outcome};
use super::service;
use super::workloads::Names;
use crate::config::{Config, ConfigError};
use crate::notify::dispatch::Policy;
use crate::notify::receivers;
use crate::notify::service::{Fresh, Handle, Prepare, RULES, Receivers, Service, Setup};
use crate::store::{Retention, Store, StoreError, state_dir};

/// What a run has for its verdicts, besides standard output.
#[derive(Debug, Default)]
pub struct Alerts {
    /// The store's thread, and the one that delivers; none if neither is needed or possible.
    pub service: Option<Service>,
    /// The state of the rules of an earlier run.
    pub rules: Option<String>,
    /// Lines for people.
    pub notes: Vec<String>,
}

/// Where this process keeps its state.
pub fn place() -> Option<PathBuf> {
    // SAFETY: geteuid has no arguments and cannot fail.
    state_dir(|name| std::env::var_os(name), unsafe { libc::geteuid() } == 0)
}

/// Opens the store and builds the receivers.
///
/// # Errors
/// What is wrong with the config's receivers. That there is no store is only a note.
pub fn start(config: &Config, host: &str) -> Result<Alerts, ConfigError> {
    let receivers = build(config, host)?;
    let mut notes = Vec::new();
    let store = match open(config, &mut notes) {
        Some(store) => Some(store),
        None if notes.iter().any(|n| n.starts_with(OTHER)) => None,
        // Notifications need an outbox, be it one that ends with the process.
        None if !receivers.is_empty() => Store::in_memory().ok(),
        None => None,
    };
    let Some(mut store) = store else {
        return Ok(Alerts { notes, ..Alerts::default() });
    };
    notes.extend(store.take_news());
    let rules = if goes_on(config) { store.meta(RULES).unwrap_or_default() } else { None };
    let setup = Setup {
        store,
        retention: retention(config),
        policy: Policy::of(config, host),
        receivers,
        prepare: prepare(),
        log: Box::new(log),
    };
    match Service::start(setup) {
        Ok(service) => Ok(Alerts { service: Some(service), rules, notes }),
        Err(e) => {
            notes.push(format!("warning: nothing is kept and nobody is notified: {e}"));
            Ok(Alerts { notes, ..Alerts::default() })
        }
    }
}

/// Whether findings and incidents of an earlier run go on: where somebody was told of them, or a service manager keeps the
/// state. A run by hand begins anew, since what it prints must stand by itself.
fn goes_on(config: &Config) -> bool {
    !config.receivers.is_empty() || std::env::var_os("STATE_DIRECTORY").is_some_and(|d| !d.is_empty())
}

/// What a changed config means for a running service.
///
/// # Errors
/// What is wrong with the config's receivers.
pub fn fresh(config: &Config, host: &str) -> Result<Fresh, ConfigError> {
    Ok(Fresh {
        receivers: build(config, host)?,
        policy: Policy::of(config, host),
        retention: retention(config),
        prepare: prepare(),
    })
}

/// Takes a changed config's receivers and routes over, and tells the service manager of reloads.
#[derive(Debug)]
pub struct OnReload {
    handle: Option<Handle>,
    host: String,
    checked: Option<Fresh>,
}

impl OnReload {
    /// For the service that runs, if one does.
    pub fn new(handle: Option<Handle>, host: String) -> OnReload {
        OnReload { handle, host, checked: None }
    }
}

impl Hook for OnReload {
    fn begins(&mut self) {
        service::reloading();
    }

    fn check(&mut self, config: &Config) -> Result<(), String> {
        let built = fresh(config, &self.host).map_err(|e| {
            let first = e.problems.first().map(|p| p.message.clone());
            first.unwrap_or_else(|| "a receiver is wrong".to_string())
        })?;
        if self.handle.is_none() && !config.receivers.is_empty() {
            log(
                "receivers of the changed config need a restart: nothing was to be kept or told at the start",
            );
        }
        self.checked = Some(built);
        Ok(())
    }

    fn ended(&mut self, outcome: &Outcome<'_>) {
        let checked = self.checked.take();
        if let (Outcome::Applied(_), Some(handle), Some(fresh)) = (outcome, &self.handle, checked) {
            handle.configure(fresh);
        }
        service::ready();
    }
}

const OTHER: &str = "warning: another whystall runs";

fn open(config: &Config, notes: &mut Vec<String>) -> Option<Store> {
    if !config.store.enabled {
        return None;
    }
    let Some(dir) = place() else {
        notes.push(
            "incidents are not kept: neither STATE_DIRECTORY nor XDG_STATE_HOME nor HOME is set".into(),
        );
        return None;
    };
    match Store::open(&dir, clock::now().wall_ns) {
        Ok(store) => Some(store),
        Err(e @ StoreError::Locked(_)) => {
            notes.push(format!("{OTHER}: {e}; this one keeps nothing and notifies nobody"));
            None
        }
        Err(e) => {
            notes.push(format!("warning: incidents are not kept: {e}"));
            None
        }
    }
}

fn retention(config: &Config) -> Retention {
    Retention { age_ns: config.store.keep_ns, bytes: u64::from(config.store.max_mib) << 20 }
}

/// Names, as for what is printed.
fn prepare() -> Prepare {
    let mut names = Names::default();
    Box::new(move |v| names.decorate(v, clock::now().boot_ns))
}

fn build(config: &Config, host: &str) -> Result<Receivers, ConfigError> {
    let (mut built, mut problems) = (Receivers::new(), Vec::new());
    for r in &config.receivers {
        match receivers::build(r, host) {
            Ok(receiver) => built.push(Arc::from(receiver)),
            Err(e) => {
                let mut problem = config.source().problem(r.span_of(e.key), e.to_string());
                problem.help = e.fault.help;
                problems.push(problem);
            }
        }
    }
    if problems.is_empty() {
        Ok(built)
    } else {
        Err(ConfigError { problems, source: config.source().clone() })
    }
}
