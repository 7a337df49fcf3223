//! Rules that loop, allocate without end, recurse, throw or are merely many: each is stopped within its limits, reported
//! and suspended, what it found is told all the same, and other rules go on.

#![allow(clippy::panic, clippy::unwrap_used, reason = "helpers of tests fail as loudly as tests do")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use whystall_engine::script::{Overrides, Rule, Sandbox, compile, run_tests};
use whystall_engine::verdict::{State, Verdict};
use whystall_engine::window::Limits;
use whystall_engine::{Engine, EngineConfig, HostFacts, Phase, Problem, Schema, Source, Tick};
use whystall_event::{Batch, Field, SEC, Stamp, Stream, Subject, SubjectKind, Unit};

/// More memory than a rule may ever need, and far less than one that is not stopped takes.
const MEMORY: usize = 128 << 20;

/// The system's allocator, counting the bytes that this thread holds.
struct Counting;

thread_local! {
    static HELD: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

fn took(size: usize) {
    HELD.set(HELD.get().wrapping_add(size));
    PEAK.set(PEAK.get().max(HELD.get()));
}

// SAFETY: every call goes to the system's allocator as it came; counting touches no memory of the allocation.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        took(layout.size());
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        HELD.set(HELD.get().saturating_sub(layout.size()));
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        HELD.set(HELD.get().saturating_sub(layout.size()));
        took(size);
        // SAFETY: as the caller promises.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Runs `f` and fails if it held more than [`MEMORY`] at any time.
#[track_caller]
fn bounded<T>(what: &str, f: impl FnOnce() -> T) -> T {
    let before = HELD.get();
    PEAK.set(before);
    let result = f();
    let peak = PEAK.get().saturating_sub(before);
    assert!(peak < MEMORY, "{what} held {} MiB", peak >> 20);
    result
}

/// What scripts do that they should not, and what is said about it.
const BODIES: &[(&str, &str)] = &[
    ("loop { }", "too many operations"),
    ("let x = 0; while x < 1 { x *= 1; }", "too many operations"),
    ("let n = 0; for i in range(0, 9000000000000000000) { n = i; }", "too many operations"),
    ("let n = 0; for i in 0..9223372036854775807 { n += i; }", ""),
    ("let s = \"x\"; loop { s += s; }", "too large"),
    ("let s = \"x\"; loop { s = `${s}${s}`; }", "too large"),
    ("let a = [0]; loop { a.push(0); }", "too large"),
    ("let a = [0]; loop { a += a; }", "too large"),
    ("let a = [0, 0]; loop { let b = a; a[0] = b; a[1] = b; }", ""),
    ("let m = #{ a: [0] }; loop { let n = m.a; m.a.push(n); m.a.push(n); }", "too large"),
    ("let m = #{}; let i = 0; loop { m[\"k\" + i] = i; i += 1; }", ""),
    ("let m = #{ a: 0, b: 0 }; loop { let n = m; m.a = n; m.b = n; }", ""),
    ("let n = deeper(1); ", "too deeply"),
    ("let n = wider(#{ a: [0, 1, 2, 3, 4, 5, 6, 7] }, 0);", ""),
    ("let z = 0; let n = 7 % z;", "zero"),
    ("let z = 0; let m = #{ a: 7 }; let n = m.a / z;", "zero"),
    ("let z = 9223372036854775807; let n = z + z;", "overflow"),
    ("if true { throw \"enough\"; }", "enough"),
    ("if true { throw #{ a: [1, 2, 3] }; }", ""),
    ("let m = #{ a: 5 }; let n = m.b;", ""),
    ("let a = [1]; let n = a[5];", ""),
    ("let m = #{ a: 5 }; if m.a { }", ""),
];

/// Functions that some of these call.
fn helper(body: &str) -> &'static str {
    match body {
        b if b.contains("deeper") => "fn deeper(x) { deeper(x) + 1 }\n",
        // Each level holds as much as it may.
        b if b.contains("wider") => {
            "fn wider(m, n) { m[\"k\" + n] = m.a; let a = m; let b = m; let c = m; wider(m, n + 1) + wider(a, n + 1) }\n"
        }
        _ => "",
    }
}

