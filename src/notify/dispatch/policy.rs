//! Who is told what: receivers and routes as the dispatcher sees them, and the labels that routes and silences match.

use std::collections::BTreeMap;

use whystall_engine::verdict::Verdict;
use whystall_event::SEC;

use crate::config::{Config, Glob};

const MINUTE: u64 = 60 * SEC;
const HOUR: u64 = 3600 * SEC;

/// Everything that decides who is told what and when.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// In the order of the config.
    pub receivers: Vec<ReceiverPolicy>,
    /// In the order of the config; without any, every receiver is told everything.
    pub routes: Vec<RoutePolicy>,
    /// Tags of rules, by rule.
    pub tags: BTreeMap<String, Vec<String>>,
    /// This host's name, for notices.
    pub host: String,
}

/// How one receiver is served.
#[derive(Debug, Clone, PartialEq)]
pub struct ReceiverPolicy {
    /// Its name.
    pub name: String,
    /// Notifications at once.
    pub burst: u32,
    /// Notifications a minute beyond that.
    pub per_minute: u32,
    /// A notification is given up after this time, nanoseconds.
    pub retry_for_ns: u64,
    /// Notifications that wait at most; what is beyond is dropped, counted and told.
    pub max_pending: usize,
    /// How often it is told that whystall is alive, nanoseconds.
    pub heartbeat_ns: Option<u64>,
    /// The first wait after a failure, and the longest, nanoseconds.
    pub backoff_ns: (u64, u64),
}

impl ReceiverPolicy {
    /// The defaults: 30 at once and 20 a minute, retries for a week, 10 000 waiting.
    pub fn named(name: impl Into<String>) -> ReceiverPolicy {
        ReceiverPolicy {
            name: name.into(),
            burst: 30,
            per_minute: 20,
            retry_for_ns: 7 * 24 * HOUR,
            max_pending: 10_000,
            heartbeat_ns: None,
            backoff_ns: (5 * SEC, 15 * MINUTE),
        }
    }
}

/// One route.
#[derive(Debug, Clone)]
pub struct RoutePolicy {
    /// By label: one of the patterns must match; all labels must.
    pub matches: BTreeMap<String, Vec<Glob>>,
    /// Indices of receivers.
    pub receivers: Vec<usize>,
    /// How long a new incident's first notification waits for more.
    pub group_wait_ns: u64,
    /// After how long what lasts is told again.
    pub repeat_ns: u64,
    /// After how long who else is told of what lasts.
    pub escalate: Option<(u64, Vec<usize>)>,
}

impl RoutePolicy {
    /// Everything to these receivers, at once, and every four hours again.
    pub fn all(receivers: Vec<usize>) -> RoutePolicy {
        RoutePolicy {
            matches: BTreeMap::new(),
            receivers,
            group_wait_ns: 0,
            repeat_ns: 4 * HOUR,
            escalate: None,
        }
    }
}

impl Policy {
    /// What a config says.
    pub fn of(config: &Config, host: &str) -> Policy {
        let receivers: Vec<ReceiverPolicy> = config
            .receivers
            .iter()
            .map(|r| {
                let (d, own) = (ReceiverPolicy::named(&r.name), &r.delivery);
                ReceiverPolicy {
                    burst: own.burst.unwrap_or(d.burst),
                    per_minute: own.per_minute.unwrap_or(d.per_minute),
                    retry_for_ns: own.retry_for_ns.unwrap_or(d.retry_for_ns),
                    max_pending: own.max_pending.unwrap_or(d.max_pending),
                    heartbeat_ns: own.heartbeat_ns,
                    ..d
                }
            })
            .collect();
        let number = |names: &[String]| {
            names.iter().filter_map(|n| receivers.iter().position(|r| r.name == *n)).collect::<Vec<_>>()
        };
        let mut routes: Vec<RoutePolicy> = config
            .routes
            .iter()
            .map(|r| {
                let d = RoutePolicy::all(number(&r.receivers));
                RoutePolicy {
                    matches: r.matches.clone(),
                    group_wait_ns: r.group_wait_ns.unwrap_or(0),
                    repeat_ns: r.repeat_interval_ns.unwrap_or(d.repeat_ns),
                    escalate: r.escalate_after_ns.map(|after| (after, number(&r.escalate_to))),
                    ..d
                }
            })
            .collect();
        if routes.is_empty() && !receivers.is_empty() {
            routes.push(RoutePolicy::all((0..receivers.len()).collect()));
        }
        Policy { receivers, routes, tags: BTreeMap::new(), host: host.to_string() }
    }
}

/// What routes and silences can match.
pub const LABELS: &[&str] = &[
    "severity",
    "rule",
    "cause",
    "tag",
    "subject",
    "workload",
    "namespace",
    "pod",
    "container",
    "unit",
    "host",
];

/// A verdict's labels; `tag` may be there several times.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Labels(Vec<(&'static str, String)>);

impl Labels {
    /// The labels of a verdict; tags are those of its root's rule.
    pub fn of(v: &Verdict, tags: &BTreeMap<String, Vec<String>>) -> Labels {
        let mut all = vec![
            ("severity", v.severity.name().to_string()),
            ("rule", v.rule.clone()),
            ("cause", v.cause.clone()),
            ("subject", v.subject.clone()),
            ("host", v.host.clone()),
        ];
        all.extend(tags.get(&v.rule).into_iter().flatten().map(|t| ("tag", t.clone())));
        if let Some(w) = &v.workload {
            let parts = [("namespace", &w.namespace), ("pod", &w.pod), ("container", &w.container)];
            for (name, value) in parts.into_iter().chain([("unit", &w.unit)]) {
                all.extend(value.iter().map(|v| (name, v.clone())));
            }
            let path: Vec<&str> = parts.iter().filter_map(|(_, v)| v.as_deref()).collect();
            let whole = if path.is_empty() { w.unit.clone() } else { Some(path.join("/")) };
            all.extend(whole.map(|w| ("workload", w)));
        }
        Labels(all)
    }

    /// Whether some value of this label matches.
    pub fn has(&self, label: &str, glob: &Glob) -> bool {
        self.0.iter().any(|(l, v)| *l == label && glob.matches(v))
    }

    /// Whether a route with these matches takes it.
    pub fn fit(&self, matches: &BTreeMap<String, Vec<Glob>>) -> bool {
        matches.iter().all(|(label, globs)| globs.iter().any(|g| self.has(label, g)))
    }
}

/// What gets no token for so long is counted instead of told.
pub(super) const HOLD_FOR: u64 = 10 * MINUTE;
/// Counts wait so long for more.
pub(super) const DIGEST_AFTER: u64 = MINUTE;
pub(super) const DIGEST_EVERY: u64 = 5 * MINUTE;
/// A receiver that fails for so long is told of elsewhere.
pub(super) const FAILING_AFTER: u64 = 5 * MINUTE;
pub(super) const REFUSAL_EVERY: u64 = HOUR;
/// `Retry-After` beyond this is not believed.
pub(super) const MAX_RETRY_AFTER: u64 = 24 * HOUR;
