//! Returns, acceptances and mine values on their way from all sessions into the log, in batches.
//!
//! ```text
//!   sessions ── accept, record ──▶ room ──▶ Pile, a line a minion ──▶ one proposal for hundreds ──▶ each waiter its own verdict
//!            ── report ──────────▶ room ──▶ unchanged: the stamp alone, the same way · changed: one proposal a minion
//! ```
//!
//! * [`crate::room`] bounds what all of them and each of them hold, [`pile`] decides whose turn it is, [`kind`] says what is batched.
//!
//! **Invariants.** Every waiter is answered exactly once: with its own verdict if its entry was applied, with a refusal
//! otherwise. A call whose deadline passes while all of it still waits is dropped before it is proposed and refused as busy;
//! once part of it may be in a log its outcome is *unknown*. Every call here is harmless to repeat. If the truth refuses a
//! batch of many, each item is proposed alone, so that one wrong item never stands for the others.
//!
//! **It refuses** to hold more than [`ROOM_BYTES`] of what minions sent: they keep it on their disks and come back.

mod kind;
pub mod pile;

use crate::replica::Replica;
use crate::room::{Place, Room};
use crate::truth::{Committed, Lane, ProposeError};
use crate::witness::{Queue, Reason, Witness};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use kind::{Accepts, Affirms, Delivered, Deliveries, Delivery, Kind};
use pile::{Bounds, Pile};
use roaring::RoaringBitmap;
use saltern_store::StoreError;
use saltern_store::command::{Command, MineAffirmation, MineCommand, Refused, Reply};
use saltern_wire::io::Clock;
use saltern_wire::job::{Recorded, ReturnPart};
use saltern_wire::level::LEVEL_FLEET;
use saltern_wire::limits::RETURN_BATCH_BYTES_MAX;
use saltern_wire::mine::MineReport;
use saltern_wire::session::Refusal;
use saltern_wire::{JobId, Ordinal, Revision};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Most bytes of returns, acceptances and mine values that wait or are under way: four of the largest returns, and more than
/// the log takes in a second.
pub const ROOM_BYTES: usize = 64 * 1024 * 1024;

/// Items on the way to a pile, which takes all that comes: what they weigh is bounded by [`ROOM_BYTES`].
const QUEUE_MAX: usize = 16 * 1024;

/// Most entries under way at one time: enough to keep the log's fsyncs and one round trip busy, few enough for batches to
/// form.
const ENTRIES_IN_FLIGHT_MAX: usize = 4;

/// Entries under way beside which a small one goes as well: what trickles in waits for one of them at most, and costs half as
/// many entries.
const EAGER_ENTRIES_MAX: usize = 2;

/// What an item weighs beyond its body, in bytes: its names and digest, and its place in a line.
const ITEM_OVERHEAD_BYTES: usize = 128;

/// When a minion may come back to a full inbox, in milliseconds.
const RETRY_AFTER_MS: u64 = 250;

/// When a minion may come back to a cluster whose disks run out of room, in milliseconds: somebody has to make some first.
const NO_ROOM_RETRY_AFTER_MS: u64 = 5_000;
/// Times that a mine value is looked at again because another master wrote it meanwhile.
const AFFIRM_ATTEMPTS: u32 = 3;

/// The way of what minions send into the log. Cheap to clone.
#[derive(Clone)]
pub struct Inbox {
    replica: Arc<dyn Replica>,
    clock: Arc<dyn Clock>,
    witness: Arc<Witness>,
    deliveries: mpsc::Sender<Waiting<Deliveries>>,
    accepts: mpsc::Sender<Waiting<Accepts>>,
    affirms: mpsc::Sender<Waiting<Affirms>>,
    reports: Arc<Semaphore>,
    room: Room<u32>,
}

/// Who asks, and how long it waits.
#[derive(Debug, Clone, Copy)]
pub struct Asker {
    /// The minion's number.
    pub ordinal: Ordinal,
    /// When it no longer waits, by this master's monotonic clock.
    pub deadline: Duration,
}

