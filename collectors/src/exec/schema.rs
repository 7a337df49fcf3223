//! A line of JSON into a row, by the declared fields or by what the first line shows.
//!
//! Pure but for telling problems. Times are milliseconds outside and nanoseconds inside ([`Unit::scale`]).

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::{Map, Value};
use whystall_event::{
    Batch, Field, FieldKind, MAX_FIELDS, Mode, SEC, Stamp, Stream, Subject, SubjectKind, Unit, text,
};

use super::settings::is_name;
use crate::Sink;

/// Streams that lines may declare by themselves.
const MOST_STREAMS: usize = 16;
/// Bytes of a text and of a subject's name.
const LONGEST_TEXT: usize = 1024;
const LONGEST_SUBJECT: usize = 4096;
/// An event's own time is taken if it is no older than this.
const OLDEST_NS: u64 = 60 * SEC;

/// The streams of a program, and the rows read since they were last fetched.
#[derive(Debug)]
pub(super) struct Schema {
    name: String,
    streams: Vec<(Arc<Stream>, Option<Batch>)>,
    /// Lines declare the streams.
    infer: bool,
}

/// What a line says, ready to be a row.
#[derive(Debug)]
struct Event {
    stream: usize,
    subject: Subject,
    boot_ns: u64,
    values: Vec<(usize, Value)>,
}

impl Schema {
    /// The program `name` with the streams that its settings declare; without any the lines declare them.
    pub(super) fn new(name: &str, streams: Vec<Arc<Stream>>) -> Schema {
        let infer = streams.is_empty();
        Schema { name: name.into(), streams: streams.into_iter().map(|s| (s, None)).collect(), infer }
    }

    /// Takes a line and tells what is wrong with it.
    pub(super) fn line(&mut self, line: &[u8], sink: &dyn Sink) {
        match self.take(line, sink.now()) {
            Ok(complaints) => complaints.iter().for_each(|c| sink.problem(c)),
            Err(what) => {
                let start = text::from_bytes(line.get(..line.len().min(100)).unwrap_or_default());
                sink.problem(&format!("malformed line: {what}: {start}"));
                self.uncover(sink.now());
            }
        }
    }

    /// Tells that a line was too long and thrown away.
    pub(super) fn too_long(&mut self, longest: usize, sink: &dyn Sink) {
        sink.problem(&format!("a line longer than {longest} bytes was dropped"));
        self.uncover(sink.now());
    }

    /// Takes a line; returns complaints about parts of it that were left out.
    ///
    /// # Errors
    /// What makes the whole line useless.
    pub(super) fn take(&mut self, line: &[u8], now: Stamp) -> Result<Vec<String>, String> {
        if line.iter().all(u8::is_ascii_whitespace) {
            return Ok(Vec::new());
        }
        let value: Value = serde_json::from_slice(line).map_err(|e| e.to_string())?;
        let Value::Object(object) = value else {
            return Err("it is no JSON object".into());
        };
        let mut complaints = Vec::new();
        let event = self.event(object, now, &mut complaints)?;
        if let Some((stream, batch)) = self.streams.get_mut(event.stream)
            && !event.values.is_empty()
        {
            let batch = batch.get_or_insert_with(|| Batch::new(stream.clone(), now));
            let mut row = batch.row_at(event.subject, event.boot_ns);
            for (i, value) in event.values {
                let Some(field) = stream.fields.get(i) else {
                    continue;
                };
                if !set(&mut row, i, field, &value) {
                    complaints.push(format!("`{}` cannot be {}", field.name, shown(&value)));
                }
            }
        }
        Ok(complaints)
    }

    fn event(
        &mut self,
        mut object: Map<String, Value>,
        now: Stamp,
        complaints: &mut Vec<String>,
    ) -> Result<Event, String> {
        let subject = object.remove("subject");
        let stream = object.remove("stream");
        let time = object.remove("time");
        let fields = match object.remove("fields") {
            Some(Value::Object(fields)) => {
                complaints.extend(object.keys().map(|k| {
                    format!("`{}` beside `fields` is left out", text::escape(&text::shorten(k, 60)))
                }));
                fields
            }
            // A field may be called `fields`.
            Some(other) => {
                object.insert("fields".into(), other);
                object
            }
            None => object,
        };
        let stream = self.stream(stream, &fields)?;
        let Some((declared, _)) = self.streams.get(stream) else {
            return Err("no such stream".into());
        };
        let subject = subject_of(subject, declared)?;
        let mut values = Vec::with_capacity(fields.len());
        for (name, value) in fields {
            match declared.field_index(&name) {
                // A null is a value that could not be read.
                Some(_) if value.is_null() => {}
                Some(i) => values.push((i, value)),
                None => {
                    let near = text::did_you_mean(&name, declared.fields.iter().map(|f| &*f.name));
                    let hint = near.map(|n| format!(": did you mean `{n}`?")).unwrap_or_default();
                    let name = text::escape(&text::shorten(&name, 60)).into_owned();
                    complaints.push(format!("`{name}` is no field of {}{hint}", declared.name));
                }
            }
        }
        let boot_ns = match declared.mode {
            Mode::Occurrences => time.and_then(|t| own_time(&t, now)).unwrap_or(now.boot_ns),
            Mode::Sampled => now.boot_ns,
        };
        Ok(Event { stream, subject, boot_ns, values })
    }

