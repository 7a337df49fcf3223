//! `whystall doctor`: what works on this host, at which level, and what to do about the rest.

use std::fmt::Write as _;
use std::time::Instant;

use serde::Serialize;
use whystall_collectors::runner::clock;
use whystall_collectors::{Built, CollectError, Pass, Roots};
use whystall_engine::script::{Diagnostic, Level, Sandbox};
use whystall_engine::{HostFacts, Schema};
use whystall_event::text::escape;

use super::{Outcome, Result, colours, context, print, print_json};
use crate::cli::{Doctor, Output};
use crate::daemon::exceptions::Exceptions;
use crate::daemon::rule_set::{Choice, RuleSet, lacking};
use crate::daemon::sources::Entry;
use crate::daemon::{facts, limits};
use crate::render::{Style, Table, wrap};

/// The time that a pass may take.
const PASS_NS: u64 = 500_000_000;
/// Capabilities that collectors use, by their number in `CapEff` (capability.h).
const CAPABILITIES: [(u32, &str); 6] = [
    (2, "CAP_DAC_READ_SEARCH"),
    (19, "CAP_SYS_PTRACE"),
    (21, "CAP_SYS_ADMIN"),
    (34, "CAP_SYSLOG"),
    (38, "CAP_PERFMON"),
    (39, "CAP_BPF"),
];

