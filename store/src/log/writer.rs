//! The one that writes: a queue of operations, taken in groups, each group one batch and at most one sync. It keeps what the
//! durable mark will say next, and hands it over when a group is synced.

use super::marker::Marker;
use super::{Done, FlushBy, LogEntry, Tail};
use crate::error::StoreError;
use crate::frame;
use crate::kv::{Batch, Kv, Table};
use crate::mark::{self, Mark, MarkRow};
use crate::sound::Soundness;
use crate::table;
use saltern_wire::fault_point;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long a process may live on after its log has failed: its ordinary end takes a second or two.
const LAST_WAIT: Duration = Duration::from_secs(10);

/// Name of the vote's record.
pub(super) const VOTE: &str = "vote";
/// Name of the committed position's record.
pub(super) const COMMITTED: &str = "committed";
/// Name of the generation's record.
pub(super) const GENERATION: &str = "generation";
/// Name of the purged position's record.
pub(super) const PURGED: &str = "purged";

/// One queued change.
pub(super) enum Op {
    /// Framed entries by index.
    Append(Vec<(u64, Vec<u8>)>),
    /// Entries from `from` on go.
    Truncate { from: u64 },
    /// Entries up to `upto` go.
    Purge { upto: u64, position: Vec<u8> },
    /// The vote.
    Vote(Vec<u8>),
    /// The committed position.
    Committed(Vec<u8>),
    /// Nothing to write, but the callback waits for its turn.
    Nothing,
}

struct Queued {
    op: Op,
    number: u64,
    synced: bool,
    done: Option<Done>,
}

impl Queued {
    /// Whether somebody waits for it; the committed position is worth no group of its own.
    fn is_work(&self) -> bool {
        self.synced || self.done.is_some()
    }
}

/// What callers and the thread share.
pub(super) struct Queue<E> {
    pub(super) tail: Tail<E>,
    pub(super) syncs: u64,
    waiting: Vec<Queued>,
    number: u64,
    closing: bool,
    /// The thread has nothing to do and has to be woken.
    sleeping: bool,
    /// A write failed: nothing is written any more.
    broken: bool,
}

impl<E> Queue<E> {
    /// The number of the operation that is queued next.
    pub(super) fn next_number(&self) -> u64 {
        self.number + 1
    }

    /// Whether anything waits that somebody waits for.
    fn has_work(&self) -> bool {
        self.waiting.iter().any(Queued::is_work)
    }
}

struct Shared<E> {
    kv: Arc<dyn Kv>,
    dir: PathBuf,
    soundness: Soundness,
    /// What the mark will say when the next group is synced; whoever writes a group holds it.
    standing: Mutex<MarkRow>,
    marker: Marker,
    queue: Mutex<Queue<E>>,
    wake: Condvar,
}

/// Owns the thread, if there is one.
pub(super) struct Writer<E: LogEntry> {
    shared: Arc<Shared<E>>,
    thread: Option<JoinHandle<()>>,
}

impl<E: LogEntry> Writer<E> {
    /// `marked` is the mark, and what it says by now: where the log stands.
    pub(super) fn start(
        kv: Arc<dyn Kv>,
        dir: &Path,
        tail: Tail<E>,
        marked: (Mark, MarkRow),
        flush: FlushBy,
        soundness: &Soundness,
    ) -> Result<Arc<Self>, StoreError> {
        let (mark, standing) = marked;
        let queue =
            Queue { tail, syncs: 0, waiting: Vec::new(), number: 0, closing: false, sleeping: false, broken: false };
        let shared = Arc::new(Shared {
            kv,
            dir: dir.into(),
            soundness: soundness.clone(),
            marker: Marker::start(mark, standing.generation, flush, soundness.clone())?,
            standing: Mutex::new(standing),
            queue: Mutex::new(queue),
            wake: Condvar::new(),
        });
        let thread = match flush {
            FlushBy::Caller => None,
            FlushBy::Thread => {
                let shared = shared.clone();
                let spawned = std::thread::Builder::new().name("log-writer".into()).spawn(move || shared.run());
                Some(spawned.map_err(|error| StoreError::file("starting the log's thread", dir, &error))?)
            }
        };
        Ok(Arc::new(Self { shared, thread }))
    }

    pub(super) fn kv(&self) -> &dyn Kv {
        self.shared.kv.as_ref()
    }

