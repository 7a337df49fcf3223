//! How much memory removed children pin below a parent, from the statistics of those that live.
//!
//! A parent's hierarchical page cache includes that of its dying children. What is neither its own nor in a living child
//! is pinned by zombies: `total_cache − cache − Σ children's total_cache` on v1, the same with `shmem`. v2 has no numbers
//! of a cgroup alone; they are zero wherever the memory controller is enabled for the children, as tasks then may only
//! live below.

use crate::cgroup::parse;

/// Page cache and shared memory, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Cache {
    pub(crate) cache: u64,
    pub(crate) shmem: u64,
}

/// A cgroup's own cache and that including all below, from `memory.stat`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) own: Cache,
    pub(crate) total: Cache,
}

/// Reads the cache lines of a `memory.stat`. On v2 `own` is zero: see the module's text.
pub(crate) fn parse_stat(bytes: &[u8]) -> Stat {
    let mut s = Stat::default();
    let (mut v1_shmem, mut is_v1) = (0, false);
    for (key, value) in parse::flat_keyed(bytes) {
        match key {
            b"cache" => s.own.cache = value,
            b"shmem" => v1_shmem = value,
            b"total_cache" => (s.total.cache, is_v1) = (value, true),
            b"total_shmem" => s.total.shmem = value,
            b"file" => s.total.cache = value,
            _ => {}
        }
    }
    // The line has the same name in both versions: of the cgroup alone on v1, of all below on v2.
    let shmem = if is_v1 { &mut s.own.shmem } else { &mut s.total.shmem };
    *shmem = v1_shmem;
    s
}

/// What is pinned below a parent. The files are read one after the other, so a cache that moves meanwhile shows as a
/// small error; it is never negative.
pub(crate) fn pinned(parent: Stat, children: impl Iterator<Item = Stat>) -> Cache {
    let mut rest = Cache {
        cache: parent.total.cache.saturating_sub(parent.own.cache),
        shmem: parent.total.shmem.saturating_sub(parent.own.shmem),
    };
    for child in children {
        rest.cache = rest.cache.saturating_sub(child.total.cache);
        rest.shmem = rest.shmem.saturating_sub(child.total.shmem);
    }
    rest
}

/// The host's memory cgroups at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) live: u64,
    pub(crate) dying: u64,
}

/// `cgroup.stat` (v2).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct CgroupStat {
    pub(crate) known: bool,
    pub(crate) live: u64,
    pub(crate) dying: u64,
}

/// Parses `cgroup.stat`; counts of the memory controller replace those of all cgroups where the kernel has them.
pub(crate) fn parse_cgroup_stat(bytes: &[u8]) -> CgroupStat {
    let get = |key: &[u8]| parse::value_of(bytes, key);
    let live = get(b"nr_subsys_memory").map(|n| n.saturating_sub(1)).or_else(|| get(b"nr_descendants"));
    let dying = get(b"nr_dying_subsys_memory").or_else(|| get(b"nr_dying_descendants"));
    CgroupStat { known: dying.is_some(), live: live.unwrap_or_default(), dying: dying.unwrap_or_default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn both_versions() {
        let v1 = parse_stat(b"cache 10\nshmem 1\ntotal_cache 100\ntotal_shmem 20\n");
        assert_eq!(v1, Stat { own: Cache { cache: 10, shmem: 1 }, total: Cache { cache: 100, shmem: 20 } });
        let v2 = parse_stat(b"anon 5\nfile 70\nshmem 7\n");
        assert_eq!(v2, Stat { own: Cache::default(), total: Cache { cache: 70, shmem: 7 } });
        assert_eq!(pinned(v1, [v2].into_iter()), Cache { cache: 20, shmem: 12 });
        assert_eq!(pinned(v2, [v1, v1].into_iter()), Cache::default());
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            parse_stat(&bytes);
        }

        #[test]
        fn what_zombies_hold_is_found(own in 0u64..1 << 40, live in proptest::collection::vec(0u64..1 << 40, 0..20), dead in 0u64..1 << 40) {
            let total = own + live.iter().sum::<u64>() + dead;
            let stat = |own, total| Stat { own: Cache { cache: own, shmem: 0 }, total: Cache { cache: total, shmem: 0 } };
            let found = pinned(stat(own, total), live.iter().map(|l| stat(*l, *l)));
            prop_assert_eq!(found.cache, dead);
        }
    }
}
