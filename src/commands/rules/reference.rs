//! The reference for authors of rules, made from the code: `docs/reference.md` is its output, and a test holds it so.

use std::fmt::Write as _;
use std::time::Duration;

use clap::CommandFactory;
use whystall_engine::script::{Code, Level, interface};
use whystall_engine::window::{self, Calc};
use whystall_event::{Field, FieldKind, Mode, Stream, Unit};

use crate::cli::Cli;
use crate::daemon::sources;

/// What each calculation is.
const CALCULATIONS: [(Calc, &str); 14] = [
    (Calc::Last, "the newest value in the span"),
    (Calc::Mean, "the arithmetic mean of the values"),
    (Calc::Min, "the least value"),
    (Calc::Max, "the greatest value"),
    (Calc::Sum, "the sum of what happened"),
    (Calc::Count, "how often it happened"),
    (Calc::Rate, "per second: a counter's growth, or how often it happened"),
    (Calc::Delta, "how much a counter or gauge moved over the span"),
    (Calc::Share, "the part of wall time that a time counter or durations took"),
    (Calc::P50, "the median, within the error of a histogram's bucket"),
    (Calc::P90, "the 90th percentile"),
    (Calc::P99, "the 99th percentile"),
    (Calc::Ewma, "the exponentially weighted mean, with the span as time constant"),
    (Calc::Baseline, "the exponentially weighted mean and deviation: what is normal here"),
];

/// The reference as Markdown.
pub(super) fn reference() -> String {
    let mut out = String::from(
        "# Reference for authors of rules\n\nMade by `whystall rules reference`; do not edit it. `whystall rules new AREA.NAME` begins a rule, \
         `whystall check` and `whystall test` say how it does.\n",
    );
    streams(&mut out);
    calculations(&mut out);
    functions(&mut out);
    codes(&mut out);
    commands(&mut out);
    out
}

fn streams(out: &mut String) {
    out.push_str(
        "\n## Streams and fields\n\nA window reads one field, `of: \"stream.field\"`. *Sampled* streams are read each interval; \
         *occurrences* are told as they happen.\n",
    );
    let schema = sources::any_host(Duration::from_secs(1));
    for (source, stream) in schema.streams() {
        let kinds: Vec<&str> = stream.subjects.iter().map(|k| k.name()).collect();
        let mode = match stream.mode {
            Mode::Sampled => "sampled",
            Mode::Occurrences => "occurrences",
        };
        let _ = writeln!(
            out,
            "\n### `{}`\n\n{} Collector `{}`, {mode}, about: {}.\n\n| field | kind | unit | calculations | |\n| --- | --- | --- | --- | --- |",
            stream.name,
            sentence(&stream.help),
            source.name,
            kinds.join(", ")
        );
        for f in stream.fields.iter() {
            let _ = writeln!(
                out,
                "| `{}` | {} | {} | {} | {} |",
                f.name,
                kind(f.kind),
                unit(f.unit),
                allowed(f, stream),
                cell(&f.help)
            );
        }
    }
}

fn sentence(s: &str) -> String {
    let mut chars = s.trim_end_matches('.').chars();
    let first: String = chars.next().map(|c| c.to_uppercase().chain(chars).collect()).unwrap_or_default();
    if first.is_empty() { first } else { format!("{}.", cell(&first)) }
}

fn cell(s: &str) -> String {
    s.replace('|', "\\|").replace('<', "&lt;").replace('\n', " ")
}

fn kind(k: FieldKind) -> &'static str {
    match k {
        FieldKind::Counter => "counter",
        FieldKind::Gauge => "gauge",
        FieldKind::Duration => "duration",
        FieldKind::Text => "text",
    }
}

fn unit(u: Unit) -> &'static str {
    match u {
        Unit::Time => "time",
        Unit::Bytes => "bytes",
        Unit::Pages => "pages",
        Unit::Ratio => "ratio",
        Unit::Count => "count",
        Unit::None => "",
    }
}

