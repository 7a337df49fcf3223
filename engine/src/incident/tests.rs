//! Findings in, verdicts out.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use proptest::prelude::*;
use whystall_event::{Field, SEC, Stream, SubjectKind, Unit};

use super::*;
use crate::script::{Explains, Manifest, Overrides, Sandbox, When, compile};
use crate::verdict::{Actor, Evidence, RuledOut};

/// A rule's declaration; `edges` are the rules it explains.
fn rule(id: &str, edges: &[(&str, When)]) -> Rc<Manifest> {
    thread_local! {
        static FRAME: Manifest = {
            const FIELDS: &[Field] = &[Field::gauge("a", Unit::None, "")];
            let stream = Stream::sampled("s", "", &[SubjectKind::Host], FIELDS);
            let source = crate::Source { name: "s".into(), streams: vec![std::sync::Arc::new(stream)], interval_ns: SEC, missing: None };
            let text = "//! T.\nconst RULE = #{ id: \"t.t\", api: 1, severity: \"warning\", subject: \"host\",\n windows: #{ a: #{ of: \"s.a\", calc: \"last\", over: \"5s\" } } };\nfn enter(w, p) { w.a.value > 1.0 }";
            let compiled = compile(&Sandbox::new(), &crate::Schema::new(vec![source]), "t.rhai", text, &Overrides::default());
            compiled.rule.unwrap().manifest.as_ref().clone()
        };
    }
    let explains = edges
        .iter()
        .map(|(rule, when)| Explains { rule: (*rule).into(), when: *when, causes: vec![], by: vec![] })
        .collect();
    Rc::new(Manifest { id: id.into(), explains, ..FRAME.with(Clone::clone) })
}

fn concludes(cause: &str) -> Conclusion {
    let mut c = Conclusion::new(cause, Confidence::High);
    c.summary = format!("it is {cause}");
    c.evidence.push(Evidence {
        field: "s.a".into(),
        subject: "host".into(),
        calc: "last".into(),
        window: "5s".into(),
        value: Some(2.0),
        unit: String::new(),
        threshold: Some(1.0),
        window_name: "a".into(),
    });
    c
}

fn ruling_out(mut c: Conclusion, cause: &str) -> Conclusion {
    c.ruled_out.push(RuledOut { cause: cause.into(), because: "a figure".into() });
    c
}

fn by(mut c: Conclusion, pid: u32) -> Conclusion {
    c.culprits.push(Actor { kind: "task".into(), pid: Some(pid), ..Actor::default() });
    c
}

/// Incidents with a clock of seconds.
#[derive(Default)]
struct World {
    incidents: Incidents,
    now: u64,
    all: Vec<Verdict>,
}

impl World {
    fn fire(&mut self, rule: &Rc<Manifest>, subject: &str, c: Conclusion) {
        let m = Member::new(rule.clone(), subject.parse().unwrap(), self.now * SEC, c, None);
        self.incidents.fired(vec![m]);
    }

    fn end(&mut self, rule: &str, subject: &str) {
        self.incidents.ended(rule, &subject.parse().unwrap(), self.now * SEC, false, None);
    }

    /// Settles this second, and goes to the next. What was told: state, root's rule, chain's rules.
    fn tick(&mut self) -> Vec<String> {
        let now = Stamp { boot_ns: self.now * SEC, wall_ns: 1_700_000_000 * SEC + self.now * SEC };
        let verdicts = self.incidents.settle(now, "h");
        self.now += 1;
        self.all.extend(verdicts.iter().cloned());
        verdicts
            .iter()
            .map(|v| {
                let chain: Vec<&str> = v.chain.iter().map(|l| l.rule.as_str()).collect();
                format!("{:?} {}", v.state, chain.join(" > ")).to_lowercase()
            })
            .collect()
    }

    fn wait(&mut self, seconds: u64) -> Vec<String> {
        (0..seconds).flat_map(|_| self.tick()).collect()
    }
}

