//! Facts about this host, read once.

use std::path::Path;

use whystall_collectors::Roots;
use whystall_engine::HostFacts;

/// This host's facts; what cannot be read stays empty, and one CPU is assumed.
pub fn read(roots: &Roots) -> HostFacts {
    let line = |path: &Path| std::fs::read_to_string(path).map(|s| s.trim().to_string()).unwrap_or_default();
    let mounts = line(&roots.proc("self/mountinfo"));
    let controllers = |mount: &str| line(&Path::new(mount).join("cgroup.controllers"));
    let (memory_cgroup_v2, memory_cgroup_mount) = memory_mount(&mounts, controllers);
    HostFacts {
        host: line(&roots.proc("sys/kernel/hostname")),
        kernel: line(&roots.proc("sys/kernel/osrelease")),
        cpus: cpu_list(&line(&roots.sys("devices/system/cpu/online"))).unwrap_or(1),
        memory_cgroup_v2,
        memory_cgroup_mount,
    }
}

/// How many CPUs a list such as `0-3,5` has.
fn cpu_list(list: &str) -> Option<u32> {
    let mut n = 0u32;
    for part in list.split(',') {
        let (a, b) = part.split_once('-').unwrap_or((part, part));
        let (a, b): (u32, u32) = (a.trim().parse().ok()?, b.trim().parse().ok()?);
        n = n.checked_add(b.checked_sub(a)?.checked_add(1)?)?;
    }
    Some(n)
}

/// Whether the memory controller is on cgroup v2, and where its hierarchy is mounted, from `/proc/self/mountinfo`
/// (proc(5)): `36 35 98:0 /root /mount/point options - type source super-options`.
fn memory_mount(mountinfo: &str, controllers: impl Fn(&str) -> String) -> (bool, String) {
    let mut v2 = None;
    for line in mountinfo.lines() {
        let Some((before, after)) = line.split_once(" - ") else { continue };
        let Some(point) = before.split(' ').nth(4).map(unescape) else { continue };
        let mut after = after.split(' ');
        match (after.next(), after.nth(1)) {
            (Some("cgroup"), Some(options)) if options.split(',').any(|o| o == "memory") => {
                return (false, point);
            }
            (Some("cgroup2"), _) => v2 = v2.or(Some(point)),
            _ => {}
        }
    }
    match v2 {
        Some(point) if controllers(&point).split(' ').any(|c| c == "memory") => (true, point),
        _ => (true, "/sys/fs/cgroup".into()),
    }
}

/// The kernel writes blanks, tabs, line ends and backslashes in paths as `\ooo`.
fn unescape(path: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(path.to_string(), |p, (from, to)| p.replace(from, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus() {
        assert_eq!(cpu_list("0-3,5"), Some(5));
        assert_eq!(cpu_list("0"), Some(1));
        assert_eq!(cpu_list("3-1"), None);
        assert_eq!(cpu_list(""), None);
    }

    #[test]
    fn memory_hierarchy() {
        let v1 = "30 29 0:26 / /sys/fs/cgroup/unified rw - cgroup2 none rw\n\
                  31 29 0:27 / /sys/fs/cgroup/my\\040memory rw - cgroup none rw,memory\n";
        assert_eq!(memory_mount(v1, |_| "cpu".into()), (false, "/sys/fs/cgroup/my memory".into()));
        let v2 = "30 29 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(memory_mount(v2, |_| "cpu memory".into()), (true, "/sys/fs/cgroup".into()));
        assert_eq!(memory_mount("nonsense", |_| String::new()), (true, "/sys/fs/cgroup".into()));
    }
}
