//! Round trips, cut files, damaged files and hostile files.

use std::fmt::Write as _;
use std::sync::Arc;

use proptest::prelude::*;
use whystall_event::{Batch, Field, SEC, Stamp, Stream, Subject, SubjectKind, Unit};

use super::format::{BLOCK_HEAD, BlockHead, KEY};
use super::record::{BATCH, STREAM, SUBJECT};
use super::wire::{put_str, put_varint};
use super::*;

const FIELDS: &[Field] = &[
    Field::counter("counter", Unit::Count, "a counter"),
    Field::gauge("gauge", Unit::Bytes, "a gauge"),
    Field::text("text", "a text"),
    Field::duration("duration", "a duration"),
];

fn streams() -> [Arc<Stream>; 3] {
    let kinds = &[SubjectKind::Host, SubjectKind::Cgroup];
    [
        Arc::new(Stream::sampled("sampled", "readings", kinds, FIELDS)),
        Arc::new(Stream::occurrences("happened", "occurrences", kinds, FIELDS)),
        Arc::new(Stream::sampled("bare", "", &[], &[])),
    ]
}

/// One row as a test writes it.
#[derive(Debug, Clone)]
struct TestRow {
    subject: usize,
    late: u64,
    counter: Option<u64>,
    gauge: Option<f64>,
    text: Option<u8>,
    duration: Option<u64>,
}

#[derive(Debug, Clone)]
enum Op {
    Tick(Tick),
    Batch {
        stream: usize,
        after: u64,
        covered: bool,
        gone: Vec<usize>,
        rows: Vec<TestRow>,
    },
    /// The last batch's rows again with counters grown: the path in place.
    Again {
        grow: u64,
    },
}

fn subject(i: usize) -> Subject {
    match i % 8 {
        0 => Subject::Host,
        1 => Subject::Cpu(i as u32),
        2 => Subject::Node(0),
        3 => Subject::Task(u32::MAX - i as u32),
        4 => Subject::Device("eth0\n\u{202e}".into()),
        _ => Subject::cgroup(format!("/a/{i}")),
    }
}

fn build(streams: &[Arc<Stream>; 3], stream: usize, at: Stamp, rows: &[TestRow]) -> Batch {
    let mut batch = Batch::new(streams[stream].clone(), at);
    for r in rows {
        let boot = if stream == 1 { at.boot_ns.wrapping_sub(r.late) } else { at.boot_ns };
        let mut row = batch.row_at(subject(r.subject), boot);
        if stream == 2 {
            continue;
        }
        if let Some(v) = r.counter {
            row.int(0, v);
        }
        if let Some(v) = r.gauge {
            row.gauge(1, v);
        }
        if let Some(v) = r.text {
            row.text(2, format!("text {}", v % 5));
        }
        if let Some(v) = r.duration {
            row.int(3, v);
        }
    }
    batch
}

/// Everything that a reader of a batch can see.
fn describe(b: &Batch) -> String {
    let mut out = format!("{} {:?} covered={} gone={:?}", b.stream.name, b.at, b.covered_to, b.gone);
    for row in b.rows() {
        write!(out, "\n  {} {} {:b}", row.subject, row.boot_ns, row.present).unwrap();
        for (i, f) in b.stream.fields.iter().enumerate() {
            match f.kind {
                whystall_event::FieldKind::Text => write!(out, " {:?}", row.text(i)).unwrap(),
                _ => write!(out, " {:x}", row.values[i]).unwrap(),
            }
        }
    }
    out
}

fn write(ops: &[Op]) -> (Vec<u8>, Vec<String>) {
    let streams = streams();
    let mut writer = Writer::new(Vec::new(), &Header::default()).unwrap();
    let mut now = Stamp { boot_ns: 5 * SEC, wall_ns: 1_800_000_000 * SEC };
    let mut last: Option<(usize, Vec<TestRow>)> = None;
    let mut want = Vec::new();
    for op in ops {
        match op {
            Op::Tick(t) => {
                writer.tick(t).unwrap();
                want.push(format!("{t:?}"));
            }
            Op::Batch { stream, after, covered, gone, rows } => {
                now.boot_ns += after;
                now.wall_ns += after;
                let mut b = build(&streams, *stream, now, rows);
                b.covered_to = *covered;
                b.gone = gone.iter().map(|i| subject(*i)).collect();
                writer.batch(&b).unwrap();
                want.push(describe(&b));
                last = Some((*stream, rows.clone()));
            }
            Op::Again { grow } => {
                let Some((stream, rows)) = &mut last else { continue };
                rows.iter_mut().for_each(|r| r.counter = r.counter.map(|c| c.wrapping_add(*grow)));
                let b = build(&streams, *stream, now, rows);
                writer.batch(&b).unwrap();
                want.push(describe(&b));
            }
        }
    }
    (writer.finish().unwrap().0, want)
}

