//! How a master comes to be: the first one founds a cluster, every other one joins with a token, and one that lost its data
//! comes back under a fresh id.
//!
//! ```text
//!   init:  identity + CA + state secret ─▶ data folder + founding proposal ─▶ `run` proposes it after Raft's initialisation
//!   join:  identity ─ POST /v1/cluster/join at any master in the token ─▶ grant ─ checked against the pinned CA ─▶ data folder
//!   rejoin: the old certificate, over the mesh, at any other master ─▶ grant ─▶ the old data aside, the new credentials in place
//! ```
//!
//! **Invariants.** `init` and `join` write into a folder that holds nothing yet, and `master.json` last: whoever is killed half way
//! through leaves a folder that still counts as empty, and whoever fails leaves nothing. A joiner believes nobody but the CA
//! whose fingerprint is in its token.
//!
//! **It refuses** to found or join over another master's files. A wiped master joins again, a damaged one rejoins; both get a
//! new id.

pub mod grant;
mod init;
mod join;
mod rejoin;
pub mod token;

pub use init::{Founded, WEIGHT_ORDINARY, init};
pub use join::{JoinError, Joined, accept, join};
pub use rejoin::{RejoinError, Rejoined, rejoin};

use crate::pki::credentials::{self, CredentialsError, MASTER_FILE};
use crate::pki::ring::RING_FILE;
use crate::pki::{Credentials, PkiError};
use saltern_store::command::Proposal;
use saltern_wire::io::{Disk, Entropy, draw};
use saltern_wire::limits::LOG_ENTRY_BYTES_MAX;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// The founding proposal, from `init` until the truth holds it.
pub const FOUNDING_FILE: &str = "founding.bin";

/// What a [`Disk`] may leave of a write that a crash cut short ends in this.
const TEMPORARY_SUFFIX: &str = "~";

/// Longest API token file, in bytes: a token and a line end, with room for one that an operator chose.
const TOKEN_FILE_BYTES_MAX: u64 = 1024;

/// Why a data folder was not prepared. Nothing of it stays behind.
#[derive(Debug, thiserror::Error)]
pub enum FoundingError {
    /// There is something in the folder already.
    #[error("{folder} is not empty ({found}): choose another data_dir, or move what is there away")]
    Occupied {
        /// The data folder.
        folder: PathBuf,
        /// One of the things in it.
        found: String,
    },
    /// The folder or a file in it cannot be used.
    #[error("cannot use the data folder {folder}: {source}")]
    Folder {
        /// The data folder.
        folder: PathBuf,
        /// What the system said; names the path.
        source: std::io::Error,
    },
    /// The files were not written.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// A certificate was not made.
    #[error(transparent)]
    Pki(#[from] PkiError),
}

/// The founding proposal that `init` left for the first `run`, if there is one.
pub fn pending(disk: &dyn Disk, folder: &Path) -> Result<Option<Proposal>, FoundingError> {
    let path = folder.join(FOUNDING_FILE);
    let read = disk.read(&path, LOG_ENTRY_BYTES_MAX as u64);
    let Some(bytes) = read.map_err(|source| FoundingError::Folder { folder: folder.into(), source })? else {
        return Ok(None);
    };
    let malformed = |error: saltern_wire::CodecError| CredentialsError::Malformed { path, cause: error.to_string() };
    Ok(Some(saltern_wire::decode(&bytes).map_err(malformed)?))
}

/// Forgets the founding proposal, once the truth holds it.
pub fn settle(disk: &dyn Disk, folder: &Path) -> Result<(), FoundingError> {
    disk.remove(&folder.join(FOUNDING_FILE)).map_err(|source| FoundingError::Folder { folder: folder.into(), source })
}

/// Reads the API's bearer token. `None` if there is no file, or nothing in it.
pub fn api_token(disk: &dyn Disk, path: &Path) -> std::io::Result<Option<Zeroizing<String>>> {
    let Some(bytes) = disk.read(path, TOKEN_FILE_BYTES_MAX)? else { return Ok(None) };
    let bytes = Zeroizing::new(bytes);
    let text = std::str::from_utf8(&bytes)
        .map_err(|_| std::io::Error::new(std::io::ErrorKind::InvalidData, format!("{}: not text", path.display())))?;
    Ok(Some(Zeroizing::new(text.trim().to_owned())).filter(|token| !token.is_empty()))
}

/// Refuses a folder that holds anything but the remains of an `init` or `join` that never finished.
pub(crate) fn require_vacant(disk: &dyn Disk, folder: &Path) -> Result<(), FoundingError> {
    let occupied = |found: String| Err(FoundingError::Occupied { folder: folder.into(), found });
    let unusable = |source| FoundingError::Folder { folder: folder.into(), source };
    if disk.list(folder).map_err(unusable)?.iter().any(|name| name == MASTER_FILE) {
        return occupied(MASTER_FILE.into());
    }
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        // No folder yet, or one that only this `disk` knows, which has been listed above.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(unusable(source)),
    };
    for entry in entries {
        let name = entry.map_err(unusable)?.file_name().to_string_lossy().into_owned();
        let remains = credentials::FILES.contains(&name.as_str())
            || name == FOUNDING_FILE
            || name == "api.token"
            || name == RING_FILE;
        if !remains && !name.ends_with(TEMPORARY_SUFFIX) {
            return occupied(name);
        }
    }
    Ok(())
}

/// Writes a new master's folder: first what `init` adds, then the credentials with `master.json` last. On an error nothing
/// that this call wrote stays behind.
pub(crate) fn prepare(
    disk: &dyn Disk,
    entropy: &dyn Entropy,
    folder: &Path,
    api_token_file: &Path,
    credentials: &Credentials,
    founding: Option<&Proposal>,
) -> Result<(), FoundingError> {
    let existed = folder.exists();
    let mut written: Vec<PathBuf> = Vec::new();
    let outcome = (|| {
        let unusable = |source| FoundingError::Folder { folder: folder.into(), source };
        disk.make_folder(folder).map_err(unusable)?;
        // An operator's own token, placed beforehand, is kept.
        if api_token(disk, api_token_file).map_err(unusable)?.is_none() {
            written.push(api_token_file.into());
            let token = Zeroizing::new(format!("{}\n", hex::encode(draw::<32>(entropy))));
            disk.replace(api_token_file, token.as_bytes()).map_err(unusable)?;
        }
        if let Some(proposal) = founding {
            let path = folder.join(FOUNDING_FILE);
            written.push(path.clone());
            disk.replace(&path, &saltern_wire::encode(proposal)).map_err(unusable)?;
        }
        Ok(credentials.store(disk, folder)?)
    })();
    if outcome.is_err() {
        for path in written {
            // The first error is the one to report.
            let _ = disk.remove(&path);
        }
        if !existed {
            // Fails, as it should, if somebody else put something there meanwhile.
            let _ = std::fs::remove_dir(folder);
        }
    }
    outcome
}

#[cfg(test)]
mod tests;
