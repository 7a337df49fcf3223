//! Rust source as words, strings, comments and marks, with what belongs to tests told apart. A lexer, not a parser:
//! enough to say "this name is used here" without being fooled by comments, strings or test modules.

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// An identifier, keyword or number.
    Word,
    /// A string literal of any sort; the text is what stands between the quotes.
    Str,
    /// A comment with its slashes.
    Comment,
    /// One character of punctuation.
    Mark,
}

/// One token.
#[derive(Debug, Clone)]
pub(super) struct Token {
    /// The line it begins on, from 1.
    pub(super) line: usize,
    /// What it is.
    pub(super) kind: Kind,
    /// Its text.
    pub(super) text: String,
    /// Whether it stands below `#[cfg(test)]`.
    pub(super) test: bool,
}

/// One `.rs` file.
#[derive(Debug)]
pub(super) struct Source {
    /// Relative to the repository's root, with `/`.
    pub(super) path: String,
    /// The file as it is.
    pub(super) text: String,
    /// Everything in it but white space.
    pub(super) tokens: Vec<Token>,
}

impl Source {
    /// Reads `text` as the file at `path`. Files of tests and benchmarks are test code from end to end.
    pub(super) fn new(path: &str, text: &str) -> Source {
        let mut tokens = lex(text);
        mark_tests(&mut tokens);
        let mut source = Source { path: path.into(), text: text.into(), tokens };
        if path.split('/').any(|part| matches!(part, "tests" | "tests.rs" | "benches" | "examples" | "fuzz"))
        {
            source.make_test();
        }
        source
    }

    /// Declares the whole file test code.
    pub(super) fn make_test(&mut self) {
        self.tokens.iter_mut().for_each(|t| t.test = true);
    }

    /// The tokens that are neither comments nor test code.
    pub(super) fn code(&self) -> Vec<&Token> {
        self.tokens.iter().filter(|t| !t.test && t.kind != Kind::Comment).collect()
    }

    /// The lines on which `pattern`, itself a piece of Rust, occurs in code that is no test.
    pub(super) fn find(&self, pattern: &str) -> Vec<usize> {
        occurrences(&self.code(), pattern)
    }

    /// The same with test code.
    pub(super) fn find_anywhere(&self, pattern: &str) -> Vec<usize> {
        let code: Vec<&Token> = self.tokens.iter().filter(|t| t.kind != Kind::Comment).collect();
        occurrences(&code, pattern)
    }

    /// The lines that name the module `std::NAME`, also as `use std::{NAME, ...}`.
    pub(super) fn uses_std(&self, name: &str) -> Vec<usize> {
        let code = self.code();
        let mut lines = occurrences(&code, &format!("std::{name}"));
        for (i, open) in code.windows(4).enumerate() {
            if !open.iter().map(|t| t.text.as_str()).eq(["std", ":", ":", "{"]) {
                continue;
            }
            let mut depth = 1;
            for pair in code[i + 3..].windows(2) {
                let (before, token) = (pair[0], pair[1]);
                match token.text.as_str() {
                    "{" => depth += 1,
                    "}" => depth -= 1,
                    text if depth == 1 && text == name && matches!(before.text.as_str(), "{" | ",") => {
                        lines.push(token.line);
                    }
                    _ => {}
                }
                if depth == 0 {
                    break;
                }
            }
        }
        lines
    }

    /// The names of modules in files of their own that are only compiled for tests.
    pub(super) fn test_modules(&self) -> Vec<&str> {
        let code: Vec<&Token> = self.tokens.iter().filter(|t| t.test && t.kind != Kind::Comment).collect();
        let named = code.windows(3).filter(|w| w[0].text == "mod" && w[2].text == ";");
        named.map(|w| w[1].text.as_str()).collect()
    }

    /// How many lines stand outside test code, blank ones not counted.
    pub(super) fn lines_outside_tests(&self) -> usize {
        let mut lines: Vec<usize> = Vec::new();
        for t in self.tokens.iter().filter(|t| !t.test) {
            lines.extend(t.line..=t.line + t.text.matches('\n').count());
        }
        lines.dedup();
        lines.len()
    }
}

fn occurrences(code: &[&Token], pattern: &str) -> Vec<usize> {
    let wanted = lex(pattern);
    let same = |a: &Token, b: &Token| a.kind == b.kind && a.text == b.text;
    let hits = code.windows(wanted.len().max(1)).filter(|w| w.iter().zip(&wanted).all(|(a, b)| same(a, b)));
    hits.map(|w| w[0].line).collect()
}

fn lex(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let (mut tokens, mut i, mut line) = (Vec::new(), 0, 1);
    while i < chars.len() {
        let start = i;
        let word = at(i).is_alphanumeric() || at(i) == '_';
        let (kind, inner) = if at(i).is_whitespace() {
            line += usize::from(at(i) == '\n');
            i += 1;
            continue;
        } else if at(i) == '/' && at(i + 1) == '/' {
            i = (i..chars.len()).find(|&n| chars[n] == '\n').unwrap_or(chars.len());
            (Kind::Comment, start..i)
        } else if at(i) == '/' && at(i + 1) == '*' {
            i = block_comment_end(&chars, i);
            (Kind::Comment, start..i)
        } else if let Some((inner, end)) = string(&chars, i) {
            i = end;
            (Kind::Str, inner)
        } else if at(i) == '\'' && (at(i + 1) == '\\' || at(i + 2) == '\'') {
            // A character, not a lifetime. What is escaped may itself be a quote.
            i = (i + 3..chars.len()).find(|&n| chars[n - 1] == '\'').unwrap_or(chars.len());
            if at(start + 1) == '\\' && at(start + 2) == '\'' {
                i = start + 4;
            }
            (Kind::Mark, start..i.min(chars.len()))
        } else if word {
            while at(i).is_alphanumeric() || at(i) == '_' {
                i += 1;
            }
            (Kind::Word, start..i)
        } else {
            i += 1;
            (Kind::Mark, start..i)
        };
        tokens.push(Token { line, kind, text: chars[inner].iter().collect(), test: false });
        line += chars[start..i.min(chars.len())].iter().filter(|c| **c == '\n').count();
    }
    tokens
}

