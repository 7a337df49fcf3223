//! The files that `schedstat` reads, as pure functions over bytes.
//!
//! Sources: Documentation/scheduler/sched-stats.rst, proc_pid_stat(5), proc_loadavg(5), cgroups(7).

use whystall_event::text;

use crate::scan::{Malformed, columns, dec, dec32, lines};

/// `/proc/PID/schedstat`: times in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sched {
    /// Time on a CPU.
    pub(crate) run: u64,
    /// Time runnable but waiting; a wait counts when it ends.
    pub(crate) delay: u64,
    /// Times it was put on a CPU.
    pub(crate) slices: u64,
}

/// Parses `/proc/PID/schedstat`.
pub(crate) fn parse_task(bytes: &[u8]) -> Option<Sched> {
    let mut c = columns(bytes.trim_ascii_end());
    let mut next = || c.next().and_then(dec);
    Some(Sched { run: next()?, delay: next()?, slices: next()? })
}

/// What `/proc/PID/stat` is read for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stat<'a> {
    pub(crate) comm: &'a [u8],
    /// `R` running or runnable, `S`, `D`, …
    pub(crate) state: u8,
    /// Flag PF_KTHREAD.
    pub(crate) kthread: bool,
    /// When it started, in clock ticks since boot.
    pub(crate) start_ticks: u64,
    /// The CPU it ran on last.
    pub(crate) cpu: u32,
    /// 1 to 99, 0 for policies that are not real-time.
    pub(crate) rt_prio: u32,
    /// SCHED_OTHER 0, FIFO 1, RR 2, BATCH 3, IDLE 5, DEADLINE 6, EXT 7.
    pub(crate) policy: u32,
}

const PF_KTHREAD: u64 = 0x0020_0000;

/// Parses `/proc/PID/stat`. The name stands in parentheses and may itself hold blanks, parentheses and newlines.
pub(crate) fn parse_stat(bytes: &[u8]) -> Option<Stat<'_>> {
    let open = bytes.iter().position(|b| *b == b'(')?;
    let close = bytes.iter().rposition(|b| *b == b')')?;
    let comm = bytes.get(open + 1..close)?;
    // The columns after the name begin with number 3 of proc_pid_stat(5).
    let mut c = columns(bytes.get(close + 1..)?.trim_ascii_end());
    let state = *c.next()?.first()?;
    let flags = dec(c.nth(5)?)?;
    let start_ticks = dec(c.nth(12)?)?;
    let cpu = dec32(c.nth(16)?)?;
    let rt_prio = dec32(c.next()?)?;
    let policy = dec32(c.next()?)?;
    Some(Stat { comm, state, kthread: flags & PF_KTHREAD != 0, start_ticks, cpu, rt_prio, policy })
}

/// The control group of a task from `/proc/PID/cgroup`: that of the v1 `cpu` controller, else that of v2.
pub(crate) fn parse_cgroup(bytes: &[u8]) -> Option<String> {
    let mut unified = None;
    for line in bytes.split(|b| *b == b'\n') {
        let mut parts = line.splitn(3, |b| *b == b':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        if controllers.split(|b| *b == b',').any(|c| c == b"cpu") {
            return Some(shown(path));
        }
        if controllers.is_empty() {
            unified = Some(path);
        }
    }
    unified.map(shown)
}

fn shown(path: &[u8]) -> String {
    // A task in a group that was removed.
    text::from_bytes(path.strip_suffix(b" (deleted)").unwrap_or(path)).into_owned()
}

/// `/proc/loadavg`, without the averages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Load {
    /// Tasks running or runnable now, the reader included.
    pub(crate) running: u64,
    /// All tasks, threads included.
    pub(crate) tasks: u64,
    /// The pid given out last.
    pub(crate) last_pid: u64,
}

/// Parses `/proc/loadavg`.
pub(crate) fn parse_loadavg(bytes: &[u8]) -> Option<Load> {
    let mut c = columns(bytes.trim_ascii_end());
    let counts = c.nth(3)?;
    let slash = counts.iter().position(|b| *b == b'/')?;
    Some(Load {
        running: dec(&counts[..slash])?,
        tasks: dec(&counts[slash + 1..])?,
        last_pid: c.next().and_then(dec)?,
    })
}

