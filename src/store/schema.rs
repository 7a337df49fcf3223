//! The tables, and how older ones become them. `user_version` counts the migrations that a file has been through.

use rusqlite::{Connection, TransactionBehavior};

/// One script a version; never changed once released, only added to.
const MIGRATIONS: &[&str] = &["
    CREATE TABLE incident (
        id TEXT PRIMARY KEY, state TEXT NOT NULL, seq INTEGER NOT NULL, rule TEXT NOT NULL, cause TEXT NOT NULL,
        severity TEXT NOT NULL, subject TEXT NOT NULL, summary TEXT NOT NULL,
        started_ns INTEGER NOT NULL, updated_ns INTEGER NOT NULL, resolved_ns INTEGER
    ) WITHOUT ROWID;
    CREATE INDEX incident_by_time ON incident (updated_ns);
    CREATE TABLE verdict (
        incident TEXT NOT NULL, seq INTEGER NOT NULL, at_ns INTEGER NOT NULL, json TEXT NOT NULL,
        PRIMARY KEY (incident, seq)
    );
    CREATE TABLE outbox (
        id INTEGER PRIMARY KEY, nid TEXT NOT NULL, receiver TEXT NOT NULL, incident TEXT, seq INTEGER NOT NULL,
        kind TEXT NOT NULL, state TEXT NOT NULL, severity TEXT NOT NULL, status TEXT NOT NULL,
        created_ns INTEGER NOT NULL, due_ns INTEGER NOT NULL, attempts INTEGER NOT NULL,
        why TEXT, progress TEXT, notice TEXT
    );
    CREATE INDEX outbox_by_incident ON outbox (incident);
    CREATE TABLE thread (
        incident TEXT NOT NULL, receiver TEXT NOT NULL, opened INTEGER NOT NULL, told_ns INTEGER NOT NULL,
        PRIMARY KEY (incident, receiver)
    ) WITHOUT ROWID;
    CREATE TABLE silence (
        id TEXT PRIMARY KEY, matchers TEXT NOT NULL, reason TEXT NOT NULL, by TEXT NOT NULL,
        created_ns INTEGER NOT NULL, until_ns INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE request (id INTEGER PRIMARY KEY, what TEXT NOT NULL, arg TEXT NOT NULL);
    CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"];

/// The version of a file that this program writes.
pub(super) const VERSION: i64 = MIGRATIONS.len() as i64;

/// Brings the tables to this program's version, in one transaction.
///
/// # Errors
/// What SQLite says, and a file of a newer version.
pub(super) fn migrate(db: &mut Connection) -> Result<(), super::StoreError> {
    let version = |db: &Connection| db.query_row("PRAGMA user_version", [], |r| r.get::<_, i64>(0));
    if version(db)? == VERSION {
        return Ok(());
    }
    // Another process may be doing the same.
    let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let from = version(&tx)?;
    if from > VERSION {
        return Err(super::StoreError::Newer { found: from, known: VERSION });
    }
    for script in MIGRATIONS.iter().skip(usize::try_from(from).unwrap_or(0)) {
        tx.execute_batch(script)?;
    }
    tx.pragma_update(None, "user_version", VERSION)?;
    tx.commit()?;
    Ok(())
}
