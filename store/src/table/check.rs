//! Whether a row is one that this build can read: its key has its shape, its value decodes, and the two agree.

use super::facts::FactsRow;
use super::job::{self, EndRow, JobRow};
use super::key::KeyRow;
use super::master::{MasterRow, TokenRow};
use super::mine::MineRow;
use super::minion::MinionRow;
use super::request::RequestRow;
use super::returns::{AssemblyRow, ReturnRow};
use super::timeline::Due;
use super::{SHARD, bad_key, decode, key, meta, subject};
use crate::error::StoreError;
use crate::kv::Table;
use saltern_wire::codec::Encoded;

/// Bytes of a jid in a key.
const JID: usize = 16;
/// Bytes of an ordinal in a key.
const ORDINAL: usize = 4;
/// Bytes of a part's number in a key.
const PART: usize = 2;
/// Bytes of a digest in a key.
const DIGEST: usize = 32;

/// Checks one row of a state.
pub(crate) fn check(table: Table, row_key: &[u8], row: &[u8]) -> Result<(), StoreError> {
    if !row_key.starts_with(&SHARD) {
        return Err(bad_key(table));
    }
    let about = subject(row_key);
    match table {
        Table::Meta => meta::check(about, row),
        Table::Keys => decode::<KeyRow>(table, row).and_then(|found| same_key(table, row_key, &found.key())),
        Table::Denied => decode::<KeyRow>(table, row).and_then(|found| same_key(table, row_key, &found.denied_key())),
        Table::Minions => sized::<MinionRow>(table, about, ORDINAL, row),
        Table::Facts => sized::<FactsRow>(table, about, ORDINAL, row),
        Table::Jobs => {
            let (jid, found) = (job::jid_of(table, row_key)?, decode::<JobRow>(table, row)?);
            let job = found.job.peek().map_err(|error| StoreError::corrupt(format!("the job {jid}"), error))?;
            same_key(table, row_key, &key(&[&job.jid.to_bytes()]))
        }
        Table::OpenJobs => job::jid_of(table, row_key).and_then(|_| job::parse_stand(row).map(drop)),
        Table::JobEnds => sized::<EndRow>(table, about, JID, row),
        Table::Progress => length(table, about, JID + ORDINAL).and_then(|()| job::parse_progress(row).map(drop)),
        Table::Returns => sized::<ReturnRow>(table, about, JID + ORDINAL, row),
        Table::Parts if about.len() == JID + ORDINAL => decode::<AssemblyRow>(table, row).map(drop),
        // A piece is the minion's bytes: its digest is checked when the pieces are put together.
        Table::Parts => length(table, about, JID + ORDINAL + PART),
        Table::Conflicts | Table::Orphans => sized::<ReturnRow>(table, about, JID + ORDINAL + DIGEST + PART, row),
        Table::Mine => match about.get(ORDINAL..).map(std::str::from_utf8) {
            Some(Ok(_)) => decode::<MineRow>(table, row).map(drop),
            Some(Err(_)) | None => Err(bad_key(table)),
        },
        Table::Masters => sized::<MasterRow>(table, about, 8, row),
        Table::Tokens => sized::<TokenRow>(table, about, DIGEST, row),
        Table::Requests => sized::<RequestRow>(table, about, 16, row),
        Table::Timeline => match about.first() {
            Some(code) if about.len() >= 9 && Due::ALL.iter().any(|due| due.code() == *code) => empty(table, row),
            Some(_) | None => Err(bad_key(table)),
        },
        Table::Log | Table::LogMeta => Err(StoreError::corrupt("a state", "it has a table of a log")),
    }
}

/// A row whose key has `len` bytes behind the shard.
fn sized<T: Encoded>(table: Table, about: &[u8], len: usize, row: &[u8]) -> Result<(), StoreError> {
    length(table, about, len)?;
    decode::<T>(table, row).map(drop)
}

fn length(table: Table, about: &[u8], len: usize) -> Result<(), StoreError> {
    if about.len() == len { Ok(()) } else { Err(bad_key(table)) }
}

fn empty(table: Table, row: &[u8]) -> Result<(), StoreError> {
    let bytes = row.len();
    let filled =
        || StoreError::corrupt(format!("a row of the table {}", table.name()), format!("it has {bytes} bytes"));
    if row.is_empty() { Ok(()) } else { Err(filled()) }
}

fn same_key(table: Table, found: &[u8], made: &[u8]) -> Result<(), StoreError> {
    if found == made { Ok(()) } else { Err(bad_key(table)) }
}
