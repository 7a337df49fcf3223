//! `memcg`: memory use, limit hits, reclaim and stall time of each control group, and how long its own reads took.
//!
//! Reads `memory.current`, `memory.events`, `memory.pressure`, `memory.stat`, `memory.max` and `memory.high` on v2;
//! `memory.usage_in_bytes`, `memory.failcnt`, `memory.oom_control`, `memory.stat` and `memory.limit_in_bytes` on v1;
//! on hybrid hosts also the pressure of the same groups in the v2 tree. Sources: cgroup-v2.rst and cgroup-v1/memory.rst.
//!
//! The cheap files are read each pass, but for the events of an unlimited cgroup whose use stood still. `memory.stat`, ten
//! times dearer, is read where use or events moved (every third pass where use moved little, without a limit), else every
//! tenth pass (rarer with thousands of cgroups), within a budget of time; a row carries only what was read in its pass. It
//! never writes to a group. Of the files that old kernels fill by walking all zombies it reads `memory.stat`, timed and
//! within that budget, and `memory.numa_stat` in one bounded probe.

use std::sync::Arc;
use std::time::{Duration, Instant};

use whystall_event::{Batch, Field, Stream, Subject, SubjectKind, Unit};

use crate::cgroup::mounts::{Hierarchies, Version};
use crate::cgroup::parse::{self, Limit};
use crate::cgroup::tree::{FileSpec, Reading, Tree, hot, rare};
use crate::cgroup::{self, fields, put};
use crate::{Built, CollectError, Collector, Pass, Polled, Roots, Settings, Unavailable};

pub(crate) mod stat;

