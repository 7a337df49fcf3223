//! The few system calls that the lab needs, each behind a safe function. Nothing here knows a fault.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

extern "C" fn note_signal(_: libc::c_int) {
    INTERRUPTED.store(true, Ordering::SeqCst);
}

fn check(status: libc::c_int) -> io::Result<()> {
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Turns SIGINT, SIGTERM and SIGHUP into a flag, so that guards run instead of the process ending at once.
pub(crate) fn catch_signals() {
    let handler = note_signal as extern "C" fn(libc::c_int) as libc::sighandler_t;
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: the handler only stores to an atomic, which is async-signal-safe.
        unsafe { libc::signal(signal, handler) };
    }
}

/// Ignores the same signals: for the reaper, which must outlive a Ctrl-C.
pub(crate) fn ignore_signals() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: SIG_IGN is a valid disposition for these signals.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

/// Whether a signal asked the lab to end.
pub(crate) fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

fn clock_ns(clock: libc::clockid_t) -> u64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `t` is a valid place for the result; these clocks always exist on Linux.
    unsafe { libc::clock_gettime(clock, &mut t) };
    (t.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(t.tv_nsec as u64)
}

/// CLOCK_BOOTTIME in nanoseconds.
pub(crate) fn boot_ns() -> u64 {
    clock_ns(libc::CLOCK_BOOTTIME)
}

/// CLOCK_REALTIME in nanoseconds since the Unix epoch.
pub(crate) fn wall_ns() -> u64 {
    clock_ns(libc::CLOCK_REALTIME)
}

/// The CPU time that the calling thread has used, in nanoseconds.
pub(crate) fn thread_cpu_ns() -> u64 {
    clock_ns(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// Whether the effective user is root.
pub(crate) fn is_root() -> bool {
    // SAFETY: no arguments, cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Lets the kernel kill the child as soon as the calling thread ends, however it ends.
pub(crate) fn die_with_parent(command: &mut Command) -> &mut Command {
    let parent = std::process::id();
    let hook = move || {
        // SAFETY: prctl and getppid are async-signal-safe and touch no memory of ours.
        unsafe {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return Err(io::Error::last_os_error());
            }
            // The parent may have died before the call above.
            if libc::getppid() != parent as libc::pid_t {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
        }
        Ok(())
    };
    // SAFETY: the hook makes only async-signal-safe calls and allocates nothing.
    unsafe { command.pre_exec(hook) }
}

/// Detaches from the terminal's session, so that its signals do not reach this process.
pub(crate) fn new_session() {
    // SAFETY: no arguments; failing (already a leader) is harmless.
    unsafe { libc::setsid() };
}

/// Sends a signal to one process.
pub(crate) fn kill(pid: u32, signal: libc::c_int) -> io::Result<()> {
    if pid <= 1 {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: a positive pid addresses one process only.
    check(unsafe { libc::kill(pid as libc::pid_t, signal) })
}

/// Names the calling thread as `ps` and the kernel show it (15 bytes are kept).
pub(crate) fn set_comm(name: &str) {
    let mut bytes = [0u8; 16];
    for (to, from) in bytes.iter_mut().take(15).zip(name.bytes()) {
        *to = from;
    }
    // SAFETY: the buffer is NUL-terminated and lives across the call.
    unsafe { libc::prctl(libc::PR_SET_NAME, bytes.as_ptr()) };
}

/// The CPUs that the calling thread may use.
pub(crate) fn allowed_cpus() -> Result<Vec<usize>> {
    // SAFETY: an all-zero cpu_set_t is a valid empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is a valid place of the size given.
    check(unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) })
        .context("sched_getaffinity")?;
    // SAFETY: every index is below CPU_SETSIZE.
    Ok((0..libc::CPU_SETSIZE as usize).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) }).collect())
}

/// Restricts the calling thread to `cpus`.
pub(crate) fn pin(cpus: &[usize]) -> Result<()> {
    // SAFETY: an all-zero cpu_set_t is a valid empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for &cpu in cpus.iter().filter(|&&cpu| cpu < libc::CPU_SETSIZE as usize) {
        // SAFETY: the index is below CPU_SETSIZE.
        unsafe { libc::CPU_SET(cpu, &mut set) };
    }
    // SAFETY: `set` is a valid set of the size given.
    check(unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set) })
        .with_context(|| format!("cannot pin to CPUs {cpus:?}"))
}

