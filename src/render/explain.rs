//! An incident explained: what each of its findings rests on, condition by condition, from a verdict as it was told or
//! kept. Reads nothing but the verdict.

use std::fmt::Write as _;

use whystall_engine::verdict::{Condition, Explained, State, Term, Verdict};
use whystall_event::text::escape;

use super::verdict::round;
use super::{Style, Table, wrap};

/// The terminal's width.
const WIDTH: usize = 80;

/// Why the incident is what the verdict says: its findings in causal order, each with its conditions, their parts and
/// values, and which part decided.
pub fn explanation(v: &Verdict, style: Style) -> String {
    let state = match v.state {
        State::Firing | State::Updated => "open",
        State::Resolved => "resolved",
        State::Withdrawn => "withdrawn",
    };
    let mut out = format!("{} {state}, {} findings\n", style.bold(&escape(&v.incident)), v.findings.max(1));
    for line in wrap(&escape(&v.summary), WIDTH - 2) {
        let _ = writeln!(out, "  {line}");
    }
    if let Some(other) = &v.merged_into {
        let _ = writeln!(out, "  its findings went on in {}", escape(other));
    }
    for (i, l) in v.chain.iter().enumerate() {
        let role = match i {
            0 => "the root, which no other finding explains",
            _ => "joined",
        };
        let _ = writeln!(
            out,
            "\n{} {}  {}  {}",
            i + 1,
            style.bold(&escape(&l.rule)),
            escape(&l.cause),
            escape(&l.subject)
        );
        let _ = writeln!(out, "  {role}, since {}", escape(&l.started_at));
        match v.explained.iter().find(|e| e.rule == l.rule && e.subject == l.subject) {
            Some(e) => finding(&mut out, e, style),
            None => out.push_str("  its conditions were not kept\n"),
        }
    }
    if !v.ruled_out.is_empty() {
        let _ = writeln!(out, "\n{}", style.bold("Ruled out"));
        for r in &v.ruled_out {
            for line in wrap(&format!("{}: {}", escape(&r.cause), escape(&r.because)), WIDTH - 2) {
                let _ = writeln!(out, "  {line}");
            }
        }
    }
    out
}

fn finding(out: &mut String, e: &Explained, style: Style) {
    let stale = if e.stale { "; its windows are unknown by now, so it stays as it was" } else { "" };
    let _ = writeln!(out, "  as of {}{stale}", escape(&e.at));
    condition(out, "enter", &e.enter, style);
    if e.leave.terms.is_empty() {
        let _ = writeln!(out, "  leave  {}: the opposite of enter", truth(e.leave.holds));
    } else {
        condition(out, "leave", &e.leave, style);
    }
}

fn condition(out: &mut String, name: &str, c: &Condition, style: Style) {
    if c.holds.is_none() && c.terms.iter().all(|t| t.holds.is_none() && t.line.is_none() && t.depth == 0) {
        let _ = writeln!(out, "  {name}  runs in the interpreter; the windows that it may read:");
    } else {
        let _ = writeln!(out, "  {name}  {}", style.bold(truth(c.holds)));
    }
    let mut table = Table::plain();
    for t in &c.terms {
        table.row(term(t));
    }
    out.push_str(&table.render(4));
}

fn truth(holds: Option<bool>) -> &'static str {
    match holds {
        Some(true) => "true",
        Some(false) => "false",
        None => "unknown",
    }
}

fn term(t: &Term) -> [String; 3] {
    let indent = "  ".repeat(usize::try_from(t.depth).unwrap_or(0).min(8));
    let figure = t.line.is_some() || t.value.is_some();
    let value = match t.value {
        Some(x) => format!("is {}", round(x)),
        None if t.holds.is_none() && !figure => "is unknown".into(),
        None => String::new(),
    };
    let holds = match (t.holds, t.line) {
        // A plain figure is neither true nor false.
        (None, None) if figure => String::new(),
        (h, _) => truth(h).into(),
    };
    [format!("{indent}{}", escape(&t.text)), holds, value]
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    fn sampled() -> Verdict {
        let term =
            |depth, text: &str, holds, value, line| Term { depth, text: text.into(), holds, value, line };
        let mut v = sample::verdict();
        v.explained = vec![Explained {
            rule: v.chain[0].rule.clone(),
            subject: v.chain[0].subject.clone(),
            at: "2026-11-22T10:00:02.123Z".into(),
            stale: true,
            enter: Condition {
                holds: Some(true),
                terms: vec![
                    term(0, "any of", Some(true), None, None),
                    term(1, "stall.ms > 100", Some(true), Some(412.0), Some(100.0)),
                    term(1, "hits.value > 20", None, None, Some(20.0)),
                ],
            },
            leave: Condition { holds: Some(false), terms: vec![] },
        }];
        v
    }

    #[test]
    fn each_term_with_its_value() {
        insta::assert_snapshot!(explanation(&sampled(), Style::new(false)), @r"
        01KAR5V9T0WJ8K3M2N4P5Q6R7S open, 2 findings
          /kubepods/pod1f2e3d4c/app is at its memory limit: its tasks lost 412 ms in
          direct reclaim in 10 s

        1 memory.direct_reclaim_burst  memcg.limit  cgroup:/kubepods/pod1f2e3d4c/app
          the root, which no other finding explains, since 2026-11-22T10:00:00.123Z
          as of 2026-11-22T10:00:02.123Z; its windows are unknown by now, so it stays as it was
          enter  true
            any of             true
              stall.ms > 100   true     is 412
              hits.value > 20  unknown
          leave  false: the opposite of enter

        2 cpu.sched_delay  kernel.long_section  cpu:3
          joined, since 2026-11-22T10:00:00.123Z
          its conditions were not kept

        Ruled out
          node.low_memory: allocstall did not move
        ");
    }

    #[test]
    fn hostile_texts_reach_no_terminal() {
        let evil = "a\x1b]0;x\x07\nb\u{202e}";
        let mut v = sampled();
        for s in [&mut v.incident, &mut v.summary] {
            *s = evil.into();
        }
        v.merged_into = Some(evil.into());
        for l in &mut v.chain {
            (l.rule, l.subject, l.cause, l.started_at) = (evil.into(), evil.into(), evil.into(), evil.into());
        }
        let e = &mut v.explained[0];
        (e.rule, e.subject, e.at) = (evil.into(), evil.into(), evil.into());
        e.enter.terms[0].text = evil.into();
        e.enter.terms[0].depth = u64::MAX;
        v.ruled_out[0].because = evil.into();
        let text = explanation(&v, Style::new(false));
        assert!(text.lines().all(|l| escape(l) == l), "{text}");
    }
}
