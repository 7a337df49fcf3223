//! The kernel's symbols: addresses to names, from `/proc/kallsyms` (functions only), read when the first stack needs
//! them and kept compactly. Without CAP_SYSLOG the kernel shows zeros instead of addresses; then there are no names.

use std::io::{self, BufRead, BufReader};
use std::path::Path;

use whystall_event::text;

/// An address further behind its symbol than this belongs to something newer than the table.
const FURTHEST: u32 = 4 << 20;
/// More functions than any kernel has; the rest of the file is not read.
const MOST: usize = 400_000;
/// The space before a function has a symbol of its own, in which nothing runs: half of all symbols.
const PADDING: &[&[u8]] = &[b"__pfx_", b"__cfi_"];
/// Bytes of a name that are kept.
const LONGEST: usize = 128;

/// Functions by address.
#[derive(Debug, Default)]
pub(crate) struct Symbols {
    /// The lowest address.
    base: u64,
    /// Where each function begins behind `base`, ascending.
    addresses: Vec<u32>,
    /// Where its name begins in `names`; it ends where the next one in the file began, at a line feed.
    offsets: Vec<u32>,
    names: String,
}

impl Symbols {
    /// Reads the file at `path`.
    pub(crate) fn load(path: &Path) -> io::Result<Symbols> {
        Symbols::parse(BufReader::with_capacity(64 << 10, std::fs::File::open(path)?))
    }

    /// Reads lines of `ADDRESS TYPE NAME [MODULE]`; what is no such line is left out.
    pub(crate) fn parse(mut input: impl BufRead) -> io::Result<Symbols> {
        let (mut entries, mut names) = (Vec::<(u64, u32)>::new(), String::new());
        let mut line = Vec::new();
        while entries.len() < MOST {
            line.clear();
            if input.read_until(b'\n', &mut line)? == 0 {
                break;
            }
            let mut words = line.split(|b| b.is_ascii_whitespace());
            let (Some(address), Some(kind), Some(name)) = (words.next(), words.next(), words.next()) else {
                continue;
            };
            let address = std::str::from_utf8(address).ok().and_then(|a| u64::from_str_radix(a, 16).ok());
            let (Some(address), [b't' | b'T' | b'w' | b'W']) = (address.filter(|a| *a != 0), kind) else {
                continue;
            };
            if PADDING.iter().any(|p| name.starts_with(p)) {
                continue;
            }
            let Ok(offset) = u32::try_from(names.len()) else { break };
            let cut = name.len().min(LONGEST);
            names.push_str(&text::from_bytes(&name[..cut]));
            names.push('\n');
            entries.push((address, offset));
        }
        entries.sort_unstable();
        let base = entries.first().map_or(0, |e| e.0);
        // Functions of the kernel and its modules are within 4 GiB on every architecture that BPF compiles for.
        entries.retain(|e| u32::try_from(e.0 - base).is_ok());
        names.shrink_to_fit();
        Ok(Symbols {
            base,
            addresses: entries.iter().map(|e| (e.0 - base) as u32).collect(),
            offsets: entries.iter().map(|e| e.1).collect(),
            names,
        })
    }

    /// Whether no address is known.
    pub(crate) fn is_empty(&self) -> bool {
        self.addresses.is_empty()
    }

    /// The function that `address` is in.
    pub(crate) fn name(&self, address: u64) -> Option<&str> {
        let behind = u32::try_from(address.checked_sub(self.base)?).ok()?;
        let i = self.addresses.partition_point(|a| *a <= behind).checked_sub(1)?;
        if behind - self.addresses.get(i)? > FURTHEST {
            return None;
        }
        let from = self.names.get(*self.offsets.get(i)? as usize..)?;
        from.split('\n').next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn functions_by_address() {
        let s = Symbols::parse(
            &b"ffffffff81000200 T beta\nffffffff81000100 t alpha\nffffffff81000180 d data\nffffffffc0000000 t gamma\t[mod]\nno line\n"
                [..],
        )
        .unwrap();
        assert_eq!(s.name(0xffff_ffff_8100_0100), Some("alpha"));
        assert_eq!(s.name(0xffff_ffff_8100_01ff), Some("alpha"));
        assert_eq!(s.name(0xffff_ffff_8100_0200), Some("beta"));
        assert_eq!(s.name(0xffff_ffff_c000_0010), Some("gamma"));
        assert_eq!(s.name(0xffff_ffff_8100_00ff), None);
        assert_eq!(s.name(0xffff_ffff_9100_0000), None);
    }

    #[test]
    fn hidden_addresses_give_nothing() {
        assert!(Symbols::parse(&b"0000000000000000 T a\n0000000000000000 T b\n"[..]).unwrap().is_empty());
    }

    proptest! {
        #[test]
        fn never_panics(bytes: Vec<u8>, address: u64) {
            let s = Symbols::parse(&bytes[..]).unwrap();
            let _ = s.name(address);
        }
    }
}
