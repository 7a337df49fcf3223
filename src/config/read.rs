//! The document as a whole, collectors and rules.

use std::collections::BTreeMap;
use std::ops::Range;

use toml::de::{DeTable, DeValue};
use whystall_event::{MS, SEC, parse_rfc3339};

use super::error::{ConfigError, Source};
use super::walk::{Value, Walk};
use super::{
    CollectorConfig, Config, Exception, Glob, KnownNames, Param, RuleConfig, Severity, delivery, notify,
};

/// The shortest interval of anything.
pub(super) const SHORTEST: u64 = 10 * MS;
const DAY: u64 = 86_400 * SEC;

const KEYS: &[&str] = &["interval", "rules_dirs", "collectors", "rules", "receiver", "route", "store"];
const RULE_KEYS: &[&str] = &["enabled", "severity", "params", "exceptions"];

pub(super) fn config(text: &str, origin: &str, names: &KnownNames<'_>) -> Result<Config, ConfigError> {
    let mut walk = Walk { source: Source::new(origin, text), problems: Vec::new(), common: &[] };
    let (document, errors) = DeTable::parse_recoverable(text);
    for e in &errors {
        walk.problem(e.span().unwrap_or(0..0), format!("this is not TOML: {}", e.message().trim()));
    }
    let mut config = Config { source: walk.source.clone(), ..Config::default() };
    // What cannot be parsed is missing from the document or cut short; more messages about it would only confuse.
    if errors.is_empty() {
        top(&mut walk, document.get_ref(), names, &mut config);
    }
    walk.problems.sort_by_key(|p| (p.line, p.column));
    if walk.problems.is_empty() {
        Ok(config)
    } else {
        Err(ConfigError { problems: walk.problems, source: walk.source })
    }
}

fn top(walk: &mut Walk, document: &DeTable<'_>, names: &KnownNames<'_>, config: &mut Config) {
    walk.only(document, KEYS);
    if let Some(ns) = document.get("interval").and_then(|v| walk.duration(v, SHORTEST)) {
        config.interval_ns = ns;
    }
    if let Some(dirs) = document.get("rules_dirs") {
        let dirs = walk.strings(dirs, "directories");
        config.rules_dirs = Some(dirs.into_iter().map(|(dir, _)| dir.into()).collect());
    }
    if let Some(table) = document.get("collectors").and_then(|v| walk.table(v)) {
        collectors(walk, table, names, config);
    }
    if let Some(table) = document.get("store").and_then(|v| walk.table(v)) {
        config.store = delivery::store(walk, table);
    }
    for (id, value) in document.get("rules").and_then(|v| walk.table(v)).into_iter().flatten() {
        let Some(table) = walk.table(value) else { continue };
        if table.keys().any(|k| !RULE_KEYS.contains(&k.get_ref().as_ref()))
            && table.values().all(|v| v.get_ref().is_table())
            && !table.contains_key("params")
        {
            // `[rules.memory.x]` without quotes is a table in a table.
            let inner = table.keys().next().map_or("", |k| k.get_ref().as_ref());
            let help = format!("a rule's id has quotes: [rules.\"{}.{inner}\"]", id.get_ref());
            walk.problem(id.span(), "this is no rule's table").help = Some(help);
            continue;
        }
        let rule = rule(walk, table, id.span());
        config.rules.insert(id.get_ref().to_string(), rule);
    }
    if let Some(list) = document.get("receiver").and_then(|v| walk.list(v, "tables, each [[receiver]]")) {
        config.receivers = notify::receivers(walk, list);
    }
    if let Some(list) = document.get("route").and_then(|v| walk.list(v, "tables, each [[route]]")) {
        config.routes = notify::routes(walk, list, &config.receivers);
    }
}

fn collectors(walk: &mut Walk, table: &DeTable<'_>, names: &KnownNames<'_>, config: &mut Config) {
    let mut all: Vec<&str> = names.collectors.iter().map(|(n, _)| *n).collect();
    all.push("exec");
    for (name, value) in table {
        let span = name.span();
        let name = name.get_ref().as_ref();
        if name == "exec" {
            for (name, value) in walk.table(value).into_iter().flatten() {
                let written = name.get_ref().as_ref();
                if !is_name(written) {
                    let help = "lower-case letters, digits and `_`, beginning with a letter";
                    walk.problem(name.span(), "this is no name for an exec collector").help =
                        Some(help.into());
                } else if !value.get_ref().is_table() {
                    let help = format!(
                        "each exec collector has a table of its own: [collectors.exec.NAME] with `{written}` in it"
                    );
                    walk.problem(name.span(), format!("`{written}` is no exec collector's table")).help =
                        Some(help);
                } else if let Some(c) = collector(walk, value, name.span(), names.exec) {
                    config.exec.insert(written.to_string(), c);
                }
            }
        } else if let Some((_, settings)) = names.collectors.iter().find(|(n, _)| *n == name) {
            if let Some(c) = collector(walk, value, span, settings) {
                config.collectors.insert(name.to_string(), c);
            }
        } else {
            walk.unknown(span, "collector", name, &all);
        }
    }
}

