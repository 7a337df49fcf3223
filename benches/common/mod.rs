//! What the benches share: CPU time, medians, numbers that look random.
#![allow(dead_code, unreachable_pub, reason = "each bench uses its part")]

use whystall_event::{SEC, Stamp};

/// CPU time of this thread since some moment: other load on the machine disturbs it less than wall time.
pub struct Cpu(f64);

impl Cpu {
    pub fn now() -> Cpu {
        let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the pointer is to a timespec that lives through the call.
        let done = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut t) };
        assert_eq!(done, 0);
        Cpu(t.tv_sec as f64 + t.tv_nsec as f64 / 1e9)
    }

    /// Seconds.
    pub fn elapsed(&self) -> f64 {
        Cpu::now().0 - self.0
    }
}

/// Repeated measurements of one thing.
#[derive(Debug, Clone, Copy)]
pub struct Figures {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Figures {
    pub fn of(mut all: Vec<f64>) -> Figures {
        all.sort_by(f64::total_cmp);
        Figures { median: all[all.len() / 2], min: all[0], max: all[all.len() - 1] }
    }

    /// What `once` returns, `rounds` times.
    pub fn measure(rounds: usize, mut once: impl FnMut() -> f64) -> Figures {
        Figures::of((0..rounds).map(|_| once()).collect())
    }

    pub fn map(self, f: impl Fn(f64) -> f64) -> Figures {
        let (a, b) = (f(self.min), f(self.max));
        Figures { median: f(self.median), min: a.min(b), max: a.max(b) }
    }
}

/// Numbers that look random and are the same in every run (splitmix64).
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// `n` hexadecimal digits.
    pub fn hex(&mut self, n: usize) -> String {
        (0..n.div_ceil(16)).map(|_| format!("{:016x}", self.next())).collect::<String>()[..n].to_string()
    }

    /// A container's cgroup as Kubernetes names them, 166 characters.
    pub fn cgroup(&mut self) -> String {
        let (pod, id) = (self.hex(32), self.hex(64));
        format!(
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{pod}.slice/cri-containerd-{id}.scope"
        )
    }
}

/// The time of a tick: a second apart, a little off as on a live host.
pub fn at(tick: u64) -> Stamp {
    Stamp {
        boot_ns: (100 + tick) * SEC + tick % 7 * 1000,
        wall_ns: (1_800_000_000 + tick) * SEC + tick % 5 * 900,
    }
}

/// A rule over one window, its threshold `x` in the shown unit. `second` is a further window and its line.
pub fn rule(id: &str, of: &str, x: f64, second: Option<(&str, f64)>) -> String {
    let (window, term) = match second {
        Some((of, y)) => (
            format!(", s: #{{ of: \"{of}\", calc: \"rate\", over: \"60s\" }}"),
            format!("w.r.value > p.x && w.s.value > {y:.1}"),
        ),
        None => (String::new(), "w.r.value > p.x".to_string()),
    };
    format!(
        r#"//! A rate is over its line.
const RULE = #{{
  id: "{id}", api: 1, severity: "warning", tags: ["bench"], subject: "cgroup", needs: ["bench"],
  params: #{{ x: #{{ value: {x:.1}, min: 0.0, help: "events a second that are too many" }} }},
  windows: #{{ r: #{{ of: "{of}", calc: "rate", over: "60s" }}{window} }},
  fire: #{{ hold: "2s" }}, clear: #{{ hold: "30s" }},
}};
fn enter(w, p) {{ {term} }}
fn leave(w, p) {{ w.r.value < p.x * 0.8 }}
fn verdict(w, p, ctx) {{
  cause("bench.over", "high").says(`${{ctx.name}}: ${{w.r.text}}`).evidence(w.r)
    .hint("look at it", ["systemctl", "status", ctx.unit], "none")
}}
fn test_fires_and_resolves(t) {{
  t.series("bench.f0{{cgroup=/a}}", "0x10");
  t.at("5s").expect("silent");
}}
"#
    )
}
