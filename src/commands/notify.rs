//! `whystall notify`: a test of a receiver, and the outbox.

use std::io::{self, Write};
use std::time::Duration;

use anyhow::anyhow;
use serde_json::json;
use whystall_collectors::{Roots, runner::clock};
use whystall_event::format_rfc3339;
use whystall_event::text::{did_you_mean, escape, shorten};

use super::{Error, Outcome, Result, context, print, say, usage};
use crate::cli::{Notify, NotifyCommand, OutboxCommand, Output};
use crate::daemon::facts;
use crate::notify::{self as told, Content, NOTICE_SCHEMA, Notice, NoticeKind, Notification, receivers};
use crate::render::Table;

/// A test that takes longer has failed, whatever the receiver's own deadlines say.
const TEST_WITHIN: Duration = Duration::from_secs(60);
/// Rows shown at most.
const MOST: usize = 10_000;

pub(super) fn notify(args: &Notify) -> Result {
    match &args.what {
        NotifyCommand::Test { receiver, config } => test(receiver, config.as_deref()),
        NotifyCommand::Outbox { what: OutboxCommand::List { output } } => list(*output),
        NotifyCommand::Outbox { what: OutboxCommand::Retry { which } } => {
            let n = context::store(false)?.retry(which.as_deref(), clock::now().wall_ns)?;
            if n == 0
                && let Some(which) = which
            {
                say(&format!(
                    "nothing in the outbox is for `{which}`; `whystall notify outbox list` shows it"
                ));
                return Ok(Outcome::Problems);
            }
            print(&format!("{n} to be tried again\n"))?;
            Ok(Outcome::Fine)
        }
    }
}

fn test(name: &str, config: Option<&std::path::Path>) -> Result {
    let config = context::config(config)?;
    let Some(settings) = config.receivers.iter().find(|r| r.name == name) else {
        let known = config.receivers.iter().map(|r| r.name.as_str());
        let near = did_you_mean(name, known).map(|n| format!("; did you mean `{n}`?")).unwrap_or_default();
        return Err(usage(format!("the config has no receiver `{name}`{near}")));
    };
    let host = facts::read(&Roots::default()).host;
    let receiver = receivers::build(settings, &host).map_err(|e| Error::Usage(e.into()))?;
    let now = clock::now().wall_ns;
    let n = Notification {
        id: format!("test.{}.{}", now / 1_000_000, std::process::id()),
        content: Content::Notice(Notice {
            schema: NOTICE_SCHEMA.into(),
            kind: NoticeKind::Test,
            title: format!("a test of receiver {name}"),
            text: format!("whystall on {host} was asked to try this receiver; nothing is wrong"),
            at: format_rfc3339(now),
            host,
        }),
        attempts: 0,
        progress: None,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let tried = runtime.block_on(async { tokio::time::timeout(TEST_WITHIN, receiver.deliver(&n)).await });
    runtime.shutdown_background();
    match tried {
        Ok(told::Outcome::Delivered { note }) => {
            let note = note.map(|n| format!("; but {}", escape(&n))).unwrap_or_default();
            print(&format!("delivered to {name} with id {}{note}\n", n.id))?;
            Ok(Outcome::Fine)
        }
        Ok(told::Outcome::Retry { why, .. }) => Err(failed(name, "would be tried again", &why)),
        Ok(told::Outcome::Permanent { why }) => Err(failed(name, "would be given up", &why)),
        Err(_) => Err(failed(name, "would be tried again", "it took too long")),
    }
}

fn failed(name: &str, fate: &str, why: &str) -> Error {
    Error::Failed(anyhow!("receiver {name}: {why} (a notification {fate})"))
}

fn list(output: Output) -> Result {
    let rows = context::store(false)?.outbox(MOST)?;
    let mut out = io::stdout().lock();
    let mut table = Table::new(&["ID", "RECEIVER", "WHAT", "STATUS", "TRIES", "NEXT", "LAST ERROR"]);
    for l in &rows {
        let r = &l.row;
        let due = format_rfc3339(r.due_ns);
        if output == Output::Json {
            let line = json!({
                "id": r.id, "notification": r.nid, "receiver": r.receiver, "incident": r.incident, "seq": r.seq,
                "state": r.state, "severity": r.severity, "status": l.status, "attempts": r.attempts,
                "created_at": format_rfc3339(r.created_ns), "due_at": due, "error": l.why,
            });
            writeln!(out, "{line}")?;
            continue;
        }
        let what = match &r.incident {
            Some(i) => format!("{i} {} ({})", r.seq, r.state),
            None => "notice".to_string(),
        };
        let next = if l.status == "failed" { "-" } else { due.get(..19).unwrap_or(&due) };
        let why = l.why.as_deref().map(|w| shorten(w, 100).into_owned()).unwrap_or_default();
        let (id, tries) = (r.id.to_string(), r.attempts.to_string());
        let cells = [id.as_str(), &r.receiver, &what, &l.status, &tries, next, &why];
        table.row(cells.map(|c| escape(c).into_owned()));
    }
    if output == Output::Text {
        let text = if rows.is_empty() { "nothing waits\n".to_string() } else { table.render(0) };
        out.write_all(text.as_bytes())?;
    }
    out.flush()?;
    Ok(Outcome::problems(rows.iter().any(|l| l.status == "failed")))
}
