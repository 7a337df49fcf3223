//! What children do in the case of slow statistics: leak cgroups, read statistics, send packets.

use std::fs::{self, File};
use std::net::UdpSocket;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::roles::{Settings, report_waits};
use crate::{net, sys};

pub(crate) fn run(role: &str, settings: &Settings, end: Instant) -> Result<()> {
    match role {
        "leak" => leak(settings, end),
        "stat_read" => stat_read(settings, end),
        "packets" => packets(settings, end),
        _ => bail!("there is no role `{role}`"),
    }
}

/// Runs one job after another, each in a fresh memory cgroup below `parent`: it reads one page of `file` that no job has
/// read before, and its cgroup is removed. Every `every_ms`, or as fast as it goes, until `jobs` or time is up.
fn leak(settings: &Settings, end: Instant) -> Result<()> {
    let parent = PathBuf::from(settings.text("parent")?);
    let file = File::open(settings.text("file")?).context("opening the log")?;
    sys::read_at_random(&file).context("posix_fadvise")?;
    let (first, jobs) = (settings.or("first", 0)?, settings.number("jobs")?);
    let every = Duration::from_millis(settings.or("every_ms", 0)?);
    let pid = std::process::id().to_string();
    let mut page = [0u8; 4096];
    let mut before: Option<PathBuf> = None;
    let mut made = 0;
    while made < jobs && Instant::now() < end {
        let group = parent.join(format!("log-reader-{}", first + made));
        fs::create_dir(&group).with_context(|| format!("{group:?}"))?;
        fs::write(group.join("cgroup.procs"), &pid).with_context(|| format!("joining {group:?}"))?;
        file.read_exact_at(&mut page, (first + made) * 4096).context("reading the log")?;
        if let Some(before) = before.replace(group) {
            fs::remove_dir(&before).with_context(|| format!("removing {before:?}"))?;
        }
        made += 1;
        sleep(every);
    }
    println!("made={made}");
    Ok(())
}

/// Reads the log that the jobs read, and then the statistics of the cgroups' parent, again and again on one CPU.
///
/// Since 5.8 a read of the statistics walks only the cgroups in which something changed. Mapping the log changes those of
/// every dead cgroup that a page of it is charged to, so that the walk is long again.
fn stat_read(settings: &Settings, end: Instant) -> Result<()> {
    let file = File::open(settings.text("file")?).context("opening the log")?;
    let len = usize::try_from(settings.number("bytes")?)?;
    let stat = Path::new(settings.text("stat")?).to_path_buf();
    let pause = Duration::from_millis(settings.or("pause_ms", 200)?);
    let mut waits = Vec::new();
    while Instant::now() < end {
        sys::map_and_unmap(&file, len).context("mapping the log")?;
        let start = Instant::now();
        fs::read(&stat).with_context(|| format!("{stat:?}"))?;
        waits.push(start.elapsed());
        sleep(pause);
    }
    report_waits(waits);
    Ok(())
}

/// Clients of a service behind a network of its own, whose packets are received on `rps_cpu`: `burst` packets a
/// millisecond. Reports how late they were and how many were lost.
fn packets(settings: &Settings, end: Instant) -> Result<()> {
    net::receive_on(usize::try_from(settings.number("rps_cpu")?)?)?;
    let burst = settings.number("burst")?;
    let server = UdpSocket::bind("127.0.0.1:0").context("binding")?;
    server.set_read_timeout(Some(Duration::from_millis(500)))?;
    let to = server.local_addr()?;
    let start = Instant::now();
    let receiver = spawn(move || {
        let (mut waits, mut buffer) = (Vec::new(), [0u8; 16]);
        while let Ok(8) = server.recv(&mut buffer) {
            let sent = u64::from_le_bytes(buffer[..8].try_into().unwrap_or_default());
            waits.push(start.elapsed().saturating_sub(Duration::from_nanos(sent)));
        }
        waits
    });
    let client = UdpSocket::bind("127.0.0.1:0").context("binding")?;
    let mut sent = 0u64;
    while Instant::now() < end {
        for _ in 0..burst {
            let now = u64::try_from(start.elapsed().as_nanos())?;
            sent += u64::from(client.send_to(&now.to_le_bytes(), to).is_ok());
        }
        sleep(Duration::from_millis(1));
    }
    let waits = receiver.join().map_err(|_| anyhow::anyhow!("the receiver failed"))?;
    let late = waits.iter().filter(|w| **w > Duration::from_millis(50)).count();
    println!("sent={sent} lost={} late={late}", sent.saturating_sub(waits.len() as u64));
    report_waits(waits);
    Ok(())
}
