//! A week on the virtual clock: cgroups come and go all the time, findings open and close, and what is held after the
//! last day is what was held after the first.

use std::rc::Rc;
use std::sync::Arc;

use whystall_engine::script::{Overrides, Sandbox, compile};
use whystall_engine::window::Limits;
use whystall_engine::{Engine, EngineConfig, HostFacts, Schema, Source, Tick};
use whystall_event::{Batch, Field, SEC, Stamp, Stream, Subject, SubjectKind, Unit};

/// A tick each 20 s, so that a week is some thirty thousand.
const INTERVAL: u64 = 20 * SEC;
const DAY: usize = (86_400 * SEC / INTERVAL) as usize;

#[test]
fn memory_is_steady_over_a_week() {
    const CG: &[SubjectKind] = &[SubjectKind::Cgroup];
    const FIELDS: &[Field] =
        &[Field::counter("errors", Unit::Count, ""), Field::gauge("size", Unit::Bytes, "")];
    const THINGS: &[Field] = &[Field::duration("took", ""), Field::text("what", "")];
    let sampled = Arc::new(Stream::sampled("s", "", CG, FIELDS));
    let things = Arc::new(Stream::occurrences("o", "", CG, THINGS));
    let source = |s: &Arc<Stream>| Source {
        name: s.name.to_string(),
        streams: vec![s.clone()],
        interval_ns: INTERVAL,
        missing: None,
    };
    let schema = Schema::new(vec![source(&sampled), source(&things)]);
    let sandbox = Rc::new(Sandbox::new());
    let text = r#"//! A page.
const RULE = #{ id: "a.b", api: 1, severity: "info", subject: "cgroup", params: #{ line: #{ value: 2.0, help: "h" } },
  windows: #{ rate: #{ of: "s.errors", calc: "rate", over: "2m" }, size: #{ of: "s.size", calc: "baseline", over: "10m", coverage: 0.1 },
    took: #{ of: "o.took", calc: "p99", over: "2m" }, after: #{ of: "o.what", calc: "count", over: "2m", after: "rate", within: "1m" } } };
fn enter(w, p) { w.rate.value > p.line || w.size.sigma > 9.0 || w.took.ms > 900.0 || w.after.overdue }
fn leave(w, p) { w.rate.or(0.0) < 1.0 }
fn verdict(w, p, ctx) { cause("a.b").says(`${ctx.name}`).culprits(ctx.top("rate", 5)).evidence(w.rate) }
"#;
    let compiled = compile(&sandbox, &schema, "t", text, &Overrides::default());
    let rule = compiled.rule.unwrap_or_else(|| unreachable!("{:?}", compiled.diagnostics));
    let config =
        EngineConfig { interval_ns: INTERVAL, limits: Limits::default(), facts: HostFacts::default() };
    let mut engine = Engine::new(config, sandbox);
    engine.load(vec![rule]);
    let (mut told, mut after) = (0, Vec::new());
    for tick in 0..7 * DAY {
        let ns = 1000 * SEC + tick as u64 * INTERVAL;
        let at = Stamp { boot_ns: ns, wall_ns: ns };
        let (mut a, mut b) = (Batch::new(sampled.clone(), at), Batch::new(things.clone(), at));
        // Eight at a time, each for forty ticks: a new one each fifth tick, some 42 thousand in the week.
        for age in 0..8 {
            let born = tick / 5 - age.min(tick / 5);
            let subject = Subject::cgroup(format!("/pod{born}"));
            let busy = u64::from(born % 7 == 0 && age > 3);
            let mut row = a.row(subject.clone());
            row.int(0, tick as u64 * (1 + busy * 200)).gauge(1, (born % 10) as f64);
            if (tick + age) % 3 == 0 {
                b.row(subject).int(0, 1_000_000 * (born as u64 % 5)).text(1, "x");
            }
        }
        if tick % 5 == 0 && tick >= 40 {
            a.gone.push(Subject::cgroup(format!("/pod{}", tick / 5 - 8)));
        }
        engine.ingest(&a);
        engine.ingest(&b);
        told += engine.tick(Tick { at, suspended_ns: 0 }).len();
        assert_eq!(engine.take_problems(), vec![]);
        if (tick + 1) % DAY == 0 {
            after.push((engine.window_stats().bytes, engine.findings().len(), engine.open_incidents()));
        }
    }
    assert!(told > 1000, "only {told} verdicts");
    let (bytes, ..) = after[0];
    for (day, (now, findings, incidents)) in after.iter().enumerate() {
        assert!(
            now.abs_diff(bytes) < bytes / 20,
            "{bytes} bytes after the first day, {now} after day {}",
            day + 1
        );
        assert!(*findings < 20 && *incidents < 20, "{findings} findings and {incidents} incidents stay open");
    }
}
