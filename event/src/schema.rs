//! What a collector emits, declared: streams and their fields with kind, unit and help.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::SubjectKind;

/// How a field's values are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FieldKind {
    /// A monotone `u64`; only differences mean something, and a decrease is a reset.
    Counter,
    /// A level, `f64`.
    Gauge,
    /// The length of one thing that happened, in nanoseconds (`u64`). Only in [`Mode::Occurrences`] streams.
    Duration,
    /// Text: an attribute of the subject in a sampled stream, a label of the event in a stream of occurrences.
    Text,
}

/// The unit of a field's values inside whystall. People see time in milliseconds everywhere (see [`Unit::shown`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// A number of things.
    Count,
    /// Bytes.
    Bytes,
    /// Memory pages of the host's page size.
    Pages,
    /// Time: nanoseconds inside, milliseconds wherever a person or another program reads or writes it.
    Time,
    /// A part of one, 0 to 1.
    Ratio,
    /// No unit: text, states, identifiers.
    None,
}

impl Unit {
    /// The unit's name where values are shown or typed: rules' evidence, `fields`, JSON lines, series in tests.
    pub const fn shown(self) -> &'static str {
        match self {
            Unit::Count | Unit::None => "",
            Unit::Bytes => "bytes",
            Unit::Pages => "pages",
            Unit::Time => "ms",
            Unit::Ratio => "ratio",
        }
    }

    /// What one shown unit is worth inside: 1e6 for [`Unit::Time`] (1 ms = 1e6 ns), else 1.
    pub const fn scale(self) -> f64 {
        match self {
            Unit::Time => 1e6,
            _ => 1.0,
        }
    }
}

/// One measured quantity of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Field {
    /// The last part of its full name: `pgscan_direct` of `vmstat.pgscan_direct`.
    pub name: Cow<'static, str>,
    /// How values are read.
    pub kind: FieldKind,
    /// The values' unit.
    pub unit: Unit,
    /// One sentence for people: what it counts and where it comes from.
    pub help: Cow<'static, str>,
}

impl Field {
    /// A counter; see [`FieldKind::Counter`].
    pub const fn counter(name: &'static str, unit: Unit, help: &'static str) -> Field {
        Field { name: Cow::Borrowed(name), kind: FieldKind::Counter, unit, help: Cow::Borrowed(help) }
    }

    /// A gauge; see [`FieldKind::Gauge`].
    pub const fn gauge(name: &'static str, unit: Unit, help: &'static str) -> Field {
        Field { name: Cow::Borrowed(name), kind: FieldKind::Gauge, unit, help: Cow::Borrowed(help) }
    }

    /// A duration in nanoseconds; see [`FieldKind::Duration`].
    pub const fn duration(name: &'static str, help: &'static str) -> Field {
        Field {
            name: Cow::Borrowed(name),
            kind: FieldKind::Duration,
            unit: Unit::Time,
            help: Cow::Borrowed(help),
        }
    }

    /// Text; see [`FieldKind::Text`].
    pub const fn text(name: &'static str, help: &'static str) -> Field {
        Field {
            name: Cow::Borrowed(name),
            kind: FieldKind::Text,
            unit: Unit::None,
            help: Cow::Borrowed(help),
        }
    }
}

/// Whether rows are readings of something that always exists, or things that happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// A row a subject and interval. No row means: not known.
    Sampled,
    /// A row for each thing that happened. No row means: nothing happened, as long as the collector reports that it
    /// was watching ([`crate::Batch::covered_to`]).
    Occurrences,
}

/// A declared source of events of one shape.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stream {
    /// Dotted lower-case name, for example `vmstat` or `reclaim.memcg`.
    pub name: Cow<'static, str>,
    /// One sentence for people.
    pub help: Cow<'static, str>,
    /// Readings or occurrences.
    pub mode: Mode,
    /// The kinds of subjects its rows are about.
    pub subjects: Cow<'static, [SubjectKind]>,
    /// Its fields, at most [`crate::MAX_FIELDS`].
    pub fields: Cow<'static, [Field]>,
}

impl Stream {
    /// A sampled stream known at compile time.
    pub const fn sampled(
        name: &'static str,
        help: &'static str,
        subjects: &'static [SubjectKind],
        fields: &'static [Field],
    ) -> Stream {
        Stream {
            name: Cow::Borrowed(name),
            help: Cow::Borrowed(help),
            mode: Mode::Sampled,
            subjects: Cow::Borrowed(subjects),
            fields: Cow::Borrowed(fields),
        }
    }

    /// A stream of occurrences known at compile time.
    pub const fn occurrences(
        name: &'static str,
        help: &'static str,
        subjects: &'static [SubjectKind],
        fields: &'static [Field],
    ) -> Stream {
        Stream {
            name: Cow::Borrowed(name),
            help: Cow::Borrowed(help),
            mode: Mode::Occurrences,
            subjects: Cow::Borrowed(subjects),
            fields: Cow::Borrowed(fields),
        }
    }

    /// The index of the field called `name`.
    pub fn field_index(&self, name: &str) -> Option<usize> {
        self.fields.iter().position(|f| f.name == name)
    }
}

/// Splits a full field name at its last dot: `reclaim.memcg.duration` is field `duration` of `reclaim.memcg`.
pub fn split_field(full: &str) -> Option<(&str, &str)> {
    full.rsplit_once('.').filter(|(s, f)| !s.is_empty() && !f.is_empty())
}
