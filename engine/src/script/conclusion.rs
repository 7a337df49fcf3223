//! What `verdict(w, p, ctx)` builds: a cause with its evidence, what it rules out, who did it to whom, and hints.

use std::rc::Rc;

use rhai::{Array, Dynamic, Engine, EvalAltResult, ImmutableString, Map};

use super::manifest::Severity;
use super::reading::Reading;
use crate::verdict::{Actor, Confidence, Evidence, Hint, RuledOut};

type Fallible<T> = Result<T, Box<EvalAltResult>>;

/// Most entries of each list; what is over is left out.
const MAX_ENTRIES: usize = 32;
/// Longest text, in characters.
const MAX_TEXT: usize = 2000;

/// A rule's conclusion about one finding.
#[derive(Debug, Clone, PartialEq)]
pub struct Conclusion {
    /// The cause's id, for example `memcg.limit`.
    pub cause: String,
    /// How sure the rule is.
    pub confidence: Confidence,
    /// One sentence.
    pub summary: String,
    /// Severity, where the verdict changes the rule's own.
    pub severity: Option<Severity>,
    /// Figures.
    pub evidence: Vec<Evidence>,
    /// What it was not, and by which figure.
    pub ruled_out: Vec<RuledOut>,
    /// What to do.
    pub hints: Vec<Hint>,
    /// Who did it.
    pub culprits: Vec<Actor>,
    /// Who suffers.
    pub victims: Vec<Actor>,
    /// Other subjects it happens at, as text: they relate findings to each other.
    pub touches: Vec<String>,
}

impl Conclusion {
    pub(crate) fn new(cause: &str, confidence: Confidence) -> Conclusion {
        Conclusion {
            cause: cause.to_string(),
            confidence,
            summary: String::new(),
            severity: None,
            evidence: Vec::new(),
            ruled_out: Vec::new(),
            hints: Vec::new(),
            culprits: Vec::new(),
            victims: Vec::new(),
            touches: Vec::new(),
        }
    }
}

/// The script's handle: methods change it in place and return it, so that long chains copy nothing.
#[derive(Debug, Clone)]
pub(crate) struct Builder(pub(crate) Rc<std::cell::RefCell<Conclusion>>);

impl Builder {
    fn change(&mut self, f: impl FnOnce(&mut Conclusion)) -> Builder {
        f(&mut self.0.borrow_mut());
        self.clone()
    }
}

fn text(s: &str) -> String {
    whystall_event::text::shorten(s, MAX_TEXT).into_owned()
}

fn push<T>(list: &mut Vec<T>, item: T) {
    if list.len() < MAX_ENTRIES {
        list.push(item);
    }
}

fn confidence(s: &str) -> Fallible<Confidence> {
    Confidence::from_name(s).ok_or_else(|| format!("`{s}` is no confidence: use high, medium or low").into())
}

