//! The loop of the `latency` collector: waits for events, delivers them, and once a second reads what the kernel summed.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use whystall_event::{Batch, MS, SEC, Stamp, Stream, Subject};

use super::probes::{self, Level, PROBES};
use super::rows::Rows;
use super::settings::{Best, Options};
use super::streams as s;
use super::totals::{Totals, Watched};
use crate::bpf::object::{self, Object, Thresholds};
use crate::bpf::perf::Tracepoints;
use crate::bpf::wire::{self, Cpu, KINDS};
use crate::runner::clock;
use crate::{CollectError, Roots, Sink, Stop, Streaming};

/// After events, more are left to gather for this long: it bounds the wake-ups under a flood.
const GATHER: Duration = Duration::from_millis(20);
/// Events handled between two looks at the clock.
const AT_ONCE: usize = 4096;
/// Between two readings of totals.
const INTERVAL: u64 = SEC;
/// Totals are read this long before the full intervals of CLOCK_BOOTTIME at which the polled collectors begin: the tick comes
/// when these are done, a millisecond or two later, and would else leave half of the totals to the next one.
const LEAD: u64 = 50 * MS;
/// Softirqs a second on one CPU above which watching each costs too much (2 % of the CPU), for how long they are then
/// left alone, and for how long at most if it is so again and again.
const SOFTIRQS: u64 = 100_000;
const SOFTIRQ_REST: u64 = 30 * SEC;
const SOFTIRQ_LONGEST_REST: u64 = 240 * SEC;

/// The collector, ready to run.
pub(super) struct Latency {
    pub(super) roots: Roots,
    pub(super) options: Options,
}

impl Streaming for Latency {
    fn run(&mut self, sink: &dyn Sink, stop: &Stop) -> Result<(), CollectError> {
        let mut run = Run::start(&self.roots, &self.options, sink)?;
        while !stop.is_set() {
            if run.wait(sink.now(), stop) {
                std::thread::sleep(GATHER);
            }
            run.drain();
            let now = sink.now();
            let tick = now.boot_ns >= run.due_ns();
            run.deliver(sink, now, tick);
            if tick {
                run.ticked_ns = now.boot_ns;
                run.tick(sink, now);
            }
        }
        Ok(())
    }
}

struct Run {
    object: Option<Object>,
    perf: Option<Tracepoints>,
    levels: Vec<Level>,
    rows: Rows,
    totals: Totals,
    ticked_ns: u64,
    cpus: Vec<Cpu>,
    /// By probe: events lost when last looked at, and whether the next batch must say that some are missing.
    lost: Vec<u64>,
    incomplete: Vec<bool>,
    /// Lives of cgroups that were held back or lost when last looked at.
    lives_missed: u64,
    softirqs: SoftirqLoad,
    probes: Arc<Stream>,
    zombies: Arc<Stream>,
    told: HashSet<&'static str>,
}

impl Run {
    fn start(roots: &Roots, options: &Options, sink: &dyn Sink) -> Result<Run, CollectError> {
        let now = sink.now();
        let rows = Rows::new(roots, now);
        let off = |i: usize| PROBES.get(i).is_none_or(|p| options.off.iter().any(|o| o == p.name));
        let wanted = |program: &str| {
            let mut needing = PROBES.iter().enumerate().filter(|(_, p)| p.programs.contains(&program));
            needing.any(|(i, _)| !off(i))
        };
        let loaded = match options.best {
            Best::Perf => Err("level = \"perf\" is set".to_string()),
            Best::Bpf => object::check_host(roots).map_err(|e| e.to_string()).and_then(|()| {
                let thresholds = only_wanted(options.thresholds, &off);
                Object::load(roots, &thresholds, rows.cgroups.cpu_is_v1(), &wanted)
            }),
        };
        let mut levels: Vec<Level> = PROBES
            .iter()
            .enumerate()
            .map(|(i, p)| match &loaded {
                _ if off(i) => Level::Off,
                Ok(object) => match p.programs.iter().find_map(|name| object.watches(name).err()) {
                    None => Level::Bpf,
                    Some(why) => Level::Unavailable(why.into()),
                },
                Err(why) => Level::Unavailable(why.as_str().into()),
            })
            .collect();
        let missing: Vec<usize> =
            (0..PROBES.len()).filter(|i| matches!(levels.get(*i), Some(Level::Unavailable(_)))).collect();
        let perf = open_perf(roots, options, &missing, &mut levels);
        if !levels.iter().any(Level::watches) {
            let why = loaded.err().unwrap_or_else(|| "every probe is off".into());
            return Err(CollectError::Other(format!("no probe can watch: {why}")));
        }
        Ok(Run {
            object: loaded.ok(),
            perf,
            levels,
            rows,
            totals: Totals::new(),
            ticked_ns: now.boot_ns,
            cpus: Vec::new(),
            lost: vec![0; PROBES.len()],
            // Nothing is known of the time before.
            incomplete: vec![true; PROBES.len()],
            lives_missed: 0,
            softirqs: SoftirqLoad::default(),
            probes: Arc::new(s::probes::STREAM),
            zombies: Arc::new(s::memcg_zombies::STREAM),
            told: HashSet::new(),
        })
    }

