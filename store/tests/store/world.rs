//! A small cluster's worth of words: engines in temporary folders, proposals, and a state to apply them to.

use saltern_store::command::{
    Applied, Command, JobCommand, KeyCommand, MasterCommand, MineAffirmation, MineCommand, MinionCommand, Proposal,
    SettingsCommand,
};
use saltern_store::kv::Engine;
use saltern_store::kv::memory::MemoryEngine;
use saltern_store::kv::rocks::RocksEngine;
use saltern_store::{AppliedEntry, Item, Payload, Soundness, State};
use saltern_wire::crypto::{Fingerprint, Identity, PublicKey, Signed};
use saltern_wire::io::Address;
use saltern_wire::job::{Job, Outcome, OutcomeKind, ReturnPart};
use saltern_wire::level::LEVEL;
use saltern_wire::master::{Certificate, Directory, Endpoints, MasterRecord, MasterState};
use saltern_wire::settings::Settings;
use saltern_wire::target::{Target, TargetKind};
use saltern_wire::{ClusterId, JobId, LogicalTime, Map, MasterId, MinionId, Ordinal, RequestId, Value};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An engine and a folder for it.
pub struct Bench {
    pub name: &'static str,
    pub engine: Arc<dyn Engine>,
    folder: tempfile::TempDir,
}

impl Bench {
    pub fn rocks() -> Self {
        Self { name: "rocks", engine: Arc::new(RocksEngine), folder: tempfile::tempdir().unwrap() }
    }

    pub fn memory() -> Self {
        Self { name: "memory", engine: Arc::new(MemoryEngine::new()), folder: tempfile::tempdir().unwrap() }
    }

    pub fn both() -> [Self; 2] {
        [Self::memory(), Self::rocks()]
    }

    pub fn dir(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn state(&self) -> Arc<State> {
        State::open(self.engine.clone(), &self.dir("state"), Soundness::new()).unwrap()
    }
}

/// A state and the next place in its log.
pub struct World {
    pub state: Arc<State>,
    pub next: u64,
    pub now: LogicalTime,
}

/// 2026-11-23 00:00:00 UTC.
pub const BEGIN: LogicalTimeMicros = 1_795_392_000_000_000;
type LogicalTimeMicros = u64;

impl World {
    pub fn new(bench: &Bench) -> Self {
        Self { state: bench.state(), next: 1, now: LogicalTime::from_unix_micros(BEGIN) }
    }

    pub fn item(&mut self, command: Command) -> Item {
        self.item_as(None, command)
    }

    pub fn item_as(&mut self, request: Option<RequestId>, command: Command) -> Item {
        let proposal = Proposal { request, by: MasterId(1), stamp: self.now, command };
        self.entry(Payload::Proposal(Arc::new(proposal)))
    }

    pub fn entry(&mut self, payload: Payload) -> Item {
        let index = self.next;
        self.next += 1;
        Item { index, position: format!("1.{index}").into_bytes(), payload }
    }

    pub fn apply(&mut self, command: Command) -> AppliedEntry {
        let item = self.item(command);
        self.state.apply(&[item]).unwrap().remove(0)
    }

    pub fn run(&mut self, command: Command) -> Applied {
        self.apply(command).applied
    }

    pub fn pass(&mut self, seconds: u64) {
        self.now = self.now.plus(std::time::Duration::from_secs(seconds));
    }

    /// Accepts `names`, in order.
    pub fn enrol(&mut self, names: &[&str]) {
        for name in names {
            self.run(submit(name)).unwrap();
            self.run(accept(name)).unwrap();
        }
    }

