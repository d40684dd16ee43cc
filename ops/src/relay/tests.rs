//! What goes through the relay, and when it arrives: over real connections on loopback.

use super::*;
use saltern_wire::io::Clock;
use std::net::Ipv4Addr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// Addresses of a test of its own, so that tests of one machine do not meet.
fn host(test: u8, number: u8) -> IpAddr {
    let [_, _, _, low] = std::process::id().to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(127, 90 + test, low, number))
}

/// A relay before two sites, the second of which listens here.
async fn two_sites(test: u8, distances: Distances, jitter: Jitter) -> (Relay, TcpListener, SocketAddr, IpAddr) {
    let listener = TcpListener::bind((host(test, 2), 0)).await.expect("a free port");
    let listens = listener.local_addr().expect("bound");
    let free = |number| {
        let probe = std::net::TcpListener::bind((host(test, number), 0)).expect("a free port");
        probe.local_addr().expect("bound")
    };
    let relayed = free(102);
    let sites = vec![
        Site { place: "eu".into(), source: host(test, 1), listens: free(1), relayed: free(101) },
        Site { place: "us".into(), source: host(test, 2), listens, relayed },
    ];
    let relay = Relay::start(sites, distances, jitter).expect("it starts");
    (relay, listener, relayed, host(test, 1))
}

async fn dial(from: IpAddr, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind((from, 0).into()).expect("an address of loopback");
    let stream = socket.connect(to).await.expect("the relay listens");
    stream.set_nodelay(true).expect("a TCP socket");
    stream
}

async fn echo(listener: TcpListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            stream.set_nodelay(true).expect("a TCP socket");
            let (mut read, mut write) = stream.split();
            let _ = tokio::io::copy(&mut read, &mut write).await;
            let _ = write.shutdown().await;
        });
    }
}

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

#[tokio::test]
async fn a_round_trip_takes_what_it_should() {
    let (relay, listener, relayed, from) = two_sites(1, Distances::equal(ms(80)), Jitter::default()).await;
    let echo = tokio::spawn(echo(listener));
    let clock = SystemClock::new();
    let began = clock.monotonic();
    let mut stream = dial(from, relayed).await;
    let mut times = Vec::new();
    for byte in 0..9u8 {
        let sent = clock.monotonic();
        stream.write_all(&[byte]).await.expect("sent");
        assert_eq!(stream.read_u8().await.expect("echoed"), byte);
        times.push(clock.monotonic() - sent);
        if byte == 0 {
            let first = clock.monotonic() - began;
            assert!(first >= ms(160), "the handshake takes a round trip as well: {first:?}");
            times.clear();
        }
    }
    times.sort();
    assert!(times[0] >= ms(80), "never faster than the distance: {times:?}");
    // Half of them: a loaded machine may be late once, not always.
    assert!(times[times.len() / 2] < ms(100), "the distance and little more: {times:?}");
    relay.change(|distances| distances.set("eu", "us", ms(20)));
    let sent = clock.monotonic();
    stream.write_all(&[9]).await.expect("sent");
    assert_eq!(stream.read_u8().await.expect("echoed"), 9);
    let nearer = clock.monotonic() - sent;
    assert!((ms(20)..ms(75)).contains(&nearer), "the places came nearer: {nearer:?}");
    assert_eq!((relay.connections(), relay.strangers(), relay.bytes()), (1, 0, 20));
    echo.abort();
}

