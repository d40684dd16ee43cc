//! A cluster for the agent's tests: masters that follow a script, over the network in memory, sharing one truth.

#![allow(dead_code, reason = "each test file uses a part of it")]

use roaring::RoaringBitmap;
use saltern_minion::config::Config;
use saltern_minion::{Agent, AgentHandle, Executor, InProcess};
use saltern_pubsub::clock::{SystemClock, SystemEntropy};
use saltern_pubsub::disk::SystemDisk;
use saltern_pubsub::memory::MemoryNetwork;
use saltern_pubsub::publisher::Publisher;
use saltern_pubsub::serve::{MasterCredentials, ServedSession};
use saltern_pubsub::zmq::{GateLimits, ZmqTransport};
use saltern_wire::crypto::{Identity, Signed};
use saltern_wire::fanout::{Beacon, Broadcast, Offer};
use saltern_wire::id::{Ordinal, Revision};
use saltern_wire::io::{Address, Disk, Io, Link, Transport};
use saltern_wire::job::{Job, Outcome, Recorded};
use saltern_wire::limits::{RETURN_PART_OVERHEAD_BYTES, RETURN_WINDOW_BYTES};
use saltern_wire::master::{Certificate, Directory, Endpoints, MasterRecord, MasterState};
use saltern_wire::mine::{MineEntry, MineStamp};
use saltern_wire::session::{Answer, Call, Grant, Refusal, SessionRole, Standing, ToMaster, ToMinion};
use saltern_wire::target::{Target, TargetKind};
use saltern_wire::{ClusterId, JobId, LogicalTime, Map, MasterId, MinionId, Value, decode};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;

pub const CLUSTER: ClusterId = ClusterId::from_bytes([7; 16]);
pub const ORDINAL: Ordinal = Ordinal(5);

/// What the masters agree on.
pub struct Truth {
    pub returns: BTreeMap<JobId, Vec<(Outcome, MasterId)>>,
    parts: BTreeMap<(JobId, [u8; 32]), BTreeMap<u16, Vec<u8>>>,
    pub accepted: BTreeSet<JobId>,
    pub facts: Option<Map>,
    pub mine: BTreeMap<String, (MineStamp, Option<Value>)>,
    pub refuse: Option<Refusal>,
    pub attaches: u32,
    /// What minions asked credit for.
    pub wants: Vec<u64>,
    /// Calls with more returns than the window and the last credit allow, of sessions that were given some.
    pub overdrawn: u32,
    /// What sessions were said to be, in order.
    pub roles: Vec<(MasterId, SessionRole)>,
    /// The cluster's feature level.
    pub level: u32,
    /// Masters that live and are of no use.
    pub lame: BTreeMap<MasterId, Lame>,
}

impl Default for Truth {
    fn default() -> Self {
        Self {
            returns: BTreeMap::new(),
            parts: BTreeMap::new(),
            accepted: BTreeSet::new(),
            facts: None,
            mine: BTreeMap::new(),
            refuse: None,
            attaches: 0,
            wants: Vec::new(),
            overdrawn: 0,
            roles: Vec::new(),
            level: saltern_wire::level::LEVEL,
            lame: BTreeMap::new(),
        }
    }
}

/// What a master that answers every ping does not do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lame {
    /// It never says what it thinks of the minion's key.
    Mute,
    /// It never grants its fan-out.
    NoGrant,
    /// It has no quorum, and says so.
    NoQuorum,
    /// It answers every call with "busy".
    Busy,
    /// It answers no call.
    Deaf,
}

/// A cluster without Raft.
pub struct Cluster {
    pub network: MemoryNetwork,
    pub truth: Arc<Mutex<Truth>>,
    pub standing: watch::Sender<Standing>,
    pub directory: watch::Sender<Signed<Directory>>,
    ca: Identity,
    token: CancellationToken,
    clock: SystemClock,
    counter: u64,
    roads: Roads,
}

/// What the messages travel on.
#[derive(Clone)]
enum Roads {
    Memory(MemoryNetwork),
    /// ZeroMQ on loopback; the session and fan-out ports of each master.
    Loopback(ZmqTransport, BTreeMap<u64, (u16, u16)>),
}

impl Roads {
    fn transport(&self, host: &str) -> Arc<dyn Transport> {
        match self {
            Self::Memory(network) => Arc::new(network.host(host)),
            Self::Loopback(transport, _) => Arc::new(transport.clone()),
        }
    }

