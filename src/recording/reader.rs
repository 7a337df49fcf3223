//! Reads a recording back: to its end, to where it was cut, or around what is damaged.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use memchr::memmem;

use super::Item;
use super::decode::{Decoded, Decoder};
use super::format::{
    BLOCK_HEAD, BlockHead, END, FILE_HEAD, Header, KEY, MAGIC, MARKER, PACKED, VERSION, limit,
};
use super::pack;
use super::window::Window;
use super::wire::{Bad, Cursor};

/// Why a recording could not be read, or not there.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file could not be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is no recording.
    #[error("this is no whystall recording: {0}")]
    NotARecording(String),
    /// It was written by a newer whystall.
    #[error("this recording has version {0}; this whystall reads up to version {VERSION}")]
    Version(u16),
    /// Something within it is damaged. Reading can go on: the next item is the first after the damage.
    #[error("the recording is damaged at byte {offset}: {what}; {}", resumes(*resume))]
    Damaged {
        /// Where the damage begins.
        offset: u64,
        /// What is wrong there.
        what: &'static str,
        /// Where reading goes on, if anything readable follows.
        resume: Option<u64>,
    },
}

fn resumes(at: Option<u64>) -> String {
    match at {
        Some(at) => format!("going on at byte {at}, what lies between is lost"),
        None => "nothing after it can be read".into(),
    }
}

/// How a recording ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ending {
    /// The end was not reached yet.
    #[default]
    NotReached,
    /// It was ended properly.
    Finished,
    /// It breaks off, as after a crash: everything before `offset` was read, `bytes` after it are no whole block.
    Cut {
        /// Up to where it was read.
        offset: u64,
        /// How many bytes were left over.
        bytes: u64,
    },
}

/// What was read so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    /// Blocks.
    pub blocks: u64,
    /// Batches.
    pub batches: u64,
    /// Rows of all batches.
    pub rows: u64,
    /// Ticks.
    pub ticks: u64,
    /// Damaged places.
    pub damaged: u64,
    /// How the recording ends.
    pub ending: Ending,
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "read {} ticks and {} events in {} blocks", self.ticks, self.rows, self.blocks)?;
        match self.ending {
            Ending::Cut { offset, bytes: 0 } => {
                write!(f, "; the recording was not ended properly and stops at byte {offset}")?;
            }
            Ending::Cut { offset, bytes } => {
                write!(
                    f,
                    "; the recording is cut at byte {offset}, the {bytes} bytes after it are no whole block"
                )?;
            }
            Ending::NotReached | Ending::Finished => {}
        }
        if self.damaged > 0 {
            write!(f, "; {} damaged places were left out", self.damaged)?;
        }
        Ok(())
    }
}

/// Reads a recording; see [`Reader::next`].
#[derive(Debug)]
pub struct Reader<R> {
    input: Window<R>,
    header: Header,
    decoder: Decoder,
    raw: Vec<u8>,
    /// Where in `raw` the next record begins, while a block is open.
    at: Option<usize>,
    /// Where the open block begins in the file.
    block: u64,
    number: u32,
    need_key: bool,
    done: bool,
    summary: Summary,
}

/// What became of looking for a block.
enum Block {
    Open,
    End,
    Bad { offset: u64, what: Bad, skip: usize },
}

impl Reader<File> {
    /// Opens the recording at `path`.
    pub fn open(path: &Path) -> Result<Reader<File>, ReadError> {
        Reader::new(File::open(path)?)
    }
}

