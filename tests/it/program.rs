//! Runs the built program. Waits for conditions; nothing here asserts how long something took.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Nothing that is waited for may take longer; a hang then fails instead of blocking.
const PATIENCE: Duration = Duration::from_secs(60);

/// The program with these arguments, without colours and without anything of the tester's environment that it reads.
pub(crate) fn whystall(args: &[&str]) -> Command {
    let mut c = Command::new(env!("CARGO_BIN_EXE_whystall"));
    c.args(args).stdin(Stdio::null()).env("NO_COLOR", "1").env_remove("NOTIFY_SOCKET");
    // Nothing of this host's own daemon, and nothing of another test.
    c.env("STATE_DIRECTORY", fresh_state());
    c
}

/// A directory for the state of one run, below the build's own; it need not exist.
fn fresh_state() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("state");
    let dir = dir.join(NEXT.fetch_add(1, Ordering::Relaxed).to_string());
    // Of an earlier run of the tests.
    let _ = std::fs::remove_dir_all(&dir);
    dir
}

/// What a run of the program came to.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) status: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Ran {
    fn from(o: Output) -> Ran {
        let text = |b| String::from_utf8(b).unwrap();
        Ran { status: o.status.code(), stdout: text(o.stdout), stderr: text(o.stderr) }
    }
}

impl Ran {
    /// Fails with everything that was printed unless the status is `expected`.
    #[track_caller]
    pub(crate) fn exits(self, expected: i32) -> Ran {
        assert_eq!(self.status, Some(expected), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// Fails unless standard error has each of these texts.
    #[track_caller]
    pub(crate) fn says(self, texts: &[&str]) -> Ran {
        for t in texts {
            assert!(self.stderr.contains(t), "`{t}` is not in stderr:\n{}", self.stderr);
        }
        self
    }

    /// Fails unless standard output has each of these texts.
    #[track_caller]
    pub(crate) fn prints(self, texts: &[&str]) -> Ran {
        for t in texts {
            assert!(self.stdout.contains(t), "`{t}` is not in stdout:\n{}", self.stdout);
        }
        self
    }

    /// Standard output as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}:\n{}", self.stdout))
    }
}

/// Runs it to its end.
pub(crate) fn run(args: &[&str]) -> Ran {
    whystall(args).output().unwrap().into()
}

/// Runs it to its end with `input` on standard input.
pub(crate) fn run_with(args: &[&str], input: &str) -> Ran {
    let mut child =
        whystall(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // It may end before it has read everything.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    child.wait_with_output().unwrap().into()
}

/// A program that goes on until it is told to end; killed when dropped.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) child: Child,
    stderr: BufReader<ChildStderr>,
}

impl Running {
    pub(crate) fn start(args: &[&str]) -> Running {
        Running::begin(&mut whystall(args))
    }

    /// Starts a command that [`whystall`] made.
    pub(crate) fn begin(command: &mut Command) -> Running {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        Running { child, stderr }
    }

    /// Waits for a line on standard error with `text` in it.
    pub(crate) fn wait_for(&mut self, text: &str) {
        let mut seen = String::new();
        while !seen.lines().last().is_some_and(|l| l.contains(text)) {
            assert!(self.stderr.read_line(&mut seen).unwrap() > 0, "it ended without `{text}`:\n{seen}");
        }
    }

    pub(crate) fn signal(&self, number: i32) {
        let pid = i32::try_from(self.child.id()).unwrap();
        // SAFETY: kill takes numbers only; the child has not been waited for, so its pid is its own.
        assert_eq!(unsafe { libc::kill(pid, number) }, 0);
    }

    /// Waits for its end; returns its status and the rest of standard error.
    pub(crate) fn end(mut self) -> (Option<i32>, String) {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                let mut rest = String::new();
                self.stderr.read_to_string(&mut rest).unwrap();
                return (status.code(), rest);
            }
            assert!(Instant::now() < until, "it does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended already, unless a test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where `tests/peers/setup.sh` puts what it installs.
pub(crate) fn peers() -> PathBuf {
    let peers = std::env::var_os("WHYSTALL_PEERS").map(PathBuf::from);
    peers.unwrap_or(Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers"))
}
