//! Fuzz targets: what strangers, operators, other masters and a slip of the hand may give to a master.

use crate::api::key::{Decision, select};
use crate::api::{job, mine};
use crate::config::{Config, layer};
use crate::founding::{grant, token};
use crate::http::extract::Wanted;
use crate::mesh::message::{Channel, Numbered, Proposed, RaftCall, Request, Response};
use crate::presence::{PresenceUpdate, Seat};
use crate::submit;
use axum::http::Uri;
use saltern_store::command::{Command, KeyCommand, Proposal, Reply};
use saltern_wire::api::{JoinRequest, JoinSecret, JoinToken, JoinTokenRequest, KeyDecision, KeySelection, Submit};
use saltern_wire::codec::decode_bounded;
use saltern_wire::crypto::PublicKey;
use saltern_wire::io::Address;
use saltern_wire::key::{KeyRecord, KeyState};
use saltern_wire::limits::{API_BODY_BYTES_MAX, PEER_MESSAGE_BYTES_MAX};
use saltern_wire::master::Endpoints;
use saltern_wire::settings::Settings;
use saltern_wire::target::Target;
use saltern_wire::{LogicalTime, Map, MasterId, Ordinal, RequestId, Revision, Value, encode};
use serde::de::DeserializeOwned;
use std::path::Path;

#[test]
fn fuzz_join_token() {
    let made = JoinToken {
        addresses: vec![Address::new("m1.example", 4511), Address::new("192.0.2.1", 4511)],
        ca_fingerprint: PublicKey([7; 32]).fingerprint(),
        secret: JoinSecret("00112233445566778899aabbccddeeff".into()),
    };
    saltern_wire::keep!("join_token", "two_addresses", token::write(&made).into_bytes());
    saltern_wire::fuzz!("join_token", |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        let direct = saltern_wire::decode::<JoinToken>(bytes);
        // The check in a token keeps mutations from what is inside: that is read as it is as well.
        if let Ok(token) = &direct {
            assert_eq!(token::read(&token::write(token)).as_ref(), Ok(token));
        }
        match token::read(&text) {
            Ok(read) => {
                assert_eq!(token::read(&token::write(&read)), Ok(read));
                true
            }
            Err(_) => false,
        }
    });
}

/// What is inside a join token, without its check.
#[test]
fn fuzz_join_token_body() {
    let made = JoinToken {
        addresses: vec![Address::new("m1.example", 4511)],
        ca_fingerprint: PublicKey([7; 32]).fingerprint(),
        secret: JoinSecret("00112233445566778899aabbccddeeff".into()),
    };
    saltern_wire::keep!("join_token_body", "one_address", encode(&made));
    saltern_wire::fuzz!("join_token_body", |bytes: &[u8]| match saltern_wire::decode::<JoinToken>(bytes) {
        Ok(read) => {
            assert_eq!(token::read(&token::write(&read)), Ok(read));
            true
        }
        Err(_) => false,
    });
}

#[test]
fn fuzz_master_yaml() {
    let small = "id: m1\nadvertise: 10.0.0.1\n";
    let full = "id: m1\ninterface: 0.0.0.0\nadvertise: m1.example\npublish_port: 4505\nret_port: 4506\n\
                data_dir: /var/lib/saltern\nlog_level: warning\nprofile: geo\nheartbeat_ms: 400\nauto_accept: true\n\
                keep_jobs_seconds: 60\nregion: eu\nzone: a\n";
    saltern_wire::keep!("master_yaml", "small", small.as_bytes().to_vec());
    saltern_wire::keep!("master_yaml", "full", full.as_bytes().to_vec());
    saltern_wire::fuzz!("master_yaml", |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        match layer::from_yaml(Path::new("master.yaml"), &text) {
            Ok(layer) => match Config::finish(layer, "here") {
                Ok(config) => {
                    assert!(config.timing.election_ms_min <= config.timing.election_ms_max);
                    true
                }
                Err(error) => {
                    assert!(!error.to_string().is_empty());
                    false
                }
            },
            Err(error) => {
                assert!(error.to_string().contains("master.yaml"), "{error}");
                false
            }
        }
    });
}

/// Reads a body as the extractor does.
fn body<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    assert!(bytes.len() <= API_BODY_BYTES_MAX);
    serde_json::from_slice(bytes).ok()
}

