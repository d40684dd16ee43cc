//! Everyone is answered once, with its own verdict, and entries keep their bounds, whatever comes in whatever order.

use super::*;
use crate::replica::together::{CLUSTER, Together, master_key};
use saltern_store::command::JobCommand;
use saltern_wire::MinionId;
use saltern_wire::crypto::{Identity, Signed};
use saltern_wire::job::{Job, Outcome, OutcomeKind};
use saltern_wire::limits::RETURNS_PER_ENTRY_MAX;
use saltern_wire::mine::MineStamp;
use saltern_wire::target::Target;
use saltern_wire::{LogicalTime, Map, MasterId, RequestId, Value};

struct Scene {
    master: Together,
    inbox: Inbox,
    witness: Arc<Witness>,
    _stop: tokio_util::sync::DropGuard,
}

fn scene() -> Scene {
    let master = Together::found(1).remove(0);
    let stop = CancellationToken::new();
    let clock: Arc<dyn Clock> = Arc::new(master.clock());
    let witness = Witness::new(Arc::clone(&clock));
    let inbox = Inbox::start(master.replica(), clock, Arc::clone(&witness), &TaskTracker::new(), &stop);
    Scene { master, inbox, witness, _stop: stop.drop_guard() }
}

impl Scene {
    fn enrol(&self, number: u8) -> Ordinal {
        let id = MinionId::new(format!("minion-{number}")).expect("an id");
        self.master.enrol(&id, &Identity::from_seed([100 + number; 32]))
    }

    fn open(&self, number: u64, targets: &[Ordinal]) -> JobId {
        let opened = LogicalTime::from_unix_micros(1_795_392_390_000_000 + number * 100);
        let job = Job {
            cluster: CLUSTER,
            generation: 1,
            jid: JobId::mint(opened, 1),
            master: MasterId(1),
            function: "test.ping".into(),
            arguments: Vec::new(),
            keywords: Map::new(),
            target: Target::glob("*"),
            targets: targets.iter().map(|ordinal| ordinal.0).collect(),
            user: "root".into(),
            opened,
            ttl_ms: 60_000,
        };
        let command = Command::Job(JobCommand::Open { job: Signed::new(&job, &master_key(1)) });
        self.master
            .apply(command, Some(RequestId::from_bytes([u8::try_from(number).expect("few"); 16])))
            .applied
            .expect("opened");
        job.jid
    }

    /// Sizes of the entries that carried returns: items and bytes.
    fn entries(&self) -> Vec<(usize, usize)> {
        let returns = self.master.asked().into_iter().filter_map(|command| match command {
            Command::Job(JobCommand::Record { returns } | JobCommand::Deliver { returns, .. }) => Some(returns),
            Command::Tick
            | Command::Key(_)
            | Command::Minion(_)
            | Command::Job(_)
            | Command::Mine(_)
            | Command::Master(_)
            | Command::Settings(_)
            | Command::Level { .. }
            | Command::Secret(_) => None,
        });
        returns.map(|returns| (returns.len(), returns.iter().map(|(_, part)| part.body.len()).sum())).collect()
    }
}

/// Somebody who waits for as long as it takes.
fn asker(ordinal: Ordinal) -> Asker {
    Asker { ordinal, deadline: Duration::MAX }
}

fn returned(jid: JobId, text: &str) -> Vec<ReturnPart> {
    let value = Value::String(text.into());
    let outcome = Outcome { kind: OutcomeKind::Finished, success: true, retcode: 0, value, duration_ms: 1 };
    ReturnPart::split(jid, &outcome).expect("a small outcome")
}

