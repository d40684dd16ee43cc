//! The disk of many minions in one process: their small files in one log, synced for all who wait at one time.
//!
//! ```text
//!   record = magic "SP" · length u32 · first 8 bytes of BLAKE3(body) · body
//!   body   = kind u8 (1 put, 2 append, 3 remove) · length of the path u16 · path · bytes
//! ```
//!
//! **Invariants.** A change is reported as done after the log that holds it was synced. Whoever waits while somebody else
//! syncs is in the next sync, so N minions that write at one time pay for two syncs and not for N. What a crash tore at the
//! end was never reported and is cut off; damage anywhere else is an error, because a swarm's folder holds nothing that
//! cannot be made anew. After a failed write nobody knows what is in the file: the whole is written anew before anything else.
//!
//! **It refuses** large files: everything stands in memory as well.

use rustix::fs::{FlockOperation, flock};
use saltern_wire::io::Disk;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind, Read, Result, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

/// The log is written anew when it is so many times as long as what it holds, and longer than [`LOG_BYTES_SPARED`].
const LOG_TIMES_MAX: u64 = 4;

/// A log below this is never worth writing anew.
const LOG_BYTES_SPARED: u64 = 16 * 1024 * 1024;

/// Contents from this length on are kept once if the file that was written before has the same: all minions keep the same
/// directory of masters.
const SHARED_BYTES_MIN: usize = 512;

const MAGIC: [u8; 2] = *b"SP";
const HEADER_BYTES: usize = 2 + 4 + 8;
const PUT: u8 = 1;
const APPEND: u8 = 2;
const REMOVE: u8 = 3;

/// What a file holds.
#[derive(Debug, Clone)]
enum Contents {
    /// Put as a whole; perhaps by several.
    Shared(Arc<[u8]>),
    /// Appended to.
    Own(Vec<u8>),
}

impl Contents {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Shared(bytes) => bytes,
            Self::Own(bytes) => bytes,
        }
    }
}

/// What became of one sync, for all who waited for it.
type Outcome = Arc<OnceLock<std::result::Result<(), String>>>;

struct State {
    files: BTreeMap<PathBuf, Contents>,
    /// Bytes of paths and contents.
    live_bytes: u64,
    last_shared: Option<Arc<[u8]>>,
    log: Option<File>,
    log_bytes: u64,
    /// Records that are in memory and in no sync yet.
    waiting: Vec<u8>,
    /// Of the sync that will take them.
    next: Outcome,
    syncing: bool,
    suspect: bool,
    syncs: u64,
}

/// The disk. Paths are names inside of it.
pub struct Pool {
    path: PathBuf,
    state: Mutex<State>,
    synced: Condvar,
}

/// What one sync writes.
enum Batch {
    More(Vec<u8>),
    Whole(Vec<u8>),
}

