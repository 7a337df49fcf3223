//! Whether control groups were made since the last look, from one small file of the kernel.

use super::mounts::{Hierarchy, Version};
use super::parse;
use crate::Roots;
use crate::read::{Buf, KeptFile};

/// The kernel's count of cgroups of one hierarchy, dying ones included.
#[derive(Debug)]
pub(crate) struct Census {
    file: KeptFile,
    /// v1: the controller whose line of `/proc/cgroups` counts; v2 has a file of its own, `cgroup.stat`.
    controller: Option<String>,
    buf: Buf,
    last: Option<(u64, u64)>,
}

impl Census {
    pub(crate) fn of(hierarchy: &Hierarchy, roots: &Roots) -> Census {
        let (file, controller) = match hierarchy.version {
            Version::V2 => (hierarchy.dir.join("cgroup.stat"), None),
            Version::V1 => (roots.proc("cgroups"), hierarchy.controllers.first().cloned()),
        };
        Census { file: KeptFile::lazy(file), controller, buf: Buf::new(), last: None }
    }

    /// Whether the count is another than at the last call, or unknown. A cgroup that is made while a zombie is freed
    /// leaves the count of v1 as it was.
    pub(crate) fn moved(&mut self) -> bool {
        let now = self.file.read(&mut self.buf).ok().and_then(|bytes| match &self.controller {
            Some(controller) => Some((parse::num_cgroups(bytes, controller.as_bytes())?, 0)),
            None => {
                let get = |key| parse::value_of(bytes, key);
                Some((get(b"nr_descendants")?, get(b"nr_dying_descendants").unwrap_or(0)))
            }
        });
        let before = std::mem::replace(&mut self.last, now);
        now.is_none() || now != before
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn hierarchy(version: Version, dir: &std::path::Path) -> Hierarchy {
        let controllers = vec!["memory".to_string()];
        Hierarchy { version, dir: dir.to_path_buf(), prefix: "/".into(), controllers }
    }

    #[test]
    fn a_count_that_moves_or_is_unknown() {
        let dir = tempfile::tempdir().unwrap();
        let mut census = Census::of(&hierarchy(Version::V2, dir.path()), &Roots::default());
        assert!(census.moved(), "no file, nothing known");
        let file = dir.path().join("cgroup.stat");
        fs::write(&file, "nr_descendants 5\nnr_dying_descendants 1\n").unwrap();
        assert!(census.moved());
        assert!(!census.moved());
        // One was made and another removed.
        fs::write(&file, "nr_descendants 5\nnr_dying_descendants 2\n").unwrap();
        assert!(census.moved());
        assert!(!census.moved());
    }

    #[test]
    fn v1_counts_by_controller() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("proc")).unwrap();
        let table = |cpu: u32, memory: u32| {
            let text = format!(
                "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t1\t{cpu}\t1\nmemory\t4\t{memory}\t1\n"
            );
            fs::write(dir.path().join("proc/cgroups"), text).unwrap();
        };
        table(1, 7);
        let mut census = Census::of(&hierarchy(Version::V1, dir.path()), &Roots::under(dir.path()));
        assert!(census.moved());
        table(2, 7);
        assert!(!census.moved());
        table(2, 8);
        assert!(census.moved());
    }
}
