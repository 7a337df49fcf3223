//! `test_*` functions: series in promtool's notation, a virtual clock, expectations. A test first records what it wants,
//! then an engine with only that rule runs it.

mod coverage;
mod expect;
mod plan;
mod record;

use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

use serde::Serialize;
use whystall_event::{SEC, Stamp, Stream, Subject};

use super::codes::Code;
use super::diag::{Place, Report};
use super::rule::{Overrides, Rule};
use super::sandbox::{Sandbox, explain};
use crate::data::HostFacts;
use crate::engine::{Engine, EngineConfig, Tick};
use crate::finding::Phase;
use crate::schema::Schema;
use crate::window::Limits;
pub use coverage::Coverage;
use coverage::{Kinds, Marked};
use expect::Seen;
use plan::{Input, Plan, is_gap, plan};
use record::Want;
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

/// The tests of one rule, and what they reach.
#[derive(Debug, Clone)]
pub struct Tested {
    /// One for each test.
    pub outcomes: Vec<TestOutcome>,
    /// What they reach.
    pub coverage: Coverage,
}

/// Runs the tests of a rule. `text` is the file's text, needed where a test sets params.
pub fn run_tests(rule: &Rc<Rule>, text: &str, sandbox: &Rc<Sandbox>, schema: &Schema) -> Vec<TestOutcome> {
    test_rule(rule, text, sandbox, schema, &[], false).outcomes
}

/// Runs the tests of a rule, beside `others` where a test asks for them. With `branches` it also looks which blocks of
/// code they reach, which runs them twice.
pub fn test_rule(
    rule: &Rc<Rule>,
    text: &str,
    sandbox: &Rc<Sandbox>,
    schema: &Schema,
    others: &[Rc<Rule>],
    branches: bool,
) -> Tested {
    let streams = schema_of(rule, schema);
    let until = sandbox.operations().saturating_add(MAX_OPERATIONS);
    let host = Bench { text, sandbox, schema, others, until };
    let marked = if branches { Marked::new(rule, text, sandbox) } else { None };
    sandbox.take_reached();
    let mut kinds = Kinds::default();
    let (mut outcomes, mut causes, mut reached) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
    for name in &rule.tests {
        let script = Script::default();
        let failures = match sandbox.record_test(&rule.ast, name, script.clone()) {
            Err(e) => vec![(e.position().into(), explain(&e))],
            Ok(()) => match plan(&script.0.borrow(), &streams) {
                Err(problems) => problems,
                Ok(plan) => {
                    kinds.note(&script.0.borrow());
                    let failures = host.run(rule, &plan, &mut causes, |r| r);
                    if let Some(m) = &marked {
                        let mark = |r: Rc<Rule>| match Rc::ptr_eq(&r, rule) {
                            true => m.rule().clone(),
                            false => Marked::new(&r, text, sandbox).map_or(r, |m| m.rule().clone()),
                        };
                        host.run(rule, &plan, &mut BTreeSet::new(), mark);
                        reached.extend(sandbox.take_reached());
                    }
                    failures
                }
            },
        };
        outcomes.push(TestOutcome {
            rule: rule.manifest.id.clone(),
            test: name.clone(),
            file: rule.file.clone(),
            failures,
        });
    }
    let places = marked.as_ref().map_or(&[][..], |m| m.places());
    let coverage = Coverage {
        rule: rule.manifest.id.clone(),
        file: rule.file.clone(),
        causes: rule.causes.len(),
        causes_missed: rule.causes.iter().filter(|c| !causes.contains(*c)).cloned().collect(),
        kinds_missed: kinds.missed(text),
        branches: places.len(),
        branches_missed: coverage::missed(places, &reached),
    };
    Tested { outcomes, coverage }
}

/// Where the tests of a rule run.
struct Bench<'a> {
    text: &'a str,
    sandbox: &'a Rc<Sandbox>,
    schema: &'a Schema,
    others: &'a [Rc<Rule>],
    /// Operations of the sandbox after which no test goes on.
    until: u64,
}

