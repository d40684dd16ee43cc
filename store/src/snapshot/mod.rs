//! Snapshots: checkpoints of the state with a description, streamed file by file, installed by an atomic switch.
//!
//! ```text
//!   <dir>/making/              a checkpoint being made                    removed at open
//!   <dir>/<id>/ <id>.manifest  a whole, durable snapshot                  the newest two are kept
//!   <dir>/recv-<id>/ recv-<id>.manifest   one on its way in               kept at open: receiving resumes there
//! ```
//!
//! **Invariants.** A manifest without `recv-` exists only if every file it names was whole and durable before. The id follows
//! from what is inside (position and digests), so that equal ids mean equal bytes, on any master. Names that come from
//! another master are checked before they are used as names of files.
//!
//! **It refuses** a manifest with more files, longer names or other characters than a checkpoint of ours has.

mod manifest;
mod receive;

pub use manifest::{FileEntry, Manifest};
pub use receive::{MissingPiece, Receiving};

use crate::archive::Export;
use crate::error::StoreError;
use crate::kv::{Engine, Kind};
use crate::sound::Soundness;
use crate::state::{self, Standing, State};
use saltern_wire::fault_point;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Where a checkpoint is made before it has its id.
const MAKING: &str = "making";
/// Where the engine makes a checkpoint before it renames it to [`MAKING`]. It is the engine's while one is being made.
const MAKING_UNDER_WAY: &str = "making.tmp";
/// Beside the folder of snapshots: what backups are read from. Removed when the data folder is opened.
const EXPORTS: &str = "exports";
/// Snapshots kept: the current one, and the one before it, because a slow receiver may still be reading that.
const KEPT: usize = 2;
/// What names of unfinished receptions begin with.
const RECEIVING: &str = "recv-";
/// What names of manifests end with.
const MANIFEST: &str = ".manifest";
/// Longest manifest, in bytes: 4096 files at some 100 bytes each.
const MANIFEST_BYTES_MAX: usize = 1024 * 1024;
/// Piece in which files are read to be digested, in bytes.
const READ_BYTES: usize = 1024 * 1024;

/// A whole, durable snapshot in its folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// What it is.
    pub manifest: Manifest,
}

/// The folder of snapshots. Clones share it.
#[derive(Clone)]
pub struct Snapshots {
    shared: Arc<Shared>,
}

struct Shared {
    engine: Arc<dyn Engine>,
    dir: PathBuf,
    /// Newest first, at most [`KEPT`] and those that are held.
    kept: Mutex<Vec<Snapshot>>,
    /// Held while a snapshot is made: there is one folder for it.
    making: Mutex<()>,
    /// Held while a piece is added to a file.
    pub(super) writing: Mutex<()>,
    /// Snapshots that somebody reads, and how many do.
    held: Mutex<BTreeMap<String, usize>>,
    /// Exports so far: each has a folder of its own.
    exports: AtomicU64,
    soundness: Soundness,
}

/// Keeps a snapshot that somebody reads.
pub struct Held {
    shared: Arc<Shared>,
    id: String,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut held = self.shared.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(readers) = held.get_mut(&self.id) {
            *readers -= 1;
            if *readers == 0 {
                held.remove(&self.id);
            }
        }
    }
}

impl Snapshots {
    /// Opens (or makes) the folder, finds the newest whole snapshots in it and removes everything that is neither one of
    /// them nor an unfinished reception. The newest one must be whole: the log was purged because of it. What turns out to be
    /// corrupt, now or later, is noted in `soundness`.
    pub fn open(engine: Arc<dyn Engine>, dir: &Path, soundness: Soundness) -> Result<Self, StoreError> {
        let opened = Self::open_whole(engine, dir, soundness.clone());
        soundness.noted(opened)
    }

    fn open_whole(engine: Arc<dyn Engine>, dir: &Path, soundness: Soundness) -> Result<Self, StoreError> {
        engine.make_folder(dir)?;
        let mut found = Vec::new();
        for name in engine.list(dir)? {
            let Some(id) = id_of(&name) else { continue };
            found.push(Snapshot { manifest: load(engine.as_ref(), dir, id, &name)? });
        }
        found.sort_by_key(|snapshot| std::cmp::Reverse(snapshot.manifest.applied));
        let shared = Shared {
            engine,
            dir: dir.into(),
            kept: Mutex::default(),
            making: Mutex::default(),
            writing: Mutex::default(),
            held: Mutex::default(),
            exports: AtomicU64::new(0),
            soundness,
        };
        let snapshots = Self { shared: Arc::new(shared) };
        snapshots.engine().remove(&dir.with_file_name(EXPORTS))?;
        for (age, snapshot) in found.into_iter().take(KEPT).enumerate() {
            match snapshots.check_lengths(&snapshot.manifest) {
                Ok(()) => snapshots.lock().push(snapshot),
                Err(error) if age == 0 => return Err(error),
                Err(_) => {}
            }
        }
        for left in [MAKING, MAKING_UNDER_WAY] {
            snapshots.engine().remove(&snapshots.path(left))?;
        }
        snapshots.tidy(None)?;
        Ok(snapshots)
    }

