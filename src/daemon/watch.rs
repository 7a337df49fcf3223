//! What tells that files of rules or the config changed: events of their directories, and a look at their times.
//!
//! Directories are watched and not files, because editors and Kubernetes put new files and links in the place of old ones.
//! Events only wake; whether something changed is decided by [`Mark`]. Where events do not come, as on network file
//! systems or when the system has no watch left, the look at the times is made every [`POLL`].

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};

/// How often files are looked at without an event.
pub const POLL: Duration = Duration::from_secs(10);
/// Directories that are watched; the others are only looked at.
const MAX_DIRS: usize = 1_000;
/// Files and directories that are looked at, as many as are read.
const MAX_ENTRIES: usize = 20_000;
/// Links of one path that are followed.
const MAX_LINKS: usize = 16;

/// Which state files are in: equal marks mean that nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark(u64);

/// What one look found.
#[derive(Debug)]
pub struct Look {
    /// The state of all files.
    pub mark: Mark,
    /// Directories in which a change would matter.
    dirs: BTreeSet<PathBuf>,
}

/// Looks at a config file and at directories of rules. Reads no file.
pub fn look(config: &Path, rules: &[PathBuf]) -> Look {
    let mut eyes = Eyes::default();
    eyes.file(config);
    for dir in rules {
        dir.hash(&mut eyes.mark);
        if dir.symlink_metadata().map_or(true, |m| m.is_symlink()) {
            eyes.holders(dir);
        }
        eyes.tree(dir);
    }
    Look { mark: Mark(eyes.mark.finish()), dirs: eyes.dirs }
}

#[derive(Default)]
struct Eyes {
    mark: DefaultHasher,
    dirs: BTreeSet<PathBuf>,
    seen: BTreeSet<PathBuf>,
    entries: usize,
}

impl Eyes {
    /// A file by its name, its times, its size and its identity, and every directory in which it could be replaced.
    fn file(&mut self, path: &Path) {
        self.entries += 1;
        path.hash(&mut self.mark);
        match path.metadata() {
            Ok(m) => (m.dev(), m.ino(), m.size(), m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec())
                .hash(&mut self.mark),
            Err(e) => e.raw_os_error().hash(&mut self.mark),
        }
        self.holders(path);
    }

    /// The directory that holds `path`, else its nearest ancestor that exists, and the same for what `path` links to.
    fn holders(&mut self, path: &Path) {
        let Ok(mut path) = std::path::absolute(path) else { return };
        for _ in 0..MAX_LINKS {
            let mut above = path.ancestors().skip(1);
            if let Some(dir) = above.find_map(|d| d.canonicalize().ok().filter(|d| d.is_dir())) {
                self.dirs.insert(dir);
            }
            let (Some(parent), Ok(to)) = (path.parent(), path.read_link()) else { return };
            path = parent.join(to);
        }
    }

    /// The rule files in `dir` and below, as [`super::rule_files::find`] finds them.
    fn tree(&mut self, dir: &Path) {
        let real = match dir.canonicalize() {
            Ok(real) => real,
            Err(e) => return e.raw_os_error().hash(&mut self.mark),
        };
        if self.entries >= MAX_ENTRIES || !self.seen.insert(real.clone()) {
            return;
        }
        self.entries += 1;
        self.dirs.insert(real);
        let mut names: Vec<_> = match std::fs::read_dir(dir) {
            Ok(list) => list.flatten().map(|e| e.file_name()).collect(),
            Err(e) => return e.raw_os_error().hash(&mut self.mark),
        };
        names.retain(|n| !n.as_encoded_bytes().starts_with(b"."));
        names.sort();
        for path in names.into_iter().map(|n| dir.join(n)) {
            if path.is_dir() {
                self.tree(&path);
            } else if path.extension().is_some_and(|e| e == "rhai") && self.entries < MAX_ENTRIES {
                self.file(&path);
            }
        }
    }
}

