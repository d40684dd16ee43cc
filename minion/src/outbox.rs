//! The outbox: outcomes that are on disk and not committed yet, one file a job.
//!
//! ```text
//!   outbox/JID = BLAKE3(body) 32 bytes · body: the encoded outcome           temporary name, fsync, rename, fsync folder
//! ```
//!
//! **Invariants.** A file is written once, by whoever ran the job (the supervisor process or the agent), and removed only
//! after the truth has it and the journal says so. A full outbox refuses new jobs; it never drops an outcome. What the
//! masters refuse for good, or what the disk has damaged, is renamed aside for people, never deleted.

use saltern_wire::codec::{decode, encode};
use saltern_wire::fault_point;
use saltern_wire::io::Disk;
use saltern_wire::job::{Outcome, OutcomeKind, ReturnPart};
use saltern_wire::limits::{RETURN_BYTES_MAX, RETURN_PART_BYTES_MAX};
use saltern_wire::{JobId, Value};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Largest file, in bytes: the largest return and its digest.
const FILE_BYTES_MAX: u64 = RETURN_BYTES_MAX as u64 + DIGEST_BYTES;

/// Length of the digest at the beginning of a file.
const DIGEST_BYTES: u64 = 32;

/// Why the outbox cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{source}")]
pub struct OutboxError {
    /// The file.
    pub path: PathBuf,
    /// What the system said.
    pub source: std::io::Error,
}

/// Writes the outcome of `jid` into the outbox folder and returns when it is on disk. An outcome that is larger than any
/// return may be is replaced by a failure that says so.
pub fn write(disk: &dyn Disk, folder: &Path, jid: JobId, outcome: &Outcome) -> Result<(), OutboxError> {
    let mut body = encode(outcome);
    if body.len() > RETURN_BYTES_MAX {
        body = encode(&oversized(outcome, body.len()));
    }
    let mut bytes = blake3::hash(&body).as_bytes().to_vec();
    bytes.extend_from_slice(&body);
    let path = folder.join(jid.to_string());
    let mut before_rename = || {
        fault_point!("outbox.rename.before", cause => return Err(std::io::Error::other(cause)));
        Ok(())
    };
    let written = disk.replace_after(&path, &bytes, &mut before_rename);
    written.map_err(|source| OutboxError { path, source })?;
    fault_point!("outbox.rename.after");
    Ok(())
}

/// What is returned instead of a return that is too large.
fn oversized(outcome: &Outcome, len: usize) -> Outcome {
    let text = format!(
        "the function ended with retcode {} and returned {len} bytes; a return may have {RETURN_BYTES_MAX}. \
         Write large results to a file and return its name.",
        outcome.retcode
    );
    Outcome { success: false, retcode: outcome.retcode.max(1), value: Value::String(text), ..outcome.clone() }
}

/// The outcomes that wait.
pub struct Outbox {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    /// Length of each file, in bytes.
    files: BTreeMap<JobId, u64>,
    bytes: u64,
}

impl Outbox {
    /// Looks at every file once.
    pub fn open(disk: Arc<dyn Disk>, folder: PathBuf) -> Result<Self, OutboxError> {
        let names = disk.list(&folder).map_err(|source| OutboxError { path: folder.clone(), source })?;
        let mut outbox = Self { disk, folder, files: BTreeMap::new(), bytes: 0 };
        for jid in names.iter().filter_map(|name| name.parse().ok()) {
            outbox.notice(jid)?;
        }
        Ok(outbox)
    }

    /// Looks whether there is an outcome of `jid`; the one who ran the job wrote it, not this object.
    pub fn notice(&mut self, jid: JobId) -> Result<bool, OutboxError> {
        if self.files.contains_key(&jid) {
            return Ok(true);
        }
        let path = self.folder.join(jid.to_string());
        let read = self.disk.read(&path, FILE_BYTES_MAX).map_err(|source| OutboxError { path, source })?;
        let Some(bytes) = read else { return Ok(false) };
        self.files.insert(jid, bytes.len() as u64);
        self.bytes += bytes.len() as u64;
        Ok(true)
    }

    /// Writes an outcome that this process made.
    pub fn put(&mut self, jid: JobId, outcome: &Outcome) -> Result<(), OutboxError> {
        write(self.disk.as_ref(), &self.folder, jid, outcome)?;
        self.notice(jid).map(drop)
    }

    /// Whether the first part of the outcome of `jid` has at most `room` bytes, as far as its file's length tells.
    pub fn fits(&self, jid: JobId, room: usize) -> bool {
        let body = self.files.get(&jid).map_or(0, |len| len.saturating_sub(DIGEST_BYTES));
        body.min(RETURN_PART_BYTES_MAX as u64) <= room as u64
    }

    /// The outcome of `jid`, cut into parts. A damaged file is set aside and an outcome that says so is put in its place.
    pub fn load(&mut self, jid: JobId) -> Result<Vec<ReturnPart>, OutboxError> {
        let path = self.folder.join(jid.to_string());
        let failed = |source| OutboxError { path: path.clone(), source };
        let bytes = self.disk.read(&path, FILE_BYTES_MAX).map_err(failed)?.unwrap_or_default();
        if let Some(parts) = parts_of(jid, &bytes) {
            return Ok(parts);
        }
        tracing::error!(jid = %jid, path = %path.display(), "an outcome on disk is damaged and was set aside");
        self.set_aside(jid)?;
        let outcome = Outcome {
            kind: OutcomeKind::Interrupted,
            success: false,
            retcode: 1,
            value: Value::String("the job ended, but its result on the minion's disk is damaged".into()),
            duration_ms: 0,
        };
        self.put(jid, &outcome)?;
        Ok(ReturnPart::split(jid, &outcome).unwrap_or_default())
    }

