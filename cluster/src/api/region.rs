//! What the loss of some masters would mean.

use super::{Answered, Api};
use crate::http::{Fresh, Query, Refusal};
use crate::regions::duty;
use crate::regions::forecast::{Cluster, Loss, forecast};
use axum::extract::State as Shared;
use saltern_wire::api::{FailureCode, Forecast};
use serde::Deserialize;
use std::sync::Arc;

/// What is asked for.
#[derive(Debug, Deserialize)]
pub struct Asked {
    /// `region:NAME`, `zone:NAME` or names of masters, comma separated.
    #[serde(default)]
    lose: String,
}

/// `GET /v1/cluster/forecast?lose=region:eu`
pub async fn foretell(Shared(api): Shared<Arc<Api>>, _: Fresh, Query(asked): Query<Asked>) -> Answered<Forecast> {
    let losses = Loss::parse_all(&asked.lose).map_err(|error| Refusal::new(FailureCode::Invalid, error.to_string()))?;
    api.read(move |api, state| {
        let Some(directory) = api.directory() else {
            let message = "this master has not caught up with its cluster yet: try again, or ask another one";
            return Err(Refusal::new(FailureCode::NoQuorum, message));
        };
        let members = duty::members(&api.truth, &directory, |id| api.presence.sessions_of(id).unwrap_or(0));
        let cluster = Cluster {
            members: &members,
            leader: api.truth.quorum().leader,
            ways: &duty::pairs(&api.truth),
            timing: api.truth.timing(),
            preferred_region: &state.settings().preferred_region,
        };
        forecast(&cluster, &losses).map_err(|error| Refusal::new(FailureCode::NotFound, error.to_string()))
    })
    .await
}
