//! An engine in memory, for the simulation and for the tests of every crate above.
//!
//! One [`MemoryEngine`] is one machine's disk: clones share it, and it outlives whatever was opened on it. It keeps what is
//! visible and what is durable apart, so that [`MemoryEngine::crash`] loses exactly what a power cut may lose: writes of a log
//! instance since its last sync, of a state instance since its last flush, bytes of files that were appended or overwritten since their last sync.
//! Renames, removals and replaced files are durable at once, as they are on a real disk with the fsyncs that
//! [`super::disk`] performs.
//!
//! It has no threads and no order but that of the calls: the same calls give the same bytes.

use super::{Batch, Direction, Engine, FixedFile, Kind, Kv, Op, Span, Table, Visit};
use crate::error::StoreError;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Rows that are copied out at a time while visiting, so that the disk is not locked while the visitor runs.
const VISIT_ROWS: usize = 64;
/// The one file of a checkpoint.
const DUMP: &str = "tables";

/// One machine's disk. Cloning it gives another handle on the same disk.
#[derive(Clone, Default)]
pub struct MemoryEngine {
    disk: Arc<Mutex<Disk>>,
}

type Rows = BTreeMap<(Table, Vec<u8>), Vec<u8>>;

#[derive(Default)]
struct Disk {
    /// Rises with every crash: handles of an earlier one are dead.
    boot: u64,
    instances: BTreeMap<PathBuf, Instance>,
    files: BTreeMap<PathBuf, File>,
    folders: BTreeSet<PathBuf>,
}

#[derive(Default)]
struct Instance {
    visible: Rows,
    durable: Rows,
    /// Keys that may differ between the two.
    dirty: BTreeSet<(Table, Vec<u8>)>,
    open: bool,
}

#[derive(Clone, Default)]
struct File {
    bytes: Vec<u8>,
    durable: Option<Vec<u8>>,
}

struct MemoryKv {
    disk: Arc<Mutex<Disk>>,
    path: PathBuf,
    boot: u64,
    kind: Kind,
}

impl MemoryEngine {
    /// A machine with an empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// Cuts the power: what was not durable is gone, everything that was open is closed, and handles from before fail.
    pub fn crash(&self) {
        let mut disk = lock(&self.disk);
        disk.boot += 1;
        for instance in disk.instances.values_mut() {
            instance.visible = instance.durable.clone();
            instance.dirty.clear();
            instance.open = false;
        }
        disk.files.retain(|_, file| match &file.durable {
            Some(bytes) => {
                file.bytes = bytes.clone();
                true
            }
            None => false,
        });
    }

    /// A second disk with what is durable on this one.
    pub fn copy(&self) -> Self {
        let disk = lock(&self.disk);
        let instance = |from: &Instance| Instance {
            visible: from.durable.clone(),
            durable: from.durable.clone(),
            ..Instance::default()
        };
        let file = |from: &File| from.durable.clone().map(|bytes| File { durable: Some(bytes.clone()), bytes });
        let files = disk.files.iter().filter_map(|(path, from)| Some((path.clone(), file(from)?)));
        let copy = Disk {
            boot: 0,
            instances: disk.instances.iter().map(|(path, from)| (path.clone(), instance(from))).collect(),
            files: files.collect(),
            folders: disk.folders.clone(),
        };
        Self { disk: Arc::new(Mutex::new(copy)) }
    }

    /// Puts everything at and below `path` back to what `older` holds there: a copy that was restored, or a disk that has
    /// lost its newest writes. Nothing may be open there.
    pub fn put_back(&self, path: &Path, older: &Self) {
        let Disk { instances, files, folders, .. } = std::mem::take(&mut *lock(&older.copy().disk));
        let mut disk = lock(&self.disk);
        disk.instances.retain(|found, _| !found.starts_with(path));
        disk.files.retain(|found, _| !found.starts_with(path));
        disk.instances.extend(instances.into_iter().filter(|(found, _)| found.starts_with(path)));
        disk.files.extend(files.into_iter().filter(|(found, _)| found.starts_with(path)));
        disk.folders.extend(folders.into_iter().filter(|found| found.starts_with(path)));
    }

