//! Lines in, items out.

use proptest::prelude::*;
use whystall_event::{Field, FieldKind, SEC, Stamp, SubjectKind, Unit};

use super::super::record::Tick;
use super::*;

const FIELDS: &[Field] = &[
    Field::counter("pgscan_direct", Unit::Pages, ""),
    Field::counter("stall", Unit::Time, ""),
    Field::gauge("pressure", Unit::Ratio, ""),
    Field::text("state", ""),
];
const HAPPENED: &[Field] = &[Field::duration("duration", ""), Field::text("comm", "")];
const SCHEMA: &[Stream] = &[
    Stream::sampled("vmstat", "", &[SubjectKind::Host], FIELDS),
    Stream::occurrences("reclaim", "", &[SubjectKind::Task], HAPPENED),
];

fn show(item: &Item) -> String {
    match item {
        Item::Tick(Tick { at, late_ns, .. }) => {
            format!("tick {}{}", at.boot_ns as f64 / 1e9, if *late_ns > 0 { " late" } else { "" })
        }
        Item::Batch(b) => {
            let mut out = format!("{} {}", b.stream.name, b.at.boot_ns as f64 / 1e9);
            if !b.covered_to {
                out += " not covered";
            }
            for g in &b.gone {
                out += &format!(" gone {g}");
            }
            for r in b.rows() {
                out += &format!(" | {}", r.subject);
                if r.boot_ns != b.at.boot_ns {
                    out += &format!(" @{}", r.boot_ns as f64 / 1e9);
                }
                for (i, f) in b.stream.fields.iter().enumerate().filter(|(i, _)| r.has(*i)) {
                    match f.kind {
                        FieldKind::Text => out += &format!(" {}={}", f.name, r.text(i).unwrap()),
                        _ => out += &format!(" {}={}", f.name, r.number(i).unwrap()),
                    }
                }
            }
            out
        }
    }
}

fn read(text: &str) -> (Vec<String>, JsonSummary) {
    let mut reader = JsonReader::new(text.as_bytes(), SCHEMA, SEC);
    let mut items = Vec::new();
    while let Some(item) = reader.next().unwrap() {
        items.push(show(&item));
    }
    (items, reader.summary().clone())
}

#[track_caller]
fn check(text: &str, want: &[&str]) {
    let (items, summary) = read(text);
    assert_eq!(items, want);
    assert_eq!(summary.problems, []);
}

#[test]
fn values_have_their_units_and_kinds() {
    check(
        r#"{"t":12.5,"stream":"vmstat","subject":"host","fields":{"pgscan_direct":123,"stall":1.5,"pressure":0.25,"state":"a\tb"}}"#,
        &["vmstat 12.5 | host pgscan_direct=123 stall=1500000 pressure=0.25 state=a\tb", "tick 12.5"],
    );
    check(
        r#"{"t":1,"stream":"reclaim","subject":"task:7","fields":{"duration":0.000001,"comm":"x"}}"#,
        &["reclaim 1 | task:7 duration=1 comm=x", "tick 1"],
    );
}

#[test]
fn keys_may_stand_in_any_order_and_flat() {
    check(
        "{\"pressure\": true, \"stream\": \"vmstat\", \"state\": null, \"ts\": 3}\r\n\n{\"@timestamp\":\"1970-01-01T00:00:04Z\",\"stream\":\"vmstat\",\"other\":[{}],\"fields\":{\"pressure\":1e-1}}",
        &["vmstat 3 | host pressure=1", "tick 3", "vmstat 4 | host pressure=0.1", "tick 4"],
    );
}

#[test]
fn lines_of_one_field_become_rows() {
    check(
        r#"{"t":1,"stream":"vmstat","pgscan_direct":1}
{"t":1,"stream":"vmstat","pressure":0.5}
{"t":1,"stream":"vmstat","subject":"cpu:1","pressure":0.5}
{"t":1,"stream":"vmstat","subject":"cpu:1","pressure":0.6}"#,
        &["vmstat 1 | host pgscan_direct=1 pressure=0.5 | cpu:1 pressure=0.5 | cpu:1 pressure=0.6", "tick 1"],
    );
}

