//! The truth on this machine: what applying the log up to [`State::position`] has made.
//!
//! ```text
//!   <dir>/CURRENT          names the live folder, with a checksum
//!   <dir>/state-7/         the live instance
//!   <dir>/state-8/         left over from an install that did not get to its end: removed at open
//! ```
//!
//! **Invariants.** All effects of one call of [`State::apply`] and the position behind them are one batch. A reader sees a
//! whole number of calls. What is in memory ([`crate::index`]) equals what is on the disk. After a failed write nothing more
//! is applied. [`State::install`] changes CURRENT in one step: a crash leaves the old state or the new one.
//!
//! **Durability.** The instance has no log of its own: after a power cut it stands where it was last flushed, and the
//! replicated log, which is purged only up to a durable snapshot, is applied again from there.

use crate::chain::LEVEL_CHAINED;
use crate::command::{Applied, Command, Effect, Proposal, Reply};
use crate::error::StoreError;
use crate::index::Index;
use crate::kv::{Direction, Engine, Kv, Pressure, Span, Table};
use crate::machine::{self, Tx};
use crate::overlay::Overlay;
use crate::reclaim::Freeing;
use crate::sound::Soundness;
use crate::table;
use saltern_wire::codec::CodecError;
use saltern_wire::level::{LEVEL, Newer};
use saltern_wire::{LogicalTime, Revision, fault_point};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

/// The file that names the live folder.
pub(crate) const CURRENT: &str = "CURRENT";
/// What folder names begin with; a number follows.
pub(crate) const FOLDER: &str = "state-";
/// The number of the folder that a state begins with.
pub(crate) const FIRST: u64 = 1;

/// One entry of the replicated log, ready to be applied.
#[derive(Debug, Clone)]
pub struct Item {
    /// Its place in the log.
    pub index: u64,
    /// Its whole position, as the caller encodes it. Handed back by [`State::position`], never looked into.
    pub position: Vec<u8>,
    /// What it says.
    pub payload: Payload,
}

/// What an entry says.
#[derive(Debug, Clone)]
pub enum Payload {
    /// Nothing.
    Blank,
    /// New members, as the caller encodes them. Handed back by [`State::membership`], never looked into.
    Membership(Vec<u8>),
    /// A change of the truth.
    Proposal(Arc<Proposal>),
}

/// What applying one entry did.
#[derive(Debug, Clone)]
pub struct AppliedEntry {
    /// Its place in the log.
    pub index: u64,
    /// The same, as clients see it.
    pub revision: Revision,
    /// The truth's time after it.
    pub time: LogicalTime,
    /// The answer.
    pub applied: Applied,
    /// What somebody may want to hear of, in order.
    pub effects: Vec<Effect>,
}

/// The replicated truth on this machine. Reads: [`crate::view`].
pub struct State {
    engine: Arc<dyn Engine>,
    dir: PathBuf,
    live: RwLock<Live>,
    /// Held while the live instance is copied, or another one takes its place.
    swapping: Mutex<()>,
    /// What `live` says of itself, for those who ask at every step and must not wait while entries are applied.
    newest: Newest,
    /// The live instance once more: what is asked of it while entries are applied must not wait for them.
    kv: RwLock<Arc<dyn Kv>>,
    soundness: Soundness,
}

/// Where the state stands. Set once everything that it stands for can be read.
#[derive(Default)]
struct Newest {
    applied: AtomicU64,
    time_us: AtomicU64,
    level: AtomicU32,
}

impl Newest {
    fn set(&self, index: &Index) {
        self.level.store(index.level, Ordering::Release);
        self.time_us.store(index.time.unix_micros(), Ordering::Release);
        self.applied.store(index.applied, Ordering::Release);
    }
}

/// What is swapped as a whole when a snapshot is installed.
pub(crate) struct Live {
    pub(crate) kv: Arc<dyn Kv>,
    pub(crate) index: Index,
    number: u64,
    /// What waits to be given back to the disk.
    pub(crate) freeing: Mutex<Freeing>,
    /// A write failed: memory may be ahead of the disk.
    broken: bool,
}

impl State {
    /// Opens (or makes) the state in `dir`, and removes what an interrupted install has left. What turns out to be corrupt,
    /// now or later, is noted in `soundness`.
    pub fn open(engine: Arc<dyn Engine>, dir: &Path, soundness: Soundness) -> Result<Arc<Self>, StoreError> {
        let live = soundness.noted(Self::open_live(engine.as_ref(), dir))?;
        let newest = Newest::default();
        newest.set(&live.index);
        let kv = RwLock::new(Arc::clone(&live.kv));
        Ok(Arc::new(Self {
            engine,
            dir: dir.to_path_buf(),
            live: RwLock::new(live),
            swapping: Mutex::default(),
            newest,
            kv,
            soundness,
        }))
    }

