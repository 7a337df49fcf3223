//! Fixtures of several kernels through the whole reader, overruns, hostile records, and the real log.

use std::collections::VecDeque;
use std::sync::Mutex;

use super::*;
use whystall_event::RowRef;

/// A sink that keeps what it gets, at a fixed time.
struct Kept(Stamp, Mutex<Vec<String>>);

impl Kept {
    fn at(boot_ns: u64) -> Kept {
        Kept(Stamp { boot_ns, wall_ns: boot_ns }, Mutex::default())
    }

    fn problems(&self) -> Vec<String> {
        self.1.lock().unwrap().clone()
    }
}

impl Sink for Kept {
    fn now(&self) -> Stamp {
        self.0
    }

    fn send(&self, _: Batch) -> bool {
        true
    }

    fn problem(&self, what: &str) {
        self.1.lock().unwrap().push(what.into());
    }
}

/// A log of prepared reads.
struct Log(VecDeque<Result<String, i32>>);

impl Log {
    fn of<const N: usize>(reads: [Result<&str, i32>; N]) -> Log {
        Log(reads.into_iter().map(|r| r.map(str::to_string)).collect())
    }
}

impl Read for Log {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.0.pop_front() {
            None => Err(io::ErrorKind::WouldBlock.into()),
            Some(Err(code)) => Err(io::Error::from_raw_os_error(code)),
            Some(Ok(record)) => {
                buf[..record.len()].copy_from_slice(record.as_bytes());
                Ok(record.len())
            }
        }
    }
}

fn batch() -> Batch {
    Batch::new(Arc::new(STREAM), Stamp::default())
}

/// A row as the fixtures write it: `kind cpu=… pid=… comm=… cgroup=… limit=… stuck=…ms`.
fn shown(row: &RowRef<'_>) -> String {
    let mut out = row.text(KIND).unwrap().to_string();
    for (name, field) in [
        ("cpu", CPU),
        ("pid", TASK),
        ("comm", COMM),
        ("cgroup", CGROUP),
        ("limit", LIMIT_CGROUP),
        ("device", DEVICE),
    ] {
        if let Some(t) = row.text(field) {
            out += &format!(" {name}={t}");
        }
    }
    if let Some(ns) = row.number(STUCK) {
        out += &format!(" stuck={}ms", ns / 1e6);
    }
    out
}

/// A fixture: records, each with ` KEY=value` lines of its own, and after each a line `=> …` with what is read in it.
fn check(fixture: &str) {
    let mut reader = Reader::new(true);
    let sink = Kept::at(u64::MAX / 2);
    let (mut record, mut count) = (String::new(), 0);
    for line in fixture.lines().filter(|l| !l.starts_with('#') && !l.is_empty()) {
        let Some(expected) = line.strip_prefix("=> ") else {
            record += line;
            record.push('\n');
            continue;
        };
        let mut batch = batch();
        reader.fill(&mut Log::of([Ok(&record)]), &mut batch, &sink).unwrap();
        let host = batch.rows().find(|r| *r.subject == Subject::Host);
        let got = host.map_or("ignored".to_string(), |r| shown(&r));
        assert_eq!(got, expected, "{record}");
        if let Some(host) = host {
            // Every subject that is named has the same row.
            for row in batch.rows() {
                assert_eq!(shown(&row), got);
            }
            let named = [CPU, TASK, CGROUP].iter().filter(|&&f| host.has(f)).count();
            assert_eq!(batch.len(), 1 + named, "{record}");
        }
        record.clear();
        count += 1;
    }
    assert!(count > 3 && record.is_empty(), "a fixture ends with what is expected of its last record");
    // Fixtures leave records out.
    assert!(sink.problems().iter().all(|p| p.contains("overwritten")), "{:?}", sink.problems());
}

#[test]
fn kernel_5_4() {
    check(include_str!("../../fixtures/kmsg/5.4.txt"));
}

#[test]
fn kernel_5_15() {
    check(include_str!("../../fixtures/kmsg/5.15.txt"));
}

#[test]
fn kernel_6_1() {
    check(include_str!("../../fixtures/kmsg/6.1.txt"));
}

#[test]
fn kernel_6_12() {
    check(include_str!("../../fixtures/kmsg/6.12.txt"));
}

#[test]
fn kernel_6_18() {
    check(include_str!("../../fixtures/kmsg/6.18.txt"));
}

