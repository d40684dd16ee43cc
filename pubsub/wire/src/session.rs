//! What a minion and its master say to each other inside a session (port 4506), after the handshake has proved both names.
//!
//! ```text
//!   minion ── Attach ──────────────▶ master        once, first
//!          ◀── Standing, Directory, Grant, Offer…  pushed whenever they change
//!          ── Ping / ◀── Pong                      both sides drop a session that is silent for too long
//!          ── Role / ◀── Promote, Move             which of a minion's two sessions it works through
//!          ── Call(sequence, deadline, …) ──▶      a question with exactly one Reply of the same sequence
//!          ── Want(bytes) ──▶ / ◀── Credit(bytes)  returns beyond the window wait for their turn
//! ```
//!
//! The identity of a session is what the handshake proved. No message repeats it, so none can lie about it.

use crate::Map;
use crate::codec::Encoded;
use crate::crypto::Signed;
use crate::fanout::{FanoutKey, Offer};
use crate::id::{JobId, MasterId, Ordinal, Revision};
use crate::io::{Address, Capability};
use crate::job::{Recorded, ReturnPart};
use crate::master::Directory;
use crate::mine::{MineEntry, MineReport};
use crate::target::Target;
use serde::{Deserialize, Serialize};

/// Minion to master.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ToMaster {
    /// First message: who the minion is beyond its identity.
    Attach(Attach),
    /// Are you there? Answered by [`ToMinion::Pong`] with the same number.
    Ping {
        /// Chosen by the minion, rising.
        sequence: u64,
    },
    /// A question.
    Call {
        /// Chosen by the minion, unique within the session.
        sequence: u64,
        /// Milliseconds after which the minion no longer waits; the master drops expired work.
        deadline_ms: u64,
        /// What is asked.
        call: Call,
    },
    /// So many bytes of returns wait that may not be sent unasked. Said only to a master that has sent [`ToMinion::Credit`],
    /// and again only after the next one.
    Want {
        /// How many, about.
        bytes: u64,
    },
    /// What this session is to the minion from now on. Said to masters of a cluster of [`crate::level::LEVEL_FLEET`] only.
    Role(SessionRole),
}

impl Encoded for ToMaster {
    const KIND: u8 = 30;
}

/// The first message of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attach {
    /// The minion's program version.
    pub version: String,
    /// Drawn when the minion's data folder was made: a reinstalled minion has another one.
    pub incarnation: u64,
    /// The (generation, version) of the newest directory it holds, if any.
    pub directory: Option<(u64, u64)>,
    /// BLAKE3 of the encoded grains that it last reported, to save sending them again.
    #[serde(with = "serde_bytes")]
    pub facts_digest: [u8; 32],
    /// Whether it sends returns by credit: not more than [`crate::limits::RETURN_WINDOW_BYTES`] of them unasked.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub credit: bool,
    /// What this session is to the minion. Absent in what older minions send, whose only session it is.
    #[serde(default, skip_serializing_if = "SessionRole::is_ordinary")]
    pub role: SessionRole,
    /// The newest feature level that the minion's build knows: what it may be told.
    #[serde(default = "crate::level::first", skip_serializing_if = "crate::level::is_first")]
    pub level: u32,
}

/// What a session is to its minion, which has at most two: the one that it works through, and one that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SessionRole {
    /// The minion works through it: it gets offers and the fan-out, and makes calls.
    Primary {
        /// Why it came here from another master, if it did.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        moved: Option<MoveReason>,
    },
    /// It waits: it is pinged, and gets nothing else until it is made the primary one.
    Standby {
        /// The master of the primary session.
        primary: MasterId,
        /// Whether the minion would rather work through this one.
        #[serde(default)]
        preferred: bool,
    },
}

impl Default for SessionRole {
    fn default() -> Self {
        Self::Primary { moved: None }
    }
}

impl SessionRole {
    /// Whether it is what the only session of a minion is.
    pub fn is_ordinary(&self) -> bool {
        *self == Self::default()
    }

    /// Whether it waits.
    pub fn is_standby(&self) -> bool {
        matches!(self, Self::Standby { .. })
    }
}

/// Why a minion works through another master than before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MoveReason {
    /// The session before was lost: its master died, froze or was cut off.
    Lost,
    /// The master before was of no use: no quorum, or it took no call.
    Useless,
    /// The master before gives its minions away.
    Drain,
    /// This master is the better one, and has been well for long.
    Failback,
    /// An operator asked for it.
    Asked,
}

