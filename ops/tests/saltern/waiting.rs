//! `saltern run`: what is printed while minions answer, and what is said of those who do not.

use crate::master::{Asked, Master, Reply, Then, answer, refuse};
use crate::shell::{Ended, saltern};
use serde_json::{Value, json};

pub const JID: &str = "20261123000638296430";

pub fn returned(minion: &str, value: Value, retcode: i32) -> Value {
    json!({
        "event": "return", "minion": minion, "return": value, "retcode": retcode, "success": retcode == 0,
        "state": if retcode == 0 { "returned" } else { "failed" }, "master": "m1", "duration_ms": 3,
    })
}

pub fn done() -> Value {
    json!({"event": "done", "revision": 9})
}

fn submitted(targeted: &[&str]) -> Reply {
    answer(json!({"jid": JID, "targeted": targeted}))
}

/// A job for web-a and web-b as it is looked up when `missing` has not answered.
fn job(returns: Value, missing: Value) -> Reply {
    answer(json!({
        "jid": JID, "fun": "test.ping", "arguments": [], "target": {"kind": "glob", "expression": "*"}, "user": "root",
        "opened": 1_795_392_398_296_430_u64, "state": "open", "targeted": 2, "returned": 1,
        "master": "m1", "minions": ["web-a", "web-b"], "returns": returns, "missing": missing,
    }))
}

/// A master that answers a submission, the job's events and the job's record.
pub fn script(
    targeted: &'static [&'static str],
    events: impl Fn() -> Reply + Send + Sync + 'static,
    record: impl Fn() -> Reply + Send + Sync + 'static,
) -> impl Fn(&Asked) -> Reply + Send + Sync + 'static {
    move |asked| match asked.line.split('?').next().unwrap_or_default() {
        "POST /v1/jobs" => submitted(targeted),
        line if line.ends_with("/events") => events(),
        line if line == format!("GET /v1/jobs/{JID}") => record(),
        _ => refuse("not_found", &asked.line),
    }
}

/// Runs a command for web-a and web-b, whose events are these.
async fn run(events: Vec<Value>, arguments: &[&str]) -> Ended {
    let folder = tempfile::tempdir().expect("a folder");
    let stream = move || Reply::Events(events.clone(), Then::End);
    let master =
        Master::start(folder.path(), "m1", script(&["web-a", "web-b"], stream, || refuse("not_found", "no job")));
    let server = master.server();
    saltern(&[&[server.as_str(), "run"], arguments].concat()).await
}

fn both() -> Vec<Value> {
    vec![returned("web-b", json!(true), 0), returned("web-a", json!(true), 0), done()]
}

#[tokio::test]
async fn returns_are_printed_in_the_order_of_their_arrival() {
    run(both(), &["*", "test.ping"]).await.is(0, "web-b:\n    True\nweb-a:\n    True\n");
    run(both(), &["*", "test.ping", "--static"]).await.is(0, "web-a:\n    True\nweb-b:\n    True\n");
    let failed = vec![returned("web-b", json!(""), 3), returned("web-a", json!(""), 3), done()];
    let ended = run(failed, &["*", "cmd.run", "exit 3"]).await;
    ended.is(1, "web-b:\nweb-a:\n").says("ERROR: Minions returned with non-zero exit code\n");
    let unknown = json!("'no.such_fn' is not available.");
    let ended = run(
        vec![returned("web-b", unknown.clone(), 254), returned("web-a", unknown, 254), done()],
        &["*", "no.such_fn"],
    );
    ended.await.is(1, "web-b:\n    'no.such_fn' is not available.\nweb-a:\n    'no.such_fn' is not available.\n");
}

#[tokio::test]
async fn words_about_the_job_stay_out_of_the_data() {
    let rule = "-------------------------------------------";
    let ended = run(both(), &["-v", "*", "test.ping"]).await;
    ended.is(0, "web-b:\n    True\nweb-a:\n    True\n");
    assert_eq!(ended.err, format!("Executing job with jid {JID}\n{rule}\n\n"));
    run(both(), &["--show-jid", "*", "test.ping", "-o", "ndjson"]).await.says(&format!("jid: {JID}\n"));
    run(both(), &["--async", "*", "test.ping"]).await.is(0, &format!("Executed command with job ID: {JID}\n"));
    let summary = run(both(), &["--summary", "*", "test.ping"]).await;
    let expect = format!(
        "web-b:\n    True\nweb-a:\n    True\n\n\n{rule}\nSummary\n{rule}\n# of minions targeted: 2\n# of minions returned: 2\n\
         # of minions that did not return: 0\n# of minions with errors: 0\n{rule}\n"
    );
    summary.is(0, &expect);
}

