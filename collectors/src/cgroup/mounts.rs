//! Which control group hierarchies are mounted, and where: v1 (one or more controllers a hierarchy), v2, or both
//! ("hybrid").
//!
//! Source: proc_pid_mountinfo(5). A mount may show only a part of its hierarchy (a bind mount into a container); its
//! root within the hierarchy then becomes the prefix of all paths, so that they equal those in `/proc/PID/cgroup`.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::{Roots, Unavailable};

/// The version of a hierarchy's interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    V1,
    V2,
}

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    pub(crate) version: Version,
    /// Where its root can be read.
    pub(crate) dir: PathBuf,
    /// The path of that root within the hierarchy: `/` unless only a part is mounted.
    pub(crate) prefix: String,
    /// v1: the controllers (and `name=…`) of the mount options. v2: those in `cgroup.controllers`.
    pub(crate) controllers: Vec<String>,
}

impl Hierarchy {
    fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|c| c == controller)
    }
}

/// All mounted hierarchies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Hierarchies(Vec<Hierarchy>);

impl Hierarchies {
    /// Reads `/proc/self/mountinfo` and each v2 root's controllers.
    pub(crate) fn find(roots: &Roots) -> Result<Hierarchies, Unavailable> {
        let path = roots.proc("self/mountinfo");
        let bytes = fs::read(&path).map_err(|e| Unavailable::because(format!("{}: {e}", path.display())))?;
        let mut all = Vec::new();
        for mount in parse_mountinfo(&bytes) {
            let mut h = Hierarchy {
                version: mount.version,
                dir: below_sys(roots, &mount.point),
                prefix: mount.prefix,
                controllers: mount.controllers,
            };
            if h.version == Version::V2 {
                let listed = fs::read_to_string(h.dir.join("cgroup.controllers")).unwrap_or_default();
                h.controllers = listed.split_ascii_whitespace().map(String::from).collect();
            }
            all.push(h);
        }
        // The mount that shows the most of its hierarchy comes first, and the order of mounting stays otherwise.
        all.sort_by_key(|h| h.prefix.len());
        Ok(Hierarchies(all))
    }

    /// The v1 hierarchy that `controller` is mounted in.
    pub(crate) fn v1(&self, controller: &str) -> Option<&Hierarchy> {
        self.0.iter().find(|h| h.version == Version::V1 && h.has(controller))
    }

    /// The v2 hierarchy, whatever its controllers.
    pub(crate) fn v2(&self) -> Option<&Hierarchy> {
        self.0.iter().find(|h| h.version == Version::V2)
    }

    /// The hierarchy in which `controller` works: v1 if it is mounted there, else v2 if it has the controller.
    pub(crate) fn of(&self, controller: &str) -> Result<&Hierarchy, Unavailable> {
        self.v1(controller).or_else(|| self.v2().filter(|h| h.has(controller))).ok_or_else(|| {
            let remedy = match (self.0.is_empty(), controller) {
                (true, _) => "mount -t cgroup2 none /sys/fs/cgroup".to_string(),
                (_, "memory") => "boot with cgroup_enable=memory".to_string(),
                _ => {
                    format!("enable the {controller} controller in cgroup.subtree_control of the parent")
                }
            };
            Unavailable::because(format!(
                "no mounted control group hierarchy has the {controller} controller"
            ))
            .remedy(remedy)
        })
    }
}

/// Mount points are listed below `/sys` even where another root replaces it.
fn below_sys(roots: &Roots, point: &Path) -> PathBuf {
    if point.starts_with(&roots.sys) {
        return point.to_path_buf();
    }
    match point.strip_prefix(&Roots::default().sys) {
        Ok(rest) => roots.sys.join(rest),
        Err(_) => point.to_path_buf(),
    }
}

/// One line of mountinfo that is a cgroup mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    pub(crate) version: Version,
    pub(crate) prefix: String,
    pub(crate) point: PathBuf,
    pub(crate) controllers: Vec<String>,
}

/// The cgroup mounts in the text of a mountinfo file; later mounts over the same point hide earlier ones.
pub(crate) fn parse_mountinfo(bytes: &[u8]) -> Vec<Mount> {
    let mut mounts: Vec<Mount> = Vec::new();
    for line in bytes.split(|b| *b == b'\n') {
        let Some(mount) = parse_line(line) else { continue };
        mounts.retain(|m| m.point != mount.point);
        mounts.push(mount);
    }
    mounts
}

fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut words = line.split(|b| *b == b' ');
    let root = unescape(words.nth(3)?);
    let point = unescape(words.next()?);
    // Options and optional fields up to the separator, then the file system's type, source and own options.
    words.find(|w| *w == b"-")?;
    let version = match words.next()? {
        b"cgroup" => Version::V1,
        b"cgroup2" => Version::V2,
        _ => return None,
    };
    let options = words.nth(1).unwrap_or_default();
    let flags: &[&[u8]] = &[b"rw", b"ro", b"xattr", b"clone_children", b"noprefix"];
    let controllers = match version {
        Version::V2 => Vec::new(),
        Version::V1 => options
            .split(|b| *b == b',')
            .filter(|o| !flags.contains(o) && !o.starts_with(b"release_agent="))
            .map(|o| String::from_utf8_lossy(o).into_owned())
            .collect(),
    };
    // A root outside our cgroup namespace is shown as `/..`: then the mount's own root is all there is to name.
    let text = whystall_event::text::from_bytes(&root);
    let prefix =
        if text.starts_with("/..") || !text.starts_with('/') { "/".into() } else { text.into_owned() };
    Some(Mount { version, prefix, point: PathBuf::from(OsStr::from_bytes(&point)), controllers })
}

/// Undoes the octal escapes of space, tab, newline and backslash.
fn unescape(word: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|d| first == b'\\' && d.iter().all(|c| (b'0'..=b'7').contains(c)));
        match octal {
            Some(d) => {
                out.push(d.iter().fold(0u8, |n, c| n.wrapping_mul(8).wrapping_add(c - b'0')));
                rest = &tail[3..];
            }
            None => {
                out.push(first);
                rest = tail;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HYBRID: &[u8] = b"\
23 1 0:21 / /sys rw - sysfs sysfs rw
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:10 master:3 - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/x,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,nsdelegate - cgroup2 cgroup2 rw
";

    #[test]
    fn hybrid_mounts() {
        let mounts = parse_mountinfo(HYBRID);
        let shown: Vec<_> =
            mounts.iter().map(|m| (m.point.to_str().unwrap(), m.controllers.join(","))).collect();
        assert_eq!(
            shown,
            [
                ("/sys/fs/cgroup/cpu,cpuacct", "cpu,cpuacct".to_string()),
                ("/sys/fs/cgroup/memory", "memory".into()),
                ("/sys/fs/cgroup/systemd", "name=systemd".into()),
                ("/sys/fs/cgroup/unified", String::new()),
            ]
        );
        assert_eq!(mounts[3].version, Version::V2);
    }

    #[test]
    fn parts_of_a_hierarchy_and_odd_mount_points() {
        let m = parse_mountinfo(
            b"1 2 0:3 /docker/ab /sys/fs/cgroup/me\\040mory ro - cgroup cgroup rw,memory\n1 2 0:3 /../.. /mnt ro - cgroup2 c rw\n",
        );
        assert_eq!(
            (m[0].prefix.as_str(), m[0].point.to_str()),
            ("/docker/ab", Some("/sys/fs/cgroup/me mory"))
        );
        assert_eq!(m[1].prefix, "/");
    }

    #[test]
    fn a_later_mount_hides_an_earlier_one() {
        let m = parse_mountinfo(b"1 2 0:3 / /c rw - cgroup c rw,memory\n1 2 0:4 / /c rw - cgroup2 c rw\n");
        assert_eq!(m.len(), 1);
        assert_eq!(m[0].version, Version::V2);
    }

    #[test]
    fn other_roots() {
        let roots = Roots::under("/host");
        assert_eq!(below_sys(&roots, Path::new("/sys/fs/cgroup")), Path::new("/host/sys/fs/cgroup"));
        assert_eq!(below_sys(&roots, Path::new("/host/sys/fs/cgroup")), Path::new("/host/sys/fs/cgroup"));
        assert_eq!(below_sys(&Roots::default(), Path::new("/cgroup")), Path::new("/cgroup"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse_mountinfo(&bytes);
        }

        #[test]
        fn any_mount_point_round_trips(name in proptest::collection::vec(1u8..=255, 1..40)) {
            let escaped: Vec<u8> = name
                .iter()
                .flat_map(|b| match b {
                    b' ' | b'\t' | b'\n' | b'\\' => format!("\\{b:03o}").into_bytes(),
                    b => vec![*b],
                })
                .collect();
            let mut line = b"1 2 0:3 / /".to_vec();
            line.extend_from_slice(&escaped);
            line.extend_from_slice(b" rw - cgroup2 cgroup2 rw\n");
            let mounts = parse_mountinfo(&line);
            prop_assert_eq!(mounts.len(), 1);
            prop_assert_eq!(&mounts[0].point.as_os_str().as_bytes()[1..], &name[..]);
        }
    }
}
