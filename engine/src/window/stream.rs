//! What is kept for one stream: which windows read it, which row each of its subjects has, and attributes.

use std::sync::Arc;

use whystall_event::{Batch, FieldKind, MAX_FIELDS, Mode, Stream, Subject, SubjectKind};

use super::group::{Group, Others, Taken};
use super::track::{Scratch, TickInfo};
use crate::subjects::{NO_ROW, SubjectTable};

/// The rows of a stream's subjects in the order of its last batch. Collectors read the same subjects in the same order
/// each pass, so that most rows are found by comparing a pointer.
#[derive(Debug, Default)]
struct RowCache {
    entries: Vec<Entry>,
    /// What was left of the last batch's order when this batch began to differ.
    old: Vec<Entry>,
    cursor: usize,
    differs: bool,
}

#[derive(Debug)]
struct Entry {
    subject: Subject,
    row: u32,
    generation: u32,
}

/// How many vanished subjects in a row the cache can step over.
const LOOK_AHEAD: usize = 4;

/// The most rows of a batch that are remembered.
const MAX_CACHED: usize = 1 << 17;

impl Entry {
    /// The row, if this is `subject` and it still has it.
    #[inline(always)]
    fn row_of(&mut self, subject: &Subject, at: u64, table: &mut SubjectTable) -> Option<u32> {
        let same = match (&self.subject, subject) {
            (Subject::Cgroup(a), Subject::Cgroup(b)) | (Subject::Device(a), Subject::Device(b)) => {
                Arc::ptr_eq(a, b) || self.renames(subject)
            }
            (a, b) => a == b,
        };
        (same && table.touch_same(self.row, self.generation, at)).then_some(self.row)
    }

    /// Whether `subject` is the same by another copy of its name. That copy is kept: each block of a recording brings
    /// new ones, and the batches that follow in it are then compared by pointer again.
    #[inline(never)]
    fn renames(&mut self, subject: &Subject) -> bool {
        let same = self.subject == *subject;
        if same {
            self.subject = subject.clone();
        }
        same
    }
}

impl RowCache {
    fn begin(&mut self) {
        self.old.clear();
        self.cursor = 0;
        self.differs = false;
    }

    /// The row of the batch's subject number `i`, heard of at `at`; see [`SubjectTable::resolve`].
    #[inline(always)]
    fn row(&mut self, i: usize, subject: &Subject, at: u64, table: &mut SubjectTable) -> Option<u32> {
        if !self.differs
            && let Some(e) = self.entries.get_mut(i)
            && let Some(row) = e.row_of(subject, at, table)
        {
            return Some(row);
        }
        self.search(i, subject, at, table)
    }

    #[inline(never)]
    fn search(&mut self, i: usize, subject: &Subject, at: u64, table: &mut SubjectTable) -> Option<u32> {
        if !self.differs {
            self.differs = true;
            let keep = i.min(self.entries.len());
            self.old.extend(self.entries.drain(keep..));
        }
        for ahead in 0..LOOK_AHEAD {
            let Some(e) = self.old.get_mut(self.cursor + ahead) else {
                break;
            };
            if let Some(row) = e.row_of(subject, at, table) {
                self.cursor += ahead + 1;
                let taken = std::mem::replace(&mut e.subject, Subject::Host);
                self.entries.push(Entry { subject: taken, row, generation: e.generation });
                return Some(row);
            }
        }
        let row = table.resolve(subject, at);
        // Subjects without a row keep their place, so that those behind them are found.
        if self.entries.len() < MAX_CACHED {
            let row = row.unwrap_or(NO_ROW);
            let generation = table.generation(row);
            self.entries.push(Entry { subject: subject.clone(), row, generation });
        }
        row
    }

    /// Ends a batch of `rows` rows: subjects that it did not name are let go.
    fn end(&mut self, rows: usize) {
        if !self.differs {
            self.entries.truncate(rows);
        }
        self.old.clear();
    }

    fn bytes(&self) -> usize {
        (self.entries.capacity() + self.old.capacity()) * size_of::<Entry>()
    }
}

