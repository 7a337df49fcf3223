//! Peers behind HTTP that answer what they are told to.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::{Value, json};
use whystall::notify::Outcome;

use super::{PATIENCE, deliver, delivered, firing, next, notice, permanent, receiver, retry};

/// A request as it came.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) line: String,
    headers: Vec<(String, String)>,
    pub(super) body: String,
}

impl Seen {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }
}

/// A peer that gives one of `answers` to each connection and closes it; `None` lets the asker wait.
pub(super) fn peer(answers: Vec<Option<String>>) -> (String, mpsc::Receiver<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (tx, rx) = mpsc::channel();
    std::thread::spawn(move || {
        let mut waiting = Vec::new();
        for answer in answers {
            let Ok((mut stream, _)) = listener.accept() else { return };
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let Some(seen) = request(&mut stream) else { continue };
            let _ = tx.send(seen);
            match answer {
                // The asker may have had enough.
                Some(a) => drop(stream.write_all(a.as_bytes())),
                None => waiting.push(stream),
            }
        }
        std::thread::sleep(PATIENCE);
    });
    (address.to_string(), rx)
}

fn request(stream: &mut TcpStream) -> Option<Seen> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let mut lines = head.lines();
            let line = lines.next()?.to_string();
            let split = |l: &str| l.split_once(": ").map(|(n, v)| (n.to_lowercase(), v.to_string()));
            let seen = Seen { line, headers: lines.filter_map(split).collect(), body: body.to_string() };
            let length = seen.header("content-length").map_or(0, |l| l.parse().unwrap());
            if body.len() >= length {
                return Some(seen);
            }
        }
        match stream.read(&mut chunk) {
            Ok(n) if n > 0 => bytes.extend_from_slice(&chunk[..n]),
            _ => return None,
        }
    }
}

pub(super) fn answer(status: &str, headers: &str, body: &str) -> Option<String> {
    Some(format!(
        "HTTP/1.1 {status}\r\nconnection: close\r\n{headers}content-length: {}\r\n\r\n{body}",
        body.len()
    ))
}

fn ok() -> Option<String> {
    answer("200 OK", "", "ok")
}

/// What a webhook makes of one answer.
fn outcome(answer: Option<String>, lines: &str) -> Outcome {
    let (address, _seen) = peer(vec![answer]);
    deliver(&*receiver("webhook", &format!("url = \"http://{address}/hook\"\n{lines}")), &firing("n1"))
}

#[test]
fn the_webhook_sends_the_verdict_signed() {
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\nthe next one\n").unwrap();
    let (address, seen) = peer(vec![answer("503 Busy", "", ""), ok(), ok()]);
    let lines = format!("url = \"http://{address}/hook?x=1\"\nsecret_file = {secret:?}");
    let webhook = receiver("webhook", &lines);
    let n = firing("01KAR.n1");
    retry(&deliver(&*webhook, &n));
    assert_eq!(deliver(&*webhook, &n), delivered());
    let (first, second) = (next(&seen), next(&seen));
    for s in [&first, &second] {
        assert_eq!(s.line, "POST /hook?x=1 HTTP/1.1");
        assert_eq!(s.header("webhook-id"), Some("01KAR.n1"), "the same across retries");
        assert_eq!(s.header("content-type"), Some("application/json"));
        assert_eq!(s.header("webhook-signature").unwrap().split(' ').count(), 2);
        s.header("webhook-timestamp").unwrap().parse::<u64>().unwrap();
    }
    let v = first.json();
    assert_eq!((&v["schema"], &v["host"]), (&json!("whystall.verdict/1"), &json!("node-1")));
    assert_eq!(first.body, second.body);
    assert_eq!(deliver(&*webhook, &notice("n2")), delivered());
    assert_eq!(next(&seen).json()["schema"], "whystall.notice/1");
}

#[test]
fn answers_are_told_apart() {
    for (status, is_retry) in [
        ("400 Bad", false),
        ("401 No", false),
        ("404 No", false),
        ("410 Gone", false),
        ("408 Slow", true),
        ("429 Many", true),
        ("500 Oh", true),
        ("503 Busy", true),
    ] {
        let got = outcome(answer(status, "", "because\x1b[0m of it"), "");
        let why = if is_retry { retry(&got).0 } else { permanent(&got) };
        assert_eq!(why, format!("it answered {}: because\\x1b[0m of it", &status[..3]));
    }
    assert_eq!(outcome(answer("204 No Content", "", ""), ""), delivered());
    let after =
        |value: &str| retry(&outcome(answer("429 Many", &format!("retry-after: {value}\r\n"), ""), "")).1;
    assert_eq!(after("120"), Some(Duration::from_secs(120)));
    assert_eq!(after("soon"), None);
    assert!(after("Wed, 21 Oct 2099 07:28:00 GMT").unwrap() > Duration::from_secs(3600));
}

