//! The runner with real threads and short intervals. Nothing here asserts how long something takes: tests wait for
//! conditions, and give up after a time that no working runner needs.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use whystall_event::{Field, Stream, Subject, SubjectKind, Unit};

use super::*;
use crate::{CollectError, Pass, Sink, Streaming};

const FIELDS: &[Field] = &[Field::gauge("n", Unit::Count, "")];
const GIVE_UP: Duration = Duration::from_secs(30);

fn stream(name: &'static str) -> Arc<Stream> {
    Arc::new(Stream::sampled(name, "", &[SubjectKind::Host], FIELDS))
}

fn row(stream: &Arc<Stream>, n: u32) -> Batch {
    let mut b = Batch::new(stream.clone(), clock::now());
    b.row(Subject::Host).gauge(0, f64::from(n));
    b
}

/// A polled collector made of a closure that is told the number of its pass.
struct Poll<F>(Arc<Stream>, u32, F);

impl<F: FnMut(u32) -> Result<(), CollectError> + Send> crate::Polled for Poll<F> {
    fn collect(&mut self, pass: &mut Pass) -> Result<(), CollectError> {
        self.1 += 1;
        (self.2)(self.1)?;
        pass.batches.push(row(&self.0, self.1));
        Ok(())
    }
}

fn polled(
    name: &'static str,
    f: impl FnMut(u32) -> Result<(), CollectError> + Send + 'static,
) -> Result<Built, Unavailable> {
    Ok(Built::Polled(Box::new(Poll(stream(name), 0, f))))
}

/// A streaming collector made of a closure.
struct Loop<F>(F);

impl<F: FnMut(&dyn Sink, &Stop) -> Result<(), CollectError> + Send> Streaming for Loop<F> {
    fn run(&mut self, sink: &dyn Sink, stop: &Stop) -> Result<(), CollectError> {
        (self.0)(sink, stop)
    }
}

const TICK: Duration = Duration::from_millis(20);

fn job(name: &str, built: Result<Built, Unavailable>) -> Job {
    Job::new(name, TICK, built)
}

fn start(jobs: Vec<Job>) -> Runner {
    Runner::start(jobs, &Options::every(TICK)).unwrap()
}

/// Hands events to `until` until it returns true.
fn run_until(runner: &mut Runner, what: &str, mut until: impl FnMut(&Event, &Runner) -> bool) {
    let give_up = Instant::now() + GIVE_UP;
    loop {
        let event = runner.next(Duration::from_millis(100));
        if until(&event, runner) {
            return;
        }
        assert!(Instant::now() < give_up, "gave up waiting for: {what}");
    }
}

fn of(runner: &Runner, name: &str) -> CollectorStatus {
    runner.status().into_iter().find(|s| &*s.name == name).unwrap()
}

#[test]
fn batches_come_before_the_tick_they_belong_to() {
    let mut runner = start(vec![job("a", polled("a", |_| Ok(()))), job("b", polled("b", |_| Ok(())))]);
    let (mut seen, mut ticks, mut newest) = (Vec::new(), 0, 0);
    run_until(&mut runner, "five ticks", |event, _| {
        match event {
            Event::Batch(b) => {
                newest = newest.max(b.at.boot_ns);
                seen.push(b.stream.name.to_string());
            }
            Event::Tick(t) => {
                assert!(t.at.boot_ns >= newest, "no row lies after the tick");
                assert!(t.boundary_ns <= t.at.boot_ns);
                if ticks == 0 {
                    assert!(seen.contains(&"a".to_string()) && seen.contains(&"b".to_string()));
                    assert!(seen.contains(&"self.collector".to_string()));
                } else {
                    assert_eq!(t.boundary_ns % nanos(TICK), 0, "aligned");
                }
                for own in ["self.tick", "self.lost", "self.problem"] {
                    assert!(seen.iter().any(|s| s == own), "{own} each tick");
                }
                ticks += 1;
                seen.clear();
            }
            Event::Idle | Event::Stopped => {}
        }
        ticks == 5
    });
    assert_eq!(runner.stop(GIVE_UP), Vec::<String>::new());
}

