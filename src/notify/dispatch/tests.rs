//! The dispatcher against a virtual clock.

use std::collections::BTreeMap;
use std::time::Duration;

use whystall_engine::script::Severity;
use whystall_engine::verdict::{State, Verdict, Workload};
use whystall_event::{SEC, format_rfc3339};

use super::{Dispatch, Effects, Policy, ReceiverPolicy, RoutePolicy, Send};
use crate::config::Glob;
use crate::notify::Outcome;
use crate::render::sample;
use crate::store::{Op, Recovered, Row, RowKind, Silence, Store};

const T0: u64 = 1_800_000_000 * SEC;
const MIN: u64 = 60 * SEC;
const HOUR: u64 = 3600 * SEC;
const DAY: u64 = 24 * HOUR;

fn verdict(incident: &str, seq: u32, state: State, at: u64) -> Verdict {
    Verdict {
        incident: incident.into(),
        seq,
        state,
        started_at: format_rfc3339(T0),
        updated_at: format_rfc3339(at),
        resolved_at: (state == State::Resolved).then(|| format_rfc3339(at)),
        ..sample::verdict()
    }
}

/// Receivers `a`, `b`, … without a limit in rate.
fn policy(n: usize) -> Policy {
    let names = ["a", "b", "c", "d"];
    let receivers: Vec<ReceiverPolicy> = names[..n]
        .iter()
        .map(|name| ReceiverPolicy { burst: 100_000, per_minute: 100_000, ..ReceiverPolicy::named(*name) })
        .collect();
    let routes = vec![RoutePolicy::all((0..n).collect())];
    Policy { receivers, routes, tags: BTreeMap::new(), host: "node-1".into() }
}

/// A dispatcher with a store, receivers that answer as told, and a clock.
struct World {
    d: Dispatch,
    store: Store,
    now: u64,
    /// What was delivered, as `receiver incident seq` or `receiver title`.
    got: Vec<String>,
    tries: usize,
    log: Vec<String>,
    /// What a receiver answers, by index.
    answer: Box<dyn FnMut(&Send, u64) -> Outcome>,
}

const DONE: Outcome = Outcome::Delivered { note: None };

fn later() -> Outcome {
    Outcome::Retry { why: "down".into(), after: None, progress: None }
}

impl World {
    fn new(policy: Policy) -> World {
        World {
            d: Dispatch::new(policy, T0),
            store: Store::in_memory().unwrap(),
            now: T0,
            got: Vec::new(),
            tries: 0,
            log: Vec::new(),
            answer: Box::new(|_, _| DONE),
        }
    }

    fn run(&mut self, mut effects: Effects) {
        loop {
            self.log.append(&mut effects.log);
            assert!(self.store.commit(std::mem::take(&mut effects.ops), self.now));
            let Some(send) = (!effects.sends.is_empty()).then(|| effects.sends.remove(0)) else { return };
            let outcome = (self.answer)(&send, self.now);
            self.tries += 1;
            if matches!(outcome, Outcome::Delivered { .. }) {
                let name = self.d.policy.receivers[send.receiver].name.clone();
                self.got.push(match &send.incident {
                    Some(i) => format!("{name} {i} {}", send.seq),
                    None => {
                        let (body, _) = self.store.body(send.row, None, 0);
                        let crate::store::Body::Notice(json) = body else { panic!("{body:?}") };
                        let n: crate::notify::Notice = serde_json::from_str(&json).unwrap();
                        format!("{name} {}", n.title)
                    }
                });
            }
            let more = self.d.outcome(send.row, outcome, self.now);
            effects.ops.extend(more.ops);
            effects.sends.extend(more.sends);
            effects.log.extend(more.log);
        }
    }

    fn tell(&mut self, incident: &str, seq: u32, state: State) {
        let v = verdict(incident, seq, state, self.now);
        let e = self.d.verdict(v, self.now);
        self.run(e);
    }

    /// Lets time pass, doing what is due on the way.
    fn pass(&mut self, ns: u64) {
        let end = self.now + ns;
        while let Some(at) = self.d.next_wake().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            let e = self.d.advance(self.now);
            self.run(e);
        }
        self.now = end;
        let e = self.d.advance(end);
        self.run(e);
    }

    fn take(&mut self) -> Vec<String> {
        std::mem::take(&mut self.got)
    }
}

