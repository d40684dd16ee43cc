//! One host's access to the network in memory.

use super::pipe::{Offered, Pipe};
use super::{BACKLOG_MAX, Door, Fan, Shared, fits, named};
use bytes::Bytes;
use saltern_wire::io::{
    Address, Capability, Fanout, Link, LinkReceiver, LinkSender, Listener, Transport, TransportError,
};
use saltern_wire::limits::{FANOUT_FRAME_BYTES_MAX, HANDSHAKE_TIMEOUT_MS, NOISE_MESSAGE_BYTES_MAX};
use std::io::{Error, ErrorKind};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Bytes under way in one direction of a link; the sender waits above it.
const LINK_WINDOW_BYTES: usize = 256 * 1024;

/// Bytes queued for one subscriber; above it the subscriber is cut off. The same as at the real gate.
const SUBSCRIBER_QUEUE_BYTES_MAX: usize = 4 * FANOUT_FRAME_BYTES_MAX;

/// One host.
#[derive(Clone)]
pub struct MemoryTransport {
    network: Arc<Shared>,
    name: String,
}

impl MemoryTransport {
    pub(super) fn new(network: Arc<Shared>, name: String) -> Self {
        Self { network, name }
    }

    /// The host that an address means, seen from here.
    fn resolve(&self, address: &Address) -> Door {
        let host = match address.host() {
            "localhost" | "127.0.0.1" | "::1" => &self.name,
            other => other,
        };
        (host.to_owned(), address.port())
    }

    /// The own door that `bind` asks for, with a port of its own.
    fn door(&self, bind: &Address) -> Result<Door, TransportError> {
        let refuse = |kind| TransportError::Address { address: bind.clone(), source: Error::from(kind) };
        let any = matches!(bind.host(), "0.0.0.0" | "::" | "localhost" | "127.0.0.1" | "::1");
        if !any && bind.host() != self.name {
            return Err(refuse(ErrorKind::AddrNotAvailable));
        }
        let mut state = self.network.state();
        let port = if bind.port() == 0 { state.free_port(&self.name) } else { bind.port() };
        let door = (self.name.clone(), port);
        if state.listeners.contains_key(&door) || state.fans.contains_key(&door) {
            return Err(refuse(ErrorKind::AddrInUse));
        }
        Ok(door)
    }

    /// Waits until both roads to `door` are open, as the handshake of a connection would.
    async fn reach(&self, door: &Door) -> Result<(), TransportError> {
        let open = async {
            loop {
                let changed = self.network.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if self.network.flows(&self.name, &door.0) && self.network.flows(&door.0, &self.name) {
                    return;
                }
                changed.await;
            }
        };
        let within = Duration::from_millis(HANDSHAKE_TIMEOUT_MS);
        let timed_out = |_| TransportError::TimedOut { peer: named(door), after_ms: HANDSHAKE_TIMEOUT_MS };
        tokio::time::timeout(within, open).await.map_err(timed_out)
    }

    /// Both ends of a new connection.
    fn connect(&self, door: &Door) -> (Link, Link) {
        let there = Pipe::new(self.network.clone(), &self.name, &door.0, LINK_WINDOW_BYTES);
        let back = Pipe::new(self.network.clone(), &door.0, &self.name, LINK_WINDOW_BYTES);
        (end(there.clone(), back.clone(), named(door)), end(back, there, self.name.clone()))
    }
}

/// One end of a connection. The connection ends when the last half of either end is dropped.
struct End {
    outgoing: Arc<Pipe>,
    incoming: Arc<Pipe>,
    peer: String,
}

impl Drop for End {
    fn drop(&mut self) {
        self.outgoing.end("the other side closed it");
        self.incoming.abandon("the other side closed it");
    }
}

impl End {
    fn closed(&self, cause: String) -> TransportError {
        TransportError::Closed { peer: self.peer.clone(), cause }
    }
}

/// Makes the two halves.
fn end(outgoing: Arc<Pipe>, incoming: Arc<Pipe>, peer: String) -> Link {
    let end = Arc::new(End { outgoing, incoming, peer: peer.clone() });
    Link { sender: Box::new(MemorySender(end.clone())), receiver: Box::new(MemoryReceiver(end)), peer }
}

struct MemorySender(Arc<End>);

#[async_trait::async_trait]
impl LinkSender for MemorySender {
    async fn send(&mut self, message: Bytes) -> Result<(), TransportError> {
        fits(&self.0.peer, message.len(), NOISE_MESSAGE_BYTES_MAX)?;
        self.0.outgoing.send(message).await.map_err(|cause| self.0.closed(cause))
    }
}

struct MemoryReceiver(Arc<End>);

#[async_trait::async_trait]
impl LinkReceiver for MemoryReceiver {
    async fn recv(&mut self) -> Result<Bytes, TransportError> {
        self.0.incoming.recv().await.map_err(|cause| self.0.closed(cause))
    }
}

struct MemoryListener {
    network: Arc<Shared>,
    door: Door,
    links: mpsc::Receiver<Link>,
}

#[async_trait::async_trait]
impl Listener for MemoryListener {
    async fn accept(&mut self) -> Result<Link, TransportError> {
        let gone = || TransportError::Closed { peer: named(&self.door), cause: "the listener is gone".into() };
        self.links.recv().await.ok_or_else(gone)
    }

    fn address(&self) -> Address {
        Address::new(self.door.0.clone(), self.door.1)
    }
}

