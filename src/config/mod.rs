//! The config file, `/etc/whystall/whystall.toml`: read whole, checked whole, all problems reported at once.
//!
//! This checks shapes, types, names that it is given ([`KnownNames`]) and references within the file. Whether a rule
//! exists and takes a parameter is known only after rules are loaded: [`RuleConfig`] keeps places for that, and
//! [`Config::source`] makes [`Problem`]s of them. Nothing is started or opened here but the file.

mod delivery;
mod error;
mod glob;
mod notify;
mod peer;
mod read;
mod walk;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

use whystall_event::SEC;

pub use delivery::{Delivery, StoreConfig};
pub use error::{ConfigError, Position, Problem, Source};
pub use glob::Glob;
pub use notify::{OWN_LABELS, Receiver, ReceiverKind, Route};
pub use peer::{Alertmanager, Email, Http, Proxy, SecretFile, Smtp, Template, Tls, Via, Webhook};

/// Where the config is looked for when no other is named.
pub const DEFAULT_PATH: &str = "/etc/whystall/whystall.toml";

/// Larger files are refused.
const LARGEST: u64 = 4 << 20;

/// The names that a config may use.
#[derive(Debug, Clone, Default)]
pub struct KnownNames<'a> {
    /// Every collector's name and the keys of its settings.
    pub collectors: Vec<(&'a str, &'a [&'a str])>,
    /// The keys of a table `[collectors.exec.NAME]`.
    pub exec: &'a [&'a str],
}

impl KnownNames<'static> {
    /// The names of these collectors; `exec` are the keys of an exec collector.
    pub fn of(collectors: &[&'static whystall_collectors::Collector], exec: &'static [&'static str]) -> Self {
        KnownNames { collectors: collectors.iter().map(|c| (c.name, c.settings)).collect(), exec }
    }
}

/// The whole config. [`Config::default`] is what an empty file means.
#[derive(Debug, Clone)]
pub struct Config {
    /// The tick, nanoseconds; 1 s unless said otherwise, at least 10 ms.
    pub interval_ns: u64,
    /// Directories of custom rules; `None` if the file does not say.
    pub rules_dirs: Option<Vec<PathBuf>>,
    /// `[collectors.NAME]` by name.
    pub collectors: BTreeMap<String, CollectorConfig>,
    /// `[collectors.exec.NAME]` by name.
    pub exec: BTreeMap<String, CollectorConfig>,
    /// `[rules."id"]` by id.
    pub rules: BTreeMap<String, RuleConfig>,
    /// `[[receiver]]` in order; their names differ.
    pub receivers: Vec<Receiver>,
    /// `[[route]]` in order; their receivers exist.
    pub routes: Vec<Route>,
    /// `[store]`
    pub store: StoreConfig,
    source: Source,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            interval_ns: SEC,
            rules_dirs: None,
            collectors: BTreeMap::new(),
            exec: BTreeMap::new(),
            rules: BTreeMap::new(),
            receivers: Vec::new(),
            routes: Vec::new(),
            store: StoreConfig::default(),
            source: Source::default(),
        }
    }
}

/// A collector's table.
#[derive(Debug, Clone, Default)]
pub struct CollectorConfig {
    /// `None` if the file does not say.
    pub enabled: Option<bool>,
    /// The time between passes, nanoseconds, at least 10 ms.
    pub interval_ns: Option<u64>,
    /// The collector's own settings. For an exec collector, whose keys include it, also `interval` as it is written.
    pub settings: toml::Table,
    /// Where the table is, for [`Source::problem`].
    pub span: Range<usize>,
}

/// How bad a finding is, as the config may set it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// Worth looking at.
    Warning,
    /// Worth waking someone.
    Critical,
}

impl Severity {
    /// The name in configs, rules and verdicts.
    pub const fn name(self) -> &'static str {
        match self {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Critical => "critical",
        }
    }

    const NAMES: [(&'static str, Severity); 3] =
        [("info", Severity::Info), ("warning", Severity::Warning), ("critical", Severity::Critical)];
}

/// How a rule is tuned. Whether the rule exists and has such parameters is checked once rules are loaded.
#[derive(Debug, Clone, Default)]
pub struct RuleConfig {
    /// `None` if the file does not say.
    pub enabled: Option<bool>,
    /// Instead of the rule's own.
    pub severity: Option<Severity>,
    /// Instead of the rule's defaults, with the place of each value.
    pub params: BTreeMap<String, (Param, Range<usize>)>,
    /// Where the rule keeps silent.
    pub exceptions: Vec<Exception>,
    /// Where the rule's name stands in the file.
    pub span: Range<usize>,
}

/// A parameter's value.
#[derive(Debug, Clone, PartialEq)]
pub enum Param {
    /// Any number; always finite.
    Number(f64),
    /// True or false.
    Bool(bool),
    /// Text.
    Text(String),
}

/// Subjects about which a rule keeps silent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exception {
    /// By kind of subject (`cgroup`, `device`, …) or label (`unit`, `pod`, …); all must match. At least one.
    pub matches: BTreeMap<String, Glob>,
    /// Why.
    pub reason: String,
    /// The wall time, nanoseconds since 1970, from which it no longer holds: the end of the day that is written, UTC.
    pub until_ns: Option<u64>,
    /// Where it is in the file.
    pub span: Range<usize>,
}

impl Exception {
    /// Whether it holds at this wall time (nanoseconds since 1970).
    pub fn holds_at(&self, wall_ns: u64) -> bool {
        self.until_ns.is_none_or(|until| wall_ns < until)
    }
}

/// Why there is no config.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file could not be read.
    #[error("{}: {source}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It could be read but not used.
    #[error(transparent)]
    Wrong(#[from] ConfigError),
}

impl Config {
    /// Reads the config at `explicit`, or at [`DEFAULT_PATH`], which may be missing.
    ///
    /// # Errors
    /// If the file cannot be read, or an explicit one is missing, or something in it is wrong.
    pub fn load(explicit: Option<&Path>, names: &KnownNames<'_>) -> Result<Config, LoadError> {
        let path = explicit.unwrap_or(Path::new(DEFAULT_PATH));
        match read_text(path) {
            Ok(text) => Ok(Config::parse(&text, &path.display().to_string(), names)?),
            Err(e) if explicit.is_none() && e.kind() == ErrorKind::NotFound => Ok(Config::default()),
            Err(source) => Err(LoadError::Read { path: path.into(), source }),
        }
    }

    /// Reads a config's text; `origin` is what it is called in messages.
    ///
    /// # Errors
    /// All problems of the text.
    pub fn parse(text: &str, origin: &str, names: &KnownNames<'_>) -> Result<Config, ConfigError> {
        read::config(text, origin, names)
    }

    /// The text that this was read from, to report problems that are found later.
    pub fn source(&self) -> &Source {
        &self.source
    }
}

fn read_text(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(LARGEST + 1).read_to_string(&mut text)?;
    if text.len() as u64 > LARGEST {
        return Err(std::io::Error::new(ErrorKind::InvalidData, "the file is larger than 4 MiB"));
    }
    Ok(text)
}
