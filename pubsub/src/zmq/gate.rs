//! The gate: who may connect, how many, and how their sockets are set up. It owns the TCP side of every connection.
//!
//! ```text
//!   TCP ── admit (limits) ── greet, READY ── [capability] ── relay ── private unix socket ── zeromq
//! ```
//!
//! The zeromq crate believes lengths it reads, keeps unbounded queues and has no time-outs; nothing reaches it that did not
//! pass here.
//!
//! **Invariants.** A connection counts against its limits from the accept to its last byte, whatever becomes of it. A
//! refusal costs one accepted socket and no memory. Running out of file descriptors slows accepting down and ends nothing.

use super::stream::StreamError;
use saltern_wire::io::{Address, TransportError};
use saltern_wire::limits::{FANOUT_FRAME_BYTES_MAX, HANDSHAKE_TIMEOUT_MS};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// Connections that wait to be accepted: a fleet that comes back within a second fits.
const BACKLOG: i32 = 4096;

/// How long accepting rests when the system has no descriptor or memory for another connection.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// How long sent bytes may stay unacknowledged, in milliseconds: longer than any rerouting that a session should survive,
/// shorter than the minute after which an operator would look.
const UNACKNOWLEDGED_MS_MAX: u64 = 20_000;

/// File descriptors of one connection: the TCP socket and both ends of the unix stream behind it.
const DESCRIPTORS_PER_CONNECTION: u64 = 3;

/// File descriptors that are left for everything else in the process: databases, peers, operators.
const DESCRIPTORS_RESERVED: u64 = 2_000;

/// What the gate lets through, per port. All are bounds against strangers as much as against accidents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GateLimits {
    /// Most connections at one time.
    pub connections_max: usize,
    /// Most connections from one address; loopback is exempt, because whole test fleets live there.
    pub connections_per_address_max: usize,
    /// Most connections that have not proved anything yet.
    pub unproven_max: usize,
    /// How long a connection may take to greet, to make ready and to show its capability; also how long a dial may take.
    pub handshake_timeout: Duration,
    /// How long a peer may take nothing of what is being written to it.
    pub stall_timeout: Duration,
    /// Most bytes that wait for one subscriber; above it the subscriber is cut.
    pub subscriber_queue_bytes_max: usize,
}

impl Default for GateLimits {
    /// As many connections as the process has descriptors for, shared between the two ports.
    fn default() -> Self {
        let descriptors = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(1 << 20);
        // A small limit still serves a few.
        let usable = descriptors.saturating_sub(DESCRIPTORS_RESERVED).max(descriptors / 2);
        let connections_max = usize::try_from(usable / (2 * DESCRIPTORS_PER_CONNECTION)).unwrap_or(usize::MAX);
        Self {
            connections_max,
            connections_per_address_max: 1024,
            unproven_max: connections_max.min(4096),
            handshake_timeout: Duration::from_millis(HANDSHAKE_TIMEOUT_MS),
            stall_timeout: Duration::from_millis(UNACKNOWLEDGED_MS_MAX),
            subscriber_queue_bytes_max: 4 * FANOUT_FRAME_BYTES_MAX,
        }
    }
}

/// Raises this process's limit of open files to the most that the system allows, and gives it. For `main`, before anything
/// is opened; [`GateLimits::default`] goes by it.
pub fn raise_descriptor_limit() -> std::io::Result<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised)?;
    Ok(limit.maximum.unwrap_or(u64::MAX))
}

/// Declares counters with their names.
macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What the gate did, by reason. Read by the owner at any time.
        #[derive(Debug, Default)]
        pub struct GateCounters {
            $($(#[$doc])* pub $name: AtomicU64,)*
        }

        impl GateCounters {
            /// All counters with their names, for metrics.
            pub fn snapshot(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name.load(Relaxed)),)*]
            }
        }
    };
}

counters! {
    /// Connections accepted, refused ones included.
    accepted,
    /// Times that the system had no descriptor or memory for a connection.
    accept_failed,
    /// Refused: too many connections.
    refused_full,
    /// Refused: too many connections from its address.
    refused_address,
    /// Refused: too many connections that have proved nothing.
    refused_unproven,
    /// Cut: not ready in time.
    timed_out,
    /// Cut: no greeting, or one of another protocol.
    bad_greeting,
    /// Cut: a frame above its limit.
    oversized,
    /// Cut: asked for a peer identity.
    bad_identity,
    /// Cut: frames or commands that do not belong here.
    bad_frame,
    /// Cut: no capability, an unknown or a used one.
    bad_capability,
    /// Cut: its capability was revoked.
    revoked,
    /// Cut: did not drain its queue.
    evicted,
    /// Cut: missed a frame inside this process, and is better off attaching anew.
    gapped,
    /// Cut: this process could not serve it.
    failed,
    /// Closed by the other side, or lost.
    closed,
    /// Frames that were not published because too many were waiting.
    unpublished,
}

