//! Reads RULE's own `streams`: those of the user's collectors, so that the rule can be checked anywhere.

use std::sync::Arc;

use whystall_event::{Field, FieldKind, MS, Mode, Stream, SubjectKind, Unit};

use super::super::codes::Code;
use super::super::diag::Report;
use super::super::literal::{Lit, Taker, Value};
use crate::schema::{Schema, Source};

/// The schema with the rule's own streams; one that exists already stays as it is.
pub(super) fn with_own(schema: &Schema, own: &[Arc<Stream>]) -> Schema {
    let mut sources = schema.sources().to_vec();
    for s in own {
        if !schema.streams().any(|(_, t)| t.name == s.name) {
            sources.push(Source {
                name: s.name.to_string(),
                streams: vec![s.clone()],
                interval_ns: 1000 * MS,
                missing: None,
            });
        }
    }
    Schema::new(sources)
}

/// `streams: #{ NAME: #{ FIELD: #{ kind, unit, help } } }`: streams of the user's own collectors.
pub(super) fn read_streams(t: &mut Taker<'_>, report: &mut Report<'_>) -> Vec<Arc<Stream>> {
    let mut out = Vec::new();
    let Some(lit) = t.get("streams") else { return out };
    let Value::Map(entries) = &lit.value else {
        report.add(Code::BadValue, lit.at, "`streams` must be a map");
        return out;
    };
    for (name, at, lit) in entries {
        let Some(mut s) = Taker::new(lit, format!("stream `{name}`"), report) else { continue };
        let mode = match s.text("mode", report) {
            None | Some(("sampled", _)) => Mode::Sampled,
            Some(("occurrences", _)) => Mode::Occurrences,
            Some((m, at)) => {
                report.add(Code::BadValue, at, format!("`mode` is `{m}`"));
                report.suggest(m, ["sampled", "occurrences"]);
                Mode::Sampled
            }
        };
        let subjects: Vec<SubjectKind> =
            s.texts("subjects", report).iter().filter_map(|(k, _)| SubjectKind::from_name(k)).collect();
        let Some(fields) = s.need("fields", report) else { continue };
        s.finish(report);
        let Value::Map(fields) = &fields.value else {
            report.add(Code::BadValue, *at, format!("`fields` of stream `{name}` must be a map"));
            continue;
        };
        let fields: Vec<Field> = fields.iter().filter_map(|(n, _, f)| read_field(n, f, report)).collect();
        out.push(Arc::new(Stream {
            name: name.clone().into(),
            help: "declared by a rule".into(),
            mode,
            subjects: if subjects.is_empty() { vec![SubjectKind::Host] } else { subjects }.into(),
            fields: fields.into(),
        }));
    }
    out
}

fn read_field(name: &str, lit: &Lit, report: &mut Report<'_>) -> Option<Field> {
    let mut f = Taker::new(lit, format!("field `{name}`"), report)?;
    let kind = f.need_text("kind", report);
    let unit = f.text("unit", report);
    let help = f.text("help", report).map_or("", |(s, _)| s).to_string();
    f.finish(report);
    let (kind_text, kind_at) = kind?;
    let kind = match kind_text {
        "counter" => FieldKind::Counter,
        "gauge" => FieldKind::Gauge,
        "duration" => FieldKind::Duration,
        "text" => FieldKind::Text,
        s => {
            report.add(Code::BadValue, kind_at, format!("`{s}` is no kind of field"));
            report.suggest(s, ["counter", "gauge", "duration", "text"]);
            return None;
        }
    };
    let unit = match unit {
        _ if kind == FieldKind::Duration => Unit::Time,
        None => Unit::Count,
        Some(("count", _)) => Unit::Count,
        Some(("bytes", _)) => Unit::Bytes,
        Some(("pages", _)) => Unit::Pages,
        Some(("time" | "ms", _)) => Unit::Time,
        Some(("ratio", _)) => Unit::Ratio,
        Some(("none", _)) => Unit::None,
        Some((s, at)) => {
            report.add(Code::BadValue, at, format!("`{s}` is no unit"));
            report.suggest(s, ["count", "bytes", "pages", "time", "ratio", "none"]);
            return None;
        }
    };
    Some(Field { name: name.to_string().into(), kind, unit, help: help.into() })
}
