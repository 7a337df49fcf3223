//! `whystall check`: every problem of rule files and configs.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde::Serialize;
use whystall_collectors::Roots;
use whystall_engine::script::{Diagnostic, Level, Place, Sandbox};

use super::sarif::sarif;
use super::{Outcome, Result, colours, context, print, print_json, usage};
use crate::cli::{Check, CheckFormat};
use crate::config::{Config, DEFAULT_PATH, LoadError, Problem};
use crate::daemon::rule_files::{self, Layer, RuleFile};
use crate::daemon::rule_set::{Choice, RuleSet};
use crate::daemon::sources;
use crate::notify::receivers;
use crate::render::Style;

/// `--format json`.
#[derive(Debug, Serialize)]
struct Report<'a> {
    diagnostics: &'a [Diagnostic],
    summary: Summary,
}

#[derive(Debug, Default, Clone, Copy, Serialize)]
struct Summary {
    files: usize,
    errors: usize,
    warnings: usize,
    notes: usize,
}

pub(super) fn check(args: &Check) -> Result {
    let (tomls, others): (Vec<&PathBuf>, Vec<&PathBuf>) =
        args.paths.iter().partition(|p| p.extension().is_some_and(|e| e == "toml"));
    let mut diagnostics = Vec::new();
    let mut summary = Summary::default();
    let mut config = Config::default();
    if args.paths.is_empty() && Path::new(DEFAULT_PATH).exists() {
        summary.files += 1;
        config = checked(Path::new(DEFAULT_PATH), &mut diagnostics)?;
    }
    for path in tomls {
        summary.files += 1;
        checked(path, &mut diagnostics)?;
    }
    let files =
        if args.paths.is_empty() { context::rule_files(&config, &[], true)? } else { files_of(&others)? };
    if !files.is_empty() {
        summary.files += files.len();
        // What is wrong with collectors' settings was told with the config; the rules are checked all the same.
        let schema = match context::host(&config) {
            Ok((_, schema)) => schema,
            Err(_) => sources::any_host(sources::tick(&config)),
        };
        let choice = Choice { config: &Config::default(), only_served: false };
        diagnostics.extend(RuleSet::load(files, &Sandbox::new(), &schema, choice).diagnostics);
    }
    for d in &diagnostics {
        match d.level {
            Level::Error => summary.errors += 1,
            Level::Warning => summary.warnings += 1,
            Level::Note => summary.notes += 1,
        }
    }
    match args.format {
        CheckFormat::Sarif => print_json(&sarif(&diagnostics))?,
        CheckFormat::Json => print_json(&Report { diagnostics: &diagnostics, summary })?,
        CheckFormat::Text => {
            let shown = diagnostics.iter().filter(|d| args.verbose || d.level != Level::Note);
            print(&text(shown, summary, Style::new(colours())))?;
        }
    }
    Ok(Outcome::problems(summary.errors > 0))
}

/// Reads the config at `path`, reports everything that is wrong with it, and returns it if it can be read.
fn checked(path: &Path, diagnostics: &mut Vec<Diagnostic>) -> Result<Config> {
    let file = path.display().to_string();
    let config = match Config::load(Some(path), &context::known_names()) {
        Ok(config) => config,
        Err(LoadError::Wrong(e)) => {
            diagnostics.extend(e.problems.iter().map(|p| of_config(&file, p, Level::Error)));
            return Ok(Config::default());
        }
        Err(e) => return Err(usage(e)),
    };
    // Their secrets, certificates and templates are read here, so that a missing one is found before it is needed.
    for (receiver, e) in receivers::check(&config, "host") {
        let mut problem = config.source().problem(receiver.span_of(e.key), e.fault.why);
        problem.help = e.fault.help;
        let level = if e.fault.unknown_here { Level::Warning } else { Level::Error };
        diagnostics.push(of_config(&file, &problem, level));
    }
    let schema = match sources::build_all(&config, &Roots::default()) {
        Ok(entries) => sources::schema(&entries, sources::tick(&config)),
        Err(e) => {
            diagnostics.extend(e.problems.iter().map(|p| of_config(&file, p, Level::Error)));
            sources::any_host(sources::tick(&config))
        }
    };
    // Rules are only loaded to see whether their settings fit.
    let rules = context::rule_files(&config, &[], true)?;
    let set = RuleSet::load(rules, &Sandbox::new(), &schema, Choice { config: &config, only_served: false });
    diagnostics.extend(set.bad_settings.iter().map(|p| of_config(&file, p, Level::Error)));
    diagnostics.extend(set.strangers.iter().map(|p| of_config(&file, p, Level::Warning)));
    Ok(config)
}

/// A config's problem in the form of the rules' problems, so that editors need to know one form only.
fn of_config(file: &str, p: &Problem, level: Level) -> Diagnostic {
    Diagnostic {
        level,
        code: "config",
        file: file.to_string(),
        place: Place { line: p.line, column: p.column },
        message: p.message.clone(),
        help: p.help.clone(),
        source_line: None,
    }
}

/// The rule files that the command line names.
pub(super) fn files_of(paths: &[impl AsRef<Path>]) -> Result<Vec<RuleFile>> {
    let mut files: Vec<RuleFile> = Vec::new();
    for path in paths.iter().map(AsRef::as_ref) {
        if path.is_dir() {
            let found = rule_files::read_dir(path, Layer::User).map_err(usage)?;
            if found.is_empty() {
                return Err(usage(format!("{}: no .rhai file in it or below", path.display())));
            }
            files.extend(found);
        } else {
            // A library that stands beside several of them is read once.
            for library in rule_files::beside(path, Layer::User).map_err(usage)? {
                if files.iter().all(|f| f.file != library.file) {
                    files.push(library);
                }
            }
            files.push(
                rule_files::read(path, Layer::User).map_err(|e| usage(format!("{}: {e}", path.display())))?,
            );
        }
    }
    Ok(files)
}

fn text<'a>(shown: impl Iterator<Item = &'a Diagnostic>, s: Summary, style: Style) -> String {
    let mut out = String::new();
    for d in shown {
        // The level is the first word, so colouring it needs no knowledge of the rest.
        let all = d.to_string();
        let (level, rest) = all.split_once(':').unwrap_or((&all, ""));
        let level = match d.level {
            Level::Error => style.red(level),
            Level::Warning => style.yellow(level),
            Level::Note => style.bold(level),
        };
        let _ = writeln!(out, "{level}:{rest}");
    }
    let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let mut line = format!(
        "{} checked: {}, {}",
        count(s.files, "file"),
        count(s.errors, "error"),
        count(s.warnings, "warning")
    );
    if s.notes > 0 {
        let _ = write!(line, ", {}", count(s.notes, "note"));
    }
    line = if s.errors > 0 { style.red(&line) } else { style.bold(&line) };
    out.push_str(&line);
    out.push('\n');
    out
}