/// Some keys to decide about.
fn keys() -> Vec<KeyRecord> {
    let key = |minion: &str, byte, state| KeyRecord {
        minion: minion.parse().expect("an id"),
        public_key: PublicKey([byte; 32]),
        state,
        ordinal: None,
        submitted: LogicalTime::ZERO,
        decided: None,
        decided_by: None,
    };
    vec![
        key("db-1", 1, KeyState::Accepted),
        key("db-1", 2, KeyState::Denied),
        key("web-1", 3, KeyState::Pending),
        key("web-2", 4, KeyState::Rejected),
    ]
}

/// A line that names the route, then the body.
#[test]
fn fuzz_api_body() {
    let submit = br#"submit
{"target":{"kind":"glob","expression":"web-*"},"function":"cmd.run","arguments":["uptime"],"keywords":{"timeout":5},"ttl_ms":1000}"#;
    saltern_wire::keep!("api_body", "submit", submit[..]);
    saltern_wire::keep!(
        "api_body",
        "accept_glob",
        b"accept\n{\"select\":{\"glob\":\"web-*\"},\"include_decided\":true}"[..]
    );
    let print = PublicKey([3; 32]).fingerprint().to_string();
    let reject = format!("reject\n{{\"select\":{{\"fingerprint\":\"{print}\"}}}}");
    saltern_wire::keep!("api_body", "reject_fingerprint", reject.into_bytes());
    saltern_wire::keep!("api_body", "delete_all", b"delete\n{\"select\":\"all\"}"[..]);
    saltern_wire::keep!("api_body", "join_token", b"join-token\n{\"ttl_ms\":3600000,\"uses\":2}"[..]);
    saltern_wire::keep!("api_body", "config", b"config job_ttl_ms\n5000"[..]);
    let address = |port| Address::new("m2.example", port);
    let join = JoinRequest {
        secret: JoinSecret("00112233445566778899aabbccddeeff".into()),
        name: "m2".into(),
        public_key: PublicKey([3; 32]),
        endpoints: Endpoints { fanout: address(4505), session: address(4506), mesh: address(4510), api: address(4511) },
        region: "eu".into(),
        zone: "a".into(),
        level: saltern_wire::level::LEVEL_FIRST,
    };
    let join = [b"join\n".to_vec(), serde_json::to_vec(&join).expect("JSON")].concat();
    saltern_wire::keep!("api_body", "join", join);
    let keys = keys();
    saltern_wire::fuzz!("api_body", |bytes: &[u8]| {
        let Some(at) = bytes.iter().position(|byte| *byte == b'\n') else { return false };
        let (route, json) = (String::from_utf8_lossy(&bytes[..at]).into_owned(), &bytes[at + 1..]);
        let decide = |decision| {
            let wanted = body::<KeyDecision>(json)?;
            let selected = select(&keys, decision, &wanted).ok()?;
            assert!(selected.len() <= keys.len());
            Some(())
        };
        match route.as_str() {
            "submit" => body::<Submit>(json).and_then(|wanted| {
                submit::check(&wanted, "root").ok()?;
                wanted.target.matcher().ok().map(drop)
            }),
            "accept" => decide(Decision::Accept),
            "reject" => decide(Decision::Reject),
            "delete" => decide(Decision::Delete),
            "join-token" => body::<JoinTokenRequest>(json).map(drop),
            "join" => body::<JoinRequest>(json).and_then(|wanted| grant::check(&wanted).ok()),
            _ => route.strip_prefix("config ").and_then(|name| {
                let value = body::<Value>(json)?;
                let changed = Settings::default().with(name, &value).ok()?;
                assert_ne!(serde_json::to_value(&changed).expect("JSON").get(name), None);
                Some(())
            }),
        }
        .is_some()
    });
}

/// Everything behind the question mark of each path that takes a query.
#[test]
fn fuzz_api_query() {
    for (name, query) in [
        ("jobs", "/v1/jobs?limit=20&before=20261123000630000007&active=true"),
        ("mine", "/v1/mine?kind=compound&target=G%40os%3ADebian%20and%20web-*&function=network.ip_addrs"),
        ("fresh", "/v1/keys?revision=12&consistent=true"),
    ] {
        saltern_wire::keep!("api_query", name, query.as_bytes().to_vec());
    }
    saltern_wire::fuzz!("api_query", |bytes: &[u8]| {
        let Ok(uri) = String::from_utf8_lossy(bytes).parse::<Uri>() else { return false };
        fn read<T: DeserializeOwned>(uri: &Uri) -> Option<T> {
            axum::extract::Query::<T>::try_from_uri(uri).ok().map(|query| query.0)
        }
        let fresh = read::<Wanted>(&uri).is_some();
        match uri.path() {
            "/v1/jobs" => fresh && read::<job::Page>(&uri).is_some(),
            "/v1/mine" => fresh && read::<mine::Wanted>(&uri).is_some_and(|wanted| wanted.target().matcher().is_ok()),
            _ => fresh,
        }
    });
}

