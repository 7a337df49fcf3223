//! The collector on fixtures and on real cgroups of its own.

use super::*;
use crate::cgroup::testing::{Group, clock, fixture, golden, pass, pass_at, shown, value};
use std::cell::Cell;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use whystall_event::{SEC, Stamp};

fn collector(roots: &Roots, settings: &str) -> Box<dyn Polled> {
    match build(roots, &settings.parse().unwrap()) {
        Ok(Built::Polled(polled)) => polled,
        other => panic!("{other:?}"),
    }
}

/// The timing fields differ from run to run.
fn without_timings(batches: Vec<Batch>) -> Vec<Batch> {
    batches.into_iter().filter(|b| b.stream.name == "memcg").collect()
}

/// A v2 tree of plain directories.
fn plain_tree(names: &[impl AsRef<std::path::Path>]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("sys/fs/cgroup");
    fs::create_dir_all(dir.path().join("proc/self")).unwrap();
    fs::write(dir.path().join("proc/self/mountinfo"), "1 1 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
        .unwrap();
    for name in names {
        let cgroup = root.join(name);
        fs::create_dir_all(&cgroup).unwrap();
        fs::write(cgroup.join("memory.current"), "1\n").unwrap();
        fs::write(cgroup.join("cgroup.procs"), "").unwrap();
    }
    fs::write(root.join("cgroup.controllers"), "memory\n").unwrap();
    dir
}

#[test]
fn hostile_names_and_depth() {
    let deep = "d/".repeat(100);
    let dir = plain_tree(&["new\nline", "sp ace", "\u{202e}x", &deep]);
    let mut c = collector(&Roots::under(dir.path()), "");
    let batches = pass(&mut *c);
    for name in ["new\nline", "sp ace", "\u{202e}x"] {
        assert_eq!(value(&batches, "memcg", &format!("cgroup:/{name}"), "usage"), Some(1.0), "{name:?}");
    }
    assert_eq!(value(&batches, "memcg.read", "host", "left_out"), Some(1.0));
}

#[test]
fn files_are_read_when_no_descriptor_may_be_kept() {
    let hierarchies = Hierarchies::find(&fixture("cgroup-v2")).unwrap();
    let limits = crate::cgroup::tree::Limits { cgroups: 100, fds: 0 };
    let mut tree: Tree<Seen> = Tree::new(hierarchies.v2().unwrap(), V2.files, limits).unwrap();
    for _ in 0..2 {
        assert!(tree.refresh(&mut || false));
        assert_eq!(tree.len(), 8);
        let mut buf = Vec::new();
        let read = (0..tree.ids()).filter(|id| tree.read(*id, 0, &mut buf) == Reading::Data).count();
        assert_eq!(read, 7, "all but the root have memory.current");
    }
}

#[test]
fn fixtures() {
    for name in ["cgroup-v1", "cgroup-v2", "cgroup-hybrid", "cgroup-v2-5.4"] {
        let batches =
            pass(&mut *collector(&fixture(name), "numa_stat_interval_s = 0\nstat_budget_ms = 1000"));
        golden(&without_timings(batches), &format!("{name}/memcg.golden"));
    }
}

#[test]
fn bad_settings_are_told() {
    for bad in ["max_cgroups = 0", "max_cgroups = 'x'", "stat_budget_ms = -1", "numa_stat_interval_s = 1.5"] {
        let e = build(&fixture("cgroup-v1"), &bad.parse().unwrap()).unwrap_err();
        assert!(e.bad_settings && e.why.contains(bad.split(' ').next().unwrap()), "{bad}: {e}");
    }
    let nowhere = tempfile::tempdir().unwrap();
    assert!(!build(&Roots::under(nowhere.path()), &Settings::new()).unwrap_err().bad_settings);
}

#[test]
fn a_pass_without_time_goes_on_where_it_stopped() {
    thread_local!(static NOW: Cell<u64> = const { Cell::new(0) });
    // Each question costs a millisecond.
    fn slow() -> Stamp {
        NOW.set(NOW.get() + 1_000_000);
        Stamp { boot_ns: NOW.get(), wall_ns: 0 }
    }
    let names: Vec<String> = (0..100).map(|i| format!("c{i:02}")).collect();
    let dir = plain_tree(&names);
    let mut c = collector(&Roots::under(dir.path()), "numa_stat_interval_s = 0");
    let mut seen = std::collections::BTreeSet::new();
    let mut most = 0;
    for _ in 0..20 {
        let mut pass = Pass::new(slow(), slow, 6_000_000);
        c.collect(&mut pass).unwrap();
        most = most.max(pass.batches[0].len());
        seen.extend(pass.batches[0].rows().map(|r| r.subject.clone()));
    }
    assert_eq!(seen.len(), 100);
    assert!(most < 100, "no pass can have read all: {most}");
}

#[test]
fn the_limit_shows_in_failcnt_on_the_real_kernel() {
    let Some(group) = Group::new("memory") else { return };
    let v1 = group.dir.join("memory.limit_in_bytes").exists();
    let limit = if v1 { "memory.limit_in_bytes" } else { "memory.max" };
    fs::write(group.dir.join(limit), "4194304").unwrap();
    let subject = format!("cgroup:{}", group.path);
    let mut c = collector(&Roots::default(), "");
    let before = pass(&mut *c);
    assert_eq!(value(&before, "memcg", &subject, "limit"), Some(4_194_304.0));
    assert_eq!(value(&before, "memcg", &subject, "events_max"), Some(0.0));
    // A child writes 16 MiB of page cache from within the group.
    let file = tempfile::NamedTempFile::new().unwrap();
    let script = format!(
        "echo $$ > '{}/cgroup.procs' && dd if=/dev/zero of='{}' bs=1M count=16 conv=fsync 2>/dev/null",
        group.dir.display(),
        file.path().display()
    );
    #[allow(clippy::disallowed_methods)]
    let status = std::process::Command::new("sh").args(["-c", &script]).status().unwrap();
    if !status.success() {
        println!("skipped: the writer did not finish in its group: {status}");
        return;
    }
    let after = pass(&mut *c);
    assert!(value(&after, "memcg", &subject, "events_max").unwrap() > 0.0);
    assert!(value(&after, "memcg", &subject, "usage").unwrap() > 0.0);
    assert!(value(&after, "memcg", &subject, "file").is_some(), "memory.stat is read where the use moved");
    assert!(value(&after, "memcg.read", "host", "stat_read_max").unwrap() > 0.0);
}

#[test]
fn cgroups_that_come_and_go_and_hostile_names() {
    let Some(group) = Group::new("memory") else { return };
    let mut c = collector(&Roots::default(), "");
    let path = |name: &str| format!("cgroup:{}/{name}", group.path);
    let plain = group.child("plain");
    // The kernel itself refuses a newline in the name of a control group, and nothing else.
    group.child("escape \x1b[31m");
    group.child(std::ffi::OsStr::from_bytes(b"b\xffad"));
    let nested = group.child("nested");
    fs::create_dir(nested.join("inner")).unwrap();
    let batches = pass(&mut *c);
    for name in ["plain", "escape \x1b[31m", "b\\xffad", "nested", "nested/inner"] {
        assert!(value(&batches, "memcg", &path(name), "usage").is_some(), "{name:?}");
    }
    // Replaced between two passes: the count of children stays the same, and the new one is found none the less.
    fs::remove_dir(&plain).unwrap();
    group.child("other");
    fs::remove_dir(nested.join("inner")).unwrap();
    fs::remove_dir(&nested).unwrap();
    let mut gone = Vec::new();
    let mut found = false;
    for _ in 0..3 {
        let batches = pass(&mut *c);
        gone.extend(batches.iter().flat_map(|b| b.gone.iter().map(|s| s.to_string())));
        found |= value(&batches, "memcg", &path("other"), "usage").is_some();
    }
    gone.retain(|g| g.starts_with(&format!("cgroup:{}/", group.path)));
    gone.sort();
    assert_eq!(gone, [path("nested"), path("nested/inner"), path("plain")]);
    assert!(found);
}

#[test]
fn vanishing_while_being_read() {
    let Some(group) = Group::new("memory") else { return };
    let stop = std::sync::atomic::AtomicBool::new(false);
    let mut c = collector(&Roots::default(), "");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..u32::MAX {
                let dirs: Vec<_> = (0..20).map(|i| group.child(format!("r{round}-{i}"))).collect();
                dirs.iter().for_each(|d| fs::remove_dir(d).unwrap());
                if stop.load(std::sync::atomic::Ordering::Relaxed) {
                    return;
                }
            }
        });
        for _ in 0..50 {
            pass(&mut *c);
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    for _ in 0..3 {
        pass(&mut *c);
    }
    let left = pass(&mut *c);
    let below = format!("cgroup:{}/", group.path);
    assert_eq!(left[0].rows().filter(|r| r.subject.to_string().starts_with(&below)).count(), 0);
    assert!(value(&left, "memcg", &format!("cgroup:{}", group.path), "usage").is_some());
}

