//! Cgroup ids to paths. An id is the inode number of the cgroup's directory; it is looked up when an event arrives,
//! because the cgroup may be gone later, and kept after that.

use std::collections::{HashMap, VecDeque};
use std::fs::{self, File};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use whystall_event::text;

use crate::Roots;
use crate::cgroup::mounts::{Hierarchies, Hierarchy, Version};

/// Ids that are kept, the oldest leaves first.
const MOST: usize = 8192;

/// Which hierarchy an id belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Controller {
    /// That of the cpu controller.
    Cpu,
    /// That of the memory controller.
    Memory,
}

/// A mounted hierarchy and a descriptor of its root, which says to the kernel which one is meant.
#[derive(Debug)]
struct Mount {
    at: Hierarchy,
    root: File,
}

/// Resolves ids.
#[derive(Debug)]
pub(crate) struct Cgroups {
    cpu: Option<Mount>,
    memory: Option<Mount>,
    own_fds: PathBuf,
    proc: PathBuf,
    known: HashMap<(Controller, u64), Option<Arc<str>>>,
    order: VecDeque<(Controller, u64)>,
}

impl Cgroups {
    /// Finds the hierarchies that are mounted.
    pub(crate) fn new(roots: &Roots) -> Cgroups {
        let hierarchies = Hierarchies::find(roots).unwrap_or_default();
        let find = |controller: &str| {
            let at = hierarchies.of(controller).ok().or(hierarchies.v2())?.clone();
            let root = File::open(&at.dir).ok()?;
            Some(Mount { at, root })
        };
        Cgroups {
            cpu: find("cpu"),
            memory: find("memory"),
            own_fds: roots.proc("self/fd"),
            proc: roots.proc.clone(),
            known: HashMap::new(),
            order: VecDeque::new(),
        }
    }

    /// Whether the cpu controller is in a v1 hierarchy.
    pub(crate) fn cpu_is_v1(&self) -> bool {
        self.cpu.as_ref().is_some_and(|m| m.at.version == Version::V1)
    }

    /// Whether the cpu and memory controllers share a hierarchy, so that ids mean the same.
    fn shared(&self) -> bool {
        match (&self.cpu, &self.memory) {
            (Some(a), Some(b)) => a.at.dir == b.at.dir,
            _ => false,
        }
    }

    fn key(&self, controller: Controller, id: u64) -> (Controller, u64) {
        (if self.shared() { Controller::Memory } else { controller }, id)
    }

    /// The path of a cgroup, if it can be found. `pid` is a task that was in it.
    pub(crate) fn path(&mut self, controller: Controller, id: u64, pid: u32) -> Option<Arc<str>> {
        match id {
            0 => return None,
            1 => return Some("/".into()),
            _ => {}
        }
        let key = self.key(controller, id);
        if let Some(known) = self.known.get(&key) {
            return known.clone();
        }
        let mount = match controller {
            Controller::Cpu => self.cpu.as_ref(),
            Controller::Memory => self.memory.as_ref(),
        }?;
        let found = by_handle(mount, id, &self.own_fds)
            .or_else(|| by_task(mount, controller, id, &self.proc, pid))
            .map(Arc::<str>::from);
        self.keep(key, found.clone());
        found
    }

    /// Learns the path of a memory cgroup that was just made, in the hierarchy's own terms.
    pub(crate) fn learn(&mut self, id: u64, path: &str) {
        self.keep(self.key(Controller::Memory, id), Some(path.into()));
    }

    fn keep(&mut self, key: (Controller, u64), path: Option<Arc<str>>) {
        if self.known.insert(key, path).is_none() {
            self.order.push_back(key);
        }
        if self.order.len() > MOST
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }

    /// The id of a cgroup by its path below the hierarchy of `controller`.
    #[cfg(test)]
    pub(crate) fn id(&self, controller: Controller, path: &str) -> Option<u64> {
        use std::os::unix::fs::MetadataExt;
        let mount = match controller {
            Controller::Cpu => self.cpu.as_ref(),
            Controller::Memory => self.memory.as_ref(),
        }?;
        Some(fs::metadata(mount.at.dir.join(path.trim_start_matches('/'))).ok()?.ino())
    }
}

/// A file handle of a kernfs file system: its type is FILEID_KERNFS, its content the id (fs/kernfs/mount.c).
#[repr(C)]
struct KernfsHandle {
    bytes: u32,
    kind: i32,
    id: [u8; 8],
}

const FILEID_KERNFS: i32 = 0xfe;

