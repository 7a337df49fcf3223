//! Memory cgroups that were removed and are not freed yet, by parent: a ledger of what the kernel told. Pure.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use whystall_event::{MS, SEC};

/// A removed cgroup to which memory is still charged counts as a zombie after this long: what is charged ahead, and freed
/// with the cgroup, shows for less.
const SETTLED_CHARGED: u64 = 800 * MS;
/// One with nothing charged is merely on its way: hundreds of rmdirs show for less than a second on an idle host. What
/// holds it after this long is no page.
const SETTLED: u64 = 3 * SEC;
/// One that lived shorter was a job's, not a service's.
const BRIEF: u64 = 60 * SEC;
/// Living cgroups and zombies that are known one by one; those beyond are only counted.
const MOST: usize = 16_384;

#[derive(Debug, Clone)]
struct Zombie {
    parent: Arc<str>,
    name: Box<str>,
    removed_ns: u64,
    /// When it is no longer merely on its way.
    settled_ns: u64,
    brief: bool,
    by: Option<Arc<str>>,
}

/// The former children of one parent.
#[derive(Debug, Clone, Default)]
pub(super) struct Parent {
    /// Removed and not freed.
    pub(super) zombies: u64,
    /// Those of them that are not merely on their way.
    pub(super) settled: u64,
    /// Those of the settled that had lived for less than a minute.
    pub(super) brief: u64,
    /// The oldest that is known: when it was removed, its path, who made it.
    pub(super) oldest: Option<(u64, Arc<str>, Option<Arc<str>>)>,
    oldest_id: u64,
}

/// What a release means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Released {
    /// Since its removal, nanoseconds.
    pub(super) age_ns: Option<u64>,
    /// Who made it.
    pub(super) by: Option<Arc<str>>,
}

/// The ledger.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Living cgroups: who made them, and when.
    made: HashMap<u64, (Arc<str>, u64)>,
    zombies: HashMap<u64, Zombie>,
    parents: BTreeMap<Arc<str>, Parent>,
    /// Cgroups for which there was no room.
    pub(super) overflow: u64,
}

impl Ledger {
    /// A cgroup was made by a task of this name.
    pub(super) fn mkdir(&mut self, id: u64, by: &Arc<str>, now_ns: u64) {
        if self.made.len() >= MOST {
            // Some may be gone unseen; those alive are known again when they are made anew.
            self.made.clear();
            self.overflow += 1;
        }
        self.made.insert(id, (by.clone(), now_ns));
    }

    /// A cgroup was removed, with memory still `charged` to it or not; from now on it is a zombie.
    pub(super) fn rmdir(&mut self, id: u64, path: &str, now_ns: u64, charged: bool) {
        let (by, made_ns) = self.made.remove(&id).unzip();
        if self.zombies.len() >= MOST {
            self.overflow += 1;
            return;
        }
        let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
        let parent: Arc<str> = if above.is_empty() { "/".into() } else { above.into() };
        let entry = self.parents.entry(parent.clone()).or_default();
        entry.zombies += 1;
        if entry.oldest.is_none() {
            entry.oldest = Some((now_ns, path.into(), by.clone()));
            entry.oldest_id = id;
        }
        let settled_ns = now_ns + if charged { SETTLED_CHARGED } else { SETTLED };
        let brief = made_ns.is_some_and(|made| now_ns.saturating_sub(made) < BRIEF);
        let zombie = Zombie { parent, name: name.into(), removed_ns: now_ns, settled_ns, brief, by };
        self.zombies.insert(id, zombie);
    }

    /// A cgroup was freed.
    pub(super) fn release(&mut self, id: u64, now_ns: u64) -> Released {
        let Some(zombie) = self.zombies.remove(&id) else {
            // Removed before we began, or there was no room.
            let by = self.made.remove(&id).map(|(by, _)| by);
            return Released { age_ns: None, by };
        };
        if let Some(parent) = self.parents.get_mut(&zombie.parent) {
            parent.zombies = parent.zombies.saturating_sub(1);
            if parent.oldest_id == id {
                parent.oldest = None;
            }
        }
        Released { age_ns: Some(now_ns.saturating_sub(zombie.removed_ns)), by: zombie.by }
    }

