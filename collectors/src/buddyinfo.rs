//! `/proc/buddyinfo`: whether free memory is in pieces.
//!
//! Each line gives, for one zone, the free blocks of 2^0, 2^1, … pages. Two views of a wanted order are derived, by the
//! kernel's own formulas (`mm/vmstat.c`): the *unusable index*, the part of free memory that lies in smaller blocks, and the
//! *fragmentation index*, which for an allocation that would fail now says why, from 0 (too little memory) to 1 (only
//! fragmentation). The kernel compacts when the latter is above vm.extfrag_threshold (0.5). Order 3 is the largest that
//! allocations wait for as a matter of course; order 9 is a huge page on x86-64.
//!
//! Zones DMA, Movable and Device are left out where a node has others: DMA's few large blocks are kept back from ordinary
//! allocations, and kernel memory cannot come from Movable.

use std::sync::Arc;

use whystall_event::{Field, Row, Stream, Subject, SubjectKind, Unit};

use crate::read::{Buf, KeptFile, unavailable};
use crate::scan::{Malformed, dec, lines};
use crate::values::index_of;
use crate::zoneinfo::{ZoneKind, zone_header};
use crate::{Built, CollectError, Collector, Pass, Polled, Roots, Settings, Unavailable};

const fn pages(name: &'static str, help: &'static str) -> Field {
    Field::gauge(name, Unit::Pages, help)
}

const fn ratio(name: &'static str, help: &'static str) -> Field {
    Field::gauge(name, Unit::Ratio, help)
}

const FIELDS: &[Field] = &[
    pages("free_orders_0_2", "free pages in blocks of 1 to 4 pages"),
    pages("free_orders_3_8", "free pages in blocks of 8 to 256 pages"),
    pages("free_orders_9_up", "free pages in blocks of 512 pages or more"),
    ratio("unusable_3", "part of the free memory that cannot serve an order-3 allocation"),
    ratio("unusable_9", "part of the free memory that cannot serve an order-9 allocation"),
    ratio(
        "fragmentation_3",
        "why an order-3 allocation would fail: 0 it would not, or memory lacks; 1 fragmentation",
    ),
    ratio(
        "fragmentation_9",
        "why an order-9 allocation would fail: 0 it would not, or memory lacks; 1 fragmentation",
    ),
    Field::gauge("largest_order", Unit::None, "order of the largest free block; absent if nothing is free"),
];

const FREE_0_2: usize = index_of(FIELDS, "free_orders_0_2");
const FREE_3_8: usize = index_of(FIELDS, "free_orders_3_8");
const FREE_9_UP: usize = index_of(FIELDS, "free_orders_9_up");
const UNUSABLE_3: usize = index_of(FIELDS, "unusable_3");
const UNUSABLE_9: usize = index_of(FIELDS, "unusable_9");
const FRAGMENTATION_3: usize = index_of(FIELDS, "fragmentation_3");
const FRAGMENTATION_9: usize = index_of(FIELDS, "fragmentation_9");
const LARGEST_ORDER: usize = index_of(FIELDS, "largest_order");

/// More orders than any kernel has (11; up to 14 with large pages).
const MAX_ORDERS: usize = 24;

const STREAM: Stream = Stream::sampled(
    "buddyinfo",
    "whether each NUMA node's free memory is in pieces",
    &[SubjectKind::Host, SubjectKind::Node],
    FIELDS,
);

/// Reads `/proc/buddyinfo`.
pub static COLLECTOR: Collector = Collector {
    name: "buddyinfo",
    help: "reads /proc/buddyinfo for free memory by block size and its fragmentation",
    streams: &[STREAM],
    interval: None,
    settings: &[],
    build,
};

fn build(roots: &Roots, _: &Settings) -> Result<Built, Unavailable> {
    let file = KeptFile::open(roots.proc("buddyinfo")).map_err(unavailable)?;
    let state = Buddyinfo { file, buf: Buf::new(), zones: Vec::new(), stream: Arc::new(STREAM) };
    Ok(Built::Polled(Box::new(state)))
}

struct Buddyinfo {
    file: KeptFile,
    buf: Buf,
    zones: Vec<BuddyZone>,
    stream: Arc<Stream>,
}

impl Polled for Buddyinfo {
    fn collect(&mut self, pass: &mut Pass) -> Result<(), CollectError> {
        let zones = &mut self.zones;
        self.file.parse(&mut self.buf, |bytes| parse_buddyinfo(bytes, zones))?;
        let mut batch = pass.batch(&self.stream);
        let mut host = Blocks::default();
        for node in zones.chunk_by(|a, b| a.node == b.node) {
            let blocks = ordinary(node);
            if let Some(zone) = node.first() {
                blocks.fill(&mut batch.row(Subject::Node(zone.node)));
            }
            host.add(&blocks);
        }
        host.fill(&mut batch.row(Subject::Host));
        pass.batches.push(batch);
        Ok(())
    }
}

