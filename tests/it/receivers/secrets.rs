//! Secrets of receivers are shown nowhere: one test over every kind.

use std::path::Path;
use std::sync::mpsc;

use whystall::config::ReceiverKind;
use whystall::notify::receivers::{build, check};
use whystall::notify::{Outcome, Receiver};

use super::http::{Seen, answer, peer};
use super::{HOST, config, deliver, firing};
use crate::alerts::{RULE, eventually};
use crate::program::{Running, whystall};

/// What no output may have in it. Each stands in a file of its own.
const SECRETS: [(&str, &str); 5] = [
    ("url", "s3cret-in-path"),
    ("query", "s3cret-in-query"),
    ("bearer", "s3cret-bearer"),
    ("sign", "s3cret-sign"),
    ("password", "s3cret-password"),
];

/// `u` and the password as they stand in a header.
const BASIC: &str = "dTpzM2NyZXQtcGFzc3dvcmQ=";

/// A peer that throws everything that it is given back at the asker, as bad servers do. Keys that sign are not given to it.
fn echo(times: usize) -> (String, mpsc::Receiver<Seen>) {
    let all: Vec<&str> = SECRETS.iter().filter(|(n, _)| *n != "sign").map(|(_, s)| *s).collect();
    let body = format!("{BASIC} wrong: /services/{} ?token={}", all.join(" "), all[1]);
    peer((0..times).map(|_| answer("403 No", "", &body)).collect())
}

/// A receiver of each kind with every secret that it can have, to a peer at `address`.
fn every_kind(dir: &Path, address: &str) -> Vec<(&'static str, String)> {
    let file = |name: &str, content: &str| {
        let path = dir.join(name);
        std::fs::write(&path, content).unwrap();
        path
    };
    let secret = |name: &str| SECRETS.iter().find(|(n, _)| *n == name).unwrap().1;
    let url = file(
        "url",
        &format!(
            "http://u:{}@{address}/services/{}?token={}",
            secret("password"),
            secret("url"),
            secret("query")
        ),
    );
    let http = format!(
        "url_file = {url:?}\nbearer_file = {:?}\nproxy = \"none\"\ntimeout = \"5s\"",
        file("bearer", secret("bearer"))
    );
    let password = file("password", secret("password"));
    vec![
        ("webhook", format!("{http}\nsecret_file = {:?}", file("sign", secret("sign")))),
        ("alertmanager", http.clone()),
        ("slack", http),
        (
            "email",
            format!(
                "smtp = \"{address}\"\ntls = \"none\"\ntimeout = \"500ms\"\nfrom = \"a@b.c\"\nto = [\"d@e.f\"]\nusername = \"u\"\npassword_file = {password:?}"
            ),
        ),
        ("journal", String::new()),
    ]
}

#[track_caller]
fn clean(what: &str, text: &str) {
    for secret in SECRETS.iter().map(|(_, s)| *s).chain([BASIC]) {
        assert!(!text.contains(secret), "{what} shows {secret}: {text}");
    }
}

#[test]
fn no_receiver_shows_a_secret() {
    let dir = tempfile::tempdir().unwrap();
    let (address, _seen) = echo(6);
    let mut kinds = [false; 5];
    for (kind, lines) in every_kind(dir.path(), &address) {
        let parsed = config(kind, &lines);
        kinds[match parsed.receivers[0].kind {
            // A new kind does not compile here until it is in the list above.
            ReceiverKind::Webhook(_) => 0,
            ReceiverKind::Alertmanager(_) => 1,
            ReceiverKind::Slack(_) => 2,
            ReceiverKind::Email(_) => 3,
            ReceiverKind::Journal => 4,
        }] = true;
        clean("the config", &format!("{parsed:?}"));
        let receiver: Box<dyn Receiver> = build(&parsed.receivers[0], HOST).unwrap();
        clean("Debug", &format!("{receiver:?}"));
        let outcome = deliver(&*receiver, &firing("n"));
        clean(kind, &format!("{outcome:?}"));
        if matches!(kind, "webhook" | "alertmanager" | "slack") {
            let Outcome::Permanent { why } = &outcome else { panic!("{outcome:?}") };
            assert!(why.contains("***"), "{why}");
        }
        // Nobody listens there.
        let parsed = config(kind, &lines.replace(&address, "127.0.0.1:9"));
        std::fs::write(dir.path().join("url"), format!("http://127.0.0.1:9/services/{}", SECRETS[0].1))
            .unwrap();
        let receiver = build(&parsed.receivers[0], HOST).unwrap();
        clean(kind, &format!("{:?}", deliver(&*receiver, &firing("n"))));
        every_kind(dir.path(), &address);
    }
    assert_eq!(kinds, [true; 5], "a kind is missing in the list");
}

