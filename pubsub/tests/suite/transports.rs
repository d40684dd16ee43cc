//! One suite over every transport: what a link and a fan-out promise.

use crate::support::{anywhere, connected, ending, pattern, quick, soon, transports, until, zmq};
use bytes::Bytes;
use saltern_pubsub::memory::MemoryNetwork;
use saltern_wire::io::{Address, Capability, Transport, TransportError};
use saltern_wire::limits::{FANOUT_FRAME_BYTES_MAX, HANDSHAKE_TIMEOUT_MS, NOISE_MESSAGE_BYTES_MAX};
use std::time::Duration;

#[tokio::test]
async fn messages_arrive_in_order_both_ways_whatever_their_size() {
    for (name, transport) in transports() {
        let mut listener = transport.listen(&anywhere()).await.expect(name);
        let (mut minion, mut master) = connected(&*transport, &mut *listener).await;
        let sizes = [0, 1, 255, 256, 4096, NOISE_MESSAGE_BYTES_MAX, 7, NOISE_MESSAGE_BYTES_MAX, 0];
        let send_all = async {
            for round in 0..20 {
                for (at, len) in sizes.into_iter().enumerate() {
                    minion.sender.send(pattern(round + at, len)).await.expect(name);
                }
            }
        };
        let echo_all = async {
            for _ in 0..20 * sizes.len() {
                let message = master.receiver.recv().await.expect(name);
                master.sender.send(message).await.expect(name);
            }
        };
        let check_all = async {
            for round in 0..20 {
                for (at, len) in sizes.into_iter().enumerate() {
                    let message = minion.receiver.recv().await.expect(name);
                    assert!(message == pattern(round + at, len), "{name}: round {round}, {len} bytes");
                }
            }
        };
        soon(name, async { tokio::join!(send_all, echo_all, check_all) }).await;
        let large = minion.sender.send(Bytes::from(vec![0; NOISE_MESSAGE_BYTES_MAX + 1])).await;
        assert!(matches!(large, Err(TransportError::Protocol { .. })), "{name}: {large:?}");
    }
}

#[tokio::test]
async fn the_master_may_speak_first() {
    for (name, transport) in transports() {
        let mut listener = transport.listen(&anywhere()).await.expect(name);
        for round in 0..50 {
            let (mut minion, mut master) = connected(&*transport, &mut *listener).await;
            master.sender.send(pattern(round, 10)).await.expect(name);
            assert_eq!(soon(name, minion.receiver.recv()).await.expect(name), pattern(round, 10));
        }
    }
}

#[tokio::test]
async fn what_was_sent_before_closing_arrives_and_then_the_end() {
    for (name, transport) in transports() {
        let mut listener = transport.listen(&anywhere()).await.expect(name);
        let (mut minion, mut master) = connected(&*transport, &mut *listener).await;
        master.sender.send(Bytes::from_static(b"bye")).await.expect(name);
        drop(master);
        assert_eq!(soon(name, minion.receiver.recv()).await.expect(name), "bye");
        let end = ending(&mut *minion.receiver).await;
        assert!(matches!(end, TransportError::Closed { .. }), "{name}: {end}");
        assert!(minion.receiver.recv().await.is_err(), "{name}: the end is final");
        let refused = soon(name, async {
            loop {
                if let Err(error) = minion.sender.send(Bytes::from_static(b"anyone?")).await {
                    return error;
                }
                tokio::task::yield_now().await;
            }
        });
        assert!(matches!(refused.await, TransportError::Closed { .. }), "{name}");

        let (mut minion, mut master) = connected(&*transport, &mut *listener).await;
        minion.sender.send(Bytes::from_static(b"bye")).await.expect(name);
        drop(minion);
        assert_eq!(soon(name, master.receiver.recv()).await.expect(name), "bye");
        assert!(matches!(ending(&mut *master.receiver).await, TransportError::Closed { .. }), "{name}");
    }
}

#[tokio::test]
async fn one_half_keeps_a_link_open() {
    for (name, transport) in transports() {
        let mut listener = transport.listen(&anywhere()).await.expect(name);
        let (minion, mut master) = connected(&*transport, &mut *listener).await;
        let mut receiver = minion.receiver;
        drop(minion.sender);
        master.sender.send(Bytes::from_static(b"still there")).await.expect(name);
        assert_eq!(soon(name, receiver.recv()).await.expect(name), "still there");
    }
}

