//! Keys: shown at one master, decided at another, effective at once everywhere.

use super::*;
use saltern_store::command::{Command, KeyCommand, MinionCommand};
use saltern_wire::api::Presence as Presentness;
use saltern_wire::key::KeyState;

fn accept(keys: Vec<(MinionId, saltern_wire::crypto::Fingerprint)>) -> KeyCommand {
    KeyCommand::Accept { keys, by: "root".into() }
}

fn reject(keys: Vec<(MinionId, saltern_wire::crypto::Fingerprint)>) -> KeyCommand {
    KeyCommand::Reject { keys, by: "root".into() }
}

fn delete(keys: Vec<(MinionId, saltern_wire::crypto::Fingerprint)>) -> KeyCommand {
    KeyCommand::Delete { keys, by: "root".into() }
}

#[tokio::test(start_paused = true)]
async fn a_stranger_waits_and_hears_of_its_acceptance_at_another_master() {
    let scene = Scene::new(2).await;
    let mut minion = scene.attach(0, "web-1").await;
    assert_eq!(minion.standing().await, Standing::Pending);
    let record = scene.masters[1].truth.replica().state().key(&id("web-1")).expect("submitted");
    assert_eq!((record.state, record.public_key), (KeyState::Pending, key_of("web-1").public_key()));
    assert!(minion.ping().await, "it may ping");
    assert_eq!(minion.call(Call::Facts(saltern_wire::Map::new())).await.1, Err(Refusal::NotAccepted));
    assert_eq!(scene.presence_of("web-1")[0].1, None, "who waits is not shown");

    scene.masters[1].truth.decide(accept, &id("web-1"), &key_of("web-1")).expect("accepted");
    let Standing::Accepted { ordinal } = minion.standing().await else { panic!("it is accepted") };
    assert_eq!(scene.masters[0].truth.replica().state().ordinal_of(&id("web-1")), Some(ordinal));
    let Some(ToMinion::Directory(directory)) = minion.next().await else { panic!("the directory comes first") };
    assert_eq!(directory.verify(&ca().public_key()).expect("signed by the CA").masters.len(), 2);
    let grant = minion.granted().await;
    assert_eq!(grant.address, Address::new("m1", 4505));
    scene.subscribe(0, "web-1", &grant).await;
    let here = (Presentness::Connected, Some(MasterId(1)));
    eventually("both masters know where it is", || scene.presence_of("web-1") == [here, here]).await;
}

#[tokio::test(start_paused = true)]
async fn a_deleted_minion_is_out_at_once_and_the_others_get_a_new_key() {
    let scene = Scene::new(2).await;
    let (mut gone, grant) = scene.join(0, "gone").await;
    let (mut stays, _) = scene.join(0, "stays").await;
    let (mut other, first) = scene.join(1, "other").await;
    // Deleted at the other master, while it is subscribed at this one.
    let mut subscribed = scene.subscribe(0, "gone", &grant).await;
    scene.masters[1].truth.decide(delete, &id("gone"), &key_of("gone")).expect("deleted");
    // Nothing but its last words: above all not the key that follows.
    assert_eq!(gone.next().await, Some(ToMinion::Standing(Standing::Deleted)));
    assert!(matches!(gone.next().await, Some(ToMinion::Bye { reason, .. }) if reason.contains("deleted")));
    assert_eq!(gone.next().await, None);
    let rekey = |message| if let ToMinion::Rekey(key) = message { Some(key) } else { None };
    let key = stays.until(rekey).await;
    assert!(key.epoch > grant.key.epoch && key.key != grant.key.key);
    assert!(other.until(rekey).await.epoch > first.key.epoch, "at every master");
    // Its subscription is cut: it ends, instead of bringing beacons for ever.
    let cut = async { while subscribed.recv().await.is_ok() {} };
    tokio::time::timeout(Duration::from_secs(60), cut).await.expect("the fan-out is closed to it");
    eventually("it is shown nowhere", || scene.presence_of("gone").iter().all(|at| at.0 == Presentness::Disconnected))
        .await;
    // It may enrol again, and waits.
    let mut again = scene.attach(1, "gone").await;
    assert_eq!(again.standing().await, Standing::Pending);
}