#[test]
fn cause_and_symptom_are_one_incident_whichever_is_found_first() {
    let (a, b) = (rule("a.cause", &[("b.symptom", When::SameCpu)]), rule("b.symptom", &[]));
    let mut w = World::default();
    w.fire(&b, "cpu:1", concludes("symptom"));
    assert_eq!(w.tick(), ["firing b.symptom"]);
    w.fire(&a, "cpu:1", concludes("cause"));
    assert_eq!(w.tick(), ["updated a.cause > b.symptom"]);
    assert_eq!((w.all[1].incident.clone(), w.all[1].seq), (w.all[0].incident.clone(), 2));
    assert_eq!(w.all[1].started_at, w.all[0].started_at);
    w.end("a.cause", "cpu:1");
    assert_eq!(w.wait(3), [""; 0]);
    w.end("b.symptom", "cpu:1");
    assert_eq!(w.wait(5), [""; 0], "something may still join");
    assert_eq!(w.wait(2), ["resolved a.cause > b.symptom"]);
    // When the last finding was over, not when it was told.
    assert_eq!(w.all[2].resolved_at.as_deref(), Some("2023-11-14T22:13:25.000Z"));
    assert_eq!(w.incidents.len(), 0);
}

#[test]
fn late_ones_join_within_the_tolerance_only() {
    let (a, b) = (rule("a.cause", &[("b.symptom", When::Host)]), rule("b.symptom", &[]));
    for (late, joins) in [(4, true), (9, false)] {
        for (first, then) in [(&a, &b), (&b, &a)] {
            let mut w = World::default();
            w.fire(first, "host", concludes("x"));
            w.tick();
            w.end(&first.id, "host");
            w.wait(late);
            w.fire(then, "host", concludes("y"));
            w.wait(20);
            let ids: BTreeSet<&String> = w.all.iter().map(|v| &v.incident).collect();
            assert_eq!(ids.len() == 1, joins, "{late} {}", first.id);
        }
    }
}

#[test]
fn independent_causes_stay_apart() {
    let (a, b) = (rule("a.cause", &[("b.symptom", When::SameCpu)]), rule("b.symptom", &[]));
    let mut w = World::default();
    // Two real-time hogs on two CPUs, each with a symptom there.
    for (cpu, pid) in [("cpu:0", 10), ("cpu:1", 11)] {
        w.fire(&a, cpu, by(concludes("hog"), pid));
        w.fire(&b, cpu, by(concludes("late"), pid));
    }
    assert_eq!(w.tick(), ["firing a.cause > b.symptom", "firing a.cause > b.symptom"]);
    let mut w = World::default();
    w.fire(&a, "cpu:0", by(concludes("hog"), 10));
    w.fire(&a, "cpu:1", by(concludes("steal"), 10));
    assert_eq!(w.tick().len(), 2, "two causes");
    let mut w = World::default();
    w.fire(&a, "cpu:0", by(concludes("hog"), 10));
    w.fire(&a, "cpu:1", by(concludes("hog"), 10));
    assert_eq!(w.tick(), ["firing a.cause > a.cause"], "one hog that wanders");
    let mut w = World::default();
    w.fire(&a, "cpu:0", concludes("steal"));
    w.fire(&a, "cpu:1", concludes("steal"));
    assert_eq!(w.tick(), ["firing a.cause > a.cause"], "nobody on this host did it");

    let m = rule("m.limit", &[("o.oom", When::SameCgroup)]);
    let o = rule("o.oom", &[]);
    let mut w = World::default();
    for cgroup in ["cgroup:/a", "cgroup:/b"] {
        w.fire(&m, cgroup, concludes("limit"));
        w.fire(&o, &format!("{cgroup}/child"), concludes("limit"));
    }
    assert_eq!(w.tick(), ["firing m.limit > o.oom", "firing m.limit > o.oom"]);
    // The root cgroup has everything in it, and so relates nothing.
    w.fire(&m, "cgroup:/", concludes("limit"));
    assert_eq!(w.tick(), ["firing m.limit"]);
}

