//! `whystall rules`: list, show and begin rules.

mod reference;

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::Context as _;
use whystall_collectors::runner::clock;
use whystall_engine::script::{At, Explains, ParamValue, Rule, Sandbox, Take, When, WindowDecl, definitions};
use whystall_event::text::{did_you_mean, escape};
use whystall_event::{SubjectKind, format_duration};

use super::{Outcome, Result, colours, context, print, say, usage};
use crate::cli::{Rules, RulesCommand};
use crate::daemon::exceptions::Exceptions;
use crate::daemon::rule_set::{Choice, RuleSet, lacking};
use crate::render::{Style, Table, wrap};

/// What `rules new` writes; `{id}`, `{area}` and `{name}` are filled in.
const TEMPLATE: &str = include_str!("template.rhai");

pub(super) fn rules(args: &Rules) -> Result {
    match &args.what {
        RulesCommand::List => list(),
        RulesCommand::Show { id } => show(id),
        RulesCommand::New { id } => new(id),
        RulesCommand::Definitions => {
            print(&definitions())?;
            Ok(Outcome::Fine)
        }
        RulesCommand::Reference => {
            print(&reference::reference())?;
            Ok(Outcome::Fine)
        }
    }
}

fn list() -> Result {
    let config = context::config(None)?;
    let (set, schema) = context::rules_here(&config, &Rc::new(Sandbox::new()))?;
    let mut table = Table::new(&["RULE", "SEVERITY", "SUBJECT", "MATURITY", "HERE", "TITLE"]);
    for l in &set.running {
        let m = &l.rule.manifest;
        let here = if lacking(&m.wants, &schema).is_some() { "partly" } else { "yes" };
        table.row([
            escape(&m.id).into_owned(),
            m.severity.name().to_string(),
            kinds(&m.subjects),
            escape(&m.maturity).into_owned(),
            here.to_string(),
            whystall_event::text::shorten(&escape(&m.title), 60).into_owned(),
        ]);
    }
    for i in &set.idle {
        let dash = || "-".to_string();
        table.row([
            escape(&i.id).into_owned(),
            dash(),
            dash(),
            dash(),
            "no".into(),
            escape(&i.why).into_owned(),
        ]);
    }
    print(&table.render(0))?;
    for note in set.notes.iter().chain(&Exceptions::of(&config).lines(clock::now().wall_ns)) {
        say(&format!("note: {note}"));
    }
    if set.errors() > 0 {
        say(&format!("{} errors in rule files; `whystall check` shows them", set.errors()));
    }
    Ok(Outcome::Fine)
}

fn kinds(kinds: &[SubjectKind]) -> String {
    kinds.iter().map(|k| k.name()).collect::<Vec<_>>().join(",")
}

fn show(id: &str) -> Result {
    let config = context::config(None)?;
    let (_, schema) = context::host(&config)?;
    let files = context::rule_files(&config, &[], true)?;
    let set = RuleSet::load(files, &Sandbox::new(), &schema, Choice { config: &config, only_served: false });
    let Some(l) = set.running.iter().find(|l| l.rule.manifest.id == id) else {
        let known = set.running.iter().map(|l| l.rule.manifest.id.as_str());
        let near = did_you_mean(id, known).map(|n| format!("; did you mean `{n}`?")).unwrap_or_default();
        return Err(usage(format!("no rule `{id}`{near} (`whystall rules list` lists them)")));
    };
    let m = &l.rule.manifest;
    let here = match (lacking(&m.needs, &schema), lacking(&m.wants, &schema)) {
        (Some(why), _) => format!("does not run: {why}"),
        (None, Some(why)) => format!("works partly: {why}"),
        (None, None) => "works".into(),
    };
    print(&page(&l.rule, Some(&here), Style::new(colours())))?;
    Ok(Outcome::Fine)
}

