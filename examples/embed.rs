//! Embeds collectors and engine in a program of one's own: watches this host for the seconds given (default 30) and
//! prints each verdict as JSON.
//!
//! `cargo run --release --example embed -- 60`

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "printing is what it is for")]

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use whystall_collectors::runner::{Event, Job, Options, Runner};
use whystall_collectors::{ALL, Roots, Settings, health};
use whystall_engine::script::{Overrides, Sandbox, compile};
use whystall_engine::{Engine, EngineConfig, HostFacts, Schema, Source, Tick};

fn main() -> std::io::Result<()> {
    let seconds = std::env::args().nth(1).and_then(|s| s.parse().ok()).unwrap_or(30);
    let interval = Duration::from_secs(1);
    let interval_ns = interval.as_nanos() as u64;

    // Collectors: what works here, and the schema that rules are checked against.
    let mut jobs = Vec::new();
    let mut sources = Vec::new();
    for c in ALL {
        let built = (c.build)(&Roots::default(), &Settings::new());
        sources.push(Source {
            name: c.name.into(),
            streams: c.streams.iter().cloned().map(Arc::new).collect(),
            interval_ns,
            missing: built.as_ref().err().map(ToString::to_string),
        });
        jobs.push(Job::new(c.name, c.interval.unwrap_or(interval), built));
    }
    sources.push(Source {
        name: "self".into(),
        streams: health::STREAMS.iter().cloned().map(Arc::new).collect(),
        interval_ns,
        missing: None,
    });
    let schema = Schema::new(sources);

    // Rules: the built-in ones.
    let sandbox = Rc::new(Sandbox::new());
    let mut rules = Vec::new();
    for r in whystall_rules::ALL {
        let compiled = compile(&sandbox, &schema, r.path, r.source, &Overrides::default());
        for d in &compiled.diagnostics {
            eprintln!("{d}");
        }
        rules.extend(compiled.rule);
    }

    // The engine takes batches and ticks, and returns verdicts.
    let config = EngineConfig { interval_ns, limits: Default::default(), facts: HostFacts::default() };
    let mut engine = Engine::new(config, sandbox);
    engine.load(rules);
    let mut runner = Runner::start(jobs, &Options::every(interval))?;
    eprintln!("watching for {seconds} s");
    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end {
        match runner.next(interval) {
            Event::Batch(batch) => engine.ingest(&batch),
            Event::Tick(t) => {
                for v in engine.tick(Tick { at: t.at, suspended_ns: t.suspended_ns }) {
                    println!("{}", serde_json::to_string(&v).map_err(std::io::Error::other)?);
                }
                for p in engine.take_problems() {
                    eprintln!("{}: {}", p.rule, p.what);
                }
            }
            Event::Idle => {}
            Event::Stopped => break,
        }
    }
    runner.stop(Duration::from_secs(2));
    Ok(())
}
