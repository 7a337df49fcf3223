//! The JSON Schema of verdicts, for those who read them: webhooks, scripts, other programs. Made from the engine's types by
//! a test, so that it cannot differ from what is printed.

/// The schema of one verdict (JSON Schema 2020-12).
pub const VERDICT: &str = include_str!("../docs/verdict.schema.json");

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use whystall_engine::verdict::{SCHEMA, Verdict};

    use super::*;
    use crate::render::sample;

    fn generated() -> Value {
        let mut schema = serde_json::to_value(schemars::schema_for!(Verdict)).unwrap();
        schema["title"] = json!("whystall verdict");
        schema["properties"]["schema"]["const"] = json!(SCHEMA);
        schema
    }

    #[test]
    fn the_file_is_what_the_types_say() {
        let mut text = serde_json::to_string_pretty(&generated()).unwrap();
        text.push('\n');
        if std::env::var_os("UPDATE").is_some_and(|v| v == "1") {
            std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/verdict.schema.json"), text).unwrap();
            return;
        }
        assert!(VERDICT == text, "docs/verdict.schema.json is stale: run this test with UPDATE=1");
    }

    #[test]
    fn verdicts_are_valid_and_the_check_can_fail() {
        let schema: Value = serde_json::from_str(VERDICT).unwrap();
        let good = serde_json::to_value(sample::verdict()).unwrap();
        assert_eq!(check(&schema, &schema, &good, ""), Vec::<String>::new());
        for (pointer, bad) in [
            ("/schema", json!("other/1")),
            ("/state", json!("burning")),
            ("/seq", json!("1")),
            ("/chain/0/rule", json!(null)),
            ("/evidence/0/value", json!("412")),
            ("/hints/0/command", json!("a shell line")),
            ("/workload", json!([])),
        ] {
            let mut v = good.clone();
            *v.pointer_mut(pointer).unwrap() = bad;
            assert_eq!(check(&schema, &schema, &v, "").len(), 1, "{pointer}");
        }
        let mut v = good;
        v.as_object_mut().unwrap().remove("cause");
        assert_eq!(check(&schema, &schema, &v, ""), [" lacks `cause`"]);
    }

    /// The contract's names, which users rely on.
    #[test]
    fn the_contract_holds() {
        let schema: Value = serde_json::from_str(VERDICT).unwrap();
        let names: Vec<&str> =
            "schema incident seq state rule cause severity confidence subject workload summary started_at \
             updated_at resolved_at chain victims culprits evidence ruled_out hints host"
                .split_whitespace()
                .collect();
        let required = &schema["required"];
        for name in names {
            assert!(schema["properties"].get(name).is_some(), "{name}");
            // What may be null is there all the same; serde writes it, and readers may rely on it.
            let optional = matches!(name, "workload" | "resolved_at");
            assert!(
                optional || required.as_array().unwrap().contains(&json!(name)),
                "{name} is not required"
            );
        }
    }

    /// As much of JSON Schema as the file uses: an unknown keyword is a failure, so that the check stays whole.
    fn check(root: &Value, schema: &Value, v: &Value, at: &str) -> Vec<String> {
        let mut wrong = Vec::new();
        for (keyword, s) in schema.as_object().unwrap() {
            match keyword.as_str() {
                "$schema" | "title" | "description" | "$defs" | "format" | "default" => {}
                "$ref" => {
                    let pointer = s.as_str().unwrap().trim_start_matches('#');
                    wrong.extend(check(root, root.pointer(pointer).unwrap(), v, at));
                }
                "type" => {
                    let one = |t: &Value| match t.as_str().unwrap() {
                        "null" => v.is_null(),
                        "string" => v.is_string(),
                        "object" => v.is_object(),
                        "array" => v.is_array(),
                        "integer" => v.is_u64() || v.is_i64(),
                        "number" => v.is_number(),
                        other => panic!("unknown type {other}"),
                    };
                    if !(s.as_array().map_or_else(|| one(s), |list| list.iter().any(one))) {
                        wrong.push(format!("{at} is no {s}"));
                    }
                }
                "const" if v != s => wrong.push(format!("{at} is not {s}")),
                "const" => {}
                "minimum" if v.as_f64().is_some_and(|x| x < s.as_f64().unwrap()) => {
                    wrong.push(format!("{at} is below {s}"))
                }
                "minimum" => {}
                "required" => {
                    let missing = s
                        .as_array()
                        .unwrap()
                        .iter()
                        .filter(|n| v.get(n.as_str().unwrap()).is_none() && v.is_object());
                    wrong.extend(missing.map(|n| format!("{at} lacks `{}`", n.as_str().unwrap())));
                }
                "properties" => {
                    for (name, p) in s.as_object().unwrap() {
                        let inner =
                            v.get(name).into_iter().flat_map(|x| check(root, p, x, &format!("{at}/{name}")));
                        wrong.extend(inner.collect::<Vec<_>>());
                    }
                }
                "items" => {
                    for x in v.as_array().into_iter().flatten() {
                        wrong.extend(check(root, s, x, &format!("{at}/*")));
                    }
                }
                "oneOf" | "anyOf" => {
                    if !s.as_array().unwrap().iter().any(|one| check(root, one, v, at).is_empty()) {
                        wrong.push(format!("{at} fits none"));
                    }
                }
                other => panic!("unknown keyword {other}"),
            }
        }
        wrong
    }
}
