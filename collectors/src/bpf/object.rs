//! The BPF object: loaded once, each program on its own, so that what one kernel lacks costs only its probe.
//!
//! Links and maps live as long as this process: nothing is pinned, so nothing stays behind, even after SIGKILL.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::os::fd::{AsRawFd, RawFd};

use aya::maps::{Array, HashMap, MapData, PerCpuArray, RingBuf};
use aya::programs::tp_btf::BtfTracePointLinkId;
use aya::programs::{BtfTracePoint, Program};
use aya::{Btf, Ebpf, EbpfLoader, Endianness};

use super::wire::{Cpu, Hist, HistKey, Shared};
use crate::{Roots, Unavailable};

static OBJECT: &[u8] = aya::include_bytes_aligned!("../../bpf/latency.bpf.o");

/// Each program and the tracepoint it belongs to, ends before beginnings: then no beginning is seen without its end.
const PROGRAMS: &[(&str, &str)] = &[
    ("direct_reclaim_end", "mm_vmscan_direct_reclaim_end"),
    ("direct_reclaim_begin", "mm_vmscan_direct_reclaim_begin"),
    ("memcg_reclaim_end", "mm_vmscan_memcg_reclaim_end"),
    ("memcg_reclaim_begin", "mm_vmscan_memcg_reclaim_begin"),
    ("vmscan_throttled", "mm_vmscan_throttled"),
    ("compaction_end", "mm_compaction_end"),
    ("compaction_begin", "mm_compaction_begin"),
    ("sched_switch", "sched_switch"),
    ("hrtimer_expire_entry", "hrtimer_expire_entry"),
    ("softirq_exit", "softirq_exit"),
    ("softirq_entry", "softirq_entry"),
    ("softirq_raise", "softirq_raise"),
    ("irq_handler_exit", "irq_handler_exit"),
    ("irq_handler_entry", "irq_handler_entry"),
    ("cgroup_release", "cgroup_release"),
    ("cgroup_rmdir", "cgroup_rmdir"),
    ("cgroup_mkdir", "cgroup_mkdir"),
    ("lock_end", "contention_end"),
    ("lock_begin", "contention_begin"),
];

/// The programs that see each softirq, in the order in which they are attached.
const SOFTIRQ: [&str; 3] = ["softirq_exit", "softirq_entry", "softirq_raise"];

/// Above which durations an event is told, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Thresholds {
    pub(crate) runq: u64,
    pub(crate) nosched: u64,
    pub(crate) softirq: u64,
    pub(crate) irq: u64,
    pub(crate) irqoff: u64,
    pub(crate) reclaim: u64,
    pub(crate) lock: u64,
}

/// The loaded object.
pub(crate) struct Object {
    ebpf: Ebpf,
    links: BTreeMap<&'static str, BtfTracePointLinkId>,
    failed: BTreeMap<&'static str, String>,
    ring: RingBuf<MapData>,
    cpus: PerCpuArray<MapData, Cpu>,
    hists: HashMap<MapData, HistKey, Hist>,
    shared: Array<MapData, Shared>,
}

/// What loading BPF needs of this host, checked without loading anything.
pub(crate) fn check_host(roots: &Roots) -> Result<(), Unavailable> {
    let btf = roots.sys("kernel/btf/vmlinux");
    if !btf.exists() {
        return Err(Unavailable::because(format!(
            "the kernel does not describe its types: no {}",
            btf.display()
        ))
        .remedy("use a kernel with CONFIG_DEBUG_INFO_BTF=y"));
    }
    let status = fs::read_to_string(roots.proc("self/status")).unwrap_or_default();
    if !may_load(&status) {
        return Err(Unavailable::because("no permission to load BPF programs")
            .remedy("give whystall CAP_BPF and CAP_PERFMON, or run it as root"));
    }
    Ok(())
}

