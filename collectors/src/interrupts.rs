//! `/proc/interrupts`: what interrupts each CPU, by kind, and which line was the busiest since the last pass.
//!
//! Lines with a number are devices' interrupts; the others are the architecture's own (`arch/x86/kernel/irq.c`,
//! `arch/arm64/kernel/smp.c`). Columns are the *online* CPUs. The counts are 32-bit in the kernel and wrap; a wrap looks like
//! a reset and costs one interval. The file has a column for each CPU in each of up to some thousand lines: on a very large
//! host a pass costs milliseconds, for the kernel as well.

use std::sync::Arc;

use whystall_event::{Field, Stream, Subject, SubjectKind, Unit, text};

use crate::read::{Buf, KeptFile, unavailable};
use crate::scan::{Malformed, columns, dec, lines};
use crate::softirqs::cpu_header;
use crate::values::index_of;
use crate::{Built, CollectError, Collector, Pass, Polled, Roots, Settings, Unavailable};

const fn count(name: &'static str, help: &'static str) -> Field {
    Field::counter(name, Unit::Count, help)
}

const FIELDS: &[Field] = &[
    count("total", "all interrupts of this CPU"),
    count("device", "interrupts from devices"),
    count("local_timer", "interrupts of this CPU's own timer (x86 LOC)"),
    count("resched", "requests from other CPUs to schedule (x86 RES)"),
    count(
        "call_function",
        "requests from other CPUs to run a function, on x86 TLB shootdowns included (x86 CAL)",
    ),
    count("tlb", "requests from other CPUs to flush the TLB (x86 TLB)"),
    count("machine_check", "machine-check exceptions: hardware errors (x86 MCE)"),
    count("nmi", "non-maskable interrupts: profiling, the hard-lockup watchdog, hardware errors (x86 NMI)"),
    Field::text("busiest", "the line of /proc/interrupts that rose most on this CPU since the last pass"),
];

/// The fields that are counts.
const N: usize = BUSIEST;
const TOTAL: usize = index_of(FIELDS, "total");
const DEVICE: usize = index_of(FIELDS, "device");
const LOCAL_TIMER: usize = index_of(FIELDS, "local_timer");
const RESCHED: usize = index_of(FIELDS, "resched");
const CALL_FUNCTION: usize = index_of(FIELDS, "call_function");
const TLB: usize = index_of(FIELDS, "tlb");
const MACHINE_CHECK: usize = index_of(FIELDS, "machine_check");
const NMI: usize = index_of(FIELDS, "nmi");
const BUSIEST: usize = index_of(FIELDS, "busiest");

/// 512 CPUs and 4,000 lines make 24 MB.
const LIMIT: usize = 32 << 20;

const STREAM: Stream =
    Stream::sampled("interrupts", "interrupts of each CPU, by kind", &[SubjectKind::Cpu], FIELDS);

/// Reads `/proc/interrupts`.
pub static COLLECTOR: Collector = Collector {
    name: "interrupts",
    help: "reads /proc/interrupts for what interrupts each CPU and which line is the busiest",
    streams: &[STREAM],
    interval: None,
    settings: &[],
    build,
};

fn build(roots: &Roots, _: &Settings) -> Result<Built, Unavailable> {
    let file = KeptFile::open(roots.proc("interrupts")).map_err(unavailable)?.limit(LIMIT);
    let state = Interrupts { file, buf: Buf::new(), table: Table::default(), stream: Arc::new(STREAM) };
    Ok(Built::Polled(Box::new(state)))
}

struct Interrupts {
    file: KeptFile,
    buf: Buf,
    table: Table,
    stream: Arc<Stream>,
}

impl Polled for Interrupts {
    fn collect(&mut self, pass: &mut Pass) -> Result<(), CollectError> {
        let table = &mut self.table;
        self.file.parse(&mut self.buf, |bytes| parse_interrupts(bytes, table))?;
        let mut batch = pass.batch(&self.stream);
        batch.reserve(table.cpus.len());
        for cpu in &table.cpus {
            let mut row = batch.row(Subject::Cpu(cpu.cpu));
            for (i, sum) in cpu.sums.iter().enumerate() {
                // A kind that this architecture does not have is absent.
                if table.kinds & 1 << i != 0 {
                    row.int(i, *sum);
                }
            }
            if let Some(name) = table.busiest(cpu) {
                row.text(BUSIEST, name.clone());
            }
        }
        pass.batches.push(batch);
        Ok(())
    }
}

