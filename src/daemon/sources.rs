//! The collectors of this host, built from the config's tables: jobs for the runner, and the schema that rules are checked
//! against. Starts nothing.

use std::sync::Arc;
use std::time::Duration;

use whystall_collectors::runner::Job;
use whystall_collectors::{Built, Collector, Roots, Unavailable, exec, health};
use whystall_engine::{Schema, Source};
use whystall_event::Stream;

use crate::config::{CollectorConfig, Config, ConfigError};

/// The name of the source of streams about whystall itself.
const SELF: &str = "self";

/// One collector, built.
#[derive(Debug)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// One sentence about it.
    pub help: &'static str,
    /// Whether the config switches it on by name, so that its failing is a problem.
    pub wanted: bool,
    /// Whether the config switches it off.
    pub off: bool,
    /// The time between passes.
    pub interval: Duration,
    /// The streams it emits; of an exec collector those that it declares.
    pub streams: Vec<Arc<Stream>>,
    /// The collector, or why it cannot work.
    pub built: Result<Built, Unavailable>,
    origin: Origin,
    settings: whystall_collectors::Settings,
}

#[derive(Debug, Clone, Copy)]
enum Origin {
    Listed(&'static Collector),
    Exec,
}

impl Entry {
    /// Why it delivers nothing on this host; `None` if it works.
    pub fn missing(&self) -> Option<String> {
        self.built.as_ref().err().map(ToString::to_string)
    }

    fn job(self, roots: &Roots) -> Job {
        let (name, settings, origin, roots) = (self.name.clone(), self.settings, self.origin, roots.clone());
        let again = move || build(origin, &name, &settings, &roots).map(|(_, built)| built);
        Job::new(self.name, self.interval, self.built).rebuild(Box::new(again))
    }
}

fn build(
    origin: Origin,
    name: &str,
    settings: &whystall_collectors::Settings,
    roots: &Roots,
) -> Result<(Vec<Arc<Stream>>, Built), Unavailable> {
    match origin {
        Origin::Listed(c) => Ok((shared(c.streams), (c.build)(roots, settings)?)),
        Origin::Exec => exec::build(name, settings, roots),
    }
}

fn shared(streams: &[Stream]) -> Vec<Arc<Stream>> {
    streams.iter().cloned().map(Arc::new).collect()
}

/// Builds every collector that the config does not switch off.
///
/// # Errors
/// If collectors' settings are wrong: all of them. What this host lacks is no error.
pub fn build_all(config: &Config, roots: &Roots) -> Result<Vec<Entry>, ConfigError> {
    let none = CollectorConfig::default();
    let listed = whystall_collectors::ALL.iter().map(|c| {
        let given = config.collectors.get(c.name).unwrap_or(&none);
        (c.name.to_string(), c.help, given, Origin::Listed(c), c.interval)
    });
    let programs = config
        .exec
        .iter()
        .map(|(name, given)| (name.clone(), "a program of the config", given, Origin::Exec, None));
    let (mut entries, mut problems) = (Vec::new(), Vec::new());
    for (name, help, given, origin, own) in listed.chain(programs) {
        let off = given.enabled == Some(false);
        let built = if off {
            Err(Unavailable::because("it is switched off in the config"))
        } else {
            build(origin, &name, &given.settings, roots)
        };
        let (streams, built) = match built {
            Ok((streams, built)) => (streams, Ok(built)),
            Err(e) if e.bad_settings => {
                problems.push(config.source().problem(given.span.clone(), e.to_string()));
                continue;
            }
            Err(e) => (declared(origin), Err(e)),
        };
        entries.push(Entry {
            name,
            help,
            wanted: given.enabled == Some(true) || matches!(origin, Origin::Exec) && !off,
            off,
            interval: given.interval_ns.map(Duration::from_nanos).or(own).unwrap_or(tick(config)),
            streams,
            built,
            origin,
            settings: given.settings.clone(),
        });
    }
    if problems.is_empty() {
        Ok(entries)
    } else {
        Err(ConfigError { problems, source: config.source().clone() })
    }
}

/// The config's time between ticks.
pub fn tick(config: &Config) -> Duration {
    Duration::from_nanos(config.interval_ns)
}

fn declared(origin: Origin) -> Vec<Arc<Stream>> {
    match origin {
        Origin::Listed(c) => shared(c.streams),
        Origin::Exec => Vec::new(),
    }
}

/// What rules can read, with what is missing on this host.
pub fn schema(entries: &[Entry], interval: Duration) -> Schema {
    let source = |e: &Entry| Source {
        name: e.name.clone(),
        streams: e.streams.clone(),
        interval_ns: nanos(e.interval),
        missing: e.missing(),
    };
    Schema::new(entries.iter().map(source).chain([own(interval)]).collect())
}

/// What rules can read anywhere: every collector, without looking at this host.
pub fn any_host(interval: Duration) -> Schema {
    let source = |c: &&'static Collector| Source {
        name: c.name.to_string(),
        streams: shared(c.streams),
        interval_ns: nanos(c.interval.unwrap_or(interval)),
        missing: None,
    };
    Schema::new(whystall_collectors::ALL.iter().map(source).chain([own(interval)]).collect())
}

fn own(interval: Duration) -> Source {
    Source {
        name: SELF.to_string(),
        streams: shared(health::STREAMS),
        interval_ns: nanos(interval),
        missing: None,
    }
}

/// The jobs of all collectors, also of those that cannot work: the runner reports them. Those switched off are left out.
pub fn jobs(entries: Vec<Entry>, roots: &Roots) -> Vec<Job> {
    entries.into_iter().filter(|e| !e.off).map(|e| e.job(roots)).collect()
}

/// Nanoseconds of a duration.
pub fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}
