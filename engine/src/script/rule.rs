//! A loaded rule: RULE, its functions, and their lowered forms.

use std::rc::Rc;
use std::sync::Arc;

use rhai::{AST, Stmt};
use whystall_event::{Subject, SubjectKind};

use super::codes::Code;
use super::conclusion::Conclusion;
use super::context::Ctx;
use super::diag::{Diagnostic, Place, Report};
use super::functions::{Functions, functions};
use super::library::Libraries;
use super::lower::{self, NotLowered};
use super::manifest::{self, At, Manifest, ParamValue, Severity};
use super::program::{Bin, Numbers, Op, Program, Prop};
use super::reading::Call;
use super::recover::{self, Parsed};
use super::sandbox::{Judged, Sandbox};
use super::{literal, testing, types};
use crate::finding::Policy;
use crate::schema::Schema;
use crate::verdict::Confidence;

/// Largest rule file, in bytes.
pub const MAX_SOURCE: usize = 256 * 1024;

/// What operators change about a rule without copying it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Overrides {
    /// New values of params.
    pub params: Vec<(String, ParamValue)>,
    /// Another severity.
    pub severity: Option<Severity>,
}

/// A rule that passed every check.
#[derive(Debug)]
pub struct Rule {
    /// The file as it was named.
    pub file: String,
    /// What the rule declares, after overrides.
    pub manifest: Rc<Manifest>,
    /// Names of its tests.
    pub tests: Vec<String>,
    /// Causes it can conclude.
    pub causes: Vec<String>,
    pub(crate) has_leave: bool,
    pub(crate) ast: AST,
    has_verdict: bool,
    lowered: Vec<(SubjectKind, Option<Program>, Option<Program>)>,
    thresholds: Rc<Vec<Option<f64>>>,
    pub(crate) libraries: Arc<Libraries>,
}

/// A file's rule, if it can be loaded, and everything found on the way.
#[derive(Debug)]
pub struct Compiled {
    /// The rule; `None` if some diagnostic is an error.
    pub rule: Option<Rc<Rule>>,
    /// In the order of the file.
    pub diagnostics: Vec<Diagnostic>,
}

/// Checks and loads one rule file.
pub fn compile(
    sandbox: &Sandbox,
    schema: &Schema,
    file: &str,
    text: &str,
    overrides: &Overrides,
) -> Compiled {
    compile_with(sandbox, schema, &Arc::default(), file, text, overrides)
}

/// Checks and loads one rule file that may import `libraries`.
pub fn compile_with(
    sandbox: &Sandbox,
    schema: &Schema,
    libraries: &Arc<Libraries>,
    file: &str,
    text: &str,
    overrides: &Overrides,
) -> Compiled {
    let mut report = Report::new(file, text);
    let rule = compile_into(sandbox, schema, libraries, file, text, overrides, &mut report);
    let rule = rule.filter(|_| !report.errors()).map(Rc::new);
    Compiled { rule, diagnostics: report.finish() }
}

fn compile_into(
    sandbox: &Sandbox,
    schema: &Schema,
    libraries: &Arc<Libraries>,
    file: &str,
    text: &str,
    overrides: &Overrides,
    report: &mut Report<'_>,
) -> Option<Rule> {
    if text.len() > MAX_SOURCE {
        let message = format!("the file has {} bytes; a rule may have {MAX_SOURCE}", text.len());
        report.add(Code::Syntax, Place::default(), message);
        return None;
    }
    let page = page(text);
    let (expanded, origin) = libraries.expand(text, report);
    report.expanded(origin);
    let Parsed { ast, lost } = recover::parse(sandbox, &expanded, report)?;
    let statements: &[Stmt] = ast.as_ref();
    let lit = match lost.iter().any(|l| l == "RULE") {
        true => None,
        false => literal::find_rule(statements, report),
    };
    // Whatever is wrong with RULE, the functions are checked too, so that all problems are told at once.
    let mut manifest = match &lit {
        Some(lit) => manifest::read(lit, page, schema, report),
        None => Manifest::unreadable(),
    };
    apply(&mut manifest, overrides, report);
    let functions = functions(&ast);
    let facts = types::check(&functions, &manifest, &lost, report);
    let lit = lit.filter(|_| !report.errors())?;
    let has = |name: &str, n: usize| functions.contains_key(&(name.to_string(), n));
    let (has_leave, has_verdict) = (has("leave", 2), has("verdict", 3));
    let mut lowered = Vec::new();
    for &kind in &manifest.subjects {
        let mut one = |name: &str| match lower::lower(name, &functions, &manifest, kind) {
            Ok(p) => Some(p),
            Err(why) => {
                not_lowered(name, &why, &functions, report);
                None
            }
        };
        let enter = one("enter");
        let leave = if has_leave { one("leave") } else { None };
        lowered.push((kind, enter, leave));
    }
    if manifest.wake.is_none() && lowered.iter().any(|(_, e, _)| e.is_none()) {
        report.add(
            Code::NoWake,
            lit.at,
            "`enter` runs in the interpreter, but the rule names no `wake` window",
        );
    }
    let thresholds = thresholds(&lowered, &manifest);
    advise(&manifest, &facts, &lowered, &lit, schema, report);
    let mut causes: Vec<String> = facts.causes.keys().cloned().collect();
    if causes.is_empty() {
        causes.push(manifest.id.clone());
    }
    let rule = Rule {
        file: file.to_string(),
        manifest: Rc::new(manifest),
        tests: facts.tests,
        causes,
        has_leave,
        ast,
        has_verdict,
        lowered,
        thresholds: Rc::new(thresholds),
        libraries: libraries.clone(),
    };
    testing::check(&rule, sandbox, schema, report);
    Some(rule)
}