#[test]
fn errors_show_no_secret() {
    let dir = tempfile::tempdir().unwrap();
    for (kind, lines) in every_kind(dir.path(), "127.0.0.1:9") {
        for (name, bad) in [
            ("url", format!("not a url {}", SECRETS[0].1)),
            ("url", format!("ftp://h/{}", SECRETS[0].1)),
            ("url", format!("http://169.254.169.254/{}", SECRETS[0].1)),
            ("bearer", format!("two\nlines {}", SECRETS[2].1)),
            ("sign", format!("whsec_%{}", SECRETS[3].1)),
            ("sign", String::new()),
        ] {
            std::fs::write(dir.path().join(name), bad).unwrap();
            for (_, e) in check(&config(kind, &lines), HOST) {
                clean("an error", &format!("{e} {e:?}"));
            }
            every_kind(dir.path(), "127.0.0.1:9");
        }
    }
}

/// The whole program, with receivers of every kind to a peer that throws the secrets back: its output, what it says, the
/// process list, what the commands print, and every byte of the store.
#[test]
fn the_daemon_prints_and_keeps_no_secret() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    // They report one another's failures, too.
    let (address, _seen) = echo(200);
    std::fs::create_dir(path("rules")).unwrap();
    std::fs::write(path("rules/memory.rhai"), RULE).unwrap();
    let mut text = format!("interval = \"200ms\"\nrules_dirs = [{:?}]\n", path("rules"));
    for (kind, lines) in every_kind(dir.path(), &address) {
        text += &format!("[[receiver]]\nname = \"to-{kind}\"\ntype = \"{kind}\"\n{lines}\n");
    }
    std::fs::write(path("whystall.toml"), text).unwrap();
    let command = |args: &[&str]| {
        let mut c = whystall(args);
        c.env("STATE_DIRECTORY", path("state"));
        c
    };
    let printed = |args: &[&str]| {
        let out = command(args).output().unwrap();
        let text =
            format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        clean(&args.join(" "), &text);
        text
    };
    let config = path("whystall.toml");
    let mut daemon =
        Running::begin(&mut command(&["run", "--config", &config, "--no-builtin-rules", "--output", "json"]));
    daemon.wait_for("watching");
    let outbox = ["notify", "outbox", "list", "--output", "json"];
    eventually("every receiver that talks to the peer has failed", || {
        let listed = printed(&outbox);
        let rows: Vec<serde_json::Value> =
            listed.lines().filter_map(|l| serde_json::from_str(l).ok()).collect();
        ["webhook", "alertmanager", "slack", "email"].iter().all(|kind| {
            let to = format!("to-{kind}");
            rows.iter().any(|r| r["receiver"] == *to && r["attempts"].as_u64() > Some(0))
        })
    });
    assert!(printed(&outbox).contains("***"), "the peer's answer is kept, without what is secret");
    printed(&["notify", "outbox", "list"]);
    assert!(printed(&["incidents", "--output", "json"]).contains("test.cause"));
    printed(&["notify", "test", "to-webhook", "--config", &config]);
    for file in ["cmdline", "environ"] {
        let bytes = std::fs::read(format!("/proc/{}/{file}", daemon.child.id())).unwrap();
        clean(file, &String::from_utf8_lossy(&bytes));
    }
    let mut stdout = daemon.child.stdout.take().unwrap();
    daemon.signal(libc::SIGTERM);
    let (status, said) = daemon.end();
    assert_eq!(status, Some(0), "{said}");
    clean("what the daemon said", &said);
    let mut out = String::new();
    std::io::Read::read_to_string(&mut stdout, &mut out).unwrap();
    assert!(out.contains("test.cause"), "{out}");
    clean("the daemon's output", &out);
    let mut files = 0;
    for entry in std::fs::read_dir(path("state")).unwrap() {
        let entry = entry.unwrap();
        files += 1;
        clean(
            &format!("{:?}", entry.path()),
            &String::from_utf8_lossy(&std::fs::read(entry.path()).unwrap()),
        );
    }
    assert!(files > 0);
}
