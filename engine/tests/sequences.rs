//! Windows that look at other windows and subjects, in whole rules: sequence and absence, the CPU that another window
//! names, and quantifiers. Each rule brings its tests.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as loudly as tests do")]

use std::rc::Rc;
use std::sync::Arc;

use whystall_engine::script::{Level, Overrides, Sandbox, compile, run_tests};
use whystall_engine::{Schema, Source};
use whystall_event::{Field, SEC, Stream, SubjectKind, Unit};

fn schema() -> Schema {
    const CG: &[SubjectKind] = &[SubjectKind::Cgroup];
    const HOST: &[SubjectKind] = &[SubjectKind::Host];
    const CPU: &[SubjectKind] = &[SubjectKind::Cpu];
    const STEP: &[Field] = &[Field::text("kind", ""), Field::duration("took", "")];
    const STALL: &[Field] = &[Field::duration("took", ""), Field::gauge("cpu", Unit::None, "")];
    const BUSY: &[Field] = &[Field::gauge("busy", Unit::Ratio, "")];
    const LOW: &[Field] = &[Field::gauge("low", Unit::None, "")];
    let source = |name: &str, s: Stream| Source {
        name: name.into(),
        streams: vec![Arc::new(s)],
        interval_ns: SEC,
        missing: None,
    };
    Schema::new(vec![
        source("job", Stream::occurrences("job", "", CG, STEP)),
        source("stall", Stream::occurrences("stall", "", CG, STALL)),
        source("cpu", Stream::sampled("cpu", "", CPU, BUSY)),
        source("node", Stream::sampled("node", "", HOST, LOW)),
    ])
}

/// Loads the rule, which must lower, and runs its tests, also in the interpreter.
#[track_caller]
fn passes(text: &str) {
    let plain = compile(&Rc::new(Sandbox::new()), &schema(), "t.rhai", text, &Overrides::default());
    assert!(plain.rule.as_ref().is_some_and(|r| r.is_lowered()), "{:?}", plain.diagnostics);
    // The same conditions behind a loop, which does not lower.
    let slow = text.replace("fn enter(w, p) {", "fn enter(w, p) { for i in 0..1 { let x = i; }");
    for text in [text, &slow] {
        let sandbox = Rc::new(Sandbox::new());
        let compiled = compile(&sandbox, &schema(), "t.rhai", text, &Overrides::default());
        let bad: Vec<String> =
            compiled.diagnostics.iter().filter(|d| d.level == Level::Error).map(|d| d.to_string()).collect();
        assert!(bad.is_empty(), "{}", bad.concat());
        for o in run_tests(&compiled.rule.unwrap(), text, &sandbox, &schema()) {
            assert_eq!(o.failures, vec![], "{}", o.test);
        }
    }
}

fn rule(subject: &str, windows: &str, rest: &str) -> String {
    format!(
        "//! A page.\nconst RULE = #{{ id: \"a.b\", api: 1, severity: \"info\", subject: \"{subject}\",\n  windows: #{{ {windows} }} }};\n{rest}"
    )
}

