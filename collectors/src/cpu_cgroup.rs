//! `cpu_cgroup`: CPU time, quota, throttling and CPU pressure of each control group.
//!
//! Reads `cpu.stat`, `cpu.max` and `cpu.pressure` on v2; `cpu.stat`, `cpu.cfs_quota_us`, `cpu.cfs_period_us` and
//! `cpuacct.usage` on v1, whether `cpuacct` is in a hierarchy of its own or not; on hybrid hosts also the pressure of the
//! same groups in the v2 tree. Sources: cgroup-v2.rst, scheduler/sched-bwc.rst, cgroup-v1/cpuacct.rst.
//!
//! A group in which nothing moved for some passes is read every second pass until something does.
//!
//! Throttling counts against the group that has the quota; the groups below it wait without a count of their own.

use std::sync::Arc;

use whystall_event::{Batch, Field, Stream, Subject, SubjectKind, Unit};

use crate::cgroup::mounts::{Hierarchies, Hierarchy, Version};
use crate::cgroup::parse::{self, Quota};
use crate::cgroup::tree::{FileSpec, Reading, Tree, hot};
use crate::cgroup::{self, fields};
use crate::{Built, CollectError, Collector, Pass, Polled, Roots, Settings, Unavailable};

fields! { FIELDS, f:
    PERIODS = Field::counter("periods", Unit::Count, "enforcement periods in which the cgroup wanted to run (cpu.stat nr_periods)");
    THROTTLED_PERIODS = Field::counter("throttled_periods", Unit::Count, "periods in which the quota was used up (cpu.stat nr_throttled)");
    THROTTLED = Field::counter("throttled", Unit::Time, "time throttled, summed over CPUs (cpu.stat throttled_usec; v1 throttled_time)");
    BURSTS = Field::counter("bursts", Unit::Count, "periods in which saved quota was used (cpu.stat nr_bursts, 5.14 and later)");
    USAGE = Field::counter("usage", Unit::Time, "CPU time used, here and below (cpu.stat usage_usec; v1 cpuacct.usage)");
    QUOTA_CPUS = Field::gauge("quota_cpus", Unit::None, "CPUs that the cgroup may use, quota divided by period; absent without a quota (cpu.max; v1 cpu.cfs_quota_us)");
    PRESSURE_SOME = Field::counter("pressure_some", Unit::Time, "time in which at least one task here or below waited for a CPU, throttling included (cpu.pressure; v2 tree only)");
    PRESSURE_FULL = Field::counter("pressure_full", Unit::Time, "time in which tasks here and below waited and none ran, throttling included (cpu.pressure, 5.13 and later; v2 tree only)");
}

static STREAMS: &[Stream] = &[Stream::sampled(
    "cpu_cgroup",
    "CPU time, quota and throttling of one control group",
    &[SubjectKind::Cgroup],
    FIELDS,
)];

/// The collector.
pub static COLLECTOR: Collector = Collector {
    name: "cpu_cgroup",
    help: "CPU time, quota, throttling and CPU pressure of each control group (v1, v2, hybrid)",
    streams: STREAMS,
    interval: None,
    settings: &["max_cgroups"],
    build,
};

/// Every n-th pass asks again whether a cgroup without a quota has one now.
const LOOK_FOR_QUOTA: u32 = 8;
/// After this many readings in which nothing moved, a cgroup is read every n-th pass; so are directories without
/// children asked for some.
const STILL: u8 = 4;
const IDLE_EVERY: u32 = 2;

fn build(roots: &Roots, settings: &Settings) -> Result<Built, Unavailable> {
    let max = cgroup::max_cgroups(settings)?;
    let hierarchies = Hierarchies::find(roots)?;
    // v2 accounts CPU time and pressure even where the cpu controller is not enabled.
    let found: Vec<(&Hierarchy, &'static Layout)> = match hierarchies.v1("cpu") {
        Some(cpu) => {
            let cpuacct = hierarchies.v1("cpuacct");
            let joint = cpuacct == Some(cpu);
            let own = cpuacct.filter(|_| !joint).map(|h| (h, &CPUACCT));
            let pressure = hierarchies.v2().map(|h| (h, &HYBRID));
            [Some((cpu, if joint { &V1_JOINT } else { &V1 })), own, pressure].into_iter().flatten().collect()
        }
        None => match hierarchies.v2() {
            Some(unified) => vec![(unified, &V2)],
            None => vec![(hierarchies.of("cpu")?, &V2)],
        },
    };
    let parts = found
        .into_iter()
        .map(|(h, layout)| {
            debug_assert!(layout.v2 == (h.version == Version::V2));
            let tree = cgroup::open_tree(roots, h, layout.files, max, layout.fds)?;
            Ok(Part { layout, tree, cursor: 0 })
        })
        .collect::<Result<Vec<_>, Unavailable>>()?;
    Ok(Built::Polled(Box::new(CpuCgroup {
        parts,
        stream: Arc::new(STREAMS[0].clone()),
        buf: Vec::new(),
        passes: 0,
    })))
}

