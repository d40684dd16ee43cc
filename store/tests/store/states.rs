//! The state as a whole: order, durability, rebuilding, time, bounds.

use crate::world::{
    BEGIN, Bench, World, accept, delete, digest, facts, fingerprint, id, job, mine, outcome, parts, public_key, record,
    set, sign, submit, take,
};
use saltern_store::command::{Command, Effect, JobCommand, KeyCommand, Refused, Reply};
use saltern_store::kv::memory::MemoryEngine;
use saltern_store::{Payload, Soundness, State, StoreError};
use saltern_wire::job::{OutcomeKind, Progress, Recorded};
use saltern_wire::limits::RETURN_PART_BYTES_MAX;
use saltern_wire::{JobId, LogicalTime, Ordinal, RequestId};
use serde_json::json;
use std::path::Path;
use std::sync::Arc;

/// A little of everything.
fn busy(world: &mut World) -> JobId {
    world.enrol(&["web1", "web2", "web3"]);
    world.run(submit("web4")).unwrap();
    world.run(facts("web1", 1, "debian")).unwrap();
    world.run(mine(1, "net", Some(json!({"ip": "10.0.0.1"})), (1, 1))).unwrap();
    let jid = world.open(0, &[1, 2, 3]);
    world.run(take(jid, 1)).unwrap();
    world.run(take(jid, 2)).unwrap();
    world.run(record(1, parts(jid, &outcome("true", true)))).unwrap();
    jid
}

#[test]
fn a_reopened_state_is_the_same_and_goes_on() {
    for bench in Bench::both() {
        let mut world = World::new(&bench);
        let jid = busy(&mut world);
        let members = world.entry(Payload::Membership(b"members".to_vec()));
        world.state.apply(&[members]).unwrap();
        let before = (digest(&world.state), world.state.counts(), world.state.progress(&jid).unwrap());
        drop(world.state);
        world.state = bench.state();
        let after = (digest(&world.state), world.state.counts(), world.state.progress(&jid).unwrap());
        assert_eq!(before, after, "{}", bench.name);
        assert_eq!(world.state.membership(), Some(b"members".to_vec()));
        assert_eq!(world.state.position(), Some(format!("1.{}", world.next - 1).into_bytes()));
        // Counters and open jobs were rebuilt: the next number is new, the job ends when its last answer comes.
        world.enrol(&["web5"]);
        assert_eq!(world.state.ordinal_of(&id("web5")), Some(Ordinal(4)));
        world.run(record(2, parts(jid, &outcome("true", true)))).unwrap();
        let last = world.apply(record(3, parts(jid, &outcome("no", false))));
        assert!(last.effects.iter().any(|effect| *effect == Effect::JobDone { jid }), "{}", bench.name);
        assert!(world.state.open_jobs().is_empty());
    }
}

#[test]
fn entries_come_in_order_and_without_a_gap() {
    let mut world = World::new(&Bench::memory());
    world.run(Command::Tick).unwrap();
    world.next = 5;
    let gap = world.item(Command::Tick);
    let refused = world.state.apply(&[gap]).unwrap_err();
    assert!(matches!(refused, StoreError::Order { last: 1, found: 5 }), "{refused}");
    let after = world.state.apply(&[]).unwrap_err();
    assert!(matches!(after, StoreError::Broken), "a replica that has seen this must stop: {after}");
}

#[test]
fn grouping_entries_into_calls_does_not_show() {
    let (one, many) = (Bench::memory(), Bench::memory());
    let mut single = World::new(&one);
    let mut grouped = World::new(&many);
    let jid = JobId::mint(LogicalTime::from_unix_micros(BEGIN), 0);
    let commands = || {
        let open = job(LogicalTime::from_unix_micros(BEGIN), 0, &[1, 2], 1000);
        vec![
            submit("a"),
            accept("a"),
            submit("b"),
            accept("b"),
            Command::Job(JobCommand::Open { job: sign(&open) }),
            take(jid, 1),
            record(1, parts(jid, &outcome("x", true))),
            mine(1, "f", Some(json!(1)), (1, 1)),
            delete("a"),
            Command::Tick,
            record(2, parts(jid, &outcome("y", true))),
        ]
    };
    commands().into_iter().for_each(|command| drop(single.run(command)));
    let items: Vec<_> = commands().into_iter().map(|command| grouped.item(command)).collect();
    grouped.state.apply(&items).unwrap();
    assert_eq!(digest(&single.state), digest(&grouped.state));
}

