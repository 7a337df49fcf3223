//! What systemd is told: ready, reloading, stopping, alive. Each does nothing where no service manager listens.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use whystall_collectors::runner::clock;

/// The service is up, or up again after a reload.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// A reload begins; [`ready`] must follow, whatever comes of it.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
}

/// The end begins.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// One line for `systemctl status`.
pub fn status(line: &str) {
    tell(&[NotifyState::Status(line)]);
}

/// Who does not listen cannot be told that it does not.
fn tell(what: &[NotifyState<'_>]) {
    let _ = sd_notify::notify(what);
}

/// The engine's sign of life.
#[derive(Debug, Clone, Default)]
pub struct Beat(Arc<AtomicU64>);

impl Beat {
    /// The engine ticked.
    pub fn beat(&self) {
        self.0.store(clock::now().boot_ns, Ordering::Relaxed);
    }

    fn age(&self) -> Duration {
        Duration::from_nanos(clock::now().boot_ns.saturating_sub(self.0.load(Ordering::Relaxed)))
    }
}

/// Tells the service manager's watchdog that the engine ticks. While it does not, nothing is told, and the manager
/// starts the service again.
#[derive(Debug)]
pub struct Watchdog {
    beat: Beat,
    every: Duration,
    patience: Duration,
    next: Instant,
}

impl Watchdog {
    /// A watchdog if the service manager wants one (`WatchdogSec=`); `interval` is the time between ticks.
    pub fn new(beat: Beat, interval: Duration) -> Option<Watchdog> {
        let limit = sd_notify::watchdog_enabled()?;
        beat.beat();
        Some(Watchdog { beat, every: limit / 3, patience: limit.max(interval * 3), next: Instant::now() })
    }

    /// Tells if it is time and the engine ticks; returns when to come back.
    pub fn poll(&mut self, now: Instant) -> Instant {
        if now >= self.next {
            self.next = now + self.every;
            if self.beat.age() < self.patience {
                tell(&[NotifyState::Watchdog]);
            }
        }
        self.next
    }
}