#[test]
fn every_transition_goes_to_every_receiver_in_order() {
    let mut w = World::new(policy(2));
    w.tell("i", 1, State::Firing);
    w.tell("i", 2, State::Updated);
    w.tell("i", 3, State::Resolved);
    assert_eq!(w.take(), ["a i 1", "b i 1", "a i 2", "b i 2", "a i 3", "b i 3"]);
    assert_eq!((w.d.pending(), w.d.incidents.len(), w.d.threads.len()), (0, 0, 0));
    assert!(w.store.outbox(10).unwrap().is_empty());
}

#[test]
fn a_receiver_down_for_three_days_loses_nothing_and_others_nothing_at_all() {
    let mut w = World::new(policy(2));
    let up = T0 + 3 * DAY;
    w.answer = Box::new(move |s, now| if s.receiver == 0 && now < up { later() } else { DONE });
    let mut expected = Vec::new();
    for i in 0..50 {
        let id = format!("i{i}");
        for (seq, state) in [(1, State::Firing), (2, State::Updated), (3, State::Resolved)] {
            w.tell(&id, seq, state);
            expected.push(format!("{id} {seq}"));
            w.pass(HOUR / 3);
        }
    }
    let b: Vec<String> =
        w.got.iter().filter_map(|g| g.strip_prefix("b i")).map(|g| format!("i{g}")).collect();
    assert_eq!(b, expected, "the other receiver is not delayed");
    assert!(!w.got.iter().any(|g| g.starts_with("a ")));
    assert!(w.got.contains(&"b receiver a fails".to_string()), "{:?}", w.got);
    assert!(w.tries < 2_500, "{} tries: it must not be hammered", w.tries);
    w.take();
    w.pass(3 * DAY);
    let mut a: Vec<String> = w.got.iter().filter_map(|g| g.strip_prefix("a ")).map(str::to_string).collect();
    for i in 0..50 {
        let own: Vec<&String> = a.iter().filter(|g| g.starts_with(&format!("i{i} "))).collect();
        assert!(own.is_sorted(), "{own:?}");
    }
    a.sort();
    expected.sort();
    assert_eq!(a, expected);
    assert!(w.got.contains(&"b receiver a works again".to_string()), "{:?}", w.got);
    assert_eq!(w.d.pending(), 0);
}

#[test]
fn beyond_the_bound_the_loss_is_counted_and_told_and_the_newest_state_survives() {
    let mut p = policy(1);
    p.receivers[0].max_pending = 40;
    let mut w = World::new(p);
    let up = T0 + 3 * DAY;
    w.answer = Box::new(move |_, now| if now < up { later() } else { DONE });
    for seq in 1..=200 {
        w.tell("long", seq, if seq == 1 { State::Firing } else { State::Updated });
        w.pass(10 * MIN);
    }
    w.tell("new", 1, State::Firing);
    assert!(w.d.pending() <= 40, "{}", w.d.pending());
    w.pass(3 * DAY);
    let got = w.take();
    assert!(got.contains(&"a long 200".to_string()) && got.contains(&"a new 1".to_string()), "{got:?}");
    let told = got.iter().filter(|g| g.starts_with("a long")).count() as u64;
    let digest = got.iter().find(|g| g.contains("not told one by one")).unwrap();
    let repeats = got.iter().filter(|g| *g == "a long 200").count() as u64 - 1;
    assert_eq!(digest, &format!("a {} notifications were not told one by one", 200 - (told - repeats)));
}

#[test]
fn an_end_is_told_only_to_who_knows_of_the_beginning() {
    let mut w = World::new(policy(1));
    w.answer = Box::new(|s, _| match s.seq {
        1 => Outcome::Permanent { why: "no".into() },
        _ => DONE,
    });
    w.tell("i", 1, State::Firing);
    w.tell("i", 2, State::Resolved);
    assert!(w.take().is_empty());
    assert_eq!((w.d.pending(), w.d.threads.len()), (0, 0));
    let failed = w.store.outbox(10).unwrap();
    assert_eq!(
        (failed.len(), failed[0].status.as_str(), failed[0].why.as_deref()),
        (1, "failed", Some("no"))
    );
}

