//! `latency`: how long the kernel kept tasks, softirqs and CPUs waiting, whom it hit and who caused it.
//!
//! One collector owns the BPF object and emits a stream for each probe; rules name the streams (`runq`, `reclaim`, …).
//! Each probe has a level of its own: BPF programs on BTF tracepoints, else perf tracepoints (reclaim and compaction),
//! else it is not available and stream `probes` says why. The collector [`canary`] works without any of this.
//!
//! Events below the thresholds are summed in the kernel, those above are sent one by one, up to a limit a second, CPU
//! and kind; what the limit holds back and what finds no room is counted. The programs only look: nothing is changed,
//! delayed or killed.

use whystall_event::Stream;

pub mod canary;
mod culprits;
mod names;
mod probes;
mod quota;
mod rows;
mod run;
mod settings;
pub mod streams;
#[cfg(test)]
mod tests;
mod totals;
mod zombies;

use crate::bpf::object;
use crate::bpf::perf;
use crate::{Built, Collector, Roots, Settings, Unavailable};

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
    streams::lock::STREAM,
    streams::memcg_life::STREAM,
    streams::memcg_zombies::STREAM,
    streams::probes::STREAM,
];

/// The collector.
pub static COLLECTOR: Collector = Collector {
    name: "latency",
    help: "the kernel's own latencies with their culprits, by BPF probes: reclaim, run queue, softirqs, interrupts, cgroup lives",
    streams: STREAMS,
    interval: None,
    settings: settings::KEYS,
    build,
};

/// Loading takes a moment and memory, so it is left to the collector's own thread; here it is only found out whether
/// some level can work.
fn build(roots: &Roots, given: &Settings) -> Result<Built, Unavailable> {
    let options = settings::read(given, &probes::names())?;
    let bpf = match options.best {
        settings::Best::Bpf => object::check_host(roots),
        settings::Best::Perf => Err(Unavailable::because("level = \"perf\" is set")),
    };
    if let Err(no_bpf) = bpf
        && let Err(no_perf) = perf::check_host(roots)
    {
        let mut why = no_bpf;
        why.why = format!("{}; {no_perf}", why.why);
        return Err(why);
    }
    Ok(Built::Streaming(Box::new(run::Latency { roots: roots.clone(), options })))
}
