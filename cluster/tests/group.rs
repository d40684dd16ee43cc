//! Raft's messages that the library's defaults would leave unsent: leadership is handed over, and an isolated member disturbs
//! nobody. And the lanes of a leader: control goes before bulk.

use saltern_cluster::mesh::message::{Request, Response};
use saltern_cluster::mesh::server::{MeshService, Unfit, serve};
use saltern_cluster::mesh::tls::framed;
use saltern_cluster::mesh::{Mesh, MeshListener, MeshTransport};
use saltern_cluster::raft::machine::{DiskWork, Machine};
use saltern_cluster::raft::service::RaftService;
use saltern_cluster::raft::{Group, GroupConfig, GroupError, LeaderState};
use saltern_cluster::space::Space;
use saltern_cluster::truth::{Lane, ProposeError, Truth};
use saltern_pubsub::clock::{SystemClock, SystemEntropy};
use saltern_store::command::{Command, MineCommand, Proposal};
use saltern_store::kv::memory::MemoryEngine;
use saltern_store::{FlushBy, Log, Snapshots, Soundness, State};
use saltern_wire::io::{Address, Link, TransportError};
use saltern_wire::mine::{MineReport, MineStamp};
use saltern_wire::{LogicalTime, MasterId, Ordinal, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long a condition may take. A busy machine needs a fraction of it.
const PATIENCE: Duration = Duration::from_secs(30);

/// Who listens where, and who is cut off.
#[derive(Default)]
struct Net {
    listeners: Mutex<BTreeMap<Address, (MasterId, mpsc::Sender<(MasterId, Link)>)>>,
    cut: Mutex<BTreeSet<MasterId>>,
    /// Dials that were refused because somebody is cut off.
    refused: AtomicUsize,
}

struct LocalMesh {
    id: MasterId,
    net: Arc<Net>,
}

struct LocalListener(mpsc::Receiver<(MasterId, Link)>);

#[async_trait::async_trait]
impl MeshListener for LocalListener {
    async fn accept(&mut self) -> Result<(MasterId, Link), TransportError> {
        self.0.recv().await.ok_or_else(|| closed("the listener is gone"))
    }
}

fn closed(cause: &str) -> TransportError {
    TransportError::Closed { peer: "local".into(), cause: cause.into() }
}

#[async_trait::async_trait]
impl MeshTransport for LocalMesh {
    async fn dial(&self, _master: MasterId, address: &Address) -> Result<Link, TransportError> {
        let (to, listener) = {
            let listeners = self.net.listeners.lock().expect("no panic");
            listeners.get(address).cloned().ok_or_else(|| closed("nobody listens"))?
        };
        if self.net.is_cut(self.id) || self.net.is_cut(to) {
            self.net.refused.fetch_add(1, Ordering::Relaxed);
            return Err(closed("cut off"));
        }
        let (near, far) = tokio::io::duplex(1 << 20);
        let guard = |link: Link| Link {
            sender: Box::new(CuttableSender { inner: link.sender, net: Arc::clone(&self.net), ends: [self.id, to] }),
            ..link
        };
        listener
            .send((self.id, guard(framed(far, "near".into()))))
            .await
            .map_err(|_| closed("the listener is gone"))?;
        Ok(guard(framed(near, "far".into())))
    }

    async fn listen(&self, bind: &Address) -> Result<Box<dyn MeshListener>, TransportError> {
        let (sender, receiver) = mpsc::channel(16);
        self.net.listeners.lock().expect("no panic").insert(bind.clone(), (self.id, sender));
        Ok(Box::new(LocalListener(receiver)))
    }
}

impl Net {
    fn is_cut(&self, id: MasterId) -> bool {
        self.cut.lock().expect("no panic").contains(&id)
    }
}

struct CuttableSender {
    inner: Box<dyn saltern_wire::io::LinkSender>,
    net: Arc<Net>,
    ends: [MasterId; 2],
}

#[async_trait::async_trait]
impl saltern_wire::io::LinkSender for CuttableSender {
    async fn send(&mut self, message: bytes::Bytes) -> Result<(), TransportError> {
        if self.ends.iter().any(|end| self.net.is_cut(*end)) {
            return Err(closed("cut off"));
        }
        self.inner.send(message).await
    }
}

/// Serves Raft and nothing else.
struct OnlyRaft(Arc<RaftService>);

#[async_trait::async_trait]
impl MeshService for OnlyRaft {
    fn admits(&self, _master: MasterId) -> bool {
        true
    }
    fn hears_out(&self, _master: MasterId) -> bool {
        false
    }
    fn expelled(&self, _master: MasterId) -> Option<Response> {
        None
    }
    async fn answer(&self, from: MasterId, request: Request) -> Response {
        match request {
            Request::Raft(call) => self.0.answer(from, call).await,
            _ => Response::Failed("only Raft is served".into()),
        }
    }
    async fn replicate(&self, from: MasterId, link: Link) {
        self.0.replicate(from, link).await;
    }

    fn note_expired(&self) {}

    fn note_refused(&self, _: MasterId, _: Unfit) {}
}

fn address(id: MasterId) -> Address {
    Address::new(format!("master-{id}"), 4510)
}

async fn member(id: MasterId, net: &Arc<Net>, tasks: &TaskTracker) -> Group {
    member_with_mesh(id, net, tasks).await.0
}

async fn member_with_mesh(id: MasterId, net: &Arc<Net>, tasks: &TaskTracker) -> (Group, Arc<Mesh>) {
    let engine = Arc::new(MemoryEngine::new());
    let log = Log::open(&*engine, Path::new("/log"), FlushBy::Caller, Soundness::new()).expect("a new log");
    let state = State::open(engine.clone(), Path::new("/state"), Soundness::new()).expect("a new state");
    let snapshots = Arc::new(Snapshots::open(engine, Path::new("/snapshots"), Soundness::new()).expect("a new folder"));
    let machine = Machine::new(state, snapshots, DiskWork::InPlace, Space::endless(id));
    let transport = Arc::new(LocalMesh { id, net: Arc::clone(net) });
    let mesh = Mesh::new(transport.clone());
    // Slower than the profile lan: these tests run beside others.
    let config =
        GroupConfig { heartbeat_ms: 100, election_ms_min: 500, election_ms_max: 700, ..GroupConfig::default() };
    let clock = Arc::new(SystemClock::new());
    let (group, raft) = Group::start(id, config, Arc::clone(&mesh), log, machine, clock).await.expect("it starts");
    let service: Arc<dyn MeshService> = Arc::new(OnlyRaft(raft));
    serve(&*transport, &address(id), service, tasks, CancellationToken::new()).await.expect("it listens");
    (group, mesh)
}

async fn until(group: &Group, what: &str, met: impl Fn(&LeaderState) -> bool) -> LeaderState {
    let wait = async {
        loop {
            let state = group.leader_state();
            if met(&state) {
                return state;
            }
            group.changed(Duration::from_millis(20)).await;
        }
    };
    let found = tokio::time::timeout(PATIENCE, wait).await;
    found.unwrap_or_else(|_| panic!("waited for {what} in vain: {:?}", group.leader_state()))
}

/// Three voters, the first of which leads.
async fn three(net: &Arc<Net>, tasks: &TaskTracker) -> Vec<Group> {
    let ids = [MasterId(1), MasterId(2), MasterId(3)];
    let mut groups = Vec::new();
    for id in ids {
        groups.push(member(id, net, tasks).await);
    }
    groups[0].found(ids[0], &address(ids[0])).await.expect("the first member");
    until(&groups[0], "a leader", |state| state.is_self).await;
    for id in &ids[1..] {
        groups[0].add_learner(*id, &address(*id)).await.expect("a learner");
        until(&groups[0], "the learner to catch up", |state| {
            state.matched.get(id).copied().flatten() >= Some(state.last_log)
        })
        .await;
        groups[0].promote(*id).await.expect("a voter");
    }
    for group in &groups {
        until(group, "three voters and a leader", |state| state.voters.len() == 3 && state.leader == Some(ids[0]))
            .await;
    }
    groups
}

/// Writes through a leader. One that has just been elected sends the writer away until a majority has answered it.
async fn write(group: &Group) {
    let proposal =
        Proposal { request: None, by: MasterId(1), stamp: LogicalTime::from_unix_micros(1), command: Command::Tick };
    let written = async {
        while let Err(error) = group.write(proposal.clone(), false).await {
            assert!(matches!(error, GroupError::NotLeader(_)), "{error}");
            group.changed(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, written).await.expect("a leader writes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_is_handed_over_on_request() {
    let (net, tasks) = (Arc::new(Net::default()), TaskTracker::new());
    let groups = three(&net, &tasks).await;
    write(&groups[0]).await;
    let before = groups[0].leader_state();
    groups[0].transfer(MasterId(2)).await.expect("it can be asked");
    let after = until(&groups[1], "leadership", |state| state.is_self).await;
    assert!(after.term > before.term, "a new term began");
    until(&groups[0], "the old leader to follow", |state| state.leader == Some(MasterId(2))).await;
    write(&groups[1]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_was_cut_off_does_not_disturb_the_leader_when_it_is_back() {
    let (net, tasks) = (Arc::new(Net::default()), TaskTracker::new());
    let groups = three(&net, &tasks).await;
    let before = groups[0].leader_state();
    net.cut.lock().expect("no panic").insert(MasterId(3));
    until(&groups[2], "the silence to be noticed", |_| net.refused.load(Ordering::Relaxed) > 20).await;
    for _ in 0..20 {
        write(&groups[0]).await;
    }
    let written = groups[0].leader_state().last_log;
    net.cut.lock().expect("no panic").clear();
    let back = until(&groups[2], "the member to catch up", |state| state.applied >= written).await;
    assert_eq!(back.term, before.term, "it asked before it voted for itself, and was told no");
    assert_eq!(groups[0].leader_state().leader, Some(MasterId(1)), "the leader leads on");
    write(&groups[0]).await;
}

/// Proposals of the flood below: many times what may be under way at one time.
const FLOOD: usize = 120;

/// Bytes of each: as many as an entry of the bulk lane may have.
const FLOOD_BYTES: usize = 200 * 1024;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_does_not_wait_for_a_flood_of_returns() {
    let (net, tasks, id) = (Arc::new(Net::default()), TaskTracker::new(), MasterId(1));
    let (group, mesh) = member_with_mesh(id, &net, &tasks).await;
    group.found(id, &address(id)).await.expect("the only member");
    until(&group, "a leader", |state| state.is_self).await;
    let truth = Truth::new(id, group, mesh, Arc::new(SystemClock::new()), Arc::new(SystemEntropy));
    truth.propose(Lane::Control, Command::Tick, None).await.expect("it leads");

    let value = Some(Value::String("x".repeat(FLOOD_BYTES)));
    let reports = vec![MineReport { function: "flood".into(), value, stamp: MineStamp::default() }];
    let command = Command::Mine(MineCommand::Report { minion: Ordinal(1), reports });
    let landed = Arc::new(AtomicUsize::new(0));
    let mut flood = tokio::task::JoinSet::new();
    for _ in 0..FLOOD {
        let (truth, command, landed) = (truth.clone(), command.clone(), Arc::clone(&landed));
        flood.spawn(async move {
            let proposed = truth.propose(Lane::Bulk, command, None).await;
            landed.fetch_add(1, Ordering::Relaxed);
            proposed
        });
    }
    let flooded = async {
        while landed.load(Ordering::Relaxed) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, flooded).await.expect("the flood begins to land");
    truth.propose(Lane::Control, Command::Tick, None).await.expect("it leads");
    let before = landed.load(Ordering::Relaxed);
    assert!(before < FLOOD / 2, "{before} of {FLOOD} bulk proposals went first");
    while let Some(proposed) = flood.join_next().await {
        // A machine that is too slow for all of them says so.
        assert!(matches!(proposed.expect("no panic"), Ok(_) | Err(ProposeError::Busy)));
    }
}
