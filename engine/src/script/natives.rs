//! What the sandbox offers to rules, as the type checker sees it: one table, which a test holds against the sandbox.

/// The type of an expression in a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Ty {
    /// Not known before the script runs.
    Any,
    Num,
    Int,
    Bool,
    Text,
    Unit,
    /// `w`
    Windows,
    /// `w.NAME`, by index
    Window(u16),
    /// `p`
    Params,
    /// `ctx`
    Ctx,
    /// What `cause(…)` begins.
    Verdict,
    /// `t` of a test
    Test,
    /// `t.at(…)`
    Checkpoint,
    Array,
    /// An array of items: `ctx.top(…)`, `ctx.events(…)`.
    List,
    /// One of those, or a map: its properties are only known when it exists.
    Item,
}

impl Ty {
    /// What to call it in a message.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Ty::Any => "a value",
            Ty::Num => "a number",
            Ty::Int => "an integer",
            Ty::Bool => "a boolean",
            Ty::Text => "a string",
            Ty::Unit => "nothing",
            Ty::Windows => "the windows",
            Ty::Window(_) => "a window",
            Ty::Params => "the params",
            Ty::Ctx => "the context",
            Ty::Verdict => "a cause",
            Ty::Test => "the test",
            Ty::Checkpoint => "a checkpoint",
            Ty::Array => "an array",
            Ty::List => "a list",
            Ty::Item => "a map",
        }
    }
}

/// What a parameter accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Arg {
    Text,
    Num,
    Array,
    Window,
    Item,
    List,
    Any,
}

impl Arg {
    fn takes(self, t: Ty) -> bool {
        if t == Ty::Any || self == Arg::Any {
            return true;
        }
        match self {
            Arg::Text => matches!(t, Ty::Text | Ty::Item),
            Arg::Num => matches!(t, Ty::Num | Ty::Int | Ty::Item),
            Arg::Array => matches!(t, Ty::Array | Ty::Item),
            Arg::Window => matches!(t, Ty::Window(_)),
            Arg::Item => t == Ty::Item,
            Arg::List => matches!(t, Ty::List | Ty::Array),
            Arg::Any => true,
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Arg::Text => "text",
            Arg::Num => "number",
            Arg::Array => "[text, …]",
            Arg::Window => "window",
            Arg::Item => "item",
            Arg::List => "list",
            Arg::Any => "value",
        }
    }
}

struct Sig(&'static str, &'static [Arg], Ty);

const FUNCTIONS: &[Sig] = &[
    Sig("cause", &[Arg::Text], Ty::Verdict),
    Sig("cause", &[Arg::Text, Arg::Text], Ty::Verdict),
    Sig("min", &[Arg::Num, Arg::Num], Ty::Num),
    Sig("max", &[Arg::Num, Arg::Num], Ty::Num),
    Sig("abs", &[Arg::Num], Ty::Num),
    Sig("sqrt", &[Arg::Num], Ty::Num),
    Sig("floor", &[Arg::Num], Ty::Num),
    Sig("ceiling", &[Arg::Num], Ty::Num),
    Sig("round", &[Arg::Num], Ty::Num),
    Sig("ln", &[Arg::Num], Ty::Num),
    Sig("exp", &[Arg::Num], Ty::Num),
    Sig("to_int", &[Arg::Num], Ty::Int),
    Sig("to_float", &[Arg::Num], Ty::Num),
    Sig("range", &[Arg::Num, Arg::Num], Ty::Any),
    Sig("len", &[Arg::Any], Ty::Int),
    // `x in list` is parsed as this call.
    Sig("contains", &[Arg::Any, Arg::Any], Ty::Bool),
];

const VERDICT: &[Sig] = &[
    Sig("says", &[Arg::Text], Ty::Verdict),
    Sig("evidence", &[Arg::Window], Ty::Verdict),
    Sig("evidence", &[Arg::Window, Arg::Num], Ty::Verdict),
    Sig("rules_out", &[Arg::Text, Arg::Text], Ty::Verdict),
    Sig("hint", &[Arg::Text], Ty::Verdict),
    Sig("hint", &[Arg::Text, Arg::Array], Ty::Verdict),
    Sig("hint", &[Arg::Text, Arg::Array, Arg::Text], Ty::Verdict),
    Sig("culprit", &[Arg::Item], Ty::Verdict),
    Sig("culprits", &[Arg::List], Ty::Verdict),
    Sig("victim", &[Arg::Item], Ty::Verdict),
    Sig("victims", &[Arg::List], Ty::Verdict),
    Sig("touches", &[Arg::Text], Ty::Verdict),
    Sig("severity", &[Arg::Text], Ty::Verdict),
    Sig("confidence", &[Arg::Text], Ty::Verdict),
];

