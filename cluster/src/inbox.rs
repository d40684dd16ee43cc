//! Returns, acceptances and mine values on their way from all sessions into the log, in batches.
//!
//! ```text
//!   sessions ── record, accept ──▶ bounded queue ──▶ Pile ──▶ one proposal for hundreds ──▶ each waiter its own verdict
//!            ── report ──────────▶ unchanged values dropped ──▶ one proposal a minion
//! ```
//!
//! **Invariants.** Every waiter is answered exactly once: with its own verdict if its entry was applied, with a refusal
//! otherwise. What a refusal calls *unknown* may have been written; every call here is harmless to repeat. If the truth
//! refuses a batch of many, each item is proposed alone, so that one wrong item never stands for the others.
//!
//! **It refuses** to hold more than [`ROOM_KIB`] of what minions sent: they keep it on their disks and come back.

pub mod pile;

use crate::replica::Replica;
use crate::truth::{Committed, Lane, ProposeError};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use pile::{Bounds, Pile};
use roaring::RoaringBitmap;
use saltern_store::StoreError;
use saltern_store::command::{Command, JobCommand, MineCommand, Refused, Reply};
use saltern_wire::fault_point;
use saltern_wire::job::{Recorded, ReturnPart};
use saltern_wire::limits::{RETURN_BATCH_BYTES_MAX, RETURNS_PER_ENTRY_MAX};
use saltern_wire::mine::MineReport;
use saltern_wire::session::Refusal;
use saltern_wire::{JobId, Ordinal, Revision};
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Most KiB of returns, acceptances and mine values that wait or are under way: 64 MiB is four of the largest returns, and
/// more than the log takes in a second.
pub const ROOM_KIB: u32 = 64 * 1024;

/// Most items that wait in front of a pile; what they weigh is bounded by [`ROOM_KIB`].
const QUEUE_MAX: usize = 16 * 1024;

/// Most entries under way at one time: enough to keep the log's fsyncs and one round trip busy, few enough for batches to
/// form.
const ENTRIES_IN_FLIGHT_MAX: usize = 4;

/// Most acceptances of one entry: at about 40 bytes each they stay well below the largest log entry.
const ACCEPTS_PER_ENTRY_MAX: usize = 4096;

/// What an item weighs beyond its body, in bytes: its names and digest.
const ITEM_OVERHEAD_BYTES: usize = 128;

/// When a minion may come back to a full inbox, in milliseconds.
const RETRY_AFTER_MS: u64 = 250;

/// When a minion may come back to a cluster whose disks run out of room, in milliseconds: somebody has to make some first.
const NO_ROOM_RETRY_AFTER_MS: u64 = 5_000;

/// The way of what minions send into the log. Cheap to clone.
#[derive(Clone)]
pub struct Inbox {
    replica: Arc<dyn Replica>,
    returns: mpsc::Sender<Waiting<Returns>>,
    accepts: mpsc::Sender<Waiting<Accepts>>,
    reports: Arc<Semaphore>,
    room: Arc<Semaphore>,
}

impl Inbox {
    /// Starts the two loops that batch, until `cancel`.
    pub fn start(replica: Arc<dyn Replica>, tasks: &TaskTracker, cancel: &CancellationToken) -> Self {
        let (returns, returns_waiting) = mpsc::channel(QUEUE_MAX);
        let (accepts, accepts_waiting) = mpsc::channel(QUEUE_MAX);
        tasks.spawn(run::<Returns>(Arc::clone(&replica), returns_waiting, cancel.clone()));
        tasks.spawn(run::<Accepts>(Arc::clone(&replica), accepts_waiting, cancel.clone()));
        let reports = Arc::new(Semaphore::new(ENTRIES_IN_FLIGHT_MAX));
        let room = Arc::new(Semaphore::new(usize::try_from(ROOM_KIB).unwrap_or(usize::MAX)));
        Self { replica, returns, accepts, reports, room }
    }

