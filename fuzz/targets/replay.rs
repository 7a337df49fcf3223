//! The whole way: JSON lines through all built-in rules to verdicts, as text for people and as JSON. A rule must not fail
//! whatever the figures are, the same lines give the same verdicts, and what is shown holds nothing that a terminal obeys.
#![no_main]

use std::rc::Rc;

use libfuzzer_sys::fuzz_target;
use whystall::daemon::{judge::Judge, sources};
use whystall::recording::{Item, json::JsonReader};
use whystall::render::{self, Style};
use whystall_engine::script::{Overrides, Rule, Sandbox, compile};
use whystall_engine::{HostFacts, Tick};
use whystall_event::SEC;

/// Items looked at of one input: one line can ask for ticks over a long stretch.
const ITEMS: usize = 2_000;

thread_local! {
    /// Compiling them for each input would take most of the time.
    static LOADED: (Rc<Sandbox>, Vec<Rc<Rule>>) = {
        let (sandbox, schema) = (Rc::new(Sandbox::new()), sources::any_host(std::time::Duration::from_secs(1)));
        let load = |b: &whystall_rules::Builtin| {
            compile(&sandbox, &schema, b.path, b.source, &Overrides::default()).rule.expect("it is built in")
        };
        let rules = whystall_rules::ALL.iter().map(load).collect();
        (sandbox, rules)
    };
}

fuzz_target!(|bytes: &[u8]| {
    let shown = replay(bytes);
    assert_eq!(shown, replay(bytes), "the same lines give the same verdicts");
    for verdict in shown {
        let v = serde_json::from_str(&verdict).expect("it was written just now");
        let text = render::verdict(&v, Style::new(false));
        let obeyed = |c: char| c.is_control() && c != '\n' || ('\u{202a}'..='\u{202e}').contains(&c);
        assert!(!text.chars().any(obeyed), "{text:?}");
    }
});

fn replay(bytes: &[u8]) -> Vec<String> {
    LOADED.with(|(sandbox, rules)| {
        let streams = whystall_collectors::ALL.iter().flat_map(|c| c.streams);
        let mut reader = JsonReader::new(bytes, streams, SEC);
        let mut judge = Judge::new(rules.clone(), sandbox, SEC, HostFacts::default());
        let mut out = Vec::new();
        for _ in 0..ITEMS {
            match reader.next() {
                Ok(Some(Item::Batch(batch))) => judge.ingest(batch),
                Ok(Some(Item::Tick(t))) => {
                    let (verdicts, problems) = judge.tick(Tick { at: t.at, suspended_ns: t.suspended_ns });
                    assert_eq!(problems, [], "a built-in rule failed");
                    out.extend(verdicts.iter().map(|v| serde_json::to_string(v).expect("it is plain data")));
                }
                _ => break,
            }
        }
        out
    })
}