#[test]
fn a_crash_goes_back_to_the_last_flush_and_replaying_leads_to_the_same_state() {
    let disk = MemoryEngine::new();
    let state = State::open(Arc::new(disk.clone()), Path::new("m/state"), Soundness::new()).unwrap();
    let mut world = World { state, next: 1, now: LogicalTime::from_unix_micros(BEGIN) };
    world.enrol(&["a", "b"]);
    world.state.flush().unwrap();
    let flushed = world.state.applied_index();
    let later: Vec<_> = ["c", "d"].iter().flat_map(|name| [submit(name), accept(name)]).collect();
    let items: Vec<_> = later.into_iter().map(|command| world.item(command)).collect();
    world.state.apply(&items).unwrap();
    let before = digest(&world.state);
    disk.crash();
    let refused = world.state.apply(&[]).unwrap_err();
    assert!(refused.to_string().contains("crashed"), "{refused}");
    let state = State::open(Arc::new(disk), Path::new("m/state"), Soundness::new()).unwrap();
    assert_eq!(state.applied_index(), flushed);
    assert_eq!(state.counts().accepted, 2);
    state.apply(&items).unwrap();
    assert_eq!(digest(&state), before);
}

#[test]
fn time_rises_with_every_proposal_and_no_stamp_turns_it_back() {
    let mut world = World::new(&Bench::memory());
    let first = world.apply(Command::Tick).time;
    assert_eq!(first.unix_micros(), BEGIN);
    world.now = LogicalTime::ZERO;
    assert_eq!(world.apply(Command::Tick).time.unix_micros(), BEGIN + 1);
    let blank = world.entry(Payload::Blank);
    assert_eq!(world.state.apply(&[blank]).unwrap()[0].time.unix_micros(), BEGIN + 1);
    world.now = LogicalTime::from_unix_micros(BEGIN + 100);
    assert_eq!(world.apply(Command::Tick).time.unix_micros(), BEGIN + 100);
    assert_eq!(world.state.time().unix_micros(), BEGIN + 100);
}

#[test]
fn a_repeated_request_finds_the_first_answer_for_a_day() {
    let mut world = World::new(&Bench::memory());
    world.enrol(&["a"]);
    let request = RequestId::from_bytes([3; 16]);
    let open = job(world.now, 0, &[1], 1000);
    let command = Command::Job(JobCommand::Open { job: sign(&open) });
    let again = |world: &mut World| {
        let item = world.item_as(Some(request), command.clone());
        world.state.apply(&[item]).unwrap().remove(0)
    };
    let first = again(&mut world);
    assert_eq!(first.applied, Ok(Reply::Opened { jid: open.jid, minions: vec![id("a")] }));
    assert_eq!(first.effects.len(), 1);
    world.pass(24 * 3600 - 1);
    world.run(Command::Tick).unwrap();
    let second = again(&mut world);
    assert_eq!((second.applied.clone(), second.effects), (first.applied, Vec::new()));
    let (revision, answer) = world.state.answer_to(request).unwrap().unwrap();
    assert_eq!((revision, answer), (first.revision, second.applied));
    world.pass(2);
    world.run(Command::Tick).unwrap();
    assert_eq!(world.state.answer_to(request).unwrap(), None);
    assert!(matches!(again(&mut world).applied, Err(Refused::Conflict(_))), "the job itself is still known");
}

