//! `saltern-master recover`: what to do when a majority of the masters is gone for good.
//!
//! ```text
//!   on each survivor:  recover plan                     what it holds, as text and as one line to carry to the others
//!   anywhere:          recover plan --report LINE …     which one to choose, what is kept, what nobody here can know
//!   on the chosen one: recover apply --confirm CLUSTER  carries the truth on alone, under a higher generation
//! ```
//!
//! **Invariants.** Planning changes nothing that a start would not. Nothing that the chosen master holds is lost: entries that it holds and does not
//! know to be committed are brought back with the rest, because some of them may have been acknowledged. What was only ever
//! on the lost disks cannot come back, and no survivor can say how much that is: the plan says after which entry and which
//! time it would be.
//!
//! **It refuses** to work on a master that runs, and where a majority is still there: then there is nothing to recover.

pub mod apply;
pub mod plan;

pub use apply::{Recovered, apply};
pub use plan::{Plan, Report, report};

use crate::pki::PkiError;
use crate::pki::credentials::CredentialsError;
use crate::raft::refound::RefoundError;
use saltern_store::StoreError;
use saltern_wire::ClusterId;
use std::path::PathBuf;

/// Why nothing was recovered.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// There is no master in the folder.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// Its data cannot be trusted.
    #[error(
        "this master is quarantined ({cause}): recover on another survivor; only if there is none, restore a backup"
    )]
    Quarantined {
        /// What was found.
        cause: String,
    },
    /// The tables or the log cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The log cannot be read or carried on.
    #[error(transparent)]
    Refound(#[from] RefoundError),
    /// The CA does not open, or a certificate was not made.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// The truth on this disk was never founded.
    #[error("this master holds no truth yet (it never caught up): choose another survivor")]
    Empty,
    /// Not the cluster that the operator means.
    #[error("this is a master of the cluster {held}, not of {given}: say --confirm {held} if it is the one you mean")]
    OtherCluster {
        /// What it is.
        held: ClusterId,
        /// What was said.
        given: ClusterId,
    },
    /// It is a majority by itself.
    #[error("this master is the only voter: there is no other disk to miss, start it with `saltern-master run`")]
    Alone,
    /// A report that was carried here is none.
    #[error("{text:?} is no report of `saltern-master recover plan`: {cause}")]
    Report {
        /// What was given, shortened.
        text: String,
        /// Why not.
        cause: String,
    },
    /// A file cannot be read or written.
    #[error("{path}: {source}; run the same command again")]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl RecoverError {
    /// sysexits.h: 64 for what was said wrongly, 65 for data that cannot be trusted, 70 for a fault, 74 for the disk, 75 for a
    /// folder in use, 78 for one that holds no master.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::OtherCluster { .. } | Self::Alone | Self::Report { .. } => 64,
            Self::Quarantined { .. } | Self::Empty | Self::Store(StoreError::Corrupt { .. }) => 65,
            Self::Refound(RefoundError::Store(_) | RefoundError::Unreadable { .. }) => 65,
            Self::Pki(_) => 70,
            Self::Store(StoreError::Locked { .. }) => 75,
            Self::Store(_) | Self::File { .. } | Self::Refound(RefoundError::Write(_)) => 74,
            Self::Credentials(_) => 78,
        }
    }
}

#[cfg(test)]
mod tests;
