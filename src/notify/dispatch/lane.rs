//! What is kept for one receiver: its waiting rows, its token bucket, its health, and counts for its next digest.

use std::collections::{BTreeMap, BTreeSet};

use whystall_event::SEC;

use super::policy::ReceiverPolicy;

/// Deliveries to one receiver at once; never two of one incident.
const PARALLEL: usize = 4;
/// So many different notifications failed in a row: the receiver is down, and not one of them odd.
const DOWN_AFTER: u32 = 3;
/// A receiver that is down is asked again at least so often.
const MAX_PROBE_NS: u64 = 300 * SEC;

#[derive(Debug)]
pub(super) struct Lane {
    pub(super) policy: ReceiverPolicy,
    /// First rows of their threads that are not due yet, by time.
    pub(super) waiting: BTreeSet<(u64, u64)>,
    /// First rows of their threads that are due, by priority and age.
    pub(super) ready: BTreeSet<(u8, u64)>,
    /// All its rows, by age.
    pub(super) all: BTreeSet<u64>,
    pub(super) flying: usize,
    pub(super) bucket: Bucket,
    pub(super) health: Health,
    pub(super) digest: Digest,
    /// Its heartbeat and its digest that are not delivered yet.
    pub(super) heartbeat_row: Option<u64>,
    pub(super) digest_row: Option<u64>,
    pub(super) refusal_told_ns: Option<u64>,
}

impl Lane {
    pub(super) fn new(policy: ReceiverPolicy, now: u64) -> Lane {
        let bucket = Bucket::new(policy.burst, policy.per_minute, now);
        Lane {
            policy,
            waiting: BTreeSet::new(),
            ready: BTreeSet::new(),
            all: BTreeSet::new(),
            flying: 0,
            bucket,
            health: Health::default(),
            digest: Digest::default(),
            heartbeat_row: None,
            digest_row: None,
            refusal_told_ns: None,
        }
    }

    /// How many more deliveries may begin now.
    pub(super) fn room(&self, now: u64) -> usize {
        if self.health.blocked_ns > now {
            return 0;
        }
        // A receiver that is down is asked with one at a time.
        let most = if self.is_down() { 1 } else { PARALLEL };
        most.saturating_sub(self.flying)
    }

    /// Whether nothing that is sent to it arrives.
    pub(super) fn fails(&self) -> bool {
        self.health.failures >= DOWN_AFTER
    }

    pub(super) fn is_down(&self) -> bool {
        self.health.different >= DOWN_AFTER
    }

    /// A try failed in a way that may pass.
    pub(super) fn failed(&mut self, now: u64, row: u64, seed: &str, after: Option<u64>) {
        self.health.failures = self.health.failures.saturating_add(1);
        // Once it is down, every try counts, so that it is asked less and less often.
        if self.is_down() || self.health.last_row.replace(row) != Some(row) {
            self.health.different = self.health.different.saturating_add(1);
        }
        self.health.since_ns.get_or_insert(now);
        let (first, most) = self.policy.backoff_ns;
        let mut wait = after.unwrap_or(0);
        if self.is_down() {
            let n = self.health.different - DOWN_AFTER;
            wait = wait.max(backoff(n, (first, most.min(MAX_PROBE_NS)), seed));
        }
        self.health.blocked_ns = self.health.blocked_ns.max(now.saturating_add(wait));
    }
}

/// How a receiver does.
#[derive(Debug, Default)]
pub(super) struct Health {
    /// Failures since the last success.
    pub(super) failures: u32,
    /// How many of them were not of the notification that failed before.
    pub(super) different: u32,
    last_row: Option<u64>,
    /// The first failure.
    pub(super) since_ns: Option<u64>,
    /// Nothing is tried before.
    pub(super) blocked_ns: u64,
    /// Whether others were told.
    pub(super) told: bool,
}