#[test]
fn a_long_return_is_put_together_from_its_parts_in_any_order() {
    for bench in Bench::both() {
        let mut world = World::new(&bench);
        world.enrol(&["a", "b"]);
        let jid = world.open(0, &[1, 2]);
        let long = outcome(&"x".repeat(3 * RETURN_PART_BYTES_MAX), true);
        let mut pieces = parts(jid, &long);
        assert_eq!(pieces.len(), 4);
        pieces.rotate_left(2);
        let last = pieces.pop().unwrap();
        for piece in pieces.iter().chain(&pieces) {
            let verdict = world.run(record(1, vec![piece.clone()])).unwrap();
            assert_eq!(verdict, Reply::Recorded(vec![Recorded::Part]), "{}", bench.name);
        }
        assert_eq!(world.state.returns(&jid).unwrap(), []);
        drop(world.state);
        world.state = bench.state();
        let done = world.apply(record(1, vec![last.clone()]));
        assert_eq!(done.applied, Ok(Reply::Recorded(vec![Recorded::Committed])));
        assert_eq!(world.run(record(1, vec![last])).unwrap(), Reply::Recorded(vec![Recorded::Duplicate]));
        assert_eq!(world.state.return_of(&jid, Ordinal(1)).unwrap().unwrap().outcome, long);
    }
}

#[test]
fn parts_of_two_answers_never_mix() {
    let mut world = World::new(&Bench::memory());
    world.enrol(&["a"]);
    let jid = world.open(0, &[1]);
    let of = |letter: &str| parts(jid, &outcome(&letter.repeat(2 * RETURN_PART_BYTES_MAX), true));
    let (one, two) = (of("1"), of("2"));
    world.run(record(1, one[..2].to_vec())).unwrap();
    // Another answer begins: what came of the first one goes.
    world.run(record(1, two[1..].to_vec())).unwrap();
    world.run(record(1, one[2..].to_vec())).unwrap();
    assert_eq!(world.state.return_of(&jid, Ordinal(1)).unwrap(), None);
    world.run(record(1, two.clone())).unwrap();
    let held = world.state.return_of(&jid, Ordinal(1)).unwrap().unwrap();
    assert!(held.outcome.value.as_str().unwrap().bytes().all(|byte| byte == b'2'));
    let verdicts = world.run(record(1, one)).unwrap();
    assert_eq!(verdicts, Reply::Recorded(vec![Recorded::Conflict; 3]));
    assert_eq!(world.state.conflicts_of(&jid, Ordinal(1)).unwrap(), 3);
}

#[test]
fn pieces_from_before_a_restart_go_with_the_answer_that_wins() {
    // Whose answers lack pieces is known in memory: a reopened state knows it as well as one that was never closed.
    let run = |reopened: bool| {
        let bench = Bench::memory();
        let mut world = World::new(&bench);
        world.enrol(&["a", "b", "c"]);
        let jid = world.open(0, &[1, 2, 3]);
        let large = parts(jid, &outcome(&"1".repeat(2 * RETURN_PART_BYTES_MAX), true));
        for ordinal in [1, 3] {
            world.run(record(ordinal, large[..2].to_vec())).unwrap();
        }
        world.run(record(2, large.clone())).unwrap();
        if reopened {
            drop(world.state);
            world.state = bench.state();
        }
        world.run(record(1, parts(jid, &outcome("short", true)))).unwrap();
        world.run(record(3, large[2..].to_vec())).unwrap();
        assert!(world.state.open_jobs().is_empty());
        digest(&world.state)
    };
    assert_eq!(run(true), run(false));
}

