//! What whystall must say about a fault, as data, and the judge that compares it with what whystall said.
//!
//! Pure: lines in, judgement out. The judge's own cases are trials of the lab that need neither root nor a daemon.

use std::collections::BTreeSet;

use anyhow::{Result, bail, ensure};
use serde_json::Value;

/// What a fault must lead to.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Expect {
    /// Exactly one incident.
    Verdict {
        /// The rule id that the verdict leads with.
        rule: &'static str,
        /// The causes that are right; one of them must lead.
        causes: &'static [&'static str],
        /// What the verdict must be about.
        subject: SubjectPattern,
        /// Causes that the verdict must have ruled out.
        ruled_out_contains: &'static [&'static str],
        /// Whether the summary must name the lab's cgroup.
        summary_names_cgroup: bool,
        /// Whether the incident must be resolved after the fault has ended.
        resolved: bool,
    },
    /// No verdict at all.
    Silence,
}

impl Expect {
    /// The rule that must speak, if any.
    pub(crate) fn rule(&self) -> Option<&'static str> {
        match self {
            Expect::Verdict { rule, .. } => Some(rule),
            Expect::Silence => None,
        }
    }

    /// The same, but the incident may stay open.
    pub(crate) fn unresolved(mut self) -> Expect {
        if let Expect::Verdict { resolved, .. } = &mut self {
            *resolved = false;
        }
        self
    }
}

/// Which subjects are right. The names that differ from run to run are in [`Names`].
#[derive(Debug, Clone, Copy)]
pub(crate) enum SubjectPattern {
    /// `host`.
    Host,
    /// The lab's cgroup.
    Cgroup,
    /// The CPU that the fault was put on.
    Cpu,
    /// The lab's cgroup, or the CPU that the fault was put on.
    CpuOrCgroup,
}

/// The names of one run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Names {
    /// The path of the lab's cgroup, `/whystall-lab-…`.
    pub(crate) cgroup: Option<String>,
    /// The CPU that the fault was put on.
    pub(crate) cpu: Option<usize>,
    /// The task that the verdict must name as a victim, and each measure of its wait in milliseconds, which the verdict's
    /// must meet within 2 %.
    pub(crate) victim: Option<(u32, Vec<f64>)>,
    /// The task that the verdict must name as a culprit with at least 0.9 of the wait.
    pub(crate) culprit: Option<u32>,
}

impl SubjectPattern {
    fn fits(self, subject: &str, names: &Names) -> bool {
        let cgroup = || {
            let path = subject.strip_prefix("cgroup:");
            // On a host where the controller's root is itself a container, whystall may see a longer path.
            names.cgroup.as_deref().is_some_and(|own| path.is_some_and(|p| p.ends_with(own)))
        };
        let cpu = || names.cpu.is_some_and(|cpu| subject == format!("cpu:{cpu}"));
        match self {
            SubjectPattern::Host => subject == "host",
            SubjectPattern::Cgroup => cgroup(),
            SubjectPattern::Cpu => cpu(),
            SubjectPattern::CpuOrCgroup => cpu() || cgroup(),
        }
    }
}

/// One line of whystall's standard output and when it arrived (CLOCK_BOOTTIME).
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) at_ns: u64,
    pub(crate) text: String,
}

/// What the verdict that fits said, for the table.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Seen {
    pub(crate) rule: String,
    pub(crate) cause: String,
    pub(crate) subject: String,
    /// From the fault's onset to the arrival of the first line that fits.
    pub(crate) latency_ms: f64,
}

/// The parts of a verdict that the judge looks at.
struct Verdict {
    at_ns: u64,
    incident: String,
    state: String,
    rule: String,
    cause: String,
    subject: String,
    summary: String,
    ruled_out: Vec<String>,
    /// Process id and milliseconds waited.
    victims: Vec<(u64, f64)>,
    /// Process id and share.
    culprits: Vec<(u64, f64)>,
}

