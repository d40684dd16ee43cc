//! Jobs that go to so many minions at a time: nobody hears of one before its turn, whoever asks, and at whichever master.

use super::jobs::{give_back, is_offer};
use super::*;
use saltern_wire::job::{Progress, Recorded};
use saltern_wire::rolling::Batch;

#[tokio::test(start_paused = true)]
async fn a_minion_hears_of_a_batch_when_its_turn_has_come() {
    let scene = Scene::new(2).await;
    let (mut first, _) = scene.join(0, "web-1").await;
    let (mut second, _) = scene.join(1, "web-2").await;
    let batch = Some(Batch { size: "1".parse().expect("a size"), wait_ms: 0, failhard: false });
    let submit = Submit { batch, ..submission("*", Some(60_000)) };
    let request = RequestId::from_bytes([120; 16]);
    let jid = scene.masters[1].jobs.submit(submit, "root", request).await.expect("a good job").0.jid;
    let offer = first.offered().await;
    assert!(offer.remaining_ms <= 50_000, "its turn, less what an acceptance takes: {}", offer.remaining_ms);
    assert!(second.quiet(Duration::from_secs(10), is_offer).await, "neither at once nor by the sweep");
    // Who comes anew is offered what is open, but not what is held for it.
    drop(second);
    let mut second = scene.attach(0, "web-2").await;
    second.granted().await;
    assert!(second.quiet(Duration::from_secs(5), is_offer).await, "nor when it attaches");
    let state = scene.masters[0].truth.replica();
    let standing: Vec<Progress> =
        state.state().progress(&jid).expect("readable").into_iter().map(|(.., progress)| progress).collect();
    assert_eq!(standing, [Progress::Waiting, Progress::Held]);
    assert_eq!(give_back(&mut first, jid).await, Recorded::Committed);
    let peeked = second.offered().await.job.peek().expect("a job");
    assert_eq!(peeked.jid, jid);
    assert_eq!(give_back(&mut second, jid).await, Recorded::Committed);
    assert!(state.state().job(&jid).expect("readable").expect("held").done.is_some());
}
