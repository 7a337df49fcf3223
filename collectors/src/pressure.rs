//! `/proc/pressure/{cpu,memory,io,irq}`: pressure stall information of the whole host.
//!
//! `some` counts the time in which at least one task waited for the resource, `full` that in which all non-idle tasks did
//! (`Documentation/accounting/psi.rst`). Totals are counters, so a `share` over any window comes out exact; the kernel's own
//! ten-second average is passed on beside them. CPU `full` has no meaning for the whole host: newer kernels report zero, but
//! from 5.13 on there were some that show a number (5.15 does). `irq` has only `full` and needs 6.1 with IRQ time accounting.
//! The parser serves cgroups' `*.pressure` files too.

use std::sync::Arc;

use whystall_event::{Field, Stream, Subject, SubjectKind, Unit};

use crate::read::{Buf, KeptFile, is_gone};
use crate::scan::{Malformed, columns, dec, fixed, lines};
use crate::values::index_of;
use crate::{Built, CollectError, Collector, Pass, Polled, Roots, Settings, Unavailable};

const fn time(name: &'static str, help: &'static str) -> Field {
    Field::counter(name, Unit::Time, help)
}

const fn ratio(name: &'static str, help: &'static str) -> Field {
    Field::gauge(name, Unit::Ratio, help)
}

const FIELDS: &[Field] = &[
    time("cpu_some", "time in which some task waited for a CPU, a quota's throttling included"),
    time(
        "cpu_full",
        "time in which all tasks waited for a CPU; without meaning for the whole host, and zero on newer kernels",
    ),
    time("memory_some", "time in which some task waited for memory: reclaim, compaction, refaults, swap"),
    time("memory_full", "time in which all non-idle tasks waited for memory"),
    time("io_some", "time in which some task waited for block IO"),
    time("io_full", "time in which all non-idle tasks waited for block IO"),
    time("irq_full", "time in which interrupts held up the tasks of a CPU (since 6.1)"),
    ratio("cpu_some_avg10", "the kernel's ten-second average of cpu_some"),
    ratio("cpu_full_avg10", "the kernel's ten-second average of cpu_full"),
    ratio("memory_some_avg10", "the kernel's ten-second average of memory_some"),
    ratio("memory_full_avg10", "the kernel's ten-second average of memory_full"),
    ratio("io_some_avg10", "the kernel's ten-second average of io_some"),
    ratio("io_full_avg10", "the kernel's ten-second average of io_full"),
    ratio("irq_full_avg10", "the kernel's ten-second average of irq_full"),
];

/// A file with the fields of its lines: total and average of `some`, then of `full`.
struct Resource {
    name: &'static str,
    some: Option<(usize, usize)>,
    full: (usize, usize),
}

const RESOURCES: [Resource; 4] = [
    Resource {
        name: "cpu",
        some: Some((index_of(FIELDS, "cpu_some"), index_of(FIELDS, "cpu_some_avg10"))),
        full: (index_of(FIELDS, "cpu_full"), index_of(FIELDS, "cpu_full_avg10")),
    },
    Resource {
        name: "memory",
        some: Some((index_of(FIELDS, "memory_some"), index_of(FIELDS, "memory_some_avg10"))),
        full: (index_of(FIELDS, "memory_full"), index_of(FIELDS, "memory_full_avg10")),
    },
    Resource {
        name: "io",
        some: Some((index_of(FIELDS, "io_some"), index_of(FIELDS, "io_some_avg10"))),
        full: (index_of(FIELDS, "io_full"), index_of(FIELDS, "io_full_avg10")),
    },
    Resource {
        name: "irq",
        some: None,
        full: (index_of(FIELDS, "irq_full"), index_of(FIELDS, "irq_full_avg10")),
    },
];

const STREAM: Stream = Stream::sampled(
    "pressure",
    "time lost waiting for CPU, memory, IO and interrupts on the host",
    &[SubjectKind::Host],
    FIELDS,
);

/// Reads `/proc/pressure`.
pub static COLLECTOR: Collector = Collector {
    name: "pressure",
    help: "reads /proc/pressure for the time that the host's tasks lose waiting for CPU, memory and IO",
    streams: &[STREAM],
    interval: None,
    settings: &[],
    build,
};

