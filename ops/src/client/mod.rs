//! Talks to whichever master answers.
//!
//! ```text
//!   Client ── get/post/put ─▶ walk: server 1 ✗ frozen · server 2 ✗ no quorum · server 3 ✓ ─▶ Answer<T>
//!          ── events ───────▶ walk ─▶ Events: server-sent events until the stream breaks; the caller asks again
//! ```
//!
//! A server that is silent for a while is not given up: the next one is asked beside it, and the first answer counts.
//!
//! **Invariants.** Every write carries one request id over all of its attempts, so asking the next master, or the same one
//! again, finds the first answer instead of writing twice. Reads hand back the newest revision seen, so that another master
//! never shows older state than the last one did. A token is sent to `https` servers only, after their certificate was
//! verified.
//!
//! **It refuses** plain `http`, unbounded answers, and to call an unknown outcome a failure: if a write may have happened and
//! nobody could say so, the error is [`FailureCode::Unknown`] with the request id that finds out.

pub mod connect;
mod escape;
pub mod server;
pub mod sse;
pub mod tls;

pub use escape::{query, segment};
pub use server::{Server, ServerAddress};

use connect::{Ask, Reply};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use hyper::Method;
use saltern_wire::api::{Answer, Failure, FailureBody, FailureCode};
use saltern_wire::io::{Entropy, draw};
use saltern_wire::{RequestId, Revision};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use std::time::Duration;

/// Rounds over all servers while the last one ended with an outcome that may change at once (unknown, busy).
const ROUNDS_MAX: u32 = 3;

/// Pause before the second round; the third waits twice as long. An election takes about this long on a LAN.
const ROUND_PAUSE: Duration = Duration::from_millis(400);

/// How long a server may be silent before the next one is asked as well. A frozen master accepts connections and says nothing.
const HEDGE_AFTER: Duration = Duration::from_millis(2_000);

/// How long silent servers are still waited for when all have been asked and one has said that nothing can be done now.
const GRACE: Duration = Duration::from_millis(1_000);

/// Longest answer, in bytes: the returns of one large job.
pub const ANSWER_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Time for a whole answer to arrive once it has begun.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Why nothing was answered.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No server answered.
    #[error("no master is reachable:{}\nStart saltern-master on this machine, or name masters with --server or SALTERN_SERVER.", list(.tried))]
    Unreachable {
        /// Each server and what was wrong with it.
        tried: Vec<(String, String)>,
    },
    /// A unix socket exists, and the system does not let this user use it.
    #[error("this user may not use the masters' sockets:{}\nRun as root, or join the group that owns the socket.", list(.tried))]
    Forbidden {
        /// Each server and what was wrong with it.
        tried: Vec<(String, String)>,
    },
    /// A master refused.
    #[error("{failure}")]
    Refused {
        /// What it said.
        failure: Failure,
    },
    /// A master answered something that is not the API.
    #[error(
        "{server} does not answer as a saltern-master does: {cause}; check the address, and that both sides have the same version"
    )]
    Malformed {
        /// Which server.
        server: String,
        /// What was wrong.
        cause: String,
    },
}

fn list(tried: &[(String, String)]) -> String {
    tried.iter().map(|(server, cause)| format!("\n  {server}: {cause}")).collect()
}

/// How one server failed one attempt.
#[derive(Debug, PartialEq, Eq)]
pub enum AttemptError {
    /// It was not reached, or it broke off.
    Unreachable {
        /// What was noticed.
        cause: String,
        /// Whether the request may have reached it.
        sent: bool,
        /// Whether the system refused the socket to this user.
        forbidden: bool,
    },
    /// It refused.
    Refused(Failure),
    /// It is no saltern-master.
    Malformed(String),
}

impl AttemptError {
    /// Whether asking everybody again soon may do better.
    fn is_passing(&self) -> bool {
        matches!(self, Self::Refused(Failure { code: FailureCode::Unknown | FailureCode::Busy, .. }))
    }

    /// Whether a write may have happened in spite of it.
    fn is_unsure(&self) -> bool {
        match self {
            Self::Unreachable { sent, .. } => *sent,
            Self::Refused(failure) => failure.code == FailureCode::Unknown,
            Self::Malformed(_) => false,
        }
    }
}

/// Whether no other master would say otherwise.
fn is_final(code: FailureCode) -> bool {
    match code {
        FailureCode::NoQuorum | FailureCode::Unknown | FailureCode::Busy | FailureCode::Internal => false,
        FailureCode::Invalid
        | FailureCode::NotFound
        | FailureCode::NoMatch
        | FailureCode::Denied
        | FailureCode::Conflict => true,
    }
}

