//! RULE, typed: what a rule file declares about itself.

use std::sync::Arc;

use whystall_event::{Field, FieldKind, MS, Mode, Stream, SubjectKind, Unit};

use super::codes::Code;
use super::diag::{Place, Report};
use super::literal::{Lit, Taker, Value, texts};
use crate::schema::{Schema, Source};
use crate::window::{self, Calc};

/// The version of the rule interface that this engine speaks.
pub const API: u32 = 1;

/// How bad a rule's findings are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// Somebody should look today.
    Warning,
    /// Somebody should look now.
    Critical,
}

impl Severity {
    /// The severity with this name.
    pub fn from_name(s: &str) -> Option<Severity> {
        match s {
            "info" => Some(Severity::Info),
            "warning" => Some(Severity::Warning),
            "critical" => Some(Severity::Critical),
            _ => None,
        }
    }

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Critical => "critical",
        }
    }
}

/// A param's value.
#[derive(Debug, Clone, PartialEq)]
pub enum ParamValue {
    /// Numbers are always floating-point, so that no division is an integer's.
    Number(f64),
    /// True or false.
    Bool(bool),
    /// Text.
    Text(String),
}

/// Something operators may tune.
#[derive(Debug, Clone, PartialEq)]
pub struct Param {
    /// Its name, read as `p.NAME`.
    pub name: String,
    /// Its value; after overrides, the operator's.
    pub value: ParamValue,
    /// Bounds for numbers.
    pub bounds: (f64, f64),
    /// Unit for people, may be empty.
    pub unit: String,
    /// What it means.
    pub help: String,
    pub(crate) at: Place,
}

/// How a window over another kind's subjects becomes one value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Take {
    /// Sum of all known values.
    Sum,
    /// The largest.
    Max,
    /// How many subjects have a known value above the line (in the window's shown unit).
    CountOver(f64),
    /// The part of the subjects with a known value that are above the line.
    ShareOver(f64),
}

/// Whose values a window reads.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum At {
    /// The rule's own subject.
    Own,
    /// The host.
    Host,
    /// The parent cgroup.
    Parent,
    /// All subjects of a kind, reduced to one value.
    Across(SubjectKind, Take),
}

/// A declared window.
#[derive(Debug, Clone, PartialEq)]
pub struct WindowDecl {
    /// Its name, read as `w.NAME`.
    pub name: String,
    /// The stream it reads.
    pub stream: Arc<str>,
    /// The field.
    pub field: Arc<str>,
    /// The calculation.
    pub calc: Calc,
    /// The span, nanoseconds.
    pub over_ns: u64,
    /// Whose values.
    pub at: At,
    /// The least covered part below which the value is unknown.
    pub coverage: f64,
    /// Only rows whose texts match.
    pub filter: Vec<(Arc<str>, Vec<Arc<str>>)>,
    /// The kinds the stream is about.
    pub kinds: Vec<SubjectKind>,
    /// What the value is.
    pub shape: Shape,
    /// The stream's text fields; items of `ctx.top` carry them.
    pub texts: Vec<Arc<str>>,
    pub(crate) at_place: Place,
}

/// The unit of a window's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// The unit of the amounts.
    pub unit: Unit,
    /// Whether it is per second.
    pub per_second: bool,
    /// Whether `.sigma`, `.dev` and `.mean` exist.
    pub baseline: bool,
}

impl Shape {
    fn of(calc: Calc, kind: FieldKind, unit: Unit) -> Shape {
        let plain = |unit| Shape { unit, per_second: false, baseline: false };
        match calc {
            Calc::Count => plain(Unit::Count),
            Calc::Share => plain(Unit::Ratio),
            Calc::Rate if kind == FieldKind::Counter => Shape { unit, per_second: true, baseline: false },
            Calc::Rate => Shape { unit: Unit::Count, per_second: true, baseline: false },
            Calc::Ewma | Calc::Baseline => {
                Shape { unit, per_second: kind == FieldKind::Counter, baseline: calc == Calc::Baseline }
            }
            _ => plain(unit),
        }
    }

    /// What an inside value is divided by to be shown.
    pub const fn scale(self) -> f64 {
        self.unit.scale()
    }

    /// The unit as evidence shows it: `ms`, `ms/s`, `bytes`, `1/s`, or nothing.
    pub fn shown(self) -> String {
        match (self.unit.shown(), self.per_second) {
            ("", true) => "1/s".into(),
            (u, true) => format!("{u}/s"),
            (u, false) => u.into(),
        }
    }