    fn open_live(engine: &dyn Engine, dir: &Path) -> Result<Live, StoreError> {
        engine.make_folder(dir)?;
        let number = match current(engine, dir)? {
            Some(number) => number,
            None => begin(engine, dir)?,
        };
        let folder = folder_name(number);
        let names = engine.list(dir)?;
        // Every engine leaves files in a folder that it has opened: without them, the state is gone.
        if number > FIRST && !names.contains(&folder) {
            return Err(missing(dir, &folder));
        }
        let live = Live::open(engine, dir, number)?;
        for name in names {
            if name.starts_with(FOLDER) && name != folder {
                engine.remove(&dir.join(name))?;
            }
        }
        Ok(live)
    }

    /// Applies entries that follow the last applied one, in order and without a gap. An error means that this replica has
    /// to stop; nothing of the call is on the disk then.
    pub fn apply(&self, items: &[Item]) -> Result<Vec<AppliedEntry>, StoreError> {
        fault_point!("apply.before");
        let mut live = self.live.write().unwrap_or_else(PoisonError::into_inner);
        if live.broken || self.soundness.is_lost() {
            return Err(StoreError::Broken);
        }
        // Cleared at the end only: a panic in between leaves the state unusable, too.
        live.broken = true;
        let done = live.apply(items).inspect_err(|error| self.note(error))?;
        fault_point!("apply.after");
        live.broken = false;
        self.newest.set(&live.index);
        Ok(done)
    }

    /// Notes that the command in entry `index`, whose bytes are what was written, does not decode: it is one of a newer build,
    /// and nothing behind it may be applied by this one.
    pub fn refuse_entry(&self, index: u64, error: &CodecError) -> StoreError {
        let what = format!("log entry {index}");
        let known = format!("the commands of feature level {LEVEL}");
        let refused = match error {
            CodecError::Newer { found, known } => Newer::format(what, *found, *known),
            CodecError::Short | CodecError::Kind { .. } | CodecError::Body { .. } | CodecError::Large { .. } => {
                Newer::of(what, format!("a command that this one cannot read ({error})"), known)
            }
        };
        let refused = StoreError::from(refused);
        self.note(&refused);
        refused
    }

    /// Position of the last applied entry.
    pub fn position(&self) -> Option<Vec<u8>> {
        self.live().index.position.clone()
    }

    /// The last membership that was applied.
    pub fn membership(&self) -> Option<Vec<u8>> {
        self.live().index.membership.clone()
    }

    /// Index of the last applied entry; 0 before the first.
    pub fn applied_index(&self) -> u64 {
        self.newest.applied.load(Ordering::Acquire)
    }

    /// The truth's time.
    pub fn time(&self) -> LogicalTime {
        LogicalTime::from_unix_micros(self.newest.time_us.load(Ordering::Acquire))
    }

    /// The cluster's feature level.
    pub fn level(&self) -> u32 {
        self.newest.level.load(Ordering::Acquire)
    }

    /// BLAKE3 over every row: equal on replicas that have applied the same entries. Reads everything: for tests and audits.
    pub fn digest(&self) -> Result<[u8; 32], StoreError> {
        self.reading(|live| digest(live.kv.as_ref()))
    }

    /// How the tables keep up with what is applied. Does not wait for it: an instance that is about to be replaced answers too.
    pub fn pressure(&self) -> Pressure {
        let kv = Arc::clone(&self.kv.read().unwrap_or_else(PoisonError::into_inner));
        kv.pressure()
    }

    /// Whether applying would have to wait for the engine now.
    pub fn holds_writes(&self) -> bool {
        let kv = Arc::clone(&self.kv.read().unwrap_or_else(PoisonError::into_inner));
        kv.holds_writes()
    }

    /// Moves everything applied so far to the disk.
    pub fn flush(&self) -> Result<(), StoreError> {
        let kv = self.live().kv.clone();
        self.soundness.noted(kv.flush())
    }

