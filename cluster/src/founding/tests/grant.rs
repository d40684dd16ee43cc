//! Joining for real: a founded master that serves its port with TLS, a machine that brings a token, a truth that decides.

use super::{config, names};
use crate::config::Config;
use crate::founding::{JoinError, Joined, grant, init, join, pending, token};
use crate::http::{Door, JsonBody, Refusal, serve_tls};
use crate::pki::{Credentials, tls};
use crate::replica::Replica;
use crate::truth::{Committed, Lane, ProposeError, Quorum};
use crate::witness::Witness;
use axum::extract::State as Shared;
use axum::routing::post;
use axum::{Json, Router};
use saltern_pubsub::clock::{SystemClock, SystemEntropy};
use saltern_pubsub::disk::SystemDisk;
use saltern_store::command::{Command, MasterCommand, Proposal};
use saltern_store::kv::memory::MemoryEngine;
use saltern_store::{AppliedEntry, Item, Payload, Soundness, State};
use saltern_wire::api::{Answer, FailureCode, JoinGrant, JoinRequest, JoinTokenRequest, REQUEST_HEADER};
use saltern_wire::io::Address;
use saltern_wire::master::{Directory, MasterState};
use saltern_wire::{LogicalTime, MasterId, RequestId, Revision};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A cluster of one master without Raft: every proposal is applied at once.
pub(super) struct Founder {
    pub(super) state: Arc<State>,
    pub(super) credentials: Credentials,
    next: Mutex<u64>,
    /// Applied just before the next directory that is proposed: another change that came first.
    overtake: Mutex<Option<Command>>,
    effects: broadcast::Sender<Arc<AppliedEntry>>,
}

impl Founder {
    /// Founded in `folder`, whose founding proposal is applied.
    pub(super) fn new(folder: &Path) -> Arc<Self> {
        Self::of(&config(folder))
    }

    /// The same, with a configuration.
    pub(super) fn of(config: &Config) -> Arc<Self> {
        let folder = &config.data_dir;
        init(config, &SystemDisk, &SystemEntropy, &SystemClock::new()).expect("founded");
        let founder = Self {
            state: State::open(Arc::new(MemoryEngine::new()), Path::new("/state"), Soundness::new())
                .expect("an empty disk"),
            credentials: Credentials::load(&SystemDisk, folder).expect("loaded"),
            next: Mutex::new(1),
            overtake: Mutex::new(None),
            effects: broadcast::Sender::new(16),
        };
        let proposal = pending(&SystemDisk, folder).expect("read").expect("there");
        founder.apply(proposal).applied.expect("a fresh truth");
        Arc::new(founder)
    }

    fn apply(&self, proposal: Proposal) -> Committed {
        let mut next = self.next.lock().expect("no test panics with it");
        let payload = Payload::Proposal(Arc::new(proposal));
        let item = Item { index: *next, position: next.to_be_bytes().to_vec(), payload };
        *next += 1;
        let entry = self.state.apply(&[item]).expect("the log is whole").remove(0);
        Committed { revision: entry.revision, time: entry.time, applied: entry.applied }
    }

    pub(super) fn directory(&self) -> Directory {
        let signed = self.state.directory().expect("founded");
        signed.verify(&self.credentials.ca).expect("signed by the CA").into_inner()
    }

    pub(super) async fn token(&self, uses: u32, addresses: Vec<Address>) -> String {
        let request = JoinTokenRequest { ttl_ms: 60_000, uses };
        let name = RequestId::from_bytes([u8::try_from(uses).expect("few"); 16]);
        let (view, _) = grant::create_token(self, &self.credentials, &request, name).await.expect("a token");
        let (again, _) = grant::create_token(self, &self.credentials, &request, name).await.expect("a retry");
        assert_eq!(view, again, "a retry prints the same token");
        let mut token = token::read(&view.token).expect("whole");
        assert_eq!(token.addresses, [self.credentials.endpoints.api.clone()]);
        assert_eq!(token.ca_fingerprint, self.credentials.ca_fingerprint());
        token.addresses = addresses;
        token::write(&token)
    }
}

