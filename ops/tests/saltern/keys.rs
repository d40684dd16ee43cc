//! Keys, and the reads that every noun has in common.

use crate::master::{Master, answer, refuse};
use crate::shell::{saltern, saltern_with};
use serde_json::{Value, json};

fn key(minion: &str, state: &str) -> Value {
    json!({
        "minion": minion, "state": state, "fingerprint": "ab".repeat(32), "submitted": 1_795_392_390_290_128_u64,
    })
}

#[tokio::test]
async fn a_key_list_is_salts_to_the_letter() {
    let folder = tempfile::tempdir().expect("a folder");
    let master = Master::start(folder.path(), "m1", |_| {
        answer(json!([key("web-a", "accepted"), key("web-b", "accepted"), key("new", "pending")]))
    });
    let server = master.server();
    let expect = "Accepted Keys:\nweb-a\nweb-b\nDenied Keys:\nUnaccepted Keys:\nnew\nRejected Keys:\n";
    saltern(&[&server, "key", "list"]).await.is(0, expect);
    saltern(&[&server, "key", "list", "--state", "pending"]).await.is(0, "Unaccepted Keys:\nnew\n");

    let colored = saltern(&[&server, "key", "list", "--color", "always"]).await;
    assert!(colored.out.contains("\u{1b}[32mAccepted Keys:\u{1b}[0m\n"), "{:?}", colored.out);
    // An explicit wish wins over NO_COLOR; without one, NO_COLOR wins over everything.
    let plain = saltern_with(&[("NO_COLOR", "1"), ("CLICOLOR_FORCE", "1")], &[&server, "key", "list"]).await;
    plain.is(0, expect);

    let json = saltern(&[&server, "key", "list", "-o", "json"]).await;
    let read: Value = serde_json::from_str(&json.out).expect("one document");
    assert_eq!(read[2]["minion"], "new");
    assert!(json.out.starts_with("[\n    {\n        \"minion\""), "{}", json.out);
    let lines = saltern(&[&server, "key", "list", "--out=ndjson"]).await;
    let minions: Vec<Value> = lines.out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(minions.iter().map(|key| &key["minion"]).collect::<Vec<_>>(), ["web-a", "web-b", "new"]);
    let yaml = saltern(&[&server, "key", "list", "-o", "yaml"]).await;
    assert!(yaml.out.starts_with("- minion: web-a\n"), "{}", yaml.out);
    let table = saltern(&[&server, "key", "list", "-o", "table"]).await;
    assert!(table.out.starts_with("MINION  STATE     FINGERPRINT"), "{}", table.out);

    saltern(&[&server, "key", "show", "nope*"]).await.is(2, "").says("does not match any keys");
    let shown = saltern(&[&server, "key", "show", "--fingerprint", "abab"]).await;
    assert!(
        shown.out.contains(&format!(
            "web-a:\n    ----------\n    state:\n        accepted\n    fingerprint:\n        {}\n    submitted:\n        2026-11-23T00:06:30.290128Z\n",
            "ab".repeat(32)
        )),
        "{}",
        shown.out
    );
}

#[tokio::test]
async fn decisions_say_what_they_changed() {
    let folder = tempfile::tempdir().expect("a folder");
    let master = Master::start(folder.path(), "m1", |asked| {
        let nothing = asked.body["select"]["glob"] == "nope*";
        answer(json!({"changed": if nothing { vec![] } else { vec![key("web-a", "accepted")] }}))
    });
    let server = master.server();
    saltern(&[&server, "key", "accept", "web-*"]).await.is(0, "Key for minion web-a accepted.\n");
    saltern(&[&server, "key", "accept", "nope*"]).await.is(2, "").says("does not match any unaccepted keys");
    saltern(&[&server, "key", "reject", "--fingerprint", "AB:AB:AB:AB", "--include-decided"])
        .await
        .is(0, "Key for minion web-a rejected.\n");
    saltern(&[&server, "key", "accept", "--all"]).await.is(0, "Key for minion web-a accepted.\n");
    let asked: Vec<(String, Value)> = master.asked().into_iter().map(|asked| (asked.line, asked.body)).collect();
    let line = |verb: &str| format!("POST /v1/keys/{verb}");
    assert_eq!(
        asked,
        [
            (line("accept"), json!({"select": {"glob": "web-*"}, "include_decided": false})),
            (line("accept"), json!({"select": {"glob": "nope*"}, "include_decided": false})),
            (line("reject"), json!({"select": {"fingerprint": "abababab"}, "include_decided": true})),
            (line("accept"), json!({"select": "all", "include_decided": false})),
        ]
    );
}

