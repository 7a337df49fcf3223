//! The vocabulary that collectors and the engine share.
//!
//! A collector describes what it emits as [`Stream`]s with [`Field`]s, and delivers [`Batch`]es of rows, each about
//! one [`Subject`] at one [`Stamp`]. This crate holds data only: it never reads a file, asks a clock or logs.

mod batch;
mod schema;
mod subject;
pub mod text;
mod time;
pub mod workload;

pub use batch::{Batch, MAX_FIELDS, Row, RowRef};
pub use schema::{Field, FieldKind, Mode, Stream, Unit, split_field};
pub use subject::{ParseSubjectError, Subject, SubjectKind};
pub use time::{MS, SEC, Stamp, format_duration, format_rfc3339, parse_duration, parse_rfc3339};
