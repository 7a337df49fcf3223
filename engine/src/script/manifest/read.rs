//! Reads RULE key by key; what nobody asked for is unknown.

use whystall_event::SubjectKind;

use super::super::codes::Code;
use super::super::diag::{Place, Report};
use super::super::literal::{Lit, Taker, Value, texts};
use super::streams::{read_streams, with_own};
use super::windows::read_windows;
use super::{API, Explains, Manifest, OnMissing, Param, ParamValue, Severity, When};
use crate::schema::Schema;

/// Reads and checks RULE.
///
/// What is wrong is reported and left out, so that the functions can be checked against the rest; such a manifest is
/// not for running.
pub(crate) fn read(lit: &Lit, page: String, schema: &Schema, report: &mut Report<'_>) -> Manifest {
    let Some(mut t) = Taker::new(lit, "RULE", report) else { return Manifest::unreadable() };
    let id = t.need_text("id", report).map(|(s, at)| (s.to_string(), at));
    if let Some((id, at)) = &id {
        let word = |w: &str| {
            w.starts_with(|c: char| c.is_ascii_lowercase())
                && w.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        };
        if !id.contains('.') || !id.split('.').all(word) {
            report
                .add(Code::BadValue, *at, format!("`{id}` is no rule id"))
                .help("write `area.name` in lower case, for example `net.retransmits`");
        }
    }
    if let Some(lit) = t.need("api", report)
        && lit.value != Value::Number(f64::from(API))
    {
        report.add(
            Code::BadValue,
            lit.at,
            format!("`api` must be {API}, the version that this whystall speaks"),
        );
    }
    let severity = t.need_text("severity", report).and_then(|(s, at)| {
        let found = Severity::from_name(s);
        if found.is_none() {
            report.add(Code::BadValue, at, format!("`{s}` is no severity"));
            report.suggest(s, ["info", "warning", "critical"]);
        }
        found
    });
    let tags = t.texts("tags", report).into_iter().map(|(s, _)| s).collect();
    let subjects = read_subjects(&mut t, report);
    let streams = read_streams(&mut t, report);
    let schema = &with_own(schema, &streams);
    let needs = read_sources(&mut t, "needs", schema, report);
    let wants = read_sources(&mut t, "wants", schema, report);
    let mut broken = Vec::new();
    let params = read_params(&mut t, &mut broken, report);
    let windows = read_windows(&mut t, &subjects, schema, &mut broken, report);
    let wake = t.text("wake", report).and_then(|(name, at)| {
        let found = windows.iter().position(|w| w.name == name);
        if found.is_none() && !broken.iter().any(|b| b == name) {
            report.add(
                Code::UnknownWindow,
                at,
                format!("`wake` names the window `{name}`, which is not declared"),
            );
            report.suggest(name, windows.iter().map(|w| w.name.as_str()));
        }
        found
    });
    let (fire_hold_ns, quorum) = read_fire(&mut t, report);
    let mut clear_hold_ns = 0;
    if let Some(lit) = t.get("clear")
        && let Some(mut c) = Taker::new(lit, "`clear`", report)
    {
        clear_hold_ns = c.duration("hold", report).map_or(0, |(ns, _)| ns);
        c.finish(report);
    }
    let on_missing = match t.text("on_missing", report) {
        None | Some(("hold", _)) => OnMissing::Hold,
        Some(("clear", _)) => OnMissing::Clear,
        Some((s, at)) => {
            report.add(
                Code::BadValue,
                at,
                format!("`on_missing` is `{s}`, but must be \"hold\" or \"clear\""),
            );
            OnMissing::Hold
        }
    };
    let explains = read_explains(&mut t, report);
    let maturity = t.text("maturity", report).map_or("stable", |(s, at)| {
        if !["sandbox", "incubating", "stable"].contains(&s) {
            report.add(Code::BadValue, at, format!("`maturity` is `{s}`"));
            report.suggest(s, ["sandbox", "incubating", "stable"]);
        }
        s
    });
    let maturity = maturity.to_string();
    t.finish(report);
    if page.is_empty() {
        report.add(
            Code::NoDoc,
            Place { line: 1, column: 1 },
            "the file does not begin with a page of `//!` lines",
        );
    }
    let title =
        page.split_inclusive(['.', '\n']).next().unwrap_or("").trim().trim_end_matches('.').to_string();
    Manifest {
        id: id.map_or(String::new(), |(id, _)| id),
        severity: severity.unwrap_or(Severity::Info),
        tags,
        subjects,
        needs,
        wants,
        params,
        windows,
        wake,
        fire_hold_ns,
        quorum,
        clear_hold_ns,
        on_missing,
        explains,
        maturity,
        title,
        page,
        streams,
        broken,
        missing: false,
    }
}

fn read_subjects(t: &mut Taker<'_>, report: &mut Report<'_>) -> Vec<SubjectKind> {
    let mut subjects = Vec::new();
    if let Some(lit) = t.need("subject", report) {
        for (s, at) in texts(lit, "`subject`", report) {
            match SubjectKind::from_name(&s) {
                Some(k) if subjects.contains(&k) => {
                    report.add(Code::BadValue, at, format!("`{s}` is listed twice"));
                }
                Some(k) => subjects.push(k),
                None => {
                    report.add(Code::BadValue, at, format!("`{s}` is no kind of subject"));
                    report.suggest(&s, SubjectKind::ALL.iter().map(|k| k.name()));
                }
            }
        }
        if subjects.is_empty() && !report.errors() {
            report.add(Code::BadValue, lit.at, "`subject` is empty");
        }
    }
    subjects
}

