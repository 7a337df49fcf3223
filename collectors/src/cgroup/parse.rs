//! The formats of control group files, as pure functions over bytes.
//!
//! Source: Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/*.rst ("flat keyed", single values), and
//! Documentation/accounting/psi.rst. Anything that does not look like its format is left out, never guessed.

/// The whole number in a single-value file, such as `memory.failcnt`.
pub(crate) fn number(bytes: &[u8]) -> Option<u64> {
    let digits = bytes.trim_ascii();
    if digits.is_empty() || digits.len() > 20 {
        return None;
    }
    let mut n = 0u64;
    for b in digits {
        let d = b.checked_sub(b'0').filter(|d| *d < 10)?;
        n = n.checked_mul(10)?.checked_add(u64::from(d))?;
    }
    Some(n)
}

/// The key and number of each line of a flat keyed file (`memory.stat`, `memory.events`, `cpu.stat`, `cgroup.stat`).
/// Lines of another shape are skipped.
pub(crate) fn flat_keyed(bytes: &[u8]) -> impl Iterator<Item = (&[u8], u64)> {
    bytes.split(|b| *b == b'\n').filter_map(|line| {
        let space = line.iter().position(|b| *b == b' ')?;
        Some((&line[..space], number(&line[space + 1..])?))
    })
}

/// The value of one key in a flat keyed file.
pub(crate) fn value_of(bytes: &[u8], key: &[u8]) -> Option<u64> {
    flat_keyed(bytes).find(|(k, _)| *k == key).map(|(_, v)| v)
}

/// A memory limit as [`memory_limit`] reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limit {
    /// `max` on v2, the page counter's maximum on v1.
    Unlimited,
    /// Bytes.
    Bytes(u64),
}

/// `memory.max`, `memory.high` (v2) or `memory.limit_in_bytes` (v1). On v1 "unlimited" is the greatest number of pages
/// in bytes, which depends on the page size; everything from 2^62 on counts as unlimited.
pub(crate) fn memory_limit(bytes: &[u8]) -> Option<Limit> {
    if bytes.trim_ascii() == b"max" {
        return Some(Limit::Unlimited);
    }
    number(bytes).map(|n| if n >= 1 << 62 { Limit::Unlimited } else { Limit::Bytes(n) })
}

/// Totals of a pressure file in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Pressure {
    /// Time in which at least one task stalled.
    pub(crate) some: Option<u64>,
    /// Time in which all runnable tasks stalled; `cpu.pressure` before 5.13 has none.
    pub(crate) full: Option<u64>,
}

/// A pressure file (`memory.pressure`, `cpu.pressure`, `/proc/pressure/*`). The file counts microseconds.
pub(crate) fn pressure(bytes: &[u8]) -> Pressure {
    let mut p = Pressure::default();
    for line in bytes.split(|b| *b == b'\n') {
        let mut words = line.split(|b| *b == b' ');
        let kind = words.next().unwrap_or_default();
        let total = words.find_map(|w| w.strip_prefix(b"total=")).and_then(number);
        let ns = total.and_then(|us| us.checked_mul(1000));
        match kind {
            b"some" => p.some = ns,
            b"full" => p.full = ns,
            _ => {}
        }
    }
    p
}

/// A CPU quota.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Quota {
    /// No quota.
    None,
    /// CPUs' worth of time: quota divided by period.
    Cpus(f64),
}

/// `cpu.max` (v2): `max 100000` or `20000 100000`.
pub(crate) fn cpu_max(bytes: &[u8]) -> Option<Quota> {
    let line = bytes.trim_ascii();
    let space = line.iter().position(|b| *b == b' ')?;
    let period = number(&line[space + 1..])?;
    match &line[..space] {
        b"max" => Some(Quota::None),
        quota => cpus(number(quota)?, period),
    }
}

/// `cpu.cfs_quota_us` and `cpu.cfs_period_us` (v1); a quota of -1 is none.
pub(crate) fn cfs_quota(quota: &[u8], period: &[u8]) -> Option<Quota> {
    if quota.trim_ascii().starts_with(b"-") {
        return Some(Quota::None);
    }
    cpus(number(quota)?, number(period)?)
}

fn cpus(quota: u64, period: u64) -> Option<Quota> {
    (period > 0).then(|| Quota::Cpus(quota as f64 / period as f64))
}