impl Verdict {
    fn parse(line: &Line) -> Result<Verdict> {
        let value: Value = serde_json::from_str(&line.text)
            .map_err(|e| anyhow::anyhow!("a line on stdout is no JSON ({e}): {}", line.text))?;
        ensure!(value["schema"] == "whystall.verdict/1", "a line on stdout is no verdict: {}", line.text);
        let text = |name: &str| match value[name].as_str() {
            Some(s) if !s.is_empty() => Ok(s.to_owned()),
            _ => bail!("a verdict has no `{name}`: {}", line.text),
        };
        let actors = |list: &str, number: &str| -> Vec<(u64, f64)> {
            let actors = value[list].as_array().map(Vec::as_slice).unwrap_or_default();
            actors.iter().filter_map(|a| Some((a["pid"].as_u64()?, a[number].as_f64()?))).collect()
        };
        let ruled_out = value["ruled_out"].as_array().map(Vec::as_slice).unwrap_or_default();
        Ok(Verdict {
            at_ns: line.at_ns,
            incident: text("incident")?,
            state: text("state")?,
            rule: text("rule")?,
            cause: text("cause")?,
            subject: text("subject")?,
            summary: text("summary")?,
            victims: actors("victims", "value"),
            culprits: actors("culprits", "share"),
            ruled_out: ruled_out.iter().filter_map(|r| r["cause"].as_str().map(str::to_owned)).collect(),
        })
    }

    /// Whether it names whom it must.
    fn names(&self, names: &Names) -> bool {
        let victim = names.victim.as_ref().is_none_or(|(pid, measures)| {
            let told = self.victims.iter().find(|(p, _)| *p == u64::from(*pid));
            told.is_some_and(|(_, ms)| measures.iter().all(|m| (ms / m - 1.0).abs() < 0.02))
        });
        let culprit = names
            .culprit
            .is_none_or(|pid| self.culprits.iter().any(|(p, share)| *p == u64::from(pid) && *share >= 0.9));
        victim && culprit
    }

    fn open(&self) -> bool {
        matches!(self.state.as_str(), "firing" | "updated")
    }
}

/// Whether no more lines are needed to judge: something fired, and all that fired has ended.
pub(crate) fn all_resolved(lines: &[Line]) -> bool {
    let verdicts: Vec<Verdict> = lines.iter().filter_map(|l| Verdict::parse(l).ok()).collect();
    let with = |state: &str| -> BTreeSet<&str> {
        verdicts.iter().filter(|v| v.state == state).map(|v| v.incident.as_str()).collect()
    };
    let fired = with("firing");
    !fired.is_empty() && with("resolved").is_superset(&fired)
}

/// Judges what whystall said from its start to its end. `onset_ns` is when the kernel's counters say that the fault
/// began. `Ok(None)` is silence as expected.
pub(crate) fn judge(expect: &Expect, names: &Names, onset_ns: u64, lines: &[Line]) -> Result<Option<Seen>> {
    let verdicts = lines.iter().map(Verdict::parse).collect::<Result<Vec<_>>>()?;
    let Expect::Verdict { rule, causes, subject, ruled_out_contains, summary_names_cgroup, resolved } =
        expect
    else {
        ensure!(verdicts.is_empty(), "silence was expected, but there are {} verdict lines", verdicts.len());
        return Ok(None);
    };
    let fired: BTreeSet<&str> =
        verdicts.iter().filter(|v| v.state == "firing").map(|v| v.incident.as_str()).collect();
    ensure!(!fired.is_empty(), "no verdict fired; expected {rule} with one of {causes:?}");
    ensure!(fired.len() == 1, "one incident was expected, but {} fired: {fired:?}", fired.len());
    if let Some(early) = verdicts.iter().find(|v| v.at_ns < onset_ns) {
        bail!("{} ({}) came before the fault began", early.rule, early.cause);
    }

    let open: Vec<&Verdict> = verdicts.iter().filter(|v| v.open()).collect();
    let fits = |v: &Verdict| {
        v.rule == *rule && causes.contains(&v.cause.as_str()) && subject.fits(&v.subject, names)
    };
    let last = open.last().filter(|v| fits(v));
    let (Some(last), Some(first)) = (last, open.iter().find(|v| fits(v))) else {
        let said: Vec<String> =
            open.iter().map(|v| format!("{} {} {} about {}", v.state, v.rule, v.cause, v.subject)).collect();
        bail!("expected {rule} with one of {causes:?} about {subject:?} {names:?}; said: {said:?}");
    };
    for cause in *ruled_out_contains {
        ensure!(
            last.ruled_out.iter().any(|r| r == cause),
            "`{cause}` was not ruled out, only {:?}",
            last.ruled_out
        );
    }
    if *summary_names_cgroup {
        let name = names.cgroup.as_deref().unwrap_or_default().trim_start_matches('/');
        ensure!(!name.is_empty() && last.summary.contains(name), "`{name}` is not in `{}`", last.summary);
    }
    ensure!(
        last.names(names),
        "neither victim nor culprit: {names:?}: {:?} {:?}",
        last.victims,
        last.culprits
    );
    ensure!(!resolved || all_resolved(lines), "the incident was not resolved after the fault had ended");
    Ok(Some(Seen {
        rule: first.rule.clone(),
        cause: first.cause.clone(),
        subject: first.subject.clone(),
        latency_ms: first.at_ns.saturating_sub(onset_ns) as f64 / 1e6,
    }))
}

