//! What is replayed, moved, changed or made up on the way is refused, and counted by reason.

use crate::support::{anywhere, connected, soon, transports};
use bytes::Bytes;
use roaring::RoaringBitmap;
use saltern_pubsub::call::{MinionCredentials, Session};
use saltern_pubsub::channel::SessionError;
use saltern_pubsub::clock::{SystemClock, SystemEntropy};
use saltern_pubsub::memory::MemoryNetwork;
use saltern_pubsub::refusal::Refusals;
use saltern_pubsub::serve::{MasterCredentials, ServedSession};
use saltern_pubsub::subscriber::{RefusedFrames, Subscriber};
use saltern_wire::crypto::handshake::Expectation;
use saltern_wire::crypto::seal::FrameSealer;
use saltern_wire::crypto::{Identity, Signed};
use saltern_wire::fanout::{Beacon, Broadcast, FanoutKey, Offer};
use saltern_wire::io::{Capability, Clock, Fanout, Link, Transport};
use saltern_wire::job::Job;
use saltern_wire::master::Certificate;
use saltern_wire::session::{Grant, ToMaster, ToMinion};
use saltern_wire::target::Target;
use saltern_wire::{ClusterId, JobId, LogicalTime, Map, MasterId, MinionId, Value};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(10);

fn identity(seed: u8) -> Identity {
    Identity::from_seed([seed; 32])
}

fn key(master: u64, epoch: u32) -> FanoutKey {
    FanoutKey { master: MasterId(master), epoch, stream: 9, key: [u8::try_from(epoch).expect("small"); 32] }
}

fn beacon(sequence: u64) -> Broadcast {
    Broadcast::Beacon(Beacon {
        cluster: ClusterId::from_bytes([5; 16]),
        sequence,
        newest_job: None,
        time: LogicalTime::ZERO,
        directory: (1, 1),
        quorum: true,
        reconnect_window_ms: 1000,
        next_ms: 5000,
        level: saltern_wire::level::LEVEL_FIRST,
    })
}

/// A clock that a test moves.
#[derive(Default)]
struct Hand(AtomicU64);

impl Clock for Hand {
    fn monotonic(&self) -> Duration {
        Duration::from_secs(self.0.load(Relaxed))
    }
    fn wall_unix_micros(&self) -> u64 {
        0
    }
}

/// A minion that listens to master 1, and the wire on which anything may be put.
async fn listening(transport: &dyn Transport, clock: Arc<dyn Clock>) -> (Arc<dyn Fanout>, Subscriber) {
    let fanout = transport.fanout(&anywhere()).await.expect("fanout");
    let capability = Capability([1; 16]);
    fanout.admit(capability);
    let grant = Grant { address: fanout.address(), capability, key: key(1, 1) };
    let subscriber = Subscriber::open(transport, &grant, identity(2).public_key(), clock).await.expect("subscribe");
    (fanout, subscriber)
}

async fn heard(subscriber: &mut Subscriber) -> Broadcast {
    soon("a genuine frame", subscriber.recv()).await.expect("recv")
}

#[tokio::test]
async fn frames_that_are_replayed_moved_or_made_up_are_counted_and_nothing_else_suffers() {
    for (name, transport) in transports() {
        let (wire, mut minion) = listening(&*transport, Arc::new(SystemClock::new())).await;
        let mut master = FrameSealer::new(key(1, 1), identity(2));
        let [first, second, third, fourth] = [1, 2, 3, 4].map(|number| master.seal(&beacon(number)).expect("short"));
        wire.publish(first.clone());
        assert_eq!(heard(&mut minion).await, beacon(1), "{name}");
        // Again; then the third before the second.
        wire.publish(first);
        wire.publish(third);
        wire.publish(second);
        assert_eq!(heard(&mut minion).await, beacon(3), "{name}");
        // Another master of the cluster that holds the key; one of another cluster; one that was removed, under its own name.
        for (seed, named) in [(3, 1), (66, 1), (4, 9)] {
            let mut impostor = FrameSealer::new(key(named, 1), identity(seed));
            wire.publish(impostor.seal(&beacon(666)).expect("short"));
        }
        // A key of another boot that never came, and a frame of which one bit is another.
        let mut earlier = FrameSealer::new(FanoutKey { stream: 8, ..key(1, 1) }, identity(2));
        wire.publish(earlier.seal(&beacon(667)).expect("short"));
        let mut bent = fourth.to_vec();
        bent[60] ^= 1;
        wire.publish(bent.into());
        wire.publish(Bytes::from_static(b"rubbish"));
        wire.publish(fourth);
        assert_eq!(heard(&mut minion).await, beacon(4), "{name}");
        let expected = RefusedFrames { malformed: 1, wrong_master: 1, forged: 3, unknown_epoch: 1, replayed: 2 };
        assert_eq!(minion.refused(), expected, "{name}");
    }
}

