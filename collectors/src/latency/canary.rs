//! `canary`: two light threads on each CPU, one SCHED_OTHER and one SCHED_FIFO, that sleep and tell how late they were
//! woken. It needs no BPF, and says less: that a CPU was late, not whom it hit or who did it.
//!
//! Both late: interrupts or preemption were off, or the hypervisor ran others. Only the first: tasks compete, or a
//! real-time task has the CPU. A wake-up that is still overdue counts as late already.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use whystall_event::{Batch, MS, Subject};

use super::streams::canary as s;
use crate::bpf::object;
use crate::runner::clock;
use crate::{Built, CollectError, Collector, Roots, Settings, Sink, Stop, Streaming, Unavailable};

/// The collector.
pub static COLLECTOR: Collector = Collector {
    name: "canary",
    help: "lateness of two light threads a CPU, for hosts where the latency collector cannot load BPF programs",
    streams: &[s::STREAM],
    interval: None,
    settings: &["when"],
    build,
};

/// Between two wake-ups of a thread: 100 a second and CPU for both, each a few microseconds.
const PERIOD: u64 = 20 * MS;
/// Above this a wake-up counts as late.
const LATE: u64 = 50 * MS;
/// Before the first batch, when the threads have reported, and between two.
const FIRST: Duration = Duration::from_millis(100);
const INTERVAL: Duration = Duration::from_secs(1);
/// Just below the kernel's own migration and watchdog threads.
const PRIORITY: i32 = 98;
const STACK: usize = 64 << 10;

fn build(roots: &Roots, settings: &Settings) -> Result<Built, Unavailable> {
    let always = match settings.get("when").map(|v| v.as_str()) {
        None | Some(Some("fallback")) => false,
        Some(Some("always")) => true,
        Some(_) => return Err(Unavailable::settings("`when` must be \"fallback\" or \"always\"")),
    };
    if let Some(key) = settings.keys().find(|k| *k != "when") {
        let key = whystall_event::text::escape(key);
        return Err(Unavailable::settings(format!("canary has no setting `{key}`; it has `when`")));
    }
    if !always && object::check_host(roots).is_ok() {
        return Err(Unavailable::because("not needed: BPF probes measure these latencies")
            .remedy("set when = \"always\" to have both"));
    }
    Ok(Built::Streaming(Box::new(Canary)))
}

struct Canary;

impl Streaming for Canary {
    fn run(&mut self, sink: &dyn Sink, stop: &Stop) -> Result<(), CollectError> {
        let threads = Threads::start().map_err(|e| CollectError::Other(format!("no canary thread: {e}")))?;
        let stream = Arc::new(s::STREAM);
        let mut wait = FIRST;
        while !stop.is_set() {
            if stop.poll([], wait).is_err() {
                thread::sleep(wait);
            }
            wait = INTERVAL;
            let mut batch = Batch::new(stream.clone(), sink.now());
            threads.rows(&mut batch);
            sink.send(batch);
        }
        Ok(())
    }
}

/// One thread's reports.
#[derive(Debug, Default)]
struct Report {
    /// When it is due (CLOCK_BOOTTIME); 0 before it is ready.
    due: AtomicU64,
    /// The worst lateness since it was last read.
    worst: AtomicU64,
    /// Wake-ups over [`LATE`].
    late: AtomicU64,
}

impl Report {
    /// The worst lateness since the last call, that of a wake-up still overdue included; `None` before it is ready.
    fn take(&self, now: u64) -> Option<u64> {
        let due = self.due.load(Ordering::Acquire);
        let overdue = now.saturating_sub(due);
        (due != 0).then(|| self.worst.swap(0, Ordering::AcqRel).max(overdue))
    }

    /// Woken at `now`: how late that is, and when it is due again.
    fn woken(&self, now: u64) -> u64 {
        let late = now.saturating_sub(self.due.load(Ordering::Relaxed));
        self.worst.fetch_max(late, Ordering::AcqRel);
        if late > LATE {
            self.late.fetch_add(1, Ordering::Relaxed);
        }
        let due = now + PERIOD;
        self.due.store(due, Ordering::Release);
        due
    }
}

/// A CPU's two reports; the second is absent where real-time threads are not allowed.
struct Pair {
    cpu: u32,
    fair: Arc<Report>,
    rt: Arc<Report>,
}

struct Threads {
    pairs: Vec<Pair>,
    ending: Arc<AtomicBool>,
    handles: Vec<JoinHandle<()>>,
}