    /// When totals are read again.
    fn due_ns(&self) -> u64 {
        ((self.ticked_ns + LEAD) / INTERVAL + 1) * INTERVAL - LEAD
    }

    /// Waits for events until the next reading of totals is due; false if none came.
    fn wait(&self, now: Stamp, stop: &Stop) -> bool {
        let due = self.due_ns();
        let rings = self.object.iter().map(Object::fd);
        let fds = rings.chain(self.perf.iter().flat_map(Tracepoints::fds));
        stop.poll(fds, Duration::from_nanos(due.saturating_sub(now.boot_ns))).unwrap_or_else(|_| {
            // The rings are looked at without being asked.
            std::thread::sleep(GATHER);
            true
        })
    }

    fn drain(&mut self) {
        let rows = &mut self.rows;
        if let Some(object) = &mut self.object {
            object.events(AT_ONCE, |bytes| rows.event(bytes));
        }
        if let Some(perf) = &mut self.perf {
            perf.drain(AT_ONCE, |head| {
                let probe = match head.kind {
                    wire::RECLAIM => probes::RECLAIM_DIRECT,
                    wire::MEMCG_RECLAIM => probes::RECLAIM_MEMCG,
                    _ => probes::COMPACTION,
                };
                if let Some(events) = rows.events.get_mut(probe) {
                    *events += 1;
                }
                rows.memory(probe, head);
            });
        }
    }

    /// Hands over the rows there are; with `all`, also empty batches, which say that nothing happened.
    fn deliver(&mut self, sink: &dyn Sink, now: Stamp, all: bool) {
        if all {
            self.look_for_losses();
        }
        for (i, level) in self.levels.iter().enumerate() {
            if !level.watches() {
                self.incomplete[i] = true;
                continue;
            }
            if !(all || self.rows.has_rows(i)) {
                continue;
            }
            let Some(mut batch) = self.rows.take(i, now) else { continue };
            batch.covered_to = !self.incomplete[i];
            self.incomplete[i] = !sink.send(batch);
        }
    }

    /// Reads the CPUs' counters; a probe that lost events must say so.
    fn look_for_losses(&mut self) {
        if let Some(object) = &self.object
            && let Ok(cpus) = object.cpus()
        {
            self.cpus = cpus.collect();
        }
        for i in 0..PROBES.len() {
            let lost = self.counted(i, |r| r.lost);
            if self.lost[i] != lost {
                self.lost[i] = lost;
                self.incomplete[i] = true;
            }
        }
    }

    /// The sum of a counter of a probe over CPUs and kinds, with what the perf level counted.
    fn counted(&self, probe: usize, what: impl Fn(&wire::Rate) -> u64) -> u64 {
        let kinds = PROBES.get(probe).map_or(&[][..], |p| p.kinds);
        let of_cpu = |cpu: &Cpu| -> u64 {
            let rates = kinds.iter().flat_map(|k| [*k as usize, KINDS + *k as usize]);
            rates.filter_map(|i| cpu.rate.get(i)).map(&what).sum()
        };
        self.cpus.iter().map(of_cpu).sum()
    }

    /// Once a second: totals, zombies, the probes themselves.
    fn tick(&mut self, sink: &dyn Sink, now: Stamp) {
        if let Some(object) = &mut self.object {
            let bpf = |probe: usize| matches!(self.levels.get(probe), Some(Level::Bpf));
            let watched = Watched {
                direct: bpf(probes::RECLAIM_DIRECT),
                memcg: bpf(probes::RECLAIM_MEMCG),
                compact: bpf(probes::COMPACTION),
            };
            for batch in self.totals.read(object, &self.cpus, &mut self.rows.cgroups, watched, now) {
                sink.send(batch);
            }
            if object.hists_full() > 0 && self.told.insert("hists") {
                sink.problem("more than 2048 cgroups have latencies: the totals of some are missing");
            }
        }
        self.watch_softirq_load(now, sink);
        if self.levels[probes::MEMCG_LIFE].watches() {
            sink.send(self.zombie_rows(now));
        }
        sink.send(self.probe_rows(now));
        if self.rows.has_symbols() == Some(false) && self.told.insert("symbols") {
            sink.problem("the kernel hides its addresses: stacks have no names; give whystall CAP_SYSLOG");
        }
        if self.rows.ledger.overflow > 0 && self.told.insert("ledger") {
            sink.problem(
                "more than 16384 cgroups live or linger: some zombies are not counted in memcg_life.zombies",
            );
        }
        if self.rows.malformed > 0 && self.told.insert("malformed") {
            sink.problem("the probes sent an event that was not understood");
        }
    }

