//! What a line of the kernel's log tells: its kind, and whom it names. Pure.
//!
//! Texts follow the format strings of kernels 5.4 to 6.18. Names in them (comms, file and cgroup names) are chosen by
//! users: patterns are anchored at the start of the line wherever the kernel puts a fixed text there, what may hold a
//! long user-chosen text is recognised before patterns that search, and names are cut from the side that the kernel
//! writes.

use whystall_event::{MS, SEC};

/// The kind of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) enum Kind {
    OomKill,
    OomMemcg,
    /// More about an OOM kill that another line has reported.
    OomDetail,
    SoftLockup,
    HardLockup,
    HungTask,
    /// Who holds what a hung task waits for (since 6.16); comm and pid are the holder's.
    HungTaskBlocker,
    RcuStall,
    /// A CPU that a stall report names.
    RcuCpu,
    SchedRtThrottled,
    PageAllocFailure,
    Segfault,
    NfsTimeout,
    BlockedIo,
    Mce,
    Thermal,
    LinkDown,
    FsError,
    NetTxTimeout,
    IrqNobodyCared,
    WorkqueueLockup,
    /// A work item that ran too long (since 6.5).
    WorkqueueHog,
    /// hrtimer_interrupt() looped too long, mostly a stolen CPU.
    HrtimerSlow,
    ClockUnstable,
    DropCaches,
    #[default]
    Other,
}

impl Kind {
    /// The name in field `kind`.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Kind::OomKill => "oom_kill",
            Kind::OomMemcg => "oom_memcg",
            Kind::OomDetail => "oom_detail",
            Kind::SoftLockup => "soft_lockup",
            Kind::HardLockup => "hard_lockup",
            Kind::HungTask => "hung_task",
            Kind::HungTaskBlocker => "hung_task_blocker",
            Kind::RcuStall => "rcu_stall",
            Kind::RcuCpu => "rcu_cpu",
            Kind::SchedRtThrottled => "sched_rt_throttled",
            Kind::PageAllocFailure => "page_alloc_failure",
            Kind::Segfault => "segfault",
            Kind::NfsTimeout => "nfs_timeout",
            Kind::BlockedIo => "blocked_io",
            Kind::Mce => "mce",
            Kind::Thermal => "thermal",
            Kind::LinkDown => "link_down",
            Kind::FsError => "fs_error",
            Kind::NetTxTimeout => "net_tx_timeout",
            Kind::IrqNobodyCared => "irq_nobody_cared",
            Kind::WorkqueueLockup => "workqueue_lockup",
            Kind::WorkqueueHog => "workqueue_hog",
            Kind::HrtimerSlow => "hrtimer_slow",
            Kind::ClockUnstable => "clock_unstable",
            Kind::DropCaches => "drop_caches",
            Kind::Other => "other",
        }
    }
}

/// What a line tells; names are as untrusted as the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Found<'a> {
    pub(super) kind: Kind,
    pub(super) comm: Option<&'a str>,
    pub(super) pid: Option<u32>,
    pub(super) cpu: Option<u32>,
    /// The cgroup of the task that is named.
    pub(super) cgroup: Option<&'a str>,
    /// The cgroup whose limit was hit.
    pub(super) limit_cgroup: Option<&'a str>,
    /// How long what it reports has lasted, nanoseconds.
    pub(super) stuck_ns: Option<u64>,
}

pub(super) fn just<'a>(kind: Kind) -> Found<'a> {
    Found { kind, ..Found::default() }
}

/// Reads a record's text: the first of its lines that tells something.
pub(super) fn classify(text: &str) -> Found<'_> {
    const MOST_LINES: usize = 16;
    text.lines().take(MOST_LINES).map(line).find(|f| f.kind != Kind::Other).unwrap_or_default()
}

