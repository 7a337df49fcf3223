//! How every collector must behave, checked for all of [`crate::ALL`]: declarations, rows, counters, and behaviour where
//! files are missing, empty, cut or garbage.
//!
//! Checks return what they found, so that tests below can show that they find it.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use whystall_event::{Batch, FieldKind, MAX_FIELDS, Mode, SEC, Stamp, Stream, Subject};

use crate::runner::clock;
use crate::{ALL, Built, CollectError, Collector, Pass, Roots, Settings, Sink, Stop, health};

/// Collectors that emit without reading files below the roots, such as timers.
const WITHOUT_FILES: &[&str] = &["canary"];
/// How long a streaming collector may take to its first batch and to end.
const GIVE_UP: Duration = Duration::from_secs(20);

/// What a run of a collector brought.
#[derive(Default)]
struct Run {
    batches: Vec<Batch>,
    /// The error of each pass, where it had one.
    errors: Vec<CollectError>,
    unavailable: Option<String>,
}

/// Builds and runs a collector: `passes` passes, or a streaming one until its first batch.
fn run(c: &Collector, roots: &Roots, passes: usize, budget_ns: u64) -> Result<Run, String> {
    let mut run = Run::default();
    let caught = catch_unwind(AssertUnwindSafe(|| match (c.build)(roots, &Settings::new()) {
        Err(e) if e.bad_settings => Err(format!("cannot be built from empty settings: {e}")),
        Err(e) if e.why.is_empty() => Err("is unavailable and does not say why".into()),
        Err(e) => {
            run.unavailable = Some(e.to_string());
            Ok(())
        }
        Ok(Built::Polled(mut polled)) => {
            for _ in 0..passes {
                let mut pass = Pass::new(clock::now(), clock::now, budget_ns);
                run.errors.extend(polled.collect(&mut pass).err());
                run.batches.append(&mut pass.batches);
            }
            Ok(())
        }
        Ok(Built::Streaming(mut streaming)) => {
            // The canary's threads run before any other: who measures real-time tasks meanwhile sees them.
            let _alone = (c.name == "canary").then(crate::cgroup::testing::alone_in_real_time);
            let sink = Kept::default();
            let started = Instant::now();
            run.errors.extend(streaming.run(&sink, &sink.stop).err());
            if started.elapsed() > GIVE_UP {
                return Err("did not deliver within a second, or did not end when asked".into());
            }
            run.batches = sink.batches.into_inner().unwrap();
            Ok(())
        }
    }));
    match caught {
        Ok(Ok(())) => Ok(run),
        Ok(Err(e)) => Err(format!("{}: {e}", c.name)),
        Err(_) => Err(format!("{}: panicked", c.name)),
    }
}

/// Ends the run with the second batch.
#[derive(Default)]
struct Kept {
    batches: Mutex<Vec<Batch>>,
    stop: Stop,
}

impl Sink for Kept {
    fn now(&self) -> Stamp {
        clock::now()
    }

    fn send(&self, batch: Batch) -> bool {
        let mut batches = self.batches.lock().unwrap();
        batches.push(batch);
        if batches.len() >= 2 {
            self.stop.set();
        }
        true
    }

    fn problem(&self, _: &str) {}
}

/// What is wrong with the declaration of streams.
fn check_stream(s: &Stream) -> Vec<String> {
    let mut found = Vec::new();
    let mut bad = |what: String| found.push(format!("stream {}: {what}", s.name));
    let is_name = |n: &str| {
        n.starts_with(|c: char| c.is_ascii_lowercase())
            && n.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    };
    if !s.name.split('.').all(is_name) {
        bad("its name is not lower-case words with dots between".into());
    }
    if s.fields.is_empty() || s.fields.len() > MAX_FIELDS || s.subjects.is_empty() {
        bad(format!("it needs 1 to {MAX_FIELDS} fields and a subject"));
    }
    for text in [&s.help].into_iter().chain(s.fields.iter().map(|f| &f.help)) {
        if text.is_empty() || text.ends_with('.') {
            bad(format!("a help is empty or ends with a full stop: `{text}`"));
        }
    }
    let mut names = HashSet::new();
    for f in s.fields.iter() {
        if !is_name(&f.name) || !names.insert(&f.name) {
            bad(format!("field `{}` is no lower-case name, or there twice", f.name));
        }
        if f.kind == FieldKind::Duration && s.mode == Mode::Sampled {
            bad(format!("field `{}` is a duration in a sampled stream", f.name));
        }
    }
    found
}

