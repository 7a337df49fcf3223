//! Reads values out of a parsed TOML document and collects what is wrong with them, instead of stopping at the first.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};
use whystall_event::text::{did_you_mean, shorten};
use whystall_event::{format_duration, parse_duration};

use super::error::{Problem, Source};

pub(super) type Value<'t> = Spanned<DeValue<'t>>;

/// The source and the problems found so far.
#[derive(Debug)]
pub(super) struct Walk {
    pub(super) source: Source,
    pub(super) problems: Vec<Problem>,
    /// Keys that [`Walk::only`] takes besides those it is told.
    pub(super) common: &'static [&'static str],
}

impl Walk {
    /// Notes a problem; add help to what this returns.
    pub(super) fn problem(&mut self, span: Range<usize>, message: impl Into<String>) -> &mut Problem {
        let at = self.problems.len();
        self.problems.push(self.source.problem(span, message));
        &mut self.problems[at]
    }

    /// Notes a problem of the wrong kind of value.
    pub(super) fn expected<T>(&mut self, value: &Value, what: &str) -> Option<T> {
        self.problem(value.span(), format!("expected {what}, found {}", kind(value.get_ref())));
        None
    }

    /// Notes a key that is none of `known`; `what` is what it was taken for.
    pub(super) fn unknown(&mut self, span: Range<usize>, what: &str, key: &str, known: &[&str]) {
        let problem = self.problem(span, format!("unknown {what} `{}`", shorten(key, 60)));
        problem.help = Some(match did_you_mean(key, known.iter().copied()) {
            Some(like) => format!("did you mean `{like}`?"),
            None if known.is_empty() => format!("no {what} is possible here"),
            None => format!("possible here: {}", known.join(", ")),
        });
    }

    /// Notes every key of `table` that is none of `known`.
    pub(super) fn only(&mut self, table: &DeTable, known: &[&str]) {
        let known: Vec<&str> = known.iter().chain(self.common).copied().collect();
        for (key, _) in table.iter().filter(|(k, _)| !known.contains(&k.get_ref().as_ref())) {
            self.unknown(key.span(), "key", key.get_ref(), &known);
        }
    }

    pub(super) fn table<'a, 't>(&mut self, value: &'a Value<'t>) -> Option<&'a DeTable<'t>> {
        match value.get_ref() {
            DeValue::Table(t) => Some(t),
            _ => self.expected(value, "a table"),
        }
    }

    pub(super) fn list<'a, 't>(&mut self, value: &'a Value<'t>, of: &str) -> Option<&'a [Value<'t>]> {
        match value.get_ref() {
            DeValue::Array(items) => Some(items),
            _ => self.expected(value, &format!("a list of {of}")),
        }
    }

    pub(super) fn string(&mut self, value: &Value) -> Option<String> {
        match value.get_ref() {
            DeValue::String(s) => Some(s.to_string()),
            _ => self.expected(value, "text in quotes"),
        }
    }

    /// Text that is not empty.
    pub(super) fn filled(&mut self, value: &Value) -> Option<String> {
        let s = self.string(value)?;
        if s.trim().is_empty() {
            self.problem(value.span(), "this must not be empty");
            return None;
        }
        Some(s)
    }

    pub(super) fn bool(&mut self, value: &Value) -> Option<bool> {
        match value.get_ref() {
            DeValue::Boolean(b) => Some(*b),
            _ => self.expected(value, "true or false"),
        }
    }

    /// A duration in nanoseconds, from `least` on.
    pub(super) fn duration(&mut self, value: &Value, least: u64) -> Option<u64> {
        let DeValue::String(s) = value.get_ref() else {
            return self.expected(value, "a duration in quotes such as \"10s\"");
        };
        match parse_duration(s) {
            Ok(ns) if ns >= least => Some(ns),
            Ok(_) => {
                self.problem(
                    value.span(),
                    format!("`{}` is too short: at least {}", s.trim(), format_duration(least)),
                );
                None
            }
            Err(why) => {
                self.problem(value.span(), why);
                None
            }
        }
    }

    /// A list of texts, with the place of each.
    pub(super) fn strings(&mut self, value: &Value, of: &str) -> Vec<(String, Range<usize>)> {
        let mut all = Vec::new();
        for item in self.list(value, of).unwrap_or_default() {
            if let Some(s) = self.filled(item) {
                all.push((s, item.span()));
            }
        }
        all
    }

    /// One of `all`, by name.
    pub(super) fn one_of<T: Copy>(&mut self, value: &Value, what: &str, all: &[(&str, T)]) -> Option<T> {
        let name = self.string(value)?;
        if let Some((_, found)) = all.iter().find(|(n, _)| *n == name) {
            return Some(*found);
        }
        let names: Vec<&str> = all.iter().map(|(n, _)| *n).collect();
        self.unknown(value.span(), what, &name, &names);
        None
    }

    /// The value as plain TOML, for what is checked elsewhere.
    pub(super) fn plain(&mut self, value: &Value) -> Option<toml::Value> {
        Some(match value.get_ref() {
            DeValue::String(s) => toml::Value::String(s.to_string()),
            DeValue::Boolean(b) => toml::Value::Boolean(*b),
            DeValue::Datetime(d) => toml::Value::Datetime(*d),
            DeValue::Integer(i) => match i64::from_str_radix(i.as_str(), i.radix()) {
                Ok(i) => toml::Value::Integer(i),
                Err(_) => return self.expected(value, "a number of at most 64 bits"),
            },
            DeValue::Float(f) => match f.as_str().parse() {
                Ok(f) => toml::Value::Float(f),
                Err(_) => return self.expected(value, "a number"),
            },
            DeValue::Array(items) => toml::Value::Array(items.iter().filter_map(|i| self.plain(i)).collect()),
            DeValue::Table(table) => toml::Value::Table(self.plain_table(table)),
        })
    }

    pub(super) fn plain_table(&mut self, table: &DeTable) -> toml::Table {
        table.iter().filter_map(|(k, v)| Some((k.get_ref().to_string(), self.plain(v)?))).collect()
    }
}

fn kind(value: &DeValue) -> &'static str {
    match value {
        DeValue::String(_) => "text",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
