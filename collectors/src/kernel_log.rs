//! What the kernel says in its log: lockups, hung tasks, OOM kills, stalls, I/O and network timeouts.
//!
//! Streaming, from /dev/kmsg (Documentation/ABI/testing/dev-kmsg): goes on by sequence number, survives being overrun
//! (the count of what was overwritten is told) and takes records of the kernel alone, for user space may write to the
//! log as well. Each record is a row about the host; one that names a CPU, a task or a cgroup is a row about each of
//! those too. Never writes to the log and never changes what it shows.

mod classify;
mod oom;
mod record;

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use whystall_event::{Batch, Field, SEC, Stamp, Stream, Subject, SubjectKind, Unit, text};

use crate::runner::clock;
use crate::{Built, CollectError, Collector, Roots, Settings, Sink, Stop, Streaming, Unavailable};
use classify::{Found, Kind};
use oom::OomJoin;

/// The collector.
pub static COLLECTOR: Collector = Collector {
    name: "kernel_log",
    help: "reads the kernel's log for lockups, hung tasks, OOM kills, stalls and timeouts",
    streams: &[STREAM],
    interval: None,
    settings: &["from"],
    build,
};

/// Stream `kernel_log`.
pub const STREAM: Stream = {
    const FIELDS: &[Field] = &[
        Field::text("message", "the text, at most 500 characters"),
        Field::text("kind", "what it tells, such as soft_lockup, hung_task, oom_memcg; other for all else"),
        Field::text("comm", "the task's name, where it names one"),
        Field::text("task", "the task's pid, as text for filters"),
        Field::text("cgroup", "the cgroup of the task, in reports of OOM kills"),
        Field::text("limit_cgroup", "the cgroup whose memory limit was hit, in reports of OOM kills"),
        Field::text("cpu", "the CPU's number, where it names one"),
        Field::text("device", "the device that the kernel attached to the record"),
        Field::gauge("pid", Unit::None, "the task's pid"),
        Field::gauge("level", Unit::None, "0 emergency to 7 debug"),
        Field::duration("stuck", "how long what it reports had lasted"),
    ];
    Stream::occurrences(
        "kernel_log",
        "records of the kernel's log, from /dev/kmsg",
        &[SubjectKind::Host, SubjectKind::Cpu, SubjectKind::Task, SubjectKind::Cgroup],
        FIELDS,
    )
};

const MESSAGE: usize = 0;
const KIND: usize = 1;
const COMM: usize = 2;
const TASK: usize = 3;
const CGROUP: usize = 4;
const LIMIT_CGROUP: usize = 5;
const CPU: usize = 6;
const DEVICE: usize = 7;
const PID: usize = 8;
const LEVEL: usize = 9;
const STUCK: usize = 10;

/// Characters of a message, and of a name in it, that are kept.
const LONGEST_MESSAGE: usize = 500;
const LONGEST_NAME: usize = 300;
/// Records of kind `other` a second; stack traces and chatty drivers are beyond.
const MOST_OTHER: u32 = 200;
/// Records in one batch.
const MOST_RECORDS: usize = 1000;
/// A record with its prefix and continuation lines is shorter than this (the kernel's own buffer is 8 KiB).
const BUFFER: usize = 16 << 10;

fn build(roots: &Roots, settings: &Settings) -> Result<Built, Unavailable> {
    let from_boot = match settings.get("from") {
        None => false,
        Some(v) => match v.as_str() {
            Some("now") => false,
            Some("boot") => true,
            _ => return Err(Unavailable::settings("`from` must be \"now\" or \"boot\"")),
        },
    };
    if let Some(key) = settings.keys().find(|k| *k != "from") {
        let key = text::escape(key);
        return Err(Unavailable::settings(format!("kernel_log has no setting `{key}`; it has `from`")));
    }
    let path = roots.dev.join("kmsg");
    let file = open(&path)?;
    Ok(Built::Streaming(Box::new(KernelLog { path, file: Some(file), reader: Reader::new(from_boot) })))
}

