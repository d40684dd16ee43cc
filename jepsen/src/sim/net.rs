//! The simulated network: what masters and minions say to each other, as whole messages on simulated connections.
//!
//! ```text
//!   4505  subscriber: capability ▶   ◀ welcome (empty)   ◀ frames …          one bounded queue a subscriber
//!   4506  messages both ways
//!   4510  dialler: its id ▶          ◀ the acceptor's id   messages both ways   (stands for TLS: who is there is proven)
//! ```
//!
//! **Invariants.** A subscriber is registered before it is welcomed: whatever is published after that reaches it, or its
//! connection ends. A dialler hears who answers before it says anything else.

use super::socket::{
    Connections, MessageReader, MessageWriter, Socket, accept_all, bind_port, closed, connect, halves, link, lock,
    timed_out,
};
use bytes::Bytes;
use saltern_cluster::mesh::{MeshListener, MeshTransport};
use saltern_wire::MasterId;
use saltern_wire::io::{
    Address, Capability, Fanout, Link, LinkReceiver, LinkSender, Listener, Transport, TransportError,
};
use saltern_wire::limits::{
    FANOUT_FRAME_BYTES_MAX, HANDSHAKE_TIMEOUT_MS, NOISE_MESSAGE_BYTES_MAX, PEER_MESSAGE_BYTES_MAX,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::DropGuard;

/// How long a peer may take for the first message of a connection.
const HELLO_TIMEOUT: Duration = Duration::from_millis(HANDSHAKE_TIMEOUT_MS);

/// Frames queued for one subscriber; above it the subscriber is cut off.
const SUBSCRIBER_FRAMES_MAX: usize = 64;

/// Accepted connections that wait for their owner to take them.
const BACKLOG_MAX: usize = 256;

/// One host's access to the network.
#[derive(Clone)]
pub struct SimTransport {
    /// The master that lives on this host, for the mesh.
    master: Option<MasterId>,
    connections: Connections,
}

impl SimTransport {
    /// For the host whose software calls it; `master` names the master that lives there, if one does.
    pub fn new(master: Option<MasterId>, connections: Connections) -> Self {
        Self { master, connections }
    }

    fn own_id(&self) -> u64 {
        self.master.map_or(0, |master| master.0)
    }
}

/// Hands out what its task has accepted.
struct SimListener<T> {
    accepted: mpsc::Receiver<T>,
    address: Address,
    _task: DropGuard,
}

#[async_trait::async_trait]
impl Listener for SimListener<Link> {
    async fn accept(&mut self) -> Result<Link, TransportError> {
        self.accepted.recv().await.ok_or_else(|| closed(&self.address.to_string(), "the listener is gone"))
    }

    fn address(&self) -> Address {
        self.address.clone()
    }
}

#[async_trait::async_trait]
impl Transport for SimTransport {
    async fn dial(&self, address: &Address) -> Result<Link, TransportError> {
        Ok(link(&connect(&self.connections, address).await?, &address.to_string(), NOISE_MESSAGE_BYTES_MAX))
    }

    async fn listen(&self, bind: &Address) -> Result<Box<dyn Listener>, TransportError> {
        let listener = bind_port(bind).await?;
        let (sender, accepted) = mpsc::channel(BACKLOG_MAX);
        let task = accept_all(listener, self.connections.clone(), move |socket, from| {
            let sender = sender.clone();
            async move {
                // Nobody takes it: the connection closes with the link.
                let _ = sender.send(link(&socket, &from, NOISE_MESSAGE_BYTES_MAX)).await;
            }
        });
        Ok(Box::new(SimListener { accepted, address: bind.clone(), _task: task }))
    }

    async fn subscribe(
        &self,
        address: &Address,
        capability: Capability,
    ) -> Result<Box<dyn LinkReceiver>, TransportError> {
        let peer = address.to_string();
        let (mut writer, reader) = halves(&connect(&self.connections, address).await?, &peer, FANOUT_FRAME_BYTES_MAX);
        writer.send(Bytes::copy_from_slice(&capability.0)).await?;
        let mut subscription = Subscription { reader, _writer: writer };
        match tokio::time::timeout(HELLO_TIMEOUT, subscription.reader.recv()).await {
            Ok(welcome) => welcome.map(drop)?,
            Err(_) => return Err(timed_out(&peer, HELLO_TIMEOUT)),
        }
        Ok(Box::new(subscription))
    }

    async fn fanout(&self, bind: &Address) -> Result<Arc<dyn Fanout>, TransportError> {
        let listener = bind_port(bind).await?;
        let doors = Doors::default();
        let shared = doors.clone();
        let task = accept_all(listener, self.connections.clone(), move |socket, from| {
            serve_subscriber(socket, from, shared.clone())
        });
        Ok(Arc::new(SimFanout { doors, address: bind.clone(), _task: task }))
    }
}

/// A subscriber's end. The writing half is kept open: dropping it would look like a close.
struct Subscription {
    reader: MessageReader,
    _writer: MessageWriter,
}

#[async_trait::async_trait]
impl LinkReceiver for Subscription {
    async fn recv(&mut self) -> Result<Bytes, TransportError> {
        self.reader.recv().await
    }
}

/// Who may subscribe and who has.
#[derive(Clone, Default)]
struct Doors(Arc<Mutex<DoorState>>);

#[derive(Default)]
struct DoorState {
    admitted: BTreeSet<Capability>,
    subscribers: BTreeMap<Capability, mpsc::Sender<Bytes>>,
}

impl Doors {
    fn lock(&self) -> MutexGuard<'_, DoorState> {
        lock(&self.0)
    }

    /// Uses up a capability.
    fn enter(&self, capability: Capability) -> Option<mpsc::Receiver<Bytes>> {
        let mut state = self.lock();
        if !state.admitted.remove(&capability) {
            return None;
        }
        let (sender, queue) = mpsc::channel(SUBSCRIBER_FRAMES_MAX);
        state.subscribers.insert(capability, sender);
        Some(queue)
    }

    fn leave(&self, capability: Capability) {
        self.lock().subscribers.remove(&capability);
    }
}

