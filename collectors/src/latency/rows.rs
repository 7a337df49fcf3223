//! Events to rows: gives names to what an event carries as numbers, and fills the batches of its stream.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use whystall_event::{Batch, SEC, Stamp, Stream, Subject};

use super::culprits::{culprits, is_rt};
use super::names::{kind_of, lock_type, throttle_reason, vector};
use super::probes::{self, PROBES};
use super::quota::Throttles;
use super::streams as s;
use super::zombies::Ledger;
use crate::Roots;
use crate::bpf::cgroups::{Cgroups, Controller};
use crate::bpf::classify::{Described, Taken, describe};
use crate::bpf::kallsyms::Symbols;
use crate::bpf::object;
use crate::bpf::wire::{self, Head, Irq, Life, Runq, Stack};

/// Culprits named in one text.
const NAMED: usize = 5;
/// After failing to find names for addresses, the symbols are read again at most this often: modules come and go.
const SYMBOLS_AGAIN: u64 = 60 * SEC;
/// The same at first after finding a BPF program where the kernel was held; twice as long each time.
const PROGRAMS_AGAIN: u64 = SEC;

/// A task that held a CPU.
#[derive(Debug, Clone, Copy)]
struct Hold {
    tgid: u32,
    kind: &'static str,
    begin: u64,
    /// So far, or for good.
    end: u64,
    over: bool,
}

/// Makes rows.
pub(super) struct Rows {
    streams: Vec<Arc<Stream>>,
    batches: Vec<Batch>,
    /// Events by probe since the start.
    pub(super) events: [u64; PROBES.len()],
    /// Events that were not understood.
    pub(super) malformed: u64,
    pub(super) cgroups: Cgroups,
    pub(super) ledger: Ledger,
    throttles: Throttles,
    /// The newest hold that was told, by CPU.
    holds: HashMap<u32, Hold>,
    symbols: Option<Symbols>,
    symbols_read: u64,
    programs_again: u64,
    kallsyms: PathBuf,
}

impl Rows {
    pub(super) fn new(roots: &Roots, at: Stamp) -> Rows {
        let streams: Vec<_> = PROBES.iter().map(|p| Arc::new(p.stream.clone())).collect();
        Rows {
            batches: streams.iter().map(|s| Batch::new(s.clone(), at)).collect(),
            streams,
            events: [0; PROBES.len()],
            malformed: 0,
            cgroups: Cgroups::new(roots),
            ledger: Ledger::default(),
            throttles: Throttles::default(),
            holds: HashMap::new(),
            symbols: None,
            symbols_read: 0,
            programs_again: PROGRAMS_AGAIN,
            kallsyms: roots.proc("kallsyms"),
        }
    }

    /// The batch of a probe's events so far, replaced by an empty one. `at` is up to when events were read.
    pub(super) fn take(&mut self, probe: usize, at: Stamp) -> Option<Batch> {
        let stream = self.streams.get(probe)?;
        let mut batch = std::mem::replace(self.batches.get_mut(probe)?, Batch::new(stream.clone(), at));
        batch.at = at;
        Some(batch)
    }

    /// Whether a probe has rows that were not taken.
    pub(super) fn has_rows(&self, probe: usize) -> bool {
        self.batches.get(probe).is_some_and(|b| !b.is_empty())
    }

    /// Takes an event as the kernel wrote it.
    pub(super) fn event(&mut self, bytes: &[u8]) {
        if self.try_event(bytes).is_none() {
            self.malformed += 1;
        }
    }

