//! Who asks, and how long it waits: known to everything that is done for one request, without being handed through.
//!
//! **Invariants.** A request has a deadline from the moment on at which its head was read: the client's own
//! ([`DEADLINE_HEADER`]), or [`REQUEST_TIMEOUT`]. What is done for it keeps that: a proposal is not written any more, a read
//! is not begun any more once it is over. A write that ran out of time without a word of its own is *unknown*, never refused.

use super::refusal::Refusal;
use super::serve::REQUEST_TIMEOUT;
use crate::witness::{Queue, Witness};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use saltern_wire::api::{DEADLINE_HEADER, FailureCode};
use saltern_wire::io::Clock;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// How much longer than its deadline a request is waited for, so that whoever knows what has become of it can say so.
const GRACE: Duration = Duration::from_millis(250);

tokio::task_local! {
    static ASKING: Asking;
}

/// One client, as far as places and turns go: those of one never depend on another's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Client {
    /// A process of this machine.
    Local {
        /// Its user.
        uid: u32,
        /// Its number: scripts of one user are clients of their own.
        pid: i32,
    },
    /// A machine.
    Remote(IpAddr),
    /// Nobody said.
    Nobody,
}

impl fmt::Display for Client {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local { uid, pid } => write!(out, "process {pid} of user {uid}"),
            Self::Remote(address) => write!(out, "{address}"),
            Self::Nobody => out.write_str("nobody"),
        }
    }
}

/// One request under way.
#[derive(Debug, Clone)]
pub struct Asking {
    /// Who asks.
    pub client: Client,
    /// When it no longer waits, by this master's monotonic clock.
    pub deadline: Duration,
}

/// The request that is being served here; `None` outside of one.
pub fn asking() -> Option<Asking> {
    ASKING.try_with(Clone::clone).ok()
}

/// What deadlines are measured with, and told to when one has passed.
#[derive(Clone)]
pub struct Patience {
    /// This master's clock.
    pub clock: Arc<dyn Clock>,
    /// Counts what ran out of time.
    pub witness: Arc<Witness>,
}

/// Gives a request its deadline and ends it when that has passed. Not for streams, which take as long as they are watched.
pub async fn deadline(State(patience): State<Patience>, request: Request, next: Next) -> Response {
    let within = match wanted(request.headers()) {
        Ok(within) => within,
        Err(refusal) => return refusal.into_response(),
    };
    let client = request.extensions().get::<Client>().cloned().unwrap_or(Client::Nobody);
    let reads = request.method() == Method::GET;
    let deadline = patience.clock.monotonic() + within;
    let work = ASKING.scope(Asking { client, deadline }, next.run(request));
    match tokio::time::timeout(within + GRACE, work).await {
        Ok(response) => response,
        Err(_) => {
            patience.witness.expire(Queue::Api);
            late(within, reads).into_response()
        }
    }
}

/// What a request that ran out of time has come to.
pub fn late(within: Duration, reads: bool) -> Refusal {
    let ms = within.as_millis();
    if reads {
        let message = format!("no answer within {ms} ms: ask again, give it more time, or ask another master");
        return Refusal::new(FailureCode::Busy, message);
    }
    let message = format!("no answer within {ms} ms: the outcome is unknown, ask again under the same request id");
    Refusal::new(FailureCode::Unknown, message)
}

/// How long the client waits.
fn wanted(headers: &HeaderMap) -> Result<Duration, Refusal> {
    let Some(value) = headers.get(DEADLINE_HEADER) else { return Ok(REQUEST_TIMEOUT) };
    let text = value.to_str().unwrap_or("(not text)");
    match text.parse::<u64>() {
        Ok(ms) if ms > 0 => Ok(Duration::from_millis(ms).min(REQUEST_TIMEOUT)),
        Ok(_) | Err(_) => {
            let message = format!("{DEADLINE_HEADER} is {text:?}: give milliseconds, at least 1");
            Err(Refusal::new(FailureCode::Invalid, message))
        }
    }
}