impl<R: Read> Reader<R> {
    /// Reads the header of a recording.
    pub fn new(input: R) -> Result<Reader<R>, ReadError> {
        let mut input = Window::new(input);
        let not = |what: &str| Err(ReadError::NotARecording(what.into()));
        let head = input.fill(FILE_HEAD)?;
        if head.is_empty() {
            return not("it is empty");
        }
        if !head.starts_with(&MAGIC[..head.len().min(MAGIC.len())]) {
            return not("it does not begin like one");
        }
        let &[.., v0, v1, l0, l1, l2, l3] = head else {
            return not("it ends within its header");
        };
        if head.len() < FILE_HEAD {
            return not("it ends within its header");
        }
        let version = u16::from_le_bytes([v0, v1]);
        if version > VERSION {
            return Err(ReadError::Version(version));
        }
        let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        if length > limit::HEADER {
            return not("its header is longer than 64 KiB");
        }
        let all = input.fill(FILE_HEAD + length + 4)?;
        let Some((before, crc)) = all.split_at_checked(FILE_HEAD + length).filter(|(_, crc)| crc.len() == 4)
        else {
            return not("it ends within its header");
        };
        if crc32fast::hash(before).to_le_bytes() != crc {
            return not("its header does not match its checksum");
        }
        let header = Header::decode(&before[FILE_HEAD..])
            .map_err(|bad| ReadError::NotARecording(format!("its header is bad: {}", bad.0)))?;
        input.skip(FILE_HEAD + length + 4);
        Ok(Reader {
            input,
            header,
            decoder: Decoder::default(),
            raw: Vec::new(),
            at: None,
            block: 0,
            number: 0,
            need_key: true,
            done: false,
            summary: Summary::default(),
        })
    }

    /// What the recording says about itself.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// What was read so far.
    pub fn summary(&self) -> Summary {
        self.summary
    }

