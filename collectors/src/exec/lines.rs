//! Bytes into lines, bounded in length; and a limit on how many a second. Pure.

use whystall_event::SEC;

/// A line without its end.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line<'a> {
    Whole(&'a [u8]),
    /// It was longer than allowed and has been thrown away.
    TooLong,
}

/// Collects bytes and hands out lines. Holds no more than one line of the longest length and what was pushed last.
#[derive(Debug)]
pub(super) struct Lines {
    buffer: Vec<u8>,
    /// Where the next line begins.
    start: usize,
    /// Up to here there is no line end after `start`.
    searched: usize,
    longest: usize,
    /// The present line is too long; its bytes are not kept.
    skipping: bool,
}

impl Lines {
    pub(super) fn new(longest: usize) -> Lines {
        Lines { buffer: Vec::new(), start: 0, searched: 0, longest, skipping: false }
    }

    /// Appends bytes. Take all lines before the next push.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.start);
        self.searched -= self.start;
        self.start = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// Whether [`Lines::next`] has a line.
    pub(super) fn has_line(&mut self) -> bool {
        self.find().is_some()
    }

    /// Where the present line ends.
    fn find(&mut self) -> Option<usize> {
        let rest = self.buffer.get(self.searched..).unwrap_or_default();
        match rest.iter().position(|&b| b == b'\n') {
            Some(i) => {
                // The search goes on here, at the line's end, until the line is taken.
                self.searched += i;
                Some(self.searched)
            }
            None => {
                self.searched = self.buffer.len();
                if self.searched - self.start > self.longest {
                    self.skipping = true;
                    self.buffer.clear();
                    (self.start, self.searched) = (0, 0);
                }
                None
            }
        }
    }

    /// The next line.
    pub(super) fn next(&mut self) -> Option<Line<'_>> {
        let end = self.find()?;
        let start = std::mem::replace(&mut self.start, end + 1);
        self.searched = end + 1;
        Some(self.line(start, end))
    }

    /// The last line, which has no end.
    pub(super) fn rest(&mut self) -> Option<Line<'_>> {
        let (start, end) = (self.start, self.buffer.len());
        (self.start, self.searched) = (end, end);
        if start == end && !self.skipping {
            return None;
        }
        Some(self.line(start, end))
    }

    fn line(&mut self, start: usize, end: usize) -> Line<'_> {
        let skipped = std::mem::take(&mut self.skipping);
        match self.buffer.get(start..end) {
            Some(line) if !skipped && line.len() <= self.longest => {
                Line::Whole(line.strip_suffix(b"\r").unwrap_or(line))
            }
            _ => Line::TooLong,
        }
    }
}

/// Lets so many things pass a second; up to a second's worth at once.
#[derive(Debug)]
pub(super) struct Bucket {
    per_second: u32,
    tokens: f64,
    at: Option<u64>,
}

impl Bucket {
    pub(super) fn new(per_second: u32) -> Bucket {
        Bucket { per_second, tokens: f64::from(per_second), at: None }
    }

    /// Whether one may pass at `now` (nanoseconds).
    pub(super) fn take(&mut self, now: u64) -> bool {
        let rate = f64::from(self.per_second);
        let passed = now.saturating_sub(self.at.replace(now).unwrap_or(now));
        self.tokens = (self.tokens + rate * passed as f64 / SEC as f64).min(rate);
        let may = self.tokens >= 1.0;
        if may {
            self.tokens -= 1.0;
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(lines: &mut Lines, out: &mut Vec<Option<Vec<u8>>>) {
        while let Some(line) = lines.next() {
            out.push(match line {
                Line::Whole(l) => Some(l.to_vec()),
                Line::TooLong => None,
            });
        }
    }

    #[test]
    fn long_lines_are_thrown_away_and_the_next_is_whole() {
        let mut lines = Lines::new(5);
        let mut got = Vec::new();
        for part in ["ab\ncde", "fghijk", "lm\r", "\nok\r\n12345\n123456\nend"] {
            lines.push(part.as_bytes());
            all(&mut lines, &mut got);
        }
        let whole = |s: &str| Some(s.as_bytes().to_vec());
        assert_eq!(got, [whole("ab"), None, whole("ok"), whole("12345"), None]);
        assert_eq!(lines.rest(), Some(Line::Whole(b"end")));
        assert_eq!(lines.rest(), None);
    }

    #[test]
    fn a_bucket_lets_the_rate_pass() {
        let mut b = Bucket::new(10);
        let passed = |b: &mut Bucket, now| (0..100).filter(|_| b.take(now)).count();
        assert_eq!(passed(&mut b, 5 * SEC), 10);
        assert_eq!(passed(&mut b, 5 * SEC + SEC / 2), 5);
        assert_eq!(passed(&mut b, 4 * SEC), 0);
        assert_eq!(passed(&mut b, 100 * SEC), 10);
    }

    proptest! {
        /// However the bytes are cut, the lines are those of the whole, and the buffer stays small.
        #[test]
        fn cutting_does_not_matter(bytes in prop::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), any::<u8>()], 0..300), cut in 1usize..40) {
            let longest = 20;
            let mut expected: Vec<Option<Vec<u8>>> = (bytes.split(|&b| b == b'\n'))
                .map(|l| (l.len() <= longest).then(|| l.strip_suffix(b"\r").unwrap_or(l).to_vec()))
                .collect();
            let rest = expected.pop();
            let mut lines = Lines::new(longest);
            let mut got = Vec::new();
            for part in bytes.chunks(cut) {
                lines.push(part);
                all(&mut lines, &mut got);
                prop_assert!(lines.buffer.len() <= longest + cut);
            }
            prop_assert_eq!(got, expected);
            let got = lines.rest().map(|l| if let Line::Whole(l) = l { Some(l.to_vec()) } else { None });
            prop_assert_eq!(got.unwrap_or_else(|| Some(Vec::new())), rest.unwrap());
        }
    }
}
