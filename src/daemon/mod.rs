//! The running daemon and what it shares with the other commands: collectors and rules, as the config wants them.

pub mod alerts;
pub mod exceptions;
pub mod facts;
pub mod judge;
pub mod limits;
pub mod output;
pub mod reload;
pub mod rule_files;
pub mod rule_set;
pub mod run;
pub mod service;
pub mod signals;
pub mod sources;
pub mod swap;
pub mod watch;
pub mod workloads;
