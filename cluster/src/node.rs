//! A master, put together: its parts are started in the order in which they stand on each other, and stopped in reverse.
//!
//! ```text
//!   log, state, snapshots  ▶  mesh  ▶  raft group  ▶  mesh server  ▶  truth  ▶  duties
//!       ▶  presence, inbox, fan-out, sessions  ▶  publishing  ▶  watch, submit      (then, in `main`, HTTP)
//! ```
//!
//! Everything that differs between production, a test and the simulation comes in as [`Edges`].

use crate::membership::drain;
use crate::mesh::message::{Channel, Request, Response};
use crate::mesh::server::{MeshService, serve};
use crate::mesh::{Mesh, MeshTransport};
use crate::pki::Credentials;
use crate::presence::table::{Heard, PresenceUpdate};
use crate::presence::{PeerChannel, Presence, SEND_WITHIN};
use crate::raft::machine::{DiskWork, Machine};
use crate::raft::{Group, GroupConfig, GroupError};
use crate::replica::Replica;
use crate::service::MasterService;
use crate::sessions::{Parts, Sessions, SharedPublisher, promote};
use crate::space::{Space, Watched};
use crate::submit::Jobs;
use crate::truth::{Expelled, Lane, ProposeError, Truth};
use crate::watch::Watch;
use crate::{duties, inbox, publish};
use saltern_pubsub::publisher::Publisher;
use saltern_pubsub::serve::MasterCredentials;
use saltern_store::command::{Effect, Proposal};
use saltern_store::kv::Engine;
use saltern_store::{FlushBy, Soundness, StoreError, Stores};
use saltern_wire::crypto::Signed;
use saltern_wire::io::{Address, Disk, Io, Listener, TransportError};
use saltern_wire::master::{Directory, Endpoints};
use saltern_wire::{MasterId, RequestId};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long stopping may take before the process ends anyway: nothing acknowledged depends on an orderly end.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the founding command may take: the only voter elects itself first.
const FOUND_TIMEOUT: Duration = Duration::from_secs(30);

/// How often it is looked at whether this master can go on. Meanwhile the store takes no vote and no entry already.
const FAILURE_WATCH_EVERY: Duration = Duration::from_millis(50);

/// How often the Raft core is looked at: a dead one is silent.
const CORE_WATCH_EVERY: Duration = Duration::from_millis(250);

/// What a node needs to know.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// Where log, state and snapshots live.
    pub data_dir: PathBuf,
    /// What it listens on. The API's address is not used here.
    pub bind: Endpoints,
    /// Raft's timing and compaction.
    pub group: GroupConfig,
    /// Whether the cluster's profile decides over the timing once this master knows it.
    pub follows_profile: bool,
    /// How the room on the disk is watched; not at all on a disk that has no size.
    pub disk_watch: Option<DiskWatch>,
}

/// How the room on the disk is watched.
#[derive(Debug, Clone, Copy, Default)]
pub struct DiskWatch {
    /// What is to be kept free, in bytes; [`crate::space`] says what it is by itself.
    pub reserve_bytes: Option<u64>,
}

/// Everything that differs between production, a test and the simulation.
pub struct Edges {
    /// Transport to minions, clock, entropy, small files.
    pub io: Io,
    /// Transport to other masters.
    pub mesh: Arc<dyn MeshTransport>,
    /// Where tables and log are kept.
    pub engine: Arc<dyn Engine>,
    /// Who flushes the log.
    pub flush: FlushBy,
    /// Where long disk work runs.
    pub disk_work: DiskWork,
    /// Where sessions and publishing run, if not where everything else does.
    pub sessions_on: Option<Handle>,
}

