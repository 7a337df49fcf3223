//! What rules can call and read, described: for the reference and for editors. Taken from the tables that the checker
//! uses, so that neither can say what is not so.

use std::fmt::Write as _;

use super::natives::{self, Ty};
use super::program::Prop;

/// A function, method or property of rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// How it is written: `says(text)`, or a property's name.
    pub form: String,
    /// What it gives.
    pub gives: &'static str,
    /// What it does.
    pub help: &'static str,
}

/// Things of one kind of value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Family {
    /// What it is about, for people.
    pub title: &'static str,
    /// How a rule names such a value.
    pub on: &'static str,
    /// What it has.
    pub members: Vec<Described>,
}

/// The kinds of values, with how they are called here and in definitions.
const FAMILIES: [(Ty, &str, &str, &str); 8] = [
    (Ty::Unit, "Functions", "", ""),
    (Ty::Window(0), "A window", "w.NAME", "window"),
    (Ty::Ctx, "What `verdict` knows beside", "ctx", "ctx"),
    (Ty::Verdict, "A conclusion", "cause(…)", "cause"),
    (Ty::Test, "A test", "t", "test"),
    (Ty::Checkpoint, "A moment of a test", "t.at(…)", "checkpoint"),
    (Ty::Text, "Texts and numbers", "value", "string"),
    (Ty::Windows, "The windows", "w", "windows"),
];

/// What each name is for.
const HELP: &[(&str, &str)] = &[
    ("cause", "begins a conclusion: the cause's id and `high`, `medium` or `low`"),
    ("min", "the lesser number"),
    ("max", "the greater number"),
    ("abs", "without its sign"),
    ("sqrt", "the square root"),
    ("floor", "the next whole number below"),
    ("ceiling", "the next whole number above"),
    ("round", "the nearest whole number"),
    ("ln", "the natural logarithm"),
    ("exp", "e to this power"),
    ("to_int", "as an integer"),
    ("to_float", "as a number with a fraction"),
    ("to_string", "as text"),
    ("range", "whole numbers from the first up to, not with, the second"),
    ("len", "how many characters or items"),
    ("is_empty", "whether there is nothing in it"),
    ("contains", "whether it has this; `x in list` is the same"),
    ("or", "the value, or this number if it is unknown"),
    ("top", "the heaviest subjects by one of the rule's windows, heaviest first"),
    ("events", "the newest events of a stream about this subject, newest first"),
    ("attr", "the newest text `stream.field` about this subject, else about the host"),
    ("cgroup_file", "the path of a control file of the subject's memory cgroup"),
    ("says", "the summary, one sentence; in a test: it has this text"),
    (
        "evidence",
        "adds a window's value, with the line it crossed; in a test: there is evidence of this window or field",
    ),
    ("rules_out", "says which cause it is not, and by which figure; in a test: it does"),
    ("hint", "adds what to do, a command as an array, and its risk; in a test: some hint has this text"),
    ("culprit", "adds who did it; in a test: some culprit has this text"),
    ("culprits", "adds all of a list"),
    ("victim", "adds who suffers; in a test: some victim has this text"),
    ("victims", "adds all of a list"),
    ("touches", "another subject at which it happens, by which findings are related"),
    ("severity", "another severity than the rule's; in a test: it is this"),
    ("confidence", "another confidence; in a test: it is this"),
    (
        "series",
        "`stream.field{label=value}` and its values, one a tick: `5`, `1x3`, `0+10x5`, `_` for none; a counter that falls was reset",
    ),
    ("event", "one thing that happened at this time, with its numbers"),
    ("burst", "so many of them at once"),
    ("gap", "from this time to that nothing comes from the stream"),
    ("suspend", "at this time the machine had slept for so long"),
    ("also", "runs another loaded rule beside this one"),
    ("interval", "the time between ticks; a second if it is not said"),
    ("param", "another value of a param"),
    ("at", "a moment at which something is expected"),
    ("expect", "the state: `silent`, `pending`, `firing`, `recovering`, `resolved` or `stale`"),
    ("on", "only for this subject"),
    ("chain", "the incident's chain from root to last symptom: `a.b > c.d`, rules or causes"),
    ("health", "whether the rule itself is `ok` or `suspended`"),
    ("starts_with", "whether it begins so"),
    ("ends_with", "whether it ends so"),
    ("index_of", "where it is, or -1"),
    ("sub_string", "a part, from a place on, of a length"),
    ("split", "its parts between these"),
    ("to_upper", "in capitals"),
    ("to_lower", "in small letters"),
    ("push", "adds an item"),
    ("get", "an item or key"),
    ("value", "in the unit that evidence shows"),
    ("ns", "a time in nanoseconds"),
    ("us", "a time in microseconds"),
    ("ms", "a time in milliseconds"),
    ("s", "a time in seconds"),
    ("pct", "a ratio in per cent"),
    ("kib", "bytes in KiB"),
    ("mib", "bytes in MiB"),
    ("gib", "bytes in GiB"),
    ("mean", "a baseline's mean"),
    ("dev", "a baseline's standard deviation"),
    ("sigma", "how many deviations the newest tick lies above a baseline's mean"),
    ("now", "the newest tick's own value of a baseline or ewma"),
    ("known", "whether enough was seen; other properties of an unknown window end a condition as unknown"),
    ("overdue", "of a window with `after`: nothing came within the span, for as long as the window's own"),
    ("text", "for people, with its unit"),
    ("unit", "of a window: its unit; of the context: the subject's systemd unit"),
    ("name", "a short name"),
    ("subject", "the subject as text, such as `cpu:3`"),
    ("path", "the cgroup's path, or nothing"),
    ("parent", "the parent cgroup's path"),
    ("pod_uid", "the pod that the cgroup belongs to"),
    ("container_id", "the container that the cgroup belongs to"),
    ("kind", "the kind of subject"),
    ("host", "the host's name"),
    ("kernel", "the kernel's release"),
    ("cgroup_v2", "whether the memory controller is on cgroup v2"),
    ("cpus", "online CPUs"),
    ("on_host", "whether the subject is the host"),
    ("on_cpu", "whether it is a CPU"),
    ("on_node", "whether it is a NUMA node"),
    ("on_cgroup", "whether it is a cgroup"),
    ("on_task", "whether it is a task"),
    ("on_device", "whether it is a device"),
];

