//! What people read: verdicts, tables and wrapped text for a terminal. Everything that comes from outside is escaped
//! here; nothing here decides anything or reads anything.

mod explain;
mod quote;
#[cfg(test)]
pub(crate) mod sample;
mod style;
mod table;
mod verdict;
mod wrap;

pub use explain::explanation;
pub use quote::{command, quote};
pub use style::Style;
pub use table::Table;
pub use verdict::verdict;
pub use wrap::wrap;
