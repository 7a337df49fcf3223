//! A naive model of the windows that keeps every sample and computes each answer anew, and a property test that holds
//! the columnar windows to it for every calculation.

mod gated;

use std::sync::Arc;

use proptest::prelude::*;
use whystall_event::{Batch, Field, FieldKind, Mode, SEC, Stamp, Stream, Subject, SubjectKind, Unit};

use super::pace::Pace;
use super::{After, Calc, Limits, WindowId, WindowSpec, Windows, allowed};
use gated::Gated;

/// Windows of one calculation each.
type Readers = Vec<(WindowId, Calc)>;

const SUBJECTS: usize = 4;
const INTERVAL: u64 = SEC;

const SAMPLED: &[Field] = &[
    Field::counter("time", Unit::Time, ""),
    Field::gauge("level", Unit::Count, ""),
    Field::counter("amount", Unit::Count, ""),
];
const OCCURRENCES: &[Field] = &[
    Field::duration("length", ""),
    Field::gauge("size", Unit::Count, ""),
    Field::counter("amount", Unit::Count, ""),
    Field::text("label", ""),
];

/// A value with what the interval before it brought.
#[derive(Clone, Copy)]
struct Sample {
    value: f64,
    growth: Option<f64>,
    covered: f64,
}

/// A subject's state between readings.
#[derive(Clone, Default)]
struct Life {
    /// By field: the newest reading.
    last: [Option<(u64, u64)>; 4],
    seen: u64,
    gone_at: Option<u64>,
    /// The tick (in order) with which it began.
    from: usize,
}

/// One tick with everything that it brought, by subject and field.
#[derive(Default, Clone)]
struct Tick {
    number: u64,
    elapsed: f64,
    after_break: bool,
    stream_covered: f64,
    samples: [[Vec<Sample>; 4]; SUBJECTS],
}

#[derive(Clone)]
struct Model {
    stream: Arc<Stream>,
    over: u64,
    pace: Pace,
    ticks: Vec<Tick>,
    open: Tick,
    /// The tick (in order) after the last break.
    from: usize,
    since: u64,
    covered_to: Option<u64>,
    lives: [Option<Life>; SUBJECTS],
}

fn number(row: &whystall_event::RowRef<'_>, f: usize) -> f64 {
    row.number(f).unwrap_or(1.0)
}

impl Model {
    fn new(stream: Arc<Stream>, over: u64) -> Model {
        Model {
            stream,
            over,
            pace: Pace::new(INTERVAL),
            ticks: Vec::new(),
            open: Tick::default(),
            from: 0,
            since: 0,
            covered_to: None,
            lives: Default::default(),
        }
    }

