//! Exec collectors with real programs (`sh`). Tests wait for conditions and assert no times.

use std::os::unix::fs::PermissionsExt;
use std::sync::Mutex;

use super::*;
use whystall_event::{Batch, Stamp, Subject};

const GIVE_UP: Duration = Duration::from_secs(30);

/// A sink that keeps rows and problems, and stops the run when there is enough.
#[derive(Default)]
struct Kept {
    rows: Mutex<Vec<(String, Subject, Option<f64>)>>,
    problems: Mutex<Vec<String>>,
    uncovered: Mutex<u32>,
    stop: Stop,
    stop_after: Option<usize>,
}

impl Sink for Kept {
    fn now(&self) -> Stamp {
        clock::now()
    }

    fn send(&self, batch: Batch) -> bool {
        let mut rows = self.rows.lock().unwrap();
        rows.extend(batch.rows().map(|r| (batch.stream.name.to_string(), r.subject.clone(), r.number(0))));
        *self.uncovered.lock().unwrap() += u32::from(!batch.covered_to);
        if self.stop_after.is_some_and(|n| rows.len() >= n) {
            self.stop.set();
        }
        true
    }

    fn problem(&self, what: &str) {
        self.problems.lock().unwrap().push(what.into());
    }
}

impl Kept {
    fn until(rows: usize) -> Kept {
        Kept { stop_after: Some(rows), ..Kept::default() }
    }

    fn numbers(&self) -> Vec<f64> {
        self.rows.lock().unwrap().iter().filter_map(|r| r.2).collect()
    }

    fn problems(&self) -> Vec<String> {
        self.problems.lock().unwrap().clone()
    }
}

/// Builds a collector of the shell script with further settings.
fn sh(script: &str, more: &str) -> Box<dyn Streaming> {
    let script = toml::Value::String(script.into());
    let settings = format!("command = [\"/bin/sh\", \"-c\", {script}]\n{more}").parse().unwrap();
    match build("x", &settings, &Roots::default()).unwrap().1 {
        Built::Streaming(s) => s,
        Built::Polled(_) => unreachable!(),
    }
}

fn run(script: &str, more: &str, sink: &Kept) -> Result<(), String> {
    sh(script, more).run(sink, &sink.stop).map_err(|e| e.to_string())
}