#[tokio::test]
async fn every_key_is_not_thrown_away_without_a_word() {
    let folder = tempfile::tempdir().expect("a folder");
    let master = Master::start(folder.path(), "m1", |_| answer(json!({"changed": [key("web-a", "accepted")]})));
    let server = master.server();
    for words in [["delete", "--all"], ["reject", "--all"], ["delete", "*"]] {
        saltern(&[&server, "key", words[0], words[1]]).await.is(64, "").says("stdin is no terminal").says("--yes");
    }
    assert!(master.asked().is_empty(), "a master was asked: {:?}", master.asked());
    saltern(&[&server, "key", "delete", "--all", "--yes"]).await.is(0, "Key for minion web-a deleted.\n");
}

#[tokio::test]
async fn refusals_have_their_exit_codes_and_stale_answers_say_so() {
    let folder = tempfile::tempdir().expect("a folder");
    for (code, exit) in [("no_quorum", 75), ("denied", 77), ("not_found", 2), ("invalid", 64), ("conflict", 1)] {
        let master = Master::start(folder.path(), code, move |_| refuse(code, "the reason and the remedy"));
        saltern(&[&master.server(), "key", "accept", "web-a"])
            .await
            .is(exit, "")
            .says("ERROR: the reason and the remedy");
    }
    let denied = Master::start(folder.path(), "nobody", |_| refuse("denied", "uid 1000 may not ask"));
    saltern(&[&denied.server(), "key", "list"]).await.is(77, "").says("uid 1000 may not ask\nOn the unix socket, ");
    let odd = Master::start(folder.path(), "odd", |_| crate::master::Reply::Json(200, json!("hello")));
    saltern(&[&odd.server(), "key", "list"]).await.is(70, "").says("does not answer as a saltern-master does");

    let stale = Master::start(folder.path(), "stale", |_| {
        let body = json!({"revision": 7, "as_of": 5, "stale_ms": 42_500, "master": "m3", "value": []});
        crate::master::Reply::Json(200, body)
    });
    let expect = "Accepted Keys:\nDenied Keys:\nUnaccepted Keys:\nRejected Keys:\n";
    saltern(&[&stale.server(), "key", "list"])
        .await
        .is(0, expect)
        .says("WARNING: this answer is 42 s old: no quorum (asked m3)");
}

#[tokio::test]
async fn settings_and_the_mine_go_through_as_they_are() {
    let folder = tempfile::tempdir().expect("a folder");
    let master = Master::start(folder.path(), "m1", |asked| match asked.line.split('?').next() {
        Some("GET /v1/mine") => answer(json!([
            {"minion": "web-a", "function": "ips", "value": ["10.0.0.1"], "stamp": {"incarnation": 1, "counter": 2}},
        ])),
        _ => answer(json!({"job_ttl_ms": 120_000})),
    });
    let server = master.server();
    saltern(&[&server, "config", "set", "job_ttl_ms", "120000"]).await.is(0, "job_ttl_ms:\n    120000\n");
    saltern(&[&server, "config", "get", "jobttl"]).await.is(64, "").says("job_ttl_ms");
    saltern(&[&server, "mine", "get", "-C", "web* and G@os:é", "ips"]).await.is(0, "web-a:\n    - 10.0.0.1\n");
    let asked = master.asked();
    assert_eq!((asked[0].line.as_str(), &asked[0].body), ("PUT /v1/config/job_ttl_ms", &json!(120_000)));
    assert_eq!(asked[2].line, "GET /v1/mine?kind=compound&target=web%2A%20and%20G%40os%3A%C3%A9&function=ips");
}