    /// Makes a snapshot of `state` as it is now; it becomes the current one. Reads and decodes every row of the checkpoint
    /// before it digests the files, so that a digest never vouches for a bit that has flipped on the disk: seconds for a
    /// large state. If the current one stands at the same entry already, that is the answer.
    pub fn create(&self, state: &State) -> Result<Snapshot, StoreError> {
        let _alone = self.shared.making.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(current) = self.current()
            && current.manifest.position == state.position()
        {
            return Ok(current);
        }
        let making = self.path(MAKING);
        self.engine().remove(&making)?;
        state.checkpoint(&making)?;
        let verified = self.engine().open_read_only(&making, Kind::State).and_then(|kv| {
            state::verify(kv.as_ref())?;
            state::standing_of(&kv)
        });
        let standing = self.shared.soundness.noted(verified)?;
        let mut files = Vec::new();
        for name in self.engine().list(&making)? {
            let (len, digest) = digest(self.engine(), &making.join(&name))?;
            files.push(FileEntry { name, len, digest });
        }
        let manifest = Manifest::new(standing, files);
        self.adopt(&making, manifest)
    }

    /// The state as it is now, to be read row by row while entries are applied.
    pub fn export(&self, state: &State) -> Result<Export, StoreError> {
        let number = self.shared.exports.fetch_add(1, Ordering::Relaxed);
        let folder = self.shared.dir.with_file_name(EXPORTS).join(number.to_string());
        Export::begin(Arc::clone(&self.shared.engine), state, &folder)
    }

    /// The newest whole snapshot.
    pub fn current(&self) -> Option<Snapshot> {
        self.lock().first().cloned()
    }

    /// What the snapshots that are kept have together, in bytes. Files that two of them, or one and the state, share count each
    /// time.
    pub fn bytes(&self) -> u64 {
        self.lock().iter().map(|kept| kept.manifest.bytes()).sum()
    }

