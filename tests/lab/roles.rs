//! What a child process does in each role. Every role ends at its deadline by itself and then reports numbers as
//! `name=number` words on its standard output.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::sys::{self, Anon};
use crate::{inject, net};

/// The words `name=value` that a role was started with.
pub(crate) struct Settings(Vec<(String, String)>);

impl Settings {
    fn all<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(k, _)| k == name).map(|(_, v)| v.as_str())
    }

    pub(crate) fn text(&self, name: &str) -> Result<&str> {
        self.all(name).next().with_context(|| format!("the role needs `{name}=`"))
    }

    pub(crate) fn number(&self, name: &str) -> Result<u64> {
        let text = self.text(name)?;
        text.parse().with_context(|| format!("`{name}={text}` is no number"))
    }

    pub(crate) fn or(&self, name: &str, default: u64) -> Result<u64> {
        if self.all(name).next().is_some() { self.number(name) } else { Ok(default) }
    }
}

/// The main function of a child: `words` are the role and its settings.
pub(crate) fn main(mut words: impl Iterator<Item = String>) -> Result<()> {
    let role = words.next().context("which role?")?;
    if role == "reaper" {
        crate::guard::reaper_main();
        return Ok(());
    }
    let settings = words.filter_map(|w| w.split_once('=').map(|(k, v)| (k.into(), v.into())));
    let settings = Settings(settings.collect());
    prepare(&role, &settings)?;
    let end = Instant::now() + Duration::from_millis(settings.or("for_ms", 20_000)?.min(60_000));
    match role.as_str() {
        "spin" => spin(&settings, end),
        "waker" => waker(&settings, end),
        "gap" => gap(end),
        "alloc" => alloc(&settings, end),
        "churn" => churn(&settings, end),
        "touch" => touch(&settings, end),
        "fragment" => fragment(&settings, end),
        "huge" => huge(&settings, end),
        "read" => read_once(&settings),
        "stream" => stream(&settings, end),
        "prefetch" => prefetch(&settings, end),
        "copy" => copy(&settings, end),
        "job" => job(&settings, end),
        "leak" | "stat_read" | "packets" => crate::stat_roles::run(&role, &settings, end),
        "inject_kernel_run" | "inject_irqoff" | "inject_softirq" | "inject_irq" => {
            injector(&role, &settings, end)
        }
        "watch_names" => watch_names(&settings, end),
        "flood" | "napi" => traffic(&role, &settings, end),
        _ => bail!("there is no role `{role}`"),
    }
}

/// Joins the cgroups, then takes on CPU, nice value and scheduling policy.
fn prepare(role: &str, settings: &Settings) -> Result<()> {
    sys::set_comm(&format!("lab-{role}"));
    for procs in settings.all("join") {
        let pid = std::process::id().to_string();
        fs::write(procs, pid).with_context(|| format!("cannot join {procs}"))?;
    }
    if settings.all("cpu").next().is_some() {
        sys::pin(&[settings.number("cpu")? as usize])?;
    }
    if settings.all("nice").next().is_some() {
        sys::set_nice(settings.number("nice")? as i32).context("cannot set the nice value")?;
    }
    if settings.all("fifo").next().is_some() {
        sys::set_comm("lab-rt-hog");
        let burst = Duration::from_millis(settings.number("on_ms")?);
        sys::become_fifo(settings.number("fifo")? as i32, burst).context("cannot become SCHED_FIFO")?;
    }
    if settings.all("rr").next().is_some() {
        sys::set_comm("lab-rr-hog");
        let burst = Duration::from_millis(settings.number("on_ms")?);
        sys::become_rr(settings.number("rr")? as i32, burst).context("cannot become SCHED_RR")?;
    }
    Ok(())
}

/// The CPUs that are not the one that a fault is put on.
fn quiet_cpus(cpu: usize) -> Result<Vec<usize>> {
    Ok(sys::allowed_cpus()?.into_iter().filter(|c| *c != cpu).collect())
}

/// Makes a bounded fault by a BPF program; the process itself waits elsewhere.
fn injector(role: &str, settings: &Settings, end: Instant) -> Result<()> {
    let cpu = settings.number("on_cpu")? as usize;
    let target = Duration::from_millis(settings.number("target_ms")?);
    let times = settings.number("times")?;
    let gap = Duration::from_millis(settings.number("gap_ms")?);
    if role == "inject_softirq" {
        // Loopback's softirqs run where the sender is.
        sys::pin(&[cpu])?;
        return inject::slow_softirq(target, times, gap, end);
    }
    sys::pin(&quiet_cpus(cpu)?)?;
    match role {
        "inject_irqoff" => inject::irqoff(cpu as u32, target, times, gap, end),
        "inject_irq" => {
            let (number, file) = (settings.number("irq")? as u32, Path::new(settings.text("file")?));
            inject::slow_irq(number, file, target, times, gap, end)
        }
        _ => inject::kernel_run(cpu, target, times, gap, end),
    }
}

