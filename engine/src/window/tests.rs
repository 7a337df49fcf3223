//! One named test for each line of the windows' semantics. The numbers are small and worked out by hand.

mod life;

use std::sync::Arc;

use whystall_event::{Batch, Field, FieldKind, Mode, SEC, Stamp, Stream, Subject, SubjectKind, Unit};

use super::{Calc, Limits, WindowId, WindowSpec, Windows, allowed};

const FIELDS: &[Field] = &[
    Field::counter("c", Unit::Count, ""),
    Field::counter("t", Unit::Time, ""),
    Field::gauge("g", Unit::Count, ""),
    Field::text("unit", ""),
];
const EVENTS: &[Field] = &[
    Field::duration("d", ""),
    Field::text("kind", ""),
    Field::gauge("size", Unit::Bytes, ""),
    Field::counter("n", Unit::Count, ""),
];
const KINDS: &[SubjectKind] = &[SubjectKind::Host, SubjectKind::Cgroup];

fn sampled() -> Arc<Stream> {
    Arc::new(Stream::sampled("s", "", KINDS, FIELDS))
}

fn events() -> Arc<Stream> {
    Arc::new(Stream::occurrences("e", "", KINDS, EVENTS))
}

fn at(seconds: f64) -> Stamp {
    let boot_ns = (seconds * 1e9) as u64;
    Stamp { boot_ns, wall_ns: boot_ns }
}

fn a() -> Subject {
    Subject::cgroup("/a")
}

fn windows() -> Windows {
    Windows::new(SEC, Limits::default())
}

fn declare(w: &mut Windows, name: &str, calc: Calc, seconds: u64) -> WindowId {
    let (stream, field) = name.split_once('.').unwrap();
    w.declare(&WindowSpec::new(stream, field, SubjectKind::Cgroup, calc, seconds * SEC))
}

/// A batch of readings: subject, and values of `c`, `t` and `g` where given.
fn read(stream: &Arc<Stream>, seconds: f64, rows: &[(Subject, [Option<u64>; 3])]) -> Batch {
    let mut b = Batch::new(stream.clone(), at(seconds));
    for (subject, values) in rows {
        let mut row = b.row(subject.clone());
        for (f, v) in values.iter().enumerate().filter_map(|(f, v)| Some((f, (*v)?))) {
            row.number(f, v as f64);
        }
    }
    b
}

/// One reading of `c` (and as much of `t` in milliseconds, and `g`) for `/a`.
fn one(stream: &Arc<Stream>, seconds: f64, value: u64) -> Batch {
    read(stream, seconds, &[(a(), [Some(value), Some(value * 1_000_000), Some(value)])])
}

/// Occurrences with (subject, nanoseconds, label, age in seconds).
fn happen(stream: &Arc<Stream>, seconds: f64, rows: &[(Subject, u64, &str, f64)]) -> Batch {
    let mut b = Batch::new(stream.clone(), at(seconds));
    for (subject, ns, kind, age) in rows {
        b.row_at(subject.clone(), at(seconds - age).boot_ns).int(0, *ns).text(1, *kind);
    }
    b
}

fn value(w: &Windows, id: WindowId, subject: &Subject) -> f64 {
    let row = w.table(SubjectKind::Cgroup).row(subject).unwrap_or(u32::MAX);
    w.column(id).get(row as usize).copied().unwrap_or(f64::NAN)
}

/// Reads `/a` once a second from `from` to `to` with `step` a second, ticking each time.
fn run(w: &mut Windows, stream: &Arc<Stream>, from: u64, to: u64, step: u64) {
    for s in from..=to {
        w.ingest(&one(stream, s as f64, s * step));
        w.tick(at(s as f64));
    }
}

#[track_caller]
fn same(got: f64, expected: f64) {
    let near = (got - expected).abs() <= 1e-6 * (1.0 + expected.abs());
    assert!(near || got.is_nan() && expected.is_nan(), "{got}, expected {expected}");
}