/// The judge's cases: each a short story of lines and whether it must pass, else a word of the complaint.
pub(crate) fn self_test() -> Result<()> {
    let line = |at_ns: u64, incident: &str, state: &str, cause: &str, subject: &str| Line {
        at_ns,
        text: serde_json::json!({
            "schema": "whystall.verdict/1", "incident": incident, "state": state, "rule": "memory.x",
            "cause": cause, "subject": subject, "summary": "whystall-lab-x-1 is at its limit",
            "ruled_out": [{"cause": "node.low_memory", "because": "allocstall did not move"}],
        })
        .to_string(),
    };
    let good = "cgroup:/whystall-lab-x-1";
    let names = Names { cgroup: Some("/whystall-lab-x-1".into()), ..Names::default() };
    let expect = |resolved, rules_out| Expect::Verdict {
        rule: "memory.x",
        causes: &["memcg.limit"],
        subject: SubjectPattern::Cgroup,
        ruled_out_contains: rules_out,
        summary_names_cgroup: true,
        resolved,
    };
    let fires = line(12_000_000, "a", "firing", "memcg.limit", good);
    let ends = line(20_000_000, "a", "resolved", "memcg.limit", good);
    let other = line(13_000_000, "b", "firing", "memcg.limit", good);
    let changes = line(15_000_000, "a", "updated", "memcg.high", good);
    let elsewhere = line(12_000_000, "a", "firing", "memcg.limit", "cgroup:/other");
    let garbage = Line { at_ns: 0, text: "watching".into() };
    let low: &[&str] = &["node.low_memory"];
    let cases: [(&str, Expect, Vec<&Line>, Option<&str>); 12] = [
        ("fires and resolves", expect(true, low), vec![&fires, &ends], None),
        ("need not resolve", expect(false, low), vec![&fires], None),
        ("does not resolve", expect(true, low), vec![&fires], Some("not resolved")),
        ("says nothing", expect(false, low), vec![], Some("no verdict")),
        ("two incidents", expect(false, low), vec![&fires, &other], Some("one incident")),
        ("changes its mind", expect(false, low), vec![&fires, &changes], Some("expected")),
        ("another subject", expect(false, low), vec![&elsewhere], Some("expected")),
        ("rules out too little", expect(false, &["cpu.steal"]), vec![&fires], Some("ruled out")),
        ("no verdict on stdout", expect(false, low), vec![&garbage], Some("no JSON")),
        ("silent as expected", Expect::Silence, vec![], None),
        ("not silent", Expect::Silence, vec![&fires], Some("silence")),
        ("even a resolve is not silence", Expect::Silence, vec![&ends], Some("silence")),
    ];
    for (what, expect, lines, complaint) in cases {
        let lines: Vec<Line> = lines.into_iter().cloned().collect();
        match (judge(&expect, &names, 10_000_000, &lines), complaint) {
            (Ok(_), None) => {}
            (Err(e), Some(word)) if e.to_string().contains(word) => {}
            (result, _) => bail!("case `{what}`: {result:?}"),
        }
    }
    let with = |ms: f64, share: f64| {
        let mut line = fires.clone();
        let mut value: Value = serde_json::from_str(&line.text)?;
        value["victims"] = serde_json::json!([{"pid": 7, "value": 300.0}]);
        value["culprits"] = serde_json::json!([{"pid": 8, "share": share}]);
        line.text = value.to_string();
        let names = Names { victim: Some((7, vec![ms])), culprit: Some(8), ..names.clone() };
        judge(&expect(false, low), &names, 10_000_000, &[line])
    };
    ensure!(with(301.0, 0.95).is_ok(), "case `victim and culprit`");
    ensure!(with(310.0, 0.95).is_err(), "case `victim's wait is wrong`");
    ensure!(with(301.0, 0.5).is_err(), "case `culprit's share is small`");
    let early = judge(&expect(false, low), &names, 13_000_000, std::slice::from_ref(&fires));
    ensure!(early.is_err_and(|e| e.to_string().contains("before")), "case `before the fault`");
    let seen = judge(&expect(false, low), &names, 10_000_000, &[fires])?;
    ensure!(seen.is_some_and(|s| s.latency_ms == 2.0), "latency from onset to the first line that fits");
    Ok(())
}