/// The newest attributes of the subjects of one kind.
#[derive(Debug, Default)]
struct Texts {
    /// Per row, `width` texts.
    texts: Vec<Option<Arc<str>>>,
}

impl Texts {
    fn set(&mut self, row: usize, column: usize, width: usize, text: &Arc<str>) {
        if self.texts.len() < (row + 1) * width {
            self.texts.resize((row + 1) * width, None);
        }
        if let Some(slot) = self.texts.get_mut(row * width + column)
            && slot.as_ref().is_none_or(|t| !Arc::ptr_eq(t, text) && t != text)
        {
            *slot = Some(text.clone());
        }
    }
}

/// What is kept for one stream.
#[derive(Debug)]
pub(crate) struct StreamState {
    /// The newest declaration.
    pub(crate) bound: Option<Arc<Stream>>,
    pub(crate) groups: [Option<Box<Group>>; 6],
    cache: RowCache,
    /// The current batch's rows in the tables, or [`NO_ROW`].
    rows: Vec<u32>,
    /// Fields kept as attributes (sampled streams only).
    text_fields: Vec<usize>,
    texts: [Texts; 6],
    has_host: bool,
    /// Kinds of subjects whose rows matter here.
    wanted: [bool; 6],
    /// Occurrences: up to when everything was delivered, and how much of this tick.
    covered_to: Option<u64>,
    pub(crate) covered_ns: f64,
}

impl StreamState {
    pub(crate) fn new() -> StreamState {
        StreamState {
            bound: None,
            groups: [const { None }; 6],
            cache: RowCache::default(),
            rows: Vec::new(),
            text_fields: Vec::new(),
            texts: Default::default(),
            has_host: false,
            wanted: [false; 6],
            covered_to: None,
            covered_ns: 0.0,
        }
    }

    /// Fits everything to the stream's declaration; also after windows came or went. Returns the number of fields that
    /// changed their nature.
    pub(crate) fn bind(&mut self, stream: &Arc<Stream>, tick: u64) -> u64 {
        let sampled = stream.mode == Mode::Sampled;
        let is_text = |i: &usize| sampled && stream.fields[*i].kind == FieldKind::Text;
        let text_fields: Vec<usize> = (0..stream.fields.len().min(MAX_FIELDS)).filter(is_text).collect();
        if text_fields != self.text_fields {
            self.text_fields = text_fields;
            self.texts = Default::default();
        }
        self.has_host = stream.subjects.contains(&SubjectKind::Host);
        let mut changed = 0;
        for (wanted, group) in self.wanted.iter_mut().zip(&mut self.groups) {
            changed += group.as_mut().map_or(0, |g| g.bind(stream, tick));
            *wanted = !self.text_fields.is_empty() || group.as_ref().is_some_and(|g| g.reads());
        }
        self.bound = Some(stream.clone());
        changed
    }

    /// Takes a batch. Rows from before `since` are too old. `limits` are the tables' caps.
    pub(crate) fn ingest(
        &mut self,
        batch: &Batch,
        tables: &mut [SubjectTable; 6],
        limits: &[usize; 6],
        since: u64,
        interval: u64,
    ) -> Taken {
        let mut taken = Taken::default();
        let at = batch.at.boot_ns;
        let occurrences = batch.stream.mode == Mode::Occurrences;
        if self.has_host {
            tables[SubjectKind::Host as usize].resolve(&Subject::Host, at);
        }
        if occurrences {
            self.cover(at, batch.covered_to, since, interval);
        }
        if !self.wanted.contains(&true) {
            return taken;
        }
        // First the rows, then the values group by group: two tight loops instead of one loose one.
        self.rows.clear();
        self.rows.reserve(batch.len());
        self.cache.begin();
        let mut place = 0;
        let mut last = [None; 6];
        for row in batch.rows() {
            let kind = row.subject.kind() as usize;
            let mut index = None;
            if row.boot_ns < since {
                taken.too_old += 1;
            } else if !self.wanted[kind] {
            } else if occurrences {
                index = tables[kind].resolve(row.subject, row.boot_ns);
            } else {
                index = self.cache.row(place, row.subject, row.boot_ns, &mut tables[kind]);
                place += 1;
            }
            self.rows.push(index.unwrap_or(NO_ROW));
            last[kind] = last[kind].max(index);
        }
        self.cache.end(place);
        for (kind, group) in SubjectKind::ALL.into_iter().zip(&mut self.groups) {
            let (Some(group), Some(last)) = (group, last[kind as usize]) else {
                continue;
            };
            let limit = limits[kind as usize];
            let counts = group.take(batch, &self.rows, kind, last as usize, limit, interval as f64);
            taken.events += counts.events;
            taken.too_old += counts.too_old;
        }
        self.take_texts(batch);
        taken
    }

