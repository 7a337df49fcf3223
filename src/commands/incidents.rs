//! `whystall incidents`: what the store has kept.

use std::io::{self, Write};

use whystall_collectors::runner::clock;
use whystall_event::text::{escape, shorten};

use super::{Outcome, Result, context, print};
use crate::cli::{Incidents, Output};
use crate::render::Table;
use crate::store::state_name;

/// Incidents shown at most: the newest.
const MOST: usize = 1_000;

pub(super) fn incidents(args: &Incidents) -> Result {
    let back = u64::try_from(args.since.as_nanos()).unwrap_or(u64::MAX);
    let since = clock::now().wall_ns.saturating_sub(back);
    let found = context::store(false)?.incidents(since, MOST)?;
    if args.output == Output::Json {
        let mut out = io::stdout().lock();
        for i in &found {
            let mut line = serde_json::to_vec(&i.verdict)?;
            line.push(b'\n');
            out.write_all(&line)?;
        }
        out.flush()?;
        return Ok(Outcome::Fine);
    }
    if found.is_empty() {
        print("no incidents\n")?;
        return Ok(Outcome::Fine);
    }
    let mut table = Table::new(&["INCIDENT", "BEGAN", "STATE", "SEVERITY", "CAUSE", "SUMMARY"]);
    for i in &found {
        let v = &i.verdict;
        table.row([
            escape(&v.incident).into_owned(),
            v.started_at.get(..19).unwrap_or(&v.started_at).to_string(),
            state_name(v.state).to_string(),
            v.severity.name().to_string(),
            escape(&v.cause).into_owned(),
            shorten(&escape(&v.summary), 100).into_owned(),
        ]);
    }
    let mut text = table.render(0);
    text.push_str("\n`whystall explain INCIDENT` says more\n");
    print(&text)?;
    Ok(Outcome::Fine)
}
