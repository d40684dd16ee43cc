//! What this master knows of the ways between masters, and of the timing that each of them runs with.

use super::Truth;
use crate::regions::Ways;
use saltern_wire::profile::{Profile, Timing};
use std::sync::{MutexGuard, PoisonError};

impl Truth {
    /// The ways between masters, as far as they are measured.
    pub(crate) fn ways(&self) -> MutexGuard<'_, Ways> {
        self.0.ways.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Raft's timing on this master.
    pub fn timing(&self) -> Timing {
        let config = self.group().config();
        Timing {
            heartbeat_ms: config.heartbeat_ms,
            election_ms_min: config.election_ms_min,
            election_ms_max: config.election_ms_max,
        }
    }

    /// The profile that this master runs with; `None` if its configuration gives it a timing of its own.
    pub fn profile(&self) -> Option<Profile> {
        Profile::of(self.timing())
    }
}
