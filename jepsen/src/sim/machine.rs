//! The simulated machines and the software on them: the real masters and minions, on simulated edges.
//!
//! **Invariants.** What a machine keeps over a crash stands in [`Master`] or [`Minion`]: its disk and the number of its
//! boots. Everything else belongs to one boot and goes with it. [`Master::crash`] is called after the machine's runtime is
//! gone: it loses what was not synced.

use super::desk::{Desk, serve};
use super::edges::{SimClock, SimDisk, SimEntropy};
use super::history::{Deed, History};
use super::net::SimTransport;
use super::plan::Host;
use super::socket::Connections;
use futures::future::BoxFuture;
use saltern_cluster::config::{Config, Layer};
use saltern_cluster::founding;
use saltern_cluster::node::{Edges, Node, NodeConfig};
use saltern_cluster::pki::Credentials;
use saltern_cluster::pki::credentials::CredentialsError;
use saltern_cluster::raft::GroupConfig;
use saltern_cluster::raft::machine::DiskWork;
use saltern_cluster::truth::Truth;
use saltern_minion::executor::Work;
use saltern_minion::modules::{Context, Invocation};
use saltern_minion::{Agent, AgentHandle, Executor, InProcess};
use saltern_store::FlushBy;
use saltern_store::kv::memory::MemoryEngine;
use saltern_wire::crypto::Fingerprint;
use saltern_wire::io::{Address, Disk, Io};
use saltern_wire::job::Outcome;
use saltern_wire::master::Endpoints;
use saltern_wire::{JobId, Map, MasterId, MinionId, Value};
use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedSender;

/// Pause between two looks for the credentials of a master that has not joined yet.
const CREDENTIALS_POLL: Duration = Duration::from_millis(50);

/// Entries between two snapshots, and those left in the log below one: few, so that snapshots are taken and sent in every run.
const SNAPSHOT_ENTRIES: u64 = 100;
const LOG_KEEP_ENTRIES: u64 = 20;

/// What software ends with.
pub type Ended = turmoil::Result;

/// What the machines of one simulation have in common.
#[derive(Debug, Clone)]
pub struct Common {
    /// The seed of everything.
    pub seed: u64,
    /// What is written about the run.
    pub history: History,
}

/// Ends one boot of one machine from outside.
#[derive(Default)]
pub struct Switch {
    off: Notify,
    connections: Connections,
}

impl Switch {
    /// Has the machine close its connections, as a kernel does for a process that is killed, in the next step of time.
    /// Afterwards the machine is to be crashed.
    pub fn turn_off(&self) {
        self.off.notify_one();
    }

    /// Runs `software` until it ends, or the switch is turned off and the machine crashes.
    async fn run(&self, software: impl Future<Output = Ended>) -> Ended {
        tokio::pin!(software);
        tokio::select! {
            biased;
            () = self.off.notified() => {}
            ended = &mut software => return ended,
        }
        self.connections.close_all();
        std::future::pending().await
    }
}

/// The edges of one boot.
fn io(common: &Common, host: Host, boot: u64, wall_skew_micros: i64, disk: &SimDisk, switch: &Switch) -> Io {
    let master = match host {
        Host::Master(number) => Some(MasterId(u64::from(number))),
        Host::Minion(_) => None,
    };
    Io {
        transport: Arc::new(SimTransport::new(master, switch.connections.clone())),
        clock: Arc::new(SimClock::new(wall_skew_micros)),
        entropy: Arc::new(SimEntropy::new(common.seed, host.number(), boot)),
        disk: Arc::new(disk.clone()),
    }
}

/// A machine with a master on it.
pub struct Master {
    /// Which.
    pub host: Host,
    /// Its small files.
    pub disk: SimDisk,
    /// Its configuration.
    pub config: Config,
    /// Its boots so far.
    pub boots: Cell<u64>,
    /// The desk and the truth of the boot that runs, once it does.
    pub open: RefCell<Option<(Rc<Desk>, Truth)>>,
    /// The switch of the boot that runs.
    pub switch: RefCell<Rc<Switch>>,
    engine: MemoryEngine,
    wall_skew_micros: i64,
    common: Common,
}

impl Master {
    /// A machine that was never switched on.
    pub fn new(host: Host, wall_skew_micros: i64, common: Common) -> Result<Self, String> {
        let config = Config::finish(Layer::default(), &host.name()).map_err(|error| error.to_string())?;
        Ok(Self {
            host,
            disk: SimDisk::default(),
            config: Config { data_dir: "/simulated/master".into(), ..config },
            boots: Cell::new(0),
            open: RefCell::new(None),
            switch: RefCell::default(),
            engine: MemoryEngine::new(),
            wall_skew_micros,
            common,
        })
    }

    /// Makes this machine the founder of a cluster, as `saltern-master init` does.
    pub fn found(&self) -> Result<Fingerprint, String> {
        let entropy = SimEntropy::new(self.common.seed, self.host.number(), u64::MAX);
        let mut config = self.config.clone();
        config.api_token_file = config.data_dir.join("api.token");
        let founded = founding::init(&config, &self.disk, &entropy, &SimClock::new(self.wall_skew_micros))
            .map_err(|error| error.to_string())?;
        Ok(founded.ca_fingerprint)
    }

    /// The machine has lost power: its runtime is gone already, now what was not synced goes, too.
    pub fn crash(&self) {
        *self.open.borrow_mut() = None;
        self.engine.crash();
    }

    /// One boot of the master, to its end.
    pub async fn run(self: Rc<Self>) -> Ended {
        let switch = Rc::new(Switch::default());
        *self.switch.borrow_mut() = Rc::clone(&switch);
        switch.run(self.serve(&switch)).await
    }

