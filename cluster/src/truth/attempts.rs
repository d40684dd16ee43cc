//! One proposal on its way into the log: at the leader, whoever that is, again and again until its deadline.
//!
//! **Invariants.** What was never handed to a log is refused ([`ProposeError::NoQuorum`], [`ProposeError::Busy`]); what may be
//! in one is *unknown*. A proposal whose deadline has passed is not handed to any log any more.

use super::{LEADER_POLL, Lane, ProposeError, Truth};
use crate::mesh::MeshError;
use crate::mesh::message::{Channel, ProposeRefusal, Proposed, Request, Response};
use crate::witness::{Queue, Reason};
use saltern_store::command::Proposal;
use saltern_wire::MasterId;
use std::time::Duration;

/// The attempts of one proposal.
pub(super) struct Attempts<'a> {
    pub(super) truth: &'a Truth,
    pub(super) lane: Lane,
    /// By this master's monotonic clock.
    pub(super) deadline: Duration,
}

impl Attempts<'_> {
    pub(super) async fn run(&self, proposal: Proposal) -> Result<Proposed, ProposeError> {
        // Whether some log may hold it already.
        let mut handed_over = false;
        // A leader without room hands over to one that has some, which takes about an election.
        let relieved = self.truth.0.clock.monotonic() + self.truth.patience();
        loop {
            let inner = &self.truth.0;
            let state = inner.group.leading();
            if state.is_stopped {
                return Err(if handed_over { ProposeError::Unknown } else { ProposeError::Stopped });
            }
            let left = self.deadline.saturating_sub(inner.clock.monotonic());
            if left.is_zero() {
                return Err(self.late(handed_over, state.leader.is_some()));
            }
            let outcome = match state.leader {
                Some(_) if state.is_self => self.truth.propose_here(proposal.clone(), self.lane, left).await,
                Some(leader) => self.forward(leader, &proposal, left).await,
                None => Err(ProposeRefusal::NotLeader(None)),
            };
            match outcome {
                Ok(proposed) => return Ok(proposed),
                Err(ProposeRefusal::Busy) if handed_over => return Err(ProposeError::Unknown),
                Err(ProposeRefusal::Busy) => return Err(ProposeError::Busy),
                Err(ProposeRefusal::NoRoom(room)) if inner.clock.monotonic() >= relieved => {
                    return Err(if handed_over { ProposeError::Unknown } else { ProposeError::NoRoom(room) });
                }
                Err(ProposeRefusal::NoRoom(_)) => tokio::time::sleep(LEADER_POLL * 5).await,
                Err(ProposeRefusal::Unknown) => handed_over = true,
                Err(ProposeRefusal::NoQuorum | ProposeRefusal::NotLeader(_)) => {}
            }
            if self.truth.is_lost() {
                inner.witness.refuse(Reason::NoQuorum);
                return Err(if handed_over { ProposeError::Unknown } else { ProposeError::NoQuorum });
            }
            inner.group.changed(LEADER_POLL.min(left)).await;
        }
    }

    /// What a proposal has come to when its time is over.
    fn late(&self, handed_over: bool, led: bool) -> ProposeError {
        if handed_over {
            return ProposeError::Unknown;
        }
        self.truth.0.witness.expire(Queue::Lane);
        if led { ProposeError::Busy } else { ProposeError::NoQuorum }
    }

    async fn forward(&self, leader: MasterId, proposal: &Proposal, left: Duration) -> Result<Proposed, ProposeRefusal> {
        let inner = &self.truth.0;
        let bulk = self.lane == Lane::Bulk;
        let _turn = match bulk {
            true => match tokio::time::timeout(left, inner.lanes.forwarded.acquire()).await {
                Ok(turn) => Some(turn.map_err(|_| ProposeRefusal::Busy)?),
                // Nothing was sent; the next look at the clock ends it.
                Err(_) => return Err(ProposeRefusal::NotLeader(None)),
            },
            false => None,
        };
        let left = self.deadline.saturating_sub(inner.clock.monotonic());
        // One attempt is bounded well below the whole, so that a frozen leader costs one attempt, not the proposal.
        let within = left.min(self.truth.patience());
        let request = Request::Propose {
            proposal: Box::new(proposal.clone()),
            bulk,
            deadline_ms: u64::try_from(within.as_millis()).unwrap_or(u64::MAX),
        };
        let channel = if bulk { Channel::Bulk } else { Channel::Work };
        match inner.mesh.ask(leader, channel, &request, within).await {
            Ok(Response::Proposed(outcome)) => outcome,
            // It was dropped before anybody looked at it.
            Ok(Response::Failed(cause)) => {
                tracing::debug!(%leader, cause, "the leader did not take a proposal");
                Err(ProposeRefusal::NotLeader(None))
            }
            Ok(other) => {
                tracing::warn!(%leader, ?other, "the leader answered a proposal with something else");
                Err(ProposeRefusal::Unknown)
            }
            Err(MeshError::Unanswered { .. }) => Err(ProposeRefusal::Unknown),
            Err(MeshError::Stranger(_) | MeshError::Unreachable { .. }) => Err(ProposeRefusal::NotLeader(None)),
        }
    }
}
