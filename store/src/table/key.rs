//! Minion keys: one that counts per id, and a few denied ones beside it.

use crate::error::StoreError;
use crate::kv::{Direction, Span, Table};
use crate::overlay::{Overlay, Read};
use saltern_wire::MinionId;
use saltern_wire::codec::Encoded;
use saltern_wire::crypto::Fingerprint;
use saltern_wire::key::KeyRecord;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
pub(crate) struct KeyRow(KeyRecord);

impl Encoded for KeyRow {
    const KIND: u8 = 61;
}

impl KeyRow {
    /// Where it stands if it counts.
    pub(crate) fn key(&self) -> Vec<u8> {
        super::key(&[self.0.minion.as_str().as_bytes()])
    }

    /// Where it stands if it is denied.
    pub(crate) fn denied_key(&self) -> Vec<u8> {
        super::key(&[&denied_subject(&self.0.minion, &self.0.fingerprint())])
    }
}

pub(crate) fn put(over: &mut Overlay, record: &KeyRecord) {
    let key = super::key(&[record.minion.as_str().as_bytes()]);
    over.put(Table::Keys, key, saltern_wire::encode(&KeyRow(record.clone())));
}

pub(crate) fn delete(over: &mut Overlay, minion: &MinionId) {
    over.delete(Table::Keys, super::key(&[minion.as_str().as_bytes()]));
}

/// All keys that are not denied, by id.
pub(crate) fn all(read: &impl Read) -> Result<Vec<KeyRecord>, StoreError> {
    records(read, Table::Keys, &Span::all())
}

/// Where a denied key stands, behind the shard.
pub(crate) fn denied_subject(minion: &MinionId, fingerprint: &Fingerprint) -> Vec<u8> {
    [minion.as_str().as_bytes(), &[0], &fingerprint.0].concat()
}

pub(crate) fn put_denied(over: &mut Overlay, record: &KeyRecord) {
    let subject = denied_subject(&record.minion, &record.fingerprint());
    over.put(Table::Denied, super::key(&[&subject]), saltern_wire::encode(&KeyRow(record.clone())));
}

pub(crate) fn delete_denied(over: &mut Overlay, minion: &MinionId, fingerprint: &Fingerprint) {
    over.delete(Table::Denied, super::key(&[&denied_subject(minion, fingerprint)]));
}

/// The denied key under what [`denied_subject`] made.
pub(crate) fn denied_at(read: &impl Read, subject: &[u8]) -> Result<Option<KeyRecord>, StoreError> {
    let row: Option<KeyRow> = super::get(read, Table::Denied, &super::key(&[subject]))?;
    Ok(row.map(|row| row.0))
}

pub(crate) fn denied(
    read: &impl Read,
    minion: &MinionId,
    fingerprint: &Fingerprint,
) -> Result<Option<KeyRecord>, StoreError> {
    denied_at(read, &denied_subject(minion, fingerprint))
}

/// Denied keys of one id.
pub(crate) fn denied_of(read: &impl Read, minion: &MinionId) -> Result<Vec<KeyRecord>, StoreError> {
    records(read, Table::Denied, &Span::prefix(super::key(&[minion.as_str().as_bytes(), &[0]])))
}

/// All denied keys, by id and fingerprint.
pub(crate) fn denied_all(read: &impl Read) -> Result<Vec<KeyRecord>, StoreError> {
    records(read, Table::Denied, &Span::all())
}

fn records(read: &impl Read, table: Table, span: &Span) -> Result<Vec<KeyRecord>, StoreError> {
    let rows = read.scan(table, span, Direction::Forward, usize::MAX)?;
    rows.iter().map(|(_, row)| super::decode::<KeyRow>(table, row).map(|row| row.0)).collect()
}
