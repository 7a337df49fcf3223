//! Each trap of Rhai that would let a wrong rule pass in silence, and each kind of mistake in RULE: the code that
//! catches it.

use std::sync::Arc;

use whystall_engine::script::{Level, Overrides, Sandbox, compile};
use whystall_engine::{Schema, Source};
use whystall_event::{Field, SEC, Stream, SubjectKind, Unit};

fn schema() -> Schema {
    const HOST: &[SubjectKind] = &[SubjectKind::Host];
    const FIELDS: &[Field] = &[
        Field::counter("errors", Unit::Count, ""),
        Field::counter("stalled", Unit::Time, ""),
        Field::gauge("size", Unit::Bytes, ""),
    ];
    const LOG: &[Field] = &[Field::text("kind", ""), Field::duration("took", "")];
    const CG: &[Field] = &[Field::gauge("usage", Unit::Bytes, "")];
    let source = |name: &str, s: Stream| Source {
        name: name.into(),
        streams: vec![Arc::new(s)],
        interval_ns: SEC,
        missing: None,
    };
    Schema::new(vec![
        source("disk", Stream::sampled("disk", "", HOST, FIELDS)),
        source("log", Stream::occurrences("log", "", HOST, LOG)),
        source("memcg", Stream::sampled("memcg", "", &[SubjectKind::Cgroup], CG)),
    ])
}

const HEAD: &str = r#"//! A page.
const RULE = #{ id: "a.b", api: 1, severity: "info", subject: "host",
  params: #{ line: #{ value: 1.0, help: "h" }, mode: #{ value: "x", help: "h" } },
  windows: #{ errors: #{ of: "disk.errors", calc: "rate", over: "10s" }, stall: #{ of: "disk.stalled", calc: "share", over: "10s" },
    size: #{ of: "disk.size", calc: "last", over: "10s" }, took: #{ of: "log.took", calc: "sum", over: "10s" } } };
"#;

/// The codes of errors and warnings, in order, of `HEAD` with these functions.
fn codes(functions: &str) -> Vec<&'static str> {
    let text = format!("{HEAD}{functions}");
    all(&text).into_iter().filter(|c| !["R022", "R023", "R026", "R027", "R029", "R030"].contains(c)).collect()
}

fn all(text: &str) -> Vec<&'static str> {
    let c = compile(&Sandbox::new(), &schema(), "t.rhai", text, &Overrides::default());
    let errors = c.diagnostics.iter().any(|d| d.level == Level::Error);
    assert_eq!(c.rule.is_none(), errors, "a rule loads exactly if it has no error");
    c.diagnostics.iter().map(|d| d.code).collect()
}

#[track_caller]
fn trap(functions: &str, expected: &[&str]) {
    assert_eq!(codes(functions), expected, "{functions}");
}

#[test]
fn sound_functions_pass() {
    trap("fn enter(w, p) { w.errors.value > p.line }", &[]);
    trap(
        "fn enter(w, p) { let x = w.took.ms; if x > 3 { return true; } p.mode == \"x\" && w.stall.pct > 5 }",
        &[],
    );
    trap("fn enter(w, p) { big(w, 2.0) } fn big(w, n) { w.size.mib > n }", &[]);
}

#[test]
fn comparing_unlike_types() {
    trap("fn enter(w, p) { w.errors > p.line }", &["R016"]);
    trap("fn enter(w, p) { w.errors.value > p.mode }", &["R016"]);
    trap("fn enter(w, p) { w.errors.value == \"5\" }", &["R016"]);
    trap("fn enter(w, p) { w.errors.known > 1 }", &["R016"]);
    trap("fn enter(w, p) { if w.errors.value { true } else { false } }", &["R016"]);
}

#[test]
fn integer_division() {
    trap("fn enter(w, p) { w.errors.value > 1 / 2 }", &["R017"]);
}

#[test]
fn unknown_names() {
    trap("fn enter(w, p) { w.eror.value > 1.0 }", &["R012"]);
    trap("fn enter(w, p) { w.errors.value > p.lin }", &["R013"]);
    trap("fn enter(w, p) { w.errors.vaule > 1.0 }", &["R014"]);
    trap("fn enter(w, p) { w.errors.ms > 1.0 }", &["R014"]);
    trap("fn enter(w, p) { w.size.sigma > 1.0 }", &["R014"]);
    trap("fn enter(w, p) { hugge(w.errors.value) }", &["R015"]);
    trap("fn enter(w, p) { q > 1.0 }", &["R018"]);
    trap("fn enter(w, p) { w.errors.value.sqroot() > 1.0 }", &["R015"]);
}

