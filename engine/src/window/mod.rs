//! Time windows.

mod spec;

use std::sync::Arc;

use whystall_event::{Batch, Stamp, Subject, SubjectKind};

use crate::subjects::SubjectTable;
pub use spec::{Calc, DEFAULT_COVERAGE, Filter, Limits, WindowId, WindowSpec, WindowStats, allowed};

/// All declared windows.
#[derive(Debug)]
pub struct Windows {
    specs: Vec<WindowSpec>,
    table: SubjectTable,
}

impl Windows {
    /// Windows that are ticked every `interval_ns`.
    pub fn new(_interval_ns: u64, _limits: Limits) -> Windows {
        Windows {
            specs: Vec::new(),
            table: SubjectTable::default(),
        }
    }
    /// Declares a window; the same spec gives the same id, counted.
    pub fn declare(&mut self, spec: &WindowSpec) -> WindowId {
        self.specs.push(spec.clone());
        WindowId(0)
    }
    /// Drops one use of a window.
    pub fn release(&mut self, _id: WindowId) {}
    /// Takes a batch in.
    pub fn ingest(&mut self, _batch: &Batch) {}
    /// Closes the current cells.
    pub fn tick(&mut self, _now: Stamp) {}
    /// Forgets what lies before now.
    pub fn break_all(&mut self, _now: Stamp) {}
    /// The subjects of one kind.
    pub fn table(&self, _kind: SubjectKind) -> &SubjectTable {
        &self.table
    }
    /// One value a row, NaN unknown.
    pub fn column(&self, _id: WindowId) -> &[f64] {
        &[]
    }
    /// Baseline's deviation.
    pub fn deviation(&self, _id: WindowId) -> &[f64] {
        &[]
    }
    /// Newest tick's own value.
    pub fn current(&self, _id: WindowId) -> &[f64] {
        &[]
    }
    /// Covered part, 0 to 1.
    pub fn covered(&self, _id: WindowId, _row: u32) -> f64 {
        0.0
    }
    /// The declaration.
    pub fn spec(&self, id: WindowId) -> &WindowSpec {
        &self.specs[id.0 as usize]
    }
    /// Newest attribute.
    pub fn text(&self, _stream: &str, _field: &str, _subject: &Subject) -> Option<&Arc<str>> {
        None
    }
    /// Figures.
    pub fn stats(&self) -> WindowStats {
        WindowStats::default()
    }
}
