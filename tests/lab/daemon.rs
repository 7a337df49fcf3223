//! whystall as the lab runs it: the built binary (or the one that LAB_WHYSTALL names, such as an installed one), with a state directory of its own and no rules or receivers from this
//! host, its lines stamped as they arrive.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::expect::Line;
use crate::sys;

/// How long whystall may take until it says that it is watching.
const READY: Duration = Duration::from_secs(15);
/// The most lines of either stream that are kept, so that a daemon gone mad cannot fill memory.
const MOST_LINES: usize = 20_000;

type Lines = Arc<Mutex<Vec<Line>>>;

/// A running whystall; killed when dropped.
pub(crate) struct Daemon {
    child: Child,
    stdout: Lines,
    stderr: Lines,
    readers: Vec<JoinHandle<()>>,
}

impl Daemon {
    /// Starts `whystall run` for at most `longest` and waits until it is watching. Its lines are stamped by threads on
    /// `quiet_cpus`, so that a hog does not delay the stamps.
    pub(crate) fn start(scratch: &Path, longest: Duration, quiet_cpus: &[usize]) -> Result<Daemon> {
        let state = scratch.join("state");
        fs::create_dir(&state).with_context(|| format!("{state:?}"))?;
        let config = scratch.join("whystall.toml");
        // All defaults, but deaf to rules that an operator of this host has added.
        fs::write(&config, "rules_dirs = []\n").with_context(|| format!("{config:?}"))?;
        let built = env!("CARGO_BIN_EXE_whystall").into();
        let mut command = Command::new(std::env::var_os("LAB_WHYSTALL").unwrap_or(built));
        command.arg("run").arg("--config").arg(&config).args(["--output", "json"]);
        command.arg("--for").arg(format!("{}s", longest.as_secs()));
        command.env("STATE_DIRECTORY", &state).env_remove("NOTIFY_SOCKET");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = sys::die_with_parent(&mut command).spawn().context("cannot start whystall")?;
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let mut daemon =
            Daemon { child, stdout: Lines::default(), stderr: Lines::default(), readers: Vec::new() };
        daemon.readers.extend(out.map(|pipe| collect(pipe, daemon.stdout.clone(), quiet_cpus.to_vec())));
        daemon.readers.extend(err.map(|pipe| collect(pipe, daemon.stderr.clone(), quiet_cpus.to_vec())));
        daemon.wait_until_watching()?;
        Ok(daemon)
    }

    fn wait_until_watching(&mut self) -> Result<()> {
        let end = Instant::now() + READY;
        while !lines(&self.stderr).iter().any(|l| l.text.contains("watching")) {
            if let Some(status) = self.child.try_wait().context("waiting for whystall")? {
                bail!("whystall ended before it was watching: {status}\n{}", self.stderr_tail());
            }
            if Instant::now() >= end {
                bail!("whystall was not `watching` within {READY:?}\n{}", self.stderr_tail());
            }
            if sys::interrupted() {
                bail!("interrupted");
            }
            sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// The lines on its standard output so far.
    pub(crate) fn verdicts(&self) -> Vec<Line> {
        lines(&self.stdout)
    }

    /// The last lines of its standard error, for a failure's message.
    pub(crate) fn stderr_tail(&self) -> String {
        let all = lines(&self.stderr);
        let tail = all.iter().skip(all.len().saturating_sub(40));
        tail.map(|l| format!("    whystall: {}\n", l.text)).collect()
    }

    /// Asks it to end as a service manager does, and waits for it and for its last lines.
    pub(crate) fn stop(&mut self) -> Result<ExitStatus> {
        sys::kill(self.child.id(), libc::SIGTERM).context("cannot stop whystall")?;
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            if let Some(status) = self.child.try_wait().context("waiting for whystall")? {
                for reader in self.readers.drain(..) {
                    let _ = reader.join();
                }
                return Ok(status);
            }
            if Instant::now() >= end {
                bail!("whystall did not end within 10 s of SIGTERM\n{}", self.stderr_tail());
            }
            sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines(of: &Lines) -> Vec<Line> {
    of.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Reads a pipe to its end, stamping each line as it comes.
fn collect(pipe: impl Read + Send + 'static, into: Lines, quiet_cpus: Vec<usize>) -> JoinHandle<()> {
    spawn(move || {
        // Without it stamps may only be late.
        let _ = sys::pin(&quiet_cpus);
        let mut reader = BufReader::new(pipe);
        let mut bytes = Vec::new();
        while matches!(reader.read_until(b'\n', &mut bytes), Ok(n) if n > 0) {
            let at_ns = sys::boot_ns();
            let text = String::from_utf8_lossy(&bytes).trim_end().to_owned();
            bytes.clear();
            let mut lines = into.lock().unwrap_or_else(PoisonError::into_inner);
            if !text.is_empty() && lines.len() < MOST_LINES {
                lines.push(Line { at_ns, text });
            }
        }
    })
}
