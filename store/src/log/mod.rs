//! The replicated log on this machine's disk.
//!
//! ```text
//!   append · truncate · purge · vote · committed          read
//!        │  into the queue and the tail, at once            ▲ from the tail; from the disk what is older
//!        ▼                                                  │
//!   one writer: drains the queue ─▶ one batch ─▶ one sync ─▶ calls back, in order
//!                                                     └────▶ the durable mark, in parallel with the next group
//! ```
//!
//! **Invariants.** Indexes are contiguous from behind the purged position to [`Log::last`]. What is queued is visible to
//! readers at once and durable when its callback has been called with `Ok`. Entries leave the tail only after they were
//! written. Callbacks come in the order of the calls. Every entry, the vote and the positions carry a version and a CRC32C
//! ([`crate::frame`]); one that does not fit is [`StoreError::Corrupt`], found when the log is opened.
//!
//! Beside the log stands the durable mark ([`crate::mark`]): every synced group has a number, its generation, and a log that
//! comes back behind its mark is corrupt. A group is not begun before the one two places earlier is marked: so far, and as
//! long as one mark takes to be written, may the mark lag.
//!
//! **It refuses** to go on after a failed write or sync, because nobody can know what is on the disk after that, and once
//! anything of this copy is doubted ([`Soundness`]): every callback gets an error from then on, and whoever runs the master
//! ends it. A process that has not ended seconds after a failed write is aborted.

mod marker;
mod size;
mod writer;

use crate::error::StoreError;
use crate::frame;
use crate::kv::{Direction, Engine, Kv, Pressure, Span, Table};
use crate::mark::{self, Mark, MarkRow};
use crate::sound::Soundness;
use crate::table;
use saltern_wire::level::Newer;
use size::Sizes;
use std::collections::VecDeque;
use std::io;
use std::ops::{Bound, ControlFlow, RangeBounds};
use std::path::Path;
use std::sync::Arc;
use writer::{Op, Writer};

pub(crate) use writer::parse_generation;

/// Entries kept in memory, in bytes of their encoding: what followers that keep up still need, many times over.
const TAIL_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What the log keeps.
pub trait LogEntry: Clone + Send + Sync + 'static {
    /// Its place in the log.
    fn index(&self) -> u64;
    /// Its bytes, without any protection of their own.
    fn encode(&self) -> Vec<u8>;
    /// The inverse of [`LogEntry::encode`], or what is wrong with the bytes.
    fn decode(bytes: &[u8]) -> Result<Self, String>;
    /// If `bytes` are of a format that only a newer build reads: its version, and the newest that this build reads.
    fn newer(bytes: &[u8]) -> Option<(u8, u8)>;
}

/// Who writes and syncs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlushBy {
    /// One thread of the log's own, which takes what is waiting as one group.
    Thread,
    /// Whoever calls, before the call returns. For the simulation: no threads, no order but that of the calls.
    Caller,
}

/// Called once, when a write is durable or has failed. Called from the log's thread: it must not block.
pub type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// Where the log begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Purged {
    /// Last index that is gone.
    pub index: u64,
    /// Its position, as the caller encoded it.
    pub position: Vec<u8>,
}

/// A handle on the log; clones share it. The last one dropped ends the thread after it has written what is queued.
pub struct Log<E: LogEntry> {
    writer: Arc<Writer<E>>,
}

impl<E: LogEntry> Clone for Log<E> {
    fn clone(&self) -> Self {
        Self { writer: self.writer.clone() }
    }
}

/// What is known about the log in memory; the queue's effects are in it already.
pub(crate) struct Tail<E> {
    /// Contiguous, up to the last entry: the entry, its length, and the number of the queued operation that brought it.
    entries: VecDeque<(E, usize, u64)>,
    bytes: usize,
    sizes: Sizes,
    /// The first entry that is not purged, if `last` is there.
    begin: u64,
    last: Option<u64>,
    purged: Option<Purged>,
    /// How often it was truncated.
    cuts: u64,
    vote: Option<Vec<u8>>,
    committed: Option<Vec<u8>>,
}

impl<E: LogEntry> Log<E> {
    /// Opens (or makes) the log in `dir`, with its mark beside it, and checks every entry in it and both against each other.
    /// What turns out to be corrupt, now or later, is noted in `soundness`.
    pub fn open(engine: &dyn Engine, dir: &Path, flush: FlushBy, soundness: Soundness) -> Result<Self, StoreError> {
        let opened = Self::open_checked(engine, dir, flush, &soundness);
        soundness.noted(opened)
    }

