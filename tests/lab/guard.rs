//! What the lab leaves in the kernel or on disk, and how each is undone.
//!
//! Two lines of defence: a [`Guard`] undoes its thing when it is dropped (also by a panic), and the reaper, a process
//! of its own, undoes what is still registered when its pipe breaks, which happens however the lab dies.

use std::collections::VecDeque;
use std::fmt;
use std::fs;
use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::sys;

/// One thing to undo. Its text form is the reaper's line protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Thing {
    /// A cgroup directory with all below it; processes still in it are killed first, since only the lab's are there.
    Cgroup(PathBuf),
    /// A scratch directory.
    Dir(PathBuf),
    /// A sysctl file and the text to write back.
    Sysctl(PathBuf, String),
}

impl fmt::Display for Thing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Thing::Cgroup(p) => write!(f, "cgroup {}", p.display()),
            Thing::Dir(p) => write!(f, "dir {}", p.display()),
            Thing::Sysctl(p, value) => write!(f, "sysctl {}={value}", p.display()),
        }
    }
}

impl Thing {
    fn parse(line: &str) -> Option<Thing> {
        let (kind, rest) = line.split_once(' ')?;
        match kind {
            "cgroup" => Some(Thing::Cgroup(rest.into())),
            "dir" => Some(Thing::Dir(rest.into())),
            "sysctl" => rest.split_once('=').map(|(p, v)| Thing::Sysctl(p.into(), v.into())),
            _ => None,
        }
    }

    fn undo(&self) -> Result<()> {
        match self {
            Thing::Cgroup(p) => remove_cgroup(p, Duration::from_secs(8)),
            Thing::Dir(p) => match fs::remove_dir_all(p) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e).with_context(|| format!("{p:?}")),
                _ => Ok(()),
            },
            Thing::Sysctl(p, value) => fs::write(p, value).with_context(|| format!("{p:?} = {value}")),
        }
    }
}

/// Removes a cgroup and its descendants, deepest first, killing what still runs in them, until `limit` is over.
fn remove_cgroup(dir: &Path, limit: Duration) -> Result<()> {
    let end = Instant::now() + limit;
    loop {
        match remove_once(dir) {
            Ok(()) => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) if Instant::now() >= end => bail!("cgroup {dir:?} stays: {e}"),
            Err(_) => sleep(Duration::from_millis(20)),
        }
    }
}

fn remove_once(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_once(&entry.path())?;
        }
    }
    for pid in fs::read_to_string(dir.join("cgroup.procs"))?.lines().filter_map(|l| l.parse().ok()) {
        if pid != std::process::id() {
            let _ = sys::kill(pid, libc::SIGKILL);
        }
    }
    fs::remove_dir(dir)
}

/// Undoes its thing when dropped.
#[derive(Debug)]
pub(crate) struct Guard {
    thing: Thing,
    reaper: Arc<Reaper>,
}

impl Guard {
    /// Registers `thing` with the reaper; call it before making the thing, so that no moment is unguarded.
    pub(crate) fn new(reaper: &Arc<Reaper>, thing: Thing) -> Result<Guard> {
        reaper.say(format_args!("+{thing}"))?;
        Ok(Guard { thing, reaper: reaper.clone() })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        match self.thing.undo() {
            // Failing to tell the reaper only means that it tries once more.
            Ok(()) => drop(self.reaper.say(format_args!("-{}", self.thing))),
            Err(e) => println!("  cleanup: {e:#}"),
        }
    }
}

/// The process that cleans up after a lab that could not.
#[derive(Debug)]
pub(crate) struct Reaper {
    pipe: Mutex<Option<ChildStdin>>,
    child: Mutex<Child>,
}

impl Reaper {
    /// Starts it from this very executable.
    pub(crate) fn start() -> Result<Arc<Reaper>> {
        let mut command = Command::new("/proc/self/exe");
        command.args([crate::ROLE_ARG, "reaper"]).stdin(Stdio::piped());
        let mut child = command.spawn().context("cannot start the reaper")?;
        let pipe = Mutex::new(child.stdin.take());
        Ok(Arc::new(Reaper { pipe, child: Mutex::new(child) }))
    }

    fn say(&self, line: fmt::Arguments<'_>) -> Result<()> {
        let mut pipe = self.pipe.lock().unwrap_or_else(PoisonError::into_inner);
        let pipe = pipe.as_mut().context("the reaper has no pipe")?;
        writeln!(pipe, "{line}").context("the reaper is gone")
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        // Closing the pipe ends it.
        drop(self.pipe.lock().unwrap_or_else(PoisonError::into_inner).take());
        let _ = self.child.lock().unwrap_or_else(PoisonError::into_inner).wait();
    }
}

/// The reaper's own main: reads registrations until the pipe breaks, then undoes what is left, newest first.
pub(crate) fn reaper_main() {
    sys::set_comm("lab-reaper");
    sys::ignore_signals();
    sys::new_session();
    let mut left: VecDeque<Thing> = VecDeque::new();
    for line in io::stdin().lock().lines().map_while(Result::ok) {
        match (line.get(..1), line.get(1..).and_then(Thing::parse)) {
            (Some("+"), Some(thing)) => left.push_front(thing),
            (Some("-"), Some(thing)) => left.retain(|t| *t != thing),
            _ => eprintln!("lab reaper: unknown line {line:?}"),
        }
    }
    for thing in left {
        match thing.undo() {
            Ok(()) => eprintln!("lab reaper: undid {thing}"),
            Err(e) => eprintln!("lab reaper: {e:#}"),
        }
    }
}

/// What a thing's line says is read back as the same thing. Run as a trial of its own.
pub(crate) fn self_test() -> Result<()> {
    let things = [
        Thing::Cgroup("/sys/fs/cgroup/memory/whystall-lab-x-1".into()),
        Thing::Dir("/var/tmp/whystall-lab-abc def".into()),
        Thing::Sysctl("/proc/sys/vm/swappiness".into(), "60\t=7".into()),
    ];
    for thing in things {
        let read = Thing::parse(&thing.to_string());
        anyhow::ensure!(read.as_ref() == Some(&thing), "{thing} was read as {read:?}");
    }
    anyhow::ensure!(Thing::parse("files /").is_none(), "an unknown kind is nothing");
    Ok(())
}
