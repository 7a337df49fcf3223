//! Parsing that goes on after a mistake. Rhai's parser stops at the first one; so where a file does not parse, each of
//! its functions and constants is parsed by itself, every broken one is reported, and the rest is checked without them.

use rhai::{AST, ParseError};

use super::codes::Code;
use super::diag::Report;
use super::sandbox::Sandbox;

/// Items of a file that are looked at one by one.
const MAX_ITEMS: usize = 256;

/// What could be parsed.
pub(crate) struct Parsed {
    pub(crate) ast: AST,
    /// Names of functions and constants that could not, and were left out.
    pub(crate) lost: Vec<String>,
}

/// Parses a file and reports each item that is no valid Rhai; `None` if nothing sound is left.
pub(crate) fn parse(sandbox: &Sandbox, text: &str, report: &mut Report<'_>) -> Option<Parsed> {
    let whole = match sandbox.compile(text) {
        Ok(ast) => return Some(Parsed { ast, lost: Vec::new() }),
        Err(e) => e,
    };
    let items = items(text);
    if items.len() > MAX_ITEMS {
        tell(&whole, report);
        return None;
    }
    let (mut sound, mut lost) = (String::new(), Vec::new());
    for item in &items {
        // Line feeds in front keep the places right.
        let alone = "\n".repeat(item.line) + item.text;
        match sandbox.compile(&alone) {
            Ok(_) => sound.push_str(item.text),
            Err(e) => {
                tell(&e, report);
                lost.push(item.name.to_string());
                sound.extend(item.text.chars().filter(|c| *c == '\n'));
            }
        }
    }
    if lost.is_empty() {
        tell(&whole, report);
        return None;
    }
    // What each by itself allows may still be too much together.
    sandbox.compile(&sound).ok().map(|ast| Parsed { ast, lost })
}

fn tell(e: &ParseError, report: &mut Report<'_>) {
    let message = e.err_type().to_string();
    let mut chars = message.chars();
    let message: String = chars.next().map(|c| c.to_lowercase().chain(chars).collect()).unwrap_or_default();
    let reserved = message.contains("reserved");
    report.add(Code::Syntax, e.position(), message);
    if reserved {
        report.help("Rhai keeps this word for itself: choose another name, or add an underscore to it");
    }
}

struct Item<'t> {
    /// What it declares.
    name: &'t str,
    /// Lines before it.
    line: usize,
    text: &'t str,
}

/// A file cut where lines begin with `fn` or `const`: there an item begins whatever braces before it stay open.
fn items(text: &str) -> Vec<Item<'_>> {
    let mut out: Vec<Item<'_>> = Vec::new();
    let (mut from, mut begun, mut name) = (0, 0, "");
    let mut at = 0;
    for (n, line) in text.split_inclusive('\n').enumerate() {
        let declared = line.strip_prefix("fn ").or_else(|| line.strip_prefix("const "));
        if let Some(rest) = declared {
            if at > from {
                out.push(Item { name, line: begun, text: &text[from..at] });
            }
            let word = |c: char| !(c.is_alphanumeric() || c == '_');
            (from, begun, name) = (at, n, rest.trim_start().split(word).next().unwrap_or(""));
        }
        at += line.len();
    }
    out.push(Item { name, line: begun, text: &text[from..] });
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_broken_item_is_told_and_the_others_stay() {
        let text = "//! x\nconst RULE = 1;\nfn a() { 1 +; }\nfn b() {\n  if true {\n}\nfn c() { 2 }\nfn d() { let = 3; }\n";
        let sandbox = Sandbox::new();
        let mut report = Report::new("t", text);
        let parsed = parse(&sandbox, text, &mut report).unwrap();
        assert_eq!(parsed.lost, ["a", "b", "d"]);
        let names: Vec<&str> = parsed.ast.iter_functions().map(|f| f.name).collect();
        assert_eq!(names, ["c"]);
        let lines: Vec<usize> = report.finish().iter().map(|d| d.place.line).collect();
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert_eq!((lines[0], lines[2]), (3, 8));
    }
}
