//! The rules that ship with whystall, as source text. This crate only lists them; the engine reads them.

/// One built-in rule: where its file stands (for diagnostics) and its text.
#[derive(Debug, Clone, Copy)]
pub struct Builtin {
    /// Path relative to `rules/`, for example `memory/direct_reclaim_burst.rhai`.
    pub path: &'static str,
    /// The file's text.
    pub source: &'static str,
}

/// Every built-in rule. Adding one is its file and one line here.
pub const ALL: &[Builtin] = &[];
