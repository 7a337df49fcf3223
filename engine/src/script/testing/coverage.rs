//! Which branches and causes the tests of a rule reach. For branches the rule is run once more, in the interpreter, with
//! a call at the beginning of each block.

use std::collections::BTreeSet;
use std::rc::Rc;

use rhai::{AST, ASTNode, Expr, Stmt, StmtBlock};
use serde::Serialize;

use super::super::diag::{Place, Report};
use super::super::rule::Rule;
use super::super::sandbox::Sandbox;
use super::record::{Recorded, Series, Want};

/// What the tests of one rule reach.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Coverage {
    /// The rule's id.
    pub rule: String,
    /// The file.
    pub file: String,
    /// Causes that the rule can conclude.
    pub causes: usize,
    /// Those that no test concluded.
    pub causes_missed: Vec<String>,
    /// Functions and the blocks of `if` and `else`; 0 if they were not looked at.
    pub branches: usize,
    /// Kinds of tests that the rule lacks: `firing`, `clearing`, `silent`, `gap`, `rule-out`.
    pub kinds_missed: Vec<&'static str>,
    /// The beginnings of those that no test reached.
    pub branches_missed: Vec<Place>,
}

/// Which kinds of tests were seen.
#[derive(Debug, Default)]
pub(super) struct Kinds {
    seen: BTreeSet<&'static str>,
}

impl Kinds {
    pub(super) fn note(&mut self, recorded: &Recorded) {
        let expects = |w: Want| recorded.expectations.iter().filter(move |e| e.what == w);
        let state = |s: &str| expects(Want::State).any(|e| e.text == s);
        let all = |s: &str| expects(Want::State).all(|e| e.text == s);
        let holes = |s: &Series| s.values.split_whitespace().any(|v| v.starts_with('_'));
        let gap = !recorded.pauses.is_empty() || state("stale") || recorded.series.iter().any(holes);
        for (kind, is) in [
            ("firing", state("firing")),
            ("clearing", state("resolved")),
            ("silent", state("silent") && all("silent")),
            ("gap", gap),
            ("rule-out", expects(Want::RulesOut).next().is_some()),
        ] {
            if is {
                self.seen.insert(kind);
            }
        }
    }

    /// The kinds that were not; a rule that rules nothing out needs no test for it.
    pub(super) fn missed(&self, text: &str) -> Vec<&'static str> {
        let mut all = vec!["firing", "clearing", "silent", "gap"];
        if text.contains(".rules_out(\"") && text.contains("fn verdict(") {
            all.push("rule-out");
        }
        all.retain(|k| !self.seen.contains(k));
        all
    }
}

/// A rule whose blocks say that they were reached.
pub(super) struct Marked {
    rule: Rc<Rule>,
    places: Vec<Place>,
}

impl Marked {
    /// `text` is the rule's; `None` if it cannot be marked.
    pub(super) fn new(rule: &Rc<Rule>, text: &str, sandbox: &Sandbox) -> Option<Marked> {
        let own = text.lines().count();
        let (text, _) = rule.libraries.expand(text, &mut Report::new("", text));
        let text = text.as_ref();
        let mut places = blocks(&rule.ast, text);
        places.retain(|p| p.line <= own);
        places.sort();
        places.dedup();
        let mut out = String::with_capacity(text.len() + 16 * places.len());
        for (n, line) in text.split_inclusive('\n').enumerate() {
            let mut from = 0;
            let here = places.iter().enumerate().filter(|(_, p)| p.line == n + 1);
            for (i, place) in here {
                let Some((at, '{')) = line.char_indices().nth(place.column.saturating_sub(1)) else {
                    return None;
                };
                out.push_str(&line[from..=at]);
                out.push_str(&format!("__reach({i});"));
                from = at + 1;
            }
            out.push_str(&line[from..]);
        }
        let ast = sandbox.compile(&out).ok()?;
        Some(Marked { rule: Rc::new(rule.interpreted(ast)), places })
    }

    pub(super) fn rule(&self) -> &Rc<Rule> {
        &self.rule
    }

    pub(super) fn places(&self) -> &[Place] {
        &self.places
    }
}

/// Where functions other than tests, and the blocks of their conditions, begin.
fn blocks(ast: &AST, text: &str) -> Vec<Place> {
    let mut out = Vec::new();
    for f in ast.iter_functions().filter(|f| !f.name.starts_with("test_")) {
        out.extend(body(text, f.name, f.params.len()));
    }
    let mut code = ast.clone_functions_only();
    code.retain_functions(|_, _, name, _| !name.starts_with("test_"));
    let mut add = |b: &StmtBlock| {
        let place = Place::from(b.position());
        let begins =
            || text.lines().nth(place.line.checked_sub(1)?)?.chars().nth(place.column.checked_sub(1)?);
        // `else if` has no brace of its own.
        if begins() == Some('{') {
            out.push(place);
        }
    };
    code.walk(&mut |path: &[ASTNode<'_>]| {
        match path.last() {
            Some(ASTNode::Stmt(Stmt::If(f, _))) => {
                add(&f.body);
                add(&f.branch);
            }
            Some(ASTNode::Expr(Expr::Stmt(b))) => {
                if let [Stmt::If(f, _)] = b.statements() {
                    add(&f.body);
                    add(&f.branch);
                }
            }
            _ => {}
        }
        true
    });
    out
}

/// Where the body of a function begins.
fn body(text: &str, name: &str, arity: usize) -> Option<Place> {
    let head = format!("fn {name}");
    text.lines().enumerate().find_map(|(n, line)| {
        let at = line.find(&head)?;
        let rest = &line[at + head.len()..];
        let params = rest.trim_start().strip_prefix('(')?.split(')').next()?;
        let count = params.split(',').filter(|p| !p.trim().is_empty()).count();
        let brace = at + head.len() + rest.find('{')?;
        (count == arity).then(|| Place { line: n + 1, column: line[..brace].chars().count() + 1 })
    })
}

/// What was missed.
pub(super) fn missed(places: &[Place], reached: &BTreeSet<i64>) -> Vec<Place> {
    let hit = |i: usize| reached.contains(&(i as i64));
    places.iter().enumerate().filter(|(i, _)| !hit(*i)).map(|(_, p)| *p).collect()
}
