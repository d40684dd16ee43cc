//! Minions and strangers that ask too much, or for what is not theirs: refused, counted and named, and nobody else suffers.

use super::*;
use crate::witness::Reason;
use saltern_store::command::{Command, KeyCommand};
use saltern_wire::job::{Outcome, OutcomeKind, Recorded, ReturnPart};
use saltern_wire::mine::{MineReport, MineStamp};
use saltern_wire::{Ordinal, Value};

/// Keys that were shown to the truth so far.
fn submitted(master: &Master) -> usize {
    let submits = |command: &Command| matches!(command, Command::Key(KeyCommand::Submit { .. }));
    master.truth.asked().iter().filter(|command| submits(command)).count()
}

#[tokio::test(start_paused = true)]
async fn strangers_beyond_the_cap_cost_no_entry_and_accepted_minions_notice_nothing() {
    let scene = Scene::with(1, Settings { pending_keys_max: 3, ..Settings::default() }).await;
    let (mut works, _) = scene.join(0, "works").await;
    let master = &scene.masters[0];
    let mut notices = master.witness.subscribe();
    let mut waiting = Vec::new();
    for number in 0..3 {
        let mut minion = scene.attach(0, &format!("stranger-{number}")).await;
        assert_eq!(minion.standing().await, Standing::Pending);
        waiting.push(minion);
    }
    let before = submitted(master);
    for number in 3..20 {
        let mut minion = scene.attach(0, &format!("stranger-{number}")).await;
        let reason = minion.dismissed().await;
        assert!(reason.contains("3 keys are pending"), "{reason}");
    }
    assert_eq!(submitted(master), before, "what the truth would refuse is not an entry of the log");
    assert_eq!(master.witness.refused(Reason::PendingKeys), 17);
    let notice = notices.try_recv().expect("told");
    assert_eq!(
        (notice.tag.as_str(), notice.data["kind"].as_str()),
        ("saltern/notice/pending_keys", Some("pending_keys"))
    );
    assert!(works.ping().await);
}

#[tokio::test(start_paused = true)]
async fn impersonators_without_number_cost_a_bounded_number_of_entries() {
    let scene = Scene::new(1).await;
    scene.join(0, "web-1").await;
    let before = submitted(&scene.masters[0]);
    for number in 0..30_u8 {
        let liar = Identity::from_seed([200 - number; 32]);
        let mut minion = Minion::attach(&scene.network, 0, "web-1", liar, 1).await;
        let reason = minion.dismissed().await;
        assert!(reason.contains("belongs to another key"), "{reason}");
    }
    assert_eq!(submitted(&scene.masters[0]) - before, saltern_wire::limits::DENIED_KEYS_PER_ID_MAX);
    assert!(scene.masters[0].truth.replica().state().ordinal_of(&id("web-1")).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_minion_that_attaches_without_end_is_sent_away_and_named() {
    let scene = Scene::new(1).await;
    scene.join(0, "fast").await;
    let master = &scene.masters[0];
    let mut notices = master.witness.subscribe();
    let mut refused = 0;
    for _ in 0..60 {
        let mut minion = scene.attach(0, "fast").await;
        let first = minion.next().await.expect("a first word");
        refused += u64::from(matches!(first, ToMinion::Bye { reason, .. } if reason.contains("too often")));
    }
    assert!((20..=40).contains(&refused), "{refused} of 60");
    assert_eq!(master.witness.refused(Reason::AttachRate), refused);
    assert_eq!(notices.try_recv().expect("told").data["who"], "fast");
    let (mut other, _) = scene.join(0, "other").await;
    assert!(other.ping().await);
}

#[tokio::test(start_paused = true)]
async fn mine_reports_have_a_rate_of_their_own() {
    let scene = Scene::new(1).await;
    let (mut loud, _) = scene.join(0, "loud").await;
    let (mut calm, _) = scene.join(0, "calm").await;
    let report = |counter: u64| MineReport {
        function: "f".into(),
        value: Some(Value::from(counter)),
        stamp: MineStamp { incarnation: 1, counter },
    };
    let mut busy = 0;
    for round in 0..100 {
        let reports = (0..10).map(|number| report(round * 10 + number)).collect();
        match loud.call(Call::MineReport(reports)).await.1 {
            Ok(Answer::Done) => {}
            Err(Refusal::Busy { .. }) => busy += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(busy >= 20, "{busy}");
    assert_eq!(scene.masters[0].witness.refused(Reason::MineRate), busy);
    assert_eq!(calm.call(Call::MineReport(vec![report(1)])).await.1, Ok(Answer::Done));
}

/// No message says whose it is: a minion that answers for another one answers for itself, and is not asked.
#[tokio::test(start_paused = true)]
async fn a_return_under_anothers_name_is_recorded_for_nobody() {
    let scene = Scene::new(1).await;
    let (_victim, _) = scene.join(0, "victim").await;
    let (mut liar, _) = scene.join(0, "liar").await;
    let jid = scene.submit(0, "victim", 60_000).await;
    let value = Value::String("forged".into());
    let outcome = Outcome { kind: OutcomeKind::Finished, success: true, retcode: 0, value, duration_ms: 1 };
    let parts = ReturnPart::split(jid, &outcome).expect("a small outcome");
    let (_, recorded) = liar.call(Call::Return(parts)).await;
    assert_eq!(recorded, Ok(Answer::Recorded(vec![Recorded::Untargeted])));
    let state = scene.masters[0].truth.replica();
    assert!(state.state().returns(&jid).expect("readable").is_empty());
    let victim: Ordinal = state.state().ordinal_of(&id("victim")).expect("accepted");
    assert!(state.state().job(&jid).expect("readable").expect("held").expected.contains(victim.0));
}

/// A call that nobody waits for any more is answered as what it is: refused, because nothing was written.
#[tokio::test(start_paused = true)]
async fn a_call_without_time_is_refused_and_not_unknown() {
    let scene = Scene::new(1).await;
    let (mut minion, _) = scene.join(0, "web-1").await;
    let jid = scene.submit(0, "web-1", 60_000).await;
    minion.sequence += 1;
    let sequence = minion.sequence;
    let call = ToMaster::Call { sequence, deadline_ms: 0, call: Call::Accept(vec![jid]) };
    minion.session.sender.send(&call).await.expect("it listens");
    let answer = minion
        .until(|message| match message {
            ToMinion::Reply { sequence: answered, result, .. } if answered == sequence => Some(result),
            _ => None,
        })
        .await;
    assert!(matches!(answer, Err(Refusal::Busy { .. })), "{answer:?}");
    let held = scene.masters[0].truth.replica();
    assert!(held.state().job(&jid).expect("readable").expect("held").accepted.is_empty());
    assert_eq!(scene.masters[0].witness.expired(crate::witness::Queue::Inbox), 1);
}
