//! What a fault is given to work with, and how a fault is described.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::cgroup::{Cgroup, Layout};
use crate::daemon::Daemon;
use crate::expect::{Expect, Names};
use crate::guard::{Guard, Reaper, Thing};
use crate::kid::Kid;
use crate::sys;

/// A fault or a quiet control.
pub(crate) struct Fault {
    /// Its name on the command line and in the table.
    pub(crate) name: &'static str,
    /// What whystall must say.
    pub(crate) expect: Expect,
    /// Why it cannot run here, if it cannot.
    pub(crate) available: fn(&Host) -> Result<(), String>,
    /// Runs it to its end and proves by kernel counters that it happened. Cgroups and files stay until the daemon has
    /// been observed; processes must have ended.
    pub(crate) run: fn(&mut Scene<'_>) -> Result<Proof>,
}

/// The host, as far as faults need to know it.
pub(crate) struct Host {
    pub(crate) layout: Layout,
    pub(crate) cpus: Vec<usize>,
    pub(crate) reaper: Arc<Reaper>,
    /// Where scratch directories are made; on a disk.
    pub(crate) disk: PathBuf,
    /// Shorter controls.
    pub(crate) quick: bool,
}

impl Host {
    /// The last CPU: faults that need one CPU take it, since CPU 0 often serves interrupts.
    pub(crate) fn victim_cpu(&self) -> Result<usize> {
        self.cpus.last().copied().context("no CPU")
    }

    /// The CPUs on which the lab's own timekeeping is not disturbed by a fault on [`Host::victim_cpu`].
    pub(crate) fn quiet_cpus(&self) -> Vec<usize> {
        self.cpus.get(..self.cpus.len().saturating_sub(1).max(1)).unwrap_or_default().to_vec()
    }

    /// `Err` if a controller is missing.
    pub(crate) fn needs(&self, controller: &str) -> Result<(), String> {
        self.layout.tree(controller).map(drop).map_err(|e| e.to_string())
    }

    /// `Err` unless `mib` of real disk are free, with as much again left to others.
    pub(crate) fn needs_disk(&self, mib: u64) -> Result<(), String> {
        let (free, in_memory) = sys::file_system(&self.disk).map_err(|e| format!("{e:#}"))?;
        if in_memory {
            return Err(format!("{} is no disk; name one in LAB_DIR", self.disk.display()));
        }
        if free >> 20 < mib * 2 {
            return Err(format!("{} has {} MiB free, needs {}", self.disk.display(), free >> 20, mib * 2));
        }
        Ok(())
    }

    /// `Err` unless `mib` of memory are available, with as much again, at least 1 GiB, left to others.
    pub(crate) fn needs_memory(&self, mib: u64) -> Result<(), String> {
        let available = meminfo_mib("MemAvailable:")?;
        let needed = mib + mib.max(1024);
        if available < needed {
            return Err(format!("{available} MiB of memory are available, needs {needed}"));
        }
        Ok(())
    }
}

/// One line of `/proc/meminfo` in MiB.
pub(crate) fn meminfo_mib(name: &str) -> Result<u64, String> {
    let text = std::fs::read_to_string("/proc/meminfo").map_err(|e| format!("/proc/meminfo: {e}"))?;
    let line = text.lines().find_map(|l| l.strip_prefix(name));
    let kib = line.and_then(|l| l.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.map(|kib| kib >> 10).ok_or_else(|| format!("/proc/meminfo has no {name}"))
}

/// One run of one fault. Dropping it removes what it made.
pub(crate) struct Scene<'a> {
    pub(crate) host: &'a Host,
    pub(crate) names: Names,
    /// When the fault began to bite, CLOCK_BOOTTIME.
    pub(crate) onset_ns: Option<u64>,
    daemon: Option<&'a Daemon>,
    fault: &'static str,
    guards: Vec<Guard>,
}

impl<'a> Scene<'a> {
    /// `daemon` is absent in a dry run.
    pub(crate) fn new(host: &'a Host, fault: &'static str, daemon: Option<&'a Daemon>) -> Scene<'a> {
        Scene { host, names: Names::default(), onset_ns: None, daemon, fault, guards: Vec::new() }
    }

    /// The fault's cgroup, `/whystall-lab-<fault>-<pid>`. The caller keeps it in the scene until the end through
    /// [`Scene::keep`], or lets it go earlier.
    pub(crate) fn cgroup(&mut self) -> Result<Cgroup> {
        let name = format!("whystall-lab-{}-{}", self.fault, std::process::id());
        let group = Cgroup::create(&self.host.layout, &self.host.reaper, &name)?;
        self.names.cgroup = Some(group.path.clone());
        Ok(group)
    }

    /// Keeps a cgroup until the daemon has been observed: a container outlives a stall as well.
    pub(crate) fn keep(&mut self, group: Cgroup) {
        self.guards.extend(group.into_guards());
    }

    /// A scratch directory on disk.
    pub(crate) fn dir(&mut self) -> Result<PathBuf> {
        let (guard, dir) = scratch_dir(self.host, &self.host.disk)?;
        self.guards.push(guard);
        Ok(dir)
    }

    /// A scratch directory below `base`.
    pub(crate) fn dir_in(&mut self, base: &Path) -> Result<PathBuf> {
        let (guard, dir) = scratch_dir(self.host, base)?;
        self.guards.push(guard);
        Ok(dir)
    }

    /// Writes a file of /sys that shows its choices with the current one in brackets, and restores that with the scene.
    pub(crate) fn choose(&mut self, path: &str, value: &str) -> Result<()> {
        let old = std::fs::read_to_string(path).with_context(|| path.to_owned())?;
        let old = old.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
        let old = old.with_context(|| format!("{path} shows no choice"))?.0.to_owned();
        self.guards.push(Guard::new(&self.host.reaper, Thing::Sysctl(path.into(), old))?);
        std::fs::write(path, value).with_context(|| format!("cannot write `{value}` to {path}"))
    }

    /// Writes a sysctl and restores it with the scene.
    pub(crate) fn sysctl(&mut self, path: &str, value: &str) -> Result<()> {
        let old = std::fs::read_to_string(path).with_context(|| path.to_owned())?;
        let thing = Thing::Sysctl(path.into(), old.trim().into());
        self.guards.push(Guard::new(&self.host.reaper, thing)?);
        std::fs::write(path, value).with_context(|| format!("cannot write `{value}` to {path}"))
    }

    /// The fault bites from now on. Only the first call counts.
    pub(crate) fn onset(&mut self) {
        self.onset_ns.get_or_insert_with(sys::boot_ns);
    }

    /// Sleeps, but ends with an error as soon as the lab is asked to end.
    pub(crate) fn sleep(&self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            ensure!(!sys::interrupted(), "interrupted");
            sleep(Duration::from_millis(20).min(end.saturating_duration_since(Instant::now())));
        }
        Ok(())
    }