/// One reading of `/proc/interrupts`, with what is needed to compare the next one to it.
#[derive(Debug, Default)]
pub struct Table {
    /// Each online CPU, by ascending number.
    pub cpus: Vec<CpuInterrupts>,
    /// Bit i is set if some line counts for field i.
    kinds: u64,
    lines: Vec<IrqLine>,
    /// The low 32 bits of each count, a line after the other, each with a count for each CPU.
    counts: Vec<u32>,
    /// The counts of the line being read.
    row: Vec<u64>,
}

/// One column: a CPU's sums.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CpuInterrupts {
    /// The CPU's number.
    pub cpu: u32,
    /// Interrupts by kind, in the stream's order.
    pub sums: [u64; N],
    /// The line that rose most since the last reading and by how much; nothing if none rose, or after a change of lines.
    busiest: Option<(usize, u32)>,
}

/// A line's identity.
#[derive(Debug)]
struct IrqLine {
    label: Box<[u8]>,
    /// What follows the counts: chip, trigger and the names of the handlers.
    tail: Box<[u8]>,
    /// Label and handlers for people.
    name: Arc<str>,
    /// The field it counts for besides the total, and whether it counts for the total.
    kind: Option<usize>,
    in_total: bool,
}

impl IrqLine {
    fn new(label: &[u8], tail: &[u8]) -> IrqLine {
        let is_irq = dec(label).is_some();
        let has = |what: &[u8]| memchr::memmem::find(tail, what).is_some();
        let kind = match label {
            // Per-CPU timers of arm64 and RISC-V come as numbered lines.
            _ if is_irq && (has(b"arch_timer") || has(b"riscv-timer")) => Some(LOCAL_TIMER),
            _ if is_irq => Some(DEVICE),
            b"LOC" => Some(LOCAL_TIMER),
            b"RES" => Some(RESCHED),
            b"CAL" => Some(CALL_FUNCTION),
            b"TLB" => Some(TLB),
            b"MCE" => Some(MACHINE_CHECK),
            b"NMI" => Some(NMI),
            _ if label.starts_with(b"IPI") && has(b"Rescheduling") => Some(RESCHED),
            _ if label.starts_with(b"IPI") && has(b"Function call") => Some(CALL_FUNCTION),
            _ => None,
        };
        // Since 4.8 TLB shootdowns are counted as function calls too; polls for machine checks are no interrupts.
        let in_total = !matches!(label, b"TLB" | b"MCP");
        // A numbered line ends with its handlers; chip and trigger before them are of no use here.
        let what = if is_irq { handlers(tail) } else { tail };
        let name = format!("{} {}", text::from_bytes(label), text::from_bytes(what));
        IrqLine {
            label: label.into(),
            tail: tail.into(),
            name: text::shorten(name.trim_end(), 120).as_ref().into(),
            kind,
            in_total,
        }
    }
}

/// The handlers' names in a numbered line's end such as `PCI-MSIX-0000:00:02.0   1-edge      virtio1-req.0` or
/// `IO-APIC   9-fasteoi   acpi, i801_smbus`: what follows the trigger, or all if there is none.
fn handlers(tail: &[u8]) -> &[u8] {
    let is_trigger =
        |c: &[u8]| [&b"edge"[..], b"level", b"fasteoi", b"Edge", b"Level"].iter().any(|t| c.ends_with(t));
    let mut rest = columns(tail);
    while let Some(column) = rest.next() {
        if is_trigger(column) && !rest.rest().is_empty() {
            return rest.rest();
        }
    }
    tail
}

impl Table {
    /// The name of the line that rose most on `cpu`.
    fn busiest(&self, cpu: &CpuInterrupts) -> Option<&Arc<str>> {
        cpu.busiest.and_then(|(line, _)| self.lines.get(line)).map(|l| &l.name)
    }
}