#[tokio::test]
async fn a_sender_waits_for_a_receiver_that_does_not_take() {
    for (name, transport) in transports() {
        let mut listener = transport.listen(&anywhere()).await.expect(name);
        let (mut minion, mut master) = connected(&*transport, &mut *listener).await;
        // Far more than both windows and all of the system's buffers.
        let (count, len) = (1000, NOISE_MESSAGE_BYTES_MAX);
        let mut sent = 0;
        let stuck = tokio::time::timeout(Duration::from_millis(500), async {
            while sent < count {
                minion.sender.send(pattern(sent, len)).await.expect(name);
                sent += 1;
            }
        });
        assert!(stuck.await.is_err(), "{name}: {sent} messages were taken by nobody");
        for number in 0..sent {
            assert_eq!(soon(name, master.receiver.recv()).await.expect(name), pattern(number, len), "{name}");
        }
    }
}

#[tokio::test]
async fn two_hundred_sessions_at_once_do_not_mix() {
    for (name, transport) in transports() {
        let mut listener = transport.listen(&anywhere()).await.expect(name);
        let address = listener.address();
        let serving = tokio::spawn(async move {
            while let Ok(mut link) = listener.accept().await {
                tokio::spawn(async move {
                    while let Ok(message) = link.receiver.recv().await {
                        if link.sender.send(message).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        let mut sessions = tokio::task::JoinSet::new();
        for number in 0..200 {
            let (transport, address) = (transport.clone(), address.clone());
            sessions.spawn(async move {
                // On a busy machine two hundred at once may take longer than one of them waits.
                let mut link = loop {
                    match transport.dial(&address).await {
                        Ok(link) => break link,
                        Err(TransportError::TimedOut { .. }) => {}
                        Err(error) => panic!("dial: {error}"),
                    }
                };
                for round in 0..10 {
                    let message = pattern(number * 10 + round, 100 + number);
                    link.sender.send(message.clone()).await.expect("send");
                    assert_eq!(link.receiver.recv().await.expect("recv"), message);
                }
            });
        }
        soon(name, async {
            while let Some(session) = sessions.join_next().await {
                session.expect(name);
            }
        })
        .await;
        serving.abort();
    }
}

#[tokio::test]
async fn nobody_there_is_noticed_at_once_and_a_used_port_is_named() {
    for (name, transport) in transports() {
        let listener = transport.listen(&anywhere()).await.expect(name);
        let address = listener.address();
        assert_ne!(address.port(), 0, "{name}");
        let used = transport.listen(&address).await.err().expect(name);
        assert!(matches!(used, TransportError::Address { .. }), "{name}: {used}");
        let used = transport.fanout(&address).await.err().expect(name);
        assert!(matches!(used, TransportError::Address { .. }), "{name}: {used}");
        drop(listener);
        let refused = transport.dial(&address).await.err().expect(name);
        assert!(matches!(refused, TransportError::Closed { .. }), "{name}: {refused}");
        let refused = transport.subscribe(&address, Capability([1; 16])).await.err().expect(name);
        assert!(matches!(refused, TransportError::Closed { .. }), "{name}: {refused}");
        let again = transport.listen(&address).await;
        assert!(again.is_ok(), "{name}: the port is free again: {:?}", again.err());
        let foreign = transport.listen(&Address::new("192.0.2.1", 0)).await.err().expect(name);
        assert!(matches!(foreign, TransportError::Address { .. }), "{name}: {foreign}");
    }
}

#[tokio::test]
async fn a_fan_out_reaches_every_subscriber_with_every_frame() {
    for (name, transport) in transports() {
        let fanout = transport.fanout(&anywhere()).await.expect(name);
        let address = fanout.address();
        fanout.publish(Bytes::from_static(b"before anyone listens"));
        let mut subscribers = Vec::new();
        for number in 0..30 {
            let capability = Capability([number; 16]);
            fanout.admit(capability);
            subscribers.push(soon(name, transport.subscribe(&address, capability)).await.expect(name));
            // Published while others come: whoever is in gets it.
            fanout.publish(pattern(usize::from(number), 50));
        }
        assert_eq!(fanout.subscribers(), 30, "{name}");
        let sizes = [1, 300, 70_000, FANOUT_FRAME_BYTES_MAX, 5];
        for (at, len) in sizes.into_iter().enumerate() {
            fanout.publish(pattern(at, len));
        }
        for (number, subscriber) in subscribers.iter_mut().enumerate() {
            for earlier in number..30 {
                let frame = soon(name, subscriber.recv()).await.expect(name);
                assert_eq!(frame, pattern(earlier, 50), "{name}: subscriber {number}");
            }
            for (at, len) in sizes.into_iter().enumerate() {
                let frame = soon(name, subscriber.recv()).await.expect(name);
                assert!(frame == pattern(at, len), "{name}: subscriber {number}, {len} bytes");
            }
        }
        drop(subscribers);
        until(name, || fanout.subscribers() == 0).await;
        let capability = Capability([77; 16]);
        fanout.admit(capability);
        let mut last = soon(name, transport.subscribe(&address, capability)).await.expect(name);
        drop(fanout);
        assert!(matches!(ending(&mut *last).await, TransportError::Closed { .. }), "{name}");
        let again = transport.fanout(&address).await;
        assert!(again.is_ok(), "{name}: the port is free again: {:?}", again.err());
    }
}

#[tokio::test]
async fn a_capability_opens_once_and_until_it_is_revoked() {
    for (name, transport) in transports() {
        let fanout = transport.fanout(&anywhere()).await.expect(name);
        let address = fanout.address();
        let (invited, other) = (Capability([1; 16]), Capability([2; 16]));
        let stranger = soon(name, transport.subscribe(&address, invited)).await.err().expect(name);
        assert!(matches!(stranger, TransportError::Closed { .. }), "{name}: {stranger}");
        fanout.admit(invited);
        fanout.admit(other);
        let mut first = soon(name, transport.subscribe(&address, invited)).await.expect(name);
        let mut second = soon(name, transport.subscribe(&address, other)).await.expect(name);
        let twice = soon(name, transport.subscribe(&address, invited)).await.err().expect(name);
        assert!(matches!(twice, TransportError::Closed { .. }), "{name}: {twice}");
        fanout.revoke(invited);
        assert!(matches!(ending(&mut *first).await, TransportError::Closed { .. }), "{name}");
        fanout.publish(Bytes::from_static(b"for the other"));
        assert_eq!(soon(name, second.recv()).await.expect(name), "for the other");
        until(name, || fanout.subscribers() == 1).await;
        let unused = Capability([3; 16]);
        fanout.admit(unused);
        fanout.revoke(unused);
        assert!(soon(name, transport.subscribe(&address, unused)).await.is_err(), "{name}: revoked before use");
    }
}

#[tokio::test]
async fn a_subscriber_that_does_not_drain_is_cut_and_the_others_go_on() {
    for (name, transport) in transports() {
        let fanout = transport.fanout(&anywhere()).await.expect(name);
        let address = fanout.address();
        let (slow, quick) = (Capability([1; 16]), Capability([2; 16]));
        fanout.admit(slow);
        fanout.admit(quick);
        let mut slow = soon(name, transport.subscribe(&address, slow)).await.expect(name);
        let mut quick = soon(name, transport.subscribe(&address, quick)).await.expect(name);
        let len = FANOUT_FRAME_BYTES_MAX / 2;
        let mut published = 0;
        while fanout.subscribers() == 2 {
            assert!(published < 400, "{name}: 100 MB wait for a subscriber that takes nothing");
            fanout.publish(pattern(published, len));
            assert!(soon(name, quick.recv()).await.expect(name) == pattern(published, len), "{name}");
            published += 1;
        }
        let end = ending(&mut *slow).await;
        assert!(matches!(end, TransportError::Closed { .. }), "{name}: {end}");
        fanout.publish(Bytes::from_static(b"go on"));
        assert_eq!(soon(name, quick.recv()).await.expect(name), "go on");
    }
}

#[tokio::test]
async fn a_burst_reaches_many_subscribers_without_a_hole() {
    for (name, transport) in transports() {
        let fanout = transport.fanout(&anywhere()).await.expect(name);
        let address = fanout.address();
        let mut readers = tokio::task::JoinSet::new();
        for number in 0..50 {
            let capability = Capability([number; 16]);
            fanout.admit(capability);
            let mut subscriber = soon(name, transport.subscribe(&address, capability)).await.expect(name);
            readers.spawn(async move {
                for at in 0..2000 {
                    assert_eq!(subscriber.recv().await.expect("frame"), pattern(at, 200));
                }
            });
        }
        for at in 0..2000 {
            fanout.publish(pattern(at, 200));
            if at % 100 == 0 {
                tokio::task::yield_now().await;
            }
        }
        soon(name, async {
            while let Some(reader) = readers.join_next().await {
                reader.expect(name);
            }
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_partition_stalls_and_heals_and_a_dial_into_it_times_out() {
    let network = MemoryNetwork::new();
    let (minion, master) = (network.host("minion"), network.host("m1"));
    let mut listener = master.listen(&Address::new("0.0.0.0", 4506)).await.expect("listen");
    assert_eq!(listener.address(), Address::new("m1", 4506));
    let (mut up, mut down) = connected(&minion, &mut *listener).await;
    network.partition("minion", "m1");
    up.sender.send(Bytes::from_static(b"held up")).await.expect("sent");
    let stalled = tokio::time::timeout(Duration::from_secs(60), down.receiver.recv()).await;
    assert!(stalled.is_err(), "a partition lets nothing through");
    let dialled = minion.dial(&listener.address()).await.err().expect("partitioned");
    assert!(matches!(dialled, TransportError::TimedOut { after_ms: HANDSHAKE_TIMEOUT_MS, .. }), "{dialled}");
    network.heal("m1", "minion");
    assert_eq!(soon("healed", down.receiver.recv()).await.expect("arrived"), "held up");
    network.partition_one_way("m1", "minion");
    up.sender.send(Bytes::from_static(b"one way")).await.expect("sent");
    assert_eq!(soon("open way", down.receiver.recv()).await.expect("arrived"), "one way");
    network.heal_all();
    network.freeze("m1");
    drop(down);
    let silent = tokio::time::timeout(Duration::from_secs(60), up.receiver.recv()).await;
    assert!(silent.is_err(), "a frozen host does not even close its links");
    network.thaw("m1");
    assert!(matches!(ending(&mut *up.receiver).await, TransportError::Closed { .. }));
    let (mut up, mut down) = connected(&minion, &mut *listener).await;
    network.drop_links("m1", "minion");
    ending(&mut *up.receiver).await;
    ending(&mut *down.receiver).await;
    connected(&minion, &mut *listener).await;
}

#[tokio::test]
async fn a_peer_that_accepts_and_never_speaks_is_given_up_in_time() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = Address::new("127.0.0.1", silent.local_addr().expect("address").port());
    let transport = zmq(quick());
    let both = async { tokio::join!(transport.dial(&address), transport.subscribe(&address, Capability([1; 16]))) };
    let (dialled, subscribed) = soon("both give up", both).await;
    let (dialled, subscribed) = (dialled.err(), subscribed.err());
    assert!(matches!(dialled, Some(TransportError::TimedOut { after_ms: 1500, .. })), "{dialled:?}");
    assert!(matches!(subscribed, Some(TransportError::TimedOut { after_ms: 1500, .. })), "{subscribed:?}");
}

#[tokio::test]
async fn names_are_looked_up_and_unknown_ones_named() {
    let transport = zmq(quick());
    let listener = transport.listen(&Address::new("localhost", 0)).await.expect("listen");
    soon("dial by name", transport.dial(&listener.address())).await.expect("localhost is known");
    // A label of 64 characters exists nowhere, which the resolver knows without asking the network.
    let nowhere = Address::new(format!("{}.invalid", "x".repeat(64)), 4506);
    let unknown = soon("dial", transport.dial(&nowhere)).await.err();
    assert!(matches!(&unknown, Some(TransportError::Address { .. })), "{unknown:?}");
}
