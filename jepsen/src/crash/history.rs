//! What happened, one line of JSON for every operation, in the order in which they ended.
//!
//! ```text
//!   {"p": process, "f": what, "k": about what, "v": argument, "r": observed, "ok": true|false, "ver": revision, "t0": ns, "t1": ns or -1}
//! ```
//!
//! `t1 = -1` marks an operation whose outcome nobody heard. Times count from the beginning of the run on one machine's
//! monotonic clock, so they compare.

use saltern_wire::Value;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// When an operation ended, if nobody heard of it.
pub const NEVER: i64 = -1;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Who did it: a client, a master for a final read, `nemesis`, `disk`.
    #[serde(rename = "p")]
    pub process: String,
    /// What was done.
    #[serde(flatten)]
    pub deed: Deed,
    /// Whether it was carried out. False with an end is a refusal, false without one is unknown.
    pub ok: bool,
    /// The revision of the answer, 0 where there is none.
    #[serde(rename = "ver")]
    pub revision: u64,
    /// Nanoseconds at the beginning.
    #[serde(rename = "t0")]
    pub begun_ns: u64,
    /// Nanoseconds at the end, or [`NEVER`].
    #[serde(rename = "t1")]
    pub ended_ns: i64,
}

impl Operation {
    /// The end, if somebody heard of it.
    pub fn ended(&self) -> Option<u64> {
        u64::try_from(self.ended_ns).ok()
    }
}

/// What an operation did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "f", rename_all = "snake_case")]
pub enum Deed {
    /// A client submitted a job, under one request id, with as many attempts as it took.
    Submit {
        /// Names the submission; the job leaves it on the disk of every minion that starts it.
        #[serde(rename = "k")]
        token: String,
        /// What the job is.
        #[serde(rename = "v")]
        job: JobAsked,
        /// The jid, if an attempt was answered.
        #[serde(rename = "r")]
        jid: Option<String>,
    },
    /// A client decided on a key.
    Decide {
        /// The minion.
        #[serde(rename = "k")]
        minion: String,
        /// `accept`, `reject` or `delete`.
        #[serde(rename = "v")]
        decision: String,
        /// Whether the key changed; false if the decision found nothing to decide.
        #[serde(rename = "r")]
        changed: bool,
    },
    /// A client made a minion report a value to the mine. Carried out: a master said that it is committed.
    MineSend {
        /// The minion.
        #[serde(rename = "k")]
        minion: String,
        /// The value; it rises with every send.
        #[serde(rename = "v")]
        counter: u64,
    },
    /// A consistent read of one job.
    ReadJob {
        /// The job.
        #[serde(rename = "k")]
        jid: String,
        /// What was there; nothing if the master does not know it.
        #[serde(rename = "r")]
        job: Option<JobSeen>,
    },
    /// A consistent read of the keys: minion to state.
    ReadKeys {
        /// What was there.
        #[serde(rename = "r")]
        keys: BTreeMap<String, String>,
    },
    /// A read of one minion's value in the mine.
    ReadMine {
        /// The minion.
        #[serde(rename = "k")]
        minion: String,
        /// Whether a majority confirmed it; otherwise it is as new as what this client has read before.
        #[serde(rename = "v")]
        consistent: bool,
        /// What was there.
        #[serde(rename = "r")]
        counter: Option<u64>,
    },
    /// A strike.
    Strike {
        /// The strike, in words.
        #[serde(rename = "k")]
        strike: String,
        /// The fault point, if it was one. Carried out: it was seen to happen.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        point: Option<String>,
        /// Whose process died or was told of an error: what it had begun may be interrupted.
        #[serde(rename = "v")]
        victims: BTreeSet<String>,
    },
    /// A process was started again; not carried out if it did not come up.
    Restart {
        /// Which.
        #[serde(rename = "k")]
        member: String,
        /// What it said and how it ended, if it did not come up.
        #[serde(rename = "r")]
        cause: Option<String>,
    },
    /// A phase of the run began.
    Phase {
        /// Which.
        #[serde(rename = "k")]
        phase: String,
    },
    /// At the end: how often a minion started a submission's job, as its disk shows.
    Started {
        /// The submission.
        #[serde(rename = "k")]
        token: String,
        /// The minion.
        #[serde(rename = "v")]
        minion: String,
        /// How often.
        #[serde(rename = "r")]
        times: u64,
    },
    /// At the end: one job as one master holds it.
    FinalJob {
        /// The job.
        #[serde(rename = "k")]
        jid: String,
        /// What the master holds; nothing if it does not know it.
        #[serde(rename = "r")]
        job: Option<JobSeen>,
    },
    /// At the end: the keys as one master holds them.
    FinalKeys {
        /// Minion to state.
        #[serde(rename = "r")]
        keys: BTreeMap<String, String>,
    },
    /// At the end: the mine as one master holds it.
    FinalMine {
        /// Minion to value.
        #[serde(rename = "r")]
        counters: BTreeMap<String, u64>,
    },
}

