//! `/proc/softirqs`: how often each CPU has run each softirq vector.
//!
//! The counts are 32-bit in the kernel and wrap; a wrap looks like a reset and costs one interval. Columns are the *possible*
//! CPUs: one that has never run a softirq has never been online and gets no row. Source: `fs/proc/softirqs.c`.

use std::sync::Arc;

use whystall_event::{Field, Stream, Subject, SubjectKind, Unit};

use crate::read::{Buf, KeptFile, unavailable};
use crate::scan::{Malformed, columns, dec, dec32, lines};
use crate::values::Values;
use crate::{Built, CollectError, Collector, Pass, Polled, Roots, Settings, Unavailable};

const fn count(name: &'static str, help: &'static str) -> Field {
    Field::counter(name, Unit::Count, help)
}

const FIELDS: &[Field] = &[
    count("hi", "high-priority tasklets (HI)"),
    count("timer", "timer wheel runs (TIMER)"),
    count("net_tx", "runs that finish sent packets (NET_TX)"),
    count("net_rx", "runs that poll network devices for received packets (NET_RX)"),
    count("block", "runs that complete block requests (BLOCK)"),
    count("irq_poll", "runs that poll storage adapters (IRQ_POLL)"),
    count("tasklet", "tasklets (TASKLET)"),
    count("sched", "load-balancing runs (SCHED)"),
    count("hrtimer", "runs of soft high-resolution timers (HRTIMER)"),
    count("rcu", "RCU callback runs (RCU)"),
];

/// The kernel's labels in the order of [`FIELDS`].
const LABELS: [&[u8]; N] =
    [b"HI", b"TIMER", b"NET_TX", b"NET_RX", b"BLOCK", b"IRQ_POLL", b"TASKLET", b"SCHED", b"HRTIMER", b"RCU"];

const N: usize = 10;

const STREAM: Stream =
    Stream::sampled("softirqs", "softirqs that each CPU has run, by vector", &[SubjectKind::Cpu], FIELDS);

/// Reads `/proc/softirqs`.
pub static COLLECTOR: Collector = Collector {
    name: "softirqs",
    help: "reads /proc/softirqs for the softirqs that each CPU has run",
    streams: &[STREAM],
    interval: None,
    settings: &[],
    build,
};

fn build(roots: &Roots, _: &Settings) -> Result<Built, Unavailable> {
    let file = KeptFile::open(roots.proc("softirqs")).map_err(unavailable)?;
    let state = Softirqs { file, buf: Buf::new(), cpus: Vec::new(), stream: Arc::new(STREAM) };
    Ok(Built::Polled(Box::new(state)))
}

struct Softirqs {
    file: KeptFile,
    buf: Buf,
    cpus: Vec<CpuSoftirqs>,
    stream: Arc<Stream>,
}

impl Polled for Softirqs {
    fn collect(&mut self, pass: &mut Pass) -> Result<(), CollectError> {
        let cpus = &mut self.cpus;
        self.file.parse(&mut self.buf, |bytes| parse_softirqs(bytes, cpus))?;
        let mut batch = pass.batch(&self.stream);
        batch.reserve(cpus.len());
        for cpu in cpus.iter().filter(|c| c.ran()) {
            cpu.counts.fill(&mut batch.row(Subject::Cpu(cpu.cpu)), FIELDS);
        }
        pass.batches.push(batch);
        Ok(())
    }
}

/// One column: a CPU's counts in the stream's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuSoftirqs {
    /// The CPU's number.
    pub cpu: u32,
    /// How often each vector has run.
    pub counts: Values<N>,
}

impl CpuSoftirqs {
    /// Whether any vector has ever run.
    fn ran(&self) -> bool {
        (0..N).any(|i| self.counts.get(i).is_some_and(|n| n > 0))
    }
}

