//! `/proc/stat` and `/proc/loadavg`: what CPUs spend their time on, and how much there is to run.
//!
//! Times are the kernel's, in ticks of USER_HZ (10 ms) turned into nanoseconds: fine for shares over seconds, too coarse for
//! single stalls. `user` includes `guest`, and `nice` includes `guest_nice`, as in the file. `idle` and `iowait` can step
//! back (`Documentation/filesystems/proc.rst`), which costs that interval. On the host the times are sums over all CPUs.

use std::sync::Arc;

use whystall_event::{Field, Row, SEC, Stream, Subject, SubjectKind, Unit};

use crate::read::{Buf, KeptFile, unavailable};
use crate::scan::{Malformed, columns, dec, dec32, fixed, lines};
use crate::values::{Values, index_of};
use crate::{Built, CollectError, Collector, Pass, Polled, Roots, Settings, Unavailable};

const fn time(name: &'static str, help: &'static str) -> Field {
    Field::counter(name, Unit::Time, help)
}

const FIELDS: &[Field] = &[
    time("user", "time in user mode, guests included"),
    time("nice", "time in user mode at a lowered priority"),
    time("system", "time in the kernel, interrupts aside"),
    time("idle", "time with nothing to do"),
    time("iowait", "time with nothing to do while a task of this CPU waited for storage"),
    time("irq", "time in hard interrupts; zero where the kernel does not account for it"),
    time("softirq", "time in softirqs; ksoftirqd's own runs count as system"),
    time("steal", "time in which the hypervisor ran something else"),
    time("guest", "of user, time spent running guests"),
    time("guest_nice", "of nice, time spent running guests"),
    Field::gauge("cpus", Unit::Count, "CPUs that are online (host)"),
    Field::gauge("procs_running", Unit::Count, "tasks that run or wait for a CPU (host)"),
    Field::gauge("procs_blocked", Unit::Count, "tasks that wait for storage (host)"),
    Field::counter("ctxt", Unit::Count, "context switches (host)"),
    Field::counter("processes", Unit::Count, "tasks ever created (host)"),
    Field::counter("intr", Unit::Count, "interrupts served (host)"),
    Field::counter("softirqs", Unit::Count, "softirqs run (host)"),
    Field::gauge("runnable", Unit::Count, "tasks that run or wait for a CPU, by /proc/loadavg (host)"),
    Field::gauge("tasks", Unit::Count, "tasks that exist, threads included (host)"),
    Field::gauge("load1", Unit::None, "load average of a minute: runnable and uninterruptible tasks (host)"),
];

/// The columns of a `cpu` line.
const TIMES: usize = 10;
/// What `/proc/stat` gives the host besides: all fields before `runnable`.
const N: usize = RUNNABLE;
const CPUS: usize = index_of(FIELDS, "cpus");
const RUNNABLE: usize = index_of(FIELDS, "runnable");
const TASKS: usize = index_of(FIELDS, "tasks");
const LOAD1: usize = index_of(FIELDS, "load1");

/// Lines with one number that is wanted, with their field.
const SINGLES: [(&[u8], usize); 6] = [
    (b"intr", index_of(FIELDS, "intr")),
    (b"ctxt", index_of(FIELDS, "ctxt")),
    (b"processes", index_of(FIELDS, "processes")),
    (b"procs_running", index_of(FIELDS, "procs_running")),
    (b"procs_blocked", index_of(FIELDS, "procs_blocked")),
    (b"softirq", index_of(FIELDS, "softirqs")),
];

const STREAM: Stream = Stream::sampled(
    "cpu",
    "what CPUs spend their time on, and how much there is to run",
    &[SubjectKind::Host, SubjectKind::Cpu],
    FIELDS,
);

/// Reads `/proc/stat` and `/proc/loadavg`.
pub static COLLECTOR: Collector = Collector {
    name: "cpu",
    help: "reads /proc/stat and /proc/loadavg for the time that each CPU spends and for runnable tasks",
    streams: &[STREAM],
    interval: None,
    settings: &[],
    build,
};