#[test]
fn a_hung_collector_stalls_neither_others_nor_ticks_and_is_named() {
    let release = Arc::new(AtomicBool::new(false));
    let hung = release.clone();
    let hang = move |_| {
        while !hung.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    };
    let mut runner = start(vec![
        job("hung", polled("hung", hang)),
        job("a", polled("a", |_| Ok(()))),
        job("b", polled("b", |_| Ok(()))),
    ]);
    let (mut ticks, mut a, mut b) = (0, 0, 0);
    run_until(&mut runner, "others go on", |event, _| {
        match event {
            Event::Tick(_) => ticks += 1,
            Event::Batch(batch) if batch.stream.name == "a" => a += 1,
            Event::Batch(batch) if batch.stream.name == "b" => b += 1,
            _ => {}
        }
        ticks >= 10 && a >= 5 && b >= 5
    });
    assert_eq!(of(&runner, "hung").passes, 0);
    // It comes back: its batch is taken, and it is passed over no more.
    release.store(true, Ordering::Release);
    run_until(&mut runner, "the hung one comes back", |_, r| of(r, "hung").passes >= 3);
    assert!(of(&runner, "hung").overruns >= 1);
    release.store(false, Ordering::Release);
    run_until(&mut runner, "it hangs again", |_, r| r.shared.lock().schedule.running().count() == 1);
    assert_eq!(runner.stop(Duration::from_millis(50)), ["hung"]);
    release.store(true, Ordering::Release);
}

#[test]
fn failures_back_off_and_recover_and_nothing_is_no_failure() {
    let broken = Arc::new(AtomicBool::new(true));
    let flag = broken.clone();
    let fails = move |_| match flag.load(Ordering::Acquire) {
        true => Err(CollectError::Other("no such luck".into())),
        false => Ok(()),
    };
    let mut runner = start(vec![
        job("fails", polled("fails", fails)),
        job("empty", polled("empty", |_| Err(CollectError::Nothing("no device".into())))),
        job("never", Err(Unavailable::because("no such kernel"))),
    ]);
    run_until(&mut runner, "the interval to grow", |_, r| {
        of(r, "fails").interval_ns.is_some_and(|ns| ns > nanos(TICK))
    });
    let s = of(&runner, "fails");
    assert_eq!((s.state, s.error.as_deref()), (Health::Failing, Some("no such luck")));
    assert_eq!((of(&runner, "empty").state, of(&runner, "empty").failures), (Health::Nothing, 0));
    assert_eq!(of(&runner, "never").state, Health::Unavailable);
    broken.store(false, Ordering::Release);
    run_until(&mut runner, "it recovers", |_, r| {
        let s = of(r, "fails");
        s.state == Health::Ok && s.error.is_none() && s.interval_ns == Some(nanos(TICK))
    });
}

#[test]
fn a_panicking_collector_is_built_again_and_at_last_dead() {
    let built = Arc::new(AtomicU32::new(0));
    let count = built.clone();
    let panics = |_| -> Result<(), CollectError> { panic!("as the test wants") };
    let again: Rebuild = Box::new(move || {
        count.fetch_add(1, Ordering::AcqRel);
        polled("panics", panics)
    });
    let mut runner = Runner::start(
        vec![
            Job::new("panics", Duration::from_millis(1), polled("panics", panics)).rebuild(again),
            job("a", polled("a", |_| Ok(()))),
        ],
        &Options::every(TICK),
    )
    .unwrap();
    run_until(&mut runner, "it is dead", |_, r| of(r, "panics").state == Health::Dead);
    let s = of(&runner, "panics");
    assert_eq!((s.panics, s.restarts, built.load(Ordering::Acquire)), (5, 4, 4));
    assert_eq!(s.error.as_deref(), Some("panicked: as the test wants"));
    let passes = of(&runner, "a").passes;
    run_until(&mut runner, "others go on", |_, r| of(r, "a").passes > passes + 2);
    assert_eq!(of(&runner, "panics").panics, 5);
}

#[test]
fn a_streaming_collector_that_ends_is_started_again_and_admits_the_gap() {
    let events = stream("events");
    let run = move |sink: &dyn Sink, _: &Stop| {
        for n in 0..2 {
            sink.send(row(&events, n));
        }
        sink.problem("about to end\n");
        Err(CollectError::Other("the source broke".into()))
    };
    let mut runner = start(vec![job("s", Ok(Built::Streaming(Box::new(Loop(run)))))]);
    let (mut covered, mut problems) = (Vec::new(), Vec::new());
    run_until(&mut runner, "a restart", |event, _| {
        if let Event::Batch(b) = event {
            if b.stream.name == "events" {
                covered.push(b.covered_to);
            }
            if b.stream.name == "self.problem" {
                problems.extend(b.rows().filter_map(|r| r.text(1).cloned()));
            }
        }
        covered.len() >= 4 && problems.len() >= 2
    });
    assert_eq!(covered[..4], [true, true, false, true]);
    assert_eq!(&*problems[0], "about to end\\n");
    let s = of(&runner, "s");
    assert!(s.restarts >= 1 && s.failures >= 2 && s.streaming, "{s:?}");
    assert_eq!(runner.stop(GIVE_UP), Vec::<String>::new());
}