/// Why a master does not start. One line each.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data folder cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An address cannot be used.
    #[error("cannot listen on {0}; is another master running, or the port used by another program?")]
    Listen(#[from] TransportError),
    /// Stored bytes are not what was written, found while Raft read them.
    #[error("{0}")]
    Corrupt(String),
    /// Raft does not start.
    #[error(transparent)]
    Group(#[from] GroupError),
    /// The cluster could not be founded.
    #[error("the cluster could not be founded: {0}")]
    Found(ProposeError),
    /// The founding command was refused.
    #[error("the cluster could not be founded: {0}")]
    Refused(String),
    /// The directory in the tables is not valid.
    #[error("the directory of masters in the tables is not valid: {0}")]
    Directory(String),
}

impl StartError {
    /// What is corrupt, if that is why.
    pub fn corruption(&self) -> Option<String> {
        match self {
            Self::Store(error @ StoreError::Corrupt { .. }) => Some(error.to_string()),
            Self::Corrupt(cause) => Some(cause.clone()),
            // The one beside the credentials was verified when it was read: it is the tables' one that is not valid.
            Self::Directory(_) => Some(self.to_string()),
            Self::Store(_) | Self::Listen(_) | Self::Group(_) | Self::Found(_) | Self::Refused(_) => None,
        }
    }
}

/// Why a running master cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Its Raft core stopped.
    #[error("{0}")]
    Core(String),
    /// Stored bytes are not what was written.
    #[error("{0}")]
    Corrupt(String),
    /// Something came that only a newer build understands.
    #[error("{0}")]
    Newer(String),
    /// A write failed: nobody knows what is on the disk.
    #[error("{0}")]
    Disk(String),
    /// It was removed from its cluster.
    #[error("{0}")]
    Removed(String),
}

/// A running master. Stop it with [`Node::stop`]; dropping it leaves its tasks to the runtime.
pub struct Node {
    /// The replicated truth.
    pub truth: Truth,
    /// Who is attached where.
    pub presence: Presence,
    /// The sessions of this master.
    pub sessions: Sessions,
    /// Takes jobs.
    pub jobs: Arc<Jobs>,
    /// Streams of jobs and events.
    pub watch: Watch,
    /// Who this master is.
    pub credentials: Arc<Credentials>,
    /// The edges.
    pub io: Io,
    soundness: Soundness,
    tasks: TaskTracker,
    stop: CancellationToken,
    core_stop: CancellationToken,
    leave: CancellationToken,
}

impl Node {
    /// Starts a master. `founding` is the first command of a cluster that this master founds; giving it again is harmless.
    pub async fn start(
        config: NodeConfig,
        edges: Edges,
        credentials: Arc<Credentials>,
        founding: Option<Proposal>,
    ) -> Result<Self, StartError> {
        let (tasks, stop, core_stop) = (TaskTracker::new(), CancellationToken::new(), CancellationToken::new());
        let (group, service, mesh, soundness) = start_group(&config, &edges, &credentials, &tasks, &core_stop).await?;
        let Edges { io, sessions_on, .. } = edges;
        let truth = Truth::new(
            credentials.master,
            group.clone(),
            Arc::clone(&mesh),
            Arc::clone(&io.clock),
            Arc::clone(&io.entropy),
        );
        let replica: Arc<dyn Replica> = Arc::new(truth.clone());
        let presence = Presence::new(Arc::clone(&replica), io.clone());
        credentials.ring.keep_in(Arc::clone(&io.disk), &config.data_dir);
        service.complete(truth.clone(), presence.clone(), Arc::clone(&credentials));
        let keeping = Keeping { disk: Arc::clone(&io.disk), folder: config.data_dir.clone() };
        let following =
            follow_directory(truth.clone(), Arc::clone(&service), Arc::clone(&credentials), keeping, stop.clone());
        tasks.spawn(following);
        tasks.spawn(watch_core(truth.clone(), stop.clone()));
        tasks.spawn(truth.clone().follow_contact(stop.clone()));
        duties::start(&truth, &credentials, &tasks, &stop);
        if let Some(founding) = founding {
            found(&truth, &credentials.endpoints.mesh, founding).await?;
        }
        carried_on(&truth, &credentials).await?;

        presence.start(Arc::new(PresenceRoad(Arc::clone(&mesh))), &tasks, stop.clone());
        let inbox = inbox::Inbox::start(
            Arc::clone(&replica),
            Arc::clone(&io.clock),
            Arc::clone(truth.witness()),
            &tasks,
            &stop,
        );
        let fanout = io.transport.fanout(&config.bind.fanout).await?;
        let identity = (*credentials.identity).clone();
        let publisher = Publisher::new(fanout, credentials.master, identity, Arc::clone(&io.entropy));
        let publisher = SharedPublisher::new(publisher);
        let listener = listen(&io, &config.bind.session, sessions_on.as_ref()).await?;
        let parts = Parts {
            replica: Arc::clone(&replica),
            io: io.clone(),
            publisher: publisher.clone(),
            credentials: MasterCredentials {
                identity: (*credentials.identity).clone(),
                certificate: credentials.certificate.clone(),
                ca: credentials.ca,
            },
            presence: presence.clone(),
            inbox,
            witness: Arc::clone(truth.witness()),
        };
        let sessions = {
            // What these two spawn, and what that spawns, runs there.
            let _place = sessions_on.as_ref().map(Handle::enter);
            let sessions = Sessions::start(parts, listener, &tasks, stop.clone());
            publish::start(Arc::clone(&replica), io.clone(), publisher, sessions.clone(), &tasks, stop.clone());
            sessions
        };
        tasks.spawn(drain::follow(truth.clone(), sessions.clone(), stop.clone()));
        tasks.spawn(promote::follow(truth.clone(), sessions.clone(), stop.clone()));
        let jobs = Arc::new(Jobs::new(Arc::clone(&replica), &credentials));
        let watch = Watch::new(replica, presence.clone(), Arc::clone(truth.witness()));
        tracing::info!(master = %credentials.master, name = credentials.name, "this master is running");
        Ok(Self {
            truth,
            presence,
            sessions,
            jobs,
            watch,
            credentials,
            io,
            soundness,
            tasks,
            stop,
            core_stop,
            leave: CancellationToken::new(),
        })
    }

