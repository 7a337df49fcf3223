//! Incidents of the built-in rules together: which explains which, and the case that whystall was made for.

use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use whystall::daemon::judge::Judge;
use whystall::daemon::sources;
use whystall::recording::{Item, Replay};
use whystall_engine::script::{Overrides, Rule, Sandbox, When, compile};
use whystall_engine::verdict::{Confidence, State, Verdict};
use whystall_engine::{HostFacts, Tick};

fn rules(sandbox: &Sandbox) -> Vec<Rc<Rule>> {
    let schema = sources::any_host(Duration::from_secs(1));
    let load = |r: &whystall_rules::Builtin| {
        compile(sandbox, &schema, r.path, r.source, &Overrides::default()).rule.unwrap()
    };
    whystall_rules::ALL.iter().map(load).collect()
}

/// The chains of the kernel, as edges that there must be: the rule and its cause, where they meet, the rule that it
/// explains and the cause there.
const EDGES: &[(&str, &str, When, &str, &str)] = &[
    // Zombie memcgs → slow readers of statistics → a CPU that does not schedule → packets that wait.
    (
        "memory.zombie_memcg_growth",
        "memcg.leak.page_cache",
        When::Host,
        "cpu.not_scheduling",
        "kernel.long_section",
    ),
    ("memory.zombie_memcg_growth", "memcg.leak.shmem", When::Host, "cpu.not_scheduling", "kernel.irq_off"),
    (
        "memory.zombie_memcg_growth",
        "memcg.leak.page_cache",
        When::Host,
        "cpu.sched_delay",
        "kernel.long_section",
    ),
    (
        "memory.zombie_memcg_growth",
        "memcg.leak.page_cache",
        When::Host,
        "net.softirq_starvation",
        "softirq.kernel_section",
    ),
    (
        "memory.zombie_memcg_growth",
        "memcg.leak.page_cache",
        When::Host,
        "kernel.lockup",
        "kernel.soft_lockup",
    ),
    (
        "cpu.not_scheduling",
        "kernel.long_section",
        When::SameCpu,
        "net.softirq_starvation",
        "softirq.kernel_section",
    ),
    (
        "cpu.not_scheduling",
        "kernel.irq_off",
        When::SameCpu,
        "net.softirq_starvation",
        "softirq.kernel_section",
    ),
    ("cpu.not_scheduling", "kernel.long_section", When::SameCpu, "cpu.sched_delay", "kernel.long_section"),
    ("cpu.not_scheduling", "kernel.long_section", When::SameCpu, "kernel.lockup", "kernel.soft_lockup"),
    ("cpu.not_scheduling", "kernel.irq_off", When::SameCpu, "net.softnet_drop", "softirq.kernel_section"),
    (
        "memory.zombie_memcg_growth",
        "memcg.leak.page_cache",
        When::Host,
        "net.softnet_drop",
        "softirq.kernel_section",
    ),
    // A real-time hog before the thread that receives, and before others.
    ("net.softirq_starvation", "softirq.rt_hog", When::SameCpu, "cpu.sched_delay", "cpu.rt_hog"),
    // An interrupt storm.
    ("cpu.irq_storm", "irq.storm", When::SameCpu, "cpu.not_scheduling", "kernel.irq_off"),
    ("cpu.irq_storm", "irq.storm", When::SameCpu, "net.softnet_drop", "softirq.overload"),
    // More packets than a CPU can serve.
    ("net.softnet_drop", "softirq.overload", When::SameCpu, "cpu.not_scheduling", "kernel.long_section"),
    // A cgroup at its limit: its tasks stall, wait, and are killed in the end.
    ("memory.direct_reclaim_burst", "memcg.limit", When::SameCgroup, "memory.oom_kill", "memcg.limit"),
    ("memory.direct_reclaim_burst", "memcg.limit", When::SameCgroup, "cpu.sched_delay", "cpu.overcommit"),
    // The host is short of memory.
    ("memory.direct_reclaim_burst", "node.low_memory", When::Host, "memory.oom_kill", "node.low_memory"),
    (
        "memory.direct_reclaim_burst",
        "node.low_memory",
        When::Host,
        "memory.compaction_stall",
        "node.fragmentation",
    ),
    (
        "kernel.lockup",
        "kernel.soft_lockup",
        When::SameCpu,
        "net.softirq_starvation",
        "softirq.kernel_section",
    ),
];

/// Edges that there must not be, though the rules have others.
const NOT: &[(&str, &str, When, &str, &str)] = &[
    (
        "memory.direct_reclaim_burst",
        "memcg.limit",
        When::Host,
        "memory.compaction_stall",
        "node.fragmentation",
    ),
    ("memory.direct_reclaim_burst", "memcg.limit", When::Host, "memory.oom_kill", "node.low_memory"),
    ("memory.zombie_memcg_growth", "memcg.leak.page_cache", When::Host, "cpu.sched_delay", "cpu.rt_hog"),
    (
        "memory.zombie_memcg_growth",
        "memcg.leak.page_cache",
        When::Host,
        "net.softirq_starvation",
        "softirq.overload",
    ),
    ("cpu.sched_delay", "cpu.quota", When::SameCpu, "net.softirq_starvation", "softirq.overload"),
    (
        "net.softnet_drop",
        "softirq.kernel_section",
        When::SameCpu,
        "cpu.not_scheduling",
        "kernel.long_section",
    ),
];