/// One line of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BuddyZone {
    /// The NUMA node.
    pub node: u32,
    /// Which zone of it.
    pub kind: ZoneKind,
    /// Its free blocks.
    pub blocks: Blocks,
}

/// Free blocks by order. The sum of their pages fits `u64`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Blocks {
    /// How many blocks of 2^i pages are free.
    pub counts: [u64; MAX_ORDERS],
}

/// The blocks of a node that ordinary allocations can use.
fn ordinary(zones: &[BuddyZone]) -> Blocks {
    let mut sum = Blocks::default();
    let is_ordinary = |z: &BuddyZone| !matches!(z.kind, ZoneKind::Dma | ZoneKind::Movable | ZoneKind::Device);
    let any = zones.iter().any(is_ordinary);
    zones.iter().filter(|z| !any || is_ordinary(z)).for_each(|z| sum.add(&z.blocks));
    sum
}

impl Blocks {
    fn add(&mut self, other: &Blocks) {
        for (sum, count) in self.counts.iter_mut().zip(other.counts) {
            *sum = sum.saturating_add(count);
        }
    }

    /// The indices' ingredients: for each order, free pages in smaller blocks; at last, all. Floating point, as sums over
    /// nodes may pass `u64`.
    fn pages_below(&self) -> [f64; MAX_ORDERS + 1] {
        let mut below = [0.0; MAX_ORDERS + 1];
        let mut sum = 0.0;
        for ((place, count), order) in below.iter_mut().skip(1).zip(&self.counts).zip(0..) {
            sum += *count as f64 * f64::from(1u32 << order);
            *place = sum;
        }
        below
    }

    /// The part of free memory in blocks smaller than `order`; 1 if nothing is free, as the kernel has it.
    fn unusable(&self, order: usize) -> f64 {
        let below = self.pages_below();
        if below[MAX_ORDERS] > 0.0 { below[order] / below[MAX_ORDERS] } else { 1.0 }
    }

    /// The kernel's fragmentation index as a ratio; 0 where a suitable block is free or nothing is.
    fn fragmentation(&self, order: usize) -> f64 {
        if self.counts[order..].iter().any(|n| *n > 0) {
            return 0.0;
        }
        let blocks: f64 = self.counts[..order].iter().map(|n| *n as f64).sum();
        let wanted = f64::from(1u32 << order);
        if blocks > 0.0 {
            (1.0 - (1.0 + self.pages_below()[order] / wanted) / blocks).clamp(0.0, 1.0)
        } else {
            0.0
        }
    }

    fn fill(&self, row: &mut Row<'_>) {
        let below = self.pages_below();
        row.gauge(FREE_0_2, below[3])
            .gauge(FREE_3_8, below[9] - below[3])
            .gauge(FREE_9_UP, below[MAX_ORDERS] - below[9])
            .gauge(UNUSABLE_3, self.unusable(3))
            .gauge(UNUSABLE_9, self.unusable(9))
            .gauge(FRAGMENTATION_3, self.fragmentation(3))
            .gauge(FRAGMENTATION_9, self.fragmentation(9));
        if let Some(order) = self.counts.iter().rposition(|n| *n > 0) {
            row.gauge(LARGEST_ORDER, order as f64);
        }
    }
}