/// Adds the builder to an engine.
pub(crate) fn register(engine: &mut Engine) {
    engine.register_type_with_name::<Builder>("cause");
    let begin =
        |cause: &str, c: Confidence| Builder(Rc::new(std::cell::RefCell::new(Conclusion::new(cause, c))));
    engine.register_fn("cause", move |c: ImmutableString, how: ImmutableString| -> Fallible<Builder> {
        Ok(begin(&c, confidence(&how)?))
    });
    engine.register_fn("cause", move |c: ImmutableString| begin(&c, Confidence::Medium));
    engine.register_fn("says", |b: &mut Builder, s: ImmutableString| b.change(|c| c.summary = text(&s)));
    engine.register_fn("evidence", |b: &mut Builder, r: Reading| {
        b.change(|c| push(&mut c.evidence, r.evidence(None)))
    });
    engine.register_fn("evidence", |b: &mut Builder, r: Reading, threshold: f64| {
        b.change(|c| push(&mut c.evidence, r.evidence(Some(threshold))))
    });
    engine.register_fn("evidence", |b: &mut Builder, r: Reading, threshold: i64| {
        b.change(|c| push(&mut c.evidence, r.evidence(Some(threshold as f64))))
    });
    engine.register_fn("rules_out", |b: &mut Builder, cause: ImmutableString, because: ImmutableString| {
        b.change(|c| {
            push(&mut c.ruled_out, RuledOut { cause: text(&cause), because: text(&because) });
        })
    });
    engine.register_fn("hint", |b: &mut Builder, t: ImmutableString| -> Fallible<Builder> {
        add_hint(b, &t, Array::new(), "")
    });
    engine.register_fn("hint", |b: &mut Builder, t: ImmutableString, command: Array| -> Fallible<Builder> {
        add_hint(b, &t, command, "")
    });
    engine.register_fn(
        "hint",
        |b: &mut Builder, t: ImmutableString, command: Array, risk: ImmutableString| -> Fallible<Builder> {
            add_hint(b, &t, command, &risk)
        },
    );
    engine
        .register_fn("culprit", |b: &mut Builder, who: Map| b.change(|c| push(&mut c.culprits, actor(&who))));
    engine.register_fn("victim", |b: &mut Builder, who: Map| b.change(|c| push(&mut c.victims, actor(&who))));
    engine.register_fn("culprits", |b: &mut Builder, who: Array| {
        b.change(|c| who.iter().filter_map(as_actor).for_each(|a| push(&mut c.culprits, a)))
    });
    engine.register_fn("victims", |b: &mut Builder, who: Array| {
        b.change(|c| who.iter().filter_map(as_actor).for_each(|a| push(&mut c.victims, a)))
    });
    engine.register_fn("touches", |b: &mut Builder, subject: ImmutableString| {
        b.change(|c| push(&mut c.touches, text(&subject)))
    });
    engine.register_fn("confidence", |b: &mut Builder, s: ImmutableString| -> Fallible<Builder> {
        let found = confidence(&s)?;
        Ok(b.change(|c| c.confidence = found))
    });
    engine.register_fn("severity", |b: &mut Builder, s: ImmutableString| -> Fallible<Builder> {
        match Severity::from_name(&s) {
            Some(found) => Ok(b.change(|c| c.severity = Some(found))),
            None => Err(format!("`{s}` is no severity: use info, warning or critical").into()),
        }
    });
}

fn add_hint(b: &mut Builder, t: &str, command: Array, risk: &str) -> Fallible<Builder> {
    let mut argv = Vec::with_capacity(command.len());
    for part in command.iter().take(MAX_ENTRIES) {
        match part.read_lock::<ImmutableString>() {
            Some(s) => argv.push(text(&s)),
            None => {
                return Err(format!("a command is an array of strings, not of {}", part.type_name()).into());
            }
        }
    }
    let risk = (!risk.is_empty()).then(|| text(risk));
    let command = (!argv.is_empty()).then_some(argv);
    Ok(b.change(|c| push(&mut c.hints, Hint { text: text(t), command, risk, docs: None })))
}

fn as_actor(d: &Dynamic) -> Option<Actor> {
    d.read_lock::<Map>().map(|m| actor(&m))
}

/// An actor from a map such as `ctx.top` gives; keys that do not exist stay empty.
fn actor(m: &Map) -> Actor {
    let get = |key: &str| m.get(key).and_then(|d| d.read_lock::<ImmutableString>().map(|s| text(&s)));
    let num =
        |key: &str| m.get(key).and_then(|d| d.as_float().ok().or_else(|| d.as_int().ok().map(|i| i as f64)));
    let stack = m.get("stack").and_then(|d| {
        let frames = d.read_lock::<Array>()?;
        Some(
            frames
                .iter()
                .take(64)
                .filter_map(|f| f.read_lock::<ImmutableString>().map(|s| text(&s)))
                .collect(),
        )
    });
    let nonempty = |s: Option<String>| s.filter(|s| !s.is_empty());
    Actor {
        kind: nonempty(get("kind")).unwrap_or_else(|| "task".into()),
        pid: num("pid").filter(|p| *p >= 0.0 && *p <= f64::from(u32::MAX)).map(|p| p as u32),
        comm: nonempty(get("comm")),
        cgroup: nonempty(get("cgroup")),
        name: nonempty(get("name")),
        share: num("share").filter(|s| s.is_finite()),
        value: num("value").filter(|s| s.is_finite()),
        unit: nonempty(get("unit")),
        stack: stack.unwrap_or_default(),
        workload: None,
    }
}
