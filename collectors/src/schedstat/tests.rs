//! The collector on fixtures and on real tasks of its own.

use super::*;
use crate::cgroup::testing::{clock, fixture, golden, pass, pass_at, shown, value};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use whystall_event::Stamp;

fn collector(roots: &Roots, settings: &str) -> Box<dyn Polled> {
    match build(roots, &settings.parse().unwrap()) {
        Ok(Built::Polled(polled)) => polled,
        other => panic!("{other:?}"),
    }
}

/// A process of a test; it ends with the test.
struct Run(Child);

impl Run {
    #[allow(clippy::disallowed_methods)]
    fn new(program: &str, args: &[&str]) -> Option<Run> {
        Command::new(program)
            .args(args)
            .spawn()
            .map(Run)
            .map_err(|e| println!("skipped: {program}: {e}"))
            .ok()
    }

    fn task(&self) -> String {
        format!("task:{}", self.0.id())
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A thread of the test's own process that uses a CPU, and ends by itself after [`Spin::MOST`] or with the process: no
/// load can outlive its test, whatever its priority.
struct Spin {
    tid: i32,
    real_time: bool,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Spin {
    const MOST: Duration = Duration::from_secs(2);

    fn new(name: &str, cpu: Option<usize>, real_time: bool) -> Spin {
        let (tell, told) = mpsc::channel();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let end = Instant::now() + Spin::MOST;
        let spin = move || {
            // SAFETY: the structs are plain numbers, valid for the length of each call, and all calls are about this
            // thread.
            let (tid, set) = unsafe {
                if let Some(cpu) = cpu {
                    let mut cpus: libc::cpu_set_t = std::mem::zeroed();
                    libc::CPU_SET(cpu, &mut cpus);
                    libc::sched_setaffinity(0, size_of_val(&cpus), &cpus);
                }
                let param = libc::sched_param { sched_priority: 10 };
                let set = real_time && libc::sched_setscheduler(0, libc::SCHED_FIFO, &param) == 0;
                (libc::gettid(), set)
            };
            tell.send((tid, set)).unwrap();
            while Instant::now() < end && !stopped.load(Relaxed) && (set || !real_time) {
                std::hint::spin_loop();
            }
        };
        let thread = std::thread::Builder::new().name(name.into()).spawn(spin).unwrap();
        let (tid, real_time) = told.recv().unwrap();
        Spin { tid, real_time, stop, thread: Some(thread) }
    }

    fn task(&self) -> String {
        format!("task:{}", self.tid)
    }

    fn ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for Spin {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Makes passes until `done`; gives up after a number of passes that no sane machine needs.
fn until(c: &mut dyn Polled, mut done: impl FnMut(&[Batch]) -> bool) -> bool {
    (0..400).any(|_| {
        std::thread::sleep(Duration::from_millis(25));
        done(&pass(c))
    })
}

#[test]
fn fixtures() {
    for name in ["cgroup-schedstat-v15", "cgroup-schedstat-v17"] {
        let mut c = collector(&fixture(name), "");
        golden(
            &pass_at(&mut *c, Stamp { boot_ns: 1000 * SEC, wall_ns: 0 }),
            &format!("{name}/schedstat.golden"),
        );
    }
}

#[test]
fn a_host_without_the_files_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let roots = Roots::under(dir.path());
    std::fs::create_dir_all(roots.proc("self")).unwrap();
    assert!(build(&roots, &Settings::new()).unwrap_err().to_string().contains("schedstat"));
    std::fs::write(roots.proc("self/schedstat"), "0 0 0\n").unwrap();
    assert!(build(&roots, &Settings::new()).unwrap_err().remedy.is_some());
    let bad = "max_tasks = 1".parse().unwrap();
    assert!(build(&roots, &bad).unwrap_err().bad_settings);
}

#[test]
fn a_busy_task_is_followed_until_it_ends() {
    let mut c = collector(&Roots::default(), "");
    pass(&mut *c);
    let busy = Spin::new("busy) R (x", None, false);
    let task = busy.task();
    let mut last = 0.0;
    assert!(until(&mut *c, |b| {
        last = value(b, "schedstat", &task, "run").unwrap_or(last);
        last > 20e6 && value(b, "schedstat", &task, "share").is_some_and(|s| s > 0.01)
    }));
    let batches = pass(&mut *c);
    assert_eq!(shown(&batches, "schedstat", &task, "comm").as_deref(), Some("busy) R (x"));
    assert_eq!(value(&batches, "schedstat", &task, "kthread"), Some(0.0));
    assert_eq!(value(&batches, "schedstat", &task, "pid"), Some(f64::from(std::process::id())));
    assert!(shown(&batches, "schedstat", &task, "cgroup").is_none_or(|c| c.starts_with('/')));
    assert!(until(&mut *c, |b| shown(b, "schedstat.running", "host", "top_comm").is_some()));
    drop(busy);
    assert!(until(&mut *c, |b| b.iter().any(|b| b.gone.iter().any(|g| g.to_string() == task))));
}

#[test]
fn threads_are_found() {
    let mut c = collector(&Roots::default(), "");
    pass(&mut *c);
    let (tell, told) = mpsc::channel();
    let (end, ended) = mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        // SAFETY: no pointers are involved.
        tell.send(unsafe { libc::gettid() }).unwrap();
        ended.recv().ok();
    });
    let task = format!("task:{}", told.recv().unwrap());
    let own = f64::from(std::process::id());
    assert!(until(&mut *c, |b| value(b, "schedstat", &task, "pid") == Some(own)));
    drop(end);
    thread.join().unwrap();
    assert!(until(&mut *c, |b| b.iter().any(|b| b.gone.iter().any(|g| g.to_string() == task))));
}

#[test]
fn a_real_time_hog_is_named_and_its_victim_is_seen_to_starve() {
    let _alone = crate::cgroup::testing::alone_in_real_time();
    let mut c = collector(&Roots::default(), "");
    pass(&mut *c);
    let victim = Spin::new("victim", Some(0), false);
    assert!(until(&mut *c, |b| value(b, "schedstat", &victim.task(), "run").is_some_and(|r| r > 1e6)));
    let hog = Spin::new("hog", Some(0), true);
    if !hog.real_time {
        println!("skipped: no real-time policy may be set here");
        return;
    }
    let (mut starved, mut hogged) = (false, false);
    while (!starved || !hogged) && !hog.ended() {
        std::thread::sleep(Duration::from_millis(40));
        let batches = pass(&mut *c);
        starved |= value(&batches, "schedstat", &victim.task(), "state_running_unscheduled") == Some(1.0);
        if value(&batches, "schedstat", &hog.task(), "share").is_some_and(|s| s > 0.5) {
            hogged = true;
            let by_cpu = |field| shown(&batches, "schedstat.running", "cpu:0", field);
            assert_eq!(by_cpu("rt_comm").as_deref(), Some("hog"));
            assert_eq!(by_cpu("top_comm").as_deref(), Some("hog"));
            assert!(value(&batches, "schedstat.running", "host", "rt_hogs").is_some_and(|n| n >= 1.0));
        }
    }
    if !hogged {
        println!("skipped: another real-time task had the CPU");
        return;
    }
    assert!(starved);
}

#[test]
fn a_small_table_takes_turns() {
    let sleepers: Vec<Run> = (0..40).filter_map(|_| Run::new("sleep", &["20"])).collect();
    let mut c = collector(&Roots::default(), "max_tasks = 16");
    let start = clock().boot_ns;
    let mut seen = std::collections::BTreeSet::new();
    let mut left_out = 0.0;
    for i in 0..200 {
        let batches = pass_at(&mut *c, Stamp { boot_ns: start + i * 5 * SEC, wall_ns: 0 });
        assert!(value(&batches, "schedstat.running", "host", "tasks").unwrap() <= 16.0);
        left_out = value(&batches, "schedstat.running", "host", "left_out").unwrap();
        seen.extend(batches[0].rows().map(|r| r.subject.to_string()));
    }
    assert!(left_out >= 24.0);
    for s in &sleepers {
        assert!(seen.contains(&s.task()), "{} never had its turn", s.task());
    }
}

#[test]
fn an_idle_task_has_a_row_now_and_then_and_one_when_it_stops() {
    let Some(sleeper) = Run::new("sleep", &["20"]) else {
        return;
    };
    let mut c = collector(&Roots::default(), "");
    assert!(until(&mut *c, |b| shown(b, "schedstat", &sleeper.task(), "comm").as_deref() == Some("sleep")));
    let start = clock().boot_ns;
    let mut at = Vec::new();
    for i in 1..30 {
        let batches = pass_at(&mut *c, Stamp { boot_ns: start + i * SEC, wall_ns: 0 });
        if value(&batches, "schedstat", &sleeper.task(), "run").is_some() {
            at.push(i);
        }
    }
    assert!(at.windows(2).all(|w| w[1] - w[0] <= 10) && at.len() <= 12, "{at:?}");
}
