//! Every parser of the collectors. The input's first line names one of `PARSERS`, the rest is what it parses.
#![no_main]

use libfuzzer_sys::fuzz_target;
use whystall_collectors::fuzz::PARSERS;

fuzz_target!(|input: &[u8]| {
    let Some(end) = input.iter().position(|b| *b == b'\n') else { return };
    let (name, bytes) = (&input[..end], &input[end + 1..]);
    if let Some((_, parse)) = PARSERS.iter().find(|(known, _)| known.as_bytes() == name) {
        parse(bytes);
    }
});
