//! The kernel's histograms by cgroup, read each interval: exact totals for streams `reclaim.totals` and `runq.totals`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use whystall_event::{Batch, Row, SEC, Stamp, Stream, Subject};

use super::streams as s;
use crate::bpf::cgroups::{Cgroups, Controller};
use crate::bpf::object::Object;
use crate::bpf::wire::{self, Hist, HistKey};

/// Above this many histograms (the table holds 2048), those that stood still for [`IDLE`] are forgotten.
const CROWDED: usize = 1536;
const IDLE: u64 = 60 * SEC;

/// What was read before.
pub(super) struct Totals {
    reclaim: Arc<Stream>,
    runq: Arc<Stream>,
    before: HashMap<HistKey, Seen>,
    cpus_before: Vec<Hist>,
    /// By kind: what forgotten cgroups had, so that the host's totals never go back.
    forgotten: HashMap<u64, Hist>,
    /// Who had a row of `reclaim.totals` in the last reading, and when that was.
    reclaimers: BTreeSet<Subject>,
    read_ns: Option<u64>,
}

/// Which of the totals are watched; what is not has no value.
#[derive(Debug, Clone, Copy)]
pub(super) struct Watched {
    pub(super) direct: bool,
    pub(super) memcg: bool,
    pub(super) compact: bool,
}

struct Seen {
    hist: Hist,
    changed_ns: u64,
}

/// A cgroup's totals by kind, here and below.
#[derive(Default)]
struct Sums {
    direct: Option<Hist>,
    memcg: Option<Hist>,
    compact: Option<Hist>,
}

impl Sums {
    fn add(&mut self, kind: u64, hist: &Hist) {
        let slot = match u32::try_from(kind) {
            Ok(wire::RECLAIM) => &mut self.direct,
            Ok(wire::MEMCG_RECLAIM) => &mut self.memcg,
            Ok(wire::COMPACTION) => &mut self.compact,
            _ => return,
        };
        slot.get_or_insert_default().add(hist);
    }
}

impl Totals {
    pub(super) fn new() -> Totals {
        Totals {
            reclaim: Arc::new(s::reclaim_totals::STREAM),
            runq: Arc::new(s::runq_totals::STREAM),
            before: HashMap::new(),
            cpus_before: Vec::new(),
            forgotten: HashMap::new(),
            reclaimers: BTreeSet::new(),
            read_ns: None,
        }
    }

    /// Reads all and makes the two batches.
    pub(super) fn read(
        &mut self,
        object: &mut Object,
        cpus: &[wire::Cpu],
        cgroups: &mut Cgroups,
        watched: Watched,
        at: Stamp,
    ) -> [Batch; 2] {
        let now: Vec<(HistKey, Hist)> = object.hists().collect();
        let mut reclaim = BTreeMap::<Subject, Sums>::new();
        let mut runq = BTreeMap::<Subject, (Hist, Hist)>::new();
        let host = reclaim.entry(Subject::Host).or_default();
        for kind in [wire::RECLAIM, wire::MEMCG_RECLAIM, wire::COMPACTION] {
            let kind = u64::from(kind);
            host.add(kind, self.forgotten.get(&kind).unwrap_or(&Hist::default()));
        }
        for (key, hist) in &now {
            let recent = self.since(key, hist, at.boot_ns);
            let is_runq = key.kind == u64::from(wire::RUNQ);
            let controller = if is_runq { Controller::Cpu } else { Controller::Memory };
            let path = cgroups.path(controller, key.cgroup, 0);
            if is_runq {
                if let Some(path) = path {
                    let (total, last) = runq.entry(Subject::Cgroup(path)).or_default();
                    total.add(hist);
                    last.add(&recent);
                }
                continue;
            }
            reclaim.entry(Subject::Host).or_default().add(key.kind, hist);
            for subject in path.iter().flat_map(upwards) {
                reclaim.entry(subject).or_default().add(key.kind, hist);
            }
        }
        self.cpus_before.resize(cpus.len(), Hist::default());
        for ((i, cpu), before) in cpus.iter().enumerate().zip(&mut self.cpus_before) {
            if cpu.runq.count > 0 {
                let recent = cpu.runq.since(before);
                runq.insert(Subject::Cpu(u32::try_from(i).unwrap_or(u32::MAX)), (cpu.runq, recent));
                *before = cpu.runq;
            }
        }
        let gone = self.make_room(object, &now, cgroups, at.boot_ns);
        [self.reclaim_rows(reclaim, &gone, watched, at), self.runq_rows(runq, &gone, at)]
    }

    /// What came since the last reading.
    fn since(&mut self, key: &HistKey, hist: &Hist, now_ns: u64) -> Hist {
        let Some(seen) = self.before.get_mut(key) else {
            let seen = Seen { hist: *hist, changed_ns: now_ns };
            self.before.insert(*key, seen);
            return *hist;
        };
        let recent = hist.since(&seen.hist);
        if recent.count > 0 {
            *seen = Seen { hist: *hist, changed_ns: now_ns };
        }
        recent
    }