/// Reads everything; items and errors.
fn read(bytes: &[u8]) -> (Vec<String>, Vec<ReadError>, Summary) {
    let mut reader = match Reader::new(bytes) {
        Ok(r) => r,
        Err(e) => return (Vec::new(), vec![e], Summary::default()),
    };
    let (mut items, mut errors) = (Vec::new(), Vec::new());
    loop {
        match reader.next() {
            Ok(Some(Item::Batch(b))) => items.push(describe(b)),
            Ok(Some(Item::Tick(t))) => items.push(format!("{t:?}")),
            Ok(None) => return (items, errors, reader.summary()),
            Err(e) => errors.push(e),
        }
    }
}

fn row() -> impl Strategy<Value = TestRow> {
    let number = || prop_oneof![Just(0), 0..300u64, any::<u64>()];
    let gauge = prop_oneof![(-1000..1000i32).prop_map(f64::from), any::<f64>(), Just(-0.0)];
    let option = |s: BoxedStrategy<u64>| prop_oneof![4 => s.prop_map(Some), 1 => Just(None)];
    (
        0..24usize,
        0..SEC,
        option(number().boxed()),
        prop::option::of(gauge),
        prop::option::of(any::<u8>()),
        option(number().boxed()),
    )
        .prop_map(|(subject, late, counter, gauge, text, duration)| TestRow {
            subject,
            late,
            counter,
            gauge,
            text,
            duration,
        })
}

fn op() -> impl Strategy<Value = Op> {
    let tick =
        (any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>(), any::<i64>()).prop_map(|(b, w, l, s, c)| {
            let at = Stamp { boot_ns: b, wall_ns: w };
            Op::Tick(Tick { at, late_ns: l, suspended_ns: s, clock_step_ns: c })
        });
    let batch = (
        0..3usize,
        0..20 * SEC,
        any::<bool>(),
        prop::collection::vec(0..24usize, 0..3),
        prop::collection::vec(row(), 0..12),
    )
        .prop_map(|(stream, after, covered, gone, rows)| Op::Batch {
            stream,
            after,
            covered,
            gone,
            rows,
        });
    prop_oneof![1 => tick, 3 => batch, 3 => any::<u64>().prop_map(|grow| Op::Again { grow })]
}

/// Ticks over several blocks; with 400 of them there is a key block in the middle.
fn sample(ticks: u64) -> (Vec<u8>, Vec<String>) {
    let mut ops = Vec::new();
    for i in 0..ticks {
        let row = |subject| TestRow {
            subject,
            late: 0,
            counter: Some(i * 10 + subject as u64),
            gauge: Some(0.5 * i as f64),
            text: Some((i / 100) as u8),
            duration: None,
        };
        ops.push(Op::Batch {
            stream: 0,
            after: SEC,
            covered: true,
            gone: vec![],
            rows: vec![row(0), row(5), row(6)],
        });
        let at = Stamp { boot_ns: (i + 6) * SEC, wall_ns: 7 };
        ops.push(Op::Tick(Tick { at, ..Tick::default() }));
    }
    write(&ops)
}

proptest! {
    #[test]
    fn anything_round_trips(ops in prop::collection::vec(op(), 0..40)) {
        let (bytes, want) = write(&ops);
        let (items, errors, summary) = read(&bytes);
        prop_assert!(errors.is_empty(), "{errors:?}");
        prop_assert_eq!(items, want);
        prop_assert_eq!(summary.ending, Ending::Finished);
    }

    /// Bytes changed inside blocks whose checksums are made right again: what a hostile file can say.
    #[test]
    fn hostile_blocks_are_safe(ops in prop::collection::vec(op(), 1..12), hits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let (bytes, _) = write(&ops);
        let mut forged = Vec::new();
        let mut hits = hits.iter();
        for_each_block(&bytes, |head, mut raw| {
            if let Some((at, with)) = hits.next().filter(|_| !raw.is_empty()) {
                let at = at.index(raw.len());
                raw[at] = *with;
            }
            forge(&mut forged, head.flags & !super::format::PACKED, head.number, &raw);
        });
        let start = Header::default().encode();
        read(&[start, forged].concat());
    }
}

fn for_each_block(bytes: &[u8], mut each: impl FnMut(BlockHead, Vec<u8>)) {
    let mut at = Header::default().encode().len();
    while let Some(head) = bytes.get(at..at + BLOCK_HEAD) {
        let head = BlockHead::decode(head.try_into().unwrap()).unwrap();
        let stored = &bytes[at + BLOCK_HEAD..at + BLOCK_HEAD + head.stored];
        let mut raw = stored.to_vec();
        if head.flags & super::format::PACKED != 0 {
            pack::unpack(stored, head.raw, &mut raw).unwrap();
        }
        each(head, raw);
        at += BLOCK_HEAD + head.stored;
    }
}

