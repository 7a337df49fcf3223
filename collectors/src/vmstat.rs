//! `/proc/vmstat`: the host's page reclaim, compaction, refaults, faults and swap since boot.
//!
//! The signals here count *global* reclaim only: what tasks do at their own cgroup's limit moves none of `allocstall`,
//! `pgscan_*` and `pgsteal_*` (see `mm/vmscan.c`, `count_vm_events` under `!cgroup_reclaim(sc)`), which is what tells a
//! node that is short from a group at its limit. Fields carry the kernel's names (`mm/vmstat.c`, `vmstat_text`); those
//! that a kernel lacks are absent.

use std::sync::{Arc, LazyLock};

use whystall_event::{Field, FieldKind, Stream, Subject, SubjectKind, Unit};

use crate::read::{Buf, KeptFile, unavailable};
use crate::scan::{Malformed, Names, dec, lines};
use crate::values::{Values, index_of};
use crate::{Built, CollectError, Collector, Pass, Polled, Roots, Settings, Unavailable};

const fn count(name: &'static str, help: &'static str) -> Field {
    Field::counter(name, Unit::Count, help)
}

const fn pages(name: &'static str, help: &'static str) -> Field {
    Field::counter(name, Unit::Pages, help)
}

const fn level(name: &'static str, help: &'static str) -> Field {
    Field::gauge(name, Unit::Pages, help)
}

const FIELDS: &[Field] = &[
    count("allocstall", "times a task entered direct reclaim because its node was short, all zones"),
    count("allocstall_dma", "entries into direct reclaim for allocations of zone DMA"),
    count("allocstall_dma32", "entries into direct reclaim for allocations of zone DMA32"),
    count("allocstall_normal", "entries into direct reclaim for allocations of zone Normal"),
    count("allocstall_movable", "entries into direct reclaim for allocations of zone Movable"),
    pages("pgscan_direct", "pages that tasks scanned in direct reclaim, cgroup limits aside"),
    pages("pgscan_kswapd", "pages that kswapd scanned"),
    pages("pgscan_proactive", "pages scanned because someone wrote to memory.reclaim of the root"),
    pages("pgsteal_direct", "pages that tasks freed in direct reclaim, cgroup limits aside"),
    pages("pgsteal_kswapd", "pages that kswapd freed"),
    pages("pgsteal_proactive", "pages freed because someone wrote to memory.reclaim of the root"),
    count(
        "pgscan_direct_throttle",
        "times a task in direct reclaim waited because reserves were below half of min",
    ),
    count("pageoutrun", "times kswapd balanced a node"),
    count("kswapd_low_wmark_hit_quickly", "times a node fell under low again soon after kswapd had finished"),
    count(
        "kswapd_high_wmark_hit_quickly",
        "times a node fell under high again soon after kswapd had finished",
    ),
    pages("kswapd_inodesteal", "page-cache pages that kswapd freed together with their inodes"),
    pages("pginodesteal", "page-cache pages that others freed together with their inodes"),
    count("slabs_scanned", "slab objects that reclaim looked at"),
    count("zone_reclaim_failed", "node-local reclaims that freed too little (vm.zone_reclaim_mode)"),
    count("drop_pagecache", "times the page cache was dropped through vm.drop_caches"),
    count("drop_slab", "times slab caches were dropped through vm.drop_caches"),
    count("oom_kill", "tasks that the out-of-memory killer ended, cgroup limits included"),
    count("compact_stall", "times a task compacted memory itself before its allocation (direct compaction)"),
    count("compact_fail", "direct compactions that made no page of the wanted order"),
    count("compact_success", "direct compactions that made a page of the wanted order"),
    count("compact_daemon_wake", "times kcompactd was woken"),
    pages("compact_migrate_scanned", "pages that compaction scanned for what to move"),
    pages("compact_free_scanned", "pages that compaction scanned for where to move it"),
    pages("pgmigrate_success", "pages moved for compaction, NUMA balance or on request"),
    pages("pgmigrate_fail", "pages that could not be moved"),
    count("pgfault", "page faults, minor and major"),
    count("pgmajfault", "page faults that waited for storage"),
    pages(
        "workingset_refault",
        "pages read again soon after reclaim had dropped them: the working set does not fit",
    ),
    pages("workingset_refault_anon", "of workingset_refault, anonymous pages (since 5.9)"),
    pages("workingset_refault_file", "of workingset_refault, file pages (since 5.9)"),
    pages(
        "workingset_restore",
        "refaulted pages that had been active before reclaim dropped them: thrashing",
    ),
    pages("workingset_restore_anon", "of workingset_restore, anonymous pages (since 5.9)"),
    pages("workingset_restore_file", "of workingset_restore, file pages (since 5.9)"),
    pages("pswpin", "pages read from swap"),
    pages("pswpout", "pages written to swap"),
    count("thp_fault_alloc", "huge pages allocated at a fault"),
    count("thp_fault_fallback", "faults that got small pages because there was no huge page"),
    count(
        "thp_fault_fallback_charge",
        "faults that got small pages because their cgroup had no room for a huge one",
    ),
    pages("numa_hit", "pages allocated on the node that was wanted"),
    pages("numa_miss", "pages allocated here though another node was wanted"),
    pages("numa_foreign", "pages wanted here but allocated on another node"),
    pages("numa_other", "pages allocated here by a task that ran on another node"),
    count("numa_pte_updates", "page-table entries that NUMA balancing marked to see who uses them"),
    count("numa_hint_faults", "faults taken because NUMA balancing had marked the page"),
    pages("numa_pages_migrated", "pages that NUMA balancing moved"),
    pages("balloon_inflate", "pages that the hypervisor took back through the balloon"),
    pages("balloon_deflate", "pages that the hypervisor gave back through the balloon"),
    pages("nr_vmscan_write", "pages that reclaim itself wrote out"),
    pages(
        "nr_vmscan_immediate_reclaim",
        "dirty pages that reclaim met at the end of the list and marked for freeing",
    ),
    pages("nr_throttled_written", "pages written while reclaimers waited for writeback (since 5.16)"),
    level("nr_free_pages", "free pages"),
    level("nr_dirty", "pages waiting to be written"),
    level("nr_writeback", "pages being written"),
    level("nr_dirty_threshold", "dirty pages at which writers are made to wait"),
    level("nr_slab_reclaimable", "pages of slab caches that reclaim can shrink"),
    level("nr_slab_unreclaimable", "pages of slab caches that it cannot"),
    level("nr_isolated_anon", "anonymous pages taken off their list by reclaim or compaction"),
    level("nr_isolated_file", "file pages taken off their list by reclaim or compaction"),
    level("nr_unevictable", "pages that reclaim must not touch (mlock, ramfs)"),
];

