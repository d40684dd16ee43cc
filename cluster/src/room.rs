//! Room that many share: so much in all, and never the most of it for one of them.
//!
//! A sender may hold as much as is still free after it has taken its share (dynamic thresholds, Choudhury and Hahne 1998). Alone
//! it gets half of the room; N that take what they can leave 1/(N+1) of it free, and whoever holds nothing finds a place in
//! that.
//!
//! **Invariants.** What is held never exceeds the room. A place is given back when it is dropped.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The room. Cheap to clone.
#[derive(Debug)]
pub struct Room<K: Ord>(Arc<Mutex<Held<K>>>);

#[derive(Debug)]
struct Held<K> {
    free: usize,
    by_sender: BTreeMap<K, usize>,
}

/// A place for so much.
#[derive(Debug)]
pub struct Place<K: Ord> {
    room: Room<K>,
    sender: K,
    bytes: usize,
}

impl<K: Ord> Clone for Room<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K: Ord + Clone> Room<K> {
    /// Room for so much: bytes, or whatever is counted.
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(Mutex::new(Held { free: bytes, by_sender: BTreeMap::new() })))
    }

    /// A place for so much of `sender`, if its share allows it.
    pub fn take(&self, sender: K, bytes: usize) -> Option<Place<K>> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let free = held.free.checked_sub(bytes)?;
        let own = held.by_sender.get(&sender).copied().unwrap_or(0) + bytes;
        if own > free {
            return None;
        }
        held.free = free;
        held.by_sender.insert(sender.clone(), own);
        Some(Place { room: self.clone(), sender, bytes })
    }

    /// How much is not held.
    pub fn free(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).free
    }
}

impl<K: Ord> Drop for Place<K> {
    fn drop(&mut self) {
        let mut held = self.room.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.free += self.bytes;
        let Some(own) = held.by_sender.get_mut(&self.sender) else { return };
        *own = own.saturating_sub(self.bytes);
        if *own == 0 {
            held.by_sender.remove(&self.sender);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_gets_half_and_many_leave_a_share_for_the_next() {
        for floods in 1..=20_u32 {
            let room = Room::new(64_000);
            let mut places = Vec::new();
            // All of them take what they get, in turn, until nobody gets any more.
            loop {
                let taken: Vec<Place<u32>> = (0..floods).filter_map(|sender| room.take(sender, 10)).collect();
                if taken.is_empty() {
                    break;
                }
                places.extend(taken);
            }
            let share = 64_000 / (floods as usize + 1);
            assert!(room.free().abs_diff(share) <= 10 * (floods as usize + 1), "{floods}: {} free", room.free());
            assert!(room.take(1000, share / 3).is_some(), "who holds nothing finds a place");
            drop(places);
            assert_eq!(room.free(), 64_000);
            assert!(room.0.lock().expect("whole").by_sender.is_empty());
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_and_changes_nothing() {
        let room = Room::new(100);
        assert!(room.take(1, 101).is_none());
        assert!(room.take(1, usize::MAX).is_none());
        let place = room.take(1, 50).expect("half");
        assert!(room.take(1, 1).is_none(), "no more than is left");
        assert!(room.take(2, 25).is_some());
        drop(place);
        assert_eq!(room.free(), 100);
    }
}
