//! A whole state as rows: out of a running master, and into a folder that has none yet. What backups are made of.
//!
//! ```text
//!   State ─ checkpoint ─▶ Export ─ row by row, each one checked ─▶ (archive) ─ row by row ─▶ Import ─▶ a folder for State::open
//!                            └─▶ scratch: a copy to try out what entries would do
//! ```
//!
//! **Invariants.** An export is the state at one entry, whatever is applied meanwhile; its folder goes with it. Every row is
//! decoded on its way out and on its way in, so that nothing leaves or enters that this build cannot read. An import counts
//! as a state only once all of it is on the disk.

use crate::error::StoreError;
use crate::index::Index;
use crate::kv::{Batch, Direction, Engine, Kind, Kv, Span, Table};
use crate::sound::Soundness;
use crate::state::{CURRENT, FIRST, State, current_text, folder_name};
use crate::table;
use saltern_wire::crypto::Signed;
use saltern_wire::key::KeyState;
use saltern_wire::master::Directory;
use saltern_wire::{LogicalTime, Revision};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Rows of an import that are written together, in bytes.
const BATCH_BYTES: usize = 1024 * 1024;

/// A state at one entry, to be read row by row. Dropping it removes its folder.
pub struct Export {
    engine: Arc<dyn Engine>,
    folder: PathBuf,
    /// `None` only while it is dropped.
    kv: Option<Arc<dyn Kv>>,
    index: Index,
    soundness: Soundness,
}

impl Export {
    /// Takes the state as it is now, into `folder`, which is this export's own: what is there is removed.
    pub fn begin(engine: Arc<dyn Engine>, state: &State, folder: &Path) -> Result<Self, StoreError> {
        let soundness = state.soundness().clone();
        let (index, kv) = soundness.noted(Self::open(engine.as_ref(), state, folder))?;
        Ok(Self { engine, folder: folder.into(), kv: Some(kv), index, soundness })
    }

    fn open(engine: &dyn Engine, state: &State, folder: &Path) -> Result<(Index, Arc<dyn Kv>), StoreError> {
        remove(engine, folder)?;
        if let Some(parent) = folder.parent() {
            engine.make_folder(parent)?;
        }
        state.checkpoint(folder)?;
        let kv = engine.open_read_only(folder, Kind::State)?;
        Ok((Index::load(&kv)?, kv))
    }

    /// The last entry in it.
    pub fn revision(&self) -> Revision {
        Revision(self.index.applied)
    }

    /// The truth's time at that entry.
    pub fn time(&self) -> LogicalTime {
        self.index.time
    }

    /// The directory of masters at that entry.
    pub fn directory(&self) -> Option<&Signed<Directory>> {
        self.index.directory.as_ref()
    }

    /// Calls `visit` with every row, table by table, in the order of their keys. Gives what people count, or `None` if the
    /// visit was ended early.
    pub fn rows(
        &self,
        visit: &mut dyn FnMut(&'static str, &[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<Option<BTreeMap<String, u64>>, StoreError> {
        let Some(kv) = &self.kv else { return Ok(None) };
        let mut rows: BTreeMap<Table, u64> = BTreeMap::new();
        for table in Table::OF_STATE {
            let (mut wrong, mut ended) = (None, false);
            let visited = kv.visit(table, &Span::all(), Direction::Forward, &mut |key, value| {
                if let Err(error) = table::check(table, key, value) {
                    wrong = Some(error);
                    return ControlFlow::Break(());
                }
                *rows.entry(table).or_default() += 1;
                let flow = visit(table.name(), key, value);
                ended = flow.is_break();
                flow
            });
            self.soundness.noted(visited.and_then(|()| wrong.map_or(Ok(()), Err)))?;
            if ended {
                return Ok(None);
            }
        }
        Ok(Some(self.counts(&rows)))
    }

    fn counts(&self, rows: &BTreeMap<Table, u64>) -> BTreeMap<String, u64> {
        let of = |table: Table| rows.get(&table).copied().unwrap_or(0);
        let keys = |state: KeyState| self.index.keys.values().filter(|record| record.state == state).count() as u64;
        let counts = [
            ("keys_accepted", keys(KeyState::Accepted)),
            ("keys_pending", keys(KeyState::Pending)),
            ("keys_rejected", keys(KeyState::Rejected)),
            ("jobs", of(Table::Jobs)),
            ("jobs_open", of(Table::OpenJobs)),
            ("returns", of(Table::Returns)),
            ("mine_values", of(Table::Mine)),
            ("orphans", of(Table::Orphans)),
        ];
        counts.into_iter().map(|(name, count)| (name.to_owned(), count)).collect()
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        self.kv = None;
        if let Err(error) = remove(self.engine.as_ref(), &self.folder) {
            tracing::warn!(%error, "what a backup was read from is left over; the next one removes it");
        }
    }
}

/// Removes a checkpoint, and one that was under way.
fn remove(engine: &dyn Engine, folder: &Path) -> Result<(), StoreError> {
    engine.remove(folder)?;
    engine.remove(&folder.with_extension("tmp"))
}

/// A copy of `state` in `dir`, which is the copy's own, to try out what entries would do. Whoever made it removes the folder.
pub fn scratch(engine: Arc<dyn Engine>, state: &State, dir: &Path) -> Result<Arc<State>, StoreError> {
    engine.remove(dir)?;
    engine.make_folder(dir)?;
    state.checkpoint(&dir.join(folder_name(FIRST)))?;
    engine.replace_file(&dir.join(CURRENT), current_text(FIRST).as_bytes())?;
    State::open(engine, dir, Soundness::new())
}

/// A state on its way in.
pub struct Import {
    engine: Arc<dyn Engine>,
    dir: PathBuf,
    kv: Arc<dyn Kv>,
    batch: Batch,
    bytes: usize,
}

impl Import {
    /// Begins in `dir`, the folder of a state, in which there must be nothing.
    pub fn begin(engine: Arc<dyn Engine>, dir: &Path) -> Result<Self, StoreError> {
        engine.make_folder(dir)?;
        if let Some(name) = engine.list(dir)?.first() {
            let cause = format!("{name} is there already");
            return Err(StoreError::Engine { doing: "restoring a state", path: dir.into(), cause });
        }
        let kv = engine.open_state(&dir.join(folder_name(FIRST)))?;
        Ok(Self { engine, dir: dir.into(), kv, batch: Batch::default(), bytes: 0 })
    }

    /// Adds a row. Refused: one of a table that this build does not know, and one that it cannot read.
    pub fn row(&mut self, table: &str, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        let known = known(table)?;
        table::check(known, key, value)?;
        self.batch.put(known, key, value);
        self.bytes += key.len() + value.len();
        if self.bytes >= BATCH_BYTES { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<(), StoreError> {
        self.bytes = 0;
        self.kv.write(std::mem::take(&mut self.batch))
    }

    /// Makes everything durable and a state, and opens that.
    pub fn finish(mut self) -> Result<Arc<State>, StoreError> {
        self.write()?;
        let Self { engine, dir, kv, .. } = self;
        kv.flush()?;
        drop(kv);
        engine.replace_file(&dir.join(CURRENT), current_text(FIRST).as_bytes())?;
        State::open(engine, &dir, Soundness::new())
    }
}

/// Whether this build can read a row, without keeping it.
pub fn check_row(table: &str, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
    table::check(known(table)?, key, value)
}

fn known(table: &str) -> Result<Table, StoreError> {
    let unknown =
        || StoreError::corrupt(format!("the table {table:?}"), "this build does not know it: use a newer one");
    Table::OF_STATE.into_iter().find(|known| known.name() == table).ok_or_else(unknown)
}