impl Bench<'_> {
    /// Runs one test with what `mark` makes of its rule, and notes the causes that it concludes.
    fn run(
        &self,
        rule: &Rc<Rule>,
        plan: &Plan,
        causes: &mut BTreeSet<String>,
        mark: impl Fn(Rc<Rule>) -> Rc<Rule>,
    ) -> Vec<(Place, String)> {
        let mut rule = rule.clone();
        if !plan.params.is_empty() {
            let overrides = Overrides { params: plan.params.clone(), severity: None };
            let compiled = rule.again(self.sandbox, self.schema, self.text, &overrides);
            match compiled.rule {
                Some(r) => rule = r,
                None => return compiled.diagnostics.into_iter().map(|d| (d.place, d.message)).collect(),
            }
        }
        let mut rules = vec![mark(rule.clone())];
        for (id, place) in &plan.also {
            match self.others.iter().find(|r| r.manifest.id == *id) {
                Some(r) => rules.push(r.clone()),
                None => return vec![(*place, format!("no rule `{id}` is loaded beside this one"))],
            }
        }
        let facts = HostFacts {
            host: "test".into(),
            kernel: "6.12.0".into(),
            cpus: 4,
            memory_cgroup_v2: true,
            memory_cgroup_mount: "/sys/fs/cgroup".into(),
        };
        let config = EngineConfig { interval_ns: plan.interval, limits: Limits::default(), facts };
        let mut engine = Engine::new(config, self.sandbox.clone());
        engine.load(rules);
        let mut failures = Vec::new();
        let mut fired: Vec<Subject> = Vec::new();
        let (mut next, mut asked, mut slept) = (0, 0, 0u64);
        let (mut seen, minds) =
            (Seen::default(), plan.expectations.iter().any(|(_, e)| e.what == Want::Health));
        for tick in 0..plan.ticks {
            let sleep: u64 = plan.sleeps.iter().filter(|(t, _)| *t == tick).map(|(_, ns)| *ns).sum();
            slept = slept.saturating_add(sleep);
            let passed = plan.interval.saturating_mul(tick as u64).saturating_add(slept);
            let at = Stamp {
                boot_ns: passed.saturating_add(1_000 * SEC),
                wall_ns: passed.saturating_add(1_767_225_600 * SEC),
            };
            for stream in plan.watched.iter().filter(|s| !is_gap(&plan.gaps, s, tick)) {
                engine.ingest(&Input::nothing(stream, at));
            }
            while let Some((t, input)) = plan.batches.get(next)
                && *t <= tick
            {
                engine.ingest(&input.batch(at));
                next += 1;
            }
            for v in engine.tick(Tick { at, suspended_ns: sleep }) {
                seen.verdicts.insert(v.incident.clone(), v);
            }
            for p in engine.take_problems() {
                if p.rule == rule.manifest.id && minds {
                    seen.suspended = Some(p.what);
                } else {
                    failures.push((Place::default(), p.what));
                }
            }
            let mut findings = engine.findings();
            findings.retain(|f| f.rule == rule.manifest.id);
            for f in &findings {
                causes.extend(f.conclusion.as_ref().map(|c| c.cause.clone()));
                if f.phase != Phase::Pending && !fired.contains(&f.subject) {
                    fired.push(f.subject.clone());
                }
            }
            while let Some((t, e)) = plan.expectations.get(asked)
                && *t <= tick
            {
                if let Err(why) = e.met(&findings, &fired, &rule, &seen) {
                    failures.push((e.place, format!("at {}: {why}", e.at)));
                }
                asked += 1;
            }
            if self.sandbox.operations() > self.until {
                failures.push((Place::default(), "the tests of this file use too many operations".into()));
                break;
            }
        }
        failures
    }
}
