//! Mine data: what minions publish for each other, as operators read it.

use super::{Answered, Api};
use crate::http::{Fresh, Query, Refusal};
use crate::target::{gather_mine, resolve};
use axum::extract::State as Shared;
use saltern_wire::api::FailureCode;
use saltern_wire::limits::FUNCTION_NAME_BYTES_MAX;
use saltern_wire::mine::MineEntry;
use saltern_wire::target::{Target, TargetKind};
use serde::Deserialize;
use std::sync::Arc;

/// Most bytes of values in one answer; it is held in memory twice.
const MINE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Whose values, and which.
#[derive(Debug, Deserialize)]
pub struct Wanted {
    #[serde(default)]
    kind: TargetKind,
    target: String,
    function: String,
}

impl Wanted {
    /// Whose.
    pub(crate) fn target(&self) -> Target {
        Target { kind: self.kind, expression: self.target.clone() }
    }
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
    let target = wanted.target();
    api.read(move |_, state| {
        let of = resolve(state, &target).map_err(|error| Refusal::new(FailureCode::Invalid, error.to_string()))?;
        let entries = gather_mine(state, &of, &wanted.function, MINE_BYTES_MAX)?;
        entries.ok_or_else(|| {
            let message = format!(
                "the mine values of {} for {target} exceed {MINE_BYTES_MAX} bytes: narrow the target",
                wanted.function
            );
            Refusal::new(FailureCode::Invalid, message)
        })
    })
    .await
}
