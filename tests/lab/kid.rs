//! Child processes that carry a load. Each is this very executable in a role (see `roles`), ends by itself at its
//! deadline, dies with the lab, and is killed when dropped.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::cgroup::Cgroup;
use crate::sys;

/// A running role.
#[derive(Debug)]
pub(crate) struct Kid {
    role: &'static str,
    child: Child,
}

/// What a role wrote on its standard output when it ended: `name=number` words.
pub(crate) type Report = BTreeMap<String, f64>;

impl Kid {
    /// Starts `role` with `settings` (`name=value` words); it joins `group` itself before it does anything else.
    pub(crate) fn start(role: &'static str, group: Option<&Cgroup>, settings: &[String]) -> Result<Kid> {
        let mut command = Command::new("/proc/self/exe");
        command.arg0("whystall-lab").args([crate::ROLE_ARG, role]).args(settings);
        for procs in group.map(Cgroup::procs).unwrap_or_default() {
            command.arg(format!("join={}", procs.display()));
        }
        sys::die_with_parent(&mut command).stdin(Stdio::null()).stdout(Stdio::piped());
        let child = command.spawn().with_context(|| format!("cannot start a child as `{role}`"))?;
        Ok(Kid { role, child })
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended, and how; never waits.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("waiting for `{}`", self.role))
    }

    /// Waits until it ends, at most `limit`.
    pub(crate) fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if sys::interrupted() {
                bail!("interrupted");
            }
            if Instant::now() >= end {
                bail!("child `{}` did not end within {limit:?}", self.role);
            }
            sleep(Duration::from_millis(5));
        }
    }

    /// Waits until it ends well, at most `limit`, and reads its report.
    pub(crate) fn finish(mut self, limit: Duration) -> Result<Report> {
        let status = self.wait(limit)?;
        let mut text = String::new();
        if let Some(stdout) = self.child.stdout.as_mut() {
            stdout.take(1 << 16).read_to_string(&mut text).context("reading a child's report")?;
        }
        if !status.success() {
            bail!("child `{}` failed: {status} (signal {:?}): {text}", self.role, status.signal());
        }
        Ok(text
            .split_whitespace()
            .filter_map(|w| w.split_once('='))
            .filter_map(|(k, v)| Some((k.to_owned(), v.parse().ok()?)))
            .collect())
    }
}

impl Drop for Kid {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A number that a role must have reported.
pub(crate) fn number(report: &Report, name: &str) -> Result<f64> {
    report.get(name).copied().with_context(|| format!("a child did not report `{name}`: {report:?}"))
}
