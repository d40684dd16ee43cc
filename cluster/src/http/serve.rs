//! Accepts connections and carries their requests to the router, until cancelled.
//!
//! A client that has its share of the connections is refused the next one; one that does not read what it asked for loses
//! its connection ([`super::stall`]).
//!
//! Every connection is a task of the caller's tracker. On cancellation no new connection is accepted, idle ones are closed,
//! and a request under way is finished within [`DRAIN_TIMEOUT`].

use super::asking::Client;
use super::authorise::Caller;
use super::refusal::Refusal;
use super::stall::Draining;
use crate::room::Room;
use crate::witness::{Reason, Witness};
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use saltern_wire::api::FailureCode;
use saltern_wire::limits::HANDSHAKE_TIMEOUT_MS;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio_rustls::{TlsAcceptor, rustls};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

/// Connections on one listener at one time. A client has as many as it leaves free, so half of them if it is alone. A
/// connection costs one descriptor and up to [`HEADER_BYTES_MAX`]; a master has thousands of descriptors to spend on minions.
pub const CONNECTIONS_MAX: usize = 1024;

/// Largest head of a request, in bytes; no header of ours has more than a few hundred.
const HEADER_BYTES_MAX: usize = 32 * 1024;

/// How long a connection may be silent before and between requests.
const HEADER_TIMEOUT: Duration = Duration::from_secs(15);

/// How long a request may take, unless it is a stream: a proposal with all its retries, and the wait for freshness.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a request under way is waited for when the master stops.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);

/// Silence after which the kernel asks whether a client is still there, and between two such questions.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// Pause after a failed accept: descriptors come back, spinning would not bring them.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What every connection of a listener shares.
#[derive(Clone)]
pub struct Door {
    router: Router,
    places: Room<Client>,
    witness: Arc<Witness>,
    cancel: CancellationToken,
}

impl Door {
    /// Leads to `router` until `cancel`.
    pub fn new(router: Router, witness: Arc<Witness>, cancel: CancellationToken) -> Self {
        Self { router, places: Room::new(CONNECTIONS_MAX), witness, cancel }
    }

    /// A place for one more connection of `client`, if it has its share.
    fn enter(&self, client: &Client) -> Option<crate::room::Place<Client>> {
        let place = self.places.take(client.clone(), 1);
        if place.is_none() {
            self.witness.refuse_of(Reason::ApiClient, &client.to_string());
        }
        place
    }
}

/// What a client is told that has too many connections, where that can be said.
const TOO_MANY: &[u8] = b"HTTP/1.1 429 Too Many Requests\r\ncontent-type: application/json\r\nretry-after: 1\r\n\
    connection: close\r\ncontent-length: 94\r\n\r\n\
    {\"error\":{\"code\":\"busy\",\"message\":\"this client has too many connections already: close some\"}}";

/// Serves the unix socket until the door closes.
pub async fn serve_unix(listener: UnixListener, door: Door, tasks: TaskTracker) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = door.cancel.cancelled() => return,
        };
        match accepted.and_then(|(stream, _)| stream.peer_cred().map(|peer| (stream, peer))) {
            Ok((stream, peer)) => {
                let client = Client::Local { uid: peer.uid(), pid: peer.pid().unwrap_or(0) };
                let Some(place) = door.enter(&client) else {
                    // It has not asked yet; what fits into its socket's buffer it will read.
                    _ = stream.try_write(TOO_MANY);
                    continue;
                };
                let connection = converse(stream, Caller::Local { uid: peer.uid() }, client, door.clone());
                tasks.spawn(holding(place, connection));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection on the API's socket; trying again");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Serves HTTPS until the door closes.
pub async fn serve_tls(listener: TcpListener, tls: Arc<rustls::ServerConfig>, door: Door, tasks: TaskTracker) {
    let acceptor = TlsAcceptor::from(tls);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = door.cancel.cancelled() => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                let client = Client::Remote(peer.ip());
                // Closed before any cryptography.
                let Some(place) = door.enter(&client) else { continue };
                prepare(&stream);
                let handshake = acceptor.accept(stream);
                let door = door.clone();
                let connection = async move {
                    let patience = Duration::from_millis(HANDSHAKE_TIMEOUT_MS);
                    match tokio::time::timeout(patience, handshake).await {
                        Ok(Ok(stream)) => converse(stream, Caller::Remote { peer }, client, door).await,
                        Ok(Err(error)) => tracing::debug!(%peer, %error, "a TLS handshake on the API's port failed"),
                        Err(_) => tracing::debug!(%peer, "dropped a silent connection on the API's port"),
                    }
                };
                tasks.spawn(holding(place, connection));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection on the API's port; trying again");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// A failure here shows as one on the stream, soon: without keepalive a peer that is gone without a word is noticed by what
/// it does not read.
fn prepare(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE);
    let _ = socket2::SockRef::from(stream).set_tcp_keepalive(&keepalive);
}

/// Gives the place back when the connection is over.
async fn holding(place: crate::room::Place<Client>, connection: impl Future<Output = ()>) {
    connection.await;
    drop(place);
}

/// Carries the requests of one connection.
async fn converse<S>(stream: S, caller: Caller, client: Client, door: Door)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Door { router, witness, cancel, places: _ } = door;
    let asks = client.clone();
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let router = router.clone();
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(caller);
        request.extensions_mut().insert(asks.clone());
        async move { router.oneshot(request).await }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEADER_BYTES_MAX)
        .serve_connection(TokioIo::new(Draining::new(stream)), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = cancel.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(DRAIN_TIMEOUT, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        if stalled(&error) {
            witness.refuse_of(Reason::ApiSlowReader, &client.to_string());
        }
        tracing::debug!(?caller, %error, "an API connection ended early");
    }
}

/// Whether a connection ended because its client did not read.
fn stalled(error: &hyper::Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<std::io::Error>());
    cause.is_some_and(|cause| cause.kind() == std::io::ErrorKind::TimedOut)
}

/// The answer for a path that is none.
pub async fn no_such_path(request: Request) -> Refusal {
    let message = format!("there is no {} {} in this API", request.method(), request.uri().path());
    Refusal::new(FailureCode::NotFound, message)
}

/// The answer for a path that does not take the method.
pub async fn no_such_method(request: Request) -> Refusal {
    let message = format!("{} does not take {}", request.uri().path(), request.method());
    Refusal::new(FailureCode::Invalid, message)
}
