//! An engine's state across a restart: what fires goes on under its incident's id, and the time in between counts for
//! nothing.

#![allow(clippy::panic, clippy::unwrap_used, reason = "helpers of tests fail as loudly as tests do")]

use std::rc::Rc;
use std::sync::Arc;

use whystall_engine::script::{Overrides, Rule, Sandbox, compile};
use whystall_engine::verdict::{State, Verdict};
use whystall_engine::window::Limits;
use whystall_engine::{Engine, EngineConfig, HostFacts, Phase, Schema, Snapshot, Source, Tick};
use whystall_event::{Batch, Field, SEC, Stamp, Stream, Subject, SubjectKind, Unit};

const FIELDS: &[Field] = &[Field::gauge("level", Unit::Count, "")];
const LOAD: Stream = Stream::sampled("load", "", &[SubjectKind::Cgroup], FIELDS);
const RULE: &str = r#"//! Fires where the level is high for ten seconds.
//!
//! For tests.
const RULE = #{ id: "test.level", api: 1, severity: "warning", subject: "cgroup", needs: ["load"],
  windows: #{ level: #{ of: "load.level", calc: "last", over: "3s" } },
  fire: #{ hold: "10s" }, clear: #{ hold: "10s" } };
fn enter(w, p) { w.level.value > 5.0 }
fn leave(w, p) { w.level.value < 2.0 }
fn verdict(w, p, ctx) { cause("test.high", "low").says("it is high").evidence(w.level) }
"#;

/// One run of an engine. The wall clock goes on between runs; the other begins anew with a boot.
struct Run {
    engine: Engine,
    now: Stamp,
}

impl Run {
    fn begin(rules: bool, now: Stamp) -> Run {
        let schema = Schema::new(vec![Source {
            name: "load".into(),
            streams: vec![Arc::new(LOAD)],
            interval_ns: SEC,
            missing: None,
        }]);
        let sandbox = Rc::new(Sandbox::new());
        let compiled = compile(&sandbox, &schema, "level.rhai", RULE, &Overrides::default());
        let rule: Rc<Rule> = compiled.rule.unwrap_or_else(|| panic!("{:?}", compiled.diagnostics));
        let config =
            EngineConfig { interval_ns: SEC, limits: Limits::default(), facts: HostFacts::default() };
        let mut engine = Engine::new(config, sandbox);
        engine.load(if rules { vec![rule] } else { Vec::new() });
        Run { engine, now }
    }

    /// The run after this one, `down` seconds later, on the same boot or another; and the incidents that go on.
    fn restart(&self, down: u64, reboot: bool, rules: bool) -> (Run, Vec<String>) {
        let json = serde_json::to_string(&self.engine.snapshot(self.now)).unwrap();
        let kept: Snapshot = serde_json::from_str(&json).unwrap();
        let wall_ns = self.now.wall_ns + down * SEC;
        let boot_ns = if reboot { 20 * SEC } else { self.now.boot_ns + down * SEC };
        let mut next = Run::begin(rules, Stamp { boot_ns, wall_ns });
        let known = next.engine.restore(&kept, next.now);
        (next, known)
    }

    /// A second with this level in the control group, or without it.
    fn second(&mut self, level: Option<f64>) -> Vec<Verdict> {
        self.now = Stamp { boot_ns: self.now.boot_ns + SEC, wall_ns: self.now.wall_ns + SEC };
        if let Some(level) = level {
            let mut batch = Batch::new(Arc::new(LOAD), self.now);
            batch.row(Subject::cgroup("/a")).gauge(0, level);
            self.engine.ingest(&batch);
        }
        self.engine.tick(Tick { at: self.now, suspended_ns: 0 })
    }

    fn seconds(&mut self, n: usize, level: Option<f64>) -> Vec<Verdict> {
        (0..n).flat_map(|_| self.second(level)).collect()
    }

    fn phase(&self) -> Option<Phase> {
        self.engine.findings().first().map(|f| f.phase)
    }
}

const START: Stamp = Stamp { boot_ns: 1_000 * SEC, wall_ns: 1_800_000_000 * SEC };

#[test]
fn an_incident_goes_on_under_its_id() {
    for reboot in [false, true] {
        let mut run = Run::begin(true, START);
        let told = run.seconds(15, Some(9.0));
        assert_eq!((told.len(), told[0].state), (1, State::Firing));
        let (mut next, known) = run.restart(300, reboot, true);
        assert_eq!(known, [told[0].incident.clone()]);
        // Nothing was collected yet: unknown holds.
        assert!(next.seconds(5, None).is_empty());
        assert_eq!(next.phase(), Some(Phase::Firing));
        assert!(next.seconds(5, Some(9.0)).is_empty(), "it is no news");
        let end = next.seconds(40, Some(0.0));
        assert_eq!((end.len(), end[0].state, end[0].seq), (1, State::Resolved, 2), "reboot: {reboot}");
        assert_eq!(end[0].incident, told[0].incident);
    }
}

#[test]
fn downtime_does_not_count_as_hold() {
    let mut run = Run::begin(true, START);
    assert!(run.seconds(6, Some(9.0)).is_empty());
    assert_eq!(run.phase(), Some(Phase::Pending));
    let (mut next, known) = run.restart(3_600, false, true);
    assert!(known.is_empty());
    assert!(next.seconds(3, Some(9.0)).is_empty(), "it held for six seconds and three, not for an hour");
    assert_eq!(next.seconds(6, Some(9.0)).len(), 1);

    // The same on the way out.
    next.seconds(6, Some(0.0));
    assert_eq!(next.phase(), Some(Phase::Recovering));
    let (mut last, _) = next.restart(3_600, true, true);
    assert!(last.seconds(2, Some(0.0)).is_empty());
    assert_eq!(last.phase(), Some(Phase::Recovering));
    assert_eq!(last.seconds(20, Some(0.0))[0].state, State::Resolved);
}

#[test]
fn what_is_gone_ends_once_it_can_be_known() {
    let mut run = Run::begin(true, START);
    let told = run.seconds(15, Some(9.0));
    let (mut next, _) = run.restart(60, false, true);
    assert!(next.seconds(55, None).is_empty());
    let end = next.seconds(60, None);
    assert_eq!((end.len(), end[0].state), (1, State::Resolved));
    assert_eq!(end[0].incident, told[0].incident);
}

#[test]
fn without_its_rule_an_incident_does_not_go_on() {
    let mut run = Run::begin(true, START);
    run.seconds(15, Some(9.0));
    let (next, known) = run.restart(60, false, false);
    assert!(known.is_empty() && next.engine.open_incidents() == 0);
    let (empty, _) = Run::begin(true, START).restart(60, false, true);
    assert_eq!(empty.engine.state_mark(), Run::begin(true, START).engine.state_mark());
}
