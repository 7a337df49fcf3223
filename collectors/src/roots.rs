//! Where the kernel's file systems are mounted: replaceable, so that tests and containers can point elsewhere.

use std::path::{Path, PathBuf};

/// The roots below which collectors read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roots {
    /// procfs, normally `/proc`.
    pub proc: PathBuf,
    /// sysfs, normally `/sys`.
    pub sys: PathBuf,
    /// Device nodes, normally `/dev`.
    pub dev: PathBuf,
}

impl Default for Roots {
    fn default() -> Roots {
        Roots { proc: "/proc".into(), sys: "/sys".into(), dev: "/dev".into() }
    }
}

impl Roots {
    /// All roots below one directory: `DIR/proc`, `DIR/sys`, `DIR/dev`.
    pub fn under(dir: impl AsRef<Path>) -> Roots {
        let dir = dir.as_ref();
        Roots { proc: dir.join("proc"), sys: dir.join("sys"), dev: dir.join("dev") }
    }

    /// A path below procfs.
    pub fn proc(&self, path: impl AsRef<Path>) -> PathBuf {
        self.proc.join(path)
    }

    /// A path below sysfs.
    pub fn sys(&self, path: impl AsRef<Path>) -> PathBuf {
        self.sys.join(path)
    }
}
