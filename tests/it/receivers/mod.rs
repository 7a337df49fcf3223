//! Receivers against peers: plain ones made here, which answer what they are told to, and real ones where they are
//! installed (`tests/peers/setup.sh`); without those a test says `skipped: why`.

mod check;
mod docs;
mod http;
mod mail;
mod peers;
mod secrets;
mod tls;

use std::sync::mpsc;
use std::time::Duration;

use serde_json::{Value, json};
use whystall::config::{Config, KnownNames};
use whystall::notify::{
    Content, NOTICE_SCHEMA, Notice, NoticeKind, Notification, Outcome, Receiver, receivers,
};

/// Nothing that is waited for may take longer; a hang then fails instead of blocking.
const PATIENCE: Duration = Duration::from_secs(60);
const HOST: &str = "node-1";

/// Makes the receiver of a table's lines.
fn receiver(kind: &str, lines: &str) -> Box<dyn Receiver> {
    let config = config(kind, lines);
    receivers::build(&config.receivers[0], HOST).unwrap_or_else(|e| panic!("{e}: {:?}", e.fault))
}

fn config(kind: &str, lines: &str) -> Config {
    let text = format!("[[receiver]]\nname = \"r\"\ntype = \"{kind}\"\n{lines}\n");
    Config::parse(&text, "test.toml", &KnownNames::default()).unwrap_or_else(|e| panic!("{e}"))
}

fn deliver(receiver: &dyn Receiver, n: &Notification) -> Outcome {
    // As the daemon has it: one thread.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(receiver.deliver(n))
}

fn delivered() -> Outcome {
    Outcome::Delivered { note: None }
}

#[track_caller]
fn retry(outcome: &Outcome) -> (&str, Option<Duration>) {
    let Outcome::Retry { why, after, .. } = outcome else { panic!("{outcome:?}") };
    (why, *after)
}

#[track_caller]
fn permanent(outcome: &Outcome) -> &str {
    let Outcome::Permanent { why } = outcome else { panic!("{outcome:?}") };
    why
}

fn next<T>(seen: &mpsc::Receiver<T>) -> T {
    seen.recv_timeout(PATIENCE).unwrap_or_else(|e| panic!("the peer saw nothing: {e}"))
}

fn verdict_json() -> Value {
    json!({
        "schema": "whystall.verdict/1", "incident": "01KAR5V9T0WJ8K3M2N4P5Q6R7S", "seq": 1, "state": "firing",
        "rule": "memory.direct_reclaim_burst", "cause": "memcg.limit", "severity": "warning", "confidence": "high",
        "subject": "cgroup:/shop/cart", "workload": null,
        "summary": "/shop/cart is at its memory limit: <b>412 ms</b> lost – käse",
        "started_at": "2026-11-22T10:00:00.123Z", "updated_at": "2026-11-22T10:00:02.000Z", "resolved_at": null,
        "chain": [
            {"rule": "memory.direct_reclaim_burst", "cause": "memcg.limit", "subject": "cgroup:/shop/cart",
             "summary": "at its limit", "started_at": "2026-11-22T10:00:00.123Z"},
            {"rule": "cpu.sched_delay", "cause": "kernel.long_section", "subject": "cpu:3",
             "summary": "redis-server waited 180 ms", "started_at": "2026-11-22T10:00:01.000Z"}],
        "victims": [{"kind": "task", "pid": 1, "comm": "redis-server", "cgroup": "/shop/cart", "workload": null}],
        "culprits": [{"kind": "task", "pid": 2, "comm": "log reader", "cgroup": "/shop/cart", "share": 0.97, "workload": null}],
        "evidence": [{"field": "reclaim.memcg.duration", "subject": "cgroup:/shop/cart", "calc": "sum", "window": "10s",
             "value": 412.0, "unit": "ms", "threshold": 100.0}],
        "ruled_out": [{"cause": "node.low_memory", "because": "allocstall did not move"}],
        "hints": [{"text": "raise the limit", "command": ["systemctl", "set-property", "my app.service", "MemoryMax=2G"],
             "risk": "the node may overcommit", "docs": null}],
        "host": HOST
    })
}

/// A notification of the verdict, with these fields instead of its own.
fn notification(id: &str, fields: Value) -> Notification {
    let mut v = verdict_json();
    for (key, value) in fields.as_object().unwrap() {
        v[key.as_str()] = value.clone();
    }
    let content = Content::Verdict(Box::new(serde_json::from_value(v).unwrap()));
    Notification { id: id.into(), content, attempts: 0, progress: None }
}

fn firing(id: &str) -> Notification {
    notification(id, json!({}))
}

fn notice(id: &str) -> Notification {
    let content = Content::Notice(Notice {
        schema: NOTICE_SCHEMA.into(),
        kind: NoticeKind::Test,
        title: "a test".into(),
        text: "nothing happened".into(),
        at: "2026-11-22T10:00:00Z".into(),
        host: HOST.into(),
    });
    Notification { id: id.into(), content, attempts: 0, progress: None }
}
