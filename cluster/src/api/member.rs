//! Changes of the members: promote, demote, remove, drain, who leads, and the state secret.

use super::{Answered, Api, master_name};
use crate::http::{Fresh, JsonBody, Operator, Refusal, RequestName};
use crate::membership::change::Office;
use axum::Extension;
use axum::extract::State as Shared;
use saltern_store::command::{Command, SecretCommand};
use saltern_wire::api::FailureCode;
use saltern_wire::api::member::{MemberAnswer, MemberRequest, SecretsView, TransferAnswer, TransferRequest};
use std::sync::Arc;
use std::time::Duration;

/// How long a rotation is waited for; whoever asked may ask again.
const ROTATE_WITHIN: Duration = Duration::from_secs(7);

/// Pause between two looks at it.
const LOOK_EVERY: Duration = Duration::from_millis(50);

fn office(api: &Api) -> Office<'_> {
    Office { truth: &api.truth, credentials: &api.credentials, presence: &api.presence }
}

/// `POST /v1/cluster/members`
pub async fn change(
    Shared(api): Shared<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    RequestName(name): RequestName,
    JsonBody(request): JsonBody<MemberRequest>,
) -> Answered<MemberAnswer> {
    let answer = office(&api).change(&request, name).await?;
    if !request.dry_run {
        let (change, master) = (request.change, &answer.plan.name);
        tracing::info!(%change, master, complete = answer.complete, operator = operator.0, "a change of the masters");
    }
    Ok(api.answer(answer))
}

/// `POST /v1/cluster/transfer-leader`
pub async fn transfer(
    Shared(api): Shared<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    JsonBody(request): JsonBody<TransferRequest>,
) -> Answered<TransferAnswer> {
    let answer = office(&api).transfer(&request).await?;
    if answer.changed {
        tracing::info!(from = answer.from, to = answer.to, operator = operator.0, "leadership went over");
    }
    Ok(api.answer(answer))
}

/// `GET /v1/cluster/secrets`
pub async fn secrets(Shared(api): Shared<Arc<Api>>, _: Fresh) -> Answered<SecretsView> {
    api.read(|api, _| secrets_view(api)).await
}

/// `POST /v1/cluster/rotate-secrets`: a new state secret in the place of the one in force.
pub async fn rotate(
    Shared(api): Shared<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    RequestName(name): RequestName,
) -> Answered<SecretsView> {
    let before = api.truth.state().secrets()?;
    let committed = api.propose(Command::Secret(SecretCommand::Want { epoch: before.epoch }), name).await?;
    committed.applied?;
    tracing::info!(epoch = before.epoch, operator = operator.0, "the state secret is to be changed");
    let deadline = api.io.clock.monotonic() + ROTATE_WITHIN.min(api.left());
    loop {
        let now = api.truth.state().secrets()?;
        if now.epoch >= now.wanted || api.io.clock.monotonic() >= deadline {
            return Ok(api.answer(secrets_view(&api)?));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// `POST /v1/master/stop`: this master ends in order, as on SIGTERM.
pub async fn stop(Shared(api): Shared<Arc<Api>>, Extension(operator): Extension<Operator>) -> Answered<()> {
    tracing::info!(operator = operator.0, "this master is asked to end");
    api.leave.cancel();
    Ok(api.answer(()))
}

fn secrets_view(api: &Api) -> Result<SecretsView, Refusal> {
    let message = "this master has not caught up with its cluster yet: try again, or ask another one";
    let directory = api.directory().ok_or_else(|| Refusal::new(FailureCode::NoQuorum, message))?;
    let secrets = api.truth.state().secrets()?;
    let own = api.truth.own_secret();
    let holds = |id| if id == api.truth.id() { own } else { api.truth.secret_of(id) } == Some(secrets.epoch);
    let (holders, missing): (Vec<_>, Vec<_>) =
        directory.masters.iter().map(|master| master.id).partition(|id| holds(*id));
    let names = |ids: Vec<_>| ids.into_iter().map(|id| master_name(Some(&directory), id)).collect();
    Ok(SecretsView { epoch: secrets.epoch, wanted: secrets.wanted, holders: names(holders), missing: names(missing) })
}