    /// The parents that have zombies, and once more those that just lost the last; these are forgotten.
    pub(super) fn take_parents(&mut self, now_ns: u64) -> Vec<(Arc<str>, Parent)> {
        self.find_oldest();
        self.parents.values_mut().for_each(|p| (p.settled, p.brief) = (0, 0));
        for z in self.zombies.values().filter(|z| now_ns >= z.settled_ns) {
            if let Some(parent) = self.parents.get_mut(&z.parent) {
                parent.settled += 1;
                parent.brief += u64::from(z.brief);
            }
        }
        let all: Vec<_> = self.parents.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        self.parents.retain(|_, p| p.zombies > 0);
        all
    }

    /// Forgets all zombies, because some releases were not seen, and returns the parents that had some.
    pub(super) fn forget_zombies(&mut self) -> Vec<Arc<str>> {
        self.zombies.clear();
        std::mem::take(&mut self.parents).into_keys().collect()
    }

    /// Looks for the oldest zombie of parents whose oldest was freed.
    fn find_oldest(&mut self) {
        if !self.parents.values().any(|p| p.oldest.is_none() && p.zombies > 0) {
            return;
        }
        for (id, z) in &self.zombies {
            let Some(parent) = self.parents.get_mut(&z.parent) else { continue };
            // Only those that lost it have to be compared; the others keep what they have, which is older.
            if parent.oldest.as_ref().is_none_or(|o| z.removed_ns < o.0) {
                let path = format!("{}/{}", z.parent.trim_end_matches('/'), z.name);
                parent.oldest = Some((z.removed_ns, path.into(), z.by.clone()));
                parent.oldest_id = *id;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life() {
        let mut l = Ledger::default();
        let runc: Arc<str> = "runc".into();
        l.mkdir(10, &runc, 0);
        l.mkdir(11, &runc, 0);
        l.rmdir(10, "/jobs/a", 1000, false);
        l.rmdir(11, "/jobs/b", 2000, false);
        let p = l.take_parents(SETTLED + 1500);
        assert_eq!((p.len(), p[0].0.as_ref(), p[0].1.zombies, p[0].1.settled), (1, "/jobs", 2, 1));
        assert_eq!(p[0].1.brief, 1);
        assert_eq!(p[0].1.oldest.as_ref().unwrap().1.as_ref(), "/jobs/a");
        l.rmdir(12, "/jobs/c", 3000, true);
        assert_eq!(l.take_parents(SETTLED_CHARGED + 3000)[0].1.settled, 1);
        l.release(10, 4000);
        assert_eq!(l.take_parents(0)[0].1.oldest.as_ref().unwrap().1.as_ref(), "/jobs/b");
        assert_eq!(l.release(11, 5000), Released { age_ns: Some(3000), by: Some(runc.clone()) });
        assert_eq!(l.release(12, 5000).age_ns, Some(2000));
        l.rmdir(14, "/other/x", 1, true);
        assert_eq!(l.forget_zombies(), ["/jobs".into(), "/other".into()]);
        assert!(l.take_parents(0).is_empty() && l.release(14, 2).age_ns.is_none());
    }

    #[test]
    fn a_service_is_not_brief_and_neither_is_one_of_unknown_age() {
        let mut l = Ledger::default();
        l.mkdir(10, &"systemd".into(), 0);
        l.rmdir(10, "/a", BRIEF, true);
        l.rmdir(11, "/b", BRIEF, true);
        let p = &l.take_parents(BRIEF + SETTLED)[0].1;
        assert_eq!((p.settled, p.brief), (2, 0));
    }

    #[test]
    fn a_parent_without_zombies_is_told_once() {
        let mut l = Ledger::default();
        l.rmdir(10, "/jobs/a", 1000, true);
        l.release(10, 2000);
        assert_eq!(l.take_parents(0)[0].1.zombies, 0);
        assert!(l.take_parents(0).is_empty());
        assert_eq!(l.release(13, 1), Released { age_ns: None, by: None });
    }

    #[test]
    fn room_is_bounded_and_overflow_counted() {
        let mut l = Ledger::default();
        for id in 0..MOST as u64 + 5 {
            l.rmdir(id, "/x", 0, true);
        }
        assert_eq!((l.zombies.len(), l.overflow), (MOST, 5));
    }
}
