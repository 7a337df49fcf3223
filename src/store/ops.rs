//! Changes of the store. A list of them is one transaction.

use rusqlite::{Connection, params};
use whystall_engine::verdict::{State, Verdict};
use whystall_event::parse_rfc3339;

/// What a row of the outbox tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowKind {
    /// A transition of an incident.
    Verdict,
    /// An incident that lasts, told again.
    Repeat,
    /// Something about whystall itself.
    Notice,
}

impl RowKind {
    /// Its name in the table.
    pub const fn name(self) -> &'static str {
        match self {
            RowKind::Verdict => "verdict",
            RowKind::Repeat => "repeat",
            RowKind::Notice => "notice",
        }
    }

    pub(super) fn from_name(s: &str) -> RowKind {
        match s {
            "repeat" => RowKind::Repeat,
            "notice" => RowKind::Notice,
            _ => RowKind::Verdict,
        }
    }
}

/// A row of the outbox: one notification to one receiver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Unique and growing: the order in which rows came.
    pub id: u64,
    /// The notification's id, the same across retries.
    pub nid: String,
    /// The receiver's name.
    pub receiver: String,
    /// The incident; none for a notice.
    pub incident: Option<String>,
    /// The verdict's number.
    pub seq: u32,
    /// What it tells.
    pub kind: RowKind,
    /// The verdict's state, or `notice`.
    pub state: String,
    /// The verdict's severity.
    pub severity: String,
    /// When it was made, nanoseconds since 1970.
    pub created_ns: u64,
    /// Not to be tried before, nanoseconds since 1970.
    pub due_ns: u64,
    /// Tries so far.
    pub attempts: u32,
    /// A notice's text as JSON.
    pub notice: Option<String>,
}

/// What a try of a row changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowUpdate {
    /// The row.
    pub id: u64,
    /// Whether it is given up.
    pub failed: bool,
    /// Tries so far.
    pub attempts: u32,
    /// Not to be tried before.
    pub due_ns: u64,
    /// What went wrong.
    pub why: String,
    /// What is left to do, in the receiver's words.
    pub progress: Option<String>,
}

/// One change.
#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    /// A verdict, and with it the incident's new state.
    Verdict(Box<Verdict>),
    /// A new row of the outbox.
    Put(Box<Row>),
    /// A row was tried.
    Update(Box<RowUpdate>),
    /// A row is due at another time.
    Due(u64, u64),
    /// A row is done.
    Done(u64),
    /// A receiver was told of an incident.
    Thread {
        /// The incident.
        incident: String,
        /// The receiver's name.
        receiver: String,
        /// Whether it got a verdict that says that the incident is there.
        opened: bool,
        /// When it was last told.
        told_ns: u64,
    },
    /// Nothing more will be told of the incident to the receiver.
    EndThread {
        /// The incident.
        incident: String,
        /// The receiver's name.
        receiver: String,
    },
    /// A value to keep; empty removes it.
    Meta(String, String),
}

impl Op {
    /// About how much memory it takes, bytes.
    pub(super) fn weight(&self) -> usize {
        match self {
            Op::Verdict(v) => {
                let actors = v.victims.len() + v.culprits.len();
                let lists = v.evidence.len() + v.hints.len() + v.chain.len() + v.ruled_out.len() + actors;
                let terms: usize =
                    v.explained.iter().map(|e| 2 + e.enter.terms.len() + e.leave.terms.len()).sum();
                1024 + 256 * lists + 128 * terms
            }
            Op::Put(r) => 256 + r.notice.as_ref().map_or(0, String::len),
            Op::Update(u) => 128 + u.why.len() + u.progress.as_ref().map_or(0, String::len),
            Op::Meta(k, v) => 64 + k.len() + v.len(),
            _ => 128,
        }
    }

