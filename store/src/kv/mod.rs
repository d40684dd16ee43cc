//! Ordered tables of bytes, and the engines that keep them.
//!
//! ```text
//!   Log, State, Snapshots ──▶ Engine (opens instances, keeps snapshot files)
//!                               └─▶ Kv (get · visit · write a batch · sync · flush · checkpoint)
//!                                     ├─ rocks   the real one
//!                                     └─ memory  for the simulation: models what a crash loses
//! ```
//!
//! **Invariants.** A [`Batch`] is applied whole or not at all. Rows come in the order of their keys' bytes. A *log* instance
//! is durable up to the last [`Kv::sync`], a *state* instance up to the last [`Kv::flush`] (it has no write-ahead log: the
//! replicated log is one). Keys carry their shard (see [`crate::table`]); an engine never looks inside them.

pub mod disk;
pub mod memory;
pub mod rocks;

use crate::error::StoreError;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

/// One table (a column family of RocksDB). Names and codes are persisted: append only, never renamed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Log instance: index → framed entry.
    Log,
    /// Log instance: vote, committed, last purged.
    LogMeta,
    /// Last applied position, logical time, counters, settings, the cluster and its CA.
    Meta,
    /// Minion id → its key that is not denied.
    Keys,
    /// Minion id, fingerprint → a denied key.
    Denied,
    /// Ordinal → the minion's name, for ever.
    Minions,
    /// Ordinal → grains, version, incarnation.
    Facts,
    /// Jid → the job as it was opened.
    Jobs,
    /// Jid of every job that somebody owes an answer for.
    OpenJobs,
    /// Jid → when it was done and how many have returned.
    JobEnds,
    /// Jid, ordinal → where the minion stands. Absent means waiting.
    Progress,
    /// Jid, ordinal → the recorded return.
    Returns,
    /// Jid, ordinal, part → pieces of returns with more than one part.
    Parts,
    /// Jid, ordinal, digest, part → answers that came after a different one.
    Conflicts,
    /// Jid, ordinal, digest, part → answers to jobs that the truth does not hold.
    Orphans,
    /// Ordinal, function → newest mine value or tombstone.
    Mine,
    /// Master id → a master that joined.
    Masters,
    /// BLAKE3 of a join token's secret → its end and remaining uses.
    Tokens,
    /// Request id → the first answer.
    Requests,
    /// What is due when: kind, time, subject.
    Timeline,
}

impl Table {
    /// Tables of a log instance.
    pub const OF_LOG: [Self; 2] = [Self::Log, Self::LogMeta];

    /// Tables of a state instance.
    pub const OF_STATE: [Self; 18] = [
        Self::Meta,
        Self::Keys,
        Self::Denied,
        Self::Minions,
        Self::Facts,
        Self::Jobs,
        Self::OpenJobs,
        Self::JobEnds,
        Self::Progress,
        Self::Returns,
        Self::Parts,
        Self::Conflicts,
        Self::Orphans,
        Self::Mine,
        Self::Masters,
        Self::Tokens,
        Self::Requests,
        Self::Timeline,
    ];

    /// The name of the column family.
    pub fn name(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::LogMeta => "log_meta",
            Self::Meta => "meta",
            Self::Keys => "keys",
            Self::Denied => "denied",
            Self::Minions => "minions",
            Self::Facts => "facts",
            Self::Jobs => "jobs",
            Self::OpenJobs => "open_jobs",
            Self::JobEnds => "job_ends",
            Self::Progress => "progress",
            Self::Returns => "returns",
            Self::Parts => "parts",
            Self::Conflicts => "conflicts",
            Self::Orphans => "orphans",
            Self::Mine => "mine",
            Self::Masters => "masters",
            Self::Tokens => "tokens",
            Self::Requests => "requests",
            Self::Timeline => "timeline",
        }
    }
}

/// What an instance is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Durable up to the last [`Kv::sync`].
    Log,
    /// Durable up to the last [`Kv::flush`].
    State,
}

impl Kind {
    /// The tables of an instance of this kind.
    pub fn tables(self) -> &'static [Table] {
        match self {
            Self::Log => &Table::OF_LOG,
            Self::State => &Table::OF_STATE,
        }
    }
}

/// A half-open range of keys, `start ≤ key < end`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// First key inside.
    pub start: Vec<u8>,
    /// First key outside; `None` runs to the end of the table.
    pub end: Option<Vec<u8>>,
}

impl Span {
    /// Every key.
    pub fn all() -> Self {
        Self { start: Vec::new(), end: None }
    }

    /// Keys from `start` on that are below `end`.
    pub fn between(start: impl Into<Vec<u8>>, end: impl Into<Vec<u8>>) -> Self {
        Self { start: start.into(), end: Some(end.into()) }
    }

