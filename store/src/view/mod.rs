//! What can be read of the truth: methods of [`State`], answers by value.
//!
//! Each call sees a whole number of applied calls and delays applying while it runs, so that long lists are read in pages.
//! Two calls may see different revisions; whoever needs to know asks for [`State::revision`] first (the answer is then at
//! least as fresh).

mod cluster;
mod jobs;
mod keys;
mod minions;
mod rolling;

pub use cluster::{CertificateAuthority, Counts, JoinedMaster, Secrets};
pub use jobs::{JobRecord, JobSummary, OrphanPart, Owed};
pub use minions::FactsRecord;
pub use rolling::Offers;

use crate::state::State;
use saltern_wire::Revision;

impl State {
    /// The index of the last applied entry, as clients see it.
    pub fn revision(&self) -> Revision {
        Revision(self.applied_index())
    }
}
