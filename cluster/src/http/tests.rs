//! Who is let in, what is bounded, and that every refusal is one that clients can read.

use super::asking::deadline;
use super::authorise::authorise;
use super::health::checks;
use super::serve::{no_such_method, no_such_path};
use super::*;
use crate::truth::{ProposeError, Quorum, RaftStatus};
use crate::witness::Witness;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Extension, Router};
use saltern_pubsub::clock::SystemClock;
use saltern_store::command::Refused;
use saltern_wire::api::{DEADLINE_HEADER, FailureBody, FailureCode, Submit};
use saltern_wire::io::Clock;
use saltern_wire::limits::API_BODY_BYTES_MAX;
use saltern_wire::master::MasterState;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;
use zeroize::Zeroizing;

const TOKEN: &str = "0123456789abcdef";
const OWN_UID: u32 = 990;

fn gatekeeper() -> Gatekeeper {
    Gatekeeper::new(Some(Zeroizing::new(TOKEN.into())), OWN_UID)
}

fn bearer(text: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::AUTHORIZATION, HeaderValue::from_str(text).expect("a header"));
    headers
}

#[test]
fn callers_are_known_by_the_kernel_or_by_the_token() {
    let remote = Some(Caller::Remote { peer: ([127, 0, 0, 1], 5).into() });
    let local = |uid| Some(Caller::Local { uid });
    let (none, right) = (HeaderMap::new(), bearer(&format!("Bearer {TOKEN}")));
    for (caller, headers, expect) in [
        (local(0), &none, Some("root")),
        (local(OWN_UID), &none, Some("uid 990")),
        (local(12_345), &none, None),
        (local(12_345), &right, Some("token")),
        (local(0), &bearer("Bearer wrong"), None),
        (remote, &none, None),
        (None, &none, None),
        (remote, &right, Some("token")),
        (remote, &bearer(&format!("bearer {TOKEN}")), Some("token")),
        (remote, &bearer(&format!("Bearer {TOKEN}0")), None),
        (remote, &bearer(&format!("Bearer {}", &TOKEN[1..])), None),
        (remote, &bearer(&format!("Basic {TOKEN}")), None),
        (remote, &bearer("Bearer "), None),
        (remote, &bearer(""), None),
    ] {
        let admitted = gatekeeper().admit(caller, headers);
        match expect {
            Some(name) => assert_eq!(admitted, Ok(Operator(name.into())), "{caller:?} {headers:?}"),
            None => {
                let Refusal(failure) = admitted.expect_err("refused");
                assert_eq!(failure.code, FailureCode::Denied, "{caller:?} {headers:?}");
                assert!(!failure.message.contains(TOKEN), "{failure}");
            }
        }
    }
    let without = Gatekeeper::new(None, OWN_UID);
    assert!(without.admit(remote, &bearer("Bearer ")).is_err(), "no token is not an empty one");
}

fn patience() -> Patience {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    Patience { witness: Witness::new(Arc::clone(&clock)), clock }
}

/// A router with every layer of the real one, over handlers that need no truth.
fn router() -> Router {
    let echo = |Extension(Operator(name)): Extension<Operator>, JsonBody(submit): JsonBody<Submit>| async move {
        format!("{name} {}", submit.function)
    };
    let slow = || async {
        tokio::time::sleep(Duration::from_secs(3600)).await;
    };
    Router::new()
        .route("/submit", post(echo))
        .route("/slow", get(slow).post(slow))
        .route_layer(from_fn_with_state(patience(), deadline))
        .route_layer(from_fn_with_state(gatekeeper(), authorise))
        .route("/livez", get(health::livez))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
}

async fn ask(request: Request<Body>) -> (StatusCode, HeaderMap, String) {
    let response = router().oneshot(request).await.expect("a router does not fail");
    let (status, headers) = (response.status(), response.headers().clone());
    let body = to_bytes(response.into_body(), 1 << 20).await.expect("a body");
    (status, headers, String::from_utf8(body.to_vec()).expect("text"))
}

async fn failure(request: Request<Body>) -> (StatusCode, saltern_wire::api::Failure) {
    let (status, _, body) = ask(request).await;
    let body: FailureBody = serde_json::from_str(&body).expect(&body);
    (status, body.error)
}

/// A client that waits for no longer than it says.
fn hasty(mut request: Request<Body>, ms: &'static str) -> Request<Body> {
    request.headers_mut().insert(DEADLINE_HEADER, HeaderValue::from_static(ms));
    request
}

fn as_root(mut request: Request<Body>) -> Request<Body> {
    request.extensions_mut().insert(Caller::Local { uid: 0 });
    request
}

