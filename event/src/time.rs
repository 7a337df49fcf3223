//! Time as data. Nothing here asks a clock.

/// Nanoseconds in a millisecond.
pub const MS: u64 = 1_000_000;
/// Nanoseconds in a second.
pub const SEC: u64 = 1_000_000_000;

/// A point in time: the monotonic clock that goes on during suspend, and the wall clock for display.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stamp {
    /// CLOCK_BOOTTIME, nanoseconds.
    pub boot_ns: u64,
    /// CLOCK_REALTIME, nanoseconds since the Unix epoch.
    pub wall_ns: u64,
}

impl Stamp {
    /// The wall time that belongs to another boot time, as the clocks stood at this stamp.
    pub fn wall_at(&self, boot_ns: u64) -> u64 {
        if boot_ns >= self.boot_ns {
            self.wall_ns.saturating_add(boot_ns - self.boot_ns)
        } else {
            self.wall_ns.saturating_sub(self.boot_ns - boot_ns)
        }
    }
}

/// Reads a duration such as `500ms`, `10s`, `1.5h` or `2d` into nanoseconds.
pub fn parse_duration(s: &str) -> Result<u64, String> {
    let s = s.trim();
    let split = s.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(s.len());
    let (number, unit) = s.split_at(split);
    let ns = match unit.trim() {
        "ns" => 1.0,
        "us" | "µs" => 1e3,
        "ms" => 1e6,
        "s" => 1e9,
        "m" | "min" => 60e9,
        "h" => 3600e9,
        "d" => 86_400e9,
        "w" => 604_800e9,
        "" => {
            return Err(format!("`{}` has no unit: write for example 500ms, 10s, 5m, 1h, 2d", escaped(s)));
        }
        u => {
            return Err(format!("`{}` is no unit of time: use ns, us, ms, s, m, h, d or w", escaped(u)));
        }
    };
    let value: f64 = number.parse().map_err(|_| format!("`{}` is no duration", escaped(s)))?;
    let total = value * ns;
    if total.is_finite() && total < 9e18 {
        Ok(total.round() as u64)
    } else {
        Err(format!("`{}` is too long", escaped(s)))
    }
}

fn escaped(s: &str) -> String {
    crate::text::escape(s).into_owned()
}

/// A duration for people and configs, in the largest unit that divides it: `10s`, `1500ms`, `2h`.
pub fn format_duration(ns: u64) -> String {
    for (unit, name) in [(86_400 * SEC, "d"), (3600 * SEC, "h"), (60 * SEC, "m"), (SEC, "s"), (MS, "ms")] {
        if ns >= unit && ns.is_multiple_of(unit) {
            return format!("{}{name}", ns / unit);
        }
    }
    if ns >= SEC {
        format!("{:.1}s", ns as f64 / SEC as f64)
    } else if ns >= MS {
        format!("{:.1}ms", ns as f64 / MS as f64)
    } else if ns == 0 {
        "0s".into()
    } else {
        format!("{ns}ns")
    }
}

/// A wall time as RFC 3339 in UTC with milliseconds: `2026-11-22T10:00:00.123Z`.
pub fn format_rfc3339(wall_ns: u64) -> String {
    let (secs, ms) = (wall_ns / SEC, wall_ns % SEC / MS);
    let (days, rest) = (secs / 86_400, secs % 86_400);
    // Days to civil date: the proleptic Gregorian calendar in eras of 400 years, years beginning in March.
    let z = days as i64 + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + i64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{ms:03}Z",
        rest / 3600,
        rest % 3600 / 60,
        rest % 60
    )
}

