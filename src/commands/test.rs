//! `whystall test`: runs the tests inside rule files.

use std::fmt::Write as _;
use std::rc::Rc;

use serde::Serialize;
use whystall_engine::script::{Coverage, Diagnostic, Level, Rule, Sandbox, TestOutcome, test_rule};
use whystall_event::text::escape;

use super::{Outcome, Result, check, colours, context, print, print_json};
use crate::cli::{Test, TestFormat};
use crate::config::Config;
use crate::daemon::rule_files;
use crate::daemon::rule_set::{Choice, RuleSet};
use crate::render::Style;

/// `--format json`.
#[derive(Debug, Serialize)]
struct Report<'a> {
    tests: &'a [TestOutcome],
    /// Errors of files that could not be loaded.
    errors: &'a [Diagnostic],
    /// What the tests of each rule reach.
    coverage: &'a [Coverage],
    summary: Summary,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct Summary {
    passed: usize,
    failed: usize,
    /// Files that could not be loaded.
    errors: usize,
}

pub(super) fn test(args: &Test) -> Result {
    let config = context::config(None)?;
    let (_, schema) = context::host(&config)?;
    let files = if args.paths.is_empty() { rule_files::builtin() } else { check::files_of(&args.paths)? };
    let sandbox = Rc::new(Sandbox::new());
    // Tests hold for a rule as it is written, whatever this host lacks and the config changes.
    let set =
        RuleSet::load(files, &sandbox, &schema, Choice { config: &Config::default(), only_served: false });
    let errors: Vec<Diagnostic> = set.diagnostics.into_iter().filter(|d| d.level == Level::Error).collect();
    let all: Vec<Rc<Rule>> = set.running.iter().map(|l| l.rule.clone()).collect();
    let (mut tests, mut coverage) = (Vec::new(), Vec::new());
    for l in &set.running {
        let tested = test_rule(&l.rule, &l.file.text, &sandbox, &schema, &all, args.coverage);
        tests.extend(tested.outcomes);
        coverage.push(tested.coverage);
    }
    let failed = tests.iter().filter(|t| !t.failures.is_empty()).count();
    let mut broken: Vec<&str> = errors.iter().map(|d| d.file.as_str()).collect();
    broken.dedup();
    let summary = Summary { passed: tests.len() - failed, failed, errors: broken.len() };
    match args.format {
        TestFormat::Json => {
            print_json(&Report { tests: &tests, errors: &errors, coverage: &coverage, summary })?
        }
        TestFormat::Junit => print(&junit(&tests, &errors))?,
        TestFormat::Text => {
            print(&reached(&coverage, args.coverage))?;
            print(&text(&tests, &errors, summary, Style::new(colours())))?;
        }
    }
    Ok(Outcome::problems(summary.failed + summary.errors > 0))
}

fn text(tests: &[TestOutcome], errors: &[Diagnostic], s: Summary, style: Style) -> String {
    let mut out = String::new();
    for d in errors {
        let _ = writeln!(out, "{d}");
    }
    for t in tests {
        let result = if t.failures.is_empty() { style.green("ok") } else { style.red("FAILED") };
        let _ = writeln!(out, "{} {} ... {result}", escape(&t.rule), escape(&t.test));
        for (place, what) in &t.failures {
            let at =
                if place.line == 0 { String::new() } else { format!(":{}:{}", place.line, place.column) };
            let _ = writeln!(out, "  {}{at}: {}", escape(&t.file), escape(what));
        }
    }
    let mut line = format!("{} passed, {} failed", s.passed, s.failed);
    if s.errors > 0 {
        let _ =
            write!(line, ", {} file{} could not be loaded", s.errors, if s.errors == 1 { "" } else { "s" });
    }
    line = if s.failed + s.errors > 0 { style.red(&line) } else { style.green(&line) };
    out.push_str(&line);
    out.push('\n');
    out
}

/// What the tests do not reach. Causes are always told; branches and kinds of tests where they were asked for.
fn reached(coverage: &[Coverage], all: bool) -> String {
    let mut out = String::new();
    for c in coverage {
        let mut line = |what: &str, list: Vec<String>| {
            if !list.is_empty() {
                let _ = writeln!(out, "{} {what}: {}", escape(&c.rule), escape(&list.join(", ")));
            }
        };
        line("has no test that concludes", c.causes_missed.clone());
        if all {
            line("lacks tests of these kinds", c.kinds_missed.iter().map(ToString::to_string).collect());
            let at =
                c.branches_missed.iter().map(|p| format!("{}:{}:{}", c.file, p.line, p.column)).collect();
            line("has branches that no test reaches", at);
        }
    }
    if all {
        let (all, missed) =
            coverage.iter().fold((0, 0), |(a, m), c| (a + c.branches, m + c.branches_missed.len()));
        let _ = writeln!(out, "{} of {all} branches reached", all - missed);
    }
    out
}

