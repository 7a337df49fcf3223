//! Checks on Rust sources. Each takes the sources and returns what is wrong with them, one message each.

use super::source::{Kind, Source};

/// The most lines a file may have outside its test modules, blank lines not counted.
const LONG: usize = 500;

/// Files that may be longer: path and reason.
const MAY_BE_LONG: &[(&str, &str)] = &[];

/// Directories whose code must be pure: no IO, no clock, no environment. Data and time are passed in.
const PURE: &[&str] = &["event/src/", "engine/src/", "rules/src/"];

/// Below [`PURE`], the parts of `std` that must not be named, and what to do instead.
const IMPURE_STD: &[(&str, &str)] = &[
    ("fs", "let the caller read the file and pass its content"),
    ("net", "let the root package talk to the network"),
    ("env", "take the setting as an argument"),
    ("process", "let the root package start or end processes"),
    ("thread", "work on the caller's thread; the root package owns threads"),
    ("os", "let a collector or the root package ask the operating system"),
];

/// Below [`PURE`], the clocks.
const CLOCKS: &[&str] = &["SystemTime", "Instant", "UNIX_EPOCH"];

/// Pure crates name no file system, network, environment or clock outside their tests.
pub(super) fn purity(sources: &[Source]) -> Vec<String> {
    let mut problems = Vec::new();
    for source in sources.iter().filter(|s| PURE.iter().any(|dir| s.path.starts_with(dir))) {
        for (module, instead) in IMPURE_STD {
            for line in source.uses_std(module) {
                problems.push(format!(
                    "{}:{line}: `std::{module}` in a crate without IO: {instead}",
                    source.path
                ));
            }
        }
        for clock in CLOCKS {
            for line in source.find(clock) {
                problems.push(format!(
                    "{}:{line}: `{clock}` in a crate without a clock: take CLOCK_BOOTTIME nanoseconds or a `Stamp` as an \
                     argument, so that a replay gives the same result as the live run",
                    source.path
                ));
            }
        }
    }
    problems
}

/// Rhai is known to the engine's script module alone, so that everything else is free of its types and traps.
pub(super) fn rhai_in_one_place(sources: &[Source]) -> Vec<String> {
    let mut problems = Vec::new();
    for source in sources.iter().filter(|s| !s.path.starts_with("engine/src/script")) {
        for line in source.find_anywhere("rhai") {
            problems.push(format!(
                "{}:{line}: `rhai` outside engine/src/script/: give the script module a function that does it",
                source.path
            ));
        }
    }
    problems
}

/// Crates do not name crates that they must not know.
pub(super) fn direction(sources: &[Source]) -> Vec<String> {
    const UNKNOWN_TO: &[(&str, &[&str])] = &[
        ("event/", &["whystall_collectors", "whystall_engine", "whystall_rules"]),
        ("collectors/", &["whystall_engine", "whystall_rules"]),
        ("engine/src/", &["whystall_collectors"]),
        ("rules/", &["whystall_collectors", "whystall_engine"]),
    ];
    let mut problems = Vec::new();
    for (dir, unknown) in UNKNOWN_TO {
        for source in sources.iter().filter(|s| s.path.starts_with(dir)) {
            for name in *unknown {
                for line in source.find_anywhere(name) {
                    problems.push(format!(
                        "{}:{line}: {dir} must not know `{name}`: put what both need into event/",
                        source.path
                    ));
                }
            }
        }
    }
    problems
}

/// Collectors read below `Roots`, so that fixtures and containers work, and start no program.
pub(super) fn collectors_stay_below_roots(sources: &[Source]) -> Vec<String> {
    let mut problems = Vec::new();
    for source in sources.iter().filter(|s| s.path.starts_with("collectors/src/")) {
        let file = source.path.rsplit('/').next().unwrap_or_default();
        for token in source.code().iter().filter(|t| t.kind == Kind::Str && file != "roots.rs") {
            // A sentence that mentions a path, as helps and errors do, is not opened by anyone.
            let path = ["/proc", "/sys", "/dev"].iter().any(|root| {
                token.text.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            });
            if path && !token.text.contains(' ') {
                problems.push(format!(
                    "{}:{}: literal path \"{}\": build it from `Roots`, so that tests and containers can point elsewhere",
                    source.path, token.line, token.text
                ));
            }
        }
        let may_start = source.path.contains("/exec/") || file == "exec.rs";
        for line in if may_start { Vec::new() } else { source.find("Command::new") } {
            problems.push(format!(
                "{}:{line}: a collector starts a program: read the kernel's file; only the exec collector may",
                source.path
            ));
        }
    }
    problems
}

