//! A subscription (4505), the minion's side: one SUB socket behind the gate for each.
//!
//! The SUB subscribes to everything; the gate keeps that to itself and shows the master the capability instead. The
//! subscription stands when the master's gate says so with an empty frame.

use super::frame::{FrameError, READY_BYTES_MAX, control, message};
use super::gate::{self, Called};
use super::inner::{self, PrivateFolder};
use super::limits::GateLimits;
use super::offence::{CutReason, Logbook};
use super::relay::CLOSED;
use super::stream::{FrameReader, StreamError, shake_hands, write_all};
use bytes::{Bytes, BytesMut};
use saltern_wire::io::{Address, Capability, LinkReceiver, TransportError};
use saltern_wire::limits::FANOUT_FRAME_BYTES_MAX;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use tokio::net::{TcpStream, UnixStream};
use tokio_util::sync::{CancellationToken, DropGuard};
use zeromq::{Socket, SocketRecv, SubSocket};

/// First byte of a subscription in ZMTP 3.0.
pub(super) const SUBSCRIBE: u8 = 1;

/// Subscribes to a master's fan-out.
pub(super) async fn subscribe(
    address: &Address,
    capability: Capability,
    limits: &GateLimits,
    logbook: Logbook,
    folder: &PrivateFolder,
) -> Result<Box<dyn LinkReceiver>, TransportError> {
    let called = Called::default();
    let opening = open(address, capability, limits, &logbook, folder, &called);
    gate::in_time(address, limits.handshake_timeout, &logbook, &called, opening).await
}

async fn open(
    address: &Address,
    capability: Capability,
    limits: &GateLimits,
    logbook: &Logbook,
    folder: &PrivateFolder,
    called: &Called,
) -> Result<Box<dyn LinkReceiver>, TransportError> {
    let peer = address.to_string();
    let closed =
        |cause: &dyn std::fmt::Display| TransportError::Closed { peer: peer.clone(), cause: cause.to_string() };
    let outer = gate::connect(address, limits.handshake_timeout).await?;
    let master = called.reached(&outer)?;
    let blame = |error: StreamError| {
        logbook.ended(master.ip(), master.port(), &error.into());
    };
    let mut reader = FrameReader::new(&outer, READY_BYTES_MAX);
    if let Err(error) = shake_hands(&mut reader, "SUB", &[], "PUB").await {
        let refused = closed(&error);
        blame(error);
        return Err(refused);
    }
    let (private, path) = folder.listen().map_err(|error| closed(&error))?;
    let mut socket = SubSocket::new();
    socket.subscribe("").await.map_err(|error| closed(&error))?;
    socket.bind_listener(private).await.map_err(|error| closed(&error))?;
    let (inner, inner_ahead) = inner::enter(&path, "PUB", &[], "SUB").await.map_err(|error| closed(&error))?;
    // Its subscription shows that the socket has taken the connection; it goes no further than this.
    let mut inner_reader = FrameReader::resume(&inner, inner_ahead, READY_BYTES_MAX);
    inner_reader.next().await.map_err(|error| closed(&error))?;
    let inner_ahead = inner_reader.into_buffer();
    let mut key = vec![SUBSCRIBE];
    key.extend_from_slice(&capability.0);
    write_all(&outer, &mut message(&key)).await.map_err(|error| closed(&error))?;
    let welcome = match reader.next().await {
        Ok(welcome) => welcome,
        Err(StreamError::Closed) => return Err(closed(&"the gate closed it: the capability is unknown or used")),
        Err(error) => {
            let refused = closed(&error);
            blame(error);
            return Err(refused);
        }
    };
    if welcome.command || welcome.more || !welcome.body().is_empty() {
        let cause = "its first frame is no welcome".into();
        blame(FrameError::Command.into());
        return Err(TransportError::Protocol { peer, cause });
    }
    let outer_ahead = reader.into_buffer();
    socket.unbind_all().await;
    let over = Arc::new(OnceLock::new());
    let dropped = CancellationToken::new();
    let streams = Streams { outer, outer_ahead, inner, inner_ahead };
    tokio::spawn(relay(streams, over.clone(), dropped.clone(), logbook.clone(), master));
    Ok(Box::new(Subscription { socket, peer, over, is_over: false, _dropped: dropped.drop_guard() }))
}

struct Streams {
    outer: TcpStream,
    outer_ahead: BytesMut,
    inner: UnixStream,
    inner_ahead: BytesMut,
}

/// Carries frames from the master to the SUB until either is gone. A SUB that is not read stops the reading from TCP, and
/// then the master cuts this subscriber off: that is the bound.
async fn relay(
    streams: Streams,
    over: Arc<OnceLock<String>>,
    dropped: CancellationToken,
    logbook: Logbook,
    master: SocketAddr,
) {
    let Streams { outer, outer_ahead, inner, inner_ahead } = streams;
    let mut unwritten = Bytes::new();
    let reason = {
        let frames = FrameReader::resume(&outer, outer_ahead, FANOUT_FRAME_BYTES_MAX);
        tokio::select! {
            reason = carry(frames, &inner, &mut unwritten) => reason,
            () = dropped.cancelled() => CutReason::Dropped,
            reason = swallow(FrameReader::resume(&inner, inner_ahead, READY_BYTES_MAX)) => reason,
        }
    };
    drop(outer);
    logbook.ended(master.ip(), master.port(), &reason);
    over.get_or_init(|| reason.to_string());
    let farewell = async {
        write_all(&inner, &mut unwritten).await?;
        write_all(&inner, &mut control(CLOSED)).await
    };
    // It fails if the socket behind is gone, which is no loss.
    let _ = farewell.await;
}

async fn carry(mut frames: FrameReader<'_, TcpStream>, inner: &UnixStream, unwritten: &mut Bytes) -> CutReason {
    loop {
        let frame = match frames.next().await {
            Ok(frame) => frame,
            Err(error) => return error.into(),
        };
        match frame.whole_message() {
            Ok(frame) if frame.body().is_empty() => return StreamError::from(FrameError::Command).into(),
            Ok(frame) => *unwritten = frame.raw,
            Err(error) => return StreamError::from(error).into(),
        }
        if let Err(error) = write_all(inner, unwritten).await {
            return CutReason::Failed(error);
        }
    }
}

/// Takes what the SUB says, which concerns nobody, until it is gone.
async fn swallow(mut frames: FrameReader<'_, UnixStream>) -> CutReason {
    loop {
        if frames.next().await.is_err() {
            return CutReason::Dropped;
        }
    }
}

struct Subscription {
    socket: SubSocket,
    peer: String,
    over: Arc<OnceLock<String>>,
    is_over: bool,
    _dropped: DropGuard,
}

#[async_trait::async_trait]
impl LinkReceiver for Subscription {
    async fn recv(&mut self) -> Result<Bytes, TransportError> {
        if !self.is_over {
            let frames = self.socket.recv().await.map(zeromq::ZmqMessage::into_vec);
            if let Ok([frame]) = frames.as_deref() {
                return Ok(frame.clone());
            }
            self.is_over = true;
        }
        let cause = self.over.get().cloned().unwrap_or_else(|| "the connection is lost".into());
        Err(TransportError::Closed { peer: self.peer.clone(), cause })
    }
}