/// A rule for people: its page and everything that it declares.
pub(super) fn page(rule: &Rule, here: Option<&str>, style: Style) -> String {
    let m = &rule.manifest;
    let mut out = format!("{}  {}\n\n", style.bold(&escape(&m.id)), m.severity.name());
    for line in m.page.lines() {
        let _ = writeln!(out, "{}", escape(line));
    }
    out.push('\n');
    let mut facts = Table::plain();
    let mut fact = |name: &str, value: String| {
        if !value.is_empty() {
            facts.row([name.to_string(), value]);
        }
    };
    fact("subject", kinds(&m.subjects));
    fact("maturity", escape(&m.maturity).into_owned());
    fact("tags", escape(&m.tags.join(", ")).into_owned());
    fact("needs", escape(&m.needs.join(", ")).into_owned());
    fact("wants", escape(&m.wants.join(", ")).into_owned());
    fact("causes", escape(&rule.causes.join(", ")).into_owned());
    let explains: Vec<String> = m.explains.iter().map(edge).collect();
    fact("explains", escape(&explains.join(", ")).into_owned());
    fact("fires after", format_duration(m.fire_hold_ns));
    fact("clears after", format_duration(m.clear_hold_ns));
    fact("tests", rule.tests.len().to_string());
    fact("file", escape(&rule.file).into_owned());
    fact("here", here.map(|h| escape(h).into_owned()).unwrap_or_default());
    out.push_str(&facts.render(0));
    if !m.params.is_empty() {
        let _ = writeln!(out, "\n{}", style.bold("Params"));
        let mut table = Table::plain();
        for p in &m.params {
            let value = match &p.value {
                ParamValue::Number(x) => format!("{x} {}", p.unit).trim_end().to_string(),
                ParamValue::Bool(b) => b.to_string(),
                ParamValue::Text(t) => format!("\"{t}\""),
            };
            let bounds = match p.bounds {
                (a, b) if a.is_finite() && b.is_finite() => format!("{a} to {b}"),
                (a, _) if a.is_finite() => format!("at least {a}"),
                (_, b) if b.is_finite() => format!("at most {b}"),
                _ => String::new(),
            };
            table.row([&p.name, &value, &bounds, &p.help].map(|s| escape(s).into_owned()));
        }
        out.push_str(&table.render(2));
    }
    let _ = writeln!(out, "\n{}", style.bold("Windows"));
    let mut table = Table::plain();
    for w in &m.windows {
        let (name, of) =
            (escape(&w.name).into_owned(), escape(&format!("{}.{}", w.stream, w.field)).into_owned());
        let mut at = place(w, &m.windows);
        if let Some((other, within)) = w.after {
            let _ =
                write!(at, " within {} after `{}`", format_duration(within), escape(&m.windows[other].name));
        }
        table.row([
            name,
            of,
            format!("{} over {}", w.calc.name(), format_duration(w.over_ns)),
            at.trim_start().to_string(),
        ]);
    }
    out.push_str(&table.render(2));
    out
}

fn edge(e: &Explains) -> String {
    let of = |word: &str, list: &[String]| match list {
        [] => String::new(),
        list => format!(", {word} {}", list.join(" or ")),
    };
    format!("{} ({}{}{})", e.rule, when(e.when), of("by", &e.by), of("for", &e.causes))
}

fn when(w: When) -> &'static str {
    match w {
        When::Host => "on the same host",
        When::SameCpu => "on the same CPU",
        When::SameCgroup => "in the same cgroup",
        When::SameTask => "in the same task",
    }
}

fn place(w: &WindowDecl, all: &[WindowDecl]) -> String {
    match w.at {
        At::Own => String::new(),
        At::Host => "of the host".into(),
        At::Parent => "of the parent cgroup".into(),
        At::Cpu(by) => format!("of the CPU that `{}` names", escape(&all[by].name)),
        At::Across(kind, take) => {
            let what = match take {
                Take::Sum => "sum".to_string(),
                Take::Max => "largest".to_string(),
                Take::CountOver(x) => format!("number above {x}"),
                Take::ShareOver(x) => format!("share above {x}"),
            };
            format!("{what} of all of kind {kind}")
        }
    }
}

fn new(id: &str) -> Result {
    let word = |w: &str| {
        w.starts_with(|c: char| c.is_ascii_lowercase())
            && w.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    };
    let Some((area, name)) = id.split_once('.').filter(|(a, n)| word(a) && word(n)) else {
        return Err(usage(format!(
            "`{id}` is no rule id: write AREA.NAME in lower case, such as net.retransmits"
        )));
    };
    let file = format!("{name}.rhai");
    let path: PathBuf = if Path::new(area).is_dir() { Path::new(area).join(file) } else { file.into() };
    let mut out = match OpenOptions::new().write(true).create_new(true).open(&path) {
        Ok(f) => f,
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            return Err(usage(format!("{} exists already; nothing was written", path.display())));
        }
        Err(e) => return Err(usage(format!("{}: {e}", path.display()))),
    };
    let text = template(id);
    out.write_all(text.as_bytes()).with_context(|| path.display().to_string())?;
    let shown = path.display().to_string();
    let next = format!("now edit it; `whystall check {shown}` and `whystall test {shown}` say how it does");
    print(&format!("{}\n", wrap(&escape(&format!("{shown}: written; {next}")), 80).join("\n")))?;
    Ok(Outcome::Fine)
}

fn template(id: &str) -> String {
    TEMPLATE.replace("{id}", id)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use whystall_engine::script::{Overrides, compile, run_tests};

    use super::*;
    use crate::daemon::sources;

    #[test]
    fn the_template_passes_check_and_its_own_tests() {
        let schema = sources::any_host(Duration::from_secs(1));
        let (text, sandbox) = (template("net.mine"), Rc::new(Sandbox::new()));
        let compiled = compile(&sandbox, &schema, "mine.rhai", &text, &Overrides::default());
        let shown: Vec<String> = compiled.diagnostics.iter().map(ToString::to_string).collect();
        assert!(shown.is_empty(), "{}", shown.concat());
        let rule = compiled.rule.unwrap();
        assert_eq!(rule.manifest.id, "net.mine");
        let outcomes = run_tests(&rule, &text, &sandbox, &schema);
        assert!(!outcomes.is_empty());
        for o in outcomes {
            assert_eq!(o.failures, vec![], "{}", o.test);
        }
    }
}