    fn open_checked(
        engine: &dyn Engine,
        dir: &Path,
        flush: FlushBy,
        soundness: &Soundness,
    ) -> Result<Self, StoreError> {
        let kv = engine.open_log(dir)?;
        let (tail, standing) = Tail::load(kv.as_ref())?;
        let path = dir.with_file_name(mark::FILE);
        let mark = match Mark::open(engine, &path)? {
            Some((mut mark, found)) => {
                found.row.check(&standing)?;
                if found.torn.is_some() || found.row.generation < standing.generation {
                    mark.write(&standing)?;
                }
                mark
            }
            None if standing.is_empty() => Mark::create(engine, &path)?,
            None => return Err(mark::missing(&path)),
        };
        Ok(Self { writer: Writer::start(kv, dir, tail, (mark, standing), flush, soundness)? })
    }

    /// Adds entries behind the last one; `done` is called when they are durable. They are readable at once.
    ///
    /// Entries that do not follow the last one (or the purged position) are refused through `done`.
    pub fn append(&self, entries: Vec<E>, done: Done) {
        let mut rows = Vec::with_capacity(entries.len());
        for entry in &entries {
            rows.push((entry.index(), frame::seal(&entry.encode())));
        }
        let mut queue = self.writer.lock();
        let mut last = queue.tail.end();
        for (index, _) in &rows {
            if last.is_some_and(|last| *index != last + 1) {
                drop(queue);
                let last = last.unwrap_or_default();
                return done(Err(StoreError::Order { last, found: *index }.into()));
            }
            last = Some(*index);
        }
        let number = queue.next_number();
        for (entry, (_, row)) in entries.into_iter().zip(&rows) {
            queue.tail.push(entry, row.len(), number);
        }
        self.writer.queue(queue, Op::Append(rows), true, Some(done));
    }

    /// Entries of `range` that there are, in order, at least one if there is any, then as many as fit `bytes_max`.
    pub fn read(&self, range: impl RangeBounds<u64>, bytes_max: Option<usize>) -> Result<Vec<E>, StoreError> {
        self.writer.soundness().noted(self.read_checked(range, bytes_max))
    }

    fn read_checked(&self, range: impl RangeBounds<u64>, bytes_max: Option<usize>) -> Result<Vec<E>, StoreError> {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(start) => start.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(end) => end.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        let mut taken = Taken { entries: Vec::new(), bytes: 0, bytes_max: bytes_max.unwrap_or(usize::MAX) };
        let cuts = self.writer.lock().tail.cuts;
        let (start, split, cached) = self.lock_and_split(start, end, taken.bytes_max);
        if start < split {
            self.read_disk(start, split, cuts, &mut taken)?;
            if (taken.entries.len() as u64) < split - start {
                return Ok(taken.entries);
            }
        }
        for (entry, len) in cached {
            if taken.add(entry, len).is_break() {
                break;
            }
        }
        Ok(taken.entries)
    }

    /// Clips `[start, end)` to what there is: where reading starts, where the tail takes over from the disk, and what the
    /// tail has, up to `bytes_max`.
    fn lock_and_split(&self, start: u64, end: u64, bytes_max: usize) -> (u64, u64, Vec<(E, usize)>) {
        let queue = self.writer.lock();
        let tail = &queue.tail;
        let Some(last) = tail.last else { return (0, 0, Vec::new()) };
        let (start, end) = (start.max(tail.begin), end.min(last.saturating_add(1)));
        if start >= end {
            return (0, 0, Vec::new());
        }
        let first = tail.first().unwrap_or(end);
        let split = first.clamp(start, end);
        let skipped = usize::try_from(split - first.min(split)).unwrap_or(usize::MAX);
        let mut bytes = 0_usize;
        let fitting = tail.entries.iter().skip(skipped).take_while(|(entry, len, _)| {
            let fits = bytes == 0 || bytes.saturating_add(*len) <= bytes_max;
            bytes = bytes.saturating_add(*len);
            fits && entry.index() < end
        });
        (start, split, fitting.map(|(entry, len, _)| (entry.clone(), *len)).collect())
    }

    /// Reads `[start, end)` from the disk.
    /// `cuts`: how often the log had been truncated before the range was looked at.
    fn read_disk(&self, start: u64, end: u64, cuts: u64, taken: &mut Taken<E>) -> Result<(), StoreError> {
        let span = Span::between(table::log_key(start), table::log_key(end));
        let (mut next, mut wrong, mut full) = (start, None, false);
        // A purge or a truncation may have overtaken this read: then there is nothing to complain about.
        let is_gone = |index: u64| {
            let queue = self.writer.lock();
            queue.tail.cuts != cuts || queue.tail.purged.as_ref().is_some_and(|purged| purged.index >= index)
        };
        self.writer.kv().visit(Table::Log, &span, Direction::Forward, &mut |key, row| {
            let read = table::log_index(key).and_then(|index| {
                if index != next {
                    return if is_gone(next) { Ok(None) } else { Err(missing(next, index)) };
                }
                Ok(Some((decode::<E>(index, row)?, row.len())))
            });
            match read {
                Ok(Some((entry, len))) => {
                    next += 1;
                    let flow = taken.add(entry, len);
                    full = flow.is_break();
                    flow
                }
                Ok(None) => ControlFlow::Break(()),
                Err(error) => {
                    wrong = Some(error);
                    ControlFlow::Break(())
                }
            }
        })?;
        if wrong.is_none() && next < end && !full && !is_gone(next) {
            wrong = Some(missing(next, end));
        }
        wrong.map_or(Ok(()), Err)
    }

