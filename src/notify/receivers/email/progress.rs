//! What a message still has to do: its recipients that are left, and those that never will be reached.

use lettre::Address;
use serde::{Deserialize, Serialize};

use super::super::secret::Redactor;
use super::Fate;
use crate::notify::Outcome;

/// Recipients by their outcome, kept as JSON between tries.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// To whom it is still to go; `None` before the first try.
    left: Option<Vec<String>>,
    /// To whom it never will, and why.
    #[serde(default)]
    refused: Vec<(String, String)>,
    /// Whether anyone has it.
    #[serde(default)]
    taken: bool,
    /// Why not now.
    #[serde(skip)]
    why: Option<String>,
}

/// Longer texts are none of ours.
const LARGEST: usize = 256 << 10;

impl Progress {
    /// Goes on where an earlier try ended. What cannot be read counts as nothing done: a message twice is better than none.
    pub(super) fn resume(written: Option<&str>, all: &[Address]) -> Progress {
        let mut progress = written.and_then(Progress::parse).unwrap_or_default();
        // The config may have changed meanwhile; nobody gets mail who is no longer in it.
        if let Some(left) = &mut progress.left {
            left.retain(|l| all.iter().any(|a| a.to_string() == *l));
        }
        progress
    }

    /// Reads what [`Outcome::Retry`] carried; `None` if it is not ours.
    pub fn parse(written: &str) -> Option<Progress> {
        if written.len() > LARGEST {
            return None;
        }
        serde_json::from_str(written).ok()
    }

    pub(super) fn left(&self, all: &[Address]) -> Vec<Address> {
        match &self.left {
            None => all.to_vec(),
            Some(left) => all.iter().filter(|a| left.contains(&a.to_string())).cloned().collect(),
        }
    }

    /// Notes what became of a recipient in this try; call it for each that was left.
    pub(super) fn note(&mut self, address: &Address, fate: Fate, redactor: &Redactor) {
        let name = address.to_string();
        let left = self.left.get_or_insert_default();
        left.retain(|l| *l != name);
        match fate {
            Fate::Taken => self.taken = true,
            Fate::Later(why) => {
                left.push(name);
                self.why.get_or_insert(redactor.line(&why));
            }
            Fate::Never(why) => self.refused.push((name, redactor.line(&why))),
        }
    }

    pub(super) fn taken(&self) -> bool {
        self.taken
    }

    /// The whole, once every recipient has been noted. `note` is about the message itself.
    pub(super) fn outcome(self, note: Option<String>) -> Outcome {
        let left = self.left.as_deref().unwrap_or_default();
        if !left.is_empty() {
            let count = if left.len() == 1 {
                "1 recipient is left".into()
            } else {
                format!("{} recipients are left", left.len())
            };
            let why = format!("{count}: {}", self.why.as_deref().unwrap_or("not yet tried"));
            return Outcome::Retry { why, after: None, progress: serde_json::to_string(&self).ok() };
        }
        let refused: Vec<String> = self.refused.iter().map(|(who, why)| format!("{who}: {why}")).collect();
        let refused = refused.join("; ");
        if !self.taken && !refused.is_empty() {
            return Outcome::Permanent { why: refused };
        }
        let notes: Vec<String> = note.into_iter().chain(Some(refused).filter(|r| !r.is_empty())).collect();
        Outcome::Delivered { note: Some(notes.join("; ")).filter(|n| !n.is_empty()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(names: &[&str]) -> Vec<Address> {
        names.iter().map(|n| n.parse().unwrap()).collect()
    }

    #[test]
    fn recipients_are_told_apart_across_tries() {
        let all = addresses(&["a@x.example", "b@x.example", "c@x.example"]);
        let redactor = Redactor::default();
        let mut p = Progress::resume(None, &all);
        assert_eq!(p.left(&all), all);
        for (address, fate) in all.iter().zip([
            Fate::Taken,
            Fate::Later("451 greylisted".into()),
            Fate::Never("550 unknown".into()),
        ]) {
            p.note(address, fate, &redactor);
        }
        let Outcome::Retry { why, progress: Some(written), .. } = p.outcome(None) else { panic!() };
        assert_eq!(why, "1 recipient is left: 451 greylisted");
        let mut p = Progress::resume(Some(&written), &all);
        assert_eq!(p.left(&all), addresses(&["b@x.example"]));
        p.note(&all[1], Fate::Taken, &redactor);
        assert_eq!(p.outcome(None), Outcome::Delivered { note: Some("c@x.example: 550 unknown".into()) });
        // Someone who has left the config meanwhile gets nothing.
        let p = Progress::resume(Some(&written), &all[..1]);
        assert!(p.left(&all[..1]).is_empty());
        assert!(matches!(p.outcome(None), Outcome::Delivered { .. }));
    }

    #[test]
    fn nobody_reached_is_permanent() {
        let all = addresses(&["a@x.example"]);
        let mut p = Progress::resume(Some("garbage"), &all);
        assert_eq!(p.left(&all), all);
        p.note(&all[0], Fate::Never("550 no\r\nsuch".into()), &Redactor::default());
        assert_eq!(p.outcome(None), Outcome::Permanent { why: "a@x.example: 550 no\\r\\nsuch".into() });
    }
}
