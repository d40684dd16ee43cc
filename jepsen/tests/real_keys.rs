//! Keys are one truth: decided anywhere, effective everywhere, and still so on a master that was away.

use saltern_jepsen::real::{Wish, World, said};
use saltern_ops::fleet::jobs;
use saltern_wire::MinionId;
use saltern_wire::api::{KeyChanges, KeyDecision, KeySelection, KeyView, MinionList};
use saltern_wire::key::KeyState;
use std::time::Duration;

fn of(minion: &str) -> KeyDecision {
    KeyDecision { select: KeySelection::Glob(minion.into()), include_decided: true }
}

/// Waits until master `asked` holds `minion` in `state` (`None`: not at all).
async fn wait_for_key(world: &mut World, asked: usize, minion: &str, state: Option<KeyState>) -> anyhow::Result<()> {
    let what = format!("{minion} to be {state:?} at master {}", asked + 1);
    let id = MinionId::new(minion)?;
    let met = move |keys: &Vec<KeyView>| {
        let found = keys.iter().find(|key| key.minion == id && key.state != KeyState::Denied);
        found.map(|key| key.state) == state
    };
    world.cluster.wait(asked, &what, "/v1/keys", met).await?;
    Ok(())
}

async fn decide(world: &World, asked: usize, decision: &str, minion: &str) -> anyhow::Result<KeyChanges> {
    let path = format!("/v1/keys/{decision}");
    Ok(world.cluster.client(asked).post::<_, KeyChanges>(&path, &of(minion)).await?.value)
}

