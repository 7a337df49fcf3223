//! Resolves what a test recorded into batches at ticks; the series notation is promtool's.

use std::sync::Arc;

use whystall_event::{
    Batch, FieldKind, Mode, SEC, Stamp, Stream, Subject, SubjectKind, parse_duration, split_field,
};

use super::super::diag::Place;
use super::super::manifest::ParamValue;
use super::record::{Expectation, Occurrence, Recorded, Series};

/// Ticks a test may run.
const MAX_TICKS: usize = 100_000;
/// Values of all its series and events; three series of a day.
const MAX_VALUES: usize = 300_000;

/// One input, resolved: at tick `n`, this batch.
pub(super) struct Plan {
    pub(super) interval: u64,
    pub(super) params: Vec<(String, ParamValue)>,
    pub(super) batches: Vec<(usize, Input)>,
    /// By the tick that they look at: one between two ticks looks at the later.
    pub(super) expectations: Vec<(usize, Expectation)>,
    pub(super) ticks: usize,
    /// Streams of occurrences whose events the test tells one by one: they are watched all the time.
    pub(super) watched: Vec<Arc<Stream>>,
    /// Streams from which nothing comes between two ticks.
    pub(super) gaps: Vec<(usize, usize, Arc<Stream>)>,
    /// At a tick: how long the machine slept before it.
    pub(super) sleeps: Vec<(usize, u64)>,
    /// Other rules that run too.
    pub(super) also: Vec<(String, Place)>,
}

#[derive(Clone)]
pub(super) struct Input {
    pub(super) stream: Arc<Stream>,
    pub(super) subject: Subject,
    pub(super) texts: Vec<(usize, String)>,
    /// Field and value in the shown unit; empty for "watched, and nothing happened".
    pub(super) numbers: Vec<(usize, f64)>,
    pub(super) row: bool,
}

