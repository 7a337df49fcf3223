//! Subjects and windows that come and go.

use super::*;

#[test]
fn gone_subjects_are_unknown_at_once_and_their_rows_reused_later() {
    let (mut w, s) = (windows(), sampled());
    let rate = declare(&mut w, "s.c", Calc::Rate, 4);
    run(&mut w, &s, 1, 10, 5);
    let mut b = Batch::new(s.clone(), at(11.0));
    b.gone.push(a());
    w.ingest(&b);
    let t = |w: &Windows| (w.table(SubjectKind::Cgroup).is_gone(0), w.table(SubjectKind::Cgroup).live());
    assert_eq!(t(&w), (true, 0));
    assert!(w.column(rate)[0].is_nan());
    same(w.covered(rate, 0), 0.0);
    w.tick(at(11.0));
    assert!(w.column(rate)[0].is_nan());
    // Created anew: another row, and nothing of the old life.
    w.ingest(&one(&s, 12.0, 1_000_000));
    assert_eq!(w.table(SubjectKind::Cgroup).row(&a()), Some(1));
    w.tick(at(72.0));
    assert_eq!(w.table(SubjectKind::Cgroup).subject(0), None);
    // A free row is given to the next; its window starts empty.
    let other = Subject::cgroup("/b");
    for i in 73..=76 {
        w.ingest(&read(&s, i as f64, &[(other.clone(), [Some(i), None, None])]));
        w.tick(at(i as f64));
        assert_eq!(w.table(SubjectKind::Cgroup).row(&other), Some(0));
        same(value(&w, rate, &other), if i < 75 { f64::NAN } else { 1.0 });
    }
}

#[test]
fn silent_subjects_are_dropped() {
    let (mut w, s) = (windows(), sampled());
    declare(&mut w, "s.c", Calc::Rate, 60);
    declare(&mut w, "s.c", Calc::Baseline, 86_400);
    run(&mut w, &s, 1, 3, 5);
    let live = |w: &Windows| w.table(SubjectKind::Cgroup).live();
    for t in (30..=660).step_by(30) {
        w.tick(at(t as f64));
        assert_eq!(live(&w), 1, "at {t}");
    }
    for t in (690..=750).step_by(30) {
        w.tick(at(t as f64));
    }
    assert_eq!((live(&w), w.table(SubjectKind::Host).live()), (0, 1));
}

#[test]
fn a_full_table_counts_what_it_cannot_take() {
    let mut limits = Limits::default();
    limits.subjects_per_kind[SubjectKind::Cgroup as usize] = 2;
    let (mut w, s) = (Windows::new(SEC, limits), sampled());
    let last = declare(&mut w, "s.g", Calc::Last, 1);
    let names = ["/a", "/b", "/c", "/d"].map(Subject::cgroup);
    for i in 1..=2 {
        let rows = names.clone().map(|n| (n, [None, None, Some(i)]));
        w.ingest(&read(&s, i as f64, &rows));
        w.tick(at(i as f64));
    }
    assert_eq!(w.column(last), [2.0, 2.0]);
    assert_eq!(w.stats().over_cap[SubjectKind::Cgroup as usize], 4);
}

#[test]
fn parents_are_linked_whatever_comes_first() {
    let (mut w, s) = (windows(), sampled());
    declare(&mut w, "s.g", Calc::Last, 1);
    let names = ["/a/b/c", "/a", "/", "/a/b", "/x/y"].map(Subject::cgroup);
    let rows = names.map(|n| (n, [None, None, Some(1)]));
    w.ingest(&read(&s, 1.0, &rows));
    w.tick(at(1.0));
    let none = crate::subjects::NO_ROW;
    assert_eq!(w.table(SubjectKind::Cgroup).parent_rows(), [3, 2, none, 1, none]);
}

