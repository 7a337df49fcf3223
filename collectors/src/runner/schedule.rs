//! When each polled collector is due and when a round ends: pure, time is passed in.
//!
//! Everything is due at multiples of its interval on CLOCK_BOOTTIME, so that collectors of one interval, and those of
//! multiples of it, are due at the same moments and the CPU wakes once for all of them.

use whystall_event::SEC;

/// Backing off never makes an interval longer than this (unless it was configured longer).
pub(super) const LONGEST_BACKOFF_NS: u64 = 60 * SEC;
/// So many bad passes in a row before the interval is doubled.
const PATIENCE_PASSES: u32 = 3;

/// The first multiple of `interval` after `now`.
pub(super) fn next_boundary(now: u64, interval: u64) -> u64 {
    let interval = interval.max(1);
    (now / interval).saturating_add(1).saturating_mul(interval)
}

/// How a pass ended, as far as its timing is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Fine.
    Good,
    /// Failed, or used too much of a CPU: be gentler.
    Bad,
    /// Never run it again.
    Dead,
}

#[derive(Debug)]
struct Slot {
    interval: u64,
    effective: u64,
    due: u64,
    running: bool,
    alive: bool,
    /// The open round waits for it.
    awaited: bool,
    bad_in_row: u32,
    last_took: u64,
}

/// A round under way.
#[derive(Debug, Clone, Copy)]
struct Open {
    boundary: u64,
    began: u64,
    missed: u64,
}

/// A round that ended: time to tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Closed {
    /// When the round should have begun.
    pub(super) boundary_ns: u64,
    /// Rounds left out because this one came too late.
    pub(super) missed: u64,
}

/// Which collector is due when.
#[derive(Debug)]
pub(super) struct Schedule {
    interval: u64,
    grace: u64,
    next_round: u64,
    open: Option<Open>,
    slots: Vec<Slot>,
}

impl Schedule {
    /// A schedule of rounds each `interval`, the first at `now`. A round ends when every collector due in it has
    /// reported, or `grace` after it began. All in nanoseconds.
    pub(super) fn new(now: u64, interval: u64, grace: u64) -> Schedule {
        Schedule { interval: interval.max(1), grace, next_round: now, open: None, slots: Vec::new() }
    }

    /// Adds a collector, due at once; returns its number.
    pub(super) fn add(&mut self, interval: u64) -> usize {
        let interval = interval.max(1);
        self.slots.push(Slot {
            interval,
            effective: interval,
            due: 0,
            running: false,
            alive: true,
            awaited: false,
            bad_in_row: 0,
            last_took: 0,
        });
        self.slots.len() - 1
    }

    /// Opens the round that is due, if one is and none is open.
    pub(super) fn begin(&mut self, now: u64) {
        if self.open.is_some() || now < self.next_round {
            return;
        }
        let boundary = self.next_round;
        // A first boundary right after an unaligned start would measure rates over next to nothing.
        self.next_round = next_boundary(now, self.interval);
        if !boundary.is_multiple_of(self.interval) && self.next_round - now < self.interval / 2 {
            self.next_round += self.interval;
        }
        self.open = Some(Open { boundary, began: now, missed: (now - boundary) / self.interval });
        for slot in &mut self.slots {
            // One that still runs is stuck in an earlier round: do not wait for it again.
            slot.awaited = slot.alive && !slot.running && slot.due <= now;
        }
    }

    /// As [`Schedule::begin`], for one who stands in for the worker: only if the round was due before `overdue`.
    pub(super) fn begin_overdue(&mut self, now: u64, overdue: u64) {
        if self.next_round <= overdue {
            self.begin(now);
        }
    }

    /// Takes the next collector to run: of those due the one that was quickest last time, so that slow ones hold up
    /// nobody.
    pub(super) fn take(&mut self, now: u64) -> Option<usize> {
        let (i, slot) = (self.slots.iter_mut().enumerate())
            .filter(|(_, s)| s.alive && !s.running && s.due <= now)
            .min_by_key(|(_, s)| s.last_took)?;
        slot.running = true;
        Some(i)
    }

