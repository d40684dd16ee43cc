//! Questions to one master over one channel: many at a time on one connection, dialled when first needed and dropped when it
//! is silent for as long as a call may take.

use crate::mesh::message::{Channel, Numbered, Request, Response};
use crate::mesh::{DIAL_WITHIN, Mesh, MeshError};
use bytes::Bytes;
use saltern_wire::MasterId;
use saltern_wire::io::{Link, LinkReceiver, LinkSender};
use saltern_wire::limits::PEER_MESSAGE_BYTES_MAX;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Questions that may wait to be sent on one connection. More means that the peer does not read.
const QUEUE_MAX: usize = 4096;

/// How long a silence gives a connection up: two round trips of the longest way that a profile bears, and some more.
const SILENT_MS_MAX: u64 = 600;

/// Asks one master over one channel.
pub struct Caller {
    to: MasterId,
    channel: Channel,
    slot: tokio::sync::Mutex<Slot>,
}

/// The connection, and the dialling of the next one. Dialling goes on while nobody waits for it: over a long way it takes
/// longer than a heartbeat may, and would never come to an end if every heartbeat began it anew.
#[derive(Default)]
struct Slot {
    connection: Option<Arc<Connection>>,
    dialling: Option<JoinHandle<Result<Link, MeshError>>>,
}

struct Connection {
    outgoing: mpsc::Sender<Bytes>,
    waiting: Mutex<Waiting>,
    next: AtomicU64,
    heard: AtomicU64,
    /// Milliseconds of calls in a row that brought nothing.
    silent_ms: AtomicU64,
    closed: CancellationToken,
    _end: DropGuard,
}

#[derive(Default)]
struct Waiting {
    replies: BTreeMap<u64, oneshot::Sender<Response>>,
    over: bool,
}

impl Caller {
    /// For calls to `to`; nothing is dialled yet.
    pub fn new(to: MasterId, channel: Channel) -> Self {
        Self { to, channel, slot: tokio::sync::Mutex::default() }
    }

    /// Asks and waits for the reply, at most `within` for dialling and reply together.
    pub async fn ask(&self, mesh: &Arc<Mesh>, request: &Request, within: Duration) -> Result<Response, MeshError> {
        let deadline = tokio::time::sleep(within);
        tokio::pin!(deadline);
        let connection = tokio::select! {
            connection = self.connected(mesh, within) => connection?,
            () = &mut deadline => return Err(self.unreachable("dialling took too long")),
        };
        let number = connection.next.fetch_add(1, Ordering::Relaxed);
        let deadline_ms = u64::try_from(within.as_millis()).ok();
        let body = saltern_wire::encode(&Numbered { number, deadline_ms, body: request.clone() });
        let reply = connection.expect(number).ok_or_else(|| self.unreachable("the connection was just closed"))?;
        let heard_before = connection.heard.load(Ordering::Relaxed);
        if connection.outgoing.try_send(body.into()).is_err() {
            connection.forget(number);
            return Err(self.unreachable("the connection does not drain"));
        }
        let unanswered = |cause: String| MeshError::Unanswered { to: self.to, cause };
        tokio::select! {
            reply = reply => reply.map_err(|_| unanswered("the connection closed".into())),
            () = &mut deadline => {
                connection.forget(number);
                // Nothing at all came back in the time of a whole call: frozen, or cut off without a reset. TCP would go on
                // for minutes; a new connection finds out at once when the peer is back. One short call says nothing,
                // because the way may be longer than it.
                if connection.heard.load(Ordering::Relaxed) == heard_before {
                    let waited = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
                    if connection.silent_ms.fetch_add(waited, Ordering::Relaxed).saturating_add(waited) >= SILENT_MS_MAX {
                        connection.closed.cancel();
                    }
                }
                Err(unanswered(format!("no reply within {within:?}")))
            }
        }
    }

    async fn connected(&self, mesh: &Arc<Mesh>, within: Duration) -> Result<Arc<Connection>, MeshError> {
        let mut slot = self.slot.lock().await;
        if let Some(connection) = slot.connection.as_ref().filter(|connection| !connection.closed.is_cancelled()) {
            return Ok(Arc::clone(connection));
        }
        slot.connection = None;
        let dialling = slot.dialling.get_or_insert_with(|| {
            let (mesh, to, channel) = (Arc::clone(mesh), self.to, self.channel);
            // It ends by itself, whether or not somebody still waits.
            tokio::spawn(async move { mesh.open(to, channel, within.max(DIAL_WITHIN)).await })
        });
        let dialled = dialling.await;
        slot.dialling = None;
        let link = dialled.unwrap_or_else(|error| Err(self.unreachable(&format!("dialling ended early: {error}"))))?;
        let connection = Connection::start(link);
        slot.connection = Some(Arc::clone(&connection));
        Ok(connection)
    }

    fn unreachable(&self, cause: &str) -> MeshError {
        MeshError::Unreachable { to: self.to, cause: cause.into() }
    }
}

impl Connection {
    /// Starts the connection's two tasks. They end when it closes; dropping the last handle closes it.
    fn start(link: Link) -> Arc<Self> {
        let (outgoing, queue) = mpsc::channel(QUEUE_MAX);
        let closed = CancellationToken::new();
        let connection = Arc::new(Self {
            outgoing,
            waiting: Mutex::default(),
            next: AtomicU64::new(1),
            heard: AtomicU64::new(0),
            silent_ms: AtomicU64::new(0),
            closed: closed.clone(),
            _end: closed.clone().drop_guard(),
        });
        tokio::spawn(send_all(link.sender, queue, closed.clone()));
        tokio::spawn(receive_all(link.receiver, Arc::downgrade(&connection), closed));
        connection
    }

    fn expect(&self, number: u64) -> Option<oneshot::Receiver<Response>> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.over {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        waiting.replies.insert(number, sender);
        Some(receiver)
    }

    fn forget(&self, number: u64) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).replies.remove(&number);
    }

    fn deliver(&self, reply: Numbered<Response>) {
        self.heard.fetch_add(1, Ordering::Relaxed);
        self.silent_ms.store(0, Ordering::Relaxed);
        let waiter = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).replies.remove(&reply.number);
        if let Some(waiter) = waiter {
            let _ = waiter.send(reply.body);
        }
    }

    /// Wakes everybody who waits; nobody waits from here on.
    fn close(&self) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.over = true;
        waiting.replies.clear();
    }
}

async fn send_all(mut sender: Box<dyn LinkSender>, mut queue: mpsc::Receiver<Bytes>, closed: CancellationToken) {
    let work = async {
        while let Some(message) = queue.recv().await {
            if sender.send(message).await.is_err() {
                break;
            }
        }
    };
    tokio::select! {
        () = work => closed.cancel(),
        () = closed.cancelled() => {}
    }
}

async fn receive_all(
    mut receiver: Box<dyn LinkReceiver>,
    connection: std::sync::Weak<Connection>,
    closed: CancellationToken,
) {
    loop {
        let message = tokio::select! {
            message = receiver.recv() => message,
            () = closed.cancelled() => break,
        };
        let Ok(message) = message else { break };
        let Some(connection) = connection.upgrade() else { return };
        match saltern_wire::codec::decode_bounded::<Numbered<Response>>(&message, PEER_MESSAGE_BYTES_MAX) {
            Ok(reply) => connection.deliver(reply),
            Err(error) => {
                tracing::warn!(%error, "a master sent a reply that cannot be read; closing the connection");
                break;
            }
        }
    }
    closed.cancel();
    if let Some(connection) = connection.upgrade() {
        connection.close();
    }
}
