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
pub mod hold;
pub mod job;
pub mod key;
pub mod member;
pub mod mine;
pub mod minion;
pub mod region;
pub mod snapshot;

use crate::backup::schedule::Schedule;
use crate::http::asking::{self, Client, Patience, asking, deadline};
use crate::http::serve::{REQUEST_TIMEOUT, no_such_method, no_such_path};
use crate::http::{Door, Gatekeeper, Refusal, authorise, health, serve_tls, serve_unix};
use crate::metrics::Metrics;
use crate::node::Node;
use crate::pki::{Credentials, PkiError, tls};
use crate::presence::Presence;
use crate::room::{Place, Room};
use crate::sessions::Sessions;
use crate::submit::Jobs;
use crate::truth::{Committed, Lane, Truth};
use crate::turns::Turns;
use crate::watch::Watch;
use crate::witness::{Queue, Reason, Witness};
use axum::Json;
use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post, put};
use saltern_pubsub::zmq::{GateCounters, Offences};
use saltern_store::State;
use saltern_store::command::Command;
use saltern_wire::api::{Answer, FailureCode};
use saltern_wire::io::Io;
use saltern_wire::master::Directory;
use saltern_wire::{MasterId, RequestId};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use zeroize::Zeroizing;

/// Event streams at one time: each holds a place in every broadcast, and a connection. One client has as many as it leaves
/// free.
const STREAMS_MAX: usize = 256;

/// Readings of the tables at one time: they are the processor's work, and each holds its answer in memory.
const READS_MAX: usize = 8;

/// Readings of one client that wait for their turn; about as many as it may have connections.
const READS_WAITING_MAX: usize = 1024;

/// How often the gate is asked whom it refused.
const OFFENCES_EVERY: Duration = Duration::from_secs(1);

/// Joins at one time. Their path is open to everybody, and a wrong token costs a log entry.
const JOINS_MAX: usize = 2;

/// Backups and exports of keys at one time: each reads the whole truth, or a good part of a second of one core.
const BACKUPS_MAX: usize = 1;

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
    /// The sessions of this master.
    pub sessions: Sessions,
    /// What guards the ports for minions, if there is one.
    pub(crate) gate: Option<Gate>,
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
    /// Tasks of the master that requests start.
    pub(crate) tasks: TaskTracker,
    /// Asks this master to end in order.
    pub(crate) leave: CancellationToken,
    /// Who may ask.
    gatekeeper: Gatekeeper,
    /// Places for streams.
    streams: Room<Client>,
    /// Turns for reading the tables.
    reads: Turns<Client>,
    /// Places for joins.
    pub(crate) joins: Semaphore,
    /// Places for backups on their way out, and for exports of the keys.
    pub(crate) backups: Arc<Semaphore>,
    /// What the scheduled backups of this master came to, if it makes any.
    pub(crate) schedule: Option<Schedule>,
}

/// What every handler answers.
pub type Answered<T> = Result<Json<Answer<T>>, Refusal>;

impl Api {
    /// The API of a running master. `token` is what lets callers in who are not root or this process's own user; `gate` is
    /// what guards its ports for minions.
    pub fn new(
        node: &Node,
        token: Option<Zeroizing<String>>,
        gate: Option<Gate>,
        schedule: Option<Schedule>,
    ) -> Arc<Self> {
        let own_uid = rustix::process::geteuid().as_raw();
        Arc::new(Self {
            truth: node.truth.clone(),
            credentials: Arc::clone(&node.credentials),
            presence: node.presence.clone(),
            sessions: node.sessions.clone(),
            gate,
            watch: node.watch.clone(),
            jobs: Arc::clone(&node.jobs),
            io: node.io.clone(),
            metrics: Metrics::new(),
            stop: node.stopping().clone(),
            tasks: node.tasks().clone(),
            leave: node.asked_to_leave().clone(),
            gatekeeper: Gatekeeper::new(token, own_uid),
            streams: Room::new(STREAMS_MAX),
            reads: Turns::new(READS_MAX, READS_WAITING_MAX),
            joins: Semaphore::new(JOINS_MAX),
            backups: Arc::new(Semaphore::new(BACKUPS_MAX)),
            schedule,
        })
    }

    /// Serves both listeners in tasks of the node, until it stops.
    pub fn serve(self: &Arc<Self>, unix: UnixListener, tcp: TcpListener, node: &Node) -> Result<(), PkiError> {
        let tls = Arc::new(tls::api_server(&self.credentials)?);
        let router = router(Arc::clone(self));
        let (tasks, stop) = (node.tasks(), node.stopping());
        let door = || Door::new(router.clone(), Arc::clone(self.witness()), stop.clone());
        if let Some(gate) = &self.gate {
            tasks.spawn(tell_offences(Arc::clone(&gate.offences), Arc::clone(self.witness()), stop.clone()));
        }
        tasks.spawn(serve_unix(unix, door(), tasks.clone()));
        tasks.spawn(serve_tls(tcp, tls, door(), tasks.clone()));
        Ok(())
    }

