//! An incident's id.

use whystall_event::Stamp;

use super::member::Member;

/// A ULID whose random part is a hash of what the incident began with, so that a replay gives the same.
pub(super) fn incident_id(host: &str, m: &Member, now: Stamp) -> String {
    let ms = now.wall_at(m.started_ns) / 1_000_000;
    // FNV-1a: stable across versions and machines, which the standard hasher does not promise.
    let mut h: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    for b in format!("{host}\0{}\0{}\0{}", m.manifest.id, m.subject, m.started_ns).bytes() {
        h = (h ^ u128::from(b)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
    }
    let bits = u128::from(ms & ((1 << 48) - 1)) << 80 | (h >> 48);
    const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    (0..26).map(|i| ALPHABET[(bits >> (125 - 5 * i) & 31) as usize] as char).collect()
}
