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

use super::frame::control;
use super::gate::{CutReason, GateCounters, Place, count};
use super::stream::{FrameReader, StreamError, write_all};
use bytes::{Bytes, BytesMut};
use saltern_wire::io::TransportError;
use saltern_wire::limits::NOISE_MESSAGE_BYTES_MAX;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Semaphore;
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
        let (over, dropped) = (CancellationToken::new(), CancellationToken::new());
        Arc::new(Self { peer, outbound: window(), inbound: window(), over, cause: OnceLock::new(), dropped })
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

/// Relays until either side is done, and tells the socket behind.
pub(super) async fn relay(
    streams: Streams,
    flow: Arc<Flow>,
    place: Option<Place>,
    stall_timeout: Duration,
    counters: Arc<GateCounters>,
) {
    let Streams { outer, outer_ahead, inner, inner_ahead } = streams;
    let mut unwritten = control(OPENED);
    let reason = {
        let outer_reader = FrameReader::resume(&outer, outer_ahead, NOISE_MESSAGE_BYTES_MAX);
        let inner_reader = FrameReader::resume(&inner, inner_ahead, NOISE_MESSAGE_BYTES_MAX);
        tokio::select! {
            reason = inbound(outer_reader, &inner, &mut unwritten, &flow) => reason,
            reason = outbound(inner_reader, &outer, place, &flow, stall_timeout) => reason,
            reason = lingered(&flow) => reason,
        }
    };
    drop(outer);
    reason.count(&counters);
    tracing::debug!(peer = %flow.peer, %reason, "a session link ended");
    flow.cause.get_or_init(|| reason.to_string());
    flow.over.cancel();
    // The socket behind may be slow to read, or gone; both end when the link is dropped.
    let farewell = async {
        write_all(&inner, &mut unwritten).await?;
        write_all(&inner, &mut control(CLOSED)).await
    };
    if farewell.await.is_err() && !flow.dropped.is_cancelled() {
        count(&counters.failed);
    }
}

/// From TCP to the socket behind.
async fn inbound(
    mut reader: FrameReader<'_, TcpStream>,
    inner: &UnixStream,
    unwritten: &mut Bytes,
    flow: &Flow,
) -> CutReason {
    loop {
        if let Err(error) = write_all(inner, unwritten).await {
            return CutReason::Failed(error);
        }
        let frame = match reader.next().await {
            Ok(frame) => frame,
            Err(error) => return error.into(),
        };
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

/// From the socket behind to TCP.
async fn outbound(
    mut reader: FrameReader<'_, UnixStream>,
    outer: &TcpStream,
    mut place: Option<Place>,
    flow: &Flow,
    stall_timeout: Duration,
) -> CutReason {
    let mut sent = 0;
    loop {
        let frame = match reader.next().await {
            Ok(frame) => frame,
            Err(StreamError::Closed) => return CutReason::Dropped,
            Err(error) => return CutReason::Failed(error),
        };
        let len = frame.body().len();
        let mut raw = frame.raw;
        match tokio::time::timeout(stall_timeout, write_all(outer, &mut raw)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return error.into(),
            Err(_) => return CutReason::Evicted,
        }
        flow.outbound.add_permits(cost(len) as usize);
        if sent < SENT_UNPROVEN {
            sent += 1;
        } else if let Some(place) = &mut place {
            place.prove();
        }
    }
}

/// Ends when the link is dropped and what it had sent is written, or after a while.
async fn lingered(flow: &Flow) -> CutReason {
    flow.dropped.cancelled().await;
    // The whole window is free when nothing is under way.
    let _ = tokio::time::timeout(LINGER, flow.outbound.acquire_many(WINDOW_BYTES)).await;
    CutReason::Dropped
}