    /// An inside value for people: `412 ms`, `3.2 GiB`, `12 %`, `204/s`.
    pub fn text(self, inside: f64) -> String {
        if inside.is_nan() {
            return "unknown".into();
        }
        let per = if self.per_second { "/s" } else { "" };
        match self.unit {
            Unit::Time if inside.abs() >= 10e9 => format!("{} s{per}", digits(inside / 1e9)),
            Unit::Time => format!("{} ms{per}", digits(inside / 1e6)),
            Unit::Bytes => {
                let (mut x, mut unit) = (inside, "B");
                for next in ["KiB", "MiB", "GiB", "TiB"] {
                    if x.abs() < 1024.0 {
                        break;
                    }
                    (x, unit) = (x / 1024.0, next);
                }
                format!("{} {unit}{per}", digits(x))
            }
            Unit::Pages => format!("{} pages{per}", digits(inside)),
            Unit::Ratio => format!("{} %{per}", digits(inside * 100.0)),
            Unit::Count | Unit::None => format!("{}{per}", digits(inside)),
        }
    }
}

/// Three significant digits below a thousand, whole numbers above.
fn digits(x: f64) -> String {
    let a = x.abs();
    let s = if a >= 100.0 || x == x.trunc() {
        format!("{x:.0}")
    } else if a >= 10.0 {
        format!("{x:.1}")
    } else if a >= 0.01 {
        format!("{x:.2}")
    } else {
        return format!("{x:.1e}");
    };
    s
}

/// When two findings are related.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Anywhere on the host.
    Host,
    /// They touch the same CPU.
    SameCpu,
    /// One touches a cgroup of the other, or an ancestor of it.
    SameCgroup,
    /// They touch the same task.
    SameTask,
}

/// A causal edge: this rule's finding explains the other rule's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explains {
    /// The other rule's id.
    pub rule: String,
    /// Where they must meet.
    pub when: When,
    /// Only if the other finding concluded one of these causes; empty for any.
    pub causes: Vec<String>,
}

/// What happens to a finding while its windows are unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnMissing {
    /// It stays as it is and is marked stale.
    Hold,
    /// It clears as if the condition were false.
    Clear,
}

/// Everything RULE says.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// `area.name`.
    pub id: String,
    /// Severity, after overrides.
    pub severity: Severity,
    /// Free labels.
    pub tags: Vec<String>,
    /// The kinds of subjects it judges, at least one.
    pub subjects: Vec<SubjectKind>,
    /// Collectors or streams without which it does not run.
    pub needs: Vec<String>,
    /// Collectors or streams that it uses where they exist.
    pub wants: Vec<String>,
    /// Params by name.
    pub params: Vec<Param>,
    /// Windows by name.
    pub windows: Vec<WindowDecl>,
    /// Index of the window that must not be zero for `enter` to be asked.
    pub wake: Option<usize>,
    /// How long `enter` must hold.
    pub fire_hold_ns: u64,
    /// N of the last M ticks instead of all of them.
    pub quorum: Option<(u32, u32)>,
    /// How long `leave` must hold.
    pub clear_hold_ns: u64,
    /// What unknown does.
    pub on_missing: OnMissing,
    /// Causal edges.
    pub explains: Vec<Explains>,
    /// `sandbox`, `incubating` or `stable`.
    pub maturity: String,
    /// The first sentence of the page.
    pub title: String,
    /// The page: the `//!` text.
    pub page: String,
    /// Streams that the rule itself declares.
    pub streams: Vec<Arc<Stream>>,
}

