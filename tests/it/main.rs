//! The one integration-test binary: what no crate can test alone. One binary, because each costs a link.
#![allow(clippy::panic, clippy::unwrap_used, reason = "helpers of tests fail as loudly as tests do")]

mod bad_input;
mod live;
mod program;
mod reload;
mod replay;
mod rules;
mod tidy;
mod usage;
