//! The feature level: what is above it is refused alike everywhere, and what a newer build wrote is not called corrupt.

use crate::entry::{Entry, OF_A_NEWER_BUILD, entries};
use crate::world::{Bench, World, deliver, digest, found_at, outcome, parts, record, set, take};
use saltern_store::command::{Command, Refused, Reply};
use saltern_store::{FlushBy, Log, LogEntry, Soundness, State, StoreError, Verdict};
use saltern_wire::job::{Progress, Recorded};
use saltern_wire::level::{LEVEL, LEVEL_FIRST};
use serde_json::json;
use std::sync::mpsc;

#[test]
fn the_level_rises_and_never_falls() {
    for bench in Bench::both() {
        let mut world = World::new(&bench);
        world.run(found_at(LEVEL_FIRST)).unwrap();
        assert_eq!(world.state.level(), LEVEL_FIRST);
        world.run(Command::Level { level: LEVEL }).unwrap();
        world.run(Command::Level { level: LEVEL_FIRST }).unwrap();
        assert_eq!(world.state.level(), LEVEL, "{}: an old proposal comes late", bench.name);
        world.state.flush().unwrap();
        drop(world);
        assert_eq!(bench.state().level(), LEVEL, "{}", bench.name);
    }
}

#[test]
fn a_founder_brings_its_own_level() {
    let mut world = World::new(&Bench::memory());
    world.run(found_at(LEVEL)).unwrap();
    assert_eq!(world.state.level(), LEVEL);
}

#[test]
fn a_setting_of_a_later_level_waits_for_it() {
    let mut world = World::new(&Bench::memory());
    world.run(found_at(LEVEL_FIRST)).unwrap();
    let before = digest(&world.state);
    let later = set("snapshot_mib_per_second", json!(5));
    let Err(Refused::Conflict(cause)) = world.run(later.clone()) else { panic!("it is taken") };
    assert!(cause.contains("feature level 2") && cause.contains("stands at 1"), "{cause}");
    assert_ne!(digest(&world.state), before, "time has passed");
    world.run(set("job_ttl_ms", json!(5))).unwrap();
    world.run(Command::Level { level: LEVEL }).unwrap();
    world.run(later).unwrap();
    assert_eq!(world.state.settings().snapshot_mib_per_second, 5);
    assert_eq!(world.state.settings().job_ttl_ms, 5);
}

#[test]
fn acceptances_and_returns_of_one_entry_wait_for_their_level_and_mean_what_two_entries_mean() {
    let [mut apart, mut together] = [Bench::memory(), Bench::memory()].map(|bench| World::new(&bench));
    let mut jids = Vec::new();
    for world in [&mut apart, &mut together] {
        world.run(found_at(LEVEL_FIRST)).unwrap();
        world.enrol(&["web1", "web2"]);
        jids.push(world.open(1, &[1, 2]));
    }
    assert_eq!(jids[0], jids[1]);
    let jid = jids[0];
    assert!(matches!(together.run(deliver(jid, 1, 2)), Err(Refused::Conflict(cause)) if cause.contains("level 3")));
    together.run(Command::Level { level: LEVEL }).unwrap();
    apart.run(take(jid, 1)).unwrap();
    apart.run(record(2, parts(jid, &outcome("true", true)))).unwrap();
    assert_eq!(together.run(deliver(jid, 1, 2)).unwrap(), Reply::Recorded(vec![Recorded::Committed]));
    assert_eq!(together.state.progress(&jid).unwrap(), apart.state.progress(&jid).unwrap());
    // An acceptance beside the answer that it led to.
    together.run(deliver(jid, 1, 1)).unwrap();
    let all = together.state.progress(&jid).unwrap();
    assert!(all.iter().all(|(_, _, progress)| *progress == Progress::Returned), "{all:?}");
    assert!(together.state.open_jobs().is_empty(), "the job is done");
}

#[test]
fn a_level_that_this_build_does_not_know_stops_it_and_is_not_corruption() {
    for bench in Bench::both() {
        let soundness = Soundness::new();
        let mut world = World::new(&bench);
        world.run(found_at(LEVEL)).unwrap();
        world.state.flush().unwrap();
        world.state = {
            drop(world.state);
            State::open(bench.engine.clone(), &bench.dir("state"), soundness.clone()).unwrap()
        };
        let item = world.item(Command::Level { level: LEVEL + 1 });
        let refused = world.state.apply(&[item]).unwrap_err();
        assert!(matches!(refused, StoreError::Newer(_)), "{}: {refused}", bench.name);
        let said = soundness.newer().unwrap();
        let expect = format!("feature level {}", LEVEL + 1);
        assert!(said.contains(&expect) && said.contains("log entry 2") && said.contains("Nothing is"), "{said}");
        assert_eq!((soundness.cause(), soundness.failure()), (None, None), "nothing is wrong with the data");
        let tick = world.item(Command::Tick);
        assert!(matches!(world.state.apply(&[tick]), Err(StoreError::Broken)), "nothing behind it is applied");
    }
}

#[test]
fn a_log_of_a_newer_build_is_refused_by_name() {
    for bench in Bench::both() {
        let dir = bench.dir("log");
        let open = || Log::<Entry>::open(&*bench.engine, &dir, FlushBy::Caller, Soundness::new());
        let log = open().unwrap();
        let (sender, durable) = mpsc::channel();
        let mut kept = entries(1..=3);
        kept[2].text = OF_A_NEWER_BUILD.into();
        assert!(Entry::newer(&kept[2].encode()).is_some());
        log.append(kept, Box::new(move |done| sender.send(done).unwrap()));
        durable.recv().unwrap().unwrap();
        drop(log);
        let Err(StoreError::Newer(newer)) = open().map(drop) else { panic!("{}: it is opened", bench.name) };
        assert!(newer.what.contains("log entry 3") && newer.needs.contains("format version 9"), "{newer}");
        let report = saltern_store::check::<Entry>(&*bench.engine, &bench.dir("")).unwrap();
        assert!(report.is_newer() && report.cause().is_none(), "{report:?}");
        assert!(report.items.iter().any(|item| item.what == "the log" && item.verdict == Verdict::Newer));
    }
}
