//! Holds lowered programs and the interpreter equal: random conditions over random numbers, unknown included.

use std::rc::Rc;
use std::sync::Arc;

use proptest::prelude::*;
use whystall_event::{Field, SEC, Stream, Subject, SubjectKind, Unit};

use super::program::{LANES, Numbers, Scratch, Source};
use super::rule::{Overrides, Rule, compile};
use super::sandbox::{Judged, Sandbox};
use crate::schema::{Schema, Source as Origin};

const WINDOWS: [(&str, &str, &str); 4] =
    [("a", "rate", "errors"), ("b", "share", "stalled"), ("c", "last", "size"), ("d", "baseline", "size")];

fn schema() -> Schema {
    const FIELDS: &[Field] = &[
        Field::counter("errors", Unit::Count, ""),
        Field::counter("stalled", Unit::Time, ""),
        Field::gauge("size", Unit::Bytes, ""),
    ];
    let s = Stream::sampled("s", "", &[SubjectKind::Host, SubjectKind::Cgroup], FIELDS);
    Schema::new(vec![Origin {
        name: "s".into(),
        streams: vec![Arc::new(s)],
        interval_ns: SEC,
        missing: None,
    }])
}

fn number() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("w.a.value".to_string()),
        Just("w.b.pct".to_string()),
        Just("w.c.mib".to_string()),
        Just("w.d.sigma".to_string()),
        Just("w.d.now".to_string()),
        Just("p.line".to_string()),
        Just("x".to_string()),
        (-3i32..4).prop_map(|i| format!("{i}.0")),
        Just("w.a.or(2.0)".to_string()),
        Just("w.b.or(3)".to_string()),
    ];
    leaf.prop_recursive(3, 12, 2, |inner| {
        prop_oneof![
            (inner.clone(), "[-+*/]", inner.clone()).prop_map(|(a, o, b)| format!("({a} {o} {b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("max({a}, {b})")),
            (inner.clone(), 1i32..4).prop_map(|(a, i)| format!("({a} * {i})")),
            inner.clone().prop_map(|a| format!("abs({a})")),
            inner.clone().prop_map(|a| format!("-({a})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("helper({a}, {b})")),
            (condition_of(inner.clone()), inner.clone(), inner)
                .prop_map(|(c, a, b)| format!("(if {c} {{ {a} }} else {{ {b} }})")),
        ]
    })
}

fn condition_of(n: impl Strategy<Value = String> + Clone + 'static) -> BoxedStrategy<String> {
    let compare =
        (n.clone(), prop_oneof!["[<>]", "[<>]=", "==", "!="], n).prop_map(|(a, o, b)| format!("{a} {o} {b}"));
    prop_oneof![
        6 => compare,
        1 => Just("w.b.known".to_string()),
        1 => Just("w.on_host".to_string()),
        1 => Just("p.mode == \"x\"".to_string()),
    ]
    .boxed()
}

fn condition() -> impl Strategy<Value = String> {
    condition_of(number().boxed()).prop_recursive(3, 12, 2, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a} && {b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a} || {b})")),
            inner.prop_map(|a| format!("!({a})")),
        ]
    })
}

fn body() -> impl Strategy<Value = String> {
    (number(), condition(), condition(), condition(), 0..4).prop_map(|(n, a, b, c, shape)| {
        // `n` may not use x before x exists.
        let n = n.replace('x', "1.5").replace("ma1.5", "max");
        match shape {
            0 => format!("let x = {n}; {a}"),
            1 => format!("let x = {n}; if {a} {{ return {b}; }} {c}"),
            2 => format!("let x = {n}; if {a} {{ let x = 1.0; {b} }} else {{ {c} }}"),
            _ => format!("let x = {n}; if {a} {{ return {b}; }} else if {c} {{ let y = w.a; return y.value > 1.0; }} {b}"),
        }
    })
}

fn rule(sandbox: &Sandbox, body: &str) -> Option<Rc<Rule>> {
    let windows: Vec<String> = WINDOWS
        .iter()
        .map(|(n, calc, field)| format!("{n}: #{{ of: \"s.{field}\", calc: \"{calc}\", over: \"10s\" }}"))
        .collect();
    let text = format!(
        "//! p\nconst RULE = #{{ id: \"a.b\", api: 1, severity: \"info\", subject: \"host\", params: #{{ \
         line: #{{ value: 1.5, help: \"h\" }}, mode: #{{ value: \"x\", help: \"h\" }} }}, windows: #{{ {} }} }};\n\
         fn helper(a, b) {{ if a > b {{ return a; }} b }}\nfn enter(w, p) {{ let h = helper(1.0, 2.0); {body} }}",
        windows.join(", ")
    );
    let compiled = compile(sandbox, &schema(), "t", &text, &Overrides::default());
    if let Some(d) = compiled.diagnostics.iter().find(|d| d.level == super::Level::Error) {
        // Deep nesting is refused; everything else that is generated must be sound.
        assert_eq!(d.code, "R001", "{d}{text}");
    }
    compiled.rule
}

fn value() -> impl Strategy<Value = f64> {
    prop_oneof![
        2 => Just(f64::NAN),
        2 => Just(0.0),
        6 => -5.0f64..5.0,
        1 => Just(3.0 * 1_048_576.0),
        1 => Just(0.02),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn lowered_and_interpreted_agree(
        body in body(),
        rows in prop::collection::vec(prop::collection::vec((value(), value(), value()), WINDOWS.len()), 1..24),
    ) {
        let sandbox = Sandbox::new();
        let Some(rule) = rule(&sandbox, &body) else { return Ok(()) };
        let Some(program) = rule.lowered_enter(SubjectKind::Host) else {
            return Err(TestCaseError::fail(format!("not lowered: {body}")));
        };
        // A known value without its deviation does not occur, so unknown covers all three.
        let numbers = |row: &Vec<(f64, f64, f64)>| -> Vec<Numbers> {
            row.iter()
                .map(|&(value, dev, now)| if value.is_nan() { Numbers::UNKNOWN } else { Numbers { value, dev, now } })
                .collect()
        };
        let column = |w: usize, f: fn(&Numbers) -> f64| rows.iter().map(|r| f(&numbers(r)[w])).collect::<Vec<f64>>();
        let columns: Vec<[Vec<f64>; 3]> =
            (0..WINDOWS.len()).map(|w| [column(w, |n| n.value), column(w, |n| n.dev), column(w, |n| n.now)]).collect();
        let sources: Vec<Source<'_>> =
            columns.iter().map(|[value, dev, now]| Source::Columns { value, dev, now }).collect();
        let mut scratch = Scratch::default();
        let lanes = program.run(&sources, 0, rows.len().min(LANES), &mut scratch).to_vec();
        for (i, row) in rows.iter().enumerate() {
            let interpreted = rule.judge(&sandbox, "enter", &Subject::Host, numbers(row));
            prop_assert_eq!(Judged::lane(lanes[i]), interpreted, "row {} {:?} of {}", i, numbers(row), body);
        }
    }
}