    fn try_event(&mut self, bytes: &[u8]) -> Option<()> {
        let head = wire::read::<Head>(bytes)?;
        let probe = PROBES.iter().position(|p| p.kinds.contains(&head.kind))?;
        match head.kind {
            wire::RECLAIM | wire::MEMCG_RECLAIM | wire::COMPACTION | wire::THROTTLED => {
                self.memory(probe, &head)
            }
            wire::RUNQ => self.runq(&wire::read(bytes)?),
            wire::NOSCHED => self.nosched(&head, Some(&wire::read(bytes)?)),
            wire::NOSCHED_END => self.nosched(&head, None),
            wire::SOFTIRQ_DELAY | wire::SOFTIRQ_RUN | wire::SOFTIRQ_PENDING => {
                self.softirq(&wire::read(bytes)?)
            }
            wire::IRQ => self.irq(&wire::read(bytes)?),
            wire::IRQOFF => self.irqoff(&wire::read(bytes)?),
            wire::LOCK => self.lock(&wire::read(bytes)?),
            _ => self.life(&wire::read(bytes)?)?,
        }
        self.events[probe] += 1;
        Some(())
    }

    /// A row about each subject, filled alike.
    fn put(
        &mut self,
        probe: usize,
        boot_ns: u64,
        subjects: impl IntoIterator<Item = Subject>,
        fill: impl Fn(&mut whystall_event::Row<'_>),
    ) {
        if let Some(batch) = self.batches.get_mut(probe) {
            for subject in subjects {
                fill(&mut batch.row_at(subject, boot_ns));
            }
        }
    }

    /// Reclaim, compaction and throttling in reclaim. The perf level makes its events here, too.
    pub(super) fn memory(&mut self, probe: usize, h: &Head) {
        let cgroup = self.cgroups.path(Controller::Memory, h.mem_cgroup, h.pid);
        let comm = wire::string(&h.comm);
        let subjects = cgroup.clone().map(Subject::Cgroup).into_iter().chain([Subject::Host]);
        self.put(probe, h.boot_ns, subjects, |row| {
            // All four streams begin with the same three fields.
            row.int(s::reclaim_direct::DURATION, h.dur_ns).text(s::reclaim_direct::COMM, comm.as_str());
            if let Some(c) = &cgroup {
                row.text(s::reclaim_direct::CGROUP, c.clone());
            }
            match probe {
                probes::RECLAIM_THROTTLED => {
                    row.text(s::reclaim_throttled::REASON, throttle_reason(h.aux));
                }
                probes::COMPACTION => {
                    row.gauge(s::compaction_direct::PID, f64::from(h.pid))
                        .gauge(s::compaction_direct::CPU, f64::from(h.cpu));
                    if h.aux < 64 {
                        row.gauge(s::compaction_direct::ORDER, h.aux as f64);
                    }
                }
                _ => {
                    row.gauge(s::reclaim_direct::PID, f64::from(h.pid))
                        .gauge(s::reclaim_direct::CPU, f64::from(h.cpu));
                }
            }
        });
    }

    fn runq(&mut self, e: &Runq) {
        let h = &e.head;
        let found = culprits(&e.runs, e.clock, h.dur_ns);
        let explained: f64 = found.iter().map(|c| c.share).sum();
        let named: Vec<String> = found
            .iter()
            .take(NAMED)
            .map(|c| format!("{}[{}] {:.0} %", wire::string(&c.comm), c.pid, c.share * 100.0))
            .collect();
        let named = named.join(", ");
        let cgroup = self.cgroups.path(Controller::Cpu, h.cpu_cgroup, h.pid);
        let first = found.first();
        let culprit_cgroup = first.and_then(|c| self.cgroups.path(Controller::Cpu, c.cgroup, c.pid));
        let begin = h.boot_ns.saturating_sub(h.dur_ns);
        // Every quota is looked at, so that each is known the next time.
        let mut used_up = None;
        for q in e.quotas.iter().filter(|q| q.cgroup != 0) {
            if self.throttles.moved(q.cgroup, begin, h.boot_ns, q.throttled) {
                used_up = Some(q.cgroup);
            }
        }
        let nearest = e.quotas.first().map(|q| q.cgroup).filter(|c| *c != 0);
        let (quota, throttled) = (nearest.is_some(), used_up.is_some());
        let owner = used_up.or(nearest).and_then(|id| self.cgroups.path(Controller::Cpu, id, 0));
        let rt_share: f64 = found.iter().filter(|c| c.rt).map(|c| c.share).sum();
        let behind = if throttled {
            "quota"
        } else if rt_share >= 0.5 {
            // Real-time tasks that take turns among themselves (SCHED_RR) are as they were asked to be.
            if is_rt(h.policy) { "peers" } else { "rt" }
        } else if self.held_in_kernel(h.cpu, begin, h.boot_ns) {
            "kernel"
        } else {
            "others"
        };
        let comm = wire::string(&h.comm);
        // Who owns the quota hears of those who wait for it.
        let above = owner.clone().filter(|o| throttled && cgroup.as_ref() != Some(o));
        let subjects = [Subject::Cpu(h.cpu)]
            .into_iter()
            .chain(cgroup.clone().map(Subject::Cgroup))
            .chain(above.map(Subject::Cgroup));
        self.put(probes::RUNQ, h.boot_ns, subjects, |row| {
            use s::runq as f;
            row.int(f::DELAY, h.dur_ns)
                .text(f::COMM, comm.as_str())
                .gauge(f::PID, f64::from(h.pid))
                .gauge(f::QUOTA, f64::from(u8::from(quota)))
                .gauge(f::THROTTLED, f64::from(u8::from(throttled)))
                .gauge(f::RT_SHARE, rt_share.min(1.0))
                .text(f::BEHIND, behind)
                .gauge(f::ALLOWED, f64::from(e.allowed))
                .gauge(f::CPU, f64::from(h.cpu))
                .gauge(f::UNEXPLAINED, (1.0 - explained).clamp(0.0, 1.0));
            if let Some(c) = &cgroup {
                row.text(f::CGROUP, c.clone());
            }
            if let Some(c) = &owner {
                row.text(f::QUOTA_CGROUP, c.clone());
            }
            if let Some(c) = first {
                row.text(f::CULPRIT, wire::string(&c.comm))
                    .gauge(f::CULPRIT_PID, f64::from(c.pid))
                    .gauge(f::CULPRIT_SHARE, c.share)
                    .gauge(f::CULPRIT_RT, f64::from(u8::from(c.rt)))
                    .text(f::CULPRITS, named.as_str());
            }
            if let Some(c) = &culprit_cgroup {
                row.text(f::CULPRIT_CGROUP, c.clone());
            }
        });
    }

    fn nosched(&mut self, h: &Head, stack: Option<&Stack>) {
        let (rt, kthread) = (is_rt(h.policy), h.flags & wire::KTHREAD != 0);
        let described = stack.map(|e| self.describe(e, Taken::InTimer));
        let begin = h.boot_ns.saturating_sub(h.dur_ns);
        let hold = match (&described, self.holds.get(&h.cpu)) {
            // The scheduler could have taken the CPU, had it wanted to.
            (Some(d), _) if !rt && d.what == "user" => return,
            (Some(d), _) => {
                Hold { tgid: h.tgid, kind: kind_of(d.what, rt, kthread), begin, end: h.boot_ns, over: false }
            }
            // Only the end of a hold that was told is told.
            (None, Some(told)) if told.tgid == h.tgid && !told.over => {
                Hold { begin, end: h.boot_ns, over: true, ..*told }
            }
            (None, _) => return,
        };
        self.holds.insert(h.cpu, hold);
        let cgroup = self.cgroups.path(Controller::Cpu, h.cpu_cgroup, h.tgid);
        let comm = wire::string(&h.comm);
        self.put(probes::NOSCHED, h.boot_ns, [Subject::Cpu(h.cpu)], |row| {
            use s::nosched as f;
            row.int(f::DURATION, h.dur_ns)
                .text(f::PHASE, if stack.is_some() { "running" } else { "ended" })
                .text(f::KIND, hold.kind)
                .text(f::COMM, comm.as_str())
                .gauge(f::PID, f64::from(h.tgid))
                .gauge(f::RT, f64::from(u8::from(rt)))
                .gauge(f::KTHREAD, f64::from(u8::from(kthread)));
            if stack.is_some() {
                row.gauge(f::RUNNABLE, h.aux as f64);
            }
            if let Some(d) = &described {
                row.text(f::WHAT, d.what).text(f::STACK, d.stack.as_str());
            }
            if let Some(c) = &cgroup {
                row.text(f::CGROUP, c.clone());
            }
        });
    }

    /// Whether a task that did not leave the kernel held the CPU for half of that time.
    fn held_in_kernel(&self, cpu: u32, begin: u64, end: u64) -> bool {
        self.holds.get(&cpu).is_some_and(|hold| {
            let both = hold.end.min(end).saturating_sub(hold.begin.max(begin));
            matches!(hold.kind, "kernel" | "kthread" | "softirq") && both >= end.saturating_sub(begin) / 2
        })
    }

    fn softirq(&mut self, e: &Stack) {
        let h = &e.head;
        let (field, taken) = match h.kind {
            wire::SOFTIRQ_DELAY => (s::softirq::DELAY, Taken::AtSoftirqEntry),
            wire::SOFTIRQ_RUN => (s::softirq::RUN, Taken::InSoftirq),
            _ => (s::softirq::PENDING, Taken::InTimer),
        };
        let mut d = self.describe(e, taken);
        if h.kind == wire::SOFTIRQ_RUN {
            // The handler has returned: the vector tells what it was.
            d.what = if vector(h.aux) == "NET_RX" { "softirq_net_rx" } else { "softirq" };
        }
        let comm = wire::string(&h.comm);
        self.put(probes::SOFTIRQ, h.boot_ns, [Subject::Cpu(h.cpu)], |row| {
            use s::softirq as f;
            row.int(field, h.dur_ns)
                .text(f::VECTOR, vector(h.aux))
                .text(f::COMM, comm.as_str())
                .gauge(f::PID, f64::from(h.tgid))
                .gauge(f::RT, f64::from(u8::from(is_rt(h.policy))))
                .text(f::WHAT, d.what)
                .text(f::STACK, d.stack.as_str());
        });
    }

    fn irq(&mut self, e: &Irq) {
        let h = &e.head;
        self.put(probes::IRQ, h.boot_ns, [Subject::Cpu(h.cpu)], |row| {
            row.int(s::irq::RUN, h.dur_ns)
                .text(s::irq::NAME, wire::string(&e.name))
                .gauge(s::irq::IRQ, h.aux as f64);
        });
    }

    fn irqoff(&mut self, e: &Stack) {
        let h = &e.head;
        let d = self.describe(e, Taken::InTimer);
        let comm = wire::string(&h.comm);
        self.put(probes::IRQOFF, h.boot_ns, [Subject::Cpu(h.cpu)], |row| {
            row.int(s::irqoff::DURATION, h.dur_ns)
                .text(s::irqoff::STACK, d.stack.as_str())
                .text(s::irqoff::WHAT, d.what)
                .text(s::irqoff::COMM, comm.as_str())
                .gauge(s::irqoff::PID, f64::from(h.tgid));
        });
    }

    fn lock(&mut self, e: &Stack) {
        let h = &e.head;
        let d = self.describe(e, Taken::InSoftirq);
        let comm = wire::string(&h.comm);
        let cgroup = self.cgroups.path(Controller::Cpu, h.cpu_cgroup, h.tgid);
        self.put(probes::LOCK, h.boot_ns, [Subject::Cpu(h.cpu)], |row| {
            use s::lock as f;
            row.int(f::DURATION, h.dur_ns)
                .text(f::TYPE, lock_type(h.aux))
                .text(f::COMM, comm.as_str())
                .gauge(f::PID, f64::from(h.tgid))
                .text(f::WHAT, d.what)
                .text(f::STACK, d.stack.as_str());
            if let Some(c) = &cgroup {
                row.text(f::CGROUP, c.clone());
            }
        });
    }

    fn life(&mut self, e: &Life) -> Option<()> {
        let h = &e.head;
        let (id, path, by) = (h.aux, e.path()?, Arc::<str>::from(wire::string(&h.comm)));
        let mut age = None;
        let mut comm = Some(by.clone());
        let what = match h.kind {
            wire::CGROUP_MKDIR => {
                self.cgroups.learn(id, &path);
                self.ledger.mkdir(id, &by, h.boot_ns);
                "mkdir"
            }
            wire::CGROUP_RMDIR => {
                self.ledger.rmdir(id, &path, h.boot_ns, e.charged > 0);
                "rmdir"
            }
            _ => {
                // Freed by a worker of the kernel: its name tells nothing, the maker's does.
                let released = self.ledger.release(id, h.boot_ns);
                (age, comm) = (released.age_ns, released.by);
                "release"
            }
        };
        self.put(probes::MEMCG_LIFE, h.boot_ns, [Subject::cgroup(path)], |row| {
            row.text(s::memcg_life::WHAT, what);
            if let Some(age) = age {
                row.int(s::memcg_life::ZOMBIE_AGE, age);
            }
            if let Some(comm) = &comm {
                row.text(s::memcg_life::COMM, comm.clone());
            }
        });
        Some(())
    }

    /// Names the functions of a stack.
    fn describe(&mut self, e: &Stack, taken: Taken) -> Described {
        let frames = e.frames();
        if self.symbols.is_none() {
            self.read_symbols(e.head.boot_ns);
        }
        let known =
            |s: &Option<Symbols>| frames.iter().all(|f| s.as_ref().is_some_and(|s| s.name(*f).is_some()));
        if !known(&self.symbols) && e.head.boot_ns.saturating_sub(self.symbols_read) > SYMBOLS_AGAIN {
            self.read_symbols(e.head.boot_ns);
        }
        let described = self.named(frames, taken);
        // A program that was loaded after the symbols were read has the name of another one.
        if described.stack.contains("bpf_prog_")
            && e.head.boot_ns.saturating_sub(self.symbols_read) > self.programs_again
        {
            self.programs_again = (2 * self.programs_again).min(SYMBOLS_AGAIN);
            self.read_symbols(e.head.boot_ns);
            return self.named(frames, taken);
        }
        described
    }

    fn named(&self, frames: &[u64], taken: Taken) -> Described {
        match self.symbols.as_ref().filter(|s| !s.is_empty()) {
            Some(symbols) => describe(frames.iter().map(|f| symbols.name(*f).unwrap_or("?")), taken),
            // Without names it cannot even be told whether user code was interrupted.
            None => Described { stack: String::new(), what: "other" },
        }
    }

    fn read_symbols(&mut self, now_ns: u64) {
        self.symbols_read = now_ns;
        // Without them stacks stay empty, which is all that can be done.
        self.symbols = Some(Symbols::load(&self.kallsyms).unwrap_or_default());
        // Reading them took several times the memory that they keep.
        object::trim();
    }

    /// Whether functions have names, once a stack was described.
    pub(super) fn has_symbols(&self) -> Option<bool> {
        self.symbols.as_ref().map(|s| !s.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_behind_a_hold() {
        let mut rows = Rows::new(&Roots::under("/nonexistent"), Stamp { boot_ns: 0, wall_ns: 0 });
        let hold = Hold { tgid: 7, kind: "kernel", begin: 100, end: 500, over: false };
        rows.holds.insert(1, hold);
        assert!(rows.held_in_kernel(1, 200, 600), "three quarters of the wait");
        assert!(!rows.held_in_kernel(1, 450, 900), "a ninth");
        assert!(!rows.held_in_kernel(0, 200, 600), "another CPU");
        rows.holds.insert(1, Hold { kind: "rt", ..hold });
        assert!(!rows.held_in_kernel(1, 200, 600), "a real-time task is another cause");
    }
}