fn schema() -> Schema {
    const KINDS: &[SubjectKind] = &[SubjectKind::Host, SubjectKind::Cpu, SubjectKind::Cgroup];
    const FIELDS: &[Field] = &[Field::gauge("level", Unit::Count, "")];
    let load = Arc::new(Stream::sampled("load", "", KINDS, FIELDS));
    Schema::new(vec![Source { name: "load".into(), streams: vec![load], interval_ns: SEC, missing: None }])
}

/// A rule's text: its id, further keys of RULE, its functions.
fn text(id: &str, keys: &str, functions: &str) -> String {
    format!(
        "//! Page of {id}.\nconst RULE = #{{ id: \"{id}\", api: 1, severity: \"warning\", subject: \"cgroup\", {keys}\n\
         windows: #{{ level: #{{ of: \"load.level\", calc: \"last\", over: \"5s\" }} }},\n\
         fire: #{{ hold: \"0s\" }}, clear: #{{ hold: \"0s\" }} }};\n{functions}"
    )
}

const ENTER: &str = "fn enter(w, p) { w.level.value > 0.5 }\n";

#[track_caller]
fn load(sandbox: &Sandbox, text: &str) -> Rc<Rule> {
    let compiled = compile(sandbox, &schema(), "t.rhai", text, &Overrides::default());
    let told: Vec<String> = compiled.diagnostics.iter().map(ToString::to_string).collect();
    compiled.rule.unwrap_or_else(|| panic!("{}\n{text}", told.concat()))
}

struct Host {
    engine: Engine,
    sandbox: Rc<Sandbox>,
    at: u64,
}

impl Host {
    fn new(texts: &[String]) -> Host {
        let sandbox = Rc::new(Sandbox::new());
        let facts = HostFacts { host: "h".into(), ..HostFacts::default() };
        let config = EngineConfig { interval_ns: SEC, limits: Limits::default(), facts };
        let mut host = Host { engine: Engine::new(config, sandbox.clone()), sandbox, at: 1000 };
        host.load(texts);
        host
    }

    fn load(&mut self, texts: &[String]) {
        let rules = texts.iter().map(|t| load(&self.sandbox, t)).collect();
        self.engine.load(rules);
    }

    /// A second passes, in which these subjects have `level`.
    fn second(&mut self, subjects: &[Subject], level: f64) -> Vec<Verdict> {
        self.at += 1;
        let at = Stamp { boot_ns: self.at * SEC, wall_ns: (1_767_225_600 + self.at) * SEC };
        let stream = schema().streams().next().unwrap().1.clone();
        let mut batch = Batch::new(stream, at);
        for s in subjects {
            batch.row(s.clone()).gauge(0, level);
        }
        self.engine.ingest(&batch);
        self.engine.tick(Tick { at, suspended_ns: 0 })
    }

    fn firing(&self, rule: &str) -> usize {
        self.engine.findings().iter().filter(|f| f.rule == rule && f.phase == Phase::Firing).count()
    }
}

fn cgroups(n: usize) -> Vec<Subject> {
    (0..n).map(|i| Subject::cgroup(format!("/c{i}"))).collect()
}

/// Runs a hostile rule beside a good one over two subjects; returns its problems and all verdicts.
#[track_caller]
fn beside_a_good_one(functions: &str) -> (Vec<Problem>, Vec<Verdict>) {
    let texts = [text("bad.rule", "", functions), text("good.rule", "", ENTER)];
    bounded(functions, || {
        let mut host = Host::new(&texts);
        let (subjects, mut verdicts, mut problems) = (cgroups(2), Vec::new(), Vec::new());
        for level in [1.0; 5] {
            verdicts.extend(host.second(&subjects, level));
            problems.extend(host.engine.take_problems());
        }
        assert_eq!(host.firing("good.rule"), 2, "the other rule goes on beside {functions}");
        (problems, verdicts)
    })
}

#[track_caller]
fn one_suspension(problems: &[Problem], place: &str, says: &str) {
    let [p] = problems else { panic!("{problems:?}") };
    assert_eq!(p.rule, "bad.rule");
    assert!(p.what.starts_with("suspended for 1m: ") && p.what.contains(place), "{}", p.what);
    assert!(p.what.contains(says), "`{says}` is not in {}", p.what);
}

#[test]
fn in_enter() {
    for (body, says) in BODIES {
        let (problems, _) =
            beside_a_good_one(&format!("fn enter(w, p) {{ {body} w.level.value > 0.5 }}\n{}", helper(body)));
        one_suspension(&problems, "`enter` failed", says);
    }
}