#[test]
fn redirects_are_not_followed() {
    let (elsewhere, other) = peer(vec![ok()]);
    let to = format!("location: http://{elsewhere}/\r\n");
    assert!(permanent(&outcome(answer("301 Moved", &to, ""), "")).contains("not followed"));
    assert!(retry(&outcome(answer("302 Found", &to, ""), "")).0.contains("not followed"));
    assert!(other.try_recv().is_err());
}

#[test]
fn bad_peers_cost_neither_time_nor_memory() {
    let slow = "timeout = \"300ms\"";
    assert_eq!(retry(&outcome(None, slow)).0, "no answer within its deadline");
    retry(&outcome(Some("garbage\r\n\r\n".into()), ""));
    retry(&outcome(Some(String::new()), ""));
    retry(&outcome(Some(format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(100_000))), ""));
    // Nothing of this is read to its end.
    let endless = format!("HTTP/1.1 500 Oh\r\n\r\n{}", "x".repeat(8 << 20));
    assert!(retry(&outcome(Some(endless), "")).0.len() < 400);
    // An answer that is promised and never comes: the status is what counts.
    let cut = Some("HTTP/1.1 500 Oh\r\ncontent-length: 1000000\r\n\r\nonly this".to_string());
    assert_eq!(retry(&outcome(cut, slow)).0, "it answered 500: only this");
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let gone = receiver("webhook", &format!("url = \"http://{nobody}/\""));
    assert!(retry(&deliver(&*gone, &firing("n"))).0.contains("refused"));
}

#[test]
fn special_addresses_are_refused() {
    let try_to = |url: &str, lines: &str| {
        let config = super::config(
            "webhook",
            &format!("url = \"{url}\"\nproxy = \"none\"\ntimeout = \"2s\"\n{lines}"),
        );
        whystall::notify::receivers::build(&config.receivers[0], super::HOST)
    };
    for url in [
        "http://169.254.169.254/latest/meta-data/",
        "http://[fe80::1]/",
        "http://[fd00:ec2::254]/",
        "http://0.0.0.0/",
        "http://224.0.0.1/",
        "http://[::ffff:169.254.169.254]/",
        "http://[::ffff:a9fe:a9fe]/",
        "http://2852039166/",
    ] {
        let e = try_to(url, "").expect_err(url);
        assert_eq!(e.key, "url", "{url}");
        assert!(e.fault.help.unwrap().contains("allow_special_addresses"));
        try_to(url, "allow_special_addresses = true").unwrap_or_else(|e| panic!("{url}: {e}"));
    }
    // A proxy is a peer as well.
    let e = try_to("http://h.example/", "").map(drop);
    assert_eq!(e, Ok(()));
    let config =
        super::config("webhook", "url = \"http://h.example/\"\nproxy = \"http://169.254.169.254:80\"");
    assert_eq!(whystall::notify::receivers::build(&config.receivers[0], "h").unwrap_err().key, "proxy");
}

#[test]
fn proxies_and_tokens() {
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, "tok-en\n").unwrap();
    let (proxy, seen) = peer(vec![ok(), ok()]);
    let lines =
        format!("url = \"http://hooks.example/x\"\nproxy = \"http://{proxy}\"\nbearer_file = {token:?}");
    assert_eq!(deliver(&*receiver("webhook", &lines), &firing("n")), delivered());
    let s = next(&seen);
    assert_eq!(s.line, "POST http://hooks.example/x HTTP/1.1");
    assert_eq!(s.header("authorization"), Some("Bearer tok-en"));
    let with_password = dir.path().join("proxy");
    std::fs::write(&with_password, format!("http://me:sesame@{proxy}/")).unwrap();
    let lines = format!("url = \"http://hooks.example/x\"\nproxy_file = {with_password:?}");
    assert_eq!(deliver(&*receiver("webhook", &lines), &firing("n")), delivered());
    assert_eq!(next(&seen).header("proxy-authorization"), Some("Basic bWU6c2VzYW1l"));
}

