//! openraft's view of [`saltern_store::State`]: applies what is committed, and builds and installs snapshots.

use crate::raft::types::{Entry, LogId, Membership, SnapshotMeta, Types, Written, pack, unpack};
use crate::space::{Level, Space};
use futures::{Stream, StreamExt};
use openraft::alias::SnapshotOf;
use openraft::storage::{ApplyResponder, EntryResponder, RaftSnapshotBuilder, RaftStateMachine, Snapshot};
use openraft::{EntryPayload, OptionalSend};
use saltern_store::command::{Command, Effect, Reply};
use saltern_store::{AppliedEntry, Item, Payload, Snapshot as Files, Snapshots, State, StoreError};
use saltern_wire::Revision;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{broadcast, watch};

/// Entries that one batch carries into the state. What is ready goes together; nothing waits to fill it.
const APPLY_BATCH_MAX: usize = 256;

/// Pause before a snapshot for which there was no room is tried again: room is looked at as often.
const SNAPSHOT_RETRY: Duration = Duration::from_secs(5);

/// Bytes of entries that one batch carries into the state: readers wait for a batch, so it takes milliseconds.
const APPLY_BYTES_MAX: usize = 1024 * 1024;

/// Entries of a batch that is applied in place: waking another thread, twice, takes longer than they do.
const LIGHT_ENTRIES_MAX: usize = 4;

/// Bytes of such a batch.
const LIGHT_BYTES_MAX: usize = 16 * 1024;

/// Where long disk work runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskWork {
    /// On tokio's blocking threads: production.
    Threads,
    /// In place: the simulation, which has one thread.
    InPlace,
}

impl DiskWork {
    /// Runs `work` and waits for it.
    pub async fn run<T: Send + 'static>(self, work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
        match self {
            Self::InPlace => Ok(work()),
            Self::Threads => tokio::task::spawn_blocking(work).await.map_err(io::Error::other),
        }
    }
}

/// The state of this master, as openraft drives it.
#[derive(Clone)]
pub struct Machine {
    state: Arc<State>,
    snapshots: Arc<Snapshots>,
    disk_work: DiskWork,
    space: Space,
    /// Every applied entry with its effects, for whoever listens.
    effects: broadcast::Sender<Arc<AppliedEntry>>,
    /// Index of the newest applied entry.
    applied: watch::Sender<u64>,
}

/// Applied entries that a slow listener may lag behind before it is told to read the tables instead.
const EFFECTS_QUEUE: usize = 8192;

impl Machine {
    /// Over an open state.
    pub fn new(state: Arc<State>, snapshots: Arc<Snapshots>, disk_work: DiskWork, space: Space) -> Self {
        let applied = watch::Sender::new(state.applied_index());
        Self { state, snapshots, disk_work, space, effects: broadcast::Sender::new(EFFECTS_QUEUE), applied }
    }

    /// Hears of every entry that is applied from now on.
    pub fn effects(&self) -> broadcast::Receiver<Arc<AppliedEntry>> {
        self.effects.subscribe()
    }

    /// Follows the index of the newest applied entry.
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    /// The tables.
    pub fn state(&self) -> &Arc<State> {
        &self.state
    }

    /// Snapshots on this master's disk.
    pub fn snapshots(&self) -> &Arc<Snapshots> {
        &self.snapshots
    }

    /// The room on this master's disk.
    pub fn space(&self) -> &Space {
        &self.space
    }

    /// Where this master's long disk work runs.
    pub fn disk_work(&self) -> DiskWork {
        self.disk_work
    }

    /// Whether applying it takes some ten microseconds, for sure: it is small, forgets nothing, and the engine lets writes in.
    fn is_light(&self, batch: &[EntryResponder<Types>]) -> bool {
        let mut bytes = 0;
        let all = batch.len() <= LIGHT_ENTRIES_MAX
            && batch.iter().all(|(entry, _)| match &entry.payload {
                EntryPayload::Normal(logged) => {
                    bytes += logged.len();
                    logged.proposal().is_ok_and(|proposal| !matches!(proposal.command, Command::Tick))
                }
                EntryPayload::Blank | EntryPayload::Membership(_) => true,
            });
        all && bytes <= LIGHT_BYTES_MAX && !self.state.holds_writes()
    }

    fn apply_batch(&self, batch: Vec<EntryResponder<Types>>) -> io::Result<()> {
        let (entries, responders): (Vec<Entry>, Vec<Option<ApplyResponder<Types>>>) = batch.into_iter().unzip();
        let items = entries.iter().map(|entry| item(&self.state, entry)).collect::<io::Result<Vec<_>>>()?;
        let applied = self.state.apply(&items).map_err(io::Error::other)?;
        let Some(last) = applied.last().map(|entry| entry.index) else { return Ok(()) };
        // Before anybody is answered: whoever wrote finds its write applied and need not wait for it.
        self.applied.send_replace(last);
        for ((entry, responder), applied) in entries.iter().zip(responders).zip(applied) {
            if let Some(responder) = responder {
                let held = matches!(entry.payload, EntryPayload::Normal(_));
                let answer = held.then(|| applied.applied.clone());
                responder.send(Written { revision: Revision(applied.index), time: applied.time, applied: answer });
            }
            // Nobody listening is fine: effects are hints.
            let _ = self.effects.send(Arc::new(applied));
        }
        Ok(())
    }