    fn open(&self, dir: &Path, kind: Kind) -> Result<Arc<dyn Kv>, StoreError> {
        let mut disk = lock(&self.disk);
        let boot = disk.boot;
        if !disk.instances.contains_key(dir) {
            let visible = match disk.files.get(&dir.join(DUMP)) {
                Some(dump) => undump(dir, &dump.bytes)?,
                None => Rows::new(),
            };
            disk.instances.insert(dir.into(), Instance { durable: visible.clone(), visible, ..Instance::default() });
        }
        let Some(instance) = disk.instances.get_mut(dir) else { return Err(absent("opening", dir)) };
        if instance.open {
            return Err(StoreError::Locked { path: dir.into() });
        }
        instance.open = true;
        Ok(Arc::new(MemoryKv { disk: self.disk.clone(), path: dir.into(), boot, kind }))
    }
}

fn lock(disk: &Mutex<Disk>) -> MutexGuard<'_, Disk> {
    disk.lock().unwrap_or_else(PoisonError::into_inner)
}

fn absent(doing: &'static str, path: &Path) -> StoreError {
    StoreError::file(doing, path, &io::Error::from(io::ErrorKind::NotFound))
}

fn crashed(doing: &'static str, path: &Path) -> StoreError {
    let cause = "the machine has crashed since this was opened".into();
    StoreError::Engine { doing, path: path.into(), cause }
}

/// Rows as `table name, key, value`, each with its length before it.
fn dump(rows: &Rows) -> Vec<u8> {
    let mut out = Vec::new();
    for ((table, key), value) in rows {
        for field in [table.name().as_bytes(), key, value] {
            out.extend_from_slice(&(field.len() as u64).to_be_bytes());
            out.extend_from_slice(field);
        }
    }
    out
}

fn undump(dir: &Path, mut bytes: &[u8]) -> Result<Rows, StoreError> {
    let torn = || StoreError::corrupt(format!("the checkpoint in {}", dir.display()), "it ends in the middle of a row");
    let mut field = || -> Result<Option<Vec<u8>>, StoreError> {
        let Some((len, rest)) = bytes.split_first_chunk::<8>() else {
            return if bytes.is_empty() { Ok(None) } else { Err(torn()) };
        };
        let len = usize::try_from(u64::from_be_bytes(*len)).map_err(|_| torn())?;
        let (value, rest) = rest.split_at_checked(len).ok_or_else(torn)?;
        bytes = rest;
        Ok(Some(value.to_vec()))
    };
    let mut rows = Rows::new();
    while let Some(name) = field()? {
        let (key, value) = (field()?.ok_or_else(torn)?, field()?.ok_or_else(torn)?);
        let table = Table::OF_STATE.iter().find(|table| table.name().as_bytes() == name).ok_or_else(torn)?;
        rows.insert((*table, key), value);
    }
    Ok(rows)
}

impl Instance {
    fn apply(&mut self, op: Op) {
        match op {
            Op::Put(table, key, value) => {
                self.dirty.insert((table, key.clone()));
                self.visible.insert((table, key), value);
            }
            Op::Delete(table, key) => {
                self.visible.remove(&(table, key.clone()));
                self.dirty.insert((table, key));
            }
            Op::DeleteRange(table, start, end) => {
                if start >= end {
                    return;
                }
                let gone: Vec<_> =
                    self.visible.range((table, start)..(table, end)).map(|(key, _)| key.clone()).collect();
                for key in gone {
                    self.visible.remove(&key);
                    self.dirty.insert(key);
                }
            }
        }
    }

    fn bytes(&self) -> u64 {
        self.durable.iter().map(|((_, key), value)| (key.len() + value.len()) as u64).sum()
    }

    fn persist(&mut self) {
        for key in std::mem::take(&mut self.dirty) {
            match self.visible.get(&key) {
                Some(value) => self.durable.insert(key, value.clone()),
                None => self.durable.remove(&key),
            };
        }
    }

