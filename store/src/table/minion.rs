//! The names behind ordinals. Kept for ever: returns name their minions by ordinal and outlive the keys.

use crate::error::StoreError;
use crate::kv::{Direction, Span, Table};
use crate::overlay::{Overlay, Read};
use saltern_wire::codec::Encoded;
use saltern_wire::{LogicalTime, MinionId, Ordinal};
use serde::{Deserialize, Serialize};

/// One ordinal.
#[derive(Serialize, Deserialize)]
pub(crate) struct MinionRow {
    pub(crate) minion: MinionId,
    pub(crate) numbered: LogicalTime,
}

impl Encoded for MinionRow {
    const KIND: u8 = 75;
}

pub(crate) fn put(over: &mut Overlay, ordinal: Ordinal, row: &MinionRow) {
    over.put(Table::Minions, super::key(&[&ordinal.0.to_be_bytes()]), saltern_wire::encode(row));
}

/// Every ordinal ever given, in order.
pub(crate) fn all(read: &impl Read) -> Result<Vec<(Ordinal, MinionId)>, StoreError> {
    let rows = read.scan(Table::Minions, &Span::all(), Direction::Forward, usize::MAX)?;
    let parse = |(key, row): &(Vec<u8>, Vec<u8>)| {
        let number = super::subject(key).try_into().map_err(|_| super::bad_key(Table::Minions))?;
        let row: MinionRow = super::decode(Table::Minions, row)?;
        Ok((Ordinal(u32::from_be_bytes(number)), row.minion))
    };
    rows.iter().map(parse).collect()
}
