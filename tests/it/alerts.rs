//! The store, notifications and their commands, with the built program and a peer of our own.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use crate::program::{Ran, Running, whystall};

/// A rule that fires at once and for ever.
pub(crate) const RULE: &str = r#"//! Fires wherever there is memory.
//!
//! For tests: it fires at once and never ends.
const RULE = #{ id: "test.memory", api: 1, severity: "warning", subject: "host", needs: ["meminfo"],
  windows: #{ total: #{ of: "meminfo.mem_total", calc: "last", over: "5s" } },
  fire: #{ hold: "0s" }, clear: #{ hold: "1s" } };
fn enter(w, p) { w.total.value > 1.0 }
fn verdict(w, p, ctx) { cause("test.cause", "low").says("there is memory").evidence(w.total) }
"#;

const PATIENCE: Duration = Duration::from_secs(60);

/// A config with the rule and webhooks to `ports`, and a state directory of its own.
struct Scene(tempfile::TempDir);

impl Scene {
    fn new(ports: &[u16]) -> Scene {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("rules")).unwrap();
        std::fs::write(dir.path().join("rules/memory.rhai"), RULE).unwrap();
        let scene = Scene(dir);
        scene.receivers(ports);
        scene
    }

    fn receivers(&self, ports: &[u16]) {
        let mut config = format!("interval = \"200ms\"\nrules_dirs = [{:?}]\n", self.path("rules"));
        for (n, port) in ports.iter().enumerate() {
            config += &format!(
                "[[receiver]]\nname = \"r{n}\"\ntype = \"webhook\"\nurl = \"http://127.0.0.1:{port}/\"\n\
                 proxy = \"none\"\ntimeout = \"2s\"\n"
            );
        }
        std::fs::write(self.path("whystall.toml"), config).unwrap();
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut c = whystall(args);
        c.env("STATE_DIRECTORY", self.path("state"));
        c
    }

    fn run(&self, args: &[&str]) -> Ran {
        self.command(args).output().unwrap().into()
    }

    fn daemon(&self) -> Running {
        let config = self.path("whystall.toml");
        let mut d = Running::begin(&mut self.command(&[
            "run",
            "--config",
            &config,
            "--no-builtin-rules",
            "--output",
            "json",
        ]));
        d.wait_for("watching");
        d
    }
}

/// A peer that takes everything: id and body of each request.
fn peer() -> (u16, Receiver<(String, serde_json::Value)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (to, from) = channel();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut all = Vec::new();
            let mut part = [0; 4096];
            let whole = loop {
                match stream.read(&mut part) {
                    Ok(n) if n > 0 => all.extend_from_slice(&part[..n]),
                    _ => break None,
                }
                let text = String::from_utf8_lossy(&all).to_string();
                let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                let lower = head.to_ascii_lowercase();
                let header = |name: &str| {
                    let mut lines = lower.lines().filter_map(|l| l.split_once(": "));
                    lines.find(|(n, _)| *n == name).map(|(_, v)| v.to_string())
                };
                let length: usize = header("content-length").unwrap().parse().unwrap();
                if body.len() >= length {
                    break Some((header("webhook-id").unwrap(), serde_json::from_str(body).unwrap()));
                }
            };
            if let Some(got) = whole {
                let _ =
                    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                if to.send(got).is_err() {
                    return;
                }
            }
        }
    });
    (port, from)
}

/// What systemd would be told, with a socket of our own in its place.
struct Manager(std::os::unix::net::UnixDatagram);

impl Manager {
    fn of(scene: &Scene) -> Manager {
        let socket = std::os::unix::net::UnixDatagram::bind(scene.path("notify")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Manager(socket)
    }

    /// Starts a run that tells it.
    fn start(&self, scene: &Scene, more: &[&str]) -> Running {
        let mut command = scene.command(&["run", "--no-builtin-rules"]);
        command.args(more).env("NOTIFY_SOCKET", scene.path("notify")).env("WATCHDOG_USEC", "300000");
        let mut daemon = Running::begin(&mut command);
        daemon.wait_for("watching");
        daemon
    }

    fn next(&self) -> String {
        let mut buffer = [0; 4096];
        let n = self.0.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..n]).to_string()
    }

    /// Waits for a message with `text` in it.
    fn wait_for(&self, text: &str) -> String {
        loop {
            let said = self.next();
            if said.contains(text) {
                return said;
            }
        }
    }

    /// Forgets what was said so far.
    fn forget(&self) {
        self.0.set_nonblocking(true).unwrap();
        while self.0.recv(&mut [0; 4096]).is_ok() {}
        self.0.set_nonblocking(false).unwrap();
    }
}