/// Reads and checks RULE.
pub(crate) fn read(lit: &Lit, page: String, schema: &Schema, report: &mut Report<'_>) -> Option<Manifest> {
    let mut t = Taker::new(lit, "RULE", report)?;
    let id = t.need_text("id", report).map(|(s, at)| (s.to_string(), at));
    if let Some((id, at)) = &id {
        let word = |w: &str| {
            w.starts_with(|c: char| c.is_ascii_lowercase())
                && w.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        };
        if !id.contains('.') || !id.split('.').all(word) {
            report
                .add(Code::BadValue, *at, format!("`{id}` is no rule id"))
                .help("write `area.name` in lower case, for example `net.retransmits`");
        }
    }
    if let Some(lit) = t.need("api", report)
        && lit.value != Value::Number(f64::from(API))
    {
        report.add(
            Code::BadValue,
            lit.at,
            format!("`api` must be {API}, the version that this whystall speaks"),
        );
    }
    let severity = t.need_text("severity", report).and_then(|(s, at)| {
        let found = Severity::from_name(s);
        if found.is_none() {
            report.add(Code::BadValue, at, format!("`{s}` is no severity"));
            report.suggest(s, ["info", "warning", "critical"]);
        }
        found
    });
    let tags = t.texts("tags", report).into_iter().map(|(s, _)| s).collect();
    let subjects = read_subjects(&mut t, report);
    let streams = read_streams(&mut t, report);
    let schema = &with_own(schema, &streams);
    let needs = read_sources(&mut t, "needs", schema, report);
    let wants = read_sources(&mut t, "wants", schema, report);
    let params = read_params(&mut t, report);
    let windows = read_windows(&mut t, &subjects, schema, report);
    let wake = t.text("wake", report).and_then(|(name, at)| {
        let found = windows.iter().position(|w| w.name == name);
        if found.is_none() {
            report.add(
                Code::UnknownWindow,
                at,
                format!("`wake` names the window `{name}`, which is not declared"),
            );
            report.suggest(name, windows.iter().map(|w| w.name.as_str()));
        }
        found
    });
    let (fire_hold_ns, quorum) = read_fire(&mut t, report);
    let mut clear_hold_ns = 0;
    if let Some(lit) = t.get("clear")
        && let Some(mut c) = Taker::new(lit, "`clear`", report)
    {
        clear_hold_ns = c.duration("hold", report).map_or(0, |(ns, _)| ns);
        c.finish(report);
    }
    let on_missing = match t.text("on_missing", report) {
        None | Some(("hold", _)) => OnMissing::Hold,
        Some(("clear", _)) => OnMissing::Clear,
        Some((s, at)) => {
            report.add(
                Code::BadValue,
                at,
                format!("`on_missing` is `{s}`, but must be \"hold\" or \"clear\""),
            );
            OnMissing::Hold
        }
    };
    let explains = read_explains(&mut t, report);
    let maturity = t.text("maturity", report).map_or("stable", |(s, at)| {
        if !["sandbox", "incubating", "stable"].contains(&s) {
            report.add(Code::BadValue, at, format!("`maturity` is `{s}`"));
            report.suggest(s, ["sandbox", "incubating", "stable"]);
        }
        s
    });
    let maturity = maturity.to_string();
    t.finish(report);
    if page.is_empty() {
        report.add(
            Code::NoDoc,
            Place { line: 1, column: 1 },
            "the file does not begin with a page of `//!` lines",
        );
    }
    if report.errors() {
        return None;
    }
    let title =
        page.split_inclusive(['.', '\n']).next().unwrap_or("").trim().trim_end_matches('.').to_string();
    Some(Manifest {
        id: id?.0,
        severity: severity?,
        tags,
        subjects,
        needs,
        wants,
        params,
        windows,
        wake,
        fire_hold_ns,
        quorum,
        clear_hold_ns,
        on_missing,
        explains,
        maturity,
        title,
        page,
        streams,
    })
}

/// The schema with the rule's own streams; one that exists already stays as it is.
fn with_own(schema: &Schema, own: &[Arc<Stream>]) -> Schema {
    let mut sources = schema.sources().to_vec();
    for s in own {
        if !schema.streams().any(|(_, t)| t.name == s.name) {
            sources.push(Source {
                name: s.name.to_string(),
                streams: vec![s.clone()],
                interval_ns: 1000 * MS,
                missing: None,
            });
        }
    }
    Schema::new(sources)
}

fn read_subjects(t: &mut Taker<'_>, report: &mut Report<'_>) -> Vec<SubjectKind> {
    let mut subjects = Vec::new();
    if let Some(lit) = t.need("subject", report) {
        for (s, at) in texts(lit, "`subject`", report) {
            match SubjectKind::from_name(&s) {
                Some(k) if subjects.contains(&k) => {
                    report.add(Code::BadValue, at, format!("`{s}` is listed twice"));
                }
                Some(k) => subjects.push(k),
                None => {
                    report.add(Code::BadValue, at, format!("`{s}` is no kind of subject"));
                    report.suggest(&s, SubjectKind::ALL.iter().map(|k| k.name()));
                }
            }
        }
        if subjects.is_empty() && !report.errors() {
            report.add(Code::BadValue, lit.at, "`subject` is empty");
        }
    }
    subjects
}

