//! Compression of a block, in one place.

use super::wire::Bad;

/// Compresses `raw` into `packed`; false if that would not make it shorter.
pub(crate) fn pack(raw: &[u8], packed: &mut Vec<u8>) -> bool {
    packed.clear();
    packed.resize(lz4_flex::block::get_maximum_output_size(raw.len()), 0);
    match lz4_flex::block::compress_into(raw, packed) {
        Ok(n) if n < raw.len() => {
            packed.truncate(n);
            true
        }
        _ => false,
    }
}

/// Decompresses `packed` into exactly `length` bytes.
pub(crate) fn unpack(packed: &[u8], length: usize, raw: &mut Vec<u8>) -> Result<(), Bad> {
    raw.clear();
    raw.resize(length, 0);
    match lz4_flex::block::decompress_into(packed, raw) {
        Ok(n) if n == length => Ok(()),
        _ => Err(Bad("it cannot be decompressed")),
    }
}
