//! Jobs that go to so many minions at a time, on both engines: never more than their width, to the end, whatever happens to
//! minions, and the same after the state was opened anew.

use crate::world::{
    Bench, World, accept, cluster, delete, digest, facts, found_at, job, outcome, parts, record, sign, take,
};
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::test_runner::{Config, TestRunner};
use saltern_store::AppliedEntry;
use saltern_store::command::{Command, Effect, JobCommand, Refused};
use saltern_wire::job::Progress::{
    self, Accepted, Expired, Failed, Held, Killed, Returned, Skipped, Unreachable, Waiting,
};
use saltern_wire::level::{LEVEL, LEVEL_FIRST};
use saltern_wire::rolling::{BatchSize, Ending, Rolling, WHOLE_MS};
use saltern_wire::{JobId, LogicalTime, Ordinal};

const NAMES: [&str; 10] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];

fn rolling(size: &str) -> Rolling {
    Rolling { size: size.parse::<BatchSize>().unwrap(), wait_ms: 0, failhard: false, turn_ms: 60_000 }
}

fn begin(bench: &Bench) -> World {
    let mut world = World::new(bench);
    world.run(found_at(LEVEL)).unwrap();
    world.enrol(&NAMES);
    world
}

fn roll(now: LogicalTime, slot: u64, rolling: Rolling) -> (JobId, Command) {
    let all: Vec<u32> = (1..=NAMES.len() as u32).collect();
    let intent = job(now, slot, &all, WHOLE_MS);
    assert_eq!(intent.cluster, cluster());
    (intent.jid, Command::Job(JobCommand::Roll { job: sign(&intent), rolling }))
}

fn open(world: &mut World, rolling: Rolling) -> JobId {
    let (jid, command) = roll(world.now, 1, rolling);
    world.run(command).unwrap();
    jid
}

fn pause(jid: JobId, paused: bool) -> Command {
    Command::Job(JobCommand::Pause { jid, paused, by: "ops".into() })
}

fn end(jid: JobId) -> Command {
    Command::Job(JobCommand::End { jid, by: "ops".into() })
}

fn done(jid: JobId, ordinal: u32, success: bool) -> Command {
    record(ordinal, parts(jid, &outcome("x", success)))
}

fn standing(world: &World, jid: JobId) -> Vec<Progress> {
    world.state.progress(&jid).unwrap().into_iter().map(|(.., progress)| progress).collect()
}

/// Whose turn an entry let come.
fn released(entry: &AppliedEntry) -> Vec<u32> {
    let turns = entry.effects.iter().filter_map(|effect| match effect {
        Effect::Released { ordinals, .. } => Some(ordinals.iter()),
        _ => None,
    });
    turns.flatten().collect()
}

#[test]
fn turns_come_as_places_become_free() {
    for bench in Bench::both() {
        let mut world = begin(&bench);
        let (jid, command) = roll(world.now, 1, rolling("30%"));
        assert_eq!(released(&world.apply(command)), [1, 2, 3], "{}", bench.name);
        let offers = world.state.offers_of(&jid).unwrap();
        assert_eq!(offers.groups.len(), 1);
        assert_eq!(
            offers.groups[0].0,
            world.state.time().plus(std::time::Duration::from_secs(50)),
            "a sixth before its turn ends"
        );
        assert_eq!(released(&world.apply(take(jid, 2))), [0; 0], "it has it, and is at work");
        assert_eq!(released(&world.apply(done(jid, 2, true))), [4]);
        assert_eq!(released(&world.apply(done(jid, 2, true))), [0; 0], "the same answer again frees no place");
        assert_eq!(released(&world.apply(done(jid, 3, false))), [5], "a failure is an answer");
        // 1 and 4 do not take it: their places are free when their own turns have passed.
        world.pass(61);
        world.run(take(jid, 5)).unwrap();
        assert_eq!(released(&world.apply(Command::Tick)), [6, 7]);
        assert_eq!(
            standing(&world, jid),
            [Expired, Returned, Failed, Expired, Accepted, Waiting, Waiting, Held, Held, Held],
            "5 keeps its place for as long as it is at work"
        );
        // A result that comes late counts, and its place is given already.
        assert_eq!(released(&world.apply(done(jid, 1, true))), [0; 0]);
        assert_eq!(released(&world.apply(delete("f"))), [8], "a key that is gone needs no place");
        assert_eq!(standing(&world, jid)[5], Unreachable);
        assert_eq!(released(&world.apply(facts("g", 1, "debian"))), [0; 0]);
        let batch = world.state.batch_of(&jid).unwrap();
        assert_eq!((batch.width, batch.running, batch.held), (3, 3, 2));
        for ordinal in [5, 7, 8, 9, 10] {
            world.run(done(jid, ordinal, true)).unwrap();
        }
        let held = world.state.job(&jid).unwrap().unwrap();
        assert!(held.done.is_some() && held.batch.unwrap().rolling == rolling("30%"), "{held:?}");
        assert_eq!(world.state.batch_of(&jid), None, "it is not open any more");
    }
}