#[tokio::test(start_paused = true)]
async fn every_refusal_has_the_same_body() {
    let request = |method: &str, path: &str, body: &str| {
        Request::builder().method(method).uri(path).body(Body::from(body.to_owned())).expect("a request")
    };
    let good = r#"{"target": {"expression": "*"}, "function": "test.ping"}"#;
    let (status, _, body) = ask(as_root(request("POST", "/submit", good))).await;
    assert_eq!((status, body.as_str()), (StatusCode::OK, "root test.ping"));

    let long = format!("{{\"pad\": \"{}\"}}", "x".repeat(API_BODY_BYTES_MAX));
    for (request, status, code, words) in [
        (request("POST", "/submit", good), 401, FailureCode::Denied, "no bearer token"),
        (as_root(request("POST", "/submit", "{")), 400, FailureCode::Invalid, "EOF"),
        (as_root(request("POST", "/submit", "{\"fun\": 1}")), 400, FailureCode::Invalid, "fun"),
        (as_root(request("POST", "/submit", &long)), 400, FailureCode::Invalid, "1048576"),
        (as_root(request("GET", "/submit", "")), 400, FailureCode::Invalid, "/submit does not take GET"),
        (as_root(request("GET", "/v9/keys", "")), 404, FailureCode::NotFound, "/v9/keys"),
        (as_root(request("GET", "/slow", "")), 429, FailureCode::Busy, "30000 ms"),
        (as_root(request("POST", "/slow", "")), 503, FailureCode::Unknown, "30000 ms: the outcome is unknown"),
        (as_root(hasty(request("POST", "/slow", ""), "1500")), 503, FailureCode::Unknown, "1500 ms"),
        (as_root(hasty(request("POST", "/slow", ""), "soon")), 400, FailureCode::Invalid, "\"soon\""),
        (as_root(hasty(request("POST", "/slow", ""), "0")), 400, FailureCode::Invalid, "at least 1"),
    ] {
        let (answered, failure) = failure(request).await;
        assert_eq!((answered.as_u16(), failure.code), (status, code), "{failure}");
        assert!(failure.message.contains(words), "{failure}");
    }
    let (status, headers, _) = ask(request("POST", "/submit", good)).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert_eq!(headers.get(header::WWW_AUTHENTICATE), Some(&HeaderValue::from_static("Bearer")));
    let (status, _, body) = ask(request("GET", "/livez", "")).await;
    assert_eq!((status, body.as_str()), (StatusCode::OK, "ok\n"), "open to everybody");
}

#[test]
fn the_truth_is_quoted_with_the_code_that_decides_the_exit() {
    for (refusal, code, exit) in [
        (Refusal::from(ProposeError::NoQuorum), FailureCode::NoQuorum, 75),
        (ProposeError::Unknown.into(), FailureCode::Unknown, 75),
        (ProposeError::Busy.into(), FailureCode::Busy, 75),
        (ProposeError::Stopped.into(), FailureCode::NoQuorum, 75),
        (Refused::Invalid("x".into()).into(), FailureCode::Invalid, 64),
        (Refused::NotFound("x".into()).into(), FailureCode::NotFound, 1),
        (Refused::NoTargets.into(), FailureCode::NoMatch, 2),
        (Refused::Conflict("x".into()).into(), FailureCode::Conflict, 1),
        (Refused::Limit("x".into()).into(), FailureCode::Busy, 75),
        (Refused::Token("x".into()).into(), FailureCode::Denied, 77),
    ] {
        assert_eq!((refusal.0.code, refusal.0.code.exit_code()), (code, exit), "{refusal:?}");
        let status = refusal.clone().into_response().status();
        assert_eq!(status.as_u16(), code.status(), "{refusal:?}");
    }
    assert!(Refusal::from(ProposeError::NoQuorum).0.message.starts_with("no quorum"));
}

#[test]
fn readiness_names_what_is_missing() {
    let raft = |fresh: bool, last_log, applied| RaftStatus {
        quorum: Quorum { fresh, contact: fresh, stale_ms: (!fresh).then_some(7), leader: None, term: 1 },
        members: Vec::new(),
        last_log,
        applied,
    };
    for (raft, own, expect) in [
        (raft(true, 10, 10), Some(MasterState::Active), vec![]),
        (raft(false, 10, 10), Some(MasterState::Active), vec!["quorum"]),
        (raft(true, 5000, 10), Some(MasterState::Active), vec!["caught_up"]),
        (raft(true, 10, 10), Some(MasterState::Joining), vec!["caught_up"]),
        (raft(true, 10, 10), Some(MasterState::Draining), vec!["not_draining"]),
        (raft(false, 10, 10), None, vec!["quorum", "caught_up"]),
    ] {
        let found = checks(&raft, own);
        let failed: Vec<_> = found.iter().filter(|check| check.fault.is_some()).map(|check| check.name).collect();
        assert_eq!(failed, expect, "{raft:?} {own:?}");
    }
}