fn is_name(s: &str) -> bool {
    s.len() <= 64
        && s.starts_with(|c: char| c.is_ascii_lowercase())
        && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

fn collector(
    walk: &mut Walk,
    value: &Value<'_>,
    span: Range<usize>,
    keys: &[&str],
) -> Option<CollectorConfig> {
    let table = walk.table(value)?;
    let mut known = vec!["enabled", "interval"];
    known.extend(keys.iter().filter(|k| !matches!(**k, "enabled" | "interval")));
    walk.only(table, &known);
    let mut config = CollectorConfig { span, ..CollectorConfig::default() };
    config.enabled = table.get("enabled").and_then(|v| walk.bool(v));
    config.interval_ns = table.get("interval").and_then(|v| walk.duration(v, SHORTEST));
    for (key, value) in table.iter().filter(|(k, _)| keys.contains(&k.get_ref().as_ref())) {
        if let Some(value) = walk.plain(value) {
            config.settings.insert(key.get_ref().to_string(), value);
        }
    }
    Some(config)
}

fn rule(walk: &mut Walk, table: &DeTable<'_>, span: Range<usize>) -> RuleConfig {
    walk.only(table, RULE_KEYS);
    let mut params = BTreeMap::new();
    for (name, value) in table.get("params").and_then(|v| walk.table(v)).into_iter().flatten() {
        if let Some(param) = param(walk, value) {
            params.insert(name.get_ref().to_string(), (param, value.span()));
        }
    }
    let mut exceptions = Vec::new();
    for value in table.get("exceptions").and_then(|v| walk.list(v, "tables")).unwrap_or_default() {
        if let Some(e) = walk.table(value).and_then(|t| exception(walk, t, value.span())) {
            exceptions.push(e);
        }
    }
    RuleConfig {
        enabled: table.get("enabled").and_then(|v| walk.bool(v)),
        severity: table.get("severity").and_then(|v| walk.one_of(v, "severity", &Severity::NAMES)),
        params,
        exceptions,
        span,
    }
}

fn param(walk: &mut Walk, value: &Value<'_>) -> Option<Param> {
    match value.get_ref() {
        DeValue::String(s) => Some(Param::Text(s.to_string())),
        DeValue::Boolean(b) => Some(Param::Bool(*b)),
        DeValue::Integer(_) | DeValue::Float(_) => match walk.plain(value)? {
            toml::Value::Integer(i) => Some(Param::Number(i as f64)),
            toml::Value::Float(f) if f.is_finite() => Some(Param::Number(f)),
            _ => walk.expected(value, "a finite number"),
        },
        _ => walk.expected(value, "a number, true or false, or text"),
    }
}

fn exception(walk: &mut Walk, table: &DeTable<'_>, span: Range<usize>) -> Option<Exception> {
    let mut matches = BTreeMap::new();
    for (key, value) in table.iter().filter(|(k, _)| !matches!(k.get_ref().as_ref(), "reason" | "until")) {
        if let Some(glob) = walk.filled(value) {
            matches.insert(key.get_ref().to_string(), Glob::new(glob));
        }
    }
    if !table.keys().any(|k| !matches!(k.get_ref().as_ref(), "reason" | "until")) {
        let help = "name what is excepted, for example cgroup = \"/batch/*\"; to switch the rule off, enabled = false";
        walk.problem(span.clone(), "this exception says nothing of what is excepted").help =
            Some(help.into());
    }
    let until_ns = table.get("until").and_then(|v| until(walk, v));
    let reason = match table.get("reason") {
        Some(v) => walk.filled(v),
        None => {
            let help = "whoever reads this later wants to know: reason = \"…\"";
            walk.problem(span.clone(), "an exception needs a reason").help = Some(help.into());
            None
        }
    };
    Some(Exception { matches, reason: reason?, until_ns, span })
}

/// The end of a day, written as text or as a TOML date.
fn until(walk: &mut Walk, value: &Value<'_>) -> Option<u64> {
    let day = match value.get_ref() {
        DeValue::String(s) => s.to_string(),
        DeValue::Datetime(d) if d.time.is_none() => d.to_string(),
        _ => return walk.expected(value, "a date such as \"2027-01-31\""),
    };
    let start = if day.len() == 10 { parse_rfc3339(&format!("{day}T00:00:00Z")) } else { None };
    if start.is_none() {
        walk.problem(
            value.span(),
            format!("`{day}` is no date: write year, month and day as in \"2027-01-31\""),
        );
    }
    start?.checked_add(DAY)
}
