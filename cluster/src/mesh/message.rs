//! What masters say to each other. Raft's messages travel packed by [`crate::raft::types::pack`]: this file need not know them.

use crate::pki::ring::Hidden;
use crate::regions::Way;
use crate::space::Room;
use bytes::Bytes;
use saltern_store::command::{Applied, Proposal};
use saltern_wire::api::{Failure, JoinGrant};
use saltern_wire::codec::Encoded;
use saltern_wire::crypto::{PublicKey, Signed};
use saltern_wire::master::{Directory, Endpoints};
use saltern_wire::profile::Profile;
use saltern_wire::{LogicalTime, MasterId, Revision};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A connection's purpose; the first byte that is sent on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Channel {
    /// Append streams.
    Replicate = 1,
    /// Heartbeats, votes, leader transfer.
    Control = 2,
    /// Snapshots.
    Snapshot = 3,
    /// Proposals of the control lane, presence, probes.
    Work = 4,
    /// Proposals of the bulk lane: a revocation never stands behind them on a connection.
    Bulk = 5,
}

impl Channel {
    /// The first message of a connection.
    pub fn hello(self) -> Bytes {
        Bytes::copy_from_slice(&[HELLO_VERSION, self as u8])
    }

    /// Reads the first message of a connection.
    pub fn from_hello(message: &[u8]) -> Option<Self> {
        match message {
            [HELLO_VERSION, 1] => Some(Self::Replicate),
            [HELLO_VERSION, 2] => Some(Self::Control),
            [HELLO_VERSION, 3] => Some(Self::Snapshot),
            [HELLO_VERSION, 4] => Some(Self::Work),
            [HELLO_VERSION, 5] => Some(Self::Bulk),
            _ => None,
        }
    }
}

/// Version of the mesh's framing.
const HELLO_VERSION: u8 = 1;

/// A question with a number; replies carry the same number.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Numbered<T> {
    /// Unique within the connection.
    pub number: u64,
    /// How long the asker waits, in milliseconds: a question that waited longer for its turn is dropped. Absent in replies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    /// The question or reply.
    pub body: T,
}

impl Encoded for Numbered<Request> {
    const KIND: u8 = 81;
}

impl Encoded for Numbered<Response> {
    const KIND: u8 = 82;
}

/// A question to another master.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// A message of Raft.
    Raft(RaftCall),
    /// Asks the leader to propose.
    Propose {
        /// What; the leader stamps it anew.
        proposal: Box<Proposal>,
        /// Whether it may wait behind control proposals.
        bulk: bool,
        /// How long the asker waits, in milliseconds.
        deadline_ms: u64,
    },
    /// Asks the leader for an index that is safe to read at.
    ReadIndex,
    /// Are you there, what time is it, how many sessions have you?
    Probe,
    /// Sessions of the asking master.
    Presence(crate::presence::table::PresenceUpdate),
    /// The asking master's data cannot be trusted: it takes part no more. What was found, for people.
    Quarantined(String),
    /// The asking master lost its data and wants to come back under a fresh id.
    Rejoin(Box<RejoinRequest>),
    /// Has the leader ever sent entries to this master, or is it more than a joiner? Asked by a master whose data folder holds
    /// nothing, before it takes any part. Passed on to the leader; replied by [`Response::Known`].
    Known {
        /// Which master.
        master: MasterId,
    },
    /// Asks the leader to hand leadership over. Replied by [`Response::HandingOver`].
    HandOver {
        /// To whom; the leader chooses if nobody is named.
        to: Option<MasterId>,
    },
    /// Keep this state secret: it is about to be in force. Asked by the leader; replied by [`Response::Done`] once on disk.
    KeepSecret {
        /// Its number.
        epoch: u64,
        /// The secret.
        secret: Hidden,
    },
    /// Gives the state secret in force to a master that missed it. Replied by [`Response::StateSecret`].
    StateSecret,
}

/// How a master that lost its data wants to come back. Who it was is what its connection proved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RejoinRequest {
    /// Its name.
    pub name: String,
    /// Its fresh key.
    pub public_key: PublicKey,
    /// Where it will be reached.
    pub endpoints: Endpoints,
    /// Region label.
    pub region: String,
    /// Zone label.
    pub zone: String,
    /// Its feature level. Absent in what the first version sends.
    #[serde(default = "saltern_wire::level::first")]
    pub level: u32,
}

/// A grant on its way. Holds the state secret: it is never printed.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Granted(pub Box<JoinGrant>);

impl fmt::Debug for Granted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Granted(to master {})", self.0.master)
    }
}

