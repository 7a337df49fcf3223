//! Lines, columns and numbers out of bytes, without allocating and without going through `str`.
//!
//! The parsers of this crate are pure functions over bytes; what surprises them is a [`Malformed`], which names the line
//! and gets its path from whoever read the file.

use std::path::Path;

use whystall_event::text;

use crate::CollectError;

/// Content that is not what the kernel documents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malformed {
    /// The line, counted from 1.
    pub line: usize,
    /// What was expected and what was found, escaped.
    pub what: String,
}

impl Malformed {
    /// `what` is wrong with line `line`.
    pub fn new(line: usize, what: impl Into<String>) -> Malformed {
        Malformed { line, what: what.into() }
    }

    /// `found` stands where `expected` should be.
    #[cold]
    pub fn expected(line: usize, expected: &str, found: &[u8]) -> Malformed {
        Malformed { line, what: format!("expected {expected}, found `{}`", show(found)) }
    }

    /// The line ends where `expected` should be.
    #[cold]
    pub fn ends(line: usize, expected: &str) -> Malformed {
        Malformed { line, what: format!("expected {expected}, found the end of the line") }
    }

    /// This problem in the file at `path`.
    pub fn at(self, path: &Path) -> CollectError {
        CollectError::parse(path, format!("line {}: {}", self.line, self.what))
    }
}

/// Foreign bytes for a message: escaped, and short.
pub fn show(bytes: &[u8]) -> String {
    let head = bytes.get(..60).unwrap_or(bytes);
    text::shorten(&text::escape(&text::from_bytes(head)), 60).into_owned()
}

/// The lines of `bytes` with their numbers from 1, without their newline.
///
/// The kernel ends every line. A last line without its end has been cut, perhaps within a number, and is an error.
pub fn lines(bytes: &[u8]) -> Lines<'_> {
    Lines { rest: bytes, number: 0 }
}

/// See [`lines`].
#[derive(Debug, Clone)]
pub struct Lines<'a> {
    rest: &'a [u8],
    number: usize,
}

impl<'a> Iterator for Lines<'a> {
    type Item = Result<(usize, &'a [u8]), Malformed>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        self.number += 1;
        match memchr::memchr(b'\n', self.rest) {
            Some(end) => {
                let (line, rest) = self.rest.split_at(end);
                self.rest = rest.get(1..).unwrap_or_default();
                Some(Ok((self.number, line)))
            }
            None => {
                let cut = std::mem::take(&mut self.rest);
                Some(Err(Malformed::new(self.number, format!("cut short: `{}`", show(cut)))))
            }
        }
    }
}

/// The columns of a line: what stands between spaces and tabs.
#[inline]
pub fn columns(line: &[u8]) -> Columns<'_> {
    Columns { rest: line }
}

/// See [`columns`].
#[derive(Debug, Clone)]
pub struct Columns<'a> {
    rest: &'a [u8],
}

impl<'a> Columns<'a> {
    /// What has not been consumed, without the blanks around it.
    pub fn rest(&self) -> &'a [u8] {
        self.rest.trim_ascii()
    }

    /// The next column as a decimal number; `what` says what it is.
    #[inline]
    pub fn dec(&mut self, line: usize, what: &str) -> Result<u64, Malformed> {
        match self.next() {
            Some(column) => dec(column).ok_or_else(|| Malformed::expected(line, what, column)),
            None => Err(Malformed::ends(line, what)),
        }
    }
}

impl<'a> Iterator for Columns<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        let blank = |b: &u8| *b == b' ' || *b == b'\t';
        let start = self.rest.iter().position(|b| !blank(b))?;
        let from = self.rest.get(start..)?;
        let len = from.iter().position(blank).unwrap_or(from.len());
        let (column, rest) = from.split_at(len);
        self.rest = rest;
        Some(column)
    }
}

/// A whole decimal number: digits only, at most `u64::MAX`.
#[inline]
pub fn dec(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    let mut n = 0u64;
    if digits.len() < 20 {
        // 19 digits always fit.
        for b in digits {
            let d = b.wrapping_sub(b'0');
            if d > 9 {
                return None;
            }
            n = n * 10 + u64::from(d);
        }
        return Some(n);
    }
    for b in digits {
        let d = b.wrapping_sub(b'0');
        if d > 9 {
            return None;
        }
        n = n.checked_mul(10)?.checked_add(u64::from(d))?;
    }
    Some(n)
}

