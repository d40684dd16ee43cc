//! Whom a job is for: a target, resolved once against the replicated facts of the accepted minions.
//!
//! The answer is a set of numbers and says nothing of who is attached: a minion that is away still owes its answer.

use roaring::RoaringBitmap;
use saltern_store::{State, StoreError};
use saltern_wire::mine::MineEntry;
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

/// What an entry of mine data weighs beyond its texts, in bytes: field names and stamp.
const MINE_ENTRY_OVERHEAD: usize = 64;

/// Minions whose values are read at one time, of up to 256 KiB each.
const MINE_STEP: usize = 32;

/// The mine values of these minions, by id; `None` if they are longer than `bytes_max` together. No more than that and a few
/// values is held in memory.
pub fn gather_mine(
    state: &State,
    of: &RoaringBitmap,
    function: &str,
    bytes_max: usize,
) -> Result<Option<Vec<MineEntry>>, StoreError> {
    let (mut all, mut bytes) = (Vec::new(), 0);
    let mut left = of.iter().peekable();
    while left.peek().is_some() {
        let some: RoaringBitmap = left.by_ref().take(MINE_STEP).collect();
        for entry in state.mine(&some, function)? {
            bytes += entry.value.to_string().len() + entry.minion.as_str().len() + function.len() + MINE_ENTRY_OVERHEAD;
            all.push(entry);
        }
        if bytes > bytes_max {
            return Ok(None);
        }
    }
    all.sort_unstable_by(|one, other| one.minion.cmp(&other.minion));
    Ok(Some(all))
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
