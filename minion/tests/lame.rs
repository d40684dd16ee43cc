//! Stories of masters that accept a minion, answer its pings, and are of no use otherwise.

mod common;

use common::{Cluster, Lame, Master};
use saltern_minion::{AgentHandle, Status};
use saltern_wire::MasterId;
use serde_json::json;
use std::time::Duration;

/// Waits until the minion listens to the fan-out of a master that fits, and gives its number.
async fn listens(minion: &AgentHandle, wanted: impl Fn(MasterId) -> bool, within: u64) -> MasterId {
    let fits = |status: &Status| status.attached.as_ref().filter(|at| status.subscribed && wanted(at.master)).is_some();
    let wait = tokio::time::timeout(Duration::from_secs(within), minion.wait_for(fits));
    wait.await.expect("in time").expect("running").attached.expect("attached").master
}

/// Attaches a minion to one of two masters, makes that one lame, and gives it back.
async fn attached_to_a_lame_one(lame: Lame, folder: &std::path::Path) -> (Cluster, [Master; 2], AgentHandle, MasterId) {
    let cluster = Cluster::new(&[1, 2]);
    let masters = [cluster.master(1).await, cluster.master(2).await];
    let minion = cluster.minion(cluster.config(folder, &[1, 2]));
    let first = listens(&minion, |_| true, 30).await;
    cluster.truth().lame.insert(first, lame);
    (cluster, masters, minion, first)
}

#[tokio::test(start_paused = true)]
async fn a_master_that_loses_its_quorum_is_left_for_one_that_has_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_cluster, _masters, minion, first) = attached_to_a_lame_one(Lame::NoQuorum, folder.path()).await;
    listens(&minion, |master| master != first, 15).await;
    minion.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_minion_stays_while_no_master_has_a_quorum_and_works_once_one_has() {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut cluster, masters, minion, first) = attached_to_a_lame_one(Lame::NoQuorum, folder.path()).await;
    for master in &masters {
        cluster.truth().lame.insert(master.id, Lame::NoQuorum);
    }
    let before = cluster.truth().attaches;
    tokio::time::sleep(Duration::from_secs(55)).await;
    assert!(
        cluster.truth().attaches <= before + 1,
        "it has seen both and stays: {}",
        cluster.truth().attaches - before
    );
    let now = minion.status().attached.expect("attached").master;
    let job = cluster.job("test.sleep", vec![json!(0)]);
    masters[usize::from(now == MasterId(2))].offer(&job, &masters[0].identity);
    minion.wait_for(|status| status.waiting == 1).await.expect("its outcome waits");
    cluster.truth().lame.clear();
    assert!(cluster.outcome(job.jid).await.success);
    assert_eq!(cluster.truth().returns[&job.jid].len(), 1);
    let _ = first;
    minion.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_master_that_says_or_grants_nothing_is_left() {
    for lame in [Lame::Mute, Lame::NoGrant] {
        let cluster = Cluster::new(&[1, 2]);
        let folder = tempfile::tempdir().expect("a folder");
        let _masters = [cluster.master(1).await, cluster.master(2).await];
        let minion = cluster.minion(cluster.config(folder.path(), &[1, 2]));
        let first = minion.wait_for(|status| status.attached.is_some()).await.expect("running");
        let first = first.attached.expect("attached").master;
        minion.stop().await;
        // Its choice does not depend on the run: it comes back to the same one.
        cluster.truth().lame.insert(first, lame);
        let minion = cluster.minion(cluster.config(folder.path(), &[1, 2]));
        let status = minion.wait_for(|status| status.attached.is_some()).await.expect("running");
        assert_eq!(status.attached.expect("attached").master, first);
        listens(&minion, |master| master != first, 20).await;
        minion.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_master_that_takes_no_call_is_left_and_the_outcome_goes_through_another() {
    for lame in [Lame::Busy, Lame::Deaf] {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut cluster, masters, minion, first) = attached_to_a_lame_one(lame, folder.path()).await;
        let job = cluster.job("test.sleep", vec![json!(0)]);
        masters[usize::from(first == MasterId(2))].offer(&job, &masters[0].identity);
        listens(&minion, |master| master != first, 45).await;
        assert!(cluster.outcome(job.jid).await.success, "{lame:?}");
        let returns = cluster.truth().returns[&job.jid].clone();
        assert_eq!(returns.len(), 1, "{lame:?}");
        assert_ne!(returns[0].1, first, "{lame:?}");
        minion.stop().await;
    }
}
