//! Accepts connections and carries their requests to the router, until cancelled.
//!
//! Every connection is a task of the caller's tracker. On cancellation no new connection is accepted, idle ones are closed,
//! and a request under way is finished within [`DRAIN_TIMEOUT`].

use super::authorise::Caller;
use super::refusal::Refusal;
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use saltern_wire::api::FailureCode;
use saltern_wire::limits::HANDSHAKE_TIMEOUT_MS;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::{TlsAcceptor, rustls};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

/// Connections on one listener at one time; the next ones wait in the kernel's backlog. A connection costs one descriptor
/// and up to [`HEADER_BYTES_MAX`]; a master has thousands of descriptors to spend on minions.
pub const CONNECTIONS_MAX: usize = 512;

/// Largest head of a request, in bytes; no header of ours has more than a few hundred.
const HEADER_BYTES_MAX: usize = 32 * 1024;

/// How long a connection may be silent before and between requests.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a request may take, unless it is a stream: a proposal with all its retries, and the wait for freshness.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a request under way is waited for when the master stops.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);

/// Pause after a failed accept: descriptors come back, spinning would not bring them.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves the unix socket until `cancel`.
pub async fn serve_unix(listener: UnixListener, router: Router, tasks: TaskTracker, cancel: CancellationToken) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Some(place) = place(&places, &cancel).await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = cancel.cancelled() => return,
        };
        let credentials = accepted.and_then(|(stream, _)| stream.peer_cred().map(|peer| (stream, peer.uid())));
        match credentials {
            Ok((stream, uid)) => {
                let connection = converse(stream, Caller::Local { uid }, router.clone(), cancel.clone());
                tasks.spawn(holding(place, connection));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection on the API's socket; trying again");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Serves HTTPS until `cancel`.
pub async fn serve_tls(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    router: Router,
    tasks: TaskTracker,
    cancel: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let acceptor = TlsAcceptor::from(tls);
    loop {
        let Some(place) = place(&places, &cancel).await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = cancel.cancelled() => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                // A failure here shows as one on the stream, soon.
                let _ = stream.set_nodelay(true);
                let handshake = acceptor.accept(stream);
                let (router, cancel) = (router.clone(), cancel.clone());
                let connection = async move {
                    let patience = Duration::from_millis(HANDSHAKE_TIMEOUT_MS);
                    match tokio::time::timeout(patience, handshake).await {
                        Ok(Ok(stream)) => converse(stream, Caller::Remote { peer }, router, cancel).await,
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

/// A place for one more connection, or `None` if the listener is to stop.
async fn place(places: &Arc<Semaphore>, cancel: &CancellationToken) -> Option<OwnedSemaphorePermit> {
    tokio::select! {
        place = Arc::clone(places).acquire_owned() => place.ok(),
        () = cancel.cancelled() => None,
    }
}

/// Gives the place back when the connection is over.
async fn holding(place: OwnedSemaphorePermit, connection: impl Future<Output = ()>) {
    connection.await;
    drop(place);
}

/// Carries the requests of one connection.
async fn converse<S>(stream: S, caller: Caller, router: Router, cancel: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let router = router.clone();
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(caller);
        async move { router.oneshot(request).await }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEADER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = cancel.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(DRAIN_TIMEOUT, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(?caller, %error, "an API connection ended early");
    }
}

/// Ends a request that takes too long. Not for streams, which take as long as they are watched.
pub async fn deadline(request: Request, next: Next) -> Response {
    match tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let message = format!(
                "no answer within {} s: the outcome is unknown, ask again under the same request id",
                REQUEST_TIMEOUT.as_secs()
            );
            Refusal::new(FailureCode::Unknown, message).into_response()
        }
    }
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