    /// Collector `i` came back after `took` nanoseconds.
    pub(super) fn done(&mut self, i: usize, now: u64, took: u64, verdict: Verdict) {
        let Some(slot) = self.slots.get_mut(i) else { return };
        slot.running = false;
        slot.awaited = false;
        slot.last_took = took;
        match verdict {
            Verdict::Good => {
                slot.bad_in_row = 0;
                slot.effective = (slot.effective / 2).max(slot.interval);
            }
            Verdict::Bad => {
                slot.bad_in_row = slot.bad_in_row.saturating_add(1);
                if slot.bad_in_row >= PATIENCE_PASSES {
                    let longest = LONGEST_BACKOFF_NS.max(slot.interval);
                    slot.effective = slot.effective.saturating_mul(2).min(longest);
                }
            }
            Verdict::Dead => slot.alive = false,
        }
        // From now, not from when it was due: what a long pass missed is left out. The half interval keeps a pass from
        // following an unaligned first one at once.
        let due = next_boundary(now, slot.effective);
        let first = slot.due == 0;
        slot.due = if first && due - now < slot.effective / 2 { due + slot.effective } else { due };
    }

    /// Ends the open round if nobody is waited for any more or the grace time is over.
    pub(super) fn close(&mut self, now: u64) -> Option<Closed> {
        let open = self.open?;
        let awaiting = self.slots.iter().any(|s| s.awaited);
        if awaiting && now < open.began.saturating_add(self.grace) {
            return None;
        }
        self.open = None;
        self.slots.iter_mut().for_each(|s| s.awaited = false);
        Some(Closed { boundary_ns: open.boundary, missed: open.missed })
    }

    /// When the grace time of the open round is over.
    pub(super) fn grace_over(&self) -> Option<u64> {
        self.open.map(|o| o.began.saturating_add(self.grace))
    }

    /// When the next round is due.
    pub(super) fn next_round(&self) -> u64 {
        self.next_round
    }

    /// When the next collector or round is due; in the past if one waits already.
    pub(super) fn next_wake(&self) -> u64 {
        let slots = self.slots.iter().filter(|s| s.alive && !s.running).map(|s| s.due);
        let round = if self.open.is_none() { self.next_round } else { u64::MAX };
        slots.chain([round]).min().unwrap_or(u64::MAX)
    }

    /// The present interval of collector `i`, longer than configured while backing off.
    pub(super) fn effective(&self, i: usize) -> u64 {
        self.slots.get(i).map_or(0, |s| s.effective)
    }

