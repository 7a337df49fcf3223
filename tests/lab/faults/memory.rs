//! A cgroup at its memory limit: direct reclaim, and the OOM killer.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::settings;
use crate::counters::Snapshot;
use crate::expect::{Expect, SubjectPattern};
use crate::kid::{Kid, number};
use crate::scene::{Fault, Host, Proof, Scene};

/// A container with a 256 MiB limit, half of it anonymous memory that is given back and touched anew, reads and writes
/// a 384 MiB file: each page beyond the limit makes the task itself reclaim.
///
/// A second process in the container maps 8 MiB every 20 ms and measures how long that takes: the victim.
/// Bounds: 256 MiB of memory, 384 MiB of disk, 12 s.
/// Proof: the group's `memory.failcnt` (v2: `max` in `memory.events`) rises steeply while the host's `allocstall` does
/// not, since that counts global reclaim only.
pub(super) const MEMCG_LIMIT: Fault = Fault {
    name: "memcg_limit",
    expect: AT_LIMIT,
    available: limit_available,
    run: |scene| {
        at_limit(
            scene,
            Pressure { limit_mib: 256, anon_mib: 128, file_mib: 384, victim_mib: 8, nested: false },
        )
    },
};

/// A container with a 64 MiB limit reads and writes a 512 MiB file and holds next to no anonymous memory: the limit is
/// hit by page cache alone, as by a log reader or a backup.
///
/// Bounds: 64 MiB of memory, 512 MiB of disk, 12 s. Proof: as for `memcg_limit`.
pub(super) const MEMCG_LIMIT_CACHE_ONLY: Fault = Fault {
    name: "memcg_limit_cache_only",
    expect: AT_LIMIT,
    available: limit_available,
    run: |scene| {
        at_limit(scene, Pressure { limit_mib: 64, anon_mib: 0, file_mib: 512, victim_mib: 1, nested: false })
    },
};

/// A pod with a 32 MiB limit whose container has none of its own: the tasks wait in the child, the limit is the parent's,
/// and the parent is to be named.
///
/// Bounds: 32 MiB of memory, 128 MiB of disk, 12 s. Proof: as for `memcg_limit`.
pub(super) const MEMCG_LIMIT_NESTED: Fault = Fault {
    name: "memcg_limit_nested",
    expect: AT_LIMIT,
    available: limit_available,
    run: |scene| {
        at_limit(scene, Pressure { limit_mib: 32, anon_mib: 8, file_mib: 128, victim_mib: 1, nested: true })
    },
};

/// A container over its `memory.high` of 48 MiB, far from any hard limit, reads and writes a 192 MiB file: the kernel
/// makes its tasks reclaim and slows them down. cgroup v2 only.
///
/// Bounds: 48 MiB of memory and what the kernel lets it go over, 192 MiB of disk, 12 s.
/// Proof: `high` of the group's `memory.events` rises, `max` does not.
pub(super) const MEMCG_HIGH: Fault = Fault {
    name: "memcg_high",
    expect: Expect::Verdict {
        rule: "memory.direct_reclaim_burst",
        causes: &["memcg.high"],
        subject: SubjectPattern::Cgroup,
        ruled_out_contains: &["memcg.limit", "node.low_memory"],
        summary_names_cgroup: false,
        resolved: true,
    },
    available: |host| {
        limit_available(host)?;
        match host.layout.tree("memory") {
            Ok(tree) if tree.v2 => Ok(()),
            _ => Err("cgroup v1 has no memory.high".into()),
        }
    },
    run: over_high,
};

fn over_high(scene: &mut Scene<'_>) -> Result<Proof> {
    let group = scene.cgroup()?;
    group.throttle_memory(48)?;
    let file = scene.dir()?.join("scratch").display().to_string();
    let (before, highs_before, hits_before) = (Snapshot::take(), group.throttles()?, group.limit_hits()?);
    let churn = settings![for_ms = 12_000, anon_mib = 16, file_mib = 192, file = file];
    let churn = Kid::start("churn", Some(&group), &churn)?;
    scene.onset_when("memory.high", Duration::from_secs(8), || Ok(group.throttles()? > highs_before))?;
    scene.finish(vec![churn], Duration::from_secs(30))?;
    let (delta, highs) = (Snapshot::take().since(&before), group.throttles()? - highs_before);
    let hits = group.limit_hits()? - hits_before;
    scene.keep(group);
    Ok(Proof::default()
        .must(highs >= 300, format!("memory.high met +{highs} in {:.1} s", delta.seconds))
        .must(hits == 0, format!("memory.max met +{hits}"))
        .note(format!("psi memory {:.1} %", delta.psi_percent("memory").unwrap_or(f64::NAN))))
}

