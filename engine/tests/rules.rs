//! Rules as text in, diagnostics, test outcomes and verdicts out.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;

use whystall_engine::script::{Compiled, Overrides, Sandbox, compile, run_tests};
use whystall_engine::{Schema, Source};
use whystall_event::{Field, SEC, Stream, SubjectKind, Unit};

fn schema() -> Schema {
    const CG: &[SubjectKind] = &[SubjectKind::Cgroup];
    const HOST: &[SubjectKind] = &[SubjectKind::Host];
    const RECLAIM: &[Field] = &[Field::duration("duration", ""), Field::text("comm", "")];
    const MEMCG: &[Field] =
        &[Field::counter("events_max", Unit::Count, ""), Field::gauge("usage", Unit::Bytes, "")];
    const VMSTAT: &[Field] = &[Field::counter("allocstall", Unit::Count, "")];
    let source = |name: &str, s: Stream| Source {
        name: name.into(),
        streams: vec![Arc::new(s)],
        interval_ns: SEC,
        missing: None,
    };
    Schema::new(vec![
        source("reclaim", Stream::occurrences("reclaim.memcg", "", CG, RECLAIM)),
        source("memcg", Stream::sampled("memcg", "", CG, MEMCG)),
        source("vmstat", Stream::sampled("vmstat", "", HOST, VMSTAT)),
    ])
}

fn load(text: &str) -> Compiled {
    compile(&Sandbox::new(), &schema(), "t.rhai", text, &Overrides::default())
}

const RULE: &str = include_str!("rules/burst.rhai");

#[test]
fn a_good_rule_has_no_diagnostics_lowers_and_passes_its_tests() {
    let compiled = load(RULE);
    let shown: Vec<Cow<'_, str>> = compiled.diagnostics.iter().map(|d| d.to_string().into()).collect();
    assert!(shown.is_empty(), "{}", shown.concat());
    let rule = compiled.rule.unwrap();
    assert!(rule.is_lowered());
    let outcomes = run_tests(&rule, RULE, &Rc::new(Sandbox::new()), &schema());
    assert_eq!(outcomes.len(), 2);
    for o in outcomes {
        assert_eq!(o.failures, vec![], "{}", o.test);
    }
}
