//! Whom a job is for: a target, resolved once against the replicated facts of the accepted minions.
//!
//! The answer is a set of numbers and says nothing of who is attached: a minion that is away still owes its answer.

use roaring::RoaringBitmap;
use saltern_store::{State, StoreError};
use saltern_wire::target::{Target, TargetError};
use saltern_wire::{Map, MinionId};

/// Why a target was not resolved.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// It is no target.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The grains cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The accepted minions that `target` means, by ordinal. Empty if it means none.
pub fn resolve(state: &State, target: &Target) -> Result<RoaringBitmap, ResolveError> {
    let matcher = target.matcher()?;
    let mut found = RoaringBitmap::new();
    let none = Map::new();
    if let Some(listed) = matcher.listed() {
        let ids = listed.filter_map(|name| MinionId::new(name).ok());
        found.extend(ids.filter_map(|id| state.ordinal_of(&id)).map(|ordinal| ordinal.0));
    } else if matcher.needs_grains() {
        state.each_facts(&mut |ordinal, id, facts| {
            if matcher.matches(id, facts.map_or(&none, |record| &record.facts)) {
                found.insert(ordinal.0);
            }
        })?;
    } else {
        let accepted = state.accepted();
        let meant = accepted.iter().filter(|(_, id)| matcher.matches(id, &none));
        found.extend(meant.map(|(ordinal, _)| ordinal.0));
    }
    Ok(found)
}