impl Inbox {
    /// Starts the loops that batch, until `cancel`.
    pub fn start(
        replica: Arc<dyn Replica>,
        clock: Arc<dyn Clock>,
        witness: Arc<Witness>,
        tasks: &TaskTracker,
        cancel: &CancellationToken,
    ) -> Self {
        let (deliveries, deliveries_waiting) = mpsc::channel(QUEUE_MAX);
        let (accepts, accepts_waiting) = mpsc::channel(QUEUE_MAX);
        let (affirms, affirms_waiting) = mpsc::channel(QUEUE_MAX);
        let carrier = Carrier { replica: Arc::clone(&replica), clock: Arc::clone(&clock) };
        tasks.spawn(run::<Deliveries>(carrier.clone(), deliveries_waiting, cancel.clone()));
        tasks.spawn(run::<Accepts>(carrier.clone(), accepts_waiting, cancel.clone()));
        tasks.spawn(run::<Affirms>(carrier, affirms_waiting, cancel.clone()));
        let reports = Arc::new(Semaphore::new(ENTRIES_IN_FLIGHT_MAX));
        Self { replica, clock, witness, deliveries, accepts, affirms, reports, room: Room::new(ROOM_BYTES) }
    }

    /// Records parts of returns; one verdict a part, in order, and a revision that holds them all.
    pub async fn record(&self, asker: Asker, parts: Vec<ReturnPart>) -> Result<(Vec<Recorded>, Revision), Refusal> {
        let weight = parts.iter().map(|part| part.body.len() + ITEM_OVERHEAD_BYTES).sum();
        let place = self.make_room(asker, weight)?;
        let items = parts.into_iter().map(|part| Delivery::Part(asker.ordinal, part));
        let (verdicts, revision) = self.through(&self.deliveries, asker, place, items).await?;
        let recorded = verdicts.into_iter().filter_map(|verdict| match verdict {
            Delivered::Recorded(recorded) => Some(recorded),
            Delivered::Accepted => None,
        });
        Ok((recorded.collect(), revision))
    }

    /// Replicates that a minion has these jobs on its disk.
    pub async fn accept(&self, asker: Asker, jobs: Vec<JobId>) -> Result<Revision, Refusal> {
        let place = self.make_room(asker, jobs.len() * ITEM_OVERHEAD_BYTES)?;
        if self.replica.state().level() < LEVEL_FLEET {
            let items = jobs.into_iter().map(|jid| (jid, asker.ordinal));
            return self.through(&self.accepts, asker, place, items).await.map(|(_, revision)| revision);
        }
        let items = jobs.into_iter().map(|jid| Delivery::Accepted(jid, asker.ordinal));
        self.through(&self.deliveries, asker, place, items).await.map(|(_, revision)| revision)
    }

    /// Replicates mine values of a minion. Of those that the truth holds already only the stamp is: without it an older value
    /// that is still on its way through another master would take their place.
    pub async fn report(&self, asker: Asker, reports: Vec<MineReport>) -> Result<Revision, Refusal> {
        let place = self.make_room(asker, reports.iter().map(weight_of).sum())?;
        let mut revision = self.replica.revision();
        let mut left = reports;
        for attempt in 0..=AFFIRM_ATTEMPTS {
            let (mut same, mut news) = (Vec::new(), Vec::new());
            for report in left {
                match self.compare(asker.ordinal, &report)? {
                    Compared::Old => {}
                    Compared::Same(affirmation) if attempt < AFFIRM_ATTEMPTS => same.push((affirmation, report)),
                    Compared::Same(_) | Compared::News => news.push(report),
                }
            }
            revision = revision.max(self.propose_news(asker, news).await?);
            if same.is_empty() {
                break;
            }
            let affirmations: Vec<_> =
                same.iter().map(|(affirmation, report)| (affirmation.clone(), weight_of(report))).collect();
            let (_, at) = self.through(&self.affirms, asker, Arc::clone(&place), affirmations.into_iter()).await?;
            revision = revision.max(at);
            // Whatever another master wrote meanwhile is seen now that this entry is applied here.
            left = same.into_iter().map(|(_, report)| report).collect();
        }
        Ok(revision)
    }

