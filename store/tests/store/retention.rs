//! Results that were kept for their time are forgotten, give the disk back, and do not slow down what is read meanwhile.
//!
//! The short form runs with the suite; `RETENTION_RETURNS=1000000 cargo nextest run -p saltern-store --no-capture retention` writes as many
//! returns as one likes and prints its figures; `RETENTION_BYTES=1000` makes each of them longer.

use crate::world::{Bench, World, accept, found, found_at, id, job, outcome, parts, sign, submit};
use saltern_store::command::{Command, JobCommand};
use saltern_store::{Item, Snapshots, Soundness, State};
use saltern_wire::level::{LEVEL, LEVEL_FIRST};
use saltern_wire::{JobId, LogicalTime, Ordinal};
use serde_json::json;
use std::path::Path;
use std::time::Duration;

/// Minions that every job is for.
const MINIONS: u32 = 500;

/// Returns of the short form.
const RETURNS_SHORT: u64 = 50_000;

/// The machine's clock, for figures: nothing rests on it.
fn now() -> Duration {
    std::time::UNIX_EPOCH.elapsed().unwrap()
}

/// Bytes of all files in `folder`. The engine may remove some of them while they are looked at.
fn disk_use(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(found) if found.is_dir() => disk_use(&entry.path()),
        Ok(found) => found.len(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
        Err(error) => panic!("{}: {error}", entry.path().display()),
    };
    entries.map(size).sum()
}

/// A cluster with so many minions.
fn populated(bench: &Bench) -> World {
    let mut world = World::new(bench);
    world.run(found()).unwrap();
    for number in 1..=MINIONS {
        let name = format!("web{number}.example.org");
        let items = [world.item(submit(&name)), world.item(accept(&name))];
        world.state.apply(&items).unwrap();
    }
    world
}

