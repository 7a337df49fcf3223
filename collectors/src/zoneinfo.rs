//! `/proc/zoneinfo`: how far each NUMA node is from its watermarks.
//!
//! An allocation may use a zone while its free pages, less what is kept for allocations that could not go elsewhere
//! (`protection`, from vm.lowmem_reserve_ratio), are above a watermark (`mm/page_alloc.c`, `__zone_watermark_ok`). It falls
//! back from zone to zone, so a node is short when its *best* zone is: `free_over_low` below 1 wakes kswapd, `free_over_min`
//! below 1 makes tasks reclaim directly. Both are for ordinary kernel memory; zone Movable counts only on nodes that have
//! nothing else. On the host the best node counts, which memory policies and cpusets may forbid a task to use.
//!
//! The kernel formats each zone while it holds the zone's lock, six lines a CPU included: the cost of a pass, for allocations
//! on other CPUs too, grows with zones times CPUs.

use std::sync::{Arc, LazyLock};

use whystall_event::{Field, Row, Stream, Subject, SubjectKind, Unit};

use crate::read::{Buf, KeptFile, unavailable};
use crate::scan::{Malformed, columns, dec, dec32, lines};
use crate::values::index_of;
use crate::{Built, CollectError, Collector, Pass, Polled, Roots, Settings, Unavailable};

const fn pages(name: &'static str, help: &'static str) -> Field {
    Field::gauge(name, Unit::Pages, help)
}

const FIELDS: &[Field] = &[
    pages("free", "free pages, all zones"),
    pages("min", "sum of the zones' min watermarks: below it tasks reclaim directly"),
    pages("low", "sum of the zones' low watermarks: below it kswapd wakes"),
    pages("high", "sum of the zones' high watermarks: above it kswapd sleeps"),
    pages("boost", "what recent fragmentation has added to the watermarks; newer kernels"),
    pages("managed", "pages that the zones hand out"),
    Field::gauge(
        "free_over_low",
        Unit::None,
        "usable free pages over low in the best zone: below 1 kswapd runs; 0 if nothing is usable",
    ),
    Field::gauge(
        "free_over_min",
        Unit::None,
        "usable free pages over min in the best zone: below 1 tasks reclaim directly; 0 if nothing is usable",
    ),
    Field::gauge(
        "worst_free_over_min",
        Unit::None,
        "free pages over min in the worst zone; a small zone alone is no harm",
    ),
    Field::text("worst_zone", "the zone of worst_free_over_min"),
    Field::gauge(
        "unreclaimable",
        Unit::None,
        "1 if kswapd has given up on the node (on the host: on any), else 0",
    ),
];

const FREE: usize = index_of(FIELDS, "free");
const MIN: usize = index_of(FIELDS, "min");
const LOW: usize = index_of(FIELDS, "low");
const HIGH: usize = index_of(FIELDS, "high");
const BOOST: usize = index_of(FIELDS, "boost");
const MANAGED: usize = index_of(FIELDS, "managed");
const FREE_OVER_LOW: usize = index_of(FIELDS, "free_over_low");
const FREE_OVER_MIN: usize = index_of(FIELDS, "free_over_min");
const WORST_FREE_OVER_MIN: usize = index_of(FIELDS, "worst_free_over_min");
const WORST_ZONE: usize = index_of(FIELDS, "worst_zone");
const UNRECLAIMABLE: usize = index_of(FIELDS, "unreclaimable");

const STREAM: Stream = Stream::sampled(
    "zoneinfo",
    "how far each NUMA node is from its watermarks",
    &[SubjectKind::Host, SubjectKind::Node],
    FIELDS,
);

/// Reads `/proc/zoneinfo`.
pub static COLLECTOR: Collector = Collector {
    name: "zoneinfo",
    help: "reads /proc/zoneinfo for each NUMA node's free pages against its watermarks",
    streams: &[STREAM],
    interval: None,
    settings: &[],
    build,
};

fn build(roots: &Roots, _: &Settings) -> Result<Built, Unavailable> {
    let file = KeptFile::open(roots.proc("zoneinfo")).map_err(unavailable)?;
    let state = Zoneinfo { file, buf: Buf::new(), zones: Vec::new(), stream: Arc::new(STREAM) };
    Ok(Built::Polled(Box::new(state)))
}

struct Zoneinfo {
    file: KeptFile,
    buf: Buf,
    zones: Vec<Zone>,
    stream: Arc<Stream>,
}

