//! What `verdict(w, p, ctx)` builds: a cause with its evidence, what it rules out, who did it to whom, and hints.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use rhai::{Array, Engine, EvalAltResult, ImmutableString, Map};

use whystall_event::text::shorten;

use super::manifest::Severity;
use super::reading::Reading;
use crate::verdict::{Actor, Confidence, Evidence, Hint, RuledOut};

type Fallible<T> = Result<T, Box<EvalAltResult>>;

/// Most entries of each list; what is over is left out.
const MAX_ENTRIES: usize = 32;
/// Longest text, in characters, and longest line of a stack.
const MAX_TEXT: usize = 2000;
const MAX_FRAME: usize = 200;
/// Longest command, in bytes; the path of a control group has 4096 at most.
const MAX_COMMAND: usize = 8 << 10;
/// Bytes of text in all lists of a conclusion, from which on nothing is added: one is kept for each open finding.
const MAX_BYTES: usize = 32 << 10;
/// Conclusions that one call may begin.
const MAX_BEGUN: u32 = 16;

/// A rule's conclusion about one finding.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
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
pub(crate) struct Builder(pub(crate) Rc<RefCell<Conclusion>>);

impl Builder {
    fn change(&mut self, f: impl FnOnce(&mut Conclusion)) -> Builder {
        f(&mut self.0.borrow_mut());
        self.clone()
    }

    /// Adds to a list, if there is room.
    fn add<T>(&mut self, list: fn(&mut Conclusion) -> &mut Vec<T>, item: T) -> Builder {
        self.change(|c| {
            if bytes(c) < MAX_BYTES && list(c).len() < MAX_ENTRIES {
                list(c).push(item);
            }
        })
    }

    fn actors(&mut self, list: fn(&mut Conclusion) -> &mut Vec<Actor>, who: &Array) -> Builder {
        for a in who.iter().take(MAX_ENTRIES).filter_map(|d| d.read_lock::<Map>().map(|m| actor(&m))) {
            self.add(list, a);
        }
        self.clone()
    }
}

/// Bytes of text in the lists of a conclusion.
fn bytes(c: &Conclusion) -> usize {
    let opt = |s: &Option<String>| s.as_ref().map_or(0, String::len);
    let all = |l: &[String]| l.iter().map(String::len).sum::<usize>();
    let evidence = |e: &Evidence| e.field.len() + e.subject.len() + e.window_name.len();
    let hint = |h: &Hint| h.text.len() + opt(&h.risk) + h.command.as_deref().map_or(0, all);
    let actor = |a: &Actor| {
        a.kind.len() + opt(&a.comm) + opt(&a.cgroup) + opt(&a.name) + opt(&a.unit) + all(&a.stack)
    };
    c.evidence.iter().map(evidence).sum::<usize>()
        + c.ruled_out.iter().map(|r| r.cause.len() + r.because.len()).sum::<usize>()
        + c.hints.iter().map(hint).sum::<usize>()
        + c.culprits.iter().chain(&c.victims).map(actor).sum::<usize>()
        + all(&c.touches)
}

fn text(s: &str) -> String {
    shorten(s, MAX_TEXT).into_owned()
}

fn confidence(s: &str) -> Fallible<Confidence> {
    Confidence::from_name(s).ok_or_else(|| format!("`{s}` is no confidence: use high, medium or low").into())
}

/// Adds the builder to an engine. `begun` counts the conclusions of a call.
pub(crate) fn register(engine: &mut Engine, begun: &Rc<Cell<u32>>) {
    engine.register_type_with_name::<Builder>("cause");
    let begun = begun.clone();
    let begin = move |cause: &str, c: Confidence| -> Fallible<Builder> {
        begun.set(begun.get().saturating_add(1));
        if begun.get() > MAX_BEGUN {
            return Err(format!("`cause` may be called {MAX_BEGUN} times in a verdict").into());
        }
        Ok(Builder(Rc::new(RefCell::new(Conclusion::new(&text(cause), c)))))
    };
    let with = begin.clone();
    engine.register_fn("cause", move |c: ImmutableString, how: ImmutableString| -> Fallible<Builder> {
        with(&c, confidence(&how)?)
    });
    engine.register_fn("cause", move |c: ImmutableString| begin(&c, Confidence::Medium));
    engine.register_fn("says", |b: &mut Builder, s: ImmutableString| b.change(|c| c.summary = text(&s)));
    engine
        .register_fn("evidence", |b: &mut Builder, r: Reading| b.add(|c| &mut c.evidence, r.evidence(None)));
    engine.register_fn("evidence", |b: &mut Builder, r: Reading, threshold: f64| {
        b.add(|c| &mut c.evidence, r.evidence(Some(threshold)))
    });
    engine.register_fn("evidence", |b: &mut Builder, r: Reading, threshold: i64| {
        b.add(|c| &mut c.evidence, r.evidence(Some(threshold as f64)))
    });
    engine.register_fn("rules_out", |b: &mut Builder, cause: ImmutableString, because: ImmutableString| {
        b.add(|c| &mut c.ruled_out, RuledOut { cause: text(&cause), because: text(&because) })
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
    engine.register_fn("culprit", |b: &mut Builder, who: Map| b.add(|c| &mut c.culprits, actor(&who)));
    engine.register_fn("victim", |b: &mut Builder, who: Map| b.add(|c| &mut c.victims, actor(&who)));
    engine.register_fn("culprits", |b: &mut Builder, who: Array| b.actors(|c| &mut c.culprits, &who));
    engine.register_fn("victims", |b: &mut Builder, who: Array| b.actors(|c| &mut c.victims, &who));
    engine.register_fn("touches", |b: &mut Builder, subject: ImmutableString| {
        b.add(|c| &mut c.touches, text(&subject))
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
    for part in &command {
        match part.read_lock::<ImmutableString>() {
            Some(s) => argv.push(s.to_string()),
            None => {
                return Err(format!("a command is an array of strings, not of {}", part.type_name()).into());
            }
        }
    }
    // A command that is cut is another command, so one that is too long is left out.
    let whole = argv.len() <= MAX_ENTRIES && argv.iter().map(String::len).sum::<usize>() <= MAX_COMMAND;
    let command = (whole && !argv.is_empty()).then_some(argv);
    let risk = (!risk.is_empty()).then(|| text(risk));
    Ok(b.add(|c| &mut c.hints, Hint { text: text(t), command, risk, docs: None }))
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
                .filter_map(|f| f.read_lock::<ImmutableString>().map(|s| shorten(&s, MAX_FRAME).into_owned()))
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
