//! Writes a recording so that what a crash leaves behind can be replayed up to the crash.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use whystall_event::{Batch, SEC};

use super::encode::Encoder;
use super::format::{BLOCK_HEAD, BlockHead, END, Header, KEY, PACKED};
use super::pack;
use super::record::Tick;

/// A block is cut when it has so many bytes before compression,
const BLOCK_BYTES: usize = 256 << 10;
/// or spans so much time,
const BLOCK_NS: u64 = 5 * SEC;
/// and every so many blocks one begins anew, where a reader can go on after damage.
const KEY_EVERY: u32 = 64;

/// Where a recording goes.
pub trait Output: Write {
    /// Makes what was written survive a crash of the machine.
    fn sync(&mut self) -> io::Result<()>;
}

impl Output for File {
    fn sync(&mut self) -> io::Result<()> {
        match self.sync_data() {
            // Pipes, terminals and some file systems cannot.
            Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::EROFS | libc::ENOTSUP)) => Ok(()),
            done => done,
        }
    }
}

impl Output for Vec<u8> {
    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Why something was not recorded.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// Writing failed, for example for want of space. The recording ends here: what was written before replays, and
    /// every further call fails.
    #[error("the recording cannot be written: {0}")]
    Io(#[from] io::Error),
    /// One batch is too large and was left out; the recording goes on.
    #[error("a batch of `{stream}` was not recorded: {why}")]
    TooLarge {
        /// The stream's name.
        stream: String,
        /// By what it is too large.
        why: &'static str,
    },
}

/// What was written so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Written {
    /// Bytes of the file.
    pub bytes: u64,
    /// Blocks, without the last empty one.
    pub blocks: u64,
    /// Batches.
    pub batches: u64,
    /// Rows of all batches.
    pub rows: u64,
    /// Ticks.
    pub ticks: u64,
}

/// Appends to a recording. Every block is written at once and synced, at the latest when a tick comes 5 s after the
/// block's first record; a slow disk makes that call slow, so the writer belongs on a thread of its own.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    encoder: Encoder,
    raw: Vec<u8>,
    packed: Vec<u8>,
    /// Boot time of the block's first record.
    began: Option<u64>,
    number: u32,
    key_in: u32,
    failed: bool,
    written: Written,
}

impl Writer<File> {
    /// Begins a recording at `path`. A file that is there is overwritten; a new one can be read by its owner only, since
    /// recordings hold names of processes and kernel messages.
    pub fn create(path: &Path, header: &Header) -> io::Result<Writer<File>> {
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        Writer::new(file, header)
    }
}

impl<W: Output> Writer<W> {
    /// Begins a recording on `out`.
    pub fn new(mut out: W, header: &Header) -> io::Result<Writer<W>> {
        let head = header.encode();
        out.write_all(&head)?;
        out.sync()?;
        Ok(Writer {
            out,
            encoder: Encoder::default(),
            raw: Vec::with_capacity(BLOCK_BYTES * 5 / 4),
            packed: Vec::new(),
            began: None,
            number: 0,
            key_in: 0,
            failed: false,
            written: Written { bytes: head.len() as u64, ..Written::default() },
        })
    }

    /// Appends a batch.
    pub fn batch(&mut self, batch: &Batch) -> Result<(), WriteError> {
        self.begin(batch.at.boot_ns)?;
        let before = self.raw.len();
        if let Err(large) = self.encoder.batch(&mut self.raw, batch) {
            // The encoder may know subjects by now that the file does not: keep what was there before, begin anew.
            self.raw.truncate(before);
            self.cut()?;
            self.key_in = 0;
            return Err(WriteError::TooLarge { stream: batch.stream.name.to_string(), why: large.0 });
        }
        self.written.batches += 1;
        self.written.rows += batch.len() as u64;
        if self.raw.len() >= BLOCK_BYTES || self.encoder.crowded() {
            self.cut()?;
        }
        Ok(())
    }

    /// Appends a tick.
    pub fn tick(&mut self, tick: &Tick) -> Result<(), WriteError> {
        let began = self.begin(tick.at.boot_ns)?;
        self.encoder.tick(&mut self.raw, tick);
        self.written.ticks += 1;
        if self.raw.len() >= BLOCK_BYTES || tick.at.boot_ns.saturating_sub(began) >= BLOCK_NS {
            self.cut()?;
        }
        Ok(())
    }

    /// What was written so far; what waits for its block is not in `bytes`.
    pub fn written(&self) -> Written {
        self.written
    }

    /// Writes what waits, marks the end and hands the output back.
    pub fn finish(mut self) -> Result<(W, Written), WriteError> {
        self.cut()?;
        self.put(END, false)?;
        Ok((self.out, self.written))
    }

    /// Makes sure that a block is open; its first record's time.
    fn begin(&mut self, now: u64) -> Result<u64, WriteError> {
        if self.failed {
            return Err(WriteError::Io(io::Error::other("an earlier write failed")));
        }
        if let Some(began) = self.began {
            return Ok(began);
        }
        if self.key_in == 0 || self.encoder.crowded() {
            self.encoder.reset();
            self.key_in = KEY_EVERY;
        }
        self.began = Some(now);
        Ok(now)
    }

    /// Writes the open block, if there is one with something in it.
    fn cut(&mut self) -> Result<(), WriteError> {
        self.began = None;
        if self.raw.is_empty() {
            return Ok(());
        }
        let key = if self.key_in == KEY_EVERY { KEY } else { 0 };
        let packed = pack::pack(&self.raw, &mut self.packed);
        self.put(key | if packed { PACKED } else { 0 }, packed)?;
        self.written.blocks += 1;
        self.key_in -= 1;
        self.raw.clear();
        Ok(())
    }

    fn put(&mut self, flags: u8, packed: bool) -> Result<(), WriteError> {
        let stored = if packed { &self.packed } else { &self.raw };
        let head = BlockHead {
            flags,
            number: self.number,
            stored: stored.len(),
            raw: self.raw.len(),
            crc: crc32fast::hash(stored),
        };
        self.failed = true;
        self.out.write_all(&head.encode())?;
        self.out.write_all(stored)?;
        self.out.flush()?;
        self.out.sync()?;
        self.failed = false;
        self.number = self.number.wrapping_add(1);
        self.written.bytes += (BLOCK_HEAD + stored.len()) as u64;
        Ok(())
    }
}
