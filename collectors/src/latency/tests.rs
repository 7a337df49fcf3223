//! Real faults on this machine's kernel, seen by the real probes. Each test says what it skips where it cannot run.

use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use whystall_event::{Batch, MS, Stamp, Stream};

use super::streams as s;
use crate::bpf::inject;
use crate::cgroup::testing::Group;
use crate::runner::clock;
use crate::{Built, Roots, Settings, Sink, Stop};

mod beside_bpftrace;
mod flood;
mod holds;

/// One at a time: the faults take CPUs away from one another.
static ALONE: Mutex<()> = Mutex::new(());

/// What a test may wait for something that it caused.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Default)]
struct Kept {
    batches: Mutex<Vec<Batch>>,
    problems: Mutex<Vec<String>>,
}

impl Sink for Kept {
    fn now(&self) -> Stamp {
        clock::now()
    }
    fn send(&self, batch: Batch) -> bool {
        self.batches.lock().unwrap().push(batch);
        true
    }
    fn problem(&self, what: &str) {
        self.problems.lock().unwrap().push(what.into());
    }
}

/// One row, by names, for tests.
#[derive(Debug, Clone)]
struct Seen {
    subject: String,
    boot_ns: u64,
    values: Vec<(String, f64)>,
    texts: Vec<(String, String)>,
}

impl Seen {
    fn number(&self, name: &str) -> f64 {
        self.values.iter().find(|(n, _)| n == name).map_or(f64::NAN, |(_, v)| *v)
    }
    fn text(&self, name: &str) -> &str {
        self.texts.iter().find(|(n, _)| n == name).map_or("", |(_, v)| v)
    }
}

impl Kept {
    /// All rows of a stream so far.
    fn rows(&self, stream: &Stream) -> Vec<Seen> {
        let batches = self.batches.lock().unwrap();
        let rows = batches.iter().filter(|b| b.stream.name == stream.name).flat_map(|b| {
            b.rows().map(|r| Seen {
                subject: r.subject.to_string(),
                boot_ns: r.boot_ns,
                values: (0..b.stream.fields.len())
                    .filter_map(|i| Some((b.stream.fields[i].name.to_string(), r.number(i)?)))
                    .collect(),
                texts: (0..b.stream.fields.len())
                    .filter_map(|i| Some((b.stream.fields[i].name.to_string(), r.text(i)?.to_string())))
                    .collect(),
            })
        });
        rows.collect()
    }

    /// Waits for a row.
    fn wait_for(&self, stream: &Stream, what: impl Fn(&Seen) -> bool) -> Seen {
        let until = Instant::now() + PATIENCE;
        loop {
            let rows = self.rows(stream);
            if let Some(row) = rows.iter().find(|r| what(r)) {
                return row.clone();
            }
            assert!(Instant::now() < until, "no such row of {}: {rows:#?}; {:?}", stream.name, self.problems);
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Runs the collector while `test` runs; says why not where it cannot.
fn with_probes(settings: &str, test: impl FnOnce(&Kept)) {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    let settings: Settings = settings.parse().unwrap();
    let mut built = match (super::COLLECTOR.build)(&Roots::default(), &settings) {
        Ok(Built::Streaming(s)) => s,
        Ok(Built::Polled(_)) => panic!("is streaming"),
        Err(e) => {
            println!("skipped: {e}");
            return;
        }
    };
    let (kept, stop) = (Kept::default(), Stop::default());
    let failed = AtomicBool::new(false);
    thread::scope(|scope| {
        let runner = scope.spawn(|| {
            let result = built.run(&kept, &stop);
            if let Err(e) = result {
                println!("skipped: {e}");
                failed.store(true, Ordering::Release);
            }
        });
        // Ends the collector however the test ends.
        struct End<'a>(&'a Stop);
        impl Drop for End<'_> {
            fn drop(&mut self) {
                self.0.set();
            }
        }
        let _end = End(&stop);
        while kept.rows(&s::probes::STREAM).is_empty() && !failed.load(Ordering::Acquire) {
            assert!(!runner.is_finished() || failed.load(Ordering::Acquire));
            thread::sleep(Duration::from_millis(10));
        }
        if !failed.load(Ordering::Acquire) {
            test(&kept);
        }
    });
}

fn level(kept: &Kept, probe: &str) -> f64 {
    let subject = format!("device:{probe}");
    kept.wait_for(&s::probes::STREAM, |r| r.subject == subject).number("level")
}

fn bind_to(cpu: usize) {
    // SAFETY: a zeroed cpu_set_t is an empty set, and the call is about this thread.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        assert_eq!(libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set), 0);
    }
}

