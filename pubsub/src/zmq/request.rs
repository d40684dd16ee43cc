//! Sessions (4506): ROUTER on the master, one DEALER a session on the minion, each behind the gate.
//!
//! The gate gives every connection a number and presents it to the ROUTER as the peer's identity, so one TCP connection is
//! one identity is one [`Link`]; none is ever used again. A control message from the gate opens and closes it.

use super::crowd::{Place, Turnstile};
use super::frame::READY_BYTES_MAX;
use super::gate::{self, Called};
use super::inner::{self, PrivateFolder};
use super::limits::GateLimits;
use super::offence::{CutReason, Logbook};
use super::relay::{CLOSED, Connection, Flow, LinkGuard, OPENED, Streams, relay};
use super::stream::{FrameReader, shake_hands};
use bytes::Bytes;
use saltern_wire::io::{Address, Link, LinkReceiver, LinkSender, Listener, TransportError};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};
use zeromq::{
    DealerRecvHalf, DealerSendHalf, DealerSocket, RouterRecvHalf, RouterSendHalf, RouterSocket, Socket, SocketRecv,
    SocketSend, ZmqError, ZmqMessage,
};

/// A connection's number as the ROUTER sees it.
type Number = u64;

/// First byte of the identities that the gate gives.
const IDENTITY_TAG: u8 = 1;

fn identity(number: Number) -> Bytes {
    let mut bytes = vec![IDENTITY_TAG];
    bytes.extend_from_slice(&number.to_be_bytes());
    bytes.into()
}

fn number(identity: &[u8]) -> Option<Number> {
    let rest = identity.strip_prefix(&[IDENTITY_TAG])?;
    Some(u64::from_be_bytes(rest.try_into().ok()?))
}

/// What the gate of one port needs for each connection.
struct Entrance {
    /// Kept for as long as the ROUTER is bound in it.
    _folder: Arc<PrivateFolder>,
    router: PathBuf,
    limits: GateLimits,
    logbook: Logbook,
    port: u16,
    numbers: AtomicU64,
    /// Connections that are through the gate and not yet seen by the ROUTER's loop.
    arriving: Mutex<BTreeMap<Number, Arc<Flow>>>,
}

impl Entrance {
    fn arriving(&self) -> std::sync::MutexGuard<'_, BTreeMap<Number, Arc<Flow>>> {
        self.arriving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One connection, from accept to end.
    async fn serve(self: Arc<Self>, outer: TcpStream, peer: SocketAddr, place: Place) {
        let number = self.numbers.fetch_add(1, Relaxed);
        let within = self.limits.handshake_timeout;
        let cut = place.cut();
        let ready = tokio::select! {
            ready = tokio::time::timeout(within, self.admit(outer, number)) => {
                ready.unwrap_or(Err(CutReason::TimedOut(within.as_millis())))
            }
            () = cut.cancelled() => Err(CutReason::Crowded),
        };
        let streams = match ready {
            Ok(streams) => streams,
            Err(reason) => {
                self.logbook.ended(peer.ip(), self.port, &reason);
                tracing::debug!(%peer, %reason, "a session connection was refused");
                return;
            }
        };
        let flow = Flow::new(peer.to_string());
        self.arriving().insert(number, flow.clone());
        let (port, limits) = (self.port, self.limits.clone());
        let connection = Connection { flow, place: Some(place), peer, port, limits };
        relay(streams, connection, self.logbook.clone()).await;
        self.arriving().remove(&number);
    }

    /// Both handshakes: the stranger's, then our own with the ROUTER.
    async fn admit(&self, outer: TcpStream, number: Number) -> Result<Streams, CutReason> {
        gate::tune(&outer).map_err(|error| CutReason::Failed(error.into()))?;
        let mut reader = FrameReader::new(&outer, READY_BYTES_MAX);
        shake_hands(&mut reader, "ROUTER", &[], "DEALER").await?;
        let outer_ahead = reader.into_buffer();
        let entered = inner::enter(&self.router, "DEALER", &identity(number), "ROUTER").await;
        let (inner, inner_ahead) = entered.map_err(CutReason::Failed)?;
        Ok(Streams { outer, outer_ahead, inner, inner_ahead })
    }
}

/// The master's port for sessions.
struct SessionListener {
    address: Address,
    links: mpsc::Receiver<Link>,
    port: std::net::TcpListener,
    /// Ends accepting. The tasks that serve standing links end with these.
    _closing: DropGuard,
}

#[async_trait::async_trait]
impl Listener for SessionListener {
    async fn accept(&mut self) -> Result<Link, TransportError> {
        let gone = || TransportError::Closed { peer: self.address.to_string(), cause: "the listener is gone".into() };
        self.links.recv().await.ok_or_else(gone)
    }