    fn watch_softirq_load(&mut self, now: Stamp, sink: &dyn Sink) {
        let Some(object) = &mut self.object else { return };
        let level = &mut self.levels[probes::SOFTIRQ];
        let counts = self.cpus.iter().map(|c| c.softirqs);
        match self.softirqs.judge(counts, level.watches(), now.boot_ns) {
            Verdict::Keep => {}
            Verdict::StepDown(rate) => {
                object.detach_softirqs();
                *level = Level::SteppedDown(format!("{rate} softirqs/s on one CPU").into());
                sink.problem("softirq probe paused: more than 100000 softirqs/s on one CPU");
            }
            Verdict::StepUp => {
                if let Level::SteppedDown(_) = level {
                    let monotonic = now.boot_ns.saturating_sub(clock::boot_minus_monotonic());
                    *level = match object.attach_softirqs(monotonic) {
                        Ok(()) => Level::Bpf,
                        Err(why) => Level::Unavailable(why.into()),
                    };
                }
            }
        }
    }

    fn zombie_rows(&mut self, now: Stamp) -> Batch {
        use s::memcg_zombies as f;
        let mut batch = Batch::new(self.zombies.clone(), now);
        // Of releases that were held back or lost nobody knows which zombies they freed. Other lives that are missed are
        // zombies that are not counted.
        let releases =
            |c: &Cpu| c.rate.get(wire::CGROUP_RELEASE as usize).map_or(0, |r| r.suppressed + r.lost);
        let missed = self.cpus.iter().map(releases).sum();
        if missed != self.lives_missed {
            self.lives_missed = missed;
            batch.gone.extend(self.rows.ledger.forget_zombies().into_iter().map(Subject::Cgroup));
        }
        let (mut zombies, mut settled, mut brief) = (0, 0, 0);
        for (path, parent) in self.rows.ledger.take_parents(now.boot_ns) {
            zombies += parent.zombies;
            settled += parent.settled;
            brief += parent.brief;
            let mut row = batch.row(Subject::Cgroup(path));
            row.gauge(f::ZOMBIES, parent.zombies as f64).gauge(f::SETTLED, parent.settled as f64);
            row.gauge(f::BRIEF, parent.brief as f64);
            if let Some((since, example, by)) = parent.oldest {
                row.gauge(f::OLDEST, now.boot_ns.saturating_sub(since) as f64).text(f::EXAMPLE, example);
                if let Some(by) = by {
                    row.text(f::CREATOR, by);
                }
            }
        }
        let mut row = batch.row(Subject::Host);
        row.gauge(f::ZOMBIES, zombies as f64).gauge(f::SETTLED, settled as f64).gauge(f::BRIEF, brief as f64);
        batch
    }

    fn probe_rows(&self, now: Stamp) -> Batch {
        use s::probes as f;
        let mut batch = Batch::new(self.probes.clone(), now);
        for (i, (probe, level)) in PROBES.iter().zip(&self.levels).enumerate() {
            let perf_lost = match (level, &self.perf) {
                (Level::Perf(_), Some(perf)) => perf.lost,
                _ => 0,
            };
            batch
                .row(Subject::Device(probe.name.into()))
                .gauge(f::LEVEL, level.number())
                .text(f::HOW, level.how())
                .int(f::EVENTS, self.rows.events[i])
                .int(f::SUPPRESSED, self.counted(i, |r| r.suppressed))
                .int(f::LOST, self.counted(i, |r| r.lost) + perf_lost);
        }
        batch
    }
}

/// Probes that are off but share a program with one that is on are silenced by their threshold.
fn only_wanted(mut t: Thresholds, off: &dyn Fn(usize) -> bool) -> Thresholds {
    // A quarter of the range, because the programs compare with four times the threshold.
    const NEVER: u64 = i64::MAX as u64 / 4;
    for (probe, threshold) in
        [(probes::RUNQ, &mut t.runq), (probes::NOSCHED, &mut t.nosched), (probes::IRQOFF, &mut t.irqoff)]
    {
        if off(probe) {
            *threshold = NEVER;
        }
    }
    t
}

