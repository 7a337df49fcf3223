//! Which occurrences a window counts: patterns on their text fields.

use whystall_event::{RowRef, Stream};

use super::Filter;

/// A window's filter, bound to a stream's declaration.
#[derive(Debug, Default)]
pub(crate) struct BoundFilter {
    /// Field index (or none: the stream has no such field, nothing matches) and patterns.
    conditions: Vec<(Option<usize>, Vec<Pattern>)>,
}

#[derive(Debug)]
struct Pattern {
    text: Box<str>,
    open_start: bool,
    open_end: bool,
}

impl Pattern {
    fn new(s: &str) -> Pattern {
        let open_start = s.starts_with('*');
        let s = s.strip_prefix('*').unwrap_or(s);
        let open_end = s.ends_with('*') || (s.is_empty() && open_start);
        let text = s.strip_suffix('*').unwrap_or(s).into();
        Pattern { text, open_start, open_end }
    }

    fn matches(&self, s: &str) -> bool {
        let text = self.text.as_ref();
        match (self.open_start, self.open_end) {
            (false, false) => s == text,
            (false, true) => s.starts_with(text),
            (true, false) => s.ends_with(text),
            (true, true) => s.contains(text),
        }
    }
}

impl BoundFilter {
    /// Binds `filter` to `stream`; none if it has no condition.
    pub(crate) fn bind(filter: &[Filter], stream: &Stream) -> Option<BoundFilter> {
        let bind = |(field, patterns): &Filter| {
            (stream.field_index(field), patterns.iter().map(|p| Pattern::new(p)).collect())
        };
        (!filter.is_empty()).then(|| BoundFilter { conditions: filter.iter().map(bind).collect() })
    }

    /// Whether every condition holds for `row`.
    pub(crate) fn matches(&self, row: &RowRef<'_>) -> bool {
        self.conditions.iter().all(|(field, patterns)| {
            let text = field.and_then(|f| row.text(f));
            text.is_some_and(|t| patterns.iter().any(|p| p.matches(t)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Pattern;

    #[test]
    fn patterns() {
        let m = |p: &str, s: &str| Pattern::new(p).matches(s);
        assert!(m("abc", "abc") && !m("abc", "abcd") && !m("abc", "xabc"));
        assert!(m("abc*", "abcd") && !m("abc*", "xabc"));
        assert!(m("*abc", "xabc") && !m("*abc", "abcd"));
        assert!(m("*b*", "abc") && !m("*b*", "ac"));
        assert!(m("*", "") && m("*", "x") && m("**", "x") && !m("", "x") && m("", ""));
    }
}
