//! How many values a second the windows take, ingest and tick together.

#![expect(clippy::disallowed_types, clippy::disallowed_methods, reason = "a benchmark measures time")]
#![allow(missing_docs, reason = "criterion's macro makes a public function")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use whystall_engine::window::{Calc, Limits, WindowSpec, Windows};
use whystall_event::{Batch, Field, FieldKind, SEC, Stamp, Stream, Subject, SubjectKind, Unit};

static COUNTERS: [Field; 10] = [
    Field::counter("f0", Unit::Count, ""),
    Field::counter("f1", Unit::Count, ""),
    Field::counter("f2", Unit::Count, ""),
    Field::counter("f3", Unit::Time, ""),
    Field::counter("f4", Unit::Time, ""),
    Field::counter("f5", Unit::Count, ""),
    Field::counter("f6", Unit::Count, ""),
    Field::counter("f7", Unit::Count, ""),
    Field::counter("f8", Unit::Count, ""),
    Field::counter("f9", Unit::Count, ""),
];
static MIXED: [Field; 10] = [
    Field::gauge("f0", Unit::Count, ""),
    Field::gauge("f1", Unit::Count, ""),
    Field::gauge("f2", Unit::Count, ""),
    Field::gauge("f3", Unit::Count, ""),
    Field::counter("f4", Unit::Count, ""),
    Field::counter("f5", Unit::Count, ""),
    Field::counter("f6", Unit::Count, ""),
    Field::counter("f7", Unit::Count, ""),
    Field::gauge("f8", Unit::Count, ""),
    Field::gauge("f9", Unit::Count, ""),
];

/// A stretch of batches that is played again and again, with a break between.
struct Play {
    windows: Windows,
    batches: Vec<Batch>,
}

fn stamp(boot_ns: u64) -> Stamp {
    Stamp { boot_ns, wall_ns: boot_ns }
}

impl Play {
    fn new(fields: &'static [Field], subjects: usize, ticks: u64, calc: fn(&Field) -> Calc) -> Play {
        let stream = Arc::new(Stream::sampled("bench", "", &[SubjectKind::Cgroup], fields));
        let names: Vec<Subject> = (0..subjects)
            .map(|i| Subject::cgroup(format!("/kubepods.slice/burstable/pod{i:08x}.slice/c{i}")))
            .collect();
        let mut windows = Windows::new(SEC, Limits::default());
        for f in fields {
            windows.declare(&WindowSpec::new("bench", &f.name, SubjectKind::Cgroup, calc(f), 60 * SEC));
        }
        let make = |tick: u64| {
            let mut b = Batch::new(stream.clone(), stamp(tick * SEC));
            b.reserve(subjects);
            for (i, s) in names.iter().enumerate() {
                let mut row = b.row(s.clone());
                for f in 0..fields.len() {
                    row.number(f, (tick * (i + f) as u64) as f64);
                }
            }
            b
        };
        Play { windows, batches: (1..=ticks).map(make).collect() }
    }

    fn values(&self) -> u64 {
        self.batches.iter().map(|b| (b.len() * b.stream.fields.len()) as u64).sum()
    }

    /// Plays all batches `rounds` times, and returns the time that ingest and tick took.
    fn run(&mut self, rounds: u64) -> Duration {
        let mut took = Duration::ZERO;
        for _ in 0..rounds {
            self.windows.break_all(stamp(0));
            let begin = Instant::now();
            for b in &self.batches {
                self.windows.ingest(b);
                self.windows.tick(b.at);
            }
            took += begin.elapsed();
            black_box(&self.windows);
        }
        took
    }
}

fn benches(c: &mut Criterion) {
    let calc = |f: &Field| match (f.kind, f.name.as_ref()) {
        (FieldKind::Counter, _) => Calc::Rate,
        (_, "f0" | "f1") => Calc::Max,
        _ => Calc::Mean,
    };
    let mut group = c.benchmark_group("windows");
    group.sample_size(10);
    for (name, fields, subjects, ticks) in [
        ("10k subjects, 10 counters, rate 60 s", &COUNTERS[..], 10_000, 90),
        ("10k subjects, 10 fields, rate, max and mean 60 s", &MIXED[..], 10_000, 90),
        ("1k subjects, 1 counter, rate 60 s", &COUNTERS[..1], 1000, 180),
    ] {
        let mut play = Play::new(fields, subjects, ticks, calc);
        group.throughput(Throughput::Elements(play.values()));
        group.bench_function(name, |b| b.iter_custom(|rounds| play.run(rounds)));
    }
    group.finish();
}

criterion_group!(windows, benches);
criterion_main!(windows);