#[test]
fn a_place_rests_for_as_long_as_was_asked() {
    for bench in Bench::both() {
        let mut world = begin(&bench);
        let jid = open(&mut world, Rolling { wait_ms: 10_000, ..rolling("2") });
        assert_eq!(released(&world.apply(done(jid, 1, true))), [0; 0]);
        world.pass(9);
        world.state.flush().unwrap();
        world.state = {
            drop(world.state);
            bench.state()
        };
        assert_eq!(world.state.batch_of(&jid).unwrap().resting, 1, "{}: it is on the disk", bench.name);
        assert_eq!(released(&world.apply(Command::Tick)), [0; 0]);
        world.pass(2);
        assert_eq!(released(&world.apply(Command::Tick)), [3]);
    }
}

#[test]
fn failhard_ends_it_at_the_first_failure_and_says_so_of_everybody() {
    for bench in Bench::both() {
        let mut world = begin(&bench);
        let jid = open(&mut world, Rolling { failhard: true, ..rolling("2") });
        world.run(take(jid, 1)).unwrap();
        let entry = world.apply(done(jid, 2, false));
        assert_eq!(released(&entry), [0; 0]);
        let stands = |effect: &Effect| matches!(effect, Effect::JobStands { stand, by: None, .. } if stand.ending == Some(Ending::Failhard));
        assert!(entry.effects.iter().any(stands), "{entry:?}");
        let mut expect = vec![Accepted, Failed];
        expect.extend([Skipped; 8]);
        assert_eq!(standing(&world, jid), expect, "{}: who has it goes on", bench.name);
        world.run(done(jid, 1, true)).unwrap();
        let held = world.state.job(&jid).unwrap().unwrap();
        assert!(held.done.is_some());
        assert_eq!(held.batch.unwrap().stand.ending, Some(Ending::Failhard), "what ended it is not forgotten");
    }
}

#[test]
fn a_job_is_paused_resumed_and_ended() {
    for bench in Bench::both() {
        let mut world = begin(&bench);
        let jid = open(&mut world, rolling("2"));
        world.run(pause(jid, true)).unwrap();
        assert!(world.apply(pause(jid, true)).effects.is_empty(), "it rests already");
        assert_eq!(released(&world.apply(done(jid, 1, true))), [0; 0]);
        world.state.flush().unwrap();
        world.state = {
            drop(world.state);
            bench.state()
        };
        assert_eq!(released(&world.apply(done(jid, 2, true))), [0; 0], "{}: it is on the disk", bench.name);
        assert_eq!(released(&world.apply(pause(jid, false))), [3, 4]);
        world.run(take(jid, 3)).unwrap();
        world.run(end(jid)).unwrap();
        let mut expect = vec![Returned, Returned, Accepted];
        expect.extend([Killed; 7]);
        assert_eq!(standing(&world, jid), expect, "who has it goes on, who was offered it may not");
        assert!(world.apply(end(jid)).effects.is_empty(), "it was ended already");
        let Err(Refused::Conflict(_)) = world.run(pause(jid, true)) else { panic!("there is nothing to pause") };
        // It was on its way to 4, which ran it: what it says is what counts.
        world.run(done(jid, 4, true)).unwrap();
        world.run(done(jid, 3, true)).unwrap();
        assert!(world.state.job(&jid).unwrap().unwrap().done.is_some());
        let Err(Refused::Conflict(cause)) = world.run(end(jid)) else { panic!("it is done") };
        assert!(cause.contains("has ended"), "{cause}");
    }
}

#[test]
fn a_job_for_all_at_once_is_ended_but_not_paused() {
    let mut world = begin(&Bench::memory());
    let jid = world.open(5, &[1, 2, 3]);
    world.run(take(jid, 1)).unwrap();
    let Err(Refused::Conflict(cause)) = world.run(pause(jid, true)) else { panic!("it is paused") };
    assert!(cause.contains("job kill"), "{cause}");
    world.run(end(jid)).unwrap();
    assert_eq!(standing(&world, jid), [Accepted, Killed, Killed]);
    let unknown = JobId::mint(LogicalTime::from_unix_micros(1), 1);
    assert!(matches!(world.run(end(unknown)), Err(Refused::NotFound(_))));
}