#[test]
fn a_new_incident_waits_for_company_and_an_end_does_not() {
    let mut p = policy(1);
    p.routes[0].group_wait_ns = 10 * SEC;
    let mut w = World::new(p);
    w.tell("i", 1, State::Firing);
    w.pass(4 * SEC);
    w.tell("i", 2, State::Updated);
    assert!(w.take().is_empty());
    w.pass(6 * SEC);
    assert_eq!(w.take(), ["a i 2"]);
    w.tell("j", 1, State::Firing);
    w.tell("j", 2, State::Resolved);
    assert_eq!(w.take(), ["a j 1", "a j 2"]);
}

#[test]
fn a_merged_incident_is_told_no_more() {
    let merged = |w: &mut World| {
        let mut v = verdict("i", 2, State::Withdrawn, w.now);
        v.merged_into = Some("k".into());
        let e = w.d.verdict(v, w.now);
        w.run(e);
    };
    let mut p = policy(1);
    p.routes[0].group_wait_ns = 10 * SEC;
    let mut w = World::new(p);
    w.tell("i", 1, State::Firing);
    merged(&mut w);
    w.pass(MIN);
    assert!(w.take().is_empty(), "it was not told yet");
    assert!(w.d.incidents.is_empty() && w.d.threads.is_empty());
    w.tell("i", 1, State::Firing);
    w.pass(MIN);
    merged(&mut w);
    assert_eq!(w.take(), ["a i 1", "a i 2"], "what was told is closed");
}

#[test]
fn what_lasts_is_repeated_and_escalated() {
    let mut p = policy(2);
    p.routes[0].receivers = vec![0];
    p.routes[0].repeat_ns = HOUR;
    p.routes[0].escalate = Some((90 * MIN, vec![1]));
    let mut w = World::new(p);
    w.tell("i", 1, State::Firing);
    w.pass(3 * HOUR + MIN);
    assert_eq!(w.take(), ["a i 1", "a i 1", "b i 1", "a i 1", "b i 1", "a i 1"]);
    w.tell("i", 2, State::Resolved);
    w.pass(DAY);
    assert_eq!(w.take(), ["a i 2", "b i 2"]);
}

#[test]
fn routes_match_labels() {
    let mut p = policy(3);
    let is = |label: &str, value: &str| (label.to_string(), vec![Glob::new(value)]);
    let route =
        |m: (String, Vec<Glob>), to| RoutePolicy { matches: [m].into(), ..RoutePolicy::all(vec![to]) };
    p.routes = vec![
        route(is("workload", "shop/cart-*"), 0),
        route(is("severity", "critical"), 1),
        route(is("tag", "latency"), 2),
    ];
    p.tags.insert("memory.direct_reclaim_burst".into(), vec!["memory".into(), "latency".into()]);
    let mut w = World::new(p);
    w.tell("i", 1, State::Firing);
    assert_eq!(w.take(), ["a i 1", "c i 1"]);
    let mut v = verdict("i", 2, State::Updated, w.now);
    (v.severity, v.workload) = (Severity::Critical, None::<Workload>);
    let e = w.d.verdict(v, w.now);
    w.run(e);
    assert_eq!(w.take(), ["a i 2", "b i 2", "c i 2"], "who was told is told on; the worse is told to more");
}

fn silence(until: u64) -> Silence {
    Silence {
        id: "s".into(),
        matchers: vec![("rule".into(), "memory.*".into())],
        reason: "work".into(),
        by: "me".into(),
        created_ns: T0,
        until_ns: until,
    }
}

#[test]
fn silences_hold_back_and_what_outlasts_them_is_told() {
    let mut w = World::new(policy(1));
    w.tell("told", 1, State::Firing);
    let e = w.d.silences(vec![silence(T0 + HOUR)], T0);
    w.run(e);
    w.tell("told", 2, State::Updated);
    w.tell("told", 3, State::Resolved);
    w.tell("short", 1, State::Firing);
    w.tell("short", 2, State::Resolved);
    w.tell("long", 1, State::Firing);
    assert_eq!(w.take(), ["a told 1", "a told 3"]);
    w.pass(2 * HOUR);
    assert_eq!(w.take(), ["a long 1"]);
    w.tell("long", 2, State::Updated);
    let e = w.d.silences(vec![silence(w.now + HOUR)], w.now);
    w.run(e);
    let e = w.d.silences(vec![], w.now);
    w.run(e);
    w.tell("long", 3, State::Resolved);
    assert_eq!(w.take(), ["a long 2", "a long 2", "a long 3"]);
}

