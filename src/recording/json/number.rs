//! Numbers as JSON lines write them, exactly: a decimal stays a decimal until its unit is known.

use std::fmt::Write;

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
        Decimal { negative: false, mantissa, exponent: 0, rounded: None }
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
            ten.and_then(|t| self.mantissa.checked_mul(t)).ok_or("is too large")
        } else {
            Ok(ten.map_or(0, |t| self.mantissa / t + u64::from(self.mantissa % t >= t.div_ceil(2))))
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
            return sign * if self.exponent < 0 { m / TENS[power] } else { m * TENS[power] };
        }
        text.parse().unwrap_or(f64::NAN)
    }
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

    #[test]
    fn decimals() {
        let d = |mantissa, exponent| Decimal { negative: false, mantissa, exponent, rounded: None };
        assert_eq!(d(125, -1).scaled(9), Ok(12_500_000_000));
        assert_eq!(d(15, -1).scaled(0), Ok(2));
        assert_eq!(d(14, -1).scaled(0), Ok(1));
        assert_eq!(d(1, i32::MAX).scaled(9), Err("is too large"));
        assert_eq!(d(1, i32::MIN).scaled(-9), Ok(0));
        assert_eq!(d(u64::MAX, 0).scaled(0), Ok(u64::MAX));
        assert_eq!(Decimal { negative: true, ..d(1, 0) }.scaled(0), Err("is negative"));
        assert_eq!(d(1, -1).float("0.1"), 0.1);
        assert_eq!(d(17_976_931_348_623_157, 292).float("17976931348623157e292"), f64::MAX);
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
    }
}
