//! How records become rows: keys and values of every table. One record family per file.
//!
//! Every key begins with the shard (u16, big endian, 0 for now): a second Raft group is then a migration and not a rewrite.
//! Numbers in keys are big endian, so that the order of the bytes is the order of the numbers; texts in the middle of a key
//! end with a zero byte, which no name contains. Values are records in the envelope of [`saltern_wire::codec`].
//!
//! Kinds of records, append only: 60 proposal · 61 key · 62 facts · 63 job · 64 job end · 65 return · 66 assembly ·
//! 67 orphan · 68 mine · 69 master · 70 token · 71 request · 72 CA · 73 settings · 74 snapshot manifest · 75 minion ·
//! 76 directory · 77 durable mark · 79 state secrets.

mod check;
pub(crate) mod facts;
pub(crate) mod job;
pub(crate) mod key;
pub(crate) mod master;
pub(crate) mod meta;
pub(crate) mod mine;
pub(crate) mod minion;
pub(crate) mod request;
pub(crate) mod returns;
pub(crate) mod timeline;

pub(crate) use check::check;

use crate::error::StoreError;
use crate::kv::Table;
use crate::overlay::Read;
use saltern_wire::codec::Encoded;

/// The only shard there is.
const SHARD: [u8; 2] = 0u16.to_be_bytes();

/// A key: the shard and then `parts`.
pub(crate) fn key(parts: &[&[u8]]) -> Vec<u8> {
    let mut key = Vec::with_capacity(SHARD.len() + parts.iter().map(|part| part.len()).sum::<usize>());
    key.extend_from_slice(&SHARD);
    for part in parts {
        key.extend_from_slice(part);
    }
    key
}

/// What stands in a key behind the shard.
pub(crate) fn subject(key: &[u8]) -> &[u8] {
    key.get(SHARD.len()..).unwrap_or_default()
}

/// Key of a log entry.
pub(crate) fn log_key(index: u64) -> Vec<u8> {
    key(&[&index.to_be_bytes()])
}

/// Above every log entry.
pub(crate) fn log_end() -> Vec<u8> {
    key(&[&[u8::MAX; 9]])
}

/// The inverse of [`log_key`].
pub(crate) fn log_index(key: &[u8]) -> Result<u64, StoreError> {
    let bytes = subject(key).try_into().map_err(|_| StoreError::corrupt("the log", "it has a key that is no index"))?;
    Ok(u64::from_be_bytes(bytes))
}

/// Reads and decodes one row.
pub(crate) fn get<T: Encoded>(read: &impl Read, table: Table, key: &[u8]) -> Result<Option<T>, StoreError> {
    read.get(table, key)?.map(|row| decode(table, &row)).transpose()
}

/// Decodes a row of `table`.
pub(crate) fn decode<T: Encoded>(table: Table, row: &[u8]) -> Result<T, StoreError> {
    saltern_wire::decode(row)
        .map_err(|error| StoreError::undecoded(format!("a row of the table {}", table.name()), &error))
}

/// A key of `table` that does not have its shape.
pub(crate) fn bad_key(table: Table) -> StoreError {
    StoreError::corrupt(format!("a key of the table {}", table.name()), "it has the wrong shape")
}
