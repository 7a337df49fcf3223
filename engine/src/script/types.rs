//! Type-checks the functions of a rule file against RULE and against what the sandbox offers. Rhai itself compiles
//! unknown properties, unknown functions and comparisons of unlike types without a word; here they are errors.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use rhai::{ASTFlags, Expr, FnCallExpr, Position, Stmt};
use whystall_event::Unit;

use super::codes::Code;
use super::diag::{Place, Report};
use super::lower::{Function, Functions};
use super::manifest::{Manifest, ParamValue, RESERVED_WINDOWS};
use super::natives::{self, Ty};
use super::program::Prop;

/// What the checker learnt about a file on the way.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    /// Indices of the windows that some function reads.
    pub(crate) windows: BTreeSet<usize>,
    /// Names of the params that some function reads.
    pub(crate) params: BTreeSet<String>,
    /// Causes that `verdict` can conclude, with where.
    pub(crate) causes: BTreeMap<String, Place>,
    /// Causes that tests expect.
    pub(crate) expected: BTreeSet<String>,
    /// Whether some test expects `resolved`.
    pub(crate) resolves: bool,
    /// Names of the tests.
    pub(crate) tests: Vec<String>,
}

/// Checks every function of the file.
pub(crate) fn check(functions: &Functions, manifest: &Manifest, report: &mut Report<'_>) -> Facts {
    let mut c = Checker {
        functions,
        manifest,
        report,
        facts: Facts::default(),
        scope: Vec::new(),
        visited: HashSet::new(),
        called: HashSet::new(),
        returns: Vec::new(),
    };
    let mut defs: Vec<&Function> = functions.values().collect();
    defs.sort_by_key(|d| (Place::from(d.at), d.name.clone()));
    for def in &defs {
        let args: Vec<Ty> = match (def.name.as_str(), def.params.len()) {
            ("enter" | "leave", 2) => vec![Ty::Windows, Ty::Params],
            ("verdict", 3) => vec![Ty::Windows, Ty::Params, Ty::Ctx],
            ("enter" | "leave", n) => {
                c.signature(def, &format!("`{}` takes (w, p), not {n} parameters", def.name));
                continue;
            }
            ("verdict", n) => {
                c.signature(def, &format!("`verdict` takes (w, p, ctx), not {n} parameters"));
                continue;
            }
            (name, 1) if name.starts_with("test_") => {
                c.facts.tests.push(name.to_string());
                vec![Ty::Test]
            }
            (name, n) if name.starts_with("test_") => {
                c.signature(def, &format!("a test takes (t), not {n} parameters"));
                continue;
            }
            _ => continue,
        };
        let result = c.function(def, &args);
        match def.name.as_str() {
            "enter" | "leave" if !matches!(result, Ty::Bool | Ty::Any) => {
                let what = format!("`{}` returns {}, not true or false", def.name, result.name());
                c.report.add(Code::NotBool, def.at, what);
            }
            "verdict" if !matches!(result, Ty::Verdict | Ty::Any) => {
                c.report
                    .add(
                        Code::TypeMismatch,
                        def.at,
                        format!("`verdict` returns {}, not a cause", result.name()),
                    )
                    .help("each path must end in `cause(\"…\", \"high\").says(…)…`");
            }
            _ => {}
        }
    }
    if !functions.keys().any(|(n, _)| n == "enter") {
        c.report.add(Code::NoEnter, Place { line: 1, column: 1 }, "the rule has no function `enter(w, p)`");
    }
    for def in &defs {
        let known =
            ["enter", "leave", "verdict"].contains(&def.name.as_str()) || def.name.starts_with("test_");
        let key = (def.name.to_string(), def.params.len());
        if !known && !c.called.contains(&key) {
            c.report.add(Code::BadFunction, def.at, format!("nothing calls the function `{}`", def.name));
            c.report.suggest(&def.name, ["enter", "leave", "verdict"]);
        }
    }
    c.facts
}

struct Checker<'a, 'r> {
    functions: &'a Functions,
    manifest: &'a Manifest,
    report: &'a mut Report<'r>,
    facts: Facts,
    scope: Vec<(String, Ty)>,
    /// Calls of helpers that were checked, by name and types, so that recursion ends.
    visited: HashSet<(String, Vec<Ty>)>,
    called: HashSet<(String, usize)>,
    /// Types of the `return`s of the function being checked.
    returns: Vec<Ty>,
}

impl Checker<'_, '_> {
    fn signature(&mut self, def: &Function, message: &str) {
        self.report.add(Code::BadFunction, def.at, message);
    }

