//! The second level, for kernels that do not take the BPF programs: reclaim and compaction by perf tracepoints, beginnings
//! and ends paired here. It costs a record a tracepoint instead of an event a reclaim, and tells no allocation order.
//!
//! Sources: perf_event_open(2); the tracepoints' numbers from tracefs.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use whystall_event::SEC;

use super::cgroups::cgroup_of;
use super::wire::{COMPACTION, Head, MEMCG_RECLAIM, RECLAIM};
use crate::cgroup::mounts::{Hierarchies, Version};
use crate::runner::clock;
use crate::{Roots, Unavailable};

/// A kind of event and its two tracepoints.
const PAIRS: &[(u32, &str, &str)] = &[
    (RECLAIM, "vmscan/mm_vmscan_direct_reclaim_begin", "vmscan/mm_vmscan_direct_reclaim_end"),
    (MEMCG_RECLAIM, "vmscan/mm_vmscan_memcg_reclaim_begin", "vmscan/mm_vmscan_memcg_reclaim_end"),
    (COMPACTION, "compaction/mm_compaction_begin", "compaction/mm_compaction_end"),
];

/// Pages of a CPU's ring, a power of two.
const PAGES: usize = 8;
/// Records that begin and do not end are forgotten beyond this number.
const MOST_INFLIGHT: usize = 8192;
/// A task's name and cgroup are looked up again after this.
const LOOK_AGAIN: u64 = SEC;

/// The opened tracepoints.
pub(crate) struct Tracepoints {
    rings: Vec<Ring>,
    /// All events; the first of each CPU has the ring.
    _events: Vec<OwnedFd>,
    by_id: HashMap<u64, (u32, bool)>,
    inflight: HashMap<(u32, u32), u64>,
    waiting: Vec<Record>,
    tasks: HashMap<u32, Task>,
    hierarchies: Hierarchies,
    proc: PathBuf,
    threshold: u64,
    /// Records that found no room in a ring.
    pub(crate) lost: u64,
}

/// One tracepoint hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Record {
    id: u64,
    pid: u32,
    tid: u32,
    boot_ns: u64,
    cpu: u32,
}

#[derive(Debug, Clone)]
struct Task {
    looked_ns: u64,
    comm: [u8; 16],
    mem_cgroup: u64,
}

/// Whether tracepoints can be opened here, found out by their numbers and the permission to watch all tasks.
pub(crate) fn check_host(roots: &Roots) -> Result<(), Unavailable> {
    let id = tracepoint_id(roots, PAIRS[0].1)?;
    let opened = open(id, 0).map(drop);
    opened.map_err(|e| {
        Unavailable::because(format!("perf tracepoints cannot be opened: {e}"))
            .remedy("give whystall CAP_PERFMON, or run it as root")
    })
}

