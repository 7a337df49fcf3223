//! What a pass of `schedstat` found, as rows.

use whystall_event::{Batch, Row, SEC, Subject};

use super::parse::{Load, Sched, parse_host};
use super::schema::{c, r, s, t};
use super::tasks::Task;
use super::{HEAVY, Schedstat};
use crate::CollectError;

/// A task that neither ran nor waited has a row in the first pass after this time that reads it: within 10 s.
const IDLE_ROW_NS: u64 = 6 * SEC + SEC / 2;
/// A CPU's heaviest user is said to be nobody for this long after there was one.
const CALM_NS: u64 = 60 * SEC;
/// A FIFO or RR task that uses more than this part of a CPU hogs it.
const HOG: f64 = 0.5;

impl Schedstat {
    /// Adds what every task did to the sums of its group and of the host.
    pub(super) fn sum(&mut self, now: u64) {
        self.groups.begin();
        for (tid, task) in self.tasks.all.iter().filter(|(_, t)| t.read_ns == now) {
            self.total.add(&task.delta);
            self.groups.add(now, *tid, task);
        }
    }

    /// Rows of the tasks that ran, waited or are looked at, and of each idle one now and then.
    pub(super) fn task_rows(&mut self, now: u64, batch: &mut Batch, softirqd: &mut Batch) {
        for (tid, task) in self.tasks.all.iter_mut().filter(|(_, t)| t.read_ns == now) {
            let waiting = waiting(task, now);
            if let Some(cpu) = ksoftirqd(task) {
                let mut row = softirqd.row(Subject::Cpu(cpu));
                row.int(s::RUN, task.last.run).int(s::RUN_DELAY, task.last.delay);
                row.int(s::SLICES, task.last.slices).gauge(s::PID, f64::from(*tid));
                if let Some(delay) = task.delay_per_slice() {
                    row.gauge(s::DELAY_PER_SLICE, delay);
                }
                if let Some(ns) = waiting {
                    row.gauge(s::STARVED, flag(ns.is_some())).gauge(s::WAITING_FOR, ns.unwrap_or(0) as f64);
                }
            }
            // One row after the last that moved tells at once that the task does not wait.
            let just_stopped = task.moved_ns == task.row_ns;
            let looked_at = task.state_ns == now;
            let idle_turn = now.saturating_sub(task.row_ns) >= IDLE_ROW_NS;
            if task.moved_ns != now && !just_stopped && !looked_at && !idle_turn {
                continue;
            }
            task.row_ns = now;
            let mut row = batch.row(Subject::Task(*tid));
            row.int(t::RUN, task.last.run)
                .int(t::RUN_DELAY, task.last.delay)
                .int(t::SLICES, task.last.slices);
            if let Some(delay) = task.delay_per_slice() {
                row.gauge(t::DELAY_PER_SLICE, delay);
            }
            if let Some(ns) = waiting {
                row.gauge(t::WAITS, flag(ns.is_some())).gauge(t::WAITING_FOR, ns.unwrap_or(0) as f64);
            }
            if task.interval_ns > 0 {
                row.gauge(t::SHARE, task.share());
            }
            row.gauge(t::POLICY, f64::from(task.policy)).gauge(t::RT_PRIO, f64::from(task.rt_prio));
            row.gauge(t::KTHREAD, flag(task.kthread)).gauge(t::PID, f64::from(task.pid));
            row.text(t::COMM, task.comm.clone());
            if !task.cgroup.is_empty() {
                row.text(t::CGROUP, task.cgroup.clone());
            }
        }
    }

    /// The host's row: sums, the worst victim and the heaviest users.
    pub(super) fn host_row(&self, now: u64, load: Option<Load>, heavy: &[u32], batch: &mut Batch) {
        let read_now = || self.tasks.all.iter().filter(|(_, t)| t.read_ns == now);
        let mut row = batch.row(Subject::Host);
        row.gauge(r::TASKS, self.tasks.all.len() as f64).gauge(r::LEFT_OUT, self.tasks.left_out as f64);
        row.int(r::RUN, self.total.run).int(r::RUN_DELAY, self.total.delay).int(r::SLICES, self.total.slices);
        row.gauge(r::STARVED, read_now().filter(|(_, t)| t.waits_since_ns.is_some()).count() as f64);
        if let Some(load) = load {
            row.gauge(r::RUNNABLE, load.running as f64);
        }
        let worst = read_now()
            .filter_map(|(tid, t)| Some((t.delay_per_slice()?, tid, t)))
            .max_by(|a, b| a.0.total_cmp(&b.0));
        if let Some((delay, tid, task)) = worst {
            row.gauge(r::WORST, delay)
                .gauge(r::VICTIM_PID, f64::from(*tid))
                .text(r::VICTIM, task.comm.clone());
        }
        self.culprits(&mut row, heavy);
    }