    fn meta(&self) -> io::Result<(Option<LogId>, Membership)> {
        let position = self.state.position().map(|bytes| unpack(&bytes)).transpose().map_err(io::Error::other)?;
        let membership = self.state.membership().map(|bytes| unpack(&bytes)).transpose().map_err(io::Error::other)?;
        Ok((position, membership.unwrap_or_default()))
    }

    fn offer(files: Files) -> io::Result<SnapshotOf<Types, Files>> {
        let position = files.manifest.position.as_deref().map(unpack).transpose();
        let last_log_id = position.map_err(io::Error::other)?;
        let membership = files.manifest.membership.as_deref().map(unpack).transpose();
        let last_membership = membership.map_err(io::Error::other)?.unwrap_or_default();
        Ok(Snapshot { meta: SnapshotMeta { last_log_id, last_membership }, snapshot: files })
    }
}

/// A log entry as the store wants it. Its bytes are what was written (the log checks that), so that a command which does
/// not decode is one of a newer build: this master stops until it is upgraded.
pub(super) fn item(state: &State, entry: &Entry) -> io::Result<Item> {
    let index = entry.log_id.index();
    let payload = match &entry.payload {
        EntryPayload::Blank => Payload::Blank,
        EntryPayload::Membership(membership) => {
            let stored = Membership::new(Some(entry.log_id.clone()), membership.clone());
            Payload::Membership(pack(&stored))
        }
        EntryPayload::Normal(logged) => {
            let proposal = logged.proposal();
            Payload::Proposal(proposal.map_err(|error| io::Error::other(state.refuse_entry(index, &error)))?)
        }
    };
    Ok(Item { index, position: pack(&entry.log_id), payload })
}

/// Cuts what is ready into batches of bounded size, at least one entry each.
fn pieces(ready: Vec<EntryResponder<Types>>) -> Vec<Vec<EntryResponder<Types>>> {
    let (mut pieces, mut bytes) = (Vec::<Vec<_>>::new(), 0_usize);
    for (entry, responder) in ready {
        let len = match &entry.payload {
            EntryPayload::Normal(logged) => logged.len(),
            EntryPayload::Blank | EntryPayload::Membership(_) => 0,
        };
        bytes += len;
        match pieces.last_mut().filter(|_| bytes <= APPLY_BYTES_MAX) {
            Some(piece) => piece.push((entry, responder)),
            None => {
                pieces.push(vec![(entry, responder)]);
                bytes = len;
            }
        }
    }
    pieces
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = Files;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, Membership), io::Error> {
        self.meta()
    }

    async fn apply<Strm>(&mut self, entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        let mut batches = entries.ready_chunks(APPLY_BATCH_MAX);
        while let Some(batch) = batches.next().await {
            for piece in pieces(batch.into_iter().collect::<io::Result<_>>()?) {
                if self.is_light(&piece) {
                    self.apply_batch(piece)?;
                    continue;
                }
                let machine = self.clone();
                // Decoding, hashing and a stalled write take their time where nobody else waits: the core's task and the links
                // to other masters share the runtime's few threads.
                self.disk_work.run(move || machine.apply_batch(piece)).await??;
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(&mut self, _meta: &SnapshotMeta, files: Files) -> Result<(), io::Error> {
        let (state, snapshots) = (Arc::clone(&self.state), Arc::clone(&self.snapshots));
        self.disk_work.run(move || snapshots.install(&state, &files)).await?.map_err(io::Error::other)?;
        self.applied.send_replace(self.state.applied_index());
        let (revision, time) = (self.state.revision(), self.state.time());
        let effects = vec![Effect::Replaced];
        // Nobody may be listening yet.
        let _ = self.effects.send(Arc::new(AppliedEntry {
            index: revision.0,
            revision,
            time,
            applied: Ok(Reply::Done),
            effects,
        }));
        tracing::info!(index = self.state.applied_index(), "installed a snapshot");
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<SnapshotOf<Types, Files>>, io::Error> {
        self.snapshots.current().map(Self::offer).transpose()
    }
}

impl RaftSnapshotBuilder<Types> for Machine {
    type SnapshotData = Files;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<Types, Files>, io::Error> {
        loop {
            // It costs room before the log that it covers gives some back.
            self.space.wait_for(Level::Short).await;
            let (state, snapshots) = (Arc::clone(&self.state), Arc::clone(&self.snapshots));
            match self.disk_work.run(move || snapshots.create(&state)).await? {
                Ok(files) => return Self::offer(files),
                // An error would end the core, and nothing is lost without this snapshot: the log is kept meanwhile.
                Err(error @ (StoreError::Full { .. } | StoreError::Descriptors { .. })) => {
                    tracing::warn!(%error, "no snapshot was made; trying again");
                    tokio::time::sleep(SNAPSHOT_RETRY).await;
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
    }
}
