//! Exponentially weighted mean and deviation of a row's tick values: what is normal for it.

/// One row's state.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Normal {
    /// The weighted mean; NaN before the first value.
    pub(crate) mean: f64,
    /// The weighted variance.
    pub(crate) variance: f64,
    /// Nanoseconds that values stood for so far, while it matters.
    weight: f64,
    /// Covered nanoseconds: grows with coverage up to the time constant and decays without.
    pub(crate) covered: f64,
}

impl Default for Normal {
    fn default() -> Normal {
        Normal { mean: f64::NAN, variance: 0.0, weight: 0.0, covered: 0.0 }
    }
}

/// What is left of a weight after some time, with the last answer kept: all rows of a tick ask for the same.
#[derive(Debug)]
struct Kept {
    dt: f64,
    left: f64,
}

impl Kept {
    fn after(&mut self, dt: f64, over: f64) -> f64 {
        if dt != self.dt {
            *self = Kept { dt, left: (-dt / over).exp() };
        }
        self.left
    }
}

/// The time constant of a weighted mean.
#[derive(Debug)]
pub(crate) struct Decay {
    over: f64,
    unseen: Kept,
    seen: Kept,
}

impl Decay {
    /// For the time constant `over` in nanoseconds.
    pub(crate) fn new(over: f64) -> Decay {
        let kept = || Kept { dt: 0.0, left: 1.0 };
        Decay { over, unseen: kept(), seen: kept() }
    }

    /// What becomes of the covered time `total` in a tick of which `covered` of the `elapsed` nanoseconds were watched.
    pub(crate) fn cover(&mut self, total: f64, covered: f64, elapsed: f64) -> f64 {
        let left = if covered < elapsed { self.unseen.after(elapsed - covered, self.over) } else { 1.0 };
        (total * left + covered).min(self.over)
    }

    /// Takes a tick's value that stands for `dt` nanoseconds. Until the values stand for a whole time constant this is
    /// the plain mean, so that the first value has no more weight than others.
    pub(crate) fn update(&mut self, n: &mut Normal, value: f64, dt: f64) {
        // Far beyond the time constant the weight matters no more; the bound keeps it exact.
        n.weight = (n.weight + dt).min(self.over * 64.0);
        let alpha = (1.0 - self.seen.after(dt, self.over)).max(dt / n.weight).min(1.0);
        if n.mean.is_nan() {
            n.mean = value;
        }
        let diff = value - n.mean;
        let step = alpha * diff;
        n.mean += step;
        n.variance = (1.0 - alpha) * (n.variance + diff * step);
    }
}
