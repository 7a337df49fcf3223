//! A task waits long for a CPU: behind a real-time task, behind too many others, behind its own quota.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

use super::settings;
use crate::counters::{SchedStat, Snapshot};
use crate::expect::{Expect, SubjectPattern};
use crate::kid::{Kid, number};
use crate::scene::{Fault, Host, Proof, Scene};
use crate::sys;

const fn sched_delay(causes: &'static [&'static str], subject: SubjectPattern) -> Expect {
    Expect::Verdict {
        rule: "cpu.sched_delay",
        causes,
        subject,
        ruled_out_contains: &[],
        summary_names_cgroup: false,
        resolved: true,
    }
}

/// A SCHED_FIFO task spins on one CPU for 5 s, 700 ms on and 50 ms off, while an ordinary process on that CPU wakes every
/// 10 ms to work 1 ms.
///
/// Bounds: one CPU of at least two; 5 s; the kernel itself kills the hog if it runs 1.4 s without sleeping
/// (RLIMIT_RTTIME), and real-time throttling or the fair server leave others about 50 ms a second.
/// Proof: the victim's own `schedstat` (waiting) and the hog's (running).
pub(super) const RT_HOG: Fault = Fault {
    name: "rt_hog",
    expect: sched_delay(&["cpu.rt_hog"], SubjectPattern::CpuOrCgroup),
    available: rt_available,
    run: rt_hog,
};

fn rt_available(host: &Host) -> Result<(), String> {
    host.needs("cpu")?;
    if host.cpus.len() < 2 {
        return Err("needs two CPUs: the only one is never hogged".into());
    }
    let probe = Kid::start("spin", None, &settings![fifo = 1, on_ms = 1, for_ms = 1]);
    match probe.and_then(|kid| kid.finish(Duration::from_secs(5))) {
        Ok(_) => Ok(()),
        Err(e) => Err(format!("no SCHED_FIFO here: {e:#}")),
    }
}

/// Keeps the lab's own thread off the victims' CPU until dropped.
struct Away<'a>(&'a [usize]);

impl Away<'_> {
    fn from_victim_cpu(host: &Host) -> Result<Away<'_>> {
        sys::pin(&host.quiet_cpus())?;
        Ok(Away(&host.cpus))
    }
}

impl Drop for Away<'_> {
    fn drop(&mut self) {
        let _ = sys::pin(self.0);
    }
}

fn rt_hog(scene: &mut Scene<'_>) -> Result<Proof> {
    let cpu = scene.host.victim_cpu()?;
    scene.names.cpu = Some(cpu);
    let group = scene.cgroup()?;
    let away = Away::from_victim_cpu(scene.host)?;
    let victim = settings![cpu = cpu, for_ms = 6500, period_ms = 10, work_ms = 1];
    let victim = Kid::start("waker", Some(&group), &victim)?;
    scene.sleep(Duration::from_secs(1))?;
    // The hog stays outside of the group: with RT_GROUP_SCHED a new cgroup has no real-time budget.
    let hog = settings![cpu = cpu, fifo = 50, for_ms = 5000, on_ms = 700, off_ms = 50];
    let before = SchedStat::read(victim.pid())?;
    let hog = Kid::start("spin", None, &hog)?;
    scene.onset();
    scene.sleep(Duration::from_millis(4600))?;
    let (waited, hog_ran) =
        (SchedStat::read(victim.pid())?.since(&before), SchedStat::read(hog.pid())?.run_ns as f64 / 1e6);
    let policy = policy_of(hog.pid())?;
    let reports = scene.finish(vec![hog, victim], Duration::from_secs(10))?;
    drop(away);
    let throttle = fs::read_to_string("/proc/sys/kernel/sched_rt_runtime_us").unwrap_or_default();
    let wait_ms = waited.wait_ns as f64 / 1e6;
    scene.keep(group);
    Ok(Proof::default()
        .must(policy == libc::SCHED_FIFO as u64, format!("the hog's policy is {policy} (1: FIFO)"))
        .must(hog_ran > 2500.0, format!("it ran {hog_ran:.0} ms of 4600 on CPU {cpu}"))
        .must(wait_ms > 2000.0, format!("the victim waited {wait_ms:.0} ms in {} slices", waited.slices))
        .note(format!("late at worst {:.0} ms", number(&reports[1], "max_ms")?))
        .note(format!("sched_rt_runtime_us {}", throttle.trim())))
}

