//! What the tasks of each control group did, summed.

use std::collections::BTreeMap;
use std::sync::Arc;

use whystall_event::{Batch, SEC, Subject};

use super::parse::Sched;
use super::schema::g;
use super::tasks::Task;

/// A group whose tasks did nothing has a row this often.
const IDLE_ROW_NS: u64 = 9 * SEC;
/// A group without tasks is forgotten after this time; its counters would begin at zero again.
const EMPTY_NS: u64 = 60 * SEC;

/// The sums of every group that has tasks.
#[derive(Debug, Default)]
pub(super) struct Groups(BTreeMap<Arc<str>, Group>);

#[derive(Debug, Default)]
struct Group {
    total: Sched,
    moved: bool,
    moved_before: bool,
    tasks: u32,
    starved: u32,
    worst: Option<(f64, u32, Arc<str>)>,
    row_ns: u64,
    filled_ns: u64,
}

impl Groups {
    /// Begins a pass.
    pub(super) fn begin(&mut self) {
        for group in self.0.values_mut() {
            group.moved_before = std::mem::take(&mut group.moved);
            (group.tasks, group.starved, group.worst) = (0, 0, None);
        }
    }

    /// Adds what one task did since the reading before.
    pub(super) fn add(&mut self, now: u64, tid: u32, task: &Task) {
        if task.cgroup.is_empty() {
            return;
        }
        if !self.0.contains_key(&task.cgroup) {
            self.0.insert(task.cgroup.clone(), Group::default());
        }
        let Some(group) = self.0.get_mut(&task.cgroup) else {
            return;
        };
        group.total.add(&task.delta);
        group.moved |= task.delta != Sched::default();
        group.tasks += 1;
        group.starved += u32::from(task.waits_since_ns.is_some());
        group.filled_ns = now;
        if let Some(delay) = task.delay_per_slice()
            && group.worst.as_ref().is_none_or(|w| delay > w.0)
        {
            group.worst = Some((delay, tid, task.comm.clone()));
        }
    }

    /// Rows of the groups whose tasks moved or starve, and of each idle one now and then.
    pub(super) fn rows(&mut self, now: u64, batch: &mut Batch) {
        self.0.retain(|path, group| {
            let keep = now.saturating_sub(group.filled_ns) < EMPTY_NS;
            if !keep {
                batch.gone.push(Subject::Cgroup(path.clone()));
            }
            keep
        });
        for (path, group) in &mut self.0 {
            let idle_turn = now.saturating_sub(group.row_ns) >= IDLE_ROW_NS;
            if !group.moved && !group.moved_before && group.starved == 0 && !idle_turn {
                continue;
            }
            group.row_ns = now;
            let mut row = batch.row(Subject::Cgroup(path.clone()));
            row.int(g::RUN, group.total.run).int(g::RUN_DELAY, group.total.delay);
            row.int(g::SLICES, group.total.slices).gauge(g::TASKS, f64::from(group.tasks));
            row.gauge(g::STARVED, f64::from(group.starved));
            if let Some((delay, tid, comm)) = &group.worst {
                row.gauge(g::WORST, *delay)
                    .gauge(g::VICTIM_PID, f64::from(*tid))
                    .text(g::VICTIM, comm.clone());
            }
        }
    }
}
