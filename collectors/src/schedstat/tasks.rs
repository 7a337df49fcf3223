//! The table of tasks: finding new ones with few system calls, reading each through a kept descriptor, forgetting those
//! that ended.
//!
//! `/proc/loadavg` tells for 1 µs whether any task was made since the last look (the pid given out last) and how many
//! there are; only then is `/proc` listed. Threads are found by the link count of `/proc/PID/task`, two more than their
//! number.

use std::collections::{BTreeMap, HashSet};
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::ops::Bound;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use whystall_event::{SEC, text};

use super::parse::{self, Load, Sched};
use crate::cgroup::files;
use crate::scan::dec32;

/// Everything is listed again after this time, whatever `/proc/loadavg` says.
const LIST_ANYWAY_NS: u64 = 10 * SEC;
/// Processes whose number of threads is asked for in one pass.
const THREADS_A_PASS: usize = 128;
/// When a table is full, tasks idle for this long make room for others.
const IDLE_NS: u64 = 10 * SEC;
/// While the host is calm, a task idle for this long is read every so many passes.
const SLEEPS_NS: u64 = 3 * SEC;
const CALM_PASSES: u32 = 4;
/// Names, policies and cgroups are read again after this time, once the task runs.
const ATTRIBUTES_NS: u64 = 60 * SEC;

/// One task.
#[derive(Debug)]
pub(crate) struct Task {
    /// The process it belongs to.
    pub(crate) pid: u32,
    file: Option<File>,
    /// The counters as read last, and when that was.
    pub(crate) last: Sched,
    pub(crate) read_ns: u64,
    /// What moved since the reading before, and how long ago that was; nothing after the first reading unless the task
    /// began within the interval.
    pub(crate) delta: Sched,
    pub(crate) interval_ns: u64,
    pub(crate) comm: Arc<str>,
    pub(crate) cgroup: Arc<str>,
    pub(crate) kthread: bool,
    pub(crate) policy: u32,
    pub(crate) rt_prio: u32,
    pub(crate) cpu: u32,
    attributes_due_ns: u64,
    /// Its process's threads when they were last listed; of the leader only.
    threads: u64,
    /// When it last ran or ended a wait.
    pub(crate) moved_ns: u64,
    /// When it last had a row.
    pub(crate) row_ns: u64,
    /// When it was first seen runnable without having run since.
    pub(crate) waits_since_ns: Option<u64>,
    /// When its state was last read.
    pub(crate) state_ns: u64,
}

impl Task {
    fn take(&mut self, now: u64, new: Sched) {
        self.delta = Sched {
            run: new.run.saturating_sub(self.last.run),
            delay: new.delay.saturating_sub(self.last.delay),
            slices: new.slices.saturating_sub(self.last.slices),
        };
        self.interval_ns = now.saturating_sub(self.read_ns);
        self.last = new;
        self.read_ns = now;
        if self.delta != Sched::default() {
            self.moved_ns = now;
            self.waits_since_ns = None;
        }
    }

    /// The part of one CPU that it used.
    pub(crate) fn share(&self) -> f64 {
        if self.interval_ns == 0 { 0.0 } else { self.delta.run as f64 / self.interval_ns as f64 }
    }

    /// The mean wait before a slice of this interval, in nanoseconds; one wait alone says little.
    pub(crate) fn delay_per_slice(&self) -> Option<f64> {
        (self.delta.slices >= 2).then(|| self.delta.delay as f64 / self.delta.slices as f64)
    }

    /// Nothing is missed if it is not read in a pass in which no task of the host waited.
    fn sleeps(&self, now: u64) -> bool {
        now.saturating_sub(self.moved_ns) >= SLEEPS_NS
            && self.waits_since_ns.is_none()
            && super::rows::ksoftirqd(self).is_none()
    }

    /// FIFO or RR.
    pub(crate) fn is_rt(&self) -> bool {
        matches!(self.policy as i32, libc::SCHED_FIFO | libc::SCHED_RR)
    }
}

/// Which tasks a pass reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    All,
    /// Those that ran lately or wait, and of the others each now and then.
    Lively,
}

