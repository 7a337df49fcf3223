//! RULE as a tree of literals with their places, read from the AST without running anything.

use rhai::{ASTFlags, Expr, Stmt};

use super::codes::Code;
use super::diag::{Place, Report};

/// A literal value and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Lit {
    pub(crate) at: Place,
    pub(crate) value: Value,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Bool(bool),
    Number(f64),
    Text(String),
    List(Vec<Lit>),
    /// Keys in the order they were written.
    Map(Vec<(String, Place, Lit)>),
    /// What could not be read; that is reported already, so whoever meets it says nothing more.
    Bad,
}

impl Value {
    /// What to call it in a message.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Value::Bool(_) => "a boolean",
            Value::Number(_) => "a number",
            Value::Text(_) => "a string",
            Value::List(_) => "an array",
            Value::Map(_) => "a map",
            Value::Bad => "something calculated",
        }
    }
}

/// Finds `const RULE` among the top-level statements and reads it.
pub(crate) fn find_rule(statements: &[Stmt], report: &mut Report<'_>) -> Option<Lit> {
    let mut found = None;
    for s in statements {
        match s {
            Stmt::Var(v, flags, pos) if v.0.name == "RULE" => {
                if !flags.contains(ASTFlags::CONSTANT) {
                    report.add(Code::NoRule, *pos, "RULE must be declared with `const`, not `let`");
                }
                if found.is_some() {
                    report.add(Code::DuplicateId, *pos, "RULE is declared twice");
                }
                found = Some(read(&v.1, report));
            }
            Stmt::Noop(_) => {}
            other => {
                report
                    .add(
                        Code::Forbidden,
                        other.position(),
                        "only `const RULE` and functions may stand at the top level",
                    )
                    .help("put constants into RULE's `params` and code into functions");
            }
        }
    }
    if found.is_none() {
        report.add(Code::NoRule, Place::default(), "this file declares no `const RULE = #{…};`");
    }
    found
}

fn read(e: &Expr, report: &mut Report<'_>) -> Lit {
    let at = Place::from(e.start_position());
    let value = match e {
        Expr::BoolConstant(b, _) => Value::Bool(*b),
        Expr::IntegerConstant(i, _) => Value::Number(*i as f64),
        Expr::FloatConstant(x, _) => Value::Number(**x),
        Expr::StringConstant(s, _) => Value::Text(s.to_string()),
        Expr::CharConstant(c, _) => Value::Text(c.to_string()),
        Expr::Array(items, _) => Value::List(items.iter().map(|i| read(i, report)).collect()),
        Expr::Map(m, _) => {
            let mut out: Vec<(String, Place, Lit)> = Vec::with_capacity(m.0.len());
            for (k, v) in &m.0 {
                if out.iter().any(|(name, ..)| name == k.name.as_str()) {
                    report.add(Code::BadValue, k.pos, format!("key `{}` is written twice", k.name));
                }
                out.push((k.name.to_string(), k.pos.into(), read(v, report)));
            }
            Value::Map(out)
        }
        Expr::FnCall(f, _) if f.name == "-" && f.args.len() == 1 => match read(&f.args[0], report).value {
            Value::Number(x) => Value::Number(-x),
            Value::Bad => Value::Bad,
            _ => {
                report.add(Code::NotLiteral, at, "only numbers can be negative");
                Value::Bad
            }
        },
        // A literal that the parser has folded already, such as a constant array.
        Expr::DynamicConstant(d, _) => return dynamic(d, at, report),
        _ => {
            report
                .add(Code::NotLiteral, at, "this is calculated, but RULE is read without running the script")
                .help("write the value out");
            Value::Bad
        }
    };
    Lit { at, value }
}

fn dynamic(d: &rhai::Dynamic, at: Place, report: &mut Report<'_>) -> Lit {
    let value = if let Ok(b) = d.as_bool() {
        Value::Bool(b)
    } else if let Ok(i) = d.as_int() {
        Value::Number(i as f64)
    } else if let Ok(x) = d.as_float() {
        Value::Number(x)
    } else if let Some(s) = d.read_lock::<rhai::ImmutableString>() {
        Value::Text(s.to_string())
    } else if let Some(a) = d.read_lock::<rhai::Array>() {
        Value::List(a.iter().map(|x| dynamic(x, at, report)).collect())
    } else if let Some(m) = d.read_lock::<rhai::Map>() {
        let mut out = Vec::new();
        for (k, v) in m.iter() {
            out.push((k.to_string(), at, dynamic(v, at, report)));
        }
        Value::Map(out)
    } else {
        report.add(Code::NotLiteral, at, format!("a {} cannot stand in RULE", d.type_name()));
        Value::Bad
    };
    Lit { at, value }
}