    pub(super) fn soundness(&self) -> &Soundness {
        &self.shared.soundness
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Queue<E>> {
        self.shared.lock()
    }

    /// Queues `op`. The caller has put its effect into the tail under the same lock.
    pub(super) fn queue(&self, mut queue: MutexGuard<'_, Queue<E>>, op: Op, synced: bool, done: Option<Done>) {
        if queue.broken || self.shared.soundness.is_lost() {
            drop(queue);
            return done.into_iter().for_each(|done| done(Err(StoreError::Broken.into())));
        }
        queue.number += 1;
        let number = queue.number;
        let queued = Queued { op, number, synced, done };
        let is_work = queued.is_work();
        queue.waiting.push(queued);
        if self.thread.is_some() {
            // What nobody waits for goes with the next group; a thread that is at work looks again by itself.
            let wakes = is_work && std::mem::take(&mut queue.sleeping);
            drop(queue);
            if wakes {
                self.shared.wake.notify_one();
            }
            return;
        }
        let group = std::mem::take(&mut queue.waiting);
        drop(queue);
        // A failure reaches the caller through its callback; without one (the committed position) there is nothing to lose.
        let _ = self.shared.write(group);
    }
}

impl<E: LogEntry> Drop for Writer<E> {
    fn drop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        self.lock().closing = true;
        self.shared.wake.notify_one();
        // The last handle may die inside a callback, on the thread itself, which then ends on its own.
        if thread.thread().id() != std::thread::current().id() && thread.join().is_err() {
            tracing::error!("the log's thread ended by a panic");
        }
    }
}

impl<E: LogEntry> Shared<E> {
    fn lock(&self) -> MutexGuard<'_, Queue<E>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread: takes everything that waits as one group, until the log is closed and nothing waits.
    fn run(&self) {
        loop {
            let group = {
                let mut queue = self.lock();
                while !queue.has_work() && !queue.closing {
                    queue.sleeping = true;
                    queue = self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
                }
                queue.sleeping = false;
                if queue.waiting.is_empty() {
                    return;
                }
                std::mem::take(&mut queue.waiting)
            };
            if let Err(error) = self.write(group) {
                return self.end(&error);
            }
        }
    }

