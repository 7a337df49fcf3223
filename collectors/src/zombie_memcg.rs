//! `zombie_memcg`: removed memory control groups that the kernel cannot free because something is still charged to them,
//! and the parents under which they were made.
//!
//! v2: `cgroup.stat` (`nr_dying_descendants`, from 6.12 on `nr_dying_subsys_memory`), exact for every parent. v1:
//! `num_cgroups` of `/proc/cgroups` less the directories that exist, which is one number for the host; it is read before
//! and after the directories are counted and only believed when it stood still. Parents are found by watching every
//! directory with inotify, which gives each removal with its name, and by the page cache that no living child accounts
//! for. Sources: cgroup-v2.rst, cgroup-v1/memory.rst.
//!
//! It never writes to a group: no `force_empty`, no dropping of caches.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use whystall_event::{Batch, Field, SEC, Stream, Subject, SubjectKind, Unit, text};

use crate::cgroup::mounts::{Hierarchies, Version};
use crate::cgroup::parse;
use crate::cgroup::tree::{FileSpec, Reading, Tree, hot, rare};
use crate::cgroup::watch::{Change, Watch};
use crate::cgroup::{self, fields};
use crate::read::{Buf, KeptFile};
use crate::{Built, CollectError, Collector, Pass, Polled, Roots, Settings, Unavailable};

pub(crate) mod audit;
mod ledger;
#[cfg(test)]
mod tests;

use audit::{Cache, CgroupStat, Counts};
use ledger::Ledger;

pub(crate) use audit::parse_cgroup_stat;

fields! { FIELDS, f:
    TOTAL = Field::gauge("total", Unit::Count, "host: memory cgroups that the kernel holds, living and dying");
    LIVE = Field::gauge("live", Unit::Count, "host: memory cgroups whose directory exists");
    DYING = Field::gauge("dying", Unit::Count, "removed cgroups not yet freed: of the host, or on v2 of a parent's own former children");
    DYING_SETTLED = Field::gauge("dying_settled", Unit::Count, "host: the lowest dying count of the last 3 s, so that cgroups just being freed do not count");
    SUSPECTED = Field::gauge("suspected", Unit::Count, "parent: zombies made by removing its children; exact on v2, on v1 the host's growth shared by removals");
    PINNED = Field::gauge("pinned", Unit::Bytes, "host: page cache pinned by zombies below the parents audited so far");
    PINNED_CACHE = Field::gauge("pinned_cache", Unit::Bytes, "parent: page cache charged to no living cgroup below it, shmem included");
    PINNED_SHMEM = Field::gauge("pinned_shmem", Unit::Bytes, "parent: shared memory and tmpfs charged to no living cgroup below it");
    CREATIONS = Field::counter("creations", Unit::Count, "children created (parent) or all cgroups created (host) since the collector began");
    REMOVALS = Field::counter("removals", Unit::Count, "children removed (parent) or all cgroups removed (host) since the collector began");
    REMOVALS_10S = Field::gauge("removals_10s", Unit::Count, "parent: children removed in the last 10 s");
    EXACT = Field::gauge("exact", Unit::None, "1 if every creation and removal under the parent (host: everywhere) was seen, 0 if short-lived cgroups between two passes can be missing");
    EXAMPLE = Field::text("example", "parent: the child removed last; host: with its parent");
    JOBS = Field::text("jobs", "parent: what the names of removed children have in common, varying parts as *");
}

static STREAMS: &[Stream] = &[Stream::sampled(
    "zombie_memcg",
    "removed memory cgroups that are still charged, of the host and by parent",
    &[SubjectKind::Host, SubjectKind::Cgroup],
    FIELDS,
)];

/// The collector.
pub static COLLECTOR: Collector = Collector {
    name: "zombie_memcg",
    help: "zombie memory control groups, who makes them and what they pin (v1, v2, hybrid)",
    streams: STREAMS,
    interval: None,
    settings: &["max_cgroups", "max_watches", "audit_reads"],
    build,
};

