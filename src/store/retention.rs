//! What is kept, by age and size: the history of incidents that are over and that nobody is still to be told of.

use rusqlite::params;

use super::ops::int;
use super::{Store, StoreError};

/// Incidents removed in one transaction.
const BATCH: usize = 50;

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Incidents that ended longer ago are removed, nanoseconds.
    pub age_ns: u64,
    /// If the file is larger, the oldest incidents are removed until it is not, bytes.
    pub bytes: u64,
}

impl Default for Retention {
    fn default() -> Retention {
        Retention { age_ns: 30 * 86_400 * whystall_event::SEC, bytes: 64 << 20 }
    }
}

impl Store {
    /// Removes what is over the bounds; returns how many incidents. Bounded work: what is left goes with the next call.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn prune(&mut self, keep: Retention, now_ns: u64) -> Result<usize, StoreError> {
        let mut removed = 0;
        for _ in 0..100 {
            match self.remove_oldest(now_ns.saturating_sub(keep.age_ns))? {
                0 => break,
                n => removed += n,
            }
        }
        for _ in 0..100 {
            if self.used_bytes()? <= keep.bytes {
                break;
            }
            match self.remove_oldest(u64::MAX)? {
                0 => break,
                n => removed += n,
            }
        }
        let old = int(now_ns.saturating_sub(keep.age_ns));
        self.db.execute("DELETE FROM outbox WHERE status = 'failed' AND created_ns < ?1", [old])?;
        self.db.execute("DELETE FROM silence WHERE until_ns < ?1", [old])?;
        self.db.execute_batch("PRAGMA incremental_vacuum(2000)")?;
        Ok(removed)
    }

    fn remove_oldest(&mut self, ended_before_ns: u64) -> Result<usize, StoreError> {
        let tx = self.db.transaction()?;
        let mut ids: Vec<String> = Vec::new();
        {
            let sql = "SELECT id FROM incident WHERE state IN ('resolved', 'withdrawn') AND updated_ns < ?1
                AND NOT EXISTS (SELECT 1 FROM outbox WHERE outbox.incident = incident.id AND status = 'pending')
                ORDER BY updated_ns LIMIT ?2";
            let mut find = tx.prepare_cached(sql)?;
            for id in find.query_map(params![int(ended_before_ns), BATCH as i64], |r| r.get(0))? {
                ids.push(id?);
            }
        }
        for id in &ids {
            tx.execute("DELETE FROM verdict WHERE incident = ?1", [id])?;
            tx.execute("DELETE FROM outbox WHERE incident = ?1", [id])?;
            tx.execute("DELETE FROM thread WHERE incident = ?1", [id])?;
            tx.execute("DELETE FROM incident WHERE id = ?1", [id])?;
        }
        tx.commit()?;
        Ok(ids.len())
    }

    pub(super) fn used_bytes(&self) -> Result<u64, StoreError> {
        let number = |what: &str| self.db.query_row(&format!("PRAGMA {what}"), [], |r| r.get::<_, i64>(0));
        let used = number("page_count")? - number("freelist_count")?;
        Ok(super::ops::uint(used.saturating_mul(number("page_size")?)))
    }

    /// The disk is full: gives back what the file does not need.
    pub(super) fn make_room(&mut self) {
        // Either may fail on a full disk; then news wait in memory.
        let _ = self.db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        let _ = self.remove_oldest(u64::MAX);
    }
}