#[tokio::test]
async fn json_is_one_document_and_ndjson_one_line_a_minion() {
    let ended = run(both(), &["*", "test.ping", "-o", "json"]).await;
    let view = json!({"return": true, "retcode": 0, "success": true, "master": "m1"});
    let expect = json!({
        "jid": JID, "fun": "test.ping", "targeted": ["web-a", "web-b"],
        "returns": {"web-a": view, "web-b": view}, "missing": [],
    });
    assert_eq!(serde_json::from_str::<Value>(&ended.out).expect("one document"), expect);
    assert_eq!((ended.code, ended.err.as_str()), (0, ""));
    let lines = run(both(), &["*", "test.ping", "-o", "ndjson"]).await;
    let first = r#"{"minion":"web-b","return":true,"retcode":0,"success":true,"master":"m1"}"#;
    assert_eq!(lines.out.lines().next(), Some(first));
    let table = run(both(), &["*", "test.ping", "-o", "table"]).await;
    table.is(0, "MINION  RESULT  RETCODE  RETURN\nweb-a   ok      0        true\nweb-b   ok      0        true\n");
}

#[tokio::test]
async fn nothing_matched_is_2_and_says_that_nothing_was_sent() {
    let folder = tempfile::tempdir().expect("a folder");
    let master = Master::start(folder.path(), "m1", |_| refuse("no_match", "no accepted minion matches nope*"));
    saltern(&[&master.server(), "run", "nope*", "test.ping"])
        .await
        .is(2, "")
        .says("No minions matched the target. No command was sent, no jid was assigned.\nERROR: No return received\n");
}

#[tokio::test]
async fn who_does_not_return_is_named_with_the_reason() {
    let folder = tempfile::tempdir().expect("a folder");
    let stream = || Reply::Events(vec![returned("web-a", json!(true), 0)], Then::Silence);
    let record = || {
        let missing = json!([{"minion": "web-b", "state": "waiting", "reason": "disconnected since 00:06"}]);
        job(json!({}), missing)
    };
    let master = Master::start(folder.path(), "m1", script(&["web-a", "web-b"], stream, record));
    let server = master.server();
    let ended = saltern(&[&server, "run", "-t", "1", "*", "test.ping"]).await;
    ended.is(3, "web-a:\n    True\nweb-b:\n    Minion did not return. [disconnected since 00:06]\n");
    ended.says("run the following command:\n\nsaltern job show 20261123000638296430\n");
    ended.says("ERROR: 1 of 2 minions did not return");

    let json = saltern(&[&server, "run", "-t", "1", "*", "test.ping", "-o", "json"]).await;
    let document: Value = serde_json::from_str(&json.out).expect("one document");
    assert_eq!(document["missing"], json!([{"minion": "web-b", "reason": "disconnected since 00:06"}]));
    assert_eq!(json.code, 3);
}

#[tokio::test]
async fn a_return_that_the_stream_did_not_tell_is_found_in_the_record() {
    let folder = tempfile::tempdir().expect("a folder");
    let stream = || Reply::Events(vec![returned("web-a", json!(true), 0), done()], Then::End);
    let record = || {
        let view = json!({
            "return": "late", "retcode": 0, "success": true, "state": "returned", "master": "m2", "duration_ms": 9,
        });
        job(json!({"web-b": view}), json!([]))
    };
    let master = Master::start(folder.path(), "m1", script(&["web-a", "web-b"], stream, record));
    saltern(&[&master.server(), "run", "*", "test.ping"]).await.is(0, "web-a:\n    True\nweb-b:\n    late\n");
}

#[tokio::test]
async fn an_expired_minion_is_final() {
    let expired = json!({"event": "missing", "minion": "web-b", "state": "expired", "reason": "expired after 60 s"});
    let ended = run(vec![returned("web-a", json!(true), 0), expired, done()], &["*", "test.ping"]).await;
    ended.is(3, "web-a:\n    True\nweb-b:\n    Minion did not return. [expired after 60 s]\n");
    assert!(!ended.err.contains("job show"), "nothing more will come: {}", ended.err);
}
