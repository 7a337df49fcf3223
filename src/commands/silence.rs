//! `whystall silence`: incidents about which nobody is told for a while.

use std::io::{self, Write};

use serde_json::json;
use whystall_collectors::runner::clock;
use whystall_event::format_rfc3339;
use whystall_event::text::{did_you_mean, escape};

use super::{Outcome, Result, context, print, say, usage};
use crate::cli::{Output, Silence as Args, SilenceCommand};
use crate::notify::dispatch::LABELS;
use crate::render::Table;
use crate::store::Silence;

pub(super) fn silence(args: &Args) -> Result {
    let now = clock::now().wall_ns;
    match &args.what {
        SilenceCommand::Add { matchers, duration, reason } => {
            let matchers = matchers.iter().map(|m| matcher(m)).collect::<Result<Vec<_>>>()?;
            let length = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
            let who = ["SUDO_USER", "USER"].into_iter().find_map(|v| std::env::var(v).ok());
            let s = Silence {
                id: format!("s{:010x}", (now ^ u64::from(std::process::id()) << 20) & 0xff_ffff_ffff),
                matchers,
                reason: reason.clone(),
                by: who.unwrap_or_default(),
                created_ns: now,
                until_ns: now.saturating_add(length),
            };
            context::store(true)?.silence(&s)?;
            print(&format!("{}\n", s.id))?;
        }
        SilenceCommand::List { all, output } => {
            let found = context::store(false)?.silences()?;
            list(found.iter().filter(|s| *all || s.until_ns > now), *output)?;
        }
        SilenceCommand::Expire { id } => {
            if !context::store(false)?.expire(id, now)? {
                say(&format!("there is no silence `{id}` that holds; `whystall silence list` shows them"));
                return Ok(Outcome::Problems);
            }
        }
    }
    Ok(Outcome::Fine)
}

fn matcher(written: &str) -> Result<(String, String)> {
    let Some((label, pattern)) = written.split_once('=').filter(|(_, p)| !p.is_empty()) else {
        return Err(usage(format!("`{written}` is no matcher: write LABEL=PATTERN, such as rule=memory.*")));
    };
    if !LABELS.contains(&label) {
        let near = did_you_mean(label, LABELS.iter().copied()).map(|n| format!("; did you mean `{n}`?"));
        let near = near.unwrap_or_else(|| format!("; possible: {}", LABELS.join(", ")));
        return Err(usage(format!("there is no label `{label}`{near}")));
    }
    Ok((label.to_string(), pattern.to_string()))
}

fn list<'a>(found: impl Iterator<Item = &'a Silence>, output: Output) -> Result<()> {
    let mut table = Table::new(&["ID", "UNTIL", "WHAT", "BY", "REASON"]);
    let mut out = io::stdout().lock();
    for s in found {
        let until = format_rfc3339(s.until_ns);
        if output == Output::Json {
            let matchers: serde_json::Map<String, serde_json::Value> =
                s.matchers.iter().map(|(l, p)| (l.clone(), p.as_str().into())).collect();
            let line = json!({
                "id": s.id, "matchers": matchers, "reason": s.reason, "by": s.by,
                "created_at": format_rfc3339(s.created_ns), "until": until,
            });
            writeln!(out, "{line}")?;
            continue;
        }
        let what: Vec<String> = s.matchers.iter().map(|(l, p)| format!("{l}={p}")).collect();
        let cells = [s.id.as_str(), until.get(..19).unwrap_or(&until), &what.join(" "), &s.by, &s.reason];
        table.row(cells.map(|c| escape(c).into_owned()));
    }
    if output == Output::Text {
        out.write_all(table.render(0).as_bytes())?;
    }
    out.flush()?;
    Ok(())
}