#[test]
fn in_leave() {
    for (body, says) in BODIES {
        let leave = format!("{ENTER}fn leave(w, p) {{ {body} w.level.value < 0.5 }}\n{}", helper(body));
        let (problems, verdicts) = beside_a_good_one(&leave);
        one_suspension(&problems, "`leave` failed", says);
        // It fired, and what fires does not end because a rule is broken.
        assert_eq!(verdicts.iter().filter(|v| v.rule == "bad.rule").count(), 2);
    }
}

#[test]
fn in_verdict() {
    for (body, says) in BODIES {
        let verdict = format!("{ENTER}fn verdict(w, p, ctx) {{ {body} cause(\"x.y\") }}\n{}", helper(body));
        let (problems, verdicts) = beside_a_good_one(&verdict);
        one_suspension(&problems, "`verdict` failed", says);
        // Both findings are told, with what is certain.
        let told: Vec<&Verdict> = verdicts.iter().filter(|v| v.rule == "bad.rule").collect();
        assert_eq!(told.len(), 2, "{body}");
        for v in told {
            assert_eq!((v.cause.as_str(), v.state), ("bad.rule", State::Firing));
            assert!(v.summary.starts_with("Page of bad (its verdict failed: "), "{}", v.summary);
        }
    }
}

#[test]
fn in_tests() {
    for (body, says) in BODIES {
        let text = text("bad.rule", "", &format!("{ENTER}fn test_x(t) {{ {body} }}\n{}", helper(body)));
        let compiled =
            bounded(body, || compile(&Sandbox::new(), &schema(), "t.rhai", &text, &Overrides::default()));
        assert!(compiled.rule.is_none(), "{body}");
        let told: String =
            compiled.diagnostics.iter().filter(|d| d.code == "R033").map(|d| d.to_string()).collect();
        assert!(told.contains("`test_x`: ") && told.contains(says), "{told}");
    }
}

#[test]
fn results_of_the_wrong_type() {
    for (result, says) in [("m.number", "not true or false"), ("m.text", "not true or false"), ("m.none", "")]
    {
        let body = format!("let m = #{{ number: 5, text: \"x\", none: () }}; {result}");
        let (problems, _) = beside_a_good_one(&format!("fn enter(w, p) {{ {body} }}"));
        one_suspension(&problems, "`enter` failed", says);
        let (problems, verdicts) = beside_a_good_one(&format!("{ENTER}fn verdict(w, p, ctx) {{ {body} }}"));
        one_suspension(&problems, "`verdict` failed", "");
        assert_eq!(verdicts.len(), 4);
    }
}

/// Rhai's own methods are out of reach, whatever the checker knows of a value: limits do not hold inside of them.
#[test]
fn methods_beyond_those_offered_are_refused() {
    for call in [
        "m.s.replace(\"x\", m.s)",
        "m.s.pad(1000000000, \"x\")",
        "m.a.pad(1000000000, 0)",
        "m.a.insert(0, m.a)",
        "m.a.dedup()",
        "m.a.sort()",
        "m.nothing.call(1)",
        "m.a.map(\"enter\")",
    ] {
        let functions =
            format!("fn enter(w, p) {{ let m = #{{ s: \"x\", a: [] }}; {call}; w.level.value > 0.5 }}");
        let text = text("bad.rule", "", &functions);
        let compiled = compile(&Sandbox::new(), &schema(), "t.rhai", &text, &Overrides::default());
        assert!(compiled.diagnostics.iter().any(|d| d.code == "R015"), "{call}");
    }
}

/// A conclusion has an end, and so has what a call can begin.
#[test]
fn conclusions_without_end() {
    let long = "let s = \"x\"; for i in 0..12 { s += s; }\n";
    let fill =
        "loop { c.hint(s, [s], s).rules_out(s, s).touches(s).culprit(#{ comm: s, cgroup: s, name: s }); }";
    let full =
        format!("{ENTER}fn verdict(w, p, ctx) {{ {long} let c = cause(s); for i in 0..100 {} }}", &fill[5..]);
    let full = full.replace("} }", "} c }");
    let texts = [text("good.rule", "", &full)];
    bounded("full conclusions", || {
        let mut host = Host::new(&texts);
        let verdicts: Vec<Verdict> = (0..3).flat_map(|_| host.second(&cgroups(200), 1.0)).collect();
        assert_eq!((verdicts.len(), host.engine.take_problems()), (200, vec![]));
        assert!(
            verdicts
                .iter()
                .all(|v| v.culprits.iter().all(|a| a.comm.as_ref().is_some_and(|c| c.len() < 9000)))
        );
    });
    let many = format!(
        "{ENTER}fn verdict(w, p, ctx) {{ {long} let a = []; loop {{ a.push(cause(s)); }} cause(s) }}"
    );
    one_suspension(&beside_a_good_one(&many).0, "`verdict` failed", "16 times");
}

