//! Reading: what the daemon begins with, and what commands show.

use rusqlite::{OptionalExtension, params};
use whystall_engine::verdict::Verdict;

use super::ops::{Body, Row, RowKind, int, uint};
use super::{Store, StoreError};

/// Verdicts of an incident that are shown at most.
const MAX_HISTORY: usize = 1_000;

/// An incident, with its newest verdict.
#[derive(Debug, Clone, PartialEq)]
pub struct Incident {
    /// Its newest verdict.
    pub verdict: Verdict,
    /// When it began, nanoseconds since 1970.
    pub started_ns: u64,
}

/// What is known of an incident and a receiver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thread {
    /// The incident.
    pub incident: String,
    /// The receiver's name.
    pub receiver: String,
    /// Whether it got a verdict that says that the incident is there.
    pub opened: bool,
    /// When it was last told.
    pub told_ns: u64,
}

/// Verdicts about which nobody is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Silence {
    /// Its id.
    pub id: String,
    /// By label, as in a route; all must match.
    pub matchers: Vec<(String, String)>,
    /// Why.
    pub reason: String,
    /// Who made it.
    pub by: String,
    /// When, nanoseconds since 1970.
    pub created_ns: u64,
    /// Until when, nanoseconds since 1970.
    pub until_ns: u64,
}

/// What a daemon begins with.
#[derive(Debug, Default)]
pub struct Recovered {
    /// The newest verdicts of incidents that are open or about which rows are pending.
    pub incidents: Vec<Verdict>,
    /// Rows of the outbox that are still to be delivered, by id.
    pub rows: Vec<Row>,
    /// Who was told what.
    pub threads: Vec<Thread>,
    /// The highest row id.
    pub last_row: u64,
}

/// A row of the outbox as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The row.
    pub row: Row,
    /// `pending` or `failed`.
    pub status: String,
    /// What went wrong last.
    pub why: Option<String>,
}

const ROW: &str = "id, nid, receiver, incident, seq, kind, state, severity, created_ns, due_ns, attempts";

fn row(r: &rusqlite::Row<'_>) -> rusqlite::Result<Row> {
    Ok(Row {
        id: uint(r.get(0)?),
        nid: r.get(1)?,
        receiver: r.get(2)?,
        incident: r.get(3)?,
        seq: r.get(4)?,
        kind: RowKind::from_name(r.get_ref(5)?.as_str().unwrap_or("")),
        state: r.get(6)?,
        severity: r.get(7)?,
        created_ns: uint(r.get(8)?),
        due_ns: uint(r.get(9)?),
        attempts: r.get(10)?,
        notice: None,
    })
}

/// A verdict that is no verdict any more is left out: one bad row must not hide the others.
fn parse(json: &str) -> Option<Verdict> {
    serde_json::from_str(json).ok()
}