#[test]
fn an_overrun_is_survived_counted_and_admitted() {
    let mut reader = Reader::new(true);
    let sink = Kept::at(100 * SEC);
    let mut first = batch();
    let mut log =
        Log::of([Ok("6,10,1,-;a"), Err(libc::EPIPE), Ok("6,25,2,-;b"), Err(libc::EINTR), Ok("6,26,3,-;c")]);
    assert!(reader.fill(&mut log, &mut first, &sink).unwrap());
    assert_eq!((first.len(), first.covered_to), (3, false));
    assert_eq!(sink.problems(), ["lost 14 records of the kernel log, overwritten before they were read"]);
    // Opened again, it skips what it had.
    let mut second = batch();
    let mut log = Log::of([Ok("6,25,2,-;b"), Ok("6,26,3,-;c"), Ok("6,27,4,-;d")]);
    reader.fill(&mut log, &mut second, &sink).unwrap();
    assert_eq!(second.rows().map(|r| r.text(MESSAGE).unwrap().to_string()).collect::<Vec<_>>(), ["d"]);
    assert!(second.covered_to);
    assert_eq!(
        reader.fill(&mut Log::of([Err(libc::EIO)]), &mut second, &sink).unwrap_err().raw_os_error(),
        Some(libc::EIO)
    );
}

#[test]
fn user_space_cannot_speak_for_the_kernel() {
    let mut reader = Reader::new(true);
    let sink = Kept::at(100 * SEC);
    let mut b = batch();
    let lie = "watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [x:1]";
    let reads = [format!("12,1,1,-;{lie}"), "garbage".into(), format!("4,2,1,-;{lie}")];
    reader.fill(&mut Log(reads.map(Ok).into()), &mut b, &sink).unwrap();
    assert_eq!(
        b.rows().map(|r| r.subject.clone()).collect::<Vec<_>>(),
        [Subject::Host, Subject::Cpu(1), Subject::Task(1)]
    );
    assert_eq!(sink.problems(), ["a record of the kernel log has no semicolon: garbage"]);
}

#[test]
fn times_are_not_before_the_log_was_empty_nor_after_now() {
    let mut reader = Reader::new(true);
    let offset_us = clock::boot_minus_monotonic() / 1000;
    let at = |reader: &mut Reader, now: u64, us: u64| {
        let mut b = batch();
        let record = format!("6,{us},{us},-;x");
        reader.fill(&mut Log::of([Ok(&record)]), &mut b, &Kept::at(now)).unwrap();
        b.rows().next().unwrap().boot_ns
    };
    let base = offset_us * 1000;
    assert_eq!(at(&mut reader, base + 100 * SEC, 50_000_000) / SEC, (base + 50 * SEC) / SEC);
    // Its clock is ten seconds slow: it cannot have happened before the log was empty.
    assert_eq!(at(&mut reader, base + 200 * SEC, 90_000_000), base + 100 * SEC);
    // Its clock is fast.
    assert_eq!(at(&mut reader, base + 201 * SEC, 500_000_000), base + 201 * SEC);
}

#[test]
fn a_flood_of_other_lines_is_cut_and_told_but_known_kinds_pass() {
    let mut reader = Reader::new(true);
    let sink = Kept::at(100 * SEC);
    let mut records: Vec<String> = (0..500).map(|i| format!("6,{i},1,-;noise {i}")).collect();
    records.push("4,500,1,-;sched: RT throttling activated".into());
    let mut b = batch();
    assert!(reader.fill(&mut Log(records.into_iter().map(Ok).collect()), &mut b, &sink).unwrap());
    assert_eq!((b.len(), b.covered_to), (201, false));
    assert_eq!(sink.problems().len(), 300);
    assert_eq!(shown(&b.rows().last().unwrap()), "sched_rt_throttled");
}

#[test]
fn settings_and_hosts_without_a_log() {
    let dir = tempfile::tempdir().unwrap();
    let roots = Roots::under(dir.path());
    let err = |settings: &str| build(&roots, &settings.parse().unwrap()).err().unwrap();
    assert!(err("").why.contains("there is no"));
    assert!(err("from = 3").bad_settings && err("form = \"boot\"").bad_settings);
    std::fs::create_dir(dir.path().join("dev")).unwrap();
    std::fs::write(dir.path().join("dev/kmsg"), "6,1,1,-;x").unwrap();
    assert!(err("from = \"boot\"").why.contains("is no device"));
}

#[test]
fn the_real_log_from_boot() {
    let mut file = match open(Path::new("/dev/kmsg")) {
        Ok(f) => f,
        Err(e) => return println!("skipped: {e}"),
    };
    file.seek(SeekFrom::Start(0)).unwrap();
    let sink = Kept(clock::now(), Mutex::default());
    let mut reader = Reader::new(true);
    let mut rows = 0;
    loop {
        let mut b = batch();
        let all = reader.fill(&mut file, &mut b, &sink).unwrap();
        rows += b.len();
        if all {
            break;
        }
    }
    assert!(rows > 0 || reader.last.is_none());
    assert!(sink.problems().iter().all(|p| !p.contains("has no")), "{:?}", sink.problems());
}