#[test]
fn a_batch_waits_for_the_level_that_it_came_with() {
    let mut world = World::new(&Bench::memory());
    world.run(found_at(LEVEL_FIRST)).unwrap();
    world.enrol(&NAMES);
    let (jid, command) = roll(world.now, 1, rolling("2"));
    let Err(Refused::Conflict(cause)) = world.run(command.clone()) else { panic!("it is taken") };
    assert!(cause.contains("feature level 3"), "{cause}");
    world.run(Command::Level { level: LEVEL }).unwrap();
    world.run(command).unwrap();
    assert!(world.state.batch_of(&jid).is_some());
    for wrong in [
        Rolling { size: BatchSize::Minions(0), ..rolling("1") },
        Rolling { size: BatchSize::Share(10_001), ..rolling("1") },
        Rolling { turn_ms: 0, ..rolling("1") },
        Rolling { wait_ms: u64::MAX, ..rolling("1") },
    ] {
        let (_, command) = roll(world.now, 2, wrong);
        assert!(matches!(world.run(command), Err(Refused::Invalid(_))), "{wrong:?}");
    }
}

#[test]
fn what_was_not_over_within_a_week_expires() {
    let mut world = begin(&Bench::memory());
    let jid = open(&mut world, rolling("2"));
    world.run(pause(jid, true)).unwrap();
    world.pass(7 * 24 * 3600 + 1);
    world.run(Command::Tick).unwrap();
    world.run(Command::Tick).unwrap();
    assert_eq!(standing(&world, jid), [Expired; 10]);
    assert!(world.state.job(&jid).unwrap().unwrap().done.is_some());
}