/// Which files a kind of hierarchy has, as indices into its list.
#[derive(Debug)]
struct Layout {
    v2: bool,
    /// The share of descriptors, in hundredths.
    fds: u64,
    files: &'static [FileSpec],
    stat: Option<usize>,
    /// `cpu.max`, or the quota and the period of v1.
    quota: Option<(usize, Option<usize>)>,
    usage: Option<usize>,
    pressure: Option<usize>,
}

static V1: Layout = Layout {
    v2: false,
    fds: 10,
    files: &[hot(c"cpu.stat"), hot(c"cpu.cfs_quota_us"), hot(c"cpu.cfs_period_us")],
    stat: Some(0),
    quota: Some((1, Some(2))),
    usage: None,
    pressure: None,
};

static V1_JOINT: Layout = Layout {
    v2: false,
    fds: 20,
    files: &[hot(c"cpu.stat"), hot(c"cpu.cfs_quota_us"), hot(c"cpu.cfs_period_us"), hot(c"cpuacct.usage")],
    stat: Some(0),
    quota: Some((1, Some(2))),
    usage: Some(3),
    pressure: None,
};

static CPUACCT: Layout = Layout {
    v2: false,
    fds: 10,
    files: &[hot(c"cpuacct.usage")],
    stat: None,
    quota: None,
    usage: Some(0),
    pressure: None,
};

static V2: Layout = Layout {
    v2: true,
    fds: 20,
    files: &[hot(c"cpu.stat"), hot(c"cpu.max"), hot(c"cpu.pressure")],
    stat: Some(0),
    quota: Some((1, None)),
    usage: None,
    pressure: Some(2),
};

/// The v2 tree of a host whose cpu controller is on v1.
static HYBRID: Layout = Layout {
    v2: true,
    fds: 2,
    files: &[hot(c"cpu.pressure")],
    stat: None,
    quota: None,
    usage: None,
    pressure: Some(0),
};

struct Part {
    layout: &'static Layout,
    tree: Tree<Seen>,
    /// Where the next pass begins, if this one could not read all.
    cursor: u32,
}

/// What the last readings of a cgroup were.
#[derive(Debug, Default)]
struct Seen {
    has_quota: bool,
    read: bool,
    /// CPU time, periods and pressure at the last reading, and in how many they stood still.
    moving: [Option<u64>; 3],
    still: u8,
}

struct CpuCgroup {
    parts: Vec<Part>,
    stream: Arc<Stream>,
    buf: Vec<u8>,
    passes: u32,
}

impl Polled for CpuCgroup {
    fn collect(&mut self, pass: &mut Pass) -> Result<(), CollectError> {
        self.passes = self.passes.wrapping_add(1);
        let mut batch = pass.batch(&self.stream);
        let half = cgroup::half_time(pass);
        for part in &mut self.parts {
            part.tree.refresh(&mut || pass.now().boot_ns >= half);
            batch.gone.extend(part.tree.take_gone().into_iter().map(|g| Subject::Cgroup(g.path)));
            part.tree.take_added();
            batch.reserve(part.tree.len());
            let ids = part.tree.ids();
            let start = part.cursor % ids.max(1);
            part.cursor = 0;
            for step in 0..ids {
                let id = (start + step) % ids;
                if step % 16 == 15 && pass.late() {
                    part.cursor = id;
                    break;
                }
                read_one(part, id, self.passes, &mut self.buf, &mut batch);
            }
        }
        pass.batches.push(batch);
        Ok(())
    }
}

/// What one cgroup's files say; absent where they do not.
#[derive(Debug, Default, PartialEq)]
struct Values {
    stat: Stat,
    usage: Option<u64>,
    quota: Option<Quota>,
    pressure: parse::Pressure,
}

/// Lines of `cpu.stat`, times in nanoseconds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Stat {
    periods: Option<u64>,
    throttled_periods: Option<u64>,
    throttled: Option<u64>,
    bursts: Option<u64>,
    usage: Option<u64>,
}

/// Parses `cpu.stat` of either version.
pub(crate) fn parse_stat(bytes: &[u8]) -> Stat {
    let mut s = Stat::default();
    for (key, value) in parse::flat_keyed(bytes) {
        match key {
            b"nr_periods" => s.periods = Some(value),
            b"nr_throttled" => s.throttled_periods = Some(value),
            b"throttled_time" => s.throttled = Some(value),
            b"throttled_usec" => s.throttled = value.checked_mul(1000),
            b"nr_bursts" => s.bursts = Some(value),
            b"usage_usec" => s.usage = value.checked_mul(1000),
            _ => {}
        }
    }
    s
}

