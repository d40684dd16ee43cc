//! The operators' API: what can be asked of a master, one file per noun. Paths and types: [`saltern_wire::api`].
//!
//! ```text
//!   request ─ http (who? how long?) ─▶ handler ─▶ Fresh (revision, consistent) ─▶ read the tables ─▶ Answer
//!                                         └─▶ truth.propose · Jobs::submit ─▶ applied here ──────────▶ Answer
//! ```
//!
//! **Invariants.** An answer's revision is never older than anything in it, so that a client that hands it back never reads
//! back in time; unless writes come in faster than the tables are read, it is exact. Selections (which keys) are resolved
//! against local state into exact names before anything is proposed. A write that is retried under its request id finds the
//! first answer.
//!
//! **It refuses** to hold a list in a stream: pages are bounded, streams are counted and end with the master.

pub mod cluster;
pub mod config;
pub mod event;
pub mod job;
pub mod key;
pub mod mine;
pub mod minion;

use crate::http::serve::{deadline, no_such_method, no_such_path};
use crate::http::{Gatekeeper, Refusal, authorise, health, serve_tls, serve_unix};
use crate::metrics::Metrics;
use crate::node::Node;
use crate::pki::{Credentials, PkiError, tls};
use crate::presence::Presence;
use crate::submit::Jobs;
use crate::truth::Truth;
use crate::watch::Watch;
use axum::Json;
use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{get, post, put};
use saltern_store::State;
use saltern_wire::api::{Answer, FailureCode};
use saltern_wire::io::Io;
use saltern_wire::master::Directory;
use saltern_wire::{MasterId, RequestId};
use std::sync::Arc;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

/// Event streams at one time: each holds a place in every broadcast, and a connection.
const STREAMS_MAX: usize = 256;

/// Joins at one time. Their path is open to everybody, and a wrong token costs a log entry.
const JOINS_MAX: usize = 2;

/// Readings of the tables before an answer's revision is allowed to be newer than its content.
const EXACT_ATTEMPTS: u32 = 3;

/// Everything that handlers need.
pub struct Api {
    /// The replicated truth.
    pub truth: Truth,
    /// Who this master is.
    pub credentials: Arc<Credentials>,
    /// Who is attached where.
    pub presence: Presence,
    /// Streams of jobs and events.
    pub watch: Watch,
    /// Takes jobs.
    pub jobs: Arc<Jobs>,
    /// The edges.
    pub io: Io,
    /// What is counted.
    pub metrics: Metrics,
    /// Ends streams.
    pub stop: CancellationToken,
    /// Who may ask.
    gatekeeper: Gatekeeper,
    /// Places for streams.
    streams: Arc<Semaphore>,
    /// Places for joins.
    pub(crate) joins: Semaphore,
}

/// What every handler answers.
pub type Answered<T> = Result<Json<Answer<T>>, Refusal>;

impl Api {
    /// The API of a running master. `token` is what lets callers in who are not root or this process's own user.
    pub fn new(node: &Node, token: Option<Zeroizing<String>>) -> Arc<Self> {
        let own_uid = rustix::process::geteuid().as_raw();
        Arc::new(Self {
            truth: node.truth.clone(),
            credentials: Arc::clone(&node.credentials),
            presence: node.presence.clone(),
            watch: node.watch.clone(),
            jobs: Arc::clone(&node.jobs),
            io: node.io.clone(),
            metrics: Metrics::new(),
            stop: node.stopping().clone(),
            gatekeeper: Gatekeeper::new(token, own_uid),
            streams: Arc::new(Semaphore::new(STREAMS_MAX)),
            joins: Semaphore::new(JOINS_MAX),
        })
    }

    /// Serves both listeners in tasks of the node, until it stops.
    pub fn serve(self: &Arc<Self>, unix: UnixListener, tcp: TcpListener, node: &Node) -> Result<(), PkiError> {
        let tls = Arc::new(tls::api_server(&self.credentials)?);
        let router = router(Arc::clone(self));
        let (tasks, stop) = (node.tasks(), node.stopping());
        tasks.spawn(serve_unix(unix, router.clone(), tasks.clone(), stop.clone()));
        tasks.spawn(serve_tls(tcp, tls, router, tasks.clone(), stop.clone()));
        Ok(())
    }

