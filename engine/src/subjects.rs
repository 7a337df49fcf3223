//! Dense rows for the subjects of one kind, so that columns of values can be plain arrays.
//!
//! A subject keeps its row for life. When it is gone its row stays occupied for a while (findings about it still want
//! its name), then it is freed and given to another subject. A subject that comes back after it was gone is another
//! one, a re-created cgroup for instance, and gets another row. Nothing here holds values.

use std::collections::VecDeque;
use std::sync::Arc;

use whystall_event::{Subject, SubjectKind};

type Map<K> = std::collections::HashMap<K, u32, foldhash::fast::RandomState>;

/// "No row" in [`SubjectTable::parent_rows`].
pub const NO_ROW: u32 = u32::MAX;

/// "Not gone" in a row's `gone_at`.
const HERE: u64 = u64::MAX;

#[derive(Debug, Clone, Copy)]
struct Meta {
    last_seen: u64,
    gone_at: u64,
    generation: u32,
}

/// Dense rows for the subjects of one kind. Rows are reused after a subject is gone and drained.
#[derive(Debug)]
pub struct SubjectTable {
    kind: SubjectKind,
    cap: usize,
    subjects: Vec<Option<Subject>>,
    meta: Vec<Meta>,
    /// 0 for a subject that exists, NaN for a row that is gone or free: added to a column it makes the value unknown.
    mask: Vec<f64>,
    parents: Vec<u32>,
    parents_stale: bool,
    by_name: Map<Arc<str>>,
    by_number: Map<u32>,
    free: Vec<u32>,
    gone: VecDeque<(u64, u32)>,
    over_cap: u64,
}

impl SubjectTable {
    /// An empty table for at most `cap` subjects.
    pub(crate) fn new(kind: SubjectKind, cap: usize) -> SubjectTable {
        SubjectTable {
            kind,
            cap: cap.min(NO_ROW as usize),
            subjects: Vec::new(),
            meta: Vec::new(),
            mask: Vec::new(),
            parents: Vec::new(),
            parents_stale: false,
            by_name: Map::default(),
            by_number: Map::default(),
            free: Vec::new(),
            gone: VecDeque::new(),
            over_cap: 0,
        }
    }

    /// The number of rows, free ones included: every row is below it.
    pub fn len(&self) -> usize {
        self.subjects.len()
    }

    /// Whether there never was a subject.
    pub fn is_empty(&self) -> bool {
        self.subjects.is_empty()
    }

    /// The subject at `row`; `None` for a free row.
    pub fn subject(&self, row: u32) -> Option<&Subject> {
        self.subjects.get(row as usize)?.as_ref()
    }

    /// The row of `subject`. Of a subject that went and came back, the row of its newest life.
    pub fn row(&self, subject: &Subject) -> Option<u32> {
        if subject.kind() != self.kind {
            return None;
        }
        match subject {
            Subject::Host => (!self.subjects.is_empty()).then_some(0),
            Subject::Cpu(n) | Subject::Node(n) | Subject::Task(n) => self.by_number.get(n).copied(),
            Subject::Cgroup(s) | Subject::Device(s) => self.by_name.get(s.as_ref()).copied(),
        }
    }

    /// Per row: the row of the direct parent cgroup if known, else [`NO_ROW`]. Brought up to date by each tick.
    pub fn parent_rows(&self) -> &[u32] {
        &self.parents
    }

    /// Whether the subject at `row` was reported gone. False for a free row.
    pub fn is_gone(&self, row: u32) -> bool {
        self.meta.get(row as usize).is_some_and(|m| m.gone_at != HERE)
    }

    /// When the subject at `row` was last heard of, CLOCK_BOOTTIME nanoseconds; 0 for a row that does not exist.
    pub fn last_seen(&self, row: u32) -> u64 {
        self.meta.get(row as usize).map_or(0, |m| m.last_seen)
    }

    /// A number that changes whenever `row` is given to another subject.
    pub fn generation(&self, row: u32) -> u32 {
        self.meta.get(row as usize).map_or(0, |m| m.generation)
    }

    /// The number of subjects that exist: neither gone nor free.
    pub fn live(&self) -> usize {
        self.subjects.len() - self.free.len() - self.gone.len()
    }

    /// The occupied rows, those of gone subjects included.
    pub fn rows(&self) -> impl Iterator<Item = (u32, &Subject)> {
        self.subjects.iter().enumerate().filter_map(|(i, s)| Some((i as u32, s.as_ref()?)))
    }

    /// Rows about subjects that found no place.
    pub(crate) fn over_cap(&self) -> u64 {
        self.over_cap
    }

    /// See the field: what to add to a column so that gone and free rows become unknown.
    pub(crate) fn mask(&self) -> &[f64] {
        &self.mask
    }

    /// Whether every row is a subject that exists, so that the mask does nothing.
    pub(crate) fn all_live(&self) -> bool {
        self.free.is_empty() && self.gone.is_empty()
    }

