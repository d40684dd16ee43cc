//! The data folder: what a minion remembers, and where.
//!
//! ```text
//!   lock             held by the one process that works here
//!   minion.key       32 secret bytes: who it is
//!   born             its incarnation, drawn when the folder was made
//!   directory        the newest directory of masters that it verified, with the CA key it verified it under
//!   facts            which grains were reported to the truth last, and as whom
//!   mine             the counter of its mine reports and the names it reported
//!   grains           grains set by `grains.setval`
//!   journal          every job that it took: see `journal`
//!   outbox/JID       every outcome that is not committed yet: see `outbox`
//!   jobs/JID.{lock,started}   one supervised job each: see `supervisor`
//! ```
//!
//! Everything here goes through [`Disk`], so that the simulation keeps it in memory; only [`lock`] needs a real file.

use saltern_wire::codec::{CodecError, Encoded, decode, encode};
use saltern_wire::crypto::{Identity, PublicKey, Signed};
use saltern_wire::id::Ordinal;
use saltern_wire::io::{Clock, Disk, Entropy, draw};
use saltern_wire::master::Directory;
use saltern_wire::{JobId, Map, Value};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Largest of the small files, in bytes: a directory of masters or the grains set by hand.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Why the data folder cannot be used. One line each.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// The system refuses.
    #[error("{source}; the data folder {} has to be writable for the user that runs the minion", path.display())]
    Disk {
        /// Which file or folder.
        path: PathBuf,
        /// What it said.
        source: std::io::Error,
    },
    /// A file holds something else than it should.
    #[error("{}: {cause}; restore the file or move the folder away and have the minion accepted anew", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What was found.
        cause: String,
    },
    /// Another process works here.
    #[error("{}: another minion (pid {pid}) works on this folder; give this one its own data_dir", path.display())]
    Taken {
        /// The folder.
        path: PathBuf,
        /// Who.
        pid: String,
    },
}

/// The data folder of one minion.
#[derive(Clone)]
pub struct Folder {
    disk: Arc<dyn Disk>,
    root: PathBuf,
}

/// What is drawn when the folder is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Born {
    /// A reinstalled minion, or one that lost its journal, has another and higher one.
    pub incarnation: u64,
}

impl Encoded for Born {
    const KIND: u8 = 200;
}

/// A directory as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptDirectory {
    /// The cluster CA, whose fingerprint is pinned.
    pub ca: PublicKey,
    /// Signed by it.
    pub directory: Signed<Directory>,
}

impl Encoded for KeptDirectory {
    const KIND: u8 = 201;
}

/// Which grains the truth has of this minion.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportedFacts {
    /// As whom they were reported; a key that was deleted and accepted again has another.
    pub ordinal: Ordinal,
    /// BLAKE3 of the encoded grains.
    #[serde(with = "serde_bytes")]
    pub digest: [u8; 32],
}

impl Encoded for ReportedFacts {
    const KIND: u8 = 202;
}

impl Folder {
    /// The folder at `root`, made if need be.
    pub fn open(disk: Arc<dyn Disk>, root: impl Into<PathBuf>) -> Result<Self, FolderError> {
        let folder = Self { disk, root: root.into() };
        for path in [folder.root.clone(), folder.outbox(), folder.jobs()] {
            folder.disk.make_folder(&path).map_err(|source| FolderError::Disk { path, source })?;
        }
        Ok(folder)
    }

    /// The folder at `root` as it is, without making anything: for reading.
    pub fn at(disk: Arc<dyn Disk>, root: impl Into<PathBuf>) -> Self {
        Self { disk, root: root.into() }
    }

    /// Where small files are kept.
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where outcomes wait.
    pub fn outbox(&self) -> PathBuf {
        self.root.join("outbox")
    }

    /// Where supervised jobs leave their marks.
    pub fn jobs(&self) -> PathBuf {
        self.root.join("jobs")
    }

    /// The journal.
    pub fn journal(&self) -> PathBuf {
        self.root.join("journal")
    }

    /// Locked by the living supervisor of `jid`.
    pub fn job_lock(&self, jid: JobId) -> PathBuf {
        self.jobs().join(format!("{jid}.lock"))
    }

    /// Exists once `jid` was started, or must not be any more.
    pub fn job_started(&self, jid: JobId) -> PathBuf {
        self.jobs().join(format!("{jid}.started"))
    }

    /// Whether there is an identity key.
    pub fn has_identity(&self) -> Result<bool, FolderError> {
        Ok(self.read(&self.root.join("minion.key"), 32)?.is_some())
    }

    /// The identity key, made on first use.
    pub fn identity(&self, entropy: &dyn Entropy) -> Result<Identity, FolderError> {
        let path = self.root.join("minion.key");
        if let Some(bytes) = self.read(&path, 32)? {
            let seed: [u8; 32] = bytes.as_slice().try_into().map_err(|_| FolderError::Damaged {
                path: path.clone(),
                cause: format!("the key has {} bytes instead of 32", bytes.len()),
            })?;
            return Ok(Identity::from_seed(seed));
        }
        let seed = draw::<32>(entropy);
        self.write(&path, &seed)?;
        Ok(Identity::from_seed(seed))
    }