    /// Records parts of returns of the minion `ordinal`; one verdict a part, in order, and a revision that holds them all.
    pub async fn record(&self, ordinal: Ordinal, parts: Vec<ReturnPart>) -> Result<(Vec<Recorded>, Revision), Refusal> {
        let weight = parts.iter().map(|part| part.body.len() + ITEM_OVERHEAD_BYTES).sum();
        let room = self.make_room(weight)?;
        let items = parts.into_iter().map(|part| (ordinal, part));
        self.through(&self.returns, room, items).await
    }

    /// Replicates that the minion `ordinal` has these jobs on its disk.
    pub async fn accept(&self, ordinal: Ordinal, jobs: Vec<JobId>) -> Result<Revision, Refusal> {
        let room = self.make_room(jobs.len() * ITEM_OVERHEAD_BYTES)?;
        let items = jobs.into_iter().map(|jid| (jid, ordinal));
        self.through(&self.accepts, room, items).await.map(|(_, revision)| revision)
    }

    /// Replicates mine values of the minion `ordinal`. What the truth holds already is not proposed.
    pub async fn report(&self, ordinal: Ordinal, reports: Vec<MineReport>) -> Result<Revision, Refusal> {
        let weights: Vec<usize> = reports.iter().map(weight_of).collect();
        let _room = self.make_room(weights.iter().sum())?;
        let mut pile = Pile::new(REPORT_BOUNDS);
        for (report, weight) in reports.into_iter().zip(weights) {
            if self.is_news(ordinal, &report)? {
                pile.push(report, weight);
            }
        }
        let mut revision = self.replica.revision();
        while let Some(reports) = pile.poll_batch() {
            let _turn = self.reports.acquire().await.map_err(|_| Refusal::Unknown)?;
            let command = Command::Mine(MineCommand::Report { minion: ordinal, reports });
            revision = settle(self.replica.propose(Lane::Bulk, command, None).await)?.1;
            pile.handle_landed();
        }
        Ok(revision)
    }

    /// Whether the truth does not hold this already.
    fn is_news(&self, ordinal: Ordinal, report: &MineReport) -> Result<bool, Refusal> {
        let whose = RoaringBitmap::from_iter([ordinal.0]);
        let held = self.replica.state().mine(&whose, &report.function).map_err(|error| unreadable(&error))?;
        // A tombstone is not listed: taking a value away twice is an entry, and harmless.
        Ok(held.first().is_none_or(|held| held.stamp < report.stamp && Some(&held.value) != report.value.as_ref()))
    }

    fn make_room(&self, bytes: usize) -> Result<Room, Refusal> {
        let kib = u32::try_from(bytes / 1024 + 1).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.room);
        room.try_acquire_many_owned(kib).map(Arc::new).map_err(|_| Refusal::Busy { retry_after_ms: RETRY_AFTER_MS })
    }

    /// Queues `items` and waits for all of their verdicts.
    async fn through<K: Kind>(
        &self,
        queue: &mpsc::Sender<Waiting<K>>,
        room: Room,
        items: impl Iterator<Item = K::Item>,
    ) -> Result<(Vec<K::Verdict>, Revision), Refusal> {
        let mut answers = Vec::new();
        for item in items {
            let (answer, answered) = oneshot::channel();
            queue.send(Waiting { item, answer, _room: Arc::clone(&room) }).await.map_err(|_| Refusal::Unknown)?;
            answers.push(answered);
        }
        let mut verdicts = Vec::with_capacity(answers.len());
        let mut revision = self.replica.revision();
        for answered in answers {
            // Dropped without an answer: this master is stopping.
            let (verdict, at) = answered.await.map_err(|_| Refusal::Unknown)??;
            revision = revision.max(at);
            verdicts.push(verdict);
        }
        Ok((verdicts, revision))
    }
}