/// A parent is audited again after this time: sooner where children were made or removed since, or it is a suspect, and
/// at once if it has few children besides.
const AUDIT_AGAIN_NS: u64 = 5 * SEC;
const AUDIT_QUIET_NS: u64 = 60 * SEC;
const AUDIT_FEW: usize = 64;
/// How often one audit begins anew because a child vanished.
const AUDIT_TRIES: usize = 3;
/// A parent with more living children than this is not audited.
const AUDIT_CHILDREN: usize = 1024;
/// From this much on, page cache counts as pinned rather than as an error of reading one file after the other.
const PINS: u64 = 64 << 10;
/// A quiet parent without children has rows for this long.
const QUIET_NS: u64 = 60 * SEC;
/// Directories without children are asked every so many passes, because their watches tell of children.
const LEAVES_EVERY: u32 = 16;

const STAT: usize = 0;
const CGROUP_STAT: usize = 1;
const SUBTREE_CONTROL: usize = 2;
static FILES: &[FileSpec] = &[rare(c"memory.stat"), hot(c"cgroup.stat"), rare(c"cgroup.subtree_control")];

fn build(roots: &Roots, settings: &Settings) -> Result<Built, Unavailable> {
    let max_cgroups = cgroup::max_cgroups(settings)?;
    let max_watches = cgroup::setting(settings, "max_watches", 8192, 0..=1_000_000)? as usize;
    let audit_reads = cgroup::setting(settings, "audit_reads", 128, 1..=10_000)? as usize;
    let hierarchies = Hierarchies::find(roots)?;
    let memory = hierarchies.of("memory")?;
    let mut tree = cgroup::open_tree(roots, memory, FILES, max_cgroups, 6)?;
    tree.rest_leaves(LEAVES_EVERY);
    // Only the hierarchy's true root has this file: below it, the host's count of cgroups says nothing.
    let whole = memory.prefix == "/" && memory.dir.join("cgroup.sane_behavior").exists();
    Ok(Built::Polled(Box::new(ZombieMemcg {
        v2: memory.version == Version::V2,
        counts: (memory.version == Version::V1 && whole).then(|| KeptFile::lazy(roots.proc("cgroups"))),
        tree,
        // Without inotify the passes still see most of what comes and goes.
        watch: Watch::new().ok(),
        max_watches,
        by_watch: HashMap::new(),
        ledger: Ledger::default(),
        audit_reads,
        rotation: 0,
        suspects: VecDeque::new(),
        host: Totals::default(),
        first: true,
        lost: false,
        stream: Arc::new(STREAMS[0].clone()),
        proc_buf: Buf::new(),
        buf: Vec::new(),
    })))
}

/// What is known of a directory as a parent.
#[derive(Debug, Default)]
struct Parent {
    watch: Option<i32>,
    creations: u64,
    removals: u64,
    active_ns: Option<u64>,
    example: Option<Arc<str>>,
    jobs: Option<Arc<str>>,
    /// How many more removed children had names like `jobs` than not.
    jobs_lead: u32,
    audited_ns: u64,
    pinned: Option<Cache>,
    /// v2: dying cgroups below, and of its own children alone.
    dying_below: Option<u64>,
    dying_own: Option<u64>,
}

#[derive(Debug, Default)]
struct Totals {
    creations: u64,
    removals: u64,
    example: Option<Arc<str>>,
}

struct ZombieMemcg {
    v2: bool,
    /// `/proc/cgroups`, where it tells something.
    counts: Option<KeptFile>,
    tree: Tree<Parent>,
    watch: Option<Watch>,
    max_watches: usize,
    by_watch: HashMap<i32, u32>,
    ledger: Ledger,
    audit_reads: usize,
    /// Where the audit of unsuspected parents goes on.
    rotation: u32,
    suspects: VecDeque<u32>,
    host: Totals,
    first: bool,
    /// The queue of events overflowed since the previous pass.
    lost: bool,
    stream: Arc<Stream>,
    proc_buf: Buf,
    buf: Vec<u8>,
}

impl Polled for ZombieMemcg {
    fn collect(&mut self, pass: &mut Pass) -> Result<(), CollectError> {
        let now = pass.at.boot_ns;
        let mut batch = pass.batch(&self.stream);
        let half = cgroup::half_time(pass);
        let mut late = || pass.now().boot_ns >= half;
        self.lost = false;
        self.follow(now, &mut batch, &mut late);
        let counts = if self.v2 { self.count_v2() } else { self.count_v1(now, &mut batch, &mut late) };
        let settled = counts.and_then(|c| self.ledger.counted(now, c.dying));
        // A hybrid or partial view has no count; then the audit alone can tell.
        if counts.is_none_or(|c| c.dying > 0) {
            self.audit(now, pass);
        } else {
            self.forget_pins();
        }
        self.first = false;
        self.report(now, counts, settled, &mut batch);
        pass.batches.push(batch);
        Ok(())
    }
}