/// Wakes when something happens in a directory.
#[derive(Debug)]
pub struct Watch {
    watcher: Option<RecommendedWatcher>,
    /// Each watched directory with its device and inode: another directory may come in its place.
    held: BTreeMap<PathBuf, (u64, u64)>,
    /// What could not be watched, told once.
    problem: Option<String>,
}

impl Watch {
    /// A watch that calls `wake` on another thread. Where the system gives none, it never does.
    pub fn new(wake: impl Fn() + Send + 'static) -> Watch {
        let made = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.map_or(true, |e| matters(&e)) {
                wake();
            }
        });
        let (watcher, problem) = match made {
            Ok(w) => (Some(w), None),
            Err(e) => (None, Some(format!("no watch on files: {e}"))),
        };
        Watch { watcher, held: BTreeMap::new(), problem }
    }

    /// Watches what `look` found and nothing else. Returns whether anything is watched that was not before.
    pub fn follow(&mut self, look: &Look) -> bool {
        let Some(watcher) = &mut self.watcher else { return false };
        let mut more = false;
        let identity = |dir: &PathBuf| dir.metadata().map(|m| (m.dev(), m.ino())).ok();
        let gone: Vec<PathBuf> = self
            .held
            .iter()
            .filter(|(dir, held)| !look.dirs.contains(*dir) || identity(dir) != Some(**held))
            .map(|(dir, _)| dir.clone())
            .collect();
        for dir in gone {
            self.held.remove(&dir);
            // The system has ended the watch of a directory that is gone.
            let _ = watcher.unwatch(&dir);
        }
        for dir in &look.dirs {
            if self.held.len() >= MAX_DIRS {
                self.problem.get_or_insert_with(|| format!("more than {MAX_DIRS} directories"));
                break;
            }
            let Some(is) = identity(dir).filter(|_| !self.held.contains_key(dir)) else { continue };
            match watcher.watch(dir, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    self.held.insert(dir.clone(), is);
                    more = true;
                }
                // Gone meanwhile: the next look sees that.
                Err(_) if !dir.exists() => more = true,
                Err(e) => {
                    self.problem.get_or_insert_with(|| format!("no watch on {}: {e}", dir.display()));
                }
            }
        }
        more
    }

    /// What cannot be watched and is only looked at; said once.
    pub fn take_problem(&mut self) -> Option<String> {
        match self.problem.as_mut() {
            Some(p) if !p.is_empty() => Some(std::mem::take(p)),
            _ => None,
        }
    }
}