#[test]
fn counters_give_rate_delta_share() {
    let (mut w, s) = (windows(), sampled());
    let rate = declare(&mut w, "s.c", Calc::Rate, 10);
    let delta = declare(&mut w, "s.c", Calc::Delta, 10);
    let share = declare(&mut w, "s.t", Calc::Share, 10);
    let last = declare(&mut w, "s.c", Calc::Last, 10);
    run(&mut w, &s, 1, 30, 5);
    same(value(&w, rate, &a()), 5.0);
    same(value(&w, delta, &a()), 50.0);
    same(value(&w, share, &a()), 0.005);
    same(value(&w, last, &a()), 150.0);
}

#[test]
fn counter_differences_are_exact_far_beyond_single_precision() {
    let (mut w, s) = (windows(), sampled());
    let delta = declare(&mut w, "s.c", Calc::Delta, 2);
    let big = u64::MAX / 2;
    for i in 0..5u64 {
        let mut b = Batch::new(s.clone(), at(i as f64 + 1.0));
        b.row(a()).int(0, big + i * 3);
        w.ingest(&b);
        w.tick(b.at);
    }
    assert_eq!(value(&w, delta, &a()), 6.0);
}

#[test]
fn warm_up_is_unknown() {
    let (mut w, s) = (windows(), sampled());
    let rate = declare(&mut w, "s.c", Calc::Rate, 10);
    let mean = declare(&mut w, "s.g", Calc::Mean, 10);
    let mut known = Vec::new();
    for i in 1..=8 {
        run(&mut w, &s, i, i, 1);
        known.push((!value(&w, mean, &a()).is_nan(), !value(&w, rate, &a()).is_nan()));
    }
    // The first reading of a gauge stands for one interval, of a counter for nothing.
    assert_eq!(known.iter().position(|k| k.0), Some(4));
    assert_eq!(known.iter().position(|k| k.1), Some(5));
    same(w.covered(rate, 0), 0.7);
    same(w.covered(mean, 0), 0.8);
}

#[test]
fn a_reset_discards_its_interval() {
    let (mut w, s) = (windows(), sampled());
    let delta = declare(&mut w, "s.c", Calc::Delta, 10);
    for (i, v) in [100u64, 110, 120, 3, 13, 23, 33, 43, 53, 63, 73].into_iter().enumerate() {
        w.ingest(&one(&s, i as f64 + 1.0, v));
        w.tick(at(i as f64 + 1.0));
    }
    same(value(&w, delta, &a()), 90.0);
    same(w.covered(delta, 0), 0.9);
}

#[test]
fn a_long_gap_is_discarded_and_a_shorter_late_reading_counts() {
    let (mut w, s) = (windows(), sampled());
    let rate = declare(&mut w, "s.c", Calc::Rate, 10);
    run(&mut w, &s, 1, 12, 5);
    // Stalled for 8 seconds in which the counter went on faster: the evidence stays.
    w.ingest(&one(&s, 20.0, 60 + 800));
    w.tick(at(20.0));
    same(value(&w, rate, &a()), (800.0 + 2.0 * 5.0) / 10.0);
    // 11 seconds are longer than the window.
    w.ingest(&one(&s, 31.0, 100_000));
    w.tick(at(31.0));
    same(value(&w, rate, &a()), f64::NAN);
    same(w.covered(rate, 0), 0.0);
}

#[test]
fn a_short_window_keeps_intervals_of_three_ticks() {
    let (mut w, s) = (windows(), sampled());
    let rate = declare(&mut w, "s.c", Calc::Rate, 1);
    w.ingest(&one(&s, 1.0, 0));
    w.tick(at(1.0));
    w.ingest(&one(&s, 4.0, 30));
    w.tick(at(4.0));
    same(value(&w, rate, &a()), 10.0);
    same(w.covered(rate, 0), 1.0);
}

#[test]
fn gauges() {
    let (mut w, s) = (windows(), sampled());
    let calcs = [Calc::Last, Calc::Mean, Calc::Min, Calc::Max, Calc::Delta];
    let ids = calcs.map(|c| declare(&mut w, "s.g", c, 4));
    for (i, v) in [50u64, 9, 4, 6, 1, 8].into_iter().enumerate() {
        w.ingest(&one(&s, i as f64 + 1.0, v));
        w.tick(at(i as f64 + 1.0));
    }
    let got = ids.map(|id| value(&w, id, &a()));
    // In the window: 4, 6, 1, 8, and the step from 9 to 4.
    assert_eq!(got, [8.0, 4.75, 1.0, 8.0, -1.0]);
}