#[test]
fn a_return_that_cannot_be_used_settles_the_minion_with_the_reason() {
    let mut world = World::new(&Bench::memory());
    world.enrol(&["a", "b", "c", "d"]);
    world.run(set("return_bytes_max", json!(100))).unwrap();
    let jid = world.open(0, &[1, 2, 3, 4]);
    let good = parts(jid, &outcome("fine", true)).remove(0);
    let bent = saltern_wire::job::ReturnPart { body: b"rubbish".to_vec(), ..good.clone() };
    let numbered = saltern_wire::job::ReturnPart { part: 3, ..good.clone() };
    let large = parts(jid, &outcome(&"x".repeat(200), true)).remove(0);
    for (ordinal, part, reason) in
        [(1, bent.clone(), "digest"), (2, numbered, "part 3 of 1"), (3, large, "return_bytes_max")]
    {
        let verdict = world.run(record(ordinal, vec![part])).unwrap();
        assert_eq!(verdict, Reply::Recorded(vec![Recorded::Committed]));
        let held = world.state.return_of(&jid, Ordinal(ordinal)).unwrap().unwrap();
        assert!(!held.outcome.success && held.outcome.kind == OutcomeKind::Finished);
        assert!(held.outcome.value.as_str().unwrap().contains(reason), "{:?}", held.outcome.value);
    }
    assert_eq!(world.run(record(1, vec![bent])).unwrap(), Reply::Recorded(vec![Recorded::Duplicate]));
    world.run(record(4, vec![good])).unwrap();
    let standing: Vec<_> = world.state.progress(&jid).unwrap().into_iter().map(|(_, _, progress)| progress).collect();
    assert_eq!(standing, [Progress::Failed, Progress::Failed, Progress::Failed, Progress::Returned]);
}

#[test]
fn expiry_is_bounded_per_tick_and_comes_to_an_end() {
    let mut world = World::new(&Bench::memory());
    world.run(set("auto_accept", json!(true))).unwrap();
    let names: Vec<String> = (0..5000).map(|number| format!("m{number}")).collect();
    let items: Vec<_> = names.iter().map(|name| world.item(submit(name))).collect();
    world.state.apply(&items).unwrap();
    let jid = world.open(0, &(1..=5000).collect::<Vec<_>>());
    world.pass(61);
    assert!(world.state.next_due().unwrap().unwrap() <= world.now);
    let first = world.apply(Command::Tick).effects.len();
    assert_eq!(first, 4096);
    assert_eq!(world.state.open_jobs(), [jid]);
    let second = world.apply(Command::Tick).effects.len();
    assert_eq!(second, 5000 - 4096 + 1, "the rest, and that the job is done");
    assert!(world.state.open_jobs().is_empty());
    assert!(world.state.progress(&jid).unwrap().iter().all(|(_, _, progress)| *progress == Progress::Expired));
}

#[test]
fn a_purged_job_leaves_nothing_and_its_late_returns_are_orphans() {
    let mut world = World::new(&Bench::memory());
    world.enrol(&["a", "b"]);
    let empty = digest_without_time(&world);
    let jid = world.open(0, &[1, 2]);
    world.run(record(1, parts(jid, &outcome("x", true)))).unwrap();
    world.run(record(2, parts(jid, &outcome("x", true)))).unwrap();
    assert_eq!(world.state.jobs(None, 10, false).unwrap().len(), 1);
    world.pass(24 * 3600 + 1);
    world.run(Command::Tick).unwrap();
    assert_eq!(world.state.jobs(None, 10, false).unwrap(), []);
    assert_eq!(world.state.job(&jid).unwrap(), None);
    assert_eq!(world.state.returns(&jid).unwrap(), []);
    assert_eq!(world.state.newest_job(), Some(jid));
    assert_eq!(digest_without_time(&world), empty);
    let late = world.run(record(1, parts(jid, &outcome("late", true)))).unwrap();
    assert_eq!(late, Reply::Recorded(vec![Recorded::Orphan]));
    assert_eq!(world.state.orphans(&jid, 10).unwrap().len(), 1);
    world.pass(24 * 3600 + 1);
    world.run(Command::Tick).unwrap();
    assert_eq!(world.state.orphans(&jid, 10).unwrap(), []);
    assert_eq!(world.state.next_due().unwrap(), None);
}

/// What a state holds, apart from where it stands.
fn digest_without_time(world: &World) -> impl PartialEq + std::fmt::Debug + use<> {
    let state = &world.state;
    (state.keys(), state.counts(), state.next_due().unwrap(), state.jobs(None, 10, false).unwrap())
}

