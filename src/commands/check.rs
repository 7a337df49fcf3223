//! `whystall check`: every problem of rule files and configs.

use std::fmt::Write as _;
use std::path::Path;
use std::rc::Rc;

use serde::Serialize;
use whystall_engine::script::{Diagnostic, Level, Sandbox};

use super::{Outcome, Result, colours, context, print, print_json, usage};
use crate::cli::{Check, Output};
use crate::daemon::rule_files::{self, RuleFile};
use crate::daemon::rule_set::{Choice, RuleSet};
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
    let settings = context::settings(None)?;
    let (_, schema) = context::host(&settings)?;
    let files = if args.paths.is_empty() {
        context::rule_files(&settings, &[], true)?
    } else {
        files_of(&args.paths)?
    };
    let mut summary = Summary { files: files.len(), ..Summary::default() };
    let choice = Choice { settings: &settings.rules, only_served: false };
    let set = RuleSet::load(files, &Rc::new(Sandbox::new()), &schema, choice);
    let mut diagnostics = set.diagnostics;
    diagnostics.extend(set.bad_settings);
    for d in &diagnostics {
        match d.level {
            Level::Error => summary.errors += 1,
            Level::Warning => summary.warnings += 1,
            Level::Note => summary.notes += 1,
        }
    }
    match args.format {
        Output::Json => print_json(&Report { diagnostics: &diagnostics, summary })?,
        Output::Text => {
            let shown = diagnostics.iter().filter(|d| args.verbose || d.level != Level::Note);
            print(&text(shown, summary, Style::new(colours())))?;
        }
    }
    Ok(Outcome::problems(summary.errors > 0))
}

/// The rule files that the command line names.
pub(super) fn files_of(paths: &[impl AsRef<Path>]) -> Result<Vec<RuleFile>> {
    let mut files = Vec::new();
    for path in paths.iter().map(AsRef::as_ref) {
        if path.is_dir() {
            let found = rule_files::read_dir(path).map_err(usage)?;
            if found.is_empty() {
                return Err(usage(format!("{}: no .rhai file in it or below", path.display())));
            }
            files.extend(found);
        } else {
            files.push(rule_files::read(path).map_err(|e| usage(format!("{}: {e}", path.display())))?);
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
