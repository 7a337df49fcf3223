//! Recordings. The checksums of the input are put right first, or nothing would get behind them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use whystall::recording::{Item, ReadError, Reader};

/// Bytes before a file's header, before a block's stored bytes, and a block's first bytes.
const FILE_HEAD: usize = 14;
const BLOCK_HEAD: usize = 25;
const MARKER: &[u8] = b"\xf5WSB";

fuzz_target!(|bytes: &[u8]| {
    let mut file = bytes.to_vec();
    put_right(&mut file);
    let Ok(mut reader) = Reader::new(&file[..]) else { return };
    loop {
        match reader.next() {
            Ok(Some(Item::Batch(batch))) => {
                for row in batch.rows() {
                    for i in 0..batch.stream.fields.len() {
                        let _ = (row.number(i), row.text(i));
                    }
                }
            }
            Ok(Some(Item::Tick(_))) => {}
            Ok(None) => break,
            // Reading goes on behind the damage, and must come to an end.
            Err(ReadError::Damaged { offset, resume, .. }) => {
                assert!(offset <= file.len() as u64);
                assert!(resume.is_none_or(|at| at <= file.len() as u64));
            }
            Err(e) => unreachable!("memory can be read: {e}"),
        }
    }
    let _ = reader.summary().to_string();
});

/// Sets the checksums of the header and of each block that is whole.
fn put_right(file: &mut [u8]) {
    let Some(length) = number(file, FILE_HEAD - 4) else { return };
    let mut at = FILE_HEAD.saturating_add(length);
    checksum(file, 0, at);
    at = at.saturating_add(4);
    while file.get(at..).is_some_and(|block| block.starts_with(MARKER)) {
        let Some(stored) = number(file, at + 9) else { return };
        let begin = at + BLOCK_HEAD;
        let end = begin.saturating_add(stored);
        let Some(stored) = file.get(begin..end) else { return };
        let crc = crc32fast::hash(stored);
        file[at + 17..at + 21].copy_from_slice(&crc.to_le_bytes());
        checksum(file, at, at + 21);
        at = end;
    }
}

fn number(file: &[u8], at: usize) -> Option<usize> {
    let bytes = file.get(at..at + 4)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?) as usize)
}

/// Writes the checksum of `from..to` behind it, if there is room.
fn checksum(file: &mut [u8], from: usize, to: usize) {
    let Some(crc) = file.get(from..to).map(crc32fast::hash) else { return };
    if let Some(place) = file.get_mut(to..to.saturating_add(4)) {
        place.copy_from_slice(&crc.to_le_bytes());
    }
}
