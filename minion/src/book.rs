//! What a minion publishes of itself: its grains, and its mine values with their stamps. Pure, but for the counter's file.
//!
//! **Invariants.** A stamp is never given twice and never goes back: counters are reserved on disk in blocks before they
//! are used, so a crash skips numbers and repeats none. A newer report of a function takes the place of an older one that
//! is still waiting. An asker is answered when a report at least as new as its own is committed.

use crate::folder::{Folder, FolderError};
use saltern_wire::codec::Encoded;
use saltern_wire::limits::MINE_VALUE_BYTES_MAX;
use saltern_wire::mine::{MineReport, MineStamp};
use saltern_wire::{Value, encode};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use tokio::sync::oneshot;

/// Stamps reserved at one time: one fsync for so many reports.
const COUNTER_BLOCK: u64 = 1_000;

/// Most bytes of reports in one call; the largest single value always fits.
const CALL_BYTES_MAX: usize = 2 * MINE_VALUE_BYTES_MAX;

/// Most functions whose values wait to be committed: far more than anybody configures.
const PENDING_MAX: usize = 1_000;

/// What stands in the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MineFile {
    /// Counters below this may have been used.
    pub reserved: u64,
    /// Functions whose values are in the mine.
    pub names: BTreeSet<String>,
}

impl Encoded for MineFile {
    const KIND: u8 = 205;
}

/// Name of the file in the data folder.
const FILE: &str = "mine";

/// Why a value is not reported.
#[derive(Debug, thiserror::Error)]
pub enum MineError {
    /// It is too large.
    #[error("the mine value of {function} has {len} bytes, the limit is {MINE_VALUE_BYTES_MAX}")]
    Large {
        /// Of which function.
        function: String,
        /// Its length, in bytes.
        len: usize,
    },
    /// Too many wait.
    #[error("{PENDING_MAX} mine values wait to be committed already")]
    Full,
    /// The counter cannot be kept.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The master refused it for good.
    #[error("the master refused the mine report: {0}")]
    Refused(String),
}

/// Told when a report is committed, or that it never will be.
pub type Waiter = oneshot::Sender<Result<(), MineError>>;

struct Pending {
    value: Option<Value>,
    stamp: MineStamp,
    in_flight: bool,
}

/// The mine values of this minion.
pub struct MineBook {
    folder: Folder,
    incarnation: u64,
    next: u64,
    file: MineFile,
    pending: BTreeMap<String, Pending>,
    /// Digest of the value last committed, to leave out what did not change.
    committed: BTreeMap<String, [u8; 32]>,
    waiters: Vec<(BTreeMap<String, MineStamp>, Waiter)>,
}

fn digest(value: &Value) -> [u8; 32] {
    *blake3::hash(value.to_string().as_bytes()).as_bytes()
}

impl MineBook {
    /// Goes on where the file says.
    pub fn open(folder: Folder, incarnation: u64) -> Result<Self, FolderError> {
        let file: MineFile = folder.record(FILE)?.unwrap_or_default();
        Ok(Self {
            folder,
            incarnation,
            next: file.reserved,
            file,
            pending: BTreeMap::new(),
            committed: BTreeMap::new(),
            waiters: Vec::new(),
        })
    }

    /// Functions whose values are in the mine or on their way.
    pub fn names(&self) -> Vec<String> {
        self.file.names.iter().cloned().collect()
    }

    /// Whether the newest value of `function` that was committed, or waits to be, is this one.
    pub fn is_current(&self, function: &str, value: &Value) -> bool {
        match self.pending.get(function) {
            Some(pending) => pending.value.as_ref() == Some(value),
            None => self.committed.get(function) == Some(&digest(value)),
        }
    }

    /// Takes in new values; `None` deletes. `waiter` hears when all of them are committed.
    pub fn report(&mut self, values: Vec<(String, Option<Value>)>, waiter: Option<Waiter>) {
        match (self.take(values), waiter) {
            (Ok(wanted), Some(waiter)) => {
                self.waiters.push((wanted, waiter));
                self.answer();
            }
            (Ok(_), None) => {}
            // The asker may be gone.
            (Err(error), Some(waiter)) => drop(waiter.send(Err(error))),
            (Err(error), None) => tracing::error!(%error, "mine values were not reported"),
        }
    }