/// The scheduling policy, the 41st field of `/proc/PID/stat` (proc(5)).
fn policy_of(pid: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).context("the hog's stat")?;
    let after_comm = text.rsplit_once(") ").context("stat without a comm")?.1;
    after_comm.split(' ').nth(41 - 3).and_then(|w| w.parse().ok()).context("stat without a policy")
}

/// 24 tasks that never sleep and a service that wakes every 40 ms to work 20 ms share one CPU and one cgroup, for 12 s.
/// One group, because `sched_autogroup` or groups of their own would give the victim a fair half.
///
/// Bounds: one CPU, 25 processes, 12 s.
/// Proof: `schedstat` of hogs and victim: milliseconds waited for each slice run.
pub(super) const CFS_OVERCOMMIT: Fault = Fault {
    name: "cfs_overcommit",
    expect: sched_delay(&["cpu.overcommit", "cpu.affinity"], SubjectPattern::CpuOrCgroup),
    available: |host| {
        host.needs("cpu")?;
        if host.cpus.len() < 2 { Err("needs two CPUs".into()) } else { Ok(()) }
    },
    run: cfs_overcommit,
};

fn cfs_overcommit(scene: &mut Scene<'_>) -> Result<Proof> {
    let cpu = scene.host.victim_cpu()?;
    scene.names.cpu = Some(cpu);
    let group = scene.cgroup()?;
    let _away = Away::from_victim_cpu(scene.host)?;
    let victim = settings![cpu = cpu, for_ms = 12_500, period_ms = 40, work_ms = 20];
    let mut kids = vec![Kid::start("waker", Some(&group), &victim)?];
    for _ in 0..24 {
        kids.push(Kid::start("spin", Some(&group), &settings![cpu = cpu, for_ms = 12_000])?);
    }
    scene.onset();
    let before = kids.iter().map(|k| SchedStat::read(k.pid())).collect::<Result<Vec<_>>>()?;
    scene.sleep(Duration::from_secs(11))?;
    let mut waits = Vec::new();
    for (kid, before) in kids.iter().zip(&before) {
        waits.push(SchedStat::read(kid.pid())?.since(before));
    }
    let reports = scene.finish(kids, Duration::from_secs(15))?;
    let victim = waits[0];
    let mut hogs: Vec<f64> = waits[1..].iter().map(SchedStat::wait_ms_per_slice).collect();
    hogs.sort_by(f64::total_cmp);
    let median = hogs[hogs.len() / 2];
    scene.keep(group);
    Ok(Proof::default()
        .must(median > 50.0, format!("hogs waited {median:.0} ms a slice (median of 24)"))
        .note(format!("the victim {:.0} ms a slice, {} slices", victim.wait_ms_per_slice(), victim.slices))
        .note(format!(
            "its 20 ms of work were late by {:.0} ms, at worst {:.0} ms",
            number(&reports[0], "p50_ms")?,
            number(&reports[0], "max_ms")?
        )))
}

/// A container with a quota of 20 ms in each 100 ms runs two busy tasks and a service that wakes every 10 ms, for 12 s.
///
/// Bounds: a fifth of a CPU, 3 processes, 12 s.
/// Proof: `nr_throttled` against `nr_periods` and the throttled time in the group's `cpu.stat`.
pub(super) const CPU_QUOTA: Fault = Fault {
    name: "cpu_quota",
    expect: sched_delay(&["cpu.quota"], SubjectPattern::Cgroup),
    available: |host| host.needs("cpu"),
    run: cpu_quota,
};

