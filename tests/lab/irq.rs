//! The disk's interrupts: which line they have and how to make some.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::sys;

/// A numbered line of `/proc/interrupts`, and a CPU that serves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) number: u32,
    pub(crate) cpu: usize,
}

/// Reads that find out which line is the disk's.
const TRIAL: u64 = 64;

/// The line on which the disk of `file` interrupts, and the CPU that serves most of that.
pub(crate) fn of_disk(file: &File) -> Result<Line> {
    let before = read()?;
    for i in 0..TRIAL {
        read_from_disk(file, i)?;
    }
    most(&before, &read()?, TRIAL / 2)
        .context("reading the disk makes no device interrupts that can be told apart")
}

/// Makes the disk read one page of `file`, which must not be in use by others.
pub(crate) fn read_from_disk(file: &File, turn: u64) -> Result<()> {
    let (pages, mut page) = (file.metadata()?.len() / 4096, [0u8; 4096]);
    sys::drop_cache(file)?;
    file.read_exact_at(&mut page, turn % pages.max(1) * 4096).context("reading the disk")
}

/// Reads pages of `path`, `gap` apart, as long as `go_on` says so.
pub(crate) fn keep_reading(path: &Path, gap: Duration, go_on: impl Fn() -> Result<bool>) -> Result<()> {
    let file = File::open(path).with_context(|| format!("{path:?}"))?;
    for turn in 0.. {
        if !go_on()? {
            break;
        }
        read_from_disk(&file, turn)?;
        std::thread::sleep(gap);
    }
    Ok(())
}

/// Numbered lines and their counts by CPU.
type Counts = Vec<(u32, Vec<(usize, u64)>)>;

fn read() -> Result<Counts> {
    Ok(parse(&fs::read_to_string("/proc/interrupts").context("/proc/interrupts")?))
}

fn parse(text: &str) -> Counts {
    let mut lines = text.lines();
    let cpus: Vec<usize> = lines
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|w| w.strip_prefix("CPU")?.parse().ok())
        .collect();
    let line = |line: &str| -> Option<(u32, Vec<(usize, u64)>)> {
        let (number, counts) = line.split_once(':')?;
        let counts = counts.split_whitespace().map_while(|w| w.parse().ok());
        Some((number.trim().parse().ok()?, cpus.iter().copied().zip(counts).collect()))
    };
    lines.filter_map(line).collect()
}

/// Where the counts rose most, if by `least` or more.
fn most(before: &Counts, after: &Counts, least: u64) -> Option<Line> {
    let mut best = None;
    for (number, counts) in after {
        let Some((_, old)) = before.iter().find(|(n, _)| n == number) else { continue };
        for ((cpu, now), (_, was)) in counts.iter().zip(old) {
            let rose = now.saturating_sub(*was);
            if rose >= best.as_ref().map_or(least, |(most, _)| *most + 1) {
                best = Some((rose, Line { number: *number, cpu: *cpu }));
            }
        }
    }
    best.map(|(_, line)| line)
}

/// Trials without root.
pub(crate) fn self_test() -> Result<()> {
    let text = |disk: u64| {
        format!(
            "           CPU0       CPU2\n 36:   5   {disk}  PCI-MSIX-0000:00:02.0   1-edge  virtio1-req.0\n \
             38:  40   10  PCI-MSIX  x\nNMI:  900  900  Non-maskable interrupts\n"
        )
    };
    let (before, after) = (parse(&text(100)), parse(&text(164)));
    anyhow::ensure!(
        most(&before, &after, 32) == Some(Line { number: 36, cpu: 2 }),
        "the line that rose: {after:?}"
    );
    anyhow::ensure!(most(&before, &after, 65).is_none(), "too little");
    Ok(())
}