    /// Puts the values in line with new stamps.
    fn take(&mut self, values: Vec<(String, Option<Value>)>) -> Result<BTreeMap<String, MineStamp>, MineError> {
        for (function, value) in &values {
            let len = value.as_ref().map_or(0, |value| value.to_string().len());
            if len > MINE_VALUE_BYTES_MAX {
                return Err(MineError::Large { function: function.clone(), len });
            }
        }
        if self.pending.len() + values.len() > PENDING_MAX {
            return Err(MineError::Full);
        }
        let mut file = self.file.clone();
        for (function, value) in &values {
            if value.is_some() {
                file.names.insert(function.clone());
            }
        }
        let last = self.next + values.len() as u64;
        if last > file.reserved {
            file.reserved = last + COUNTER_BLOCK;
        }
        self.keep(file)?;
        let mut wanted = BTreeMap::new();
        for (function, value) in values {
            let stamp = MineStamp { incarnation: self.incarnation, counter: self.next };
            self.next += 1;
            wanted.insert(function.clone(), stamp);
            self.pending.insert(function, Pending { value, stamp, in_flight: false });
        }
        Ok(wanted)
    }

    fn keep(&mut self, file: MineFile) -> Result<(), FolderError> {
        if file != self.file {
            self.folder.keep_record(FILE, &file)?;
            self.file = file;
        }
        Ok(())
    }

    /// The next call: reports that wait and are in no call yet.
    pub fn next_call(&mut self) -> Option<Vec<MineReport>> {
        let mut reports = Vec::new();
        let mut bytes = 0;
        for (function, pending) in self.pending.iter_mut().filter(|(_, pending)| !pending.in_flight) {
            bytes += function.len() + pending.value.as_ref().map_or(0, |value| value.to_string().len()) + 64;
            if !reports.is_empty() && bytes > CALL_BYTES_MAX {
                break;
            }
            pending.in_flight = true;
            let (value, stamp) = (pending.value.clone(), pending.stamp);
            reports.push(MineReport { function: function.clone(), value, stamp });
        }
        (!reports.is_empty()).then_some(reports)
    }

    /// The reports with these stamps are committed.
    pub fn handle_done(&mut self, stamps: &[(String, MineStamp)]) {
        let mut file = self.file.clone();
        for (function, stamp) in stamps {
            let Some(pending) = self.pending.get(function).filter(|pending| pending.stamp == *stamp) else { continue };
            match &pending.value {
                Some(value) => drop(self.committed.insert(function.clone(), digest(value))),
                None => {
                    self.committed.remove(function);
                    file.names.remove(function);
                }
            }
            self.pending.remove(function);
        }
        if let Err(error) = self.keep(file) {
            tracing::warn!(%error, "the names of deleted mine values are kept for now");
        }
        for (wanted, _) in &mut self.waiters {
            wanted.retain(|function, stamp| !stamps.iter().any(|(done, at)| done == function && at >= stamp));
        }
        self.answer();
    }

    /// The call with these reports failed for now: they wait again.
    pub fn handle_failed(&mut self, stamps: &[(String, MineStamp)]) {
        for (function, stamp) in stamps {
            if let Some(pending) = self.pending.get_mut(function).filter(|pending| pending.stamp == *stamp) {
                pending.in_flight = false;
            }
        }
    }

    /// The call with these reports was refused for good: they are dropped, and who waits for them is told.
    pub fn handle_invalid(&mut self, stamps: &[(String, MineStamp)], reason: &str) {
        for (function, stamp) in stamps {
            if self.pending.get(function).is_some_and(|pending| pending.stamp == *stamp) {
                self.pending.remove(function);
            }
        }
        let hit = |wanted: &BTreeMap<String, MineStamp>| {
            stamps.iter().any(|(function, stamp)| wanted.get(function) == Some(stamp))
        };
        for (wanted, waiter) in std::mem::take(&mut self.waiters) {
            if hit(&wanted) {
                // Nobody may be waiting any more.
                let _ = waiter.send(Err(MineError::Refused(reason.to_owned())));
            } else {
                self.waiters.push((wanted, waiter));
            }
        }
    }