/// Parses `/proc/softirqs` into `cpus`, whose content it replaces; in header order, possible CPUs that are offline included.
///
/// Vectors that are no field are skipped. Wrong is: a header that is not ascending `CPUn`, a vector without exactly a number
/// for each CPU, a vector that occurs twice, and a file without any vector.
pub fn parse_softirqs(bytes: &[u8], cpus: &mut Vec<CpuSoftirqs>) -> Result<(), Malformed> {
    cpus.clear();
    let mut lines = lines(bytes);
    let (_, header) = lines.next().unwrap_or_else(|| Err(Malformed::new(1, "empty")))?;
    cpu_header(header, |cpu| cpus.push(CpuSoftirqs { cpu, counts: Values::default() }))?;
    let mut known = 0;
    for line in lines {
        let (number, line) = line?;
        let mut values = columns(line);
        let label = values.next().and_then(|l| l.strip_suffix(b":"));
        let Some(label) = label else {
            return Err(Malformed::expected(number, "a vector and a colon", line));
        };
        let Some(i) = LABELS.iter().position(|l| *l == label) else {
            continue;
        };
        known += 1;
        for cpu in cpus.iter_mut() {
            let Some(column) = values.next() else {
                return Err(Malformed::ends(number, "a count for each CPU"));
            };
            let count = dec(column).ok_or_else(|| Malformed::expected(number, "a count", column))?;
            if !cpu.counts.set(i, count) {
                return Err(Malformed::expected(number, "each vector once", label));
            }
        }
        if let Some(more) = values.next() {
            return Err(Malformed::expected(number, "no more counts than CPUs", more));
        }
    }
    if known == 0 {
        return Err(Malformed::new(1, "no known vector in the whole file"));
    }
    Ok(())
}

/// The CPU numbers of a header such as `CPU0  CPU1`, which must ascend; at least one.
pub(crate) fn cpu_header(header: &[u8], mut each: impl FnMut(u32)) -> Result<(), Malformed> {
    let mut last = None;
    for column in columns(header) {
        let cpu = column
            .strip_prefix(b"CPU")
            .and_then(dec32)
            .filter(|cpu| last.is_none_or(|last| *cpu > last))
            .ok_or_else(|| Malformed::expected(1, "CPU0 CPU1 ... ascending", column))?;
        last = Some(cpu);
        each(cpu);
    }
    if last.is_none() { Err(Malformed::expected(1, "CPU0 CPU1 ... ascending", header)) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn labels_and_fields_correspond() {
        for (field, label) in FIELDS.iter().zip(LABELS) {
            assert_eq!(field.name.to_ascii_uppercase().as_bytes(), label);
        }
        assert_eq!(FIELDS.len(), N);
    }

    #[test]
    fn offline_cpus_are_columns_too() {
        let mut cpus = Vec::new();
        parse_softirqs(b"     CPU0   CPU4\n  HI:  1  0\n NEW:  x\n RCU: 4294967295 0\n", &mut cpus).unwrap();
        assert_eq!(cpus.iter().map(|c| (c.cpu, c.ran())).collect::<Vec<_>>(), [(0, true), (4, false)]);
        assert_eq!((cpus[0].counts.get(9), cpus[0].counts.get(1)), (Some(4_294_967_295), None));
    }

    #[test]
    fn surprises_are_errors_with_their_line() {
        let check = |input: &[u8], expected: &str| {
            let e = parse_softirqs(input, &mut Vec::new()).unwrap_err().at("/p".as_ref()).to_string();
            assert!(e.contains(expected), "{e}");
        };
        check(b"", "line 1: empty");
        check(b"\n", "line 1: expected CPU0");
        check(b"CPU1 CPU0\n", "found `CPU0`");
        check(b"CPU0 CPU99999999999\n", "found `CPU99999999999`");
        check(b"CPU0\n", "no known vector");
        check(b"CPU0 CPU1\nHI: 1\n", "line 2: expected a count for each CPU");
        check(b"CPU0\nHI: 1 2\n", "line 2: expected no more counts than CPUs, found `2`");
        check(b"CPU0\nHI 1\n", "line 2: expected a vector and a colon");
        check(b"CPU0\nHI: -1\n", "found `-1`");
        check(b"CPU0\nHI: 1\nHI: 1\n", "line 3: expected each vector once");
        check(b"CPU0\nHI: 1", "line 2: cut short");
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse_softirqs(&bytes, &mut Vec::new());
            let _ = parse_softirqs(&[b"CPU0 CPU3\nHI:", &bytes[..]].concat(), &mut Vec::new());
        }

        #[test]
        fn round_trip(counts in proptest::collection::vec(any::<[u64; N]>(), 1..9)) {
            let mut file: String = (0..counts.len()).map(|c| format!("{:>11}", format!("CPU{}", c * 3))).collect();
            for (i, label) in LABELS.iter().enumerate() {
                file += &format!("\n{:>12}:", String::from_utf8_lossy(label));
                counts.iter().for_each(|c| file += &format!(" {:>10}", c[i]));
            }
            file.push('\n');
            let mut cpus = Vec::new();
            parse_softirqs(file.as_bytes(), &mut cpus).unwrap();
            prop_assert_eq!(cpus.len(), counts.len());
            for (c, (cpu, expected)) in cpus.iter().zip(&counts).enumerate() {
                prop_assert_eq!(cpu.cpu as usize, c * 3);
                prop_assert!((0..N).all(|i| cpu.counts.get(i) == Some(expected[i])));
            }
        }
    }
}
