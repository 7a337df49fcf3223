//! whystall's sources of events: one file a collector, one line in [`ALL`] each.
//!
//! A collector is built once from its own settings and then either *polled* (a pass each interval) or *streaming* (its
//! own loop). It reads files below replaceable roots ([`Roots`]), keeps reading and parsing apart (a pure `parse_*`
//! over bytes with fixtures), and delivers [`Batch`](whystall_event::Batch)es. It never sees rules, windows or the
//! config file. What it cannot do it says as an [`Unavailable`] or a [`CollectError`]; it never panics on what it reads.

mod bpf;
pub mod buddyinfo;
mod cgroup;
#[cfg(test)]
mod compliance;
#[cfg(test)]
mod conduct;
pub mod cpu;
pub mod cpu_cgroup;
mod error;
pub mod exec;
pub mod fuzz;
pub mod health;
pub mod interrupts;
pub mod kernel_log;
pub mod latency;
pub mod memcg;
pub mod meminfo;
#[cfg(test)]
mod oracle;
pub mod pressure;
pub mod read;
mod roots;
pub mod runner;
pub mod scan;
pub mod schedstat;
pub mod softirqs;
pub mod softnet;
mod spec;
mod stop;
pub mod values;
pub mod vmstat;
pub mod zombie_memcg;
pub mod zoneinfo;

pub use error::{CollectError, Unavailable};
pub use roots::Roots;
pub use spec::{Built, Collector, Pass, Polled, Settings, Sink, Streaming};
pub use stop::Stop;

/// Every collector, in the order in which `doctor` lists them.
pub const ALL: &[&Collector] = &[
    &vmstat::COLLECTOR,
    &meminfo::COLLECTOR,
    &zoneinfo::COLLECTOR,
    &buddyinfo::COLLECTOR,
    &pressure::COLLECTOR,
    &cpu::COLLECTOR,
    &schedstat::COLLECTOR,
    &softirqs::COLLECTOR,
    &softnet::COLLECTOR,
    &interrupts::COLLECTOR,
    &memcg::COLLECTOR,
    &cpu_cgroup::COLLECTOR,
    &zombie_memcg::COLLECTOR,
    &kernel_log::COLLECTOR,
    &latency::COLLECTOR,
    &latency::canary::COLLECTOR,
];

/// The collector called `name`.
pub fn by_name(name: &str) -> Option<&'static Collector> {
    ALL.iter().copied().find(|c| c.name == name)
}
