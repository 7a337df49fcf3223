//! The engine as live runs and replays both use it: batches and ticks in, verdicts and problems of rules out. No IO.

use std::rc::Rc;
use std::sync::Arc;

use whystall_collectors::health;
use whystall_engine::script::{Rule, Sandbox};
use whystall_engine::verdict::Verdict;
use whystall_engine::window::Limits;
use whystall_engine::{Engine, EngineConfig, HostFacts, Problem, Snapshot, Tick};
use whystall_event::{Batch, SEC, Stamp, Stream, Subject};

use super::exceptions::{Exceptions, Filter, Silenced};
use super::workloads::Names;

/// The state of open findings is handed out again after this time, so that a crash forgets little of how long they hold.
const STATE_AGAIN_NS: u64 = 30 * SEC;
/// A larger state is not kept.
const MAX_STATE: usize = 8 << 20;

/// An engine that tells its own rules about rules that misbehave (`self.rule`), findings that found no room
/// (`self.lost`), and files that were refused (`self.reload`).
#[derive(Debug)]
pub struct Judge {
    engine: Engine,
    stream: Arc<Stream>,
    lost: Arc<Stream>,
    problems: Arc<Stream>,
    /// Findings beyond the cap that were told of.
    overflow: u64,
    silenced: Silenced,
    /// The mark of the state that was handed out last, and when.
    kept: (u64, u64),
    reload: Arc<Stream>,
    refused: Option<String>,
}

impl Judge {
    /// An engine with `rules`, ticking each `interval_ns`.
    pub fn new(rules: Vec<Rc<Rule>>, sandbox: &Rc<Sandbox>, interval_ns: u64, facts: HostFacts) -> Judge {
        let config = EngineConfig { interval_ns, limits: Limits::default(), facts };
        let mut engine = Engine::new(config, sandbox.clone());
        engine.load(rules);
        Judge {
            engine,
            stream: Arc::new(health::RULE),
            lost: Arc::new(health::LOST),
            problems: Arc::new(health::PROBLEM),
            overflow: 0,
            silenced: Silenced::default(),
            kept: (0, 0),
            reload: Arc::new(health::RELOAD),
            refused: None,
        }
    }

    /// Findings that are to be kept silent from now on. `names` of pods and containers, if they are those of this host.
    pub fn except(&mut self, exceptions: Exceptions, names: Option<Names>) {
        let filter = Filter::new(exceptions, names, self.silenced.clone());
        self.engine.except(Some(Box::new(filter)));
    }

    /// What was kept silent so far.
    pub fn silenced(&self) -> &Silenced {
        &self.silenced
    }

    /// Goes on where an earlier run was, by its [`Judge::state`]; returns the incidents that go on. A state that cannot be
    /// read is as good as none.
    pub fn restore(&mut self, state: Option<&str>, now: Stamp) -> Vec<String> {
        let kept: Option<Snapshot> = state.and_then(|s| serde_json::from_str(s).ok());
        let known = kept.map(|k| self.engine.restore(&k, now)).unwrap_or_default();
        self.kept = (self.engine.state_mark().1, now.boot_ns);
        known
    }

    /// Open findings and incidents, for [`Judge::restore`] after a restart. Empty if there are none.
    pub fn state(&self, now: Stamp) -> String {
        if self.engine.state_mark().0 == 0 && self.engine.open_incidents() == 0 {
            return String::new();
        }
        let json = serde_json::to_string(&self.engine.snapshot(now)).unwrap_or_default();
        if json.len() > MAX_STATE { String::new() } else { json }
    }

    /// The state if it differs from the one that this returned last, or if that is long ago and findings are open.
    pub fn changed_state(&mut self, now: Stamp) -> Option<String> {
        let (open, mark) = self.engine.state_mark();
        let old = open > 0 && now.boot_ns.saturating_sub(self.kept.1) >= STATE_AGAIN_NS;
        if mark == self.kept.0 && !old {
            return None;
        }
        self.kept = (mark, now.boot_ns);
        Some(self.state(now))
    }

    /// Replaces the rules with the next tick; state of rules that stay is kept.
    pub fn load(&mut self, rules: Vec<Rc<Rule>>) {
        self.engine.load(rules);
    }

