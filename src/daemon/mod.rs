//! The running daemon and what it shares with the other commands: settings, collectors, rules.

pub mod rule_files;
pub mod rule_set;
pub mod settings;
pub mod sources;
