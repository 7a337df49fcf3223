//! Numbers and times as JSON lines write them, exactly: a decimal stays a decimal until its unit is known.

use std::fmt::Write;

use whystall_event::SEC;

/// `mantissa` × 10^`exponent`, as it was written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Decimal {
    pub(crate) negative: bool,
    pub(crate) mantissa: u64,
    pub(crate) exponent: i32,
    /// Set if there were more digits than a `u64` holds: then only this is right.
    pub(crate) rounded: Option<f64>,
}

/// Powers of ten that a `f64` holds exactly.
const TENS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18,
    1e19, 1e20, 1e21, 1e22,
];

impl Decimal {
    pub(crate) const fn whole(mantissa: u64) -> Decimal {
        Decimal {
            negative: false,
            mantissa,
            exponent: 0,
            rounded: None,
        }
    }

    /// This times 10^`power`, rounded to a whole number of at least 0.
    pub(crate) fn scaled(&self, power: i32) -> Result<u64, &'static str> {
        if let Some(v) = self.rounded {
            let v = v * 10f64.powi(power);
            return match v {
                _ if v < 0.0 => Err("is negative"),
                _ if v < 18_446_744_073_709_549_568.0 => Ok(v.round() as u64),
                _ => Err("is too large"),
            };
        }
        if self.negative && self.mantissa != 0 {
            return Err("is negative");
        }
        let exponent = self.exponent.saturating_add(power);
        if self.mantissa == 0 {
            return Ok(0);
        }
        let ten = 10u64.checked_pow(exponent.unsigned_abs());
        if exponent >= 0 {
            ten.and_then(|t| self.mantissa.checked_mul(t))
                .ok_or("is too large")
        } else {
            Ok(ten.map_or(0, |t| {
                self.mantissa / t + u64::from(self.mantissa % t >= t.div_ceil(2))
            }))
        }
    }

    /// The nearest `f64`; `text` is how it was written.
    pub(crate) fn float(&self, text: &str) -> f64 {
        if let Some(v) = self.rounded {
            return v;
        }
        let power = self.exponent.unsigned_abs() as usize;
        let sign = if self.negative { -1.0 } else { 1.0 };
        // Both are exact, so one operation rounds once.
        if self.mantissa <= 1 << 53 && power < TENS.len() {
            let m = self.mantissa as f64;
            return sign
                * if self.exponent < 0 {
                    m / TENS[power]
                } else {
                    m * TENS[power]
                };
        }
        text.parse().unwrap_or(f64::NAN)
    }
}

/// Reads a time such as `2026-11-22T10:00:00.123Z` or `2026-11-22 11:00:00+01:00` into nanoseconds since 1970.
pub(crate) fn parse_rfc3339(s: &str) -> Option<u64> {
    let b = s.as_bytes();
    let number = |from: usize, to: usize| -> Option<i64> {
        let digits = b.get(from..to)?;
        digits
            .iter()
            .try_fold(0, |n, d| d.is_ascii_digit().then(|| n * 10 + i64::from(d - b'0')))
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
    u64::try_from(seconds)
        .ok()?
        .checked_mul(SEC)?
        .checked_add(nanos as u64)
}

/// Appends `value` / 10^`digits` without loss and without needless zeros: `1234`, 3 becomes `1.234`.
pub(crate) fn put_scaled(out: &mut String, value: u64, digits: u32) {
    let unit = 10u64.pow(digits);
    // Writing to a String cannot fail.
    let _ = write!(out, "{}", value / unit);
    let rest = value % unit;
    if rest != 0 {
        let _ = write!(out, ".{rest:0width$}", width = digits as usize);
        out.truncate(out.trim_end_matches('0').len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use whystall_event::format_rfc3339;

    #[test]
    fn times() {
        for (s, want) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2024-02-29T12:34:56.123Z", Some(1_709_210_096_123_000_000)),
            (
                "2024-02-29 13:34:56.123456789123+01:00",
                Some(1_709_210_096_123_456_789),
            ),
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
    fn decimals() {
        let d = |mantissa, exponent| Decimal {
            negative: false,
            mantissa,
            exponent,
            rounded: None,
        };
        assert_eq!(d(125, -1).scaled(9), Ok(12_500_000_000));
        assert_eq!(d(15, -1).scaled(0), Ok(2));
        assert_eq!(d(14, -1).scaled(0), Ok(1));
        assert_eq!(d(1, i32::MAX).scaled(9), Err("is too large"));
        assert_eq!(d(1, i32::MIN).scaled(-9), Ok(0));
        assert_eq!(d(u64::MAX, 0).scaled(0), Ok(u64::MAX));
        assert_eq!(
            Decimal {
                negative: true,
                ..d(1, 0)
            }
            .scaled(0),
            Err("is negative")
        );
        assert_eq!(d(1, -1).float("0.1"), 0.1);
        assert_eq!(
            d(17_976_931_348_623_157, 292).float("17976931348623157e292"),
            f64::MAX
        );
    }

    proptest! {
        #[test]
        fn milliseconds_keep_every_nanosecond(v: u64) {
            let mut s = String::new();
            put_scaled(&mut s, v, 6);
            let (whole, part) = s.split_once('.').unwrap_or((&s, ""));
            let mantissa = format!("{whole}{part}").parse().unwrap();
            let d = Decimal { negative: false, mantissa, exponent: -(part.len() as i32), rounded: None };
            prop_assert_eq!(d.scaled(6), Ok(v));
        }

        #[test]
        fn rfc3339_is_the_inverse_of_formatting(ms in 0..4_102_444_800_000u64) {
            prop_assert_eq!(parse_rfc3339(&format_rfc3339(ms * 1_000_000)), Some(ms * 1_000_000));
        }

        #[test]
        fn any_text_is_safe(s: String) {
            let _ = parse_rfc3339(&s);
        }
    }
}
