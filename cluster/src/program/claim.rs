//! One command at a time on a data folder: a lock of the kernel on the folder itself, which ends with the process.

use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};

/// Held while a command works on a data folder.
#[derive(Debug)]
pub struct Claim(#[expect(dead_code, reason = "the lock lives as long as the descriptor")] Option<File>);

/// Why a command may not work on a folder.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// Another process does.
    #[error("{folder} is in use by a running master or another command of saltern-master: stop that one first")]
    Taken {
        /// The data folder.
        folder: PathBuf,
    },
    /// It cannot be opened.
    #[error("{folder}: {source}; the data folder must be one that this user can read and write")]
    Folder {
        /// The data folder.
        folder: PathBuf,
        /// What the system said.
        source: Error,
    },
}

impl ClaimError {
    /// sysexits.h: 75 if it may work later, 78 for a folder that cannot be used.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Taken { .. } => 75,
            Self::Folder { .. } => 78,
        }
    }
}

impl Claim {
    /// Takes the folder; there is nothing to take if it does not exist.
    pub fn take(folder: &Path) -> Result<Self, ClaimError> {
        let refuse = |source: Error| ClaimError::Folder { folder: folder.into(), source };
        let file = match File::open(folder) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self(None)),
            Err(error) => return Err(refuse(error)),
        };
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self(Some(file))),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(ClaimError::Taken { folder: folder.into() }),
            // A file system that knows no locks: the store's own lock, taken later, has to do.
            Err(rustix::io::Errno::NOSYS | rustix::io::Errno::NOTSUP) => Ok(Self(None)),
            Err(error) => Err(refuse(error.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_taken_once_and_given_back() {
        let home = tempfile::tempdir().expect("a folder");
        let first = Claim::take(home.path()).expect("free");
        let second = Claim::take(home.path()).expect_err("taken");
        assert_eq!(second.exit_code(), 75);
        assert!(second.to_string().contains(&home.path().display().to_string()), "{second}");
        drop(first);
        Claim::take(home.path()).expect("free again");
        Claim::take(&home.path().join("absent")).expect("nothing to take");
    }
}
