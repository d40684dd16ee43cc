//! What minions say about themselves.
//!
//! A report with another incarnation than the held one means that the minion was reinstalled: its journal is gone, so nobody
//! can say whether it ran what it had accepted, and it must not be offered anything opened before. Whatever the old
//! incarnation owes is therefore settled as unreachable; should it still return (it was two machines, then), the result
//! counts.

use super::{Stop, Tx, job};
use crate::command::{Effect, MinionCommand, Refused, Reply};
use crate::table::facts::{self, FactsRow};
use saltern_wire::key::KeyState;
use saltern_wire::limits::FACTS_BYTES_MAX;

pub(super) fn apply(tx: &mut Tx<'_>, command: &MinionCommand) -> Result<Reply, Stop> {
    let MinionCommand::Facts { minion, incarnation, version, facts } = command;
    let held = tx.index.keys.get(minion).filter(|held| held.state == KeyState::Accepted);
    let Some((ordinal, accepted)) = held.and_then(|held| Some((held.ordinal?, held.decided?))) else {
        return Err(Refused::NotFound(format!("{minion} has no accepted key; accept it first")).into());
    };
    let before = facts::get(&tx.over, ordinal)?;
    let enrolled = match &before {
        Some(before) if before.incarnation == *incarnation => before.enrolled,
        Some(_) => tx.time,
        None => accepted,
    };
    // A master that only announces an incarnation knows no grains. If the minion has told them meanwhile, through another
    // master, they stay.
    let told = before.as_ref().filter(|before| before.incarnation == *incarnation && facts.is_empty());
    let facts = told.map_or_else(|| facts.clone(), |before| before.facts.clone());
    let row = FactsRow { incarnation: *incarnation, enrolled, reported: tx.time, version: version.clone(), facts };
    let len = saltern_wire::encode(&row).len();
    // The row is a little larger than the grains alone, hence the room on top of the limit.
    if len > FACTS_BYTES_MAX + 1024 {
        return Err(
            Refused::Limit(format!("the grains of {minion} have {len} bytes, the limit is {FACTS_BYTES_MAX}")).into()
        );
    }
    facts::put(&mut tx.over, ordinal, &row);
    tx.effects.push(Effect::Facts { minion: minion.clone() });
    if before.is_some_and(|before| before.incarnation != *incarnation) {
        job::lose(tx, ordinal)?;
    }
    Ok(Reply::Done)
}