#[test]
fn an_open_job_is_never_purged() {
    let mut world = World::new(&Bench::memory());
    world.enrol(&["a"]);
    let jid = world.open(0, &[1]);
    world.run(take(jid, 1)).unwrap();
    world.pass(365 * 24 * 3600);
    world.run(Command::Tick).unwrap();
    assert_eq!(world.state.open_jobs(), [jid]);
    assert!(world.state.job(&jid).unwrap().unwrap().accepted.contains(1));
}

#[test]
fn names_of_returns_outlive_the_keys() {
    let mut world = World::new(&Bench::memory());
    world.enrol(&["a", "b"]);
    let jid = world.open(0, &[1, 2]);
    world.run(record(1, parts(jid, &outcome("x", true)))).unwrap();
    world.run(delete("a")).unwrap();
    world.run(delete("b")).unwrap();
    assert_eq!(world.state.returns(&jid).unwrap()[0].minion, id("a"));
    let standing: Vec<_> = world.state.progress(&jid).unwrap();
    assert_eq!(standing, [(Ordinal(1), id("a"), Progress::Returned), (Ordinal(2), id("b"), Progress::Unreachable)]);
    assert_eq!(world.state.minion_by_ordinal(Ordinal(1)), None);
    assert_eq!(world.state.name_of(Ordinal(1)), Some(id("a")));
    world.enrol(&["a"]);
    assert_eq!(world.state.ordinal_of(&id("a")), Some(Ordinal(3)), "a number is never given twice");
}

#[test]
fn pages_of_jobs_come_newest_first() {
    let mut world = World::new(&Bench::memory());
    world.enrol(&["a", "b"]);
    let mut jids = Vec::new();
    for _ in 0..10 {
        world.pass(1);
        jids.push(world.open(0, &[1, 2]));
    }
    jids.reverse();
    for jid in &jids[3..] {
        world.run(record(1, parts(*jid, &outcome("x", true)))).unwrap();
        world.run(record(2, parts(*jid, &outcome("x", true)))).unwrap();
    }
    let names = |page: Vec<saltern_store::view::JobSummary>| page.into_iter().map(|job| job.jid).collect::<Vec<_>>();
    let first = names(world.state.jobs(None, 4, false).unwrap());
    assert_eq!(first, jids[..4]);
    assert_eq!(names(world.state.jobs(first.last().copied(), 99, false).unwrap()), jids[4..]);
    assert_eq!(names(world.state.jobs(None, 99, true).unwrap()), jids[..3]);
    let done = &world.state.jobs(Some(jids[3]), 1, false).unwrap()[0];
    assert_eq!((done.targeted, done.returned, done.done.is_some()), (2, 2, true));
}

#[test]
fn limits_of_the_truth_are_refusals() {
    let mut world = World::new(&Bench::memory());
    world.run(set("pending_keys_max", json!(2))).unwrap();
    world.run(set("open_jobs_max", json!(1))).unwrap();
    world.run(submit("a")).unwrap();
    world.run(submit("b")).unwrap();
    let refused = world.run(submit("c")).unwrap_err();
    assert!(matches!(&refused, Refused::Limit(text) if text.contains("pending_keys_max")), "{refused}");
    world.run(accept("a")).unwrap();
    world.run(submit("c")).unwrap();
    for number in 1..=4 {
        let command = KeyCommand::Submit { minion: id("a"), public_key: public_key("a", number) };
        world.run(Command::Key(command)).unwrap();
    }
    let fifth = KeyCommand::Submit { minion: id("a"), public_key: public_key("a", 5) };
    assert!(matches!(world.run(Command::Key(fifth)), Err(Refused::Limit(_))));
    assert_eq!(world.state.key(&id("a")).unwrap().fingerprint(), fingerprint("a"));
    world.open(0, &[1]);
    world.pass(1);
    let second = job(world.now, 0, &[1], 1000);
    let refused = world.run(Command::Job(JobCommand::Open { job: sign(&second) })).unwrap_err();
    assert!(matches!(&refused, Refused::Limit(text) if text.contains("open_jobs_max")), "{refused}");
    let nobody = job(world.now, 0, &[77], 1000);
    assert_eq!(world.run(Command::Job(JobCommand::Open { job: sign(&nobody) })), Err(Refused::NoTargets));
}