#[test]
fn tests_that_ask_for_too_much() {
    let all = "t.series(\"load.level{cgroup=/a}\", \"0x99999\"); t.at(\"9s\").expect(\"silent\");";
    for (body, says) in [
        (format!("{all} {all} {all} {all}"), "300000 values"),
        ("loop { t.param(\"x\", 1.0); }".into(), "1000 things"),
        ("let s = \"x\"; for i in 0..13 { s += s; } loop { t.series(s, s); }".into(), "1 MiB"),
        ("loop { let c = t.at(\"1s\"); }".into(), "1000 things"),
        (all.replace("9s", "999999s"), "100000 ticks"),
        ("t.interval(\"8900000000s\"); t.at(\"8950000000s\").expect(\"firing\");".into(), ""),
    ] {
        let text = text("a.test", "", &format!("{ENTER}fn test_x(t) {{ {body} }}"));
        let sandbox = Rc::new(Sandbox::new());
        let compiled =
            bounded(&body, || compile(&sandbox, &schema(), "t.rhai", &text, &Overrides::default()));
        let told: String = compiled.diagnostics.iter().map(|d| d.to_string()).collect();
        assert!(told.contains(says), "`{says}` is not in {told}");
        if let Some(rule) = compiled.rule {
            assert_eq!(run_tests(&rule, &text, &sandbox, &schema())[0].failures.len(), 1);
        }
    }
    // A day of an interpreted rule that takes long.
    let slow = "fn enter(w, p) { let n = 0.0; for i in 0..900 { n += w.level.or(1.0); } n > 9e9 }\n";
    let day = "fn test_x(t) { t.series(\"load.level{cgroup=/a}\", \"1x86000\"); t.at(\"86000s\").expect(\"silent\"); }";
    let text = text("a.test", "", &format!("{slow}{day}"));
    let sandbox = Rc::new(Sandbox::new());
    let outcomes = run_tests(&load(&sandbox, &text), &text, &sandbox, &schema());
    assert!(outcomes[0].failures[0].1.contains("too many operations"), "{outcomes:?}");
}

/// Names of control groups are not the rule's author's choice.
#[test]
fn the_longest_names_break_no_verdict() {
    let verdict = "fn verdict(w, p, ctx) {\n  cause(\"x.y\").says(`${ctx.subject} and ${ctx.parent}`)\
                   .culprits(ctx.top(\"level\", 32)).hint(\"x\", [\"systemctl\", \"stop\", ctx.path]) }";
    let subjects: Vec<Subject> =
        (0..40).map(|i| Subject::cgroup(format!("/{i}{}", "/\u{1b}\u{202e}\"'\n".repeat(500)))).collect();
    let mut host = Host::new(&[text("a.top", "", &format!("{ENTER}{verdict}"))]);
    let verdicts: Vec<Verdict> = (0..3).flat_map(|_| host.second(&subjects, 1.0)).collect();
    // They name each other, so they are one incident.
    assert_eq!((verdicts.len(), host.engine.take_problems()), (1, vec![]));
    let v = &verdicts[0];
    assert_eq!((host.firing("a.top"), v.culprits.is_empty()), (40, false));
    // A command is whole or not there.
    assert_eq!(v.hints[0].command.as_ref().unwrap()[2], v.subject.strip_prefix("cgroup:").unwrap());
}