fn read_sources(
    t: &mut Taker<'_>,
    key: &'static str,
    schema: &Schema,
    report: &mut Report<'_>,
) -> Vec<String> {
    let list = t.texts(key, report);
    for (name, at) in &list {
        if schema.named(name).next().is_none() {
            report.add(
                Code::UnknownCollector,
                *at,
                format!("`{key}` names `{name}`, which is no collector or stream"),
            );
            let mut names: Vec<&str> = schema.sources().iter().map(|s| s.name.as_str()).collect();
            names.extend(schema.streams().map(|(_, s)| s.name.as_ref()));
            names.sort_unstable();
            names.dedup();
            report.suggest(name, names);
        }
    }
    list.into_iter().map(|(s, _)| s).collect()
}

fn read_params(t: &mut Taker<'_>, report: &mut Report<'_>) -> Vec<Param> {
    let mut out = Vec::new();
    let Some(lit) = t.get("params") else { return out };
    let Value::Map(entries) = &lit.value else {
        report.add(Code::BadValue, lit.at, format!("`params` must be a map, not {}", lit.value.kind()));
        return out;
    };
    for (name, at, lit) in entries {
        let Some(mut p) = Taker::new(lit, format!("param `{name}`"), report) else { continue };
        let value = p.need("value", report).and_then(|v| match &v.value {
            Value::Number(x) => Some(ParamValue::Number(*x)),
            Value::Bool(b) => Some(ParamValue::Bool(*b)),
            Value::Text(s) => Some(ParamValue::Text(s.clone())),
            other => {
                report.add(Code::BadValue, v.at, format!("a param cannot be {}", other.kind()));
                None
            }
        });
        let any = f64::MIN..=f64::MAX;
        let min = p.number("min", any.clone(), report).unwrap_or(f64::NEG_INFINITY);
        let max = p.number("max", any, report).unwrap_or(f64::INFINITY);
        let unit = p.text("unit", report).map_or("", |(s, _)| s).to_string();
        let help = p.need_text("help", report).map_or("", |(s, _)| s).to_string();
        p.finish(report);
        let Some(value) = value else { continue };
        let param = Param { name: name.clone(), value, bounds: (min, max), unit, help, at: *at };
        if let Err(e) = param.check(&param.value) {
            report.add(Code::BadValue, lit.at, format!("param `{name}`: {e}"));
        }
        out.push(param);
    }
    out
}

impl Param {
    /// Whether `value` may stand in for this param's value.
    pub fn check(&self, value: &ParamValue) -> Result<(), String> {
        match (&self.value, value) {
            (ParamValue::Number(_), ParamValue::Number(x)) => {
                let (lo, hi) = self.bounds;
                if (lo..=hi).contains(x) {
                    Ok(())
                } else if hi == f64::INFINITY {
                    Err(format!("{x} is below its minimum {lo}"))
                } else if lo == f64::NEG_INFINITY {
                    Err(format!("{x} is above its maximum {hi}"))
                } else {
                    Err(format!("{x} is not between {lo} and {hi}"))
                }
            }
            (ParamValue::Bool(_), ParamValue::Bool(_)) | (ParamValue::Text(_), ParamValue::Text(_)) => Ok(()),
            (ParamValue::Number(_), _) => Err("a number is expected".into()),
            (ParamValue::Bool(_), _) => Err("true or false is expected".into()),
            (ParamValue::Text(_), _) => Err("a string is expected".into()),
        }
    }
}

fn read_windows(
    t: &mut Taker<'_>,
    subjects: &[SubjectKind],
    schema: &Schema,
    report: &mut Report<'_>,
) -> Vec<WindowDecl> {
    let mut out: Vec<WindowDecl> = Vec::new();
    let Some(lit) = t.need("windows", report) else { return out };
    let Value::Map(entries) = &lit.value else {
        report.add(Code::BadValue, lit.at, format!("`windows` must be a map, not {}", lit.value.kind()));
        return out;
    };
    for (name, at, lit) in entries {
        if RESERVED_WINDOWS.contains(&name.as_str()) {
            report.add(
                Code::BadValue,
                *at,
                format!("`{name}` is a built-in reading and cannot name a window"),
            );
        }
        if let Some(w) = read_window(name, *at, lit, subjects, schema, report) {
            out.push(w);
        }
    }
    if entries.is_empty() {
        report.add(Code::BadValue, lit.at, "a rule needs at least one window");
    }
    out
}

