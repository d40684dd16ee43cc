//! Backups on their way to an operator, and the keys for the safe.

use super::{Answered, Api};
use crate::backup::archive::{ArchiveWriteError, write};
use crate::backup::keys::{ClusterKeys, KeysError};
use crate::http::{JsonBody, Operator, Refusal};
use crate::pki::Authority;
use axum::Extension;
use axum::body::Body;
use axum::extract::State as Shared;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use bytes::Bytes;
use saltern_wire::api::{ExportKeys, ExportedKeys, FailureCode};
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

/// How long it may take to make sure that this master knows everything that was acknowledged.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(5);

/// Sections on their way: what one side makes while the other one sends.
const SECTIONS_QUEUED_MAX: usize = 8;

/// `GET /v1/snapshot`: an archive of the truth, which holds everything that was acknowledged before the request. An error
/// while it is written ends the answer early; a whole archive has an end.
pub async fn save(
    Shared(api): Shared<Arc<Api>>,
    Extension(operator): Extension<Operator>,
) -> Result<Response, Refusal> {
    let place = place(&api)?;
    api.truth.confirm(CONFIRM_TIMEOUT).await?;
    tracing::info!(operator = operator.0, revision = %api.truth.revision(), "writing an archive for an operator");
    let (sender, receiver) = mpsc::channel(SECTIONS_QUEUED_MAX);
    let disk_work = api.truth.group().machine().disk_work();
    let working = Arc::clone(&api);
    // Ends with its receiver, which is the answer's body, or with the master.
    api.tasks.spawn(async move {
        // Whoever cannot be told any more knows by the missing end.
        let _ = disk_work.run(move || send(&working, &sender, place)).await;
    });
    let sections = futures::stream::unfold(receiver, |mut receiver| async { Some((receiver.recv().await?, receiver)) });
    let mut response = Response::new(Body::from_stream(sections));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    Ok(response)
}

fn send(api: &Api, sender: &mpsc::Sender<io::Result<Bytes>>, _place: OwnedSemaphorePermit) {
    let machine = api.truth.group().machine();
    let mut sink = |piece: Vec<u8>| {
        let stopping = api.stop.is_cancelled();
        let sent = !stopping && sender.blocking_send(Ok(Bytes::from(piece))).is_ok();
        if sent { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    match write(machine.state(), machine.snapshots(), &api.credentials, &mut sink) {
        Ok(written) => tracing::info!(revision = %written.revision, bytes = written.bytes, "wrote an archive"),
        Err(ArchiveWriteError::Unwanted) => tracing::info!("nobody takes the archive any more"),
        Err(error @ (ArchiveWriteError::Store(_) | ArchiveWriteError::Unfounded)) => {
            tracing::error!(%error, "an archive was not written to its end");
            // The client may be gone as well.
            let _ = sender.blocking_send(Err(io::Error::other(error.to_string())));
        }
    }
}

/// `POST /v1/cluster/export-keys`
pub async fn export_keys(
    Shared(api): Shared<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    JsonBody(request): JsonBody<ExportKeys>,
) -> Answered<ExportedKeys> {
    let _place = place(&api)?;
    let Some(ca) = api.truth.state().ca() else {
        return Err(Refusal::new(FailureCode::NoQuorum, ArchiveWriteError::Unfounded.to_string()));
    };
    let credentials = Arc::clone(&api.credentials);
    let entropy = Arc::clone(&api.io.entropy);
    let seal = move || -> Result<ExportedKeys, Refusal> {
        let cluster = credentials.cluster;
        let busy = |error: crate::pki::PkiError| Refusal::new(FailureCode::Busy, error.to_string());
        let authority = Authority::open(&credentials, &ca).map_err(busy)?;
        let state_secret = credentials.ring.in_force(&ca).unwrap_or_else(|| credentials.state_secret.clone());
        let keys = ClusterKeys { ca: authority.into_identity(), state_secret };
        let file = keys.seal(cluster, &request.passphrase.0, &*entropy).map_err(|error| {
            let wrong = matches!(error, KeysError::Passphrase { .. });
            Refusal::new(if wrong { FailureCode::Invalid } else { FailureCode::Internal }, error.to_string())
        })?;
        Ok(ExportedKeys { cluster, file })
    };
    let sealed = api.truth.group().machine().disk_work().run(seal).await;
    let sealed = sealed.map_err(|error| Refusal::new(FailureCode::Internal, error.to_string()))?;
    tracing::warn!(operator = operator.0, "gave out the cluster's keys, under a passphrase");
    Ok(api.answer(sealed?))
}

fn place(api: &Api) -> Result<OwnedSemaphorePermit, Refusal> {
    Arc::clone(&api.backups).try_acquire_owned().map_err(|_| {
        let message = "this master is writing another backup: wait for its end, or ask another master";
        Refusal::new(FailureCode::Busy, message)
    })
}
