//! Stories of one minion and its masters, over the network in memory, in tokio's paused time.

mod common;

use common::{Cluster, ORDINAL};
use saltern_minion::Status;
use saltern_minion::config::MineFunction;
use saltern_wire::crypto::Identity;
use saltern_wire::job::OutcomeKind;
use saltern_wire::session::{Refusal, Standing, ToMinion};
use saltern_wire::{ClusterId, Map, MasterId};
use serde_json::json;
use std::time::Duration;

async fn ready(minion: &saltern_minion::AgentHandle) -> Status {
    let wait =
        minion.wait_for(|status| status.subscribed && matches!(status.standing, Some(Standing::Accepted { .. })));
    tokio::time::timeout(Duration::from_secs(60), wait).await.expect("in time").expect("running")
}

#[tokio::test(start_paused = true)]
async fn a_pending_key_waits_in_its_session_and_works_once_accepted() {
    let mut cluster = Cluster::new(&[1]);
    cluster.standing.send_replace(Standing::Pending);
    let master = cluster.master(1).await;
    let folder = tempfile::tempdir().expect("a folder");
    let minion = cluster.minion(cluster.config(folder.path(), &[1]));
    let status = minion.wait_for(|status| status.standing == Some(Standing::Pending)).await.expect("running");
    assert!(status.attached.is_some() && !status.subscribed);
    let job = cluster.job("test.ping", vec![]);
    master.offer(&job, &master.identity);
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(cluster.truth().attaches, 1, "it stays");
    assert!(cluster.truth().returns.is_empty(), "nothing runs before the key is accepted");
    cluster.standing.send_replace(Standing::Accepted { ordinal: ORDINAL });
    ready(&minion).await;
    master.offer(&job, &master.identity);
    assert_eq!(cluster.outcome(job.jid).await.value, json!(true));
    let os = cluster.until("the facts", |truth| truth.facts.as_ref()?.get("os").cloned()).await;
    assert_eq!(os, json!("Debian"));
    minion.stop().await;
}

#[tokio::test(start_paused = true)]
async fn jobs_come_by_session_and_by_fanout_and_run_once() {
    let mut cluster = Cluster::new(&[1]);
    let master = cluster.master(1).await;
    let folder = tempfile::tempdir().expect("a folder");
    let minion = cluster.minion(cluster.config(folder.path(), &[1]));
    ready(&minion).await;
    let job = cluster.job("test.sleep", vec![json!(3)]);
    for _ in 0..3 {
        master.publish(&job, &master.identity);
        master.offer(&job, &master.identity);
    }
    cluster.until("the acceptance", |truth| truth.accepted.contains(&job.jid).then_some(())).await;
    assert_eq!(minion.status().running, 1);
    let outcome = cluster.outcome(job.jid).await;
    assert!(outcome.success && (3_000..3_100).contains(&outcome.duration_ms), "{outcome:?}");
    master.offer(&job, &master.identity);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(cluster.truth().returns[&job.jid].len(), 1);
    let left = std::fs::read_dir(folder.path().join("outbox")).expect("a folder").count();
    assert_eq!((minion.status().waiting, left), (0, 0));
    minion.stop().await;
}

// A real command takes real time.
#[tokio::test]
async fn a_large_return_travels_in_parts() {
    let mut cluster = Cluster::new(&[1]);
    let master = cluster.master(1).await;
    let folder = tempfile::tempdir().expect("a folder");
    let minion = cluster.minion(cluster.config(folder.path(), &[1]));
    ready(&minion).await;
    let mut job = cluster.job("cmd.run", vec![json!("head -c 3000000 /dev/zero | tr '\\0' x")]);
    job.keywords.insert("timeout".into(), json!(60));
    master.offer(&job, &master.identity);
    let outcome = cluster.outcome(job.jid).await;
    assert_eq!(outcome.value.as_str().map(str::len), Some(3_000_000));
    minion.stop().await;
}

