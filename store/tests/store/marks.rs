//! The durable mark: what a log that has lost its end, or is an older copy, looks like when it is opened.

use crate::entry::{Entry, entries, entry};
use crate::world::Bench;
use saltern_store::kv::Engine;
use saltern_store::kv::memory::MemoryEngine;
use saltern_store::log::Done;
use saltern_store::{FlushBy, Log, Soundness, StoreError};
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;

/// Opens the log of `dir`.
fn open(engine: &dyn Engine, dir: &Path, flush: FlushBy) -> Result<Log<Entry>, StoreError> {
    Log::open(engine, &dir.join("log"), flush, Soundness::new())
}

/// Performs one write and waits for it.
fn synced(write: impl FnOnce(Done)) {
    let (sender, done) = channel();
    write(Box::new(move |result| sender.send(result).unwrap()));
    done.recv().unwrap().unwrap();
}

fn append(log: &Log<Entry>, range: std::ops::RangeInclusive<u64>) {
    range.for_each(|index| synced(|done| log.append(vec![entry(index)], done)));
}

fn copy_folder(from: &Path, to: &Path) {
    if to.exists() {
        std::fs::remove_dir_all(to).unwrap();
    }
    std::fs::create_dir_all(to).unwrap();
    for file in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

fn refused(engine: &dyn Engine, dir: &Path) -> String {
    let soundness = Soundness::new();
    let opened = Log::<Entry>::open(engine, &dir.join("log"), FlushBy::Caller, soundness.clone());
    let error = opened.err().expect("it is refused");
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
    assert_eq!(soundness.cause(), Some(error.to_string()), "and noted");
    error.to_string()
}

#[test]
fn a_log_that_is_an_older_copy_is_refused() {
    for flush in [FlushBy::Caller, FlushBy::Thread] {
        let bench = Bench::rocks();
        let dir = bench.dir("m");
        let engine = bench.engine.as_ref();
        let log = open(engine, &dir, flush).unwrap();
        append(&log, 1..=5);
        drop(log);
        copy_folder(&dir.join("log"), &dir.join("older"));
        let log = open(engine, &dir, flush).unwrap();
        append(&log, 6..=9);
        drop(log);
        copy_folder(&dir.join("log"), &dir.join("newest"));
        copy_folder(&dir.join("older"), &dir.join("log"));
        let cause = refused(engine, &dir);
        assert!(cause.contains("older copy"), "{cause}");
        // The newest copy is what the mark was written for.
        copy_folder(&dir.join("newest"), &dir.join("log"));
        assert_eq!(open(engine, &dir, flush).unwrap().read(.., None).unwrap(), entries(1..=9));
        std::fs::remove_dir_all(dir.join("log")).unwrap();
        assert!(refused(engine, &dir).contains("lost its end"), "no log at all");
    }
}

#[test]
fn a_simulated_disk_that_loses_synced_groups_is_refused() {
    let (disk, dir) = (MemoryEngine::new(), Path::new("m"));
    let log = open(&disk, dir, FlushBy::Caller).unwrap();
    append(&log, 1..=5);
    let older = disk.copy();
    synced(|done| log.save_vote(b"vote 2".to_vec(), done));
    disk.crash();
    assert_eq!(open(&disk, dir, FlushBy::Caller).unwrap().vote(), Some(b"vote 2".to_vec()), "a crash loses nothing");
    disk.put_back(&dir.join("log"), &older);
    assert!(refused(&disk, dir).contains("lost its end"));
    // With an older mark the older log looks whole: a data folder must not be restored from a copy.
    disk.put_back(&dir.join("mark"), &older);
    assert_eq!(open(&disk, dir, FlushBy::Caller).unwrap().vote(), None);
}

/// A log of the same number of groups that holds another vote, or other entries, than the mark says.
#[test]
fn a_log_of_the_same_generation_must_say_the_same() {
    let dir = Path::new("m");
    let make = |write: &dyn Fn(&Log<Entry>)| {
        let disk = MemoryEngine::new();
        let log = open(&disk, dir, FlushBy::Caller).unwrap();
        append(&log, 1..=3);
        write(&log);
        drop(log);
        disk
    };
    let vote = |vote: &'static [u8]| move |log: &Log<Entry>| synced(|done| log.save_vote(vote.to_vec(), done));
    let other = Entry { index: 4, text: "another".into() };
    let one = make(&vote(b"one"));
    for (log, says) in [
        (make(&vote(b"two")), "vote"),
        (make(&|log| synced(|done| log.append(vec![other.clone()], done))), "vote"),
        (make(&|log| synced(|done| log.purge(2, b"2".to_vec(), done))), "vote"),
    ] {
        log.put_back(&dir.join("mark"), &one);
        assert!(refused(&log, dir).contains(says));
    }
    let four = make(&|log| append(log, 4..=4));
    let log = make(&|log| synced(|done| log.append(vec![other.clone()], done)));
    log.put_back(&dir.join("mark"), &four);
    assert!(refused(&log, dir).contains("last entry"));
}

#[test]
fn the_mark_follows_truncations_purges_and_what_comes_after_them() {
    for flush in [FlushBy::Caller, FlushBy::Thread] {
        for bench in Bench::both() {
            let (engine, dir) = (bench.engine.as_ref(), bench.dir("m"));
            let steps: [&dyn Fn(&Log<Entry>, Done); 8] = [
                &|log, done| log.append(entries(1..=10), done),
                &|log, done| log.truncate_after(Some(7), done),
                &|log, done| {
                    // Both in one group, as far as the thread takes them together.
                    log.truncate_after(Some(6), Box::new(drop));
                    log.truncate_after(Some(4), done);
                },
                &|log, done| log.purge(4, b"4".to_vec(), done),
                &|log, done| log.append(entries(5..=8), done),
                &|log, done| log.truncate_after(Some(4), done),
                &|log, done| log.purge(20, b"20".to_vec(), done),
                &|log, done| log.append(entries(21..=22), done),
            ];
            for (number, step) in steps.into_iter().enumerate() {
                let log = open(engine, &dir, flush).unwrap_or_else(|error| panic!("before step {number}: {error}"));
                synced(|done| step(&log, done));
            }
            assert_eq!(open(engine, &dir, flush).unwrap().read(.., None).unwrap(), entries(21..=22), "{}", bench.name);
        }
    }
}

/// Overwrites one byte of a file of the real engine.
fn flip(path: &PathBuf, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn one_unreadable_slot_is_repaired_and_two_or_none_are_refused() {
    let bench = Bench::rocks();
    let (engine, dir) = (bench.engine.as_ref(), bench.dir("m"));
    let log = open(engine, &dir, FlushBy::Thread).unwrap();
    append(&log, 1..=5);
    drop(log);
    let mark = dir.join("mark");
    let pristine = std::fs::read(&mark).unwrap();
    assert_eq!(pristine.len(), 8192);
    for slot in [0, 1] {
        flip(&mark, slot * 4096 + 20);
        drop(open(engine, &dir, FlushBy::Thread).unwrap());
        flip(&mark, (1 - slot) * 4096 + 20);
        let log = open(engine, &dir, FlushBy::Thread).expect("the first one was written anew");
        assert_eq!(log.read(.., None).unwrap(), entries(1..=5));
    }
    flip(&mark, 20);
    flip(&mark, 4096 + 20);
    assert!(refused(engine, &dir).contains("both slots are unreadable"));
    std::fs::write(&mark, &pristine[..5000]).unwrap();
    assert!(refused(engine, &dir).contains("5000 bytes"));
    std::fs::remove_file(&mark).unwrap();
    assert!(refused(engine, &dir).contains("missing"));
    assert!(!mark.exists(), "nothing is made up for it");
}

#[test]
fn a_vote_that_the_mark_has_no_room_for_is_refused() {
    let disk = MemoryEngine::new();
    let log = open(&disk, Path::new("m"), FlushBy::Caller).unwrap();
    let (sender, done) = channel();
    log.save_vote(vec![1; 1025], Box::new(move |result| sender.send(result).unwrap()));
    let error = done.recv().unwrap().unwrap_err().to_string();
    assert!(error.contains("1025 bytes"), "{error}");
    assert_eq!(log.vote(), None);
    log.save_committed(vec![1; 5000]);
    synced(|done| log.save_vote(vec![1; 1024], done));
}
