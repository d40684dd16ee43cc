//! What waits for a place in the log, and when it goes: the pure half of the inbox.
//!
//! There is no linger. While fewer than `eager_max` entries are under way, whatever waits goes into the next one at once; while
//! fewer than `in_flight_max` are, it goes once it fills half an entry; otherwise it piles up and the next entry is the larger
//! for it. So a lone return pays no delay, what trickles in does not become an entry each, and a burst pays one fsync for
//! hundreds.
//!
//! Every sender has a line of its own, and lines are served in turn, [`QUANTUM_BYTES`] each (deficit round robin, Shreedhar
//! and Varghese 1995): a minion that sends without end waits behind itself, not before everybody else.
//!
//! **Invariants.** First in, first out within a line. A batch is never empty and within both bounds, unless its one item alone
//! is larger. While others wait, no line gets more than a quantum and one item ahead of them.

use std::collections::{BTreeMap, VecDeque};

/// What a line may send when its turn comes, in bytes: about a hundred ordinary returns. The largest part of a return waits
/// for sixteen turns.
const QUANTUM_BYTES: usize = 16 * 1024;

/// How large a batch may be and how many may be under way.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Most items of one batch.
    pub items_max: usize,
    /// Most bytes of one batch.
    pub bytes_max: usize,
    /// Most batches under way.
    pub in_flight_max: usize,
    /// Most batches under way beside which a small one goes as well.
    pub eager_max: usize,
}

/// Items in lines, one a sender.
#[derive(Debug)]
pub struct Pile<T> {
    bounds: Bounds,
    lines: BTreeMap<u32, Line<T>>,
    /// Senders whose line is not empty, in the order of their turns.
    turns: VecDeque<u32>,
    /// Whether the line in front has been given its quantum.
    given: bool,
    len: usize,
    /// What all that waits weighs, in bytes.
    bytes: usize,
    in_flight: usize,
}

#[derive(Debug)]
struct Line<T> {
    items: VecDeque<(T, usize)>,
    /// Bytes that it may still send.
    credit: usize,
}

impl<T> Pile<T> {
    /// An empty pile.
    pub fn new(bounds: Bounds) -> Self {
        Self { bounds, lines: BTreeMap::new(), turns: VecDeque::new(), given: false, len: 0, bytes: 0, in_flight: 0 }
    }

    /// One more item of `sender`, of so many bytes.
    pub fn push(&mut self, sender: u32, item: T, bytes: usize) {
        let line = self.lines.entry(sender).or_insert_with(|| {
            self.turns.push_back(sender);
            Line { items: VecDeque::new(), credit: 0 }
        });
        line.items.push_back((item, bytes));
        (self.len, self.bytes) = (self.len + 1, self.bytes.saturating_add(bytes));
    }

    /// The next batch, which is under way from now on; `None` if nothing waits or enough is under way.
    pub fn poll_batch(&mut self) -> Option<Vec<T>> {
        if self.in_flight >= self.bounds.in_flight_max
            || (self.in_flight >= self.bounds.eager_max && !self.is_half_full())
        {
            return None;
        }
        let mut batch = Vec::new();
        let mut total = 0;
        while let Some(sender) = self.turns.front().copied() {
            let Some(line) = self.lines.get_mut(&sender) else {
                self.turns.pop_front();
                continue;
            };
            if !std::mem::replace(&mut self.given, true) {
                line.credit += QUANTUM_BYTES;
            }
            let mut full = false;
            while let Some((item, bytes)) = line.items.pop_front_if(|(_, bytes)| *bytes <= line.credit) {
                let fits = batch.len() < self.bounds.items_max && total + bytes <= self.bounds.bytes_max;
                if !batch.is_empty() && !fits {
                    line.items.push_front((item, bytes));
                    full = true;
                    break;
                }
                (line.credit, total) = (line.credit - bytes, total + bytes);
                (self.len, self.bytes) = (self.len - 1, self.bytes.saturating_sub(bytes));
                batch.push(item);
            }
            if full {
                break;
            }
            self.turns.pop_front();
            self.given = false;
            if line.items.is_empty() {
                // What it did not use is not saved up for later.
                self.lines.remove(&sender);
            } else {
                self.turns.push_back(sender);
            }
        }
        if batch.is_empty() {
            return None;
        }
        self.in_flight += 1;
        Some(batch)
    }

    fn is_half_full(&self) -> bool {
        self.len >= self.bounds.items_max / 2 || self.bytes >= self.bounds.bytes_max / 2
    }

