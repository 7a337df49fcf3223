//! Every parser of foreign bytes by name, so that one fuzz target can reach them all. Adding a parser is one line here.

/// Parses bytes and drops the result. It must neither panic nor take more than time and memory linear in its input.
pub type Parser = fn(&[u8]);

macro_rules! parsers {
    ($($name:literal => $parse:expr),* $(,)?) => {
        &[$(($name, |bytes| drop(($parse)(bytes)))),*]
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
];
