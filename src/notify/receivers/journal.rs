//! The systemd journal, by its native protocol, with the verdict's parts as fields; standard error where there is none.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use tokio::net::UnixDatagram;
use whystall_engine::script::Severity;
use whystall_engine::verdict::{State, Verdict};

use super::text;
use crate::notify::{Content, Delivery, Notification, Outcome, Receiver};

const SOCKET: &str = "/run/systemd/journal/socket";
const DEADLINE: Duration = Duration::from_secs(5);
/// Datagrams above this are not taken everywhere.
const LARGEST: usize = 128 << 10;

#[derive(Debug)]
pub(super) struct Journal {
    socket: PathBuf,
}

impl Journal {
    pub(super) fn new() -> Journal {
        Journal { socket: SOCKET.into() }
    }

    async fn send(&self, n: &Notification) -> Outcome {
        let mut fields = fields(n);
        let mut datagram = encode(&fields);
        if datagram.len() > LARGEST {
            // The parts are there one by one as well.
            fields.retain(|(name, _)| *name != "WHYSTALL_JSON");
            datagram = encode(&fields);
            datagram = if datagram.len() > LARGEST { encode(&fields[..3]) } else { datagram };
        }
        let sent = async { UnixDatagram::unbound()?.send_to(&datagram, &self.socket).await };
        match tokio::time::timeout(DEADLINE, sent).await {
            Ok(Ok(_)) => Outcome::Delivered { note: None },
            Ok(Err(e)) => fallback(n, &e.to_string()),
            Err(_) => fallback(n, "it takes nothing within its deadline"),
        }
    }
}

impl Receiver for Journal {
    fn deliver<'a>(&'a self, n: &'a Notification) -> Delivery<'a> {
        Box::pin(self.send(n))
    }
}

/// The title on standard error, which a service's journal takes as well.
fn fallback(n: &Notification, why: &str) -> Outcome {
    match writeln!(std::io::stderr(), "{}", text::title(&n.content)) {
        Ok(()) => Outcome::Delivered {
            note: Some(format!("written to standard error, as the journal did not take it: {why}")),
        },
        Err(e) => Outcome::Retry {
            why: format!("journal: {why}; standard error: {e}"),
            after: None,
            progress: None,
        },
    }
}

/// The first three are what no entry can do without.
fn fields(n: &Notification) -> Vec<(&'static str, String)> {
    let priority = match &n.content {
        Content::Verdict(v) => priority(v),
        Content::Notice(_) => 5,
    };
    let mut all = vec![
        ("MESSAGE", text::title(&n.content)),
        ("PRIORITY", priority.to_string()),
        ("SYSLOG_IDENTIFIER", "whystall".into()),
        ("WHYSTALL_NOTIFICATION", n.id.clone()),
        ("WHYSTALL_TEXT", text::plain(&n.content)),
    ];
    if let Ok(json) = text::json(&n.content).map(|j| String::from_utf8_lossy(&j).into_owned()) {
        all.push(("WHYSTALL_JSON", json));
    }
    match &n.content {
        Content::Verdict(v) => all.extend([
            ("WHYSTALL_INCIDENT", v.incident.clone()),
            ("WHYSTALL_SEQ", v.seq.to_string()),
            ("WHYSTALL_STATE", text::state(v).to_lowercase()),
            ("WHYSTALL_SEVERITY", v.severity.name().to_string()),
            ("WHYSTALL_RULE", v.rule.clone()),
            ("WHYSTALL_CAUSE", v.cause.clone()),
            ("WHYSTALL_SUBJECT", v.subject.clone()),
            ("WHYSTALL_HOST", v.host.clone()),
        ]),
        Content::Notice(notice) => all.push(("WHYSTALL_HOST", notice.host.clone())),
    }
    all
}

/// syslog's: 2 critical, 4 warning, 5 notice, 6 info.
fn priority(v: &Verdict) -> u8 {
    match (v.state, v.severity) {
        (State::Resolved | State::Withdrawn, _) => 5,
        (_, Severity::Critical) => 2,
        (_, Severity::Warning) => 4,
        (_, Severity::Info) => 6,
    }
}

/// Each field with its length, so that no value can end early and begin a field of its own.
fn encode(fields: &[(&'static str, String)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.extend_from_slice(name.as_bytes());
        out.push(b'\n');
        out.extend_from_slice(&(value.len() as u64).to_le_bytes());
        out.extend_from_slice(value.as_bytes());
        out.push(b'\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::samples;
    use super::*;

    fn decode(mut data: &[u8]) -> BTreeMap<String, String> {
        let mut all = BTreeMap::new();
        while let Some(end) = data.iter().position(|b| *b == b'\n') {
            let name = String::from_utf8(data[..end].to_vec()).unwrap();
            let len = u64::from_le_bytes(data[end + 1..end + 9].try_into().unwrap()) as usize;
            let value = &data[end + 9..end + 9 + len];
            assert_eq!(data[end + 9 + len], b'\n');
            assert!(all.insert(name, String::from_utf8(value.to_vec()).unwrap()).is_none());
            data = &data[end + 10 + len..];
        }
        all
    }

    fn deliver(journal: &Journal, n: &Notification) -> Outcome {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(journal.deliver(n))
    }

    #[test]
    fn fields_arrive_whole() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("socket");
        let peer = std::os::unix::net::UnixDatagram::bind(&socket).unwrap();
        let journal = Journal { socket };
        let mut n = samples::verdict("node-1");
        if let Content::Verdict(v) = &mut n.content {
            v.subject = "cgroup:/a\nPRIORITY=0\n".into();
        }
        assert_eq!(deliver(&journal, &n), Outcome::Delivered { note: None });
        let mut buffer = vec![0; 1 << 20];
        let len = peer.recv(&mut buffer).unwrap();
        let got = decode(&buffer[..len]);
        assert_eq!((got["PRIORITY"].as_str(), got["WHYSTALL_SEQ"].as_str()), ("4", "1"));
        assert_eq!(got["WHYSTALL_SUBJECT"], "cgroup:/a\nPRIORITY=0\n");
        let json: serde_json::Value = serde_json::from_str(&got["WHYSTALL_JSON"]).unwrap();
        assert_eq!(json["schema"], "whystall.verdict/1");
        // What is too large for a datagram comes without the JSON.
        if let Content::Verdict(v) = &mut n.content {
            v.chain = vec![v.chain[0].clone(); 3000];
            v.chain.iter_mut().for_each(|l| l.subject = "x".into());
        }
        assert_eq!(deliver(&journal, &n), Outcome::Delivered { note: None });
        let len = peer.recv(&mut buffer).unwrap();
        assert!(!decode(&buffer[..len]).contains_key("WHYSTALL_JSON"));
    }

    #[test]
    fn without_a_journal_it_is_standard_error() {
        let journal = Journal { socket: "/nonexistent/socket".into() };
        let Outcome::Delivered { note: Some(note) } = deliver(&journal, &samples::notice("h")) else {
            panic!()
        };
        assert!(note.contains("standard error") && note.contains("No such file"), "{note}");
    }
}
