//! What a test function asks for, recorded while it runs: series, events, expectations.

use std::cell::RefCell;
use std::rc::Rc;

use rhai::{Dynamic, Engine as Rhai, EvalAltResult, ImmutableString, Map, NativeCallContext};
use whystall_event::MAX_FIELDS;

use super::super::diag::Place;
use super::super::manifest::ParamValue;

/// Series, events and expectations of a test.
const MAX_INPUTS: usize = 1_000;
/// Events of a burst.
const MAX_BURST: usize = 10_000;
/// Bytes of all their texts.
const MAX_TEXTS: usize = 1 << 20;

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
    /// How often at once.
    pub(super) times: usize,
    pub(super) place: Place,
}

/// A stream from which nothing comes for a while, or a machine that sleeps.
#[derive(Debug, Clone)]
pub(super) struct Pause {
    pub(super) from: String,
    /// The end, or for a sleep how long.
    pub(super) to: String,
    /// `None` is a sleep.
    pub(super) stream: Option<String>,
    pub(super) place: Place,
}

#[derive(Debug, Clone)]
pub(super) struct Expectation {
    pub(super) at: ImmutableString,
    pub(super) on: Option<ImmutableString>,
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
    Chain,
    Health,
}

#[derive(Debug, Default)]
pub(super) struct Recorded {
    pub(super) series: Vec<Series>,
    pub(super) events: Vec<Occurrence>,
    pub(super) expectations: Vec<Expectation>,
    pub(super) params: Vec<(String, ParamValue)>,
    pub(super) pauses: Vec<Pause>,
    /// Other rules that run beside this one.
    pub(super) also: Vec<(String, Place)>,
    pub(super) interval: Option<(String, Place)>,
    asked: usize,
    texts: usize,
}

impl Recorded {
    /// Counts one more thing that the test asks for, with its texts.
    fn room(&mut self, texts: &[&str]) -> Fallible<()> {
        self.asked += 1;
        self.texts += texts.iter().map(|t| t.len()).sum::<usize>();
        if self.asked > MAX_INPUTS {
            Err(format!("a test may ask for {MAX_INPUTS} things").into())
        } else if self.texts > MAX_TEXTS {
            Err("a test may have 1 MiB of series and other texts".into())
        } else {
            Ok(())
        }
    }
}

/// `t`
#[derive(Debug, Clone, Default)]
pub(crate) struct Script(pub(super) Rc<RefCell<Recorded>>);

/// `t.at(…)`
#[derive(Debug, Clone)]
pub(crate) struct Checkpoint {
    script: Script,
    at: ImmutableString,
    on: Option<ImmutableString>,
}

type Fallible<T> = Result<T, Box<EvalAltResult>>;

/// Adds `t` to an engine.
pub(crate) fn register(e: &mut Rhai) {
    e.register_type_with_name::<Script>("test");
    e.register_type_with_name::<Checkpoint>("checkpoint");
    e.register_fn(
        "series",
        |c: NativeCallContext, t: &mut Script, spec: &str, values: &str| -> Fallible<()> {
            let mut r = t.0.borrow_mut();
            r.room(&[spec, values])?;
            let place = c.call_position().into();
            r.series.push(Series { spec: spec.into(), values: values.into(), place });
            Ok(())
        },
    );
    e.register_fn("event", |c: NativeCallContext, t: &mut Script, at: &str, spec: &str| -> Fallible<()> {
        t.event(at, 1, spec, &Map::new(), c.call_position().into())
    });
    e.register_fn(
        "event",
        |c: NativeCallContext, t: &mut Script, at: &str, spec: &str, m: Map| -> Fallible<()> {
            t.event(at, 1, spec, &m, c.call_position().into())
        },
    );
    e.register_fn(
        "burst",
        |c: NativeCallContext, t: &mut Script, at: &str, n: i64, spec: &str| -> Fallible<()> {
            t.event(at, n, spec, &Map::new(), c.call_position().into())
        },
    );
    e.register_fn(
        "burst",
        |c: NativeCallContext, t: &mut Script, at: &str, n: i64, spec: &str, m: Map| -> Fallible<()> {
            t.event(at, n, spec, &m, c.call_position().into())
        },
    );
    e.register_fn(
        "gap",
        |c: NativeCallContext, t: &mut Script, from: &str, to: &str, stream: &str| -> Fallible<()> {
            t.pause(from, to, Some(stream), c.call_position().into())
        },
    );
    e.register_fn("suspend", |c: NativeCallContext, t: &mut Script, at: &str, long: &str| -> Fallible<()> {
        t.pause(at, long, None, c.call_position().into())
    });
    e.register_fn("also", |c: NativeCallContext, t: &mut Script, rule: &str| -> Fallible<()> {
        let mut r = t.0.borrow_mut();
        r.room(&[rule])?;
        r.also.push((rule.into(), c.call_position().into()));
        Ok(())
    });
    e.register_fn("interval", |c: NativeCallContext, t: &mut Script, d: &str| {
        t.0.borrow_mut().interval = Some((d.into(), c.call_position().into()));
    });
    e.register_fn("param", |t: &mut Script, name: &str, value: Dynamic| -> Fallible<()> {
        let value = param_value(&value).ok_or("a param is a number, true, false or a string")?;
        let mut r = t.0.borrow_mut();
        r.room(&[name, if let ParamValue::Text(s) = &value { s } else { "" }])?;
        r.params.push((name.into(), value));
        Ok(())
    });
    e.register_fn("at", |t: &mut Script, at: ImmutableString| -> Fallible<Checkpoint> {
        t.0.borrow_mut().room(&[&at])?;
        Ok(Checkpoint { script: t.clone(), at, on: None })
    });
    e.register_fn("on", |c: &mut Checkpoint, subject: ImmutableString| -> Fallible<Checkpoint> {
        c.script.0.borrow_mut().room(&[&subject])?;
        Ok(Checkpoint { on: Some(subject), ..c.clone() })
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
        ("chain", Want::Chain),
        ("health", Want::Health),
    ] {
        e.register_fn(
            name,
            move |c: NativeCallContext, p: &mut Checkpoint, text: &str| -> Fallible<Checkpoint> {
                let mut r = p.script.0.borrow_mut();
                r.room(&[text])?;
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
    fn pause(&mut self, from: &str, to: &str, stream: Option<&str>, place: Place) -> Fallible<()> {
        let mut r = self.0.borrow_mut();
        r.room(&[from, to, stream.unwrap_or("")])?;
        let stream = stream.map(str::to_string);
        r.pauses.push(Pause { from: from.into(), to: to.into(), stream, place });
        Ok(())
    }

    fn event(&mut self, at: &str, times: i64, spec: &str, m: &Map, place: Place) -> Fallible<()> {
        let times = usize::try_from(times)
            .ok()
            .filter(|n| (1..=MAX_BURST).contains(n))
            .ok_or_else(|| format!("a burst has 1 to {MAX_BURST} events"))?;
        let mut r = self.0.borrow_mut();
        r.room(&[at, spec])?;
        if m.len() > MAX_FIELDS {
            return Err(format!("an event has {MAX_FIELDS} values at most").into());
        }
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
        r.events.push(Occurrence { at: at.into(), spec: spec.into(), numbers, times, place });
        Ok(())
    }
}