/// A session of one operator with a cluster.
pub struct Client {
    servers: Vec<Server>,
    /// The server that answered last; the next walk begins there.
    at: usize,
    /// The newest revision seen.
    revision: Revision,
    entropy: Arc<dyn Entropy>,
    /// Given by the operator, to find out about a write whose outcome was unknown. Used for the first write only.
    request: Option<RequestId>,
    /// How long an answer is waited for, if the operator said so.
    patience: Option<Duration>,
    /// Whether every read is to be confirmed by a majority.
    consistent: bool,
}

impl Client {
    /// A client of `servers`, tried in their order.
    pub fn new(servers: Vec<Server>, entropy: Arc<dyn Entropy>, request: Option<RequestId>) -> Self {
        Self { servers, at: 0, revision: Revision(0), entropy, request, patience: None, consistent: false }
    }

    /// Tells every server from now on for how long an answer is waited for.
    pub fn set_patience(&mut self, patience: Duration) {
        self.patience = Some(patience);
    }

    /// Asks every server from now on for answers that a majority confirms to be current.
    pub fn set_consistent(&mut self, consistent: bool) {
        self.consistent = consistent;
    }

    /// The server that answered last.
    pub fn server(&self) -> String {
        self.servers.get(self.at).map(Server::to_string).unwrap_or_default()
    }

    /// Makes the next walk begin at another server than the last one, which broke off.
    pub fn move_on(&mut self) {
        self.at = (self.at + 1) % self.servers.len().max(1);
    }

    /// Reads `path`; `parameters` must be encoded by [`query`].
    pub async fn get<T: DeserializeOwned>(&mut self, path: &str, parameters: &str) -> Result<Answer<T>, ClientError> {
        let ask = Ask {
            method: Method::GET,
            target: self.target(path, parameters),
            body: None,
            request: None,
            last_event: None,
            patience: self.patience,
        };
        self.exchange(&ask).await
    }

    /// Sends `body` to `path`, as one write.
    pub async fn post<B: Serialize, T: DeserializeOwned>(
        &mut self,
        path: &str,
        body: &B,
    ) -> Result<Answer<T>, ClientError> {
        self.write(Method::POST, path, body).await
    }

    /// Puts `body` at `path`, as one write.
    pub async fn put<B: Serialize, T: DeserializeOwned>(
        &mut self,
        path: &str,
        body: &B,
    ) -> Result<Answer<T>, ClientError> {
        self.write(Method::PUT, path, body).await
    }

    /// Opens a stream of server-sent events at `path`. `last_event` is the id of the last one seen, if any.
    pub async fn events(
        &mut self,
        path: &str,
        parameters: &str,
        last_event: Option<String>,
    ) -> Result<sse::Events, ClientError> {
        let target = self.target(path, parameters);
        let ask = Ask { method: Method::GET, target, body: None, request: None, last_event, patience: None };
        self.walk(&ask, async |server, ask| {
            let reply = connect::send(server, ask).await?;
            if reply.is_success() { Ok(sse::Events::new(reply)) } else { Err(refusal(reply).await) }
        })
        .await
    }

    /// Asks for `path` and gives the answer as it comes, in pieces.
    pub async fn download(&mut self, path: &str) -> Result<Reply, ClientError> {
        let target = self.target(path, "");
        let ask = Ask { method: Method::GET, target, body: None, request: None, last_event: None, patience: None };
        self.walk(&ask, async |server, ask| {
            let reply = connect::send(server, ask).await?;
            if reply.is_success() { Ok(reply) } else { Err(refusal(reply).await) }
        })
        .await
    }

    async fn write<B: Serialize, T: DeserializeOwned>(
        &mut self,
        method: Method,
        path: &str,
        body: &B,
    ) -> Result<Answer<T>, ClientError> {
        let body = serde_json::to_vec(body).map_err(|error| ClientError::Refused {
            failure: Failure::new(FailureCode::Invalid, format!("the request cannot be written as JSON: {error}")),
        })?;
        let request = self.request.take().unwrap_or_else(|| RequestId::from_bytes(draw(self.entropy.as_ref())));
        let ask = Ask {
            method,
            target: path.to_owned(),
            body: Some(body.into()),
            request: Some(request),
            last_event: None,
            patience: self.patience,
        };
        self.exchange(&ask).await
    }

