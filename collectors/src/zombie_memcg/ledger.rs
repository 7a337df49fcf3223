//! Who made the zombies: pure arithmetic over what was removed where and how the host's count of dying cgroups moved.
//!
//! On v1 the kernel tells only how many dying cgroups the host has. A growth of that count is shared among the parents
//! by the children that were removed under each shortly before; a decrease takes from all in proportion.

use std::collections::{HashMap, VecDeque};

use whystall_event::SEC;

/// Dying cgroups that are freed within this time were only on their way: hundreds of rmdirs show for less than a second.
const SETTLE_NS: u64 = 3 * SEC;
/// Removals this old no longer explain a growth: the settling time, two slow passes and some.
const MEMORY_NS: u64 = 10 * SEC;
/// What a removal counts under a parent below which nothing is pinned: most such children were freed, but a zombie may
/// also be held by kernel memory alone.
const WITHOUT_PINS: f64 = 0.02;

/// The account of one host.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// Counts of dying cgroups of the last [`SETTLE_NS`], and when each was read.
    readings: VecDeque<(u64, u64)>,
    settled: Option<u64>,
    /// When, under which parent, how many children were removed.
    removals: VecDeque<(u64, u32, u64)>,
    /// Zombies by the parent they were removed from.
    suspected: HashMap<u32, f64>,
    /// Audited parents, and whether something is pinned below them.
    pins: HashMap<u32, bool>,
}

impl Ledger {
    /// Children of `parent` were removed.
    pub(crate) fn removed(&mut self, now_ns: u64, parent: u32, count: u64) {
        match self.removals.back_mut() {
            Some((at, p, n)) if *at == now_ns && *p == parent => *n += count,
            _ => self.removals.push_back((now_ns, parent, count)),
        }
    }

    /// A parent vanished; what it made now counts for the one above it.
    pub(crate) fn moved_up(&mut self, parent: u32, above: Option<u32>) {
        self.pins.remove(&parent);
        let amount = self.suspected.remove(&parent);
        if let (Some(above), Some(amount)) = (above, amount) {
            *self.suspected.entry(above).or_default() += amount;
        }
        match above {
            Some(above) => {
                self.removals.iter_mut().filter(|r| r.1 == parent).for_each(|r| r.1 = above);
            }
            None => self.removals.retain(|r| r.1 != parent),
        }
    }

    /// The host has `dying` dying cgroups now. Returns the settled count, the lowest of the last seconds, once those
    /// have been watched.
    pub(crate) fn counted(&mut self, now_ns: u64, dying: u64) -> Option<u64> {
        self.readings.push_back((now_ns, dying));
        let covered = self.readings.front().is_some_and(|r| now_ns.saturating_sub(r.0) >= SETTLE_NS);
        // The oldest reading kept is the last one at or before the window's beginning.
        while self.readings.get(1).is_some_and(|r| now_ns.saturating_sub(r.0) >= SETTLE_NS) {
            self.readings.pop_front();
        }
        while self.removals.front().is_some_and(|r| now_ns.saturating_sub(r.0) > MEMORY_NS) {
            self.removals.pop_front();
        }
        if !covered {
            return None;
        }
        let now = self.readings.iter().map(|r| r.1).min()?;
        if let Some(before) = self.settled {
            if now > before {
                self.share(now - before);
            } else if before > 0 {
                let kept = now as f64 / before as f64;
                self.suspected.values_mut().for_each(|v| *v *= kept);
                self.suspected.retain(|_, v| *v >= 0.01);
            }
        }
        self.settled = Some(now);
        self.settled
    }

    fn share(&mut self, grown: u64) {
        let weight = |parent: &u32| {
            if self.pins.get(parent) == Some(&false) { WITHOUT_PINS } else { 1.0 }
        };
        let all: f64 = self.removals.iter().map(|(_, parent, count)| *count as f64 * weight(parent)).sum();
        if all <= 0.0 {
            return;
        }
        for (_, parent, count) in &self.removals {
            // No more zombies than removals: the rest came from where nobody looked.
            let part = (*count as f64 * weight(parent) * grown as f64 / all).min(*count as f64);
            *self.suspected.entry(*parent).or_default() += part;
        }
    }

    /// Whether memory is known to be pinned below `parent`.
    pub(crate) fn audited(&mut self, parent: u32, pins: bool) {
        self.pins.insert(parent, pins);
    }

    /// The parents that removed most children lately, at most `most` of them.
    pub(crate) fn removers(&self, most: usize) -> Vec<u32> {
        let mut by_parent: HashMap<u32, u64> = HashMap::new();
        self.removals.iter().for_each(|(_, parent, count)| *by_parent.entry(*parent).or_default() += count);
        let mut all: Vec<(u64, u32)> = by_parent.into_iter().map(|(p, n)| (n, p)).collect();
        all.sort_unstable_by(|a, b| b.cmp(a));
        all.into_iter().map(|(_, p)| p).take(most).collect()
    }

    /// Children removed under `parent` in the last ten seconds.
    pub(crate) fn recent(&self, parent: u32) -> u64 {
        self.removals.iter().filter(|r| r.1 == parent).map(|r| r.2).sum()
    }

