//! What a test function asks for, recorded while it runs: series, events, expectations.

use std::cell::RefCell;
use std::rc::Rc;

use rhai::{Dynamic, Engine as Rhai, EvalAltResult, Map, NativeCallContext};

use super::super::diag::Place;
use super::super::manifest::ParamValue;

/// Series and events of a test.
const MAX_INPUTS: usize = 1_000;

#[derive(Debug, Clone)]
pub(super) struct Series {
    pub(super) spec: String,
    pub(super) values: String,
    pub(super) place: Place,
}

#[derive(Debug, Clone)]
pub(super) struct Occurrence {
    pub(super) at: String,
    pub(super) spec: String,
    pub(super) numbers: Vec<(String, f64)>,
    pub(super) place: Place,
}

#[derive(Debug, Clone)]
pub(super) struct Expectation {
    pub(super) at: String,
    pub(super) on: Option<String>,
    pub(super) what: Want,
    pub(super) text: String,
    pub(super) place: Place,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Want {
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
pub(super) struct Recorded {
    pub(super) series: Vec<Series>,
    pub(super) events: Vec<Occurrence>,
    pub(super) expectations: Vec<Expectation>,
    pub(super) params: Vec<(String, ParamValue)>,
    pub(super) interval: Option<(String, Place)>,
}

/// `t`
#[derive(Debug, Clone, Default)]
pub(crate) struct Script(pub(super) Rc<RefCell<Recorded>>);

/// `t.at(…)`
#[derive(Debug, Clone)]
pub(crate) struct Checkpoint {
    pub(super) script: Script,
    pub(super) at: String,
    pub(super) on: Option<String>,
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
