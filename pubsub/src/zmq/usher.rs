//! One subscriber's connection at the fan-out's gate: lets it in on a capability, and carries frames to it from a bounded
//! queue.

use super::crowd::Place;
use super::frame::{FrameError, READY_BYTES_MAX, message};
use super::gate;
use super::inner;
use super::offence::CutReason;
use super::publish::{DATA, Hub, PROBE, read_header, subscription};
use super::stream::{FrameReader, StreamError, shake_hands, write_all};
use super::subscribe::SUBSCRIBE;
use bytes::{Buf, Bytes, BytesMut};
use saltern_wire::io::Capability;
use saltern_wire::limits::FANOUT_FRAME_BYTES_MAX;
use std::collections::VecDeque;
use std::io::{ErrorKind, IoSlice};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use tokio::net::{TcpStream, UnixStream};
use tokio_util::sync::CancellationToken;

/// First byte of the end of a subscription in ZMTP 3.0.
const UNSUBSCRIBE: u8 = 0;

/// Frames that one write takes from the queue.
const WRITE_SLICES: usize = 16;

/// Shorter frames are copied into the queue.
const FRAME_COPIED_BYTES: usize = 2048;

/// One connection, from accept to end.
pub(super) async fn serve(hub: Arc<Hub>, outer: TcpStream, peer: SocketAddr, mut place: Place) {
    let within = hub.limits.handshake_timeout;
    let cut = place.cut();
    let admitted = tokio::select! {
        admitted = tokio::time::timeout(within, admit(&hub, &outer)) => {
            admitted.unwrap_or(Err(CutReason::TimedOut(within.as_millis())))
        }
        () = cut.cancelled() => Err(CutReason::Crowded),
    };
    let reason = match admitted {
        Ok(admitted) => {
            place.prove();
            attend(&hub, &outer, admitted).await
        }
        Err(reason) => reason,
    };
    hub.logbook.ended(peer.ip(), hub.port, &reason);
    tracing::debug!(%peer, %reason, "a subscriber's connection ended");
}

/// A connection that showed a good capability.
struct Admitted {
    _ticket: Ticket,
    revoked: CancellationToken,
    inner: UnixStream,
    inner_ahead: BytesMut,
    /// The number of the newest frame when its subscription was in force.
    joined: u64,
    seat: Seat,
}

/// A capability in use; forgotten with its connection.
struct Ticket {
    hub: Arc<Hub>,
    capability: Capability,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.hub.forget(self.capability);
    }
}

/// Counted among those who wait for a probe.
struct Waiting<'a>(&'a Hub);

impl<'a> Waiting<'a> {
    fn new(hub: &'a Hub) -> Self {
        hub.waiting.fetch_add(1, Relaxed);
        hub.wanted.notify_one();
        Self(hub)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Relaxed);
    }
}

/// Counted among the subscribers, with the copies that are still under way to it.
struct Seat {
    hub: Arc<Hub>,
    /// The newest frame that was given to PUB before it was counted.
    since: u64,
    /// How many frames PUB had been given by then.
    given_before: u64,
    /// How many of those given since have arrived.
    taken: u64,
}

impl Seat {
    fn new(hub: Arc<Hub>) -> Self {
        hub.subscribers.fetch_add(1, Relaxed);
        let (since, given_before) = (hub.newest.load(Relaxed), hub.given.load(Relaxed));
        Self { hub, since, given_before, taken: 0 }
    }

    /// The copy of frame `number` has arrived.
    fn take(&mut self, number: u64) {
        if number > self.since {
            self.taken += 1;
            self.give_back(1);
        }
    }

    fn give_back(&self, copies: u64) {
        self.hub.copies.fetch_sub(i64::try_from(copies).unwrap_or(i64::MAX), Relaxed);
        self.hub.taken.notify_one();
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.hub.subscribers.fetch_sub(1, Relaxed);
        self.give_back(self.hub.given.load(Relaxed).saturating_sub(self.given_before + self.taken));
    }
}

/// Handshake, capability, the subscription behind the gate, and the wait until it is in force.
async fn admit(hub: &Arc<Hub>, outer: &TcpStream) -> Result<Admitted, CutReason> {
    gate::tune(outer).map_err(|error| CutReason::Failed(error.into()))?;
    let mut reader = FrameReader::new(outer, READY_BYTES_MAX);
    shake_hands(&mut reader, "PUB", &[], "SUB").await?;
    let first = reader.next().await?.whole_message().map_err(StreamError::from)?;
    let key = first.body().strip_prefix(&[SUBSCRIBE]).and_then(|key| key.try_into().ok());
    let capability = Capability(key.ok_or(StreamError::Frame(FrameError::Subscription))?);
    let revoked = hub.redeem(capability).ok_or(CutReason::Capability)?;
    let ticket = Ticket { hub: hub.clone(), capability };
    if !reader.into_buffer().is_empty() {
        return Err(StreamError::Frame(FrameError::Subscription).into());
    }
    let entered = inner::enter(&hub.publisher, "SUB", &[], "PUB").await;
    let (inner, ahead) = entered.map_err(CutReason::Failed)?;
    let waiting = Waiting::new(hub);
    for topic in [DATA, PROBE] {
        write_all(&inner, &mut subscription(SUBSCRIBE, topic)).await.map_err(CutReason::Failed)?;
    }
    let mut frames = FrameReader::resume(&inner, ahead, FANOUT_FRAME_BYTES_MAX);
    // PUB takes subscriptions in order, so whoever hears a probe hears every frame after it.
    let joined = loop {
        let frame = frames.next().await.map_err(CutReason::Failed)?;
        if frame.more {
            frames.next().await.map_err(CutReason::Failed)?;
        } else if let Some((PROBE, number)) = read_header(frame.body()) {
            break number;
        }
    };
    drop(waiting);
    let inner_ahead = frames.into_buffer();
    write_all(&inner, &mut subscription(UNSUBSCRIBE, PROBE)).await.map_err(CutReason::Failed)?;
    let seat = Seat::new(hub.clone());
    Ok(Admitted { _ticket: ticket, revoked, inner, inner_ahead, joined, seat })
}

