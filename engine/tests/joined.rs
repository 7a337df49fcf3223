//! Several rules together: late evidence, and findings that are kept silent.

#![allow(clippy::panic, clippy::unwrap_used, reason = "helpers of tests fail as loudly as tests do")]

use std::rc::Rc;
use std::sync::Arc;

use whystall_engine::script::{Overrides, Sandbox, compile};
use whystall_engine::window::Limits;
use whystall_engine::{Candidate, Engine, EngineConfig, Except, HostFacts, Schema, Source, Tick};
use whystall_event::{Batch, Field, SEC, Stamp, Stream, Subject, SubjectKind, Unit};

/// A leak that is harmless until walks get slow, and says so.
const LEAK: &str = r#"//! A leak.
const RULE = #{ id: "a.leak", api: 1, severity: "warning", subject: "host",
  windows: #{ leaked: #{ of: "s.leaked", calc: "last", over: "5s" }, slow: #{ of: "s.slow", calc: "max", over: "5s" } },
  clear: #{ hold: "3s" },
  explains: [#{ rule: "b.late", when: "host" }] };
fn enter(w, p) { w.leaked.value > 10.0 }
fn verdict(w, p, ctx) {
  let v = cause("leak", "high").says("it leaks").evidence(w.leaked).rules_out("steal", "none");
  if w.slow.value < 50.0 { v.rules_out("late", "nothing is slow"); }
  v
}
"#;
const LATE: &str = r#"//! Something is late.
const RULE = #{ id: "b.late", api: 1, severity: "critical", subject: "host",
  windows: #{ slow: #{ of: "s.slow", calc: "max", over: "5s" } },
  clear: #{ hold: "3s" } };
fn enter(w, p) { w.slow.value > 100.0 }
fn verdict(w, p, ctx) { cause("late", "high").says("late").evidence(w.slow).rules_out("steal", "none") }
"#;

struct World {
    engine: Engine,
    stream: Arc<Stream>,
    now: u64,
}

impl World {
    fn new(sources: &[&str]) -> World {
        const FIELDS: &[Field] =
            &[Field::gauge("leaked", Unit::None, ""), Field::gauge("slow", Unit::None, "")];
        let stream = Arc::new(Stream::sampled("s", "", &[SubjectKind::Host], FIELDS));
        let source =
            Source { name: "s".into(), streams: vec![stream.clone()], interval_ns: SEC, missing: None };
        let (schema, sandbox) = (Schema::new(vec![source]), Rc::new(Sandbox::new()));
        let rule = |text: &&str| {
            let compiled = compile(&sandbox, &schema, "t.rhai", text, &Overrides::default());
            compiled.rule.unwrap_or_else(|| panic!("{:?}", compiled.diagnostics))
        };
        let rules = sources.iter().map(rule).collect();
        let config =
            EngineConfig { interval_ns: SEC, limits: Limits::default(), facts: HostFacts::default() };
        let mut engine = Engine::new(config, sandbox);
        engine.load(rules);
        World { engine, stream, now: 0 }
    }

    /// Seconds with these values; what was told.
    fn run(&mut self, seconds: u64, leaked: f64, slow: f64) -> Vec<String> {
        let mut told = Vec::new();
        for _ in 0..seconds {
            self.now += 1;
            let at = Stamp { boot_ns: self.now * SEC, wall_ns: self.now * SEC };
            let mut batch = Batch::new(self.stream.clone(), at);
            batch.row(Subject::Host).gauge(0, leaked).gauge(1, slow);
            self.engine.ingest(&batch);
            for v in self.engine.tick(Tick { at, suspended_ns: 0 }) {
                let chain: Vec<&str> = v.chain.iter().map(|l| l.rule.as_str()).collect();
                told.push(format!("{:?} {}", v.state, chain.join(" > ")));
            }
        }
        told
    }
}

#[test]
fn what_may_explain_a_new_finding_is_concluded_again_at_once() {
    for rules in [[LEAK, LATE], [LATE, LEAK]] {
        let mut w = World::new(&rules);
        assert_eq!(w.run(40, 20.0, 1.0), ["Firing a.leak"], "long ago it ruled out that anything is slow");
        assert_eq!(w.run(10, 20.0, 300.0), ["Updated a.leak > b.late"]);
        assert_eq!(w.run(20, 0.0, 0.0), ["Resolved a.leak > b.late"]);
    }
}

/// Keeps silent about one rule until a second.
#[derive(Debug)]
struct Until(&'static str, u64);

impl Except for Until {
    fn excepts(&mut self, f: &Candidate<'_>, at: Stamp) -> bool {
        f.rule == self.0 && at.wall_ns < self.1 * SEC
    }
}

#[test]
fn a_finding_that_is_kept_silent_joins_nothing() {
    let mut w = World::new(&[LEAK, LATE]);
    w.engine.except(Some(Box::new(Until("a.leak", u64::MAX / SEC))));
    assert_eq!(w.run(20, 20.0, 1.0), [""; 0]);
    assert_eq!((w.engine.excepted(), w.engine.open_incidents()), (1, 0));
    assert_eq!(w.run(5, 20.0, 300.0), ["Firing b.late"], "the other is told without it");
    assert_eq!(w.run(20, 0.0, 0.0), ["Resolved b.late"]);
    assert_eq!(w.engine.excepted(), 0);
}

#[test]
fn what_an_exception_no_longer_covers_is_told() {
    let mut w = World::new(&[LEAK, LATE]);
    w.engine.except(Some(Box::new(Until("a.leak", 30))));
    assert_eq!(w.run(29, 20.0, 300.0), ["Firing b.late"]);
    assert_eq!(w.run(15, 20.0, 300.0), ["Updated a.leak > b.late"], "it expired, and is the root");
    assert_eq!(w.run(20, 0.0, 0.0), ["Resolved a.leak > b.late"]);
}
