//! `whystall replay`: judges a recording through the same engine as `run`.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde::Serialize;
use whystall_collectors::Roots;
use whystall_engine::script::{Level, Rule, Sandbox};
use whystall_engine::verdict::Verdict;
use whystall_engine::{HostFacts, Tick};
use whystall_event::Stream;
use whystall_event::text::escape;

use super::run::form;
use super::{Error, Outcome, Result, context, print, print_json, say, usage};
use crate::cli::{Output, Replay as Args};
use crate::config::Config;
use crate::daemon::exceptions::Exceptions;
use crate::daemon::judge::Judge;
use crate::daemon::rule_files::{self, Layer, RuleFile};
use crate::daemon::rule_set::{Choice, RuleSet};
use crate::daemon::{facts, output, sources};
use crate::recording::json::JsonSummary;
use crate::recording::{Item, ReadError, Replay};
use crate::render::Table;

/// Findings that `--diff` names for each rule.
const NAMED: usize = 10;

pub(super) fn replay(args: &Args) -> Result {
    // Without `--config` no config is read: a replay is the same everywhere.
    let config = match &args.config {
        Some(path) => context::config(Some(path))?,
        None => Config::default(),
    };
    let schema = sources::any_host(sources::tick(&config));
    let sandbox = Rc::new(Sandbox::new());
    let load = |files: Vec<RuleFile>| {
        let set = RuleSet::load(files, &sandbox, &schema, Choice { config: &config, only_served: false });
        context::fitting(set, &config)
    };
    let files = context::rule_files(&config, &args.rules.rules, !args.rules.no_builtin_rules)?;
    let mut sets = vec![load(files.clone())?];
    if let Some(dir) = &args.diff {
        let added = rule_files::read_dir(dir, Layer::Trial).map_err(|e| usage(format!("--diff: {e}")))?;
        sets.push(load(files.into_iter().chain(added).collect())?);
    }
    for set in &sets {
        tell(set);
    }
    let own: Vec<&Stream> = sets
        .iter()
        .flat_map(|s| s.running.iter().flat_map(|l| l.rule.manifest.streams.iter().map(AsRef::as_ref)))
        .collect();
    let streams = schema.streams().map(|(_, s)| s.as_ref()).chain(own.iter().copied());
    let mut recording =
        Replay::open(&args.file, streams, config.interval_ns).map_err(|e| unreadable(&args.file, e))?;
    let (interval_ns, facts) = facts_of(&recording, config.interval_ns);
    let judge = |set: &RuleSet| {
        let rules: Vec<Rc<Rule>> = set.running.iter().map(|l| l.rule.clone()).collect();
        Judge::new(rules, &sandbox, interval_ns, facts.clone())
    };
    let mut judges: Vec<Judge> = sets.iter().map(judge).collect();
    let began = Instant::now();
    let fed;
    if args.diff.is_some() {
        let mut found = vec![Found::default(); judges.len()];
        fed = feed(&mut recording, &args.file, &mut judges, |i, v| {
            found[i].take(&v);
            Ok(())
        })?;
        difference(&found[0], &found[1], args.output)?;
    } else {
        judges.iter_mut().for_each(|j| j.except(Exceptions::of(&config), None));
        let (form, mut out) = (form(args.output), io::BufWriter::new(io::stdout().lock()));
        fed = feed(&mut recording, &args.file, &mut judges, |_, v| output::write(&mut out, &v, form))?;
        out.flush()?;
        judges.iter().flat_map(|j| j.silenced().lines()).for_each(|line| say(&line));
    }
    finish(&recording, &args.file, fed.events, began.elapsed())
}

fn tell(set: &RuleSet) {
    for note in &set.notes {
        say(&format!("note: {note}"));
    }
    for d in set.diagnostics.iter().filter(|d| d.level == Level::Error) {
        // Several lines, escaped.
        let _ = write!(io::stderr(), "{d}");
    }
}

pub(super) fn unreadable(path: &Path, e: ReadError) -> Error {
    usage(format!("{}: {e}", path.display()))
}

/// The recording's interval and what is known about its host. A recording of this host has this host's facts.
pub(super) fn facts_of(recording: &Replay, interval_ns: u64) -> (u64, HostFacts) {
    let here = facts::read(&Roots::default());
    let Replay::Binary(r) = recording else { return (interval_ns, here) };
    let h = r.header();
    let interval = if h.interval_ns > 0 { h.interval_ns } else { interval_ns };
    let facts = if h.host == here.host {
        HostFacts { kernel: h.kernel.clone(), ..here }
    } else {
        HostFacts {
            host: h.host.clone(),
            kernel: h.kernel.clone(),
            cpus: 1,
            memory_cgroup_v2: true,
            memory_cgroup_mount: "/sys/fs/cgroup".into(),
        }
    };
    (interval, facts)
}