    fn ingest(&mut self, batch: &Batch) {
        let at = batch.at.boot_ns;
        let occurrences = self.stream.mode == Mode::Occurrences;
        let from = self.covered_to.unwrap_or(at.saturating_sub(INTERVAL)).max(self.since);
        if batch.covered_to {
            self.open.stream_covered += at.saturating_sub(from) as f64;
        }
        self.covered_to = Some(at);
        for row in batch.rows() {
            let Subject::Cpu(n) = row.subject else { continue };
            let n = *n as usize;
            if row.boot_ns < self.since {
                continue;
            }
            let gone = self.lives[n].as_ref().and_then(|l| l.gone_at);
            if gone.is_some_and(|g| row.boot_ns <= g) {
                continue;
            }
            if gone.is_some() {
                self.lives[n] = None;
                self.open.samples[n] = Default::default();
            }
            let from = self.ticks.len();
            let life = self.lives[n].get_or_insert_with(|| Life { from, ..Life::default() });
            life.seen = life.seen.max(row.boot_ns);
            for f in (0..self.stream.fields.len()).filter(|f| row.has(*f)) {
                let sample = if occurrences {
                    if at - row.boot_ns > self.over {
                        continue;
                    }
                    Sample { value: number(&row, f), growth: None, covered: 0.0 }
                } else {
                    let limit = self.over.max(3 * INTERVAL);
                    let last = life.last[f];
                    if last.is_some_and(|l| row.boot_ns <= l.0) {
                        continue;
                    }
                    life.last[f] = Some((row.boot_ns, row.values[f]));
                    let near = last.filter(|l| row.boot_ns - l.0 <= limit);
                    let gauge = self.stream.fields[f].kind == FieldKind::Gauge;
                    let growth = near.and_then(|l| match gauge {
                        true => Some(f64::from_bits(row.values[f]) - f64::from_bits(l.1)),
                        false => row.values[f].checked_sub(l.1).map(|d| d as f64),
                    });
                    let dt = near.map_or(0, |l| row.boot_ns - l.0);
                    let covered = match (growth, gauge) {
                        (Some(_), _) => dt as f64,
                        (None, true) => INTERVAL as f64,
                        (None, false) => 0.0,
                    };
                    Sample { value: number(&row, f), growth, covered }
                };
                self.open.samples[n][f].push(sample);
            }
        }
        for subject in &batch.gone {
            let Subject::Cpu(n) = subject else { continue };
            if let Some(life) = self.lives[*n as usize].as_mut().filter(|l| l.gone_at.is_none()) {
                life.gone_at = Some(at.max(life.seen));
            }
        }
    }

    fn tick(&mut self, now: Stamp) {
        let (number, elapsed) = self.pace.tick(now.boot_ns);
        let mut tick = std::mem::take(&mut self.open);
        tick.number = number;
        tick.elapsed = elapsed as f64;
        tick.stream_covered = tick.stream_covered.min(self.over as f64);
        self.ticks.push(tick);
    }

    fn break_all(&mut self, now: Stamp) {
        self.since = now.boot_ns;
        self.pace.restart();
        self.open = Tick { after_break: true, ..Tick::default() };
        self.from = self.ticks.len();
        self.lives.iter_mut().flatten().for_each(|l| l.last = Default::default());
    }

    /// The value, deviation and covered part of a window; NaN is unknown.
    fn answer(&self, calc: Calc, n: usize, f: usize, coverage: f64) -> (f64, f64, f64) {
        let unknown = (f64::NAN, f64::NAN, 0.0);
        let Some(life) = self.lives[n].as_ref().filter(|l| l.gone_at.is_none()) else {
            return unknown;
        };
        if calc.is_weighted() {
            return self.weighted(life, n, f, coverage);
        }
        let occurrences = self.stream.mode == Mode::Occurrences;
        let counter = !occurrences && self.stream.fields[f].kind == FieldKind::Counter;
        let span = self.over.div_ceil(INTERVAL).max(1);
        let per_pane = span.div_ceil(60);
        let panes = if per_pane == 1 { span } else { span.div_ceil(per_pane) + 1 };
        let newest = self.ticks.last().map_or(0, |t| t.number) / per_pane;
        let inside = |t: &&Tick| t.number / per_pane + panes > newest;
        let ticks: Vec<&Tick> = self.ticks[self.from..].iter().filter(inside).collect();
        let own: Vec<&Tick> = self.ticks[self.from.max(life.from)..].iter().filter(inside).collect();
        let samples: Vec<Sample> = own.iter().flat_map(|t| t.samples[n][f].iter().copied()).collect();
        let covered: f64 = match occurrences {
            true => ticks.iter().map(|t| t.stream_covered).sum(),
            false => samples.iter().map(|s| s.covered).sum(),
        };
        let part = (covered / self.over as f64).min(1.0);
        if covered <= 0.0 || part < coverage * (1.0 - 1e-6) {
            return (f64::NAN, f64::NAN, part);
        }
        let values: Vec<f64> = samples.iter().map(|s| s.value).collect();
        let sum: f64 = values.iter().sum();
        let count = values.len() as f64;
        let growth: f64 = samples.iter().filter_map(|s| s.growth).sum();
        let amount = if counter { growth } else { sum };
        let value = match calc {
            Calc::Last => values.last().copied().unwrap_or(f64::NAN),
            Calc::Mean => sum / count,
            Calc::Min => values.iter().copied().reduce(f64::min).unwrap_or(f64::NAN),
            Calc::Max => values.iter().copied().reduce(f64::max).unwrap_or(0.0),
            Calc::Sum => sum,
            Calc::Count => count,
            Calc::Rate => (if counter { growth } else { count }) / covered * 1e9,
            Calc::Share => amount / covered,
            Calc::Delta => growth,
            Calc::P50 | Calc::P90 | Calc::P99 => quantile(values, calc.quantile().unwrap_or(0.0)),
            Calc::Ewma | Calc::Baseline => unreachable!(),
        };
        (value, f64::NAN, part)
    }