impl Tracepoints {
    /// Opens the tracepoints of some kinds on every CPU that is online. Events shorter than `threshold` nanoseconds are
    /// not told.
    pub(crate) fn open(roots: &Roots, kinds: &[u32], threshold: u64) -> Result<Tracepoints, String> {
        let mut ids = Vec::new();
        for (kind, begin, end) in PAIRS.iter().filter(|p| kinds.contains(&p.0)) {
            for (name, is_end) in [(begin, false), (end, true)] {
                let id = tracepoint_id(roots, name).map_err(|e| e.to_string())?;
                ids.push((id, *kind, is_end));
            }
        }
        let mut all = Tracepoints {
            rings: Vec::new(),
            _events: Vec::new(),
            by_id: HashMap::new(),
            inflight: HashMap::new(),
            waiting: Vec::new(),
            tasks: HashMap::new(),
            hierarchies: Hierarchies::find(roots).unwrap_or_default(),
            proc: roots.proc.clone(),
            threshold,
            lost: 0,
        };
        // SAFETY: sysconf has no preconditions.
        let cpus = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_CONF) };
        for cpu in 0..i32::try_from(cpus).unwrap_or(1).max(1) {
            match all.open_cpu(cpu, &ids) {
                Ok(()) => {}
                // The CPU is offline.
                Err(e) if e.raw_os_error() == Some(libc::ENODEV) => {}
                Err(e) => return Err(format!("perf_event_open: {e}")),
            }
        }
        Ok(all)
    }

    fn open_cpu(&mut self, cpu: i32, ids: &[(u64, u32, bool)]) -> io::Result<()> {
        let mut ring_of = None;
        for (tracepoint, kind, is_end) in ids {
            let event = open(*tracepoint, cpu)?;
            match ring_of {
                None => {
                    self.rings.push(Ring::map(&event)?);
                    ring_of = Some(event.as_raw_fd());
                }
                Some(first) => ioctl(&event, SET_OUTPUT, first as libc::c_ulong)?,
            }
            let mut id = 0u64;
            ioctl(&event, GET_ID, &raw mut id as libc::c_ulong)?;
            self.by_id.insert(id, (*kind, *is_end));
            self._events.push(event);
        }
        Ok(())
    }

    /// What to poll.
    pub(crate) fn fds(&self) -> impl Iterator<Item = RawFd> + '_ {
        self.rings.iter().map(|r| r.fd)
    }

    /// Hands over events that ended, at most `most` records at once.
    pub(crate) fn drain(&mut self, most: usize, mut each: impl FnMut(&Head)) {
        // A task may begin on one CPU and end on another: only what is older than this reading is complete everywhere.
        let (complete, suspended) = (clock::now().boot_ns, clock::boot_minus_monotonic());
        for ring in &mut self.rings {
            let had = self.waiting.len();
            self.lost += ring.read(most, &mut self.waiting);
            // The kernel lets these events have CLOCK_MONOTONIC, not CLOCK_BOOTTIME.
            for record in self.waiting.iter_mut().skip(had) {
                record.boot_ns = record.boot_ns.saturating_add(suspended);
            }
        }
        self.waiting.sort_by_key(|r| r.boot_ns);
        let ready = self.waiting.partition_point(|r| r.boot_ns <= complete);
        let ready: Vec<Record> = self.waiting.drain(..ready).collect();
        for r in ready {
            let Some(&(kind, is_end)) = self.by_id.get(&r.id) else { continue };
            if !is_end {
                if self.inflight.len() >= MOST_INFLIGHT {
                    self.inflight.clear();
                }
                self.inflight.insert((kind, r.tid), r.boot_ns);
                continue;
            }
            let Some(began) = self.inflight.remove(&(kind, r.tid)) else { continue };
            let dur_ns = r.boot_ns.saturating_sub(began);
            if dur_ns < self.threshold {
                continue;
            }
            let task = self.task(&r);
            // kcompactd compacts in the background: nobody waits for it.
            if kind == COMPACTION && task.comm.starts_with(b"kcompactd") {
                continue;
            }
            each(&Head {
                kind,
                cpu: r.cpu,
                boot_ns: r.boot_ns,
                dur_ns,
                aux: u64::MAX,
                cpu_cgroup: 0,
                mem_cgroup: task.mem_cgroup,
                pid: r.tid,
                tgid: r.pid,
                prio: 0,
                flags: 0,
                policy: 0,
                comm: task.comm,
            });
        }
    }

    /// The task's name and memory cgroup, looked up when its event is read.
    fn task(&mut self, r: &Record) -> Task {
        if let Some(t) = self.tasks.get(&r.tid)
            && r.boot_ns.saturating_sub(t.looked_ns) < LOOK_AGAIN
        {
            return t.clone();
        }
        if self.tasks.len() >= MOST_INFLIGHT {
            self.tasks.clear();
        }
        let dir = self.proc.join(r.tid.to_string());
        let mut comm = [0; 16];
        for (to, from) in comm.iter_mut().zip(fs::read(dir.join("comm")).unwrap_or_default()) {
            *to = if from == b'\n' { 0 } else { from };
        }
        let task = Task {
            looked_ns: r.boot_ns,
            comm,
            mem_cgroup: self.mem_cgroup(&dir.join("cgroup")).unwrap_or(0),
        };
        self.tasks.insert(r.tid, task.clone());
        task
    }

    fn mem_cgroup(&self, file: &std::path::Path) -> Option<u64> {
        use std::os::unix::fs::MetadataExt;
        let h = self.hierarchies.of("memory").ok()?;
        let path = cgroup_of(&fs::read(file).ok()?, (h.version == Version::V1).then_some("memory"))?;
        let below = if h.prefix == "/" { path.as_str() } else { path.strip_prefix(&h.prefix)? };
        Some(fs::metadata(h.dir.join(below.trim_start_matches('/'))).ok()?.ino())
    }
}

fn tracepoint_id(roots: &Roots, name: &str) -> Result<u64, Unavailable> {
    let places = ["kernel/tracing/events", "kernel/debug/tracing/events"];
    for place in places {
        let path = roots.sys(place).join(name).join("id");
        if let Some(id) = fs::read_to_string(path).ok().and_then(|s| s.trim().parse().ok()) {
            return Ok(id);
        }
    }
    Err(Unavailable::because(format!("no tracepoint {name} can be read in tracefs"))
        .remedy("mount -t tracefs none /sys/kernel/tracing"))
}

/// `struct perf_event_attr` up to its fifth version (include/uapi/linux/perf_event.h).
#[repr(C)]
#[derive(Default)]
struct Attr {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_watermark: u32,
    bp_type: u32,
    config1: u64,
    config2: u64,
    branch_sample_type: u64,
    sample_regs_user: u64,
    sample_stack_user: u32,
    clockid: i32,
    sample_regs_intr: u64,
    aux_watermark: u32,
    sample_max_stack: u16,
    reserved: u16,
}

