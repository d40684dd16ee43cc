//! A running job as a stream: what is recorded, then what is applied from now on, `Done` at the end.
//!
//! **Invariants.** The subscription begins before the tables are read, so nothing falls between them; what comes twice for
//! that reason is told once. A minion's return is told once; that it is missing at most once, and never after its return.

use crate::presence::Presence;
use crate::replica::Replica;
use crate::watch::view::{directory_of, missing, return_view};
use futures::Stream;
use saltern_store::command::Effect;
use saltern_store::{AppliedEntry, StoreError};
use saltern_wire::api::JobEvent;
use saltern_wire::job::{Progress, ReturnRecord};
use saltern_wire::master::Directory;
use saltern_wire::{JobId, LogicalTime, MinionId, Ordinal, Revision};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

/// What a watcher was told of one minion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Missing,
    Returned,
}

/// What is to be told next. Of a return that is recorded only its number is kept: a job's returns together may be longer than
/// memory, and a watcher reads as slowly as it likes.
enum Telling {
    Event(JobEvent),
    Recorded(Ordinal),
}

struct Follower {
    replica: Arc<dyn Replica>,
    presence: Presence,
    jid: JobId,
    opened: LogicalTime,
    directory: Option<Directory>,
    effects: broadcast::Receiver<Arc<AppliedEntry>>,
    names: BTreeMap<Ordinal, MinionId>,
    told: BTreeMap<Ordinal, Told>,
    queue: VecDeque<Telling>,
    done: bool,
}

/// Follows the job `jid`; `None` if the truth has no such job here.
pub fn follow(
    replica: Arc<dyn Replica>,
    presence: Presence,
    jid: JobId,
) -> Result<Option<impl Stream<Item = JobEvent> + Send + 'static>, StoreError> {
    let effects = replica.subscribe();
    let mut follower = Follower {
        replica,
        presence,
        jid,
        opened: LogicalTime::ZERO,
        directory: None,
        effects,
        names: BTreeMap::new(),
        told: BTreeMap::new(),
        queue: VecDeque::new(),
        done: false,
    };
    if !follower.replay()? {
        return Ok(None);
    }
    let next = |mut follower: Follower| async move { follower.next().await.map(|event| (event, follower)) };
    Ok(Some(futures::stream::unfold(follower, next)))
}

impl Follower {
    async fn next(&mut self) -> Option<JobEvent> {
        loop {
            match self.queue.pop_front() {
                Some(Telling::Event(event)) => return Some(event),
                Some(Telling::Recorded(ordinal)) => match self.replica.state().return_of(&self.jid, ordinal) {
                    Ok(Some(record)) => {
                        let view = return_view(&record, self.directory.as_ref());
                        return Some(JobEvent::Return { minion: record.minion, view });
                    }
                    // Purged meanwhile, with its job.
                    Ok(None) => continue,
                    Err(error) => {
                        tracing::error!(jid = %self.jid, %error, "a return cannot be read");
                        return None;
                    }
                },
                None => {}
            }
            if self.done {
                return None;
            }
            let missed = match self.effects.recv().await {
                Ok(entry) => self.handle_entry(&entry),
                Err(RecvError::Lagged(_)) => true,
                Err(RecvError::Closed) => return None,
            };
            if missed {
                match self.replay() {
                    Ok(true) => {}
                    Ok(false) => return None,
                    Err(error) => {
                        tracing::error!(jid = %self.jid, %error, "a job cannot be read");
                        return None;
                    }
                }
            }
        }
    }

    /// Tells what the tables hold and was not told yet. False if the job is not there.
    fn replay(&mut self) -> Result<bool, StoreError> {
        let state = Arc::clone(self.replica.state());
        let revision = self.replica.revision();
        // Read first: whatever is recorded once the job is done is in the answers read after it.
        let Some(held) = state.job(&self.jid)? else { return Ok(false) };
        self.opened = held.opened;
        self.directory = directory_of(&state);
        let standing = state.progress(&self.jid)?;
        for (ordinal, minion, progress) in standing {
            let recorded = matches!(progress, Progress::Returned | Progress::Failed | Progress::Interrupted);
            if recorded && self.told.insert(ordinal, Told::Returned) != Some(Told::Returned) {
                self.queue.push_back(Telling::Recorded(ordinal));
            }
            self.names.insert(ordinal, minion);
            self.handle_settled(ordinal, progress);
        }
        if held.done.is_some() {
            self.finish(revision);
        } else {
            self.handle_batch();
        }
        Ok(true)
    }

    /// Says whether the tables have to be read anew.
    fn handle_entry(&mut self, entry: &AppliedEntry) -> bool {
        let mut replaced = false;
        for effect in &entry.effects {
            match effect {
                Effect::Replaced => replaced = true,
                Effect::Returned { record } if record.jid == self.jid => self.handle_return(record),
                Effect::Settled { jid, ordinal, progress } if *jid == self.jid => {
                    self.handle_settled(*ordinal, *progress);
                }
                Effect::Released { jid, .. } | Effect::JobStands { jid, .. } if *jid == self.jid => self.handle_batch(),
                Effect::JobDone { jid } if *jid == self.jid => self.finish(entry.revision),
                Effect::Returned { .. }
                | Effect::Settled { .. }
                | Effect::JobDone { .. }
                | Effect::Key { .. }
                | Effect::JobOpened { .. }
                | Effect::Released { .. }
                | Effect::JobStands { .. }
                | Effect::JobAccepted { .. }
                | Effect::Facts { .. }
                | Effect::Mine { .. }
                | Effect::Directory { .. }
                | Effect::Settings { .. } => {}
            }
        }
        replaced
    }

    fn handle_return(&mut self, record: &ReturnRecord) {
        if self.told.insert(record.ordinal, Told::Returned) != Some(Told::Returned) {
            let view = return_view(record, self.directory.as_ref());
            self.queue.push_back(Telling::Event(JobEvent::Return { minion: record.minion.clone(), view }));
        }
    }

    fn handle_settled(&mut self, ordinal: Ordinal, progress: Progress) {
        match progress {
            Progress::Expired | Progress::Unreachable | Progress::Cancelled | Progress::Skipped | Progress::Killed => {}
            Progress::Waiting | Progress::Accepted | Progress::Held => return,
            // Told with the return itself.
            Progress::Returned | Progress::Failed | Progress::Interrupted => return,
        }
        let Some(minion) = self.names.get(&ordinal) else { return };
        if let Entry::Vacant(untold) = self.told.entry(ordinal) {
            untold.insert(Told::Missing);
            let missing = missing(self.replica.state(), &self.presence, minion.clone(), progress, self.opened);
            self.queue.push_back(Telling::Event(JobEvent::Missing(missing)));
        }
    }

    /// Says how far a rolling job is. What waits to be told of that already is told newer: a reader that is slow hears the last.
    fn handle_batch(&mut self) {
        let Some(batch) = self.replica.state().batch_of(&self.jid) else { return };
        if let Some(Telling::Event(JobEvent::Batch(last))) = self.queue.back_mut() {
            *last = batch;
            return;
        }
        self.queue.push_back(Telling::Event(JobEvent::Batch(batch)));
    }

    fn finish(&mut self, revision: Revision) {
        if !self.done {
            self.done = true;
            self.queue.push_back(Telling::Event(JobEvent::Done { revision }));
        }
    }
}
