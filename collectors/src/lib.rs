//! whystall's sources of events: one file a collector, one line in [`ALL`] each.
//!
//! A collector is built once from its own settings and then either *polled* (a pass each interval) or *streaming* (its
//! own loop). It reads files below replaceable roots ([`Roots`]), keeps reading and parsing apart (a pure `parse_*`
//! over bytes with fixtures), and delivers [`Batch`](whystall_event::Batch)es. It never sees rules, windows or the
//! config file. What it cannot do it says as an [`Unavailable`] or a [`CollectError`]; it never panics on what it reads.

mod error;
pub mod latency;
mod roots;
mod spec;

pub use error::{CollectError, Unavailable};
pub use roots::Roots;
pub use spec::{Built, Collector, Pass, Polled, Settings, Sink, Stop, Streaming};

/// Every collector, in the order in which `doctor` lists them.
pub const ALL: &[&Collector] = &[];

/// The collector called `name`.
pub fn by_name(name: &str) -> Option<&'static Collector> {
    ALL.iter().copied().find(|c| c.name == name)
}
