//! A verdict for people, on a terminal of 80 columns. What is to be copied (subjects, commands) is never broken.

use std::fmt::Write as _;

use whystall_engine::script::Severity;
use whystall_engine::verdict::{Actor, Confidence, Evidence, State, Verdict, Workload};
use whystall_event::text::escape;

use super::{Style, Table, command, wrap};

/// The terminal's width.
const WIDTH: usize = 80;
/// Width of the names before each part.
const MARGIN: usize = 10;
/// Frames of a stack that are shown.
const FRAMES: usize = 8;

/// The whole verdict, ended with an empty line. One that ends an incident is shown without what was told before.
pub fn verdict(v: &Verdict, style: Style) -> String {
    let mut out = headline(v, style);
    for line in wrap(&escape(&v.summary), WIDTH - 2) {
        let _ = writeln!(out, "  {line}");
    }
    let mut facts = format!("{} on {}", escape(&v.started_at), escape(&v.host));
    if let Some(at) = &v.resolved_at {
        let _ = write!(facts, ", resolved {}", escape(at));
    }
    part(&mut out, style, "since", [facts]);
    let confidence = match v.confidence {
        Confidence::Low => "low",
        Confidence::Medium => "medium",
        Confidence::High => "high",
    };
    part(&mut out, style, "rule", [format!("{}, confidence {confidence}", escape(&v.rule))]);
    part(&mut out, style, "incident", [format!("{} #{}", escape(&v.incident), v.seq)]);
    if matches!(v.state, State::Firing | State::Updated) {
        reasons(&mut out, v, style);
    }
    out.push('\n');
    out
}

fn headline(v: &Verdict, style: Style) -> String {
    let state = match v.state {
        State::Firing => "FIRING",
        State::Updated => "UPDATED",
        State::Resolved => "RESOLVED",
        State::Withdrawn => "WITHDRAWN",
    };
    let state = match (v.state, v.severity) {
        (State::Resolved, _) => style.green(state),
        (State::Withdrawn, _) => style.bold(state),
        (_, Severity::Critical) => style.red(state),
        (_, Severity::Warning) => style.yellow(state),
        (_, Severity::Info) => style.bold(state),
    };
    let short = v.workload.as_ref().and_then(Workload::short);
    let subject = escape(short.as_deref().unwrap_or(&v.subject));
    let mut line = format!("{state} {}  {}  {subject}", v.severity.name(), style.bold(&escape(&v.cause)));
    // Who is known by name is not told by path first, but the path is what commands need.
    let more = match short {
        Some(_) => Some(escape(&v.subject).into_owned()),
        None => v.workload.as_ref().and_then(workload),
    };
    if let Some(more) = more {
        let _ = write!(line, "\n  {more}");
    }
    line.push('\n');
    line
}

fn reasons(out: &mut String, v: &Verdict, style: Style) {
    if v.chain.len() > 1 {
        let steps = v.chain.iter().enumerate().flat_map(|(i, l)| {
            let head = format!("{}. {}  {}", i + 1, escape(&l.cause), escape(&l.subject));
            let text = wrap(&escape(&l.summary), WIDTH - MARGIN - 5).into_iter().map(|s| format!("   {s}"));
            std::iter::once(head).chain(text.collect::<Vec<_>>())
        });
        part(out, style, "chain", steps);
    }
    if !v.evidence.is_empty() {
        let mut table = Table::plain();
        for e in &v.evidence {
            table.row(evidence(e, &v.subject));
        }
        part(out, style, "evidence", table.render(0).lines().map(str::to_string));
    }
    part(out, style, "culprits", v.culprits.iter().flat_map(actor));
    part(out, style, "victims", v.victims.iter().flat_map(actor));
    let not = v
        .ruled_out
        .iter()
        .flat_map(|r| wrap(&format!("{}: {}", escape(&r.cause), escape(&r.because)), WIDTH - MARGIN - 2));
    part(out, style, "not", not);
    let hints = v.hints.iter().flat_map(|h| {
        let mut lines = wrap(&escape(&h.text), WIDTH - MARGIN - 2);
        lines.extend(h.command.as_ref().map(|c| style.command(&format!("  {}", command(c)))));
        let risk = h.risk.as_ref().filter(|r| !r.is_empty());
        let risk = risk.into_iter().flat_map(|r| wrap(&format!("risk: {}", escape(r)), WIDTH - MARGIN - 4));
        lines.extend(risk.map(|l| format!("  {l}")));
        lines.extend(h.docs.as_ref().map(|d| format!("  see: {}", escape(d))));
        lines
    });
    part(out, style, "to do", hints);
}