#[test]
fn a_field_of_another_kind_breaks_the_series_and_is_counted() {
    let (mut w, s) = (windows(), sampled());
    let last = declare(&mut w, "s.c", Calc::Last, 2);
    run(&mut w, &s, 1, 5, 1);
    same(value(&w, last, &a()), 5.0);
    const OTHER: &[Field] = &[Field::gauge("c", Unit::Count, "")];
    let other = Arc::new(Stream::sampled("s", "", KINDS, OTHER));
    let mut b = Batch::new(other.clone(), at(6.0));
    b.row(a()).gauge(0, 0.25);
    w.ingest(&b);
    assert_eq!(w.stats().mismatched, 1);
    assert!(w.column(last).is_empty());
    w.tick(at(6.0));
    same(value(&w, last, &a()), 0.25);
    // Declared once more alike, by another address: the series goes on.
    let mut b = Batch::new(Arc::new(Stream::clone(&other)), at(7.0));
    b.row(a()).gauge(0, 0.5);
    w.ingest(&b);
    w.tick(at(7.0));
    assert_eq!((value(&w, last, &a()), w.covered(last, 0), w.stats().mismatched), (0.5, 1.0, 1));
}

#[test]
fn windows_are_shared_and_released_without_touching_others() {
    let (mut w, s) = (windows(), sampled());
    let rate = declare(&mut w, "s.c", Calc::Rate, 10);
    assert_eq!(declare(&mut w, "s.c", Calc::Rate, 10), rate);
    let max = declare(&mut w, "s.g", Calc::Max, 10);
    run(&mut w, &s, 1, 20, 5);
    let before = w.stats().bytes;
    // A window on aggregates that are there knows their past; one that needs new ones warms up.
    let delta = declare(&mut w, "s.c", Calc::Delta, 10);
    let min = declare(&mut w, "s.g", Calc::Min, 10);
    run(&mut w, &s, 21, 21, 5);
    same(value(&w, delta, &a()), 50.0);
    same(value(&w, min, &a()), f64::NAN);
    same(value(&w, max, &a()), 105.0);
    w.release(delta);
    w.release(min);
    w.release(max);
    w.release(rate);
    assert!(w.column(max).is_empty());
    run(&mut w, &s, 22, 22, 5);
    same(value(&w, rate, &a()), 5.0);
    assert!(w.stats().bytes < before);
    w.release(rate);
    assert!(w.column(rate).is_empty());
    w.release(rate);
    // The id of a released window is used again.
    let again = declare(&mut w, "s.c", Calc::Rate, 10);
    assert_eq!(w.spec(again).calc, Calc::Rate);
    assert!(w.column(again).is_empty());
}

#[test]
fn memory_is_steady() {
    let (mut w, s, e) = (windows(), sampled(), events());
    for calc in [Calc::Rate, Calc::Baseline] {
        declare(&mut w, "s.c", calc, 60);
    }
    for calc in [Calc::Max, Calc::P99] {
        declare(&mut w, "s.g", calc, 60);
        declare(&mut w, "e.d", calc, 30);
    }
    let mut warm = 0;
    for i in 1..=6000u64 {
        // Forty that stay and four that live for ten seconds each.
        let stay = (0..40).map(|n| format!("/stay/{n}"));
        let short = (0..4).map(|n| format!("/short/{n}/{}", (i + n) / 10));
        let names: Vec<_> = stay.chain(short).map(Subject::cgroup).collect();
        let rows: Vec<_> = names.iter().map(|n| (n.clone(), [Some(i), None, Some(i % 64)])).collect();
        let mut b = read(&s, i as f64, &rows);
        if i > 10 {
            let old = (0..4).filter(|n| (i + n) % 10 == 0);
            b.gone = old.map(|n| Subject::cgroup(format!("/short/{n}/{}", (i + n) / 10 - 1))).collect();
        }
        w.ingest(&b);
        let rows: Vec<_> = names.iter().map(|n| (n.clone(), i % 64, "x", 0.5)).collect();
        w.ingest(&happen(&e, i as f64 + 0.1, &rows));
        w.tick(at(i as f64 + 0.2));
        match i {
            3000 => warm = w.stats().bytes,
            6000 => {
                let now = w.stats().bytes;
                assert!(now.abs_diff(warm) * 100 < warm, "{warm} became {now}");
                assert!(w.table(SubjectKind::Cgroup).len() < 100);
            }
            _ => {}
        }
    }
}
