//! Stories of a minion's second session: it waits with another master, and takes over when the first one is gone, or when a
//! master asks for it.

mod common;

use common::{Cluster, Lame, Master};
use saltern_minion::{AgentHandle, Status};
use saltern_wire::MasterId;
use saltern_wire::session::{MoveReason, SessionRole, Standing, ToMinion};
use serde_json::json;
use std::time::Duration;

/// Waits until the minion works and its second session waits.
async fn ready(minion: &AgentHandle) -> Status {
    let accepted = |status: &Status| matches!(status.standing, Some(Standing::Accepted { .. }));
    let wait = minion.wait_for(|status| status.subscribed && accepted(status) && status.standby.is_some());
    tokio::time::timeout(Duration::from_secs(60), wait).await.expect("in time").expect("running")
}

async fn attached_to(minion: &AgentHandle, master: MasterId) -> Status {
    let wait = minion.wait_for(|status| {
        status.subscribed && status.attached.as_ref().is_some_and(|attached| attached.master == master)
    });
    tokio::time::timeout(Duration::from_secs(60), wait).await.expect("in time").expect("running")
}

fn primary_of(status: &Status) -> MasterId {
    status.attached.as_ref().expect("attached").master
}

fn standby_of(status: &Status) -> MasterId {
    status.standby.as_ref().expect("a second session").master
}

fn of(masters: &[Master], id: MasterId) -> &Master {
    masters.iter().find(|master| master.id == id).expect("one of them")
}

async fn three(cluster: &Cluster) -> Vec<Master> {
    vec![cluster.master(1).await, cluster.master(2).await, cluster.master(3).await]
}

