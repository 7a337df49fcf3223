//! The faults and quiet controls, in the order in which they run.

mod article;
mod cpu;
mod kernel;
mod memory;
mod net;
mod node;
mod quiet;
mod quiet_memory;
mod zombie;

use crate::scene::Fault;

/// Every fault and control: a new one is one function in a file here and one line in this list.
pub(crate) const ALL: &[Fault] = &[
    memory::MEMCG_LIMIT,
    memory::MEMCG_LIMIT_CACHE_ONLY,
    memory::MEMCG_LIMIT_NESTED,
    memory::MEMCG_HIGH,
    memory::OOM_KILL,
    node::NODE_LOW,
    node::COMPACTION,
    zombie::ZOMBIE_GROWTH,
    zombie::ZOMBIE_SHMEM,
    article::SLOW_STATS,
    cpu::RT_HOG,
    cpu::RT_HOG_ONCE,
    cpu::CFS_OVERCOMMIT,
    cpu::CPU_QUOTA,
    cpu::RR_HOGS,
    cpu::NESTED_QUOTA,
    kernel::LONG_RUN,
    kernel::DENTRY_WALK,
    kernel::IRQ_OFF,
    kernel::SLOW_SOFTIRQ,
    kernel::IRQ_STORM,
    net::OVERLOAD,
    net::NAPI_BEHIND_RT,
    net::SOFTIRQ_BESIDE_RT,
    quiet::IDLE,
    quiet::LIVE_CGROUPS,
    quiet::NICE_BATCH,
    quiet::COMPILE_BURST,
    quiet::FILE_COPY,
    quiet_memory::OPERATOR_RECLAIM,
    quiet_memory::KSWAPD_ONLY,
    quiet_memory::SHORT_JOBS,
];

/// Whether `fault` is the first in the list that its rule must tell.
pub(crate) fn first_of_its_rule(fault: &Fault) -> bool {
    let rule = fault.expect.rule();
    ALL.iter().find(|f| f.expect.rule() == rule).is_some_and(|f| f.name == fault.name)
}

/// `name=value` words for a child.
macro_rules! settings {
    ($($name:ident = $value:expr),* $(,)?) => {
        [$(format!(concat!(stringify!($name), "={}"), $value)),*]
    };
}
use settings;
