//! One fault from start to judgement, and the table of all.

use std::cell::OnceCell;
use std::fs::File;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use whystall_event::format_rfc3339;

use crate::cgroup::Layout;
use crate::counters::Snapshot;
use crate::daemon::Daemon;
use crate::expect::{self, Expect, Seen};
use crate::faults;
use crate::guard::Reaper;
use crate::scene::{Fault, Host, Scene, scratch_dir};
use crate::sys;

/// whystall watches this long before a fault begins.
const WARM_UP: Duration = Duration::from_secs(5);
/// The longest that a fault itself takes.
const LONGEST_FAULT: Duration = Duration::from_secs(75);
/// After a fault's end: the longest wait for its verdict, for its resolution, and of silence.
const LATE_VERDICT: Duration = Duration::from_secs(10);
const RESOLUTION: Duration = Duration::from_secs(90);
const STILL_SILENT: Duration = Duration::from_secs(5);

const LOCK: &str = "/run/whystall-lab.lock";

/// How a fault went.
pub(crate) enum Outcome {
    Passed,
    Skipped(String),
}

/// All that outlives one fault.
#[derive(Default)]
pub(crate) struct Lab {
    open: OnceCell<Result<(Host, File), String>>,
    rows: Vec<String>,
    stopped: bool,
}

fn flag(name: &str) -> bool {
    std::env::var_os(name).is_some_and(|v| !v.is_empty() && v != "0")
}

/// Prepares the host on first use, so that `--list` and the pure trials need no root and change nothing.
fn open() -> Result<(Host, File), String> {
    if !sys::is_root() {
        return Err("needs root".into());
    }
    let locked = || -> Result<File> {
        let file = File::create(LOCK).with_context(|| LOCK.to_owned())?;
        sys::lock(&file).context("another lab is running")?;
        Ok(file)
    };
    let host = || -> Result<Host> {
        Ok(Host {
            layout: Layout::detect(),
            cpus: sys::allowed_cpus()?,
            disk: std::env::var_os("LAB_DIR").map_or_else(|| "/var/tmp".into(), PathBuf::from),
            quick: flag("LAB_QUICK"),
            reaper: Reaper::start()?,
        })
    };
    let lock = locked().map_err(|e| format!("{e:#}"))?;
    Ok((host().map_err(|e| format!("{e:#}"))?, lock))
}

impl Lab {
    /// Runs one fault and judges it. An error is a failure and says all that is needed to understand it.
    pub(crate) fn run(&mut self, fault: &Fault) -> Result<Outcome> {
        ensure!(!self.stopped && !sys::interrupted(), "interrupted");
        let row = {
            let host = match self.open.get_or_init(open) {
                Ok((host, _)) => host,
                Err(why) => return Ok(Outcome::Skipped(why.clone())),
            };
            if let Err(why) = (fault.available)(host) {
                return Ok(Outcome::Skipped(why));
            }
            println!();
            if flag("LAB_DRY") { dry(host, fault) } else { watched(host, fault) }
        };
        self.stopped = sys::interrupted();
        self.rows.push(row?);
        Ok(Outcome::Passed)
    }

    /// Prints what was measured, as a table.
    pub(crate) fn print_table(&self) {
        if self.rows.is_empty() {
            return;
        }
        match flag("LAB_DRY") {
            true => println!("| fault | seconds | proof by the kernel's counters |\n| --- | --- | --- |"),
            false => println!("| fault | verdict | cause | onset → verdict |\n| --- | --- | --- | --- |"),
        }
        for row in &self.rows {
            println!("{row}");
        }
    }
}

/// A row of the table: the fault and up to three cells; those missing are dashes.
fn row_of(name: &str, cells: &[&str]) -> String {
    let width = if flag("LAB_DRY") { 2 } else { 3 };
    let padding = std::iter::repeat_n("–", width - cells.len().min(width));
    let cells: String = cells.iter().copied().chain(padding).map(|cell| format!(" {cell} |")).collect();
    format!("| `{name}` |{cells}")
}

