//! What every client of the crash loop holds: the masters' addresses, the clock, the history, and the end.

use super::history::{Deed, History, NEVER, Operation, nanos};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use saltern_ops::client::server::Server;
use saltern_ops::client::{Client, ClientError};
use saltern_pubsub::clock::{SystemClock, SystemEntropy};
use saltern_wire::RequestId;
use saltern_wire::api::{Answer, FailureCode};
use saltern_wire::io::Clock;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long one attempt may take before its outcome is taken for unknown and asked for again: longer than a client waits for
/// a silent master.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(12);

/// How long the outcome of one write is asked for. All masters dying, and an election, fit in many times.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(60);

/// Pause before an outcome is asked for again.
const RESOLVE_PAUSE: Duration = Duration::from_millis(150);

/// A cluster under load, as its clients see it. Clones share everything.
#[derive(Clone)]
pub struct Site {
    /// The unix sockets of the masters' API.
    sockets: Vec<PathBuf>,
    /// Where jobs leave their marks and minions find their facts.
    pub folder: PathBuf,
    /// What happens.
    pub history: History,
    /// Ends the clients.
    pub stop: CancellationToken,
    clock: SystemClock,
    seed: u64,
}

/// What became of a write.
pub enum Written<T> {
    /// It was carried out.
    Done(Answer<T>),
    /// It was not, and will not be: nothing reached a master.
    Refused,
    /// A master said that there is nothing to do, or that it will not do it: its answer under this request id.
    Denied,
    /// Nobody could say in time.
    Unknown,
}

impl Site {
    /// A cluster whose masters listen at `sockets`.
    pub fn new(sockets: Vec<PathBuf>, folder: &Path, seed: u64) -> Self {
        Self {
            sockets,
            folder: folder.into(),
            history: History::default(),
            stop: CancellationToken::new(),
            clock: SystemClock::new(),
            seed,
        }
    }

    /// Time since the run began.
    pub fn now(&self) -> Duration {
        self.clock.monotonic()
    }

    /// Random numbers of one client: the seed's, and nobody else's.
    pub fn rng(&self, stream: u64) -> ChaCha8Rng {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(stream);
        rng
    }

    /// A client that begins at a drawn master and goes on to the others.
    pub fn client(&self, rng: &mut ChaCha8Rng, request: Option<RequestId>) -> Client {
        let (count, first) = (self.sockets.len(), rng.random_range(0..self.sockets.len()));
        let servers = (0..count).map(|step| Server::Unix(self.sockets[(first + step) % count].clone()));
        Client::new(servers.collect(), Arc::new(SystemEntropy), request)
    }

    /// A client of one master only.
    pub fn client_of(&self, number: usize) -> Client {
        Client::new(vec![Server::Unix(self.sockets[number].clone())], Arc::new(SystemEntropy), None)
    }

    /// How many masters there are.
    pub fn masters(&self) -> usize {
        self.sockets.len()
    }

    /// Rests; ends early when the run does.
    pub async fn rest(&self, rng: &mut ChaCha8Rng, ms: std::ops::Range<u64>) {
        let pause = Duration::from_millis(rng.random_range(ms));
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }

    /// Posts `body` to `path` under one request id, and asks until the outcome is known: also when the run ends meanwhile.
    pub async fn write<B, T>(&self, rng: &mut ChaCha8Rng, path: &str, body: &B) -> Written<T>
    where
        B: Serialize + Sync,
        T: DeserializeOwned + Send,
    {
        let request = RequestId::from_bytes(rng.random());
        let deadline = self.now() + RESOLVE_TIMEOUT;
        let mut unsure = false;
        loop {
            let mut client = self.client(rng, Some(request));
            match tokio::time::timeout(ATTEMPT_TIMEOUT, client.post::<B, T>(path, body)).await {
                Ok(Ok(answer)) => return Written::Done(answer),
                Ok(Err(error)) if is_denied(&error) => return Written::Denied,
                Ok(Err(error)) if is_refused(&error) && !unsure => return Written::Refused,
                // No quorum now says nothing about an earlier attempt that may have been carried out.
                Ok(Err(_)) | Err(_) => unsure = true,
            }
            if self.now() > deadline {
                return Written::Unknown;
            }
            tokio::time::sleep(RESOLVE_PAUSE).await;
        }
    }

    /// Reads once. Reads have no outcome to find out.
    pub async fn read<T>(&self, ask: impl Future<Output = Result<Answer<T>, ClientError>>) -> Option<Answer<T>> {
        tokio::time::timeout(ATTEMPT_TIMEOUT, ask).await.ok()?.ok()
    }

    /// Writes down what a client did since `begun`.
    pub fn record(&self, process: &str, deed: Deed, outcome: Outcome, begun: Duration) {
        let now = i64::try_from(nanos(self.now())).unwrap_or(i64::MAX);
        let (ok, revision, ended_ns) = match outcome {
            Outcome::Done(revision) => (true, revision, now),
            Outcome::Refused => (false, 0, now),
            Outcome::Unknown => (false, 0, NEVER),
        };
        let process = process.to_owned();
        self.history.push(Operation { process, deed, ok, revision, begun_ns: nanos(begun), ended_ns });
    }
}

/// How an operation ended, for its line.
#[derive(Debug, Clone, Copy)]
pub enum Outcome {
    /// Carried out; the revision of the answer.
    Done(u64),
    /// Not carried out.
    Refused,
    /// Nobody knows.
    Unknown,
}

/// Whether a master judged the write itself. A request id has one answer, so this is the answer, also after attempts that may
/// have been carried out: the checker complains if they were.
fn is_denied(error: &ClientError) -> bool {
    let ClientError::Refused { failure } = error else { return false };
    match failure.code {
        FailureCode::Invalid
        | FailureCode::NotFound
        | FailureCode::NoMatch
        | FailureCode::Denied
        | FailureCode::Conflict => true,
        FailureCode::NoQuorum | FailureCode::Unknown | FailureCode::Busy | FailureCode::Internal => false,
    }
}

/// Whether nothing was written for certain.
fn is_refused(error: &ClientError) -> bool {
    match error {
        // The client says "unknown" when anything was sent to a master that did not answer.
        ClientError::Unreachable { .. } | ClientError::Forbidden { .. } => true,
        ClientError::Refused { failure } => !matches!(failure.code, FailureCode::Unknown | FailureCode::Internal),
        ClientError::Malformed { .. } => false,
    }
}
