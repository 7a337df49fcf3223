//! One rule firing for one subject: the life pending → firing → recovering → resolved, as a pure state machine.

use whystall_event::Subject;

use crate::script::{Conclusion, Judged, OnMissing};

/// How a rule's findings begin and end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Policy {
    pub(crate) fire_hold_ns: u64,
    pub(crate) quorum: Option<(u32, u32)>,
    pub(crate) clear_hold_ns: u64,
    pub(crate) on_missing: OnMissing,
}

/// Where in its life a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// The condition holds, but not for long enough.
    Pending,
    /// It fires.
    Firing,
    /// The condition to leave holds, but not for long enough.
    Recovering,
}

/// What a step led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing to tell.
    Stay,
    /// It was pending and its condition went away.
    Dropped,
    /// It fires now.
    Fired,
    /// It is over.
    Resolved,
}

/// A rule's open finding about one subject.
#[derive(Debug, Clone)]
pub(crate) struct Finding {
    pub(crate) subject: Subject,
    pub(crate) phase: Phase,
    /// When the condition first held, CLOCK_BOOTTIME nanoseconds.
    pub(crate) started_ns: u64,
    /// When the phase began; moved on while nothing is known, so that unknown time is not counted.
    since_ns: u64,
    last_ns: u64,
    /// The newest ticks, newest in bit 0, for the quorum.
    ticks: u64,
    /// Whether the newest judgement was unknown.
    pub(crate) stale: bool,
    pub(crate) conclusion: Option<Conclusion>,
    pub(crate) concluded_ns: u64,
    pub(crate) conclusions: u32,
    /// Until when an absent subject is unknown and not gone: it was taken over from an earlier run, and what is there
    /// may not have been seen yet.
    fresh_until_ns: u64,
}

/// How long after a restart a subject may be absent without being gone.
const FRESH_NS: u64 = 60_000_000_000;

impl Finding {
    /// What a restart needs to know besides public fields: how long the phase lasts, and the newest ticks.
    pub(crate) fn held(&self, now: u64) -> (u64, u64) {
        (now.saturating_sub(self.since_ns), self.ticks)
    }

    /// Goes on after a restart: the phase has lasted for `held_ns`, and the time in between does not count.
    pub(crate) fn resume(mut self, phase: Phase, (held_ns, ticks): (u64, u64), now: u64) -> Finding {
        self.phase = phase;
        self.since_ns = now.saturating_sub(held_ns);
        self.last_ns = now;
        self.ticks = ticks;
        self.stale = true;
        self.fresh_until_ns = now.saturating_add(FRESH_NS);
        self
    }

    /// What an absent subject means now: what no longer exists no longer stalls.
    pub(crate) fn absent(&self, now: u64, gone: Judged) -> Judged {
        if now < self.fresh_until_ns { Judged::Unknown } else { gone }
    }

    /// A finding whose condition holds for the first time.
    pub(crate) fn begin(subject: Subject, now: u64) -> Finding {
        Finding {
            subject,
            phase: Phase::Pending,
            started_ns: now,
            since_ns: now,
            last_ns: now,
            ticks: 0,
            stale: false,
            conclusion: None,
            concluded_ns: 0,
            conclusions: 0,
            fresh_until_ns: 0,
        }
    }

    /// Takes one tick's judgements in. `leave` is asked only where it matters.
    pub(crate) fn step(
        &mut self,
        policy: &Policy,
        enter: &Judged,
        leave: impl FnOnce() -> Judged,
        now: u64,
    ) -> Step {
        let passed = now.saturating_sub(self.last_ns);
        self.last_ns = now;
        match self.phase {
            Phase::Pending => self.pending(policy, enter, passed, now),
            Phase::Firing | Phase::Recovering => {
                let leave = match leave() {
                    Judged::Unknown | Judged::Failed(_) if policy.on_missing == OnMissing::Clear => {
                        Judged::True
                    }
                    other => other,
                };
                self.stale = matches!(leave, Judged::Unknown | Judged::Failed(_));
                match (leave, self.phase) {
                    (Judged::True, Phase::Firing) => {
                        self.enter_phase(Phase::Recovering, now);
                        self.recovered(policy, now)
                    }
                    (Judged::True, _) => self.recovered(policy, now),
                    (Judged::False, Phase::Recovering) => {
                        self.enter_phase(Phase::Firing, now);
                        Step::Stay
                    }
                    (Judged::False, _) => Step::Stay,
                    _ => {
                        self.since_ns = self.since_ns.saturating_add(passed);
                        Step::Stay
                    }
                }
            }
        }
    }

