//! This crate's reader and parsers beside the `procfs` crate's on the files that both know, over the host's /proc: from the
//! system call to typed values. The crate has no parser for softirqs, softnet, zoneinfo, buddyinfo and interrupts; softirqs
//! stand alone here.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use procfs::{Current, CurrentSI};
use whystall_collectors::read::{Buf, KeptFile};
use whystall_collectors::{Roots, cpu, meminfo, pressure, softirqs, vmstat};

fn parse(c: &mut Criterion) {
    let roots = Roots::default();
    let open = |name: &str| KeptFile::lazy(roots.proc(name));
    let mut buf = Buf::new();

    let mut file = open("vmstat");
    let mut group = c.benchmark_group("vmstat");
    group
        .bench_function("kept", |b| b.iter(|| black_box(file.parse(&mut buf, vmstat::parse_vmstat)).is_ok()));
    group.bench_function("procfs", |b| b.iter(|| black_box(procfs::VmStat::current()).is_ok()));
    group.finish();

    let mut file = open("meminfo");
    let mut group = c.benchmark_group("meminfo");
    group.bench_function("kept", |b| {
        b.iter(|| black_box(file.parse(&mut buf, meminfo::parse_meminfo)).is_ok())
    });
    group.bench_function("procfs", |b| b.iter(|| black_box(procfs::Meminfo::current()).is_ok()));
    group.finish();

    let mut file = open("stat");
    let mut stat = cpu::Stat::default();
    let mut group = c.benchmark_group("stat");
    group.bench_function("kept", |b| {
        b.iter(|| black_box(file.parse(&mut buf, |bytes| cpu::parse_stat(bytes, &mut stat))).is_ok())
    });
    group.bench_function("procfs", |b| b.iter(|| black_box(procfs::KernelStats::current()).is_ok()));
    group.finish();

    let mut file = open("pressure/memory");
    let mut group = c.benchmark_group("pressure");
    group.bench_function("kept", |b| {
        b.iter(|| black_box(file.parse(&mut buf, pressure::parse_pressure)).is_ok())
    });
    group.bench_function("procfs", |b| b.iter(|| black_box(procfs::MemoryPressure::current()).is_ok()));
    group.finish();

    let mut file = open("softirqs");
    let mut cpus = Vec::new();
    let mut group = c.benchmark_group("softirqs");
    group.bench_function("kept", |b| {
        b.iter(|| black_box(file.parse(&mut buf, |bytes| softirqs::parse_softirqs(bytes, &mut cpus))).is_ok())
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(60).warm_up_time(std::time::Duration::from_millis(500))
        .measurement_time(std::time::Duration::from_secs(2));
    targets = parse
}
criterion_main!(benches);
