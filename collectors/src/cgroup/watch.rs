//! Exact notice of directories that are created and removed below watched ones, with their names, through inotify.
//!
//! Tested on cgroupfs: each mkdir and rmdir of a child is reported. Two things differ from other file systems: a removed
//! directory's own watch stays until it is removed by hand, and limits (`fs.inotify.max_user_watches`) are met sooner
//! because each group needs its own watch. inotify(7).

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// What happened to a child directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Created,
    Removed,
}

/// An inotify instance.
#[derive(Debug)]
pub(crate) struct Watch {
    inotify: File,
    buf: Vec<u8>,
}

impl Watch {
    pub(crate) fn new() -> io::Result<Watch> {
        // SAFETY: no pointers are involved.
        let fd = unsafe { libc::inotify_init1(libc::IN_NONBLOCK | libc::IN_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: inotify_init1 just returned this descriptor and nobody else has it.
        let inotify = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
        Ok(Watch { inotify, buf: Vec::new() })
    }

    /// Watches the children of a directory; the number names it in the events.
    pub(crate) fn add(&mut self, dir: &Path) -> io::Result<i32> {
        let path = std::ffi::CString::new(dir.as_os_str().as_bytes())?;
        let mask = libc::IN_CREATE
            | libc::IN_DELETE
            | libc::IN_MOVED_FROM
            | libc::IN_MOVED_TO
            | libc::IN_ONLYDIR
            | libc::IN_DONT_FOLLOW;
        // SAFETY: `path` is a C string for the length of the call.
        let wd = unsafe { libc::inotify_add_watch(self.inotify.as_raw_fd(), path.as_ptr(), mask) };
        if wd < 0 { Err(io::Error::last_os_error()) } else { Ok(wd) }
    }

    /// Ends a watch. One that the kernel ended already is no failure.
    pub(crate) fn remove(&mut self, wd: i32) {
        // SAFETY: no pointers are involved.
        unsafe { libc::inotify_rm_watch(self.inotify.as_raw_fd(), wd) };
    }

    /// Hands over what happened since the last call; returns false if the kernel's queue overflowed and some is lost.
    pub(crate) fn drain(&mut self, each: &mut dyn FnMut(i32, Change, &[u8])) -> bool {
        let mut buf = std::mem::take(&mut self.buf);
        buf.resize(64 << 10, 0);
        let mut complete = true;
        // The queue holds fs.inotify.max_queued_events (16,384) at most; the bound holds against a writer that never
        // stops.
        for _ in 0..64 {
            match self.inotify.read(&mut buf) {
                Ok(n) if n > 0 => complete &= events(buf.get(..n).unwrap_or_default(), each),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                _ => break,
            }
        }
        buf.clear();
        buf.shrink_to(0);
        self.buf = buf;
        complete
    }
}

/// Splits what an inotify descriptor returned: struct inotify_event is watch (4), mask (4), cookie (4), name length (4)
/// and the name, padded with zeros. Returns false at an overflow.
fn events(mut bytes: &[u8], each: &mut dyn FnMut(i32, Change, &[u8])) -> bool {
    let word =
        |b: &[u8], at: usize| b.get(at..at + 4).and_then(|w| w.try_into().ok()).map(u32::from_ne_bytes);
    let mut complete = true;
    while let (Some(wd), Some(mask), Some(len)) = (word(bytes, 0), word(bytes, 4), word(bytes, 12)) {
        let end = 16usize.saturating_add(len as usize).min(bytes.len());
        let name = bytes.get(16..end).unwrap_or_default();
        let name = CStr::from_bytes_until_nul(name).map_or(name, CStr::to_bytes);
        if mask & libc::IN_Q_OVERFLOW != 0 {
            complete = false;
        } else if mask & libc::IN_ISDIR != 0 {
            if mask & (libc::IN_CREATE | libc::IN_MOVED_TO) != 0 {
                each(wd as i32, Change::Created, name);
            } else if mask & (libc::IN_DELETE | libc::IN_MOVED_FROM) != 0 {
                each(wd as i32, Change::Removed, name);
            }
        }
        bytes = bytes.get(end..).unwrap_or_default();
    }
    complete
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn children_are_noticed_with_their_names() {
        let dir = tempfile::tempdir().unwrap();
        let mut watch = Watch::new().unwrap();
        let wd = watch.add(dir.path()).unwrap();
        for name in ["a", "b\n", "c"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        std::fs::write(dir.path().join("file"), "").unwrap();
        std::fs::remove_dir(dir.path().join("b\n")).unwrap();
        let mut seen = Vec::new();
        assert!(watch.drain(&mut |w, change, name| seen.push((w == wd, change, name.to_vec()))));
        use Change::{Created, Removed};
        assert_eq!(
            seen,
            [
                (true, Created, b"a".to_vec()),
                (true, Created, b"b\n".to_vec()),
                (true, Created, b"c".to_vec()),
                (true, Removed, b"b\n".to_vec()),
            ]
        );
        watch.remove(wd);
        std::fs::create_dir(dir.path().join("d")).unwrap();
        seen.clear();
        watch.drain(&mut |w, change, name| seen.push((w == wd, change, name.to_vec())));
        assert_eq!(seen, []);
    }

    #[test]
    fn an_overflow_is_told() {
        let mut bytes = Vec::new();
        for word in [u32::MAX, libc::IN_Q_OVERFLOW, 0, 0] {
            bytes.extend_from_slice(&word.to_ne_bytes());
        }
        assert!(!events(&bytes, &mut |_, _, _| {}));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            events(&bytes, &mut |_, _, _| {});
        }
    }
}
