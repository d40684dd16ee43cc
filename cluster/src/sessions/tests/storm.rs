//! A whole fleet that arrives in the same moment: a queue, not a collapse.

use super::*;
use saltern_pubsub::channel::SessionError;
use saltern_wire::slot::Ticket;
use tokio::task::JoinSet;

/// What an operator allows, a second.
const RATE: u32 = 50;

fn credentials(name: &str) -> MinionCredentials {
    let expectation = Expectation { ca: ca().public_key().fingerprint(), cluster: Some(CLUSTER), generation_min: 1 };
    MinionCredentials { identity: key_of(name), minion: id(name), expectation }
}

/// Dials the first master once.
async fn dial(network: &MemoryNetwork, name: &str, ticket: Option<Ticket>) -> Result<Dialled, SessionError> {
    let link = network.host(name).dial(&Address::new("m1", 4506)).await.expect("a master listens");
    Dialled::open_at_slot(link, &credentials(name), ticket, &SystemEntropy, Duration::from_secs(5)).await
}

/// Attaches as a minion does, obeying every slot; says how often it dialled, and when it was granted the fan-out.
async fn come(network: MemoryNetwork, clock: Arc<dyn saltern_wire::io::Clock>, name: String) -> (u32, Duration) {
    let (mut dialled, mut ticket) = (0, None);
    let session = loop {
        dialled += 1;
        match dial(&network, &name, ticket).await {
            Ok(session) => break session,
            Err(SessionError::Slot { slot, .. }) => {
                ticket = slot.ticket;
                tokio::time::sleep(Duration::from_millis(slot.wait_ms.into())).await;
            }
            Err(error) => panic!("{name}: {error}"),
        }
    };
    let mut minion = Minion { session, sequence: 0 };
    let attach = Attach {
        version: "1.0".into(),
        incarnation: 1,
        directory: None,
        facts_digest: [0; 32],
        credit: false,
        role: SessionRole::default(),
        level: 1,
    };
    minion.session.sender.send(&ToMaster::Attach(attach)).await.expect("it listens");
    minion.granted().await;
    (dialled, clock.monotonic())
}

#[tokio::test(start_paused = true)]
async fn a_fleet_that_comes_at_once_gets_slots_and_nobody_a_time_out() {
    let scene = Scene::with(1, Settings { attach_per_second: RATE, ..Settings::default() }).await;
    let master = &scene.masters[0];
    let names: Vec<_> = (0..200).map(|number| format!("web-{number}")).collect();
    for name in &names {
        master.truth.enrol(&id(name), &key_of(name));
    }
    // What an operator allows is looked at ten times a second.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let clock: Arc<dyn saltern_wire::io::Clock> = Arc::new(master.truth.clock());
    let began = clock.monotonic();
    let mut fleet = JoinSet::new();
    for name in names {
        fleet.spawn(come(scene.network.clone(), Arc::clone(&clock), name));
    }
    let mut attached = Vec::new();
    while let Some(minion) = fleet.join_next().await {
        attached.push(minion.expect("no minion failed"));
    }
    assert!(attached.iter().all(|(dialled, _)| *dialled <= 2), "once to ask and once at its slot");
    let took = attached.iter().map(|(_, at)| at.saturating_sub(began)).max().expect("some");
    // 50 at once, then 50 a second.
    assert!((2_900..=3_500).contains(&took.as_millis()), "{took:?}");
    let queue = master.sessions.queue();
    assert_eq!((queue.counts.entered, queue.counts.given), (u64::from(RATE), 200 - u64::from(RATE)));
    assert_eq!((queue.counts.taken, queue.counts.expired), (queue.counts.given, 0), "{queue:?}");
    assert_eq!((queue.waiting, queue.rate as u32), (0, RATE));
}

#[tokio::test(start_paused = true)]
async fn who_takes_slots_for_nothing_is_named_and_keeps_nobody_waiting() {
    let scene = Scene::with(1, Settings { attach_per_second: RATE, ..Settings::default() }).await;
    let master = &scene.masters[0];
    master.truth.enrol(&id("web-1"), &key_of("web-1"));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut notices = master.witness.subscribe();
    // One host that comes again and again, says its first word, and leaves.
    for _ in 0..1_500 {
        let mut link = scene.network.host("rogue").dial(&Address::new("m1", 4506)).await.expect("it listens");
        let mut hello = vec![7; 32];
        hello.push(saltern_wire::crypto::handshake::SESSION_VERSION);
        link.sender.send(hello.into()).await.expect("it listens");
        let _ = link.receiver.recv().await;
        drop(link);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let told = notices.try_recv().expect("somebody is named");
    assert_eq!((told.data["kind"].as_str(), told.data["who"].as_str()), (Some("slots_wasted"), Some("rogue")));
    let (dialled, _) = come(scene.network.clone(), Arc::new(master.truth.clock()), "web-1".into()).await;
    assert_eq!(dialled, 1, "there was room: {:?}", master.sessions.queue());
    assert!(master.sessions.queue().waiting <= 16, "{:?}", master.sessions.queue());
}
