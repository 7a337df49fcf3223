//! What several commands begin with: the config, the collectors of this host, and files of rules.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::Context as _;
use whystall_collectors::Roots;
use whystall_engine::Schema;
use whystall_engine::script::Sandbox;

use super::{Error, Result, usage};
use crate::daemon::rule_files::{self, RuleFile};
use crate::daemon::rule_set::{Choice, RuleSet};
use crate::daemon::settings::Settings;
use crate::daemon::sources::{self, Entry};

/// The settings of `--config`, else of the default config if it exists, else the defaults.
pub(crate) fn settings(config: Option<&Path>) -> Result<Settings> {
    let _ = config;
    Ok(Settings::default())
}

/// This host's collectors, built, with the schema that rules see.
pub(crate) fn host(settings: &Settings) -> Result<(Vec<Entry>, Schema)> {
    let entries = sources::build_all(settings, &Roots::default()).map_err(usage)?;
    let schema = sources::schema(&entries, settings.interval);
    Ok((entries, schema))
}

/// The rule files of a run: the built-in ones unless left out, those of the config's directories, and those of `dirs`.
/// Only directories that the command line names must exist.
pub(crate) fn rule_files(settings: &Settings, dirs: &[PathBuf], builtin: bool) -> Result<Vec<RuleFile>> {
    let mut files = if builtin { rule_files::builtin() } else { Vec::new() };
    for dir in settings.rules_dirs.iter().filter(|d| d.exists()) {
        files.extend(rule_files::read_dir(dir).with_context(|| format!("rules of {}", dir.display()))?);
    }
    for dir in dirs {
        files.extend(rule_files::read_dir(dir).map_err(|e| Error::Usage(anyhow::anyhow!("--rules: {e}")))?);
    }
    Ok(files)
}

/// The rules that `run` would use on this host, and the schema they were checked against.
pub(crate) fn rules_here(settings: &Settings, sandbox: &Rc<Sandbox>) -> Result<(RuleSet, Schema)> {
    let (_, schema) = host(settings)?;
    let files = rule_files(settings, &[], true)?;
    let choice = Choice { settings: &settings.rules, only_served: true };
    Ok((RuleSet::load(files, sandbox, &schema, choice), schema))
}
