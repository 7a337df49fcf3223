//! Reclaim and removed cgroups that hurt nobody: whystall must stay silent.

use std::fs::File;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::settings;
use super::zombie::run_job;
use crate::counters::Snapshot;
use crate::expect::Expect;
use crate::kid::Kid;
use crate::scene::{Fault, Host, Proof, Scene, meminfo_mib};

/// An operator reclaims a container's page cache by hand, five times over 256 MiB: v1 `memory.force_empty`, v2
/// `memory.reclaim`. The kernel reports memcg reclaim with a duration, as for a fault, but no task of the container
/// waits and no limit is hit.
///
/// Bounds: 256 MiB of page cache and disk. Proof: the group's page cache falls each time; the limit is not hit.
pub(super) const OPERATOR_RECLAIM: Fault = Fault {
    name: "quiet_operator_reclaim",
    expect: Expect::Silence,
    available: |host| {
        host.needs("memory")?;
        host.needs_memory(512)?;
        host.needs_disk(512)
    },
    run: operator_reclaim,
};

fn operator_reclaim(scene: &mut Scene<'_>) -> Result<Proof> {
    let group = scene.cgroup()?;
    let file = scene.dir()?.join("scratch").display().to_string();
    let fill = settings![for_ms = 1500, file_mib = 256, file = file];
    Kid::start("churn", Some(&group), &fill)?.finish(Duration::from_secs(20))?;
    let hits = group.limit_hits()?;
    let (mut held, mut dropped, mut took) = (0, 0, Duration::ZERO);
    for _ in 0..5 {
        let read = settings![for_ms = 5000, mib = 256, file = file];
        Kid::start("stream", Some(&group), &read)?.finish(Duration::from_secs(10))?;
        let (full, start) = (group.cache_bytes()?, Instant::now());
        group.reclaim(256)?;
        took += start.elapsed();
        held += full >> 20;
        dropped += full.saturating_sub(group.cache_bytes()?) >> 20;
        scene.sleep(Duration::from_secs(1))?;
    }
    let hits = group.limit_hits()? - hits;
    scene.keep(group);
    Ok(Proof::default()
        .must(
            held >= 64 && dropped * 10 >= held * 8,
            format!("{dropped} of {held} MiB reclaimed in five turns, {} ms in all", took.as_millis()),
        )
        .must(hits == 0, format!("limit hits +{hits}")))
}

/// Page cache fills memory until kswapd reclaims in the background, and nobody reclaims directly: a backup on a healthy
/// node. Sparse files fill it, so no disk is used.
///
/// The watermarks are spread first (`vm.watermark_scale_factor` 2000, restored afterwards), so that kswapd wakes with 20 %
/// of memory still free and nobody comes near the `min` watermark. More would evict so much that others' files are read
/// again all the time, which is pressure indeed.
/// Bounds: 25 s; only clean page cache. Proof: `pgscan_kswapd` rises, `allocstall` stays below 50 a second.
pub(super) const KSWAPD_ONLY: Fault =
    Fault { name: "quiet_kswapd", expect: Expect::Silence, available: kswapd_available, run: kswapd_only };

const WATERMARKS: &str = "/proc/sys/vm/watermark_scale_factor";
const ENOUGH_SCANNED: u64 = 100_000;
const MOST_MEMORY_MIB: u64 = 48 << 10;

fn kswapd_available(host: &Host) -> Result<(), String> {
    host.needs_disk(16)?;
    host.needs_memory(1024)?;
    let total = meminfo_mib("MemTotal:")?;
    if total > MOST_MEMORY_MIB {
        return Err(format!("{total} MiB of memory cannot be filled in 20 s"));
    }
    match File::options().write(true).open(WATERMARKS) {
        Ok(_) => Ok(()),
        Err(e) => Err(format!("{WATERMARKS}: {e}")),
    }
}

fn kswapd_only(scene: &mut Scene<'_>) -> Result<Proof> {
    let dir = scene.dir()?;
    let before = Snapshot::take();
    scene.sysctl(WATERMARKS, "2000")?;
    let mut kids = Vec::new();
    for i in 0..4 {
        let path = dir.join(format!("sparse-{i}"));
        let file = File::create_new(&path).with_context(|| format!("{path:?}"))?;
        file.set_len(64 << 30).with_context(|| format!("{path:?}"))?;
        kids.push(Kid::start(
            "prefetch",
            None,
            &settings![for_ms = 25_000, mib = 64 << 10, file = path.display()],
        )?);
    }
    let end = Instant::now() + Duration::from_secs(20);
    let scanned = || Snapshot::take().since(&before).vmstat("pgscan_kswapd");
    while scanned() < ENOUGH_SCANNED && Instant::now() < end {
        scene.sleep(Duration::from_millis(100))?;
    }
    // Memory is full now; some seconds of steady background reclaim follow.
    scene.sleep(Duration::from_secs(4))?;
    drop(kids);
    let delta = Snapshot::take().since(&before);
    let scanned = delta.vmstat("pgscan_kswapd");
    let filled = format!("pgscan_kswapd +{scanned} (0: memory was not filled in 20 s); {delta}");
    let stalls = delta.vmstat("allocstall") as f64 / delta.seconds;
    Ok(Proof::default()
        .must(scanned >= ENOUGH_SCANNED, filled)
        .must(stalls < 50.0, format!("{stalls:.1} direct reclaims a second")))
}

/// Jobs one after another for 15 s, each in a fresh memory cgroup that is removed when it ends, as in `zombie_growth`; but
/// they use memory of their own alone, so each cgroup dies at once.
///
/// Bounds: one process at a time with 4 MiB, at most 400. Proof: their number, and that no zombies stay.
pub(super) const SHORT_JOBS: Fault = Fault {
    name: "quiet_short_jobs",
    expect: Expect::Silence,
    available: |host| host.needs("memory"),
    run: short_jobs,
};

fn short_jobs(scene: &mut Scene<'_>) -> Result<Proof> {
    let parent = scene.cgroup()?;
    let before = parent.dying()?;
    let (end, mut jobs) = (Instant::now() + Duration::from_secs(15), 0);
    while Instant::now() < end && jobs < 400 {
        run_job(&parent, jobs, "job", settings![work_ms = 5, anon_mib = 4].to_vec())?;
        jobs += 1;
        scene.sleep(Duration::from_millis(30))?;
    }
    let removed = Instant::now();
    while parent.dying()? > before && removed.elapsed() < Duration::from_secs(5) {
        scene.sleep(Duration::from_millis(20))?;
    }
    let stay = parent.dying()?.saturating_sub(before);
    scene.keep(parent);
    Ok(Proof::default()
        .must(jobs >= 50, format!("{jobs} jobs"))
        .must(stay < 4, format!("+{stay} zombies after {:.2} s", removed.elapsed().as_secs_f64())))
}