fn forge(out: &mut Vec<u8>, flags: u8, number: u32, raw: &[u8]) {
    let head = BlockHead { flags, number, stored: raw.len(), raw: raw.len(), crc: crc32fast::hash(raw) };
    out.extend_from_slice(&head.encode());
    out.extend_from_slice(raw);
}

#[test]
fn a_cut_file_reads_up_to_the_cut() {
    let (bytes, want) = sample(18);
    let mut longest = 0;
    for end in 0..bytes.len() {
        let (items, errors, summary) = read(&bytes[..end]);
        assert_eq!(items, want[..items.len()], "cut at {end}");
        if end < Header::default().encode().len() {
            assert!(matches!(errors[..], [ReadError::NotARecording(_)]), "cut at {end}: {errors:?}");
            continue;
        }
        assert!(errors.is_empty(), "cut at {end}: {errors:?}");
        let Ending::Cut { offset, bytes } = summary.ending else { panic!("cut at {end}: {summary:?}") };
        assert_eq!(offset + bytes, end as u64);
        assert!(items.len() >= longest);
        longest = items.len();
    }
    assert_eq!(longest, want.len());
    // A file system may leave zeros or old bytes behind the last block that was synced.
    for tail in [[0u8; 5000], [0x5a; 5000]] {
        let cut = bytes.len() - BLOCK_HEAD - 40;
        let (items, errors, summary) = read(&[&bytes[..cut], &tail[..]].concat());
        assert!(errors.is_empty() && items.len() >= want.len() - 12);
        assert!(matches!(summary.ending, Ending::Cut { .. }));
    }
}

#[test]
fn damage_in_the_middle_is_named_and_passed() {
    let (bytes, want) = sample(400);
    let mut blocks = Vec::new();
    let mut at = Header::default().encode().len();
    for_each_block(&bytes, |head, _| {
        blocks.push((at, head));
        at += BLOCK_HEAD + head.stored;
    });
    let keys: Vec<usize> = blocks.iter().filter(|b| b.1.flags & KEY != 0).map(|b| b.0).collect();
    assert!(keys.len() >= 2, "the sample has {} key blocks", keys.len());
    for place in [0, BLOCK_HEAD + 3] {
        let mut bad = bytes.clone();
        bad[blocks[3].0 + place] ^= 0x10;
        let (items, errors, summary) = read(&bad);
        let [ReadError::Damaged { offset, resume, .. }] = &errors[..] else { panic!("{errors:?}") };
        assert_eq!((*offset, *resume), (blocks[3].0 as u64, Some(keys[1] as u64)));
        assert_eq!((summary.damaged, summary.ending), (1, Ending::Finished));
        let before = items.iter().zip(&want).take_while(|(a, b)| a == b).count();
        let after = items.iter().rev().zip(want.iter().rev()).take_while(|(a, b)| a == b).count();
        assert!(
            before > 20 && after > 20 && before + after == items.len(),
            "{before} {after} of {}",
            items.len()
        );
    }
    // A block that is missing altogether.
    let hole = [&bytes[..blocks[3].0], &bytes[blocks[4].0..]].concat();
    let (_, errors, _) = read(&hole);
    assert!(errors[0].to_string().contains("blocks are missing before it; going on at byte"), "{errors:?}");
    // Damage in the last blocks, with the end mark behind it: an error, since the file is whole.
    let mut bad = bytes.clone();
    bad[blocks[blocks.len() - 2].0 + BLOCK_HEAD] ^= 1;
    let (_, errors, summary) = read(&bad);
    assert!(matches!(errors[..], [ReadError::Damaged { resume: None, .. }]), "{errors:?}");
    assert_eq!(summary.ending, Ending::Finished);
}

#[test]
fn any_changed_bit_is_safe_and_shows() {
    let (bytes, want) = sample(18);
    for at in 0..bytes.len() {
        let mut bad = bytes.clone();
        bad[at] ^= 1 << (at % 8);
        let (items, errors, summary) = read(&bad);
        assert!(!errors.is_empty() || matches!(summary.ending, Ending::Cut { .. }), "byte {at}");
        assert!(items.iter().all(|i| want.contains(i)), "byte {at}");
    }
}

#[test]
fn foreign_files_are_refused() {
    for (bytes, says) in [
        (&b""[..], "it is empty"),
        (b"{\"t\":1}\n", "it does not begin like one"),
        (b"\x93wsrec\r\n\x01", "it ends within its header"),
        (b"\x93wsrec\r\n\x01\0\xff\xff\xff\xff", "longer than 64 KiB"),
        (b"\x93wsrec\r\n\x01\0\x01\0\0\0\0\0\0\0\0", "checksum"),
        (b"\x93wsrec\r\n\x02\0\x01\0\0\0", "version 2"),
    ] {
        let (_, errors, _) = read(bytes);
        assert!(errors[0].to_string().contains(says), "{errors:?}");
    }
}