impl MoveReason {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 5] = [Self::Lost, Self::Useless, Self::Drain, Self::Failback, Self::Asked];

    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Useless => "useless",
            Self::Drain => "drain",
            Self::Failback => "failback",
            Self::Asked => "asked",
        }
    }
}

/// A minion's question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Call {
    /// These jobs are in my journal, on disk. Replied by [`Answer::Done`] once replicated.
    Accept(Vec<JobId>),
    /// Parts of returns. Replied by [`Answer::Recorded`] once committed, in the same order.
    Return(Vec<ReturnPart>),
    /// My grains. Replied by [`Answer::Done`].
    Facts(Map),
    /// Mine values. Replied by [`Answer::Done`].
    MineReport(Vec<MineReport>),
    /// Mine values of others. Replied by [`Answer::Mine`].
    MineGet {
        /// Whose.
        target: Target,
        /// Of which function.
        function: String,
    },
}

/// The answer to a [`Call`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Answer {
    /// It is committed.
    Done,
    /// One verdict a part, in the order of the call.
    Recorded(Vec<Recorded>),
    /// Mine values, by minion.
    Mine(Vec<MineEntry>),
}

/// Why a call was not carried out. Nothing was written unless it says so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// The master cannot reach a majority. Keep it and try elsewhere or later.
    #[error("no quorum")]
    NoQuorum,
    /// It may or may not have been written. Ask again: every call is harmless to repeat.
    #[error("the outcome is unknown")]
    Unknown,
    /// Too much at once. Come back after so many milliseconds.
    #[error("busy, come back in {retry_after_ms} ms")]
    Busy {
        /// When to come back.
        retry_after_ms: u64,
    },
    /// The minion's key is not accepted (any more).
    #[error("the key is not accepted")]
    NotAccepted,
    /// The call is wrong and stays wrong.
    #[error("{0}")]
    Invalid(String),
}

/// Master to minion.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ToMinion {
    /// What the truth thinks of the minion's key. Sent first and whenever it changes.
    Standing(Standing),
    /// The newest directory, when the minion's is older.
    Directory(Signed<Directory>),
    /// The right to listen to the fan-out, with its key.
    Grant(Grant),
    /// The fan-out has a new key; the old one is good for another 30 s.
    Rekey(FanoutKey),
    /// A job that the minion still owes an answer for.
    Offer(Offer),
    /// Answer to a ping.
    Pong {
        /// The ping's number.
        sequence: u64,
        /// Whether the master has had contact to a majority within its lease.
        quorum: bool,
    },
    /// Answer to a call.
    Reply {
        /// The call's number.
        sequence: u64,
        /// What the master had applied when it answered.
        revision: Revision,
        /// The answer.
        result: Result<Answer, Refusal>,
    },
    /// Returns of so many bytes may be sent beyond the window, in place of what was left of an earlier credit. The first one
    /// of a session is of none: it says that the master gives credit.
    Credit {
        /// How many.
        bytes: u64,
    },
    /// The master ends the session.
    Bye {
        /// Why, for people.
        reason: String,
        /// How long to stay away from this master, in milliseconds.
        retry_after_ms: u64,
    },
    /// Said on a standby session: the master of the primary one does not answer the others. The minion asks that one once
    /// more before it believes it. Only for minions of [`crate::level::LEVEL_FLEET`], as all that follows.
    Promote {
        /// Whom nobody hears.
        peer: MasterId,
        /// When it is this minion's turn, in milliseconds: those of one dead master do not all come at once.
        slot_ms: u64,
    },
    /// Work through another master, which is to be reached before this session is left.
    Move {
        /// Which one; the minion chooses if none is named. Said on a standby session, it is that session's own master.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<MasterId>,
        /// Why.
        reason: MoveReason,
        /// How long the minion may take, in milliseconds; then it stays where it is.
        within_ms: u64,
    },
}

impl Encoded for ToMinion {
    const KIND: u8 = 31;
}

/// What the truth thinks of a minion's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    /// Waits for an operator. The session stays open and hears of the decision.
    Pending,
    /// May work.
    Accepted {
        /// The minion's number.
        ordinal: Ordinal,
    },
    /// Refused, and remembered.
    Rejected,
    /// The id belongs to another key.
    Denied,
    /// The key was deleted; enrol again.
    Deleted,
}

/// The right to listen to one master's fan-out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Grant {
    /// Where it is. The host is the one the minion dialled unless the master names another.
    pub address: Address,
    /// Opens the gate, once.
    pub capability: Capability,
    /// Decrypts the frames.
    pub key: FanoutKey,
}
