//! Replicated settings.

use super::{Answered, Api};
use crate::http::{Fresh, JsonBody, Operator, PathPart, Refusal, RequestName};
use axum::Extension;
use axum::extract::State as Shared;
use saltern_store::command::{Command, SettingsCommand};
use saltern_wire::Value;
use saltern_wire::api::FailureCode;
use saltern_wire::settings::{SettingError, Settings};
use std::sync::Arc;

/// `GET /v1/config`
pub async fn list(Shared(api): Shared<Arc<Api>>, _: Fresh) -> Answered<Settings> {
    api.read(|_, state| Ok(state.settings())).await
}

/// `PUT /v1/config/{name}`, the value alone as the body.
pub async fn set(
    Shared(api): Shared<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    PathPart(setting): PathPart,
    RequestName(name): RequestName,
    JsonBody(value): JsonBody<Value>,
) -> Answered<Settings> {
    // What is plainly wrong is said without writing; the truth checks again.
    api.truth.state().settings().with(&setting, &value).map_err(|error| refusal(&error))?;
    let command = Command::Settings(SettingsCommand::Set { name: setting.clone(), value: value.clone() });
    let committed = api.propose(command, name).await?;
    committed.applied?;
    tracing::info!(setting, %value, operator = operator.0, "changed a setting");
    Ok(api.answer(api.truth.state().settings()))
}

fn refusal(error: &SettingError) -> Refusal {
    let code = match error {
        SettingError::Unknown { .. } => FailureCode::NotFound,
        SettingError::Value { .. } => FailureCode::Invalid,
    };
    Refusal::new(code, error.to_string())
}
