//! Numbers the ticks by the time that passed, so that old panes leave in time although ticks come late or not at all.

/// The latest time and the longest interval, 73 years: recordings say anything, and sums of a few of them fit.
const LATEST: u64 = 1 << 61;

/// Gives ticks their numbers. A tick that is half an interval late or early still gets the next number.
#[derive(Debug, Clone)]
pub(crate) struct Pace {
    interval: i64,
    /// When the newest tick was due.
    due: Option<i64>,
    index: u64,
    last: u64,
}

impl Pace {
    pub(crate) fn new(interval_ns: u64) -> Pace {
        Pace { interval: interval_ns.clamp(1, LATEST) as i64, due: None, index: 0, last: 0 }
    }

    /// The newest tick's number.
    pub(crate) fn index(&self) -> u64 {
        self.index
    }

    /// A tick at `now`: its number, and the nanoseconds since the one before (0 for the first). Two ticks within half
    /// an interval share a number.
    pub(crate) fn tick(&mut self, now: u64) -> (u64, u64) {
        let at = now.min(LATEST) as i64;
        let Some(due) = self.due else {
            self.due = Some(at);
            self.index += 1;
            self.last = now;
            return (self.index, 0);
        };
        let steps = ((at - due).saturating_add(self.interval / 2) / self.interval).max(0);
        let due = due + steps * self.interval;
        // Follow the ticker slowly, so that a single late tick does not shift what comes after it.
        self.due = Some(due + (at - due).clamp(-self.interval, self.interval) / 4);
        self.index += steps as u64;
        let elapsed = now.saturating_sub(self.last);
        self.last = self.last.max(now);
        (self.index, elapsed)
    }

    /// Starts numbering anew.
    pub(crate) fn restart(&mut self) {
        *self = Pace::new(self.interval as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(ticks: &[u64]) -> Vec<u64> {
        let mut p = Pace::new(1000);
        ticks.iter().map(|t| p.tick(*t).0).collect()
    }

    #[test]
    fn jitter_missed_ticks_and_a_late_start() {
        assert_eq!(numbers(&[5000, 6000, 7000, 8000]), [1, 2, 3, 4]);
        assert_eq!(numbers(&[5000, 6300, 6800, 8100, 8900]), [1, 2, 3, 4, 5]);
        // A stall of five intervals, and the tick after it comes in time again.
        assert_eq!(numbers(&[5000, 10_000, 11_000]), [1, 6, 7]);
        // A tick late by 0.6 counts as two, the next by none.
        assert_eq!(numbers(&[5000, 6600, 7000, 8000]), [1, 3, 3, 4]);
        // The first tick came late by half an interval; the others keep their distance.
        assert_eq!(numbers(&[5450, 6000, 7000, 8000, 9000]), [1, 2, 3, 4, 5]);
        assert_eq!(numbers(&[5000, 4000, 6000]), [1, 1, 2]);
    }
}
