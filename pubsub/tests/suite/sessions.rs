//! Sessions and sealed broadcasts over every transport.

use crate::support::{anywhere, connected, ending, soon, transports};
use bytes::Bytes;
use saltern_pubsub::call::{MinionCredentials, Session};
use saltern_pubsub::channel::SessionError;
use saltern_pubsub::clock::{SystemClock, SystemEntropy};
use saltern_pubsub::publisher::Publisher;
use saltern_pubsub::serve::{Caller, MasterCredentials, ServedSession};
use saltern_pubsub::subscriber::Subscriber;
use saltern_wire::crypto::handshake::{Expectation, HandshakeError};
use saltern_wire::crypto::{Identity, Signed};
use saltern_wire::fanout::{Beacon, Broadcast};
use saltern_wire::io::{Listener, Transport, TransportError};
use saltern_wire::limits::SESSION_MESSAGE_BYTES_MAX;
use saltern_wire::master::Certificate;
use saltern_wire::session::{Call, Grant, ToMaster, ToMinion};
use saltern_wire::slot::{Slot, Ticket};
use saltern_wire::{ClusterId, LogicalTime, Map, MasterId, MinionId, Value};
use std::sync::Arc;
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(10);

fn identity(seed: u8) -> Identity {
    Identity::from_seed([seed; 32])
}

fn cluster() -> ClusterId {
    ClusterId::from_bytes([5; 16])
}

fn master_credentials(ca: &Identity, identity: Identity) -> MasterCredentials {
    let certificate = Certificate {
        cluster: cluster(),
        master: MasterId(1),
        name: "m1".into(),
        public_key: identity.public_key(),
        generation: 1,
    };
    MasterCredentials { certificate: Signed::new(&certificate, ca), ca: ca.public_key(), identity }
}

fn minion_credentials(ca: &Identity) -> MinionCredentials {
    MinionCredentials {
        identity: identity(3),
        minion: MinionId::new("web-1").expect("valid"),
        expectation: Expectation { ca: ca.public_key().fingerprint(), cluster: Some(cluster()), generation_min: 1 },
    }
}

/// Both ends of a handshake over a new link.
async fn meet(
    transport: &dyn Transport,
    listener: &mut dyn Listener,
    minion: &MinionCredentials,
    master: &MasterCredentials,
) -> (Result<Session, SessionError>, Result<ServedSession, SessionError>) {
    let (ours, theirs) = connected(transport, listener).await;
    soon("the handshake", async {
        tokio::join!(
            Session::open(ours, minion, &SystemEntropy, TIMEOUT),
            ServedSession::accept(theirs, master, &SystemEntropy, TIMEOUT)
        )
    })
    .await
}

fn facts(bytes: usize) -> ToMaster {
    let mut facts = Map::new();
    facts.insert("text".into(), Value::String("x".repeat(bytes)));
    ToMaster::Call { sequence: 7, deadline_ms: 1000, call: Call::Facts(facts) }
}

