//! Proposals on their way into the core: what waits goes together.
//!
//! ```text
//!   write ──▶ control ─┐  one batch: control first, up to a bound in bytes       landed, in order
//!   write ──▶ bulk ────┴─▶ Gatherer ──▶ openraft ──▶ log, peers ──▶ applied ──▶ each waiter its own answer
//!                             ▲            │ on this master's disk
//!                             └────────────┘ only then the next batch
//! ```
//!
//! The core takes what it is given at once: a thousand writers that come one by one are as many appends, messages to each peer
//! and wake-ups of the thread that syncs. While a batch is synced here others gather, and cost one of each. Nobody waits for
//! others to come: on an idle master a proposal goes at once. Commits are not waited for, so a long road to the majority holds
//! nothing up.
//!
//! **Invariants.** Every proposal stays an entry of its own. Each waiter is answered once; one that has gone before its
//! proposal was handed to the core is not written. Control overtakes bulk that is not handed over yet.

use crate::raft::group::GroupError;
use crate::raft::types::{Logged, Raft, Types, Written};
use futures::StreamExt;
use futures::stream::{BoxStream, FuturesUnordered};
use openraft::error::{ClientWriteError, Fatal};
use openraft::raft::WriteResult;
use saltern_wire::MasterId;
use tokio::sync::{mpsc, oneshot};

/// Proposals that may wait here, in each lane: more than the lanes of a leader let through.
const WAITING_MAX: usize = 4096;

/// Entries of one batch: what openraft merges by itself, at most.
const ENTRIES_MAX: usize = 4096;

/// A batch is full with so many bytes: with a slow disk, a few milliseconds that control may have to wait for.
const BYTES_MAX: usize = 512 * 1024;

/// The way into the core. Cheap to clone; the last one dropped ends its task.
#[derive(Clone)]
pub(super) struct Gatherer {
    control: mpsc::Sender<Waiting>,
    bulk: mpsc::Sender<Waiting>,
}

/// A proposal and who waits for what comes of it.
struct Waiting {
    logged: Logged,
    answer: oneshot::Sender<Result<Written, GroupError>>,
}

impl Gatherer {
    /// Starts the task that hands proposals to `raft`.
    pub(super) fn start(raft: Raft) -> Self {
        let (control, control_waiting) = mpsc::channel(WAITING_MAX);
        let (bulk, bulk_waiting) = mpsc::channel(WAITING_MAX);
        tokio::spawn(run(raft, Queues { control: control_waiting, bulk: bulk_waiting }));
        Self { control, bulk }
    }

    /// Hands `logged` over and waits for what comes of it.
    pub(super) async fn write(&self, logged: Logged, bulk: bool) -> Result<Written, GroupError> {
        let (answer, answered) = oneshot::channel();
        let queue = if bulk { &self.bulk } else { &self.control };
        let stopped = || GroupError::Stopped("nobody takes proposals any more".into());
        queue.send(Waiting { logged, answer }).await.map_err(|_| stopped())?;
        answered.await.map_err(|_| stopped())?
    }
}

/// What waits.
struct Queues {
    control: mpsc::Receiver<Waiting>,
    bulk: mpsc::Receiver<Waiting>,
}

impl Queues {
    /// The next batch, as soon as there is anything; `None` once nobody can write any more.
    async fn next(&mut self) -> Option<Vec<Waiting>> {
        let (mut batch, mut rest) = (Vec::new(), Vec::new());
        tokio::select! {
            biased;
            first = self.control.recv() => batch.push(first?),
            first = self.bulk.recv() => rest.push(first?),
        }
        let mut bytes: usize = batch.iter().chain(&rest).map(|waiting| waiting.logged.len()).sum();
        for (queue, into) in [(&mut self.control, &mut batch), (&mut self.bulk, &mut rest)] {
            while into.len() < ENTRIES_MAX / 2 && bytes < BYTES_MAX {
                let Ok(waiting) = queue.try_recv() else { break };
                bytes += waiting.logged.len();
                into.push(waiting);
            }
        }
        batch.append(&mut rest);
        // Whoever has gone was told that nothing is known of it; nothing has to come of it.
        batch.retain(|waiting| !waiting.answer.is_closed());
        Some(batch)
    }
}

/// Hands over one batch after the other, until nobody can write any more.
async fn run(raft: Raft, mut queues: Queues) {
    let mut landing = FuturesUnordered::new();
    let mut under_way: Option<oneshot::Receiver<()>> = None;
    loop {
        let batch = tokio::select! {
            biased;
            Some(()) = landing.next() => continue,
            () = synced(&mut under_way), if under_way.is_some() => {
                under_way = None;
                continue;
            }
            batch = queues.next(), if under_way.is_none() => batch,
        };
        let Some(batch) = batch else { break };
        let Some(last) = batch.last() else { continue };
        under_way = Some(last.logged.mark());
        let (entries, answers): (Vec<_>, Vec<_>) =
            batch.into_iter().map(|waiting| (waiting.logged, waiting.answer)).unzip();
        match raft.client_write_many(entries).await {
            Ok(results) => landing.push(land(results, answers)),
            Err(fatal) => {
                for answer in answers {
                    let _ = answer.send(Err(GroupError::Stopped(fatal.to_string())));
                }
            }
        }
    }
    while landing.next().await.is_some() {}
}

/// Ends when the batch is on this master's disk, or will not come there: the core has refused it.
async fn synced(under_way: &mut Option<oneshot::Receiver<()>>) {
    if let Some(mark) = under_way {
        // An error means that the entry is gone, and the mark with it.
        let _ = mark.await;
    }
}

/// Answers everyone of a batch, in order, as its entries are applied.
async fn land(
    mut results: BoxStream<'static, Result<WriteResult<Types>, Fatal<Types>>>,
    answers: Vec<oneshot::Sender<Result<Written, GroupError>>>,
) {
    for answer in answers {
        let outcome = match results.next().await {
            Some(Ok(Ok(written))) => Ok(written.response),
            Some(Ok(Err(ClientWriteError::ForwardToLeader(to)))) => {
                Err(GroupError::NotLeader(to.leader_id.map(MasterId)))
            }
            Some(Ok(Err(ClientWriteError::ChangeMembershipError(error)))) => {
                Err(GroupError::Membership(error.to_string()))
            }
            // Preconditions belong to another kind of write, which is never asked for here.
            Some(Ok(Err(ClientWriteError::LogEntryDiscarded(_) | ClientWriteError::PreconditionFailed(_)))) | None => {
                Err(GroupError::Unknown)
            }
            Some(Err(fatal)) => Err(GroupError::Stopped(fatal.to_string())),
        };
        // Whoever waited may have gone.
        let _ = answer.send(outcome);
    }
}
