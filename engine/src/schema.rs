//! Which streams exist, as rules see them: the checker's and the loader's view of the collectors.

use std::sync::Arc;

use whystall_event::{Field, Stream, split_field};

/// A source of streams by the name that `needs` and `wants` use.
#[derive(Debug, Clone)]
pub struct Source {
    /// The collector's name.
    pub name: String,
    /// Its streams.
    pub streams: Vec<Arc<Stream>>,
    /// The time between its readings, nanoseconds.
    pub interval_ns: u64,
    /// Why it does not work on this host; `None` if it does or if nobody looked.
    pub missing: Option<String>,
}

/// All sources that rules may read.
#[derive(Debug, Clone, Default)]
pub struct Schema {
    sources: Vec<Source>,
}

impl Schema {
    /// A schema of these sources.
    pub fn new(sources: Vec<Source>) -> Schema {
        Schema { sources }
    }

    /// Every source.
    pub fn sources(&self) -> &[Source] {
        &self.sources
    }

    /// Every stream with the source it comes from.
    pub fn streams(&self) -> impl Iterator<Item = (&Source, &Arc<Stream>)> {
        self.sources.iter().flat_map(|s| s.streams.iter().map(move |t| (s, t)))
    }

    /// The field with the full name `stream.field`.
    pub fn field(&self, full: &str) -> Option<FieldRef<'_>> {
        let (stream, field) = split_field(full)?;
        let (source, stream) = self.streams().find(|(_, s)| s.name == stream)?;
        let field = stream.fields.iter().find(|f| f.name == field)?;
        Some(FieldRef { source, stream, field })
    }

    /// The sources that `name` in `needs` or `wants` means: a collector, a stream, or a stream's dotted prefix.
    pub fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Source> {
        self.sources.iter().filter(move |s| {
            let below =
                |full: &str| full.strip_prefix(name).is_some_and(|r| r.is_empty() || r.starts_with('.'));
            s.name == name || s.streams.iter().any(|t| below(&t.name))
        })
    }

    /// Full names of all fields, for suggestions.
    pub fn field_names(&self) -> Vec<String> {
        self.streams()
            .flat_map(|(_, s)| s.fields.iter().map(move |f| format!("{}.{}", s.name, f.name)))
            .collect()
    }
}

/// A field found in a [`Schema`].
#[derive(Debug, Clone, Copy)]
pub struct FieldRef<'a> {
    /// Where it comes from.
    pub source: &'a Source,
    /// Its stream.
    pub stream: &'a Arc<Stream>,
    /// Its declaration.
    pub field: &'a Field,
}