    /// The end of the thread after a failed write. Everybody who waits or comes is told, so that the Raft core stops and the
    /// process ends in its ordinary way, with its message and exit code. Only a process that goes on without a log is killed
    /// here, and says why first. `exit` is no choice: it runs the engine's destructors while other threads use it.
    fn end(&self, error: &StoreError) {
        let mut queue = self.lock();
        let left = std::mem::take(&mut queue.waiting);
        drop(queue);
        left.into_iter().filter_map(|queued| queued.done).for_each(|done| done(Err(StoreError::Broken.into())));
        let waited = self.wake.wait_timeout_while(self.lock(), LAST_WAIT, |queue| !queue.closing);
        let (queue, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if !queue.closing {
            let dir = self.dir.display();
            eprintln!(
                "the log in {dir} has failed and the process did not end within {LAST_WAIT:?}, aborting: {error}"
            );
            std::process::abort();
        }
    }

    /// Writes and syncs one group and calls back, in order.
    fn write(&self, group: Vec<Queued>) -> Result<(), StoreError> {
        let number = group.last().map_or(0, |queued| queued.number);
        let synced = group.iter().any(|queued| queued.synced);
        let mut ops = Vec::with_capacity(group.len());
        let mut callbacks = Vec::with_capacity(group.len());
        for queued in group {
            ops.push(queued.op);
            callbacks.extend(queued.done);
        }
        let unmarked = match self.put_down(ops, synced) {
            Ok(unmarked) => unmarked,
            Err(error) => {
                let text = self.fail(&error);
                callbacks.into_iter().for_each(|done| done(Err(std::io::Error::other(text.clone()))));
                return Err(error);
            }
        };
        {
            let mut queue = self.lock();
            queue.syncs += u64::from(synced);
            queue.tail.evict(number);
        }
        callbacks.into_iter().for_each(|done| done(Ok(())));
        let Some(row) = unmarked else { return Ok(()) };
        // Who waits for the log goes first. With nothing to do, marking it here saves waking another thread.
        let idle = !self.lock().has_work();
        let marked = if idle { self.marker.mark(&row) } else { self.marker.note(&row) };
        marked.inspect_err(|error| {
            self.fail(error);
        })
    }

    /// Nothing is written any more. Returns what the error says.
    fn fail(&self, error: &StoreError) -> String {
        self.lock().broken = true;
        self.soundness.fail(error);
        error.to_string()
    }

    /// Writes one group and, if any of it asks for that, waits for the disk. Returns what is still to be marked.
    fn put_down(&self, ops: Vec<Op>, synced: bool) -> Result<Option<MarkRow>, StoreError> {
        let mut standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut end = End::Known;
        let mut batch = Batch::default();
        for op in ops {
            end.follow(&mut standing, &op);
            add(&mut batch, op);
        }
        if synced {
            // The group before the last one is marked, or this one does not begin: so far may the mark lag.
            self.marker.wait(standing.generation.saturating_sub(1))?;
            standing.generation += 1;
            let generation = frame::seal(&standing.generation.to_be_bytes());
            batch.put(Table::LogMeta, meta_key(GENERATION), generation);
        }
        fault_point!("log.append.before", cause => {
            return Err(StoreError::Engine { doing: "writing", path: self.dir.clone(), cause });
        });
        self.kv.write(batch)?;
        fault_point!("log.append.after");
        if let End::At(index) = end {
            let row = self.kv.get(Table::Log, &table::log_key(index))?;
            standing.last = row.map(|row| (index, frame::checksum_of(&row)));
        }
        if synced {
            fault_point!("log.sync.before", cause => {
                return Err(StoreError::Engine { doing: "syncing", path: self.dir.clone(), cause });
            });
            self.kv.sync()?;
            fault_point!("log.sync.after");
            if self.marker.has_thread() {
                return Ok(Some(standing.clone()));
            }
            self.marker.mark(&standing)?;
        }
        Ok(None)
    }
}

/// What a group does to the end of the log.
enum End {
    /// The standing has it.
    Known,
    /// It was cut, and the entry of this index, if there is one, is the last: its checksum is to be read.
    At(u64),
}

impl End {
    /// Brings `standing` to where `op` leads.
    fn follow(&mut self, standing: &mut MarkRow, op: &Op) {
        match op {
            Op::Append(rows) => {
                if let Some((index, row)) = rows.last() {
                    standing.last = Some((*index, frame::checksum_of(row)));
                    *self = Self::Known;
                }
            }
            Op::Truncate { from } => {
                let last = match self {
                    Self::Known => standing.last.map(|(last, _)| last),
                    Self::At(last) => Some(*last),
                };
                if last.is_some_and(|last| last >= *from) {
                    standing.last = None;
                    *self = from.checked_sub(1).map_or(Self::Known, Self::At);
                }
            }
            Op::Purge { upto, .. } => {
                standing.purged = Some(*upto);
                standing.last = standing.last.filter(|(last, _)| last > upto);
            }
            Op::Vote(vote) => standing.vote = Some(vote.clone()),
            Op::Committed(committed) => {
                standing.committed = Some(committed.clone()).filter(|row| row.len() <= mark::VALUE_BYTES_MAX);
            }
            Op::Nothing => {}
        }
    }
}

fn meta_key(name: &str) -> Vec<u8> {
    table::key(&[name.as_bytes()])
}

/// The number in a generation's record.
pub(crate) fn parse_generation(row: &[u8]) -> Result<u64, StoreError> {
    let wrong = |_| StoreError::corrupt("the log's generation", "it does not have 8 bytes");
    row.try_into().map(u64::from_be_bytes).map_err(wrong)
}

fn add(batch: &mut Batch, op: Op) {
    match op {
        Op::Append(rows) => {
            for (index, row) in rows {
                batch.put(Table::Log, table::log_key(index), row);
            }
        }
        Op::Truncate { from } => batch.delete_range(Table::Log, table::log_key(from), table::log_end()),
        Op::Purge { upto, position } => {
            let row = [&upto.to_be_bytes(), position.as_slice()].concat();
            batch.put(Table::LogMeta, meta_key(PURGED), frame::seal(&row));
            batch.delete_range(Table::Log, table::log_key(0), table::log_key(upto.saturating_add(1)));
        }
        Op::Vote(vote) => batch.put(Table::LogMeta, meta_key(VOTE), frame::seal(&vote)),
        Op::Committed(committed) => batch.put(Table::LogMeta, meta_key(COMMITTED), frame::seal(&committed)),
        Op::Nothing => {}
    }
}
