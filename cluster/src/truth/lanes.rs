//! The two lanes of proposals: control always goes before bulk.
//!
//! ```text
//!   control ──▶ a place at once, or busy ──────────────────────▶ the log
//!   bulk    ──▶ a place to wait in, or busy ──▶ one of few turns ─▶ the log
//! ```
//!
//! **Invariants.** Control never waits for bulk: no more than [`BULK_IN_FLIGHT_MAX`] bulk entries, each bounded in bytes, are in
//! the log's way at one time. While the engine lets writes wait, bulk is refused as busy: minions keep what they have. What waits is bounded, and by its own deadline.

use super::{Lane, Truth};
use crate::mesh::message::ProposeRefusal;
use crate::witness::{Queue, Reason};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Bulk entries on their way at one time at the leader: control never waits behind more.
const BULK_IN_FLIGHT_MAX: usize = 8;

/// Control entries on their way at one time; more are refused as busy. A thousand writers at the leader, and as many again by way
/// of the other masters.
const CONTROL_IN_FLIGHT_MAX: usize = 2048;

/// Bulk proposals that may wait for their turn; more are refused as busy.
const BULK_WAITING_MAX: usize = 1024;

/// Bulk proposals that one master has on their way to the leader at one time: as many as keep a long road busy. They have a
/// connection of their own, and share the road with control.
const BULK_FORWARDED_MAX: usize = 32;

/// How long a look at the engines counts: they need a mutex of theirs for it.
const STALL_COUNTS: Duration = Duration::from_millis(100);

/// Who has a place.
pub(super) struct Lanes {
    control: Semaphore,
    bulk: Semaphore,
    bulk_waiting: Semaphore,
    /// Places for bulk proposals on the way to the leader.
    pub(super) forwarded: Semaphore,
    /// Whether writes were stalled, and when that was seen.
    stalled: Mutex<Option<(bool, Duration)>>,
}

impl Default for Lanes {
    fn default() -> Self {
        Self {
            control: Semaphore::new(CONTROL_IN_FLIGHT_MAX),
            bulk: Semaphore::new(BULK_IN_FLIGHT_MAX),
            bulk_waiting: Semaphore::new(BULK_WAITING_MAX),
            forwarded: Semaphore::new(BULK_FORWARDED_MAX),
            stalled: Mutex::default(),
        }
    }
}

impl Truth {
    /// A place in a lane: control has many and never waits, bulk has few and waits for one of them, at most `within`.
    pub(super) async fn turn(&self, lane: Lane, within: Duration) -> Result<SemaphorePermit<'_>, ProposeRefusal> {
        let lanes = &self.0.lanes;
        let busy = |reason| {
            self.0.witness.refuse(reason);
            ProposeRefusal::Busy
        };
        match lane {
            Lane::Control => lanes.control.try_acquire().map_err(|_| busy(Reason::ControlLane)),
            Lane::Bulk if self.is_stalled() => Err(busy(Reason::WriteStall)),
            Lane::Bulk => {
                let _waiting = lanes.bulk_waiting.try_acquire().map_err(|_| busy(Reason::BulkLane))?;
                match tokio::time::timeout(within, lanes.bulk.acquire()).await {
                    Ok(turn) => turn.map_err(|_| ProposeRefusal::Busy),
                    Err(_) => {
                        self.0.witness.expire(Queue::Lane);
                        Err(ProposeRefusal::Busy)
                    }
                }
            }
        }
    }

    /// Whether writes to this master's log or tables wait until the engine has caught up. What waits behind them would wait
    /// for as long as nobody knows; control, which is little, still goes.
    fn is_stalled(&self) -> bool {
        let now = self.0.clock.monotonic();
        let mut known = self.0.lanes.stalled.lock().unwrap_or_else(PoisonError::into_inner);
        match *known {
            Some((stalled, at)) if now.saturating_sub(at) < STALL_COUNTS => stalled,
            _ => {
                let stalled = self.0.group.pressures().iter().any(|(_, pressure)| pressure.stopped);
                *known = Some((stalled, now));
                stalled
            }
        }
    }

    /// Proposals that have a place in a lane now: control, bulk.
    pub fn lanes(&self) -> (usize, usize) {
        let taken = |all: usize, lane: &Semaphore| all.saturating_sub(lane.available_permits());
        let lanes = &self.0.lanes;
        (taken(CONTROL_IN_FLIGHT_MAX, &lanes.control), taken(BULK_IN_FLIGHT_MAX, &lanes.bulk))
    }
}
