//! `latency`: how long the kernel kept tasks, softirqs and CPUs waiting, whom it hit and who caused it.

use whystall_event::Stream;

use crate::{Built, Collector, Roots, Settings, Unavailable};

pub mod streams;

/// The streams of the collector `latency`.
pub static STREAMS: &[Stream] = &[
    streams::reclaim_direct::STREAM,
    streams::reclaim_memcg::STREAM,
    streams::reclaim_throttled::STREAM,
    streams::reclaim_totals::STREAM,
    streams::compaction_direct::STREAM,
    streams::runq::STREAM,
    streams::runq_totals::STREAM,
    streams::nosched::STREAM,
    streams::softirq::STREAM,
    streams::irq::STREAM,
    streams::irqoff::STREAM,
    streams::memcg_life::STREAM,
    streams::memcg_zombies::STREAM,
    streams::probes::STREAM,
];

/// The collector; without its probes it only declares what they measure, so that rules can be checked anywhere.
pub static COLLECTOR: Collector = Collector {
    name: "latency",
    help: "stalls measured in the kernel: reclaim, compaction, run queue, softirqs, interrupts",
    streams: STREAMS,
    interval: None,
    settings: &[],
    build,
};

fn build(_: &Roots, _: &Settings) -> Result<Built, Unavailable> {
    Err(Unavailable::because("this version has no probes in the kernel"))
}
