//! Carries the messages of one session between its TCP connection and the zeromq socket behind the gate, both ways.
//!
//! ```text
//!   LinkSender ─ window ─▶ zeromq ─▶ unix ─▶ relay ─▶ TCP        window opens as bytes are written to TCP
//!   LinkReceiver ◀ window ─ zeromq ◀─ unix ◀─ relay ◀─ TCP       window opens as messages are taken
//! ```
//!
//! **Invariants.** Both windows are counted in bytes and cover everything between the ends, so zeromq's unbounded queues
//! never hold more than a window. The socket behind learns of the end by a control message that comes after every message;
//! a frame that was begun is finished first.

use super::crowd::Place;
use super::frame::{FrameError, control, pong};
use super::limits::GateLimits;
use super::offence::{CutReason, Logbook, count};
use super::stream::{FrameReader, StreamError, write_all};
use bytes::{Bytes, BytesMut};
use saltern_wire::io::TransportError;
use saltern_wire::limits::NOISE_MESSAGE_BYTES_MAX;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

/// Bytes under way in one direction: four of the largest messages, enough for 20 MB/s at 10 ms and small enough for
/// thousands of sessions.
const WINDOW_BYTES: u32 = 256 * 1024;

/// Counted for each message beside its bytes, so that empty messages are bounded as well.
const OVERHEAD_BYTES: u32 = 64;

/// How long what was sent before a link was dropped may take to leave.
const LINGER: Duration = Duration::from_secs(2);

/// Messages that a master sends before its minion has proved itself: its answer in the handshake.
const SENT_UNPROVEN: u32 = 1;

/// Heartbeats that wait for their answer. Whoever sends more before it reads gets no answer to the rest.
const HEARTBEATS_WAITING_MAX: usize = 4;

/// Control: the connection stands.
pub(super) const OPENED: u8 = 1;

/// Control: nothing more will come.
pub(super) const CLOSED: u8 = 2;

/// What both halves of a link and its relay share.
pub(super) struct Flow {
    /// The other end's address, for people.
    pub(super) peer: String,
    outbound: Semaphore,
    inbound: Semaphore,
    /// The peer has proved itself, or was dialled.
    proven: CancellationToken,
    /// The relay has ended.
    over: CancellationToken,
    cause: OnceLock<String>,
    /// Both halves of the link are dropped.
    dropped: CancellationToken,
}

/// What a message takes of a window.
fn cost(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(WINDOW_BYTES).saturating_add(OVERHEAD_BYTES).min(WINDOW_BYTES)
}

impl Flow {
    pub(super) fn new(peer: String) -> Arc<Self> {
        let window = || Semaphore::new(WINDOW_BYTES as usize);
        let [proven, over, dropped] = [(); 3].map(|()| CancellationToken::new());
        Arc::new(Self { peer, outbound: window(), inbound: window(), proven, over, cause: OnceLock::new(), dropped })
    }

    /// Waits for room for a message of `len` bytes.
    pub(super) async fn reserve(&self, len: usize) -> Result<(), TransportError> {
        if len > NOISE_MESSAGE_BYTES_MAX {
            let cause = format!("a message of {len} bytes, the limit is {NOISE_MESSAGE_BYTES_MAX}");
            return Err(TransportError::Protocol { peer: self.peer.clone(), cause });
        }
        tokio::select! {
            biased;
            () = self.over.cancelled() => Err(self.closed()),
            permit = self.outbound.acquire_many(cost(len)) => {
                permit.map_err(|_| self.closed())?.forget();
                Ok(())
            }
        }
    }

    /// A message of `len` bytes was taken.
    pub(super) fn taken(&self, len: usize) {
        self.inbound.add_permits(cost(len) as usize);
    }

    /// The error of a link that is over.
    pub(super) fn closed(&self) -> TransportError {
        let cause = self.cause.get().cloned().unwrap_or_else(|| "the connection is lost".into());
        TransportError::Closed { peer: self.peer.clone(), cause }
    }
}

/// Held by both halves of a link; the last one to go closes it.
pub(super) struct LinkGuard(pub(super) Arc<Flow>);

impl Drop for LinkGuard {
    fn drop(&mut self) {
        self.0.dropped.cancel();
    }
}

/// Both streams of a connection, with what was read ahead during their handshakes.
pub(super) struct Streams {
    pub(super) outer: TcpStream,
    pub(super) outer_ahead: BytesMut,
    pub(super) inner: UnixStream,
    pub(super) inner_ahead: BytesMut,
}

/// What a relay serves.
pub(super) struct Connection {
    pub(super) flow: Arc<Flow>,
    /// Its place at the master's gate; a minion's own connection has none.
    pub(super) place: Option<Place>,
    /// The other side, and the port of the master.
    pub(super) peer: SocketAddr,
    pub(super) port: u16,
    pub(super) limits: GateLimits,
}