/// A whole decimal number that fits a CPU, node or IRQ number.
#[inline]
pub fn dec32(digits: &[u8]) -> Option<u32> {
    u32::try_from(dec(digits)?).ok()
}

/// A whole hexadecimal number without a prefix, at most `u64::MAX`.
#[inline]
pub fn hex(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    let mut n = 0u64;
    for b in digits {
        let d = match b {
            b'0'..=b'9' => b - b'0',
            b'a'..=b'f' => b - b'a' + 10,
            b'A'..=b'F' => b - b'A' + 10,
            _ => return None,
        };
        if n >> 60 != 0 {
            return None;
        }
        n = n << 4 | u64::from(d);
    }
    Some(n)
}

/// A decimal number with digits on both sides of at most one point, such as the `avg10` of PSI or a load average.
pub fn fixed(digits: &[u8]) -> Option<f64> {
    let (whole, part) = match memchr::memchr(b'.', digits) {
        Some(point) => (digits.get(..point)?, digits.get(point + 1..)?),
        None => return Some(dec(digits)? as f64),
    };
    if part.len() > 9 {
        return None;
    }
    Some(dec(whole)? as f64 + dec(part)? as f64 / 10f64.powi(part.len() as i32))
}

/// A list of CPUs or nodes as sysfs and cpusets write it: `0-3,8,10-11`; empty text is an empty list.
///
/// Numbers above 65,535 are refused, so that the list stays bounded.
pub fn list(text: &[u8]) -> Option<Vec<u32>> {
    let mut all = Vec::new();
    let text = text.trim_ascii();
    if text.is_empty() {
        return Some(all);
    }
    for part in text.split(|b| *b == b',') {
        let (first, last) = match memchr::memchr(b'-', part) {
            Some(dash) => (dec32(part.get(..dash)?)?, dec32(part.get(dash + 1..)?)?),
            None => (dec32(part)?, dec32(part)?),
        };
        // Ascending and without overlap, as the kernel writes it; this also bounds the sum of all ranges.
        if last < first || last > 65_535 || all.last().is_some_and(|l| *l >= first) {
            return None;
        }
        all.extend(first..=last);
    }
    Some(all)
}

/// Finds which of a fixed set of names a piece of input is: one hash, one comparison.
#[derive(Debug)]
pub struct Names {
    /// Open addressing: 1 + index into `names`, 0 for free; at most a quarter full.
    table: Vec<u16>,
    names: Vec<(&'static str, usize)>,
}

impl Names {
    /// A table of names, each with what [`Names::find`] returns for it.
    pub fn new(names: impl IntoIterator<Item = (&'static str, usize)>) -> Names {
        let names: Vec<_> = names.into_iter().take(usize::from(u16::MAX)).collect();
        let mut table = vec![0u16; (names.len() * 4).next_power_of_two().max(8)];
        for (i, (name, _)) in names.iter().enumerate() {
            let mut at = hash(name.as_bytes()) & (table.len() - 1);
            while table[at] != 0 {
                at = (at + 1) & (table.len() - 1);
            }
            table[at] = i as u16 + 1;
        }
        Names { table, names }
    }

    /// The value of `name`, if it is one of the names.
    #[inline]
    pub fn find(&self, name: &[u8]) -> Option<usize> {
        let mask = self.table.len() - 1;
        let mut at = hash(name) & mask;
        loop {
            let (known, value) = self.names.get(usize::from(*self.table.get(at)?).checked_sub(1)?)?;
            if known.as_bytes() == name {
                return Some(*value);
            }
            at = (at + 1) & mask;
        }
    }
}

/// Mixes the length with the first and last eight bytes, in which the kernel's names differ. A collision only costs
/// another comparison; the names in the table are ours, so no input can make the chains long.
#[inline]
fn hash(name: &[u8]) -> usize {
    let word = |part: Option<&[u8]>| -> u64 {
        match part.and_then(|p| <[u8; 8]>::try_from(p).ok()) {
            Some(bytes) => u64::from_le_bytes(bytes),
            None => name.iter().fold(0, |n, b| n << 8 | u64::from(*b)),
        }
    };
    let mixed =
        word(name.first_chunk::<8>().map(|c| &c[..])).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23)
            ^ word(name.last_chunk::<8>().map(|c| &c[..])).wrapping_mul(0xc2b2_ae3d_27d4_eb4f)
            ^ name.len() as u64;
    (mixed >> 32 ^ mixed) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lines_are_numbered_and_a_cut_one_is_an_error() {
        let all: Vec<_> = lines(b"a\n\nb\n").map(Result::unwrap).collect();
        assert_eq!(all, [(1, &b"a"[..]), (2, b""), (3, b"b")]);
        assert_eq!(lines(b"").count(), 0);
        let cut: Vec<_> = lines(b"a 1\nb 2").collect();
        assert_eq!(cut[1], Err(Malformed::new(2, "cut short: `b 2`")));
    }