fields! { FIELDS, f:
    USAGE = Field::gauge("usage", Unit::Bytes, "memory charged to the cgroup and all below it (memory.current; v1 memory.usage_in_bytes)");
    LIMIT = Field::gauge("limit", Unit::Bytes, "the hard limit; absent if unlimited (memory.max; v1 memory.limit_in_bytes)");
    HIGH = Field::gauge("high", Unit::Bytes, "the throttle limit; absent if unlimited (memory.high; v2 only)");
    FAILCNT = Field::counter("failcnt", Unit::Count, "charges that met the cgroup's own limit, each followed by direct reclaim (v1 memory.failcnt)");
    EVENTS_LOW = Field::counter("events_low", Unit::Count, "times the cgroup or one below was reclaimed though under memory.low (memory.events; v2 only)");
    EVENTS_HIGH = Field::counter("events_high", Unit::Count, "times tasks were throttled and made to reclaim at memory.high, here or below (memory.events; v2 only)");
    EVENTS_MAX = Field::counter("events_max", Unit::Count, "times use was about to go over the limit: on v2 here or below (memory.events max), on v1 the cgroup's own memory.failcnt");
    OWN_MAX = Field::counter("events_max_own", Unit::Count, "limit hits of the cgroup's own limit alone, where it has one (v2 memory.events.local max, 5.2 and later; v1 memory.failcnt)");
    OWN_HIGH = Field::counter("events_high_own", Unit::Count, "the same of its own memory.high (memory.events.local high; v2 only)");
    EVENTS_OOM = Field::counter("events_oom", Unit::Count, "times allocation was about to fail at the limit, here or below (memory.events; v2 only)");
    EVENTS_OOM_KILL = Field::counter("events_oom_kill", Unit::Count, "tasks killed for lack of memory, here or below (memory.events oom_kill; v1 memory.oom_control oom_kill)");
    ANON = Field::gauge("anon", Unit::Bytes, "anonymous memory, here and below (memory.stat anon; v1 total_rss)");
    FILE = Field::gauge("file", Unit::Bytes, "page cache including shmem, here and below (memory.stat file; v1 total_cache)");
    SHMEM = Field::gauge("shmem", Unit::Bytes, "tmpfs and shared memory, here and below (memory.stat shmem; v1 total_shmem)");
    DIRTY = Field::gauge("dirty", Unit::Bytes, "page cache not yet written, here and below (memory.stat file_dirty; v1 total_dirty)");
    WRITEBACK = Field::gauge("writeback", Unit::Bytes, "page cache being written, here and below (memory.stat file_writeback; v1 total_writeback)");
    SLAB = Field::gauge("slab", Unit::Bytes, "kernel objects, here and below (memory.stat slab; v2 only)");
    KERNEL = Field::gauge("kernel", Unit::Bytes, "all kernel memory, here and below (memory.stat kernel, 5.18 and later; v1 memory.kmem.usage_in_bytes)");
    PGSCAN = Field::counter("pgscan", Unit::Pages, "pages scanned by reclaim, here and below (memory.stat; v2 only)");
    PGSTEAL = Field::counter("pgsteal", Unit::Pages, "pages reclaimed, here and below (memory.stat; v2 only)");
    PGSCAN_DIRECT = Field::counter("pgscan_direct", Unit::Pages, "pages scanned by tasks that had to reclaim themselves, here and below (memory.stat; v2, 6.1 and later)");
    PGSTEAL_DIRECT = Field::counter("pgsteal_direct", Unit::Pages, "pages reclaimed by tasks themselves, here and below (memory.stat; v2, 6.1 and later)");
    PGSCAN_KSWAPD = Field::counter("pgscan_kswapd", Unit::Pages, "pages scanned by kswapd, here and below (memory.stat; v2, 6.1 and later)");
    PGFAULT = Field::counter("pgfault", Unit::Count, "page faults, here and below (memory.stat; v1 total_pgfault)");
    PGMAJFAULT = Field::counter("pgmajfault", Unit::Count, "page faults that needed IO, here and below (memory.stat; v1 total_pgmajfault)");
    REFAULT_ANON = Field::counter("workingset_refault_anon", Unit::Pages, "anonymous pages read back soon after they were reclaimed, here and below (memory.stat; v1 total_…)");
    REFAULT_FILE = Field::counter("workingset_refault_file", Unit::Pages, "cache pages read back soon after they were reclaimed, here and below (memory.stat; v1 total_…; the sum of both kinds before 5.9)");
    RESTORE_FILE = Field::counter("workingset_restore_file", Unit::Pages, "cache pages that reclaim took though they were in use, here and below (memory.stat; v2 only)");
    PRESSURE_SOME = Field::counter("pressure_some", Unit::Time, "time in which at least one task here or below waited for memory (memory.pressure; v2 tree only)");
    PRESSURE_FULL = Field::counter("pressure_full", Unit::Time, "time in which all tasks here and below waited for memory (memory.pressure; v2 tree only)");
    POPULATED = Field::gauge("populated", Unit::None, "1 if a task is in the cgroup or below (cgroup.events; v2 tree only)");
}

fields! { READ_FIELDS, r:
    STAT_READ_LAST = Field::gauge("stat_read_last", Unit::Time, "how long the last memory.stat of the pass took to read");
    STAT_READ_MAX = Field::gauge("stat_read_max", Unit::Time, "how long the slowest memory.stat of the pass took to read");
    STAT_READ_SUM = Field::gauge("stat_read_sum", Unit::Time, "how long all memory.stat reads of the pass took");
    STAT_READS = Field::gauge("stat_reads", Unit::Count, "memory.stat files read in the pass");
    SLOWEST = Field::text("slowest", "the cgroup whose memory.stat took longest");
    NUMA_STAT_READ = Field::gauge("numa_stat_read", Unit::Time, "how long one memory.numa_stat took to read: the root's, every 30 s, rarer while it is slow");
    NUMA_CGROUP = Field::text("numa_cgroup", "the cgroup whose memory.numa_stat was read");
    CGROUPS = Field::gauge("cgroups", Unit::Count, "cgroups followed");
    READ = Field::gauge("read", Unit::Count, "cgroups read in the pass");
    LEFT_OUT = Field::gauge("left_out", Unit::Count, "cgroups that exist but are not followed because of max_cgroups or their depth");
}

