//! The orderly end of a run: ask every collector, wait for a bounded time, name those that do not come back.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Runner, Shared};

/// Ends a run from another thread. Cheap to clone.
#[derive(Clone)]
pub struct Stopper(pub(super) Arc<Shared>);

impl fmt::Debug for Stopper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stopper")
    }
}

impl Stopper {
    /// Asks for the end and returns at once; [`Runner::next`] then hands out what is queued and
    /// [`super::Event::Stopped`].
    pub fn stop(&self) {
        self.0.stop();
    }
}

impl Shared {
    fn stop(&self) {
        self.stop.set();
        self.lock().stopping = true;
        self.ready.notify_all();
        self.work.notify_all();
    }
}

impl Runner {
    /// Ends the run: waits at most `within` for all collectors and returns the names of those that did not end. Their
    /// threads are left to themselves.
    pub fn stop(self, within: Duration) -> Vec<String> {
        self.shared.stop();
        let until = Instant::now() + within;
        let mut threads = std::mem::take(&mut self.shared.lock().threads);
        loop {
            let (done, running): (Vec<_>, Vec<_>) = threads.into_iter().partition(|t| t.is_finished());
            for thread in done {
                // A panic of a collector is caught inside the thread; nothing else can be told here.
                let _ = thread.join();
            }
            threads = running;
            if threads.is_empty() || Instant::now() >= until {
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let st = self.shared.lock();
        let stuck = st.schedule.running().filter_map(|p| st.polled.get(p)).map(|p| p.status);
        let polled = stuck.filter_map(|s| st.statuses.get(s)).map(|s| s.seen.name.to_string());
        // A worker's thread carries no collector's name.
        let streaming = threads.iter().filter_map(|t| t.thread().name()).filter(|n| *n != super::WORKER);
        polled.chain(streaming.map(str::to_string)).collect()
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.shared.stop();
    }
}
