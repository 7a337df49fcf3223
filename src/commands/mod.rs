//! The commands: one file each. Every one returns an `Outcome` or an `Error`; only [`main`] turns these into an exit
//! status and prints errors, once, as a chain.

mod check;
mod context;
mod doctor;
mod explain;
mod fields;
mod incidents;
mod notify;
mod record;
mod replay;
mod rules;
mod run;
mod sarif;
mod silence;
mod test;
mod tune;

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command};
use crate::config::ConfigError;
pub(crate) use crate::daemon::output::log as say;

/// What a command came to, if it could do its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Status 0.
    Fine,
    /// Status 1: the problems have been printed.
    Problems,
}

impl Outcome {
    fn problems(any: bool) -> Outcome {
        if any { Outcome::Problems } else { Outcome::Fine }
    }
}

/// Why a command could not do its work.
#[derive(Debug)]
pub(crate) enum Error {
    /// The command line or the config is wrong: status 2.
    Usage(anyhow::Error),
    /// The config is wrong, shown with its lines: status 2.
    Config(ConfigError),
    /// Anything else: status 1.
    Failed(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Error {
    fn from(e: E) -> Error {
        Error::Failed(e.into())
    }
}

/// A [`Error::Usage`] with this text.
pub(crate) fn usage(what: impl std::fmt::Display) -> Error {
    Error::Usage(anyhow::Error::msg(what.to_string()))
}

/// What commands return.
pub(crate) type Result<T = Outcome> = std::result::Result<T, Error>;

/// The program: reads the command line, runs the command and says how it ended.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            // Help and version are no errors and go to standard output; a closed one is nobody's problem.
            let _ = e.print();
            return ExitCode::from(if e.use_stderr() { 2 } else { 0 });
        }
    };
    let outcome = match &cli.command {
        Command::Run(args) => run::run(args),
        Command::Check(args) => check::check(args),
        Command::Test(args) => test::test(args),
        Command::Rules(args) => rules::rules(args),
        Command::Explain(args) => explain::explain(args),
        Command::Incidents(args) => incidents::incidents(args),
        Command::Notify(args) => notify::notify(args),
        Command::Silence(args) => silence::silence(args),
        Command::Record(args) => record::record(args),
        Command::Replay(args) => replay::replay(args),
        Command::Tune(args) => tune::tune(args),
        Command::Fields(args) => fields::fields(args),
        Command::Doctor(args) => doctor::doctor(args),
    };
    match outcome {
        Ok(Outcome::Fine) => ExitCode::SUCCESS,
        Ok(Outcome::Problems) => ExitCode::from(1),
        Err(Error::Failed(e)) if is_closed_pipe(&e) => ExitCode::SUCCESS,
        Err(Error::Failed(e)) => complain(&e, 1),
        Err(Error::Usage(e)) => complain(&e, 2),
        Err(Error::Config(e)) => {
            let n = e.problems.len();
            // It is escaped, and has several lines.
            let _ = writeln!(io::stderr(), "{e}");
            complain(&anyhow::anyhow!("{n} problem{} in the config", if n == 1 { "" } else { "s" }), 2)
        }
    }
}

fn complain(e: &anyhow::Error, status: u8) -> ExitCode {
    say(&format!("error: {e:#}"));
    ExitCode::from(status)
}

/// Whoever read the output has seen enough, as `head` does.
fn is_closed_pipe(e: &anyhow::Error) -> bool {
    let io = e.chain().filter_map(|c| c.downcast_ref::<io::Error>());
    io.into_iter().any(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

/// Whether to use colours on standard output: a terminal that knows them, and nobody said no (no-color.org).
pub(crate) fn colours() -> bool {
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
    let dumb = std::env::var_os("TERM").is_none_or(|t| t == "dumb");
    io::stdout().is_terminal() && !no_color && !dumb
}

/// Prints `value` as one JSON document with a line end.
pub(crate) fn print_json(value: &impl serde::Serialize) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    io::stdout().lock().write_all(text.as_bytes())?;
    Ok(())
}

/// Prints text.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}
