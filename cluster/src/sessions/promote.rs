//! Which other masters are dead or frozen, for the sessions that wait here; and the minions that come home.
//!
//! ```text
//!   a peer misses a probe ─▶ doubted: asked once more ─▶ gone ─▶ Promote to every session here whose minion works through it
//!   a session waits for `failback_seconds`, and its minion would rather be here ─▶ Move, so many a second
//! ```
//!
//! [`Peers`] decides, [`follow`] asks and tells. A minion asks its master once more before it believes a word of this, so to be
//! wrong costs a ping.
//!
//! **Invariants.** A master that has no contact to a majority says nothing of others: it is probably the one that is cut off.

use super::Sessions;
use super::standby;
use crate::mesh::message::{Channel, Request, Response};
use crate::truth::Truth;
use saltern_wire::MasterId;
use saltern_wire::crypto::PublicKey;
use saltern_wire::session::{MoveReason, ToMinion};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How long a doubted master may take to say that it lives: the longest round trip between regions, twice.
const DENY_WITHIN: Duration = Duration::from_millis(600);

/// How often those who still work through a dead master are told again: they attached meanwhile, or reached it that time.
const TELL_AGAIN: Duration = Duration::from_secs(5);

/// Minions that change to this master a second when another one dies. A change costs a seat and a connection to the fan-out, and
/// no handshake.
const PROMOTIONS_PER_SECOND: u64 = 1_000;

/// How long a minion may take to come home, in milliseconds.
const HOME_WITHIN_MS: u64 = 10_000;

/// What is thought of one other master.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Health {
    /// It answers.
    Well,
    /// It missed a probe, and is asked once more.
    Doubted,
    /// It did not answer then either. When its minions were told last.
    Gone { told: Option<Duration> },
}

/// What to do about another master.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Ask it whether it lives.
    Ask(MasterId),
    /// Tell its minions that it does not.
    Tell(MasterId),
}

/// What is thought of the other masters. Pure. Only who was well once can be missed.
#[derive(Debug, Default)]
pub(crate) struct Peers(BTreeMap<MasterId, Health>);

impl Peers {
    /// These answered their last probe, of these; `sure` says whether this master may judge.
    pub(crate) fn handle_look(
        &mut self,
        listed: &BTreeSet<MasterId>,
        reachable: &BTreeSet<MasterId>,
        sure: bool,
        now: Duration,
    ) -> Vec<Step> {
        self.0.retain(|id, _| listed.contains(id));
        let mut steps = Vec::new();
        for id in listed {
            if reachable.contains(id) {
                self.0.insert(*id, Health::Well);
                continue;
            }
            let Some(health) = self.0.get_mut(id) else { continue };
            match health {
                Health::Well => {
                    *health = Health::Doubted;
                    steps.push(Step::Ask(*id));
                }
                Health::Doubted => {}
                Health::Gone { told } => {
                    if sure && told.is_none_or(|told| now.saturating_sub(told) >= TELL_AGAIN) {
                        *told = Some(now);
                        steps.push(Step::Tell(*id));
                    }
                }
            }
        }
        steps
    }

    /// A doubted master was asked once more.
    pub(crate) fn handle_asked(&mut self, id: MasterId, answered: bool) {
        if let Some(health @ Health::Doubted) = self.0.get_mut(&id) {
            // One that answers late is looked at again with the next probe.
            *health = if answered { Health::Well } else { Health::Gone { told: None } };
        }
    }
}

/// Watches the other masters for the sessions that wait here, and calls minions home, until `stop`.
pub(crate) async fn follow(truth: Truth, sessions: Sessions, stop: CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        ((), ()) = async { tokio::join!(watch(&truth, &sessions), call_home(&truth, &sessions)) } => {}
    }
}

async fn watch(truth: &Truth, sessions: &Sessions) {
    let mut peers = Peers::default();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let mut listed = truth.mesh().listed();
        listed.remove(&truth.id());
        let (sure, now) = (truth.quorum().contact, truth.clock().monotonic());
        let steps = peers.handle_look(&listed, &truth.answering(), sure, now);
        let asked = steps.iter().filter_map(|step| match step {
            Step::Ask(id) => Some(async move { (*id, answers(truth, *id).await) }),
            Step::Tell(_) => None,
        });
        for (id, answered) in futures::future::join_all(asked).await {
            peers.handle_asked(id, answered);
        }
        for step in &steps {
            if let Step::Tell(peer) = step {
                tell(sessions, *peer);
            }
        }
    }
}