    /// Removes a committed outcome.
    pub fn remove(&mut self, jid: JobId) -> Result<(), OutboxError> {
        let path = self.folder.join(jid.to_string());
        self.disk.remove(&path).map_err(|source| OutboxError { path, source })?;
        self.forget(jid);
        Ok(())
    }

    /// Renames an outcome so that people find it and nobody sends it.
    pub fn set_aside(&mut self, jid: JobId) -> Result<(), OutboxError> {
        let path = self.folder.join(jid.to_string());
        let aside = self.folder.join(format!("{jid}.aside"));
        let read = self.disk.read(&path, FILE_BYTES_MAX);
        if let Some(bytes) = read.map_err(|source| OutboxError { path: path.clone(), source })? {
            self.disk.replace(&aside, &bytes).map_err(|source| OutboxError { path: aside, source })?;
        }
        self.remove(jid)
    }

    /// Whether an outcome of `jid` waits.
    pub fn contains(&self, jid: JobId) -> bool {
        self.files.contains_key(&jid)
    }

    /// The jobs whose outcomes wait, oldest first.
    pub fn jobs(&self) -> impl Iterator<Item = JobId> {
        self.files.keys().copied()
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn forget(&mut self, jid: JobId) {
        self.bytes -= self.files.remove(&jid).unwrap_or(0);
    }
}

fn parts_of(jid: JobId, bytes: &[u8]) -> Option<Vec<ReturnPart>> {
    let (digest, body) = bytes.split_at_checked(32)?;
    if blake3::hash(body).as_bytes() != digest {
        return None;
    }
    ReturnPart::split(jid, &decode::<Outcome>(body).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::MemoryDisk;
    use saltern_wire::LogicalTime;

    fn jid(number: u64) -> JobId {
        JobId::mint(LogicalTime::from_unix_micros(1_795_392_390_000_000 + number * 1000), 1)
    }

    fn outcome(text: &str) -> Outcome {
        Outcome {
            kind: OutcomeKind::Finished,
            success: true,
            retcode: 0,
            value: Value::String(text.into()),
            duration_ms: 1,
        }
    }

    fn value_of(parts: &[ReturnPart]) -> Outcome {
        let body: Vec<u8> = parts.iter().flat_map(|part| part.body.clone()).collect();
        decode(&body).expect("an outcome")
    }

    #[test]
    fn outcomes_outlive_the_process_and_go_when_told() {
        let disk = Arc::new(MemoryDisk::default());
        let folder = Path::new("/outbox");
        write(disk.as_ref(), folder, jid(1), &outcome("a")).expect("written");
        write(disk.as_ref(), folder, jid(2), &outcome("b")).expect("written");
        disk.replace(&folder.join("half.tmp"), b"x").expect("written");
        let mut outbox = Outbox::open(disk.clone(), folder.into()).expect("opens");
        assert_eq!(outbox.jobs().collect::<Vec<_>>(), [jid(1), jid(2)]);
        assert_eq!(value_of(&outbox.load(jid(2)).expect("read")), outcome("b"));
        let bytes = outbox.bytes();
        outbox.remove(jid(1)).expect("removed");
        assert!(outbox.bytes() < bytes && outbox.bytes() > 0);
        let again = Outbox::open(disk, folder.into()).expect("opens");
        assert_eq!((again.jobs().collect::<Vec<_>>(), again.bytes()), (vec![jid(2)], outbox.bytes()));
    }

    #[test]
    fn a_damaged_outcome_is_set_aside_and_reported() {
        let disk = Arc::new(MemoryDisk::default());
        let mut outbox = Outbox::open(disk.clone(), "/outbox".into()).expect("opens");
        outbox.put(jid(1), &outcome("a")).expect("written");
        let path = Path::new("/outbox").join(jid(1).to_string());
        let mut bytes = disk.read(&path, 1 << 20).expect("read").expect("there");
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        disk.replace(&path, &bytes).expect("bent");
        assert_eq!(value_of(&outbox.load(jid(1)).expect("read")).kind, OutcomeKind::Interrupted);
        let aside = disk.read(&path.with_extension("aside"), 1 << 20).expect("read");
        assert_eq!(aside, Some(bytes), "kept for people");
    }

    #[test]
    fn a_return_that_is_too_large_says_so() {
        let disk = Arc::new(MemoryDisk::default());
        let mut outbox = Outbox::open(disk, "/outbox".into()).expect("opens");
        outbox.put(jid(1), &outcome(&"x".repeat(RETURN_BYTES_MAX))).expect("written");
        let outcome = value_of(&outbox.load(jid(1)).expect("read"));
        assert!(!outcome.success);
        assert!(outcome.value.as_str().is_some_and(|text| text.contains("16777")), "{}", outcome.value);
    }
}
