//! The chain hash: the same on every replica whatever the engine and the grouping, and another one as soon as a row is.

use crate::world::{
    Bench, World, accept, digest, found, found_at, job, mine, outcome, parts, record, set, sign, submit, take,
};
use saltern_store::command::{Command, JobCommand};
use saltern_store::kv::{Batch, Direction, Span, Table};
use saltern_store::{Item, Payload, Snapshots, Soundness, State};
use saltern_wire::level::{LEVEL, LEVEL_FIRST};
use saltern_wire::{JobId, LogicalTime};
use serde_json::json;

/// A life of a few dozen entries, with a tick now and then.
fn life(world: &mut World) -> Vec<Item> {
    let mut items = vec![world.item(found()), world.entry(Payload::Membership(vec![1, 2, 3]))];
    for number in 0..20 {
        let name = format!("web{number}");
        items.push(world.item(submit(&name)));
        items.push(world.item(accept(&name)));
    }
    for round in 0..12 {
        world.pass(30);
        let intent = job(world.now, round, &[1, 2, 3], 10_000);
        items.push(world.item(Command::Job(JobCommand::Open { job: sign(&intent) })));
        items.push(world.item(take(intent.jid, 1)));
        items.push(world.item(record(2, parts(intent.jid, &outcome(&format!("round {round}"), true)))));
        items.push(world.item(mine(3, "network.ip_addrs", Some(json!([round])), (1, round))));
        items.push(world.item(Command::Tick));
        items.push(world.entry(Payload::Blank));
    }
    items
}

#[test]
fn engine_grouping_and_restarts_do_not_show() {
    let mut kept = None;
    for bench in Bench::both() {
        let mut writer = World::new(&Bench::memory());
        let items = life(&mut writer);
        for group in [1, 7, items.len()] {
            let dir = bench.dir(&format!("grouped-{group}"));
            let open = || State::open(bench.engine.clone(), &dir, Soundness::new()).unwrap();
            let mut state = open();
            for (number, items) in items.chunks(group).enumerate() {
                state.apply(items).unwrap();
                if number == 3 {
                    state.flush().unwrap();
                    drop(state);
                    state = open();
                }
            }
            let found = (state.checks(), digest(&state));
            assert_eq!(found.0.len(), 12, "one for every tick");
            assert_eq!(*kept.get_or_insert(found.clone()), found, "{} by {group}", bench.name);
        }
    }
}

#[test]
fn below_its_level_there_is_no_hash_and_it_begins_where_the_level_rises() {
    let mut world = World::new(&Bench::memory());
    world.run(found_at(LEVEL_FIRST)).unwrap();
    world.run(Command::Tick).unwrap();
    assert_eq!(world.state.checks(), []);
    world.run(Command::Level { level: LEVEL }).unwrap();
    world.run(Command::Tick).unwrap();
    let checks = world.state.checks();
    assert_eq!(checks.iter().map(|check| check.index).collect::<Vec<_>>(), [4]);
}

/// Changes one row of a state behind the machine's back, through the engine: every checksum fits.
fn bend(bench: &Bench, table: Table, number: usize) {
    let kv = bench.engine.open_state(&bench.dir("state").join("state-1")).unwrap();
    let rows = kv.scan(table, &Span::all(), Direction::Forward, usize::MAX).unwrap();
    let (key, mut row) = rows[number].clone();
    let last = row.len() - 1;
    row[last] ^= 1;
    let mut batch = Batch::default();
    batch.put(table, key, row);
    kv.write(batch).unwrap();
    kv.flush().unwrap();
}

#[test]
fn a_row_that_no_command_reads_shows_within_one_round_of_the_patrol() {
    for (table, number) in [(Table::Returns, 5), (Table::Mine, 0), (Table::Progress, 11), (Table::Requests, 0)] {
        for bench in Bench::both() {
            let sound = Bench::memory();
            let mut worlds = [World::new(&bench), World::new(&sound)];
            for world in &mut worlds {
                let items = life(world);
                world.state.apply(&items).unwrap();
                // A request id, so that there is a first answer.
                let item =
                    world.item_as(Some(saltern_wire::RequestId::from_bytes([4; 16])), set("job_ttl_ms", json!(7)));
                world.state.apply(&[item]).unwrap();
                world.state.flush().unwrap();
            }
            let [bent, sound] = &mut worlds;
            let soundness = Soundness::new();
            bent.state = State::open(Bench::memory().engine, &bench.dir("elsewhere"), soundness.clone()).unwrap();
            bend(&bench, table, number);
            bent.state = State::open(bench.engine.clone(), &bench.dir("state"), soundness.clone()).unwrap();
            let mut differ = false;
            for _ in 0..4 {
                for world in [&mut *bent, &mut *sound] {
                    let tick = world.item(Command::Tick);
                    world.state.apply(&[tick]).unwrap();
                }
                let newest = |world: &World| *world.state.checks().last().unwrap();
                assert_eq!(newest(bent).index, newest(sound).index);
                differ |= newest(bent) != newest(sound);
            }
            assert!(differ, "{}: a bent row of {} stays unnoticed", bench.name, table.name());
            assert_eq!(soundness.cause(), None, "its checksums fit: only the others tell");
            bent.state.differs("its hash at entry 9 is another one");
            assert!(soundness.cause().unwrap().contains("entry 9"));
            assert!(bent.state.jobs(None, 1, false).is_err(), "nothing of it is served");
        }
    }
}

#[test]
fn the_hash_travels_with_a_snapshot() {
    for (source, target) in [(Bench::memory(), Bench::memory()), (Bench::rocks(), Bench::rocks())] {
        let mut from = World::new(&source);
        let items = life(&mut from);
        from.state.apply(&items).unwrap();
        let sending = Snapshots::open(source.engine.clone(), &source.dir("snapshots"), Soundness::new()).unwrap();
        let made = sending.create(&from.state).unwrap();
        assert!(made.manifest.chain.is_some());
        let receiving = Snapshots::open(target.engine.clone(), &target.dir("snapshots"), Soundness::new()).unwrap();
        let incoming = receiving.receive(made.manifest.clone()).unwrap();
        for piece in incoming.missing().unwrap() {
            let bytes = sending.read_chunk(&made.manifest.id, &piece.file, 0, 1 << 24).unwrap();
            incoming.write_chunk(&piece.file, 0, &bytes).unwrap();
        }
        let to = target.state();
        receiving.install(&to, &incoming.finish().unwrap()).unwrap();
        assert_eq!(to.checks(), from.state.checks());
        let tick = from.item(Command::Tick);
        for state in [&from.state, &to] {
            state.apply(std::slice::from_ref(&tick)).unwrap();
        }
        assert_eq!(to.checks(), from.state.checks(), "{}: it goes on where the other one is", source.name);
    }
}

#[test]
fn the_patrol_comes_round() {
    let mut world = World::new(&Bench::memory());
    world.run(found()).unwrap();
    for number in 0..600 {
        world.run(submit(&format!("web{number:03}"))).unwrap();
    }
    let before = digest(&world.state);
    let mut seen = Vec::new();
    for _ in 0..12 {
        world.run(Command::Tick).unwrap();
        seen.push(world.state.checks().last().unwrap().hash);
    }
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 12, "every entry has a hash of its own");
    assert_ne!(digest(&world.state), before);
    assert!(world.state.job(&JobId::mint(LogicalTime::ZERO, 1)).unwrap().is_none(), "it can be read");
}