#[test]
fn two_thousand_cgroups() {
    let Some(group) = Group::new("memory") else { return };
    for i in 0..2000 {
        group.child(format!("c{i}"));
    }
    let mut c = collector(&Roots::default(), "");
    pass(&mut *c);
    let batches = pass(&mut *c);
    assert!(batches[0].len() >= 2001, "{}", batches[0].len());
    assert_eq!(value(&batches, "memcg.read", "host", "left_out"), Some(0.0));
    // The same with a limit: what is left out is counted.
    let mut c = collector(&Roots::default(), "max_cgroups = 500");
    let batches = pass(&mut *c);
    assert_eq!(value(&batches, "memcg.read", "host", "cgroups"), Some(500.0));
    assert!(value(&batches, "memcg.read", "host", "left_out").unwrap() > 0.0);
}

#[test]
fn the_numa_stat_probe_is_rare() {
    if Hierarchies::find(&Roots::default()).is_ok_and(|h| h.of("memory").is_err()) {
        println!("skipped: no memory controller");
        return;
    }
    let mut c = collector(&Roots::default(), "");
    let at = clock();
    let mut probe = |s: u64| {
        let batches = pass_at(&mut *c, Stamp { boot_ns: at.boot_ns + s * SEC, wall_ns: 0 });
        shown(&batches, "memcg.read", "host", "numa_cgroup")
    };
    assert!(probe(0).is_some());
    assert_eq!(probe(1), None);
    assert_eq!(probe(29), None);
    assert!(probe(7200).is_some());
}
