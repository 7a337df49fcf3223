//! The engine as live runs and replays both use it: batches and ticks in, verdicts and problems of rules out. No IO.

use std::rc::Rc;
use std::sync::Arc;

use whystall_collectors::health;
use whystall_engine::script::{Rule, Sandbox};
use whystall_engine::verdict::Verdict;
use whystall_engine::window::Limits;
use whystall_engine::{Engine, EngineConfig, HostFacts, Problem, Tick};
use whystall_event::{Batch, Stream, Subject};

/// An engine that tells its own rules about rules that misbehave (`self.rule`),
/// and about files that were refused (`self.reload`).
#[derive(Debug)]
pub struct Judge {
    engine: Engine,
    stream: Arc<Stream>,
    reload: Arc<Stream>,
    refused: Option<String>,
}

impl Judge {
    /// An engine with `rules`, ticking each `interval_ns`.
    pub fn new(rules: Vec<Rc<Rule>>, sandbox: &Rc<Sandbox>, interval_ns: u64, facts: HostFacts) -> Judge {
        let config = EngineConfig { interval_ns, limits: Limits::default(), facts };
        let mut engine = Engine::new(config, sandbox.clone());
        engine.load(rules);
        Judge { engine, stream: Arc::new(health::RULE), reload: Arc::new(health::RELOAD), refused: None }
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
        let mut batch = Batch::new(self.reload.clone(), tick.at);
        if let Some(why) = &self.refused {
            batch.row(Subject::Host).text(health::reload::WHAT, why.as_str());
        }
        self.engine.ingest(&batch);
        (verdicts, problems)
    }
}
