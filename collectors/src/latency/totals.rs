//! The kernel's histograms by cgroup, read each interval: exact totals for streams `reclaim.totals` and `runq.totals`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use whystall_event::{Batch, SEC, Stamp, Stream, Subject};

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
}

struct Seen {
    hist: Hist,
    changed_ns: u64,
}

/// A cgroup's totals by kind, several ids of one path together.
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
        }
    }

    /// Reads all and makes the two batches.
    pub(super) fn read(
        &mut self,
        object: &mut Object,
        cpus: &[wire::Cpu],
        cgroups: &mut Cgroups,
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
            let subject = cgroups.path(controller, key.cgroup, 0).map(Subject::Cgroup);
            if is_runq {
                if let Some(subject) = subject {
                    let (total, last) = runq.entry(subject).or_default();
                    total.add(hist);
                    last.add(&recent);
                }
                continue;
            }
            for subject in [Some(Subject::Host), subject].into_iter().flatten() {
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
        [self.reclaim_rows(reclaim, &gone, at), self.runq_rows(runq, &gone, at)]
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

    fn reclaim_rows(&self, sums: BTreeMap<Subject, Sums>, gone: &[Subject], at: Stamp) -> Batch {
        use s::reclaim_totals as f;
        let mut batch = Batch::new(self.reclaim.clone(), at);
        for (subject, sums) in sums {
            let mut row = batch.row(subject);
            for (hist, count, time, max) in [
                (sums.direct, f::DIRECT_COUNT, f::DIRECT_TIME, f::DIRECT_MAX),
                (sums.memcg, f::MEMCG_COUNT, f::MEMCG_TIME, f::MEMCG_MAX),
                (sums.compact, f::COMPACT_COUNT, f::COMPACT_TIME, f::COMPACT_MAX),
            ] {
                let h = hist.unwrap_or_default();
                row.int(count, h.count).int(time, h.sum_ns).gauge(max, h.max_ns as f64);
            }
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