/// Counts one.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum CutReason {
    #[error("{0}")]
    Stream(StreamError),
    #[error("it did not finish its handshake within {0} ms")]
    TimedOut(u128),
    #[error("its capability is unknown or used")]
    Capability,
    #[error("its capability was revoked")]
    Revoked,
    #[error("it did not drain its queue")]
    Evicted,
    #[error("it missed a frame")]
    Gapped,
    #[error("this side failed: {0}")]
    Failed(StreamError),
    #[error("this side closed it")]
    Dropped,
}

impl From<StreamError> for CutReason {
    fn from(error: StreamError) -> Self {
        Self::Stream(error)
    }
}

impl CutReason {
    /// Counts the reason.
    pub(super) fn count(&self, counters: &GateCounters) {
        use super::frame::FrameError;
        count(match self {
            Self::Stream(StreamError::Closed | StreamError::Io(_)) => &counters.closed,
            Self::Stream(StreamError::Frame(error)) => match error {
                FrameError::Greeting(_) => &counters.bad_greeting,
                FrameError::Large { .. } => &counters.oversized,
                FrameError::Identity => &counters.bad_identity,
                FrameError::Subscription => &counters.bad_capability,
                FrameError::Flags(_)
                | FrameError::Ready(_)
                | FrameError::SocketType { .. }
                | FrameError::Command
                | FrameError::Multipart => &counters.bad_frame,
            },
            Self::TimedOut(_) => &counters.timed_out,
            Self::Capability => &counters.bad_capability,
            Self::Revoked => &counters.revoked,
            Self::Evicted => &counters.evicted,
            Self::Gapped => &counters.gapped,
            Self::Failed(_) => &counters.failed,
            Self::Dropped => return,
        });
    }
}

/// How many are inside.
#[derive(Default)]
struct Crowd {
    all: usize,
    unproven: usize,
    by_address: BTreeMap<IpAddr, usize>,
}

/// The crowd of one port.
pub(super) struct Turnstile {
    limits: GateLimits,
    counters: Arc<GateCounters>,
    crowd: Mutex<Crowd>,
}

impl Turnstile {
    pub(super) fn new(limits: GateLimits, counters: Arc<GateCounters>) -> Arc<Self> {
        Arc::new(Self { limits, counters, crowd: Mutex::new(Crowd::default()) })
    }

    fn crowd(&self) -> MutexGuard<'_, Crowd> {
        // Three counts; none is left half changed by a panic.
        self.crowd.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a connection from `address`, unless a limit is reached.
    fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let mut crowd = self.crowd();
        let here = crowd.by_address.get(&address).copied().unwrap_or(0);
        let refused = if crowd.all >= self.limits.connections_max {
            Some(&self.counters.refused_full)
        } else if here >= self.limits.connections_per_address_max && !address.is_loopback() {
            Some(&self.counters.refused_address)
        } else if crowd.unproven >= self.limits.unproven_max {
            Some(&self.counters.refused_unproven)
        } else {
            None
        };
        if let Some(counter) = refused {
            count(counter);
            return None;
        }
        crowd.all += 1;
        crowd.unproven += 1;
        crowd.by_address.insert(address, here + 1);
        Some(Place { turnstile: self.clone(), address, proven: false })
    }
}

/// One connection's place in the crowd.
pub(super) struct Place {
    turnstile: Arc<Turnstile>,
    address: IpAddr,
    proven: bool,
}

