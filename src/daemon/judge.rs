//! The engine as live runs and replays both use it: batches and ticks in, verdicts and problems of rules out. No IO.

use std::rc::Rc;
use std::sync::Arc;

use whystall_collectors::health;
use whystall_engine::script::{Rule, Sandbox};
use whystall_engine::verdict::Verdict;
use whystall_engine::window::Limits;
use whystall_engine::{Engine, EngineConfig, HostFacts, Problem, Tick};
use whystall_event::{Batch, Stream, Subject};

use super::exceptions::{Exceptions, Filter, Silenced};
use super::workloads::Names;

/// An engine that tells its own rules about rules that misbehave (`self.rule`), findings that found no room
/// (`self.lost`), and files that were refused (`self.reload`).
#[derive(Debug)]
pub struct Judge {
    engine: Engine,
    stream: Arc<Stream>,
    lost: Arc<Stream>,
    /// Findings beyond the cap that were told of.
    overflow: u64,
    silenced: Silenced,
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
            overflow: 0,
            silenced: Silenced::default(),
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
