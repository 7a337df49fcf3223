//! What several commands begin with: the config, the collectors of this host, and files of rules.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::Context as _;
use whystall_collectors::Roots;
use whystall_engine::Schema;
use whystall_engine::script::Sandbox;

use super::{Error, Result};
use crate::config::{Config, ConfigError, KnownNames, LoadError};
use crate::daemon::alerts;
use crate::daemon::rule_files::{self, Layer, RuleFile};
use crate::daemon::rule_set::{Choice, RuleSet};
use crate::daemon::sources::{self, Entry};
use crate::store::Store;

/// Every name that a config may use.
pub(crate) fn known_names() -> KnownNames<'static> {
    KnownNames::of(whystall_collectors::ALL, whystall_collectors::exec::KEYS)
}

/// The config of `--config`, else the default one if it exists, else what an empty one means.
pub(crate) fn config(explicit: Option<&Path>) -> Result<Config> {
    Config::load(explicit, &known_names()).map_err(|e| match e {
        LoadError::Wrong(e) => Error::Config(e),
        e => Error::Usage(e.into()),
    })
}

/// The store of this user's daemon; with `create` it need not be there yet.
pub(crate) fn store(create: bool) -> Result<Store> {
    let Some(dir) = alerts::place() else {
        return Err(super::usage(
            "there is no store: neither STATE_DIRECTORY nor XDG_STATE_HOME nor HOME is set",
        ));
    };
    let store = Store::beside(&dir, create);
    Ok(store.with_context(|| format!("the store in {}", dir.display()))?)
}

/// This host's collectors, built, with the schema that rules see.
pub(crate) fn host(config: &Config) -> Result<(Vec<Entry>, Schema)> {
    let entries = sources::build_all(config, &Roots::default()).map_err(Error::Config)?;
    let schema = sources::schema(&entries, sources::tick(config));
    Ok((entries, schema))
}

/// Settings that do not fit their rules are a broken config.
pub(crate) fn fitting(set: RuleSet, config: &Config) -> Result<RuleSet> {
    if set.bad_settings.is_empty() {
        return Ok(set);
    }
    Err(Error::Config(ConfigError { problems: set.bad_settings, source: config.source().clone() }))
}

/// The rule files of a run: the built-in ones unless left out, those of the config's directories, and those of `dirs`.
/// Only directories that the command line names must exist.
pub(crate) fn rule_files(config: &Config, dirs: &[PathBuf], builtin: bool) -> Result<Vec<RuleFile>> {
    let mut files = if builtin { rule_files::builtin() } else { Vec::new() };
    for dir in config.rules_dirs.iter().flatten().filter(|d| d.exists()) {
        files.extend(
            rule_files::read_dir(dir, Layer::User).with_context(|| format!("rules of {}", dir.display()))?,
        );
    }
    for dir in dirs {
        files.extend(
            rule_files::read_dir(dir, Layer::User)
                .map_err(|e| Error::Usage(anyhow::anyhow!("--rules: {e}")))?,
        );
    }
    Ok(files)
}

/// The rules that `run` would use on this host, and the schema they were checked against.
pub(crate) fn rules_here(config: &Config, sandbox: &Rc<Sandbox>) -> Result<(RuleSet, Schema)> {
    let (_, schema) = host(config)?;
    let files = rule_files(config, &[], true)?;
    let choice = Choice { config, only_served: true };
    Ok((fitting(RuleSet::load(files, sandbox, &schema, choice), config)?, schema))
}
