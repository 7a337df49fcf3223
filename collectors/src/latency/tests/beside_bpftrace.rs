//! The same faults as bpftrace sees them, where it is installed.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, Stdio};

use super::*;

/// A running bpftrace whose programs are attached.
struct Bpftrace {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Bpftrace {
    /// `None`, saying why, where it cannot run.
    fn start(program: &str) -> Option<Bpftrace> {
        let program = format!("{program} BEGIN {{ printf(\"ready\\n\"); }}");
        #[allow(clippy::disallowed_methods, reason = "the tool to compare with")]
        let started = Command::new("bpftrace")
            .args(["-e", &program])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = started.inspect_err(|e| println!("skipped: bpftrace: {e}")).ok()?;
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        while !line.starts_with("ready") {
            line.clear();
            if out.read_line(&mut line).unwrap() == 0 {
                let mut why = String::new();
                child.stderr.take().unwrap().read_to_string(&mut why).unwrap();
                child.wait().unwrap();
                println!("skipped: bpftrace does not work here: {}", why.trim());
                return None;
            }
        }
        Some(Bpftrace { child, out })
    }

    /// Ends it; its `@count` and `@max`.
    fn end(mut self) -> (f64, f64) {
        // SAFETY: the child has not been waited for, so its pid is its own.
        unsafe { libc::kill(self.child.id() as libc::pid_t, libc::SIGINT) };
        let mut text = String::new();
        self.out.read_to_string(&mut text).unwrap();
        self.child.wait().unwrap();
        let figure = |name: &str| -> f64 {
            let found = text.lines().find_map(|l| l.strip_prefix(name)?.trim().parse().ok());
            found.unwrap_or_else(|| panic!("no {name} in {text:?}"))
        };
        (figure("@count:"), figure("@max:"))
    }
}

impl Drop for Bpftrace {
    fn drop(&mut self) {
        // It has ended already, unless a test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Each of the two programs runs within what the other measures: some microseconds.
fn agree(ours: f64, theirs: f64) {
    assert!((ours - theirs).abs() <= f64::max(0.01 * theirs, 10_000.0), "{ours} and {theirs} ns");
}

#[test]
fn reclaims_at_a_limit() {
    const PROGRAM: &str = r#"
        tracepoint:vmscan:mm_vmscan_memcg_reclaim_begin /comm == "ws-churn"/ { @began[tid] = nsecs; }
        tracepoint:vmscan:mm_vmscan_memcg_reclaim_end /@began[tid]/ {
            @count = count(); @max = max(nsecs - @began[tid]); delete(@began[tid]);
        }
        END { clear(@began); }"#;
    with_probes("", |kept| {
        if level(kept, "reclaim.memcg") < 2.0 {
            println!("skipped: no BPF reclaim probe");
            return;
        }
        let Some(bpftrace) = Bpftrace::start(PROGRAM) else { return };
        let Some(group) = Group::new("memory") else { return };
        let failed = fail_charges(&group);
        let (count, max) = bpftrace.end();
        let subject = format!("cgroup:{}", group.path);
        let total = kept.wait_for(&s::reclaim_totals::STREAM, |r| {
            r.subject == subject && r.number("memcg_count") >= count
        });
        let (n, longest) = (total.number("memcg_count"), total.number("memcg_max"));
        println!("failcnt {failed}; count {count} and {n}; max {max} and {longest} ns");
        assert_eq!(n, count);
        agree(longest, max);
    });
}

#[test]
fn waits_for_a_quota() {
    const LONG: f64 = 50.0 * MS as f64;
    // A task that still wants to run shows as 0, or as 256 where it was preempted.
    const PROGRAM: &str = r#"
        tracepoint:sched:sched_switch /args->prev_comm == "ws-quota" && (args->prev_state & 255) == 0/ {
            @since[args->prev_pid] = nsecs;
        }
        tracepoint:sched:sched_switch /args->next_comm == "ws-quota" && @since[args->next_pid]/ {
            if (nsecs - @since[args->next_pid] >= 50000000) {
                @count = count(); @max = max(nsecs - @since[args->next_pid]);
            }
            delete(@since[args->next_pid]);
        }
        END { clear(@since); }"#;
    with_probes("", |kept| {
        if level(kept, "runq") < 2.0 {
            println!("skipped: no BPF run-queue probe");
            return;
        }
        let Some(bpftrace) = Bpftrace::start(PROGRAM) else { return };
        let Some(group) = Group::new("cpu") else { return };
        if group.dir.join("cpu.max").exists() {
            std::fs::write(group.dir.join("cpu.max"), "20000 100000").unwrap();
        } else {
            std::fs::write(group.dir.join("cpu.cfs_quota_us"), "20000").unwrap();
        }
        in_a_process(&group.dir, c"ws-quota", || spin(Duration::from_secs(2)));
        let (count, max) = bpftrace.end();
        let ours = || -> Vec<Seen> {
            // Each wait has a row for its cgroup, too.
            let mine = |r: &Seen| r.subject.starts_with("cpu:") && r.text("comm") == "ws-quota";
            let long = |r: &Seen| mine(r) && r.number("delay") >= LONG;
            kept.rows(&s::runq::STREAM).into_iter().filter(long).collect()
        };
        let until = Instant::now() + PATIENCE;
        while (ours().len() as f64) < count && Instant::now() < until {
            thread::sleep(Duration::from_millis(20));
        }
        let ours = ours();
        let longest = ours.iter().map(|r| r.number("delay")).fold(0.0, f64::max);
        println!("count {count} and {}; max {max} and {longest} ns", ours.len());
        // A wait of just 50 ms may be on either side.
        assert!(count >= 5.0 && (ours.len() as f64 - count).abs() <= 1.0, "{count} and {}", ours.len());
        agree(longest, max);
        assert!(ours.iter().all(|r| r.number("quota") == 1.0), "{ours:#?}");
    });
}
