//! A stream's declaration as a line: `{"declare": {"stream": …, "fields": {…}}}`.

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde::{Deserialize as Derive, Serialize};
use whystall_event::{Field, FieldKind, MAX_FIELDS, Mode, Stream, SubjectKind, Unit};

#[derive(Debug, Derive)]
struct DeclareLine {
    declare: Declared,
}

#[derive(Debug, Derive)]
#[serde(deny_unknown_fields)]
struct Declared {
    stream: String,
    #[serde(default)]
    help: String,
    #[serde(default)]
    mode: Option<Mode>,
    #[serde(default)]
    subjects: Option<Vec<SubjectKind>>,
    #[serde(default)]
    fields: Fields,
}

/// Fields in the order in which they are written.
#[derive(Debug, Default)]
struct Fields(Vec<(String, FieldForm)>);

/// `"counter"`, or everything.
#[derive(Debug, Derive)]
#[serde(
    untagged,
    expecting = "expected a field's kind (counter, gauge, duration, text), or {\"kind\": …, \"unit\": …}"
)]
enum FieldForm {
    Kind(FieldKind),
    Full {
        kind: FieldKind,
        #[serde(default)]
        unit: Option<Unit>,
        #[serde(default)]
        help: String,
    },
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Fields, D::Error> {
        struct Each;
        impl<'de> Visitor<'de> for Each {
            type Value = Fields;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object of fields")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }
        d.deserialize_map(Each)
    }
}

/// Reads a declaration; what is wrong and at which byte.
pub(crate) fn parse(line: &str) -> Result<Stream, (usize, String)> {
    let DeclareLine { declare } = serde_json::from_str(line).map_err(|e| {
        let what = e.to_string();
        let what = what.rsplit_once(" at line ").map_or(what.as_str(), |(what, _)| what).to_string();
        (e.column().saturating_sub(1), what)
    })?;
    if declare.stream.is_empty() || declare.stream.len() > 256 {
        return Err((0, "a stream's name has 1 to 256 bytes".into()));
    }
    if declare.fields.0.len() > MAX_FIELDS {
        return Err((0, format!("a stream has at most {MAX_FIELDS} fields")));
    }
    let fields: Vec<Field> = declare
        .fields
        .0
        .into_iter()
        .map(|(name, form)| {
            let (kind, unit, help) = match form {
                FieldForm::Kind(kind) => (kind, None, String::new()),
                FieldForm::Full { kind, unit, help } => (kind, unit, help),
            };
            let unit = unit.unwrap_or(match kind {
                FieldKind::Counter => Unit::Count,
                FieldKind::Gauge | FieldKind::Text => Unit::None,
                FieldKind::Duration => Unit::Time,
            });
            Field { name: name.into(), kind, unit, help: help.into() }
        })
        .collect();
    for (i, f) in fields.iter().enumerate() {
        if fields[..i].iter().any(|g| g.name == f.name) {
            return Err((0, format!("field `{}` is declared twice", f.name)));
        }
        if f.kind == FieldKind::Duration && (f.unit != Unit::Time || declare.mode != Some(Mode::Occurrences))
        {
            return Err((
                0,
                format!("`{}`: durations are times and belong to a stream of occurrences", f.name),
            ));
        }
    }
    Ok(Stream {
        name: declare.stream.into(),
        help: declare.help.into(),
        mode: declare.mode.unwrap_or(Mode::Sampled),
        subjects: declare.subjects.unwrap_or_else(|| SubjectKind::ALL.to_vec()).into(),
        fields: fields.into(),
    })
}

/// The line that declares a stream.
pub(crate) fn format(stream: &Stream) -> String {
    #[derive(Serialize)]
    struct FieldOut<'a> {
        kind: FieldKind,
        unit: Unit,
        help: &'a str,
    }
    struct FieldsOut<'a>(&'a [Field]);
    impl Serialize for FieldsOut<'_> {
        fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
            s.collect_map(
                self.0.iter().map(|f| (&f.name, FieldOut { kind: f.kind, unit: f.unit, help: &f.help })),
            )
        }
    }
    #[derive(Serialize)]
    struct Out<'a> {
        stream: &'a str,
        help: &'a str,
        mode: Mode,
        subjects: &'a [SubjectKind],
        fields: FieldsOut<'a>,
    }
    #[derive(Serialize)]
    struct LineOut<'a> {
        declare: Out<'a>,
    }
    let declare = Out {
        stream: &stream.name,
        help: &stream.help,
        mode: stream.mode,
        subjects: &stream.subjects,
        fields: FieldsOut(&stream.fields),
    };
    // Plain data with text keys always has a JSON form.
    serde_json::to_string(&LineOut { declare }).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declarations() {
        let s = parse(r#"{"declare":{"stream":"a.b","mode":"occurrences","subjects":["task"],"fields":{"z":"duration","b":{"kind":"counter","unit":"bytes"},"a":"text"}}}"#).unwrap();
        assert_eq!(
            (s.name.as_ref(), s.mode, s.subjects.as_ref()),
            ("a.b", Mode::Occurrences, &[SubjectKind::Task][..])
        );
        let fields: Vec<_> = s.fields.iter().map(|f| (f.name.as_ref(), f.kind, f.unit)).collect();
        assert_eq!(
            fields,
            [
                ("z", FieldKind::Duration, Unit::Time),
                ("b", FieldKind::Counter, Unit::Bytes),
                ("a", FieldKind::Text, Unit::None)
            ]
        );
        assert_eq!(parse(&format(&s)), Ok(s));
        for (line, says) in [
            (r#"{"declare":{"fields":{}}}"#, "missing field `stream`"),
            (r#"{"declare":{"stream":""}}"#, "1 to 256"),
            (r#"{"declare":{"stream":"s","kind":1}}"#, "unknown field `kind`"),
            (r#"{"declare":{"stream":"s","fields":{"a":"countr"}}}"#, "expected a field's kind"),
            (r#"{"declare":{"stream":"s","fields":{"a":"text","a":"text"}}}"#, "twice"),
            (r#"{"declare":{"stream":"s","fields":{"a":"duration"}}}"#, "occurrences"),
        ] {
            let (_, what) = parse(line).unwrap_err();
            assert!(what.contains(says), "{line}: {what}");
        }
    }
}