fn cpu_quota(scene: &mut Scene<'_>) -> Result<Proof> {
    let group = scene.cgroup()?;
    group.limit_cpu(20_000, 100_000)?;
    let (start, before) = (Snapshot::take(), group.throttled()?);
    let mut kids =
        vec![Kid::start("waker", Some(&group), &settings![for_ms = 12_000, period_ms = 10, work_ms = 1])?];
    for _ in 0..2 {
        kids.push(Kid::start("spin", Some(&group), &settings![for_ms = 12_000])?);
    }
    scene.onset_when("throttling", Duration::from_secs(5), || {
        Ok(group.throttled()?.throttled > before.throttled)
    })?;
    let reports = scene.finish(kids, Duration::from_secs(20))?;
    let (now, seconds) = (group.throttled()?, Snapshot::take().since(&start).seconds);
    let (periods, throttled) = (now.periods - before.periods, now.throttled - before.throttled);
    scene.keep(group);
    Ok(Proof::default()
        .must(
            throttled * 2 > periods && throttled > 20,
            format!("{throttled} of {periods} periods throttled"),
        )
        .note(format!("throttled for {} ms in {seconds:.1} s", now.ms - before.ms))
        .note(format!(
            "the victim's 1 ms late by {:.0} ms, at worst {:.0} ms",
            number(&reports[0], "p50_ms")?,
            number(&reports[0], "max_ms")?
        )))
}

/// Two SCHED_RR tasks take turns on one CPU for 5 s, 700 ms on and 50 ms off each, beside an ordinary process.
///
/// Bounds and proof as for `rt_hog`.
pub(super) const RR_HOGS: Fault = Fault {
    name: "rr_hogs",
    expect: sched_delay(&["cpu.rt_hog"], SubjectPattern::CpuOrCgroup),
    available: rt_available,
    run: rr_hogs,
};

fn rr_hogs(scene: &mut Scene<'_>) -> Result<Proof> {
    let cpu = scene.host.victim_cpu()?;
    scene.names.cpu = Some(cpu);
    let group = scene.cgroup()?;
    let away = Away::from_victim_cpu(scene.host)?;
    let victim = settings![cpu = cpu, for_ms = 6500, period_ms = 10, work_ms = 1];
    let victim = Kid::start("waker", Some(&group), &victim)?;
    scene.sleep(Duration::from_secs(1))?;
    let before = SchedStat::read(victim.pid())?;
    let mut kids = Vec::new();
    for _ in 0..2 {
        let hog = settings![cpu = cpu, rr = 50, for_ms = 5000, on_ms = 700, off_ms = 50];
        kids.push(Kid::start("spin", None, &hog)?);
    }
    scene.onset();
    scene.sleep(Duration::from_millis(4600))?;
    let waited = SchedStat::read(victim.pid())?.since(&before).wait_ns as f64 / 1e6;
    let policies = kids.iter().map(|k| policy_of(k.pid())).collect::<Result<Vec<_>>>()?;
    kids.push(victim);
    let reports = scene.finish(kids, Duration::from_secs(10))?;
    drop(away);
    scene.keep(group);
    Ok(Proof::default()
        .must(policies == [libc::SCHED_RR as u64; 2], format!("the hogs' policies are {policies:?} (2: RR)"))
        .must(waited > 2000.0, format!("the victim waited {waited:.0} ms of 4600"))
        .note(format!("late at worst {:.0} ms", number(&reports[2], "max_ms")?)))
}

/// As `cpu_quota`, but the quota is that of the grandparent of the cgroup in which the tasks are.
///
/// Bounds and proof as for `cpu_quota`.
pub(super) const NESTED_QUOTA: Fault = Fault {
    name: "nested_quota",
    expect: sched_delay(&["cpu.quota"], SubjectPattern::Cgroup),
    available: |host| host.needs("cpu"),
    run: nested_quota,
};

