//! SARIF 2.1.0: what `check` found, as code-scanning services and editors read it.

use std::path::Path;

use serde_json::{Value, json};
use whystall_engine::script::{Code, Diagnostic, Level, code};

fn level(l: Level) -> &'static str {
    match l {
        Level::Error => "error",
        Level::Warning => "warning",
        Level::Note => "note",
    }
}

/// The log of one run of `check`.
pub(super) fn sarif(diagnostics: &[Diagnostic]) -> Value {
    let rules: Vec<Value> = Code::ALL
        .iter()
        .map(|c| {
            json!({
                "id": c.name(),
                "shortDescription": { "text": c.title() },
                "fullDescription": { "text": c.page() },
                "defaultConfiguration": { "level": level(c.level()) },
            })
        })
        .collect();
    let results: Vec<Value> = diagnostics.iter().map(result).collect();
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "whystall",
                "semanticVersion": env!("CARGO_PKG_VERSION"),
                "rules": rules,
            } },
            "columnKind": "unicodeCodePoints",
            "results": results,
        }],
    })
}

fn result(d: &Diagnostic) -> Value {
    let text = match &d.help {
        Some(help) => format!("{}: {help}", d.message),
        None => d.message.clone(),
    };
    let mut physical = json!({ "artifactLocation": { "uri": uri(&d.file) } });
    if d.place.line > 0 {
        let mut region = json!({ "startLine": d.place.line, "startColumn": d.place.column.max(1) });
        if let Some(line) = &d.source_line {
            region["snippet"] = json!({ "text": line });
        }
        physical["region"] = region;
    }
    let mut out = json!({
        "ruleId": d.code,
        "level": level(d.level),
        "message": { "text": text },
        "locations": [{ "physicalLocation": physical }],
    });
    // A config's problems have no code of their own.
    if let Some(i) = code(d.code).and_then(|c| Code::ALL.iter().position(|o| *o == c)) {
        out["ruleIndex"] = json!(i);
    }
    out
}

/// A path as a URI: relative ones stay so, what URIs do not have is escaped.
fn uri(path: &str) -> String {
    let mut out = String::new();
    if Path::new(path).is_absolute() {
        out.push_str("file://");
    }
    for b in path.bytes() {
        match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'.' | b'_' | b'~' => out.push(b as char),
            b => out.push_str(&format!("%{b:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use whystall_engine::script::Place;

    fn found(code: &'static str, file: &str, place: Place) -> Diagnostic {
        let (message, help) = ("no stream has a field `x`".into(), Some("did you mean `y`?".into()));
        Diagnostic { level: Level::Error, code, file: file.into(), place, message, help, source_line: None }
    }

    #[test]
    fn results_point_to_their_rule_and_place() {
        let log = sarif(&[
            found("R007", "my rules/a.rhai", Place { line: 3, column: 9 }),
            found("config", "/etc/w.toml", Place::default()),
        ]);
        let run = &log["runs"][0];
        let (first, second) = (&run["results"][0], &run["results"][1]);
        let index = first["ruleIndex"].as_u64().unwrap() as usize;
        assert_eq!(run["tool"]["driver"]["rules"][index]["id"], "R007");
        assert_eq!(first["message"]["text"], "no stream has a field `x`: did you mean `y`?");
        let place = &first["locations"][0]["physicalLocation"];
        assert_eq!(place["artifactLocation"]["uri"], "my%20rules/a.rhai");
        assert_eq!([&place["region"]["startLine"], &place["region"]["startColumn"]], [3, 9]);
        assert!(second.get("ruleIndex").is_none());
        let place = &second["locations"][0]["physicalLocation"];
        assert_eq!(place["artifactLocation"]["uri"], "file:///etc/w.toml");
        assert!(place.get("region").is_none());
    }
}
