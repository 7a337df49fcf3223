//! Properties, methods and indices: `w.NAME.ms`, `p.NAME`, `ctx.top(…)[0].comm`.

use rhai::{Expr, FnCallExpr, Position};
use whystall_event::Unit;

use super::super::codes::Code;
use super::super::manifest::{ParamValue, RESERVED_WINDOWS, WindowDecl};
use super::super::natives::{self, Ty};
use super::super::program::Prop;
use super::Checker;

impl Checker<'_, '_> {
    /// `base.member.member…`; the parser nests to the right.
    pub(super) fn chain(&mut self, base: Ty, e: &Expr) -> Ty {
        match e {
            Expr::Dot(b, ..) => {
                let t = self.member(base, &b.lhs);
                self.chain(t, &b.rhs)
            }
            Expr::Index(b, ..) => {
                let t = self.member(base, &b.lhs);
                self.index(t, &b.rhs)
            }
            other => self.member(base, other),
        }
    }

    /// `base[e]` and what follows it: `e` is the index, or begins with it where the chain goes on.
    pub(super) fn index(&mut self, base: Ty, e: &Expr) -> Ty {
        let element = if base == Ty::List { Ty::Item } else { Ty::Any };
        match e {
            Expr::Dot(b, ..) => {
                self.expr(&b.lhs);
                self.chain(element, &b.rhs)
            }
            Expr::Index(b, ..) => {
                self.expr(&b.lhs);
                self.index(element, &b.rhs)
            }
            other => {
                self.expr(other);
                element
            }
        }
    }

    pub(super) fn member(&mut self, base: Ty, e: &Expr) -> Ty {
        let at = e.start_position();
        match e {
            Expr::Property(p, _) => self.property(base, p.2.as_str(), at),
            Expr::MethodCall(f, _) => self.method(base, f, at),
            other => self.expr(other),
        }
    }

    pub(super) fn property(&mut self, base: Ty, name: &str, at: Position) -> Ty {
        match base {
            Ty::Windows if RESERVED_WINDOWS.contains(&name) => Ty::Bool,
            Ty::Windows => match self.manifest.windows.iter().position(|w| w.name == name) {
                Some(i) => {
                    self.facts.windows.insert(i);
                    Ty::Window(i as u16)
                }
                None if self.manifest.is_vague(name) => Ty::Any,
                None => {
                    self.report.add(Code::UnknownWindow, at, format!("RULE declares no window `{name}`"));
                    self.report.suggest(name, self.manifest.windows.iter().map(|w| w.name.as_str()));
                    Ty::Any
                }
            },
            Ty::Params => match self.manifest.params.iter().find(|p| p.name == name) {
                Some(p) => {
                    self.facts.params.insert(name.to_string());
                    match p.value {
                        ParamValue::Number(_) => Ty::Num,
                        ParamValue::Bool(_) => Ty::Bool,
                        ParamValue::Text(_) => Ty::Text,
                    }
                }
                None if self.manifest.is_vague(name) => Ty::Any,
                None => {
                    self.report.add(Code::UnknownParam, at, format!("RULE declares no param `{name}`"));
                    self.report.suggest(name, self.manifest.params.iter().map(|p| p.name.as_str()));
                    Ty::Any
                }
            },
            Ty::Window(i) => self.window_property(i as usize, name, at),
            _ => match natives::property(base, name) {
                Some(t) => t,
                None => {
                    let known: Vec<&str> = natives::properties(base);
                    self.report.add(
                        Code::UnknownProperty,
                        at,
                        format!("{} has no property `{name}`", base.name()),
                    );
                    self.report.suggest(name, known);
                    Ty::Any
                }
            },
        }
    }