    /// Counts what is refused, and tells who asked for it.
    pub(crate) fn witness(&self) -> &Arc<Witness> {
        self.truth.witness()
    }

    /// How long the client of the request that is served here still waits.
    pub(crate) fn left(&self) -> Duration {
        let deadline = asking().map(|asking| asking.deadline);
        deadline.map_or(REQUEST_TIMEOUT, |deadline| deadline.saturating_sub(self.io.clock.monotonic()))
    }

    /// Carries a command into the log as long as the client waits.
    pub(crate) async fn propose(&self, command: Command, name: RequestId) -> Result<Committed, Refusal> {
        Ok(self.truth.propose_within(Lane::Control, command, Some(name), self.left()).await?)
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
        let _turn = self.turn_to_read().await?;
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

    /// Waits for a turn to read the tables, as long as the client does.
    async fn turn_to_read(&self) -> Result<crate::turns::Place<Client>, Refusal> {
        let client = asking().map_or(Client::Nobody, |asking| asking.client);
        let within = self.left();
        match tokio::time::timeout(within, self.reads.enter(client.clone())).await {
            Ok(Ok(place)) => Ok(place),
            Ok(Err(full)) => {
                self.witness().refuse_of(Reason::ApiClient, &client.to_string());
                Err(Refusal::new(FailureCode::Busy, format!("{full}: ask for less at once")))
            }
            Err(_) => {
                self.witness().expire(Queue::Api);
                Err(asking::late(within, true))
            }
        }
    }

    /// A place for one more stream of `client`, given back when it is dropped.
    pub(crate) fn stream_place(&self, client: &Client) -> Result<Place<Client>, Refusal> {
        self.streams.take(client.clone(), 1).ok_or_else(|| {
            self.witness().refuse_of(Reason::ApiClient, &client.to_string());
            let message = "this client watches as many streams as it may, or this master serves as many as it can: \
                           end some, or ask another master";
            Refusal::new(FailureCode::Busy, message)
        })
    }
}

/// What guards the ports for minions, as far as operators hear of it.
#[derive(Clone)]
pub struct Gate {
    /// What it did, by reason.
    pub counters: Arc<GateCounters>,
    /// To whom.
    pub offences: Arc<Offences>,
}

/// Tells the events of the gate: whom it refused or cut, and why, as far as the witness tells anything.
async fn tell_offences(offences: Arc<Offences>, witness: Arc<Witness>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(OFFENCES_EVERY) => {}
        }
        for offence in offences.take().offences {
            let data = serde_json::json!({ "port": offence.port, "reason": offence.reason, "count": offence.count });
            witness.tell("gate", &offence.address.to_string(), data);
        }
    }
}

/// Every path, with who may ask and how long it may take.
pub fn router(api: Arc<Api>) -> Router {
    let patience = Patience { clock: Arc::clone(&api.io.clock), witness: Arc::clone(api.witness()) };
    let guarded = Router::new()
        .route("/v1/keys", get(key::list))
        .route("/v1/keys/accept", post(key::accept))
        .route("/v1/keys/reject", post(key::reject))
        .route("/v1/keys/delete", post(key::delete))
        .route("/v1/jobs", get(job::list).post(job::submit))
        .route("/v1/jobs/{jid}", get(job::show))
        .route("/v1/jobs/{jid}/pause", post(hold::pause))
        .route("/v1/jobs/{jid}/resume", post(hold::resume))
        .route("/v1/jobs/{jid}/kill", post(hold::kill))
        .route("/v1/mine", get(mine::list))
        .route("/v1/minions", get(minion::list))
        .route("/v1/minions/{id}", get(minion::show))
        .route("/v1/cluster/status", get(cluster::status))
        .route("/v1/cluster/forecast", get(region::foretell))
        .route("/v1/cluster/join-token", post(cluster::join_token))
        .route("/v1/cluster/export-keys", post(snapshot::export_keys))
        .route("/v1/cluster/members", post(member::change))
        .route("/v1/cluster/transfer-leader", post(member::transfer))
        .route("/v1/cluster/secrets", get(member::secrets))
        .route("/v1/cluster/rotate-secrets", post(member::rotate))
        .route("/v1/master/stop", post(member::stop))
        .route("/v1/config", get(config::list))
        .route("/v1/config/{name}", put(config::set))
        .route_layer(from_fn_with_state(patience.clone(), deadline));
    let streams = Router::new()
        .route("/v1/jobs/{jid}/events", get(job::events))
        .route("/v1/events", get(event::events))
        .route("/v1/snapshot", get(snapshot::save));
    let open = Router::new()
        .route("/v1/cluster/join", post(cluster::join))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(health::metrics))
        .route_layer(from_fn_with_state(patience, deadline));
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
