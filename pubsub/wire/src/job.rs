//! A job, from the operator's intent to each minion's outcome.

use crate::codec::Encoded;
use crate::crypto::identity::Statement;
use crate::id::{ClusterId, JobId, MasterId, MinionId, Ordinal};
use crate::target::Target;
use crate::time::LogicalTime;
use crate::{Map, Value};
use roaring::RoaringBitmap;
use serde::{Deserialize, Serialize};

/// What a master was asked to do and stands for with its signature: everything that a minion acts on is inside.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// The cluster it belongs to; a minion obeys only its own.
    pub cluster: ClusterId,
    /// The cluster's generation at that time; a minion refuses a lower one than it has seen.
    pub generation: u64,
    /// The job's name.
    pub jid: JobId,
    /// The master that accepted it and signed it.
    pub master: MasterId,
    /// `module.function`.
    pub function: String,
    /// Positional arguments.
    #[serde(default)]
    pub arguments: Vec<Value>,
    /// Keyword arguments.
    #[serde(default)]
    pub keywords: Map,
    /// What the operator wrote.
    pub target: Target,
    /// What it was resolved to, once: ordinals of minions.
    #[serde(with = "bitmap")]
    pub targets: RoaringBitmap,
    /// Who asked.
    pub user: String,
    /// When the master took it.
    pub opened: LogicalTime,
    /// How long after `opened` a minion may still accept it, in milliseconds.
    pub ttl_ms: u64,
}

impl Encoded for Job {
    const KIND: u8 = 10;
}

impl Statement for Job {
    const CONTEXT: &'static str = "saltern job";
}

impl Job {
    /// Whether `ordinal` is among the targets.
    pub fn is_for(&self, ordinal: Ordinal) -> bool {
        self.targets.contains(ordinal.0)
    }

    /// When acceptance ends.
    pub fn expires(&self) -> LogicalTime {
        self.opened.plus(std::time::Duration::from_millis(self.ttl_ms))
    }
}

/// Bitmaps travel in roaring's portable format.
pub mod bitmap {
    use roaring::RoaringBitmap;
    use serde::{Deserializer, Serializer};

    /// Writes the portable format.
    pub fn serialize<S: Serializer>(bitmap: &RoaringBitmap, serializer: S) -> Result<S::Ok, S::Error> {
        let mut bytes = Vec::with_capacity(bitmap.serialized_size());
        bitmap.serialize_into(&mut bytes).map_err(serde::ser::Error::custom)?;
        serde_bytes::serialize(&bytes, serializer)
    }

    /// Reads the portable format, checking it.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<RoaringBitmap, D::Error> {
        let bytes: Vec<u8> = serde_bytes::deserialize(deserializer)?;
        RoaringBitmap::deserialize_from(bytes.as_slice()).map_err(serde::de::Error::custom)
    }
}

/// How a job ended on one minion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutcomeKind {
    /// The function ran to its end; `success` tells how.
    Finished,
    /// It had been accepted, and a crash took it before it had a result. It was not run again.
    Interrupted,
    /// The minion refused it, with the reason in `value`; it did not start.
    Refused,
}

/// What one minion returns for one job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// How it ended.
    pub kind: OutcomeKind,
    /// Whether the function says it worked.
    pub success: bool,
    /// Exit code, 0 for success.
    pub retcode: i32,
    /// What the function returned, or the reason.
    pub value: Value,
    /// How long it ran, in milliseconds.
    pub duration_ms: u64,
}

impl Encoded for Outcome {
    const KIND: u8 = 11;
}

/// One part of an encoded [`Outcome`], as it travels and is recorded. Most outcomes have one part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReturnPart {
    /// Which job.
    pub jid: JobId,
    /// This part's number, from 0.
    pub part: u16,
    /// How many parts there are, at least 1.
    pub parts: u16,
    /// BLAKE3 of the whole encoded outcome: parts of two runs never mix.
    #[serde(with = "serde_bytes")]
    pub digest: [u8; 32],
    /// This part's bytes, at most [`crate::limits::RETURN_PART_BYTES_MAX`].
    #[serde(with = "serde_bytes")]
    pub body: Vec<u8>,
}