impl Pool {
    /// Opens the log at `path`, made if need be, and reads it. Fails if another process has it open.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let at = |error: Error| Error::new(error.kind(), format!("{}: {error}", path.display()));
        let mut log = open_for_append(&path).map_err(at)?;
        flock(&log, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            Error::other(format!("{}: another swarm works on this folder; give this one its own", path.display()))
        })?;
        let mut bytes = Vec::new();
        log.read_to_end(&mut bytes).map_err(at)?;
        let mut state = State {
            files: BTreeMap::new(),
            live_bytes: 0,
            last_shared: None,
            log: None,
            log_bytes: 0,
            waiting: Vec::new(),
            next: Outcome::default(),
            syncing: false,
            suspect: false,
            syncs: 0,
        };
        let good = state.replay(&bytes);
        if good < bytes.len() {
            if has_record(&bytes[good + 1..]) {
                let text = format!(
                    "{}: damaged at byte {good}; move the folder away and let the swarm enrol anew",
                    path.display()
                );
                return Err(Error::new(ErrorKind::InvalidData, text));
            }
            log.set_len(good as u64).and_then(|()| log.sync_all()).map_err(at)?;
        }
        (state.log, state.log_bytes) = (Some(log), good as u64);
        sync_folder_of(&path)?;
        Ok(Self { path, state: Mutex::new(state), synced: Condvar::new() })
    }

    /// Syncs so far: what a group commit saves.
    pub fn syncs(&self) -> u64 {
        self.lock().syncs
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes one change and returns when it is on disk. The other tasks of this thread go on elsewhere meanwhile.
    fn change(&self, kind: u8, path: &Path, bytes: &[u8]) -> Result<()> {
        let multi = tokio::runtime::Handle::try_current()
            .is_ok_and(|runtime| runtime.runtime_flavor() == tokio::runtime::RuntimeFlavor::MultiThread);
        let commit = || self.commit(kind, path, bytes);
        if multi { tokio::task::block_in_place(commit) } else { commit() }
    }

    fn commit(&self, kind: u8, path: &Path, bytes: &[u8]) -> Result<()> {
        let record = record(kind, path, bytes)?;
        let mut state = self.lock();
        state.apply(kind, path, bytes);
        state.waiting.extend_from_slice(&record);
        let outcome = state.next.clone();
        loop {
            if let Some(outcome) = outcome.get() {
                return outcome.clone().map_err(|cause| Error::other(format!("{}: {cause}", self.path.display())));
            }
            state = if state.syncing {
                self.synced.wait(state).unwrap_or_else(PoisonError::into_inner)
            } else {
                self.sync(state)
            };
        }
    }

    /// Writes and syncs what waits, on behalf of all who wait for it.
    fn sync<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let outcome = std::mem::take(&mut state.next);
        let is_long = state.log_bytes > LOG_BYTES_SPARED.max(state.live_bytes.saturating_mul(LOG_TIMES_MAX));
        let waiting = std::mem::take(&mut state.waiting);
        let log = state.log.take();
        let (batch, log) = match log {
            Some(log) if !state.suspect && !is_long => (Batch::More(waiting), Some(log)),
            // What waits is in memory already, and so in the whole.
            _ => (Batch::Whole(state.whole()), None),
        };
        state.syncing = true;
        drop(state);
        let written = self.write(&batch, log);
        let mut state = self.lock();
        state.syncing = false;
        state.syncs += 1;
        state.suspect = written.is_err();
        let told = match written {
            Ok(log) => {
                state.log = Some(log);
                state.log_bytes = match &batch {
                    Batch::More(bytes) => state.log_bytes + bytes.len() as u64,
                    Batch::Whole(bytes) => bytes.len() as u64,
                };
                Ok(())
            }
            Err(error) => Err(error.to_string()),
        };
        outcome.get_or_init(|| told);
        self.synced.notify_all();
        state
    }

    fn write(&self, batch: &Batch, log: Option<File>) -> Result<File> {
        match (batch, log) {
            (Batch::More(bytes), Some(mut log)) => {
                log.write_all(bytes)?;
                log.sync_data()?;
                Ok(log)
            }
            (Batch::More(bytes) | Batch::Whole(bytes), _) => {
                let temporary = self.path.with_extension("tmp");
                let mut log = open_for_append(&temporary)?;
                log.set_len(0)?;
                // The lock goes with the file: it is taken before the name is.
                flock(&log, FlockOperation::NonBlockingLockExclusive)?;
                log.write_all(bytes)?;
                log.sync_all()?;
                std::fs::rename(&temporary, &self.path)?;
                sync_folder_of(&self.path)?;
                Ok(log)
            }
        }
    }
}

impl State {
    fn apply(&mut self, kind: u8, path: &Path, bytes: &[u8]) {
        let weight = |contents: &Contents| (path.as_os_str().len() + contents.bytes().len()) as u64;
        match kind {
            APPEND => {
                let before = self.files.remove(path);
                self.live_bytes -= before.as_ref().map_or(0, weight);
                let mut whole = match before {
                    Some(Contents::Own(whole)) => whole,
                    Some(Contents::Shared(whole)) => whole.to_vec(),
                    None => Vec::new(),
                };
                whole.extend_from_slice(bytes);
                let contents = Contents::Own(whole);
                self.live_bytes += weight(&contents);
                self.files.insert(path.into(), contents);
            }
            REMOVE => self.live_bytes -= self.files.remove(path).as_ref().map_or(0, weight),
            _ => {
                let contents = Contents::Shared(self.shared(bytes));
                self.live_bytes += weight(&contents);
                let before = self.files.insert(path.into(), contents);
                self.live_bytes -= before.as_ref().map_or(0, weight);
            }
        }
    }

    fn shared(&mut self, bytes: &[u8]) -> Arc<[u8]> {
        if bytes.len() < SHARED_BYTES_MIN {
            return bytes.into();
        }
        if let Some(last) = self.last_shared.as_ref().filter(|last| last[..] == *bytes) {
            return last.clone();
        }
        let new: Arc<[u8]> = bytes.into();
        self.last_shared = Some(new.clone());
        new
    }