#[tokio::test]
async fn a_long_stream_arrives_whole_and_in_order_whatever_the_jitter() {
    let jitter = Jitter { most: ms(15), seed: 11 };
    let (_relay, listener, relayed, from) = two_sites(2, Distances::equal(ms(40)), jitter).await;
    let echo = tokio::spawn(echo(listener));
    let stream = dial(from, relayed).await;
    let (mut read, mut write) = stream.into_split();
    // More than may be on its way at once, so that back-pressure is part of the story.
    let words = BYTES_ON_THE_WAY_MAX as u64 / 8 + 100_000;
    let writer = tokio::spawn(async move {
        for start in (0..words).step_by(4096) {
            let block: Vec<u8> = (start..words.min(start + 4096)).flat_map(u64::to_be_bytes).collect();
            write.write_all(&block).await.expect("sent");
        }
        write.shutdown().await.expect("ended");
    });
    let mut reader = tokio::io::BufReader::with_capacity(1 << 20, &mut read);
    for word in 0..words {
        assert_eq!(reader.read_u64().await.expect("echoed"), word);
    }
    assert_eq!(reader.read(&mut [0]).await.expect("the end arrives"), 0);
    writer.await.expect("all was sent");
    echo.abort();
}

#[tokio::test]
async fn a_sender_waits_when_enough_is_on_its_way() {
    let (relay, listener, relayed, from) = two_sites(3, Distances::equal(ms(20)), Jitter::default()).await;
    let mut stream = dial(from, relayed).await;
    let (_far, _) = listener.accept().await.expect("relayed");
    // Nobody reads at the far end: what the relay and the kernels hold is all that can be sent.
    let block = vec![7u8; 1 << 20];
    let mut sent = 0usize;
    while let Ok(written) = tokio::time::timeout(ms(1500), stream.write(&block)).await {
        sent += written.expect("still open");
        assert!(sent < 8 * BYTES_ON_THE_WAY_MAX, "the relay takes without end");
    }
    let held = usize::try_from(relay.bytes()).expect("fits");
    assert!(held <= BYTES_ON_THE_WAY_MAX + (32 << 20), "held by the relay and the far kernel: {held}");
}

#[tokio::test]
async fn the_end_of_a_connection_arrives_as_late_as_its_bytes() {
    let (_relay, listener, relayed, from) = two_sites(4, Distances::equal(ms(100)), Jitter::default()).await;
    let stream = dial(from, relayed).await;
    let (mut far, _) = listener.accept().await.expect("relayed");
    let clock = SystemClock::new();
    // A connection sets out after its handshake; ended before that, it has its whole way before it.
    let ended = clock.monotonic();
    drop(stream);
    let read = tokio::time::timeout(ms(10_000), far.read(&mut [0])).await.expect("heard of it");
    assert!(matches!(read, Ok(0) | Err(_)), "the end, and nothing else: {read:?}");
    assert!(clock.monotonic() - ended >= ms(49), "half a round trip later");
}

#[tokio::test]
async fn strangers_are_refused_and_a_cut_is_silence() {
    let (relay, listener, relayed, from) = two_sites(5, Distances::equal(ms(10)), Jitter::default()).await;
    let echo = tokio::spawn(echo(listener));
    let mut stranger = dial(host(5, 77), relayed).await;
    assert!(matches!(stranger.read(&mut [0]).await, Ok(0) | Err(_)), "nobody knows how far it is");
    assert_eq!((relay.connections(), relay.strangers()), (0, 1));

    let mut stream = dial(from, relayed).await;
    stream.write_all(&[1]).await.expect("sent");
    assert_eq!(stream.read_u8().await.expect("echoed"), 1);
    relay.change(|distances| distances.cut("eu", "us"));
    stream.write_all(&[2]).await.expect("the kernel takes it");
    assert!(tokio::time::timeout(ms(300), stream.read_u8()).await.is_err(), "nothing gets through");
    relay.change(|distances| distances.join("eu", "us"));
    assert_eq!(stream.read_u8().await.expect("what was on its way arrives"), 2);
    echo.abort();
}

#[tokio::test]
async fn two_sites_at_one_address_are_refused() {
    let site = |number| {
        let address = (host(6, number), 0).into();
        Site { place: format!("p{number}"), source: host(6, 1), listens: address, relayed: address }
    };
    let refused = Relay::start(vec![site(1), site(2)], Distances::default(), Jitter::default()).expect_err("ambiguous");
    assert!(refused.to_string().contains("give each an address of its own"), "{refused}");
}
