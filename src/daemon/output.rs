//! Prints verdicts, on a thread of its own: a reader that does not read must not stop the engine.

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use whystall_collectors::runner::clock;
use whystall_engine::verdict::Verdict;
use whystall_event::text::escape;

use super::workloads::Names;
use crate::render::{self, Style};

/// Messages that wait for the printer.
const WAITING: usize = 256;

/// How verdicts are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// For people.
    Text(Style),
    /// One JSON object a line.
    Json,
}

/// Writes one verdict and flushes.
///
/// # Errors
/// If `out` cannot be written to.
pub fn write(out: &mut impl Write, v: &Verdict, form: Form) -> io::Result<()> {
    match form {
        Form::Text(style) => out.write_all(render::verdict(v, style).as_bytes())?,
        Form::Json => {
            // One write a line, so that lines of several writers to one pipe stay whole.
            let mut line = serde_json::to_vec(v)?;
            line.push(b'\n');
            out.write_all(&line)?;
        }
    }
    out.flush()
}

/// A line on standard error about something that is no verdict. Escaped.
pub fn log(line: &str) {
    // There is nowhere left to report a standard error that cannot be written to.
    let _ = writeln!(io::stderr(), "whystall: {}", escape(line));
}

#[derive(Debug)]
enum Message {
    Verdict(Box<Verdict>),
    Log(String),
}

/// The engine's end of the printer.
#[derive(Debug)]
pub struct Printer {
    to: SyncSender<Message>,
    dropped: u64,
}

/// The printing thread's end.
#[derive(Debug)]
pub struct Printing {
    from: Receiver<Message>,
}

/// A printer and what it prints with.
pub fn channel() -> (Printer, Printing) {
    let (to, from) = sync_channel(WAITING);
    (Printer { to, dropped: 0 }, Printing { from })
}

impl Printer {
    /// Hands a verdict over; never waits. What does not fit is dropped, counted and told later.
    pub fn verdict(&mut self, v: Verdict) {
        self.send(Message::Verdict(Box::new(v)));
    }

    /// Hands a line for standard error over; never waits.
    pub fn log(&mut self, line: String) {
        self.send(Message::Log(line));
    }

    fn send(&mut self, m: Message) {
        if self.dropped > 0 {
            let told =
                format!("{} verdicts or messages were not printed because nobody read them", self.dropped);
            if self.to.try_send(Message::Log(told)).is_err() {
                self.dropped += 1;
                return;
            }
            self.dropped = 0;
        }
        // A printer that has ended ends the run as well; what it leaves behind is not counted.
        if let Err(TrySendError::Full(_)) = self.to.try_send(m) {
            self.dropped += 1;
        }
    }
}

impl Printing {
    /// Prints until the other end is gone. Puts names into the verdicts.
    ///
    /// # Errors
    /// If standard output cannot be written to.
    pub fn run(self, form: Form, mut names: Names) -> io::Result<()> {
        for m in self.from {
            match m {
                Message::Log(line) => log(&line),
                Message::Verdict(mut v) => {
                    names.decorate(&mut v, clock::now().boot_ns);
                    write(&mut io::stdout().lock(), &v, form)?;
                }
            }
        }
        Ok(())
    }
}
