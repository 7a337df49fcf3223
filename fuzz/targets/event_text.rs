//! The small parsers of the vocabulary crate: subjects, durations, full field names, cgroup owners, and the escaping
//! of untrusted text. Checks that nothing panics, and the properties that the rest of whystall relies on.
#![no_main]

use libfuzzer_sys::fuzz_target;
use whystall_event::{Subject, format_duration, parse_duration, split_field, text, workload};

fuzz_target!(|bytes: &[u8]| {
    let raw = text::from_bytes(bytes);

    let escaped = text::escape(&raw);
    assert_eq!(text::escape(&escaped), escaped, "escaping twice changes nothing");
    assert!(!escaped.chars().any(char::is_control), "no control character is left");
    assert!(text::shorten(&raw, 16).chars().count() <= 16);

    if let Ok(subject) = raw.parse::<Subject>() {
        let shown = subject.to_string();
        assert_eq!(shown.parse::<Subject>().as_ref(), Ok(&subject), "a subject's text form reads back");
        if let Some(parent) = subject.parent() {
            assert!(parent.contains(&subject));
        }
    }

    if let Ok(ns) = parse_duration(&raw) {
        let shown = format_duration(ns);
        assert!(parse_duration(&shown).is_ok(), "{shown}, shown for {ns} ns, reads back");
    }

    if let Some((stream, field)) = split_field(&raw) {
        assert_eq!(format!("{stream}.{field}"), raw);
    }
    let _ = workload::owner(&raw);
    let _ = text::did_you_mean(&raw, ["pgscan_direct", "allocstall", "µs"]);
});
