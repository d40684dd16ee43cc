//! What the group's traffic is measured by: heartbeats, and snapshots on their way.
//!
//! Heartbeats are what elections hang on: one that is not answered within three quarters of its interval is as good as lost.
//! Whatever else a master does (a snapshot made, sent, received, installed) must not show here.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// The longest heartbeat is that of this window and the one before it.
const WINDOW: Duration = Duration::from_secs(30);

/// Counts since the start. Shared by whoever sends and whoever receives.
#[derive(Debug, Default)]
pub struct Meters {
    longest: Mutex<Longest>,
    unanswered: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
    kept: AtomicU64,
}

/// What was counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Metered {
    /// The longest heartbeat that was answered within the last 30 to 60 seconds, there and back.
    pub heartbeat_longest: Duration,
    /// Heartbeats that were not answered in time by a master that was reached.
    pub heartbeats_unanswered: u64,
    /// Bytes of snapshots that were sent.
    pub snapshot_sent_bytes: u64,
    /// Bytes of snapshots that were received.
    pub snapshot_received_bytes: u64,
    /// Bytes of announced snapshots that were here already, and did not travel again.
    pub snapshot_kept_bytes: u64,
}

#[derive(Debug, Default)]
struct Longest {
    began: Duration,
    now: Duration,
    before: Duration,
}

impl Longest {
    fn turn(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.began);
        if passed >= WINDOW {
            self.before = if passed < WINDOW * 2 { self.now } else { Duration::ZERO };
            (self.now, self.began) = (Duration::ZERO, now);
        }
    }

    fn note(&mut self, now: Duration, took: Duration) {
        self.turn(now);
        self.now = self.now.max(took);
    }
}

impl Meters {
    /// A heartbeat was answered at `now`, after `took`.
    pub(super) fn answered(&self, now: Duration, took: Duration) {
        self.longest.lock().unwrap_or_else(PoisonError::into_inner).note(now, took);
    }

    /// A heartbeat was not answered in time.
    pub(super) fn unanswered(&self) {
        self.unanswered.fetch_add(1, Ordering::Relaxed);
    }

    /// A piece of a snapshot was sent.
    pub(super) fn sent(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A piece of a snapshot came.
    pub(super) fn received(&self, bytes: u64) {
        self.received.fetch_add(bytes, Ordering::Relaxed);
    }

    /// So much of a snapshot that is announced is here already.
    pub(super) fn kept(&self, bytes: u64) {
        self.kept.fetch_add(bytes, Ordering::Relaxed);
    }

    /// What was counted, at `now`.
    pub fn read(&self, now: Duration) -> Metered {
        let mut longest = self.longest.lock().unwrap_or_else(PoisonError::into_inner);
        longest.turn(now);
        Metered {
            heartbeat_longest: longest.now.max(longest.before),
            heartbeats_unanswered: self.unanswered.load(Ordering::Relaxed),
            snapshot_sent_bytes: self.sent.load(Ordering::Relaxed),
            snapshot_received_bytes: self.received.load(Ordering::Relaxed),
            snapshot_kept_bytes: self.kept.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_heartbeat_is_remembered_for_a_while() {
        let (meters, second) = (Meters::default(), Duration::from_secs(1));
        let longest = |at: u32| meters.read(second * at).heartbeat_longest;
        meters.answered(second, Duration::from_millis(9));
        meters.answered(second * 2, Duration::from_millis(3));
        assert_eq!((longest(3), longest(29)), (Duration::from_millis(9), Duration::from_millis(9)));
        meters.answered(second * 31, Duration::from_millis(4));
        assert_eq!(longest(32), Duration::from_millis(9), "of the window before");
        meters.answered(second * 62, Duration::from_millis(2));
        assert_eq!(longest(63), Duration::from_millis(4));
        assert_eq!(longest(200), Duration::ZERO, "nothing was heard for long");
    }
}
