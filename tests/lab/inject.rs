//! Bounded faults made by BPF programs (`collectors/bpf/inject.bpf.c`). The programs live as long as the child process
//! that loads them: nothing is pinned, so nothing stays behind however it ends.

use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use aya::maps::Array;
use aya::programs::Program;
use aya::programs::perf_event::{PerfEventConfig, PerfEventScope, SamplePolicy, SoftwareEvent};
use aya::{Ebpf, EbpfLoader};

use crate::{irq, sys};

static OBJECT: &[u8] = aya::include_bytes_aligned!("../../collectors/bpf/inject.bpf.o");

/// The most that one fault may repeat, and the most rounds of about 0.9 ms in each.
const MOST_TIMES: u64 = 40;
const MOST_LOOPS: u32 = 500;

struct Injector(Ebpf);

/// The programs' constants; those that a program does not read may stay 0.
#[derive(Default)]
struct Config {
    loops: u32,
    tid: u32,
    irq: u32,
    times: u32,
    gap_ns: u64,
}

impl Injector {
    fn load(c: &Config) -> Result<Injector> {
        ensure!(c.loops <= MOST_LOOPS, "at most {MOST_LOOPS} loops");
        EbpfLoader::new()
            .override_global("cfg_loops", &c.loops, true)
            .override_global("cfg_tid", &c.tid, true)
            .override_global("cfg_irq", &c.irq, true)
            .override_global("cfg_times", &c.times, true)
            .override_global("cfg_gap_ns", &c.gap_ns, true)
            .load(OBJECT)
            .map(Injector)
            .context("cannot load the injector")
    }

    /// The rounds that take `target` on this machine as it is now.
    fn loops(target: Duration) -> Result<u32> {
        const TRIAL: u32 = 4;
        let trial = Injector::load(&Config { loops: TRIAL, ..Config::default() })?;
        let (trial, _sockets) = trial.on_loopback()?;
        let took = trial.made()?.1.max(1);
        let loops = target.as_nanos() as u64 * u64::from(TRIAL) / took;
        Ok(u32::try_from(loops)?.clamp(1, MOST_LOOPS))
    }

    /// Attaches `slow_softirq` to a socket and sends it a packet.
    fn on_loopback(mut self) -> Result<(Injector, (UdpSocket, UdpSocket))> {
        let receiver = UdpSocket::bind("127.0.0.1:0")?;
        let Some(Program::SocketFilter(p)) = self.0.program_mut("slow_softirq") else {
            bail!("no such program")
        };
        p.load()?;
        p.attach(receiver.as_fd())?;
        let sender = UdpSocket::bind("127.0.0.1:0")?;
        sender.connect(receiver.local_addr()?)?;
        sender.send(b"x")?;
        self.wait(1, Instant::now() + Duration::from_secs(2))?;
        Ok((self, (receiver, sender)))
    }

    /// How often it ran, and for how many nanoseconds the last time.
    fn made(&self) -> Result<(u64, u64)> {
        let map = self.0.map(".bss").context("the injector has no .bss")?;
        let bss: Array<_, [u64; 4]> = Array::try_from(map)?;
        let [runs, last_ns, ..] = bss.get(&0, 0)?;
        Ok((runs, last_ns))
    }