async fn answers(truth: &Truth, id: MasterId) -> bool {
    let reply = truth.mesh().ask(id, Channel::Control, &Request::Probe, DENY_WITHIN).await;
    matches!(reply, Ok(Response::Probe { .. }))
}

/// Tells every session that waits here for `peer` that it may be its turn.
fn tell(sessions: &Sessions, peer: MasterId) {
    let standbys = sessions.roster().standbys();
    let meant = standbys.iter().filter(|(_, standby)| standby.primary == peer);
    let mut count = 0_usize;
    for (place, (_, standby)) in meant.enumerate() {
        let slot = standby::slot(place, PROMOTIONS_PER_SECOND);
        let slot_ms = u64::try_from(slot.as_millis()).unwrap_or(u64::MAX);
        standby.mailbox.push(Arc::new(ToMinion::Promote { peer, slot_ms }));
        count += 1;
    }
    if count > 0 {
        tracing::warn!(%peer, minions = count, "a master does not answer: its minions that wait here are told");
    }
}

/// Calls minions home that would rather be here, once this master has been well for long enough.
async fn call_home(truth: &Truth, sessions: &Sessions) {
    let mut asked: BTreeMap<PublicKey, Duration> = BTreeMap::new();
    let mut last = truth.clock().monotonic();
    let mut budget = 0.0_f64;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let now = truth.clock().monotonic();
        let settings = truth.state().settings();
        let per_second = f64::from(settings.failback_per_second);
        // What was not used is not saved up for more than a second.
        budget = (budget + per_second * now.saturating_sub(last).as_secs_f64()).min(per_second);
        last = now;
        if truth.is_draining() || !truth.quorum().fresh {
            continue;
        }
        let standbys = sessions.roster().standbys();
        asked.retain(|_, at| now.saturating_sub(*at) < standby::ASK_AGAIN);
        let after = Duration::from_secs(settings.failback_seconds);
        // Whole minions: the rest is for the next look.
        let due = standby::homecoming(&standbys, &asked, after, budget as usize, now);
        for (key, standby) in standbys.iter().filter(|(key, _)| due.contains(key)) {
            let (to, reason) = (Some(truth.id()), MoveReason::Failback);
            standby.mailbox.push(Arc::new(ToMinion::Move { to, reason, within_ms: HOME_WITHIN_MS }));
            asked.insert(*key, now);
            budget -= 1.0;
        }
        if !due.is_empty() {
            tracing::info!(minions = due.len(), "minions that would rather be here come back");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: MasterId = MasterId(1);
    const B: MasterId = MasterId(2);

    fn set(ids: &[MasterId]) -> BTreeSet<MasterId> {
        ids.iter().copied().collect()
    }

    #[test]
    fn a_master_that_misses_a_probe_is_asked_once_more_before_its_minions_are_told() {
        let (mut peers, all, at) = (Peers::default(), set(&[A, B]), Duration::from_secs);
        assert_eq!(peers.handle_look(&all, &set(&[]), true, at(0)), [], "never seen well: not missed");
        assert_eq!(peers.handle_look(&all, &all, true, at(1)), []);
        assert_eq!(peers.handle_look(&all, &set(&[B]), true, at(2)), [Step::Ask(A)]);
        peers.handle_asked(A, true);
        assert_eq!(
            peers.handle_look(&all, &set(&[B]), true, at(3)),
            [Step::Ask(A)],
            "it answered, and is silent again"
        );
        peers.handle_asked(A, false);
        assert_eq!(peers.handle_look(&all, &set(&[B]), true, at(4)), [Step::Tell(A)]);
        assert_eq!(peers.handle_look(&all, &set(&[B]), true, at(5)), []);
        assert_eq!(peers.handle_look(&all, &set(&[B]), true, at(9)), [Step::Tell(A)], "those who came meanwhile");
        assert_eq!(peers.handle_look(&all, &all, true, at(10)), [], "it is back");
        assert_eq!(peers.handle_look(&all, &set(&[B]), true, at(11)), [Step::Ask(A)]);
    }

    #[test]
    fn a_master_that_is_itself_cut_off_says_nothing_of_others() {
        let (mut peers, all, at) = (Peers::default(), set(&[A, B]), Duration::from_secs);
        peers.handle_look(&all, &all, true, at(1));
        assert_eq!(peers.handle_look(&all, &set(&[]), false, at(2)), [Step::Ask(A), Step::Ask(B)]);
        peers.handle_asked(A, false);
        peers.handle_asked(B, false);
        assert_eq!(peers.handle_look(&all, &set(&[]), false, at(3)), []);
        assert_eq!(peers.handle_look(&all, &set(&[B]), true, at(4)), [Step::Tell(A)], "the leader was the dead one");
    }
}
