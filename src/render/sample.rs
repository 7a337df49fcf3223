//! A verdict with everything in it, for tests.

use whystall_engine::script::Severity;
use whystall_engine::verdict::{
    Actor, Confidence, Evidence, Hint, Link, RuledOut, SCHEMA, State, Verdict, Workload,
};

pub(crate) fn verdict() -> Verdict {
    let workload = Workload {
        namespace: Some("shop".into()),
        pod: Some("cart-7f".into()),
        container: Some("app".into()),
        unit: None,
    };
    let cgroup = "/kubepods/pod1f2e3d4c/app";
    let link = |rule: &str, cause: &str, subject: &str, summary: &str| Link {
        rule: rule.into(),
        cause: cause.into(),
        subject: subject.into(),
        summary: summary.into(),
        started_at: "2026-11-22T10:00:00.123Z".into(),
    };
    let subject = format!("cgroup:{cgroup}");
    Verdict {
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
        started_at: "2026-11-22T10:00:00.123Z".into(),
        updated_at: "2026-11-22T10:00:02.123Z".into(),
        resolved_at: None,
        chain: vec![
            link("memory.direct_reclaim_burst", "memcg.limit", &subject, "at its memory limit"),
            link("cpu.sched_delay", "kernel.long_section", "cpu:3", "redis-server waited 180 ms for CPU 3"),
        ],
        victims: vec![Actor {
            kind: "task".into(),
            pid: Some(4711),
            comm: Some("redis-server".into()),
            cgroup: Some(cgroup.into()),
            workload: Some(workload),
            ..Actor::default()
        }],
        culprits: vec![Actor {
            kind: "task".into(),
            pid: Some(4712),
            comm: Some("log reader".into()),
            cgroup: Some(cgroup.into()),
            share: Some(0.97),
            stack: vec!["shrink_node".into(), "try_to_free_mem_cgroup_pages".into()],
            ..Actor::default()
        }],
        evidence: vec![
            Evidence {
                field: "reclaim.memcg.duration".into(),
                subject: subject.clone(),
                calc: "sum".into(),
                window: "10s".into(),
                value: Some(412.0),
                unit: "ms".into(),
                threshold: Some(100.0),
                window_name: "stall".into(),
            },
            Evidence {
                field: "memcg.events_max".into(),
                subject,
                calc: "rate".into(),
                window: "10s".into(),
                value: None,
                unit: "1/s".into(),
                threshold: None,
                window_name: "hits".into(),
            },
        ],
        ruled_out: vec![RuledOut {
            cause: "node.low_memory".into(),
            because: "allocstall did not move".into(),
        }],
        hints: vec![Hint {
            text: "raise the limit, or set memory.high below it so that reclaim starts earlier".into(),
            command: Some(
                ["systemctl", "set-property", "my app.service", "MemoryMax=2G"].map(String::from).to_vec(),
            ),
            risk: Some("the node may overcommit".into()),
            docs: Some("rules/memory/direct_reclaim_burst".into()),
        }],
        host: "node-1".into(),
        findings: 2,
        merged_into: None,
        explained: Vec::new(),
    }
}
