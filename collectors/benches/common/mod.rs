//! What the benches of passes share: which files each collector reads, and the floor under it.

use std::fs::File;
use std::os::unix::fs::FileExt;

use whystall_collectors::{Built, Pass, Polled, Roots, Settings, by_name};
use whystall_event::Stamp;

/// The files below /proc that each collector reads in a pass.
const FILES: &[(&str, &[&str])] = &[
    ("vmstat", &["vmstat"]),
    ("meminfo", &["meminfo"]),
    ("zoneinfo", &["zoneinfo"]),
    ("buddyinfo", &["buddyinfo"]),
    ("pressure", &["pressure/cpu", "pressure/memory", "pressure/io", "pressure/irq"]),
    ("cpu", &["stat", "loadavg"]),
    ("softirqs", &["softirqs"]),
    ("softnet", &["net/softnet_stat"]),
    ("interrupts", &["interrupts"]),
];

/// A collector with its files opened once more for the bare reading.
pub(crate) struct Subject {
    pub(crate) name: &'static str,
    pub(crate) polled: Box<dyn Polled>,
    pub(crate) files: Vec<File>,
}

/// Every collector of [`FILES`] that works on this host.
pub(crate) fn subjects() -> Vec<Subject> {
    let roots = Roots::default();
    let subject = |(name, files): &(&'static str, &[&str])| {
        let Built::Polled(polled) = (by_name(name)?.build)(&roots, &Settings::new()).ok()? else {
            return None;
        };
        let files = files.iter().filter_map(|f| File::open(roots.proc(f)).ok()).collect();
        Some(Subject { name, polled, files })
    };
    FILES.iter().filter_map(subject).collect()
}

/// What no reader can avoid: `pread` of kept descriptors into a kept buffer, to the end.
pub(crate) fn bare(files: &[File], buf: &mut Vec<u8>) -> usize {
    let mut total = 0;
    for file in files {
        let mut len = 0;
        while let Ok(n @ 1..) = file.read_at(&mut buf[len..], len as u64) {
            len += n;
            if len == buf.len() {
                buf.resize(2 * len, 0);
            }
        }
        total += len;
    }
    total
}

/// An empty pass without a deadline.
pub(crate) fn pass() -> Pass {
    Pass::new(Stamp::default(), Stamp::default, u64::MAX)
}
