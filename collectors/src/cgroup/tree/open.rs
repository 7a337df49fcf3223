//! The descriptors of the tree: which directories and files stay open, and reading through them.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use super::super::files::{self, Kept};
use super::{LOOK_AGAIN, Reading, Tree};

impl<T: Default> Tree<T> {
    /// Calls `f` with the directory, from its kept descriptor or opened for the call.
    pub(super) fn with_dir<R>(
        &mut self,
        id: u32,
        f: impl FnOnce(&mut Tree<T>, BorrowedFd<'_>) -> io::Result<R>,
    ) -> io::Result<R> {
        let taken = self.node_mut(id).and_then(|n| n.dir.take());
        let had = taken.is_some();
        let dir = match taken {
            Some(dir) => dir,
            None => self.open(id)?,
        };
        let result = f(self, dir.as_fd());
        if had || self.keeps_dir(id) {
            self.kept += usize::from(!had);
            if let Some(node) = self.node_mut(id) {
                node.dir = Some(dir);
            }
        }
        result
    }

    /// Calls `f` with the nearest ancestor that is open and the path from there to `name` in a directory, or to the
    /// directory itself if `name` is empty.
    pub(super) fn at<R>(
        &self,
        id: u32,
        name: &CStr,
        f: impl FnOnce(BorrowedFd<'_>, &CStr) -> io::Result<R>,
    ) -> io::Result<R> {
        let mut names = vec![name];
        let mut node = self.node(id).ok_or(io::ErrorKind::NotFound)?;
        let opened_root;
        let from = loop {
            match (&node.dir, node.parent.and_then(|p| self.node(p))) {
                (Some(dir), _) => break dir,
                (None, Some(parent)) => {
                    names.push(&node.name);
                    node = parent;
                }
                (None, None) => {
                    opened_root = File::open(&self.root)?;
                    break &opened_root;
                }
            }
        };
        let mut path = Vec::with_capacity(64);
        for name in names.iter().rev().filter(|n| !n.is_empty()) {
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name.to_bytes());
        }
        if path.is_empty() {
            path.push(b'.');
        }
        f(from.as_fd(), &CString::new(path)?)
    }

    /// Opens a directory.
    fn open(&mut self, id: u32) -> io::Result<File> {
        match self.at(id, c"", files::open_dir) {
            Err(e) if out_of_descriptors(&e) => {
                self.close_files();
                self.at(id, c"", files::open_dir)
            }
            other => other,
        }
    }

    /// Gives back all kept files when the process is out of descriptors, and keeps half as many from now on.
    fn close_files(&mut self) {
        self.limits.fds = self.kept / 2;
        for node in self.nodes.iter_mut().flatten() {
            for file in node.files.iter_mut().filter(|f| matches!(f, Kept::Open(_))) {
                *file = Kept::Closed;
                self.kept -= 1;
            }
        }
    }

    /// Reads file number `file` of the tree's files in directory `id` into `buf`.
    pub(crate) fn read(&mut self, id: u32, file: usize, buf: &mut Vec<u8>) -> Reading {
        buf.clear();
        let Some(spec) = self.specs.get(file).copied() else {
            return Reading::Absent;
        };
        let Some(slot) = self.node_mut(id).and_then(|n| n.files.get_mut(file)) else {
            return Reading::Gone;
        };
        match slot {
            Kept::Open(open) => {
                let read = files::read_whole(open, buf);
                return self.judge(id, read);
            }
            Kept::Absent(n) if *n > 0 => {
                *n -= 1;
                return Reading::Absent;
            }
            _ => {}
        }
        if self.keeps_dir(id) {
            // Opens the directory and keeps it, for this file and the next.
            _ = self.with_dir(id, |_, _| Ok(()));
        }
        let opened = match self.at(id, spec.name, files::open_file) {
            Err(e) if out_of_descriptors(&e) => {
                self.close_files();
                self.at(id, spec.name, files::open_file)
            }
            other => other,
        };
        let file_read = match opened {
            Ok(open) => {
                let read = files::read_whole(&open, buf);
                if spec.keep && read.is_ok() && self.may_keep(id) {
                    self.kept += 1;
                    self.keep(id, file, Kept::Open(open));
                }
                read
            }
            Err(e) => Err(e),
        };
        let judged = self.judge(id, file_read);
        if judged == Reading::Absent {
            self.keep(id, file, Kept::Absent(LOOK_AGAIN));
        }
        judged
    }

    /// The descriptors that each directory may have. Where they do not suffice for all files, those that a collector
    /// reads first stay open in every directory, rather than all files of some.
    fn allowance(&self) -> usize {
        self.limits.fds / self.len.max(1)
    }

    fn may_keep(&self, id: u32) -> bool {
        let open = self.node(id).map_or(0, |n| n.files.iter().filter(|f| matches!(f, Kept::Open(_))).count());
        self.kept < self.limits.fds && open < self.allowance().max(1)
    }

    /// An open file saves more than an open directory, except of one with children, which are reached through it.
    fn keeps_dir(&self, id: u32) -> bool {
        let parent = self.node(id).is_some_and(|n| !n.children.is_empty());
        self.kept < self.limits.fds
            && (parent || self.allowance() > self.specs.iter().filter(|s| s.keep).count())
    }

    fn keep(&mut self, id: u32, file: usize, kept: Kept) {
        if let Some(slot) = self.node_mut(id).and_then(|n| n.files.get_mut(file)) {
            *slot = kept;
        }
    }

    /// Tells a missing file from a vanished directory: every cgroup has `cgroup.procs`.
    fn judge(&mut self, id: u32, read: io::Result<()>) -> Reading {
        if read.is_ok() {
            return Reading::Data;
        }
        if self.at(id, c"cgroup.procs", |dir, name| Ok(files::exists(dir, name))).unwrap_or(false) {
            return Reading::Absent;
        }
        self.suspect(id);
        Reading::Gone
    }
}

fn out_of_descriptors(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}