#[tokio::test]
async fn an_old_epoch_is_good_for_thirty_seconds_and_then_refused() {
    let transport = MemoryNetwork::new().host("127.0.0.1");
    let clock = Arc::new(Hand::default());
    let (wire, mut minion) = listening(&transport, clock.clone()).await;
    let mut old = FrameSealer::new(key(1, 1), identity(2));
    let mut new = FrameSealer::new(key(1, 2), identity(2));
    minion.rekey(key(1, 2));
    clock.0.store(29, Relaxed);
    wire.publish(old.seal(&beacon(1)).expect("short"));
    assert_eq!(heard(&mut minion).await, beacon(1));
    clock.0.store(30, Relaxed);
    wire.publish(old.seal(&beacon(2)).expect("short"));
    wire.publish(new.seal(&beacon(3)).expect("short"));
    assert_eq!(heard(&mut minion).await, beacon(3));
    assert_eq!(minion.refused(), RefusedFrames { unknown_epoch: 1, ..RefusedFrames::default() });
    // The key before does not come back by being offered again.
    minion.rekey(key(1, 1));
    wire.publish(old.seal(&beacon(4)).expect("short"));
    wire.publish(new.seal(&beacon(5)).expect("short"));
    assert_eq!(heard(&mut minion).await, beacon(5));
    assert_eq!(minion.refused().unknown_epoch, 2);
}

#[tokio::test]
async fn a_job_whose_arguments_were_changed_does_not_verify_whoever_publishes_it() {
    let transport = MemoryNetwork::new().host("127.0.0.1");
    let (wire, mut minion) = listening(&transport, Arc::new(SystemClock::new())).await;
    let job = Job {
        cluster: ClusterId::from_bytes([5; 16]),
        generation: 1,
        jid: JobId::mint(LogicalTime::from_unix_micros(1_700_000_000_000_000), 1),
        master: MasterId(1),
        function: "cmd.run".into(),
        arguments: vec![Value::String("true".into())],
        keywords: Map::new(),
        target: Target::glob("*"),
        targets: RoaringBitmap::from_iter([1]),
        user: "root".into(),
        opened: LogicalTime::ZERO,
        ttl_ms: 60_000,
    };
    let genuine = Signed::new(&job, &identity(2));
    let packed = serde_json::to_string(&genuine).expect("json");
    // The bytes of "true" in the signed body become those of "kill".
    let bent = packed.replace("116,114,117,101", "107,105,108,108");
    assert_ne!(bent, packed);
    let bent: Signed<Job> = serde_json::from_str(&bent).expect("json");
    assert_eq!(bent.peek().expect("it decodes").arguments, [Value::String("kill".into())]);
    // A master that publishes what another one accepted cannot change it, nor can it sign in the other's name.
    let mut publisher = FrameSealer::new(key(1, 1), identity(2));
    for offered in [bent, Signed::new(&job, &identity(3)), genuine] {
        wire.publish(publisher.seal(&Broadcast::Job(Offer { job: offered, remaining_ms: 5 })).expect("short"));
    }
    let mut verified = Vec::new();
    for _ in 0..3 {
        let Broadcast::Job(offer) = heard(&mut minion).await else { panic!("a job was published") };
        verified.push(offer.job.verify(&identity(2).public_key()).is_ok());
    }
    assert_eq!(verified, [false, false, true]);
}

fn master_credentials(ca: u8, cluster: u8, generation: u64) -> MasterCredentials {
    let certificate = Certificate {
        cluster: ClusterId::from_bytes([cluster; 16]),
        master: MasterId(1),
        name: "m1".into(),
        public_key: identity(2).public_key(),
        generation,
    };
    let certificate = Signed::new(&certificate, &identity(ca));
    MasterCredentials { certificate, ca: identity(ca).public_key(), identity: identity(2) }
}

fn minion_credentials(name: &str, seed: u8) -> MinionCredentials {
    let ca = identity(1).public_key().fingerprint();
    let expectation = Expectation { ca, cluster: Some(ClusterId::from_bytes([5; 16])), generation_min: 3 };
    MinionCredentials { identity: identity(seed), minion: MinionId::new(name).expect("valid"), expectation }
}

/// What somebody on the road does to the messages from minion to master that come after the handshake's two.
type OnTheRoad = fn(&mut Vec<Bytes>);

/// A link whose messages pass somebody: those after the second go up only when three of them are there.
fn tapped(minion: Link, master: Link, meddle: OnTheRoad) {
    let (mut from_minion, mut to_minion) = (minion.receiver, minion.sender);
    let (mut from_master, mut to_master) = (master.receiver, master.sender);
    tokio::spawn(async move {
        let (mut passed, mut held) = (0, Vec::new());
        while let Ok(message) = from_minion.recv().await {
            held.push(message);
            passed += 1;
            if passed > 2 && held.len() < 3 {
                continue;
            }
            if passed > 2 {
                meddle(&mut held);
            }
            for message in held.drain(..) {
                if to_master.send(message).await.is_err() {
                    return;
                }
            }
        }
    });
    tokio::spawn(async move {
        while let Ok(message) = from_master.recv().await {
            if to_minion.send(message).await.is_err() {
                return;
            }
        }
    });
}