    /// Answers those whose reports are all committed, and forgets those who went away.
    fn answer(&mut self) {
        for (wanted, waiter) in std::mem::take(&mut self.waiters) {
            if wanted.is_empty() {
                // Nobody may be waiting any more.
                let _ = waiter.send(Ok(()));
            } else if !waiter.is_closed() {
                self.waiters.push((wanted, waiter));
            }
        }
    }
}

/// Length of the grains as they are reported, in bytes.
pub fn facts_len(grains: &saltern_wire::Map) -> usize {
    encode(&saltern_wire::session::ToMaster::Call {
        sequence: 0,
        deadline_ms: 0,
        call: saltern_wire::session::Call::Facts(grains.clone()),
    })
    .len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::MemoryDisk;
    use serde_json::json;
    use std::sync::Arc;

    fn book(disk: &Arc<MemoryDisk>) -> MineBook {
        let folder = Folder::open(disk.clone(), "/m").expect("opens");
        MineBook::open(folder, 7).expect("opens")
    }

    fn stamps(reports: &[MineReport]) -> Vec<(String, MineStamp)> {
        reports.iter().map(|report| (report.function.clone(), report.stamp)).collect()
    }

    #[test]
    fn stamps_never_go_back_over_a_restart() {
        let disk = Arc::new(MemoryDisk::default());
        let mut newest = None;
        for _ in 0..5 {
            let mut book = book(&disk);
            for round in 0..700 {
                book.report(vec![("f".into(), Some(json!(round)))], None);
                let reports = book.next_call().expect("waits");
                assert!(Some(reports[0].stamp) > newest);
                newest = Some(reports[0].stamp);
                book.handle_failed(&stamps(&reports));
            }
        }
    }

    #[test]
    fn a_newer_value_takes_the_place_and_answers_both_askers() {
        let disk = Arc::new(MemoryDisk::default());
        let mut book = book(&disk);
        let (first, mut first_done) = oneshot::channel();
        let (second, mut second_done) = oneshot::channel();
        book.report(vec![("f".into(), Some(json!(1)))], Some(first));
        let old = book.next_call().expect("waits");
        book.report(vec![("f".into(), Some(json!(2)))], Some(second));
        book.handle_done(&stamps(&old));
        assert!(matches!(first_done.try_recv(), Ok(Ok(()))));
        assert!(second_done.try_recv().is_err(), "the newer value is not committed yet");
        assert!(book.is_current("f", &json!(2)) && !book.is_current("f", &json!(1)));
        let new = book.next_call().expect("waits");
        assert_eq!(new[0].value, Some(json!(2)));
        book.handle_done(&stamps(&new));
        assert!(matches!(second_done.try_recv(), Ok(Ok(()))));
        assert!(book.next_call().is_none());
    }

    #[test]
    fn names_outlive_a_restart_until_they_are_deleted() {
        let disk = Arc::new(MemoryDisk::default());
        book(&disk).report(vec![("f".into(), Some(json!(1)))], None);
        let mut book = book(&disk);
        assert_eq!(book.names(), ["f"]);
        book.report(vec![("f".into(), None)], None);
        let reports = book.next_call().expect("waits");
        assert_eq!(reports[0].value, None);
        book.handle_done(&stamps(&reports));
        assert!(book.names().is_empty());
    }

    #[test]
    fn an_oversized_value_is_refused_at_once() {
        let mut book = book(&Arc::new(MemoryDisk::default()));
        let large = json!("x".repeat(MINE_VALUE_BYTES_MAX + 1));
        let (waiter, mut done) = oneshot::channel();
        book.report(vec![("f".into(), Some(large))], Some(waiter));
        assert!(matches!(done.try_recv(), Ok(Err(MineError::Large { .. }))));
        assert!(book.next_call().is_none());
    }
}
