//! Master to master: links that are authenticated by the cluster CA, and calls over them.
//!
//! ```text
//!   Mesh::ask(to, channel, request)          one request, one reply, many at a time   (caller)
//!   Mesh::stream(to)                         append streams, pipelined in order       (raft::network)
//!   Mesh::serve(listener, service)           the other side                           (server)
//!
//!   channels per peer: Replicate · Control (heartbeats, votes) · Snapshot · Work (proposals, presence, probes)
//!                      · Bulk (proposals that carry what minions sent)
//! ```
//!
//! Each channel is a connection of its own, so that a snapshot or a burst of proposals never stands before a heartbeat, nor returns
//! before a revocation.
//! Who is at the other end is what the transport proved ([`MeshTransport`]); messages never name their sender.
//!
//! **It refuses** to retry: a call has one deadline and one outcome, and the caller knows whether repeating is harmless.

pub mod caller;
pub mod message;
pub mod server;
pub mod tls;

use crate::mesh::caller::Caller;
use crate::mesh::message::{Channel, Request, Response};
use saltern_wire::MasterId;
use saltern_wire::io::{Address, Link, TransportError};
use saltern_wire::master::Directory;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long dialling may take at least. TCP's and TLS's handshakes are two round trips; the longest that a profile bears are
/// 250 ms each, and a processor's share comes on top. Longer would be felt when a road that was cut is whole again.
pub const DIAL_WITHIN: Duration = Duration::from_millis(700);

/// How masters reach each other: TLS over TCP in production, simulated TCP in the simulation.
#[async_trait::async_trait]
pub trait MeshTransport: Send + Sync + 'static {
    /// Opens a link to `master` at `address`. The link is refused if another master answers there.
    async fn dial(&self, master: MasterId, address: &Address) -> Result<Link, TransportError>;
    /// Accepts links from other masters.
    async fn listen(&self, bind: &Address) -> Result<Box<dyn MeshListener>, TransportError>;
}

/// Accepts links from masters of the same cluster.
#[async_trait::async_trait]
pub trait MeshListener: Send + 'static {
    /// The next link and who is at its other end. Cancel safe. An error means that the listener is gone.
    async fn accept(&mut self) -> Result<(MasterId, Link), TransportError>;
}

/// Why a call brought no reply.
#[derive(Debug, Clone, thiserror::Error)]
pub enum MeshError {
    /// The master is not in the directory.
    #[error("master {0} is neither in the directory nor in the group")]
    Stranger(MasterId),
    /// Nothing was sent.
    #[error("master {to} is unreachable: {cause}")]
    Unreachable {
        /// Whom.
        to: MasterId,
        /// What was noticed.
        cause: String,
    },
    /// It was sent, and the outcome is unknown.
    #[error("master {to} gave no answer: {cause}")]
    Unanswered {
        /// Whom.
        to: MasterId,
        /// What was noticed.
        cause: String,
    },
}

/// The other masters, by id.
pub struct Mesh {
    transport: Arc<dyn MeshTransport>,
    addresses: Mutex<BTreeMap<MasterId, Address>>,
    /// Addresses as the group's log holds them: what there is before the directory is applied.
    members: Mutex<BTreeMap<MasterId, Address>>,
    callers: Mutex<BTreeMap<(MasterId, Channel), Arc<Caller>>>,
}

impl Mesh {
    /// A mesh that knows nobody yet.
    pub fn new(transport: Arc<dyn MeshTransport>) -> Arc<Self> {
        Arc::new(Self { transport, addresses: Mutex::default(), members: Mutex::default(), callers: Mutex::default() })
    }

    /// Takes the masters' addresses from a directory. Links to masters that moved or left are dropped.
    pub fn learn(&self, directory: &Directory) {
        let fresh: BTreeMap<_, _> =
            directory.masters.iter().map(|master| (master.id, master.endpoints.mesh.clone())).collect();
        let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        let mut callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        callers.retain(|(id, _), _| fresh.get(id) == addresses.get(id));
        *addresses = fresh;
    }

    /// Takes a member's address from the group's log. The directory's address, where there is one, goes first.
    pub fn learn_member(&self, master: MasterId, address: Address) {
        self.members.lock().unwrap_or_else(PoisonError::into_inner).insert(master, address);
    }

    /// The masters of the directory. A member of the group may be missing here, and is reached all the same.
    pub fn listed(&self) -> BTreeSet<MasterId> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }

    /// Opens a link of its own, for a stream.
    pub async fn open(&self, to: MasterId, channel: Channel, within: Duration) -> Result<Link, MeshError> {
        let address = self.address(to)?;
        let unreachable = |cause: String| MeshError::Unreachable { to, cause };
        let dial = async {
            let mut link = self.transport.dial(to, &address).await?;
            link.sender.send(channel.hello()).await?;
            Ok::<_, TransportError>(link)
        };
        match tokio::time::timeout(within, dial).await {
            Ok(Ok(link)) => Ok(link),
            Ok(Err(error)) => Err(unreachable(error.to_string())),
            Err(_) => Err(unreachable(format!("{address} did not accept a connection within {within:?}"))),
        }
    }

    /// Asks `to` and waits for its reply, at most `within`.
    pub async fn ask(
        self: &Arc<Self>,
        to: MasterId,
        channel: Channel,
        request: &Request,
        within: Duration,
    ) -> Result<Response, MeshError> {
        let caller = {
            self.address(to)?;
            let mut callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(callers.entry((to, channel)).or_insert_with(|| Arc::new(Caller::new(to, channel))))
        };
        caller.ask(self, request, within).await
    }

    fn address(&self, to: MasterId) -> Result<Address, MeshError> {
        let addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        let members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        addresses.get(&to).or_else(|| members.get(&to)).cloned().ok_or(MeshError::Stranger(to))
    }
}
