//! The whole host short of memory, or of contiguous memory.

use std::fs::{self, File};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::settings;
use crate::counters::Snapshot;
use crate::expect::{Expect, SubjectPattern};
use crate::kid::Kid;
use crate::scene::{Fault, Host, Proof, Scene, meminfo_mib};

const MIN_FREE: &str = "/proc/sys/vm/min_free_kbytes";
/// `vm.min_free_kbytes` is not raised beyond what leaves this much available.
const LEFT_MIB: u64 = 5 << 10;
const STEP_MIB: u64 = 512;
const MOST_MEMORY_MIB: u64 = 48 << 10;

/// The host is made short without using it up: `vm.min_free_kbytes` is raised in steps while sparse files are read into
/// the page cache and a process in a container takes memory, so that both must reclaim directly for the `min` watermark.
///
/// Bounds: at least 5 GiB stay available, 1 GiB of anonymous memory, 12 s; the sysctl is restored at once, and by the reaper
/// if the lab dies. Others' page cache is evicted. Proof: `allocstall` and `pgscan_direct` rise.
pub(super) const NODE_LOW: Fault = Fault {
    name: "node_low",
    expect: Expect::Verdict {
        rule: "memory.direct_reclaim_burst",
        causes: &["node.low_memory"],
        subject: SubjectPattern::Host,
        ruled_out_contains: &["memcg.limit"],
        summary_names_cgroup: false,
        resolved: true,
    },
    available: |host| {
        host.needs("memory")?;
        host.needs_disk(16)?;
        let (total, available) = (meminfo_mib("MemTotal:")?, meminfo_mib("MemAvailable:")?);
        if total > MOST_MEMORY_MIB || available < LEFT_MIB + 2048 {
            return Err(format!("{available} of {total} MiB available: needs 7 to 48 GiB"));
        }
        File::options().write(true).open(MIN_FREE).map(drop).map_err(|e| format!("{MIN_FREE}: {e}"))
    },
    run: node_low,
};

fn node_low(scene: &mut Scene<'_>) -> Result<Proof> {
    let group = scene.cgroup()?;
    let dir = scene.dir()?;
    let before = Snapshot::take();
    let start_kib: u64 = fs::read_to_string(MIN_FREE)?.trim().parse().context(MIN_FREE)?;
    // The first write registers the old value with the reaper.
    scene.sysctl(MIN_FREE, &start_kib.to_string())?;
    let mut kids = Vec::new();
    for i in 0..2 {
        let path = dir.join(format!("sparse-{i}"));
        let file = File::create_new(&path).with_context(|| format!("{path:?}"))?;
        file.set_len(64 << 30).with_context(|| format!("{path:?}"))?;
        let read = settings![for_ms = 14_000, mib = 64 << 10, file = path.display()];
        kids.push(Kid::start("prefetch", None, &read)?);
    }
    kids.push(Kid::start("alloc", Some(&group), &settings![for_ms = 14_000, anon_mib = 256])?);
    let stalls = || Snapshot::take().since(&before).vmstat("allocstall");
    let (began, mut at_mib, mut seen) = (Instant::now(), start_kib >> 10, 0);
    let mut least = u64::MAX;
    while began.elapsed() < Duration::from_secs(12) {
        scene.sleep(Duration::from_millis(100))?;
        let now = stalls();
        if now >= 20 {
            scene.onset();
        }
        let available = meminfo_mib("MemAvailable:").map_err(anyhow::Error::msg)?;
        least = least.min(available);
        // Twice the step: each GiB of `min` also raises `high` and what the kernel holds back.
        if now - seen < 20 && available > LEFT_MIB + 2 * STEP_MIB {
            at_mib += STEP_MIB;
            fs::write(MIN_FREE, (at_mib << 10).to_string()).context(MIN_FREE)?;
        } else if available < LEFT_MIB {
            at_mib = at_mib.saturating_sub(STEP_MIB).max(start_kib >> 10);
            fs::write(MIN_FREE, (at_mib << 10).to_string()).context(MIN_FREE)?;
        }
        seen = now;
    }
    fs::write(MIN_FREE, start_kib.to_string()).context(MIN_FREE)?;
    drop(kids);
    let delta = Snapshot::take().since(&before);
    let (stalls, scanned) = (delta.vmstat("allocstall"), delta.vmstat("pgscan_direct"));
    scene.keep(group);
    Ok(Proof::default()
        .must(stalls > 500, format!("allocstall +{stalls} in {:.1} s", delta.seconds))
        .must(scanned > 10_000, format!("pgscan_direct +{scanned}"))
        .note(format!("min_free_kbytes up to {at_mib} MiB, at least {least} MiB available"))
        .note(format!("psi memory {:.1} %", delta.psi_percent("memory").unwrap_or(f64::NAN))))
}