    /// Forgets idle cgroups where the table gets crowded, and returns those that can be named.
    fn make_room(
        &mut self,
        object: &mut Object,
        now: &[(HistKey, Hist)],
        cgroups: &mut Cgroups,
        at: u64,
    ) -> Vec<Subject> {
        let mut gone = Vec::new();
        if now.len() <= CROWDED {
            return gone;
        }
        for (key, hist) in now {
            if self.before.get(key).is_some_and(|seen| at.saturating_sub(seen.changed_ns) >= IDLE) {
                object.forget(key);
                self.before.remove(key);
                self.forgotten.entry(key.kind).or_default().add(hist);
                let is_runq = key.kind == u64::from(wire::RUNQ);
                let controller = if is_runq { Controller::Cpu } else { Controller::Memory };
                gone.extend(cgroups.path(controller, key.cgroup, 0).map(Subject::Cgroup));
            }
        }
        gone
    }

    fn reclaim_rows(
        &mut self,
        sums: BTreeMap<Subject, Sums>,
        gone: &[Subject],
        watched: Watched,
        at: Stamp,
    ) -> Batch {
        let mut batch = Batch::new(self.reclaim.clone(), at);
        let before = std::mem::replace(&mut self.reclaimers, sums.keys().cloned().collect());
        let read_ns = self.read_ns.replace(at.boot_ns);
        for (subject, sums) in sums {
            // Who has its first row had nothing at the reading before: said so, its first interval counts.
            if let Some(read_ns) = read_ns.filter(|_| !before.contains(&subject)) {
                put(&mut batch.row_at(subject.clone(), read_ns), &Sums::default(), watched);
            }
            put(&mut batch.row(subject), &sums, watched);
        }
        batch.gone.extend_from_slice(gone);
        batch
    }

    fn runq_rows(&self, hists: BTreeMap<Subject, (Hist, Hist)>, gone: &[Subject], at: Stamp) -> Batch {
        use s::runq_totals as f;
        let mut batch = Batch::new(self.runq.clone(), at);
        for (subject, (total, recent)) in hists {
            let mut row = batch.row(subject);
            row.int(f::COUNT, total.count).int(f::TIME, total.sum_ns).gauge(f::MAX, total.max_ns as f64);
            if let (Some(p50), Some(p99)) = (recent.quantile(0.5), recent.quantile(0.99)) {
                row.gauge(f::P50, p50).gauge(f::P99, p99);
            }
        }
        batch.gone.extend_from_slice(gone);
        batch
    }
}

fn put(row: &mut Row<'_>, sums: &Sums, watched: Watched) {
    use s::reclaim_totals as f;
    for (is_watched, hist, count, time, max) in [
        (watched.direct, &sums.direct, f::DIRECT_COUNT, f::DIRECT_TIME, f::DIRECT_MAX),
        (watched.memcg, &sums.memcg, f::MEMCG_COUNT, f::MEMCG_TIME, f::MEMCG_MAX),
        (watched.compact, &sums.compact, f::COMPACT_COUNT, f::COMPACT_TIME, f::COMPACT_MAX),
    ] {
        if is_watched {
            let h = hist.unwrap_or_default();
            row.int(count, h.count).int(time, h.sum_ns).gauge(max, h.max_ns as f64);
        }
    }
}

/// A cgroup and those above it, without the root: a limit that is met may be an ancestor's.
fn upwards(path: &Arc<str>) -> impl Iterator<Item = Subject> {
    let ends = path.match_indices('/').map(|(at, _)| at).filter(|at| *at > 0);
    ends.filter_map(|at| path.get(..at)).map(Subject::cgroup).chain([Subject::Cgroup(path.clone())])
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Watched = Watched { direct: true, memcg: true, compact: false };

    fn sums(subjects: &[&str]) -> BTreeMap<Subject, Sums> {
        let hist = Hist { count: 3, sum_ns: 3000, max_ns: 2000, ..Hist::default() };
        let of = |path: &&str| (Subject::cgroup(*path), Sums { memcg: Some(hist), ..Sums::default() });
        subjects.iter().map(of).collect()
    }

    fn rows(batch: &Batch) -> Vec<(String, u64, Option<f64>, Option<f64>)> {
        use s::reclaim_totals as f;
        let row = |r: whystall_event::RowRef<'_>| {
            (r.subject.to_string(), r.boot_ns, r.number(f::MEMCG_COUNT), r.number(f::COMPACT_COUNT))
        };
        batch.rows().map(row).collect()
    }

    #[test]
    fn a_first_row_comes_with_the_zero_before_it() {
        let mut totals = Totals::new();
        let mut read = |at: u64, who: &[&str]| {
            rows(&totals.reclaim_rows(sums(who), &[], ALL, Stamp { boot_ns: at, wall_ns: 0 }))
        };
        assert_eq!(read(10, &["/a"]), [("cgroup:/a".into(), 10, Some(3.0), None)]);
        let b = "cgroup:/b".to_string();
        let a = ("cgroup:/a".to_string(), 20, Some(3.0), None);
        assert_eq!(read(20, &["/a", "/b"]), [a, (b.clone(), 10, Some(0.0), None), (b, 20, Some(3.0), None)]);
    }

    #[test]
    fn ancestors_without_the_root() {
        let of = |path: &str| upwards(&path.into()).map(|s| s.to_string()).collect::<Vec<_>>();
        assert_eq!(of("/a/b c/d"), ["cgroup:/a", "cgroup:/a/b c", "cgroup:/a/b c/d"]);
        assert_eq!((of("/"), of("/a")), (vec!["cgroup:/".into()], vec!["cgroup:/a".into()]));
    }
}