static STREAMS: &[Stream] = &[
    Stream::sampled("memcg", "memory of one control group", &[SubjectKind::Cgroup], FIELDS),
    Stream::sampled(
        "memcg.read",
        "the cost of reading memory statistics, which zombie cgroups can make slow",
        &[SubjectKind::Host],
        READ_FIELDS,
    ),
];

/// The collector.
pub static COLLECTOR: Collector = Collector {
    name: "memcg",
    help: "memory use, limit hits, reclaim and pressure of each control group (v1, v2, hybrid)",
    streams: STREAMS,
    interval: None,
    settings: &["max_cgroups", "stat_budget_ms", "numa_stat_interval_s"],
    build,
};

/// Every n-th pass reads memory.stat and memory.oom_control of a cgroup in which nothing moved, and an unlimited limit.
const IDLE_STAT: u32 = 10;
const IDLE_OOM: u32 = 4;
/// The same for the events of an unlimited cgroup: they are those of limits above or below it, or a limit is new.
const IDLE_EVENTS: u32 = 4;
const IDLE_LIMIT: u32 = 16;
/// The same for memory.stat of an unlimited cgroup whose use moved little: by less than this part of it, and than
/// [`LITTLE_BYTES`].
const LITTLE_STAT: u32 = 3;
const LITTLE_PART: u64 = 64;
const LITTLE_BYTES: u64 = 1 << 20;

fn build(roots: &Roots, settings: &Settings) -> Result<Built, Unavailable> {
    let max_cgroups = cgroup::max_cgroups(settings)?;
    let stat_budget = cgroup::setting(settings, "stat_budget_ms", 5, 1..=1000)?;
    let numa_every = cgroup::setting(settings, "numa_stat_interval_s", 30, 0..=86_400)?;
    let hierarchies = Hierarchies::find(roots)?;
    let memory = hierarchies.of("memory")?;
    let mut parts = Vec::new();
    let layout = if memory.version == Version::V1 { &V1 } else { &V2 };
    parts.push(Part {
        layout,
        tree: cgroup::open_tree(roots, memory, layout.files, max_cgroups, 30)?,
        cursor: 0,
    });
    if let (Version::V1, Some(unified)) = (memory.version, hierarchies.v2()) {
        let tree = cgroup::open_tree(roots, unified, HYBRID.files, max_cgroups, 2)?;
        parts.push(Part { layout: &HYBRID, tree, cursor: 0 });
    }
    Ok(Built::Polled(Box::new(Memcg {
        parts,
        streams: [Arc::new(STREAMS[0].clone()), Arc::new(STREAMS[1].clone())],
        stat_budget: Duration::from_millis(stat_budget),
        numa: NumaProbe { every: numa_every, wait_until_ns: 0 },
        buf: Vec::new(),
        values: Vec::new(),
        passes: 0,
    })))
}

/// Which files a kind of hierarchy has, as indices into its list.
#[derive(Debug)]
struct Layout {
    files: &'static [FileSpec],
    usage: Option<usize>,
    failcnt: Option<usize>,
    events: Option<usize>,
    own_events: Option<usize>,
    oom_control: Option<usize>,
    pressure: Option<usize>,
    populated: Option<usize>,
    limit: Option<usize>,
    high: Option<usize>,
    stat: Option<usize>,
    kmem: Option<usize>,
    numa_stat: Option<usize>,
}

static V1: Layout = Layout {
    files: &[
        hot(c"memory.usage_in_bytes"),
        hot(c"memory.failcnt"),
        hot(c"memory.oom_control"),
        hot(c"memory.limit_in_bytes"),
        hot(c"memory.stat"),
        hot(c"memory.kmem.usage_in_bytes"),
        rare(c"memory.numa_stat"),
    ],
    usage: Some(0),
    failcnt: Some(1),
    events: None,
    own_events: None,
    oom_control: Some(2),
    pressure: None,
    populated: None,
    limit: Some(3),
    high: None,
    stat: Some(4),
    kmem: Some(5),
    numa_stat: Some(6),
};

