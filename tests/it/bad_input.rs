//! Input that is broken, hostile or too much: rules, configs, recordings, JSON lines, programs as collectors, and control
//! groups that come and go by thousands. The program goes on or ends as it should, and says what was wrong.

#![allow(clippy::print_stderr, reason = "says what was skipped")]

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::program::{Ran, Running, run};

/// Fires about every control group that has a usage.
const RULE: &str = r#"//! A cgroup exists.
const RULE = #{ id: "my.cgroup", api: 1, severity: "info", subject: "cgroup",
  windows: #{ used: #{ of: "memcg.usage", calc: "last", over: "3s" } }, clear: #{ hold: "0s" } };
fn enter(w, p) { w.used.value > -1.0 }
fn verdict(w, p, ctx) {
  cause("my.cause").says(`${ctx.subject} exists`).culprit(#{ kind: "cgroup", cgroup: ctx.path }).hint("stop it", ["stop", ctx.path])
}
"#;

/// A directory with a good rule, for files of a test.
struct Dir(tempfile::TempDir);

impl Dir {
    fn new() -> Dir {
        let dir = Dir(tempfile::tempdir().unwrap());
        fs::create_dir(dir.0.path().join("rules")).unwrap();
        dir.write("rules/cgroup.rhai", RULE);
        dir
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_string()
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        fs::write(self.0.path().join(name), content).unwrap();
        self.path(name)
    }

    fn replay(&self, file: &str, more: &[&str]) -> Ran {
        run(&[&["replay", file, "--no-builtin-rules", "--rules", &self.path("rules")], more].concat())
    }
}

fn verdicts(ran: &Ran) -> Vec<serde_json::Value> {
    ran.stdout.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

/// For people: nothing that a terminal obeys.
#[track_caller]
fn harmless(text: &str) {
    let bad = |c: char| {
        c != '\n' && c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    assert!(!text.chars().any(bad), "{text:?}");
}

fn line(t: u64, cgroup: &str) -> String {
    serde_json::json!({"t": t, "stream": "memcg", "subject": format!("cgroup:{cgroup}"), "usage": 1})
        .to_string()
        + "\n"
}

fn lines(cgroup: &str) -> String {
    (1000..1010).map(|t| line(t, cgroup)).collect()
}

#[test]
fn broken_rules_leave_the_others_running() {
    let dir = Dir::new();
    let input = dir.write("in.jsonl", lines("/a"));
    for (name, content) in [
        (
            "syntax",
            RULE.replace("my.cgroup", "my.syntax")
                .replace("fn enter(w, p) {", "fn enter(w, p) {{{")
                .into_bytes(),
        ),
        ("names", RULE.replace("my.cgroup", "my.names").replace("w.used.value", "w.usde.value").into_bytes()),
        ("nothing", Vec::new()),
        ("binary", (0..=255).cycle().take(9000).collect()),
        ("deep", b"(".repeat(100_000)),
        ("huge", b"fn f() {}\n".repeat(30_000)),
        ("escapes", b"const RULE = \x1b[31m\xe2\x80\xae;".to_vec()),
    ] {
        let bad = dir.write(&format!("rules/{name}.rhai"), content);
        harmless(&run(&["check", &bad]).exits(1).prints(&["error["]).stdout);
        let ran = dir.replay(&input, &["--output", "json"]).exits(0).says(&["error[", name]);
        harmless(&ran.stderr);
        assert_eq!(verdicts(&ran).len(), 1, "{name}: {}", ran.stderr);
        fs::remove_file(bad).unwrap();
    }
}

#[test]
fn rules_that_fail_when_they_run_are_told() {
    let dir = Dir::new();
    let input = dir.write("in.jsonl", lines("/a"));
    let bad =
        RULE.replace("my.cgroup", "my.loop").replace("cause(\"my.cause\")", "loop { }\n cause(\"my.cause\")");
    dir.write("rules/loop.rhai", bad);
    let ran = dir.replay(&input, &["--output", "json"]).exits(0);
    let ran = ran.says(&["my.loop", "suspended for 1m", "`verdict` failed: too many operations"]);
    let mut rules: Vec<String> = verdicts(&ran).iter().map(|v| v["rule"].to_string()).collect();
    rules.sort();
    assert_eq!(rules, ["\"my.cgroup\"", "\"my.loop\""]);
}

#[test]
fn broken_configs_are_refused_with_their_place() {
    let dir = Dir::new();
    for (content, says) in [
        (&b"\n[colectors.memcg]\nenabled = true\n"[..], "c.toml:2:"),
        (b"interval = \"1s\"\n\n[collectors.memcg]\nenbled = true\n", "did you mean `enabled`?"),
        (b"interval = 1\x1b[31m\n", "c.toml:1:"),
        (b"interval = \"1ns\"\n", "c.toml:1:"),
        (b"\xff\xfe\x00\x01", "UTF-8"),
        (&b"# much\n".repeat(1 << 20), "4 MiB"),
        (&b"[".repeat(10_000), "c.toml:1:"),
        (format!("a = {}", "[".repeat(100_000)).as_bytes(), "c.toml:1:"),
    ] {
        let config = dir.write("c.toml", content);
        let ran = run(&["run", "--config", &config, "--for", "1s"]).exits(2).says(&[says]);
        harmless(&ran.stderr);
        assert_eq!(ran.stdout, "");
    }
}

#[test]
fn damaged_recordings_replay_around_the_damage() {
    let dir = Dir::new();
    let file = dir.path("r.ws");
    run(&["record", "-o", &file, "--for", "2s"]).exits(0);
    let whole = fs::read(&file).unwrap();
    for part in 1..8 {
        let cut = dir.write("cut.ws", &whole[..whole.len() * part / 8]);
        dir.replay(&cut, &[]).exits(0).says(&["is cut at byte"]);
    }
    let mut garbage_behind = whole.clone();
    garbage_behind.extend((0..20_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8));
    dir.replay(&dir.write("behind.ws", garbage_behind), &[]).exits(0).says(&["read "]);
    let mut flipped = whole.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 0x10;
    let ran = dir.replay(&dir.write("flipped.ws", flipped), &[]).exits(0);
    assert!(ran.stderr.contains("damaged") || ran.stderr.contains("cut"), "{}", ran.stderr);
    // Not even the beginning is right.
    for bytes in [&whole[..10], &whole[3..], &[0x93; 5000], b"PK\x03\x04", &[0; 100_000]] {
        let ran = dir.replay(&dir.write("no.ws", bytes), &[]).exits(2);
        assert_eq!(ran.stdout, "");
        harmless(&ran.stderr);
    }
}

#[test]
fn malformed_lines_are_told_by_number_and_the_others_count() {
    let dir = Dir::new();
    let mut input = lines("/a").into_bytes();
    input.extend(b"\xff\xfe\x00 no text\n[1, 2\n{}\n\n{\"t\": \"soon\", \"stream\": \"memcg\"}\n");
    input.extend(format!("{{\"t\": 1010, \"stream\": \"{}\"}}\n", "x".repeat(2 << 20)).into_bytes());
    input.extend(line(1010, "/a\u{1b}[2J").replace("\"usage\":1", "\"usage\":1e999").into_bytes());
    input.extend("[".repeat(100_000).into_bytes());
    let ran = dir.replay(&dir.write("in.jsonl", input), &["--output", "json"]).exits(0);
    let ran =
        ran.says(&["11:1:", "12:", "13:", "15:", "16:1: the line is longer than 1 MiB", "18:", "malformed"]);
    harmless(&ran.stderr);
    assert_eq!(verdicts(&ran).len(), 1, "{}", ran.stderr);
}

#[test]
fn hostile_names_of_a_stream_stay_text() {
    let dir = Dir::new();
    let evil = "/a\u{1b}]0;title\u{7}\r\n\nwhystall: FIRING\u{202e}\u{2066}\u{0}\u{85}'\"$(reboot)`;";
    let mut input = lines(evil).replace("\\u0085", "\u{85}").into_bytes();
    // Bytes that are no UTF-8 are a malformed line, wherever they stand.
    input.extend(b"{\"t\": 1010, \"stream\": \"memcg\", \"subject\": \"cgroup:/\xc3\x28\", \"usage\": 1}\n");
    let input = dir.write("in.jsonl", input);
    let ran = dir.replay(&input, &[]).exits(0).says(&["11:", "not UTF-8"]).prints(&["\\x1b]0;title\\x07"]);
    harmless(&ran.stdout);
    harmless(&ran.stderr);
    assert!(!ran.stdout.lines().any(|l| l.starts_with("whystall: FIRING")), "{}", ran.stdout);
    let ran = dir.replay(&input, &["--output", "json"]).exits(0);
    assert_eq!(verdicts(&ran)[0]["subject"], format!("cgroup:{evil}"));
}

/// Programs as collectors that flood, hang, print garbage and die, all at once; none of them outlives the run.
#[test]
fn bad_programs_do_no_harm() {
    let dir = Dir::new();
    let marker = format!("9876{}", std::process::id());
    let config = dir.write(
        "c.toml",
        format!(
            r#"
[collectors.exec.flood]
command = ["yes", '{{"x": 1}}']
fields = {{ x = {{ kind = "gauge" }} }}
[collectors.exec.wide]
command = ["sh", "-c", "while :; do head -c 1000000 /dev/zero; echo; done"]
fields = {{ x = {{ kind = "gauge" }} }}
[collectors.exec.garbage]
command = ["cat", "/dev/urandom"]
fields = {{ x = {{ kind = "gauge" }} }}
[collectors.exec.errors]
command = ["sh", "-c", "yes $(printf 'bad\\033[31m') >&2"]
fields = {{ x = {{ kind = "gauge" }} }}
[collectors.exec.slow]
command = ["sleep", "{marker}"]
interval = "1s"
timeout = "500ms"
fields = {{ x = {{ kind = "gauge" }} }}
[collectors.exec.deaf]
command = ["sh", "-c", "trap '' TERM; sleep {marker} & wait"]
fields = {{ x = {{ kind = "gauge" }} }}
[collectors.exec.dies]
command = ["sh", "-c", "echo bad luck >&2; kill -9 $$"]
fields = {{ x = {{ kind = "gauge" }} }}
"#
        ),
    );
    let file = dir.path("r.jsonl");
    run(&["record", "-o", &file, "--for", "4s", "--config", &config]).exits(0);
    let all = fs::read_to_string(&file).unwrap();
    let events: Vec<serde_json::Value> = all.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let problem = |collector: &str, what: &str| {
        let mut of = events.iter().filter(|e| e["stream"] == "self.problem").map(|e| &e["fields"]);
        let found = of.any(|f| f["collector"] == collector && f["what"].as_str().unwrap().contains(what));
        assert!(found, "no problem of {collector} says `{what}`");
    };
    let failing = |collector: &str, what: &str| {
        let subject = format!("device:{collector}");
        let mut of =
            events.iter().filter(|e| e["stream"] == "self.collector" && e["subject"] == subject.as_str());
        let found =
            of.any(|e| e["fields"]["state"] == 2.0 && e["fields"]["error"].as_str().unwrap().contains(what));
        assert!(found, "{collector} does not fail with `{what}`");
    };
    problem("garbage", "malformed line");
    problem("wide", "longer");
    problem("errors", "stderr: bad");
    problem("dies", "stderr: bad luck");
    failing("dies", "bad luck");
    failing("slow", "timeout of 500 ms");
    // 1000 lines a second are taken, the rest waits in the pipe.
    let flood = events.iter().filter(|e| e["stream"] == "flood").count();
    assert!((1..20_000).contains(&flood), "{flood}");
    // The others went on.
    assert!(events.iter().filter(|e| e["stream"] == "vmstat").count() >= 2);

    let ran =
        run(&["run", "--for", "4s", "--config", &config, "--no-builtin-rules"]).exits(0).says(&["watching"]);
    harmless(&ran.stderr);
    assert!(!ran.stderr.contains("did not end in time"), "{}", ran.stderr);
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let command = fs::read(process.path().join("cmdline")).unwrap_or_default();
        assert!(!String::from_utf8_lossy(&command).contains(&marker), "{:?} still runs", process.path());
    }
}

/// A subtree of control groups of the memory controller; removed with all below it when dropped.
struct Groups(PathBuf);

impl Groups {
    /// `None`, and why, where this cannot be.
    fn new(name: &str) -> Option<Groups> {
        // SAFETY: geteuid has no arguments and cannot fail.
        if unsafe { libc::geteuid() } != 0 {
            eprintln!("skipped: not root, so no control groups can be made");
            return None;
        }
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let words = mounts.lines().map(|l| l.split(' ').collect::<Vec<_>>());
        let mut roots: Vec<(bool, &str)> = words
            .filter(|w| w[2] == "cgroup" && w[3].split(',').any(|o| o == "memory") || w[2] == "cgroup2")
            .map(|w| (w[2] == "cgroup2", w[1]))
            .collect();
        roots.sort_unstable();
        let Some((_, root)) = roots.first() else {
            eprintln!("skipped: no control groups with memory are mounted");
            return None;
        };
        let top = Path::new(root).join(format!("whystall-it-{name}-{}", std::process::id()));
        if let Err(e) = fs::create_dir(&top) {
            eprintln!("skipped: control groups cannot be made: {e}");
            return None;
        }
        Some(Groups(top))
    }

    fn make(&self, name: &OsStr) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir(&path).unwrap();
        path
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        remove(&self.0);
    }
}

/// Control files cannot be deleted and go with their directory.
fn remove(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove(&entry.path());
        }
    }
    let _ = fs::remove_dir(group);
}

