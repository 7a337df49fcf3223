//! `/proc/meminfo`: how the host's memory is used now, in bytes.
//!
//! Fields are the kernel's labels (`fs/proc/meminfo.c`) in lower case with `_` between words; those that a kernel lacks
//! are absent. The kernel's `kB` is 1024 bytes.

use std::sync::{Arc, LazyLock};

use whystall_event::{Field, Stream, Subject, SubjectKind, Unit};

use crate::read::{Buf, KeptFile, unavailable};
use crate::scan::{Malformed, Names, columns, dec, lines};
use crate::values::{Values, index_of};
use crate::{Built, CollectError, Collector, Pass, Polled, Roots, Settings, Unavailable};

const fn bytes(name: &'static str, help: &'static str) -> Field {
    Field::gauge(name, Unit::Bytes, help)
}

const fn count(name: &'static str, help: &'static str) -> Field {
    Field::gauge(name, Unit::Count, help)
}

const FIELDS: &[Field] = &[
    bytes("mem_total", "memory that the kernel manages (MemTotal)"),
    bytes("mem_free", "memory that nobody uses (MemFree)"),
    bytes(
        "mem_available",
        "memory that could be had without swapping, by the kernel's estimate (MemAvailable)",
    ),
    bytes("buffers", "page cache of block devices (Buffers)"),
    bytes("cached", "page cache of files, tmpfs and shared memory included (Cached)"),
    bytes("swap_cached", "memory that is also in swap (SwapCached)"),
    bytes("active_anon", "anonymous memory used recently (Active(anon))"),
    bytes("inactive_anon", "anonymous memory not used recently (Inactive(anon))"),
    bytes("active_file", "file cache used recently (Active(file))"),
    bytes("inactive_file", "file cache not used recently: what reclaim takes first (Inactive(file))"),
    bytes("unevictable", "memory that reclaim must not touch (Unevictable)"),
    bytes("mlocked", "memory locked by mlock (Mlocked)"),
    bytes("swap_total", "swap space (SwapTotal)"),
    bytes("swap_free", "unused swap space (SwapFree)"),
    bytes("zswap", "memory that holds compressed swap (Zswap)"),
    bytes("zswapped", "what is compressed there, at its full size (Zswapped)"),
    bytes("dirty", "file cache waiting to be written (Dirty)"),
    bytes("writeback", "file cache being written (Writeback)"),
    bytes("anon_pages", "anonymous memory that is mapped (AnonPages)"),
    bytes("mapped", "file cache that is mapped (Mapped)"),
    bytes("shmem", "tmpfs and shared memory (Shmem)"),
    bytes("kernel_reclaimable", "kernel memory that reclaim can shrink (KReclaimable)"),
    bytes("slab", "slab caches (Slab)"),
    bytes(
        "slab_reclaimable",
        "slab caches that reclaim can shrink, such as dentries and inodes (SReclaimable)",
    ),
    bytes("slab_unreclaimable", "slab caches that it cannot (SUnreclaim)"),
    bytes("kernel_stack", "stacks of tasks in the kernel (KernelStack)"),
    bytes("page_tables", "page tables (PageTables)"),
    bytes("commit_limit", "what may be promised under strict overcommit (CommitLimit)"),
    bytes("committed_as", "what has been promised (Committed_AS)"),
    bytes("vmalloc_used", "memory mapped by vmalloc (VmallocUsed)"),
    bytes("percpu", "per-CPU allocations; grows with the number of cgroups, dead ones included (Percpu)"),
    bytes("hardware_corrupted", "memory taken out of use after errors (HardwareCorrupted)"),
    bytes("anon_huge_pages", "anonymous memory in huge pages (AnonHugePages)"),
    bytes("shmem_huge_pages", "shared memory in huge pages (ShmemHugePages)"),
    bytes("file_huge_pages", "file cache in huge pages (FileHugePages)"),
    bytes("balloon", "memory that the hypervisor holds through the balloon (Balloon)"),
    bytes("cma_total", "memory reserved for contiguous allocations (CmaTotal)"),
    bytes("cma_free", "of it, unused (CmaFree)"),
    count("huge_pages_total", "huge pages in the pool of the default size (HugePages_Total)"),
    count("huge_pages_free", "of them, unused (HugePages_Free)"),
    count("huge_pages_rsvd", "of those, promised (HugePages_Rsvd)"),
    bytes("hugetlb", "memory in huge-page pools of all sizes (Hugetlb)"),
    Field::gauge("available_ratio", Unit::Ratio, "mem_available as a part of mem_total"),
];