    /// The number of the stream that a line is for; declares it if lines may.
    fn stream(&mut self, given: Option<Value>, fields: &Map<String, Value>) -> Result<usize, String> {
        let name: Cow<'_, str> = match given {
            None => Cow::Borrowed(&self.name),
            Some(Value::String(s)) => Cow::Owned(s),
            Some(v) => return Err(format!("`stream` cannot be {}", shown(&v))),
        };
        if let Some(i) = self.streams.iter().position(|(s, _)| s.name == name) {
            return Ok(i);
        }
        let shown = text::escape(&text::shorten(&name, 60)).into_owned();
        if !self.infer {
            return Err(format!("stream `{shown}` is not declared"));
        }
        let part = name.strip_prefix(&self.name).map(|rest| rest.strip_prefix('.').unwrap_or(rest));
        if *name != self.name
            && !part.is_some_and(|p| is_name(p) && name.len() == self.name.len() + 1 + p.len())
        {
            return Err(format!("stream `{shown}` is neither `{0}` nor `{0}.x`", self.name));
        }
        if self.streams.len() >= MOST_STREAMS {
            return Err(format!("stream `{shown}` is one more than {MOST_STREAMS}"));
        }
        let declared = infer(&name, fields)?;
        self.streams.push((Arc::new(declared), None));
        Ok(self.streams.len() - 1)
    }

    /// Something was lost: the streams of occurrences say that they are not complete up to now.
    fn uncover(&mut self, now: Stamp) {
        for (stream, batch) in self.streams.iter_mut().filter(|(s, _)| s.mode == Mode::Occurrences) {
            batch.get_or_insert_with(|| Batch::new(stream.clone(), now)).covered_to = false;
        }
    }

    /// The batches read since the last time; also the empty ones if `all`. Their time is yet to be set.
    pub(super) fn batches(&mut self, all: bool) -> Vec<Batch> {
        self.streams
            .iter_mut()
            .filter_map(|(stream, batch)| match batch.take() {
                None if all => Some(Batch::new(stream.clone(), Stamp::default())),
                some => some,
            })
            .collect()
    }
}

/// Declares a stream by what its first line shows: numbers are gauges, strings are texts.
fn infer(name: &str, values: &Map<String, Value>) -> Result<Stream, String> {
    let mut fields = Vec::new();
    for (field, value) in values.iter().filter(|(field, _)| is_name(field)).take(MAX_FIELDS) {
        let (kind, unit) = match value {
            Value::Number(_) | Value::Bool(_) => (FieldKind::Gauge, Unit::Count),
            Value::String(_) => (FieldKind::Text, Unit::None),
            _ => continue,
        };
        let help = Cow::Borrowed("declared by the first line of its program");
        fields.push(Field { name: field.clone().into(), kind, unit, help });
    }
    if fields.is_empty() {
        return Err("it has no field: a field is a lower-case name with a number or a string".into());
    }
    Ok(Stream {
        name: name.to_string().into(),
        help: Cow::Borrowed("declared by the first line of its program"),
        mode: Mode::Sampled,
        subjects: Cow::Borrowed(&SubjectKind::ALL),
        fields: Cow::Owned(fields),
    })
}

fn subject_of(given: Option<Value>, declared: &Stream) -> Result<Subject, String> {
    let subject = match given {
        None => Subject::Host,
        Some(Value::String(s)) => {
            if s.len() > LONGEST_SUBJECT || s.chars().any(char::is_control) {
                return Err("its subject is too long or has control characters".into());
            }
            s.parse().map_err(|e: whystall_event::ParseSubjectError| e.to_string())?
        }
        Some(v) => return Err(format!("`subject` cannot be {}", shown(&v))),
    };
    if declared.subjects.contains(&subject.kind()) {
        Ok(subject)
    } else {
        let kinds: Vec<&str> = declared.subjects.iter().map(|k| k.name()).collect();
        Err(format!("{} is about {}, not {}", declared.name, kinds.join(", "), subject.kind()))
    }
}

