//! Which master to attach to, and when one counts as gone. Pure: time and random numbers come in.
//!
//! ```text
//!   candidates   configured addresses + active masters of the directory: whom to dial, and where the standby session waits
//!   choice       what makes one master better than another: how near it is, how fast, and this minion's own order
//!   vitals       one attached master's signs of life: pongs on the session, beacons on the fan-out, quorum
//! ```
//!
//! **Invariants.** The first failure of a master costs no waiting: the next one is tried at once. Only a master that fails
//! repeatedly is left alone for a while, at most [`BACKOFF_MAX`], with full jitter. A master that said how long to stay away
//! is obeyed. One that lives and is of no use (no quorum, no word about our key, no fan-out, every call refused) is left for
//! one that may be better, and kept if there is none.

mod candidates;
mod choice;
mod vitals;

pub use candidates::{BACKOFF_MAX, Candidates, Choice, Wanted};
pub use choice::{Apart, Home, Place, Tier, apart};
pub use vitals::{NO_QUORUM_PATIENCE, NO_QUORUM_SPREAD, Patience, Pulse, Vitals};

use std::time::Duration;

/// A session has to live this long before the failures before it are forgotten.
const STABLE: Duration = Duration::from_secs(10);

/// Somewhere between nothing and `most`.
pub fn jittered(most: Duration, random: u64) -> Duration {
    // The top 32 bits as a fraction: exact enough for a wait, and free of floating point.
    let fraction = random >> 32;
    let nanos = (u128::from(fraction) * most.as_nanos()) >> 32;
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests;