    /// Keeps the snapshot `id`, if it is still there, however many newer ones are made, until what this returns is dropped.
    pub fn hold(&self, id: &str) -> Held {
        *self.held().entry(id.to_owned()).or_default() += 1;
        Held { shared: Arc::clone(&self.shared), id: id.to_owned() }
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<String, usize>> {
        self.shared.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Up to `len` bytes of a file of snapshot `id` from `offset` on; fewer only at its end. An error if that snapshot is
    /// gone by now: the receiver begins with the current one.
    pub fn read_chunk(&self, id: &str, file: &str, offset: u64, len: usize) -> Result<Vec<u8>, StoreError> {
        let kept = self.lock().iter().find(|kept| kept.manifest.id == id).cloned();
        let refuse = |cause: String| StoreError::Snapshot { id: id.into(), cause };
        let kept = kept.ok_or_else(|| refuse("it is gone, a newer one took its place".into()))?;
        let entry = kept.manifest.files.iter().find(|entry| entry.name == file);
        let entry = entry.ok_or_else(|| refuse(format!("it has no file {file:?}")))?;
        if offset == 0 {
            // Once per file and receiver: what has gone bad since it was made must not travel. The receiver would refuse it,
            // and ask again.
            let checked = check_file(self.engine(), &self.path(id), id, entry);
            self.shared.soundness.noted(checked)?;
        }
        self.engine().read_file(&self.path(id).join(file), offset, len)
    }

    /// Begins to receive the snapshot that `manifest` describes, or goes on where an earlier reception of the same one
    /// stopped. Receptions of other snapshots are given up.
    pub fn receive(&self, manifest: Manifest) -> Result<Receiving, StoreError> {
        Receiving::begin(self.clone(), manifest)
    }

    /// Replaces the whole state by `snapshot`, which must be the current one. A crash at any point leaves the old state or
    /// the new one. Nothing may be applied meanwhile.
    pub fn install(&self, state: &State, snapshot: &Snapshot) -> Result<(), StoreError> {
        let Manifest { id, applied, position, membership, chain, .. } = &snapshot.manifest;
        if self.current().as_ref() != Some(snapshot) {
            return Err(StoreError::Snapshot { id: id.clone(), cause: "it is not the current one any more".into() });
        }
        let (position, membership) = (position.clone(), membership.clone());
        let standing = Standing { applied: *applied, position, membership, chain: *chain };
        state.install(&self.path(id), &standing)
    }

    /// Gives a finished folder its name and its manifest, makes it the current snapshot and removes older ones.
    fn adopt(&self, folder: &Path, manifest: Manifest) -> Result<Snapshot, StoreError> {
        let home = self.path(&manifest.id);
        self.engine().remove(&home)?;
        fault_point!("snapshot.rename.before", cause => {
            return Err(StoreError::Engine { doing: "naming a snapshot", path: home, cause });
        });
        self.engine().rename(folder, &home)?;
        fault_point!("snapshot.rename.after");
        let bytes = manifest.encode();
        self.engine().replace_file(&self.path(&format!("{}{MANIFEST}", manifest.id)), &bytes)?;
        let snapshot = Snapshot { manifest };
        let mut kept = self.lock();
        kept.retain(|older| older.manifest.id != snapshot.manifest.id);
        kept.insert(0, snapshot.clone());
        let mut age = 0;
        kept.retain(|snapshot| {
            age += 1;
            age <= KEPT || self.held().contains_key(&snapshot.manifest.id)
        });
        drop(kept);
        self.tidy(None)?;
        Ok(snapshot)
    }

    /// Removes everything but the snapshots that are kept, the one being made and unfinished receptions; of those only `receiving`,
    /// if it is given.
    fn tidy(&self, receiving: Option<&str>) -> Result<(), StoreError> {
        let kept: Vec<String> = self.lock().iter().map(|kept| kept.manifest.id.clone()).collect();
        for name in self.engine().list(&self.shared.dir)? {
            let id = name.strip_suffix(MANIFEST).unwrap_or(&name);
            let keep = match id.strip_prefix(RECEIVING) {
                Some(id) => receiving.is_none_or(|receiving| receiving == id),
                None => [MAKING, MAKING_UNDER_WAY].contains(&name.as_str()) || kept.iter().any(|kept| kept == id),
            };
            if !keep {
                self.engine().remove(&self.path(&name))?;
            }
        }
        Ok(())
    }

    /// Every file must be there with its length; its content was digested before it was adopted, and the engine checks its
    /// own blocks when it reads them.
    fn check_lengths(&self, manifest: &Manifest) -> Result<(), StoreError> {
        for entry in &manifest.files {
            let len = self.engine().file_len(&self.path(&manifest.id).join(&entry.name))?;
            if len != Some(entry.len) {
                let what = format!("the file {} of the snapshot {}", entry.name, manifest.id);
                return Err(StoreError::corrupt(what, format!("it should have {} bytes, it has {len:?}", entry.len)));
            }
        }
        Ok(())
    }

    fn engine(&self) -> &dyn Engine {
        self.shared.engine.as_ref()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.shared.dir.join(name)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Snapshot>> {
        self.shared.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The id of the snapshot whose manifest has this name; `None` for any other name.
pub(crate) fn id_of(name: &str) -> Option<&str> {
    name.strip_suffix(MANIFEST).filter(|id| !id.starts_with(RECEIVING))
}

/// Reads the manifest `name` of the snapshot `id`.
fn load(engine: &dyn Engine, dir: &Path, id: &str, name: &str) -> Result<Manifest, StoreError> {
    let manifest = manifest::load(engine, &dir.join(name))?;
    if manifest.id != id {
        let cause = format!("it says it is {}", manifest.id);
        return Err(StoreError::corrupt(format!("the snapshot {id}"), cause));
    }
    Ok(manifest)
}

/// Reads all of a snapshot and changes nothing: its manifest, if every file is what it was when it was made.
pub(crate) fn verify(engine: &dyn Engine, dir: &Path, id: &str, name: &str) -> Result<Manifest, StoreError> {
    let manifest = load(engine, dir, id, name)?;
    manifest.files.iter().try_for_each(|entry| check_file(engine, &dir.join(id), id, entry))?;
    Ok(manifest)
}

/// One file of a snapshot in `folder` must be what it was when the snapshot was made. Reads all of it.
fn check_file(engine: &dyn Engine, folder: &Path, id: &str, entry: &FileEntry) -> Result<(), StoreError> {
    let path = folder.join(&entry.name);
    let corrupt = |cause: &str| StoreError::corrupt(format!("the file {} of the snapshot {id}", entry.name), cause);
    if engine.file_len(&path)?.is_none() {
        return Err(corrupt("it is missing"));
    }
    if digest(engine, &path)? != (entry.len, entry.digest) {
        return Err(corrupt("it does not fit its digest"));
    }
    Ok(())
}

/// Length and BLAKE3 of a file.
fn digest(engine: &dyn Engine, path: &Path) -> Result<(u64, [u8; 32]), StoreError> {
    let mut hasher = blake3::Hasher::new();
    let mut offset = 0;
    loop {
        let bytes = engine.read_file(path, offset, READ_BYTES)?;
        if bytes.is_empty() {
            return Ok((offset, *hasher.finalize().as_bytes()));
        }
        hasher.update(&bytes);
        offset += bytes.len() as u64;
    }
}
