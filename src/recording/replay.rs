//! A recording in either form: tells them apart by their first byte.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use whystall_event::Stream;

use super::json::JsonReader;
use super::{Item, MAGIC, ReadError, Reader};

/// Where a recording comes from.
pub type Input = Box<dyn Read + Send>;

/// A recording that is read back.
pub enum Replay {
    /// The binary form.
    Binary(Box<Reader<Input>>),
    /// JSON lines.
    Json(Box<JsonReader<Input>>),
}

impl std::fmt::Debug for Replay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Replay::Binary(_) => "Replay::Binary",
            Replay::Json(_) => "Replay::Json",
        })
    }
}

impl Replay {
    /// Opens the file at `path`, or standard input if it is `-`. The schema and the interval are for JSON lines, as in
    /// [`JsonReader::new`].
    ///
    /// # Errors
    /// If it cannot be read, or begins like the binary form and is none.
    pub fn open<'a>(
        path: &Path,
        schema: impl IntoIterator<Item = &'a Stream>,
        interval_ns: u64,
    ) -> Result<Replay, ReadError> {
        let input: Input =
            if path == Path::new("-") { Box::new(io::stdin()) } else { Box::new(File::open(path)?) };
        Replay::new(input, schema, interval_ns)
    }

    /// Reads what `input` has.
    ///
    /// # Errors
    /// As [`Replay::open`].
    pub fn new<'a>(
        mut input: Input,
        schema: impl IntoIterator<Item = &'a Stream>,
        interval_ns: u64,
    ) -> Result<Replay, ReadError> {
        let mut first = Vec::new();
        input.by_ref().take(1).read_to_end(&mut first)?;
        let binary = first.first() == MAGIC.first();
        let input: Input = Box::new(io::Cursor::new(first).chain(input));
        Ok(if binary {
            Replay::Binary(Box::new(Reader::new(input)?))
        } else {
            Replay::Json(Box::new(JsonReader::new(input, schema, interval_ns)))
        })
    }

    /// The next item, or `None` at the end. After [`ReadError::Damaged`] it can be called again.
    ///
    /// # Errors
    /// If the input cannot be read or is damaged.
    #[allow(clippy::should_implement_trait)] // It lends the batch, which `Iterator` cannot.
    pub fn next(&mut self) -> Result<Option<Item<'_>>, ReadError> {
        match self {
            Replay::Binary(reader) => reader.next(),
            Replay::Json(reader) => Ok(reader.next()?),
        }
    }

    /// What was read so far, as one line for people.
    pub fn summary(&self) -> String {
        match self {
            Replay::Binary(reader) => reader.summary().to_string(),
            Replay::Json(reader) => reader.summary().to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Header, Tick, Writer};
    use super::*;

    #[test]
    fn forms_are_told_apart() {
        let mut writer = Writer::new(Vec::new(), &Header::default()).unwrap();
        writer.tick(&Tick::default()).unwrap();
        let binary = writer.finish().unwrap().0;
        let json = b"{\"t\":1,\"stream\":\"s\",\"x\":1}\n".to_vec();
        for (bytes, says) in [
            (binary, "read 1 ticks and 0 events in 1 blocks"),
            (json, "read 1 events in 1 lines"),
            (Vec::new(), "read 0 events in 0 lines"),
        ] {
            let mut replay = Replay::new(Box::new(io::Cursor::new(bytes)), &[], 0).unwrap();
            while replay.next().unwrap().is_some() {}
            assert_eq!(replay.summary(), says);
        }
        assert!(Replay::new(Box::new(&b"\x93wsrec"[..]), &[], 0).is_err());
        assert!(matches!(Replay::open(Path::new("/nonexistent"), &[], 0), Err(ReadError::Io(_))));
    }
}
