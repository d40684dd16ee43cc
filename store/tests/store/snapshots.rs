//! Snapshots: made, streamed, interrupted, resumed, installed; and what a crash in the middle leaves.

use crate::world::{Bench, World, current, digest, outcome, parts, record};
use saltern_store::command::Command;
use saltern_store::kv::Engine;
use saltern_store::kv::memory::MemoryEngine;
use saltern_store::{Manifest, Receiving, Snapshot, Snapshots, Soundness, State, StoreError};
use saltern_wire::LogicalTime;
use std::path::Path;
use std::sync::Arc;

fn snapshots(bench: &Bench) -> Snapshots {
    Snapshots::open(bench.engine.clone(), &bench.dir("snapshots"), Soundness::new()).unwrap()
}

/// A state with some content, the number of which shows in its digest.
fn filled(bench: &Bench, jobs: u64) -> World {
    let mut world = World::new(bench);
    world.enrol(&["a", "b"]);
    for _ in 0..jobs {
        world.pass(1);
        let jid = world.open(0, &[1, 2]);
        world.run(record(1, parts(jid, &outcome(&"x".repeat(5000), true)))).unwrap();
    }
    world
}

/// Sends up to `chunks` pieces of what is missing; whether all of it has been sent then.
fn stream(from: &Snapshots, to: &Receiving, len: usize, chunks: usize) -> bool {
    for _ in 0..chunks {
        let Some(piece) = to.missing().unwrap().into_iter().next() else { return true };
        let bytes = from.read_chunk(&to.manifest().id, &piece.file, piece.offset, len).unwrap();
        to.write_chunk(&piece.file, piece.offset, &bytes).unwrap();
    }
    to.missing().unwrap().is_empty()
}

/// Bytes that have come.
fn here(receiving: &Receiving) -> u64 {
    receiving.manifest().bytes() - receiving.missing().unwrap().iter().map(|piece| piece.len).sum::<u64>()
}

#[test]
fn a_snapshot_is_streamed_with_an_interruption_and_installed() {
    for (source, target) in [(Bench::memory(), Bench::memory()), (Bench::rocks(), Bench::rocks())] {
        let mut from = filled(&source, 40);
        let sending = snapshots(&source);
        let made = sending.create(&from.state).unwrap();
        assert_eq!(made.manifest.applied, from.state.applied_index());
        assert_eq!(made.manifest.position, from.state.position());
        assert_eq!(sending.create(&from.state).unwrap(), made, "nothing was applied in between");
        let frozen = digest(&from.state);
        from.run(Command::Tick).unwrap();

        let mut to = filled(&target, 3);
        let receiving = snapshots(&target);
        // The manifest travels as bytes.
        let manifest = Manifest::decode(&made.manifest.encode()).unwrap();
        let partial = receiving.receive(manifest.clone()).unwrap();
        assert!(!stream(&sending, &partial, 700, 5), "interrupted");
        let came = here(&partial);
        assert!(came > 0);
        assert!(partial.finish().is_err(), "not whole yet");
        drop(receiving);
        let receiving = snapshots(&target);
        let rest = receiving.receive(manifest).unwrap();
        assert_eq!(here(&rest), came, "{}: what had come before counts", source.name);
        assert!(stream(&sending, &rest, 100_000, 1000));
        let received = rest.finish().unwrap();
        assert_eq!(receiving.current(), Some(received.clone()));
        receiving.install(&to.state, &received).unwrap();

        assert_eq!(digest(&to.state), frozen, "{}", source.name);
        assert_eq!(to.state.position(), made.manifest.position);
        assert_eq!(to.state.counts().open_jobs, 40);
        // It goes on, and is the same after reopening.
        to.next = to.state.applied_index() + 1;
        to.run(Command::Tick).unwrap();
        let after = digest(&to.state);
        assert_eq!(after, digest(&from.state), "{}", source.name);
        drop(to);
        assert_eq!(digest(&target.state()), after);
        assert_eq!(snapshots(&target).current(), Some(received));
    }
}

