//! Notifications of every kind, to try templates on before anything happened.

use whystall_engine::script::Severity;
use whystall_engine::verdict::{
    Actor, Confidence, Evidence, Hint, Link, RuledOut, SCHEMA, State, Verdict, Workload,
};

use crate::notify::{Content, NOTICE_SCHEMA, Notice, NoticeKind, Notification};

const AT: &str = "2026-11-22T10:00:00.123Z";

/// A verdict with everything, one with next to nothing, and a notice; each with what it is called.
pub(super) fn all(host: &str) -> [(&'static str, Notification); 4] {
    let with = |change: fn(&mut Verdict)| {
        let mut n = verdict(host);
        if let Content::Verdict(v) = &mut n.content {
            change(v);
        }
        n
    };
    let bare = |v: &mut Verdict| {
        v.workload = None;
        v.chain.clear();
        (v.victims, v.culprits) = (Vec::new(), Vec::new());
        (v.evidence, v.ruled_out, v.hints) = (Vec::new(), Vec::new(), Vec::new());
    };
    let resolved = |v: &mut Verdict| {
        v.state = State::Resolved;
        v.resolved_at = Some(AT.into());
    };
    [
        ("a verdict", verdict(host)),
        ("a verdict with empty lists", with(bare)),
        ("a resolved verdict", with(resolved)),
        ("a notice", notice(host)),
    ]
}

pub(super) fn verdict(host: &str) -> Notification {
    let cgroup = "/kubepods/pod1f2e3d4c/app";
    let subject = format!("cgroup:{cgroup}");
    let workload = Workload {
        namespace: Some("shop".into()),
        pod: Some("cart-7f".into()),
        container: Some("app".into()),
        unit: None,
    };
    let link = |rule: &str, cause: &str, subject: &str, summary: &str| Link {
        rule: rule.into(),
        cause: cause.into(),
        subject: subject.into(),
        summary: summary.into(),
        started_at: AT.into(),
    };
    let task = |pid, comm: &str| Actor {
        kind: "task".into(),
        pid: Some(pid),
        comm: Some(comm.into()),
        cgroup: Some(cgroup.into()),
        workload: Some(workload.clone()),
        ..Actor::default()
    };
    let verdict = Verdict {
        schema: SCHEMA.into(),
        incident: "01KAR5V9T0WJ8K3M2N4P5Q6R7S".into(),
        seq: 1,
        state: State::Firing,
        rule: "memory.direct_reclaim_burst".into(),
        cause: "memcg.limit".into(),
        severity: Severity::Warning,
        confidence: Confidence::High,
        subject: subject.clone(),
        workload: Some(workload.clone()),
        summary: format!("{cgroup} is at its memory limit: its tasks lost 412 ms in direct reclaim in 10 s"),
        started_at: AT.into(),
        updated_at: AT.into(),
        resolved_at: None,
        chain: vec![
            link("memory.direct_reclaim_burst", "memcg.limit", &subject, "at its memory limit"),
            link("cpu.sched_delay", "kernel.long_section", "cpu:3", "redis-server waited 180 ms for CPU 3"),
        ],
        victims: vec![task(4711, "redis-server")],
        culprits: vec![Actor {
            share: Some(0.97),
            stack: vec!["try_to_free_mem_cgroup_pages".into()],
            ..task(4712, "log reader")
        }],
        evidence: vec![Evidence {
            field: "reclaim.memcg.duration".into(),
            subject,
            calc: "sum".into(),
            window: "10s".into(),
            value: Some(412.0),
            unit: "ms".into(),
            threshold: Some(100.0),
            window_name: "stall".into(),
        }],
        findings: 2,
        merged_into: None,
        explained: Vec::new(),
        ruled_out: vec![RuledOut {
            cause: "node.low_memory".into(),
            because: "allocstall did not move".into(),
        }],
        hints: vec![Hint {
            text: "raise the limit".into(),
            command: Some(
                ["systemctl", "set-property", "my app.service", "MemoryMax=2G"].map(String::from).to_vec(),
            ),
            risk: Some("the node may overcommit".into()),
            docs: Some("rules/memory/direct_reclaim_burst".into()),
        }],
        host: host.into(),
    };
    of(Content::Verdict(Box::new(verdict)))
}

pub(super) fn notice(host: &str) -> Notification {
    of(Content::Notice(Notice {
        schema: NOTICE_SCHEMA.into(),
        kind: NoticeKind::Test,
        title: "a test".into(),
        text: "nothing happened".into(),
        at: AT.into(),
        host: host.into(),
    }))
}

fn of(content: Content) -> Notification {
    Notification { id: "sample".into(), content, attempts: 0, progress: None }
}
