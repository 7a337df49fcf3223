//! `whystall tune`: from a recording, which value of a param gives how many findings a day.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Instant;

use serde::Serialize;
use whystall_engine::script::{Overrides, Param, ParamValue, Sandbox};
use whystall_event::text::{did_you_mean, escape};

use super::replay::{Fed, Found, facts_of, feed, finish, unreadable};
use super::{Result, context, print, print_json, usage};
use crate::cli::{Output, Tune};
use crate::config::Config;
use crate::daemon::judge::Judge;
use crate::daemon::rule_set::{Choice, RuleSet};
use crate::daemon::sources;
use crate::recording::Replay;
use crate::render::Table;

/// Values that are tried at once: each has an engine of its own.
const MAX_VALUES: usize = 64;
/// What a param's value is multiplied by where no values are given.
const FACTORS: [f64; 9] = [0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0];
const DAY_NS: f64 = 86_400e9;

/// `--output json`.
#[derive(Debug, Serialize)]
struct Sweep {
    schema: &'static str,
    rule: String,
    param: String,
    unit: String,
    /// The value that the rule has now.
    value: f64,
    /// Days that the recording covers.
    days: f64,
    tried: Vec<Tried>,
}

#[derive(Debug, Serialize)]
struct Tried {
    value: f64,
    findings: usize,
    per_day: f64,
    /// Different subjects among them.
    subjects: usize,
}

pub(super) fn tune(args: &Tune) -> Result {
    let config = match &args.config {
        Some(path) => context::config(Some(path))?,
        None => Config::default(),
    };
    let schema = sources::any_host(sources::tick(&config));
    let sandbox = Rc::new(Sandbox::new());
    let files = context::rule_files(&config, &args.rules.rules, !args.rules.no_builtin_rules)?;
    let set = RuleSet::load(files, &sandbox, &schema, Choice { config: &config, only_served: false });
    let set = context::fitting(set, &config)?;
    let Some(loaded) = set.running.iter().find(|l| l.rule.manifest.id == args.rule) else {
        let near = did_you_mean(&args.rule, set.running.iter().map(|l| l.rule.manifest.id.as_str()));
        let near = near.map(|n| format!("; did you mean `{n}`?")).unwrap_or_default();
        return Err(usage(format!("no rule `{}` is loaded{near}", args.rule)));
    };
    let param = param(&loaded.rule.manifest.params, args.param.as_deref())?;
    let ParamValue::Number(now) = param.value else {
        return Err(usage(format!("the param `{}` is no number", param.name)));
    };
    let values = values(args, param, now)?;
    let mut recording = Replay::open(
        &args.file,
        schema
            .streams()
            .map(|(_, s)| s.as_ref())
            .chain(loaded.rule.manifest.streams.iter().map(AsRef::as_ref)),
        config.interval_ns,
    )
    .map_err(|e| unreadable(&args.file, e))?;
    let (interval_ns, facts) = facts_of(&recording, config.interval_ns);
    // The other settings of the config stay as they are.
    let others = loaded.rule.manifest.params.iter().filter(|p| p.name != param.name);
    let others: Vec<(String, ParamValue)> = others.map(|p| (p.name.clone(), p.value.clone())).collect();
    let mut judges = Vec::with_capacity(values.len());
    for v in &values {
        let mut params = others.clone();
        params.push((param.name.clone(), ParamValue::Number(*v)));
        let overrides = Overrides { params, severity: None };
        let compiled = loaded.rule.again(&sandbox, &schema, &loaded.file.text, &overrides);
        let Some(rule) = compiled.rule else {
            return Err(usage(format!("the rule does not load with {v} for `{}`", param.name)));
        };
        judges.push(Judge::new(vec![rule], &sandbox, interval_ns, facts.clone()));
    }
    let mut found = vec![Found::default(); values.len()];
    let began = Instant::now();
    let fed = feed(&mut recording, &args.file, &mut judges, |i, v| {
        found[i].take(&v);
        Ok(())
    })?;
    let days = days(&fed);
    let tried = values.iter().zip(&found).map(|(v, f)| tried(*v, &f.of(&args.rule), days)).collect();
    let sweep = Sweep {
        schema: "whystall.tune/1",
        rule: args.rule.clone(),
        param: param.name.clone(),
        unit: param.unit.clone(),
        value: now,
        days,
        tried,
    };
    match args.output {
        Output::Json => print_json(&sweep)?,
        Output::Text => print(&text(&sweep))?,
    }
    finish(&recording, &args.file, fed.events, began.elapsed())
}