/// Letters that no two returns share, as many as `RETENTION_BYTES` says.
fn noise(slot: u64, number: u32) -> String {
    let bytes = std::env::var("RETENTION_BYTES").map_or(64, |text| text.parse().unwrap());
    let mut noise = vec![0; bytes / 2];
    blake3::Hasher::new().update(format!("{slot} of {number}").as_bytes()).finalize_xof().fill(&mut noise);
    noise.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One job that every minion answers.
fn answered(world: &mut World, slot: u64) -> JobId {
    let everybody: Vec<u32> = (1..=MINIONS).collect();
    let intent = job(world.now, slot, &everybody, 60_000);
    let opening = world.item(Command::Job(JobCommand::Open { job: sign(&intent) }));
    // No two alike: what is alike is stored as next to nothing.
    let answer = |number: u32| {
        let word = noise(slot, number);
        let answer = outcome(&format!("Linux web{number} 6.12.0 #1 SMP x86_64 {word}"), true);
        (Ordinal(number), parts(intent.jid, &answer).remove(0))
    };
    let returns = everybody.iter().map(|number| answer(*number)).collect();
    let recording = world.item(Command::Job(JobCommand::Record { returns }));
    world.state.apply(&[opening, recording]).unwrap();
    intent.jid
}

/// How long the first page of jobs, a job and a tenth of a page of its returns take together.
fn reading(state: &State, jid: &JobId) -> Duration {
    let begin = now();
    state.jobs(None, 100, false).unwrap();
    state.job(jid).unwrap();
    state.returns_after(jid, None, 50).unwrap();
    now().saturating_sub(begin)
}

/// Ticks until nothing is due, a second each; the longest tick.
fn tick_until_forgotten(world: &mut World) -> (u32, Duration) {
    let (mut ticks, mut longest) = (0, Duration::ZERO);
    while !world.state.jobs(None, 1, false).unwrap().is_empty() {
        world.pass(1);
        let items: Vec<Item> = vec![world.item(Command::Tick)];
        let begin = now();
        world.state.apply(&items).unwrap();
        longest = longest.max(now().saturating_sub(begin));
        ticks += 1;
        assert!(ticks < 100_000, "ticks come to no end");
    }
    (ticks, longest)
}

#[test]
fn a_million_returns_come_and_go() {
    let wanted = std::env::var("RETENTION_RETURNS").ok().map(|text| text.parse::<u64>().unwrap());
    let jobs = wanted.unwrap_or(RETURNS_SHORT) / u64::from(MINIONS);
    let bench = Bench::rocks();
    let mut world = populated(&bench);
    let folder = bench.dir("state");
    let newest = answered(&mut world, 0);
    world.state.flush().unwrap();
    // The engine's own files of an open and the one before it: they are there at the end as well.
    drop(world.state);
    world.state = bench.state();
    let (start, read_start) = (disk_use(&folder), reading(&world.state, &newest));

    let begin = now();
    let mut newest = newest;
    for slot in 1..=jobs {
        world.pass(1);
        newest = answered(&mut world, slot % 100);
    }
    let wrote = now().saturating_sub(begin);
    world.state.flush().unwrap();
    let (full, read_full) = (disk_use(&folder), reading(&world.state, &newest));
    assert!(full > start + 20 * jobs * u64::from(MINIONS), "{full} bytes are too few for {jobs} jobs");

    let (begin, snapshots) = (now(), bench.dir("snapshots"));
    let made =
        Snapshots::open(bench.engine.clone(), &snapshots, Soundness::new()).unwrap().create(&world.state).unwrap();
    let snapshot = now().saturating_sub(begin);
    drop(world.state);
    let begin = now();
    world.state = bench.state();
    let reopened = now().saturating_sub(begin);
    assert_eq!(made.manifest.applied, world.state.applied_index());
    bench.engine.remove(&snapshots).unwrap();

    world.pass(26 * 3600);
    let (ticks, longest) = tick_until_forgotten(&mut world);
    let begin = now();
    while world.state.reclaim().unwrap() {}
    let reclaimed = now().saturating_sub(begin);
    let newest = answered(&mut world, 7);
    world.state.flush().unwrap();
    let (end, read_end) = (disk_use(&folder), reading(&world.state, &newest));
    if wanted.is_some() {
        let figures = json!({
            "name": "retention",
            "returns": jobs * u64::from(MINIONS),
            "start_bytes": start,
            "full_bytes": full,
            "end_bytes": end,
            "write_s": wrote.as_secs_f64(),
            "snapshot_s": snapshot.as_secs_f64(),
            "reopen_s": reopened.as_secs_f64(),
            "ticks": ticks,
            "longest_tick_s": longest.as_secs_f64(),
            "reclaim_s": reclaimed.as_secs_f64(),
            "read_start_s": read_start.as_secs_f64(),
            "read_full_s": read_full.as_secs_f64(),
            "read_end_s": read_end.as_secs_f64(),
        });
        println!("{figures}");
    }
    assert!(end <= start + start / 5, "{start} bytes at the start, {full} with the returns, {end} at the end");
    let reads = (read_start, read_full, read_end);
    assert!(read_end < Duration::from_millis(50) && read_full < Duration::from_millis(50), "{reads:?}");
}

#[test]
fn a_job_that_is_held_splits_what_is_forgotten_and_stays_whole() {
    for bench in Bench::both() {
        let mut world = populated(&bench);
        let mut jids = Vec::new();
        for slot in 0..12 {
            world.pass(60);
            // One is never answered, and one a day later than the others.
            let jid = if slot % 5 == 3 { world.open(slot, &[1, 2]) } else { answered(&mut world, slot) };
            jids.push(jid);
        }
        let (open, late) = (jids[3], jids[8]);
        let accepted = vec![(open, Ordinal(1)), (late, Ordinal(1)), (open, Ordinal(2)), (late, Ordinal(2))];
        world.run(Command::Job(JobCommand::Accept { accepted })).unwrap();
        world.pass(23 * 3600);
        for ordinal in [1, 2] {
            let part = parts(late, &outcome("late", true)).remove(0);
            world.run(Command::Job(JobCommand::Record { returns: vec![(Ordinal(ordinal), part)] })).unwrap();
        }
        world.pass(2 * 3600);
        world.run(Command::Tick).unwrap();
        let held: Vec<_> = world.state.jobs(None, 99, false).unwrap().iter().map(|job| job.jid).collect();
        assert_eq!(held, [late, open], "{}", bench.name);
        assert_eq!(world.state.returns(&late).unwrap().len(), 2);
        assert_eq!(world.state.job(&open).unwrap().unwrap().accepted.len(), 2);
        for jid in jids.iter().filter(|jid| !held.contains(jid)) {
            assert_eq!(world.state.returns(jid).unwrap(), [], "{}", bench.name);
            assert_eq!(world.state.progress(jid).unwrap(), []);
        }
        // Forgotten jobs are not due any more, and reclaiming changes nothing that is read.
        let before = world.state.digest().unwrap();
        assert!(world.state.reclaim().unwrap());
        assert!(world.state.reclaim().unwrap(), "what was forgotten since the start");
        assert!(!world.state.reclaim().unwrap(), "nothing is left");
        assert_eq!(world.state.digest().unwrap(), before);
        world.pass(24 * 3600);
        world.run(Command::Tick).unwrap();
        let held: Vec<_> = world.state.jobs(None, 99, false).unwrap().iter().map(|job| job.jid).collect();
        assert_eq!(held, [open], "{}", bench.name);
        assert_eq!(world.state.name_of(Ordinal(1)), Some(id("web1.example.org")));
    }
}

#[test]
fn what_is_due_is_known_to_the_second_and_forgotten_by_the_bucket() {
    for (level, expect_late) in [(LEVEL_FIRST, 0), (LEVEL, 3600)] {
        let mut world = World::new(&Bench::memory());
        world.run(found_at(level)).unwrap();
        world.enrol(&["web1"]);
        world.pass(3600);
        let jid = world.open(1, &[1]);
        world
            .run(Command::Job(JobCommand::Record {
                returns: vec![(Ordinal(1), parts(jid, &outcome("x", true)).remove(0))],
            }))
            .unwrap();
        let due = world.state.next_due().unwrap().unwrap();
        let done = world.state.job(&jid).unwrap().unwrap().done.unwrap();
        let late = due.since(done.plus(Duration::from_secs(24 * 3600)));
        assert!(late <= Duration::from_secs(expect_late), "level {level}: {late:?}");
        world.now = LogicalTime::from_unix_micros(due.unix_micros() - 1_000);
        world.run(Command::Tick).unwrap();
        assert!(world.state.job(&jid).unwrap().is_some(), "level {level}: it goes too early");
        world.now = due;
        world.run(Command::Tick).unwrap();
        assert!(world.state.job(&jid).unwrap().is_none(), "level {level}: it is due");
    }
}

#[test]
fn the_first_page_of_jobs_costs_the_same_however_many_there_are() {
    let bench = Bench::rocks();
    let mut world = populated(&bench);
    for slot in 0..5_000_u64 {
        world.pass(1);
        world.open(slot % 100, &[1 + u32::try_from(slot % 500).unwrap()]);
    }
    world.state.flush().unwrap();
    let mut best = Duration::MAX;
    for _ in 0..5 {
        let begin = now();
        assert_eq!(world.state.jobs(None, 100, false).unwrap().len(), 100);
        best = best.min(now().saturating_sub(begin));
    }
    assert!(best < Duration::from_millis(50), "the first page of 5,000 jobs took {best:?}");
    let before = world.state.jobs(None, 4_900, false).unwrap().last().unwrap().jid;
    assert_eq!(world.state.jobs(Some(before), 1_000, false).unwrap().len(), 100, "the last page is there as well");
}
