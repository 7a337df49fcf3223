//! The process of an exec collector: started in its own group, ended with its group, never left as a zombie.
//!
//! A program that leaves its group (setsid, a daemon) is out of reach; a service manager ends those by cgroup.

use std::io::{self, Read};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use whystall_event::text;

use super::lines::Lines;
use super::settings::{Config, PATH};
use crate::Unavailable;

/// After a kill so long passes at most until the kernel has ended a process that does not hang in it.
const KILL_GRACE: Duration = Duration::from_secs(2);

/// Why a program is no longer watched.
#[derive(Debug)]
pub(super) enum Ended {
    ByItself,
    TimedOut,
    /// It closed its standard output and stayed.
    Closed,
    Stopped,
    Broken(io::Error),
}

/// A running program.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    pid: libc::pid_t,
    reaped: bool,
    pub(super) stdout: ChildStdout,
    pub(super) stderr: ChildStderr,
}

/// Checks that the program is there and can be run, and that not everyone may replace it.
pub(super) fn check_program(config: &Config) -> Result<(), Unavailable> {
    let shown = config.shown();
    let path = find(config).ok_or_else(|| {
        Unavailable::because(format!("there is no program {shown}"))
            .remedy("install it, or give its full path")
    })?;
    let meta = std::fs::metadata(&path).map_err(|e| Unavailable::because(format!("{shown}: {e}")))?;
    if !meta.is_file() || meta.mode() & 0o111 == 0 {
        return Err(Unavailable::because(format!("{shown} is not executable")).remedy("chmod +x"));
    }
    if meta.mode() & 0o002 != 0 {
        return Err(Unavailable::because(format!("{shown} can be changed by everyone, so it is not run"))
            .remedy("chmod o-w"));
    }
    Ok(())
}

fn find(config: &Config) -> Option<PathBuf> {
    let program = config.command.first()?;
    if program.contains('/') {
        return Some(PathBuf::from(program)).filter(|p| p.exists());
    }
    let path = config.env.iter().find(|(k, _)| k == "PATH").map_or(PATH, |(_, v)| v);
    path.split(':').map(|dir| Path::new(dir).join(program)).find(|p| p.is_file())
}

