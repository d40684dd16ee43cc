//! One who opens a thousand connections, one who sends rubbish, one who floods and one who reads nothing: those who behave are
//! answered as before, and each of the four is named.

use crate::attacks::{Master, count, greeting, ready};
use crate::support::{connected, quick, soon, until};
use saltern_pubsub::clock::SystemClock;
use saltern_pubsub::zmq::GateLimits;
use saltern_wire::io::{Address, Clock, Link, Transport};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

/// Questions that are asked and timed.
const ASKED: usize = 400;

/// Below this, what is measured is the machine and not the master: other programs run beside the tests.
const NOISE: Duration = Duration::from_millis(40);

async fn connect_from(last: u8, to: &Address) -> Option<TcpStream> {
    let socket = TcpSocket::new_v4().ok()?;
    socket.bind((Ipv4Addr::new(127, 0, 0, last), 0).into()).ok()?;
    let to = format!("{}:{}", to.host(), to.port()).parse().ok()?;
    tokio::time::timeout(Duration::from_secs(5), socket.connect(to)).await.ok()?.ok()
}

/// Answers every message with itself, as long as there are any.
async fn echo(mut link: Link) {
    while let Ok(message) = link.receiver.recv().await {
        if link.sender.send(message).await.is_err() {
            return;
        }
    }
}

/// Asks again and again; gives what 99 of a hundred answers took at most.
async fn asked(link: &mut Link) -> Duration {
    let clock = SystemClock::new();
    let mut took = Vec::new();
    for _ in 0..ASKED {
        let began = clock.monotonic();
        soon("send", link.sender.send("are you there".into())).await.expect("the link stands");
        soon("answer", link.receiver.recv()).await.expect("the link stands");
        took.push(clock.monotonic().saturating_sub(began));
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    took.sort();
    took[ASKED * 99 / 100]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_behaves_is_answered_while_others_do_their_worst() {
    let limits = GateLimits {
        connections_max: 3000,
        connections_per_address_max: 300,
        arrivals_per_address_burst: 500,
        arrivals_per_address_per_second: 50,
        stall_timeout: Duration::from_secs(2),
        ..quick()
    };
    let mut master = Master::start(limits).await;
    let [session, _] = master.ports();
    let (mut neighbour, served) = connected(&master.transport, &mut *master.listener).await;
    let mut serving = JoinSet::new();
    serving.spawn(echo(served));
    let quiet = asked(&mut neighbour).await;

    // One that reads nothing of what it is sent, and one that sends without end.
    let mut deaf = connect_from(71, &session).await.expect("a place");
    let hello = [greeting(), ready(&[("Socket-Type", b"DEALER")])].concat();
    deaf.write_all(&hello).await.expect("write");
    let served = soon("accept", master.listener.accept()).await.expect("the deaf one");
    let mut mouth = served.sender;
    serving.spawn(async move {
        let _held = served.receiver;
        while mouth.send(vec![7; 60_000].into()).await.is_ok() {}
    });
    let mut flooding = JoinSet::new();
    let (mut flood, served) = connected(&master.transport, &mut *master.listener).await;
    serving.spawn(echo(served));
    flooding.spawn(async move { while flood.sender.send(vec![7; 1000].into()).await.is_ok() {} });
    // One that opens a thousand connections, and one that sends rubbish.
    let to = session.clone();
    flooding.spawn(async move {
        let mut held = Vec::new();
        for _ in 0..1000 {
            held.extend(connect_from(72, &to).await);
        }
        std::future::pending::<()>().await;
    });
    let to = session.clone();
    flooding.spawn(async move {
        loop {
            if let Some(mut stream) = connect_from(73, &to).await {
                let _ = stream.write_all(&[0x55; 300]).await;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    let counters = master.counters.clone();
    until("the offences began", || count(&counters.refused_rate) > 0 && count(&counters.bad_greeting) > 20).await;
    let busy = asked(&mut neighbour).await;
    assert!(busy <= quiet.max(NOISE) * 2, "99 of 100 answers came within {quiet:?} before and {busy:?} during");
    until("the deaf one is cut", || count(&counters.evicted) > 0).await;
    let offences = master.transport.offences().top();
    for (last, reasons) in
        [(71, vec!["evicted"]), (72, vec!["refused_rate", "refused_address"]), (73, vec!["bad_greeting"])]
    {
        let address = IpAddr::from([127, 0, 0, last]);
        let named = offences.iter().any(|offence| offence.address == address && reasons.contains(&offence.reason));
        assert!(named, "{address} for {reasons:?}: {offences:?}");
    }
}

/// Two thousand connections in the same second, each sent away at once: nobody is dropped unheard, nobody waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_at_once_each_hear_a_word() {
    const FLEET: usize = 600;
    let mut master =
        Master::start(GateLimits { connections_max: 3000, connections_per_address_max: 3000, ..quick() }).await;
    let [session, _] = master.ports();
    let transport = master.transport.clone();
    let mut fleet = JoinSet::new();
    for _ in 0..FLEET {
        let (transport, session) = (transport.clone(), session.clone());
        fleet.spawn(async move {
            let mut link = transport.dial(&session).await?;
            link.sender.send("hello".into()).await?;
            link.receiver.recv().await
        });
    }
    let turning_away = async {
        let mut serving = JoinSet::new();
        for _ in 0..FLEET {
            let mut link = master.listener.accept().await.expect("a link");
            serving.spawn(async move {
                link.receiver.recv().await.expect("a first word");
                link.sender.send("later".into()).await.expect("it listens");
            });
        }
        serving.join_all().await;
    };
    let heard = async {
        let mut heard = 0;
        while let Some(answer) = fleet.join_next().await {
            heard += usize::from(answer.expect("no panic").is_ok_and(|answer| answer == "later"));
        }
        heard
    };
    let ((), heard) = soon("all of them", async { tokio::join!(turning_away, heard) }).await;
    assert_eq!(heard, FLEET);
}