/// Parses `/proc/interrupts` into `table` and compares it to what the table held before.
///
/// Lines with a single number for the whole host (`ERR`, `MIS`) are skipped. Wrong is: a header that is not ascending `CPUn`,
/// a line without a label and a colon or without a number for each CPU, a number over `u64`, and a file without any line.
/// After an error the next reading has nothing to compare to.
pub fn parse_interrupts(bytes: &[u8], table: &mut Table) -> Result<(), Malformed> {
    let result = update(bytes, table);
    if result.is_err() {
        *table = Table::default();
    }
    result
}

fn update(bytes: &[u8], table: &mut Table) -> Result<(), Malformed> {
    let mut lines = lines(bytes);
    let (_, header) = lines.next().unwrap_or_else(|| Err(Malformed::new(1, "empty")))?;
    // Counts can be compared only while the same CPUs and lines stand where they stood.
    let (mut comparable, mut cpus) = (!table.lines.is_empty(), 0);
    cpu_header(header, |cpu| {
        let fresh = CpuInterrupts { cpu, sums: [0; N], busiest: None };
        match table.cpus.get_mut(cpus) {
            Some(known) => {
                comparable &= known.cpu == cpu;
                *known = fresh;
            }
            None => {
                comparable = false;
                table.cpus.push(fresh);
            }
        }
        cpus += 1;
    })?;
    comparable &= table.cpus.len() == cpus;
    table.cpus.truncate(cpus);
    if !comparable {
        table.counts.clear();
        table.lines.clear();
    }
    table.kinds = 0;
    let mut at = 0;
    for line in lines {
        let (number, line) = line?;
        let Some(colon) = memchr::memchr(b':', line) else {
            return Err(Malformed::expected(number, "a label and a colon", line));
        };
        let (label, counts) = line.split_at(colon);
        let label = label.trim_ascii();
        if label.eq_ignore_ascii_case(b"ERR") || label == b"MIS" {
            continue;
        }
        comparable &= one_line(number, label, counts.get(1..).unwrap_or_default(), at, table)?;
        at += 1;
    }
    if at == 0 {
        return Err(Malformed::new(1, "no line with a count for each CPU"));
    }
    comparable &= at == table.lines.len();
    table.lines.truncate(at);
    table.counts.truncate(at * cpus);
    if !comparable {
        table.cpus.iter_mut().for_each(|c| c.busiest = None);
    }
    Ok(())
}

/// Reads the line that is the `at`th with counts. Returns whether it is the one that stood there before.
fn one_line(
    number: usize,
    label: &[u8],
    counts: &[u8],
    at: usize,
    table: &mut Table,
) -> Result<bool, Malformed> {
    let Table { cpus, kinds, lines, counts: all_old, row } = table;
    row.clear();
    let mut rest = columns(counts);
    for _ in 0..cpus.len() {
        row.push(rest.dec(number, "a count for each CPU")?);
    }
    let tail = rest.rest();
    let same = lines.get(at).is_some_and(|l| *l.label == *label && *l.tail == *tail);
    if !same {
        lines.truncate(at);
        lines.push(IrqLine::new(label, tail));
    }
    let Some(line) = lines.get(at) else {
        return Ok(false);
    };
    let fields = [line.kind, line.in_total.then_some(TOTAL)];
    fields.iter().flatten().for_each(|i| *kinds |= 1 << i);
    let base = at * row.len();
    if all_old.len() < base + row.len() {
        all_old.resize(base + row.len(), 0);
    }
    let old = all_old.get_mut(base..base + row.len()).unwrap_or_default();
    for ((cpu, value), old) in cpus.iter_mut().zip(row.iter()).zip(old) {
        for i in fields.into_iter().flatten() {
            if let Some(sum) = cpu.sums.get_mut(i) {
                let more = sum.checked_add(*value);
                *sum = more.ok_or_else(|| Malformed::expected(number, "a sum up to 2^64-1", label))?;
            }
        }
        // A fall, which a line that was freed and allocated again shows, comes out as a rise by more than half.
        let rise = (*value as u32).wrapping_sub(*old);
        *old = *value as u32;
        if rise <= u32::MAX / 2 && rise > cpu.busiest.map_or(0, |(_, most)| most) {
            cpu.busiest = Some((at, rise));
        }
    }
    Ok(same)
}

#[cfg(test)]
mod tests;
