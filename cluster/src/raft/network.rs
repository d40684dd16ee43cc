//! How openraft reaches one other master: append streams on a connection of their own, heartbeats and votes on a second,
//! snapshots on a third.

use crate::mesh::message::{Channel, RaftCall, Request, Response};
use crate::mesh::{DIAL_WITHIN, Mesh, MeshError};
use crate::raft::machine::Machine;
use crate::raft::meters::Meters;
use crate::raft::shipping::{ShipError, Shipment};
use crate::raft::types::{Types, Vote, pack, unpack};
use bytes::Bytes;
use futures::{Stream, StreamExt};
use openraft::alias::SnapshotOf;
use openraft::base::{BoxFuture, BoxStream};
use openraft::error::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{AnyError, OptionalSend};
use saltern_store::Snapshot as Files;
use saltern_wire::MasterId;
use saltern_wire::io::{Clock, Link};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinHandle;

/// Appends that are on their way at one time. Enough to keep a 200 ms road busy with full messages.
const APPENDS_IN_FLIGHT_MAX: usize = 64;

/// Pause before an unreachable master is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// An append stream is given up when the peer acknowledges nothing for so long while something is in flight.
const STREAM_SILENCE_MAX: Duration = Duration::from_secs(3);

/// How long the peer may be silent on a connection that is kept although nobody waits for its answer any more: as long as
/// dialling another one may take.
const SILENCE_KEPT: Duration = DIAL_WITHIN;

/// Makes a [`Network`] per peer.
#[derive(Clone)]
pub struct NetworkFactory {
    mesh: Arc<Mesh>,
    machine: Machine,
    clock: Arc<dyn Clock>,
    meters: Arc<Meters>,
}

impl NetworkFactory {
    /// Over a mesh, for the snapshots of `machine`.
    pub fn new(mesh: Arc<Mesh>, machine: Machine, clock: Arc<dyn Clock>, meters: Arc<Meters>) -> Self {
        Self { mesh, machine, clock, meters }
    }
}

impl RaftNetworkFactory<Types> for NetworkFactory {
    type Network = Network;

    async fn new_client(&mut self, target: u64, node: &openraft::impls::BasicNode) -> Network {
        let to = MasterId(target);
        match node.addr.parse() {
            Ok(address) => self.mesh.learn_member(to, address),
            Err(error) => tracing::warn!(%to, %error, "the group holds an address that is none"),
        }
        let Self { mesh, machine, clock, meters } = self.clone();
        Network { to, mesh, machine, clock, meters, is_heartbeat: false, stream: Mutex::new(None), dialling: None }
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &openraft::impls::BasicNode) -> Network {
        // Every client has a connection of its own: entries never stand before a heartbeat.
        Network { is_heartbeat: true, ..self.new_client(target, node).await }
    }
}

/// The road to one other master.
pub struct Network {
    to: MasterId,
    mesh: Arc<Mesh>,
    machine: Machine,
    clock: Arc<dyn Clock>,
    meters: Arc<Meters>,
    /// Whether nothing but heartbeats travels here.
    is_heartbeat: bool,
    /// Kept across append streams: openraft opens a new one after every probe.
    /// The mutex is never locked: it only makes the link shareable in type.
    stream: Mutex<Option<Held>>,
    /// The next link, on its way. openraft gives a heartbeat up after one interval, and dialling over a long way takes longer:
    /// what was begun for one heartbeat is there for the next.
    dialling: Option<JoinHandle<Result<Link, MeshError>>>,
}

fn unreachable(error: &dyn std::error::Error) -> Unreachable<Types> {
    Unreachable::new(&AnyError::error(error.to_string()))
}

fn broken(cause: impl std::fmt::Display) -> NetworkError<Types> {
    NetworkError::new(&AnyError::error(cause.to_string()))
}

fn call_error(error: &MeshError) -> RPCError<Types> {
    match error {
        MeshError::Stranger(_) | MeshError::Unreachable { .. } => RPCError::Unreachable(unreachable(error)),
        MeshError::Unanswered { .. } => RPCError::Network(broken(error)),
    }
}

fn stream_error(error: RPCError<Types>) -> StreamingError<Types> {
    match error {
        RPCError::Timeout(error) => error.into(),
        RPCError::Unreachable(error) => error.into(),
        RPCError::Network(error) => error.into(),
        RPCError::RemoteError(error) => broken(error).into(),
    }
}

impl Network {
    /// A link of its own for a stream. Cancel safe: dialling goes on, and the next call takes what it brings.
    async fn dial(&mut self, within: Duration) -> Result<Link, RPCError<Types>> {
        let dialling = self.dialling.get_or_insert_with(|| {
            let (mesh, to) = (Arc::clone(&self.mesh), self.to);
            // It ends by itself, whether or not somebody still waits.
            tokio::spawn(async move { mesh.open(to, Channel::Replicate, within).await })
        });
        let dialled = dialling.await;
        self.dialling = None;
        match dialled {
            Ok(link) => link.map_err(|error| call_error(&error)),
            Err(error) => Err(broken(format!("dialling ended early: {error}")).into()),
        }
    }

