//! What docs/receivers.md says is run as it stands there.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::json;

use super::http::{answer, peer};
use super::{deliver, delivered, firing, next, receiver};

#[test]
fn the_signature_is_checked_by_the_page_s_python() {
    let page = include_str!("../../../docs/receivers.md");
    let program = page.split("```python\n").nth(1).and_then(|p| p.split("```").next()).unwrap();
    if Command::new("python3").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err()
    {
        eprintln!("skipped: no python3");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let keys = ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "a raw key"];
    let file = dir.path().join("keys");
    std::fs::write(&file, keys.join("\n")).unwrap();
    let (address, seen) = peer(vec![answer("200 OK", "", "")]);
    let webhook = receiver("webhook", &format!("url = \"http://{address}/\"\nsecret_file = {file:?}"));
    assert_eq!(deliver(&*webhook, &firing("n1")), delivered());
    let s = next(&seen);
    let names = ["webhook-id", "webhook-timestamp", "webhook-signature"];
    let headers: serde_json::Map<_, _> = names.iter().map(|n| (n.to_string(), json!(s.header(n)))).collect();
    let check = r#"
import json, sys
r = json.load(sys.stdin)
body, changed = r["body"].encode(), r["body"].encode() + b" "
old = dict(r["headers"], **{"webhook-timestamp": "1"})
print([verify(k, r["headers"], body) for k in r["keys"] + ["another"]], verify(r["keys"][0], r["headers"], changed),
      verify(r["keys"][0], old, body))
"#;
    let mut python = Command::new("python3")
        .args(["-c", &format!("{program}{check}")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let input = json!({"keys": keys, "headers": headers, "body": s.body}).to_string();
    python.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let out = String::from_utf8(python.wait_with_output().unwrap().stdout).unwrap();
    assert_eq!(out, "[True, True, False] False False\n");
}

/// Every key of a receiver that the config knows is on the page.
#[test]
fn keys_are_on_the_page() {
    let page = include_str!("../../../docs/receivers.md");
    let source = include_str!("../../../src/config/notify.rs");
    let list = |name: &&str| {
        source.split(&format!("const {name}_KEYS: &[&str] =")).nth(1).unwrap().split(';').next().unwrap()
    };
    let lists = ["HTTP", "WEBHOOK", "ALERTMANAGER", "EMAIL"].iter().map(list);
    let mut keys: Vec<&str> = lists.flat_map(|l| l.split('"').skip(1).step_by(2)).collect();
    keys.retain(|k| !matches!(*k, "name" | "type"));
    assert!(keys.len() > 20, "{keys:?}");
    for key in keys {
        assert!(page.contains(&format!("`{key}`")), "docs/receivers.md lacks `{key}`");
    }
}