fn build(roots: &Roots, _: &Settings) -> Result<Built, Unavailable> {
    let stat = KeptFile::open(roots.proc("stat")).map_err(unavailable)?;
    Ok(Built::Polled(Box::new(Cpu {
        stat,
        loadavg: KeptFile::lazy(roots.proc("loadavg")),
        buf: Buf::new(),
        parsed: Stat::default(),
        tick_ns: tick_ns()?,
        stream: Arc::new(STREAM),
    })))
}

/// Nanoseconds in a tick of USER_HZ.
fn tick_ns() -> Result<u64, Unavailable> {
    // SAFETY: sysconf takes a number and touches no memory of ours.
    let hz = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    u64::try_from(hz)
        .ok()
        .and_then(|hz| SEC.checked_div(hz))
        .ok_or_else(|| Unavailable::because(format!("sysconf(_SC_CLK_TCK) is {hz}")))
}

struct Cpu {
    stat: KeptFile,
    loadavg: KeptFile,
    buf: Buf,
    parsed: Stat,
    tick_ns: u64,
    stream: Arc<Stream>,
}

impl Polled for Cpu {
    fn collect(&mut self, pass: &mut Pass) -> Result<(), CollectError> {
        let stat = &mut self.parsed;
        self.stat.parse(&mut self.buf, |bytes| parse_stat(bytes, stat))?;
        let load = self.loadavg.parse(&mut self.buf, parse_loadavg);
        let mut batch = pass.batch(&self.stream);
        batch.reserve(stat.cpus.len() + 1);
        for (cpu, times) in &stat.cpus {
            fill_times(&mut batch.row(Subject::Cpu(*cpu)), times, self.tick_ns);
        }
        let mut row = batch.row(Subject::Host);
        fill_times(&mut row, &stat.host, self.tick_ns);
        stat.counts.fill(&mut row, FIELDS);
        if let Ok(load) = &load {
            row.gauge(RUNNABLE, load.runnable as f64)
                .gauge(TASKS, load.tasks as f64)
                .gauge(LOAD1, load.load1);
        }
        pass.batches.push(batch);
        load.map(drop)
    }
}

/// Writes ticks as nanoseconds. The product wraps: the idle time of 512 CPUs passes 2^64 ns after 417 days, and a wrapped
/// counter costs one interval.
fn fill_times(row: &mut Row<'_>, times: &Values<TIMES>, tick_ns: u64) {
    for i in 0..TIMES {
        if let Some(ticks) = times.get(i) {
            row.int(i, ticks.wrapping_mul(tick_ns));
        }
    }
}

/// One reading of `/proc/stat`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stat {
    /// All CPUs together, ticks in the stream's order.
    pub host: Values<TIMES>,
    /// Each CPU that is online, by ascending number.
    pub cpus: Vec<(u32, Values<TIMES>)>,
    /// The host's other numbers at their place in the stream.
    pub counts: Values<N>,
}