#[test]
fn a_file_that_was_changed_on_the_way_is_received_anew() {
    for (source, target) in [(Bench::memory(), Bench::memory()), (Bench::rocks(), Bench::rocks())] {
        let from = filled(&source, 5);
        let sending = snapshots(&source);
        let made = sending.create(&from.state).unwrap();
        let receiving = snapshots(&target);
        let file = made.manifest.files.iter().max_by_key(|file| file.len).unwrap().clone();
        let half = receiving.receive(made.manifest.clone()).unwrap();
        let mut bytes = sending.read_chunk(&made.manifest.id, &file.name, 0, 100).unwrap();
        bytes[50] ^= 1;
        half.write_chunk(&file.name, 0, &bytes).unwrap();
        assert!(stream(&sending, &half, 100_000, 1000));
        let refused = half.finish().unwrap_err().to_string();
        assert!(refused.contains(&file.name) && refused.contains("digest"), "{refused}");
        assert_eq!(receiving.current(), None);
        let again = receiving.receive(made.manifest.clone()).unwrap();
        assert_eq!(again.missing().unwrap().len(), 1, "only that file");
        assert!(stream(&sending, &again, 100_000, 1000));
        assert_eq!(again.finish().unwrap(), made);
    }
}

#[test]
fn pieces_must_fit_where_they_are_said_to_belong() {
    let bench = Bench::memory();
    let from = filled(&bench, 1);
    let snapshots = snapshots(&bench);
    let made = snapshots.create(&from.state).unwrap();
    let other = Bench::memory();
    let to = Snapshots::open(other.engine.clone(), &other.dir("snapshots"), Soundness::new()).unwrap();
    let receiving = to.receive(made.manifest.clone()).unwrap();
    let file = &made.manifest.files[0];
    assert!(receiving.write_chunk("../escape", 0, b"x").is_err());
    assert!(receiving.write_chunk(&file.name, 5, b"x").is_err(), "a hole");
    assert!(receiving.write_chunk(&file.name, file.len, b"x").is_err(), "beyond the end");
    receiving.write_chunk(&file.name, 0, b"abc").unwrap();
    receiving.write_chunk(&file.name, 0, b"abc").unwrap();
    assert_eq!(receiving.missing().unwrap()[0].offset, 3, "a repeated piece is taken once");
    assert!(snapshots.read_chunk(&made.manifest.id, "../CURRENT", 0, 9).is_err());
    assert!(snapshots.read_chunk("00", &file.name, 0, 9).is_err());
}

#[test]
fn the_snapshot_before_the_current_one_stays_for_slow_receivers_and_older_ones_go() {
    for bench in Bench::both() {
        let mut world = filled(&bench, 2);
        let snapshots = snapshots(&bench);
        let mut ids = Vec::new();
        let mut first = None;
        for _ in 0..3 {
            let made = snapshots.create(&world.state).unwrap();
            ids.push(made.manifest.id.clone());
            first.get_or_insert(made);
            world.run(Command::Tick).unwrap();
        }
        let names = bench.engine.list(&bench.dir("snapshots")).unwrap();
        let expect: Vec<_> = ids[1..].iter().flat_map(|id| [id.clone(), format!("{id}.manifest")]).collect();
        assert_eq!(names, expect, "{}", bench.name);
        let first = first.unwrap();
        assert!(matches!(snapshots.install(&world.state, &first), Err(StoreError::Snapshot { .. })));
        let file = &snapshots.current().unwrap().manifest.files[0].name;
        assert!(snapshots.read_chunk(&ids[1], file, 0, 10).is_ok());
        assert!(snapshots.read_chunk(&ids[0], file, 0, 10).is_err());
    }
}

#[test]
fn a_torn_snapshot_is_not_served() {
    for bench in Bench::both() {
        let world = filled(&bench, 2);
        let made = snapshots(&bench).create(&world.state).unwrap();
        let file = made.manifest.files.iter().find(|file| file.len > 0).unwrap();
        let path = bench.dir("snapshots").join(&made.manifest.id).join(&file.name);
        bench.engine.remove(&path).unwrap();
        let refused = Snapshots::open(bench.engine.clone(), &bench.dir("snapshots"), Soundness::new()).err().unwrap();
        assert!(matches!(refused, StoreError::Corrupt { .. }), "{refused}");
        assert!(refused.to_string().contains(&file.name), "{refused}");
    }
}