/// Whether a process with this `/proc/PID/status` may load tracing programs.
fn may_load(status: &str) -> bool {
    const SYS_ADMIN: u32 = 21;
    const PERFMON: u32 = 38;
    const BPF: u32 = 39;
    let effective = status
        .lines()
        .find_map(|l| l.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    let has = |cap: u32| effective >> cap & 1 == 1;
    has(SYS_ADMIN) || (has(BPF) && has(PERFMON))
}

impl Object {
    /// Loads the maps and every program of `wanted` that this kernel takes, and attaches them.
    pub(crate) fn load(
        roots: &Roots,
        thresholds: &Thresholds,
        cpu_cgroup_v1: bool,
        wanted: &dyn Fn(&str) -> bool,
    ) -> Result<Object, String> {
        let path = roots.sys("kernel/btf/vmlinux");
        let btf = Btf::parse_file(&path, Endianness::default())
            .map_err(|e| format!("{}: {}", path.display(), chain(&e)))?;
        let v1 = u32::from(cpu_cgroup_v1);
        let mut ebpf = EbpfLoader::new()
            .btf(Some(&btf))
            .override_global("runq_threshold_ns", &thresholds.runq, true)
            .override_global("nosched_threshold_ns", &thresholds.nosched, true)
            .override_global("softirq_threshold_ns", &thresholds.softirq, true)
            .override_global("irq_threshold_ns", &thresholds.irq, true)
            .override_global("irqoff_threshold_ns", &thresholds.irqoff, true)
            .override_global("reclaim_threshold_ns", &thresholds.reclaim, true)
            .override_global("lock_threshold_ns", &thresholds.lock, true)
            .override_global("cpu_cgroup_v1", &v1, true)
            .map_max_entries("events", ring_bytes())
            .load(OBJECT)
            .map_err(|e| chain(&e))?;
        let mut object = Object {
            ring: RingBuf::try_from(take(&mut ebpf, "events")?).map_err(|e| chain(&e))?,
            cpus: PerCpuArray::try_from(take(&mut ebpf, "cpus")?).map_err(|e| chain(&e))?,
            hists: HashMap::try_from(take(&mut ebpf, "hists")?).map_err(|e| chain(&e))?,
            shared: Array::try_from(take(&mut ebpf, ".bss")?).map_err(|e| chain(&e))?,
            ebpf,
            links: BTreeMap::new(),
            failed: BTreeMap::new(),
        };
        for (name, tracepoint) in PROGRAMS.iter().filter(|(name, _)| wanted(name)) {
            let loaded = object.program(name).and_then(|p| p.load(tracepoint, &btf).map_err(|e| chain(&e)));
            if let Err(e) = loaded.and_then(|()| object.attach(name)) {
                object.failed.insert(name, e);
            }
        }
        // The kernel's types are some 30 MiB in many small pieces, not needed again.
        drop(btf);
        trim();
        if object.links.is_empty() {
            let first = object.failed.values().next().cloned();
            return Err(first.unwrap_or_else(|| "no program was wanted".into()));
        }
        Ok(object)
    }

    fn program(&mut self, name: &str) -> Result<&mut BtfTracePoint, String> {
        match self.ebpf.program_mut(name) {
            Some(Program::BtfTracePoint(p)) => Ok(p),
            _ => Err(format!("the object has no program {name}")),
        }
    }

    fn attach(&mut self, name: &'static str) -> Result<(), String> {
        let link = self.program(name)?.attach().map_err(|e| chain(&e))?;
        self.links.insert(name, link);
        Ok(())
    }

    /// Whether the program watches; else why not.
    pub(crate) fn watches(&self, program: &str) -> Result<(), &str> {
        match (self.links.contains_key(program), self.failed.get(program)) {
            (true, _) => Ok(()),
            (false, Some(why)) => Err(why),
            (false, None) => Err("off"),
        }
    }

    /// Stops watching single softirqs, which costs too much on a CPU that has very many.
    pub(crate) fn detach_softirqs(&mut self) {
        // Beginnings first: an end without its beginning is ignored.
        for name in SOFTIRQ.iter().rev() {
            if let Some(link) = self.links.remove(name)
                && let Ok(p) = self.program(name)
            {
                // It fails only if the link is gone already.
                let _ = p.detach(link);
            }
        }
    }

    /// Watches single softirqs again; what was raised before `monotonic_ns` is not judged.
    pub(crate) fn attach_softirqs(&mut self, monotonic_ns: u64) -> Result<(), String> {
        let mut shared = self.shared.get(&0, 0).map_err(|e| chain(&e))?;
        shared.softirq_epoch_ns = monotonic_ns;
        self.shared.set(0, shared, 0).map_err(|e| chain(&e))?;
        for name in SOFTIRQ {
            if !self.failed.contains_key(name) {
                self.attach(name)?;
            }
        }
        Ok(())
    }

    /// What to poll for events.
    pub(crate) fn fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }

    /// Hands over events that wait, at most `most`, and returns how many there were.
    pub(crate) fn events(&mut self, most: usize, mut each: impl FnMut(&[u8])) -> usize {
        for n in 0..most {
            match self.ring.next() {
                Some(event) => each(&event),
                None => return n,
            }
        }
        most
    }

    /// The state of every CPU that the kernel counts as possible.
    pub(crate) fn cpus(&self) -> Result<impl Iterator<Item = Cpu>, String> {
        let values = self.cpus.get(&0, 0).map_err(|e| chain(&e))?;
        Ok(values.iter().copied().collect::<Vec<_>>().into_iter())
    }

    /// All histograms of cgroups; those that vanish meanwhile are left out.
    pub(crate) fn hists(&self) -> impl Iterator<Item = (HistKey, Hist)> + '_ {
        self.hists.iter().filter_map(Result::ok)
    }

    /// Makes room by forgetting a cgroup's histogram.
    pub(crate) fn forget(&mut self, key: &HistKey) {
        // It may be gone already.
        let _ = self.hists.remove(key);
    }

    /// How often there was no room for a cgroup's histogram.
    pub(crate) fn hists_full(&self) -> u64 {
        self.shared.get(&0, 0).map_or(0, |s| s.hists_full)
    }
}

