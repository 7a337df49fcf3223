//! Runs a lowered condition for one subject and keeps every part with its value, to explain how it came out.

use std::rc::Rc;

use whystall_event::text::shorten;

use super::program::{Bin, Numbers, Op, Program, Prop, Source, fold};
use crate::verdict::{Condition, Term};

/// Parts of a condition that are shown, and how deep.
const MAX_TERMS: usize = 48;
const MAX_DEPTH: u64 = 6;
/// Characters of a part's text.
const MAX_TEXT: usize = 160;

#[derive(Debug, Clone)]
struct Part {
    text: String,
    value: f64,
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    Constant,
    Figure,
    /// A window's `known`.
    Known,
    Compare(f64, f64),
    Join(Bin, Rc<Part>, Rc<Part>),
    Not(Rc<Part>),
    /// A condition and the part that it chose.
    Choice(Rc<Part>, Option<Rc<Part>>),
}

/// The condition `p` of row `row` of `sources`, whose windows have these names.
pub(crate) fn trace(p: &Program, sources: &[Source<'_>], row: usize, names: &[&str]) -> Condition {
    let mut stack: Vec<Rc<Part>> = Vec::new();
    let mut slots: Vec<Option<Rc<Part>>> = vec![None; p.slots];
    for op in &p.code {
        let part = match *op {
            Op::Const(x) => constant(x),
            Op::Read { window, prop, scale } => {
                let numbers = sources.get(window as usize).map_or(Numbers::UNKNOWN, |s| s.at(row));
                let name = names.get(window as usize).copied().unwrap_or("?");
                let kind = if prop == Prop::Known { Kind::Known } else { Kind::Figure };
                Part { text: format!("{name}.{}", prop_name(prop)), value: numbers.get(prop, scale), kind }
            }
            Op::Slot(i) => match slots.get(usize::from(i)).cloned().flatten() {
                Some(part) => {
                    stack.push(part);
                    continue;
                }
                None => constant(f64::NAN),
            },
            Op::Set(i) => {
                let top = stack.pop();
                if let Some(slot) = slots.get_mut(usize::from(i)) {
                    *slot = top;
                }
                continue;
            }
            Op::MaskBy(i) => {
                let unknown =
                    slots.get(usize::from(i)).and_then(Option::as_ref).is_some_and(|s| s.value.is_nan());
                match stack.pop() {
                    Some(top) if unknown => Part { value: f64::NAN, ..(*top).clone() },
                    Some(top) => {
                        stack.push(top);
                        continue;
                    }
                    None => constant(f64::NAN),
                }
            }
            Op::Neg | Op::Not | Op::Abs => {
                let a = stack.pop().unwrap_or_else(|| constant(f64::NAN).into());
                let figure = |text: String, value: f64| Part { text: short(text), value, kind: Kind::Figure };
                match *op {
                    Op::Neg => figure(format!("-{}", a.text), -a.value),
                    Op::Abs => figure(format!("abs({})", a.text), a.value.abs()),
                    _ => Part { text: "not".into(), value: 1.0 - a.value, kind: Kind::Not(a) },
                }
            }
            Op::Bin(op) => {
                let b = stack.pop().unwrap_or_else(|| constant(f64::NAN).into());
                let a = stack.pop().unwrap_or_else(|| constant(f64::NAN).into());
                binary(op, a, b)
            }
            Op::BinConst(op, c) => {
                let a = stack.pop().unwrap_or_else(|| constant(f64::NAN).into());
                binary(op, a, constant(c).into())
            }
            Op::Select => {
                let (b, a, cond) = (stack.pop(), stack.pop(), stack.pop());
                let cond = cond.unwrap_or_else(|| constant(f64::NAN).into());
                let taken = if cond.value.is_nan() {
                    None
                } else if cond.value != 0.0 {
                    a
                } else {
                    b
                };
                let value = taken.as_ref().map_or(f64::NAN, |t| t.value);
                Part { text: "if".into(), value, kind: Kind::Choice(cond, taken) }
            }
        };
        stack.push(part.into());
    }
    let mut terms = Vec::new();
    let Some(whole) = stack.pop() else { return Condition { holds: None, terms } };
    flatten(&whole, 0, &mut terms);
    Condition { holds: truth(whole.value), terms }
}

fn constant(x: f64) -> Part {
    Part { text: number(x), value: x, kind: Kind::Constant }
}

fn number(x: f64) -> String {
    if x == x.trunc() && x.abs() < 1e15 { format!("{x:.0}") } else { format!("{x}") }
}

fn short(s: String) -> String {
    shorten(&s, MAX_TEXT).into_owned()
}

fn truth(x: f64) -> Option<bool> {
    (!x.is_nan()).then_some(x != 0.0)
}

fn prop_name(prop: Prop) -> &'static str {
    Prop::ALL.iter().find(|(_, p)| *p == prop).map_or("?", |(n, _)| n)
}