/// On both engines: what the interruptions leave is laid out by hand. All points of interruption: [`crashes`](crate::crashes).
/// A leader may send a snapshot while this master makes one of its own: the crash loop met a checkpoint of which a file was gone.
#[test]
fn beginning_to_receive_leaves_a_checkpoint_under_way_alone() {
    let (source, target) = (Bench::rocks(), Bench::rocks());
    let manifest = snapshots(&source).create(&filled(&source, 1).state).unwrap().manifest;
    let receiving = snapshots(&target);
    let file = target.dir("snapshots").join("making.tmp").join("000007.sst");
    target.engine.make_folder(file.parent().unwrap()).unwrap();
    target.engine.append_file(&file, b"linked a moment ago").unwrap();
    let _begun = receiving.receive(manifest).unwrap();
    assert!(target.engine.file_len(&file).unwrap().is_some(), "it is the engine's");
    drop(receiving);
    drop(snapshots(&target));
    assert_eq!(target.engine.file_len(&file).unwrap(), None, "what a crash left is cleared away");
}

#[test]
fn what_an_interrupted_install_leaves_is_cleared_away() {
    for bench in Bench::both() {
        let world = filled(&bench, 2);
        let before = digest(&world.state);
        let snapshots = snapshots(&bench);
        let made = snapshots.create(&world.state).unwrap();
        drop(world);
        // Copied, not yet current: the old state stands.
        let (from, next) = (bench.dir("snapshots").join(&made.manifest.id), bench.dir("state").join("state-2"));
        bench.engine.clone_folder(&from, &next).unwrap();
        let state = bench.state();
        assert_eq!(digest(&state), before, "{}", bench.name);
        assert_eq!(bench.engine.list(&bench.dir("state")).unwrap(), ["CURRENT", "state-1"]);
        drop(state);
        // Current, the old one not yet removed: the new state stands.
        bench.engine.clone_folder(&from, &next).unwrap();
        bench.engine.replace_file(&bench.dir("state").join("CURRENT"), &current(2)).unwrap();
        let state = bench.state();
        assert_eq!(digest(&state), before, "{}", bench.name);
        assert_eq!(bench.engine.list(&bench.dir("state")).unwrap(), ["CURRENT", "state-2"]);
        // A folder without its manifest, and one being made: neither is a snapshot.
        for name in ["making", "00000000000000000009-0000000000000000"] {
            bench.engine.clone_folder(&from, &bench.dir("snapshots").join(name)).unwrap();
        }
        let reopened = Snapshots::open(bench.engine.clone(), &bench.dir("snapshots"), Soundness::new()).unwrap();
        assert_eq!(reopened.current(), Some(made.clone()));
        let names = bench.engine.list(&bench.dir("snapshots")).unwrap();
        assert_eq!(names, [made.manifest.id.clone(), format!("{}.manifest", made.manifest.id)], "{}", bench.name);
    }
}

#[test]
fn a_power_cut_after_an_install_leaves_the_installed_state() {
    let source = Bench::memory();
    let from = filled(&source, 4);
    let sending = snapshots(&source);
    let made = sending.create(&from.state).unwrap();
    let disk = MemoryEngine::new();
    let engine: Arc<dyn Engine> = Arc::new(disk.clone());
    let open = || State::open(engine.clone(), Path::new("m/state"), Soundness::new()).unwrap();
    let folder = || Snapshots::open(engine.clone(), Path::new("m/snapshots"), Soundness::new()).unwrap();
    let receiving = folder();
    let half = receiving.receive(made.manifest.clone()).unwrap();
    stream(&sending, &half, 500, 3);
    disk.crash();
    // Unsynced pieces are gone, the reception starts with what is there.
    let receiving = folder();
    let half = receiving.receive(made.manifest.clone()).unwrap();
    assert!(stream(&sending, &half, 5000, 1000));
    let received: Snapshot = half.finish().unwrap();
    disk.crash();
    let receiving = folder();
    assert_eq!(receiving.current(), Some(received.clone()));
    let state = open();
    assert_eq!(state.time(), LogicalTime::ZERO);
    receiving.install(&state, &received).unwrap();
    disk.crash();
    assert_eq!(digest(&open()), digest(&from.state));
}

