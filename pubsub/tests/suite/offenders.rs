//! Who did what: the gate counts offences by address, on both ports and on the minion's side as well.

use crate::attacks::{Master, announce, attack, count, greeting, ready};
use crate::support::{quick, soon, until, zmq};
use saltern_pubsub::zmq::{GateLimits, Offence};
use saltern_wire::io::{Address, Capability, Transport, TransportError};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// Connects from another address of this machine.
async fn connect_from(last: u8, to: &Address) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("socket");
    socket.bind((Ipv4Addr::new(127, 0, 0, last), 0).into()).expect("127/8 is all ours");
    let to = format!("{}:{}", to.host(), to.port()).parse().expect("an address");
    soon("connect", socket.connect(to)).await.expect("connect")
}

#[tokio::test]
async fn offenders_are_named_with_address_port_and_reason() {
    let mut master = Master::start(quick()).await;
    let [session, fanout] = master.ports();
    for (address, times) in [(&session, 3), (&fanout, 1)] {
        for _ in 0..times {
            attack(address, &[greeting(), announce(1 << 40)].concat()).await;
        }
    }
    let mut far = connect_from(77, &session).await;
    far.write_all(&[0; 64]).await.expect("write");
    until("all are counted", || count(&master.counters.bad_greeting) == 1 && count(&master.counters.oversized) == 4)
        .await;
    let offence = |last, port, reason, count| Offence {
        address: IpAddr::V4(Ipv4Addr::new(127, 0, 0, last)),
        port,
        reason,
        count,
    };
    let offences = master.transport.offences();
    let top = offences.top();
    assert_eq!(top[0], offence(1, session.port(), "oversized", 3));
    assert!(top.contains(&offence(1, fanout.port(), "oversized", 1)), "{top:?}");
    assert!(top.contains(&offence(77, session.port(), "bad_greeting", 1)), "{top:?}");
    assert_eq!(offences.take().offences, top, "all of them are news");
    assert_eq!(offences.take().offences, [], "once");
    master.still_serves().await;
}

#[tokio::test]
async fn one_address_does_not_take_what_others_need() {
    let limits = GateLimits {
        connections_per_address_max: 30,
        arrivals_per_address_burst: 60,
        arrivals_per_address_per_second: 1,
        ..quick()
    };
    let mut master = Master::start(limits).await;
    for address in master.ports() {
        let mut crowd = Vec::new();
        for _ in 0..80 {
            crowd.push(connect_from(66, &address).await);
        }
    }
    let counters = master.counters.clone();
    until("what is too many is refused", || count(&counters.refused_address) > 0 && count(&counters.refused_rate) > 0)
        .await;
    let offences = master.transport.offences().top();
    let named = |reason| {
        offences.iter().any(|offence| offence.reason == reason && offence.address == IpAddr::from([127, 0, 0, 66]))
    };
    assert!(named("refused_address") && named("refused_rate"), "{offences:?}");
    master.still_serves().await;
}

#[tokio::test]
async fn a_crowd_that_proves_nothing_gives_way() {
    let limits = GateLimits { unproven_max: 8, handshake_timeout: Duration::from_secs(15), ..quick() };
    let mut master = Master::start(limits).await;
    let [session, fanout] = master.ports();
    let mut crowd = Vec::new();
    for address in [&session, &fanout] {
        for _ in 0..30 {
            crowd.push(connect_from(66, address).await);
        }
    }
    until("the crowd is inside", || count(&master.counters.accepted) >= 60).await;
    // Well before the handshakes of the crowd time out.
    master.still_serves().await;
    let capability = Capability([9; 16]);
    master.fanout.admit(capability);
    soon("subscribe", master.transport.subscribe(&fanout, capability)).await.expect("a place");
    assert_eq!(count(&master.counters.timed_out), 0);
    drop(crowd);
}

