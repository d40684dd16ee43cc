//! The state's chain hash: what every entry changed, on top of what every entry before it changed.
//!
//! ```text
//!   changes of entry n ─▶ Trace ─┐
//!   hash of entry n - 1 ─────────┴─▶ BLAKE3 ─▶ hash of entry n ── every 10,000 entries, and at every tick ─▶ a check
//! ```
//!
//! Two replicas that have applied the same entries have the same hash, or one of them is not what its entries say: a wrong row
//! that any later command read, a defect of a machine, or builds that do not agree. What no command reads is read by the
//! patrol ([`crate::machine`]'s ticks): so many rows a tick, in turn, go into the hash as well.
//!
//! **Invariants.** How entries are grouped into calls does not show. The hash begins with the entry that brings feature level 2,
//! which all replicas apply; it stands in the state, in its snapshots and in what describes them, so that a replica that comes
//! back goes on where the others are. Checks are kept for a while: whoever lags still has one that the others have.
//!
//! **It refuses** to decide who is wrong: that needs the other replicas.

use crate::error::StoreError;
use crate::kv::{Kv, Span, Table};
use crate::overlay::Overlay;
use crate::state::State;
use crate::table::meta;
use std::collections::VecDeque;
use std::sync::Arc;

/// The level at which the hash begins.
pub(crate) const LEVEL_CHAINED: u32 = 2;

/// Entries between two checks, ticks aside.
const CHECK_EVERY: u64 = 10_000;

/// Checks that are kept: as many ticks as fit into half a minute while jobs are open, which is longer than a replica that is
/// still counted lags. An idle cluster ticks once a minute.
const CHECKS_MAX: usize = 32;

/// Bytes of changes that are put together before they are hashed: small ones cost as little as large ones then.
const GATHER_BYTES: usize = 64 * 1024;

/// Bytes of a check in its row: the entry's index and the beginning of the hash there.
const CHECK_BYTES: usize = 16;

/// The hash at one entry, as replicas compare it: 64 bits tell accidents apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Check {
    /// The entry.
    pub index: u64,
    /// The first eight bytes of the hash there.
    pub hash: u64,
}

/// Where the chain stands.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Chain {
    /// `None` below [`LEVEL_CHAINED`].
    pub(crate) hash: Option<[u8; 32]>,
    /// Oldest first.
    pub(crate) checks: VecDeque<Check>,
    /// Whether `checks` is not what is written.
    unwritten: bool,
}

impl Chain {
    /// Reads where it stands.
    pub(crate) fn load(kv: &Arc<dyn Kv>) -> Result<Self, StoreError> {
        let wrong = |what: &str| StoreError::corrupt("the state's chain hash", what);
        let hash =
            meta::bytes(kv, meta::CHAIN)?.map(|row| row.try_into().map_err(|_| wrong("it does not have 32 bytes")));
        let checks = meta::bytes(kv, meta::CHECKS)?.map(|row| parse_checks(&row)).transpose()?;
        Ok(Self { hash: hash.transpose()?, checks: checks.unwrap_or_default(), unwritten: false })
    }

    /// Puts what `trace` holds of entry `index` on top.
    pub(crate) fn advance(&mut self, index: u64, trace: &mut Trace, is_tick: bool) {
        let hash = trace.end(index, &self.hash.unwrap_or_default());
        self.hash = Some(hash);
        if !is_tick && !index.is_multiple_of(CHECK_EVERY) {
            return;
        }
        let hash = hash.first_chunk::<8>().map_or(0, |bytes| u64::from_be_bytes(*bytes));
        self.checks.push_back(Check { index, hash });
        while self.checks.len() > CHECKS_MAX {
            self.checks.pop_front();
        }
        self.unwritten = true;
    }

    /// Writes where it stands, once per call of apply: these rows are of no entry and in no hash.
    pub(crate) fn write(&mut self, over: &mut Overlay) {
        let Some(hash) = self.hash else { return };
        meta::put_bytes(over, meta::CHAIN, &hash);
        if std::mem::take(&mut self.unwritten) {
            let row: Vec<u8> =
                self.checks.iter().flat_map(|check| [check.index, check.hash]).flat_map(u64::to_be_bytes).collect();
            meta::put_bytes(over, meta::CHECKS, &row);
        }
    }
}