/// Whether an event can mean a change; opening and reading, our own included, cannot.
fn matters(e: &notify::Event) -> bool {
    !matches!(e.kind, EventKind::Access(kind) if kind != AccessKind::Close(AccessMode::Write))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::sync::mpsc::{Receiver, channel};

    struct Dir(tempfile::TempDir);

    impl Dir {
        fn new() -> Dir {
            Dir(tempfile::tempdir().unwrap())
        }
        fn at(&self, path: &str) -> PathBuf {
            self.0.path().join(path)
        }
        fn put(&self, path: &str, text: &str) {
            std::fs::create_dir_all(self.at(path).parent().unwrap()).unwrap();
            std::fs::write(self.at(path), text).unwrap();
        }
        fn look(&self) -> Look {
            look(&self.at("c.toml"), &[self.at("rules")])
        }
    }

    /// Each change that matters gives another mark, so that a look alone, without any event, finds it.
    #[test]
    fn marks_tell_every_change_and_nothing_else() {
        let d = Dir::new();
        let mut last = d.look().mark;
        let mut changed = |what: &str, expected: bool| {
            let mark = d.look().mark;
            assert_eq!(mark != last, expected, "{what}");
            last = mark;
        };
        changed("nothing", false);
        d.put("rules/.a.rhai.swp", "x");
        changed("the directory is made", true);
        d.put("rules/.b.swp", "x");
        d.put("rules/readme.txt", "x");
        d.put("rules/.git/x.rhai", "x");
        changed("files that are no rules", false);
        d.put("rules/a.rhai", "1");
        changed("new", true);
        d.put("rules/a.rhai", "12");
        changed("written", true);
        d.put("rules/b.tmp", "12");
        std::fs::rename(d.at("rules/b.tmp"), d.at("rules/a.rhai")).unwrap();
        changed("renamed over", true);
        d.put("rules/sub/b.rhai", "1");
        changed("below", true);
        d.put("c.toml", "");
        changed("config", true);
        std::fs::remove_dir_all(d.at("rules")).unwrap();
        changed("all gone", true);
    }

    #[test]
    fn links_are_followed_to_every_place_where_they_could_be_changed() {
        let d = Dir::new();
        // As Kubernetes mounts a ConfigMap, with the rules directory a link as well.
        d.put("mount/..1/a.rhai", "1");
        d.put("mount/..2/a.rhai", "1");
        symlink("..1", d.at("mount/..data")).unwrap();
        symlink("..data/a.rhai", d.at("mount/a.rhai")).unwrap();
        symlink("mount", d.at("rules")).unwrap();
        d.put("elsewhere/c.toml", "");
        symlink("elsewhere/c.toml", d.at("c.toml")).unwrap();
        let before = d.look();
        let real = |p: &str| d.at(p).canonicalize().unwrap();
        for dir in ["", "mount", "mount/..1", "elsewhere"] {
            assert!(before.dirs.contains(&real(dir)), "{dir}: {:?}", before.dirs);
        }
        symlink("..2", d.at("mount/..tmp")).unwrap();
        std::fs::rename(d.at("mount/..tmp"), d.at("mount/..data")).unwrap();
        let after = d.look();
        assert_ne!(before.mark, after.mark);
        assert!(after.dirs.contains(&real("mount/..2")) && !after.dirs.contains(&real("mount/..1")));
        // A loop ends.
        symlink("loop", d.at("loop")).unwrap();
        look(&d.at("loop"), &[d.at("loop")]);
    }

    /// Waits for events until there are none for a while.
    fn wakes(events: &Receiver<()>, patience: Duration) -> bool {
        let first = events.recv_timeout(patience).is_ok();
        while events.recv_timeout(Duration::from_millis(50)).is_ok() {}
        first
    }

    #[test]
    fn changes_wake_wherever_they_happen() {
        let d = Dir::new();
        let (to, events) = channel();
        let mut watch = Watch::new(move || {
            let _ = to.send(());
        });
        let long = Duration::from_secs(30);
        let mut step = |what: &str, change: &dyn Fn()| {
            watch.follow(&d.look());
            wakes(&events, Duration::ZERO);
            change();
            assert!(wakes(&events, long), "{what}");
        };
        step("a missing directory is made", &|| d.put("rules/x", ""));
        step("a file in it", &|| d.put("rules/a.rhai", "1"));
        step("renamed over", &|| {
            d.put("new", "2");
            std::fs::rename(d.at("new"), d.at("rules/a.rhai")).unwrap();
        });
        step("removed", &|| std::fs::remove_dir_all(d.at("rules")).unwrap());
        step("made again", &|| d.put("rules/a.rhai", "1"));
        step("a file in the new one", &|| d.put("rules/b.rhai", "1"));
        step("another in its place", &|| {
            d.put("other/c.rhai", "1");
            std::fs::rename(d.at("rules"), d.at("old")).unwrap();
            std::fs::rename(d.at("other"), d.at("rules")).unwrap();
        });
        step("a file in that one", &|| d.put("rules/d.rhai", "1"));
        step("the config", &|| d.put("c.toml", ""));
        assert_eq!(watch.take_problem(), None);
        // Reading is no change: the reload's own reading must not wake it.
        watch.follow(&d.look());
        wakes(&events, Duration::ZERO);
        d.look();
        std::fs::read(d.at("rules/d.rhai")).unwrap();
        assert!(!wakes(&events, Duration::from_millis(200)));
    }
}