/// Every file says at its top what it is for, is of a size that can be read, and is finished.
pub(super) fn habits(sources: &[Source]) -> Vec<String> {
    let mut problems = Vec::new();
    for source in sources {
        let path = &source.path;
        if !source.text.starts_with("//!") {
            problems.push(format!("{path}:1: no `//!` on the first line: say what the file is for"));
        }
        let (lines, allowed) =
            (source.lines_outside_tests(), MAY_BE_LONG.iter().any(|(long, _)| long == path));
        if lines > LONG && !allowed {
            problems.push(format!(
                "{path}: {lines} lines outside tests, more than {LONG}: split it, or add it to MAY_BE_LONG with a reason"
            ));
        }
        if lines <= LONG && allowed {
            problems.push(format!("{path}: no longer long: take it off MAY_BE_LONG"));
        }
        for unfinished in ["todo!", "unimplemented!"] {
            for line in source.find_anywhere(unfinished) {
                problems.push(format!("{path}:{line}: `{unfinished}`: finish it or leave it out"));
            }
        }
        for comment in source.tokens.iter().filter(|t| t.kind == Kind::Comment) {
            problems.extend(unfinished(path, comment.line, &comment.text));
        }
    }
    for (path, _) in MAY_BE_LONG.iter().filter(|(path, _)| !sources.iter().any(|s| s.path == *path)) {
        problems.push(format!("{path}: does not exist: take it off MAY_BE_LONG"));
    }
    problems
}

/// Marks of unfinished work in `text`, which begins on line `first` of the file at `path`.
pub(super) fn unfinished(path: &str, first: usize, text: &str) -> Vec<String> {
    let marked = |line: &str| {
        line.split(|c: char| !c.is_alphanumeric()).any(|word| matches!(word, "TODO" | "FIXME" | "XXX"))
    };
    let hits = text.lines().enumerate().filter(|(_, line)| marked(line));
    hits.map(|(n, line)| {
        format!("{path}:{}: unfinished: `{}`: do it or leave it out", first + n, line.trim())
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(rule: fn(&[Source]) -> Vec<String>, path: &str, text: &str, expected: &[&str]) {
        let found = rule(&[Source::new(path, text)]);
        let matching = found.iter().zip(expected).all(|(message, part)| message.contains(part));
        assert!(matching && found.len() == expected.len(), "expected {expected:?}, found {found:#?}");
    }

    #[test]
    fn impure_code_is_found() {
        let bad = "use std::{fs::File, time::Instant};\nfn f() { std::env::args(); SystemTime::now(); }\n\
                   #[cfg(test)]\nmod tests { use std::time::Instant; }";
        let expected = [
            "engine/src/a.rs:1: `std::fs`",
            "engine/src/a.rs:2: `std::env`",
            "engine/src/a.rs:2: `SystemTime`",
            "engine/src/a.rs:1: `Instant`",
        ];
        check(purity, "engine/src/a.rs", bad, &expected);
        check(purity, "event/src/a.rs", "use std::net::IpAddr;", &["event/src/a.rs:1: `std::net`"]);
        check(purity, "src/run.rs", bad, &[]);
        check(purity, "engine/src/a.rs", "//! Never asks SystemTime.\nfn f() { g(\"std::fs\") }", &[]);
    }

    #[test]
    fn wrong_directions_are_found() {
        check(direction, "collectors/src/a.rs", "use whystall_engine::Engine;", &["a.rs:1: collectors/"]);
        check(direction, "engine/src/a.rs", "\nuse whystall_collectors::ALL;", &["a.rs:2: engine/src/"]);
        check(direction, "src/run.rs", "use whystall_collectors::ALL;", &[]);
        check(rhai_in_one_place, "src/run.rs", "fn f() -> rhai::Engine {}", &["src/run.rs:1: `rhai`"]);
        check(rhai_in_one_place, "engine/src/script/mod.rs", "use rhai::AST;", &[]);
        check(rhai_in_one_place, "src/run.rs", "//! rhai\nconst EXT: &str = \".rhai\";", &[]);
    }

    #[test]
    fn literal_paths_and_programs_are_found() {
        let rule = collectors_stay_below_roots;
        check(rule, "collectors/src/a.rs", "fn f() { open(\"/proc/vmstat\") }", &["a.rs:1: literal path"]);
        check(rule, "collectors/src/a.rs", "fn f() { open(b\"/dev\") }", &["a.rs:1: literal path"]);
        check(
            rule,
            "collectors/src/a.rs",
            "fn f() { Command::new(\"ip\"); }",
            &["a.rs:1: a collector starts"],
        );
        check(rule, "collectors/src/exec.rs", "fn f() { Command::new(\"ip\"); }", &[]);
        check(rule, "collectors/src/roots.rs", "const P: &str = \"/proc\";", &[]);
        let fine = "// \"/proc/x\"\nconst H: &str = \"/proc/vmstat as it is\"; const T: &str = \"/devices\";\n\
                    #[cfg(test)]\nmod tests { const P: &str = \"/proc/x\"; }";
        check(rule, "collectors/src/a.rs", fine, &[]);
    }

    #[test]
    fn bad_habits_are_found() {
        let long = format!("//! Long.\n{}", "fn f() {}\n\n".repeat(LONG));
        check(habits, "src/a.rs", &long, &["501 lines outside tests"]);
        let tested = format!("//! Long.\n#[cfg(test)]\nmod tests {{\n{}}}", "fn f() {}\n".repeat(LONG));
        check(habits, "src/a.rs", &tested, &[]);
        check(habits, "src/a.rs", "fn f() {}", &["src/a.rs:1: no `//!`"]);
        check(habits, "src/a.rs", "//! A.\nfn f() { todo!() }", &["src/a.rs:2: `todo!`"]);
        check(habits, "src/a.rs", "//! A.\n/* b\n * FIXME: c */", &["src/a.rs:3: unfinished"]);
        check(habits, "src/a.rs", "//! A.\nconst TODO: &str = \"TODO\";", &[]);
    }
}
