//! Whether a CPU quota was used up while a task waited: `nr_throttled` of its cgroup, compared with what it was before.
//! Pure.

use std::collections::HashMap;

use whystall_event::{MS, SEC};

/// Cgroups that are remembered; beyond that all are forgotten and learnt again.
const MOST: usize = 1024;
/// Values remembered a cgroup, and the least time between two of them.
const VALUES: usize = 8;
const APART: u64 = 250 * MS;
/// An older value says nothing about this wait.
const OLD: u64 = 10 * SEC;

/// What `nr_throttled` was, by cgroup.
#[derive(Debug, Default)]
pub(super) struct Throttles(HashMap<u64, Vec<(u64, u64)>>);

impl Throttles {
    /// Whether the counter moved between `begin` and `end`, at which it was `value`. Where no recent value from before
    /// is known, a cgroup that was ever throttled counts as throttled: better no culprit than an innocent one.
    pub(super) fn moved(&mut self, cgroup: u64, begin: u64, end: u64, value: u64) -> bool {
        if self.0.len() >= MOST && !self.0.contains_key(&cgroup) {
            self.0.clear();
        }
        let values = self.0.entry(cgroup).or_default();
        let before = values.iter().rev().find(|(t, _)| *t <= begin && begin - t <= OLD);
        let moved = match before {
            Some((_, v)) => value != *v,
            None => value > 0,
        };
        if values.last().is_none_or(|(t, _)| end.saturating_sub(*t) >= APART) {
            if values.len() == VALUES {
                values.remove(0);
            }
            values.push((end, value));
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_moved_during_the_wait() {
        let mut t = Throttles::default();
        assert!(!t.moved(1, 0, 10 * MS, 0), "never throttled");
        assert!(t.moved(2, 0, 10 * MS, 5), "unknown before");
        assert!(!t.moved(2, 20 * MS, 400 * MS, 5), "known and still");
        assert!(t.moved(2, 500 * MS, 600 * MS, 6));
        assert!(t.moved(2, 20 * SEC, 21 * SEC, 6), "too old to tell");
        for id in 10..10 + 2 * MOST as u64 {
            t.moved(id, 0, 0, 0);
        }
        assert!(t.0.len() <= MOST);
    }
}
