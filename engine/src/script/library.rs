//! Functions and constants that several rules share: files in a directory `lib`, which a rule names with
//! `import "lib/NAME" as NAME;`. What it uses is written into its own text under names with the library's in front, so
//! that a rule stays one file with one AST, nothing overrides anything, and types are checked with the rule's own.

mod scan;

use std::borrow::Cow;
use std::collections::BTreeMap;

use rhai::Stmt;

use super::codes::Code;
use super::diag::{Diagnostic, Place, Report};
use super::functions::functions;
use super::manifest::Manifest;
use super::recover::{self, Parsed};
use super::rule::MAX_SOURCE;
use super::sandbox::Sandbox;
use super::types;
use scan::{Edits, rewrite};

/// All libraries by name.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Libraries(BTreeMap<String, Library>);

#[derive(Debug, PartialEq, Eq)]
struct Library {
    file: String,
    text: String,
    functions: Vec<String>,
    /// Constants with their literals as text.
    constants: BTreeMap<String, String>,
}

/// Where the parts of an expanded text come from.
#[derive(Debug, Default)]
pub(crate) struct Origin {
    /// Lines of the rule's own text.
    own: usize,
    edits: Edits,
    /// For each library: the line before its first one, its file and text.
    libraries: Vec<(usize, String, String)>,
}

impl Origin {
    pub(crate) fn is_empty(&self) -> bool {
        self.own == 0
    }

    /// The place in the text as it was written, with the library's file and text if it is there.
    pub(crate) fn of(&self, place: Place) -> (Place, Option<(&str, &str)>) {
        let column = self.edits.column(place);
        if place.line <= self.own {
            return (Place { column, ..place }, None);
        }
        let found = self.libraries.iter().rev().find(|(before, ..)| *before < place.line);
        match found {
            Some((before, file, text)) => (Place { line: place.line - before, column }, Some((file, text))),
            None => (place, None),
        }
    }
}

impl Libraries {
    /// Adds the library `name`, in place of one that has this name already, and returns what is wrong with it. Only one
    /// without errors is added.
    pub fn add(&mut self, sandbox: &Sandbox, name: &str, file: &str, text: &str) -> Vec<Diagnostic> {
        let mut report = Report::new(file, text);
        if let Some(library) = read(sandbox, file, text, &mut report)
            && !report.errors()
        {
            self.0.insert(name.to_string(), library);
        }
        report.finish()
    }

    /// The text of a rule with what it imports.
    pub(crate) fn expand<'t>(&self, text: &'t str, report: &mut Report<'_>) -> (Cow<'t, str>, Origin) {
        let imports = self.imports(text, report);
        if imports.is_empty() {
            return (text.into(), Origin::default());
        }
        let mut blank = String::with_capacity(text.len());
        for (n, line) in text.split_inclusive('\n').enumerate() {
            match imports.iter().any(|i| i.line == n) {
                true => blank.push_str(if line.ends_with('\n') { "\n" } else { "" }),
                false => blank.push_str(line),
            }
        }
        let mut edits = Edits::default();
        let mut out = rewrite(&blank, 0, &mut edits, |word, _, rest, at| {
            if word.contains("__") {
                report.add(
                    Code::BadFunction,
                    at,
                    format!("`{word}`: names with two underscores are those of libraries"),
                );
            }
            let import = imports.iter().find(|i| i.alias == word)?;
            let after = rest.strip_prefix("::")?;
            let member: &str = after.split(|c: char| !(c.is_alphanumeric() || c == '_')).next().unwrap_or("");
            if after[member.len()..].trim_start().starts_with('(') {
                // As long as it was, so that places stay right.
                return Some((2 + member.len(), format!("{word}__{member}")));
            }
            let library = import.library?;
            match library.constants.get(member) {
                Some(value) => Some((2 + member.len(), value.clone())),
                None => {
                    report.add(Code::UnknownVariable, at, format!("`{word}` has no constant `{member}`"));
                    report.suggest(member, library.constants.keys().map(String::as_str));
                    // A number is what most constants are, so that this is the only complaint.
                    Some((2 + member.len(), "0.0".into()))
                }
            }
        });
        let own = text.lines().count();
        let mut origin = Origin { own, edits, libraries: Vec::new() };
        if !out.ends_with('\n') {
            out.push('\n');
        }
        for i in &imports {
            let Some(library) = i.library else { continue };
            let before = out.lines().count();
            out.push_str(&library.named(i.alias, before, &mut origin.edits));
            out.push('\n');
            origin.libraries.push((before, library.file.clone(), library.text.clone()));
        }
        (out.into(), origin)
    }

    /// The lines that import libraries.
    fn imports<'t>(&self, text: &'t str, report: &mut Report<'_>) -> Vec<Import<'t, '_>> {
        let mut out: Vec<Import<'_, '_>> = Vec::new();
        for (line, text) in text.lines().enumerate() {
            let Some(rest) = text.strip_prefix("import ") else { continue };
            let at = Place { line: line + 1, column: 1 };
            let Some((name, alias)) = parse(rest) else {
                report
                    .add(Code::Import, at, "this import cannot be read")
                    .help("write `import \"lib/NAME\" as NAME;` on a line of its own");
                continue;
            };
            let library = self.0.get(name);
            if library.is_none() {
                report.add(Code::Import, at, format!("there is no library `lib/{name}`, or it has errors"));
                report.suggest(name, self.0.keys().map(String::as_str));
            }
            if out.iter().any(|i| i.alias == alias) {
                report.add(Code::Import, at, format!("two imports are called `{alias}`"));
                continue;
            }
            out.push(Import { line, alias, library });
        }
        out
    }
}

