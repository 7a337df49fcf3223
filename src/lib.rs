//! The daemon's own parts: what stands between collectors and the engine, and around both. The `whystall` program is
//! the only user that is meant; the library exists so that tests and benchmarks can reach the parts.

pub mod cli;
pub mod commands;
pub mod config;
pub mod daemon;
pub mod notify;
pub mod recording;
pub mod render;
pub mod schema;
pub mod store;