#[test]
fn ticks_come_from_the_data() {
    check(
        r#"{"t":10,"stream":"vmstat","pressure":1}
{"t":10.4,"stream":"vmstat","pressure":2}
{"t":11.0,"stream":"vmstat","pressure":3}
{"t":13.5,"stream":"vmstat","pressure":4}"#,
        &[
            "vmstat 10 | host pressure=1",
            "tick 10",
            "vmstat 10.4 | host pressure=2",
            "vmstat 11 | host pressure=3",
            "tick 11",
            "tick 12",
            "tick 13",
            "vmstat 13.5 | host pressure=4",
            "tick 14",
        ],
    );
}

#[test]
fn order_is_mended_within_an_interval() {
    let (items, summary) = read(
        r#"{"t":10,"stream":"vmstat","pressure":1}
{"t":9.5,"stream":"vmstat","pressure":2}
{"t":11,"stream":"vmstat","pressure":3}
{"t":10.5,"stream":"vmstat","pressure":4}
{"t":12,"stream":"vmstat","pressure":5}
{"t":9.9,"stream":"vmstat","pressure":6}"#,
    );
    assert_eq!(
        items,
        [
            "vmstat 9.5 | host pressure=2",
            "vmstat 10 | host pressure=1",
            "tick 10",
            "vmstat 10.5 | host pressure=4",
            "vmstat 11 | host pressure=3",
            "tick 11",
            "vmstat 12 | host pressure=5",
            "tick 12"
        ]
    );
    assert_eq!((summary.late, summary.events, summary.malformed), (1, 5, 0));
    assert_eq!(
        summary.to_string(),
        "read 5 events in 6 lines; 1 lines are out of order by more than an interval"
    );
}

#[test]
fn silence_of_occurrences_is_told() {
    check(
        r#"{"declare":{"stream":"oom","mode":"occurrences","fields":{"comm":"text"}}}
{"t":1,"stream":"vmstat","pressure":1}
{"t":2.5,"stream":"oom","subject":"task:9","comm":"a"}
{"t":2.2,"stream":"oom","subject":"task:8","comm":"b"}
{"t":4,"stream":"oom","covered":false}"#,
        &[
            "vmstat 1 | host pressure=1",
            "oom 1",
            "tick 1",
            "oom 2",
            "tick 2",
            "oom 3 | task:8 @2.2 comm=b | task:9 @2.5 comm=a",
            "tick 3",
            "oom 4 not covered",
            "tick 4",
        ],
    );
}

#[test]
fn streams_that_nobody_declared_grow() {
    check(
        r#"{"t":1,"stream":"new.one","subject":"device:sda","fields":{"a":1}}
{"t":2,"stream":"new.one","subject":"device:sda","fields":{"a":2,"b":"x"}}
{"t":2,"stream":"new.one","gone":["device:sdb"]}"#,
        &["new.one 1 | device:sda a=1", "tick 1", "new.one 2 gone device:sdb | device:sda a=2 b=x", "tick 2"],
    );
}

#[test]
fn a_gap_is_one_late_tick() {
    let (items, summary) = read(
        "{\"t\":1,\"stream\":\"vmstat\",\"pressure\":1}\n{\"t\":1e6,\"stream\":\"vmstat\",\"pressure\":2}",
    );
    assert_eq!(
        items,
        [
            "vmstat 1 | host pressure=1",
            "tick 1",
            "tick 999999 late",
            "vmstat 1000000 | host pressure=2",
            "tick 1000000"
        ]
    );
    assert_eq!(summary.gaps, 1);
}

#[test]
fn epoch_times_are_kept_as_wall_time() {
    let line = r#"{"t":"2026-11-22T10:00:00.123Z","stream":"vmstat","pressure":1}"#;
    let mut reader = JsonReader::new(line.as_bytes(), SCHEMA, SEC);
    let Some(Item::Batch(b)) = reader.next().unwrap() else { panic!() };
    assert_eq!(whystall_event::format_rfc3339(b.at.wall_ns), "2026-11-22T10:00:00.123Z");
    assert_eq!(b.at.boot_ns, 3600 * SEC);
}

