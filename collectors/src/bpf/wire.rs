//! What the BPF programs write, as `collectors/bpf/wire.h` defines it. Sizes and offsets are compared in the tests.
//!
//! Nothing in an event is trusted beyond its size: kinds, lengths and texts are checked where they are used.

use whystall_event::text;

pub(crate) const RUNQ: u32 = 1;
pub(crate) const NOSCHED: u32 = 2;
pub(crate) const NOSCHED_END: u32 = 3;
pub(crate) const SOFTIRQ_DELAY: u32 = 4;
pub(crate) const SOFTIRQ_RUN: u32 = 5;
pub(crate) const SOFTIRQ_PENDING: u32 = 6;
pub(crate) const IRQ: u32 = 7;
pub(crate) const IRQOFF: u32 = 8;
pub(crate) const RECLAIM: u32 = 9;
pub(crate) const MEMCG_RECLAIM: u32 = 10;
pub(crate) const COMPACTION: u32 = 11;
pub(crate) const THROTTLED: u32 = 12;
pub(crate) const CGROUP_MKDIR: u32 = 13;
pub(crate) const CGROUP_RMDIR: u32 = 14;
pub(crate) const CGROUP_RELEASE: u32 = 15;
pub(crate) const LOCK: u32 = 16;
/// Kinds are below this.
pub(crate) const KINDS: usize = 32;

const COMM: usize = 16;
const STACK: usize = 24;
const RUNS: usize = 64;
const PATH: usize = 384;
/// Slots of a histogram.
pub(crate) const SLOTS: usize = 28;
const VECTORS: usize = 10;
const QUOTAS: usize = 4;

/// [`Head::flags`]: a kernel thread.
pub(crate) const KTHREAD: u16 = 1;

/// The beginning of every event.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct Head {
    pub(crate) kind: u32,
    pub(crate) cpu: u32,
    pub(crate) boot_ns: u64,
    pub(crate) dur_ns: u64,
    pub(crate) aux: u64,
    pub(crate) cpu_cgroup: u64,
    pub(crate) mem_cgroup: u64,
    pub(crate) pid: u32,
    pub(crate) tgid: u32,
    pub(crate) prio: u16,
    pub(crate) flags: u16,
    pub(crate) policy: u32,
    pub(crate) comm: [u8; COMM],
}

/// An event with a kernel stack.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct Stack {
    pub(crate) head: Head,
    len: i64,
    frames: [u64; STACK],
}

impl Stack {
    /// The addresses, innermost first.
    pub(crate) fn frames(&self) -> &[u64] {
        let n = usize::try_from(self.len).unwrap_or(0) / size_of::<u64>();
        &self.frames[..n.min(STACK)]
    }
}

/// A hard interrupt.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct Irq {
    pub(crate) head: Head,
    pub(crate) name: [u8; 32],
}

/// One run of a task on a CPU, in the run queue's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Run {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) cgroup: u64,
    pub(crate) tgid: u32,
    pub(crate) policy: u32,
    pub(crate) comm: [u8; COMM],
}

/// A cgroup with a CPU quota.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct Quota {
    /// 0 if there are no more.
    pub(crate) cgroup: u64,
    pub(crate) throttled: u64,
}

/// A wait for a CPU and the runs on that CPU before its end.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct Runq {
    pub(crate) head: Head,
    pub(crate) clock: u64,
    /// Of the waiting task's cgroup and its ancestors, nearest first.
    pub(crate) quotas: [Quota; QUOTAS],
    /// CPUs on which the waiting task may run.
    pub(crate) allowed: u32,
    run_pos: u32,
    pub(crate) runs: [Run; RUNS],
}

/// The making, removal or release of a cgroup.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct Life {
    pub(crate) head: Head,
    /// On rmdir: pages still charged to it, those charged ahead included.
    pub(crate) charged: i64,
    path: [u8; PATH],
}

impl Life {
    /// The path, unless it was cut because it is too long.
    pub(crate) fn path(&self) -> Option<String> {
        let path = string(&self.path);
        (path.starts_with('/') && path.len() < PATH - 1).then_some(path)
    }
}

/// The key of a histogram: a cgroup and a kind of event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(C)]
pub(crate) struct HistKey {
    pub(crate) cgroup: u64,
    pub(crate) kind: u64,
}

/// A histogram of durations; slot 0 is below 1 µs, slot i is [2^(i-1), 2^i) µs, the last is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub(crate) struct Hist {
    pub(crate) count: u64,
    pub(crate) sum_ns: u64,
    pub(crate) max_ns: u64,
    pub(crate) slots: [u64; SLOTS],
}

/// What became of a kind's events on a CPU.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct Rate {
    window_ns: u64,
    sent: u32,
    pad: u32,
    pub(crate) suppressed: u64,
    pub(crate) lost: u64,
}