/// `w.on_KIND`: whether the rule judges a subject of that kind now.
pub(crate) const RESERVED_WINDOWS: [&str; 6] =
    ["on_host", "on_cpu", "on_node", "on_cgroup", "on_task", "on_device"];

fn read_window(
    name: &str,
    at: Place,
    lit: &Lit,
    subjects: &[SubjectKind],
    schema: &Schema,
    report: &mut Report<'_>,
) -> Option<WindowDecl> {
    let mut w = Taker::new(lit, format!("window `{name}`"), report)?;
    let of = w.need_text("of", report);
    let calc = w.need_text("calc", report).and_then(|(s, at)| {
        let found = Calc::from_name(s);
        if found.is_none() {
            report.add(Code::BadCalc, at, format!("`{s}` is no calculation"));
            report.suggest(s, Calc::ALL.iter().map(|c| c.name()));
        }
        found.map(|c| (c, at))
    });
    w.need("over", report);
    let over = w.duration("over", report);
    let coverage = w.number("coverage", 0.0..=1.0, report).unwrap_or(0.5);
    let at_text = w.text("at", report);
    let across = w.text("across", report);
    let take = w.text("take", report);
    let line = w.number("over_line", f64::MIN..=f64::MAX, report);
    let filter = read_filter(&mut w, report);
    w.finish(report);
    let ((full, full_at), (calc, calc_at), (over_ns, over_at)) = (of?, calc?, over?);
    let Some(found) = schema.field(full) else {
        report.add(Code::UnknownField, full_at, format!("no stream has a field `{full}`"));
        let names = schema.field_names();
        report.suggest(full, names.iter().map(String::as_str));
        return None;
    };
    let (stream, field) = (found.stream, found.field);
    if let Err(why) = window::allowed(calc, field.kind, field.unit, stream.mode) {
        report.add(Code::BadCalc, calc_at, format!("`{}` of `{full}`: {why}", calc.name()));
        return None;
    }
    if stream.mode == Mode::Sampled && over_ns < 2 * found.source.interval_ns {
        let every = whystall_event::format_duration(found.source.interval_ns);
        report.add(
            Code::ShortWindow,
            over_at,
            format!("`{full}` is read each {every}, and two readings are needed"),
        );
    }
    for (label, _) in &filter {
        if !stream.fields.iter().any(|f| f.kind == FieldKind::Text && f.name == label.as_ref()) {
            report.add(
                Code::UnknownField,
                at,
                format!("`{}` has no text field `{label}` to filter by", stream.name),
            );
        } else if stream.mode == Mode::Sampled {
            report.add(
                Code::BadValue,
                at,
                "`where` selects among things that happened; this stream is sampled",
            );
        }
    }
    let at_what = read_at(at_text, across, take, line, report)?;
    let fits = match at_what {
        At::Own => subjects.iter().any(|k| stream.subjects.contains(k)),
        At::Host => stream.subjects.contains(&SubjectKind::Host),
        At::Parent => {
            stream.subjects.contains(&SubjectKind::Cgroup) && subjects.contains(&SubjectKind::Cgroup)
        }
        At::Across(kind, _) => stream.subjects.contains(&kind),
    };
    if !fits {
        let kinds: Vec<&str> = stream.subjects.iter().map(|k| k.name()).collect();
        report
            .add(Code::BadSubject, full_at, format!("`{}` is about {}", stream.name, kinds.join(", ")))
            .help("add `at: \"host\"`, `at: \"parent\"` or `across: \"KIND\", take: \"max\"` to read another subject");
        return None;
    }
    Some(WindowDecl {
        name: name.to_string(),
        stream: stream.name.as_ref().into(),
        field: field.name.as_ref().into(),
        calc,
        over_ns,
        at: at_what,
        coverage,
        filter,
        kinds: stream.subjects.to_vec(),
        shape: match at_what {
            At::Across(_, Take::CountOver(_)) => {
                Shape { unit: Unit::Count, per_second: false, baseline: false }
            }
            At::Across(_, Take::ShareOver(_)) => {
                Shape { unit: Unit::Ratio, per_second: false, baseline: false }
            }
            At::Across(..) => Shape { baseline: false, ..Shape::of(calc, field.kind, field.unit) },
            _ => Shape::of(calc, field.kind, field.unit),
        },
        texts: text_fields(stream),
        at_place: at,
    })
}