const TYPE_TRACEPOINT: u32 = 2;
/// PERF_SAMPLE_IDENTIFIER, _TID, _TIME and _CPU: the fields of a record, in this order.
const SAMPLE: u64 = 1 << 16 | 1 << 1 | 1 << 2 | 1 << 7;
const FLAG_WATERMARK: u64 = 1 << 14;
const FLAG_USE_CLOCKID: u64 = 1 << 25;
const FLAG_FD_CLOEXEC: libc::c_ulong = 8;
/// PERF_EVENT_IOC_SET_OUTPUT and PERF_EVENT_IOC_ID.
const SET_OUTPUT: libc::c_ulong = 0x2405;
const GET_ID: libc::c_ulong = 0x8008_2407;
const RECORD_LOST: u32 = 2;
const RECORD_SAMPLE: u32 = 9;

fn open(tracepoint: u64, cpu: i32) -> io::Result<OwnedFd> {
    let attr = Attr {
        kind: TYPE_TRACEPOINT,
        size: size_of::<Attr>() as u32,
        config: tracepoint,
        sample_period: 1,
        sample_type: SAMPLE,
        flags: FLAG_WATERMARK | FLAG_USE_CLOCKID,
        wakeup_watermark: 1,
        clockid: libc::CLOCK_MONOTONIC,
        ..Attr::default()
    };
    // SAFETY: `attr` has the size that it says and outlives the call; the other arguments are plain numbers.
    let fd = unsafe {
        libc::syscall(libc::SYS_perf_event_open, &raw const attr, -1 as libc::pid_t, cpu, -1, FLAG_FD_CLOEXEC)
    };
    match RawFd::try_from(fd) {
        // SAFETY: the kernel just gave us this descriptor and nobody else has it.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

fn ioctl(event: &OwnedFd, request: libc::c_ulong, argument: libc::c_ulong) -> io::Result<()> {
    // SAFETY: the two requests used take a descriptor or a pointer to a u64 that outlives the call.
    match unsafe { libc::ioctl(event.as_raw_fd(), request as _, argument) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn page_size() -> usize {
    // SAFETY: sysconf has no preconditions.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

/// A mapped ring: one page of positions, then the data.
struct Ring {
    fd: RawFd,
    base: *mut u8,
    bytes: usize,
}

// SAFETY: the mapping belongs to this value alone and may be used from any thread, one at a time.
unsafe impl Send for Ring {}

/// Where the two positions are in the first page.
const DATA_HEAD: usize = 1024;
const DATA_TAIL: usize = 1032;

impl Ring {
    fn map(event: &OwnedFd) -> io::Result<Ring> {
        let bytes = (PAGES + 1) * page_size();
        // SAFETY: a new shared mapping at an address of the kernel's choice.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                event.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Ring { fd: event.as_raw_fd(), base: base.cast(), bytes })
    }

    fn position(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: the first page of the mapping has 64-bit positions at these aligned offsets, shared with the kernel.
        unsafe { &*self.base.add(offset).cast::<AtomicU64>() }
    }

    /// Appends at most `most` records and returns how many the kernel says it lost.
    fn read(&mut self, most: usize, out: &mut Vec<Record>) -> u64 {
        let head = self.position(DATA_HEAD).load(Ordering::Acquire);
        let mut tail = self.position(DATA_TAIL).load(Ordering::Relaxed);
        let size = self.bytes - page_size();
        let mut lost = 0;
        for _ in 0..most {
            if head.wrapping_sub(tail) < 8 {
                break;
            }
            let header = self.word(tail, size);
            let (kind, length) = (header as u32, header >> 48);
            if length < 8 || length > head.wrapping_sub(tail) {
                // Cannot be: nothing behind it can be trusted, so all of it is skipped.
                tail = head;
                break;
            }
            let word = |i: u64| self.word(tail.wrapping_add(8 * i), size);
            if kind == RECORD_SAMPLE && length >= 40 {
                out.push(Record {
                    id: word(1),
                    pid: word(2) as u32,
                    tid: (word(2) >> 32) as u32,
                    boot_ns: word(3),
                    cpu: word(4) as u32,
                });
            } else if kind == RECORD_LOST && length >= 24 {
                lost += word(2);
            }
            tail = tail.wrapping_add(length);
        }
        self.position(DATA_TAIL).store(tail, Ordering::Release);
        lost
    }

    /// The 64 bits at a position of the data; records are multiples of 8 bytes, so none is split by the ring's end.
    fn word(&self, position: u64, size: usize) -> u64 {
        let offset = (position % size as u64) as usize & !7;
        // SAFETY: `offset` is within the data, whose pages follow the first, and is aligned to 8.
        unsafe { self.base.add(page_size() + offset).cast::<u64>().read_volatile() }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: the mapping was made in `map` with this size and is not used after this.
        unsafe {
            libc::munmap(self.base.cast(), self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_attribute_is_of_its_fifth_version() {
        assert_eq!(size_of::<Attr>(), 112);
        assert_eq!(std::mem::offset_of!(Attr, clockid), 92);
    }

    #[test]
    fn a_host_without_tracefs_is_told() {
        let e = check_host(&Roots::under("/nonexistent")).unwrap_err();
        assert!(e.to_string().contains("tracefs"), "{e}");
    }
}
