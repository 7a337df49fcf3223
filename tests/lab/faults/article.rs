//! The case that whystall was made for: dead memory cgroups, slow readers of statistics, a CPU that does not schedule,
//! packets that wait.

use std::fs::{self, File};
use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::settings;
use crate::cgroup::Cgroup;
use crate::expect::{Expect, SubjectPattern};
use crate::kid::{Kid, number};
use crate::scene::{Fault, Proof, Scene};
use crate::sys;

/// Jobs that ran before anybody noticed, at most, and how long they may take.
const CROWD: u64 = 40_000;
const CROWD_MS: u64 = 30_000;
/// Jobs that go on while statistics are read.
const MORE: u64 = 500;
/// How long statistics are read.
const READ_MS: u64 = 15_000;

/// CronJobs read a log in fresh memory cgroups under one parent, up to 40,000 of them, which all stay as zombies. Then
/// somebody reads the parent's `memory.numa_stat` five times a second on the last CPU, while the log is read again, and
/// a service receives its packets there.
///
/// Bounds: 40,500 cgroups with one page each, 158 MiB of page cache, some 500 MiB of kernel memory; one reader and 20
/// packets a millisecond on loopback in a network namespace of their own for 15 s. Afterwards the log's pages are dropped
/// and it is deleted, which frees the zombies; what stays is reported.
/// Proof: the zombies by the kernel's count, how long reads took, and packets that came late or not at all.
pub(super) const SLOW_STATS: Fault = Fault {
    name: "slow_stats",
    expect: Expect::Verdict {
        rule: "memory.zombie_memcg_growth",
        causes: &["memcg.leak.page_cache"],
        subject: SubjectPattern::Host,
        ruled_out_contains: &["memcg.leak.shmem"],
        summary_names_cgroup: true,
        resolved: true,
    },
    available: |host| {
        host.needs("memory")?;
        host.needs_memory(1024)?;
        crate::net::has_tool("ip")?;
        host.needs_disk(200)
    },
    run: slow_stats,
};

fn slow_stats(scene: &mut Scene<'_>) -> Result<Proof> {
    let cpu = scene.host.victim_cpu()?;
    let parent = scene.cgroup()?;
    let path = scene.dir()?.join("service.log");
    let bytes = (CROWD + MORE) * 4096;
    let log = make_log(&path, bytes)?;
    let (start, below) = (parent.dying()?, parent.memory_path()?);
    let jobs = |first: u64, jobs: u64, every: u64, for_ms: u64| {
        let words = settings![
            for_ms = for_ms,
            parent = below.display(),
            file = path.display(),
            first = first,
            jobs = jobs,
            every_ms = every
        ];
        Kid::start("leak", None, &words)
    };
    scene.onset();
    let crowd = jobs(0, CROWD, 0, CROWD_MS)?.finish(Duration::from_millis(CROWD_MS + 5_000))?;
    let crowd = number(&crowd, "made")?;
    remove_last(&parent)?;
    println!("  {crowd} cgroups were left behind");
    scene.sleep(Duration::from_secs(8))?;

    let more = jobs(CROWD, MORE, 40, READ_MS + 5_000)?;
    scene.sleep(Duration::from_secs(4))?;
    let stat = below.join("memory.numa_stat");
    let words =
        settings![for_ms = READ_MS, cpu = cpu, file = path.display(), bytes = bytes, stat = stat.display()];
    let reader = Kid::start("stat_read", None, &words)?;
    let quiet = scene.host.quiet_cpus().first().copied().unwrap_or(0);
    let packets =
        Kid::start("packets", None, &settings![for_ms = READ_MS, cpu = quiet, rps_cpu = cpu, burst = 20])?;
    let limit = Duration::from_millis(READ_MS + 10_000);
    let (reads, received) = (reader.finish(limit)?, packets.finish(limit)?);
    more.finish(limit)?;
    remove_last(&parent)?;
    let grown = parent.dying()?.saturating_sub(start);

    sys::drop_cache(&log).with_context(|| format!("dropping {path:?} from the cache"))?;
    drop(log);
    fs::remove_file(&path).with_context(|| format!("{path:?}"))?;
    let freed = Instant::now();
    while parent.dying()? > start && freed.elapsed() < Duration::from_secs(15) {
        scene.sleep(Duration::from_millis(100))?;
    }
    let stays = parent.dying()?.saturating_sub(start);
    scene.keep(parent);
    let (p50, worst) = (number(&reads, "p50_ms")?, number(&reads, "max_ms")?);
    let (sent, lost, late) =
        (number(&received, "sent")?, number(&received, "lost")?, number(&received, "late")?);
    Ok(Proof::default()
        .must(grown >= 20_000, format!("{grown} zombies"))
        .must(
            worst > 50.0,
            format!("{} reads of numa_stat took {p50:.0} ms, at most {worst:.0} ms", number(&reads, "n")?),
        )
        .must(
            lost + late > 0.0,
            format!("of {sent} packets {lost} were lost and {late} came more than 50 ms late"),
        )
        .note(format!("{stays} stay {:.1} s after the log was dropped", freed.elapsed().as_secs_f64())))
}

/// The log, written and dropped from the cache: its pages must be charged to the jobs that read them.
fn make_log(path: &std::path::Path, bytes: u64) -> Result<File> {
    let mut log = File::options().read(true).write(true).create_new(true).open(path)?;
    let block = vec![b'.'; 1 << 20];
    let mut left = bytes;
    while left > 0 {
        let n = left.min(block.len() as u64);
        log.write_all(&block[..n as usize]).with_context(|| format!("{path:?}"))?;
        left -= n;
    }
    log.sync_all().with_context(|| format!("{path:?}"))?;
    sys::drop_cache(&log).with_context(|| format!("dropping {path:?} from the cache"))?;
    Ok(log)
}

/// Removes the cgroup that the last job left because it was in it until it ended.
fn remove_last(parent: &Cgroup) -> Result<()> {
    for entry in fs::read_dir(parent.memory_path()?)?.flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            fs::remove_dir(entry.path()).with_context(|| format!("removing {:?}", entry.path()))?;
        }
    }
    Ok(())
}
