//! `check`, `test`, `rules` and `doctor` on the built-in rules and on files of our own.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::program::{peers, run, whystall};

const BROKEN: &str = "//! A page.\nconst RULE = #{ id: \"my.rule\", api: 1, severity: \"loud\", subject: \"host\",\n  \
     windows: #{ a: #{ of: \"vmstat.pgscan_dircet\", calc: \"rate\", over: \"10s\" } } };\nfn enter(w, p) { w.a.value > 1.0 }\n";

#[test]
fn built_in_rules_check_and_pass() {
    run(&["check"]).exits(0).prints(&["0 errors"]);
    run(&["test"]).exits(0).prints(&["passed, 0 failed"]);
    let report = run(&["check", "--format", "json"]).exits(0).json();
    let codes: Vec<&str> =
        report["diagnostics"].as_array().unwrap().iter().map(|d| d["code"].as_str().unwrap()).collect();
    assert!(!codes.contains(&"R029"), "a condition runs in the interpreter: {report}");
    let rules = run(&["rules", "list"]).exits(0);
    let ids: Vec<&str> = rules.stdout.lines().skip(1).filter_map(|l| l.split(' ').next()).collect();
    assert!(ids.contains(&"memory.direct_reclaim_burst"), "{ids:?}");
    for id in ids {
        run(&["rules", "show", id]).exits(0).prints(&[id, "causes", "Windows"]);
    }
}

#[test]
fn every_problem_of_a_file_is_told_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("broken.rhai");
    std::fs::write(&path, BROKEN).unwrap();
    let file = path.to_str().unwrap();
    run(&["check", file]).exits(1).prints(&[
        "error[R007]",
        "broken.rhai:3:",
        "did you mean `vmstat.pgscan_direct`?",
        "error[R006]",
        "broken.rhai:2:",
    ]);
    let report = run(&["check", "--format", "json", file]).exits(1).json();
    let codes: Vec<&str> =
        report["diagnostics"].as_array().unwrap().iter().map(|d| d["code"].as_str().unwrap()).collect();
    assert!(codes.contains(&"R007") && codes.contains(&"R006"), "{codes:?}");
    assert_eq!(report["summary"]["files"], 1);
    run(&["test", file]).exits(1).prints(&["R007", "1 file could not be loaded"]);
    run(&["test", "--format", "junit", file]).exits(1).prints(&["errors=\"1\"", "<error message="]);
    // A run goes on with the other rules and says what it left out.
    let dir = dir.path().to_str().unwrap();
    run(&["run", "--rules", dir, "--no-builtin-rules", "--for", "1s"]).exits(0).says(&[
        "watching",
        "R007",
        "broken.rhai:3:",
    ]);
}

#[test]
fn built_in_rules_are_tested_from_all_sides() {
    let report = run(&["test", "--coverage", "--format", "json"]).exits(0).json();
    let all = report["coverage"].as_array().unwrap();
    assert_eq!(all.len(), whystall_rules::ALL.len());
    for rule in all {
        let id = rule["rule"].as_str().unwrap();
        assert_eq!(rule["causes_missed"].as_array().unwrap().len(), 0, "{id}: {rule}");
        assert!(rule["branches"].as_u64().unwrap() >= 3, "{id}: {rule}");
        let kinds = rule["kinds_missed"].as_array().unwrap();
        assert!(kinds.is_empty(), "{id} lacks tests: {kinds:?}");
    }
}

#[test]
fn what_tests_do_not_reach_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.rhai");
    let text = "//! A page.\nconst RULE = #{ id: \"my.rule\", api: 1, severity: \"info\", subject: \"host\",\n  \
         windows: #{ a: #{ of: \"vmstat.allocstall\", calc: \"rate\", over: \"10s\" } } };\n\
         fn enter(w, p) { w.a.value > 1.0 }\nfn verdict(w, p, ctx) {\n  if w.a.value > 100.0 { return cause(\"a.much\"); }\n  \
         if w.a.value > 9.0 { cause(\"a.some\") } else { cause(\"a.little\") }\n}\n\
         fn test_a(t) { t.series(\"vmstat.allocstall\", \"0+5x20\"); t.at(\"15s\").expect(\"firing\").cause(\"a.little\"); }\n";
    std::fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap();
    run(&["test", file]).exits(0).prints(&["my.rule has no test that concludes: a.much, a.some"]);
    run(&["test", "--coverage", file]).exits(0).prints(&[
        "clearing, silent, gap",
        "a.rhai:6:24, ",
        "a.rhai:7:22\n",
        "3 of 5 branches reached",
    ]);
}

