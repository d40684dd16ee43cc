//! Fuzz targets of everything that is read from outside by this crate's own public functions. How they work, and how to run
//! them for long: `saltern_wire::fuzz`.

use roaring::RoaringBitmap;
use saltern_wire::codec::{Encoded, decode, encode};
use saltern_wire::crypto::seal::{FrameOpener, FrameSealer};
use saltern_wire::crypto::{Fingerprint, Identity, PublicKey, Signed};
use saltern_wire::fanout::{Beacon, Broadcast, FanoutKey, Offer};
use saltern_wire::io::{Address, Capability};
use saltern_wire::job::{Job, Outcome, OutcomeKind, Recorded, ReturnPart};
use saltern_wire::level::{LEVEL_FIRST, LEVEL_FLEET};
use saltern_wire::master::{Certificate, Directory, Endpoints, MasterRecord, MasterState};
use saltern_wire::mine::{MineEntry, MineReport, MineStamp};
use saltern_wire::session::{
    Answer, Attach, Call, Grant, MoveReason, Refusal, SessionRole, Standing, ToMaster, ToMinion,
};
use saltern_wire::target::{Target, TargetKind};
use saltern_wire::{
    ClusterId, JobId, LogicalTime, Map, MasterId, MinionId, Ordinal, RequestId, Revision, Value, fuzz, keep,
};
use std::fmt::{Debug, Display};
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

fn master() -> Identity {
    Identity::from_seed([2; 32])
}

fn jid() -> JobId {
    JobId::mint(LogicalTime::from_unix_micros(1_700_000_000_000_000), 1)
}

fn map() -> Map {
    let value = serde_json::json!({"os": "Debian", "n": [1, -2, 3.5, null, true], "nested": {"a": "b"}});
    value.as_object().cloned().unwrap_or_default()
}

fn job() -> Job {
    Job {
        cluster: ClusterId::from_bytes([5; 16]),
        generation: 1,
        jid: jid(),
        master: MasterId(7),
        function: "cmd.run".into(),
        arguments: vec![Value::String("uptime".into()), Value::from(3)],
        keywords: map(),
        target: Target::glob("web*"),
        targets: RoaringBitmap::from_iter([1, 2, 70_000]),
        user: "root".into(),
        opened: LogicalTime::from_unix_micros(9),
        ttl_ms: 60_000,
    }
}

fn offer() -> Offer {
    Offer { job: Signed::new(&job(), &master()), remaining_ms: 5_000 }
}

fn beacon() -> Beacon {
    Beacon {
        cluster: ClusterId::from_bytes([5; 16]),
        sequence: 3,
        newest_job: Some(jid()),
        time: LogicalTime::from_unix_micros(9),
        directory: (1, 2),
        quorum: true,
        reconnect_window_ms: 1_000,
        next_ms: 5_000,
        level: LEVEL_FIRST,
    }
}

fn outcome() -> Outcome {
    Outcome { kind: OutcomeKind::Finished, success: true, retcode: -1, value: Value::Object(map()), duration_ms: 7 }
}

fn key(epoch: u32) -> FanoutKey {
    FanoutKey { master: MasterId(7), epoch, stream: 99, key: [3; 32] }
}

fn certificate() -> Certificate {
    Certificate {
        cluster: ClusterId::from_bytes([5; 16]),
        master: MasterId(7),
        name: "m1".into(),
        public_key: master().public_key(),
        generation: 1,
    }
}

fn directory() -> Directory {
    let at = |port| Address::new("10.0.0.1", port);
    let endpoints = Endpoints { fanout: at(4505), session: at(4506), mesh: at(4510), api: at(4511) };
    let record = MasterRecord {
        id: MasterId(7),
        name: "m1".into(),
        state: MasterState::Active,
        endpoints,
        region: "eu".into(),
        zone: "a".into(),
        weight: 100,
        certificate: Signed::new(&certificate(), &master()),
        public_key: master().public_key(),
        role: saltern_wire::master::Role::Voter,
    };
    Directory {
        cluster: ClusterId::from_bytes([5; 16]),
        generation: 1,
        version: 2,
        masters: vec![record],
        succeeds: vec![],
        retired: Vec::new(),
    }
}

/// The encoding of `value`, once the bytes that the first version wrote for it were read and meant the same. A fixture is never
/// changed, only added (`UPDATE_FIXTURES=1` writes the ones that are missing): a master or minion of that version may be on the
/// other side.
fn frozen<T: Encoded + PartialEq + Debug>(name: &str, value: &T) -> Vec<u8> {
    let path = format!("{}/tests/fixtures/frame-1-{name}.bin", env!("CARGO_MANIFEST_DIR"));
    if !Path::new(&path).exists() && std::env::var_os("UPDATE_FIXTURES").is_some() {
        std::fs::write(&path, encode(value)).unwrap_or_else(|error| panic!("{path}: {error}"));
    }
    let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    assert_eq!(decode::<T>(&bytes).as_ref(), Ok(value), "{name}");
    encode(value)
}

