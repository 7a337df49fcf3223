//! The engine: batches and ticks in, verdicts out.

mod changes;
mod keep;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use whystall_event::{Batch, Stamp, Subject, SubjectKind};

use crate::conclude::{Asked, Leave, opposite, provisional};
use crate::data::{Data, HostFacts, Recent};
use crate::except::Except;
use crate::extents::{Extents, Prospects};
use crate::finding::{Finding, Phase, Step};
use crate::incident::{Incidents, Member};
use crate::judge::{Judge, SCRIPT_OPERATIONS_A_TICK, cpu_rows, declare, source};
use crate::script::{At, Conclusion, Judged, Need, Program, Rule, Sandbox, Scratch, Source};
use crate::verdict::Verdict;
use crate::window::{Limits, WindowId, WindowStats, Windows};
use changes::Change;

/// A rule that failed waits this long before it is tried again, doubling up to an hour.
const SUSPEND_NS: u64 = 60_000_000_000;
const SUSPEND_MAX_NS: u64 = 3_600_000_000_000;
/// A firing finding is concluded again after this time, then after twice as long, and so on.
const RECONCLUDE_NS: u64 = 5_000_000_000;
/// Findings a rule may have open.
const MAX_FINDINGS: usize = 10_000;
/// A finding that fires again within this time after it was resolved counts as flapping.
const FLAP_NS: u64 = 600_000_000_000;
const MAX_FLAP_SHIFT: u32 = 3;
const MAX_FLAP_ENTRIES: usize = 4_096;

/// What an engine is made with.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// The time between ticks, nanoseconds.
    pub interval_ns: u64,
    /// Bounds of the window tables.
    pub limits: Limits,
    /// Facts for verdicts.
    pub facts: HostFacts,
}

/// One tick, as the caller's clocks saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tick {
    /// Now.
    pub at: Stamp,
    /// How long the machine was suspended since the tick before, nanoseconds.
    pub suspended_ns: u64,
}

/// Something about a rule that operators must know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The rule's id.
    pub rule: String,
    /// What happened.
    pub what: String,
}

/// The state of one open finding, for `whystall test` and for explanations.
#[derive(Debug, Clone, PartialEq)]
pub struct FindingState {
    /// The rule's id.
    pub rule: String,
    /// What it is about.
    pub subject: Subject,
    /// Where in its life it is.
    pub phase: Phase,
    /// Whether its windows are unknown now.
    pub stale: bool,
    /// What the rule concluded, once it fired.
    pub conclusion: Option<Conclusion>,
}

/// Windows, rules, findings and incidents of one host.
#[derive(Debug)]
pub struct Engine {
    config: EngineConfig,
    data: Rc<RefCell<Data>>,
    sandbox: Rc<Sandbox>,
    rules: Vec<Active>,
    incidents: Incidents,
    except: Option<Box<dyn Except>>,
    /// Findings that fire but are kept silent.
    excepted: BTreeMap<(String, Subject), Member>,
    excepted_ns: u64,
    scratch: Scratch,
    extents: Extents,
    problems: Vec<Problem>,
    now: Stamp,
}

#[derive(Debug)]
struct Active {
    rule: Rc<Rule>,
    instances: Vec<Instance>,
    suspended_until: u64,
    failures: u32,
}

/// One rule for one kind of subject.
#[derive(Debug)]
struct Instance {
    kind: SubjectKind,
    ids: Rc<Vec<Option<WindowId>>>,
    enter: Option<Program>,
    /// What `enter` needs, if it is lowered.
    needs: Vec<Need>,
    leave: Leave,
    findings: BTreeMap<Subject, Finding>,
    flaps: BTreeMap<Subject, (u64, u32)>,
}

impl Engine {
    /// An engine without rules.
    pub fn new(config: EngineConfig, sandbox: Rc<Sandbox>) -> Engine {
        let data = Data {
            windows: Windows::new(config.interval_ns, config.limits.clone()),
            recent: Recent::default(),
            facts: config.facts.clone(),
        };
        Engine {
            config,
            data: Rc::new(RefCell::new(data)),
            sandbox,
            rules: Vec::new(),
            incidents: Incidents::default(),
            except: None,
            excepted: BTreeMap::new(),
            excepted_ns: 0,
            scratch: Scratch::default(),
            extents: Extents::default(),
            problems: Vec::new(),
            now: Stamp::default(),
        }
    }

