//! A data folder on a disk that lies, one kind of harm at a time.

use crate::entry::{Entry, entries};
use crate::rot::{Data, Outcome, Truth, append, copy_tree, files, flip, folder, judge, open, verify};
use crate::world::{World, found};
use saltern_store::command::Command;
use saltern_store::kv::Engine;
use saltern_store::kv::rocks::RocksEngine;
use saltern_store::{FlushBy, Log, StoreError, Stores, Verdict, check};
use saltern_wire::LogicalTime;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::channel;

/// The one file below `folder` whose name ends with `ending` and whose content has `needle`, and where it has it.
fn find(folder: &Path, ending: &str, needle: &[u8]) -> (PathBuf, u64) {
    let paths = files(folder).into_iter().map(|(path, _)| folder.join(path));
    let hit = paths.filter(|path| path.to_string_lossy().ends_with(ending)).find_map(|path| {
        let bytes = std::fs::read(&path).unwrap();
        let at = bytes.windows(needle.len()).position(|window| window == needle)?;
        Some((path, at as u64))
    });
    hit.unwrap_or_else(|| panic!("{needle:?} in no {ending} of {}", folder.display()))
}

fn largest(folder: &Path, ending: &str) -> (PathBuf, u64) {
    let found = files(folder).into_iter().filter(|(path, _)| path.to_string_lossy().ends_with(ending));
    let (path, len) =
        found.max_by_key(|(_, len)| *len).unwrap_or_else(|| panic!("no {ending} in {}", folder.display()));
    (folder.join(path), len)
}

#[test]
fn a_bit_of_a_log_entry_in_the_write_ahead_log() {
    let data = Data::new();
    for needle in ["entry 52", "entry 56", "entry 60"] {
        let copy = data.copy();
        let (path, at) = find(&copy.path().join("log"), ".log", needle.as_bytes());
        flip(&path, at + 3, 2);
        assert_eq!(judge(copy.path(), &data.truth, needle), Outcome::Refused, "{needle}");
    }
}

#[test]
fn a_bit_of_a_log_entry_or_vote_in_a_table() {
    let data = Data::new();
    // All of it moves into tables when it is opened.
    drop(open(data.dir.path()).unwrap());
    let log = data.dir.path().join("log");
    let tables: Vec<_> = files(&log).into_iter().filter(|(path, _)| path.to_string_lossy().ends_with(".sst")).collect();
    assert!(tables.len() >= 2, "{tables:?}");
    for (table, len) in tables {
        // A table begins with its rows.
        for at in [2, 10, 20] {
            let copy = data.copy();
            flip(&copy.path().join("log").join(&table), at, 0);
            let harm = format!("{} at {at} of {len}", table.display());
            assert_eq!(judge(copy.path(), &data.truth, &harm), Outcome::Refused, "{harm}");
        }
    }
}

#[test]
fn a_bit_of_the_vote_in_the_write_ahead_log() {
    let data = Data::new();
    let Stores { log, .. } = open(data.dir.path()).unwrap();
    log.save_vote(b"the vote of term 9".to_vec(), Box::new(|result| result.unwrap()));
    drop(log);
    let (path, at) = find(&data.dir.path().join("log"), ".log", b"vote of term 9");
    flip(&path, at, 0);
    let refused = open(data.dir.path()).err().expect("the last record of the log").to_string();
    assert!(refused.contains("corrupt"), "{refused}");
}

/// The engine takes a cut in the last record for a write that was under way. The mark knows better.
#[test]
fn a_write_ahead_log_that_was_cut() {
    let data = Data::new();
    let (path, at) = find(&data.dir.path().join("log"), ".log", b"entry 60");
    let path = path.strip_prefix(data.dir.path()).unwrap();
    for (len, story) in [
        (at + 3, "in the middle of the last entry"),
        (at - 40, "before the last entry"),
        (find(&data.dir.path().join("log"), ".log", b"entry 55").1, "in the middle"),
        (0, "to nothing"),
    ] {
        let copy = data.copy();
        let file = std::fs::OpenOptions::new().write(true).open(copy.path().join(path)).unwrap();
        file.set_len(len).unwrap();
        drop(file);
        assert_eq!(judge(copy.path(), &data.truth, story), Outcome::Refused, "{story}");
    }
    let copy = data.copy();
    std::fs::remove_file(copy.path().join(path)).unwrap();
    assert_eq!(judge(copy.path(), &data.truth, "removed"), Outcome::Refused);
}

#[test]
fn a_log_that_is_an_older_copy_of_itself() {
    let data = Data::new();
    let older = data.copy();
    let Stores { log, .. } = open(data.dir.path()).unwrap();
    append(&log, 61..=61);
    drop(log);
    let truth = Truth { entries: entries(6..=61), ..data.truth.clone() };
    std::fs::remove_dir_all(data.dir.path().join("log")).unwrap();
    copy_tree(&older.path().join("log"), &data.dir.path().join("log"));
    assert_eq!(judge(data.dir.path(), &truth, "an older log"), Outcome::Refused);
    let cause = verify(data.dir.path()).cause().expect("a cause");
    assert!(cause.contains("older copy"), "{cause}");
}