static V2: Layout = Layout {
    files: &[
        hot(c"memory.current"),
        hot(c"memory.events"),
        hot(c"memory.pressure"),
        hot(c"cgroup.events"),
        hot(c"memory.max"),
        hot(c"memory.high"),
        hot(c"memory.stat"),
        rare(c"memory.numa_stat"),
        hot(c"memory.events.local"),
    ],
    usage: Some(0),
    failcnt: None,
    events: Some(1),
    own_events: Some(8),
    oom_control: None,
    pressure: Some(2),
    populated: Some(3),
    limit: Some(4),
    high: Some(5),
    stat: Some(6),
    kmem: None,
    numa_stat: Some(7),
};

/// The v2 tree of a host whose memory controller is on v1.
static HYBRID: Layout = Layout {
    files: &[hot(c"memory.pressure"), hot(c"cgroup.events")],
    usage: None,
    failcnt: None,
    events: None,
    own_events: None,
    oom_control: None,
    pressure: Some(0),
    populated: Some(1),
    limit: None,
    high: None,
    stat: None,
    kmem: None,
    numa_stat: None,
};

struct Part {
    layout: &'static Layout,
    tree: Tree<Seen>,
    /// Where the next pass begins, if this one could not read all.
    cursor: u32,
}

/// What the last readings of a cgroup were.
#[derive(Debug, Default)]
struct Seen {
    usage: u64,
    /// Sum of the limit-hit counters.
    hits: u64,
    /// memory.stat is due: something moved and there was no time left to look.
    owed: bool,
    limited: bool,
    high: bool,
    /// Read at least once.
    read: bool,
}

struct Memcg {
    parts: Vec<Part>,
    streams: [Arc<Stream>; 2],
    stat_budget: Duration,
    numa: NumaProbe,
    buf: Vec<u8>,
    values: Vec<(usize, u64)>,
    passes: u32,
}

/// The time that a pass spent in memory.stat.
#[derive(Debug, Default)]
struct Spent {
    last: Duration,
    max: Duration,
    sum: Duration,
    reads: u32,
    slowest: Option<Arc<str>>,
}

impl Polled for Memcg {
    fn collect(&mut self, pass: &mut Pass) -> Result<(), CollectError> {
        self.passes = self.passes.wrapping_add(1);
        let mut batch = pass.batch(&self.streams[0]);
        let mut spent = Spent::default();
        let half = cgroup::half_time(pass);
        let (mut cgroups, mut left_out) = (0, 0);
        let mut parts = std::mem::take(&mut self.parts);
        for part in &mut parts {
            part.tree.refresh(&mut || pass.now().boot_ns >= half);
            batch.gone.extend(part.tree.take_gone().into_iter().map(|g| Subject::Cgroup(g.path)));
            part.tree.take_added();
            batch.reserve(part.tree.len());
            self.read_part(part, pass, &mut batch, &mut spent);
            if part.layout.stat.is_some() {
                (cgroups, left_out) = (part.tree.len(), part.tree.left_out());
            }
        }
        let mut read = pass.batch(&self.streams[1]);
        {
            let mut row = read.row(Subject::Host);
            row.gauge(r::CGROUPS, cgroups as f64).gauge(r::LEFT_OUT, left_out as f64);
            row.gauge(r::READ, batch.len() as f64).gauge(r::STAT_READS, f64::from(spent.reads));
            if let Some(slowest) = spent.slowest {
                row.gauge(r::STAT_READ_LAST, spent.last.as_nanos() as f64);
                row.gauge(r::STAT_READ_MAX, spent.max.as_nanos() as f64);
                row.gauge(r::STAT_READ_SUM, spent.sum.as_nanos() as f64);
                row.text(r::SLOWEST, slowest);
            }
            if let Some((took, path)) =
                parts.first_mut().and_then(|p| self.numa.probe(p, pass.at.boot_ns, &mut self.buf))
            {
                row.gauge(r::NUMA_STAT_READ, took.as_nanos() as f64).text(r::NUMA_CGROUP, path);
            }
        }
        self.parts = parts;
        pass.batches.push(batch);
        pass.batches.push(read);
        Ok(())
    }
}