    /// Opens a job for `ordinals`.
    pub fn open(&mut self, slot: u64, ordinals: &[u32]) -> JobId {
        let job = job(self.now, slot, ordinals, 60_000);
        let jid = job.jid;
        self.run(Command::Job(JobCommand::Open { job: sign(&job) })).unwrap();
        jid
    }
}

pub fn id(name: &str) -> MinionId {
    MinionId::new(name).unwrap()
}

/// A key that belongs to `name`; another `number` is another key.
pub fn public_key(name: &str, number: u8) -> PublicKey {
    let mut seed = *blake3::hash(name.as_bytes()).as_bytes();
    seed[0] = number;
    Identity::from_seed(seed).public_key()
}

pub fn fingerprint(name: &str) -> Fingerprint {
    public_key(name, 0).fingerprint()
}

pub fn submit(name: &str) -> Command {
    Command::Key(KeyCommand::Submit { minion: id(name), public_key: public_key(name, 0) })
}

pub fn accept(name: &str) -> Command {
    Command::Key(KeyCommand::Accept { keys: vec![(id(name), fingerprint(name))], by: "ops".into() })
}

pub fn delete(name: &str) -> Command {
    Command::Key(KeyCommand::Delete { keys: vec![(id(name), fingerprint(name))], by: "ops".into() })
}

pub fn reject(name: &str) -> Command {
    Command::Key(KeyCommand::Reject { keys: vec![(id(name), fingerprint(name))], by: "ops".into() })
}

pub fn facts(name: &str, incarnation: u64, os: &str) -> Command {
    let mut facts = Map::new();
    facts.insert("os".into(), os.into());
    Command::Minion(MinionCommand::Facts { minion: id(name), incarnation, version: "0.1.0".into(), facts })
}

pub fn set(name: &str, value: Value) -> Command {
    Command::Settings(SettingsCommand::Set { name: name.into(), value })
}

pub fn job(opened: LogicalTime, slot: u64, ordinals: &[u32], ttl_ms: u64) -> Job {
    Job {
        cluster: cluster(),
        generation: 1,
        jid: JobId::mint(opened, slot),
        master: MasterId(1),
        function: "test.ping".into(),
        arguments: Vec::new(),
        keywords: Map::new(),
        target: Target { kind: TargetKind::Glob, expression: "*".into() },
        targets: ordinals.iter().copied().collect(),
        user: "ops".into(),
        opened,
        ttl_ms,
    }
}

pub fn sign(job: &Job) -> Signed<Job> {
    Signed::new(job, &Identity::from_seed([9; 32]))
}

pub fn outcome(value: &str, success: bool) -> Outcome {
    Outcome {
        kind: OutcomeKind::Finished,
        success,
        retcode: i32::from(!success),
        value: Value::String(value.into()),
        duration_ms: 5,
    }
}

pub fn parts(jid: JobId, outcome: &Outcome) -> Vec<ReturnPart> {
    ReturnPart::split(jid, outcome).unwrap()
}

pub fn record(ordinal: u32, parts: Vec<ReturnPart>) -> Command {
    let returns = parts.into_iter().map(|part| (Ordinal(ordinal), part)).collect();
    Command::Job(JobCommand::Record { returns })
}

pub fn take(jid: JobId, ordinal: u32) -> Command {
    Command::Job(JobCommand::Accept { accepted: vec![(jid, Ordinal(ordinal))] })
}

/// One minion has accepted the job, another one has answered it.
pub fn deliver(jid: JobId, accepted: u32, returned: u32) -> Command {
    let returns = parts(jid, &outcome("true", true)).into_iter().map(|part| (Ordinal(returned), part)).collect();
    Command::Job(JobCommand::Deliver { accepted: vec![(jid, Ordinal(accepted))], returns })
}

pub fn affirm(ordinal: u32, function: &str, held: (u64, u64), stamp: (u64, u64)) -> Command {
    let stamp_of = |(incarnation, counter)| saltern_wire::mine::MineStamp { incarnation, counter };
    let (held, stamp) = (stamp_of(held), stamp_of(stamp));
    let affirmed = vec![MineAffirmation { minion: Ordinal(ordinal), function: function.into(), held, stamp }];
    Command::Mine(MineCommand::Affirm { affirmed })
}

pub fn mine(ordinal: u32, function: &str, value: Option<Value>, stamp: (u64, u64)) -> Command {
    let stamp = saltern_wire::mine::MineStamp { incarnation: stamp.0, counter: stamp.1 };
    let report = saltern_wire::mine::MineReport { function: function.into(), value, stamp };
    Command::Mine(MineCommand::Report { minion: Ordinal(ordinal), reports: vec![report] })
}

pub fn cluster() -> ClusterId {
    ClusterId::from_bytes([7; 16])
}

pub fn ca() -> Identity {
    Identity::from_seed([1; 32])
}

/// A directory of masters `(id, name)`, signed by the CA.
pub fn directory(generation: u64, version: u64, masters: &[(u64, &str)]) -> Signed<Directory> {
    let masters = masters.iter().map(|(id, name)| master(*id, name, generation)).collect();
    Signed::new(
        &Directory { cluster: cluster(), generation, version, masters, succeeds: vec![], retired: vec![] },
        &ca(),
    )
}

fn master(id: u64, name: &str, generation: u64) -> MasterRecord {
    let public_key = public_key(name, 0);
    let certificate =
        Certificate { cluster: cluster(), master: MasterId(id), name: name.into(), public_key, generation };
    let at = |port| Address::new("127.0.0.1", port);
    MasterRecord {
        id: MasterId(id),
        name: name.into(),
        state: MasterState::Active,
        endpoints: Endpoints { fanout: at(4505), session: at(4506), mesh: at(4510), api: at(4511) },
        region: "eu".into(),
        zone: "a".into(),
        weight: 100,
        certificate: Signed::new(&certificate, &ca()),
        public_key,
        role: saltern_wire::master::Role::Voter,
    }
}

pub fn found() -> Command {
    found_at(LEVEL)
}

/// Founded by a build of this feature level.
pub fn found_at(level: u32) -> Command {
    Command::Master(MasterCommand::Found {
        cluster: cluster(),
        ca: ca().public_key(),
        ca_sealed: vec![1, 2, 3],
        ca_certificate_pem: "-----BEGIN CERTIFICATE-----".into(),
        directory: directory(1, 1, &[(1, "alpha")]),
        settings: Settings::default(),
        level,
    })
}

/// What the file CURRENT of a state reads when folder `number` is the live one.
pub fn current(number: u64) -> Vec<u8> {
    let name = format!("state-{number}");
    format!("{name} {:08x}\n", crc32c::crc32c(name.as_bytes())).into_bytes()
}

/// Every row of a folder that a state was opened in, for comparisons: its digest.
pub fn digest(state: &State) -> [u8; 32] {
    state.digest().unwrap()
}

pub fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(path)
}
