//! The budgets of windows, rules, replay, collection passes and loading of rules: `cargo bench --bench engine`, or
//! `cargo bench --bench engine -- replay` for the parts whose name has the word. Prints one line a figure: the median,
//! the least and the greatest of several runs. All times are the thread's CPU time; nothing is asserted about them.
#![allow(missing_docs, clippy::print_stdout, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs::File;
use std::hint::black_box;
use std::io::Write;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use common::{Cpu, Figures, Rng, at, rule};
use whystall::daemon::{rule_files, sources};
use whystall::recording::json::{JsonReader, JsonWriter};
use whystall::recording::{Header, Item, Reader, Writer};
use whystall_collectors::{ALL, Built, Pass, Polled, Roots, Settings};
use whystall_engine::script::{Overrides, Rule, Sandbox, compile};
use whystall_engine::window::{Calc, Limits, WindowSpec, Windows};
use whystall_engine::{Engine, EngineConfig, HostFacts, Schema, Source, Tick};
use whystall_event::{Batch, Field, SEC, Stamp, Stream, Subject, SubjectKind, Unit};

const ROUNDS: usize = 5;

fn main() {
    // `cargo test --all-targets` runs benches too, without this argument: then there is nothing to show.
    let args: Vec<String> = std::env::args().skip(1).collect();
    if !args.iter().any(|a| a == "--bench") {
        return;
    }
    let wanted = |part: &str| {
        let mut words = args.iter().filter(|a| !a.starts_with('-')).peekable();
        words.peek().is_none() || words.any(|w| part.contains(w.as_str()))
    };
    for (name, part) in [
        ("windows", windows as fn()),
        ("rules", rules),
        ("custom", many),
        ("replay", replay),
        ("json", json),
        ("passes", passes),
        ("load", load),
    ] {
        if wanted(name) {
            part();
        }
    }
}

fn show(what: &str, f: Figures, unit: &str, target: &str) {
    println!("{what:<58} {:>8.3} {unit:<4} ({:.3}–{:.3})  {target}", f.median, f.min, f.max);
}

/// `count` things in `seconds` as millions a second.
fn rate(what: &str, count: f64, seconds: Figures, target: &str) {
    let f = seconds.map(|s| count / s / 1e6);
    println!(
        "{what:<58} {:>8.1} M/s  ({:.1}–{:.1})  {:.1} ns each  {target}",
        f.median,
        f.min,
        f.max,
        seconds.median / count * 1e9
    );
}

/// The stream `bench` of `fields` counters about cgroups.
fn stream(fields: usize) -> Arc<Stream> {
    let named =
        |i: usize| Field { name: format!("f{i}").into(), ..Field::counter("", Unit::Count, "a counter") };
    let mut stream = Stream::sampled("bench", "counters", &[SubjectKind::Cgroup], &[]);
    stream.fields = (0..fields).map(named).collect();
    Arc::new(stream)
}

fn subjects(n: usize) -> Vec<Subject> {
    let mut rng = Rng(7);
    (0..n).map(|_| Subject::cgroup(rng.cgroup())).collect()
}

/// A pass over all subjects that moves on in place, as a collector's or a reader's does.
struct Counters {
    batch: Batch,
    steps: Vec<u64>,
    tick: u64,
}

impl Counters {
    /// `step` gives how much a counter grows each second, by subject and field.
    fn new(stream: &Arc<Stream>, subjects: &[Subject], step: impl Fn(usize, usize) -> u64) -> Counters {
        let fields = stream.fields.len();
        let mut batch = Batch::new(stream.clone(), at(0));
        for s in subjects {
            let mut row = batch.row(s.clone());
            (0..fields).for_each(|f| {
                row.int(f, 1);
            });
        }
        let steps = (0..subjects.len()).flat_map(|i| (0..fields).map(move |f| (i, f)));
        Counters { batch, steps: steps.map(|(i, f)| step(i, f)).collect(), tick: 0 }
    }

