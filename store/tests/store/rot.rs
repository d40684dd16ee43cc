//! A data folder on a disk that lies: whichever bit flips, the master refuses, or everything that was synced is there.
//!
//! By default a few bits of every file are flipped, always the same ones. `SALTERN_ROT_FLIPS=500` flips that many of each
//! file, `SALTERN_ROT_SEED=7` others; the figures are printed.

use crate::entry::{Entry, entries, entry};
use crate::world::{BEGIN, World, found, outcome, parts, record};
use saltern_store::command::Command;
use saltern_store::kv::rocks::RocksEngine;
use saltern_store::{CheckReport, FlushBy, Log, StoreError, Stores, check};
use saltern_wire::LogicalTime;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::channel;

/// Bits flipped in each file by default.
const FLIPS: usize = 2;
/// Longest piece of a snapshot that is read at once.
const PIECE: usize = 1 << 20;

/// A data folder as a master leaves it: its log in tables and in the write-ahead log, its state, two snapshots.
pub struct Data {
    pub dir: tempfile::TempDir,
    pub truth: Truth,
}

/// What must not change.
#[derive(Debug, Clone, PartialEq)]
pub struct Truth {
    pub entries: Vec<Entry>,
    pub vote: Option<Vec<u8>>,
    pub purged: Option<u64>,
    pub digest: [u8; 32],
    pub snapshots: BTreeMap<String, Vec<u8>>,
    /// Of the next snapshot, by name, with their digests.
    pub tables: BTreeMap<String, [u8; 32]>,
}

/// A folder in memory where there is one: what is tested here is not the disk, and it syncs thousands of times.
pub fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

pub fn open(dir: &Path) -> Result<Stores<Entry>, StoreError> {
    Stores::open(Arc::new(RocksEngine), dir, FlushBy::Caller)
}

pub fn verify(dir: &Path) -> CheckReport {
    check::<Entry>(&RocksEngine, dir).unwrap()
}

pub fn append(log: &Log<Entry>, range: std::ops::RangeInclusive<u64>) {
    for index in range {
        let (sender, done) = channel();
        log.append(vec![entry(index)], Box::new(move |result| sender.send(result).unwrap()));
        done.recv().unwrap().unwrap();
    }
}

impl Data {
    pub fn new() -> Self {
        let dir = folder();
        let Stores { log, state, snapshots, .. } = open(dir.path()).unwrap();
        append(&log, 1..=30);
        log.save_vote(b"the vote of term 3".to_vec(), Box::new(|result| result.unwrap()));
        let mut world = World { state, next: 1, now: LogicalTime::from_unix_micros(BEGIN) };
        world.run(found()).unwrap();
        world.enrol(&["a", "b"]);
        let jid = world.open(0, &[1, 2]);
        snapshots.create(&world.state).unwrap();
        world.run(record(1, parts(jid, &outcome(&"x".repeat(3000), true)))).unwrap();
        world.run(record(2, parts(jid, &outcome("two", false)))).unwrap();
        snapshots.create(&world.state).unwrap();
        log.purge(5, b"position 5".to_vec(), Box::new(|result| result.unwrap()));
        drop((log, world, snapshots));
        // What the first opening left in the write-ahead log stands in tables now; what comes next does not yet.
        let Stores { log, state, .. } = open(dir.path()).unwrap();
        append(&log, 31..=50);
        log.save_committed(b"committed 49".to_vec());
        append(&log, 51..=51);
        state.flush().unwrap();
        drop((log, state));
        let Stores { log, .. } = open(dir.path()).unwrap();
        append(&log, 52..=60);
        drop(log);
        let read = folder();
        copy_tree(dir.path(), read.path());
        let mut truth = Truth::read(open(read.path()).unwrap()).unwrap();
        // The next snapshot's newest table is another one each time: it is made at that moment.
        let held = contents(&dir.path().join("state/state-1"));
        truth.tables.retain(|name, digest| held.get(Path::new(name)) == Some(digest));
        assert!(truth.tables.len() > 5, "{:?}", truth.tables.keys());
        assert_eq!(truth.entries, entries(6..=60));
        Self { dir, truth }
    }

    /// A copy of the folder, to be harmed.
    pub fn copy(&self) -> tempfile::TempDir {
        let copy = folder();
        copy_tree(self.dir.path(), copy.path());
        copy
    }
}

impl Truth {
    /// Reads everything that a master would serve, vote on or send to another.
    pub fn read(stores: Stores<Entry>) -> Result<Self, StoreError> {
        let Stores { log, state, snapshots, .. } = stores;
        let digest = state.digest()?;
        let mut files = BTreeMap::new();
        if let Some(current) = snapshots.current() {
            for file in &current.manifest.files {
                let bytes = snapshots.read_chunk(&current.manifest.id, &file.name, 0, PIECE)?;
                assert_eq!(bytes.len() as u64, file.len, "{}", file.name);
                files.insert(file.name.clone(), bytes);
            }
        }
        // The next snapshot is what another master would get: its tables are those of the state.
        let next = state.applied_index() + 1;
        let mut world = World { state, next, now: LogicalTime::from_unix_micros(BEGIN) };
        world.run(Command::Tick).unwrap();
        let made = snapshots.create(&world.state)?.manifest;
        let tables = made.files.into_iter().filter(|file| file.name.ends_with(".sst"));
        let tables = tables.map(|file| (file.name, file.digest)).collect();
        let purged = log.purged().map(|purged| purged.index);
        Ok(Self { entries: log.read(.., None)?, vote: log.vote(), purged, digest, snapshots: files, tables })
    }
}

