//! What rules share: functions and constants of libraries, in RULE, in lowered conditions and in verdicts, without one
//! overriding another, and with places that are those of the files as they were written.

use std::rc::Rc;
use std::sync::Arc;

use whystall_engine::script::{Compiled, Diagnostic, Libraries, Overrides, Sandbox, compile_with, test_rule};
use whystall_engine::{Schema, Source};
use whystall_event::{Field, SEC, Stream, SubjectKind, Unit};

fn schema() -> Schema {
    const FIELDS: &[Field] =
        &[Field::counter("errors", Unit::Count, ""), Field::gauge("size", Unit::Bytes, "")];
    let disk = Stream::sampled("disk", "", &[SubjectKind::Host], FIELDS);
    Schema::new(vec![Source {
        name: "disk".into(),
        streams: vec![Arc::new(disk)],
        interval_ns: SEC,
        missing: None,
    }])
}

const LIB: &str = r#"//! What is much here.
const SPAN = "10s";
const MUCH = 5.0; // a second
const LOW = -1;
fn much(x) { x > MUCH && x > low() }
fn low() { LOW }
// Not one of its own: it is told with the rule's windows.
fn size_of(w) { w.size.mib }
fn text(x) { `more than ${MUCH}: ${x}` }
"#;

const RULE: &str = r#"//! A page.
import "lib/disk" as disk;
const RULE = #{ id: "a.b", api: 1, severity: "info", subject: "host",
  params: #{ line: #{ value: disk::MUCH, help: "h" } },
  windows: #{ errors: #{ of: "disk.errors", calc: "rate", over: disk::SPAN }, size: #{ of: "disk.size", calc: "last", over: "10s" } } };
fn enter(w, p) { disk::much(w.errors.value) && w.errors.value > p.line && disk::size_of(w) >= 0.0 }
fn leave(w, p) { !much(w) }
// Another function than the library's.
fn much(w) { w.errors.value > disk::MUCH * 0.5 }
fn verdict(w, p, ctx) { cause("a.b").says(`disk::MUCH is ${disk::MUCH}; ${disk::text("x")}`).evidence(w.errors) }
fn test_it(t) {
  t.series("disk.errors", "0x5 0+10x20 200x30");
  t.series("disk.size", "1x60");
  t.at("5s").expect("silent");
  t.at("20s").expect("firing").cause("a.b").says("disk::MUCH is 5.0").says("more than 5.0: x");
  t.at("50s").expect("resolved");
}
"#;

fn load(libraries: &[(&str, &str)], text: &str) -> (Compiled, Vec<Diagnostic>) {
    let sandbox = Sandbox::new();
    let mut all = Libraries::default();
    let wrong: Vec<Diagnostic> = libraries
        .iter()
        .flat_map(|(name, text)| all.add(&sandbox, name, &format!("lib/{name}.rhai"), text))
        .collect();
    let compiled = compile_with(&sandbox, &schema(), &Arc::new(all), "t.rhai", text, &Overrides::default());
    (compiled, wrong)
}

fn shown(list: &[Diagnostic]) -> String {
    list.iter().map(|d| d.to_string()).collect()
}

#[test]
fn constants_and_functions_are_shared() {
    let (compiled, wrong) = load(&[("disk", LIB)], RULE);
    assert_eq!(shown(&wrong), "");
    assert_eq!(shown(&compiled.diagnostics), "");
    let rule = compiled.rule.unwrap();
    assert!(rule.is_lowered(), "what the library has lowers too");
    for branches in [false, true] {
        let tested = test_rule(&rule, RULE, &Rc::new(Sandbox::new()), &schema(), &[], branches);
        assert_eq!(tested.outcomes[0].failures, vec![]);
        assert!(
            tested.coverage.branches_missed.is_empty()
                && tested.coverage.branches == 4 * usize::from(branches)
        );
    }
}