    /// Puts a copy of the state into the folder `into`. Entries are applied, and rows read, meanwhile: the copy stands between
    /// two calls of apply, and says itself where ([`standing_of`]).
    pub(crate) fn checkpoint(&self, into: &Path) -> Result<(), StoreError> {
        // An install would take the tables away that are being copied.
        let _in_place = self.swapping.lock().unwrap_or_else(PoisonError::into_inner);
        let kv = self.live().kv.clone();
        self.soundness.noted(kv.flush())?;
        self.soundness.noted(kv.checkpoint(into))
    }

    /// Replaces the whole state by the checkpoint in `from`, which stands at `expected`.
    pub(crate) fn install(&self, from: &Path, expected: &Standing) -> Result<(), StoreError> {
        let number = self.live().number + 1;
        let folder = self.dir.join(folder_name(number));
        self.engine.clone_folder(from, &folder)?;
        let next = self.soundness.noted(Live::open(self.engine.as_ref(), &self.dir, number))?;
        let found = next.standing();
        if found != *expected {
            let cause = format!(
                "it stands at entry {} with the hash {:02x?}, its description says {} with {:02x?}",
                found.applied, found.chain, expected.applied, expected.chain
            );
            return self.soundness.noted(Err(StoreError::corrupt("the snapshot to be installed", cause)));
        }
        let _alone = self.swapping.lock().unwrap_or_else(PoisonError::into_inner);
        let mut live = self.live.write().unwrap_or_else(PoisonError::into_inner);
        fault_point!("snapshot.install.before", cause => {
            return Err(StoreError::Engine { doing: "installing a snapshot", path: folder, cause });
        });
        self.engine.replace_file(&self.dir.join(CURRENT), current_text(number).as_bytes())?;
        fault_point!("snapshot.install.after");
        let old = std::mem::replace(&mut *live, next);
        *self.kv.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&live.kv);
        self.newest.set(&live.index);
        drop(live);
        let folder = self.dir.join(folder_name(old.number));
        drop(old);
        self.engine.remove(&folder)
    }

    fn note(&self, error: &StoreError) {
        if error.is_of_the_disk() {
            self.soundness.fail(error);
        }
        self.soundness.doubt(error);
    }

    /// Reads rows for a view. What turns out to be corrupt is noted, and nothing is read any more: not served.
    pub(crate) fn reading<T>(&self, read: impl FnOnce(&Live) -> Result<T, StoreError>) -> Result<T, StoreError> {
        if self.soundness.cause().is_some() {
            return Err(StoreError::Broken);
        }
        self.soundness.noted(read(&self.live()))
    }

    /// What is known against this copy.
    pub(crate) fn soundness(&self) -> &Soundness {
        &self.soundness
    }

    /// Shared access for the views, to what is in memory.
    pub(crate) fn live(&self) -> RwLockReadGuard<'_, Live> {
        self.live.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where a state stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) applied: u64,
    pub(crate) position: Option<Vec<u8>>,
    pub(crate) membership: Option<Vec<u8>>,
    /// The chain hash there; absent below the feature level that brings it.
    pub(crate) chain: Option<[u8; 32]>,
}

impl Standing {
    fn of(index: &Index) -> Self {
        let Index { applied, position, membership, chain, .. } = index;
        Self { applied: *applied, position: position.clone(), membership: membership.clone(), chain: chain.hash }
    }
}

impl Live {
    fn open(engine: &dyn Engine, dir: &Path, number: u64) -> Result<Self, StoreError> {
        let kv = engine.open_state(&dir.join(folder_name(number)))?;
        let index = Index::load(&kv)?;
        Ok(Self { kv, index, number, freeing: Mutex::default(), broken: false })
    }

    fn apply(&mut self, items: &[Item]) -> Result<Vec<AppliedEntry>, StoreError> {
        let Self { kv, index, freeing, .. } = self;
        let mut tx = Tx::new(Overlay::new(kv.clone()), index);
        let mut done = Vec::with_capacity(items.len());
        for item in items {
            done.push(apply_item(&mut tx, item)?);
        }
        machine::finish(&mut tx);
        freeing.get_mut().unwrap_or_else(PoisonError::into_inner).add(tx.freed);
        kv.write(tx.over.into_batch())?;
        Ok(done)
    }

    fn standing(&self) -> Standing {
        Standing::of(&self.index)
    }
}

pub(crate) fn folder_name(number: u64) -> String {
    format!("{FOLDER}{number}")
}

/// The live folder is not there.
pub(crate) fn missing(dir: &Path, folder: &str) -> StoreError {
    StoreError::corrupt(format!("the state in {}", dir.display()), format!("{folder} is missing"))
}

