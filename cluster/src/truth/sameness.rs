//! What this master knows of whether the masters' states are the same: its own hashes, and those that the others told.

use super::Truth;
use saltern_store::Check;
use saltern_wire::MasterId;
use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

impl Truth {
    /// The hash of this master's state at some of its newest entries, as a probe is answered with.
    pub(crate) fn own_checks(&self) -> Vec<(u64, u64)> {
        self.state().checks().into_iter().map(|check| (check.index, check.hash)).collect()
    }

    /// What every other master that answered its last probe said of its own.
    pub(crate) fn checks_of_others(&self) -> BTreeMap<MasterId, Vec<Check>> {
        let probes = self.0.probes.lock().unwrap_or_else(PoisonError::into_inner);
        let answering = probes.iter().filter(|(_, probed)| probed.reachable);
        answering.map(|(master, probed)| (*master, probed.checks.clone())).collect()
    }

    /// States differ at this entry, and no majority tells who is right.
    pub(crate) fn note_split(&self, index: u64) {
        self.0.split.store(index, Ordering::Relaxed);
    }

    /// The newest entry at which states were found to differ without a majority; 0 for none.
    pub fn split(&self) -> u64 {
        self.0.split.load(Ordering::Relaxed)
    }
}