const AT_LIMIT: Expect = Expect::Verdict {
    rule: "memory.direct_reclaim_burst",
    causes: &["memcg.limit"],
    subject: SubjectPattern::Cgroup,
    ruled_out_contains: &["node.low_memory"],
    summary_names_cgroup: false,
    resolved: true,
};

fn limit_available(host: &Host) -> Result<(), String> {
    host.needs("memory")?;
    host.needs_memory(512)?;
    host.needs_disk(1024)
}

struct Pressure {
    limit_mib: u64,
    anon_mib: u64,
    file_mib: u64,
    victim_mib: u64,
    /// Whether the tasks are in a child that has no limit.
    nested: bool,
}

fn at_limit(scene: &mut Scene<'_>, p: Pressure) -> Result<Proof> {
    let group = scene.cgroup()?;
    group.limit_memory(p.limit_mib)?;
    let file = scene.dir()?.join("scratch").display().to_string();
    let (before, hits_before) = (Snapshot::take(), group.limit_hits()?);
    let churn = settings![for_ms = 12_000, anon_mib = p.anon_mib, file_mib = p.file_mib, file = file];
    let child = if p.nested { Some(group.memory_child("inner")?.join("cgroup.procs")) } else { None };
    let joins = child.iter().map(|procs| format!("join={}", procs.display()));
    let (inside, joins) = (child.is_none().then_some(&group), joins.collect::<Vec<_>>());
    let churn = Kid::start("churn", inside, &[&churn[..], &joins].concat())?;
    let victim = settings![for_ms = 12_000, anon_mib = p.victim_mib];
    let victim = Kid::start("alloc", inside, &[&victim[..], &joins].concat())?;
    scene.onset_when("the memory limit", Duration::from_secs(5), || Ok(group.limit_hits()? > hits_before))?;
    let reports = scene.finish(vec![churn, victim], Duration::from_secs(20))?;
    let (delta, hits) = (Snapshot::take().since(&before), group.limit_hits()? - hits_before);
    let (read, worst) = (number(&reports[0], "read_mib")?, number(&reports[1], "max_ms")?);
    let (p50, allocstall) = (number(&reports[1], "p50_ms")?, delta.vmstat("allocstall"));
    scene.keep(group);
    Ok(Proof::default()
        .must(hits >= 1000, format!("limit hits +{hits} in {:.1} s", delta.seconds))
        .must((allocstall as f64) < delta.seconds * 50.0, format!("host allocstall +{allocstall}"))
        .note(format!("psi memory {:.1} %", delta.psi_percent("memory").unwrap_or(f64::NAN)))
        .note(format!("workingset_refault_file +{}", delta.vmstat("workingset_refault_file")))
        .note(format!("{read} MiB read"))
        .note(format!("victim's {} MiB took {p50:.1} ms, at worst {worst:.0} ms", p.victim_mib)))
}

/// A process touches 256 MiB of anonymous memory in a container limited to 64 MiB without swap: the kernel kills it.
///
/// Bounds: 64 MiB of memory, one process, under a second.
/// Proof: the child ended by SIGKILL that the lab did not send; `oom_kill` of the group (v1 `memory.oom_control`, v2
/// `memory.events`) and of the host (`vmstat`) rose.
pub(super) const OOM_KILL: Fault = Fault {
    name: "oom_kill",
    expect: Expect::Verdict {
        rule: "memory.oom_kill",
        causes: &["memcg.limit"],
        subject: SubjectPattern::Cgroup,
        ruled_out_contains: &[],
        summary_names_cgroup: false,
        resolved: true,
    },
    available: |host| {
        host.needs("memory")?;
        host.needs_memory(128)
    },
    run: oom_kill,
};

fn oom_kill(scene: &mut Scene<'_>) -> Result<Proof> {
    use std::os::unix::process::ExitStatusExt;

    let group = scene.cgroup()?;
    group.limit_memory(64)?;
    let (before, kills_before) = (Snapshot::take(), group.oom_kills()?);
    let mut kid = Kid::start("touch", Some(&group), &settings![for_ms = 10_000, anon_mib = 256])?;
    scene.onset_when("the OOM kill", Duration::from_secs(10), || Ok(group.oom_kills()? > kills_before))?;
    let signal = kid.wait(Duration::from_secs(10))?.signal();
    let (delta, kills) = (Snapshot::take().since(&before), group.oom_kills()? - kills_before);
    ensure!(signal == Some(libc::SIGKILL), "the child ended by signal {signal:?}, not by the OOM killer");
    scene.keep(group);
    Ok(Proof::default()
        .must(kills >= 1, format!("the group's oom_kill +{kills}"))
        .must(delta.vmstat("oom_kill") >= 1, format!("vmstat oom_kill +{}", delta.vmstat("oom_kill")))
        .note(format!("pid {} ended by SIGKILL after {:.2} s", kid.pid(), delta.seconds)))
}