    pub(super) fn apply(&self, db: &Connection) -> Result<(), rusqlite::Error> {
        match self {
            Op::Verdict(v) => verdict(db, v),
            Op::Put(r) => put(db, r),
            Op::Update(u) => {
                let sql = "UPDATE outbox SET status = ?2, attempts = ?3, due_ns = ?4, why = ?5, progress = ?6
                           WHERE id = ?1";
                let status = if u.failed { "failed" } else { "pending" };
                let values = params![int(u.id), status, u.attempts, int(u.due_ns), u.why, u.progress];
                db.prepare_cached(sql)?.execute(values).map(drop)
            }
            Op::Due(id, due) => {
                let sql = "UPDATE outbox SET due_ns = ?2 WHERE id = ?1";
                db.prepare_cached(sql)?.execute(params![int(*id), int(*due)]).map(drop)
            }
            Op::Done(id) => {
                db.prepare_cached("DELETE FROM outbox WHERE id = ?1")?.execute([int(*id)]).map(drop)
            }
            Op::Thread { incident, receiver, opened, told_ns } => {
                let sql = "INSERT OR REPLACE INTO thread VALUES (?1, ?2, ?3, ?4)";
                db.prepare_cached(sql)?.execute(params![incident, receiver, opened, int(*told_ns)]).map(drop)
            }
            Op::EndThread { incident, receiver } => {
                let sql = "DELETE FROM thread WHERE incident = ?1 AND receiver = ?2";
                db.prepare_cached(sql)?.execute([incident, receiver]).map(drop)
            }
            Op::Meta(key, value) if value.is_empty() => {
                db.prepare_cached("DELETE FROM meta WHERE key = ?1")?.execute([key]).map(drop)
            }
            Op::Meta(key, value) => db
                .prepare_cached("INSERT OR REPLACE INTO meta VALUES (?1, ?2)")?
                .execute([key, value])
                .map(drop),
        }
    }
}

/// What a row has to tell, as it is delivered.
#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    /// A verdict as JSON.
    Verdict(String),
    /// A notice as JSON.
    Notice(String),
    /// It cannot be found any more.
    Gone,
}

/// SQLite's integers have a sign; times fit until 2262.
pub(super) fn int(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

pub(super) fn uint(n: i64) -> u64 {
    u64::try_from(n).unwrap_or(0)
}

/// The name of a verdict's state, as the contract writes it.
pub fn state_name(s: State) -> &'static str {
    match s {
        State::Firing => "firing",
        State::Updated => "updated",
        State::Resolved => "resolved",
        State::Withdrawn => "withdrawn",
    }
}

fn verdict(db: &Connection, v: &Verdict) -> Result<(), rusqlite::Error> {
    let time = |s: &str| int(parse_rfc3339(s).unwrap_or(0));
    let updated = time(&v.updated_at);
    let json = serde_json::to_string(v).map_err(|e| rusqlite::Error::ToSqlConversionFailure(Box::new(e)))?;
    db.prepare_cached("INSERT OR REPLACE INTO verdict VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![v.incident, v.seq, updated, json])?;
    let sql = "INSERT INTO incident VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)
        ON CONFLICT (id) DO UPDATE SET state = ?2, seq = ?3, rule = ?4, cause = ?5, severity = ?6, subject = ?7,
        summary = ?8, updated_ns = ?10, resolved_ns = ?11 WHERE excluded.seq >= seq";
    db.prepare_cached(sql)?.execute(params![
        v.incident,
        state_name(v.state),
        v.seq,
        v.rule,
        v.cause,
        v.severity.name(),
        v.subject,
        v.summary,
        time(&v.started_at),
        updated,
        v.resolved_at.as_deref().map(time),
    ])?;
    Ok(())
}

fn put(db: &Connection, r: &Row) -> Result<(), rusqlite::Error> {
    let sql = "INSERT OR REPLACE INTO outbox (id, nid, receiver, incident, seq, kind, state, severity, status, created_ns,
        due_ns, attempts, notice) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 'pending', ?9, ?10, ?11, ?12)";
    db.prepare_cached(sql)?.execute(params![
        int(r.id),
        r.nid,
        r.receiver,
        r.incident,
        r.seq,
        r.kind.name(),
        r.state,
        r.severity,
        int(r.created_ns),
        int(r.due_ns),
        r.attempts,
        r.notice,
    ])?;
    Ok(())
}
