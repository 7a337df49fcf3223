//! Reports of OOM kills: their lines, and which of them belong together. Pure.
//!
//! Source: mm/oom_kill.c, mm/memcontrol.c; texts as of kernels 5.3 and later.

use super::classify::{Found, Kind, just};

/// Reads a line of a report; `None` if it is none.
pub(super) fn read(l: &str) -> Option<Found<'_>> {
    if let Some(rest) = l.strip_prefix("oom-kill:constraint=") {
        return Some(oom_constraint(rest));
    }
    let kill = [
        ("Memory cgroup out of memory: Kill", Kind::OomMemcg),
        ("Out of memory", Kind::OomKill),
        ("Killed process ", Kind::OomKill),
    ];
    for (start, kind) in kill {
        if !l.starts_with(start) {
            continue;
        }
        let Some((_, who)) = l.split_once("Killed process ") else {
            continue;
        };
        let (pid, rest) = who.split_once(" (")?;
        // From the right: a comm may hold a parenthesis; what follows it is the kernel's.
        let comm = rest.rfind(") total-vm:").or_else(|| rest.rfind(')')).and_then(|i| rest.get(..i));
        return Some(Found { comm, pid: pid.parse().ok(), ..just(kind) });
    }
    let detail = l.contains(" invoked oom-killer: gfp_mask=")
        || l.starts_with("oom_reaper: ")
        || l.starts_with("Memory cgroup stats for ")
        || (l.starts_with("Tasks in ") && l.ends_with(" are going to be killed due to memory.oom.group set"));
    detail.then(|| just(Kind::OomDetail))
}

/// `CONSTRAINT_MEMCG,nodemask=…,cpuset=…,mems_allowed=…,oom_memcg=/a,task_memcg=/a/b,task=comm,pid=1,uid=0`: read from
/// the right, where the parts are the kernel's.
fn oom_constraint(rest: &str) -> Found<'_> {
    const COMM: usize = 15;
    let memcg = rest.starts_with("CONSTRAINT_MEMCG,");
    let mut found = just(if memcg { Kind::OomMemcg } else { Kind::OomKill });
    let Some((rest, pid)) = rest.rfind(",uid=").and_then(|i| rest.get(..i)?.rsplit_once(",pid=")) else {
        return found;
    };
    found.pid = pid.parse().ok();
    // A comm may contain `,task=` itself, and anyone can choose one; so may a cgroup's name, but fewer can. The comm is
    // at most 15 bytes, so the first mark that leaves no more than that is the kernel's.
    let from = rest.len().saturating_sub(COMM + ",task=".len());
    let from = (from..rest.len()).find(|&i| rest.is_char_boundary(i)).unwrap_or(rest.len());
    let Some(mark) = rest.get(from..).and_then(|tail| tail.find(",task=")).map(|i| from + i) else {
        return found;
    };
    found.comm = rest.get(mark + ",task=".len()..);
    let Some(groups) = rest.get(..mark) else {
        return found;
    };
    let Some((before, task_memcg)) = groups.split_once(",task_memcg=") else {
        return found;
    };
    found.cgroup = Some(task_memcg).filter(|p| p.starts_with('/'));
    found.limit_cgroup =
        before.split_once(",oom_memcg=").map(|(_, path)| path).filter(|p| memcg && p.starts_with('/'));
    found
}

/// Joins the lines of one OOM kill, so that each kill is reported once and with its cgroup.
#[derive(Debug, Default)]
pub(super) struct OomJoin {
    last: Option<Oom>,
}

#[derive(Debug)]
struct Oom {
    pid: u32,
    cgroup: Option<String>,
    limit: Option<String>,
    ts_us: u64,
    told: bool,
}

impl OomJoin {
    /// The lines of one OOM follow each other within this time.
    const TOGETHER_US: u64 = 1_000_000;

    /// Takes what the next line tells, in order. A kill is told by its constraint line or, where the kernel left that
    /// out (rate limit, further tasks of a group), by its `Killed process` line, which then gets the limit's cgroup.
    pub(super) fn join<'a>(&'a mut self, mut found: Found<'a>, ts_us: u64) -> Found<'a> {
        if !matches!(found.kind, Kind::OomKill | Kind::OomMemcg) {
            return found;
        }
        let Some(pid) = found.pid else { return found };
        let constraint = found.cgroup.is_some() || found.limit_cgroup.is_some();
        let recent = (self.last.as_mut()).filter(|o| ts_us.saturating_sub(o.ts_us) <= Self::TOGETHER_US);
        match recent {
            Some(o) if !constraint && o.pid == pid && o.told => {
                // Only once: the pid may be used again.
                o.told = false;
                found.kind = Kind::OomDetail;
            }
            _ if constraint => {
                let owned = |s: Option<&str>| s.map(str::to_string);
                let (cgroup, limit) = (owned(found.cgroup), owned(found.limit_cgroup));
                self.last = Some(Oom { pid, cgroup, limit, ts_us, told: true });
            }
            _ => {}
        }
        let Some(o) = self.last.as_ref().filter(|o| ts_us.saturating_sub(o.ts_us) <= Self::TOGETHER_US)
        else {
            return found;
        };
        if !constraint && (o.pid == pid || found.kind == Kind::OomMemcg) {
            found.limit_cgroup = o.limit.as_deref();
            found.cgroup = if o.pid == pid { o.cgroup.as_deref() } else { o.limit.as_deref() };
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::super::classify::classify;
    use super::*;

    #[test]
    fn a_hostile_comm_does_not_forge_a_cgroup() {
        // A comm that looks like the kernel's own parts.
        let l = "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=/a,task_memcg=/a/b,task=x,task=y,pid=7,pid=7,uid=0";
        let f = classify(l);
        assert_eq!(
            (f.cgroup, f.limit_cgroup, f.comm, f.pid),
            (Some("/a/b"), Some("/a"), Some("x,task=y,pid=7"), Some(7))
        );
    }

    #[test]
    fn one_kill_is_told_once_and_with_its_cgroup() {
        let line = |pid| {
            format!(
                "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=/a,task_memcg=/a/b,task=app,pid={pid},uid=0"
            )
        };
        let killed = |pid| {
            format!("Memory cgroup out of memory: Killed process {pid} (app) total-vm:1kB, anon-rss:1kB")
        };
        let mut join = OomJoin::default();
        let mut kinds = Vec::new();
        for (ts, l) in [(1, line(7)), (2, killed(7)), (3, killed(8)), (4, killed(7)), (3_000_000, killed(9))]
        {
            let f = join.join(classify(&l), ts);
            kinds.push((f.kind, f.cgroup.map(str::to_string)));
        }
        let s = |s: &str| Some(s.to_string());
        assert_eq!(
            kinds,
            [
                (Kind::OomMemcg, s("/a/b")),
                (Kind::OomDetail, s("/a/b")),
                (Kind::OomMemcg, s("/a")),
                (Kind::OomMemcg, s("/a/b")),
                (Kind::OomMemcg, None),
            ]
        );
    }
}