    /// The last entry; `None` if there is none behind the purged position.
    pub fn last(&self) -> Result<Option<E>, StoreError> {
        let last = self.writer.lock().tail.last;
        let Some(last) = last else { return Ok(None) };
        Ok(self.read(last..=last, None)?.pop())
    }

    /// The index of the last entry; `None` if there is none behind the purged position.
    pub fn last_index(&self) -> Option<u64> {
        self.writer.lock().tail.last
    }

    /// Removes every entry behind `index` (all of them for `None`), ordered with the appends around it.
    pub fn truncate_after(&self, index: Option<u64>, done: Done) {
        let from = index.map_or(0, |index| index.saturating_add(1));
        let mut queue = self.writer.lock();
        queue.tail.truncate(from);
        self.writer.queue(queue, Op::Truncate { from }, true, Some(done));
    }

    /// Removes every entry up to `upto` and remembers `position` as where the log begins. The caller has a durable
    /// snapshot that covers it. May lie behind the last entry: the log is empty then and goes on at `upto + 1`.
    pub fn purge(&self, upto: u64, position: Vec<u8>, done: Done) {
        let mut queue = self.writer.lock();
        if queue.tail.purged.as_ref().is_some_and(|purged| purged.index >= upto) {
            return self.writer.queue(queue, Op::Nothing, false, Some(done));
        }
        queue.tail.purge(upto, position.clone());
        self.writer.queue(queue, Op::Purge { upto, position }, true, Some(done));
    }

    /// Where the log begins.
    pub fn purged(&self) -> Option<Purged> {
        self.writer.lock().tail.purged.clone()
    }

    /// Keeps the vote; `done` is called when it is durable.
    ///
    /// A vote longer than 1024 bytes is refused: the durable mark has no room for it.
    pub fn save_vote(&self, vote: Vec<u8>, done: Done) {
        if vote.len() > mark::VALUE_BYTES_MAX {
            let cause = format!("a vote of {} bytes, more than the durable mark takes", vote.len());
            return done(Err(io::Error::new(io::ErrorKind::InvalidInput, cause)));
        }
        let mut queue = self.writer.lock();
        queue.tail.vote = Some(vote.clone());
        self.writer.queue(queue, Op::Vote(vote), true, Some(done));
    }

    /// The vote that was saved last.
    pub fn vote(&self) -> Option<Vec<u8>> {
        self.writer.lock().tail.vote.clone()
    }

    /// Keeps the committed position. Not synced: it becomes durable with the next synced write, and an older one is harmless.
    pub fn save_committed(&self, committed: Vec<u8>) {
        let mut queue = self.writer.lock();
        queue.tail.committed = Some(committed.clone());
        self.writer.queue(queue, Op::Committed(committed), false, None);
    }

    /// The committed position that was saved last.
    pub fn committed(&self) -> Option<Vec<u8>> {
        self.writer.lock().tail.committed.clone()
    }

    /// How the disk's instance keeps up with what is appended.
    pub fn pressure(&self) -> Pressure {
        self.writer.kv().pressure()
    }

    /// How many groups have been synced so far: beside the number of appends it tells how well they share their syncs.
    pub fn syncs(&self) -> u64 {
        self.writer.lock().syncs
    }
}

fn decode<E: LogEntry>(index: u64, row: &[u8]) -> Result<E, StoreError> {
    let corrupt = |cause: String| StoreError::corrupt(format!("log entry {index}"), cause);
    let body = frame::open_of(format!("log entry {index}"), row)?;
    if let Some(newer) = E::newer(body) {
        return Err(Newer::format(format!("log entry {index}"), newer.0, newer.1).into());
    }
    let entry = E::decode(body).map_err(corrupt)?;
    if entry.index() != index {
        return Err(corrupt(format!("it says that it is entry {}", entry.index())));
    }
    Ok(entry)
}

fn missing(index: u64, next: u64) -> StoreError {
    StoreError::corrupt(format!("log entry {index}"), format!("it is not there, the next one is {next}"))
}

/// Entries on their way to a reader.
struct Taken<E> {
    entries: Vec<E>,
    bytes: usize,
    bytes_max: usize,
}