impl Polled for Zoneinfo {
    fn collect(&mut self, pass: &mut Pass) -> Result<(), CollectError> {
        let zones = &mut self.zones;
        self.file.parse(&mut self.buf, |bytes| parse_zoneinfo(bytes, zones))?;
        let mut batch = pass.batch(&self.stream);
        let mut host = None::<Summary>;
        for node in zones.chunk_by(|a, b| a.node == b.node) {
            let Some(summary) = Summary::of_node(node) else {
                continue;
            };
            let subject = node.first().map_or(Subject::Host, |z| Subject::Node(z.node));
            summary.fill(&mut batch.row(subject));
            host = Some(host.map_or(summary, |host| host.and(&summary)));
        }
        if let Some(host) = host {
            host.fill(&mut batch.row(Subject::Host));
        }
        pass.batches.push(batch);
        Ok(())
    }
}

/// The kinds of zones, in the kernel's order (`enum zone_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ZoneKind {
    /// The first 16 MiB on x86.
    Dma,
    /// The first 4 GiB.
    Dma32,
    /// Ordinary memory.
    Normal,
    /// Beyond the kernel's direct map (32-bit).
    HighMem,
    /// Only for what can be moved.
    Movable,
    /// Memory of devices.
    Device,
}

impl ZoneKind {
    const ALL: [(ZoneKind, &'static str); 6] = [
        (ZoneKind::Dma, "DMA"),
        (ZoneKind::Dma32, "DMA32"),
        (ZoneKind::Normal, "Normal"),
        (ZoneKind::HighMem, "HighMem"),
        (ZoneKind::Movable, "Movable"),
        (ZoneKind::Device, "Device"),
    ];

    fn from_name(name: &[u8]) -> Option<ZoneKind> {
        ZoneKind::ALL.iter().find(|(_, n)| n.as_bytes() == name).map(|(kind, _)| *kind)
    }

    /// The kernel's name, shared so that rows can carry it without a copy.
    fn name(self) -> Arc<str> {
        static NAMES: LazyLock<[Arc<str>; 6]> = LazyLock::new(|| ZoneKind::ALL.map(|(_, name)| name.into()));
        NAMES.get(self as usize).cloned().unwrap_or_default()
    }
}

/// The most kinds of zones that a kernel has.
const MAX_ZONES: usize = 8;

/// One zone of one node; pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Zone {
    /// The NUMA node.
    pub node: u32,
    /// Which zone of it.
    pub kind: ZoneKind,
    /// Free pages.
    pub free: u64,
    /// Below this tasks reclaim directly.
    pub min: u64,
    /// Below this kswapd wakes.
    pub low: u64,
    /// Above this kswapd sleeps.
    pub high: u64,
    /// Part of the watermarks that fragmentation has added; 5.15 does not show it, 6.1 does.
    pub boost: Option<u64>,
    /// Pages that the zone hands out; 0 for a zone that is empty.
    pub managed: u64,
    /// Pages kept from allocations that could use a higher zone, by that zone's position in the kernel's list.
    pub protection: [u64; MAX_ZONES],
    /// How many of `protection` exist; as many as the kernel has kinds of zones.
    pub kinds: usize,
    /// This zone's position in the kernel's list.
    pub position: usize,
    /// Whether kswapd has given up on the node.
    pub unreclaimable: bool,
}

impl Zone {
    /// What an allocation that may use zones up to `highest` finds here.
    fn usable(&self, highest: &Zone) -> u64 {
        // Kernels that print only populated zones give no position; the last entry is the largest and thus safe.
        let at = if highest.position < self.kinds { highest.position } else { self.kinds.saturating_sub(1) };
        self.free.saturating_sub(self.protection.get(at).copied().unwrap_or(0))
    }
}

/// A node, or all.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Summary {
    free: u64,
    min: u64,
    low: u64,
    high: u64,
    boost: Option<u64>,
    managed: u64,
    free_over_low: Option<f64>,
    free_over_min: Option<f64>,
    worst: Option<(f64, ZoneKind)>,
    unreclaimable: bool,
}

