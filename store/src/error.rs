//! Why the store could not do its work. None of these is a refusal of a command (that is [`crate::command::Refused`], a value
//! of the truth): each one concerns this machine only, and most of them mean that this master has to stop.

use saltern_wire::codec::CodecError;
use saltern_wire::level::Newer;
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
    /// What is stored came from a newer build. It is not corrupt, and this build must not touch it.
    #[error(transparent)]
    Newer(#[from] Newer),
    /// There is no room on the disk.
    #[error(
        "the disk is full: {doing} in {} failed ({cause}); free some space there, or raise the quota, and start this master \
         again: nothing that was acknowledged is lost",
        path.display()
    )]
    Full {
        /// What was tried.
        doing: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system or the engine said.
        cause: String,
    },
    /// The file system takes no writes.
    #[error(
        "the file system is read-only: {doing} in {} failed ({cause}); a system mounts a disk with errors like that, so look \
         at its log, make it writable and start this master again: nothing that was acknowledged is lost",
        path.display()
    )]
    ReadOnly {
        /// What was tried.
        doing: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system or the engine said.
        cause: String,
    },
    /// The process or the system has no file descriptor left.
    #[error(
        "no file descriptor is left: {doing} in {} failed ({cause}); raise the limit of open files (LimitNOFILE= of the \
         unit) and start this master again: nothing that was acknowledged is lost",
        path.display()
    )]
    Descriptors {
        /// What was tried.
        doing: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system or the engine said.
        cause: String,
    },
    /// The storage engine or the file system failed in another way.
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
        Self::engine(doing, path, source.to_string())
    }

    /// A failure that an engine or the system put into words. What an operator can put right has a variant of its own; the
    /// words are those of the C library, which both use.
    pub(crate) fn engine(doing: &'static str, path: &Path, cause: String) -> Self {
        let path = path.to_path_buf();
        let says = |words: [&str; 2]| words.iter().any(|words| cause.contains(words));
        if says(["No space left on device", "Disk quota exceeded"]) {
            Self::Full { doing, path, cause }
        } else if says(["Read-only file system", "read-only file system"]) {
            Self::ReadOnly { doing, path, cause }
        } else if says(["Too many open files", "Too many open files in system"]) {
            Self::Descriptors { doing, path, cause }
        } else {
            Self::Engine { doing, path, cause }
        }
    }

    /// Whether the disk refused a write, which no other copy of the data is to blame for.
    pub(crate) fn is_of_the_disk(&self) -> bool {
        match self {
            Self::Full { .. } | Self::ReadOnly { .. } | Self::Descriptors { .. } | Self::Engine { .. } => true,
            Self::Folder { .. }
            | Self::Locked { .. }
            | Self::Corrupt { .. }
            | Self::Newer(_)
            | Self::Order { .. }
            | Self::Snapshot { .. }
            | Self::Broken => false,
        }
    }

    /// What is wrong, without what to do about it: for a list of many findings.
    pub(crate) fn finding(&self) -> String {
        if let Self::Corrupt { what, cause } = self { format!("{what}: {cause}") } else { self.to_string() }
    }

    /// What stands in a record of `what` that does not decode: of a newer build, or corrupt.
    pub(crate) fn undecoded(what: impl Into<String>, error: &CodecError) -> Self {
        match error {
            CodecError::Newer { found, known } => Newer::format(what, *found, *known).into(),
            CodecError::Short | CodecError::Kind { .. } | CodecError::Body { .. } | CodecError::Large { .. } => {
                Self::corrupt(what, error)
            }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::Engine;
    use crate::kv::rocks::RocksEngine;

    #[test]
    fn what_an_operator_can_put_right_is_named_with_what_to_do() {
        for (cause, says) in [
            ("IO error: No space left on device: While appending to file: /d/000004.log", "the disk is full"),
            ("Disk quota exceeded (os error 122)", "raise the quota"),
            ("IO error: Read-only file system: While open a file for appending", "make it writable"),
            ("IO error: Too many open files: While open a file for random read", "LimitNOFILE"),
            ("IO error: Input/output error", "storage failed while writing"),
        ] {
            let text = StoreError::engine("writing", Path::new("/d"), cause.into()).to_string();
            assert!(text.contains(says) && text.contains(cause) && text.contains("/d"), "{text}");
        }
    }

    #[test]
    fn a_device_without_room_is_full() {
        let refused = RocksEngine.append_file(Path::new("/dev/full"), b"x").expect_err("it takes nothing");
        assert!(matches!(refused, StoreError::Full { .. }), "{refused}");
    }
}
