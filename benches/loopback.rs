//! UDP over loopback, one packet sent and received at a time, so that there is one receiving softirq a packet: the worst
//! case for probes on softirqs. Prints packets a second for each second; `benches/probes.sh` runs it.
#![allow(clippy::print_stdout, reason = "a benchmark talks to a terminal")]

use std::net::UdpSocket;
use std::time::{Duration, Instant};

fn main() -> std::io::Result<()> {
    let word = std::env::args().skip(1).find_map(|w| w.parse::<u64>().ok());
    // `cargo test --benches` and `cargo bench` without a number only show that it works.
    let seconds = word.unwrap_or(1).min(60);
    let receiver = UdpSocket::bind("127.0.0.1:0")?;
    let sender = UdpSocket::bind("127.0.0.1:0")?;
    sender.connect(receiver.local_addr()?)?;
    let mut buffer = [0u8; 64];
    for _ in 0..seconds {
        let (start, mut packets) = (Instant::now(), 0u64);
        while start.elapsed() < Duration::from_secs(1) {
            for _ in 0..100 {
                sender.send(b"0123456789abcdef")?;
                receiver.recv(&mut buffer)?;
                packets += 1;
            }
        }
        println!("{:.0}", packets as f64 / start.elapsed().as_secs_f64());
    }
    Ok(())
}