const N: usize = FIELDS.len();
const ALLOCSTALL: usize = index_of(FIELDS, "allocstall");
const REFAULT: usize = index_of(FIELDS, "workingset_refault");
const RESTORE: usize = index_of(FIELDS, "workingset_restore");

const STREAM: Stream = Stream::sampled(
    "vmstat",
    "reclaim, compaction, refaults, faults and swap of the host",
    &[SubjectKind::Host],
    FIELDS,
);

/// Reads `/proc/vmstat`.
pub static COLLECTOR: Collector = Collector {
    name: "vmstat",
    help: "reads /proc/vmstat for the host's direct reclaim, kswapd, compaction, refaults and swap",
    streams: &[STREAM],
    interval: None,
    settings: &[],
    build,
};

fn build(roots: &Roots, _: &Settings) -> Result<Built, Unavailable> {
    let file = KeptFile::open(roots.proc("vmstat")).map_err(unavailable)?;
    Ok(Built::Polled(Box::new(Vmstat { file, buf: Buf::new(), stream: Arc::new(STREAM) })))
}

struct Vmstat {
    file: KeptFile,
    buf: Buf,
    stream: Arc<Stream>,
}

impl Polled for Vmstat {
    fn collect(&mut self, pass: &mut Pass) -> Result<(), CollectError> {
        let values = self.file.parse(&mut self.buf, parse_vmstat)?;
        let mut batch = pass.batch(&self.stream);
        values.fill(&mut batch.row(Subject::Host), FIELDS);
        pass.batches.push(batch);
        Ok(())
    }
}

/// The fields of one reading of `/proc/vmstat`, in the stream's order.
///
/// Each line is a name, a space and a decimal number. Names that are no field are skipped, their numbers unread. Wrong is:
/// a line of another shape, a number over `u64`, a field that occurs twice, a sum that does not fit, and a file without any
/// field. The levels are sums of per-CPU parts, which some kernels print below zero, that is as numbers above `i64::MAX`:
/// those are absent.
pub fn parse_vmstat(bytes: &[u8]) -> Result<Values<N>, Malformed> {
    static NAMES: LazyLock<Names> = LazyLock::new(|| {
        Names::new(FIELDS.iter().zip(0..).filter_map(|(f, i)| match &f.name {
            std::borrow::Cow::Borrowed(name) => Some((*name, i)),
            std::borrow::Cow::Owned(_) => None,
        }))
    });
    let names = &*NAMES;
    let mut values = Values::default();
    for line in lines(bytes) {
        let (number, line) = line?;
        let Some(space) = line.iter().position(|b| *b == b' ') else {
            return Err(Malformed::expected(number, "a name and a number", line));
        };
        let (name, value) = line.split_at(space);
        let field = names.find(name);
        let sum = sum_of(name);
        if field.is_none() && sum.is_none() {
            continue;
        }
        let value = value.get(1..).unwrap_or_default();
        let value = dec(value).ok_or_else(|| Malformed::expected(number, "a number up to 2^64-1", value))?;
        if let Some(sum) = sum
            && !values.add(sum, value)
        {
            return Err(Malformed::expected(number, "a sum up to 2^64-1", line));
        }
        if let Some(i) = field {
            let below_zero =
                value > i64::MAX as u64 && FIELDS.get(i).is_some_and(|f| f.kind == FieldKind::Gauge);
            if !below_zero && !values.set(i, value) {
                return Err(Malformed::expected(number, "each name once", name));
            }
        }
    }
    if values.is_empty() {
        return Err(Malformed::new(1, "no known counter in the whole file"));
    }
    Ok(values)
}

