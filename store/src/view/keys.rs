//! Keys, names and numbers of minions.

use crate::error::StoreError;
use crate::state::State;
use crate::table;
use roaring::RoaringBitmap;
use saltern_wire::key::KeyRecord;
use saltern_wire::{MinionId, Ordinal};

impl State {
    /// Every key that is not denied, by id: accepted, pending and rejected ones.
    pub fn keys(&self) -> Vec<KeyRecord> {
        self.live().index.keys.values().cloned().collect()
    }

    /// The key of `minion` that is not denied.
    pub fn key(&self, minion: &MinionId) -> Option<KeyRecord> {
        self.live().index.keys.get(minion).cloned()
    }

    /// Every denied key, by id.
    pub fn denied(&self) -> Result<Vec<KeyRecord>, StoreError> {
        self.reading(|live| table::key::denied_all(&live.kv))
    }

    /// The denied keys of `minion`.
    pub fn denied_of(&self, minion: &MinionId) -> Result<Vec<KeyRecord>, StoreError> {
        self.reading(|live| table::key::denied_of(&live.kv, minion))
    }

    /// The accepted minion with this number.
    pub fn minion_by_ordinal(&self, ordinal: Ordinal) -> Option<MinionId> {
        let live = self.live();
        live.index.accepted.contains(ordinal.0).then(|| live.index.names.get(&ordinal).cloned()).flatten()
    }

    /// The name that this number was given to, whether its key is still there or not.
    pub fn name_of(&self, ordinal: Ordinal) -> Option<MinionId> {
        self.live().index.names.get(&ordinal).cloned()
    }

    /// The number of an accepted minion.
    pub fn ordinal_of(&self, minion: &MinionId) -> Option<Ordinal> {
        let live = self.live();
        let ordinal = live.index.keys.get(minion)?.ordinal?;
        live.index.accepted.contains(ordinal.0).then_some(ordinal)
    }

    /// Accepted minions, by number.
    pub fn accepted(&self) -> Vec<(Ordinal, MinionId)> {
        let live = self.live();
        let named = |number| Some((Ordinal(number), live.index.names.get(&Ordinal(number))?.clone()));
        live.index.accepted.iter().filter_map(named).collect()
    }

    /// Numbers of accepted minions.
    pub fn accepted_ordinals(&self) -> RoaringBitmap {
        self.live().index.accepted.clone()
    }
}
