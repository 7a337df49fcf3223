//! Lines of a stream, without copying them, as soon as they are there.

use std::io::{self, Read};

/// Longer lines are passed over.
pub(crate) const LONGEST: usize = 1 << 20;

#[derive(Debug)]
pub(crate) struct Lines<R> {
    inner: R,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    ended: bool,
    skipping: bool,
    /// The number of the line that was read last, from 1.
    pub(crate) number: u64,
}

/// One line without its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// Where it is; see [`Lines::bytes`].
    Line(usize, usize),
    /// It is longer than [`LONGEST`].
    TooLong,
    End,
}

impl<R: Read> Lines<R> {
    pub(crate) fn new(inner: R) -> Lines<R> {
        Lines {
            inner,
            buffer: vec![0; 128 << 10],
            start: 0,
            end: 0,
            ended: false,
            skipping: false,
            number: 0,
        }
    }

    /// The bytes of a line, until the next is asked for.
    pub(crate) fn bytes(&self, start: usize, end: usize) -> &[u8] {
        self.buffer.get(start..end).unwrap_or_default()
    }

    pub(crate) fn next(&mut self) -> io::Result<Found> {
        let mut searched = 0;
        loop {
            let waiting = &self.buffer[self.start..self.end];
            if let Some(i) = memchr::memchr(b'\n', &waiting[searched..]) {
                let from = self.start;
                self.start += searched + i + 1;
                self.number += 1;
                if !std::mem::take(&mut self.skipping) && self.start - 1 - from <= LONGEST {
                    return Ok(Found::Line(from, self.start - 1));
                }
                return Ok(Found::TooLong);
            }
            searched = waiting.len();
            if self.ended {
                let (from, to) = (self.start, self.end);
                self.start = self.end;
                if std::mem::take(&mut self.skipping) {
                    self.number += 1;
                    return Ok(Found::TooLong);
                }
                if from == to {
                    return Ok(Found::End);
                }
                self.number += 1;
                return Ok(Found::Line(from, to));
            }
            if searched > LONGEST || self.skipping {
                self.skipping = true;
                self.start = self.end;
                searched = 0;
            }
            self.refill()?;
        }
    }

    fn refill(&mut self) -> io::Result<()> {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if self.end == self.buffer.len() {
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
        loop {
            match self.inner.read(&mut self.buffer[self.end..]) {
                Ok(n) => {
                    self.end += n;
                    self.ended = n == 0;
                    return Ok(());
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives a few bytes at a time.
    struct Slow<'a>(&'a [u8], usize);

    impl Read for Slow<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let n = self.1.min(self.0.len()).min(into.len());
            into[..n].copy_from_slice(&self.0[..n]);
            self.0 = &self.0[n..];
            Ok(n)
        }
    }

    #[test]
    fn lines_of_all_lengths() {
        let long = "x".repeat(LONGEST + 300_000);
        let middle = "y".repeat(300_000);
        let text = format!("a\n\n{long}\n{middle}\n{long}\nlast");
        for step in [1 << 20, 4096, 7] {
            let mut lines = Lines::new(Slow(text.as_bytes(), step));
            let mut seen = Vec::new();
            loop {
                match lines.next().unwrap() {
                    Found::Line(a, b) => seen.push(Some(lines.bytes(a, b).len())),
                    Found::TooLong => seen.push(None),
                    Found::End => break,
                }
            }
            assert_eq!(seen, [Some(1), Some(0), None, Some(300_000), None, Some(4)], "in steps of {step}");
            assert_eq!(lines.number, 6);
            assert!(lines.buffer.len() <= 4 * LONGEST);
        }
        assert_eq!(Lines::new(&b""[..]).next().unwrap(), Found::End);
    }
}