// A real command takes real time.
#[tokio::test]
async fn a_large_return_waits_for_credit_and_small_ones_do_not() {
    let mut cluster = Cluster::new(&[1]);
    let master = cluster.master(1).await;
    let folder = tempfile::tempdir().expect("a folder");
    let minion = cluster.minion(cluster.config(folder.path(), &[1]));
    ready(&minion).await;
    master.tell(ToMinion::Credit { bytes: 0 });
    let small = cluster.job("test.ping", vec![]);
    master.offer(&small, &master.identity);
    assert!(cluster.outcome(small.jid).await.success);
    assert!(cluster.truth().wants.is_empty(), "it fits the window");
    let mut large = cluster.job("cmd.run", vec![json!("head -c 3000000 /dev/zero | tr '\\0' x")]);
    large.keywords.insert("timeout".into(), json!(60));
    master.offer(&large, &master.identity);
    let outcome = cluster.outcome(large.jid).await;
    assert_eq!(outcome.value.as_str().map(str::len), Some(3_000_000));
    minion.wait_for(|status| status.waiting == 0).await.expect("running");
    let truth = cluster.truth();
    assert!(truth.wants.len() >= 3 && truth.wants[0] >= 3_000_000, "a mebibyte at a time: {:?}", truth.wants);
    assert!(truth.wants.len() < 10, "{:?}", truth.wants);
    assert_eq!(truth.overdrawn, 0, "nothing went that was not given");
    drop(truth);
    minion.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_frozen_master_is_left_and_the_return_goes_through_another() {
    let mut cluster = Cluster::new(&[1, 2]);
    let masters = [cluster.master(1).await, cluster.master(2).await];
    let folder = tempfile::tempdir().expect("a folder");
    let minion = cluster.minion(cluster.config(folder.path(), &[1, 2]));
    let first = ready(&minion).await.attached.expect("attached").master;
    let at = usize::from(first == MasterId(2));
    let job = cluster.job("test.sleep", vec![json!(5)]);
    masters[at].offer(&job, &masters[0].identity);
    cluster.until("the acceptance", |truth| truth.accepted.contains(&job.jid).then_some(())).await;
    cluster.network.freeze(&format!("m{first}"));
    let moved = minion.wait_for(|status| status.attached.as_ref().is_some_and(|now| now.master != first));
    tokio::time::timeout(Duration::from_secs(15), moved).await.expect("within 15 s").expect("running");
    assert!(cluster.outcome(job.jid).await.success);
    let returns = cluster.truth().returns[&job.jid].clone();
    assert_eq!(returns.len(), 1);
    assert_ne!(returns[0].1, first);
    // The job offered again by the other master, which did not hear of the acceptance, does not start again.
    masters[1 - at].offer(&job, &masters[0].identity);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(cluster.truth().returns[&job.jid].len(), 1);
    minion.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_killed_master_is_left_at_once() {
    let cluster = Cluster::new(&[1, 2]);
    let masters = [cluster.master(1).await, cluster.master(2).await];
    let folder = tempfile::tempdir().expect("a folder");
    let minion = cluster.minion(cluster.config(folder.path(), &[1, 2]));
    let first = ready(&minion).await.attached.expect("attached").master;
    masters[usize::from(first == MasterId(2))].kill();
    let moved = minion.wait_for(|status| status.attached.as_ref().is_some_and(|now| now.master != first));
    tokio::time::timeout(Duration::from_millis(500), moved).await.expect("at once").expect("running");
    minion.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_stops_in_the_middle_reports_the_job_as_interrupted_once() {
    let mut cluster = Cluster::new(&[1]);
    let master = cluster.master(1).await;
    let folder = tempfile::tempdir().expect("a folder");
    let minion = cluster.minion(cluster.config(folder.path(), &[1]));
    ready(&minion).await;
    let job = cluster.job("test.sleep", vec![json!(1_000_000)]);
    master.offer(&job, &master.identity);
    cluster.until("the acceptance", |truth| truth.accepted.contains(&job.jid).then_some(())).await;
    minion.stop().await;
    // The executor that ran it is gone with the process that it was; a new one knows nothing.
    let minion = cluster.minion(cluster.config(folder.path(), &[1]));
    let outcome = cluster.outcome(job.jid).await;
    assert_eq!(outcome.kind, OutcomeKind::Interrupted);
    ready(&minion).await;
    master.offer(&job, &master.identity);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!((cluster.truth().returns[&job.jid].len(), minion.status().running), (1, 0));
    minion.stop().await;
}

#[tokio::test(start_paused = true)]
async fn returns_wait_while_there_is_no_quorum() {
    let mut cluster = Cluster::new(&[1]);
    let master = cluster.master(1).await;
    let folder = tempfile::tempdir().expect("a folder");
    let minion = cluster.minion(cluster.config(folder.path(), &[1]));
    ready(&minion).await;
    cluster.truth().refuse = Some(Refusal::NoQuorum);
    let jobs: Vec<_> = (0..5).map(|_| cluster.job("test.sleep", vec![json!(0)])).collect();
    jobs.iter().for_each(|job| master.offer(job, &master.identity));
    minion.wait_for(|status| status.waiting == 5 && status.running == 0).await.expect("running");
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(cluster.truth().returns.is_empty() && minion.status().waiting == 5);
    minion.stop().await;
    let minion = cluster.minion(cluster.config(folder.path(), &[1]));
    ready(&minion).await;
    cluster.truth().refuse = None;
    for job in &jobs {
        assert!(cluster.outcome(job.jid).await.success);
    }
    minion.wait_for(|status| status.waiting == 0).await.expect("running");
    assert!(cluster.truth().returns.values().all(|outcomes| outcomes.len() == 1));
    minion.stop().await;
}

#[tokio::test(start_paused = true)]
async fn forged_jobs_and_those_of_another_cluster_do_not_run() {
    let mut cluster = Cluster::new(&[1]);
    let master = cluster.master(1).await;
    let folder = tempfile::tempdir().expect("a folder");
    let minion = cluster.minion(cluster.config(folder.path(), &[1]));
    ready(&minion).await;
    let forged = cluster.job("test.ping", vec![]);
    master.offer(&forged, &Identity::from_seed([99; 32]));
    master.publish(&forged, &Identity::from_seed([99; 32]));
    let mut foreign = cluster.job("test.ping", vec![]);
    foreign.cluster = ClusterId::from_bytes([9; 16]);
    master.offer(&foreign, &master.identity);
    let mut unlisted = cluster.job("test.ping", vec![]);
    unlisted.master = MasterId(9);
    master.offer(&unlisted, &Identity::from_seed([19; 32]));
    let good = cluster.job("test.ping", vec![]);
    master.offer(&good, &master.identity);
    assert!(cluster.outcome(good.jid).await.success);
    assert_eq!(cluster.truth().returns.len(), 1, "only the genuine one ran");
    minion.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_master_of_another_ca_is_never_told_anything() {
    let cluster = Cluster::new(&[1]);
    let _evil = cluster.master_certified_by(1, &Identity::from_seed([66; 32])).await;
    let folder = tempfile::tempdir().expect("a folder");
    let minion = cluster.minion(cluster.config(folder.path(), &[1]));
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(minion.status().attached, None);
    assert_eq!((cluster.truth().attaches, minion.status().standing), (0, None));
    minion.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_master_that_was_removed_from_the_directory_is_left_and_not_obeyed() {
    let mut cluster = Cluster::new(&[1, 2]);
    let masters = [cluster.master(1).await, cluster.master(2).await];
    let folder = tempfile::tempdir().expect("a folder");
    let minion = cluster.minion(cluster.config(folder.path(), &[1]));
    ready(&minion).await;
    cluster.publish_directory(1, 2, &[2]);
    let moved = minion.wait_for(|status| status.attached.as_ref().is_some_and(|now| now.master == MasterId(2)));
    tokio::time::timeout(Duration::from_secs(10), moved).await.expect("in time").expect("running");
    ready(&minion).await;
    let job = cluster.job("test.ping", vec![]);
    masters[1].offer(&job, &masters[0].identity);
    let mut good = cluster.job("test.ping", vec![]);
    good.master = MasterId(2);
    masters[1].offer(&good, &masters[1].identity);
    cluster.outcome(good.jid).await;
    assert!(!cluster.truth().returns.contains_key(&job.jid), "its signature is worth nothing any more");
    masters[1].kill();
    // It is configured, so it is tried; it proves its certificate, and is not obeyed even so.
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(minion.status().attached, None);
    minion.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_rejected_key_keeps_away_and_a_deleted_one_enrols_again() {
    let cluster = Cluster::new(&[1]);
    let master = cluster.master(1).await;
    let folder = tempfile::tempdir().expect("a folder");
    let minion = cluster.minion(cluster.config(folder.path(), &[1]));
    ready(&minion).await;
    cluster.standing.send_replace(Standing::Rejected);
    minion.wait_for(|status| status.standing == Some(Standing::Rejected)).await.expect("running");
    master.tell(ToMinion::Bye { reason: "the key was rejected".into(), retry_after_ms: 0 });
    minion.wait_for(|status| status.attached.is_none()).await.expect("running");
    let before = cluster.truth().attaches;
    tokio::time::sleep(Duration::from_secs(9)).await;
    assert_eq!(cluster.truth().attaches, before, "it does not hammer");
    cluster.standing.send_replace(Standing::Pending);
    minion.wait_for(|status| status.standing == Some(Standing::Pending)).await.expect("running");
    minion.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_full_outbox_refuses_new_jobs_and_keeps_old_results() {
    let mut cluster = Cluster::new(&[1]);
    let master = cluster.master(1).await;
    let folder = tempfile::tempdir().expect("a folder");
    let mut config = cluster.config(folder.path(), &[1]);
    config.outbox_bytes_max = 10;
    let minion = cluster.minion(config);
    ready(&minion).await;
    cluster.truth().refuse = Some(Refusal::NoQuorum);
    let first = cluster.job("test.sleep", vec![json!(0)]);
    master.offer(&first, &master.identity);
    minion.wait_for(|status| status.waiting == 1).await.expect("running");
    let second = cluster.job("test.sleep", vec![json!(0)]);
    master.offer(&second, &master.identity);
    minion.wait_for(|status| status.waiting == 2).await.expect("running");
    cluster.truth().refuse = None;
    assert!(cluster.outcome(first.jid).await.success);
    let refused = cluster.outcome(second.jid).await;
    assert_eq!(refused.kind, OutcomeKind::Refused);
    assert!(refused.value.to_string().contains("outbox_bytes_max"), "{}", refused.value);
    minion.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_mine_is_filled_by_itself_and_by_hand_and_survives_a_move() {
    let mut cluster = Cluster::new(&[1, 2]);
    let masters = [cluster.master(1).await, cluster.master(2).await];
    let folder = tempfile::tempdir().expect("a folder");
    let mut config = cluster.config(folder.path(), &[1, 2]);
    let own = |name: &str, function: &str, arguments| MineFunction {
        name: name.into(),
        function: function.into(),
        arguments,
        keywords: Map::new(),
    };
    config.mine_functions = vec![own("version", "test.version", vec![]), own("hello", "test.echo", vec![json!("hi")])];
    let minion = cluster.minion(config);
    let first = ready(&minion).await.attached.expect("attached").master;
    cluster.until("both values", |truth| (truth.mine.len() == 2).then_some(())).await;
    assert_eq!(cluster.truth().mine["hello"].1, Some(json!("hi")));
    let at = usize::from(first == MasterId(2));
    let send = cluster.job("mine.send", vec![json!("test.echo"), json!("one")]);
    masters[at].offer(&send, &masters[0].identity);
    assert_eq!(cluster.outcome(send.jid).await.value, json!(true));
    let stamp = cluster.truth().mine["test.echo"].0;
    masters[at].kill();
    minion.wait_for(|status| status.attached.as_ref().is_some_and(|now| now.master != first)).await.expect("running");
    ready(&minion).await;
    let send = cluster.job("mine.send", vec![json!("test.echo"), json!("two")]);
    masters[1 - at].offer(&send, &masters[0].identity);
    assert_eq!(cluster.outcome(send.jid).await.value, json!(true));
    assert!(cluster.truth().mine["test.echo"].0 > stamp);
    let get = cluster.job("mine.get", vec![json!("*"), json!("test.echo")]);
    masters[1 - at].offer(&get, &masters[0].identity);
    assert_eq!(cluster.outcome(get.jid).await.value, json!({"web-1": "two"}));
    let flush = cluster.job("mine.flush", vec![]);
    masters[1 - at].offer(&flush, &masters[0].identity);
    assert_eq!(cluster.outcome(flush.jid).await.value, json!(true));
    assert!(cluster.truth().mine.values().all(|(_, value)| value.is_none()));
    minion.stop().await;
}

#[tokio::test(start_paused = true)]
async fn grains_are_set_kept_and_reported() {
    let mut cluster = Cluster::new(&[1]);
    let master = cluster.master(1).await;
    let folder = tempfile::tempdir().expect("a folder");
    let minion = cluster.minion(cluster.config(folder.path(), &[1]));
    ready(&minion).await;
    let set = cluster.job("grains.setval", vec![json!("role"), json!("web")]);
    master.offer(&set, &master.identity);
    assert_eq!(cluster.outcome(set.jid).await.value, json!({"role": "web"}));
    assert_eq!(cluster.truth().facts.as_ref().and_then(|facts| facts.get("role").cloned()), Some(json!("web")));
    minion.stop().await;
    let minion = cluster.minion(cluster.config(folder.path(), &[1]));
    ready(&minion).await;
    let get = cluster.job("grains.get", vec![json!("role")]);
    master.offer(&get, &master.identity);
    assert_eq!(cluster.outcome(get.jid).await.value, json!("web"));
    minion.stop().await;
}

#[tokio::test(start_paused = true)]
async fn running_jobs_are_seen_and_ended() {
    let mut cluster = Cluster::new(&[1]);
    let master = cluster.master(1).await;
    let folder = tempfile::tempdir().expect("a folder");
    let minion = cluster.minion(cluster.config(folder.path(), &[1]));
    ready(&minion).await;
    let long = cluster.job("test.sleep", vec![json!(1_000_000)]);
    master.offer(&long, &master.identity);
    cluster.until("the acceptance", |truth| truth.accepted.contains(&long.jid).then_some(())).await;
    let find = cluster.job("saltutil.find_job", vec![json!(long.jid)]);
    master.offer(&find, &master.identity);
    let found = cluster.outcome(find.jid).await.value;
    assert_eq!((&found["fun"], &found["jid"]), (&json!("test.sleep"), &json!(long.jid)));
    let kill = cluster.job("saltutil.kill_job", vec![json!(long.jid)]);
    master.offer(&kill, &master.identity);
    assert!(cluster.outcome(kill.jid).await.value.to_string().contains("Signal 15 sent"));
    let ended = cluster.outcome(long.jid).await;
    assert!(!ended.success && ended.value.to_string().contains("kill_job"), "{ended:?}");
    let running = cluster.job("saltutil.running", vec![]);
    master.offer(&running, &master.identity);
    assert_eq!(cluster.outcome(running.jid).await.value, json!([]));
    minion.stop().await;
}

#[tokio::test(start_paused = true)]
async fn unknown_functions_and_wrong_arguments_come_back_in_words() {
    let mut cluster = Cluster::new(&[1]);
    let master = cluster.master(1).await;
    let folder = tempfile::tempdir().expect("a folder");
    let minion = cluster.minion(cluster.config(folder.path(), &[1]));
    ready(&minion).await;
    let unknown = cluster.job("no.such_fn", vec![]);
    master.offer(&unknown, &master.identity);
    let outcome = cluster.outcome(unknown.jid).await;
    assert_eq!((outcome.value, outcome.retcode), (json!("'no.such_fn' is not available."), 254));
    for (function, arguments, expect) in [
        ("test.sleep", vec![], "length is missing"),
        ("cmd.run", vec![json!("ls"), json!({"a": 1})], "cwd has to be a text"),
        ("mine.get", vec![json!("*")], "fun is missing"),
        ("grains.setval", vec![json!("id"), json!("x")], "cannot be set"),
    ] {
        let job = cluster.job(function, arguments);
        master.offer(&job, &master.identity);
        let outcome = cluster.outcome(job.jid).await;
        let text = outcome.value.to_string();
        assert!(!outcome.success && text.contains(expect) && text.contains("Usage: "), "{text}");
    }
    minion.stop().await;
}
