//! Finds the words of a script that are code, not text or comment, and replaces some.

use super::super::diag::Place;

/// What was replaced: line, the column behind the new text, and by how much it moved what follows.
#[derive(Debug, Default)]
pub(crate) struct Edits(Vec<(usize, usize, isize)>);

impl Edits {
    /// The column before the replacements.
    pub(super) fn column(&self, place: Place) -> usize {
        let moved: isize =
            self.0.iter().filter(|(l, c, _)| *l == place.line && *c <= place.column).map(|(.., by)| by).sum();
        place.column.saturating_add_signed(-moved).max(1)
    }
}

/// What stands around the code.
#[derive(Clone, Copy, PartialEq)]
enum Inside {
    /// Braces open.
    Code(usize),
    Template,
}

/// Hands each word of code to `edit` with whether a dot precedes it, what follows it, and its place; it says how many
/// bytes more than the word are replaced, and by what. The first line is the one after line `before`.
pub(super) fn rewrite(
    text: &str,
    before: usize,
    edits: &mut Edits,
    mut edit: impl FnMut(&str, bool, &str, Place) -> Option<(usize, String)>,
) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / 8);
    let mut stack = vec![Inside::Code(0)];
    let (mut line, mut column, mut at) = (before + 1, 1, 0);
    let mut dotted = false;
    while at < text.len() {
        let rest = &text[at..];
        let Some(c) = rest.chars().next() else { break };
        // How far the next piece that is taken over as it is reaches.
        let mut piece = c.len_utf8();
        match stack.last().copied().unwrap_or(Inside::Code(0)) {
            Inside::Template => match c {
                '`' => {
                    stack.pop();
                }
                '$' if rest.starts_with("${") => {
                    stack.push(Inside::Code(1));
                    piece = 2;
                }
                '\\' => piece += rest[1..].chars().next().map_or(0, char::len_utf8),
                _ => {}
            },
            Inside::Code(braces) => match c {
                '"' => piece = quoted(rest, '"'),
                '\'' => piece = quoted(rest, '\''),
                '`' => stack.push(Inside::Template),
                '/' if rest.starts_with("//") => piece = rest.find('\n').unwrap_or(rest.len()),
                '/' if rest.starts_with("/*") => piece = comment(rest),
                '{' | '}' => {
                    stack.pop();
                    let now = if c == '{' { braces + 1 } else { braces.saturating_sub(1) };
                    // The brace that ends what a template inserts.
                    if now > 0 || stack.is_empty() {
                        stack.push(Inside::Code(now));
                    }
                }
                c if c.is_alphabetic() || c == '_' => {
                    piece = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
                    let (word, follows) = rest.split_at(piece);
                    if let Some((more, new)) = edit(word, dotted, follows, Place { line, column }) {
                        let old = text[at..at + piece + more].chars().count();
                        let length = new.chars().count();
                        column += length;
                        let by = length as isize - old as isize;
                        if by != 0 {
                            edits.0.push((line, column, by));
                        }
                        out.push_str(&new);
                        at += piece + more;
                        dotted = false;
                        continue;
                    }
                }
                c if c.is_ascii_digit() => {
                    piece = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
                }
                _ => {}
            },
        }
        let taken = &rest[..piece];
        dotted = taken == ".";
        for c in taken.chars() {
            (line, column) = if c == '\n' { (line + 1, 1) } else { (line, column + 1) };
        }
        out.push_str(taken);
        at += piece;
    }
    out
}

/// Bytes of a literal in quotes.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (i, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return i + c.len_utf8(),
            _ => {}
        }
    }
    text.len()
}

/// Bytes of a block comment; they nest.
fn comment(text: &str) -> usize {
    let (mut depth, mut at) = (0usize, 0);
    while at < text.len() {
        let rest = &text[at..];
        if rest.starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest.starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn replaced(text: &str) -> (String, Edits) {
        let mut edits = Edits::default();
        let out =
            rewrite(text, 0, &mut edits, |w, dotted, _, _| (w == "x" && !dotted).then(|| (0, "long".into())));
        (out, edits)
    }

    #[test]
    fn only_code_is_changed() {
        let text = "x + a.x // x\n\"x \\\" x\" + `x ${x + `x${x}` + #{ a: x }} x` /* x /* x */ x */ + x + 'x' + xx + 1x";
        let (out, _) = replaced(text);
        assert_eq!(
            out,
            "long + a.x // x\n\"x \\\" x\" + `x ${long + `x${long}` + #{ a: long }} x` /* x /* x */ x */ + long + 'x' + xx + 1x"
        );
    }

    #[test]
    fn columns_lead_back() {
        let (out, edits) = replaced("x + x + y\ny");
        assert_eq!(out, "long + long + y\ny");
        let back = |line, column| edits.column(Place { line, column });
        assert_eq!((back(1, 1), back(1, 8), back(1, 15), back(2, 1)), (1, 5, 9, 1));
    }

    proptest! {
        #[test]
        fn any_text_survives(text in "[x`$\\{\\}\"'/*\\\\\n aé.]{0,60}") {
            let mut edits = Edits::default();
            prop_assert_eq!(rewrite(&text, 0, &mut edits, |_, _, _, _| None), text.clone());
            replaced(&text);
        }
    }
}