#[test]
fn what_one_rules_out_does_not_explain_the_other() {
    let (a, b) = (rule("a.cause", &[("b.symptom", When::Host)]), rule("b.symptom", &[]));
    let mut w = World::default();
    w.fire(&a, "host", concludes("leak"));
    w.fire(&b, "host", ruling_out(concludes("late"), "leak"));
    assert_eq!(w.tick().len(), 2, "the symptom says that it was not the leak");
    let mut w = World::default();
    w.fire(&a, "host", ruling_out(concludes("leak"), "late"));
    w.fire(&b, "host", concludes("late"));
    assert_eq!(w.tick().len(), 2, "the leak is not yet bad enough");
    // It got worse, and now it explains what is told on its own: both are one, and neither is left open.
    w.incidents.concluded("a.cause", &Subject::Host, concludes("leak"), None);
    assert_eq!(w.tick(), ["withdrawn b.symptom", "updated a.cause > b.symptom"]);
    assert_eq!(w.all[2].merged_into.as_ref(), Some(&w.all[3].incident));
    w.end("a.cause", "host");
    w.end("b.symptom", "host");
    assert_eq!(w.wait(10), ["resolved a.cause > b.symptom"]);
}

#[test]
fn rule_outs_of_all_are_told_but_none_that_somebody_concludes() {
    let (a, b) = (rule("a.cause", &[("b.symptom", When::Host)]), rule("b.symptom", &[]));
    let mut w = World::default();
    w.fire(&a, "host", ruling_out(concludes("leak"), "steal"));
    w.fire(&b, "host", ruling_out(ruling_out(concludes("late"), "steal"), "quota"));
    w.tick();
    let out: Vec<&str> = w.all[0].ruled_out.iter().map(|r| r.cause.as_str()).collect();
    assert_eq!(out, ["steal", "quota"]);
}

#[test]
fn confidence_follows_from_the_evidence() {
    let a = rule("a.cause", &[]);
    let told = |c: Conclusion, stale: bool| {
        let mut w = World::default();
        w.fire(&a, "host", c);
        w.incidents.stale("a.cause", &Subject::Host, stale);
        w.tick();
        w.all[0].confidence
    };
    let good = || ruling_out(concludes("x"), "y");
    assert_eq!(told(good(), false), Confidence::High);
    assert_eq!(told(good(), true), Confidence::Medium, "its windows are unknown by now");
    assert_eq!(told(concludes("x"), false), Confidence::Medium, "nothing is ruled out");
    let claim = |how| Conclusion { confidence: how, ..good() };
    assert_eq!(told(claim(Confidence::Low), false), Confidence::Low, "never more than the rule says");
    let mut unknown = good();
    unknown.evidence[0].value = None;
    assert_eq!(told(unknown, false), Confidence::Low, "no figure is known");
}

#[test]
fn a_chain_is_in_causal_order_and_cycles_have_the_earliest_as_root() {
    let a = rule("z.zombie", &[("m.hold", When::Host), ("a.net", When::Host)]);
    let (b, c) = (rule("m.hold", &[("a.net", When::Host)]), rule("a.net", &[]));
    let mut w = World::default();
    w.fire(&c, "host", concludes("net"));
    w.tick();
    w.fire(&b, "host", concludes("hold"));
    w.tick();
    w.fire(&a, "host", concludes("zombie"));
    assert_eq!(w.tick(), ["updated z.zombie > m.hold > a.net"]);
    let (a, b) = (rule("a.one", &[("b.two", When::Host)]), rule("b.two", &[("a.one", When::Host)]));
    let mut w = World::default();
    w.fire(&b, "host", concludes("two"));
    w.tick();
    w.fire(&a, "host", concludes("one"));
    assert_eq!(w.tick(), ["updated b.two > a.one"]);
}