/// The fault alone, without whystall.
fn dry(host: &Host, fault: &Fault) -> Result<String> {
    let start = Instant::now();
    let proof = (fault.run)(&mut Scene::new(host, fault.name, None))?.verify()?;
    println!("  proof: {proof}");
    Ok(format!("| `{}` | {:.1} | {proof} |", fault.name, start.elapsed().as_secs_f64()))
}

/// The fault with whystall watching.
fn watched(host: &Host, fault: &Fault) -> Result<String> {
    let (_scratch, dir) = scratch_dir(host, &std::env::temp_dir())?;
    let longest = WARM_UP + LONGEST_FAULT + LATE_VERDICT + RESOLUTION + Duration::from_secs(30);
    let mut daemon = Daemon::start(&dir, longest, &host.quiet_cpus())?;
    let before = Snapshot::take();
    // A rule resolves the same way whatever made it speak.
    let once = host.quick && !faults::first_of_its_rule(fault);
    let expect = if once { fault.expect.unresolved() } else { fault.expect };
    let observed = observe(host, fault, &expect, &daemon);
    let status = daemon.stop();
    let delta = Snapshot::take().since(&before);
    let judged = observed.and_then(|(names, onset_ns)| {
        let status = status?;
        ensure!(status.success(), "whystall ended with {status} when it was asked to stop");
        expect::judge(&expect, &names, onset_ns, &daemon.verdicts())
    });
    let lines: String = daemon.verdicts().iter().map(|l| format!("    {}\n", l.text)).collect();
    let judged = judged.map_err(|e| {
        let log = daemon.stderr_tail();
        anyhow!("{e:#}\n  over the run: {delta}\n  verdict lines:\n{lines}  its log:\n{log}")
    });
    let name = fault.name;
    Ok(match judged? {
        None => {
            println!("  silent as expected; {delta}");
            row_of(name, &["silent"])
        }
        Some(Seen { rule, cause, subject, latency_ms }) => {
            println!("  {rule} {cause} about {subject}, {latency_ms:.0} ms after the onset");
            row_of(name, &[&rule, &cause, &format!("{:.2} s", latency_ms / 1e3)])
        }
    })
}

/// Runs the fault under the daemon's eyes until there is nothing more to see, then removes what the fault made. Returns
/// the names to judge by and the onset.
fn observe(host: &Host, fault: &Fault, expect: &Expect, daemon: &Daemon) -> Result<(expect::Names, u64)> {
    let mut scene = Scene::new(host, fault.name, Some(daemon));
    scene.sleep(WARM_UP)?;
    let begun = sys::boot_ns();
    let proof = (fault.run)(&mut scene).context("the fault could not be made")?.verify()?;
    println!("  proof: {proof}");
    let onset_ns = scene.onset_ns.unwrap_or(begun);
    let ago = sys::boot_ns().saturating_sub(onset_ns);
    println!("  onset: {}", format_rfc3339(sys::wall_ns().saturating_sub(ago)));
    match expect {
        Expect::Silence => scene.sleep(STILL_SILENT)?,
        Expect::Verdict { resolved, .. } => {
            wait(&scene, LATE_VERDICT, || !daemon.verdicts().is_empty())?;
            if *resolved && !daemon.verdicts().is_empty() {
                wait(&scene, RESOLUTION, || expect::all_resolved(&daemon.verdicts()))?;
            } else {
                // A second incident would be one too many.
                scene.sleep(STILL_SILENT)?;
            }
        }
    }
    let names = scene.names.clone();
    drop(scene);
    if sys::interrupted() {
        bail!("interrupted");
    }
    Ok((names, onset_ns))
}

/// Waits until `met`, at most `limit`; whether it came is the judge's to say.
fn wait(scene: &Scene<'_>, limit: Duration, met: impl Fn() -> bool) -> Result<()> {
    let end = Instant::now() + limit;
    while !met() && Instant::now() < end {
        scene.sleep(Duration::from_millis(50))?;
    }
    Ok(())
}