fn line(l: &str) -> Found<'_> {
    // Those with user-chosen texts of any length first.
    segfault(l)
        .or_else(|| file_system(l))
        .or_else(|| super::oom::read(l))
        .or_else(|| lockup(l))
        .or_else(|| rcu(l))
        .or_else(|| memory(l))
        .or_else(|| input_output(l))
        .or_else(|| hardware(l))
        .or_else(|| network(l))
        .or_else(|| time(l))
        .unwrap_or_default()
}

/// `comm[pid]: segfault at …`, `traps: comm[pid] general protection fault …`.
fn segfault(l: &str) -> Option<Found<'_>> {
    let who = match l.strip_prefix("traps: ") {
        Some(rest) => {
            let end =
                [" general protection fault ip:", " trap "].iter().filter_map(|m| rest.find(m)).min()?;
            rest.get(..end)?.strip_suffix(']')?
        }
        None => l.get(..l.find("]: segfault at ")?)?,
    };
    let (comm, pid) = who.rsplit_once('[')?;
    let cpu = l.rfind(" likely on CPU ").and_then(|i| leading(l.get(i + 15..)?));
    Some(Found { comm: Some(comm), pid: pid.parse().ok(), cpu, ..just(Kind::Segfault) })
}

fn file_system(l: &str) -> Option<Found<'_>> {
    let broken = if l.starts_with("EXT4-fs (") {
        l.contains("Remounting filesystem read-only")
    } else if l.starts_with("XFS (") {
        ["Corruption", "metadata I/O error", "log I/O error", "utting down filesystem", "has been shut down"]
            .iter()
            .any(|m| l.contains(m))
    } else {
        let starts = [
            "EXT4-fs error (device ",
            "BTRFS error (device ",
            "BTRFS critical (device ",
            "BTRFS: error (device ",
            "Aborting journal on device ",
            "FAT-fs error (",
        ];
        starts.iter().any(|m| l.starts_with(m))
    };
    broken.then(|| just(Kind::FsError))
}

/// kernel/watchdog.c, kernel/hung_task.c, kernel/workqueue.c, kernel/sched/rt.c.
fn lockup(l: &str) -> Option<Found<'_>> {
    let body = l.strip_prefix("NMI ").unwrap_or(l);
    let body = body.strip_prefix("watchdog: ").unwrap_or(body);
    if let Some(rest) = body.strip_prefix("BUG: soft lockup - CPU#") {
        let (comm, pid) =
            rest.split_once('[').map_or((None, None), |(_, who)| comm_pid(who.trim_end_matches(']')));
        let stuck = after(rest, " stuck for ").and_then(leading);
        let stuck_ns = stuck.map(|s: u64| s.saturating_mul(SEC));
        return Some(Found { comm, pid, cpu: leading(rest), stuck_ns, ..just(Kind::SoftLockup) });
    }
    if body.starts_with("Watchdog detected hard LOCKUP") || (body.starts_with("CPU") && body != l) {
        let cpu = after(body, "Watchdog detected hard LOCKUP on cpu ")?;
        return Some(Found { cpu: leading(cpu), ..just(Kind::HardLockup) });
    }
    if let Some(rest) = l.strip_prefix("INFO: task ") {
        return hung_task(rest);
    }
    if l.starts_with("BUG: workqueue lockup - pool") {
        let stuck = after(l, " stuck for ").and_then(leading);
        let stuck_ns = stuck.map(|s: u64| s.saturating_mul(SEC));
        // A pool of one CPU; `cpus=0-3` is an unbound one.
        let cpus = after(l, " cpus=").and_then(|c| c.split(' ').next());
        let cpu = cpus.and_then(|c| c.parse().ok());
        return Some(Found { cpu, stuck_ns, ..just(Kind::WorkqueueLockup) });
    }
    if l.starts_with("workqueue: ") {
        let us: u64 = after(l, " hogged CPU for >").and_then(leading)?;
        return Some(Found { stuck_ns: Some(us.saturating_mul(1000)), ..just(Kind::WorkqueueHog) });
    }
    (l == "sched: RT throttling activated").then(|| just(Kind::SchedRtThrottled))
}