const CTX: &[Sig] = &[
    Sig("top", &[Arg::Text, Arg::Num], Ty::List),
    Sig("events", &[Arg::Text, Arg::Num], Ty::List),
    Sig("events", &[Arg::Text, Arg::Num, Arg::Text], Ty::List),
    Sig("attr", &[Arg::Text], Ty::Text),
    Sig("cgroup_file", &[Arg::Text], Ty::Text),
];

const WINDOW: &[Sig] = &[Sig("or", &[Arg::Num], Ty::Num)];

const TEST: &[Sig] = &[
    Sig("series", &[Arg::Text, Arg::Text], Ty::Unit),
    Sig("event", &[Arg::Text, Arg::Text], Ty::Unit),
    Sig("event", &[Arg::Text, Arg::Text, Arg::Item], Ty::Unit),
    Sig("burst", &[Arg::Text, Arg::Num, Arg::Text], Ty::Unit),
    Sig("burst", &[Arg::Text, Arg::Num, Arg::Text, Arg::Item], Ty::Unit),
    Sig("gap", &[Arg::Text, Arg::Text, Arg::Text], Ty::Unit),
    Sig("suspend", &[Arg::Text, Arg::Text], Ty::Unit),
    Sig("also", &[Arg::Text], Ty::Unit),
    Sig("interval", &[Arg::Text], Ty::Unit),
    Sig("param", &[Arg::Text, Arg::Any], Ty::Unit),
    Sig("at", &[Arg::Text], Ty::Checkpoint),
];

const CHECKPOINT: &[Sig] = &[
    Sig("expect", &[Arg::Text], Ty::Checkpoint),
    Sig("on", &[Arg::Text], Ty::Checkpoint),
    Sig("cause", &[Arg::Text], Ty::Checkpoint),
    Sig("confidence", &[Arg::Text], Ty::Checkpoint),
    Sig("severity", &[Arg::Text], Ty::Checkpoint),
    Sig("says", &[Arg::Text], Ty::Checkpoint),
    Sig("rules_out", &[Arg::Text], Ty::Checkpoint),
    Sig("evidence", &[Arg::Text], Ty::Checkpoint),
    Sig("hint", &[Arg::Text], Ty::Checkpoint),
    Sig("culprit", &[Arg::Text], Ty::Checkpoint),
    Sig("victim", &[Arg::Text], Ty::Checkpoint),
    Sig("chain", &[Arg::Text], Ty::Checkpoint),
    Sig("health", &[Arg::Text], Ty::Checkpoint),
];

/// Methods of texts, numbers, arrays and items, from Rhai's own packages.
const VALUES: &[Sig] = &[
    Sig("len", &[], Ty::Int),
    Sig("is_empty", &[], Ty::Bool),
    Sig("contains", &[Arg::Any], Ty::Bool),
    Sig("starts_with", &[Arg::Text], Ty::Bool),
    Sig("ends_with", &[Arg::Text], Ty::Bool),
    Sig("index_of", &[Arg::Any], Ty::Int),
    Sig("sub_string", &[Arg::Num], Ty::Text),
    Sig("sub_string", &[Arg::Num, Arg::Num], Ty::Text),
    Sig("split", &[Arg::Text], Ty::Array),
    Sig("to_upper", &[], Ty::Text),
    Sig("to_lower", &[], Ty::Text),
    Sig("to_string", &[], Ty::Text),
    Sig("to_int", &[], Ty::Int),
    Sig("to_float", &[], Ty::Num),
    Sig("round", &[], Ty::Num),
    Sig("floor", &[], Ty::Num),
    Sig("ceiling", &[], Ty::Num),
    Sig("abs", &[], Ty::Num),
    Sig("push", &[Arg::Any], Ty::Unit),
    Sig("get", &[Arg::Any], Ty::Any),
];

const CTX_PROPERTIES: &[(&str, Ty)] = &[
    ("subject", Ty::Text),
    ("name", Ty::Text),
    ("path", Ty::Text),
    ("parent", Ty::Text),
    ("unit", Ty::Text),
    ("pod_uid", Ty::Text),
    ("container_id", Ty::Text),
    ("kind", Ty::Text),
    ("host", Ty::Text),
    ("kernel", Ty::Text),
    ("cgroup_v2", Ty::Bool),
    ("cpus", Ty::Num),
];

