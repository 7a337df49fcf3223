//! The settings of the `latency` collector.

use whystall_event::{MS, SEC, parse_duration, text};

use crate::bpf::object::Thresholds;
use crate::{Settings, Unavailable};

/// The keys that settings may have.
pub(super) const KEYS: &[&str] =
    &["runq", "nosched", "softirq", "irq", "irqoff", "reclaim", "lock", "off", "on", "level"];

/// The best level that may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Best {
    /// BPF, else perf tracepoints.
    Bpf,
    /// Perf tracepoints only.
    Perf,
}

/// Settings, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) thresholds: Thresholds,
    /// Probes that stay off, by name.
    pub(super) off: Vec<String>,
    pub(super) best: Best,
}

/// Reads settings: thresholds as durations such as `runq = "20ms"`, `off` and `on` as lists of probes, `level` as `bpf` or
/// `perf`.
pub(super) fn read(settings: &Settings, probes: &[&str]) -> Result<Options, Unavailable> {
    if let Some(key) = settings.keys().find(|k| !KEYS.contains(&k.as_str())) {
        let hint = text::did_you_mean(key, KEYS.iter().copied());
        let hint = hint.map(|h| format!("; did you mean `{h}`")).unwrap_or_default();
        return Err(Unavailable::settings(format!("latency has no setting `{}`{hint}", text::escape(key))));
    }
    let mut off = named(settings, "off", probes)?;
    let on = named(settings, "on", probes)?;
    off.extend(super::probes::OFF.iter().filter(|p| !on.iter().any(|o| o == *p)).map(|p| p.to_string()));
    let best = match settings.get("level").map(|v| v.as_str()) {
        None | Some(Some("bpf")) => Best::Bpf,
        Some(Some("perf")) => Best::Perf,
        Some(_) => return Err(Unavailable::settings("`level` must be \"bpf\" or \"perf\"")),
    };
    Ok(Options {
        thresholds: Thresholds {
            runq: threshold(settings, "runq", 20 * MS)?,
            nosched: threshold(settings, "nosched", 50 * MS)?,
            softirq: threshold(settings, "softirq", 10 * MS)?,
            irq: threshold(settings, "irq", 5 * MS)?,
            irqoff: threshold(settings, "irqoff", 10 * MS)?,
            reclaim: threshold(settings, "reclaim", MS / 20)?,
            lock: threshold(settings, "lock", 10 * MS)?,
        },
        off,
        best,
    })
}

/// A list of probes.
fn named(settings: &Settings, key: &str, probes: &[&str]) -> Result<Vec<String>, Unavailable> {
    let Some(value) = settings.get(key) else { return Ok(Vec::new()) };
    let list =
        value.as_array().ok_or_else(|| Unavailable::settings(format!("`{key}` must be a list of probes")))?;
    let mut names = Vec::new();
    for name in list {
        let name = name.as_str().unwrap_or_default();
        if !probes.contains(&name) {
            return Err(Unavailable::settings(format!(
                "`{key}` names no probe `{}`; there are {}",
                text::escape(name),
                probes.join(", ")
            )));
        }
        names.push(name.to_string());
    }
    Ok(names)
}

fn threshold(settings: &Settings, key: &str, default: u64) -> Result<u64, Unavailable> {
    let Some(value) = settings.get(key) else {
        return Ok(default);
    };
    let wrong = |why: String| Unavailable::settings(format!("`{key}`: {why}"));
    let text = value.as_str().ok_or_else(|| wrong("write a duration such as \"20ms\"".into()))?;
    let ns = parse_duration(text).map_err(wrong)?;
    if !(MS / 100..=60 * SEC).contains(&ns) {
        return Err(wrong(format!("{text} is not from 10us to 60s")));
    }
    Ok(ns)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(toml: &str) -> Result<Options, Unavailable> {
        read(&toml.parse().unwrap(), &["runq", "softirq", "lock"])
    }

    #[test]
    fn good_and_bad() {
        assert_eq!(of("").unwrap().thresholds.runq, 20 * MS);
        let o = of("runq = \"5ms\"\noff = [\"softirq\"]\nlevel = \"perf\"").unwrap();
        assert_eq!(
            (o.thresholds.runq, o.off, o.best),
            (5 * MS, vec!["softirq".to_string(), "lock".to_string()], Best::Perf)
        );
        assert!(of("on = [\"lock\"]").unwrap().off.is_empty());
        for bad in ["runq = 5", "runq = \"1ns\"", "off = [\"x\"]", "on = 1", "level = 2", "rung = \"5ms\""] {
            assert!(of(bad).unwrap_err().bad_settings, "{bad}");
        }
        assert!(of("rung = \"5ms\"").unwrap_err().why.contains("`runq`"));
    }
}
