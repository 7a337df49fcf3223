//! Numbers and columns of numbers as bytes. Pure; every read is bounded by the bytes at hand.
//!
//! A *column* is a fixed count of `u64`s that both sides know, coded as one byte for the form and then the form's
//! bytes: all zero; dense little-endian values of 1, 2, 4 or 8 bytes; a bitmap of the values that are not zero and
//! those values; or variable-length numbers. The encoder takes the shortest. Most differences between two passes are
//! zero or small, and dense and sparse columns decode without a branch per value.

/// Why bytes could not be decoded; a plain sentence without position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bad(pub(crate) &'static str);

/// Maps small differences of either sign to small numbers: 0, -1, 1, -2 … become 0, 1, 2, 3 ….
pub(crate) const fn zigzag(v: i64) -> u64 {
    ((v << 1) ^ (v >> 63)) as u64
}

/// The inverse of [`zigzag`].
pub(crate) const fn unzigzag(v: u64) -> i64 {
    ((v >> 1) as i64) ^ -((v & 1) as i64)
}

/// Appends `v` in 7-bit groups, the lowest first (LEB128).
pub(crate) fn put_varint(out: &mut Vec<u8>, mut v: u64) {
    while v >= 0x80 {
        out.push(v as u8 | 0x80);
        v >>= 7;
    }
    out.push(v as u8);
}

/// Appends a length and the text.
pub(crate) fn put_str(out: &mut Vec<u8>, s: &str) {
    put_varint(out, s.len() as u64);
    out.extend_from_slice(s.as_bytes());
}

const ZERO: u8 = 0;
const SPARSE: u8 = 0x10;
const VARINT: u8 = 0x20;

/// Appends a column; its length is not written.
pub(crate) fn put_column(out: &mut Vec<u8>, values: &[u64]) {
    let mut any = 0;
    let mut not_zero = 0usize;
    let mut as_varint = 0usize;
    for &v in values {
        any |= v;
        not_zero += usize::from(v != 0);
        as_varint += ((64 - (v | 1).leading_zeros()) as usize).div_ceil(7);
    }
    if any == 0 {
        out.push(ZERO);
        return;
    }
    let width = match any.leading_zeros() {
        56.. => 1,
        48.. => 2,
        32.. => 4,
        _ => 8,
    };
    let dense = values.len() * width;
    let sparse = values.len().div_ceil(8) + not_zero * width;
    // Variable length decodes slower, so it has to be clearly shorter.
    if as_varint * 4 < dense.min(sparse) * 3 {
        out.push(VARINT);
        values.iter().for_each(|&v| put_varint(out, v));
    } else if sparse < dense {
        out.push(SPARSE | width as u8);
        for group in values.chunks(8) {
            out.push(group.iter().enumerate().fold(0, |bits, (i, &v)| bits | (u8::from(v != 0) << i)));
        }
        for v in values.iter().filter(|v| **v != 0) {
            out.extend_from_slice(&v.to_le_bytes()[..width]);
        }
    } else {
        out.push(width as u8);
        for v in values {
            out.extend_from_slice(&v.to_le_bytes()[..width]);
        }
    }
}

