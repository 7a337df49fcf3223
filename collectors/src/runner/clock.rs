//! The clocks, read; and what their offsets tell: suspend and steps of the wall clock.
//!
//! The only place of this crate that asks the kernel for the time. Judging readings (`Drift`) is pure.

use whystall_event::{MS, Stamp};

/// The time now: CLOCK_BOOTTIME and CLOCK_REALTIME.
pub fn now() -> Stamp {
    Stamp { boot_ns: read(libc::CLOCK_BOOTTIME), wall_ns: read(libc::CLOCK_REALTIME) }
}

/// What to add to a CLOCK_MONOTONIC nanosecond to get CLOCK_BOOTTIME: the time spent suspended since boot.
pub fn boot_minus_monotonic() -> u64 {
    let reading = Reading::take();
    reading.stamp.boot_ns.saturating_sub(reading.mono_ns)
}

/// CPU time that this thread has used, nanoseconds (CLOCK_THREAD_CPUTIME_ID).
pub(super) fn thread_cpu_ns() -> u64 {
    read(libc::CLOCK_THREAD_CPUTIME_ID)
}

fn read(id: libc::clockid_t) -> u64 {
    let mut ts = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `ts` is a valid timespec that the call fills; these clock ids exist on every supported kernel.
    if unsafe { libc::clock_gettime(id, &mut ts) } != 0 {
        return 0;
    }
    u64::try_from(ts.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(ts.tv_nsec).unwrap_or(0)
}

/// The three clocks at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reading {
    pub(super) stamp: Stamp,
    pub(super) mono_ns: u64,
    /// The clocks were read within [`TOGETHER_NS`] of each other, so that their differences mean something.
    pub(super) together: bool,
}

/// Clocks are read one after the other; being preempted in between looks like a jump. Readings further apart than this
/// are not compared.
const TOGETHER_NS: u64 = MS;

impl Reading {
    /// Reads the clocks, again if the thread was interrupted in between.
    pub(super) fn take() -> Reading {
        let mut reading = Reading::once();
        for _ in 0..4 {
            if reading.together {
                break;
            }
            reading = Reading::once();
        }
        reading
    }

    fn once() -> Reading {
        let before = read(libc::CLOCK_MONOTONIC);
        let stamp = now();
        let after = read(libc::CLOCK_MONOTONIC);
        Reading { stamp, mono_ns: before, together: after.saturating_sub(before) <= TOGETHER_NS }
    }
}

/// What happened to the clocks between two readings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Jump {
    /// Time the machine was suspended, nanoseconds.
    pub(super) suspended_ns: u64,
    /// How far the wall clock was set forward (or back, negative), nanoseconds; slewing is no step.
    pub(super) clock_step_ns: i64,
}

/// Compares successive readings.
#[derive(Debug, Default)]
pub(super) struct Drift {
    last: Option<(i128, i128)>,
}

impl Drift {
    /// A suspend shorter than this is not told from the distance of two clock readings.
    const SUSPEND_NS: i128 = 10 * MS as i128;
    /// A wall clock step smaller than this breaks nothing.
    const STEP_NS: i128 = 2_000 * MS as i128;

    /// Takes the next reading and says what happened since the one before.
    pub(super) fn observe(&mut self, reading: Reading) -> Jump {
        if !reading.together {
            return Jump::default();
        }
        let boot = i128::from(reading.stamp.boot_ns);
        let suspended = boot - i128::from(reading.mono_ns);
        let wall = i128::from(reading.stamp.wall_ns) - boot;
        let Some((last_suspended, last_wall)) = self.last.replace((suspended, wall)) else {
            return Jump::default();
        };
        let (slept, stepped) = (suspended - last_suspended, wall - last_wall);
        Jump {
            suspended_ns: if slept > Self::SUSPEND_NS { u64::try_from(slept).unwrap_or(u64::MAX) } else { 0 },
            clock_step_ns: if stepped.abs() > Self::STEP_NS {
                i64::try_from(stepped).unwrap_or(if stepped > 0 { i64::MAX } else { i64::MIN })
            } else {
                0
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use whystall_event::SEC;

    fn reading(boot: u64, mono: u64, wall: u64) -> Reading {
        Reading { stamp: Stamp { boot_ns: boot, wall_ns: wall }, mono_ns: mono, together: true }
    }

    #[test]
    fn suspend_and_step_are_told_apart() {
        let mut d = Drift::default();
        assert_eq!(d.observe(reading(10 * SEC, 10 * SEC, 1000 * SEC)), Jump::default());
        // An hour's suspend moves boot and wall time alike.
        let jump = d.observe(reading(3611 * SEC, 11 * SEC, 4601 * SEC));
        assert_eq!(jump, Jump { suspended_ns: 3600 * SEC, clock_step_ns: 0 });
        // The wall clock is set back by 30 s, then slewed by 100 ms.
        let jump = d.observe(reading(3612 * SEC, 12 * SEC, 4572 * SEC));
        assert_eq!(jump, Jump { suspended_ns: 0, clock_step_ns: -30 * SEC as i64 });
        assert_eq!(d.observe(reading(3613 * SEC, 13 * SEC, 4573 * SEC + 100 * MS)), Jump::default());
    }

    #[test]
    fn readings_torn_apart_are_not_compared() {
        let mut d = Drift::default();
        d.observe(reading(10 * SEC, 10 * SEC, 10 * SEC));
        let torn = Reading { together: false, ..reading(15 * SEC, 11 * SEC, 60 * SEC) };
        assert_eq!(d.observe(torn), Jump::default());
        assert_eq!(d.observe(reading(12 * SEC, 12 * SEC, 12 * SEC)), Jump::default());
    }

    #[test]
    fn the_kernel_answers() {
        let a = now();
        assert!(a.boot_ns > 0 && a.wall_ns > 1_600_000_000 * SEC);
        assert!(now().boot_ns >= a.boot_ns);
    }
}
