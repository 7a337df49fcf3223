//! The fault lab: real faults on the running kernel, and what whystall says about them.
//!
//! `cargo test --release --test lab [-- NAME]`, as root; see docs/lab.md. It runs one fault at a time, proves each by
//! the kernel's own counters, and removes all that it made. It is never part of a plain `cargo test`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a test runner talks to a terminal")]

mod cgroup;
mod counters;
mod daemon;
mod expect;
mod faults;
mod guard;
mod inject;
mod irq;
mod kid;
mod net;
mod roles;
mod run;
mod scene;
mod stat_roles;
mod sys;

use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use libtest_mimic::{Arguments, Completion, Failed, Trial};

/// The first argument of a child process, which is this executable too.
pub(crate) const ROLE_ARG: &str = "--lab-role";

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    if words.next().as_deref() == Some(ROLE_ARG) {
        return match roles::main(words) {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => {
                println!("{e:#}");
                ExitCode::FAILURE
            }
        };
    }
    let mut args = Arguments::from_args();
    // Faults would disturb each other, and children die with the thread that started them.
    args.test_threads = Some(1);
    if !args.list {
        sys::catch_signals();
    }
    let lab = Arc::new(Mutex::new(run::Lab::default()));
    let code = libtest_mimic::run(&args, trials(&lab)).exit_code();
    if let Ok(lab) = lab.lock() {
        lab.print_table();
    }
    code
}

fn trials(lab: &Arc<Mutex<run::Lab>>) -> Vec<Trial> {
    let pure = [
        ("self::judge", expect::self_test as fn() -> anyhow::Result<()>),
        ("self::counters", counters::self_test),
        ("self::cgroup_layout", cgroup::self_test),
        ("self::guard_lines", guard::self_test),
        ("self::interrupt_lines", irq::self_test),
    ];
    let pure = pure
        .into_iter()
        .map(|(name, test)| Trial::test(name, move || test().map_err(|e| Failed::from(format!("{e:#}")))));
    let faults = faults::ALL.iter().map(|fault| {
        let lab = lab.clone();
        Trial::ignorable_test(fault.name, move || {
            let mut lab = lab.lock().map_err(|_| Failed::from("an earlier fault panicked"))?;
            match lab.run(fault) {
                Ok(run::Outcome::Passed) => Ok(Completion::Completed),
                Ok(run::Outcome::Skipped(why)) => Ok(Completion::ignored_with(format!("skipped: {why}"))),
                Err(e) => Err(Failed::from(format!("{e:#}"))),
            }
        })
    });
    pure.chain(faults).collect()
}