async fn ping(world: &World, asked: usize, target: &str) -> anyhow::Result<Vec<String>> {
    let job = jobs::job(saltern_wire::target::TargetKind::Glob, target, "test.ping", &[]);
    let view = jobs::run(&mut world.cluster.client(asked), &job, Duration::from_secs(20)).await?;
    Ok(view.returns.keys().map(ToString::to_string).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_submitted_at_one_master_accepted_at_a_second_and_effective_at_the_third() -> anyhow::Result<()> {
    let mut world = World::masters_of(Wish { masters: 3, minions: 2, ..Wish::default() }).await?;
    let pin = world.cluster.ca_fingerprint.clone();
    for number in 0..2 {
        world.cluster.fleet.write_minion(number, &pin)?;
        world.cluster.fleet.start_minion(number)?;
    }
    for minion in ["minion-1", "minion-2"] {
        wait_for_key(&mut world, 1, minion, Some(KeyState::Pending)).await?;
    }
    let refused = ping(&world, 0, "minion-1").await.expect_err("a pending minion is no target").to_string();
    assert!(refused.contains("No minions matched the target"), "{refused}");
    assert_eq!(decide(&world, 1, "accept", "minion-1").await?.changed.len(), 1);
    wait_for_key(&mut world, 2, "minion-1", Some(KeyState::Accepted)).await?;
    world.cluster.wait_for_connected(2, 1).await?;
    assert_eq!(ping(&world, 2, "*").await?, ["minion-1"], "the pending one is not asked");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_or_rejected_key_is_gone_everywhere_also_where_the_master_was_down() -> anyhow::Result<()> {
    let mut world = World::up(3, 4).await?;
    let leader = world.leader(0).await?;
    let away = (leader + 1) % 3;
    let here = (leader + 2) % 3;
    world.kill_master(away)?;
    world.cluster.wait_for_connected(here, 4).await?;

    // Rejected through one master: its session ends wherever it is, and the key gets it nowhere.
    assert_eq!(decide(&world, here, "reject", "minion-1").await?.changed.len(), 1);
    // The minion itself is stopped before its key is deleted, or it would enrol again at once.
    world.cluster.fleet.minions[1].process = None;
    assert_eq!(decide(&world, leader, "delete", "minion-2").await?.changed.len(), 1);
    for asked in [leader, here] {
        let others = |list: &MinionList| list.minions.len() == 2;
        world.cluster.wait(asked, "two accepted minions", "/v1/minions", others).await?;
        assert_eq!(ping(&world, asked, "*").await?, ["minion-3", "minion-4"], "at master {}", asked + 1);
    }

    world.start_master(away)?;
    world.cluster.wait_for_voters(3).await?;
    wait_for_key(&mut world, away, "minion-2", None).await?;
    wait_for_key(&mut world, away, "minion-1", Some(KeyState::Rejected)).await?;
    assert_eq!(ping(&world, away, "*").await?, ["minion-3", "minion-4"], "on the master that was away");

    // A deleted minion that comes back enrols again and waits; a rejected one is still refused.
    world.cluster.fleet.start_minion(1)?;
    wait_for_key(&mut world, away, "minion-2", Some(KeyState::Pending)).await?;
    world.cluster.fleet.minions[0].process = None;
    world.cluster.fleet.start_minion(0)?;
    let log = world.cluster.fleet.minions[0].folder.join("log");
    let told = async {
        while !std::fs::read_to_string(&log).unwrap_or_default().to_lowercase().contains("rejected") {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), told)
        .await
        .map_err(|_| anyhow::anyhow!("the minion says that it is rejected"))?;
    wait_for_key(&mut world, here, "minion-1", Some(KeyState::Rejected)).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_impersonator_and_a_stranger_to_the_ca_get_nothing() -> anyhow::Result<()> {
    let mut world = World::masters_of(Wish { masters: 1, minions: 2, ..Wish::default() }).await?;
    let pin = world.cluster.ca_fingerprint.clone();
    world.cluster.fleet.write_minion(0, &pin)?;
    world.cluster.fleet.start_minion(0)?;
    wait_for_key(&mut world, 0, "minion-1", Some(KeyState::Pending)).await?;
    world.cluster.accept_all(0).await?;
    world.cluster.wait_for_connected(0, 1).await?;

    // The second minion claims the first one's name with a key of its own, while the first is away.
    world.cluster.fleet.minions[0].process = None;
    world.cluster.fleet.write_minion(1, &pin)?;
    let config = world.cluster.fleet.minions[1].folder.join("minion.yaml");
    let text = std::fs::read_to_string(&config)?.replace("id: minion-2", "id: minion-1");
    std::fs::write(&config, &text)?;
    world.cluster.fleet.start_minion(1)?;
    let denied = |keys: &Vec<KeyView>| keys.iter().any(|key| key.state == KeyState::Denied);
    world.cluster.wait(0, "the impersonator's key to be denied", "/v1/keys", denied).await?;
    let view = {
        let mut client = world.cluster.client(0);
        let mut job = jobs::for_all("test.ping", &[]);
        job.ttl_ms = Some(1_500);
        jobs::run(&mut client, &job, Duration::from_secs(20)).await?
    };
    assert!(view.returns.is_empty(), "the impersonator returned: {:?}", view.returns);
    assert_eq!(view.missing.len(), 1, "the real one is missing, with a reason: {:?}", view.missing);

    // A minion that pins another CA does not speak to these masters at all.
    let wrong = text.replace("id: minion-1", "id: minion-9").replace(&pin, &"ab".repeat(32));
    std::fs::write(&config, wrong)?;
    world.cluster.fleet.minions[1].process = None;
    world.cluster.fleet.start_minion(1)?;
    let log = world.cluster.fleet.minions[1].folder.join("log");
    let told = async {
        while !std::fs::read_to_string(&log).unwrap_or_default().contains("CA") {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), told)
        .await
        .map_err(|_| anyhow::anyhow!("the minion names the wrong CA"))?;
    let output = world.saltern(&[0], &["key", "list", "-o", "json"])?;
    assert!(!String::from_utf8_lossy(&output.stdout).contains("minion-9"), "{}", said(&output));
    Ok(())
}

/// The refusal of a decision is an answer as well: it stands in the log under its request id. Otherwise a retry at a master
/// that has not heard of the first attempt yet could call it refused, and the first attempt could happen after that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_decision_that_found_nothing_stays_refused_under_its_request_id() -> anyhow::Result<()> {
    let mut world = World::masters_of(Wish { masters: 1, minions: 1, ..Wish::default() }).await?;
    let socket = world.cluster.fleet.masters[0].socket();
    let request = saltern_wire::RequestId::from_bytes([7; 16]);
    let again = || {
        let server = saltern_ops::client::server::Server::Unix(socket.clone());
        let entropy = std::sync::Arc::new(saltern_pubsub::clock::SystemEntropy);
        saltern_ops::client::Client::new(vec![server], entropy, Some(request))
    };
    let first = again().post::<_, KeyChanges>("/v1/keys/accept", &of("minion-1")).await;
    let refused = first.expect_err("there is no such key yet").to_string();
    assert!(refused.contains("matches no"), "{refused}");
    let pin = world.cluster.ca_fingerprint.clone();
    world.cluster.fleet.write_minion(0, &pin)?;
    world.cluster.fleet.start_minion(0)?;
    wait_for_key(&mut world, 0, "minion-1", Some(KeyState::Pending)).await?;
    let second = again().post::<_, KeyChanges>("/v1/keys/accept", &of("minion-1")).await?.value;
    assert_eq!(second, KeyChanges::default(), "the first answer");
    wait_for_key(&mut world, 0, "minion-1", Some(KeyState::Pending)).await?;
    assert_eq!(decide(&world, 0, "accept", "minion-1").await?.changed.len(), 1, "under another id");
    Ok(())
}