/// Why an outcome cannot be sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the return has {len} bytes, the limit is {max}")]
pub struct ReturnTooLarge {
    /// Encoded length, in bytes.
    pub len: usize,
    /// The limit, in bytes.
    pub max: usize,
}

impl ReturnPart {
    /// Cuts `outcome` into parts.
    pub fn split(jid: JobId, outcome: &Outcome) -> Result<Vec<Self>, ReturnTooLarge> {
        use crate::limits::{RETURN_BYTES_MAX, RETURN_PART_BYTES_MAX};
        let bytes = crate::encode(outcome);
        if bytes.len() > RETURN_BYTES_MAX {
            return Err(ReturnTooLarge { len: bytes.len(), max: RETURN_BYTES_MAX });
        }
        let digest = *blake3::hash(&bytes).as_bytes();
        let chunks: Vec<&[u8]> = bytes.chunks(RETURN_PART_BYTES_MAX).collect();
        let parts = u16::try_from(chunks.len()).unwrap_or(u16::MAX);
        let cut = |(part, body): (usize, &&[u8])| Self {
            jid,
            part: u16::try_from(part).unwrap_or(u16::MAX),
            parts,
            digest,
            body: body.to_vec(),
        };
        Ok(chunks.iter().enumerate().map(cut).collect())
    }
}

/// What the truth answered to a recorded return. Every one of these lets the minion forget it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recorded {
    /// It is the minion's answer.
    Committed,
    /// A part was kept; more are missing.
    Part,
    /// The same answer was recorded before.
    Duplicate,
    /// A different answer was recorded before; this one is kept beside it.
    Conflict,
    /// The job's record is gone; the answer is kept under its jid.
    Orphan,
    /// The minion was not among the targets.
    Untargeted,
}

/// Where one targeted minion stands. It is in exactly one of these at any time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Progress {
    /// May accept it, and has not yet.
    Waiting,
    /// Has it on its disk, and runs it or is about to.
    Accepted,
    /// Returned, and the function worked.
    Returned,
    /// Returned, and the function failed.
    Failed,
    /// Crashed in the middle.
    Interrupted,
    /// Did not accept it in time.
    Expired,
    /// Its key was deleted or rejected while it owed an answer.
    Unreachable,
    /// The cluster was restored from a backup or recovered while it owed an answer: nobody offers it the job any more.
    Cancelled,
    /// Its turn has not come: the job goes to so many minions at a time.
    Held,
    /// Its turn never came: another minion failed, and the job was to end there.
    Skipped,
    /// The job was ended before it had accepted it.
    Killed,
}

/// One minion's recorded answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReturnRecord {
    /// Which job.
    pub jid: JobId,
    /// Which minion.
    pub minion: MinionId,
    /// Its number.
    pub ordinal: Ordinal,
    /// What it returned.
    pub outcome: Outcome,
    /// The master that carried it into the log.
    pub via: MasterId,
    /// When it was recorded.
    pub recorded: LogicalTime,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{RETURN_BYTES_MAX, RETURN_PART_BYTES_MAX};

    fn outcome(len: usize) -> Outcome {
        Outcome {
            kind: OutcomeKind::Finished,
            success: true,
            retcode: 0,
            value: Value::String("x".repeat(len)),
            duration_ms: 1,
        }
    }

    #[test]
    fn parts_join_to_what_was_split() {
        let jid = JobId::mint(LogicalTime::ZERO, 0);
        for len in [0, RETURN_PART_BYTES_MAX - 200, RETURN_PART_BYTES_MAX * 3] {
            let parts = ReturnPart::split(jid, &outcome(len)).expect("below the limit");
            let joined: Vec<u8> = parts.iter().flat_map(|part| part.body.clone()).collect();
            assert_eq!(crate::decode::<Outcome>(&joined), Ok(outcome(len)));
            assert!(parts.iter().all(|part| usize::from(part.parts) == parts.len()));
            assert_eq!(*blake3::hash(&joined).as_bytes(), parts[0].digest);
        }
        assert!(ReturnPart::split(jid, &outcome(RETURN_BYTES_MAX)).is_err());
    }
}
