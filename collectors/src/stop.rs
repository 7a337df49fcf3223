//! How streaming collectors are asked to end, also while they wait for a descriptor.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Asks a streaming collector to end. Clones ask for the same end.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<Flag>);

#[derive(Debug)]
struct Flag {
    set: AtomicBool,
    /// Readable once it is set; none if the process has no descriptor to spare.
    readable: Option<OwnedFd>,
}

impl Default for Flag {
    fn default() -> Flag {
        // SAFETY: no pointers are involved.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        // SAFETY: the descriptor was just made and nobody else owns it.
        let readable = (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) });
        Flag { set: AtomicBool::new(false), readable }
    }
}

/// Without an eventfd, a wait is never longer than this.
const BLIND: Duration = Duration::from_millis(200);

impl Stop {
    /// Asks for the end.
    pub fn set(&self) {
        self.0.set.store(true, Ordering::Release);
        if let Some(fd) = &self.0.readable {
            let one = 1u64.to_ne_bytes();
            // It can only fail by being full, and then it is readable already.
            // SAFETY: `one` is valid for its length, the descriptor is open as long as `self` lives.
            let _ = unsafe { libc::write(fd.as_raw_fd(), one.as_ptr().cast(), one.len()) };
        }
    }

    /// Whether the end was asked for.
    pub fn is_set(&self) -> bool {
        self.0.set.load(Ordering::Acquire)
    }

    /// Waits, for `longest` at most, until one of `fds` (which stay open meanwhile) is readable or the end is asked for;
    /// true if one of `fds` is readable. An early return without a reason is possible.
    ///
    /// # Errors
    ///
    /// Those of poll(2), but for an interruption.
    pub fn poll(&self, fds: impl IntoIterator<Item = RawFd>, longest: Duration) -> io::Result<bool> {
        let own = self.0.readable.as_ref().map(AsRawFd::as_raw_fd);
        let longest = if own.is_some() { longest } else { longest.min(BLIND) };
        let mut polled: Vec<libc::pollfd> = own
            .into_iter()
            .chain(fds)
            .map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 })
            .collect();
        let ms = longest.as_nanos().div_ceil(1_000_000).try_into().unwrap_or(libc::c_int::MAX);
        // SAFETY: `polled` is a valid array of its length for the time of the call.
        if unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, ms) } < 0 {
            let e = io::Error::last_os_error();
            return if e.kind() == io::ErrorKind::Interrupted { Ok(false) } else { Err(e) };
        }
        Ok(polled.iter().skip(usize::from(own.is_some())).any(|p| p.revents != 0))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn a_wait_ends_by_a_descriptor_or_by_the_end() {
        let stop = Stop::default();
        let (reader, mut writer) = io::pipe().unwrap();
        assert!(!stop.poll([reader.as_raw_fd()], Duration::from_millis(1)).unwrap());
        writer.write_all(b"x").unwrap();
        assert!(stop.poll([reader.as_raw_fd()], Duration::from_secs(3600)).unwrap());
        let other = stop.clone();
        let thread = std::thread::spawn(move || other.set());
        while !stop.is_set() {
            assert!(!stop.poll([], Duration::from_secs(3600)).unwrap());
        }
        thread.join().unwrap();
        assert!(!stop.poll([], Duration::from_secs(3600)).unwrap(), "it stays so");
    }
}