    /// The incarnation, drawn on first use; `true` if that is now.
    pub fn born(&self, clock: &dyn Clock, entropy: &dyn Entropy) -> Result<(Born, bool), FolderError> {
        match self.read_record::<Born>(&self.root.join("born"))? {
            Some(born) => Ok((born, false)),
            None => Ok((self.be_born(None, clock, entropy)?, true)),
        }
    }

    /// Draws a new incarnation, above `old`: seconds of the wall clock, so that a reinstalled minion's is higher, and
    /// random below, so that two of one second differ.
    pub fn be_born(&self, old: Option<Born>, clock: &dyn Clock, entropy: &dyn Entropy) -> Result<Born, FolderError> {
        let seconds = clock.wall_unix_micros() / 1_000_000;
        let drawn = (seconds << 24) | u64::from(u32::from_be_bytes(draw::<4>(entropy)) >> 8);
        let born = Born { incarnation: drawn.max(old.map_or(0, |old| old.incarnation + 1)) };
        self.write(&self.root.join("born"), &encode(&born))?;
        Ok(born)
    }

    /// The kept directory.
    pub fn directory(&self) -> Result<Option<KeptDirectory>, FolderError> {
        self.read_record(&self.root.join("directory"))
    }

    /// Keeps a directory.
    pub fn keep_directory(&self, kept: &KeptDirectory) -> Result<(), FolderError> {
        self.write(&self.root.join("directory"), &encode(kept))
    }

    /// Which grains were reported last.
    pub fn reported_facts(&self) -> Result<ReportedFacts, FolderError> {
        Ok(self.read_record(&self.root.join("facts"))?.unwrap_or_default())
    }

    /// Keeps which grains were reported.
    pub fn keep_reported_facts(&self, facts: &ReportedFacts) -> Result<(), FolderError> {
        self.write(&self.root.join("facts"), &encode(facts))
    }

    /// The grains set by `grains.setval`, as JSON, so that people can read and mend them.
    pub fn grains(&self) -> Result<Map, FolderError> {
        let path = self.root.join("grains");
        let Some(bytes) = self.read(&path, FILE_BYTES_MAX)? else { return Ok(Map::new()) };
        match serde_json::from_slice(&bytes) {
            Ok(Value::Object(map)) => Ok(map),
            Ok(_) => Err(FolderError::Damaged { path, cause: "it holds JSON that is no object".into() }),
            Err(error) => Err(FolderError::Damaged { path, cause: error.to_string() }),
        }
    }

    /// Keeps grains set by hand.
    pub fn keep_grains(&self, grains: &Map) -> Result<(), FolderError> {
        let text = Value::Object(grains.clone()).to_string();
        self.write(&self.root.join("grains"), text.as_bytes())
    }

    /// The record in the file `name`, `None` if there is none.
    pub fn record<T: Encoded>(&self, name: &str) -> Result<Option<T>, FolderError> {
        self.read_record(&self.root.join(name))
    }

    /// Puts a record in place of the file `name`.
    pub fn keep_record<T: Encoded>(&self, name: &str, record: &T) -> Result<(), FolderError> {
        self.write(&self.root.join(name), &encode(record))
    }

    /// Forgets the marks of a job that is settled.
    pub fn forget_job(&self, jid: JobId) -> Result<(), FolderError> {
        for path in [self.job_started(jid), self.job_lock(jid)] {
            self.disk.remove(&path).map_err(|source| FolderError::Disk { path, source })?;
        }
        Ok(())
    }

    fn read(&self, path: &Path, bytes_max: u64) -> Result<Option<Vec<u8>>, FolderError> {
        self.disk.read(path, bytes_max).map_err(|source| FolderError::Disk { path: path.into(), source })
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), FolderError> {
        self.disk.replace(path, bytes).map_err(|source| FolderError::Disk { path: path.into(), source })
    }

    fn read_record<T: Encoded>(&self, path: &Path) -> Result<Option<T>, FolderError> {
        let Some(bytes) = self.read(path, FILE_BYTES_MAX)? else { return Ok(None) };
        let damaged = |error: CodecError| FolderError::Damaged { path: path.into(), cause: error.to_string() };
        decode(&bytes).map(Some).map_err(damaged)
    }
}

/// Holds the data folder for this process until it is dropped or the process ends.
#[derive(Debug)]
pub struct FolderLock(#[expect(dead_code, reason = "the lock is held by the open file")] std::fs::File);

/// Takes the folder for this process. Makes it if need be, on the real file system.
pub fn lock(root: &Path) -> Result<FolderLock, FolderError> {
    use rustix::fs::{FlockOperation, flock};
    use std::io::{Read, Write};
    use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
    let disk = |path: &Path| {
        let shown = path.display().to_string();
        move |error: std::io::Error| FolderError::Disk {
            path: root.into(),
            source: std::io::Error::new(error.kind(), format!("{shown}: {error}")),
        }
    };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(root).map_err(disk(root))?;
    let path = root.join("lock");
    let mut options = std::fs::OpenOptions::new();
    let mut file =
        options.read(true).write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(disk(&path))?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let mut pid = String::new();
        file.take(20).read_to_string(&mut pid).map_err(disk(&path))?;
        return Err(FolderError::Taken { path: root.into(), pid: pid.trim().to_owned() });
    }
    file.set_len(0).map_err(disk(&path))?;
    file.write_all(std::process::id().to_string().as_bytes()).map_err(disk(&path))?;
    Ok(FolderLock(file))
}
