//! Why the store could not do its work. None of these is a refusal of a command (that is [`crate::command::Refused`], a value
//! of the truth): each one concerns this machine only, and most of them mean that this master has to stop.

use std::io;
use std::path::{Path, PathBuf};

/// A failure of this machine's storage.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The folder cannot be made, read or written.
    #[error(
        "cannot use the folder {}: {source}; it must be a folder that the user running this program can read and write",
        path.display()
    )]
    Folder {
        /// Which folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process has the folder open.
    #[error("the folder {} is in use by another process; stop that one or choose another data folder", path.display())]
    Locked {
        /// Which folder.
        path: PathBuf,
    },
    /// Stored bytes are not what was written. Nothing of this copy may be served, voted on or replicated.
    #[error("{what} is corrupt: {cause}")]
    Corrupt {
        /// What was read, with its index or key.
        what: String,
        /// What is wrong with it.
        cause: String,
    },
    /// The storage engine or the file system failed.
    #[error("storage failed while {doing} in {}: {cause}", path.display())]
    Engine {
        /// What was tried.
        doing: &'static str,
        /// Where.
        path: PathBuf,
        /// What the engine said.
        cause: String,
    },
    /// An entry does not follow the last one.
    #[error("entry {found} does not follow entry {last}; the log and the state disagree")]
    Order {
        /// The last index there is.
        last: u64,
        /// The index that came.
        found: u64,
    },
    /// A snapshot's description or a piece of it does not fit.
    #[error("the snapshot {id:?} cannot be used: {cause}")]
    Snapshot {
        /// Which snapshot.
        id: String,
        /// Why.
        cause: String,
    },
    /// A write failed earlier: memory may be ahead of the disk. Only a restart helps.
    #[error("an earlier write failed; restart this master")]
    Broken,
}

impl StoreError {
    /// A file system error at `path`.
    pub(crate) fn file(doing: &'static str, path: &Path, source: &io::Error) -> Self {
        Self::Engine { doing, path: path.to_path_buf(), cause: source.to_string() }
    }

    /// What is wrong, without what to do about it: for a list of many findings.
    pub(crate) fn finding(&self) -> String {
        match self {
            Self::Corrupt { what, cause } => format!("{what}: {cause}"),
            _ => self.to_string(),
        }
    }

    /// Bytes that are not what was written.
    pub(crate) fn corrupt(what: impl Into<String>, cause: impl ToString) -> Self {
        Self::Corrupt { what: what.into(), cause: cause.to_string() }
    }
}

impl From<StoreError> for io::Error {
    fn from(error: StoreError) -> Self {
        Self::other(error)
    }
}
