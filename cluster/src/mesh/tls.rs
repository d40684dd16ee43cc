//! The mesh over TCP and mutual TLS 1.3, in length-delimited messages.
//!
//! Both sides show a certificate of the cluster CA, which names the master it was issued to; a dialler refuses an answer
//! from anybody but the master it meant. Certificates: [`crate::pki`]. A master with an `interface` of its own dials from it.

use crate::door::{Door, DoorLimits};
use crate::mesh::{MeshListener, MeshTransport};
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use saltern_wire::MasterId;
use saltern_wire::io::{Address, Link, LinkReceiver, LinkSender, TransportError};
use saltern_wire::limits::{HANDSHAKE_TIMEOUT_MS, PEER_MESSAGE_BYTES_MAX};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::{TlsAcceptor, TlsConnector, rustls};
use tokio_util::codec::{FramedRead, FramedWrite, LengthDelimitedCodec};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Connections in their TLS handshake at one time. Masters are few, and theirs takes milliseconds.
const HANDSHAKES_MAX: usize = 64;

/// Connections of one address in their TLS handshake at one time: a master dials one per kind of traffic, and several
/// masters of a test live at one address.
const HANDSHAKES_PER_ADDRESS_MAX: usize = 32;

/// How long written bytes may stay unacknowledged before the kernel gives the connection up.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(10);

/// TLS configurations of one master.
#[derive(Clone)]
pub struct TlsMesh {
    client: Arc<rustls::ClientConfig>,
    server: Arc<rustls::ServerConfig>,
    identify: Identify,
    name_of: NameOf,
    source: Option<IpAddr>,
}

/// Reads the master's number from the certificate that a peer proved to own.
pub type Identify = Arc<dyn Fn(&rustls::pki_types::CertificateDer<'_>) -> Option<MasterId> + Send + Sync>;

/// The name in a master's certificate.
pub type NameOf = Arc<dyn Fn(MasterId) -> String + Send + Sync>;

impl TlsMesh {
    /// From configurations that demand a certificate of the cluster CA on both sides.
    pub fn new(
        client: Arc<rustls::ClientConfig>,
        server: Arc<rustls::ServerConfig>,
        identify: Identify,
        name_of: NameOf,
    ) -> Self {
        Self { client, server, identify, name_of, source: None }
    }

    /// The same, dialling from `interface`: on a host with several addresses the others see the one it was told to use. A
    /// wildcard leaves the choice to the system.
    pub fn from_interface(mut self, interface: IpAddr) -> Self {
        self.source = (!interface.is_unspecified()).then_some(interface);
        self
    }

    /// Connects from the source address to the first address of that family which answers.
    async fn connect(&self, address: &Address) -> std::io::Result<TcpStream> {
        let Some(source) = self.source else { return TcpStream::connect((address.host(), address.port())).await };
        let mut failed = None;
        for to in tokio::net::lookup_host((address.host(), address.port())).await? {
            let socket = match (source, to) {
                (IpAddr::V4(_), SocketAddr::V4(_)) => TcpSocket::new_v4()?,
                (IpAddr::V6(_), SocketAddr::V6(_)) => TcpSocket::new_v6()?,
                (IpAddr::V4(_), SocketAddr::V6(_)) | (IpAddr::V6(_), SocketAddr::V4(_)) => continue,
            };
            let connected = async {
                socket.bind((source, 0).into())?;
                socket.connect(to).await
            };
            match connected.await {
                Ok(stream) => return Ok(stream),
                Err(error) => failed = Some(error),
            }
        }
        let none = || std::io::Error::other(format!("{address} has no address that {source} can reach"));
        Err(failed.unwrap_or_else(none))
    }
}

#[async_trait::async_trait]
impl MeshTransport for TlsMesh {
    async fn dial(&self, master: MasterId, address: &Address) -> Result<Link, TransportError> {
        let peer = address.to_string();
        let closed = |cause: String| TransportError::Closed { peer: peer.clone(), cause };
        let stream = self.connect(address).await.map_err(|error| closed(error.to_string()))?;
        tune(&stream).map_err(|error| closed(error.to_string()))?;
        let name = rustls::pki_types::ServerName::try_from((self.name_of)(master))
            .map_err(|error| TransportError::Protocol { peer: peer.clone(), cause: error.to_string() })?;
        let tls = TlsConnector::from(Arc::clone(&self.client));
        let stream = tls.connect(name, stream).await.map_err(|error| closed(error.to_string()))?;
        Ok(framed(stream, peer))
    }

    async fn listen(&self, bind: &Address) -> Result<Box<dyn MeshListener>, TransportError> {
        let refuse = |source| TransportError::Address { address: bind.clone(), source };
        let listener = TcpListener::bind((bind.host(), bind.port())).await.map_err(refuse)?;
        let (sender, accepted) = mpsc::channel(HANDSHAKES_MAX);
        let stop = CancellationToken::new();
        tokio::spawn(handshake_all(listener, self.clone(), sender, stop.clone()));
        Ok(Box::new(TlsListener { accepted, bind: bind.clone(), _end: stop.drop_guard() }))
    }
}

struct TlsListener {
    accepted: mpsc::Receiver<(MasterId, Link)>,
    bind: Address,
    _end: DropGuard,
}

#[async_trait::async_trait]
impl MeshListener for TlsListener {
    async fn accept(&mut self) -> Result<(MasterId, Link), TransportError> {
        let gone = || TransportError::Closed { peer: self.bind.to_string(), cause: "the listener stopped".into() };
        self.accepted.recv().await.ok_or_else(gone)
    }
}

/// Accepts connections and shakes hands with several at a time, until the listener is dropped.
async fn handshake_all(
    listener: TcpListener,
    mesh: TlsMesh,
    accepted: mpsc::Sender<(MasterId, Link)>,
    stop: CancellationToken,
) {
    let door = Door::new(DoorLimits { places: HANDSHAKES_MAX, per_address: HANDSHAKES_PER_ADDRESS_MAX });
    let failed = Failed::default();
    loop {
        let connection = tokio::select! {
            connection = listener.accept() => connection,
            () = stop.cancelled() => return,
        };
        let (stream, from) = match connection {
            Ok(connection) => connection,
            Err(error) => {
                // No file descriptors, most likely. They come back; spinning would not bring them.
                tracing::warn!(%error, "cannot accept a connection from another master; trying again");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Some(visitor) = door.enter(from.ip()) else { continue };
        let (mesh, accepted, failed) = (mesh.clone(), accepted.clone(), failed.clone());
        tokio::spawn(async move {
            let patience = Duration::from_millis(HANDSHAKE_TIMEOUT_MS);
            let shaken = tokio::select! {
                shaken = tokio::time::timeout(patience, handshake(&mesh, stream, from)) => shaken,
                () = visitor.cut() => return,
            };
            drop(visitor);
            match shaken {
                Ok(Ok(link)) => {
                    let _ = accepted.send(link).await;
                }
                Ok(Err(cause)) => failed.note(from, &cause),
                Err(_) => failed.note(from, "it said nothing"),
            }
        });
    }
}

/// Handshakes that failed. Strangers decide how many there are, so the log hears of ever fewer of them: the first, the
/// second, the fourth and so on.
#[derive(Clone, Default)]
struct Failed(Arc<AtomicU64>);

impl Failed {
    fn note(&self, from: SocketAddr, cause: &str) {
        let so_far = self.0.fetch_add(1, Relaxed) + 1;
        if so_far.is_power_of_two() {
            tracing::warn!(%from, cause, so_far, "refused a connection on the port for masters");
        }
    }
}

async fn handshake(mesh: &TlsMesh, stream: TcpStream, from: SocketAddr) -> Result<(MasterId, Link), String> {
    tune(&stream).map_err(|error| error.to_string())?;
    let tls = TlsAcceptor::from(Arc::clone(&mesh.server));
    let stream = tls.accept(stream).await.map_err(|error| error.to_string())?;
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let certificate = certificates.first().ok_or("it showed no certificate")?;
    let master = (mesh.identify)(certificate).ok_or("its certificate names no master of this cluster")?;
    Ok((master, framed(stream, from.to_string())))
}

/// Small messages at once, and a dead peer noticed by the kernel as well.
fn tune(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = socket2::SockRef::from(stream);
    let probes = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(5))
        .with_interval(Duration::from_secs(2))
        .with_retries(3);
    socket.set_tcp_keepalive(&probes)?;
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX))
}

