//! What the kernel was doing, told from the functions of a stack. Pure.

/// A stack with the frames of our own looking taken off, and what it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Described {
    /// Functions, innermost first, joined by `;`, at most [`LONGEST`] bytes. Empty if user code was interrupted.
    pub(crate) stack: String,
    /// One of the classes below, `other`, or `user`.
    pub(crate) what: &'static str,
}

/// Bytes of a described stack.
const LONGEST: usize = 1200;

/// How the stack was taken, which tells where the interrupted code begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    /// In a hard timer's interrupt.
    InTimer,
    /// When softirqs began.
    AtSoftirqEntry,
    /// When a softirq's handler ended.
    InSoftirq,
}

/// Classes in the order in which they are tried, by how the functions' names begin. The innermost function that belongs
/// to any of them decides, so that a memcg walk below a read, or reclaim below a page fault, is what is told. A lock is
/// the answer only if nothing else is: who spins is less telling than what for.
const CLASSES: &[(&str, &[&str])] = &[
    (
        "memcg_stat",
        &[
            "memcg_stat_",
            "memcg1_stat_",
            "memcg_numa_stat_",
            "memory_stat_",
            "memory_numa_stat_",
            "mem_cgroup_flush_stats",
            "mem_cgroup_css_rstat_flush",
            "mem_cgroup_nr_lru_pages",
            "mem_cgroup_node_nr_lru_pages",
            "mem_cgroup_iter",
            "do_flush_stats",
            "__mem_cgroup_flush_stats",
            "cgroup_rstat_",
            "css_rstat_",
        ],
    ),
    (
        "reclaim",
        &[
            "shrink_",
            "do_shrink_slab",
            "try_to_free_",
            "do_try_to_free_pages",
            "evict_folios",
            "balance_pgdat",
            "isolate_lru_",
            "folio_referenced",
        ],
    ),
    (
        "compaction",
        &["compact_", "isolate_migratepages", "isolate_freepages", "try_to_compact_pages", "migrate_pages"],
    ),
    (
        "page_table",
        &[
            "unmap_page_range",
            "unmap_vmas",
            "zap_",
            "exit_mmap",
            "free_pgtables",
            "free_pgd_range",
            "tlb_finish_mmu",
            "tlb_flush_mmu",
            "copy_page_range",
            "change_protection",
        ],
    ),
    (
        "softirq_net_rx",
        &[
            "net_rx_action",
            "napi_",
            "__napi_poll",
            "process_backlog",
            "__netif_receive_skb",
            "netif_receive_skb",
            "ip_rcv",
            "ipv6_rcv",
        ],
    ),
    (
        "writeback",
        &[
            "wb_workfn",
            "wb_writeback",
            "writeback_",
            "__writeback_",
            "do_writepages",
            "ext4_writepages",
            "xfs_vm_writepages",
            "btrfs_writepages",
            "jbd2_journal_commit",
        ],
    ),
    ("softirq", &["handle_softirqs", "__do_softirq"]),
];

/// Waiting for another CPU to answer an interrupt; the innermost functions then.
const CALLS: &[&str] = &["smp_call_function", "csd_lock_wait", "on_each_cpu_cond_mask", "flush_tlb_mm_range"];

const LOCKS: &[&str] = &[
    "native_queued_spin_lock_slowpath",
    "queued_spin_lock_slowpath",
    "__pv_queued_spin_lock_slowpath",
    "queued_read_lock_slowpath",
    "queued_write_lock_slowpath",
    "_raw_spin_lock",
    "_raw_read_lock",
    "_raw_write_lock",
];

/// What gives interrupts free again.
const UNLOCKS: &[&str] = &["_raw_spin_unlock_irq", "_raw_read_unlock_irq", "_raw_write_unlock_irq"];

/// The tracing machinery between the tracepoint and us.
const TRACING: &[&str] = &["bpf_", "__bpf_trace_", "__traceiter_", "__SCT__", "perf_trace_", "stack_trace_"];

/// Describes a stack of function names, innermost first.
pub(crate) fn describe<'a>(frames: impl IntoIterator<Item = &'a str>, taken: Taken) -> Described {
    let frames: Vec<&str> = frames.into_iter().collect();
    let frames = interrupted(&frames, taken);
    let what = match frames {
        [] => "user",
        _ => classify(frames),
    };
    let mut stack = String::new();
    for f in frames {
        if stack.len() + f.len() + 1 > LONGEST {
            break;
        }
        if !stack.is_empty() {
            stack.push(';');
        }
        stack.push_str(f);
    }
    Described { stack, what }
}

fn begins(name: &str, with: &[&str]) -> bool {
    with.iter().any(|p| name.starts_with(p))
}

/// The frames beyond our own and the interrupt's that called us.
fn interrupted<'a, 'b>(frames: &'b [&'a str], taken: Taken) -> &'b [&'a str] {
    // Our own program has no name where the kernel does not list compiled programs.
    let own = frames.iter().take_while(|f| **f == "?" || begins(f, TRACING)).count();
    let mut rest = &frames[own..];
    let cut = |rest: &'b [&'a str], found: &dyn Fn(&str) -> bool| match rest.iter().position(|f| found(f)) {
        Some(i) => &rest[i + 1..],
        None => rest,
    };
    match taken {
        Taken::InSoftirq => {}
        Taken::InTimer => {
            rest = cut(rest, &interrupt_entry);
            // When a lock gives interrupts free again, those that had to wait run first, and softirqs after them: who held
            // them off is below.
            let held_off = |w: &[&str]| interrupt_entry(w[0]) && begins(w[1], UNLOCKS);
            if let Some(i) = rest.windows(2).position(held_off) {
                rest = &rest[i + 1..];
            }
        }
        Taken::AtSoftirqEntry => {
            rest = cut(rest, &|f| begins(f, &["handle_softirqs", "__do_softirq"]));
            // Softirqs run at the end of an interrupt, or in a task of their own.
            rest = cut(rest, &interrupt_entry);
        }
    }
    rest
}