#[test]
fn a_snapshot_that_somebody_reads_stays_however_many_newer_ones_are_made() {
    for bench in Bench::both() {
        let mut world = filled(&bench, 2);
        let snapshots = snapshots(&bench);
        let first = snapshots.create(&world.state).unwrap().manifest;
        let held = snapshots.hold(&first.id);
        for _ in 0..4 {
            world.run(Command::Tick).unwrap();
            snapshots.create(&world.state).unwrap();
        }
        let file = &first.files[0].name;
        assert!(snapshots.read_chunk(&first.id, file, 0, 10).is_ok(), "{}: a slow receiver goes on", bench.name);
        drop(held);
        world.run(Command::Tick).unwrap();
        snapshots.create(&world.state).unwrap();
        assert!(snapshots.read_chunk(&first.id, file, 0, 10).is_err(), "{}", bench.name);
        assert_eq!(bench.engine.list(&bench.dir("snapshots")).unwrap().len(), 4, "two, and what describes them");
    }
}

#[test]
fn what_came_of_an_older_snapshot_does_not_travel_again() {
    let (source, target) = (Bench::rocks(), Bench::rocks());
    let mut from = filled(&source, 400);
    let sending = snapshots(&source);
    let first = sending.create(&from.state).unwrap().manifest;
    let receiving = snapshots(&target);
    let partial = receiving.receive(first.clone()).unwrap();
    let mut large: Vec<_> = first.files.iter().filter(|file| file.name.ends_with(".sst")).collect();
    large.sort_by_key(|file| std::cmp::Reverse(file.len));
    let [whole, half] = [&large[0], &large[1]];
    let all = sending.read_chunk(&first.id, &whole.name, 0, 1 << 24).unwrap();
    partial.write_chunk(&whole.name, 0, &all).unwrap();
    let some = sending.read_chunk(&first.id, &half.name, 0, 1000).unwrap();
    partial.write_chunk(&half.name, 0, &some).unwrap();
    drop(partial);

    from.run(Command::Tick).unwrap();
    let second = sending.create(&from.state).unwrap();
    assert_ne!(second.manifest.id, first.id);
    let rest = receiving.receive(second.manifest.clone()).unwrap();
    assert_eq!(here(&rest), whole.len + 1000, "tables that both have");
    assert!(stream(&sending, &rest, 100_000, 1000));
    let received = rest.finish().unwrap();
    let to = target.state();
    receiving.install(&to, &received).unwrap();
    assert_eq!(digest(&to), digest(&from.state));
    let names = target.engine.list(&target.dir("snapshots")).unwrap();
    assert_eq!(names.len(), 2, "nothing is left of the first one: {names:?}");

    // One that came whole counts as well: the next one brings what is new.
    from.run(Command::Tick).unwrap();
    let third = sending.create(&from.state).unwrap();
    let rest = receiving.receive(third.manifest.clone()).unwrap();
    assert!(here(&rest) >= whole.len + half.len, "{} of {} bytes are here", here(&rest), third.manifest.bytes());
    assert!(stream(&sending, &rest, 100_000, 1000));
    receiving.install(&to, &rest.finish().unwrap()).unwrap();
    assert_eq!(digest(&to), digest(&from.state));
}

#[test]
fn a_snapshot_is_made_while_entries_are_applied_and_stands_between_two_calls() {
    let bench = Bench::rocks();
    let mut world = filled(&bench, 50);
    let snapshots = snapshots(&bench);
    let items: Vec<_> = (0..400).map(|_| world.item(Command::Tick)).collect();
    let made = std::thread::scope(|scope| {
        let state = &world.state;
        let making = scope.spawn(|| (0..4).map(|_| snapshots.create(state).unwrap()).collect::<Vec<_>>());
        for pair in items.chunks(2) {
            state.apply(pair).unwrap();
        }
        making.join().unwrap()
    });
    let first = items[0].index;
    for snapshot in made {
        let at = snapshot.manifest.applied;
        assert_eq!((at + 1 - first) % 2, 0, "it stands between the two entries of one call: {at}");
        assert_eq!(snapshot.manifest.position, Some(format!("1.{at}").into_bytes()));
    }
}
