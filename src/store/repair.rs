//! Damaged files: found, set aside, and what can still be read of what matters carried over.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, ErrorCode, types::Value};

use super::{StoreError, open_file};
use whystall_event::SEC;

/// Larger files are not read whole at the start; damage in them is found when it is met.
const CHECKED_SIZE: u64 = 64 << 20;
/// Rows carried over from each table at most.
const MAX_CARRIED: usize = 100_000;
/// What is carried over: what is still to be told and what people set. History stays in the file set aside.
const CARRIED: [(&str, usize); 5] =
    [("incident", 11), ("outbox", 15), ("thread", 4), ("silence", 6), ("meta", 2)];

fn code(e: &rusqlite::Error) -> Option<ErrorCode> {
    e.sqlite_error_code()
}

/// Whether the file is broken.
pub(super) fn is_damage(e: &rusqlite::Error) -> bool {
    matches!(code(e), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}

/// Whether the disk, or what we may use of it, is full.
pub(super) fn is_full(e: &rusqlite::Error) -> bool {
    matches!(code(e), Some(ErrorCode::DiskFull))
}

/// Reads the whole file, if that is quick.
pub(super) fn check(db: &Connection, path: &Path) -> Result<(), StoreError> {
    let size = std::fs::metadata(path).map(|m| m.len()).unwrap_or(0);
    if size > CHECKED_SIZE {
        return Ok(());
    }
    let said: String = db.query_row("PRAGMA quick_check(1)", [], |r| r.get(0))?;
    if said == "ok" {
        return Ok(());
    }
    let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
    Err(StoreError::Sql(rusqlite::Error::SqliteFailure(code, Some(said))))
}

/// Sets the file at `path` aside and makes a fresh one, with what can be read of the old one. Returns it with a line
/// about what happened.
pub(super) fn replace(
    old: Option<&Connection>,
    path: &Path,
    wall_ns: u64,
    why: &rusqlite::Error,
) -> Result<(Connection, String), StoreError> {
    let aside = |p: &Path| PathBuf::from(format!("{}.damaged-{}", p.display(), wall_ns / SEC));
    let target = aside(path);
    let opened = if old.is_none() { Connection::open(path).ok() } else { None };
    let old = old.or(opened.as_ref());
    for end in ["", "-wal", "-shm"] {
        let from = PathBuf::from(format!("{}{end}", path.display()));
        let to = PathBuf::from(format!("{}{end}", target.display()));
        match std::fs::rename(&from, &to) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => return Err(StoreError::Io { path: from, source }),
        }
    }
    let fresh = open_file(path, true)?;
    let rows = old.map_or(0, |old| carry(old, &fresh));
    let told = format!(
        "the store was damaged ({why}): it is set aside as {}, and a fresh one has the {rows} rows of incidents, outbox and silences that could be read",
        target.display()
    );
    Ok((fresh, told))
}

/// Copies what can be read, row by row; the first row that cannot ends its table.
fn carry(old: &Connection, fresh: &Connection) -> usize {
    let mut rows = 0;
    let _ = fresh.execute_batch("BEGIN");
    for (table, columns) in CARRIED {
        let Ok(mut read) = old.prepare(&format!("SELECT * FROM {table}")) else { continue };
        if read.column_count() != columns {
            continue;
        }
        let marks = vec!["?"; columns].join(", ");
        let Ok(mut write) = fresh.prepare(&format!("INSERT OR REPLACE INTO {table} VALUES ({marks})")) else {
            continue;
        };
        let Ok(mut found) = read.query([]) else { continue };
        let mut n = 0;
        while let Ok(Some(row)) = found.next() {
            let values: Result<Vec<Value>, _> = (0..columns).map(|c| row.get(c)).collect();
            let Ok(values) = values else { break };
            rows += write.execute(rusqlite::params_from_iter(values)).unwrap_or(0);
            n += 1;
            if n >= MAX_CARRIED {
                break;
            }
        }
    }
    // Verdicts that are still to be told, one by one.
    let wanted = "SELECT DISTINCT incident, seq FROM outbox WHERE incident IS NOT NULL";
    if let Ok(mut wanted) = fresh.prepare(wanted)
        && let Ok(found) = wanted.query_map([], |r| Ok((r.get::<_, String>(0)?, r.get::<_, u32>(1)?)))
    {
        for (incident, seq) in found.flatten() {
            let sql = "SELECT at_ns, json FROM verdict WHERE incident = ?1 AND seq = ?2";
            let got = old.query_row(sql, rusqlite::params![incident, seq], |r| {
                Ok((r.get::<_, i64>(0)?, r.get::<_, String>(1)?))
            });
            if let Ok((at, json)) = got {
                let sql = "INSERT OR REPLACE INTO verdict VALUES (?1, ?2, ?3, ?4)";
                rows += fresh.execute(sql, rusqlite::params![incident, seq, at, json]).unwrap_or(0);
            }
        }
    }
    let _ = fresh.execute_batch("COMMIT");
    rows
}