/// What is wrong with the rows of a run.
fn check_rows(c: &Collector, batches: &[Batch]) -> Vec<String> {
    let mut found = Vec::new();
    let now = clock::now().boot_ns;
    let mut counters: HashMap<(String, Subject, usize), u64> = HashMap::new();
    for b in batches {
        let mut bad = |what: String| found.push(format!("{}, stream {}: {what}", c.name, b.stream.name));
        if !c.streams.contains(&b.stream) {
            bad("it is not declared by the collector".into());
            continue;
        }
        if b.at.boot_ns > now || b.at.boot_ns == 0 {
            bad("a batch lies in the future or has no time".into());
        }
        // A subject may have a row from each of two trees (v1 and v2, cpu and cpuacct), but a field only one value.
        let mut values: HashMap<&Subject, u64> = HashMap::new();
        for row in b.rows() {
            if !b.stream.subjects.contains(&row.subject.kind()) {
                bad(format!("a row about {}, which is not declared", row.subject));
            }
            if let Subject::Cgroup(path) = row.subject
                && (!path.starts_with('/') || (path.len() > 1 && path.ends_with('/')) || path.contains("//"))
            {
                bad(format!("`{path}` is no cgroup path from the root"));
            }
            let before = values.entry(row.subject).or_default();
            if b.stream.mode == Mode::Sampled && *before & row.present != 0 {
                bad(format!("two rows about {} in one batch have the same field", row.subject));
            }
            *before |= row.present;
            if row.boot_ns > now {
                bad(format!("a row about {} lies in the future", row.subject));
            }
            if row.present == 0 {
                bad(format!("a row about {} without a value", row.subject));
            }
            for (i, f) in b.stream.fields.iter().enumerate().filter(|(i, _)| row.has(*i)) {
                if f.kind == FieldKind::Text {
                    if row.text(i).is_none() {
                        bad(format!("text {} is missing", f.name));
                    }
                } else if !row.number(i).is_some_and(f64::is_finite) {
                    bad(format!("{} is no number", f.name));
                }
                if f.kind == FieldKind::Counter {
                    let key = (b.stream.name.to_string(), row.subject.clone(), i);
                    let before = counters.insert(key, row.values[i]).unwrap_or(0);
                    if row.values[i] < before {
                        bad(format!(
                            "counter {} of {} decreased: {before}, then {}",
                            f.name, row.subject, row.values[i]
                        ));
                    }
                }
            }
        }
    }
    found
}

/// Where every file is empty there is nothing to count: a counter with a value is an absent one read as zero.
fn check_no_absent_zero(c: &Collector, batches: &[Batch]) -> Vec<String> {
    let mut found = Vec::new();
    for b in batches {
        for row in b.rows() {
            let zero =
                b.stream.fields.iter().enumerate().find(|(i, f)| row.has(*i) && f.kind == FieldKind::Counter);
            if let Some((_, f)) = zero {
                found.push(format!(
                    "{}: {}.{} has a value where its file is empty",
                    c.name, b.stream.name, f.name
                ));
            }
        }
    }
    found
}

/// Nothing at all below the roots.
fn check_empty_root(c: &Collector, roots: &Roots) -> Vec<String> {
    match run(c, roots, 2, SEC) {
        Err(e) => vec![e],
        Ok(r) if !WITHOUT_FILES.contains(&c.name) && r.batches.iter().any(|b| !b.is_empty()) => {
            vec![format!("{}: has rows although there is no file", c.name)]
        }
        Ok(_) => Vec::new(),
    }
}