#[test]
fn absent_fields_are_unknown_not_zero() {
    let (mut w, s) = (windows(), sampled());
    let c = declare(&mut w, "s.c", Calc::Rate, 5);
    let g = declare(&mut w, "s.g", Calc::Last, 5);
    for i in 1..=10 {
        w.ingest(&read(&s, i as f64, &[(a(), [Some(i), None, None])]));
        w.tick(at(i as f64));
    }
    same(value(&w, c, &a()), 1.0);
    same(value(&w, g, &a()), f64::NAN);
}

#[test]
fn silence_of_a_watched_stream_is_zero() {
    let (mut w, e) = (windows(), events());
    let calcs = [Calc::Sum, Calc::Count, Calc::Rate, Calc::Share, Calc::Max];
    let zero = calcs.map(|c| declare(&mut w, "e.d", c, 4));
    let unknown = [Calc::Mean, Calc::Min, Calc::Last, Calc::P99].map(|c| declare(&mut w, "e.d", c, 4));
    // The subject is known from elsewhere.
    let s = sampled();
    declare(&mut w, "s.c", Calc::Rate, 4);
    run(&mut w, &s, 1, 1, 1);
    for i in 2..=5 {
        w.ingest(&happen(&e, i as f64, &[]));
        w.tick(at(i as f64));
    }
    assert_eq!(zero.map(|id| value(&w, id, &a())), [0.0; 5]);
    assert!(unknown.iter().all(|id| value(&w, *id, &a()).is_nan()));
}

#[test]
fn occurrences_sum_count_and_leave() {
    let (mut w, e) = (windows(), events());
    let calcs =
        [Calc::Sum, Calc::Count, Calc::Rate, Calc::Share, Calc::Mean, Calc::Min, Calc::Max, Calc::Last];
    let ids = calcs.map(|c| declare(&mut w, "e.d", c, 4));
    let seen = |w: &Windows| ids.map(|id| value(w, id, &a()));
    for i in 1..=4 {
        w.ingest(&happen(&e, i as f64, &[]));
        w.tick(at(i as f64));
    }
    // A new subject's window is known as far as the stream was watched.
    let half = SEC / 2;
    w.ingest(&happen(&e, 5.0, &[(a(), half, "x", 0.2), (a(), SEC, "x", 0.1)]));
    w.tick(at(5.0));
    let sum = 1.5e9;
    assert_eq!(seen(&w), [sum, 2.0, 0.5, sum / 4e9, sum / 2.0, half as f64, 1e9, 1e9]);
    for i in 6..=9 {
        w.ingest(&happen(&e, i as f64, &[]));
        w.tick(at(i as f64));
    }
    assert_eq!(seen(&w)[..4], [0.0; 4]);
    assert!(seen(&w)[7].is_nan());
}

#[test]
fn a_lost_or_silent_stream_is_not_covered() {
    let (mut w, e) = (windows(), events());
    let count = declare(&mut w, "e.d", Calc::Count, 4);
    w.ingest(&happen(&e, 1.0, &[(a(), 1, "x", 0.0)]));
    w.tick(at(1.0));
    // The very first batch covers one interval of four.
    same(w.covered(count, 0), 0.25);
    same(value(&w, count, &a()), f64::NAN);
    let mut lost = happen(&e, 2.0, &[(a(), 1, "x", 0.0)]);
    lost.covered_to = false;
    w.ingest(&lost);
    w.tick(at(2.0));
    same(w.covered(count, 0), 0.25);
    w.ingest(&happen(&e, 3.0, &[]));
    w.tick(at(3.0));
    same(value(&w, count, &a()), 2.0);
    // The collector died.
    (4..=8).for_each(|i| w.tick(at(i as f64)));
    same(value(&w, count, &a()), f64::NAN);
}

#[test]
fn occurrences_older_than_the_window_are_dropped_and_counted() {
    let (mut w, e) = (windows(), events());
    let short = declare(&mut w, "e.d", Calc::Count, 2);
    let long = declare(&mut w, "e.d", Calc::Count, 20);
    (1..=19).for_each(|i| {
        w.ingest(&happen(&e, i as f64, &[]));
        w.tick(at(i as f64));
    });
    w.ingest(&happen(&e, 20.0, &[(a(), 1, "x", 5.0)]));
    w.tick(at(20.0));
    assert_eq!((value(&w, short, &a()), value(&w, long, &a())), (0.0, 1.0));
    assert_eq!(w.stats().too_old, 1);
}

