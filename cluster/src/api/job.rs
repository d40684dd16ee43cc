//! Jobs: submit, list, show, watch.

use super::event::stream;
use super::{Answered, Api};
use crate::http::{Client, Fresh, JsonBody, Operator, PathPart, Query, Refusal, RequestName};
use crate::watch::{ViewError, job_view};
use axum::Extension;
use axum::extract::State as Shared;
use axum::response::sse::Event as SentEvent;
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use saltern_store::State;
use saltern_store::command::Reply;
use saltern_store::view::JobSummary as Held;
use saltern_wire::api::{FailureCode, JobEvent, JobPage, JobState, JobSummary, JobView, Submit, Submitted};
use saltern_wire::{JobId, RequestId};
use serde::Deserialize;
use std::sync::Arc;

/// Jobs in a page when the query does not say.
const PAGE_DEFAULT: usize = 100;

/// Most jobs in a page: a page is one answer, held in memory.
const PAGE_MAX: usize = 1000;

/// Most bytes of returns in one answer; it is held in memory twice.
const VIEW_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Most bytes of jobs in a page, within one job: what a page of ordinary jobs never has.
const PAGE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Jobs that are read at one time for a page: with the longest arguments they are what memory bears.
const PAGE_STEP: usize = 64;

/// What a list may be asked for.
#[derive(Debug, Default, Deserialize)]
pub struct Page {
    limit: Option<usize>,
    before: Option<JobId>,
    #[serde(default)]
    active: bool,
}

/// `POST /v1/jobs`
pub async fn submit(
    Shared(api): Shared<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    RequestName(name): RequestName,
    JsonBody(submit): JsonBody<Submit>,
) -> Answered<Submitted> {
    if let Some(submitted) = submitted_before(&api, name)? {
        return Ok(api.answer(submitted));
    }
    let (submitted, _) = api.jobs.submit_within(submit, &operator.0, name, api.left()).await?;
    Ok(api.answer(submitted))
}

/// What the submission of this name brought before: by now its target may mean something else, or nothing.
pub(super) fn submitted_before(api: &Api, name: RequestId) -> Result<Option<Submitted>, Refusal> {
    Ok(match api.truth.state().answer_to(name)? {
        Some((_, Ok(Reply::Opened { jid, minions }))) => Some(Submitted { jid, targeted: minions }),
        // Anything else is settled by the truth, which is asked again.
        Some(_) | None => None,
    })
}

/// `GET /v1/jobs`
pub async fn list(Shared(api): Shared<Arc<Api>>, Query(page): Query<Page>, _: Fresh) -> Answered<JobPage> {
    let limit = page.limit.unwrap_or(PAGE_DEFAULT);
    if !(1..=PAGE_MAX).contains(&limit) {
        let message = format!("a page of {limit} jobs: ask for 1 to {PAGE_MAX}, and for the rest with `before`");
        return Err(Refusal::new(FailureCode::Invalid, message));
    }
    api.read(move |_, state| job_page(state, page.before, limit, page.active)).await
}

/// The newest jobs below `before`: as many as asked for, and no more than fit. The page says where the next one begins.
fn job_page(state: &State, before: Option<JobId>, limit: usize, active: bool) -> Result<JobPage, Refusal> {
    let (mut jobs, mut bytes, mut before) = (Vec::new(), 0, before);
    loop {
        let wanted = (limit - jobs.len()).min(PAGE_STEP);
        let held = state.jobs(before, wanted + 1, active)?;
        let more = held.len() > wanted;
        for job in held.into_iter().take(wanted) {
            let job = summary(job);
            bytes += weight(&job);
            before = Some(job.jid);
            jobs.push(job);
            if bytes >= PAGE_BYTES_MAX {
                return Ok(JobPage { jobs, next: before });
            }
        }
        if !more || jobs.len() == limit {
            return Ok(JobPage { jobs, next: before.filter(|_| more) });
        }
    }
}

/// About how long a job is in a page, in bytes.
fn weight(job: &JobSummary) -> usize {
    let words: usize = job.arguments.iter().map(|word| word.to_string().len()).sum();
    let named: usize = job.keywords.iter().map(|(name, value)| name.len() + value.to_string().len()).sum();
    words + named + job.target.expression.len() + 256
}

/// `GET /v1/jobs/{jid}`
pub async fn show(Shared(api): Shared<Arc<Api>>, PathPart(jid): PathPart, _: Fresh) -> Answered<JobView> {
    let jid: JobId = jid.parse()?;
    api.read(move |api, state| match job_view(state, &api.presence, jid, VIEW_BYTES_MAX) {
        Ok(view) => view.ok_or_else(|| no_such_job(jid)),
        Err(ViewError::Store(error)) => Err(error.into()),
        Err(large @ ViewError::Large { .. }) => Err(Refusal::new(FailureCode::Invalid, large.to_string())),
    })
    .await
}

/// `GET /v1/jobs/{jid}/events`
pub async fn events(
    Shared(api): Shared<Arc<Api>>,
    Extension(client): Extension<Client>,
    PathPart(jid): PathPart,
    _: Fresh,
) -> Result<Response, Refusal> {
    let jid: JobId = jid.parse()?;
    let place = api.stream_place(&client)?;
    let events = api.watch.job(jid)?.ok_or_else(|| no_such_job(jid))?;
    let sent = events.map(|event| {
        let name = match &event {
            JobEvent::Return { .. } => "return",
            JobEvent::Missing(_) => "missing",
            JobEvent::Batch(_) => "batch",
            JobEvent::Done { .. } => "done",
        };
        SentEvent::default().event(name).json_data(&event)
    });
    Ok(stream(&api, place, sent).into_response())
}

pub(super) fn no_such_job(jid: JobId) -> Refusal {
    let message = format!("there is no job {jid} here: it was never opened, or its record has been purged");
    Refusal::new(FailureCode::NotFound, message)
}

/// A job in a list, as operators see it.
fn summary(held: Held) -> JobSummary {
    JobSummary {
        jid: held.jid,
        function: held.job.function,
        arguments: held.job.arguments,
        keywords: held.job.keywords,
        target: held.job.target,
        user: held.job.user,
        opened: held.opened,
        state: if held.done.is_some() { JobState::Done } else { JobState::Open },
        targeted: held.targeted,
        returned: held.returned,
        batch: held.batch,
    }
}