#[test]
fn hostile_names_of_control_groups_stay_text() {
    let Some(groups) = Groups::new("names") else { return };
    let dir = Dir::new();
    for name in [
        &b"a\x1b]0;title\x07\r"[..],
        "\u{202e}\u{2066}right".as_bytes(),
        b"\xff\xc3\x28\x80",
        b"$(reboot)'\"`;",
    ] {
        groups.make(OsStr::from_bytes(name));
    }
    groups.make(&std::ffi::OsString::from_vec(b"x".repeat(255)));
    let args = ["run", "--for", "5s", "--no-builtin-rules", "--rules", &dir.path("rules")];
    let ran = run(&args).exits(0).prints(&["a\\x1b]0;title\\x07\\r"]);
    harmless(&ran.stdout);
    harmless(&ran.stderr);
    let ran = run(&[&args[..], &["--output", "json"]].concat()).exits(0);
    let all = verdicts(&ran);
    // Where their parent is told as well, they are one incident with it.
    let links = all.iter().flat_map(|v| v["chain"].as_array().unwrap());
    let subjects: Vec<&str> = links.map(|l| l["subject"].as_str().unwrap()).collect();
    for part in ["/a\u{1b}]0;title\u{7}\r", "/\u{202e}\u{2066}right", "$(reboot)'\"`;"] {
        assert!(subjects.iter().any(|s| s.ends_with(part)), "{part:?} is not in {subjects:?}");
    }
}

