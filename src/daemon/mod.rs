//! The running daemon and what it shares with the other commands: collectors and rules, as the config wants them.

pub mod rule_files;
pub mod rule_set;
pub mod sources;