/// The checker and the lowering look into calls; neither the stack nor time may end before they do.
#[test]
fn files_that_are_hard_to_check() {
    let statements = |s: &str, n: usize| format!("fn enter(w, p) {{ {} w.level.value > 0.5 }}", s.repeat(n));
    let types = ["1", "1.0", "\"x\"", "true", "[]", "#{}", "w", "p", "w.level"];
    let calls: String = types.iter().map(|t| format!("f({t}, a, b, c, d, e); ")).collect();
    let chain: String =
        (0..100).map(|i| format!("fn f{i}(x) {{ f{}(x) + f{}(x) }}\n", i + 1, i + 1)).collect();
    for functions in [
        statements("hm(); ", 30_000),
        statements("hm();\n", 30_000),
        statements("\"a\"; ", 1_000),
        statements("if w.level.value > 9.0 { return true; } ", 900),
        statements("let x = 1.0; ", 300),
        format!("fn enter(w, p) {{ w.level.value > {} }}", ["1.0"; 3_000].join(" + ")),
        format!("fn enter(w, p) {{ {} }}", ["w.level.value > 1.0"; 3_000].join(" || ")),
        format!("fn enter(w, p) {{ w.level{} > 1.0 }}", ".value".repeat(3_000)),
        format!("fn enter(w, p) {{ {} {{ true }} }}", "if true { false } else ".repeat(3_000)),
        format!("{ENTER}fn verdict(w, p, ctx) {{ cause(\"x\"){} }}", ".says(\"a\")".repeat(3_000)),
        format!("fn enter(w, p) {{ f(1, 1, 1, 1, 1, 1) }} fn f(a, b, c, d, e, f) {{ {calls} true }}"),
        format!("fn enter(w, p) {{ f0(w.level.value) > 0.5 }}\n{chain}fn f100(x) {{ x }}"),
    ] {
        let text = text("a.file", "", &functions);
        let compiled = bounded(&functions[..90], || {
            compile(&Sandbox::new(), &schema(), "t.rhai", &text, &Overrides::default())
        });
        assert!(compiled.diagnostics.len() <= 300);
    }
    let windows: String =
        (0..65).map(|i| format!("w{i}: #{{ of: \"load.level\", calc: \"p99\", over: \"9d\" }}, ")).collect();
    let text = text("a.b", "", ENTER).replace("level: #", &format!("{windows} level: #"));
    let compiled = compile(&Sandbox::new(), &schema(), "t.rhai", &text, &Overrides::default());
    assert!(compiled.diagnostics.iter().any(|d| d.message.contains("a rule may have 64")));
}

#[test]
fn a_rule_that_must_look_at_everything_is_stopped() {
    let slow = "fn enter(w, p) { let n = 0.0; for i in 0..200 { n += w.level.or(1.0); } n > 9e9 }\n";
    let mut host = Host::new(&[text("bad.rule", "", slow), text("good.rule", "", ENTER)]);
    let subjects = cgroups(10_000);
    for _ in 0..3 {
        host.second(&subjects, 0.1);
        host.second(&subjects[..2], 1.0);
    }
    one_suspension(&host.engine.take_problems(), "more operations than a tick may cost", "`wake`");
    assert_eq!(host.firing("good.rule"), 2);
}

/// Verdicts cost what a tick has left; what is over is told in short and then in full.
#[test]
fn a_thousand_findings_at_once() {
    let verdict = "fn verdict(w, p, ctx) { for i in 0..3000 { } cause(\"x.y\", \"high\").says(\"z\") }";
    let mut host = Host::new(&[text("a.many", "", &format!("{ENTER}{verdict}"))]);
    let subjects = cgroups(1_000);
    let first: Vec<Verdict> = (0..3).flat_map(|_| host.second(&subjects, 1.0)).collect();
    assert_eq!((first.len(), host.engine.open_incidents(), host.engine.overflow()), (1_000, 1_000, 0));
    let full = |v: &&Verdict| v.cause == "x.y";
    assert!((1..1_000).contains(&first.iter().filter(full).count()));
    let mut told = first.iter().filter(full).count();
    for _ in 0..10 {
        let updates = host.second(&subjects, 1.0);
        assert!(updates.iter().all(|v| v.state == State::Updated));
        told += updates.iter().filter(full).count();
    }
    assert_eq!((told, host.engine.take_problems()), (1_000, vec![]));
    // Told once nothing can join any more: five seconds after the last finding.
    let resolved: Vec<Verdict> = (0..9).flat_map(|_| host.second(&subjects, 0.0)).collect();
    assert_eq!((resolved.len(), host.engine.open_incidents()), (1_000, 0));
}