/// Parses `/proc/stat` into `out`, whose content it replaces.
///
/// Kernels that give fewer columns leave the later times absent; further columns and lines are skipped. Wrong is: a time or
/// count that is no number up to `u64`, fewer than the four columns that every kernel has, a line that occurs twice, CPUs
/// that do not ascend, and a file without the sum line or without any CPU.
pub fn parse_stat(bytes: &[u8], out: &mut Stat) -> Result<(), Malformed> {
    out.host = Values::default();
    out.cpus.clear();
    out.counts = Values::default();
    for line in lines(bytes) {
        let (number, line) = line?;
        let mut rest = columns(line);
        let name = rest.next().unwrap_or_default();
        if let Some(cpu) = name.strip_prefix(b"cpu") {
            let mut times = Values::default();
            for (i, column) in rest.take(TIMES).enumerate() {
                let ticks =
                    dec(column).ok_or_else(|| Malformed::expected(number, "a number of ticks", column))?;
                times.set(i, ticks);
            }
            if times.get(3).is_none() {
                return Err(Malformed::expected(number, "at least four times", line));
            }
            if cpu.is_empty() {
                if !out.host.is_empty() {
                    return Err(Malformed::expected(number, "each line once", name));
                }
                out.host = times;
                continue;
            }
            let last = out.cpus.last().map(|(cpu, _)| *cpu);
            let cpu = dec32(cpu).filter(|cpu| last.is_none_or(|last| *cpu > last));
            out.cpus.push((cpu.ok_or_else(|| Malformed::expected(number, "ascending CPUs", name))?, times));
        } else if let Some((_, field)) = SINGLES.iter().find(|(known, _)| *known == name)
            && !out.counts.set(*field, rest.dec(number, "a count")?)
        {
            return Err(Malformed::expected(number, "each line once", name));
        }
    }
    if out.host.is_empty() || out.cpus.is_empty() {
        return Err(Malformed::new(1, "no line for all CPUs or none for a single one"));
    }
    out.counts.set(CPUS, out.cpus.len() as u64);
    Ok(())
}

/// One reading of `/proc/loadavg`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Loadavg {
    /// The load average of one minute.
    pub load1: f64,
    /// Tasks that run or wait for a CPU now.
    pub runnable: u64,
    /// Tasks that exist.
    pub tasks: u64,
}

