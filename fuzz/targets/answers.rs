//! What peers and the store hand to receivers: `Retry-After`, the progress of an email, addresses of names.
#![no_main]

use std::time::{Duration, SystemTime};

use libfuzzer_sys::fuzz_target;
use whystall::notify::receivers::{Progress, check_address, parse_retry_after};

fuzz_target!(|text: &str| {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    if let Some(wait) = parse_retry_after(text, now) {
        assert!(wait <= Duration::from_secs(7 * 86_400), "nobody waits longer than a week");
    }
    if let Some(progress) = Progress::parse(text) {
        // What is written can be read back as the same.
        let written = serde_json::to_string(&progress).expect("it was read from JSON");
        assert_eq!(Progress::parse(&written), Some(progress));
    }
    if let Ok(ip) = text.parse::<std::net::Ipv4Addr>() {
        // An address wrapped into IPv6 is judged as itself.
        assert_eq!(check_address(ip.into()).is_ok(), check_address(ip.to_ipv6_mapped().into()).is_ok());
    }
});