    /// Session and fan-out of a master.
    fn addresses(&self, id: u64) -> (Address, Address) {
        match self {
            Self::Memory(_) => (Address::new(host(id), 4506), Address::new(host(id), 4505)),
            Self::Loopback(_, ports) => {
                let (session, fanout) = ports[&id];
                (Address::new("127.0.0.1", session), Address::new("127.0.0.1", fanout))
            }
        }
    }
}

/// One scripted master.
pub struct Master {
    pub id: MasterId,
    pub identity: Identity,
    say: broadcast::Sender<Said>,
    token: CancellationToken,
}

#[derive(Clone)]
enum Said {
    Session(ToMinion),
    /// To sessions that wait.
    Standby(ToMinion),
    Fanout(Broadcast),
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.token.cancel();
    }
}

fn identity_of(id: u64) -> Identity {
    Identity::from_seed([10 + u8::try_from(id).expect("small"); 32])
}

fn host(id: u64) -> String {
    format!("m{id}")
}

impl Cluster {
    pub fn new(masters: &[u64]) -> Self {
        let network = MemoryNetwork::new();
        Self::on(Roads::Memory(network.clone()), network, masters)
    }

    /// A cluster that real minions can attach to.
    pub fn on_loopback(masters: &[u64]) -> Self {
        let free = || std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound").port();
        let ports = masters.iter().map(|id| (*id, (free(), free()))).collect();
        let transport = ZmqTransport::new(GateLimits::default()).expect("a transport");
        Self::on(Roads::Loopback(transport, ports), MemoryNetwork::new(), masters)
    }

    fn on(roads: Roads, network: MemoryNetwork, masters: &[u64]) -> Self {
        let ca = Identity::from_seed([1; 32]);
        let directory = signed_directory(&ca, 1, 1, masters, &roads);
        Self {
            roads,
            network,
            truth: Arc::default(),
            standing: watch::channel(Standing::Accepted { ordinal: ORDINAL }).0,
            directory: watch::channel(directory).0,
            ca,
            token: CancellationToken::new(),
            clock: SystemClock::new(),
            counter: 0,
        }
    }