impl ZombieMemcg {
    /// Takes up what came and went. Returns whether nothing did.
    fn follow(&mut self, now: u64, batch: &mut Batch, late: &mut dyn FnMut() -> bool) -> bool {
        let events = self.drain(now);
        let complete = self.tree.refresh(late);
        let gone = self.tree.take_gone();
        let added = self.tree.take_added();
        let still = events == 0 && gone.is_empty() && added.is_empty() && complete;
        for g in gone {
            // The kernel keeps the watch of a removed cgroup until it is told.
            if let (Some(wd), Some(watch)) = (g.data.watch, &mut self.watch) {
                watch.remove(wd);
                self.by_watch.remove(&wd);
            }
            self.ledger.moved_up(g.id, g.parent);
            if let Some(parent) = g.parent.filter(|p| !self.is_watched(*p)) {
                let name = g.path.rsplit('/').next().unwrap_or_default().to_string();
                self.removed(now, parent, name.as_bytes());
            }
            batch.gone.push(Subject::Cgroup(g.path));
        }
        for id in added {
            let parent = self.tree.node(id).and_then(|n| n.parent);
            if let Some(parent) = parent.filter(|p| !self.first && !self.is_watched(*p)) {
                self.created(now, parent);
            }
            self.watch(id);
        }
        still
    }

    fn is_watched(&self, id: u32) -> bool {
        self.tree.node(id).is_some_and(|n| n.data.watch.is_some())
    }

    fn watch(&mut self, id: u32) {
        let watch = self.watch.as_mut().filter(|_| self.by_watch.len() < self.max_watches);
        let Some(wd) = watch.and_then(|w| w.add(&self.tree.fs_path(id)).ok()) else {
            // One that nobody watches, and all have to be asked each pass.
            self.tree.rest_leaves(1);
            return;
        };
        if let Some(node) = self.tree.node_mut(id) {
            node.data.watch = Some(wd);
            self.by_watch.insert(wd, id);
        }
    }

    /// Takes up the events of the watches; returns how many there were.
    fn drain(&mut self, now: u64) -> usize {
        let Some(watch) = &mut self.watch else { return 0 };
        let mut events: Vec<(i32, Change, Vec<u8>)> = Vec::new();
        let complete = watch.drain(&mut |wd, change, name| events.push((wd, change, name.to_vec())));
        if !complete {
            self.lost = true;
            (0..self.tree.ids()).for_each(|id| self.tree.touch(id));
        }
        for (wd, change, name) in &events {
            let Some(parent) = self.by_watch.get(wd).copied() else {
                continue;
            };
            self.tree.touch(parent);
            match change {
                Change::Created => self.created(now, parent),
                Change::Removed => self.removed(now, parent, name),
            }
        }
        events.len()
    }

    fn created(&mut self, now: u64, parent: u32) {
        self.host.creations += 1;
        if let Some(node) = self.tree.node_mut(parent) {
            node.data.creations += 1;
            node.data.active_ns = Some(now);
        }
    }

    fn removed(&mut self, now: u64, parent: u32, name: &[u8]) {
        self.host.removals += 1;
        self.ledger.removed(now, parent, 1);
        let Some(node) = self.tree.node_mut(parent) else {
            return;
        };
        let name = text::from_bytes(name);
        let p = &mut node.data;
        p.removals += 1;
        p.active_ns = Some(now);
        p.example = Some(name.as_ref().into());
        // The majority vote of Boyer and Moore: one candidate and its lead.
        let pattern = ledger::pattern(&name);
        match &p.jobs {
            Some(jobs) if **jobs == *pattern => p.jobs_lead = p.jobs_lead.saturating_add(1),
            Some(_) if p.jobs_lead > 0 => p.jobs_lead -= 1,
            _ => (p.jobs, p.jobs_lead) = (Some(pattern.into()), 1),
        }
        let slash = if node.path.ends_with('/') { "" } else { "/" };
        self.host.example = Some(format!("{}{slash}{name}", node.path).into());
    }

