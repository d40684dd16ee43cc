//! What strangers may do to the gate's ports: nothing that others would notice.

use crate::support::{anywhere, connected, pattern, quick, soon, until, zmq};
use bytes::Bytes;
use saltern_pubsub::zmq::{GateCounters, GateLimits, ZmqTransport};
use saltern_wire::io::{Address, Capability, Fanout, Link, LinkReceiver, Listener, Transport};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A master's two ports with a minion on each, who must not notice anything.
pub struct Master {
    pub transport: ZmqTransport,
    pub listener: Box<dyn Listener>,
    pub fanout: Arc<dyn Fanout>,
    pub session: (Link, Link),
    pub subscription: Box<dyn LinkReceiver>,
    pub counters: Arc<GateCounters>,
}

impl Master {
    pub async fn start(limits: GateLimits) -> Self {
        let transport = zmq(limits);
        let mut listener = transport.listen(&anywhere()).await.expect("listen");
        let fanout = transport.fanout(&anywhere()).await.expect("fanout");
        let session = connected(&transport, &mut *listener).await;
        let capability = Capability([200; 16]);
        fanout.admit(capability);
        let subscription = soon("subscribe", transport.subscribe(&fanout.address(), capability)).await;
        let subscription = subscription.expect("subscribe");
        let counters = transport.counters();
        Self { transport, listener, fanout, session, subscription, counters }
    }

    pub fn ports(&self) -> [Address; 2] {
        [self.listener.address(), self.fanout.address()]
    }

    /// The old minion and a new one are served as if nothing had happened.
    pub async fn still_serves(&mut self) {
        let (minion, master) = &mut self.session;
        minion.sender.send(pattern(1, 1000)).await.expect("send");
        assert_eq!(soon("up", master.receiver.recv()).await.expect("recv"), pattern(1, 1000));
        master.sender.send(pattern(2, 1000)).await.expect("send");
        assert_eq!(soon("down", minion.receiver.recv()).await.expect("recv"), pattern(2, 1000));
        let (mut minion, mut master) = connected(&self.transport, &mut *self.listener).await;
        minion.sender.send(pattern(3, 1000)).await.expect("send");
        assert_eq!(soon("new", master.receiver.recv()).await.expect("recv"), pattern(3, 1000));
        self.fanout.publish(Bytes::from_static(b"still here"));
        assert_eq!(soon("fan-out", self.subscription.recv()).await.expect("recv"), "still here");
    }
}

pub fn greeting() -> Vec<u8> {
    let mut bytes = vec![0; 64];
    (bytes[0], bytes[9], bytes[10]) = (0xff, 0x7f, 3);
    bytes[12..16].copy_from_slice(b"NULL");
    bytes
}

/// A READY command with these properties.
pub fn ready(properties: &[(&str, &[u8])]) -> Vec<u8> {
    let mut body = b"\x05READY".to_vec();
    for (name, value) in properties {
        body.push(u8::try_from(name.len()).expect("short"));
        body.extend_from_slice(name.as_bytes());
        body.extend_from_slice(&u32::try_from(value.len()).expect("short").to_be_bytes());
        body.extend_from_slice(value);
    }
    let mut frame = vec![4, u8::try_from(body.len()).expect("short")];
    frame.append(&mut body);
    frame
}

/// A long frame's header that announces `len` bytes.
pub fn announce(len: u64) -> Vec<u8> {
    let mut bytes = vec![2];
    bytes.extend_from_slice(&len.to_be_bytes());
    bytes
}

/// Sends `bytes` and waits until the gate closes the connection.
pub async fn attack(address: &Address, bytes: &[u8]) {
    let mut stream = TcpStream::connect((address.host(), address.port())).await.expect("connect");
    // The gate may have closed it before the last byte.
    let _ = stream.write_all(bytes).await;
    soon("the gate closes it", async {
        let mut heard = [0; 4096];
        while let Ok(1..) = stream.read(&mut heard).await {}
    })
    .await;
}

pub fn count(counter: &AtomicU64) -> u64 {
    counter.load(Relaxed)
}

#[tokio::test]
async fn seventy_three_bytes_do_no_harm() {
    let mut master = Master::start(quick()).await;
    for address in master.ports() {
        for shift in [20, 35, 40, 62, 63] {
            let mut bytes = greeting();
            bytes.extend_from_slice(&announce(1 << shift));
            assert_eq!(bytes.len(), 73);
            attack(&address, &bytes).await;
        }
    }
    assert_eq!(count(&master.counters.oversized), 10);
    master.still_serves().await;
}

#[tokio::test]
async fn what_is_too_large_or_does_not_belong_after_the_handshake_is_cut() {
    let mut master = Master::start(quick()).await;
    let [session, fanout] = master.ports();
    let dealer = [greeting(), ready(&[("Socket-Type", b"DEALER"), ("Identity", b"")])].concat();
    let subscriber = [greeting(), ready(&[("Socket-Type", b"SUB")])].concat();
    for after in [announce(65_536), announce(1 << 40)] {
        attack(&session, &[dealer.clone(), after.clone()].concat()).await;
        attack(&fanout, &[subscriber.clone(), after].concat()).await;
    }
    until("oversized", || count(&master.counters.oversized) == 4).await;
    for after in [b"\x04\x05\x04PING".as_slice(), b"\x01\x00\x00\x00", b"\x80\x00", b"\x04\x06\x05ERROR"] {
        attack(&session, &[dealer.as_slice(), after].concat()).await;
    }
    until("bad frames", || count(&master.counters.bad_frame) == 4).await;
    master.still_serves().await;
}

