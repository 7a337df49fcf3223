//! The one bounded queue between the collectors and the engine: batches in order of arrival, with ticks among them.
//!
//! Bounded by what its batches weigh in memory, because a batch has one row or fifty thousand. Pure data; the runner
//! puts a lock around it. It is no channel of the standard library because those wake the receiver for each message:
//! here a round of fifteen collectors wakes the engine once.

use std::collections::VecDeque;

use whystall_event::{Batch, Stamp};

/// An entry of the queue.
#[derive(Debug)]
pub(super) enum Item {
    Batch(Batch),
    Tick(Tick),
}

/// A round ended; what belongs to it has been queued before.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tick {
    pub(super) at: Stamp,
    pub(super) boundary_ns: u64,
    pub(super) suspended_ns: u64,
    pub(super) clock_step_ns: i64,
    pub(super) missed: u64,
}

/// Ticks that may wait; a receiver further behind than this gets them merged into the last.
const MOST_TICKS: usize = 8;

#[derive(Debug)]
pub(super) struct Queue {
    items: VecDeque<Item>,
    weight: usize,
    limit: usize,
    ticks: usize,
}

impl Queue {
    /// A queue for batches of `limit` bytes altogether.
    pub(super) fn new(limit: usize) -> Queue {
        Queue { items: VecDeque::new(), weight: 0, limit, ticks: 0 }
    }

    /// Appends a batch, or hands it back if the queue is full. One that is larger than the whole queue fits if the queue
    /// is empty.
    #[must_use]
    pub(super) fn push(&mut self, batch: Batch) -> Option<Batch> {
        let weight = weight(&batch);
        if self.weight > 0 && self.weight.saturating_add(weight) > self.limit {
            return Some(batch);
        }
        self.weight += weight;
        self.items.push_back(Item::Batch(batch));
        None
    }

    /// Appends one of the runner's own batches, full or not: they are small and few, and say that the queue is full.
    pub(super) fn push_own(&mut self, batch: Batch) {
        self.weight += weight(&batch);
        self.items.push_back(Item::Batch(batch));
    }

    /// Appends a tick. If too many wait already, the last of them takes its place in the order and adds up what both
    /// report.
    pub(super) fn push_tick(&mut self, mut tick: Tick) {
        if self.ticks >= MOST_TICKS
            && let Some(at) = self.items.iter().rposition(|i| matches!(i, Item::Tick(_)))
            && let Some(Item::Tick(old)) = self.items.remove(at)
        {
            self.ticks -= 1;
            tick.missed += old.missed + 1;
            tick.suspended_ns = tick.suspended_ns.saturating_add(old.suspended_ns);
            tick.clock_step_ns = tick.clock_step_ns.saturating_add(old.clock_step_ns);
        }
        self.ticks += 1;
        self.items.push_back(Item::Tick(tick));
    }

    pub(super) fn pop(&mut self) -> Option<Item> {
        let item = self.items.pop_front()?;
        match &item {
            Item::Batch(b) => self.weight -= weight(b),
            Item::Tick(_) => self.ticks -= 1,
        }
        Some(item)
    }

    /// Whether the receiver should be woken although no tick is due, so that it does not fill up.
    pub(super) fn half_full(&self) -> bool {
        self.weight > self.limit / 2
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
}

/// About the bytes that a batch takes.
fn weight(batch: &Batch) -> usize {
    const EMPTY: usize = 256;
    // A row: its head, eight bytes a field, and something for what texts and names point to.
    let row = 72 + 8 * batch.stream.fields.len();
    EMPTY + batch.len() * row + batch.gone.len() * 64
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use whystall_event::{Field, Stream, Subject, SubjectKind, Unit};

    fn batch(rows: usize) -> Batch {
        const FIELDS: &[Field] = &[Field::gauge("a", Unit::Count, "")];
        let mut b =
            Batch::new(Arc::new(Stream::sampled("t", "", &[SubjectKind::Host], FIELDS)), Stamp::default());
        for _ in 0..rows {
            b.row(Subject::Host).gauge(0, 1.0);
        }
        b
    }

    fn tick(missed: u64) -> Tick {
        Tick { at: Stamp::default(), boundary_ns: 0, suspended_ns: 1, clock_step_ns: -1, missed }
    }

    #[test]
    fn full_is_by_weight_and_emptied_is_empty() {
        let mut q = Queue::new(4 * weight(&batch(10)));
        assert!(q.push(batch(10_000)).is_none(), "one too large for the queue fits into an empty one");
        assert_eq!(q.push(batch(1)).map(|b| b.len()), Some(1));
        q.push_own(batch(1));
        assert!(q.pop().is_some() && q.pop().is_some() && q.pop().is_none());
        assert_eq!(q.weight, 0);
        for _ in 0..4 {
            assert!(q.push(batch(10)).is_none());
        }
        assert!(q.push(batch(10)).is_some());
        assert!(q.half_full());
    }

    #[test]
    fn ticks_of_a_receiver_far_behind_are_merged() {
        let mut q = Queue::new(1 << 20);
        for _ in 0..20 {
            assert!(q.push(batch(1)).is_none());
            q.push_tick(tick(0));
        }
        let items: Vec<Item> = std::iter::from_fn(|| q.pop()).collect();
        let ticks: Vec<&Tick> =
            items.iter().filter_map(|i| if let Item::Tick(t) = i { Some(t) } else { None }).collect();
        assert_eq!(ticks.len(), MOST_TICKS);
        assert_eq!(ticks.iter().map(|t| t.missed + 1).sum::<u64>(), 20);
        assert_eq!(ticks.iter().map(|t| t.suspended_ns).sum::<u64>(), 20);
        assert!(matches!(items.last(), Some(Item::Tick(_))));
    }
}