#[tokio::test]
async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
    let home = tempfile::tempdir().expect("a folder");
    let path = home.path().join("run/master.sock");
    let first = bind_unix(&path).await.expect("made, with its folder");
    let taken = bind_unix(&path).await.expect_err("somebody listens").to_string();
    assert!(taken.contains("another process"), "{taken}");
    drop(first);
    assert!(path.exists(), "a dead process leaves its file");
    let second = bind_unix(&path).await.expect("replaced");
    drop(second);

    let file = home.path().join("file");
    std::fs::write(&file, "precious").expect("written");
    let refused = bind_unix(&file).await.expect_err("no socket").to_string();
    assert!(refused.contains("no socket"), "{refused}");
    assert_eq!(std::fs::read(&file).expect("still there"), b"precious");
}

#[tokio::test]
async fn a_used_port_is_named() {
    let first = bind_tcp(([127, 0, 0, 1], 0).into()).expect("any port");
    let address = first.local_addr().expect("an address");
    let error = bind_tcp(address).expect_err("taken").to_string();
    assert!(error.contains(&address.to_string()) && error.contains("api_port"), "{error}");
}

/// A process with as many connections as it may have is told so at the next one.
#[tokio::test]
async fn one_client_gets_no_more_connections_than_it_leaves_to_others() {
    let home = tempfile::tempdir().expect("a folder");
    let path = home.path().join("master.sock");
    let unix = bind_unix(&path).await.expect("made");
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let witness = patience().witness;
    let router = Router::new().route("/livez", get(health::livez));
    tasks.spawn(serve_unix(unix, Door::new(router, Arc::clone(&witness), stop.clone()), tasks.clone()));
    let mut held = Vec::new();
    let refused = loop {
        let mut stream = UnixStream::connect(&path).await.expect("connected");
        stream.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("sent");
        let mut answer = vec![0; 4096];
        let read = stream.read(&mut answer).await.expect("answered");
        if answer.starts_with(b"HTTP/1.1 200") {
            held.push(stream);
            assert!(held.len() < serve::CONNECTIONS_MAX, "one client has all of them");
            continue;
        }
        break String::from_utf8_lossy(&answer[..read]).into_owned();
    };
    assert_eq!(held.len(), serve::CONNECTIONS_MAX / 2);
    let (head, body) = refused.split_once("\r\n\r\n").expect("a head and a body");
    assert!(head.starts_with("HTTP/1.1 429") && head.contains(&format!("content-length: {}", body.len())), "{head}");
    let body: FailureBody = serde_json::from_str(body).expect(body);
    assert_eq!(body.error.code, FailureCode::Busy);
    assert_eq!(witness.refused(crate::witness::Reason::ApiClient), 1);
    held.clear();
    let freed = async {
        loop {
            let mut stream = UnixStream::connect(&path).await.expect("connected");
            stream.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("sent");
            let mut answer = vec![0; 4096];
            let _ = stream.read(&mut answer).await.expect("answered");
            if answer.starts_with(b"HTTP/1.1 200") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), freed).await.expect("places come back");
    stop.cancel();
}

#[tokio::test]
async fn the_socket_serves_its_own_user_and_stops_when_told() {
    let home = tempfile::tempdir().expect("a folder");
    let path = home.path().join("master.sock");
    let listener = bind_unix(&path).await.expect("made");
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let own = Gatekeeper::new(None, rustix::process::geteuid().as_raw());
    let who = |Extension(Operator(name)): Extension<Operator>| async move { name };
    let router = Router::new().route("/who", get(who)).route_layer(from_fn_with_state(own, authorise));
    tasks.spawn(serve_unix(listener, Door::new(router, patience().witness, stop.clone()), tasks.clone()));

    let mut stream = UnixStream::connect(&path).await.expect("connected");
    stream.write_all(b"GET /who HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("sent");
    let mut answer = vec![0; 4096];
    let read = stream.read(&mut answer).await.expect("answered");
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer[..read]));

    // The idle connection is closed, and nothing is left of the listener's tasks.
    stop.cancel();
    assert_eq!(stream.read(&mut answer).await.expect("closed"), 0);
    tasks.close();
    tokio::time::timeout(Duration::from_secs(10), tasks.wait()).await.expect("every task ended");
}