#[test]
fn what_is_wrong_is_told_where_it_was_written() {
    let place = |d: &Diagnostic| (d.code, d.file.clone(), d.place.line, d.place.column);
    // After a constant whose text is shorter than its name.
    let (c, _) = load(
        &[("disk", LIB)],
        &RULE.replace("w.errors.value > disk::MUCH * 0.5", "disk::MUCH < w.eror.value"),
    );
    let found: Vec<_> = c.diagnostics.iter().map(place).collect();
    assert_eq!(found, [("R012", "t.rhai".to_string(), 9, 29)], "{}", shown(&c.diagnostics));
    // In the library, by what the rule hands it.
    let (c, wrong) = load(&[("disk", &LIB.replace("w.size.mib", "MUCH + w.sise.mib"))], RULE);
    assert!(wrong.is_empty());
    let found: Vec<_> = c.diagnostics.iter().map(place).collect();
    assert_eq!(found, [("R012", "lib/disk.rhai".to_string(), 8, 26)], "{}", shown(&c.diagnostics));
    assert!(
        shown(&c.diagnostics).contains("8 | fn size_of(w) { MUCH + w.sise.mib }"),
        "{}",
        shown(&c.diagnostics)
    );
    // What a library lacks.
    let text = RULE.replace("disk::text(", "disk::txt(").replace("disk::MUCH * 0.5", "disk::MUHC");
    let (c, _) = load(&[("disk", LIB)], &text);
    let help: Vec<_> = c.diagnostics.iter().map(|d| (d.code, d.help.as_deref().unwrap_or(""))).collect();
    assert_eq!(help, [("R018", "did you mean `MUCH`?"), ("R015", "did you mean `disk::text`?")]);
}

#[test]
fn imports_and_libraries_are_checked() {
    let codes = |libraries: &[(&str, &str)], text: &str| -> Vec<&'static str> {
        let (c, wrong) = load(libraries, text);
        wrong.iter().chain(&c.diagnostics).map(|d| d.code).collect()
    };
    assert!(codes(&[], RULE).contains(&"R036"));
    assert!(codes(&[("disk", LIB)], &RULE.replace("\"lib/disk\"", "\"/etc/passwd\"")).contains(&"R036"));
    assert!(codes(&[("disk", LIB)], &RULE.replace("\"lib/disk\"", "\"lib/../disk\"")).contains(&"R036"));
    assert!(codes(&[("disk", LIB)], &format!("{RULE}fn disk__low() {{ 1 }}")).contains(&"R011"));
    let library =
        |text: &str| -> Vec<&'static str> { load(&[("disk", text)], "").1.iter().map(|d| d.code).collect() };
    assert_eq!(library("fn enter(w, p) { true }"), ["R011"]);
    assert_eq!(library("fn a(x) { b(x) }"), ["R015"]);
    assert_eq!(library("fn a(x) { y }"), ["R018"]);
    assert_eq!(library("const A = 1 + 1;\nfn a(x) { x }"), ["R003"]);
    assert_eq!(library("let a = 1;"), ["R003"]);
    assert_eq!(library("fn a(x) { x +; }\nfn b(x) { let = 1; }"), ["R001", "R001"]);
    assert_eq!(library("import \"lib/x\" as x;\nfn a(x) { x }"), ["R001"]);
    // Two libraries with the same names do not meet.
    let text = RULE
        .replace("import", "import \"lib/other\" as other;\nimport")
        .replace("disk::text(", "other::text(");
    let (c, wrong) = load(&[("disk", LIB), ("other", &LIB.replace("more than", "above"))], &text);
    assert_eq!((shown(&wrong), shown(&c.diagnostics)), (String::new(), String::new()));
    let rule = c.rule.unwrap();
    let tested = test_rule(&rule, &text, &Rc::new(Sandbox::new()), &schema(), &[], false);
    assert!(tested.outcomes[0].failures[0].1.contains("above 5.0: x"), "{:?}", tested.outcomes);
}
