//! Whom a minion obeys: masters in the newest directory that it verified under the pinned CA, and nobody else.
//!
//! **Invariants.** The pin never changes while the process lives. A directory replaces another of the same cluster only if
//! (generation, version) is higher, and that of another cluster only if it names ours as the one that it was restored from
//! and its generation is higher: so a removed master cannot bring itself back and a fenced generation stays fenced. A job is
//! obeyed only with the signature of a master in the directory over the very bytes that are run.

use crate::folder::KeptDirectory;
use saltern_wire::crypto::handshake::Expectation;
use saltern_wire::crypto::{Fingerprint, PublicKey, SignatureError, Signed, Verified};
use saltern_wire::job::Job;
use saltern_wire::master::{Certificate, Directory, MasterRecord, MasterState};
use saltern_wire::{ClusterId, MasterId};

/// Why a directory is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DirectoryError {
    /// The CA is not the pinned one.
    #[error("it is signed by CA {found}, pinned is {pinned}")]
    Ca {
        /// The fingerprint shown.
        found: Fingerprint,
        /// The fingerprint demanded.
        pinned: Fingerprint,
    },
    /// The CA did not sign it.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// It is of another cluster.
    #[error("it is of cluster {found}, this minion belongs to {expected}")]
    Cluster {
        /// Its cluster.
        found: ClusterId,
        /// Ours.
        expected: ClusterId,
    },
}

/// Why a job is not obeyed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JobRefusal {
    /// No directory yet: nobody is obeyed.
    #[error("the directory of masters is not known yet")]
    NoDirectory,
    /// The job's bytes are no job.
    #[error("it does not parse: {0}")]
    Malformed(String),
    /// The signer is not in the directory.
    #[error("it names master {0} as its signer, which is not in the directory")]
    Signer(MasterId),
    /// The signer did not sign it.
    #[error("its signature is not that of master {0}")]
    Forged(MasterId),
    /// It is of another cluster.
    #[error("it is of cluster {0}")]
    Cluster(ClusterId),
    /// It was signed before a restore or recovery that fenced it.
    #[error("it is of generation {found}, the lowest obeyed is {lowest}")]
    Generation {
        /// Its generation.
        found: u64,
        /// Ours.
        lowest: u64,
    },
}

/// How a proven master stands in the directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// It is in it, with this very key.
    Listed,
    /// There is no directory yet; its certificate is all that is known.
    FirstContact,
    /// It is not in it, or with another key: it may be new, and has to bring a newer directory.
    Absent,
}

/// The trust of one minion.
#[derive(Debug, Clone)]
pub struct Trust {
    pinned: Fingerprint,
    ca: Option<PublicKey>,
    directory: Option<Verified<Directory>>,
}

impl Trust {
    /// Trusts the CA with this fingerprint.
    pub fn new(pinned: Fingerprint) -> Self {
        Self { pinned, ca: None, directory: None }
    }

    /// What a master has to prove in the handshake.
    pub fn expectation(&self) -> Expectation {
        Expectation {
            ca: self.pinned,
            cluster: self.directory.as_ref().map(|directory| directory.cluster),
            generation_min: self.generation(),
        }
    }

    /// The newest directory's generation.
    pub fn generation(&self) -> u64 {
        self.directory.as_ref().map_or(0, |directory| directory.generation)
    }

    /// The newest directory.
    pub fn directory(&self) -> Option<&Directory> {
        self.directory.as_deref()
    }

    /// Takes in a directory and gives it back to be kept if it is newer than what there was.
    pub fn handle_directory(
        &mut self,
        ca: PublicKey,
        signed: &Signed<Directory>,
    ) -> Result<Option<KeptDirectory>, DirectoryError> {
        let found = ca.fingerprint();
        if found != self.pinned {
            return Err(DirectoryError::Ca { found, pinned: self.pinned });
        }
        let new = signed.verify(&ca)?;
        if let Some(old) = &self.directory {
            if !new.replaces(old) {
                if new.cluster != old.cluster {
                    return Err(DirectoryError::Cluster { found: new.cluster, expected: old.cluster });
                }
                return Ok(None);
            }
        }
        self.ca = Some(ca);
        self.directory = Some(new);
        Ok(Some(KeptDirectory { ca, directory: signed.clone() }))
    }

    /// Where a master stands whose certificate the handshake checked.
    pub fn place(&self, certificate: &Certificate) -> Place {
        let Some(directory) = &self.directory else { return Place::FirstContact };
        match directory.master(certificate.master) {
            Some(record) if record.public_key == certificate.public_key => Place::Listed,
            Some(_) | None => Place::Absent,
        }
    }

    /// Masters that may be attached to.
    pub fn active_masters(&self) -> impl Iterator<Item = &MasterRecord> {
        let masters = self.directory.iter().flat_map(|directory| directory.masters.iter());
        masters.filter(|master| master.state == MasterState::Active)
    }

    /// Checks a job against the directory.
    pub fn check_job(&self, signed: &Signed<Job>, peeked: &Job) -> Result<Verified<Job>, JobRefusal> {
        let Some(directory) = &self.directory else { return Err(JobRefusal::NoDirectory) };
        // One that left is believed for what it took before: it reaches this minion through a master that is still one.
        let Some(signer) = directory.signer(peeked.master) else { return Err(JobRefusal::Signer(peeked.master)) };
        let job = signed.verify(signer).map_err(|error| match error {
            SignatureError::Key | SignatureError::Forged => JobRefusal::Forged(peeked.master),
            SignatureError::Codec(error) => JobRefusal::Malformed(error.to_string()),
        })?;
        if job.cluster != directory.cluster {
            return Err(JobRefusal::Cluster(job.cluster));
        }
        if job.generation < directory.generation {
            return Err(JobRefusal::Generation { found: job.generation, lowest: directory.generation });
        }
        Ok(job)
    }
}
