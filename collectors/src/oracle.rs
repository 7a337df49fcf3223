//! The parsers against the `procfs` crate's, as a second opinion on the files that both read. Tests only: the crate is no
//! part of the daemon (docs/decisions/0002-reading-proc.md).

use std::path::{Path, PathBuf};

use procfs::{FromBufRead, FromBufReadSI, FromRead, LocalSystemInfo};
use whystall_event::Stream;

use crate::{cpu, meminfo, pressure, vmstat};

/// A file in every tree of fixtures that has it, and on this host.
fn every(file: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let mut paths: Vec<_> = std::fs::read_dir(fixtures)
        .unwrap()
        .map(|e| e.unwrap().path().join("proc").join(file))
        .chain([Path::new("/").join("proc").join(file)])
        .filter(|p| p.exists())
        .collect();
    paths.sort();
    let read = |p: PathBuf| std::fs::read(&p).ok().map(|bytes| (p, bytes));
    let all: Vec<_> = paths.into_iter().filter_map(read).collect();
    assert!(all.len() >= 4, "{file}: only {} files", all.len());
    all
}

fn stream(collector: &'static crate::Collector) -> &'static Stream {
    &collector.streams[0]
}

#[test]
fn vmstat_agrees() {
    for (path, bytes) in every("vmstat") {
        let ours = vmstat::parse_vmstat(&bytes).unwrap();
        let theirs = procfs::VmStat::from_buf_read(&bytes[..]).unwrap().0;
        for (i, field) in stream(&vmstat::COLLECTOR).fields.iter().enumerate() {
            let sum_of_splits = ["allocstall", "workingset_refault", "workingset_restore"]
                .contains(&&*field.name)
                && !theirs.contains_key(&*field.name);
            let expected = if sum_of_splits {
                let part = |name: &String| {
                    let rest = name.strip_prefix(&*field.name).and_then(|r| r.strip_prefix('_'));
                    rest.is_some()
                };
                theirs.iter().filter(|(name, _)| part(name)).map(|(_, v)| *v).reduce(|a, b| a + b)
            } else {
                theirs.get(&*field.name).copied()
            };
            assert_eq!(ours.get(i), expected.map(|v| v as u64), "{}: {}", path.display(), field.name);
        }
    }
}

#[test]
fn meminfo_agrees() {
    for (path, bytes) in every("meminfo") {
        let ours = meminfo::parse_meminfo(&bytes).unwrap();
        let theirs = procfs::Meminfo::from_buf_read(&bytes[..]).unwrap();
        let get = |name: &str| ours.get(stream(&meminfo::COLLECTOR).field_index(name).unwrap());
        let pairs = [
            ("mem_total", Some(theirs.mem_total)),
            ("mem_free", Some(theirs.mem_free)),
            ("mem_available", theirs.mem_available),
            ("cached", Some(theirs.cached)),
            ("active_anon", theirs.active_anon),
            ("inactive_file", theirs.inactive_file),
            ("dirty", Some(theirs.dirty)),
            ("shmem", theirs.shmem),
            ("slab", Some(theirs.slab)),
            ("slab_reclaimable", theirs.s_reclaimable),
            ("slab_unreclaimable", theirs.s_unreclaim),
            ("page_tables", theirs.page_tables),
            ("committed_as", Some(theirs.committed_as)),
            ("anon_huge_pages", theirs.anon_hugepages),
            ("cma_free", theirs.cma_free),
            ("huge_pages_total", theirs.hugepages_total),
        ];
        for (name, expected) in pairs {
            assert_eq!(get(name), expected, "{}: {name}", path.display());
        }
    }
}

#[test]
fn stat_and_loadavg_agree() {
    for (path, bytes) in every("stat") {
        let mut ours = cpu::Stat::default();
        cpu::parse_stat(&bytes, &mut ours).unwrap();
        let theirs = procfs::KernelStats::from_buf_read(&bytes[..], &LocalSystemInfo).unwrap();
        assert_eq!(ours.cpus.len(), theirs.cpu_time.len(), "{}", path.display());
        let all = ours.cpus.iter().map(|(_, t)| t).zip(&theirs.cpu_time).chain([(&ours.host, &theirs.total)]);
        for (ours, theirs) in all {
            let expected = [
                Some(theirs.user),
                Some(theirs.nice),
                Some(theirs.system),
                Some(theirs.idle),
                theirs.iowait,
                theirs.irq,
                theirs.softirq,
                theirs.steal,
                theirs.guest,
                theirs.guest_nice,
            ];
            for (i, expected) in expected.into_iter().enumerate() {
                assert_eq!(ours.get(i), expected, "{}: column {i}", path.display());
            }
        }
        let get = |name: &str| ours.counts.get(stream(&cpu::COLLECTOR).field_index(name).unwrap());
        assert_eq!(get("ctxt"), Some(theirs.ctxt));
        assert_eq!(get("processes"), Some(theirs.processes));
        assert_eq!(get("procs_running"), theirs.procs_running.map(u64::from));
        assert_eq!(get("procs_blocked"), theirs.procs_blocked.map(u64::from));
    }
    for (path, bytes) in every("loadavg") {
        let ours = cpu::parse_loadavg(&bytes).unwrap();
        let theirs = procfs::LoadAverage::from_read(&bytes[..]).unwrap();
        assert_eq!((ours.runnable, ours.tasks), (theirs.cur.into(), theirs.max.into()), "{}", path.display());
        assert!((ours.load1 - f64::from(theirs.one)).abs() < 1e-3, "{}", path.display());
    }
}

#[test]
fn pressure_agrees() {
    let same = |ours: pressure::Stall, theirs: &procfs::PressureRecord, path: &Path| {
        assert_eq!(ours.total_ns, theirs.total * 1000, "{}", path.display());
        assert!((ours.avg10 - f64::from(theirs.avg10) / 100.0).abs() < 1e-6, "{}", path.display());
    };
    for (path, bytes) in every("pressure/memory") {
        let ours = pressure::parse_pressure(&bytes).unwrap();
        let theirs = procfs::MemoryPressure::from_buf_read(&bytes[..]).unwrap();
        same(ours.some.unwrap(), &theirs.some, &path);
        same(ours.full.unwrap(), &theirs.full, &path);
    }
    for (path, bytes) in every("pressure/cpu") {
        let ours = pressure::parse_pressure(&bytes).unwrap();
        let theirs = procfs::CpuPressure::from_buf_read(&bytes[..]);
        let (Some(full), Some(some)) = (ours.full, ours.some) else {
            // Before 5.13 the file has no full line; the crate gives up on it.
            assert!(ours.some.is_some() && theirs.is_err(), "{}", path.display());
            continue;
        };
        let theirs = theirs.unwrap();
        same(full, &theirs.full, &path);
        same(some, &theirs.some, &path);
    }
}