/// An event's time, wall-clock seconds since the epoch, on CLOCK_BOOTTIME; `None` if it is not of the last minute.
fn own_time(time: &Value, now: Stamp) -> Option<u64> {
    let wall_ns = (time.as_f64()? * SEC as f64).round();
    if !(0.0..9e18).contains(&wall_ns) {
        return None;
    }
    let ago = now.wall_ns.checked_sub(wall_ns as u64).filter(|ago| *ago <= OLDEST_NS)?;
    now.boot_ns.checked_sub(ago)
}

/// Sets a value; false if it does not fit the field.
fn set(row: &mut whystall_event::Row<'_>, i: usize, field: &Field, value: &Value) -> bool {
    match (field.kind, value) {
        (FieldKind::Text, Value::String(s)) => {
            row.text(i, text::shorten(s, LONGEST_TEXT).as_ref());
            true
        }
        (FieldKind::Text, _) => false,
        (_, Value::Bool(b)) => row.number(i, f64::from(u8::from(*b))),
        (kind, Value::Number(n)) => match n.as_u64() {
            // Exact where a float is not.
            Some(n) if kind != FieldKind::Gauge => {
                row.int(i, n.saturating_mul(field.unit.scale() as u64));
                true
            }
            _ => n.as_f64().is_some_and(|n| row.number(i, n * field.unit.scale())),
        },
        _ => false,
    }
}

