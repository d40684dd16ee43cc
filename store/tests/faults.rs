//! Fault points of the store: what a write that fails at each of them leaves behind.
//!
//! A binary of its own: armed faults belong to the whole process, and no other test may meet them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

#[path = "store/entry.rs"]
mod entry;
#[path = "store/world.rs"]
#[allow(dead_code, reason = "shared with the store's other tests")]
mod world;

use entry::{Entry, entries, entry};
use saltern_store::command::Command;
use saltern_store::kv::memory::MemoryEngine;
use saltern_store::{FlushBy, Log, Snapshots, Soundness, StoreError};
use saltern_wire::fault;
use std::path::Path;
use std::sync::mpsc::channel;
use std::sync::{Mutex, MutexGuard, PoisonError};
use world::{Bench, World, digest};

/// One test at a time: the table of armed faults is the process's.
static ALONE: Mutex<()> = Mutex::new(());

fn armed(spec: &str) -> MutexGuard<'static, ()> {
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    fault::clear();
    fault::arm(fault::parse(spec).unwrap());
    alone
}

/// Appends and says how it went.
fn append(log: &Log<Entry>, new: Vec<Entry>) -> Result<(), String> {
    let (sender, outcome) = channel();
    log.append(new, Box::new(move |result| sender.send(result).unwrap()));
    outcome.recv().unwrap().map_err(|error| error.to_string())
}

#[test]
fn a_group_that_fails_is_not_acknowledged() {
    for point in ["log.append.before", "log.sync.before"] {
        let _alone = armed(&format!("{point}=error@2"));
        let (disk, dir) = (MemoryEngine::new(), Path::new("m/log"));
        let log = Log::<Entry>::open(&disk, dir, FlushBy::Caller, Soundness::new()).unwrap();
        append(&log, entries(1..=3)).unwrap();
        let refused = append(&log, vec![entry(4)]).unwrap_err();
        assert!(refused.contains(point) && refused.contains("m/log"), "{refused}");
        disk.crash();
        let log = Log::<Entry>::open(&disk, dir, FlushBy::Caller, Soundness::new()).unwrap();
        assert_eq!(log.read(.., None).unwrap(), entries(1..=3), "{point}");
    }
}

#[test]
fn a_snapshot_that_gets_no_name_leaves_the_one_before_it() {
    let _alone = armed("snapshot.rename.before=error@2");
    for bench in Bench::both() {
        fault::arm(fault::parse("snapshot.rename.before=error@2").unwrap());
        let mut world = World::new(&bench);
        let open = || Snapshots::open(bench.engine.clone(), &bench.dir("snapshots"), Soundness::new()).unwrap();
        let snapshots = open();
        world.enrol(&["a"]);
        let first = snapshots.create(&world.state).unwrap();
        world.run(Command::Tick).unwrap();
        let refused = snapshots.create(&world.state).unwrap_err();
        assert!(matches!(refused, StoreError::Engine { .. }), "{refused}");
        assert_eq!(snapshots.current(), Some(first.clone()), "{}", bench.name);
        assert_eq!(open().current(), Some(first), "{}", bench.name);
        assert_eq!(open().create(&world.state).unwrap().manifest.applied, world.state.applied_index());
    }
}

#[test]
fn an_install_that_fails_leaves_the_old_state_and_can_be_repeated() {
    let _alone = armed("snapshot.install.before=error");
    for bench in Bench::both() {
        fault::arm(fault::parse("snapshot.install.before=error").unwrap());
        let mut world = World::new(&bench);
        let snapshots = Snapshots::open(bench.engine.clone(), &bench.dir("snapshots"), Soundness::new()).unwrap();
        world.enrol(&["a"]);
        let made = snapshots.create(&world.state).unwrap();
        let then = digest(&world.state);
        world.enrol(&["b"]);
        let now = digest(&world.state);
        assert!(snapshots.install(&world.state, &made).is_err());
        assert_eq!(digest(&world.state), now, "{}", bench.name);
        snapshots.install(&world.state, &made).unwrap();
        assert_eq!(digest(&world.state), then, "{}", bench.name);
    }
}

/// Votes and entries are refused after a failed mark as after a failed log: nobody knows what the disk still takes.
#[test]
fn a_mark_that_cannot_be_written_ends_the_log() {
    for flush in [FlushBy::Caller, FlushBy::Thread] {
        let _alone = armed("mark.write.before=error@2");
        let bench = Bench::rocks();
        let soundness = Soundness::new();
        let log = Log::<Entry>::open(bench.engine.as_ref(), &bench.dir("log"), flush, soundness.clone()).unwrap();
        append(&log, vec![entry(1)]).unwrap();
        // With a thread, the failure is known at the latest when the group after the next one is to begin.
        let failed = (2..=4).find_map(|index| append(&log, vec![entry(index)]).err().map(|error| (index, error)));
        let (index, _) = failed.expect("a group is refused");
        assert!(index == 2 || flush == FlushBy::Thread, "group {index}");
        let failure = soundness.failure().expect("it is noted");
        assert!(failure.contains("mark.write.before"), "{failure}");
        assert_eq!(soundness.cause(), None, "a write that failed is no corruption");
        let (sender, refused) = channel();
        log.save_vote(b"vote".to_vec(), Box::new(move |result| sender.send(result.is_err()).unwrap()));
        assert!(refused.recv().unwrap(), "no vote");
        drop(log);
        let reopened = Log::<Entry>::open(bench.engine.as_ref(), &bench.dir("log"), flush, Soundness::new()).unwrap();
        let found = reopened.read(.., None).unwrap();
        assert!(found.len() as u64 >= index - 1, "what was acknowledged is there: {found:?}");
    }
}

#[test]
fn a_thread_whose_write_fails_tells_everybody_and_ends() {
    for point in ["log.append.before", "log.sync.before"] {
        let _alone = armed(&format!("{point}=error@2"));
        let bench = Bench::rocks();
        let soundness = Soundness::new();
        let log =
            Log::<Entry>::open(bench.engine.as_ref(), &bench.dir("log"), FlushBy::Thread, soundness.clone()).unwrap();
        append(&log, entries(1..=3)).unwrap();
        assert!(append(&log, vec![entry(4)]).unwrap_err().contains(point));
        assert!(append(&log, vec![entry(5)]).unwrap_err().contains("restart this master"));
        assert!(soundness.failure().is_some_and(|failure| failure.contains(point)));
        drop(log);
        let log =
            Log::<Entry>::open(bench.engine.as_ref(), &bench.dir("log"), FlushBy::Thread, Soundness::new()).unwrap();
        let found = log.read(.., None).unwrap();
        assert_eq!(found[..3], entries(1..=3), "{point}");
    }
}
