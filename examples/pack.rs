//! Turns events as JSON lines on standard input into a recording, which replays thirty times faster.
//!
//! `cargo run --release --example pack -- events.ws <events.jsonl`

#![expect(clippy::print_stderr, reason = "it says what it has read")]

use std::path::Path;

use whystall::recording::json::JsonReader;
use whystall::recording::{Header, Item, Writer};
use whystall_event::SEC;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let Some(to) = std::env::args().nth(1) else {
        eprintln!("usage: pack FILE <EVENTS");
        std::process::exit(2);
    };
    let mut reader = JsonReader::new(std::io::stdin().lock(), &[], SEC);
    let mut writer = Writer::create(Path::new(&to), &Header::default())?;
    while let Some(item) = reader.next()? {
        match item {
            Item::Batch(batch) => writer.batch(batch)?,
            Item::Tick(tick) => writer.tick(&tick)?,
        }
    }
    eprintln!("{}", reader.summary());
    writer.finish()?;
    Ok(())
}