#[test]
fn filters_and_counted_texts() {
    let (mut w, e) = (windows(), events());
    let mut spec = WindowSpec::new("e", "d", SubjectKind::Cgroup, Calc::Sum, SEC);
    spec.filter = vec![("kind".into(), vec!["dir*".into(), "compact".into()])];
    let filtered = w.declare(&spec);
    spec.filter = vec![("nonsense".into(), vec!["*".into()])];
    let never = w.declare(&spec);
    let texts = declare(&mut w, "e.kind", Calc::Count, 1);
    let rows = [(a(), 1, "direct", 0.0), (a(), 2, "compact", 0.0), (a(), 4, "kswapd", 0.0)];
    w.ingest(&happen(&e, 1.0, &rows));
    w.tick(at(1.0));
    assert_eq!([filtered, never, texts].map(|id| value(&w, id, &a())), [3.0, 0.0, 3.0]);
}

#[test]
fn the_host_is_there_from_the_first_batch() {
    let mut w = windows();
    let spec = WindowSpec::new("e", "d", SubjectKind::Host, Calc::Count, SEC);
    let id = w.declare(&spec);
    assert!(w.column(id).is_empty());
    w.ingest(&happen(&events(), 1.0, &[]));
    w.tick(at(1.0));
    assert_eq!(w.table(SubjectKind::Host).subject(0), Some(&Subject::Host));
    assert_eq!(w.column(id), [0.0]);
}

#[test]
fn unread_streams_register_nobody_but_attributes_do() {
    let mut w = windows();
    const PLAIN: &[Field] = &[Field::gauge("g", Unit::Count, "")];
    let plain = Arc::new(Stream::sampled("plain", "", &[SubjectKind::Cgroup], PLAIN));
    let mut b = Batch::new(plain, at(1.0));
    b.row(a()).gauge(0, 1.0);
    w.ingest(&b);
    assert_eq!(w.table(SubjectKind::Cgroup).len(), 0);
    let s = sampled();
    for (t, unit) in [(1.0, "old.service"), (2.0, "new.service")] {
        let mut b = Batch::new(s.clone(), at(t));
        b.row(a()).text(3, unit);
        w.ingest(&b);
    }
    assert_eq!(w.text("s", "unit", &a()).map(|t| t.as_ref()), Some("new.service"));
    assert_eq!(w.text("s", "unit", &Subject::cgroup("/b")), None);
    assert_eq!(w.text("s", "c", &a()), None);
}

#[test]
fn percentiles_are_within_a_bucket() {
    let (mut w, e) = (windows(), events());
    let ids = [Calc::P50, Calc::P90, Calc::P99].map(|c| declare(&mut w, "e.d", c, 1));
    let rows: Vec<_> = (1..=1000u64).map(|i| (a(), i * 1000, "x", 0.0)).collect();
    w.ingest(&happen(&e, 1.0, &rows));
    w.tick(at(1.0));
    for (id, expected) in ids.into_iter().zip([500e3, 900e3, 990e3]) {
        let got = value(&w, id, &a());
        assert!((got - expected).abs() <= expected / 16.0, "{got}, expected {expected}");
    }
}

#[test]
fn long_windows_hold_their_whole_span() {
    let (mut w, s) = (windows(), sampled());
    let delta = declare(&mut w, "s.c", Calc::Delta, 3600);
    run(&mut w, &s, 1, 3700, 1);
    // Panes of a minute: the oldest may be a minute too old, none too young.
    let got = value(&w, delta, &a());
    assert!((3600.0..=3660.0).contains(&got), "{got}");
    same(w.covered(delta, 0), 1.0);
}

#[test]
fn late_ticks_let_old_data_leave_in_time() {
    let (mut w, e) = (windows(), events());
    let count = declare(&mut w, "e.d", Calc::Count, 10);
    for i in 1..=10 {
        w.ingest(&happen(&e, i as f64, &[(a(), 1, "x", 0.0)]));
        w.tick(at(i as f64));
    }
    w.ingest(&happen(&e, 16.0, &[(a(), 1, "x", 0.0)]));
    w.tick(at(16.0));
    same(value(&w, count, &a()), 5.0);
}

