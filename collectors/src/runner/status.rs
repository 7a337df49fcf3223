//! What the runner knows about each collector, and the batches of the `self.*` streams that tell it.
//!
//! Pure: called under the runner's lock with the time passed in.

use std::borrow::Cow;
use std::sync::Arc;

use whystall_event::{Batch, SEC, Stamp, Stream, Subject, text};

use super::queue::Tick;
use crate::health::{self, State};

/// `self.collector` rows come this often, besides at once when a state changes.
const HEALTH_EVERY_NS: u64 = 10 * SEC;
/// A streaming collector that has delivered nothing for this long counts as failing; it should each second.
const SILENT_NS: u64 = 5 * SEC;
/// Errors and problems are cut to so many characters.
const LONGEST_TEXT: usize = 300;

/// The health of one collector.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CollectorStatus {
    /// Its name.
    pub name: Arc<str>,
    /// It has its own loop, rather than a pass each interval.
    pub streaming: bool,
    /// How it is.
    pub state: State,
    /// Passes made; for a streaming collector batches delivered.
    pub passes: u64,
    /// Passes or runs that ended with an error.
    pub failures: u64,
    /// Passes or runs that panicked.
    pub panics: u64,
    /// Passes longer than their budget.
    pub overruns: u64,
    /// Times it was built or started again.
    pub restarts: u64,
    /// Problems that were not fatal.
    pub problems: u64,
    /// Rows dropped because the queue was full.
    pub lost: u64,
    /// How long the last pass or run took, nanoseconds.
    pub duration_ns: Option<u64>,
    /// The present time between passes in nanoseconds; `None` for a streaming collector.
    pub interval_ns: Option<u64>,
    /// The last error, while it is not fine; escaped.
    pub error: Option<Arc<str>>,
}

/// A collector's health and what is yet to be told of it.
#[derive(Debug, Default)]
pub(super) struct Status {
    pub(super) seen: CollectorStatus,
    /// Panics since it was last well for long; decides when it is dead.
    pub(super) recent_panics: u32,
    /// Good passes in a row.
    pub(super) good_in_row: u32,
    changed: bool,
    untold_lost: u64,
    untold_problems: u64,
    problem: Option<Arc<str>>,
    quiet_ticks: u64,
    /// Its streams, and whether the next batch of each must admit a gap.
    streams: Vec<(Cow<'static, str>, bool)>,
}

impl Status {
    pub(super) fn new(name: &str, streaming: bool) -> Status {
        let seen = CollectorStatus { name: name.into(), streaming, ..CollectorStatus::default() };
        Status { seen, changed: true, ..Status::default() }
    }

    /// Sets the state and the error that goes with it.
    pub(super) fn set(&mut self, state: State, error: Option<&str>) {
        self.changed |= self.seen.state != state;
        self.seen.state = state;
        self.seen.error = error.map(tidy);
    }

    /// Records a problem.
    pub(super) fn problem(&mut self, what: &str) {
        self.seen.problems += 1;
        self.untold_problems += 1;
        self.problem = Some(tidy(what));
    }

    /// Prepares a batch for the queue: it admits the gap if one before it was lost.
    pub(super) fn before_send(&mut self, batch: &mut Batch) {
        self.quiet_ticks = 0;
        if self.seen.streaming {
            self.seen.passes += 1;
        }
        if self.seen.streaming && self.seen.state != State::Ok {
            self.set(State::Ok, None);
        }
        let name = &batch.stream.name;
        match self.streams.iter_mut().find(|(n, _)| n == name) {
            Some((_, gap)) => {
                batch.covered_to &= !*gap;
                *gap = false;
            }
            None => self.streams.push((name.clone(), false)),
        }
    }

    /// A batch did not fit into the queue.
    pub(super) fn lost(&mut self, batch: &Batch) {
        let rows = (batch.len() as u64).max(1);
        self.seen.lost += rows;
        self.untold_lost += rows;
        if let Some((_, gap)) = self.streams.iter_mut().find(|(n, _)| *n == batch.stream.name) {
            *gap = true;
        }
    }

    /// It was not watching for a while: every stream's next batch admits it.
    pub(super) fn interrupted(&mut self) {
        self.streams.iter_mut().for_each(|(_, gap)| *gap = true);
    }
}

fn tidy(s: &str) -> Arc<str> {
    text::escape(&text::shorten(s, LONGEST_TEXT)).into()
}

/// The runner's own streams.
#[derive(Debug)]
pub(super) struct Own {
    collector: Arc<Stream>,
    tick: Arc<Stream>,
    lost: Arc<Stream>,
    problem: Arc<Stream>,
    health_due: u64,
    /// A tick that was fetched late, to be told with the next one.
    fetched_late: Option<(u64, u64)>,
}

impl Own {
    pub(super) fn new() -> Own {
        Own {
            collector: Arc::new(health::COLLECTOR),
            tick: Arc::new(health::TICK),
            lost: Arc::new(health::LOST),
            problem: Arc::new(health::PROBLEM),
            health_due: 0,
            fetched_late: None,
        }
    }

