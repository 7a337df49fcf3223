//! The rules of a run: files compiled, a user's file in place of the built-in one with its id, the config's settings
//! applied, and those left out that this host cannot serve. Each of these is told.

use std::rc::Rc;
use std::sync::Arc;

use whystall_engine::Schema;
use whystall_engine::script::{
    Code, Compiled, Diagnostic, Level, Libraries, Overrides, ParamValue, Place, Rule, Sandbox, Severity,
    code, compile_with,
};
use whystall_event::SubjectKind;
use whystall_event::text::did_you_mean;

use super::exceptions;
use super::rule_files::{Layer, RuleFile};
use crate::config::{self, Config, Exception, Param, Problem, RuleConfig};

/// A rule with the file it came from.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The rule, with the config's settings.
    pub rule: Rc<Rule>,
    /// Its file.
    pub file: RuleFile,
    /// The config's settings in it.
    pub overrides: Overrides,
}

/// A rule that loads but does not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idle {
    /// Its id.
    pub id: String,
    /// Why it does not run.
    pub why: String,
}

/// All rules of a run.
#[derive(Debug, Default)]
pub struct RuleSet {
    /// Rules that run.
    pub running: Vec<Loaded>,
    /// Rules that do not.
    pub idle: Vec<Idle>,
    /// What the rules share.
    pub libraries: Arc<Libraries>,
    /// Everything that was found in the files, in their order.
    pub diagnostics: Vec<Diagnostic>,
    /// Settings that do not fit their rule; the config is broken.
    pub bad_settings: Vec<Problem>,
    /// Settings that do nothing: of rules that are not loaded (a file of rules may have gone), or exceptions by what
    /// nothing has.
    pub strangers: Vec<Problem>,
    /// Other things operators should know, such as replaced rules.
    pub notes: Vec<String>,
}

/// How rules are chosen.
#[derive(Debug, Clone, Copy)]
pub struct Choice<'a> {
    /// The config with the rules' settings.
    pub config: &'a Config,
    /// Leave out rules whose `needs` this schema lacks.
    pub only_served: bool,
}

impl RuleSet {
    /// Whether some file has an error.
    pub fn errors(&self) -> usize {
        self.diagnostics.iter().filter(|d| d.level == Level::Error).count()
    }

    /// Compiles `files` and chooses which rules run.
    pub fn load(files: Vec<RuleFile>, sandbox: &Sandbox, schema: &Schema, choice: Choice<'_>) -> RuleSet {
        let mut set = RuleSet::default();
        let mut chosen: Vec<Loaded> = Vec::new();
        let (libraries, files): (Vec<RuleFile>, Vec<RuleFile>) =
            files.into_iter().partition(|f| f.library().is_some());
        let mut shared = Libraries::default();
        for l in &libraries {
            let name = l.library().unwrap_or_default();
            set.diagnostics.extend(shared.add(sandbox, name, &l.file, &l.text));
        }
        let shared = Arc::new(shared);
        set.libraries = shared.clone();
        for file in files {
            let Compiled { rule, diagnostics } =
                compile_with(sandbox, schema, &shared, &file.file, &file.text, &Overrides::default());
            set.diagnostics.extend(diagnostics);
            let Some(rule) = rule else { continue };
            let id = rule.manifest.id.clone();
            let loaded = Loaded { rule, file, overrides: Overrides::default() };
            match chosen.iter_mut().find(|l| l.rule.manifest.id == id) {
                None => chosen.push(loaded),
                Some(other) if other.file.layer < loaded.file.layer => {
                    let what = if other.file.layer == Layer::Builtin {
                        "the built-in"
                    } else {
                        other.file.file.as_str()
                    };
                    set.notes.push(format!("{} replaces {what} rule `{id}`", loaded.file.file));
                    *other = loaded;
                }
                Some(other) => set.diagnostics.push(duplicate(&loaded.file.file, &id, &other.file.file)),
            }
        }
        for (id, given) in &choice.config.rules {
            set.strangers.extend(given.exceptions.iter().flat_map(|e| unknown_keys(e, choice.config)));
            if !chosen.iter().any(|l| l.rule.manifest.id == *id) {
                let what = format!("no rule `{id}` is loaded, so its settings do nothing");
                let mut problem = choice.config.source().problem(given.span.clone(), what);
                if let Some(near) = did_you_mean(id, chosen.iter().map(|l| l.rule.manifest.id.as_str())) {
                    problem = problem.help(format!("did you mean `{near}`?"));
                }
                set.strangers.push(problem);
            }
        }
        for loaded in chosen {
            set.choose(loaded, sandbox, schema, choice);
        }
        set
    }