#[test]
fn the_graph_of_explanations_has_the_kernels_chains() {
    let rules = rules(&Sandbox::new());
    let find = |id: &str| {
        rules.iter().find(|r| r.manifest.id == id).unwrap_or_else(|| panic!("there is no rule {id}"))
    };
    let has = |(a, by, when, b, cause): &(&str, &str, When, &str, &str)| {
        let names = |list: &[String], x: &str| list.is_empty() || list.iter().any(|c| c == x);
        assert!(find(a).causes.iter().any(|c| c == by), "{a} concludes no {by}");
        find(b);
        find(a)
            .manifest
            .explains
            .iter()
            .any(|e| e.rule == *b && e.when == *when && names(&e.causes, cause) && names(&e.by, by))
    };
    for edge in EDGES {
        assert!(has(edge), "{edge:?} is missing");
    }
    for edge in NOT {
        assert!(!has(edge), "{edge:?} is there");
    }
    for r in &rules {
        for e in &r.manifest.explains {
            let id = &r.manifest.id;
            let other = find(&e.rule);
            assert_ne!(*id, e.rule, "a rule does not explain itself");
            for c in &e.causes {
                assert!(
                    other.causes.contains(c),
                    "{id} explains {} for {c}, which that never concludes",
                    e.rule
                );
            }
            for c in &e.by {
                assert!(r.causes.contains(c), "{id} explains {} by {c}, which it never concludes", e.rule);
            }
            assert!(!e.rule.starts_with("self."), "what whystall itself lacks is nobody's symptom");
        }
        let of_itself = r.manifest.id.starts_with("self.");
        assert!(
            !of_itself || r.manifest.explains.is_empty(),
            "self.degraded must not swallow real incidents"
        );
    }
}

/// A recording of the lab's `slow_stats`.
fn recorded() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests/fixtures/slow_stats.ws"].iter().collect()
}

fn replayed(order: impl Fn(&mut Vec<Rc<Rule>>)) -> Vec<Verdict> {
    let sandbox = Rc::new(Sandbox::new());
    let mut rules = rules(&sandbox);
    order(&mut rules);
    let schema = sources::any_host(Duration::from_secs(1));
    let streams: Vec<_> = schema.streams().map(|(_, s)| s.as_ref()).collect();
    let mut recording = Replay::open(&recorded(), streams.iter().copied(), 1_000_000_000).unwrap();
    let facts = HostFacts { host: "lab".into(), cpus: 2, ..HostFacts::default() };
    let mut judge = Judge::new(rules, &sandbox, 1_000_000_000, facts);
    let mut out = Vec::new();
    while let Some(item) = recording.next().unwrap() {
        match item {
            Item::Batch(b) => judge.ingest(b),
            Item::Tick(t) => {
                let (verdicts, problems) = judge.tick(Tick { at: t.at, suspended_ns: t.suspended_ns });
                assert!(problems.is_empty(), "{problems:?}");
                out.extend(verdicts);
            }
        }
    }
    out
}

#[test]
fn dead_cgroups_slow_readers_a_cpu_that_stands_and_late_packets_are_one_incident() {
    let all = replayed(|_| {});
    let told: Vec<String> = all.iter().map(|v| format!("{:?} {} {}", v.state, v.cause, v.subject)).collect();
    assert!(all.iter().all(|v| v.incident == all[0].incident), "{told:#?}");
    assert_eq!(all[0].state, State::Firing);
    let last = all.iter().rfind(|v| matches!(v.state, State::Firing | State::Updated)).unwrap();
    assert_eq!(
        (last.rule.as_str(), last.cause.as_str()),
        ("memory.zombie_memcg_growth", "memcg.leak.page_cache")
    );
    assert_eq!((last.subject.as_str(), last.confidence), ("host", Confidence::High));
    let chain: Vec<&str> = last.chain.iter().map(|l| l.rule.as_str()).collect();
    let at = |rule: &str| {
        chain.iter().position(|r| *r == rule).unwrap_or_else(|| panic!("{rule} is not in {chain:?}"))
    };
    assert_eq!(at("memory.zombie_memcg_growth"), 0);
    assert!(at("cpu.not_scheduling") < at("net.softirq_starvation"), "{chain:?}");
    // Who made them: the parent cgroup and the jobs' names.
    let maker = &last.culprits[0];
    assert!(maker.cgroup.as_deref().is_some_and(|c| c.starts_with("/whystall-lab-slow_stats")), "{maker:?}");
    assert!(maker.name.as_deref().is_some_and(|n| n.starts_with("log-reader")), "{maker:?}");
    assert!(last.summary.contains("log-reader"), "{}", last.summary);
    // And who read the statistics, with the walk in its stack.
    let reader = last.culprits.iter().find(|c| !c.stack.is_empty()).unwrap();
    assert!(reader.stack.iter().any(|f| f.contains("rstat_flush")), "{reader:?}");
    assert!(last.ruled_out.iter().any(|r| r.cause == "cpu.steal"), "{:?}", last.ruled_out);
    assert!(!last.explained.is_empty());
}

#[test]
fn a_recording_gives_the_same_incidents_byte_for_byte_whatever_the_order_of_rules() {
    let json = |v: &[Verdict]| v.iter().map(|v| serde_json::to_string(v).unwrap()).collect::<Vec<_>>();
    let first = json(&replayed(|_| {}));
    assert!(!first.is_empty());
    assert_eq!(json(&replayed(|_| {})), first);
    assert_eq!(json(&replayed(|r| r.reverse())), first);
    assert_eq!(json(&replayed(|r| r.rotate_left(3))), first);
}
