//! Serves the links that other masters open.

use crate::mesh::message::{Channel, Numbered, Request, Response};
use crate::mesh::{MeshListener, MeshTransport};
use saltern_wire::MasterId;
use saltern_wire::io::{Address, Link, TransportError};
use saltern_wire::limits::{HANDSHAKE_TIMEOUT_MS, PEER_MESSAGE_BYTES_MAX};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Questions of one connection that are served at the same time. Further ones wait on the wire.
const IN_FLIGHT_MAX: usize = 256;

/// How often it is looked whether the other end of a link is still one of the cluster. Each question is held against that
/// as well.
const EXPELLED_EVERY: Duration = Duration::from_secs(1);

/// Masters that are told at one time that they were removed; they ask again.
const FAREWELLS_MAX: usize = 8;

/// Longest wait for a turn of a question that names no deadline.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Why something of another master was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unfit {
    /// It is neither in the directory nor in the group.
    Stranger,
    /// It said what cannot be read.
    Malformed,
}

/// Whoever answers the other masters.
#[async_trait::async_trait]
pub trait MeshService: Send + Sync + 'static {
    /// Whether links from `master` are served at all (it is in the directory).
    fn admits(&self, master: MasterId) -> bool;
    /// Whether a master that is not admitted (any more) may still ask to rejoin: its answer to an earlier wish was lost.
    fn hears_out(&self, master: MasterId) -> bool;
    /// What a master that is not admitted is told instead of an answer: the directory that does not name it. `None` if there is
    /// nothing to show.
    fn expelled(&self, master: MasterId) -> Option<Response>;
    /// Answers one question.
    async fn answer(&self, from: MasterId, request: Request) -> Response;
    /// Serves a replication stream to its end.
    async fn replicate(&self, from: MasterId, link: Link);
    /// A question was dropped: it waited longer for its turn than its asker does for the answer.
    fn note_expired(&self);
    /// A link or a message of `from` was refused: it is no member, or says what cannot be read.
    fn note_refused(&self, from: MasterId, why: Unfit);
}

/// Listens on `bind` and serves until `stop`. An error means that the address cannot be used.
pub async fn serve(
    transport: &dyn MeshTransport,
    bind: &Address,
    service: Arc<dyn MeshService>,
    tasks: &TaskTracker,
    stop: CancellationToken,
) -> Result<(), TransportError> {
    let listener = transport.listen(bind).await?;
    tasks.spawn(accept_all(listener, service, tasks.clone(), stop));
    Ok(())
}

async fn accept_all(
    mut listener: Box<dyn MeshListener>,
    service: Arc<dyn MeshService>,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    let farewells = Arc::new(Semaphore::new(FAREWELLS_MAX));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        match accepted {
            Ok((from, link)) if service.admits(from) || service.hears_out(from) => {
                let (service, stop) = (Arc::clone(&service), stop.clone());
                tasks.spawn(async move {
                    tokio::select! {
                        () = serve_link(from, link, service) => {}
                        () = stop.cancelled() => {}
                    }
                });
            }
            Ok((from, link)) => {
                service.note_refused(from, Unfit::Stranger);
                tracing::warn!(%from, peer = link.peer, "refused a master that is not in the directory");
                if let (Ok(place), Some(word)) = (Arc::clone(&farewells).try_acquire_owned(), service.expelled(from)) {
                    let stop = stop.clone();
                    tasks.spawn(async move {
                        tokio::select! {
                            () = say_farewell(link, word) => {}
                            () = stop.cancelled() => {}
                        }
                        drop(place);
                    });
                }
            }
            Err(error) => {
                tracing::error!(%error, "the listener for other masters is gone");
                return;
            }
        }
    }
}