/// A master's fan-out.
struct SimFanout {
    doors: Doors,
    address: Address,
    _task: DropGuard,
}

impl Fanout for SimFanout {
    fn publish(&self, frame: Bytes) {
        // Whoever does not drain is dropped, and with it its queue, its task and its connection.
        self.doors.lock().subscribers.retain(|_, queue| queue.try_send(frame.clone()).is_ok());
    }

    fn admit(&self, capability: Capability) {
        self.doors.lock().admitted.insert(capability);
    }

    fn revoke(&self, capability: Capability) {
        let mut state = self.doors.lock();
        state.admitted.remove(&capability);
        state.subscribers.remove(&capability);
    }

    fn subscribers(&self) -> usize {
        self.doors.lock().subscribers.len()
    }

    fn address(&self) -> Address {
        self.address.clone()
    }
}

/// One subscriber, from its capability to its end.
async fn serve_subscriber(socket: Arc<Socket>, from: String, doors: Doors) {
    let (mut writer, mut reader) = halves(&socket, &from, FANOUT_FRAME_BYTES_MAX);
    let Ok(Ok(hello)) = tokio::time::timeout(HELLO_TIMEOUT, reader.recv()).await else { return };
    let Ok(bytes) = <[u8; 16]>::try_from(hello.as_ref()) else { return };
    let capability = Capability(bytes);
    let Some(mut queue) = doors.enter(capability) else { return };
    let send = async {
        let mut next = Some(Bytes::new());
        while let Some(frame) = next {
            if writer.send(frame).await.is_err() {
                return;
            }
            next = queue.recv().await;
        }
    };
    tokio::select! {
        biased;
        () = send => {}
        // A subscriber says nothing after its capability: this ends when its connection does.
        _ = reader.recv() => {}
    }
    doors.leave(capability);
}

#[async_trait::async_trait]
impl MeshTransport for SimTransport {
    async fn dial(&self, master: MasterId, address: &Address) -> Result<Link, TransportError> {
        let peer = address.to_string();
        let mut link = link(&connect(&self.connections, address).await?, &peer, PEER_MESSAGE_BYTES_MAX);
        link.sender.send(Bytes::copy_from_slice(&self.own_id().to_be_bytes())).await?;
        let answer = match tokio::time::timeout(HELLO_TIMEOUT, link.receiver.recv()).await {
            Ok(answer) => answer?,
            Err(_) => return Err(timed_out(&peer, HELLO_TIMEOUT)),
        };
        if answer.as_ref() != master.0.to_be_bytes() {
            let cause = format!("it is not master {master}");
            return Err(TransportError::Protocol { peer, cause });
        }
        Ok(link)
    }

    async fn listen(&self, bind: &Address) -> Result<Box<dyn MeshListener>, TransportError> {
        let listener = bind_port(bind).await?;
        let (sender, accepted) = mpsc::channel(BACKLOG_MAX);
        let own = self.own_id();
        let task = accept_all(listener, self.connections.clone(), move |socket, from| {
            let sender = sender.clone();
            async move {
                let mut link = link(&socket, &from, PEER_MESSAGE_BYTES_MAX);
                let Ok(Ok(hello)) = tokio::time::timeout(HELLO_TIMEOUT, link.receiver.recv()).await else { return };
                let Ok(bytes) = <[u8; 8]>::try_from(hello.as_ref()) else { return };
                if link.sender.send(Bytes::copy_from_slice(&own.to_be_bytes())).await.is_ok() {
                    // Nobody takes it: the connection closes with the link.
                    let _ = sender.send((MasterId(u64::from_be_bytes(bytes)), link)).await;
                }
            }
        });
        Ok(Box::new(SimListener { accepted, address: bind.clone(), _task: task }))
    }
}

#[async_trait::async_trait]
impl MeshListener for SimListener<(MasterId, Link)> {
    async fn accept(&mut self) -> Result<(MasterId, Link), TransportError> {
        self.accepted.recv().await.ok_or_else(|| closed(&self.address.to_string(), "the listener is gone"))
    }
}

#[cfg(test)]
#[path = "net_tests.rs"]
mod tests;