#[test]
fn a_thousand_at_once_are_one_incident_and_what_is_over_the_cap_is_counted() {
    let a = rule("a.cause", &[("b.symptom", When::Host)]);
    let b = rule("b.symptom", &[]);
    let mut w = World::default();
    let storm = |n: usize| {
        let member =
            |i| Member::new(b.clone(), Subject::cgroup(format!("/g{i}")), SEC, concludes("late"), None);
        (0..n).map(member).collect::<Vec<_>>()
    };
    w.now = 2;
    w.incidents.fired(storm(1_000));
    w.fire(&a, "host", concludes("leak"));
    let told = w.tick();
    assert_eq!(told.len(), 1);
    assert_eq!((w.all[0].rule.as_str(), w.all[0].findings, w.all[0].chain.len()), ("a.cause", 1_001, 32));
    assert_eq!(w.incidents.overflow, 0);
    let mut w = World::default();
    w.incidents.fired(storm(MAX_MEMBERS + 7));
    w.now = 2;
    w.fire(&a, "host", concludes("leak"));
    w.tick();
    assert_eq!(w.incidents.overflow, 7);
    assert!(w.all.iter().any(|v| v.rule == "a.cause"), "the host's own find room");
}

#[test]
fn an_incident_that_lasts_does_not_grow() {
    let (a, b) = (rule("a.cause", &[("b.symptom", When::Host)]), rule("b.symptom", &[]));
    let mut w = World::default();
    w.fire(&a, "host", concludes("leak"));
    for i in 0..400 {
        let name = format!("cgroup:/g{i}");
        w.fire(&b, &name, concludes("late"));
        w.tick();
        w.end("b.symptom", &name);
    }
    w.tick();
    assert_eq!(w.incidents.len(), 1);
    assert!(w.incidents.open[0].members.len() <= MAX_ENDED + 2);
}

/// What happens to findings, by the numbers of rule and subject.
#[derive(Debug, Clone)]
enum Happens {
    Fire(usize, usize, u8),
    Conclude(usize, usize, u8),
    End(usize, usize, bool),
    Stale(usize, usize, bool),
    Ticks(u8),
}

const SUBJECTS: [&str; 6] = ["host", "cpu:0", "cpu:1", "cgroup:/a", "cgroup:/a/b", "cgroup:/c"];
const CAUSES: [&str; 4] = ["w", "x", "y", "z"];
const RULES: usize = 5;

fn happens() -> impl Strategy<Value = Happens> {
    let (r, s) = (0..RULES, 0..SUBJECTS.len());
    prop_oneof![
        4 => (r.clone(), s.clone(), any::<u8>()).prop_map(|(r, s, c)| Happens::Fire(r, s, c)),
        2 => (r.clone(), s.clone(), any::<u8>()).prop_map(|(r, s, c)| Happens::Conclude(r, s, c)),
        3 => (r.clone(), s.clone(), any::<bool>()).prop_map(|(r, s, w)| Happens::End(r, s, w)),
        1 => (r, s, any::<bool>()).prop_map(|(r, s, w)| Happens::Stale(r, s, w)),
        4 => (1..9u8).prop_map(Happens::Ticks),
    ]
}

fn conclusion(bits: u8) -> Conclusion {
    let mut c = concludes(CAUSES[usize::from(bits & 3)]);
    if bits & 4 != 0 {
        c = ruling_out(c, CAUSES[usize::from(bits >> 3 & 3)]);
    }
    if bits & 32 != 0 {
        c = by(c, u32::from(bits >> 6));
    }
    c
}

