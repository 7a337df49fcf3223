//! Cuts a recording down to what a test or a report needs: `trim_recording FROM TO PREFIX STREAM...` keeps the streams
//! named, and of the rows about control groups the root's and those whose path begins with PREFIX.

#![expect(clippy::print_stderr, reason = "it says what it has written")]

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use whystall::daemon::sources;
use whystall::recording::{Header, Item, Replay, Writer};
use whystall_event::{Batch, Subject};

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [from, to, prefix, streams @ ..] = words.as_slice() else {
        bail!("usage: trim_recording FROM TO PREFIX STREAM...");
    };
    let keep: HashSet<&str> = streams.iter().map(String::as_str).collect();
    let schema = sources::any_host(Duration::from_secs(1));
    let known: Vec<_> = schema.streams().map(|(_, s)| s.clone()).collect();
    let mut recording = Replay::open(Path::new(from), known.iter().map(AsRef::as_ref), 1_000_000_000)
        .with_context(|| from.clone())?;
    let header = match &recording {
        // Who it was is nobody's business.
        Replay::Binary(r) => Header { host: "lab".into(), ..r.header().clone() },
        Replay::Json(_) => Header { host: "lab".into(), interval_ns: 1_000_000_000, ..Header::default() },
    };
    let mut out = Writer::create(Path::new(to), &header).with_context(|| to.clone())?;
    while let Some(item) = recording.next()? {
        match item {
            Item::Batch(b) if keep.contains(&*b.stream.name) => out.batch(&trimmed(b, prefix))?,
            Item::Batch(_) => {}
            Item::Tick(t) => out.tick(&t)?,
        }
    }
    let (_, written) = out.finish()?;
    eprintln!("{written:?}");
    Ok(())
}

fn trimmed(b: &Batch, prefix: &str) -> Batch {
    let mut out = b.clone();
    out.clear(b.at);
    out.covered_to = b.covered_to;
    out.gone = b.gone.iter().filter(|s| wanted(s, prefix)).cloned().collect();
    for row in b.rows() {
        if !wanted(row.subject, prefix) {
            continue;
        }
        let mut copy = out.row_at(row.subject.clone(), row.boot_ns);
        for i in 0..b.stream.fields.len() {
            if let Some(text) = row.text(i) {
                copy.text(i, text.clone());
            } else if let Some(x) = row.number(i) {
                copy.number(i, x);
            }
        }
    }
    out
}

fn wanted(subject: &Subject, prefix: &str) -> bool {
    match subject {
        Subject::Cgroup(path) => path.as_ref() == "/" || path.starts_with(prefix),
        _ => true,
    }
}
