//! The one that writes: a queue of operations, taken in groups, each group one batch and at most one sync.

use super::{Done, FlushBy, LogEntry, Tail};
use crate::error::StoreError;
use crate::frame;
use crate::kv::{Batch, Kv, Table};
use crate::table;
use saltern_wire::fault_point;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Name of the vote's record.
pub(super) const VOTE: &str = "vote";
/// Name of the committed position's record.
pub(super) const COMMITTED: &str = "committed";
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

/// What callers and the thread share.
pub(super) struct Queue<E> {
    pub(super) tail: Tail<E>,
    pub(super) syncs: u64,
    waiting: Vec<Queued>,
    number: u64,
    closing: bool,
}

impl<E> Queue<E> {
    /// The number of the operation that is queued next.
    pub(super) fn next_number(&self) -> u64 {
        self.number + 1
    }
}

struct Shared<E> {
    kv: Arc<dyn Kv>,
    dir: PathBuf,
    queue: Mutex<Queue<E>>,
    wake: Condvar,
}

/// Owns the thread, if there is one.
pub(super) struct Writer<E: LogEntry> {
    shared: Arc<Shared<E>>,
    thread: Option<JoinHandle<()>>,
}

impl<E: LogEntry> Writer<E> {
    pub(super) fn start(kv: Arc<dyn Kv>, dir: &Path, tail: Tail<E>, flush: FlushBy) -> Result<Arc<Self>, StoreError> {
        let queue = Queue { tail, syncs: 0, waiting: Vec::new(), number: 0, closing: false };
        let shared = Arc::new(Shared { kv, dir: dir.into(), queue: Mutex::new(queue), wake: Condvar::new() });
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

    pub(super) fn lock(&self) -> MutexGuard<'_, Queue<E>> {
        self.shared.lock()
    }

    /// Queues `op`. The caller has put its effect into the tail under the same lock.
    pub(super) fn queue(&self, mut queue: MutexGuard<'_, Queue<E>>, op: Op, synced: bool, done: Option<Done>) {
        queue.number += 1;
        let number = queue.number;
        queue.waiting.push(Queued { op, number, synced, done });
        if self.thread.is_some() {
            drop(queue);
            self.shared.wake.notify_one();
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
                while queue.waiting.is_empty() && !queue.closing {
                    queue = self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
                }
                if queue.waiting.is_empty() {
                    return;
                }
                std::mem::take(&mut queue.waiting)
            };
            if let Err(error) = self.write(group) {
                // What is on the disk now, nobody knows: acknowledging anything more could lose it.
                tracing::error!(%error, dir = %self.dir.display(), "the log cannot be written, aborting");
                std::process::abort();
            }
        }
    }

    /// Writes and syncs one group and calls back, in order.
    fn write(&self, group: Vec<Queued>) -> Result<(), StoreError> {
        let synced = group.iter().any(|queued| queued.synced);
        let number = group.last().map_or(0, |queued| queued.number);
        let mut batch = Batch::default();
        let mut callbacks = Vec::with_capacity(group.len());
        for queued in group {
            add(&mut batch, queued.op);
            callbacks.extend(queued.done);
        }
        if let Err(error) = self.put_down(batch, synced) {
            let text = error.to_string();
            callbacks.into_iter().for_each(|done| done(Err(std::io::Error::other(text.clone()))));
            return Err(error);
        }
        {
            let mut queue = self.lock();
            queue.syncs += u64::from(synced);
            queue.tail.evict(number);
        }
        callbacks.into_iter().for_each(|done| done(Ok(())));
        Ok(())
    }

    /// Writes one group and, if any of it asks for that, waits for the disk.
    fn put_down(&self, batch: Batch, synced: bool) -> Result<(), StoreError> {
        fault_point!("log.append.before", cause => {
            return Err(StoreError::Engine { doing: "writing", path: self.dir.clone(), cause });
        });
        self.kv.write(batch)?;
        fault_point!("log.append.after");
        if synced {
            fault_point!("log.sync.before", cause => {
                return Err(StoreError::Engine { doing: "syncing", path: self.dir.clone(), cause });
            });
            self.kv.sync()?;
            fault_point!("log.sync.after");
        }
        Ok(())
    }
}

fn add(batch: &mut Batch, op: Op) {
    let meta = |name: &str| table::key(&[name.as_bytes()]);
    match op {
        Op::Append(rows) => {
            for (index, row) in rows {
                batch.put(Table::Log, table::log_key(index), row);
            }
        }
        Op::Truncate { from } => batch.delete_range(Table::Log, table::log_key(from), table::log_end()),
        Op::Purge { upto, position } => {
            let row = [&upto.to_be_bytes(), position.as_slice()].concat();
            batch.put(Table::LogMeta, meta(PURGED), frame::seal(&row));
            batch.delete_range(Table::Log, table::log_key(0), table::log_key(upto.saturating_add(1)));
        }
        Op::Vote(vote) => batch.put(Table::LogMeta, meta(VOTE), frame::seal(&vote)),
        Op::Committed(committed) => batch.put(Table::LogMeta, meta(COMMITTED), frame::seal(&committed)),
        Op::Nothing => {}
    }
}