    async fn exchange<T: DeserializeOwned>(&mut self, ask: &Ask) -> Result<Answer<T>, ClientError> {
        let answer: Answer<T> = self
            .walk(ask, async |server, ask| {
                let reply = connect::send(server, ask).await?;
                if !reply.is_success() {
                    return Err(refusal(reply).await);
                }
                let bytes = reply.bytes(ANSWER_BYTES_MAX, ANSWER_TIMEOUT).await?;
                serde_json::from_slice(&bytes).map_err(|error| AttemptError::Malformed(error.to_string()))
            })
            .await?;
        self.revision = self.revision.max(answer.revision);
        Ok(answer)
    }

    fn target(&self, path: &str, parameters: &str) -> String {
        let mut target = path.to_owned();
        let revision = if self.revision > Revision(0) { format!("revision={}", self.revision) } else { String::new() };
        let consistent = if self.consistent { "consistent=true" } else { "" };
        for part in [parameters, &revision, consistent] {
            if !part.is_empty() {
                target.push(if target.contains('?') { '&' } else { '?' });
                target.push_str(part);
            }
        }
        target
    }

    /// Asks the servers until one answers, beginning with the one that answered last.
    async fn walk<R>(
        &mut self,
        ask: &Ask,
        attempt: impl AsyncFn(&Server, &Ask) -> Result<R, AttemptError>,
    ) -> Result<R, ClientError> {
        let mut unsure = false;
        let mut tried = Vec::new();
        for round in 0..ROUNDS_MAX {
            tokio::time::sleep(ROUND_PAUSE * round).await;
            match self.round(ask, &attempt).await {
                RoundEnd::Answered(index, answer) => {
                    self.at = index;
                    return Ok(answer);
                }
                RoundEnd::Refused(index, failure) => {
                    self.at = index;
                    return Err(ClientError::Refused { failure });
                }
                RoundEnd::Failed(errors) => tried = errors,
            }
            unsure |= tried.iter().any(|(_, error)| error.is_unsure());
            if !tried.iter().any(|(_, error)| error.is_passing()) {
                break;
            }
        }
        Err(verdict(tried, ask.request.filter(|_| unsure)))
    }

    /// Asks every server at most once. The next one is asked when the last one fails, or when it is silent for
    /// [`HEDGE_AFTER`]; the silent one may still answer first.
    async fn round<R>(
        &self,
        ask: &Ask,
        attempt: &impl AsyncFn(&Server, &Ask) -> Result<R, AttemptError>,
    ) -> RoundEnd<R> {
        let count = self.servers.len();
        let mut waiting: Vec<usize> = (0..count).rev().map(|step| (self.at + step) % count).collect();
        let mut asked = FuturesUnordered::new();
        let mut tried = Vec::new();
        loop {
            if asked.is_empty() && waiting.is_empty() {
                return RoundEnd::Failed(tried);
            }
            // Who has to be waited for although another master says that nothing can be done gets a short while only.
            let hopeless = tried.iter().any(|(_, error)| matches!(error, AttemptError::Refused(_)));
            let patience = if hopeless && waiting.is_empty() { GRACE } else { HEDGE_AFTER };
            let ended = tokio::select! {
                biased;
                Some(ended) = asked.next() => Some(ended),
                () = tokio::time::sleep(patience), if !asked.is_empty() && (hopeless || !waiting.is_empty()) => None,
                else => None,
            };
            match ended {
                Some((index, Ok(answer))) => return RoundEnd::Answered(index, answer),
                Some((index, Err(AttemptError::Refused(failure)))) if is_final(failure.code) => {
                    return RoundEnd::Refused(index, failure);
                }
                Some((index, Err(error))) => tried.push((self.servers[index].to_string(), error)),
                None if waiting.is_empty() => {
                    let cause = "it is silent".to_owned();
                    tried.push(("others".into(), AttemptError::Unreachable { cause, sent: true, forbidden: false }));
                    return RoundEnd::Failed(tried);
                }
                None => {}
            }
            if let Some(index) = waiting.pop() {
                asked.push(async move { (index, attempt(&self.servers[index], ask).await) });
            }
        }
    }
}

/// How a round over the servers ended.
enum RoundEnd<R> {
    /// This one answered.
    Answered(usize, R),
    /// This one refused, and every other would.
    Refused(usize, Failure),
    /// What was wrong with each.
    Failed(Vec<(String, AttemptError)>),
}

