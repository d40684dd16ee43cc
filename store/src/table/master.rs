//! Masters that joined, and the tokens they join with.

use crate::error::StoreError;
use crate::kv::{Direction, Span, Table};
use crate::overlay::{Overlay, Read};
use saltern_wire::codec::Encoded;
use saltern_wire::crypto::PublicKey;
use saltern_wire::{LogicalTime, MasterId};
use serde::{Deserialize, Serialize};

/// A master with an id: in the directory, or on its way into it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MasterRow {
    pub(crate) name: String,
    pub(crate) public_key: PublicKey,
    pub(crate) joined: LogicalTime,
    /// The master whose place it takes, if it had lost its data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) replaces: Option<MasterId>,
}

impl Encoded for MasterRow {
    const KIND: u8 = 69;
}

/// A join token, known by BLAKE3 of its secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TokenRow {
    pub(crate) expires: LogicalTime,
    pub(crate) uses: u32,
}

impl Encoded for TokenRow {
    const KIND: u8 = 70;
}

/// Masters by id. There are at most a few dozen.
pub(crate) fn all(read: &impl Read) -> Result<Vec<(MasterId, MasterRow)>, StoreError> {
    let rows = read.scan(Table::Masters, &Span::all(), Direction::Forward, usize::MAX)?;
    let parse = |(key, row): &(Vec<u8>, Vec<u8>)| {
        let number = super::subject(key).try_into().map_err(|_| super::bad_key(Table::Masters))?;
        Ok((MasterId(u64::from_be_bytes(number)), super::decode(Table::Masters, row)?))
    };
    rows.iter().map(parse).collect()
}

/// Whether a master with this id is known: in the directory, or on its way into it.
pub(crate) fn is_known(read: &impl Read, master: MasterId) -> Result<bool, StoreError> {
    Ok(read.get(Table::Masters, &super::key(&[&master.0.to_be_bytes()]))?.is_some())
}

pub(crate) fn put(over: &mut Overlay, master: MasterId, row: &MasterRow) {
    over.put(Table::Masters, super::key(&[&master.0.to_be_bytes()]), saltern_wire::encode(row));
}

pub(crate) fn delete(over: &mut Overlay, master: MasterId) {
    over.delete(Table::Masters, super::key(&[&master.0.to_be_bytes()]));
}

pub(crate) fn token(read: &impl Read, secret_hash: &[u8]) -> Result<Option<TokenRow>, StoreError> {
    super::get(read, Table::Tokens, &super::key(&[secret_hash]))
}

/// How many tokens are held, counted up to `limit`.
pub(crate) fn tokens(read: &impl Read, limit: usize) -> Result<usize, StoreError> {
    Ok(read.scan(Table::Tokens, &Span::all(), Direction::Forward, limit)?.len())
}

/// Every token: its hash and its end.
pub(crate) fn all_tokens(read: &impl Read) -> Result<Vec<(Vec<u8>, LogicalTime)>, StoreError> {
    let rows = read.scan(Table::Tokens, &Span::all(), Direction::Forward, usize::MAX)?;
    let parse = |(key, row): &(Vec<u8>, Vec<u8>)| {
        let row: TokenRow = super::decode(Table::Tokens, row)?;
        Ok((super::subject(key).to_vec(), row.expires))
    };
    rows.iter().map(parse).collect()
}

pub(crate) fn put_token(over: &mut Overlay, secret_hash: &[u8], row: TokenRow) {
    over.put(Table::Tokens, super::key(&[secret_hash]), saltern_wire::encode(&row));
}

pub(crate) fn delete_token(over: &mut Overlay, secret_hash: &[u8]) {
    over.delete(Table::Tokens, super::key(&[secret_hash]));
}