/// The second level, for those probes that it can stand in for.
fn open_perf(
    roots: &Roots,
    options: &Options,
    missing: &[usize],
    levels: &mut [Level],
) -> Option<Tracepoints> {
    let able = [
        (probes::RECLAIM_DIRECT, wire::RECLAIM),
        (probes::RECLAIM_MEMCG, wire::MEMCG_RECLAIM),
        (probes::COMPACTION, wire::COMPACTION),
    ];
    let wanted: Vec<(usize, u32)> = able.into_iter().filter(|(i, _)| missing.contains(i)).collect();
    if wanted.is_empty() {
        return None;
    }
    let kinds: Vec<u32> = wanted.iter().map(|(_, kind)| *kind).collect();
    let opened = Tracepoints::open(roots, &kinds, options.thresholds.reclaim);
    for (i, _) in wanted {
        if let Some(level) = levels.get_mut(i) {
            let Level::Unavailable(why) = &*level else { continue };
            *level = match &opened {
                Ok(_) => Level::Perf(why.clone()),
                Err(e) => Level::Unavailable(format!("{why}; perf: {e}").into()),
            };
        }
    }
    opened.ok()
}

/// Whether each softirq can be watched, by how many there are.
#[derive(Debug, Default)]
struct SoftirqLoad {
    before: Vec<u64>,
    judged_ns: u64,
    rest: u64,
    rest_until: u64,
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Keep,
    StepDown(u64),
    StepUp,
}

impl SoftirqLoad {
    /// Judges the CPUs' counts of softirqs at `now_ns`.
    fn judge(&mut self, counts: impl Iterator<Item = u64>, watching: bool, now_ns: u64) -> Verdict {
        let counts: Vec<u64> = counts.collect();
        if !watching {
            if now_ns < self.rest_until {
                return Verdict::Keep;
            }
            (self.before, self.judged_ns) = (counts, now_ns);
            return Verdict::StepUp;
        }
        let passed = now_ns.saturating_sub(self.judged_ns).max(1);
        let most = counts
            .iter()
            .zip(&self.before)
            .map(|(now, before)| now.saturating_sub(*before))
            .max()
            .unwrap_or(0);
        let rate = u64::try_from(u128::from(most) * u128::from(SEC) / u128::from(passed)).unwrap_or(u64::MAX);
        (self.before, self.judged_ns) = (counts, now_ns);
        if rate <= SOFTIRQS {
            self.rest = 0;
            return Verdict::Keep;
        }
        self.rest = (2 * self.rest).clamp(SOFTIRQ_REST, SOFTIRQ_LONGEST_REST);
        self.rest_until = now_ns + self.rest;
        Verdict::StepDown(rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn softirqs_are_left_alone_while_there_are_too_many() {
        let mut load = SoftirqLoad::default();
        let mut judge =
            |second: u64, count: u64, watching| load.judge([5, count].into_iter(), watching, second * SEC);
        assert_eq!(judge(1, 0, true), Verdict::Keep);
        assert_eq!(judge(2, 90_000, true), Verdict::Keep);
        assert_eq!(judge(3, 340_000, true), Verdict::StepDown(250_000));
        assert_eq!(judge(4, 340_000, false), Verdict::Keep);
        assert_eq!(judge(33, 340_000, false), Verdict::StepUp);
        // It is so again: they are left alone for longer.
        assert_eq!(judge(34, 640_000, true), Verdict::StepDown(300_000));
        assert_eq!(judge(93, 640_000, false), Verdict::Keep);
        assert_eq!(judge(94, 640_000, false), Verdict::StepUp);
        // A second that goes well makes the next rest short again.
        assert_eq!(judge(95, 640_001, true), Verdict::Keep);
        assert_eq!(judge(96, 940_001, true), Verdict::StepDown(300_000));
        assert_eq!(judge(126, 940_001, false), Verdict::StepUp);
    }

    #[test]
    fn probes_that_are_off_are_silent() {
        let t = Thresholds { runq: 1, nosched: 1, softirq: 1, irq: 1, irqoff: 1, reclaim: 1, lock: 1 };
        let t = only_wanted(t, &|i| i == probes::RUNQ);
        assert!(t.runq > 3600 * SEC && t.runq.checked_mul(4).is_some());
        assert_eq!((t.nosched, t.irqoff), (1, 1));
    }
}