#[test]
fn one_thing_after_another() {
    passes(&rule(
        "cgroup",
        "begun: #{ of: \"job.kind\", calc: \"count\", over: \"1s\", where: #{ kind: [\"begin\"] } },\n  \
         stalls: #{ of: \"stall.took\", calc: \"count\", over: \"30s\", after: \"begun\", within: \"5s\" }",
        r#"fn enter(w, p) { w.stalls.value > 0.0 }
fn test_a_stall_after_a_begin_counts(t) {
  t.event("3s", "job{cgroup=/a, kind=other}");
  t.event("5s", "stall{cgroup=/a}", #{ took: 10 });
  t.event("10s", "job{cgroup=/a, kind=begin}");
  t.event("14s", "stall{cgroup=/a}", #{ took: 10 });
  t.event("14s", "stall{cgroup=/b}", #{ took: 10 });
  t.at("9s").expect("silent");
  t.at("13s").expect("silent");
  t.at("14s").on("cgroup:/a").expect("firing");
  t.at("14s").on("cgroup:/b").expect("silent");
}
fn test_one_that_comes_too_late_or_before_does_not(t) {
  t.event("1s", "stall{cgroup=/a}", #{ took: 10 });
  t.event("9s", "stall{cgroup=/a}", #{ took: 10 });
  t.event("10s", "job{cgroup=/a, kind=begin}");
  t.event("16s", "stall{cgroup=/a}", #{ took: 10 });
  t.at("30s").expect("silent");
}
"#,
    ));
}

#[test]
fn what_does_not_come_is_overdue() {
    passes(&rule(
        "cgroup",
        "begun: #{ of: \"job.kind\", calc: \"count\", over: \"1s\", where: #{ kind: [\"begin\"] } },\n  \
         ended: #{ of: \"job.kind\", calc: \"count\", over: \"20s\", where: #{ kind: [\"end\"] }, after: \"begun\", within: \"10s\" }",
        r#"fn enter(w, p) { w.ended.overdue }
fn test_an_end_in_time(t) {
  t.event("5s", "job{cgroup=/a, kind=begin}");
  t.event("12s", "job{cgroup=/a, kind=end}");
  t.event("40s", "job{cgroup=/a, kind=other}");
  t.at("40s").expect("silent");
}
fn test_no_end(t) {
  t.event("1s", "job{cgroup=/a, kind=end}");
  t.event("5s", "job{cgroup=/a, kind=begin}");
  t.event("40s", "job{cgroup=/a, kind=other}");
  t.at("15s").expect("silent");
  t.at("16s").expect("firing");
  t.at("40s").expect("resolved");
}
"#,
    ));
}

#[test]
fn after_something_of_the_host() {
    passes(&rule(
        "cgroup",
        "low: #{ of: \"node.low\", calc: \"last\", over: \"2s\", at: \"host\", coverage: 0.1 },\n  \
         stalled: #{ of: \"stall.took\", calc: \"sum\", over: \"10s\", after: \"low\", within: \"3s\" }",
        r#"fn enter(w, p) { w.stalled.ms > 50.0 }
fn test_only_then(t) {
  t.series("node.low", "0x9 1 0x20");
  t.event("5s", "stall{cgroup=/a}", #{ took: 100 });
  t.event("12s", "stall{cgroup=/a}", #{ took: 60 });
  t.at("11s").expect("silent");
  t.at("12s").expect("firing");
}
fn test_unknown_is_not_after(t) {
  t.event("5s", "stall{cgroup=/a}", #{ took: 100 });
  t.at("8s").expect("silent");
}
"#,
    ));
}

#[test]
fn the_cpu_that_another_window_names() {
    passes(&rule(
        "cgroup",
        "stalled: #{ of: \"stall.took\", calc: \"sum\", over: \"10s\" },\n  on: #{ of: \"stall.cpu\", calc: \"last\", over: \"10s\" },\n  \
         busy: #{ of: \"cpu.busy\", calc: \"mean\", over: \"5s\", at: \"cpu\", by: \"on\", coverage: 0.1 }",
        r#"fn enter(w, p) { w.stalled.ms > 50.0 && w.busy.or(0.0) > 0.9 }
fn test_the_right_cpu_is_asked(t) {
  t.series("cpu.busy{cpu=0}", "0.1x30");
  t.series("cpu.busy{cpu=3}", "1x30");
  t.event("5s", "stall{cgroup=/calm}", #{ took: 100, cpu: 0 });
  t.event("5s", "stall{cgroup=/crowded}", #{ took: 100, cpu: 3 });
  t.event("5s", "stall{cgroup=/nowhere}", #{ took: 100, cpu: 77 });
  t.at("6s").on("cgroup:/calm").expect("silent");
  t.at("6s").on("cgroup:/nowhere").expect("silent");
  t.at("6s").on("cgroup:/crowded").expect("firing");
}
"#,
    ));
}

#[test]
fn how_many_are_above_a_line() {
    passes(&rule(
        "host",
        "n: #{ of: \"cpu.busy\", calc: \"mean\", over: \"5s\", across: \"cpu\", take: \"count_over\", over_line: 0.9, coverage: 0.1 },\n  \
         part: #{ of: \"cpu.busy\", calc: \"mean\", over: \"5s\", across: \"cpu\", take: \"share_over\", over_line: 0.9, coverage: 0.1 },\n  \
         most: #{ of: \"cpu.busy\", calc: \"mean\", over: \"5s\", across: \"cpu\", take: \"max\", coverage: 0.1 },\n  \
         sum: #{ of: \"cpu.busy\", calc: \"mean\", over: \"5s\", across: \"cpu\", take: \"sum\", coverage: 0.1 },\n  \
         stalls: #{ of: \"stall.took\", calc: \"sum\", over: \"5s\", across: \"cgroup\", take: \"count_over\", over_line: 20.0, coverage: 0.1 }",
        r#"fn enter(w, p) { w.n.value == 2.0 && w.part.pct == 50.0 && w.most.pct > 99.0 && w.sum.pct > 200.0 && w.stalls.value == 2.0 }
fn test_two_of_four(t) {
  t.series("cpu.busy{cpu=0}", "0.1x30");
  t.series("cpu.busy{cpu=1}", "0.1x30");
  t.series("cpu.busy{cpu=2}", "0.95x30");
  t.series("cpu.busy{cpu=3}", "0.1x4 1x25");
  t.event("4s", "stall{cgroup=/a}", #{ took: 30 });
  t.event("4s", "stall{cgroup=/b}", #{ took: 30 });
  t.event("4s", "stall{cgroup=/c}", #{ took: 10 });
  t.event("9s", "stall{cgroup=/c}", #{ took: 30 });
  t.event("9s", "stall{cgroup=/d}", #{ took: 30 });
  t.at("4s").expect("silent");
  t.at("10s").expect("firing");
}
"#,
    ));
}

#[test]
fn mistakes_are_told() {
    let codes = |windows: &str| -> Vec<&'static str> {
        let text = rule("cgroup", windows, "fn enter(w, p) { true }");
        let c = compile(&Sandbox::new(), &schema(), "t.rhai", &text, &Overrides::default());
        c.diagnostics.iter().filter(|d| d.level == Level::Error).map(|d| d.code).collect()
    };
    let a = "a: #{ of: \"stall.took\", calc: \"count\", over: \"5s\" }";
    let b = |more: &str| codes(&format!("{a}, b: #{{ of: \"stall.took\", over: \"5s\", {more} }}"));
    assert_eq!(b("calc: \"count\", after: \"a\", within: \"5s\""), Vec::<&str>::new());
    assert_eq!(b("calc: \"count\", after: \"aa\", within: \"5s\""), ["R012"]);
    assert_eq!(b("calc: \"count\", after: \"a\""), ["R005"]);
    assert_eq!(b("calc: \"count\", within: \"5s\""), ["R006"]);
    assert_eq!(b("calc: \"count\", after: \"b\", within: \"5s\""), ["R006"]);
    assert_eq!(b("calc: \"p99\", after: \"a\", within: \"5s\""), ["R008"]);
    assert_eq!(codes("a: #{ of: \"cpu.busy\", calc: \"mean\", over: \"5s\", at: \"cpu\" }"), ["R005"]);
    assert_eq!(
        codes("a: #{ of: \"cpu.busy\", calc: \"mean\", over: \"5s\", at: \"cpu\", by: \"x\" }"),
        ["R012"]
    );
    assert_eq!(b("calc: \"sum\", by: \"a\""), ["R006"]);
    let text = rule("cgroup", a, "fn enter(w, p) { w.a.overdue }");
    let c = compile(&Sandbox::new(), &schema(), "t.rhai", &text, &Overrides::default());
    assert!(c.diagnostics.iter().any(|d| d.code == "R014"), "{:?}", c.diagnostics);
}
