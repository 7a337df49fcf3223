//! What the engine knows at this moment: windows, recent events, the host.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use whystall_event::{Batch, FieldKind, Mode, Stream, Subject};

use crate::window::Windows;

/// Facts about the host that verdicts use; set once by whoever runs the engine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// The host's name.
    pub host: String,
    /// The kernel's release.
    pub kernel: String,
    /// Online CPUs.
    pub cpus: u32,
    /// Whether the memory controller is on cgroup v2.
    pub memory_cgroup_v2: bool,
    /// Where the hierarchy of the memory controller is mounted.
    pub memory_cgroup_mount: String,
}

/// The engine's present.
#[derive(Debug)]
pub(crate) struct Data {
    pub(crate) windows: Windows,
    pub(crate) recent: Recent,
    pub(crate) facts: HostFacts,
}

/// Events kept a stream.
const KEEP: usize = 256;
/// Streams for which events are kept.
const STREAMS: usize = 256;

/// The newest events of each stream of occurrences, for verdicts.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    streams: HashMap<Arc<str>, VecDeque<RecentEvent>, foldhash::fast::RandomState>,
}

/// One thing that happened.
#[derive(Debug, Clone)]
pub(crate) struct RecentEvent {
    pub(crate) subject: Subject,
    pub(crate) boot_ns: u64,
    stream: Arc<Stream>,
    numbers: Vec<Option<f64>>,
    texts: Vec<Option<Arc<str>>>,
}

/// A field of a [`RecentEvent`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum RecentValue<'a> {
    Text(&'a str),
    /// In the shown unit.
    Number(f64),
    /// The event does not have it.
    Absent,
}

impl RecentEvent {
    /// A number by its field's name, in the shown unit.
    pub(crate) fn number(&self, field: &str) -> Option<f64> {
        let i = self.stream.field_index(field)?;
        Some(self.numbers.get(i).copied().flatten()? / self.stream.fields[i].unit.scale())
    }

    /// Every field; an absent text is the empty text, so that scripts can read it without a check.
    pub(crate) fn values(&self) -> impl Iterator<Item = (&str, RecentValue<'_>)> {
        self.stream.fields.iter().enumerate().map(|(i, f)| {
            let value = match f.kind {
                FieldKind::Text => RecentValue::Text(self.texts[i].as_deref().unwrap_or("")),
                _ => self.numbers[i].map_or(RecentValue::Absent, |x| RecentValue::Number(x / f.unit.scale())),
            };
            (f.name.as_ref(), value)
        })
    }
}

impl Recent {
    pub(crate) fn ingest(&mut self, batch: &Batch) {
        if batch.stream.mode != Mode::Occurrences || batch.is_empty() {
            return;
        }
        let name: &str = &batch.stream.name;
        if !self.streams.contains_key(name) {
            if self.streams.len() >= STREAMS {
                return;
            }
            self.streams.insert(name.into(), VecDeque::new());
        }
        let Some(ring) = self.streams.get_mut(name) else { return };
        let n = batch.stream.fields.len();
        for row in batch.rows().skip(batch.len().saturating_sub(KEEP)) {
            if ring.len() == KEEP {
                ring.pop_front();
            }
            ring.push_back(RecentEvent {
                subject: row.subject.clone(),
                boot_ns: row.boot_ns,
                stream: batch.stream.clone(),
                numbers: (0..n).map(|i| row.number(i)).collect(),
                texts: (0..n).map(|i| row.text(i).cloned()).collect(),
            });
        }
    }

    /// Events of a stream, newest first.
    pub(crate) fn newest(&self, stream: &str) -> impl Iterator<Item = &RecentEvent> {
        self.streams.get(stream).into_iter().flat_map(|r| r.iter().rev())
    }
}