    /// Keys that begin with `prefix`.
    pub fn prefix(prefix: impl Into<Vec<u8>>) -> Self {
        let start: Vec<u8> = prefix.into();
        let end = successor(&start);
        Self { start, end }
    }

    /// Whether `key` is inside.
    pub fn contains(&self, key: &[u8]) -> bool {
        self.start.as_slice() <= key && self.end.as_ref().is_none_or(|end| key < end.as_slice())
    }
}

/// The smallest key above every key that begins with `prefix`; `None` if there is none.
fn successor(prefix: &[u8]) -> Option<Vec<u8>> {
    let kept = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut end = prefix[..=kept].to_vec();
    end[kept] += 1;
    Some(end)
}

/// The order in which rows are visited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Smallest key first.
    Forward,
    /// Largest key first.
    Backward,
}

/// One change of one table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Puts a row, replacing what was there.
    Put(Table, Vec<u8>, Vec<u8>),
    /// Removes a row if it is there.
    Delete(Table, Vec<u8>),
    /// Removes every row of `[start, end)`.
    DeleteRange(Table, Vec<u8>, Vec<u8>),
}

/// Changes that happen together, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// The changes.
    pub ops: Vec<Op>,
}

impl Batch {
    /// Adds a put.
    pub fn put(&mut self, table: Table, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.ops.push(Op::Put(table, key.into(), value.into()));
    }

    /// Adds a removal.
    pub fn delete(&mut self, table: Table, key: impl Into<Vec<u8>>) {
        self.ops.push(Op::Delete(table, key.into()));
    }

    /// Adds the removal of `[start, end)`.
    pub fn delete_range(&mut self, table: Table, start: impl Into<Vec<u8>>, end: impl Into<Vec<u8>>) {
        self.ops.push(Op::DeleteRange(table, start.into(), end.into()));
    }

    /// Whether nothing would change.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }
}

/// What is called with each row; [`ControlFlow::Break`] ends the visit. It must not write to the same instance.
pub type Visit<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>;

/// A row: key and value.
pub type Row = (Vec<u8>, Vec<u8>);

/// How an engine keeps up with what is written to it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pressure {
    /// Whether writes wait until it has caught up.
    pub stopped: bool,
    /// What writes are slowed to, in bytes per second; 0 while they are not.
    pub slowed_to_bytes_per_s: u64,
    /// Rows in memory that are in no file yet, in bytes.
    pub unflushed_bytes: u64,
    /// What it has to rewrite before its files are in order, in bytes.
    pub owed_bytes: u64,
}

