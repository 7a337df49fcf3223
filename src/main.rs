//! whystall: says why a Linux host stalled.
fn main() {}
