//! The probes: what each needs in the kernel and which events are its own. A probe has the name of its stream.

use std::sync::Arc;

use whystall_event::Stream;

use super::streams as s;
use crate::bpf::wire as w;

/// One probe.
pub(super) struct Probe {
    /// The name, that of its stream.
    pub(super) name: &'static str,
    /// The stream of its events.
    pub(super) stream: &'static Stream,
    /// The BPF programs that it needs, all of them.
    pub(super) programs: &'static [&'static str],
    /// The kinds of its events.
    pub(super) kinds: &'static [u32],
}

macro_rules! probe {
    ($name:literal, $module:ident, $programs:expr, $kinds:expr) => {{
        static STREAM: Stream = s::$module::STREAM;
        Probe { name: $name, stream: &STREAM, programs: &$programs, kinds: &$kinds }
    }};
}

/// All probes; the constants below are their positions.
pub(super) static PROBES: [Probe; 11] = [
    probe!("reclaim.direct", reclaim_direct, ["direct_reclaim_begin", "direct_reclaim_end"], [w::RECLAIM]),
    probe!("reclaim.memcg", reclaim_memcg, ["memcg_reclaim_begin", "memcg_reclaim_end"], [w::MEMCG_RECLAIM]),
    probe!("reclaim.throttled", reclaim_throttled, ["vmscan_throttled"], [w::THROTTLED]),
    probe!("compaction.direct", compaction_direct, ["compaction_begin", "compaction_end"], [w::COMPACTION]),
    probe!("runq", runq, ["sched_switch"], [w::RUNQ]),
    probe!("nosched", nosched, ["hrtimer_expire_entry", "sched_switch"], [w::NOSCHED, w::NOSCHED_END]),
    probe!(
        "softirq",
        softirq,
        ["softirq_exit", "softirq_entry", "softirq_raise"],
        [w::SOFTIRQ_DELAY, w::SOFTIRQ_RUN, w::SOFTIRQ_PENDING]
    ),
    probe!("irq", irq, ["irq_handler_exit", "irq_handler_entry"], [w::IRQ]),
    probe!("irqoff", irqoff, ["hrtimer_expire_entry"], [w::IRQOFF]),
    probe!(
        "memcg_life",
        memcg_life,
        ["cgroup_release", "cgroup_rmdir", "cgroup_mkdir"],
        [w::CGROUP_MKDIR, w::CGROUP_RMDIR, w::CGROUP_RELEASE]
    ),
    probe!("lock", lock, ["lock_end", "lock_begin"], [w::LOCK]),
];

pub(super) const RECLAIM_DIRECT: usize = 0;
pub(super) const RECLAIM_MEMCG: usize = 1;
pub(super) const RECLAIM_THROTTLED: usize = 2;
pub(super) const COMPACTION: usize = 3;
pub(super) const RUNQ: usize = 4;
pub(super) const NOSCHED: usize = 5;
pub(super) const SOFTIRQ: usize = 6;
pub(super) const IRQ: usize = 7;
pub(super) const IRQOFF: usize = 8;
pub(super) const MEMCG_LIFE: usize = 9;
pub(super) const LOCK: usize = 10;

/// Probes that are off unless the setting `on` names them: what they cost depends on the load.
pub(super) const OFF: [&str; 1] = ["lock"];

/// The names, in order.
pub(super) fn names() -> Vec<&'static str> {
    PROBES.iter().map(|p| p.name).collect()
}

/// How a probe watches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Level {
    /// By BPF programs.
    Bpf,
    /// By perf tracepoints, after BPF failed for this reason.
    Perf(Arc<str>),
    /// Stepped down because it cost too much; it comes back by itself.
    SteppedDown(Arc<str>),
    /// Not at all, for this reason.
    Unavailable(Arc<str>),
    /// Switched off.
    Off,
}

impl Level {
    /// As stream `probes` tells it.
    pub(super) fn number(&self) -> f64 {
        match self {
            Level::Bpf => 2.0,
            Level::Perf(_) => 1.0,
            Level::SteppedDown(_) | Level::Unavailable(_) | Level::Off => 0.0,
        }
    }

    /// For people.
    pub(super) fn how(&self) -> String {
        match self {
            Level::Bpf => "tp_btf".into(),
            Level::Perf(why) => format!("perf ({why})"),
            Level::SteppedDown(why) => format!("stepped down: {why}"),
            Level::Unavailable(why) => format!("unavailable: {why}"),
            Level::Off => "off".into(),
        }
    }

    /// Whether events can come.
    pub(super) fn watches(&self) -> bool {
        matches!(self, Level::Bpf | Level::Perf(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_and_kinds() {
        for (i, name) in [
            (RECLAIM_DIRECT, "reclaim.direct"),
            (RECLAIM_MEMCG, "reclaim.memcg"),
            (RECLAIM_THROTTLED, "reclaim.throttled"),
            (COMPACTION, "compaction.direct"),
            (RUNQ, "runq"),
            (NOSCHED, "nosched"),
            (SOFTIRQ, "softirq"),
            (IRQ, "irq"),
            (IRQOFF, "irqoff"),
            (MEMCG_LIFE, "memcg_life"),
            (LOCK, "lock"),
        ] {
            assert_eq!(PROBES[i].name, name);
            assert_eq!(PROBES[i].stream.name, name);
        }
        let mut kinds: Vec<u32> = PROBES.iter().flat_map(|p| p.kinds.iter().copied()).collect();
        kinds.sort_unstable();
        assert_eq!(kinds, (1..=w::LOCK).collect::<Vec<_>>());
    }
}