    fn function(&mut self, def: &Function, args: &[Ty]) -> Ty {
        if !self.visited.insert((def.name.to_string(), args.to_vec())) {
            return Ty::Any;
        }
        let scope = def.params.iter().map(|p| p.to_string()).zip(args.iter().copied()).collect();
        let outer = std::mem::replace(&mut self.scope, scope);
        let outer_returns = std::mem::take(&mut self.returns);
        let last = self.block(&def.body);
        let mut returns = std::mem::replace(&mut self.returns, outer_returns);
        self.scope = outer;
        if !always_returns(&def.body) {
            returns.push(last);
        }
        let first = returns.first().copied().unwrap_or(Ty::Unit);
        if returns.iter().all(|t| *t == first) {
            first
        } else {
            returns.into_iter().find(|t| *t == Ty::Unit).unwrap_or(Ty::Any)
        }
    }

    fn block(&mut self, statements: &[Stmt]) -> Ty {
        let mark = self.scope.len();
        let mut last = Ty::Unit;
        for s in statements {
            last = self.statement(s);
        }
        self.scope.truncate(mark);
        last
    }

    fn statement(&mut self, s: &Stmt) -> Ty {
        match s {
            Stmt::Var(v, ..) => {
                let t = self.expr(&v.1);
                self.scope.push((v.0.name.to_string(), t));
                Ty::Unit
            }
            Stmt::Return(e, flags, _) => {
                let t = e.as_ref().map_or(Ty::Unit, |e| self.expr(e));
                if !flags.contains(ASTFlags::BREAK) {
                    self.returns.push(t);
                }
                Ty::Unit
            }
            Stmt::If(f, _) => {
                self.condition(&f.expr);
                let a = self.block(f.body.statements());
                let b = self.block(f.branch.statements());
                match (always_returns(f.body.statements()), always_returns(f.branch.statements())) {
                    (true, false) => b,
                    (false, true) => a,
                    _ if a == b => a,
                    _ if f.branch.is_empty() => Ty::Unit,
                    _ => Ty::Any,
                }
            }
            Stmt::Expr(e) => self.expr(e),
            Stmt::FnCall(f, pos) => self.call(f, *pos),
            Stmt::Block(b) => self.block(b.statements()),
            Stmt::While(f, _) | Stmt::Do(f, ..) => {
                if !matches!(f.expr, Expr::Unit(_)) {
                    self.condition(&f.expr);
                }
                self.block(f.body.statements());
                Ty::Unit
            }
            Stmt::For(f, _) => {
                let over = self.expr(&f.2.expr);
                let mark = self.scope.len();
                let item = if over == Ty::List { Ty::Item } else { Ty::Any };
                self.scope.push((f.0.name.to_string(), item));
                if let Some(counter) = &f.1 {
                    self.scope.push((counter.name.to_string(), Ty::Int));
                }
                self.block(f.2.body.statements());
                self.scope.truncate(mark);
                Ty::Unit
            }
            Stmt::Switch(x, _) => {
                self.expr(&x.0);
                for case in x.1.expressions.iter() {
                    self.expr(&case.lhs);
                    self.expr(&case.rhs);
                }
                Ty::Any
            }
            Stmt::Assignment(x) => {
                let (a, b) = (self.expr(&x.1.lhs), self.expr(&x.1.rhs));
                if let (Expr::Variable(v, ..), false) = (&x.1.lhs, a == b)
                    && let Some(slot) = self.scope.iter_mut().rev().find(|(n, _)| n == v.1.as_str())
                {
                    slot.1 = Ty::Any;
                }
                Ty::Unit
            }
            Stmt::TryCatch(f, pos) => {
                self.report.add(Code::Forbidden, *pos, "`try` would hide that a window is unknown");
                self.block(f.body.statements());
                Ty::Any
            }
            Stmt::Import(_, pos) | Stmt::Export(_, pos) => {
                self.report.add(Code::Forbidden, *pos, "rules cannot load or export modules");
                Ty::Unit
            }
            _ => Ty::Unit,
        }
    }

    fn condition(&mut self, e: &Expr) {
        let t = self.expr(e);
        if !matches!(t, Ty::Bool | Ty::Any | Ty::Item) {
            self.report.add(
                Code::TypeMismatch,
                e.start_position(),
                format!("a condition cannot be {}", t.name()),
            );
        }
    }