fn become_fifo(priority: i32) -> bool {
    let param = libc::sched_param { sched_priority: priority };
    // SAFETY: `param` is valid, and the call is about this thread.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &param) == 0 }
}

fn name_thread(name: &std::ffi::CStr) {
    // SAFETY: a NUL-terminated name; about this thread.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
}

fn spin(time: Duration) {
    let end = Instant::now() + time;
    while Instant::now() < end {}
}

/// A thread that keeps a CPU busy until this is dropped, also by a failed assertion: a scope waits for its threads.
struct Busy<'a>(&'a AtomicBool);

impl<'a> Busy<'a> {
    fn on<'s>(cpu: usize, busy: &'a AtomicBool, scope: &'s thread::Scope<'s, 'a>) -> Busy<'a> {
        busy.store(true, Ordering::Relaxed);
        scope.spawn(move || {
            bind_to(cpu);
            while busy.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        });
        Busy(busy)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

#[test]
fn every_probe_says_its_level() {
    with_probes("", |kept| {
        for probe in super::probes::names() {
            let row = kept.wait_for(&s::probes::STREAM, |r| r.subject == format!("device:{probe}"));
            println!("{probe}: level {} {}", row.number("level"), row.text("how"));
            assert!(!row.text("how").is_empty());
        }
    });
}

#[test]
fn a_fifo_hog_is_the_culprit() {
    let _alone = crate::cgroup::testing::alone_in_real_time();
    with_probes("", |kept| {
        if level(kept, "runq") < 2.0 {
            println!("skipped: no BPF run-queue probe");
            return;
        }
        let measuring = &AtomicBool::new(false);
        // The victim measures the longest hole in its own time.
        let ((fifo, pid), hole) = thread::scope(|scope| {
            let victim = scope.spawn(|| {
                name_thread(c"ws-victim");
                bind_to(0);
                measuring.store(true, Ordering::Release);
                let (end, mut last, mut worst) =
                    (Instant::now() + Duration::from_millis(700), Instant::now(), Duration::ZERO);
                while last < end {
                    let now = Instant::now();
                    worst = worst.max(now - last);
                    last = now;
                }
                worst
            });
            let hog = scope.spawn(|| {
                name_thread(c"ws-hog");
                bind_to(0);
                while !measuring.load(Ordering::Acquire) {
                    thread::yield_now();
                }
                let pid = std::process::id();
                let fifo = become_fifo(50);
                if fifo {
                    spin(Duration::from_millis(300));
                }
                (fifo, pid)
            });
            (hog.join().unwrap(), victim.join().unwrap())
        });
        if !fifo {
            println!("skipped: no permission for SCHED_FIFO");
            return;
        }
        let row = kept.wait_for(&s::runq::STREAM, |r| {
            r.text("comm") == "ws-victim" && r.number("delay") > 0.9 * hole.as_nanos() as f64
        });
        println!("victim saw a hole of {hole:?}; {row:#?}");
        assert!((row.number("delay") / hole.as_nanos() as f64 - 1.0).abs() < 0.02);
        assert_eq!((row.text("culprit"), row.number("culprit_pid")), ("ws-hog", f64::from(pid)));
        assert_eq!((row.number("culprit_rt"), row.number("quota"), row.number("throttled")), (1.0, 0.0, 0.0));
        assert!(row.number("culprit_share") >= 0.9 && row.number("rt_share") >= 0.9);
        assert_eq!((row.text("behind"), row.number("allowed_cpus")), ("rt", 1.0));
        let told = kept
            .wait_for(&s::nosched::STREAM, |r| r.text("comm") == "ws-hog" && r.text("phase") == "running");
        assert_eq!((told.number("rt"), told.text("what"), told.text("stack")), (1.0, "user", ""));
        assert_eq!(told.text("kind"), "rt");
        let ended =
            kept.wait_for(&s::nosched::STREAM, |r| r.text("comm") == "ws-hog" && r.text("phase") == "ended");
        assert!(ended.number("duration") >= 0.9 * 300.0 * MS as f64 && ended.boot_ns > told.boot_ns);
    });
}

#[test]
fn reclaim_at_a_limit_is_counted_exactly() {
    with_probes("", |kept| {
        if level(kept, "reclaim.memcg") < 2.0 {
            println!("skipped: no BPF reclaim probe");
            return;
        }
        let Some(group) = Group::new("memory") else { return };
        let failed = fail_charges(&group);
        let subject = format!("cgroup:{}", group.path);
        let total = kept.wait_for(&s::reclaim_totals::STREAM, |r| {
            r.subject == subject && r.number("memcg_count") >= failed as f64
        });
        assert_eq!(total.number("memcg_count"), failed as f64, "failcnt moved by {failed}");
        let rows: Vec<_> =
            kept.rows(&s::reclaim_memcg::STREAM).into_iter().filter(|r| r.subject == subject).collect();
        assert!(rows.iter().all(|r| r.text("comm") == "ws-churn" && r.text("cgroup") == group.path));
        let told = kept.rows(&s::probes::STREAM);
        let told = told.iter().rfind(|r| r.subject == "device:reclaim.memcg").unwrap();
        println!(
            "{failed} reclaims, {} rows, suppressed {}, lost {}",
            rows.len(),
            told.number("suppressed"),
            told.number("lost")
        );
        let worst = rows.iter().map(|r| r.number("duration")).fold(0.0, f64::max);
        assert!(rows.is_empty() || worst == total.number("memcg_max"), "{worst} of {total:?}");
    });
}

fn limit(group: &Group, memory: &str) {
    let v1 = group.dir.join("memory.limit_in_bytes");
    let file = if v1.exists() { v1 } else { group.dir.join("memory.max") };
    std::fs::write(&file, memory).unwrap();
}

/// Writes more page cache in the group than its limit allows; how often the kernel says that the limit was hit.
fn fail_charges(group: &Group) -> u64 {
    limit(group, "16M");
    let failures = || -> u64 {
        let v1 = std::fs::read_to_string(group.dir.join("memory.failcnt")).ok();
        let v2 = std::fs::read_to_string(group.dir.join("memory.events")).ok();
        let max = v2.as_deref().and_then(|t| t.lines().find_map(|l| l.strip_prefix("max ")));
        v1.as_deref().or(max).and_then(|t| t.trim().parse().ok()).unwrap()
    };
    let file = tempfile::NamedTempFile::new_in(".").unwrap();
    let (before, path) = (failures(), file.path().to_path_buf());
    // Page cache of a file that is larger than the limit.
    churn(&group.dir, &path);
    let failed = failures() - before;
    assert!(failed > 0);
    failed
}

fn c_path(path: &Path) -> std::ffi::CString {
    std::ffi::CString::new(path.as_os_str().as_bytes()).unwrap()
}

/// In a process of its own in the group: writes a file. In large pieces, because with them each charge that fails is
/// followed by one reclaim; a page at a time, `failcnt` of v1 also counts attempts that needed none.
fn churn(group: &Path, file: &Path) {
    let (file, buffer) = (c_path(file), vec![0u8; 1 << 20]);
    // SAFETY: system calls with memory that was prepared before.
    in_a_process(group, c"ws-churn", || unsafe {
        let fd = libc::open(file.as_ptr(), libc::O_WRONLY);
        for _ in 0..256 {
            libc::write(fd, buffer.as_ptr().cast(), buffer.len());
        }
    });
}

/// Does `work`, which may make system calls only, in a process called `name` in the group, and waits for its end.
fn in_a_process(group: &Path, name: &std::ffi::CStr, work: impl FnOnce()) {
    let procs = c_path(&group.join("cgroup.procs"));
    // SAFETY: between fork and _exit the child makes system calls only, with memory that was prepared before.
    unsafe {
        let child = libc::fork();
        if child == 0 {
            libc::prctl(libc::PR_SET_NAME, name.as_ptr());
            let fd = libc::open(procs.as_ptr(), libc::O_WRONLY);
            libc::write(fd, b"0".as_ptr().cast(), 1);
            work();
            libc::_exit(0);
        }
        let mut status = 0;
        assert_eq!(libc::waitpid(child, &mut status, 0), child);
        assert_eq!(status, 0);
    }
}

#[test]
fn a_long_run_in_the_kernel_is_told_with_its_stack() {
    with_probes("", |kept| {
        let busy = AtomicBool::new(false);
        thread::scope(|scope| {
            // Somebody must want the CPU, or nobody waits.
            let busy = Busy::on(1, &busy, scope);
            let made = scope
                .spawn(|| {
                    name_thread(c"ws-kernel");
                    bind_to(1);
                    inject::kernel_run(100)
                })
                .join()
                .unwrap();
            drop(busy);
            match made {
                Err(e) => println!("skipped: {e}"),
                Ok(made) => {
                    println!("{made:?}");
                    let row = kept.wait_for(&s::nosched::STREAM, |r| {
                        r.text("comm") == "ws-kernel" && r.text("phase") == "running"
                    });
                    println!("{row:#?}");
                    assert!(
                        row.text("stack").contains("kernel_run;")
                            && row.text("stack").contains("do_syscall_64"),
                        "{row:?}"
                    );
                    assert_eq!(
                        (row.text("what"), row.text("kind"), row.number("rt")),
                        ("other", "kernel", 0.0)
                    );
                    assert!(row.number("runnable") >= 2.0);
                }
            }
        });
    });
}

#[test]
fn interrupts_off_and_slow_softirqs_are_told() {
    with_probes("", |kept| {
        let busy = AtomicBool::new(false);
        let made = thread::scope(|scope| {
            // An idle CPU has no tick that could be late.
            let _busy = Busy::on(1, &busy, scope);
            inject::irqoff(100, 1)
        });
        match made {
            Err(e) => println!("skipped: {e}"),
            Ok(made) => {
                let row = kept.wait_for(&s::irqoff::STREAM, |r| {
                    r.subject == "cpu:1" && r.number("duration") > 0.5 * made.last_ns as f64
                });
                println!("{made:?} {row:#?}");
            }
        }
        match inject::slow_softirq(60) {
            Err(e) => println!("skipped: {e}"),
            Ok(made) => {
                let row = kept.wait_for(&s::softirq::STREAM, |r| {
                    r.text("vector") == "NET_RX" && r.number("run") >= 0.98 * made.last_ns as f64
                });
                println!("{made:?} {row:#?}");
                assert_eq!(row.text("what"), "softirq_net_rx");
            }
        }
    });
}

#[test]
fn a_memory_cgroup_lives_and_is_freed() {
    with_probes("", |kept| {
        let Some(group) = Group::new("memory") else { return };
        let subject = format!("cgroup:{}", group.path);
        drop(group);
        for what in ["mkdir", "rmdir"] {
            let row =
                kept.wait_for(&s::memcg_life::STREAM, |r| r.subject == subject && r.text("what") == what);
            assert!(!row.text("comm").is_empty());
        }
        let freed =
            kept.wait_for(&s::memcg_life::STREAM, |r| r.subject == subject && r.text("what") == "release");
        assert!(freed.number("zombie_age") >= 0.0);
    });
}

#[test]
fn perf_tracepoints_stand_in_for_reclaim() {
    with_probes("level = \"perf\"", |kept| {
        if level(kept, "reclaim.memcg") != 1.0 {
            println!("skipped: no perf tracepoints: {:?}", kept.rows(&s::probes::STREAM).last());
            return;
        }
        assert_eq!(level(kept, "runq"), 0.0);
        let Some(group) = Group::new("memory") else { return };
        let failed = fail_charges(&group);
        let subject = format!("cgroup:{}", group.path);
        kept.wait_for(&s::reclaim_memcg::STREAM, |r| r.subject == subject && r.text("comm") == "ws-churn");
        let rows = kept.rows(&s::reclaim_memcg::STREAM).iter().filter(|r| r.subject == subject).count();
        println!("{failed} reclaims, {rows} rows");
        assert!(rows as u64 <= failed);
    });
}

/// Ends the threads that watch a flag, also when a test fails: a scope waits for all of its threads.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn waits_for_kernel_locks_are_told_where_wanted() {
    with_probes("on = [\"lock\"]\nlock = \"20us\"", |kept| {
        if level(kept, "lock") < 2.0 {
            println!("skipped: no lock tracepoints: {:?}", kept.rows(&s::probes::STREAM).last());
            return;
        }
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let _ends = Ends(&over);
            // Who fills a pipe holds its mutex meanwhile.
            let (from, to) = std::io::pipe().unwrap();
            // SAFETY: a system call on an open descriptor. A smaller pipe serves as well.
            unsafe { libc::fcntl(to.as_raw_fd(), libc::F_SETPIPE_SZ, 1 << 20) };
            for _ in 0..2 {
                let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                let over = &over;
                scope.spawn(move || {
                    name_thread(c"ws-piper");
                    let page = vec![1u8; 1 << 20];
                    while !over.load(Ordering::Relaxed) && to.write_all(&page).is_ok() {}
                });
                scope.spawn(move || {
                    let mut page = vec![0u8; 1 << 20];
                    // Ends when the writers have.
                    while from.read(&mut page).is_ok_and(|n| n > 0) {}
                });
            }
            drop((from, to));
            let row = kept.wait_for(&s::lock::STREAM, |r| r.text("comm") == "ws-piper");
            println!("{row:#?}");
            assert!(row.number("duration") >= 20_000.0 && !row.text("type").is_empty());
        });
    });
}
