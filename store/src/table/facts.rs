//! What minions say about themselves: grains, version, incarnation. By ordinal, so that a minion that enrols anew starts empty.

use crate::error::StoreError;
use crate::kv::Table;
use crate::overlay::{Overlay, Read};
use saltern_wire::codec::Encoded;
use saltern_wire::{LogicalTime, Map, Ordinal};
use serde::{Deserialize, Serialize};

/// One minion's last report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct FactsRow {
    pub(crate) incarnation: u64,
    /// When this incarnation was first heard of; for the first one, when the key was accepted.
    pub(crate) enrolled: LogicalTime,
    pub(crate) reported: LogicalTime,
    pub(crate) version: String,
    pub(crate) facts: Map,
}

impl Encoded for FactsRow {
    const KIND: u8 = 62;
}

fn key(ordinal: Ordinal) -> Vec<u8> {
    super::key(&[&ordinal.0.to_be_bytes()])
}

pub(crate) fn get(read: &impl Read, ordinal: Ordinal) -> Result<Option<FactsRow>, StoreError> {
    super::get(read, Table::Facts, &key(ordinal))
}

pub(crate) fn put(over: &mut Overlay, ordinal: Ordinal, row: &FactsRow) {
    over.put(Table::Facts, key(ordinal), saltern_wire::encode(row));
}

pub(crate) fn delete(over: &mut Overlay, ordinal: Ordinal) {
    over.delete(Table::Facts, key(ordinal));
}
