//! The architecture and the habits of this repository, held by reading its own files.
//!
//! Each check is a function from file contents to messages, tested on small bad inputs beside it; the tests here run
//! them on the real tree. A message says where, what and what to do. ARCHITECTURE.md has the reasons.

mod code;
mod files;
mod source;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use source::Source;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// Every file of the repository, relative to its root and sorted, without what is built or made by fuzzing.
fn files() -> Vec<String> {
    let (mut found, mut dirs) = (Vec::new(), vec![PathBuf::new()]);
    while let Some(dir) = dirs.pop() {
        let entries =
            std::fs::read_dir(root().join(&dir)).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
        for entry in entries.map(|e| e.unwrap()) {
            let name = entry.file_name();
            let path = dir.join(&name);
            if entry.file_type().unwrap().is_dir() {
                let skipped = matches!(name.to_str(), Some("target" | ".git" | "corpus" | "artifacts"));
                dirs.extend(Some(path).filter(|_| !skipped));
            } else {
                found.extend(path.to_str().map(str::to_string));
            }
        }
    }
    found.sort();
    found
}

fn sources() -> Vec<Source> {
    let rust = files().into_iter().filter(|f| f.ends_with(".rs"));
    let mut sources: Vec<Source> = rust.map(|f| Source::new(&f, &read(&f))).collect();
    let mut tests = Vec::new();
    for source in &sources {
        let (dir, file) = source.path.rsplit_once('/').unwrap_or(("", &source.path));
        let dir = match file {
            "lib.rs" | "main.rs" | "mod.rs" => dir.to_string(),
            _ => format!("{dir}/{}", file.trim_end_matches(".rs")),
        };
        tests.extend(source.test_modules().iter().map(|name| format!("{dir}/{name}")));
    }
    for source in &mut sources {
        let of = |module: &String| {
            source.path.strip_prefix(module).is_some_and(|r| r == ".rs" || r.starts_with('/'))
        };
        if tests.iter().any(of) {
            source.make_test();
        }
    }
    assert!(sources.len() > 10, "only {} sources were found below {}", sources.len(), root().display());
    sources
}

/// The names of the files that stand directly in `dir` and end with `end`.
fn names_in(dir: &str, end: &str) -> Vec<String> {
    let below = files().into_iter().filter_map(|f| Some(f.strip_prefix(dir)?.strip_prefix('/')?.to_string()));
    below.filter(|f| f.ends_with(end) && !f.contains('/')).collect()
}

#[track_caller]
fn none(problems: Vec<String>) {
    assert!(problems.is_empty(), "{} to put right:\n  {}", problems.len(), problems.join("\n  "));
}

#[test]
fn pure_crates_have_no_io_and_no_clock() {
    none(code::purity(&sources()));
}

#[test]
fn dependencies_point_one_way() {
    none(code::direction(&sources()));
    none(code::rhai_in_one_place(&sources()));

    let workspace: toml::Table = read("Cargo.toml").parse().unwrap();
    let members = workspace["workspace"]["members"].as_array().unwrap().iter().filter_map(|m| m.as_str());
    let manifest = |dir: &str| (dir.to_string(), read(&format!("{dir}/Cargo.toml")).parse().unwrap());
    let manifests: Vec<files::Manifest> = members.chain(["."]).map(manifest).collect();
    for expected in ["event", "collectors", "engine", "rules"] {
        assert!(
            manifests.iter().any(|(dir, _)| dir == expected),
            "`{expected}` is no member of the workspace"
        );
    }
    none(files::manifests(&manifests));
    none(files::engine_needs_no_runtime(&read("Cargo.lock").parse().unwrap()));
}

#[test]
fn collectors_read_below_their_roots() {
    none(code::collectors_stay_below_roots(&sources()));
}

#[test]
fn sources_are_documented_readable_and_finished() {
    none(code::habits(&sources()));
    let other = files().into_iter().filter(|f| {
        [".rhai", ".toml", ".sh", ".c", ".yml", ".service", "justfile", ".ci/run"]
            .iter()
            .any(|e| f.ends_with(e))
    });
    none(other.flat_map(|f| code::unfinished(&f, 1, &read(&f))).collect());
}

#[test]
fn built_in_rules_are_listed_documented_and_tested() {
    let below = files().into_iter().filter_map(|f| f.strip_prefix("rules/").map(str::to_string));
    let files: BTreeSet<String> = below.filter(|f| f.ends_with(".rhai")).collect();
    let listed: Vec<&str> = whystall_rules::ALL.iter().map(|b| b.path).collect();
    none(files::rules_are_listed(&files, &listed));
    for builtin in whystall_rules::ALL {
        assert_eq!(
            builtin.source,
            read(&format!("rules/{}", builtin.path)),
            "{} has another's text",
            builtin.path
        );
        none(files::rule(builtin.path, builtin.source));
    }
}

#[test]
fn decisions_have_their_own_numbers() {
    let names = names_in("docs/decisions", "");
    assert!(!names.is_empty(), "docs/decisions/ was not read");
    none(files::decisions(&names));
}

#[test]
fn ci_runs_what_the_readme_says() {
    none(files::readme(&read("README.md"), &read(".ci/run")));
}

#[test]
fn every_fuzz_target_is_wired() {
    let manifest: toml::Table = read("fuzz/Cargo.toml").parse().unwrap();
    let bins = manifest["bin"].as_array().unwrap();
    let declared: Vec<String> = bins.iter().map(|b| format!("{}.rs", b["name"].as_str().unwrap())).collect();
    let targets = names_in("fuzz/targets", ".rs");
    assert_eq!(
        targets, declared,
        "fuzz/targets/ and the [[bin]] tables of fuzz/Cargo.toml, in alphabetical order"
    );
    for target in targets {
        let seeds = format!("fuzz/seeds/{}", target.trim_end_matches(".rs"));
        assert!(!names_in(&seeds, "").is_empty(), "{seeds}/ has no file: add a few small valid inputs");
    }
}
