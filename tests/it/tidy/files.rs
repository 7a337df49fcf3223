//! Checks on what is no Rust source: manifests, the lock file, rules, decisions and the README.

use std::collections::{BTreeMap, BTreeSet};

use toml::Table;

/// What a crate must not depend on, not even for its tests, and why.
const NEVER: &[(&str, &[&str], &str)] = &[
    (
        "collectors",
        &["whystall", "whystall-engine", "whystall-rules", "rhai"],
        "collectors know nothing of rules and windows",
    ),
    ("engine", &["whystall", "whystall-collectors"], "the engine takes batches from anyone"),
    (
        "event",
        &["whystall", "whystall-collectors", "whystall-engine", "whystall-rules"],
        "event is shared by all",
    ),
    ("rules", &["whystall", "whystall-collectors", "whystall-engine"], "rules are text"),
    (".", &["rhai"], "rhai stays inside the engine's script module"),
];

/// The only things these crates may depend on outside their tests.
const ONLY: &[(&str, &[&str])] = &[("event", &["serde"]), ("rules", &[])];

/// What the engine must not depend on outside its tests, because it would bring IO, a clock or a runtime.
const IMPURE: &[&str] = &[
    "libc",
    "nix",
    "rustix",
    "notify",
    "tokio",
    "async-std",
    "smol",
    "mio",
    "rusqlite",
    "tracing",
    "log",
    "chrono",
];

/// What must not come to the engine even through others.
const RUNTIMES: &[&str] = &["tokio", "async-std", "smol", "mio", "hyper", "reqwest", "notify"];

const TABLES: &[&str] = &["dependencies", "build-dependencies", "dev-dependencies"];

/// A crate's manifest: its directory (`.` for the root package) and content.
pub(super) type Manifest = (String, Table);

/// Manifests declare only what the architecture allows, and take lints and licence from the workspace.
pub(super) fn manifests(all: &[Manifest]) -> Vec<String> {
    let mut problems = Vec::new();
    for (dir, manifest) in all {
        let file = if dir == "." { "Cargo.toml".to_string() } else { format!("{dir}/Cargo.toml") };
        let any = dependencies(manifest, TABLES);
        let shipped = dependencies(manifest, &TABLES[..2]);
        for (_, names, why) in NEVER.iter().filter(|(of, ..)| of == dir) {
            for name in names.iter().filter(|n| any.contains(**n)) {
                problems.push(format!("{file}: must not depend on `{name}`: {why}"));
            }
        }
        for (_, allowed) in ONLY.iter().filter(|(of, _)| of == dir) {
            for name in shipped.iter().filter(|n| !allowed.contains(&n.as_str())) {
                problems
                    .push(format!("{file}: `{name}` is none of {allowed:?}, all that {dir} may depend on"));
            }
        }
        for name in IMPURE.iter().filter(|n| dir == "engine" && shipped.contains(**n)) {
            problems.push(format!(
                "{file}: `{name}` brings IO or a clock: the root package does that for the engine"
            ));
        }
        let lints = manifest.get("lints").and_then(|l| l.get("workspace")).and_then(|w| w.as_bool());
        if lints != Some(true) {
            problems.push(format!("{file}: add `[lints]` with `workspace = true`"));
        }
        for key in ["license", "edition", "rust-version", "version"] {
            let inherited = manifest.get("package").and_then(|p| p.get(key)).and_then(|v| v.get("workspace"));
            if inherited.and_then(|w| w.as_bool()) != Some(true) {
                problems.push(format!("{file}: write `{key}.workspace = true`"));
            }
        }
    }
    problems
}

/// The packages a manifest names in `tables`, also below `[target.*]`, by the name they have in the registry.
fn dependencies(manifest: &Table, tables: &[&str]) -> BTreeSet<String> {
    let targets = manifest.get("target").and_then(|t| t.as_table()).into_iter().flatten();
    let places = std::iter::once(manifest).chain(targets.filter_map(|(_, t)| t.as_table()));
    let found = places.flat_map(|p| tables.iter().filter_map(|t| p.get(*t)?.as_table()));
    let name = |(key, value): (&String, &toml::Value)| {
        value.get("package").and_then(|p| p.as_str()).unwrap_or(key).to_string()
    };
    found.flat_map(|table| table.iter().map(name)).collect()
}

