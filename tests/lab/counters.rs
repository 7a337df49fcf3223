//! The kernel's own counters, read by the lab itself: proof that a fault happened, independent of whystall, and the
//! figures that tell whether the machine was quiet.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;

use anyhow::{Context, Result};

use crate::sys;

/// Host-wide counters at one moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Snapshot {
    boot_ns: u64,
    /// `/proc/vmstat` as it is.
    vmstat: BTreeMap<String, u64>,
    /// Pressure totals in microseconds by resource; the `some` line.
    psi_us: BTreeMap<&'static str, u64>,
    /// Steal ticks and all ticks, `/proc/stat`.
    steal: (u64, u64),
}

impl Snapshot {
    /// Reads them now. A file that is missing (PSI can be off) leaves its counters out.
    pub(crate) fn take() -> Snapshot {
        let vmstat = fs::read_to_string("/proc/vmstat").unwrap_or_default();
        let psi = |name: &str| parse_psi_some(&fs::read_to_string(format!("/proc/pressure/{name}")).ok()?);
        Snapshot {
            boot_ns: sys::boot_ns(),
            vmstat: vmstat
                .lines()
                .filter_map(|l| l.split_once(' ').and_then(|(k, v)| Some((k.to_owned(), v.parse().ok()?))))
                .collect(),
            psi_us: ["cpu", "memory", "io"].into_iter().filter_map(|n| Some((n, psi(n)?))).collect(),
            steal: parse_steal(&fs::read_to_string("/proc/stat").unwrap_or_default()),
        }
    }

    /// What moved since `earlier`.
    pub(crate) fn since(&self, earlier: &Snapshot) -> Delta {
        let moved = |k: &String, v: &u64, old: &BTreeMap<String, u64>| {
            (k.clone(), v.saturating_sub(old.get(k).copied().unwrap_or(0)))
        };
        let ticks = self.steal.1.saturating_sub(earlier.steal.1).max(1);
        Delta {
            seconds: self.boot_ns.saturating_sub(earlier.boot_ns).max(1) as f64 / 1e9,
            vmstat: self.vmstat.iter().map(|(k, v)| moved(k, v, &earlier.vmstat)).collect(),
            psi_us: self
                .psi_us
                .iter()
                .map(|(k, v)| (*k, v.saturating_sub(earlier.psi_us.get(k).copied().unwrap_or(0))))
                .collect(),
            steal_percent: self.steal.0.saturating_sub(earlier.steal.0) as f64 * 100.0 / ticks as f64,
        }
    }
}

/// The difference of two snapshots. Printed, it says how disturbed the machine was.
#[derive(Debug, Clone)]
pub(crate) struct Delta {
    pub(crate) seconds: f64,
    vmstat: BTreeMap<String, u64>,
    psi_us: BTreeMap<&'static str, u64>,
    steal_percent: f64,
}

impl Delta {
    /// The sum of all vmstat counters whose name begins with `prefix`: `allocstall` comes once a zone.
    pub(crate) fn vmstat(&self, prefix: &str) -> u64 {
        self.vmstat.iter().filter(|(k, _)| k.starts_with(prefix)).map(|(_, v)| v).sum()
    }

    /// The share of time in which some task waited for `resource`, in percent; `None` without PSI.
    pub(crate) fn psi_percent(&self, resource: &str) -> Option<f64> {
        self.psi_us.get(resource).map(|us| *us as f64 / 1e4 / self.seconds)
    }
}

impl fmt::Display for Delta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} s, steal {:.1} %", self.seconds, self.steal_percent)?;
        for name in ["cpu", "memory", "io"] {
            match self.psi_percent(name) {
                Some(percent) => write!(f, ", psi {name} {percent:.1} %")?,
                None => write!(f, ", psi {name} unknown")?,
            }
        }
        for name in ["allocstall", "pgscan_direct", "pgscan_kswapd", "compact_stall"] {
            write!(f, ", {name} +{}", self.vmstat(name))?;
        }
        Ok(())
    }
}

/// What a task waited and ran since it began, `/proc/PID/schedstat`.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct SchedStat {
    pub(crate) run_ns: u64,
    pub(crate) wait_ns: u64,
    pub(crate) slices: u64,
}

impl SchedStat {
    /// Reads the file of one process's main thread.
    pub(crate) fn read(pid: u32) -> Result<SchedStat> {
        let path = format!("/proc/{pid}/schedstat");
        let text = fs::read_to_string(&path).with_context(|| path.clone())?;
        let mut numbers = text.split_whitespace().map_while(|w| w.parse().ok());
        let (run, wait, slices) = (numbers.next(), numbers.next(), numbers.next());
        match (run, wait, slices) {
            (Some(run_ns), Some(wait_ns), Some(slices)) => Ok(SchedStat { run_ns, wait_ns, slices }),
            _ => anyhow::bail!("{path} is not three numbers: {text:?}"),
        }
    }

    /// What moved since `earlier`.
    pub(crate) fn since(&self, earlier: &SchedStat) -> SchedStat {
        SchedStat {
            run_ns: self.run_ns.saturating_sub(earlier.run_ns),
            wait_ns: self.wait_ns.saturating_sub(earlier.wait_ns),
            slices: self.slices.saturating_sub(earlier.slices),
        }
    }

    /// Milliseconds of waiting before each time the task ran.
    pub(crate) fn wait_ms_per_slice(&self) -> f64 {
        self.wait_ns as f64 / 1e6 / self.slices.max(1) as f64
    }
}

fn parse_psi_some(text: &str) -> Option<u64> {
    text.lines().find(|l| l.starts_with("some"))?.split_once("total=")?.1.trim().parse().ok()
}

/// Steal and all ticks of the `cpu` line; the guest columns are part of user time already.
fn parse_steal(text: &str) -> (u64, u64) {
    let ticks: Vec<u64> = text
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1)
        .take(8)
        .filter_map(|w| w.parse().ok())
        .collect();
    (ticks.get(7).copied().unwrap_or(0), ticks.iter().sum())
}

/// The parsers read what the kernel documents. Run as a trial of its own.
pub(crate) fn self_test() -> Result<()> {
    let psi = "some avg10=0.00 avg60=0.00 avg300=0.00 total=5269649\nfull avg10=0.00 total=7\n";
    anyhow::ensure!(parse_psi_some(psi) == Some(5_269_649), "psi");
    anyhow::ensure!(parse_psi_some("").is_none(), "no psi is no zero");
    anyhow::ensure!(parse_steal("cpu  1 2 3 4 5 6 7 8 9 9\ncpu0 1\n") == (8, 36), "steal");
    let at = |boot_ns, stall| Snapshot {
        boot_ns,
        vmstat: [("allocstall_dma".into(), 1), ("allocstall_normal".into(), stall)].into(),
        psi_us: [("memory", stall * 1000)].into(),
        steal: (0, 0),
    };
    let delta = at(3_000_000_000, 500).since(&at(1_000_000_000, 300));
    anyhow::ensure!(delta.vmstat("allocstall") == 200, "sum over zones: {delta:?}");
    anyhow::ensure!(delta.psi_percent("memory") == Some(10.0), "200 ms of 2 s: {delta:?}");
    Ok(())
}