    /// v1: directories and the kernel's count, read so that they belong together; `None` where that did not succeed.
    fn count_v1(&mut self, now: u64, batch: &mut Batch, late: &mut dyn FnMut() -> bool) -> Option<Counts> {
        for _ in 0..3 {
            let before = self.num_cgroups()?;
            let still = self.follow(now, batch, late);
            let after = self.num_cgroups()?;
            let live = self.tree.len() as u64;
            if still && before == after && self.tree.left_out() == 0 {
                return Some(Counts { live, dying: after.checked_sub(live)? });
            }
            if late() {
                return None;
            }
        }
        None
    }

    fn num_cgroups(&mut self) -> Option<u64> {
        let bytes = self.counts.as_mut()?.read(&mut self.proc_buf).ok()?;
        parse::num_cgroups(bytes, b"memory")
    }

    /// v2: the counts of the root, then of every directory below which something is dying.
    fn count_v2(&mut self) -> Option<Counts> {
        let root = self.read_stat(0);
        let mut todo = vec![(0, root)];
        let mut reads = 0;
        while let Some((id, stat)) = todo.pop() {
            let children = self.tree.node(id).map(|n| n.children.clone()).unwrap_or_default();
            let mut below = 0;
            // Under a directory without dying descendants there is nothing to ask.
            if stat.dying > 0 && reads < self.audit_reads.max(children.len()) * 8 {
                for child in children {
                    let stat = self.read_stat(child);
                    reads += 1;
                    below += stat.dying;
                    if stat.dying > 0 || self.tree.node(child).is_some_and(|n| n.data.dying_below != Some(0))
                    {
                        todo.push((child, stat));
                    }
                }
            }
            if let Some(node) = self.tree.node_mut(id) {
                node.data.dying_below = Some(stat.dying);
                node.data.dying_own = Some(stat.dying.saturating_sub(below));
            }
        }
        root.known.then_some(Counts { live: root.live + 1, dying: root.dying })
    }

    fn read_stat(&mut self, id: u32) -> CgroupStat {
        match self.tree.read(id, CGROUP_STAT, &mut self.buf) {
            Reading::Data => parse_cgroup_stat(&self.buf),
            _ => CgroupStat::default(),
        }
    }

    /// Reads what zombies pin: of the suspects every few seconds, of all parents in rotation.
    fn audit(&mut self, now: u64, pass: &Pass) {
        if self.suspects.is_empty() {
            self.suspects = self.ledger.suspects().into_iter().take(8).collect();
            self.suspects.extend(self.ledger.removers(8));
        }
        let mut reads = 0;
        let mut suspects = self.suspects.len();
        let mut others = self.tree.ids();
        while reads < self.audit_reads && !pass.late() {
            let mut again = AUDIT_QUIET_NS;
            let id = if suspects > 0 {
                suspects -= 1;
                let Some(id) = self.suspects.pop_front() else {
                    continue;
                };
                again = AUDIT_AGAIN_NS;
                id
            } else if others > 0 {
                others -= 1;
                self.rotation = (self.rotation + 1) % self.tree.ids().max(1);
                self.rotation
            } else {
                return;
            };
            let due = self.tree.node(id).is_some_and(|n| {
                let d = &n.data;
                let worth = !n.children.is_empty() || d.removals > 0 || d.audited_ns == 0;
                let again = match d.active_ns >= Some(d.audited_ns) {
                    true if n.children.len() <= AUDIT_FEW => 0,
                    true => AUDIT_AGAIN_NS,
                    false => again,
                };
                worth && (d.audited_ns == 0 || now.saturating_sub(d.audited_ns) >= again)
            });
            if due {
                reads += self.audit_one(id, now);
            }
        }
    }

