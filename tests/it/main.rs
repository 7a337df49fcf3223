//! The one integration-test binary: what no crate can test alone. One binary, because each costs a link.
#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "helpers of tests fail as loudly as tests do, and say what they skip"
)]

mod alerts;
mod bad_input;
mod examples;
mod incidents;
mod live;
mod program;
mod receivers;
mod reload;
mod replay;
mod rules;
mod tidy;
mod usage;
