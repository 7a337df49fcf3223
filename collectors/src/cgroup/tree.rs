//! The tree of one hierarchy's directories, followed with little work a pass.
//!
//! Each pass asks every directory for its link count (one `fstat` of a kept descriptor, 0.3 µs), which on cgroupfs is
//! two more than its number of children, and lists only directories whose count moved. (Their modification time does not
//! move; kernfs only keeps it where an attribute was once set.) A child that was replaced by another between two passes
//! leaves the count alone; it shows when its files cannot be read any more, and then its parent is listed again. A
//! directory that never had children for a while may be asked less often ([`Tree::rest_leaves`]).

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;

use whystall_event::text;

use super::census::Census;
use super::files::{self, Kept};
pub(crate) use super::files::{FileSpec, hot, rare};
use super::mounts::Hierarchy;

mod open;

/// Directories deeper than this, or with longer paths, are left out and counted.
const MAX_DEPTH: u16 = 64;
const MAX_PATH: usize = 3072;
/// A file that did not exist is looked for again after this many readings (a controller may be enabled later).
const LOOK_AGAIN: u8 = 30;
/// Smaller trees are asked directory by directory.
const WORTH_A_CENSUS: usize = 12;
/// A directory without children is left to rest only after this many passes: new ones get children soon or never.
const SETTLED: u8 = 10;

/// What may be held.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Directories followed at most.
    pub(crate) cgroups: usize,
    /// Descriptors kept open at most, directories and files together.
    pub(crate) fds: usize,
}

/// What reading a file gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    /// The buffer holds the content.
    Data,
    /// The directory has no such file, or it cannot be read.
    Absent,
    /// The directory vanished; it will be reported gone by the next refresh.
    Gone,
}

/// One directory.
#[derive(Debug)]
pub(crate) struct Node<T> {
    /// The cgroup's path within the hierarchy, as its subject has it.
    pub(crate) path: Arc<str>,
    pub(crate) parent: Option<u32>,
    pub(crate) children: Vec<u32>,
    /// The collector's own state.
    pub(crate) data: T,
    name: CString,
    depth: u16,
    ino: u64,
    nlink: u64,
    stale: bool,
    /// Passes in which it stood still, up to [`SETTLED`].
    still: u8,
    left_out: usize,
    dir: Option<File>,
    files: Box<[Kept]>,
}

/// A directory that vanished.
#[derive(Debug)]
pub(crate) struct Gone<T> {
    /// The id it had; a new directory may have it by now.
    pub(crate) id: u32,
    pub(crate) path: Arc<str>,
    /// Its parent, if that is still there.
    pub(crate) parent: Option<u32>,
    pub(crate) data: T,
}

/// The directories of a hierarchy.
#[derive(Debug)]
pub(crate) struct Tree<T> {
    specs: &'static [FileSpec],
    root: PathBuf,
    nodes: Vec<Option<Node<T>>>,
    free: Vec<u32>,
    len: usize,
    limits: Limits,
    kept: usize,
    cursor: usize,
    /// Directories that have long had no children are asked every so many passes.
    leaves_every: u32,
    /// What tells for a whole pass whether they may rest, and whether it said so.
    census: Option<Census>,
    stirred: bool,
    passes: u32,
    fresh: Vec<u32>,
    gone: Vec<Gone<T>>,
    added: Vec<u32>,
}

impl<T: Default> Tree<T> {
    /// The tree of `hierarchy`, knowing only its root; the first refresh finds the rest.
    pub(crate) fn new(
        hierarchy: &Hierarchy,
        specs: &'static [FileSpec],
        limits: Limits,
    ) -> io::Result<Tree<T>> {
        let dir = File::open(&hierarchy.dir)?;
        let mut tree = Tree {
            specs,
            root: hierarchy.dir.clone(),
            nodes: Vec::new(),
            free: Vec::new(),
            len: 0,
            limits,
            kept: 1,
            cursor: 0,
            leaves_every: 1,
            census: None,
            stirred: true,
            passes: 0,
            fresh: Vec::new(),
            gone: Vec::new(),
            added: Vec::new(),
        };
        let id = tree.insert(hierarchy.prefix.as_str().into(), CString::default(), None, 0, 0);
        if let Some(root) = tree.node_mut(id) {
            root.dir = Some(dir);
        }
        Ok(tree)
    }

