//! Reads RULE's `windows` and checks each against the schema.

use std::sync::Arc;

use whystall_event::{FieldKind, Mode, Stream, SubjectKind, Unit};

use super::super::codes::Code;
use super::super::diag::{Place, Report};
use super::super::literal::{Lit, Taker, Value, texts};
use super::links::{self, Links};
use super::{At, RESERVED_WINDOWS, Shape, Take, WindowDecl};
use crate::schema::Schema;
use crate::window::{self, Calc};

/// Windows that a rule may have: each is a column over all subjects of a kind.
const MAX_WINDOWS: usize = 64;

pub(super) fn read_windows(
    t: &mut Taker<'_>,
    subjects: &[SubjectKind],
    schema: &Schema,
    broken: &mut Vec<String>,
    report: &mut Report<'_>,
) -> Vec<WindowDecl> {
    let mut out: Vec<WindowDecl> = Vec::new();
    let Some(lit) = t.need("windows", report) else { return out };
    let Value::Map(entries) = &lit.value else {
        broken.push("*".into());
        if lit.value == Value::Bad {
            return out;
        }
        report.add(Code::BadValue, lit.at, format!("`windows` must be a map, not {}", lit.value.kind()));
        return out;
    };
    if entries.len() > MAX_WINDOWS {
        broken.extend(entries.iter().map(|(name, ..)| name.clone()));
        let message = format!("this declares {} windows; a rule may have {MAX_WINDOWS}", entries.len());
        report.add(Code::BadValue, lit.at, message);
        return out;
    }
    let mut links = Vec::new();
    for (name, at, lit) in entries {
        if RESERVED_WINDOWS.contains(&name.as_str()) {
            report.add(
                Code::BadValue,
                *at,
                format!("`{name}` is a built-in reading and cannot name a window"),
            );
        }
        let mut linked = Links::default();
        match read_window(name, *at, lit, subjects, schema, &mut linked, report) {
            Some(w) => {
                out.push(w);
                links.push(linked);
            }
            None => broken.push(name.clone()),
        }
    }
    if entries.is_empty() {
        report.add(Code::BadValue, lit.at, "a rule needs at least one window");
    }
    links::resolve(&mut out, &links, broken, report);
    out
}

fn read_window(
    name: &str,
    at: Place,
    lit: &Lit,
    subjects: &[SubjectKind],
    schema: &Schema,
    links: &mut Links,
    report: &mut Report<'_>,
) -> Option<WindowDecl> {
    let mut w = Taker::new(lit, format!("window `{name}`"), report)?;
    let of = w.need_text("of", report);
    let calc = w.need_text("calc", report).and_then(|(s, at)| {
        let found = Calc::from_name(s);
        if found.is_none() {
            report.add(Code::BadCalc, at, format!("`{s}` is no calculation"));
            report.suggest(s, Calc::ALL.iter().map(|c| c.name()));
        }
        found.map(|c| (c, at))
    });
    w.need("over", report);
    let over = w.duration("over", report);
    let coverage = w.number("coverage", 0.0..=1.0, report).unwrap_or(0.5);
    let at_text = w.text("at", report);
    let across = w.text("across", report);
    let take = w.text("take", report);
    let line = w.number("over_line", f64::MIN..=f64::MAX, report);
    let filter = read_filter(&mut w, report);
    links.read(&mut w, report);
    w.finish(report);
    let ((full, full_at), (calc, calc_at), (over_ns, over_at)) = (of?, calc?, over?);
    let Some(found) = schema.field(full) else {
        report.add(Code::UnknownField, full_at, format!("no stream has a field `{full}`"));
        let names = schema.field_names();
        report.suggest(full, names.iter().map(String::as_str));
        return None;
    };
    let (stream, field) = (found.stream, found.field);
    if let Err(why) = window::allowed(calc, field.kind, field.unit, stream.mode) {
        report.add(Code::BadCalc, calc_at, format!("`{}` of `{full}`: {why}", calc.name()));
        return None;
    }
    if stream.mode == Mode::Sampled && over_ns < 2 * found.source.interval_ns {
        let every = whystall_event::format_duration(found.source.interval_ns);
        report.add(
            Code::ShortWindow,
            over_at,
            format!("`{full}` is read each {every}, and two readings are needed"),
        );
    }
    for (label, _) in &filter {
        if !stream.fields.iter().any(|f| f.kind == FieldKind::Text && f.name == label.as_ref()) {
            report.add(
                Code::UnknownField,
                at,
                format!("`{}` has no text field `{label}` to filter by", stream.name),
            );
        } else if stream.mode == Mode::Sampled {
            report.add(
                Code::BadValue,
                at,
                "`where` selects among things that happened; this stream is sampled",
            );
        }
    }
    let at_what = read_at(at_text, across, take, line, links, report)?;
    let fits = match at_what {
        At::Own => subjects.iter().any(|k| stream.subjects.contains(k)),
        At::Host => stream.subjects.contains(&SubjectKind::Host),
        At::Parent => {
            stream.subjects.contains(&SubjectKind::Cgroup) && subjects.contains(&SubjectKind::Cgroup)
        }
        At::Cpu(_) => stream.subjects.contains(&SubjectKind::Cpu),
        At::Across(kind, _) => stream.subjects.contains(&kind),
    };
    // Where RULE's subjects are wrong, nothing can be said of what fits them.
    if !fits && !subjects.is_empty() {
        let kinds: Vec<&str> = stream.subjects.iter().map(|k| k.name()).collect();
        report
            .add(Code::BadSubject, full_at, format!("`{}` is about {}", stream.name, kinds.join(", ")))
            .help("add `at: \"host\"`, `at: \"parent\"`, `at: \"cpu\"` or `across: \"KIND\", take: \"max\"` to read another subject");
        return None;
    }
    Some(WindowDecl {
        name: name.to_string(),
        stream: stream.name.as_ref().into(),
        field: field.name.as_ref().into(),
        calc,
        over_ns,
        at: at_what,
        coverage,
        filter,
        after: None,
        kinds: stream.subjects.to_vec(),
        shape: match at_what {
            At::Across(_, Take::CountOver(_)) => {
                Shape { unit: Unit::Count, per_second: false, baseline: false }
            }
            At::Across(_, Take::ShareOver(_)) => {
                Shape { unit: Unit::Ratio, per_second: false, baseline: false }
            }
            At::Across(..) => Shape { baseline: false, ..Shape::of(calc, field.kind, field.unit) },
            _ => Shape::of(calc, field.kind, field.unit),
        },
        texts: text_fields(stream),
        at_place: at,
    })
}

