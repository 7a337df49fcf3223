//! What the `latency` and `canary` collectors emit: declarations only, one module a stream with the indices of its
//! fields.

use whystall_event::{Field, Stream, SubjectKind, Unit};

/// Declares a stream as a module with `STREAM` and one constant a field: its index.
macro_rules! stream {
    ($(#[$doc:meta])* $module:ident = $mode:ident($name:literal, $help:literal) of [$($kind:ident),+];
     $($index:ident = $field:expr;)+) => {
        $(#[$doc])*
        pub mod $module {
            #[allow(unused_imports, reason = "not every stream has a gauge")]
            use super::{Field, Stream, SubjectKind, Unit};

            #[allow(clippy::upper_case_acronyms, non_camel_case_types, reason = "numbers the fields")]
            enum Index { $($index),+ }
            $(
                #[doc = concat!("The index of a field of `", $name, "`.")]
                pub const $index: usize = Index::$index as usize;
            )+
            const FIELDS: &[Field] = &[$($field),+];
            /// The declaration.
            pub const STREAM: Stream = Stream::$mode($name, $help, &[$(SubjectKind::$kind),+], FIELDS);
        }
    };
}

stream! {
    /// Direct reclaim because the node is short of memory.
    reclaim_direct = occurrences("reclaim.direct",
        "a task reclaimed memory itself because the node is short (vmscan:mm_vmscan_direct_reclaim_*)") of [Cgroup, Host];
    DURATION = Field::duration("duration", "how long the task was in direct reclaim");
    COMM = Field::text("comm", "the reclaiming task's name");
    CGROUP = Field::text("cgroup", "the task's memory cgroup");
    PID = Field::gauge("pid", Unit::None, "the reclaiming task's pid (thread id)");
    CPU = Field::gauge("cpu", Unit::None, "the CPU on which it ended");
}

stream! {
    /// Direct reclaim because a memory cgroup is at its limit.
    reclaim_memcg = occurrences("reclaim.memcg",
        "a task reclaimed memory itself because a memory cgroup is at its limit (vmscan:mm_vmscan_memcg_reclaim_*)")
        of [Cgroup, Host];
    DURATION = Field::duration("duration", "how long the task was in direct reclaim");
    COMM = Field::text("comm", "the reclaiming task's name");
    CGROUP = Field::text("cgroup", "the task's memory cgroup; the one at its limit is it or an ancestor");
    PID = Field::gauge("pid", Unit::None, "the reclaiming task's pid (thread id)");
    CPU = Field::gauge("cpu", Unit::None, "the CPU on which it ended");
}

stream! {
    /// A task in direct reclaim was put to sleep.
    reclaim_throttled = occurrences("reclaim.throttled",
        "a reclaiming task had to wait, mostly for slow writeback (vmscan:mm_vmscan_throttled)") of [Host, Cgroup];
    DURATION = Field::duration("duration", "how long it slept");
    COMM = Field::text("comm", "the task's name");
    CGROUP = Field::text("cgroup", "the task's memory cgroup");
    REASON = Field::text("reason", "why it waited: writeback, isolated, noprogress or congested");
}

stream! {
    /// Exact totals of reclaim and compaction, also of what was too short or too frequent for a row of its own.
    reclaim_totals = sampled("reclaim.totals",
        "counts and times of all reclaims by cgroup, here and below, also those too short or too many for a row of their own")
        of [Cgroup, Host];
    DIRECT_COUNT = Field::counter("direct_count", Unit::Count, "direct reclaims for the node");
    DIRECT_TIME = Field::counter("direct_time", Unit::Time, "time in direct reclaim for the node, all tasks together");
    DIRECT_MAX = Field::gauge("direct_max", Unit::Time, "the longest direct reclaim for the node since the probes began");
    MEMCG_COUNT = Field::counter("memcg_count", Unit::Count, "direct reclaims for a memory cgroup's limit");
    MEMCG_TIME = Field::counter("memcg_time", Unit::Time, "time in direct reclaim for a limit, all tasks together");
    MEMCG_MAX = Field::gauge("memcg_max", Unit::Time, "the longest direct reclaim for a limit since the probes began");
    COMPACT_COUNT = Field::counter("compact_count", Unit::Count, "direct compactions");
    COMPACT_TIME = Field::counter("compact_time", Unit::Time, "time in direct compaction, all tasks together");
    COMPACT_MAX = Field::gauge("compact_max", Unit::Time, "the longest direct compaction since the probes began");
}

stream! {
    /// Direct compaction.
    compaction_direct = occurrences("compaction.direct",
        "a task compacted memory itself to get contiguous pages (compaction:mm_compaction_*; kcompactd not counted)")
        of [Cgroup, Host];
    DURATION = Field::duration("duration", "how long the task was in compaction of one zone");
    COMM = Field::text("comm", "the compacting task's name");
    CGROUP = Field::text("cgroup", "the task's memory cgroup");
    PID = Field::gauge("pid", Unit::None, "the compacting task's pid (thread id)");
    ORDER = Field::gauge("order", Unit::None, "the allocation's order: it wanted 2^order contiguous pages");
    CPU = Field::gauge("cpu", Unit::None, "the CPU on which it ended");
}

stream! {
    /// A task waited long for a CPU.
    runq = occurrences("runq",
        "a runnable task waited long for a CPU, with who ran instead (sched:sched_switch)") of [Cpu, Cgroup];
    DELAY = Field::duration("delay", "from runnable to running");
    COMM = Field::text("comm", "the task that waited");
    PID = Field::gauge("pid", Unit::None, "its pid (thread id)");
    CGROUP = Field::text("cgroup", "its CPU cgroup");
    CULPRIT = Field::text("culprit", "the task that ran most of that time on that CPU");
    CULPRIT_PID = Field::gauge("culprit_pid", Unit::None, "the culprit's process id");
    CULPRIT_SHARE = Field::gauge("culprit_share", Unit::Ratio, "the part of the delay in which the culprit ran");
    CULPRIT_RT = Field::gauge("culprit_rt", Unit::None, "1 if the culprit's policy is FIFO, RR or DEADLINE");
    CULPRIT_CGROUP = Field::text("culprit_cgroup", "the culprit's CPU cgroup");
    CULPRITS = Field::text("culprits", "the tasks that ran, with pid and share of the delay, heaviest first");
    RT_SHARE = Field::gauge("rt_share", Unit::Ratio, "the part of the delay in which FIFO, RR or DEADLINE tasks ran, together");
    BEHIND = Field::text("behind",
        "what it waited for: quota (used up), rt (real-time tasks ran half of the delay), peers (the same, of a real-time task), kernel (a task that did not leave \
         the kernel, see nosched.kind), others");
    QUOTA = Field::gauge("quota", Unit::None, "1 if the waiting task's cgroup or an ancestor has a CPU quota");
    THROTTLED = Field::gauge("throttled", Unit::None,
        "1 if such a quota was used up in the meantime (nr_throttled moved): then nobody who ran is to blame");
    QUOTA_CGROUP = Field::text("quota_cgroup",
        "the cgroup whose quota was used up, else the nearest that has one: the task's own or an ancestor");
    ALLOWED = Field::gauge("allowed_cpus", Unit::Count, "CPUs on which the task may run (its affinity and cpuset)");
    CPU = Field::gauge("cpu", Unit::None, "the CPU on which it ran at last");
    UNEXPLAINED = Field::gauge("unexplained_share", Unit::Ratio,
        "the part of the delay in which no run of 1 ms or more is known: many short runs, interrupts, steal, throttling");
}

stream! {
    /// Run-queue waits of all lengths.
    runq_totals = sampled("runq.totals",
        "waits of 16 us and more for a CPU, all tasks of a cgroup or CPU together") of [Cgroup, Cpu];
    COUNT = Field::counter("count", Unit::Count, "waits for a CPU");
    TIME = Field::counter("time", Unit::Time, "time waited");
    P50 = Field::gauge("p50", Unit::Time, "median wait of the last interval, within a factor of 2");
    P99 = Field::gauge("p99", Unit::Time, "99th percentile of the last interval, within a factor of 2");
    MAX = Field::gauge("max", Unit::Time, "the longest wait since the probes began");
}

stream! {
    /// A CPU that did not schedule.
    nosched = occurrences("nosched",
        "a task held a CPU without a switch while others waited; told while it still does, and again at its end") of [Cpu];
    DURATION = Field::duration("duration",
        "how long: so far, or in all at its end; take the maximum, not the sum. For a real-time task since it was put on \
         the CPU, for others the time in one piece of kernel work (no tick in user mode, no page fault, no read or write ended)");
    KIND = Field::text("kind",
        "why nothing else ran: kernel (a task's work there), kthread (a kernel thread's), softirq (softirqs kept the task from going on), rt (its policy), memory (reclaim and \
         compaction, which the memory rules judge), background (writeback by a kernel thread)");
    KTHREAD = Field::gauge("kthread", Unit::None, "1 for a kernel thread");
    PHASE = Field::text("phase", "running while it still held the CPU, ended when it had given it back");
    COMM = Field::text("comm", "the task that held the CPU");
    PID = Field::gauge("pid", Unit::None, "its process id");
    RT = Field::gauge("rt", Unit::None, "1 if its policy is FIFO, RR or DEADLINE");
    RUNNABLE = Field::gauge("runnable", Unit::Count, "tasks runnable on the CPU, the running one included");
    WHAT = Field::text("what",
        "what it did: memcg_stat, reclaim, compaction, page_table, softirq_net_rx, softirq, writeback, ipi (waiting for another CPU to answer), spinlock, other, user");
    STACK = Field::text("stack", "kernel symbols, innermost first, joined by `;`; empty in user mode");
    CGROUP = Field::text("cgroup", "its CPU cgroup");
}

stream! {
    /// Softirqs that waited or ran long.
    softirq = occurrences("softirq",
        "a softirq waited long for its CPU or ran long (irq:softirq_raise, _entry, _exit)") of [Cpu];
    DELAY = Field::duration("delay", "from raised to begun");
    RUN = Field::duration("run", "how long its handler ran");
    PENDING = Field::duration("pending", "how long it had been raised while it still waited");
    VECTOR = Field::text("vector", "HI, TIMER, NET_TX, NET_RX, BLOCK, IRQ_POLL, TASKLET, SCHED, HRTIMER or RCU");
    COMM = Field::text("comm", "the task on the CPU at that time");
    PID = Field::gauge("pid", Unit::None, "its process id");
    RT = Field::gauge("rt", Unit::None, "1 if its policy is FIFO, RR or DEADLINE");
    WHAT = Field::text("what", "what the CPU did, as in nosched.what");
    STACK = Field::text("stack", "kernel symbols, innermost first, joined by `;`");
}

stream! {
    /// Hard interrupts that ran long.
    irq = occurrences("irq", "a hard interrupt's handler ran long (irq:irq_handler_entry, _exit)") of [Cpu];
    RUN = Field::duration("run", "how long the handler ran");
    NAME = Field::text("name", "the handler's name, as in /proc/interrupts");
    IRQ = Field::gauge("irq", Unit::None, "the interrupt's number");
}

stream! {
    /// Interrupts were off for long.
    irqoff = occurrences("irqoff",
        "a hard timer came late: interrupts were off, or the hypervisor ran others (timer:hrtimer_expire_entry)") of [Cpu];
    DURATION = Field::duration("duration", "how late the timer was");
    STACK = Field::text("stack", "kernel symbols where interrupts were allowed again, innermost first, joined by `;`");
    WHAT = Field::text("what", "what the CPU did, as in nosched.what");
    COMM = Field::text("comm", "the task on the CPU");
    PID = Field::gauge("pid", Unit::None, "its process id");
}

stream! {
    /// Waits for kernel locks.
    lock = occurrences("lock",
        "a task waited long for a lock of the kernel (lock:contention_begin, _end, kernel 5.19; off unless `on = [\"lock\"]`)")
        of [Cpu];
    DURATION = Field::duration("duration", "how long it waited");
    TYPE = Field::text("type", "spin, mutex, rt_mutex, percpu_rwsem, rwsem_read, rwsem_write or other");
    COMM = Field::text("comm", "the task that waited");
    PID = Field::gauge("pid", Unit::None, "its process id");
    CGROUP = Field::text("cgroup", "its CPU cgroup");
    WHAT = Field::text("what", "what it did, as in nosched.what");
    STACK = Field::text("stack", "kernel symbols, innermost first, joined by `;`");
}

stream! {
    /// The life of memory cgroups.
    memcg_life = occurrences("memcg_life",
        "memory cgroups made, removed and at last freed (cgroup:cgroup_mkdir, _rmdir, _release)") of [Cgroup];
    WHAT = Field::text("what", "mkdir, rmdir or release");
    ZOMBIE_AGE = Field::duration("zombie_age", "on release: since its removal");
    COMM = Field::text("comm", "the task that made it (on mkdir and release) or removed it (on rmdir)");
}

stream! {
    /// Zombies by parent.
    memcg_zombies = sampled("memcg_life.zombies",
        "memory cgroups removed but not freed since the probes began, or since some were last missed: all, and by parent")
        of [Cgroup, Host];
    ZOMBIES = Field::gauge("zombies", Unit::Count, "its former children (host: all) that are removed and not yet freed");
    SETTLED = Field::gauge("settled", Unit::Count, "those of them that are not merely on their way: removed 0.8 s ago with memory still charged, or 3 s ago");
    BRIEF = Field::gauge("brief", Unit::Count, "those of the settled that had lived for less than a minute: jobs, not services");
    OLDEST = Field::gauge("oldest", Unit::Time, "since the removal of the oldest of them");
    EXAMPLE = Field::text("example", "the path of the oldest of them");
    CREATOR = Field::text("creator", "the task that made the oldest of them, if it was seen");
}

stream! {
    /// What the probes themselves do.
    probes = sampled("probes", "each latency probe: its level, and what it told, held back and lost") of [Device];
    LEVEL = Field::gauge("level", Unit::None, "2 BPF, 1 perf tracepoints, 0 not available");
    HOW = Field::text("how", "tp_btf, perf, off or unavailable, with the reason");
    EVENTS = Field::counter("events", Unit::Count, "events that reached whystall");
    SUPPRESSED = Field::counter("suppressed", Unit::Count, "events above the threshold held back by the rate limit");
    LOST = Field::counter("lost", Unit::Count, "events lost because a buffer or table was full");
}

stream! {
    /// Two light threads a CPU that say how late they are.
    canary = sampled("canary",
        "lateness of two light threads a CPU, one SCHED_OTHER, one SCHED_FIFO: both late = interrupts or preemption off, \
         or steal; only the first = contention") of [Cpu];
    LATE_FAIR = Field::gauge("late_fair", Unit::Time, "the worst lateness of the SCHED_OTHER thread in the last interval");
    LATE_RT = Field::gauge("late_rt", Unit::Time, "the worst lateness of the SCHED_FIFO thread in the last interval");
    WINDOWS_LATE_FAIR = Field::counter("windows_late_fair", Unit::Count, "wake-ups of the SCHED_OTHER thread over 50 ms late");
    WINDOWS_LATE_RT = Field::counter("windows_late_rt", Unit::Count, "wake-ups of the SCHED_FIFO thread over 50 ms late");
}

#[cfg(test)]
mod tests {
    use super::*;
    use whystall_event::FieldKind;

    #[test]
    fn indices_are_the_fields() {
        let field = |s: &Stream, i: usize| s.fields[i].name.to_string();
        assert_eq!(field(&runq::STREAM, runq::CULPRIT_SHARE), "culprit_share");
        assert_eq!(field(&runq::STREAM, runq::UNEXPLAINED), "unexplained_share");
        assert_eq!(field(&nosched::STREAM, nosched::CGROUP), "cgroup");
        assert_eq!(field(&canary::STREAM, canary::WINDOWS_LATE_RT), "windows_late_rt");
    }

    #[test]
    fn only_occurrences_have_durations() {
        for s in crate::latency::STREAMS {
            let durations = s.fields.iter().any(|f| f.kind == FieldKind::Duration);
            assert_eq!(durations, s.mode == whystall_event::Mode::Occurrences, "{}", s.name);
        }
    }
}
