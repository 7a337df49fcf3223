//! Network loads in network and mount namespaces of their own: the child that makes them owns them, and they vanish with
//! it. Nothing outside sees a packet.

use std::fs::{self, File};
use std::io::Write;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::sys;

fn tool(words: &[&str]) -> Result<()> {
    let (program, args) = words.split_first().context("which program?")?;
    let done =
        Command::new(program).args(args).stdin(Stdio::null()).output().with_context(|| words.join(" "))?;
    ensure!(done.status.success(), "{}: {}", words.join(" "), String::from_utf8_lossy(&done.stderr).trim());
    Ok(())
}

/// Whether a program can be started at all.
pub(crate) fn has_tool(name: &str) -> Result<(), String> {
    let known = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];
    if known.iter().any(|dir| fs::metadata(format!("{dir}/{name}")).is_ok()) {
        return Ok(());
    }
    Err(format!("no `{name}` here (Debian: apt-get install nftables iproute2)"))
}

/// Own namespaces with loopback up and a /sys that shows their devices.
fn own_network() -> Result<()> {
    sys::own_network().context("unshare")?;
    tool(&["mount", "-t", "sysfs", "sysfs", "/sys"])?;
    tool(&["ip", "link", "set", "lo", "up"])
}

/// Rules that each packet to UDP passes one by one and none of which matches.
fn slow_rules(count: u64) -> Result<()> {
    let mut text = String::from("table inet lab {\n chain c {\n  type filter hook input priority 0;\n");
    for i in 0..count.min(60_000) {
        text.push_str(&format!("  ip saddr 10.{}.{}.{} drop\n", i >> 16, i >> 8 & 255, i & 255));
    }
    text.push_str(" }\n}\n");
    let mut nft = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().context("nft")?;
    nft.stdin.take().context("nft has no stdin")?.write_all(text.as_bytes()).context("nft")?;
    ensure!(nft.wait()?.success(), "nft refused the rules");
    Ok(())
}

/// Own namespaces, in which the softirqs that receive on loopback run on `cpu` (RPS).
pub(crate) fn receive_on(cpu: usize) -> Result<()> {
    own_network()?;
    ensure!(cpu < 32, "RPS masks are written for CPUs below 32 only");
    let rps = "/sys/class/net/lo/queues/rx-0/rps_cpus";
    fs::write(rps, format!("{:x}", 1u32 << cpu)).context(rps)
}

/// Sends UDP over loopback to a socket that is never read, as fast as it can or `per_s` a second; the receiving softirqs
/// run on `cpu` (RPS), while the sender is elsewhere.
pub(crate) fn flood(cpu: usize, rules: u64, per_s: u64, quiet: &[usize], end: Instant) -> Result<()> {
    receive_on(cpu)?;
    sys::pin(quiet)?;
    if rules > 0 {
        slow_rules(rules)?;
    }
    let receiver = UdpSocket::bind("127.0.0.1:0")?;
    let sender = UdpSocket::bind("127.0.0.1:0")?;
    sender.connect(receiver.local_addr()?)?;
    println!("ready=1");
    std::io::stdout().flush()?;
    let sent = paced(per_s, end, || sender.send(b"x").is_ok());
    println!("sent={sent}");
    Ok(())
}

fn paced(per_s: u64, end: Instant, mut send: impl FnMut() -> bool) -> u64 {
    let (start, mut sent) = (Instant::now(), 0u64);
    while Instant::now() < end {
        let due = if per_s == 0 { u64::MAX } else { (start.elapsed().as_secs_f64() * per_s as f64) as u64 };
        if sent >= due {
            thread::sleep(Duration::from_micros(500));
            continue;
        }
        for _ in 0..64.min(due - sent) {
            // A full queue is no error of ours.
            sent += u64::from(send());
        }
    }
    sent
}

/// Frames over a veth pair whose receiving end has NAPI in a thread of its own, bound to `cpu`.
pub(crate) fn napi_thread(cpu: usize, per_s: u64, quiet: &[usize], end: Instant) -> Result<()> {
    own_network()?;
    tool(&["ip", "link", "add", "labtx", "type", "veth", "peer", "name", "labrx"])?;
    // With GRO the receiving end of a veth pair polls by NAPI, but only frames that could not have been segmented.
    sys::set_gro("labrx").context("GRO on veth")?;
    sys::unset_tso("labtx").context("TSO on veth")?;
    tool(&["ip", "link", "set", "labtx", "up"])?;
    tool(&["ip", "link", "set", "labrx", "up"])?;
    fs::write("/sys/class/net/labrx/threaded", "1").context("no threaded NAPI (kernel 5.12)")?;
    let mut threads = 0;
    for pid in fs::read_dir("/proc")?.flatten().filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok()) {
        let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        if comm.starts_with("napi/labrx-") {
            sys::pin_task(pid, &[cpu])?;
            threads += 1;
        }
    }
    if threads == 0 {
        bail!("the device has no NAPI thread");
    }
    sys::pin(quiet)?;
    let socket = sys::packet_socket("labtx")?;
    // Broadcast, of a protocol that nobody speaks: polled, looked at, dropped.
    let mut frame = [0u8; 64];
    frame[..6].fill(0xff);
    frame[12..14].copy_from_slice(&0x88b5u16.to_be_bytes());
    println!("ready=1 threads={threads}");
    std::io::stdout().flush()?;
    let sent = paced(per_s, end, || sys::send(socket.as_raw_fd(), &frame));
    println!("sent={sent}");
    Ok(())
}

/// `processed` and `dropped` of a CPU in `/proc/net/softnet_stat`.
pub(crate) fn softnet(cpu: usize) -> Result<(u64, u64)> {
    let text = fs::read_to_string("/proc/net/softnet_stat")?;
    for line in text.lines() {
        let columns: Vec<u64> =
            line.split_whitespace().filter_map(|w| u64::from_str_radix(w, 16).ok()).collect();
        if columns.get(12) == Some(&(cpu as u64)) {
            return Ok((columns[0], columns[1]));
        }
    }
    bail!("softnet_stat has no CPU {cpu}")
}

/// A file opened for its inotify watch: makes the kernel visit every name below `dir` that was looked for in vain.
pub(crate) fn look_in_vain(dir: &std::path::Path, names: u64, end: Instant) -> Result<u64> {
    let mut made = 0;
    let home = File::open(dir).context("opening the directory")?;
    while made < names && Instant::now() < end {
        sys::look_up(&home, &format!("n{made:08}"));
        made += 1;
    }
    Ok(made)
}