    /// The row of `subject`, heard of at `at`, registering it if it is new. `None` where the table is full (counted),
    /// or where the news is older than the subject's end.
    pub(crate) fn resolve(&mut self, subject: &Subject, at: u64) -> Option<u32> {
        if let Some(row) = self.row(subject) {
            if self.touch(row, at) {
                return Some(row);
            }
            if at <= self.meta[row as usize].gone_at {
                return None;
            }
        }
        if subject.kind() != self.kind {
            return None;
        }
        let row = match self.free.pop() {
            Some(row) => row,
            None if self.subjects.len() < self.cap => {
                self.subjects.push(None);
                self.meta.push(Meta { last_seen: 0, gone_at: HERE, generation: 0 });
                self.mask.push(0.0);
                self.parents.push(NO_ROW);
                (self.subjects.len() - 1) as u32
            }
            None => {
                self.over_cap += 1;
                return None;
            }
        };
        let i = row as usize;
        self.subjects[i] = Some(subject.clone());
        self.meta[i] =
            Meta { last_seen: at, gone_at: HERE, generation: self.meta[i].generation.wrapping_add(1) };
        self.mask[i] = 0.0;
        match subject {
            Subject::Host => {}
            Subject::Cpu(n) | Subject::Node(n) | Subject::Task(n) => {
                self.by_number.insert(*n, row);
            }
            Subject::Cgroup(s) | Subject::Device(s) => {
                // The key must share the new subject's `Arc`, or a gone one's would live on.
                self.by_name.remove(s.as_ref());
                self.by_name.insert(s.clone(), row);
            }
        }
        self.parents_stale = true;
        Some(row)
    }

    /// Notes that the subject at `row` was heard of at `at`. False if it is gone.
    #[inline]
    pub(crate) fn touch(&mut self, row: u32, at: u64) -> bool {
        let meta = &mut self.meta[row as usize];
        meta.last_seen = meta.last_seen.max(at);
        meta.gone_at == HERE
    }

    /// As [`SubjectTable::touch`], and false too if `row` was given to another subject than that of `generation`.
    #[inline(always)]
    pub(crate) fn touch_same(&mut self, row: u32, generation: u32, at: u64) -> bool {
        let Some(meta) = self.meta.get_mut(row as usize) else {
            return false;
        };
        if meta.generation != generation || meta.gone_at != HERE {
            return false;
        }
        meta.last_seen = meta.last_seen.max(at);
        true
    }

    /// Marks `subject` gone at `at` and returns its row. The host is never gone.
    pub(crate) fn mark_gone(&mut self, subject: &Subject, at: u64) -> Option<u32> {
        let row = self.row(subject)?;
        let meta = &mut self.meta[row as usize];
        if self.kind == SubjectKind::Host || meta.gone_at != HERE {
            return None;
        }
        // What was read before the news came belongs to the life that ended.
        let at = at.max(meta.last_seen);
        meta.gone_at = at;
        self.mask[row as usize] = f64::NAN;
        self.gone.push_back((at, row));
        Some(row)
    }

    /// Frees rows gone for longer than `gone_ns`, and calls `freed` for each.
    pub(crate) fn drain(&mut self, now: u64, gone_ns: u64, mut freed: impl FnMut(u32)) {
        while let Some(&(at, row)) = self.gone.front() {
            if now.saturating_sub(at) < gone_ns {
                break;
            }
            self.gone.pop_front();
            self.free_row(row);
            freed(row);
        }
    }

    /// Frees rows not heard of for longer than `silent_ns`, and calls `freed` for each. The host stays.
    pub(crate) fn drop_silent(&mut self, now: u64, silent_ns: u64, mut freed: impl FnMut(u32)) {
        if self.kind == SubjectKind::Host {
            return;
        }
        for row in 0..self.subjects.len() {
            let meta = self.meta[row];
            let silent = now.saturating_sub(meta.last_seen) > silent_ns;
            if silent && meta.gone_at == HERE && self.subjects[row].is_some() {
                self.free_row(row as u32);
                freed(row as u32);
            }
        }
    }

    fn free_row(&mut self, row: u32) {
        let i = row as usize;
        let Some(subject) = self.subjects[i].take() else {
            return;
        };
        // A newer life of the same subject may own the name by now.
        match &subject {
            Subject::Host => {}
            Subject::Cpu(n) | Subject::Node(n) | Subject::Task(n) => {
                if self.by_number.get(n) == Some(&row) {
                    self.by_number.remove(n);
                }
            }
            Subject::Cgroup(s) | Subject::Device(s) => {
                if self.by_name.get(s.as_ref()) == Some(&row) {
                    self.by_name.remove(s.as_ref());
                }
            }
        }
        let generation = self.meta[i].generation.wrapping_add(1);
        self.meta[i] = Meta { last_seen: 0, gone_at: HERE, generation };
        self.mask[i] = f64::NAN;
        self.free.push(row);
        self.parents_stale = true;
    }

    /// Brings [`SubjectTable::parent_rows`] up to date.
    pub(crate) fn link_parents(&mut self) {
        if !std::mem::take(&mut self.parents_stale) || self.kind != SubjectKind::Cgroup {
            return;
        }
        for (subject, parent) in self.subjects.iter().zip(&mut self.parents) {
            *parent = match subject {
                Some(Subject::Cgroup(path)) => {
                    parent_path(path).and_then(|p| self.by_name.get(p)).copied().unwrap_or(NO_ROW)
                }
                _ => NO_ROW,
            };
        }
    }

    /// Bytes held, names excluded (they are shared with the collectors).
    pub(crate) fn bytes(&self) -> usize {
        self.subjects.capacity() * size_of::<Option<Subject>>()
            + self.meta.capacity() * size_of::<Meta>()
            + (self.mask.capacity() + self.gone.capacity() * 2) * 8
            + (self.parents.capacity() + self.free.capacity()) * 4
            + self.by_name.capacity() * (size_of::<Arc<str>>() + 9)
            + self.by_number.capacity() * 9
    }
}

/// The path of the direct parent: `/a` of `/a/b`, `/` of `/a`, none of `/`.
fn parent_path(path: &str) -> Option<&str> {
    let (parent, name) = path.rsplit_once('/')?;
    match (parent, name) {
        ("", "") => None,
        ("", _) => Some("/"),
        _ => Some(parent),
    }
}
