//! How receivers are served whatever their type, and what the store keeps.

use toml::de::{DeTable, DeValue};
use whystall_event::SEC;

use super::walk::{Value, Walk};

/// How a receiver is served. What is `None` has a default (`notify::dispatch`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Delivery {
    /// Notifications at once.
    pub burst: Option<u32>,
    /// Notifications a minute beyond that.
    pub per_minute: Option<u32>,
    /// A notification is given up after this time, nanoseconds.
    pub retry_for_ns: Option<u64>,
    /// Notifications that wait at most.
    pub max_pending: Option<usize>,
    /// How often it is told that whystall is alive, nanoseconds.
    pub heartbeat_ns: Option<u64>,
}

/// `[store]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreConfig {
    /// False keeps everything in memory.
    pub enabled: bool,
    /// Incidents that ended longer ago are removed, nanoseconds.
    pub keep_ns: u64,
    /// If the store is larger, the oldest incidents are removed, MiB.
    pub max_mib: u32,
}

impl Default for StoreConfig {
    fn default() -> StoreConfig {
        StoreConfig { enabled: true, keep_ns: 30 * 86_400 * SEC, max_mib: 64 }
    }
}

/// Keys of every receiver.
pub(super) const RECEIVER_KEYS: &[&str] = &["burst", "per_minute", "retry_for", "max_pending", "heartbeat"];
const STORE_KEYS: &[&str] = &["enabled", "keep", "max_mib"];

/// The keys that every receiver has.
pub(super) fn of_receiver(walk: &mut Walk, table: &DeTable<'_>) -> Delivery {
    let mut number = |key: &str, most: u32| table.get(key).and_then(|v| whole(walk, v, most));
    let (burst, per_minute) = (number("burst", 100_000), number("per_minute", 100_000));
    let max_pending = number("max_pending", 1_000_000).map(|n| n as usize);
    let mut time = |key: &str, least| table.get(key).and_then(|v| walk.duration(v, least));
    Delivery {
        burst,
        per_minute,
        max_pending,
        retry_for_ns: time("retry_for", 60 * SEC),
        heartbeat_ns: time("heartbeat", 10 * SEC),
    }
}

pub(super) fn store(walk: &mut Walk, table: &DeTable<'_>) -> StoreConfig {
    walk.only(table, STORE_KEYS);
    let d = StoreConfig::default();
    StoreConfig {
        enabled: table.get("enabled").and_then(|v| walk.bool(v)).unwrap_or(d.enabled),
        keep_ns: table.get("keep").and_then(|v| walk.duration(v, 60 * SEC)).unwrap_or(d.keep_ns),
        max_mib: table.get("max_mib").and_then(|v| whole(walk, v, 100_000)).unwrap_or(d.max_mib),
    }
}

/// A whole number from 1 on.
fn whole(walk: &mut Walk, value: &Value<'_>, most: u32) -> Option<u32> {
    let DeValue::Integer(i) = value.get_ref() else { return walk.expected(value, "a whole number") };
    let n = i64::from_str_radix(i.as_str(), i.radix()).ok().and_then(|n| u32::try_from(n).ok());
    match n.filter(|n| (1..=most).contains(n)) {
        Some(n) => Some(n),
        None => {
            walk.problem(value.span(), format!("this must be a whole number from 1 to {most}"));
            None
        }
    }
}