#[test]
fn the_list_of_files_and_its_name() {
    let data = Data::new();
    for part in ["log", "state/state-1"] {
        for (name, at) in [("CURRENT", 3), ("MANIFEST", 20)] {
            let copy = data.copy();
            let folder = copy.path().join(part);
            let found = files(&folder).into_iter().find(|(path, _)| path.to_string_lossy().starts_with(name));
            flip(&folder.join(found.unwrap().0), at, 0);
            assert_eq!(judge(copy.path(), &data.truth, name), Outcome::Refused, "{name} of {part}");
        }
        let copy = data.copy();
        std::fs::remove_file(copy.path().join(part).join("CURRENT")).unwrap();
        assert_eq!(judge(copy.path(), &data.truth, "no CURRENT"), Outcome::Refused, "{part}");
        let tables = |dir: &Path| files(&dir.join(part)).iter().filter(|(path, _)| path.ends_with(".sst")).count();
        assert_eq!(tables(copy.path()), tables(data.dir.path()), "and nothing was removed");
    }
    let copy = data.copy();
    // `state-1` has become `state-0`.
    flip(&copy.path().join("state/CURRENT"), 6, 0);
    assert_eq!(judge(copy.path(), &data.truth, "the state's CURRENT"), Outcome::Refused);
    assert!(copy.path().join("state/state-1").exists(), "and nothing was removed");
}

#[test]
fn a_state_that_is_an_older_copy_is_replayed_or_refused() {
    let dir = folder();
    let Stores { log, state, snapshots, .. } = open(dir.path()).unwrap();
    append(&log, 1..=20);
    let mut world = World { state, next: 1, now: LogicalTime::from_unix_micros(crate::world::BEGIN) };
    world.run(found()).unwrap();
    world.state.flush().unwrap();
    drop(world);
    let older = folder();
    copy_tree(&dir.path().join("state"), older.path());
    let Stores { state, .. } = {
        drop((log, snapshots));
        open(dir.path()).unwrap()
    };
    let mut world = World { state, next: 2, now: LogicalTime::from_unix_micros(crate::world::BEGIN) };
    world.enrol(&["a", "b"]);
    world.state.flush().unwrap();
    assert_eq!(world.state.applied_index(), 5);
    drop(world);
    let put_back = || {
        std::fs::remove_dir_all(dir.path().join("state")).unwrap();
        copy_tree(older.path(), &dir.path().join("state"));
    };
    put_back();
    assert!(verify(dir.path()).is_sound(), "the log has everything behind it");
    let Stores { log, state, .. } = open(dir.path()).unwrap();
    assert_eq!(state.applied_index(), 1);
    log.purge(4, b"4".to_vec(), Box::new(|result| result.unwrap()));
    drop((log, state));
    let report = verify(dir.path());
    assert!(report.cause().is_some_and(|cause| cause.contains("the log begins behind entry 4")), "{report:?}");
    let refused = open(dir.path()).err().expect("entries 2 to 4 are nowhere").to_string();
    assert!(refused.contains("there is no snapshot"), "{refused}");
}

#[test]
fn a_bit_of_a_snapshot_on_the_disk_is_not_sent() {
    let data = Data::new();
    let Stores { snapshots, soundness, .. } = open(data.dir.path()).unwrap();
    let current = snapshots.current().unwrap();
    let folder = data.dir.path().join("snapshots").join(&current.manifest.id);
    let (path, len) = largest(&folder, ".sst");
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    assert!(snapshots.read_chunk(&current.manifest.id, &name, 0, 100).is_ok());
    flip(&path, len / 2, 1);
    let refused = snapshots.read_chunk(&current.manifest.id, &name, 0, 100).unwrap_err();
    assert!(matches!(refused, StoreError::Corrupt { .. }), "{refused}");
    assert!(soundness.cause().is_some_and(|cause| cause.contains(&name)), "and it is noted");
    let report = verify(data.dir.path());
    let item = report.items.iter().find(|item| item.what.contains(&current.manifest.id)).unwrap();
    assert_eq!(item.verdict, Verdict::Corrupt, "{item:?}");
    let manifest = data.dir.path().join("snapshots").join(format!("{}.manifest", current.manifest.id));
    drop(snapshots);
    flip(&path, len / 2, 1);
    flip(&manifest, 30, 1);
    assert_eq!(judge(data.dir.path(), &data.truth, "the manifest"), Outcome::Refused);
}