    /// Replaces the rules. State of rules that stay (by id, kind and windows) is kept; findings of rules that went are
    /// withdrawn with the next tick.
    pub fn load(&mut self, rules: Vec<Rc<Rule>>) {
        let mut old: Vec<Active> = std::mem::take(&mut self.rules);
        for rule in rules {
            let before =
                old.iter().position(|a| a.rule.manifest.id == rule.manifest.id).map(|i| old.remove(i));
            let active = match before {
                // The very same rule: nothing of it changes, not even its being suspended.
                Some(same) if Rc::ptr_eq(&same.rule, &rule) => same,
                before => self.activate(rule, before),
            };
            self.rules.push(active);
        }
        for gone in old {
            for inst in gone.instances {
                self.drop_instance(&gone.rule.manifest.id, inst);
            }
        }
    }

    fn activate(&mut self, rule: Rc<Rule>, before: Option<Active>) -> Active {
        let mut kept: Vec<Instance> = before.map(|b| b.instances).unwrap_or_default();
        let mut instances = Vec::new();
        for &kind in &rule.manifest.subjects {
            let ids = Rc::new(self.declare(&rule, kind));
            let (findings, flaps) = match kept.iter().position(|i| i.kind == kind) {
                Some(i) => {
                    let k = kept.remove(i);
                    let kept = (k.findings, k.flaps);
                    self.release(&k.ids);
                    kept
                }
                None => Default::default(),
            };
            let leave = match (rule.has_leave, rule.lowered_leave(kind)) {
                (false, _) => Leave::NotEnter,
                (true, Some(p)) => Leave::Lowered(p),
                (true, None) => Leave::Script,
            };
            let enter = rule.lowered_enter(kind);
            let needs = enter.as_ref().map(Program::needs).unwrap_or_default();
            instances.push(Instance { kind, ids, enter, needs, leave, findings, flaps });
        }
        for inst in kept {
            self.drop_instance(&rule.manifest.id, inst);
        }
        Active { rule, instances, suspended_until: 0, failures: 0 }
    }

    fn declare(&self, rule: &Rule, kind: SubjectKind) -> Vec<Option<WindowId>> {
        declare(&mut self.data.borrow_mut().windows, &rule.manifest.windows, kind)
    }

    fn release(&self, ids: &[Option<WindowId>]) {
        let mut data = self.data.borrow_mut();
        for id in ids.iter().flatten() {
            data.windows.release(*id);
        }
    }

    fn drop_instance(&mut self, rule: &str, inst: Instance) {
        self.release(&inst.ids);
        for (subject, f) in inst.findings {
            if f.phase != Phase::Pending
                && self.excepted.remove(&(rule.to_string(), subject.clone())).is_none()
            {
                self.incidents.ended(rule, &subject, self.now.boot_ns, true, None);
            }
        }
    }

    /// Takes a collector's batch in.
    pub fn ingest(&mut self, batch: &Batch) {
        let data = &mut *self.data.borrow_mut();
        data.windows.ingest(batch);
        data.recent.ingest(batch);
    }

    /// Ends a tick: judges every rule and returns what changed for the world outside.
    pub fn tick(&mut self, tick: Tick) -> Vec<Verdict> {
        let now = tick.at;
        self.now = now;
        {
            let windows = &mut self.data.borrow_mut().windows;
            if tick.suspended_ns > 0 {
                windows.break_all(now);
            }
            windows.tick(now);
        }
        self.extents.expire();
        let mut fired = self.excepted_again();
        for i in 0..self.rules.len() {
            if self.rules[i].suspended_until > now.boot_ns {
                continue;
            }
            for k in 0..self.rules[i].instances.len() {
                let (changes, failed) = self.judge(i, k);
                self.apply(i, changes, &mut fired);
                if let Some(why) = failed {
                    self.suspend(i, &why);
                    break;
                }
            }
        }
        self.conclude_explainers(&fired);
        self.incidents.fired(fired);
        self.incidents.settle(now, &self.config.facts.host)
    }

    /// Who is asked whether a finding is to be kept silent. Findings that fire already stay.
    pub fn except(&mut self, except: Option<Box<dyn Except>>) {
        self.except = except;
        self.excepted_ns = 0;
    }