/// Lines with a name before the first; nothing if there are none.
fn part(out: &mut String, style: Style, name: &str, lines: impl IntoIterator<Item = String>) {
    for (i, line) in lines.into_iter().enumerate() {
        let name = if i == 0 { name } else { "" };
        let _ = writeln!(out, "  {}{line}", style.dim(&format!("{name:MARGIN$}")));
    }
}

fn evidence(e: &Evidence, own: &str) -> [String; 4] {
    let number = |x: f64| match e.unit.as_str() {
        "" => round(x),
        "ratio" => format!("{} %", round(100.0 * x)),
        "bytes" if x >= 1_048_576.0 => format!("{} MiB", round(x / 1_048_576.0)),
        unit => format!("{} {}", round(x), escape(unit)),
    };
    let field = escape(&e.field).into_owned();
    // The verdict's own subject stands in the headline.
    let subject = if e.subject == own { String::new() } else { format!(" of {}", escape(&e.subject)) };
    [
        field,
        format!("{} over {}{subject}", escape(&e.calc), escape(&e.window)),
        e.value.map_or("unknown".into(), number),
        e.threshold.map(|t| format!("(line: {})", number(t))).unwrap_or_default(),
    ]
}

/// Enough digits to judge by.
pub(super) fn round(x: f64) -> String {
    if x == x.trunc() || x.abs() >= 1000.0 {
        format!("{x:.0}")
    } else if x.abs() >= 0.01 {
        format!("{x:.2}").trim_end_matches('0').trim_end_matches('.').to_string()
    } else {
        format!("{x:.1e}")
    }
}

fn actor(a: &Actor) -> Vec<String> {
    let name = a.comm.as_ref().or(a.name.as_ref()).map(|n| escape(n).into_owned());
    let mut line = match (&name, a.pid) {
        (Some(n), Some(pid)) => format!("{n} (pid {pid})"),
        (None, Some(pid)) => format!("{} {pid}", escape(&a.kind)),
        (Some(n), None) => format!("{} {n}", escape(&a.kind)),
        (None, None) if a.cgroup.is_none() => escape(&a.kind).into_owned(),
        (None, None) => String::new(),
    };
    if let Some(share) = a.share {
        let _ = write!(line, ", {} %", round(share * 100.0));
    }
    if let Some(value) = a.value {
        let unit = a.unit.as_deref().map(|u| format!(" {}", escape(u))).unwrap_or_default();
        let _ = write!(line, ", {}{}", round(value), unit.trim_end());
    }
    let owner = a.workload.as_ref().and_then(workload);
    let named = a.workload.as_ref().is_some_and(|w| w.short().is_some());
    let place = a.cgroup.as_ref().filter(|_| !named).map(|c| format!("cgroup {}", escape(c)));
    for more in [owner, place].into_iter().flatten() {
        line = if line.is_empty() { more } else { format!("{line}, {more}") };
    }
    // Paths stay whole, so a long line is broken only between its parts.
    let mut lines = wrap(&line, WIDTH - MARGIN - 2);
    lines.iter_mut().skip(1).for_each(|l| l.insert_str(0, "  "));
    let frames: Vec<String> = a.stack.iter().take(FRAMES).map(|f| escape(f).into_owned()).collect();
    if !frames.is_empty() {
        let more = if a.stack.len() > FRAMES { " < …" } else { "" };
        let stack = format!("in {}{more}", frames.join(" < "));
        lines.extend(wrap(&stack, WIDTH - MARGIN - 4).into_iter().map(|s| format!("  {s}")));
    }
    lines
}

