//! Mine data: last writer wins per minion and function, by the minion's own stamp. A lower stamp never replaces a higher one,
//! whichever master carries it, and a tombstone keeps its stamp. A value that has not changed only raises its stamp.

use super::{Stop, Tx};
use crate::command::{Effect, MineAffirmation, MineCommand, Refused, Reply};
use crate::table::mine::{self, MineRow};
use saltern_wire::limits::{FUNCTION_NAME_BYTES_MAX, MINE_VALUE_BYTES_MAX};
use saltern_wire::mine::MineReport;
use saltern_wire::{MinionId, Ordinal};
use std::collections::BTreeSet;

/// Most functions of one minion, tombstones included: real mines have a handful.
const FUNCTIONS_MAX: usize = 256;

pub(super) fn apply(tx: &mut Tx<'_>, command: &MineCommand) -> Result<Reply, Stop> {
    match command {
        MineCommand::Report { minion, reports } => report(tx, minion, reports),
        MineCommand::Affirm { affirmed } => affirm(tx, affirmed),
    }
}

/// Raises the stamps of values that have not changed. One that was written meanwhile is left alone: whoever proposed this
/// sees it and reports the value.
fn affirm(tx: &mut Tx<'_>, affirmed: &[MineAffirmation]) -> Result<Reply, Stop> {
    for MineAffirmation { minion, function, held, stamp } in affirmed {
        if !tx.index.accepted.contains(minion.0) {
            continue;
        }
        let row = mine::get(&tx.over, *minion, function)?;
        if let Some(row) = row.filter(|row| row.stamp == *held && stamp > held) {
            mine::put(&mut tx.over, *minion, function, &MineRow { stamp: *stamp, value: row.value });
        }
    }
    Ok(Reply::Done)
}

fn report(tx: &mut Tx<'_>, ordinal: &Ordinal, reports: &[MineReport]) -> Result<Reply, Stop> {
    let minion = accepted(tx, *ordinal)?;
    let mut taken: Vec<(&str, MineRow)> = Vec::new();
    let mut new = BTreeSet::new();
    for report in reports {
        let name = report.function.as_str();
        if name.is_empty() || name.len() > FUNCTION_NAME_BYTES_MAX || name.contains('\0') {
            return Err(Refused::Invalid(format!("{name:?} is no name of a mine function")).into());
        }
        let held = mine::get(&tx.over, *ordinal, name)?;
        if held.is_none() {
            new.insert(name);
        }
        let before = taken.iter().rev().find(|(found, _)| *found == name).map(|(_, row)| row.stamp);
        if before.or(held.map(|row| row.stamp)).is_some_and(|stamp| report.stamp <= stamp) {
            continue;
        }
        let row = MineRow { stamp: report.stamp, value: report.value.clone() };
        let len = saltern_wire::encode(&row).len();
        if len > MINE_VALUE_BYTES_MAX + 256 {
            return Err(Refused::Limit(format!(
                "the mine value {name:?} of {minion} has {len} bytes, the limit is {MINE_VALUE_BYTES_MAX}"
            ))
            .into());
        }
        taken.push((name, row));
    }
    if !new.is_empty() && mine::count(&tx.over, *ordinal, FUNCTIONS_MAX)? + new.len() > FUNCTIONS_MAX {
        return Err(Refused::Limit(format!("{minion} has {FUNCTIONS_MAX} mine functions, which is the limit")).into());
    }
    for (name, row) in &taken {
        mine::put(&mut tx.over, *ordinal, name, row);
    }
    let functions: BTreeSet<String> = taken.iter().map(|(name, _)| (*name).to_string()).collect();
    if !functions.is_empty() {
        tx.effects.push(Effect::Mine { minion, functions: functions.into_iter().collect() });
    }
    Ok(Reply::Done)
}

fn accepted(tx: &Tx<'_>, ordinal: Ordinal) -> Result<MinionId, Refused> {
    let name = tx.name(ordinal).filter(|_| tx.index.accepted.contains(ordinal.0));
    name.ok_or_else(|| Refused::NotFound(format!("no accepted minion has the number {ordinal}")))
}