fn text_fields(stream: &Stream) -> Vec<Arc<str>> {
    stream.fields.iter().filter(|f| f.kind == FieldKind::Text).map(|f| f.name.as_ref().into()).collect()
}

fn read_at(
    at: Option<(&str, Place)>,
    across: Option<(&str, Place)>,
    take: Option<(&str, Place)>,
    line: Option<f64>,
    report: &mut Report<'_>,
) -> Option<At> {
    if let Some((kind, place)) = across {
        if at.is_some() {
            report.add(Code::BadValue, place, "a window has `at` or `across`, not both");
        }
        let Some(kind_found) = SubjectKind::from_name(kind) else {
            report.add(Code::BadValue, place, format!("`{kind}` is no kind of subject"));
            report.suggest(kind, SubjectKind::ALL.iter().map(|k| k.name()));
            return None;
        };
        let need_line = |report: &mut Report<'_>, place| {
            if line.is_none() {
                report.add(
                    Code::MissingKey,
                    place,
                    "`take` over a line needs `over_line`, in the window's shown unit",
                );
            }
            line
        };
        let take = match take {
            None | Some(("sum", _)) => Take::Sum,
            Some(("max", _)) => Take::Max,
            Some(("count_over", p)) => Take::CountOver(need_line(report, p)?),
            Some(("share_over", p)) => Take::ShareOver(need_line(report, p)?),
            Some((s, p)) => {
                report.add(Code::BadValue, p, format!("`{s}` is no way to take many values together"));
                report.suggest(s, ["sum", "max", "count_over", "share_over"]);
                return None;
            }
        };
        return Some(At::Across(kind_found, take));
    }
    if let Some((_, place)) = take {
        report.add(Code::BadValue, place, "`take` goes with `across`");
    }
    match at {
        None | Some(("own", _)) => Some(At::Own),
        Some(("host", _)) => Some(At::Host),
        Some(("parent", _)) => Some(At::Parent),
        Some((s, place)) => {
            report.add(Code::BadValue, place, format!("`at` is `{s}`"));
            report.suggest(s, ["own", "host", "parent"]);
            None
        }
    }
}

fn read_filter(w: &mut Taker<'_>, report: &mut Report<'_>) -> Vec<(Arc<str>, Vec<Arc<str>>)> {
    let Some(lit) = w.get("where") else { return Vec::new() };
    let Value::Map(entries) = &lit.value else {
        report.add(Code::BadValue, lit.at, "`where` must be a map from text fields to values");
        return Vec::new();
    };
    entries
        .iter()
        .map(|(label, _, v)| {
            let any = texts(v, "a value of `where`", report).into_iter().map(|(s, _)| s.into()).collect();
            (label.as_str().into(), any)
        })
        .collect()
}

fn read_fire(t: &mut Taker<'_>, report: &mut Report<'_>) -> (u64, Option<(u32, u32)>) {
    let Some(lit) = t.get("fire") else { return (0, None) };
    let Some(mut f) = Taker::new(lit, "`fire`", report) else { return (0, None) };
    let hold = f.duration("hold", report).map_or(0, |(ns, _)| ns);
    let of = f.number("of", 1.0..=64.0, report);
    let at_least = f.number("at_least", 1.0..=64.0, report);
    f.finish(report);
    let quorum = match (at_least, of) {
        (Some(n), Some(m)) if n <= m => Some((n as u32, m as u32)),
        (None, None) => None,
        _ => {
            report.add(
                Code::BadValue,
                lit.at,
                "a quorum is `at_least: N, of: M` ticks with N no more than M",
            );
            None
        }
    };
    (hold, quorum)
}

