//! Collectors that are programs: any program that prints one JSON event a line.
//!
//! One `[collectors.exec.NAME]` table each. A program either runs for good or once an interval; it is started in its own
//! process group with a small environment, killed as a group when it takes too long or whystall ends, and started again
//! with backoff by the runner. What it prints is untrusted: lines are bounded in length and number (a flood is held up by
//! the pipe), malformed ones are counted and told, never fatal. No shell is involved. The only place of this crate that
//! starts programs.

mod child;
mod lines;
mod schema;
mod settings;

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use whystall_event::{MS, SEC, Stream, text};

use crate::runner::clock;
use crate::{Built, CollectError, Roots, Settings, Sink, Stop, Streaming, Unavailable};
use child::{Ended, Process, wait_readable};
use lines::{Bucket, Line, Lines};
use schema::Schema;
use settings::Config;

pub use settings::KEYS;

/// What exec collectors are, for `doctor` and the documentation.
pub const HELP: &str = "\
any program that prints one JSON event a line: {\"subject\": \"device:eth0\", \"fields\": {\"drops\": 12}}, or flat \
{\"drops\": 12}; times in milliseconds. Without `interval` it runs for good, with it once an interval. Declare `fields`, \
so that rules can be checked against them; without, the first line declares them. Exit status 69 says that there is \
nothing to collect on this host, any other but 0 that it failed.";

/// The exit status with which a program says that there is nothing to collect (EX_UNAVAILABLE of sysexits.h).
const NOTHING_TO_COLLECT: i32 = 69;
/// A program that was asked to end gets so long before it is killed.
const TERM_GRACE: Duration = Duration::from_secs(1);
/// A program that closed its standard output gets so long to exit.
const EOF_GRACE: Duration = Duration::from_secs(5);
/// How long a program is held up at a time when it prints too much.
const HELD: Duration = Duration::from_millis(50);
/// Lines of standard error a second that are taken.
const STDERR_LINES: u32 = 100;
/// Bytes of a line of standard error that are kept.
const STDERR_LINE: usize = 1024;

/// Builds the collector of the table `[collectors.exec.NAME]`; starts nothing. Also returns the streams that it declares,
/// none if its first line is to declare them.
///
/// # Errors
/// If the settings are wrong, or the program is not there.
pub fn build(
    name: &str,
    settings: &Settings,
    roots: &Roots,
) -> Result<(Vec<Arc<Stream>>, Built), Unavailable> {
    let (config, streams) = settings::read(name, settings, roots)?;
    child::check_program(&config)?;
    let schema = Schema::new(name, streams.clone());
    Ok((streams, Built::Streaming(Box::new(Exec::new(config, schema)))))
}

/// Reads bytes as the output of a program, for fuzzing.
pub fn fuzz(bytes: &[u8]) {
    let mut schema = Schema::new("fuzz", Vec::new());
    let mut lines = Lines::new(4096);
    for chunk in bytes.chunks(1000) {
        lines.push(chunk);
        while let Some(line) = lines.next() {
            if let Line::Whole(line) = line {
                let _ = schema.take(line, whystall_event::Stamp::default());
            }
        }
    }
    let _ = schema.batches(true);
}

struct Exec {
    config: Config,
    schema: Schema,
    /// When the next run of a program with an interval is due, CLOCK_BOOTTIME.
    due: u64,
    /// A program that was killed and has not ended: it hangs in the kernel.
    lingering: Option<Process>,
    /// The second in which the last batches were sent.
    sent_in: u64,
}

impl Streaming for Exec {
    fn run(&mut self, sink: &dyn Sink, stop: &Stop) -> Result<(), CollectError> {
        while !stop.is_set() {
            if let Some(process) = self.lingering.take() {
                self.lingering = process.reap();
                if let Some(p) = &self.lingering {
                    let what = format!("process {} was killed and still hangs in the kernel", p.pid());
                    return Err(CollectError::Other(what));
                }
            }
            let Some(interval) = self.config.interval_ns else {
                return self.once(None, sink, stop);
            };
            if !self.sleep(sink, stop) {
                return Ok(());
            }
            let now = sink.now().boot_ns;
            self.due = (now / interval + 1) * interval;
            self.once(Some(self.config.timeout), sink, stop)?;
        }
        Ok(())
    }
}