    /// The next rows of `span` behind `after`.
    fn page(&self, table: Table, span: &Span, direction: Direction, after: Option<&[u8]>) -> Vec<super::Row> {
        let mut low = Bound::Included((table, span.start.clone()));
        let mut high = match &span.end {
            Some(end) => Bound::Excluded((table, end.clone())),
            None => Bound::Unbounded,
        };
        match (direction, after) {
            (Direction::Forward, Some(key)) => low = Bound::Excluded((table, key.to_vec())),
            (Direction::Backward, Some(key)) => high = Bound::Excluded((table, key.to_vec())),
            (Direction::Forward | Direction::Backward, None) => {}
        }
        if let (Bound::Included(start) | Bound::Excluded(start), Bound::Excluded(end)) = (&low, &high)
            && start >= end
        {
            return Vec::new();
        }
        let rows = self.visible.range((low, high));
        let copy = |((_, key), value): (&(Table, Vec<u8>), &Vec<u8>)| (key.clone(), value.clone());
        match direction {
            Direction::Forward => {
                rows.take_while(|((found, _), _)| *found == table).take(VISIT_ROWS).map(copy).collect()
            }
            // Without an upper bound there are rows of later tables behind ours.
            Direction::Backward => rows
                .rev()
                .skip_while(|((found, _), _)| *found != table)
                .take_while(|((found, _), _)| *found == table)
                .take(VISIT_ROWS)
                .map(copy)
                .collect(),
        }
    }
}

impl MemoryKv {
    /// Runs `work` on the instance, unless the machine has crashed or the folder is gone since it was opened.
    fn with<T>(&self, doing: &'static str, work: impl FnOnce(&mut Instance) -> T) -> Result<T, StoreError> {
        let mut disk = lock(&self.disk);
        if disk.boot != self.boot {
            return Err(crashed(doing, &self.path));
        }
        disk.instances.get_mut(&self.path).map(work).ok_or_else(|| absent(doing, &self.path))
    }
}

/// A file that is overwritten in place.
struct MemoryFile {
    disk: Arc<Mutex<Disk>>,
    path: PathBuf,
    boot: u64,
}

impl MemoryFile {
    fn with<T>(&self, doing: &'static str, work: impl FnOnce(&mut File) -> T) -> Result<T, StoreError> {
        let mut disk = lock(&self.disk);
        if disk.boot != self.boot {
            return Err(crashed(doing, &self.path));
        }
        disk.files.get_mut(&self.path).map(work).ok_or_else(|| absent(doing, &self.path))
    }
}

impl FixedFile for MemoryFile {
    fn read(&self) -> Result<Vec<u8>, StoreError> {
        self.with("reading a file", |file| file.bytes.clone())
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), StoreError> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let fits = self.with("overwriting a file", |file| {
            let place = file.bytes.get_mut(start..start.saturating_add(bytes.len()))?;
            place.copy_from_slice(bytes);
            Some(())
        })?;
        fits.ok_or_else(|| StoreError::file("overwriting a file", &self.path, &io::Error::other("beyond its end")))
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.with("syncing", |file| file.durable = Some(file.bytes.clone()))
    }
}

impl Drop for MemoryKv {
    fn drop(&mut self) {
        let mut disk = lock(&self.disk);
        if disk.boot == self.boot
            && let Some(instance) = disk.instances.get_mut(&self.path)
        {
            instance.open = false;
        }
    }
}

/// What an instance held when it was opened for reading.
struct Frozen {
    instance: Instance,
    path: PathBuf,
}

impl Frozen {
    fn refuse<T>(&self, doing: &'static str) -> Result<T, StoreError> {
        Err(StoreError::file(doing, &self.path, &io::Error::other("it is open for reading only")))
    }
}

