//! Tests of the parser and of the ratios, on zones written here.

use super::*;
use proptest::prelude::*;

fn parse(bytes: &[u8]) -> Result<Vec<Zone>, Malformed> {
    let mut zones = Vec::new();
    parse_zoneinfo(bytes, &mut zones).map(|()| zones)
}

/// A zone's lines as Linux 6 prints them, with the parts that must be skipped.
fn text(z: &Zone) -> String {
    let protection: Vec<_> = z.protection[..z.kinds].iter().map(u64::to_string).collect();
    let boost = z.boost.map_or(String::new(), |b| format!("        boost    {b}\n"));
    format!(
        "Node {}, zone {:>8}\n  per-node stats\n      nr_inactive_anon 99\n  pages free     {}\n{boost}        min      {}\n        \
         low      {}\n        high     {}\n        spanned  5\n        present  {}\n        managed  {}\n        \
         protection: ({})\n      nr_free_pages 77\n  pagesets\n    cpu: 0\n              count: 1\n              \
         high:  2\n              low: 3\n  node_unreclaimable:  {}\n  start_pfn:           1\n",
        z.node,
        z.kind.name(),
        z.free,
        z.min,
        z.low,
        z.high,
        z.managed,
        z.managed,
        protection.join(", "),
        u8::from(z.unreclaimable),
    )
}

fn zone(node: u32, kind: ZoneKind, free: u64, min: u64, protection: [u64; 5]) -> Zone {
    let mut all = [0; MAX_ZONES];
    all[..5].copy_from_slice(&protection);
    Zone {
        node,
        kind,
        free,
        min,
        low: min * 5 / 4,
        high: min * 3 / 2,
        boost: Some(0),
        managed: 1_000_000,
        protection: all,
        kinds: 5,
        // x86-64 has no HighMem.
        position: if kind < ZoneKind::HighMem { kind as usize } else { kind as usize - 1 },
        unreclaimable: false,
    }
}

#[test]
fn the_best_zone_decides_and_protected_pages_do_not_count() {
    let dma = zone(0, ZoneKind::Dma, 3840, 53, [0, 3019, 4683, 4683, 4683]);
    let dma32 = zone(0, ZoneKind::Dma32, 1664 + 5000, 10_000, [0, 0, 1664, 1664, 1664]);
    let normal = zone(0, ZoneKind::Normal, 3000, 6000, [0; 5]);
    let s = Summary::of_node(&[dma, dma32, normal]).unwrap();
    assert_eq!(
        s.free_over_min,
        Some(0.5),
        "zone DMA's free pages are out of reach, the others have half of min"
    );
    assert_eq!(s.worst, Some((0.5, ZoneKind::Normal)));
    let rich = Zone { free: 1664 + 30_000, ..dma32 };
    let s = Summary::of_node(&[dma, rich, normal]).unwrap();
    assert_eq!(s.free_over_min, Some(3.0), "a short Normal zone is no shortage while DMA32 has room");
    assert_eq!((s.free_over_low, s.worst.unwrap().1), (Some(2.4), ZoneKind::Normal));
}

#[test]
fn movable_memory_does_not_serve_the_kernel() {
    let normal = zone(0, ZoneKind::Normal, 3000, 6000, [0, 0, 0, 900, 900]);
    let movable = zone(0, ZoneKind::Movable, 600_000, 6000, [0; 5]);
    assert_eq!(Summary::of_node(&[normal, movable]).unwrap().free_over_min, Some(0.5));
    assert_eq!(Summary::of_node(&[movable]).unwrap().free_over_min, Some(100.0));
    let empty = Zone { managed: 0, ..movable };
    assert_eq!(Summary::of_node(&[empty]), None, "a node without memory has no row");
    let unmarked = Zone { min: 0, ..normal };
    assert_eq!(Summary::of_node(&[unmarked]).unwrap().free_over_min, None, "no mark, no ratio");
}

#[test]
fn the_host_takes_the_best_node_and_the_worst_zone() {
    let short = Summary::of_node(&[zone(0, ZoneKind::Normal, 3000, 6000, [0; 5])]).unwrap();
    let rich = Summary::of_node(&[zone(1, ZoneKind::Normal, 60_000, 6000, [0; 5])]).unwrap();
    let host = short.and(&rich);
    assert_eq!((host.free, host.min, host.free_over_min), (63_000, 12_000, Some(10.0)));
    assert_eq!(host.worst.unwrap().0, 0.5);
}

#[test]
fn surprises_are_errors_with_their_line() {
    let check = |input: &[u8], expected: &str| {
        let e = parse(input).unwrap_err().at("/p/zoneinfo".as_ref()).to_string();
        assert!(e.starts_with("/p/zoneinfo: line ") && e.contains(expected), "{e}");
    };
    let good = text(&zone(1, ZoneKind::Normal, 1, 2, [0; 5]));
    check(b"", "no zone");
    check(b"Nonsense\n", "line 1: expected Node N, zone NAME");
    check(b"Node 0, zone Normal\n", "zone Normal of node 0 ends without all of free");
    check(format!("{good}Node 0, zone DMA\n").as_bytes(), "expected ascending nodes");
    check(good.replace("min      2", "min      -2").as_bytes(), "found `-2`");
    check(
        good.replace("pages free     1", "pages free").as_bytes(),
        "line 4: expected a number of pages, found the end",
    );
    check(good.replace("(0, 0", "(0; 0").as_bytes(), "expected (pages, pages, ...)");
    check(good.replace("(0, 0", "(0, 0, 0, 0, 0, 0, 0").as_bytes(), "expected (pages, pages, ...)");
    check(
        good.replace("managed  1000000\n", "\n").replace("present ", "absent ").as_bytes(),
        "ends without managed",
    );
    check(good.trim_end().as_bytes(), "cut short");
    let strange = good.replace("Normal", "N\u{fc}w");
    assert_eq!(parse(strange.as_bytes()).unwrap(), [], "a kind of zone that is not known is skipped");
}

proptest! {
    #[test]
    fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = parse(&bytes);
        let _ = parse(&[b"Node 0, zone Normal\n  pages free ", &bytes[..]].concat());
    }

    #[test]
    fn round_trip(
        parts in proptest::collection::vec((any::<[u64; 6]>(), any::<[u64; 5]>(), any::<bool>(), any::<bool>()), 1..12),
    ) {
        let zones: Vec<_> = parts.iter().enumerate().map(|(i, (n, protection, boost, unreclaimable))| {
            let mut all = [0; MAX_ZONES];
            all[..5].copy_from_slice(protection);
            Zone {
                node: (i / 3) as u32,
                kind: ZoneKind::ALL[i % 3].0,
                free: n[0], min: n[1], low: n[2], high: n[3], boost: boost.then_some(n[4]), managed: n[5],
                protection: all, kinds: 5, position: i % 3, unreclaimable: *unreclaimable,
            }
        }).collect();
        let file: String = zones.iter().map(text).collect();
        prop_assert_eq!(parse(file.as_bytes()).unwrap(), zones.clone());
        for node in zones.chunk_by(|a, b| a.node == b.node) {
            if let Some(s) = Summary::of_node(node) {
                // An allocation succeeds above low only if it does above min.
                prop_assert!(s.free_over_min.is_none_or(|r| r.is_finite() && r >= 0.0));
            }
        }
    }
}