    fn next(&mut self) -> (&Batch, Stamp) {
        self.tick += 1;
        self.batch.restamp(at(self.tick));
        for (v, step) in self.batch.values_mut().iter_mut().zip(&self.steps) {
            *v += step;
        }
        (&self.batch, at(self.tick))
    }
}

const SUBJECTS: usize = 10_000;
const FIELDS: usize = 10;
const TICKS: u64 = 120;

/// Windows alone: ingest and tick.
fn windows() {
    let stream = stream(FIELDS);
    let names = subjects(SUBJECTS);
    let seconds = Figures::measure(ROUNDS, || {
        let mut windows = Windows::new(SEC, Limits::default());
        for f in stream.fields.iter() {
            windows.declare(&WindowSpec::new("bench", &f.name, SubjectKind::Cgroup, Calc::Rate, 60 * SEC));
        }
        let mut counters = Counters::new(&stream, &names, |i, f| (i + f) as u64 % 10_000);
        let mut spent = 0.0;
        for tick in 0..TICKS + 60 {
            let (batch, now) = counters.next();
            let begun = Cpu::now();
            windows.ingest(batch);
            windows.tick(now);
            // The first lap makes the memory.
            if tick >= 60 {
                spent += begun.elapsed();
            }
        }
        spent / TICKS as f64
    });
    rate(
        "windows: 10k subjects x 10 counters, rate over 60 s",
        (SUBJECTS * FIELDS) as f64,
        seconds,
        "target >= 20",
    );
}

fn schema(stream: &Arc<Stream>) -> Schema {
    Schema::new(vec![Source {
        name: "bench".into(),
        streams: vec![stream.clone()],
        interval_ns: SEC,
        missing: None,
    }])
}

fn engine(sandbox: Rc<Sandbox>, rules: Vec<Rc<Rule>>) -> Engine {
    let config = EngineConfig { interval_ns: SEC, limits: Limits::default(), facts: HostFacts::default() };
    let mut engine = Engine::new(config, sandbox);
    engine.load(rules);
    engine
}

fn compiled(sandbox: &Sandbox, schema: &Schema, text: &str) -> Rc<Rule> {
    let compiled = compile(sandbox, schema, "bench.rhai", text, &Overrides::default());
    compiled.rule.unwrap_or_else(|| panic!("{:?}", compiled.diagnostics))
}

/// 200 rules, each firing for 10 of 10,000 subjects: a thousandth of all pairs.
fn rules() {
    let stream = stream(FIELDS);
    let schema = schema(&stream);
    let names = subjects(SUBJECTS);
    let busy = |i: usize, f: usize| (f * 1000..f * 1000 + 10).contains(&i);
    for (name, two) in [("one comparison", false), ("two windows and an `&&`", true)] {
        let mut steady = Vec::new();
        let mut onset = Vec::new();
        let mut open = 0;
        let mut bytes = 0;
        let seconds =
            Figures::measure(ROUNDS, || {
                let sandbox = Rc::new(Sandbox::new());
                let texts = (0..200).map(|k| {
                    let f = k % FIELDS;
                    let second = format!("bench.f{}", (f + 1) % FIELDS);
                    let second = two.then_some((second.as_str(), 0.0));
                    rule(
                        &format!("bench.r{k}"),
                        &format!("bench.f{f}"),
                        20_000.0 + 100.0 * (k / FIELDS) as f64,
                        second,
                    )
                });
                let rules = texts.map(|t| compiled(&sandbox, &schema, &t)).collect();
                let mut engine = engine(sandbox, rules);
                let mut counters = Counters::new(&stream, &names, |i, f| {
                    if busy(i, f) { 50_000 } else { 1 + (i + f) as u64 % 10_000 }
                });
                let mut spent = 0.0;
                let mut ticks = Vec::new();
                let mut told = 0;
                for _ in 0..300 {
                    let (batch, at) = counters.next();
                    let begun = Cpu::now();
                    engine.ingest(batch);
                    told += engine.tick(Tick { at, suspended_ns: 0 }).len();
                    let took = begun.elapsed();
                    spent += took;
                    ticks.push(took);
                }
                assert_eq!(engine.take_problems(), vec![]);
                open = engine.findings().len();
                assert_eq!((open, told), (2000, 2000));
                bytes = engine.window_stats().bytes;
                let all = Figures::of(ticks.split_off(60));
                steady.push(all.median);
                onset.push(Figures::of(ticks).max);
                spent / 300.0
            });
        let events = (SUBJECTS * FIELDS) as f64;
        println!(
            "rules: 200 rules of {name}, {open} findings open, {:.0} MiB of windows",
            bytes as f64 / 1048576.0
        );
        rate("  300 ticks with onset and repeated verdicts", events, seconds, "target >= 10");
        rate("  the middle tick with all findings open", events, Figures::of(steady), "");
        show("  the tick in which all 2000 fire", Figures::of(onset).map(|s| s * 1e3), "ms", "");
    }
}

