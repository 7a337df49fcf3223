//! What every collector is: its description, how it is built, and how it runs.

use std::sync::Arc;
use std::time::Duration;

use whystall_event::{Batch, Stamp, Stream};

use crate::{CollectError, Roots, Stop, Unavailable};

/// A collector's own table from the config, without `enabled` and `interval`, which belong to the runner.
pub type Settings = toml::Table;

/// A collector's description; one `pub static` a file, listed in [`crate::ALL`].
#[derive(Debug)]
pub struct Collector {
    /// The name in the config, in `needs`/`wants` of rules and in `doctor`: lower case, `_` between words.
    pub name: &'static str,
    /// One sentence: what it reads and what for.
    pub help: &'static str,
    /// The streams it emits.
    pub streams: &'static [Stream],
    /// The time between passes when the config does not say; `None` for the run's tick.
    pub interval: Option<Duration>,
    /// The keys its settings may have, for did-you-mean.
    pub settings: &'static [&'static str],
    /// Checks the settings and the host, opens what it keeps open, starts nothing. Errors say what is missing.
    pub build: fn(&Roots, &Settings) -> Result<Built, Unavailable>,
}

/// A collector ready to run.
pub enum Built {
    /// Called once an interval.
    Polled(Box<dyn Polled>),
    /// Has its own loop.
    Streaming(Box<dyn Streaming>),
}

impl std::fmt::Debug for Built {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Built::Polled(_) => "Built::Polled",
            Built::Streaming(_) => "Built::Streaming",
        })
    }
}

/// Reads counters each interval.
pub trait Polled: Send {
    /// Makes one pass: reads, parses and appends batches to `pass`. An error after some batches were appended keeps
    /// those batches.
    fn collect(&mut self, pass: &mut Pass) -> Result<(), CollectError>;
}

/// One pass of a polled collector.
#[derive(Debug)]
pub struct Pass {
    /// When the pass began; rows read within it carry this time unless the collector asks the clock again through
    /// [`Pass::now`].
    pub at: Stamp,
    /// The clock, replaceable in tests.
    pub clock: fn() -> Stamp,
    /// By this CLOCK_BOOTTIME nanosecond the pass should have returned; a collector with many subjects checks it, stops
    /// early and goes on where it stopped in the next pass.
    pub deadline_ns: u64,
    /// The batches read so far.
    pub batches: Vec<Batch>,
}

impl Pass {
    /// A pass beginning at `at` with a budget in nanoseconds.
    pub fn new(at: Stamp, clock: fn() -> Stamp, budget_ns: u64) -> Pass {
        Pass { at, clock, deadline_ns: at.boot_ns.saturating_add(budget_ns), batches: Vec::new() }
    }

    /// An empty batch of `stream` at the time of the pass. Push it to [`Pass::batches`] when it is filled.
    pub fn batch(&self, stream: &Arc<Stream>) -> Batch {
        Batch::new(stream.clone(), self.at)
    }

    /// The time now.
    pub fn now(&self) -> Stamp {
        (self.clock)()
    }

    /// Whether the budget is used up.
    pub fn late(&self) -> bool {
        self.now().boot_ns >= self.deadline_ns
    }
}

/// Delivers as things happen.
pub trait Streaming: Send {
    /// Runs until `stop` is set or the source ends for good. Wakes at least every `HEARTBEAT` to deliver a
    /// batch, empty if nothing happened, so that silence is known to be silence.
    fn run(&mut self, sink: &dyn Sink, stop: &Stop) -> Result<(), CollectError>;
}

impl dyn Streaming {
    /// The longest time between two batches of a streaming collector.
    pub const HEARTBEAT: Duration = Duration::from_secs(1);
}

/// Where a streaming collector delivers.
pub trait Sink: Sync {
    /// The time now.
    fn now(&self) -> Stamp;
    /// Hands over a batch; never blocks. Returns false if the receiver was full and the batch was dropped (and counted);
    /// the collector's next batch then has `covered_to == false`.
    fn send(&self, batch: Batch) -> bool;
    /// Reports a problem that is not fatal, such as a malformed line; the text is escaped and rate-limited by the
    /// runner, the count is exact.
    fn problem(&self, what: &str);
}
