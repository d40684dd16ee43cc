//! Jobs: taken at one master, published by all, offered until they are accepted, returned through any.

use super::*;
use futures::StreamExt;
use saltern_wire::Value;
use saltern_wire::api::{JobEvent, JobState};
use saltern_wire::fanout::Broadcast;
use saltern_wire::job::{Outcome, OutcomeKind, Progress, Recorded, ReturnPart};

fn outcome() -> Outcome {
    Outcome { kind: OutcomeKind::Finished, success: true, retcode: 0, value: Value::Bool(true), duration_ms: 3 }
}

pub(super) async fn give_back(minion: &mut Minion, jid: JobId) -> Recorded {
    let parts = ReturnPart::split(jid, &outcome()).expect("small");
    let (_, result) = minion.call(Call::Return(parts)).await;
    let Ok(Answer::Recorded(recorded)) = result else { panic!("recorded, not {result:?}") };
    recorded[0]
}

pub(super) fn is_offer(message: &ToMinion) -> bool {
    matches!(message, ToMinion::Offer(_))
}

#[tokio::test(start_paused = true)]
async fn a_job_reaches_the_minions_of_every_master_and_its_watchers_hear_all() {
    let scene = Scene::new(3).await;
    let mut minions = Vec::new();
    for place in 0..3 {
        minions.push(scene.join(place, &format!("web-{place}")).await.0);
    }
    let jid = scene.submit(1, "web-*", 60_000).await;
    let following = scene.masters[2].watch.job(jid).expect("readable").expect("open");
    for minion in &mut minions {
        let offer = minion.offered().await;
        let job = offer.job.verify(&master_key(2).public_key()).expect("signed by the master that took it");
        assert_eq!((job.jid, job.function.as_str(), job.generation), (jid, "test.ping", 1));
        assert!(offer.remaining_ms <= 60_000 && offer.remaining_ms > 50_000, "{}", offer.remaining_ms);
        let (revision, answer) = minion.call(Call::Accept(vec![jid])).await;
        assert_eq!(answer, Ok(Answer::Done));
        assert!(revision > Revision(0));
        assert_eq!(give_back(minion, jid).await, Recorded::Committed);
        assert_eq!(give_back(minion, jid).await, Recorded::Duplicate);
    }
    let events: Vec<JobEvent> = following.collect().await;
    let names: Vec<String> = events
        .iter()
        .map(|event| match event {
            JobEvent::Return { minion, view } => format!("{minion} by {}", view.master),
            JobEvent::Missing(missing) => panic!("nobody is missing: {missing:?}"),
            JobEvent::Batch(batch) => panic!("it goes to all at once: {batch:?}"),
            JobEvent::Done { .. } => "done".into(),
        })
        .collect();
    assert_eq!(names, ["web-0 by m1", "web-1 by m2", "web-2 by m3", "done"]);
    let late: Vec<JobEvent> = scene.masters[0].watch.job(jid).expect("readable").expect("held").collect().await;
    assert_eq!(late.len(), 4, "who comes late hears the same");
    let view =
        crate::watch::job_view(scene.masters[0].truth.replica().state(), &scene.masters[0].presence, jid, 1 << 20);
    let view = view.expect("readable").expect("held");
    assert_eq!((view.summary.state, view.returns.len(), view.missing.len()), (JobState::Done, 3, 0));
    assert_eq!(view.master, "m2");
}

#[tokio::test(start_paused = true)]
async fn an_offer_is_repeated_until_it_is_accepted() {
    let scene = Scene::new(1).await;
    let (mut minion, _) = scene.join(0, "web-1").await;
    let jid = scene.submit(0, "*", 60_000).await;
    for _ in 0..3 {
        assert_eq!(minion.offered().await.job.peek().expect("readable").jid, jid);
    }
    minion.call(Call::Accept(vec![jid])).await.1.expect("accepted");
    assert!(minion.quiet(Duration::from_secs(10), is_offer).await, "it has it on its disk");
    let record = scene.masters[0].truth.replica().state().progress_of(&jid, Ordinal(1));
    assert_eq!(record.expect("readable").map(|(progress, _)| progress), Some(Progress::Accepted));
}

#[tokio::test(start_paused = true)]
async fn who_comes_back_in_time_gets_its_job_and_who_comes_late_does_not() {
    let scene = Scene::new(2).await;
    for name in ["early", "late"] {
        scene.masters[0].truth.enrol(&id(name), &key_of(name));
    }
    let jid = scene.submit(0, "*", 30_000).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let (mut early, _) = scene.join(1, "early").await;
    let offer = early.offered().await;
    assert_eq!(offer.job.peek().expect("readable").jid, jid);
    assert!(offer.remaining_ms <= 20_000, "{} ms are left of 30 s", offer.remaining_ms);
    early.call(Call::Accept(vec![jid])).await.1.expect("accepted");
    tokio::time::sleep(Duration::from_secs(20)).await;
    let (mut late, _) = scene.join(0, "late").await;
    assert!(late.quiet(Duration::from_secs(10), is_offer).await, "its time is over");
}