/// `namespace/pod/container`, or what else is known of it.
fn workload(w: &Workload) -> Option<String> {
    if let Some(short) = w.short() {
        return Some(escape(&short).into_owned());
    }
    let mut words = Vec::new();
    words.extend(w.pod.as_ref().map(|p| format!("pod {}", escape(p))));
    words.extend(w.container.as_ref().map(|c| format!("container {}", escape(c))));
    if words.is_empty() {
        words.extend(w.unit.as_ref().map(|u| format!("unit {}", escape(u))));
    }
    (!words.is_empty()).then(|| words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    #[test]
    fn a_whole_verdict() {
        insta::assert_snapshot!(verdict(&sample::verdict(), Style::new(false)), @r"
        FIRING warning  memcg.limit  shop/cart-7f/app
          cgroup:/kubepods/pod1f2e3d4c/app
          /kubepods/pod1f2e3d4c/app is at its memory limit: its tasks lost 412 ms in
          direct reclaim in 10 s
          since     2026-11-22T10:00:00.123Z on node-1
          rule      memory.direct_reclaim_burst, confidence high
          incident  01KAR5V9T0WJ8K3M2N4P5Q6R7S #1
          chain     1. memcg.limit  cgroup:/kubepods/pod1f2e3d4c/app
                       at its memory limit
                    2. kernel.long_section  cpu:3
                       redis-server waited 180 ms for CPU 3
          evidence  reclaim.memcg.duration  sum over 10s   412 ms   (line: 100 ms)
                    memcg.events_max        rate over 10s  unknown
          culprits  log reader (pid 4712), 97 %, cgroup /kubepods/pod1f2e3d4c/app
                      in shrink_node < try_to_free_mem_cgroup_pages
          victims   redis-server (pid 4711), shop/cart-7f/app
          not       node.low_memory: allocstall did not move
          to do     raise the limit, or set memory.high below it so that reclaim starts
                    earlier
                      systemctl set-property 'my app.service' MemoryMax=2G
                      risk: the node may overcommit
                      see: rules/memory/direct_reclaim_burst
        ");
    }

    #[test]
    fn the_end_of_an_incident() {
        let mut v = sample::verdict();
        v.state = State::Resolved;
        v.resolved_at = Some("2026-11-22T10:05:00.000Z".into());
        insta::assert_snapshot!(verdict(&v, Style::new(false)), @r"
        RESOLVED warning  memcg.limit  shop/cart-7f/app
          cgroup:/kubepods/pod1f2e3d4c/app
          /kubepods/pod1f2e3d4c/app is at its memory limit: its tasks lost 412 ms in
          direct reclaim in 10 s
          since     2026-11-22T10:00:00.123Z on node-1, resolved 2026-11-22T10:05:00.000Z
          rule      memory.direct_reclaim_burst, confidence high
          incident  01KAR5V9T0WJ8K3M2N4P5Q6R7S #1
        ");
    }

    #[test]
    fn hostile_names_reach_no_terminal() {
        let evil = "a\x1b]0;x\x07\nb\u{202e}";
        let mut v = sample::verdict();
        for s in [
            &mut v.subject,
            &mut v.summary,
            &mut v.rule,
            &mut v.cause,
            &mut v.host,
            &mut v.incident,
            &mut v.started_at,
        ] {
            *s = evil.into();
        }
        v.workload = Some(Workload {
            namespace: Some(evil.into()),
            pod: Some(evil.into()),
            container: Some(evil.into()),
            unit: None,
        });
        v.chain.iter_mut().for_each(|l| {
            (l.rule, l.cause, l.subject, l.summary) = (evil.into(), evil.into(), evil.into(), evil.into())
        });
        for a in v.victims.iter_mut().chain(&mut v.culprits) {
            (a.comm, a.cgroup, a.kind, a.stack) =
                (Some(evil.into()), Some(evil.into()), evil.into(), vec![evil.into()]);
            (a.value, a.unit) = (Some(1.0), Some(evil.into()));
        }
        for e in &mut v.evidence {
            (e.field, e.subject, e.calc, e.window, e.unit) =
                (evil.into(), evil.into(), evil.into(), evil.into(), evil.into());
        }
        v.ruled_out.iter_mut().for_each(|r| (r.cause, r.because) = (evil.into(), evil.into()));
        for h in &mut v.hints {
            (h.text, h.risk, h.docs) = (evil.into(), Some(evil.into()), Some(evil.into()));
            h.command = Some(vec!["kill".into(), evil.into()]);
        }
        let text = verdict(&v, Style::new(false));
        assert!(text.lines().all(|l| escape(l) == l), "{text}");
        assert!(text.contains(r"kill $'a\033]0;x\007\012b\342\200\256'"), "{text}");
    }

    #[test]
    fn colours_only_where_wanted() {
        assert!(verdict(&sample::verdict(), Style::new(true)).contains("\x1b[1;33mFIRING\x1b[0m"));
    }
}
