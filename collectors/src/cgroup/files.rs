//! System calls for reading below a directory file descriptor, and file descriptors that stay open.
//!
//! A kept descriptor costs one `pread` a reading; opening a cgroup file anew costs six to ten times as much.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// A file that a collector reads in every directory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FileSpec {
    pub(crate) name: &'static CStr,
    /// Whether it may stay open between passes.
    pub(crate) keep: bool,
}

/// A file to be kept open.
pub(crate) const fn hot(name: &'static CStr) -> FileSpec {
    FileSpec { name, keep: true }
}

/// A file that is read rarely and not kept open.
pub(crate) const fn rare(name: &'static CStr) -> FileSpec {
    FileSpec { name, keep: false }
}

/// The most that is read from one file; `memory.stat` has 2 KiB, `memory.numa_stat` grows with the nodes.
const MOST: usize = 1 << 20;

/// A file that may stay open.
#[derive(Debug, Default)]
pub(crate) enum Kept {
    /// Not opened, or closed to save descriptors.
    #[default]
    Closed,
    /// Open for the next reading.
    Open(File),
    /// It did not exist; this many readings are skipped before it is looked for again.
    Absent(u8),
}

/// Opens a directory below another.
pub(crate) fn open_dir(at: BorrowedFd<'_>, name: &CStr) -> io::Result<File> {
    openat(at, name, libc::O_DIRECTORY)
}

/// Opens a file below a directory for reading.
pub(crate) fn open_file(at: BorrowedFd<'_>, name: &CStr) -> io::Result<File> {
    openat(at, name, 0)
}

