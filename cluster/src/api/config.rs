//! Replicated settings.

use super::{Answered, Api, step_name};
use crate::http::{Fresh, JsonBody, Operator, PathPart, Refusal, RequestName};
use crate::regions::duty;
use axum::Extension;
use axum::extract::State as Shared;
use saltern_store::command::{Command, SettingsCommand};
use saltern_wire::Value;
use saltern_wire::api::FailureCode;
use saltern_wire::settings::{SettingError, Settings};
use serde_json::json;
use std::collections::BTreeSet;
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
    let follow_up = suits(&api, &setting, &value)?;
    let command = Command::Settings(SettingsCommand::Set { name: setting.clone(), value: value.clone() });
    let committed = api.propose(command, name).await?;
    committed.applied?;
    if let Some((follower, value)) = follow_up {
        let command = Command::Settings(SettingsCommand::Set { name: follower.into(), value });
        api.propose(command, step_name(name, 1)).await?.applied?;
    }
    tracing::info!(setting, %value, operator = operator.0, "changed a setting");
    Ok(api.answer(api.truth.state().settings()))
}

/// Holds what would be set against what this master knows of the cluster, and gives the setting that follows from it.
fn suits(api: &Api, setting: &str, value: &Value) -> Result<Option<(&'static str, Value)>, Refusal> {
    let invalid = |message: String| Err(Refusal::new(FailureCode::Invalid, message));
    let Some(directory) = api.directory() else { return Ok(None) };
    match setting {
        "timing" => invalid("the timing follows the setting profile: set that to auto, lan, metro or geo".into()),
        "profile" => {
            let changed = api.truth.state().settings().with(setting, value).map_err(|error| refusal(&error))?;
            match changed.profile.fixed() {
                Some(profile) => match duty::check_profile(&api.truth, &directory, profile) {
                    Ok(()) => Ok(None),
                    Err(unfit) => invalid(unfit.to_string()),
                },
                None => Ok(duty::measured_profile(&api.truth, &directory).map(|fits| ("timing", json!(fits)))),
            }
        }
        "preferred_region" => {
            let regions: BTreeSet<&str> = directory.masters.iter().map(|master| master.region.as_str()).collect();
            match value.as_str() {
                Some(region) if !region.is_empty() && !regions.contains(region) => {
                    let known = regions.into_iter().collect::<Vec<_>>().join(", ");
                    invalid(format!("no master is in the region {region:?}; there are {known}, and \"\" for none"))
                }
                Some(_) | None => Ok(None),
            }
        }
        _ => Ok(None),
    }
}

fn refusal(error: &SettingError) -> Refusal {
    let code = match error {
        SettingError::Unknown { .. } => FailureCode::NotFound,
        SettingError::Value { .. } => FailureCode::Invalid,
    };
    Refusal::new(code, error.to_string())
}