/// A rule of somebody's own: two windows, one of them a baseline, helpers and params.
fn custom(k: usize) -> String {
    let (f, g, over) = (k % FIELDS, (k + 3) % FIELDS, 10 + 10 * (k % 3));
    let line = 20_000.0 + 100.0 * (k / FIELDS) as f64;
    format!(
        r#"//! A rate is over its line and unusual.
const RULE = #{{
  id: "bench.c{k}", api: 1, severity: "warning", subject: "cgroup", needs: ["bench"],
  params: #{{ x: #{{ value: {line:.1}, min: 0.0, help: "a second" }}, sigma: #{{ value: 3.0, min: 0.0, help: "deviations" }} }},
  windows: #{{ r: #{{ of: "bench.f{f}", calc: "rate", over: "{over}s" }}, usual: #{{ of: "bench.f{g}", calc: "baseline", over: "10m", coverage: 0.01 }} }},
  fire: #{{ hold: "2s" }}, clear: #{{ hold: "30s" }},
}};
fn much(a, line) {{ if line > 0.0 {{ return a > line; }} a > 1.0 }}
fn enter(w, p) {{
  let r = w.r.value;
  if w.usual.known && w.usual.sigma > p.sigma {{ return r > 0.5 * p.x; }}
  much(r, p.x)
}}
fn leave(w, p) {{ w.r.value < p.x * 0.8 }}
fn verdict(w, p, ctx) {{ cause("bench.over", "high").says(`${{ctx.name}}: ${{w.r.text}}`).evidence(w.r).evidence(w.usual) }}
"#
    )
}

/// 300 rules of users over 10,000 subjects: the budget is a tick under 50 ms.
fn many() {
    let stream = stream(FIELDS);
    let schema = schema(&stream);
    let names = subjects(SUBJECTS);
    let busy = |i: usize, f: usize| (f * 1000..f * 1000 + 10).contains(&i);
    let sandbox = Rc::new(Sandbox::new());
    let texts: Vec<String> = (0..300).map(custom).collect();
    let load = Figures::measure(ROUNDS, || {
        let begun = Cpu::now();
        texts.iter().for_each(|t| {
            black_box(compiled(&sandbox, &schema, t));
        });
        begun.elapsed() * 1e3
    });
    show("custom: loading 300 rules", load, "ms", "target < 1000");
    let rules: Vec<Rc<Rule>> = texts.iter().map(|t| compiled(&sandbox, &schema, t)).collect();
    assert!(rules.iter().all(|r| r.is_lowered()));
    let mut engine = engine(sandbox, rules);
    let mut counters =
        Counters::new(&stream, &names, |i, f| if busy(i, f) { 50_000 } else { 1 + (i + f) as u64 % 10_000 });
    let mut ticks = Vec::new();
    for _ in 0..TICKS {
        let (batch, at) = counters.next();
        let begun = Cpu::now();
        engine.ingest(batch);
        engine.tick(Tick { at, suspended_ns: 0 });
        ticks.push(begun.elapsed() * 1e3);
    }
    assert_eq!(engine.take_problems(), vec![]);
    println!(
        "custom: 300 rules, {} findings open, {:.0} MiB of windows",
        engine.findings().len(),
        engine.window_stats().bytes as f64 / 1048576.0
    );
    let steady = Figures::of(ticks.split_off(60));
    show("  a tick with its 100,000 values", steady, "ms", "target < 50");
    show("  of the first 60, with onset", Figures::of(ticks), "ms", "");
}