    fn expr(&mut self, e: &Expr) -> Ty {
        let at = e.start_position();
        match e {
            Expr::FloatConstant(..) => Ty::Num,
            Expr::IntegerConstant(..) => Ty::Int,
            Expr::BoolConstant(..) => Ty::Bool,
            Expr::StringConstant(..) | Expr::CharConstant(..) => Ty::Text,
            Expr::InterpolatedString(parts, _) => {
                for p in parts.iter() {
                    if let t @ (Ty::Window(_) | Ty::Windows | Ty::Params | Ty::Ctx | Ty::Verdict) =
                        self.expr(p)
                    {
                        self.report
                            .add(Code::TypeMismatch, p.start_position(), format!("{} is no text", t.name()))
                            .help("a window is shown with `.text`");
                    }
                }
                Ty::Text
            }
            Expr::Array(items, _) => {
                for i in items.iter() {
                    self.expr(i);
                }
                Ty::Array
            }
            Expr::Map(m, _) => {
                for (_, v) in m.0.iter() {
                    self.expr(v);
                }
                Ty::Item
            }
            Expr::Unit(_) => Ty::Unit,
            Expr::Variable(v, ..) => match self.scope.iter().rev().find(|(n, _)| n == v.1.as_str()) {
                Some((_, t)) => *t,
                None => {
                    self.report.add(Code::UnknownVariable, at, format!("there is no variable `{}`", v.1));
                    let names: Vec<String> = self.scope.iter().map(|(n, _)| n.clone()).collect();
                    self.report.suggest(&v.1, names.iter().map(String::as_str));
                    Ty::Any
                }
            },
            Expr::And(list, _) | Expr::Or(list, _) => {
                for x in list.iter() {
                    self.condition(x);
                }
                Ty::Bool
            }
            Expr::Coalesce(list, _) => {
                for x in list.iter() {
                    self.expr(x);
                }
                Ty::Any
            }
            Expr::Stmt(b) => self.block(b.statements()),
            Expr::FnCall(f, pos) => self.call(f, *pos),
            Expr::Index(b, ..) => {
                let base = self.expr(&b.lhs);
                self.expr(&b.rhs);
                match base {
                    Ty::Windows | Ty::Params => {
                        self.report
                            .add(
                                Code::UnknownProperty,
                                at,
                                "windows and params are read by name, not by index",
                            )
                            .help("write `w.NAME` or `p.NAME`");
                        Ty::Any
                    }
                    Ty::List => Ty::Item,
                    _ => Ty::Any,
                }
            }
            Expr::Dot(b, ..) => {
                let base = self.expr(&b.lhs);
                self.chain(base, &b.rhs)
            }
            _ => Ty::Any,
        }
    }

    /// `base.member.member…`; the parser nests to the right.
    fn chain(&mut self, base: Ty, e: &Expr) -> Ty {
        match e {
            Expr::Dot(b, ..) | Expr::Index(b, ..) => {
                let t = self.member(base, &b.lhs);
                if matches!(e, Expr::Index(..)) {
                    self.expr(&b.rhs);
                    return if t == Ty::List { Ty::Item } else { Ty::Any };
                }
                self.chain(t, &b.rhs)
            }
            other => self.member(base, other),
        }
    }

    fn member(&mut self, base: Ty, e: &Expr) -> Ty {
        let at = e.start_position();
        match e {
            Expr::Property(p, _) => self.property(base, p.2.as_str(), at),
            Expr::MethodCall(f, _) => self.method(base, f, at),
            other => self.expr(other),
        }
    }

