//! `latency`: how long the kernel kept tasks, softirqs and CPUs waiting, whom it hit and who caused it.

use whystall_event::Stream;

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