    fn address(&self) -> Address {
        self.address.clone()
    }
}

impl Drop for SessionListener {
    fn drop(&mut self) {
        gate::close_port(&self.port);
    }
}

/// Opens the port. Runs on the caller's runtime.
pub(super) async fn listen(
    bind: &Address,
    limits: GateLimits,
    logbook: Logbook,
    folder: Arc<PrivateFolder>,
) -> Result<Box<dyn Listener>, TransportError> {
    let refuse = |source| TransportError::Address { address: bind.clone(), source };
    let (port, address) = gate::bind(bind).await?;
    let listener = TcpListener::from_std(port.try_clone().map_err(refuse)?).map_err(refuse)?;
    let (private, router) = folder.listen().map_err(refuse)?;
    let mut socket = RouterSocket::new();
    socket.bind_listener(private).await.map_err(|error| refuse(std::io::Error::other(error.to_string())))?;
    let closing = CancellationToken::new();
    let (accepted, links) = mpsc::channel(limits.connections_max.clamp(1, 1 << 16));
    let turnstile = Turnstile::new(limits.clone(), logbook.clone(), address.port());
    let entrance = Arc::new(Entrance {
        _folder: folder,
        router,
        limits,
        logbook,
        port: address.port(),
        numbers: AtomicU64::new(0),
        arriving: Mutex::default(),
    });
    let (sender, receiver) = socket.split();
    tokio::spawn(route(sender, receiver, entrance.clone(), accepted, closing.clone()));
    let serving = closing.clone();
    tokio::spawn(gate::accept(listener, turnstile, closing.clone(), move |outer, peer, place| {
        tokio::spawn(entrance.clone().serve(outer, peer, place));
    }));
    Ok(Box::new(SessionListener { address, links, port, _closing: serving.drop_guard() }))
}

/// The ROUTER's loop: opens and closes links, and gives each its messages. Ends with the last link after `closing`.
async fn route(
    sender: RouterSendHalf,
    mut receiver: RouterRecvHalf,
    entrance: Arc<Entrance>,
    accepted: mpsc::Sender<Link>,
    closing: CancellationToken,
) {
    let mut links: BTreeMap<Number, mpsc::UnboundedSender<Bytes>> = BTreeMap::new();
    loop {
        if closing.is_cancelled() && links.is_empty() {
            return;
        }
        let message = tokio::select! {
            message = receiver.recv() => message,
            () = closing.cancelled(), if links.is_empty() => return,
        };
        let frames = match message {
            Ok(message) => message.into_vec(),
            Err(error) => {
                tracing::error!(%error, "the session socket failed");
                return;
            }
        };
        match frames.as_slice() {
            [from, body] => {
                let link = number(from).and_then(|number| links.get(&number));
                // A link whose receiver is dropped is about to be closed; nobody waits for its messages.
                let _ = link.map(|link| link.send(body.clone()));
            }
            [from, _, sign] => {
                let Some(number) = number(from) else { continue };
                if **sign == [OPENED] {
                    let Some(flow) = entrance.arriving().remove(&number) else { continue };
                    let (messages, queue) = mpsc::unbounded_channel();
                    let link = routed_link(flow, identity(number), sender.clone(), queue);
                    if accepted.try_send(link).is_ok() {
                        links.insert(number, messages);
                    }
                } else if **sign == [CLOSED] {
                    links.remove(&number);
                }
            }
            _ => tracing::error!(frames = frames.len(), "the session socket gave a message of a wrong shape"),
        }
    }
}

/// The master's end of a link.
fn routed_link(
    flow: Arc<Flow>,
    identity: Bytes,
    router: RouterSendHalf,
    queue: mpsc::UnboundedReceiver<Bytes>,
) -> Link {
    let guard = Arc::new(LinkGuard(flow.clone()));
    Link {
        sender: Box::new(RoutedSender { flow: flow.clone(), identity, router, _guard: guard.clone() }),
        receiver: Box::new(RoutedReceiver { flow: flow.clone(), queue, _guard: guard }),
        peer: flow.peer.clone(),
    }
}

struct RoutedSender {
    flow: Arc<Flow>,
    identity: Bytes,
    router: RouterSendHalf,
    _guard: Arc<LinkGuard>,
}

#[async_trait::async_trait]
impl LinkSender for RoutedSender {
    async fn send(&mut self, message: Bytes) -> Result<(), TransportError> {
        self.flow.reserve(message.len()).await?;
        let mut addressed = ZmqMessage::from(self.identity.clone());
        addressed.push_back(message);
        self.router.send(addressed).await.map_err(|_| self.flow.closed())
    }
}