/// Makes a link of messages from a stream of bytes.
pub fn framed<S>(stream: S, peer: String) -> Link
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let codec = || LengthDelimitedCodec::builder().max_frame_length(PEER_MESSAGE_BYTES_MAX).new_codec();
    let (read, write) = tokio::io::split(stream);
    Link {
        sender: Box::new(FrameSender { sink: FramedWrite::new(write, codec()), peer: peer.clone() }),
        receiver: Box::new(FrameReceiver { stream: FramedRead::new(read, codec()), peer: peer.clone() }),
        peer,
    }
}

struct FrameSender<S> {
    sink: FramedWrite<WriteHalf<S>, LengthDelimitedCodec>,
    peer: String,
}

#[async_trait::async_trait]
impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> LinkSender for FrameSender<S> {
    async fn send(&mut self, message: Bytes) -> Result<(), TransportError> {
        let closed =
            |error: std::io::Error| TransportError::Closed { peer: self.peer.clone(), cause: error.to_string() };
        self.sink.send(message).await.map_err(closed)
    }
}

struct FrameReceiver<S> {
    stream: FramedRead<ReadHalf<S>, LengthDelimitedCodec>,
    peer: String,
}

#[async_trait::async_trait]
impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> LinkReceiver for FrameReceiver<S> {
    async fn recv(&mut self) -> Result<Bytes, TransportError> {
        let closed = |cause: String| TransportError::Closed { peer: self.peer.clone(), cause };
        match self.stream.next().await {
            Some(Ok(message)) => Ok(message.freeze()),
            Some(Err(error)) => Err(closed(error.to_string())),
            None => Err(closed("the other side closed it".into())),
        }
    }
}
