//! Email by a real server (aiosmtpd) and by a program that stands for sendmail.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use serde_json::json;
use whystall::notify::{Notification, Outcome};

use super::peers::{Ca, Peer, python, script};
use super::{deliver, delivered, firing, notice, notification, permanent, receiver, retry};

const TO: &str = "from = \"whystall@node-1.example\"\nto = [\"sre@x.example\"]";

struct Mail {
    ca: Ca,
    port: u16,
    peer: Peer,
    password: std::path::PathBuf,
}

impl Mail {
    /// `None`, with a word about it, where peers are missing. `mode` is the server's: `starttls`, `implicit` or `plain`.
    fn start(mode: &str) -> Option<Mail> {
        let (python, ca) = (python()?, Ca::make()?);
        let (user, word) = if mode == "plain" { ("", "") } else { ("whystall", "correct horse") };
        let (certificate, key) = (ca.path("localhost.pem"), ca.path("localhost.key"));
        let peer = Peer::start(
            Command::new(python).arg(script("smtp.py")).arg(mode).args([certificate, key]).args([user, word]),
        );
        let password = ca.path("password");
        std::fs::write(&password, "correct horse\n").unwrap();
        Some(Mail { port: peer.port(), ca, peer, password })
    }

    fn lines(&self, tls: &str, more: &str) -> String {
        let (port, password, ca) = (self.port, &self.password, self.ca.path("ca.pem"));
        let login = format!("username = \"whystall\"\npassword_file = {password:?}\nca_file = {ca:?}");
        format!("smtp = \"localhost:{port}\"\ntls = \"{tls}\"\ntimeout = \"20s\"\n{login}\n{more}")
    }
}

#[test]
fn starttls_with_a_login() {
    let Some(mail) = Mail::start("starttls") else { return };
    let email = receiver("email", &mail.lines("starttls", TO));
    assert_eq!(deliver(&*email, &firing("n1")), delivered());
    let first = mail.peer.json();
    assert_eq!((&first["tls"], &first["login"]), (&json!(true), &json!(true)));
    assert_eq!(
        (&first["from"], &first["to"]),
        (&json!("whystall@node-1.example"), &json!(["sre@x.example"]))
    );
    let second =
        notification("n2", json!({"seq": 2, "state": "resolved", "resolved_at": "2026-11-22T10:05:00.000Z"}));
    assert_eq!(deliver(&*email, &second), delivered());
    assert_eq!(deliver(&*email, &notice("n3")), delivered());
    let second = mail.peer.json();
    assert!(second["data"].as_str().unwrap().contains("In-Reply-To: <n1@node-1.example>"));
    // What a mail program makes of it.
    let program = r#"
import email, email.policy, json, sys
m = email.message_from_string(json.load(sys.stdin)["data"], policy=email.policy.default)
parts = {p.get_content_type(): p.get_content() for p in m.walk() if not p.is_multipart()}
print(json.dumps({"headers": [[k, str(v)] for k, v in m.items()], "type": m.get_content_type(),
                  "parts": parts, "defects": [str(d) for d in m.defects]}))
"#;
    let reader = Command::new(python().unwrap())
        .args(["-c", program])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    serde_json::to_writer(reader.stdin.as_ref().unwrap(), &first).unwrap();
    let read: serde_json::Value = serde_json::from_slice(&reader.wait_with_output().unwrap().stdout).unwrap();
    assert_eq!((&read["type"], &read["defects"]), (&json!("multipart/alternative"), &json!([])));
    let header = |name: &str| {
        let all = read["headers"].as_array().unwrap();
        all.iter()
            .find(|h| h[0] == name)
            .map(|h| h[1].as_str().unwrap())
            .unwrap_or_else(|| panic!("no {name}"))
    };
    assert_eq!(header("Message-ID"), "<n1@node-1.example>");
    assert_eq!(header("Auto-Submitted"), "auto-generated");
    assert_eq!(
        header("Subject"),
        "[FIRING warning] node-1: /shop/cart is at its memory limit: <b>412 ms</b> lost – käse"
    );
    let part = |kind: &str| read["parts"][kind].as_str().unwrap();
    for text in [
        "kernel.long_section",
        "412 ms",
        "systemctl set-property 'my app.service' MemoryMax=2G",
        "allocstall",
    ] {
        assert!(part("text/plain").contains(text), "{text}: {}", part("text/plain"));
    }
    assert!(part("text/html").contains("&lt;b&gt;412 ms&lt;&#x2f;b&gt;"), "{}", part("text/html"));
}

#[test]
fn tls_from_the_first_byte() {
    let Some(mail) = Mail::start("implicit") else { return };
    assert_eq!(deliver(&*receiver("email", &mail.lines("implicit", TO)), &firing("n")), delivered());
    assert_eq!(mail.peer.json()["login"], true);
}

#[test]
fn recipients_have_outcomes_of_their_own() {
    let Some(mail) = Mail::start("starttls") else { return };
    let to = "from = \"w@x.example\"\nto = [\"a@x.example\", \"once@x.example\", \"never@x.example\", \"later@x.example\"]";
    let email = receiver("email", &mail.lines("starttls", to));
    let mut n = firing("n");
    for (left, reached) in [("2 recipients", "a@x.example"), ("1 recipient ", "once@x.example")] {
        let outcome = deliver(&*email, &n);
        let (why, _) = retry(&outcome);
        assert!(why.starts_with(left) && why.contains("451"), "{why}");
        assert_eq!(mail.peer.json()["to"], json!([reached]));
        let Outcome::Retry { progress, .. } = outcome else { unreachable!() };
        n = Notification { attempts: n.attempts + 1, progress, ..n };
    }
    // The last who can be reached has been; who is refused for good is told.
    let fewer = to.replace(", \"later@x.example\"", "");
    let Outcome::Delivered { note: Some(note) } =
        deliver(&*receiver("email", &mail.lines("starttls", &fewer)), &n)
    else {
        panic!()
    };
    assert!(note.starts_with("never@x.example: ") && note.contains("550"), "{note}");
    assert!(mail.peer.lines.try_recv().is_err());

    let none =
        receiver("email", &mail.lines("starttls", "from = \"w@x.example\"\nto = [\"never@x.example\"]"));
    assert!(permanent(&deliver(&*none, &firing("n"))).contains("no such user"));
    let refused =
        receiver("email", &mail.lines("starttls", "from = \"reject@x.example\"\nto = [\"a@x.example\"]"));
    assert!(permanent(&deliver(&*refused, &firing("n"))).contains("554"));
}