/// The param to sweep: the one that was named, or the only one.
fn param<'p>(params: &'p [Param], name: Option<&str>) -> Result<&'p Param> {
    let numbers = || params.iter().filter(|p| matches!(p.value, ParamValue::Number(_)));
    let names = || numbers().map(|p| p.name.as_str()).collect::<Vec<_>>().join(", ");
    match name {
        Some(n) => params.iter().find(|p| p.name == n).ok_or_else(|| {
            let near = did_you_mean(n, params.iter().map(|p| p.name.as_str()));
            let near = near.map(|n| format!("; did you mean `{n}`?")).unwrap_or_default();
            usage(format!("the rule has no param `{n}`{near} (it has {})", names()))
        }),
        None => match numbers().collect::<Vec<_>>()[..] {
            [one] => Ok(one),
            [] => Err(usage("the rule has no param that is a number")),
            _ => Err(usage(format!("say with --param which of {} to vary", names()))),
        },
    }
}

fn values(args: &Tune, param: &Param, now: f64) -> Result<Vec<f64>> {
    let mut values: Vec<f64> = match (&args.values[..], args.from, args.to) {
        ([], None, None) => {
            FACTORS.iter().map(|f| f * now).filter(|v| param.check(&ParamValue::Number(*v)).is_ok()).collect()
        }
        ([], Some(from), Some(to)) => {
            let steps = args.steps.max(2) - 1;
            (0..=steps).map(|i| from + (to - from) * i as f64 / steps as f64).collect()
        }
        (list, None, None) => list.to_vec(),
        _ => return Err(usage("give --values, or --from and --to, or none of them")),
    };
    if values.len() > MAX_VALUES {
        return Err(usage(format!("{} values; at most {MAX_VALUES} are tried at once", values.len())));
    }
    for v in &values {
        param.check(&ParamValue::Number(*v)).map_err(|e| usage(format!("`{}`: {e}", param.name)))?;
    }
    values.sort_by(f64::total_cmp);
    values.dedup();
    if values.is_empty() {
        return Err(usage(format!("no values to try for `{}`: give --values", param.name)));
    }
    Ok(values)
}

fn days(fed: &Fed) -> f64 {
    fed.last_ns.saturating_sub(fed.first_ns) as f64 / DAY_NS
}

fn tried(value: f64, found: &BTreeSet<(String, String)>, days: f64) -> Tried {
    let subjects: BTreeSet<&String> = found.iter().map(|(_, s)| s).collect();
    let per_day = if days > 0.0 { found.len() as f64 / days } else { 0.0 };
    Tried { value, findings: found.len(), per_day, subjects: subjects.len() }
}

fn text(s: &Sweep) -> String {
    let unit = if s.unit.is_empty() { String::new() } else { format!(", {}", escape(&s.unit)) };
    let mut out = format!(
        "{}: {} is {}{unit}; the recording covers {} days\n",
        escape(&s.rule),
        escape(&s.param),
        s.value,
        short(s.days)
    );
    let mut table = Table::new(&["VALUE", "FINDINGS", "A DAY", "SUBJECTS", ""]);
    for t in &s.tried {
        table.row([
            t.value.to_string(),
            t.findings.to_string(),
            short(t.per_day),
            t.subjects.to_string(),
            if t.value == s.value { "now".into() } else { String::new() },
        ]);
    }
    out.push_str(&table.render(0));
    if s.days < 1.0 {
        out.push_str("less than a day was recorded, so findings a day are a guess\n");
    }
    out
}

fn short(x: f64) -> String {
    if x >= 100.0 || x == x.trunc() { format!("{x:.0}") } else { format!("{x:.2}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sweep_is_shown_as_a_table() {
        let set = |n: usize| (0..n).map(|i| (format!("t{i}"), format!("cpu:{}", i % 2))).collect();
        let tried = vec![tried(10.0, &set(90), 0.5), tried(50.0, &set(1), 0.5)];
        let sweep = Sweep {
            schema: "whystall.tune/1",
            rule: "a.b".into(),
            param: "ms".into(),
            unit: "ms".into(),
            value: 50.0,
            days: 0.5,
            tried,
        };
        insta::assert_snapshot!(text(&sweep), @r"
        a.b: ms is 50, ms; the recording covers 0.50 days
        VALUE  FINDINGS  A DAY  SUBJECTS
        10     90        180    2
        50     1         2      1         now
        less than a day was recorded, so findings a day are a guess
        ");
    }
}
