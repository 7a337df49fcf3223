//! Size and speed of recordings: `cargo bench --bench recording`. Prints one line a figure; asserts nothing about time.
//! Times are the thread's CPU time, so that a busy machine disturbs them less.
#![allow(missing_docs, clippy::print_stdout, clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::hint::black_box;
use std::sync::Arc;

use common::{Cpu, Rng, at};
use whystall::recording::json::{JsonReader, JsonWriter};
use whystall::recording::{Header, Item, Reader, Tick, Writer};
use whystall_event::{Batch, Field, SEC, Stream, Subject, SubjectKind, Unit};

const SUBJECTS: usize = 1000;
const TICKS: u64 = 3600;

fn subjects() -> Vec<Subject> {
    let mut rng = Rng(7);
    (0..SUBJECTS).map(|_| Subject::cgroup(rng.cgroup())).collect()
}

/// How a counter moves in one tick for subject `i`.
type Step = fn(&mut Rng, usize) -> u64;

fn record(fields: usize, step: Step) -> (Vec<u8>, f64) {
    let names: Vec<Field> = (0..fields)
        .map(|i| {
            let mut f = Field::counter("", Unit::Count, "a counter");
            f.name = format!("field_{i}").into();
            f
        })
        .collect();
    let mut stream = Stream::sampled("memcg", "memory of control groups", &[SubjectKind::Cgroup], &[]);
    stream.fields = names.into();
    let stream = Arc::new(stream);
    let subjects = subjects();
    let mut rng = Rng(1);
    let mut values = vec![0u64; SUBJECTS * fields];
    let mut writer = Writer::new(Vec::new(), &Header::default()).unwrap();
    let mut spent = 0.0;
    for tick in 0..TICKS {
        let mut batch = Batch::new(stream.clone(), at(tick));
        for (i, subject) in subjects.iter().enumerate() {
            let mut row = batch.row(subject.clone());
            for f in 0..fields {
                let v = &mut values[i * fields + f];
                *v += step(&mut rng, i);
                row.int(f, *v);
            }
        }
        let begun = Cpu::now();
        writer.batch(&batch).unwrap();
        writer.tick(&Tick { at: at(tick), ..Tick::default() }).unwrap();
        spent += begun.elapsed();
    }
    (writer.finish().unwrap().0, spent)
}

fn replay(bytes: &[u8]) -> (f64, u64) {
    let begun = Cpu::now();
    let mut reader = Reader::new(bytes).unwrap();
    let mut rows = 0;
    let mut sum = 0u64;
    while let Some(item) = reader.next().unwrap() {
        if let Item::Batch(batch) = item {
            rows += batch.len() as u64;
            sum = sum.wrapping_add(batch.rows().last().map_or(0, |r| r.values[0]));
        }
    }
    black_box(sum);
    (begun.elapsed(), rows)
}

fn binary(name: &str, fields: usize, step: Step) {
    let samples = (SUBJECTS * fields) as f64 * TICKS as f64;
    let (bytes, write) = record(fields, step);
    let (read, rows) = (0..5).map(|_| replay(&bytes)).min_by(|a, b| a.0.total_cmp(&b.0)).unwrap();
    assert_eq!(rows, SUBJECTS as u64 * TICKS);
    println!(
        "{name:<44} {:>6.2} B/sample  write {:>5.1} ns/sample  read {:>5.2} ns/sample ({:.0} M/s)",
        bytes.len() as f64 / samples,
        write * 1e9 / samples,
        read * 1e9 / samples,
        samples / read / 1e6
    );
}

/// The binary recording's events as JSON lines, and back.
fn json(name: &str, edit: impl Fn(&str) -> String) {
    const MOST: usize = 1_000_000;
    let (bytes, _) = record(1, |r, _| r.next() % 10_000);
    let mut reader = Reader::new(&bytes[..]).unwrap();
    let mut writer = JsonWriter::new(Vec::new(), at(0));
    let mut schema = Vec::new();
    let begun = Cpu::now();
    while let Some(item) = reader.next().unwrap() {
        if let Item::Batch(batch) = item {
            writer.batch(batch).unwrap();
            schema = vec![Stream::clone(&batch.stream)];
        }
        if writer.rows() >= MOST as u64 {
            break;
        }
    }
    let rows = writer.rows() as f64;
    let text = String::from_utf8(writer.finish().unwrap()).unwrap();
    let write = begun.elapsed();
    let text = edit(&text);
    let once = || {
        let begun = Cpu::now();
        let mut reader = JsonReader::new(text.as_bytes(), &schema, SEC);
        let mut sum = 0;
        while let Some(item) = reader.next().unwrap() {
            if let Item::Batch(batch) = item {
                sum += batch.len();
            }
        }
        assert_eq!(sum as f64, rows, "{:?}", reader.summary());
        begun.elapsed()
    };
    let read = (0..5).map(|_| once()).min_by(f64::total_cmp).unwrap();
    println!(
        "{name:<44} {:>6.0} B/event   write {:>5.0} ns/event   read {:>5.0} ns/event ({:.1} M/s)",
        text.len() as f64 / rows,
        write * 1e9 / rows,
        read * 1e9 / rows,
        rows / read / 1e6
    );
}

fn main() {
    println!("recording: {SUBJECTS} cgroups, {TICKS} ticks");
    binary("1 counter, all busy (0..10000 a tick)", 1, |r, _| r.next() % 10_000);
    binary("1 counter, a tenth busy", 1, |r, i| if i.is_multiple_of(10) { r.next() % 10_000 } else { 0 });
    binary("1 counter, small steps (0..100)", 1, |r, _| r.next() % 100);
    binary("10 counters, a tenth busy", 10, |r, i| if i.is_multiple_of(10) { r.next() % 10_000 } else { 0 });
    binary("10 counters, all busy (0..100000)", 10, |r, _| r.next() % 100_000);
    println!("JSON lines: 1 field a line, 1000 cgroups");
    json("as written", str::to_string);
    json("RFC 3339 times, flat", |text| {
        let line = |l: &str| {
            let Some((t, rest)) = l.strip_prefix("{\"t\":").and_then(|l| l.split_once(',')) else {
                return format!("{l}\n");
            };
            let (secs, ns) = t.split_once('.').unwrap_or((t, ""));
            let wall = secs.parse::<u64>().unwrap() * SEC + format!("{ns:0<9}").parse::<u64>().unwrap();
            let rest = rest.replace("\"fields\":{", "").replace("}}", "}");
            format!("{{\"ts\":\"{}\",{rest}\n", whystall_event::format_rfc3339(wall))
        };
        text.lines().map(line).collect()
    });
    json("short subjects", |text| {
        let mut out = String::with_capacity(text.len());
        for l in text.lines() {
            match (l.find("/kubepods"), l.find("-pod")) {
                (Some(a), Some(b)) => {
                    out.push_str(&l[..a]);
                    out.push('/');
                    out.push_str(&l[b + 4..b + 12]);
                    out.push_str(&l[l.find(".scope").unwrap() + 6..]);
                }
                _ => out.push_str(l),
            }
            out.push('\n');
        }
        out
    });
}
