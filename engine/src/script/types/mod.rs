//! Type-checks the functions of a rule file against RULE and against what the sandbox offers. Rhai itself compiles
//! unknown properties, unknown functions and comparisons of unlike types without a word; here they are errors.

mod access;
mod calls;

use std::collections::{BTreeMap, BTreeSet, HashSet};

use rhai::{ASTFlags, Expr, Stmt};

use super::codes::Code;
use super::diag::{Place, Report};
use super::functions::{Function, Functions};
use super::manifest::Manifest;
use super::natives::Ty;

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
///
/// `lost` are functions that the file has but that could not be parsed: calls of them are not looked into.
pub(crate) fn check(
    functions: &Functions,
    manifest: &Manifest,
    lost: &[String],
    report: &mut Report<'_>,
) -> Facts {
    let mut c = Checker {
        functions,
        manifest,
        lost,
        report,
        facts: Facts::default(),
        scope: Vec::new(),
        visited: HashSet::new(),
        called: HashSet::new(),
        returns: Vec::new(),
        nesting: 0,
        constants: HashSet::new(),
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
    if !functions.keys().any(|(n, _)| n == "enter") && !lost.iter().any(|l| l == "enter" || l.is_empty()) {
        c.report.add(Code::NoEnter, Place { line: 1, column: 1 }, "the rule has no function `enter(w, p)`");
    }
    for def in &defs {
        let known =
            ["enter", "leave", "verdict"].contains(&def.name.as_str()) || def.name.starts_with("test_");
        let key = (def.name.to_string(), def.params.len());
        // A rule need not use all of a library.
        let known = known || def.name.contains("__");
        if !known && lost.is_empty() && !c.called.contains(&key) {
            c.report.add(Code::BadFunction, def.at, format!("nothing calls the function `{}`", def.name));
            c.report.suggest(&def.name, ["enter", "leave", "verdict"]);
        }
    }
    c.facts
}

/// Checks the functions of a library for arguments of any type; each rule checks them again with its own.
pub(crate) fn check_library(
    functions: &Functions,
    manifest: &Manifest,
    constants: &BTreeMap<String, String>,
    lost: &[String],
    report: &mut Report<'_>,
) {
    let mut c = Checker {
        functions,
        manifest,
        lost,
        report,
        facts: Facts::default(),
        scope: Vec::new(),
        visited: HashSet::new(),
        called: HashSet::new(),
        returns: Vec::new(),
        nesting: 0,
        constants: constants.keys().cloned().collect(),
    };
    let mut defs: Vec<&Function> = functions.values().collect();
    defs.sort_by_key(|d| (Place::from(d.at), d.name.clone()));
    for def in defs {
        c.function(def, &vec![Ty::Any; def.params.len()]);
    }
}

/// Statements and expressions within each other, through calls of helpers too, that are looked into: the stack has an
/// end. What is deeper fails when it runs.
const MAX_NESTING: usize = 200;
/// Helpers are checked anew for each combination of their arguments' types, but only so often.
const MAX_VISITED: usize = 256;

struct Checker<'a, 'r> {
    functions: &'a Functions,
    manifest: &'a Manifest,
    lost: &'a [String],
    report: &'a mut Report<'r>,
    facts: Facts,
    scope: Vec<(String, Ty)>,
    /// Calls of helpers that were checked, by name and types, so that recursion ends.
    visited: HashSet<(String, Vec<Ty>)>,
    called: HashSet<(String, usize)>,
    /// Types of the `return`s of the function being checked.
    returns: Vec<Ty>,
    nesting: usize,
    /// A library's own constants, which any of its functions may use.
    constants: HashSet<String>,
}

impl Checker<'_, '_> {
    fn signature(&mut self, def: &Function, message: &str) {
        self.report.add(Code::BadFunction, def.at, message);
    }

    fn function(&mut self, def: &Function, args: &[Ty]) -> Ty {
        if self.visited.len() >= MAX_VISITED || !self.visited.insert((def.name.to_string(), args.to_vec())) {
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
        self.nested(|c| c.statement_within(s))
    }

    fn expr(&mut self, e: &Expr) -> Ty {
        self.nested(|c| c.expr_within(e))
    }

    fn nested(&mut self, check: impl FnOnce(&mut Self) -> Ty) -> Ty {
        if self.nesting >= MAX_NESTING {
            return Ty::Any;
        }
        self.nesting += 1;
        let t = check(self);
        self.nesting -= 1;
        t
    }

    fn statement_within(&mut self, s: &Stmt) -> Ty {
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

    fn expr_within(&mut self, e: &Expr) -> Ty {
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
                None if self.constants.contains(v.1.as_str()) => Ty::Any,
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
                if matches!(base, Ty::Windows | Ty::Params) {
                    self.report
                        .add(Code::UnknownProperty, at, "windows and params are read by name, not by index")
                        .help("write `w.NAME` or `p.NAME`");
                }
                self.index(base, &b.rhs)
            }
            Expr::Dot(b, ..) => {
                let base = self.expr(&b.lhs);
                self.chain(base, &b.rhs)
            }
            _ => Ty::Any,
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