fn text_fields(stream: &Stream) -> Vec<Arc<str>> {
    stream.fields.iter().filter(|f| f.kind == FieldKind::Text).map(|f| f.name.as_ref().into()).collect()
}

fn read_at(
    at: Option<(&str, Place)>,
    across: Option<(&str, Place)>,
    take: Option<(&str, Place)>,
    line: Option<f64>,
    links: &Links,
    report: &mut Report<'_>,
) -> Option<At> {
    if let (Some((_, place)), true) = (&links.by, at.is_none_or(|(s, _)| s != "cpu")) {
        report.add(Code::BadValue, *place, "`by` goes with `at: \"cpu\"`");
    }
    if let Some((kind, place)) = across {
        if at.is_some() {
            report.add(Code::BadValue, place, "a window has `at` or `across`, not both");
        }
        let Some(kind_found) = SubjectKind::from_name(kind) else {
            report.add(Code::BadValue, place, format!("`{kind}` is no kind of subject"));
            report.suggest(kind, SubjectKind::ALL.iter().map(|k| k.name()));
            return None;
        };
        let need_line = |report: &mut Report<'_>, place| {
            if line.is_none() {
                report.add(
                    Code::MissingKey,
                    place,
                    "`take` over a line needs `over_line`, in the window's shown unit",
                );
            }
            line
        };
        let take = match take {
            None | Some(("sum", _)) => Take::Sum,
            Some(("max", _)) => Take::Max,
            Some(("count_over", p)) => Take::CountOver(need_line(report, p)?),
            Some(("share_over", p)) => Take::ShareOver(need_line(report, p)?),
            Some((s, p)) => {
                report.add(Code::BadValue, p, format!("`{s}` is no way to take many values together"));
                report.suggest(s, ["sum", "max", "count_over", "share_over"]);
                return None;
            }
        };
        return Some(At::Across(kind_found, take));
    }
    if let Some((_, place)) = take {
        report.add(Code::BadValue, place, "`take` goes with `across`");
    }
    match at {
        None | Some(("own", _)) => Some(At::Own),
        Some(("host", _)) => Some(At::Host),
        Some(("parent", _)) => Some(At::Parent),
        Some(("cpu", place)) if links.by.is_none() => {
            report
                .add(Code::MissingKey, place, "`at: \"cpu\"` needs `by`, the window whose value is the CPU's number")
                .help("for example `at: \"cpu\", by: \"on\"` with `on: #{ of: \"reclaim.memcg.cpu\", calc: \"last\", … }`");
            None
        }
        Some(("cpu", _)) => Some(At::Cpu(0)),
        Some((s, place)) => {
            report.add(Code::BadValue, place, format!("`at` is `{s}`"));
            report.suggest(s, ["own", "host", "parent", "cpu"]);
            None
        }
    }
}

fn read_filter(w: &mut Taker<'_>, report: &mut Report<'_>) -> Vec<(Arc<str>, Vec<Arc<str>>)> {
    let Some(lit) = w.get("where") else { return Vec::new() };
    let Value::Map(entries) = &lit.value else {
        report.add(Code::BadValue, lit.at, "`where` must be a map from text fields to values");
        return Vec::new();
    };
    entries
        .iter()
        .map(|(label, _, v)| {
            let any = texts(v, "a value of `where`", report).into_iter().map(|(s, _)| s.into()).collect();
            (label.as_str().into(), any)
        })
        .collect()
}