/// Watches a directory `times`, `gap_ms` apart.
fn watch_names(settings: &Settings, end: Instant) -> Result<()> {
    let (dir, gap) = (settings.text("dir")?, Duration::from_millis(settings.number("gap_ms")?));
    let (mut calls, mut worst) = (0, Duration::ZERO);
    for _ in 0..settings.number("times")? {
        if Instant::now() >= end {
            break;
        }
        worst = worst.max(sys::watch_once(Path::new(dir))?);
        calls += 1;
        sleep(gap);
    }
    println!("calls={calls} max_ms={:.3}", worst.as_secs_f64() * 1e3);
    Ok(())
}

/// Packets in a network namespace of its own, received on `on_cpu`.
fn traffic(role: &str, settings: &Settings, end: Instant) -> Result<()> {
    let cpu = settings.number("on_cpu")? as usize;
    let (per_s, quiet) = (settings.number("per_s")?, quiet_cpus(cpu)?);
    match role {
        "napi" => net::napi_thread(cpu, per_s, &quiet, end),
        _ => net::flood(cpu, settings.number("rules")?, per_s, &quiet, end),
    }
}

fn burn(cpu: Duration) {
    let start = sys::thread_cpu_ns();
    while u128::from(sys::thread_cpu_ns() - start) < cpu.as_nanos() {
        std::hint::spin_loop();
    }
}

fn burn_until(end: Instant) {
    while Instant::now() < end {
        for _ in 0..1000 {
            std::hint::spin_loop();
        }
    }
}

/// Uses the CPU: all the time, or `on_ms` of wall time in turn with `off_ms` of sleep.
fn spin(settings: &Settings, end: Instant) -> Result<()> {
    let on = Duration::from_millis(settings.or("on_ms", 0)?);
    let off = Duration::from_millis(settings.or("off_ms", 0)?);
    while Instant::now() < end {
        burn_until(if on.is_zero() { end } else { end.min(Instant::now() + on) });
        sleep(off);
    }
    Ok(())
}

/// Reports the median and the worst of waits, in milliseconds.
pub(crate) fn report_waits(mut waits: Vec<Duration>) {
    waits.sort_unstable();
    let ms = |d: Option<&Duration>| d.map_or(0.0, |d| d.as_secs_f64() * 1e3);
    println!("n={} p50_ms={:.3} max_ms={:.3}", waits.len(), ms(waits.get(waits.len() / 2)), ms(waits.last()));
}

/// An ordinary service: wakes every `period_ms`, works `work_ms` of CPU time, and measures from when it should have
/// woken to when the work was done.
fn waker(settings: &Settings, end: Instant) -> Result<()> {
    let period = Duration::from_millis(settings.number("period_ms")?);
    let work = Duration::from_millis(settings.number("work_ms")?);
    let mut waits = Vec::new();
    let mut due = Instant::now() + period;
    while due < end {
        sleep(due.saturating_duration_since(Instant::now()));
        burn(work);
        waits.push(due.elapsed().saturating_sub(work));
        due = (due + period).max(Instant::now());
    }
    report_waits(waits);
    Ok(())
}

/// Uses the CPU all the time and measures the longest hole in its own time.
fn gap(end: Instant) -> Result<()> {
    let (mut last, mut worst) = (Instant::now(), Duration::ZERO);
    while last < end {
        let now = Instant::now();
        worst = worst.max(now - last);
        last = now;
    }
    println!("max_ms={:.3}", worst.as_secs_f64() * 1e3);
    Ok(())
}

/// A service that needs memory: every 20 ms maps, touches and returns `anon_mib`, and measures how long that took.
fn alloc(settings: &Settings, end: Instant) -> Result<()> {
    let mib = settings.number("anon_mib")? as usize;
    let mut waits = Vec::new();
    while Instant::now() < end {
        let start = Instant::now();
        Anon::map(mib).context("mmap")?.touch();
        waits.push(start.elapsed());
        sleep(Duration::from_millis(20));
    }
    report_waits(waits);
    Ok(())
}

/// Presses on a memory limit: holds `anon_mib`, writes `file_mib` to `file` and reads it again and again, giving back
/// and touching its anonymous memory anew with each turn.
fn churn(settings: &Settings, end: Instant) -> Result<()> {
    let (anon_mib, file_mib) = (settings.or("anon_mib", 0)? as usize, settings.number("file_mib")?);
    let path = settings.text("file")?;
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(path);
    let file = file.with_context(|| format!("cannot make {path}"))?;
    let mut buffer = vec![0x5au8; 1 << 20];
    for mib in 0..file_mib {
        if Instant::now() >= end {
            break;
        }
        file.write_all_at(&buffer, mib << 20).context("writing the scratch file")?;
    }
    let (mut read, mut turns) = (0u64, 0u64);
    while Instant::now() < end {
        let mut anon = Anon::map(anon_mib.max(1)).context("mmap")?;
        if anon_mib > 0 {
            anon.touch();
        }
        let mut at = 0;
        while Instant::now() < end {
            let n = file.read_at(&mut buffer, at).context("reading the scratch file")?;
            if n == 0 {
                break;
            }
            // A page is dirtied now and then, so that reclaim meets some that must be written first.
            if at.is_multiple_of(16 << 20) {
                file.write_all_at(&buffer[..4096], at).context("writing the scratch file")?;
            }
            at += n as u64;
            read += n as u64;
        }
        turns += 1;
    }
    println!("read_mib={} turns={turns}", read >> 20);
    Ok(())
}