const CGROUPS: usize = 1000;
const HOUR: u64 = 3600;

/// A recording of one counter, busy in every cgroup, very busy in three.
fn record(ticks: u64) -> Vec<u8> {
    let stream = stream(1);
    let subjects = subjects(CGROUPS);
    let mut rng = Rng(1);
    let mut writer = Writer::new(Vec::new(), &Header::default()).unwrap();
    let mut values = vec![0u64; CGROUPS];
    for tick in 0..ticks {
        let mut batch = Batch::new(stream.clone(), at(tick));
        for (i, (s, v)) in subjects.iter().zip(&mut values).enumerate() {
            *v += rng.next() % 10_000 + if i % 400 == 0 { 20_000 } else { 0 };
            batch.row(s.clone()).int(0, *v);
        }
        writer.batch(&batch).unwrap();
        writer.tick(&whystall::recording::Tick { at: at(tick), ..Default::default() }).unwrap();
    }
    writer.finish().unwrap().0
}

/// `n` rules of the same window with different lines, which three cgroups cross.
fn lines(n: usize) -> (Rc<Sandbox>, Vec<Rc<Rule>>) {
    let schema = schema(&stream(1));
    let sandbox = Rc::new(Sandbox::new());
    let one = |k: usize| {
        let text = rule(&format!("bench.r{k}"), "bench.f0", 12_000.0 + 100.0 * k as f64, None);
        compiled(&sandbox, &schema, &text)
    };
    let rules = (0..n).map(one).collect();
    (sandbox, rules)
}

/// An hour of 1000 cgroups from a file through the engine.
fn replay() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&record(HOUR)).unwrap();
    let samples = (CGROUPS as u64 * HOUR) as f64;
    let bare = Figures::measure(ROUNDS, || {
        play(file.path(), |item| {
            black_box(item);
        })
    });
    rate("replay: 3.6 M samples, reader alone", samples, bare, "");
    for n in [0, 1, 50] {
        let seconds = Figures::measure(ROUNDS, || {
            let (sandbox, rules) = lines(n);
            let mut engine = engine(sandbox, rules);
            let mut told = 0;
            let took = play(file.path(), |item| told += feed(&mut engine, item));
            assert_eq!(told, 3 * n);
            took
        });
        let target = if n == 1 { "target >= 46" } else { "" };
        rate(&format!("replay: 3.6 M samples, {n} rules of a rate over 60 s"), samples, seconds, target);
        if n == 50 {
            show("  that is", seconds, "s", "target <= 0.21");
        }
    }
}