/// JUnit XML: a suite for each file, a case for each test; a file that cannot be loaded is a case with an error.
fn junit(tests: &[TestOutcome], errors: &[Diagnostic]) -> String {
    let mut files: Vec<&str> =
        errors.iter().map(|d| d.file.as_str()).chain(tests.iter().map(|t| t.file.as_str())).collect();
    files.dedup();
    let mut body = String::new();
    let (mut all, mut failed, mut broken) = (0, 0, 0);
    for file in files {
        let here: Vec<&TestOutcome> = tests.iter().filter(|t| t.file == file).collect();
        let wrong: Vec<&Diagnostic> = errors.iter().filter(|d| d.file == file).collect();
        let failures = here.iter().filter(|t| !t.failures.is_empty()).count();
        let cases = here.len() + usize::from(!wrong.is_empty());
        let _ = writeln!(
            body,
            "  <testsuite name=\"{}\" tests=\"{cases}\" failures=\"{failures}\" errors=\"{}\">",
            xml(file),
            usize::from(!wrong.is_empty())
        );
        if !wrong.is_empty() {
            let what: Vec<String> = wrong.iter().map(|d| d.to_string()).collect();
            let first = format!("{}: {}", wrong[0].code, wrong[0].message);
            let _ = writeln!(body, "    <testcase classname=\"{0}\" name=\"load\" file=\"{0}\">", xml(file));
            let _ = writeln!(
                body,
                "      <error message=\"{}\">{}</error>",
                xml(&first),
                xml_lines(&what.concat())
            );
            let _ = writeln!(body, "    </testcase>");
        }
        for t in &here {
            let _ = write!(
                body,
                "    <testcase classname=\"{}\" name=\"{}\" file=\"{}\"",
                xml(&t.rule),
                xml(&t.test),
                xml(&t.file)
            );
            let Some((_, first)) = t.failures.first() else {
                body.push_str("/>\n");
                continue;
            };
            let lines: Vec<String> = t
                .failures
                .iter()
                .map(|(p, what)| format!("{}:{}:{}: {what}", t.file, p.line, p.column))
                .collect();
            let _ = writeln!(
                body,
                ">\n      <failure message=\"{}\">{}</failure>",
                xml(first),
                xml_lines(&lines.join("\n"))
            );
            body.push_str("    </testcase>\n");
        }
        body.push_str("  </testsuite>\n");
        (all, failed, broken) = (all + cases, failed + failures, broken + usize::from(!wrong.is_empty()));
    }
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"whystall\" tests=\"{all}\" failures=\"{failed}\" \
         errors=\"{broken}\">\n{body}</testsuites>\n"
    )
}

/// Text for an XML attribute: control characters, which XML cannot hold, as visible escapes.
fn xml(s: &str) -> String {
    let mut out = String::with_capacity(s.len());
    for c in escape(s).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            // Not characters of XML.
            '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// The same for an element's text, which keeps its line ends.
fn xml_lines(s: &str) -> String {
    let lines: Vec<String> = s.trim_end().split('\n').map(xml).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use whystall_engine::script::Place;

    #[test]
    fn junit_is_escaped_and_counts() {
        let outcome = |test: &str, failures| TestOutcome {
            rule: "a.b".into(),
            test: test.into(),
            file: "dir/<a>&\"b\".rhai".into(),
            failures,
        };
        let tests = [
            outcome("test_ok", vec![]),
            outcome("test_bad", vec![(Place { line: 3, column: 4 }, "<x> & \x1b]]>".into())]),
        ];
        insta::assert_snapshot!(junit(&tests, &[]), @r#"
        <?xml version="1.0" encoding="UTF-8"?>
        <testsuites name="whystall" tests="2" failures="1" errors="0">
          <testsuite name="dir/&lt;a&gt;&amp;&quot;b&quot;.rhai" tests="2" failures="1" errors="0">
            <testcase classname="a.b" name="test_ok" file="dir/&lt;a&gt;&amp;&quot;b&quot;.rhai"/>
            <testcase classname="a.b" name="test_bad" file="dir/&lt;a&gt;&amp;&quot;b&quot;.rhai">
              <failure message="&lt;x&gt; &amp; \x1b]]&gt;">dir/&lt;a&gt;&amp;&quot;b&quot;.rhai:3:4: &lt;x&gt; &amp; \x1b]]&gt;</failure>
            </testcase>
          </testsuite>
        </testsuites>
        "#);
    }
}