/// Where the processor's interrupt enters the kernel: x86 (idtentry.h, entry_64.S) and arm64 (entry.S).
fn interrupt_entry(name: &str) -> bool {
    begins(name, &["asm_sysvec_", "asm_common_interrupt", "asm_exc_nmi", "common_interrupt_return"])
        || (name.starts_with("el") && (name.ends_with("_64_irq") || name.ends_with("_32_irq")))
}

fn classify(frames: &[&str]) -> &'static str {
    // Who waits for another CPU is no culprit, whatever it wanted.
    if frames.iter().take(3).any(|f| begins(f, CALLS)) {
        return "ipi";
    }
    for f in frames {
        if let Some((class, _)) = CLASSES.iter().find(|(_, names)| begins(f, names)) {
            return class;
        }
    }
    if frames.iter().any(|f| begins(f, LOCKS)) { "spinlock" } else { "other" }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMER: &[&str] = &[
        "bpf_prog_1f2e_hrtimer_expire_entry",
        "bpf_trace_run2",
        "__hrtimer_run_queues",
        "hrtimer_interrupt",
        "__sysvec_apic_timer_interrupt",
        "sysvec_apic_timer_interrupt",
        "asm_sysvec_apic_timer_interrupt",
    ];

    #[track_caller]
    fn check(before: &[&str], frames: &[&str], taken: Taken, what: &str) {
        let all = before.iter().chain(frames).copied();
        let d = describe(all, taken);
        assert_eq!(d.what, what);
        assert_eq!(d.stack, frames.join(";"));
    }

    #[test]
    fn who_held_interrupts_off_is_below_those_that_waited() {
        let waited = [
            TIMER,
            &[
                "handle_softirqs",
                "__irq_exit_rcu",
                "sysvec_call_function_single",
                "asm_sysvec_call_function_single",
            ],
        ]
        .concat();
        let walk = ["_raw_spin_unlock_irq", "css_rstat_flush", "memcg_numa_stat_show", "seq_read_iter"];
        check(&waited, &walk, Taken::InTimer, "memcg_stat");
    }

    #[test]
    fn what_the_kernel_did() {
        let timer = |frames: &[&str], what| check(TIMER, frames, Taken::InTimer, what);
        timer(&[], "user");
        timer(&["mem_cgroup_iter", "memcg_numa_stat_show", "seq_read_iter", "vfs_read"], "memcg_stat");
        timer(&["shrink_lruvec", "shrink_node", "do_try_to_free_pages", "handle_mm_fault"], "reclaim");
        timer(&["isolate_migratepages_block", "compact_zone", "__alloc_pages_slowpath"], "compaction");
        timer(&["zap_pte_range", "unmap_page_range", "exit_mmap", "do_exit"], "page_table");
        timer(&["nft_do_chain", "ip_rcv", "__netif_receive_skb_core", "handle_softirqs"], "softirq_net_rx");
        timer(&["ext4_bio_write_folio", "ext4_writepages", "do_writepages"], "writeback");
        timer(&["rcu_do_batch", "rcu_core", "handle_softirqs", "asm_sysvec_apic_timer_interrupt"], "softirq");
        timer(&["native_queued_spin_lock_slowpath", "_raw_spin_lock", "fsnotify", "vfs_write"], "spinlock");
        timer(&["native_queued_spin_lock_slowpath", "_raw_spin_lock", "shrink_folio_list"], "reclaim");
        timer(&["crypto_alg_tested", "vfs_read"], "other");
        timer(&["smp_call_function_many_cond", "on_each_cpu_cond_mask", "zap_pte_range"], "ipi");
    }

    #[test]
    fn only_the_interrupted_code_is_told() {
        let arm = ["bpf_prog_x", "hrtimer_interrupt", "el1_interrupt", "el1h_64_irq_handler", "el1h_64_irq"];
        check(&arm, &["shrink_slab"], Taken::InTimer, "reclaim");
        check(
            &[
                "bpf_trace_run1",
                "handle_softirqs",
                "__irq_exit_rcu",
                "sysvec_call_function_single",
                "asm_sysvec_call_function_single",
            ],
            &["memcg_stat_format", "vfs_read"],
            Taken::AtSoftirqEntry,
            "memcg_stat",
        );
        check(
            &["bpf_trace_run1"],
            &["handle_softirqs", "run_ksoftirqd", "kthread"],
            Taken::InSoftirq,
            "softirq",
        );
    }

    #[test]
    fn stacks_are_bounded() {
        let name = "f".repeat(100);
        let d = describe(std::iter::repeat_n(name.as_str(), 64), Taken::InSoftirq);
        assert!(d.stack.len() <= LONGEST && d.stack.starts_with("fff"));
    }
}
