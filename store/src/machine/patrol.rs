//! Reads every row of the truth in turn, a few with every tick, so that the chain hash ([`crate::chain`]) also covers what
//! no command reads: a row that is another one on one replica shows within one round.
//!
//! What is read depends on the state alone: every replica reads the same rows at the same entry. The position is a row of the
//! truth. It never takes a round back: rows that come into being behind it are read in the next one.

use super::Tx;
use crate::chain::LEVEL_CHAINED;
use crate::error::StoreError;
use crate::kv::{Direction, Span, Table};
use crate::overlay::Read;
use crate::table::meta;
use std::ops::ControlFlow;

/// Rows that one tick reads at most: a fraction of a millisecond when they are in memory, a few when they are not.
const ROWS_PER_TICK_MAX: usize = 256;

/// Bytes after which a tick reads no further row.
const BYTES_PER_TICK_MAX: usize = 256 * 1024;

/// The tables of a round, in order. Frozen: what replicas read alike must not depend on their builds. A table that comes later
/// is appended behind the level that brings it. Absent: what stands in memory and is compared by whatever it decides, and the
/// rows of the table of single values, some of which belong to no entry.
const ROUND: [Table; 16] = [
    Table::Keys,
    Table::Denied,
    Table::Minions,
    Table::Facts,
    Table::Jobs,
    Table::JobEnds,
    Table::Progress,
    Table::Returns,
    Table::Parts,
    Table::Conflicts,
    Table::Orphans,
    Table::Mine,
    Table::Masters,
    Table::Tokens,
    Table::Requests,
    Table::Timeline,
];

/// Reads on from where the last tick stopped.
pub(super) fn walk(tx: &mut Tx<'_>) -> Result<(), StoreError> {
    if tx.index.level < LEVEL_CHAINED {
        return Ok(());
    }
    let (mut place, mut start) = position(tx)?;
    let (mut rows, mut bytes) = (0, 0);
    let mut read = Vec::new();
    while let Some(table) = ROUND.get(place).copied() {
        let span = Span { start: start.clone(), end: None };
        let mut next = None;
        tx.over.visit(table, &span, Direction::Forward, &mut |key, value| {
            if rows >= ROWS_PER_TICK_MAX || bytes >= BYTES_PER_TICK_MAX {
                next = Some(key.to_vec());
                return ControlFlow::Break(());
            }
            rows += 1;
            bytes += key.len() + value.len();
            read.push((table, key.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        })?;
        if let Some(key) = next {
            start = key;
            break;
        }
        (place, start) = (place + 1, Vec::new());
    }
    if place >= ROUND.len() {
        (place, start) = (0, Vec::new());
    }
    for (table, key, value) in read {
        tx.over.trace.read(table, &key, &value);
    }
    let place = u8::try_from(place).unwrap_or(0);
    meta::put_bytes(&mut tx.over, meta::PATROL, &[&[place], start.as_slice()].concat());
    Ok(())
}

/// The table to go on with, by its place in the round, and the key from which on.
fn position(tx: &Tx<'_>) -> Result<(usize, Vec<u8>), StoreError> {
    let row = meta::bytes(&tx.over, meta::PATROL)?.unwrap_or_default();
    Ok(match row.split_first() {
        Some((place, key)) if usize::from(*place) < ROUND.len() => (usize::from(*place), key.to_vec()),
        Some(_) | None => (0, Vec::new()),
    })
}