    /// A batch is no longer under way.
    pub fn handle_landed(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// How many items wait.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { items_max: 3, bytes_max: 10, in_flight_max: 2, eager_max: 2 };

    #[test]
    fn a_lone_item_goes_at_once_and_a_burst_piles_up() {
        let mut pile = Pile::new(BOUNDS);
        pile.push(1, 'a', 1);
        assert_eq!(pile.poll_batch(), Some(vec!['a']));
        pile.push(1, 'b', 1);
        assert_eq!(pile.poll_batch(), Some(vec!['b']));
        for item in ['c', 'd', 'e', 'f'] {
            pile.push(1, item, 1);
            assert_eq!(pile.poll_batch(), None, "two are under way");
        }
        pile.handle_landed();
        assert_eq!(pile.poll_batch(), Some(vec!['c', 'd', 'e']));
        pile.handle_landed();
        assert_eq!(pile.poll_batch(), Some(vec!['f']));
        assert!(pile.is_empty());
    }

    #[test]
    fn what_trickles_in_waits_behind_two_entries_until_it_is_half_of_one() {
        let mut pile = Pile::new(Bounds { items_max: 8, bytes_max: 100, in_flight_max: 4, eager_max: 2 });
        for item in 0..2 {
            pile.push(1, item, 1);
            assert_eq!(pile.poll_batch(), Some(vec![item]));
        }
        for item in 2..5 {
            pile.push(1, item, 1);
            assert_eq!(pile.poll_batch(), None, "{item}");
        }
        pile.push(1, 5, 1);
        assert_eq!(pile.poll_batch(), Some(vec![2, 3, 4, 5]));
        pile.push(1, 6, 50);
        assert_eq!(pile.poll_batch(), Some(vec![6]), "half of its bytes");
        pile.push(1, 7, 1);
        pile.handle_landed();
        pile.handle_landed();
        assert_eq!(pile.poll_batch(), None, "two are under way");
        pile.handle_landed();
        assert_eq!(pile.poll_batch(), Some(vec![7]), "nothing waits longer than for one of two");
        assert_eq!((pile.len(), pile.bytes), (0, 0));
    }

    #[test]
    fn bytes_bound_a_batch_unless_one_item_is_larger() {
        let mut pile = Pile::new(BOUNDS);
        for (item, bytes) in [('a', 6), ('b', 5), ('c', 50), ('d', 1)] {
            pile.push(1, item, bytes);
        }
        let mut batches = Vec::new();
        while let Some(batch) = pile.poll_batch() {
            batches.push(batch);
            pile.handle_landed();
        }
        assert_eq!(batches, [vec!['a'], vec!['b'], vec!['c'], vec!['d']]);
    }

    #[test]
    fn a_flood_waits_behind_itself() {
        const LARGE: usize = 256 * 1024;
        let mut pile =
            Pile::new(Bounds { items_max: 512, bytes_max: LARGE, in_flight_max: usize::MAX, eager_max: usize::MAX });
        for _ in 0..100 {
            pile.push(1, (1, LARGE), LARGE);
        }
        for _ in 0..10_000 {
            pile.push(2, (2, 200), 200);
        }
        for sender in 10..40 {
            pile.push(sender, (sender, 300), 300);
        }
        let mut batches = Vec::new();
        while let Some(batch) = pile.poll_batch() {
            batches.push(batch);
        }
        let first: Vec<_> = batches[0].iter().filter(|(sender, _)| *sender >= 10).collect();
        assert_eq!(first.len(), 30, "everybody who sends little is in the first entry");
        let all: usize = batches.iter().map(Vec::len).sum();
        assert_eq!(all, 100 + 10_000 + 30, "nothing is lost");
        // While both floods wait they get the same number of bytes, within an item.
        let early: Vec<_> = batches[..8].iter().flatten().collect();
        let bytes = |sender| early.iter().filter(|(of, _)| *of == sender).map(|(_, bytes)| bytes).sum::<usize>();
        assert!(bytes(1).abs_diff(bytes(2)) <= LARGE + 2 * QUANTUM_BYTES, "{} {}", bytes(1), bytes(2));
    }

    #[test]
    fn a_line_stays_in_order_whatever_comes_between() {
        let mut pile =
            Pile::new(Bounds { items_max: 7, bytes_max: 3000, in_flight_max: usize::MAX, eager_max: usize::MAX });
        let mut sent = BTreeMap::<u32, Vec<usize>>::new();
        let mut taken = BTreeMap::<u32, Vec<usize>>::new();
        for round in 0..2000_usize {
            let sender = u32::try_from((round * 7919) % 13).expect("small");
            pile.push(sender, (sender, round), (round * 104_729) % 5000);
            sent.entry(sender).or_default().push(round);
            if round % 3 == 0 {
                for (sender, round) in pile.poll_batch().unwrap_or_default() {
                    taken.entry(sender).or_default().push(round);
                }
            }
        }
        while let Some(batch) = pile.poll_batch() {
            assert!(batch.len() <= 7);
            for (sender, round) in batch {
                taken.entry(sender).or_default().push(round);
            }
        }
        assert_eq!(taken, sent);
        assert_eq!(pile.len(), 0);
    }
}
