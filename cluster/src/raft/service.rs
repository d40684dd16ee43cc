//! The receiving side of Raft's messages.

use crate::mesh::message::{RaftCall, Response};
use crate::raft::group::Heard;
use crate::raft::machine::{DiskWork, Machine};
use crate::raft::meters::Meters;
use crate::raft::types::{Raft, SnapshotMeta, Types, Vote, pack, unpack};
use crate::space::{Level, Space};
use bytes::Bytes;
use futures::StreamExt;
use openraft::async_runtime::WatchReceiver;
use openraft::raft::{AppendEntriesRequest, StreamAppendResult, TransferLeaderRequest, VoteRequest};
use openraft::storage::Snapshot;
use saltern_store::{Manifest, Receiving, Snapshots, StoreError};
use saltern_wire::MasterId;
use saltern_wire::io::{Link, LinkReceiver};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Requests of an append stream that wait for the core. openraft buffers as many again.
const APPENDS_QUEUED_MAX: usize = 64;

/// How long a leader waits for the refusal of a stream of entries by a disk that is spent.
const SPENT_PAUSE: Duration = Duration::from_secs(1);

/// Answers other masters' Raft messages.
pub struct RaftService {
    raft: Raft,
    snapshots: Arc<Snapshots>,
    disk_work: DiskWork,
    space: Space,
    meters: Arc<Meters>,
    /// Snapshots on their way here, by sender. A leader sends one at a time.
    receiving: Mutex<BTreeMap<MasterId, Arc<Receiving>>>,
    /// When a leader was heard, and how long a silence may be that is no gap.
    heard: watch::Sender<Heard>,
    silence_max: Duration,
    clock: Arc<dyn saltern_wire::io::Clock>,
}

impl RaftService {
    /// For a running core.
    pub fn new(
        raft: Raft,
        machine: &Machine,
        clock: Arc<dyn saltern_wire::io::Clock>,
        meters: Arc<Meters>,
        (heard, silence_max): (watch::Sender<Heard>, Duration),
    ) -> Self {
        let (snapshots, disk_work) = (Arc::clone(machine.snapshots()), machine.disk_work());
        let space = machine.space().clone();
        let receiving = Mutex::default();
        Self { raft, snapshots, disk_work, space, meters, receiving, heard, silence_max, clock }
    }

    /// Refuses what would go onto a disk that is spent. Heartbeats are not concerned.
    fn require_room(&self) -> Result<(), String> {
        let room = self.space.room();
        if room.level() == Level::Spent { Err(room.to_string()) } else { Ok(()) }
    }

