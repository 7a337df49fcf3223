//! The current tick's cell of a series: the only memory that a value touches when it comes in.

/// "No reading yet" in a cell's time.
const NEVER: u64 = u64::MAX;

/// The current tick of a sampled counter.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CounterCell {
    /// The newest reading.
    pub(crate) last: u64,
    /// Its time, nanoseconds, or [`NEVER`].
    at: u64,
    /// Growth in this tick.
    pub(crate) sum: f64,
    /// Nanoseconds that the growth took.
    pub(crate) covered: f64,
}

impl Default for CounterCell {
    fn default() -> CounterCell {
        CounterCell { last: 0, at: NEVER, sum: 0.0, covered: 0.0 }
    }
}

impl CounterCell {
    /// Takes a reading. The interval since the one before counts unless the counter was reset in it or it is longer
    /// than `limit`. A reading that is not newer than the last is ignored.
    #[inline(always)]
    pub(crate) fn read(&mut self, value: u64, at: u64, limit: u64) {
        if self.at != NEVER {
            if at <= self.at {
                return;
            }
            let dt = at - self.at;
            if value >= self.last && dt <= limit {
                self.sum += to_f64(value - self.last);
                self.covered += to_f64(dt);
            }
        }
        self.last = value;
        self.at = at;
    }

    /// Forgets this tick's growth, keeps the reading.
    #[inline(always)]
    pub(crate) fn close(&mut self) {
        self.sum = 0.0;
        self.covered = 0.0;
    }

    /// Makes the next reading a first one.
    pub(crate) fn sever(&mut self) {
        self.close();
        self.at = NEVER;
    }
}

/// As `x as f64`, by the signed conversion, which is a single instruction; 292 years of nanoseconds are enough.
#[inline(always)]
fn to_f64(x: u64) -> f64 {
    x.min(i64::MAX as u64) as i64 as f64
}

/// The current tick of a sampled gauge, or of occurrences.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ValueCell {
    /// The newest value.
    pub(crate) last: f64,
    /// Its time, nanoseconds, or [`NEVER`].
    at: u64,
    /// Values of this tick: sum, least, greatest.
    pub(crate) sum: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    /// How much a gauge moved in this tick.
    pub(crate) delta: f64,
    /// Nanoseconds that this tick's readings stand for.
    pub(crate) covered: f64,
    /// Number of values in this tick.
    pub(crate) count: u32,
}

impl Default for ValueCell {
    fn default() -> ValueCell {
        ValueCell {
            last: f64::NAN,
            at: NEVER,
            sum: 0.0,
            min: f64::INFINITY,
            max: f64::NEG_INFINITY,
            delta: 0.0,
            covered: 0.0,
            count: 0,
        }
    }
}

impl ValueCell {
    /// Takes a gauge's reading. It stands for the time since the one before; the first one, or one after more than
    /// `limit`, for one `interval`. False if it is not newer than the last and was ignored.
    #[inline(always)]
    pub(crate) fn read(&mut self, value: f64, at: u64, limit: u64, interval: f64) -> bool {
        if self.at != NEVER && at <= self.at {
            return false;
        }
        if self.at != NEVER && at - self.at <= limit {
            self.delta += value - self.last;
            self.covered += to_f64(at - self.at);
        } else {
            self.covered += interval;
        }
        self.at = at;
        self.occur(value);
        true
    }

    /// Takes an occurrence.
    #[inline(always)]
    pub(crate) fn occur(&mut self, value: f64) {
        self.last = value;
        self.sum += value;
        self.min = if value < self.min { value } else { self.min };
        self.max = if value > self.max { value } else { self.max };
        self.count = self.count.saturating_add(1);
    }

    /// Forgets this tick's values, keeps the newest one.
    #[inline(always)]
    pub(crate) fn close(&mut self) {
        *self = ValueCell { last: self.last, at: self.at, ..ValueCell::default() };
    }

    /// Makes the next reading a first one.
    pub(crate) fn sever(&mut self) {
        *self = ValueCell::default();
    }
}
