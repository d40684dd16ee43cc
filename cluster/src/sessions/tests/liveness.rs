//! Who is silent, who is told what of it, and why an answer is missing.

use super::*;
use saltern_store::command::Command;
use saltern_wire::api::Presence as Presentness;

#[tokio::test(start_paused = true)]
async fn a_silent_minion_is_dropped_and_one_that_pings_stays() {
    let scene = Scene::new(2).await;
    let (mut silent, _) = scene.join(0, "silent").await;
    let (mut lively, _) = scene.join(0, "lively").await;
    for _ in 0..8 {
        tokio::time::sleep(Duration::from_secs(5)).await;
        lively.ping().await;
    }
    assert!(silent.dismissed().await.contains("silent"));
    assert_eq!(scene.presence_of("lively")[0], (Presentness::Connected, Some(MasterId(1))));
    let gone = (Presentness::Disconnected, Some(MasterId(1)));
    eventually("both masters know that it left", || scene.presence_of("silent") == [gone, gone]).await;
}

#[tokio::test(start_paused = true)]
async fn a_stopped_master_says_bye_and_its_minions_are_unknown_until_they_turn_up() {
    let mut scene = Scene::new(2).await;
    let (_moves, _) = scene.join(0, "moves").await;
    let (_away, _) = scene.join(0, "away").await;
    let here = (Presentness::Connected, Some(MasterId(1)));
    eventually("the other master knows", || {
        scene.presence_of("moves")[1] == here && scene.presence_of("away")[1] == here
    })
    .await;
    // Stopped in the way of kill -9: cut off first, so that the other master hears nothing.
    scene.network.freeze("m1");
    let stopped = scene.masters.remove(0);
    stopped.stop();
    let unknown = (Presentness::Unknown, Some(MasterId(1)));
    eventually("its minions are unknown", || scene.presence_of("away") == [unknown]).await;
    let mut moved = Minion::attach(&scene.network, 1, "moves", key_of("moves"), 1).await;
    moved.granted().await;
    assert_eq!(scene.presence_of("moves"), [(Presentness::Connected, Some(MasterId(2)))]);
    eventually("the other one is given up", || scene.presence_of("away")[0].0 == Presentness::Disconnected).await;
    let coverage = scene.masters[0].presence.coverage();
    assert_eq!((coverage.heard, coverage.all), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn a_change_of_quorum_is_told_at_once() {
    let scene = Scene::with(1, Settings { beacon_interval_ms: 3_600_000, ..Settings::default() }).await;
    let (_minion, grant) = scene.join(0, "web-1").await;
    let mut subscriber = scene.subscribe(0, "web-1", &grant).await;
    scene.masters[0].truth.set_quorum(false, Duration::from_secs(1));
    let within = Duration::from_secs(5);
    let told = tokio::time::timeout(within, subscriber.recv()).await.expect("long before the next beacon");
    let Ok(saltern_wire::fanout::Broadcast::Beacon(beacon)) = told else { panic!("a beacon, not {told:?}") };
    assert!(!beacon.quorum);
}

#[tokio::test(start_paused = true)]
async fn every_missing_answer_has_its_reason() {
    let scene = Scene::new(2).await;
    let (mut runs, _) = scene.join(1, "runs").await;
    let (_idle, _) = scene.join(0, "idle").await;
    for name in ["away", "revoked"] {
        scene.masters[0].truth.enrol(&id(name), &key_of(name));
    }
    let jid = scene.submit(0, "*", 10_000).await;
    runs.offered().await;
    runs.call(Call::Accept(vec![jid])).await.1.expect("accepted");
    let delete = |keys| saltern_store::command::KeyCommand::Delete { keys, by: "root".into() };
    scene.masters[0].truth.decide(delete, &id("revoked"), &key_of("revoked")).expect("deleted");
    eventually("presence is known", || scene.presence_of("runs")[0].0 == Presentness::Connected).await;
    let reasons = || {
        let master = &scene.masters[0];
        let view = crate::watch::job_view(master.truth.replica().state(), &master.presence, jid, 1 << 20);
        let view = view.expect("readable").expect("held");
        view.missing.iter().map(|missing| format!("{}: {}", missing.minion, missing.reason)).collect::<Vec<_>>()
    };
    assert_eq!(
        reasons(),
        [
            "away: disconnected: not seen since this master started",
            "idle: not delivered yet",
            "revoked: key not accepted",
            "runs: delivered, still running",
        ]
    );
    tokio::time::sleep(Duration::from_secs(11)).await;
    scene.masters[0].truth.apply(Command::Tick, None).applied.expect("time passes");
    assert_eq!(
        reasons(),
        [
            "away: expired, disconnected: not seen since this master started",
            "idle: expired",
            "revoked: key not accepted",
            "runs: delivered, still running",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn events_have_salts_tags() {
    use futures::StreamExt;
    let scene = Scene::new(1).await;
    let mut events = Box::pin(scene.masters[0].watch.events());
    let (mut minion, _) = scene.join(0, "web-1").await;
    let jid = scene.submit(0, "*", 60_000).await;
    minion.call(Call::Accept(vec![jid])).await.1.expect("accepted");
    let outcome = saltern_wire::job::Outcome {
        kind: saltern_wire::job::OutcomeKind::Finished,
        success: true,
        retcode: 0,
        value: true.into(),
        duration_ms: 1,
    };
    let parts = saltern_wire::job::ReturnPart::split(jid, &outcome).expect("small");
    minion.call(Call::Return(parts)).await.1.expect("recorded");
    let mut seen = BTreeMap::new();
    // What is applied and who is present are told by two sources: nothing says which of them comes first.
    let done = format!("salt/job/{jid}/done");
    let all = ["salt/key", "salt/presence/change", "salt/minion/web-1/start", &done];
    while !all.iter().all(|tag| seen.contains_key(*tag)) {
        let next = tokio::time::timeout(Duration::from_secs(60), events.next()).await;
        let event = next.unwrap_or_else(|_| panic!("one of {all:?} is not among {:?}", seen.keys())).expect("open");
        seen.entry(event.tag.clone()).or_insert(event);
    }
    let new = &seen[&format!("salt/job/{jid}/new")];
    assert_eq!(
        (&new.data["fun"], &new.data["tgt"], &new.data["tgt_type"]),
        (&"test.ping".into(), &"*".into(), &"glob".into())
    );
    assert_eq!(new.data["minions"], serde_json::json!(["web-1"]));
    let ret = &seen[&format!("salt/job/{jid}/ret/web-1")];
    assert_eq!(
        (&ret.data["return"], &ret.data["fun"], &ret.data["cmd"]),
        (&true.into(), &"test.ping".into(), &"_return".into())
    );
    assert!(ret.revision > new.revision && ret.time > new.time);
}