#[test]
fn rules_that_explain_each_other() {
    let explains = |rule: &str| format!("explains: [#{{ rule: \"{rule}\", when: \"host\" }}],");
    let texts = [("a.a", "b.b"), ("b.b", "c.c"), ("c.c", "a.a"), ("d.d", "d.d")]
        .map(|(id, other)| text(id, &explains(other), ENTER));
    let run = || {
        let mut host = Host::new(&texts);
        let verdicts: Vec<Verdict> = (0..3).flat_map(|_| host.second(&cgroups(3), 1.0)).collect();
        // A ring of three rules, and one that explains itself: its findings about three subjects.
        let mut links: Vec<(usize, &str)> =
            verdicts.iter().map(|v| (v.chain.len(), v.rule.as_str())).collect();
        links.sort_unstable();
        assert_eq!(links, [(3, "d.d"), (9, "a.a")]);
        serde_json::to_string(&verdicts).unwrap()
    };
    assert_eq!(run(), run());
}

/// The same batches give the same verdicts, to the letter, also where scripts fail.
#[test]
fn twice_is_the_same() {
    let run = || {
        let failing = format!("{ENTER}fn verdict(w, p, ctx) {{ loop {{ }} cause(\"x\") }}");
        let top = format!("{ENTER}fn verdict(w, p, ctx) {{ cause(\"x\").culprits(ctx.top(\"level\", 9)) }}");
        let keys = "explains: [#{ rule: \"a.top\", when: \"same_cgroup\" }],";
        let mut host = Host::new(&[text("a.failing", keys, &failing), text("a.top", "", &top)]);
        let subjects: Vec<Subject> = (0..50).map(|i| Subject::cgroup(format!("/{}/{i}", i % 7))).collect();
        let mut out = String::new();
        for i in 0..20 {
            let (above, below) = subjects.split_at(i * 2);
            out += &serde_json::to_string(&host.second(above, 1.0)).unwrap();
            out += &serde_json::to_string(&host.second(below, 0.0)).unwrap();
        }
        assert!(out.contains("firing") && out.contains("resolved"));
        out
    };
    assert_eq!(run(), run());
}

#[test]
fn reloading_keeps_and_removing_withdraws() {
    let text_of = |line: &str| text("a.rule", "", &ENTER.replace("0.5", line));
    let mut host = Host::new(&[text_of("0.5"), text("b.rule", "", ENTER)]);
    let subjects = cgroups(2);
    let fired: Vec<Verdict> = (0..3).flat_map(|_| host.second(&subjects, 1.0)).collect();
    assert_eq!(fired.len(), 4);
    // The same rule, then one with the same id and windows: neither ends a finding nor begins it anew.
    for line in ["0.5", "0.7"] {
        host.load(&[text_of(line), text("b.rule", "", ENTER)]);
        assert_eq!((host.second(&subjects, 1.0), host.firing("a.rule")), (vec![], 2));
    }
    host.load(&[text_of("0.7")]);
    let gone = host.second(&subjects, 1.0);
    assert_eq!(gone.len(), 2);
    for v in &gone {
        assert_eq!((v.rule.as_str(), v.state, v.seq), ("b.rule", State::Withdrawn, 2));
        assert!(fired.iter().any(|f| f.incident == v.incident));
    }
    assert_eq!((host.firing("a.rule"), host.engine.open_incidents()), (2, 2));
}

/// A recording's header says how long an interval is, and whoever wrote it may say anything.
#[test]
fn strange_intervals() {
    let windows = "a: #{ of: \"load.level\", calc: \"p99\", over: \"360d\" }, b: #{ of: \"load.level\", calc: \"mean\", over: \"2s\" },";
    let text = text("a.long", "", ENTER).replace("level: #", &format!("{windows} level: #"));
    for interval_ns in [0, 1, 1000, 3600 * SEC, 1 << 62, u64::MAX] {
        bounded(&format!("an interval of {interval_ns} ns"), || {
            let sandbox = Rc::new(Sandbox::new());
            let config = EngineConfig { interval_ns, limits: Limits::default(), facts: HostFacts::default() };
            let mut host = Host { engine: Engine::new(config, sandbox.clone()), sandbox, at: 1000 };
            host.load(std::slice::from_ref(&text));
            for _ in 0..20 {
                host.second(&cgroups(100), 1.0);
            }
            // Time that goes back, stands still or has no end.
            for boot_ns in [0, 5, 5, u64::MAX, u64::MAX, 7] {
                let at = Stamp { boot_ns, wall_ns: u64::MAX };
                host.engine.tick(Tick { at, suspended_ns: u64::MAX });
            }
            host.at = 9_000_000_000;
            host.second(&cgroups(100), 1.0);
        });
    }
}
