//! `whystall run`: watch this host.

use whystall_collectors::Roots;

use super::{Error, Outcome, Result, colours, context};
use crate::cli::{Output, Run};
use crate::daemon::output::Form;
use crate::daemon::run::{self, Plan, RunError};
use crate::daemon::signals::{self, Signals};
use crate::daemon::{facts, limits, reload, sources};
use crate::render::Style;

/// Collectors that are named when they cannot work; the others are counted.
const NAMED: usize = 6;

pub(super) fn run(args: &Run) -> Result {
    let config = context::config(args.config.as_deref())?;
    let files = context::rule_files(&config, &args.rules.rules, !args.rules.no_builtin_rules)?;
    // Before any thread starts, so that no signal is lost.
    let mut signals = Signals::new(signals::stdout_can_close())?;
    limits::prepare();
    let (entries, schema) = context::host(&config)?;
    let blind: Vec<String> = entries
        .iter()
        .filter(|e| !e.off)
        .filter_map(|e| Some(format!("{}: {}", e.name, e.missing()?)))
        .collect();
    let roots = Roots::default();
    let form = form(args.output);
    let works = entries.iter().filter(|e| e.built.is_ok()).count();
    let plan = Plan {
        config,
        jobs: sources::jobs(entries, &roots),
        schema,
        files,
        facts: facts::read(&roots),
        form,
        duration: args.duration,
        from: reload::Files {
            config: args.config.clone(),
            rules: args.rules.rules.clone(),
            builtin: !args.rules.no_builtin_rules,
        },
        hooks: Vec::new(),
    };
    let about = format!("{works} collectors");
    let mut notes: Vec<String> = blind.iter().take(NAMED).map(|b| format!("without {b}")).collect();
    if blind.len() > NAMED {
        notes.push(format!("without {} more; `whystall doctor` says why", blind.len() - NAMED));
    }
    match run::run(plan, &mut signals, &about, &notes) {
        Ok(()) => Ok(Outcome::Fine),
        Err(RunError::Config(e)) => Err(Error::Config(e)),
        Err(e) => Err(e.into()),
    }
}

/// How verdicts are printed on standard output.
pub(super) fn form(output: Output) -> Form {
    match output {
        Output::Json => Form::Json,
        Output::Text => Form::Text(Style::new(colours())),
    }
}