#[async_trait::async_trait]
impl Replica for Founder {
    fn id(&self) -> MasterId {
        self.credentials.master
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
        Quorum { fresh: true, contact: true, stale_ms: None, leader: Some(self.id()), term: 1 }
    }
    fn now(&self) -> LogicalTime {
        self.state.time()
    }
    async fn confirm(&self, _: Duration) -> Result<Revision, ProposeError> {
        Ok(self.revision())
    }
    async fn propose(&self, _: Lane, command: Command, request: Option<RequestId>) -> Result<Committed, ProposeError> {
        let proposal = |request, command| Proposal { request, by: self.id(), stamp: LogicalTime::ZERO, command };
        let racing = matches!(command, Command::Master(MasterCommand::Directory { .. }));
        let overtaking = self.overtake.lock().expect("no test panics with it").take_if(|_| racing);
        if let Some(overtaking) = overtaking {
            self.apply(proposal(None, overtaking)).applied.expect("it came first");
        }
        Ok(self.apply(proposal(request, command)))
    }
}

type Granted = Result<Json<Answer<JoinGrant>>, Refusal>;

/// What `/v1/cluster/join` does, without the rest of a master.
async fn answer(
    Shared(founder): Shared<Arc<Founder>>,
    headers: axum::http::HeaderMap,
    JsonBody(request): JsonBody<JoinRequest>,
) -> Granted {
    let name = headers.get(REQUEST_HEADER).and_then(|text| text.to_str().ok()?.parse().ok()).expect("a name");
    let (value, revision) = grant::issue_join(&*founder, &founder.credentials, &request, name).await?;
    let as_of = founder.state.time();
    Ok(Json(Answer { revision, as_of, stale_ms: None, master: founder.credentials.name.clone(), value }))
}

/// Serves `founder` until the token is cancelled, and says where.
pub(super) async fn serve(founder: &Arc<Founder>, tasks: &TaskTracker, stop: &CancellationToken) -> Address {
    let listener = crate::http::bind_tcp(([127, 0, 0, 1], 0).into()).expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let router = Router::new().route("/v1/cluster/join", post(answer)).with_state(Arc::clone(founder));
    let config = Arc::new(tls::api_server(&founder.credentials).expect("TLS"));
    let witness = Witness::new(Arc::new(SystemClock::new()));
    let door = Door::new(router, witness, stop.clone());
    tasks.spawn(serve_tls(listener, config, door, tasks.clone()));
    Address::new("127.0.0.1", port)
}

pub(super) async fn join_as(name: &str, home: &Path, token: &str) -> Result<Joined, JoinError> {
    let config = Config { id: name.into(), advertise: "127.0.0.2".into(), ..config(&home.join(name)) };
    join(&config, token, &SystemDisk, &SystemEntropy).await
}

#[tokio::test]
async fn whoever_brings_a_token_becomes_a_master_and_the_token_is_used_up() {
    let home = tempfile::tempdir().expect("a folder");
    let founder = Founder::new(&home.path().join("m1"));
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let address = serve(&founder, &tasks, &stop).await;
    // The first address is dead: the second one answers.
    let addresses = vec![Address::new("127.0.0.1", 1), address];
    let token = founder.token(2, addresses).await;

    let joined = join_as("m2", home.path(), &token).await.expect("joined");
    assert_eq!((joined.cluster, joined.master), (founder.credentials.cluster, MasterId(2)));
    let credentials = Credentials::load(&SystemDisk, &home.path().join("m2")).expect("a whole folder");
    assert_eq!(*credentials.state_secret, *founder.credentials.state_secret);
    assert_eq!(
        names(&home.path().join("m2")),
        ["api.token", "ca.pem", "identity.key", "master.json", "state.secret", "tls.pem"]
    );
    let directory = founder.directory();
    let states: Vec<_> =
        directory.masters.iter().map(|master| (master.id, master.name.as_str(), master.state)).collect();
    assert_eq!(states, [(MasterId(1), "m1", MasterState::Active), (MasterId(2), "m2", MasterState::Joining)]);
    assert_eq!(credentials.directory.peek().expect("whole").version, directory.version);

    // A name that is taken is refused without using the token up, and nothing stays behind.
    let other = home.path().join("other");
    let error = join_as("m1", &other, &token).await.expect_err("the name is taken");
    assert!(error.to_string().contains("m1") && error.exit_code() == 1, "{error}");
    assert!(!other.exists());

    join_as("m3", home.path(), &token).await.expect("the second use");
    let error = join_as("m4", home.path(), &token).await.expect_err("no use is left");
    assert!(error.to_string().contains("saltern cluster join-token") && error.exit_code() == 77, "{error}");
    assert!(!home.path().join("m4").exists());
    stop.cancel();
}