/// A port that does this to whoever connects, for ever.
async fn impostor(speech: Vec<Vec<u8>>, pause: Duration) -> Address {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = Address::new("127.0.0.1", listener.local_addr().expect("address").port());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let speech = speech.clone();
            tokio::spawn(async move {
                for bytes in speech.iter() {
                    if stream.write_all(bytes).await.is_err() {
                        return;
                    }
                    tokio::time::sleep(pause).await;
                }
                let mut heard = [0; 4096];
                while let Ok(1..) = stream.read(&mut heard).await {}
            });
        }
    });
    address
}

#[tokio::test]
async fn a_minion_is_not_hurt_by_what_is_no_master() {
    let router = [greeting(), ready(&[("Socket-Type", b"ROUTER")])].concat();
    let publisher = [greeting(), ready(&[("Socket-Type", b"PUB")])].concat();
    let named = [greeting(), ready(&[("Socket-Type", b"ROUTER"), ("Identity", b"x")])].concat();
    let huge = |hello: &[u8]| [hello, &announce(1 << 40)].concat();
    let long_ready = [greeting(), vec![6], (1_u64 << 35).to_be_bytes().to_vec()].concat();
    let slow: Vec<_> = greeting().iter().map(|byte| vec![*byte]).collect();
    let endless: Vec<_> = (0..2000).map(|_| vec![0xff; 65_536]).collect();
    let cases: [(&str, Vec<Vec<u8>>, &str); 8] = [
        ("silence", vec![], "timed_out"),
        ("one byte at a time", slow, "timed_out"),
        ("rubbish without end", endless, "bad_greeting"),
        ("half a greeting", vec![greeting()[..40].to_vec()], "timed_out"),
        ("no more than a greeting", vec![greeting()], "timed_out"),
        ("a READY of 32 GiB", vec![long_ready], "oversized"),
        ("a name for itself", vec![named], "bad_identity"),
        ("another socket", vec![[greeting(), ready(&[("Socket-Type", b"REP")])].concat()], "bad_frame"),
    ];
    let transport = zmq(GateLimits { handshake_timeout: Duration::from_millis(400), ..quick() });
    for (what, speech, reason) in cases {
        let address = impostor(speech, Duration::from_millis(100)).await;
        let dialled = soon(what, transport.dial(&address)).await;
        let subscribed = soon(what, transport.subscribe(&address, Capability([1; 16]))).await;
        assert!(dialled.is_err() && subscribed.is_err(), "{what}");
        let noted = transport.offences().top().into_iter().find(|offence| offence.port == address.port());
        let noted = noted.map(|offence| (offence.reason, offence.count));
        assert_eq!(noted, Some((reason, 2)), "{what}");
    }
    // After the handshake: whoever dialled learns that it is over, and nothing grows.
    for (what, after) in [
        ("a frame of a terabyte", huge(&router)),
        ("a message of two frames", [&router[..], b"\x01\x00\x00\x00"].concat()),
        ("flags that mean nothing", [&router[..], b"\x80\x00"].concat()),
    ] {
        let address = impostor(vec![after], Duration::ZERO).await;
        match soon(what, transport.dial(&address)).await {
            Ok(mut link) => {
                let ended = soon(what, link.receiver.recv()).await;
                assert!(matches!(ended, Err(TransportError::Closed { .. })), "{what}: {ended:?}");
            }
            Err(error) => assert!(matches!(error, TransportError::Closed { .. }), "{what}: {error}"),
        }
        until(what, || transport.offences().top().iter().any(|offence| offence.port == address.port())).await;
    }
    for (what, after) in [
        ("a frame of a terabyte", huge(&publisher)),
        ("no welcome", [&publisher[..], b"\x00\x01x"].concat()),
        ("rubbish for a welcome", [&publisher[..], b"\xff\xff\xff"].concat()),
    ] {
        let address = impostor(vec![after], Duration::ZERO).await;
        assert!(soon(what, transport.subscribe(&address, Capability([1; 16]))).await.is_err(), "{what}");
        assert!(transport.offences().top().iter().any(|offence| offence.port == address.port()), "{what}");
    }
}
