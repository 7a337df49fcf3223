//! `schedstat`: how long tasks waited for a CPU, task by task, by control group and by CPU; who used the CPUs meanwhile.
//!
//! Reads `/proc/PID/schedstat` and `/proc/PID/task/TID/schedstat` (run time, run-queue delay, slices) of every task through
//! kept descriptors (of tasks that sleep only every fourth pass, while nothing waits for a CPU), `/proc/schedstat` where the
//! kernel has it, and few `/proc/PID/stat`: of new tasks, of the heaviest users, and, while something waits for a CPU, of
//! tasks that did not move. Source: scheduler/sched-stats.rst.
//!
//! The kernel adds a wait to a task's delay when it ends. A task that starves therefore shows nothing until it runs; it is
//! found by its state instead (`state_running_unscheduled`, `waiting_for`). Tasks that begin and end between two passes are
//! never seen. It reads no command line, no environment and no memory.

use std::collections::HashMap;
use std::sync::Arc;

use whystall_event::{Batch, SEC, Stream, Subject};

use crate::cgroup::{self, parse as cgroup_parse};
use crate::read::{Buf, KeptFile, unavailable};
use crate::{Built, CollectError, Collector, Pass, Polled, Roots, Settings, Unavailable};

mod groups;
pub(crate) mod parse;
mod rows;
mod schema;
mod tasks;

use groups::Groups;
use parse::{Load, Sched};
use schema::STREAMS;
use tasks::{State, Task, Tasks, Which};

/// The collector.
pub static COLLECTOR: Collector = Collector {
    name: "schedstat",
    help: "run-queue delay by task, control group and CPU, starved tasks, and the heaviest users of the CPUs",
    streams: STREAMS,
    interval: None,
    settings: &["max_tasks", "state_reads"],
    build,
};

/// Users of less than this part of a CPU are nobody's culprit.
const HEAVY: f64 = 0.1;
/// The most heavy users whose CPU and policy are read in a pass.
const MOST_HEAVY: usize = 8;
/// With less pressure than this part of the time, nothing starves.
const PRESSURE: f64 = 0.02;

fn build(roots: &Roots, settings: &Settings) -> Result<Built, Unavailable> {
    let max_tasks = cgroup::setting(settings, "max_tasks", 4096, 16..=1_000_000)? as usize;
    let state_reads = cgroup::setting(settings, "state_reads", 64, 0..=10_000)? as usize;
    let own = crate::read::read_once(roots.proc("self/schedstat")).map_err(unavailable);
    if own.is_ok_and(|bytes| parse::parse_task(&bytes).is_none_or(|s| s == Sched::default())) {
        return Err(Unavailable::because("the kernel does not account run-queue delay")
            .remedy("use a kernel with CONFIG_SCHED_INFO (SCHEDSTATS or TASK_DELAY_ACCT set it)"));
    }
    if !roots.proc("self/schedstat").exists() {
        return Err(Unavailable::because(format!(
            "{}: no such file",
            roots.proc("self/schedstat").display()
        ))
        .remedy("use a kernel with CONFIG_SCHED_INFO (SCHEDSTATS or TASK_DELAY_ACCT set it)"));
    }
    let tasks = Tasks::new(&roots.proc, max_tasks, cgroup::fd_share(14))
        .map_err(|e| unavailable(CollectError::read(&roots.proc, e)))?;
    Ok(Built::Polled(Box::new(Schedstat {
        tasks,
        groups: Groups::default(),
        host: roots.proc("schedstat").exists().then(|| KeptFile::lazy(roots.proc("schedstat"))),
        loadavg: KeptFile::lazy(roots.proc("loadavg")),
        pressure: KeptFile::lazy(roots.proc("pressure/cpu")),
        streams: STREAMS.iter().cloned().map(Arc::new).collect(),
        buf: Buf::new(),
        cpus: Vec::new(),
        previous: None,
        pressure_some: None,
        total: Sched::default(),
        state_reads,
        state_cursor: 0,
        busy_cpus: HashMap::new(),
    })))
}

struct Schedstat {
    tasks: Tasks,
    groups: Groups,
    host: Option<KeptFile>,
    loadavg: KeptFile,
    pressure: KeptFile,
    streams: Vec<Arc<Stream>>,
    buf: Buf,
    cpus: Vec<(u32, Sched)>,
    /// When the previous pass was.
    previous: Option<u64>,
    pressure_some: Option<u64>,
    /// Sums of what all tasks did since the collector began.
    total: Sched,
    state_reads: usize,
    state_cursor: u32,
    /// CPUs that had a heavy user, and when.
    busy_cpus: HashMap<u32, u64>,
}

