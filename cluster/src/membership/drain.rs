//! How a master leaves without anybody noticing: its minions are asked to move, one after the other.
//!
//! Two reasons, one way. A master whose directory entry says *draining* moves its minions over `drain_spread_ms` and goes on as a
//! member ([`follow`]); one that was asked to end moves them within about a second ([`leave`]), hands leadership over, and waits for
//! the proposals that somebody waits for. A minion that is asked to move attaches to another master and asks again
//! there for whatever had no answer; its jobs run in processes of their own and hear nothing.
//!
//! A minion that understands it is asked to *move*: it reaches the other master before it leaves this one, and stays if it
//! reaches none. An older one is sent away, and finds another one by itself.
//!
//! **Invariants.** A minion is asked once, and left alone for a while if it is still, or again, here: it knows no other master
//! that it reaches. Nobody is asked while no other master answers. Few minions do not take the time of many.

use super::reconcile::{View, heir};
use crate::sessions::Sessions;
use crate::sessions::roster::SessionId;
use crate::truth::Truth;
use saltern_wire::LogicalTime;
use saltern_wire::level::LEVEL_FLEET;
use saltern_wire::session::{MoveReason, ToMinion};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How long a minion that was asked to move stays away, in milliseconds; then it may come back if it finds nobody else.
const STAY_AWAY_MS: u64 = 10_000;

/// Time for each minion of a drain, until all of them together take as long as `drain_spread_ms` says: a thousand minions and
/// more take that, ten a third of a second.
const SPREAD_PER_MINION: Duration = Duration::from_millis(30);

/// How long a minion may take to move, in milliseconds.
const MOVE_WITHIN_MS: u64 = 10_000;

/// How long a minion that was asked and did not move is left alone.
const ASK_AGAIN: Duration = Duration::from_secs(15);

/// How long a master that ends waits for minions that are on their way.
const MOVED_WITHIN: Duration = Duration::from_secs(2);

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

/// How long a drain of so many minions takes, if many take `most`. Pure.
pub fn spread(minions: usize, most: Duration) -> Duration {
    let minions = u32::try_from(minions).unwrap_or(u32::MAX);
    SPREAD_PER_MINION.saturating_mul(minions).min(most)
}

/// One drain.
struct Drain {
    since: Duration,
    /// Minions that were attached when it began.
    all: usize,
    count: usize,
    asking: Asking,
}

/// Whom a drain has asked to move.
struct Asking {
    began: LogicalTime,
    asked: BTreeMap<SessionId, Duration>,
    reason: &'static str,
}

impl Asking {
    fn new(began: LogicalTime, reason: &'static str) -> Self {
        Self { began, asked: BTreeMap::new(), reason }
    }

    /// Asks up to `due` minions to move: those who were here before it began, and those who came back and have been here for
    /// long. Sessions that wait end: their minions let them wait elsewhere.
    fn ask(&mut self, sessions: &Sessions, due: usize, time: LogicalTime, now: Duration) -> usize {
        if due == 0 {
            return 0;
        }
        let all = sessions.roster().list();
        let began = self.began;
        let to_move = |since: LogicalTime| since <= began || time.since(since) >= CAME_BACK;
        self.asked.retain(|_, at| now.saturating_sub(*at) < ASK_AGAIN);
        let mut count = 0;
        for session in all.iter().filter(|session| !session.mailbox.is_ended() && to_move(session.since)) {
            if count == due {
                break;
            }
            if self.asked.contains_key(&session.id) {
                continue;
            }
            if session.level >= LEVEL_FLEET && session.seat.is_some() {
                self.asked.insert(session.id, now);
                let wish = ToMinion::Move { to: None, reason: MoveReason::Drain, within_ms: MOVE_WITHIN_MS };
                session.mailbox.push(Arc::new(wish));
            } else {
                let bye = ToMinion::Bye { reason: self.reason.into(), retry_after_ms: STAY_AWAY_MS };
                session.mailbox.end(vec![bye]);
            }
            count += 1;
        }
        count
    }
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
            Drain { since: now, all, count: 0, asking: Asking::new(truth.now(), "this master is draining") }
        });
        let spread = spread(drain.all, Duration::from_millis(truth.state().settings().drain_spread_ms));
        let due = share(drain.all, now.saturating_sub(drain.since), spread).saturating_sub(drain.count);
        drain.count += drain.asking.ask(&sessions, due, truth.now(), now);
        if drain.count >= drain.all {
            // Those who attached meanwhile are few; they are asked once their minute is over.
            drain.asking.ask(&sessions, usize::MAX, truth.now(), now);
        }
    }
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
    let all = sessions.roster().list().len();
    let mut asking = Asking::new(truth.now(), "this master ends");
    let spread = Duration::from_millis(u64::try_from(all).unwrap_or(u64::MAX)).min(LEAVE_SPREAD_MAX);
    let (since, mut asked) = (truth.clock().monotonic(), 0);
    while asked < all {
        let now = truth.clock().monotonic();
        let due = share(all, now.saturating_sub(since), spread).saturating_sub(asked);
        if asking.ask(sessions, due, truth.now(), now) == 0 && due > 0 {
            break;
        }
        asked += due;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Whoever is on its way to another master works through this one until it is there.
    let moved = async {
        while sessions.roster().counts().accepted > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    if tokio::time::timeout(MOVED_WITHIN, moved).await.is_err() {
        tracing::warn!(minions = sessions.roster().counts().accepted, "some minions have not moved yet; ending anyway");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_minions_do_not_take_the_time_of_many() {
        let most = Duration::from_secs(30);
        let spreads: Vec<u128> = [0, 10, 999, 1_000, 20_000].map(|all| spread(all, most).as_millis()).into();
        assert_eq!(spreads, [0, 300, 29_970, 30_000, 30_000]);
    }

    #[test]
    fn minions_are_asked_evenly_and_all_of_them_by_the_end() {
        let second = Duration::from_secs(1);
        let asked: Vec<usize> = (0..=5).map(|at| share(100, second * at, second * 4)).collect();
        assert_eq!(asked, [0, 25, 50, 75, 100, 100]);
        assert_eq!(share(3, Duration::ZERO, Duration::ZERO), 3, "no spread: all at once");
        assert_eq!(share(1, Duration::from_millis(1), second), 1, "the first goes at once");
    }
}