/// A file of a tree: its path below the roots' directory, such as `proc/stat`, and its content.
type TreeFile = (PathBuf, Vec<u8>);

/// The small files of the real roots that collectors read, and some more.
fn real_tree() -> Vec<TreeFile> {
    // Each with the depth of its directories that is taken.
    const TREES: &[(&str, usize)] = &[
        ("proc", 0),
        ("proc/pressure", 0),
        ("proc/self", 0),
        ("proc/1", 0),
        ("proc/net", 0),
        ("proc/sys/vm", 0),
        ("proc/sys/kernel", 0),
        ("proc/irq", 1),
        ("sys/fs/cgroup", 2),
        ("sys/devices/system/cpu", 1),
        ("sys/devices/system/node", 1),
        ("sys/class/net/lo/statistics", 0),
        ("sys/kernel/mm/transparent_hugepage", 0),
    ];
    let real = Roots::default();
    let mut files = Vec::new();
    for (tree, depth) in TREES {
        let path = match tree.split_once('/') {
            Some(("sys", rest)) => real.sys(rest),
            Some((_, rest)) => real.proc(rest),
            None => real.proc.clone(),
        };
        read_dir(&path, Path::new(tree), *depth, &mut files);
    }
    files
}

/// Interfaces that block, grow or cost too much to be read whole.
const NOT_READ: &[&str] = &[
    "kmsg",
    "kcore",
    "kpagecount",
    "kpageflags",
    "kpagecgroup",
    "mem",
    "pagemap",
    "trace_pipe",
    "clear_refs",
    "stat_refresh",
    "pagetypeinfo",
    "slabinfo",
    "sysrq-trigger",
    "kallsyms",
];

fn read_dir(dir: &Path, name: &Path, depth: usize, files: &mut Vec<TreeFile>) {
    const MOST_FILES: usize = 100;
    const MOST_DIRS: usize = 4;
    const MOST_BYTES: u64 = 32 << 10;
    let Ok(entries) = fs::read_dir(dir) else { return };
    let (mut dirs, before) = (0, files.len());
    for entry in entries.flatten() {
        let (path, name) = (entry.path(), name.join(entry.file_name()));
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() && depth > 0 && dirs < MOST_DIRS {
            dirs += 1;
            read_dir(&path, &name, depth - 1, files);
        } else if kind.is_file()
            && files.len() - before < MOST_FILES
            && !NOT_READ.iter().any(|n| entry.file_name() == *n)
            && let Ok(file) = fs::File::open(&path)
        {
            let mut bytes = Vec::new();
            if std::io::Read::read_to_end(&mut std::io::Read::take(file, MOST_BYTES), &mut bytes).is_ok() {
                files.push((name, bytes));
            }
        }
    }
}

/// Writes a tree below `dir`, each file changed by `change`.
fn write_tree(files: &[TreeFile], dir: &Path, change: fn(&Path, Vec<u8>) -> Vec<u8>) {
    for (name, bytes) in files {
        let path = dir.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).unwrap();
        }
        fs::write(path, change(name, bytes.clone())).unwrap();
    }
}

/// A number that depends on the path alone, so that a failure can be repeated.
fn seed(path: &Path) -> usize {
    path.as_os_str()
        .as_encoded_bytes()
        .iter()
        .fold(7usize, |h, b| h.wrapping_mul(31).wrapping_add(usize::from(*b)))
}

