//! Receivers' peers that fail in every way.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::Dice;

/// How a peer behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Answers 500, 429 and garbage, resets before and after it took something, hangs.
    Flaky,
    /// Resets every connection until it is revived; well from then on.
    DeadAtFirst,
    /// Takes its time, and sometimes too much of it.
    Slow,
    /// Well.
    Good,
}

/// A notification that a peer took.
#[derive(Debug, Clone)]
pub(crate) struct Got {
    pub(crate) id: String,
    pub(crate) incident: String,
    pub(crate) seq: u32,
    pub(crate) state: String,
}

#[derive(Debug, Default)]
struct Shared {
    got: Mutex<Vec<Got>>,
    requests: AtomicUsize,
    alive: AtomicBool,
}

#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) kind: Kind,
    pub(crate) port: u16,
    shared: Arc<Shared>,
}

impl Server {
    pub(crate) fn start(kind: Kind) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared::default());
        let own = shared.clone();
        std::thread::spawn(move || {
            for (n, stream) in listener.incoming().enumerate() {
                let Ok(stream) = stream else { continue };
                let shared = own.clone();
                let dice = Dice((n as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
                std::thread::spawn(move || serve(kind, stream, &shared, dice));
            }
        });
        Server { kind, port, shared }
    }

    pub(crate) fn revive(&self) {
        self.shared.alive.store(true, Ordering::Relaxed);
    }

    /// What it took about incidents.
    pub(crate) fn got(&self) -> Vec<Got> {
        let all = self.shared.got.lock().unwrap();
        all.iter().filter(|g| !g.incident.is_empty()).cloned().collect()
    }

    pub(crate) fn requests(&self) -> usize {
        self.shared.requests.load(Ordering::Relaxed)
    }
}

fn serve(kind: Kind, mut stream: TcpStream, shared: &Shared, mut dice: Dice) {
    shared.requests.fetch_add(1, Ordering::Relaxed);
    if kind == Kind::DeadAtFirst && !shared.alive.load(Ordering::Relaxed) {
        return;
    }
    dice.roll(1);
    let luck = dice.roll(100);
    if kind == Kind::Flaky && luck < 5 {
        return;
    }
    let _ = stream.set_read_timeout(Some(Duration::from_secs(2)));
    let Some(got) = read(&mut stream) else { return };
    let took = || shared.got.lock().unwrap().push(got.clone());
    let hang = || std::thread::sleep(Duration::from_millis(500));
    let answer: &[u8] = match (kind, luck) {
        (Kind::Flaky, 5..12) => b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n",
        (Kind::Flaky, 12..16) => {
            b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n"
        }
        (Kind::Flaky, 16..20) => b"\x00\xff garbage \r\n\r\n instead of HTTP",
        (Kind::Flaky, 20..24) => {
            // It took it, and nobody learns of it.
            took();
            b""
        }
        (Kind::Flaky, 24) | (Kind::Slow, 0) => {
            hang();
            b""
        }
        (Kind::Slow, _) => {
            std::thread::sleep(Duration::from_millis(2));
            took();
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
        }
        _ => {
            took();
            b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"
        }
    };
    let _ = stream.write_all(answer);
}

/// A whole request; `None` if the client went away.
fn read(stream: &mut TcpStream) -> Option<Got> {
    let mut all = Vec::new();
    let mut part = [0; 4096];
    loop {
        let n = stream.read(&mut part).ok().filter(|n| *n > 0)?;
        all.extend_from_slice(&part[..n]);
        let Some(end) = all.windows(4).position(|w| w == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&all[..end]).to_string();
        let header = |name: &str| {
            let lines = head.lines().filter_map(|l| l.split_once(':'));
            lines.filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.trim().to_string()).next()
        };
        let length: usize = header("content-length")?.parse().ok()?;
        if all.len() < end + 4 + length {
            continue;
        }
        let body: serde_json::Value = serde_json::from_slice(&all[end + 4..]).ok()?;
        return Some(Got {
            id: header("webhook-id")?,
            // Notices about other receivers have none, and are not counted.
            incident: body["incident"].as_str().unwrap_or_default().to_string(),
            seq: u32::try_from(body["seq"].as_u64().unwrap_or(0)).ok()?,
            state: body["state"].as_str().unwrap_or_default().to_string(),
        });
    }
}
