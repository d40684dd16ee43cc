//! Sessions that wait: what they get, who sees them, and what becomes of them when they are needed.

use super::*;
use saltern_wire::session::MoveReason;

impl Scene {
    /// A second session of an accepted minion that works through `primary`.
    async fn wait_beside(&self, place: usize, name: &str, primary: u64) -> Minion {
        let role = SessionRole::Standby { primary: MasterId(primary), preferred: false };
        Minion::attach_as(&self.network, place, name, key_of(name), 1, role).await
    }
}

fn is_work(message: &ToMinion) -> bool {
    matches!(message, ToMinion::Grant(_) | ToMinion::Offer(_) | ToMinion::Rekey(_))
}

#[tokio::test(start_paused = true)]
async fn a_session_that_waits_gets_nothing_and_is_nobodys_presence_until_it_is_needed() {
    let scene = Scene::new(2).await;
    let (works, _) = scene.join(0, "web-1").await;
    let mut waits = scene.wait_beside(1, "web-1", 1).await;
    assert!(matches!(waits.standing().await, Standing::Accepted { .. }));
    let jid = scene.submit(0, "*", 60_000).await;
    assert!(waits.quiet(Duration::from_secs(10), is_work).await);
    assert!(waits.ping().await);
    let here = (saltern_wire::api::Presence::Connected, Some(MasterId(1)));
    eventually("it is seen where it works", || scene.presence_of("web-1") == [here, here]).await;
    let counts = scene.masters[1].sessions.roster().counts();
    assert_eq!(counts, Counts { attached: 1, accepted: 0, standby: 1 });
    let refused = waits.call(Call::Accept(vec![jid])).await.1;
    assert_eq!(refused, Err(Refusal::NotAccepted), "it makes no calls while it waits");
    drop(works);
    waits.say(ToMaster::Role(SessionRole::Primary { moved: Some(MoveReason::Lost) })).await;
    waits.granted().await;
    assert_eq!(waits.offered().await.job.peek().expect("a job").jid, jid, "what it owes is offered at once");
    assert_eq!(waits.call(Call::Accept(vec![jid])).await.1, Ok(Answer::Done));
    let there = (saltern_wire::api::Presence::Connected, Some(MasterId(2)));
    eventually("it is seen where it works now", || scene.presence_of("web-1") == [there, there]).await;
    let moves = scene.masters[1].sessions.moves().counts();
    assert!(moves.contains(&(MoveReason::Lost, 1)), "{moves:?}");
    assert_eq!(scene.masters[1].sessions.roster().counts(), Counts { attached: 1, accepted: 1, standby: 0 });
}

#[tokio::test(start_paused = true)]
async fn a_revoked_key_loses_the_session_that_waits_too() {
    let scene = Scene::new(2).await;
    let (_works, _) = scene.join(0, "web-1").await;
    let mut waits = scene.wait_beside(1, "web-1", 1).await;
    waits.standing().await;
    let delete = |keys| saltern_store::command::KeyCommand::Delete { keys, by: "root".into() };
    scene.masters[0].truth.decide(delete, &id("web-1"), &key_of("web-1")).expect("deleted");
    assert!(waits.dismissed().await.contains("deleted"));
    eventually("it is gone", || scene.masters[1].sessions.roster().counts() == Counts::default()).await;
}

#[tokio::test(start_paused = true)]
async fn a_stranger_has_no_second_session_and_submits_no_key_by_it() {
    let scene = Scene::new(2).await;
    let mut stranger = scene.wait_beside(1, "nobody", 1).await;
    assert!(stranger.dismissed().await.contains("only an accepted minion"));
    assert!(scene.masters[0].truth.replica().state().key(&id("nobody")).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_session_that_works_does_not_go_back_to_waiting() {
    let scene = Scene::new(2).await;
    let (mut works, _) = scene.join(0, "web-1").await;
    let role = SessionRole::Standby { primary: MasterId(2), preferred: true };
    works.say(ToMaster::Role(role)).await;
    assert!(works.dismissed().await.contains("does not go back"));
}
