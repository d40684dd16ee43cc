//! What is counted of minions that change masters.

use prometheus_client::metrics::histogram::Histogram;
use saltern_wire::session::MoveReason;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Bounds of the buckets, in seconds: from a seat that is free to a majority that has to be found first.
const SEAT_SECONDS: [f64; 8] = [0.001, 0.005, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0];

/// Minions that came to this master from another one.
pub struct Moves {
    counts: Mutex<BTreeMap<MoveReason, u64>>,
    seats: Histogram,
}

impl Default for Moves {
    fn default() -> Self {
        Self { counts: Mutex::default(), seats: Histogram::new(SEAT_SECONDS) }
    }
}

impl Moves {
    /// A minion works through this master from now on, `took` after it said so.
    pub(crate) fn count(&self, reason: MoveReason, took: Duration) {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner).entry(reason).or_default() += 1;
        self.seats.observe(took.as_secs_f64());
    }

    /// How many came, for every reason.
    pub fn counts(&self) -> [(MoveReason, u64); MoveReason::ALL.len()] {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        MoveReason::ALL.map(|reason| (reason, counts.get(&reason).copied().unwrap_or(0)))
    }

    /// How long it took from a minion's word until it had its seat.
    pub fn seats(&self) -> &Histogram {
        &self.seats
    }
}