    /// Ends when this master can no longer run, with the reason: its data turned out to be corrupt, a write failed, or its
    /// Raft core stopped. The first two make the core stop as well and say more.
    pub async fn failed(&self) -> Failure {
        loop {
            if let Some(cause) = self.soundness.cause() {
                return Failure::Corrupt(cause);
            }
            if let Some(cause) = self.soundness.newer() {
                return Failure::Newer(cause);
            }
            if let Some(cause) = self.soundness.failure() {
                return Failure::Disk(cause);
            }
            if let Some(cause) = self.truth.group().leader_state().stopped {
                return Failure::Core(cause);
            }
            if let Some(Expelled { generation, version }) = self.truth.expelled() {
                return Failure::Removed(removed_words(&self.credentials, generation, version));
            }
            tokio::time::sleep(FAILURE_WATCH_EVERY).await;
        }
    }

    /// A token that is cancelled when somebody asks this master to end in order.
    pub fn asked_to_leave(&self) -> &CancellationToken {
        &self.leave
    }

    /// Makes ready to end: another master leads, the minions are elsewhere, and whoever waits for a write has an answer. Bounded.
    pub async fn leave(&self) {
        drain::leave(&self.truth, &self.sessions).await;
    }

    /// The tasks of this master; what serves its API joins them.
    pub fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    /// A token that is cancelled when this master stops.
    pub fn stopping(&self) -> &CancellationToken {
        &self.stop
    }

    /// Stops everything, last started first.
    pub async fn stop(self) {
        self.stop.cancel();
        self.truth.group().stop().await;
        self.core_stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(STOP_TIMEOUT, self.tasks.wait()).await.is_err() {
            tracing::warn!("some tasks did not stop in time; ending anyway");
        }
    }
}

/// What a master says that was removed from its cluster.
pub fn removed_words(credentials: &Credentials, generation: u64, version: u64) -> String {
    format!(
        "this master, {} ({}), was removed from its cluster: the directory of masters (generation {generation}, version \
         {version}) does not name it. Nobody takes its word any more. To bring this machine back, empty its data folder and \
         join again with a token: saltern-master join TOKEN",
        credentials.name, credentials.master
    )
}

/// Opens the port for sessions; its sockets belong to the runtime `on`, or to this one.
async fn listen(io: &Io, bind: &Address, on: Option<&Handle>) -> Result<Box<dyn Listener>, TransportError> {
    let Some(on) = on else { return io.transport.listen(bind).await };
    let (transport, address) = (Arc::clone(&io.transport), bind.clone());
    // Owned by this wait: nothing is left of it when it is given up, but a port that closes with its listener.
    let opened = on.spawn(async move { transport.listen(&address).await }).await;
    opened.unwrap_or_else(|error| {
        Err(TransportError::Address { address: bind.clone(), source: std::io::Error::other(error) })
    })
}

