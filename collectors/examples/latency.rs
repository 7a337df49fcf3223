//! Runs one streaming collector alone and prints its rows, for trying it on a host or kernel:
//! `latency [SECONDS [COLLECTOR [SETTINGS]]]`, for example `latency 10 latency 'runq = "5ms"'`.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for a terminal")]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use whystall_collectors::{Built, Roots, Settings, Sink, Stop, by_name, runner::clock};
use whystall_event::{Batch, Stamp, text};

struct Print;

impl Sink for Print {
    fn now(&self) -> Stamp {
        clock::now()
    }

    fn send(&self, batch: Batch) -> bool {
        for row in batch.rows() {
            let mut line = format!("{} {}", batch.stream.name, text::escape(&row.subject.to_string()));
            for (i, field) in batch.stream.fields.iter().enumerate() {
                match (row.number(i), row.text(i)) {
                    (Some(n), _) => {
                        line += &format!(" {}={}{}", field.name, n / field.unit.scale(), field.unit.shown());
                    }
                    (_, Some(t)) => line += &format!(" {}={:?}", field.name, t),
                    _ => {}
                }
            }
            println!("{line}");
        }
        true
    }

    fn problem(&self, what: &str) {
        eprintln!("problem: {what}");
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{e}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let mut args = std::env::args().skip(1);
    let seconds: u64 = args.next().map_or(Ok(10), |s| s.parse()).map_err(|_| "SECONDS must be a number")?;
    let name = args.next().unwrap_or_else(|| "latency".into());
    let settings: Settings = args.next().unwrap_or_default().parse().map_err(|e| format!("{e}"))?;
    let collector = by_name(&name).ok_or("no such collector")?;
    let built = (collector.build)(&Roots::default(), &settings).map_err(|e| e.to_string())?;
    let Built::Streaming(mut streaming) = built else {
        return Err(format!("{name} is polled, not streaming"));
    };
    let stop = Stop::default();
    let (ending, end) = (stop.clone(), Instant::now() + Duration::from_secs(seconds));
    std::thread::spawn(move || {
        std::thread::sleep(end.saturating_duration_since(Instant::now()));
        ending.set();
    });
    streaming.run(&Print, &stop).map_err(|e| e.to_string())
}
