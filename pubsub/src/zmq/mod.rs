//! ZeroMQ: the transport between real processes.
//!
//! ```text
//!   minion                                              master
//!   DEALER ─ unix ─ gate ══ TCP 4506 ══ gate ─ unix ─ ROUTER      request.rs, relay.rs
//!   SUB    ─ unix ─ gate ══ TCP 4505 ══ gate ─ unix ─ PUB         publish.rs
//! ```
//!
//! The zeromq crate is fast, and unfit to face a network: it believes lengths, keeps unbounded queues, spins on a lack of
//! descriptors, and waits for ever. So its sockets are bound to private unix sockets only, and `gate.rs` owns every TCP
//! connection on both ends, speaks ZMTP with the outside itself, and passes on clean frames.
//!
//! `crowd.rs` says who may come in, `offence.rs` what became of whom, `stream.rs` and `frame.rs` are ZMTP.
//!
//! **Invariants.** `zeromq` is named in this folder only. One TCP connection is one link or one subscription; nothing
//! reconnects. Every queue between two ends is bounded in bytes. The fan-out runs on a thread of its own.
//!
//! **Caveats.** A connection costs three file descriptors instead of one, and one more copy of its bytes each way.

mod crowd;
mod frame;
#[cfg(test)]
mod fuzz;
mod gate;
mod inner;
mod limits;
mod needs;
mod offence;
mod publish;
mod relay;
mod request;
mod stream;
mod subscribe;
mod usher;

pub use limits::{GateLimits, raise_descriptor_limit};
pub use needs::{Needs, Room, Shortage};
pub use offence::{GateCounters, News, OFFENDERS_MAX, Offence, Offences};

use inner::PrivateFolder;
use offence::Logbook;
use saltern_wire::io::{Address, Capability, Fanout, Link, LinkReceiver, Listener, Transport, TransportError};
use std::sync::Arc;

/// The transport over ZeroMQ. Cheap to clone; clones share their folder of private sockets and their counters.
#[derive(Clone)]
pub struct ZmqTransport {
    limits: GateLimits,
    logbook: Logbook,
    folder: Arc<PrivateFolder>,
}

impl ZmqTransport {
    /// A transport whose gate has `limits`. Fails if no private folder can be made in the system's place for temporary files.
    pub fn new(limits: GateLimits) -> std::io::Result<Self> {
        Ok(Self { limits, logbook: Logbook::default(), folder: Arc::new(PrivateFolder::make()?) })
    }

    /// What the gate did, by reason.
    pub fn counters(&self) -> Arc<GateCounters> {
        self.logbook.counters.clone()
    }

    /// Who was refused or cut, and why. On a minion: which masters' addresses behaved like no master.
    pub fn offences(&self) -> Arc<Offences> {
        self.logbook.offences.clone()
    }
}

#[async_trait::async_trait]
impl Transport for ZmqTransport {
    async fn dial(&self, address: &Address) -> Result<Link, TransportError> {
        request::dial(address, &self.limits, self.logbook.clone(), &self.folder).await
    }

    async fn listen(&self, bind: &Address) -> Result<Box<dyn Listener>, TransportError> {
        request::listen(bind, self.limits.clone(), self.logbook.clone(), self.folder.clone()).await
    }

    async fn subscribe(
        &self,
        address: &Address,
        capability: Capability,
    ) -> Result<Box<dyn LinkReceiver>, TransportError> {
        subscribe::subscribe(address, capability, &self.limits, self.logbook.clone(), &self.folder).await
    }

    async fn fanout(&self, bind: &Address) -> Result<Arc<dyn Fanout>, TransportError> {
        publish::fanout(bind, self.limits.clone(), self.logbook.clone(), self.folder.clone()).await
    }
}