#[test]
fn templates_make_the_body() {
    let (address, seen) = peer(vec![ok(), ok()]);
    let template = r#"template = '{"title": {{ title }}, "n": {{ verdict.seq if verdict else 0 }}}'"#;
    let webhook = receiver("webhook", &format!("url = \"http://{address}/\"\n{template}"));
    assert_eq!(deliver(&*webhook, &firing("n")), delivered());
    let s = next(&seen);
    assert_eq!(
        s.json()["title"],
        "[FIRING warning] node-1: /shop/cart is at its memory limit: <b>412 ms</b> lost – käse"
    );
    assert_eq!(s.json()["n"], 1);
    // Samples cannot show everything: what fails later goes out as text that says so.
    let (address, seen) = peer(vec![ok()]);
    let template = r#"template = '{"a": {{ 1 // (verdict.seq - 77) if verdict else 0 }}}'"#;
    let webhook = receiver("webhook", &format!("url = \"http://{address}/\"\n{template}"));
    let Outcome::Delivered { note: Some(note) } =
        deliver(&*webhook, &super::notification("n", json!({"seq": 77})))
    else {
        panic!("no note")
    };
    assert!(note.contains("the template failed"), "{note}");
    let s = next(&seen);
    assert_eq!(s.header("content-type"), Some("text/plain; charset=utf-8"));
    assert!(
        s.body.contains("FIRING warning  memcg.limit") && s.body.contains("The template failed"),
        "{}",
        s.body
    );
}

#[test]
fn slack_takes_text_and_an_attachment() {
    let dir = tempfile::tempdir().unwrap();
    let (address, seen) = peer(vec![ok()]);
    let file = dir.path().join("url");
    std::fs::write(&file, format!("http://{address}/services/T000/B000/token\n")).unwrap();
    assert_eq!(deliver(&*receiver("slack", &format!("url_file = {file:?}")), &firing("n")), delivered());
    let s = next(&seen);
    assert_eq!(s.line, "POST /services/T000/B000/token HTTP/1.1");
    let p = s.json();
    assert!(p["text"].as_str().unwrap().contains("&lt;b&gt;412 ms&lt;/b&gt;"));
    assert_eq!(p["attachments"][0]["color"], "#ecb22e");
}

/// A name is judged by what it is resolved to for the connection. Names of this test stand in a file of hosts that only a
/// mount namespace of its own sees.
#[test]
fn names_of_special_addresses_are_refused() {
    const INSIDE: &str = "WHYSTALL_TEST_HOSTS";
    let (address, seen) = peer(vec![ok(), ok()]);
    let port = address.rsplit(':').next().unwrap();
    let try_to = |host: &str, lines: &str| {
        let url = format!("url = \"http://{host}:{port}/\"\nproxy = \"none\"\ntimeout = \"5s\"\n{lines}");
        deliver(&*receiver("webhook", &url), &firing("n"))
    };
    if std::env::var_os(INSIDE).is_some() {
        for (host, address) in [
            ("v4.test", "169.254.169.254"),
            ("v6.test", "fd00:ec2::254"),
            ("mapped.test", "::ffff:169.254.169.254"),
        ] {
            let outcome = try_to(host, "");
            let (why, _) = retry(&outcome);
            assert!(why.contains(address) && why.contains("allow_special_addresses"), "{why}");
        }
        // What is no host's address reaches the host itself, once it is allowed: so the names are known, and the guard it
        // was that refused them.
        assert!(retry(&try_to("zero.test", "")).0.contains("no address of a host"));
        assert_eq!(try_to("zero.test", "allow_special_addresses = true"), delivered());
        // One good address among others is enough.
        assert_eq!(try_to("both.test", ""), delivered());
        assert!(seen.try_iter().count() == 2);
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let hosts = dir.path().join("hosts");
    let names = "169.254.169.254 v4.test both.test\n127.0.0.1 both.test\nfd00:ec2::254 v6.test\n\
                 ::ffff:169.254.169.254 mapped.test\n0.0.0.0 zero.test\n";
    std::fs::write(&hosts, names).unwrap();
    let script = "mount --bind \"$1\" /etc/hosts && exec \"$2\" --exact --nocapture receivers::http::names_of_special_addresses_are_refused";
    let run = std::process::Command::new("unshare")
        .args(["--mount", "sh", "-c", script, "sh"])
        .arg(&hosts)
        .arg(std::env::current_exe().unwrap())
        .env(INSIDE, "1")
        .output();
    match run {
        Ok(o) if o.status.success() => {}
        Ok(o) if String::from_utf8_lossy(&o.stdout).contains("running 1 test") => {
            panic!("{}{}", String::from_utf8_lossy(&o.stdout), String::from_utf8_lossy(&o.stderr))
        }
        Ok(o) => eprintln!("skipped: no mount namespace: {}", String::from_utf8_lossy(&o.stderr).trim()),
        Err(e) => eprintln!("skipped: no unshare: {e}"),
    }
}
