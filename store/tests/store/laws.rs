//! Properties: whatever the commands are, these hold.

use crate::world::{
    BEGIN, Bench, World, accept, delete, digest, facts, id, job, mine, outcome, parts, public_key, record, reject,
    sign, submit, take,
};
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::test_runner::{Config, TestRunner};
use saltern_store::AppliedEntry;
use saltern_store::command::{Command, Effect, JobCommand, KeyCommand, Reply};
use saltern_wire::job::{Outcome, OutcomeKind, Progress, Recorded};
use saltern_wire::{JobId, LogicalTime, Ordinal, RequestId};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

/// A command in small numbers, so that histories meet the same minions and jobs again and again.
#[derive(Debug, Clone)]
enum Step {
    Submit(usize, u8),
    Accept(usize),
    Reject(usize),
    Delete(usize),
    Facts(usize, u64),
    Open { slot: u64, targets: Vec<u32>, ttl_ms: u64 },
    Take { slot: u64, ordinal: u32 },
    Return { slot: u64, ordinal: u32, value: u8, kind: OutcomeKind },
    Mine { ordinal: u32, value: Option<u8>, stamp: (u64, u64) },
    Tick,
}

/// A step, how many seconds pass before it, and whether it carries a request id (out of a few).
type Move = (Step, u64, Option<u8>);

fn step() -> impl Strategy<Value = Step> {
    let name = 0..NAMES.len();
    let kind = prop_oneof![Just(OutcomeKind::Finished), Just(OutcomeKind::Interrupted), Just(OutcomeKind::Refused)];
    prop_oneof![
        2 => (name.clone(), 0..2u8).prop_map(|(name, key)| Step::Submit(name, key)),
        3 => name.clone().prop_map(Step::Accept),
        1 => name.clone().prop_map(Step::Reject),
        1 => name.clone().prop_map(Step::Delete),
        1 => (name, 0..2u64).prop_map(|(name, incarnation)| Step::Facts(name, incarnation)),
        3 => (0..6u64, proptest::collection::vec(1..8u32, 1..6), prop_oneof![Just(1000u64), Just(600_000)])
            .prop_map(|(slot, targets, ttl_ms)| Step::Open { slot, targets, ttl_ms }),
        3 => (0..6u64, 1..8u32).prop_map(|(slot, ordinal)| Step::Take { slot, ordinal }),
        6 => (0..6u64, 1..8u32, 0..2u8, kind)
            .prop_map(|(slot, ordinal, value, kind)| Step::Return { slot, ordinal, value, kind }),
        2 => (1..8u32, any::<Option<u8>>(), (0..2u64, 0..4u64))
            .prop_map(|(ordinal, value, stamp)| Step::Mine { ordinal, value, stamp }),
        2 => Just(Step::Tick),
    ]
}

fn history() -> impl Strategy<Value = Vec<Move>> {
    let seconds = prop_oneof![6 => 0..3u64, 1 => Just(700u64), 1 => Just(90_000u64)];
    let request = prop_oneof![3 => Just(None), 1 => (0..4u8).prop_map(Some)];
    proptest::collection::vec((step(), seconds, request), 1..60)
}

/// The jid of a slot: the same whenever it is opened, so that returns find it, and early ones come before it.
fn jid(slot: u64) -> JobId {
    JobId::mint(LogicalTime::from_unix_micros(BEGIN), slot)
}

fn command(step: &Step, now: LogicalTime) -> Command {
    match step {
        Step::Submit(name, 0) => submit(NAMES[*name]),
        Step::Submit(name, key) => {
            let public_key = public_key(NAMES[*name], *key);
            Command::Key(KeyCommand::Submit { minion: id(NAMES[*name]), public_key })
        }
        Step::Accept(name) => accept(NAMES[*name]),
        Step::Reject(name) => reject(NAMES[*name]),
        Step::Delete(name) => delete(NAMES[*name]),
        Step::Facts(name, incarnation) => facts(NAMES[*name], *incarnation, "debian"),
        Step::Open { slot, targets, ttl_ms } => {
            let intent = saltern_wire::job::Job { jid: jid(*slot), ..job(now, *slot, targets, *ttl_ms) };
            Command::Job(JobCommand::Open { job: sign(&intent) })
        }
        Step::Take { slot, ordinal } => take(jid(*slot), *ordinal),
        Step::Return { slot, ordinal, value, kind } => {
            let success = *kind == OutcomeKind::Finished && *value == 0;
            let outcome = Outcome { kind: *kind, ..outcome(&value.to_string(), success) };
            record(*ordinal, parts(jid(*slot), &outcome))
        }
        Step::Mine { ordinal, value, stamp } => mine(*ordinal, "f", value.map(|value| json!(value)), *stamp),
        Step::Tick => Command::Tick,
    }
}

fn play(world: &mut World, (step, seconds, request): &Move) -> AppliedEntry {
    world.pass(*seconds);
    let request = request.map(|number| RequestId::from_bytes([number; 16]));
    let item = world.item_as(request, command(step, world.now));
    world.state.apply(&[item]).unwrap().remove(0)
}

/// Runs `law` over `cases` histories. The seed is fixed: what passes here passes everywhere.
fn check(cases: u32, law: impl Fn(Vec<Move>)) {
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let rng = proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let run = |moves| {
        law(moves);
        Ok(())
    };
    runner.run(&history(), run).unwrap();
}