fn binary(op: Bin, a: Rc<Part>, b: Rc<Part>) -> Part {
    let value = fold(op, a.value, b.value);
    let sign = match op {
        Bin::Add => "+",
        Bin::Sub => "-",
        Bin::Mul => "*",
        Bin::Div => "/",
        Bin::Gt => ">",
        Bin::Ge => ">=",
        Bin::Lt => "<",
        Bin::Le => "<=",
        Bin::Eq => "==",
        Bin::Ne => "!=",
        Bin::Min => "min",
        Bin::Max => "max",
        Bin::And => "all of",
        Bin::Or => "any of",
        Bin::OrElse => "or",
    };
    let whole = |p: &Part| if p.text.contains(' ') { format!("({})", p.text) } else { p.text.clone() };
    let (text, kind) = match op {
        Bin::And | Bin::Or => (sign.to_string(), Kind::Join(op, a, b)),
        Bin::Gt | Bin::Ge | Bin::Lt | Bin::Le | Bin::Eq | Bin::Ne => {
            (format!("{} {sign} {}", a.text, b.text), Kind::Compare(a.value, b.value))
        }
        Bin::Min | Bin::Max => (format!("{sign}({}, {})", a.text, b.text), Kind::Figure),
        Bin::OrElse => {
            let name = a.text.strip_suffix(".value").unwrap_or(&a.text);
            (format!("{name}.or({})", b.text), Kind::Figure)
        }
        _ => (format!("{} {sign} {}", whole(&a), whole(&b)), Kind::Figure),
    };
    Part { text: short(text), value, kind }
}

fn flatten(part: &Rc<Part>, depth: u64, out: &mut Vec<Term>) {
    if out.len() >= MAX_TERMS || depth > MAX_DEPTH {
        return;
    }
    let finite = |x: f64| x.is_finite().then_some(x);
    let mut term = Term { depth, text: part.text.clone(), holds: truth(part.value), value: None, line: None };
    match &part.kind {
        // `if a { return true } b` is read as it is meant: either of them.
        Kind::Choice(cond, taken) => match taken {
            Some(taken) if !matches!(taken.kind, Kind::Constant) => {
                out.push(term);
                flatten(cond, depth + 1, out);
                flatten(taken, depth + 1, out);
            }
            _ => flatten(cond, depth, out),
        },
        Kind::Join(op, a, b) => {
            out.push(term);
            for side in [a, b] {
                operand(*op, side, depth + 1, out);
            }
        }
        Kind::Not(a) => {
            out.push(term);
            flatten(a, depth + 1, out);
        }
        Kind::Compare(a, b) => {
            (term.value, term.line) = (finite(*a), finite(*b));
            out.push(term);
        }
        Kind::Figure => {
            (term.value, term.holds) = (finite(part.value), None);
            out.push(term);
        }
        Kind::Known | Kind::Constant => out.push(term),
    }
}

