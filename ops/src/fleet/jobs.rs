//! Jobs on a [`Cluster`](super::bring_up::Cluster): submitted, waited for, looked up.

use crate::client::{Client, ClientError};
use saltern_wire::api::{JobState, JobView, Submit, Submitted};
use saltern_wire::target::{Target, TargetKind};
use saltern_wire::{JobId, Map, Value};
use std::time::Duration;

/// Pause between two looks at a job.
const POLL: Duration = Duration::from_millis(20);

/// A job for the minions that match `kind` and `expression`, with positional arguments.
pub fn job(kind: TargetKind, expression: &str, function: &str, arguments: &[Value]) -> Submit {
    Submit {
        target: Target { kind, expression: expression.into() },
        function: function.into(),
        arguments: arguments.to_vec(),
        keywords: Map::new(),
        ttl_ms: None,
        batch: None,
        subset: None,
    }
}

/// A job for everybody.
pub fn for_all(function: &str, arguments: &[Value]) -> Submit {
    job(TargetKind::Glob, "*", function, arguments)
}

/// Submits a job.
pub async fn submit(client: &mut Client, job: &Submit) -> Result<Submitted, ClientError> {
    client.post("/v1/jobs", job).await.map(|answer| answer.value)
}

/// Looks a job up.
pub async fn look_up(client: &mut Client, jid: JobId) -> Result<JobView, ClientError> {
    client.get(&format!("/v1/jobs/{jid}"), "").await.map(|answer| answer.value)
}

/// Waits until everybody is settled, at most `within`; gives what is there then.
pub async fn wait(client: &mut Client, jid: JobId, within: Duration) -> Result<JobView, ClientError> {
    let look = async {
        loop {
            match look_up(client, jid).await {
                Ok(view) if view.summary.state == JobState::Done => return,
                // Not there yet, on this master; or this master is not.
                Ok(_) | Err(_) => tokio::time::sleep(POLL).await,
            }
        }
    };
    let _ = tokio::time::timeout(within, look).await;
    look_up(client, jid).await
}

/// Submits a job and waits until everybody is settled, at most `within`.
pub async fn run(client: &mut Client, job: &Submit, within: Duration) -> Result<JobView, ClientError> {
    let submitted = submit(client, job).await?;
    wait(client, submitted.jid, within).await
}
