//! File descriptors are given back, and a lack of them is survived. A process of its own, because it counts its own.

use saltern_pubsub::zmq::{GateLimits, ZmqTransport};
use saltern_wire::io::{Address, Capability, Listener, Transport};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(20), wait).await.is_ok(), "{what}: not within 20 s");
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("proc").count()
}

/// Waits until nothing is being closed any more, and counts.
async fn settled() -> usize {
    let (mut before, mut same) = (descriptors(), 0);
    until("descriptors settle", || {
        let now = descriptors();
        same = if now == before { same + 1 } else { 0 };
        before = now;
        same == 10
    })
    .await;
    before
}

async fn serve_one(transport: &ZmqTransport, listener: &mut dyn Listener) {
    let address = listener.address();
    let (ours, theirs) = tokio::join!(transport.dial(&address), listener.accept());
    let (mut ours, mut theirs) = (ours.expect("dial"), theirs.expect("accept"));
    ours.sender.send("hello".into()).await.expect("send");
    assert_eq!(theirs.receiver.recv().await.expect("recv"), "hello");
}

/// A greeting, and a frame of a terabyte.
async fn attack(address: &Address) {
    let mut bytes = vec![0; 64];
    (bytes[0], bytes[9], bytes[10]) = (0xff, 0x7f, 3);
    bytes[12..16].copy_from_slice(b"NULL");
    bytes.push(2);
    bytes.extend_from_slice(&(1_u64 << 40).to_be_bytes());
    let mut stream = TcpStream::connect((address.host(), address.port())).await.expect("connect");
    stream.write_all(&bytes).await.expect("write");
    let mut heard = [0; 256];
    while let Ok(1..) = stream.read(&mut heard).await {}
}

#[tokio::test]
async fn descriptors_come_back_and_their_lack_is_survived() {
    let limits = GateLimits { handshake_timeout: Duration::from_secs(2), ..GateLimits::default() };
    let transport = ZmqTransport::new(limits).expect("a private folder");
    let anywhere = Address::new("127.0.0.1", 0);
    let mut listener = transport.listen(&anywhere).await.expect("listen");
    let fanout = transport.fanout(&anywhere).await.expect("fanout");
    let mut round = 0;
    let mut before = 0;
    while round < 2 {
        for number in 0..30 {
            serve_one(&transport, &mut *listener).await;
            let capability = Capability([number; 16]);
            fanout.admit(capability);
            drop(transport.subscribe(&fanout.address(), capability).await.expect("subscribe"));
            attack(&listener.address()).await;
            attack(&fanout.address()).await;
        }
        until("subscribers leave", || fanout.subscribers() == 0).await;
        let now = settled().await;
        if round == 1 {
            assert!(now <= before, "{before} descriptors after the first round, {now} after the second");
        }
        (before, round) = (now, round + 1);
    }

    // Room for some connections, and not for all who come: the client's end of each counts as well.
    let was = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let tight = rustix::process::Rlimit { current: Some(before as u64 + 40), ..was };
    let mut crowd = Vec::new();
    // Sockets are made while there is room and connected when there is none.
    for _ in 0..60 {
        let socket = tokio::net::TcpSocket::new_v4().expect("socket");
        crowd.push(socket);
    }
    rustix::process::setrlimit(rustix::process::Resource::Nofile, tight).expect("a lower limit");
    let address = format!("127.0.0.1:{}", listener.address().port()).parse().expect("address");
    let mut connected = Vec::new();
    for socket in crowd {
        connected.push(socket.connect(address).await.expect("the kernel completes it"));
    }
    let counters = transport.counters();
    until("accepting fails", || counters.accept_failed.load(Relaxed) > 0).await;
    assert!(counters.accept_failed.load(Relaxed) < 100, "accepting rests between failures");
    drop(connected);
    rustix::process::setrlimit(rustix::process::Resource::Nofile, was).expect("the old limit");
    serve_one(&transport, &mut *listener).await;
    assert!(settled().await <= before, "the crowd left descriptors behind");
}