#[test]
fn wrong_results_and_signatures() {
    trap("fn enter(w, p) { w.errors.value }", &["R019"]);
    trap("fn enter(w, p) { let x = w.errors.value > 1.0; }", &["R019"]);
    trap("fn enter(w) { true }", &["R011"]);
    trap("fn leave(w, p) { true }", &["R010"]);
    trap("fn enter(w, p) { true } fn verdict(w, p) { cause(\"x\") }", &["R011"]);
    trap("fn enter(w, p) { true } fn verdict(w, p, ctx) { 5.0 }", &["R016"]);
    trap("fn enter(w, p) { true } fn leaves(w, p) { true }", &["R011"]);
}

#[test]
fn switched_off() {
    trap("fn enter(w, p) { print(\"x\"); true }", &["R001"]);
    trap("fn enter(w, p) { eval(\"1\"); true }", &["R001"]);
    trap("fn enter(w, p) { let f = |x| x; true }", &["R001"]);
    trap("import \"x\" as y;\nfn enter(w, p) { true }", &["R001", "R036"]);
    trap("fn enter(w, p) { try { true } catch { false } }", &["R031"]);
    trap("let x = 1; fn enter(w, p) { true }", &["R031"]);
}

#[test]
fn reserved_words_cannot_be_keys() {
    for word in
        ["default", "with", "is", "use", "match", "case", "shared", "thread", "sync", "go", "nil", "null"]
    {
        let text = HEAD.replace("line:", &format!("{word}:")) + "fn enter(w, p) { w.errors.value > p.line }";
        let c = compile(&Sandbox::new(), &schema(), "t.rhai", &text, &Overrides::default());
        let [d] = &c.diagnostics[..] else { panic!("{word}: {:?}", c.diagnostics) };
        assert_eq!((d.code, d.place.line), ("R001", 3), "{word}");
        assert!(d.help.as_deref().is_some_and(|h| h.contains("another name")), "{word}: {d}");
    }
}

#[test]
fn rule_is_a_literal_and_complete() {
    let with = |from: &str, to: &str| all(&format!("{}fn enter(w, p) {{ true }}", HEAD.replace(from, to)));
    assert!(with("api: 1", "api: 2").contains(&"R006"));
    assert!(with("api: 1", "api: 0 + 1").contains(&"R003"));
    assert!(with("severity: \"info\",", "").contains(&"R005"));
    assert!(with("severity", "severty").contains(&"R004"));
    assert!(with("\"info\"", "\"inf\"").contains(&"R006"));
    assert!(with("disk.errors", "disk.erors").contains(&"R007"));
    assert!(with("calc: \"rate\"", "calc: \"p99\"").contains(&"R008"));
    assert!(with("disk.size", "memcg.usage").contains(&"R009"));
    assert!(with("over: \"10s\"", "over: \"1s\"").contains(&"R025"));
    assert!(with("over: \"10s\"", "over: \"ten\"").contains(&"R006"));
    assert!(with("subject: \"host\"", "subject: \"host\", needs: [\"dsk\"]").contains(&"R020"));
    assert!(all("fn enter(w, p) { true }").contains(&"R002"));
    assert!(all("").contains(&"R002"));
}

#[test]
fn every_problem_of_a_file_is_reported_at_once() {
    let found = codes("fn enter(w, p) { w.eror.value > p.lin || w.errors > 1.0 } fn leave(w, p) { hm() }");
    assert_eq!(found, ["R012", "R013", "R016", "R015"]);
    // RULE and functions, whatever is wrong with RULE.
    let text = HEAD
        .replace("\"info\"", "\"loud\"")
        .replace("disk.size", "disk.sise")
        .replace("value: 1.0", "value: 1 + 1")
        + "fn enter(w, p) { w.eror.value > p.line && w.size.value > p.lin }";
    assert_eq!(all(&text), ["R006", "R003", "R007", "R012", "R013"]);
    // Without RULE nothing is known of its windows, but of functions.
    assert_eq!(all("//! x\nfn enter(w, p) { w.a.value > b }"), ["R002", "R018"]);
}

