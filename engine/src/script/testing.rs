//! `test_*` functions: series in promtool's notation, a virtual clock, expectations. A test first records what it wants,
//! then an engine with only that rule runs it.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use rhai::{Dynamic, Engine as Rhai, EvalAltResult, Map, NativeCallContext};
use serde::Serialize;
use whystall_event::{
    Batch, FieldKind, Mode, SEC, Stamp, Stream, Subject, SubjectKind, parse_duration, split_field,
};

use super::codes::Code;
use super::diag::{Place, Report};
use super::manifest::ParamValue;
use super::rule::{Overrides, Rule, compile};
use super::sandbox::{Sandbox, explain};
use crate::data::HostFacts;
use crate::engine::{Engine, EngineConfig, FindingState, Tick};
use crate::finding::Phase;
use crate::schema::Schema;
use crate::window::Limits;

/// Ticks a test may run.
const MAX_TICKS: usize = 100_000;
/// Series and events of a test.
const MAX_INPUTS: usize = 1_000;

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

#[derive(Debug, Clone)]
struct Series {
    spec: String,
    values: String,
    place: Place,
}

#[derive(Debug, Clone)]
struct Occurrence {
    at: String,
    spec: String,
    numbers: Vec<(String, f64)>,
    place: Place,
}

#[derive(Debug, Clone)]
struct Expectation {
    at: String,
    on: Option<String>,
    what: Want,
    text: String,
    place: Place,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Want {
    State,
    Cause,
    Confidence,
    Severity,
    Says,
    RulesOut,
    Evidence,
    Hint,
    Culprit,
    Victim,
}

#[derive(Debug, Default)]
struct Recorded {
    series: Vec<Series>,
    events: Vec<Occurrence>,
    expectations: Vec<Expectation>,
    params: Vec<(String, ParamValue)>,
    interval: Option<(String, Place)>,
}

/// `t`
#[derive(Debug, Clone, Default)]
pub(crate) struct Script(Rc<RefCell<Recorded>>);

/// `t.at(…)`
#[derive(Debug, Clone)]
pub(crate) struct Checkpoint {
    script: Script,
    at: String,
    on: Option<String>,
}

type Fallible<T> = Result<T, Box<EvalAltResult>>;

fn room(n: usize) -> Fallible<()> {
    if n < MAX_INPUTS {
        Ok(())
    } else {
        Err(format!("a test may have {MAX_INPUTS} inputs and expectations").into())
    }
}

/// Adds `t` to an engine.
pub(crate) fn register(e: &mut Rhai) {
    e.register_type_with_name::<Script>("test");
    e.register_type_with_name::<Checkpoint>("checkpoint");
    e.register_fn(
        "series",
        |c: NativeCallContext, t: &mut Script, spec: &str, values: &str| -> Fallible<()> {
            let mut r = t.0.borrow_mut();
            room(r.series.len())?;
            let place = c.call_position().into();
            r.series.push(Series { spec: spec.into(), values: values.into(), place });
            Ok(())
        },
    );
    e.register_fn("event", |c: NativeCallContext, t: &mut Script, at: &str, spec: &str| -> Fallible<()> {
        t.event(at, spec, &Map::new(), c.call_position().into())
    });
    e.register_fn(
        "event",
        |c: NativeCallContext, t: &mut Script, at: &str, spec: &str, m: Map| -> Fallible<()> {
            t.event(at, spec, &m, c.call_position().into())
        },
    );
    e.register_fn("interval", |c: NativeCallContext, t: &mut Script, d: &str| {
        t.0.borrow_mut().interval = Some((d.into(), c.call_position().into()));
    });
    e.register_fn("param", |t: &mut Script, name: &str, value: Dynamic| -> Fallible<()> {
        let value = param_value(&value).ok_or("a param is a number, true, false or a string")?;
        t.0.borrow_mut().params.push((name.into(), value));
        Ok(())
    });
    e.register_fn("at", |t: &mut Script, at: &str| Checkpoint { script: t.clone(), at: at.into(), on: None });
    e.register_fn("on", |c: &mut Checkpoint, subject: &str| Checkpoint {
        on: Some(subject.into()),
        ..c.clone()
    });
    for (name, want) in [
        ("expect", Want::State),
        ("cause", Want::Cause),
        ("confidence", Want::Confidence),
        ("severity", Want::Severity),
        ("says", Want::Says),
        ("rules_out", Want::RulesOut),
        ("evidence", Want::Evidence),
        ("hint", Want::Hint),
        ("culprit", Want::Culprit),
        ("victim", Want::Victim),
    ] {
        e.register_fn(
            name,
            move |c: NativeCallContext, p: &mut Checkpoint, text: &str| -> Fallible<Checkpoint> {
                let mut r = p.script.0.borrow_mut();
                room(r.expectations.len())?;
                let (at, on, place) = (p.at.clone(), p.on.clone(), c.call_position().into());
                r.expectations.push(Expectation { at, on, what: want, text: text.into(), place });
                drop(r);
                Ok(p.clone())
            },
        );
    }
}

fn param_value(d: &Dynamic) -> Option<ParamValue> {
    if let Ok(b) = d.as_bool() {
        Some(ParamValue::Bool(b))
    } else if let Ok(x) = d.as_float() {
        Some(ParamValue::Number(x))
    } else if let Ok(i) = d.as_int() {
        Some(ParamValue::Number(i as f64))
    } else {
        d.clone().into_string().ok().map(ParamValue::Text)
    }
}

impl Script {
    fn event(&mut self, at: &str, spec: &str, m: &Map, place: Place) -> Fallible<()> {
        let mut r = self.0.borrow_mut();
        room(r.events.len())?;
        let mut numbers = Vec::new();
        for (k, v) in m {
            match param_value(v) {
                Some(ParamValue::Number(x)) => numbers.push((k.to_string(), x)),
                _ => {
                    return Err(
                        format!("`{k}`: an event's values are numbers; texts stand in the braces").into()
                    );
                }
            }
        }
        r.events.push(Occurrence { at: at.into(), spec: spec.into(), numbers, place });
        Ok(())
    }
}

/// One input, resolved: at tick `n`, this batch.
struct Plan {
    interval: u64,
    params: Vec<(String, ParamValue)>,
    batches: Vec<(usize, Input)>,
    expectations: Vec<(u64, Expectation)>,
    ticks: usize,
}

#[derive(Clone)]
struct Input {
    stream: Arc<Stream>,
    subject: Subject,
    texts: Vec<(usize, String)>,
    /// Field and value in the shown unit; empty for "watched, and nothing happened".
    numbers: Vec<(usize, f64)>,
    row: bool,
}

fn schema_of(rule: &Rule, schema: &Schema) -> Vec<Arc<Stream>> {
    schema.streams().map(|(_, s)| s.clone()).chain(rule.manifest.streams.iter().cloned()).collect()
}

fn plan(recorded: &Recorded, streams: &[Arc<Stream>]) -> Result<Plan, Vec<(Place, String)>> {
    let mut problems = Vec::new();
    let interval = match &recorded.interval {
        None => SEC,
        Some((text, place)) => match parse_duration(text) {
            Ok(ns) if ns > 0 => ns,
            Ok(_) => {
                problems.push((*place, "the interval must be longer than nothing".into()));
                SEC
            }
            Err(e) => {
                problems.push((*place, e));
                SEC
            }
        },
    };
    let mut batches = Vec::new();
    for s in &recorded.series {
        match series(s, streams) {
            Ok(list) => batches.extend(list),
            Err(e) => problems.push((s.place, e)),
        }
    }
    for o in &recorded.events {
        match occurrence(o, streams, interval) {
            Ok(b) => batches.push(b),
            Err(e) => problems.push((o.place, e)),
        }
    }
    let mut expectations = Vec::new();
    for e in &recorded.expectations {
        match parse_duration(&e.at) {
            Ok(at) => expectations.push((at, e.clone())),
            Err(why) => problems.push((e.place, why)),
        }
        if let Some(Err(why)) = e.on.as_deref().map(str::parse::<Subject>) {
            problems.push((e.place, why.to_string()));
        }
    }
    let end = expectations.iter().map(|(at, _)| at.div_ceil(interval)).max().unwrap_or(0);
    if end as usize > MAX_TICKS {
        problems.push((Place::default(), format!("a test may run for {MAX_TICKS} ticks")));
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    batches.sort_by_key(|(tick, _)| *tick);
    Ok(Plan { interval, params: recorded.params.clone(), batches, expectations, ticks: end as usize + 1 })
}

/// `stream.field{label=value, …}`
fn resolve(spec: &str, streams: &[Arc<Stream>]) -> Result<(Input, Option<usize>), String> {
    let (name, labels) = match spec.split_once('{') {
        None => (spec.trim(), ""),
        Some((n, rest)) => (
            n.trim(),
            rest.trim_end().strip_suffix('}').ok_or_else(|| format!("`{spec}` has no closing brace"))?,
        ),
    };
    let exact = |name: &str| streams.iter().find(|s| s.name == name).cloned();
    let (stream, field) = match split_field(name).and_then(|(s, f)| Some((exact(s)?, f))) {
        Some((stream, f)) if stream.field_index(f).is_some() => {
            let i = stream.field_index(f);
            (stream, i)
        }
        _ => match exact(name) {
            Some(stream) => (stream, None),
            None => {
                let all: Vec<String> = streams
                    .iter()
                    .flat_map(|s| s.fields.iter().map(move |f| format!("{}.{}", s.name, f.name)))
                    .collect();
                let near = whystall_event::text::did_you_mean(name, all.iter().map(String::as_str));
                let near = near.map(|n| format!("; did you mean `{n}`?")).unwrap_or_default();
                return Err(format!("no stream has a field `{name}`{near}"));
            }
        },
    };
    let mut subject = None;
    let mut texts = Vec::new();
    for part in labels.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let (k, v) = part.split_once('=').ok_or_else(|| format!("`{part}` is no label: write name=value"))?;
        let (k, v) = (k.trim(), v.trim().trim_matches('"'));
        if let Some(i) = stream.fields.iter().position(|f| f.name == k && f.kind == FieldKind::Text) {
            texts.push((i, v.to_string()));
        } else if let Some(kind) = SubjectKind::from_name(k) {
            subject = Some(Subject::from_parts(kind, v).map_err(|e| e.to_string())?);
        } else {
            return Err(format!("`{}` has no text field `{k}`, and it is no kind of subject", stream.name));
        }
    }
    let subject = match subject {
        Some(s) => s,
        None if stream.subjects.contains(&SubjectKind::Host) => Subject::Host,
        None => {
            let kinds: Vec<&str> = stream.subjects.iter().map(|k| k.name()).collect();
            return Err(format!("`{}` is about {}: say which in braces", stream.name, kinds.join(", ")));
        }
    };
    if !stream.subjects.contains(&subject.kind()) {
        return Err(format!("`{}` is not about a {}", stream.name, subject.kind()));
    }
    Ok((Input { stream, subject, texts, numbers: Vec::new(), row: true }, field))
}

fn series(s: &Series, streams: &[Arc<Stream>]) -> Result<Vec<(usize, Input)>, String> {
    let (base, field) = resolve(&s.spec, streams)?;
    let field = field.ok_or_else(|| format!("`{}` names a stream, but a series is of one field", s.spec))?;
    let kind = base.stream.fields[field].kind;
    if kind == FieldKind::Text {
        return Err("a series is of numbers; use `t.event` for things with only text".into());
    }
    let values = parse_values(&s.values)?;
    Ok(values
        .into_iter()
        .enumerate()
        .filter_map(|(tick, v)| {
            let v = v?;
            let mut input = base.clone();
            // A duration of nothing is nothing that happened, but it was watched for.
            input.row = !(kind == FieldKind::Duration && v == 0.0);
            input.numbers.push((field, v));
            Some((tick, input))
        })
        .collect())
}

fn occurrence(o: &Occurrence, streams: &[Arc<Stream>], interval: u64) -> Result<(usize, Input), String> {
    let (mut input, _) = resolve(&o.spec, streams)?;
    let at = parse_duration(&o.at)?;
    for (name, v) in &o.numbers {
        match input.stream.field_index(name) {
            Some(i) if input.stream.fields[i].kind != FieldKind::Text => input.numbers.push((i, *v)),
            _ => return Err(format!("`{}` has no number `{name}`", input.stream.name)),
        }
    }
    Ok((at.div_ceil(interval) as usize, input))
}

/// `5`, `1x3`, `0+10x5`, `100-2x4`, `_`, `_x4`, separated by blanks; as promtool reads them.
fn parse_values(text: &str) -> Result<Vec<Option<f64>>, String> {
    let mut out = Vec::new();
    for token in text.split_whitespace() {
        let bad = || format!("`{token}` is no value: write 5, 1x3, 0+10x5, 100-2x4, _ or _x4");
        let (body, times) = match token.rsplit_once('x') {
            Some((b, n)) => (b, Some(n.parse::<usize>().map_err(|_| bad())?)),
            None => (token, None),
        };
        let n = times.unwrap_or(0);
        if out.len().saturating_add(n) > MAX_TICKS {
            return Err(format!("a series may have {MAX_TICKS} values"));
        }
        if body == "_" {
            out.extend(std::iter::repeat_n(None, times.unwrap_or(1)));
            continue;
        }
        // The sign that separates start and step is not the first character's and no exponent's.
        let sep = body
            .char_indices()
            .skip(1)
            .find(|(i, c)| matches!(c, '+' | '-') && !body[..*i].ends_with(['e', 'E']))
            .map(|(i, _)| i);
        let (start, step): (f64, f64) = match sep {
            Some(i) => (body[..i].parse().map_err(|_| bad())?, body[i..].parse().map_err(|_| bad())?),
            None => (body.parse().map_err(|_| bad())?, 0.0),
        };
        if !start.is_finite() || !step.is_finite() || sep.is_some() && times.is_none() {
            return Err(bad());
        }
        out.extend((0..=n).map(|i| Some(start + step * i as f64)));
    }
    Ok(out)
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
    rule.tests
        .iter()
        .map(|name| {
            let script = Script::default();
            let failures = match sandbox.record_test(&rule.ast, name, script.clone()) {
                Err(e) => vec![(e.position().into(), explain(&e))],
                Ok(()) => match plan(&script.0.borrow(), &streams) {
                    Err(problems) => problems,
                    Ok(plan) => run(rule, text, sandbox, schema, &plan),
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
    let stamp = |tick: usize| Stamp {
        boot_ns: 1_000 * SEC + tick as u64 * plan.interval,
        wall_ns: 1_767_225_600 * SEC + tick as u64 * plan.interval,
    };
    let mut failures = Vec::new();
    let mut fired: Vec<Subject> = Vec::new();
    let mut next = 0;
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
        let elapsed = tick as u64 * plan.interval;
        for (when, e) in &plan.expectations {
            // An expectation between two ticks looks at the later one.
            if when.div_ceil(plan.interval) * plan.interval == elapsed
                && let Err(why) = e.met(&findings, &fired, &rule)
            {
                failures.push((e.place, format!("at {}: {why}", e.at)));
            }
        }
    }
    failures
}

impl Input {
    fn batch(&self, at: Stamp) -> Batch {
        let mut b = Batch::new(self.stream.clone(), at);
        if self.row {
            let mut row = b.row(self.subject.clone());
            for (i, s) in &self.texts {
                row.text(*i, s.as_str());
            }
            for (i, v) in &self.numbers {
                row.number(*i, v * self.stream.fields[*i].unit.scale());
            }
        } else {
            debug_assert_eq!(self.stream.mode, Mode::Occurrences);
        }
        b
    }
}

impl Expectation {
    fn met(&self, findings: &[FindingState], fired: &[Subject], rule: &Rule) -> Result<(), String> {
        let on: Option<Subject> = self.on.as_deref().and_then(|s| s.parse().ok());
        let mine = |s: &Subject| on.as_ref().is_none_or(|o| o == s);
        let here: Vec<&FindingState> = findings.iter().filter(|f| mine(&f.subject)).collect();
        let in_phase = |p: Phase| here.iter().any(|f| f.phase == p);
        let now = || match &here[..] {
            [] if fired.iter().any(mine) => "resolved".to_string(),
            [] => "silent".to_string(),
            list => list
                .iter()
                .map(|f| format!("{} {:?}", f.subject, f.phase).to_lowercase())
                .collect::<Vec<_>>()
                .join(", "),
        };
        if self.what == Want::State {
            let met = match self.text.as_str() {
                "pending" => in_phase(Phase::Pending),
                "firing" => in_phase(Phase::Firing),
                "recovering" => in_phase(Phase::Recovering),
                "stale" => here.iter().any(|f| f.stale),
                "resolved" => fired.iter().any(mine) && here.is_empty(),
                _ => !fired.iter().any(mine) && !in_phase(Phase::Firing),
            };
            return if met { Ok(()) } else { Err(format!("expected {}, found {}", self.text, now())) };
        }
        let conclusions: Vec<_> = here.iter().filter_map(|f| f.conclusion.as_ref()).collect();
        if conclusions.is_empty() {
            return Err(format!(
                "expected {:?} `{}`, but nothing has fired ({})",
                self.what,
                self.text,
                now()
            ));
        }
        let text = self.text.as_str();
        let has = |s: &str| s.contains(text);
        let (met, found): (bool, Vec<String>) = match self.what {
            Want::State => (true, Vec::new()),
            Want::Cause => look(&conclusions, |c| vec![c.cause.clone()], |s| s == text),
            Want::Confidence => {
                look(&conclusions, |c| vec![format!("{:?}", c.confidence).to_lowercase()], |s| s == text)
            }
            Want::Severity => look(
                &conclusions,
                |c| vec![c.severity.unwrap_or(rule.manifest.severity).name().to_string()],
                |s| s == text,
            ),
            Want::Says => look(&conclusions, |c| vec![c.summary.clone()], has),
            Want::RulesOut => {
                look(&conclusions, |c| c.ruled_out.iter().map(|r| r.cause.clone()).collect(), |s| s == text)
            }
            Want::Evidence => look(
                &conclusions,
                |c| c.evidence.iter().flat_map(|e| [e.field.clone(), e.window_name.clone()]).collect(),
                |s| s == text,
            ),
            Want::Hint => look(
                &conclusions,
                |c| {
                    c.hints
                        .iter()
                        .map(|h| format!("{} {}", h.text, h.command.clone().unwrap_or_default().join(" ")))
                        .collect()
                },
                has,
            ),
            Want::Culprit => look(&conclusions, |c| c.culprits.iter().map(actor).collect(), has),
            Want::Victim => look(&conclusions, |c| c.victims.iter().map(actor).collect(), has),
        };
        if met { Ok(()) } else { Err(format!("expected {:?} `{text}`, found {found:?}", self.what)) }
    }
}

fn actor(a: &crate::verdict::Actor) -> String {
    let pid = a.pid.map(|p| p.to_string()).unwrap_or_default();
    [
        a.kind.as_str(),
        &pid,
        a.comm.as_deref().unwrap_or(""),
        a.cgroup.as_deref().unwrap_or(""),
        a.name.as_deref().unwrap_or(""),
    ]
    .join(" ")
}

fn look(
    conclusions: &[&super::Conclusion],
    of: impl Fn(&super::Conclusion) -> Vec<String>,
    fits: impl Fn(&str) -> bool,
) -> (bool, Vec<String>) {
    let found: Vec<String> = conclusions.iter().flat_map(|c| of(c)).collect();
    (found.iter().any(|s| fits(s)), found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn promtool_notation() {
        let v = |s: &str| parse_values(s);
        let some = |l: &[f64]| Ok(l.iter().map(|x| Some(*x)).collect::<Vec<_>>());
        assert_eq!(v("1 2.5 -3"), some(&[1.0, 2.5, -3.0]));
        assert_eq!(v("1x2"), some(&[1.0, 1.0, 1.0]));
        assert_eq!(v("0+10x3"), some(&[0.0, 10.0, 20.0, 30.0]));
        assert_eq!(v("-5-5x2"), some(&[-5.0, -10.0, -15.0]));
        assert_eq!(v("1e-3x1"), some(&[0.001, 0.001]));
        assert_eq!(v("_ 1 _x2"), Ok(vec![None, Some(1.0), None, None]));
        for bad in ["x", "1x", "1+2", "1x-1", "a", "infx2", "1x99999999"] {
            assert!(v(bad).is_err(), "{bad}");
        }
    }
}
