//! The store: incidents with their whole history, the rules' state, silences and the outbox, in one SQLite file that
//! people can open with `sqlite3`.
//!
//! [`Store`] belongs to one thread. Changes come as lists of [`Op`]; a list is one transaction. What cannot be written
//! (disk full, a file that broke) waits in memory, newest first within bounds, and is written once that works again, so
//! that the daemon goes on. Commands open the same file beside the daemon ([`Store::beside`]).

mod backlog;
mod ops;
mod place;
mod query;
mod repair;
mod retention;
mod schema;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

pub use ops::{Body, Op, Row, RowKind, RowUpdate, state_name};
pub use place::{FILE, state_dir};
pub use query::{Incident, Listed, Recovered, Silence, Thread};
pub use retention::Retention;

/// How long a command or the daemon waits for the other's transaction.
const BUSY: Duration = Duration::from_secs(5);

/// Why the store cannot be used as it should.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// SQLite's word.
    #[error("{0}")]
    Sql(#[from] rusqlite::Error),
    /// The system's word about a file or directory.
    #[error("{}: {source}", .path.display())]
    Io {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Another daemon has it.
    #[error("{} belongs to another running whystall", .0.display())]
    Locked(PathBuf),
    /// A later version wrote it.
    #[error("the store has version {found} and this program knows {known}: use the newer program")]
    Newer {
        /// The file's version.
        found: i64,
        /// This program's version.
        known: i64,
    },
    /// There is none yet.
    #[error("there is no store in {}: `whystall run` makes it", .0.display())]
    Missing(PathBuf),
}

/// The store. Dropping it gives the lock back.
#[derive(Debug)]
pub struct Store {
    db: Connection,
    /// The file, or `None` in memory.
    path: Option<PathBuf>,
    _lock: Option<File>,
    backlog: backlog::Backlog,
    /// What operators should know, since it was last asked.
    news: Vec<String>,
    data_version: i64,
}

impl Store {
    /// Opens the daemon's store in `dir`, which is made if it is missing. A damaged file is set aside, and what can
    /// still be read of its outbox and silences goes into a fresh one.
    ///
    /// # Errors
    /// If the directory or the file cannot be used, or another daemon has it.
    pub fn open(dir: &Path, wall_ns: u64) -> Result<Store, StoreError> {
        let lock = place::prepare(dir)?;
        let path = dir.join(FILE);
        let mut news = Vec::new();
        let db = match open_file(&path, true).and_then(|db| repair::check(&db, &path).map(|()| db)) {
            Ok(db) => db,
            Err(StoreError::Sql(e)) if repair::is_damage(&e) => {
                let (db, told) = repair::replace(None, &path, wall_ns, &e)?;
                news.push(told);
                db
            }
            Err(e) => return Err(e),
        };
        Ok(Store::with(db, Some(path), Some(lock), news))
    }

    /// A store that lives as long as the process, where none can be kept on disk.
    ///
    /// # Errors
    /// Only if there is no memory.
    pub fn in_memory() -> Result<Store, StoreError> {
        let mut db = Connection::open_in_memory()?;
        tune(&db)?;
        schema::migrate(&mut db)?;
        Ok(Store::with(db, None, None, Vec::new()))
    }

    /// Opens the store for a command, beside a daemon or without one. `create` makes it if it is missing.
    ///
    /// # Errors
    /// If there is none, or it cannot be read.
    pub fn beside(dir: &Path, create: bool) -> Result<Store, StoreError> {
        let path = dir.join(FILE);
        if create {
            place::make_dir(dir)?;
        } else if !path.exists() {
            return Err(StoreError::Missing(dir.into()));
        }
        Ok(Store::with(open_file(&path, create)?, Some(path), None, Vec::new()))
    }

    fn with(db: Connection, path: Option<PathBuf>, lock: Option<File>, news: Vec<String>) -> Store {
        Store { db, path, _lock: lock, backlog: backlog::Backlog::default(), news, data_version: 0 }
    }

    /// Whether it is on disk.
    pub fn is_durable(&self) -> bool {
        self.path.is_some()
    }

    /// What happened that operators should know.
    pub fn take_news(&mut self) -> Vec<String> {
        std::mem::take(&mut self.news)
    }

    /// Whether another connection (a command) has changed something since the last call.
    pub fn changed_outside(&mut self) -> bool {
        let now = self.db.query_row("PRAGMA data_version", [], |r| r.get(0)).unwrap_or(self.data_version);
        std::mem::replace(&mut self.data_version, now) != now
    }
}

fn open_file(path: &Path, create: bool) -> Result<Connection, StoreError> {
    let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    if create {
        flags |= OpenFlags::SQLITE_OPEN_CREATE;
    }
    let mut db = Connection::open_with_flags(path, flags)?;
    tune(&db)?;
    schema::migrate(&mut db)?;
    Ok(db)
}

/// WAL, so that commands read while the daemon writes. `synchronous=FULL`: a transition that was committed survives a
/// power cut. The page cache is small, for the daemon's memory budget; the queries here touch few pages.
fn tune(db: &Connection) -> Result<(), rusqlite::Error> {
    db.busy_timeout(BUSY)?;
    db.execute_batch(
        "PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
         PRAGMA cache_size = -256; PRAGMA wal_autocheckpoint = 128; PRAGMA journal_size_limit = 1048576;
         PRAGMA temp_store = MEMORY;",
    )
}