fn apply(manifest: &mut Manifest, overrides: &Overrides, report: &mut Report<'_>) {
    if let Some(s) = overrides.severity {
        manifest.severity = s;
    }
    for (name, value) in &overrides.params {
        let vague = manifest.is_vague(name);
        let Some(p) = manifest.params.iter_mut().find(|p| p.name == *name) else {
            if vague {
                continue;
            }
            report.add(
                Code::UnknownParam,
                Place::default(),
                format!("the config sets the param `{name}`, which this rule lacks"),
            );
            report.suggest(name, manifest.params.iter().map(|p| p.name.as_str()));
            continue;
        };
        match p.check(value) {
            Ok(()) => p.value = value.clone(),
            Err(e) => {
                report.add(
                    Code::BadValue,
                    Place::default(),
                    format!("the config sets the param `{name}`: {e}"),
                );
            }
        }
    }
}

fn not_lowered(name: &str, why: &NotLowered, functions: &Functions, report: &mut Report<'_>) {
    let at = if why.at.is_none() {
        functions.get(&(name.to_string(), 2)).map_or(Place::default(), |d| d.at.into())
    } else {
        why.at.into()
    };
    report.add(Code::NotLowered, at, format!("`{name}` runs in the interpreter because of {}", why.why));
}

/// Warnings about a rule that works.
fn advise(
    manifest: &Manifest,
    facts: &types::Facts,
    lowered: &[(SubjectKind, Option<Program>, Option<Program>)],
    lit: &literal::Lit,
    schema: &Schema,
    report: &mut Report<'_>,
) {
    for (i, w) in manifest.windows.iter().enumerate() {
        let linked =
            manifest.windows.iter().any(|o| o.after.is_some_and(|(a, _)| a == i) || o.at == At::Cpu(i));
        if !facts.windows.contains(&i) && manifest.wake != Some(i) && !linked {
            report.add(Code::UnusedWindow, w.at_place, format!("no function reads the window `{}`", w.name));
        }
    }
    for p in &manifest.params {
        if !facts.params.contains(&p.name) {
            report.add(Code::UnusedParam, p.at, format!("no function reads the param `{}`", p.name));
        }
    }
    for (_, enter, leave) in lowered {
        let (Some(enter), Some(leave)) = (enter, leave) else { continue };
        // Only where each is one comparison; terms joined by `&&` and `||` can be sound in ways that this cannot see.
        if enter.code.len() != 2 || leave.code.len() != 2 {
            continue;
        }
        for (window, op, a) in comparisons(enter) {
            for (w, o, b) in comparisons(leave) {
                let above = matches!(op, Bin::Gt | Bin::Ge) && matches!(o, Bin::Lt | Bin::Le) && b > a;
                let below = matches!(op, Bin::Lt | Bin::Le) && matches!(o, Bin::Gt | Bin::Ge) && b < a;
                if w == window && (above || below) {
                    let name = &manifest.windows[window.0 as usize].name;
                    let message = format!(
                        "`{name}` enters at {a} and leaves at {b}, so both hold at once between them"
                    );
                    report.add(Code::LeaveAboveEnter, lit.at, message);
                }
            }
        }
    }
    if facts.tests.is_empty() {
        report.add(Code::NoTest, lit.at, "the rule has no `test_…` function");
    } else if !facts.resolves {
        report.add(Code::NoResolveTest, lit.at, "no test expects \"resolved\"");
    }
    if !facts.tests.is_empty() {
        for (cause, at) in &facts.causes {
            if !facts.expected.contains(cause) {
                report.add(Code::UnknownCause, *at, format!("no test expects the cause `{cause}`"));
            }
        }
    }
    for need in &manifest.needs {
        let mut why = None;
        for s in schema.named(need) {
            match &s.missing {
                None => {
                    why = None;
                    break;
                }
                Some(m) => why = Some(m),
            }
        }
        if let Some(why) = why {
            report.add(Code::NotHere, lit.at, format!("`{need}` does not work on this host: {why}"));
        }
    }
}