impl Summary {
    /// One node from its zones; `None` if it has no memory.
    fn of_node(zones: &[Zone]) -> Option<Summary> {
        let populated = || zones.iter().filter(|z| z.managed > 0 && z.kind != ZoneKind::Device);
        let highest =
            populated().rfind(|z| z.kind < ZoneKind::Movable).or_else(|| populated().next_back())?;
        let sum = |part: fn(&Zone) -> u64| populated().fold(0u64, |n, z| n.saturating_add(part(z)));
        let best = |mark: fn(&Zone) -> u64| {
            populated()
                .filter(|z| z.position <= highest.position)
                .filter_map(|z| ratio(z.usable(highest), mark(z)))
                .reduce(f64::max)
        };
        Some(Summary {
            free: sum(|z| z.free),
            min: sum(|z| z.min),
            low: sum(|z| z.low),
            high: sum(|z| z.high),
            boost: populated().filter_map(|z| z.boost).reduce(u64::saturating_add),
            managed: sum(|z| z.managed),
            free_over_low: best(|z| z.low),
            free_over_min: best(|z| z.min),
            worst: populated()
                .filter_map(|z| ratio(z.free, z.min).map(|r| (r, z.kind)))
                .min_by(|a, b| a.0.total_cmp(&b.0)),
            unreclaimable: populated().any(|z| z.unreclaimable),
        })
    }

    /// Two nodes together.
    fn and(&self, other: &Summary) -> Summary {
        let best = |a: Option<f64>, b: Option<f64>| a.into_iter().chain(b).reduce(f64::max);
        let sum = |a: u64, b: u64| a.saturating_add(b);
        Summary {
            free: sum(self.free, other.free),
            min: sum(self.min, other.min),
            low: sum(self.low, other.low),
            high: sum(self.high, other.high),
            boost: self.boost.into_iter().chain(other.boost).reduce(u64::saturating_add),
            managed: sum(self.managed, other.managed),
            free_over_low: best(self.free_over_low, other.free_over_low),
            free_over_min: best(self.free_over_min, other.free_over_min),
            worst: self.worst.into_iter().chain(other.worst).min_by(|a, b| a.0.total_cmp(&b.0)),
            unreclaimable: self.unreclaimable || other.unreclaimable,
        }
    }

    fn fill(&self, row: &mut Row<'_>) {
        let pages =
            [(FREE, self.free), (MIN, self.min), (LOW, self.low), (HIGH, self.high), (MANAGED, self.managed)];
        for (field, value) in pages.into_iter().chain(self.boost.map(|b| (BOOST, b))) {
            row.gauge(field, value as f64);
        }
        for (field, value) in [(FREE_OVER_LOW, self.free_over_low), (FREE_OVER_MIN, self.free_over_min)] {
            row.gauge(field, value.unwrap_or(f64::NAN));
        }
        if let Some((ratio, kind)) = self.worst {
            row.gauge(WORST_FREE_OVER_MIN, ratio).text(WORST_ZONE, kind.name());
        }
        row.gauge(UNRECLAIMABLE, f64::from(u8::from(self.unreclaimable)));
    }
}

/// `pages / mark`; nothing for a mark of zero, which limits nobody.
fn ratio(pages: u64, mark: u64) -> Option<f64> {
    (mark > 0).then(|| pages as f64 / mark as f64)
}

/// The node and zone of a line `Node 0, zone   Normal`, and what follows them. The zone is `None` for a kind that is not
/// known here.
pub(crate) fn zone_header(line: &[u8]) -> Option<(u32, Option<ZoneKind>, crate::scan::Columns<'_>)> {
    let mut rest = columns(line);
    let node = match (rest.next()?, rest.next()?, rest.next()?) {
        (b"Node", node, b"zone") => dec32(node.strip_suffix(b",")?)?,
        _ => return None,
    };
    let kind = ZoneKind::from_name(rest.next()?);
    Some((node, kind, rest))
}

