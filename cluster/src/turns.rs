//! Places that many share in turn: a semaphore whose queue has a line for each client.
//!
//! **Invariants.** No more than `places` are taken at a time. Whoever waits is served round robin over the clients, first in,
//! first out within one: somebody with a thousand requests waits behind itself, and everybody else for one turn. Waiting
//! costs no place, and whoever stops waiting leaves its line.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// The places. Cheap to clone.
pub struct Turns<K: Ord + Clone>(Arc<Mutex<Book<K>>>);

struct Book<K: Ord + Clone> {
    free: usize,
    lines: BTreeMap<K, VecDeque<oneshot::Sender<Place<K>>>>,
    /// Clients with a line, in the order of their turns.
    order: VecDeque<K>,
    line_max: usize,
}

/// A place; given back when it is dropped.
pub struct Place<K: Ord + Clone>(Option<Turns<K>>);

/// The client has as many waiting as it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many requests of this client wait already")]
pub struct LineFull;

impl<K: Ord + Clone> Clone for Turns<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K: Ord + Clone> Turns<K> {
    /// So many places; of each client at most `line_max` wait.
    pub fn new(places: usize, line_max: usize) -> Self {
        let book = Book { free: places, lines: BTreeMap::new(), order: VecDeque::new(), line_max };
        Self(Arc::new(Mutex::new(book)))
    }

    /// Waits for a place. Cancel safe.
    pub async fn enter(&self, client: K) -> Result<Place<K>, LineFull> {
        let waiting = {
            let mut book = self.lock();
            if book.free > 0 {
                book.free -= 1;
                return Ok(self.place());
            }
            let line_max = book.line_max;
            if book.lines.get(&client).is_none_or(VecDeque::is_empty) {
                book.order.push_back(client.clone());
            }
            let line = book.lines.entry(client).or_default();
            line.retain(|waiting| !waiting.is_closed());
            if line.len() >= line_max {
                return Err(LineFull);
            }
            let (turn, waiting) = oneshot::channel();
            line.push_back(turn);
            waiting
        };
        // The sender stands in a line until its turn comes: this never fails while the places live, and they live here.
        waiting.await.map_err(|_| LineFull)
    }

    fn place(&self) -> Place<K> {
        Place(Some(self.clone()))
    }

    fn lock(&self) -> MutexGuard<'_, Book<K>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands a place that became free to whoever is next.
    fn leave(&self) {
        let mut book = self.lock();
        while let Some(client) = book.order.pop_front() {
            let Some(line) = book.lines.get_mut(&client) else { continue };
            let next = line.pop_front();
            if line.is_empty() {
                book.lines.remove(&client);
            } else {
                book.order.push_back(client);
            }
            let Some(next) = next else { continue };
            // One who waits no longer gives the place back without coming here again: the lock is held.
            match next.send(self.place()) {
                Ok(()) => return,
                Err(mut unwanted) => _ = unwanted.0.take(),
            }
        }
        book.free += 1;
    }
}

impl<K: Ord + Clone> Drop for Place<K> {
    fn drop(&mut self) {
        if let Some(turns) = self.0.take() {
            turns.leave();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_client_with_many_requests_waits_behind_itself() {
        let turns = Turns::new(2, 1000);
        let served = Arc::new(Mutex::new(Vec::new()));
        let held = (turns.enter(0).await.expect("free"), turns.enter(0).await.expect("free"));
        let mut tasks = Vec::new();
        for client in std::iter::repeat_n(1, 500).chain([2, 3, 2, 3]) {
            let (turns, served) = (turns.clone(), Arc::clone(&served));
            tasks.push(tokio::spawn(async move {
                let _place = turns.enter(client).await.expect("a line");
                served.lock().expect("whole").push(client);
                tokio::task::yield_now().await;
            }));
            tokio::task::yield_now().await;
        }
        drop(held);
        for task in tasks {
            task.await.expect("served");
        }
        let served = served.lock().expect("whole");
        assert_eq!(served.len(), 504);
        let last_of_others = served.iter().rposition(|client| *client != 1).expect("they were served");
        assert!(last_of_others < 10, "the last of the others was number {last_of_others}");
        assert_eq!(turns.lock().free, 2);
        assert!(turns.lock().lines.is_empty() && turns.lock().order.is_empty());
    }

    #[tokio::test]
    async fn a_line_is_bounded_and_whoever_leaves_it_costs_nothing() {
        let turns = Turns::new(1, 2);
        let held = turns.enter("a").await.expect("free");
        let mut waiting: Vec<_> = (0..2).map(|_| Box::pin(turns.enter("a"))).collect();
        for waiting in &mut waiting {
            assert!(futures::poll!(waiting).is_pending());
        }
        assert_eq!(turns.enter("a").await.err(), Some(LineFull));
        waiting.pop();
        let mut again = Box::pin(turns.enter("a"));
        assert!(futures::poll!(&mut again).is_pending(), "there is room in the line again");
        drop(waiting);
        let mut other = Box::pin(turns.enter("b"));
        assert!(futures::poll!(&mut other).is_pending());
        drop(again);
        drop(held);
        let place = other.await.expect("its turn");
        drop(place);
        assert_eq!(turns.lock().free, 1);
    }
}