/// Runs `check` until it holds.
#[track_caller]
pub(crate) fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let begin = std::time::Instant::now();
    while !check() {
        assert!(begin.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn an_incident_is_told_kept_and_goes_on_after_a_crash() {
    let (port, got) = peer();
    let scene = Scene::new(&[port]);
    let mut daemon = scene.daemon();
    let (id, body) = got.recv_timeout(PATIENCE).unwrap();
    assert_eq!((body["state"].as_str(), body["rule"].as_str()), (Some("firing"), Some("test.memory")));
    let incident = body["incident"].as_str().unwrap().to_string();
    assert!(id.starts_with(&incident.to_ascii_lowercase()), "{id}");

    scene.run(&["incidents"]).exits(0).prints(&[&incident, "firing", "test.cause", "there is memory"]);
    let listed = scene.run(&["incidents", "--output", "json", "--since", "1h"]).exits(0);
    let v: serde_json::Value = serde_json::from_str(listed.stdout.lines().next().unwrap()).unwrap();
    assert_eq!(v["schema"], "whystall.verdict/1");
    scene.run(&["explain", &incident]).exits(0).prints(&["there is memory", "how it went", "firing"]);
    scene.run(&["explain", "01KAR5V9T0WJ8K3M2N4P5Q6R7S"]).exits(1).says(&["no incident"]);
    scene.run(&["notify", "outbox", "list"]).exits(0).prints(&["nothing waits"]);

    // A second daemon says so, keeps nothing and tells nobody.
    let config = scene.path("whystall.toml");
    let second = ["run", "--config", &config, "--no-builtin-rules", "--for", "2s", "--output", "json"];
    scene.run(&second).exits(0).says(&["another whystall runs"]);
    assert!(got.try_recv().is_err(), "the second must not tell it again");

    // Killed: the incident goes on under its id, and is not told as new.
    daemon.child.kill().unwrap();
    daemon.child.wait().unwrap();
    let daemon = scene.daemon();
    std::thread::sleep(Duration::from_secs(1));
    daemon.signal(libc::SIGTERM);
    assert_eq!(daemon.end().0, Some(0));
    let after: Vec<_> = got.try_iter().filter(|(_, b)| b["state"] == "firing").collect();
    assert!(after.is_empty(), "{after:?}");
    let listed = scene.run(&["incidents", "--output", "json"]).exits(0);
    assert_eq!(listed.stdout.lines().count(), 1, "{}", listed.stdout);

    // Without its rule nobody watches it any more, and who was told is told.
    std::fs::remove_file(scene.0.path().join("rules/memory.rhai")).unwrap();
    let daemon = scene.daemon();
    let (_, body) = got.recv_timeout(PATIENCE).unwrap();
    assert_eq!(
        (body["state"].as_str(), body["incident"].as_str()),
        (Some("withdrawn"), Some(incident.as_str()))
    );
    daemon.signal(libc::SIGTERM);
    assert_eq!(daemon.end().0, Some(0));
}

#[test]
fn a_silence_of_a_command_is_heeded_and_its_end_too() {
    let (port, got) = peer();
    let scene = Scene::new(&[port]);
    scene.run(&["silence", "list"]).exits(1).says(&["there is no store"]);
    scene.run(&["silence", "add", "rul=x"]).exits(2).says(&["did you mean `rule`?"]);
    scene.run(&["silence", "add", "rule"]).exits(2).says(&["LABEL=PATTERN"]);
    let added = scene.run(&["silence", "add", "rule=test.*", "--for", "1h", "--reason", "work"]).exits(0);
    let id = added.stdout.trim().to_string();
    scene.run(&["silence", "list"]).exits(0).prints(&[&id, "rule=test.*", "work"]);
    let daemon = scene.daemon();
    eventually("the incident is kept", || {
        scene.run(&["incidents"]).stdout.contains("test.memory") || {
            scene.run(&["incidents"]).stdout.contains("test.cause")
        }
    });
    assert!(got.try_recv().is_err(), "it is silenced");
    scene.run(&["silence", "expire", &id]).exits(0);
    scene.run(&["silence", "expire", &id]).exits(1);
    let (_, body) = got.recv_timeout(PATIENCE).unwrap();
    assert_eq!(body["rule"], "test.memory");
    daemon.signal(libc::SIGTERM);
    assert_eq!(daemon.end().0, Some(0));
}

#[test]
fn a_dead_receiver_delays_nobody_and_waits_in_the_outbox_for_a_retry() {
    let (port, got) = peer();
    // Nobody listens on the first one's port.
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let dead = free.local_addr().unwrap().port();
    drop(free);
    let scene = Scene::new(&[dead, port]);
    let daemon = scene.daemon();
    let (_, body) = got.recv_timeout(PATIENCE).unwrap();
    assert_eq!(body["state"], "firing");
    eventually("it waits", || scene.run(&["notify", "outbox", "list"]).stdout.contains("r0"));
    let listed = scene.run(&["notify", "outbox", "list", "--output", "json"]);
    let row: serde_json::Value = serde_json::from_str(listed.stdout.lines().next().unwrap()).unwrap();
    assert_eq!((row["receiver"].as_str(), row["status"].as_str()), (Some("r0"), Some("pending")));
    scene.run(&["notify", "outbox", "retry", "r0"]).exits(0).prints(&["1 to be tried again"]);
    scene.run(&["notify", "outbox", "retry", "nobody"]).exits(1).says(&["nothing in the outbox"]);
    eventually("it was tried again", || {
        let listed = scene.run(&["notify", "outbox", "list", "--output", "json"]);
        let row: serde_json::Value = serde_json::from_str(listed.stdout.lines().next().unwrap()).unwrap();
        row["attempts"].as_u64() > Some(1)
    });
    daemon.signal(libc::SIGTERM);
    let (status, said) = daemon.end();
    assert_eq!(status, Some(0));
    assert!(said.contains("1 notifications are not delivered yet and kept for the next start"), "{said}");

    let config = scene.path("whystall.toml");
    scene.run(&["notify", "test", "r1", "--config", &config]).exits(0).prints(&["delivered to r1"]);
    assert_eq!(got.recv_timeout(PATIENCE).unwrap().1["kind"], "test");
    scene.run(&["notify", "test", "r0", "--config", &config]).exits(1).says(&["would be tried again"]);
    scene.run(&["notify", "test", "r9", "--config", &config]).exits(2).says(&["did you mean"]);
}

/// A peer that takes connections and says nothing, for as long as the test lasts; each is told.
fn mute() -> (u16, Receiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (to, from) = channel();
    std::thread::spawn(move || {
        let mut held = Vec::new();
        for stream in listener.incoming().flatten() {
            held.push(stream);
            if to.send(()).is_err() {
                return;
            }
        }
    });
    (port, from)
}

/// The watchdog's messages come from the tick: they go on while a receiver keeps its sender waiting, and so does the end.
#[test]
fn a_receiver_that_hangs_holds_up_neither_the_tick_nor_the_end() {
    let (mute_port, taken) = mute();
    let (port, got) = peer();
    let scene = Scene::new(&[mute_port, port]);
    // Far longer than the test.
    let path = scene.path("whystall.toml");
    let config = std::fs::read_to_string(&path).unwrap().replace("timeout = \"2s\"", "timeout = \"5m\"");
    std::fs::write(&path, config).unwrap();
    let manager = Manager::of(&scene);
    let daemon = manager.start(&scene, &["--config", &path, "--output", "json"]);
    taken.recv_timeout(PATIENCE).unwrap();
    assert_eq!(
        got.recv_timeout(PATIENCE).unwrap().1["state"],
        "firing",
        "the other receiver has it all the same"
    );
    // What was said before the receiver hung is not meant.
    manager.forget();
    for _ in 0..5 {
        manager.wait_for("WATCHDOG=1");
    }
    daemon.signal(libc::SIGTERM);
    let (status, said) = daemon.end();
    assert_eq!(status, Some(0));
    assert!(said.contains("not delivered yet and kept for the next start"), "{said}");
}

#[test]
fn a_receiver_that_is_mended_gets_what_waited_for_it() {
    let (port, got) = peer();
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let dead = free.local_addr().unwrap().port();
    drop(free);
    let scene = Scene::new(&[dead]);
    let manager = Manager::of(&scene);
    let daemon = manager.start(&scene, &["--config", &scene.path("whystall.toml"), "--output", "json"]);
    manager.wait_for("READY=1");
    eventually("it waits", || scene.run(&["notify", "outbox", "list"]).stdout.contains("r0"));

    scene.receivers(&[port]);
    daemon.signal(libc::SIGHUP);
    // systemd wants the time with it.
    let said = manager.wait_for("RELOADING=1");
    assert!(said.contains("MONOTONIC_USEC="), "{said}");
    manager.wait_for("READY=1");
    scene.run(&["notify", "outbox", "retry", "r0"]).exits(0);
    let (_, body) = got.recv_timeout(PATIENCE).unwrap();
    assert_eq!((body["state"].as_str(), body["rule"].as_str()), (Some("firing"), Some("test.memory")));
    eventually("nothing waits any more", || {
        scene.run(&["notify", "outbox", "list"]).stdout.contains("nothing waits")
    });
    daemon.signal(libc::SIGTERM);
    assert_eq!(daemon.end().0, Some(0));
}

#[test]
fn without_a_place_for_a_store_it_still_tells() {
    let (port, got) = peer();
    let scene = Scene::new(&[port]);
    std::fs::write(scene.path("state"), "a file where a directory should be").unwrap();
    let daemon = scene.daemon();
    assert_eq!(got.recv_timeout(PATIENCE).unwrap().1["state"], "firing");
    daemon.signal(libc::SIGTERM);
    let (status, said) = daemon.end();
    assert_eq!(status, Some(0));
    assert!(said.contains("incidents are not kept"), "{said}");
}

#[test]
fn systemd_is_told_of_readiness_life_and_the_end() {
    let scene = Scene::new(&[]);
    let manager = Manager::of(&scene);
    let daemon = manager.start(&scene, &[]);
    manager.wait_for("READY=1");
    manager.wait_for("WATCHDOG=1");
    manager.wait_for("WATCHDOG=1");
    daemon.signal(libc::SIGTERM);
    manager.wait_for("STOPPING=1");
    assert_eq!(daemon.end().0, Some(0));
}

#[test]
fn the_unit_is_sound() {
    let version = Command::new("systemd-analyze").arg("--version").output();
    let Ok(version) = version else {
        eprintln!("skipped: there is no systemd-analyze");
        return;
    };
    let version = String::from_utf8_lossy(&version.stdout).to_string();
    let number: u32 = version.split(' ').nth(1).and_then(|v| v.parse().ok()).unwrap_or(0);
    let unit =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/whystall.service"));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("whystall.service");
    // The program need not be installed.
    let here = unit.unwrap().replace("/usr/bin/whystall", env!("CARGO_BIN_EXE_whystall"));
    std::fs::write(&file, here).unwrap();
    let said = Command::new("systemd-analyze").arg("verify").arg("--man=no").arg(&file).output().unwrap();
    let said = String::from_utf8_lossy(&said.stderr).to_string();
    let ours = said.lines().filter(|l| l.contains("whystall.service"));
    let problems: Vec<&str> = if number < 253 {
        eprintln!(
            "skipped: systemd {number} does not know Type=notify-reload; the rest of the unit was checked"
        );
        ours.filter(|l| !l.contains("notify-reload")).collect()
    } else {
        ours.collect()
    };
    assert!(problems.is_empty(), "{problems:#?}");
}
