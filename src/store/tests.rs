//! The store against real files: restarts, damage, full disks, two daemons.

use whystall_engine::verdict::{State, Verdict};
use whystall_event::{SEC, format_rfc3339};

use super::*;
use crate::render::sample;

const T0: u64 = 1_800_000_000 * SEC;
const DAY: u64 = 86_400 * SEC;

fn verdict(incident: &str, seq: u32, state: State, at: u64) -> Op {
    Op::Verdict(Box::new(Verdict {
        incident: incident.into(),
        seq,
        state,
        started_at: format_rfc3339(at),
        updated_at: format_rfc3339(at),
        ..sample::verdict()
    }))
}

fn row(id: u64, incident: &str) -> Op {
    Op::Put(Box::new(Row {
        id,
        nid: format!("{incident}.1.x"),
        receiver: "ops".into(),
        incident: Some(incident.into()),
        seq: 1,
        kind: RowKind::Verdict,
        state: "firing".into(),
        severity: "warning".into(),
        created_ns: T0,
        due_ns: T0,
        attempts: 0,
        notice: None,
    }))
}

fn dir() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn what_was_committed_is_there_after_a_restart() {
    let dir = dir();
    let mut s = Store::open(dir.path(), T0).unwrap();
    assert!(s.commit(vec![verdict("i", 1, State::Firing, T0), row(1, "i")], T0));
    assert!(s.commit(vec![verdict("i", 2, State::Updated, T0), Op::Meta("k".into(), "v".into())], T0));
    assert!(matches!(Store::open(dir.path(), T0), Err(StoreError::Locked(_))), "one daemon at a time");
    drop(s);
    let s = Store::open(dir.path(), T0).unwrap();
    assert_eq!(s.history("i").unwrap().iter().map(|v| v.seq).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(s.incidents(0, 10).unwrap()[0].verdict.seq, 2);
    assert_eq!(s.recover().unwrap().rows.len(), 1);
    assert_eq!(s.meta("k").unwrap().as_deref(), Some("v"));
    assert!(matches!(s.body(1, Some("i"), 1).0, Body::Verdict(_)));
    assert_eq!(s.body(1, Some("i"), 9).0, Body::Gone);
}

#[test]
fn commands_work_beside_the_daemon_which_notices() {
    let dir = dir();
    assert!(matches!(Store::beside(dir.path(), false), Err(StoreError::Missing(_))));
    let mut daemon = Store::open(dir.path(), T0).unwrap();
    daemon.commit(vec![verdict("i", 1, State::Firing, T0), row(1, "i")], T0);
    daemon.changed_outside();
    assert!(!daemon.changed_outside());
    let mut command = Store::beside(dir.path(), false).unwrap();
    let silence = Silence {
        id: "s1".into(),
        matchers: vec![("rule".into(), "memory.*".into())],
        reason: "it's \"work\"".into(),
        by: "me".into(),
        created_ns: T0,
        until_ns: T0 + DAY,
    };
    command.silence(&silence).unwrap();
    assert!(daemon.changed_outside());
    assert_eq!(daemon.silences().unwrap(), [silence]);
    assert!(command.expire("s1", T0 + SEC).unwrap());
    assert!(!command.expire("s1", T0 + SEC).unwrap(), "it is over already");
    assert_eq!(command.retry(Some("ops"), T0 + 5).unwrap(), 1);
    assert_eq!(command.retry(Some("nobody"), T0 + 5).unwrap(), 0);
    assert!(daemon.changed_outside());
    assert_eq!(daemon.take_requests().unwrap(), ["ops", "nobody"]);
    assert!(daemon.take_requests().unwrap().is_empty());
}

#[test]
fn a_damaged_file_is_set_aside_and_the_daemon_goes_on() {
    for damage in ["text", "header", "pages"] {
        let dir = dir();
        let path = dir.path().join(FILE);
        let mut s = Store::open(dir.path(), T0).unwrap();
        for i in 0..200 {
            let id = format!("i{i:03}");
            s.commit(vec![verdict(&id, 1, State::Firing, T0), row(i + 1, &id)], T0);
        }
        drop(s);
        let mut bytes = std::fs::read(&path).unwrap();
        match damage {
            "text" => {
                bytes =
                    b"this is no database, and it is longer than a header of one would be, by far".repeat(9)
            }
            "header" => bytes[..64].fill(0xa5),
            _ => {
                let n = bytes.len();
                for page in (20..n / 4096).step_by(3) {
                    bytes[page * 4096..page * 4096 + 512].fill(0x5a);
                }
            }
        }
        std::fs::write(&path, bytes).unwrap();
        let mut s = Store::open(dir.path(), T0).unwrap();
        let news = s.take_news();
        assert!(news.len() == 1 && news[0].contains("damaged"), "{damage}: {news:?}");
        assert!(dir.path().join(format!("{FILE}.damaged-{}", T0 / SEC)).exists(), "{damage}");
        assert!(s.commit(vec![verdict("new", 1, State::Firing, T0)], T0));
        assert_eq!(s.history("new").unwrap().len(), 1);
    }
}

#[test]
fn damage_met_at_run_time_is_survived() {
    let dir = dir();
    let path = dir.path().join(FILE);
    let mut s = Store::open(dir.path(), T0).unwrap();
    for i in 0..200 {
        s.commit(vec![verdict(&format!("i{i}"), 1, State::Firing, T0)], T0);
    }
    s.db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    let n = std::fs::metadata(&path).unwrap().len();
    std::fs::write(&path, vec![0x5a; usize::try_from(n).unwrap()]).unwrap();
    s.db.execute_batch("PRAGMA shrink_memory").unwrap();
    let written = (0..50).all(|i| s.commit(vec![verdict(&format!("n{i}"), 1, State::Firing, T0)], T0));
    assert!(written, "{:?}", s.take_news());
    assert!(s.take_news().iter().any(|n| n.contains("damaged")));
    assert_eq!(s.history("n49").unwrap().len(), 1);
}

#[test]
fn a_full_disk_keeps_news_in_memory_and_writes_them_later() {
    let dir = dir();
    let mut s = Store::open(dir.path(), T0).unwrap();
    // SQLite's own limit gives the same error as a full disk.
    let pages: i64 = s.db.query_row("PRAGMA page_count", [], |r| r.get(0)).unwrap();
    s.db.query_row(&format!("PRAGMA max_page_count = {}", pages + 20), [], |_| Ok(())).unwrap();
    let mut all = true;
    for i in 0..100u64 {
        let id = format!("i{i}");
        all &= s.commit(vec![verdict(&id, 1, State::Firing, T0), row(i + 1, &id)], T0 + i);
    }
    assert!(!all && s.is_behind());
    assert!(s.take_news()[0].contains("cannot be written"));
    assert!(matches!(s.body(100, Some("i99"), 1).0, Body::Verdict(_)), "what is in memory can be delivered");
    assert!(!s.commit(Vec::new(), T0 + 10 * SEC));
    s.db.query_row("PRAGMA max_page_count = 100000", [], |_| Ok(())).unwrap();
    assert!(s.commit(Vec::new(), T0 + 20 * SEC));
    assert!(s.take_news().last().unwrap().contains("nothing is missing"));
    assert_eq!(s.recover().unwrap().rows.len(), 100);
}

#[test]
fn what_waits_in_memory_is_bounded_and_the_newest_stays() {
    let dir = dir();
    let mut s = Store::open(dir.path(), T0).unwrap();
    s.db.query_row("PRAGMA max_page_count = 1", [], |_| Ok(())).unwrap();
    for i in 0..20_000u32 {
        s.commit(vec![verdict("i", i + 1, State::Updated, T0)], T0);
    }
    assert!(matches!(s.body(0, Some("i"), 20_000).0, Body::Verdict(_)));
    assert_eq!(s.body(0, Some("i"), 50).0, Body::Gone);
    s.db.query_row("PRAGMA max_page_count = 1000000", [], |_| Ok(())).unwrap();
    assert!(s.commit(Vec::new(), T0 + 60 * SEC));
    assert!(s.take_news().last().unwrap().contains("are missing from it"));
    assert_eq!(s.incidents(0, 10).unwrap()[0].verdict.seq, 20_000);
}

#[test]
fn old_incidents_go_and_open_or_untold_ones_stay() {
    let dir = dir();
    let mut s = Store::open(dir.path(), T0).unwrap();
    for i in 0..600 {
        s.commit(vec![verdict(&format!("i{i:03}"), 1, State::Resolved, T0 + i)], T0);
    }
    s.commit(vec![verdict("open", 1, State::Firing, T0)], T0);
    s.commit(vec![verdict("untold", 1, State::Resolved, T0), row(1, "untold")], T0);
    let ids = |s: &Store| -> Vec<String> {
        s.incidents(0, 10_000).unwrap().into_iter().map(|i| i.verdict.incident).collect()
    };
    let keep = Retention { age_ns: DAY, bytes: u64::MAX };
    assert_eq!(s.prune(keep, T0 + DAY / 2).unwrap(), 0);
    let small = Retention { age_ns: 100 * DAY, bytes: 400 << 10 };
    assert!(s.prune(small, T0).unwrap() > 0);
    assert!(s.used_bytes().unwrap() <= 400 << 10);
    let left = ids(&s);
    assert!(left.contains(&"i599".to_string()) && !left.contains(&"i000".to_string()), "{left:?}");
    while s.prune(keep, T0 + 2 * DAY).unwrap() > 0 {}
    let mut left = ids(&s);
    left.sort();
    assert_eq!(left, ["open", "untold"]);
}

#[test]
fn a_directory_that_cannot_be_made_is_an_error_and_memory_works() {
    let dir = dir();
    std::fs::write(dir.path().join("file"), "").unwrap();
    assert!(matches!(Store::open(&dir.path().join("file/state"), T0), Err(StoreError::Io { .. })));
    let mut s = Store::in_memory().unwrap();
    assert!(!s.is_durable() && s.commit(vec![verdict("i", 1, State::Firing, T0)], T0));
}

#[test]
fn a_newer_store_is_left_alone() {
    let dir = dir();
    drop(Store::open(dir.path(), T0).unwrap());
    let db = Connection::open(dir.path().join(FILE)).unwrap();
    db.pragma_update(None, "user_version", 99).unwrap();
    drop(db);
    assert!(matches!(Store::open(dir.path(), T0), Err(StoreError::Newer { found: 99, .. })));
}