#[test]
fn a_full_queue_drops_counts_and_tells() {
    let events = stream("flood");
    let sent = Arc::new(AtomicU32::new(0));
    let dropped = Arc::new(AtomicU32::new(0));
    let (s, d) = (sent.clone(), dropped.clone());
    let run = move |sink: &dyn Sink, stop: &Stop| {
        while !stop.is_set() && s.load(Ordering::Acquire) < 5000 {
            s.fetch_add(1, Ordering::AcqRel);
            if !sink.send(row(&events, 1)) {
                d.fetch_add(1, Ordering::AcqRel);
            }
        }
        while !stop.is_set() {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    };
    let options = Options { queue_bytes: 100_000, ..Options::every(TICK) };
    let mut runner =
        Runner::start(vec![job("s", Ok(Built::Streaming(Box::new(Loop(run)))))], &options).unwrap();
    // Fetch nothing until all was sent.
    let give_up = Instant::now() + GIVE_UP;
    while sent.load(Ordering::Acquire) < 5000 && Instant::now() < give_up {
        std::thread::sleep(Duration::from_millis(1));
    }
    let (mut got, mut lost) = (0, 0.0);
    run_until(&mut runner, "the loss is told", |event, _| {
        match event {
            Event::Batch(b) if b.stream.name == "flood" => got += 1,
            Event::Batch(b) if b.stream.name == "self.lost" => {
                lost += b.rows().filter_map(|r| r.number(0)).sum::<f64>();
            }
            _ => {}
        }
        // The last batch may be counted by its collector just after the receiver has it.
        got + dropped.load(Ordering::Acquire) >= 5000 && lost >= f64::from(dropped.load(Ordering::Acquire))
    });
    assert!(lost > 0.0);
    assert_eq!(f64::from(got) + lost, 5000.0);
}

#[test]
fn stop_wakes_the_receiver_and_hands_out_what_is_queued() {
    let mut runner = start(vec![job("a", polled("a", |_| Ok(())))]);
    let stopper = runner.stopper();
    run_until(&mut runner, "a first pass", |event, _| matches!(event, Event::Tick(_)));
    let other = std::thread::spawn(move || stopper.stop());
    run_until(&mut runner, "the end", |event, _| matches!(event, Event::Stopped));
    assert!(runner.shared.lock().queue.is_empty());
    other.join().unwrap();
    assert!(matches!(runner.next(Duration::ZERO), Event::Stopped));
    assert_eq!(runner.stop(GIVE_UP), Vec::<String>::new());
}

/// What running costs when there is nothing to do: 15 collectors that read nothing, for 20 s.
#[test]
#[ignore = "measures for 20 s; run with --release --nocapture"]
fn idle_cost() {
    const NAMES: [&str; 15] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o"];
    let jobs = NAMES.map(|n| Job::new(n, Duration::from_secs(1), polled(n, |_| Ok(())))).into();
    let mut runner = Runner::start(jobs, &Options::every(Duration::from_secs(1))).unwrap();
    let usage = || {
        // SAFETY: all zeros is a valid rusage, which the call fills.
        let mut u: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: `u` is valid for writing.
        assert_eq!(unsafe { libc::getrusage(libc::RUSAGE_SELF, &mut u) }, 0);
        let us = |t: libc::timeval| t.tv_sec * 1_000_000 + t.tv_usec;
        (us(u.ru_utime) + us(u.ru_stime), u.ru_nvcsw)
    };
    let (mut ticks, mut late) = (0, Vec::new());
    let mut before = usage();
    while ticks < 21 {
        if let Event::Tick(t) = runner.next(Duration::from_secs(10)) {
            if ticks == 0 {
                before = usage();
            }
            late.push(t.late_ns / 1000);
            ticks += 1;
        }
    }
    let after = usage();
    late.sort_unstable();
    println!(
        "{} us CPU a minute, {} context switches a tick, tick after boundary: median {} us, worst {} us",
        (after.0 - before.0) * 3,
        (after.1 - before.1) as f64 / 20.0,
        late[late.len() / 2],
        late[late.len() - 1],
    );
}
