//! For tests: masters that share one log in memory. Every command is really applied, to a store of each; what is missing
//! is Raft, so a write takes no time and only fails when a test says so.

use super::Replica;
use crate::truth::{Committed, Lane, ProposeError, Quorum};
use saltern_pubsub::clock::SystemClock;
use saltern_store::command::{Applied, Command, KeyCommand, MasterCommand, Proposal, Reply};
use saltern_store::kv::memory::MemoryEngine;
use saltern_store::{AppliedEntry, Item, Payload, Soundness, State};
use saltern_wire::crypto::{Fingerprint, Identity, Signed};
use saltern_wire::io::{Address, Clock};
use saltern_wire::master::{Certificate, Directory, Endpoints, MasterRecord, MasterState};
use saltern_wire::settings::Settings;
use saltern_wire::{ClusterId, LogicalTime, MasterId, MinionId, RequestId, Revision};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{broadcast, watch};

/// Logical time at which the tests begin: 2026-11-23.
const BEGIN_MICROS: u64 = 1_795_392_390_000_000;

pub(crate) const CLUSTER: ClusterId = ClusterId::from_bytes([7; 16]);

/// The cluster's CA.
pub(crate) fn ca() -> Identity {
    Identity::from_seed([99; 32])
}

/// The key of master `id`.
pub(crate) fn master_key(id: u64) -> Identity {
    Identity::from_seed([u8::try_from(id).expect("a small number"); 32])
}

/// The certificate of master `id`.
pub(crate) fn certificate(id: u64) -> Signed<Certificate> {
    let certificate = Certificate {
        cluster: CLUSTER,
        master: MasterId(id),
        name: format!("m{id}"),
        public_key: master_key(id).public_key(),
        generation: 1,
    };
    Signed::new(&certificate, &ca())
}

fn directory(version: u64, masters: u64) -> Signed<Directory> {
    let record = |id: u64| {
        let at = |port| Address::new(format!("m{id}"), port);
        MasterRecord {
            id: MasterId(id),
            name: format!("m{id}"),
            state: MasterState::Active,
            endpoints: Endpoints { fanout: at(4505), session: at(4506), mesh: at(4510), api: at(4511) },
            region: "eu".into(),
            zone: "a".into(),
            weight: 100,
            certificate: certificate(id),
            public_key: master_key(id).public_key(),
            role: saltern_wire::master::Role::Voter,
        }
    };
    let masters = (1..=masters).map(record).collect();
    Signed::new(
        &Directory { cluster: CLUSTER, generation: 1, version, masters, succeeds: vec![], retired: vec![] },
        &ca(),
    )
}

/// What a test may switch, for all masters together.
struct Shared {
    members: Vec<(Arc<State>, broadcast::Sender<Arc<AppliedEntry>>)>,
    log: Vec<Item>,
    fail: Option<ProposeError>,
    /// Whether proposals wait.
    stalled: watch::Sender<bool>,
    /// Every command that was asked for, refused or not.
    asked: Vec<Command>,
    /// Masters that apply nothing until they confirm, by place, with what they lack.
    held: BTreeMap<usize, Vec<Item>>,
}

/// One master of a cluster without Raft.
#[derive(Clone)]
pub(crate) struct Together {
    id: MasterId,
    state: Arc<State>,
    effects: broadcast::Sender<Arc<AppliedEntry>>,
    shared: Arc<Mutex<Shared>>,
    clock: SystemClock,
    quorum: Arc<Mutex<Quorum>>,
}

impl Together {
    /// So many founded masters, with ids from 1.
    pub(crate) fn found(masters: u64) -> Vec<Self> {
        Self::found_with(masters, Settings::default())
    }