pub(super) fn plan(recorded: &Recorded, streams: &[Arc<Stream>]) -> Result<Plan, Vec<(Place, String)>> {
    let mut problems = Vec::new();
    let interval = match &recorded.interval {
        None => SEC,
        Some((text, place)) => match parse_duration(text) {
            Ok(ns) if ns > 0 => ns,
            Ok(_) => {
                problems.push((*place, "the interval must be longer than nothing".into()));
                SEC
            }
            Err(e) => {
                problems.push((*place, e));
                SEC
            }
        },
    };
    let mut batches = Vec::new();
    for s in &recorded.series {
        match series(s, streams) {
            Ok(list) if batches.len() + list.len() > MAX_VALUES => {
                problems
                    .push((s.place, format!("the series of a test may have {MAX_VALUES} values together")));
                break;
            }
            Ok(list) => batches.extend(list),
            Err(e) => problems.push((s.place, e)),
        }
    }
    let mut watched = Vec::new();
    for o in &recorded.events {
        match occurrence(o, streams, interval) {
            Ok(_) if batches.len() + o.times > MAX_VALUES => {
                problems.push((o.place, format!("the events of a test may be {MAX_VALUES} together")));
                break;
            }
            Ok(b) => {
                if !watched.iter().any(|s: &Arc<Stream>| s.name == b.1.stream.name)
                    && b.1.stream.mode == Mode::Occurrences
                {
                    watched.push(b.1.stream.clone());
                }
                batches.extend(std::iter::repeat_n(b, o.times));
            }
            Err(e) => problems.push((o.place, e)),
        }
    }
    // A stream whose events stand in a series is watched as that says.
    let in_series = |s: &Arc<Stream>| {
        let name = |spec: &str| spec.split('{').next().unwrap_or("").trim().to_string();
        recorded
            .series
            .iter()
            .any(|r| split_field(&name(&r.spec)).is_some_and(|(stream, _)| stream == s.name))
    };
    watched.retain(|s| !in_series(s));
    let (gaps, sleeps) = pauses(recorded, streams, interval, &mut problems);
    let mut expectations = Vec::new();
    for e in &recorded.expectations {
        match parse_duration(&e.at) {
            Ok(at) => expectations.push((at.div_ceil(interval) as usize, e.clone())),
            Err(why) => problems.push((e.place, why)),
        }
        if let Some(Err(why)) = e.on.as_deref().map(str::parse::<Subject>) {
            problems.push((e.place, why.to_string()));
        }
    }
    let end = expectations.iter().map(|(tick, _)| *tick).max().unwrap_or(0);
    if end > MAX_TICKS {
        problems.push((Place::default(), format!("a test may run for {MAX_TICKS} ticks")));
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    batches.sort_by_key(|(tick, _)| *tick);
    expectations.sort_by_key(|(tick, _)| *tick);
    batches.retain(|(tick, input)| !is_gap(&gaps, &input.stream, *tick));
    let (params, also) = (recorded.params.clone(), recorded.also.clone());
    Ok(Plan { interval, params, batches, expectations, ticks: end + 1, watched, gaps, sleeps, also })
}

/// Whether nothing comes from the stream in this tick.
pub(super) fn is_gap(gaps: &[(usize, usize, Arc<Stream>)], stream: &Stream, tick: usize) -> bool {
    gaps.iter().any(|(from, to, s)| s.name == stream.name && (*from..*to).contains(&tick))
}

type Gaps = Vec<(usize, usize, Arc<Stream>)>;

fn pauses(
    recorded: &Recorded,
    streams: &[Arc<Stream>],
    interval: u64,
    problems: &mut Vec<(Place, String)>,
) -> (Gaps, Vec<(usize, u64)>) {
    let (mut gaps, mut sleeps) = (Vec::new(), Vec::new());
    for p in &recorded.pauses {
        let mut time = |s: &str| parse_duration(s).map_err(|e| problems.push((p.place, e))).ok();
        let (Some(from), Some(to)) = (time(&p.from), time(&p.to)) else { continue };
        let tick = |ns: u64| ns.div_ceil(interval) as usize;
        match &p.stream {
            None => sleeps.push((tick(from), to)),
            Some(name) => match streams.iter().find(|s| s.name == name.as_str()) {
                Some(s) => gaps.push((tick(from), tick(to), s.clone())),
                None => problems.push((p.place, format!("there is no stream `{name}`"))),
            },
        }
    }
    (gaps, sleeps)
}

/// `stream.field{label=value, …}`
fn resolve(spec: &str, streams: &[Arc<Stream>]) -> Result<(Input, Option<usize>), String> {
    let (name, labels) = match spec.split_once('{') {
        None => (spec.trim(), ""),
        Some((n, rest)) => (
            n.trim(),
            rest.trim_end().strip_suffix('}').ok_or_else(|| format!("`{spec}` has no closing brace"))?,
        ),
    };
    let exact = |name: &str| streams.iter().find(|s| s.name == name).cloned();
    let (stream, field) = match split_field(name).and_then(|(s, f)| Some((exact(s)?, f))) {
        Some((stream, f)) if stream.field_index(f).is_some() => {
            let i = stream.field_index(f);
            (stream, i)
        }
        _ => match exact(name) {
            Some(stream) => (stream, None),
            None => {
                let all: Vec<String> = streams
                    .iter()
                    .flat_map(|s| s.fields.iter().map(move |f| format!("{}.{}", s.name, f.name)))
                    .collect();
                let near = whystall_event::text::did_you_mean(name, all.iter().map(String::as_str));
                let near = near.map(|n| format!("; did you mean `{n}`?")).unwrap_or_default();
                return Err(format!("no stream has a field `{name}`{near}"));
            }
        },
    };
    let mut subject = None;
    let mut texts = Vec::new();
    for part in labels.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let (k, v) = part.split_once('=').ok_or_else(|| format!("`{part}` is no label: write name=value"))?;
        let (k, v) = (k.trim(), v.trim().trim_matches('"'));
        let kind = SubjectKind::from_name(k).filter(|kind| stream.subjects.contains(kind));
        let text = stream.fields.iter().position(|f| f.name == k && f.kind == FieldKind::Text);
        if kind.is_none() && text.is_none() {
            return Err(format!("`{}` has no text field `{k}`, and it is not about a {k}", stream.name));
        }
        // The first label that can be the subject is it; further ones are texts, such as a waiting task's cgroup.
        if let (Some(kind), None) = (kind, &subject) {
            subject = Some(Subject::from_parts(kind, v).map_err(|e| e.to_string())?);
        }
        texts.extend(text.map(|i| (i, v.to_string())));
    }
    let subject = match subject {
        Some(s) => s,
        None if stream.subjects.contains(&SubjectKind::Host) => Subject::Host,
        None => {
            let kinds: Vec<&str> = stream.subjects.iter().map(|k| k.name()).collect();
            return Err(format!("`{}` is about {}: say which in braces", stream.name, kinds.join(", ")));
        }
    };
    Ok((Input { stream, subject, texts, numbers: Vec::new(), row: true }, field))
}