/// Relays until either side is done, and tells the socket behind.
pub(super) async fn relay(streams: Streams, connection: Connection, logbook: Logbook) {
    let Streams { outer, outer_ahead, inner, inner_ahead } = streams;
    let Connection { flow, place, peer, port, limits } = connection;
    let mut unwritten = control(OPENED);
    let (heartbeats, answers) = mpsc::channel(HEARTBEATS_WAITING_MAX);
    let cut = place.as_ref().map(Place::cut);
    let first_bytes_max = if place.is_some() { limits.unproven_frame_bytes_max } else { NOISE_MESSAGE_BYTES_MAX };
    if place.is_none() {
        flow.proven.cancel();
    }
    let reason = {
        let outer_reader = FrameReader::resume(&outer, outer_ahead, first_bytes_max);
        let inner_reader = FrameReader::resume(&inner, inner_ahead, NOISE_MESSAGE_BYTES_MAX);
        let stall_timeout = limits.stall_timeout;
        let ways_out = WayOut { outer: &outer, place, flow: &flow, stall_timeout, logbook: &logbook };
        tokio::select! {
            reason = inbound(outer_reader, &inner, &mut unwritten, (&flow, limits.handshake_timeout), heartbeats) => reason,
            reason = outbound(inner_reader, ways_out, answers) => reason,
            reason = lingered(&flow) => reason,
            reason = crowded(cut) => reason,
        }
    };
    drop(outer);
    logbook.ended(peer.ip(), port, &reason);
    tracing::debug!(peer = %flow.peer, %reason, "a session link ended");
    flow.cause.get_or_init(|| reason.to_string());
    flow.over.cancel();
    // The socket behind may be slow to read, or gone; both end when the link is dropped.
    let farewell = async {
        write_all(&inner, &mut unwritten).await?;
        write_all(&inner, &mut control(CLOSED)).await
    };
    if farewell.await.is_err() && !flow.dropped.is_cancelled() {
        count(&logbook.counters.failed);
    }
}

/// From TCP to the socket behind.
///
/// A minion that has done its part of the handshake may send what waits for a master at once, before the master has answered
/// and thereby said that it is proven. Its large frame is left where it is until then; a stranger's is refused for its size
/// when `patience` is over, and never read.
async fn inbound(
    mut reader: FrameReader<'_, TcpStream>,
    inner: &UnixStream,
    unwritten: &mut Bytes,
    (flow, patience): (&Flow, Duration),
    heartbeats: mpsc::Sender<Bytes>,
) -> CutReason {
    let mut proven = false;
    loop {
        if let Err(error) = write_all(inner, unwritten).await {
            return CutReason::Failed(error);
        }
        let frame = loop {
            tokio::select! {
                biased;
                () = flow.proven.cancelled(), if !proven => {
                    proven = true;
                    reader.widen(NOISE_MESSAGE_BYTES_MAX);
                }
                frame = reader.next() => match frame {
                    Err(StreamError::Frame(FrameError::Large { len, .. })) if !proven && len <= NOISE_MESSAGE_BYTES_MAX as u64 => {
                        // Nothing of the frame was taken: it is looked at again when the limit is another one.
                        if tokio::time::timeout(patience, flow.proven.cancelled()).await.is_err() {
                            break frame;
                        }
                    }
                    frame => break frame,
                },
            }
        };
        let frame = match frame {
            Ok(frame) => frame,
            Err(error) => return error.into(),
        };
        if let Some(answer) = pong(&frame) {
            // Dropped when too many wait: the peer does not read.
            let _ = heartbeats.try_send(answer);
            continue;
        }
        let frame = match frame.whole_message() {
            Ok(frame) => frame,
            Err(error) => return StreamError::from(error).into(),
        };
        match flow.inbound.acquire_many(cost(frame.body().len())).await {
            Ok(permit) => permit.forget(),
            Err(_) => return CutReason::Dropped,
        }
        *unwritten = frame.raw;
    }
}

/// What the way out of the socket behind needs.
struct WayOut<'a> {
    outer: &'a TcpStream,
    place: Option<Place>,
    flow: &'a Flow,
    stall_timeout: Duration,
    logbook: &'a Logbook,
}

/// From the socket behind to TCP, with answers to heartbeats between the messages.
async fn outbound(
    mut reader: FrameReader<'_, UnixStream>,
    mut way: WayOut<'_>,
    mut answers: mpsc::Receiver<Bytes>,
) -> CutReason {
    let mut sent = 0;
    loop {
        let frame = tokio::select! {
            frame = reader.next() => Some(frame),
            Some(mut answer) = answers.recv() => {
                if let Err(reason) = way.write(&mut answer).await {
                    return reason;
                }
                count(&way.logbook.counters.heartbeats);
                None
            }
        };
        let frame = match frame {
            None => continue,
            Some(Ok(frame)) => frame,
            Some(Err(StreamError::Closed)) => return CutReason::Dropped,
            Some(Err(error)) => return CutReason::Failed(error),
        };
        let len = frame.body().len();
        let mut raw = frame.raw;
        if let Err(reason) = way.write(&mut raw).await {
            return reason;
        }
        way.flow.outbound.add_permits(cost(len) as usize);
        if sent < SENT_UNPROVEN {
            sent += 1;
        } else if let Some(place) = &mut way.place {
            place.prove();
            way.flow.proven.cancel();
        }
    }
}

impl WayOut<'_> {
    /// Writes all of `bytes` in time.
    async fn write(&self, bytes: &mut Bytes) -> Result<(), CutReason> {
        match tokio::time::timeout(self.stall_timeout, write_all(self.outer, bytes)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(CutReason::Evicted),
        }
    }
}

/// Ends when the connection has to give way to others.
async fn crowded(cut: Option<CancellationToken>) -> CutReason {
    match cut {
        Some(cut) => cut.cancelled().await,
        None => std::future::pending().await,
    }
    CutReason::Crowded
}

/// Ends when the link is dropped and what it had sent is written, or after a while.
async fn lingered(flow: &Flow) -> CutReason {
    flow.dropped.cancelled().await;
    // The whole window is free when nothing is under way.
    let _ = tokio::time::timeout(LINGER, flow.outbound.acquire_many(WINDOW_BYTES)).await;
    CutReason::Dropped
}
