//! The process that is killed: the store, the dispatcher and webhooks as the daemon has them, fed with transitions.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use whystall::config::{Config, KnownNames};
use whystall::notify::dispatch::Policy;
use whystall::notify::receivers;
use whystall::notify::service::{Service, Setup};
use whystall::store::{Retention, Store};
use whystall_engine::script::Severity;
use whystall_engine::verdict::{Confidence, SCHEMA, State, Verdict};
use whystall_event::{MS, SEC, format_rfc3339};

use super::{ABREAST, SEQS};

/// The state that a transition with this number has.
pub(crate) fn state(seq: u32) -> &'static str {
    match seq {
        1 => "firing",
        SEQS => "resolved",
        _ => "updated",
    }
}

/// The transition at this place of the script.
fn transition(place: u32) -> Verdict {
    let (block, within) = (place / (ABREAST * SEQS), place % (ABREAST * SEQS));
    let (seq, incident) = (within / ABREAST + 1, block * ABREAST + within % ABREAST);
    let at = format_rfc3339(1_800_000_000 * SEC + u64::from(place) * MS);
    let state = match seq {
        1 => State::Firing,
        SEQS => State::Resolved,
        _ => State::Updated,
    };
    Verdict {
        schema: SCHEMA.into(),
        incident: format!("01TORTURE{incident:017}"),
        seq,
        state,
        rule: "memory.direct_reclaim_burst".into(),
        cause: "memcg.limit".into(),
        severity: if incident.is_multiple_of(7) { Severity::Critical } else { Severity::Warning },
        confidence: Confidence::High,
        subject: format!("cgroup:/t/{incident}"),
        workload: None,
        summary: format!("transition {place}"),
        started_at: at.clone(),
        updated_at: at.clone(),
        resolved_at: (seq == SEQS).then_some(at),
        chain: Vec::new(),
        findings: 1,
        victims: Vec::new(),
        culprits: Vec::new(),
        evidence: Vec::new(),
        ruled_out: Vec::new(),
        hints: Vec::new(),
        host: "node-1".into(),
        merged_into: None,
        explained: Vec::new(),
    }
}

/// Goes on with the script where the store ends, up to `TORTURE_UNTIL`, and delivers until SIGTERM.
pub(crate) fn run(dir: &Path) -> ExitCode {
    let get = |name: &str| std::env::var(name).unwrap();
    let until: u32 = get("TORTURE_UNTIL").parse().unwrap();
    let mut toml = String::new();
    for port in get("TORTURE_PORTS").split(',') {
        toml += &format!(
            "[[receiver]]\nname = \"r{port}\"\ntype = \"webhook\"\nurl = \"http://127.0.0.1:{port}/\"\n\
             timeout = \"300ms\"\nproxy = \"none\"\nburst = 100000\nper_minute = 100000\n"
        );
    }
    let config = Config::parse(&toml, "torture", &KnownNames::default()).unwrap();
    let mut policy = Policy::of(&config, "node-1");
    for r in &mut policy.receivers {
        r.backoff_ns = (20 * MS, 200 * MS);
    }
    let built = config.receivers.iter().map(|r| Arc::from(receivers::build(r, "node-1").unwrap())).collect();
    let store = Store::open(dir, 0).unwrap();
    let committed: u32 = store.incidents(0, usize::MAX).unwrap().iter().map(|i| i.verdict.seq).sum();
    let setup = Setup {
        store,
        retention: Retention::default(),
        policy,
        receivers: built,
        prepare: Box::new(|_| ()),
        log: Box::new(|line| eprintln!("{line}")),
    };
    let ended = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(libc::SIGTERM, ended.clone()).unwrap();
    let service = Service::start(setup).unwrap();
    let handle = service.handle();
    for place in committed..until {
        while handle.waiting() > 50 {
            std::thread::sleep(Duration::from_millis(1));
        }
        handle.verdict(transition(place));
    }
    while !ended.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(5));
    }
    if !service.stop(Duration::from_secs(5)) {
        return ExitCode::FAILURE;
    }
    let left = Store::beside(dir, false).unwrap().outbox(10).unwrap().len();
    println!("left {left}");
    ExitCode::SUCCESS
}
