//! A network in memory: every host of a process or of a simulation, with links that can be cut, stalled and frozen.
//!
//! ```text
//!   MemoryNetwork ── host("m1") ──▶ MemoryTransport     dial, listen, subscribe, fanout
//!        └─ partition · heal · freeze · thaw · drop_links
//! ```
//!
//! A partition behaves as TCP does: what was sent waits and flows on when the road is open again, unless somebody gave up
//! before that. A frozen host is one whose every road is blocked. Bounds are those of the real transport, so a peer that
//! does not drain is cut off here as well.
//!
//! **Invariants.** No task is started, no clock is read and no random number drawn: under a seeded single-threaded runtime
//! the same calls give the same order.

mod pipe;
mod transport;

pub use transport::MemoryTransport;

use pipe::Pipe;
use saltern_wire::io::{Address, Capability, Link};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use tokio::sync::{Notify, mpsc};

/// Links that wait to be accepted by one listener; the backlog of a TCP socket.
const BACKLOG_MAX: usize = 4096;

/// First port that is given where 0 is asked for.
const EPHEMERAL_PORT_FIRST: u16 = 49_152;

/// A name and a port.
type Door = (String, u16);

/// One fan-out as the network sees it.
#[derive(Default)]
struct Fan {
    admitted: BTreeSet<Capability>,
    subscribers: Vec<(Capability, Arc<Pipe>)>,
}

/// Everything that is connected to everything.
#[derive(Default)]
struct State {
    listeners: BTreeMap<Door, mpsc::Sender<Link>>,
    fans: BTreeMap<Door, Fan>,
    pipes: Vec<Weak<Pipe>>,
    blocked: BTreeSet<(String, String)>,
    frozen: BTreeSet<String>,
    ports: u16,
}

impl State {
    /// Whether what `from` sends reaches `to` now.
    fn flows(&self, from: &str, to: &str) -> bool {
        let frozen = self.frozen.contains(from) || self.frozen.contains(to);
        !frozen && !self.blocked.contains(&(from.to_owned(), to.to_owned()))
    }

    /// Remembers a pipe, to wake and to cut it.
    fn register(&mut self, pipe: &Arc<Pipe>) {
        if self.pipes.len() == self.pipes.capacity() {
            self.pipes.retain(|pipe| pipe.strong_count() > 0);
        }
        self.pipes.push(Arc::downgrade(pipe));
    }

    /// A port that nobody on `host` listens on.
    fn free_port(&mut self, host: &str) -> u16 {
        loop {
            let port = EPHEMERAL_PORT_FIRST + self.ports;
            self.ports = (self.ports + 1) % (u16::MAX - EPHEMERAL_PORT_FIRST);
            let door = (host.to_owned(), port);
            if !self.listeners.contains_key(&door) && !self.fans.contains_key(&door) {
                return port;
            }
        }
    }
}

/// What all hosts of one network share.
struct Shared {
    state: Mutex<State>,
    /// Rung when a road opens or closes, or a door.
    changed: Notify,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves maps that are whole: every change of them is one call.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn flows(&self, from: &str, to: &str) -> bool {
        self.state().flows(from, to)
    }

    /// Wakes everyone who waits for a road.
    fn ring(&self) {
        let pipes: Vec<_> = self.state().pipes.iter().filter_map(Weak::upgrade).collect();
        for pipe in pipes {
            pipe.ring();
        }
        self.changed.notify_waiters();
    }
}

/// A network. Clones are the same network.
#[derive(Clone)]
pub struct MemoryNetwork {
    shared: Arc<Shared>,
}

impl Default for MemoryNetwork {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryNetwork {
    /// A network on which everyone reaches everyone.
    pub fn new() -> Self {
        Self { shared: Arc::new(Shared { state: Mutex::new(State::default()), changed: Notify::new() }) }
    }

    /// The transport of the host that others dial as `name`: a host name or an address, without a port.
    pub fn host(&self, name: impl Into<String>) -> MemoryTransport {
        MemoryTransport::new(self.shared.clone(), name.into())
    }

    /// Blocks the roads between two hosts, both ways.
    pub fn partition(&self, a: &str, b: &str) {
        self.partition_one_way(a, b);
        self.partition_one_way(b, a);
    }

    /// Blocks what `from` sends to `to`; the other way stays open.
    pub fn partition_one_way(&self, from: &str, to: &str) {
        self.shared.state().blocked.insert((from.to_owned(), to.to_owned()));
        self.shared.ring();
    }

    /// Opens the roads between two hosts, both ways.
    pub fn heal(&self, a: &str, b: &str) {
        {
            let mut state = self.shared.state();
            state.blocked.remove(&(a.to_owned(), b.to_owned()));
            state.blocked.remove(&(b.to_owned(), a.to_owned()));
        }
        self.shared.ring();
    }

    /// Opens every road. Frozen hosts stay frozen.
    pub fn heal_all(&self) {
        self.shared.state().blocked.clear();
        self.shared.ring();
    }

    /// Blocks every road from and to a host, as if its machine stood still: connections stay open and nothing moves.
    pub fn freeze(&self, host: &str) {
        self.shared.state().frozen.insert(host.to_owned());
        self.shared.ring();
    }

    /// Lets a frozen host go on.
    pub fn thaw(&self, host: &str) {
        self.shared.state().frozen.remove(host);
        self.shared.ring();
    }

    /// Cuts every link and subscription between two hosts. New ones may be opened at once.
    pub fn drop_links(&self, a: &str, b: &str) {
        let pipes: Vec<_> = self.shared.state().pipes.iter().filter_map(Weak::upgrade).collect();
        for pipe in pipes.iter().filter(|pipe| pipe.joins(a, b)) {
            pipe.cut("the connection was reset");
        }
    }
}

/// The real transport refuses longer ones; so does this.
fn fits(peer: &str, len: usize, max: usize) -> Result<(), saltern_wire::io::TransportError> {
    if len <= max {
        return Ok(());
    }
    let cause = format!("a message of {len} bytes, the limit is {max}");
    Err(saltern_wire::io::TransportError::Protocol { peer: peer.to_owned(), cause })
}

/// Names a door for people.
fn named(door: &Door) -> String {
    Address::new(door.0.clone(), door.1).to_string()
}