/// No async runtime or network library comes to the engine through its dependencies, by the lock file.
pub(super) fn engine_needs_no_runtime(lock: &Table) -> Vec<String> {
    let packages = lock.get("package").and_then(|p| p.as_array()).into_iter().flatten();
    let edges = packages.filter_map(|package| {
        let needs = package.get("dependencies").and_then(|d| d.as_array()).into_iter().flatten();
        let names = needs.filter_map(|d| d.as_str()?.split(' ').next());
        Some((package.get("name")?.as_str()?, names.collect::<Vec<_>>()))
    });
    let mut graph = BTreeMap::<&str, Vec<&str>>::new();
    edges.for_each(|(from, to)| graph.entry(from).or_default().extend(to));

    let (mut seen, mut next) = (BTreeSet::new(), vec![vec!["whystall-engine"]]);
    let mut problems = Vec::new();
    while let Some(way) = next.pop() {
        let Some(&last) = way.last().filter(|last| seen.insert(**last)) else {
            continue;
        };
        if RUNTIMES.contains(&last) {
            problems.push(format!("Cargo.lock: the engine gets `{last}` by {}", way.join(" → ")));
        }
        for to in graph.get(last).into_iter().flatten() {
            next.push(way.iter().copied().chain([*to]).collect());
        }
    }
    problems
}

/// A built-in rule's file at `path` below `rules/` has a page, its own id and a test.
pub(super) fn rule(path: &str, text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let id = path.trim_end_matches(".rhai").replace('/', ".");
    if !text.starts_with("//!") {
        problems.push(format!(
            "rules/{path}:1: no `//!` page: say what it detects, why it matters and what to do"
        ));
    }
    let compact: String = text.split_whitespace().collect();
    if !compact.contains(&format!("id:\"{id}\"")) {
        problems.push(format!("rules/{path}: its id must be \"{id}\", as its path says"));
    }
    if !text.contains("fn test_") {
        problems.push(format!("rules/{path}: no `fn test_...`: show when it fires, clears and stays silent"));
    }
    problems
}

/// Files below `rules/` and the list in `rules/src/lib.rs` are the same.
pub(super) fn rules_are_listed(files: &BTreeSet<String>, listed: &[&str]) -> Vec<String> {
    let unlisted = files.iter().filter(|f| !listed.contains(&f.as_str()));
    let mut problems: Vec<_> =
        unlisted.map(|f| format!("rules/{f}: not listed: add one line to ALL in rules/src/lib.rs")).collect();
    for (i, path) in listed.iter().enumerate() {
        if !files.contains(*path) {
            problems.push(format!("rules/src/lib.rs: ALL names `{path}`, and no such file is below rules/"));
        }
        if listed[..i].contains(path) {
            problems.push(format!("rules/src/lib.rs: ALL names `{path}` twice"));
        }
    }
    problems
}

/// Decisions are called `NNNN-what-was-decided.md`, each number once.
pub(super) fn decisions(names: &[String]) -> Vec<String> {
    let mut problems = Vec::new();
    let mut numbers = BTreeMap::new();
    for name in names {
        let number = name.split_once('-').map(|(n, _)| n).filter(|n| n.len() == 4 && name.ends_with(".md"));
        let Some(number) = number.and_then(|n| n.parse::<u16>().ok()) else {
            problems.push(format!("docs/decisions/{name}: call it NNNN-what-was-decided.md"));
            continue;
        };
        if let Some(other) = numbers.insert(number, name) {
            problems
                .push(format!("docs/decisions/{name}: {other} has the same number: take the next free one"));
        }
    }
    problems
}