impl Threads {
    /// Starts two threads on each CPU that this process may use.
    fn start() -> io::Result<Threads> {
        let mut all = Threads { pairs: Vec::new(), ending: Arc::default(), handles: Vec::new() };
        for cpu in allowed_cpus()? {
            let pair = Pair { cpu, fair: Arc::default(), rt: Arc::default() };
            for (report, rt) in [(&pair.fair, false), (&pair.rt, true)] {
                let (report, ending) = (report.clone(), all.ending.clone());
                let name = format!("canary{}/{cpu}", if rt { "-rt" } else { "" });
                let builder = thread::Builder::new().name(name).stack_size(STACK);
                all.handles.push(builder.spawn(move || sing(cpu, rt, &report, &ending))?);
            }
            all.pairs.push(pair);
        }
        Ok(all)
    }

    fn rows(&self, batch: &mut Batch) {
        let now = batch.at.boot_ns;
        for pair in &self.pairs {
            let (fair, rt) = (pair.fair.take(now), pair.rt.take(now));
            if fair.is_none() && rt.is_none() {
                continue;
            }
            let mut row = batch.row(Subject::Cpu(pair.cpu));
            if let Some(late) = fair {
                row.gauge(s::LATE_FAIR, late as f64)
                    .int(s::WINDOWS_LATE_FAIR, pair.fair.late.load(Ordering::Relaxed));
            }
            if let Some(late) = rt {
                row.gauge(s::LATE_RT, late as f64)
                    .int(s::WINDOWS_LATE_RT, pair.rt.late.load(Ordering::Relaxed));
            }
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Release);
        for handle in self.handles.drain(..) {
            // A thread that panicked has nothing more to tell.
            let _ = handle.join();
        }
    }
}

/// A thread's life. Where it cannot get its CPU or policy, it ends without having reported.
fn sing(cpu: u32, rt: bool, report: &Report, ending: &AtomicBool) {
    if !settle(cpu, rt) {
        return;
    }
    let mut due = report.woken(clock::now().boot_ns.max(1));
    // The first was no wake-up.
    report.worst.store(0, Ordering::Release);
    report.late.store(0, Ordering::Relaxed);
    while !ending.load(Ordering::Acquire) {
        sleep_until(due);
        due = report.woken(clock::now().boot_ns);
    }
}

/// Binds this thread to its CPU and, if asked, makes it a real-time one.
fn settle(cpu: u32, rt: bool) -> bool {
    // SAFETY: a zeroed cpu_set_t is an empty set; CPU_SET checks its bounds.
    let bound = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu as usize, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set)
    };
    if !rt || bound != 0 {
        return bound == 0;
    }
    let param = libc::sched_param { sched_priority: PRIORITY };
    // SAFETY: `param` is valid for the time of the call, which is about the calling thread.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, &param) == 0 }
}

fn sleep_until(boot_ns: u64) {
    let at = libc::timespec {
        tv_sec: (boot_ns / 1_000_000_000) as libc::time_t,
        tv_nsec: (boot_ns % 1_000_000_000) as libc::c_long,
    };
    // SAFETY: `at` is a valid timespec. A signal ends the sleep early, which the next due time puts right.
    unsafe {
        libc::clock_nanosleep(libc::CLOCK_BOOTTIME, libc::TIMER_ABSTIME, &at, std::ptr::null_mut());
    }
}

fn allowed_cpus() -> io::Result<Vec<u32>> {
    // SAFETY: a zeroed cpu_set_t is a valid place for the kernel to write to, of the size that is told.
    let set = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) != 0 {
            return Err(io::Error::last_os_error());
        }
        set
    };
    // SAFETY: CPU_ISSET checks its bounds.
    let is_in = |cpu: usize| unsafe { libc::CPU_ISSET(cpu, &set) };
    Ok((0..libc::CPU_SETSIZE as usize).filter(|c| is_in(*c)).map(|c| c as u32).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lateness() {
        let r = Report::default();
        assert_eq!(r.take(5), None);
        r.due.store(1000 * MS, Ordering::Release);
        assert_eq!(r.take(1010 * MS), Some(10 * MS), "still overdue");
        assert_eq!(r.woken(1060 * MS), 1080 * MS);
        assert_eq!((r.take(1070 * MS), r.late.load(Ordering::Relaxed)), (Some(60 * MS), 1));
        assert_eq!(r.take(1070 * MS), Some(0));
    }

    #[test]
    fn every_allowed_cpu_reports() {
        let threads = Threads::start().unwrap();
        let ready = |r: &Report| r.due.load(Ordering::Acquire) != 0;
        while !threads.pairs.iter().all(|p| ready(&p.fair)) {
            thread::sleep(Duration::from_millis(1));
        }
        let mut batch = Batch::new(Arc::new(s::STREAM), clock::now());
        threads.rows(&mut batch);
        assert_eq!(batch.len(), allowed_cpus().unwrap().len());
        assert!(batch.rows().all(|r| r.has(s::LATE_FAIR) && r.has(s::WINDOWS_LATE_FAIR)));
        if !batch.rows().all(|r| r.has(s::LATE_RT)) {
            println!("skipped: real-time threads are not allowed here, or are not ready yet");
        }
    }
}