#[test]
fn equal_histories_make_equal_bytes_on_both_engines() {
    check(24, |moves| {
        let [memory, rocks] = Bench::both();
        let (mut one, mut two) = (World::new(&memory), World::new(&rocks));
        for (number, step) in moves.iter().enumerate() {
            let (first, second) = (play(&mut one, step), play(&mut two, step));
            assert_eq!(first.applied, second.applied);
            assert_eq!(first.effects, second.effects);
            if number % 20 == 19 {
                // Reopening in the middle changes nothing: what is in memory is what is on the disk.
                drop(two.state);
                two.state = rocks.state();
            }
        }
        assert_eq!(digest(&one.state), digest(&two.state));
    });
}

#[test]
fn every_targeted_minion_is_in_exactly_one_state_and_moves_only_forward() {
    check(150, |moves| {
        let mut world = World::new(&Bench::memory());
        let mut before: BTreeMap<(JobId, Ordinal), Progress> = BTreeMap::new();
        for step in &moves {
            play(&mut world, step);
            let mut now = BTreeMap::new();
            for slot in 0..6 {
                let Some(job) = world.state.job(&jid(slot)).unwrap() else { continue };
                let standing = world.state.progress(&jid(slot)).unwrap();
                assert!(standing.iter().map(|(ordinal, ..)| ordinal.0).eq(&job.expected), "everybody, once");
                let owing = standing.iter().filter(|(.., progress)| owes(*progress)).count();
                assert_eq!(owing == 0, job.done.is_some(), "done when nobody owes an answer: {standing:?}");
                assert_eq!(world.state.open_jobs().contains(&jid(slot)), job.done.is_none());
                for (ordinal, _, progress) in standing {
                    let returned = world.state.return_of(&jid(slot), ordinal).unwrap();
                    assert_eq!(returned.is_some(), has_result(progress), "{progress:?}");
                    let owed = world.state.open_jobs_for(ordinal).iter().any(|owed| owed.jid == jid(slot));
                    assert_eq!(owed, owes(progress));
                    now.insert((jid(slot), ordinal), progress);
                }
            }
            for (key, progress) in &now {
                let was = before.get(key).copied().unwrap_or(Progress::Waiting);
                assert!(may_follow(was, *progress), "{key:?}: {was:?} became {progress:?} by {step:?}");
            }
            before = now;
        }
    });
}

fn owes(progress: Progress) -> bool {
    matches!(progress, Progress::Waiting | Progress::Accepted)
}

fn has_result(progress: Progress) -> bool {
    matches!(progress, Progress::Returned | Progress::Failed | Progress::Interrupted)
}

fn may_follow(was: Progress, is: Progress) -> bool {
    was == is
        || match was {
            Progress::Waiting => true,
            Progress::Accepted => has_result(is) || matches!(is, Progress::Unreachable | Progress::Cancelled),
            Progress::Expired | Progress::Unreachable | Progress::Cancelled | Progress::Killed => has_result(is),
            // Rolling jobs have their own laws.
            Progress::Held | Progress::Skipped => false,
            Progress::Returned | Progress::Failed | Progress::Interrupted => false,
        }
}

#[test]
fn a_return_counts_once_however_often_it_comes() {
    check(150, |moves| {
        let mut world = World::new(&Bench::memory());
        let mut counted: BTreeSet<(JobId, Ordinal)> = BTreeSet::new();
        for (step, seconds, _) in &moves {
            let first = play(&mut world, &(step.clone(), *seconds, None));
            for effect in &first.effects {
                if let Effect::Returned { record } = effect {
                    assert!(counted.insert((record.jid, record.ordinal)), "{record:?} came twice");
                }
            }
            if let Step::Return { slot, ordinal, .. } = step {
                let held = world.state.return_of(&jid(*slot), Ordinal(*ordinal)).unwrap();
                let again = play(&mut world, &(step.clone(), 0, None));
                let Ok(Reply::Recorded(verdicts)) = &again.applied else { panic!("{again:?}") };
                assert_ne!(verdicts[0], Recorded::Committed);
                assert!(again.effects.is_empty(), "{again:?}");
                assert_eq!(world.state.return_of(&jid(*slot), Ordinal(*ordinal)).unwrap(), held);
            }
            // A purged job may be opened and answered anew under its old jid, in this test only.
            counted.retain(|(jid, _)| world.state.job(jid).unwrap().is_some());
        }
    });
}

#[test]
fn numbers_are_given_once_and_refusals_leave_nothing() {
    check(150, |moves| {
        let mut world = World::new(&Bench::memory());
        let mut names: BTreeMap<Ordinal, String> = BTreeMap::new();
        for step in &moves {
            let (step, seconds, _) = step;
            let counts = world.state.counts();
            let keys = world.state.keys();
            let done = play(&mut world, &(step.clone(), *seconds, None));
            if done.applied.is_err() {
                assert_eq!((counts, keys), (world.state.counts(), world.state.keys()));
                assert!(done.effects.is_empty());
            }
            for (ordinal, minion) in world.state.accepted() {
                let name = names.entry(ordinal).or_insert_with(|| minion.to_string());
                assert_eq!(name, minion.as_str());
            }
        }
        assert!(names.keys().map(|ordinal| ordinal.0).eq(1..=names.len() as u32), "dense from 1: {names:?}");
    });
}
