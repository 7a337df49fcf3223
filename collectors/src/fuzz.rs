//! Every parser of foreign bytes by name, so that one fuzz target can reach them all. Adding a parser is one line here.

/// Parses bytes and drops the result. It must neither panic nor take more than time and memory linear in its input.
pub type Parser = fn(&[u8]);

macro_rules! parsers {
    ($($name:literal => $parse:expr),* $(,)?) => {
        &[$(($name, |bytes| {
            let _ = ($parse)(bytes);
        })),*]
    };
}

/// All parsers, named `<collector>` or `<collector>.<file>`.
pub const PARSERS: &[(&str, Parser)] = parsers![
    "vmstat" => crate::vmstat::parse_vmstat,
    "meminfo" => crate::meminfo::parse_meminfo,
    "zoneinfo" => |bytes| crate::zoneinfo::parse_zoneinfo(bytes, &mut Vec::new()),
    "buddyinfo" => |bytes| crate::buddyinfo::parse_buddyinfo(bytes, &mut Vec::new()),
    "cpu" => |bytes| crate::cpu::parse_stat(bytes, &mut crate::cpu::Stat::default()),
    "cpu.loadavg" => crate::cpu::parse_loadavg,
    "pressure" => crate::pressure::parse_pressure,
    "softirqs" => |bytes| crate::softirqs::parse_softirqs(bytes, &mut Vec::new()),
    "softnet" => |bytes| crate::softnet::parse_softnet(bytes, &mut Vec::new()),
    "softnet.online" => crate::softnet::parse_online,
    "interrupts" => |bytes| crate::interrupts::parse_interrupts(bytes, &mut crate::interrupts::Table::default()),
    "cgroup.mountinfo" => crate::cgroup::mounts::parse_mountinfo,
    "cgroup.number" => crate::cgroup::parse::number,
    "cgroup.memory_limit" => crate::cgroup::parse::memory_limit,
    "cgroup.pressure" => crate::cgroup::parse::pressure,
    "cgroup.cpu_max" => crate::cgroup::parse::cpu_max,
    "cgroup.cfs_quota" => |bytes| crate::cgroup::parse::cfs_quota(bytes, bytes),
    "cgroup.num_cgroups" => |bytes| crate::cgroup::parse::num_cgroups(bytes, b"memory"),
    "memcg.stat" => |bytes| crate::memcg::stat::stat(bytes, false, &mut Vec::new()),
    "memcg.stat_v1" => |bytes| crate::memcg::stat::stat(bytes, true, &mut Vec::new()),
    "memcg.events" => |bytes| crate::memcg::stat::events(bytes, &mut Vec::new()),
    "cpu_cgroup.stat" => crate::cpu_cgroup::parse_stat,
    "zombie_memcg.cgroup_stat" => crate::zombie_memcg::parse_cgroup_stat,
    "schedstat.task" => crate::schedstat::parse::parse_task,
    "schedstat.stat" => crate::schedstat::parse::parse_stat,
    "schedstat.cgroup" => crate::schedstat::parse::parse_cgroup,
    "schedstat.loadavg" => crate::schedstat::parse::parse_loadavg,
    "schedstat.host" => |bytes| crate::schedstat::parse::parse_host(bytes, &mut Vec::new()),
    "zombie_memcg.memory_stat" => crate::zombie_memcg::audit::parse_stat,
    "kernel_log" => crate::kernel_log::fuzz,
    "exec" => crate::exec::fuzz,
];