#[tokio::test(start_paused = true)]
async fn everyone_gets_its_own_verdict_and_entries_keep_their_bounds() {
    let scene = scene();
    let minions: Vec<Ordinal> = (0..8).map(|number| scene.enrol(number)).collect();
    let jobs: Vec<JobId> = (0..40).map(|number| scene.open(number, &minions)).collect();
    // A fixed mixture: most small, some of many parts, and each of them twice.
    let mut asked = Vec::new();
    for (round, jid) in jobs.iter().enumerate() {
        for (at, ordinal) in minions.iter().enumerate() {
            let long = (round * 7 + at * 3) % 20 == 0;
            let text = "x".repeat(if long { 600_000 } else { (round * 131 + at * 977) % 3000 });
            for _ in 0..2 {
                asked.push((*ordinal, returned(*jid, &text)));
            }
        }
    }
    let mut verdicts: std::collections::BTreeMap<(Ordinal, JobId), Vec<Recorded>> = Default::default();
    // So many at a time that the room for all of them lasts.
    for batch in asked.chunks(80) {
        let calls = batch.iter().map(|(ordinal, parts)| scene.inbox.record(asker(*ordinal), parts.clone()));
        for ((ordinal, parts), outcome) in batch.iter().zip(futures::future::join_all(calls).await) {
            let (recorded, revision) = outcome.expect("there is room");
            assert_eq!(recorded.len(), parts.len(), "one verdict a part");
            assert!(revision <= scene.master.replica().revision());
            verdicts.entry((*ordinal, parts[0].jid)).or_default().extend(recorded);
        }
    }
    assert_eq!(verdicts.len(), jobs.len() * minions.len());
    for ((ordinal, jid), recorded) in &verdicts {
        // Entries overtake each other, so the part that completes an answer need not be its last.
        let count = |wanted| recorded.iter().filter(|found| **found == wanted).count();
        assert_eq!(count(Recorded::Committed), 1, "{ordinal} {jid}: {recorded:?}");
        assert_eq!(
            count(Recorded::Conflict) + count(Recorded::Orphan) + count(Recorded::Untargeted),
            0,
            "{recorded:?}"
        );
        assert!(count(Recorded::Duplicate) >= 1, "{ordinal} {jid}: {recorded:?}");
    }
    let entries = scene.entries();
    let total: usize = entries.iter().map(|(items, _)| items).sum();
    assert_eq!(total, asked.iter().map(|(_, parts)| parts.len()).sum::<usize>(), "nothing is proposed twice");
    for (items, bytes) in &entries {
        assert!(
            *items <= RETURNS_PER_ENTRY_MAX && (*items == 1 || *bytes <= RETURN_BATCH_BYTES_MAX),
            "{items} {bytes}"
        );
    }
    assert!(entries.len() * 2 < total, "{} entries for {total} parts are no batches", entries.len());
    for jid in &jobs {
        assert!(scene.master.replica().state().job(jid).expect("readable").expect("held").done.is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_reaches_everyone_in_the_entry_and_the_next_one_works() {
    let scene = scene();
    let ordinal = scene.enrol(1);
    let jid = scene.open(1, &[ordinal]);
    for (how, expect) in [
        (ProposeError::NoQuorum, Refusal::NoQuorum),
        (ProposeError::Unknown, Refusal::Unknown),
        (ProposeError::Busy, Refusal::Busy { retry_after_ms: RETRY_AFTER_MS }),
    ] {
        scene.master.fail(Some(how));
        let calls = (0..20).map(|_| scene.inbox.record(asker(ordinal), returned(jid, "x")));
        for outcome in futures::future::join_all(calls).await {
            assert_eq!(outcome.err(), Some(expect.clone()));
        }
        assert_eq!(scene.inbox.accept(asker(ordinal), vec![jid]).await.err(), Some(expect));
    }
    scene.master.fail(None);
    scene.inbox.accept(asker(ordinal), vec![jid]).await.expect("accepted");
    assert!(scene.master.replica().state().job(&jid).expect("readable").expect("held").accepted.contains(ordinal.0));
    let (recorded, _) = scene.inbox.record(asker(ordinal), returned(jid, "x")).await.expect("recorded");
    assert_eq!(recorded, [Recorded::Committed]);
}

#[tokio::test(start_paused = true)]
async fn more_than_there_is_room_for_is_refused_and_room_comes_back() {
    let scene = scene();
    let ordinal = scene.enrol(1);
    let jid = scene.open(1, &[ordinal]);
    let part = |body: usize| ReturnPart { jid, part: 0, parts: 1, digest: [0; 32], body: vec![0; body] };
    let large = ROOM_BYTES / 2 - ITEM_OVERHEAD_BYTES;
    let two =
        [scene.inbox.record(asker(ordinal), vec![part(large)]), scene.inbox.record(asker(ordinal), vec![part(large)])];
    let outcomes = futures::future::join_all(two).await;
    assert!(!matches!(outcomes[0], Err(Refusal::Busy { .. })), "the first one fits: {:?}", outcomes[0]);
    assert!(matches!(outcomes[1], Err(Refusal::Busy { .. })), "{:?}", outcomes[1]);
    let next = scene.open(2, &[ordinal]);
    let (recorded, _) = scene.inbox.record(asker(ordinal), returned(next, "x")).await.expect("there is room again");
    assert_eq!(recorded, [Recorded::Committed]);
}

#[tokio::test(start_paused = true)]
async fn of_mine_values_that_did_not_change_only_the_stamp_is_proposed() {
    let scene = scene();
    let ordinal = scene.enrol(1);
    let report = |counter, value: Option<&str>| MineReport {
        function: "network.ip_addrs".into(),
        value: value.map(|text| Value::String(text.into())),
        stamp: MineStamp { incarnation: 1, counter },
    };
    for (reported, proposals, expect) in [
        (report(1, Some("a")), 1, Some("a")),
        (report(2, Some("a")), 2, Some("a")),
        (report(3, Some("b")), 3, Some("b")),
        (report(2, Some("a")), 3, Some("b")),
        (report(3, Some("b")), 3, Some("b")),
        (report(4, None), 4, None),
        (report(5, Some("b")), 5, Some("b")),
    ] {
        let shown = format!("{reported:?}");
        scene.inbox.report(asker(ordinal), vec![reported]).await.expect("taken");
        let mine = |command: &Command| matches!(command, Command::Mine(_));
        assert_eq!(scene.master.asked().iter().filter(|command| mine(command)).count(), proposals, "{shown}");
        let whose = RoaringBitmap::from_iter([ordinal.0]);
        let held = scene.master.replica().state().mine(&whose, "network.ip_addrs").expect("readable");
        assert_eq!(
            held.first().map(|entry| entry.value.clone()),
            expect.map(|text| Value::String(text.into())),
            "{shown}"
        );
    }
}

/// An older value that was on its way through another master arrives after the newer one was reported again, unchanged: the
/// stamp that was raised for that keeps it out. And a value that another master wrote meanwhile is not blessed by it.
#[tokio::test(start_paused = true)]
async fn an_old_mine_value_never_takes_the_place_of_a_newer_one_that_was_reported_again() {
    let masters = Together::found(2);
    let stop = CancellationToken::new();
    let inboxes: Vec<Inbox> = masters
        .iter()
        .map(|master| {
            let clock: Arc<dyn Clock> = Arc::new(master.clock());
            let witness = Witness::new(Arc::clone(&clock));
            Inbox::start(master.replica(), clock, witness, &TaskTracker::new(), &stop)
        })
        .collect();
    let ordinal = masters[0].enrol(&MinionId::new("web-1").expect("an id"), &Identity::from_seed([50; 32]));
    let report = |counter, value: &str| MineReport {
        function: "f".into(),
        value: Some(Value::String(value.into())),
        stamp: MineStamp { incarnation: 1, counter },
    };
    let held = |place: usize| {
        let held = masters[place].replica().state().mine(&RoaringBitmap::from_iter([ordinal.0]), "f");
        let held = held.expect("readable").remove(0);
        (held.stamp.counter, held.value.as_str().expect("text").to_owned())
    };
    let tell = async |place: usize, reported: MineReport| {
        inboxes[place].report(asker(ordinal), vec![reported]).await.expect("taken");
    };
    tell(0, report(5, "new")).await;
    // Reported as 7 through the first master, but it is held up on its way.
    let delayed = report(7, "old");
    tell(1, report(9, "new")).await;
    tell(0, delayed).await;
    assert_eq!((held(0), held(1)), ((9, "new".into()), (9, "new".into())));
    // The second master has not applied what the first one took, and takes a report for unchanged that is not.
    masters[1].hold();
    tell(0, report(11, "other")).await;
    assert_eq!(held(1), (9, "new".into()), "it is behind");
    let (told, ()) = tokio::join!(inboxes[1].report(asker(ordinal), vec![report(13, "new")]), async {
        // It catches up after it has compared and before its proposal is applied there.
        tokio::task::yield_now().await;
        masters[1].replica().confirm(Duration::from_secs(1)).await.expect("there is a majority");
    });
    told.expect("taken");
    assert_eq!((held(0), held(1)), ((13, "new".into()), (13, "new".into())));
}

#[tokio::test(start_paused = true)]
async fn work_that_nobody_waits_for_any_more_is_not_proposed_and_is_refused_not_unknown() {
    let scene = scene();
    let ordinal = scene.enrol(1);
    let jobs: Vec<JobId> = (0..20).map(|number| scene.open(number, &[ordinal])).collect();
    scene.master.stall();
    let soon = Asker { ordinal, deadline: scene.master.clock().monotonic() + Duration::from_millis(50) };
    let calls = jobs.iter().map(|jid| scene.inbox.record(soon, returned(*jid, "x")));
    let outcomes = futures::future::join_all(calls).await;
    let (mut unknown, mut refused) = (0, 0);
    for outcome in outcomes {
        match outcome.expect_err("nothing moves") {
            Refusal::Unknown => unknown += 1,
            Refusal::Busy { .. } => refused += 1,
            other @ (Refusal::NoQuorum | Refusal::NotAccepted | Refusal::Invalid(_)) => panic!("{other}"),
        }
    }
    // What was under way when the log stalled may be in it; everything behind it is not, and says so.
    let under_way: usize = scene.entries().iter().map(|(items, _)| items).sum();
    assert!(under_way > 0 && unknown == under_way, "{unknown} unknown, {under_way} under way");
    assert_eq!(refused, jobs.len() - under_way);
    assert_eq!(scene.witness.expired(Queue::Inbox), u64::try_from(refused).expect("few"));
    scene.master.flow();
    for jid in &jobs {
        scene.inbox.record(asker(ordinal), returned(*jid, "x")).await.expect("recorded now");
    }
    let after: usize = scene.entries().iter().map(|(items, _)| items).sum();
    assert_eq!(after, under_way + jobs.len(), "what was refused was never proposed");
}

/// One minion sends large returns without end. The other ones' returns go by it.
#[tokio::test(start_paused = true)]
async fn a_flood_of_one_minion_does_not_hold_up_the_others() {
    let scene = scene();
    let minions: Vec<Ordinal> = (0..10).map(|number| scene.enrol(number)).collect();
    let jid = scene.open(1, &minions);
    scene.master.stall();
    let part = |body: usize| ReturnPart { jid, part: 0, parts: 1, digest: [0; 32], body: vec![0; body] };
    let (mut flood, mut refused) = (Vec::new(), 0);
    for _ in 0..400 {
        let mut call = Box::pin(scene.inbox.record(asker(minions[0]), vec![part(256 * 1024)]));
        match futures::poll!(&mut call) {
            std::task::Poll::Ready(Err(Refusal::Busy { .. })) => refused += 1,
            std::task::Poll::Ready(other) => panic!("{other:?}"),
            std::task::Poll::Pending => flood.push(call),
        }
    }
    assert!(scene.inbox.held_bytes() <= ROOM_BYTES / 2 && refused > 0, "{} bytes held", scene.inbox.held_bytes());
    assert_eq!(scene.witness.refused(Reason::InboxRoom), refused);
    let others = minions[1..].iter().map(|ordinal| scene.inbox.record(asker(*ordinal), returned(jid, "x")));
    let others = futures::future::join_all(others);
    let mut others = std::pin::pin!(others);
    assert!(futures::poll!(&mut others).is_pending());
    tokio::task::yield_now().await;
    scene.master.flow();
    for outcome in others.await {
        assert_eq!(outcome.expect("recorded").0, [Recorded::Committed]);
    }
    // Behind what was under way when they came, and what the flood had the turn for: not behind the hundred that wait.
    let entries = scene.entries();
    let small = |(items, bytes): &(usize, usize)| *items > 1 && *bytes < 256 * 1024 * 2;
    let at = entries.iter().position(small).expect("an entry with the others in it");
    assert!(at <= ENTRIES_IN_FLIGHT_MAX + 2, "their entry is number {at} of {}", entries.len());
}

#[tokio::test(start_paused = true)]
async fn a_master_that_stops_answers_unknown() {
    let Scene { master, inbox, witness: _, _stop } = scene();
    let ordinal = master.enrol(&MinionId::new("web-1").expect("an id"), &Identity::from_seed([50; 32]));
    drop(_stop);
    let jid = JobId::mint(LogicalTime::ZERO, 0);
    assert_eq!(inbox.record(asker(ordinal), returned(jid, "x")).await.err(), Some(Refusal::Unknown));
}

#[tokio::test(start_paused = true)]
async fn acceptances_travel_with_returns_and_not_beside_their_own() {
    let scene = scene();
    let minions: Vec<Ordinal> = (0..100).map(|number| scene.enrol(number)).collect();
    let job = scene.open(1, &minions);
    scene.master.stall();
    // Two entries are under way, so that everything else comes together.
    let first = async |at: usize| scene.inbox.accept(asker(minions[at]), vec![job]).await;
    let early = async {
        let (one, other) = tokio::join!(first(0), first(1));
        one.and(other).expect("accepted");
    };
    let late = async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        let accepts = minions[2..60].iter().map(|ordinal| scene.inbox.accept(asker(*ordinal), vec![job]));
        let returns = minions[30..].iter().map(|ordinal| scene.inbox.record(asker(*ordinal), returned(job, "x")));
        let flow = async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            scene.master.flow();
        };
        let (accepted, recorded, ()) =
            tokio::join!(futures::future::join_all(accepts), futures::future::join_all(returns), flow);
        assert!(accepted.iter().all(Result::is_ok));
        assert!(recorded.into_iter().all(|outcome| outcome.expect("there is room").0 == [Recorded::Committed]));
    };
    tokio::join!(early, late);
    let state = scene.master.replica();
    let held = state.state().job(&job).expect("readable").expect("held");
    assert_eq!((held.accepted.len(), held.answered.len()), (30, 70));
    let carried: Vec<(usize, usize)> = scene.master.asked().iter().filter_map(carried).collect();
    assert_eq!(carried.iter().map(|(_, returns)| returns).sum::<usize>(), 70);
    assert_eq!(carried.iter().map(|(accepted, _)| accepted).sum::<usize>(), 30, "an answer says more");
    assert!(carried.len() <= 4, "{carried:?}");
}

/// Acceptances and returns of a command.
fn carried(command: &Command) -> Option<(usize, usize)> {
    let Command::Job(command) = command else { return None };
    match command {
        JobCommand::Accept { accepted } => Some((accepted.len(), 0)),
        JobCommand::Record { returns } => Some((0, returns.len())),
        JobCommand::Deliver { accepted, returns } => Some((accepted.len(), returns.len())),
        JobCommand::Open { .. } | JobCommand::Roll { .. } | JobCommand::Pause { .. } | JobCommand::End { .. } => None,
    }
}