    /// Weights written out instead of carried along.
    fn weighted(&self, life: &Life, n: usize, f: usize, coverage: f64) -> (f64, f64, f64) {
        let over = self.over as f64;
        let occurrences = self.stream.mode == Mode::Occurrences;
        let counter = !occurrences && self.stream.fields[f].kind == FieldKind::Counter;
        let mut total = 0.0f64;
        let mut points: Vec<(f64, f64)> = Vec::new();
        for (i, t) in self.ticks.iter().enumerate().filter(|(_, t)| !t.after_break) {
            let own = i >= life.from;
            let samples = &t.samples[n][f];
            let seen: f64 = samples.iter().map(|s| s.covered).sum();
            let covered = if occurrences { t.stream_covered } else { seen };
            if occurrences || own {
                total = (total * (-(t.elapsed - covered).max(0.0) / over).exp() + covered).min(over);
            }
            let count = samples.len() as f64;
            if !own || count == 0.0 || (counter && seen == 0.0) {
                continue;
            }
            let value = match counter {
                true => samples.iter().filter_map(|s| s.growth).sum::<f64>() / seen * 1e9,
                false => samples.iter().map(|s| s.value).sum::<f64>() / count,
            };
            points.push((value, if occurrences { t.elapsed.max(INTERVAL as f64) } else { seen }));
        }
        let part = total / over;
        if points.is_empty() || total <= 0.0 || part < coverage * (1.0 - 1e-6) {
            return (f64::NAN, f64::NAN, part);
        }
        let mut weights: Vec<f64> = Vec::new();
        let mut so_far = 0.0;
        for (_, dt) in &points {
            so_far = (so_far + dt).min(over * 64.0);
            let alpha = (1.0 - (-dt / over).exp()).max(dt / so_far).min(1.0);
            weights.iter_mut().for_each(|w| *w *= 1.0 - alpha);
            weights.push(alpha);
        }
        let mean: f64 = points.iter().zip(&weights).map(|(p, w)| p.0 * w).sum();
        let variance: f64 = points.iter().zip(&weights).map(|(p, w)| (p.0 - mean).powi(2) * w).sum();
        (mean, variance.max(0.0).sqrt(), part)
    }
}

fn quantile(mut values: Vec<f64>, q: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let rank = ((q * values.len() as f64).ceil() as usize).max(1);
    values.get(rank - 1).copied().unwrap_or(f64::NAN)
}

/// One tick of a made-up history.
#[derive(Debug, Clone)]
struct Act {
    /// Time since the tick before, in thousandths of an interval.
    elapsed: u64,
    /// Passes of the collector: when (thousandths of the time since the tick before), and rows.
    passes: Vec<(u64, bool, Vec<Reading>)>,
    gone: Option<usize>,
    breaks: bool,
}