    /// The next item, or `None` at the end; a recording that merely breaks off ends there without an error, and
    /// [`Summary::ending`] says so. After [`ReadError::Damaged`] call it again to go on behind the damage.
    #[allow(clippy::should_implement_trait)] // It lends the batch, which `Iterator` cannot.
    pub fn next(&mut self) -> Result<Option<Item<'_>>, ReadError> {
        let stream = loop {
            let Some(at) = self.at else {
                if !self.open_block()? {
                    return Ok(None);
                }
                continue;
            };
            let mut cur = Cursor::new(&self.raw, at);
            match self.decoder.next(&mut cur) {
                Ok(Decoded::Batch(stream)) => {
                    self.at = Some(cur.pos());
                    break stream;
                }
                Ok(Decoded::Tick(tick)) => {
                    self.at = Some(cur.pos());
                    self.summary.ticks += 1;
                    return Ok(Some(Item::Tick(tick)));
                }
                Ok(Decoded::End) => self.at = None,
                Err(bad) => {
                    self.at = None;
                    match self.damaged(self.block, bad, true)? {
                        Some(error) => return Err(error),
                        None => return Ok(None),
                    }
                }
            }
        };
        let batch = self.decoder.batch(stream);
        self.summary.batches += 1;
        self.summary.rows += batch.map_or(0, |b| b.len() as u64);
        Ok(batch.map(Item::Batch))
    }

    /// Opens the next block; false at the end.
    fn open_block(&mut self) -> Result<bool, ReadError> {
        if self.done {
            return Ok(false);
        }
        match self.look()? {
            Block::Open => Ok(true),
            Block::End => {
                self.done = true;
                Ok(false)
            }
            Block::Bad { offset, what, skip } => {
                self.input.skip(skip);
                // What no block follows is the torn end of a recording that was not ended, not damage within.
                match self.damaged(offset, what, false)? {
                    Some(error) => Err(error),
                    None => Ok(false),
                }
            }
        }
    }

    fn cut(&mut self, offset: u64, bytes: u64) {
        self.summary.ending = Ending::Cut { offset, bytes };
        self.done = true;
    }

    /// Looks at the next block and, if it is good, decompresses it.
    fn look(&mut self) -> Result<Block, ReadError> {
        let offset = self.input.offset();
        let bytes = self.input.fill(BLOCK_HEAD)?;
        let found = bytes.len();
        let Ok(bytes) = <&[u8; BLOCK_HEAD]>::try_from(bytes) else {
            self.cut(offset, found as u64);
            return Ok(Block::End);
        };
        let bad = |what, skip| Ok(Block::Bad { offset, what, skip });
        let head = match BlockHead::decode(bytes) {
            Ok(head) => head,
            Err(what) => return bad(what, 1),
        };
        let whole = BLOCK_HEAD + head.stored;
        let bytes = self.input.fill(whole)?;
        let Some(stored) = bytes.get(BLOCK_HEAD..whole) else {
            let left = bytes.len() as u64;
            self.cut(offset, left);
            return Ok(Block::End);
        };
        if crc32fast::hash(stored) != head.crc {
            return bad(Bad("the block does not match its checksum"), whole);
        }
        if head.number != self.number {
            self.number = head.number;
            self.need_key = true;
            return bad(Bad("blocks are missing before it"), 0);
        }
        if head.flags & END != 0 {
            self.summary.ending = Ending::Finished;
            return Ok(Block::End);
        }
        if self.need_key && head.flags & KEY == 0 {
            return bad(Bad("the block needs one that is missing"), whole);
        }
        if head.flags & PACKED != 0 {
            if let Err(what) = pack::unpack(stored, head.raw, &mut self.raw) {
                return bad(what, whole);
            }
        } else {
            self.raw.clear();
            self.raw.extend_from_slice(stored);
        }
        self.input.skip(whole);
        if head.flags & KEY != 0 {
            self.decoder.reset();
        }
        self.need_key = false;
        self.number = head.number.wrapping_add(1);
        self.block = offset;
        self.at = Some(0);
        self.summary.blocks += 1;
        Ok(Block::Open)
    }

    /// Goes on to the next key block after damage at `offset`, and says so. If the damage is not `within` a block that
    /// was read and no good block follows at all, this is where the recording was cut, and no error.
    fn damaged(&mut self, offset: u64, what: Bad, within: bool) -> Result<Option<ReadError>, ReadError> {
        self.need_key = true;
        let mut followed = within;
        let resume = loop {
            let Some((at, head)) = self.seek()? else {
                break None;
            };
            followed = true;
            if head.flags & KEY != 0 {
                self.number = head.number;
                break Some(at);
            }
            if head.flags & END != 0 {
                self.summary.ending = Ending::Finished;
            }
            self.input.skip(BLOCK_HEAD + head.stored);
        };
        if resume.is_none() {
            let end = self.input.offset();
            self.done = true;
            match self.summary.ending {
                Ending::NotReached if followed => self.cut(end, 0),
                Ending::NotReached => self.cut(offset, end - offset),
                _ => {}
            }
        }
        if !followed {
            return Ok(None);
        }
        self.summary.damaged += 1;
        Ok(Some(ReadError::Damaged { offset, what: what.0, resume }))
    }

    /// Moves to the next block whose checksums hold.
    fn seek(&mut self) -> Result<Option<(u64, BlockHead)>, ReadError> {
        const STEP: usize = 64 << 10;
        loop {
            let seen = self.input.fill(STEP)?;
            let length = seen.len();
            if length < BLOCK_HEAD {
                self.input.skip(length);
                return Ok(None);
            }
            let Some(found) = memmem::find(seen, &MARKER) else {
                // A marker may begin in the last bytes.
                self.input.skip(length - (MARKER.len() - 1).min(length - 1));
                continue;
            };
            self.input.skip(found);
            let head =
                match <&[u8; BLOCK_HEAD]>::try_from(self.input.fill(BLOCK_HEAD)?).map(BlockHead::decode) {
                    Ok(Ok(head)) => head,
                    Ok(Err(_)) => {
                        self.input.skip(1);
                        continue;
                    }
                    Err(_) => {
                        self.input.skip(BLOCK_HEAD);
                        return Ok(None);
                    }
                };
            let whole = BLOCK_HEAD + head.stored;
            let bytes = self.input.fill(whole)?;
            let (left, good) =
                (bytes.len(), bytes.get(BLOCK_HEAD..whole).map(crc32fast::hash) == Some(head.crc));
            if good {
                return Ok(Some((self.input.offset(), head)));
            }
            // The block's beginning is right, so its length is: skip it whole, which keeps this linear.
            self.input.skip(whole.min(left));
        }
    }
}