    /// Waits until `met`, and marks the onset then. An error if `what` has not come within `limit`.
    pub(crate) fn onset_when(
        &mut self,
        what: &str,
        limit: Duration,
        mut met: impl FnMut() -> Result<bool>,
    ) -> Result<()> {
        let end = Instant::now() + limit;
        while !met()? {
            ensure!(!sys::interrupted(), "interrupted");
            ensure!(Instant::now() < end, "{what} did not happen within {limit:?}");
            sleep(Duration::from_millis(5));
        }
        self.onset();
        Ok(())
    }

    /// Waits until whystall has said something, at most `limit`; a moment only in a dry run.
    pub(crate) fn await_verdict(&self, limit: Duration) -> Result<()> {
        let Some(daemon) = self.daemon else {
            return self.sleep(Duration::from_secs(1));
        };
        let end = Instant::now() + limit;
        while daemon.verdicts().is_empty() && Instant::now() < end {
            self.sleep(Duration::from_millis(50))?;
        }
        Ok(())
    }

    /// Waits for all `kids`, each at most `limit`, and returns the reports.
    pub(crate) fn finish(&self, kids: Vec<Kid>, limit: Duration) -> Result<Vec<crate::kid::Report>> {
        kids.into_iter().map(|k| k.finish(limit)).collect()
    }
}

/// A guarded directory under `base`. It is empty when the guard is told of it, so a crash between the two leaves no data.
pub(crate) fn scratch_dir(host: &Host, base: &Path) -> Result<(Guard, PathBuf)> {
    let dir = sys::make_temp_dir(base)?;
    Ok((Guard::new(&host.reaper, Thing::Dir(dir.clone()))?, dir))
}

/// What the kernel's counters say about a fault.
#[derive(Debug, Default)]
pub(crate) struct Proof {
    facts: Vec<String>,
    missing: Vec<String>,
}

impl Proof {
    /// A figure that is worth reading but decides nothing.
    pub(crate) fn note(mut self, fact: impl Into<String>) -> Proof {
        self.facts.push(fact.into());
        self
    }

    /// A figure without which the fault did not happen.
    pub(crate) fn must(mut self, holds: bool, fact: impl Into<String>) -> Proof {
        let fact = fact.into();
        if !holds {
            self.missing.push(fact.clone());
        }
        self.facts.push(fact);
        self
    }

    /// All facts in one line; an error if one of those needed does not hold, so that whystall is not judged on a fault
    /// that was none.
    pub(crate) fn verify(&self) -> Result<String> {
        if !self.missing.is_empty() {
            bail!("the kernel's counters do not show it: {}", self.missing.join("; "));
        }
        Ok(self.facts.join("; "))
    }
}