/// The state of a CPU.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct Cpu {
    pub(crate) softirqs: u64,
    raised: [u64; VECTORS],
    softirq_entry: u64,
    irq_entry: u64,
    irqoff_seen: u64,
    checked: u64,
    hold: [u64; 5],
    told: [u64; 2],
    spin: [u64; 2],
    pending_seen: u32,
    run_pos: u32,
    pub(crate) runq: Hist,
    pub(crate) rate: [Rate; 2 * KINDS],
    runs: [Run; RUNS],
}

/// The programs' only writable global.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(crate) struct Shared {
    pub(crate) softirq_epoch_ns: u64,
    pub(crate) hists_full: u64,
}

/// A structure of whole numbers without padding: every bit pattern is a value.
///
/// # Safety
/// That must be true of the type.
pub(crate) unsafe trait Plain: Copy {}

macro_rules! plain {
    ($($t:ty),+) => { $(
        // SAFETY: `repr(C)`, whole numbers and arrays of them only, and the size tests show that there is no padding.
        unsafe impl Plain for $t {}
        // SAFETY: as above.
        unsafe impl aya::Pod for $t {}
    )+ };
}
plain!(Head, Stack, Irq, Runq, Life, HistKey, Hist, Cpu, Shared);

/// The event as a `T`, if it is long enough.
pub(crate) fn read<T: Plain>(bytes: &[u8]) -> Option<T> {
    // SAFETY: the source has at least as many bytes as `T`, alignment is not assumed, and `T` is plain.
    (bytes.len() >= size_of::<T>()).then(|| unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

/// Text up to the first NUL.
pub(crate) fn string(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    text::from_bytes(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;

    /// The sizes that the header asserts, so that one change cannot be made without the other.
    #[test]
    fn sizes_are_those_of_the_header() {
        let header = include_str!("../../bpf/wire.h");
        let sizes: [(&str, usize); 12] = [
            ("ws_head", size_of::<Head>()),
            ("ws_stack", size_of::<Stack>()),
            ("ws_irq", size_of::<Irq>()),
            ("ws_run", size_of::<Run>()),
            ("ws_runq", size_of::<Runq>()),
            ("ws_quota", size_of::<Quota>()),
            ("ws_life", size_of::<Life>()),
            ("ws_hist_key", size_of::<HistKey>()),
            ("ws_hist", size_of::<Hist>()),
            ("ws_rate", size_of::<Rate>()),
            ("ws_cpu", size_of::<Cpu>()),
            ("ws_shared", size_of::<Shared>()),
        ];
        for (name, size) in sizes {
            let line = format!("_Static_assert(sizeof(struct {name}) == {size}, \"{name}\");");
            assert!(header.contains(&line), "wire.h does not say: {line}");
        }
        assert_eq!(header.matches("_Static_assert").count(), sizes.len());
        assert_eq!((offset_of!(Head, comm), offset_of!(Cpu, runq)), (64, 200));
    }

    #[test]
    fn kinds_and_lengths_are_those_of_the_header() {
        let header = include_str!("../../bpf/wire.h");
        assert!(header.contains(&format!("#define WS_KTHREAD {KTHREAD}\t")));
        for (name, value) in [
            ("RUNQ", RUNQ),
            ("NOSCHED", NOSCHED),
            ("NOSCHED_END", NOSCHED_END),
            ("SOFTIRQ_DELAY", SOFTIRQ_DELAY),
            ("SOFTIRQ_RUN", SOFTIRQ_RUN),
            ("SOFTIRQ_PENDING", SOFTIRQ_PENDING),
            ("IRQ", IRQ),
            ("IRQOFF", IRQOFF),
            ("RECLAIM", RECLAIM),
            ("MEMCG_RECLAIM", MEMCG_RECLAIM),
            ("COMPACTION", COMPACTION),
            ("THROTTLED", THROTTLED),
            ("CGROUP_MKDIR", CGROUP_MKDIR),
            ("CGROUP_RMDIR", CGROUP_RMDIR),
            ("CGROUP_RELEASE", CGROUP_RELEASE),
            ("LOCK", LOCK),
            ("KINDS", KINDS as u32),
        ] {
            assert!(header.contains(&format!("\tWS_{name} = {value},")), "{name}");
        }
        for (name, value) in [
            ("COMM", COMM),
            ("STACK", STACK),
            ("RUNS", RUNS),
            ("PATH", PATH),
            ("SLOTS", SLOTS),
            ("QUOTAS", QUOTAS),
        ] {
            assert!(header.contains(&format!("#define WS_{name} {value}\t")), "{name}");
        }
    }

    #[test]
    fn short_and_lying_events() {
        assert!(read::<Head>(&[0; 79]).is_none());
        let mut bytes = [0xffu8; size_of::<Stack>()];
        assert!(read::<Stack>(&bytes).unwrap().frames().is_empty());
        bytes[80..88].copy_from_slice(&i64::MAX.to_ne_bytes());
        assert_eq!(read::<Stack>(&bytes).unwrap().frames().len(), STACK);
        assert_eq!(string(b"a\xff\0b"), "a\\xff");
    }
}