    /// The receiver fetched the tick of `boundary_ns` so late.
    pub(super) fn fetched_late(&mut self, boundary_ns: u64, late_ns: u64) {
        self.fetched_late = Some((boundary_ns, late_ns));
    }

    /// The batches that belong before `tick`: occurrences each time, empty if there was none, so that silence is known to
    /// be silence.
    pub(super) fn report(
        &mut self,
        statuses: &mut [Status],
        tick: &Tick,
        interval_ns: u64,
        mut each: impl FnMut(Batch),
    ) {
        let silent_ticks = SILENT_NS / interval_ns.max(1) + 2;
        for s in statuses.iter_mut() {
            s.quiet_ticks += 1;
            // One that never delivered anything may have nothing to say yet.
            if s.seen.streaming
                && s.seen.passes > 0
                && s.seen.state == State::Ok
                && s.quiet_ticks >= silent_ticks
            {
                s.set(State::Failing, Some("has delivered nothing for over 5 s"));
            }
        }
        each(self.tick_batch(tick, interval_ns));
        let mut lost = Batch::new(self.lost.clone(), tick.at);
        let mut problems = Batch::new(self.problem.clone(), tick.at);
        for s in statuses.iter_mut() {
            if s.untold_lost > 0 {
                lost.row(Subject::Host)
                    .gauge(health::lost::EVENTS, s.untold_lost as f64)
                    .text(health::lost::WHERE, format!("queue: {}", s.seen.name));
                s.untold_lost = 0;
            }
            if let Some(what) = s.problem.take() {
                problems
                    .row(Subject::Host)
                    .text(health::problem::COLLECTOR, s.seen.name.clone())
                    .text(health::problem::WHAT, what)
                    .gauge(health::problem::COUNT, s.untold_problems as f64);
                s.untold_problems = 0;
            }
        }
        each(lost);
        each(problems);
        let all = tick.at.boot_ns >= self.health_due;
        if all {
            self.health_due = tick.at.boot_ns.saturating_add(HEALTH_EVERY_NS);
        }
        if all || statuses.iter().any(|s| s.changed) {
            let mut batch = Batch::new(self.collector.clone(), tick.at);
            for s in statuses.iter_mut().filter(|s| all || s.changed) {
                s.changed = false;
                health_row(&mut batch, &s.seen);
            }
            each(batch);
        }
    }