/// The share of [`ROOM_KIB`] that one call holds, by all of its items together.
type Room = Arc<OwnedSemaphorePermit>;

/// How mine values of one minion are cut into entries.
const REPORT_BOUNDS: Bounds = Bounds { items_max: usize::MAX, bytes_max: RETURN_BATCH_BYTES_MAX, in_flight_max: 1 };

fn weight_of(report: &MineReport) -> usize {
    let value = report.value.as_ref().map_or(0, |value| value.to_string().len());
    report.function.len() + value + ITEM_OVERHEAD_BYTES
}

/// A sort of item that is batched.
trait Kind: Send + 'static {
    /// One item.
    type Item: Clone + Send + 'static;
    /// What its sender learns.
    type Verdict: Send + 'static;
    /// How large a batch may be.
    const BOUNDS: Bounds;
    /// What an item weighs, in bytes.
    fn weight(item: &Self::Item) -> usize;
    /// The command for a batch.
    fn command(items: Vec<Self::Item>) -> Command;
    /// One verdict an item, in order; `None` if the reply does not fit the question.
    fn verdicts(reply: Reply, items: usize) -> Option<Vec<Self::Verdict>>;
}

/// Parts of returns.
enum Returns {}

impl Kind for Returns {
    type Item = (Ordinal, ReturnPart);
    type Verdict = Recorded;
    const BOUNDS: Bounds = Bounds {
        items_max: RETURNS_PER_ENTRY_MAX,
        bytes_max: RETURN_BATCH_BYTES_MAX,
        in_flight_max: ENTRIES_IN_FLIGHT_MAX,
    };

    fn weight((_, part): &Self::Item) -> usize {
        part.body.len() + ITEM_OVERHEAD_BYTES
    }

    /// Called right before a batch is proposed.
    fn command(returns: Vec<Self::Item>) -> Command {
        fault_point!("return.commit.before");
        Command::Job(JobCommand::Record { returns })
    }

    /// Called once a batch is committed, before anybody hears of it.
    fn verdicts(reply: Reply, items: usize) -> Option<Vec<Recorded>> {
        fault_point!("return.commit.after");
        match reply {
            Reply::Recorded(verdicts) if verdicts.len() == items => Some(verdicts),
            Reply::Recorded(_)
            | Reply::Done
            | Reply::Keys(_)
            | Reply::Opened { .. }
            | Reply::Joined { .. }
            | Reply::Token { .. } => None,
        }
    }
}

/// Acceptances of jobs.
enum Accepts {}

impl Kind for Accepts {
    type Item = (JobId, Ordinal);
    type Verdict = ();
    const BOUNDS: Bounds =
        Bounds { items_max: ACCEPTS_PER_ENTRY_MAX, bytes_max: usize::MAX, in_flight_max: ENTRIES_IN_FLIGHT_MAX };

    fn weight(_: &Self::Item) -> usize {
        ITEM_OVERHEAD_BYTES
    }

    fn command(accepted: Vec<Self::Item>) -> Command {
        Command::Job(JobCommand::Accept { accepted })
    }

    fn verdicts(_: Reply, items: usize) -> Option<Vec<()>> {
        Some(vec![(); items])
    }
}

/// An item and who waits for its verdict.
struct Waiting<K: Kind> {
    item: K::Item,
    /// Held until the item is settled, even if nobody waits for it any more.
    _room: Room,
    answer: oneshot::Sender<Result<(K::Verdict, Revision), Refusal>>,
}

/// The loop of one kind: gathers, proposes, answers.
async fn run<K: Kind>(replica: Arc<dyn Replica>, mut queue: mpsc::Receiver<Waiting<K>>, cancel: CancellationToken) {
    let mut pile: Pile<Waiting<K>> = Pile::new(K::BOUNDS);
    let mut under_way = FuturesUnordered::new();
    let mut fresh = Vec::new();
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            Some(()) = under_way.next() => pile.handle_landed(),
            came = queue.recv_many(&mut fresh, QUEUE_MAX), if pile.len() < QUEUE_MAX => {
                if came == 0 {
                    return;
                }
                for waiting in fresh.drain(..) {
                    let weight = K::weight(&waiting.item);
                    pile.push(waiting, weight);
                }
            }
        }
        while let Some(batch) = pile.poll_batch() {
            under_way.push(carry::<K>(Arc::clone(&replica), batch));
        }
    }
}