fn open(path: &Path) -> Result<File, Unavailable> {
    let shown = path.display();
    let file =
        OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(|e| {
            match e.kind() {
                io::ErrorKind::PermissionDenied => {
                    Unavailable::because(format!("no permission to read {shown}"))
                        .remedy("give whystall CAP_SYSLOG, or set kernel.dmesg_restrict=0")
                }
                io::ErrorKind::NotFound => Unavailable::because(format!("there is no {shown}"))
                    .remedy("in a container, mount the host's /dev/kmsg"),
                _ => Unavailable::because(format!("{shown}: {e}")),
            }
        })?;
    match file.metadata() {
        Ok(m) if m.file_type().is_char_device() => Ok(file),
        Ok(_) => Err(Unavailable::because(format!("{shown} is no device"))),
        Err(e) => Err(Unavailable::because(format!("{shown}: {e}"))),
    }
}

struct KernelLog {
    path: PathBuf,
    file: Option<File>,
    reader: Reader,
}

impl Streaming for KernelLog {
    fn run(&mut self, sink: &dyn Sink, stop: &Stop) -> Result<(), CollectError> {
        let mut file = match self.file.take() {
            Some(file) => file,
            None => open(&self.path).map_err(|e| CollectError::Other(e.to_string()))?,
        };
        let failed = |e| CollectError::read(&self.path, e);
        // Later runs take up at the sequence number where the one before ended.
        let start = if self.reader.starts_over() { SeekFrom::Start(0) } else { SeekFrom::End(0) };
        file.seek(start).map_err(failed)?;
        let stream = Arc::new(STREAM);
        while !stop.is_set() {
            let mut batch = Batch::new(stream.clone(), sink.now());
            let all = self.reader.fill(&mut file, &mut batch, sink).map_err(failed)?;
            sink.send(batch);
            if all {
                // At most until the next full second of CLOCK_BOOTTIME: when others wake as well.
                let longest = Duration::from_nanos(SEC - sink.now().boot_ns % SEC);
                stop.poll([file.as_raw_fd()], longest).map_err(failed)?;
            }
        }
        Ok(())
    }
}

/// Reads records into batches; independent of where they come from.
struct Reader {
    from_boot: bool,
    /// The sequence number of the last record.
    last: Option<u64>,
    /// When there was nothing left to read: what comes later happened later.
    empty_at: u64,
    oom: OomJoin,
    /// Records of kind `other` taken in the present second, and that second.
    others: (u64, u32),
    buffer: Vec<u8>,
}

impl Reader {
    fn new(from_boot: bool) -> Reader {
        let others = (0, 0);
        Reader {
            from_boot,
            last: None,
            empty_at: 0,
            oom: OomJoin::default(),
            others,
            buffer: vec![0; BUFFER],
        }
    }

    fn starts_over(&self) -> bool {
        self.from_boot || self.last.is_some()
    }

    /// Reads what there is into `batch`; false if there may be more.
    fn fill(&mut self, from: &mut impl Read, batch: &mut Batch, sink: &dyn Sink) -> io::Result<bool> {
        let offset = clock::boot_minus_monotonic();
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut result = Ok(false);
        for _ in 0..MOST_RECORDS {
            match from.read(&mut buffer) {
                // A regular file or a closed log.
                Ok(0) => {
                    result = Err(io::ErrorKind::UnexpectedEof.into());
                    break;
                }
                Ok(n) => self.record(buffer.get(..n).unwrap_or_default(), offset, batch, sink),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    batch.at = sink.now();
                    self.empty_at = batch.at.boot_ns;
                    result = Ok(true);
                    break;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // Overrun: the next read goes on with the oldest record there is, and its number tells the gap.
                Err(e) if e.raw_os_error() == Some(libc::EPIPE) => {}
                Err(e) => {
                    result = Err(e);
                    break;
                }
            }
        }
        self.buffer = buffer;
        result
    }