    fn property(&mut self, base: Ty, name: &str, at: Position) -> Ty {
        match base {
            Ty::Windows if RESERVED_WINDOWS.contains(&name) => Ty::Bool,
            Ty::Windows => match self.manifest.windows.iter().position(|w| w.name == name) {
                Some(i) => {
                    self.facts.windows.insert(i);
                    Ty::Window(i as u16)
                }
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

    fn window_property(&mut self, i: usize, name: &str, at: Position) -> Ty {
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

    fn method(&mut self, base: Ty, f: &FnCallExpr, at: Position) -> Ty {
        let args: Vec<Ty> = f.args.iter().map(|a| self.expr(a)).collect();
        self.note_texts(base, f, at);
        let name = f.name.as_str();
        if let Some(t) = natives::method(base, name, &args) {
            return t;
        }
        if let Ty::Any = base {
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
    fn note_texts(&mut self, base: Ty, f: &FnCallExpr, at: Position) {
        let Some(Expr::StringConstant(s, _)) = f.args.first() else { return };
        match (base, f.name.as_str()) {
            (Ty::Checkpoint, "cause") => {
                self.facts.expected.insert(s.to_string());
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

    fn call(&mut self, f: &FnCallExpr, at: Position) -> Ty {
        let name = f.name.as_str();
        if f.op_token.is_some() || (name == "!" || name == "-") && f.args.len() == 1 {
            return self.operator(f, at);
        }
        let args: Vec<Ty> = f.args.iter().map(|a| self.expr(a)).collect();
        if name == "cause"
            && let Some(Expr::StringConstant(s, pos)) = f.args.first()
        {
            self.facts.causes.entry(s.to_string()).or_insert((*pos).into());
        }
        if let Some(def) = self.functions.get(&(name.to_string(), args.len())) {
            self.called.insert((name.to_string(), args.len()));
            return self.function(def, &args);
        }
        if let Some(t) = natives::function(name, &args) {
            return t;
        }
        if natives::FORBIDDEN.contains(&name) {
            self.report.add(Code::Forbidden, at, format!("`{name}` is switched off in rules"));
            return Ty::Any;
        }
        if natives::is_function(name) {
            let got: Vec<&str> = args.iter().map(|t| t.name()).collect();
            self.report
                .add(Code::TypeMismatch, at, format!("`{name}` does not take ({})", got.join(", ")))
                .help(natives::usage(Ty::Unit, name));
            return Ty::Any;
        }
        self.report.add(Code::UnknownFunction, at, format!("there is no function `{name}`"));
        let mut names: Vec<&str> = natives::function_names().collect();
        names.extend(self.functions.keys().map(|(n, _)| n.as_str()));
        self.report.suggest(name, names);
        Ty::Any
    }

    fn operator(&mut self, f: &FnCallExpr, at: Position) -> Ty {
        let name = f.name.as_str();
        let args: Vec<Ty> = f.args.iter().map(|a| self.expr(a)).collect();
        let [a, b] = match args[..] {
            [t] => {
                let fits = match name {
                    "!" => matches!(t, Ty::Bool | Ty::Any | Ty::Item),
                    _ => matches!(t, Ty::Num | Ty::Int | Ty::Any | Ty::Item),
                };
                if !fits {
                    self.report.add(
                        Code::TypeMismatch,
                        at,
                        format!("`{name}` cannot be applied to {}", t.name()),
                    );
                }
                return if name == "!" { Ty::Bool } else { t };
            }
            [a, b] => [a, b],
            _ => return Ty::Any,
        };
        let open = |t: Ty| matches!(t, Ty::Any | Ty::Item);
        let num = |t: Ty| matches!(t, Ty::Num | Ty::Int);
        let arithmetic = matches!(name, "+" | "-" | "*" | "/" | "%" | "**");
        if name == "/" && a == Ty::Int && b == Ty::Int {
            self.report
                .add(Code::IntegerDivision, at, "this divides two integers and drops the fraction")
                .help("write one of them with a decimal point");
        }
        let fits = open(a)
            || open(b)
            || num(a) && num(b)
            || (a, b) == (Ty::Text, Ty::Text)
            || (a, b) == (Ty::Bool, Ty::Bool) && matches!(name, "==" | "!=" | "|" | "&" | "^")
            || name == "+"
                && (a == Ty::Text || b == Ty::Text)
                && !matches!((a, b), (Ty::Window(_), _) | (_, Ty::Window(_)))
            || name == "+" && (a, b) == (Ty::Array, Ty::Array)
            || name == "in";
        if !fits {
            let (an, bn) = (a.name(), b.name());
            self.report.add(Code::TypeMismatch, at, format!("`{name}` between {an} and {bn}"));
            if matches!(a, Ty::Window(_)) || matches!(b, Ty::Window(_)) {
                self.report.help("read the window's number: `.value`, `.ms`, `.pct`, …");
            }
        }
        match name {
            _ if !arithmetic => Ty::Bool,
            _ if open(a) || open(b) => Ty::Any,
            _ if (a, b) == (Ty::Int, Ty::Int) => Ty::Int,
            _ if num(a) && num(b) => Ty::Num,
            _ => a,
        }
    }
}

fn always_returns(statements: &[Stmt]) -> bool {
    statements.iter().any(|s| match s {
        Stmt::Return(..) => true,
        Stmt::If(f, _) => always_returns(f.body.statements()) && always_returns(f.branch.statements()),
        Stmt::Block(b) => always_returns(b.statements()),
        _ => false,
    })
}