    async fn call<Q, A>(&self, wrap: fn(Vec<u8>) -> RaftCall, rpc: &Q, within: Duration) -> Result<A, RPCError<Types>>
    where
        Q: Serialize + DeserializeOwned + Clone,
        A: Serialize + DeserializeOwned,
    {
        let request = Request::Raft(wrap(pack(rpc)));
        let response = self.mesh.ask(self.to, Channel::Control, &request, within).await.map_err(|e| call_error(&e))?;
        match response {
            Response::Raft(bytes) => unpack(&bytes).map_err(|cause| broken(cause).into()),
            other => Err(broken(format!("unexpected reply {other:?}")).into()),
        }
    }

    async fn send_snapshot(
        &self,
        vote: &Vote,
        snapshot: SnapshotOf<Types, Files>,
    ) -> Result<Vote, StreamingError<Types>> {
        let finish = RaftCall::SnapshotFinish { vote: pack(vote), meta: pack(&snapshot.meta) };
        let Self { to, mesh, machine, clock, meters, .. } = self;
        let (files, pace) = (&snapshot.snapshot, Mutex::default());
        let shipped = Shipment { to: *to, mesh, machine, clock, meters, files, pace }.ship(finish).await;
        let bytes = shipped.map_err(|error| match error {
            ShipError::Mesh(error) => stream_error(call_error(&error)),
            ShipError::Refused(_) | ShipError::Store(_) | ShipError::Thread(_) => broken(error).into(),
        })?;
        unpack(&bytes).map_err(|cause| broken(cause).into())
    }
}

impl RaftNetworkV2<Types> for Network {
    type SnapshotData = Files;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        self.call(RaftCall::Append, &rpc, option.soft_ttl()).await
    }

    fn stream_append<'s, S>(
        &'s mut self,
        mut input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Result<StreamAppendResult<Types>, RPCError<Types>>>, RPCError<Types>>>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            let Self { clock, meters, is_heartbeat, .. } = &*self;
            let (clock, meters, is_heartbeat) = (Arc::clone(clock), Arc::clone(meters), *is_heartbeat);
            let pulse = Pulse { clock, meters, is_heartbeat, beats: VecDeque::new() };
            if self.stream.get_mut().unwrap_or_else(PoisonError::into_inner).is_some() {
                let slot = self.stream.get_mut().unwrap_or_else(PoisonError::into_inner);
                let stream: BoxStream<'s, _> = Box::pin(pipeline(slot, input, pulse));
                return Ok(stream);
            }
            // openraft waits out its back-off inside the stream of requests, before the first: whoever dials without asking
            // for one calls a master that refuses connections again and again without any pause.
            let Some(first) = input.next().await else {
                let nothing: BoxStream<'s, _> = Box::pin(futures::stream::empty());
                return Ok(nothing);
            };
            let link = self.dial((option.hard_ttl() * 4).max(DIAL_WITHIN)).await?;
            let slot = self.stream.get_mut().unwrap_or_else(PoisonError::into_inner);
            *slot = Some(Held { link, owed: 0, heard: self.clock.monotonic() });
            let stream: BoxStream<'s, _> = Box::pin(pipeline(slot, futures::stream::iter([first]).chain(input), pulse));
            Ok(stream)
        })
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.call(RaftCall::Vote, &rpc, option.soft_ttl()).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.call(RaftCall::PreVote, &rpc, option.soft_ttl()).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: SnapshotOf<Types, Files>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        tokio::select! {
            sent = self.send_snapshot(&vote, snapshot) => sent.map(SnapshotResponse::new),
            closed = cancel => Err(closed.into()),
        }
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        self.call(RaftCall::TransferLeader, &req, option.hard_ttl() * 4).await
    }

    fn backoff(&self) -> Option<Backoff> {
        Some(Backoff::new(std::iter::repeat(RETRY_PAUSE)))
    }
}

/// Sends requests as they come, up to a bound, and yields their results in order. The connection is put back for the next
/// stream unless it broke, or requests were still on their way when one was refused: their results would answer nothing
/// that anybody waits for.
fn pipeline<'s, S>(
    slot: &'s mut Option<Held>,
    input: S,
    pulse: Pulse,
) -> impl Stream<Item = Result<StreamAppendResult<Types>, RPCError<Types>>> + Send + 's
where
    S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
{
    let now = pulse.clock.monotonic();
    let (link, owed, heard) = match slot.take() {
        // Nothing is expected of it before the first request.
        Some(Held { link, owed: 0, .. }) => (Some(link), 0, now),
        Some(Held { link, owed, heard }) => (Some(link), owed, heard),
        None => (None, 0, now),
    };
    let state = Pipeline { slot, link, owed, heard, sending: false, input: Some(input), in_flight: 0, pulse };
    futures::stream::unfold(state, |mut state| async move {
        let result = state.step().await?;
        Some((result, state))
    })
}

