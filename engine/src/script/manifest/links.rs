//! What one window says of another: `after` with `within`, and `at: "cpu"` with `by`. Resolved once all are read.

use super::super::codes::Code;
use super::super::diag::{Place, Report};
use super::super::literal::Taker;
use super::{At, WindowDecl};

/// The other windows that a window names.
#[derive(Debug, Default)]
pub(super) struct Links {
    after: Option<(String, Place)>,
    within: Option<(u64, Place)>,
    /// The window whose value is the number of a CPU.
    pub(super) by: Option<(String, Place)>,
}

impl Links {
    pub(super) fn read(&mut self, w: &mut Taker<'_>, report: &mut Report<'_>) {
        self.after = w.text("after", report).map(|(s, at)| (s.to_string(), at));
        self.within = w.duration("within", report);
        self.by = w.text("by", report).map(|(s, at)| (s.to_string(), at));
        match (&self.after, self.within) {
            (Some((_, at)), None) => {
                report
                    .add(
                        Code::MissingKey,
                        *at,
                        "`after` needs `within`: for how long after the other it counts",
                    )
                    .help("for example `within: \"10s\"`");
            }
            (None, Some((_, at))) => {
                report.add(Code::BadValue, at, "`within` goes with `after`");
            }
            _ => {}
        }
    }
}

/// Finds the windows that `links`, one for each of `windows`, name.
pub(super) fn resolve(
    windows: &mut [WindowDecl],
    links: &[Links],
    broken: &[String],
    report: &mut Report<'_>,
) {
    for (i, link) in links.iter().enumerate() {
        if let Some((name, at)) = &link.by
            && let Some(other) = find(windows, name, *at, broken, report)
        {
            if windows[other].at != At::Own {
                report.add(Code::BadSubject, *at, format!("`{name}` is not about the rule's own subject"));
            }
            if matches!(windows[i].at, At::Cpu(_)) {
                windows[i].at = At::Cpu(other);
            }
        }
        if let (Some((name, at)), Some((within_ns, _))) = (&link.after, link.within)
            && let Some(other) = find(windows, name, *at, broken, report)
        {
            after(windows, links, (i, other), *at, within_ns, report);
        }
    }
}

fn after(
    windows: &mut [WindowDecl],
    links: &[Links],
    (i, other): (usize, usize),
    at: Place,
    within_ns: u64,
    report: &mut Report<'_>,
) {
    let (this, that) = (&windows[i], &windows[other]);
    let (name, calc) = (that.name.clone(), this.calc);
    if i == other {
        report.add(Code::BadValue, at, "a window cannot come after itself");
    } else if links[other].after.is_some() {
        report
            .add(Code::BadValue, at, format!("`{name}` comes after another window itself"))
            .help("join two such windows in `enter` instead");
    } else if !calc.is_amount() {
        report
            .add(Code::BadCalc, at, format!("`after` is for amounts, and `{}` is none", calc.name()))
            .help("use count, sum, rate, delta or share");
    } else if !matches!((this.at, that.at), (At::Own, At::Own | At::Host) | (At::Host, At::Host)) {
        report
            .add(Code::BadSubject, at, format!("`{name}` is about other subjects"))
            .help("a window comes after one of its own subject or of the host");
    } else {
        windows[i].after = Some((other, within_ns));
    }
}

fn find(
    windows: &[WindowDecl],
    name: &str,
    at: Place,
    broken: &[String],
    report: &mut Report<'_>,
) -> Option<usize> {
    let found = windows.iter().position(|w| w.name == name);
    if found.is_none() && !broken.iter().any(|b| b == name) {
        report.add(Code::UnknownWindow, at, format!("RULE declares no window `{name}`"));
        report.suggest(name, windows.iter().map(|w| w.name.as_str()));
    }
    found
}