    fn pending(&mut self, policy: &Policy, enter: &Judged, passed: u64, now: u64) -> Step {
        let holds = match enter {
            Judged::True => true,
            Judged::False => false,
            _ if policy.on_missing == OnMissing::Clear => false,
            _ => {
                self.stale = true;
                self.since_ns = self.since_ns.saturating_add(passed);
                return Step::Stay;
            }
        };
        self.stale = false;
        self.ticks = self.ticks << 1 | u64::from(holds);
        let enough = match policy.quorum {
            None if !holds => return Step::Dropped,
            None => true,
            Some((n, m)) => {
                let mask = if m >= 64 { u64::MAX } else { (1 << m) - 1 };
                let count = (self.ticks & mask).count_ones();
                if count == 0 {
                    return Step::Dropped;
                }
                count >= n
            }
        };
        if enough && now.saturating_sub(self.since_ns) >= policy.fire_hold_ns {
            self.enter_phase(Phase::Firing, now);
            Step::Fired
        } else {
            Step::Stay
        }
    }

    fn recovered(&mut self, policy: &Policy, now: u64) -> Step {
        if now.saturating_sub(self.since_ns) >= policy.clear_hold_ns { Step::Resolved } else { Step::Stay }
    }

    fn enter_phase(&mut self, phase: Phase, now: u64) {
        self.phase = phase;
        self.since_ns = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Drives a finding with one letter a second: `1` enter, `0` leave, `-` in between, `?` unknown; says what happened
    /// at each.
    fn life(policy: Policy, ticks: &str) -> String {
        let mut f: Option<Finding> = None;
        let mut out = String::new();
        for (i, c) in ticks.chars().enumerate() {
            let now = i as u64;
            let judged = |yes: char| match c {
                '?' => Judged::Unknown,
                c if c == yes => Judged::True,
                _ => Judged::False,
            };
            if f.is_none() && c == '1' {
                f = Some(Finding::begin(Subject::Host, now));
            }
            let Some(finding) = &mut f else {
                out.push('.');
                continue;
            };
            let step = finding.step(&policy, &judged('1'), || judged('0'), now);
            out.push(match (step, finding.phase) {
                (Step::Fired, _) => 'F',
                (Step::Resolved, _) => 'R',
                (Step::Dropped, _) => 'd',
                (Step::Stay, Phase::Pending) => 'p',
                (Step::Stay, Phase::Firing) => 'f',
                (Step::Stay, Phase::Recovering) => 'r',
            });
            if matches!(step, Step::Resolved | Step::Dropped) {
                f = None;
            }
        }
        out
    }

    const PLAIN: Policy =
        Policy { fire_hold_ns: 2, quorum: None, clear_hold_ns: 3, on_missing: OnMissing::Hold };

    #[test]
    fn holds_before_firing_and_clearing() {
        assert_eq!(life(PLAIN, "0111-0000."), ".ppFfrrrR.");
        assert_eq!(life(PLAIN, "110111"), "ppdppF");
        assert_eq!(life(PLAIN, "111001000"), "ppFrrfrrr");
    }

    #[test]
    fn unknown_holds_and_its_time_does_not_count() {
        assert_eq!(life(PLAIN, "1??11"), "ppppF");
        assert_eq!(life(PLAIN, "111??????"), "ppFffffff");
        assert_eq!(life(PLAIN, "1110???00"), "ppFrrrrrr");
        assert_eq!(life(PLAIN, "1110???000"), "ppFrrrrrrR");
    }

    #[test]
    fn missing_can_clear() {
        let p = Policy { on_missing: OnMissing::Clear, ..PLAIN };
        assert_eq!(life(p, "11?"), "ppd");
        assert_eq!(life(p, "111????"), "ppFrrrR");
    }

    #[test]
    fn quorum_of_ticks() {
        let p = Policy { fire_hold_ns: 0, quorum: Some((3, 5)), ..PLAIN };
        assert_eq!(life(p, "101-1"), "ppppF");
        assert_eq!(life(p, "1-----"), "pppppd");
    }
}
