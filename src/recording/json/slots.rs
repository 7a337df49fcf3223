//! Rows gathered into batches, and ticks made from the data's own time.
//!
//! Time is cut into intervals that begin with the first row's time. The two latest stay open, so rows may be out of
//! order by an interval; when a row of a third comes, the oldest is closed: its batches go out in the order of their
//! times, and a tick at its end.

use std::collections::VecDeque;
use std::sync::Arc;

use whystall_event::{Batch, Mode, SEC, Stamp, Stream};

use super::super::record::Tick;

/// Times from here on count from 1970; the years before it are not met in data. In seconds.
const EPOCH_FROM: u64 = 100_000_000;
/// A longer stretch of intervals without data is one late tick instead of so many empty ones.
const LONGEST_GAP: u64 = 10_000;
/// So many rows wait at most; then what is there goes out, and order is kept only from there on.
const MOST_ROWS: usize = 1 << 20;

/// Something to hand out.
#[derive(Debug)]
pub(crate) enum Out {
    Batch(Batch),
    Tick(Tick),
}

/// A batch that still grows.
#[derive(Debug)]
pub(crate) struct Open {
    pub(crate) stream: usize,
    at: u64,
    pub(crate) batch: Batch,
    /// The last row's subject and the fields it has.
    pub(crate) last: Option<(u32, u64)>,
    ordered: bool,
    latest: u64,
}

#[derive(Debug, Default)]
struct Slot {
    open: Vec<Open>,
    /// By stream: the batch that grew last, plus one.
    recent: Vec<u32>,
}

#[derive(Debug)]
pub(crate) struct Slots {
    interval: u64,
    /// The first time; the slot with number n is what comes after `origin + (n-2)·interval` up to and with
    /// `origin + (n-1)·interval`, so that the first row is at the end of slot 1.
    origin: Option<u64>,
    /// What is taken from times for `boot_ns`.
    base: u64,
    /// The newest slot's number.
    newest: u64,
    slots: [Slot; 2],
    /// Limits of the slot that was used last, and which of the two it is.
    used: (u64, u64, usize),
    rows: usize,
    watched: Vec<Arc<Stream>>,
    last_tick: Option<u64>,
    ready: VecDeque<Out>,
    spare: Vec<Batch>,
    /// Stretches without data that were passed over.
    pub(crate) gaps: u64,
}

impl Slots {
    pub(crate) fn new(interval_ns: u64) -> Slots {
        Slots {
            interval: if interval_ns == 0 { SEC } else { interval_ns },
            origin: None,
            base: 0,
            newest: 1,
            slots: [Slot::default(), Slot::default()],
            used: (1, 0, 0),
            rows: 0,
            watched: Vec::new(),
            last_tick: None,
            ready: VecDeque::new(),
            spare: Vec::new(),
            gaps: 0,
        }
    }

    /// The next thing to hand out.
    pub(crate) fn pop(&mut self) -> Option<Out> {
        self.ready.pop_front()
    }

    /// Takes a batch back that was handed out, for its memory.
    pub(crate) fn recycle(&mut self, batch: Batch) {
        if self.spare.len() >= 64 {
            self.spare.swap_remove(0);
        }
        self.spare.push(batch);
    }

    /// From now on silence of this stream of occurrences means that nothing happened.
    pub(crate) fn watch(&mut self, stream: &Arc<Stream>) {
        match self.watched.iter_mut().find(|w| w.name == stream.name) {
            Some(w) => *w = stream.clone(),
            None => self.watched.push(stream.clone()),
        }
    }

    /// Makes that no row is taken for the last one's subject, since subjects are numbered anew.
    pub(crate) fn forget_rows(&mut self) {
        self.slots.iter_mut().flat_map(|s| &mut s.open).for_each(|o| o.last = None);
    }

    fn stamp(&self, at: u64) -> Stamp {
        Stamp { boot_ns: at.saturating_sub(self.base), wall_ns: at }
    }

    fn end(&self, slot: u64) -> u64 {
        let n = self.interval.saturating_mul(slot);
        self.origin.unwrap_or(0).saturating_add(n).saturating_sub(self.interval)
    }

