//! Connections that have proved nothing yet, on a port that strangers reach.
//!
//! A place before the proof is what a stranger can take for nothing, so there are few, and nobody keeps one: when all are
//! taken, the one who has waited longest goes. Whoever means it proves itself in milliseconds; whoever only sits there is
//! the oldest soon, and an honest newcomer never waits behind it.
//!
//! **Invariants.** At most `places` visitors at one time, at most `per_address` of one address. A visitor leaves when it is
//! dropped: proved, failed or cut.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio_util::sync::CancellationToken;

/// What a door lets in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DoorLimits {
    /// Most visitors at one time.
    pub places: usize,
    /// Most visitors of one address.
    pub per_address: usize,
}

/// The door of one port. Clones share it.
#[derive(Clone)]
pub struct Door {
    limits: DoorLimits,
    inside: Arc<Mutex<VecDeque<Inside>>>,
    refused: Arc<AtomicU64>,
    cut: Arc<AtomicU64>,
}

struct Inside {
    number: u64,
    address: IpAddr,
    cut: CancellationToken,
}

impl Door {
    /// A door with nobody behind it.
    pub fn new(limits: DoorLimits) -> Self {
        Self { limits, inside: Arc::default(), refused: Arc::default(), cut: Arc::default() }
    }

    /// Lets a connection from `address` in, or refuses it because its address has all of its places. If every place is
    /// taken, the visitor who came first is cut.
    pub fn enter(&self, address: IpAddr) -> Option<Visitor> {
        let mut inside = self.lock();
        if inside.iter().filter(|visitor| visitor.address == address).count() >= self.limits.per_address {
            self.refused.fetch_add(1, Relaxed);
            return None;
        }
        if inside.len() >= self.limits.places
            && let Some(oldest) = inside.pop_front()
        {
            oldest.cut.cancel();
            self.cut.fetch_add(1, Relaxed);
        }
        let number = inside.back().map_or(0, |newest| newest.number + 1);
        let cut = CancellationToken::new();
        inside.push_back(Inside { number, address, cut: cut.clone() });
        Some(Visitor { door: self.clone(), number, cut })
    }

    /// Refused for their address's sake, and cut for a newcomer's, since the start.
    pub fn turned_away(&self) -> (u64, u64) {
        (self.refused.load(Relaxed), self.cut.load(Relaxed))
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Inside>> {
        // A list of places; none is left half changed by a panic.
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's place until it has proved itself. Drop it then.
pub struct Visitor {
    door: Door,
    number: u64,
    cut: CancellationToken,
}

impl Visitor {
    /// Ends when the place is needed for somebody else.
    pub async fn cut(&self) {
        self.cut.cancelled().await;
    }
}

impl Drop for Visitor {
    fn drop(&mut self) {
        self.door.lock().retain(|visitor| visitor.number != self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn whoever_sits_longest_makes_room_for_a_newcomer() {
        let door = Door::new(DoorLimits { places: 2, per_address: 2 });
        let first = door.enter(address(1)).expect("room");
        let second = door.enter(address(2)).expect("room");
        let third = door.enter(address(3)).expect("room, at the cost of the first");
        assert!(first.cut.is_cancelled() && !second.cut.is_cancelled() && !third.cut.is_cancelled());
        drop(first);
        drop(second);
        let fourth = door.enter(address(4)).expect("room");
        assert!(!third.cut.is_cancelled() && !fourth.cut.is_cancelled());
        assert_eq!(door.turned_away(), (0, 1));
    }

    #[test]
    fn one_address_takes_its_share_and_costs_nobody_else_a_place() {
        let door = Door::new(DoorLimits { places: 3, per_address: 1 });
        let honest = door.enter(address(1)).expect("room");
        let stranger = door.enter(address(2)).expect("room");
        assert!((0..100).all(|_| door.enter(address(2)).is_none()));
        assert!(!honest.cut.is_cancelled());
        drop(stranger);
        assert!(door.enter(address(2)).is_some());
        assert_eq!(door.turned_away(), (100, 0));
    }
}
