//! What every collector must keep: its description is complete, and over each tree of fixtures it emits what the tree's
//! golden file says. Tests only.

use std::collections::HashSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use whystall_event::{FieldKind, MAX_FIELDS, Stamp, Unit, text};

use crate::{ALL, Built, Collector, Pass, Roots, Settings, fuzz};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

/// The trees of fixtures: directories that have a `golden`.
fn trees() -> Vec<PathBuf> {
    let mut trees: Vec<_> = std::fs::read_dir(fixtures())
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.join("golden").is_dir())
        .collect();
    trees.sort();
    trees
}

fn is_snake_case(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        && !name.ends_with('_')
        && !name.contains("__")
}

/// Help is a phrase for people: not empty, lower case unless it begins with a name, on one line, without a full stop.
fn assert_help(of: &str, help: &str) {
    assert!(help.len() > 8, "{of}: help says nothing: {help:?}");
    assert!(!help.ends_with('.') && !help.contains('\n'), "{of}: {help:?}");
}

#[test]
fn descriptions_are_complete() {
    let mut names = HashSet::new();
    let mut streams = HashSet::new();
    for c in ALL {
        assert!(names.insert(c.name), "{} is listed twice", c.name);
        assert!(is_snake_case(c.name), "{}", c.name);
        assert_help(c.name, c.help);
        assert!(!c.streams.is_empty(), "{} has no stream", c.name);
        for s in c.streams {
            // The probes of `latency` are named as rules name them.
            let own =
                s.name == c.name || s.name.strip_prefix(c.name).is_some_and(|rest| rest.starts_with('.'));
            assert!(own || c.name == "latency", "stream {} of collector {}", s.name, c.name);
            assert!(s.name.split('.').all(is_snake_case), "{}", s.name);
            assert!(streams.insert(s.name.clone()), "stream {} occurs twice", s.name);
            assert_help(&s.name, &s.help);
            assert!(!s.subjects.is_empty(), "{} has no subject", s.name);
            assert!((1..=MAX_FIELDS).contains(&s.fields.len()), "{} has {} fields", s.name, s.fields.len());
            let mut fields = HashSet::new();
            for f in s.fields.iter() {
                let full = format!("{}.{}", s.name, f.name);
                assert!(fields.insert(f.name.clone()), "{full} occurs twice");
                assert!(is_snake_case(&f.name), "{full}");
                assert_help(&full, &f.help);
                assert!(f.kind != FieldKind::Text || f.unit == Unit::None, "{full} is text with a unit");
                assert!(f.kind != FieldKind::Duration || f.unit == Unit::Time, "{full} is a duration");
            }
        }
        for key in c.settings {
            assert!(is_snake_case(key), "setting {key} of {}", c.name);
        }
        assert!(std::ptr::eq(crate::by_name(c.name).unwrap(), *c));
    }
}

/// One pass over a tree, a line a value; `None` if the collector cannot run there or is no polled one.
fn first_pass(collector: &Collector, tree: &Path) -> Option<String> {
    let Ok(Built::Polled(mut polled)) = (collector.build)(&Roots::under(tree), &Settings::new()) else {
        return None;
    };
    let mut pass = Pass::new(Stamp::default(), Stamp::default, u64::MAX);
    let result = polled.collect(&mut pass);
    let mut out = String::new();
    for batch in &pass.batches {
        for row in batch.rows() {
            for (i, field) in batch.stream.fields.iter().enumerate().filter(|(i, _)| row.has(*i)) {
                let (stream, subject, name) = (&batch.stream.name, row.subject, &field.name);
                match (row.text(i), field.kind) {
                    (Some(t), _) => writeln!(out, "{stream} {subject} {name} \"{}\"", text::escape(t)),
                    (_, FieldKind::Gauge) => {
                        writeln!(out, "{stream} {subject} {name} {}", f64::from_bits(row.values[i]))
                    }
                    _ => writeln!(out, "{stream} {subject} {name} {}", row.values[i]),
                }
                .unwrap();
            }
        }
    }
    if let Err(e) = result {
        let e = e.to_string().replace(tree.to_str().unwrap(), "");
        writeln!(out, "error: {e}").unwrap();
    }
    Some(out)
}