fn read_sources(
    t: &mut Taker<'_>,
    key: &'static str,
    schema: &Schema,
    report: &mut Report<'_>,
) -> Vec<String> {
    let list = t.texts(key, report);
    for (name, at) in &list {
        if schema.named(name).next().is_none() {
            report.add(
                Code::UnknownCollector,
                *at,
                format!("`{key}` names `{name}`, which is no collector or stream"),
            );
            let mut names: Vec<&str> = schema.sources().iter().map(|s| s.name.as_str()).collect();
            names.extend(schema.streams().map(|(_, s)| s.name.as_ref()));
            names.sort_unstable();
            names.dedup();
            report.suggest(name, names);
        }
    }
    list.into_iter().map(|(s, _)| s).collect()
}

fn read_params(t: &mut Taker<'_>, broken: &mut Vec<String>, report: &mut Report<'_>) -> Vec<Param> {
    let mut out = Vec::new();
    let Some(lit) = t.get("params") else { return out };
    let Value::Map(entries) = &lit.value else {
        broken.push("*".into());
        if lit.value == Value::Bad {
            return out;
        }
        report.add(Code::BadValue, lit.at, format!("`params` must be a map, not {}", lit.value.kind()));
        return out;
    };
    for (name, at, lit) in entries {
        let Some(mut p) = Taker::new(lit, format!("param `{name}`"), report) else {
            broken.push(name.clone());
            continue;
        };
        let value = p.need("value", report).and_then(|v| match &v.value {
            Value::Number(x) => Some(ParamValue::Number(*x)),
            Value::Bool(b) => Some(ParamValue::Bool(*b)),
            Value::Text(s) => Some(ParamValue::Text(s.clone())),
            Value::Bad => None,
            other => {
                report.add(Code::BadValue, v.at, format!("a param cannot be {}", other.kind()));
                None
            }
        });
        let any = f64::MIN..=f64::MAX;
        let min = p.number("min", any.clone(), report).unwrap_or(f64::NEG_INFINITY);
        let max = p.number("max", any, report).unwrap_or(f64::INFINITY);
        let unit = p.text("unit", report).map_or("", |(s, _)| s).to_string();
        let help = p.need_text("help", report).map_or("", |(s, _)| s).to_string();
        p.finish(report);
        let Some(value) = value else {
            broken.push(name.clone());
            continue;
        };
        let param = Param { name: name.clone(), value, bounds: (min, max), unit, help, at: *at };
        if let Err(e) = param.check(&param.value) {
            report.add(Code::BadValue, lit.at, format!("param `{name}`: {e}"));
        }
        out.push(param);
    }
    out
}

fn read_fire(t: &mut Taker<'_>, report: &mut Report<'_>) -> (u64, Option<(u32, u32)>) {
    let Some(lit) = t.get("fire") else { return (0, None) };
    let Some(mut f) = Taker::new(lit, "`fire`", report) else { return (0, None) };
    let hold = f.duration("hold", report).map_or(0, |(ns, _)| ns);
    let of = f.number("of", 1.0..=64.0, report);
    let at_least = f.number("at_least", 1.0..=64.0, report);
    f.finish(report);
    let quorum = match (at_least, of) {
        (Some(n), Some(m)) if n <= m => Some((n as u32, m as u32)),
        (None, None) => None,
        _ => {
            report.add(
                Code::BadValue,
                lit.at,
                "a quorum is `at_least: N, of: M` ticks with N no more than M",
            );
            None
        }
    };
    (hold, quorum)
}

fn read_explains(t: &mut Taker<'_>, report: &mut Report<'_>) -> Vec<Explains> {
    let mut out = Vec::new();
    let Some(lit) = t.get("explains") else { return out };
    let Value::List(items) = &lit.value else {
        report.add(Code::BadValue, lit.at, "`explains` must be an array of maps");
        return out;
    };
    for item in items {
        let Some(mut e) = Taker::new(item, "an edge of `explains`", report) else { continue };
        let rule = e.need_text("rule", report).map(|(s, _)| s.to_string());
        let when = match e.text("when", report) {
            None | Some(("host", _)) => Some(When::Host),
            Some(("same_cpu", _)) => Some(When::SameCpu),
            Some(("same_cgroup", _)) => Some(When::SameCgroup),
            Some(("same_task", _)) => Some(When::SameTask),
            Some((s, at)) => {
                report.add(Code::BadValue, at, format!("`when` is `{s}`"));
                report.suggest(s, ["host", "same_cpu", "same_cgroup", "same_task"]);
                None
            }
        };
        let causes = e.texts("causes", report).into_iter().map(|(s, _)| s).collect();
        let by = e.texts("by", report).into_iter().map(|(s, _)| s).collect();
        e.finish(report);
        if let (Some(rule), Some(when)) = (rule, when) {
            out.push(Explains { rule, when, causes, by });
        }
    }
    out
}
