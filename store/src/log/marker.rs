//! Writes the durable mark behind the log: beside its next group on a thread of its own, at once where nothing follows, and
//! in place where there are no threads.
//!
//! **Invariant.** What is marked never goes back: whoever has the file writes only what is newer.

use super::FlushBy;
use crate::error::StoreError;
use crate::mark::{Mark, MarkRow};
use crate::sound::Soundness;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Owns the mark and its thread, if there is one. Dropped, it marks what was noted last and ends.
pub(super) enum Marker {
    Caller(Mutex<Mark>),
    Thread { shared: Arc<Shared>, thread: Option<JoinHandle<()>> },
}

pub(super) struct Shared {
    mark: Mutex<Mark>,
    noted: Mutex<Noted>,
    wake: Condvar,
    soundness: Soundness,
}

struct Noted {
    /// The newest synced group that is not marked.
    wanted: Option<MarkRow>,
    /// The newest group that is marked.
    marked: u64,
    broken: bool,
    closing: bool,
}

impl Marker {
    /// `marked` is the group that the mark holds already.
    pub(super) fn start(mark: Mark, marked: u64, flush: FlushBy, soundness: Soundness) -> Result<Self, StoreError> {
        if flush == FlushBy::Caller {
            return Ok(Self::Caller(Mutex::new(mark)));
        }
        let noted = Noted { wanted: None, marked, broken: false, closing: false };
        let path = mark.path().to_path_buf();
        let shared =
            Arc::new(Shared { mark: Mutex::new(mark), noted: Mutex::new(noted), wake: Condvar::new(), soundness });
        let running = Arc::clone(&shared);
        let spawned = std::thread::Builder::new().name("mark-writer".into()).spawn(move || running.run());
        let thread = spawned.map_err(|error| StoreError::file("starting the mark's thread", &path, &error))?;
        Ok(Self::Thread { shared, thread: Some(thread) })
    }

    /// Whether marks may be written beside other work.
    pub(super) fn has_thread(&self) -> bool {
        matches!(self, Self::Thread { .. })
    }

    /// Says that a group is on the disk. With a thread, its mark is written at once, and this does not wait for it.
    pub(super) fn note(&self, row: &MarkRow) -> Result<(), StoreError> {
        match self {
            Self::Caller(mark) => mark.lock().unwrap_or_else(PoisonError::into_inner).write(row),
            Self::Thread { shared, .. } => {
                shared.lock().wanted = Some(row.clone());
                shared.wake.notify_all();
                Ok(())
            }
        }
    }

    /// Marks a group that is on the disk, here. Where the thread is at it, it goes on with this one.
    pub(super) fn mark(&self, row: &MarkRow) -> Result<(), StoreError> {
        let Self::Thread { shared, .. } = self else { return self.note(row) };
        let Ok(mark) = shared.mark.try_lock() else { return self.note(row) };
        shared.write(mark, row)
    }

    /// Waits until `generation` or a later one is marked. This is what bounds how far the mark may lag.
    pub(super) fn wait(&self, generation: u64) -> Result<(), StoreError> {
        let Self::Thread { shared, .. } = self else { return Ok(()) };
        let mut noted = shared.lock();
        while noted.marked < generation && !noted.broken {
            noted = shared.wake.wait(noted).unwrap_or_else(PoisonError::into_inner);
        }
        if noted.broken { Err(StoreError::Broken) } else { Ok(()) }
    }
}

impl Drop for Marker {
    fn drop(&mut self) {
        let Self::Thread { shared, thread } = self else { return };
        shared.lock().closing = true;
        shared.wake.notify_all();
        if thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the mark's thread ended by a panic");
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Noted> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread: marks the newest group that was noted, until it is told to end and nothing is left to mark.
    fn run(&self) {
        loop {
            let row = {
                let mut noted = self.lock();
                while noted.wanted.is_none() && !noted.closing {
                    noted = self.wake.wait(noted).unwrap_or_else(PoisonError::into_inner);
                }
                match noted.wanted.take() {
                    Some(row) => row,
                    None => return,
                }
            };
            let mark = self.mark.lock().unwrap_or_else(PoisonError::into_inner);
            let written = self.write(mark, &row);
            self.wake.notify_all();
            if written.is_err() {
                return;
            }
        }
    }

    /// Writes and syncs the mark, unless a newer one stands there.
    fn write(&self, mut mark: MutexGuard<'_, Mark>, row: &MarkRow) -> Result<(), StoreError> {
        if self.lock().marked >= row.generation {
            return Ok(());
        }
        let written = mark.write(row);
        let mut noted = self.lock();
        match &written {
            Ok(()) => noted.marked = row.generation,
            Err(error) => {
                // A page that could not be synced says nothing about the ones before it: the log stops as well.
                self.soundness.fail(error);
                noted.broken = true;
            }
        }
        written
    }
}