struct Import<'t, 'l> {
    line: usize,
    alias: &'t str,
    library: Option<&'l Library>,
}

/// `"lib/NAME" as ALIAS;`
fn parse(rest: &str) -> Option<(&str, &str)> {
    let (name, rest) = rest.trim_start().strip_prefix("\"lib/")?.split_once('"')?;
    let rest = rest.trim_start().strip_prefix("as ")?.trim_start();
    let (alias, rest) = rest.split_once(';')?;
    let alias = alias.trim_end();
    let word = |s: &str| {
        !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') && !s.contains("__")
    };
    let comment = rest.trim_start();
    (word(name) && word(alias) && (comment.is_empty() || comment.starts_with("//"))).then_some((name, alias))
}

impl Library {
    /// Its text with its names under `alias`; its first line comes after line `before`.
    fn named(&self, alias: &str, before: usize, edits: &mut Edits) -> String {
        let mut blank = String::with_capacity(self.text.len());
        for line in self.text.split_inclusive('\n') {
            match line.starts_with("const ") || line.starts_with("//!") {
                true => blank.push_str(if line.ends_with('\n') { "\n" } else { "" }),
                false => blank.push_str(line),
            }
        }
        rewrite(&blank, before, edits, |word, dotted, rest, _| {
            if dotted {
                return None;
            }
            if rest.trim_start().starts_with('(') && self.functions.iter().any(|f| f == word) {
                return Some((0, format!("{alias}__{word}")));
            }
            self.constants.get(word).map(|value| (0, value.clone()))
        })
    }
}

/// Reads and checks a library.
fn read(sandbox: &Sandbox, file: &str, text: &str, report: &mut Report<'_>) -> Option<Library> {
    if text.len() > MAX_SOURCE {
        let message = format!("the file has {} bytes; a library may have {MAX_SOURCE}", text.len());
        report.add(Code::Syntax, Place::default(), message);
        return None;
    }
    let Parsed { ast, lost } = recover::parse(sandbox, text, report)?;
    let mut constants = BTreeMap::new();
    let statements: &[Stmt] = ast.as_ref();
    for s in statements {
        match s {
            Stmt::Noop(_) => {}
            Stmt::Var(v, _, at) => {
                let name = v.0.name.to_string();
                let line = Place::from(*at).line;
                match constant(text, line, &name) {
                    Some(value) => {
                        constants.insert(name, value);
                    }
                    None => {
                        report
                            .add(Code::NotLiteral, *at, format!("`{name}` is no constant that rules can share"))
                            .help("write `const NAME = …;` on a line of its own, with a number, a string, true or false");
                    }
                }
            }
            other => {
                report.add(Code::Forbidden, other.position(), "a library has constants and functions only");
            }
        }
    }
    let functions = functions(&ast);
    for f in functions.values() {
        let reserved =
            ["enter", "leave", "verdict"].contains(&f.name.as_str()) || f.name.starts_with("test_");
        if reserved || f.name.contains("__") || constants.contains_key(&f.name) {
            report.add(Code::BadFunction, f.at, format!("a library cannot have a function `{}`", f.name));
        }
    }
    types::check_library(&functions, &Manifest::unreadable(), &constants, &lost, report);
    let functions = functions.into_keys().map(|(name, _)| name).collect();
    Some(Library { file: file.to_string(), text: text.to_string(), functions, constants })
}

/// The literal of `const NAME = LITERAL;` in this line.
fn constant(text: &str, line: usize, name: &str) -> Option<String> {
    let line = text.lines().nth(line.checked_sub(1)?)?;
    let rest = line.strip_prefix("const ")?.trim_start().strip_prefix(name)?;
    let value = rest.trim_start().strip_prefix('=')?;
    let value = value.split("//").next()?.trim().strip_suffix(';')?.trim();
    let number = value.parse::<f64>().is_ok() && !value.starts_with(['+', 'i', 'n', 'N', 'I', '.']);
    let text =
        value.len() >= 2 && value.starts_with('"') && value[1..].find(['"', '\\']) == Some(value.len() - 2);
    match value {
        "true" | "false" => Some(value.to_string()),
        v if text => Some(v.to_string()),
        v if number => Some(if v.starts_with('-') { format!("({v})") } else { v.to_string() }),
        _ => None,
    }
}