    /// Asks directories that have long had no children only every `passes` passes. A first child of such a one is then
    /// found later by as many, unless [`Tree::touch`] tells of it.
    pub(crate) fn rest_leaves(&mut self, passes: u32) {
        self.leaves_every = passes.max(1);
    }

    /// The same where a count by the kernel tells, pass by pass, that cgroups were made: then all are asked.
    pub(crate) fn rest_leaves_unless(&mut self, census: Census, passes: u32) {
        self.rest_leaves(passes);
        self.census = Some(census);
    }

    /// Has a directory listed by the next refresh: something is known to have changed there.
    pub(crate) fn touch(&mut self, id: u32) {
        if let Some(node) = self.node_mut(id) {
            node.stale = true;
        }
    }

    fn rests(&self, id: u32) -> bool {
        self.leaves_every > 1
            && !self.stirred
            && !self.passes.wrapping_add(id).is_multiple_of(self.leaves_every)
            && self.node(id).is_some_and(|n| n.still >= SETTLED && n.children.is_empty() && !n.stale)
    }

    /// The directory with this id, if it still exists.
    pub(crate) fn node(&self, id: u32) -> Option<&Node<T>> {
        self.nodes.get(id as usize)?.as_ref()
    }

    /// The same, for changing the collector's state.
    pub(crate) fn node_mut(&mut self, id: u32) -> Option<&mut Node<T>> {
        self.nodes.get_mut(id as usize)?.as_mut()
    }

    /// One more than the greatest id.
    pub(crate) fn ids(&self) -> u32 {
        self.nodes.len() as u32
    }

    /// The number of directories known.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Where a directory is in the file system.
    pub(crate) fn fs_path(&self, id: u32) -> PathBuf {
        let mut names = Vec::new();
        let mut at = self.node(id);
        while let Some(node) = at {
            names.push(OsStr::from_bytes(node.name.as_bytes()));
            at = node.parent.and_then(|p| self.node(p));
        }
        names.iter().rev().filter(|n| !n.is_empty()).fold(self.root.clone(), |path, name| path.join(name))
    }

    /// Directories that exist but are not followed, because of the limits.
    pub(crate) fn left_out(&self) -> usize {
        self.nodes.iter().flatten().map(|n| n.left_out).sum()
    }

    /// The directories that vanished since the last call.
    pub(crate) fn take_gone(&mut self) -> Vec<Gone<T>> {
        std::mem::take(&mut self.gone)
    }

