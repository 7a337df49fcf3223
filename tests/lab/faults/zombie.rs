//! Memory cgroups that are removed but cannot die, because page cache is still charged to them.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::settings;
use crate::cgroup::Cgroup;
use crate::expect::{Expect, SubjectPattern};
use crate::kid::Kid;
use crate::scene::{Fault, Proof, Scene};
use crate::sys;

/// How many jobs run.
const JOBS: u64 = 48;
/// A log of each; small, but enough for the kernel to bring its statistics of cgroups up to date.
const LOG_BYTES: usize = 256 << 10;
/// From one job to the next.
const EVERY: Duration = Duration::from_millis(350);

/// The CronJob that made the mission, small: 48 jobs within 17 s, each in a fresh memory cgroup under one parent. A job
/// reads a log file of its own, exits, and its cgroup is removed; the file's pages stay cached and charged, so the
/// cgroup stays as a zombie.
///
/// Bounds: 48 cgroups with 256 KiB of page cache each. Afterwards the files' pages are dropped and the files deleted,
/// which frees the zombies; what stays is reported.
/// Proof: the kernel knows more memory cgroups than there are directories (v1 `/proc/cgroups`; v2
/// `nr_dying_descendants`), and the parent's page cache (v1 counts the dead in).
pub(super) const ZOMBIE_GROWTH: Fault = Fault {
    name: "zombie_growth",
    expect: Expect::Verdict {
        rule: "memory.zombie_memcg_growth",
        causes: &["memcg.leak.page_cache"],
        subject: SubjectPattern::Host,
        ruled_out_contains: &[],
        summary_names_cgroup: true,
        resolved: true,
    },
    available: |host| {
        host.needs("memory")?;
        host.needs_disk(32)
    },
    run: zombie_growth,
};

/// The same with shared memory: each of 48 jobs writes 64 KiB to a file of its own in a tmpfs and ends. The file stays,
/// and so does the job's cgroup, to which it is charged.
///
/// Bounds: 48 cgroups, 3 MiB of shared memory, 17 s. The files are deleted afterwards. Proof: as for `zombie_growth`.
pub(super) const ZOMBIE_SHMEM: Fault = Fault {
    name: "zombie_shmem",
    expect: Expect::Verdict {
        rule: "memory.zombie_memcg_growth",
        causes: &["memcg.leak.shmem"],
        subject: SubjectPattern::Host,
        ruled_out_contains: &[],
        summary_names_cgroup: true,
        resolved: true,
    },
    available: |host| {
        host.needs("memory")?;
        match sys::file_system(Path::new(SHM)) {
            Ok((free, true)) if free >> 20 > 16 => Ok(()),
            _ => Err(format!("{SHM} is no tmpfs with 16 MiB free")),
        }
    },
    run: zombie_shmem,
};

const SHM: &str = "/dev/shm";

fn zombie_shmem(scene: &mut Scene<'_>) -> Result<Proof> {
    let parent = scene.cgroup()?;
    let dir = scene.dir_in(Path::new(SHM))?;
    let start = parent.dying()?;
    let began = Instant::now();
    for i in 0..JOBS as usize {
        scene.sleep((EVERY * i as u32).saturating_sub(began.elapsed()))?;
        let file = dir.join(format!("segment-{i}"));
        run_job(&parent, i, "job", settings![work_ms = 1, anon_mib = 1, file = file.display()].to_vec())?;
        if i == 0 {
            scene.onset();
        }
    }
    let took = began.elapsed().as_secs_f64();
    let grown = parent.dying()?.saturating_sub(start);
    scene.await_verdict(Duration::from_secs(6))?;
    fs::remove_dir_all(&dir).with_context(|| format!("{dir:?}"))?;
    let stays = settle(scene, &parent, start)?;
    scene.keep(parent);
    Ok(Proof::default()
        .must(grown >= 40, format!("zombies {start} → {} in {took:.1} s", start + grown))
        .note(stays))
}

/// Waits until the zombies are freed, and says how many were not.
fn settle(scene: &Scene<'_>, parent: &Cgroup, start: u64) -> Result<String> {
    let freed = Instant::now();
    while parent.dying()? > start && freed.elapsed() < Duration::from_secs(10) {
        scene.sleep(Duration::from_millis(50))?;
    }
    let stays = parent.dying()?.saturating_sub(start);
    Ok(format!("{stays} stay {:.1} s after what held them was dropped", freed.elapsed().as_secs_f64()))
}

fn zombie_growth(scene: &mut Scene<'_>) -> Result<Proof> {
    let parent = scene.cgroup()?;
    let logs = make_logs(&scene.dir()?)?;
    let start = parent.dying()?;
    let began = Instant::now();
    for (i, (path, _)) in logs.iter().enumerate() {
        let due = EVERY * i as u32;
        scene.sleep(due.saturating_sub(began.elapsed()))?;
        run_job(&parent, i, "read", settings![for_ms = 5000, file = path.display()].to_vec())?;
        if i == 0 {
            scene.onset();
        }
    }
    let took = began.elapsed().as_secs_f64();
    let (grown, cache) = (parent.dying()?.saturating_sub(start), parent.cache_bytes()? >> 10);
    scene.await_verdict(Duration::from_secs(6))?;

    for (path, file) in &logs {
        sys::drop_cache(file).with_context(|| format!("dropping {path:?} from the cache"))?;
        fs::remove_file(path).with_context(|| format!("{path:?}"))?;
    }
    drop(logs);
    let stays = settle(scene, &parent, start)?;
    scene.keep(parent);
    Ok(Proof::default()
        .must(grown >= 40, format!("zombies {start} → {} in {took:.1} s", start + grown))
        .note(format!("parent's page cache {cache} KiB"))
        .note(stays))
}

/// Writes the jobs' log files and drops them from the cache: they were charged to the lab, and must be charged to the
/// job that reads them.
fn make_logs(dir: &Path) -> Result<Vec<(PathBuf, File)>> {
    let mut logs = Vec::new();
    for i in 0..JOBS {
        let path = dir.join(format!("job-{i}.log"));
        let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        file.write_all(&[b'.'; LOG_BYTES]).with_context(|| format!("{path:?}"))?;
        file.sync_all().with_context(|| format!("{path:?}"))?;
        sys::drop_cache(&file).with_context(|| format!("dropping {path:?} from the cache"))?;
        logs.push((path, file));
    }
    Ok(logs)
}

/// One job from its cgroup's birth to its removal.
pub(super) fn run_job(
    parent: &Cgroup,
    i: usize,
    role: &'static str,
    mut settings: Vec<String>,
) -> Result<()> {
    let group = parent.memory_child(&format!("job-{i}"))?;
    settings.push(format!("join={}", group.join("cgroup.procs").display()));
    Kid::start(role, None, &settings)?.finish(Duration::from_secs(5))?;
    fs::remove_dir(&group).with_context(|| format!("removing cgroup {group:?}"))
}