impl Polled for Schedstat {
    fn collect(&mut self, pass: &mut Pass) -> Result<(), CollectError> {
        let now = pass.at.boot_ns;
        let load = self.loadavg.read(&mut self.buf).ok().and_then(parse::parse_loadavg);
        let pressed = self.pressed(now);
        let calm = !pressed && load.is_some_and(|l| l.running <= 1);
        self.tasks.read(now, if calm { Which::Lively } else { Which::All }, &mut || pass.late());
        self.tasks.find(now, load, self.previous);
        self.tasks.refresh(now, 32);
        let heavy = self.heavy(now);
        self.look_for_starved(now, pressed, load);
        let mut batches: Vec<Batch> = self.streams.iter().map(|s| pass.batch(s)).collect();
        if let [tasks, groups, cpus, softirqd, running] = batches.as_mut_slice() {
            tasks.gone.extend(self.tasks.take_gone().into_iter().map(Subject::Task));
            self.sum(now);
            self.task_rows(now, tasks, softirqd);
            self.groups.rows(now, groups);
            self.host_row(now, load, &heavy, running);
            self.cpu_rows(now, &heavy, running);
            self.previous = Some(now);
            let host = self.host_cpus(cpus);
            pass.batches.append(&mut batches);
            host?;
        }
        Ok(())
    }
}

impl Schedstat {
    /// The heaviest users of the CPUs, the first first, with their CPU and policy read now.
    fn heavy(&mut self, now: u64) -> Vec<u32> {
        let read_now = self.tasks.all.iter().filter(|(_, t)| t.read_ns == now);
        let mut heavy: Vec<(f64, u32)> =
            read_now.map(|(tid, t)| (t.share(), *tid)).filter(|h| h.0 >= HEAVY).collect();
        heavy.sort_by(|a, b| b.0.total_cmp(&a.0));
        heavy.truncate(MOST_HEAVY);
        heavy.retain(|(_, tid)| self.tasks.look(*tid, now).is_some());
        heavy.into_iter().map(|(_, tid)| tid).collect()
    }

    /// Whether tasks waited for a CPU since the pass before, as far as the host can tell.
    fn pressed(&mut self, now: u64) -> bool {
        let some = self.pressure.read(&mut self.buf).ok().and_then(|b| cgroup_parse::pressure(b).some);
        let before = std::mem::replace(&mut self.pressure_some, some);
        let interval = self.previous.map_or(0, |p| now.saturating_sub(p));
        match (before, some) {
            (Some(a), Some(b)) => b.saturating_sub(a) as f64 > interval as f64 * PRESSURE,
            // Without PSI nobody knows.
            _ => true,
        }
    }

    /// Looks for tasks that are runnable but did not run, while the host says that some wait: it is pressed, and more
    /// than the reader itself wants to run.
    fn look_for_starved(&mut self, now: u64, pressed: bool, load: Option<Load>) {
        let waiting: Vec<u32> =
            self.tasks.all.iter().filter(|(_, t)| t.waits_since_ns.is_some()).map(|(tid, _)| *tid).collect();
        if self.previous.is_none()
            || (waiting.is_empty() && (!pressed || load.is_some_and(|l| l.running <= 1)))
        {
            return;
        }
        let still = |t: &Task| t.read_ns == now && t.interval_ns > 0 && t.moved_ns < now;
        let mut todo = waiting;
        let fresh = |tasks: &Tasks, kind: &dyn Fn(&Task) -> bool| -> Vec<u32> {
            let all = tasks.all.iter().filter(|(_, t)| still(t) && t.waits_since_ns.is_none() && kind(t));
            all.map(|(tid, _)| *tid).collect()
        };
        // Those that ran lately first, with the softirq threads; of the others some each pass.
        let lately = |t: &Task| now.saturating_sub(t.moved_ns) < 10 * SEC || rows::ksoftirqd(t).is_some();
        todo.extend(fresh(&self.tasks, &lately));
        let others = fresh(&self.tasks, &|t| !lately(t));
        let start = others.partition_point(|tid| *tid < self.state_cursor);
        let (head, tail) = others.split_at(start);
        todo.extend(tail.iter().chain(head));
        todo.truncate(self.state_reads);
        for tid in &todo {
            if self.tasks.look(*tid, now) == Some(State::Other) && others.binary_search(tid).is_ok() {
                self.state_cursor = tid.saturating_add(1);
            }
        }
    }
}

#[cfg(test)]
mod tests;