impl Process {
    /// Starts the program: own process group, no standard input, pipes that do not block us, a small environment, and
    /// killed by the kernel if whystall dies.
    pub(super) fn start(config: &Config) -> io::Result<Process> {
        let program = find(config).ok_or(io::ErrorKind::NotFound)?;
        #[expect(clippy::disallowed_methods, reason = "exec collectors are programs, watched and bounded")]
        let mut command = Command::new(program);
        command
            .args(config.command.get(1..).unwrap_or_default())
            .env_clear()
            .env("PATH", PATH)
            .env("LC_ALL", "C")
            .envs(config.env.iter().map(|(k, v)| (k, v)))
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        // SAFETY: getpid has no preconditions.
        let parent = unsafe { libc::getpid() };
        // SAFETY: the closure runs between fork and exec, allocates nothing and calls async-signal-safe functions only.
        unsafe {
            command.pre_exec(move || {
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                    return Err(io::Error::last_os_error());
                }
                // Dead already: nobody would send the signal.
                if libc::getppid() != parent {
                    return Err(io::Error::from_raw_os_error(libc::ESRCH));
                }
                // What we inherited or a library opened without close-on-exec is none of its business. Kernels before
                // 5.11 refuse; there the flags of each descriptor must do.
                const CLOSE_RANGE_CLOEXEC: libc::c_uint = 4;
                libc::syscall(
                    libc::SYS_close_range,
                    3 as libc::c_uint,
                    libc::c_uint::MAX,
                    CLOSE_RANGE_CLOEXEC,
                );
                Ok(())
            });
        }
        let mut child = command.spawn()?;
        let pid = libc::pid_t::try_from(child.id()).map_err(io::Error::other)?;
        let pipes = child.stdout.take().zip(child.stderr.take());
        let Some((stdout, stderr)) = pipes else {
            let _ = child.kill();
            let _ = child.wait();
            return Err(io::Error::other("it has no pipes"));
        };
        let process = Process { child, pid, reaped: false, stdout, stderr };
        // From here on dropping it ends it.
        set_nonblocking(process.stdout.as_raw_fd())?;
        set_nonblocking(process.stderr.as_raw_fd())?;
        Ok(process)
    }

    pub(super) fn pid(&self) -> libc::pid_t {
        self.pid
    }

    /// Whether it has ended; leaves it to be reaped, so that its pid and group stay its own.
    pub(super) fn exited(&self) -> io::Result<bool> {
        // SAFETY: all zeros is a valid siginfo_t.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        // SAFETY: `info` is valid for writing; the pid is that of our child, which is not reaped yet.
        if unsafe { libc::waitid(libc::P_PID, self.pid as libc::id_t, &mut info, flags) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: after waitid returned 0 this field of the union is set, to 0 if nothing ended.
        Ok(unsafe { info.si_pid() } != 0)
    }

    /// Ends it and its whole group: asks first if there is a grace time, then kills. Hands the process back if it hangs
    /// in the kernel.
    pub(super) fn end(mut self, grace: Option<Duration>) -> (Option<ExitStatus>, Option<Process>) {
        if let Some(grace) = grace {
            self.signal_group(libc::SIGTERM);
            self.wait_exited(grace);
        }
        // Also where it ended by itself: others of its group may go on.
        self.signal_group(libc::SIGKILL);
        if self.wait_exited(KILL_GRACE) {
            self.reaped = true;
            let status = self.child.wait().ok();
            reap_group(self.pid);
            (status, None)
        } else {
            (None, Some(self))
        }
    }

    /// Tries again to end one that [`Process::end`] handed back.
    pub(super) fn reap(mut self) -> Option<Process> {
        if !self.exited().unwrap_or(true) {
            return Some(self);
        }
        self.reaped = true;
        let _ = self.child.wait();
        None
    }

    fn signal_group(&self, signal: libc::c_int) {
        // SAFETY: no memory is involved; the child is not reaped, so that the group is still its own.
        unsafe { libc::kill(-self.pid, signal) };
    }

    fn wait_exited(&self, within: Duration) -> bool {
        let until = Instant::now() + within;
        let mut nap = Duration::from_millis(1);
        loop {
            // An error means that there is no such child any more.
            if self.exited().unwrap_or(true) {
                return true;
            }
            if Instant::now() >= until {
                return false;
            }
            std::thread::sleep(nap);
            nap = (nap * 2).min(Duration::from_millis(50));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.reaped {
            self.signal_group(libc::SIGKILL);
            if self.wait_exited(Duration::from_millis(100)) {
                let _ = self.child.wait();
            }
        }
    }
}

/// Reaps what is left of a killed group where we are its parent now: as the first process of a container, or as a
/// subreaper. Elsewhere there is nothing to reap.
fn reap_group(group: libc::pid_t) {
    const TRIES: u32 = 20;
    for _ in 0..TRIES {
        // SAFETY: no status is asked for; WNOHANG does not block.
        match unsafe { libc::waitpid(-group, std::ptr::null_mut(), libc::WNOHANG) } {
            0 => std::thread::sleep(Duration::from_millis(5)),
            pid if pid > 0 => {}
            _ => return,
        }
    }
}

fn set_nonblocking(fd: libc::c_int) -> io::Result<()> {
    // SAFETY: fcntl on an open descriptor without memory arguments.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    // SAFETY: as above.
    if flags < 0 || unsafe { libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Waits until one of the descriptors can be read or is closed, and says which.
pub(super) fn wait_readable<const N: usize>(
    fds: [Option<BorrowedFd<'_>>; N],
    timeout: Duration,
) -> io::Result<[bool; N]> {
    let mut polled = fds.map(|fd| libc::pollfd {
        // poll ignores negative ones.
        fd: fd.map_or(-1, |fd| fd.as_raw_fd()),
        events: libc::POLLIN,
        revents: 0,
    });
    // Rounded up, so that the time is over when it returns.
    let ms = timeout.as_nanos().div_ceil(1_000_000).min(1000) as libc::c_int;
    // SAFETY: `polled` holds N valid entries.
    if unsafe { libc::poll(polled.as_mut_ptr(), N as libc::nfds_t, ms) } < 0 {
        let e = io::Error::last_os_error();
        return if e.kind() == io::ErrorKind::Interrupted { Ok([false; N]) } else { Err(e) };
    }
    Ok(polled.map(|p| p.revents != 0))
}

/// Reads once into `lines`; true at the end of the output.
pub(super) fn read(from: &mut impl Read, chunk: &mut [u8], lines: &mut Lines) -> bool {
    match from.read(chunk) {
        Ok(0) => true,
        Ok(n) => {
            lines.push(chunk.get(..n).unwrap_or_default());
            false
        }
        Err(e) => !matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted),
    }
}

impl Config {
    /// The program's name for people.
    pub(super) fn shown(&self) -> String {
        format!("`{}`", text::escape(self.command.first().map_or("", String::as_str)))
    }
}
