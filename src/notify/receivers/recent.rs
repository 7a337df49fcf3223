//! What a receiver remembers of the incidents it has told last. Lost with the process, so only for what may be.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

const MOST: usize = 1024;

/// A value for each of the last incidents.
#[derive(Debug)]
pub(super) struct Recent<T>(Mutex<VecDeque<(String, T)>>);

impl<T: Clone> Recent<T> {
    pub(super) fn new() -> Recent<T> {
        Recent(Mutex::new(VecDeque::new()))
    }

    pub(super) fn get(&self, incident: &str) -> Option<T> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().find(|(i, _)| i == incident).map(|(_, value)| value.clone())
    }

    pub(super) fn set(&self, incident: &str, value: T) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|(i, _)| i != incident);
        if all.len() >= MOST {
            all.pop_front();
        }
        all.push_back((incident.to_string(), value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_forgotten() {
        let recent = Recent::new();
        for n in 0..=MOST {
            recent.set(&n.to_string(), n);
        }
        assert_eq!((recent.get("0"), recent.get("1"), recent.get("1024")), (None, Some(1), Some(1024)));
        recent.set("1", 7);
        assert_eq!(recent.get("1"), Some(7));
    }
}