/// Makes the calling thread SCHED_FIFO with `priority`. `burst` is the longest it may run without sleeping: beyond
/// twice that the kernel itself kills it (RLIMIT_RTTIME), whatever our code does.
pub(crate) fn become_fifo(priority: i32, burst: Duration) -> io::Result<()> {
    become_real_time(libc::SCHED_FIFO, priority, burst)
}

/// The same with SCHED_RR.
pub(crate) fn become_rr(priority: i32, burst: Duration) -> io::Result<()> {
    become_real_time(libc::SCHED_RR, priority, burst)
}

fn become_real_time(policy: i32, priority: i32, burst: Duration) -> io::Result<()> {
    let us = (burst.as_micros() as u64).saturating_mul(2);
    let limit = libc::rlimit { rlim_cur: us, rlim_max: us };
    // SAFETY: `limit` is a valid rlimit.
    check(unsafe { libc::setrlimit(libc::RLIMIT_RTTIME, &limit) })?;
    let param = libc::sched_param { sched_priority: priority };
    // SAFETY: `param` is a valid sched_param.
    check(unsafe { libc::sched_setscheduler(0, policy, &param) })
}

/// Sets the calling process's nice value.
pub(crate) fn set_nice(nice: i32) -> io::Result<()> {
    // SAFETY: plain integers.
    check(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) })
}

fn advise(file: &File, from: u64, len: u64, advice: libc::c_int) -> io::Result<()> {
    // SAFETY: a valid descriptor and plain integers.
    match unsafe { libc::posix_fadvise(file.as_raw_fd(), from as i64, len as i64, advice) } {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// Asks the kernel to drop the file's clean pages from the page cache.
pub(crate) fn drop_cache(file: &File) -> io::Result<()> {
    advise(file, 0, 0, libc::POSIX_FADV_DONTNEED)
}

/// Asks the kernel to read a part of the file into the page cache.
pub(crate) fn prefetch(file: &File, from: u64, len: u64) -> io::Result<()> {
    advise(file, from, len, libc::POSIX_FADV_WILLNEED)
}

/// What the file system at `path` can give: its free bytes for root, and whether files there live in memory.
pub(crate) fn file_system(path: &Path) -> Result<(u64, bool)> {
    let c = std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).context("path holds a NUL")?;
    // SAFETY: an all-zero statfs is a valid place for the result.
    let mut st: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: `c` is NUL-terminated and `st` a valid place.
    check(unsafe { libc::statfs(c.as_ptr(), &mut st) }).with_context(|| format!("statfs {path:?}"))?;
    let in_memory = [libc::TMPFS_MAGIC, 0x8584_58f6u32 as _].contains(&st.f_type); // tmpfs, ramfs
    Ok((st.f_bfree.saturating_mul(st.f_bsize as u64), in_memory))
}

/// A new directory `under/whystall-lab-XXXXXX` that only root may enter.
pub(crate) fn make_temp_dir(under: &Path) -> Result<PathBuf> {
    let mut template = under.join("whystall-lab-XXXXXX").into_os_string().into_encoded_bytes();
    template.push(0);
    // SAFETY: `template` is NUL-terminated, ends in XXXXXX and is ours to write.
    if unsafe { libc::mkdtemp(template.as_mut_ptr().cast()) }.is_null() {
        bail!("cannot make a directory under {under:?}: {}", io::Error::last_os_error());
    }
    template.pop();
    Ok(PathBuf::from(String::from_utf8(template).context("temporary path is no UTF-8")?))
}

/// Takes an exclusive lock on the file without waiting; it is held until the file is closed.
pub(crate) fn lock(file: &File) -> io::Result<()> {
    // SAFETY: a valid descriptor.
    check(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) })
}

/// Anonymous memory, whole pages, given back to the kernel on drop: unlike the allocator's, which may keep it.
pub(crate) struct Anon {
    at: *mut u8,
    len: usize,
}