#[test]
fn golden() {
    let bless = std::env::var_os("WHYSTALL_BLESS").is_some();
    let mut wrong = Vec::new();
    for tree in trees() {
        for c in ALL {
            let path = tree.join("golden").join(format!("{}.txt", c.name));
            let found = first_pass(c, &tree);
            let expected = std::fs::read_to_string(&path).ok();
            match &found {
                Some(text) if bless => std::fs::write(&path, text).unwrap(),
                _ if found == expected => {}
                // A collector that finds nothing of its own in a tree and has no golden file there is not tested there.
                Some(text) if expected.is_none() && (text.is_empty() || text.starts_with("error: ")) => {}
                _ => wrong.push(first_difference(&path, expected.as_deref(), found.as_deref())),
            }
        }
    }
    assert!(wrong.is_empty(), "(WHYSTALL_BLESS=1 writes the golden files anew)\n{}", wrong.join("\n"));
}

fn first_difference(path: &Path, expected: Option<&str>, found: Option<&str>) -> String {
    let (expected, found) = (expected.unwrap_or("(no file)"), found.unwrap_or("(does not run)"));
    let line = expected.lines().zip(found.lines()).position(|(a, b)| a != b);
    let at = line.unwrap_or(expected.lines().count().min(found.lines().count()));
    format!(
        "{}:{}: expected {:?}, found {:?}",
        path.display(),
        at + 1,
        expected.lines().nth(at),
        found.lines().nth(at)
    )
}

/// Collectors whose input is not files below a root, with the reason; their own tests take the place of golden files.
const WITHOUT_GOLDEN: &[(&str, &str)] = &[
    ("schedstat", "needs two passes over tasks; its own tests have fixtures"),
    ("memcg", "has trees of its own, fixtures/cgroup-*"),
    ("cpu_cgroup", "has trees of its own, fixtures/cgroup-*"),
    ("zombie_memcg", "has trees of its own, fixtures/cgroup-*"),
    ("kernel_log", "its input is a device that streams; its own tests have records of five kernels"),
    ("latency", "its input is BPF programs"),
    ("canary", "its input is its own threads"),
];

#[test]
fn every_collector_has_a_golden_file_that_says_something() {
    let trees = trees();
    assert!(trees.len() >= 5);
    for c in ALL {
        let has = trees.iter().any(|t| {
            std::fs::read_to_string(t.join("golden").join(format!("{}.txt", c.name)))
                .is_ok_and(|text| text.lines().any(|l| !l.starts_with("error: ")))
        });
        let exempt = WITHOUT_GOLDEN.iter().any(|(name, _)| *name == c.name);
        assert!(has != exempt, "collector {}: golden file {has}, listed as without {exempt}", c.name);
    }
}

#[test]
fn no_field_is_zero_because_nobody_sets_it() {
    // Each field has a value in some tree, or needs a second pass.
    const NOWHERE: &[&str] = &["interrupts.busiest"];
    let mut seen = HashSet::new();
    for tree in trees() {
        for c in ALL {
            for line in first_pass(c, &tree).unwrap_or_default().lines() {
                let mut words = line.split(' ');
                if let (Some(stream), Some(_), Some(field)) = (words.next(), words.next(), words.next()) {
                    seen.insert(format!("{stream}.{field}"));
                }
            }
        }
    }
    for c in ALL.iter().filter(|c| WITHOUT_GOLDEN.iter().all(|(name, _)| *name != c.name)) {
        for s in c.streams {
            for f in s.fields.iter() {
                let full = format!("{}.{}", s.name, f.name);
                assert!(seen.contains(&full) != NOWHERE.contains(&full.as_str()), "{full}");
            }
        }
    }
}

#[test]
fn parsers_are_named_for_their_collectors_and_take_anything() {
    let mut names = HashSet::new();
    for (name, parse) in fuzz::PARSERS {
        assert!(names.insert(name), "{name} is listed twice");
        let collector = name.split('.').next().unwrap();
        // `cgroup` is what the collectors about control groups share.
        let known = crate::by_name(collector).is_some() || ["cgroup", "exec"].contains(&collector);
        assert!(known, "parser {name} belongs to no collector");
        for input in [&b""[..], b"\n", b"\0", b"\xff\n", b":", b" \n \n", b"CPU0\n", b"cpu", b"0"] {
            parse(input);
        }
    }
}

#[test]
fn parsers_survive_damaged_fixtures() {
    // Each file of each tree cut at many places, and with single bytes changed, into every parser.
    for tree in trees() {
        for file in files_below(&tree.join("proc")) {
            let bytes = std::fs::read(&file).unwrap();
            for (_, parse) in fuzz::PARSERS {
                for step in 0..12 {
                    parse(&bytes[..bytes.len() * step / 12]);
                    let mut damaged = bytes.clone();
                    for at in (step..damaged.len()).step_by(97) {
                        damaged[at] = [b' ', b'\n', b'9', 0xff, b'-', b':'][(at + step) % 6];
                    }
                    parse(&damaged);
                }
            }
        }
    }
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files.sort();
    files
}