#[test]
fn what_check_finds_is_sarif_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("broken.rhai");
    std::fs::write(&path, BROKEN).unwrap();
    let log = run(&["check", "--format", "sarif", path.to_str().unwrap()]).exits(1).json();
    assert_eq!(log["version"], "2.1.0");
    let results = log["runs"][0]["results"].as_array().unwrap();
    let rules = log["runs"][0]["tool"]["driver"]["rules"].as_array().unwrap();
    assert!(results.iter().any(|r| r["ruleId"] == "R007" && r["level"] == "error"), "{log}");
    for r in results {
        let index = r["ruleIndex"].as_u64().unwrap() as usize;
        assert_eq!(rules[index]["id"], r["ruleId"]);
        assert!(r["locations"][0]["physicalLocation"]["region"]["startLine"].as_u64() >= Some(1), "{r}");
    }
    // Nothing found is a log without results.
    let log = run(&["check", "--format", "sarif"]).exits(0).json();
    assert!(log["runs"][0]["results"].is_array());
}

#[test]
fn what_check_finds_fits_the_schema_of_sarif() {
    let (python, schema) = (peers().join("venv/bin/python"), peers().join("sarif-2.1.0.json"));
    let works = Command::new(&python).args(["-c", "import jsonschema"]).stderr(Stdio::null()).status();
    if !schema.exists() || !works.is_ok_and(|s| s.success()) {
        eprintln!("skipped: no jsonschema or no {}: run tests/peers/setup.sh", schema.display());
        return;
    }
    let fits = |log: &serde_json::Value| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/validate.py");
        let mut child = Command::new(&python)
            .args([&script, &schema])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(log.to_string().as_bytes()).unwrap();
        let out = child.wait_with_output().unwrap();
        if out.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&out.stdout).into_owned()) }
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("broken rule.rhai");
    std::fs::write(&path, BROKEN).unwrap();
    let mut log = run(&["check", "--format", "sarif", path.to_str().unwrap()]).exits(1).json();
    assert_eq!(fits(&log), Ok(()));
    assert_eq!(fits(&run(&["check", "--format", "sarif"]).exits(0).json()), Ok(()));
    log["runs"][0]["results"][0]["level"] = "fatal".into();
    assert!(fits(&log).is_err_and(|e| e.contains("fatal")), "the validator accepts anything");
}

#[test]
fn rules_share_what_stands_in_lib() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_string()
    };
    let lib = write("lib/limits.rhai", "//! Lines.\nconst MUCH = 3.0;\nfn much(x) { x > MUCH }\n");
    let rule = "//! A page.\nimport \"lib/limits\" as limits;\nconst RULE = #{ id: \"my.rule\", api: 1, severity: \"info\", subject: \"host\",\n  \
         windows: #{ a: #{ of: \"vmstat.allocstall\", calc: \"rate\", over: \"10s\" } } };\n\
         fn enter(w, p) { limits::much(w.a.value) }\n\
         fn test_a(t) { t.series(\"vmstat.allocstall\", \"0+5x20 100x40\"); t.at(\"15s\").expect(\"firing\"); t.at(\"55s\").expect(\"resolved\"); }\n";
    let (flat, deep) = (write("a.rhai", rule), write("net/b.rhai", &rule.replace("my.rule", "my.other")));
    let all = dir.path().to_str().unwrap();
    run(&["check", all]).exits(0).prints(&["3 files checked: 0 errors, 0 warnings"]);
    run(&["test", all]).exits(0).prints(&["2 passed, 0 failed"]);
    run(&["check", &flat, &deep]).exits(0).prints(&["3 files checked: 0 errors, 0 warnings"]);
    run(&["test", &deep]).exits(0).prints(&["1 passed, 0 failed"]);
    std::fs::write(&lib, "fn much(x) { x > MUCH }\n").unwrap();
    run(&["check", all]).exits(1).prints(&[
        "error[R018]",
        "lib/limits.rhai:1:18",
        "error[R036]",
        "a.rhai:2:1",
    ]);
}

#[test]
fn every_code_is_explained() {
    for c in whystall_engine::script::Code::ALL {
        run(&["explain", c.name()]).exits(0).prints(&[c.name(), c.title()]);
    }
}