    /// Records that make everything that is there.
    fn whole(&self) -> Vec<u8> {
        let put = |(path, contents): (&PathBuf, &Contents)| record(PUT, path, contents.bytes()).unwrap_or_default();
        self.files.iter().flat_map(put).collect()
    }

    /// Applies all good records from the start, and tells how many bytes they are.
    fn replay(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while let Some((kind, path, contents, len)) = record_at(&bytes[at..]) {
            self.apply(kind, &path, contents);
            at += len;
        }
        at
    }
}

fn open_for_append(path: &Path) -> Result<File> {
    OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)
}

fn sync_folder_of(path: &Path) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all())
}

fn record(kind: u8, path: &Path, bytes: &[u8]) -> Result<Vec<u8>> {
    use std::os::unix::ffi::OsStrExt;
    let name = path.as_os_str().as_bytes();
    let wrong = |_| Error::new(ErrorKind::InvalidInput, format!("{}: too long", path.display()));
    let name_len = u16::try_from(name.len()).map_err(wrong)?;
    let len = u32::try_from(3 + name.len() + bytes.len()).map_err(wrong)?;
    let mut record = Vec::with_capacity(HEADER_BYTES + len as usize);
    record.extend_from_slice(&MAGIC);
    record.extend_from_slice(&len.to_le_bytes());
    record.extend_from_slice(&[0; 8]);
    record.push(kind);
    record.extend_from_slice(&name_len.to_le_bytes());
    record.extend_from_slice(name);
    record.extend_from_slice(bytes);
    let sum = blake3::hash(&record[HEADER_BYTES..]);
    record[6..HEADER_BYTES].copy_from_slice(&sum.as_bytes()[..8]);
    Ok(record)
}

/// The record at the start of `bytes`: kind, path, contents, and its whole length.
fn record_at(bytes: &[u8]) -> Option<(u8, PathBuf, &[u8], usize)> {
    use std::os::unix::ffi::OsStrExt;
    let header = bytes.get(..HEADER_BYTES)?;
    if header[..2] != MAGIC {
        return None;
    }
    let len = u32::from_le_bytes(header[2..6].try_into().ok()?) as usize;
    let body = bytes.get(HEADER_BYTES..HEADER_BYTES.checked_add(len)?)?;
    if blake3::hash(body).as_bytes()[..8] != header[6..] {
        return None;
    }
    let (kind, rest) = body.split_first()?;
    let name_len = usize::from(u16::from_le_bytes(rest.get(..2)?.try_into().ok()?));
    let (name, contents) = rest[2..].split_at_checked(name_len)?;
    let known = matches!(*kind, PUT | APPEND | REMOVE);
    known.then(|| (*kind, std::ffi::OsStr::from_bytes(name).into(), contents, HEADER_BYTES + len))
}

/// Whether a good record stands anywhere in `bytes`: then what is before it is no torn end.
fn has_record(bytes: &[u8]) -> bool {
    (0..bytes.len()).any(|at| bytes[at..].starts_with(&MAGIC) && record_at(&bytes[at..]).is_some())
}

impl Disk for Pool {
    fn read(&self, path: &Path, bytes_max: u64) -> Result<Option<Vec<u8>>> {
        match self.lock().files.get(path) {
            Some(contents) if contents.bytes().len() as u64 > bytes_max => {
                let text = format!("{}: longer than the {bytes_max} bytes that fit here", path.display());
                Err(Error::new(ErrorKind::FileTooLarge, text))
            }
            found => Ok(found.map(|contents| contents.bytes().to_vec())),
        }
    }

    fn replace(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        // One writer a file: what is there was reported as durable to the same minion.
        if self.lock().files.get(path).is_some_and(|contents| contents.bytes() == bytes) {
            return Ok(());
        }
        self.change(PUT, path, bytes)
    }

    fn append(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        self.change(APPEND, path, bytes)
    }

    fn remove(&self, path: &Path) -> Result<()> {
        if !self.lock().files.contains_key(path) {
            return Ok(());
        }
        self.change(REMOVE, path, &[])
    }

    fn list(&self, folder: &Path) -> Result<Vec<String>> {
        let state = self.lock();
        let below = state.files.range(folder.to_path_buf()..).map(|(path, _)| path);
        let below = below.take_while(|path| path.starts_with(folder));
        let inside = below.filter(|path| path.parent() == Some(folder));
        Ok(inside.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect())
    }

    fn make_folder(&self, _: &Path) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there(pool: &Pool, path: &str) -> Option<Vec<u8>> {
        pool.read(Path::new(path), 1 << 20).expect("read")
    }