fn read_explains(t: &mut Taker<'_>, report: &mut Report<'_>) -> Vec<Explains> {
    let mut out = Vec::new();
    let Some(lit) = t.get("explains") else { return out };
    let Value::List(items) = &lit.value else {
        report.add(Code::BadValue, lit.at, "`explains` must be an array of maps");
        return out;
    };
    for item in items {
        let Some(mut e) = Taker::new(item, "an edge of `explains`", report) else { continue };
        let rule = e.need_text("rule", report).map(|(s, _)| s.to_string());
        let when = match e.text("when", report) {
            None | Some(("host", _)) => Some(When::Host),
            Some(("same_cpu", _)) => Some(When::SameCpu),
            Some(("same_cgroup", _)) => Some(When::SameCgroup),
            Some(("same_task", _)) => Some(When::SameTask),
            Some((s, at)) => {
                report.add(Code::BadValue, at, format!("`when` is `{s}`"));
                report.suggest(s, ["host", "same_cpu", "same_cgroup", "same_task"]);
                None
            }
        };
        let causes = e.texts("causes", report).into_iter().map(|(s, _)| s).collect();
        e.finish(report);
        if let (Some(rule), Some(when)) = (rule, when) {
            out.push(Explains { rule, when, causes });
        }
    }
    out
}

/// `streams: #{ NAME: #{ FIELD: #{ kind, unit, help } } }`: streams of the user's own collectors.
fn read_streams(t: &mut Taker<'_>, report: &mut Report<'_>) -> Vec<Arc<Stream>> {
    let mut out = Vec::new();
    let Some(lit) = t.get("streams") else { return out };
    let Value::Map(entries) = &lit.value else {
        report.add(Code::BadValue, lit.at, "`streams` must be a map");
        return out;
    };
    for (name, at, lit) in entries {
        let Some(mut s) = Taker::new(lit, format!("stream `{name}`"), report) else { continue };
        let mode = match s.text("mode", report) {
            None | Some(("sampled", _)) => Mode::Sampled,
            Some(("occurrences", _)) => Mode::Occurrences,
            Some((m, at)) => {
                report.add(Code::BadValue, at, format!("`mode` is `{m}`"));
                report.suggest(m, ["sampled", "occurrences"]);
                Mode::Sampled
            }
        };
        let subjects: Vec<SubjectKind> =
            s.texts("subjects", report).iter().filter_map(|(k, _)| SubjectKind::from_name(k)).collect();
        let Some(fields) = s.need("fields", report) else { continue };
        s.finish(report);
        let Value::Map(fields) = &fields.value else {
            report.add(Code::BadValue, *at, format!("`fields` of stream `{name}` must be a map"));
            continue;
        };
        let fields: Vec<Field> = fields.iter().filter_map(|(n, _, f)| read_field(n, f, report)).collect();
        out.push(Arc::new(Stream {
            name: name.clone().into(),
            help: "declared by a rule".into(),
            mode,
            subjects: if subjects.is_empty() { vec![SubjectKind::Host] } else { subjects }.into(),
            fields: fields.into(),
        }));
    }
    out
}

fn read_field(name: &str, lit: &Lit, report: &mut Report<'_>) -> Option<Field> {
    let mut f = Taker::new(lit, format!("field `{name}`"), report)?;
    let kind = f.need_text("kind", report);
    let unit = f.text("unit", report);
    let help = f.text("help", report).map_or("", |(s, _)| s).to_string();
    f.finish(report);
    let (kind_text, kind_at) = kind?;
    let kind = match kind_text {
        "counter" => FieldKind::Counter,
        "gauge" => FieldKind::Gauge,
        "duration" => FieldKind::Duration,
        "text" => FieldKind::Text,
        s => {
            report.add(Code::BadValue, kind_at, format!("`{s}` is no kind of field"));
            report.suggest(s, ["counter", "gauge", "duration", "text"]);
            return None;
        }
    };
    let unit = match unit {
        _ if kind == FieldKind::Duration => Unit::Time,
        None => Unit::Count,
        Some(("count", _)) => Unit::Count,
        Some(("bytes", _)) => Unit::Bytes,
        Some(("pages", _)) => Unit::Pages,
        Some(("time" | "ms", _)) => Unit::Time,
        Some(("ratio", _)) => Unit::Ratio,
        Some(("none", _)) => Unit::None,
        Some((s, at)) => {
            report.add(Code::BadValue, at, format!("`{s}` is no unit"));
            report.suggest(s, ["count", "bytes", "pages", "time", "ratio", "none"]);
            return None;
        }
    };
    Some(Field { name: name.to_string().into(), kind, unit, help: help.into() })
}
