//! Mine data: what minions publish for each other, as operators read it.

use super::{Answered, Api};
use crate::http::{Fresh, Query, Refusal};
use crate::target::resolve;
use axum::extract::State as Shared;
use saltern_wire::api::FailureCode;
use saltern_wire::limits::FUNCTION_NAME_BYTES_MAX;
use saltern_wire::mine::MineEntry;
use saltern_wire::target::{Target, TargetKind};
use serde::Deserialize;
use std::sync::Arc;

/// Whose values, and which.
#[derive(Debug, Deserialize)]
pub struct Wanted {
    #[serde(default)]
    kind: TargetKind,
    target: String,
    function: String,
}

/// `GET /v1/mine`
pub async fn list(Shared(api): Shared<Arc<Api>>, Query(wanted): Query<Wanted>, _: Fresh) -> Answered<Vec<MineEntry>> {
    if wanted.function.is_empty() || wanted.function.len() > FUNCTION_NAME_BYTES_MAX {
        let message = format!(
            "the function's name has {} bytes, it must have 1 to {FUNCTION_NAME_BYTES_MAX}",
            wanted.function.len()
        );
        return Err(Refusal::new(FailureCode::Invalid, message));
    }
    let target = Target { kind: wanted.kind, expression: wanted.target };
    api.read(move |_, state| {
        let of = resolve(state, &target).map_err(|error| Refusal::new(FailureCode::Invalid, error.to_string()))?;
        Ok(state.mine(&of, &wanted.function)?)
    })
    .await
}
