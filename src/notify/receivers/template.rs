//! Templates (minijinja) that make a webhook's body or an email's text. They are tried on samples when the config is read;
//! should one fail later all the same, a plain text goes out that says so.

use std::path::Path;

use minijinja::{AutoEscape, Environment, UndefinedBehavior};
use serde_json::{Value, json};
use whystall_event::text::{escape, shorten};

use super::{Fault, Wrong, samples, secret, text};
use crate::config;
use crate::notify::{Content, Notification};

/// Steps that one rendering may take.
const FUEL: u64 = 200_000;
/// Bytes that one rendering may give.
const LARGEST: usize = 256 << 10;
/// Characters of one value, where it is not JSON.
const VALUE: usize = 20_000;
const NAME: &str = "template";

/// What a template's values are written into, and so how they are escaped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Json,
    Html,
    Text,
}

/// A template that renders the samples.
#[derive(Debug)]
pub(super) struct Template {
    environment: Environment<'static>,
    form: Form,
}

/// The key and the text of what the config names; the file's name decides on HTML.
pub(super) fn read(settings: &config::Template) -> Result<(&'static str, String, bool), Wrong> {
    match settings {
        config::Template::Inline(text) => Ok(("template", text.clone(), false)),
        config::Template::File(path) => {
            let bytes = secret::read_file(path, "template_file")?;
            let text =
                String::from_utf8(bytes).map_err(|_| Fault::new("is not UTF-8").at("template_file"))?;
            Ok(("template_file", text, is_html(path)))
        }
    }
}

fn is_html(path: &Path) -> bool {
    let name = path.file_name().map(|n| n.to_string_lossy().to_lowercase()).unwrap_or_default();
    [".html", ".html.j2", ".html.jinja"].iter().any(|end| name.ends_with(end))
}

impl Template {
    /// Compiles a template and tries it on samples.
    pub(super) fn new(key: &'static str, text: String, form: Form, host: &str) -> Result<Template, Wrong> {
        let template = Template::compile(key, text, form)?;
        for (what, sample) in samples::all(host) {
            let wrong = |why: String| Fault::new(format!("{why} (with a sample: {what})")).at(key);
            template.render(&sample).map_err(wrong)?;
        }
        Ok(template)
    }

    fn compile(key: &'static str, text: String, form: Form) -> Result<Template, Wrong> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::SemiStrict);
        environment.set_fuel(Some(FUEL));
        environment.set_recursion_limit(50);
        environment.set_auto_escape_callback(move |_| match form {
            Form::Json => AutoEscape::Json,
            Form::Html => AutoEscape::Html,
            Form::Text => AutoEscape::None,
        });
        environment.add_template_owned(NAME, text).map_err(|e| Fault::new(describe(&e)).at(key))?;
        Ok(Template { environment, form })
    }

    pub(super) fn form(&self) -> Form {
        self.form
    }

    /// The text, or why there is none.
    pub(super) fn render(&self, n: &Notification) -> Result<String, String> {
        let mut values = values(n);
        // JSON escapes on its own; elsewhere no control character and no direction override may pass.
        if self.form != Form::Json {
            make_visible(&mut values);
        }
        let template = self.environment.get_template(NAME).map_err(|e| describe(&e))?;
        let mut out = Bounded::default();
        match template.render_captured_to(minijinja::Value::from(minijinja::value::Serde(&values)), &mut out)
        {
            Ok(_) => {}
            Err(_) if out.full => return Err(format!("it gives more than {} KiB", LARGEST >> 10)),
            Err(e) => return Err(describe(&e)),
        }
        let text = String::from_utf8(out.bytes).map_err(|e| e.to_string())?;
        if self.form == Form::Json
            && let Err(e) = serde_json::from_str::<serde::de::IgnoredAny>(&text)
        {
            return Err(format!("what it gives is not JSON: {e}"));
        }
        if text.trim().is_empty() {
            return Err("it gives nothing".into());
        }
        Ok(text)
    }
}

/// Renders a template of our own, which needs no trying.
pub(super) fn render_once(text: &'static str, form: Form, n: &Notification) -> Result<String, String> {
    let template = Template::compile("template", text.to_string(), form).map_err(|(_, fault)| fault.why)?;
    template.render(n)
}

/// What goes out instead of what a template could not make.
pub(super) fn instead(content: &Content, why: &str) -> String {
    format!(
        "{}\n(The template failed: {}. This is whystall's own text.)\n",
        text::plain(content),
        escape(why)
    )
}

