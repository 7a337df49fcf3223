//! A sliding view of a stream of bytes, with the position in the file.

use std::io::{self, Read};

/// How much is asked of the source at least.
const CHUNK: usize = 256 << 10;

#[derive(Debug)]
pub(crate) struct Window<R> {
    inner: R,
    buffer: Vec<u8>,
    start: usize,
    offset: u64,
    ended: bool,
}

impl<R: Read> Window<R> {
    pub(crate) fn new(inner: R) -> Window<R> {
        Window { inner, buffer: Vec::new(), start: 0, offset: 0, ended: false }
    }

    /// Where the view begins in the file.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// The next `n` bytes, fewer only at the end. Memory grows with what is really there, not with `n`.
    pub(crate) fn fill(&mut self, n: usize) -> io::Result<&[u8]> {
        if self.buffer.len() - self.start < n && !self.ended {
            self.buffer.drain(..self.start);
            self.start = 0;
            let want = (n - self.buffer.len()).max(CHUNK);
            let got = (&mut self.inner).take(want as u64).read_to_end(&mut self.buffer)?;
            self.ended = got < want;
        }
        let end = self.buffer.len().min(self.start.saturating_add(n));
        Ok(&self.buffer[self.start..end])
    }

    /// Moves on by `n` bytes that were seen through [`Window::fill`].
    pub(crate) fn skip(&mut self, n: usize) {
        let n = n.min(self.buffer.len() - self.start);
        self.start += n;
        self.offset += n as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slides_to_the_end() {
        let bytes: Vec<u8> = (0..CHUNK * 2 + 7).map(|i| i as u8).collect();
        let mut w = Window::new(&bytes[..]);
        for step in [0, 1, CHUNK, 5, CHUNK - 100] {
            let at = w.offset() as usize;
            assert_eq!(w.fill(300).unwrap(), &bytes[at..at + 300]);
            assert_eq!(w.fill(step).unwrap(), &bytes[at..at + step]);
            w.skip(step);
        }
        let rest = w.fill(usize::MAX >> 1).unwrap().len();
        assert_eq!(w.offset() as usize + rest, bytes.len());
        w.skip(rest);
        assert!(w.fill(10).unwrap().is_empty());
    }
}