/// All tasks followed.
#[derive(Debug)]
pub(crate) struct Tasks {
    path: PathBuf,
    proc: File,
    pub(crate) all: BTreeMap<u32, Task>,
    max: usize,
    fds: usize,
    kept: usize,
    tick_ns: u64,
    listed: Option<(Load, u64)>,
    /// Where the reading goes on after a pass that was cut short.
    read_cursor: u32,
    /// Where the search for threads goes on.
    thread_cursor: u32,
    /// If the table is full, only tasks from here on are taken in, so that each has its turn.
    room_cursor: u32,
    /// Tasks that were seen at the last listing but had no room.
    pub(crate) left_out: usize,
    gone: Vec<u32>,
    passes: u32,
    buf: Vec<u8>,
    /// Control group paths, shared between their tasks.
    cgroups: HashSet<Arc<str>>,
}

impl Tasks {
    pub(crate) fn new(proc: &Path, max: usize, fds: usize) -> io::Result<Tasks> {
        // SAFETY: no pointers are involved.
        let hz = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
        Ok(Tasks {
            path: proc.to_path_buf(),
            proc: File::open(proc)?,
            all: BTreeMap::new(),
            max,
            fds,
            kept: 0,
            tick_ns: SEC / u64::try_from(hz).unwrap_or(100).max(1),
            listed: None,
            read_cursor: 0,
            thread_cursor: 0,
            room_cursor: 0,
            left_out: 0,
            gone: Vec::new(),
            passes: 0,
            buf: Vec::new(),
            cgroups: HashSet::new(),
        })
    }

