//! Mine data: values that minions publish for each other.

use crate::Value;
use crate::id::MinionId;
use serde::{Deserialize, Serialize};

/// Orders the reports of one minion: whichever master carries it, a lower stamp never replaces a higher one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MineStamp {
    /// The minion's incarnation: rises with every start of a minion that lost its counter, drawn from its disk.
    pub incarnation: u64,
    /// Rises with every report within an incarnation.
    pub counter: u64,
}

/// What a minion reports about one of its mine functions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MineReport {
    /// The function or alias under which others look it up.
    pub function: String,
    /// The newest value; `None` deletes it (a tombstone with its stamp stays, so that an older report cannot revive it).
    pub value: Option<Value>,
    /// Orders this report among the minion's own.
    pub stamp: MineStamp,
}

/// One newest committed value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MineEntry {
    /// Who reported it.
    pub minion: MinionId,
    /// The function or alias.
    pub function: String,
    /// The value.
    pub value: Value,
    /// The report's stamp.
    pub stamp: MineStamp,
}
