//! `test_*` functions: series in promtool's notation, a virtual clock, expectations. A test first records what it wants,
//! then an engine with only that rule runs it.

mod expect;
mod plan;
mod record;

use std::rc::Rc;
use std::sync::Arc;

use serde::Serialize;
use whystall_event::{SEC, Stamp, Stream, Subject};

use super::codes::Code;
use super::diag::{Place, Report};
use super::rule::{Overrides, Rule, compile};
use super::sandbox::{Sandbox, explain};
use crate::data::HostFacts;
use crate::engine::{Engine, EngineConfig, Tick};
use crate::finding::Phase;
use crate::schema::Schema;
use crate::window::Limits;
use plan::{Plan, plan};
pub(crate) use record::{Script, register};

/// Operations that all tests of a file may use: a second or so.
const MAX_OPERATIONS: u64 = 5_000_000;

/// The result of one test.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TestOutcome {
    /// The rule's id.
    pub rule: String,
    /// The function's name.
    pub test: String,
    /// The file.
    pub file: String,
    /// What went wrong, each with its place; empty if it passed.
    pub failures: Vec<(Place, String)>,
}

fn schema_of(rule: &Rule, schema: &Schema) -> Vec<Arc<Stream>> {
    schema.streams().map(|(_, s)| s.clone()).chain(rule.manifest.streams.iter().cloned()).collect()
}

/// Records every test and reports what it cannot understand; `whystall check` runs this.
pub(crate) fn check(rule: &Rule, sandbox: &Sandbox, schema: &Schema, report: &mut Report<'_>) {
    let streams = schema_of(rule, schema);
    for name in &rule.tests {
        let script = Script::default();
        if let Err(e) = sandbox.record_test(&rule.ast, name, script.clone()) {
            report.add(Code::TestSyntax, e.position(), format!("`{name}`: {}", explain(&e)));
            continue;
        }
        if let Err(problems) = plan(&script.0.borrow(), &streams) {
            for (place, what) in problems {
                report.add(Code::TestSyntax, place, format!("`{name}`: {what}"));
            }
        }
    }
}

/// Runs the tests of a rule. `text` is the file's text, needed where a test sets params.
pub fn run_tests(rule: &Rc<Rule>, text: &str, sandbox: &Rc<Sandbox>, schema: &Schema) -> Vec<TestOutcome> {
    let streams = schema_of(rule, schema);
    let until = sandbox.operations().saturating_add(MAX_OPERATIONS);
    rule.tests
        .iter()
        .map(|name| {
            let script = Script::default();
            let failures = match sandbox.record_test(&rule.ast, name, script.clone()) {
                Err(e) => vec![(e.position().into(), explain(&e))],
                Ok(()) => match plan(&script.0.borrow(), &streams) {
                    Err(problems) => problems,
                    Ok(plan) => run(rule, text, sandbox, schema, &plan, until),
                },
            };
            TestOutcome {
                rule: rule.manifest.id.clone(),
                test: name.clone(),
                file: rule.file.clone(),
                failures,
            }
        })
        .collect()
}

fn run(
    rule: &Rc<Rule>,
    text: &str,
    sandbox: &Rc<Sandbox>,
    schema: &Schema,
    plan: &Plan,
    until: u64,
) -> Vec<(Place, String)> {
    let rule = if plan.params.is_empty() {
        rule.clone()
    } else {
        let overrides = Overrides { params: plan.params.clone(), severity: None };
        let compiled = compile(sandbox, schema, &rule.file, text, &overrides);
        match compiled.rule {
            Some(r) => r,
            None => return compiled.diagnostics.into_iter().map(|d| (d.place, d.message)).collect(),
        }
    };
    let facts = HostFacts {
        host: "test".into(),
        kernel: "6.12.0".into(),
        cpus: 4,
        memory_cgroup_v2: true,
        memory_cgroup_mount: "/sys/fs/cgroup".into(),
    };
    let config = EngineConfig { interval_ns: plan.interval, limits: Limits::default(), facts };
    let mut engine = Engine::new(config, sandbox.clone());
    engine.load(vec![rule.clone()]);
    let stamp = |tick: usize| {
        let passed = plan.interval.saturating_mul(tick as u64);
        Stamp {
            boot_ns: passed.saturating_add(1_000 * SEC),
            wall_ns: passed.saturating_add(1_767_225_600 * SEC),
        }
    };
    let mut failures = Vec::new();
    let mut fired: Vec<Subject> = Vec::new();
    let (mut next, mut asked) = (0, 0);
    for tick in 0..plan.ticks {
        let at = stamp(tick);
        while let Some((t, input)) = plan.batches.get(next)
            && *t <= tick
        {
            engine.ingest(&input.batch(at));
            next += 1;
        }
        let _ = engine.tick(Tick { at, suspended_ns: 0 });
        for p in engine.take_problems() {
            failures.push((Place::default(), p.what));
        }
        let findings = engine.findings();
        for f in &findings {
            if f.phase != Phase::Pending && !fired.contains(&f.subject) {
                fired.push(f.subject.clone());
            }
        }
        while let Some((t, e)) = plan.expectations.get(asked)
            && *t <= tick
        {
            if let Err(why) = e.met(&findings, &fired, &rule) {
                failures.push((e.place, format!("at {}: {why}", e.at)));
            }
            asked += 1;
        }
        if sandbox.operations() > until {
            failures.push((Place::default(), "the tests of this file use too many operations".into()));
            break;
        }
    }
    failures
}
