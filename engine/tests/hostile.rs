//! Rules that loop, allocate without end, recurse, throw or are merely many: each is stopped within its limits, reported
//! and suspended, what it found is told all the same, and other rules go on.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use whystall_engine::script::{Overrides, Rule, Sandbox, compile};
use whystall_engine::verdict::{State, Verdict};
use whystall_engine::window::Limits;
use whystall_engine::{Engine, EngineConfig, HostFacts, Phase, Problem, Schema, Source, Tick};
use whystall_event::{Batch, Field, SEC, Stamp, Stream, Subject, SubjectKind, Unit};

/// More memory than a rule may ever need for a call, and far less than one that is not stopped takes.
const MEMORY: usize = 64 << 20;

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
    ("let s = \"x\"; loop { s += s; }", "too large"),
    ("let a = [0]; loop { a.push(0); }", "too large"),
    ("let a = [0]; loop { a += a; }", "too large"),
    ("let s = \"x\"; loop { s = `${s}${s}`; }", "too large"),
    ("let m = #{}; let i = 0; loop { m[\"k\" + i] = i; i += 1; }", ""),
    ("let a = [0, 0]; loop { let b = a; a[0] = b; a[1] = b; }", ""),
    ("let m = #{ a: 0, b: 0 }; loop { let n = m; m.a = n; m.b = n; }", ""),
    ("let m = #{ a: [0] }; loop { let n = m.a; m.a.push(n); m.a.push(n); }", ""),
    ("let m = #{ a: [0] }; m.a.pad(1000000000, 0);", ""),
    ("let m = #{ s: \"x\" }; m.s.pad(1000000000, \"x\");", ""),
    ("let m = #{ s: \"x\" }; m.s.pad(16000, \"x\"); let t = m.s + \"\"; loop { m.s.replace(\"x\", t); }", ""),
    ("let m = #{ a: [] }; m.a.pad(1000, \"0123456789\"); loop { m.a.insert(0, m.a); }", ""),
    (
        "let m = #{ a: [] }; m.a.pad(1000, \"0123456789\"); let i = 0; loop { m[\"k\" + i] = m.a; i += 1; }",
        "",
    ),
    ("let n = 0; for i in 0..9223372036854775807 { n += i; }", ""),
    ("let n = 0; for i in range(0, 9000000000000000000) { n = i; }", "too many operations"),
    ("let n = deeper(1); ", "too deeply"),
    ("let z = 0; let n = 7 % z;", "zero"),
    ("let z = 0; let m = #{ a: 7 }; let n = m.a / z;", "zero"),
    ("let z = 9223372036854775807; let n = z + z;", "overflow"),
    ("throw \"enough\";", "enough"),
    ("throw #{ a: [1, 2, 3] };", ""),
    ("let m = #{ a: 5 }; m.a.nothing();", "nothing"),
    ("let m = #{ a: 5 }; let n = m.b;", ""),
    ("let a = [1]; let n = a[5];", ""),
];

const HELPER: &str = "fn deeper(x) { deeper(x) + 1 }\n";

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
        for level in [1.0, 1.0, 1.0] {
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
    for (body, says) in BODIES
        .iter()
        .skip(std::env::var("I").map_or(0, |i| i.parse().unwrap()))
        .take(std::env::var("I").map_or(99, |_| 1))
    {
        let (problems, _) =
            beside_a_good_one(&format!("fn enter(w, p) {{ {body} w.level.value > 0.5 }}\n{}", helper(body)));
        one_suspension(&problems, "`enter` failed", says);
    }
}

fn helper(body: &str) -> &'static str {
    if body.contains("deeper") { HELPER } else { "" }
}