/// A message of Raft, packed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RaftCall {
    /// A single append: a heartbeat.
    Append(#[serde(with = "serde_bytes")] Vec<u8>),
    /// A request for a vote.
    Vote(#[serde(with = "serde_bytes")] Vec<u8>),
    /// Would you vote for me?
    PreVote(#[serde(with = "serde_bytes")] Vec<u8>),
    /// Lead from now on.
    TransferLeader(#[serde(with = "serde_bytes")] Vec<u8>),
    /// A snapshot is coming: its encoded manifest. Replied by what is missing.
    SnapshotBegin(#[serde(with = "serde_bytes")] Vec<u8>),
    /// A piece of a snapshot file.
    SnapshotChunk {
        /// The file's name in the manifest.
        file: String,
        /// Where the piece belongs, in bytes.
        offset: u64,
        /// The piece.
        #[serde(with = "serde_bytes")]
        data: Vec<u8>,
    },
    /// All pieces are there: install it. Packed vote and snapshot meta.
    SnapshotFinish {
        /// The leader's vote.
        #[serde(with = "serde_bytes")]
        vote: Vec<u8>,
        /// Raft's description.
        #[serde(with = "serde_bytes")]
        meta: Vec<u8>,
    },
}

/// A reply.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Response {
    /// A reply of Raft, packed.
    Raft(#[serde(with = "serde_bytes")] Vec<u8>),
    /// Which pieces of the announced snapshot are missing: file and offset to go on from.
    SnapshotMissing(Vec<(String, u64)>),
    /// Done.
    Done,
    /// What a proposal brought.
    Proposed(Result<Proposed, ProposeRefusal>),
    /// An index that is safe to read at once it is applied.
    ReadIndex(Option<Revision>),
    /// Answer to a probe.
    Probe {
        /// The answering master's wall clock, microseconds since the epoch.
        wall_unix_micros: u64,
        /// Sessions it holds.
        sessions: u64,
        /// Its program version.
        version: String,
        /// Its newest applied entry.
        applied: Revision,
        /// The truth's time, if it leads.
        time: Option<LogicalTime>,
        /// The room on its disk.
        #[serde(default)]
        room: Option<Box<Room>>,
        /// The newest feature level that its build knows. Absent in what the first version sends.
        #[serde(default = "saltern_wire::level::first")]
        level: u32,
        /// The hash of its state at some of its newest entries: entry and hash, oldest first.
        #[serde(default)]
        checks: Vec<(u64, u64)>,
        /// What it measured of its ways to the other masters.
        #[serde(default)]
        ways: Vec<Way>,
        /// The profile that it runs with; absent if it has a timing of its own.
        #[serde(default)]
        runs: Option<Profile>,
        /// The number of the state secret in force, if it holds that one.
        #[serde(default)]
        secret: Option<u64>,
    },
    /// Answer to presence.
    Presence(crate::presence::table::Heard),
    /// Answer to a wish to rejoin.
    Rejoined(Result<Granted, Failure>),
    /// Whether the cluster counts on what the master in question holds; `None` if there is no leader to say so.
    Known(Option<bool>),
    /// Who is going to lead, or why nobody else can.
    HandingOver(Result<MasterId, String>),
    /// The state secret in force and its number; `None` if the answering master does not hold it, or does not give it.
    StateSecret(Option<(u64, Hidden)>),
    /// The asking master is no member of the cluster any more: this directory does not name it.
    Expelled(Box<Signed<Directory>>),
    /// The question could not be served.
    Failed(String),
}

/// A proposal that is in the log and applied at the leader.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Proposed {
    /// The entry's index.
    pub revision: Revision,
    /// The truth's time at the entry.
    pub time: LogicalTime,
    /// What apply answered.
    pub applied: Applied,
}

/// Why a master did not carry a proposal into the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProposeRefusal {
    /// It is not the leader; this one may be.
    NotLeader(Option<MasterId>),
    /// It leads but has lost its quorum. Nothing was written.
    NoQuorum,
    /// It may or may not be written.
    Unknown,
    /// Too much waits already. Nothing was written.
    Busy,
    /// This disk is short of room. Nothing was written.
    NoRoom(Box<Room>),
}

#[cfg(test)]
mod tests {
    use super::*;
    use saltern_wire::level::LEVEL_FIRST;

    /// What the first version answers to a probe.
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum FirstResponse {
        Probe { wall_unix_micros: u64, sessions: u64, version: String, applied: Revision, time: Option<LogicalTime> },
    }

    impl Encoded for Numbered<FirstResponse> {
        const KIND: u8 = <Numbered<Response> as Encoded>::KIND;
    }

    #[test]
    fn a_master_of_the_first_version_is_of_the_first_level_and_has_nothing_to_compare() {
        let (version, applied) = ("0.1.0".to_owned(), Revision(7));
        let body = FirstResponse::Probe { wall_unix_micros: 5, sessions: 3, version, applied, time: None };
        let bytes = saltern_wire::encode(&Numbered { number: 1, deadline_ms: None, body });
        let read: Numbered<Response> = saltern_wire::decode(&bytes).expect("an older master's words");
        let Response::Probe { level, checks, room, .. } = read.body else { panic!("{read:?}") };
        assert_eq!((level, checks, room), (LEVEL_FIRST, Vec::new(), None));
    }

    #[test]
    fn a_master_of_the_first_version_reads_what_this_one_answers() {
        let (version, applied) = ("0.1.0".to_owned(), Revision(7));
        let body = Response::Probe {
            wall_unix_micros: 5,
            sessions: 3,
            version: version.clone(),
            applied,
            time: None,
            room: None,
            level: saltern_wire::level::LEVEL,
            checks: vec![(1, 2)],
            ways: Vec::new(),
            runs: None,
            secret: Some(4),
        };
        let bytes = saltern_wire::encode(&Numbered { number: 1, deadline_ms: None, body });
        let read: Numbered<FirstResponse> = saltern_wire::decode(&bytes).expect("a later master's words");
        assert_eq!(read.body, FirstResponse::Probe { wall_unix_micros: 5, sessions: 3, version, applied, time: None });
    }
}
