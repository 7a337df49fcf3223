//! Received packets are dropped or wait, in network namespaces of their own.

use std::time::Duration;

use anyhow::Result;

use super::settings;
use crate::expect::{Expect, SubjectPattern};
use crate::kid::{Kid, number};
use crate::net;
use crate::scene::{Fault, Host, Proof, Scene};

const fn about_cpu(rule: &'static str, causes: &'static [&'static str]) -> Expect {
    Expect::Verdict {
        rule,
        causes,
        subject: SubjectPattern::Cpu,
        ruled_out_contains: &[],
        summary_names_cgroup: false,
        resolved: true,
    }
}

fn able(host: &Host) -> Result<(), String> {
    if host.cpus.len() < 2 {
        return Err("needs two CPUs: one sends, the other receives".into());
    }
    net::has_tool("ip")
}

/// A UDP flood over loopback meets 8,000 firewall rules on the receiving CPU.
///
/// Bounds: one sender, 8 s, own network namespace. Proof: `dropped` in `softnet_stat` of that CPU.
pub(super) const OVERLOAD: Fault = Fault {
    name: "softirq_overload",
    expect: about_cpu("net.softnet_drop", &["softirq.overload"]),
    available: |host| {
        able(host)?;
        net::has_tool("nft")
    },
    run: overload,
};

fn overload(scene: &mut Scene<'_>) -> Result<Proof> {
    let cpu = scene.host.victim_cpu()?;
    scene.names.cpu = Some(cpu);
    let before = net::softnet(cpu)?;
    let settings = settings![on_cpu = cpu, rules = 8_000, per_s = 0, for_ms = 14_000];
    let flood = Kid::start("flood", None, &settings)?;
    scene.onset_when("a drop", Duration::from_secs(12), || Ok(net::softnet(cpu)?.1 > before.1))?;
    let report = flood.finish(Duration::from_secs(25))?;
    let after = net::softnet(cpu)?;
    let (served, dropped) = (after.0 - before.0, after.1 - before.1);
    Ok(Proof::default()
        .must(dropped > 10_000, format!("{dropped} packets dropped, {served} served"))
        .note(format!("{} sent", number(&report, "sent")?)))
}

/// The NAPI thread of a veth pair shares its CPU with a SCHED_FIFO task, 700 ms on and 50 ms off, for 6 s.
///
/// Bounds: 20,000 frames a second, own network namespace; the hog as in `rt_hog`.
/// Proof: packets polled on that CPU, before and while the hog runs.
pub(super) const NAPI_BEHIND_RT: Fault = Fault {
    name: "napi_behind_rt",
    expect: about_cpu("net.softirq_starvation", &["softirq.rt_hog"]),
    available: able,
    run: |scene| behind_rt(scene, true),
};

/// The same hog, with packets that softirqs receive on its CPU: ksoftirqd waits, packets flow.
///
/// Bounds as above. Proof: packets flow while the hog runs.
pub(super) const SOFTIRQ_BESIDE_RT: Fault = Fault {
    name: "softirq_beside_rt",
    expect: Expect::Verdict {
        rule: "cpu.sched_delay",
        causes: &["cpu.rt_hog"],
        subject: SubjectPattern::Cpu,
        ruled_out_contains: &[],
        summary_names_cgroup: false,
        resolved: true,
    },
    available: able,
    run: |scene| behind_rt(scene, false),
};

fn behind_rt(scene: &mut Scene<'_>, threaded: bool) -> Result<Proof> {
    let cpu = scene.host.victim_cpu()?;
    scene.names.cpu = Some(cpu);
    let settings = settings![on_cpu = cpu, rules = 0, per_s = 20_000, for_ms = 10_000];
    let traffic = Kid::start(if threaded { "napi" } else { "flood" }, None, &settings)?;
    // An ordinary task that also wants the CPU.
    let victim =
        Kid::start("waker", None, &settings![cpu = cpu, for_ms = 9000, period_ms = 10, work_ms = 1])?;
    scene.sleep(Duration::from_millis(1500))?;
    let start = net::softnet(cpu)?.0;
    scene.sleep(Duration::from_secs(1))?;
    let calm = net::softnet(cpu)?.0 - start;
    let hog = settings![cpu = cpu, fifo = 50, for_ms = 5000, on_ms = 700, off_ms = 50];
    let hog = Kid::start("spin", None, &hog)?;
    scene.onset();
    scene.sleep(Duration::from_millis(250))?;
    let start = net::softnet(cpu)?.0;
    scene.sleep(Duration::from_millis(400))?;
    let hogged = net::softnet(cpu)?.0 - start;
    scene.finish(vec![hog, victim, traffic], Duration::from_secs(15))?;
    let per_s = hogged as f64 / 0.4;
    let enough = if threaded { per_s < 0.2 * calm as f64 } else { per_s > 0.5 * calm as f64 };
    Ok(Proof::default()
        .must(calm > 2000, format!("{calm} packets/s before"))
        .must(enough, format!("{per_s:.0}/s while the hog ran")))
}