/// Everything that is told; also `--output json`.
#[derive(Debug, Serialize)]
struct Report {
    schema: &'static str,
    host: Host,
    collectors: Vec<Collector>,
    rules: Vec<Rule>,
    /// What the config keeps silent, for people.
    exceptions: Vec<String>,
    /// What fails though it should work here.
    problems: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Host {
    name: String,
    kernel: String,
    cpus: u32,
    /// `v1` or `v2`: where the memory controller is.
    memory_cgroup: &'static str,
    memory_cgroup_mount: String,
    /// Whether the kernel has pressure stall information.
    psi: bool,
    root: bool,
    capabilities: Vec<&'static str>,
    lacking_capabilities: Vec<&'static str>,
}

#[derive(Debug, Serialize)]
struct Collector {
    name: String,
    /// `ok`, `nothing`, `failing`, `unavailable` or `off`.
    state: &'static str,
    /// Why it is not ok.
    why: Option<String>,
    /// What would help.
    remedy: Option<String>,
    /// Time of a pass, milliseconds; null for streaming ones.
    pass_ms: Option<f64>,
    rows: Option<usize>,
}

#[derive(Debug, Serialize)]
struct Rule {
    id: String,
    /// `runs`, `degraded` or `not_run`.
    state: &'static str,
    why: Option<String>,
}

pub(super) fn doctor(args: &Doctor) -> Result {
    let config = context::config(None)?;
    limits::prepare();
    let (entries, schema) = context::host(&config)?;
    let files = context::rule_files(&config, &[], true)?;
    let set = RuleSet::load(files, &Sandbox::new(), &schema, Choice { config: &config, only_served: true });
    let mut problems = broken(&set);
    let set = context::fitting(set, &config)?;
    let collectors = entries.into_iter().map(|e| examine(e, &mut problems)).collect();
    let roots = Roots::default();
    let report = Report {
        schema: "whystall.doctor/1",
        host: host(facts::read(&roots), &roots),
        collectors,
        rules: rules(&set, &schema),
        exceptions: Exceptions::of(&config).lines(clock::now().wall_ns),
        problems,
    };
    match args.output {
        Output::Json => print_json(&report)?,
        Output::Text => print(&text(&report, Style::new(colours())))?,
    }
    Ok(Outcome::problems(!report.problems.is_empty()))
}

/// Rule files that do not load, each with its first error.
fn broken(set: &RuleSet) -> Vec<String> {
    let mut errors: Vec<&Diagnostic> = set.diagnostics.iter().filter(|d| d.level == Level::Error).collect();
    errors.dedup_by(|b, a| a.file == b.file);
    let first =
        |d: &&Diagnostic| format!("{} does not load: {} (`whystall check` shows all)", d.file, d.message);
    errors.iter().map(first).collect()
}

/// Makes two passes of a polled collector, so that what is only done once does not count.
fn examine(e: Entry, problems: &mut Vec<String>) -> Collector {
    let mut c = Collector { name: e.name, state: "ok", why: None, remedy: None, pass_ms: None, rows: None };
    let mut polled = match e.built {
        Ok(Built::Polled(p)) => p,
        Ok(Built::Streaming(_)) => return c,
        Err(u) => {
            if e.wanted {
                problems.push(format!("the config asks for {}: {}", c.name, u.why));
            }
            (c.state, c.why, c.remedy) = (if e.off { "off" } else { "unavailable" }, Some(u.why), u.remedy);
            return c;
        }
    };
    for _ in 0..2 {
        let mut pass = Pass::new(clock::now(), clock::now, PASS_NS);
        let began = Instant::now();
        let result = polled.collect(&mut pass);
        c.pass_ms = Some((began.elapsed().as_secs_f64() * 1e6).round() / 1e3);
        c.rows = Some(pass.batches.iter().map(whystall_event::Batch::len).sum());
        (c.state, c.why) = match result {
            Ok(()) => ("ok", None),
            Err(CollectError::Nothing(what)) => ("nothing", Some(what)),
            Err(e) => ("failing", Some(e.to_string())),
        };
    }
    if c.state == "failing" {
        problems.push(format!("collector {}: {}", c.name, c.why.as_deref().unwrap_or_default()));
    }
    c
}

fn rules(set: &RuleSet, schema: &Schema) -> Vec<Rule> {
    let running = set.running.iter().map(|l| {
        let why = lacking(&l.rule.manifest.wants, schema);
        let state = if why.is_some() { "degraded" } else { "runs" };
        Rule { id: l.rule.manifest.id.clone(), state, why }
    });
    let idle = set.idle.iter().map(|i| Rule { id: i.id.clone(), state: "not_run", why: Some(i.why.clone()) });
    running.chain(idle).collect()
}

fn host(f: HostFacts, roots: &Roots) -> Host {
    let status = std::fs::read_to_string(roots.proc("self/status")).unwrap_or_default();
    let caps = effective(&status);
    let (have, lack): (Vec<_>, Vec<_>) = CAPABILITIES.iter().partition(|(bit, _)| caps & (1 << bit) != 0);
    let names = |list: Vec<(u32, &'static str)>| list.into_iter().map(|(_, n)| n).collect();
    Host {
        name: f.host,
        kernel: f.kernel,
        cpus: f.cpus,
        memory_cgroup: if f.memory_cgroup_v2 { "v2" } else { "v1" },
        memory_cgroup_mount: f.memory_cgroup_mount,
        // With PSI off some kernels have the file and refuse to read it.
        psi: std::fs::read(roots.proc("pressure/memory")).is_ok(),
        root: field(&status, "Uid:").and_then(|ids| ids.split_whitespace().nth(1).map(|u| u == "0"))
            == Some(true),
        capabilities: names(have),
        lacking_capabilities: names(lack),
    }
}

/// The effective capabilities in `/proc/self/status` (proc(5)).
fn effective(status: &str) -> u64 {
    field(status, "CapEff:").and_then(|v| u64::from_str_radix(v.trim(), 16).ok()).unwrap_or(0)
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|l| l.strip_prefix(name))
}

fn text(r: &Report, style: Style) -> String {
    let mut out = String::new();
    let h = &r.host;
    let mut table = Table::plain();
    let mut fact = |name: &str, value: String| table.row([name.to_string(), value]);
    fact("host", format!("{}, kernel {}, {} CPUs", escape(&h.name), escape(&h.kernel), h.cpus));
    fact(
        "cgroups",
        format!("memory controller on {} at {}", h.memory_cgroup, escape(&h.memory_cgroup_mount)),
    );
    fact("PSI", if h.psi { "on".into() } else { "off (boot with psi=1 if the kernel has it)".into() });
    let who = if h.root { "root" } else { "not root" };
    let lack = match h.lacking_capabilities[..] {
        [] => String::new(),
        ref list => format!(", without {}", list.join(" ")),
    };
    fact("rights", format!("{who}{lack}"));
    out.push_str(&table.render(0));
    let _ = writeln!(out, "\n{}", style.bold("Collectors"));
    let mut table = Table::plain();
    for c in &r.collectors {
        let pass = match (c.pass_ms, c.rows) {
            (Some(ms), Some(rows)) => format!("{ms:.2} ms a pass, {rows} rows"),
            _ if c.state == "ok" => "delivers as things happen".into(),
            _ => String::new(),
        };
        let why = c.why.as_deref().map(escape).unwrap_or_default();
        table.row([
            escape(&c.name).into_owned(),
            c.state.into(),
            format!("{pass}{}{why}", if pass.is_empty() || why.is_empty() { "" } else { ": " }),
        ]);
        if let Some(remedy) = &c.remedy {
            table.row([String::new(), String::new(), format!("-> {}", escape(remedy))]);
        }
    }
    out.push_str(&table.render(2));
    let _ = writeln!(out, "\n{}", style.bold("Rules"));
    let mut table = Table::plain();
    for rule in &r.rules {
        let why = rule.why.as_deref().map(escape).unwrap_or_default().into_owned();
        table.row([escape(&rule.id).into_owned(), rule.state.replace('_', " "), why]);
    }
    out.push_str(&table.render(2));
    out.push('\n');
    for e in &r.exceptions {
        let lines = wrap(&format!("exception: {}", escape(e)), 80);
        for line in lines {
            let _ = writeln!(out, "{line}");
        }
    }
    if r.problems.is_empty() {
        let _ = writeln!(out, "{}", style.green("nothing fails that should work here"));
    }
    for p in &r.problems {
        for line in wrap(&format!("{} {}", style.red("problem:"), escape(p)), 80) {
            let _ = writeln!(out, "{line}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_is_read() {
        let status = "Name:\tx\nUid:\t1000\t0\t0\t0\nCapEff:\t000000c000200004\n";
        let caps = effective(status);
        let have: Vec<&str> =
            CAPABILITIES.iter().filter(|(b, _)| caps & (1 << b) != 0).map(|(_, n)| *n).collect();
        assert_eq!(have, ["CAP_DAC_READ_SEARCH", "CAP_SYS_ADMIN", "CAP_PERFMON", "CAP_BPF"]);
        assert_eq!(effective("nonsense"), 0);
    }
}
