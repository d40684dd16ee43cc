//! What is lost on the way is made good, and minions that are away get what is still theirs when they come back.

use super::jobs::{give_back, is_offer};
use super::*;
use saltern_store::command::{Command, KeyCommand};
use saltern_wire::fanout::Broadcast;
use saltern_wire::io::Clock;
use saltern_wire::job::{Progress, Recorded};
use std::sync::atomic::Ordering;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY_MS: u64 = 24 * 3600 * 1000;

fn progress(scene: &Scene, jid: JobId, ordinal: Ordinal) -> Progress {
    let record = scene.masters[0].truth.replica().state().progress_of(&jid, ordinal);
    record.expect("readable").map_or(Progress::Waiting, |(progress, _)| progress)
}

/// The leader's tick, which ends what has run out.
fn tick(scene: &Scene) {
    scene.masters[0].truth.apply(Command::Tick, None).applied.expect("a tick");
}

#[tokio::test(start_paused = true)]
async fn frames_that_are_lost_are_made_good_within_seconds_and_each_minion_gets_its_job_once() {
    let scene = Scene::new(1).await;
    let mut minions = Vec::new();
    for number in 0..40 {
        let name = format!("web-{number}");
        let (minion, grant) = scene.join(0, &name).await;
        minions.push((minion, scene.subscribe(0, &name, &grant).await));
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    scene.masters[0].lossy.store(true, Ordering::Relaxed);
    let jid = scene.submit(0, "*", 60_000).await;
    let clock = scene.masters[0].truth.clock();
    let submitted = clock.monotonic();
    for (minion, _) in &mut minions {
        assert_eq!(minion.offered().await.job.peek().expect("readable").jid, jid);
    }
    let took = clock.monotonic().saturating_sub(submitted);
    assert!(took <= Duration::from_secs(4), "made good after {took:?}");
    for (minion, _) in &mut minions {
        assert_eq!(give_back(minion, jid).await, Recorded::Committed);
    }
    let state = scene.masters[0].truth.replica();
    assert_eq!(state.state().job(&jid).expect("readable").expect("held").answered.len(), 40);
    scene.masters[0].lossy.store(false, Ordering::Relaxed);
    let (minion, subscriber) = &mut minions[7];
    assert!(minion.quiet(Duration::from_secs(15), is_offer).await, "what was answered is not offered any more");
    let next = tokio::time::timeout(Duration::from_secs(1), subscriber.recv()).await;
    assert!(!matches!(next, Ok(Ok(Broadcast::Job(_)))), "the lost frame never came");
}

#[tokio::test(start_paused = true)]
async fn who_was_off_for_an_hour_gets_its_queued_job_once_whichever_master_it_comes_back_to() {
    let scene = Scene::new(2).await;
    let (away, _) = scene.join(0, "away").await;
    drop(away);
    let jid = scene.submit(0, "*", DAY_MS).await;
    tokio::time::sleep(HOUR).await;
    tick(&scene);
    assert_eq!(progress(&scene, jid, Ordinal(1)), Progress::Waiting);
    let (mut back, _) = scene.join(1, "away").await;
    let offer = back.offered().await;
    assert_eq!(offer.job.peek().expect("readable").jid, jid);
    let spent = Duration::from_millis(DAY_MS - offer.remaining_ms);
    assert!(spent >= HOUR && spent < HOUR + MINUTE, "{spent:?} of its day are over");
    back.call(Call::Accept(vec![jid])).await.1.expect("accepted");
    assert!(back.quiet(Duration::from_secs(15), is_offer).await, "it has it");
    // It moves before it has answered, and is not offered what it has.
    let (mut moved, _) = scene.join(0, "away").await;
    assert!(moved.quiet(Duration::from_secs(15), is_offer).await, "it has it, whoever asks");
    assert_eq!(give_back(&mut moved, jid).await, Recorded::Committed);
    assert_eq!(progress(&scene, jid, Ordinal(1)), Progress::Returned);
    assert!(moved.quiet(Duration::from_secs(15), is_offer).await, "it has answered");
}

#[tokio::test(start_paused = true)]
async fn who_comes_after_the_time_to_live_has_let_the_job_expire_and_who_was_deleted_gets_nothing() {
    let scene = Scene::new(1).await;
    for name in ["gone", "late"] {
        drop(scene.join(0, name).await);
    }
    let short = scene.submit(0, "*", 10 * 60_000).await;
    let long = scene.submit(0, "gone", DAY_MS).await;
    tokio::time::sleep(MINUTE).await;
    let truth = &scene.masters[0].truth;
    let delete = |keys| KeyCommand::Delete { keys, by: "root".into() };
    truth.decide(delete, &id("gone"), &key_of("gone")).expect("it is there");
    let numbers = |name: &str| scene.masters[0].truth.replica().state().ordinal_of(&id(name));
    assert_eq!(numbers("gone"), None);
    tokio::time::sleep(HOUR).await;
    tick(&scene);
    let late = numbers("late").expect("accepted");
    let gone = Ordinal(3 - late.0);
    assert_eq!(progress(&scene, short, late), Progress::Expired);
    assert_eq!((progress(&scene, short, gone), progress(&scene, long, gone)), {
        (Progress::Unreachable, Progress::Unreachable)
    });
    let (mut late, _) = scene.join(0, "late").await;
    assert!(late.quiet(Duration::from_secs(15), is_offer).await, "its time is over");
    // The same machine under the same key, accepted anew: a minion that nobody asked for anything.
    let (mut again, _) = scene.join(0, "gone").await;
    assert!(again.quiet(Duration::from_secs(15), is_offer).await, "the job was for the one that was deleted");
    let next = scene.submit(0, "gone", 60_000).await;
    assert_eq!(again.offered().await.job.peek().expect("readable").jid, next);
}

#[tokio::test(start_paused = true)]
async fn who_has_a_long_queue_gets_all_of_it_in_order() {
    const JOBS: usize = 200;
    let scene = Scene::new(1).await;
    drop(scene.join(0, "away").await);
    let mut jids = Vec::new();
    for _ in 0..JOBS {
        jids.push(scene.submit(0, "away", DAY_MS).await);
    }
    let (mut back, _) = scene.join(0, "away").await;
    for jid in &jids {
        assert_eq!(back.offered().await.job.peek().expect("readable").jid, *jid);
    }
    back.call(Call::Accept(jids.clone())).await.1.expect("accepted");
    assert!(back.quiet(Duration::from_secs(15), is_offer).await, "each of them once");
}

#[tokio::test(start_paused = true)]
async fn full_outboxes_are_drained_in_turn_and_only_while_a_majority_is_there() {
    const MIB: u64 = 1024 * 1024;
    let scene = Scene::new(1).await;
    let mut minions = Vec::new();
    for number in 0..40 {
        minions.push(scene.join(0, &format!("web-{number}")).await.0);
    }
    let wait = Duration::from_millis(100);
    for minion in &mut minions {
        minion.tell(ToMaster::Want { bytes: 20 * MIB }).await;
    }
    let mut given = 0;
    let mut waiting = Vec::new();
    for (place, minion) in minions.iter_mut().enumerate() {
        match minion.credit(wait).await {
            Some(bytes) => given += bytes,
            None => waiting.push(place),
        }
    }
    assert_eq!((given, waiting.len()), (32 * MIB, 8), "half of the inbox, a mebibyte each");
    assert_eq!(scene.masters[0].sessions.credit().figures(), (32 * MIB, 8));
    // One of those who were given something goes away: its share is another one's.
    drop(minions.remove(0));
    let mut next = None;
    for place in &waiting {
        next = next.or(minions[place - 1].credit(wait).await.map(|_| *place));
    }
    assert_eq!(next, Some(waiting[0]), "the first that waits");
    // What nobody uses would go to the others, if anything could be committed.
    scene.masters[0].truth.set_quorum(false, Duration::from_secs(1));
    for place in &waiting[1..] {
        assert_eq!(minions[place - 1].credit(Duration::from_secs(1)).await, None, "there is no majority");
    }
    scene.masters[0].truth.set_quorum(true, Duration::ZERO);
    for place in &waiting[1..] {
        assert_eq!(minions[place - 1].credit(Duration::from_secs(1)).await, Some(MIB));
    }
}

#[tokio::test(start_paused = true)]
async fn who_sends_what_it_was_given_gets_more_when_it_is_committed() {
    let scene = Scene::new(1).await;
    scene.masters[0].truth.enrol(&id("web-1"), &key_of("web-1"));
    let mut minion = scene.attach(0, "web-1").await;
    assert_eq!(minion.credit(MINUTE).await, Some(0), "this master gives credit");
    let jid = scene.submit(0, "*", 60_000).await;
    let value = saltern_wire::Value::String("x".repeat(600_000));
    let kind = saltern_wire::job::OutcomeKind::Finished;
    let outcome = saltern_wire::job::Outcome { kind, success: true, retcode: 0, value, duration_ms: 1 };
    let parts = saltern_wire::job::ReturnPart::split(jid, &outcome).expect("below the limit");
    let bytes = 600_000 + 3 * 128 + 1000;
    minion.tell(ToMaster::Want { bytes }).await;
    assert_eq!(minion.credit(MINUTE).await, Some(bytes));
    let Ok(Answer::Recorded(verdicts)) = minion.call(Call::Return(parts)).await.1 else { panic!("recorded") };
    assert_eq!(verdicts.last(), Some(&Recorded::Committed));
    let figures = || scene.masters[0].sessions.credit().figures();
    assert!(figures().0 < 1_000, "what is answered is free again: {:?}", figures());
    minion.tell(ToMaster::Want { bytes: 5 }).await;
    assert_eq!(minion.credit(MINUTE).await, Some(5));
    drop(minion);
    eventually("everything is free again", || figures() == (0, 0)).await;
}