    /// Wraps what a write brought, which this master has applied.
    pub(crate) fn answer<T>(&self, value: T) -> Json<Answer<T>> {
        let state = self.truth.state();
        // Time first: it never claims to be later than the revision beside it.
        let (as_of, revision) = (state.time(), state.revision());
        let stale_ms = self.truth.quorum().stale_ms;
        Json(Answer { revision, as_of, stale_ms, master: self.credentials.name.clone(), value })
    }

    /// Reads the tables off the runtime's threads.
    pub(crate) async fn read<T, F>(self: &Arc<Self>, read: F) -> Answered<T>
    where
        T: Send + 'static,
        F: Fn(&Api, &State) -> Result<T, Refusal> + Send + 'static,
    {
        let api = Arc::clone(self);
        let reading = tokio::task::spawn_blocking(move || {
            let state = api.truth.state();
            let mut attempts = 0;
            loop {
                let before = state.revision();
                let value = read(&api, state)?;
                attempts += 1;
                // A revision that is too new is safe for the client (it reads no older later on), one too old is not.
                if state.revision() == before || attempts == EXACT_ATTEMPTS {
                    return Ok(api.answer(value));
                }
            }
        });
        reading.await.unwrap_or_else(|error| {
            tracing::error!(%error, "reading the tables ended early");
            Err(Refusal::new(FailureCode::Internal, "this master could not read its data: see its log"))
        })
    }

    /// The newest directory; `None` before the cluster was founded.
    pub(crate) fn directory(&self) -> Option<Directory> {
        let signed = self.truth.state().directory()?;
        signed.peek().inspect_err(|error| tracing::error!(%error, "the directory cannot be read")).ok()
    }

    /// A place for one more stream, given back when it is dropped.
    pub(crate) fn stream_place(&self) -> Result<tokio::sync::OwnedSemaphorePermit, Refusal> {
        Arc::clone(&self.streams).try_acquire_owned().map_err(|_| {
            let message = format!("{STREAMS_MAX} streams are watched at this master already: try another one");
            Refusal::new(FailureCode::Busy, message)
        })
    }
}

/// Every path, with who may ask and how long it may take.
pub fn router(api: Arc<Api>) -> Router {
    let guarded = Router::new()
        .route("/v1/keys", get(key::list))
        .route("/v1/keys/accept", post(key::accept))
        .route("/v1/keys/reject", post(key::reject))
        .route("/v1/keys/delete", post(key::delete))
        .route("/v1/jobs", get(job::list).post(job::submit))
        .route("/v1/jobs/{jid}", get(job::show))
        .route("/v1/jobs/{jid}/kill", post(job::kill))
        .route("/v1/mine", get(mine::list))
        .route("/v1/minions", get(minion::list))
        .route("/v1/minions/{id}", get(minion::show))
        .route("/v1/cluster/status", get(cluster::status))
        .route("/v1/cluster/join-token", post(cluster::join_token))
        .route("/v1/config", get(config::list))
        .route("/v1/config/{name}", put(config::set))
        .route_layer(from_fn(deadline));
    let streams =
        Router::new().route("/v1/jobs/{jid}/events", get(job::events)).route("/v1/events", get(event::events));
    let open = Router::new()
        .route("/v1/cluster/join", post(cluster::join))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(health::metrics))
        .route_layer(from_fn(deadline));
    guarded
        .merge(streams)
        .route_layer(from_fn_with_state(api.gatekeeper.clone(), authorise::authorise))
        .merge(open)
        .route("/livez", get(health::livez))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(from_fn_with_state(Arc::clone(&api), health::count))
        .with_state(api)
}

/// A master's name, or its number if the directory does not have it.
pub(crate) fn master_name(directory: Option<&Directory>, id: MasterId) -> String {
    directory
        .and_then(|directory| directory.master(id))
        .map_or_else(|| format!("master {id}"), |record| record.name.clone())
}

/// The name of step `step` of the write `request`: the first bears its own name, further ones derived names, the same for
/// every retry.
pub(crate) fn step_name(request: RequestId, step: u32) -> RequestId {
    if step == 0 {
        return request;
    }
    let mut hasher = blake3::Hasher::new_derive_key("saltern 2026 request step");
    hasher.update(request.as_bytes()).update(&step.to_be_bytes());
    let mut bytes = [0; 16];
    hasher.finalize_xof().fill(&mut bytes);
    RequestId::from_bytes(bytes)
}