/// Answers the first question of a master that was removed by the proof that it was, so that it can end.
async fn say_farewell(mut link: Link, word: Response) {
    let answer = async {
        let hello = link.receiver.recv().await.ok()?;
        let channel = Channel::from_hello(&hello)?;
        if channel == Channel::Replicate {
            return None;
        }
        let question = link.receiver.recv().await.ok()?;
        let asked = saltern_wire::codec::decode_bounded::<Numbered<Request>>(&question, PEER_MESSAGE_BYTES_MAX).ok()?;
        let reply = Numbered { number: asked.number, deadline_ms: None, body: word };
        link.sender.send(saltern_wire::encode(&reply).into()).await.ok()?;
        // Whoever reads it closes the link; closing it first might cost the answer.
        link.receiver.recv().await.ok().map(drop)
    };
    // Whether it hears is its own affair.
    let _ = tokio::time::timeout(Duration::from_millis(HANDSHAKE_TIMEOUT_MS), answer).await;
}

async fn serve_link(from: MasterId, mut link: Link, service: Arc<dyn MeshService>) {
    let patience = Duration::from_millis(HANDSHAKE_TIMEOUT_MS);
    let hello = tokio::time::timeout(patience, link.receiver.recv()).await;
    let Ok(Ok(hello)) = hello else { return };
    let serve = async {
        match Channel::from_hello(&hello) {
            Some(Channel::Replicate) if !service.admits(from) => {}
            Some(Channel::Replicate) => service.replicate(from, link).await,
            Some(Channel::Control | Channel::Snapshot | Channel::Work | Channel::Bulk) => {
                answer_all(from, link, Arc::clone(&service)).await;
            }
            None => tracing::warn!(%from, "a master speaks another version of the mesh; upgrade the older one"),
        }
    };
    tokio::select! {
        () = serve => {}
        () = expelled(from, &*service) => {
            service.note_refused(from, Unfit::Stranger);
            tracing::warn!(%from, "closed the link of a master that is no longer one of the cluster");
        }
    }
}

/// Waits until `from` may not speak to this master any more.
async fn expelled(from: MasterId, service: &dyn MeshService) {
    while service.admits(from) || service.hears_out(from) {
        tokio::time::sleep(EXPELLED_EVERY).await;
    }
}

/// Answers the questions of one connection, several at a time, until it closes.
async fn answer_all(from: MasterId, link: Link, service: Arc<dyn MeshService>) {
    let Link { mut sender, mut receiver, .. } = link;
    let (replies, mut queue) = mpsc::channel::<bytes::Bytes>(IN_FLIGHT_MAX);
    let send = async move {
        while let Some(reply) = queue.recv().await {
            if sender.send(reply).await.is_err() {
                return;
            }
        }
    };
    let receive = async move {
        let permits = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
        let answers = TaskTracker::new();
        while let Ok(message) = receiver.recv().await {
            let asked = saltern_wire::codec::decode_bounded::<Numbered<Request>>(&message, PEER_MESSAGE_BYTES_MAX);
            let Numbered { number, deadline_ms, body } = match asked {
                Ok(asked) => asked,
                Err(error) => {
                    service.note_refused(from, Unfit::Malformed);
                    tracing::warn!(%from, %error, "a master sent a question that cannot be read; closing the connection");
                    return;
                }
            };
            if !service.admits(from) && !service.hears_out(from) {
                return;
            }
            let within = Duration::from_millis(deadline_ms.unwrap_or(u64::MAX)).min(WAIT_MAX);
            let permit = match tokio::time::timeout(within, Arc::clone(&permits).acquire_owned()).await {
                Ok(Ok(permit)) => permit,
                Ok(Err(_)) => return,
                Err(_) => {
                    // Nobody waits for the answer any more, and nothing was done: the asker may say so.
                    service.note_expired();
                    let late = Response::Failed("it waited longer for its turn than anybody for the answer".into());
                    let late = Numbered { number, deadline_ms: None, body: late };
                    let _ = replies.try_send(saltern_wire::encode(&late).into());
                    continue;
                }
            };
            let (service, replies) = (Arc::clone(&service), replies.clone());
            answers.spawn(async move {
                let body: Response = service.answer(from, body).await;
                let _ = replies.send(saltern_wire::encode(&Numbered { number, deadline_ms: None, body }).into()).await;
                drop(permit);
            });
        }
    };
    tokio::select! {
        () = send => {}
        () = receive => {}
    }
}
