//! Routes: which notifications go to which receivers.

use std::collections::BTreeMap;
use std::ops::Range;

use whystall_event::SEC;

use super::receiver::{Receiver, required};
use super::walk::{Value, Walk};
use super::{Glob, Severity};

/// Which notifications go to which receivers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Route {
    /// By property of the verdict: one of the patterns must match; all properties must. Empty matches everything.
    pub matches: BTreeMap<String, Vec<Glob>>,
    /// Names of receivers that exist; at least one.
    pub receivers: Vec<String>,
    /// How long to wait for more of the same incident, nanoseconds.
    pub group_wait_ns: Option<u64>,
    /// After how long to notify again of what lasts, nanoseconds.
    pub repeat_interval_ns: Option<u64>,
    /// Where its table is in the file.
    pub span: Range<usize>,
}

const ROUTE_KEYS: &[&str] = &["match", "receivers", "group_wait", "repeat_interval"];
const MATCH_KEYS: &[&str] =
    &["severity", "rule", "cause", "subject", "namespace", "pod", "container", "unit"];

pub(super) fn routes(walk: &mut Walk, list: &[Value<'_>], receivers: &[Receiver]) -> Vec<Route> {
    let names: Vec<&str> = receivers.iter().map(|r| r.name.as_str()).collect();
    let mut all = Vec::new();
    for value in list {
        let Some(table) = walk.table(value) else { continue };
        walk.only(table, ROUTE_KEYS);
        let mut route = Route { span: value.span(), ..Route::default() };
        if let Some(matches) = table.get("match").and_then(|v| walk.table(v)) {
            walk.only(matches, MATCH_KEYS);
            route.matches = matches
                .iter()
                .map(|(k, v)| (k.get_ref().to_string(), patterns(walk, k.get_ref(), v)))
                .collect();
        }
        if let Some(v) = required(walk, table, "route", "receivers", value) {
            for (name, span) in walk.strings(v, "receivers' names") {
                if !names.contains(&name.as_str()) {
                    walk.unknown(span, "receiver", &name, &names);
                }
                route.receivers.push(name);
            }
            if v.get_ref().as_array().is_some_and(|a| a.is_empty()) {
                walk.problem(v.span(), "a route needs at least one receiver");
            }
        }
        route.group_wait_ns = table.get("group_wait").and_then(|v| walk.duration(v, 0));
        route.repeat_interval_ns = table.get("repeat_interval").and_then(|v| walk.duration(v, 60 * SEC));
        all.push(route);
    }
    all
}

/// One pattern or a list of them.
fn patterns(walk: &mut Walk, key: &str, value: &Value<'_>) -> Vec<Glob> {
    let written = if value.get_ref().is_str() {
        walk.filled(value).map(|s| (s, value.span())).into_iter().collect()
    } else {
        walk.strings(value, "text, or one text")
    };
    for (name, span) in &written {
        if key == "severity" && !Severity::NAMES.iter().any(|(n, _)| n == name) {
            walk.unknown(span.clone(), "severity", name, &Severity::NAMES.map(|(n, _)| n));
        }
    }
    written.into_iter().map(|(s, _)| Glob::new(s)).collect()
}
