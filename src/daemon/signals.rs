//! What the main thread waits for: signals, the end of a time, a thread that ended, a reader of standard output that went
//! away. One `poll` for all, so that an idle daemon sleeps.

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::low_level::pipe;

/// Why [`Signals::wait`] returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wake {
    /// SIGTERM or SIGINT.
    End,
    /// SIGHUP.
    Reload,
    /// Nobody reads standard output any more.
    Closed,
    /// [`Waker::wake`] was called.
    Woken,
    /// The time is over.
    Timeout,
}

/// Wakes the main thread. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Waker(Arc<UnixStream>);

impl Waker {
    /// Makes [`Signals::wait`] return [`Wake::Woken`].
    pub fn wake(&self) {
        // A full pipe wakes as well.
        let _ = (&*self.0).write(&[1]);
    }
}

/// Handlers of signals; they stay for the life of the process.
#[derive(Debug)]
pub struct Signals {
    end: UnixStream,
    reload: UnixStream,
    woken: UnixStream,
    waker: Waker,
    stdout: bool,
}

impl Signals {
    /// Takes over SIGTERM, SIGINT and SIGHUP. With `watch_stdout` a closed pipe on standard output wakes, too.
    ///
    /// # Errors
    /// If the system refuses a pipe or a handler.
    pub fn new(watch_stdout: bool) -> io::Result<Signals> {
        let (end, end_in) = UnixStream::pair()?;
        let (reload, reload_in) = UnixStream::pair()?;
        let (woken, woken_in) = UnixStream::pair()?;
        for s in [&end, &reload, &woken, &woken_in] {
            s.set_nonblocking(true)?;
        }
        pipe::register(SIGTERM, end_in.try_clone()?)?;
        pipe::register(SIGINT, end_in)?;
        pipe::register(SIGHUP, reload_in)?;
        Ok(Signals { end, reload, woken, waker: Waker(Arc::new(woken_in)), stdout: watch_stdout })
    }

    /// A handle for other threads.
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Waits for what comes first, until `until` if that is given.
    ///
    /// # Errors
    /// If the system cannot wait.
    pub fn wait(&mut self, until: Option<Instant>) -> io::Result<Wake> {
        loop {
            let left = until.map(|t| t.saturating_duration_since(Instant::now()));
            let stdout = if self.stdout { io::stdout().as_raw_fd() } else { -1 };
            let fds = [
                (self.end.as_raw_fd(), true),
                (self.reload.as_raw_fd(), true),
                (self.woken.as_raw_fd(), true),
                (stdout, false),
            ];
            let ready = poll(fds, left)?;
            // The end goes before everything else.
            if ready[0] {
                drain(&mut self.end);
                return Ok(Wake::End);
            }
            if ready[1] {
                drain(&mut self.reload);
                return Ok(Wake::Reload);
            }
            if ready[2] {
                drain(&mut self.woken);
                return Ok(Wake::Woken);
            }
            if ready[3] {
                self.stdout = false;
                return Ok(Wake::Closed);
            }
            if left.is_some_and(|l| l.is_zero()) {
                return Ok(Wake::Timeout);
            }
        }
    }
}

fn drain(s: &mut UnixStream) {
    let mut bytes = [0; 64];
    while matches!(s.read(&mut bytes), Ok(n) if n == bytes.len()) {}
}

/// Which of four descriptors are readable, or broken if they are not to be read; negative ones never are.
fn poll(fds: [(RawFd, bool); 4], timeout: Option<Duration>) -> io::Result<[bool; 4]> {
    let mut list =
        fds.map(|(fd, read)| libc::pollfd { fd, events: if read { libc::POLLIN } else { 0 }, revents: 0 });
    // Rounded up, so that the time is over when poll says so; a day at most, then the caller asks again.
    let ms = timeout
        .map_or(-1, |t| i32::try_from(t.as_micros().div_ceil(1000)).unwrap_or(i32::MAX).min(86_400_000));
    // SAFETY: `list` is a valid array of that length for the whole call.
    let n = unsafe { libc::poll(list.as_mut_ptr(), list.len() as libc::nfds_t, ms) };
    if n < 0 {
        let e = io::Error::last_os_error();
        return if e.kind() == io::ErrorKind::Interrupted { Ok([false; 4]) } else { Err(e) };
    }
    Ok(list.map(|p| p.revents != 0 && p.revents & libc::POLLNVAL == 0))
}

/// Whether standard output is a pipe or a socket, whose other end can go away.
pub fn stdout_can_close() -> bool {
    use std::os::unix::fs::FileTypeExt;
    let kind = std::fs::metadata("/proc/self/fd/1").map(|m| m.file_type());
    kind.is_ok_and(|k| k.is_fifo() || k.is_socket())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wakes_and_times_out() {
        let mut signals = Signals::new(false).unwrap();
        assert_eq!(signals.wait(Some(Instant::now())).unwrap(), Wake::Timeout);
        signals.waker().wake();
        assert_eq!(signals.wait(None).unwrap(), Wake::Woken);
        signal_hook::low_level::raise(SIGHUP).unwrap();
        assert_eq!(signals.wait(None).unwrap(), Wake::Reload);
        signal_hook::low_level::raise(SIGTERM).unwrap();
        assert_eq!(signals.wait(None).unwrap(), Wake::End);
        assert_eq!(signals.wait(Some(Instant::now())).unwrap(), Wake::Timeout);
    }
}