/// The number of control groups that exist in `controller`'s hierarchy, dying ones included, from `/proc/cgroups`.
/// `None` if the controller is not listed or not mounted in a v1 hierarchy (hierarchy 0).
pub(crate) fn num_cgroups(bytes: &[u8], controller: &[u8]) -> Option<u64> {
    bytes.split(|b| *b == b'\n').find_map(|line| {
        let mut words = line.split(|b| matches!(b, b'\t' | b' ')).filter(|w| !w.is_empty());
        (words.next()? == controller).then_some(())?;
        (number(words.next()?)? > 0).then_some(())?;
        number(words.next()?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers() {
        assert_eq!(number(b"42\n"), Some(42));
        assert_eq!(number(b"18446744073709551615"), Some(u64::MAX));
        for bad in [&b""[..], b"\n", b"-1", b"18446744073709551616", b"4x", b"max", b"1 2", b"+1"] {
            assert_eq!(number(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn keyed_lines_of_another_shape_are_skipped() {
        let text = b"low 0\nhigh 12\njunk\nmax x\n\noom_kill 3";
        let got: Vec<_> = flat_keyed(text).collect();
        assert_eq!(got, [(&b"low"[..], 0), (b"high", 12), (b"oom_kill", 3)]);
        assert_eq!(value_of(text, b"high"), Some(12));
        assert_eq!(value_of(text, b"hig"), None);
    }

    #[test]
    fn limits() {
        assert_eq!(memory_limit(b"max\n"), Some(Limit::Unlimited));
        assert_eq!(memory_limit(b"9223372036854771712\n"), Some(Limit::Unlimited));
        assert_eq!(memory_limit(b"268435456\n"), Some(Limit::Bytes(268_435_456)));
        assert_eq!(memory_limit(b""), None);
        assert_eq!(cpu_max(b"max 100000\n"), Some(Quota::None));
        assert_eq!(cpu_max(b"20000 100000\n"), Some(Quota::Cpus(0.2)));
        assert_eq!(cpu_max(b"20000 0\n"), None);
        assert_eq!(cfs_quota(b"-1\n", b"100000\n"), Some(Quota::None));
        assert_eq!(cfs_quota(b"150000\n", b"100000\n"), Some(Quota::Cpus(1.5)));
        assert_eq!(cfs_quota(b"", b"100000\n"), None);
    }

    #[test]
    fn pressures() {
        let text = b"some avg10=0.06 avg60=0.09 avg300=0.04 total=1513026\nfull avg10=0.06 avg60=0.09 avg300=0.04 total=1385748\n";
        assert_eq!(pressure(text), Pressure { some: Some(1_513_026_000), full: Some(1_385_748_000) });
        assert_eq!(pressure(b"some avg10=0.00 total=7\n"), Pressure { some: Some(7000), full: None });
        assert_eq!(pressure(b""), Pressure::default());
    }

    #[test]
    fn counts() {
        let text = b"#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t1\t1\t1\nmemory\t4\t15\t1\nnet_cls\t0\t1\t1\n";
        assert_eq!(num_cgroups(text, b"memory"), Some(15));
        assert_eq!(num_cgroups(text, b"net_cls"), None);
        assert_eq!(num_cgroups(text, b"mem"), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = (number(&bytes), memory_limit(&bytes), pressure(&bytes), cpu_max(&bytes));
            let _ = (num_cgroups(&bytes, b"memory"), cfs_quota(&bytes, &bytes), flat_keyed(&bytes).count());
        }

        #[test]
        fn what_the_kernel_prints_is_read(
            rows in proptest::collection::vec(("[a-z_]{1,20}", any::<u64>()), 0..40),
        ) {
            let text: String = rows.iter().map(|(k, v)| format!("{k} {v}\n")).collect();
            let got: Vec<(String, u64)> = flat_keyed(text.as_bytes())
                .map(|(k, v)| (String::from_utf8_lossy(k).into_owned(), v))
                .collect();
            prop_assert_eq!(got, rows);
        }

        #[test]
        fn pressure_round_trips(some in 0..u64::MAX / 1000, full in 0..u64::MAX / 1000) {
            let text = format!("some avg10=0.00 avg60=0.00 avg300=0.00 total={some}\nfull avg10=0.00 avg60=0.00 avg300=0.00 total={full}\n");
            prop_assert_eq!(
                pressure(text.as_bytes()),
                Pressure { some: Some(some * 1000), full: Some(full * 1000) }
            );
        }
    }
}
