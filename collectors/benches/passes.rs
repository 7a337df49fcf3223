//! One full pass of each collector over the host's /proc, beside bare `pread` of the same files. The figures of one run are
//! taken one after the other; for their ratio on a busy machine see the bench `floor`.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};

mod common;

fn passes(c: &mut Criterion) {
    let mut buf = vec![0; 64 << 10];
    let mut subjects = common::subjects();
    for subject in &mut subjects {
        let mut group = c.benchmark_group(subject.name);
        group.bench_function("pread", |b| b.iter(|| black_box(common::bare(&subject.files, &mut buf))));
        group.bench_function("pass", |b| {
            b.iter(|| {
                let mut pass = common::pass();
                black_box(subject.polled.collect(&mut pass)).is_ok()
            })
        });
        group.finish();
    }
    let mut group = c.benchmark_group("all");
    group.bench_function("pread", |b| {
        b.iter(|| subjects.iter().map(|s| common::bare(&s.files, &mut buf)).sum::<usize>())
    });
    group.bench_function("pass", |b| {
        b.iter(|| {
            let mut pass = common::pass();
            for subject in &mut subjects {
                let _ = subject.polled.collect(&mut pass);
            }
            pass.batches.len()
        })
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(60)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = passes
}
criterion_main!(benches);