/// What was read.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Fed {
    pub(super) events: u64,
    /// The wall time of the first tick, and the latest of all.
    pub(super) first_ns: u64,
    pub(super) last_ns: u64,
}

/// Reads the recording to its end and hands the judges' verdicts, with the judge's number, to `each`.
pub(super) fn feed(
    recording: &mut Replay,
    path: &Path,
    judges: &mut [Judge],
    mut each: impl FnMut(usize, Verdict) -> io::Result<()>,
) -> Result<Fed> {
    let (mut fed, mut first) = (Fed::default(), true);
    loop {
        match recording.next() {
            Ok(Some(Item::Batch(batch))) => {
                fed.events += batch.len() as u64;
                judges.iter_mut().for_each(|j| j.ingest(batch));
            }
            Ok(Some(Item::Tick(t))) => {
                if std::mem::take(&mut first) {
                    fed.first_ns = t.at.wall_ns;
                }
                fed.last_ns = fed.last_ns.max(t.at.wall_ns);
                for (i, judge) in judges.iter_mut().enumerate() {
                    let (verdicts, problems) = judge.tick(Tick { at: t.at, suspended_ns: t.suspended_ns });
                    for p in problems {
                        say(&format!("rule {}: {}", p.rule, p.what));
                    }
                    for v in verdicts {
                        each(i, v)?;
                    }
                }
            }
            Ok(None) => return Ok(fed),
            Err(e @ ReadError::Damaged { .. }) => say(&format!("{}: {e}", path.display())),
            Err(e) => return Err(Error::Failed(anyhow::Error::new(e).context(path.display().to_string()))),
        }
    }
}

pub(super) fn finish(recording: &Replay, path: &Path, events: u64, took: Duration) -> Result {
    if let Replay::Json(r) = recording {
        let &JsonSummary { lines, events, malformed, ref problems, .. } = r.summary();
        for p in problems {
            say(&format!("{}:{p}", path.display()));
        }
        if events == 0 && (lines == 0 || malformed > 0) {
            return Err(usage(format!("{}: nothing in it could be read as a recording", path.display())));
        }
    }
    let rate = events as f64 / took.as_secs_f64().max(1e-9);
    say(&format!("{} in {:.3} s ({rate:.0} events/s)", recording.summary(), took.as_secs_f64()));
    Ok(Outcome::Fine)
}

/// Which findings a set of rules told of, by rule: subject and when it began.
#[derive(Debug, Clone, Default)]
pub(super) struct Found(BTreeMap<String, BTreeSet<(String, String)>>);

impl Found {
    pub(super) fn take(&mut self, v: &Verdict) {
        let mut add = |rule: &str, subject: &str, at: &str| {
            self.0.entry(rule.into()).or_default().insert((at.into(), subject.into()));
        };
        for l in &v.chain {
            add(&l.rule, &l.subject, &l.started_at);
        }
        if v.chain.is_empty() {
            add(&v.rule, &v.subject, &v.started_at);
        }
    }

    pub(super) fn of(&self, rule: &str) -> BTreeSet<(String, String)> {
        self.0.get(rule).cloned().unwrap_or_default()
    }
}

/// `--diff --output json`.
#[derive(Debug, Serialize)]
struct Difference {
    schema: &'static str,
    rules: Vec<RuleDifference>,
}

#[derive(Debug, Serialize)]
struct RuleDifference {
    rule: String,
    before: usize,
    after: usize,
    /// By day (UTC): how many before and after.
    days: BTreeMap<String, (usize, usize)>,
    only_before: Vec<Finding>,
    only_after: Vec<Finding>,
}

#[derive(Debug, Serialize)]
struct Finding {
    subject: String,
    started_at: String,
}