#[test]
fn a_break_forgets_windows_and_keeps_means() {
    let (mut w, s) = (windows(), sampled());
    let rate = declare(&mut w, "s.c", Calc::Rate, 4);
    let base = declare(&mut w, "s.c", Calc::Baseline, 10);
    run(&mut w, &s, 1, 40, 5);
    same(value(&w, base, &a()), 5.0);
    w.break_all(at(40.5));
    same(value(&w, rate, &a()), f64::NAN);
    // Ten hours of sleep; the counter moved on. Nothing of it counts.
    let later = 36_040.0;
    w.break_all(at(later));
    for i in 1..=5u64 {
        w.ingest(&one(&s, later + i as f64, 1_000_000 + i * 5));
        w.tick(at(later + i as f64));
        same(value(&w, rate, &a()), if i < 3 { f64::NAN } else { 5.0 });
        same(value(&w, base, &a()), 5.0);
        same(w.deviation(base)[0], 0.0);
    }
    // What was read before the break but came late is too old.
    w.ingest(&one(&s, later - 1.0, 7));
    assert!(w.stats().too_old > 0);
}

#[test]
fn baselines_have_mean_deviation_and_current() {
    let (mut w, s) = (windows(), sampled());
    let base = declare(&mut w, "s.g", Calc::Baseline, 100);
    let ewma = declare(&mut w, "s.c", Calc::Ewma, 100);
    let row = |c: &[f64]| c.first().copied().unwrap_or(f64::NAN);
    for i in 1..=1000u64 {
        let g = if i.is_multiple_of(2) { 8 } else { 12 };
        w.ingest(&read(&s, i as f64, &[(a(), [Some(i * 3), None, Some(g)])]));
        w.tick(at(i as f64));
        if i == 49 {
            same(row(w.column(base)), f64::NAN);
            same(row(w.deviation(base)), f64::NAN);
        }
    }
    assert!((row(w.column(base)) - 10.0).abs() < 0.05);
    assert!((row(w.deviation(base)) - 2.0).abs() < 0.01);
    assert_eq!(w.current(base), [8.0]);
    same(row(w.column(ewma)), 3.0);
    assert_eq!((w.current(ewma), w.deviation(ewma)), (&[3.0][..], &[][..]));
    // The collector died: the tick has no value of its own, and in the end the mean is not known any more.
    w.tick(at(1001.0));
    assert!(row(w.current(ewma)).is_nan() && row(w.column(ewma)) > 2.9);
    (1002..1080).for_each(|i| w.tick(at(i as f64)));
    same(row(w.column(ewma)), f64::NAN);
}

#[test]
fn what_is_allowed() {
    let list = |kind, unit, mode| {
        let ok = Calc::ALL.into_iter().filter(|c| allowed(*c, kind, unit, mode).is_ok());
        ok.map(Calc::name).collect::<Vec<_>>().join(" ")
    };
    use Mode::*;
    let common = "last mean min max";
    assert_eq!(list(FieldKind::Counter, Unit::Count, Sampled), "last rate delta ewma baseline");
    assert_eq!(list(FieldKind::Counter, Unit::Time, Sampled), "last rate delta share ewma baseline");
    assert_eq!(
        list(FieldKind::Gauge, Unit::Time, Sampled),
        format!("{common} delta p50 p90 p99 ewma baseline")
    );
    assert_eq!(
        list(FieldKind::Duration, Unit::Time, Occurrences),
        format!("{common} sum count rate share p50 p90 p99 ewma baseline")
    );
    for kind in [FieldKind::Gauge, FieldKind::Counter] {
        let expected = format!("{common} sum count rate p50 p90 p99 ewma baseline");
        assert_eq!(list(kind, Unit::Time, Occurrences), expected);
    }
    assert_eq!(list(FieldKind::Text, Unit::None, Occurrences), "count rate");
    assert_eq!(list(FieldKind::Text, Unit::None, Sampled), "");
    assert!(Calc::ALL.into_iter().all(|c| Calc::from_name(c.name()) == Some(c)));
}