    /// Reads a parent's and its children's statistics; returns how many files that took.
    fn audit_one(&mut self, id: u32, now: u64) -> usize {
        let Some(node) = self.tree.node_mut(id) else {
            return 0;
        };
        node.data.audited_ns = now.max(1);
        let mut children = node.children.clone();
        if children.len() > AUDIT_CHILDREN || (self.v2 && !self.holds_no_tasks(id)) {
            return 1;
        }
        let mut reads = 0;
        // A child that vanished meanwhile would count as pinned, so the rest is read anew: jobs end while we look.
        for _ in 0..AUDIT_TRIES {
            let mut stats = Vec::with_capacity(children.len() + 1);
            let vanished = std::iter::once(id).chain(children.iter().copied()).find(|id| {
                let there = self.tree.read(*id, STAT, &mut self.buf) == Reading::Data;
                if there {
                    stats.push(audit::parse_stat(&self.buf));
                }
                !there
            });
            reads += stats.len() + usize::from(vanished.is_some());
            match (vanished, stats.split_first()) {
                (Some(child), _) if child != id => children.retain(|c| *c != child),
                (None, Some((parent, children))) => {
                    let pinned = audit::pinned(*parent, children.iter().copied());
                    if let Some(node) = self.tree.node_mut(id) {
                        node.data.pinned = Some(pinned);
                        self.ledger.audited(id, pinned.cache >= PINS);
                    }
                    break;
                }
                _ => break,
            }
        }
        reads
    }

    /// v2: whether the memory controller is enabled for the children, so that all memory is charged below.
    fn holds_no_tasks(&mut self, id: u32) -> bool {
        id != 0
            && self.tree.read(id, SUBTREE_CONTROL, &mut self.buf) == Reading::Data
            && self.buf.split(u8::is_ascii_whitespace).any(|word| word == b"memory")
    }

    /// Nothing is dying, so nothing is pinned.
    fn forget_pins(&mut self) {
        for id in 0..self.tree.ids() {
            if let Some(node) = self.tree.node_mut(id) {
                node.data.pinned = None;
            }
        }
    }

    fn report(&self, now: u64, counts: Option<Counts>, settled: Option<u64>, batch: &mut Batch) {
        let exact = |watched: bool| f64::from(u8::from(watched && !self.lost));
        let mut pinned = None;
        let mut all_watched = true;
        for id in 0..self.tree.ids() {
            let Some(node) = self.tree.node(id) else { continue };
            let p = &node.data;
            all_watched &= p.watch.is_some();
            if let Some(cache) = p.pinned {
                *pinned.get_or_insert(0) += cache.cache;
            }
            let suspected = match p.dying_own {
                Some(own) if self.v2 => own as f64,
                _ => self.ledger.suspected(id),
            };
            let lately = p.active_ns.is_some_and(|t| now.saturating_sub(t) < QUIET_NS);
            if node.children.is_empty() && !lately && suspected < 0.5 {
                continue;
            }
            let mut row = batch.row(Subject::Cgroup(node.path.clone()));
            row.gauge(f::SUSPECTED, suspected).gauge(f::EXACT, exact(p.watch.is_some()));
            row.int(f::CREATIONS, p.creations).int(f::REMOVALS, p.removals);
            row.gauge(f::REMOVALS_10S, self.ledger.recent(id) as f64);
            if let Some(own) = p.dying_own.filter(|_| self.v2) {
                row.gauge(f::DYING, own as f64);
            }
            if let Some(cache) = p.pinned {
                row.gauge(f::PINNED_CACHE, cache.cache as f64).gauge(f::PINNED_SHMEM, cache.shmem as f64);
            }
            if let Some(example) = &p.example {
                row.text(f::EXAMPLE, example.clone());
            }
            if let Some(jobs) = &p.jobs {
                row.text(f::JOBS, jobs.clone());
            }
        }
        let mut row = batch.row(Subject::Host);
        row.int(f::CREATIONS, self.host.creations).int(f::REMOVALS, self.host.removals);
        row.gauge(f::EXACT, exact(all_watched));
        if let Some(c) = counts {
            row.gauge(f::TOTAL, (c.live + c.dying) as f64);
            row.gauge(f::LIVE, c.live as f64).gauge(f::DYING, c.dying as f64);
        }
        if let Some(settled) = settled {
            row.gauge(f::DYING_SETTLED, settled as f64);
        }
        if let Some(pinned) = pinned {
            row.gauge(f::PINNED, pinned as f64);
        }
        if let Some(example) = &self.host.example {
            row.text(f::EXAMPLE, example.clone());
        }
    }
}