#[test]
fn a_storm_becomes_a_digest_and_critical_ones_pass() {
    let mut p = policy(1);
    (p.receivers[0].burst, p.receivers[0].per_minute) = (8, 1);
    let mut w = World::new(p);
    for i in 0..100 {
        w.tell(&format!("i{i}"), 1, State::Firing);
    }
    assert_eq!(w.take().len(), 6, "two tokens are kept");
    w.tell("i0", 2, State::Resolved);
    let mut v = verdict("bad", 1, State::Firing, w.now);
    v.severity = Severity::Critical;
    let e = w.d.verdict(v, w.now);
    w.run(e);
    assert_eq!(w.take(), ["a i0 2", "a bad 1"]);
    w.pass(HOUR);
    let got = w.take();
    let told = got.iter().filter(|g| g.ends_with(" 1")).count();
    assert!(got.contains(&format!("a {} notifications were not told one by one", 100 - 6 - told)), "{got:?}");
    // The end of what was only counted is no news.
    for i in 0..100 {
        w.tell(&format!("i{i}"), 3, State::Resolved);
    }
    w.pass(DAY);
    let ends = w.take().iter().filter(|g| g.ends_with(" 3")).count();
    assert_eq!(ends, 5 + told, "{:?}", w.log);
}

#[test]
fn retry_after_is_honoured_and_one_odd_notification_blocks_nothing_else() {
    let mut w = World::new(policy(1));
    w.answer = Box::new(|s, _| match s.incident.as_deref() {
        Some("odd") => later(),
        Some("busy") if s.attempts == 0 => {
            Outcome::Retry { why: "429".into(), after: Some(Duration::from_secs(600)), progress: None }
        }
        _ => DONE,
    });
    w.tell("odd", 1, State::Firing);
    w.tell("odd", 2, State::Resolved);
    for i in 0..20 {
        w.tell(&format!("i{i}"), 1, State::Firing);
        w.pass(MIN);
    }
    assert_eq!(w.take().len(), 20);
    w.tell("busy", 1, State::Firing);
    w.tell("next", 1, State::Firing);
    w.pass(599 * SEC);
    assert!(w.take().is_empty(), "the receiver asked for silence");
    w.pass(2 * SEC);
    let mut got = w.take();
    got.sort();
    assert_eq!(got, ["a busy 1", "a next 1"]);
    w.pass(8 * DAY);
    let failed: Vec<_> = w.store.outbox(10).unwrap();
    assert_eq!(failed.len(), 1, "given up after a week, and its end with it: {failed:?}");
    assert!(failed[0].why.as_deref().unwrap().starts_with("given up after 7d"));
}

#[test]
fn heartbeats_do_not_pile_up() {
    let mut p = policy(1);
    p.receivers[0].heartbeat_ns = Some(HOUR);
    let mut w = World::new(p);
    w.answer = Box::new(|_, now| if now < T0 + DAY { later() } else { DONE });
    w.pass(23 * HOUR);
    assert_eq!(w.d.pending(), 1);
    w.pass(HOUR + 20 * MIN);
    assert_eq!(w.take(), ["a whystall on node-1 is alive"]);
}

#[test]
fn a_restart_goes_on_where_the_earlier_daemon_was() {
    let mut w = World::new(policy(2));
    w.answer = Box::new(|s, _| if s.receiver == 1 { later() } else { DONE });
    w.tell("i", 1, State::Firing);
    w.tell("i", 2, State::Resolved);
    w.tell("j", 1, State::Firing);
    let left = w.store.recover().unwrap();
    assert_eq!((left.incidents.len(), left.rows.len()), (2, 3));
    w.d = Dispatch::new(policy(2), w.now);
    w.answer = Box::new(|_, _| DONE);
    let e = w.d.recover(left, w.now);
    w.run(e);
    w.take();
    w.pass(HOUR);
    w.tell("j", 2, State::Resolved);
    w.got.retain(|g| !g.contains("receiver"));
    w.got.sort();
    assert_eq!(w.take(), ["a j 2", "b i 1", "b i 2", "b j 1", "b j 2"].map(String::from).to_vec());
    // A receiver that went.
    w.answer = Box::new(|_, _| later());
    w.tell("k", 1, State::Firing);
    let left: Recovered = w.store.recover().unwrap();
    let e = w.d.configure(policy(1), left, w.now);
    w.answer = Box::new(|_, _| DONE);
    w.run(e);
    w.pass(HOUR);
    assert_eq!(w.take(), ["a k 1"]);
    let failed = w.store.outbox(10).unwrap();
    assert_eq!(failed[0].why.as_deref(), Some("its receiver is no longer configured"));
}