#[tokio::test]
async fn a_session_opens_and_carries_messages_of_every_size_both_ways() {
    let ca = identity(1);
    for (name, transport) in transports() {
        let mut listener = transport.listen(&anywhere()).await.expect(name);
        let master = master_credentials(&ca, identity(2));
        let (minion, served) = meet(&*transport, &mut *listener, &minion_credentials(&ca), &master).await;
        let (minion, served) = (minion.expect(name), served.expect(name));
        assert_eq!((served.minion.as_str(), served.public_key), ("web-1", identity(3).public_key()));
        assert_eq!(minion.certificate.master, MasterId(1));
        let (mut to_master, mut from_master) = (minion.sender, minion.receiver);
        let (mut to_minion, mut from_minion) = (served.sender, served.receiver);
        let sizes = [0, 10, 65_500, 65_600, 200_000, SESSION_MESSAGE_BYTES_MAX - 200];
        let up = async {
            for len in sizes {
                to_master.send(&facts(len)).await.expect(name);
            }
        };
        let down = async {
            for sequence in 0..100 {
                to_minion.send(&ToMinion::Pong { sequence, quorum: true }).await.expect(name);
            }
        };
        let at_master = async {
            for len in sizes {
                assert!(from_minion.recv().await.expect(name) == facts(len), "{name}: {len} bytes");
            }
        };
        let at_minion = async {
            for sequence in 0..100 {
                let expect = ToMinion::Pong { sequence, quorum: true };
                assert_eq!(from_master.recv().await.expect(name), expect, "{name}");
            }
        };
        soon(name, async { tokio::join!(up, down, at_master, at_minion) }).await;
        let large = to_master.send(&facts(SESSION_MESSAGE_BYTES_MAX)).await;
        assert!(matches!(large, Err(SessionError::Large { .. })), "{name}: {large:?}");
        to_master.send(&ToMaster::Ping { sequence: 1 }).await.expect("the session goes on");
        assert_eq!(soon(name, from_minion.recv()).await.expect(name), ToMaster::Ping { sequence: 1 });
        let bye = ToMinion::Bye { reason: "drain".into(), retry_after_ms: 5 };
        to_minion.send(&bye).await.expect(name);
        drop((to_minion, from_minion));
        assert_eq!(soon(name, from_master.recv()).await.expect(name), bye);
        let end = soon(name, from_master.recv()).await;
        assert!(matches!(end, Err(SessionError::Transport(TransportError::Closed { .. }))), "{name}: {end:?}");
    }
}

#[tokio::test]
async fn a_master_that_does_not_prove_itself_gets_no_session_and_no_name() {
    let (ca, other) = (identity(1), identity(9));
    for (name, transport) in transports() {
        let mut listener = transport.listen(&anywhere()).await.expect(name);
        let minion = minion_credentials(&ca);
        let foreign = master_credentials(&other, identity(2));
        let (refused, served) = meet(&*transport, &mut *listener, &minion, &foreign).await;
        let refused = refused.err().expect(name);
        assert!(
            matches!(&refused, SessionError::Handshake { source: HandshakeError::WrongCa { .. }, .. }),
            "{name}: {refused}"
        );
        assert!(served.is_err(), "{name}: the master learnt {:?}", served.map(|served| served.minion).ok());
        let thief = MasterCredentials { identity: identity(66), ..master_credentials(&ca, identity(2)) };
        let (refused, served) = meet(&*transport, &mut *listener, &minion, &thief).await;
        let refused = refused.err().expect(name);
        assert!(
            matches!(&refused, SessionError::Handshake { source: HandshakeError::Forged { role: "master", .. }, .. }),
            "{name}: {refused}"
        );
        assert!(served.is_err(), "{name}");
    }
}

#[tokio::test]
async fn rubbish_silence_and_changed_bytes_end_a_session() {
    let ca = identity(1);
    for (name, transport) in transports() {
        let mut listener = transport.listen(&anywhere()).await.expect(name);
        let master = master_credentials(&ca, identity(2));
        let (mut stranger, link) = connected(&*transport, &mut *listener).await;
        stranger.sender.send(Bytes::from(vec![7; 96])).await.expect(name);
        let refused = soon(name, ServedSession::accept(link, &master, &SystemEntropy, TIMEOUT)).await;
        assert!(matches!(refused, Err(SessionError::Handshake { .. })), "{name}");
        ending(&mut *stranger.receiver).await;

        let (_silent, link) = connected(&*transport, &mut *listener).await;
        let brief = Duration::from_millis(50);
        let refused = soon(name, ServedSession::accept(link, &master, &SystemEntropy, brief)).await.err();
        let timed_out =
            matches!(&refused, Some(SessionError::Transport(TransportError::TimedOut { after_ms: 50, .. })));
        assert!(timed_out, "{name}: {refused:?}");
    }
}

