//! What a pass costs, printed: `cargo test --release -p whystall-collectors -- --ignored --nocapture pass_costs`.
//!
//! CPU time of the passing thread, the median and the greatest of many passes. Nothing is asserted: figures depend on the
//! machine and on what else it does.

use super::testing::{Group, clock, pass_at};
use crate::{ALL, Built, Collector, Polled, Roots, Settings};
use whystall_event::{SEC, Stamp};

fn thread_cpu_us() -> f64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the struct is valid for writing.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut t) };
    t.tv_sec as f64 * 1e6 + t.tv_nsec as f64 / 1e3
}

fn measure(what: &str, collector: &Collector, between: &mut dyn FnMut()) {
    let mut polled: Box<dyn Polled> = match (collector.build)(&Roots::default(), &Settings::new()) {
        Ok(Built::Polled(polled)) => polled,
        other => {
            println!("skipped: {}: {other:?}", collector.name);
            return;
        }
    };
    let start = clock().boot_ns;
    let mut costs = Vec::new();
    let mut rows = 0;
    for i in 0..40 {
        between();
        let at = Stamp { boot_ns: start + i * SEC, wall_ns: 0 };
        let begun = thread_cpu_us();
        let batches = pass_at(&mut *polled, at);
        costs.push(thread_cpu_us() - begun);
        rows = batches.iter().map(|b| b.len()).sum();
    }
    let first = costs.remove(0);
    costs.sort_by(f64::total_cmp);
    let (median, most) = (costs[costs.len() / 2], costs[costs.len() - 1]);
    println!(
        "{what:24} {:14} first {first:8.0} median {median:7.0} most {most:7.0} us, {rows} rows",
        collector.name
    );
}

#[test]
#[ignore = "prints figures for people"]
fn pass_costs() {
    let of_cgroups = ["memcg", "cpu_cgroup", "zombie_memcg"];
    for n in [0, 10, 500, 2000] {
        let groups: Vec<Group> = ["memory", "cpu", "cpuacct"].iter().filter_map(|c| Group::new(c)).collect();
        for group in &groups {
            (0..n).for_each(|i| drop(group.child(format!("c{i}"))));
        }
        for collector in ALL.iter().filter(|c| of_cgroups.contains(&c.name)) {
            measure(&format!("{n} cgroups, idle"), collector, &mut || ());
        }
        measure(&format!("{n} cgroups, idle"), &crate::schedstat::COLLECTOR, &mut || ());
    }
    for n in [10, 500, 2000] {
        let mut ends = Vec::new();
        for _ in 0..n {
            let (end, ended) = std::sync::mpsc::channel::<()>();
            let sleeper =
                std::thread::Builder::new().stack_size(64 << 10).spawn(move || ended.recv().is_ok());
            ends.push((end, sleeper.unwrap()));
        }
        measure(&format!("{n} tasks, idle"), &crate::schedstat::COLLECTOR, &mut || ());
        // A task that began and ended: /proc is listed again.
        let wake = &mut || {
            std::thread::spawn(|| ()).join().unwrap();
        };
        measure(&format!("{n} tasks, one new"), &crate::schedstat::COLLECTOR, wake);
        for (end, sleeper) in ends {
            drop(end);
            sleeper.join().unwrap();
        }
    }
}