/// A map that is taken apart key by key; what was not taken is unknown.
pub(crate) struct Taker<'l> {
    what: String,
    at: Place,
    entries: &'l [(String, Place, Lit)],
    taken: Vec<&'static str>,
}

impl<'l> Taker<'l> {
    /// Begins with `lit`, which must be a map; `what` names it in messages.
    pub(crate) fn new(lit: &'l Lit, what: impl Into<String>, report: &mut Report<'_>) -> Option<Taker<'l>> {
        let what = what.into();
        match &lit.value {
            Value::Map(entries) => Some(Taker { what, at: lit.at, entries, taken: Vec::new() }),
            Value::Bad => None,
            other => {
                report.add(
                    Code::BadValue,
                    lit.at,
                    format!("{what} must be a map `#{{…}}`, not {}", other.kind()),
                );
                None
            }
        }
    }

    pub(crate) fn get(&mut self, key: &'static str) -> Option<&'l Lit> {
        self.taken.push(key);
        self.entries.iter().find(|(k, ..)| k == key).map(|(.., v)| v)
    }

    pub(crate) fn need(&mut self, key: &'static str, report: &mut Report<'_>) -> Option<&'l Lit> {
        let found = self.get(key);
        if found.is_none() {
            report.add(Code::MissingKey, self.at, format!("{} has no `{key}`", self.what));
        }
        found
    }

    pub(crate) fn text(&mut self, key: &'static str, report: &mut Report<'_>) -> Option<(&'l str, Place)> {
        let lit = self.get(key)?;
        text(lit, &format!("`{key}` of {}", self.what), report)
    }

    pub(crate) fn need_text(
        &mut self,
        key: &'static str,
        report: &mut Report<'_>,
    ) -> Option<(&'l str, Place)> {
        let lit = self.need(key, report)?;
        text(lit, &format!("`{key}` of {}", self.what), report)
    }

    /// A number within bounds.
    pub(crate) fn number(
        &mut self,
        key: &'static str,
        bounds: std::ops::RangeInclusive<f64>,
        report: &mut Report<'_>,
    ) -> Option<f64> {
        let lit = self.get(key)?;
        match lit.value {
            Value::Number(x) if bounds.contains(&x) => Some(x),
            Value::Number(x) => {
                let (lo, hi) = (bounds.start(), bounds.end());
                report.add(
                    Code::BadValue,
                    lit.at,
                    format!("`{key}` is {x}, but must lie between {lo} and {hi}"),
                );
                None
            }
            Value::Bad => None,
            ref other => {
                report.add(Code::BadValue, lit.at, format!("`{key}` must be a number, not {}", other.kind()));
                None
            }
        }
    }

    /// A duration in nanoseconds.
    pub(crate) fn duration(&mut self, key: &'static str, report: &mut Report<'_>) -> Option<(u64, Place)> {
        let (s, at) = self.text(key, report)?;
        match whystall_event::parse_duration(s) {
            Ok(ns) => Some((ns, at)),
            Err(e) => {
                report.add(Code::BadValue, at, format!("`{key}`: {e}"));
                None
            }
        }
    }

    /// A string or an array of strings.
    pub(crate) fn texts(&mut self, key: &'static str, report: &mut Report<'_>) -> Vec<(String, Place)> {
        self.get(key).map(|lit| texts(lit, &format!("`{key}` of {}", self.what), report)).unwrap_or_default()
    }

    /// Reports the keys that nobody asked for.
    pub(crate) fn finish(self, report: &mut Report<'_>) {
        for (k, at, _) in self.entries {
            if !self.taken.contains(&k.as_str()) {
                report.add(Code::UnknownKey, *at, format!("{} has no key `{k}`", self.what));
                report.suggest(k, self.taken.iter().copied());
            }
        }
    }
}

/// `lit` as text.
pub(crate) fn text<'l>(lit: &'l Lit, what: &str, report: &mut Report<'_>) -> Option<(&'l str, Place)> {
    match &lit.value {
        Value::Text(s) => Some((s, lit.at)),
        Value::Bad => None,
        other => {
            report.add(Code::BadValue, lit.at, format!("{what} must be a string, not {}", other.kind()));
            None
        }
    }
}

/// `lit` as one text or an array of them.
pub(crate) fn texts(lit: &Lit, what: &str, report: &mut Report<'_>) -> Vec<(String, Place)> {
    match &lit.value {
        Value::Text(s) => vec![(s.clone(), lit.at)],
        Value::List(items) => {
            items.iter().filter_map(|i| text(i, what, report).map(|(s, at)| (s.to_string(), at))).collect()
        }
        Value::Bad => Vec::new(),
        other => {
            report.add(
                Code::BadValue,
                lit.at,
                format!("{what} must be a string or an array of strings, not {}", other.kind()),
            );
            Vec::new()
        }
    }
}