/// Reads the recording at `path`; returns the CPU seconds.
fn play(path: &Path, mut each: impl FnMut(Item<'_>)) -> f64 {
    let begun = Cpu::now();
    let mut reader = Reader::new(File::open(path).unwrap()).unwrap();
    while let Some(item) = reader.next().unwrap() {
        each(item);
    }
    begun.elapsed()
}

/// Gives the engine an item; returns the number of verdicts.
fn feed(engine: &mut Engine, item: Item<'_>) -> usize {
    match item {
        Item::Batch(batch) => {
            engine.ingest(batch);
            0
        }
        Item::Tick(t) => engine.tick(Tick { at: t.at, suspended_ns: t.suspended_ns }).len(),
    }
}

/// The same from JSON lines.
fn json() {
    let bytes = record(500);
    let mut writer = JsonWriter::new(Vec::new(), at(0));
    let mut reader = Reader::new(&bytes[..]).unwrap();
    while let Some(item) = reader.next().unwrap() {
        if let Item::Batch(batch) = item {
            writer.batch(batch).unwrap();
        }
    }
    let text = writer.finish().unwrap();
    let samples = (CGROUPS * 500) as f64;
    println!("json: {:.0} bytes an event", text.len() as f64 / samples);
    let schema = [Stream::clone(&stream(1))];
    for n in [0, 1, 50] {
        let seconds = Figures::measure(ROUNDS, || {
            let (sandbox, rules) = lines(n);
            let mut engine = engine(sandbox, rules);
            let begun = Cpu::now();
            let mut reader = JsonReader::new(&text[..], &schema, SEC);
            let mut told = 0;
            while let Some(item) = reader.next().unwrap() {
                told += feed(&mut engine, item);
            }
            let took = begun.elapsed();
            assert_eq!((told, reader.summary().events), (3 * n, samples as u64));
            took
        });
        rate(&format!("json: 0.5 M lines, {n} rules"), samples, seconds, "target >= 2");
    }
}

/// A pass of every polled collector over the host as it is.
fn passes() {
    let build = |c: &&'static whystall_collectors::Collector| {
        let built = (c.build)(&Roots::default(), &Settings::new());
        match built {
            Ok(Built::Polled(p)) => Some((c.name, p, Vec::new())),
            Ok(Built::Streaming(_)) => None,
            Err(e) => {
                println!("passes: {} left out: {e}", c.name);
                None
            }
        }
    };
    let mut polled: Vec<(&str, Box<dyn Polled>, Vec<f64>)> = ALL.iter().filter_map(build).collect();
    // One after the other without a pause, and then as a daemon does it: what is in the caches is then others'.
    for (paced, rounds) in [(false, 200), (true, 20)] {
        let how = if paced { "once a second" } else { "back to back" };
        let mut all = Vec::new();
        for _ in 0..rounds {
            if paced {
                std::thread::sleep(std::time::Duration::from_secs(1));
            }
            let mut sum = 0.0;
            for (_, p, costs) in &mut polled {
                let mut pass = Pass::new(now(), Stamp::default, u64::MAX);
                let begun = Cpu::now();
                let _ = p.collect(&mut pass);
                let took = begun.elapsed() * 1e6;
                sum += took;
                costs.push(took);
            }
            all.push(sum);
        }
        for (name, _, costs) in &mut polled {
            // The first pass opens what it keeps open.
            show(&format!("passes {how}: {name}"), Figures::of(costs.split_off(1)), "us", "");
            costs.clear();
        }
        show(&format!("passes {how}: all polled collectors"), Figures::of(all.split_off(1)), "us", "");
    }
}

/// The time since boot, as collectors get it.
fn now() -> Stamp {
    let text = std::fs::read_to_string("/proc/uptime").unwrap();
    let seconds: f64 = text.split(' ').next().unwrap().parse().unwrap();
    Stamp { boot_ns: (seconds * 1e9) as u64, wall_ns: 0 }
}

/// Checking and compiling rules.
fn load() {
    let schema = sources::any_host(std::time::Duration::from_secs(1));
    let files = rule_files::builtin();
    let sandbox = Rc::new(Sandbox::new());
    let once = |times: usize| {
        let begun = Cpu::now();
        let mut rules = Vec::new();
        for f in (0..times).flat_map(|_| &files) {
            rules.extend(compile(&sandbox, &schema, &f.file, &f.text, &Overrides::default()).rule);
        }
        assert_eq!(rules.len(), times * files.len());
        begun.elapsed() * 1e3
    };
    show(
        &format!("load: the {} built-in rules", files.len()),
        Figures::measure(ROUNDS, || once(1)),
        "ms",
        "",
    );
    let times = 300usize.div_ceil(files.len());
    let seconds = Figures::measure(ROUNDS, || once(times));
    show(&format!("load: {} rules like them", times * files.len()), seconds, "ms", "");
    let sandbox = Figures::measure(ROUNDS, || {
        let begun = Cpu::now();
        black_box(Sandbox::new());
        begun.elapsed() * 1e3
    });
    show("load: the interpreter", sandbox, "ms", "");
}