/// Opens the files that exist. Each is read once, since kernels before 5.18 have them with PSI off and refuse the read.
fn build(roots: &Roots, _: &Settings) -> Result<Built, Unavailable> {
    let mut files = Vec::new();
    let mut buf = Buf::new();
    let mut failed = None;
    for resource in RESOURCES {
        let mut file = KeptFile::lazy(roots.proc("pressure").join(resource.name));
        match file.read(&mut buf) {
            Ok(_) => files.push((resource, file)),
            // Most kernels have no irq file.
            Err(e) => failed = failed.or(Some(e)),
        }
    }
    match failed {
        Some(e) if files.is_empty() => Err(no_psi(&e)),
        _ => Ok(Built::Polled(Box::new(Pressure { files, buf, stream: Arc::new(STREAM) }))),
    }
}

fn no_psi(e: &CollectError) -> Unavailable {
    let off = match e {
        CollectError::Read { source, .. } => source.raw_os_error() == Some(libc::EOPNOTSUPP) || is_gone(e),
        _ => false,
    };
    let why = Unavailable::because(format!("no pressure stall information: {e}"));
    if off { why.remedy("boot with psi=1, on a kernel since 4.20 built with CONFIG_PSI") } else { why }
}

struct Pressure {
    files: Vec<(Resource, KeptFile)>,
    buf: Buf,
    stream: Arc<Stream>,
}

impl Polled for Pressure {
    fn collect(&mut self, pass: &mut Pass) -> Result<(), CollectError> {
        let mut batch = pass.batch(&self.stream);
        let mut row = batch.row(Subject::Host);
        let (mut failed, mut read) = (None, 0);
        for (resource, file) in &mut self.files {
            match file.parse(&mut self.buf, parse_pressure) {
                Ok(stalls) => {
                    read += 1;
                    let lines = [resource.some.zip(stalls.some), Some(resource.full).zip(stalls.full)];
                    for ((total, avg10), stall) in lines.into_iter().flatten() {
                        row.int(total, stall.total_ns).gauge(avg10, stall.avg10);
                    }
                }
                // The other resources are worth having all the same.
                Err(e) => failed = failed.or(Some(e)),
            }
        }
        if read > 0 {
            pass.batches.push(batch);
        }
        failed.map_or(Ok(()), Err)
    }
}

/// A pressure file: which lines it has depends on the kernel and the resource.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Stalls {
    /// At least one task waited.
    pub some: Option<Stall>,
    /// All non-idle tasks waited.
    pub full: Option<Stall>,
}

/// One line of a pressure file.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Stall {
    /// The kernel's average over ten seconds, 0 to 1.
    pub avg10: f64,
    /// The time lost since boot, in nanoseconds (the kernel's microseconds times 1000).
    pub total_ns: u64,
}

