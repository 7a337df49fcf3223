//! `run` on the real host: it starts, says what it sees, and ends well in every way.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

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

/// Whether the kernel knows a BPF object: bpf(2) with BPF_PROG_GET_FD_BY_ID (13) or BPF_MAP_GET_FD_BY_ID (14).
fn bpf_exists(command: libc::c_long, id: u32) -> bool {
    let attr = [id, 0, 0, 0];
    // SAFETY: `attr` is longer than what these two commands read, and zero beyond the id.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_ptr(), size_of_val(&attr)) };
    if fd >= 0 {
        // SAFETY: the kernel just gave us this descriptor and nobody else has it.
        unsafe { libc::close(i32::try_from(fd).unwrap()) };
    }
    fd >= 0
}

/// The BPF programs and maps that a process holds, as command and id.
fn bpf_objects(pid: u32) -> Vec<(libc::c_long, u32)> {
    let infos = std::fs::read_dir(format!("/proc/{pid}/fdinfo")).into_iter().flatten().flatten();
    let texts = infos.filter_map(|e| std::fs::read_to_string(e.path()).ok());
    let mut found: Vec<_> = texts
        .flat_map(|text| {
            let of = |key: &str| text.lines().find_map(|l| l.strip_prefix(key)?.trim().parse().ok());
            [(13, of("prog_id:")), (14, of("map_id:"))]
        })
        .filter_map(|(command, id)| Some((command, id?)))
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

#[test]
fn nothing_of_ours_stays_in_the_kernel_after_a_kill() {
    let mut running = Running::start(&["run", "--output", "json", "--no-builtin-rules"]);
    running.wait_for("watching");
    let pid = running.child.id();
    let until = Instant::now() + Duration::from_secs(20);
    let objects = loop {
        // The probes load in a thread of their own: all are there once two looks agree.
        let first = bpf_objects(pid);
        std::thread::sleep(Duration::from_millis(500));
        if first.iter().any(|o| o.0 == 13) && bpf_objects(pid) == first {
            break first;
        }
        if Instant::now() > until {
            eprintln!("skipped: no BPF programs here (doctor says why)");
            return;
        }
    };
    assert!(objects.iter().any(|o| o.0 == 14), "{objects:?}");
    assert!(objects.iter().all(|(command, id)| bpf_exists(*command, *id)), "{objects:?}");
    running.signal(libc::SIGKILL);
    running.end();
    // The kernel frees them a little later.
    let until = Instant::now() + Duration::from_secs(30);
    while objects.iter().any(|(command, id)| bpf_exists(*command, *id)) {
        assert!(Instant::now() < until, "some of {objects:?} stay");
        std::thread::sleep(Duration::from_millis(50));
    }
}
