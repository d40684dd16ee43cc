//! Grains and mine data.

use crate::error::StoreError;
use crate::state::State;
use crate::table::{facts, mine};
use roaring::RoaringBitmap;
use saltern_wire::mine::MineEntry;
use saltern_wire::{LogicalTime, Map, MinionId, Ordinal};

/// Minions whose grains are read before entries may be applied again: a few milliseconds of decoding.
const FACTS_PER_PAGE: usize = 128;

/// What an accepted minion last said about itself.
#[derive(Debug, Clone, PartialEq)]
pub struct FactsRecord {
    /// Its incarnation: another one means a reinstalled machine.
    pub incarnation: u64,
    /// From when on jobs may be offered to this incarnation: only those opened at that time or later. For a minion's first
    /// incarnation it is the acceptance of its key.
    pub enrolled: LogicalTime,
    /// When it said so.
    pub reported: LogicalTime,
    /// Its program version.
    pub version: String,
    /// Its grains.
    pub facts: Map,
}

impl From<facts::FactsRow> for FactsRecord {
    fn from(row: facts::FactsRow) -> Self {
        let facts::FactsRow { incarnation, enrolled, reported, version, facts } = row;
        Self { incarnation, enrolled, reported, version, facts }
    }
}

impl State {
    /// What an accepted minion last said about itself; `None` if it is not accepted or has said nothing yet.
    pub fn facts(&self, minion: &MinionId) -> Result<Option<FactsRecord>, StoreError> {
        let Some(ordinal) = self.ordinal_of(minion) else { return Ok(None) };
        let row = self.reading(|live| facts::get(&live.kv, ordinal))?;
        Ok(row.map(FactsRecord::from))
    }

    /// Calls `visit` with each accepted minion by number, with its grains if it has reported any. Reads in pages: entries
    /// are applied in between. For targets that do not look at grains, [`State::accepted`] is a hundred times cheaper.
    pub fn each_facts(
        &self,
        visit: &mut dyn FnMut(Ordinal, &MinionId, Option<&FactsRecord>),
    ) -> Result<(), StoreError> {
        for page in self.accepted().chunks(FACTS_PER_PAGE) {
            let read = self.reading(|live| {
                let rows = page.iter().map(|(ordinal, _)| facts::get(&live.kv, *ordinal));
                rows.collect::<Result<Vec<_>, _>>()
            })?;
            for ((ordinal, minion), row) in page.iter().zip(read) {
                visit(*ordinal, minion, row.map(FactsRecord::from).as_ref());
            }
        }
        Ok(())
    }

    /// The newest values that `of` (those of them that are accepted) have reported under `function`, by minion id.
    pub fn mine(&self, of: &RoaringBitmap, function: &str) -> Result<Vec<MineEntry>, StoreError> {
        self.reading(|live| {
            let mut entries = Vec::new();
            for number in of & &live.index.accepted {
                let Some(minion) = live.index.names.get(&Ordinal(number)) else { continue };
                let Some(row) = mine::get(&live.kv, Ordinal(number), function)? else { continue };
                if let Some(value) = row.value {
                    entries.push(MineEntry {
                        minion: minion.clone(),
                        function: function.into(),
                        value,
                        stamp: row.stamp,
                    });
                }
            }
            entries.sort_unstable_by(|a, b| a.minion.cmp(&b.minion));
            Ok(entries)
        })
    }

    /// Everything that one accepted minion has reported, by function.
    pub fn mine_of(&self, minion: &MinionId) -> Result<Vec<MineEntry>, StoreError> {
        let Some(ordinal) = self.ordinal_of(minion) else { return Ok(Vec::new()) };
        let rows = self.reading(|live| mine::of(&live.kv, ordinal))?;
        let entry = |(function, row): (String, mine::MineRow)| {
            let value = row.value?;
            Some(MineEntry { minion: minion.clone(), function, value, stamp: row.stamp })
        };
        Ok(rows.into_iter().filter_map(entry).collect())
    }
}