/// A reader of XML that knows elements, attributes and the five entities: enough to see that the text is well formed.
fn well_formed(xml: &str) -> Result<usize, String> {
    let body = xml.strip_prefix("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n").ok_or("no declaration")?;
    let (mut open, mut elements, mut rest) = (Vec::new(), 0, body);
    let text_ok = |t: &str| {
        let entities = ["amp;", "lt;", "gt;", "quot;", "apos;"];
        let known = t.split('&').skip(1).all(|e| entities.iter().any(|k| e.starts_with(k)));
        known && !t.contains('<') && t.chars().all(|c| !c.is_control() || c == '\n')
    };
    while let Some((text, tail)) = rest.split_once('<') {
        if !text_ok(text) || open.is_empty() && !text.trim().is_empty() {
            return Err(format!("bad text {text:?}"));
        }
        let (tag, tail) = tail.split_once('>').ok_or("a tag without end")?;
        if let Some(name) = tag.strip_prefix('/') {
            if open.pop() != Some(name) {
                return Err(format!("</{name}> closes something else"));
            }
        } else {
            let (inner, empty) = tag.strip_suffix('/').map_or((tag, false), |t| (t, true));
            let name = inner.split(' ').next().unwrap_or_default();
            let quoted: Vec<&str> = inner.split('"').collect();
            if quoted.len().is_multiple_of(2) || !quoted.iter().skip(1).step_by(2).all(|v| text_ok(v)) {
                return Err(format!("bad attributes in <{tag}>"));
            }
            elements += 1;
            if !empty {
                open.push(name);
            }
        }
        rest = tail;
    }
    if open.is_empty() && rest.trim().is_empty() { Ok(elements) } else { Err(format!("{open:?} stay open")) }
}

#[test]
fn junit_is_well_formed_xml() {
    let xml = run(&["test", "--format", "junit"]).exits(0).stdout;
    let elements = well_formed(&xml).unwrap_or_else(|e| panic!("{e}\n{xml}"));
    assert_eq!(elements, xml.matches("<testsuite").count() + xml.matches("<testcase").count());
    assert!(xml.matches("<testcase").count() > 20, "{xml}");
    assert!(well_formed("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<a><b x=\"&\"/></a>").is_err());

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("<&\"'>.rhai");
    std::fs::write(&path, BROKEN).unwrap();
    let xml = run(&["test", "--format", "junit", path.to_str().unwrap()]).exits(1).stdout;
    well_formed(&xml).unwrap_or_else(|e| panic!("{e}\n{xml}"));
}

#[test]
fn a_new_rule_passes_and_nothing_is_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let new = |id: &str| {
        crate::program::Ran::from(whystall(&["rules", "new", id]).current_dir(dir.path()).output().unwrap())
    };
    new("net.mine").exits(0).prints(&["mine.rhai"]);
    std::fs::create_dir(dir.path().join("disk")).unwrap();
    new("disk.other").exits(0).prints(&["disk/other.rhai"]);
    let all = dir.path().to_str().unwrap();
    run(&["check", all]).exits(0).prints(&["2 files checked: 0 errors, 0 warnings"]);
    run(&["test", all]).exits(0).prints(&["4 passed, 0 failed"]);
    std::fs::write(dir.path().join("mine.rhai"), "mine").unwrap();
    new("net.mine").exits(2).says(&["exists already"]);
    assert_eq!(std::fs::read_to_string(dir.path().join("mine.rhai")).unwrap(), "mine");
}

#[test]
fn users_rules_replace_built_in_ones_but_not_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let text =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("rules/kernel/lockup.rhai"))
            .unwrap();
    std::fs::write(dir.path().join("a.rhai"), &text).unwrap();
    let rules = dir.path().to_str().unwrap();
    run(&["run", "--rules", rules, "--for", "1s"])
        .exits(0)
        .says(&["a.rhai replaces the built-in rule `kernel.lockup`"]);
    std::fs::write(dir.path().join("b.rhai"), &text).unwrap();
    run(&["check", rules]).exits(1).prints(&["error[R032]", "b.rhai"]);
}

#[test]
fn the_doctor_looks_at_everything() {
    let ran = run(&["doctor", "--output", "json"]);
    let report = ran.json();
    let problems = report["problems"].as_array().unwrap();
    assert_eq!(ran.status, Some(i32::from(!problems.is_empty())), "{problems:?}");
    let names: Vec<&str> =
        report["collectors"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    let all: Vec<&str> = whystall_collectors::ALL.iter().map(|c| c.name).collect();
    assert_eq!(names, all);
    assert_eq!(report["rules"].as_array().unwrap().len(), whystall_rules::ALL.len());
    let states = report["collectors"].as_array().unwrap().iter().map(|c| c["state"].as_str().unwrap());
    assert!(states.clone().all(|s| ["ok", "nothing", "failing", "unavailable"].contains(&s)));
}

#[test]
fn fields_have_values() {
    let ran = run(&["fields", "meminfo.*"]).exits(0);
    assert!(ran.stdout.lines().count() > 3, "{}", ran.stdout);
    assert!(ran.stdout.contains("MiB") || ran.stdout.contains("GiB"), "{}", ran.stdout);
    run(&["fields", "no-such-field"]).exits(1);
}