/// Opens the directory by its id, which needs CAP_DAC_READ_SEARCH, and asks for its path.
fn by_handle(mount: &Mount, id: u64, own_fds: &Path) -> Option<String> {
    let mut handle = KernfsHandle { bytes: 8, kind: FILEID_KERNFS, id: id.to_ne_bytes() };
    let flags = libc::O_PATH | libc::O_CLOEXEC;
    // SAFETY: `handle` has the layout of `struct file_handle` with 8 bytes of content and outlives the call.
    let fd = unsafe {
        libc::open_by_handle_at(mount.root.as_raw_fd(), (&raw mut handle).cast::<libc::file_handle>(), flags)
    };
    if fd < 0 {
        return None;
    }
    // SAFETY: the kernel just gave us this descriptor and nobody else has it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let shown = fs::read_link(own_fds.join(fd.as_raw_fd().to_string())).ok()?;
    let shown = text::from_bytes(shown.as_os_str().as_bytes()).into_owned();
    let shown = shown.strip_suffix(" (deleted)").unwrap_or(&shown);
    within(mount, shown)
}

/// The path within the hierarchy of a path below the mount point.
fn within(mount: &Mount, shown: &str) -> Option<String> {
    let dir = mount.at.dir.to_str()?;
    let rest = shown.strip_prefix(dir).filter(|r| r.is_empty() || r.starts_with('/'))?;
    Some(match (mount.at.prefix.as_str(), rest) {
        ("/", "") => "/".into(),
        ("/", rest) => rest.into(),
        (prefix, rest) => format!("{prefix}{rest}"),
    })
}

/// Where the task is now, if that is the cgroup that is looked for.
fn by_task(mount: &Mount, controller: Controller, id: u64, proc: &Path, pid: u32) -> Option<String> {
    use std::os::unix::fs::MetadataExt;
    let lines = fs::read(proc.join(pid.to_string()).join("cgroup")).ok()?;
    let name = match controller {
        Controller::Cpu => "cpu",
        Controller::Memory => "memory",
    };
    let path = cgroup_of(&lines, (mount.at.version == Version::V1).then_some(name))?;
    let below = if mount.at.prefix == "/" { path.as_str() } else { path.strip_prefix(&mount.at.prefix)? };
    let inode = fs::metadata(mount.at.dir.join(below.trim_start_matches('/'))).ok()?.ino();
    (inode == id).then_some(path)
}

/// The path in a `/proc/PID/cgroup` for a v1 controller, or for the v2 hierarchy.
pub(crate) fn cgroup_of(lines: &[u8], controller: Option<&str>) -> Option<String> {
    lines.split(|b| *b == b'\n').find_map(|line| {
        let mut parts = line.splitn(3, |b| *b == b':');
        let (hierarchy, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        let fits = match controller {
            None => hierarchy == b"0" && controllers.is_empty(),
            Some(c) => controllers.split(|b| *b == b',').any(|have| have == c.as_bytes()),
        };
        let path = text::from_bytes(path);
        (fits && path.starts_with('/')).then(|| path.into_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tasks_cgroups() {
        let lines = b"4:memory:/a/b\n3:cpu,cpuacct:/c\n0::/u\n";
        assert_eq!(cgroup_of(lines, Some("memory")).as_deref(), Some("/a/b"));
        assert_eq!(cgroup_of(lines, Some("cpu")).as_deref(), Some("/c"));
        assert_eq!(cgroup_of(lines, None).as_deref(), Some("/u"));
        assert_eq!(cgroup_of(lines, Some("pids")), None);
    }

    #[test]
    fn ids_of_real_directories() {
        let roots = Roots::default();
        let mut c = Cgroups::new(&roots);
        let own = fs::read(roots.proc("self/cgroup")).unwrap_or_default();
        let v1 = c.memory.as_ref().is_some_and(|m| m.at.version == Version::V1);
        let Some(own) = cgroup_of(&own, v1.then_some("memory")) else {
            eprintln!("skipped: no cgroup of our own");
            return;
        };
        let Some(id) = c.id(Controller::Memory, &own) else {
            eprintln!("skipped: {own} is not below the mount");
            return;
        };
        assert_eq!(c.path(Controller::Memory, id, std::process::id()).as_deref(), Some(own.as_str()));
        assert_eq!(c.path(Controller::Memory, 1, 0).as_deref(), Some("/"));
        assert_eq!(c.path(Controller::Memory, u64::MAX, 0), None);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut c = Cgroups::new(&Roots::under("/nonexistent"));
        for id in 2..MOST as u64 + 100 {
            c.learn(id, "/x");
        }
        assert_eq!(c.known.len(), MOST);
        assert_eq!(c.order.len(), MOST);
    }
}
