//! Stories of what a minion refuses: it is counted by reason, and whoever asks is told.

mod common;

use common::Cluster;
use saltern_minion::AgentHandle;
use saltern_wire::crypto::{Identity, Signed};
use saltern_wire::fanout::Offer;
use saltern_wire::job::Job;
use saltern_wire::session::{Standing, ToMinion};
use saltern_wire::{ClusterId, MasterId, Value};
use serde_json::json;
use std::time::Duration;

async fn ready(minion: &AgentHandle) {
    let wait =
        minion.wait_for(|status| status.subscribed && matches!(status.standing, Some(Standing::Accepted { .. })));
    tokio::time::timeout(Duration::from_secs(60), wait).await.expect("in time").expect("running");
}

#[tokio::test(start_paused = true)]
async fn what_is_forged_foreign_old_or_changed_is_counted_and_does_not_run() {
    let mut cluster = Cluster::new(&[1, 2]);
    let masters = [cluster.master(1).await, cluster.master(2).await];
    let folder = tempfile::tempdir().expect("a folder");
    let minion = cluster.minion(cluster.config(folder.path(), &[1, 2]));
    ready(&minion).await;
    cluster.publish_directory(2, 5, &[1, 2]);
    let stranger = Identity::from_seed([99; 32]);
    let mut make = |change: &dyn Fn(&mut Job)| {
        let mut job = cluster.job("cmd.run", vec![json!(format!("touch {}/ran", folder.path().display()))]);
        job.generation = 2;
        change(&mut job);
        job
    };
    let forged = make(&|_| {});
    let foreign = make(&|job| job.cluster = ClusterId::from_bytes([9; 16]));
    let unknown = make(&|job| job.master = MasterId(9));
    let old = make(&|job| job.generation = 1);
    let late = make(&|_| {});
    // Its arguments are changed after it was signed.
    let changed = make(&|_| {});
    let mut other = changed.clone();
    other.arguments = vec![json!("rm -rf /")];
    let good = make(&|job| (job.function, job.arguments) = ("test.ping".into(), vec![]));
    for master in &masters {
        for _ in 0..3 {
            master.offer(&forged, &stranger);
            master.offer(&foreign, &masters[0].identity);
            master.offer(&unknown, &stranger);
            master.offer(&old, &masters[0].identity);
            master.offer_changed(&other, &changed, &masters[0].identity);
            master.tell(ToMinion::Offer(Offer { job: Signed::new(&late, &masters[0].identity), remaining_ms: 0 }));
        }
        master.offer(&good, &masters[0].identity);
    }
    cluster.outcome(good.jid).await;
    cluster.publish_directory(2, 1, &[1, 2]);
    let expect = [
        ("job_signature", 6),
        ("job_of_other_cluster", 3),
        ("job_of_unknown_master", 3),
        ("job_of_old_generation", 3),
        ("job_expired", 3),
        ("directory_older", 1),
    ];
    // The two masters speak on roads of their own: the answer through one says nothing of what the other one still carries.
    let mut counts = Value::Null;
    let count = |counts: &Value, reason: &str| counts.get(reason).and_then(Value::as_u64).unwrap_or(0);
    for _ in 0..200 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let mut ask = cluster.job("status.refusals", vec![]);
        ask.generation = 2;
        masters.iter().for_each(|master| master.offer(&ask, &masters[0].identity));
        // These masters offer once; what is lost while the minion changes between them is asked again.
        let Ok(outcome) = tokio::time::timeout(Duration::from_secs(5), cluster.outcome(ask.jid)).await else {
            continue;
        };
        counts = outcome.value;
        if expect.iter().all(|(reason, least)| count(&counts, reason) >= *least) {
            break;
        }
    }
    for (reason, exactly) in expect {
        assert_eq!(count(&counts, reason), exactly, "{reason}: {counts}");
    }
    assert!(!folder.path().join("ran").exists(), "nothing of it ran");
    assert_eq!(cluster.truth().accepted.len(), 0, "nothing of it was taken");
    minion.stop().await;
}