/// Parses `some avg10=0.00 avg60=0.00 avg300=0.00 total=0` and its `full` line.
///
/// Lines that begin otherwise and keys beside `avg10` and `total` are skipped. Wrong is: a line without those two, a value
/// that is no number, a repeated line, and a file with neither line.
pub fn parse_pressure(bytes: &[u8]) -> Result<Stalls, Malformed> {
    let mut stalls = Stalls::default();
    for line in lines(bytes) {
        let (number, line) = line?;
        let mut keys = columns(line);
        let place = match keys.next() {
            Some(b"some") => &mut stalls.some,
            Some(b"full") => &mut stalls.full,
            _ => continue,
        };
        if place.is_some() {
            return Err(Malformed::expected(number, "each line once", line));
        }
        let (mut avg10, mut total_ns) = (None, None);
        for pair in keys {
            if let Some(value) = pair.strip_prefix(b"avg10=") {
                let percent =
                    fixed(value).ok_or_else(|| Malformed::expected(number, "avg10 in percent", value))?;
                avg10 = Some(percent / 100.0);
            } else if let Some(value) = pair.strip_prefix(b"total=") {
                let ns = dec(value).and_then(|us| us.checked_mul(1000));
                total_ns =
                    Some(ns.ok_or_else(|| Malformed::expected(number, "a total of microseconds", value))?);
            }
        }
        let (Some(avg10), Some(total_ns)) = (avg10, total_ns) else {
            return Err(Malformed::expected(number, "avg10= and total=", line));
        };
        *place = Some(Stall { avg10, total_ns });
    }
    if stalls == Stalls::default() {
        return Err(Malformed::new(1, "neither a some nor a full line"));
    }
    Ok(stalls)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use whystall_event::Stamp;

    #[test]
    fn both_lines_and_either() {
        let both = parse_pressure(
            b"some avg10=12.50 avg60=0.81 avg300=0.38 total=5281066\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n",
        );
        let some = Stall { avg10: 0.125, total_ns: 5_281_066_000 };
        let full = Stall { avg10: 0.0, total_ns: 7_000 };
        assert_eq!(both, Ok(Stalls { some: Some(some), full: Some(full) }));
        let one = parse_pressure(b"full total=7 avg10=0.00 new=x\nother 1\n");
        assert_eq!(one, Ok(Stalls { some: None, full: Some(full) }));
    }

    #[test]
    fn surprises_are_errors_with_their_line() {
        let check = |input: &[u8], expected: &str| {
            let e = parse_pressure(input).unwrap_err().at("/p/cpu".as_ref()).to_string();
            assert!(e.starts_with("/p/cpu: line ") && e.contains(expected), "{e}");
        };
        check(b"", "neither");
        check(b"some avg10=0.00 avg60=0.00 avg300=0.00 total=12", "line 1: cut short");
        check(b"some avg10=0.00\n", "expected avg10= and total=");
        check(b"some avg10=-1.00 total=1\n", "found `-1.00`");
        check(b"some avg10=1.00 total=18446744073709551615\n", "found `18446744073709551615`");
        check(b"some avg10=1 total=1\nsome avg10=1 total=1\n", "line 2: expected each line once");
        check(b"some avg10=nan total=1\n", "found `nan`");
    }

    #[test]
    fn psi_off_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let e = build(&Roots::under(dir.path()), &Settings::new()).unwrap_err();
        assert!(e.to_string().contains("psi=1") && e.why.contains("pressure/cpu"), "{e}");
        let refused = CollectError::read("/p", std::io::Error::from_raw_os_error(libc::EOPNOTSUPP));
        assert!(no_psi(&refused).remedy.is_some());
        let denied = CollectError::read("/p", std::io::Error::from_raw_os_error(libc::EACCES));
        assert!(no_psi(&denied).remedy.is_none());
    }

    #[test]
    fn one_bad_file_does_not_hide_the_others() {
        let dir = tempfile::tempdir().unwrap();
        let pressure = dir.path().join("proc/pressure");
        std::fs::create_dir_all(&pressure).unwrap();
        std::fs::write(pressure.join("cpu"), "some avg10=0.00 total=1\n").unwrap();
        std::fs::write(pressure.join("memory"), "garbage").unwrap();
        let Ok(Built::Polled(mut c)) = build(&Roots::under(dir.path()), &Settings::new()) else { panic!() };
        let mut pass = Pass::new(Stamp::default(), Stamp::default, 0);
        let e = c.collect(&mut pass).unwrap_err().to_string();
        assert!(e.contains("pressure/memory: line 1"), "{e}");
        let row = pass.batches[0].rows().next().unwrap();
        assert_eq!(row.number(0), Some(1000.0));
        assert_eq!((row.number(1), row.number(2)), (None, None));
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_pressure(&bytes);
            let _ = parse_pressure(&[b"some avg10=", &bytes[..], b" total=1\n"].concat());
        }

        #[test]
        fn round_trip(percent in 0u32..=10_000, us in 0..u64::MAX / 1000) {
            let line = format!("some avg10={}.{:02} avg60=0.00 avg300=0.00 total={us}\n", percent / 100, percent % 100);
            let some = parse_pressure(line.as_bytes()).unwrap().some.unwrap();
            prop_assert_eq!(some.total_ns, us * 1000);
            prop_assert!((some.avg10 - f64::from(percent) / 10_000.0).abs() < 1e-12);
        }
    }
}
