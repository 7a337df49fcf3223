//! JSON lines as `replay` reads them: every line is an event, malformed and counted, or empty; time never goes back.
#![no_main]

use libfuzzer_sys::fuzz_target;
use whystall::recording::{Item, json::JsonReader};
use whystall_collectors::ALL;
use whystall_event::SEC;

/// Items looked at of one input: one line can ask for ticks over a long stretch.
const ITEMS: usize = 20_000;

fuzz_target!(|bytes: &[u8]| {
    let mut reader = JsonReader::new(bytes, ALL.iter().flat_map(|c| c.streams), SEC);
    let mut now = 0;
    for _ in 0..ITEMS {
        match reader.next() {
            Ok(Some(Item::Tick(tick))) => {
                assert!(tick.at.boot_ns > now || now == 0, "{} after {now}", tick.at.boot_ns);
                now = tick.at.boot_ns;
            }
            Ok(Some(Item::Batch(batch))) => {
                for row in batch.rows() {
                    for i in 0..batch.stream.fields.len() {
                        assert!(row.number(i).is_none_or(f64::is_finite), "a value that is no number");
                        let _ = row.text(i);
                    }
                }
            }
            Ok(None) => break,
            Err(e) => unreachable!("memory can be read: {e}"),
        }
    }
    let summary = reader.summary();
    assert!(summary.events + summary.malformed <= summary.lines);
    for problem in &summary.problems {
        assert!((1..=summary.lines).contains(&problem.line));
        assert!(!problem.to_string().chars().any(char::is_control), "no control character is shown");
    }
});