/// Reads forward through bytes.
#[derive(Debug)]
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    pos: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8], pos: usize) -> Cursor<'a> {
        Cursor { bytes, pos: pos.min(bytes.len()) }
    }

    pub(crate) fn pos(&self) -> usize {
        self.pos
    }

    pub(crate) fn at_end(&self) -> bool {
        self.pos == self.bytes.len()
    }

    pub(crate) fn take(&mut self, n: usize) -> Result<&'a [u8], Bad> {
        let rest = &self.bytes[self.pos..];
        let taken = rest.get(..n).ok_or(Bad("it ends within a record"))?;
        self.pos += n;
        Ok(taken)
    }

    pub(crate) fn byte(&mut self) -> Result<u8, Bad> {
        Ok(self.take(1)?[0])
    }

    pub(crate) fn varint(&mut self) -> Result<u64, Bad> {
        let mut v = 0u64;
        for shift in (0..64).step_by(7) {
            let b = self.byte()?;
            let bits = u64::from(b & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            v |= bits << shift;
            if b < 0x80 {
                return Ok(v);
            }
        }
        Err(Bad("a number is longer than 64 bits"))
    }

    /// A number that must be at most `max`.
    pub(crate) fn count(&mut self, max: usize, what: &'static str) -> Result<usize, Bad> {
        usize::try_from(self.varint()?).ok().filter(|n| *n <= max).ok_or(Bad(what))
    }

    pub(crate) fn str(&mut self) -> Result<&'a str, Bad> {
        let len = self.count(usize::MAX, "a text is too long")?;
        std::str::from_utf8(self.take(len)?).map_err(|_| Bad("a text is not UTF-8"))
    }

    /// Reads a column of `n` values; calls `each` with index and value, at least for those that are not zero.
    pub(crate) fn column(&mut self, n: usize, mut each: impl FnMut(usize, u64)) -> Result<(), Bad> {
        match self.byte()? {
            ZERO => {}
            1 => self.dense::<1>(n, each)?,
            2 => self.dense::<2>(n, each)?,
            4 => self.dense::<4>(n, each)?,
            8 => self.dense::<8>(n, each)?,
            0x11 => self.sparse::<1>(n, each)?,
            0x12 => self.sparse::<2>(n, each)?,
            0x14 => self.sparse::<4>(n, each)?,
            0x18 => self.sparse::<8>(n, each)?,
            VARINT => {
                for i in 0..n {
                    each(i, self.varint()?);
                }
            }
            _ => return Err(Bad("a column has an unknown form")),
        }
        Ok(())
    }

    #[inline]
    fn dense<const W: usize>(&mut self, n: usize, mut each: impl FnMut(usize, u64)) -> Result<(), Bad> {
        let bytes = self.take(n.checked_mul(W).ok_or(Bad("a column is too long"))?)?;
        for (i, chunk) in bytes.as_chunks::<W>().0.iter().enumerate() {
            each(i, number(chunk));
        }
        Ok(())
    }

    #[inline]
    fn sparse<const W: usize>(&mut self, n: usize, mut each: impl FnMut(usize, u64)) -> Result<(), Bad> {
        let map = self.take(n.div_ceil(8))?;
        let set: usize = map.iter().map(|b| b.count_ones() as usize).sum();
        let bytes = self.take(set.checked_mul(W).ok_or(Bad("a column is too long"))?)?;
        let mut values = bytes.as_chunks::<W>().0.iter();
        for (group, &bits) in map.iter().enumerate() {
            let mut bits = bits;
            while bits != 0 {
                let i = group * 8 + bits.trailing_zeros() as usize;
                bits &= bits - 1;
                let Some(chunk) = values.next().filter(|_| i < n) else {
                    return Err(Bad("a column has a value beyond its end"));
                };
                each(i, number(chunk));
            }
        }
        Ok(())
    }
}

#[inline]
fn number<const W: usize>(bytes: &[u8; W]) -> u64 {
    let mut all = [0; 8];
    all[..W].copy_from_slice(bytes);
    u64::from_le_bytes(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn column(values: &[u64]) -> usize {
        let mut out = Vec::new();
        put_column(&mut out, values);
        let mut cur = Cursor::new(&out, 0);
        let mut back = vec![0; values.len()];
        cur.column(values.len(), |i, v| back[i] = v).unwrap();
        assert_eq!(back, values);
        assert!(cur.at_end());
        out.len()
    }

    #[test]
    fn columns_take_their_shortest_form() {
        assert_eq!(column(&[]), 1);
        assert_eq!(column(&[0; 1000]), 1);
        assert_eq!(column(&[7; 1000]), 1001);
        assert_eq!(column(&[300; 10]), 21);
        // One value in a hundred: a bitmap.
        let mut rare = [0; 800];
        rare[5] = 1 << 40;
        assert_eq!(column(&rare), 1 + 100 + 8);
        // One long value among short ones: variable length.
        let mut mixed = [5; 100];
        mixed[50] = u64::MAX;
        assert_eq!(column(&mixed), 1 + 99 + 10);
    }

    #[test]
    fn hostile_columns_are_refused() {
        for bytes in [&[][..], &[9], &[1], &[0x11, 0xff], &[0x11, 0x80, 1], &[VARINT, 0x80], &[0x40, 1, 2]] {
            assert!(Cursor::new(bytes, 0).column(3, |_, _| {}).is_err(), "{bytes:?}");
        }
        assert!(Cursor::new(&[0xff; 12], 0).varint().is_err());
        assert!(Cursor::new(&[8], 0).column(usize::MAX, |_, _| {}).is_err());
        assert!(Cursor::new(&[5, b'a'], 0).str().is_err());
        assert!(Cursor::new(&[1, 0xff], 0).str().is_err());
    }

    proptest! {
        #[test]
        fn numbers_round_trip(v: u64, s: i64) {
            let mut out = Vec::new();
            put_varint(&mut out, v);
            prop_assert_eq!(Cursor::new(&out, 0).varint(), Ok(v));
            prop_assert_eq!(unzigzag(zigzag(s)), s);
        }

        #[test]
        fn columns_round_trip(values in prop::collection::vec(
            prop_oneof![Just(0), 0..256u64, 0..70_000u64, any::<u64>()], 0..200)) {
            column(&values);
        }

        #[test]
        fn any_bytes_are_safe(bytes in prop::collection::vec(any::<u8>(), 0..64), n in 0..100usize) {
            let mut seen = 0;
            let _ = Cursor::new(&bytes, 0).column(n, |i, _| { assert!(i < n); seen += 1 });
            prop_assert!(seen <= n);
        }
    }
}
