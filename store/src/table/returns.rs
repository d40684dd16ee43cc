//! What minions returned: whole answers, pieces of long ones, answers that contradict the first, answers to unknown jobs.

use crate::error::StoreError;
use crate::kv::{Direction, Span, Table};
use crate::overlay::{Overlay, Read};
use roaring::RoaringBitmap;
use saltern_wire::codec::Encoded;
use saltern_wire::job::{Outcome, ReturnRecord};
use saltern_wire::{JobId, LogicalTime, MasterId, MinionId, Ordinal};
use serde::{Deserialize, Serialize};

/// A whole answer, or a piece of one that is kept as an orphan or a conflict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReturnRow {
    /// BLAKE3 of the answer as the minion sent it.
    #[serde(with = "serde_bytes")]
    pub(crate) digest: [u8; 32],
    /// How many parts it came in. More than one: the pieces stand in the table of parts and `body` is empty.
    pub(crate) parts: u16,
    #[serde(with = "serde_bytes")]
    pub(crate) body: Vec<u8>,
    pub(crate) via: MasterId,
    pub(crate) recorded: LogicalTime,
}

impl Encoded for ReturnRow {
    const KIND: u8 = 65;
}

/// A long answer of which pieces are missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AssemblyRow {
    #[serde(with = "serde_bytes")]
    pub(crate) digest: [u8; 32],
    pub(crate) parts: u16,
    /// Numbers of the pieces that are there, in order.
    pub(crate) have: Vec<u16>,
    /// Their length, in bytes.
    pub(crate) bytes: u64,
}

impl Encoded for AssemblyRow {
    const KIND: u8 = 66;
}

fn key(jid: JobId, ordinal: Ordinal) -> Vec<u8> {
    super::key(&[&jid.to_bytes(), &ordinal.0.to_be_bytes()])
}

fn part_key(jid: JobId, ordinal: Ordinal, part: u16) -> Vec<u8> {
    super::key(&[&jid.to_bytes(), &ordinal.0.to_be_bytes(), &part.to_be_bytes()])
}

/// Behind the shard: where one piece of one digest stands among conflicts or orphans.
pub(crate) fn piece_subject(jid: JobId, ordinal: Ordinal, digest: &[u8; 32], part: u16) -> Vec<u8> {
    [jid.to_bytes().as_slice(), &ordinal.0.to_be_bytes(), digest, &part.to_be_bytes()].concat()
}

pub(crate) fn get(read: &impl Read, jid: JobId, ordinal: Ordinal) -> Result<Option<ReturnRow>, StoreError> {
    super::get(read, Table::Returns, &key(jid, ordinal))
}

pub(crate) fn put(over: &mut Overlay, jid: JobId, ordinal: Ordinal, row: &ReturnRow) {
    over.put(Table::Returns, key(jid, ordinal), saltern_wire::encode(row));
}

/// Returns of a job behind `after`, by ordinal.
pub(crate) fn page(
    read: &impl Read,
    jid: JobId,
    after: Option<Ordinal>,
    limit: usize,
) -> Result<Vec<(Ordinal, ReturnRow)>, StoreError> {
    let mut span = Span::prefix(super::key(&[&jid.to_bytes()]));
    if let Some(after) = after {
        span.start = [key(jid, after).as_slice(), &[0]].concat();
    }
    let rows = read.scan(Table::Returns, &span, Direction::Forward, limit)?;
    let parse = |(key, row): &(Vec<u8>, Vec<u8>)| {
        Ok((super::job::ordinal_of(Table::Returns, key)?, super::decode(Table::Returns, row)?))
    };
    rows.iter().map(parse).collect()
}

/// The record behind a row, with the pieces put together.
pub(crate) fn record(
    read: &impl Read,
    jid: JobId,
    ordinal: Ordinal,
    minion: &MinionId,
    row: &ReturnRow,
) -> Result<ReturnRecord, StoreError> {
    let wrong =
        |cause: &dyn ToString| StoreError::corrupt(format!("the return of {minion} for {jid}"), cause.to_string());
    let joined;
    let body = if row.body.is_empty() {
        joined = join(read, jid, ordinal)?;
        &joined
    } else {
        &row.body
    };
    let outcome: Outcome = saltern_wire::decode(body).map_err(|error| wrong(&error))?;
    Ok(ReturnRecord { jid, minion: minion.clone(), ordinal, outcome, via: row.via, recorded: row.recorded })
}

