//! The reader of the hot paths: a file stays open and each pass reads it again from its start with `pread`, into a
//! buffer that many files share. In steady state nothing is allocated and nothing is opened.
//!
//! procfs, sysfs and cgroupfs produce a file's content anew when it is read from offset 0. A descriptor that has outlived
//! its object (a removed cgroup, a device that went and came back) reports that as an error; the file is then opened again
//! once. This module knows nothing of what it reads; parsers are handed in.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::scan::Malformed;
use crate::{CollectError, Unavailable};

/// The most bytes that a file may have unless [`KeptFile::limit`] says otherwise.
pub const DEFAULT_LIMIT: usize = 4 << 20;

/// What a fresh buffer holds; most files of procfs fit.
const FIRST_SIZE: usize = 16 << 10;

/// Where files are read into. One can serve any number of [`KeptFile`]s, one after the other; it grows to the largest.
#[derive(Debug, Default)]
pub struct Buf {
    /// Always initialised over its whole length, so that a pass need not clear it.
    bytes: Vec<u8>,
}

impl Buf {
    /// An empty buffer; the first read makes room.
    pub fn new() -> Buf {
        Buf::default()
    }
}

/// A file that is read again and again.
#[derive(Debug)]
pub struct KeptFile {
    path: PathBuf,
    file: Option<File>,
    limit: usize,
}

impl KeptFile {
    /// Opens `path` for reading.
    pub fn open(path: impl Into<PathBuf>) -> Result<KeptFile, CollectError> {
        let mut kept = KeptFile::lazy(path);
        kept.file = Some(File::open(&kept.path).map_err(|e| CollectError::read(&kept.path, e))?);
        Ok(kept)
    }

    /// Opens `path` with the first read, and again with each read after a failed one.
    pub fn lazy(path: impl Into<PathBuf>) -> KeptFile {
        KeptFile { path: path.into(), file: None, limit: DEFAULT_LIMIT }
    }

    /// Accepts files of at most `bytes` bytes. A longer one is an error, never a part.
    #[must_use]
    pub fn limit(mut self, bytes: usize) -> KeptFile {
        self.limit = bytes;
        self
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Closes the descriptor; the next read opens the file again.
    pub fn close(&mut self) {
        self.file = None;
    }

    /// The file's whole content now.
    ///
    /// A file that a seq_file of the kernel generates in several parts (more than a page) is consistent within a part
    /// only, as for every reader of it.
    pub fn read<'b>(&mut self, buf: &'b mut Buf) -> Result<&'b [u8], CollectError> {
        let kept = self.file.is_some();
        let len = match self.try_read(buf) {
            Err(e) if kept && is_stale(&e) => {
                self.file = None;
                self.try_read(buf)
            }
            result => result,
        };
        match len {
            Ok(len) => Ok(buf.bytes.get(..len).unwrap_or_default()),
            Err(e) => {
                self.file = None;
                Err(CollectError::read(&self.path, e))
            }
        }
    }

    /// Reads the file and hands its content to `parse`, whose problems get this file's path.
    pub fn parse<T>(
        &mut self,
        buf: &mut Buf,
        parse: impl FnOnce(&[u8]) -> Result<T, Malformed>,
    ) -> Result<T, CollectError> {
        let bytes = self.read(buf)?;
        parse(bytes).map_err(|e| e.at(&self.path))
    }

    fn try_read(&mut self, buf: &mut Buf) -> io::Result<usize> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(File::open(&self.path)?),
        };
        read_all(|part, offset| file.read_at(part, offset), &mut buf.bytes, self.limit)
    }
}

/// Whether the object behind a kept descriptor is gone while its path may lead to a new one.
fn is_stale(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::ENODEV | libc::ESTALE | libc::ENXIO))
}

/// Whether a read failed because its object does not exist (any more): a task that ended, a cgroup that was removed.
pub fn is_gone(e: &CollectError) -> bool {
    let CollectError::Read { source, .. } = e else {
        return false;
    };
    matches!(
        source.raw_os_error(),
        Some(libc::ENOENT | libc::ESRCH | libc::ENODEV | libc::ESTALE | libc::ENOTDIR)
    )
}

/// Reads a small file once, for what is needed only when a collector is built.
pub fn read_once(path: impl Into<PathBuf>) -> Result<Vec<u8>, CollectError> {
    let mut file = KeptFile::open(path)?;
    let mut buf = Buf::new();
    let len = file.read(&mut buf)?.len();
    buf.bytes.truncate(len);
    Ok(buf.bytes)
}

/// A failed first read as the reason why a collector cannot be built.
pub fn unavailable(e: CollectError) -> Unavailable {
    let denied =
        matches!(&e, CollectError::Read { source, .. } if source.kind() == io::ErrorKind::PermissionDenied);
    let why = Unavailable::because(e.to_string());
    if denied { why.remedy("run as root or with CAP_DAC_READ_SEARCH") } else { why }
}

