//! Dense rows for the subjects of one kind.

use whystall_event::Subject;

/// Dense rows for the subjects of one kind. Rows are reused after a subject is gone and drained.
#[derive(Debug, Default)]
pub struct SubjectTable {}
impl SubjectTable {
    /// The number of rows, free ones included.
    pub fn len(&self) -> usize {
        0
    }
    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        true
    }
    /// The subject at `row`.
    pub fn subject(&self, _row: u32) -> Option<&Subject> {
        None
    }
    /// The row of `subject`.
    pub fn row(&self, _subject: &Subject) -> Option<u32> {
        None
    }
    /// Per row: the row of the direct parent cgroup if known, else `u32::MAX`.
    pub fn parent_rows(&self) -> &[u32] {
        &[]
    }
    /// Whether the subject at `row` was reported gone.
    pub fn is_gone(&self, _row: u32) -> bool {
        false
    }
    /// When the subject at `row` was last heard of, CLOCK_BOOTTIME nanoseconds.
    pub fn last_seen(&self, _row: u32) -> u64 {
        0
    }
    /// The number of subjects that exist.
    pub fn live(&self) -> usize {
        0
    }
    /// Occupied rows.
    pub fn rows(&self) -> impl Iterator<Item = (u32, &Subject)> {
        std::iter::empty()
    }
}