#[tokio::test(start_paused = true)]
async fn a_killed_master_is_replaced_by_the_second_session_at_once_with_a_job_in_flight() {
    let mut cluster = Cluster::new(&[1, 2, 3]);
    let masters = three(&cluster).await;
    let folder = tempfile::tempdir().expect("a folder");
    let minion = cluster.minion(cluster.config(folder.path(), &[1, 2, 3]));
    let before = ready(&minion).await;
    let (primary, standby) = (primary_of(&before), standby_of(&before));
    let job = cluster.job("test.sleep", vec![json!(3)]);
    of(&masters, primary).offer(&job, &masters[0].identity);
    cluster.until("the acceptance", |truth| truth.accepted.contains(&job.jid).then_some(())).await;
    let attaches = cluster.truth().attaches;
    let clock = cluster.io().clock;
    let killed = clock.monotonic();
    of(&masters, primary).kill();
    let after = attached_to(&minion, standby).await;
    let away = clock.monotonic() - killed;
    assert!(away < Duration::from_millis(100), "{away:?}");
    assert_eq!(cluster.truth().attaches, attaches, "no handshake: it was there already");
    assert!(after.standby.is_none(), "the next one comes later");
    assert!(cluster.outcome(job.jid).await.success);
    assert_eq!(cluster.truth().returns[&job.jid].len(), 1);
    assert_eq!(cluster.truth().returns[&job.jid][0].1, standby);
    let moved = SessionRole::Primary { moved: Some(MoveReason::Lost) };
    assert!(cluster.truth().roles.contains(&(standby, moved)), "{:?}", cluster.truth().roles);
    let again = ready(&minion).await;
    assert!(![primary, standby].contains(&standby_of(&again)), "a new one with the third master");
    minion.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_frozen_master_is_left_sooner_with_a_second_session_and_at_once_when_others_say_so() {
    for push in [false, true] {
        let cluster = Cluster::new(&[1, 2]);
        let masters = [cluster.master(1).await, cluster.master(2).await];
        let folder = tempfile::tempdir().expect("a folder");
        let minion = cluster.minion(cluster.config(folder.path(), &[1, 2]));
        let before = ready(&minion).await;
        let (primary, standby) = (primary_of(&before), standby_of(&before));
        let clock = cluster.io().clock;
        let frozen = clock.monotonic();
        cluster.network.freeze(&format!("m{primary}"));
        if push {
            of(&masters, standby).tell_standbys(ToMinion::Promote { peer: primary, slot_ms: 200 });
        }
        attached_to(&minion, standby).await;
        let away = clock.monotonic() - frozen;
        let most = if push { Duration::from_millis(1_500) } else { Duration::from_millis(6_500) };
        assert!(away <= most, "{away:?} with push: {push}");
        minion.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_master_that_is_called_dead_and_answers_is_kept() {
    let cluster = Cluster::new(&[1, 2]);
    let masters = [cluster.master(1).await, cluster.master(2).await];
    let folder = tempfile::tempdir().expect("a folder");
    let minion = cluster.minion(cluster.config(folder.path(), &[1, 2]));
    let before = ready(&minion).await;
    let (primary, standby) = (primary_of(&before), standby_of(&before));
    for peer in [primary, standby, MasterId(9)] {
        of(&masters, standby).tell_standbys(ToMinion::Promote { peer, slot_ms: 0 });
    }
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!((primary_of(&minion.status()), standby_of(&minion.status())), (primary, standby));
    minion.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_move_reaches_the_new_master_before_it_leaves_the_old_one() {
    let mut cluster = Cluster::new(&[1, 2, 3]);
    let masters = three(&cluster).await;
    let folder = tempfile::tempdir().expect("a folder");
    let minion = cluster.minion(cluster.config(folder.path(), &[1, 2, 3]));
    let before = ready(&minion).await;
    let (primary, standby) = (primary_of(&before), standby_of(&before));
    let third = MasterId(6 - primary.0 - standby.0);
    let follow = minion.watch();
    let gaps = tokio::spawn(async move {
        let (mut follow, mut gaps) = (follow, 0);
        while follow.changed().await.is_ok() {
            let status = follow.borrow_and_update().clone();
            gaps += u32::from(status.attached.is_none() || !status.subscribed);
        }
        gaps
    });
    let job = cluster.job("test.sleep", vec![json!(2)]);
    of(&masters, primary).offer(&job, &masters[0].identity);
    // To the master of the second session, to one that it has no session with, and back.
    for to in [standby, third, primary] {
        let now = primary_of(&minion.status());
        let wish = ToMinion::Move { to: Some(to), reason: MoveReason::Asked, within_ms: 10_000 };
        of(&masters, now).tell(wish);
        attached_to(&minion, to).await;
    }
    assert!(cluster.outcome(job.jid).await.success);
    assert_eq!(cluster.truth().returns[&job.jid].len(), 1);
    minion.stop().await;
    assert_eq!(gaps.await.expect("counted"), 0, "it worked through a master at every moment");
}

#[tokio::test(start_paused = true)]
async fn a_move_to_a_master_that_does_not_answer_is_given_up_and_nothing_is_lost() {
    let cluster = Cluster::new(&[1, 2, 3]);
    let masters = three(&cluster).await;
    let folder = tempfile::tempdir().expect("a folder");
    let minion = cluster.minion(cluster.config(folder.path(), &[1, 2, 3]));
    let before = ready(&minion).await;
    let (primary, standby) = (primary_of(&before), standby_of(&before));
    let third = MasterId(6 - primary.0 - standby.0);
    cluster.truth().lame.insert(third, Lame::NoGrant);
    of(&masters, primary).tell(ToMinion::Move { to: Some(third), reason: MoveReason::Asked, within_ms: 3_000 });
    cluster.until("the attempt", |truth| truth.roles.iter().any(|(master, _)| *master == third).then_some(())).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let now = minion.status();
    assert_eq!((primary_of(&now), now.subscribed), (primary, true));
    assert_eq!(standby_of(&ready(&minion).await), standby, "and it has a second session again");
    minion.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_draining_master_is_left_for_the_second_session() {
    let cluster = Cluster::new(&[1, 2]);
    let masters = [cluster.master(1).await, cluster.master(2).await];
    let folder = tempfile::tempdir().expect("a folder");
    let minion = cluster.minion(cluster.config(folder.path(), &[1, 2]));
    let before = ready(&minion).await;
    let (primary, standby) = (primary_of(&before), standby_of(&before));
    of(&masters, primary).tell(ToMinion::Move { to: None, reason: MoveReason::Drain, within_ms: 10_000 });
    attached_to(&minion, standby).await;
    minion.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_minion_goes_home_when_its_own_master_says_so_and_not_from_where_it_was_sent() {
    let cluster = Cluster::new(&[1, 2]);
    let masters = [cluster.master(1).await, cluster.master(2).await];
    let folder = tempfile::tempdir().expect("a folder");
    let minion = cluster.minion(cluster.config(folder.path(), &[1, 2]));
    let home = primary_of(&ready(&minion).await);
    let away = MasterId(3 - home.0);
    let failback = ToMinion::Move { to: Some(home), reason: MoveReason::Failback, within_ms: 10_000 };
    // It drains, and comes back.
    of(&masters, home).tell(ToMinion::Move { to: None, reason: MoveReason::Drain, within_ms: 10_000 });
    attached_to(&minion, away).await;
    ready(&minion).await;
    let preferred = SessionRole::Standby { primary: away, preferred: true };
    cluster.until("the wish to go home", |truth| truth.roles.contains(&(home, preferred)).then_some(())).await;
    of(&masters, home).tell_standbys(failback.clone());
    attached_to(&minion, home).await;
    // Sent away by an operator, it stays there.
    of(&masters, home).tell(ToMinion::Move { to: Some(away), reason: MoveReason::Asked, within_ms: 10_000 });
    attached_to(&minion, away).await;
    ready(&minion).await;
    of(&masters, home).tell_standbys(failback);
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(primary_of(&minion.status()), away);
    let last = cluster.truth().roles.iter().rev().find(|(master, _)| *master == home).map(|(_, role)| *role);
    assert_eq!(last, Some(SessionRole::Standby { primary: away, preferred: false }));
    minion.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_cluster_that_does_not_know_of_second_sessions_is_asked_for_none() {
    let cluster = Cluster::new(&[1, 2]);
    cluster.truth().level = 2;
    let _masters = [cluster.master(1).await, cluster.master(2).await];
    let folder = tempfile::tempdir().expect("a folder");
    let minion = cluster.minion(cluster.config(folder.path(), &[1, 2]));
    minion.wait_for(|status| status.subscribed).await.expect("running");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!((cluster.truth().roles.len(), minion.status().standby), (1, None));
    cluster.truth().level = 3;
    ready(&minion).await;
    minion.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_minion_survives_the_replacement_of_every_master_that_it_was_configured_with() {
    let mut cluster = Cluster::new(&[1, 2]);
    let mut masters = vec![cluster.master(1).await, cluster.master(2).await];
    let folder = tempfile::tempdir().expect("a folder");
    let config = cluster.config(folder.path(), &[1, 2]);
    let minion = cluster.minion(config.clone());
    ready(&minion).await;
    for (version, (gone, new)) in (2..).zip([(1, 3), (2, 4)]) {
        masters.push(cluster.master(new).await);
        cluster.publish_directory(1, version, &[gone + 1, 3, new]);
        tokio::time::sleep(Duration::from_secs(40)).await;
        of(&masters, MasterId(gone)).kill();
        let there = |status: &Status| status.attached.as_ref().is_some_and(|now| now.master != MasterId(gone));
        let wait = minion.wait_for(|status| status.subscribed && there(status));
        tokio::time::timeout(Duration::from_secs(60), wait).await.expect("in time").expect("running");
    }
    minion.stop().await;
    // Started again with a configuration that names nobody who lives.
    let minion = cluster.minion(config);
    let status = ready(&minion).await;
    assert!([3, 4].contains(&primary_of(&status).0) && [3, 4].contains(&standby_of(&status).0), "{status:?}");
    let mut job = cluster.job("test.ping", vec![]);
    job.master = MasterId(3);
    of(&masters, primary_of(&status)).offer(&job, &of(&masters, MasterId(3)).identity);
    assert!(cluster.outcome(job.jid).await.success);
    minion.stop().await;
}