/// One open instance: several tables that change together.
pub trait Kv: Send + Sync + 'static {
    /// The value of `key`.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Calls `visit` with each row of `span` in `direction`.
    fn visit(&self, table: Table, span: &Span, direction: Direction, visit: Visit<'_>) -> Result<(), StoreError>;

    /// Applies `batch` whole. When this returns it is visible, but durable only after [`Kv::sync`] (log) or [`Kv::flush`].
    fn write(&self, batch: Batch) -> Result<(), StoreError>;

    /// Returns when every earlier write of a log instance is on the disk. On a state instance it does nothing.
    fn sync(&self) -> Result<(), StoreError>;

    /// Moves everything from memory into table files and returns when they are on the disk, all tables at one point.
    fn flush(&self) -> Result<(), StoreError>;

    /// Flushes and puts a copy of the instance into the folder `into`, which must not exist; files that never change are
    /// hard links.
    fn checkpoint(&self, into: &Path) -> Result<(), StoreError>;

    /// Gives the disk back what removed rows of `span` still take. Takes a while: rows that are left are written anew. Writing
    /// goes on meanwhile.
    fn compact(&self, table: Table, span: &Span) -> Result<(), StoreError>;

    /// What the rows take on the disk, in bytes; what is not moved there yet does not count.
    fn disk_bytes(&self) -> Result<u64, StoreError>;

    /// How it keeps up. An engine that is always done at once has nothing to tell.
    fn pressure(&self) -> Pressure {
        Pressure::default()
    }

    /// Whether a write would have to wait now.
    fn holds_writes(&self) -> bool {
        false
    }

    /// Calls `visit` with every row of `table`, past every cache, so that each byte that the files hold for it is read and
    /// checked. Rows of ranges that were removed may be among them as long as their bytes are there.
    fn verify(&self, table: Table, visit: Visit<'_>) -> Result<(), StoreError> {
        self.visit(table, &Span::all(), Direction::Forward, visit)
    }

    /// Up to `limit` rows of `span` in `direction`.
    fn scan(&self, table: Table, span: &Span, direction: Direction, limit: usize) -> Result<Vec<Row>, StoreError> {
        let mut rows = Vec::new();
        if limit == 0 {
            return Ok(rows);
        }
        self.visit(table, span, direction, &mut |key, value| {
            rows.push((key.to_vec(), value.to_vec()));
            if rows.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        Ok(rows)
    }
}

/// An open file that keeps its length and its place on the disk: overwriting it needs no room and no descriptor.
pub trait FixedFile: Send + Sync {
    /// All of it.
    fn read(&self) -> Result<Vec<u8>, StoreError>;

    /// Overwrites `bytes.len()` bytes from `offset` on. Durable after [`FixedFile::sync`].
    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), StoreError>;

    /// Makes what was written durable.
    fn sync(&self) -> Result<(), StoreError>;
}

/// Opens instances, and keeps the files of snapshots beside them.
pub trait Engine: Send + Sync + 'static {
    /// Opens (or makes) a log instance in `dir`.
    fn open_log(&self, dir: &Path) -> Result<Arc<dyn Kv>, StoreError>;

    /// Opens (or makes) a state instance in `dir`, which may be a clone of a checkpoint.
    fn open_state(&self, dir: &Path) -> Result<Arc<dyn Kv>, StoreError>;

    /// Whether an instance was ever made in `dir`.
    fn has_instance(&self, dir: &Path) -> Result<bool, StoreError>;

    /// Keeps everybody from opening the instance in `dir` for writing, until what this returns is dropped. Refused as
    /// [`StoreError::Locked`] if somebody has it open; nothing to keep if there is none.
    fn hold(&self, dir: &Path) -> Result<Box<dyn Send>, StoreError>;

    /// Opens what is in `dir` for reading, as opening it for writing would find it; nothing is changed. Writing fails.
    fn open_read_only(&self, dir: &Path, kind: Kind) -> Result<Arc<dyn Kv>, StoreError>;

    /// Makes a folder and its parents.
    fn make_folder(&self, dir: &Path) -> Result<(), StoreError>;

    /// Names of the files and folders in `dir`, sorted; empty if there is no such folder.
    fn list(&self, dir: &Path) -> Result<Vec<String>, StoreError>;

    /// Length of a file in bytes; `None` if there is no such file.
    fn file_len(&self, path: &Path) -> Result<Option<u64>, StoreError>;

    /// Up to `len` bytes of a file from `offset` on; fewer only at its end.
    fn read_file(&self, path: &Path, offset: u64, len: usize) -> Result<Vec<u8>, StoreError>;

    /// Adds bytes to the end of a file, making it if need be. Durable after [`Engine::sync_file`].
    fn append_file(&self, path: &Path, bytes: &[u8]) -> Result<(), StoreError>;

    /// Makes a file's content durable.
    fn sync_file(&self, path: &Path) -> Result<(), StoreError>;

    /// Puts `bytes` in place of the file, durably and at once: after a crash there is the old or the new one.
    fn replace_file(&self, path: &Path, bytes: &[u8]) -> Result<(), StoreError>;

    /// Opens a file to overwrite it in place; `None` if there is no such file.
    fn open_fixed(&self, path: &Path) -> Result<Option<Box<dyn FixedFile>>, StoreError>;

    /// Makes the folder `to` a durable copy of `from`; files that an instance never changes are hard links.
    fn clone_folder(&self, from: &Path, to: &Path) -> Result<(), StoreError>;

    /// Makes the file `to` a copy of `from`; one that an instance never changes is a hard link. Durable after
    /// [`Engine::sync_file`].
    fn clone_file(&self, from: &Path, to: &Path) -> Result<(), StoreError>;

    /// Renames a folder, durably. Its files were synced before.
    fn rename(&self, from: &Path, to: &Path) -> Result<(), StoreError>;

    /// Removes a file, or a folder with all it holds; fine if it is not there.
    fn remove(&self, path: &Path) -> Result<(), StoreError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_spans_exactly_its_keys() {
        let span = Span::prefix([1, 0xff]);
        assert_eq!(span.end, Some(vec![2]));
        assert!(span.contains(&[1, 0xff]) && span.contains(&[1, 0xff, 0xff, 0xff]));
        assert!(!span.contains(&[2]) && !span.contains(&[1, 0xfe]));
        assert_eq!(Span::prefix([0xff, 0xff]).end, None);
    }

    #[test]
    fn table_names_are_unique() {
        let mut names: Vec<_> = Table::OF_LOG.iter().chain(&Table::OF_STATE).map(|table| table.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Table::OF_LOG.len() + Table::OF_STATE.len());
    }
}