/// Carries one batch through the log and answers everyone in it.
async fn carry<K: Kind>(replica: Arc<dyn Replica>, batch: Vec<Waiting<K>>) {
    let items: Vec<K::Item> = batch.iter().map(|waiting| waiting.item.clone()).collect();
    let alone = items.len() == 1;
    match propose::<K>(replica.as_ref(), items).await {
        Ok((verdicts, revision)) => {
            for (waiting, verdict) in batch.into_iter().zip(verdicts) {
                // A waiter whose deadline has passed is gone; the record stands all the same.
                let _ = waiting.answer.send(Ok((verdict, revision)));
            }
        }
        Err(Refusal::Invalid(cause)) if !alone => {
            tracing::warn!(%cause, items = batch.len(), "the truth refused a batch; its items are proposed one by one");
            for waiting in batch {
                let verdict = propose::<K>(replica.as_ref(), vec![waiting.item]).await;
                let first = |(verdicts, revision): (Vec<_>, _)| {
                    verdicts.into_iter().next().map(|verdict| (verdict, revision)).ok_or(Refusal::Unknown)
                };
                let _ = waiting.answer.send(verdict.and_then(first));
            }
        }
        Err(refusal) => {
            for waiting in batch {
                let _ = waiting.answer.send(Err(refusal.clone()));
            }
        }
    }
}

async fn propose<K: Kind>(replica: &dyn Replica, items: Vec<K::Item>) -> Result<(Vec<K::Verdict>, Revision), Refusal> {
    let count = items.len();
    let (reply, revision) = settle(replica.propose(Lane::Bulk, K::command(items), None).await)?;
    let Some(verdicts) = K::verdicts(reply, count) else {
        tracing::error!(%revision, count, "the truth answered a batch with something else than its verdicts");
        return Err(Refusal::Unknown);
    };
    Ok((verdicts, revision))
}

/// What a minion is told of a proposal's outcome.
pub fn settle(outcome: Result<Committed, ProposeError>) -> Result<(Reply, Revision), Refusal> {
    let committed = outcome.map_err(|error| refusal_of(&error))?;
    match committed.applied {
        Ok(reply) => Ok((reply, committed.revision)),
        // What minions propose names nothing but their own key.
        Err(Refused::NotFound(_)) => Err(Refusal::NotAccepted),
        Err(
            refused @ (Refused::Invalid(_)
            | Refused::NoTargets
            | Refused::Conflict(_)
            | Refused::Limit(_)
            | Refused::Token(_)),
        ) => Err(Refusal::Invalid(refused.to_string())),
    }
}

/// A table that cannot be read: the fault is this master's, so the minion keeps what it has and comes back.
pub(crate) fn unreadable(error: &StoreError) -> Refusal {
    tracing::error!(%error, "a table of the truth cannot be read");
    Refusal::Busy { retry_after_ms: RETRY_AFTER_MS }
}

/// A proposal that failed, in the words of a session.
pub fn refusal_of(error: &ProposeError) -> Refusal {
    match error {
        ProposeError::NoQuorum => Refusal::NoQuorum,
        ProposeError::Unknown | ProposeError::Stopped => Refusal::Unknown,
        ProposeError::Busy => Refusal::Busy { retry_after_ms: RETRY_AFTER_MS },
        ProposeError::NoRoom(_) => Refusal::Busy { retry_after_ms: NO_ROOM_RETRY_AFTER_MS },
    }
}

#[cfg(test)]
mod tests;
