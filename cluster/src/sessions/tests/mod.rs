//! Masters with real sessions, publishing and presence, over a network in memory and a truth without Raft; minions that
//! speak the real protocol.

mod batches;
mod delivery;
mod hostile;
mod jobs;
mod keys;
mod liveness;
mod standby;
mod storm;

use super::*;
use crate::presence::{Heard, PeerChannel, PresenceUpdate};
use crate::publish;
use crate::replica::together::{CLUSTER, Together, ca, certificate, master_key};
use crate::submit::Jobs;
use crate::watch::Watch;
use saltern_pubsub::call::{MinionCredentials, Session as Dialled};
use saltern_pubsub::clock::SystemEntropy;
use saltern_pubsub::disk::SystemDisk;
use saltern_pubsub::memory::MemoryNetwork;
use saltern_pubsub::subscriber::Subscriber;
use saltern_wire::api::Submit;
use saltern_wire::crypto::Identity;
use saltern_wire::crypto::handshake::Expectation;
use saltern_wire::fanout::Offer;
use saltern_wire::io::{Fanout, Transport};
use saltern_wire::session::{Answer, Call, Grant, Refusal, SessionRole};
use saltern_wire::settings::Settings;
use saltern_wire::target::Target;
use saltern_wire::{JobId, MasterId, RequestId, Revision};
use std::collections::BTreeMap;
use tokio_util::sync::DropGuard;

/// A master without Raft, mesh and API.
pub(super) struct Master {
    pub(super) truth: Together,
    pub(super) sessions: Sessions,
    pub(super) presence: Presence,
    pub(super) jobs: Jobs,
    pub(super) watch: Watch,
    pub(super) witness: Arc<Witness>,
    /// Whether what it publishes is lost on the way.
    pub(super) lossy: Arc<AtomicBool>,
    stop: DropGuard,
}

/// A fan-out whose frames go nowhere while a test says so.
struct Lossy {
    inner: Arc<dyn Fanout>,
    losing: Arc<AtomicBool>,
}

impl Fanout for Lossy {
    fn publish(&self, frame: bytes::Bytes) {
        if !self.losing.load(Ordering::Relaxed) {
            self.inner.publish(frame);
        }
    }

    fn admit(&self, capability: saltern_wire::io::Capability) {
        self.inner.admit(capability);
    }

    fn revoke(&self, capability: saltern_wire::io::Capability) {
        self.inner.revoke(capability);
    }

    fn subscribers(&self) -> usize {
        self.inner.subscribers()
    }

    fn address(&self) -> Address {
        self.inner.address()
    }
}

/// Masters, network and what stops them.
pub(super) struct Scene {
    pub(super) network: MemoryNetwork,
    pub(super) masters: Vec<Master>,
    requests: std::cell::Cell<u8>,
}

/// Hands updates straight to the other presence.
struct Direct(Arc<Mutex<BTreeMap<MasterId, Presence>>>, MasterId);

#[async_trait::async_trait]
impl PeerChannel for Direct {
    async fn send_presence(&self, to: MasterId, update: PresenceUpdate) -> Option<Heard> {
        let to = self.0.lock().expect("whole").get(&to).cloned()?;
        Some(to.handle_update(self.1, update))
    }
}

impl Scene {
    pub(super) async fn new(masters: u64) -> Self {
        Self::with(masters, Settings::default()).await
    }

    pub(super) async fn with(masters: u64, settings: Settings) -> Self {
        let network = MemoryNetwork::new();
        let truths = Together::found_with(masters, settings);
        let road = Arc::default();
        let mut started = Vec::new();
        for truth in truths {
            started.push(start(&network, truth, &road).await);
        }
        Self { network, masters: started, requests: std::cell::Cell::new(0) }
    }

    /// Submits a job at the master at `place`.
    pub(super) async fn submit(&self, place: usize, target: &str, ttl_ms: u64) -> JobId {
        self.requests.set(self.requests.get() + 1);
        let request = RequestId::from_bytes([self.requests.get(); 16]);
        let submit = submission(target, Some(ttl_ms));
        self.masters[place].jobs.submit(submit, "root", request).await.expect("a good job").0.jid
    }

    /// A minion with a session at the master at `place`, attached and nothing read yet.
    pub(super) async fn attach(&self, place: usize, name: &str) -> Minion {
        Minion::attach(&self.network, place, name, key_of(name), 1).await
    }

