//! One request over one connection, and the times it may take.
//!
//! A connection serves one request: masters count connections, and an operator's program asks few questions. Its task ends
//! with the [`Reply`] that holds it.

use super::AttemptError;
use super::server::Server;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use saltern_wire::RequestId;
use saltern_wire::api::{DEADLINE_HEADER, REQUEST_HEADER};
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_util::task::AbortOnDropHandle;

/// Time to connect and to finish the TLS handshake: five round trips to the other side of the world.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(1_500);

/// Time until the first byte of an answer: longer than a master tries to get a proposal committed (10 s), after which it says
/// itself that the outcome is unknown.
const FIRST_BYTE_TIMEOUT: Duration = Duration::from_millis(12_000);

/// What is asked, the same at every server.
#[derive(Debug, Clone)]
pub struct Ask {
    /// GET, POST or PUT.
    pub method: Method,
    /// Path and query, encoded.
    pub target: String,
    /// JSON.
    pub body: Option<Bytes>,
    /// Names a write.
    pub request: Option<RequestId>,
    /// The last event seen, when a stream goes on.
    pub last_event: Option<String>,
    /// How long the answer is waited for, if the operator said so; a master does not begin what nobody waits for.
    pub patience: Option<Duration>,
}

/// The beginning of an answer. Dropping it closes the connection.
pub struct Reply {
    status: StatusCode,
    body: Incoming,
    _connection: AbortOnDropHandle<()>,
}

impl Reply {
    /// Whether the status is 2xx.
    pub fn is_success(&self) -> bool {
        self.status.is_success()
    }

    /// The HTTP status.
    pub fn status(&self) -> u16 {
        self.status.as_u16()
    }

    /// The next piece of the body, `None` at its end.
    pub async fn chunk(&mut self) -> Option<Result<Bytes, AttemptError>> {
        loop {
            match self.body.frame().await? {
                Ok(frame) => {
                    if let Ok(data) = frame.into_data() {
                        return Some(Ok(data));
                    }
                }
                Err(error) => return Some(Err(broken(&error, true))),
            }
        }
    }

    /// The whole body.
    pub async fn bytes(self, bytes_max: usize, within: Duration) -> Result<Bytes, AttemptError> {
        match tokio::time::timeout(within, Limited::new(self.body, bytes_max).collect()).await {
            Ok(Ok(collected)) => Ok(collected.to_bytes()),
            Ok(Err(error)) => Err(unreachable(format!("the answer broke off: {error}"), true)),
            Err(_) => Err(unreachable(format!("the answer did not end within {} s", within.as_secs()), true)),
        }
    }
}

/// Connects to `server`, asks, and waits for the beginning of the answer.
pub async fn send(server: &Server, ask: &Ask) -> Result<Reply, AttemptError> {
    match server {
        Server::Unix(path) => {
            let stream = connected(UnixStream::connect(path)).await?;
            exchange(stream, ask, "localhost", None).await
        }
        Server::Https { address, tls, token } => {
            let name = ServerName::try_from(address.host().to_owned())
                .map_err(|_| unreachable("the host is not a name that TLS knows".into(), false))?;
            let connector = tokio_rustls::TlsConnector::from(tls.clone());
            let open = async {
                let stream = TcpStream::connect((address.host(), address.port())).await?;
                stream.set_nodelay(true)?;
                connector.connect(name, stream).await
            };
            let stream = connected(open).await?;
            let bearer = token.as_ref().map(|token| token.header());
            exchange(stream, ask, &address.to_string(), bearer).await
        }
    }
}

/// Waits for a connection as long as one is worth waiting for.
async fn connected<S>(open: impl Future<Output = io::Result<S>>) -> Result<S, AttemptError> {
    match tokio::time::timeout(CONNECT_TIMEOUT, open).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(AttemptError::Unreachable {
            cause: error.to_string(),
            sent: false,
            forbidden: error.kind() == io::ErrorKind::PermissionDenied,
        }),
        Err(_) => Err(unreachable(format!("no connection within {} ms", CONNECT_TIMEOUT.as_millis()), false)),
    }
}

async fn exchange<S>(stream: S, ask: &Ask, host: &str, bearer: Option<String>) -> Result<Reply, AttemptError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let request = request(ask, host, bearer)?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| broken(&error, false))?;
    // The connection's own error comes back to the sender as well.
    let connection = AbortOnDropHandle::new(tokio::spawn(async move {
        let _ = connection.await;
    }));
    match tokio::time::timeout(FIRST_BYTE_TIMEOUT, sender.send_request(request)).await {
        Ok(Ok(response)) => {
            let (head, body) = response.into_parts();
            Ok(Reply { status: head.status, body, _connection: connection })
        }
        Ok(Err(error)) => Err(broken(&error, true)),
        Err(_) => Err(unreachable(format!("no answer within {} ms", FIRST_BYTE_TIMEOUT.as_millis()), true)),
    }
}

fn request(ask: &Ask, host: &str, bearer: Option<String>) -> Result<Request<Full<Bytes>>, AttemptError> {
    let mut builder = Request::builder().method(ask.method.clone()).uri(&ask.target).header(HOST, host);
    let accept = if ask.target.contains("/events") { "text/event-stream" } else { "application/json" };
    builder = builder.header(ACCEPT, accept);
    if ask.body.is_some() {
        builder = builder.header(CONTENT_TYPE, "application/json");
    }
    if let Some(request) = ask.request {
        builder = builder.header(REQUEST_HEADER, request.to_string());
    }
    if let Some(patience) = ask.patience {
        builder = builder.header(DEADLINE_HEADER, patience.as_millis().max(1).to_string());
    }
    if let Some(last_event) = &ask.last_event {
        builder = builder.header("last-event-id", last_event);
    }
    if let Some(bearer) = bearer {
        let mut value = HeaderValue::try_from(bearer)
            .map_err(|error| AttemptError::Malformed(format!("the token does not fit a header: {error}")))?;
        value.set_sensitive(true);
        builder = builder.header(AUTHORIZATION, value);
    }
    let body = Full::new(ask.body.clone().unwrap_or_default());
    builder.body(body).map_err(|error| AttemptError::Malformed(format!("{:?} is no request: {error}", ask.target)))
}

fn unreachable(cause: String, sent: bool) -> AttemptError {
    AttemptError::Unreachable { cause, sent, forbidden: false }
}

/// hyper's errors say what happened in their source.
fn broken(error: &hyper::Error, sent: bool) -> AttemptError {
    let mut cause = error.to_string();
    if let Some(source) = std::error::Error::source(error) {
        cause = format!("{cause}: {source}");
    }
    unreachable(cause, sent)
}