#[tokio::test]
async fn a_join_that_loses_the_race_for_the_directory_builds_it_anew() {
    let home = tempfile::tempdir().expect("a folder");
    let founder = Founder::new(&home.path().join("m1"));
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let address = serve(&founder, &tasks, &stop).await;
    let token = founder.token(1, vec![address]).await;

    // Another change of the directory, of the next version, is applied between the joiner's two proposals: by then this
    // join has the id and has read the directory that is now old.
    let mut next = founder.directory();
    next.version += 1;
    next.masters[0].weight = 50;
    let ca = founder.state.ca().expect("founded");
    let secret = &founder.credentials.state_secret;
    let authority = crate::pki::Authority::unseal(next.cluster, &ca.public_key, secret, &ca.sealed).expect("opens");
    let directory = authority.sign_directory(&next);
    let change = Command::Master(MasterCommand::Directory { directory });
    *founder.overtake.lock().expect("unpoisoned") = Some(change);

    join_as("m2", home.path(), &token).await.expect("joined");
    let directory = founder.directory();
    assert_eq!((directory.version, directory.masters[0].weight), (3, 50), "neither change is lost");
    assert_eq!(directory.masters[1].name, "m2");
    stop.cancel();
}

#[tokio::test]
async fn asking_again_with_the_same_key_gives_the_same_id() {
    let home = tempfile::tempdir().expect("a folder");
    let founder = Founder::new(&home.path().join("m1"));
    let token = token::read(&founder.token(1, Vec::new()).await).expect("whole");
    let endpoints = Config { advertise: "127.0.0.2".into(), ..config(home.path()) }.endpoints();
    let request = JoinRequest {
        secret: token.secret,
        name: "m2".into(),
        public_key: saltern_wire::crypto::Identity::from_seed([5; 32]).public_key(),
        endpoints,
        region: "eu".into(),
        zone: "a".into(),
        level: saltern_wire::level::LEVEL,
    };
    let ask = async |request: &JoinRequest, name| {
        grant::issue_join(&*founder, &founder.credentials, request, RequestId::from_bytes([name; 16])).await
    };
    let (first, _) = ask(&request, 11).await.expect("granted");
    let (again, _) = ask(&request, 12).await.expect("granted again");
    assert_eq!((first.master, &first.directory), (again.master, &again.directory));

    for (change, words) in [
        (JoinRequest { name: "No Name".into(), ..request.clone() }, "is not a name"),
        (JoinRequest { region: String::new(), ..request.clone() }, "is not a name"),
        (
            JoinRequest {
                endpoints: Config { advertise: "0.0.0.0".into(), ..config(home.path()) }.endpoints(),
                ..request.clone()
            },
            "nobody can reach",
        ),
    ] {
        let Refusal(failure) = ask(&change, 13).await.expect_err(words);
        assert!(failure.code == FailureCode::Invalid && failure.message.contains(words), "{failure}");
    }
    // A stranger's guess is refused before it becomes an entry.
    let before = *founder.next.lock().expect("unpoisoned");
    let guess = JoinRequest {
        secret: saltern_wire::api::JoinSecret("00".repeat(16)),
        public_key: saltern_wire::crypto::Identity::from_seed([6; 32]).public_key(),
        name: "m9".into(),
        ..request.clone()
    };
    let Refusal(failure) = ask(&guess, 14).await.expect_err("a guess");
    assert_eq!(failure.code, FailureCode::Denied, "{failure}");
    assert_eq!(*founder.next.lock().expect("unpoisoned"), before, "the log did not grow");
    for (ttl_ms, uses) in [(0, 1), (grant::TOKEN_TTL_MS_MAX + 1, 1), (1, 0)] {
        let wanted = JoinTokenRequest { ttl_ms, uses };
        let name = RequestId::from_bytes([9; 16]);
        let Refusal(failure) =
            grant::create_token(&*founder, &founder.credentials, &wanted, name).await.expect_err("no such token");
        assert_eq!(failure.code, FailureCode::Invalid, "{failure}");
    }
}