/// `comm:pid blocked for more than 120 seconds.`, `comm:pid is blocked on a mutex likely owned by task comm:pid.`
fn hung_task(rest: &str) -> Option<Found<'_>> {
    for mark in [" blocked for more than ", " blocked in I/O wait for more than "] {
        if let Some(i) = rest.rfind(mark) {
            let (comm, pid) = comm_pid(rest.get(..i)?);
            let seconds: Option<u64> = rest.get(i + mark.len()..).and_then(leading);
            let stuck_ns = seconds.map(|s| s.saturating_mul(SEC));
            return Some(Found { comm, pid, stuck_ns, ..just(Kind::HungTask) });
        }
    }
    if !rest.contains(" blocked on a") {
        return None;
    }
    let owner =
        [" likely owned by task ", " likely last held by task "].iter().find_map(|m| after(rest, m))?;
    let owner = owner.trim_end_matches('.');
    // A semaphore's owner is followed by how it holds it.
    let owner = [" <reader>", " <writer>"].iter().find_map(|r| owner.strip_suffix(r)).unwrap_or(owner);
    let (comm, pid) = comm_pid(owner);
    Some(Found { comm, pid, ..just(Kind::HungTaskBlocker) })
}

/// kernel/rcu/tree_stall.h.
fn rcu(l: &str) -> Option<Found<'_>> {
    let body = l.strip_prefix("rcu: ");
    if let Some(info) = body.unwrap_or(l).strip_prefix("INFO: rcu") {
        let stall = info.contains(" self-detected stall on CPU")
            || info.contains(" detected stalls on CPUs/tasks")
            || info.contains(" detected expedited stalls on CPUs/tasks");
        let cpu = after(info, "{ ").and_then(leading);
        return stall.then(|| Found { cpu, ..just(Kind::RcuStall) });
    }
    // `\t1-....: (20999 ticks this GP) idle=…`
    let cpu = body?.strip_prefix('\t')?;
    (cpu.contains(" ticks this GP)")).then(|| Found { cpu: leading(cpu), ..just(Kind::RcuCpu) })
}

fn memory(l: &str) -> Option<Found<'_>> {
    if let Some(i) = l.find(": page allocation failure: order:") {
        return Some(Found { comm: l.get(..i), ..just(Kind::PageAllocFailure) });
    }
    if let Some(i) = l.find(": page allocation stalls for ") {
        let ms: Option<u64> = after(l, ": page allocation stalls for ").and_then(leading);
        let stuck_ns = ms.map(|ms| ms.saturating_mul(MS));
        return Some(Found { comm: l.get(..i), stuck_ns, ..just(Kind::PageAllocFailure) });
    }
    // `comm (pid): drop_caches: 3`
    let i = l.rfind("): drop_caches: ")?;
    let (comm, pid) = l.get(..i)?.rsplit_once(" (")?;
    Some(Found { comm: Some(comm), pid: pid.parse().ok(), ..just(Kind::DropCaches) })
}

fn input_output(l: &str) -> Option<Found<'_>> {
    if l.starts_with("nfs: server ") && l.contains(" not responding") {
        return Some(just(Kind::NfsTimeout));
    }
    if l.starts_with("CIFS: ") {
        let seconds: u64 = after(l, " has not responded in ").and_then(leading)?;
        return Some(Found { stuck_ns: Some(seconds.saturating_mul(SEC)), ..just(Kind::BlockedIo) });
    }
    let starts = [
        "blk_update_request: I/O error",
        "print_req_error: I/O error",
        "I/O error, dev ",
        "Buffer I/O error on dev",
    ];
    let blocked = starts.iter().any(|m| l.starts_with(m))
        || (l.starts_with("nvme ") && l.contains(": I/O ") && l.contains(" timeout"))
        || (l.starts_with("ata") && l.contains(": exception Emask "))
        || (l.starts_with("sd ") && l.contains(" timing out command"));
    blocked.then(|| just(Kind::BlockedIo))
}

