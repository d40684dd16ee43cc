//! Backups and the keys for the safe.

use crate::id::{ClusterId, Revision};
use crate::time::LogicalTime;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Asks for the cluster's keys under a passphrase.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportKeys {
    /// What they are to open with, 12 to 1024 bytes.
    pub passphrase: Passphrase,
}

/// A passphrase; never printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Passphrase(pub String);

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(…)")
    }
}

/// The cluster's keys, sealed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportedKeys {
    /// Which cluster.
    pub cluster: ClusterId,
    /// The text of the file for the safe.
    pub file: String,
}

/// What the scheduled backups of a master came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupStatus {
    /// Where to.
    pub folder: String,
    /// The newest one that is whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest: Option<String>,
    /// Its point in the log, if this process wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<Revision>,
    /// The truth's time at that point, if this process wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<LogicalTime>,
    /// Its length, in bytes.
    pub bytes: u64,
    /// How long ago it was finished, in seconds, by the files' times if an earlier process wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_seconds: Option<u64>,
    /// How many are kept in the folder.
    pub kept: u64,
    /// Why the last attempt failed, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}