/// Frames that wait for one subscriber.
struct Queue<'a> {
    hub: &'a Hub,
    frames: VecDeque<Bytes>,
    bytes: usize,
    /// Bytes that the connection has taken so far.
    written: u64,
}

impl Drop for Queue<'_> {
    fn drop(&mut self) {
        self.hub.waiting_bytes.fetch_sub(self.bytes, Relaxed);
    }
}

impl<'a> Queue<'a> {
    fn new(hub: &'a Hub) -> Self {
        Self { hub, frames: VecDeque::new(), bytes: 0, written: 0 }
    }

    fn push(&mut self, frame: Bytes) {
        self.bytes += frame.len();
        self.hub.waiting_bytes.fetch_add(frame.len(), Relaxed);
        // A short frame would keep the whole buffer that it was read into.
        let frame = if frame.len() < FRAME_COPIED_BYTES { Bytes::copy_from_slice(&frame) } else { frame };
        self.frames.push_back(frame);
    }

    /// Writes what the connection takes now.
    fn flush(&mut self, outer: &TcpStream) -> Result<(), StreamError> {
        let slices: Vec<_> = self.frames.iter().take(WRITE_SLICES).map(|frame| IoSlice::new(frame)).collect();
        let mut written = match outer.try_write_vectored(&slices) {
            Ok(written) => written,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        self.bytes -= written;
        self.written += written as u64;
        self.hub.waiting_bytes.fetch_sub(written, Relaxed);
        while let Some(frame) = self.frames.front_mut() {
            if written < frame.len() {
                frame.advance(written);
                break;
            }
            written -= frame.len();
            self.frames.pop_front();
        }
        if self.frames.is_empty() {
            self.frames = VecDeque::new();
        }
        Ok(())
    }
}

/// Carries frames until the connection ends.
async fn attend(hub: &Hub, outer: &TcpStream, admitted: Admitted) -> CutReason {
    let Admitted { _ticket, revoked, inner, inner_ahead, joined, mut seat } = admitted;
    let mut frames = FrameReader::resume(&inner, inner_ahead, FANOUT_FRAME_BYTES_MAX);
    let mut queue = Queue::new(hub);
    queue.push(message(&[]));
    let mut newest = joined;
    let mut header = None;
    // A peer that takes nothing is cut after one to two of these, however little waits for it.
    let mut looks = tokio::time::interval(hub.limits.stall_timeout);
    looks.reset();
    let mut stuck = None;
    loop {
        tokio::task::consume_budget().await;
        tokio::select! {
            biased;
            () = revoked.cancelled() => return CutReason::Revoked,
            outcome = outer.writable(), if !queue.frames.is_empty() => {
                if let Err(error) = outcome.map_err(StreamError::from).and_then(|()| queue.flush(outer)) {
                    return error.into();
                }
            }
            _ = looks.tick() => {
                let written = (!queue.frames.is_empty()).then_some(queue.written);
                if written.is_some() && written == stuck {
                    return CutReason::Evicted;
                }
                stuck = written;
            }
            // A subscriber has nothing more to say: it is here to be noticed when it leaves.
            error = silence(outer) => return error.into(),
            frame = frames.next() => {
                let frame = match frame {
                    Ok(frame) => frame,
                    Err(error) => return CutReason::Failed(error),
                };
                if frame.more {
                    header = read_header(frame.body());
                    continue;
                }
                // A probe that was under way when it was no longer wanted has no header.
                let Some((DATA, number)) = header.take() else { continue };
                seat.take(number);
                if number != newest + 1 {
                    return CutReason::Gapped;
                }
                newest = number;
                queue.push(frame.raw);
                if hub.is_too_much(queue.bytes) {
                    return CutReason::Evicted;
                }
            }
        }
    }
}

/// Waits until the other side closes, or says something, which it must not.
async fn silence(outer: &TcpStream) -> StreamError {
    loop {
        if let Err(error) = outer.readable().await {
            return error.into();
        }
        match outer.try_read(&mut [0; 1]) {
            Ok(0) => return StreamError::Closed,
            Ok(_) => return FrameError::Command.into(),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return error.into(),
        }
    }
}