/// The worst of them: the bit flips in a table of the running state. It must not get a digest and travel.
#[test]
fn a_bit_of_the_state_does_not_get_into_a_snapshot() {
    let data = Data::new();
    // A range of rows that is gone, with its bytes still in a table below: they are checked as well.
    let Stores { state, snapshots, soundness, .. } = open(data.dir.path()).unwrap();
    let next = state.applied_index() + 1;
    let mut world = World { state, next, now: LogicalTime::from_unix_micros(crate::world::BEGIN + 1) };
    world.run(Command::Tick).unwrap();
    world.state.flush().unwrap();
    let folder = data.dir.path().join("state/state-1");
    for (table, len) in files(&folder).into_iter().filter(|(path, _)| path.to_string_lossy().ends_with(".sst")) {
        let path = folder.join(table);
        flip(&path, len / 10, 3);
        let refused = snapshots.create(&world.state).expect_err(&path.display().to_string());
        assert!(matches!(refused, StoreError::Corrupt { .. }), "{refused}");
        flip(&path, len / 10, 3);
        world.now = world.now.plus(std::time::Duration::from_secs(1));
        if soundness.cause().is_some() {
            break;
        }
    }
    assert!(soundness.cause().is_some());
    assert!(world.state.apply(&[]).is_err(), "nothing is applied any more");
    assert!(world.state.jobs(None, 9, false).is_err(), "nothing is served any more");
    let offered = snapshots.current().unwrap().manifest.applied;
    assert!(offered < world.state.applied_index(), "the one before it is still the newest");
}

#[test]
fn a_folder_that_is_open_is_not_checked() {
    const DIR: &str = "SALTERN_TEST_CHECK";
    // The lock belongs to a process: a second one looks.
    if let Some(dir) = std::env::var_os(DIR) {
        let error = check::<Entry>(&RocksEngine, Path::new(&dir)).expect_err("it is open");
        assert!(matches!(error, StoreError::Locked { .. }), "{error}");
        return;
    }
    let data = Data::new();
    let stores = open(data.dir.path()).unwrap();
    let mut looks = std::process::Command::new(std::env::current_exe().unwrap());
    looks.args(["--exact", "rot_stories::a_folder_that_is_open_is_not_checked"]).env(DIR, data.dir.path());
    let output = looks.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    drop(stores);
    assert!(verify(data.dir.path()).is_sound());
    // And nobody opens it while it is checked.
    let held = RocksEngine.hold(&data.dir.path().join("log")).unwrap();
    let refused = RocksEngine.hold(&data.dir.path().join("nowhere"));
    assert!(refused.is_ok());
    drop(held);
}

#[test]
fn an_empty_folder_is_sound_and_says_so() {
    let dir = folder();
    let report = verify(dir.path());
    assert!(report.is_sound() && report.cause().is_none(), "{report:?}");
    assert!(report.items.iter().all(|item| matches!(item.verdict, Verdict::Absent | Verdict::Sound)), "{report:?}");
    assert!(std::fs::read_dir(dir.path()).unwrap().next().is_none(), "and nothing is made in it");
    let memory = Arc::new(saltern_store::kv::memory::MemoryEngine::new());
    let at = Path::new("m");
    let stores = Stores::<Entry>::open(memory.clone(), at, FlushBy::Caller).unwrap();
    append(&stores.log, 1..=3);
    assert!(matches!(check::<Entry>(&*memory, at), Err(StoreError::Locked { .. })));
    drop(stores);
    assert!(check::<Entry>(&*memory, at).unwrap().is_sound());
}

/// Entries that nobody has in memory are read again when a follower needs them: then it shows.
#[test]
fn a_bit_of_an_old_log_entry_is_found_when_it_is_read_for_a_follower() {
    const LARGE: usize = 400_000;
    let dir = folder();
    let Stores { log, soundness, .. } = open(dir.path()).unwrap();
    let write = |log: &Log<Entry>, index: u64| {
        let (sender, done) = channel();
        let text = format!("entry {index} {}", "x".repeat(LARGE));
        log.append(vec![Entry { index, text }], Box::new(move |result| sender.send(result).unwrap()));
        done.recv().unwrap().unwrap();
    };
    (1..=60).for_each(|index| write(&log, index));
    drop((log, soundness));
    let Stores { log, soundness, .. } = open(dir.path()).unwrap();
    assert_eq!(log.read(3..=3, None).unwrap()[0].index, 3, "24 MB, the tail keeps 16");
    for (table, len) in files(&dir.path().join("log")) {
        if table.to_string_lossy().ends_with(".sst") && len > 100 {
            // In place: the engine holds the file open, and the block of entry 3 in its cache.
            let path = dir.path().join("log").join(table);
            let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
            let mut byte = [0];
            for at in (0..len).step_by(64) {
                std::os::unix::fs::FileExt::read_exact_at(&file, &mut byte, at).unwrap();
                std::os::unix::fs::FileExt::write_all_at(&file, &[byte[0] ^ 1], at).unwrap();
            }
        }
    }
    let refused = log.read(1..=20, None).unwrap_err();
    assert!(matches!(refused, StoreError::Corrupt { .. }), "{refused}");
    assert!(soundness.cause().is_some(), "and noted");
    let (sender, done) = channel();
    log.save_vote(b"vote".to_vec(), Box::new(move |result| sender.send(result.is_err()).unwrap()));
    assert!(done.recv().unwrap(), "no vote any more");
}