/// Parses `/proc/buddyinfo` into `zones`, whose content it replaces, in the file's order.
///
/// Kinds of zones that are not known here are skipped. Wrong is: a line of another shape, a count that is no number, pages
/// over `u64`, no or more than 24 orders, nodes that descend, and a file without any zone.
pub fn parse_buddyinfo(bytes: &[u8], zones: &mut Vec<BuddyZone>) -> Result<(), Malformed> {
    zones.clear();
    let mut last = None;
    for line in lines(bytes) {
        let (number, line) = line?;
        let Some((node, kind, counts)) = zone_header(line) else {
            return Err(Malformed::expected(number, "Node N, zone NAME and counts", line));
        };
        if last.is_some_and(|last| last > node) {
            return Err(Malformed::expected(number, "ascending nodes", line));
        }
        last = Some(node);
        let Some(kind) = kind else { continue };
        let (mut blocks, mut orders, mut pages) = (Blocks::default(), 0, 0u64);
        for column in counts {
            let Some(place) = blocks.counts.get_mut(orders) else {
                return Err(Malformed::expected(number, "at most 24 orders", line));
            };
            let count =
                dec(column).ok_or_else(|| Malformed::expected(number, "a number of blocks", column))?;
            let sum = count.checked_mul(1 << orders).and_then(|more| pages.checked_add(more));
            pages = sum.ok_or_else(|| Malformed::expected(number, "fewer than 2^64 pages", column))?;
            *place = count;
            orders += 1;
        }
        if orders == 0 {
            return Err(Malformed::ends(number, "a number of blocks"));
        }
        zones.push(BuddyZone { node, kind, blocks });
    }
    if last.is_none() { Err(Malformed::new(1, "empty")) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(bytes: &[u8]) -> Result<Vec<BuddyZone>, Malformed> {
        let mut zones = Vec::new();
        parse_buddyinfo(bytes, &mut zones).map(|()| zones)
    }

    fn blocks(counts: &[u64]) -> Blocks {
        let mut all = Blocks::default();
        all.counts[..counts.len()].copy_from_slice(counts);
        all
    }

    #[test]
    fn indices_follow_the_kernels_formulas() {
        // 1000 single pages and nothing else: order 3 fails through fragmentation. 1 - (1 + 1000/8) / 1000.
        let crumbs = blocks(&[1000]);
        assert_eq!((crumbs.unusable(3), crumbs.fragmentation(3)), (1.0, 0.874));
        // Four free pages: order 3 fails for lack of memory. 1 - (1 + 4/8) / 4 in the kernel as well.
        assert_eq!(blocks(&[4]).fragmentation(3), 0.625);
        assert_eq!(
            blocks(&[0, 0, 1]).fragmentation(3),
            0.0,
            "one block of 4 pages: -0.5 is no fragmentation"
        );
        let usable = blocks(&[8, 0, 0, 1]);
        assert_eq!(
            (usable.unusable(3), usable.fragmentation(3), usable.fragmentation(9)),
            (0.5, 0.0, 1.0 - 1.03125 / 9.0)
        );
        assert_eq!((Blocks::default().unusable(3), Blocks::default().fragmentation(3)), (1.0, 0.0));
    }

    #[test]
    fn ordinary_zones_count_where_there_are_any() {
        let zones =
            parse(b"Node 0, zone DMA 0 0 1\nNode 0, zone Normal 5 0 0\nNode 0, zone Strange x\n").unwrap();
        assert_eq!(ordinary(&zones), blocks(&[5]));
        assert_eq!(ordinary(&zones[..1]), blocks(&[0, 0, 1]));
    }

    #[test]
    fn surprises_are_errors_with_their_line() {
        let check = |input: &[u8], expected: &str| {
            let e = parse(input).unwrap_err().at("/p".as_ref()).to_string();
            assert!(e.contains(expected), "{e}");
        };
        check(b"", "empty");
        check(b"Node 0 zone DMA 1\n", "line 1: expected Node N, zone NAME and counts");
        check(b"Node 0, zone DMA\n", "line 1: expected a number of blocks, found the end");
        check(b"Node 0, zone DMA 1 -2\n", "found `-2`");
        check(b"Node 0, zone DMA 0 18446744073709551615\n", "expected fewer than 2^64 pages");
        check(b"Node 1, zone DMA 1\nNode 0, zone DMA 1\n", "line 2: expected ascending nodes");
        check(b"Node 0, zone DMA 1 2", "cut short");
        check(format!("Node 0, zone DMA{}\n", " 1".repeat(25)).as_bytes(), "at most 24 orders");
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
            let _ = parse(&[b"Node 0, zone DMA ", &bytes[..]].concat());
        }

        #[test]
        fn round_trip_and_bounds(counts in proptest::collection::vec(any::<[u32; 11]>(), 1..8)) {
            let name = |i: usize| ["DMA", "DMA32", "Normal"][i % 3];
            let file: String = counts.iter().enumerate().map(|(i, c)| {
                let counts: String = c.iter().map(|n| format!("{n:>6} ")).collect();
                format!("Node {}, zone {:>8} {counts}\n", i / 3, name(i))
            }).collect();
            let zones = parse(file.as_bytes()).unwrap();
            prop_assert_eq!(zones.len(), counts.len());
            for (zone, expected) in zones.iter().zip(&counts) {
                prop_assert!(zone.blocks.counts.iter().zip(expected).all(|(a, b)| *a == u64::from(*b)));
                for order in [3, 9] {
                    prop_assert!((0.0..=1.0).contains(&zone.blocks.unusable(order)));
                    prop_assert!((0.0..=1.0).contains(&zone.blocks.fragmentation(order)));
                }
            }
        }
    }
}