/// Parses the CPU lines of `/proc/schedstat`. They are the same in versions 15 to 17 (which differ in the domain lines);
/// columns 7 to 9 are time run, time waited (nanoseconds) and time slices.
pub(crate) fn parse_host(bytes: &[u8], out: &mut Vec<(u32, Sched)>) -> Result<(), Malformed> {
    let mut known = false;
    for line in lines(bytes) {
        let (number, line) = line?;
        let mut c = columns(line);
        let Some(first) = c.next() else { continue };
        if first == b"version" {
            let version = c.dec(number, "a version")?;
            if !(15..=17).contains(&version) {
                return Err(Malformed::new(number, format!("version {version} is none of 15 to 17")));
            }
            known = true;
        } else if let Some(cpu) = first.strip_prefix(b"cpu").and_then(dec32) {
            if !known {
                return Err(Malformed::expected(number, "a version before the CPUs", line));
            }
            for _ in 0..6 {
                c.dec(number, "a count")?;
            }
            let run = c.dec(number, "time run")?;
            let delay = c.dec(number, "time waited")?;
            let slices = c.dec(number, "time slices")?;
            out.push((cpu, Sched { run, delay, slices }));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn tasks() {
        assert_eq!(parse_task(b"68221 49605 2\n"), Some(Sched { run: 68_221, delay: 49_605, slices: 2 }));
        for bad in [&b""[..], b"1 2\n", b"1 2 x\n", b"-1 2 3\n"] {
            assert_eq!(parse_task(bad), None);
        }
    }

    const STAT: &[u8] = b"16116 (a) R (b\n) S 16108 16108 3798 0 -1 2129984 100 0 0 0 0 0 0 0 -51 0 1 0 257328 3133440 410 18446744073709551615 94432483467264 94432483487145 140731355589072 0 0 0 0 0 0 0 0 0 17 1 50 1 0 0 0 94432483503152 94432483504768 94432709197824 140731355597330 140731355597350 140731355597350 140731355598827 0\n";

    #[test]
    fn a_name_may_hold_anything() {
        let s = parse_stat(STAT).unwrap();
        assert_eq!((s.comm, s.state, s.kthread), (&b"a) R (b\n"[..], b'S', true));
        assert_eq!((s.start_ticks, s.cpu, s.rt_prio, s.policy), (257_328, 1, 50, 1));
        assert_eq!(parse_stat(b"1 (x) R 1 2 3\n"), None);
        assert_eq!(parse_stat(b"1 )x( R 1 2 3\n"), None);
    }

    #[test]
    fn control_groups() {
        let hybrid = b"9:name=systemd:/x\n4:memory:/m\n2:cpu,cpuacct:/kube/a:b\n0::/u\n";
        assert_eq!(parse_cgroup(hybrid).as_deref(), Some("/kube/a:b"));
        assert_eq!(parse_cgroup(b"4:memory:/m\n0::/u (deleted)\n").as_deref(), Some("/u"));
        assert_eq!(parse_cgroup(b"3:cpuset:/c\n"), None);
        assert_eq!(parse_cgroup(b"0::/\xff\n").as_deref(), Some("/\\xff"));
    }

    #[test]
    fn load() {
        let load = Load { running: 4, tasks: 105, last_pid: 10_740 };
        assert_eq!(parse_loadavg(b"0.36 0.28 0.13 4/105 10740\n"), Some(load));
        assert_eq!(parse_loadavg(b"0.36 0.28 0.13\n"), None);
    }

    #[test]
    fn versions_of_the_host_file() {
        let v15 = "version 15\ntimestamp 4294967295\ncpu0 0 0 1 2 3 4 1000 200 30\ndomain0 3 0 0 0\ncpu1 0 0 1 2 3 4 5000 600 70\n";
        let want = vec![
            (0, Sched { run: 1000, delay: 200, slices: 30 }),
            (1, Sched { run: 5000, delay: 600, slices: 70 }),
        ];
        for version in ["15", "16", "17"] {
            let text = v15.replacen("15", version, 1).replace("domain0 3", "domain0 MC 3");
            let mut out = Vec::new();
            parse_host(text.as_bytes(), &mut out).unwrap();
            assert_eq!(out, want, "version {version}");
        }
        for bad in
            ["version 14\n", "version 18\ncpu0 1\n", "cpu0 1 2 3 4 5 6 7 8 9\n", "version 15\ncpu0 1 2 3\n"]
        {
            assert!(parse_host(bad.as_bytes(), &mut Vec::new()).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = (parse_task(&bytes), parse_stat(&bytes), parse_cgroup(&bytes), parse_loadavg(&bytes));
            let _ = parse_host(&bytes, &mut Vec::new());
        }

        #[test]
        fn any_name_comes_back(comm in proptest::collection::vec(1u8..=255, 0..15)) {
            let mut line = b"1 (".to_vec();
            line.extend_from_slice(&comm);
            line.extend_from_slice(&STAT[STAT.iter().rposition(|b| *b == b')').unwrap()..]);
            let stat = parse_stat(&line).unwrap();
            prop_assert_eq!((stat.comm, stat.rt_prio), (&comm[..], 50));
        }
    }
}