    /// The same, with other settings.
    pub(crate) fn found_with(masters: u64, settings: Settings) -> Vec<Self> {
        let clock = SystemClock::new();
        let mut members = Vec::new();
        for _ in 0..masters {
            let state = State::open(Arc::new(MemoryEngine::new()), Path::new("/state"), Soundness::new())
                .expect("an empty disk");
            members.push((state, broadcast::Sender::new(1024)));
        }
        let shared = Shared {
            members: members.clone(),
            log: Vec::new(),
            fail: None,
            stalled: watch::Sender::new(false),
            asked: Vec::new(),
            held: BTreeMap::new(),
        };
        let shared = Arc::new(Mutex::new(shared));
        let member = |(id, (state, effects)): (u64, (Arc<State>, broadcast::Sender<_>))| Self {
            id: MasterId(id),
            state,
            effects,
            shared: Arc::clone(&shared),
            clock: clock.clone(),
            quorum: Arc::new(Mutex::new(Quorum {
                fresh: true,
                contact: true,
                stale_ms: None,
                leader: Some(MasterId(1)),
                term: 1,
            })),
        };
        let all: Vec<Self> = (1..).zip(members).map(member).collect();
        let found = MasterCommand::Found {
            cluster: CLUSTER,
            ca: ca().public_key(),
            ca_sealed: vec![1],
            ca_certificate_pem: "-".into(),
            directory: directory(1, 1),
            settings,
            level: saltern_wire::level::LEVEL,
        };
        let first = |command| all[0].apply(Command::Master(command), None).applied.expect("a fresh cluster");
        first(found);
        let secret_hash = [3; 32];
        first(MasterCommand::Token { secret_hash, ttl_ms: 60_000, uses: 100 });
        for id in 2..=masters {
            let public_key = master_key(id).public_key();
            first(MasterCommand::Join { secret_hash, name: format!("m{id}"), public_key });
            first(MasterCommand::Directory { directory: directory(id, id) });
        }
        all
    }

    /// Applies a command at every master.
    pub(crate) fn apply(&self, command: Command, request: Option<RequestId>) -> Committed {
        let mut shared = self.shared.lock().expect("no test panics with it");
        let index = u64::try_from(shared.log.len()).expect("a short log") + 1;
        let proposal = Proposal { request, by: self.id, stamp: self.now(), command };
        let item =
            Item { index, position: index.to_be_bytes().to_vec(), payload: Payload::Proposal(Arc::new(proposal)) };
        shared.log.push(item.clone());
        let mut committed = None;
        let Shared { members, held, .. } = &mut *shared;
        for (place, (state, effects)) in members.iter().enumerate() {
            if let Some(lacking) = held.get_mut(&place) {
                lacking.push(item.clone());
                continue;
            }
            let entry = state.apply(std::slice::from_ref(&item)).expect("the log is whole").remove(0);
            committed = Some(Committed { revision: entry.revision, time: entry.time, applied: entry.applied.clone() });
            let _ = effects.send(Arc::new(entry));
        }
        committed.expect("a master applies it")
    }

    /// This master falls behind: it applies nothing until it confirms.
    pub(crate) fn hold(&self) {
        self.shared.lock().expect("no test panics with it").held.insert(self.place(), Vec::new());
    }

    fn place(&self) -> usize {
        usize::try_from(self.id.0).expect("a small number") - 1
    }

    /// Accepts a key that this call also submits, and answers its record's number.
    pub(crate) fn enrol(&self, minion: &MinionId, key: &Identity) -> saltern_wire::Ordinal {
        let public_key = key.public_key();
        let submit = KeyCommand::Submit { minion: minion.clone(), public_key };
        self.apply(Command::Key(submit), None).applied.expect("a new key");
        self.decide(|keys| KeyCommand::Accept { keys, by: "root".into() }, minion, key).expect("it is pending");
        self.state.ordinal_of(minion).expect("just accepted")
    }

    /// Decides about one key.
    pub(crate) fn decide(
        &self,
        command: impl FnOnce(Vec<(MinionId, Fingerprint)>) -> KeyCommand,
        minion: &MinionId,
        key: &Identity,
    ) -> Applied {
        self.apply(Command::Key(command(vec![(minion.clone(), key.public_key().fingerprint())])), None).applied
    }