#[test]
fn a_clock_that_is_set_back_delays_nothing_for_long() {
    let mut w = World::new(policy(1));
    w.answer = Box::new(|s, _| if s.attempts < 6 { later() } else { DONE });
    w.tell("i", 1, State::Firing);
    w.pass(MIN);
    w.now -= 300 * DAY;
    w.pass(0);
    w.pass(2 * HOUR);
    assert_eq!(w.take(), ["a i 1"]);
}

mod random {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Whatever receivers answer and whenever the daemon is killed: all is delivered, in order, with one id each.
        #[test]
        fn nothing_is_lost_or_out_of_order(
            answers in proptest::collection::vec(0..4u8, 1..40),
            incidents in 1..6usize,
            kills in proptest::collection::vec(0..30usize, 0..4),
        ) {
            let mut store = Store::in_memory().unwrap();
            let mut d = Dispatch::new(policy(2), T0);
            let (mut now, mut turn, mut n) = (T0, 0usize, 0usize);
            let mut got: BTreeMap<(usize, String), Vec<(u32, String)>> = BTreeMap::new();
            let mut flying: Vec<Send> = Vec::new();
            let mut script: Vec<Verdict> = Vec::new();
            for seq in 1..=3 {
                for i in 0..incidents {
                    let state = [State::Firing, State::Updated, State::Resolved][seq as usize - 1];
                    script.push(verdict(&format!("i{i}"), seq, state, T0));
                }
            }
            let mut script = script.into_iter();
            for _ in 0..3_000 {
                n += 1;
                if kills.contains(&n) {
                    // What was under way may or may not have arrived; nobody knows.
                    flying.clear();
                    d = Dispatch::new(policy(2), now);
                    let e = d.recover(store.recover().unwrap(), now);
                    prop_assert!(store.commit(e.ops, now));
                    flying.extend(e.sends);
                }
                let e = match flying.pop() {
                    Some(s) => {
                        turn += 1;
                        let arrived = match answers[turn % answers.len()] {
                            0 => (false, later()),
                            // It arrived, and the answer did not.
                            1 => (true, later()),
                            _ => (true, DONE),
                        };
                        let enough = turn > 400;
                        if arrived.0 || enough {
                            let key = (s.receiver, s.incident.clone().unwrap_or_default());
                            got.entry(key).or_default().push((s.seq, s.nid.clone()));
                        }
                        d.outcome(s.row, if enough { DONE } else { arrived.1 }, now)
                    }
                    None => match script.next() {
                        Some(v) => d.verdict(v, now),
                        None if d.pending() == 0 => break,
                        None => {
                            now = d.next_wake().unwrap().max(now);
                            d.advance(now)
                        }
                    },
                };
                prop_assert!(store.commit(e.ops, now));
                flying.extend(e.sends);
            }
            prop_assert_eq!(d.pending(), 0);
            for receiver in 0..2 {
                for i in 0..incidents {
                    let list = &got[&(receiver, format!("i{i}"))];
                    prop_assert!(list.iter().map(|(s, _)| *s).is_sorted(), "{:?}", list);
                    let mut seqs: Vec<(u32, String)> = list.clone();
                    seqs.dedup();
                    prop_assert_eq!(seqs.len(), 3, "one id for each: {:?}", list);
                }
            }
        }
    }
}

#[test]
fn rows_keep_their_shape_in_the_store() {
    let mut w = World::new(policy(1));
    w.answer = Box::new(|_, _| later());
    w.tell("i", 1, State::Firing);
    let rows: Vec<Row> = w.store.recover().unwrap().rows;
    assert_eq!((rows[0].kind, rows[0].attempts, rows[0].state.as_str()), (RowKind::Verdict, 1, "firing"));
    assert!(rows[0].nid.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b)));
    assert!(w.store.commit(vec![Op::Done(rows[0].id)], T0));
    assert!(w.store.recover().unwrap().rows.is_empty());
}