const VALUE_PROPERTIES: &[(&str, Ty)] = &[("len", Ty::Int), ("is_empty", Ty::Bool)];

/// Names that are switched off in the sandbox.
pub(crate) const FORBIDDEN: &[&str] =
    &["eval", "print", "debug", "Fn", "call", "curry", "import", "is_shared", "sleep"];

/// What a test can expect of the rule itself.
pub(crate) const HEALTH: [&str; 2] = ["ok", "suspended"];

/// States a test can expect.
pub(crate) const STATES: [&str; 6] = ["silent", "pending", "firing", "recovering", "resolved", "stale"];

fn table(on: Ty) -> &'static [Sig] {
    match on {
        Ty::Unit => FUNCTIONS,
        Ty::Verdict => VERDICT,
        Ty::Ctx => CTX,
        Ty::Window(_) => WINDOW,
        Ty::Test => TEST,
        Ty::Checkpoint => CHECKPOINT,
        Ty::Windows | Ty::Params | Ty::Bool => &[],
        Ty::Any | Ty::Num | Ty::Int | Ty::Text | Ty::Array | Ty::List | Ty::Item => VALUES,
    }
}

/// The forms in which functions or a type's methods are called: name, arguments, result.
pub(crate) fn forms(on: Ty) -> impl Iterator<Item = (&'static str, Vec<&'static str>, Ty)> {
    table(on).iter().map(|s| (s.0, s.1.iter().map(|a| a.word()).collect(), s.2))
}

fn find(on: Ty, name: &str, args: &[Ty]) -> Option<Ty> {
    table(on)
        .iter()
        .find(|s| s.0 == name && s.1.len() == args.len() && s.1.iter().zip(args).all(|(a, t)| a.takes(*t)))
        .map(|s| s.2)
}

/// The result of calling the global function `name`, if it takes these arguments.
pub(crate) fn function(name: &str, args: &[Ty]) -> Option<Ty> {
    find(Ty::Unit, name, args)
}

/// The result of calling a method.
pub(crate) fn method(on: Ty, name: &str, args: &[Ty]) -> Option<Ty> {
    if on == Ty::Any && VERDICT.iter().any(|s| s.0 == name) {
        return Some(Ty::Verdict);
    }
    find(on, name, args)
}

/// Whether there is a global function of this name with any parameters.
pub(crate) fn is_function(name: &str) -> bool {
    FUNCTIONS.iter().any(|s| s.0 == name)
}

/// Names of the global functions.
pub(crate) fn function_names() -> impl Iterator<Item = &'static str> {
    FUNCTIONS.iter().map(|s| s.0)
}

/// Names of the methods of a type.
pub(crate) fn methods(on: Ty) -> Vec<&'static str> {
    let mut names: Vec<&str> = table(on).iter().map(|s| s.0).collect();
    names.dedup();
    names
}

/// Whether values of some type have a method of this name.
pub(crate) fn is_method(name: &str) -> bool {
    method_names().any(|n| n == name)
}

/// Names of the methods of all types.
pub(crate) fn method_names() -> impl Iterator<Item = &'static str> {
    [VERDICT, CTX, WINDOW, TEST, CHECKPOINT, VALUES].into_iter().flatten().map(|s| s.0)
}

/// How a method or function is called, for help.
pub(crate) fn usage(on: Ty, name: &str) -> String {
    let forms: Vec<String> = table(on)
        .iter()
        .filter(|s| s.0 == name)
        .map(|s| format!("{name}({})", s.1.iter().map(|a| a.word()).collect::<Vec<_>>().join(", ")))
        .collect();
    format!("it is called as {}", forms.join(" or "))
}

/// The type of a property.
pub(crate) fn property(on: Ty, name: &str) -> Option<Ty> {
    match on {
        Ty::Any | Ty::Item => Some(Ty::Any),
        Ty::Ctx => CTX_PROPERTIES.iter().find(|p| p.0 == name).map(|p| p.1),
        Ty::Text | Ty::Array | Ty::List => VALUE_PROPERTIES.iter().find(|p| p.0 == name).map(|p| p.1),
        _ => None,
    }
}

/// Names of the properties of a type.
pub(crate) fn properties(on: Ty) -> Vec<&'static str> {
    match on {
        Ty::Ctx => CTX_PROPERTIES.iter().map(|p| p.0).collect(),
        Ty::Text | Ty::Array | Ty::List => VALUE_PROPERTIES.iter().map(|p| p.0).collect(),
        _ => Vec::new(),
    }
}