/// What decodes encodes to something that decodes to the same.
fn decodes<T: Encoded + PartialEq + Debug>(bytes: &[u8]) -> bool {
    let Ok(value) = decode::<T>(bytes) else { return false };
    let again = encode(&value);
    assert_eq!(decode::<T>(&again).as_ref(), Ok(&value), "{again:?}");
    true
}

#[test]
fn fuzz_broadcast() {
    keep!("broadcast", "job", frozen("broadcast-job", &Broadcast::Job(offer())));
    keep!("broadcast", "beacon", frozen("broadcast-beacon", &Broadcast::Beacon(beacon())));
    fuzz!("broadcast", decodes::<Broadcast>);
}

#[test]
fn fuzz_job() {
    keep!("job", "job", frozen("job", &job()));
    keep!("job", "everybody", encode(&Job { targets: (0..5000).collect(), ..job() }));
    fuzz!("job", decodes::<Job>);
}

#[test]
fn fuzz_outcome() {
    keep!("outcome", "finished", frozen("outcome", &outcome()));
    fuzz!("outcome", decodes::<Outcome>);
}

#[test]
fn fuzz_certificate() {
    keep!("certificate", "m1", frozen("certificate", &certificate()));
    fuzz!("certificate", decodes::<Certificate>);
}

#[test]
fn fuzz_directory() {
    keep!("directory", "one", frozen("directory", &directory()));
    fuzz!("directory", decodes::<Directory>);
}

#[test]
fn fuzz_to_master() {
    let attach = |credit| {
        let (version, directory, role) = ("0.1.0".into(), Some((1, 2)), SessionRole::default());
        Attach { version, incarnation: 5, directory, facts_digest: [9; 32], credit, role, level: LEVEL_FIRST }
    };
    keep!("to_master", "attach", frozen("to_master-attach", &ToMaster::Attach(attach(false))));
    keep!("to_master", "attach_credit", frozen("to_master-attach_credit", &ToMaster::Attach(attach(true))));
    keep!("to_master", "want", frozen("to_master-want", &ToMaster::Want { bytes: 3 << 20 }));
    let waits = SessionRole::Standby { primary: MasterId(2), preferred: true };
    let standby = Attach { role: waits, level: LEVEL_FLEET, ..attach(false) };
    keep!("to_master", "standby", frozen("to_master-standby", &ToMaster::Attach(standby)));
    let works = SessionRole::Primary { moved: Some(MoveReason::Lost) };
    keep!("to_master", "role", frozen("to_master-role", &ToMaster::Role(works)));
    keep!("to_master", "ping", frozen("to_master-ping", &ToMaster::Ping { sequence: 1 }));
    let parts = ReturnPart::split(jid(), &outcome()).expect("it is small");
    let stamp = MineStamp { incarnation: 5, counter: 1 };
    let value = Some(serde_json::json!(["10.0.0.1"]));
    let report = MineReport { function: "network.ip_addrs".into(), value, stamp };
    let target = Target { kind: TargetKind::Grain, expression: "os:Debian".into() };
    for (name, call) in [
        ("accept", Call::Accept(vec![jid()])),
        ("return", Call::Return(parts)),
        ("facts", Call::Facts(map())),
        ("mine_report", Call::MineReport(vec![report])),
        ("mine_get", Call::MineGet { target, function: "x.y".into() }),
    ] {
        let message = ToMaster::Call { sequence: 2, deadline_ms: 1000, call };
        keep!("to_master", name, frozen(&format!("to_master-{name}"), &message));
    }
    fuzz!("to_master", decodes::<ToMaster>);
}