/// The README begins with the two commands that build and test, and CI runs the very one that tests.
pub(super) fn readme(readme: &str, ci: &str) -> Vec<String> {
    let block =
        readme.lines().skip_while(|l| !l.starts_with("```")).skip(1).take_while(|l| !l.starts_with("```"));
    let plain =
        |line: &str| line.split('#').next().unwrap_or_default().trim_start_matches("$ ").trim().to_string();
    let commands: Vec<String> = block.map(plain).filter(|l| !l.is_empty()).collect();
    let mut problems = Vec::new();
    if commands.len() != 2 {
        problems.push(format!(
            "README.md: its first code block has the commands {commands:?}: make it build and test"
        ));
    }
    match commands.iter().find(|c| c.contains("cargo test")) {
        None => problems.push("README.md: no `cargo test` in its first code block".into()),
        Some(test) if !ci.lines().any(|l| !l.trim_start().starts_with('#') && l.ends_with(test.as_str())) => {
            problems
                .push(format!(".ci/run: no line ends with `{test}`, the README's command: run it literally"));
        }
        Some(_) => {}
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(found: Vec<String>, expected: &[&str]) {
        let matching = found.iter().zip(expected).all(|(message, part)| message.contains(part));
        assert!(matching && found.len() == expected.len(), "expected {expected:?}, found {found:#?}");
    }

    fn manifest(dir: &str, text: &str) -> Vec<Manifest> {
        let inherited =
            ["license", "edition", "rust-version", "version"].map(|k| format!("{k}.workspace = true\n"));
        let text = format!("[package]\n{}[lints]\nworkspace = true\n{text}", inherited.concat());
        vec![(dir.into(), text.parse().unwrap())]
    }

    #[test]
    fn forbidden_dependencies_are_found() {
        check(
            manifests(&manifest("event", "[dependencies]\nserde = '1'\n[dev-dependencies]\nproptest = '1'")),
            &[],
        );
        check(
            manifests(&manifest("event", "[dependencies]\nlibc = '1'")),
            &["event/Cargo.toml: `libc` is none of"],
        );
        let renamed =
            "[target.'cfg(unix)'.dev-dependencies]\ne = { package = 'whystall-engine', path = 'x' }";
        check(manifests(&manifest("collectors", renamed)), &["must not depend on `whystall-engine`"]);
        check(manifests(&manifest("engine", "[dependencies.tokio]\nversion = '1'")), &["`tokio` brings IO"]);
        check(
            manifests(&manifest(".", "[dependencies]\nrhai = '1'")),
            &["Cargo.toml: must not depend on `rhai`"],
        );
        let bare = vec![("rules".to_string(), "[package]\nversion = '1'".parse().unwrap())];
        check(manifests(&bare), &["[lints]", "license", "edition", "rust-version", "version"]);
    }

    #[test]
    fn indirect_runtimes_are_found() {
        let lock = |last: &str| {
            let text = "[[package]]\nname='whystall-engine'\ndependencies=['rhai 1.27.0']\n[[package]]\nname='rhai'\n";
            format!("{text}dependencies=['{last}']\n[[package]]\nname='tokio'").parse::<Table>().unwrap()
        };
        check(engine_needs_no_runtime(&lock("tokio")), &["whystall-engine → rhai → tokio"]);
        check(engine_needs_no_runtime(&lock("num-traits")), &[]);
    }

    #[test]
    fn incomplete_rules_are_found() {
        check(rule("cpu/a.rhai", "//! Page.\nconst RULE = #{ id: \"cpu.a\" };\nfn test_fires(t) {}"), &[]);
        check(
            rule("cpu/a.rhai", "const RULE = #{ id: \"cpu.b\" };"),
            &["page", "must be \"cpu.a\"", "fn test_"],
        );
        let files = BTreeSet::from(["cpu/a.rhai".to_string(), "cpu/b.rhai".to_string()]);
        check(rules_are_listed(&files, &["cpu/a.rhai", "cpu/b.rhai"]), &[]);
        let bad = ["cpu/b.rhai: not listed", "`cpu/c.rhai`, and no such", "`cpu/a.rhai` twice"];
        check(rules_are_listed(&files, &["cpu/a.rhai", "cpu/c.rhai", "cpu/a.rhai"]), &bad);
    }

    #[test]
    fn decisions_with_one_number_are_found() {
        let names = |names: &[&str]| names.iter().map(|n| n.to_string()).collect::<Vec<_>>();
        check(decisions(&names(&["0001-a.md", "0002-b.md"])), &[]);
        check(decisions(&names(&["0001-a.md", "0001-b.md", "2-c.md"])), &["same number", "2-c.md: call it"]);
    }

    #[test]
    fn a_readme_whose_commands_ci_does_not_run_is_found() {
        let text = "# whystall\n\n```sh\ncargo build --release  # builds\n$ cargo test --locked\n```\n```\nother\n```";
        check(readme(text, "step tests 600 cargo test --locked"), &[]);
        check(
            readme(text, "# cargo test --locked\ncargo test"),
            &[".ci/run: no line ends with `cargo test --locked`"],
        );
        check(readme("# whystall", ""), &["first code block", "no `cargo test`"]);
    }
}
