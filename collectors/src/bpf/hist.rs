//! Sums over the kernel's log2 histograms: what an interval added, and its percentiles. Pure.

use super::wire::{Hist, SLOTS};

impl Hist {
    /// What was added since `before`; everything if the table was begun anew.
    pub(crate) fn since(&self, before: &Hist) -> Hist {
        if self.count < before.count {
            return *self;
        }
        let mut slots = [0; SLOTS];
        for (i, s) in slots.iter_mut().enumerate() {
            *s = self.slots[i].saturating_sub(before.slots[i]);
        }
        Hist {
            count: self.count - before.count,
            sum_ns: self.sum_ns.saturating_sub(before.sum_ns),
            max_ns: self.max_ns,
            slots,
        }
    }

    /// Adds another CPU's or cgroup's.
    pub(crate) fn add(&mut self, other: &Hist) {
        self.count = self.count.saturating_add(other.count);
        self.sum_ns = self.sum_ns.saturating_add(other.sum_ns);
        self.max_ns = self.max_ns.max(other.max_ns);
        for (a, b) in self.slots.iter_mut().zip(other.slots) {
            *a = a.saturating_add(b);
        }
    }

    /// The duration in nanoseconds below which the part `q` (0 to 1) lies, within a factor of 2; `None` if empty.
    pub(crate) fn quantile(&self, q: f64) -> Option<f64> {
        let total: u64 = self.slots.iter().fold(0, |a, s| a.saturating_add(*s));
        if total == 0 {
            return None;
        }
        let rank = (q * total as f64).ceil().max(1.0);
        let mut below = 0.0;
        for (i, &n) in self.slots.iter().enumerate() {
            let n = n as f64;
            if below + n >= rank {
                let (from, to) = bounds(i);
                // No value is above the maximum, though its slot is.
                let max = if self.max_ns > 0 { self.max_ns as f64 } else { f64::INFINITY };
                return Some((from + (to - from) * (rank - below) / n).min(max));
            }
            below += n;
        }
        None
    }
}

/// A slot's range in nanoseconds.
fn bounds(slot: usize) -> (f64, f64) {
    match slot {
        0 => (0.0, 1e3),
        i => (1e3 * 2f64.powi(i as i32 - 1), 1e3 * 2f64.powi(i as i32)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(values: &[u64]) -> Hist {
        let mut h = Hist::default();
        for &v in values {
            let us = v / 1000;
            let slot = if us == 0 { 0 } else { us.ilog2() as usize + 1 };
            h.add(&Hist {
                count: 1,
                sum_ns: v,
                max_ns: v,
                slots: std::array::from_fn(|i| u64::from(i == slot.min(SLOTS - 1))),
            });
        }
        h
    }

    #[test]
    fn empty_and_restarted() {
        assert_eq!(Hist::default().quantile(0.5), None);
        assert_eq!(of(&[5000]).since(&of(&[1000, 1000])), of(&[5000]));
    }

    proptest! {
        #[test]
        fn quantiles_are_within_a_factor_of_two(mut v in prop::collection::vec(1_000u64..60_000_000_000, 1..60), q in 0.01f64..1.0) {
            let h = of(&v);
            v.sort_unstable();
            let exact = v[((q * v.len() as f64).ceil() as usize).clamp(1, v.len()) - 1] as f64;
            let got = h.quantile(q).unwrap();
            prop_assert!(got <= exact * 2.01 && got >= exact / 2.01, "{got} for {exact}");
        }

        #[test]
        fn differences_add_up(a in prop::collection::vec(1_000u64..1_000_000_000, 0..30), b in prop::collection::vec(1_000u64..1_000_000_000, 0..30)) {
            let mut both = of(&a);
            both.add(&of(&b));
            let d = both.since(&of(&a));
            prop_assert_eq!((d.count, d.sum_ns, d.slots), (b.len() as u64, of(&b).sum_ns, of(&b).slots));
        }
    }
}