/// Comparisons of a window with a constant: window and property, operator, constant.
fn comparisons(p: &Program) -> impl Iterator<Item = ((u16, Prop), Bin, f64)> + '_ {
    p.code.windows(2).filter_map(|pair| match pair {
        [Op::Read { window, prop, .. }, Op::BinConst(op @ (Bin::Gt | Bin::Ge | Bin::Lt | Bin::Le), c)] => {
            Some(((*window, *prop), *op, *c))
        }
        _ => None,
    })
}

/// For each window the line that `enter` compares it with, in the shown unit: evidence carries it.
fn thresholds(
    lowered: &[(SubjectKind, Option<Program>, Option<Program>)],
    manifest: &Manifest,
) -> Vec<Option<f64>> {
    let mut out = vec![None; manifest.windows.len()];
    for p in lowered.iter().filter_map(|(_, e, _)| e.as_ref()) {
        for ((window, prop), _, c) in comparisons(p) {
            let scale = manifest.windows[window as usize].shape.scale();
            let inside = match prop {
                Prop::Value => c * scale,
                Prop::Ns => c,
                Prop::Us => c * 1e3,
                Prop::Ms => c * 1e6,
                Prop::S => c * 1e9,
                Prop::Pct => c / 100.0,
                Prop::Kib => c * 1024.0,
                Prop::Mib => c * 1_048_576.0,
                Prop::Gib => c * 1_073_741_824.0,
                Prop::Dev | Prop::Sigma | Prop::Now | Prop::Known | Prop::Overdue => continue,
            };
            out[window as usize].get_or_insert(inside / scale);
        }
    }
    out
}

/// The `//!` lines at the top of the file.
fn page(text: &str) -> String {
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .take_while(|l| l.starts_with("//!"))
        .map(|l| l.trim_start_matches("//!").strip_prefix(' ').unwrap_or(l.trim_start_matches("//!")))
        .collect();
    lines.join("\n").trim().to_string()
}

impl Rule {
    pub(crate) fn policy(&self) -> Policy {
        let m = &self.manifest;
        Policy {
            fire_hold_ns: m.fire_hold_ns,
            quorum: m.quorum,
            clear_hold_ns: m.clear_hold_ns,
            on_missing: m.on_missing,
        }
    }

    pub(crate) fn lowered_enter(&self, kind: SubjectKind) -> Option<Program> {
        self.lowered.iter().find(|(k, ..)| *k == kind).and_then(|(_, e, _)| e.clone())
    }

    pub(crate) fn lowered_leave(&self, kind: SubjectKind) -> Option<Program> {
        self.lowered.iter().find(|(k, ..)| *k == kind).and_then(|(.., l)| l.clone())
    }

    /// Whether `enter` and `leave` run as columnar programs for every kind of subject.
    pub fn is_lowered(&self) -> bool {
        self.lowered.iter().all(|(_, e, l)| e.is_some() && (!self.has_leave || l.is_some()))
    }

    /// The same rule with other settings, from the same text.
    pub fn again(&self, sandbox: &Sandbox, schema: &Schema, text: &str, overrides: &Overrides) -> Compiled {
        compile_with(sandbox, schema, &self.libraries, &self.file, text, overrides)
    }

    /// The same rule with another AST, all in the interpreter.
    pub(crate) fn interpreted(&self, ast: AST) -> Rule {
        Rule {
            file: self.file.clone(),
            manifest: self.manifest.clone(),
            tests: self.tests.clone(),
            causes: self.causes.clone(),
            has_leave: self.has_leave,
            ast,
            has_verdict: self.has_verdict,
            lowered: self.lowered.iter().map(|(kind, ..)| (*kind, None, None)).collect(),
            thresholds: self.thresholds.clone(),
            libraries: self.libraries.clone(),
        }
    }

    fn call(&self, subject: &Subject, numbers: Vec<Numbers>, strict: bool) -> Rc<Call> {
        Rc::new(Call {
            manifest: self.manifest.clone(),
            subject: subject.clone(),
            numbers,
            strict,
            thresholds: self.thresholds.clone(),
        })
    }

    pub(crate) fn judge(
        &self,
        sandbox: &Sandbox,
        name: &str,
        subject: &Subject,
        numbers: Vec<Numbers>,
    ) -> Judged {
        sandbox.judge(&self.ast, name, self.call(subject, numbers, true))
    }

    pub(crate) fn conclude(
        &self,
        sandbox: &Sandbox,
        subject: &Subject,
        numbers: Vec<Numbers>,
        ctx: Ctx,
    ) -> Result<Conclusion, String> {
        if !self.has_verdict {
            let mut c = Conclusion::new(&self.manifest.id, Confidence::Medium);
            c.summary.clone_from(&self.manifest.title);
            return Ok(c);
        }
        let mut c = sandbox.conclude(&self.ast, self.call(subject, numbers, false), ctx)?;
        if c.summary.is_empty() {
            c.summary.clone_from(&self.manifest.title);
        }
        Ok(c)
    }
}