    fn tick_batch(&mut self, tick: &Tick, interval_ns: u64) -> Batch {
        let mut batch = Batch::new(self.tick.clone(), tick.at);
        let late = lateness(tick, tick.at);
        let hurts = late > interval_ns / 2;
        if let Some((boundary, late)) = self.fetched_late.take() {
            batch.row_at(Subject::Host, boundary.saturating_add(late)).int(health::tick::LATE, late);
        }
        if hurts || tick.suspended_ns > 0 || tick.clock_step_ns != 0 || tick.missed > 0 {
            let mut row = batch.row(Subject::Host);
            if hurts {
                row.int(health::tick::LATE, late);
            }
            if tick.suspended_ns > 0 {
                row.int(health::tick::SUSPENDED, tick.suspended_ns);
            }
            if tick.clock_step_ns != 0 {
                row.gauge(health::tick::CLOCK_STEP, tick.clock_step_ns as f64);
            }
            if tick.missed > 0 {
                row.gauge(health::tick::MISSED, tick.missed as f64);
            }
        }
        batch
    }
}

/// How much later than its boundary a tick is at `now`; a suspend is not lateness.
pub(super) fn lateness(tick: &Tick, now: Stamp) -> u64 {
    now.boot_ns.saturating_sub(tick.boundary_ns).saturating_sub(tick.suspended_ns)
}

fn health_row(batch: &mut Batch, s: &CollectorStatus) {
    use health::collector as f;
    let mut row = batch.row(Subject::Device(s.name.clone()));
    row.gauge(f::STATE, f64::from(s.state as u8))
        .int(f::PASSES, s.passes)
        .int(f::FAILURES, s.failures)
        .int(f::PANICS, s.panics)
        .int(f::OVERRUNS, s.overruns)
        .int(f::RESTARTS, s.restarts)
        .int(f::PROBLEMS, s.problems);
    if let Some(ns) = s.duration_ns {
        row.gauge(f::DURATION, ns as f64);
    }
    if let Some(ns) = s.interval_ns {
        row.gauge(f::INTERVAL, ns as f64);
    }
    if let Some(error) = &s.error {
        row.text(f::ERROR, error.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use whystall_event::MS;

    fn tick(at: u64, boundary_ns: u64) -> Tick {
        let at = Stamp { boot_ns: at, wall_ns: at };
        Tick { at, boundary_ns, suspended_ns: 0, clock_step_ns: 0, missed: 0 }
    }

    fn report(own: &mut Own, statuses: &mut [Status], tick: &Tick) -> Vec<Batch> {
        let mut all = Vec::new();
        own.report(statuses, tick, SEC, |b| all.push(b));
        all
    }

    fn rows<'a>(batches: &'a [Batch], stream: &str) -> Vec<whystall_event::RowRef<'a>> {
        batches.iter().filter(|b| b.stream.name == stream).flat_map(Batch::rows).collect()
    }

    #[test]
    fn health_each_ten_seconds_and_on_change() {
        let mut own = Own::new();
        let mut statuses = [Status::new("a", false), Status::new("b", false)];
        let count = |own: &mut Own, statuses: &mut [Status], s| {
            rows(&report(own, statuses, &tick(s * SEC, s * SEC)), "self.collector").len()
        };
        assert_eq!(count(&mut own, &mut statuses, 0), 2);
        assert_eq!(count(&mut own, &mut statuses, 1), 0);
        statuses[1].set(State::Failing, Some("evil\x1b[31m"));
        let batches = report(&mut own, &mut statuses, &tick(2 * SEC, 2 * SEC));
        let rows = rows(&batches, "self.collector");
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].subject, &Subject::Device("b".into()));
        assert_eq!(rows[0].number(health::collector::STATE), Some(2.0));
        assert_eq!(rows[0].text(health::collector::ERROR).map(|t| t.as_ref()), Some("evil\\x1b[31m"));
        assert_eq!(rows[0].number(health::collector::DURATION), None);
        assert_eq!(count(&mut own, &mut statuses, 10), 2);
    }

    #[test]
    fn problems_are_one_row_with_the_exact_count() {
        let mut own = Own::new();
        let mut statuses = [Status::new("a", true)];
        for i in 0..1000 {
            statuses[0].problem(&format!("line {i} is malformed"));
        }
        let batches = report(&mut own, &mut statuses, &tick(SEC, SEC));
        let row = rows(&batches, "self.problem")[0];
        assert_eq!(row.number(health::problem::COUNT), Some(1000.0));
        assert_eq!(row.text(health::problem::WHAT).map(|t| t.as_ref()), Some("line 999 is malformed"));
        let again = report(&mut own, &mut statuses, &tick(2 * SEC, 2 * SEC));
        assert!(rows(&again, "self.problem").is_empty());
        assert!(again.iter().any(|b| b.stream.name == "self.problem"), "silence is told");
    }

    #[test]
    fn late_ticks_and_suspend() {
        let mut own = Own::new();
        let batches = report(&mut own, &mut [], &tick(10 * SEC + 400 * MS, 10 * SEC));
        assert!(rows(&batches, "self.tick").is_empty());
        let late = Tick { missed: 2, ..tick(13 * SEC + 600 * MS, 11 * SEC) };
        let batches = report(&mut own, &mut [], &late);
        let row = rows(&batches, "self.tick")[0];
        assert_eq!(row.number(health::tick::LATE), Some(2.6e9));
        assert_eq!(row.number(health::tick::SUSPENDED), None);
        assert_eq!(row.number(health::tick::MISSED), Some(2.0));
        let slept = Tick { suspended_ns: 100 * SEC, ..tick(114 * SEC + MS, 14 * SEC) };
        let batches = report(&mut own, &mut [], &slept);
        let row = rows(&batches, "self.tick")[0];
        assert_eq!(row.number(health::tick::LATE), None);
        assert_eq!(row.number(health::tick::SUSPENDED), Some(100e9));
    }

    #[test]
    fn a_silent_streaming_collector_is_failing_until_it_delivers() {
        let mut own = Own::new();
        let mut statuses = [Status::new("s", true)];
        let mut batch = Batch::new(Arc::new(health::LOST), Stamp::default());
        statuses[0].before_send(&mut batch);
        for t in 0..20 {
            report(&mut own, &mut statuses, &tick(t * SEC, t * SEC));
        }
        assert_eq!(statuses[0].seen.state, State::Failing);
        statuses[0].before_send(&mut batch);
        assert_eq!((statuses[0].seen.state, &statuses[0].seen.error), (State::Ok, &None));
    }

    #[test]
    fn the_batch_after_a_lost_one_admits_the_gap() {
        let mut s = Status::new("s", true);
        let batch = || Batch::new(Arc::new(health::LOST), Stamp::default());
        let mut first = batch();
        s.before_send(&mut first);
        assert!(first.covered_to);
        s.lost(&first);
        let (mut second, mut third) = (batch(), batch());
        s.before_send(&mut second);
        s.before_send(&mut third);
        assert_eq!((second.covered_to, third.covered_to, s.seen.lost), (false, true, 1));
    }
}