impl Store {
    /// What a daemon begins with.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn recover(&self) -> Result<Recovered, StoreError> {
        let mut out = Recovered::default();
        let sql = "SELECT v.json FROM incident i JOIN verdict v ON v.incident = i.id AND v.seq = i.seq
            WHERE i.state NOT IN ('resolved', 'withdrawn') OR EXISTS (SELECT 1 FROM thread t WHERE t.incident = i.id)
            OR EXISTS (SELECT 1 FROM outbox o WHERE o.incident = i.id AND o.status = 'pending') ORDER BY i.id";
        let mut find = self.db.prepare(sql)?;
        for json in find.query_map([], |r| r.get::<_, String>(0))? {
            out.incidents.extend(parse(&json?));
        }
        let mut find =
            self.db.prepare(&format!("SELECT {ROW} FROM outbox WHERE status = 'pending' ORDER BY id"))?;
        for r in find.query_map([], row)? {
            out.rows.push(r?);
        }
        let mut find = self.db.prepare("SELECT incident, receiver, opened, told_ns FROM thread")?;
        let threads = find.query_map([], |r| {
            Ok(Thread {
                incident: r.get(0)?,
                receiver: r.get(1)?,
                opened: r.get(2)?,
                told_ns: uint(r.get(3)?),
            })
        })?;
        for t in threads {
            out.threads.push(t?);
        }
        let last = self.db.query_row("SELECT max(id) FROM outbox", [], |r| r.get::<_, Option<i64>>(0))?;
        out.last_row = uint(last.unwrap_or(0));
        Ok(out)
    }

    /// A kept value.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn meta(&self, key: &str) -> Result<Option<String>, StoreError> {
        let sql = "SELECT value FROM meta WHERE key = ?1";
        Ok(self.db.query_row(sql, [key], |r| r.get(0)).optional()?)
    }

    pub(super) fn body_on_disk(&self, id: u64, incident: Option<&str>, seq: u32) -> (Body, Option<String>) {
        let sql = "SELECT notice, progress FROM outbox WHERE id = ?1";
        let found = self.db.prepare_cached(sql).and_then(|mut q| {
            q.query_row([int(id)], |r| Ok((r.get::<_, Option<String>>(0)?, r.get(1)?))).optional()
        });
        let (notice, progress) = found.ok().flatten().unwrap_or((None, None));
        if let Some(n) = notice {
            return (Body::Notice(n), progress);
        }
        let sql = "SELECT json FROM verdict WHERE incident = ?1 AND seq = ?2";
        let json =
            self.db.prepare_cached(sql).and_then(|mut q| q.query_row(params![incident, seq], |r| r.get(0)));
        (json.map_or(Body::Gone, Body::Verdict), progress)
    }

    /// Incidents that changed since `since_ns` or are open, oldest first, at most `limit` of the newest.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn incidents(&self, since_ns: u64, limit: usize) -> Result<Vec<Incident>, StoreError> {
        let sql = "SELECT v.json, i.started_ns FROM incident i JOIN verdict v ON v.incident = i.id AND v.seq = i.seq
            WHERE i.updated_ns >= ?1 OR i.state NOT IN ('resolved', 'withdrawn')
            ORDER BY i.started_ns DESC, i.id DESC LIMIT ?2";
        let mut find = self.db.prepare(sql)?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let found =
            find.query_map(params![int(since_ns), limit], |r| Ok((r.get::<_, String>(0)?, uint(r.get(1)?))))?;
        let mut out = Vec::new();
        for f in found {
            let (json, started_ns) = f?;
            out.extend(parse(&json).map(|verdict| Incident { verdict, started_ns }));
        }
        out.reverse();
        Ok(out)
    }

    /// All verdicts of an incident whose id is, or begins with, `id`, oldest first.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn history(&self, id: &str) -> Result<Vec<Verdict>, StoreError> {
        let sql = "SELECT json FROM verdict WHERE incident = ?1 ORDER BY seq LIMIT ?2";
        let mut find = self.db.prepare(sql)?;
        let mut out = Vec::new();
        for json in find.query_map(params![id, MAX_HISTORY as i64], |r| r.get::<_, String>(0))? {
            out.extend(parse(&json?));
        }
        Ok(out)
    }

    /// The outbox: pending rows and those given up, oldest first.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn outbox(&self, limit: usize) -> Result<Vec<Listed>, StoreError> {
        let sql = format!("SELECT {ROW}, status, why FROM outbox ORDER BY id LIMIT ?1");
        let mut find = self.db.prepare(&sql)?;
        let rows = find.query_map([i64::try_from(limit).unwrap_or(i64::MAX)], |r| {
            Ok(Listed { row: row(r)?, status: r.get(11)?, why: r.get(12)? })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Makes rows due now, also those given up; all, or those of one receiver, or one by id. Returns how many. A running
    /// daemon notices.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn retry(&mut self, which: Option<&str>, now_ns: u64) -> Result<usize, StoreError> {
        let tx = self.db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        let n = tx.execute(
            "UPDATE outbox SET status = 'pending', due_ns = ?2
             WHERE (?1 IS NULL OR receiver = ?1 OR CAST(id AS TEXT) = ?1 OR nid = ?1)",
            params![which, int(now_ns)],
        )?;
        tx.execute("INSERT INTO request (what, arg) VALUES ('retry', ?1)", [which.unwrap_or("")])?;
        tx.commit()?;
        Ok(n)
    }

    /// Takes what commands asked of the daemon: which rows to retry (a receiver, an id, or empty for all).
    ///
    /// # Errors
    /// What SQLite says.
    pub fn take_requests(&mut self) -> Result<Vec<String>, StoreError> {
        let mut args = Vec::new();
        {
            let mut find =
                self.db.prepare_cached("SELECT arg FROM request WHERE what = 'retry' ORDER BY id")?;
            for arg in find.query_map([], |r| r.get::<_, String>(0))? {
                args.push(arg?);
            }
        }
        if !args.is_empty() {
            self.db.execute("DELETE FROM request", [])?;
        }
        Ok(args)
    }

    /// All silences, also those that are over, oldest first.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn silences(&self) -> Result<Vec<Silence>, StoreError> {
        let sql =
            "SELECT id, matchers, reason, by, created_ns, until_ns FROM silence ORDER BY created_ns, id";
        let mut find = self.db.prepare_cached(sql)?;
        let found = find.query_map([], |r| {
            Ok(Silence {
                id: r.get(0)?,
                matchers: serde_json::from_str(r.get_ref(1)?.as_str().unwrap_or("")).unwrap_or_default(),
                reason: r.get(2)?,
                by: r.get(3)?,
                created_ns: uint(r.get(4)?),
                until_ns: uint(r.get(5)?),
            })
        })?;
        // One without matchers would silence everything; it can only come from a broken row.
        let all: Result<Vec<Silence>, _> = found.collect();
        Ok(all?.into_iter().filter(|s| !s.matchers.is_empty()).collect())
    }

    /// Adds a silence.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn silence(&mut self, s: &Silence) -> Result<(), StoreError> {
        let matchers = serde_json::to_string(&s.matchers).unwrap_or_default();
        let values = params![s.id, matchers, s.reason, s.by, int(s.created_ns), int(s.until_ns)];
        self.db.execute("INSERT INTO silence VALUES (?1, ?2, ?3, ?4, ?5, ?6)", values)?;
        Ok(())
    }

    /// Ends a silence now; false if there is none that is active.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn expire(&mut self, id: &str, now_ns: u64) -> Result<bool, StoreError> {
        let sql = "UPDATE silence SET until_ns = ?2 WHERE id = ?1 AND until_ns > ?2";
        Ok(self.db.execute(sql, params![id, int(now_ns)])? > 0)
    }
}
