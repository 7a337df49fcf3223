//! `w`, its windows and `p` as the interpreter sees them.

use std::rc::Rc;

use rhai::{Dynamic, Engine, EvalAltResult, ImmutableString, Position};

use super::manifest::{At, Manifest, ParamValue, RESERVED_WINDOWS};
use super::program::{Numbers, Prop};
use crate::verdict::Evidence;
use whystall_event::Subject;

type Fallible<T> = Result<T, Box<EvalAltResult>>;

/// What ends an evaluation that came upon an unknown value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unknown;

pub(crate) fn unknown<T>() -> Fallible<T> {
    Err(EvalAltResult::ErrorTerminated(Dynamic::from(Unknown), Position::NONE).into())
}

/// One call's windows.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) manifest: Rc<Manifest>,
    pub(crate) subject: Subject,
    pub(crate) numbers: Vec<Numbers>,
    /// `enter` and `leave` end as unknown when they read an unknown window; `verdict` reads NaN, for which every
    /// comparison is false.
    pub(crate) strict: bool,
    /// Thresholds found in `enter`, by window, in the shown unit.
    pub(crate) thresholds: Rc<Vec<Option<f64>>>,
}

/// `w`
#[derive(Debug, Clone)]
pub(crate) struct WindowsView(pub(crate) Rc<Call>);

/// `w.NAME`
#[derive(Debug, Clone)]
pub(crate) struct Reading {
    call: Rc<Call>,
    index: usize,
}

/// `p`
#[derive(Debug, Clone)]
pub(crate) struct ParamsView(pub(crate) Rc<Manifest>);

impl Reading {
    fn numbers(&self) -> Numbers {
        self.call.numbers.get(self.index).copied().unwrap_or(Numbers::UNKNOWN)
    }

    fn get(&self, prop: Prop) -> f64 {
        let scale = self.call.manifest.windows[self.index].shape.scale();
        self.numbers().get(prop, scale)
    }

    fn number(&self, prop: Prop) -> Fallible<f64> {
        let x = self.get(prop);
        if x.is_nan() && self.call.strict { unknown() } else { Ok(x) }
    }

    fn known(&self) -> bool {
        !self.numbers().value.is_nan()
    }

    /// This reading as evidence, in the shown unit.
    pub(crate) fn evidence(&self, threshold: Option<f64>) -> Evidence {
        let d = &self.call.manifest.windows[self.index];
        let value = self.get(Prop::Value);
        let subject = match d.at {
            At::Own => self.call.subject.to_string(),
            At::Host => "host".to_string(),
            At::Cpu(i) => self.call.numbers.get(i).map_or_else(String::new, |n| format!("cpu:{}", n.value)),
            At::Parent => self.call.subject.parent().map_or_else(String::new, |p| p.to_string()),
            At::Across(kind, _) => format!("all {}s", kind.name()),
        };
        Evidence {
            window_name: d.name.clone(),
            field: format!("{}.{}", d.stream, d.field),
            subject,
            calc: d.calc.name().to_string(),
            window: whystall_event::format_duration(d.over_ns),
            value: value.is_finite().then_some(value),
            unit: d.shape.shown(),
            threshold: threshold.or_else(|| self.call.thresholds.get(self.index).copied().flatten()),
        }
    }
}

/// Adds the views to an engine.
pub(crate) fn register(engine: &mut Engine) {
    engine.register_type_with_name::<WindowsView>("windows");
    engine.register_type_with_name::<Reading>("window");
    engine.register_type_with_name::<ParamsView>("params");
    engine.register_indexer_get(|w: &mut WindowsView, name: ImmutableString| -> Fallible<Dynamic> {
        if RESERVED_WINDOWS.contains(&name.as_str()) {
            return Ok((name.strip_prefix("on_") == Some(w.0.subject.kind().name())).into());
        }
        match w.0.manifest.windows.iter().position(|d| d.name == name.as_str()) {
            Some(index) => Ok(Dynamic::from(Reading { call: w.0.clone(), index })),
            None => Err(format!("no window `{name}`").into()),
        }
    });
    engine.register_indexer_get(|p: &mut ParamsView, name: ImmutableString| -> Fallible<Dynamic> {
        match p.0.params.iter().find(|d| d.name == name.as_str()).map(|d| &d.value) {
            Some(ParamValue::Number(x)) => Ok((*x).into()),
            Some(ParamValue::Bool(b)) => Ok((*b).into()),
            Some(ParamValue::Text(s)) => Ok(s.clone().into()),
            None => Err(format!("no param `{name}`").into()),
        }
    });
    for (name, prop) in Prop::ALL {
        if prop == Prop::Known {
            engine.register_get("known", |r: &mut Reading| r.known());
        } else if prop == Prop::Overdue {
            engine.register_get("overdue", |r: &mut Reading| -> Fallible<bool> {
                Ok(r.number(Prop::Overdue)? == 1.0)
            });
        } else {
            engine.register_get(name, move |r: &mut Reading| r.number(prop));
        }
    }
    engine.register_get("text", |r: &mut Reading| {
        r.call.manifest.windows[r.index].shape.text(r.numbers().value)
    });
    engine.register_get("unit", |r: &mut Reading| r.call.manifest.windows[r.index].shape.shown());
    engine.register_get("name", |r: &mut Reading| r.call.manifest.windows[r.index].name.clone());
    engine.register_fn("or", |r: &mut Reading, x: f64| if r.known() { r.get(Prop::Value) } else { x });
    engine.register_fn("or", |r: &mut Reading, x: i64| if r.known() { r.get(Prop::Value) } else { x as f64 });
}
