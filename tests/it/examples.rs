//! What the documentation for authors shows is run as it stands there: the tutorial's commands, the cookbook's rules and
//! programs.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::program::{Running, run};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// The fenced blocks of a page with their language.
fn blocks(page: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut open: Option<(String, String)> = None;
    for line in page.lines() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(language)) => open = Some((language.into(), String::new())),
            (Some(_), Some("")) => found.extend(open.take()),
            (Some((_, text)), _) => {
                text.push_str(line);
                text.push('\n');
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block has no end");
    found
}

/// Output without what differs from host to host and from run to run: what this host lacks, times, ids and ages.
fn comparable(output: &str) -> Vec<String> {
    let lines = output.lines().filter(|l| !l.starts_with("whystall: without"));
    lines
        .map(|l| match l {
            l if l.starts_with("whystall: watching") => "whystall: watching".to_string(),
            l if l.starts_with("  since") || l.starts_with("  incident") => {
                l.split_whitespace().next().unwrap_or_default().to_string()
            }
            // 300 s and some: files grow older while the machine is busy.
            l if l.contains("oldest for") || l.contains("spool.oldest   last") => {
                assert!(l.contains("for 3") || l.contains("  3"), "{l}");
                l.chars().filter(|c| !c.is_ascii_digit()).collect()
            }
            l => l.trim_end().to_string(),
        })
        .filter(|l| !l.is_empty())
        .collect()
}

#[test]
fn the_tutorial_does_what_it_says() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path().canonicalize().unwrap();
    let bin = Path::new(env!("CARGO_BIN_EXE_whystall")).parent().unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let blocks = blocks(&read("docs/tutorial.md"));
    let mut commands = 0;
    for pair in blocks.chunks(2) {
        let [(sh, script), (text, expected)] = pair else { panic!("commands without output: {pair:?}") };
        assert_eq!((sh.as_str(), text.as_str()), ("sh", "text"), "commands and output take turns");
        let out = Command::new("sh")
            .args(["-e", "-c", &format!("exec 2>&1\n{script}")])
            .current_dir(&here)
            .env("PATH", &path)
            .env("NO_COLOR", "1")
            .env("HOME", &here)
            .env_remove("STATE_DIRECTORY")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8(out.stdout).unwrap();
        assert_eq!(comparable(&said), comparable(expected), "\n{script}\nprinted\n{said}");
        commands += script
            .lines()
            .filter(|l| ["whystall ", "mkdir", "chmod", "touch"].iter().any(|c| l.starts_with(c)))
            .count();
    }
    assert!((6..10).contains(&commands), "{commands} commands");
    // The same files stand in examples/, to copy.
    for file in ["spool-events", "rules/stuck.rhai"] {
        let made = std::fs::read_to_string(here.join(file)).unwrap();
        assert_eq!(made, read(&format!("examples/tutorial/{file}")), "{file}");
    }
    let made = std::fs::read_to_string(here.join("whystall.toml")).unwrap();
    let shown = read("examples/tutorial/whystall.toml").replace("/opt/tutorial", here.to_str().unwrap());
    assert!(made.starts_with(&shown), "{made}\n{shown}");
}

fn rules() -> BTreeMap<String, String> {
    let list = std::fs::read_dir(root().join("examples/rules")).unwrap();
    let names = list.map(|e| e.unwrap().file_name().into_string().unwrap());
    names.map(|n| (n.clone(), read(&format!("examples/rules/{n}")))).collect()
}

#[test]
fn the_cookbook_checks_and_passes() {
    let dir = root().join("examples/rules");
    let dir = dir.to_str().unwrap();
    run(&["check", dir]).exits(0).prints(&["10 files checked: 0 errors, 0 warnings"]);
    run(&["test", dir]).exits(0).prints(&["passed, 0 failed"]);
    let index = read("docs/cookbook.md");
    for (name, text) in rules() {
        assert!(index.contains(&format!("(../examples/rules/{name})")), "{name} is not in docs/cookbook.md");
        assert!(text.starts_with("//! "), "{name} has no page");
        for state in ["firing", "silent", "resolved"] {
            assert!(
                text.contains(&format!(".expect(\"{state}\")")),
                "{name} has no test that expects {state}"
            );
        }
    }
}

/// The cookbook's config as it would be for programs where they stand here, with this directory of jobs.
fn config(jobs: &Path) -> String {
    let exec: PathBuf = root().join("examples/exec");
    let text = read("examples/cookbook.toml");
    assert!(text.contains("/usr/local/lib/whystall/") && text.contains("/run/jobs"));
    text.replace("/usr/local/lib/whystall", exec.to_str().unwrap())
        .replace("/run/jobs", jobs.to_str().unwrap())
}

#[test]
fn the_cookbooks_programs_run_here_and_their_rules_with_them() {
    let dir = tempfile::tempdir().unwrap();
    let jobs = dir.path().join("jobs");
    std::fs::create_dir(&jobs).unwrap();
    // A job that should have succeeded years ago, and one that has just done so.
    for (job, every) in [("backup", "60"), ("report", "86400")] {
        std::fs::write(jobs.join(job), every).unwrap();
    }
    let touched = Command::new("touch").args(["-d", "2001-01-01"]).arg(jobs.join("backup")).status().unwrap();
    assert!(touched.success());
    let text = config(&jobs);
    let tables: toml::Table = text.parse().unwrap();
    for (name, table) in tables["collectors"]["exec"].as_table().unwrap() {
        let command: Vec<&str> =
            table["command"].as_array().unwrap().iter().map(|w| w.as_str().unwrap()).collect();
        let out = Command::new(command[0]).args(&command[1..]).stdin(Stdio::null()).output().unwrap();
        if out.status.code() == Some(69) {
            eprintln!("skipped: {name} finds nothing to collect here");
            continue;
        }
        let said = String::from_utf8(out.stdout).unwrap();
        assert!(out.status.success(), "{name}: {:?}\n{}", out.status, String::from_utf8_lossy(&out.stderr));
        assert!(!said.is_empty(), "{name} printed nothing");
        for line in said.lines() {
            let event: serde_json::Value =
                serde_json::from_str(line).unwrap_or_else(|e| panic!("{name}: {e}: {line}"));
            let fields = event.get("fields").unwrap_or(&event).as_object().unwrap();
            let declared = table["fields"].as_table().unwrap();
            for field in fields.keys().filter(|f| *f != "subject") {
                assert!(declared.contains_key(field), "{name} prints `{field}`, which is not declared");
            }
        }
    }
    let file = dir.path().join("c.toml");
    std::fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap();
    run(&["check", file]).exits(0).prints(&["0 errors"]);
    let rules = root().join("examples/rules");
    let rules = rules.to_str().unwrap();
    // It ends by itself if the verdict does not come.
    let mut running = Running::start(&[
        "run",
        "--config",
        file,
        "--rules",
        rules,
        "--no-builtin-rules",
        "--output",
        "json",
        "--for",
        "60s",
    ]);
    running.wait_for("10 rules");
    let mut verdicts = BufReader::new(running.child.stdout.take().unwrap()).lines().map(|l| {
        let v: serde_json::Value = serde_json::from_str(&l.unwrap()).unwrap();
        v
    });
    let late = verdicts.find(|v| v["rule"] == "jobs.late").expect("no verdict about the late job");
    assert_eq!((&late["subject"], &late["state"]), (&"device:backup".into(), &"firing".into()));
    running.signal(libc::SIGTERM);
    let (status, said) = running.end();
    assert_eq!(status, Some(0), "{said}");
    assert!(!said.contains("not running"), "{said}");
}
