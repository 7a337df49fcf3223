//! Reclaim by the ten thousand.

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