    async fn propose_news(&self, asker: Asker, reports: Vec<MineReport>) -> Result<Revision, Refusal> {
        let mut pile = Pile::new(REPORT_BOUNDS);
        for report in reports {
            let weight = weight_of(&report);
            pile.push(asker.ordinal.0, report, weight);
        }
        let mut revision = Revision(0);
        while let Some(reports) = pile.poll_batch() {
            let Ok(turn) = tokio::time::timeout(self.left(asker), self.reports.acquire()).await else {
                return Err(late(&self.witness));
            };
            let _turn = turn.map_err(|_| Refusal::Unknown)?;
            let command = Command::Mine(MineCommand::Report { minion: asker.ordinal, reports });
            let proposed = self.replica.propose_within(Lane::Bulk, command, None, self.left(asker)).await;
            revision = settle(proposed)?.1;
            pile.handle_landed();
        }
        Ok(revision)
    }

    /// How a report stands to what the truth holds here.
    fn compare(&self, ordinal: Ordinal, report: &MineReport) -> Result<Compared, Refusal> {
        let whose = RoaringBitmap::from_iter([ordinal.0]);
        let held = self.replica.state().mine(&whose, &report.function).map_err(|error| unreadable(&error))?;
        // A tombstone is not listed: taking a value away twice is an entry, and harmless.
        let Some(held) = held.first() else { return Ok(Compared::News) };
        Ok(match Some(&held.value) == report.value.as_ref() {
            _ if held.stamp >= report.stamp => Compared::Old,
            true => Compared::Same(MineAffirmation {
                minion: ordinal,
                function: report.function.clone(),
                held: held.stamp,
                stamp: report.stamp,
            }),
            false => Compared::News,
        })
    }

    fn make_room(&self, asker: Asker, bytes: usize) -> Result<Arc<Place<u32>>, Refusal> {
        self.room.take(asker.ordinal.0, bytes).map(Arc::new).ok_or_else(|| {
            self.witness.refuse(Reason::InboxRoom);
            Refusal::Busy { retry_after_ms: RETRY_AFTER_MS }
        })
    }

    /// Bytes that are held, of [`ROOM_BYTES`].
    pub fn held_bytes(&self) -> usize {
        ROOM_BYTES.saturating_sub(self.room.free())
    }

    fn left(&self, asker: Asker) -> Duration {
        asker.deadline.saturating_sub(self.clock.monotonic())
    }

    /// Queues `items` and waits for all of their verdicts, as long as the asker does.
    async fn through<K: Kind>(
        &self,
        queue: &mpsc::Sender<Waiting<K>>,
        asker: Asker,
        place: Arc<Place<u32>>,
        items: impl Iterator<Item = K::Item>,
    ) -> Result<(Vec<K::Verdict>, Revision), Refusal> {
        let claim = Claim::new();
        let verdicts = async {
            let mut answers = Vec::new();
            for item in items {
                let (answer, answered) = oneshot::channel();
                let waiting = Waiting { item, asker, claim: claim.share(), _place: Arc::clone(&place), answer };
                queue.send(waiting).await.map_err(|_| Refusal::Unknown)?;
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
        };
        match tokio::time::timeout(self.left(asker), verdicts).await {
            Ok(outcome) => outcome,
            Err(_) if claim.give_up() => Err(late(&self.witness)),
            Err(_) => Err(Refusal::Unknown),
        }
    }
}

/// Nobody waits any more, and nothing was written.
pub(crate) fn late(witness: &Witness) -> Refusal {
    witness.expire(Queue::Inbox);
    Refusal::Busy { retry_after_ms: RETRY_AFTER_MS }
}

/// How a report stands to what the truth holds.
enum Compared {
    /// The truth holds it, or a newer one.
    Old,
    /// The truth holds this value under an older stamp.
    Same(MineAffirmation),
    /// The truth holds another value, or none.
    News,
}

/// How mine values of one minion are cut into entries.
const REPORT_BOUNDS: Bounds =
    Bounds { items_max: usize::MAX, bytes_max: RETURN_BATCH_BYTES_MAX, in_flight_max: 1, eager_max: 1 };

fn weight_of(report: &MineReport) -> usize {
    let value = report.value.as_ref().map_or(0, |value| value.to_string().len());
    report.function.len() + value + ITEM_OVERHEAD_BYTES
}

/// Whether a call is still waited for, or some of it may be in a log: one of the two, whoever is first. Whoever waits gives
/// up when it is dropped: the work of a session that is over is not done.
struct Claim(Arc<AtomicU8>);

const WAITING: u8 = 0;
const TAKEN: u8 = 1;
const GIVEN_UP: u8 = 2;

impl Claim {
    fn new() -> Self {
        Self(Arc::new(AtomicU8::new(WAITING)))
    }

