//! `whystall record`: what the collectors deliver, into a file.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use whystall_collectors::Roots;
use whystall_collectors::runner::{Event, Options, Runner, Tick, clock};
use whystall_event::{Batch, format_duration};

use super::{Outcome, Result, context, print, say, usage};
use crate::cli::Record;
use crate::daemon::signals::{Signals, Wake};
use crate::daemon::{facts, limits, sources};
use crate::recording::json::JsonWriter;
use crate::recording::{self, Header, WriteError, Writer};

/// Collectors get so long to end.
const STOP_WITHIN: Duration = Duration::from_secs(2);

/// A recording in one of its forms.
enum Sink {
    Binary(Box<Writer<File>>),
    Json(JsonWriter<BufWriter<File>>),
}

/// What a recording came to.
struct Done {
    events: u64,
    bytes: u64,
    result: anyhow::Result<()>,
}

pub(super) fn record(args: &Record) -> Result {
    let config = context::config(args.config.as_deref())?;
    let mut signals = Signals::new(false)?;
    limits::prepare();
    let (entries, _) = context::host(&config)?;
    let works = entries.iter().filter(|e| e.built.is_ok()).count();
    let roots = Roots::default();
    let facts = facts::read(&roots);
    let header = Header {
        host: facts.host,
        kernel: facts.kernel,
        start: clock::now(),
        interval_ns: config.interval_ns,
    };
    let path = &args.output;
    let sink = Sink::create(path, &header).map_err(|e| usage(format!("{}: {e}", path.display())))?;
    let (jobs, interval) = (sources::jobs(entries, &roots), sources::tick(&config));
    let waker = signals.waker();
    let (ready_to, ready) = sync_channel(1);
    let began = Instant::now();
    let thread = std::thread::Builder::new().name("record".into()).spawn(move || {
        let runner = Runner::start(jobs, &Options::every(interval))?;
        let _ = ready_to.send(runner.stopper());
        let done = sink.fill(runner);
        // The disk may be full: the main thread must not wait for a signal then.
        waker.wake();
        io::Result::Ok(done)
    })?;
    let mut took = Duration::ZERO;
    // Without a stopper the thread has ended with the reason.
    if let Ok(stopper) = ready.recv() {
        say(&format!("recording {works} collectors into {}", path.display()));
        let until = args.duration.map(|d| began + d);
        while signals.wait(until)? == Wake::Reload {}
        took = began.elapsed();
        stopper.stop();
    }
    let done = thread.join().map_err(|_| anyhow!("the recording thread ended unexpectedly"))??;
    let seconds = took.as_secs_f64();
    let each = if done.events > 0 { done.bytes as f64 / done.events as f64 } else { 0.0 };
    print(&format!(
        "{seconds:.1} s, {} events, {} bytes, {each:.1} bytes an event\n",
        done.events, done.bytes
    ))?;
    done.result.with_context(|| path.display().to_string())?;
    Ok(Outcome::Fine)
}

impl Sink {
    fn create(path: &Path, header: &Header) -> io::Result<Sink> {
        if path.extension().is_none_or(|e| e != "jsonl") {
            return Ok(Sink::Binary(Box::new(Writer::create(path, header)?)));
        }
        // Readable by the owner only, as the binary form.
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        Ok(Sink::Json(JsonWriter::new(BufWriter::new(file), header.start)))
    }

    fn batch(&mut self, batch: &Batch) -> std::result::Result<(), WriteError> {
        match self {
            Sink::Binary(w) => w.batch(batch),
            Sink::Json(w) => Ok(w.batch(batch)?),
        }
    }

    fn tick(&mut self, t: &Tick) -> std::result::Result<(), WriteError> {
        let Tick { at, late_ns, suspended_ns, clock_step_ns, .. } = *t;
        match self {
            Sink::Binary(w) => w.tick(&recording::Tick { at, late_ns, suspended_ns, clock_step_ns }),
            Sink::Json(w) => Ok(w.flush()?),
        }
    }

    /// Records until the runner is stopped or writing fails; then ends the file as well as it can.
    fn fill(mut self, mut runner: Runner) -> Done {
        let result = loop {
            let written = match runner.next(Duration::from_secs(3600)) {
                Event::Batch(batch) => self.batch(&batch),
                Event::Tick(t) => self.tick(&t),
                Event::Idle => Ok(()),
                Event::Stopped => break Ok(()),
            };
            match written {
                Ok(()) => {}
                Err(WriteError::Io(e)) => break Err(e.into()),
                Err(e) => say(&e.to_string()),
            }
        };
        let stuck = runner.stop(STOP_WITHIN);
        if !stuck.is_empty() {
            say(&format!(
                "these collectors did not end within {}: {}",
                format_duration(sources::nanos(STOP_WITHIN)),
                stuck.join(", ")
            ));
        }
        self.end(result)
    }

    fn end(self, result: anyhow::Result<()>) -> Done {
        match self {
            Sink::Binary(w) => {
                let before = w.written();
                match w.finish() {
                    Ok((_, w)) => Done { events: w.rows, bytes: w.bytes, result },
                    Err(e) => {
                        Done { events: before.rows, bytes: before.bytes, result: result.and(Err(e.into())) }
                    }
                }
            }
            Sink::Json(w) => {
                let events = w.rows();
                let end = w
                    .finish()
                    .and_then(|out| out.into_inner().map_err(io::IntoInnerError::into_error)?.metadata());
                match end {
                    Ok(meta) => Done { events, bytes: meta.len(), result },
                    Err(e) => Done { events, bytes: 0, result: result.and(Err(e.into())) },
                }
            }
        }
    }
}