impl Deed {
    /// Whether a client waits for it.
    pub fn is_of_a_client(&self) -> bool {
        match self {
            Self::Submit { .. }
            | Self::Decide { .. }
            | Self::MineSend { .. }
            | Self::ReadJob { .. }
            | Self::ReadKeys { .. }
            | Self::ReadMine { .. } => true,
            Self::Strike { .. }
            | Self::Restart { .. }
            | Self::Phase { .. }
            | Self::Started { .. }
            | Self::FinalJob { .. }
            | Self::FinalKeys { .. }
            | Self::FinalMine { .. } => false,
        }
    }
}

/// A job as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobAsked {
    /// Whether minions may run it again after a crash. Such a job leaves nothing on their disks.
    pub pure: bool,
    /// Whom it is for.
    pub minions: BTreeSet<String>,
    /// The digest of what each of them has to return.
    pub expect: String,
}

/// A job as one master shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobSeen {
    /// The submission that its arguments name.
    pub token: String,
    /// Whom it is for.
    pub minions: BTreeSet<String>,
    /// Whether the truth calls it done.
    pub done: bool,
    /// Who returned: how it ended, and the digest of what it returned.
    pub returns: BTreeMap<String, (String, String)>,
    /// Who has not, and where it stands.
    pub missing: Vec<(String, String)>,
}

/// A short digest of a returned value.
pub fn digest(value: &Value) -> String {
    // Every key of a JSON value is text, so this cannot fail; an empty digest would match nothing anyway.
    let bytes = serde_json::to_vec(value).unwrap_or_default();
    hex::encode(&blake3::hash(&bytes).as_bytes()[..8])
}

/// A history that is being written. Clones write the same one.
#[derive(Debug, Clone, Default)]
pub struct History {
    operations: Arc<Mutex<Vec<Operation>>>,
}

/// A point in time as it stands in a history.
pub fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl History {
    fn lock(&self) -> MutexGuard<'_, Vec<Operation>> {
        // A panic elsewhere leaves whole lines: every change is one push.
        self.operations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a line.
    pub fn push(&self, operation: Operation) {
        self.lock().push(operation);
    }

    /// Adds something that happened at one moment.
    pub fn note(&self, process: impl Into<String>, deed: Deed, ok: bool, at: Duration) {
        let begun_ns = nanos(at);
        let ended_ns = i64::try_from(begun_ns).unwrap_or(i64::MAX);
        self.push(Operation { process: process.into(), deed, ok, revision: 0, begun_ns, ended_ns });
    }

    /// All lines so far.
    pub fn operations(&self) -> Vec<Operation> {
        self.lock().clone()
    }
}

/// The lines as bytes.
pub fn to_bytes(operations: &[Operation]) -> Result<Vec<u8>, serde_json::Error> {
    let mut bytes = Vec::new();
    for operation in operations {
        serde_json::to_writer(&mut bytes, operation)?;
        bytes.push(b'\n');
    }
    Ok(bytes)
}

/// Reads JSON lines.
pub fn read(text: &str) -> Result<Vec<Operation>, serde_json::Error> {
    text.lines().filter(|line| !line.trim().is_empty()).map(serde_json::from_str).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_reads_as_outsiders_expect_it_and_comes_back() {
        let history = History::default();
        history.push(Operation {
            process: "keys".into(),
            deed: Deed::Decide { minion: "a".into(), decision: "accept".into(), changed: false },
            ok: false,
            revision: 0,
            begun_ns: 5,
            ended_ns: NEVER,
        });
        let phase = Deed::Phase { phase: "faults".into() };
        history.note("nemesis", phase, true, Duration::from_nanos(7));
        let bytes = to_bytes(&history.operations()).expect("written");
        let text = String::from_utf8(bytes).expect("text");
        assert_eq!(
            text,
            "{\"p\":\"keys\",\"f\":\"decide\",\"k\":\"a\",\"v\":\"accept\",\"r\":false,\"ok\":false,\"ver\":0,\"t0\":5,\"t1\":-1}\n\
             {\"p\":\"nemesis\",\"f\":\"phase\",\"k\":\"faults\",\"ok\":true,\"ver\":0,\"t0\":7,\"t1\":7}\n"
        );
        assert_eq!(read(&text).expect("reads"), history.operations());
    }
}