#[tokio::test(start_paused = true)]
async fn a_rejected_key_gets_nowhere() {
    let scene = Scene::new(2).await;
    let (mut minion, _) = scene.join(0, "web-1").await;
    scene.masters[1].truth.decide(reject, &id("web-1"), &key_of("web-1")).expect("rejected");
    assert_eq!(minion.standing().await, Standing::Rejected);
    assert!(minion.dismissed().await.contains("rejected"));
    for place in 0..2 {
        let mut again = scene.attach(place, "web-1").await;
        assert_eq!(again.standing().await, Standing::Rejected);
        assert!(again.dismissed().await.contains("rejected"));
        assert!(again.next().await.is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn a_master_that_lags_gives_a_revoked_key_no_session() {
    let scene = Scene::new(2).await;
    drop(scene.join(1, "web-1").await);
    scene.masters[1].truth.hold();
    scene.masters[0].truth.decide(delete, &id("web-1"), &key_of("web-1")).expect("deleted");
    let lagging = scene.masters[1].truth.replica();
    assert!(lagging.state().ordinal_of(&id("web-1")).is_some(), "it does not know yet");
    let mut again = scene.attach(1, "web-1").await;
    assert_eq!(again.standing().await, Standing::Pending, "deleted and enrolled anew, not accepted");
}

#[tokio::test(start_paused = true)]
async fn an_impersonator_is_denied_and_the_real_one_notices_nothing() {
    let scene = Scene::new(1).await;
    let (mut real, _) = scene.join(0, "web-1").await;
    let mut false_one = Minion::attach(&scene.network, 0, "web-1", key_of("mallory"), 1).await;
    assert_eq!(false_one.standing().await, Standing::Denied);
    assert!(false_one.dismissed().await.contains("another key"));
    assert!(false_one.next().await.is_none());
    assert!(real.ping().await);
    assert_eq!(scene.presence_of("web-1"), [(Presentness::Connected, Some(MasterId(1)))]);
    let denied = scene.masters[0].truth.replica().state().denied_of(&id("web-1")).expect("readable");
    assert_eq!(denied.iter().map(|record| record.public_key).collect::<Vec<_>>(), [key_of("mallory").public_key()]);
}

#[tokio::test(start_paused = true)]
async fn the_newer_session_of_a_minion_stays() {
    let scene = Scene::new(1).await;
    let (mut first, _) = scene.join(0, "web-1").await;
    let (mut second, _) = scene.join(0, "web-1").await;
    assert!(first.dismissed().await.contains("attached again"));
    assert!(first.next().await.is_none());
    assert!(second.ping().await);
    eventually("one session is left", || scene.masters[0].sessions.roster().counts().attached == 1).await;
    assert_eq!(scene.presence_of("web-1"), [(Presentness::Connected, Some(MasterId(1)))]);
    let jid = scene.submit(0, "*", 60_000).await;
    assert_eq!(second.offered().await.job.peek().expect("readable").jid, jid);
}

#[tokio::test(start_paused = true)]
async fn without_a_quorum_a_stranger_is_sent_away_and_a_known_minion_works() {
    let scene = Scene::new(1).await;
    let truth = &scene.masters[0].truth;
    let (minion, _) = scene.join(0, "known").await;
    drop(minion);
    truth.fail(Some(crate::truth::ProposeError::NoQuorum));
    truth.set_quorum(false, Duration::from_secs(60));
    let mut stranger = scene.attach(0, "stranger").await;
    assert!(stranger.dismissed().await.contains("no quorum"));
    let (mut known, _) = scene.join(0, "known").await;
    assert!(!known.ping().await, "it is told that there is no quorum");
    assert_eq!(known.call(Call::Return(Vec::new())).await.1, Ok(Answer::Recorded(Vec::new())));
    let jid = JobId::mint(saltern_wire::LogicalTime::ZERO, 0);
    assert_eq!(known.call(Call::Accept(vec![jid])).await.1, Err(Refusal::NoQuorum));
}

#[tokio::test(start_paused = true)]
async fn a_master_without_contact_for_too_long_lets_nobody_attach() {
    let scene = Scene::with(1, Settings { auth_max_stale_seconds: 60, ..Settings::default() }).await;
    scene.masters[0].truth.enrol(&id("web-1"), &key_of("web-1"));
    scene.masters[0].truth.set_quorum(false, Duration::from_secs(61));
    let mut minion = scene.attach(0, "web-1").await;
    assert!(minion.dismissed().await.contains("61 s ago, the limit is 60 s"));
    scene.masters[0].truth.set_quorum(false, Duration::from_secs(59));
    scene.join(0, "web-1").await;
}

#[tokio::test(start_paused = true)]
async fn facts_are_proposed_once_and_again_when_they_change() {
    let scene = Scene::new(1).await;
    let (mut minion, _) = scene.join(0, "web-1").await;
    let facts = |os: &str| {
        let mut facts = saltern_wire::Map::new();
        facts.insert("os".into(), os.into());
        facts
    };
    let proposed = || {
        let is_facts = |command: &Command| matches!(command, Command::Minion(MinionCommand::Facts { .. }));
        scene.masters[0].truth.asked().iter().filter(|command| is_facts(command)).count()
    };
    let before = proposed();
    for (os, expect) in [("Debian", 1), ("Debian", 1), ("Fedora", 2)] {
        assert_eq!(minion.call(Call::Facts(facts(os))).await.1, Ok(Answer::Done));
        assert_eq!(proposed() - before, expect, "{os}");
        let held = scene.masters[0].truth.replica().state().facts(&id("web-1")).expect("readable").expect("reported");
        assert_eq!((held.facts, held.incarnation), (facts(os), 1));
    }
    let (mut again, _) = scene.join(0, "web-1").await;
    assert_eq!(again.call(Call::Facts(facts("Fedora"))).await.1, Ok(Answer::Done));
    assert_eq!(proposed() - before, 2, "a new session changes nothing");
}