/// Block comments nest.
fn block_comment_end(chars: &[char], start: usize) -> usize {
    let (mut depth, mut i) = (0_usize, start);
    while i + 1 < chars.len() {
        match (chars[i], chars[i + 1]) {
            ('/', '*') => (depth, i) = (depth + 1, i + 2),
            ('*', '/') => (depth, i) = (depth - 1, i + 2),
            _ => i += 1,
        }
        if depth == 0 {
            return i;
        }
    }
    chars.len()
}

/// If a string literal begins at `start`: where its content is, and where it ends.
fn string(chars: &[char], start: usize) -> Option<(std::ops::Range<usize>, usize)> {
    let prefix = chars[start..].iter().take_while(|c| matches!(c, 'b' | 'c' | 'r')).count();
    if start > 0 && (chars[start - 1].is_alphanumeric() || chars[start - 1] == '_') || prefix > 2 {
        return None;
    }
    let raw = chars[start..start + prefix].contains(&'r');
    let hashes = if raw { chars[start + prefix..].iter().take_while(|c| **c == '#').count() } else { 0 };
    let open = start + prefix + hashes;
    if chars.get(open) != Some(&'"') {
        return None;
    }
    let mut i = open + 1;
    while i < chars.len() {
        match chars[i] {
            '\\' if !raw => i += 2,
            '"' if chars[i + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes => {
                return Some((open + 1..i, i + 1 + hashes));
            }
            _ => i += 1,
        }
    }
    Some((open + 1..chars.len(), chars.len()))
}

/// Marks each item below `#[cfg(test)]` or `#[cfg(all(test, ...))]`, from the attribute to the item's end.
fn mark_tests(tokens: &mut [Token]) {
    let code: Vec<usize> = (0..tokens.len()).filter(|&i| tokens[i].kind != Kind::Comment).collect();
    let text = |n: usize| code.get(n).map_or("", |&i| tokens[i].text.as_str());
    let begins = |n: usize, with: &[&str]| with.iter().enumerate().all(|(k, w)| text(n + k) == *w);
    let (mut ranges, mut n) = (Vec::new(), 0);
    while n < code.len() {
        if !begins(n, &["#", "[", "cfg", "(", "test", ")"])
            && !begins(n, &["#", "[", "cfg", "(", "all", "(", "test"])
        {
            n += 1;
            continue;
        }
        let first = n;
        let mut depth = 0_i32;
        while n < code.len() {
            match text(n) {
                "(" | "[" | "{" => depth += 1,
                ")" | "]" | "}" => depth -= 1,
                _ => {}
            }
            let ends = match text(n) {
                "}" => depth <= 0,
                ";" => depth == 0,
                _ => depth < 0,
            };
            n += 1;
            if ends {
                break;
            }
        }
        if let (Some(&a), Some(&b)) = (code.get(first), code.get(n - 1)) {
            ranges.push(a..=b);
        }
    }
    for range in ranges {
        tokens[range].iter_mut().for_each(|t| t.test = true);
    }
}

#[test]
fn comments_strings_and_tests_are_no_code() {
    let source = Source::new(
        "a/src/lib.rs",
        r##"//! std::fs in a comment
fn f<'a>(x: &'a str) -> char { let _ = ("std::fs", r#"std::"fs"#, b"\"std::fs", '"', '\''); /* std::fs /* */ */ 'x' }
#[cfg(test)]
#[allow(dead_code)]
mod tests { use std::fs; fn g() { fs::read("x"); } }
#[cfg(test)]
mod support;
fn h() { std::fs::read("/proc/x") }
"##,
    );
    assert_eq!(source.find("std::fs"), [8]);
    assert_eq!(source.find_anywhere("std::fs"), [5, 8]);
    assert_eq!(source.test_modules(), ["support"]);
    assert_eq!(source.lines_outside_tests(), 3);
    let strings: Vec<_> =
        source.tokens.iter().filter(|t| t.kind == Kind::Str).map(|t| t.text.as_str()).collect();
    assert_eq!(strings, ["std::fs", "std::\"fs", "\\\"std::fs", "x", "/proc/x"]);
}

#[test]
fn imports_in_braces_are_seen() {
    let source =
        Source::new("a.rs", "use std::{collections::{fs, HashMap}, env,\n fs::{self, File}, path as fs};");
    assert_eq!(source.uses_std("fs"), [2]);
    assert_eq!(source.uses_std("env"), [1]);
    assert!(source.uses_std("net").is_empty());
    assert_eq!(Source::new("a.rs", "fn f() { std::net::f() }").uses_std("net"), [1]);
}
