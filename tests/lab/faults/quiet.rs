//! Work that looks like a fault in one counter or another and is none: whystall must stay silent.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::settings;
use crate::counters::Snapshot;
use crate::expect::Expect;
use crate::kid::{Kid, number};
use crate::scene::{Fault, Proof, Scene};

/// How long the loads last.
const LOAD: Duration = Duration::from_secs(20);

/// Nothing for 60 s (20 s with LAB_QUICK). Proof: none needed; the figures say how quiet the machine was.
pub(super) const IDLE: Fault = Fault {
    name: "quiet_idle",
    expect: Expect::Silence,
    available: |_| Ok(()),
    run: |scene| {
        let before = Snapshot::take();
        scene.sleep(Duration::from_secs(if scene.host.quick { 20 } else { 60 }))?;
        Ok(Proof::default().note(Snapshot::take().since(&before).to_string()))
    },
};

/// 500 live memory cgroups appear, stay for 10 s and are removed: a node that starts many containers. None is ever
/// charged, so none can stay as a zombie for long.
///
/// Bounds: 500 empty cgroups. Proof: the directories existed; afterwards no zombies stay.
pub(super) const LIVE_CGROUPS: Fault = Fault {
    name: "quiet_500_cgroups",
    expect: Expect::Silence,
    available: |host| host.needs("memory"),
    run: live_cgroups,
};

fn live_cgroups(scene: &mut Scene<'_>) -> Result<Proof> {
    let parent = scene.cgroup()?;
    let before = parent.dying()?;
    let mut groups = Vec::new();
    for i in 0..500 {
        groups.push(parent.memory_child(&format!("pod-{i}"))?);
    }
    scene.sleep(Duration::from_secs(10))?;
    let while_live = parent.dying()?.saturating_sub(before);
    for group in &groups {
        fs::remove_dir(group).with_context(|| format!("removing cgroup {group:?}"))?;
    }
    let (removed, peak) = (Instant::now(), parent.dying()?.saturating_sub(before));
    while parent.dying()? > before && removed.elapsed() < Duration::from_secs(10) {
        scene.sleep(Duration::from_millis(20))?;
    }
    let (stay, gone_s) = (parent.dying()?.saturating_sub(before), removed.elapsed().as_secs_f64());
    scene.keep(parent);
    Ok(Proof::default().must(groups.len() == 500, "500 cgroups made and removed").note(format!(
        "zombies +{while_live} while live, +{peak} just after removal, +{stay} after {gone_s:.2} s"
    )))
}

/// A nice-19 batch job on every CPU for 20 s: all CPU time used, nobody hurt.
///
/// Bounds: one process a CPU. Proof: CPU pressure; each child's CPU share is bounded by what others leave.
pub(super) const NICE_BATCH: Fault =
    Fault { name: "quiet_nice19", expect: Expect::Silence, available: |_| Ok(()), run: nice_batch };

fn nice_batch(scene: &mut Scene<'_>) -> Result<Proof> {
    let before = Snapshot::take();
    let mut kids = Vec::new();
    for cpu in &scene.host.cpus {
        kids.push(Kid::start("spin", None, &settings![cpu = cpu, nice = 19, for_ms = LOAD.as_millis()])?);
    }
    let count = kids.len();
    scene.finish(kids, LOAD + Duration::from_secs(5))?;
    Ok(Proof::default().note(format!("{count} tasks at nice 19: {}", Snapshot::take().since(&before))))
}

/// Short processes as a parallel build starts them: two a CPU at a time, each with 8 MiB of memory, 30 ms of CPU time
/// and a small file written, for 20 s.
///
/// Bounds: two processes a CPU, 8 MiB each, one 64 KiB file each slot. Proof: the number of processes and CPU pressure.
pub(super) const COMPILE_BURST: Fault = Fault {
    name: "quiet_compile_burst",
    expect: Expect::Silence,
    available: |host| host.needs_disk(64),
    run: compile_burst,
};

fn compile_burst(scene: &mut Scene<'_>) -> Result<Proof> {
    let (before, dir) = (Snapshot::take(), scene.dir()?);
    let mut slots: Vec<Option<Kid>> = Vec::new();
    slots.resize_with(scene.host.cpus.len() * 2, || None);
    let (end, mut done) = (Instant::now() + LOAD, 0u64);
    while Instant::now() < end {
        for (i, slot) in slots.iter_mut().enumerate() {
            let free = match slot {
                Some(kid) => kid.ended()?.is_some(),
                None => true,
            };
            if free {
                let file = dir.join(format!("object-{i}")).display().to_string();
                *slot = Some(Kid::start("job", None, &settings![work_ms = 30, anon_mib = 8, file = file])?);
                done += 1;
            }
        }
        scene.sleep(Duration::from_millis(1))?;
    }
    drop(slots);
    let delta = Snapshot::take().since(&before);
    Ok(Proof::default().must(done > 50, format!("{done} processes")).note(delta.to_string()))
}

/// A large file is written, synced and copied: 1 GiB each, 2 GiB in all, stopped after 22 s.
///
/// Bounds: 2 GiB of disk and as much clean page cache. Proof: the bytes written and copied, IO pressure.
pub(super) const FILE_COPY: Fault = Fault {
    name: "quiet_file_copy",
    expect: Expect::Silence,
    available: |host| {
        host.needs_disk(2048)?;
        host.needs_memory(1024)
    },
    run: file_copy,
};

fn file_copy(scene: &mut Scene<'_>) -> Result<Proof> {
    let (before, file) = (Snapshot::take(), scene.dir()?.join("large").display().to_string());
    let kid = Kid::start("copy", None, &settings![for_ms = 22_000, mib = 1024, file = file])?;
    let report = kid.finish(Duration::from_secs(60))?;
    let (written, copied) = (number(&report, "written_mib")?, number(&report, "copied_mib")?);
    let delta = Snapshot::take().since(&before);
    Ok(Proof::default()
        .must(written + copied >= 256.0, format!("{written} MiB written, {copied} MiB copied"))
        .note(delta.to_string()))
}
