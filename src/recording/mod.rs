//! Recordings: what collectors delivered, kept in a file to be replayed.
//!
//! [`Writer`] and [`Reader`] are for the compact binary form, whose layout `format.rs` (from outside) and `record.rs`
//! (inside a block) describe; [`json`] is for JSON lines, and [`Replay`] for either. Nothing here asks a clock: all times
//! are the data's own.

mod decode;
mod encode;
mod format;
pub mod json;
mod pack;
mod reader;
mod record;
mod replay;
mod window;
mod wire;
mod writer;

#[cfg(test)]
mod tests;

pub use format::{Header, MAGIC, VERSION};
pub use reader::{Ending, ReadError, Reader, Summary};
pub use record::Tick;
pub use replay::{Input, Replay};
pub use writer::{Output, WriteError, Writer, Written};

use whystall_event::Batch;

/// What a recording yields, in the order in which it happened.
#[derive(Debug, Clone, Copy)]
pub enum Item<'a> {
    /// A batch; valid until the next item is asked for.
    Batch(&'a Batch),
    /// The end of an interval.
    Tick(Tick),
}
