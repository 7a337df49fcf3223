//! What a run needs to know from the config, with every default filled in.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use whystall_engine::script::Overrides;

/// Settings of a run; the default is what holds without a config.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The time between ticks.
    pub interval: Duration,
    /// Directories of rules, besides those of the command line.
    pub rules_dirs: Vec<PathBuf>,
    /// Settings of collectors by name.
    pub collectors: BTreeMap<String, CollectorSettings>,
    /// Exec collectors by name, each with its table.
    pub exec: BTreeMap<String, CollectorSettings>,
    /// Settings of rules by id.
    pub rules: BTreeMap<String, RuleSettings>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            interval: Duration::from_secs(1),
            rules_dirs: Vec::new(),
            collectors: BTreeMap::new(),
            exec: BTreeMap::new(),
            rules: BTreeMap::new(),
        }
    }
}

/// What the config says about one collector.
#[derive(Debug, Clone, Default)]
pub struct CollectorSettings {
    /// Whether it runs; `None` if the config does not say, then it runs where it can.
    pub enabled: Option<bool>,
    /// The time between passes.
    pub interval: Option<Duration>,
    /// Its own keys.
    pub own: whystall_collectors::Settings,
}

/// What the config says about one rule.
#[derive(Debug, Clone, Default)]
pub struct RuleSettings {
    /// Whether it runs; `None` if the config does not say.
    pub enabled: Option<bool>,
    /// Params and severity.
    pub overrides: Overrides,
    /// Whom it leaves alone.
    pub exceptions: Vec<Exception>,
}

/// Subjects that a rule leaves alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exception {
    /// A field (`cgroup`, `cpu`, `device`, `namespace`, `pod`, `container`, `unit`, …) and a glob each; all must match.
    pub fields: Vec<(String, String)>,
    /// Why, for people.
    pub reason: String,
    /// Wall clock nanoseconds after which it no longer holds.
    pub until_ns: Option<u64>,
}