    fn share(&self) -> SharedClaim {
        SharedClaim(Arc::clone(&self.0))
    }

    /// Nobody waits any more; false if some of it may be in a log.
    fn give_up(&self) -> bool {
        self.0.compare_exchange(WAITING, GIVEN_UP, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let _ = self.give_up();
    }
}

/// The queue's side of a [`Claim`].
struct SharedClaim(Arc<AtomicU8>);

impl SharedClaim {
    /// It is about to be proposed; false if nobody waits for it.
    fn take(&self) -> bool {
        let taken = self.0.compare_exchange(WAITING, TAKEN, Ordering::AcqRel, Ordering::Acquire);
        taken.is_ok() || taken == Err(TAKEN)
    }
}

/// An item and who waits for its verdict.
struct Waiting<K: Kind> {
    item: K::Item,
    asker: Asker,
    claim: SharedClaim,
    /// Held until the item is settled, even if nobody waits for it any more.
    _place: Arc<Place<u32>>,
    answer: oneshot::Sender<Result<(K::Verdict, Revision), Refusal>>,
}

/// What carries batches.
#[derive(Clone)]
struct Carrier {
    replica: Arc<dyn Replica>,
    clock: Arc<dyn Clock>,
}

/// The loop of one kind: gathers, proposes, answers.
async fn run<K: Kind>(carrier: Carrier, mut queue: mpsc::Receiver<Waiting<K>>, cancel: CancellationToken) {
    let mut pile: Pile<Waiting<K>> = Pile::new(K::BOUNDS);
    let mut under_way = FuturesUnordered::new();
    let mut fresh = Vec::new();
    loop {
        tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            // First of all everybody gets into its line: turns are given to those who are in one. What comes is bounded by
            // the room, and so by what lands.
            came = queue.recv_many(&mut fresh, QUEUE_MAX) => {
                if came == 0 {
                    return;
                }
                for waiting in fresh.drain(..) {
                    let weight = K::weight(&waiting.item);
                    pile.push(waiting.asker.ordinal.0, waiting, weight);
                }
            }
            Some(()) = under_way.next() => pile.handle_landed(),
        }
        while let Some(mut batch) = pile.poll_batch() {
            batch.retain(|waiting| waiting.claim.take());
            if batch.is_empty() {
                pile.handle_landed();
                continue;
            }
            under_way.push(carrier.carry(batch));
        }
    }
}

impl Carrier {
    /// Carries one batch through the log and answers everyone in it.
    async fn carry<K: Kind>(&self, batch: Vec<Waiting<K>>) {
        let items: Vec<K::Item> = batch.iter().map(|waiting| waiting.item.clone()).collect();
        let alone = items.len() == 1;
        // As long as the most patient one waits: what comes of it is everybody's.
        let deadline = batch.iter().map(|waiting| waiting.asker.deadline).max().unwrap_or_default();
        match self.propose::<K>(items, deadline).await {
            Ok((verdicts, revision)) => {
                for (waiting, verdict) in batch.into_iter().zip(verdicts) {
                    // A waiter whose deadline has passed is gone; the record stands all the same.
                    let _ = waiting.answer.send(Ok((verdict, revision)));
                }
            }
            Err(Refusal::Invalid(cause)) if !alone => {
                tracing::warn!(%cause, items = batch.len(), "the truth refused a batch; its items are proposed one by one");
                for waiting in batch {
                    let verdict = self.propose::<K>(vec![waiting.item], waiting.asker.deadline).await;
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

    async fn propose<K: Kind>(
        &self,
        items: Vec<K::Item>,
        deadline: Duration,
    ) -> Result<(Vec<K::Verdict>, Revision), Refusal> {
        let judged: Vec<bool> = items.iter().map(K::is_judged).collect();
        let within = deadline.saturating_sub(self.clock.monotonic());
        let proposed = self.replica.propose_within(Lane::Bulk, K::command(items), None, within).await;
        let (reply, revision) = settle(proposed)?;
        let Some(verdicts) = K::verdicts(reply, &judged) else {
            tracing::error!(%revision, count = judged.len(), "the truth answered a batch with something else than its verdicts");
            return Err(Refusal::Unknown);
        };
        Ok((verdicts, revision))
    }
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