/// A value for people, short.
fn shown(value: &Value) -> String {
    match value {
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "an object".into(),
        v => text::escape(&text::shorten(&v.to_string(), 60)).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Stamp = Stamp { boot_ns: 1000 * SEC, wall_ns: 1_700_000_000 * SEC };

    fn declared() -> Schema {
        const FIELDS: &[Field] = &[
            Field::counter("hits", Unit::Count, ""),
            Field::gauge("wait", Unit::Time, ""),
            Field::text("who", ""),
        ];
        const SLOW: &[Field] = &[Field::duration("took", "")];
        let kinds = &[SubjectKind::Host, SubjectKind::Device];
        Schema::new(
            "x",
            vec![
                Arc::new(Stream::sampled("x", "", kinds, FIELDS)),
                Arc::new(Stream::occurrences("x.slow", "", kinds, SLOW)),
            ],
        )
    }

    /// The rows after a line, as text, and its complaints.
    fn take(schema: &mut Schema, line: &str) -> Result<(Vec<String>, Vec<String>), String> {
        let complaints = schema.take(line.as_bytes(), NOW)?;
        let mut rows = Vec::new();
        for batch in schema.batches(false) {
            for row in batch.rows() {
                let mut s = format!("{}{{{}}}@{}", batch.stream.name, row.subject, row.boot_ns / SEC);
                for (i, f) in batch.stream.fields.iter().enumerate() {
                    if let Some(n) = row.number(i) {
                        s += &format!(" {}={n}", f.name);
                    }
                    if let Some(t) = row.text(i) {
                        s += &format!(" {}={t:?}", f.name);
                    }
                }
                rows.push(s);
            }
        }
        Ok((rows, complaints))
    }

    #[test]
    fn lines_become_rows() {
        let mut s = declared();
        for (line, row) in [
            (r#"{"hits": 12}"#, "x{host}@1000 hits=12"),
            (r#"{"subject":"host","fields":{"hits":12,"wait":2.5}}"#, "x{host}@1000 hits=12 wait=2500000"),
            (
                r#"{"subject":"device:eth0","who":"a\u0000b","wait":null}"#,
                "x{device:eth0}@1000 who=\"a\\0b\"",
            ),
            (r#"{"stream":"x.slow","took":1.5,"time":1699999990}"#, "x.slow{host}@990 took=1500000"),
            (r#"{"stream":"x.slow","took":1,"time":5}"#, "x.slow{host}@1000 took=1000000"),
            (r#"{"hits": true, "time": 1699999990}"#, "x{host}@1000 hits=1"),
            (r#"{"hits": 12.0}"#, "x{host}@1000 hits=12"),
        ] {
            assert_eq!(take(&mut s, line), Ok((vec![row.to_string()], vec![])), "{line}");
        }
        assert_eq!(take(&mut s, "  "), Ok((vec![], vec![])));
        let max = u64::MAX - 1;
        s.take(format!("{{\"hits\": {max}}}").as_bytes(), NOW).unwrap();
        assert_eq!(s.batches(false)[0].rows().next().unwrap().values[0], max, "counters are exact");
    }

    #[test]
    fn what_is_wrong_with_a_part_leaves_the_rest() {
        let mut s = declared();
        for (line, rows, complaint) in [
            (r#"{"hist": 1, "hits": 2}"#, 1, "`hist` is no field of x: did you mean `hits`?"),
            (r#"{"hits": -1, "wait": 1}"#, 1, "`hits` cannot be -1"),
            (r#"{"who": 5, "wait": 1}"#, 1, "`who` cannot be 5"),
            (r#"{"fields": {"hits": 1}, "extra": 2}"#, 1, "`extra` beside `fields` is left out"),
            (r#"{"fields": 3}"#, 0, "`fields` is no field of x"),
            (r#"{"wait": [1]}"#, 1, "`wait` cannot be a list"),
        ] {
            let (got, complaints) = take(&mut s, line).unwrap();
            assert_eq!((got.len(), complaints), (rows, vec![complaint.to_string()]), "{line}");
        }
    }

    #[test]
    fn what_makes_a_line_useless() {
        let mut s = declared();
        for (line, part) in [
            ("nonsense", "expected"),
            ("[1]", "no JSON object"),
            ("{\"hits\": 1} {\"hits\": 2}", "trailing"),
            (r#"{"subject":"cpu:1","hits":1}"#, "is about host, device, not cpu"),
            (r#"{"subject":"nothing","hits":1}"#, "is no subject"),
            (r#"{"subject":"device:a\nb","hits":1}"#, "control characters"),
            (r#"{"subject":7,"hits":1}"#, "`subject` cannot be 7"),
            (r#"{"stream":"y","hits":1}"#, "not declared"),
            (r#"{"stream":{},"hits":1}"#, "`stream` cannot be an object"),
            (r#"{"hits": 1e999}"#, "out of range"),
        ] {
            let e = s.take(line.as_bytes(), NOW).unwrap_err();
            assert!(e.contains(part), "{line}: {e}");
        }
        assert!(s.take(b"{\"who\": \"\xff\"}", NOW).is_err());
        assert!(s.take(b"{\"who\": \"a\0b\"}", NOW).is_err());
        assert!(s.take("[".repeat(100_000).as_bytes(), NOW).is_err());
        assert!(s.batches(false).is_empty());
        assert_eq!(s.batches(true).len(), 2, "a heartbeat for each stream");
    }

    #[test]
    fn the_first_line_declares_what_is_not_declared() {
        let mut s = Schema::new("x", Vec::new());
        assert!(s.take(br#"{"Upper": 1}"#, NOW).unwrap_err().contains("no field"));
        let (rows, complaints) =
            take(&mut s, r#"{"subject":"cpu:1","count":1,"iface":"e","Upper":1,"list":[]}"#).unwrap();
        assert_eq!(rows, ["x{cpu:1}@1000 count=1 iface=\"e\""]);
        assert_eq!(complaints.len(), 2);
        assert_eq!(take(&mut s, r#"{"count":2,"more":3}"#).unwrap().1, ["`more` is no field of x"]);
        assert!(take(&mut s, r#"{"stream":"x.y","a":2}"#).is_ok());
        for bad in ["xy", "x.", "x..y", "x.Y", "y.x"] {
            assert!(take(&mut s, &format!(r#"{{"stream":"{bad}","a":2}}"#)).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            super::super::fuzz(&bytes);
        }

        #[test]
        fn never_panics_on_near_json(lines in prop::collection::vec(r#"\{("(subject|stream|time|fields|hits|wait|who)":(-?[0-9]{1,22}|[0-9]e[0-9]{1,3}|"(host|x|x\.y|device:[ -!#-~]{0,9}|cgroup:/é)"|null|true|\[\]|\{\}|\{"hits":1\}),?){0,5}\}?"#, 1..8)) {
            let mut s = declared();
            for l in &lines {
                let _ = s.take(l.as_bytes(), NOW);
            }
            for b in s.batches(true) {
                for row in b.rows() {
                    prop_assert!(b.stream.subjects.contains(&row.subject.kind()));
                }
            }
            super::super::fuzz(lines.join("\n").as_bytes());
        }
    }
}