fn compare(before: &Found, after: &Found) -> Vec<RuleDifference> {
    let ids: BTreeSet<&String> = before.0.keys().chain(after.0.keys()).collect();
    let list = |only: &BTreeSet<(String, String)>, other: &BTreeSet<(String, String)>| {
        let gone = only.difference(other);
        gone.map(|(at, subject)| Finding { subject: subject.clone(), started_at: at.clone() }).collect()
    };
    ids.into_iter()
        .map(|id| {
            let (b, a) = (before.of(id), after.of(id));
            let (only_before, only_after) = (list(&b, &a), list(&a, &b));
            let mut days: BTreeMap<String, (usize, usize)> = BTreeMap::new();
            let day = |at: &str| at.get(..10).unwrap_or(at).to_string();
            b.iter().for_each(|(at, _)| days.entry(day(at)).or_default().0 += 1);
            a.iter().for_each(|(at, _)| days.entry(day(at)).or_default().1 += 1);
            RuleDifference {
                rule: id.clone(),
                before: b.len(),
                after: a.len(),
                days,
                only_before,
                only_after,
            }
        })
        .collect()
}

fn difference(before: &Found, after: &Found, form: Output) -> Result<()> {
    let rules = compare(before, after);
    match form {
        Output::Json => print_json(&Difference { schema: "whystall.diff/1", rules }),
        Output::Text => print(&difference_text(&rules)),
    }
}

fn difference_text(rules: &[RuleDifference]) -> String {
    if rules.is_empty() {
        return "nothing fires, neither before nor after\n".into();
    }
    let mut table = Table::new(&["RULE", "BEFORE", "AFTER", "CHANGE"]);
    for r in rules {
        let change = match (r.only_before.len(), r.only_after.len()) {
            (0, 0) => "none".to_string(),
            (gone, new) => format!("+{new} -{gone}"),
        };
        table.row([escape(&r.rule).into_owned(), r.before.to_string(), r.after.to_string(), change]);
        // A single day is the rule's line already.
        for (day, (before, after)) in r.days.iter().filter(|_| r.days.len() > 1) {
            let change = match after.cmp(before) {
                Ordering::Equal => String::new(),
                Ordering::Greater => format!("{} more", after - before),
                Ordering::Less => format!("{} fewer", before - after),
            };
            table.row([format!("  {}", escape(day)), before.to_string(), after.to_string(), change]);
        }
    }
    let mut out = table.render(0);
    for r in rules {
        for (sign, list) in [('-', &r.only_before), ('+', &r.only_after)] {
            for f in list.iter().take(NAMED) {
                let _ = writeln!(
                    out,
                    "{sign} {}  {}  {}",
                    escape(&r.rule),
                    escape(&f.started_at),
                    escape(&f.subject)
                );
            }
            if list.len() > NAMED {
                let _ = writeln!(out, "{sign} {}  and {} more", escape(&r.rule), list.len() - NAMED);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_name_what_fires_more_or_less() {
        let found = |list: &[(&str, &str)]| {
            let mut f = Found::default();
            for (rule, subject) in list {
                let mut v = crate::render::sample::verdict();
                v.chain.truncate(1);
                (v.chain[0].rule, v.chain[0].subject) = ((*rule).into(), (*subject).into());
                f.take(&v);
                f.take(&v);
            }
            f
        };
        let rules = compare(
            &found(&[("a.x", "host"), ("a.y", "cpu:1")]),
            &found(&[("a.x", "host"), ("a.y", "cpu:2\n")]),
        );
        insta::assert_snapshot!(difference_text(&rules), @r"
        RULE  BEFORE  AFTER  CHANGE
        a.x   1       1      none
        a.y   1       1      +1 -1
        - a.y  2026-11-22T10:00:00.123Z  cpu:1
        + a.y  2026-11-22T10:00:00.123Z  cpu:2\n
        ");
        assert_eq!(difference_text(&[]), "nothing fires, neither before nor after\n");
    }

    #[test]
    fn differences_are_told_by_day() {
        let found = |days: &[&str]| {
            let at = days.iter().enumerate().map(|(i, d)| (format!("{d}T0{i}:00:00Z"), "host".to_string()));
            Found(BTreeMap::from([("a.x".to_string(), at.collect())]))
        };
        let rules = compare(
            &found(&["2026-11-22", "2026-11-22", "2026-11-23"]),
            &found(&["2026-11-22", "2026-11-22", "2026-11-22", "2026-11-24"]),
        );
        let text = difference_text(&rules);
        let table: Vec<&str> = text.lines().take(5).map(str::trim_end).collect();
        insta::assert_snapshot!(table.join("\n"), @r"
        RULE          BEFORE  AFTER  CHANGE
        a.x           3       4      +2 -1
          2026-11-22  2       3      1 more
          2026-11-23  1       0      1 fewer
          2026-11-24  0       1      1 more
        ");
    }
}
