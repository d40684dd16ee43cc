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

/// Whoever answers the other masters.
#[async_trait::async_trait]
pub trait MeshService: Send + Sync + 'static {
    /// Whether links from `master` are served at all (it is in the directory).
    fn admits(&self, master: MasterId) -> bool;
    /// Whether a master that is not admitted (any more) may still ask to rejoin: its answer to an earlier wish was lost.
    fn hears_out(&self, master: MasterId) -> bool;
    /// Answers one question.
    async fn answer(&self, from: MasterId, request: Request) -> Response;
    /// Serves a replication stream to its end.
    async fn replicate(&self, from: MasterId, link: Link);
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
                tracing::warn!(%from, peer = link.peer, "refused a master that is not in the directory")
            }
            Err(error) => {
                tracing::error!(%error, "the listener for other masters is gone");
                return;
            }
        }
    }
}

async fn serve_link(from: MasterId, mut link: Link, service: Arc<dyn MeshService>) {
    let patience = Duration::from_millis(HANDSHAKE_TIMEOUT_MS);
    let hello = tokio::time::timeout(patience, link.receiver.recv()).await;
    let Ok(Ok(hello)) = hello else { return };
    match Channel::from_hello(&hello) {
        Some(Channel::Replicate) if !service.admits(from) => {}
        Some(Channel::Replicate) => service.replicate(from, link).await,
        Some(Channel::Control | Channel::Snapshot | Channel::Work) => answer_all(from, link, service).await,
        None => tracing::warn!(%from, "a master speaks another version of the mesh; upgrade the older one"),
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
            let Numbered { number, body } = match asked {
                Ok(asked) => asked,
                Err(error) => {
                    tracing::warn!(%from, %error, "a master sent a question that cannot be read; closing the connection");
                    return;
                }
            };
            let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
            let (service, replies) = (Arc::clone(&service), replies.clone());
            answers.spawn(async move {
                let body: Response = service.answer(from, body).await;
                let _ = replies.send(saltern_wire::encode(&Numbered { number, body }).into()).await;
                drop(permit);
            });
        }
    };
    tokio::select! {
        () = send => {}
        () = receive => {}
    }
}