impl Anon {
    /// Maps `mib` MiB without touching them; no huge pages, so that every page is charged on its own.
    pub(crate) fn map(mib: usize) -> io::Result<Anon> {
        let len = mib << 20;
        let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, flags, -1, 0) };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: exactly the mapping made above; a kernel without huge pages refuses, which is fine.
        unsafe { libc::madvise(at, len, libc::MADV_NOHUGEPAGE) };
        Ok(Anon { at: at.cast(), len })
    }

    /// Writes one byte to every page.
    pub(crate) fn touch(&mut self) {
        self.touch_every(4096, || true);
    }

    /// Writes one byte every `step` bytes as long as `on` says so.
    pub(crate) fn touch_every(&mut self, step: usize, on: impl Fn() -> bool) {
        for offset in (0..self.len).step_by(step).take_while(|_| on()) {
            // SAFETY: the offset lies inside the mapping, which is ours and writable.
            unsafe { self.at.add(offset).write_volatile(1) };
        }
    }

    /// Asks for huge pages.
    pub(crate) fn want_huge_pages(&mut self) -> io::Result<()> {
        // SAFETY: exactly the mapping made in `map`.
        check(unsafe { libc::madvise(self.at.cast(), self.len, libc::MADV_HUGEPAGE) })
    }

    /// Gives every second page back to the kernel.
    pub(crate) fn give_back_every_other_page(&mut self) -> io::Result<()> {
        self.give_back(4096, 8192)
    }

    /// Gives all pages back, some at a time: the end of a large process is one long run in the kernel.
    pub(crate) fn give_back_gently(&mut self) -> io::Result<()> {
        self.give_back(4 << 20, 4 << 20)
    }

    /// Gives back the first `len` bytes of every `step`, with a rest now and then: calls without end look like one long
    /// run in the kernel, which is another fault.
    fn give_back(&mut self, len: usize, step: usize) -> io::Result<()> {
        for offset in (0..self.len).step_by(step) {
            if offset.is_multiple_of(16 << 20) {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            // SAFETY: pages inside the mapping, whose content nobody needs.
            check(unsafe {
                libc::madvise(self.at.add(offset).cast(), len.min(self.len - offset), libc::MADV_DONTNEED)
            })?;
        }
        Ok(())
    }
}

impl Drop for Anon {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping made in `map`, unmapped once.
        unsafe { libc::munmap(self.at.cast(), self.len) };
    }
}

/// Tells the kernel that a file is read here and there, so that it reads nothing ahead.
pub(crate) fn read_at_random(file: &File) -> io::Result<()> {
    advise(file, 0, 0, libc::POSIX_FADV_RANDOM)
}