/// `a && b && c` is one list, not two.
fn operand(op: Bin, part: &Rc<Part>, depth: u64, out: &mut Vec<Term>) {
    match &part.kind {
        Kind::Join(inner, a, b) if *inner == op => {
            operand(op, a, depth, out);
            operand(op, b, depth, out);
        }
        _ => flatten(part, depth, out),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Overrides, Sandbox, compile};
    use super::*;
    use whystall_event::{Field, SEC, Stream, SubjectKind, Unit};

    fn explain(enter: &str, values: [f64; 2]) -> String {
        const FIELDS: &[Field] = &[Field::gauge("a", Unit::None, ""), Field::gauge("b", Unit::None, "")];
        let stream = Stream::sampled("s", "", &[SubjectKind::Host], FIELDS);
        let source = crate::Source {
            name: "s".into(),
            streams: vec![std::sync::Arc::new(stream)],
            interval_ns: SEC,
            missing: None,
        };
        let text = format!(
            "//! T.\nconst RULE = #{{ id: \"t.t\", api: 1, severity: \"info\", subject: \"host\",\n\
             params: #{{ p: #{{ value: 5.0, help: \"p\" }} }},\n\
             windows: #{{ a: #{{ of: \"s.a\", calc: \"last\", over: \"5s\" }}, b: #{{ of: \"s.b\", calc: \"last\", over: \"5s\" }} }} }};\n\
             fn enter(w, p) {{ {enter} }}"
        );
        let compiled = compile(
            &Sandbox::new(),
            &crate::Schema::new(vec![source]),
            "t.rhai",
            &text,
            &Overrides::default(),
        );
        let rule = compiled.rule.unwrap_or_else(|| panic!("{:?}", compiled.diagnostics));
        let program = rule.lowered_enter(SubjectKind::Host).unwrap();
        let sources = values.map(|value| Source::Scalar(Numbers { value, ..Numbers::UNKNOWN }));
        let c = trace(&program, &sources, 0, &["a", "b"]);
        let say = |h: Option<bool>| h.map_or("?", |h| if h { "yes" } else { "no" });
        let mut out = format!("{}\n", say(c.holds));
        for t in c.terms {
            let figure = t.value.map(|v| format!(" [{v}]")).unwrap_or_default();
            out.push_str(&format!("{}{} {}{figure}\n", "  ".repeat(t.depth as usize), say(t.holds), t.text));
        }
        out
    }

    #[test]
    fn every_part_has_its_value() {
        assert_eq!(
            explain(
                "w.a.value > p.p && (w.b.or(0.0) < 2.0 || w.a.value / 2.0 > 2.5) && w.b.known",
                [6.0, f64::NAN]
            ),
            "no\n\
             no all of\n\
             \x20\x20yes a.value > 5 [6]\n\
             \x20\x20yes any of\n\
             \x20\x20\x20\x20yes b.or(0) < 2 [0]\n\
             \x20\x20\x20\x20yes a.value / 2 > 2.5 [3]\n\
             \x20\x20no b.known\n\
             "
        );
        assert_eq!(
            explain("if w.b.value > 1.0 { return true; } !(w.a.value > p.p)", [6.0, 0.5]),
            "no\n\
             no if\n\
             \x20\x20no b.value > 1 [0.5]\n\
             \x20\x20no not\n\
             \x20\x20\x20\x20yes a.value > 5 [6]\n\
             "
        );
        assert_eq!(
            explain("let x = w.a.value; x > p.p && w.b.value > 1.0", [f64::NAN, 3.0]),
            "?\n\
             ? all of\n\
             \x20\x20? a.value > 5\n\
             \x20\x20yes b.value > 1 [3]\n\
             "
        );
    }

    #[test]
    fn a_huge_condition_is_cut() {
        let one = [Op::Read { window: 0, prop: Prop::Value, scale: 1.0 }, Op::BinConst(Bin::Gt, 1.0)];
        let mut code = one.to_vec();
        for _ in 0..200 {
            code.extend(one);
            code.push(Op::Bin(Bin::Or));
        }
        let c = trace(&Program { code, slots: 0, depth: 3 }, &[Source::Scalar(Numbers::UNKNOWN)], 0, &[]);
        assert_eq!((c.holds, c.terms.len()), (None, MAX_TERMS));
        // One that is broken is no reason to panic.
        let broken = Program { code: vec![Op::Select, Op::Set(3), Op::Bin(Bin::And)], slots: 0, depth: 0 };
        assert_eq!(trace(&broken, &[], 0, &[]).holds, None);
    }
}