pub(crate) fn assembly(read: &impl Read, jid: JobId, ordinal: Ordinal) -> Result<Option<AssemblyRow>, StoreError> {
    super::get(read, Table::Parts, &key(jid, ordinal))
}

/// Whose long answers for `jid` lack pieces. An assembly's row stands before its pieces: one look a minion tells.
pub(crate) fn incomplete(read: &impl Read, jid: JobId) -> Result<RoaringBitmap, StoreError> {
    let mut found = RoaringBitmap::new();
    let mut span = Span::prefix(super::key(&[&jid.to_bytes()]));
    loop {
        let Some((first, _)) = read.scan(Table::Parts, &span, Direction::Forward, 1)?.pop() else { return Ok(found) };
        let ordinal = super::job::ordinal_of(Table::Parts, &first)?;
        if first == key(jid, ordinal) {
            found.insert(ordinal.0);
        }
        let Some(next) = ordinal.0.checked_add(1) else { return Ok(found) };
        span.start = key(jid, Ordinal(next));
    }
}

pub(crate) fn put_assembly(over: &mut Overlay, jid: JobId, ordinal: Ordinal, row: &AssemblyRow) {
    over.put(Table::Parts, key(jid, ordinal), saltern_wire::encode(row));
}

/// The assembly is complete: its pieces stay.
pub(crate) fn delete_assembly(over: &mut Overlay, jid: JobId, ordinal: Ordinal) {
    over.delete(Table::Parts, key(jid, ordinal));
}

pub(crate) fn put_part(over: &mut Overlay, jid: JobId, ordinal: Ordinal, part: u16, body: &[u8]) {
    over.put(Table::Parts, part_key(jid, ordinal, part), body);
}

/// Removes the assembly and its pieces.
pub(crate) fn clear_parts(over: &mut Overlay, jid: JobId, ordinal: Ordinal) {
    over.delete_range(Table::Parts, Span::prefix(key(jid, ordinal)));
}

/// The pieces, put together in the order of their numbers.
pub(crate) fn join(read: &impl Read, jid: JobId, ordinal: Ordinal) -> Result<Vec<u8>, StoreError> {
    let mut span = Span::prefix(key(jid, ordinal));
    span.start = part_key(jid, ordinal, 0);
    let rows = read.scan(Table::Parts, &span, Direction::Forward, usize::MAX)?;
    Ok(rows.into_iter().flat_map(|(_, body)| body).collect())
}

/// How many pieces of contradicting answers are kept for this minion and job.
pub(crate) fn conflicts(read: &impl Read, jid: JobId, ordinal: Ordinal, limit: usize) -> Result<usize, StoreError> {
    Ok(read.scan(Table::Conflicts, &Span::prefix(key(jid, ordinal)), Direction::Forward, limit)?.len())
}

/// Whether a piece stands in `table` (conflicts or orphans).
pub(crate) fn has_piece(read: &impl Read, table: Table, subject: &[u8]) -> Result<bool, StoreError> {
    Ok(read.get(table, &super::key(&[subject]))?.is_some())
}

pub(crate) fn put_piece(over: &mut Overlay, table: Table, subject: &[u8], row: &ReturnRow) {
    over.put(table, super::key(&[subject]), saltern_wire::encode(row));
}

pub(crate) fn delete_piece(over: &mut Overlay, table: Table, subject: &[u8]) {
    over.delete(table, super::key(&[subject]));
}

/// Pieces of `jid` in `table` (conflicts or orphans): ordinal, part number, row.
pub(crate) fn pieces(
    read: &impl Read,
    table: Table,
    jid: JobId,
    limit: usize,
) -> Result<Vec<(Ordinal, u16, ReturnRow)>, StoreError> {
    let rows = read.scan(table, &Span::prefix(super::key(&[&jid.to_bytes()])), Direction::Forward, limit)?;
    let parse = |(key, row): &(Vec<u8>, Vec<u8>)| {
        let part = key.last_chunk::<2>().ok_or_else(|| super::bad_key(table))?;
        Ok((super::job::ordinal_of(table, key)?, u16::from_be_bytes(*part), super::decode(table, row)?))
    };
    rows.iter().map(parse).collect()
}
