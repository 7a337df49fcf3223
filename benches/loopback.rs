//! UDP over loopback, one packet sent and received at a time, so that there is one receiving softirq a packet: the worst
//! case for probes on softirqs. Prints the CPU nanoseconds a packet for each second; `benches/probes.sh` runs it.
#![allow(clippy::print_stdout, reason = "a benchmark talks to a terminal")]

use std::net::UdpSocket;
use std::time::{Duration, Instant};

/// CPU time of this thread, softirqs that run on top of it included.
fn cpu_ns() -> u64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `t` is a valid place for the result; this clock always exists on Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut t) };
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

fn main() -> std::io::Result<()> {
    // `cargo bench` and `cargo test --benches` without a number only show that it works.
    let seconds = std::env::args().skip(1).find_map(|w| w.parse::<u64>().ok()).unwrap_or(1).min(60);
    let receiver = UdpSocket::bind("127.0.0.1:0")?;
    let sender = UdpSocket::bind("127.0.0.1:0")?;
    sender.connect(receiver.local_addr()?)?;
    let mut buffer = [0u8; 64];
    for _ in 0..seconds {
        let (start, cpu, mut packets) = (Instant::now(), cpu_ns(), 0u64);
        while start.elapsed() < Duration::from_secs(1) {
            for _ in 0..100 {
                sender.send(b"0123456789abcdef")?;
                receiver.recv(&mut buffer)?;
                packets += 1;
            }
        }
        println!("{:.0}", (cpu_ns() - cpu) as f64 / packets as f64);
    }
    Ok(())
}
