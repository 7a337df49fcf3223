//! The file's frame: what a recording looks like from outside, before any block is opened. All numbers little-endian.
//!
//! ```text
//! file    = magic (8 bytes) version u16, length u32, header (`length` bytes), crc32 u32 of all before; then blocks
//! header  = host, kernel (texts), start boot ns, start wall ns, interval ns (varints); bytes after these are ignored
//! block   = marker (4 bytes), flags u8, number u32, stored length u32, raw length u32,
//!           crc32 u32 of the stored bytes, crc32 u32 of the 21 bytes before; then the stored bytes
//! ```
//!
//! A block with [`KEY`] needs nothing of the blocks before it: dictionaries and previous values begin anew. The last
//! block of a recording that was ended properly is empty and has [`END`].

use whystall_event::Stamp;

use super::wire::{Bad, Cursor, put_str, put_varint};

/// A recording's first bytes; not text, and damaged by any conversion of line ends.
pub const MAGIC: [u8; 8] = *b"\x93wsrec\r\n";
/// The version written, and the newest that is read.
pub const VERSION: u16 = 1;

/// A block's first bytes; 0xf5 appears in no UTF-8 text.
pub(crate) const MARKER: [u8; 4] = *b"\xf5WSB";
/// The length of a block before its stored bytes.
pub(crate) const BLOCK_HEAD: usize = 25;
/// The file's length before the header.
pub(crate) const FILE_HEAD: usize = 14;

/// This block needs no earlier one.
pub(crate) const KEY: u8 = 1;
/// The recording ends here.
pub(crate) const END: u8 = 2;
/// The stored bytes are compressed.
pub(crate) const PACKED: u8 = 4;

/// Limits that hold for every file. The writer stays below them and the reader refuses what is above, so that a
/// hostile file cannot make it allocate without end.
pub(crate) mod limit {
    /// Bytes of a header.
    pub(crate) const HEADER: usize = 64 << 10;
    /// Bytes of a block, raw or stored.
    pub(crate) const BLOCK: usize = 64 << 20;
    /// Streams, declared since the last key block.
    pub(crate) const STREAMS: usize = 4096;
    /// Subjects, and as many texts, since the last key block.
    pub(crate) const ENTRIES: usize = 1 << 20;
    /// Bytes of all subjects' names and texts since the last key block.
    pub(crate) const STRINGS: usize = 64 << 20;
    /// Rows of one batch.
    pub(crate) const ROWS: usize = 1 << 19;
    /// Rows of the last batches of all streams together, each counted as at least one value.
    pub(crate) const VALUES: usize = 8 << 20;
}

/// What a recording says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Header {
    /// The host's name; untrusted.
    pub host: String,
    /// The kernel's release, `uname -r`; untrusted.
    pub kernel: String,
    /// When it began.
    pub start: Stamp,
    /// The tick, nanoseconds.
    pub interval_ns: u64,
}

impl Header {
    /// The file's beginning up to the first block.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        // Names are cut rather than refused: a recording must not fail over them.
        put_str(&mut body, cut(&self.host));
        put_str(&mut body, cut(&self.kernel));
        put_varint(&mut body, self.start.boot_ns);
        put_varint(&mut body, self.start.wall_ns);
        put_varint(&mut body, self.interval_ns);
        let mut out = Vec::with_capacity(FILE_HEAD + body.len() + 4);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&(body.len() as u32).to_le_bytes());
        out.extend_from_slice(&body);
        out.extend_from_slice(&crc32fast::hash(&out).to_le_bytes());
        out
    }

    /// Decodes the header's own bytes (between the length and the checksum).
    pub(crate) fn decode(body: &[u8]) -> Result<Header, Bad> {
        let mut cur = Cursor::new(body, 0);
        Ok(Header {
            host: cur.str()?.into(),
            kernel: cur.str()?.into(),
            start: Stamp { boot_ns: cur.varint()?, wall_ns: cur.varint()? },
            interval_ns: cur.varint()?,
        })
    }
}

fn cut(s: &str) -> &str {
    let end = s.char_indices().map(|(i, c)| i + c.len_utf8()).take_while(|end| *end <= 1024).last();
    &s[..end.unwrap_or(0)]
}

/// A block's beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BlockHead {
    pub(crate) flags: u8,
    /// Counts up from 0; a gap means that blocks are missing.
    pub(crate) number: u32,
    pub(crate) stored: usize,
    pub(crate) raw: usize,
    pub(crate) crc: u32,
}

impl BlockHead {
    pub(crate) fn encode(&self) -> [u8; BLOCK_HEAD] {
        let mut out = [0; BLOCK_HEAD];
        out[..4].copy_from_slice(&MARKER);
        out[4] = self.flags;
        out[5..9].copy_from_slice(&self.number.to_le_bytes());
        out[9..13].copy_from_slice(&(self.stored as u32).to_le_bytes());
        out[13..17].copy_from_slice(&(self.raw as u32).to_le_bytes());
        out[17..21].copy_from_slice(&self.crc.to_le_bytes());
        let crc = crc32fast::hash(&out[..21]);
        out[21..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8; BLOCK_HEAD]) -> Result<BlockHead, Bad> {
        let u32_at = |i: usize| u32::from_le_bytes([bytes[i], bytes[i + 1], bytes[i + 2], bytes[i + 3]]);
        if bytes[..4] != MARKER {
            return Err(Bad("no block begins here"));
        }
        if u32_at(21) != crc32fast::hash(&bytes[..21]) {
            return Err(Bad("the block's beginning does not match its checksum"));
        }
        let head = BlockHead {
            flags: bytes[4],
            number: u32_at(5),
            stored: u32_at(9) as usize,
            raw: u32_at(13) as usize,
            crc: u32_at(17),
        };
        if head.stored > limit::BLOCK || head.raw > limit::BLOCK {
            return Err(Bad("the block is longer than 64 MiB"));
        }
        if head.flags & !(KEY | END | PACKED) != 0 {
            return Err(Bad("the block has unknown flags"));
        }
        Ok(head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_round_trip_and_any_changed_bit_shows() {
        let head = BlockHead { flags: KEY | PACKED, number: 7, stored: 1000, raw: 5000, crc: 0xdead_beef };
        let bytes = head.encode();
        assert_eq!(BlockHead::decode(&bytes), Ok(head));
        for bit in 0..BLOCK_HEAD * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(BlockHead::decode(&flipped).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn names_are_cut_at_whole_characters() {
        let header = Header { host: "ü".repeat(3000), ..Header::default() };
        let bytes = header.encode();
        let back = Header::decode(&bytes[FILE_HEAD..bytes.len() - 4]).unwrap();
        assert_eq!(back.host, "ü".repeat(512));
        assert_eq!(back.start, header.start);
    }
}
