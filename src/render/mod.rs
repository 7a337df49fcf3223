//! What people read: verdicts, tables and wrapped text for a terminal. Everything that comes from outside is escaped
//! here; nothing here decides anything or reads anything.

mod quote;
mod style;
mod table;
mod wrap;

pub use quote::{command, quote};
pub use style::Style;
pub use table::Table;
pub use wrap::wrap;
