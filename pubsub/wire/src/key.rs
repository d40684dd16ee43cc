//! Minion keys and what the operator decided about them.

use crate::crypto::{Fingerprint, PublicKey};
use crate::id::{MinionId, Ordinal};
use crate::time::LogicalTime;
use serde::{Deserialize, Serialize};

/// What was decided about a key. The names on the wire are Salt's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyState {
    /// The minion may work.
    Accepted,
    /// A second key came for an id that belongs to another one: impersonation, or a reinstalled machine.
    Denied,
    /// Waits for an operator ("unaccepted").
    Pending,
    /// Remembered and refused.
    Rejected,
}

impl KeyState {
    /// Whether a minion with a key in this state may receive jobs and return.
    pub fn may_work(self) -> bool {
        matches!(self, Self::Accepted)
    }
}

/// One key as the truth holds it. An id has at most one key that is not denied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRecord {
    /// Whose it says it is.
    pub minion: MinionId,
    /// The key.
    pub public_key: PublicKey,
    /// What was decided.
    pub state: KeyState,
    /// The minion's number, from its first acceptance on.
    #[serde(default)]
    pub ordinal: Option<Ordinal>,
    /// When it was first submitted.
    pub submitted: LogicalTime,
    /// When the last decision was made.
    #[serde(default)]
    pub decided: Option<LogicalTime>,
    /// Which operator decided.
    #[serde(default)]
    pub decided_by: Option<String>,
}

impl KeyRecord {
    /// What people compare with `saltern-minion fingerprint`.
    pub fn fingerprint(&self) -> Fingerprint {
        self.public_key.fingerprint()
    }
}
