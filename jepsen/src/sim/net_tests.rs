//! The network as masters and minions use it, between two simulated hosts.

use super::*;
use std::future::pending;

const M1: MasterId = MasterId(1);

fn host(master: Option<MasterId>) -> SimTransport {
    SimTransport::new(master, Connections::default())
}

fn at(port: u16) -> Address {
    Address::new("server", port)
}

fn any(port: u16) -> Address {
    Address::new("0.0.0.0", port)
}

/// Runs a server's software and one client's to the client's end.
fn run<S, C>(server: impl Fn() -> S + 'static, client: C)
where
    S: Future<Output = ()> + 'static,
    C: Future<Output = ()> + 'static,
{
    let mut sim = turmoil::Builder::new().rng_seed(7).simulation_duration(Duration::from_secs(60)).build();
    sim.host("server", move || {
        let software = server();
        async move {
            software.await;
            pending().await
        }
    });
    sim.client("client", async move {
        client.await;
        Ok(())
    });
    sim.run().expect("the client comes to its end");
}

#[test]
fn whole_messages_go_both_ways_in_order() {
    let server = || async {
        let mut listener = Transport::listen(&host(None), &any(4506)).await.expect("listens");
        let mut link = listener.accept().await.expect("a link");
        for _ in 0..3 {
            let message = link.receiver.recv().await.expect("a message");
            link.sender.send(message).await.expect("sent");
        }
        assert!(link.receiver.recv().await.is_err(), "the client closed it");
    };
    run(server, async {
        let mut link = Transport::dial(&host(None), &at(4506)).await.expect("a link");
        let large = Bytes::from(vec![7; NOISE_MESSAGE_BYTES_MAX]);
        for message in [Bytes::from_static(b"one"), Bytes::new(), large.clone()] {
            link.sender.send(message.clone()).await.expect("sent");
            assert_eq!(link.receiver.recv().await.expect("an echo"), message);
        }
        assert!(link.sender.send([large, Bytes::from_static(b"1")].concat().into()).await.is_err(), "too long");
    });
}

#[test]
fn masters_prove_who_they_are() {
    let server = || async {
        let mut listener = MeshTransport::listen(&host(Some(M1)), &any(4510)).await.expect("listens");
        let (from, mut link) = listener.accept().await.expect("a link");
        assert_eq!(from, MasterId(2));
        link.sender.send(Bytes::from_static(b"hello")).await.expect("sent");
        pending::<()>().await;
    };
    run(server, async {
        let transport = host(Some(MasterId(2)));
        let mut link = MeshTransport::dial(&transport, M1, &at(4510)).await.expect("a link");
        assert_eq!(link.receiver.recv().await.expect("a message"), "hello");
        let wrong = MeshTransport::dial(&transport, MasterId(3), &at(4510)).await;
        assert!(matches!(wrong.err(), Some(TransportError::Protocol { .. })), "another master answers there");
    });
}

#[test]
fn a_subscriber_hears_everything_until_it_is_revoked() {
    let right = Capability([1; 16]);
    let server = move || async move {
        let fanout = host(None).fanout(&any(4505)).await.expect("listens");
        fanout.admit(right);
        while fanout.subscribers() == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        for number in 0..10 {
            fanout.publish(Bytes::from(vec![number]));
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        fanout.revoke(right);
        assert_eq!(fanout.subscribers(), 0);
        pending::<()>().await;
    };
    run(server, async move {
        let transport = host(None);
        assert!(transport.subscribe(&at(4505), Capability([2; 16])).await.is_err(), "nobody gave that right");
        let mut frames = transport.subscribe(&at(4505), right).await.expect("subscribed");
        assert!(transport.subscribe(&at(4505), right).await.is_err(), "it is good for one connection");
        for number in 0..10 {
            assert_eq!(frames.recv().await.expect("a frame"), vec![number]);
        }
        assert!(frames.recv().await.is_err(), "revoked");
    });
}

#[test]
fn a_subscriber_that_does_not_drain_is_cut_off() {
    let right = Capability([1; 16]);
    let server = move || async move {
        let fanout = host(None).fanout(&any(4505)).await.expect("listens");
        fanout.admit(right);
        while fanout.subscribers() == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        for _ in 0..1_000 {
            fanout.publish(Bytes::from_static(b"frame"));
        }
        assert_eq!(fanout.subscribers(), 0);
        pending::<()>().await;
    };
    run(server, async move {
        let mut frames = host(None).subscribe(&at(4505), right).await.expect("subscribed");
        let mut heard = 0;
        while frames.recv().await.is_ok() {
            heard += 1;
        }
        assert!(heard < 1_000, "{heard}");
    });
}

#[test]
fn whoever_dials_into_a_partition_hears_of_it_in_time() {
    let server = || async {
        let mut listener = Transport::listen(&host(None), &any(4506)).await.expect("listens");
        while listener.accept().await.is_ok() {}
    };
    run(server, async {
        turmoil::partition("client", "server");
        let dialled = Transport::dial(&host(None), &at(4506)).await;
        assert!(matches!(dialled.err(), Some(TransportError::TimedOut { .. })));
        turmoil::repair("client", "server");
        assert!(Transport::dial(&host(None), &at(4506)).await.is_ok());
        assert!(Transport::dial(&host(None), &at(9)).await.is_err(), "nobody listens there");
    });
}

#[test]
fn a_killed_machine_closes_every_connection() {
    let server = || async {
        let mut listener = Transport::listen(&host(None), &any(4506)).await.expect("listens");
        let (mut links, mut closed) = (Vec::new(), Vec::new());
        for _ in 0..20 {
            links.push(listener.accept().await.expect("a link"));
        }
        let mut ends: futures::stream::FuturesUnordered<_> = links
            .iter_mut()
            .enumerate()
            .map(|(at, link)| async move { (at, link.receiver.recv().await.is_err()) })
            .collect();
        while let Some((at, is_closed)) = futures::StreamExt::next(&mut ends).await {
            assert!(is_closed);
            closed.push(at);
        }
        assert_eq!(closed.len(), 20);
    };
    run(server, async {
        let connections = Connections::default();
        let transport = SimTransport::new(None, connections.clone());
        let mut links = Vec::new();
        for _ in 0..20 {
            links.push(Transport::dial(&transport, &at(4506)).await.expect("a link"));
        }
        connections.close_all();
        for link in &mut links {
            assert!(link.receiver.recv().await.is_err(), "its machine is gone");
            assert!(link.sender.send(Bytes::new()).await.is_err(), "its machine is gone");
        }
    });
}