#[derive(Debug, Clone)]
struct Reading {
    subject: usize,
    present: u8,
    /// Growth, or the new value after a reset.
    step: u32,
    reset: bool,
    age_ms: u64,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let reading =
        (0..SUBJECTS, prop_oneof![4 => Just(15u8), 1 => 0..16u8], 0..5000u32, 0..100u32, 0..6000u64)
            .prop_map(|(subject, present, step, reset, age)| Reading {
                subject,
                present,
                step,
                reset: reset < 4,
                age_ms: if age > 5000 { (age - 5000) * 100 } else { age / 10 },
            });
    let pass = (0..=1000u64, 0..100u32, prop::collection::vec(reading, 0..6))
        .prop_map(|(at, lost, rows)| (at, lost >= 5, rows));
    let elapsed = prop_oneof![
        12 => Just(1000u64),
        3 => 800..1200u64,
        1 => 200..800u64,
        1 => 1200..9000u64,
    ];
    let act = (elapsed, prop::collection::vec(pass, 0..3), 0..40usize, 0..40u32).prop_map(
        |(elapsed, mut passes, gone, breaks)| {
            passes.sort_by_key(|p| p.0);
            Act { elapsed, passes, gone: (gone < SUBJECTS).then_some(gone), breaks: breaks == 0 }
        },
    );
    prop::collection::vec(act, 1..90)
}

fn stamp(boot_ns: u64) -> Stamp {
    Stamp { boot_ns, wall_ns: boot_ns }
}

/// Plays the acts to windows and model, and compares after each tick.
fn play(mode: Mode, over: u64, coverage: f64, acts: &[Act]) -> Result<(), TestCaseError> {
    let stream = Arc::new(match mode {
        Mode::Sampled => Stream::sampled("s", "", &[SubjectKind::Cpu], SAMPLED),
        Mode::Occurrences => Stream::occurrences("s", "", &[SubjectKind::Cpu], OCCURRENCES),
    });
    let mut windows = Windows::new(INTERVAL, Limits::default());
    let mut ids: Vec<(WindowId, Calc, usize)> = Vec::new();
    for (f, field) in stream.fields.iter().enumerate() {
        for calc in Calc::ALL.into_iter().filter(|c| allowed(*c, field.kind, field.unit, mode).is_ok()) {
            let mut spec = WindowSpec::new("s", &field.name, SubjectKind::Cpu, calc, over);
            spec.coverage = coverage;
            ids.push((windows.declare(&spec), calc, f));
        }
    }
    let mut model = Model::new(stream.clone(), over);
    let mut counters = [[1_000_000u64; 4]; SUBJECTS];
    let mut now = 1000 * SEC;
    // Windows that count only after another: each amount of the first field after something of the third.
    let others: Vec<WindowId> = ids
        .iter()
        .filter(|(_, c, f)| *f == 2 && matches!(c, Calc::Rate | Calc::Count))
        .map(|(id, ..)| *id)
        .collect();
    let amounts: Vec<Calc> =
        ids.iter().filter(|(_, c, f)| *f == 0 && c.is_amount()).map(|(_, c, _)| *c).collect();
    let mut gates: Vec<(WindowId, Gated, Readers)> = Vec::new();
    for other in others {
        let mut declare = |calc: &Calc| {
            let mut spec = WindowSpec::new("s", &stream.fields[0].name, SubjectKind::Cpu, *calc, over);
            spec.coverage = coverage;
            spec.after = Some(After { window: other, within_ns: gated::WITHIN, of_host: false });
            (windows.declare(&spec), *calc)
        };
        let readers = amounts.iter().map(&mut declare).collect();
        gates.push((other, Gated::default(), readers));
    }
    for act in acts {
        let before = now;
        now += act.elapsed * INTERVAL / 1000;
        if act.breaks {
            windows.break_all(stamp(before + 1));
            model.break_all(stamp(before + 1));
        }
        for (i, (at, complete, rows)) in act.passes.iter().enumerate() {
            let at = before + (now - before) * at / 1000;
            let mut batch = Batch::new(stream.clone(), stamp(at));
            batch.covered_to = *complete;
            for r in rows {
                let own = if mode == Mode::Sampled { at } else { at.saturating_sub(r.age_ms * 1_000_000) };
                let mut row = batch.row_at(Subject::Cpu(r.subject as u32), own);
                for f in (0..stream.fields.len()).filter(|f| r.present >> f & 1 == 1) {
                    let count = &mut counters[r.subject][f];
                    match (stream.fields[f].kind, mode) {
                        (FieldKind::Counter, Mode::Sampled) => {
                            *count = if r.reset { u64::from(r.step) } else { *count + u64::from(r.step) };
                            row.int(f, *count);
                        }
                        (FieldKind::Gauge, _) => {
                            row.gauge(f, f64::from(r.step) / 7.0 - if r.reset { 500.0 } else { 0.0 });
                        }
                        (FieldKind::Text, _) => {
                            row.text(f, "x");
                        }
                        _ => {
                            row.int(f, u64::from(r.step) * 1000);
                        }
                    }
                }
            }
            if let Some(gone) = act.gone.filter(|_| i == 0) {
                batch.gone.push(Subject::Cpu(gone as u32));
            }
            windows.ingest(&batch);
            model.ingest(&batch);
        }
        windows.tick(stamp(now));
        model.tick(stamp(now));
        for (id, calc, f) in &ids {
            for n in 0..SUBJECTS {
                compare(&windows, &model, *id, *calc, n, *f, coverage)?;
            }
        }
        for (other, gated, readers) in &mut gates {
            gated.tick(&windows, &model, *other, now);
            for n in 0..SUBJECTS {
                for (id, calc) in readers.iter() {
                    gated.compare(&windows, *id, *calc, n, coverage)?;
                }
            }
        }
    }
    Ok(())
}