fn openat(at: BorrowedFd<'_>, name: &CStr, flags: libc::c_int) -> io::Result<File> {
    let flags = flags | libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NOFOLLOW | libc::O_NONBLOCK;
    // SAFETY: `at` is an open descriptor and `name` a C string, both for the length of the call.
    let fd = unsafe { libc::openat(at.as_raw_fd(), name.as_ptr(), flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: openat just returned this descriptor and nobody else has it.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// Whether `name` exists below a directory.
pub(crate) fn exists(at: BorrowedFd<'_>, name: &CStr) -> bool {
    // SAFETY: as in `openat`.
    unsafe { libc::faccessat(at.as_raw_fd(), name.as_ptr(), libc::F_OK, 0) == 0 }
}

/// Replaces `buf` by the whole content of a file, read from its beginning in one `pread` where it fits. The kernel
/// renders such files at once, so a short read is the whole file.
pub(crate) fn read_whole(file: &File, buf: &mut Vec<u8>) -> io::Result<()> {
    buf.clear();
    buf.reserve(4096);
    loop {
        let room = buf.capacity();
        // SAFETY: the buffer has `room` bytes, empty as it is; the descriptor is open as long as `file` lives.
        let n = unsafe { libc::pread(file.as_raw_fd(), buf.as_mut_ptr().cast(), room, 0) };
        let Ok(n) = usize::try_from(n) else {
            let e = io::Error::last_os_error();
            if e.kind() == io::ErrorKind::Interrupted {
                continue;
            }
            return Err(e);
        };
        if n < room || room >= MOST {
            // SAFETY: the kernel has written the first `n` bytes.
            unsafe { buf.set_len(n) };
            return Ok(());
        }
        buf.reserve(room * 2);
    }
}

/// The link count of a directory below another.
pub(crate) fn nlink(at: BorrowedFd<'_>, name: &CStr) -> io::Result<u64> {
    let mut stat = std::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: as in `openat`; the struct is valid for writing.
    let done =
        unsafe { libc::fstatat(at.as_raw_fd(), name.as_ptr(), stat.as_mut_ptr(), libc::AT_SYMLINK_NOFOLLOW) };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: fstatat succeeded and filled the struct.
    #[allow(clippy::useless_conversion, reason = "the type differs between architectures")]
    Ok(u64::from(unsafe { stat.assume_init() }.st_nlink))
}

/// One directory below another, as the kernel lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry<'a> {
    pub(crate) ino: u64,
    pub(crate) name: &'a CStr,
    /// The kernel's file type: `libc::DT_DIR`, `libc::DT_UNKNOWN` or another.
    pub(crate) kind: u8,
}

/// Calls `each` for every entry of a directory except `.` and `..`.
pub(crate) fn list_dir(dir: BorrowedFd<'_>, each: &mut dyn FnMut(Entry<'_>)) -> io::Result<()> {
    // Its own description, so that the offset of a kept directory does not matter.
    let dir = open_dir(dir, c".")?;
    let mut buf = vec![0u8; 32 << 10];
    loop {
        // SAFETY: the buffer is writable for its whole length.
        let n = unsafe {
            libc::syscall(libc::SYS_getdents64, dir.as_raw_fd(), buf.as_mut_ptr(), buf.len() as libc::c_uint)
        };
        match usize::try_from(n) {
            Err(_) => return Err(io::Error::last_os_error()),
            Ok(0) => return Ok(()),
            Ok(n) => entries(buf.get(..n).unwrap_or_default(), each),
        }
    }
}

/// Splits what getdents64(2) returned: struct linux_dirent64 is inode (8), offset (8), record length (2), type (1), name.
fn entries(mut records: &[u8], each: &mut dyn FnMut(Entry<'_>)) {
    while let Some((ino, rest)) = records.split_first_chunk::<8>() {
        let (Some(len), Some(kind)) = (rest.get(8..10), rest.get(10)) else {
            return;
        };
        let len = usize::from(u16::from_ne_bytes([len[0], len[1]]));
        let Some(name) = records.get(19..len).and_then(|n| CStr::from_bytes_until_nul(n).ok()) else {
            return;
        };
        if !matches!(name.to_bytes(), b"." | b"..") {
            each(Entry { ino: u64::from_ne_bytes(*ino), name, kind: *kind });
        }
        records = &records[len..];
    }
}

/// Raises the soft limit of open files to the hard limit, for kept descriptors; returns the limit that holds then.
/// A limit that cannot be raised is no failure: fewer files stay open.
pub(crate) fn raise_nofile() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the struct is valid for writing.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } != 0 {
        return 256;
    }
    if limit.rlim_cur < limit.rlim_max {
        let raised = libc::rlimit { rlim_cur: limit.rlim_max, rlim_max: limit.rlim_max };
        // SAFETY: the struct is valid for reading.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raised) } == 0 {
            return limit.rlim_max;
        }
    }
    limit.rlim_cur
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::fd::AsFd;

    #[test]
    fn lists_and_reads() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("a b\n")).unwrap();
        let big: String = (0..5000).map(|i| format!("{i}\n")).collect();
        std::fs::write(dir.path().join("f"), &big).unwrap();
        let at = File::open(dir.path()).unwrap();
        let mut names = Vec::new();
        for _ in 0..2 {
            names.clear();
            list_dir(at.as_fd(), &mut |e| names.push((e.name.to_bytes().to_vec(), e.ino > 0))).unwrap();
        }
        names.sort();
        assert_eq!(names, [(b"a b\n".to_vec(), true), (b"f".to_vec(), true)]);
        let mut buf = Vec::new();
        let file = open_file(at.as_fd(), c"f").unwrap();
        for _ in 0..2 {
            read_whole(&file, &mut buf).unwrap();
            assert_eq!(buf, big.as_bytes());
        }
        assert!(exists(at.as_fd(), c"f") && !exists(at.as_fd(), c"g"));
        assert!(open_dir(at.as_fd(), c"f").is_err());
    }

    #[test]
    fn links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc", dir.path().join("l")).unwrap();
        let at = File::open(dir.path()).unwrap();
        assert!(open_dir(at.as_fd(), c"l").is_err());
    }

    proptest! {
        #[test]
        fn any_records_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            entries(&bytes, &mut |_| {});
        }
    }
}
