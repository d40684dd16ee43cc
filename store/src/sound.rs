//! Whether this copy can still be trusted, and whether its disk still takes writes: noted by whoever meets the opposite, read
//! by whoever runs the master, who ends it for either.
//!
//! **Invariants.** The first cause stays. It is noted before the error that brings it is returned. From then on the log takes
//! no vote and no entry and the state applies nothing: what is doubted is not voted on, served or replicated while the
//! process is on its way to its end.

use crate::error::StoreError;
use std::sync::{Arc, OnceLock};

/// What is known against this copy. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Soundness {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    corrupt: OnceLock<String>,
    failed: OnceLock<String>,
    newer: OnceLock<String>,
}

impl Soundness {
    /// Nothing is known against it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes `error` if it says that stored bytes are not what was written, or of a newer build. The first one stays.
    pub fn doubt(&self, error: &StoreError) {
        if matches!(error, StoreError::Newer(_)) && self.shared.newer.set(error.to_string()).is_ok() {
            tracing::error!(%error, "this master's program is too old for its cluster: it stops");
        }
        if matches!(error, StoreError::Corrupt { .. }) && self.shared.corrupt.set(error.to_string()).is_ok() {
            tracing::error!(%error, "this master's data cannot be trusted: it stops serving, voting and replicating");
        }
    }

    /// Notes that a write or sync failed, so that nobody knows what is on the disk. The first one stays. If it failed because
    /// of corrupt bytes, they are the cause.
    pub fn fail(&self, error: &StoreError) {
        if matches!(error, StoreError::Corrupt { .. }) {
            return self.doubt(error);
        }
        if self.shared.failed.set(error.to_string()).is_ok() {
            tracing::error!(%error, "this master's disk takes no more writes: it stops");
        }
    }

    /// Why the stored bytes cannot be trusted, if they cannot: this master has to join again.
    pub fn cause(&self) -> Option<String> {
        self.shared.corrupt.get().cloned()
    }

    /// Which write failed, if one did: a restart helps when what is named in it has been put right.
    pub fn failure(&self) -> Option<String> {
        self.shared.failed.get().cloned()
    }

    /// What was met that only a newer build understands: this master goes on, with everything it has, once its program was
    /// upgraded.
    pub fn newer(&self) -> Option<String> {
        self.shared.newer.get().cloned()
    }

    /// Whether there is a cause or a failure.
    pub fn is_lost(&self) -> bool {
        self.shared.newer.get().is_some() || self.shared.corrupt.get().is_some() || self.shared.failed.get().is_some()
    }

    /// `result`, with its error noted if it is one of corrupt bytes.
    pub(crate) fn noted<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        result.inspect_err(|error| self.doubt(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_cause_stays_and_only_corruption_is_one() {
        let soundness = Soundness::new();
        soundness.doubt(&StoreError::Broken);
        assert_eq!((soundness.cause(), soundness.is_lost()), (None, false));
        let noted: Result<(), _> = soundness.noted(Err(StoreError::corrupt("log entry 7", "a bit")));
        assert!(noted.is_err());
        soundness.clone().doubt(&StoreError::corrupt("log entry 8", "another bit"));
        assert!(soundness.cause().is_some_and(|cause| cause.contains("log entry 7")), "{:?}", soundness.cause());
        assert_eq!(soundness.failure(), None);
        soundness.fail(&StoreError::Broken);
        assert!(soundness.failure().is_some() && soundness.is_lost());
    }
}