impl Kv for Frozen {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.instance.visible.get(&(table, key.to_vec())).cloned())
    }

    fn visit(&self, table: Table, span: &Span, direction: Direction, visit: Visit<'_>) -> Result<(), StoreError> {
        visit_pages(|after| Ok(self.instance.page(table, span, direction, after)), visit)
    }

    fn write(&self, _batch: Batch) -> Result<(), StoreError> {
        self.refuse("writing")
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.refuse("syncing")
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.refuse("flushing")
    }

    fn compact(&self, _table: Table, _span: &Span) -> Result<(), StoreError> {
        self.refuse("compacting")
    }

    fn disk_bytes(&self) -> Result<u64, StoreError> {
        Ok(self.instance.bytes())
    }

    fn checkpoint(&self, _into: &Path) -> Result<(), StoreError> {
        self.refuse("making a checkpoint")
    }
}

/// Visits what `page` gives for the key behind which it begins.
fn visit_pages(
    mut page: impl FnMut(Option<&[u8]>) -> Result<Vec<super::Row>, StoreError>,
    visit: Visit<'_>,
) -> Result<(), StoreError> {
    let mut after: Option<Vec<u8>> = None;
    loop {
        let rows = page(after.as_deref())?;
        for (key, value) in &rows {
            if visit(key, value).is_break() {
                return Ok(());
            }
        }
        if rows.len() < VISIT_ROWS {
            return Ok(());
        }
        after = rows.into_iter().next_back().map(|(key, _)| key);
    }
}

impl Kv for MemoryKv {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.with("reading", |instance| instance.visible.get(&(table, key.to_vec())).cloned())
    }

    fn visit(&self, table: Table, span: &Span, direction: Direction, visit: Visit<'_>) -> Result<(), StoreError> {
        let page = |after: Option<&[u8]>| self.with("reading", |instance| instance.page(table, span, direction, after));
        visit_pages(page, visit)
    }

    fn write(&self, batch: Batch) -> Result<(), StoreError> {
        self.with("writing", |instance| batch.ops.into_iter().for_each(|op| instance.apply(op)))
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.with("syncing", |instance| {
            if self.kind == Kind::Log {
                instance.persist();
            }
        })
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.with("flushing", Instance::persist)
    }

    fn compact(&self, _table: Table, _span: &Span) -> Result<(), StoreError> {
        // What was removed takes nothing here.
        self.with("compacting", |_| ())
    }

    fn disk_bytes(&self) -> Result<u64, StoreError> {
        self.with("asking for its size", |instance| instance.bytes())
    }

    fn checkpoint(&self, into: &Path) -> Result<(), StoreError> {
        let bytes = self.with("making a checkpoint", |instance| {
            instance.persist();
            dump(&instance.visible)
        })?;
        lock(&self.disk).files.insert(into.join(DUMP), File { durable: Some(bytes.clone()), bytes });
        Ok(())
    }
}

impl Engine for MemoryEngine {
    fn open_log(&self, dir: &Path) -> Result<Arc<dyn Kv>, StoreError> {
        self.open(dir, Kind::Log)
    }

    fn open_state(&self, dir: &Path) -> Result<Arc<dyn Kv>, StoreError> {
        self.open(dir, Kind::State)
    }

    fn has_instance(&self, dir: &Path) -> Result<bool, StoreError> {
        Ok(lock(&self.disk).instances.contains_key(dir))
    }

    fn hold(&self, dir: &Path) -> Result<Box<dyn Send>, StoreError> {
        match lock(&self.disk).instances.get(dir) {
            Some(instance) if instance.open => Err(StoreError::Locked { path: dir.into() }),
            Some(_) | None => Ok(Box::new(())),
        }
    }

    fn open_read_only(&self, dir: &Path, _kind: Kind) -> Result<Arc<dyn Kv>, StoreError> {
        let disk = lock(&self.disk);
        let visible = match (disk.instances.get(dir), disk.files.get(&dir.join(DUMP))) {
            (Some(instance), _) => instance.visible.clone(),
            (None, Some(dump)) => undump(dir, &dump.bytes)?,
            (None, None) => return Err(absent("opening", dir)),
        };
        Ok(Arc::new(Frozen { instance: Instance { visible, ..Instance::default() }, path: dir.into() }))
    }