    /// Zombies that were probably made by removing children of `parent`.
    pub(crate) fn suspected(&self, parent: u32) -> f64 {
        self.suspected.get(&parent).copied().unwrap_or_default()
    }

    /// The parents under suspicion, the worst first.
    pub(crate) fn suspects(&self) -> Vec<u32> {
        let mut all: Vec<(u32, f64)> = self.suspected.iter().map(|(p, n)| (*p, *n)).collect();
        all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        all.into_iter().map(|(p, _)| p).collect()
    }
}

/// What the names of a parent's removed children have in common: runs that differ from job to job become `*`.
pub(crate) fn pattern(name: &str) -> String {
    let mut out = String::new();
    let mut rest = name;
    while !rest.is_empty() {
        let end = rest.find(['-', '_', '.', ':', '@']).unwrap_or(rest.len());
        let (word, tail) = rest.split_at(end);
        out.push_str(&vary(word));
        let mut chars = tail.chars();
        out.extend(chars.next());
        rest = chars.as_str();
    }
    while out.contains("*-*") {
        out = out.replace("*-*", "*");
    }
    out
}

fn vary(word: &str) -> String {
    if !word.bytes().any(|b| b.is_ascii_digit()) {
        return word.to_string();
    }
    let letters = word.trim_end_matches(|c: char| c.is_ascii_digit());
    let plain = !letters.is_empty() && letters.chars().all(char::is_alphabetic);
    // `job17` is a name and a number; `x7k2p` and `9a3c1e` are identifiers.
    if plain { format!("{letters}*") } else { "*".into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn patterns() {
        for (name, want) in [
            ("job17", "job*"),
            ("cron-28471-x7k2p", "cron-*"),
            ("pod1f2e3d4c-5b6a-7980-a1b2-c3d4e5f60718", "*"),
            ("backup.scope", "backup.scope"),
            ("run-r8f3a1.scope", "run-*.scope"),
            ("übung9", "übung*"),
            ("", ""),
        ] {
            assert_eq!(pattern(name), want, "{name}");
        }
    }

    #[test]
    fn a_burst_that_is_freed_at_once_is_no_growth() {
        let mut l = Ledger::default();
        let readings = [0, 0, 0, 0, 500, 0, 0, 0, 0];
        for (i, dying) in readings.into_iter().enumerate() {
            if dying > 0 {
                l.removed(i as u64 * SEC, 1, 500);
            }
            let settled = l.counted(i as u64 * SEC, dying);
            assert_eq!(settled, (i >= 3).then_some(0));
        }
        assert!(l.suspects().is_empty());
    }

    #[test]
    fn a_leak_names_its_parent_among_busy_ones() {
        let mut l = Ledger::default();
        // Parent 7 leaks 10 a second from second 5 on; parent 3 removed 2 a second before that and is done.
        let mut dying = 100;
        for s in 0..14u64 {
            if s < 3 {
                l.removed(s * SEC, 3, 2);
            } else if (5..9).contains(&s) {
                l.removed(s * SEC, 7, 10);
                dying += 10;
            }
            l.counted(s * SEC, dying);
        }
        assert_eq!(l.suspects().first(), Some(&7));
        assert!(l.suspected(7) > 30.0, "{}", l.suspected(7));
        assert!(l.suspected(3) < 8.0, "{}", l.suspected(3));
        // Half of them go; the parent is removed and its own parent inherits.
        let before = l.suspected(7);
        for s in 14..20 {
            l.counted(s * SEC, 70);
        }
        assert!((l.suspected(7) - before * 0.5).abs() < 1e-6);
        l.moved_up(7, Some(2));
        assert!((l.suspected(2) - before * 0.5).abs() < 1e-6);
        assert_eq!(l.suspected(7), 0.0);
    }

    #[test]
    fn what_is_pinned_tells_a_leak_from_mere_churn() {
        let mut l = Ledger::default();
        l.audited(1, false);
        l.audited(2, true);
        for s in 0..12u64 {
            l.removed(s * SEC, 1, 200);
            l.removed(s * SEC, 2, 5);
            l.counted(s * SEC, s * 5);
        }
        assert!(l.suspected(2) > l.suspected(1), "{} {}", l.suspected(2), l.suspected(1));
        assert_eq!(l.removers(1), [1]);
    }

    proptest! {
        #[test]
        fn nobody_is_suspected_of_more_than_there_is(
            steps in proptest::collection::vec((0u64..50, 0u32..4, 0u64..60), 1..200),
        ) {
            let mut l = Ledger::default();
            for (s, (dying, parent, removed)) in steps.into_iter().enumerate() {
                l.removed(s as u64 * SEC, parent, removed);
                let settled = l.counted(s as u64 * SEC, dying);
                let sum: f64 = l.suspects().into_iter().map(|p| l.suspected(p)).sum();
                prop_assert!(sum <= settled.unwrap_or(0) as f64 + 1e-6, "{} of {:?}", sum, settled);
                prop_assert!(l.removals.len() <= 12 && l.readings.len() <= 5);
            }
        }

        #[test]
        fn any_name_has_a_pattern(name in ".{0,60}") {
            prop_assert!(pattern(&name).len() <= name.len() + name.len() / 2 + 1);
        }
    }
}