/// The kernel's label of each field that is read, in the order of [`FIELDS`].
const LABELS: &[&str] = &[
    "MemTotal",
    "MemFree",
    "MemAvailable",
    "Buffers",
    "Cached",
    "SwapCached",
    "Active(anon)",
    "Inactive(anon)",
    "Active(file)",
    "Inactive(file)",
    "Unevictable",
    "Mlocked",
    "SwapTotal",
    "SwapFree",
    "Zswap",
    "Zswapped",
    "Dirty",
    "Writeback",
    "AnonPages",
    "Mapped",
    "Shmem",
    "KReclaimable",
    "Slab",
    "SReclaimable",
    "SUnreclaim",
    "KernelStack",
    "PageTables",
    "CommitLimit",
    "Committed_AS",
    "VmallocUsed",
    "Percpu",
    "HardwareCorrupted",
    "AnonHugePages",
    "ShmemHugePages",
    "FileHugePages",
    "Balloon",
    "CmaTotal",
    "CmaFree",
    "HugePages_Total",
    "HugePages_Free",
    "HugePages_Rsvd",
    "Hugetlb",
];

const N: usize = LABELS.len();
const MEM_TOTAL: usize = index_of(FIELDS, "mem_total");
const MEM_AVAILABLE: usize = index_of(FIELDS, "mem_available");
const AVAILABLE_RATIO: usize = index_of(FIELDS, "available_ratio");

const STREAM: Stream =
    Stream::sampled("meminfo", "how the host's memory is used", &[SubjectKind::Host], FIELDS);

/// Reads `/proc/meminfo`.
pub static COLLECTOR: Collector = Collector {
    name: "meminfo",
    help: "reads /proc/meminfo for how the host's memory is used",
    streams: &[STREAM],
    interval: None,
    settings: &[],
    build,
};

fn build(roots: &Roots, _: &Settings) -> Result<Built, Unavailable> {
    let file = KeptFile::open(roots.proc("meminfo")).map_err(unavailable)?;
    Ok(Built::Polled(Box::new(Meminfo { file, buf: Buf::new(), stream: Arc::new(STREAM) })))
}

struct Meminfo {
    file: KeptFile,
    buf: Buf,
    stream: Arc<Stream>,
}

impl Polled for Meminfo {
    fn collect(&mut self, pass: &mut Pass) -> Result<(), CollectError> {
        let values = self.file.parse(&mut self.buf, parse_meminfo)?;
        let mut batch = pass.batch(&self.stream);
        let mut row = batch.row(Subject::Host);
        values.fill(&mut row, FIELDS);
        if let (Some(available), Some(total @ 1..)) = (values.get(MEM_AVAILABLE), values.get(MEM_TOTAL)) {
            row.gauge(AVAILABLE_RATIO, available as f64 / total as f64);
        }
        pass.batches.push(batch);
        Ok(())
    }
}