#[tokio::test(start_paused = true)]
async fn a_reinstalled_minion_is_not_offered_what_its_predecessor_may_have_run() {
    let scene = Scene::new(1).await;
    let (mut first, _) = scene.join(0, "web-1").await;
    let jid = scene.submit(0, "*", 60_000).await;
    first.offered().await;
    drop(first);
    let mut second = Minion::attach(&scene.network, 0, "web-1", key_of("web-1"), 2).await;
    second.granted().await;
    assert!(second.quiet(Duration::from_secs(10), is_offer).await, "its predecessor may have run it");
    let master = &scene.masters[0];
    let view =
        crate::watch::job_view(master.truth.replica().state(), &master.presence, jid, 1 << 20).expect("readable");
    assert_eq!(view.expect("held").missing[0].reason, "reinstalled: nobody knows whether it ran");
    let next = scene.submit(0, "*", 60_000).await;
    assert_eq!(second.offered().await.job.peek().expect("readable").jid, next);
    assert_ne!(jid, next);
}

#[tokio::test(start_paused = true)]
async fn a_wide_job_goes_over_the_fanout_and_beacons_tell_of_it() {
    let scene = Scene::new(1).await;
    let mut minions = Vec::new();
    for number in 0..20 {
        let name = format!("web-{number}");
        let (minion, grant) = scene.join(0, &name).await;
        let subscriber = scene.subscribe(0, &name, &grant).await;
        minions.push((minion, subscriber));
    }
    // Long enough that all of them count as subscribed; they ping, or they would be taken for gone.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let jid = scene.submit(0, "*", 60_000).await;
    for (_, subscriber) in &mut minions {
        let job = loop {
            match subscriber.recv().await.expect("subscribed") {
                Broadcast::Job(offer) => break offer,
                Broadcast::Beacon(beacon) => assert!(beacon.quorum && beacon.cluster == CLUSTER, "{beacon:?}"),
            }
        };
        assert_eq!(job.job.peek().expect("readable").jid, jid);
        assert_eq!(subscriber.refused().total(), 0);
    }
    let (minion, subscriber) = &mut minions[0];
    assert!(minion.quiet(Duration::from_millis(500), is_offer).await, "one frame was enough");
    let newest = loop {
        if let Broadcast::Beacon(beacon) = subscriber.recv().await.expect("subscribed") {
            break beacon.newest_job;
        }
    };
    assert_eq!(newest, Some(jid));
}

#[tokio::test(start_paused = true)]
async fn a_retried_submission_finds_the_first_job_and_an_empty_target_is_refused() {
    let scene = Scene::new(2).await;
    let request = RequestId::from_bytes([200; 16]);
    let none = scene.masters[0].jobs.submit(submission("*", None), "root", request).await.expect_err("nobody is there");
    assert_eq!((none.code, none.message.as_str()), (saltern_wire::api::FailureCode::NoMatch, crate::submit::NO_MATCH));
    scene.masters[0].truth.enrol(&id("web-1"), &key_of("web-1"));
    let first = scene.masters[0].jobs.submit(submission("*", None), "root", request).await.expect("one is there");
    assert_eq!(first.0.targeted, [id("web-1")]);
    scene.masters[0].truth.enrol(&id("web-2"), &key_of("web-2"));
    let again = scene.masters[1].jobs.submit(submission("*", None), "root", request).await.expect("a retry");
    assert_eq!(again.0, first.0, "at another master, with another fleet");
    let other = RequestId::from_bytes([201; 16]);
    let second = scene.masters[1].jobs.submit(submission("*", None), "root", other).await.expect("a new one");
    assert!(second.0.jid != first.0.jid && second.0.targeted.len() == 2);
    assert_eq!(scene.masters[0].truth.replica().state().open_jobs().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn mine_values_reported_here_are_read_there() {
    let scene = Scene::new(2).await;
    let (mut giver, _) = scene.join(0, "db-1").await;
    let (mut reader, _) = scene.join(1, "web-1").await;
    let report = saltern_wire::mine::MineReport {
        function: "network.ip_addrs".into(),
        value: Some("10.0.0.1".into()),
        stamp: saltern_wire::mine::MineStamp { incarnation: 1, counter: 1 },
    };
    giver.call(Call::MineReport(vec![report])).await.1.expect("reported");
    let get = |glob: &str| Call::MineGet { target: Target::glob(glob), function: "network.ip_addrs".into() };
    let (_, answer) = reader.call(get("db-*")).await;
    let Ok(Answer::Mine(entries)) = answer else { panic!("mine values, not {answer:?}") };
    assert_eq!(
        entries.iter().map(|entry| (entry.minion.as_str(), entry.value.clone())).collect::<Vec<_>>(),
        [("db-1", Value::from("10.0.0.1"))]
    );
    assert_eq!(reader.call(get("none-*")).await.1, Ok(Answer::Mine(Vec::new())));
    assert!(matches!(reader.call(get("")).await.1, Err(Refusal::Invalid(_))));
}