/// The queue is unbounded in messages and bounded by the flow's window in bytes.
struct RoutedReceiver {
    flow: Arc<Flow>,
    queue: mpsc::UnboundedReceiver<Bytes>,
    _guard: Arc<LinkGuard>,
}

#[async_trait::async_trait]
impl LinkReceiver for RoutedReceiver {
    async fn recv(&mut self) -> Result<Bytes, TransportError> {
        let message = self.queue.recv().await.ok_or_else(|| self.flow.closed())?;
        self.flow.taken(message.len());
        Ok(message)
    }
}

/// Opens a session link to a master.
pub(super) async fn dial(
    address: &Address,
    limits: &GateLimits,
    logbook: Logbook,
    folder: &PrivateFolder,
) -> Result<Link, TransportError> {
    let called = Called::default();
    let opening = open(address, limits, &logbook, folder, &called);
    gate::in_time(address, limits.handshake_timeout, &logbook, &called, opening).await
}

async fn open(
    address: &Address,
    limits: &GateLimits,
    logbook: &Logbook,
    folder: &PrivateFolder,
    called: &Called,
) -> Result<Link, TransportError> {
    let peer = address.to_string();
    let closed = |cause: String| TransportError::Closed { peer: peer.clone(), cause };
    let outer = gate::connect(address, limits.handshake_timeout).await?;
    let called = called.reached(&outer)?;
    let mut reader = FrameReader::new(&outer, READY_BYTES_MAX);
    if let Err(error) = shake_hands(&mut reader, "DEALER", &[], "ROUTER").await {
        let reason = CutReason::from(error);
        logbook.ended(called.ip(), called.port(), &reason);
        return Err(closed(reason.to_string()));
    }
    let outer_ahead = reader.into_buffer();
    let (private, path) = folder.listen().map_err(|error| closed(error.to_string()))?;
    let (mut socket, inner, inner_ahead) = behind(private, &path).await.map_err(|error| closed(error.to_string()))?;
    let flow = Flow::new(peer.clone());
    let streams = Streams { outer, outer_ahead, inner, inner_ahead };
    let (flow_here, limits) = (flow.clone(), limits.clone());
    let connection = Connection { flow: flow_here, place: None, peer: called, port: called.port(), limits };
    tokio::spawn(relay(streams, connection, logbook.clone()));
    // From here on the link's guard ends the relay, also if this future is dropped.
    let guard = Arc::new(LinkGuard(flow.clone()));
    socket.recv().await.map_err(|error| closed(error.to_string()))?;
    socket.unbind_all().await;
    let (sender, receiver) = socket.split();
    Ok(Link {
        sender: Box::new(DealtSender { flow: flow.clone(), dealer: sender, _guard: guard.clone() }),
        receiver: Box::new(DealtReceiver { flow, dealer: receiver, over: false, _guard: guard }),
        peer,
    })
}

/// The minion's DEALER, and the gate's stream to it.
async fn behind(
    private: std::os::unix::net::UnixListener,
    path: &Path,
) -> Result<(DealerSocket, tokio::net::UnixStream, bytes::BytesMut), ZmqError> {
    let mut socket = DealerSocket::new();
    socket.bind_listener(private).await?;
    let entered = inner::enter(path, "ROUTER", &[], "DEALER").await;
    let (stream, ahead) = entered.map_err(|error| ZmqError::Network(std::io::Error::other(error.to_string())))?;
    Ok((socket, stream, ahead))
}

struct DealtSender {
    flow: Arc<Flow>,
    dealer: DealerSendHalf,
    _guard: Arc<LinkGuard>,
}

#[async_trait::async_trait]
impl LinkSender for DealtSender {
    async fn send(&mut self, message: Bytes) -> Result<(), TransportError> {
        self.flow.reserve(message.len()).await?;
        self.dealer.send(message.into()).await.map_err(|_| self.flow.closed())
    }
}

struct DealtReceiver {
    flow: Arc<Flow>,
    dealer: DealerRecvHalf,
    over: bool,
    _guard: Arc<LinkGuard>,
}

#[async_trait::async_trait]
impl LinkReceiver for DealtReceiver {
    async fn recv(&mut self) -> Result<Bytes, TransportError> {
        if self.over {
            return Err(self.flow.closed());
        }
        let frames = match self.dealer.recv().await {
            Ok(message) => message.into_vec(),
            Err(_) => Vec::new(),
        };
        let [message] = frames.as_slice() else {
            self.over = true;
            return Err(self.flow.closed());
        };
        self.flow.taken(message.len());
        Ok(message.clone())
    }
}