/// Reads to the end with `pread`, growing `bytes` as needed up to one more than `limit`.
fn read_all(
    mut pread: impl FnMut(&mut [u8], u64) -> io::Result<usize>,
    bytes: &mut Vec<u8>,
    limit: usize,
) -> io::Result<usize> {
    let mut len = 0usize;
    loop {
        if len > limit {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("longer than {limit} bytes")));
        }
        if len == bytes.len() {
            let size = len.saturating_mul(2).max(FIRST_SIZE).min(limit.saturating_add(1));
            bytes.resize(size, 0);
        }
        match pread(bytes.get_mut(len..).unwrap_or_default(), len as u64) {
            Ok(0) => return Ok(len),
            // A count beyond the room offered cannot come from the kernel.
            Ok(n) => len = len.saturating_add(n).min(bytes.len()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_again_from_the_start() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, "first").unwrap();
        let (mut file, mut buf) = (KeptFile::open(&path).unwrap(), Buf::new());
        assert_eq!(file.read(&mut buf).unwrap(), b"first");
        std::fs::write(&path, "2nd").unwrap();
        assert_eq!(file.read(&mut buf).unwrap(), b"2nd");
        std::fs::write(&path, "").unwrap();
        assert_eq!(file.read(&mut buf).unwrap(), b"");
    }

    #[test]
    fn buffer_grows_once_and_is_shared() {
        let dir = tempfile::tempdir().unwrap();
        let long: Vec<u8> = (0..100_000u32).map(|i| i as u8).collect();
        std::fs::write(dir.path().join("long"), &long).unwrap();
        std::fs::write(dir.path().join("short"), "x").unwrap();
        let mut a = KeptFile::open(dir.path().join("long")).unwrap();
        let mut b = KeptFile::lazy(dir.path().join("short"));
        let mut buf = Buf::new();
        assert_eq!(a.read(&mut buf).unwrap(), long);
        let (place, size) = (buf.bytes.as_ptr(), buf.bytes.len());
        assert_eq!(b.read(&mut buf).unwrap(), b"x");
        assert_eq!(a.read(&mut buf).unwrap(), long);
        assert_eq!((buf.bytes.as_ptr(), buf.bytes.len()), (place, size));
    }

    #[test]
    fn too_long_is_an_error_and_the_limit_itself_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, vec![b'x'; 10]).unwrap();
        let mut buf = Buf::new();
        assert_eq!(KeptFile::lazy(&path).limit(10).read(&mut buf).unwrap().len(), 10);
        let e = KeptFile::lazy(&path).limit(9).read(&mut Buf::new()).unwrap_err().to_string();
        assert!(e.contains(path.to_str().unwrap()) && e.contains("longer than 9 bytes"), "{e}");
        // A buffer that is already larger changes nothing.
        assert!(KeptFile::lazy(&path).limit(9).read(&mut buf).is_err());
    }

    #[test]
    fn a_missing_file_names_its_path_and_is_found_later() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let (mut file, mut buf) = (KeptFile::lazy(&path), Buf::new());
        let e = file.read(&mut buf).unwrap_err();
        assert!(is_gone(&e) && e.to_string().contains(path.to_str().unwrap()), "{e}");
        std::fs::write(&path, "now").unwrap();
        assert_eq!(file.read(&mut buf).unwrap(), b"now");
        assert!(KeptFile::open(dir.path().join("none")).is_err());
        assert_eq!(read_once(&path).unwrap(), b"now");
    }

    #[test]
    fn parts_interruptions_and_errors() {
        let mut script =
            vec![Ok(3), Err(io::Error::from(io::ErrorKind::Interrupted)), Ok(2), Ok(0)].into_iter();
        let mut offsets = Vec::new();
        let mut bytes = Vec::new();
        let len = read_all(
            |_, at| {
                offsets.push(at);
                script.next().unwrap()
            },
            &mut bytes,
            100,
        );
        assert_eq!((len.unwrap(), offsets), (5, vec![0, 3, 3, 5]));
        let stale = io::Error::from_raw_os_error(libc::ENODEV);
        assert!(is_stale(&stale));
        assert!(!is_stale(&io::Error::from_raw_os_error(libc::EACCES)));
        let e = read_all(|_, _| Err(io::Error::from_raw_os_error(libc::EIO)), &mut bytes, 100).unwrap_err();
        assert_eq!(e.raw_os_error(), Some(libc::EIO));
    }

    #[test]
    fn a_removed_cgroup_is_gone_and_a_new_one_of_its_name_is_read() {
        // Needs a writable cgroup hierarchy with a file that every cgroup has.
        let root = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"]
            .into_iter()
            .map(Path::new)
            .find(|p| p.join("cgroup.controllers").exists());
        let Some(dir) = root.map(|r| r.join(format!("whystall-read-test-{}", std::process::id()))) else {
            println!("skipped: no cgroup v2 hierarchy is mounted");
            return;
        };
        if let Err(e) = std::fs::create_dir(&dir) {
            println!("skipped: cannot make a cgroup: {e}");
            return;
        }
        let (mut file, mut buf) = (KeptFile::open(dir.join("cgroup.events")).unwrap(), Buf::new());
        let first = file.read(&mut buf).map(<[u8]>::to_vec);
        std::fs::remove_dir(&dir).unwrap();
        let gone = file.read(&mut buf).map(<[u8]>::to_vec);
        std::fs::create_dir(&dir).unwrap();
        let mut stale = KeptFile::open(dir.join("cgroup.events")).unwrap();
        std::fs::remove_dir(&dir).unwrap();
        std::fs::create_dir(&dir).unwrap();
        let again = stale.read(&mut buf).map(<[u8]>::to_vec);
        std::fs::remove_dir(&dir).unwrap();
        assert!(first.unwrap().starts_with(b"populated 0"));
        assert!(is_gone(&gone.unwrap_err()));
        assert!(again.unwrap().starts_with(b"populated 0"), "a kept descriptor must be opened again");
    }
}
