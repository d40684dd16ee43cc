//! Masters that are gone, frozen, without a quorum, or die in the middle: the program goes on at the next one, writes
//! nothing twice and shows nothing twice.

use crate::master::{Asked, Master, Reply, Then, answer, refuse};
use crate::shell::saltern;
use crate::waiting::{JID, done, returned, script};
use serde_json::json;

fn changed(_: &Asked) -> Reply {
    answer(json!({"changed": [
        {"minion": "web-a", "state": "accepted", "fingerprint": "ab".repeat(32), "submitted": 5},
    ]}))
}

#[tokio::test]
async fn a_write_goes_on_at_the_next_master_under_the_same_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let dying = Master::start(folder.path(), "m1", |_| Reply::Hangup);
    let cut_off = Master::start(folder.path(), "m2", |_| refuse("no_quorum", "no quorum"));
    let well = Master::start(folder.path(), "m3", changed);
    let servers = [dying.server(), "--server=/nonexistent".into(), cut_off.server(), well.server()];
    let mut arguments: Vec<&str> = servers.iter().map(String::as_str).collect();
    arguments.extend(["key", "accept", "web-a"]);
    saltern(&arguments).await.is(0, "Key for minion web-a accepted.\n");
    let names: Vec<_> = [&dying, &cut_off, &well].map(|master| master.asked()[0].request.clone()).into();
    assert!(names[0].as_ref().is_some_and(|name| name.len() == 32), "{names:?}");
    assert!(names.iter().all(|name| *name == names[0]), "{names:?}");
}

#[tokio::test]
async fn a_frozen_master_costs_two_seconds() {
    let folder = tempfile::tempdir().expect("a folder");
    let frozen = Master::start(folder.path(), "m1", |_| Reply::Silence);
    let well = Master::start(folder.path(), "m2", changed);
    saltern(&[&frozen.server(), &well.server(), "key", "accept", "web-a"])
        .await
        .is(0, "Key for minion web-a accepted.\n");
    assert_eq!(frozen.asked()[0].request, well.asked()[0].request);
}

#[tokio::test]
async fn no_quorum_anywhere_is_75_and_a_dead_master_makes_it_unknown() {
    let folder = tempfile::tempdir().expect("a folder");
    let one = Master::start(folder.path(), "m1", |_| refuse("no_quorum", "no quorum: 1 of 3 masters answers"));
    let dying = Master::start(folder.path(), "m2", |_| Reply::Hangup);
    saltern(&[&one.server(), "--server=/nonexistent", "key", "accept", "web-a"])
        .await
        .is(75, "")
        .says("no quorum: 1 of 3 masters answers")
        .says("unix:///nonexistent: ");
    let ended = saltern(&[&one.server(), &dying.server(), "key", "accept", "web-a"]).await;
    let name = dying.asked()[0].request.clone().expect("a name");
    ended.is(75, "").says("the outcome is unknown").says(&format!("--request-id {name}"));
    // What the message tells to do, does it.
    let well = Master::start(folder.path(), "m3", changed);
    saltern(&[&well.server(), "key", "accept", "web-a", "--request-id", &name]).await;
    assert_eq!(well.asked()[0].request, Some(name));
}

#[tokio::test]
async fn an_unknown_outcome_is_asked_for_again_under_the_same_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let asked = std::sync::atomic::AtomicU32::new(0);
    let master = Master::start(folder.path(), "m1", move |request| {
        match asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
            0 => refuse("unknown", "the leader died"),
            _ => changed(request),
        }
    });
    saltern(&[&master.server(), "key", "accept", "web-a"]).await.is(0, "Key for minion web-a accepted.\n");
    let asked = master.asked();
    assert_eq!((asked.len(), &asked[0].request), (2, &asked[1].request));
}

#[tokio::test]
async fn a_run_goes_on_when_its_master_dies_and_shows_each_minion_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let gone = || Reply::Hangup;
    let half = || Reply::Events(vec![returned("web-a", json!(true), 0)], Then::Break);
    let whole = || {
        let events = vec![returned("web-a", json!(true), 0), returned("web-b", json!(true), 0), done()];
        Reply::Events(events, Then::End)
    };
    let dying = Master::start(folder.path(), "m1", script(&["web-a", "web-b"], half, gone));
    let well = Master::start(folder.path(), "m2", script(&["web-a", "web-b"], whole, gone));
    let ended = saltern(&[&dying.server(), &well.server(), "run", "-v", "*", "test.ping"]).await;
    ended.is(0, "web-a:\n    True\nweb-b:\n    True\n").says("asking the next master");
    let lines: Vec<String> = well.asked().into_iter().map(|asked| asked.line).collect();
    // The second master is asked for what the first one had already shown: at least that revision.
    assert_eq!(lines, [format!("GET /v1/jobs/{JID}/events?revision=7")]);
}

#[tokio::test]
async fn a_job_is_not_forgotten_when_every_master_goes() {
    let folder = tempfile::tempdir().expect("a folder");
    let half = || Reply::Events(vec![returned("web-a", json!(true), 0)], Then::Silence);
    let master = Master::start(folder.path(), "m1", script(&["web-a", "web-b"], half, || Reply::Hangup));
    let ended = saltern(&[&master.server(), "run", "-t", "1", "*", "test.ping", "-o", "json"]).await;
    assert_eq!(ended.code, 69, "{}", ended.err);
    let document: serde_json::Value = serde_json::from_str(&ended.out).expect("what is known is printed");
    assert_eq!(document["jid"], JID);
    assert_eq!(document["returns"]["web-a"]["return"], true);
    assert_eq!(document["missing"][0], json!({"minion": "web-b", "reason": "not known: no master is reachable"}));
    ended.says(&format!("saltern job show {JID}"));
}

#[tokio::test]
async fn events_are_shown_once_across_masters() {
    let folder = tempfile::tempdir().expect("a folder");
    let event = |revision: u64, tag: &str| json!({"tag": tag, "revision": revision, "time": 1_795_392_390_290_718_u64, "data": {"id": "web-a"}});
    let first = Master::start(folder.path(), "m1", move |_| {
        Reply::Events(vec![event(5, "salt/key"), event(6, "salt/job/1/new")], Then::Break)
    });
    let second = Master::start(folder.path(), "m2", move |_| {
        let events = vec![event(6, "salt/job/1/new"), event(6, "salt/job/1/ret/web-a"), event(7, "salt/key")];
        Reply::Events(events, Then::Silence)
    });
    let ended =
        saltern(&[&first.server(), &second.server(), "event", "watch", "--tag", "salt/job/*", "--count", "2"]).await;
    let stamp = r#"{"id":"web-a","_stamp":"2026-11-23T00:06:30.290718Z"}"#;
    ended.is(0, &format!("salt/job/1/new\t{stamp}\nsalt/job/1/ret/web-a\t{stamp}\n")).says("events may be missing");
}