fn series(s: &Series, streams: &[Arc<Stream>]) -> Result<Vec<(usize, Input)>, String> {
    let (base, field) = resolve(&s.spec, streams)?;
    let field = field.ok_or_else(|| format!("`{}` names a stream, but a series is of one field", s.spec))?;
    let kind = base.stream.fields[field].kind;
    if kind == FieldKind::Text {
        return Err("a series is of numbers; use `t.event` for things with only text".into());
    }
    let values = parse_values(&s.values)?;
    Ok(values
        .into_iter()
        .enumerate()
        .filter_map(|(tick, v)| {
            let v = v?;
            let mut input = base.clone();
            // A duration of nothing is nothing that happened, but it was watched for.
            input.row = !(kind == FieldKind::Duration && v == 0.0);
            input.numbers.push((field, v));
            Some((tick, input))
        })
        .collect())
}

fn occurrence(o: &Occurrence, streams: &[Arc<Stream>], interval: u64) -> Result<(usize, Input), String> {
    let (mut input, _) = resolve(&o.spec, streams)?;
    let at = parse_duration(&o.at)?;
    for (name, v) in &o.numbers {
        match input.stream.field_index(name) {
            Some(i) if input.stream.fields[i].kind != FieldKind::Text => input.numbers.push((i, *v)),
            _ => return Err(format!("`{}` has no number `{name}`", input.stream.name)),
        }
    }
    Ok((at.div_ceil(interval) as usize, input))
}

/// `5`, `1x3`, `0+10x5`, `100-2x4`, `_`, `_x4`, separated by blanks; as promtool reads them.
fn parse_values(text: &str) -> Result<Vec<Option<f64>>, String> {
    let mut out = Vec::new();
    for token in text.split_whitespace() {
        let bad = || format!("`{token}` is no value: write 5, 1x3, 0+10x5, 100-2x4, _ or _x4");
        let (body, times) = match token.rsplit_once('x') {
            Some((b, n)) => (b, Some(n.parse::<usize>().map_err(|_| bad())?)),
            None => (token, None),
        };
        let n = times.unwrap_or(0);
        if out.len().saturating_add(n) > MAX_TICKS {
            return Err(format!("a series may have {MAX_TICKS} values"));
        }
        if body == "_" {
            out.extend(std::iter::repeat_n(None, times.unwrap_or(1)));
            continue;
        }
        // The sign that separates start and step is not the first character's and no exponent's.
        let sep = body
            .char_indices()
            .skip(1)
            .find(|(i, c)| matches!(c, '+' | '-') && !body[..*i].ends_with(['e', 'E']))
            .map(|(i, _)| i);
        let (start, step): (f64, f64) = match sep {
            Some(i) => (body[..i].parse().map_err(|_| bad())?, body[i..].parse().map_err(|_| bad())?),
            None => (body.parse().map_err(|_| bad())?, 0.0),
        };
        if !start.is_finite() || !step.is_finite() || sep.is_some() && times.is_none() {
            return Err(bad());
        }
        out.extend((0..=n).map(|i| Some(start + step * i as f64)));
    }
    Ok(out)
}

impl Input {
    /// A batch that says that the stream was watched.
    pub(super) fn nothing(stream: &Arc<Stream>, at: Stamp) -> Batch {
        Batch::new(stream.clone(), at)
    }

    pub(super) fn batch(&self, at: Stamp) -> Batch {
        let mut b = Batch::new(self.stream.clone(), at);
        if self.row {
            let mut row = b.row(self.subject.clone());
            for (i, s) in &self.texts {
                row.text(*i, s.as_str());
            }
            for (i, v) in &self.numbers {
                row.number(*i, v * self.stream.fields[*i].unit.scale());
            }
        } else {
            debug_assert_eq!(self.stream.mode, Mode::Occurrences);
        }
        b
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn promtool_notation() {
        let v = |s: &str| parse_values(s);
        let some = |l: &[f64]| Ok(l.iter().map(|x| Some(*x)).collect::<Vec<_>>());
        assert_eq!(v("1 2.5 -3"), some(&[1.0, 2.5, -3.0]));
        assert_eq!(v("1x2"), some(&[1.0, 1.0, 1.0]));
        assert_eq!(v("0+10x3"), some(&[0.0, 10.0, 20.0, 30.0]));
        assert_eq!(v("-5-5x2"), some(&[-5.0, -10.0, -15.0]));
        assert_eq!(v("1e-3x1"), some(&[0.001, 0.001]));
        assert_eq!(v("_ 1 _x2"), Ok(vec![None, Some(1.0), None, None]));
        for bad in ["x", "1x", "1+2", "1x-1", "a", "infx2", "1x99999999"] {
            assert!(v(bad).is_err(), "{bad}");
        }
    }
}
