//! Whole histories judged twice: by lowered conditions and by the interpreter. Resets, gaps, a machine that sleeps and
//! subjects that come and go must lead to the same verdicts at the same ticks.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as loudly as tests do")]

use std::rc::Rc;
use std::sync::Arc;

use proptest::prelude::*;
use whystall_engine::script::{Overrides, Sandbox, compile};
use whystall_engine::window::Limits;
use whystall_engine::{Engine, EngineConfig, HostFacts, Schema, Source, Tick};
use whystall_event::{Batch, Field, SEC, Stamp, Stream, Subject, SubjectKind, Unit};

const CPUS: usize = 3;

fn streams() -> [Arc<Stream>; 2] {
    const CPU: &[SubjectKind] = &[SubjectKind::Cpu];
    const FIELDS: &[Field] =
        &[Field::counter("errors", Unit::Count, ""), Field::gauge("level", Unit::None, "")];
    const THINGS: &[Field] = &[Field::duration("took", "")];
    [Arc::new(Stream::sampled("s", "", CPU, FIELDS)), Arc::new(Stream::occurrences("o", "", CPU, THINGS))]
}

/// An engine with the rule; with `loops` its conditions run in the interpreter.
fn engine(loops: bool) -> Engine {
    let slow = if loops { "for i in 0..1 { let x = i; }" } else { "" };
    let text = format!(
        r#"//! A page.
const RULE = #{{ id: "a.b", api: 1, severity: "info", subject: "cpu",
  params: #{{ line: #{{ value: 20.0, help: "h" }} }},
  windows: #{{ rate: #{{ of: "s.errors", calc: "rate", over: "3s" }}, level: #{{ of: "s.level", calc: "baseline", over: "5s", coverage: 0.2 }},
    peak: #{{ of: "s.level", calc: "max", over: "4s" }}, took: #{{ of: "o.took", calc: "sum", over: "5s", after: "rate", within: "3s" }},
    all: #{{ of: "s.errors", calc: "rate", over: "3s", across: "cpu", take: "count_over", over_line: 20.0 }} }},
  fire: #{{ hold: "1s" }}, clear: #{{ hold: "2s" }} }};
fn ratio(a, b) {{ a / b }}
fn enter(w, p) {{
  {slow}
  if w.took.overdue {{ return true; }}
  let r = ratio(w.rate.value, w.peak.or(0.0));
  w.rate.value > p.line && (r > 1.5 || w.level.sigma > 1.0) || w.took.ms > 30.0 && w.all.value < 2.0
}}
fn leave(w, p) {{ {slow} w.rate.value < 0.5 * p.line && !(w.took.or(0.0) > 10.0) }}
"#
    );
    let source = |s: Arc<Stream>| Source {
        name: s.name.to_string(),
        streams: vec![s],
        interval_ns: SEC,
        missing: None,
    };
    let schema = Schema::new(streams().map(source).to_vec());
    let sandbox = Rc::new(Sandbox::new());
    let compiled = compile(&sandbox, &schema, "t", &text, &Overrides::default());
    let rule = compiled.rule.unwrap_or_else(|| unreachable!("{:?}", compiled.diagnostics));
    assert_eq!(rule.is_lowered(), !loops);
    let facts = HostFacts::default();
    let mut engine =
        Engine::new(EngineConfig { interval_ns: SEC, limits: Limits::default(), facts }, sandbox);
    engine.load(vec![rule]);
    engine
}

#[derive(Debug, Clone)]
struct Second {
    /// For each CPU: growth (none is a gap, negative a reset), level (NaN too), and what took how long.
    cpus: Vec<(Option<i32>, Option<f64>, u32)>,
    gone: Option<u32>,
    slept: bool,
}

fn seconds() -> impl Strategy<Value = Vec<Second>> {
    let growth = prop_oneof![4 => (0i32..60).prop_map(Some), 1 => Just(Some(-1)), 1 => Just(None)];
    let level = prop_oneof![
        5 => (-5.0f64..30.0).prop_map(Some),
        1 => Just(Some(0.0)),
        1 => Just(Some(f64::NAN)),
        1 => Just(None)
    ];
    let took = prop_oneof![3 => Just(0u32), 1 => 1u32..60];
    let second = (prop::collection::vec((growth, level, took), CPUS), 0..30u32, 0..40u32).prop_map(
        |(cpus, gone, slept)| Second { cpus, gone: (gone < CPUS as u32).then_some(gone), slept: slept == 0 },
    );
    prop::collection::vec(second, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn histories_give_the_same_verdicts(seconds in seconds()) {
        let mut engines = [engine(false), engine(true)];
        let [sampled, things] = streams();
        let mut counts = [1000u64; CPUS];
        let mut now = 1000 * SEC;
        for s in &seconds {
            now += if s.slept { 3600 * SEC } else { SEC };
            let at = Stamp { boot_ns: now, wall_ns: now };
            let (mut a, mut b) = (Batch::new(sampled.clone(), at), Batch::new(things.clone(), at));
            for (n, (growth, level, took)) in s.cpus.iter().enumerate() {
                let subject = Subject::Cpu(n as u32);
                if let Some(g) = growth {
                    counts[n] = if *g < 0 { 3 } else { counts[n] + *g as u64 };
                    a.row(subject.clone()).int(0, counts[n]);
                }
                if let Some(x) = level {
                    a.row(subject.clone()).gauge(1, *x);
                }
                if *took > 0 {
                    b.row(subject).int(0, u64::from(*took) * 1_000_000);
                }
            }
            a.gone.extend(s.gone.map(Subject::Cpu));
            let slept = if s.slept { 3599 * SEC } else { 0 };
            let told = engines.each_mut().map(|e| {
                e.ingest(&a);
                e.ingest(&b);
                let told = e.tick(Tick { at, suspended_ns: slept });
                let told: Vec<_> = told.into_iter().map(|v| (v.rule, v.subject, v.state, v.started_at)).collect();
                (told, e.findings(), e.take_problems())
            });
            prop_assert_eq!(&told[0], &told[1]);
            prop_assert!(told[0].2.is_empty(), "{:?}", told[0].2);
        }
    }
}
