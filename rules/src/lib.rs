//! The rules that ship with whystall, as source text. This crate only lists them; the engine reads them.

/// One built-in rule: where its file stands (for diagnostics) and its text.
#[derive(Debug, Clone, Copy)]
pub struct Builtin {
    /// Path relative to `rules/`, for example `memory/direct_reclaim_burst.rhai`.
    pub path: &'static str,
    /// The file's text.
    pub source: &'static str,
}

macro_rules! builtin {
    ($path:literal) => {
        Builtin { path: $path, source: include_str!(concat!("../", $path)) }
    };
}

/// Every built-in rule. Adding one is its file and one line here.
pub const ALL: &[Builtin] = &[
    builtin!("memory/direct_reclaim_burst.rhai"),
    builtin!("memory/compaction_stall.rhai"),
    builtin!("memory/zombie_memcg_growth.rhai"),
    builtin!("memory/oom_kill.rhai"),
    builtin!("cpu/not_scheduling.rhai"),
    builtin!("cpu/sched_delay.rhai"),
    builtin!("cpu/irq_storm.rhai"),
    builtin!("net/softirq_starvation.rhai"),
    builtin!("net/softnet_drop.rhai"),
    builtin!("kernel/lockup.rhai"),
    builtin!("self/degraded.rhai"),
];
