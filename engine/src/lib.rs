//! whystall's windows, rules, findings and incidents.
//!
//! Pure: no file, network, thread or clock. [`Engine::ingest`] takes collectors' batches, [`Engine::tick`] judges the
//! rules and returns verdicts; live runs, replays and tests of rules all go through these two.

mod conclude;
mod data;
mod engine;
mod except;
mod extents;
mod finding;
mod incident;
mod judge;
mod schema;
pub mod script;
mod snapshot;
pub mod subjects;
pub mod verdict;
pub mod window;

pub use data::HostFacts;
pub use engine::{Engine, EngineConfig, FindingState, Problem, Tick};
pub use except::{Candidate, Except};
pub use finding::Phase;
pub use schema::{FieldRef, Schema, Source};
pub use snapshot::Snapshot;