/// Parses `/proc/zoneinfo` into `zones`, whose content it replaces, in the file's order.
///
/// Read are each zone's watermarks between `pages free` and `protection`, and `node_unreclaimable` (before 4.14
/// `all_unreclaimable`); the statistics and per-CPU lists between them are skipped, as are kinds of zones not known here.
/// Wrong is: a header of another shape, nodes that descend, a zone that lacks free, min, low or high, a number that is none,
/// and a file without any zone.
pub fn parse_zoneinfo(bytes: &[u8], zones: &mut Vec<Zone>) -> Result<(), Malformed> {
    zones.clear();
    let mut open = None::<Draft>;
    let mut last = 0;
    for line in lines(bytes) {
        let (number, line) = line?;
        last = number;
        if line.first() == Some(&b'N') {
            let Some((node, kind, _)) = zone_header(line) else {
                return Err(Malformed::expected(number, "Node N, zone NAME", line));
            };
            let position = match &open {
                Some(draft) if draft.node == node => draft.position + 1,
                Some(draft) if draft.node > node => {
                    return Err(Malformed::expected(number, "ascending nodes", line));
                }
                _ => 0,
            };
            if let Some(draft) = open.replace(Draft::new(node, kind, position)) {
                draft.finish(number - 1, zones)?;
            }
        } else if let Some(draft) = &mut open {
            draft.line(number, line)?;
        }
    }
    match open {
        Some(draft) => draft.finish(last, zones),
        None => Err(Malformed::new(1, "no zone in the whole file")),
    }
}

/// A zone of which lines have been read.
#[derive(Default)]
struct Draft {
    node: u32,
    kind: Option<ZoneKind>,
    position: usize,
    free: Option<u64>,
    min: Option<u64>,
    low: Option<u64>,
    high: Option<u64>,
    boost: Option<u64>,
    managed: Option<u64>,
    present: Option<u64>,
    protection: [u64; MAX_ZONES],
    kinds: usize,
    unreclaimable: bool,
    /// Between `pages free` and `protection`, where the names mean what they say.
    in_marks: bool,
}

impl Draft {
    fn new(node: u32, kind: Option<ZoneKind>, position: usize) -> Draft {
        Draft { node, kind, position, ..Draft::default() }
    }

    fn line(&mut self, number: usize, line: &[u8]) -> Result<(), Malformed> {
        // Two blanks begin the lines of a zone's sections; the many lines within sections have more, or a tab.
        if !self.in_marks && line.get(2).is_none_or(|b| b.is_ascii_whitespace()) {
            return Ok(());
        }
        let mut rest = columns(line);
        let place = match rest.next().unwrap_or_default() {
            b"pages" if rest.clone().next() == Some(b"free") => {
                rest.next();
                self.in_marks = true;
                &mut self.free
            }
            b"node_unreclaimable:" | b"all_unreclaimable:" => {
                self.unreclaimable = rest.dec(number, "0 or 1")? != 0;
                return Ok(());
            }
            _ if !self.in_marks => return Ok(()),
            b"min" => &mut self.min,
            b"low" => &mut self.low,
            b"high" => &mut self.high,
            b"boost" => &mut self.boost,
            b"managed" => &mut self.managed,
            b"present" => &mut self.present,
            b"protection:" => {
                self.in_marks = false;
                return self.protection(number, rest.rest());
            }
            // Kernels from 3.x print statistics before `protection`.
            _ => return Ok(()),
        };
        *place = Some(rest.dec(number, "a number of pages")?);
        Ok(())
    }

    /// `(0, 3019, 4683, 4683)`.
    fn protection(&mut self, number: usize, list: &[u8]) -> Result<(), Malformed> {
        let wrong = || Malformed::expected(number, "(pages, pages, ...)", list);
        let inner = list.strip_prefix(b"(").and_then(|l| l.strip_suffix(b")")).ok_or_else(wrong)?;
        self.kinds = 0;
        for part in inner.split(|b| *b == b',') {
            let place = self.protection.get_mut(self.kinds).ok_or_else(wrong)?;
            *place = dec(part.trim_ascii()).ok_or_else(wrong)?;
            self.kinds += 1;
        }
        Ok(())
    }

    fn finish(self, last_line: usize, zones: &mut Vec<Zone>) -> Result<(), Malformed> {
        let Some(kind) = self.kind else { return Ok(()) };
        let (Some(free), Some(min), Some(low), Some(high)) = (self.free, self.min, self.low, self.high)
        else {
            let what = format!(
                "zone {} of node {} ends without all of free, min, low and high",
                kind.name(),
                self.node
            );
            return Err(Malformed::new(last_line, what));
        };
        // Before 3.9 there is only `present`.
        let Some(managed) = self.managed.or(self.present) else {
            let what = format!("zone {} of node {} ends without managed", kind.name(), self.node);
            return Err(Malformed::new(last_line, what));
        };
        zones.push(Zone {
            node: self.node,
            kind,
            free,
            min,
            low,
            high,
            boost: self.boost,
            managed,
            protection: self.protection,
            kinds: self.kinds,
            position: self.position,
            unreclaimable: self.unreclaimable,
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests;
