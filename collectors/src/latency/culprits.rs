//! Who ran while a task waited: the runs that a CPU remembers, cut to the wait and summed by process. Pure.

use crate::bpf::wire::Run;

/// A process that ran during a wait.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Culprit {
    pub(super) comm: [u8; 16],
    /// Process id.
    pub(super) pid: u32,
    /// In the hierarchy of the cpu controller.
    pub(super) cgroup: u64,
    pub(super) rt: bool,
    /// The part of the wait in which it ran, 0 to 1.
    pub(super) share: f64,
}

/// Whether a scheduling policy is FIFO, RR or DEADLINE.
pub(super) fn is_rt(policy: u32) -> bool {
    const FIFO: u32 = 1;
    const RR: u32 = 2;
    const DEADLINE: u32 = 6;
    // The child of a task with SCHED_RESET_ON_FORK carries this bit.
    const RESET_ON_FORK: u32 = 0x4000_0000;
    matches!(policy & !RESET_ON_FORK, FIFO | RR | DEADLINE)
}

/// The processes that ran within the `delay` before `clock` (both in the run queue's clock), heaviest first.
pub(super) fn culprits(runs: &[Run], clock: u64, delay: u64) -> Vec<Culprit> {
    let begin = clock.saturating_sub(delay);
    let mut found: Vec<(Culprit, u64)> = Vec::new();
    for run in runs {
        let within = run.end.min(clock).saturating_sub(run.start.max(begin));
        if within == 0 {
            continue;
        }
        match found.iter_mut().find(|(c, _)| c.pid == run.tgid) {
            Some((c, sum)) => {
                *sum = sum.saturating_add(within);
                c.rt |= is_rt(run.policy);
            }
            None => found.push((
                Culprit {
                    comm: run.comm,
                    pid: run.tgid,
                    cgroup: run.cgroup,
                    rt: is_rt(run.policy),
                    share: 0.0,
                },
                within,
            )),
        }
    }
    found.sort_by_key(|(_, sum)| std::cmp::Reverse(*sum));
    found.into_iter().map(|(c, sum)| Culprit { share: (sum as f64 / delay as f64).min(1.0), ..c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(tgid: u32, start: u64, end: u64) -> Run {
        Run { start, end, cgroup: u64::from(tgid), tgid, policy: u32::from(tgid == 7), comm: [0; 16] }
    }

    #[test]
    fn runs_are_cut_to_the_wait_and_summed() {
        // The wait is 100 to 200.
        let runs = [run(1, 0, 90), run(7, 90, 150), run(2, 150, 180), run(7, 180, 195), run(3, 0, 0)];
        let c = culprits(&runs, 200, 100);
        let shares: Vec<_> = c.iter().map(|c| (c.pid, c.share, c.rt)).collect();
        assert_eq!(shares, [(7, 0.65, true), (2, 0.3, false)]);
        assert!(culprits(&runs, 0, 0).is_empty());
    }

    proptest! {
        #[test]
        fn anything_goes(runs in prop::collection::vec((0u32..4, any::<u64>(), any::<u64>()), 0..64), clock: u64, delay in 1u64..) {
            let runs: Vec<Run> = runs.into_iter().map(|(t, a, b)| run(t, a, b)).collect();
            for c in culprits(&runs, clock, delay) {
                prop_assert!(c.share > 0.0 && c.share <= 1.0);
            }
        }
    }
}
