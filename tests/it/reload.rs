//! Hot reload of a running program: rules and config change below it, in every way in which files are changed.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::program::whystall;

/// Nothing that is waited for may take longer.
const PATIENCE: Duration = Duration::from_secs(120);

/// Files of a run, and the run.
struct Scene {
    dir: tempfile::TempDir,
    child: Option<Child>,
    lines: Option<Receiver<String>>,
    seen: Vec<String>,
    /// Lines up to here have been waited for.
    at: usize,
}

impl Scene {
    fn new() -> Scene {
        let dir = tempfile::tempdir().unwrap();
        let s = Scene { dir, child: None, lines: None, seen: Vec::new(), at: 0 };
        s.level(50);
        s.config("");
        s
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn put(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Puts a file in the place of another one at once.
    fn swap(&self, name: &str, text: &str) {
        self.put("new", text);
        std::fs::rename(self.path("new"), self.path(name)).unwrap();
    }

    /// What the only collector reads.
    fn level(&self, level: u32) {
        self.swap("value", &format!("{{\"level\": {level}}}\n"));
    }

    /// A config whose only collector is a program, followed by `more`.
    fn config(&self, more: &str) {
        let dir = self.dir.path().display();
        let mut text = format!("rules_dirs = [\"{dir}/rules\"]\n");
        if !more.contains("interval = ") {
            text += "interval = \"100ms\"\n";
        }
        text = format!(
            "{more}\n{text}[collectors.exec.probe]\ncommand = [\"/bin/cat\", \"{dir}/value\"]\ninterval = \"200ms\"\n\
             fields = {{ level = {{ unit = \"count\", help = \"a level\" }} }}\n"
        );
        for c in whystall_collectors::ALL {
            text += &format!("[collectors.{}]\nenabled = false\n", c.name);
        }
        self.swap("c.toml", &text);
    }

    fn start(&mut self, more: &[&str]) {
        let config = self.path("c.toml");
        let mut child = whystall(&["run", "--output", "json", "--config", config.to_str().unwrap()])
            .args(more)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (to, lines) = channel();
        let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let other = to.clone();
        std::thread::spawn(move || {
            BufReader::new(out).lines().map_while(Result::ok).all(|l| to.send(l).is_ok())
        });
        std::thread::spawn(move || {
            BufReader::new(err).lines().map_while(Result::ok).all(|l| other.send(l).is_ok())
        });
        (self.child, self.lines) = (Some(child), Some(lines));
        self.says("watching");
    }

    /// Waits for a line for which `found` holds, after the last one that was waited for.
    #[track_caller]
    fn wait<T>(&mut self, what: &str, found: impl Fn(&str) -> Option<T>) -> T {
        let until = Instant::now() + PATIENCE;
        loop {
            while let Some(line) = self.seen.get(self.at) {
                self.at += 1;
                if let Some(t) = found(line) {
                    return t;
                }
            }
            let left = until.saturating_duration_since(Instant::now());
            match self.lines.as_ref().unwrap().recv_timeout(left) {
                Ok(line) => self.seen.push(line),
                Err(e) => panic!("waiting for {what}: {e}\n{}", self.seen.join("\n")),
            }
        }
    }

    #[track_caller]
    fn says(&mut self, text: &str) -> String {
        self.wait(text, |l| l.contains(text).then(|| l.to_string()))
    }

    /// Waits for a verdict of this rule in this state.
    #[track_caller]
    fn verdict(&mut self, rule: &str, state: &str) -> Value {
        self.wait(&format!("{rule} {state}"), |l| {
            let v: Value = serde_json::from_str(l).ok()?;
            (v["rule"] == rule && v["state"] == state).then_some(v)
        })
    }

    fn hang_up(&self) {
        let pid = i32::try_from(self.child.as_ref().unwrap().id()).unwrap();
        // SAFETY: kill takes numbers only; the child has not been waited for, so its pid is its own.
        assert_eq!(unsafe { libc::kill(pid, libc::SIGHUP) }, 0);
    }

    /// Fails if a verdict of this rule in this state was printed so far.
    #[track_caller]
    fn never(&self, rule: &str, state: &str) {
        let is = |v: Value| v["rule"] == rule && v["state"] == state;
        let found = self.seen.iter().filter_map(|l| serde_json::from_str(l).ok()).any(is);
        assert!(!found, "{rule} {state}:\n{}", self.seen.join("\n"));
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A rule that fires above a line.
fn rule(id: &str, line: u32) -> String {
    format!(
        r#"//! The level is over its line.
const RULE = #{{
  id: "{id}", api: 1, severity: "warning", subject: "host", needs: ["probe"],
  params: #{{ line: #{{ value: {line}.0, min: 0.0, unit: "count", help: "the line" }} }},
  windows: #{{ level: #{{ of: "probe.level", calc: "last", over: "2s" }} }},
  fire: #{{ hold: "0s" }}, clear: #{{ hold: "0s" }},
}};
fn enter(w, p) {{ w.level.value > p.line }}
fn verdict(w, p, ctx) {{ cause("{id}", "high").says(`level ${{w.level.text}}`).evidence(w.level, p.line) }}
fn test_fires_then_clears(t) {{
  t.series("probe.level", "0x5 10000x10 0x20");
  t.at("12s").expect("firing");
  t.at("30s").expect("resolved");
}}
"#
    )
}

#[test]
fn edits_are_taken_over_and_keep_what_is_open() {
    let mut s = Scene::new();
    s.put("rules/a.rhai", &rule("my.a", 10));
    s.put("rules/b.rhai", &rule("my.b", 20));
    s.start(&["--no-builtin-rules"]);
    let first = s.verdict("my.a", "firing");
    // Another line of the text, and nothing else, changes nothing that is open: the same incident ends later.
    s.put("rules/a.rhai", &rule("my.a", 11).replace("its line", "its new line"));
    s.says("(1 changed, 0 new, 0 gone)");
    s.swap("rules/a.rhai", &rule("my.a", 1000));
    s.says("(1 changed, 0 new, 0 gone)");
    let over = s.verdict("my.a", "resolved");
    assert_eq!(over["incident"], first["incident"]);
    // A new file, and one that goes while it fires.
    s.put("rules/deep/er/c.rhai", &rule("my.c", 30));
    s.says("(0 changed, 1 new, 0 gone)");
    let first = s.verdict("my.c", "firing");
    std::fs::remove_file(s.path("rules/deep/er/c.rhai")).unwrap();
    s.says("(0 changed, 0 new, 1 gone)");
    assert_eq!(s.verdict("my.c", "withdrawn")["incident"], first["incident"]);
    s.never("my.b", "resolved");
    s.never("my.b", "withdrawn");
    s.hang_up();
    s.says("nothing changed");
}

#[test]
fn what_is_wrong_changes_nothing_until_it_is_put_right() {
    let mut s = Scene::new();
    let (good, better) = (rule("my.a", 10), rule("my.a", 1000));
    s.put("rules/a.rhai", &good);
    s.start(&["--no-builtin-rules"]);
    s.verdict("my.a", "firing");
    // An editor that has written half of a file.
    s.put("rules/a.rhai", &better[..better.len() / 2]);
    let said = s.says("reload refused");
    assert!(said.contains("a.rhai:"), "{said}");
    s.never("my.a", "resolved");
    s.put("rules/a.rhai", &better);
    s.says("reloaded: 1 rules run (1 changed");
    s.verdict("my.a", "resolved");
    // One bad file keeps the good change beside it out.
    s.put("rules/b.rhai", &rule("my.b", 10).replace("w.level", "w.levl"));
    let said = s.says("reload refused");
    assert!(said.contains("b.rhai:"), "{said}");
    s.put("rules/a.rhai", &good);
    s.says("reload refused");
    // A test that fails is as bad, also when asked by a signal.
    s.put("rules/b.rhai", &rule("my.b", 10).replace("expect(\"resolved\")", "expect(\"firing\")"));
    let said = s.says("a test fails");
    assert!(said.contains("test_fires_then_clears"), "{said}");
    s.hang_up();
    s.says("a test fails");
    s.never("my.b", "firing");
    // Back to what runs.
    s.put("rules/a.rhai", &better);
    s.says("a test fails");
    std::fs::remove_file(s.path("rules/b.rhai")).unwrap();
    s.says("the files are again as they run");
    s.put("rules/b.rhai", &rule("my.b", 10));
    s.verdict("my.b", "firing");
}

#[test]
fn directories_and_links_may_come_go_and_be_swapped() {
    let mut s = Scene::new();
    s.start(&["--no-builtin-rules"]);
    // Missing at the start.
    s.put("rules/a.rhai", &rule("my.a", 10));
    s.says("(0 changed, 1 new, 0 gone)");
    s.verdict("my.a", "firing");
    std::fs::remove_dir_all(s.path("rules")).unwrap();
    s.says("(0 changed, 0 new, 1 gone)");
    s.verdict("my.a", "withdrawn");
    // As Kubernetes mounts a ConfigMap: every file a link through `..data`, which is swapped.
    s.put("rules/..1/a.rhai", &rule("my.a", 1000));
    s.put("rules/..2/a.rhai", &rule("my.a", 10));
    symlink("..1", s.path("rules/..data")).unwrap();
    symlink("..data/a.rhai", s.path("rules/a.rhai")).unwrap();
    s.says("(0 changed, 1 new, 0 gone)");
    symlink("..2", s.path("rules/..tmp")).unwrap();
    std::fs::rename(s.path("rules/..tmp"), s.path("rules/..data")).unwrap();
    s.says("(1 changed, 0 new, 0 gone)");
    s.verdict("my.a", "firing");
    // The directory itself as a link.
    s.put("v2/a.rhai", &rule("my.a", 1000));
    s.put("v3/b.rhai", &rule("my.b", 10));
    std::fs::rename(s.path("rules"), s.path("old")).unwrap();
    symlink("v2", s.path("rules")).unwrap();
    s.verdict("my.a", "resolved");
    symlink("v3", s.path("link")).unwrap();
    std::fs::rename(s.path("link"), s.path("rules")).unwrap();
    s.verdict("my.b", "firing");
}

#[test]
fn the_config_is_taken_over_live() {
    let mut s = Scene::new();
    s.put("rules/a.rhai", &rule("my.a", 10));
    s.put("more/m.rhai", &rule("my.m", 10));
    s.start(&["--no-builtin-rules"]);
    assert_eq!(s.verdict("my.a", "firing")["evidence"][0]["threshold"], 10.0);
    s.config("rules.\"my.a\".params.line = 1000.0");
    s.verdict("my.a", "resolved");
    // What does not fit is refused as a whole.
    s.config("rules.\"my.a\".params.lien = 10.0");
    s.says("c.toml:1:28: the rule `my.a` has no param `lien`");
    s.config("rules.\"my.a\" = { severity = \"critical\", params = { line = 20.0 } }");
    let v = s.verdict("my.a", "firing");
    assert_eq!((&v["severity"], &v["evidence"][0]["threshold"]), (&"critical".into(), &20.0.into()));
    s.config("rules.\"my.a\".enabled = false");
    s.says("not running my.a");
    s.verdict("my.a", "withdrawn");
    // An exception for one rule, other directories for the other.
    let more = s.path("more").display().to_string();
    s.config("rules.\"my.a\".exceptions = [{ subject = \"host\", reason = \"a test\" }]");
    s.says("(0 changed, 1 new, 0 gone)");
    s.put("rules/b.rhai", &rule("my.b", 10));
    s.says("(0 changed, 1 new, 0 gone)");
    s.config("interval = \"50ms\"");
    s.says("`interval` is changed by a restart only");
    // Another collector, and a rule that reads it.
    let source = "command = [\"/bin/echo\", '{\"level\": 7}'], interval = \"200ms\"";
    s.config(&format!(
        "collectors.exec.other = {{ {source}, fields = {{ level = {{ unit = \"count\", help = \"another\" }} }} }}"
    ));
    s.says("reloaded");
    s.put("rules/other.rhai", &rule("my.other", 5).replace("probe", "other"));
    assert_eq!(s.verdict("my.other", "firing")["evidence"][0]["value"], 7.0);
    // The collector that was there before still works.
    s.level(5);
    s.verdict("my.b", "resolved");
    let config = std::fs::read_to_string(s.path("c.toml")).unwrap();
    s.swap("c.toml", &config.replace("/rules\"]", &format!("/rules\", \"{more}\"]")));
    s.says("(0 changed, 1 new, 0 gone)");
    s.level(50);
    s.verdict("my.m", "firing");
}

/// The finding about refused files, from its start to its end.
#[test]
fn refused_files_are_a_finding_until_they_are_good() {
    let mut s = Scene::new();
    s.put("rules/a.rhai", &rule("my.a", 10));
    s.start(&[]);
    s.verdict("my.a", "firing");
    s.put("rules/bad.rhai", "const RULE = 1;");
    s.says("reload refused");
    let v = s.verdict("self.degraded", "firing");
    assert_eq!(v["cause"], "self.rule_suspended");
    assert!(v["summary"].as_str().unwrap().contains("bad.rhai"), "{v}");
    std::fs::remove_file(s.path("rules/bad.rhai")).unwrap();
    s.says("the files are again as they run");
    assert_eq!(s.verdict("self.degraded", "resolved")["incident"], v["incident"]);
    s.never("my.a", "withdrawn");
}

#[test]
fn a_run_that_starts_with_a_broken_file_says_so_and_takes_the_fixed_one() {
    let mut s = Scene::new();
    s.put("rules/a.rhai", &rule("my.a", 10));
    s.put("rules/b.rhai", "const RULE = 1;");
    s.start(&[]);
    assert_eq!(s.verdict("self.degraded", "firing")["cause"], "self.rule_suspended");
    s.put("rules/b.rhai", &rule("my.b", 10));
    s.verdict("my.b", "firing");
}

#[test]
fn three_hundred_rules_at_once() {
    let mut s = Scene::new();
    s.start(&["--no-builtin-rules"]);
    for i in 0..300 {
        s.put(&format!("staged/r{i}.rhai"), &rule(&format!("many.r{i}"), 40 + i % 20));
    }
    std::fs::rename(s.path("staged"), s.path("rules")).unwrap();
    s.says("(0 changed, 300 new, 0 gone)");
    s.verdict("many.r0", "firing");
    s.put("rules/r1.rhai", &rule("many.r1", 60));
    s.says("(1 changed, 0 new, 0 gone)");
    std::fs::remove_dir_all(s.path("rules")).unwrap();
    s.says("(0 changed, 0 new, 300 gone)");
    s.wait("the end of the incident", |l| {
        let v: Value = serde_json::from_str(l).ok()?;
        (v["state"] == "withdrawn").then_some(())
    });
}