    /// The batch of `stream` for a row at time `at`, and that time as `boot_ns`; `None` if the time is over.
    pub(crate) fn at(&mut self, stream: usize, declared: &Arc<Stream>, at: u64) -> Option<(u64, &mut Open)> {
        if self.rows >= MOST_ROWS {
            self.spill();
        }
        if at < self.used.0 || at > self.used.1 {
            self.turn(at)?;
        }
        self.rows += 1;
        let occurrences = declared.mode == Mode::Occurrences;
        // Occurrences of an interval are one batch, as a collector delivers them.
        let batch_at = if occurrences { self.used.1 } else { at };
        let stamp = self.stamp(batch_at);
        let slot = &mut self.slots[self.used.2];
        if slot.recent.len() <= stream {
            slot.recent.resize(stream + 1, 0);
        }
        let mut index = (slot.recent[stream] as usize).wrapping_sub(1);
        let fits =
            |o: &Open| o.stream == stream && o.at == batch_at && Arc::ptr_eq(&o.batch.stream, declared);
        if !slot.open.get(index).is_some_and(fits) {
            // Rows out of order may belong to one a little before it.
            let near = slot.open.len().saturating_sub(64);
            index = near + slot.open[near..].iter().position(fits).unwrap_or(slot.open.len() - near);
            if index == slot.open.len() {
                let spare = self.spare.iter().position(|b| Arc::ptr_eq(&b.stream, declared));
                let batch = match spare.map(|i| self.spare.swap_remove(i)) {
                    Some(mut b) => {
                        b.clear(stamp);
                        b
                    }
                    None => Batch::new(declared.clone(), stamp),
                };
                slot.open.push(Open { stream, at: batch_at, batch, last: None, ordered: true, latest: 0 });
            }
            slot.recent[stream] = index as u32 + 1;
        }
        let open = slot.open.get_mut(index)?;
        open.ordered &= at >= open.latest;
        open.latest = open.latest.max(at);
        Some((at.saturating_sub(self.base), open))
    }

    /// Makes the slot of `at` the one in use, closing what it leaves behind.
    fn turn(&mut self, at: u64) -> Option<()> {
        let Some(origin) = self.origin else {
            self.origin = Some(at);
            if at >= EPOCH_FROM * SEC {
                self.base = at - 3600 * SEC;
            }
            return self.turn(at);
        };
        let number = match at.checked_sub(origin) {
            Some(after) => 1 + after.div_ceil(self.interval),
            None if origin - at < self.interval => 1,
            None if origin - at < self.interval.saturating_mul(2) => 0,
            None => return None,
        };
        if number > self.newest {
            if number - self.newest > LONGEST_GAP {
                self.gaps += 1;
                self.close();
                self.close();
                self.newest = number;
            } else {
                while self.newest < number {
                    self.close();
                }
            }
        }
        if number + 1 < self.newest {
            return None;
        }
        let end = self.end(number);
        self.used = ((end + 1).saturating_sub(self.interval), end, (number % 2) as usize);
        Some(())
    }

    /// Closes the older slot, which becomes the newest.
    fn close(&mut self) {
        self.newest += 1;
        // Slot n and n+2 share a place.
        let number = self.newest.saturating_sub(2);
        let place = (number % 2) as usize;
        if number == 0 && self.slots[place].open.is_empty() {
            return;
        }
        let at = self.end(number);
        self.release(place, Some(at));
        self.rows = self.slots[1 - place].open.iter().map(|o| o.batch.len()).sum();
        let late_ns = self.last_tick.map_or(0, |l| (at - l.min(at)).saturating_sub(self.interval));
        self.last_tick = Some(at);
        self.ready.push_back(Out::Tick(Tick { at: self.stamp(at), late_ns, ..Tick::default() }));
    }

    /// Hands out a slot's batches; at a slot's end also the silence of the streams that are watched.
    fn release(&mut self, place: usize, end: Option<u64>) {
        let mut open = std::mem::take(&mut self.slots[place].open);
        self.slots[place].recent.clear();
        if let Some(end) = end {
            for stream in &self.watched {
                if open.iter().any(|o| o.batch.stream.name == stream.name) {
                    continue;
                }
                let batch = Batch::new(stream.clone(), self.stamp(end));
                open.push(Open { stream: usize::MAX, at: end, batch, last: None, ordered: true, latest: 0 });
            }
        }
        open.sort_by_key(|o| o.at);
        for mut o in open.drain(..) {
            if !o.ordered {
                o.batch = by_time(&o.batch);
            }
            self.ready.push_back(Out::Batch(o.batch));
        }
        self.slots[place].open = open;
    }

    /// Hands out all rows that wait, without ticks.
    fn spill(&mut self) {
        let older = ((self.newest + 1) % 2) as usize;
        self.release(older, None);
        self.release(1 - older, None);
        self.rows = 0;
    }

    /// The data ended: closes everything.
    pub(crate) fn finish(&mut self) {
        if self.origin.is_some() {
            self.close();
            self.close();
            self.origin = None;
        }
    }
}

/// The same batch with its rows in the order of their times.
fn by_time(batch: &Batch) -> Batch {
    let mut rows: Vec<_> = batch.rows().collect();
    rows.sort_by_key(|r| r.boot_ns);
    let mut sorted = Batch::new(batch.stream.clone(), batch.at);
    sorted.covered_to = batch.covered_to;
    sorted.gone = batch.gone.clone();
    for r in rows {
        sorted.push_raw(r.subject.clone(), r.boot_ns, r.present).copy_from_slice(r.values);
    }
    *sorted.texts_mut() = batch.texts().to_vec();
    sorted
}