#[tokio::test]
async fn a_peer_identity_and_a_wrong_socket_are_refused() {
    let mut master = Master::start(quick()).await;
    let [session, fanout] = master.ports();
    let named =
        |kind: &[u8]| [greeting(), ready(&[("Identity", b"\x01\0\0\0\0\0\0\0\0"), ("Socket-Type", kind)])].concat();
    attack(&session, &named(b"DEALER")).await;
    attack(&fanout, &named(b"SUB")).await;
    until("identities", || count(&master.counters.bad_identity) == 2).await;
    attack(&session, &[greeting(), ready(&[("Socket-Type", b"SUB")])].concat()).await;
    attack(&fanout, &[greeting(), ready(&[("Socket-Type", b"XSUB")])].concat()).await;
    attack(&session, &[greeting(), ready(&[])].concat()).await;
    attack(&fanout, &[greeting(), b"\x04\x05\x04PING".to_vec()].concat()).await;
    until("sockets", || count(&master.counters.bad_frame) == 4).await;
    master.still_serves().await;
}

#[tokio::test]
async fn rubbish_before_and_after_the_greeting_is_cut() {
    let mut master = Master::start(quick()).await;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut rubbish = |len: usize| -> Vec<u8> {
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            u8::try_from(state >> 56).expect("a byte")
        };
        (0..len).map(|_| next()).collect()
    };
    let mut attacks = 0;
    for address in master.ports() {
        for round in 0..20 {
            // The first byte of a greeting is 255, and the flags of a frame have high bits: neither may come about by chance.
            let mut before = rubbish(200 + round);
            before[0] = 1;
            attack(&address, &before).await;
            let mut after = rubbish(200 + round);
            after[0] |= 0x80;
            attack(&address, &[greeting(), after].concat()).await;
            attacks += 1;
        }
        attack(&address, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n                                                 ").await;
    }
    let counters = &master.counters;
    until("greetings", || count(&counters.bad_greeting) == attacks + 2).await;
    until("frames", || count(&counters.bad_frame) == attacks).await;
    master.still_serves().await;
}

#[tokio::test]
async fn the_silent_and_the_slow_are_cut_in_time() {
    let limits = GateLimits { handshake_timeout: Duration::from_millis(300), ..quick() };
    let mut master = Master::start(limits).await;
    let [session, fanout] = master.ports();
    let subscriber = [greeting(), ready(&[("Socket-Type", b"SUB")])].concat();
    let dealer = greeting();
    for (address, bytes) in [
        (&session, b"".as_slice()),
        (&fanout, b""),
        (&session, &dealer[..63]),
        (&session, &dealer),
        (&fanout, &subscriber),
        (&fanout, &[subscriber.as_slice(), b"\x00\x11\x01"].concat()),
    ] {
        attack(address, bytes).await;
    }
    until("time-outs", || count(&master.counters.timed_out) == 6).await;
    master.still_serves().await;
}

#[tokio::test]
async fn a_subscription_without_a_capability_is_cut() {
    let mut master = Master::start(quick()).await;
    let [_, fanout] = master.ports();
    let subscriber = [greeting(), ready(&[("Socket-Type", b"SUB")])].concat();
    for subscription in [
        b"\x00\x01\x01".as_slice(),
        b"\x00\x11\x01abcdefghijklmnop",
        b"\x00\x11\x00abcdefghijklmnop",
        b"\x00\x12\x01abcdefghijklmnopq",
    ] {
        attack(&fanout, &[subscriber.as_slice(), subscription].concat()).await;
    }
    until("capabilities", || count(&master.counters.bad_capability) == 4).await;
    master.still_serves().await;
}

#[tokio::test]
async fn a_subscriber_that_speaks_after_its_welcome_is_cut() {
    let mut master = Master::start(quick()).await;
    let [_, fanout] = master.ports();
    let capability = Capability([7; 16]);
    master.fanout.admit(capability);
    let mut hello = [greeting(), ready(&[("Socket-Type", b"SUB")])].concat();
    hello.extend_from_slice(b"\x00\x11\x01");
    hello.extend_from_slice(&capability.0);
    let mut stream = TcpStream::connect((fanout.host(), fanout.port())).await.expect("connect");
    stream.write_all(&hello).await.expect("write");
    until("it is in", || master.fanout.subscribers() == 2).await;
    stream.write_all(b"\x00\x01\x01").await.expect("write");
    until("it is out", || master.fanout.subscribers() == 1).await;
    assert_eq!(count(&master.counters.bad_frame), 1);
    master.still_serves().await;
}

#[tokio::test]
async fn too_many_are_refused_at_the_door_and_the_rest_are_served() {
    let limits = GateLimits { unproven_max: 8, ..quick() };
    let mut master = Master::start(limits).await;
    let [session, _] = master.ports();
    // The minion that is there has proved itself by the second message that it was sent.
    let (_, served) = &mut master.session;
    for number in 0..2 {
        served.sender.send(pattern(number, 10)).await.expect("send");
    }
    for number in 0..2 {
        let received = soon("proof", master.session.0.receiver.recv()).await;
        assert_eq!(received.expect("recv"), pattern(number, 10));
    }
    let mut crowd = Vec::new();
    for _ in 0..20 {
        crowd.push(TcpStream::connect((session.host(), session.port())).await.expect("connect"));
    }
    until("the crowd is refused", || count(&master.counters.refused_unproven) == 12).await;
    drop(crowd);
    until("the crowd is gone", || count(&master.counters.closed) >= 8).await;
    master.still_serves().await;
}