fn question(body: Request) -> Vec<u8> {
    encode(&Numbered { number: 7, deadline_ms: Some(2000), body })
}

fn answer(body: Response) -> Vec<u8> {
    encode(&Numbered { number: 7, deadline_ms: None, body })
}

/// What another master may say: the hello, questions and answers.
#[test]
fn fuzz_mesh_message() {
    let submit = KeyCommand::Submit { minion: "web-1".parse().expect("an id"), public_key: PublicKey([3; 32]) };
    let proposal = Proposal {
        request: Some(RequestId::from_bytes([9; 16])),
        by: MasterId(2),
        stamp: LogicalTime::ZERO,
        command: Command::Key(submit),
    };
    let seat = Seat {
        minion: "web-1".parse().expect("an id"),
        ordinal: Ordinal(1),
        since: LogicalTime::ZERO,
        version: "1".into(),
    };
    let update = PresenceUpdate {
        boot: 1,
        sequence: 2,
        whole: true,
        attached: vec![seat],
        departed: Vec::new(),
        room: Default::default(),
    };
    let chunk = RaftCall::SnapshotChunk { file: "000012.sst".into(), offset: 64, data: vec![1; 32] };
    let proposed = Proposed { revision: Revision(3), time: LogicalTime::ZERO, applied: Ok(Reply::Done) };
    for (name, bytes) in [
        ("propose", question(Request::Propose { proposal: Box::new(proposal), bulk: false, deadline_ms: 1500 })),
        ("presence", question(Request::Presence(update))),
        ("chunk", question(Request::Raft(chunk))),
        ("vote", question(Request::Raft(RaftCall::Vote(vec![0x91, 1, 2])))),
        ("read_index", question(Request::ReadIndex)),
        ("proposed", answer(Response::Proposed(Ok(proposed)))),
        ("missing", answer(Response::SnapshotMissing(vec![("000012.sst".into(), 64)]))),
        ("hello", Channel::Work.hello().to_vec()),
    ] {
        saltern_wire::keep!("mesh_message", name, bytes);
    }
    saltern_wire::fuzz!("mesh_message", |bytes: &[u8]| {
        if let Some(channel) = Channel::from_hello(bytes) {
            assert_eq!(channel.hello(), bytes);
            return true;
        }
        let asked = decode_bounded::<Numbered<Request>>(bytes, PEER_MESSAGE_BYTES_MAX);
        if let Ok(asked) = asked {
            let again = decode_bounded::<Numbered<Request>>(&encode(&asked), PEER_MESSAGE_BYTES_MAX);
            // Numbers that are none (NaN in a job's arguments) equal nothing, not even themselves.
            assert_eq!(again.map(|again| encode(&again)), Ok(encode(&asked)));
            return true;
        }
        let answered = decode_bounded::<Numbered<Response>>(bytes, PEER_MESSAGE_BYTES_MAX);
        let Ok(answered) = answered else { return false };
        let again = decode_bounded::<Numbered<Response>>(&encode(&answered), PEER_MESSAGE_BYTES_MAX);
        assert_eq!(again.map(|again| encode(&again)), Ok(encode(&answered)));
        true
    });
}

/// The names that the targets above use are the ones that the API has.
#[test]
fn the_corpus_speaks_the_language_of_the_api() {
    let wanted = KeyDecision { select: KeySelection::Glob("web-*".into()), include_decided: true };
    assert_eq!(serde_json::to_string(&wanted).expect("JSON"), r#"{"select":{"glob":"web-*"},"include_decided":true}"#);
    let submit = Submit {
        target: Target::glob("*"),
        function: "test.ping".into(),
        arguments: Vec::new(),
        keywords: Map::new(),
        ttl_ms: None,
        batch: None,
        subset: None,
    };
    assert_eq!(submit::check(&submit, "root"), Ok(()));
}