    pub fn truth(&self) -> MutexGuard<'_, Truth> {
        self.truth.lock().expect("no test panicked inside")
    }

    /// Publishes a directory with these masters.
    pub fn publish_directory(&self, generation: u64, version: u64, masters: &[u64]) {
        self.directory.send_replace(signed_directory(&self.ca, generation, version, masters, &self.roads));
    }

    /// Starts master `id` on host `m<id>`, certified by the cluster's CA.
    pub async fn master(&self, id: u64) -> Master {
        self.master_certified_by(id, &self.ca.clone()).await
    }

    /// Starts a master with a certificate of another CA.
    pub async fn master_certified_by(&self, id: u64, ca: &Identity) -> Master {
        let (identity, master) = (identity_of(id), MasterId(id));
        let public_key = identity.public_key();
        let certificate = Certificate { cluster: CLUSTER, master, name: host(id), public_key, generation: 1 };
        let credentials = MasterCredentials {
            identity: identity.clone(),
            certificate: Signed::new(&certificate, ca),
            ca: ca.public_key(),
        };
        let transport = self.roads.transport(&host(id));
        let (session_address, fanout_address) = self.roads.addresses(id);
        let mut listener = transport.listen(&session_address).await.expect("listens");
        let fanout = transport.fanout(&fanout_address).await.expect("publishes");
        // A master that listens everywhere does not know under which name it was reached.
        let grant_address = Address::new("0.0.0.0", fanout_address.port());
        let publisher = Publisher::new(fanout, master, identity.clone(), Arc::new(SystemEntropy));
        let publisher = Arc::new(Mutex::new(publisher));
        let (say, _) = broadcast::channel(1000);
        let token = self.token.child_token();
        let world = World {
            truth: self.truth.clone(),
            standing: self.standing.subscribe(),
            directory: self.directory.subscribe(),
            publisher: publisher.clone(),
            credentials,
            grant_address,
            id: master,
        };
        let (inner, says, ends) = (token.clone(), say.clone(), token.clone());
        tokio::spawn(async move {
            let serve = async {
                while let Ok(link) = listener.accept().await {
                    tokio::spawn(run_session(world.clone(), link, says.subscribe(), inner.clone()));
                }
            };
            tokio::select! { () = ends.cancelled() => {}, () = serve => {} }
        });
        tokio::spawn(run_fanout(
            (self.truth.clone(), master),
            publisher,
            say.subscribe(),
            self.directory.subscribe(),
            self.clock.clone(),
            token.clone(),
        ));
        Master { id: master, identity, say, token }
    }

    /// A job for the minion, signed by nobody yet.
    pub fn job(&mut self, function: &str, arguments: Vec<Value>) -> Job {
        self.counter += 1;
        let opened = LogicalTime::from_unix_micros(1_795_392_390_000_000 + self.counter * 1000);
        Job {
            cluster: CLUSTER,
            generation: 1,
            jid: JobId::mint(opened, 1),
            master: MasterId(1),
            function: function.into(),
            arguments,
            keywords: Map::new(),
            target: Target { kind: TargetKind::Glob, expression: "*".into() },
            targets: RoaringBitmap::from_iter([ORDINAL.0]),
            user: "root".into(),
            opened,
            ttl_ms: 3_600_000,
        }
    }

    /// A configuration for a minion that knows these masters.
    pub fn config(&self, folder: &std::path::Path, masters: &[u64]) -> Config {
        let mut config = Config::new(MinionId::new("web-1").expect("an id"));
        config.masters = masters.iter().map(|id| self.roads.addresses(*id).0).collect();
        config.ca_fingerprint = Some(self.ca.public_key().fingerprint());
        config.data_dir = folder.into();
        config
    }

    pub fn io(&self) -> Io {
        self.io_on(Arc::new(SystemDisk))
    }

    pub fn io_on(&self, disk: Arc<dyn Disk>) -> Io {
        Io {
            transport: self.roads.transport("web-1"),
            clock: Arc::new(self.clock.clone()),
            entropy: Arc::new(SystemEntropy),
            disk,
        }
    }

    /// A minion that runs its jobs in this process.
    pub fn minion(&self, config: Config) -> AgentHandle {
        self.minion_on(config, Arc::new(SystemDisk))
    }

    /// One whose agent works on this disk.
    pub fn minion_on(&self, config: Config, disk: Arc<dyn Disk>) -> AgentHandle {
        let facts = serde_json::json!({"os": "Debian"}).as_object().expect("a mapping").clone();
        let executor: Arc<dyn Executor> =
            Arc::new(InProcess::new(Arc::new(SystemDisk), config.data_dir.join("outbox"), facts));
        Agent::start(config, self.io_on(disk), executor).expect("starts")
    }

    /// Waits until the truth fits; a condition that never comes ends the test.
    pub async fn until<T>(&self, what: &str, mut wanted: impl FnMut(&Truth) -> Option<T>) -> T {
        let wait = async {
            loop {
                if let Some(found) = wanted(&self.truth()) {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(120), wait).await.unwrap_or_else(|_| panic!("never came: {what}"))
    }

    /// Waits for the outcome of a job.
    pub async fn outcome(&self, jid: JobId) -> Outcome {
        self.until("the outcome", |truth| Some(truth.returns.get(&jid)?.first()?.0.clone())).await
    }
}

fn signed_directory(ca: &Identity, generation: u64, version: u64, masters: &[u64], roads: &Roads) -> Signed<Directory> {
    let record = |id: &u64| {
        let (master, name, public_key) = (MasterId(*id), host(*id), identity_of(*id).public_key());
        let certificate = Certificate { cluster: CLUSTER, master, name: name.clone(), public_key, generation };
        let (session, fanout) = roads.addresses(*id);
        let other = |port| Address::new(host(*id), port);
        MasterRecord {
            id: master,
            name,
            state: MasterState::Active,
            endpoints: Endpoints { fanout, session, mesh: other(4510), api: other(4511) },
            region: "eu".into(),
            zone: "a".into(),
            weight: 100,
            certificate: Signed::new(&certificate, ca),
            public_key,
            role: saltern_wire::master::Role::Voter,
        }
    };
    let masters = masters.iter().map(record).collect();
    Signed::new(&Directory { cluster: CLUSTER, generation, version, masters, succeeds: vec![], retired: vec![] }, ca)
}

impl Master {
    /// Offers a job in every session.
    pub fn offer(&self, job: &Job, signer: &Identity) {
        let offer = Offer { job: Signed::new(job, signer), remaining_ms: 60_000 };
        self.tell(ToMinion::Offer(offer));
    }

    /// Offers `shown` under the signature of `signed`.
    pub fn offer_changed(&self, shown: &Job, signed: &Job, signer: &Identity) {
        let mut offered = serde_json::to_value(Signed::new(signed, signer)).expect("encodes");
        offered["body"] = serde_json::to_value(Signed::new(shown, signer)).expect("encodes")["body"].clone();
        let job = serde_json::from_value(offered).expect("still signed");
        self.tell(ToMinion::Offer(Offer { job, remaining_ms: 60_000 }));
    }

    /// Publishes a job.
    pub fn publish(&self, job: &Job, signer: &Identity) {
        let offer = Offer { job: Signed::new(job, signer), remaining_ms: 60_000 };
        let _ = self.say.send(Said::Fanout(Broadcast::Job(offer)));
    }

    pub fn tell(&self, message: ToMinion) {
        let _ = self.say.send(Said::Session(message));
    }

    /// Says something on every session that waits here.
    pub fn tell_standbys(&self, message: ToMinion) {
        let _ = self.say.send(Said::Standby(message));
    }

    /// Kills the master: its listeners and sessions are gone.
    pub fn kill(&self) {
        self.token.cancel();
    }
}

#[derive(Clone)]
struct World {
    truth: Arc<Mutex<Truth>>,
    standing: watch::Receiver<Standing>,
    directory: watch::Receiver<Signed<Directory>>,
    publisher: Arc<Mutex<Publisher>>,
    credentials: MasterCredentials,
    grant_address: Address,
    id: MasterId,
}

impl World {
    fn lame(&self) -> Option<Lame> {
        self.truth.lock().expect("sound").lame.get(&self.id).copied()
    }
}

async fn run_session(world: World, link: Link, says: broadcast::Receiver<Said>, token: CancellationToken) {
    tokio::select! {
        () = token.cancelled() => {}
        () = serve_session(world, link, says) => {}
    }
}

/// One session: what the protocol asks for, and nothing more. Ends when anything fails.
async fn serve_session(mut world: World, link: Link, mut says: broadcast::Receiver<Said>) {
    let within = Duration::from_secs(5);
    let Ok(mut session) = ServedSession::accept(link, &world.credentials, &SystemEntropy, within).await else { return };
    let Ok(ToMaster::Attach(attach)) = session.receiver.recv().await else { return };
    let mut works = !attach.role.is_standby();
    {
        let mut truth = world.truth.lock().expect("sound");
        truth.attaches += u32::from(works);
        truth.roles.push((world.id, attach.role));
    }
    let mut said = Vec::new();
    world.standing.mark_changed();
    world.directory.mark_changed();
    let mut granted = false;
    let mut credit: Option<usize> = None;
    loop {
        for message in said.drain(..) {
            if session.sender.send(&message).await.is_err() {
                return;
            }
        }
        tokio::select! {
            Ok(()) = world.directory.changed() => {
                said.push(ToMinion::Directory(world.directory.borrow_and_update().clone()));
            }
            Ok(()) = world.standing.changed(), if world.lame() != Some(Lame::Mute) => {
                let standing = *world.standing.borrow_and_update();
                said.push(ToMinion::Standing(standing));
                if matches!(standing, Standing::Accepted { .. }) && works && !granted && world.lame() != Some(Lame::NoGrant) {
                    granted = true;
                    let publisher = world.publisher.lock().expect("sound");
                    let grant = Grant { address: world.grant_address.clone(), capability: publisher.admit(), key: publisher.key() };
                    said.push(ToMinion::Grant(grant));
                }
            }
            message = says.recv() => match message {
                Ok(Said::Session(message)) if works => {
                    if let ToMinion::Credit { bytes } = &message {
                        credit = Some(usize::try_from(*bytes).expect("fits"));
                    }
                    said.push(message);
                }
                Ok(Said::Standby(message)) if !works => said.push(message),
                Ok(Said::Session(_) | Said::Standby(_)) => {}
                Ok(Said::Fanout(_)) => {}
                Err(_) => return,
            },
            message = session.receiver.recv() => match message {
                Ok(ToMaster::Ping { sequence }) => {
                    said.push(ToMinion::Pong { sequence, quorum: world.lame() != Some(Lame::NoQuorum) });
                }
                Ok(ToMaster::Call { .. }) if !works => panic!("a session that waits makes no calls"),
                Ok(ToMaster::Call { .. }) if world.lame() == Some(Lame::Deaf) => {}
                Ok(ToMaster::Call { sequence, call, .. }) => {
                    if let (Call::Return(parts), Some(left)) = (&call, &mut credit) {
                        let bytes: usize = parts.iter().map(|part| part.body.len() + RETURN_PART_OVERHEAD_BYTES).sum();
                        if bytes > RETURN_WINDOW_BYTES {
                            world.truth.lock().expect("sound").overdrawn += u32::from(bytes > *left);
                            *left = left.saturating_sub(bytes);
                        }
                    }
                    let result = handle_call(&world, call);
                    said.push(ToMinion::Reply { sequence, revision: Revision(1), result });
                }
                Ok(ToMaster::Want { bytes }) => {
                    world.truth.lock().expect("sound").wants.push(bytes);
                    let bytes = bytes.min(1 << 20);
                    credit = Some(usize::try_from(bytes).expect("fits"));
                    said.push(ToMinion::Credit { bytes });
                }
                Ok(ToMaster::Role(role)) => {
                    works = !role.is_standby();
                    world.truth.lock().expect("sound").roles.push((world.id, role));
                    world.standing.mark_changed();
                }
                Ok(ToMaster::Attach(_)) | Err(_) => return,
            },
        }
    }
}

fn handle_call(world: &World, call: Call) -> Result<Answer, Refusal> {
    let mut truth = world.truth.lock().expect("sound");
    if let Some(refusal) = &truth.refuse {
        return Err(refusal.clone());
    }
    match truth.lame.get(&world.id) {
        Some(Lame::NoQuorum) => return Err(Refusal::NoQuorum),
        Some(Lame::Busy) => return Err(Refusal::Busy { retry_after_ms: 500 }),
        Some(Lame::Mute | Lame::NoGrant | Lame::Deaf) | None => {}
    }
    match call {
        Call::Accept(jids) => truth.accepted.extend(jids),
        Call::Facts(facts) => truth.facts = Some(facts),
        Call::Return(parts) => {
            let mut verdicts = Vec::new();
            for part in parts {
                let known = truth.parts.entry((part.jid, part.digest)).or_default();
                known.insert(part.part, part.body);
                if known.len() < usize::from(part.parts) {
                    verdicts.push(Recorded::Part);
                    continue;
                }
                let body: Vec<u8> = known.values().flatten().copied().collect();
                let outcome: Outcome = decode(&body).expect("an outcome");
                let all = truth.returns.entry(part.jid).or_default();
                let duplicate = all.iter().any(|(known, _)| *known == outcome);
                verdicts.push(if duplicate { Recorded::Duplicate } else { Recorded::Committed });
                if !duplicate {
                    all.push((outcome, world.id));
                }
            }
            return Ok(Answer::Recorded(verdicts));
        }
        Call::MineReport(reports) => {
            for report in reports {
                let newest = truth.mine.get(&report.function).map(|(stamp, _)| *stamp);
                if newest.is_none_or(|newest| report.stamp > newest) {
                    truth.mine.insert(report.function, (report.stamp, report.value));
                }
            }
        }
        Call::MineGet { function, .. } => {
            let minion = MinionId::new("web-1").expect("an id");
            let found = truth.mine.get(&function).cloned();
            let entry =
                |(stamp, value): (MineStamp, Option<Value>)| Some(MineEntry { minion, function, value: value?, stamp });
            return Ok(Answer::Mine(found.and_then(entry).into_iter().collect()));
        }
    }
    Ok(Answer::Done)
}

/// Beacons, and what the test publishes.
async fn run_fanout(
    (truth, id): (Arc<Mutex<Truth>>, MasterId),
    publisher: Arc<Mutex<Publisher>>,
    mut says: broadcast::Receiver<Said>,
    directory: watch::Receiver<Signed<Directory>>,
    clock: SystemClock,
    token: CancellationToken,
) {
    use saltern_wire::io::Clock;
    let mut sequence = 0;
    loop {
        let broadcast = tokio::select! {
            () = token.cancelled() => return,
            () = tokio::time::sleep(Duration::from_millis(500)) => {
                sequence += 1;
                let newest = directory.borrow().peek().expect("a directory");
                let (quorum, level) = {
                    let truth = truth.lock().expect("sound");
                    (truth.lame.get(&id) != Some(&Lame::NoQuorum), truth.level)
                };
                Broadcast::Beacon(Beacon {
                    cluster: CLUSTER,
                    sequence,
                    newest_job: None,
                    time: LogicalTime::from_unix_micros(1_795_392_390_000_000).plus(clock.monotonic()),
                    directory: (newest.generation, newest.version),
                    quorum,
                    reconnect_window_ms: 0,
                    next_ms: 500,
                    level,
                })
            }
            said = says.recv() => match said {
                Ok(Said::Fanout(broadcast)) => broadcast,
                Ok(Said::Session(_) | Said::Standby(_)) => continue,
                Err(_) => return,
            },
        };
        publisher.lock().expect("sound").publish(&broadcast).expect("sealed");
    }
}