impl<E> Taken<E> {
    /// Takes `entry` if it fits or is the first.
    fn add(&mut self, entry: E, len: usize) -> ControlFlow<()> {
        if !self.entries.is_empty() && self.bytes.saturating_add(len) > self.bytes_max {
            return ControlFlow::Break(());
        }
        self.bytes = self.bytes.saturating_add(len);
        self.entries.push(entry);
        ControlFlow::Continue(())
    }
}

impl<E: LogEntry> Tail<E> {
    /// Reads the positions and checks every entry: its frame, its content, and that none is missing.
    pub(crate) fn load(kv: &dyn Kv) -> Result<(Self, MarkRow), StoreError> {
        let meta = |name: &str| -> Result<Option<Vec<u8>>, StoreError> {
            let row = kv.get(Table::LogMeta, &table::key(&[name.as_bytes()]))?;
            let what = || format!("the log's record of {name:?}");
            row.map(|row| frame::open_of(what(), &row).map(<[u8]>::to_vec)).transpose()
        };
        let purged = meta(writer::PURGED)?.map(|row| split_purged(&row)).transpose()?;
        let mut tail = Self {
            entries: VecDeque::new(),
            bytes: 0,
            sizes: Sizes::default(),
            begin: 0,
            last: None,
            cuts: 0,
            vote: meta(writer::VOTE)?,
            committed: meta(writer::COMMITTED)?,
            purged,
        };
        let generation = meta(writer::GENERATION)?.map(|row| parse_generation(&row)).transpose()?;
        let mut standing = MarkRow {
            generation: generation.unwrap_or(0),
            vote: tail.vote.clone(),
            last: None,
            purged: tail.purged.as_ref().map(|purged| purged.index),
            committed: tail.committed.clone(),
        };
        let mut wrong = None;
        kv.visit(Table::Log, &Span::all(), Direction::Forward, &mut |key, row| {
            let read = table::log_index(key).and_then(|index| Ok((index, decode::<E>(index, row)?)));
            let checked = read.and_then(|(index, entry)| match tail.end() {
                Some(end) if index != end + 1 => Err(missing(end + 1, index)),
                Some(_) | None => Ok(entry),
            });
            match checked {
                Ok(entry) => {
                    standing.last = Some((entry.index(), frame::checksum_of(row)));
                    tail.push(entry, row.len(), 0);
                    tail.evict(0);
                    ControlFlow::Continue(())
                }
                Err(error) => {
                    wrong = Some(error);
                    ControlFlow::Break(())
                }
            }
        })?;
        wrong.map_or(Ok((tail, standing)), Err)
    }

    /// The first entry there is.
    pub(crate) fn begin(&self) -> Option<u64> {
        self.last.map(|_| self.begin)
    }

    /// The last index there is or was.
    fn end(&self) -> Option<u64> {
        self.last.or(self.purged.as_ref().map(|purged| purged.index))
    }

    fn first(&self) -> Option<u64> {
        self.entries.front().map(|(entry, ..)| entry.index())
    }

    fn push(&mut self, entry: E, len: usize, number: u64) {
        if self.last.is_none() {
            self.begin = entry.index();
        }
        self.last = Some(entry.index());
        self.sizes.push(entry.index(), len);
        self.bytes += len;
        self.entries.push_back((entry, len, number));
    }

    /// Drops the oldest entries that are on the disk (their operation is at most `written`) until the rest fits.
    fn evict(&mut self, written: u64) {
        while self.bytes > TAIL_BYTES_MAX && self.entries.len() > 1 {
            let Some((_, len, _)) = self.entries.pop_front_if(|(_, _, number)| *number <= written) else { return };
            self.bytes -= len;
        }
    }

    fn truncate(&mut self, from: u64) {
        self.cuts += 1;
        self.sizes.truncate(from);
        while let Some((_, len, _)) = self.entries.pop_back_if(|(entry, ..)| entry.index() >= from) {
            self.bytes -= len;
        }
        self.last = self.last.filter(|_| from > self.begin).map(|last| last.min(from - 1));
    }

    fn purge(&mut self, upto: u64, position: Vec<u8>) {
        while let Some((_, len, _)) = self.entries.pop_front_if(|(entry, ..)| entry.index() <= upto) {
            self.bytes -= len;
        }
        self.last = self.last.filter(|last| *last > upto);
        self.begin = self.begin.max(upto.saturating_add(1));
        self.sizes.purge(upto, self.last.is_none());
        self.purged = Some(Purged { index: upto, position });
    }
}

pub(crate) fn split_purged(row: &[u8]) -> Result<Purged, StoreError> {
    let (index, position) =
        row.split_first_chunk::<8>().ok_or_else(|| StoreError::corrupt("the log's beginning", "it has no index"))?;
    Ok(Purged { index: u64::from_be_bytes(*index), position: position.to_vec() })
}
