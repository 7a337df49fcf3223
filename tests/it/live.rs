//! `run` on the real host: it starts, says what it sees, and ends well in every way.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::program::{Ran, Running, run};

#[test]
fn ends_by_itself_and_prints_verdicts_only() {
    let ran =
        run(&["run", "--for", "2s", "--output", "json", "--no-builtin-rules"]).exits(0).says(&["watching"]);
    assert_eq!(ran.stdout, "");
    assert!(ran.stderr.lines().next().is_some_and(|l| l.contains("watching")), "{}", ran.stderr);
    // A busy machine may well have something to say; it must be verdicts.
    let ran = run(&["run", "--for", "2s", "--output", "json"]).exits(0).says(&["watching"]);
    for line in ran.stdout.lines() {
        let v: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(v["schema"], "whystall.verdict/1");
    }
}

#[test]
fn signals_end_it_well() {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let mut running = Running::start(&["run", "--output", "json"]);
        running.wait_for("watching");
        running.signal(signal);
        let (status, rest) = running.end();
        assert_eq!(status, Some(0), "{rest}");
    }
    let mut running = Running::start(&["run", "--no-builtin-rules"]);
    running.wait_for("watching");
    running.signal(libc::SIGHUP);
    running.wait_for("SIGHUP");
    running.signal(libc::SIGTERM);
    assert_eq!(running.end().0, Some(0));
}

#[test]
fn a_closed_standard_output_ends_it_well() {
    let mut running = Running::start(&["run", "--output", "json", "--no-builtin-rules"]);
    running.wait_for("watching");
    drop(running.child.stdout.take());
    let (status, rest) = running.end();
    assert_eq!(status, Some(0), "{rest}");
}

#[test]
fn a_signal_ends_a_recording_well() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("r.ws");
    let file = file.to_str().unwrap();
    let mut running = Running::start(&["record", "-o", file]);
    running.wait_for("recording");
    running.signal(libc::SIGINT);
    assert_eq!(running.end().0, Some(0));
    let ran = run(&["replay", file, "--no-builtin-rules"]).exits(0);
    assert!(!ran.stderr.contains("cut"), "{}", ran.stderr);
}

/// Without privileges and without a config it works, and says what it cannot see.
#[test]
fn works_without_privileges() {
    // SAFETY: geteuid has no arguments and cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        eprintln!("skipped: not root, so every other test is about this");
        return;
    }
    // Where the build lies, another user may not look.
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let program = dir.path().join("whystall");
    std::fs::copy(env!("CARGO_BIN_EXE_whystall"), &program).unwrap();
    let nobody = |args: &[&str]| -> Ran {
        Command::new(&program).args(args).current_dir("/").uid(65534).gid(65534).output().unwrap().into()
    };
    nobody(&["run", "--for", "1s", "--output", "json"]).exits(0).says(&["watching"]);
    let report = nobody(&["doctor", "--output", "json"]).json();
    assert_eq!(report["host"]["root"], false);
    assert_eq!(report["collectors"][0]["state"], "ok");
}
