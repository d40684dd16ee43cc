//! Everyone is answered once, with its own verdict, and entries keep their bounds, whatever comes in whatever order.

use super::*;
use crate::replica::together::{CLUSTER, Together, master_key};
use saltern_wire::MinionId;
use saltern_wire::crypto::{Identity, Signed};
use saltern_wire::job::{Job, Outcome, OutcomeKind};
use saltern_wire::mine::MineStamp;
use saltern_wire::target::Target;
use saltern_wire::{LogicalTime, Map, MasterId, RequestId, Value};

struct Scene {
    master: Together,
    inbox: Inbox,
    _stop: tokio_util::sync::DropGuard,
}

fn scene() -> Scene {
    let master = Together::found(1).remove(0);
    let stop = CancellationToken::new();
    let inbox = Inbox::start(master.replica(), &TaskTracker::new(), &stop);
    Scene { master, inbox, _stop: stop.drop_guard() }
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
            Command::Job(JobCommand::Record { returns }) => Some(returns),
            Command::Tick
            | Command::Key(_)
            | Command::Minion(_)
            | Command::Job(_)
            | Command::Mine(_)
            | Command::Master(_)
            | Command::Settings(_) => None,
        });
        returns.map(|returns| (returns.len(), returns.iter().map(|(_, part)| part.body.len()).sum())).collect()
    }
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
        let calls = batch.iter().map(|(ordinal, parts)| scene.inbox.record(*ordinal, parts.clone()));
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
        let calls = (0..20).map(|_| scene.inbox.record(ordinal, returned(jid, "x")));
        for outcome in futures::future::join_all(calls).await {
            assert_eq!(outcome.err(), Some(expect.clone()));
        }
        assert_eq!(scene.inbox.accept(ordinal, vec![jid]).await.err(), Some(expect));
    }
    scene.master.fail(None);
    scene.inbox.accept(ordinal, vec![jid]).await.expect("accepted");
    assert!(scene.master.replica().state().job(&jid).expect("readable").expect("held").accepted.contains(ordinal.0));
    let (recorded, _) = scene.inbox.record(ordinal, returned(jid, "x")).await.expect("recorded");
    assert_eq!(recorded, [Recorded::Committed]);
}

#[tokio::test(start_paused = true)]
async fn more_than_there_is_room_for_is_refused_and_room_comes_back() {
    let scene = scene();
    let ordinal = scene.enrol(1);
    let jid = scene.open(1, &[ordinal]);
    let part = |body: usize| ReturnPart { jid, part: 0, parts: 1, digest: [0; 32], body: vec![0; body] };
    let large = usize::try_from(ROOM_KIB).expect("fits") * 1024 / 2;
    let two = [scene.inbox.record(ordinal, vec![part(large)]), scene.inbox.record(ordinal, vec![part(large)])];
    let outcomes = futures::future::join_all(two).await;
    assert!(!matches!(outcomes[0], Err(Refusal::Busy { .. })), "the first one fits: {:?}", outcomes[0]);
    assert!(matches!(outcomes[1], Err(Refusal::Busy { .. })), "{:?}", outcomes[1]);
    let next = scene.open(2, &[ordinal]);
    let (recorded, _) = scene.inbox.record(ordinal, returned(next, "x")).await.expect("there is room again");
    assert_eq!(recorded, [Recorded::Committed]);
}

#[tokio::test(start_paused = true)]
async fn mine_values_that_did_not_change_are_not_proposed() {
    let scene = scene();
    let ordinal = scene.enrol(1);
    let report = |counter, value: Option<&str>| MineReport {
        function: "network.ip_addrs".into(),
        value: value.map(|text| Value::String(text.into())),
        stamp: MineStamp { incarnation: 1, counter },
    };
    for (reported, proposals, expect) in [
        (report(1, Some("a")), 1, Some("a")),
        (report(2, Some("a")), 1, Some("a")),
        (report(3, Some("b")), 2, Some("b")),
        (report(2, Some("a")), 2, Some("b")),
        (report(4, None), 3, None),
        (report(5, Some("b")), 4, Some("b")),
    ] {
        let shown = format!("{reported:?}");
        scene.inbox.report(ordinal, vec![reported]).await.expect("taken");
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

#[tokio::test(start_paused = true)]
async fn a_master_that_stops_answers_unknown() {
    let Scene { master, inbox, _stop } = scene();
    let ordinal = master.enrol(&MinionId::new("web-1").expect("an id"), &Identity::from_seed([50; 32]));
    drop(_stop);
    let jid = JobId::mint(LogicalTime::ZERO, 0);
    assert_eq!(inbox.record(ordinal, returned(jid, "x")).await.err(), Some(Refusal::Unknown));
}
