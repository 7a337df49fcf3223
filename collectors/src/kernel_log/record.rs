//! One record of /dev/kmsg, parsed. Source: Documentation/ABI/testing/dev-kmsg.
//!
//! Pure. Prefix `level|facility<<3,sequence,microseconds,flags[,more]`, a semicolon, the text with `\xNN` for bytes that
//! are not printable ASCII, and continuation lines ` KEY=value`.

use std::borrow::Cow;

use whystall_event::text;

/// A record of the kernel's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record<'a> {
    /// 0 emergency to 7 debug.
    pub(super) level: u8,
    /// 0 is the kernel; user space that writes to the log cannot set it.
    pub(super) facility: u32,
    /// Grows by one a record; a gap is what was overwritten before it was read.
    pub(super) seq: u64,
    /// The kernel's local clock, near to CLOCK_MONOTONIC.
    pub(super) ts_us: u64,
    /// The text, unescaped; may have several lines.
    pub(super) text: Cow<'a, str>,
    /// The device that it is about, from the line ` DEVICE=`, as the kernel writes it: `+pci:0000:00:19.0`, `n2`, `b8:0`.
    pub(super) device: Option<&'a str>,
}

/// Reads one record as one read(2) returns it.
pub(super) fn parse(bytes: &[u8]) -> Result<Record<'_>, &'static str> {
    let semicolon = bytes.iter().position(|&b| b == b';').ok_or("no semicolon")?;
    let (prefix, rest) = bytes.split_at(semicolon);
    let rest = rest.get(1..).unwrap_or_default();
    // More parts may follow the flags: `caller=T123` does, others may come.
    let mut parts = prefix.split(|&b| b == b',').map(number);
    let mut part = || parts.next().flatten();
    let priority = part().ok_or("no priority")?;
    let seq = part().ok_or("no sequence number")?;
    let ts_us = part().ok_or("no time")?;
    let mut lines = rest.split(|&b| b == b'\n');
    let body = lines.next().unwrap_or_default();
    let device = lines.filter_map(|l| std::str::from_utf8(l).ok()).find_map(|l| l.strip_prefix(" DEVICE="));
    Ok(Record {
        level: (priority & 7) as u8,
        facility: u32::try_from(priority >> 3).map_err(|_| "no such facility")?,
        seq,
        ts_us,
        text: unescape(body),
        device,
    })
}

fn number(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Turns `\xNN` back into the byte it stands for; what is no UTF-8 then stays escaped.
fn unescape(body: &[u8]) -> Cow<'_, str> {
    if !body.contains(&b'\\') {
        return text::from_bytes(body);
    }
    let mut out = Vec::with_capacity(body.len());
    let mut rest = body;
    while let Some((&first, tail)) = rest.split_first() {
        match escaped(rest) {
            Some(byte) => {
                out.push(byte);
                rest = rest.get(4..).unwrap_or_default();
            }
            None => {
                out.push(first);
                rest = tail;
            }
        }
    }
    Cow::Owned(text::from_bytes(&out).into_owned())
}

fn escaped(at: &[u8]) -> Option<u8> {
    let digits = at.strip_prefix(b"\\x")?.get(..2)?;
    // `from_str_radix` would take a sign.
    if !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn records() {
        let r = parse(b"3,339,5140900,-;NET: Registered protocol family 10\n").unwrap();
        assert_eq!((r.level, r.facility, r.seq, r.ts_us), (3, 0, 339, 5_140_900));
        assert_eq!((&*r.text, r.device), ("NET: Registered protocol family 10", None));
        let r = parse(b"6,340,5690716,-,caller=T1;udev: eth0\n SUBSYSTEM=net\n DEVICE=n2\n").unwrap();
        assert_eq!((&*r.text, r.device), ("udev: eth0", Some("n2")));
        let r = parse(b"12,9,1,c;a user's line").unwrap();
        assert_eq!((r.level, r.facility), (4, 1));
        let r = parse(b"6,1,2,-;caf\\xc3\\xa9 \\x5c \\x0a\\xff \\xg0 \\x+1 \\x").unwrap();
        assert_eq!(r.text, "café \\ \n\\xff \\xg0 \\x+1 \\x");
    }

    #[test]
    fn what_is_no_record() {
        for bad in ["", ";", "6,1;x", "a,1,2,-;x", "6,1,-2,-;x", "6,1,2,-", "99999999999999999999,1,2,-;x"] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }

        /// What the kernel escapes comes back as it was.
        #[test]
        fn text_round_trips(text in "[ -~é\n]{0,60}", seq in any::<u64>(), ts in any::<u64>(), prio in 0u64..192) {
            let escaped: String = (text.bytes())
                .map(|b| if (32..127).contains(&b) && b != b'\\' { char::from(b).to_string() } else { format!("\\x{b:02x}") })
                .collect();
            let line = format!("{prio},{seq},{ts},-;{escaped}\n SUBSYSTEM=x\n");
            let r = parse(line.as_bytes()).unwrap();
            prop_assert_eq!(&*r.text, &*text);
            prop_assert_eq!((r.seq, r.ts_us, u64::from(r.level) | u64::from(r.facility) << 3), (seq, ts, prio));
        }
    }
}