/// What templates can name.
fn values(n: &Notification) -> Value {
    let (verdict, notice, host) = match &n.content {
        Content::Verdict(v) => (json!(v), Value::Null, &v.host),
        Content::Notice(notice) => (Value::Null, json!(notice), &notice.host),
    };
    // One for each hint, null where it has none.
    let commands: Vec<Option<String>> = match &n.content {
        Content::Verdict(v) => {
            v.hints.iter().map(|h| h.command.as_ref().map(|c| crate::render::command(c))).collect()
        }
        Content::Notice(_) => Vec::new(),
    };
    let (title, text) = (text::title(&n.content), text::plain(&n.content));
    json!({ "id": n.id, "verdict": verdict, "notice": notice, "host": host, "title": title, "text": text, "commands": commands })
}

/// Escapes control characters and direction overrides in all texts, but for line ends.
pub(super) fn make_visible(value: &mut Value) {
    match value {
        Value::String(s) => {
            let lines: Vec<_> = s.split('\n').map(escape).collect();
            *s = shorten(&lines.join("\n"), VALUE).into_owned();
        }
        Value::Array(items) => items.iter_mut().for_each(make_visible),
        Value::Object(fields) => fields.values_mut().for_each(make_visible),
        _ => {}
    }
}

/// One line about an error, with the place in the template.
fn describe(e: &minijinja::Error) -> String {
    let what = e.detail().map_or_else(|| e.kind().to_string(), |d| format!("{}: {d}", e.kind()));
    let line = e.line().map(|l| format!("line {l}: ")).unwrap_or_default();
    shorten(&escape(&format!("{line}{what}")), 300).into_owned()
}

#[derive(Default)]
struct Bounded {
    bytes: Vec<u8>,
    full: bool,
}

impl std::io::Write for Bounded {
    fn write(&mut self, more: &[u8]) -> std::io::Result<usize> {
        if self.bytes.len() + more.len() > LARGEST {
            self.full = true;
            return Err(std::io::Error::other("too long"));
        }
        self.bytes.extend_from_slice(more);
        Ok(more.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(text: &str, form: Form) -> Result<Template, String> {
        Template::new("template", text.into(), form, "h").map_err(|(_, fault)| fault.why)
    }

    fn hostile() -> Notification {
        let mut n = samples::verdict("h");
        if let Content::Verdict(v) = &mut n.content {
            v.summary = "a\"<b>&\u{202e}\x1b\r\n.".into();
        }
        n
    }

    #[test]
    fn values_are_escaped_for_what_they_stand_in() {
        let t = make(r#"{"text": {{ title if notice else verdict.summary }}, "n": {{ id }}}"#, Form::Json)
            .unwrap();
        let v: Value = serde_json::from_str(&t.render(&hostile()).unwrap()).unwrap();
        assert_eq!(v["text"], "a\"<b>&\u{202e}\x1b\r\n.");
        let t = make("<p>{{ verdict.summary or title }}</p>", Form::Html).unwrap();
        let html = t.render(&hostile()).unwrap();
        assert!(html.starts_with("<p>a&quot;&lt;b&gt;&amp;\\u{202e}\\x1b\\r"), "{html}");
        let t = make("{{ verdict.summary or title }}", Form::Text).unwrap();
        assert!(!t.render(&hostile()).unwrap().contains('\x1b'));
    }

    #[test]
    fn what_is_wrong_is_found_at_load() {
        for (text, form, why) in [
            ("{{ verdict.summary", Form::Text, "line 1: syntax error"),
            ("{% for x in verdict.chain %}", Form::Text, "line 1: syntax error"),
            ("\n{{ verdict.chain.first.nothing.more }}", Form::Text, "line 2: undefined value"),
            ("{{ title | upcase }}", Form::Text, "unknown filter"),
            ("{\"a\": {{ title }}", Form::Json, "what it gives is not JSON"),
            (
                "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
                Form::Text,
                "fuel",
            ),
            ("{% for a in range(9999) %}{{ text }}{{ text }}{% endfor %}", Form::Text, "more than 256 KiB"),
            (" {# nothing #} ", Form::Text, "it gives nothing"),
        ] {
            let got = make(text, form).expect_err(text);
            assert!(got.contains(why), "{text}: {got}");
        }
    }
}