/// Touches `anon_mib` of anonymous memory, 1 MiB after another, then holds it.
fn touch(settings: &Settings, end: Instant) -> Result<()> {
    let mut held = Vec::new();
    for _ in 0..settings.number("anon_mib")? {
        let mut anon = Anon::map(1).context("mmap")?;
        anon.touch();
        held.push(anon);
    }
    sleep(end.saturating_duration_since(Instant::now()));
    Ok(())
}

/// Touches `anon_mib` page by page, gives back every other page and holds the rest until there is a file `until`: what is
/// free then is in single pages.
fn fragment(settings: &Settings, end: Instant) -> Result<()> {
    let mut anon = Anon::map(settings.number("anon_mib")? as usize).context("mmap")?;
    anon.touch();
    anon.give_back_every_other_page().context("madvise")?;
    let until = Path::new(settings.text("until")?);
    while Instant::now() < end && !until.exists() {
        sleep(Duration::from_millis(50));
    }
    anon.give_back_gently().context("madvise")
}

/// Faults in huge pages up to `anon_mib`, one after another with a pause of `pause_ms`, and holds them.
fn huge(settings: &Settings, end: Instant) -> Result<()> {
    let mut anon = Anon::map(settings.number("anon_mib")? as usize).context("mmap")?;
    anon.want_huge_pages().context("madvise")?;
    let pause = Duration::from_millis(settings.or("pause_ms", 0)?);
    anon.touch_every(2 << 20, || {
        sleep(pause);
        Instant::now() < end
    });
    sleep(end.saturating_duration_since(Instant::now()));
    Ok(())
}

/// Reads `file` once, as a job that looks at a log.
fn read_once(settings: &Settings) -> Result<()> {
    let bytes = fs::read(settings.text("file")?).context("reading the job's file")?;
    ensure!(!bytes.is_empty(), "the job's file is empty");
    Ok(())
}

/// Reads `file` from start to end again and again, until `mib` were read or time is up.
fn stream(settings: &Settings, end: Instant) -> Result<()> {
    let most = settings.or("mib", u64::MAX >> 20)? << 20;
    let mut file = File::open(settings.text("file")?).context("opening the file to read")?;
    let mut buffer = vec![0u8; 1 << 20];
    let mut read = 0u64;
    while Instant::now() < end && read < most {
        match file.read(&mut buffer).context("reading")? {
            0 => drop(file.seek(SeekFrom::Start(0)).context("seeking")?),
            n => read += n as u64,
        }
    }
    println!("read_mib={}", read >> 20);
    Ok(())
}

/// Fills the page cache with `file` from its start to `mib`, without the cost of copying what is read.
fn prefetch(settings: &Settings, end: Instant) -> Result<()> {
    const STEP: u64 = 128 << 10;
    let file = File::open(settings.text("file")?).context("opening the file to prefetch")?;
    let (mut at, most) = (0, settings.number("mib")? << 20);
    while at < most && Instant::now() < end {
        sys::prefetch(&file, at, STEP).context("prefetching")?;
        at += STEP;
    }
    Ok(())
}

/// Writes `mib` to `file`, then copies it to `file` with `.copy` added, each synced; stops early when time is up.
fn copy(settings: &Settings, end: Instant) -> Result<()> {
    let (path, mib) = (settings.text("file")?, settings.number("mib")?);
    let mut buffer = vec![0xa5u8; 1 << 20];
    let mut written = 0u64;
    let mut source = File::create_new(path).context("making the source file")?;
    while written < mib && Instant::now() < end {
        source.write_all(&buffer).context("writing the source file")?;
        written += 1;
    }
    source.sync_data().context("syncing the source file")?;
    let mut source = File::open(path).context("opening the source file")?;
    let mut target = File::create_new(format!("{path}.copy")).context("making the copy")?;
    let mut copied = 0u64;
    while Instant::now() < end {
        let n = source.read(&mut buffer).context("reading the source file")?;
        if n == 0 {
            break;
        }
        target.write_all(&buffer[..n]).context("writing the copy")?;
        copied += n as u64;
    }
    target.sync_data().context("syncing the copy")?;
    println!("written_mib={written} copied_mib={}", copied >> 20);
    Ok(())
}

/// One short process of many, as a compiler is: memory, CPU time, and a small file if `file` names one.
fn job(settings: &Settings, end: Instant) -> Result<()> {
    let mut anon = Anon::map(settings.or("anon_mib", 8)? as usize).context("mmap")?;
    anon.touch();
    burn(
        Duration::from_millis(settings.number("work_ms")?).min(end.saturating_duration_since(Instant::now())),
    );
    if let Ok(path) = settings.text("file") {
        fs::write(path, vec![0u8; 64 << 10]).context("writing the job's file")?;
    }
    Ok(())
}