/// Reads a time such as `2026-11-22T10:00:00.123Z` or `2026-11-22 11:00:00+01:00` into nanoseconds since 1970.
pub fn parse_rfc3339(s: &str) -> Option<u64> {
    let b = s.as_bytes();
    let number = |from: usize, to: usize| -> Option<i64> {
        let digits = b.get(from..to)?;
        digits.iter().try_fold(0, |n, d| d.is_ascii_digit().then(|| n * 10 + i64::from(d - b'0')))
    };
    let is = |at: usize, c: &[u8]| b.get(at).is_some_and(|b| c.contains(b));
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let marks = is(4, b"-") && is(7, b"-") && is(10, b"Tt ") && is(13, b":") && is(16, b":");
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let last = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    // A leap second counts as the one after it.
    if !marks || !(1..=last).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let mut at = 19;
    let mut nanos = 0;
    if is(at, b".,") {
        at += 1;
        let from = at;
        let mut unit = (SEC / 10) as i64;
        while let Some(d) = b.get(at).filter(|d| d.is_ascii_digit()) {
            nanos += i64::from(d - b'0') * unit;
            unit /= 10;
            at += 1;
        }
        if at == from {
            return None;
        }
    }
    let offset = if is(at, b"Zz") && b.len() == at + 1 {
        0
    } else if is(at, b"+-") && is(at + 3, b":") && b.len() == at + 6 {
        let minutes = number(at + 1, at + 3)? * 60 + number(at + 4, at + 6)?;
        if is(at, b"-") { -minutes } else { minutes }
    } else {
        return None;
    };
    // Days since 1970 in eras of 400 years, years beginning in March.
    let y = if month <= 2 { year - 1 } else { year };
    let (era, yoe) = (y.div_euclid(400), y.rem_euclid(400));
    let doy = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719_468;
    let seconds = days * 86_400 + (hour * 60 + minute - offset) * 60 + second;
    u64::try_from(seconds).ok()?.checked_mul(SEC)?.checked_add(nanos as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(parse_duration("10s"), Ok(10 * SEC));
        assert_eq!(parse_duration("1.5h"), Ok(5400 * SEC));
        assert_eq!(parse_duration("250ms"), Ok(250 * MS));
        for bad in ["", "10", "s", "-1s", "10 parsecs", "1..2s", "99999999999999w"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
        for good in ["10s", "2m", "90s", "4h", "250ms", "2d", "0s"] {
            let shown = format_duration(parse_duration(good).unwrap());
            assert_eq!(parse_duration(&shown), parse_duration(good), "{good} as {shown}");
        }
    }

    #[test]
    fn rfc3339_is_read() {
        for (s, want) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2024-02-29T12:34:56.123Z", Some(1_709_210_096_123_000_000)),
            ("2024-02-29 13:34:56.123456789123+01:00", Some(1_709_210_096_123_456_789)),
            ("2024-02-29t07:04:56.123-05:30", Some(1_709_210_096_123_000_000)),
            ("2023-02-29T00:00:00Z", None),
            ("2024-13-01T00:00:00Z", None),
            ("2024-01-01T24:00:00Z", None),
            ("2024-01-01T00:00:00", None),
            ("2024-01-01T00:00:00.Z", None),
            ("1960-01-01T00:00:00Z", None),
            ("9999-01-01T00:00:00Z", None),
            ("ünïcode-text-here-äöü", None),
            ("", None),
        ] {
            assert_eq!(parse_rfc3339(s), want, "{s}");
        }
    }

    #[test]
    fn rfc3339() {
        assert_eq!(format_rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(format_rfc3339(1_709_210_096_123_000_000), "2024-02-29T12:34:56.123Z");
        assert_eq!(format_rfc3339(4_102_444_799_999_999_999), "2099-12-31T23:59:59.999Z");
    }

    proptest::proptest! {
        #[test]
        fn reading_is_the_inverse_of_formatting(ms in 0..4_102_444_800_000u64) {
            proptest::prop_assert_eq!(parse_rfc3339(&format_rfc3339(ms * MS)), Some(ms * MS));
        }

        #[test]
        fn any_text_is_safe_as_a_time(s: String) {
            let _ = parse_rfc3339(&s);
        }
    }
}
