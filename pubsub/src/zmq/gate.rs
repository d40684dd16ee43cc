//! The gate's TCP: how ports are opened, connections accepted and made, and how their sockets are set up.
//!
//! ```text
//!   TCP ── crowd (limits) ── greet, READY ── [capability] ── relay ── private unix socket ── zeromq
//! ```
//!
//! The zeromq crate believes lengths it reads, keeps unbounded queues and has no time-outs; nothing reaches it that did not
//! pass here.
//!
//! **Invariants.** Running out of file descriptors slows accepting down and ends nothing.

use super::crowd::{Place, Turnstile};
use super::limits::UNACKNOWLEDGED_MS_MAX;
use super::offence::{CutReason, Logbook, count};
use saltern_wire::io::{Address, TransportError};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// Connections that wait to be accepted: a fleet that comes back within a second fits.
pub(super) const BACKLOG: i32 = 4096;

/// How long accepting rests when the system has no descriptor or memory for another connection.
const ACCEPT_REST: Duration = Duration::from_millis(100);

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
                count(&turnstile.logbook.counters.accepted);
                if let Some(place) = turnstile.enter(address.ip()) {
                    serve(stream, address, place);
                }
            }
            Err(error) if is_of_one_connection(&error) => count(&turnstile.logbook.counters.closed),
            Err(error) => {
                count(&turnstile.logbook.counters.accept_failed);
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

/// Whom a call has reached, for the logbook if it then takes too long.
#[derive(Default)]
pub(super) struct Called(OnceLock<SocketAddr>);

impl Called {
    /// Notes the other end of `stream`.
    pub(super) fn reached(&self, stream: &TcpStream) -> Result<SocketAddr, TransportError> {
        let gone = |error: std::io::Error| TransportError::Closed { peer: "a master".into(), cause: error.to_string() };
        let peer = stream.peer_addr().map_err(gone)?;
        Ok(*self.0.get_or_init(|| peer))
    }
}

/// Waits for a call to `address`, but not longer than `within`; a master that was reached and takes longer is noted.
pub(super) async fn in_time<T>(
    address: &Address,
    within: Duration,
    logbook: &Logbook,
    called: &Called,
    call: impl Future<Output = Result<T, TransportError>>,
) -> Result<T, TransportError> {
    if let Ok(outcome) = tokio::time::timeout(within, call).await {
        return outcome;
    }
    if let Some(peer) = called.0.get() {
        logbook.ended(peer.ip(), peer.port(), &CutReason::TimedOut(within.as_millis()));
    }
    let after_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
    Err(TransportError::TimedOut { peer: address.to_string(), after_ms })
}
