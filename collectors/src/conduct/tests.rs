//! The checks find what they are for: deliberately broken collectors.

use std::sync::Arc;

use super::*;
use crate::{Polled, Unavailable};
use whystall_event::{Field, SubjectKind, Unit};

const FIELDS: &[Field] =
    &[Field::counter("n", Unit::Count, "a counter"), Field::gauge("g", Unit::Count, "a gauge")];
const STREAMS: &[Stream] = &[Stream::sampled("fake", "a stream", &[SubjectKind::Host], FIELDS)];

/// Fills a batch with what pass number so-and-so brings.
struct Fake(u64, fn(u64, &mut Pass) -> Result<(), CollectError>);

impl Polled for Fake {
    fn collect(&mut self, pass: &mut Pass) -> Result<(), CollectError> {
        self.0 += 1;
        (self.1)(self.0, pass)
    }
}

const fn collector(build: fn(&Roots, &Settings) -> Result<Built, Unavailable>) -> Collector {
    Collector { name: "fake", help: "a fake", streams: STREAMS, interval: None, settings: &[], build }
}

fn rows(pass: &mut Pass, stream: &Stream, subjects: &[Subject], n: u64) -> Result<(), CollectError> {
    let mut b = pass.batch(&Arc::new(stream.clone()));
    for s in subjects {
        b.row(s.clone()).int(0, n);
    }
    pass.batches.push(b);
    Ok(())
}

fn fake(f: fn(u64, &mut Pass) -> Result<(), CollectError>) -> Result<Built, Unavailable> {
    Ok(Built::Polled(Box::new(Fake(0, f))))
}

/// Everything that is found in two passes.
fn found(c: &Collector) -> String {
    match run(c, &Roots::default(), 2, SEC) {
        Ok(r) => check_rows(c, &r.batches).join("\n"),
        Err(e) => e,
    }
}

#[test]
fn each_fault_is_found() {
    let good = collector(|_, _| fake(|n, p| rows(p, &STREAMS[0], &[Subject::Host], n)));
    assert_eq!(found(&good), "");
    let cases: [(Collector, &str); 7] = [
        (
            collector(|_, _| fake(|n, p| rows(p, &STREAMS[0], &[Subject::Host], 10 - n))),
            "decreased: 9, then 8",
        ),
        (collector(|_, _| fake(|n, p| rows(p, &STREAMS[0], &[Subject::Cpu(1)], n))), "not declared"),
        (collector(|_, _| fake(|n, p| rows(p, &health::COLLECTOR, &[], n))), "not declared by the collector"),
        (
            collector(|_, _| fake(|n, p| rows(p, &STREAMS[0], &[Subject::Host, Subject::Host], n))),
            "two rows about host",
        ),
        (
            collector(|_, _| {
                fake(|_, p| {
                    let mut b = p.batch(&Arc::new(STREAMS[0].clone()));
                    b.row(Subject::Host);
                    p.batches.push(b);
                    Ok(())
                })
            }),
            "without a value",
        ),
        (collector(|_, _| fake(|_, _| panic!("as the test wants"))), "panicked"),
        (collector(|_, _| Err(Unavailable::settings("no"))), "empty settings"),
    ];
    for (c, part) in &cases {
        assert!(found(c).contains(part), "{part}: {}", found(c));
    }
}

#[test]
fn rows_without_files_and_absent_zeros_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let c = collector(|_, _| fake(|_, p| rows(p, &STREAMS[0], &[Subject::Host], 0)));
    assert_eq!(check_empty_root(&c, &Roots::under(dir.path())), ["fake: has rows although there is no file"]);
    let r = run(&c, &Roots::default(), 1, SEC).unwrap();
    assert_eq!(check_no_absent_zero(&c, &r.batches), ["fake: fake.n has a value where its file is empty"]);
}

#[test]
fn faults_of_declarations_are_found() {
    const BAD: &[Field] = &[
        Field::duration("Took", "a help."),
        Field::gauge("g", Unit::Count, ""),
        Field::gauge("g", Unit::Count, "twice"),
    ];
    let s = Stream::sampled("Bad-name", "help", &[], BAD);
    assert_eq!(check_stream(&s).len(), 7, "{:#?}", check_stream(&s));
    assert!(check_stream(&STREAMS[0]).is_empty());
}

#[test]
fn the_copy_of_the_tree_has_files() {
    let dir = tempfile::tempdir().unwrap();
    let roots = Roots::under(dir.path());
    write_tree(&real_tree(), dir.path(), |_, b| swap_digits(&b, b"-1"));
    let stat = fs::read_to_string(roots.proc("stat")).unwrap();
    assert!(stat.starts_with("cpu  -1 -1"), "{stat}");
}