/// Runs what happens; then ends all. Within a second, things are done in the order or against it.
fn play(edges: &[(usize, usize, u8)], script: &[Happens], reversed: bool) -> World {
    const WHEN: [When; 4] = [When::Host, When::SameCpu, When::SameCgroup, When::SameTask];
    let names: Vec<String> = (0..RULES).map(|i| format!("r.r{i}")).collect();
    let rules: Vec<Rc<Manifest>> = (0..RULES)
        .map(|i| {
            let mine = edges.iter().filter(|e| e.0 == i);
            let mine: Vec<_> =
                mine.map(|e| (names[e.1].as_str(), WHEN[usize::from(e.2) % WHEN.len()])).collect();
            rule(&names[i], &mine)
        })
        .collect();
    let mut w = World::default();
    let mut open: BTreeMap<(usize, usize), ()> = BTreeMap::new();
    let mut fires: Vec<Member> = Vec::new();
    let end = [Happens::Ticks(20)];
    for h in script.iter().chain(&end) {
        match *h {
            Happens::Fire(r, s, c) if !open.contains_key(&(r, s)) => {
                open.insert((r, s), ());
                let subject = SUBJECTS[s].parse().unwrap();
                fires.push(Member::new(rules[r].clone(), subject, w.now * SEC, conclusion(c), None));
            }
            Happens::Conclude(r, s, c) if fires.is_empty() => {
                w.incidents.concluded(&names[r], &SUBJECTS[s].parse().unwrap(), conclusion(c), None);
            }
            Happens::End(r, s, withdrawn) if fires.is_empty() && open.remove(&(r, s)).is_some() => {
                let subject = SUBJECTS[s].parse().unwrap();
                w.incidents.ended(&names[r], &subject, w.now * SEC, withdrawn, None);
            }
            Happens::Stale(r, s, stale) => {
                w.incidents.stale(&names[r], &SUBJECTS[s].parse().unwrap(), stale);
            }
            Happens::Ticks(n) => {
                if reversed {
                    fires.reverse();
                }
                w.incidents.fired(std::mem::take(&mut fires));
                for _ in 0..n {
                    w.tick();
                    invariants(&w.incidents);
                }
            }
            _ => {}
        }
    }
    for (r, s) in open.into_keys() {
        w.incidents.ended(&names[r], &SUBJECTS[s].parse().unwrap(), w.now * SEC, false, None);
    }
    w.wait(10);
    w
}

fn invariants(incidents: &Incidents) {
    let mut seen = BTreeSet::new();
    for m in incidents.open.iter().flat_map(|i| &i.members).filter(|m| m.is_open()) {
        assert!(seen.insert((m.manifest.id.clone(), m.subject.clone())), "in two incidents: {m:?}");
    }
    assert!(incidents.open.iter().all(|i| i.told.is_some() && !i.id.is_empty()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn incidents_hold_together(
        edges in prop::collection::vec((0..RULES, 0..RULES, any::<u8>()), 0..10),
        script in prop::collection::vec(happens(), 0..40),
    ) {
        let w = play(&edges, &script, false);
        prop_assert_eq!(w.incidents.len(), 0);
        let mut by_id: BTreeMap<&str, Vec<&Verdict>> = BTreeMap::new();
        for v in &w.all {
            by_id.entry(&v.incident).or_default().push(v);
            let first = &v.chain[0];
            prop_assert_eq!((&first.rule, &first.subject, &first.cause), (&v.rule, &v.subject, &v.cause));
            prop_assert!(v.ruled_out.iter().all(|r| v.chain.iter().all(|l| l.cause != r.cause)));
            prop_assert!(v.started_at <= v.updated_at);
        }
        for told in by_id.values() {
            let (last, before) = told.split_last().unwrap();
            prop_assert!(matches!(last.state, State::Resolved | State::Withdrawn), "{:?}", last);
            for (i, v) in before.iter().enumerate() {
                prop_assert_eq!(v.state, if i == 0 { State::Firing } else { State::Updated });
            }
            prop_assert!(told.iter().zip(1..).all(|(v, seq)| v.seq == seq));
            if let Some(other) = &last.merged_into {
                prop_assert!(by_id.contains_key(other.as_str()) && *other != last.incident);
            }
        }
        // The same again is the same, and so is another order of rules within a tick.
        prop_assert_eq!(&w.all, &play(&edges, &script, false).all);
        prop_assert_eq!(&w.all, &play(&edges, &script, true).all);
    }
}