/// The fields of one reading of `/proc/meminfo` in bytes (huge pages: in number), in the stream's order, without the
/// derived ratio.
///
/// Each line is a label with a colon, a number and, for sizes, `kB`. Labels that are no field are skipped. Wrong is: a line
/// of another shape, another unit than the field's, a size over `u64` bytes, a field that occurs twice, and a file without
/// `MemTotal`.
pub fn parse_meminfo(bytes: &[u8]) -> Result<Values<N>, Malformed> {
    static NAMES: LazyLock<Names> = LazyLock::new(|| Names::new(LABELS.iter().copied().zip(0..)));
    let names = &*NAMES;
    let mut values = Values::default();
    for line in lines(bytes) {
        let (number, line) = line?;
        let Some(colon) = memchr::memchr(b':', line) else {
            return Err(Malformed::expected(number, "a label and a colon", line));
        };
        let (label, rest) = line.split_at(colon);
        let Some(i) = names.find(label) else { continue };
        let mut rest = columns(rest.get(1..).unwrap_or_default());
        let count = rest.next().unwrap_or_default();
        let unit = rest.rest();
        let is_size = FIELDS.get(i).is_some_and(|f| f.unit == Unit::Bytes);
        let value = match (unit, is_size) {
            (b"kB", true) => dec(count).and_then(|kib| kib.checked_mul(1024)),
            (b"", false) => dec(count),
            (_, true) => return Err(Malformed::expected(number, "the unit kB", unit)),
            (_, false) => return Err(Malformed::expected(number, "no unit", unit)),
        };
        let value = value.ok_or_else(|| Malformed::expected(number, "a number up to 2^64-1 bytes", count))?;
        if !values.set(i, value) {
            return Err(Malformed::expected(number, "each label once", label));
        }
    }
    if values.get(MEM_TOTAL).is_none() {
        return Err(Malformed::new(1, "no MemTotal in the whole file"));
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn labels_and_fields_correspond() {
        assert_eq!(FIELDS.len(), N + 1);
        for (field, label) in FIELDS.iter().zip(LABELS) {
            assert!(field.help.ends_with(&format!("({label})")), "{}: {}", field.name, field.help);
        }
    }

    #[test]
    fn sizes_are_bytes_and_counts_are_counts() {
        let v = parse_meminfo(b"MemTotal:  10 kB\nWhatever:  x y z\nHugePages_Total:   3\n").unwrap();
        assert_eq!(v.get(MEM_TOTAL), Some(10_240));
        assert_eq!(v.get(index_of(FIELDS, "huge_pages_total")), Some(3));
        assert_eq!(v.get(MEM_AVAILABLE), None);
    }

    #[test]
    fn surprises_are_errors_with_their_line() {
        let check = |input: &[u8], expected: &str| {
            let e = parse_meminfo(input).unwrap_err().at("/p/meminfo".as_ref()).to_string();
            assert!(e.starts_with("/p/meminfo: line ") && e.contains(expected), "{e}");
        };
        check(b"", "no MemTotal");
        check(b"MemTotal: 1 kB\nMemFree 2 kB\n", "line 2: expected a label and a colon");
        check(b"MemTotal: 1 kB\nMemFree: 2 k", "line 2: cut short");
        check(b"MemTotal: 1 MB\n", "expected the unit kB, found `MB`");
        check(b"MemTotal: 1\n", "expected the unit kB, found ``");
        check(b"HugePages_Total: 1 kB\n", "expected no unit, found `kB`");
        check(b"MemTotal: -4 kB\n", "found `-4`");
        check(b"MemTotal: 18014398509481984 kB\n", "found `18014398509481984`");
        check(b"MemTotal: 1 kB\nMemTotal: 1 kB\n", "line 2: expected each label once");
        check(b"MemTotal: \xff\xfe kB\n", "found `\\xff\\xfe`");
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse_meminfo(&bytes);
            let _ = parse_meminfo(&[b"MemTotal: 1 kB\nCached:", &bytes[..]].concat());
        }

        #[test]
        fn round_trip(values in proptest::collection::vec(proptest::option::of(0..u64::MAX >> 10), N), total in 0..u64::MAX >> 10) {
            let value = |i: usize| if i == MEM_TOTAL { Some(total) } else { values[i] };
            let is_size = |i: usize| FIELDS[i].unit == Unit::Bytes;
            let file: String = (0..N)
                .filter_map(|i| Some(format!("{:<16}{:>8}{}\n", format!("{}:", LABELS[i]), value(i)?, if is_size(i) { " kB" } else { "" })))
                .collect();
            let parsed = parse_meminfo(file.as_bytes()).unwrap();
            for i in 0..N {
                prop_assert_eq!(parsed.get(i), value(i).map(|v| if is_size(i) { v << 10 } else { v }));
            }
        }
    }
}