/// The ring buffer's size by the number of CPUs; it is mapped and counts as memory of this process, twice.
fn ring_bytes() -> u32 {
    // SAFETY: sysconf has no preconditions.
    let cpus = u32::try_from(unsafe { libc::sysconf(libc::_SC_NPROCESSORS_CONF) }).unwrap_or(1);
    cpus.saturating_mul(32 << 10).clamp(256 << 10, 4 << 20).next_power_of_two()
}

fn take(ebpf: &mut Ebpf, name: &str) -> Result<aya::maps::Map, String> {
    ebpf.take_map(name).ok_or_else(|| format!("the object has no map {name}"))
}

/// An error with its causes. What the verifier said is long; its first line is kept.
fn chain(e: &dyn Error) -> String {
    let mut text = e.to_string();
    let mut next = e.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    let line = text.lines().next().unwrap_or_default();
    whystall_event::text::shorten(line, 200).into_owned()
}

/// Gives memory that was freed back to the kernel.
pub(crate) fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim may be called at any time and has no arguments to get wrong.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities() {
        assert!(may_load("Name:\tx\nCapEff:\t000001ffffffffff\n"));
        assert!(may_load("CapEff:\t000000c000000000\n"));
        assert!(!may_load("CapEff:\t0000008000000000\n"));
        assert!(!may_load("CapEff:\t0000000000000000\n"));
        assert!(!may_load("CapEff:\tjunk\n"));
    }

    #[test]
    fn a_host_without_types_is_told() {
        let e = check_host(&Roots::under("/nonexistent")).unwrap_err();
        assert!(e.to_string().contains("CONFIG_DEBUG_INFO_BTF"), "{e}");
    }
}
