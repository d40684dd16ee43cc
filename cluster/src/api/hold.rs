//! Jobs on hold: pause and resume one that goes to so many minions at a time, and end any.
//!
//! Ending a job has two halves. Whoever has not accepted it is not offered it any more: that is the truth's to decide, and
//! holds once it is answered. Whoever has it may be running it, and only the minion can stop that: a second job asks it to,
//! and what it says is in that job's returns.

use super::job::{no_such_job, submitted_before};
use super::{Answered, Api, step_name};
use crate::http::{Operator, PathPart, Refusal, RequestName};
use axum::Extension;
use axum::extract::State as Shared;
use saltern_store::command::{Command, JobCommand};
use saltern_wire::api::{FailureCode, Killed, Submit};
use saltern_wire::job::Progress;
use saltern_wire::level::LEVEL_FLEET;
use saltern_wire::rolling::BatchView;
use saltern_wire::target::{Target, TargetKind};
use saltern_wire::{JobId, Map, RequestId, Value};
use std::sync::Arc;

/// The function that ends a running job on a minion.
const KILL_FUNCTION: &str = "saltutil.kill_job";

/// The step of a kill that ends the job for those who have not accepted it. Its other step has the request's own name.
const STEP_END: u32 = 1;

/// `POST /v1/jobs/{jid}/pause`
pub async fn pause(
    Shared(api): Shared<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    PathPart(jid): PathPart,
    RequestName(name): RequestName,
) -> Answered<BatchView> {
    hold(&api, jid.parse()?, true, operator.0, name).await
}

/// `POST /v1/jobs/{jid}/resume`
pub async fn resume(
    Shared(api): Shared<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    PathPart(jid): PathPart,
    RequestName(name): RequestName,
) -> Answered<BatchView> {
    hold(&api, jid.parse()?, false, operator.0, name).await
}

async fn hold(api: &Arc<Api>, jid: JobId, paused: bool, by: String, name: RequestId) -> Answered<BatchView> {
    let committed = api.propose(Command::Job(JobCommand::Pause { jid, paused, by }), name).await?;
    committed.applied?;
    let held = api.truth.state().job(&jid)?.ok_or_else(|| no_such_job(jid))?;
    let batch = held.batch.ok_or_else(|| {
        Refusal::new(FailureCode::Conflict, format!("the job {jid} went to all of its minions at once"))
    })?;
    Ok(api.answer(batch))
}

/// `POST /v1/jobs/{jid}/kill`
pub async fn kill(
    Shared(api): Shared<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    PathPart(jid): PathPart,
    RequestName(name): RequestName,
) -> Answered<Killed> {
    let jid: JobId = jid.parse()?;
    if let Some(submitted) = submitted_before(&api, name)? {
        let spared = spared(&api, jid)?;
        return Ok(api.answer(Killed { killed: jid, spared, jid: Some(submitted.jid), targeted: submitted.targeted }));
    }
    let before = api.truth.state().progress(&jid)?;
    if before.is_empty() {
        return Err(no_such_job(jid));
    }
    // A minion that was not heard to accept may run it all the same: pure functions are not accepted, and the word may be
    // on its way. Where nothing runs, the kill says so.
    let runs = |progress: Progress| matches!(progress, Progress::Waiting | Progress::Accepted);
    let mut running: Vec<&str> = Vec::new();
    let mut untold = 0;
    for (_, minion, progress) in &before {
        untold += u32::from(*progress == Progress::Held);
        if runs(*progress) {
            running.push(minion.as_str());
        }
    }
    let ended_before = api.truth.state().answer_to(step_name(name, STEP_END))?.is_some();
    if running.is_empty() && untold == 0 && !ended_before {
        return Err(Refusal::new(FailureCode::Conflict, format!("the job {jid} has ended on every minion")));
    }
    if api.truth.state().level() >= LEVEL_FLEET && !ended_before {
        let command = Command::Job(JobCommand::End { jid, by: operator.0.clone() });
        api.propose(command, step_name(name, STEP_END)).await?.applied?;
    }
    let spared = spared(&api, jid)?;
    if running.is_empty() {
        return Ok(api.answer(Killed { killed: jid, spared, jid: None, targeted: Vec::new() }));
    }
    let submit = Submit {
        target: Target { kind: TargetKind::List, expression: running.join(",") },
        function: KILL_FUNCTION.into(),
        arguments: vec![Value::String(jid.to_string())],
        keywords: Map::new(),
        ttl_ms: None,
        batch: None,
        subset: None,
    };
    let (submitted, _) = api.jobs.submit_within(submit, &operator.0, name, api.left()).await?;
    Ok(api.answer(Killed { killed: jid, spared, jid: Some(submitted.jid), targeted: submitted.targeted }))
}

/// How many are not offered the job any more: those for whom it was ended, and those of whom the next ticks do that.
fn spared(api: &Api, jid: JobId) -> Result<u32, Refusal> {
    let standing = api.truth.state().progress(&jid)?;
    let spared = standing.iter().filter(|(_, _, progress)| matches!(progress, Progress::Killed | Progress::Held));
    Ok(u32::try_from(spared.count()).unwrap_or(u32::MAX))
}