    /// A row for each CPU that a heavy user was last seen on, and for CPUs that had one lately.
    pub(super) fn cpu_rows(&mut self, now: u64, heavy: &[u32], batch: &mut Batch) {
        let on = |cpu: u32| -> Vec<u32> {
            heavy
                .iter()
                .copied()
                .filter(|tid| self.tasks.all.get(tid).is_some_and(|t| t.cpu == cpu))
                .collect()
        };
        let mut cpus: Vec<u32> = heavy.iter().filter_map(|tid| Some(self.tasks.all.get(tid)?.cpu)).collect();
        cpus.sort_unstable();
        cpus.dedup();
        for cpu in &cpus {
            let users = on(*cpu);
            self.culprits(&mut batch.row(Subject::Cpu(*cpu)), &users);
        }
        self.busy_cpus.extend(cpus.iter().map(|cpu| (*cpu, now)));
        self.busy_cpus.retain(|_, at| now.saturating_sub(*at) < CALM_NS);
        for cpu in self.busy_cpus.keys().filter(|cpu| !cpus.contains(cpu)) {
            batch.row(Subject::Cpu(*cpu)).gauge(r::TOP_SHARE, 0.0).gauge(r::RT_HOGS, 0.0);
        }
    }

    /// Rows of `/proc/schedstat`.
    pub(super) fn host_cpus(&mut self, batch: &mut Batch) -> Result<(), CollectError> {
        let Some(file) = &mut self.host else { return Ok(()) };
        self.cpus.clear();
        file.parse(&mut self.buf, |bytes| parse_host(bytes, &mut self.cpus))?;
        for (cpu, sched) in &self.cpus {
            let mut row = batch.row(Subject::Cpu(*cpu));
            row.int(c::RUN, sched.run).int(c::RUN_DELAY, sched.delay).int(c::SLICES, sched.slices);
        }
        Ok(())
    }
}

impl Schedstat {
    /// Sets the heaviest users, the first first.
    fn culprits(&self, row: &mut Row<'_>, heavy: &[u32]) {
        let users = || heavy.iter().filter_map(|tid| Some((*tid, self.tasks.all.get(tid)?)));
        row.gauge(r::RT_HOGS, users().filter(|(_, t)| t.is_rt() && t.share() > HOG).count() as f64);
        match users().next() {
            Some((tid, task)) => {
                row.gauge(r::TOP_SHARE, task.share()).gauge(r::TOP_PID, f64::from(tid));
                row.gauge(r::TOP_POLICY, f64::from(task.policy)).text(r::TOP_COMM, task.comm.clone());
                if !task.cgroup.is_empty() {
                    row.text(r::TOP_CGROUP, task.cgroup.clone());
                }
            }
            // Nobody reached the least share that is looked at.
            None => _ = row.gauge(r::TOP_SHARE, 0.0),
        }
        if let Some((tid, task)) = users().find(|(_, t)| t.is_rt() && t.share() >= HEAVY) {
            row.gauge(r::RT_SHARE, task.share()).gauge(r::RT_PID, f64::from(tid));
            row.text(r::RT_COMM, task.comm.clone());
        }
    }
}

impl Sched {
    pub(super) fn add(&mut self, delta: &Sched) {
        self.run = self.run.saturating_add(delta.run);
        self.delay = self.delay.saturating_add(delta.delay);
        self.slices = self.slices.saturating_add(delta.slices);
    }
}

/// How long a task has been seen runnable without running: `None` if its state is not known now.
fn waiting(task: &Task, now: u64) -> Option<Option<u64>> {
    let known = task.delta != Sched::default() || task.state_ns == now;
    known.then_some(task.waits_since_ns.map(|since| now.saturating_sub(since)))
}

/// The CPU whose softirq thread a task is.
pub(super) fn ksoftirqd(task: &Task) -> Option<u32> {
    if !task.kthread {
        return None;
    }
    crate::scan::dec32(task.comm.strip_prefix("ksoftirqd/")?.as_bytes())
}

fn flag(set: bool) -> f64 {
    f64::from(u8::from(set))
}