struct Pipeline<'s, S> {
    slot: &'s mut Option<Held>,
    link: Option<Link>,
    /// Answers that are still to come to requests that nobody waits for any more.
    owed: usize,
    /// When something was heard, or nothing was expected.
    heard: Duration,
    /// Whether a request is half sent: nobody knows then how many answers will come.
    sending: bool,
    /// `None` once it has ended.
    input: Option<S>,
    /// Requests that are on their way.
    in_flight: usize,
    pulse: Pulse,
}

impl<S> Drop for Pipeline<'_, S> {
    /// openraft gives a heartbeat up after one interval. Its answer may still come, and the connection is good: over a long
    /// way another one costs more than an interval, so that no heartbeat would ever be answered.
    fn drop(&mut self) {
        let silent = self.pulse.clock.monotonic().saturating_sub(self.heard);
        let owed = self.owed + self.in_flight;
        if let Some(link) = self.link.take()
            && !self.sending
            && silent <= SILENCE_KEPT
            && owed <= APPENDS_IN_FLIGHT_MAX
        {
            *self.slot = Some(Held { link, owed, heard: self.heard });
        }
    }
}

/// A connection between two streams.
struct Held {
    link: Link,
    /// Answers that are still to come to requests of the stream before.
    owed: usize,
    /// When something was heard, or nothing was expected.
    heard: Duration,
}

/// Measures how long heartbeats take. Other streams carry requests without entries as well; those wait behind entries that
/// the other master writes to its disk, and no election hangs on them.
struct Pulse {
    clock: Arc<dyn Clock>,
    meters: Arc<Meters>,
    is_heartbeat: bool,
    /// When each heartbeat that is on its way was sent.
    beats: VecDeque<Duration>,
}

impl Drop for Pulse {
    /// openraft gives a heartbeat up after one interval, and the stream with it.
    fn drop(&mut self) {
        self.beats.iter().for_each(|_| self.meters.unanswered());
    }
}

impl Pulse {
    fn sent(&mut self) {
        if self.is_heartbeat {
            self.beats.push_back(self.clock.monotonic());
        }
    }

    fn answered(&mut self, is_ok: bool) {
        let Some(sent) = self.beats.pop_front() else { return };
        let now = self.clock.monotonic();
        if is_ok {
            self.meters.answered(now, now.saturating_sub(sent));
        } else {
            self.meters.unanswered();
        }
    }
}

impl<S> Pipeline<'_, S>
where
    S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
{
    /// The next result; `None` ends the stream of results.
    async fn step(&mut self) -> Option<Result<StreamAppendResult<Types>, RPCError<Types>>> {
        loop {
            let may_send = self.input.is_some() && self.in_flight < APPENDS_IN_FLIGHT_MAX;
            if !may_send && self.in_flight == 0 {
                let (owed, heard) = (self.owed, self.heard);
                *self.slot = self.link.take().map(|link| Held { link, owed, heard });
                return None;
            }
            let link = self.link.as_mut()?;
            let waiting = self.in_flight > 0;
            tokio::select! {
                biased;
                answer = receive(link), if waiting => {
                    self.heard = self.pulse.clock.monotonic();
                    if self.owed > 0 && answer.is_ok() {
                        self.owed -= 1;
                        continue;
                    }
                    self.in_flight -= 1;
                    self.pulse.answered(answer.is_ok());
                    return Some(self.take_answer(answer));
                }
                request = next(&mut self.input), if may_send => match request {
                    None => self.input = None,
                    Some(request) => {
                        self.sending = true;
                        let sent = link.sender.send(Bytes::from(pack(&request))).await;
                        self.sending = false;
                        if let Err(error) = sent {
                            self.link = None;
                            return Some(Err(RPCError::Unreachable(unreachable(&error))));
                        }
                        self.pulse.sent();
                        self.in_flight += 1;
                    }
                }
            }
        }
    }

    fn take_answer(
        &mut self,
        answer: io::Result<StreamAppendResult<Types>>,
    ) -> Result<StreamAppendResult<Types>, RPCError<Types>> {
        match answer {
            Err(error) => {
                self.link = None;
                Err(RPCError::Unreachable(unreachable(&error)))
            }
            Ok(result) => {
                if result.is_err() {
                    self.input = None;
                    if self.in_flight > 0 {
                        self.link = None;
                    }
                }
                Ok(result)
            }
        }
    }
}

async fn next<S: Stream<Item = AppendEntriesRequest<Types>> + Unpin>(
    input: &mut Option<S>,
) -> Option<AppendEntriesRequest<Types>> {
    match input {
        Some(input) => input.next().await,
        None => None,
    }
}

async fn receive(link: &mut Link) -> io::Result<StreamAppendResult<Types>> {
    match tokio::time::timeout(STREAM_SILENCE_MAX, link.receiver.recv()).await {
        Ok(Ok(message)) => unpack(&message).map_err(io::Error::other),
        Ok(Err(error)) => Err(io::Error::other(error)),
        Err(_) => Err(io::Error::other("the peer acknowledges nothing")),
    }
}