    /// Waits until it ran `times` or time is up, and reports.
    fn wait(&self, times: u64, end: Instant) -> Result<()> {
        while self.made()?.0 < times && Instant::now() < end {
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    fn report(&self) -> Result<()> {
        let (runs, last_ns) = self.made()?;
        println!("runs={runs} last_ms={:.3}", last_ns as f64 / 1e6);
        Ok(())
    }
}

/// Interrupts off on `cpu` for about `target`, once each `gap` of that CPU's time.
pub(crate) fn irqoff(cpu: u32, target: Duration, times: u64, gap: Duration, end: Instant) -> Result<()> {
    let mut i = Injector::load(&Config { loops: Injector::loops(target)?, ..Config::default() })?;
    let Some(Program::PerfEvent(p)) = i.0.program_mut("irqoff") else { bail!("no such program") };
    p.load()?;
    let link = p.attach(
        PerfEventConfig::Software(SoftwareEvent::CpuClock),
        PerfEventScope::AllProcessesOneCpu { cpu },
        SamplePolicy::Period(gap.as_nanos() as u64),
        false,
    )?;
    i.wait(times.min(MOST_TIMES), end)?;
    let Some(Program::PerfEvent(p)) = i.0.program_mut("irqoff") else { bail!("no such program") };
    p.detach(link)?;
    i.report()
}

/// A receiving softirq that takes about `target`, on the CPU of this thread, once each `gap`.
pub(crate) fn slow_softirq(target: Duration, times: u64, gap: Duration, end: Instant) -> Result<()> {
    let config = Config { loops: Injector::loops(target)?, ..Config::default() };
    let (i, (_receiver, sender)) = Injector::load(&config)?.on_loopback()?;
    for _ in 1..times.min(MOST_TIMES) {
        if Instant::now() >= end {
            break;
        }
        thread::sleep(gap);
        sender.send(b"x")?;
    }
    i.report()
}

/// Interrupt `number`, that of the disk of `file`, which is read to make some: its handler takes about `target` each time,
/// `gap` apart at least.
pub(crate) fn slow_irq(
    number: u32,
    file: &Path,
    target: Duration,
    times: u64,
    gap: Duration,
    end: Instant,
) -> Result<()> {
    const MOST_INTERRUPTS: u64 = 200;
    let times = times.min(MOST_INTERRUPTS);
    let mut i = Injector::load(&Config {
        loops: Injector::loops(target)?,
        irq: number,
        times: u32::try_from(times)?,
        gap_ns: gap.as_nanos() as u64,
        ..Config::default()
    })?;
    let Some(Program::RawTracePoint(p)) = i.0.program_mut("slow_irq") else { bail!("no such program") };
    p.load()?;
    p.attach("irq_handler_entry")?;
    irq::keep_reading(file, gap, || Ok(Instant::now() < end && i.made()?.0 < times))?;
    i.report()
}

/// A thread on `cpu` that stays in each of its system calls for about `target`, `gap` apart.
pub(crate) fn kernel_run(
    cpu: usize,
    target: Duration,
    times: u64,
    gap: Duration,
    end: Instant,
) -> Result<()> {
    let (tid, begin, over) = (AtomicU32::new(0), AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            if sys::pin(&[cpu]).is_err() {
                return;
            }
            sys::set_comm("lab-long-run");
            tid.store(sys::thread_id(), Ordering::Release);
            while !begin.load(Ordering::Acquire) && Instant::now() < end {
                thread::sleep(Duration::from_millis(1));
            }
            while !over.load(Ordering::Acquire) && Instant::now() < end {
                thread::sleep(gap);
            }
        });
        let made = (|| -> Result<()> {
            while tid.load(Ordering::Acquire) == 0 {
                ensure!(Instant::now() < end, "the thread did not start");
                thread::sleep(Duration::from_millis(1));
            }
            let config = Config {
                loops: Injector::loops(target)?,
                tid: tid.load(Ordering::Acquire),
                ..Config::default()
            };
            let mut i = Injector::load(&config)?;
            let Some(Program::RawTracePoint(p)) = i.0.program_mut("kernel_run") else {
                bail!("no such program")
            };
            p.load()?;
            let link = p.attach("sys_enter")?;
            begin.store(true, Ordering::Release);
            i.wait(times.min(MOST_TIMES), end)?;
            let Some(Program::RawTracePoint(p)) = i.0.program_mut("kernel_run") else {
                bail!("no such program")
            };
            p.detach(link)?;
            i.report()
        })();
        over.store(true, Ordering::Release);
        begin.store(true, Ordering::Release);
        made
    })
}