/// The field to which a name's value is added besides its own: newer kernels have split these by zone or by type.
#[inline]
fn sum_of(name: &[u8]) -> Option<usize> {
    match name.first()? {
        b'a' if name.starts_with(b"allocstall_") => Some(ALLOCSTALL),
        b'w' => match name {
            b"workingset_refault_anon" | b"workingset_refault_file" => Some(REFAULT),
            b"workingset_restore_anon" | b"workingset_restore_file" => Some(RESTORE),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn get(v: &Values<N>, name: &str) -> Option<u64> {
        v.get(STREAM.field_index(name).unwrap())
    }

    #[test]
    fn splits_are_summed_and_older_names_stay() {
        let new = parse_vmstat(
            b"allocstall_dma 1\nallocstall_normal 20\nallocstall_device 300\nworkingset_refault_anon 5\n\
              workingset_refault_file 7\nunknown 99999999999999999999999\n",
        )
        .unwrap();
        assert_eq!(get(&new, "allocstall"), Some(321));
        assert_eq!(get(&new, "allocstall_normal"), Some(20));
        assert_eq!(get(&new, "workingset_refault"), Some(12));
        assert_eq!(get(&new, "workingset_restore"), None, "absent, not zero");
        let old = parse_vmstat(b"allocstall 4\nworkingset_refault 9\n").unwrap();
        assert_eq!((get(&old, "allocstall"), get(&old, "workingset_refault")), (Some(4), Some(9)));
        assert_eq!(get(&old, "workingset_refault_file"), None);
    }

    #[test]
    fn surprises_are_errors_with_their_line() {
        let check = |input: &[u8], expected: &str| {
            let e = parse_vmstat(input).unwrap_err().at("/p/vmstat".as_ref()).to_string();
            assert!(e.starts_with("/p/vmstat: line ") && e.contains(expected), "{e}");
        };
        check(b"", "no known counter");
        check(b"nonsense 1\n", "no known counter");
        check(b"pgfault 1\npswpin\n", "line 2: expected a name and a number, found `pswpin`");
        check(b"pgfault 12", "line 1: cut short");
        check(b"pgfault 18446744073709551616\n", "found `18446744073709551616`");
        check(b"pgfault -1\n", "found `-1`");
        check(b"pgfault \n", "found ``");
        check(b"pgfault 1\npgfault 2\n", "line 2: expected each name once");
        check(b"allocstall_dma 18446744073709551615\nallocstall_normal 1\n", "line 2: expected a sum");
        check(b"pgfault 1 2\n", "found `1 2`");
        check(b"pgfault \xff\x1b\n", "found `\\xff\\x1b`");
    }

    #[test]
    fn a_level_below_zero_is_absent() {
        let v = parse_vmstat(b"nr_dirty 18446744073709551613\npgfault 18446744073709551613\n").unwrap();
        assert_eq!((get(&v, "nr_dirty"), get(&v, "pgfault")), (None, Some(u64::MAX - 2)));
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse_vmstat(&bytes);
        }

        #[test]
        fn round_trip(values in proptest::collection::vec(proptest::option::of(0..1u64 << 60), N), split: bool, pgfault: u64) {
            // A kernel has either the sums or their parts.
            let is_part = |name: &str| sum_of(name.as_bytes()).is_some();
            let is_sum = |i: usize| [ALLOCSTALL, REFAULT, RESTORE].contains(&i);
            let value = |i: usize| match (&*FIELDS[i].name, split) {
                ("pgfault", _) => Some(pgfault),
                (name, false) if is_part(name) => None,
                (_, true) if is_sum(i) => None,
                _ => values[i],
            };
            let file: String = (0..N).filter_map(|i| Some(format!("{} {}\n", FIELDS[i].name, value(i)?))).collect();
            let parsed = parse_vmstat(file.as_bytes()).unwrap();
            for (i, field) in FIELDS.iter().enumerate() {
                let parts = || (0..N).filter(|p| sum_of(FIELDS[*p].name.as_bytes()) == Some(i)).filter_map(value).reduce(|a, b| a + b);
                let expected = if split && is_sum(i) { parts() } else { value(i) };
                prop_assert_eq!(parsed.get(i), expected, "{}", field.name);
            }
        }
    }
}