/// What a run of the program reads into.
struct Output {
    lines: Lines,
    bucket: Bucket,
    errors: Lines,
    error_bucket: Bucket,
    last_error: Option<String>,
    eof: Option<Instant>,
    errors_eof: bool,
    chunk: Vec<u8>,
}

impl Exec {
    fn new(config: Config, schema: Schema) -> Exec {
        Exec { config, schema, due: 0, lingering: None, sent_in: 0 }
    }

    /// Waits until the next run is due; false if the run of whystall ends before.
    fn sleep(&mut self, sink: &dyn Sink, stop: &Stop) -> bool {
        loop {
            if stop.is_set() {
                return false;
            }
            let now = sink.now().boot_ns;
            self.send(sink);
            if now >= self.due {
                return true;
            }
            let longest = Duration::from_nanos(to_next_second(now).min(self.due - now));
            if stop.poll([], longest).is_err() {
                std::thread::sleep(longest);
            }
        }
    }

    /// Starts the program and reads it until it ends, for at most `timeout`.
    fn once(&mut self, timeout: Option<Duration>, sink: &dyn Sink, stop: &Stop) -> Result<(), CollectError> {
        let mut process = Process::start(&self.config)
            .map_err(|e| CollectError::Other(format!("cannot start {}: {e}", self.config.shown())))?;
        let deadline = timeout.and_then(|t| Instant::now().checked_add(t));
        let mut out = Output {
            lines: Lines::new(self.config.max_line),
            bucket: Bucket::new(self.config.max_lines_per_s),
            errors: Lines::new(STDERR_LINE),
            error_bucket: Bucket::new(STDERR_LINES),
            last_error: None,
            eof: None,
            errors_eof: false,
            chunk: vec![0; 64 << 10],
        };
        let ended = self.watch(&mut process, &mut out, deadline, sink, stop);
        // All of its group, whether it ended by itself or not.
        let (status, lingering) =
            process.end(if matches!(ended, Ended::ByItself) { None } else { Some(TERM_GRACE) });
        self.lingering = lingering;
        self.send(sink);
        match (ended, status) {
            (Ended::Stopped, _) => Ok(()),
            (Ended::TimedOut, _) => {
                let limit = timeout.unwrap_or_default().as_millis();
                Err(CollectError::Other(format!("took longer than its timeout of {limit} ms and was killed")))
            }
            (Ended::Closed, _) => {
                Err(CollectError::Other("closed its standard output without ending, and was killed".into()))
            }
            (Ended::Broken(e), _) => Err(CollectError::Other(format!("its output cannot be read: {e}"))),
            (Ended::ByItself, Some(s)) if s.success() => Ok(()),
            (Ended::ByItself, Some(s)) if s.code() == Some(NOTHING_TO_COLLECT) => {
                Err(CollectError::Nothing(out.last_error.unwrap_or_else(|| "so its exit status says".into())))
            }
            (Ended::ByItself, status) => {
                let how = status.map_or("ended".to_string(), |s| format!("ended with {s}"));
                Err(CollectError::Other(match out.last_error {
                    Some(said) => format!("{how}: {said}"),
                    None => how,
                }))
            }
        }
    }

