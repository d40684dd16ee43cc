//! What happened: one line of JSON for every operation, in the order in which they ended.
//!
//! ```text
//!   {"p": process, "f": what, "k": about what, "v": argument, "r": observed, "ok": true|false, "ver": revision, "t0": ns, "t1": ns or -1}
//! ```
//!
//! `t1 = -1` marks an operation whose outcome nobody heard. Times are simulated nanoseconds since the beginning. Nothing in a
//! line depends on the machine that ran the simulation: the same seed gives the same bytes.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// When an operation ended, if anybody heard of it.
pub const NEVER: i64 = -1;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Who did it: an operator, a minion, a master, `nemesis`.
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
    /// Simulated nanoseconds at the beginning.
    #[serde(rename = "t0")]
    pub begun_ns: u64,
    /// Simulated nanoseconds at the end, or [`NEVER`].
    #[serde(rename = "t1")]
    pub ended_ns: i64,
}

/// What an operation did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "f", rename_all = "snake_case")]
pub enum Deed {
    /// An operator accepted a minion's key.
    Accept {
        /// The minion.
        #[serde(rename = "k")]
        minion: String,
    },
    /// An operator submitted a job, with as many attempts as it took.
    Submit {
        /// The request id, the same for every attempt.
        #[serde(rename = "k")]
        request: String,
        /// The targeted minions.
        #[serde(rename = "v")]
        minions: BTreeSet<String>,
        /// The job's name, if an attempt was answered.
        #[serde(rename = "r")]
        jid: Option<String>,
    },
    /// A minion started a function that changes things.
    Start {
        /// The job.
        #[serde(rename = "k")]
        jid: String,
    },
    /// A fault was made or mended.
    Fault {
        /// Which.
        #[serde(rename = "k")]
        fault: String,
    },
    /// A master began to lead; `ver` is the term.
    Lead {
        /// Who.
        #[serde(rename = "k")]
        master: String,
    },
    /// A phase of the run began.
    Phase {
        /// Which.
        #[serde(rename = "k")]
        phase: String,
    },
    /// At the end: one job as one master holds it.
    ReadJob {
        /// The job.
        #[serde(rename = "k")]
        jid: String,
        /// What the master holds of it.
        #[serde(rename = "r")]
        job: JobSeen,
    },
    /// At the end: the keys as one master holds them, minion to state.
    ReadKeys {
        /// What the master holds.
        #[serde(rename = "r")]
        keys: BTreeMap<String, String>,
    },
    /// At the end: a digest over every row that one master holds.
    ReadDigest {
        /// In hexadecimal digits.
        #[serde(rename = "r")]
        digest: String,
    },
}

/// A job, as one master holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobSeen {
    /// The request that opened it: the simulated operators write it into the job as its user.
    pub request: String,
    /// Whether it is of the kind that minions may run again after a crash.
    pub pure: bool,
    /// Whether its time to be accepted may have ended within the run.
    pub may_expire: bool,
    /// Who has to answer.
    pub expected: BTreeSet<String>,
    /// Where each of them stands.
    pub progress: BTreeMap<String, String>,
    /// The recorded answers, each with how it ended and what it was.
    pub returns: BTreeMap<String, String>,
    /// Answers that contradict a recorded one.
    pub conflicts: usize,
    /// Whether the truth calls it done.
    pub done: bool,
}

/// A history that is being written. Clones write the same one.
#[derive(Debug, Clone, Default)]
pub struct History {
    operations: Arc<Mutex<Vec<Operation>>>,
}

/// A point in simulated time as it stands in a history.
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

    /// Adds something that happened at one moment and needs no answer.
    pub fn note(&self, process: impl Into<String>, deed: Deed, revision: u64, at: Duration) {
        let begun_ns = nanos(at);
        let ended_ns = i64::try_from(begun_ns).unwrap_or(i64::MAX);
        self.push(Operation { process: process.into(), deed, ok: true, revision, begun_ns, ended_ns });
    }

    /// All lines so far.
    pub fn operations(&self) -> Vec<Operation> {
        self.lock().clone()
    }
}

/// Writes JSON lines.
pub fn write(operations: &[Operation], out: &mut impl Write) -> std::io::Result<()> {
    for operation in operations {
        serde_json::to_writer(&mut *out, operation)?;
        out.write_all(b"\n")?;
    }
    Ok(())
}

/// The lines as bytes.
pub fn to_bytes(operations: &[Operation]) -> Vec<u8> {
    let mut bytes = Vec::new();
    // Writing into memory cannot fail, and every key of every map here is text.
    let written = write(operations, &mut bytes);
    debug_assert!(written.is_ok(), "{written:?}");
    bytes
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
            process: "operator-1".into(),
            deed: Deed::Submit { request: "ab".into(), minions: BTreeSet::from(["a".into()]), jid: None },
            ok: false,
            revision: 0,
            begun_ns: 5,
            ended_ns: NEVER,
        });
        history.note("nemesis", Deed::Fault { fault: "crash m1".into() }, 0, Duration::from_nanos(7));
        let bytes = to_bytes(&history.operations());
        let text = String::from_utf8(bytes).expect("text");
        assert_eq!(
            text,
            "{\"p\":\"operator-1\",\"f\":\"submit\",\"k\":\"ab\",\"v\":[\"a\"],\"r\":null,\"ok\":false,\"ver\":0,\"t0\":5,\"t1\":-1}\n\
             {\"p\":\"nemesis\",\"f\":\"fault\",\"k\":\"crash m1\",\"ok\":true,\"ver\":0,\"t0\":7,\"t1\":7}\n"
        );
        assert_eq!(read(&text).expect("reads"), history.operations());
    }
}
