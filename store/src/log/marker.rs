//! Writes the durable mark behind the log: on a thread of its own in production, in place where there are no threads.

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
        let shared = Arc::new(Shared { noted: Mutex::new(noted), wake: Condvar::new(), soundness });
        let path = mark.path().to_path_buf();
        let running = Arc::clone(&shared);
        let spawned = std::thread::Builder::new().name("mark-writer".into()).spawn(move || running.run(mark));
        let thread = spawned.map_err(|error| StoreError::file("starting the mark's thread", &path, &error))?;
        Ok(Self::Thread { shared, thread: Some(thread) })
    }

    /// Says that a group is on the disk. Its mark is written at once; with a thread, this does not wait for it.
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
    fn run(&self, mut mark: Mark) {
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
            let written = mark.write(&row);
            let mut noted = self.lock();
            match written {
                Ok(()) => noted.marked = row.generation,
                Err(error) => {
                    // A page that could not be synced says nothing about the ones before it: the log stops as well.
                    self.soundness.fail(&error);
                    noted.broken = true;
                }
            }
            self.wake.notify_all();
            if noted.broken {
                return;
            }
        }
    }
}