    /// The same, accepted by an operator before, up to its grant.
    pub(super) async fn join(&self, place: usize, name: &str) -> (Minion, Grant) {
        if self.masters[0].truth.replica().state().ordinal_of(&id(name)).is_none() {
            self.masters[0].truth.enrol(&id(name), &key_of(name));
        }
        let mut minion = self.attach(place, name).await;
        let grant = minion.granted().await;
        (minion, grant)
    }

    /// Subscribes with what a grant gave.
    pub(super) async fn subscribe(&self, place: usize, name: &str, grant: &Grant) -> Subscriber {
        let id = u64::try_from(place).expect("few") + 1;
        let clock = Arc::new(self.masters[place].truth.clock());
        let transport = self.network.host(name);
        Subscriber::open(&transport, grant, master_key(id).public_key(), clock).await.expect("a good grant")
    }

    /// Where every master says that a minion is.
    pub(super) fn presence_of(&self, name: &str) -> Vec<(saltern_wire::api::Presence, Option<MasterId>)> {
        let whereabouts = self.masters.iter().map(|master| master.presence.where_is(&id(name)));
        whereabouts.map(|found| (found.presence, found.master)).collect()
    }
}

async fn start(network: &MemoryNetwork, truth: Together, road: &Arc<Mutex<BTreeMap<MasterId, Presence>>>) -> Master {
    let number = truth.replica().id().0;
    let io = Io {
        transport: Arc::new(network.host(format!("m{number}"))),
        clock: Arc::new(truth.clock()),
        entropy: Arc::new(SystemEntropy),
        disk: Arc::new(SystemDisk),
    };
    let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
    let replica = truth.replica();
    let presence = Presence::new(Arc::clone(&replica), io.clone());
    road.lock().expect("whole").insert(MasterId(number), presence.clone());
    presence.start(Arc::new(Direct(Arc::clone(road), MasterId(number))), &tasks, cancel.clone());
    let witness = Witness::new(Arc::clone(&io.clock));
    let inbox = Inbox::start(Arc::clone(&replica), Arc::clone(&io.clock), Arc::clone(&witness), &tasks, &cancel);
    let inner = io.transport.fanout(&Address::new(format!("m{number}"), 4505)).await.expect("a free port");
    let lossy = Arc::new(AtomicBool::new(false));
    let fanout = Arc::new(Lossy { inner, losing: Arc::clone(&lossy) });
    let publisher = Publisher::new(fanout, MasterId(number), master_key(number), Arc::clone(&io.entropy));
    let publisher = SharedPublisher::new(publisher);
    let listener = io.transport.listen(&Address::new(format!("m{number}"), 4506)).await.expect("a free port");
    let parts = Parts {
        replica: Arc::clone(&replica),
        io: io.clone(),
        publisher: publisher.clone(),
        credentials: MasterCredentials {
            identity: master_key(number),
            certificate: certificate(number),
            ca: ca().public_key(),
        },
        presence: presence.clone(),
        inbox,
        witness: Arc::clone(&witness),
    };
    let sessions = Sessions::start(parts, listener, &tasks, cancel.clone());
    publish::start(Arc::clone(&replica), io, publisher, sessions.clone(), &tasks, cancel.clone());
    let jobs = Jobs::signing_with(Arc::clone(&replica), CLUSTER, Arc::new(master_key(number)));
    let watch = Watch::new(replica, presence.clone(), Arc::clone(&witness));
    Master { truth, sessions, presence, jobs, watch, witness, lossy, stop: cancel.drop_guard() }
}

impl Master {
    /// Ends all of its tasks.
    pub(super) fn stop(self) {
        drop(self.stop);
    }
}

pub(super) fn submission(target: &str, ttl_ms: Option<u64>) -> Submit {
    Submit {
        target: Target::glob(target),
        function: "test.ping".into(),
        arguments: Vec::new(),
        keywords: saltern_wire::Map::new(),
        ttl_ms,
        batch: None,
        subset: None,
    }
}

pub(super) fn id(name: &str) -> MinionId {
    MinionId::new(name).expect("an id")
}

/// The key of the minion with this name.
pub(super) fn key_of(name: &str) -> Identity {
    Identity::from_seed(*blake3::hash(name.as_bytes()).as_bytes())
}

/// A minion that says what a test tells it to say.
pub(super) struct Minion {
    session: Dialled,
    sequence: u64,
}

impl Minion {
    pub(super) async fn attach(
        network: &MemoryNetwork,
        place: usize,
        name: &str,
        identity: Identity,
        incarnation: u64,
    ) -> Self {
        Self::attach_as(network, place, name, identity, incarnation, SessionRole::default()).await
    }