fn hardware(l: &str) -> Option<Found<'_>> {
    if l.contains(" temperature above threshold, cpu clock throttled") {
        let cpu = l.strip_prefix("mce: ").unwrap_or(l).strip_prefix("CPU").and_then(leading);
        return Some(Found { cpu, ..just(Kind::Thermal) });
    }
    if let Some(rest) = l.strip_prefix("mce: ").unwrap_or(l).strip_prefix("[Hardware Error]: ") {
        let cpu = rest.strip_prefix("CPU ").and_then(leading);
        return Some(Found { cpu, ..just(Kind::Mce) });
    }
    if l.starts_with("EDAC MC") && (l.contains(" CE ") || l.contains(" UE ")) {
        return Some(just(Kind::Mce));
    }
    let irq = l.strip_prefix("irq ")?.trim_start_matches(|c: char| c.is_ascii_digit());
    irq.starts_with(": nobody cared").then(|| just(Kind::IrqNobodyCared))
}

fn network(l: &str) -> Option<Found<'_>> {
    if let Some(rest) = after(l, "NETDEV WATCHDOG: ") {
        let timed_out = after(rest, " timed out")?;
        let ms: Option<u64> = timed_out.strip_prefix(' ').and_then(leading);
        let stuck_ns = ms.map(|ms| ms.saturating_mul(MS));
        return Some(Found { stuck_ns, ..just(Kind::NetTxTimeout) });
    }
    let down =
        ["Link is Down", "Link is down", "link is down", ": Link down", "link status definitely down for"];
    down.iter().any(|m| l.contains(m)).then(|| just(Kind::LinkDown))
}

fn time(l: &str) -> Option<Found<'_>> {
    if let Some(ns) = l.strip_prefix("hrtimer: interrupt took ") {
        return Some(Found { stuck_ns: leading(ns), ..just(Kind::HrtimerSlow) });
    }
    (l.starts_with("clocksource: ") && l.contains(": Marking clocksource "))
        .then(|| just(Kind::ClockUnstable))
}

/// What follows the first `mark`.
fn after<'a>(l: &'a str, mark: &str) -> Option<&'a str> {
    l.split_once(mark).map(|(_, rest)| rest)
}

/// The number at the start of `s`.
fn leading<T: std::str::FromStr>(s: &str) -> Option<T> {
    let end = s.find(|c: char| !c.is_ascii_digit()).unwrap_or(s.len());
    s.get(..end)?.parse().ok()
}

/// `comm:pid`; a comm may hold colons.
fn comm_pid(s: &str) -> (Option<&str>, Option<u32>) {
    match s.rsplit_once(':') {
        Some((comm, pid)) => (Some(comm), pid.parse().ok()),
        None => (None, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hostile_names_do_not_forge() {
        let f = classify("watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [a]:1 [b:9:42]");
        assert_eq!((f.cpu, f.comm, f.pid), (Some(1), Some("a]:1 [b:9"), Some(42)));
        // A program's name in a segfault line.
        let l =
            "x[5]: segfault at 0 ip 0 sp 0 error 4 in Watchdog detected hard LOCKUP on cpu 2[400000+1000]";
        assert_eq!((classify(l).kind, classify(l).pid), (Kind::Segfault, Some(5)));
        let l = "EXT4-fs error (device sda1): htree_dirblock_to_tree:1: comm a): drop_caches: 3";
        assert_eq!(classify(l).kind, Kind::FsError);
        assert_eq!(classify("blocked for more than 5 seconds").kind, Kind::Other);
    }

    proptest! {
        #[test]
        fn never_panics(l in "(|oom-kill:constraint=|INFO: task |watchdog: BUG: soft lockup - CPU#|traps: |rcu: |irq )[ -~é]{0,40}(|,task=|,pid=|,uid=| blocked for more than |: |\\]|\\[)[ -~é]{0,40}(|,uid=0| blocked on a| likely owned by task )[ -~é\n]{0,20}") {
            let mut join = super::super::oom::OomJoin::default();
            let _ = join.join(classify(&l), 0);
        }
    }
}
