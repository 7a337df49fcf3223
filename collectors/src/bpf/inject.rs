//! For tests: bounded faults from `collectors/bpf/inject.bpf.c`.

use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use aya::maps::Array;
use aya::programs::Program;
use aya::programs::perf_event::{PerfEventConfig, PerfEventScope, SamplePolicy, SoftwareEvent};
use aya::{Ebpf, EbpfLoader};

static OBJECT: &[u8] = aya::include_bytes_aligned!("../../bpf/inject.bpf.o");

/// A fault that was made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Made {
    /// How often.
    pub(crate) runs: u64,
    /// How long the last one took, nanoseconds, by its own clock.
    pub(crate) last_ns: u64,
}

struct Injector(Ebpf);

impl Injector {
    fn load(loops: u32, tid: u32) -> Result<Injector, String> {
        EbpfLoader::new()
            .override_global("cfg_loops", &loops, true)
            .override_global("cfg_tid", &tid, true)
            .load(OBJECT)
            .map(Injector)
            .map_err(|e| e.to_string())
    }

    fn made(&self) -> Made {
        let bss: Array<_, [u64; 4]> = Array::try_from(self.0.map(".bss").unwrap()).unwrap();
        let [runs, last_ns, ..] = bss.get(&0, 0).unwrap();
        Made { runs, last_ns }
    }
}

/// Burns about `loops` times 0.9 ms with interrupts off on `cpu`, once.
pub(crate) fn irqoff(loops: u32, cpu: u32) -> Result<Made, String> {
    let mut i = Injector::load(loops, 0)?;
    let Some(Program::PerfEvent(p)) = i.0.program_mut("irqoff") else { unreachable!() };
    p.load().map_err(|e| e.to_string())?;
    let link = p
        .attach(
            PerfEventConfig::Software(SoftwareEvent::CpuClock),
            PerfEventScope::AllProcessesOneCpu { cpu },
            SamplePolicy::Period(100_000_000),
            false,
        )
        .map_err(|e| e.to_string())?;
    let until = Instant::now() + Duration::from_secs(5);
    while i.made().runs == 0 && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(1));
    }
    let Some(Program::PerfEvent(p)) = i.0.program_mut("irqoff") else { unreachable!() };
    p.detach(link).map_err(|e| e.to_string())?;
    Ok(i.made())
}

/// Burns in the softirq that receives a packet on loopback.
pub(crate) fn slow_softirq(loops: u32) -> Result<Made, String> {
    let mut i = Injector::load(loops, 0)?;
    let receiver = UdpSocket::bind("127.0.0.1:0").map_err(|e| e.to_string())?;
    let Some(Program::SocketFilter(p)) = i.0.program_mut("slow_softirq") else { unreachable!() };
    p.load().map_err(|e| e.to_string())?;
    p.attach(receiver.as_fd()).map_err(|e| e.to_string())?;
    let sender = UdpSocket::bind("127.0.0.1:0").map_err(|e| e.to_string())?;
    sender.send_to(b"x", receiver.local_addr().unwrap()).map_err(|e| e.to_string())?;
    let until = Instant::now() + Duration::from_secs(5);
    while i.made().runs == 0 && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(i.made())
}

/// Burns in a system call of this thread.
pub(crate) fn kernel_run(loops: u32) -> Result<Made, String> {
    // SAFETY: gettid has no preconditions.
    let tid = unsafe { libc::gettid() };
    let mut i = Injector::load(loops, tid.cast_unsigned())?;
    let Some(Program::RawTracePoint(p)) = i.0.program_mut("kernel_run") else { unreachable!() };
    p.load().map_err(|e| e.to_string())?;
    let link = p.attach("sys_enter").map_err(|e| e.to_string())?;
    let Some(Program::RawTracePoint(p)) = i.0.program_mut("kernel_run") else { unreachable!() };
    p.detach(link).map_err(|e| e.to_string())?;
    Ok(i.made())
}