fn help(name: &str) -> &'static str {
    HELP.iter().find(|(n, _)| *n == name).map_or("", |(_, h)| h)
}

/// Everything that rules can call and read.
pub fn interface() -> Vec<Family> {
    let member =
        |form: String, name: &str, gives: Ty| Described { form, gives: gives.name(), help: help(name) };
    FAMILIES
        .iter()
        .map(|(ty, title, on, _)| {
            let methods = natives::forms(*ty)
                .map(|(name, args, gives)| member(format!("{name}({})", args.join(", ")), name, gives));
            let mut members: Vec<Described> = methods.collect();
            members.extend(
                properties(*ty).into_iter().map(|(name, gives)| member(name.to_string(), name, gives)),
            );
            Family { title, on, members }
        })
        .collect()
}

fn properties(ty: Ty) -> Vec<(&'static str, Ty)> {
    match ty {
        Ty::Window(_) => {
            let numbers = Prop::ALL.iter().map(|(name, p)| match p {
                Prop::Known | Prop::Overdue => (*name, Ty::Bool),
                _ => (*name, Ty::Num),
            });
            numbers.chain([("text", Ty::Text), ("unit", Ty::Text), ("name", Ty::Text)]).collect()
        }
        Ty::Windows => super::manifest::RESERVED_WINDOWS.iter().map(|n| (*n, Ty::Bool)).collect(),
        other => natives::properties(other)
            .into_iter()
            .filter_map(|n| natives::property(other, n).map(|t| (n, t)))
            .collect(),
    }
}

/// The same as a definition file (`.d.rhai`) for editors with a Rhai language server.
pub fn definitions() -> String {
    let mut out = String::from("// What rules of whystall can call and read.\nmodule static;\n");
    let of = |t: Ty| match t {
        Ty::Num => "float",
        Ty::Int => "int",
        Ty::Bool => "bool",
        Ty::Text => "string",
        Ty::Unit => "()",
        Ty::Windows => "windows",
        Ty::Window(_) => "window",
        Ty::Params => "params",
        Ty::Ctx => "ctx",
        Ty::Verdict => "cause",
        Ty::Test => "test",
        Ty::Checkpoint => "checkpoint",
        Ty::Array | Ty::List => "array",
        Ty::Item => "map",
        Ty::Any => "?",
    };
    let arg = |word: &str| match word {
        "text" => "string",
        "number" => "float",
        "[text, …]" | "list" => "array",
        "window" => "window",
        "item" => "map",
        _ => "?",
    };
    for (ty, title, _, name) in FAMILIES {
        let _ = writeln!(out, "\n// {title}");
        let this = if name.is_empty() { None } else { Some(format!("this: {name}")) };
        for (f, args, gives) in natives::forms(ty) {
            let args = args.iter().enumerate().map(|(i, a)| format!("arg{}: {}", i + 1, arg(a)));
            let all: Vec<String> = this.iter().cloned().chain(args).collect();
            let _ = writeln!(out, "/// {}\nfn {f}({}) -> {};", help(f), all.join(", "), of(gives));
        }
        for (p, gives) in properties(ty) {
            let _ = writeln!(out, "/// {}\nfn get {p}(this: {name}) -> {};", help(p), of(gives));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_described_and_nothing_else() {
        let all = interface();
        let members = || all.iter().flat_map(|f| &f.members);
        let missing: Vec<&str> = members().filter(|m| m.help.is_empty()).map(|m| m.form.as_str()).collect();
        assert_eq!(missing, Vec::<&str>::new());
        let named = |n: &str| members().any(|m| m.form.split('(').next() == Some(n));
        let stale: Vec<&str> = HELP.iter().map(|(n, _)| *n).filter(|n| !named(n)).collect();
        assert_eq!(stale, Vec::<&str>::new());
    }

    #[test]
    fn definitions_name_receivers_and_types() {
        let text = definitions();
        for line in [
            "fn cause(arg1: string, arg2: string) -> cause;",
            "fn evidence(this: cause, arg1: window, arg2: float) -> cause;",
            "fn get ms(this: window) -> float;",
            "fn get on_cpu(this: windows) -> bool;",
            "fn top(this: ctx, arg1: string, arg2: float) -> array;",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
    }
}