#[test]
fn many_turns_are_let_come_and_ended_in_bounded_steps() {
    const ALL: u32 = 9000;
    let mut world = World::new(&Bench::memory());
    world.run(found_at(LEVEL)).unwrap();
    let names: Vec<String> = (0..ALL).map(|number| format!("m{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    world.run(crate::world::set("pending_keys_max", serde_json::json!(ALL))).unwrap();
    world.enrol(&names);
    let all: Vec<u32> = (1..=ALL).collect();
    let intent = job(world.now, 1, &all, WHOLE_MS);
    let jid = intent.jid;
    let mut steps = vec![
        released(&world.apply(Command::Job(JobCommand::Roll { job: sign(&intent), rolling: rolling("100%") }))).len(),
    ];
    for _ in 0..2 {
        steps.push(released(&world.apply(Command::Tick)).len());
    }
    assert_eq!(steps, [4096, 4096, 808]);
    let settled = |entry: AppliedEntry| {
        entry.effects.iter().filter(|effect| matches!(effect, Effect::Settled { progress: Killed, .. })).count()
    };
    let mut steps = vec![settled(world.apply(end(jid)))];
    for _ in 0..2 {
        steps.push(settled(world.apply(Command::Tick)));
    }
    assert_eq!(steps, [4096, 4096, 808]);
    assert!(world.state.job(&jid).unwrap().unwrap().done.is_some());
}

/// What may happen to one rolling job.
#[derive(Debug, Clone)]
enum Step {
    Take(u32),
    Done(u32, bool),
    Delete(usize),
    Accept(usize),
    Reinstall(usize, u64),
    Pause(bool),
    End,
    Tick,
}

fn step() -> impl Strategy<Value = (Step, u64)> {
    let (ordinal, name) = (1..11u32, 0..NAMES.len());
    let step = prop_oneof![
        8 => ordinal.clone().prop_map(Step::Take),
        8 => (ordinal, prop_oneof![5 => Just(true), 1 => Just(false)]).prop_map(|(ordinal, good)| Step::Done(ordinal, good)),
        1 => name.clone().prop_map(Step::Delete),
        1 => name.clone().prop_map(Step::Accept),
        1 => (name, 1..3u64).prop_map(|(name, incarnation)| Step::Reinstall(name, incarnation)),
        2 => any::<bool>().prop_map(Step::Pause),
        1 => prop_oneof![20 => Just(Step::Tick), 1 => Just(Step::End)],
        6 => Just(Step::Tick),
    ];
    (step, prop_oneof![6 => 0..5u64, 1 => Just(61u64)])
}

fn case() -> impl Strategy<Value = (Rolling, Vec<(Step, u64)>)> {
    let size = prop_oneof![(1..5u32).prop_map(BatchSize::Minions), (1..10_001u32).prop_map(BatchSize::Share)];
    let rolling = (size, prop_oneof![Just(0), Just(3000u64)], any::<bool>());
    let rolling = rolling.prop_map(|(size, wait_ms, failhard)| Rolling { size, wait_ms, failhard, turn_ms: 20_000 });
    (rolling, proptest::collection::vec(step(), 1..80))
}

fn command(step: &Step, jid: JobId) -> Command {
    match step {
        Step::Take(ordinal) => take(jid, *ordinal),
        Step::Done(ordinal, good) => done(jid, *ordinal, *good),
        Step::Delete(name) => delete(NAMES[*name]),
        Step::Accept(name) => accept(NAMES[*name]),
        Step::Reinstall(name, incarnation) => facts(NAMES[*name], *incarnation, "debian"),
        Step::Pause(paused) => pause(jid, *paused),
        Step::End => end(jid),
        Step::Tick => Command::Tick,
    }
}

#[test]
fn never_more_than_its_width_and_never_stuck() {
    let config = Config { cases: 120, failure_persistence: None, ..Config::default() };
    let rng = proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let law = |(rolling, steps): (Rolling, Vec<(Step, u64)>)| {
        let benches = [Bench::memory(), Bench::memory()];
        let (mut world, mut other) = (begin(&benches[0]), begin(&benches[1]));
        let (jid, opening) = roll(world.now, 1, rolling);
        assert_eq!(world.apply(opening.clone()).effects, other.apply(opening).effects);
        let width = rolling.size.of(NAMES.len() as u64) as usize;
        for (number, (step, seconds)) in steps.iter().enumerate() {
            for world in [&mut world, &mut other] {
                world.pass(*seconds);
            }
            let (one, two) = (world.apply(command(step, jid)), other.apply(command(step, jid)));
            assert_eq!(
                (one.applied, one.effects),
                (two.applied, two.effects),
                "a replica that was opened anew does the same"
            );
            if number % 7 == 6 {
                other.state.flush().unwrap();
                other.state = {
                    drop(other.state);
                    benches[1].state()
                };
            }
            let all = standing(&world, jid);
            let running = all.iter().filter(|progress| matches!(progress, Waiting | Accepted)).count();
            let held = all.iter().filter(|progress| **progress == Held).count();
            assert!(running <= width, "{running} of {width}: {all:?}");
            let Some(batch) = world.state.batch_of(&jid) else {
                assert_eq!(running + held, 0);
                continue;
            };
            assert_eq!((batch.running as usize, batch.held as usize), (running, held));
            assert!(running + batch.resting as usize <= width, "a place that rests is taken: {batch:?}");
            let goes_on = !batch.stand.paused && batch.stand.ending.is_none();
            assert!(!goes_on || held == 0 || running + batch.resting as usize == width, "a place is idle: {batch:?}");
            let offered = world.state.offers_of(&jid).unwrap().groups.into_iter().flat_map(|(_, group)| group);
            let mut offered: Vec<u32> = offered.collect();
            offered.sort_unstable();
            let waiting = (1..).zip(&all).filter(|(_, progress)| **progress == Waiting).map(|(number, _)| number);
            assert_eq!(offered, waiting.collect::<Vec<u32>>(), "nobody but those whose turn it is");
            for number in (1..).zip(&all).filter(|(_, progress)| **progress == Held).map(|(number, _)| number) {
                assert!(world.state.open_jobs_for(Ordinal(number)).is_empty(), "{number} is held");
            }
        }
        assert_eq!(digest(&world.state), digest(&other.state));
        // Whoever is left takes it in turn, and it comes to its end.
        let _ = world.run(pause(jid, false));
        for _ in 0..40 {
            for (number, progress) in (1..).zip(standing(&world, jid)) {
                if matches!(progress, Waiting | Accepted) {
                    world.run(done(jid, number, true)).unwrap();
                }
            }
            world.pass(4);
            world.run(Command::Tick).unwrap();
        }
        assert!(world.state.job(&jid).unwrap().unwrap().done.is_some(), "{:?}", standing(&world, jid));
    };
    let run = |case| {
        law(case);
        Ok(())
    };
    runner.run(&case(), run).unwrap();
}