    /// Whether `master` is a member of the group, as far as this member's log says. The log knows its members from the first
    /// moment on, when the truth, which is applied later, may not know them yet.
    pub fn is_member(&self, master: MasterId) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        metrics.membership_config.membership().get_node(&master.0).is_some()
    }

    /// Answers one message.
    pub async fn answer(&self, from: MasterId, call: RaftCall) -> Response {
        match self.try_answer(from, call).await {
            Ok(response) => response,
            Err(cause) => Response::Failed(cause),
        }
    }

    async fn try_answer(&self, from: MasterId, call: RaftCall) -> Result<Response, String> {
        match call {
            RaftCall::Append(bytes) => {
                let rpc: AppendEntriesRequest<Types> = unpack(&bytes)?;
                if !rpc.entries.is_empty() {
                    self.require_room()?;
                }
                let answer = self.raft.append_entries(rpc).await.map_err(text)?;
                if answer.is_success() {
                    self.hear();
                }
                reply(&answer)
            }
            RaftCall::Vote(bytes) => {
                let rpc: VoteRequest<Types> = unpack(&bytes)?;
                reply(&self.raft.vote(rpc).await.map_err(text)?)
            }
            RaftCall::PreVote(bytes) => {
                let rpc: VoteRequest<Types> = unpack(&bytes)?;
                reply(&self.raft.pre_vote(rpc).await.map_err(text)?)
            }
            RaftCall::TransferLeader(bytes) => {
                let rpc: TransferLeaderRequest<Types> = unpack(&bytes)?;
                reply(&self.raft.handle_transfer_leader(rpc).await.map_err(text)?)
            }
            RaftCall::SnapshotBegin(manifest) => self.begin(from, manifest).await,
            RaftCall::SnapshotChunk { file, offset, data } => self.chunk(from, file, offset, data).await,
            RaftCall::SnapshotFinish { vote, meta } => self.finish(from, &vote, &meta).await,
        }
    }

    fn hear(&self) {
        let now = self.clock.monotonic();
        // Whoever waits for it waits for the end of a gap; the newest time is only looked at.
        self.heard.send_if_modified(|heard| heard.note(now, self.silence_max));
    }

    async fn begin(&self, from: MasterId, manifest: Vec<u8>) -> Result<Response, String> {
        let manifest = Manifest::decode(&manifest).map_err(text)?;
        let (room, bytes) = (self.space.room(), manifest.files.iter().map(|file| file.len).sum::<u64>());
        if room.free_bytes.saturating_sub(bytes) < room.reserve_bytes / 2 {
            return Err(format!("a snapshot of {bytes} bytes does not fit: {room}"));
        }
        let (id, all) = (manifest.id.clone(), manifest.bytes());
        let snapshots = Arc::clone(&self.snapshots);
        let begin = move || {
            let receiving = snapshots.receive(manifest)?;
            let missing = receiving.missing()?;
            Ok::<_, StoreError>((receiving, missing))
        };
        let (receiving, missing) = self.disk_work.run(begin).await.map_err(text)?.map_err(text)?;
        let lacking = missing.iter().map(|piece| piece.len).sum::<u64>();
        let kept = all.saturating_sub(lacking);
        self.meters.kept(kept);
        tracing::info!(%from, id, bytes = all, here_already = kept, files_missing = missing.len(), "receiving a snapshot");
        self.receiving().insert(from, Arc::new(receiving));
        Ok(Response::SnapshotMissing(missing.into_iter().map(|piece| (piece.file, piece.offset)).collect()))
    }

    async fn chunk(&self, from: MasterId, file: String, offset: u64, data: Vec<u8>) -> Result<Response, String> {
        let receiving = self.receiving().get(&from).cloned().ok_or("no snapshot was announced")?;
        let len = data.len() as u64;
        let write = move || receiving.write_chunk(&file, offset, &data);
        self.disk_work.run(write).await.map_err(text)?.map_err(text)?;
        self.meters.received(len);
        self.hear();
        Ok(Response::Done)
    }

    fn receiving(&self) -> MutexGuard<'_, BTreeMap<MasterId, Arc<Receiving>>> {
        self.receiving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn finish(&self, from: MasterId, vote: &[u8], meta: &[u8]) -> Result<Response, String> {
        let vote: Vote = unpack(vote)?;
        let meta: SnapshotMeta = unpack(meta)?;
        let receiving = self.receiving().remove(&from).ok_or("no snapshot was announced")?;
        let snapshot = self.disk_work.run(move || receiving.finish()).await.map_err(text)?.map_err(text)?;
        let answer = self.raft.install_full_snapshot(vote, Snapshot { meta, snapshot }).await.map_err(text)?;
        self.hear();
        reply(&answer.vote)
    }

    /// Serves an append stream until its connection closes. After a refused append the sender starts afresh on the same
    /// connection, with nothing on its way; so does this side.
    pub async fn replicate(&self, from: MasterId, link: Link) {
        let Link { mut sender, mut receiver, .. } = link;
        loop {
            if let Err(cause) = self.require_room() {
                // The leader tries again at once; this is how often.
                tracing::debug!(%from, cause, "entries are not taken");
                return tokio::time::sleep(SPENT_PAUSE).await;
            }
            let (queue, requests) = mpsc::channel(APPENDS_QUEUED_MAX);
            let requests = tokio_stream(requests);
            let results = self.raft.stream_append(requests);
            tokio::pin!(results);
            loop {
                tokio::select! {
                    result = results.next() => match result {
                        Some(Ok(result)) => {
                            let refused = result.is_err();
                            if !refused {
                                self.hear();
                            }
                            if sender.send(Bytes::from(pack::<StreamAppendResult<Types>>(&result))).await.is_err() {
                                return;
                            }
                            if refused {
                                break;
                            }
                        }
                        Some(Err(error)) => {
                            tracing::error!(%error, "the Raft core stopped while appending");
                            return;
                        }
                        None => return,
                    },
                    request = next_request(&mut receiver, &queue) => match request {
                        Ok(()) if self.space.level() == Level::Spent => return tokio::time::sleep(SPENT_PAUSE).await,
                        Ok(()) => {}
                        Err(cause) => {
                            tracing::debug!(%from, cause, "an append stream ended");
                            return;
                        }
                    }
                }
            }
        }
    }
}

/// Takes one request from the wire to the queue. Room in the queue is awaited first, so that cancelling loses nothing.
async fn next_request(
    receiver: &mut Box<dyn LinkReceiver>,
    queue: &mpsc::Sender<AppendEntriesRequest<Types>>,
) -> Result<(), String> {
    let room = queue.reserve().await.map_err(text)?;
    let message = receiver.recv().await.map_err(text)?;
    room.send(unpack(&message)?);
    Ok(())
}

fn tokio_stream<T: Send + 'static>(receiver: mpsc::Receiver<T>) -> impl futures::Stream<Item = T> + Send + 'static {
    futures::stream::unfold(receiver, |mut receiver| async move { Some((receiver.recv().await?, receiver)) })
}

fn reply<T: Serialize + DeserializeOwned + Clone>(value: &T) -> Result<Response, String> {
    Ok(Response::Raft(pack(value)))
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