/// Maps `len` bytes of a file with all its pages present, and takes the mapping away again.
pub(crate) fn map_and_unmap(file: &File, len: usize) -> io::Result<()> {
    let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
    // SAFETY: a new mapping at an address of the kernel's choice, which nothing else refers to.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ, flags, file.as_raw_fd(), 0) };
    if at == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the mapping made above, with its length.
    match unsafe { libc::munmap(at, len) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The calling thread's id.
pub(crate) fn thread_id() -> u32 {
    // SAFETY: no arguments, cannot fail.
    unsafe { libc::gettid() as u32 }
}

/// Restricts another task to `cpus`.
pub(crate) fn pin_task(pid: u32, cpus: &[usize]) -> Result<()> {
    // SAFETY: an all-zero cpu_set_t is a valid empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for &cpu in cpus.iter().filter(|&&cpu| cpu < libc::CPU_SETSIZE as usize) {
        // SAFETY: the index is below CPU_SETSIZE.
        unsafe { libc::CPU_SET(cpu, &mut set) };
    }
    // SAFETY: `set` is a valid set of the size given.
    check(unsafe { libc::sched_setaffinity(pid as libc::pid_t, size_of::<libc::cpu_set_t>(), &set) })
        .with_context(|| format!("cannot pin task {pid} to CPUs {cpus:?}"))
}

/// Moves the calling process into network and mount namespaces of its own, whose mounts others never see.
pub(crate) fn own_network() -> io::Result<()> {
    // SAFETY: flags only.
    check(unsafe { libc::unshare(libc::CLONE_NEWNET | libc::CLONE_NEWNS) })?;
    let (none, root) = (c"none", c"/");
    // SAFETY: NUL-terminated strings, and no data.
    check(unsafe {
        libc::mount(
            none.as_ptr(),
            root.as_ptr(),
            std::ptr::null(),
            libc::MS_REC | libc::MS_PRIVATE,
            std::ptr::null(),
        )
    })
}

fn interface(name: &str) -> libc::ifreq {
    // SAFETY: an all-zero ifreq is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().take(15).zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request
}

/// Switches generic receive offload on (ethtool(8) `-K DEV gro on`).
pub(crate) fn set_gro(device: &str) -> io::Result<()> {
    const ETHTOOL_SGRO: u32 = 0x2c;
    set_offload(device, ETHTOOL_SGRO, 1)
}

/// Switches TCP segmentation offload off (ethtool(8) `-K DEV tso off`).
pub(crate) fn unset_tso(device: &str) -> io::Result<()> {
    const ETHTOOL_STSO: u32 = 0x1f;
    set_offload(device, ETHTOOL_STSO, 0)
}

fn set_offload(device: &str, command: u32, value: u32) -> io::Result<()> {
    const SIOCETHTOOL: u64 = 0x8946;
    let socket = std::net::UdpSocket::bind("127.0.0.1:0")?;
    let mut value = [command, value];
    let mut request = interface(device);
    request.ifr_ifru.ifru_data = value.as_mut_ptr().cast();
    // SAFETY: `request` names a device and points to an ethtool_value, as the call wants it.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL as _, &mut request) })
}

/// A socket that sends whole frames to `device`.
pub(crate) fn packet_socket(device: &str) -> Result<std::os::fd::OwnedFd> {
    use std::os::fd::FromRawFd;
    // SAFETY: plain integers.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error()).context("packet socket");
    }
    // SAFETY: the kernel just gave us this descriptor and nobody else has it.
    let socket = unsafe { std::os::fd::OwnedFd::from_raw_fd(fd) };
    let name = std::ffi::CString::new(device).context("device name holds a NUL")?;
    // SAFETY: an all-zero sockaddr_ll is valid; the name is NUL-terminated.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    // SAFETY: a NUL-terminated name.
    address.sll_ifindex = unsafe { libc::if_nametoindex(name.as_ptr()) } as i32;
    let size = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: a valid address of the size given.
    check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size) })
        .with_context(|| format!("cannot bind to {device}"))?;
    Ok(socket)
}

/// Sends one frame or datagram; whether it was taken.
pub(crate) fn send(fd: libc::c_int, bytes: &[u8]) -> bool {
    // SAFETY: a valid slice.
    unsafe { libc::send(fd, bytes.as_ptr().cast(), bytes.len(), libc::MSG_DONTWAIT) > 0 }
}

/// Looks a name up below `dir`; if there is none, the kernel remembers that.
pub(crate) fn look_up(dir: &File, name: &str) {
    let Ok(name) = std::ffi::CString::new(name) else { return };
    // SAFETY: a valid descriptor and a NUL-terminated name.
    unsafe { libc::faccessat(dir.as_raw_fd(), name.as_ptr(), libc::F_OK, 0) };
}

/// Begins and ends to watch a directory (inotify(7)); how long that took.
pub(crate) fn watch_once(dir: &Path) -> Result<Duration> {
    let name = std::ffi::CString::new(dir.as_os_str().as_encoded_bytes()).context("path holds a NUL")?;
    // SAFETY: flags only.
    let fd = unsafe { libc::inotify_init1(libc::IN_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error()).context("inotify");
    }
    let start = std::time::Instant::now();
    // SAFETY: a valid descriptor and a NUL-terminated path.
    let watch = unsafe { libc::inotify_add_watch(fd, name.as_ptr(), libc::IN_ALL_EVENTS) };
    let took = start.elapsed();
    // SAFETY: the descriptor is ours and closed once.
    unsafe { libc::close(fd) };
    if watch < 0 {
        return Err(io::Error::last_os_error()).context("inotify_add_watch");
    }
    Ok(took)
}