/// Parses `0.84 0.81 0.38 3/291 6258`; anything else is wrong.
pub fn parse_loadavg(bytes: &[u8]) -> Result<Loadavg, Malformed> {
    let (_, line) = lines(bytes).next().unwrap_or_else(|| Err(Malformed::new(1, "empty")))?;
    let mut rest = columns(line);
    let load1 = rest.next().and_then(fixed);
    let counts = rest.nth(2).unwrap_or_default();
    let slash = memchr::memchr(b'/', counts).map(|at| counts.split_at(at));
    let runnable = slash.and_then(|(running, _)| dec(running));
    let tasks = slash.and_then(|(_, all)| dec(all.get(1..)?));
    match (load1, runnable, tasks) {
        (Some(load1), Some(runnable), Some(tasks)) => Ok(Loadavg { load1, runnable, tasks }),
        _ => Err(Malformed::expected(1, "three averages and running/all tasks", line)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use whystall_event::Stamp;

    fn parse(bytes: &[u8]) -> Result<Stat, Malformed> {
        let mut out = Stat::default();
        parse_stat(bytes, &mut out).map(|()| out)
    }

    #[test]
    fn the_sum_each_cpu_and_the_counts() {
        let stat = parse(
            b"cpu  1 2 3 4 5 6 7 8 9 10 11\ncpu0 1 2 3 4\ncpu7 1 2 3 4 5\nintr 42 0 x\nctxt 43\nbtime x\nnew 1\n",
        )
        .unwrap();
        assert_eq!((stat.host.get(0), stat.host.get(9)), (Some(1), Some(10)));
        assert_eq!((stat.cpus.len(), stat.cpus[1].0), (2, 7));
        assert_eq!((stat.cpus[1].1.get(4), stat.cpus[1].1.get(5)), (Some(5), None));
        assert_eq!(stat.counts.get(CPUS), Some(2));
        assert_eq!(stat.counts.get(index_of(FIELDS, "intr")), Some(42));
        assert_eq!(stat.counts.get(index_of(FIELDS, "processes")), None);
    }

    #[test]
    fn surprises_are_errors_with_their_line() {
        let check = |input: &[u8], expected: &str| {
            let e = parse(input).unwrap_err().at("/p/stat".as_ref()).to_string();
            assert!(e.starts_with("/p/stat: line ") && e.contains(expected), "{e}");
        };
        check(b"", "no line for all CPUs");
        check(b"cpu 1 2 3 4\n", "none for a single one");
        check(b"cpu 1 2 3 4\ncpu0 1 2 3\n", "line 2: expected at least four times");
        check(b"cpu 1 2 3 4\ncpu0 1 2 3 -4\n", "found `-4`");
        check(b"cpu 1 2 3 18446744073709551616\n", "found `18446744073709551616`");
        check(b"cpu 1 2 3 4\ncpu1 1 2 3 4\ncpu0 1 2 3 4\n", "line 3: expected ascending CPUs");
        check(b"cpu 1 2 3 4\ncpux 1 2 3 4\n", "found `cpux`");
        check(b"cpu 1 2 3 4\ncpu 1 2 3 4\n", "line 2: expected each line once");
        check(b"cpu 1 2 3 4\nctxt\n", "line 2: expected a count");
        check(b"ctxt 1\nctxt 1\n", "line 2: expected each line once");
        check(b"cpu 1 2 3 4\ncpu0 1 2 3 4", "line 2: cut short");
    }

    #[test]
    fn loadavg() {
        let load = parse_loadavg(b"0.84 12.81 0.38 3/291 6258\n").unwrap();
        assert_eq!(load, Loadavg { load1: 0.84, runnable: 3, tasks: 291 });
        for bad in
            [&b""[..], b"0.84 12.81 0.38 3/291 6258", b"x 1 1 3/2 1\n", b"1 1 1 3 1\n", b"1 1 1 -3/2 1\n"]
        {
            assert!(parse_loadavg(bad).is_err());
        }
    }

    #[test]
    fn a_missing_loadavg_leaves_the_times() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("proc")).unwrap();
        std::fs::write(dir.path().join("proc/stat"), "cpu 1 2 3 4\ncpu0 1 2 3 4\n").unwrap();
        let Ok(Built::Polled(mut c)) = build(&Roots::under(dir.path()), &Settings::new()) else { panic!() };
        let mut pass = Pass::new(Stamp::default(), Stamp::default, 0);
        assert!(c.collect(&mut pass).unwrap_err().to_string().contains("loadavg"));
        let host = pass.batches[0].rows().last().unwrap();
        assert_eq!((host.subject, host.number(3)), (&Subject::Host, Some(4.0 * tick_ns().unwrap() as f64)));
        assert_eq!(host.number(RUNNABLE), None);
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes);
            let _ = parse(&[b"cpu 1 2 3 4\ncpu", &bytes[..]].concat());
            let _ = parse_loadavg(&bytes);
        }

        #[test]
        fn round_trip(times in proptest::collection::vec(any::<[u64; TIMES]>(), 2..9), counts in any::<[u64; 6]>()) {
            let join = |t: &[u64]| t.iter().map(u64::to_string).collect::<Vec<_>>().join(" ");
            let mut file = format!("cpu  {}\n", join(&times[0]));
            for (cpu, t) in times[1..].iter().enumerate() {
                file += &format!("cpu{} {}\n", cpu * 2, join(t));
            }
            for ((name, _), count) in SINGLES.iter().zip(counts) {
                file += &format!("{} {count} 1 2 3\n", String::from_utf8_lossy(name));
            }
            let stat = parse(file.as_bytes()).unwrap();
            prop_assert!((0..TIMES).all(|i| stat.host.get(i) == Some(times[0][i])));
            prop_assert_eq!(stat.cpus.len(), times.len() - 1);
            for (i, (cpu, t)) in stat.cpus.iter().enumerate() {
                prop_assert_eq!(*cpu as usize, i * 2);
                prop_assert!((0..TIMES).all(|k| t.get(k) == Some(times[i + 1][k])));
            }
            for ((_, field), count) in SINGLES.iter().zip(counts) {
                prop_assert_eq!(stat.counts.get(*field), Some(count));
            }
        }
    }
}