    #[test]
    fn what_was_done_is_there_after_a_restart() {
        let home = tempfile::tempdir().expect("a folder");
        let log = home.path().join("pool");
        let pool = Pool::open(&log).expect("opens");
        pool.replace(Path::new("web-1/born"), b"one").expect("written");
        pool.replace(Path::new("web-1/born"), b"two").expect("written");
        pool.append(Path::new("web-1/journal"), b"a").expect("written");
        pool.append(Path::new("web-1/journal"), b"b").expect("written");
        pool.replace(Path::new("web-1/outbox/2"), b"x").expect("written");
        pool.replace(Path::new("web-1/outbox/1"), b"x").expect("written");
        pool.replace(Path::new("web-10/outbox/3"), b"x").expect("written");
        pool.remove(Path::new("web-1/outbox/2")).expect("removed");
        assert!(Pool::open(&log).is_err(), "two swarms in one folder");
        drop(pool);
        let pool = Pool::open(&log).expect("opens");
        assert_eq!(there(&pool, "web-1/born").as_deref(), Some(b"two".as_slice()));
        assert_eq!(there(&pool, "web-1/journal").as_deref(), Some(b"ab".as_slice()));
        assert_eq!(pool.list(Path::new("web-1/outbox")).expect("listed"), ["1"]);
        assert_eq!(there(&pool, "web-1/outbox/2"), None);
    }

    #[test]
    fn a_crash_at_any_byte_loses_the_torn_change_only() {
        let home = tempfile::tempdir().expect("a folder");
        let log = home.path().join("pool");
        let pool = Pool::open(&log).expect("opens");
        pool.replace(Path::new("a"), b"kept").expect("written");
        let whole = std::fs::metadata(&log).expect("there").len();
        pool.append(Path::new("b"), b"torn").expect("written");
        drop(pool);
        let bytes = std::fs::read(&log).expect("read");
        for cut in usize::try_from(whole).expect("small")..bytes.len() {
            std::fs::write(&log, &bytes[..cut]).expect("cut");
            let pool = Pool::open(&log).expect("opens");
            assert_eq!((there(&pool, "a").is_some(), there(&pool, "b")), (true, None), "cut at {cut}");
            pool.append(Path::new("b"), b"again").expect("written");
            drop(pool);
            let pool = Pool::open(&log).expect("opens");
            assert_eq!(there(&pool, "b").as_deref(), Some(b"again".as_slice()), "cut at {cut}");
        }
        let mut bent = bytes;
        bent[HEADER_BYTES + 1] ^= 1;
        std::fs::write(&log, &bent).expect("bent");
        let error = Pool::open(&log).err().expect("damage is no torn end");
        assert!(error.to_string().contains("damaged at byte 0"), "{error}");
    }

    #[test]
    fn the_log_is_shortened_and_keeps_everything() {
        let home = tempfile::tempdir().expect("a folder");
        let log = home.path().join("pool");
        let pool = Pool::open(&log).expect("opens");
        let large = vec![7; 1 << 20];
        for number in 0..40_u8 {
            let mut bytes = large.clone();
            bytes[0] = number;
            pool.replace(Path::new("large"), &bytes).expect("written");
            pool.append(Path::new("journal"), &[number]).expect("written");
        }
        assert!(std::fs::metadata(&log).expect("there").len() < 25 << 20);
        drop(pool);
        let pool = Pool::open(&log).expect("opens");
        let journal: Vec<u8> = (0..40).collect();
        assert_eq!(there(&pool, "journal"), Some(journal));
        assert_eq!(there(&pool, "large").map(|bytes| bytes[0]), Some(39));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn many_who_write_at_once_share_syncs() {
        let home = tempfile::tempdir().expect("a folder");
        let log = home.path().join("pool");
        let pool = Arc::new(Pool::open(&log).expect("opens"));
        let mut writers = tokio::task::JoinSet::new();
        for number in 0..200 {
            let pool = pool.clone();
            writers.spawn(async move { pool.append(Path::new(&format!("web-{number}/journal")), b"entry") });
        }
        while let Some(written) = writers.join_next().await {
            written.expect("no panic").expect("written");
        }
        assert!(pool.syncs() < 150, "{} syncs for 200 writers", pool.syncs());
        drop(pool);
        let pool = Pool::open(&log).expect("opens");
        assert!((0..200).all(|number| there(&pool, &format!("web-{number}/journal")).is_some()));
    }
}