/// What is free before, less this, is broken into single pages.
const WHOLE_MIB: u64 = 1536;
const THP: [&str; 2] =
    ["/sys/kernel/mm/transparent_hugepage/enabled", "/sys/kernel/mm/transparent_hugepage/defrag"];

/// Free memory is broken up: one process touches most of what is free page by page and gives back every other page.
/// Another then faults in huge pages: when the whole blocks are used up, each must be made by moving pages.
///
/// Bounds: half of the free memory and 4 GiB, with at least 5 GiB available; 20 s. THP settings are restored.
/// Proof: `compact_stall` rises while `allocstall` does not.
pub(super) const COMPACTION: Fault = Fault {
    name: "compaction",
    expect: Expect::Verdict {
        rule: "memory.compaction_stall",
        causes: &["node.fragmentation"],
        subject: SubjectPattern::Host,
        ruled_out_contains: &["node.low_memory"],
        summary_names_cgroup: false,
        resolved: true,
    },
    available: |_: &Host| {
        let (free, available) = (meminfo_mib("MemFree:")?, meminfo_mib("MemAvailable:")?);
        if free > 24 << 10 || available < LEFT_MIB + 4096 + free / 2 || free < WHOLE_MIB + 2048 {
            return Err(format!(
                "{free} MiB free of {available} available: needs 4 to 24 GiB, most of them free"
            ));
        }
        for path in THP {
            File::options().write(true).open(path).map_err(|e| format!("{path}: {e}"))?;
        }
        Ok(())
    },
    run: compaction,
};

fn compaction(scene: &mut Scene<'_>) -> Result<Proof> {
    THP.iter().try_for_each(|path| scene.choose(path, "madvise"))?;
    let free = meminfo_mib("MemFree:").map_err(anyhow::Error::msg)?;
    let broken = free.saturating_sub(WHOLE_MIB);
    let fragment = Kid::start("fragment", None, &settings![for_ms = 40_000, anon_mib = broken])?;
    let resident = |mib: u64| -> Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/statm", fragment.pid())).context("statm")?;
        let pages: u64 = text.split(' ').nth(1).and_then(|w| w.parse().ok()).context("statm")?;
        Ok((pages >> 8) * 100 / mib)
    };
    let (end, mut full) = (Instant::now() + Duration::from_secs(25), false);
    while !full || resident(broken)? > 60 {
        full |= resident(broken)? > 90;
        ensure!(Instant::now() < end, "{broken} MiB could not be broken up in 25 s");
        scene.sleep(Duration::from_millis(50))?;
    }
    let before = Snapshot::take();
    let stalls = || Snapshot::take().since(&before).vmstat("compact_stall");
    let group = scene.cgroup()?;
    let huge = settings![for_ms = 14_000, anon_mib = WHOLE_MIB + 2560, pause_ms = 4];
    let huge = Kid::start("huge", Some(&group), &huge)?;
    scene.onset_when("direct compaction", Duration::from_secs(15), || Ok(stalls() > 20))?;
    scene.finish(vec![huge], Duration::from_secs(30))?;
    let delta = Snapshot::take().since(&before);
    drop(fragment);
    let (stalls, reclaims) = (delta.vmstat("compact_stall"), delta.vmstat("allocstall"));
    scene.keep(group);
    Ok(Proof::default()
        .must(stalls > 300, format!("compact_stall +{stalls} in {:.1} s", delta.seconds))
        .must(reclaims * 4 < stalls, format!("allocstall +{reclaims}"))
        .note(format!("{broken} MiB broken up"))
        .note(format!("psi memory {:.1} %", delta.psi_percent("memory").unwrap_or(f64::NAN))))
}