    fn choose(&mut self, mut loaded: Loaded, sandbox: &Sandbox, schema: &Schema, choice: Choice<'_>) {
        let id = loaded.rule.manifest.id.clone();
        if let Some(given) = choice.config.rules.get(&id) {
            if given.enabled == Some(false) {
                self.idle.push(Idle { id, why: "it is switched off in the config".into() });
                return;
            }
            let before = self.bad_settings.len();
            let overrides = self.overrides(&loaded.rule, given, choice.config);
            if self.bad_settings.len() > before {
                return;
            }
            if overrides != Overrides::default() {
                match loaded.rule.again(sandbox, schema, &loaded.file.text, &overrides).rule {
                    Some(rule) => (loaded.rule, loaded.overrides) = (rule, overrides),
                    None => {
                        let what = format!("the rule `{id}` does not load with these settings");
                        self.bad_settings.push(choice.config.source().problem(given.span.clone(), what));
                        return;
                    }
                }
            }
        }
        match lacking(&loaded.rule.manifest.needs, schema) {
            Some(why) if choice.only_served => self.idle.push(Idle { id, why }),
            _ => self.running.push(loaded),
        }
    }

    /// The config's settings as the engine takes them, checked against what the rule declares.
    fn overrides(&mut self, rule: &Rule, given: &RuleConfig, config: &Config) -> Overrides {
        let mut params = Vec::new();
        for (name, (value, span)) in &given.params {
            let value = match value {
                Param::Number(x) => ParamValue::Number(*x),
                Param::Bool(b) => ParamValue::Bool(*b),
                Param::Text(s) => ParamValue::Text(s.clone()),
            };
            let problem = |what: String| config.source().problem(span.clone(), what);
            let known = &rule.manifest.params;
            match known.iter().find(|p| p.name == *name) {
                None => {
                    let mut p = problem(format!("the rule `{}` has no param `{name}`", rule.manifest.id));
                    if let Some(near) = did_you_mean(name, known.iter().map(|p| p.name.as_str())) {
                        p = p.help(format!("did you mean `{near}`?"));
                    }
                    self.bad_settings.push(p);
                }
                Some(p) => match p.check(&value) {
                    Ok(()) => params.push((name.clone(), value)),
                    Err(why) => self.bad_settings.push(problem(format!("`{name}`: {why}"))),
                },
            }
        }
        let severity = given.severity.map(|s| match s {
            config::Severity::Info => Severity::Info,
            config::Severity::Warning => Severity::Warning,
            config::Severity::Critical => Severity::Critical,
        });
        Overrides { params, severity }
    }
}

/// Which of the named sources this host lacks, each with the reason; `None` if it has all.
pub fn lacking(names: &[String], schema: &Schema) -> Option<String> {
    let all: Vec<String> = names.iter().filter_map(|n| missing(n, schema)).collect();
    (!all.is_empty()).then(|| all.join("; "))
}

/// Why no source that `name` means works here.
fn missing(name: &str, schema: &Schema) -> Option<String> {
    let mut why = format!("nothing here provides `{name}`");
    for source in schema.named(name) {
        match &source.missing {
            None => return None,
            Some(m) => why = format!("`{name}`: {m}"),
        }
    }
    Some(why)
}

/// Keys of an exception that no finding has, so that it never holds.
fn unknown_keys(e: &Exception, config: &Config) -> Vec<Problem> {
    let known: Vec<&str> =
        SubjectKind::ALL.iter().map(|k| k.name()).chain(exceptions::LABELS.iter().copied()).collect();
    let unknown = e.matches.keys().filter(|k| !known.contains(&k.as_str()));
    unknown
        .map(|k| {
            let problem = config
                .source()
                .problem(e.span.clone(), format!("no finding has a `{k}`, so this exception never holds"));
            problem.help(match did_you_mean(k, known.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known: {}", known.join(", ")),
            })
        })
        .collect()
}

fn duplicate(file: &str, id: &str, other: &str) -> Diagnostic {
    let known: Option<Code> = code("R032");
    Diagnostic {
        level: Level::Error,
        code: known.map_or("R032", Code::name),
        file: file.to_string(),
        place: Place::default(),
        message: format!("the id `{id}` is already taken by {other}"),
        help: Some("change one of the ids, or remove one of the files".into()),
        source_line: None,
    }
}
