//! The whole host short of memory, or of contiguous memory: only on demand, since whatever else runs there feels it.

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
const STEP_MIB: u64 = 1024;
/// Little is free when the page cache has grown.
const FILLED_MIB: u64 = 1024;
const MOST_MEMORY_MIB: u64 = 48 << 10;

/// `Err` unless LAB_ROUGH asks for faults that the whole host feels.
fn asked_for() -> Result<(), String> {
    match std::env::var_os("LAB_ROUGH") {
        Some(v) if !v.is_empty() && v != "0" => Ok(()),
        _ => Err("the whole host would feel it; LAB_ROUGH=1 asks for it".into()),
    }
}

/// The host is made short without using it up: `vm.min_free_kbytes` is raised in steps while sparse files are read into
/// the page cache and a process in a container takes memory, so that both must reclaim directly for the `min` watermark.
///
/// Bounds: at least 5 GiB stay available, 1 GiB of anonymous memory, 50 s, 8 s of them short; the sysctl is restored at once, and by the reaper
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
        asked_for()?;
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
        let read = settings![for_ms = 60_000, mib = 64 << 10, file = path.display()];
        kids.push(Kid::start("prefetch", None, &read)?);
    }
    kids.push(Kid::start("alloc", Some(&group), &settings![for_ms = 60_000, anon_mib = 256])?);
    let stalls = || Snapshot::take().since(&before).vmstat("allocstall");
    let set = |mib: u64| fs::write(MIN_FREE, (mib << 10).max(start_kib).to_string()).context(MIN_FREE);
    let (began, mut at_mib, mut highest_mib, mut seen, mut quiet) = (Instant::now(), 0, 0, 0, 0);
    let mut least = u64::MAX;
    // Filling what is free takes most of the time.
    let mut short_since = None;
    while began.elapsed() < Duration::from_secs(50)
        && short_since.is_none_or(|since: Instant| since.elapsed() < Duration::from_secs(8))
    {
        scene.sleep(Duration::from_millis(100))?;
        let now = stalls();
        if now >= 20 && short_since.is_none() {
            scene.onset();
            short_since = Some(Instant::now());
        }
        let free = meminfo_mib("MemFree:").map_err(anyhow::Error::msg)?;
        let available = meminfo_mib("MemAvailable:").map_err(anyhow::Error::msg)?;
        least = least.min(available);
        quiet = if now - seen < 20 { quiet + 1 } else { 0 };
        seen = now;
        // kswapd keeps up with readers of clean pages. It is behind only while `min` rises faster than it frees: from
        // low to high again and again, each time when the cache has filled what it freed.
        if at_mib == 0 && free > FILLED_MIB {
            continue;
        }
        // Twice the step: each GiB of `min` also raises `high` and what the kernel holds back.
        if available > LEFT_MIB + 2 * STEP_MIB {
            at_mib += STEP_MIB;
        } else if quiet > 5 || available < LEFT_MIB {
            at_mib = 0;
        }
        highest_mib = highest_mib.max(at_mib);
        set(at_mib)?;
    }
    fs::write(MIN_FREE, start_kib.to_string()).context(MIN_FREE)?;
    drop(kids);
    let delta = Snapshot::take().since(&before);
    let (stalls, scanned) = (delta.vmstat("allocstall"), delta.vmstat("pgscan_direct"));
    scene.keep(group);
    Ok(Proof::default()
        .must(stalls > 500, format!("allocstall +{stalls} in {:.1} s", delta.seconds))
        .must(scanned > 10_000, format!("pgscan_direct +{scanned}"))
        .note(format!("min_free_kbytes up to {highest_mib} MiB, at least {least} MiB available"))
        .note(format!("psi memory {:.1} %", delta.psi_percent("memory").unwrap_or(f64::NAN))))
}

/// What is free before, less this, is broken into single pages.
const WHOLE_MIB: u64 = 4608;
const THP: [&str; 2] =
    ["/sys/kernel/mm/transparent_hugepage/enabled", "/sys/kernel/mm/transparent_hugepage/defrag"];

/// Free memory is broken up: one process touches most of what is free page by page and gives back every other page.
/// Another then faults in huge pages: when the whole blocks are used up, each must be made by moving pages.
///
/// Bounds: half of the free memory and 4 GiB, with at least 4.5 GiB free and 5 GiB available; 2 min. THP settings are restored.
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
        asked_for()?;
        let (free, available) = (meminfo_mib("MemFree:")?, meminfo_mib("MemAvailable:")?);
        if free > 24 << 10 || available < LEFT_MIB + 4096 + free / 2 || free < WHOLE_MIB + 2048 {
            return Err(format!(
                "{free} MiB free of {available} available: needs 7 to 24 GiB, most of them free"
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
    let until = scene.dir()?.join("until");
    let fragment = settings![for_ms = 120_000, anon_mib = broken, until = until.display()];
    let fragment = Kid::start("fragment", None, &fragment)?;
    let resident = |mib: u64| -> Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/statm", fragment.pid())).context("statm")?;
        let pages: u64 = text.split(' ').nth(1).and_then(|w| w.parse().ok()).context("statm")?;
        Ok((pages >> 8) * 100 / mib)
    };
    let (end, mut full) = (Instant::now() + Duration::from_secs(90), false);
    while !full || resident(broken)? > 60 {
        full |= resident(broken)? > 90;
        ensure!(Instant::now() < end, "{broken} MiB could not be broken up in 90 s");
        scene.sleep(Duration::from_millis(50))?;
    }
    let before = Snapshot::take();
    let stalls = || Snapshot::take().since(&before).vmstat("compact_stall");
    let group = scene.cgroup()?;
    // The first uses up most of the whole blocks, slowly; the others then want more than there are, as fast as they can.
    let huge = |mib: u64, pause: u64| {
        let huge = settings![for_ms = 60_000, anon_mib = mib, pause_ms = pause];
        Kid::start("huge", Some(&group), &huge)
    };
    let mut kids = vec![huge(WHOLE_MIB - 256, 1)?];
    scene.sleep(Duration::from_secs(8))?;
    for _ in 0..2 {
        kids.push(huge(1792, 0)?);
    }
    scene.onset_when("direct compaction", Duration::from_secs(30), || Ok(stalls() > 20))?;
    scene.sleep(Duration::from_secs(6))?;
    let delta = Snapshot::take().since(&before);
    File::create_new(&until).with_context(|| format!("{until:?}"))?;
    drop(kids);
    fragment.finish(Duration::from_secs(60))?;
    let (stalls, reclaims) = (delta.vmstat("compact_stall"), delta.vmstat("allocstall"));
    scene.keep(group);
    Ok(Proof::default()
        .must(stalls > 150, format!("compact_stall +{stalls} in {:.1} s", delta.seconds))
        .must(reclaims * 2 < stalls, format!("allocstall +{reclaims}"))
        .note(format!("{broken} MiB broken up"))
        .note(format!("psi memory {:.1} %", delta.psi_percent("memory").unwrap_or(f64::NAN))))
}