fn beacon(sequence: u64) -> Broadcast {
    Broadcast::Beacon(Beacon {
        cluster: cluster(),
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

#[tokio::test]
async fn broadcasts_are_sealed_rekeyed_and_refused_when_forged() {
    for (name, transport) in transports() {
        let fanout = transport.fanout(&anywhere()).await.expect(name);
        let master = identity(2);
        let mut publisher = Publisher::new(fanout.clone(), MasterId(1), master.clone(), Arc::new(SystemEntropy));
        let grant = Grant { address: publisher.address(), capability: publisher.admit(), key: publisher.key() };
        let clock = Arc::new(SystemClock::new());
        let opened = Subscriber::open(&*transport, &grant, master.public_key(), clock.clone()).await;
        let mut subscriber = opened.expect(name);
        publisher.publish(&beacon(1)).expect(name);
        assert_eq!(soon(name, subscriber.recv()).await.expect(name), beacon(1));

        fanout.publish(Bytes::from_static(b"rubbish"));
        let mut insider = Publisher::new(fanout.clone(), MasterId(1), identity(66), Arc::new(SystemEntropy));
        insider.publish(&beacon(666)).expect(name);
        publisher.publish(&beacon(2)).expect(name);
        assert_eq!(soon(name, subscriber.recv()).await.expect(name), beacon(2));
        let refused = subscriber.refused();
        assert_eq!((refused.malformed, refused.forged, refused.total()), (1, 1, 2), "{name}");

        let key = publisher.rekey();
        publisher.publish(&beacon(3)).expect(name);
        publisher.publish(&beacon(4)).expect(name);
        let early = tokio::time::timeout(Duration::from_millis(200), subscriber.recv()).await;
        assert!(early.is_err(), "{name}: {early:?} opened without its key");
        subscriber.rekey(key);
        assert_eq!(soon(name, subscriber.recv()).await.expect(name), beacon(3));
        assert_eq!(soon(name, subscriber.recv()).await.expect(name), beacon(4));
        assert_eq!(subscriber.refused().total(), 2, "{name}: frames that waited are not refused");

        publisher.revoke(grant.capability);
        let end = soon(name, subscriber.recv()).await;
        assert!(matches!(end, Err(TransportError::Closed { .. })), "{name}: {end:?}");
    }
}

#[tokio::test]
async fn a_minion_that_is_sent_away_with_a_slot_comes_back_with_its_ticket() {
    let ca = identity(1);
    let ticket = Ticket { number: 9, secret: [4; 16] };
    for (name, transport) in transports() {
        let mut listener = transport.listen(&anywhere()).await.expect(name);
        let (master, minion) = (master_credentials(&ca, identity(2)), minion_credentials(&ca));
        let (link, served) = connected(&*transport, &mut *listener).await;
        let slot = Slot { wait_ms: 120, ticket: Some(ticket) };
        let turning_away = async {
            let caller = Caller::listen(served, TIMEOUT).await.expect(name);
            assert_eq!(caller.ticket(), None, "{name}");
            caller.turn_away(slot, TIMEOUT).await.expect(name);
        };
        let asking = Session::open(link, &minion, &SystemEntropy, TIMEOUT);
        let (asked, ()) = soon(name, async { tokio::join!(asking, turning_away) }).await;
        let Some(SessionError::Slot { slot: given, .. }) = asked.err() else { panic!("{name}: no slot") };
        assert_eq!(given, slot, "{name}");

        let (link, served) = connected(&*transport, &mut *listener).await;
        let serving = async {
            let caller = Caller::listen(served, TIMEOUT).await.expect(name);
            assert_eq!(caller.ticket(), Some(ticket), "{name}");
            caller.serve(&master, &SystemEntropy, &SystemClock::new(), TIMEOUT).await.expect(name)
        };
        let asking = Session::open_at_slot(link, &minion, given.ticket, &SystemEntropy, TIMEOUT);
        let (mut session, served) = soon(name, async { tokio::join!(asking, serving) }).await;
        let session = session.as_mut().expect(name);
        assert_eq!(served.minion, minion.minion, "{name}");
        session.sender.send(&ToMaster::Ping { sequence: 1 }).await.expect(name);
        let mut receiver = served.receiver;
        assert_eq!(soon(name, receiver.recv()).await.expect(name), ToMaster::Ping { sequence: 1 });
    }
}