fn nested_quota(scene: &mut Scene<'_>) -> Result<Proof> {
    let group = scene.cgroup()?;
    group.limit_cpu(20_000, 100_000)?;
    let inner = group.child("pod")?.child("app")?;
    let before = group.throttled()?;
    let mut kids =
        vec![Kid::start("waker", Some(&inner), &settings![for_ms = 12_000, period_ms = 10, work_ms = 1])?];
    for _ in 0..2 {
        kids.push(Kid::start("spin", Some(&inner), &settings![for_ms = 12_000])?);
    }
    scene.onset_when("throttling", Duration::from_secs(5), || {
        Ok(group.throttled()?.throttled > before.throttled)
    })?;
    let reports = scene.finish(kids, Duration::from_secs(20))?;
    let (now, below) = (group.throttled()?, inner.throttled()?.throttled);
    let (periods, throttled) = (now.periods - before.periods, now.throttled - before.throttled);
    scene.keep(group);
    Ok(Proof::default()
        .must(
            throttled * 2 > periods && throttled > 20,
            format!("{throttled} of {periods} periods throttled"),
        )
        .must(below == 0, format!("{below} in the cgroup of the tasks"))
        .note(format!("the victim's 1 ms late at worst by {:.0} ms", number(&reports[0], "max_ms")?)))
}

/// One SCHED_FIFO task runs once for 300 ms on the CPU of a process that measures the hole in its own time. Where
/// `bpftrace` is installed, it measures the same wait.
///
/// Bounds: one CPU, 300 ms. Proof: the victim's own clock. The verdict must name both by pid, the wait within 2 %.
pub(super) const RT_HOG_ONCE: Fault = Fault {
    name: "rt_hog_once",
    expect: sched_delay(&["cpu.rt_hog"], SubjectPattern::CpuOrCgroup),
    available: rt_available,
    run: rt_hog_once,
};

fn rt_hog_once(scene: &mut Scene<'_>) -> Result<Proof> {
    let cpu = scene.host.victim_cpu()?;
    scene.names.cpu = Some(cpu);
    let away = Away::from_victim_cpu(scene.host)?;
    let victim = Kid::start("gap", None, &settings![cpu = cpu, for_ms = 9000])?;
    let pid = victim.pid();
    let trace = Bpftrace::start(pid);
    scene.sleep(Duration::from_secs(if trace.is_ok() { 5 } else { 1 }))?;
    let hog = Kid::start("spin", None, &settings![cpu = cpu, fifo = 50, for_ms = 300, on_ms = 300])?;
    scene.names.culprit = Some(hog.pid());
    scene.onset();
    let reports = scene.finish(vec![hog, victim], Duration::from_secs(15))?;
    drop(away);
    let own = number(&reports[1], "max_ms")?;
    let mut measures = vec![own];
    let proof = Proof::default().must(own > 250.0, format!("a hole of {own:.2} ms"));
    let traced = trace.and_then(Bpftrace::longest_ms);
    measures.extend(traced.as_ref().ok().copied());
    scene.names.victim = Some((pid, measures));
    Ok(match traced {
        Ok(ms) => proof.note(format!("bpftrace says {ms:.2} ms")),
        Err(why) => proof.note(format!("without bpftrace: {why:#}")),
    })
}

/// `bpftrace` beside us: the longest wait of one task between becoming runnable and running.
struct Bpftrace(std::process::Child);

impl Bpftrace {
    fn start(pid: u32) -> Result<Bpftrace> {
        let script = format!(
            "tracepoint:sched:sched_wakeup /args->pid == {pid}/ {{ @since = nsecs; }} \
             tracepoint:sched:sched_switch /args->prev_pid == {pid} && args->prev_state == 0/ {{ @since = nsecs; }} \
             tracepoint:sched:sched_switch /args->next_pid == {pid} && @since/ \
               {{ @longest = max(nsecs - @since); @since = 0; }} \
             interval:s:9 {{ exit(); }}"
        );
        let mut command = std::process::Command::new("bpftrace");
        command.args(["-e", &script]).stdin(std::process::Stdio::null());
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null());
        Ok(Bpftrace(sys::die_with_parent(&mut command).spawn().context("bpftrace")?))
    }

    fn longest_ms(self) -> Result<f64> {
        let done = self.0.wait_with_output().context("bpftrace")?;
        let text = String::from_utf8_lossy(&done.stdout).into_owned();
        let ns = text.lines().find_map(|l| l.strip_prefix("@longest: ")).context("bpftrace saw no wait")?;
        Ok(ns.trim().parse::<f64>()? / 1e6)
    }
}