fn allowed(f: &Field, stream: &Stream) -> String {
    let fits = |c: &&Calc| window::allowed(**c, f.kind, f.unit, stream.mode).is_ok();
    Calc::ALL.iter().filter(fits).map(|c| c.name()).collect::<Vec<_>>().join(" ")
}

fn calculations(out: &mut String) {
    out.push_str(
        "\n## Windows\n\n`windows: #{ NAME: #{ of, calc, over, … } }`, and where they are wanted:\n\n\
         * `coverage`: the least part of `over`, 0 to 1, that must have been seen; below it the window is unknown (0.5).\n\
         * `at: \"host\"`, `at: \"parent\"` (of a cgroup), or `at: \"cpu\", by: \"WINDOW\"` (the CPU whose number that window has).\n\
         * `across: \"KIND\"` with `take: \"sum\"`, `\"max\"`, `\"count_over\"` or `\"share_over\"` and `over_line`: over all subjects of a kind.\n\
         * `where: #{ FIELD: [\"text\", \"begin*\"] }`: only occurrences with one of these texts.\n\
         * `after: \"WINDOW\", within: \"10s\"`: only what comes while the other window is not zero, or within the time after; \
         `.overdue` says that nothing came.\n\n| calculation | |\n| --- | --- |\n",
    );
    for (c, what) in CALCULATIONS {
        let _ = writeln!(out, "| `{}` | {what} |", c.name());
    }
}

fn functions(out: &mut String) {
    out.push_str("\n## What rules can call and read\n");
    for family in interface() {
        let on = if family.on.is_empty() { String::new() } else { format!(": `{}`", family.on) };
        let _ = writeln!(out, "\n### {}{on}\n\n| | gives | |\n| --- | --- | --- |", family.title);
        for m in family.members {
            let dot = if family.on.is_empty() { "" } else { "." };
            let _ = writeln!(out, "| `{dot}{}` | {} | {} |", m.form, m.gives, cell(m.help));
        }
    }
}

fn codes(out: &mut String) {
    out.push_str("\n## Codes\n\nWhat `whystall check` says; `whystall explain CODE` tells the same.\n\n| code | | |\n| --- | --- | --- |\n");
    for c in Code::ALL {
        let level = match c.level() {
            Level::Error => "error",
            Level::Warning => "warning",
            Level::Note => "note",
        };
        let _ = writeln!(out, "| {} ({level}) | {} | {} |", c.name(), cell(c.title()), cell(c.page()));
    }
}

fn commands(out: &mut String) {
    out.push_str("\n## Commands\n");
    let mut cli = Cli::command().term_width(100);
    cli.build();
    for c in cli.get_subcommands_mut().filter(|c| c.get_name() != "help") {
        command(out, c);
        for inner in c.get_subcommands_mut().filter(|c| c.get_name() != "help") {
            command(out, inner);
        }
    }
}

fn command(out: &mut String, c: &mut clap::Command) {
    let help = c.render_long_help().to_string();
    let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
    let name = c.get_bin_name().unwrap_or(c.get_name()).to_string();
    let _ = writeln!(out, "\n### `{name}`\n\n```text\n{}\n```", lines.join("\n").trim());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_is_what_the_code_says() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/reference.md");
        let written = std::fs::read_to_string(path).unwrap_or_default();
        let wanted = reference();
        let differs = written.lines().zip(wanted.lines()).position(|(a, b)| a != b);
        assert!(
            written == wanted,
            "docs/reference.md differs from line {:?} on: write it again with `cargo run -- rules reference > docs/reference.md`",
            differs.map(|n| n + 1)
        );
    }

    #[test]
    fn every_calculation_is_told() {
        let told: Vec<Calc> = CALCULATIONS.iter().map(|(c, _)| *c).collect();
        assert_eq!(told, Calc::ALL);
    }
}
