//! Reclaim by the ten thousand, and the same reclaims as bpftrace sees them.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

use super::*;

/// Writers at once, each in a process of its own.
const WRITERS: usize = 4;

#[test]
fn a_flood_of_reclaims_is_bounded_and_what_is_held_back_is_counted() {
    with_probes("reclaim = \"10us\"", |kept| {
        if level(kept, "reclaim.memcg") < 2.0 {
            println!("skipped: no BPF reclaim probe");
            return;
        }
        let Some(group) = Group::new("memory") else { return };
        limit(&group, "4M");
        let begun = Instant::now();
        let files: Vec<_> = (0..WRITERS).map(|_| tempfile::NamedTempFile::new_in(".").unwrap()).collect();
        thread::scope(|scope| {
            for file in &files {
                scope.spawn(|| (0..4).for_each(|_| churn(&group.dir, file.path())));
            }
        });
        let seconds = begun.elapsed().as_secs_f64();
        let subject = format!("cgroup:{}", group.path);
        let total = kept.wait_for(&s::reclaim_totals::STREAM, |r| r.subject == subject);
        let last = |stream: &Stream, subject: &str| {
            kept.rows(stream).into_iter().rfind(|r| r.subject == subject).unwrap()
        };
        // A whole reading after the flood.
        let after = clock::now().boot_ns;
        kept.wait_for(&s::probes::STREAM, |r| r.boot_ns > after);
        kept.wait_for(&s::reclaim_totals::STREAM, |r| r.boot_ns > after);
        let host = last(&s::reclaim_totals::STREAM, "host").number("memcg_count");
        let told = last(&s::probes::STREAM, "device:reclaim.memcg");
        let (events, suppressed, lost) =
            (told.number("events"), told.number("suppressed"), told.number("lost"));
        let rate = last(&s::reclaim_totals::STREAM, &subject).number("memcg_count") / seconds;
        println!("{rate:.0} reclaims/s; {events} told, {suppressed} held back, {lost} lost; {total:?}");
        // Both limits of a CPU, for the many and for the worst, in each begun second.
        let cpus = thread::available_parallelism().unwrap().get() as f64;
        let most = 2.0 * 1000.0 * cpus * (seconds + 4.0);
        assert!(events <= most, "{events} events in {seconds} s");
        assert!(events + suppressed + lost <= host, "no more than there were: {host}");
        if suppressed + lost == 0.0 {
            println!("skipped: {rate:.0} reclaims/s are no flood");
        }
    });
}

#[test]
fn bpftrace_counts_the_same() {
    const PROGRAM: &str = r#"
        tracepoint:vmscan:mm_vmscan_memcg_reclaim_begin /comm == "ws-churn"/ { @began[tid] = nsecs; }
        tracepoint:vmscan:mm_vmscan_memcg_reclaim_end /@began[tid]/ {
            @count = count(); @max = max(nsecs - @began[tid]); delete(@began[tid]);
        }
        BEGIN { printf("ready\n"); }
        END { clear(@began); }"#;
    with_probes("", |kept| {
        if level(kept, "reclaim.memcg") < 2.0 {
            println!("skipped: no BPF reclaim probe");
            return;
        }
        #[allow(clippy::disallowed_methods, reason = "the tool to compare with")]
        let started = Command::new("bpftrace")
            .args(["-e", PROGRAM])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = match started {
            Ok(child) => child,
            Err(e) => {
                println!("skipped: bpftrace: {e}");
                return;
            }
        };
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        while !line.starts_with("ready") {
            line.clear();
            if out.read_line(&mut line).unwrap() == 0 {
                let mut why = String::new();
                child.stderr.take().unwrap().read_to_string(&mut why).unwrap();
                child.wait().unwrap();
                println!("skipped: bpftrace does not work here: {}", why.trim());
                return;
            }
        }
        let group = Group::new("memory");
        let failed = group.as_ref().map(fail_charges);
        // SAFETY: the child has not been waited for, so its pid is its own.
        unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGINT) };
        let mut text = String::new();
        out.read_to_string(&mut text).unwrap();
        child.wait().unwrap();
        let (Some(group), Some(failed)) = (group, failed) else { return };
        let figure = |name: &str| -> f64 {
            let found = text.lines().find_map(|l| l.strip_prefix(name)?.trim().parse().ok());
            found.unwrap_or_else(|| panic!("no {name} in {text:?}"))
        };
        let (count, max) = (figure("@count:"), figure("@max:"));
        let subject = format!("cgroup:{}", group.path);
        let total = kept.wait_for(&s::reclaim_totals::STREAM, |r| {
            r.subject == subject && r.number("memcg_count") >= count
        });
        let ours = total.number("memcg_max");
        println!(
            "failcnt {failed}; count {count} and {}; max {max} and {ours} ns",
            total.number("memcg_count")
        );
        assert_eq!(total.number("memcg_count"), count);
        // Each of the two programs runs within what the other measures: some microseconds.
        assert!((ours - max).abs() <= f64::max(0.01 * max, 10_000.0), "{ours} and {max}");
    });
}