pub fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for found in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (path, copy) = (found.path(), to.join(found.file_name()));
        if path.is_dir() {
            copy_tree(&path, &copy);
        } else {
            std::fs::copy(&path, &copy).unwrap();
        }
    }
}

/// Every file below `dir`, by its path within it, with its length.
pub fn files(dir: &Path) -> Vec<(PathBuf, u64)> {
    let mut all = Vec::new();
    let mut folders = vec![dir.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for found in std::fs::read_dir(&folder).unwrap().map(Result::unwrap) {
            if found.path().is_dir() {
                folders.push(found.path());
            } else {
                all.push((found.path().strip_prefix(dir).unwrap().into(), found.metadata().unwrap().len()));
            }
        }
    }
    all.sort();
    all
}

pub fn flip(path: &Path, at: u64, bit: u8) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[usize::try_from(at).unwrap()] ^= 1 << bit;
    std::fs::write(path, bytes).unwrap();
}

/// What became of a folder that was harmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// It is refused when it is opened.
    Refused,
    /// It opens; reading what was harmed is refused.
    Caught,
    /// Everything is there.
    Same,
}

/// Judges a harmed folder: a wrong answer panics.
pub fn judge(dir: &Path, truth: &Truth, harm: &str) -> Outcome {
    let before = contents(dir);
    let report = verify(dir);
    assert_eq!(contents(dir), before, "{harm}: the check has changed the folder");
    let outcome = match open(dir).map(Truth::read) {
        Ok(Ok(found)) => {
            // Compacted tables have other names: those that have not been are compared.
            let tables = found.tables.iter().filter(|(name, _)| truth.tables.contains_key(*name));
            tables.for_each(|(name, digest)| assert_eq!(truth.tables[name], *digest, "{harm}: {name} would travel"));
            let found = Truth { tables: truth.tables.clone(), ..found };
            assert_eq!(found, *truth, "{harm}: something else is served");
            Outcome::Same
        }
        Ok(Err(error)) => {
            assert!(matches!(error, StoreError::Corrupt { .. }), "{harm}: {error}");
            Outcome::Caught
        }
        Err(error) => {
            assert!(matches!(error, StoreError::Corrupt { .. }), "{harm}: {error}");
            Outcome::Refused
        }
    };
    // The check may find more: a master does not read an older snapshot, or a row that nobody asks for.
    assert!(outcome == Outcome::Same || !report.is_sound(), "{harm}: the check finds {report:#?}");
    outcome
}

fn contents(dir: &Path) -> BTreeMap<PathBuf, [u8; 32]> {
    let digest = |path: &Path| *blake3::hash(&std::fs::read(dir.join(path)).unwrap()).as_bytes();
    files(dir).into_iter().map(|(path, _)| (path.clone(), digest(&path))).collect()
}

fn wish(name: &str, otherwise: usize) -> usize {
    std::env::var(name).map_or(otherwise, |wish| wish.parse().unwrap_or_else(|_| panic!("{name}={wish} is no number")))
}

#[test]
fn whichever_bit_flips_nothing_wrong_is_served() {
    let (flips, seed) = (wish("SALTERN_ROT_FLIPS", FLIPS) as u64, wish("SALTERN_ROT_SEED", 1) as u64);
    let data = Data::new();
    assert!(verify(data.dir.path()).is_sound());
    let mut figures: BTreeMap<(String, Outcome), u32> = BTreeMap::new();
    for (file, len) in files(data.dir.path()).into_iter().filter(|(_, len)| *len > 0) {
        for number in 0..flips.min(len) {
            // By strides over the whole file, at another place of each for every seed.
            let dice = blake3::hash(format!("{seed} {} {number}", file.display()).as_bytes());
            let dice = u64::from_be_bytes(*dice.as_bytes().first_chunk().unwrap());
            let stride = len / flips.min(len);
            let (at, bit) = (number * stride + dice % stride, (dice >> 32) as u8 % 8);
            let harm = format!("seed {seed}, bit {bit} of byte {at} of {} ({len} bytes)", file.display());
            let copy = data.copy();
            flip(&copy.path().join(&file), at, bit);
            let outcome = judge(copy.path(), &data.truth, &harm);
            let folder = file.components().next().unwrap().as_os_str().to_string_lossy().into_owned();
            *figures.entry((folder, outcome)).or_default() += 1;
        }
    }
    println!("seed {seed}, {flips} flips a file: {figures:?}");
    for folder in ["log", "state", "snapshots"] {
        let found = |outcome| figures.get(&(folder.to_owned(), outcome)).copied().unwrap_or(0);
        assert!(found(Outcome::Refused) + found(Outcome::Caught) > 0, "no flip in {folder} was noticed: {figures:?}");
    }
}
