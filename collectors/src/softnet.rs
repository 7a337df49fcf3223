//! `/proc/net/softnet_stat`: each CPU's network receive path.
//!
//! One line an *online* CPU, hexadecimal columns without a header (`net/core/net-procfs.c`): 1 processed, 2 dropped,
//! 3 time_squeeze, 9 cpu_collision, 10 received_rps, 11 flow_limit, and since 5.10 12 backlog length and 13 the CPU's number,
//! since 6.6 the input and process queues' lengths. Without column 13 the lines are matched to the list of online CPUs.
//! The counts are 32-bit in the kernel and wrap; a wrap looks like a reset and costs one interval.

use std::sync::Arc;

use whystall_event::{Field, Stream, Subject, SubjectKind, Unit};

use crate::read::{Buf, KeptFile, unavailable};
use crate::scan::{Malformed, columns, hex, lines, list};
use crate::values::{Values, index_of};
use crate::{Built, CollectError, Collector, Pass, Polled, Roots, Settings, Unavailable};

const fn count(name: &'static str, help: &'static str) -> Field {
    Field::counter(name, Unit::Count, help)
}

const FIELDS: &[Field] = &[
    count("processed", "packets that this CPU took in"),
    count("dropped", "packets dropped because this CPU's backlog was full (net.core.netdev_max_backlog)"),
    count(
        "time_squeeze",
        "receive runs that ended with work left, out of budget or time; no fault by itself",
    ),
    count("received_rps", "times another CPU asked this one to take packets (RPS)"),
    count("flow_limit", "packets dropped because one flow filled the backlog"),
    Field::gauge("backlog_len", Unit::Count, "packets waiting in this CPU's backlog (since 5.10)"),
    Field::gauge(
        "input_queue_len",
        Unit::Count,
        "of them, not yet taken over by the receive run (since 6.6)",
    ),
    Field::gauge("process_queue_len", Unit::Count, "of them, taken over and not yet processed (since 6.6)"),
];

const N: usize = FIELDS.len();

/// The column, counted from 0, of each field.
const COLUMNS: [(usize, usize); N] = [
    (0, index_of(FIELDS, "processed")),
    (1, index_of(FIELDS, "dropped")),
    (2, index_of(FIELDS, "time_squeeze")),
    (9, index_of(FIELDS, "received_rps")),
    (10, index_of(FIELDS, "flow_limit")),
    (11, index_of(FIELDS, "backlog_len")),
    (13, index_of(FIELDS, "input_queue_len")),
    (14, index_of(FIELDS, "process_queue_len")),
];

/// The column, counted from 0, of the CPU's number.
const CPU_COLUMN: usize = 12;

/// Every kernel since 2.6.11 has at least these columns.
const FEWEST: usize = 9;

const STREAM: Stream =
    Stream::sampled("softnet", "the network receive path of each CPU", &[SubjectKind::Cpu], FIELDS);

/// Reads `/proc/net/softnet_stat`.
pub static COLLECTOR: Collector = Collector {
    name: "softnet",
    help: "reads /proc/net/softnet_stat for packets that each CPU took in, dropped or has waiting",
    streams: &[STREAM],
    interval: None,
    settings: &[],
    build,
};

fn build(roots: &Roots, _: &Settings) -> Result<Built, Unavailable> {
    let file = KeptFile::open(roots.proc("net/softnet_stat")).map_err(unavailable)?;
    let online = KeptFile::lazy(roots.sys("devices/system/cpu/online"));
    let state = Softnet { file, online, buf: Buf::new(), lines: Vec::new(), stream: Arc::new(STREAM) };
    Ok(Built::Polled(Box::new(state)))
}

struct Softnet {
    file: KeptFile,
    /// The list of online CPUs, read only where the lines do not name theirs.
    online: KeptFile,
    buf: Buf,
    lines: Vec<SoftnetLine>,
    stream: Arc<Stream>,
}

impl Polled for Softnet {
    fn collect(&mut self, pass: &mut Pass) -> Result<(), CollectError> {
        let lines = &mut self.lines;
        self.file.parse(&mut self.buf, |bytes| parse_softnet(bytes, lines))?;
        if lines.iter().any(|l| l.cpu.is_none()) {
            let online = self.online.parse(&mut self.buf, parse_online)?;
            if online.len() != lines.len() {
                // A CPU came or went between the two reads, or the list is not that of this kernel.
                let what = format!("{} lines for {} online CPUs", lines.len(), online.len());
                return Err(CollectError::parse(self.file.path(), what));
            }
            lines.iter_mut().zip(online).for_each(|(line, cpu)| line.cpu = Some(cpu));
        }
        let mut batch = pass.batch(&self.stream);
        batch.reserve(lines.len());
        for line in lines.iter() {
            if let Some(cpu) = line.cpu {
                line.values.fill(&mut batch.row(Subject::Cpu(cpu)), FIELDS);
            }
        }
        pass.batches.push(batch);
        Ok(())
    }
}

/// One line of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SoftnetLine {
    /// The CPU, where the kernel says it (since 5.10).
    pub cpu: Option<u32>,
    /// Its values in the stream's order; later columns that the kernel lacks are absent.
    pub values: Values<N>,
}

