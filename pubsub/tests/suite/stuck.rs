//! Peers that take nothing, hold on to nothing, or will not end: each is cut in time, and nobody else notices.

use crate::attacks::{Master, announce, attack, count, greeting, ready};
use crate::support::{connected, pattern, quick, soon, until};
use bytes::Bytes;
use saltern_pubsub::zmq::GateLimits;
use saltern_wire::io::{Address, Capability, TransportError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

/// A stranger's connection that reads next to nothing: its receive buffer is as small as there is.
async fn hard_of_hearing(to: &Address) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("socket");
    socket.set_recv_buffer_size(1).expect("the smallest there is");
    let to = format!("{}:{}", to.host(), to.port()).parse().expect("an address");
    soon("connect", socket.connect(to)).await.expect("connect")
}

#[tokio::test]
async fn a_subscriber_that_takes_nothing_is_cut_however_little_waits_for_it() {
    let limits = GateLimits { stall_timeout: Duration::from_millis(300), ..quick() };
    let mut master = Master::start(limits).await;
    let [_, fanout] = master.ports();
    let capability = Capability([7; 16]);
    master.fanout.admit(capability);
    let mut stream = hard_of_hearing(&fanout).await;
    let hello = [greeting(), ready(&[("Socket-Type", b"SUB")]), b"\x00\x11\x01".to_vec(), capability.0.to_vec()];
    stream.write_all(&hello.concat()).await.expect("write");
    until("it is in", || master.fanout.subscribers() == 2).await;
    // Far less than its queue may hold, and more than the two sockets between keep.
    let mut published = 0;
    while count(&master.counters.evicted) == 0 && published < 100 {
        master.fanout.publish(pattern(published, 16 * 1024));
        assert!(soon("frame", master.subscription.recv()).await.is_ok());
        published += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    until("it is cut", || count(&master.counters.evicted) == 1).await;
    assert_eq!(master.fanout.subscribers(), 1);
    master.still_serves().await;
}

#[tokio::test]
async fn a_minion_that_stops_reading_its_session_is_cut_and_what_waits_is_bounded() {
    let limits = GateLimits { stall_timeout: Duration::from_millis(500), ..quick() };
    let mut master = Master::start(limits).await;
    let [session, _] = master.ports();
    let mut stream = hard_of_hearing(&session).await;
    let hello = [greeting(), ready(&[("Socket-Type", b"DEALER")]), b"\x00\x02hi".to_vec()].concat();
    stream.write_all(&hello).await.expect("write");
    let mut link = soon("accept", master.listener.accept()).await.expect("accept");
    assert_eq!(soon("hello", link.receiver.recv()).await.expect("recv"), "hi");
    let mut sent = 0;
    let ended = soon("it is cut", async {
        loop {
            if let Err(error) = link.sender.send(pattern(sent, 60_000)).await {
                return error;
            }
            sent += 1;
        }
    })
    .await;
    assert!(matches!(ended, TransportError::Closed { .. }), "{ended}");
    assert!(sent < 100, "{sent} messages of 60 kB were taken for somebody who reads none");
    assert_eq!(count(&master.counters.evicted), 1);
    master.still_serves().await;
}

#[tokio::test]
async fn a_stranger_is_not_believed_a_large_frame_before_it_has_proved_itself() {
    let mut master = Master::start(GateLimits { unproven_frame_bytes_max: 4096, ..quick() }).await;
    let [session, _] = master.ports();
    let dealer = [greeting(), ready(&[("Socket-Type", b"DEALER")])].concat();
    attack(&session, &[dealer.clone(), announce(5000), vec![0; 5000]].concat()).await;
    until("it is cut", || count(&master.counters.oversized) == 1).await;
    // Its link may have been there for a moment.
    drop(tokio::time::timeout(Duration::from_millis(200), master.listener.accept()).await);
    // Whoever has had an answer and a second message is believed the largest.
    let (mut minion, mut served) = connected(&master.transport, &mut *master.listener).await;
    for number in 0..2 {
        served.sender.send(pattern(number, 100)).await.expect("send");
        soon("down", minion.receiver.recv()).await.expect("recv");
    }
    minion.sender.send(pattern(5, 65_000)).await.expect("send");
    assert_eq!(soon("up", served.receiver.recv()).await.expect("recv"), pattern(5, 65_000));
    master.still_serves().await;
}

/// A minion with a large return in its outbox sends it as soon as its own part of the handshake is done.
#[tokio::test]
async fn a_large_frame_that_comes_before_the_proof_waits_for_it() {
    let limits = GateLimits { unproven_frame_bytes_max: 4096, handshake_timeout: Duration::from_secs(5), ..quick() };
    let mut master = Master::start(limits).await;
    let (mut minion, mut served) = connected(&master.transport, &mut *master.listener).await;
    for number in 0..4 {
        minion.sender.send(pattern(number, 60_000)).await.expect("send");
    }
    // Long enough for the frames to arrive at a gate that does not know yet whose they are.
    tokio::time::sleep(Duration::from_millis(100)).await;
    for number in 0..2 {
        served.sender.send(pattern(number, 100)).await.expect("send");
        soon("down", minion.receiver.recv()).await.expect("recv");
    }
    for number in 0..4 {
        assert_eq!(soon("up", served.receiver.recv()).await.expect("recv"), pattern(number, 60_000));
    }
    assert_eq!(count(&master.counters.oversized), 0);
    master.still_serves().await;
}

#[tokio::test]
async fn heartbeats_are_answered_and_a_flood_of_them_hurts_nobody() {
    let mut master = Master::start(quick()).await;
    let [session, _] = master.ports();
    let mut stream = TcpStream::connect((session.host(), session.port())).await.expect("connect");
    let dealer = [greeting(), ready(&[("Socket-Type", b"DEALER")])].concat();
    stream.write_all(&[dealer, b"\x04\x0b\x04PING\x00\x64abcd".to_vec()].concat()).await.expect("write");
    let mut heard = Vec::new();
    let pong = b"\x04\x09\x04PONGabcd";
    soon("pong", async {
        while !heard.windows(pong.len()).any(|window| window == pong) {
            assert_ne!(stream.read_buf(&mut heard).await.expect("read"), 0, "it was cut");
        }
    })
    .await;
    let _link = soon("accept", master.listener.accept()).await.expect("accept");
    // Nobody reads the answers from here on.
    let flood = b"\x04\x0b\x04PING\x00\x64abcd".repeat(1000);
    for _ in 0..200 {
        if tokio::time::timeout(Duration::from_millis(200), stream.write_all(&flood)).await.is_err() {
            break;
        }
    }
    master.still_serves().await;
    assert!(count(&master.counters.heartbeats) >= 1);
    drop(stream);
}

#[tokio::test]
async fn a_dead_connections_reset_does_not_reach_the_one_after_it() {
    let mut master = Master::start(quick()).await;
    let [session, _] = master.ports();
    for round in 0..10 {
        let mut old = TcpStream::connect((session.host(), session.port())).await.expect("connect");
        let dealer = [greeting(), ready(&[("Socket-Type", b"DEALER")]), b"\x00\x03old".to_vec()].concat();
        old.write_all(&dealer).await.expect("write");
        let mut stale = soon("accept", master.listener.accept()).await.expect("accept");
        assert_eq!(soon("old", stale.receiver.recv()).await.expect("recv"), "old");
        let (mut minion, mut served) = connected(&master.transport, &mut *master.listener).await;
        old.set_zero_linger().expect("linger");
        drop(old);
        let ended = soon("the old one ends", stale.receiver.recv()).await;
        assert!(matches!(ended, Err(TransportError::Closed { .. })), "{ended:?}");
        minion.sender.send(Bytes::from_static(b"new")).await.expect("send");
        assert_eq!(soon("up", served.receiver.recv()).await.expect("recv"), "new", "round {round}");
        served.sender.send(Bytes::from_static(b"down")).await.expect("send");
        assert_eq!(soon("down", minion.receiver.recv()).await.expect("recv"), "down");
    }
    master.still_serves().await;
}
