//! Mine values: the newest per minion and function, tombstones included.

use crate::error::StoreError;
use crate::kv::{Direction, Span, Table};
use crate::overlay::{Overlay, Read};
use saltern_wire::codec::Encoded;
use saltern_wire::mine::MineStamp;
use saltern_wire::{Ordinal, Value};
use serde::{Deserialize, Serialize};

/// The newest report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct MineRow {
    pub(crate) stamp: MineStamp,
    /// `None` is a tombstone.
    pub(crate) value: Option<Value>,
}

impl Encoded for MineRow {
    const KIND: u8 = 68;
}

fn key(ordinal: Ordinal, function: &str) -> Vec<u8> {
    super::key(&[&ordinal.0.to_be_bytes(), function.as_bytes()])
}

pub(crate) fn get(read: &impl Read, ordinal: Ordinal, function: &str) -> Result<Option<MineRow>, StoreError> {
    super::get(read, Table::Mine, &key(ordinal, function))
}

pub(crate) fn put(over: &mut Overlay, ordinal: Ordinal, function: &str, row: &MineRow) {
    over.put(Table::Mine, key(ordinal, function), saltern_wire::encode(row));
}

/// How many functions of a minion are held, tombstones included, counted up to `limit`.
pub(crate) fn count(read: &impl Read, ordinal: Ordinal, limit: usize) -> Result<usize, StoreError> {
    let span = Span::prefix(super::key(&[&ordinal.0.to_be_bytes()]));
    Ok(read.scan(Table::Mine, &span, Direction::Forward, limit)?.len())
}

/// Everything a minion has reported, by function.
pub(crate) fn of(read: &impl Read, ordinal: Ordinal) -> Result<Vec<(String, MineRow)>, StoreError> {
    let span = Span::prefix(super::key(&[&ordinal.0.to_be_bytes()]));
    let rows = read.scan(Table::Mine, &span, Direction::Forward, usize::MAX)?;
    let parse = |(key, row): &(Vec<u8>, Vec<u8>)| {
        let name = super::subject(key).get(4..).ok_or_else(|| super::bad_key(Table::Mine))?;
        Ok((String::from_utf8_lossy(name).into_owned(), super::decode(Table::Mine, row)?))
    };
    rows.iter().map(parse).collect()
}

pub(crate) fn delete(over: &mut Overlay, ordinal: Ordinal) {
    over.delete_range(Table::Mine, Span::prefix(super::key(&[&ordinal.0.to_be_bytes()])));
}