    fn watch(
        &mut self,
        process: &mut Process,
        out: &mut Output,
        deadline: Option<Instant>,
        sink: &dyn Sink,
        stop: &Stop,
    ) -> Ended {
        loop {
            let now = clock::now();
            self.take_lines(out, now.boot_ns, sink);
            take_errors(out, now.boot_ns, sink);
            self.send(sink);
            if stop.is_set() {
                return Ended::Stopped;
            }
            let at = Instant::now();
            if deadline.is_some_and(|d| at >= d) {
                return Ended::TimedOut;
            }
            match process.exited() {
                Ok(true) => {
                    self.drain(process, out, sink);
                    return Ended::ByItself;
                }
                Ok(false) => {}
                Err(e) => return Ended::Broken(e),
            }
            if out.eof.is_some_and(|t| at.saturating_duration_since(t) >= EOF_GRACE) {
                return Ended::Closed;
            }
            // Reads only when all before was taken: a flooding program is held up by its pipe.
            let held = out.lines.has_line();
            let errors_held = out.errors.has_line();
            let mut wait = Duration::from_nanos(to_next_second(now.boot_ns));
            if held || errors_held {
                wait = wait.min(HELD);
            }
            if let Some(t) = out.eof {
                // It is about to exit: look soon, then less often.
                wait = wait.min(HELD.min(Duration::from_millis(1) + at.saturating_duration_since(t)));
            }
            if let Some(d) = deadline {
                wait = wait.min(d.saturating_duration_since(at));
            }
            let stdout = (out.eof.is_none() && !held).then(|| process.stdout.as_fd());
            let stderr = (!out.errors_eof && !errors_held).then(|| process.stderr.as_fd());
            match wait_readable([stdout, stderr], wait) {
                Ok([readable, errors]) => {
                    if readable && child::read(&mut process.stdout, &mut out.chunk, &mut out.lines) {
                        out.eof = Some(Instant::now());
                    }
                    if errors && child::read(&mut process.stderr, &mut out.chunk, &mut out.errors) {
                        out.errors_eof = true;
                    }
                }
                Err(e) => return Ended::Broken(e),
            }
        }
    }

    /// Takes what the ended program left in its pipes: no more than they hold, whatever others may write into them.
    fn drain(&mut self, process: &mut Process, out: &mut Output, sink: &dyn Sink) {
        const PIPE: usize = 1 << 20;
        for _ in 0..PIPE / out.chunk.len() {
            let eof = child::read(&mut process.stdout, &mut out.chunk, &mut out.lines);
            out.bucket = Bucket::new(u32::MAX);
            self.take_lines(out, 0, sink);
            if eof || !matches!(wait_readable([Some(process.stdout.as_fd())], Duration::ZERO), Ok([true])) {
                break;
            }
        }
        child::read(&mut process.stderr, &mut out.chunk, &mut out.errors);
        take_errors(out, clock::now().boot_ns, sink);
        // A last line without its end.
        match out.lines.rest() {
            Some(Line::Whole(line)) => self.schema.line(line, sink),
            Some(Line::TooLong) => self.schema.too_long(self.config.max_line, sink),
            None => {}
        }
        if let Some(Line::Whole(line)) = out.errors.rest() {
            out.last_error = Some(tell_error(line, sink));
        }
    }

    fn take_lines(&mut self, out: &mut Output, now: u64, sink: &dyn Sink) {
        while out.lines.has_line() && out.bucket.take(now) {
            match out.lines.next() {
                Some(Line::Whole(line)) => self.schema.line(line, sink),
                Some(Line::TooLong) => self.schema.too_long(self.config.max_line, sink),
                None => break,
            }
        }
    }

    /// Sends what was read; once a second also if that is nothing.
    fn send(&mut self, sink: &dyn Sink) {
        let second = sink.now().boot_ns / SEC;
        let beat = second != self.sent_in;
        for mut batch in self.schema.batches(beat) {
            batch.at = sink.now();
            sink.send(batch);
        }
        self.sent_in = second;
    }
}

fn take_errors(out: &mut Output, now: u64, sink: &dyn Sink) {
    while out.errors.has_line() && out.error_bucket.take(now) {
        match out.errors.next() {
            Some(Line::Whole(line)) if !line.is_empty() => out.last_error = Some(tell_error(line, sink)),
            Some(_) => {}
            None => break,
        }
    }
}

fn tell_error(line: &[u8], sink: &dyn Sink) -> String {
    let line = text::from_bytes(line).into_owned();
    sink.problem(&format!("stderr: {line}"));
    line
}

/// Nanoseconds to the next full second of CLOCK_BOOTTIME, when others wake as well.
fn to_next_second(now: u64) -> u64 {
    (SEC - now % SEC).max(MS)
}

#[cfg(test)]
mod tests;