impl Place {
    /// It has proved something: who it is, or that it was invited.
    pub(super) fn prove(&mut self) {
        if !self.proven {
            self.proven = true;
            self.turnstile.crowd().unproven -= 1;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.prove();
        let mut crowd = self.turnstile.crowd();
        crowd.all -= 1;
        if let Some(here) = crowd.by_address.get_mut(&self.address) {
            *here -= 1;
            if *here == 0 {
                crowd.by_address.remove(&self.address);
            }
        }
    }
}

/// Binds a port. The error is at once what the system says.
pub(super) async fn bind(address: &Address) -> Result<(std::net::TcpListener, Address), TransportError> {
    let refuse = |source| TransportError::Address { address: address.clone(), source };
    let mut candidates = tokio::net::lookup_host((address.host(), address.port())).await.map_err(refuse)?;
    let Some(socket_address) = candidates.next() else {
        return Err(refuse(std::io::Error::new(std::io::ErrorKind::NotFound, "the name has no address")));
    };
    let listener = bind_socket(socket_address).map_err(refuse)?;
    let port = listener.local_addr().map_err(refuse)?.port();
    Ok((listener, Address::new(address.host(), port)))
}

fn bind_socket(address: SocketAddr) -> std::io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Accepts connections until `closing`, and hands each with its place to `serve`.
pub(super) async fn accept(
    listener: TcpListener,
    turnstile: Arc<Turnstile>,
    closing: CancellationToken,
    serve: impl Fn(TcpStream, SocketAddr, Place),
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = closing.cancelled() => return,
        };
        match accepted {
            Ok((stream, address)) => {
                count(&turnstile.counters.accepted);
                if let Some(place) = turnstile.enter(address.ip()) {
                    serve(stream, address, place);
                }
            }
            Err(error) if is_of_one_connection(&error) => count(&turnstile.counters.closed),
            Err(error) => {
                count(&turnstile.counters.accept_failed);
                tracing::warn!(%error, "accepting connections rests for {} ms", ACCEPT_REST.as_millis());
                tokio::time::sleep(ACCEPT_REST).await;
            }
        }
    }
}

/// Whether the fault is that connection's alone.
fn is_of_one_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// Closes a listening port at once, also while its accept loop still runs.
pub(super) fn close_port(listener: &std::net::TcpListener) {
    // It fails only for a socket that does not listen any more.
    let _ = SockRef::from(listener).shutdown(std::net::Shutdown::Both);
}

/// Sets up a connection: no delay, and a silent or unreachable peer is noticed by the system.
pub(super) fn tune(stream: &TcpStream) -> std::io::Result<()> {
    let keepalive =
        TcpKeepalive::new().with_time(Duration::from_secs(15)).with_interval(Duration::from_secs(5)).with_retries(3);
    let socket = SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(Duration::from_millis(UNACKNOWLEDGED_MS_MAX)))
}

/// Connects to `address`, whose name is looked up anew each time. Each of its addresses gets an equal part of `within`.
pub(super) async fn connect(address: &Address, within: Duration) -> Result<TcpStream, TransportError> {
    let peer = address.to_string();
    let after_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
    let timed_out = || TransportError::TimedOut { peer: peer.clone(), after_ms };
    let found = tokio::time::timeout(within, tokio::net::lookup_host((address.host(), address.port()))).await;
    let found = found.map_err(|_| timed_out())?;
    let refuse = |source| TransportError::Address { address: address.clone(), source };
    let candidates: Vec<_> = found.map_err(refuse)?.collect();
    let share = within / u32::try_from(candidates.len().max(1)).unwrap_or(u32::MAX);
    let mut failure = refuse(std::io::Error::new(std::io::ErrorKind::NotFound, "the name has no address"));
    for candidate in candidates {
        failure = match tokio::time::timeout(share, TcpStream::connect(candidate)).await {
            Ok(Ok(stream)) => match tune(&stream) {
                Ok(()) => return Ok(stream),
                Err(error) => TransportError::Closed { peer: peer.clone(), cause: error.to_string() },
            },
            Ok(Err(error)) => TransportError::Closed { peer: peer.clone(), cause: error.to_string() },
            Err(_) => timed_out(),
        };
    }
    Err(failure)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_limited_and_given_back() {
        let limits =
            GateLimits { connections_max: 3, connections_per_address_max: 2, unproven_max: 2, ..GateLimits::default() };
        let turnstile = Turnstile::new(limits, Arc::default());
        let counters = turnstile.counters.clone();
        let [near, far]: [IpAddr; 2] = [[10, 0, 0, 1].into(), [10, 0, 0, 2].into()];
        let mut first = turnstile.enter(near).expect("room");
        let second = turnstile.enter(near).expect("room");
        assert!(turnstile.enter(far).is_none(), "two have proved nothing");
        first.prove();
        assert!(turnstile.enter(near).is_none(), "two from one address");
        let mut third = turnstile.enter(far).expect("room");
        third.prove();
        assert!(turnstile.enter(far).is_none(), "full");
        drop(second);
        assert!(turnstile.enter(far).is_some());
        let refused = [&counters.refused_unproven, &counters.refused_address, &counters.refused_full];
        assert_eq!(refused.map(|counter| counter.load(Relaxed)), [1, 1, 1]);
        drop((first, third));
        let crowd = turnstile.crowd();
        assert_eq!((crowd.all, crowd.unproven, crowd.by_address.len()), (0, 0, 0));
    }
}
