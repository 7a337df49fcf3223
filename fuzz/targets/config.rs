//! The config file. What is wrong in it must be told with a place inside the text, and in one piece.
#![no_main]

use libfuzzer_sys::fuzz_target;
use whystall::config::{Config, KnownNames};
use whystall_collectors::{ALL, exec};

fuzz_target!(|text: &str| {
    let names = KnownNames::of(ALL, exec::KEYS);
    let Err(error) = Config::parse(text, "fuzz.toml", &names) else { return };
    assert!(!error.problems.is_empty(), "an error without a problem");
    let lines = text.split('\n').count();
    for problem in &error.problems {
        assert!((1..=lines).contains(&problem.line), "line {} of {lines}", problem.line);
    }
    let shown = error.to_string();
    assert!(!shown.chars().any(|c| c.is_control() && c != '\n'), "no control character is shown");
});
