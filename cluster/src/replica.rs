//! What sessions, publishing and watching need of the replicated truth, and nothing more.
//!
//! [`crate::truth::Truth`] is the real one. The trait stands here so that their tests run against a truth of one master,
//! which really applies every command to a store, without Raft and its clocks.

#[cfg(test)]
pub(crate) mod together;

use crate::truth::{Committed, Lane, ProposeError, Quorum, Truth};
use saltern_store::command::Command;
use saltern_store::{AppliedEntry, State};
use saltern_wire::{LogicalTime, MasterId, RequestId, Revision};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast;

/// This master's copy of the truth, and the way to change it.
#[async_trait::async_trait]
pub trait Replica: Send + Sync + 'static {
    /// Which master this is.
    fn id(&self) -> MasterId;
    /// What is applied here.
    fn state(&self) -> &Arc<State>;
    /// Every entry as it is applied. Whoever lags repairs from the tables.
    fn subscribe(&self) -> broadcast::Receiver<Arc<AppliedEntry>>;
    /// The newest applied entry.
    fn revision(&self) -> Revision;
    /// Whether a majority answers.
    fn quorum(&self) -> Quorum;
    /// The truth's time, estimated from the last applied entry and this machine's monotonic clock.
    fn now(&self) -> LogicalTime;
    /// Hears of masters that quarantine themselves, where masters hear of each other.
    fn quarantined(&self) -> Option<broadcast::Receiver<(MasterId, String)>> {
        None
    }
    /// Waits, at most `within`, until everything that was acknowledged anywhere before the call is applied here.
    async fn confirm(&self, within: Duration) -> Result<Revision, ProposeError>;
    /// Changes the truth; returns after this master has applied the change.
    async fn propose(
        &self,
        lane: Lane,
        command: Command,
        request: Option<RequestId>,
    ) -> Result<Committed, ProposeError>;
    /// The same, for somebody who waits for `within` and no longer.
    async fn propose_within(
        &self,
        lane: Lane,
        command: Command,
        request: Option<RequestId>,
        within: Duration,
    ) -> Result<Committed, ProposeError> {
        let proposed = tokio::time::timeout(within, self.propose(lane, command, request)).await;
        proposed.unwrap_or(Err(ProposeError::Unknown))
    }
}

#[async_trait::async_trait]
impl Replica for Truth {
    fn id(&self) -> MasterId {
        Truth::id(self)
    }

    fn state(&self) -> &Arc<State> {
        Truth::state(self)
    }

    fn subscribe(&self) -> broadcast::Receiver<Arc<AppliedEntry>> {
        Truth::subscribe(self)
    }

    fn revision(&self) -> Revision {
        Truth::revision(self)
    }

    fn quorum(&self) -> Quorum {
        Truth::quorum(self)
    }

    fn now(&self) -> LogicalTime {
        Truth::now(self)
    }

    fn quarantined(&self) -> Option<broadcast::Receiver<(MasterId, String)>> {
        Some(self.quarantines().subscribe())
    }

    async fn confirm(&self, within: Duration) -> Result<Revision, ProposeError> {
        Truth::confirm(self, within).await
    }

    async fn propose(
        &self,
        lane: Lane,
        command: Command,
        request: Option<RequestId>,
    ) -> Result<Committed, ProposeError> {
        Truth::propose(self, lane, command, request).await
    }

    async fn propose_within(
        &self,
        lane: Lane,
        command: Command,
        request: Option<RequestId>,
        within: Duration,
    ) -> Result<Committed, ProposeError> {
        Truth::propose_within(self, lane, command, request, within).await
    }
}
