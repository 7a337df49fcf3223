//! Which lines of `memory.stat` and `memory.events` become which fields.

use super::f;
use crate::cgroup::parse;

/// Appends the fields found in a `memory.stat`. v1 lists the cgroup's own numbers and, as `total_…`, those including all
/// below, which is what v2 lists; of v1 only the latter are taken.
pub(crate) fn stat(bytes: &[u8], v1: bool, out: &mut Vec<(usize, u64)>) {
    for (key, value) in parse::flat_keyed(bytes) {
        let field = if v1 { key.strip_prefix(b"total_").and_then(v1_total) } else { v2_line(key) };
        out.extend(field.map(|f| (f, value)));
    }
}

fn v1_total(key: &[u8]) -> Option<usize> {
    Some(match key {
        b"rss" => f::ANON,
        b"cache" => f::FILE,
        b"shmem" => f::SHMEM,
        b"dirty" => f::DIRTY,
        b"writeback" => f::WRITEBACK,
        b"pgfault" => f::PGFAULT,
        b"pgmajfault" => f::PGMAJFAULT,
        b"workingset_refault_anon" => f::REFAULT_ANON,
        b"workingset_refault_file" | b"workingset_refault" => f::REFAULT_FILE,
        _ => return None,
    })
}

fn v2_line(key: &[u8]) -> Option<usize> {
    Some(match key {
        b"anon" => f::ANON,
        b"file" => f::FILE,
        b"shmem" => f::SHMEM,
        b"file_dirty" => f::DIRTY,
        b"file_writeback" => f::WRITEBACK,
        b"slab" => f::SLAB,
        b"kernel" => f::KERNEL,
        b"pgscan" => f::PGSCAN,
        b"pgsteal" => f::PGSTEAL,
        b"pgscan_direct" => f::PGSCAN_DIRECT,
        b"pgsteal_direct" => f::PGSTEAL_DIRECT,
        b"pgscan_kswapd" => f::PGSCAN_KSWAPD,
        b"pgfault" => f::PGFAULT,
        b"pgmajfault" => f::PGMAJFAULT,
        b"workingset_refault_anon" => f::REFAULT_ANON,
        b"workingset_refault_file" | b"workingset_refault" => f::REFAULT_FILE,
        b"workingset_restore_file" | b"workingset_restore" => f::RESTORE_FILE,
        _ => return None,
    })
}

/// Appends the fields found in a `memory.events` (v2).
pub(crate) fn events(bytes: &[u8], out: &mut Vec<(usize, u64)>) {
    out.extend(parse::flat_keyed(bytes).filter_map(|(key, value)| {
        let field = match key {
            b"low" => f::EVENTS_LOW,
            b"high" => f::EVENTS_HIGH,
            b"max" => f::EVENTS_MAX,
            b"oom" => f::EVENTS_OOM,
            b"oom_kill" => f::EVENTS_OOM_KILL,
            _ => return None,
        };
        Some((field, value))
    }));
}

/// Appends what `memory.events.local` (v2) says of the cgroup's own limits.
pub(crate) fn own_events(bytes: &[u8], out: &mut Vec<(usize, u64)>) {
    out.extend(parse::flat_keyed(bytes).filter_map(|(key, value)| match key {
        b"high" => Some((f::OWN_HIGH, value)),
        b"max" => Some((f::OWN_MAX, value)),
        _ => None,
    }));
}

/// The same from the events of a cgroup without children.
pub(crate) fn own(out: &mut Vec<(usize, u64)>) {
    let of = |field| out.iter().find(|v| v.0 == field).map(|v| v.1);
    let (high, max) = (of(f::EVENTS_HIGH), of(f::EVENTS_MAX));
    out.extend(high.map(|n| (f::OWN_HIGH, n)));
    out.extend(max.map(|n| (f::OWN_MAX, n)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_totals_of_v1() {
        let mut out = Vec::new();
        stat(b"cache 1\nshmem 2\npgfault 3\ntotal_cache 10\ntotal_pgfault 30\n", true, &mut out);
        assert_eq!(out, [(f::FILE, 10), (f::PGFAULT, 30)]);
    }

    #[test]
    fn names_of_v2_across_versions() {
        let mut out = Vec::new();
        stat(b"anon 1\nworkingset_refault 5\nfile_thp 9\npgscan_direct 7\n", false, &mut out);
        assert_eq!(out, [(f::ANON, 1), (f::REFAULT_FILE, 5), (f::PGSCAN_DIRECT, 7)]);
        out.clear();
        events(b"low 0\nhigh 0\nmax 12\noom 1\noom_kill 1\noom_group_kill 0\n", &mut out);
        assert_eq!(out.len(), 5);
        assert!(out.contains(&(f::EVENTS_MAX, 12)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300), v1: bool) {
            let mut out = Vec::new();
            stat(&bytes, v1, &mut out);
            events(&bytes, &mut out);
            own_events(&bytes, &mut out);
            own(&mut out);
        }
    }
}