#[test]
fn the_parser_goes_on_after_a_mistake() {
    let found = codes(
        "fn enter(w, p) { w.errors.value > ; }\nfn leave(w, p) { w.eror.value < 1.0 }\nfn verdict(w, p, ctx) { cause(\"x\") \n\nfn help(x) { let = x; }",
    );
    assert_eq!(found, ["R001", "R012", "R001", "R001"]);
    // RULE is broken, and yet what functions call is checked.
    let text = HEAD.replace("api: 1,", "api: 1") + "fn enter(w, p) { hm(w.any.value) }";
    assert_eq!(all(&text), ["R001", "R015"]);
}

#[test]
fn places_and_suggestions() {
    let text = format!("{HEAD}fn enter(w, p) {{ w.eror.value > 1.0 }}");
    let c = compile(&Sandbox::new(), &schema(), "dir/t.rhai", &text, &Overrides::default());
    let shown = c.diagnostics.iter().find(|d| d.code == "R012").unwrap().to_string();
    assert_eq!(
        shown,
        "error[R012]: RULE declares no window `eror`\n  --> dir/t.rhai:6:20\n  |\n6 | fn enter(w, p) { w.eror.value > 1.0 }\n  \
         |                    ^\n  = help: did you mean `errors`?\n"
    );
}

#[test]
fn leaving_where_it_enters() {
    trap("fn enter(w, p) { w.errors.value > 5.0 } fn leave(w, p) { w.errors.value < 9.0 }", &["R024"]);
    trap("fn enter(w, p) { w.errors.value > 5.0 } fn leave(w, p) { w.errors.value < 2.0 }", &[]);
}

#[test]
fn what_does_not_lower_is_said_with_its_place() {
    let text =
        format!("{HEAD}fn enter(w, p) {{ let n = 0.0; for i in 0..3 {{ n += 1.0; }} w.errors.value > n }}");
    let c = compile(&Sandbox::new(), &schema(), "t.rhai", &text, &Overrides::default());
    let d = c.diagnostics.iter().find(|d| d.code == "R029").unwrap();
    assert!(d.message.contains("a loop"), "{}", d.message);
    assert_eq!((d.place.line, d.place.column), (6, 31));
    assert!(!c.rule.unwrap().is_lowered());
}

#[test]
fn bad_tests_are_found_by_the_checker() {
    let enter = "fn enter(w, p) { w.errors.value > p.line }";
    trap(
        &format!(
            "{enter} fn test_a(t) {{ t.series(\"disk.eror\", \"1\"); t.at(\"1s\").expect(\"resolved\"); }}"
        ),
        &["R033"],
    );
    trap(
        &format!(
            "{enter} fn test_a(t) {{ t.series(\"disk.errors\", \"1y\"); t.at(\"1s\").expect(\"resolved\"); }}"
        ),
        &["R033"],
    );
    trap(&format!("{enter} fn test_a(t) {{ t.at(\"1\").expect(\"resolved\"); }}"), &["R033"]);
    trap(&format!("{enter} fn test_a(t) {{ t.at(\"1s\").expect(\"fireing\"); }}"), &["R033"]);
}

#[test]
fn hostile_files_are_refused_in_time() {
    for text in
        ["\u{0}\u{1}", &"(".repeat(5000), &"[".repeat(300_000), &format!("{HEAD}{}", "fn f() {}".repeat(500))]
    {
        assert!(all(text).contains(&"R001"));
    }
    let deep = format!("{HEAD}fn enter(w, p) {{ {}true{} }}", "!(".repeat(400), ")".repeat(400));
    assert_eq!(all(&deep), ["R001"]);
}

/// Rhai's own limits are half as deep in debug builds: ours are the same in every build.
#[test]
fn depths_do_not_depend_on_the_build() {
    let nested = format!("fn enter(w, p) {{ {}w.errors.value > p.line{} }}", "(".repeat(40), ")".repeat(40));
    trap(&nested, &[]);
    let chained = format!(
        "fn enter(w, p) {{ let x = p.mode{}; x == \"x\" && w.errors.value > 1 }}",
        ".to_lower()".repeat(40)
    );
    trap(&chained, &[]);
}