#[test]
fn what_is_not_secure_is_not_used() {
    let Some(mail) = Mail::start("plain") else { return };
    let plain = format!("smtp = \"localhost:{}\"\n{TO}", mail.port);
    // The server has no STARTTLS: nothing is sent, unless the config says so and it is this host.
    let why = deliver(&*receiver("email", &plain), &firing("n"));
    assert!(retry(&why).0.contains("offers no STARTTLS"), "{why:?}");
    assert!(mail.peer.lines.try_recv().is_err());
    assert_eq!(deliver(&*receiver("email", &format!("tls = \"none\"\n{plain}")), &firing("n")), delivered());
    assert_eq!(mail.peer.json()["tls"], false);

    let Some(mail) = Mail::start("starttls") else { return };
    let other = mail.lines("starttls", TO).replace("ca.pem", "other.pem");
    let why = deliver(&*receiver("email", &other), &firing("n"));
    assert!(retry(&why).0.contains("certificate"), "{why:?}");
    let elsewhere = mail.lines("starttls", TO).replace("localhost:", "127.0.0.1:");
    let why = deliver(&*receiver("email", &elsewhere), &firing("n"));
    assert!(retry(&why).0.contains("certificate"), "{why:?}");
    // A wrong password may be put right, so what waits is not given up.
    std::fs::write(&mail.password, "wrong").unwrap();
    let why = deliver(&*receiver("email", &mail.lines("starttls", TO)), &firing("n"));
    assert!(retry(&why).0.contains("535"), "{why:?}");
    assert!(mail.peer.lines.try_recv().is_err());
}

#[test]
fn a_server_that_hangs_costs_its_deadline() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let lines = format!("smtp = \"localhost:{port}\"\ntls = \"none\"\ntimeout = \"300ms\"\n{TO}");
    let outcome = deliver(&*receiver("email", &lines), &firing("n"));
    assert!(retry(&outcome).0.contains("not done within its deadline"), "{outcome:?}");
}

#[test]
fn templates_make_the_text() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let program = sendmail(dir.path(), &format!("cat > {}", out.display()));
    let file = dir.path().join("t.html.j2");
    std::fs::write(&file, "<p>{{ title }}</p>\r\n").unwrap();
    let with = |template: &str| {
        let email = receiver("email", &format!("sendmail = {program:?}\n{TO}\n{template}"));
        // Plain ASCII, so that parts are not encoded.
        assert_eq!(deliver(&*email, &notification("n", json!({"summary": "<b>412 ms"}))), delivered());
        std::fs::read_to_string(&out).unwrap()
    };
    let text = with("template = \"{{ verdict.cause if verdict else notice.title }} it is\"");
    assert!(text.contains("memcg.limit it is") && !text.contains("multipart"), "{text}");
    let html = with(&format!("template_file = {file:?}"));
    assert!(html.contains("multipart/alternative") && html.contains("FIRING warning  memcg.limit"), "{html}");
    assert!(html.contains("&lt;b&gt;412 ms"), "{html}");
}

fn sendmail(dir: &std::path::Path, body: &str) -> std::path::PathBuf {
    let program = dir.join("sendmail");
    // Written under another name first: a program that is open for writing cannot be started.
    let new = dir.join("new");
    std::fs::write(&new, format!("#!/bin/sh\n{body}\n")).unwrap();
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::rename(new, &program).unwrap();
    program
}

#[test]
fn sendmail_is_handed_the_message() {
    let dir = tempfile::tempdir().unwrap();
    let (out, argv) = (dir.path().join("out"), dir.path().join("argv"));
    let run = |body: &str| {
        let program = sendmail(dir.path(), body);
        let to = "from = \"w@x.example\"\nto = [\"a@x.example\", \"b@x.example\"]\ntimeout = \"10s\"";
        deliver(&*receiver("email", &format!("sendmail = {program:?}\n{to}")), &firing("n"))
    };
    let save = format!("printf '%s\\n' \"$@\" > {}; cat > {}", argv.display(), out.display());
    assert_eq!(run(&save), delivered());
    assert_eq!(
        std::fs::read_to_string(&argv).unwrap(),
        "-i\n-f\nw@x.example\n--\na@x.example\nb@x.example\n"
    );
    assert!(std::fs::read_to_string(&out).unwrap().contains("Message-ID: <n@x.example>"));
    assert!(permanent(&run("echo no such user >&2; exit 67")).contains("no such user"));
    let busy = run("exit 75");
    assert!(retry(&busy).0.contains("exit status 75"));
    // More than a pipe holds on standard error, and nothing read from standard input.
    let noisy = run("head -c 1000000 /dev/zero | tr '\\0' x >&2; exit 75");
    assert!(retry(&noisy).0.len() < 600);
    let killed = run("kill -9 $$");
    assert!(retry(&killed).0.contains("it was killed"));
}
