//! Connections of a simulated machine on turmoil's TCP, and whole messages on them.
//!
//! **Invariants.** One message is one segment, so that a cancelled send leaves nothing half done, and a cancelled receive
//! loses nothing. All connections of a boot are known in the order in which they were made.
//!
//! **Caveats.** turmoil drops what a partition meets and never sends it again: a connection that lost one segment is
//! silent for ever, like a half-open one. Writers give up after [`SEND_TIMEOUT`], as TCP_USER_TIMEOUT does; readers have to
//! notice silence themselves. Whoever dials a dead host hears nothing until [`CONNECT_TIMEOUT`].

use bytes::{Buf, BufMut, Bytes, BytesMut};
use saltern_wire::io::{Address, Link, LinkReceiver, LinkSender, TransportError};
use std::io::{Error, ErrorKind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Poll;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::{CancellationToken, DropGuard};
use turmoil::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use turmoil::net::{TcpListener, TcpStream};

/// How long a connection may take to open: what the kernel's first SYN retries add up to.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Pause before the first packet of a connection is sent again.
const SYN_RETRY: Duration = Duration::from_secs(1);

/// How long a write may find no room: the role of TCP_USER_TIMEOUT.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// Room that is made for each read, in bytes.
const READ_BYTES: usize = 4 * 1024;

/// Length of the length before each message, in bytes.
const HEADER_BYTES: usize = 4;

/// Every open connection of one boot of one machine, in the order in which they were made.
///
/// A process that is killed has its connections closed by the kernel. turmoil closes them as their tasks are dropped, and
/// tokio drops tasks in an order that depends on how many the whole process has started: that must not decide anything.
#[derive(Clone, Default)]
pub struct Connections(Arc<Mutex<Open>>);

#[derive(Default)]
struct Open {
    sockets: Vec<Weak<Socket>>,
    /// All were closed: what is opened now is closed at once.
    over: bool,
}

impl Connections {
    /// Closes all of them, the oldest first. Call it from the machine's software, and crash the machine after this step.
    pub fn close_all(&self) {
        let mut open = lock(&self.0);
        open.over = true;
        open.sockets.drain(..).filter_map(|socket| socket.upgrade()).for_each(|socket| socket.close());
    }

    fn add(&self, stream: TcpStream) -> Arc<Socket> {
        let (read, write) = stream.into_split();
        let socket = Arc::new(Socket { read: Mutex::new(Some(read)), write: Mutex::new(Some(write)) });
        let mut open = lock(&self.0);
        if open.over {
            socket.close();
            return socket;
        }
        if open.sockets.len() == open.sockets.capacity() {
            open.sockets.retain(|socket| socket.strong_count() > 0);
        }
        open.sockets.push(Arc::downgrade(&socket));
        socket
    }
}

/// One connection. Each half belongs to one reader or writer, or to nobody any more.
pub(super) struct Socket {
    read: Mutex<Option<OwnedReadHalf>>,
    write: Mutex<Option<OwnedWriteHalf>>,
}

impl Socket {
    fn close(&self) {
        drop(lock(&self.write).take());
        drop(lock(&self.read).take());
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere leaves what is inside whole: every change of it is one call.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn taken_down() -> Error {
    Error::new(ErrorKind::ConnectionAborted, "this machine is being taken down")
}

pub(super) fn closed(peer: &str, cause: impl ToString) -> TransportError {
    TransportError::Closed { peer: peer.into(), cause: cause.to_string() }
}

pub(super) fn timed_out(peer: &str, after: Duration) -> TransportError {
    TransportError::TimedOut { peer: peer.into(), after_ms: u64::try_from(after.as_millis()).unwrap_or(u64::MAX) }
}

/// Opens a connection. turmoil refuses at once where a partition eats the first packet; a real dialler hears nothing then
/// and tries again until it gives up, and so does this.
pub(super) async fn connect(connections: &Connections, address: &Address) -> Result<Arc<Socket>, TransportError> {
    let target = (address.host(), address.port());
    let dial = async {
        loop {
            let before = turmoil::sim_elapsed();
            match TcpStream::connect(target).await {
                Err(error) if error.kind() == ErrorKind::ConnectionRefused && turmoil::sim_elapsed() == before => {
                    tokio::time::sleep(SYN_RETRY).await;
                }
                outcome => return outcome,
            }
        }
    };
    match tokio::time::timeout(CONNECT_TIMEOUT, dial).await {
        Ok(Ok(stream)) => Ok(connections.add(stream)),
        Ok(Err(error)) if error.kind() == ErrorKind::NotFound => {
            Err(TransportError::Address { address: address.clone(), source: error })
        }
        Ok(Err(error)) => Err(closed(&address.to_string(), error)),
        Err(_) => Err(timed_out(&address.to_string(), CONNECT_TIMEOUT)),
    }
}

/// Listens on the port of `bind`, on every address of the host: turmoil knows no other way.
pub(super) async fn bind_port(bind: &Address) -> Result<TcpListener, TransportError> {
    TcpListener::bind(("0.0.0.0", bind.port()))
        .await
        .map_err(|source| TransportError::Address { address: bind.clone(), source })
}

/// Both halves of a connection, as messages of at most `bytes_max`.
pub(super) fn halves(socket: &Arc<Socket>, peer: &str, bytes_max: usize) -> (MessageWriter, MessageReader) {
    let writer = MessageWriter { socket: Arc::clone(socket), peer: peer.into(), bytes_max };
    let reader = MessageReader { socket: Arc::clone(socket), peer: peer.into(), bytes_max, buffer: BytesMut::new() };
    (writer, reader)
}

/// Sends whole messages.
pub(super) struct MessageWriter {
    socket: Arc<Socket>,
    peer: String,
    bytes_max: usize,
}

impl MessageWriter {
    /// Writes one segment: turmoil takes it whole.
    async fn write(&self, segment: &[u8]) -> std::io::Result<()> {
        let written = std::future::poll_fn(|cx| match lock(&self.socket.write).as_mut() {
            Some(half) => Pin::new(half).poll_write(cx, segment),
            None => Poll::Ready(Err(taken_down())),
        });
        match written.await? {
            len if len == segment.len() => Ok(()),
            len => Err(Error::new(ErrorKind::WriteZero, format!("{len} of {} bytes were taken", segment.len()))),
        }
    }
}

impl Drop for MessageWriter {
    fn drop(&mut self) {
        drop(lock(&self.socket.write).take());
    }
}

#[async_trait::async_trait]
impl LinkSender for MessageWriter {
    async fn send(&mut self, message: Bytes) -> Result<(), TransportError> {
        if message.len() > self.bytes_max {
            let cause = format!("a message of {} bytes, the limit is {}", message.len(), self.bytes_max);
            return Err(TransportError::Protocol { peer: self.peer.clone(), cause });
        }
        let mut segment = BytesMut::with_capacity(HEADER_BYTES + message.len());
        segment.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
        segment.put(message);
        match tokio::time::timeout(SEND_TIMEOUT, self.write(&segment)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(closed(&self.peer, error)),
            Err(_) => Err(timed_out(&self.peer, SEND_TIMEOUT)),
        }
    }
}

/// Receives whole messages.
pub(super) struct MessageReader {
    socket: Arc<Socket>,
    peer: String,
    bytes_max: usize,
    buffer: BytesMut,
}

impl Drop for MessageReader {
    fn drop(&mut self) {
        drop(lock(&self.socket.read).take());
    }
}

impl MessageReader {
    /// Takes what has come into the buffer; 0 at the end.
    async fn fill(&mut self) -> std::io::Result<usize> {
        let mut room = vec![0; READ_BYTES];
        let mut room = ReadBuf::new(&mut room);
        std::future::poll_fn(|cx| match lock(&self.socket.read).as_mut() {
            Some(half) => Pin::new(half).poll_read(cx, &mut room),
            None => Poll::Ready(Err(taken_down())),
        })
        .await?;
        self.buffer.extend_from_slice(room.filled());
        Ok(room.filled().len())
    }

    /// A whole message that is in the buffer.
    fn take(&mut self) -> Result<Option<Bytes>, TransportError> {
        let Some(header) = self.buffer.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let len = usize::try_from(u32::from_be_bytes(*header)).unwrap_or(usize::MAX);
        if len > self.bytes_max {
            let cause = format!("a message of {len} bytes, the limit is {}", self.bytes_max);
            return Err(TransportError::Protocol { peer: self.peer.clone(), cause });
        }
        if self.buffer.len() < HEADER_BYTES + len {
            return Ok(None);
        }
        self.buffer.advance(HEADER_BYTES);
        Ok(Some(self.buffer.split_to(len).freeze()))
    }
}

#[async_trait::async_trait]
impl LinkReceiver for MessageReader {
    async fn recv(&mut self) -> Result<Bytes, TransportError> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(message);
            }
            match self.fill().await {
                Ok(0) => return Err(closed(&self.peer, "the other end closed it")),
                Ok(_) => {}
                Err(error) => return Err(closed(&self.peer, error)),
            }
        }
    }
}

pub(super) fn link(socket: &Arc<Socket>, peer: &str, bytes_max: usize) -> Link {
    let (writer, reader) = halves(socket, peer, bytes_max);
    Link { sender: Box::new(writer), receiver: Box::new(reader), peer: peer.into() }
}

/// Runs `serve` for every connection on `listener` until the returned guard is dropped.
pub(super) fn accept_all<F>(
    listener: TcpListener,
    connections: Connections,
    serve: impl Fn(Arc<Socket>, String) -> F + Send + 'static,
) -> DropGuard
where
    F: Future<Output = ()> + Send + 'static,
{
    let stop = CancellationToken::new();
    let guard = stop.clone().drop_guard();
    tokio::spawn(async move {
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let Ok((stream, from)) = accepted else { return };
            let (served, stop) = (serve(connections.add(stream), from.to_string()), stop.clone());
            tokio::spawn(async move {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => {}
                    () = served => {}
                }
            });
        }
    });
    guard
}
