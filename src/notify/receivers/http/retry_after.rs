//! The header `Retry-After`: seconds or an HTTP date (RFC 9110, 10.2.3).

use std::time::{Duration, SystemTime};

/// A peer that asks for more is asked again after this.
const LONGEST: Duration = Duration::from_secs(7 * 86_400);

/// How long to wait from `now` on, at most a week; `None` if it says nothing that is understood.
pub fn parse_retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    let wait = if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        // More digits than fit are a long time.
        value.parse().map_or(LONGEST, Duration::from_secs)
    } else {
        httpdate::parse_http_date(value).ok()?.duration_since(now).unwrap_or_default()
    };
    Some(wait.min(LONGEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_and_dates() {
        let now = httpdate::parse_http_date("Wed, 21 Oct 2026 07:28:00 GMT").unwrap();
        for (value, seconds) in [
            ("0", Some(0)),
            (" 120 ", Some(120)),
            ("99999999999999999999999", Some(604_800)),
            ("Wed, 21 Oct 2026 07:30:00 GMT", Some(120)),
            ("Wednesday, 21-Oct-26 07:28:30 GMT", Some(30)),
            ("Wed Oct 21 07:28:07 2026", Some(7)),
            ("Wed, 21 Oct 2020 07:28:00 GMT", Some(0)),
            ("", None),
            ("-1", None),
            ("+1", None),
            ("1.5", None),
            ("soon", None),
        ] {
            assert_eq!(parse_retry_after(value, now), seconds.map(Duration::from_secs), "{value:?}");
        }
    }
}
