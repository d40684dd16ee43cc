//! What waits for a place in the log, and when it goes: the pure half of the inbox.
//!
//! There is no linger. While fewer than `in_flight_max` entries are under way, whatever waits goes into the next one at
//! once; while all are, it piles up and the next entry is the larger for it. So a lone return pays no delay and a burst
//! pays one fsync for hundreds.
//!
//! **Invariants.** First in, first out. A batch is never empty and within both bounds, unless its one item alone is larger.

use std::collections::VecDeque;

/// How large a batch may be and how many may be under way.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Most items of one batch.
    pub items_max: usize,
    /// Most bytes of one batch.
    pub bytes_max: usize,
    /// Most batches under way.
    pub in_flight_max: usize,
}

/// Items in the order in which they came.
#[derive(Debug)]
pub struct Pile<T> {
    bounds: Bounds,
    waiting: VecDeque<(T, usize)>,
    in_flight: usize,
}

impl<T> Pile<T> {
    /// An empty pile.
    pub fn new(bounds: Bounds) -> Self {
        Self { bounds, waiting: VecDeque::new(), in_flight: 0 }
    }

    /// One more item, of so many bytes.
    pub fn push(&mut self, item: T, bytes: usize) {
        self.waiting.push_back((item, bytes));
    }

    /// The next batch, which is under way from now on; `None` if nothing waits or enough is under way.
    pub fn poll_batch(&mut self) -> Option<Vec<T>> {
        if self.in_flight >= self.bounds.in_flight_max {
            return None;
        }
        let mut batch = Vec::new();
        let mut total = 0;
        while let Some((_, bytes)) = self.waiting.front() {
            let fits = batch.len() < self.bounds.items_max && total + bytes <= self.bounds.bytes_max;
            if !batch.is_empty() && !fits {
                break;
            }
            total += bytes;
            batch.extend(self.waiting.pop_front().map(|(item, _)| item));
        }
        if batch.is_empty() {
            return None;
        }
        self.in_flight += 1;
        Some(batch)
    }

    /// A batch is no longer under way.
    pub fn handle_landed(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// How many items wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { items_max: 3, bytes_max: 10, in_flight_max: 2 };

    #[test]
    fn a_lone_item_goes_at_once_and_a_burst_piles_up() {
        let mut pile = Pile::new(BOUNDS);
        pile.push('a', 1);
        assert_eq!(pile.poll_batch(), Some(vec!['a']));
        pile.push('b', 1);
        assert_eq!(pile.poll_batch(), Some(vec!['b']));
        for item in ['c', 'd', 'e', 'f'] {
            pile.push(item, 1);
            assert_eq!(pile.poll_batch(), None, "two are under way");
        }
        pile.handle_landed();
        assert_eq!(pile.poll_batch(), Some(vec!['c', 'd', 'e']));
        pile.handle_landed();
        assert_eq!(pile.poll_batch(), Some(vec!['f']));
        assert!(pile.is_empty());
    }

    #[test]
    fn bytes_bound_a_batch_unless_one_item_is_larger() {
        let mut pile = Pile::new(BOUNDS);
        for (item, bytes) in [('a', 6), ('b', 5), ('c', 50), ('d', 1)] {
            pile.push(item, bytes);
        }
        let mut batches = Vec::new();
        while let Some(batch) = pile.poll_batch() {
            batches.push(batch);
            pile.handle_landed();
        }
        assert_eq!(batches, [vec!['a'], vec!['b'], vec!['c'], vec!['d']]);
    }
}