/// Parses `/proc/net/softnet_stat` into `out`, whose content it replaces.
///
/// Further columns are skipped. Wrong is: fewer than nine columns, a column that is no hexadecimal number, CPU numbers that
/// do not ascend, and an empty file.
pub fn parse_softnet(bytes: &[u8], out: &mut Vec<SoftnetLine>) -> Result<(), Malformed> {
    out.clear();
    for line in lines(bytes) {
        let (number, line) = line?;
        let mut found = SoftnetLine { cpu: None, values: Values::default() };
        let mut wanted = COLUMNS.iter().peekable();
        let mut columns_read = 0;
        for (i, column) in columns(line).enumerate().take(COLUMNS[N - 1].0 + 1) {
            columns_read = i + 1;
            let value =
                hex(column).ok_or_else(|| Malformed::expected(number, "a hexadecimal number", column))?;
            if i == CPU_COLUMN {
                let cpu = u32::try_from(value).ok();
                let last = out.last().and_then(|l| l.cpu);
                let cpu = cpu.filter(|cpu| last.is_none_or(|last| *cpu > last));
                found.cpu =
                    Some(cpu.ok_or_else(|| Malformed::expected(number, "ascending CPU numbers", column))?);
            } else if let Some((_, field)) = wanted.next_if(|(at, _)| *at == i) {
                found.values.set(*field, value);
            }
        }
        if columns_read < FEWEST {
            return Err(Malformed::expected(number, "at least nine columns", line));
        }
        if out.last().is_some_and(|l| l.cpu.is_some() != found.cpu.is_some()) {
            return Err(Malformed::expected(number, "as many columns as before", line));
        }
        out.push(found);
    }
    if out.is_empty() { Err(Malformed::new(1, "empty")) } else { Ok(()) }
}

/// Parses the list of online CPUs.
pub fn parse_online(bytes: &[u8]) -> Result<Vec<u32>, Malformed> {
    list(bytes).ok_or_else(|| Malformed::expected(1, "a list of CPUs such as 0-3,8", bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use whystall_event::Stamp;

    const OLD: &str = "000000ff 00000001 00000002 00000000 00000000 00000000 00000000 00000000 00000000 00000003 00000004\n";

    fn parse(bytes: &[u8]) -> Result<Vec<SoftnetLine>, Malformed> {
        let mut out = Vec::new();
        parse_softnet(bytes, &mut out).map(|()| out)
    }

    #[test]
    fn columns_of_each_generation() {
        let old = parse(OLD.as_bytes()).unwrap()[0];
        let values: Vec<_> = (0..N).map(|i| old.values.get(i)).collect();
        assert_eq!(values, [Some(255), Some(1), Some(2), Some(3), Some(4), None, None, None]);
        assert_eq!(old.cpu, None);
        let new = format!("{} 00000007 0000000a 00000005 00000002 0000beef\n", OLD.trim_end());
        let new = parse(new.as_bytes()).unwrap()[0];
        assert_eq!((new.cpu, new.values.get(5), new.values.get(7)), (Some(10), Some(7), Some(2)));
    }

    #[test]
    fn lines_without_numbers_are_matched_to_online_cpus() {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("proc/net/softnet_stat", &OLD.repeat(2));
        write("sys/devices/system/cpu/online", "0,3\n");
        let Ok(Built::Polled(mut c)) = build(&Roots::under(dir.path()), &Settings::new()) else { panic!() };
        let mut pass = Pass::new(Stamp::default(), Stamp::default, 0);
        c.collect(&mut pass).unwrap();
        let subjects: Vec<_> = pass.batches[0].rows().map(|r| r.subject.clone()).collect();
        assert_eq!(subjects, [Subject::Cpu(0), Subject::Cpu(3)]);
        write("sys/devices/system/cpu/online", "0-3\n");
        let e = c.collect(&mut pass).unwrap_err().to_string();
        assert!(e.ends_with("softnet_stat: 2 lines for 4 online CPUs"), "{e}");
    }

    #[test]
    fn surprises_are_errors_with_their_line() {
        let check = |input: &[u8], expected: &str| {
            let e = parse(input).unwrap_err().at("/p".as_ref()).to_string();
            assert!(e.contains(expected), "{e}");
        };
        check(b"", "empty");
        check(b"1 2 3\n", "at least nine columns");
        check(b"0 0 0 0 0 0 0 0 0x\n", "found `0x`");
        check(b"0 0 0 0 0 0 0 0 10000000000000000\n", "found `10000000000000000`");
        check(b"0 0 0 0 0 0 0 0 0 0 0 0 1\n0 0 0 0 0 0 0 0 0 0 0 0 1\n", "line 2: expected ascending");
        check(b"0 0 0 0 0 0 0 0 0 0 0 0 1\n0 0 0 0 0 0 0 0 0 0 0\n", "line 2: expected as many columns");
        check(b"0 0 0 0 0 0 0 0 0", "cut short");
        assert!(parse_online(b"0-").is_err());
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300), digits in "[0-9a-f \n]{0,300}") {
            let _ = parse(&bytes);
            let _ = parse(digits.as_bytes());
            let _ = parse_online(&bytes);
        }

        #[test]
        fn round_trip(rows in proptest::collection::vec(any::<[u32; 15]>(), 1..6)) {
            let mut file = String::new();
            for (cpu, row) in rows.iter().enumerate() {
                let columns = row.iter().enumerate().map(|(i, v)| if i == CPU_COLUMN { cpu as u32 * 2 } else { *v });
                file += &columns.map(|v| format!("{v:08x}")).collect::<Vec<_>>().join(" ");
                file.push('\n');
            }
            let parsed = parse(file.as_bytes()).unwrap();
            prop_assert_eq!(parsed.len(), rows.len());
            for (cpu, (line, row)) in parsed.iter().zip(&rows).enumerate() {
                prop_assert_eq!(line.cpu, Some(cpu as u32 * 2));
                for (column, field) in COLUMNS {
                    prop_assert_eq!(line.values.get(field), Some(u64::from(row[column])));
                }
            }
        }
    }
}