/// There is a folder, and nothing says which one is live.
pub(crate) fn headless(dir: &Path, folder: &str) -> StoreError {
    let path = dir.join(CURRENT);
    StoreError::corrupt(format!("the file {}", path.display()), format!("it is missing, and {folder} is not"))
}

/// What CURRENT reads for folder `number`: its name, and a checksum of that, for a digit that is another one by now.
pub(crate) fn current_text(number: u64) -> String {
    let name = folder_name(number);
    format!("{name} {:08x}\n", crc32c::crc32c(name.as_bytes()))
}

/// Reads CURRENT; `None` if there is none.
pub(crate) fn current(engine: &dyn Engine, dir: &Path) -> Result<Option<u64>, StoreError> {
    let path = dir.join(CURRENT);
    if engine.file_len(&path)?.is_none() {
        return Ok(None);
    }
    let text = String::from_utf8_lossy(&engine.read_file(&path, 0, 64)?).into_owned();
    let name = text.split_once(' ').map_or("", |(name, _)| name);
    let number = name.strip_prefix(FOLDER).and_then(|digits| digits.parse().ok());
    let number = number.filter(|number| current_text(*number) == text);
    let wrong = || StoreError::corrupt(format!("the file {}", path.display()), format!("it reads {text:?}"));
    number.map(Some).ok_or_else(wrong)
}

/// Makes CURRENT, for a state that begins now. Without it there must be none: it is made before the first folder is.
fn begin(engine: &dyn Engine, dir: &Path) -> Result<u64, StoreError> {
    if let Some(name) = engine.list(dir)?.into_iter().find(|name| name.starts_with(FOLDER)) {
        return Err(headless(dir, &name));
    }
    engine.replace_file(&dir.join(CURRENT), current_text(FIRST).as_bytes())?;
    Ok(FIRST)
}

/// Where the state in `kv` stands.
pub(crate) fn standing_of(kv: &Arc<dyn Kv>) -> Result<Standing, StoreError> {
    Ok(Standing::of(&Index::load(kv)?))
}

/// Reads and decodes every row that the files of a state hold, which was opened for reading only: how many there are.
pub(crate) fn verify(kv: &dyn Kv) -> Result<u64, StoreError> {
    let mut rows = 0;
    for table in Table::OF_STATE {
        let mut wrong = None;
        kv.verify(table, &mut |key, row| match table::check(table, key, row) {
            Ok(()) => {
                rows += 1;
                ControlFlow::Continue(())
            }
            Err(error) => {
                wrong = Some(error);
                ControlFlow::Break(())
            }
        })?;
        wrong.map_or(Ok(()), Err)?;
    }
    Ok(rows)
}

/// BLAKE3 over every row of `kv`.
pub(crate) fn digest(kv: &dyn Kv) -> Result<[u8; 32], StoreError> {
    let mut hasher = blake3::Hasher::new();
    for table in Table::OF_STATE {
        hasher.update(table.name().as_bytes());
        kv.visit(table, &Span::all(), Direction::Forward, &mut |key, value| {
            for field in [key, value] {
                hasher.update(&(field.len() as u64).to_be_bytes());
                hasher.update(field);
            }
            ControlFlow::Continue(())
        })?;
    }
    Ok(*hasher.finalize().as_bytes())
}

fn apply_item(tx: &mut Tx<'_>, item: &Item) -> Result<AppliedEntry, StoreError> {
    let last = tx.index.applied;
    if tx.index.position.is_some() && item.index != last + 1 {
        return Err(StoreError::Order { last, found: item.index });
    }
    let (applied, effects) = match &item.payload {
        Payload::Blank => (Ok(Reply::Done), Vec::new()),
        Payload::Membership(membership) => {
            tx.index.membership = Some(membership.clone());
            (Ok(Reply::Done), Vec::new())
        }
        Payload::Proposal(proposal) => {
            let applied = machine::apply(tx, item.index, proposal)?;
            (applied, std::mem::take(&mut tx.effects))
        }
    };
    if tx.index.level >= LEVEL_CHAINED {
        let is_tick = matches!(&item.payload, Payload::Proposal(proposal) if proposal.command == Command::Tick);
        tx.index.chain.advance(item.index, &mut tx.over.trace, is_tick);
    } else {
        tx.over.trace.forget();
    }
    tx.index.applied = item.index;
    tx.index.position = Some(item.position.clone());
    Ok(AppliedEntry { index: item.index, revision: Revision(item.index), time: tx.index.time, applied, effects })
}