/// A way to spoil the content of a file.
type Spoil = (&'static str, fn(&Path, Vec<u8>) -> Vec<u8>);

/// The ways, each applied to every file of a copy of the real tree.
const SPOILS: &[Spoil] = &[
    ("empty", |_, _| Vec::new()),
    ("binary", |p, _| (0..4096).map(|i| (seed(p).wrapping_mul(i + 1) >> 7) as u8).collect()),
    ("newlines", |_, _| vec![b'\n'; 1000]),
    ("one endless line", |_, _| vec![b'9'; 60_000]),
    ("cut", |p, mut b| {
        b.truncate(seed(p) % b.len().max(1));
        b
    }),
    ("bits flipped", |p, mut b| {
        let step = 13 + seed(p) % 50;
        b.iter_mut().step_by(step).for_each(|x| *x ^= 0x15);
        b
    }),
    ("numbers too large", |_, b| swap_digits(&b, b"18446744073709551616")),
    ("numbers negative", |_, b| swap_digits(&b, b"-1")),
    ("words gone", |_, b| b.into_iter().filter(|c| !c.is_ascii_alphabetic()).collect()),
    ("columns gone", |_, b| b.into_iter().map(|c| if c == b' ' || c == b'\t' { b'_' } else { c }).collect()),
];

/// Replaces each run of digits.
fn swap_digits(b: &[u8], by: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(b.len());
    let mut in_number = false;
    for &c in b {
        if !c.is_ascii_digit() {
            out.push(c);
        } else if !in_number {
            out.extend_from_slice(by);
        }
        in_number = c.is_ascii_digit();
    }
    out
}

#[test]
fn declarations() {
    let mut found = Vec::new();
    let (mut names, mut streams) = (HashSet::new(), HashSet::new());
    for c in ALL {
        if !names.insert(c.name)
            || c.name.contains(|ch: char| !(ch.is_ascii_lowercase() || ch.is_ascii_digit() || ch == '_'))
        {
            found.push(format!("{}: its name is no lower-case word, or there twice", c.name));
        }
        if c.help.is_empty() || c.help.ends_with('.') || c.streams.is_empty() {
            found.push(format!("{}: it needs streams, and a help without a full stop", c.name));
        }
    }
    for s in ALL.iter().flat_map(|c| c.streams).chain(health::STREAMS) {
        found.extend(check_stream(s));
        if !streams.insert(&s.name) {
            found.push(format!("stream {}: declared twice", s.name));
        }
    }
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn an_empty_root() {
    let dir = tempfile::tempdir().unwrap();
    let found: Vec<String> =
        ALL.iter().flat_map(|c| check_empty_root(c, &Roots::under(dir.path()))).collect();
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn spoiled_files() {
    let mut found = Vec::new();
    let tree = real_tree();
    for (how, spoil) in SPOILS {
        let dir = tempfile::tempdir().unwrap();
        let roots = Roots::under(dir.path());
        write_tree(&tree, dir.path(), *spoil);
        for c in ALL {
            match run(c, &roots, 2, SEC) {
                Err(e) => found.push(format!("{how}: {e}")),
                Ok(r) => {
                    found.extend(check_rows(c, &r.batches).into_iter().map(|f| format!("{how}: {f}")));
                    if *how == "empty" && !WITHOUT_FILES.contains(&c.name) {
                        found.extend(check_no_absent_zero(c, &r.batches));
                    }
                }
            }
        }
    }
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn the_real_host() {
    let mut found = Vec::new();
    for c in ALL {
        match run(c, &Roots::default(), 3, SEC) {
            Err(e) => found.push(e),
            Ok(r) => {
                if let Some(why) = &r.unavailable {
                    println!("skipped: {}: {why}", c.name);
                }
                found.extend(r.errors.iter().filter_map(|e| match e {
                    CollectError::Nothing(why) => {
                        println!("{}: nothing to collect: {why}", c.name);
                        None
                    }
                    e => Some(format!("{}: {e}", c.name)),
                }));
                found.extend(check_rows(c, &r.batches));
            }
        }
        // Without any time left a pass ends, and what it delivers is sound.
        match run(c, &Roots::default(), 2, 0) {
            Err(e) => found.push(e),
            Ok(r) => found.extend(check_rows(c, &r.batches)),
        }
    }
    assert_eq!(found, Vec::<String>::new());
}

mod tests;