/// The wait before try `n` (from 0): doubling, with the second half of it jittered by `seed`, so that many hosts do not
/// come back at once.
pub(super) fn backoff(n: u32, (first, most): (u64, u64), seed: &str) -> u64 {
    let whole = first.saturating_mul(1 << n.min(40)).min(most);
    let half = whole / 2;
    half + fnv(&format!("{seed}/{n}")) % (half + 1)
}

/// FNV-1a: the same everywhere, and good enough to spread.
pub(super) fn fnv(s: &str) -> u64 {
    s.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

/// A token bucket of which a quarter is kept for what must be told.
#[derive(Debug)]
pub(super) struct Bucket {
    tokens: f64,
    burst: f64,
    per_ns: f64,
    at_ns: u64,
}

impl Bucket {
    fn new(burst: u32, per_minute: u32, now: u64) -> Bucket {
        let burst = f64::from(burst.max(1));
        Bucket {
            tokens: burst,
            burst,
            per_ns: f64::from(per_minute.max(1)) / (60.0 * SEC as f64),
            at_ns: now,
        }
    }

    /// Takes a token, or says when there will be one.
    pub(super) fn take(&mut self, important: bool, now: u64) -> Result<(), u64> {
        let passed = now.saturating_sub(self.at_ns) as f64;
        self.at_ns = now;
        self.tokens = (self.tokens + passed * self.per_ns).min(self.burst);
        let kept = if important { 0.0 } else { (self.burst / 4.0).floor() };
        let needed = kept + 1.0;
        if self.tokens + 1e-9 >= needed {
            self.tokens -= 1.0;
            return Ok(());
        }
        Err(now.saturating_add(((needed - self.tokens) / self.per_ns).ceil() as u64))
    }
}

/// Counts of what was not told one by one.
#[derive(Debug, Default, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub(super) struct Digest {
    /// Held back by the rate limit, by severity.
    pub(super) held: BTreeMap<String, u64>,
    /// Dropped because too many waited, by severity.
    pub(super) dropped: BTreeMap<String, u64>,
    /// Given up after trying for too long, by severity.
    pub(super) gave_up: BTreeMap<String, u64>,
}

impl Digest {
    pub(super) fn is_empty(&self) -> bool {
        self.total() == 0
    }

    pub(super) fn total(&self) -> u64 {
        [&self.held, &self.dropped, &self.gave_up].iter().flat_map(|m| m.values()).sum()
    }

    /// The counts as lines for people.
    pub(super) fn text(&self) -> String {
        let list = |m: &BTreeMap<String, u64>| {
            m.iter().map(|(s, n)| format!("{n} {s}")).collect::<Vec<_>>().join(", ")
        };
        let mut lines = Vec::new();
        for (counts, what) in [
            (&self.held, "held back by the rate limit"),
            (&self.dropped, "dropped because too many were waiting for this receiver"),
            (&self.gave_up, "given up because this receiver failed for too long"),
        ] {
            if !counts.is_empty() {
                lines.push(format!("{what}: {}", list(counts)));
            }
        }
        lines.push("the incidents themselves: `whystall incidents`".to_string());
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn backoff_is_bounded_and_jittered(n in 0..200u32, seed: String) {
            let most = 3600 * SEC;
            let wait = backoff(n, (5 * SEC, most), &seed);
            let whole = (5 * SEC).saturating_mul(1u64.checked_shl(n).unwrap_or(u64::MAX)).min(most);
            proptest::prop_assert!(wait <= most);
            if n < 10 { proptest::prop_assert!(wait >= whole / 2 && wait <= whole); }
        }
    }

    #[test]
    fn a_quarter_of_the_tokens_is_kept() {
        let mut b = Bucket::new(8, 60, 0);
        let plain = (0..20).filter(|_| b.take(false, 0).is_ok()).count();
        assert_eq!(plain, 6);
        assert_eq!(b.take(false, 0), Err(SEC));
        assert!(b.take(true, 0).is_ok() && b.take(true, 0).is_ok());
        assert_eq!(b.take(true, 0), Err(SEC));
        assert!(b.take(true, SEC).is_ok());
        assert!(b.take(false, 4 * SEC).is_ok(), "the reserve is full again, and one more");
    }
}