    pub(super) async fn attach_as(
        network: &MemoryNetwork,
        place: usize,
        name: &str,
        identity: Identity,
        incarnation: u64,
        role: SessionRole,
    ) -> Self {
        let address = Address::new(format!("m{}", place + 1), 4506);
        let link = network.host(name).dial(&address).await.expect("a master listens");
        let expectation =
            Expectation { ca: ca().public_key().fingerprint(), cluster: Some(CLUSTER), generation_min: 1 };
        let credentials = MinionCredentials { identity, minion: id(name), expectation };
        let within = Duration::from_secs(5);
        let mut session = Dialled::open(link, &credentials, &SystemEntropy, within).await.expect("a real master");
        let attach = Attach {
            version: "1.0".into(),
            incarnation,
            directory: None,
            facts_digest: [0; 32],
            credit: true,
            role,
            level: saltern_wire::level::LEVEL,
        };
        session.sender.send(&ToMaster::Attach(attach)).await.expect("it listens");
        Self { session, sequence: 0 }
    }

    pub(super) async fn say(&mut self, message: ToMaster) {
        self.session.sender.send(&message).await.expect("it listens");
    }

    /// The next message; `None` if the session is over.
    pub(super) async fn next(&mut self) -> Option<ToMinion> {
        let within = Duration::from_secs(60);
        tokio::time::timeout(within, self.session.receiver.recv()).await.expect("something is said").ok()
    }

    /// The first message that `wanted` takes; what comes before it is let go.
    pub(super) async fn until<T>(&mut self, wanted: impl Fn(ToMinion) -> Option<T>) -> T {
        loop {
            let message = self.next().await.expect("the session stays open");
            if let Some(found) = wanted(message) {
                return found;
            }
        }
    }

    pub(super) async fn standing(&mut self) -> Standing {
        self.until(|message| if let ToMinion::Standing(standing) = message { Some(standing) } else { None }).await
    }

    pub(super) async fn granted(&mut self) -> Grant {
        self.until(|message| if let ToMinion::Grant(grant) = message { Some(grant) } else { None }).await
    }

    pub(super) async fn offered(&mut self) -> Offer {
        self.until(|message| if let ToMinion::Offer(offer) = message { Some(offer) } else { None }).await
    }

    /// Why the master ends the session.
    pub(super) async fn dismissed(&mut self) -> String {
        self.until(|message| if let ToMinion::Bye { reason, .. } = message { Some(reason) } else { None }).await
    }

    /// Whether nothing that `wanted` takes comes within `within`.
    pub(super) async fn quiet(&mut self, within: Duration, wanted: impl Fn(&ToMinion) -> bool) -> bool {
        let listen = async {
            while let Ok(message) = self.session.receiver.recv().await {
                if wanted(&message) {
                    return;
                }
            }
            std::future::pending().await
        };
        tokio::time::timeout(within, listen).await.is_err()
    }

    pub(super) async fn ping(&mut self) -> bool {
        self.sequence += 1;
        let sequence = self.sequence;
        self.session.sender.send(&ToMaster::Ping { sequence }).await.expect("it listens");
        self.until(|message| {
            let ToMinion::Pong { sequence: answered, quorum } = message else { return None };
            (answered == sequence).then_some(quorum)
        })
        .await
    }

    pub(super) async fn tell(&mut self, message: ToMaster) {
        self.session.sender.send(&message).await.expect("it listens");
    }

    /// The next credit, if one comes within `within`.
    pub(super) async fn credit(&mut self, within: Duration) -> Option<u64> {
        let credit = self.until(|message| if let ToMinion::Credit { bytes } = message { Some(bytes) } else { None });
        tokio::time::timeout(within, credit).await.ok()
    }

    pub(super) async fn call(&mut self, call: Call) -> (Revision, Result<Answer, Refusal>) {
        self.sequence += 1;
        let sequence = self.sequence;
        let call = ToMaster::Call { sequence, deadline_ms: 10_000, call };
        self.session.sender.send(&call).await.expect("it listens");
        self.until(|message| {
            let ToMinion::Reply { sequence: answered, revision, result } = message else { return None };
            (answered == sequence).then_some((revision, result))
        })
        .await
    }
}

/// Looks until `condition` holds; a test fails when it does not within a minute.
pub(super) async fn eventually(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..6000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what} did not come true");
}
