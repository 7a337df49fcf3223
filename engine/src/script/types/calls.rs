//! Calls of functions and operators.

use rhai::{Expr, FnCallExpr, Position};

use super::super::codes::Code;
use super::super::natives::{self, Ty};
use super::Checker;

impl Checker<'_, '_> {
    pub(super) fn call(&mut self, f: &FnCallExpr, at: Position) -> Ty {
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
        if self.lost.iter().any(|l| l == name) {
            return Ty::Any;
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
        // A library's functions are shown as rules write them.
        let shown = name.replace("__", "::");
        self.report.add(Code::UnknownFunction, at, format!("there is no function `{shown}`"));
        let mut names: Vec<String> = natives::function_names().map(str::to_string).collect();
        names.extend(self.functions.keys().map(|(n, _)| n.replace("__", "::")));
        self.report.suggest(&shown, names.iter().map(String::as_str));
        Ty::Any
    }

    pub(super) fn operator(&mut self, f: &FnCallExpr, at: Position) -> Ty {
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
