//! The rules of a run: files compiled, a user's file in place of the built-in one with its id, the config's settings
//! applied, and those left out that this host cannot serve. Each of these is told.

use std::collections::BTreeMap;
use std::rc::Rc;

use whystall_engine::Schema;
use whystall_engine::script::{
    Code, Compiled, Diagnostic, Level, Overrides, Place, Rule, Sandbox, code, compile,
};

use super::rule_files::RuleFile;
use super::settings::RuleSettings;

/// A rule with the file it came from.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The rule, with the config's settings.
    pub rule: Rc<Rule>,
    /// Its file.
    pub file: RuleFile,
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
    /// Everything that was found in the files, in their order.
    pub diagnostics: Vec<Diagnostic>,
    /// Settings that do not fit their rule; the config is broken.
    pub bad_settings: Vec<Diagnostic>,
    /// Other things operators should know, such as replaced rules.
    pub notes: Vec<String>,
}

/// How rules are chosen.
#[derive(Debug, Clone, Copy)]
pub struct Choice<'a> {
    /// The config's settings by id.
    pub settings: &'a BTreeMap<String, RuleSettings>,
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
        for file in files {
            let Compiled { rule, diagnostics } =
                compile(sandbox, schema, &file.file, &file.text, &Overrides::default());
            set.diagnostics.extend(diagnostics);
            let Some(rule) = rule else { continue };
            let id = rule.manifest.id.clone();
            let loaded = Loaded { rule, file };
            match chosen.iter_mut().find(|l| l.rule.manifest.id == id) {
                None => chosen.push(loaded),
                Some(other) if other.file.builtin && !loaded.file.builtin => {
                    set.notes.push(format!("{} replaces the built-in rule `{id}`", loaded.file.file));
                    *other = loaded;
                }
                Some(other) => set.diagnostics.push(duplicate(&loaded.file.file, &id, &other.file.file)),
            }
        }
        for id in choice.settings.keys().filter(|id| !chosen.iter().any(|l| l.rule.manifest.id == **id)) {
            let near =
                whystall_event::text::did_you_mean(id, chosen.iter().map(|l| l.rule.manifest.id.as_str()));
            let near = near.map(|n| format!("; did you mean `{n}`?")).unwrap_or_default();
            set.notes.push(format!("the config has settings of a rule `{id}` that is not loaded{near}"));
        }
        for loaded in chosen {
            set.choose(loaded, sandbox, schema, choice);
        }
        set
    }

    fn choose(&mut self, mut loaded: Loaded, sandbox: &Sandbox, schema: &Schema, choice: Choice<'_>) {
        let id = loaded.rule.manifest.id.clone();
        if let Some(s) = choice.settings.get(&id) {
            if s.enabled == Some(false) {
                self.idle.push(Idle { id, why: "it is switched off in the config".into() });
                return;
            }
            if s.overrides != Overrides::default() {
                let c = compile(sandbox, schema, &loaded.file.file, &loaded.file.text, &s.overrides);
                match c.rule {
                    Some(rule) => loaded.rule = rule,
                    None => {
                        self.bad_settings
                            .extend(c.diagnostics.into_iter().filter(|d| d.level == Level::Error));
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