    /// Tasks that ended since the last call.
    pub(crate) fn take_gone(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.gone)
    }

    /// Reads the counters of `which` tasks; those that ended are forgotten. Stops early when `late` says so and goes on
    /// there in the next pass: a task that was not read has no row, which means not known.
    pub(crate) fn read(&mut self, now: u64, which: Which, late: &mut dyn FnMut() -> bool) {
        self.passes = self.passes.wrapping_add(1);
        let turn = self.passes % CALM_PASSES;
        let Tasks { proc, all, gone, buf, kept, fds, read_cursor, .. } = self;
        let from = std::mem::take(read_cursor);
        let already = gone.len();
        let mut step = 0u32;
        for part in [(Bound::Included(from), Bound::Unbounded), (Bound::Unbounded, Bound::Excluded(from))] {
            for (tid, task) in all.range_mut(part) {
                step += 1;
                if step.is_multiple_of(64) && *read_cursor == 0 && late() {
                    *read_cursor = (*tid).max(1);
                }
                if *read_cursor != 0 {
                    break;
                }
                if which == Which::Lively && tid % CALM_PASSES != turn && task.sleeps(now) {
                    continue;
                }
                let read = match &task.file {
                    Some(file) => files::read_whole(file, buf),
                    None => open_and_read(proc, task.pid, *tid, "schedstat", buf).map(|file| {
                        if *kept < *fds {
                            *kept += 1;
                            task.file = Some(file);
                        }
                    }),
                };
                match read.ok().and_then(|()| parse::parse_task(buf)) {
                    Some(new) => task.take(now, new),
                    None => gone.push(*tid),
                }
            }
        }
        for tid in gone.get(already..).unwrap_or_default() {
            if let Some(task) = all.remove(tid) {
                *kept -= usize::from(task.file.is_some());
            }
        }
    }

    /// Takes in new tasks, if `load` (or its absence) says that there may be some. `since` is the time of the previous
    /// pass: a task that began after it has run and waited within this interval.
    pub(crate) fn find(&mut self, now: u64, load: Option<Load>, since: Option<u64>) {
        if let (Some((before, at)), Some(load)) = (self.listed, load)
            && before.last_pid == load.last_pid
            && now.saturating_sub(at) < LIST_ANYWAY_NS
            && self.left_out == 0
        {
            return;
        }
        let mut seen: Vec<u32> = Vec::new();
        let listed = files::list_dir(self.proc.as_fd(), &mut |entry| {
            if let Some(pid) = dec32(entry.name.to_bytes()) {
                seen.push(pid);
            }
        });
        if listed.is_err() {
            return;
        }
        seen.sort_unstable();
        self.left_out = 0;
        self.make_room(now, seen.len());
        let start = seen.partition_point(|pid| *pid < self.room_cursor);
        let (before, after) = seen.split_at(start);
        let mut first_left_out = None;
        for pid in after.iter().chain(before) {
            if !self.all.contains_key(pid) && !self.add(now, *pid, *pid, since) {
                first_left_out.get_or_insert(*pid);
            }
        }
        self.room_cursor = first_left_out.unwrap_or(0);
        // All tasks that exist are in the table: no thread is missing.
        let complete = load.is_some_and(|l| l.tasks as usize == self.all.len());
        if !complete {
            self.find_threads(now, &seen, since);
        }
        self.cgroups.retain(|c| Arc::strong_count(c) > 1);
        self.listed = Some((load.unwrap_or_default(), now));
    }

    /// Lists the threads of processes whose number of threads moved.
    fn find_threads(&mut self, now: u64, pids: &[u32], since: Option<u64>) {
        let start = pids.partition_point(|pid| *pid < self.thread_cursor);
        let (before, after) = pids.split_at(start);
        let mut asked = 0;
        self.thread_cursor = 0;
        for pid in after.iter().chain(before) {
            let known = self.all.get(pid).map_or(0, |t| t.threads);
            // Kernel threads have none; processes with threads, and new ones, are asked before their turn.
            if self.all.get(pid).is_some_and(|t| t.kthread) || (known == 1 && asked >= THREADS_A_PASS) {
                if known == 1 && self.thread_cursor == 0 {
                    self.thread_cursor = *pid;
                }
                continue;
            }
            asked += usize::from(known == 1);
            let path = self.path.join(format!("{pid}/task"));
            let Ok(meta) = std::fs::symlink_metadata(&path) else {
                continue;
            };
            let threads = meta.nlink().saturating_sub(2);
            if threads == known && threads > 0 {
                continue;
            }
            let mut found = Vec::new();
            if threads != 1 {
                let listed = File::open(&path).and_then(|dir| {
                    files::list_dir(dir.as_fd(), &mut |e| found.extend(dec32(e.name.to_bytes())))
                });
                if listed.is_err() {
                    continue;
                }
            }
            for tid in found {
                if !self.all.contains_key(&tid) {
                    self.add(now, *pid, tid, since);
                }
            }
            if let Some(leader) = self.all.get_mut(pid) {
                leader.threads = threads;
            }
        }
    }

    /// Lets go of idle tasks if the table is too small for all, so that others have their turn.
    fn make_room(&mut self, now: u64, wanted: usize) {
        if wanted <= self.max || self.all.len() < self.max {
            return;
        }
        let idle = self.all.iter().filter(|(_, t)| now.saturating_sub(t.moved_ns) >= IDLE_NS);
        let tids: Vec<u32> = idle.map(|(tid, _)| *tid).take(self.max / 4 + 1).collect();
        for tid in tids {
            if let Some(task) = self.all.remove(&tid) {
                self.kept -= usize::from(task.file.is_some());
            }
        }
    }

    /// Takes in one task; returns false if there is no room.
    fn add(&mut self, now: u64, pid: u32, tid: u32, since: Option<u64>) -> bool {
        if self.all.len() >= self.max {
            self.left_out += 1;
            return false;
        }
        let Ok(file) = open_and_read(&self.proc, pid, tid, "schedstat", &mut self.buf) else {
            return true;
        };
        let Some(first) = parse::parse_task(&self.buf) else {
            return true;
        };
        let mut task = Task {
            pid,
            file: (self.kept < self.fds).then_some(file),
            last: first,
            read_ns: now,
            delta: Sched::default(),
            interval_ns: 0,
            comm: "".into(),
            cgroup: "".into(),
            kthread: false,
            policy: 0,
            rt_prio: 0,
            cpu: 0,
            attributes_due_ns: 0,
            threads: 0,
            moved_ns: now,
            row_ns: 0,
            waits_since_ns: None,
            state_ns: 0,
        };
        let Some(start_ns) = self.read_attributes(tid, &mut task, now) else {
            return true;
        };
        // A program's name and group settle just after it began.
        task.attributes_due_ns = now + SEC / 2;
        if let Some(since) = since.filter(|since| start_ns + self.tick_ns > *since) {
            task.delta = first;
            task.interval_ns = now.saturating_sub(since);
        }
        self.kept += usize::from(task.file.is_some());
        self.all.insert(tid, task);
        true
    }

    /// Reads name, policy, last CPU and group; returns when the task began.
    fn read_attributes(&mut self, tid: u32, task: &mut Task, now: u64) -> Option<u64> {
        open_and_read(&self.proc, task.pid, tid, "stat", &mut self.buf).ok()?;
        let start_ns = task.set_stat(&self.buf)?.saturating_mul(self.tick_ns);
        let group = open_and_read(&self.proc, task.pid, tid, "cgroup", &mut self.buf).ok();
        if let Some(path) = group.and_then(|_| parse::parse_cgroup(&self.buf))
            && *task.cgroup != *path
        {
            task.cgroup = match self.cgroups.get(path.as_str()) {
                Some(known) => known.clone(),
                None => path.into(),
            };
            self.cgroups.insert(task.cgroup.clone());
        }
        task.attributes_due_ns = now + ATTRIBUTES_NS;
        Some(start_ns)
    }

    /// Reads the attributes of tasks again that run and were last looked at long ago, at most `budget` of them.
    pub(crate) fn refresh(&mut self, now: u64, budget: usize) {
        let due = |t: &Task| t.moved_ns == now && now >= t.attributes_due_ns;
        let tids: Vec<u32> =
            self.all.iter().filter(|(_, t)| due(t)).map(|(tid, _)| *tid).take(budget).collect();
        for tid in tids {
            let Some(mut task) = self.all.remove(&tid) else {
                continue;
            };
            self.read_attributes(tid, &mut task, now);
            self.all.insert(tid, task);
        }
    }

    /// Reads one task's state, name, policy and last CPU now.
    pub(crate) fn look(&mut self, tid: u32, now: u64) -> Option<State> {
        let task = self.all.get_mut(&tid)?;
        open_and_read(&self.proc, task.pid, tid, "stat", &mut self.buf).ok()?;
        task.set_stat(&self.buf)?;
        let state = parse::parse_stat(&self.buf)?.state;
        // It may have run since its counters were read.
        open_and_read(&self.proc, task.pid, tid, "schedstat", &mut self.buf).ok()?;
        let runs = parse::parse_task(&self.buf)? != task.last;
        let waits = state == b'R' && !runs;
        task.state_ns = now;
        match waits {
            true => _ = task.waits_since_ns.get_or_insert(now),
            false => task.waits_since_ns = None,
        }
        Some(if waits { State::Waits } else { State::Other })
    }
}

/// What a task was found doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Runnable, and not put on a CPU since the pass before.
    Waits,
    Other,
}

impl Task {
    fn set_stat(&mut self, bytes: &[u8]) -> Option<u64> {
        let stat = parse::parse_stat(bytes)?;
        let comm = text::from_bytes(stat.comm);
        if *self.comm != *comm {
            self.comm = comm.into();
        }
        (self.kthread, self.policy, self.rt_prio, self.cpu) =
            (stat.kthread, stat.policy, stat.rt_prio, stat.cpu);
        Some(stat.start_ticks)
    }
}

fn open_and_read(proc: &File, pid: u32, tid: u32, name: &str, buf: &mut Vec<u8>) -> io::Result<File> {
    let path = if pid == tid { format!("{pid}/{name}") } else { format!("{pid}/task/{tid}/{name}") };
    let file = files::open_file(proc.as_fd(), &CString::new(path)?)?;
    files::read_whole(&file, buf)?;
    Ok(file)
}
