//! Real peers: where they are, a certificate authority for them, and how they are started and ended.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Instant;

use serde_json::{Value, json};

use super::http::answer;
use super::{PATIENCE, deliver, delivered, next, notification, receiver};

/// A peer that prints lines; ended when dropped.
#[derive(Debug)]
pub(super) struct Peer {
    child: Child,
    pub(super) lines: mpsc::Receiver<String>,
}

impl Peer {
    /// Starts it; its output is read by a thread, so that it never waits for us.
    pub(super) fn start(command: &mut Command) -> Peer {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let output = BufReader::new(child.stdout.take().unwrap());
        let (tx, lines) = mpsc::channel();
        std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|l| tx.send(l)));
        Peer { child, lines }
    }

    pub(super) fn port(&self) -> u16 {
        next(&self.lines).parse().unwrap()
    }

    pub(super) fn json(&self) -> Value {
        let line = next(&self.lines);
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It has ended already, unless a test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A Python with aiosmtpd in it, made by `tests/peers/setup.sh`.
pub(super) fn python() -> Option<PathBuf> {
    let python = crate::program::peers().join("venv/bin/python");
    let works = Command::new(&python).args(["-c", "import aiosmtpd"]).stderr(Stdio::null()).status();
    if !works.is_ok_and(|s| s.success()) {
        eprintln!("skipped: no Python with aiosmtpd at {}: run tests/peers/setup.sh", python.display());
        return None;
    }
    Some(python)
}

pub(super) fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers").join(name)
}

/// A certificate authority, with certificates of `localhost` and of a client, in a directory of their own.
#[derive(Debug)]
pub(super) struct Ca(tempfile::TempDir);

impl Ca {
    /// `None`, with a word about it, where there is no openssl.
    pub(super) fn make() -> Option<Ca> {
        let ca = Ca(tempfile::tempdir().unwrap());
        let script = r#"
            set -e
            openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=ca -keyout ca.key -out ca.pem \
                -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign
            for name in localhost client; do
                openssl req -newkey rsa:2048 -nodes -subj /CN=$name -keyout $name.key -out $name.csr
                printf 'subjectAltName=DNS:%s\n' $name > $name.ext
                openssl x509 -req -days 2 -in $name.csr -CA ca.pem -CAkey ca.key -CAcreateserial \
                    -extfile $name.ext -out $name.pem
            done
            openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=other -keyout other.key -out other.pem
        "#;
        match Command::new("sh").args(["-c", script]).current_dir(ca.0.path()).output() {
            Ok(o) if o.status.success() => Some(ca),
            Ok(o) => {
                eprintln!("skipped: openssl makes no certificates: {}", String::from_utf8_lossy(&o.stderr));
                None
            }
            Err(e) => {
                eprintln!("skipped: no shell: {e}");
                None
            }
        }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

/// A GET of the Alertmanager's API; what it answers is JSON.
fn get(address: &str, path: &str) -> Option<Value> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    // 1.0, so that the answer ends with the connection and is not in chunks.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    head.lines().next()?.contains(" 200 ").then(|| serde_json::from_str(body).ok())?
}

fn until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(t) = found() {
            return t;
        }
        assert!(Instant::now() < end, "never: {what}");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

#[test]
fn an_alertmanager_groups_and_resolves() {
    const PROGRAM: &str = "prometheus-alertmanager";
    if Command::new(PROGRAM).arg("--version").stderr(Stdio::null()).stdout(Stdio::null()).status().is_err() {
        eprintln!("skipped: no {PROGRAM}: run tests/peers/setup.sh");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    // What the Alertmanager itself notifies of.
    let (hook, notified) = super::http::peer((0..20).map(|_| answer("200 OK", "", "")).collect());
    let file = dir.path().join("am.yml");
    let routes = "route: {receiver: hook, group_by: [incident], group_wait: 100ms, group_interval: 1s, repeat_interval: 1h}";
    std::fs::write(
        &file,
        format!("{routes}\nreceivers: [{{name: hook, webhook_configs: [{{url: 'http://{hook}/', send_resolved: true}}]}}]\n"),
    )
    .unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let _peer = Peer::start(
        Command::new(PROGRAM)
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.path={}", dir.path().join("data").display()))
            .arg(format!("--web.listen-address={free}"))
            .arg("--cluster.listen-address=")
            .arg("--log.level=error"),
    );
    until("the Alertmanager is ready", || get(&free, "/api/v2/status"));
    let am = receiver("alertmanager", &format!("url = \"http://{free}\"\nlabels = {{ team = \"ops\" }}"));
    let send = |fields: Value| assert_eq!(deliver(&*am, &notification("n", fields)), delivered());
    let alerts = || get(&free, "/api/v2/alerts").and_then(|v| v.as_array().cloned()).unwrap_or_default();

    send(json!({}));
    let all = until("an alert is there", || Some(alerts()).filter(|a| !a.is_empty()));
    assert_eq!(all.len(), 1);
    let labels = &all[0]["labels"];
    assert_eq!(
        labels,
        &json!({"alertname": "WhystallIncident", "host": "node-1", "incident": "01KAR5V9T0WJ8K3M2N4P5Q6R7S",
                "severity": "warning", "team": "ops"})
    );
    assert!(
        all[0]["annotations"]["hints"].as_str().unwrap().contains("systemctl set-property 'my app.service'")
    );
    assert_eq!(all[0]["status"]["state"], "active");
    let first = next(&notified).json();
    assert_eq!(
        (&first["status"], &first["groupLabels"]["incident"]),
        (&json!("firing"), &labels["incident"])
    );

    // An update is the same alert with other words, and a new severity takes the place of the former.
    send(json!({"seq": 2, "state": "updated", "summary": "worse", "cause": "node.low_memory"}));
    until("the summary is new", || {
        alerts().iter().any(|a| a["annotations"]["summary"] == "worse").then_some(())
    });
    assert_eq!(alerts().len(), 1);
    send(json!({"seq": 3, "state": "updated", "severity": "critical"}));
    let severities = || -> Vec<Value> { alerts().iter().map(|a| a["labels"]["severity"].clone()).collect() };
    until("only the critical one is left", || (severities() == [json!("critical")]).then_some(()));

    send(
        json!({"seq": 4, "state": "resolved", "severity": "critical", "resolved_at": "2026-11-22T10:05:00.000Z"}),
    );
    until("no alert is left", || alerts().is_empty().then_some(()));
    let resolved = until("the Alertmanager tells that it is resolved", || {
        Some(next(&notified).json()).filter(|n| n["status"] == "resolved")
    });
    assert_eq!(resolved["groupLabels"]["incident"], labels["incident"]);
}
