//! Names for the kernel's numbers, and what a class of kernel work means for who holds a CPU. Pure.

/// Why nothing else ran, `nosched.kind`.
pub(super) fn kind_of(what: &str, rt: bool, kthread: bool) -> &'static str {
    match what {
        _ if rt => "rt",
        "reclaim" | "compaction" => "memory",
        "writeback" if kthread => "background",
        "softirq" | "softirq_net_rx" => "softirq",
        _ if kthread => "kthread",
        _ => "kernel",
    }
}

/// LCB_F_* (include/trace/events/lock.h).
pub(super) fn lock_type(flags: u64) -> &'static str {
    const SPIN: u64 = 1;
    const READ: u64 = 2;
    const WRITE: u64 = 4;
    const RT: u64 = 8;
    const PERCPU: u64 = 16;
    const MUTEX: u64 = 32;
    match flags {
        f if f & RT != 0 => "rt_mutex",
        f if f & PERCPU != 0 => "percpu_rwsem",
        f if f & MUTEX != 0 => "mutex",
        f if f & SPIN != 0 => "spin",
        f if f & READ != 0 => "rwsem_read",
        f if f & WRITE != 0 => "rwsem_write",
        _ => "other",
    }
}

/// enum vmscan_throttle_state (include/linux/mmzone.h).
pub(super) fn throttle_reason(reason: u64) -> &'static str {
    ["writeback", "isolated", "noprogress", "congested"]
        .get(usize::try_from(reason).unwrap_or(usize::MAX))
        .copied()
        .unwrap_or("unknown")
}

/// The softirq vectors' names (include/linux/interrupt.h).
pub(super) fn vector(number: u64) -> &'static str {
    ["HI", "TIMER", "NET_TX", "NET_RX", "BLOCK", "IRQ_POLL", "TASKLET", "SCHED", "HRTIMER", "RCU"]
        .get(usize::try_from(number).unwrap_or(usize::MAX))
        .copied()
        .unwrap_or("unknown")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_of_holds() {
        assert_eq!(kind_of("user", true, false), "rt");
        assert_eq!(kind_of("reclaim", false, true), "memory");
        assert_eq!(kind_of("writeback", false, true), "background");
        assert_eq!(kind_of("writeback", false, false), "kernel");
        assert_eq!(kind_of("softirq_net_rx", false, true), "softirq");
        assert_eq!(kind_of("spinlock", false, true), "kthread");
        assert_eq!(kind_of("other", false, false), "kernel");
    }

    #[test]
    fn types_of_locks() {
        let types = [(1, "spin"), (1 | 8, "rt_mutex"), (2, "rwsem_read"), (4, "rwsem_write"), (32, "mutex")];
        for (flags, name) in types {
            assert_eq!(lock_type(flags), name);
        }
        assert_eq!((lock_type(2 | 16), lock_type(0)), ("percpu_rwsem", "other"));
    }
}