    /// The collectors that are in a pass now.
    pub(super) fn running(&self) -> impl Iterator<Item = usize> {
        self.slots.iter().enumerate().filter(|(_, s)| s.running).map(|(i, _)| i)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use whystall_event::MS;

    /// Runs every collector due at `now`, each with the verdict given, and returns their numbers.
    fn run_due(s: &mut Schedule, now: u64, verdict: Verdict) -> Vec<usize> {
        s.begin(now);
        let mut ran = Vec::new();
        while let Some(i) = s.take(now) {
            s.done(i, now + 1, 1, verdict);
            ran.push(i);
        }
        ran
    }

    #[test]
    fn rounds_are_aligned_and_end_when_all_reported() {
        let start = 100 * SEC + 200 * MS;
        let mut s = Schedule::new(start, SEC, 250 * MS);
        let (a, b) = (s.add(SEC), s.add(10 * SEC));
        assert_eq!(run_due(&mut s, start, Verdict::Good), [a, b]);
        assert_eq!(s.close(start + 2), Some(Closed { boundary_ns: start, missed: 0 }));
        assert_eq!(s.close(start + 3), None);
        assert_eq!(s.next_wake(), 101 * SEC);
        assert_eq!(run_due(&mut s, 101 * SEC, Verdict::Good), [a]);
        assert_eq!(s.close(101 * SEC), Some(Closed { boundary_ns: 101 * SEC, missed: 0 }));
        for t in 102..110 {
            assert_eq!(run_due(&mut s, t * SEC, Verdict::Good), [a], "{t}");
            assert!(s.close(t * SEC).is_some());
        }
        assert_eq!(run_due(&mut s, 110 * SEC, Verdict::Good), [a, b]);
    }

    #[test]
    fn a_stuck_collector_costs_one_grace_time_only() {
        let mut s = Schedule::new(0, SEC, 250 * MS);
        let (stuck, good) = (s.add(SEC), s.add(SEC));
        s.begin(0);
        assert_eq!(s.take(0), Some(stuck));
        assert_eq!(s.take(0), Some(good));
        s.done(good, MS, MS, Verdict::Good);
        assert_eq!(s.close(249 * MS), None);
        assert_eq!(s.grace_over(), Some(250 * MS));
        assert!(s.close(250 * MS).is_some());
        // The next round does not wait for it.
        s.begin(SEC);
        assert_eq!(s.take(SEC), Some(good));
        assert_eq!(s.take(SEC), None);
        s.done(good, SEC + MS, MS, Verdict::Good);
        assert!(s.close(SEC + MS).is_some());
        assert_eq!(s.running().collect::<Vec<_>>(), [stuck]);
        // It comes back and is due again at a boundary, after the quick one.
        s.done(stuck, 5 * SEC + 1, 5 * SEC, Verdict::Good);
        s.begin(6 * SEC);
        assert_eq!((s.take(6 * SEC), s.take(6 * SEC)), (Some(good), Some(stuck)));
    }

    #[test]
    fn a_late_round_counts_what_it_missed() {
        let mut s = Schedule::new(10 * SEC, SEC, 250 * MS);
        s.begin(10 * SEC);
        assert_eq!(s.close(10 * SEC), Some(Closed { boundary_ns: 10 * SEC, missed: 0 }));
        s.begin(14 * SEC + 300 * MS);
        assert_eq!(s.close(14 * SEC + 300 * MS), Some(Closed { boundary_ns: 11 * SEC, missed: 3 }));
        assert_eq!(s.next_wake(), 15 * SEC);
    }

    #[test]
    fn backs_off_after_three_bad_passes_and_recovers() {
        let mut s = Schedule::new(0, SEC, 0);
        let i = s.add(SEC);
        let mut now = 0;
        let mut intervals = Vec::new();
        for _ in 0..12 {
            assert_eq!(run_due(&mut s, now, Verdict::Bad), [i]);
            s.close(now);
            intervals.push(s.effective(i) / SEC);
            now = s.slots[i].due;
        }
        assert_eq!(intervals, [1, 1, 2, 4, 8, 16, 32, 60, 60, 60, 60, 60]);
        for _ in 0..7 {
            run_due(&mut s, now, Verdict::Good);
            s.close(now);
            now = s.slots[i].due;
        }
        assert_eq!(s.effective(i), SEC);
        assert_eq!(run_due(&mut s, now, Verdict::Dead), [i]);
        assert_eq!(s.take(u64::MAX), None);
    }

    proptest! {
        /// Whatever the timing, a collector never runs twice at a time, waking is never asked for in the past once
        /// all that is due was taken, and every round that opens closes at the latest after its grace time.
        #[test]
        fn invariants(steps in prop::collection::vec((0u64..3 * SEC, 0u8..8), 1..200), intervals in prop::collection::vec(1u64..5 * SEC, 0..6)) {
            let mut s = Schedule::new(0, SEC, SEC / 4);
            for i in intervals {
                s.add(i);
            }
            let mut now = 0;
            let mut running: Vec<usize> = Vec::new();
            for (dt, action) in steps {
                now += dt;
                s.begin(now);
                while let Some(i) = s.take(now) {
                    prop_assert!(!running.contains(&i));
                    running.push(i);
                    if action == 0 {
                        break;
                    }
                }
                if action >= 2 {
                    for i in running.drain(..) {
                        let verdict = if action == 7 { Verdict::Bad } else { Verdict::Good };
                        s.done(i, now, 1, verdict);
                    }
                }
                if action >= 1 {
                    let over = s.grace_over();
                    let closed = s.close(now);
                    if over.is_some_and(|t| now >= t) || (action >= 2 && over.is_some()) {
                        prop_assert!(closed.is_some());
                    }
                    // A round that was due while the last one was open begins now.
                    s.begin(now);
                    while let Some(i) = s.take(now) {
                        running.push(i);
                    }
                    prop_assert!(s.next_wake() > now);
                }
            }
        }
    }
}