    pub(super) fn window_property(&mut self, i: usize, name: &str, at: Position) -> Ty {
        let (decl, shape) = (&self.manifest.windows[i], self.manifest.windows[i].shape);
        if name == "text" || name == "unit" || name == "name" {
            return Ty::Text;
        }
        let Some(prop) = Prop::from_name(name) else {
            self.report.add(Code::UnknownProperty, at, format!("a window has no property `{name}`"));
            self.report.suggest(name, Prop::ALL.iter().map(|(n, _)| *n).chain(["text", "unit"]));
            return Ty::Any;
        };
        let time = shape.unit == Unit::Time;
        let (fits, why) = match prop {
            Prop::Known => return Ty::Bool,
            Prop::Overdue if decl.after.is_some() => return Ty::Bool,
            Prop::Overdue => (false, "comes after no other"),
            Prop::Ns | Prop::Us | Prop::Ms | Prop::S => (time, "is no time"),
            Prop::Pct => (shape.unit == Unit::Ratio, "is no ratio"),
            Prop::Kib | Prop::Mib | Prop::Gib => (shape.unit == Unit::Bytes, "is not in bytes"),
            Prop::Dev | Prop::Sigma => (shape.baseline, "is no baseline"),
            Prop::Now => {
                let c = decl.calc;
                (
                    matches!(c, crate::window::Calc::Baseline | crate::window::Calc::Ewma),
                    "is no baseline or ewma",
                )
            }
            Prop::Value => (name != "mean" || shape.baseline, "is no baseline"),
        };
        if !fits {
            let message = format!("window `{}` {why}, so it has no `.{name}`", decl.name);
            let unit = shape.shown();
            let unit = if unit.is_empty() { String::new() } else { format!(" (in {unit})") };
            self.report.add(Code::UnknownProperty, at, message).help(format!("`.value`{unit} always exists"));
        }
        Ty::Num
    }

    pub(super) fn method(&mut self, base: Ty, f: &FnCallExpr, at: Position) -> Ty {
        let args: Vec<Ty> = f.args.iter().map(|a| self.expr(a)).collect();
        self.note_texts(base, f, at);
        let name = f.name.as_str();
        if let Some(t) = natives::method(base, name, &args) {
            return t;
        }
        if let Ty::Any = base {
            // Whatever it is, nothing has other methods. Rhai's own reach further than limits on sizes and operations
            // do: one `replace` can make a text of 256 MiB, one `dedup` compares everything with everything.
            if !natives::is_method(name) {
                self.report.add(Code::UnknownFunction, at, format!("nothing has a method `{name}`"));
                self.report.suggest(name, natives::method_names());
            }
            return Ty::Any;
        }
        // Rhai also allows one's own functions as methods through `this`; rules do without.
        let known = natives::methods(base);
        match known.iter().find(|m| **m == name) {
            Some(_) => {
                let got: Vec<&str> = args.iter().map(|t| t.name()).collect();
                self.report
                    .add(Code::TypeMismatch, at, format!("`{name}` does not take ({})", got.join(", ")))
                    .help(natives::usage(base, name));
            }
            None => {
                self.report.add(Code::UnknownFunction, at, format!("{} has no method `{name}`", base.name()));
                self.report.suggest(name, known);
            }
        }
        Ty::Any
    }

    /// Remembers the causes that a verdict names and a test expects.
    pub(super) fn note_texts(&mut self, base: Ty, f: &FnCallExpr, at: Position) {
        let Some(Expr::StringConstant(s, _)) = f.args.first() else { return };
        match (base, f.name.as_str()) {
            (Ty::Ctx, "top") => {
                let named = |w: &WindowDecl| {
                    w.name == s.as_str() || *s == format!("{}.{}", w.stream, w.field).as_str()
                };
                match self.manifest.windows.iter().position(named) {
                    Some(i) => {
                        self.facts.windows.insert(i);
                    }
                    None if self.manifest.is_vague(s) || !self.manifest.broken.is_empty() => {}
                    None => {
                        let message = format!("`top` knows no window or windowed field `{s}` of this rule");
                        self.report.add(Code::UnknownWindow, at, message);
                        self.report.suggest(s, self.manifest.windows.iter().map(|w| w.name.as_str()));
                    }
                }
            }
            (Ty::Checkpoint, "cause") => {
                self.facts.expected.insert(s.to_string());
            }
            (Ty::Checkpoint, "health") if !natives::HEALTH.contains(&s.as_str()) => {
                self.report.add(Code::TestSyntax, at, format!("`{s}` is no health to expect"));
                self.report.suggest(s, natives::HEALTH);
            }
            (Ty::Checkpoint, "expect") => {
                if s == "resolved" {
                    self.facts.resolves = true;
                }
                if !natives::STATES.contains(&s.as_str()) {
                    self.report.add(Code::TestSyntax, at, format!("`{s}` is no state to expect"));
                    self.report.suggest(s, natives::STATES);
                }
            }
            _ => {}
        }
    }
}