#[tokio::test]
async fn messages_of_a_session_that_are_repeated_moved_or_changed_end_it_and_are_counted() {
    let refusals = Refusals::default();
    let cases: [(&str, OnTheRoad, u64); 4] = [
        ("untouched", |_| {}, 3),
        ("repeated", |held| held.insert(1, held[0].clone()), 1),
        ("moved", |held| held.swap(1, 2), 1),
        (
            "changed",
            |held| {
                let mut bent = held[2].to_vec();
                bent[3] ^= 1;
                held[2] = bent.into();
            },
            2,
        ),
    ];
    for (case, meddle, passes) in cases {
        let transport = MemoryNetwork::new().host("127.0.0.1");
        let mut near = transport.listen(&anywhere()).await.expect("listen");
        let mut far = transport.listen(&anywhere()).await.expect("listen");
        let (minion, road_near) = connected(&transport, &mut *near).await;
        let (road_far, master) = connected(&transport, &mut *far).await;
        tapped(road_near, road_far, meddle);
        let (minion_side, master_side) = (minion_credentials("web-1", 3), master_credentials(1, 5, 3));
        let (session, served) = soon(case, async {
            tokio::join!(
                Session::open(minion, &minion_side, &SystemEntropy, TIMEOUT),
                ServedSession::accept(master, &master_side, &SystemEntropy, TIMEOUT)
            )
        })
        .await;
        let (mut session, mut served) = (session.expect(case), served.expect(case));
        for sequence in 0..3 {
            session.sender.send(&ToMaster::Ping { sequence }).await.expect(case);
        }
        for sequence in 0..passes {
            let message = soon(case, served.receiver.recv()).await.expect(case);
            assert_eq!(message, ToMaster::Ping { sequence }, "{case}");
        }
        if passes < 3 {
            let error = soon(case, served.receiver.recv()).await.expect_err(case);
            assert!(matches!(error, SessionError::Cipher { .. }), "{case}: {error}");
            refusals.note(&error);
        }
        // The other direction is the minion's, and was not touched.
        served.sender.send(&ToMinion::Pong { sequence: 7, quorum: true }).await.expect(case);
        assert!(soon(case, session.receiver.recv()).await.is_ok(), "{case}");
    }
    assert_eq!(refusals.snapshot(), [("message_tampered", 3)]);
}

#[tokio::test]
async fn masters_that_are_none_are_refused_by_their_reason() {
    let refusals = Refusals::default();
    let thief = MasterCredentials { identity: identity(66), ..master_credentials(1, 5, 3) };
    let self_made = MasterCredentials { ca: identity(1).public_key(), ..master_credentials(9, 5, 3) };
    for (case, master) in [
        ("another cluster's CA", master_credentials(9, 5, 3)),
        ("a certificate that the CA did not sign", self_made),
        ("another cluster under the same CA", master_credentials(1, 6, 3)),
        ("one that was fenced off", master_credentials(1, 5, 2)),
        ("a stolen certificate", thief),
    ] {
        let transport = MemoryNetwork::new().host("127.0.0.1");
        let mut listener = transport.listen(&anywhere()).await.expect("listen");
        let (ours, theirs) = connected(&transport, &mut *listener).await;
        let minion = minion_credentials("web-1", 3);
        let (session, served) = soon(case, async {
            tokio::join!(
                Session::open(ours, &minion, &SystemEntropy, TIMEOUT),
                ServedSession::accept(theirs, &master, &SystemEntropy, Duration::from_millis(200))
            )
        })
        .await;
        refusals.note(&session.err().expect(case));
        assert!(served.is_err(), "{case}: it learnt the minion's name");
    }
    let each = ["forged", "not_certified", "old_generation", "wrong_ca", "wrong_cluster"].map(|reason| (reason, 1));
    assert_eq!(refusals.snapshot(), each);
}

#[tokio::test]
async fn a_session_under_anothers_name_shows_the_key_that_it_proved() {
    let transport = MemoryNetwork::new().host("127.0.0.1");
    let mut listener = transport.listen(&anywhere()).await.expect("listen");
    let (ours, theirs) = connected(&transport, &mut *listener).await;
    let (mallory, master) = (minion_credentials("web-1", 66), master_credentials(1, 5, 3));
    let (session, served) = tokio::join!(
        Session::open(ours, &mallory, &SystemEntropy, TIMEOUT),
        ServedSession::accept(theirs, &master, &SystemEntropy, TIMEOUT)
    );
    let (_session, served) = (session.expect("a stranger may speak"), served.expect("and is heard"));
    // The claim is web-1, the key is mallory's: the truth knows web-1 by another key, and no message repeats the name.
    assert_eq!((served.minion.as_str(), served.public_key), ("web-1", identity(66).public_key()));
    assert_ne!(served.public_key, identity(3).public_key());
}