#[test]
fn fuzz_to_minion() {
    let grant = Grant { address: Address::new("m1", 4505), capability: Capability([8; 16]), key: key(1) };
    let stamp = MineStamp { incarnation: 5, counter: 1 };
    let minion = MinionId::new("web-1").expect("valid");
    let entry = MineEntry { minion, function: "x.y".into(), value: Value::Null, stamp };
    let reply = |result| ToMinion::Reply { sequence: 1, revision: Revision(9), result };
    for (name, message) in [
        ("standing", ToMinion::Standing(Standing::Accepted { ordinal: Ordinal(4) })),
        ("directory", ToMinion::Directory(Signed::new(&directory(), &master()))),
        ("grant", ToMinion::Grant(grant)),
        ("rekey", ToMinion::Rekey(key(2))),
        ("offer", ToMinion::Offer(offer())),
        ("pong", ToMinion::Pong { sequence: 1, quorum: true }),
        ("done", reply(Ok(Answer::Done))),
        ("recorded", reply(Ok(Answer::Recorded(vec![Recorded::Committed, Recorded::Orphan])))),
        ("mine", reply(Ok(Answer::Mine(vec![entry])))),
        ("refused", reply(Err(Refusal::Busy { retry_after_ms: 5 }))),
        ("credit", ToMinion::Credit { bytes: 1 << 20 }),
        ("bye", ToMinion::Bye { reason: "drain".into(), retry_after_ms: 5 }),
        ("promote", ToMinion::Promote { peer: MasterId(2), slot_ms: 40 }),
        ("move", ToMinion::Move { to: Some(MasterId(3)), reason: MoveReason::Asked, within_ms: 9000 }),
    ] {
        keep!("to_minion", name, frozen(&format!("to_minion-{name}"), &message));
    }
    fuzz!("to_minion", decodes::<ToMinion>);
}

#[test]
fn fuzz_fanout_frame() {
    const NOW: Duration = Duration::from_secs(100);
    let mut sealer = FrameSealer::new(key(1), master());
    let genuine = [Broadcast::Beacon(beacon()), Broadcast::Job(offer())].map(|said| sealer.seal(&said).expect("short"));
    keep!("fanout_frame", "beacon", genuine[0]);
    keep!("fanout_frame", "job", genuine[1]);
    let public_key = master().public_key();
    fuzz!("fanout_frame", |bytes: &[u8]| {
        let opened = FrameOpener::new(public_key, key(1)).open(bytes, NOW);
        assert!(opened.is_err() || genuine.iter().any(|frame| frame == bytes), "a forged frame opened: {opened:?}");
        opened.is_ok()
    });
}

#[test]
fn fuzz_target() {
    let kinds = [TargetKind::Glob, TargetKind::Regex, TargetKind::List, TargetKind::Grain, TargetKind::Compound];
    for (kind, name, expression) in [
        (0_u8, "glob", "web-[0-9]*.example.?"),
        (1, "regex", "web-(1|2)\\d+[a-z]{1,3}"),
        (2, "list", "web-1,db-2,x"),
        (3, "grain", "nested:a:b*"),
        (4, "compound", "G@os:Deb* and not ( web* or L@a,b ) and E@db\\d"),
    ] {
        keep!("target", name, [&[kind], expression.as_bytes()].concat());
    }
    let ids = ["web-1.example.x", "a", "db-2"].map(|id| MinionId::new(id).expect("valid"));
    let grains = map();
    fuzz!("target", |bytes: &[u8]| {
        let Some((kind, expression)) = bytes.split_first() else { return false };
        let kind = kinds[usize::from(*kind) % kinds.len()];
        let target = Target { kind, expression: String::from_utf8_lossy(expression).into_owned() };
        match target.matcher() {
            Ok(matcher) => {
                for id in &ids {
                    let said = matcher.matches(id, &grains);
                    assert_eq!(matcher.matches(id, &grains), said);
                }
                true
            }
            Err(error) => {
                assert!(!error.to_string().is_empty());
                false
            }
        }
    });
}

/// What parses is written as something that parses to the same.
fn reads<T: FromStr + Display + PartialEq + Debug>(text: &str) -> bool {
    let Ok(value) = text.parse::<T>() else { return false };
    let again = value.to_string();
    assert!(again.parse::<T>().is_ok_and(|same| same == value), "{text:?} is read as {value:?}, written as {again:?}");
    true
}

#[test]
fn fuzz_names() {
    for (kind, text) in [
        (0_u8, "web-1.example.com"),
        (1, "20231114221320000001"),
        (2, "05050505050505050505050505050505"),
        (3, "00000000000000000000000000000001"),
        (4, "[2001:db8::1]:4505"),
        (5, "0202020202020202020202020202020202020202020202020202020202020202"),
        (6, "0303030303030303030303030303030303030303030303030303030303030303"),
    ] {
        keep!("names", &format!("kind-{kind}"), [&[kind], text.as_bytes()].concat());
    }
    fuzz!("names", |bytes: &[u8]| {
        let Some((kind, text)) = bytes.split_first() else { return false };
        let Ok(text) = std::str::from_utf8(text) else { return false };
        match kind {
            0 => reads::<MinionId>(text),
            1 => reads::<JobId>(text),
            2 => reads::<ClusterId>(text),
            3 => reads::<RequestId>(text),
            4 => reads::<Address>(text),
            5 => reads::<Fingerprint>(text),
            _ => reads::<PublicKey>(text),
        }
    });
}