/// The checks in a row.
pub(crate) fn parse_checks(row: &[u8]) -> Result<VecDeque<Check>, StoreError> {
    let (checks, rest) = row.as_chunks::<CHECK_BYTES>();
    if !rest.is_empty() {
        return Err(StoreError::corrupt("the checks of the chain hash", format!("they have {} bytes", row.len())));
    }
    let parse = |check: &[u8; CHECK_BYTES]| {
        let number = u128::from_be_bytes(*check);
        Check { index: (number >> 64) as u64, hash: number as u64 }
    };
    Ok(checks.iter().map(parse).collect())
}

/// What the current entry has changed so far, in the order in which it did.
#[derive(Default)]
pub(crate) struct Trace {
    hasher: blake3::Hasher,
    gathered: Vec<u8>,
}

impl Trace {
    /// A row was put.
    pub(crate) fn put(&mut self, table: Table, key: &[u8], value: &[u8]) {
        self.add(b'p', table, key, value);
    }

    /// A row was deleted.
    pub(crate) fn delete(&mut self, table: Table, key: &[u8]) {
        self.add(b'd', table, key, &[]);
    }

    /// A range was deleted.
    pub(crate) fn clear(&mut self, table: Table, span: &Span) {
        self.add(b'c', table, &span.start, span.end.as_deref().unwrap_or_default());
    }

    /// The patrol has read a row.
    pub(crate) fn read(&mut self, table: Table, key: &[u8], value: &[u8]) {
        self.add(b'r', table, key, value);
    }

    /// What was noted so far belongs to no entry.
    pub(crate) fn forget(&mut self) {
        self.gathered.clear();
        self.hasher.reset();
    }

    fn add(&mut self, what: u8, table: Table, key: &[u8], value: &[u8]) {
        self.gathered.push(what);
        for field in [table.name().as_bytes(), key, value] {
            self.gathered.extend_from_slice(&(field.len() as u64).to_be_bytes());
            self.gathered.extend_from_slice(field);
        }
        if self.gathered.len() >= GATHER_BYTES {
            self.hasher.update(&self.gathered);
            self.gathered.clear();
        }
    }

    /// The hash of entry `index` on top of `last`; the next entry begins.
    fn end(&mut self, index: u64, last: &[u8; 32]) -> [u8; 32] {
        self.gathered.extend_from_slice(&index.to_be_bytes());
        self.gathered.extend_from_slice(last);
        self.hasher.update(&self.gathered);
        let hash = *self.hasher.finalize().as_bytes();
        self.forget();
        hash
    }
}

impl State {
    /// The hash at some of the newest entries, oldest first: equal on replicas that are equal. Empty below feature level 2.
    pub fn checks(&self) -> Vec<Check> {
        self.live().index.chain.checks.iter().copied().collect()
    }

    /// This replica is not what its entries say: it differs from a majority. Nothing of it is served, voted on or replicated
    /// from here on.
    pub fn differs(&self, cause: &str) {
        self.soundness().doubt(&StoreError::corrupt("the state", cause));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_changed_decides_and_where_one_field_ends() {
        let hash = |changes: &[(&[u8], &[u8])], index| {
            let mut trace = Trace::default();
            changes.iter().for_each(|(key, value)| trace.put(Table::Keys, key, value));
            trace.end(index, &[0; 32])
        };
        let first = hash(&[(b"ab", b"c")], 1);
        assert_eq!(first, hash(&[(b"ab", b"c")], 1));
        assert_ne!(first, hash(&[(b"a", b"bc")], 1), "the same letters, another key");
        assert_ne!(first, hash(&[(b"ab", b"c")], 2), "another entry");
        let mut trace = Trace::default();
        trace.put(Table::Mine, b"ab", b"c");
        assert_ne!(first, trace.end(1, &[0; 32]), "another table");
        trace.put(Table::Keys, b"ab", b"c");
        assert_ne!(first, trace.end(1, &[1; 32]), "another past");
        let long = vec![7; GATHER_BYTES];
        assert_ne!(hash(&[(b"a", &long)], 1), hash(&[(b"a", &long), (b"b", b"")], 1));
    }

    #[test]
    fn checks_are_read_as_they_were_written() {
        let row: Vec<u8> = [5_u64, 6, u64::MAX, 7].into_iter().flat_map(u64::to_be_bytes).collect();
        let checks = parse_checks(&row).expect("two checks");
        assert_eq!(checks, [Check { index: 5, hash: 6 }, Check { index: u64::MAX, hash: 7 }]);
        assert!(parse_checks(&row[1..]).is_err());
    }
}