fn compare(
    windows: &Windows,
    model: &Model,
    id: WindowId,
    calc: Calc,
    n: usize,
    f: usize,
    coverage: f64,
) -> Result<(), TestCaseError> {
    let row = windows.table(SubjectKind::Cpu).row(&Subject::Cpu(n as u32));
    let at = |column: &[f64]| row.and_then(|r| column.get(r as usize)).copied().unwrap_or(f64::NAN);
    let (value, deviation, part) = model.answer(calc, n, f, coverage);
    let got = at(windows.column(id));
    let what = format!("{calc} of {} for cpu:{n}: {got}, expected {value}", model.stream.fields[f].name);
    if row.is_some_and(|_| model.lives[n].as_ref().is_some_and(|l| l.gone_at.is_none())) {
        let covered = row.map_or(0.0, |r| windows.covered(id, r));
        prop_assert!((covered - part).abs() < 1e-5, "covered {covered}, expected {part}: {what}");
    }
    if (part - coverage).abs() < 1e-5 && part != coverage {
        return Ok(()); // too near to the line for single precision
    }
    let near = |a: f64, b: f64, tolerance: f64| {
        a.is_nan() == b.is_nan() && (a.is_nan() || (a - b).abs() <= tolerance * (1.0 + a.abs().max(b.abs())))
    };
    let tolerance = if calc.quantile().is_some() { 1.0 / 16.0 } else { 1e-6 };
    prop_assert!(near(got, value, tolerance), "{what}");
    if calc == Calc::Baseline {
        let got = at(windows.deviation(id));
        prop_assert!(near(got, deviation, 1e-5), "deviation {got}, expected {deviation}: {what}");
    }
    Ok(())
}

fn overs() -> impl Strategy<Value = u64> {
    prop_oneof![Just(1u64), Just(3), Just(10), Just(60), Just(150)].prop_map(|s| s * SEC)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn sampled_streams_agree(over in overs(), coverage in prop_oneof![Just(0.5), Just(0.0), Just(0.9)], acts in acts()) {
        play(Mode::Sampled, over, coverage, &acts)?;
    }

    #[test]
    fn occurrences_agree(over in overs(), coverage in prop_oneof![Just(0.5), Just(0.0), Just(0.9)], acts in acts()) {
        play(Mode::Occurrences, over, coverage, &acts)?;
    }
}