/// What to tell the operator when nobody answered. `unsure` names a write that may have happened.
fn verdict(tried: Vec<(String, AttemptError)>, unsure: Option<RequestId>) -> ClientError {
    let causes: Vec<(String, String)> = tried
        .iter()
        .map(|(server, error)| match error {
            AttemptError::Unreachable { cause, .. } | AttemptError::Malformed(cause) => (server.clone(), cause.clone()),
            AttemptError::Refused(failure) => (server.clone(), failure.message.clone()),
        })
        .collect();
    if let Some(request) = unsure {
        let message = format!(
            "the outcome is unknown, it may or may not have been written:{}\n\
             Repeat the same command with --request-id {request} to find out; it is not carried out twice.",
            list(&causes)
        );
        return ClientError::Refused { failure: Failure::new(FailureCode::Unknown, message) };
    }
    let refused = tried.iter().find_map(|(_, error)| match error {
        AttemptError::Refused(failure) => Some(failure.code),
        AttemptError::Unreachable { .. } | AttemptError::Malformed(_) => None,
    });
    if let Some(code) = refused {
        let message = match tried.as_slice() {
            [(_, AttemptError::Refused(failure))] => failure.message.clone(),
            _ => format!("no master could do it:{}", list(&causes)),
        };
        return ClientError::Refused { failure: Failure::new(code, message) };
    }
    if let [(server, AttemptError::Malformed(cause))] = tried.as_slice() {
        return ClientError::Malformed { server: server.clone(), cause: cause.clone() };
    }
    let forbidden = |error: &AttemptError| matches!(error, AttemptError::Unreachable { forbidden: true, .. });
    if !tried.is_empty() && tried.iter().all(|(_, error)| forbidden(error)) {
        return ClientError::Forbidden { tried: causes };
    }
    ClientError::Unreachable { tried: causes }
}

/// Reads why a master refused.
async fn refusal(reply: Reply) -> AttemptError {
    /// Longest refusal, in bytes: sentences.
    const REFUSAL_BYTES_MAX: usize = 256 * 1024;
    let status = reply.status();
    let bytes = match reply.bytes(REFUSAL_BYTES_MAX, ANSWER_TIMEOUT).await {
        Ok(bytes) => bytes,
        Err(error) => return error,
    };
    match serde_json::from_slice::<FailureBody>(&bytes) {
        Ok(body) => AttemptError::Refused(body.error),
        Err(_) => {
            let text: String = String::from_utf8_lossy(&bytes).chars().take(200).collect();
            AttemptError::Malformed(format!("HTTP status {status}, {:?}", text.trim()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unreachable(sent: bool) -> AttemptError {
        AttemptError::Unreachable { cause: "connection refused".into(), sent, forbidden: false }
    }

    fn refused(code: FailureCode) -> AttemptError {
        AttemptError::Refused(Failure::new(code, "no quorum: 1 of 3 masters answers"))
    }

    fn told(tried: Vec<AttemptError>, unsure: bool) -> ClientError {
        let named = tried.into_iter().enumerate().map(|(n, error)| (format!("unix:///m{n}"), error)).collect();
        verdict(named, unsure.then(|| RequestId::from_bytes([7; 16])))
    }

    #[test]
    fn the_verdict_is_the_worst_that_is_certain() {
        let all_down = told(vec![unreachable(false), unreachable(false)], false);
        assert!(matches!(&all_down, ClientError::Unreachable { tried } if tried.len() == 2), "{all_down}");
        assert!(all_down.to_string().contains("unix:///m1: connection refused"), "{all_down}");

        let no_quorum = told(vec![unreachable(false), refused(FailureCode::NoQuorum)], false);
        let ClientError::Refused { failure } = &no_quorum else { panic!("{no_quorum}") };
        assert_eq!(failure.code, FailureCode::NoQuorum);
        assert!(failure.message.contains("1 of 3 masters answers"), "{no_quorum}");

        let unknown = told(vec![unreachable(true), refused(FailureCode::NoQuorum)], true);
        let ClientError::Refused { failure } = &unknown else { panic!("{unknown}") };
        assert_eq!(failure.code, FailureCode::Unknown);
        assert!(failure.message.contains(&format!("--request-id {}", "07".repeat(16))), "{unknown}");

        let locked = AttemptError::Unreachable { cause: "Permission denied".into(), sent: false, forbidden: true };
        assert!(matches!(told(vec![locked], false), ClientError::Forbidden { .. }));
    }

    #[test]
    fn only_what_another_master_can_mend_is_asked_again() {
        for code in [FailureCode::NoQuorum, FailureCode::Unknown, FailureCode::Busy, FailureCode::Internal] {
            assert!(!is_final(code), "{code:?}");
        }
        for code in [
            FailureCode::Invalid,
            FailureCode::NotFound,
            FailureCode::NoMatch,
            FailureCode::Denied,
            FailureCode::Conflict,
        ] {
            assert!(is_final(code), "{code:?}");
        }
        assert!(unreachable(true).is_unsure() && !unreachable(false).is_unsure());
    }
}