#[test]
fn a_small_file_cannot_ask_for_much_memory() {
    // Batches of 524288 rows in 9 bytes each, of ever new streams.
    let mut raw = vec![SUBJECT, 0];
    for i in 0..100u64 {
        raw.push(STREAM);
        put_str(&mut raw, &format!("s{i}"));
        put_str(&mut raw, "");
        raw.extend([0, 0, 0]);
        raw.push(BATCH);
        put_varint(&mut raw, i);
        raw.extend([8, 0, 0]);
        put_varint(&mut raw, 1 << 19);
        raw.extend([0, 0]);
    }
    let mut file = Header::default().encode();
    forge(&mut file, KEY, 0, &raw);
    let mut reader = Reader::new(&file[..]).unwrap();
    let mut rows = 0;
    let error = loop {
        match reader.next() {
            Ok(Some(Item::Batch(b))) => rows += b.len(),
            Ok(other) => panic!("{other:?}"),
            Err(e) => break e,
        }
    };
    assert!(error.to_string().contains("its batches are too large"), "{error}");
    assert_eq!(rows, super::format::limit::VALUES);
}

#[test]
fn a_batch_that_is_too_large_is_left_out_and_the_rest_goes_on() {
    let stream = streams()[0].clone();
    let mut writer = Writer::new(Vec::new(), &Header::default()).unwrap();
    let mut want = Vec::new();
    for i in 0..3 {
        let mut b = Batch::new(stream.clone(), Stamp { boot_ns: i, wall_ns: i });
        b.row(subject(6)).int(0, i).text(2, "x".repeat(if i == 1 { 17 << 20 } else { 3 }));
        b.row(subject(7)).int(0, i);
        match writer.batch(&b) {
            Ok(()) => want.push(describe(&b)),
            Err(e) => assert_eq!(
                e.to_string(),
                "a batch of `sampled` was not recorded: its texts have more than 16 MiB"
            ),
        }
    }
    let (items, errors, _) = read(&writer.finish().unwrap().0);
    assert!(errors.is_empty());
    assert_eq!((want.len(), items), (2, want));
}

#[test]
fn dictionaries_begin_anew_before_they_grow_without_end() {
    let stream = streams()[1].clone();
    let mut writer = Writer::new(Vec::new(), &Header::default()).unwrap();
    for i in 0..40u64 {
        let mut b = Batch::new(stream.clone(), Stamp { boot_ns: i, wall_ns: i });
        for j in 0..1000 {
            b.row(Subject::Host).text(2, format!("{i} {j} {}", "m".repeat(1000)));
        }
        writer.batch(&b).unwrap();
    }
    let bytes = writer.finish().unwrap().0;
    let (mut keys, mut first) = (0, None);
    for_each_block(&bytes, |head, _| keys += usize::from(head.flags & KEY != 0));
    assert!((4..40).contains(&keys), "{keys} key blocks");
    // The stream keeps its identity across them.
    let mut reader = Reader::new(&bytes[..]).unwrap();
    while let Some(Item::Batch(b)) = reader.next().unwrap() {
        assert!(Arc::ptr_eq(first.get_or_insert_with(|| b.stream.clone()), &b.stream));
    }
}

#[test]
fn a_failed_write_ends_the_recording() {
    #[derive(Debug)]
    struct Full(usize);
    impl std::io::Write for Full {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 = self.0.checked_sub(bytes.len()).ok_or(std::io::ErrorKind::StorageFull)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    impl Output for Full {
        fn sync(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut writer = Writer::new(Full(200), &Header::default()).unwrap();
    let tick = |i| Tick { at: Stamp { boot_ns: i * SEC, wall_ns: 0 }, ..Tick::default() };
    let failed = (0..100).find(|i| writer.tick(&tick(*i)).is_err()).unwrap();
    assert!(failed > 5);
    assert!(matches!(writer.tick(&tick(100)), Err(WriteError::Io(_))));
}

#[test]
fn files_are_private_and_replay() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.rec");
    let header =
        Header { host: "node-1".into(), kernel: "6.18.0".into(), interval_ns: SEC, ..Header::default() };
    let mut writer = Writer::create(&path, &header).unwrap();
    writer.tick(&Tick::default()).unwrap();
    writer.finish().unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let mut reader = Reader::open(&path).unwrap();
    assert_eq!(*reader.header(), header);
    assert!(matches!(reader.next(), Ok(Some(Item::Tick(t))) if t == Tick::default()));
    assert!(matches!(reader.next(), Ok(None)));
    assert_eq!(reader.summary().to_string(), "read 1 ticks and 0 events in 1 blocks");
}
