//! Batches as JSON lines.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::sync::Arc;

use whystall_event::{Batch, FieldKind, Mode, RowRef, Stamp, Stream, Unit};

use super::declare;
use super::number::put_scaled;

/// Writes batches as JSON lines that [`super::JsonReader`] reads back. `t` is seconds since 1970 by the wall clock as it
/// stood when the recording began, so that setting the clock does not disturb the order. Ticks are not written.
#[derive(Debug)]
pub struct JsonWriter<W: Write> {
    out: W,
    start: Stamp,
    declared: Vec<Arc<Stream>>,
    text: String,
    rows: u64,
}

impl<W: Write> JsonWriter<W> {
    /// Begins at `start`. Give it a buffered `out`; [`JsonWriter::flush`] after each tick.
    pub fn new(out: W, start: Stamp) -> JsonWriter<W> {
        JsonWriter { out, start, declared: Vec::new(), text: String::new(), rows: 0 }
    }

    /// Writes a batch, a line for each row, after the stream's declaration if it is new.
    pub fn batch(&mut self, batch: &Batch) -> io::Result<()> {
        self.text.clear();
        if !self.declared.iter().any(|d| Arc::ptr_eq(d, &batch.stream) || *d == batch.stream) {
            self.text.push_str(&declare::format(&batch.stream));
            self.text.push('\n');
            self.declared.push(batch.stream.clone());
        }
        let happened = batch.stream.mode == Mode::Occurrences;
        if !batch.gone.is_empty() || (happened && (batch.is_empty() || !batch.covered_to)) {
            self.head(&batch.stream, batch.at.boot_ns);
            if !batch.gone.is_empty() {
                self.text.push_str(",\"gone\":[");
                for (i, s) in batch.gone.iter().enumerate() {
                    self.text.push_str(if i == 0 { "" } else { "," });
                    quote(&mut self.text, &s.to_string());
                }
                self.text.push(']');
            }
            if !batch.covered_to {
                self.text.push_str(",\"covered\":false");
            }
            self.text.push_str("}\n");
        }
        for row in batch.rows() {
            self.row(&batch.stream, &row);
        }
        self.rows += batch.len() as u64;
        self.out.write_all(self.text.as_bytes())
    }

    /// Hands what was written to the operating system.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// Rows written so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Flushes and hands the output back.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.flush()?;
        Ok(self.out)
    }

    fn head(&mut self, stream: &Stream, boot_ns: u64) {
        self.text.push_str("{\"t\":");
        put_scaled(&mut self.text, self.start.wall_at(boot_ns), 9);
        self.text.push_str(",\"stream\":");
        quote(&mut self.text, &stream.name);
    }

    fn row(&mut self, stream: &Stream, row: &RowRef<'_>) {
        self.head(stream, row.boot_ns);
        self.text.push_str(",\"subject\":");
        quote(&mut self.text, &row.subject.to_string());
        self.text.push_str(",\"fields\":{");
        let mut comma = "";
        for (i, field) in stream.fields.iter().enumerate().filter(|(i, _)| row.has(*i)) {
            self.text.push_str(std::mem::replace(&mut comma, ","));
            quote(&mut self.text, &field.name);
            self.text.push(':');
            let bits = row.values.get(i).copied().unwrap_or(0);
            match field.kind {
                FieldKind::Counter | FieldKind::Duration => {
                    put_scaled(&mut self.text, bits, if field.unit == Unit::Time { 6 } else { 0 });
                }
                FieldKind::Gauge => {
                    // The shortest form that reads back as the same number. Writing to a String cannot fail.
                    let _ = write!(self.text, "{:?}", f64::from_bits(bits) / field.unit.scale());
                }
                FieldKind::Text => match row.text(i) {
                    Some(t) => quote(&mut self.text, t),
                    None => self.text.push_str("null"),
                },
            }
        }
        self.text.push_str("}}\n");
    }
}

/// Appends JSON text. Everything that is not printable ASCII or a letter of another script is safe in it already.
fn quote(out: &mut String, s: &str) {
    out.push('"');
    for c in s.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
}
