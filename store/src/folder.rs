//! The data folder of a master, opened as a whole: log, state and snapshots, and whether they fit each other.
//!
//! ```text
//!   <data folder>/log/         the replicated log            <data folder>/mark    how far it had come
//!   <data folder>/state/       what applying it has made
//!   <data folder>/snapshots/   what the log was purged for
//! ```
//!
//! **Invariants.** Every entry that is not in the log is in the state or in the newest snapshot: one of the two reaches at
//! least to where the log begins. A state that is older than that without a snapshot, and an empty log beside a state that
//! has applied entries, are corrupt: entries that were acknowledged are missing.
//!
//! A state that is ahead of the log is sound: what a majority holds is applied, whether or not this machine's own write of it
//! is done. If the machine dies just then, Raft begins its log behind the state, and needs a snapshot that reaches there.

use crate::error::StoreError;
use crate::kv::Engine;
use crate::log::{FlushBy, Log, LogEntry};
use crate::snapshot::Snapshots;
use crate::sound::Soundness;
use crate::state::State;
use std::path::Path;
use std::sync::Arc;

/// The log's folder in the data folder.
pub const LOG: &str = "log";
/// The state's folder in the data folder.
pub const STATE: &str = "state";
/// The snapshots' folder in the data folder.
pub const SNAPSHOTS: &str = "snapshots";

/// A data folder that is open.
pub struct Stores<E: LogEntry> {
    /// The replicated log.
    pub log: Log<E>,
    /// What applying it has made.
    pub state: Arc<State>,
    /// Snapshots of it.
    pub snapshots: Snapshots,
    /// What is known against them.
    pub soundness: Soundness,
}

impl<E: LogEntry> Stores<E> {
    /// Opens (or makes) everything in `data_dir` and checks that it fits together.
    pub fn open(engine: Arc<dyn Engine>, data_dir: &Path, flush: FlushBy) -> Result<Self, StoreError> {
        let soundness = Soundness::new();
        let log = Log::open(&*engine, &data_dir.join(LOG), flush, soundness.clone())?;
        let state = State::open(Arc::clone(&engine), &data_dir.join(STATE), soundness.clone())?;
        let snapshots = Snapshots::open(engine, &data_dir.join(SNAPSHOTS), soundness.clone())?;
        let ends = Ends {
            log_is_empty: log.last_index().is_none() && log.purged().is_none() && log.vote().is_none(),
            purged: log.purged().map_or(0, |purged| purged.index),
            applied: state.applied_index(),
            snapshot: snapshots.current().map_or(0, |snapshot| snapshot.manifest.applied),
        };
        soundness.noted(ends.check())?;
        if ends.lacks_snapshot(log.last_index()) {
            tracing::info!(applied = ends.applied, "the state is ahead of the log: a snapshot of it is made");
            snapshots.create(&state)?;
        }
        Ok(Self { log, state, snapshots, soundness })
    }
}

/// Where the three of them stand.
pub(crate) struct Ends {
    /// Nothing was ever written to the log: no entry, no vote.
    pub(crate) log_is_empty: bool,
    /// The last entry that is gone from the log; 0 for none.
    pub(crate) purged: u64,
    /// The last entry that the state has applied; 0 for none.
    pub(crate) applied: u64,
    /// The last entry in the newest snapshot; 0 if there is none.
    pub(crate) snapshot: u64,
}

impl Ends {
    /// Whether entries that the log does not hold (`last` is its last one) are in the state and in no snapshot.
    fn lacks_snapshot(&self, last: Option<u64>) -> bool {
        let end = last.unwrap_or(self.purged);
        let before_log = if self.applied > end { self.applied } else { self.purged };
        self.snapshot < before_log
    }

    /// Refuses a gap between the log and what is to stand before it.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        let Self { log_is_empty, purged, applied, snapshot } = *self;
        if log_is_empty && applied > 0 {
            let cause = format!("it is empty, not even a vote is in it, and the state has applied entry {applied}");
            return Err(StoreError::corrupt("the log", cause));
        }
        if applied.max(snapshot) < purged {
            let newest =
                if snapshot == 0 { "there is no snapshot".into() } else { format!("the snapshot at {snapshot}") };
            let cause = format!("it stands at entry {applied} and {newest}, but the log begins behind entry {purged}");
            return Err(StoreError::corrupt("the state", cause));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_ahead_of_the_log_needs_a_snapshot() {
        let ends = |purged, applied, snapshot| Ends { log_is_empty: false, purged, applied, snapshot };
        for (ends, last) in [(ends(0, 7, 0), Some(6)), (ends(8, 8, 5), None), (ends(8, 9, 5), Some(12))] {
            assert!(ends.lacks_snapshot(last));
        }
        for (ends, last) in
            [(ends(0, 7, 0), Some(7)), (ends(8, 8, 8), None), (ends(0, 7, 7), Some(6)), (ends(0, 0, 0), None)]
        {
            assert!(!ends.lacks_snapshot(last));
        }
    }

    #[test]
    fn a_gap_before_the_log_is_refused() {
        let ends = |log_is_empty, purged, applied, snapshot| Ends { log_is_empty, purged, applied, snapshot };
        for sound in [ends(true, 0, 0, 0), ends(false, 10, 10, 0), ends(false, 10, 3, 12), ends(false, 0, 0, 0)] {
            assert!(sound.check().is_ok());
        }
        for (gap, says) in [
            (ends(true, 0, 7, 0), "not even a vote"),
            (ends(false, 10, 9, 0), "no snapshot"),
            (ends(false, 10, 0, 9), "the snapshot at 9"),
        ] {
            let refused = gap.check().expect_err(says).to_string();
            assert!(refused.contains(says), "{refused}");
        }
    }
}