    fn make_folder(&self, dir: &Path) -> Result<(), StoreError> {
        lock(&self.disk).folders.insert(dir.into());
        Ok(())
    }

    fn list(&self, dir: &Path) -> Result<Vec<String>, StoreError> {
        let disk = lock(&self.disk);
        let paths = disk.files.keys().chain(disk.instances.keys()).chain(&disk.folders);
        let below = paths.filter_map(|path| path.strip_prefix(dir).ok()?.components().next());
        let names: BTreeSet<String> = below.map(|name| name.as_os_str().to_string_lossy().into_owned()).collect();
        Ok(names.into_iter().collect())
    }

    fn file_len(&self, path: &Path) -> Result<Option<u64>, StoreError> {
        Ok(lock(&self.disk).files.get(path).map(|file| file.bytes.len() as u64))
    }

    fn read_file(&self, path: &Path, offset: u64, len: usize) -> Result<Vec<u8>, StoreError> {
        let disk = lock(&self.disk);
        let file = disk.files.get(path).ok_or_else(|| absent("reading a file", path))?;
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(file.bytes.len());
        let end = start.saturating_add(len).min(file.bytes.len());
        Ok(file.bytes[start..end].to_vec())
    }

    fn append_file(&self, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        lock(&self.disk).files.entry(path.into()).or_default().bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn sync_file(&self, path: &Path) -> Result<(), StoreError> {
        let mut disk = lock(&self.disk);
        let file = disk.files.get_mut(path).ok_or_else(|| absent("syncing", path))?;
        file.durable = Some(file.bytes.clone());
        Ok(())
    }

    fn replace_file(&self, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        let file = File { bytes: bytes.to_vec(), durable: Some(bytes.to_vec()) };
        lock(&self.disk).files.insert(path.into(), file);
        Ok(())
    }

    fn open_fixed(&self, path: &Path) -> Result<Option<Box<dyn FixedFile>>, StoreError> {
        let disk = lock(&self.disk);
        let open = || MemoryFile { disk: self.disk.clone(), path: path.into(), boot: disk.boot };
        Ok(disk.files.contains_key(path).then(|| Box::new(open()) as Box<dyn FixedFile>))
    }

    fn clone_folder(&self, from: &Path, to: &Path) -> Result<(), StoreError> {
        self.remove(to)?;
        let mut disk = lock(&self.disk);
        let below = |path: &Path| path.strip_prefix(from).map(|rest| to.join(rest)).ok();
        let copies: Vec<_> =
            disk.files.iter().filter_map(|(path, file)| Some((below(path)?, file.bytes.clone()))).collect();
        for (path, bytes) in copies {
            disk.files.insert(path, File { durable: Some(bytes.clone()), bytes });
        }
        Ok(())
    }

    fn clone_file(&self, from: &Path, to: &Path) -> Result<(), StoreError> {
        let mut disk = lock(&self.disk);
        let bytes = disk.files.get(from).map(|file| file.bytes.clone()).ok_or_else(|| absent("copying", from))?;
        disk.files.insert(to.into(), File { durable: None, bytes });
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), StoreError> {
        let mut disk = lock(&self.disk);
        let moved: Vec<PathBuf> = disk.files.keys().filter(|path| path.starts_with(from)).cloned().collect();
        for path in moved {
            if let (Ok(rest), Some(file)) = (path.strip_prefix(from), disk.files.remove(&path)) {
                let renamed = if rest.as_os_str().is_empty() { to.to_path_buf() } else { to.join(rest) };
                disk.files.insert(renamed, file);
            }
        }
        if disk.folders.remove(from) {
            disk.folders.insert(to.into());
        }
        Ok(())
    }

    fn remove(&self, path: &Path) -> Result<(), StoreError> {
        let mut disk = lock(&self.disk);
        disk.files.retain(|found, _| !found.starts_with(path));
        disk.instances.retain(|found, _| !found.starts_with(path));
        disk.folders.retain(|found| !found.starts_with(path));
        Ok(())
    }
}