    /// Every proposal fails like this from now on, or none.
    pub(crate) fn fail(&self, how: Option<ProposeError>) {
        self.shared.lock().expect("no test panics with it").fail = how;
    }

    /// Every proposal waits from now on.
    pub(crate) fn stall(&self) {
        self.shared.lock().expect("no test panics with it").stalled.send_replace(true);
    }

    /// What waits goes on.
    pub(crate) fn flow(&self) {
        self.shared.lock().expect("no test panics with it").stalled.send_replace(false);
    }

    /// What was proposed so far.
    pub(crate) fn asked(&self) -> Vec<Command> {
        self.shared.lock().expect("no test panics with it").asked.clone()
    }

    /// This master's contact to a majority.
    pub(crate) fn set_quorum(&self, fresh: bool, stale: Duration) {
        let stale_ms = (!fresh).then(|| u64::try_from(stale.as_millis()).expect("a short time"));
        let mut quorum = self.quorum.lock().expect("no test panics with it");
        *quorum = Quorum { fresh, contact: fresh, stale_ms, ..quorum.clone() };
    }

    /// The masters' common clock.
    pub(crate) fn clock(&self) -> SystemClock {
        self.clock.clone()
    }

    /// As a part of a master holds it.
    pub(crate) fn replica(&self) -> Arc<dyn Replica> {
        Arc::new(self.clone())
    }
}

#[async_trait::async_trait]
impl Replica for Together {
    fn id(&self) -> MasterId {
        self.id
    }

    fn state(&self) -> &Arc<State> {
        &self.state
    }

    fn subscribe(&self) -> broadcast::Receiver<Arc<AppliedEntry>> {
        self.effects.subscribe()
    }

    fn revision(&self) -> Revision {
        self.state.revision()
    }

    fn quorum(&self) -> Quorum {
        self.quorum.lock().expect("no test panics with it").clone()
    }

    fn now(&self) -> LogicalTime {
        LogicalTime::from_unix_micros(BEGIN_MICROS).plus(self.clock.monotonic())
    }

    async fn confirm(&self, _within: Duration) -> Result<Revision, ProposeError> {
        if !self.quorum().fresh {
            return Err(ProposeError::NoQuorum);
        }
        let lacking =
            self.shared.lock().expect("no test panics with it").held.remove(&self.place()).unwrap_or_default();
        for entry in self.state.apply(&lacking).expect("the log is whole") {
            let _ = self.effects.send(Arc::new(entry));
        }
        Ok(self.revision())
    }

    async fn propose(
        &self,
        _lane: Lane,
        command: Command,
        request: Option<RequestId>,
    ) -> Result<Committed, ProposeError> {
        // Others get their turn before a write is done, as with a real one.
        tokio::task::yield_now().await;
        let (fail, mut stalled) = {
            let mut shared = self.shared.lock().expect("no test panics with it");
            shared.asked.push(command.clone());
            (shared.fail.clone(), shared.stalled.subscribe())
        };
        stalled.wait_for(|stalled| !stalled).await.expect("the sender lives as long as the log");
        match fail {
            Some(error) => Err(error),
            None => Ok(self.apply(command, request)),
        }
    }
}

#[test]
fn a_write_at_one_master_is_there_at_all() {
    let masters = Together::found(3);
    let minion = MinionId::new("web-1").expect("an id");
    let ordinal = masters[1].enrol(&minion, &Identity::from_seed([50; 32]));
    for master in &masters {
        assert_eq!(master.state.ordinal_of(&minion), Some(ordinal));
        assert_eq!(master.state.cluster(), Some(CLUSTER));
    }
    let applied = masters[2].apply(Command::Tick, None).applied;
    assert_eq!(applied, Ok(Reply::Done));
}
