//! Verdicts from recordings: through the same engine as a live run, and deterministic, so that they can be compared.

use serde_json::Value;

use crate::program::{Running, run, run_with, whystall};

const RULE: &str = r#"//! A cgroup uses much memory.
const RULE = #{ id: "my.big", api: 1, severity: "critical", subject: "cgroup",
  params: #{ mib: #{ value: 100.0, help: "much" } },
  windows: #{ used: #{ of: "memcg.usage", calc: "mean", over: "3s" } }, clear: #{ hold: "2s" } };
fn enter(w, p) { w.used.mib > p.mib }
fn verdict(w, p, ctx) {
  cause("memcg.limit", "high").says(`${ctx.subject} uses ${w.used.text}`).evidence(w.used)
    .culprit(#{ kind: "cgroup", cgroup: ctx.path })
    .hint("stop it", ["systemctl", "stop", ctx.path], "it stops")
}
"#;

/// Ten seconds in which `cgroup` uses 200 MiB, then ten in which it uses nothing.
fn lines(cgroup: &str) -> String {
    let line = |t: u64| {
        let bytes = if t < 10 { 200 << 20 } else { 0 };
        serde_json::json!({"t": 1000 + t, "stream": "memcg", "subject": format!("cgroup:{cgroup}"), "usage": bytes}).to_string()
    };
    (0..20).map(|t| line(t) + "\n").collect()
}

struct Rules(tempfile::TempDir);

impl Rules {
    fn new(text: &str) -> Rules {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("big.rhai"), text).unwrap();
        Rules(dir)
    }

    fn dir(&self) -> &str {
        self.0.path().to_str().unwrap()
    }
}