/// Reads one cgroup and appends its row.
fn read_one(part: &mut Part, id: u32, passes: u32, buf: &mut Vec<u8>, batch: &mut Batch) {
    let Part { layout, tree, .. } = part;
    let Some(node) = tree.node(id) else { return };
    if node.data.still >= STILL && !cgroup::turn(passes, id, IDLE_EVERY, 0) {
        return;
    }
    let path = node.path.clone();
    let ask_quota =
        node.data.has_quota || !node.data.read || cgroup::turn(passes, id, LOOK_FOR_QUOTA, tree.len());
    let mut v = Values::default();
    let mut any = false;
    let mut read = |tree: &mut Tree<Seen>, file: Option<usize>, buf: &mut Vec<u8>| {
        let data = file.is_some_and(|file| tree.read(id, file, buf) == Reading::Data);
        any |= data;
        data
    };
    if read(tree, layout.stat, buf) {
        v.stat = parse_stat(buf);
        v.usage = v.stat.usage;
    }
    if read(tree, layout.usage, buf) {
        v.usage = parse::number(buf);
    }
    if read(tree, layout.pressure, buf) {
        v.pressure = parse::pressure(buf);
    }
    if let Some((quota, period)) = layout.quota.filter(|_| ask_quota)
        && read(tree, Some(quota), buf)
    {
        v.quota = match period {
            None => parse::cpu_max(buf),
            Some(_) if parse::cfs_quota(buf, b"1") == Some(Quota::None) => Some(Quota::None),
            Some(period) => {
                let quota = std::mem::take(buf);
                let both = read(tree, Some(period), buf);
                both.then(|| parse::cfs_quota(&quota, buf)).flatten()
            }
        };
    }
    if !any {
        return;
    }
    if let Some(node) = tree.node_mut(id) {
        node.data.read = true;
        let moving = [v.usage, v.stat.periods, v.pressure.some];
        let stood = node.data.moving == moving;
        node.data.still = if stood { node.data.still.saturating_add(1).min(STILL) } else { 0 };
        node.data.moving = moving;
        if ask_quota {
            node.data.has_quota = matches!(v.quota, Some(Quota::Cpus(_)));
        }
    }
    let mut row = batch.row(Subject::Cgroup(path));
    for (field, value) in [
        (f::PERIODS, v.stat.periods),
        (f::THROTTLED_PERIODS, v.stat.throttled_periods),
        (f::THROTTLED, v.stat.throttled),
        (f::BURSTS, v.stat.bursts),
        (f::USAGE, v.usage),
        (f::PRESSURE_SOME, v.pressure.some),
        (f::PRESSURE_FULL, v.pressure.full),
    ] {
        if let Some(value) = value {
            row.int(field, value);
        }
    }
    if let Some(Quota::Cpus(cpus)) = v.quota {
        row.gauge(f::QUOTA_CPUS, cpus);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::testing::{Group, fixture, golden, pass, value};
    use proptest::prelude::*;
    use std::fs;

    fn collector(roots: &Roots) -> Box<dyn Polled> {
        match build(roots, &Settings::new()) {
            Ok(Built::Polled(polled)) => polled,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn fixtures() {
        for name in ["cgroup-v1", "cgroup-v2", "cgroup-hybrid", "cgroup-v2-5.4"] {
            golden(&pass(&mut *collector(&fixture(name))), &format!("{name}/cpu_cgroup.golden"));
        }
    }

    #[test]
    fn subjects_are_those_of_memcg() {
        let path = "/kubepods/burstable/pod1f2e3d4c-5b6a-7980-a1b2-c3d4e5f60718/9a3c1e5f7b9d0e2c4a6b8d0f1e3c5a7b9d0e2c4a6b8d0f1e3c5a7b9d0e2c4a6b";
        let roots = fixture("cgroup-v1");
        let cpu = pass(&mut *collector(&roots));
        let Ok(Built::Polled(mut memcg)) = (crate::memcg::COLLECTOR.build)(&roots, &Settings::new()) else {
            panic!("memcg does not build")
        };
        let memory = pass(&mut *memcg);
        assert_eq!(value(&cpu, "cpu_cgroup", &format!("cgroup:{path}"), "quota_cpus"), Some(0.2));
        assert_eq!(value(&memory, "memcg", &format!("cgroup:{path}"), "failcnt"), Some(24_665.0));
    }

    #[test]
    fn a_quota_throttles_on_the_real_kernel() {
        let Some(group) = Group::new("cpu") else { return };
        let v1 = group.dir.join("cpu.cfs_quota_us").exists();
        let (file, text) = if v1 { ("cpu.cfs_quota_us", "5000") } else { ("cpu.max", "5000 100000") };
        if let Err(e) = fs::write(group.dir.join(file), text) {
            println!("skipped: {file}: {e}");
            return;
        }
        let subject = format!("cgroup:{}", group.path);
        let mut c = collector(&Roots::default());
        let before = pass(&mut *c);
        assert_eq!(value(&before, "cpu_cgroup", &subject, "quota_cpus"), Some(0.05));
        // 60 ms of CPU need a dozen periods.
        let script = format!(
            "echo $$ > '{}/cgroup.procs'; i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done",
            group.dir.display()
        );
        #[allow(clippy::disallowed_methods)]
        std::process::Command::new("sh").args(["-c", &script]).status().unwrap();
        let after = pass(&mut *c);
        let moved = |field| {
            value(&after, "cpu_cgroup", &subject, field).unwrap()
                - value(&before, "cpu_cgroup", &subject, field).unwrap()
        };
        assert!(moved("throttled_periods") > 0.0);
        assert!(moved("throttled") > 0.0);
        assert!(moved("periods") >= moved("throttled_periods"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            parse_stat(&bytes);
        }
    }
}
