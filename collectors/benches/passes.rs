//! One full pass of each collector over the host's /proc, beside what no reader can avoid: `pread` of the same files on kept
//! descriptors into a kept buffer. The budget is 1.3 times that for the hot paths together (`all`).

use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt;

use criterion::{Criterion, criterion_group, criterion_main};
use whystall_collectors::{ALL, Built, Pass, Polled, Roots, Settings};
use whystall_event::Stamp;

/// The files that each collector reads in a pass. A name that is not listed is measured without its floor.
const FILES: &[(&str, &[&str])] = &[
    ("vmstat", &["vmstat"]),
    ("meminfo", &["meminfo"]),
    ("zoneinfo", &["zoneinfo"]),
    ("buddyinfo", &["buddyinfo"]),
    (
        "pressure",
        &["pressure/cpu", "pressure/memory", "pressure/io", "pressure/irq"],
    ),
    ("cpu", &["stat", "loadavg"]),
    ("softirqs", &["softirqs"]),
    ("softnet", &["net/softnet_stat"]),
    ("interrupts", &["interrupts"]),
];

fn open(roots: &Roots, names: &[&str]) -> Vec<File> {
    names
        .iter()
        .filter_map(|n| File::open(roots.proc(n)).ok())
        .collect()
}

fn bare(files: &[File], buf: &mut Vec<u8>) -> usize {
    let mut total = 0;
    for file in files {
        let mut len = 0;
        while let Ok(n @ 1..) = file.read_at(&mut buf[len..], len as u64) {
            len += n;
            if len == buf.len() {
                buf.resize(2 * len, 0);
            }
        }
        total += len;
    }
    total
}

fn pass(polled: &mut [Box<dyn Polled>]) -> usize {
    let mut pass = Pass::new(Stamp::default(), Stamp::default, u64::MAX);
    for p in polled {
        // A file that this host lacks is part of the collector's pass.
        let _ = p.collect(&mut pass);
    }
    pass.batches.len()
}

fn passes(c: &mut Criterion) {
    let roots = Roots::default();
    let mut buf = vec![0; 64 << 10];
    let (mut all, mut all_files) = (Vec::new(), Vec::new());
    for (name, files) in FILES {
        let Some(collector) = ALL.iter().find(|c| c.name == *name) else {
            continue;
        };
        let Ok(Built::Polled(polled)) = (collector.build)(&roots, &Settings::new()) else {
            continue;
        };
        let (mut polled, files) = ([polled], open(&roots, files));
        let mut group = c.benchmark_group(*name);
        group.bench_function("pread", |b| b.iter(|| black_box(bare(&files, &mut buf))));
        group.bench_function("pass", |b| b.iter(|| black_box(pass(&mut polled))));
        group.finish();
        all.extend(polled);
        all_files.extend(files);
    }
    let mut group = c.benchmark_group("all");
    group.bench_function("pread", |b| b.iter(|| black_box(bare(&all_files, &mut buf))));
    group.bench_function("pass", |b| b.iter(|| black_box(pass(&mut all))));
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(60).warm_up_time(std::time::Duration::from_millis(500))
        .measurement_time(std::time::Duration::from_secs(2));
    targets = passes
}
criterion_main!(benches);
