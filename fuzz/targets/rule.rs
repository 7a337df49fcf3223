//! Rule files: loading and checking, then the rule's own tests, then an engine that feeds it readings. The script may
//! be anything; nothing may panic, hang or allocate without end.
//!
//! An input is a rule, and after a NUL byte the bytes of which the readings are made.
#![no_main]

use std::rc::Rc;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use whystall_engine::script::{Level, Overrides, Rule, Sandbox, compile, run_tests};
use whystall_engine::window::Limits;
use whystall_engine::{Engine, EngineConfig, HostFacts, Schema, Source, Tick};
use whystall_event::{Batch, Field, FieldKind, SEC, Stamp, Stream, Subject, SubjectKind, Unit};

const HOST: &[SubjectKind] = &[SubjectKind::Host];
const CGROUP: &[SubjectKind] = &[SubjectKind::Cgroup];
const ANY: &[SubjectKind] = &[SubjectKind::Host, SubjectKind::Cpu, SubjectKind::Cgroup, SubjectKind::Task];
const VMSTAT: &[Field] =
    &[Field::counter("allocstall", Unit::Count, ""), Field::gauge("free", Unit::Pages, "")];
const MEMCG: &[Field] = &[
    Field::counter("events_max", Unit::Count, ""),
    Field::counter("stalled", Unit::Time, ""),
    Field::gauge("usage", Unit::Bytes, ""),
    Field::text("state", ""),
];
const RECLAIM: &[Field] = &[Field::duration("duration", ""), Field::text("comm", "")];

thread_local! {
    /// Making one takes longer than most inputs.
    static SANDBOX: Rc<Sandbox> = Rc::new(Sandbox::new());
}

fuzz_target!(|bytes: &[u8]| {
    let (text, readings) = match bytes.iter().position(|b| *b == 0) {
        Some(end) => (&bytes[..end], &bytes[end + 1..]),
        None => (bytes, &[][..]),
    };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let streams = [
        Stream::sampled("vmstat", "", HOST, VMSTAT),
        Stream::sampled("memcg", "", CGROUP, MEMCG),
        Stream::occurrences("reclaim", "", ANY, RECLAIM),
    ]
    .map(Arc::new);
    let source = |s: &Arc<Stream>| Source {
        name: s.name.to_string(),
        streams: vec![s.clone()],
        interval_ns: SEC,
        missing: None,
    };
    let schema = Schema::new(streams.iter().map(source).collect());
    let sandbox = SANDBOX.with(Rc::clone);
    let compiled = compile(&sandbox, &schema, "fuzz.rhai", text, &Overrides::default());
    let errors = compiled.diagnostics.iter().any(|d| d.level == Level::Error);
    assert_eq!(compiled.rule.is_none(), errors, "a rule loads exactly if it has no error");
    for d in &compiled.diagnostics {
        let shown = d.to_string();
        assert!(!shown.chars().any(|c| c.is_control() && c != '\n'), "no control character is shown");
    }
    if let Some(rule) = compiled.rule {
        let _ = run_tests(&rule, text, &sandbox, &schema);
        feed(rule, sandbox, &streams, readings);
    }
});

/// Takes batches of a stream, a subject and values from the bytes, with a tick after each.
fn feed(rule: Rc<Rule>, sandbox: Rc<Sandbox>, streams: &[Arc<Stream>], mut bytes: &[u8]) {
    let config = EngineConfig { interval_ns: SEC, limits: Limits::default(), facts: HostFacts::default() };
    let mut engine = Engine::new(config, sandbox);
    engine.load(vec![rule.clone()]);
    let mut now = 1000 * SEC;
    while let [which, who, value, rest @ ..] = bytes {
        bytes = rest;
        now += SEC * u64::from(*which >> 4);
        let at = Stamp { boot_ns: now, wall_ns: now };
        let stream = &streams[*which as usize % streams.len()];
        let mut batch = Batch::new(stream.clone(), at);
        let subject = match stream.subjects[*who as usize % stream.subjects.len()] {
            SubjectKind::Cpu => Subject::Cpu(u32::from(*who)),
            SubjectKind::Task => Subject::Task(u32::from(*who)),
            SubjectKind::Cgroup => Subject::cgroup(format!("/{who}")),
            _ => Subject::Host,
        };
        if who & 0x80 != 0 {
            batch.gone.push(subject.clone());
        }
        let mut row = batch.row(subject);
        for (i, field) in stream.fields.iter().enumerate() {
            // From 0 to beyond what fits a counter.
            let number = f64::from(value & 0xf) * 1e3f64.powi(i32::from(value >> 4));
            if field.kind == FieldKind::Text {
                row.text(i, value.to_string());
            } else {
                row.number(i, number);
            }
        }
        engine.ingest(&batch);
        for verdict in engine.tick(Tick { at, suspended_ns: 0 }) {
            assert!(!verdict.chain.is_empty(), "the root is a link of the chain");
        }
        let _ = engine.take_problems();
    }
    engine.load(vec![rule]);
    engine.load(Vec::new());
    let at = Stamp { boot_ns: now + SEC, wall_ns: now + SEC };
    let _ = engine.tick(Tick { at, suspended_ns: 0 });
    assert_eq!(engine.open_incidents(), 0, "findings of a rule that is gone are withdrawn");
}
