//! How a master leaves without anybody noticing: its minions are asked to move, one after the other.
//!
//! Two reasons, one way. A master whose directory entry says *draining* moves its minions over `drain_spread_ms` and goes on as a
//! member ([`follow`]); one that was asked to end moves them within about a second ([`leave`]), hands leadership over, and waits for
//! the proposals that somebody waits for. A minion that is asked to move attaches to another master and asks again
//! there for whatever had no answer; its jobs run in processes of their own and hear nothing.
//!
//! **Invariants.** A minion is asked once, and left alone for a minute if it comes back: it knows no other master that it
//! reaches. Nobody is asked while no other master answers.

use super::reconcile::{View, heir};
use crate::sessions::Sessions;
use crate::truth::Truth;
use saltern_wire::LogicalTime;
use saltern_wire::session::ToMinion;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How long a minion that was asked to move stays away, in milliseconds; then it may come back if it finds nobody else.
const STAY_AWAY_MS: u64 = 10_000;

/// How long a minion that came back is left alone.
const CAME_BACK: Duration = Duration::from_secs(60);

/// How long a master that ends takes for its minions: a millisecond each, and not more than this.
const LEAVE_SPREAD_MAX: Duration = Duration::from_secs(1);

/// How long a master that ends waits until another one leads.
const HAND_OVER_WITHIN: Duration = Duration::from_millis(1_500);

/// How long a master that ends waits for the proposals that somebody waits for.
const FINISH_WITHIN: Duration = Duration::from_secs(2);

/// How many of `all` minions are to have been asked after `elapsed` of `spread`. Pure.
pub fn share(all: usize, elapsed: Duration, spread: Duration) -> usize {
    if elapsed >= spread {
        return all;
    }
    let asked = (all as u128).saturating_mul(elapsed.as_millis()).div_ceil(spread.as_millis().max(1));
    usize::try_from(asked).unwrap_or(all).min(all)
}

/// One drain.
struct Drain {
    since: Duration,
    began: LogicalTime,
    /// Minions that were attached when it began.
    all: usize,
    asked: usize,
}

/// Moves minions away for as long as the directory says that this master is draining.
pub(crate) async fn follow(truth: Truth, sessions: Sessions, stop: CancellationToken) {
    let mut drain: Option<Drain> = None;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        if !truth.is_draining() {
            if drain.take().is_some() {
                tracing::info!("this master takes minions again");
            }
            continue;
        }
        if truth.reachable().len() < 2 {
            continue;
        }
        let now = truth.clock().monotonic();
        let drain = drain.get_or_insert_with(|| {
            let all = sessions.roster().list().len();
            tracing::info!(minions = all, "this master is draining: its minions are asked to move");
            Drain { since: now, began: truth.now(), all, asked: 0 }
        });
        let spread = Duration::from_millis(truth.state().settings().drain_spread_ms);
        let due = share(drain.all, now.saturating_sub(drain.since), spread).saturating_sub(drain.asked);
        let asked = ask(&sessions, due, drain.began, truth.now(), "this master is draining");
        drain.asked += asked;
        if drain.asked >= drain.all {
            // Those who attached meanwhile are few; they are asked once their minute is over.
            ask(&sessions, usize::MAX, drain.began, truth.now(), "this master is draining");
        }
    }
}

/// Asks up to `due` minions to move: those who were here before `began`, and those who came back and have been here for long.
fn ask(sessions: &Sessions, due: usize, began: LogicalTime, now: LogicalTime, reason: &str) -> usize {
    if due == 0 {
        return 0;
    }
    let to_move = |since: LogicalTime| since <= began || now.since(since) >= CAME_BACK;
    let mut asked = 0;
    for session in
        sessions.roster().list().iter().filter(|session| !session.mailbox.is_ended() && to_move(session.since))
    {
        if asked == due {
            break;
        }
        session.mailbox.end(vec![ToMinion::Bye { reason: reason.into(), retry_after_ms: STAY_AWAY_MS }]);
        asked += 1;
    }
    asked
}

/// Makes this master ready to end: another one leads, its minions are elsewhere, and whoever waits for a write has an answer. Each
/// under a bound: what is not done by then is what a crash would leave, which harms nobody.
pub(crate) async fn leave(truth: &Truth, sessions: &Sessions) {
    sessions.close();
    tokio::join!(hand_over(truth), move_all(truth, sessions));
    let finished = async {
        while truth.under_way() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    if tokio::time::timeout(FINISH_WITHIN, finished).await.is_err() {
        tracing::warn!(under_way = truth.under_way(), "some writes are still under way; ending anyway");
    }
}

async fn hand_over(truth: &Truth) {
    let group = truth.group().leader_state();
    if !group.is_self || group.voters.len() < 2 {
        return;
    }
    match choose_heir(truth) {
        Some(heir) => {
            tracing::info!(%heir, "handing leadership over before ending");
            if let Err(error) = truth.group().transfer(heir).await {
                return tracing::warn!(%error, "leadership was not handed over");
            }
            let handed = async {
                while truth.group().leader_state().is_self {
                    truth.group().changed(LOOK_EVERY).await;
                }
            };
            if tokio::time::timeout(HAND_OVER_WITHIN, handed).await.is_err() {
                tracing::warn!("no other master leads yet; ending anyway");
            }
        }
        None => {
            tracing::warn!("no other voter keeps up and answers: the others elect a leader after this one has ended")
        }
    }
}

/// Who is to lead instead of this master, which leads.
pub(crate) fn choose_heir(truth: &Truth) -> Option<saltern_wire::MasterId> {
    let directory = truth.state().directory()?.peek().ok()?;
    let (group, reachable) = (truth.group().leader_state(), truth.reachable());
    heir(&View { own: truth.id(), directory: &directory, group: &group, reachable: &reachable, far: &BTreeSet::new() })
}

async fn move_all(truth: &Truth, sessions: &Sessions) {
    if truth.reachable().len() < 2 {
        return;
    }
    let (began, all) = (truth.now(), sessions.roster().list().len());
    let spread = Duration::from_millis(u64::try_from(all).unwrap_or(u64::MAX)).min(LEAVE_SPREAD_MAX);
    let (since, mut asked) = (truth.clock().monotonic(), 0);
    while asked < all {
        let due = share(all, truth.clock().monotonic().saturating_sub(since), spread).saturating_sub(asked);
        if ask(sessions, due, began, truth.now(), "this master ends") == 0 && due > 0 {
            break;
        }
        asked += due;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minions_are_asked_evenly_and_all_of_them_by_the_end() {
        let second = Duration::from_secs(1);
        let asked: Vec<usize> = (0..=5).map(|at| share(100, second * at, second * 4)).collect();
        assert_eq!(asked, [0, 25, 50, 75, 100, 100]);
        assert_eq!(share(3, Duration::ZERO, Duration::ZERO), 3, "no spread: all at once");
        assert_eq!(share(1, Duration::from_millis(1), second), 1, "the first goes at once");
    }
}