    /// What is wrong with the files as they are now, if what they say is not in force.
    pub fn refused(&mut self, why: Option<String>) {
        self.refused = why;
    }

    /// Takes a batch in.
    pub fn ingest(&mut self, batch: &Batch) {
        self.engine.ingest(batch);
    }

    /// Something went wrong with a part of whystall that is no collector.
    pub fn problem(&mut self, part: &str, what: &str, at: Stamp) {
        let mut batch = Batch::new(self.problems.clone(), at);
        let mut row = batch.row(Subject::Host);
        row.text(health::problem::COLLECTOR, part).text(health::problem::WHAT, what);
        row.gauge(health::problem::COUNT, 1.0);
        self.engine.ingest(&batch);
    }

    /// Ends an interval.
    pub fn tick(&mut self, tick: Tick) -> (Vec<Verdict>, Vec<Problem>) {
        let verdicts = self.engine.tick(tick);
        let problems = self.engine.take_problems();
        // Empty ones too: they say that nothing happened.
        let mut batch = Batch::new(self.stream.clone(), tick.at);
        for p in &problems {
            let mut row = batch.row(Subject::Host);
            row.text(health::rule::RULE, p.rule.as_str()).text(health::rule::WHAT, p.what.as_str());
        }
        self.engine.ingest(&batch);
        let overflow = self.engine.overflow();
        if overflow > self.overflow {
            let mut batch = Batch::new(self.lost.clone(), tick.at);
            let mut row = batch.row(Subject::Host);
            row.gauge(health::lost::EVENTS, (overflow - self.overflow) as f64);
            row.text(health::lost::WHERE, "incidents: findings that found no room");
            self.overflow = overflow;
            self.engine.ingest(&batch);
        }
        let mut batch = Batch::new(self.reload.clone(), tick.at);
        if let Some(why) = &self.refused {
            batch.row(Subject::Host).text(health::reload::WHAT, why.as_str());
        }
        self.engine.ingest(&batch);
        (verdicts, problems)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use whystall_engine::script::{Overrides, compile};
    use whystall_event::{SEC, Stamp};

    use super::*;
    use crate::daemon::sources;

    const BIG: &str = "//! Big.\nconst RULE = #{ id: \"my.big\", api: 1, severity: \"info\", subject: \"cgroup\",\n\
        windows: #{ used: #{ of: \"memcg.usage\", calc: \"last\", over: \"3s\" } } };\n\
        fn enter(w, p) { w.used.mib > 100.0 }";

    #[test]
    fn a_storm_of_findings_is_told_by_number_and_is_no_cause_of_anything() {
        let (sandbox, schema) = (Rc::new(Sandbox::new()), sources::any_host(Duration::from_secs(1)));
        let degraded = whystall_rules::ALL.iter().find(|r| r.path == "self/degraded.rhai").unwrap();
        let rules = [("big.rhai", BIG), (degraded.path, degraded.source)]
            .map(|(name, text)| compile(&sandbox, &schema, name, text, &Overrides::default()).rule.unwrap());
        let mut judge = Judge::new(rules.to_vec(), &sandbox, SEC, HostFacts::default());
        let (_, memcg) = schema.streams().find(|(_, s)| s.name == "memcg").unwrap();
        let usage = memcg.fields.iter().position(|f| f.name == "usage").unwrap();
        let mut told = Vec::new();
        for t in 1..12 {
            let at = Stamp { boot_ns: t * SEC, wall_ns: t * SEC };
            let mut batch = Batch::new(memcg.clone(), at);
            for i in 0..2_100u64 {
                let used = if t > 4 { 200 << 20 } else { 0 };
                batch.row(Subject::cgroup(format!("/g{i}"))).gauge(usage, used as f64);
            }
            judge.ingest(&batch);
            told.extend(judge.tick(Tick { at, suspended_ns: 0 }).0);
        }
        let own: Vec<&Verdict> = told.iter().filter(|v| v.rule == "self.degraded").collect();
        assert_eq!(own.len(), 1);
        assert_eq!((own[0].cause.as_str(), own[0].chain.len()), ("self.events_lost", 1));
        assert!(own[0].summary.contains("100") && own[0].summary.contains("findings"), "{}", own[0].summary);
        assert_eq!(told.len(), 2_001, "cgroups that have nothing to do with each other");
    }
}
