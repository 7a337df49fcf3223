//! Torture of the store and the dispatcher: transitions of incidents, receivers that fail in every way, and a process
//! that is killed with SIGKILL again and again. Afterwards each receiver must have got every transition, in order for
//! each incident, and whatever came twice with the same id.
//!
//! `cargo test --test torture` is small; `WHYSTALL_TORTURE=full` is the one that docs/reliability.md has figures of.
#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "it is a test"
)]

mod child;
mod server;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Failed, Trial};
use server::{Got, Kind, Server};

/// Transitions of one incident: firing, three updates, resolved.
const SEQS: u32 = 5;
/// Incidents that are open at the same time.
const ABREAST: u32 = 10;
/// Nothing that is waited for may take longer.
const PATIENCE: Duration = Duration::from_secs(150);

#[derive(Debug, Clone, Copy)]
struct Size {
    transitions: u32,
    kills: u32,
}

fn main() -> ExitCode {
    if let Ok(dir) = std::env::var("TORTURE_DIR") {
        return child::run(dir.as_ref());
    }
    let size = if std::env::var_os("WHYSTALL_TORTURE").is_some_and(|v| v == "full") {
        Size { transitions: 10_000, kills: 60 }
    } else {
        Size { transitions: 600, kills: 8 }
    };
    let trial = Trial::test("every_transition_arrives_in_order_whoever_is_killed", move || torture(size));
    libtest_mimic::run(&Arguments::from_args(), vec![trial]).exit_code()
}

fn torture(size: Size) -> Result<(), Failed> {
    let begin = Instant::now();
    let dir = tempfile::tempdir()?;
    let kinds = [Kind::Flaky, Kind::DeadAtFirst, Kind::Slow, Kind::Good];
    let servers: Vec<Server> = kinds.into_iter().map(Server::start).collect();
    let ports: Vec<String> = servers.iter().map(|s| s.port.to_string()).collect();
    let start = |until: u32| -> Result<Child, Failed> {
        let child = Command::new(std::env::current_exe()?)
            .env("TORTURE_DIR", dir.path())
            .env("TORTURE_PORTS", ports.join(","))
            .env("TORTURE_UNTIL", until.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(child)
    };
    let mut dice = Dice(0x5eed);
    for life in 1..=size.kills {
        // Each life gets its part of the transitions, but is killed at any time: often before it has committed them.
        let mut child = start(size.transitions * life / (size.kills + 1))?;
        std::thread::sleep(Duration::from_millis(20 + dice.roll(400)));
        child.kill()?;
        child.wait()?;
        if life == size.kills / 3 {
            servers.iter().for_each(Server::revive);
        }
    }
    let mut child = start(size.transitions)?;
    let expected = (size.transitions / SEQS) as usize * SEQS as usize;
    let waited = Instant::now();
    while servers.iter().any(|s| distinct(&s.got()) < expected) {
        if waited.elapsed() > PATIENCE {
            let so_far: Vec<usize> = servers.iter().map(|s| distinct(&s.got())).collect();
            child.kill()?;
            return Err(format!("of {expected} transitions only {so_far:?} arrived").into());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    // SAFETY: kill takes numbers only; the child has not been waited for, so its pid is its own.
    unsafe { libc::kill(i32::try_from(child.id())?, libc::SIGTERM) };
    let stdout = child.stdout.take().ok_or("no standard output")?;
    let status = child.wait()?;
    let left = BufReader::new(stdout).lines().map_while(Result::ok).last().unwrap_or_default();
    if !status.success() || left != "left 0" {
        return Err(format!("the end was not graceful: {status}, `{left}`").into());
    }
    let (mut requests, mut twice) = (0, 0);
    for s in &servers {
        let got = s.got();
        twice += got.len() - check(&got, size).map_err(|e| format!("{:?}: {e}", s.kind))?;
        requests += s.requests();
    }
    println!(
        "{} transitions, {} kills, {} receivers: {} requests, {} delivered, {twice} of them twice, in {:.0} s",
        size.transitions,
        size.kills,
        servers.len(),
        requests,
        expected * servers.len(),
        begin.elapsed().as_secs_f64()
    );
    Ok(())
}

fn distinct(got: &[Got]) -> usize {
    got.iter().map(|g| (&g.incident, g.seq)).collect::<std::collections::HashSet<_>>().len()
}

/// Returns how many transitions there were, each counted once.
fn check(got: &[Got], size: Size) -> Result<usize, String> {
    let mut first: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
    let mut ids: BTreeMap<(&str, u32), &str> = BTreeMap::new();
    for g in got {
        match ids.insert((&g.incident, g.seq), &g.id) {
            Some(before) if before != g.id => {
                return Err(format!("{} {} came as {before} and as {}", g.incident, g.seq, g.id));
            }
            Some(_) => {}
            None => first.entry(&g.incident).or_default().push(g.seq),
        }
        let state = child::state(g.seq);
        if g.state != state {
            return Err(format!("{} {} came as {} instead of {state}", g.incident, g.seq, g.state));
        }
    }
    let whole: Vec<u32> = (1..=SEQS).collect();
    let incidents = (size.transitions / SEQS) as usize;
    match first.iter().find(|(_, seqs)| **seqs != whole) {
        Some((incident, seqs)) => Err(format!("{incident} came in the order {seqs:?}")),
        None if first.len() != incidents => Err(format!("{} of {incidents} incidents came", first.len())),
        None => Ok(ids.len()),
    }
}

/// A small generator of numbers (xorshift), so that a run can be repeated.
#[derive(Debug)]
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}