fn exists(pid: &str) -> bool {
    std::fs::metadata(Roots::default().proc(pid.trim())).is_ok()
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let give_up = Instant::now() + GIVE_UP;
    while !done() {
        assert!(Instant::now() < give_up, "gave up waiting for: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn good_bad_and_partial_lines() {
    let sink = Kept::default();
    let script =
        r#"printf '{"n":1}\nrubbish\n\n{"n":2}\r\n\377\376\n{"n":"x\\u0000"}\n{"n":3}'; echo careful >&2"#;
    assert_eq!(run(script, "fields = { n = {} }", &sink), Ok(()));
    assert_eq!(sink.numbers(), [1.0, 2.0, 3.0]);
    let problems = sink.problems();
    assert_eq!(problems.len(), 4, "{problems:?}");
    for part in ["rubbish", "\\xff\\xfe", "`n` cannot be", "stderr: careful"] {
        assert!(problems.iter().any(|p| p.contains(part)), "{part}: {problems:?}");
    }
}

#[test]
fn exit_status_and_last_words() {
    let sink = Kept::default();
    let e = run("echo no such thing >&2; exit 3", "", &sink).unwrap_err();
    assert_eq!(e, "ended with exit status: 3: no such thing");
    assert_eq!(run("exit 69", "", &sink).unwrap_err(), "nothing to collect: so its exit status says");
    assert_eq!(run("kill -9 $$", "", &sink).unwrap_err(), "ended with signal: 9 (SIGKILL)");
}

#[test]
fn an_interval_runs_it_again_and_again() {
    let sink = Kept::until(3);
    assert_eq!(run(r#"echo '{"n":7}'"#, "interval = \"100ms\"", &sink), Ok(()));
    assert_eq!(sink.numbers(), [7.0, 7.0, 7.0]);
}

#[test]
fn a_hanging_program_is_killed_with_its_group_and_leaves_no_zombie() {
    let dir = tempfile::tempdir().unwrap();
    let pids = dir.path().join("pids");
    // It ignores the polite signal, and so does its child.
    let script =
        format!("trap '' TERM; sleep 1000 & echo $$ $! > {}; echo '{{\"n\":1}}'; wait", pids.display());
    let sink = Kept::default();
    let e = run(&script, "interval = \"1s\"\ntimeout = \"300ms\"", &sink).unwrap_err();
    assert_eq!(e, "took longer than its timeout of 300 ms and was killed");
    assert_eq!(sink.numbers(), [1.0]);
    let pids = std::fs::read_to_string(pids).unwrap();
    for pid in pids.split_whitespace() {
        // The orphan is reaped by init, not by us.
        wait_for("the group to be gone", || !exists(pid) || is_zombie_of_another(pid));
    }
}

#[test]
fn orphans_are_reaped_where_they_become_ours() {
    // In a process of its own, for being a subreaper is for the whole process and other tests have children.
    const INSIDE: &str = "WHYSTALL_TEST_SUBREAPER";
    if std::env::var_os(INSIDE).is_none() {
        let name = "exec::tests::orphans_are_reaped_where_they_become_ours";
        let me = std::env::current_exe().unwrap();
        #[expect(clippy::disallowed_methods, reason = "this test again, alone")]
        let mut again = std::process::Command::new(me);
        let out = again.args(["--exact", name]).env(INSIDE, "1").output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stdout));
        return;
    }
    // SAFETY: no memory is involved.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) }, 0);
    let dir = tempfile::tempdir().unwrap();
    let pid = dir.path().join("pid");
    let sink = Kept::default();
    assert_eq!(run(&format!("sleep 1000 & echo $! > {}", pid.display()), "", &sink), Ok(()));
    let pid = std::fs::read_to_string(pid).unwrap();
    assert!(!exists(&pid), "no zombie of the group is left");
}

/// An orphan that its new parent has not reaped yet.
fn is_zombie_of_another(pid: &str) -> bool {
    let stat = std::fs::read_to_string(Roots::default().proc(pid).join("stat")).unwrap_or_default();
    let rest = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    let mut parts = rest.split(' ');
    parts.next() == Some("Z") && parts.next() != Some(&std::process::id().to_string())
}

#[test]
fn what_a_program_leaves_behind_in_its_group_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let pid = dir.path().join("pid");
    // The child holds the pipe open.
    let script = format!("sleep 1000 & echo $! > {}; echo '{{\"n\":1}}'", pid.display());
    let sink = Kept::default();
    assert_eq!(run(&script, "", &sink), Ok(()));
    assert_eq!(sink.numbers(), [1.0]);
    let pid = std::fs::read_to_string(pid).unwrap();
    wait_for("the child to be gone", || !exists(&pid) || is_zombie_of_another(pid.trim()));
}

#[test]
fn stop_ends_a_program_that_runs_for_good() {
    let sink = Kept::until(1);
    let script = r#"while :; do echo '{"n":1}'; sleep 0.02; done"#;
    assert_eq!(run(script, "", &sink), Ok(()));
    assert!(!sink.numbers().is_empty());
}

#[test]
fn a_flood_is_held_up_and_long_lines_are_dropped() {
    let sink = Kept::until(30);
    // yes(1) prints hundreds of thousands of lines a second; it is killed when 30 came through at 20 a second.
    let script = r#"head -c 100000 /dev/zero | tr '\0' a; echo; yes '{"n":1}'"#;
    assert_eq!(run(script, "max_lines_per_s = 20\nmax_line = 1000", &sink), Ok(()));
    let rows = sink.numbers().len();
    assert!((30..=50).contains(&rows), "{rows}");
    assert_eq!(sink.problems(), ["a line longer than 1000 bytes was dropped"]);
}

#[test]
fn lost_lines_of_occurrences_are_admitted() {
    let sink = Kept::default();
    let more = "mode = \"occurrences\"\nfields = { took = { kind = \"duration\" } }";
    assert_eq!(run(r#"echo '{"took":1.5}'; echo oops"#, more, &sink), Ok(()));
    assert_eq!((sink.numbers(), *sink.uncovered.lock().unwrap()), (vec![1.5e6], 1));
}

#[test]
fn the_environment_is_small_and_descriptors_do_not_leak() {
    let sink = Kept::default();
    // A descriptor of ours without close-on-exec.
    let open = std::fs::File::open("/dev/null").unwrap();
    // SAFETY: an open descriptor, no memory.
    let cleared = unsafe { libc::fcntl(std::os::fd::AsRawFd::as_raw_fd(&open), libc::F_SETFD, 0) };
    assert_eq!(cleared, 0);
    let script = r#"
        n=0; for fd in "$WHYSTALL_PROC"/self/fd/*; do [ -e "$fd" ] && n=$((n + 1)); done
        echo "{\"fds\":$n,\"group\":\"$(cut -d' ' -f5 "$WHYSTALL_PROC"/$$/stat)=$$\",\"env\":\"$(env | cut -d= -f1 | sort | tr '\n' ' ')\"}""#;
    let mut printed = Vec::new();
    struct Texts<'a>(Mutex<&'a mut Vec<String>>);
    impl Sink for Texts<'_> {
        fn now(&self) -> Stamp {
            clock::now()
        }
        fn send(&self, batch: Batch) -> bool {
            let mut kept = self.0.lock().unwrap();
            for row in batch.rows() {
                for i in 0..batch.stream.fields.len() {
                    kept.extend(row.text(i).map(|t| t.to_string()));
                    kept.extend(row.number(i).map(|n| n.to_string()));
                }
            }
            true
        }
        fn problem(&self, what: &str) {
            panic!("{what}");
        }
    }
    let more = "env = { MINE = \"1\" }";
    sh(script, more).run(&Texts(Mutex::new(&mut printed)), &sink.stop).unwrap();
    // In order of the fields' names: env, fds, group.
    let env: Vec<&str> =
        printed[0].split_whitespace().filter(|v| !["_", "PWD", "OLDPWD", "SHLVL"].contains(v)).collect();
    assert_eq!(env, ["LC_ALL", "MINE", "PATH", "WHYSTALL_COLLECTOR", "WHYSTALL_PROC", "WHYSTALL_SYS"]);
    assert_eq!(printed[1], "3", "standard input, output and error");
    let (group, pid) = printed[2].split_once('=').unwrap();
    assert_eq!(group, pid, "its own process group");
}

#[test]
fn programs_that_cannot_be_run() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("program");
    std::fs::write(&file, "#!/bin/sh\n").unwrap();
    let result = |mode: u32| {
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        let settings = format!("command = [{:?}]", file.display().to_string()).parse().unwrap();
        build("x", &settings, &Roots::default()).map(|_| ()).map_err(|e| e.to_string())
    };
    assert!(result(0o644).unwrap_err().contains("not executable"));
    assert!(result(0o757).unwrap_err().contains("changed by everyone"));
    assert_eq!(result(0o755), Ok(()));
    let missing = "command = [\"no-such-program-here\"]".parse().unwrap();
    let e = build("x", &missing, &Roots::default()).map(|_| ()).unwrap_err();
    assert!(!e.bad_settings && e.to_string().contains("there is no program"), "{e}");
}

#[test]
fn it_runs_under_the_runner_and_is_started_again() {
    use crate::runner::{Event, Job, Options, Runner};
    let built = Ok(Built::Streaming(sh(r#"echo '{"n":1}'; exit 1"#, "fields = { n = {} }")));
    let tick = Duration::from_millis(50);
    let mut runner = Runner::start(vec![Job::new("x", tick, built)], &Options::every(tick)).unwrap();
    let mut rows = 0;
    wait_for("two runs", || {
        if let Event::Batch(b) = runner.next(tick)
            && b.stream.name == "x"
        {
            rows += b.len();
        }
        rows >= 2
    });
    let status = runner.status().remove(0);
    assert!(status.failures >= 1 && status.restarts >= 1, "{status:?}");
    assert_eq!(runner.stop(GIVE_UP), Vec::<String>::new());
}

#[test]
fn the_example_prints_events_or_says_that_there_is_nothing() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/exec/conntrack");
    let dir = tempfile::tempdir().unwrap();
    let run = |roots: &Roots| {
        let sink = Kept::default();
        let settings = format!(
            "command = [{path:?}]\nfields = {{ count = {{}}, limit = {{}}, used = {{ unit = \"ratio\" }} }}"
        );
        let Built::Streaming(mut s) = build("x", &settings.parse().unwrap(), roots).unwrap().1 else {
            unreachable!()
        };
        (s.run(&sink, &sink.stop).map_err(|e| e.to_string()), sink)
    };
    let (result, _) = run(&Roots::under(dir.path()));
    assert!(result.unwrap_err().starts_with("nothing to collect: conntrack: "));
    let table = dir.path().join("proc/sys/net/netfilter");
    std::fs::create_dir_all(&table).unwrap();
    std::fs::write(table.join("nf_conntrack_count"), "131072\n").unwrap();
    std::fs::write(table.join("nf_conntrack_max"), "262144\n").unwrap();
    let (result, sink) = run(&Roots::under(dir.path()));
    assert_eq!((result, sink.problems()), (Ok(()), vec![]));
    assert_eq!(sink.rows.lock().unwrap().len(), 1);
    assert_eq!(sink.numbers(), [131_072.0]);
}