impl Memcg {
    /// Reads the cgroups of one hierarchy in rotation, as far as the time goes.
    fn read_part(&mut self, part: &mut Part, pass: &Pass, batch: &mut Batch, spent: &mut Spent) {
        let ids = part.tree.ids();
        let start = part.cursor % ids.max(1);
        part.cursor = 0;
        // The first cgroup whose memory.stat had to wait is where the next pass begins.
        let mut first_owed = None;
        for step in 0..ids {
            let id = (start + step) % ids;
            if step % 16 == 15 && pass.late() {
                part.cursor = id;
                return;
            }
            if self.read_one(part, id, batch, spent) == Stat::Owed && first_owed.is_none() {
                first_owed = Some(id);
            }
        }
        part.cursor = first_owed.unwrap_or(0);
    }

    /// Reads one cgroup and appends its row.
    fn read_one(&mut self, part: &mut Part, id: u32, batch: &mut Batch, spent: &mut Spent) -> Stat {
        let Part { layout, tree, .. } = part;
        let Some(node) = tree.node(id) else {
            return Stat::Done;
        };
        let path = node.path.clone();
        let (limited, has_high, first) = (node.data.limited, node.data.high, !node.data.read);
        let (passes, cgroups) = (self.passes, tree.len());
        let turn = |every| cgroup::turn(passes, id, every, cgroups);
        let (buf, values) = (&mut self.buf, &mut self.values);
        values.clear();
        let mut seen = Seen { limited, high: has_high, read: true, ..Seen::default() };
        let read = |tree: &mut Tree<Seen>, file: Option<usize>, buf: &mut Vec<u8>| {
            file.map_or(Reading::Absent, |file| tree.read(id, file, buf))
        };
        match read(tree, layout.usage, buf) {
            Reading::Gone => return Stat::Done,
            Reading::Data => {
                seen.usage = parse::number(buf).unwrap_or_default();
                values.extend(parse::number(buf).map(|n| (f::USAGE, n)));
            }
            Reading::Absent => {}
        }
        let Some((used, hits)) = tree.node(id).map(|n| (n.data.usage, n.data.hits)) else {
            return Stat::Done;
        };
        let quiet = !first && !limited && !has_high && seen.usage == used && !turn(IDLE_EVENTS);
        seen.hits = hits;
        if !quiet
            && read(tree, layout.failcnt, buf) == Reading::Data
            && let Some(n) = parse::number(buf)
        {
            seen.hits = n;
            values.extend([(f::FAILCNT, n), (f::EVENTS_MAX, n), (f::OWN_MAX, n)]);
        }
        // The host's own OOM killer also counts here, without a hit of the limit: hence the turn.
        if (first || hits != seen.hits || turn(IDLE_OOM))
            && read(tree, layout.oom_control, buf) == Reading::Data
        {
            values.extend(parse::value_of(buf, b"oom_kill").map(|n| (f::EVENTS_OOM_KILL, n)));
        }
        if !quiet && read(tree, layout.events, buf) == Reading::Data {
            stat::events(buf, values);
            seen.hits =
                values.iter().filter(|v| v.0 == f::EVENTS_MAX || v.0 == f::EVENTS_HIGH).map(|v| v.1).sum();
        }
        let hit = !first && seen.hits != hits;
        if read(tree, layout.pressure, buf) == Reading::Data {
            let pressure = parse::pressure(buf);
            values.extend(pressure.some.map(|n| (f::PRESSURE_SOME, n)));
            values.extend(pressure.full.map(|n| (f::PRESSURE_FULL, n)));
        }
        if read(tree, layout.populated, buf) == Reading::Data {
            values.extend(parse::value_of(buf, b"populated").map(|n| (f::POPULATED, n)));
        }
        // A limit that was set lately shows in its first hits.
        let limit_due = first || hit || turn(IDLE_LIMIT);
        for (file, field, known) in
            [(layout.limit, f::LIMIT, &mut seen.limited), (layout.high, f::HIGH, &mut seen.high)]
        {
            if (*known || limit_due) && read(tree, file, buf) == Reading::Data {
                let limit = parse::memory_limit(buf);
                *known = matches!(limit, Some(Limit::Bytes(_)));
                if let Some(Limit::Bytes(n)) = limit {
                    values.push((field, n));
                }
            }
        }
        // Without children all events are its own.
        let own = layout.own_events.filter(|_| seen.limited || seen.high);
        if own.is_some() && tree.node(id).is_some_and(|n| n.children.is_empty()) {
            stat::own(values);
        } else if read(tree, own, buf) == Reading::Data {
            stat::own_events(buf, values);
        }
        let Some(before) = tree.node(id).map(|n| &n.data) else {
            return Stat::Done;
        };
        let by = seen.usage.abs_diff(before.usage);
        let little = !limited && !has_high && by < (before.usage / LITTLE_PART).min(LITTLE_BYTES);
        let moved = first || before.owed || hit || (by > 0 && (!little || turn(LITTLE_STAT)));
        let mut outcome = Stat::Done;
        if layout.stat.is_some() && (moved || turn(IDLE_STAT)) {
            // A cgroup that just met its limit is worth going over the budget for.
            if hit || spent.sum < self.stat_budget {
                let begun = Instant::now();
                if read(tree, layout.stat, buf) == Reading::Data {
                    spent.add(begun.elapsed(), &path);
                    stat::stat(buf, layout.kmem.is_some(), values);
                }
                if read(tree, layout.kmem, buf) == Reading::Data {
                    values.extend(parse::number(buf).map(|n| (f::KERNEL, n)));
                }
            } else {
                seen.owed = moved;
                outcome = Stat::Owed;
            }
        }
        if let Some(node) = tree.node_mut(id) {
            node.data = seen;
        }
        if !values.is_empty() {
            let mut row = batch.row(Subject::Cgroup(path));
            values.iter().for_each(|(field, value)| put(&mut row, FIELDS, *field, *value));
        }
        outcome
    }
}