#[test]
fn problems_say_where() {
    let bad = r#"{"t":1,"stream":"vmstat","pressure":1
{"stream":"vmstat","pressure":1}
{"t":1,"pressure":1}
{"t":1763805600123,"stream":"vmstat"}
{"t":30000000000,"stream":"vmstat"}
{"t":-1,"stream":"vmstat"}
{"t":"yesterday","stream":"vmstat"}
{"t":1,"stream":"vmstat","subject":"ü:x"}
{"t":1,"stream":"vmstat","fields":{"presure":1,"pressure":"high","state":[],"stall":-1}}"#;
    let (items, summary) = read(bad);
    let problems: Vec<String> = summary.problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        problems,
        [
            "1:38: expected `,` or `}`",
            "2:1: `t`, the time, is missing",
            "3:1: `stream` is missing",
            "4:6: the time is too large; `t` is in seconds",
            "5:6: the time is too large; `t` is in seconds",
            "6:6: the time is negative",
            "7:6: `yesterday` is no time: write seconds or a time such as \"2026-11-22T10:00:00.123Z\"",
            "8:36: `ü:x` is no subject: write host, cpu:N, node:N, task:PID, cgroup:/PATH or device:NAME",
            "9:46: stream `vmstat` has no field `presure`; did you mean `pressure`?",
            "9:59: `pressure` is a gauge: write a number",
        ]
    );
    assert_eq!((summary.malformed, summary.ignored, summary.events), (8, 4, 1));
    assert_eq!(items, ["vmstat 1", "tick 1"]);
}

fn numbers() -> impl Strategy<Value = Vec<(usize, u64, f64, String)>> {
    prop::collection::vec((0..5usize, any::<u64>(), any::<f64>(), any::<String>()), 0..20)
}

proptest! {
    /// What the writer writes the reader reads, bit by bit.
    #[test]
    fn lines_round_trip(passes in prop::collection::vec((1..4u64, numbers()), 1..8)) {
        let stream = std::sync::Arc::new(SCHEMA[0].clone());
        let mut writer = JsonWriter::new(Vec::new(), Stamp { boot_ns: 7, wall_ns: 7 });
        let mut at = 100 * SEC;
        let mut want = Vec::new();
        for (step, rows) in &passes {
            at += step * SEC;
            let mut batch = Batch::new(stream.clone(), Stamp { boot_ns: at, wall_ns: at });
            for (i, (id, count, gauge, text)) in rows.iter().enumerate() {
                // Distinct subjects, so that rows do not join.
                let subject = if *id == 0 { whystall_event::Subject::Cpu(i as u32) } else { whystall_event::Subject::cgroup(format!("/{i} {text}")) };
                batch.row(subject).int(0, *count).int(1, *count).gauge(2, *gauge).text(3, text.as_str());
            }
            writer.batch(&batch).unwrap();
            if !rows.is_empty() {
                want.push(show(&Item::Batch(&batch)));
            }
        }
        let bytes = writer.finish().unwrap();
        let (items, summary) = read(std::str::from_utf8(&bytes).unwrap());
        prop_assert_eq!(&summary.problems, &vec![]);
        let batches: Vec<String> = items.into_iter().filter(|i| !i.starts_with("tick")).collect();
        prop_assert_eq!(batches, want);
    }

    /// Whatever the order, each row comes out once or is counted, and time never goes back.
    #[test]
    fn nothing_is_lost_and_time_goes_on(times in prop::collection::vec(0..200u32, 0..80)) {
        let mut text = String::new();
        for (i, t) in times.iter().enumerate() {
            text += &format!("{{\"t\":{},\"stream\":\"vmstat\",\"subject\":\"cpu:{i}\",\"pressure\":1}}\n", f64::from(*t) / 10.0);
        }
        let mut reader = JsonReader::new(text.as_bytes(), SCHEMA, SEC);
        let (mut rows, mut last, mut tick) = (0, 0, None);
        while let Some(item) = reader.next().unwrap() {
            match item {
                Item::Batch(b) => {
                    prop_assert!(b.at.boot_ns >= last && tick.is_none_or(|t| b.at.boot_ns > t));
                    last = b.at.boot_ns;
                    rows += b.len() as u64;
                }
                Item::Tick(t) => {
                    prop_assert!(t.at.boot_ns >= last);
                    prop_assert!(tick.is_none_or(|before| t.at.boot_ns == before + SEC));
                    tick = Some(t.at.boot_ns);
                }
            }
        }
        prop_assert_eq!(rows, reader.summary().events);
        prop_assert_eq!(rows + reader.summary().late, times.len() as u64);
    }

    #[test]
    fn any_bytes_are_safe(bytes in prop::collection::vec(any::<u8>(), 0..200), s in "[{}\":,a-z0-9.\n-]{0,100}") {
        for bytes in [&bytes[..], s.as_bytes()] {
            let mut reader = JsonReader::new(bytes, SCHEMA, SEC);
            while reader.next().unwrap().is_some() {}
        }
    }
}