    #[test]
    fn numbers() {
        assert_eq!(dec(b"18446744073709551615"), Some(u64::MAX));
        assert_eq!(dec(b"000000000000000000000000000007"), Some(7));
        for bad in
            [&b""[..], b"18446744073709551616", b"-1", b"+1", b"1.0", b" 1", b"x", b"99999999999999999999999"]
        {
            assert_eq!(dec(bad), None, "{}", show(bad));
        }
        assert_eq!(dec32(b"4294967295"), Some(u32::MAX));
        assert_eq!(dec32(b"4294967296"), None);
        assert_eq!(hex(b"ffffffffffffffff"), Some(u64::MAX));
        assert_eq!(hex(b"0000000000000000000a"), Some(10));
        assert_eq!(hex(b"10000000000000000"), None);
        assert_eq!((hex(b""), hex(b"0x1"), hex(b"g")), (None, None, None));
        assert_eq!((fixed(b"12.50"), fixed(b"3")), (Some(12.5), Some(3.0)));
        assert_eq!((fixed(b"."), fixed(b"1."), fixed(b"1.2.3"), fixed(b"-1.0")), (None, None, None, None));
    }

    #[test]
    fn lists_of_cpus() {
        assert_eq!(list(b"0-2,8,10-11\n"), Some(vec![0, 1, 2, 8, 10, 11]));
        assert_eq!(list(b"\n"), Some(vec![]));
        for bad in [&b"1-"[..], b"3-1", b"0,0", b"a", b"0-99999999", b"0-3,2"] {
            assert_eq!(list(bad), None, "{}", show(bad));
        }
    }

    #[test]
    fn messages_show_foreign_bytes_escaped_and_short() {
        let e = Malformed::expected(3, "a number", b"\x1b[31m\xff").at(Path::new("/proc/x")).to_string();
        assert_eq!(e, "/proc/x: line 3: expected a number, found `\\x1b[31m\\xff`");
        assert!(show(&[b'x'; 5000]).chars().count() <= 60);
    }

    proptest! {
        #[test]
        fn dec_agrees_with_std(n in any::<u64>(), bytes in proptest::collection::vec(any::<u8>(), 0..24)) {
            prop_assert_eq!(dec(n.to_string().as_bytes()), Some(n));
            prop_assert_eq!(hex(format!("{n:08x}").as_bytes()), Some(n));
            let std = std::str::from_utf8(&bytes).ok().filter(|s| !s.starts_with('+')).and_then(|s| s.parse().ok());
            prop_assert_eq!(dec(&bytes), std);
        }

        #[test]
        fn columns_agree_with_std(line in "[a-z0-9 \t:]{0,40}") {
            let mine: Vec<_> = columns(line.as_bytes()).collect();
            let std: Vec<_> = line.split_ascii_whitespace().map(str::as_bytes).collect();
            prop_assert_eq!(mine, std);
        }

        #[test]
        fn names_find_themselves_and_nothing_else(other in "[a-z_]{0,12}") {
            const ALL: [&str; 7] = ["", "a", "abcdefgh", "abcdefgi", "pgscan_direct", "pgscan_direct_throttle", "numa_hit"];
            let names = Names::new(ALL.into_iter().zip(0..));
            for (i, name) in ALL.iter().enumerate() {
                prop_assert_eq!(names.find(name.as_bytes()), Some(i));
            }
            prop_assert_eq!(names.find(other.as_bytes()), ALL.iter().position(|n| *n == other));
        }
    }
}