/// Whether a cgroup's memory.stat waits for the next pass.
#[derive(Debug, PartialEq, Eq)]
enum Stat {
    Done,
    Owed,
}

impl Spent {
    fn add(&mut self, took: Duration, path: &Arc<str>) {
        self.last = took;
        self.sum += took;
        self.reads += 1;
        if took > self.max || self.slowest.is_none() {
            self.max = took;
            self.slowest = Some(path.clone());
        }
    }
}

/// Times one read of the root's `memory.numa_stat`, which old kernels compute by walking every cgroup, zombies
/// included, without scheduling. It makes the stall that it measures, so it is rare, and rarer the slower it is.
#[derive(Debug)]
struct NumaProbe {
    /// Seconds between probes; 0 for never.
    every: u64,
    wait_until_ns: u64,
}

impl NumaProbe {
    fn probe(&mut self, part: &mut Part, now_ns: u64, buf: &mut Vec<u8>) -> Option<(Duration, Arc<str>)> {
        let file = part.layout.numa_stat.filter(|_| self.every > 0 && now_ns >= self.wait_until_ns)?;
        let begun = Instant::now();
        let read = part.tree.read(0, file, buf);
        let took = begun.elapsed();
        // At most a five-thousandth of the time goes into probing.
        let rest =
            (took.as_nanos() as u64).saturating_mul(5000).max(self.every.saturating_mul(1_000_000_000));
        self.wait_until_ns = now_ns.saturating_add(rest);
        let path = part.tree.node(0)?.path.clone();
        (read == Reading::Data).then_some((took, path))
    }
}

#[cfg(test)]
mod tests;