/// Opens the stores and starts Raft and the port for other masters.
async fn start_group(
    config: &NodeConfig,
    edges: &Edges,
    credentials: &Credentials,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> Result<(Group, Arc<MasterService>, Arc<Mesh>, Soundness), StartError> {
    let engine = Arc::clone(&edges.engine);
    let Stores { log, state, snapshots, soundness } = Stores::open(engine, &config.data_dir, edges.flush)?;
    let snapshots = Arc::new(snapshots);
    let directory = newest_directory(state.directory(), credentials)?;
    let mesh = Mesh::new(Arc::clone(&edges.mesh));
    mesh.learn(&directory);
    let machine = Machine::new(state, snapshots, edges.disk_work, space(config, credentials, tasks, stop)?);
    let clock = Arc::clone(&edges.io.clock);
    let mut group = config.group.clone();
    if config.follows_profile && machine.state().cluster().is_some() {
        group.follow(machine.state().settings().timing.timing());
    }
    let started = Group::start(credentials.master, group, Arc::clone(&mesh), log, machine, clock).await;
    let (group, raft) = match (started, soundness.cause()) {
        (Ok(started), _) => started,
        (Err(_), Some(cause)) => return Err(StartError::Corrupt(cause)),
        (Err(error), None) => return Err(error.into()),
    };
    let service = Arc::new(MasterService::new(raft));
    service.admit(directory.masters.iter().map(|master| master.id).collect());
    let answering: Arc<dyn MeshService> = Arc::clone(&service) as Arc<dyn MeshService>;
    serve(&*edges.mesh, &config.bind.mesh, answering, tasks, stop.clone()).await?;
    Ok((group, service, mesh, soundness))
}

/// Follows the room on the disk.
fn space(
    config: &NodeConfig,
    credentials: &Credentials,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> Result<Space, StartError> {
    let Some(DiskWatch { reserve_bytes }) = config.disk_watch else { return Ok(Space::endless(credentials.master)) };
    let (name, folder) = (credentials.name.clone(), config.data_dir.clone());
    let watched = Watched { master: credentials.master, name, folder: folder.clone(), reserve_bytes };
    let watching = Space::watch(watched, stop.clone());
    let (space, following) = watching.map_err(|source| StoreError::Folder { path: folder, source })?;
    tasks.spawn(following);
    Ok(space)
}

/// The truth's directory, or the one this master was founded or joined with while the truth is still empty.
fn newest_directory(held: Option<Signed<Directory>>, credentials: &Credentials) -> Result<Directory, StartError> {
    let refuse = |error: &dyn std::fmt::Display| StartError::Directory(error.to_string());
    let given = credentials.directory.verify(&credentials.ca).map_err(|error| refuse(&error))?.into_inner();
    let Some(held) = held else { return Ok(given) };
    let held = held.verify(&credentials.ca).map_err(|error| refuse(&error))?.into_inner();
    Ok(if given.replaces(&held) { given } else { held })
}

/// Makes this master the first of its cluster and commits the founding command. Both are harmless to repeat.
async fn found(truth: &Truth, mesh: &Address, founding: Proposal) -> Result<(), StartError> {
    if truth.state().cluster().is_some() {
        return Ok(());
    }
    truth.group().found(truth.id(), mesh).await?;
    let request = founding.request.unwrap_or(RequestId::from_bytes([0; 16]));
    let propose = truth.propose(Lane::Control, founding.command, Some(request));
    let committed = match tokio::time::timeout(FOUND_TIMEOUT, propose).await {
        Ok(committed) => committed.map_err(StartError::Found)?,
        Err(_) => return Err(StartError::Found(ProposeError::Unknown)),
    };
    committed.applied.map(drop).map_err(|refused| StartError::Refused(refused.to_string()))
}

/// A master that carries a truth on alone (after a restore or a recovery) serves nobody before its log has said so: until then
/// jobs that are to be cancelled are open, and the directory is that of masters that are to be fenced.
async fn carried_on(truth: &Truth, credentials: &Credentials) -> Result<(), StartError> {
    let Ok(given) = credentials.directory.verify(&credentials.ca) else { return Ok(()) };
    if !crate::succession::is_alone(&given, credentials.master) {
        return Ok(());
    }
    let reached = || {
        let held = truth.state().directory().and_then(|signed| signed.peek().ok());
        held.is_some_and(|held| !given.replaces(&held))
    };
    let mut applied = truth.applied();
    while !reached() {
        // It elects itself and applies what it held, however long that takes; only standing still is a failure.
        let moved = tokio::time::timeout(FOUND_TIMEOUT, applied.changed()).await;
        if !matches!(moved, Ok(Ok(()))) {
            return Err(StartError::Found(ProposeError::Unknown));
        }
    }
    Ok(())
}

/// Where the newest directory is kept outside of the truth: a master whose tables cannot be read finds its peers by it.
struct Keeping {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
}

impl Keeping {
    async fn keep(&self, truth: &Truth, directory: Signed<Directory>) {
        let (disk, folder) = (Arc::clone(&self.disk), self.folder.clone());
        let keep = move || Credentials::keep_directory(&*disk, &folder, &directory);
        let kept = truth.group().machine().disk_work().run(keep).await.and_then(|kept| kept);
        if let Err(error) = kept {
            tracing::warn!(%error, "the newest directory of masters is not kept beside the credentials");
        }
    }
}

/// Keeps the mesh's addresses and the set of admitted masters those of the newest directory. What the log replays at the
/// start was applied before anybody listened, so the table is read first. An older directory than the known one is passed
/// over: whoever replays a long log must go on speaking to the masters that send it.
async fn follow_directory(
    truth: Truth,
    service: Arc<MasterService>,
    credentials: Arc<Credentials>,
    keeping: Keeping,
    stop: CancellationToken,
) {
    let mut effects = truth.subscribe();
    let mut known: Option<Directory> = None;
    let mut newest = truth.state().directory();
    loop {
        let signed = newest.take();
        match newest_directory(signed.clone(), &credentials) {
            Ok(directory) if known.as_ref().is_none_or(|known| directory.replaces(known)) => {
                service.admit(directory.masters.iter().map(|master| master.id).collect());
                truth.mesh().learn(&directory);
                truth.handle_directory(&directory);
                // The one at hand is the one that was kept before, unless the truth's is the newer one.
                if let Some(signed) = signed.filter(|signed| signed.peek().is_ok_and(|held| held == directory)) {
                    keeping.keep(&truth, signed).await;
                }
                known = Some(directory);
            }
            Ok(_) => {}
            Err(error) => tracing::error!(%error, "a directory of masters was passed over"),
        }
        while newest.is_none() {
            let entry = tokio::select! {
                entry = effects.recv() => entry,
                () = stop.cancelled() => return,
            };
            newest = match entry {
                Ok(entry) => entry.effects.iter().rev().find_map(|effect| match effect {
                    Effect::Directory { directory } => Some(directory.clone()),
                    Effect::Replaced => truth.state().directory(),
                    _ => None,
                }),
                Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => truth.state().directory(),
                Err(tokio::sync::broadcast::error::RecvError::Closed) => return,
            };
        }
    }
}

/// Says who leads whenever that changes, when contact to a majority is lost and found, and when the Raft core has stopped;
/// whoever runs the node ends the process for the last.
async fn watch_core(truth: Truth, stop: CancellationToken) {
    let mut before = None;
    loop {
        tokio::select! {
            () = truth.group().changed(CORE_WATCH_EVERY) => {}
            () = stop.cancelled() => return,
        }
        if let Some(cause) = truth.group().leader_state().stopped {
            if !stop.is_cancelled() {
                tracing::error!(cause, "the Raft core stopped; this master cannot go on");
            }
            return;
        }
        let quorum = truth.quorum();
        let now = (quorum.fresh, quorum.leader, quorum.term);
        if before == Some(now) {
            continue;
        }
        match quorum.leader {
            Some(leader) if leader == truth.id() => tracing::info!(term = quorum.term, "this master leads"),
            Some(leader) => tracing::info!(%leader, term = quorum.term, "another master leads"),
            None if before.is_some_and(|(fresh, ..)| fresh) && !quorum.fresh => {
                tracing::warn!("no contact to a majority: writes are refused, reads may be old");
            }
            None => {}
        }
        before = Some(now);
    }
}

/// Presence over the mesh.
struct PresenceRoad(Arc<Mesh>);

#[async_trait::async_trait]
impl PeerChannel for PresenceRoad {
    async fn send_presence(&self, to: MasterId, update: PresenceUpdate) -> Option<Heard> {
        match self.0.ask(to, Channel::Work, &Request::Presence(update), SEND_WITHIN).await {
            Ok(Response::Presence(heard)) => Some(heard),
            _ => None,
        }
    }
}

/// `address` with the port that was asked for, for configurations that bind an interface.
pub fn bind_address(interface: std::net::IpAddr, port: u16) -> Address {
    Address::new(interface.to_string(), port)
}