impl Drop for MemoryListener {
    fn drop(&mut self) {
        self.network.state().listeners.remove(&self.door);
        self.network.changed.notify_waiters();
    }
}

struct MemoryFanout {
    network: Arc<Shared>,
    door: Door,
}

impl MemoryFanout {
    /// Changes this fan-out and gives the pipes that have to be cut, which happens after the lock is free.
    fn change(&self, change: impl FnOnce(&mut Fan) -> Vec<Arc<Pipe>>, cause: &str) {
        let gone: Vec<_> = self.pipes().into_iter().filter(|pipe| pipe.is_gone()).collect();
        let cut = {
            let mut state = self.network.state();
            let Some(fan) = state.fans.get_mut(&self.door) else { return };
            fan.subscribers.retain(|(_, pipe)| !gone.iter().any(|gone| Arc::ptr_eq(gone, pipe)));
            change(fan)
        };
        for pipe in cut {
            pipe.cut(cause);
        }
    }

    fn pipes(&self) -> Vec<Arc<Pipe>> {
        let state = self.network.state();
        let fan = state.fans.get(&self.door);
        fan.map(|fan| fan.subscribers.iter().map(|(_, pipe)| pipe.clone()).collect()).unwrap_or_default()
    }
}

impl Fanout for MemoryFanout {
    fn publish(&self, frame: Bytes) {
        for pipe in self.pipes() {
            match pipe.offer(frame.clone()) {
                Offered::Taken | Offered::Gone(_) => {}
                Offered::Full(_) => pipe.cut("it did not drain its queue"),
            }
        }
    }

    fn admit(&self, capability: Capability) {
        self.change(
            |fan| {
                fan.admitted.insert(capability);
                Vec::new()
            },
            "",
        );
    }

    fn revoke(&self, capability: Capability) {
        self.change(
            |fan| {
                fan.admitted.remove(&capability);
                let (cut, kept) = fan.subscribers.drain(..).partition(|(used, _)| *used == capability);
                fan.subscribers = kept;
                let cut: Vec<(Capability, Arc<Pipe>)> = cut;
                cut.into_iter().map(|(_, pipe)| pipe).collect()
            },
            "its capability was revoked",
        );
    }

    fn subscribers(&self) -> usize {
        self.pipes().iter().filter(|pipe| !pipe.is_gone()).count()
    }

    fn address(&self) -> Address {
        Address::new(self.door.0.clone(), self.door.1)
    }
}

impl Drop for MemoryFanout {
    fn drop(&mut self) {
        let pipes = self.pipes();
        self.network.state().fans.remove(&self.door);
        for pipe in pipes {
            pipe.end("the fan-out closed");
        }
        self.network.changed.notify_waiters();
    }
}

/// The receiving end of a subscription.
struct MemorySubscription {
    pipe: Arc<Pipe>,
    peer: String,
}

#[async_trait::async_trait]
impl LinkReceiver for MemorySubscription {
    async fn recv(&mut self) -> Result<Bytes, TransportError> {
        let closed = |cause| TransportError::Closed { peer: self.peer.clone(), cause };
        self.pipe.recv().await.map_err(closed)
    }
}

impl Drop for MemorySubscription {
    fn drop(&mut self) {
        self.pipe.abandon("the subscriber left");
    }
}

#[async_trait::async_trait]
impl Transport for MemoryTransport {
    async fn dial(&self, address: &Address) -> Result<Link, TransportError> {
        let door = self.resolve(address);
        self.reach(&door).await?;
        let closed = |cause: &str| TransportError::Closed { peer: address.to_string(), cause: cause.into() };
        let backlog = self.network.state().listeners.get(&door).cloned();
        let backlog = backlog.ok_or_else(|| closed("connection refused"))?;
        let (ours, theirs) = self.connect(&door);
        backlog.try_send(theirs).map_err(|_| closed("connection refused"))?;
        Ok(ours)
    }

    async fn listen(&self, bind: &Address) -> Result<Box<dyn Listener>, TransportError> {
        let door = self.door(bind)?;
        let (sender, links) = mpsc::channel(BACKLOG_MAX);
        self.network.state().listeners.insert(door.clone(), sender);
        Ok(Box::new(MemoryListener { network: self.network.clone(), door, links }))
    }

    async fn subscribe(
        &self,
        address: &Address,
        capability: Capability,
    ) -> Result<Box<dyn LinkReceiver>, TransportError> {
        let door = self.resolve(address);
        self.reach(&door).await?;
        let closed = |cause: &str| TransportError::Closed { peer: address.to_string(), cause: cause.into() };
        let pipe = Pipe::new(self.network.clone(), &door.0, &self.name, SUBSCRIBER_QUEUE_BYTES_MAX);
        let mut state = self.network.state();
        let fan = state.fans.get_mut(&door).ok_or_else(|| closed("connection refused"))?;
        if !fan.admitted.remove(&capability) {
            return Err(closed("the capability is unknown or used"));
        }
        fan.subscribers.push((capability, pipe.clone()));
        drop(state);
        Ok(Box::new(MemorySubscription { pipe, peer: address.to_string() }))
    }

    async fn fanout(&self, bind: &Address) -> Result<Arc<dyn Fanout>, TransportError> {
        let door = self.door(bind)?;
        self.network.state().fans.insert(door.clone(), Fan::default());
        Ok(Arc::new(MemoryFanout { network: self.network.clone(), door }))
    }
}