    fn take_texts(&mut self, batch: &Batch) {
        let width = self.text_fields.len();
        for (column, field) in self.text_fields.iter().enumerate() {
            for (row, index) in batch.rows().zip(&self.rows).filter(|(_, i)| **i != NO_ROW) {
                if let Some(text) = row.text(*field) {
                    self.texts[row.subject.kind() as usize].set(*index as usize, column, width, text);
                }
            }
        }
    }

    /// Notes a batch of occurrences made at `at`: whether all that happened until then was delivered.
    fn cover(&mut self, at: u64, complete: bool, since: u64, interval: u64) {
        let from = self.covered_to.unwrap_or(at.saturating_sub(interval)).max(since);
        if complete && at > from {
            self.covered_ns += (at - from) as f64;
        }
        self.covered_to = Some(self.covered_to.map_or(at, |c| c.max(at)));
    }

    /// Closes the tick for all groups: without `others` of the windows without a gate, with them of the others.
    pub(crate) fn tick(
        &mut self,
        tick: &TickInfo,
        scratch: &mut Scratch,
        tables: &[SubjectTable; 6],
        others: Option<&Others>,
    ) {
        let gated = self.groups.iter().flatten().any(|g| g.gated());
        if others.is_some() && !gated {
            return;
        }
        let covered = self.covered_ns;
        if others.is_some() || !gated {
            self.covered_ns = 0.0;
        }
        for (group, table) in self.groups.iter_mut().zip(tables) {
            if let Some(group) = group.as_mut().filter(|g| g.reads()) {
                let mask = (!table.all_live()).then(|| table.mask());
                group.tick(tick, scratch, covered, table.len(), mask, others);
            }
        }
    }

    /// The newest text of field `field` for the subject at `row`.
    pub(crate) fn text(&self, field: &str, kind: usize, row: u32) -> Option<&Arc<str>> {
        let index = self.bound.as_ref()?.field_index(field)?;
        let column = self.text_fields.iter().position(|f| *f == index)?;
        self.texts[kind].texts.get(row as usize * self.text_fields.len() + column)?.as_ref()
    }

    /// Forgets one row.
    pub(crate) fn clear_row(&mut self, kind: usize, row: u32) {
        if let Some(group) = &mut self.groups[kind] {
            group.clear_row(row as usize);
        }
        let width = self.text_fields.len();
        if let Some(texts) = self.texts[kind].texts.get_mut(row as usize * width..(row as usize + 1) * width)
        {
            texts.fill(None);
        }
    }

    /// Makes one row's values unknown.
    pub(crate) fn mask_row(&mut self, kind: usize, row: u32) {
        if let Some(group) = &mut self.groups[kind] {
            group.mask_row(row as usize);
        }
    }

    /// Forgets window contents and readings; weighted means, attributes and coverage's end stay.
    pub(crate) fn sever(&mut self) {
        self.covered_ns = 0.0;
        self.groups.iter_mut().flatten().for_each(|g| g.sever());
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        let texts = |t: &Texts| {
            let held = t.texts.iter().flatten().map(|s| s.len() + 16).sum::<usize>();
            t.texts.capacity() * size_of::<Option<Arc<str>>>() + held
        };
        let groups = self.groups.iter().flatten().map(|g| size_of::<Group>() + g.bytes());
        size_of::<StreamState>()
            + self.cache.bytes()
            + self.rows.capacity() * 4
            + self.texts.iter().map(texts).sum::<usize>()
            + groups.sum::<usize>()
    }
}
