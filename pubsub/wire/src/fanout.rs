//! What a master says to all of its minions at once (port 4505).
//!
//! ```text
//!   frame = version 1 · master 8 · epoch 4 · stream 4 · counter 8 · sealed body … · signature 64
//! ```
//!
//! The body is AES-256-GCM under the fan-out key of `(master, epoch)` with nonce `stream ‖ counter`; the header is its
//! associated data; the signature is the sending master's over everything before it and is checked before decryption.
//! Sealing and opening: [`crate::crypto::seal`].

use crate::codec::Encoded;
use crate::crypto::Signed;
use crate::id::{ClusterId, JobId, MasterId};
use crate::job::Job;
use crate::time::LogicalTime;
use serde::{Deserialize, Serialize};
use std::fmt;
use zeroize::Zeroize;

/// A fan-out key: per master and per boot, held in memory only, delivered inside each session.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FanoutKey {
    /// Whose fan-out.
    pub master: MasterId,
    /// Rises with every new key of that boot.
    pub epoch: u32,
    /// Random per boot: two boots never share a (key, nonce) pair even if a key came back.
    pub stream: u32,
    /// AES-256.
    #[serde(with = "serde_bytes")]
    pub key: [u8; 32],
}

impl Drop for FanoutKey {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

impl fmt::Debug for FanoutKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FanoutKey(master {}, epoch {})", self.master, self.epoch)
    }
}

/// One frame's meaning.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Broadcast {
    /// A job for the minions in its target set.
    Job(Offer),
    /// The master lives.
    Beacon(Beacon),
}

impl Encoded for Broadcast {
    const KIND: u8 = 40;
}

/// A job on its way to a minion.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Offer {
    /// Signed by the master that accepted it, which need not be the one that offers it.
    pub job: Signed<Job>,
    /// How long it may still be accepted, in milliseconds. Counted on the minion's own clock.
    pub remaining_ms: u64,
}

/// Sent every few seconds, and at once when something in it changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Beacon {
    /// Which cluster.
    pub cluster: ClusterId,
    /// Rises by one with each beacon of a boot: a gap shows that frames were lost.
    pub sequence: u64,
    /// Newest job this master has published; a minion that lacks it asks by attaching anew.
    pub newest_job: Option<JobId>,
    /// The truth's time.
    pub time: LogicalTime,
    /// The (generation, version) of the newest directory.
    pub directory: (u64, u64),
    /// Whether the master has had contact to a majority within its lease.
    pub quorum: bool,
    /// Milliseconds over which minions spread when this master dies.
    pub reconnect_window_ms: u64,
    /// Milliseconds until the next beacon at the latest.
    pub next_ms: u64,
    /// The cluster's feature level: what every master may be told. Absent in what older masters send.
    #[serde(default = "crate::level::first", skip_serializing_if = "crate::level::is_first")]
    pub level: u32,
}