    /// The directories that were found since the last call.
    pub(crate) fn take_added(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.added)
    }

    /// Follows what came and went. Stops early when `late` says so and goes on there in the next call; returns whether
    /// every directory was looked at.
    pub(crate) fn refresh(&mut self, late: &mut dyn FnMut() -> bool) -> bool {
        let n = self.nodes.len();
        let start = self.cursor;
        if start == 0 {
            // Reading the count costs as much as asking a few directories.
            self.stirred = match &mut self.census {
                Some(census) => self.len < WORTH_A_CENSUS || census.moved(),
                None => false,
            };
        }
        for step in 0..n {
            let id = (start + step) % n;
            if step % 64 == 63 && late() {
                self.cursor = id;
                return false;
            }
            if !self.rests(id as u32) {
                self.check(id as u32);
            }
        }
        self.cursor = 0;
        self.passes = self.passes.wrapping_add(1);
        let mut step = 0;
        while let Some(id) = self.fresh.pop() {
            self.check(id);
            step += 1;
            if step % 64 == 0 && late() {
                return self.fresh.is_empty();
            }
        }
        true
    }

    /// Lists a directory if its number of children moved.
    fn check(&mut self, id: u32) {
        let Some(node) = self.node(id) else { return };
        let nlink = match &node.dir {
            Some(dir) => dir.metadata().map(|m| m.nlink()),
            None => self.at(id, c"", files::nlink),
        };
        let Some(node) = self.node_mut(id) else { return };
        match nlink {
            // File systems that do not count (link count 1) are listed each time.
            Ok(nlink) if nlink >= 2 && nlink == node.nlink && !node.stale => {
                node.still = node.still.saturating_add(1).min(SETTLED);
            }
            Ok(nlink) => {
                node.nlink = nlink;
                node.still = 0;
                self.scan(id);
            }
            Err(_) => self.suspect(id),
        }
    }

    /// Marks the parent of a directory that could not be read, so that it is listed by the next refresh.
    fn suspect(&mut self, id: u32) {
        let parent = self.node(id).and_then(|n| n.parent);
        if let Some(parent) = parent.and_then(|p| self.node_mut(p)) {
            parent.stale = true;
        }
    }

    /// Lists a directory and takes up what changed among its children.
    fn scan(&mut self, id: u32) {
        let Some(node) = self.node(id) else { return };
        let mut known: Vec<(u64, u32, bool)> =
            node.children.iter().filter_map(|c| Some((self.node(*c)?.ino, *c, false))).collect();
        known.sort_unstable();
        let mut found: Vec<(u64, CString)> = Vec::new();
        let listed = self.with_dir(id, |tree, dir| {
            files::list_dir(dir, &mut |entry| {
                let is_dir = match entry.kind {
                    libc::DT_DIR => true,
                    libc::DT_UNKNOWN => files::open_dir(dir, entry.name).is_ok(),
                    _ => false,
                };
                if !is_dir {
                    return;
                }
                let at = known.binary_search_by_key(&entry.ino, |k| k.0).ok().and_then(|i| known.get_mut(i));
                match at {
                    Some(k) if tree.node(k.1).is_some_and(|n| n.name.as_c_str() == entry.name) => k.2 = true,
                    _ => found.push((entry.ino, entry.name.to_owned())),
                }
            })
        });
        if listed.is_err() {
            self.suspect(id);
            return;
        }
        for (_, child, _) in known.iter().filter(|k| !k.2) {
            self.remove(*child, id);
        }
        let mut children: Vec<u32> = known.iter().filter(|k| k.2).map(|k| k.1).collect();
        // In the order of names, so that ids do not depend on the file system's order.
        found.sort_unstable_by(|a, b| b.1.cmp(&a.1));
        let mut left_out = 0;
        let Some((base, depth)) = self.node(id).map(|n| (n.path.clone(), n.depth)) else {
            return;
        };
        for (ino, name) in found {
            let shown = text::from_bytes(name.as_bytes());
            if self.len >= self.limits.cgroups
                || depth >= MAX_DEPTH
                || base.len() + shown.len() + 1 > MAX_PATH
            {
                left_out += 1;
                continue;
            }
            let slash = if base.ends_with('/') { "" } else { "/" };
            let path = format!("{base}{slash}{shown}").into();
            children.push(self.insert(path, name, Some(id), depth + 1, ino));
        }
        if let Some(node) = self.node_mut(id) {
            node.children = children;
            node.left_out = left_out;
            node.stale = false;
        }
    }

    fn insert(&mut self, path: Arc<str>, name: CString, parent: Option<u32>, depth: u16, ino: u64) -> u32 {
        let files = self.specs.iter().map(|_| Kept::Closed).collect();
        let node = Node {
            path,
            parent,
            children: Vec::new(),
            data: T::default(),
            name,
            depth,
            ino,
            nlink: 2,
            stale: false,
            still: 0,
            left_out: 0,
            dir: None,
            files,
        };
        let id = match self.free.pop() {
            Some(id) => id,
            None => {
                self.nodes.push(None);
                (self.nodes.len() - 1) as u32
            }
        };
        if let Some(slot) = self.nodes.get_mut(id as usize) {
            *slot = Some(node);
        }
        self.len += 1;
        self.fresh.push(id);
        self.added.push(id);
        id
    }

    /// Forgets a directory and all below it.
    fn remove(&mut self, top: u32, parent: u32) {
        let mut all = vec![top];
        let had_overflow = self.len >= self.limits.cgroups;
        while let Some(id) = all.pop() {
            let Some(node) = self.nodes.get_mut(id as usize).and_then(Option::take) else {
                continue;
            };
            all.extend_from_slice(&node.children);
            self.kept -= usize::from(node.dir.is_some());
            self.kept -= node.files.iter().filter(|f| matches!(f, Kept::Open(_))).count();
            self.len -= 1;
            self.free.push(id);
            let parent = (id == top).then_some(parent);
            self.gone.push(Gone { id, path: node.path, parent, data: node.data });
        }
        if had_overflow {
            self.nodes.iter_mut().flatten().filter(|n| n.left_out > 0).for_each(|n| n.stale = true);
        }
    }
}
