//! A CPU that does not schedule: a long run in the kernel, interrupts off, a softirq without end.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::settings;
use crate::expect::{Expect, SubjectPattern};
use crate::irq;
use crate::kid::{Kid, number};
use crate::scene::{Fault, Host, Proof, Scene, scratch_dir};

const fn not_scheduling(causes: &'static [&'static str]) -> Expect {
    Expect::Verdict {
        rule: "cpu.not_scheduling",
        causes,
        subject: SubjectPattern::Cpu,
        ruled_out_contains: &[],
        summary_names_cgroup: false,
        resolved: true,
    }
}

fn two_cpus(host: &Host) -> Result<(), String> {
    if host.cpus.len() < 2 { Err("needs two CPUs".into()) } else { Ok(()) }
}

/// Runs an injector's role beside an ordinary task that wants the same CPU.
fn injected(scene: &mut Scene<'_>, role: &'static str, gap_ms: u32) -> Result<Proof> {
    let cpu = scene.host.victim_cpu()?;
    scene.names.cpu = Some(cpu);
    // Somebody must want the CPU, or nobody waits, and it must tick.
    let busy = Kid::start("spin", None, &settings![cpu = cpu, for_ms = 7000])?;
    scene.sleep(Duration::from_millis(300))?;
    let settings = settings![on_cpu = cpu, target_ms = 100, times = 8, gap_ms = gap_ms, for_ms = 6000];
    let injector = Kid::start(role, None, &settings)?;
    scene.onset();
    let report = injector.finish(Duration::from_secs(12))?;
    scene.finish(vec![busy], Duration::from_secs(10))?;
    let (runs, last) = (number(&report, "runs")?, number(&report, "last_ms")?);
    Ok(Proof::default()
        .must(runs >= 3.0, format!("{runs} times"))
        .must(last > 55.0, format!("the last took {last:.0} ms by its own clock")))
}

/// A BPF program keeps a thread in its system calls, 8 times for about 100 ms with 400 ms between.
///
/// Bounds: one CPU, 6 s; the program's loop is bounded by the kernel's verifier. Proof: its own count and clock.
pub(super) const LONG_RUN: Fault = Fault {
    name: "kernel_long_run",
    expect: not_scheduling(&["kernel.long_section"]),
    available: two_cpus,
    run: |scene| injected(scene, "inject_kernel_run", 400),
};

/// A BPF program on a perf event runs with interrupts off, 8 times for about 100 ms, once in 600 ms of CPU time.
///
/// Bounds and proof as above.
pub(super) const IRQ_OFF: Fault = Fault {
    name: "irq_off",
    expect: not_scheduling(&["kernel.irq_off"]),
    available: two_cpus,
    run: |scene| injected(scene, "inject_irqoff", 600),
};

/// A BPF socket filter makes the receiving softirq of one packet take about 100 ms, 8 times with 400 ms between.
///
/// Bounds and proof as above; loopback only.
pub(super) const SLOW_SOFTIRQ: Fault = Fault {
    name: "slow_softirq",
    expect: not_scheduling(&["kernel.long_section"]),
    available: two_cpus,
    run: |scene| injected(scene, "inject_softirq", 400),
};

/// The disk's interrupt has a handler that takes 15 ms, 150 times: somebody reads the disk, page by page, 25 ms apart.
///
/// Bounds: the CPU that serves the disk, 60 % of it for 4 s, never over 20 ms at once; 1 MiB on disk. Proof: the injector's
/// own count and clock. Others' reads of the disk wait as long.
pub(super) const IRQ_STORM: Fault = Fault {
    name: "irq_storm",
    expect: Expect::Verdict {
        rule: "cpu.irq_storm",
        causes: &["irq.storm"],
        subject: SubjectPattern::Cpu,
        ruled_out_contains: &[],
        summary_names_cgroup: false,
        resolved: true,
    },
    available: |host| {
        two_cpus(host)?;
        host.needs_disk(2)?;
        let (_guard, dir) = scratch_dir(host, &host.disk).map_err(|e| format!("{e:#}"))?;
        disk_file(&dir).and_then(|(_, file)| irq::of_disk(&file)).map(drop).map_err(|e| format!("{e:#}"))
    },
    run: irq_storm,
};

/// 1 MiB on the disk.
fn disk_file(dir: &Path) -> Result<(PathBuf, File)> {
    let path = dir.join("pages");
    let mut file = File::options().read(true).write(true).create_new(true).open(&path)?;
    file.write_all(&vec![b'.'; 1 << 20]).with_context(|| format!("{path:?}"))?;
    file.sync_all().with_context(|| format!("{path:?}"))?;
    Ok((path, file))
}

fn irq_storm(scene: &mut Scene<'_>) -> Result<Proof> {
    let (path, file) = disk_file(&scene.dir()?)?;
    let line = irq::of_disk(&file)?;
    scene.names.cpu = Some(line.cpu);
    let settings = settings![
        irq = line.number,
        on_cpu = line.cpu,
        file = path.display(),
        target_ms = 15,
        times = 150,
        gap_ms = 10,
        for_ms = 8000
    ];
    let injector = Kid::start("inject_irq", None, &settings)?;
    scene.onset();
    let report = injector.finish(Duration::from_secs(12))?;
    let (runs, last) = (number(&report, "runs")?, number(&report, "last_ms")?);
    Ok(Proof::default()
        .must(runs >= 75.0, format!("{runs} times"))
        .must(last > 8.0, format!("the last took {last:.0} ms by its own clock"))
        .note(format!("interrupt {} on CPU {}", line.number, line.cpu)))
}

/// A directory in which 1.5 million names were looked for in vain is watched by inotify again and again: each time the
/// kernel walks all of those names under the directory's lock.
///
/// Bounds: one CPU, 1.5 million dentries (some 300 MiB of kernel memory, freed with the directory), 25 s.
/// Proof: how long the calls took by the caller's own clock.
pub(super) const DENTRY_WALK: Fault = Fault {
    name: "kernel_dentry_walk",
    expect: not_scheduling(&["kernel.long_section"]),
    available: |host| {
        two_cpus(host)?;
        host.needs_memory(2048)?;
        host.needs_disk(1)
    },
    run: dentry_walk,
};

fn dentry_walk(scene: &mut Scene<'_>) -> Result<Proof> {
    let cpu = scene.host.victim_cpu()?;
    scene.names.cpu = Some(cpu);
    let dir = scene.dir()?.join("names");
    std::fs::create_dir(&dir)?;
    let made = super::super::net::look_in_vain(
        &dir,
        1_500_000,
        std::time::Instant::now() + Duration::from_secs(20),
    )?;
    let busy = Kid::start("spin", None, &settings![cpu = cpu, for_ms = 9000])?;
    let settings = settings![cpu = cpu, dir = dir.display(), times = 40, gap_ms = 100, for_ms = 7000];
    let watcher = Kid::start("watch_names", None, &settings)?;
    scene.onset();
    let report = watcher.finish(Duration::from_secs(20))?;
    scene.finish(vec![busy], Duration::from_secs(12))?;
    let (calls, worst) = (number(&report, "calls")?, number(&report, "max_ms")?);
    Ok(Proof::default()
        .must(calls >= 5.0 && worst > 60.0, format!("{calls} calls, the longest {worst:.0} ms"))
        .note(format!("{made} names")))
}