    fn suspend(&mut self, i: usize, why: &str) {
        let active = &mut self.rules[i];
        let wait = SUSPEND_NS.saturating_mul(1 << active.failures.min(6)).min(SUSPEND_MAX_NS);
        active.failures = active.failures.saturating_add(1);
        active.suspended_until = self.now.boot_ns.saturating_add(wait);
        self.problems.push(Problem {
            rule: active.rule.manifest.id.clone(),
            what: format!("suspended for {}: {why}", whystall_event::format_duration(wait)),
        });
    }

    /// Judges one rule for one kind of subject. Returns what changed and, if the rule failed, why.
    fn judge(&mut self, rule: usize, instance: usize) -> (Vec<Change>, Option<String>) {
        let Engine { data, sandbox, rules, scratch, extents, now, .. } = self;
        let active = &mut rules[rule];
        let rule = &active.rule;
        let inst = &mut active.instances[instance];
        let held = data.borrow();
        let windows = &held.windows;
        let table = windows.table(inst.kind);
        let cpus = cpus(windows, rule, inst);
        let sources = sources(windows, rule, inst, &cpus);
        let mut judge = Judge::new(rule, sandbox, &sources, scratch);
        let mut changes = Vec::new();
        let mut to_conclude: Vec<(Subject, bool)> = Vec::new();

        // Open findings first: they are few and need both conditions.
        let mut over = Vec::new();
        for (subject, f) in &mut inst.findings {
            let row = table.row(subject).filter(|r| !table.is_gone(*r));
            let (enter, leave) = (&inst.enter, &inst.leave);
            let entered = match row {
                Some(r) => judge.enter(enter.as_ref(), r, subject),
                None => f.absent(now.boot_ns, Judged::False),
            };
            let gone = f.absent(now.boot_ns, Judged::True);
            let mut policy = rule.policy();
            let stale = f.stale;
            let flaps = inst.flaps.get(subject).map_or(0, |(_, n)| *n);
            policy.clear_hold_ns = policy.clear_hold_ns.saturating_mul(1 << flaps.min(MAX_FLAP_SHIFT));
            let step = f.step(
                &policy,
                &entered,
                || match (row, leave) {
                    (None, _) => gone,
                    (_, Leave::NotEnter) => opposite(&entered),
                    (Some(r), Leave::Lowered(p)) => judge.lowered(p, r),
                    (Some(r), Leave::Script) => judge.script("leave", r, subject),
                },
                now.boot_ns,
            );
            if f.stale != stale && f.phase != Phase::Pending {
                changes.push(Change::Stale(subject.clone(), f.stale));
            }
            match step {
                Step::Fired => to_conclude.push((subject.clone(), true)),
                Step::Dropped => over.push((subject.clone(), false)),
                Step::Resolved => over.push((subject.clone(), true)),
                Step::Stay => {
                    let wait = RECONCLUDE_NS << f.conclusions.min(10);
                    // Only while the condition holds: figures of the way out would explain nothing.
                    if f.phase == Phase::Firing
                        && entered == Judged::True
                        && now.boot_ns.saturating_sub(f.concluded_ns) >= wait
                        && row.is_some()
                    {
                        to_conclude.push((subject.clone(), false));
                    }
                }
            }
        }
        let asked = Asked {
            rule,
            sandbox,
            sources: &sources,
            ids: &inst.ids,
            data,
            enter: inst.enter.as_ref(),
            leave: &inst.leave,
            now: *now,
        };
        for (subject, fired) in over {
            inst.findings.remove(&subject);
            if fired {
                note_flap(&mut inst.flaps, &subject, now.boot_ns);
                let row = table.row(&subject).filter(|r| !table.is_gone(*r));
                let explained = row.map(|r| asked.explain(&subject, r));
                changes.push(Change::Ended(subject, explained));
            }
        }

        // Then every other subject whose condition holds.
        let wake = rule.manifest.wake;
        let prospects = Prospects::new(&inst.needs, wake, &sources, &inst.ids, extents);
        for row in judge.candidates(inst.enter.as_ref(), wake.map(|i| sources[i]), &prospects, table) {
            let Some(subject) = table.subject(row) else { continue };
            if inst.findings.contains_key(subject) || inst.findings.len() >= MAX_FINDINGS {
                continue;
            }
            let mut f = Finding::begin(subject.clone(), now.boot_ns);
            if f.step(&rule.policy(), &Judged::True, || Judged::False, now.boot_ns) == Step::Fired {
                to_conclude.push((subject.clone(), true));
            }
            inst.findings.insert(subject.clone(), f);
        }

        let mut failed = judge.failed.take();
        let mut verdict_failed: Option<String> = None;
        for (subject, first) in to_conclude {
            let Some(row) = table.row(&subject) else { continue };
            let later = judge.spent() > SCRIPT_OPERATIONS_A_TICK;
            if later && !first {
                continue;
            }
            let Some(f) = inst.findings.get_mut(&subject) else { continue };
            let conclusion = match &verdict_failed {
                Some(why) => Err(why.clone()),
                // The tick has no time left: what is certain is told now, the rest with one of the next ticks.
                None if later => Ok(provisional(rule, String::new())),
                None => asked.conclude(&subject, row),
            };
            let conclusion = conclusion.unwrap_or_else(|why| {
                failed.get_or_insert_with(|| format!("`verdict` failed: {why}"));
                // The condition is true whatever the conclusion's fate: tell it with what is certain.
                let c = provisional(rule, format!(" (its verdict failed: {why})"));
                verdict_failed.get_or_insert(why);
                c
            });
            if !later {
                f.concluded_ns = now.boot_ns;
                f.conclusions += 1;
            }
            f.conclusion = Some(conclusion.clone());
            let explained = Some(asked.explain(&subject, row));
            if first {
                let m = Member::new(rule.manifest.clone(), subject, f.started_ns, conclusion, explained);
                changes.push(Change::Fired(m));
            } else {
                changes.push(Change::Concluded(subject, conclusion, explained));
            }
        }
        if failed.is_none() {
            active.failures = 0;
        }
        (changes, failed)
    }

