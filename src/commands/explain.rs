//! `whystall explain`: what a code, a rule or a cause means, and why an incident is what its verdict says.

use std::fmt::Write as _;
use std::rc::Rc;

use anyhow::anyhow;
use whystall_engine::script::{Code, Level, Rule, Sandbox, code};
use whystall_event::text::{did_you_mean, escape};

use super::rules::page;
use super::{Error, Outcome, Result, colours, context, print};
use crate::cli::Explain;
use crate::daemon::rule_set::{Choice, RuleSet};
use crate::render::{Style, explanation, verdict, wrap};
use crate::store::state_name;

pub(super) fn explain(args: &Explain) -> Result {
    let what = args.what.trim();
    let style = Style::new(colours());
    if let Some(c) = code(what) {
        print(&about_code(c, style))?;
        return Ok(Outcome::Fine);
    }
    if is_incident(what) {
        return incident(what, style);
    }
    let config = context::config(None)?;
    let (_, schema) = context::host(&config)?;
    let files = context::rule_files(&config, &[], true)?;
    let set = RuleSet::load(files, &Sandbox::new(), &schema, Choice { config: &config, only_served: false });
    let rules: Vec<&Rc<Rule>> = set.running.iter().map(|l| &l.rule).collect();
    if let Some(rule) = rules.iter().find(|r| r.manifest.id == what) {
        print(&page(rule, None, style))?;
        return Ok(Outcome::Fine);
    }
    let concluding: Vec<&&Rc<Rule>> = rules.iter().filter(|r| r.causes.iter().any(|c| c == what)).collect();
    if !concluding.is_empty() {
        print(&about_cause(what, &concluding, style))?;
        return Ok(Outcome::Fine);
    }
    let known: Vec<&str> = Code::ALL
        .iter()
        .map(|c| c.name())
        .chain(rules.iter().map(|r| r.manifest.id.as_str()))
        .chain(rules.iter().flat_map(|r| r.causes.iter().map(String::as_str)))
        .collect();
    let near = did_you_mean(what, known).map(|n| format!("; did you mean `{n}`?")).unwrap_or_default();
    Err(Error::Failed(anyhow!("`{what}` is no code, rule or cause that is known here{near}")))
}

/// What an incident came to, why, and how it went.
fn incident(id: &str, style: Style) -> Result {
    let history = context::store(false)?.history(id)?;
    let Some(newest) = history.last() else {
        return Err(Error::Failed(anyhow!(
            "no incident `{id}` is kept here; `whystall incidents` lists them"
        )));
    };
    let mut out = verdict(newest, style);
    // The end of an incident has no conditions to show; what it was like before has.
    let told = history.iter().rev().find(|v| !v.explained.is_empty()).unwrap_or(newest);
    out.push('\n');
    out.push_str(&explanation(told, style));
    let _ = writeln!(out, "\n{}", style.bold("how it went"));
    for v in &history {
        let state = state_name(v.state);
        let _ = writeln!(out, "  {}  {state:9}  {}", escape(&v.updated_at), escape(&v.summary));
    }
    print(&out)?;
    Ok(Outcome::Fine)
}

/// 26 characters of Crockford's base 32.
fn is_incident(s: &str) -> bool {
    s.len() == 26 && s.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_uppercase() && !b"ILOU".contains(&b))
}

fn about_code(c: Code, style: Style) -> String {
    let level = match c.level() {
        Level::Error => "error: the rule is not loaded",
        Level::Warning => "warning: the rule is loaded",
        Level::Note => "note",
    };
    format!(
        "{} {}\n\n{}\n\n{level}\n",
        style.bold(c.name()),
        style.bold(c.title()),
        wrap(c.page(), 80).join("\n")
    )
}

fn about_cause(cause: &str, rules: &[&&Rc<Rule>], style: Style) -> String {
    let mut out = format!("{} is a cause that these rules conclude:\n\n", style.bold(&escape(cause)));
    for r in rules {
        let _ = writeln!(out, "{}", style.bold(&escape(&r.manifest.id)));
        for line in wrap(&escape(&r.manifest.title), 76) {
            let _ = writeln!(out, "    {line}");
        }
    }
    let _ = writeln!(out, "\n`whystall rules show ID` shows what confirms it and what rules it out.");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn incident_ids_are_recognised() {
        assert!(is_incident("01KAR5V9T0WJ8K3M2N4P5Q6R7S"));
        assert!(!is_incident("memory.direct_reclaim_burst"));
        assert!(!is_incident("01KAR5V9T0WJ8K3M2N4P5Q6R7I"));
    }
}
