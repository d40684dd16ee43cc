//! Minions: who is accepted, and where each one is.

use super::{Answered, Api, master_name};
use crate::http::{Fresh, PathPart, Refusal};
use axum::extract::State as Shared;
use saltern_wire::api::{FailureCode, MinionList, MinionView};
use saltern_wire::key::KeyState;
use saltern_wire::master::Directory;
use saltern_wire::{MinionId, Ordinal};
use std::sync::Arc;

/// `GET /v1/minions`
pub async fn list(Shared(api): Shared<Arc<Api>>, _: Fresh) -> Answered<MinionList> {
    api.read(|api, state| {
        let directory = api.directory();
        let mut minions: Vec<MinionView> =
            state.accepted().into_iter().map(|(ordinal, id)| view(api, directory.as_ref(), ordinal, id)).collect();
        minions.sort_by(|one, other| one.id.cmp(&other.id));
        let coverage = api.presence.coverage();
        Ok(MinionList { minions, masters_heard: coverage.heard, masters_all: coverage.all })
    })
    .await
}

/// `GET /v1/minions/{id}`
pub async fn show(Shared(api): Shared<Arc<Api>>, PathPart(id): PathPart, _: Fresh) -> Answered<MinionView> {
    let id = MinionId::new(id)?;
    api.read(move |api, state| {
        let Some(ordinal) = state.ordinal_of(&id) else {
            let message = match state.key(&id).map(|key| key.state) {
                None | Some(KeyState::Denied | KeyState::Accepted) => format!("there is no minion {id}"),
                Some(KeyState::Pending) => format!("the key of {id} is not accepted yet: `saltern key accept {id}`"),
                Some(KeyState::Rejected) => format!("the key of {id} is rejected"),
            };
            return Err(Refusal::new(FailureCode::NotFound, message));
        };
        let mut view = view(api, api.directory().as_ref(), ordinal, id.clone());
        if let Some(facts) = state.facts(&id)? {
            view.version.get_or_insert(facts.version);
            view.grains = Some(facts.facts);
        }
        Ok(view)
    })
    .await
}

fn view(api: &Api, directory: Option<&Directory>, ordinal: Ordinal, id: MinionId) -> MinionView {
    let whereabouts = api.presence.where_is(&id);
    MinionView {
        id,
        ordinal,
        presence: whereabouts.presence,
        master: whereabouts.master.map(|master| master_name(directory, master)),
        since: whereabouts.since,
        version: whereabouts.version,
        grains: None,
    }
}
