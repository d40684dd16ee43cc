//! The types that openraft is instantiated with, and their bytes.

use crate::raft::runtime::Runtime;
use openraft::alias::{EntryOf, LogIdOf, SnapshotMetaOf, StoredMembershipOf, VoteOf};
use saltern_store::LogEntry;
use saltern_store::command::{Applied, Proposal};
use saltern_wire::codec::{CodecError, Encoded};
use saltern_wire::{LogicalTime, Revision};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use tokio::sync::oneshot;

openraft::declare_raft_types!(
    /// Our instance of openraft.
    pub Types:
        D = Logged,
        R = Written,
        NodeId = u64,
        Node = openraft::impls::BasicNode,
        AsyncRuntime = Runtime,
);

/// Raft's name of an entry.
pub type LogId = LogIdOf<Types>;
/// Raft's vote.
pub type Vote = VoteOf<Types>;
/// Raft's entry.
pub type Entry = EntryOf<Types>;
/// A membership and the entry that made it.
pub type Membership = StoredMembershipOf<Types>;
/// What openraft says about a snapshot.
pub type SnapshotMeta = SnapshotMetaOf<Types>;
/// The running core.
pub type Raft = openraft::Raft<Types, crate::raft::machine::Machine>;

/// A proposal as the log holds it: encoded once by the leader, copied as bytes from there on, decoded once a replica.
#[derive(Clone)]
pub struct Logged(Arc<LoggedInner>);

struct LoggedInner {
    bytes: Vec<u8>,
    proposal: OnceLock<Result<Arc<Proposal>, CodecError>>,
    /// Told when the entry is on this master's disk, if somebody asked.
    synced: Mutex<Option<oneshot::Sender<()>>>,
}

impl Logged {
    /// Encodes `proposal`.
    pub fn new(proposal: Proposal) -> Self {
        let bytes = saltern_wire::encode(&proposal);
        Self(Arc::new(LoggedInner {
            bytes,
            proposal: OnceLock::from(Ok(Arc::new(proposal))),
            synced: Mutex::default(),
        }))
    }

    fn from_bytes(bytes: Vec<u8>) -> Self {
        Self(Arc::new(LoggedInner { bytes, proposal: OnceLock::new(), synced: Mutex::default() }))
    }

    /// The proposal. An error means that the entry comes from a newer version, or that the log is corrupt.
    pub fn proposal(&self) -> Result<Arc<Proposal>, CodecError> {
        self.0.proposal.get_or_init(|| saltern_wire::decode(&self.0.bytes).map(Arc::new)).clone()
    }

    /// Hears when the entry is on this master's disk; an error if it is dropped before. Whoever asks last hears.
    pub(super) fn mark(&self) -> oneshot::Receiver<()> {
        let (synced, hears) = oneshot::channel();
        *self.0.synced.lock().unwrap_or_else(PoisonError::into_inner) = Some(synced);
        hears
    }

    /// Takes the mark, if there is one, to tell whoever made it.
    pub(super) fn take_mark(&self) -> Option<oneshot::Sender<()>> {
        self.0.synced.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Encoded length, in bytes.
    pub fn len(&self) -> usize {
        self.0.bytes.len()
    }

    /// Never true of what [`Logged::new`] made.
    pub fn is_empty(&self) -> bool {
        self.0.bytes.is_empty()
    }
}

impl fmt::Debug for Logged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Logged({} bytes)", self.len())
    }
}

impl fmt::Display for Logged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl PartialEq for Logged {
    fn eq(&self, other: &Self) -> bool {
        self.0.bytes == other.0.bytes
    }
}

impl Serialize for Logged {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0.bytes)
    }
}

impl<'de> Deserialize<'de> for Logged {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        serde_bytes::ByteBuf::deserialize(deserializer).map(|bytes| Self::from_bytes(bytes.into_vec()))
    }
}

/// What a client of Raft gets for an entry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Written {
    /// The entry's index.
    pub revision: Revision,
    /// The truth's time at the entry.
    pub time: LogicalTime,
    /// What apply answered; `None` for entries that hold no proposal.
    pub applied: Option<Applied>,
}

/// An entry as `store::Log` keeps it.
#[derive(Debug, Clone)]
pub struct LogRecord(pub Entry);

impl LogEntry for LogRecord {
    fn index(&self) -> u64 {
        self.0.log_id.index()
    }
    fn encode(&self) -> Vec<u8> {
        pack(&self.0)
    }
    fn newer(bytes: &[u8]) -> Option<(u8, u8)> {
        let known = <Packed<Entry> as Encoded>::VERSION;
        bytes.first().filter(|found| **found > known).map(|found| (*found, known))
    }
    fn decode(bytes: &[u8]) -> Result<Self, String> {
        unpack(bytes).map(LogRecord)
    }
}

/// A value of openraft's with our header.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct Packed<T>(T);

impl<T: Serialize + DeserializeOwned> Encoded for Packed<T> {
    const KIND: u8 = 80;
}

/// Encodes a value of openraft's.
pub fn pack<T: Serialize + DeserializeOwned>(value: &T) -> Vec<u8> {
    saltern_wire::codec::encode_as::<Packed<T>>(value)
}

/// Decodes what [`pack`] wrote.
pub fn unpack<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    saltern_wire::decode::<Packed<T>>(bytes).map(|packed| packed.0).map_err(|error| error.to_string())
}
