//! The command line and the config: what is refused, how, and with which status.

use crate::program::{run, run_with};

#[test]
fn help_and_version_are_no_errors() {
    run(&["--help"])
        .exits(0)
        .prints(&["run", "record", "replay", "check", "test", "fields", "rules", "explain", "doctor"]);
    for command in ["run", "record", "replay", "check", "test", "fields", "rules", "explain", "doctor"] {
        run(&[command, "--help"]).exits(0).prints(&["Usage: whystall"]);
    }
    run(&["--version"]).exits(0).prints(&["whystall 0."]);
    run(&[]).exits(2);
}

#[test]
fn wrong_usage_is_status_2_and_on_stderr() {
    let cases: &[&[&str]] = &[
        &["run", "--nonsense"],
        &["nonsense"],
        &["run", "--for", "10"],
        &["run", "--for", "soon"],
        &["run", "--output", "xml"],
        &["run", "--rules", "/nonexistent", "--for", "1s"],
        &["run", "--config", "/nonexistent", "--for", "1s"],
        &["record"],
        &["record", "-o", "/nonexistent/x", "--for", "1s"],
        &["replay", "/nonexistent"],
        &["check", "/nonexistent.rhai"],
        &["test", "/nonexistent"],
        &["rules", "show", "no.such_rule"],
        &["rules", "new", "Not-An-Id"],
    ];
    for case in cases {
        let ran = run(case).exits(2);
        assert_eq!(ran.stdout, "", "{case:?}");
        assert!(!ran.stderr.is_empty(), "{case:?}");
    }
}

#[test]
fn a_wrong_config_is_status_2_with_line_and_suggestion() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_string()
    };
    let key = write("key.toml", "interval = \"1s\"\nrules_dir = []\n");
    run(&["run", "--config", &key, "--for", "1s"]).exits(2).says(&[
        "key.toml:2:1",
        "rules_dir",
        "did you mean `rules_dirs`?",
    ]);
    let param =
        write("param.toml", "[rules.\"kernel.lockup\"]\nenabled = true\nparams = { nonsense = 1.0 }\n");
    run(&["run", "--config", &param, "--for", "1s"])
        .exits(2)
        .says(&["param.toml:3:", "has no param `nonsense`"]);
    let good = write("good.toml", "[rules.\"kernel.lockpu\"]\nenabled = false\n");
    run(&["run", "--config", &good, "--no-builtin-rules", "--for", "1s"])
        .exits(0)
        .says(&["watching", "line 1 of the config"]);
    // `check` reports the same as problems of the file, with the place.
    run(&["check", &key, &param]).exits(1).prints(&[
        "key.toml:2:1",
        "param.toml:3:",
        "2 files checked: 2 errors",
    ]);
    run(&["check", &good]).exits(0).prints(&["did you mean `kernel.lockup`?", "1 warning"]);
    let exception =
        write("e.toml", "[rules.\"kernel.lockup\"]\nexceptions = [{ cgorup = \"/a\", reason = \"x\" }]\n");
    run(&["check", &exception]).exits(0).prints(&["e.toml:2:", "did you mean `cgroup`?"]);
    let report = run(&["check", "--format", "json", &key]).exits(1).json();
    assert_eq!(report["diagnostics"][0]["line"], 2);
    assert_eq!(report["diagnostics"][0]["code"], "config");
    assert_eq!(report["summary"]["errors"], 1);
}

#[test]
fn what_is_no_recording_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    for bytes in [&b""[..], b"hello\nworld\n", b"\x93wsrec\r\nbroken"] {
        std::fs::write(&path, bytes).unwrap();
        let ran = run(&["replay", path.to_str().unwrap()]).exits(2);
        assert_eq!(ran.stdout, "");
    }
    run_with(&["replay", "-"], "").exits(2);
}

#[test]
fn explanations() {
    run(&["explain", "r012"]).exits(0).prints(&["R012"]);
    run(&["explain", "memory.oom_kill"]).exits(0).prints(&["memory.oom_kill", "Windows"]);
    run(&["explain", "memcg.limit"]).exits(0).prints(&["is a cause", "memory.oom_kill"]);
    run(&["explain", "01KAR5V9T0WJ8K3M2N4P5Q6R7S"]).exits(1).says(&["there is no store"]);
    run(&["explain", "memcg.limti"]).exits(1).says(&["did you mean `memcg.limit`?"]);
}
