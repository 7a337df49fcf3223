//! `whystall fields`: what rules can read, with live values.

use std::collections::BTreeMap;
use std::time::Duration;

use whystall_collectors::Roots;
use whystall_collectors::runner::{Event, Options, Runner};
use whystall_engine::script::Shape;
use whystall_engine::{Schema, Source};
use whystall_event::text::{escape, shorten};
use whystall_event::{Batch, Field, FieldKind, Stream, Unit};

use super::{Outcome, Result, context, print, say};
use crate::cli::Fields;
use crate::config::Glob;
use crate::daemon::{limits, sources};
use crate::render::Table;

/// Rounds of all collectors, and the time between them.
const ROUNDS: usize = 3;
const EVERY: Duration = Duration::from_millis(400);
/// Nothing may keep the command longer.
const PATIENCE: Duration = Duration::from_secs(3);
const STOP_WITHIN: Duration = Duration::from_secs(1);

/// What was seen of one field: of the first subject that had it.
#[derive(Debug, Clone)]
struct Seen {
    subject: String,
    first: (u64, f64),
    last: (u64, f64),
    text: Option<String>,
}

/// Readings by full field name.
type Live = BTreeMap<String, Seen>;

pub(super) fn fields(args: &Fields) -> Result {
    let config = context::config(None)?;
    limits::prepare();
    let (mut entries, schema) = context::host(&config)?;
    let wanted = matcher(args.pattern.as_deref());
    let any = schema.field_names().iter().any(|f| wanted(f));
    if !any {
        say(&format!("no field matches `{}`", args.pattern.as_deref().unwrap_or_default()));
        return Ok(Outcome::Problems);
    }
    for e in &mut entries {
        e.interval = EVERY;
    }
    let live = watch(Runner::start(sources::jobs(entries, &Roots::default()), &Options::every(EVERY))?);
    print(&table(&schema, &live, &wanted).render(0))?;
    for s in schema.sources() {
        let listed = s.streams.iter().any(|t| t.fields.iter().any(|f| wanted(&full(t, f))));
        if let (Some(why), true) = (&s.missing, listed) {
            say(&format!("no values of {}: {why}", s.name));
        }
    }
    Ok(Outcome::Fine)
}

fn matcher(pattern: Option<&str>) -> impl Fn(&str) -> bool {
    let text = pattern.unwrap_or_default().to_string();
    let glob = text.contains(['*', '?']).then(|| Glob::new(text.clone()));
    move |name| match &glob {
        Some(g) => g.matches(name),
        None => name.contains(&text),
    }
}

fn full(stream: &Stream, field: &Field) -> String {
    format!("{}.{}", stream.name, field.name)
}

fn watch(mut runner: Runner) -> Live {
    let until = std::time::Instant::now() + PATIENCE;
    let mut live = Live::new();
    let mut rounds = 0;
    while rounds < ROUNDS {
        match runner.next(until.saturating_duration_since(std::time::Instant::now())) {
            Event::Batch(batch) => take(&mut live, &batch),
            Event::Tick(_) => rounds += 1,
            Event::Idle | Event::Stopped => break,
        }
    }
    let stuck = runner.stop(STOP_WITHIN);
    if !stuck.is_empty() {
        say(&format!("these collectors did not end in time: {}", stuck.join(", ")));
    }
    live
}

fn take(live: &mut Live, batch: &Batch) {
    for row in batch.rows() {
        for (i, field) in batch.stream.fields.iter().enumerate().filter(|(i, _)| row.has(*i)) {
            let name = full(&batch.stream, field);
            let now = (row.boot_ns, row.number(i).unwrap_or(f64::NAN));
            let text = row.text(i).map(|t| t.to_string());
            match live.get_mut(&name) {
                Some(seen) if seen.subject == row.subject.to_string() => (seen.last, seen.text) = (now, text),
                Some(_) => {}
                None => {
                    let subject = row.subject.to_string();
                    live.insert(name, Seen { subject, first: now, last: now, text });
                }
            }
        }
    }
}

fn table(schema: &Schema, live: &Live, wanted: &dyn Fn(&str) -> bool) -> Table {
    let mut table = Table::new(&["FIELD", "KIND", "UNIT", "OF", "NOW", "WHERE", "HELP"]);
    for (source, stream) in schema.streams() {
        for field in stream.fields.iter() {
            let name = full(stream, field);
            if !wanted(&name) {
                continue;
            }
            let seen = live.get(&name);
            table.row([
                escape(&name).into_owned(),
                kind(field.kind).into(),
                field.unit.shown().into(),
                stream.subjects.iter().map(|k| k.name()).collect::<Vec<_>>().join(","),
                now(source, field, seen),
                seen.map(|s| shorten(&escape(&s.subject), 24).into_owned()).unwrap_or_default(),
                escape(&field.help).into_owned(),
            ]);
        }
    }
    table
}

fn kind(k: FieldKind) -> &'static str {
    match k {
        FieldKind::Counter => "counter",
        FieldKind::Gauge => "gauge",
        FieldKind::Duration => "duration",
        FieldKind::Text => "text",
    }
}

fn now(source: &Source, field: &Field, seen: Option<&Seen>) -> String {
    let Some(seen) = seen else {
        return if source.missing.is_some() { "unavailable" } else { "-" }.into();
    };
    if let Some(text) = &seen.text {
        return shorten(&escape(text), 24).into_owned();
    }
    let counter = field.kind == FieldKind::Counter;
    let shape = Shape { unit: field.unit, per_second: counter, baseline: false };
    if !counter {
        return shape.text(seen.last.1);
    }
    let (span, grown) = (seen.last.0.saturating_sub(seen.first.0), seen.last.1 - seen.first.1);
    // One reading is no rate, and a counter that fell was reset.
    if span == 0 || grown < 0.0 {
        return "-".into();
    }
    let rate = grown / (span as f64 / 1e9);
    match field.unit {
        Unit::None => Shape { unit: Unit::Count, ..shape }.text(rate),
        _ => shape.text(rate),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_parts_or_globs() {
        let check = |pattern: Option<&str>, name: &str, expected: bool| {
            assert_eq!(matcher(pattern)(name), expected, "{pattern:?} {name}")
        };
        check(None, "a.b", true);
        check(Some("stat.pg"), "vmstat.pgscan", true);
        check(Some("vmstat.pg*"), "vmstat.pgscan", true);
        check(Some("pg*"), "vmstat.pgscan", false);
    }

    #[test]
    fn counters_are_rates_and_one_reading_is_none() {
        let source = Source { name: "s".into(), streams: vec![], interval_ns: 0, missing: None };
        let field = Field::counter("x", Unit::Time, "");
        let mut seen =
            Seen { subject: "host".into(), first: (0, 0.0), last: (2_000_000_000, 1e9), text: None };
        assert_eq!(now(&source, &field, Some(&seen)), "500 ms/s");
        seen.last.0 = 0;
        assert_eq!(now(&source, &field, Some(&seen)), "-");
        let gone = Source { missing: Some("why".into()), ..source };
        assert_eq!(now(&gone, &field, None), "unavailable");
    }
}
