//! Signatures of webhooks as Standard Webhooks has them: `v1,` and the base64 of HMAC-SHA256 over `id.timestamp.body`.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use sha2::Sha256;

/// The keys that sign, at least one. With several each signs, so that a key can be replaced without a gap.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Keys(Vec<Vec<u8>>);

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys({})", self.0.len())
    }
}

impl Keys {
    /// Reads one key a line: `whsec_` and base64, or the key itself.
    pub(super) fn parse(text: &str) -> Result<Keys, String> {
        let mut keys = Vec::new();
        for (n, line) in text.lines().map(str::trim).enumerate().filter(|(_, l)| !l.is_empty()) {
            let key = match line.strip_prefix("whsec_") {
                Some(coded) => STANDARD
                    .decode(coded)
                    .map_err(|_| format!("line {}: what follows `whsec_` is not base64", n + 1))?,
                None => line.as_bytes().to_vec(),
            };
            if key.is_empty() {
                return Err(format!("line {}: the key is empty", n + 1));
            }
            keys.push(key);
        }
        if keys.is_empty() { Err("there is no key in it".into()) } else { Ok(Keys(keys)) }
    }

    /// The value of the header `webhook-signature`.
    pub(super) fn sign(&self, id: &str, timestamp: u64, body: &[u8]) -> String {
        let signed: Vec<String> = self.0.iter().filter_map(|key| one(key, id, timestamp, body)).collect();
        signed.join(" ")
    }
}

fn one(key: &[u8], id: &str, timestamp: u64, body: &[u8]) -> Option<String> {
    // HMAC takes keys of any length.
    let mut mac = Hmac::<Sha256>::new_from_slice(key).ok()?;
    mac.update(format!("{id}.{timestamp}.").as_bytes());
    mac.update(body);
    Some(format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const BODY: &[u8] = br#"{"test": 2432232314}"#;
    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";

    /// The vector that the libraries of Standard Webhooks are tested with.
    #[test]
    fn the_published_vector() {
        let signature = Keys::parse(KEY).unwrap().sign(ID, 1_614_265_330, BODY);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn each_key_signs() {
        let keys = Keys::parse(&format!("{KEY}\n\n a raw key \n")).unwrap();
        let signature = keys.sign(ID, 1_614_265_330, BODY);
        let (first, second) = signature.split_once(' ').unwrap();
        assert_eq!(first, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        assert_eq!(Keys::parse("a raw key").unwrap().sign(ID, 1_614_265_330, BODY), second);
        assert_eq!(format!("{keys:?}"), "Keys(2)");
    }

    #[test]
    fn wrong_keys_are_told_without_them() {
        for (text, why) in [
            ("", "there is no key in it"),
            ("raw\nwhsec_%%%", "line 2: what follows `whsec_` is not base64"),
            ("whsec_", "line 1: the key is empty"),
        ] {
            assert_eq!(Keys::parse(text).unwrap_err(), why);
        }
    }
}