    async fn serve(&self, switch: &Switch) -> Ended {
        let boot = self.boots.get() + 1;
        self.boots.set(boot);
        let credentials = loop {
            match Credentials::load(&self.disk, &self.config.data_dir) {
                Ok(credentials) => break Arc::new(credentials),
                Err(CredentialsError::Absent { .. }) => tokio::time::sleep(CREDENTIALS_POLL).await,
                Err(error) => return Err(error.into()),
            }
        };
        let io = io(&self.common, self.host, boot, self.wall_skew_micros, &self.disk, switch);
        let edges = Edges {
            mesh: Arc::new(SimTransport::new(Some(credentials.master), switch.connections.clone())),
            io,
            engine: Arc::new(self.engine.clone()),
            flush: FlushBy::Caller,
            disk_work: DiskWork::InPlace,
            sessions_on: None,
        };
        let node_config = NodeConfig {
            data_dir: self.config.data_dir.clone(),
            bind: everywhere(&self.config.endpoints()),
            follows_profile: false,
            group: GroupConfig {
                snapshot_entries: SNAPSHOT_ENTRIES,
                log_keep_entries: LOG_KEEP_ENTRIES,
                ..GroupConfig::default()
            },
            disk_watch: None,
        };
        let founding = founding::pending(&self.disk, &self.config.data_dir)?;
        let node = Rc::new(Node::start(node_config, edges, credentials, founding).await?);
        founding::settle(&self.disk, &self.config.data_dir)?;
        let desk = Rc::new(Desk::default());
        *self.open.borrow_mut() = Some((Rc::clone(&desk), node.truth.clone()));
        tokio::select! {
            () = serve(desk, Rc::clone(&node)) => Ok(()),
            cause = node.failed() => Err(format!("{}: {cause}", self.host).into()),
        }
    }
}

/// The same ports on every address.
fn everywhere(endpoints: &Endpoints) -> Endpoints {
    let any = |address: &Address| Address::new("0.0.0.0", address.port());
    Endpoints {
        fanout: any(&endpoints.fanout),
        session: any(&endpoints.session),
        mesh: any(&endpoints.mesh),
        api: any(&endpoints.api),
    }
}

/// A machine with a minion on it.
pub struct Minion {
    /// Which.
    pub host: Host,
    /// Its name.
    pub id: MinionId,
    /// Its boots so far.
    pub boots: Cell<u64>,
    /// The agent of the boot that runs.
    pub agent: RefCell<Option<AgentHandle>>,
    /// The switch of the boot that runs.
    pub switch: RefCell<Rc<Switch>>,
    disk: SimDisk,
    ca_fingerprint: Fingerprint,
    wall_skew_micros: i64,
    common: Common,
}

impl Minion {
    /// A machine that was never switched on.
    pub fn new(host: Host, ca_fingerprint: Fingerprint, wall_skew_micros: i64, common: Common) -> Result<Self, String> {
        Ok(Self {
            host,
            id: MinionId::new(host.name()).map_err(|error| error.to_string())?,
            boots: Cell::new(0),
            agent: RefCell::new(None),
            switch: RefCell::default(),
            disk: SimDisk::default(),
            ca_fingerprint,
            wall_skew_micros,
            common,
        })
    }

    /// The machine has lost power: its runtime is gone already.
    pub fn crash(&self) {
        *self.agent.borrow_mut() = None;
    }

    /// One boot of the minion; it ends by a crash only.
    pub async fn run(self: Rc<Self>) -> Ended {
        let switch = Rc::new(Switch::default());
        *self.switch.borrow_mut() = Rc::clone(&switch);
        switch.run(self.serve(&switch)).await
    }

    async fn serve(&self, switch: &Switch) -> Ended {
        let boot = self.boots.get() + 1;
        self.boots.set(boot);
        let data_dir = PathBuf::from("/simulated/minion");
        let config = saltern_minion::Config {
            masters: Host::masters().map(|host| Address::new(host.name(), 4506)).collect(),
            ca_fingerprint: Some(self.ca_fingerprint),
            data_dir: data_dir.clone(),
            ..saltern_minion::Config::new(self.id.clone())
        };
        let facts = Map::from_iter([("id".to_owned(), Value::from(self.id.as_str()))]);
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        let executor = Counting {
            inner: InProcess::new(disk, outbox(&data_dir), facts),
            process: self.host.name(),
            history: self.common.history.clone(),
        };
        let io = io(&self.common, self.host, boot, self.wall_skew_micros, &self.disk, switch);
        *self.agent.borrow_mut() = Some(Agent::start(config, io, Arc::new(executor))?);
        std::future::pending().await
    }
}

/// Where a minion keeps outcomes.
fn outbox(data_dir: &Path) -> PathBuf {
    data_dir.join("outbox")
}

/// Runs jobs in the process, and writes down every start where no crash of the minion reaches it.
struct Counting {
    inner: InProcess,
    process: String,
    history: History,
}

impl Executor for Counting {
    fn facts(&self) -> Map {
        self.inner.facts()
    }

    fn call(&self, context: Context, call: Invocation) -> BoxFuture<'static, Outcome> {
        self.inner.call(context, call)
    }

    fn start(&self, work: Work, context: Context, ended: UnboundedSender<JobId>) -> std::io::Result<()> {
        let at = turmoil::sim_elapsed().unwrap_or_default();
        self.history.note(self.process.clone(), Deed::Start { jid: work.jid.to_string() }, 0, at);
        self.inner.start(work, context, ended)
    }

    fn is_living(&self, jid: JobId) -> std::io::Result<bool> {
        self.inner.is_living(jid)
    }

    fn started(&self, jid: JobId) -> Option<Work> {
        self.inner.started(jid)
    }

    fn end(&self, jid: JobId) -> std::io::Result<bool> {
        self.inner.end(jid)
    }
}