#[test]
fn control_groups_that_vanish_while_read() {
    let Some(groups) = Groups::new("churn") else { return };
    let over = AtomicBool::new(false);
    let made = std::thread::scope(|s| {
        let churn = s.spawn(|| {
            let mut n = 0u64;
            while !over.load(Ordering::Relaxed) {
                let at = groups.0.join(format!("g{}", n % 200));
                if n % 400 < 200 {
                    fs::create_dir(at).unwrap()
                } else {
                    fs::remove_dir(at).unwrap()
                }
                n += 1;
            }
            n
        });
        let ran = run(&["run", "--for", "3s", "--output", "json"]);
        over.store(true, Ordering::Relaxed);
        let made = churn.join().unwrap();
        let ran = ran.exits(0);
        for bad in ["panick", "error", "failed", "No such"] {
            assert!(!ran.stderr.contains(bad), "{}", ran.stderr);
        }
        assert!(!verdicts(&ran).iter().any(|v| v["rule"] == "self.degraded"), "{}", ran.stdout);
        made
    });
    assert!(made > 400, "only {made} were made and removed");
}

/// Takes memory and time, so only on request: `WHYSTALL_HEAVY=1`.
#[test]
fn ten_thousand_control_groups() {
    if std::env::var_os("WHYSTALL_HEAVY").is_none() {
        eprintln!("skipped: heavy; set WHYSTALL_HEAVY=1");
        return;
    }
    let Some(groups) = Groups::new("many") else { return };
    for i in 0..100 {
        let parent = groups.make(OsStr::new(&format!("p{i}")));
        for j in 0..100 {
            fs::create_dir(parent.join(format!("c{j}"))).unwrap();
        }
    }
    let dir = Dir::new();
    let file = dir.path("r.ws");
    // Long enough for a busy machine to read all of them at least once.
    run(&["record", "-o", &file, "--for", "12s"]).exits(0);
    // They fire together, or as a busy machine gets to read them; what is told is bounded either way.
    let ran = dir.replay(&file, &["--output", "json"]).exits(0);
    let all = verdicts(&ran);
    let ours = |v: &&serde_json::Value| v["subject"].as_str().is_some_and(|s| s.contains("whystall-it-many"));
    assert!(all.iter().any(|v| ours(&v)), "{}", ran.stderr);
    assert!(all.iter().all(|v| v["chain"].as_array().is_some_and(|c| (1..=32).contains(&c.len()))));

    let running = Running::start(&["run", "--for", "5s", "--output", "json"]);
    let status = format!("/proc/{}/status", running.child.id());
    let mut peak_kib = 0;
    // There is no such line once the process has ended.
    while let Some(kib) = fs::read_to_string(&status).ok().and_then(|s| {
        s.lines().find_map(|l| l.strip_prefix("VmHWM:"))?.trim().trim_end_matches(" kB").parse::<u64>().ok()
    }) {
        peak_kib = peak_kib.max(kib);
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let (status, stderr) = running.end();
    assert_eq!(status, Some(0), "{stderr}");
    assert!(!stderr.contains("panick") && !stderr.contains("did not end"), "{stderr}");
    assert!((1..200 << 10).contains(&peak_kib), "{} MiB", peak_kib >> 10);
}