fn verdicts(stdout: &str) -> Vec<Value> {
    stdout.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

#[test]
fn a_custom_rule_fires_and_resolves() {
    let rules = Rules::new(RULE);
    let args = ["replay", "-", "--rules", rules.dir(), "--no-builtin-rules", "--output", "json"];
    let ran = run_with(&args, &lines("/system.slice/my.service")).exits(0).says(&["events/s"]);
    let all = verdicts(&ran.stdout);
    assert_eq!(all.len(), 2, "{}", ran.stdout);
    assert_eq!([&all[0]["state"], &all[1]["state"]], ["firing", "resolved"]);
    for v in &all {
        assert_eq!([&v["rule"], &v["cause"], &v["severity"]], ["my.big", "memcg.limit", "critical"]);
        assert_eq!(v["subject"], "cgroup:/system.slice/my.service");
        assert_eq!(v["workload"]["unit"], "my.service");
        assert_eq!(v["incident"], all[0]["incident"]);
    }
    assert_eq!(all[0]["evidence"][0]["field"], "memcg.usage");
    // The same input gives the same output, to the letter.
    assert_eq!(run_with(&args, &lines("/system.slice/my.service")).stdout, ran.stdout);
}

#[test]
fn hostile_names_are_escaped_for_people_and_exact_for_programs() {
    let rules = Rules::new(RULE);
    let evil = "/a\u{1b}]0;x\u{7}\nFIRING\u{202e}";
    let args = ["replay", "-", "--rules", rules.dir(), "--no-builtin-rules"];
    let text = run_with(&args, &lines(evil)).exits(0).prints(&[
        "FIRING critical",
        "/a\\x1b]0;x\\x07\\nFIRING\\u{202e}",
        "systemctl stop $'/a\\033",
    ]);
    assert!(text.stdout.chars().all(|c| c == '\n' || !c.is_control()), "{:?}", text.stdout);
    assert!(!text.stdout.contains('\u{202e}'));
    let json = run_with(&[&args[..], &["--output", "json"]].concat(), &lines(evil)).exits(0);
    assert_eq!(verdicts(&json.stdout)[0]["subject"], format!("cgroup:{evil}"));
}

#[test]
fn broken_lines_are_told_and_the_others_count() {
    let rules = Rules::new(RULE);
    let input = format!("{}nonsense\n{{\"t\": 1021, \"stream\": \n", lines("/a"));
    let args = ["replay", "-", "--rules", rules.dir(), "--no-builtin-rules", "--output", "json"];
    let ran = run_with(&args, &input).exits(0).says(&["21:1:", "22:"]);
    assert_eq!(verdicts(&ran.stdout).len(), 2);
}

#[test]
fn exceptions_and_params_of_a_config_hold() {
    let rules = Rules::new(RULE);
    let config = rules.0.path().join("c.toml");
    let with = |toml: &str| {
        std::fs::write(&config, toml).unwrap();
        let args = [
            "replay",
            "-",
            "--rules",
            rules.dir(),
            "--no-builtin-rules",
            "--output",
            "json",
            "--config",
            config.to_str().unwrap(),
        ];
        verdicts(&run_with(&args, &lines("/batch/a")).exits(0).stdout).len()
    };
    assert_eq!(with(""), 2);
    assert_eq!(with("[rules.\"my.big\"]\nparams = { mib = 300.0 }\n"), 0);
    assert_eq!(with("[rules.\"my.big\"]\nenabled = false\n"), 0);
    assert_eq!(
        with("[rules.\"my.big\"]\nexceptions = [{ cgroup = \"/batch/*\", reason = \"by design\" }]\n"),
        0
    );
    assert_eq!(
        with("[rules.\"my.big\"]\nexceptions = [{ cgroup = \"/other/*\", reason = \"by design\" }]\n"),
        2
    );
    // The data is of 1970, long before this ends.
    assert_eq!(
        with(
            "[rules.\"my.big\"]\nexceptions = [{ cgroup = \"*\", reason = \"x\", until = \"2027-01-31\" }]\n"
        ),
        0
    );
}

#[test]
fn a_changed_rule_is_compared() {
    let (before, after) = (Rules::new(RULE), Rules::new(&RULE.replace("value: 100.0", "value: 300.0")));
    let args = ["replay", "-", "--rules", before.dir(), "--no-builtin-rules", "--diff", after.dir()];
    run_with(&args, &lines("/a")).exits(0).prints(&["my.big", "+0 -1", "- my.big", "cgroup:/a"]);
    let ran = run_with(&[&args[..], &["--output", "json"]].concat(), &lines("/a")).exits(0).json();
    assert_eq!([&ran["rules"][0]["before"], &ran["rules"][0]["after"]], [1, 0]);
}

#[test]
fn a_param_is_tuned_on_a_recording() {
    let rules = Rules::new(RULE);
    let args = ["tune", "-", "--rule", "my.big", "--rules", rules.dir(), "--no-builtin-rules"];
    let tune = |more: &[&str]| run_with(&[&args[..], more].concat(), &lines("/a"));
    let ran = tune(&["--values", "100,150,199,300", "--output", "json"]).exits(0).json();
    let found: Vec<(f64, u64)> = ran["tried"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| (t["value"].as_f64().unwrap(), t["findings"].as_u64().unwrap()))
        .collect();
    assert_eq!(found, [(100.0, 1), (150.0, 1), (199.0, 1), (300.0, 0)]);
    assert_eq!([&ran["param"], &ran["rule"]], ["mib", "my.big"]);
    tune(&[]).exits(0).prints(&["mib is 100", "now", "less than a day"]);
    tune(&["--from", "100", "--to", "300", "--steps", "3"]).exits(0).prints(&["200  "]);
    tune(&["--param", "mb"]).exits(2).says(&["did you mean `mib`?"]);
    tune(&["--from", "100"]).exits(2).says(&["--to"]);
    let none = ["tune", "-", "--rule", "my.bigg", "--rules", rules.dir()];
    run_with(&none, &lines("/a")).exits(2).says(&["did you mean `my.big`?"]);
}

#[test]
fn a_reader_that_has_seen_enough_ends_it_well() {
    let rules = Rules::new(RULE);
    let input = rules.0.path().join("r.jsonl");
    std::fs::write(&input, lines("/a")).unwrap();
    let args = ["replay", input.to_str().unwrap(), "--rules", rules.dir(), "--no-builtin-rules"];
    let mut replay = Running::start(&args);
    drop(replay.child.stdout.take());
    let (status, rest) = replay.end();
    assert_eq!((status, rest.contains("error")), (Some(0), false), "{rest}");
}

#[test]
fn recordings_replay_whole_and_cut() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_string();
    for name in ["r.ws", "r.jsonl"] {
        let file = path(name);
        run(&["record", "-o", &file, "--for", "1s"]).exits(0).prints(&["events", "bytes an event"]);
        let ran = run(&["replay", &file, "--no-builtin-rules"]).exits(0).says(&["read "]);
        assert!(!ran.stderr.contains(" 0 events"), "{}", ran.stderr);
    }
    // By its content, whatever it is called.
    std::fs::rename(path("r.ws"), path("x.jsonl")).unwrap();
    run(&["replay", &path("x.jsonl"), "--no-builtin-rules"]).exits(0);
    let mut bytes = std::fs::read(path("x.jsonl")).unwrap();
    bytes.truncate(bytes.len() - 10);
    std::fs::write(path("cut.ws"), bytes).unwrap();
    run(&["replay", &path("cut.ws"), "--no-builtin-rules"]).exits(0).says(&["is cut at byte"]);
}

#[test]
fn colours_only_where_asked_for() {
    let rules = Rules::new(RULE);
    let input = rules.0.path().join("r.jsonl");
    std::fs::write(&input, lines("/a")).unwrap();
    let args = ["replay", input.to_str().unwrap(), "--rules", rules.dir(), "--no-builtin-rules"];
    // Standard output is a pipe.
    let out = whystall(&args).env_remove("NO_COLOR").env("TERM", "xterm").output().unwrap();
    assert!(!out.stdout.is_empty() && !out.stdout.contains(&0x1b));
}
