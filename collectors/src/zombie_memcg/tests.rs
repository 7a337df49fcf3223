//! The collector on fixtures and on real cgroups of its own.

use super::*;
use crate::cgroup::testing::{Group, clock, fixture, golden, pass, pass_at, shown, value};
use proptest::prelude::*;
use std::fs;
use std::path::Path;
use whystall_event::Stamp;

fn collector(roots: &Roots) -> Box<dyn Polled> {
    match build(roots, &Settings::new()) {
        Ok(Built::Polled(polled)) => polled,
        other => panic!("{other:?}"),
    }
}

#[test]
fn fixtures() {
    for name in ["cgroup-v1", "cgroup-v2", "cgroup-hybrid", "cgroup-v2-5.4"] {
        golden(&pass(&mut *collector(&fixture(name))), &format!("{name}/zombie_memcg.golden"));
    }
}

#[test]
fn cgroup_stat_across_versions() {
    let stat = |live, dying| CgroupStat { known: true, live, dying };
    assert_eq!(parse_cgroup_stat(b"nr_descendants 5\nnr_dying_descendants 3\n"), stat(5, 3));
    // 6.12 counts the group itself among those with the controller, and other controllers' zombies apart.
    let text = b"nr_descendants 7\nnr_subsys_memory 5\nnr_dying_descendants 9\nnr_dying_subsys_memory 2\n";
    assert_eq!(parse_cgroup_stat(text), stat(4, 2));
    assert_eq!(parse_cgroup_stat(b"nr_descendants 7\n"), CgroupStat { known: false, live: 7, dying: 0 });
}

/// A file system's file that a child of `parent` wrote: its page cache stays charged after the child is removed.
fn job(parent: &Path, name: &str, file: &Path) -> bool {
    let dir = parent.join(name);
    fs::create_dir(&dir).unwrap();
    let script = format!(
        "echo $$ > '{}/cgroup.procs' && dd if=/dev/zero of='{}' bs=64k count=4 conv=fsync 2>/dev/null",
        dir.display(),
        file.display()
    );
    #[allow(clippy::disallowed_methods)]
    let wrote = std::process::Command::new("sh").args(["-c", &script]).status().unwrap().success();
    (0..100).any(|_| {
        let removed = fs::remove_dir(&dir).is_ok();
        if !removed {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        removed
    }) && wrote
}

#[test]
fn the_parent_of_forty_leaked_cgroups_is_named_within_twenty_seconds() {
    let Some(group) = Group::new("memory") else { return };
    // Not in a tmpfs, whose pages would be shmem.
    let files = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let innocent = group.child("innocent");
    let parent = group.child("jobs");
    if !group.dir.join("memory.failcnt").exists() {
        fs::write(group.dir.join("cgroup.subtree_control"), "+memory").unwrap();
        fs::write(parent.join("cgroup.subtree_control"), "+memory").unwrap();
    }
    let mut c = collector(&Roots::default());
    let start = clock().boot_ns;
    let mut second = 0;
    let mut tick = |c: &mut dyn Polled| {
        let at = Stamp { boot_ns: start + second * SEC, wall_ns: 0 };
        second += 1;
        pass_at(c, at)
    };
    let mut before = None;
    for _ in 0..5 {
        before = value(&tick(&mut *c), "zombie_memcg", "host", "dying_settled");
    }
    for second in 0..8 {
        for i in 0..5 {
            let n = second * 5 + i;
            if !job(&parent, &format!("cron-{n}-x{n}k"), &files.path().join(n.to_string())) {
                println!("skipped: a job did not run in its cgroup");
                return;
            }
        }
        fs::create_dir(innocent.join("live")).unwrap();
        tick(&mut *c);
        fs::remove_dir(innocent.join("live")).unwrap();
    }
    for _ in 0..10 {
        tick(&mut *c);
    }
    let batches = tick(&mut *c);
    let path = |name: &str| format!("cgroup:{}/{name}", group.path);
    let get =
        |name: &str, field: &str| value(&batches, "zombie_memcg", &path(name), field).unwrap_or_default();
    assert_eq!((get("jobs", "creations"), get("jobs", "removals")), (40.0, 40.0));
    assert_eq!((get("innocent", "creations"), get("innocent", "removals")), (8.0, 8.0));
    assert_eq!(shown(&batches, "zombie_memcg", &path("jobs"), "jobs").as_deref(), Some("cron-*"));
    assert_eq!(shown(&batches, "zombie_memcg", &path("jobs"), "example").as_deref(), Some("cron-39-x39k"));
    assert!(get("jobs", "pinned_cache") >= 30.0 * 262_144.0, "{}", get("jobs", "pinned_cache"));
    assert_eq!(get("innocent", "pinned_cache"), 0.0);
    let after = value(&batches, "zombie_memcg", "host", "dying_settled");
    let (Some(before), Some(after)) = (before, after) else {
        println!("skipped in part: other cgroups of this host come and go too fast for a count");
        return;
    };
    assert!(get("jobs", "suspected") > 4.0 * get("innocent", "suspected"), "{batches:?}");
    // What v1 knows is the host's growth: zombies of others that were freed meanwhile hide as many of these.
    if after - before < 35.0 {
        println!("skipped in part: {} zombies of others were freed meanwhile", 40.0 - (after - before));
        return;
    }
    assert!(get("jobs", "suspected") >= 10.0, "{}", get("jobs", "suspected"));
}

#[test]
fn removals_are_seen_under_new_parents_and_watches_end_with_their_cgroups() {
    let Some(group) = Group::new("memory") else { return };
    let mut c = collector(&Roots::default());
    pass(&mut *c);
    for round in 0..3 {
        let parent = group.child(format!("p{round}"));
        pass(&mut *c);
        // All within one interval: no pass ever sees these.
        for i in 0..10 {
            fs::create_dir(parent.join(format!("c{i}"))).unwrap();
            fs::remove_dir(parent.join(format!("c{i}"))).unwrap();
        }
        let batches = pass(&mut *c);
        let subject = format!("cgroup:{}/p{round}", group.path);
        assert_eq!(value(&batches, "zombie_memcg", &subject, "removals"), Some(10.0));
        assert_eq!(value(&batches, "zombie_memcg", &subject, "exact"), Some(1.0));
        fs::remove_dir(&parent).unwrap();
        let batches = pass(&mut *c);
        assert!(batches[0].gone.iter().any(|g| g.to_string() == subject));
    }
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        parse_cgroup_stat(&bytes);
    }
}