    /// Problems of rules since the last call.
    pub fn take_problems(&mut self) -> Vec<Problem> {
        std::mem::take(&mut self.problems)
    }

    /// All open findings, in order of rule and subject.
    pub fn findings(&self) -> Vec<FindingState> {
        self.rules
            .iter()
            .flat_map(|a| {
                a.instances.iter().flat_map(|i| {
                    i.findings.values().map(|f| FindingState {
                        rule: a.rule.manifest.id.clone(),
                        subject: f.subject.clone(),
                        phase: f.phase,
                        stale: f.stale,
                        conclusion: f.conclusion.clone(),
                    })
                })
            })
            .collect()
    }

    /// Figures about the windows.
    pub fn window_stats(&self) -> WindowStats {
        self.data.borrow().windows.stats()
    }

    /// How many incidents are open.
    pub fn open_incidents(&self) -> usize {
        self.incidents.len()
    }

    /// Findings that were counted but not kept because too many were open.
    pub fn overflow(&self) -> u64 {
        self.incidents.overflow
    }

    /// Findings that fire but are kept silent by exceptions.
    pub fn excepted(&self) -> usize {
        self.excepted.len()
    }
}

/// For each window of a rule that is read at another CPU, that CPU's row for each subject.
fn cpus(windows: &Windows, rule: &Rule, inst: &Instance) -> Vec<Vec<u32>> {
    let row = |at| match at {
        At::Cpu(by) => cpu_rows(windows, inst.ids[by]),
        _ => Vec::new(),
    };
    rule.manifest.windows.iter().map(|d| row(d.at)).collect()
}

/// Where the numbers of a rule's windows are; `cpus` as [`cpus`] gives them.
fn sources<'a>(windows: &'a Windows, rule: &Rule, inst: &Instance, cpus: &'a [Vec<u32>]) -> Vec<Source<'a>> {
    let parents = windows.table(inst.kind).parent_rows();
    let declared = rule.manifest.windows.iter().zip(inst.ids.iter().zip(cpus));
    declared.map(|(d, (id, cpus))| source(windows, d.at, d.shape.scale(), *id, parents, cpus)).collect()
}

fn note_flap(flaps: &mut BTreeMap<Subject, (u64, u32)>, subject: &Subject, now: u64) {
    flaps.retain(|_, (at, _)| now.saturating_sub(*at) < FLAP_NS);
    if flaps.len() < MAX_FLAP_ENTRIES {
        let entry = flaps.entry(subject.clone()).or_insert((now, 0));
        *entry = (now, (entry.1 + 1).min(MAX_FLAP_SHIFT));
    }
}