    fn record(&mut self, bytes: &[u8], offset_ns: u64, batch: &mut Batch, sink: &dyn Sink) {
        let record = match record::parse(bytes) {
            Ok(r) => r,
            Err(what) => {
                let start = bytes.get(..bytes.len().min(60)).unwrap_or_default();
                sink.problem(&format!("a record of the kernel log has {what}: {}", text::from_bytes(start)));
                return;
            }
        };
        if let Some(last) = self.last {
            if record.seq <= last {
                return;
            }
            let lost = record.seq - last - 1;
            if lost > 0 {
                batch.covered_to = false;
                sink.problem(&format!(
                    "lost {lost} records of the kernel log, overwritten before they were read"
                ));
            }
        }
        self.last = Some(record.seq);
        if record.facility != 0 {
            return;
        }
        let now = sink.now();
        let found = classify::classify(&record.text);
        if matches!(found.kind, Kind::Other | Kind::OomDetail) && !self.room_for_other(now.boot_ns) {
            batch.covered_to = false;
            sink.problem("records of kind `other` beyond 200 a second were left out");
            return;
        }
        // The kernel stamps records with its local clock, which drifts from CLOCK_MONOTONIC over weeks; but a record that
        // was not there when the log was last empty is younger than that.
        let at = record.ts_us.saturating_mul(1000).saturating_add(offset_ns);
        let at = at.clamp(self.empty_at.min(now.boot_ns), now.boot_ns);
        let found = self.oom.join(found, record.ts_us);
        append(batch, at, &record, &found);
    }

    fn room_for_other(&mut self, now: u64) -> bool {
        let second = now / SEC;
        if self.others.0 != second {
            self.others = (second, 0);
        }
        self.others.1 += 1;
        self.others.1 <= MOST_OTHER
    }
}

/// A row about the host, and one about each subject that the record names.
fn append(batch: &mut Batch, at: u64, record: &record::Record<'_>, found: &Found<'_>) {
    let short = |s: &str, max| Arc::<str>::from(text::shorten(s, max));
    let message = short(&record.text, LONGEST_MESSAGE);
    let comm = found.comm.map(|s| short(s, LONGEST_NAME));
    let device = record.device.map(|s| short(s, LONGEST_NAME));
    // A path is a name to look up: a cut one would be another's.
    let path = |p: Option<&str>| p.filter(|p| p.len() <= libc::PATH_MAX as usize).map(Arc::<str>::from);
    let (cgroup, limit_cgroup) = (path(found.cgroup), path(found.limit_cgroup));
    let subjects = [
        Some(Subject::Host),
        found.cpu.map(Subject::Cpu),
        found.pid.map(Subject::Task),
        cgroup.clone().map(Subject::Cgroup),
    ];
    for subject in subjects.into_iter().flatten() {
        let mut row = batch.row_at(subject, at);
        row.text(MESSAGE, message.clone())
            .text(KIND, found.kind.name())
            .gauge(LEVEL, f64::from(record.level));
        let texts = [(COMM, &comm), (CGROUP, &cgroup), (LIMIT_CGROUP, &limit_cgroup), (DEVICE, &device)];
        for (field, value) in texts {
            if let Some(value) = value {
                row.text(field, value.clone());
            }
        }
        if let Some(pid) = found.pid {
            row.gauge(PID, f64::from(pid)).text(TASK, pid.to_string());
        }
        if let Some(cpu) = found.cpu {
            row.text(CPU, cpu.to_string());
        }
        if let Some(ns) = found.stuck_ns {
            row.int(STUCK, ns);
        }
    }
}

/// Parses and classifies bytes as one record, for fuzzing.
pub fn fuzz(bytes: &[u8]) {
    if let Ok(record) = record::parse(bytes) {
        let found = OomJoin::default().join(classify::classify(&record.text), record.ts_us).kind;
        let mut batch = Batch::new(Arc::new(STREAM), Stamp::default());
        append(&mut batch, 0, &record, &Found { kind: found, ..classify::classify(&record.text) });
    }
}

#[cfg(test)]
mod tests;
