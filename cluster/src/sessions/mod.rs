//! The minions attached to this master, from their handshake to their last word.
//!
//! ```text
//!   Listener ─▶ slot? ─▶ handshake (so many at a time) ─▶ Attach ─▶ session task ──▶ Roster, Presence
//!                                                            │  ▲
//!     publishing ── evict, recheck, offer, rekey ── mailbox ─┘  └─ standing, grant, offers, replies ─▶ minion
//!     calls ──▶ Inbox, proposals, local reads
//! ```
//!
//! * [`queue`] has those come later who are too many at once: [`slots`] says when, [`pace`] how many a second.
//! * [`session`] is one session: a reader that decides and a writer that drains a bounded queue.
//! * [`standby`] sessions wait until their minion's own master is gone: [`promote`] tells them, [`moves`] counts who came.
//! * [`roster`] knows them all; [`standing`] is what the truth thinks of a key; [`calls`] answers questions; [`limits`] says
//!   how much one of them may ask.
//!
//! **Invariants.** The identity of a session is what its handshake proved. Attaching writes nothing to the log unless the
//! key is unknown or the minion is a new incarnation. A session begins after a majority has confirmed that what is applied
//! here is the newest, if there is one; from then on publishing ends it as soon as its revocation is applied, before the
//! fan-out gets its next key.
//!
//! Whoever asks too much is read more slowly, refused or sent away ([`limits`]), counted and named.
//!
//! **It refuses** whoever comes while this master has had no contact to a majority since its start, or none for longer
//! than the setting `auth_max_stale_seconds`: it could not know of a revocation.

mod calls;
pub(crate) mod limits;
pub mod moves;
mod pace;
pub mod parcel;
pub(crate) mod promote;
mod queue;
pub mod roster;
pub(crate) mod session;
mod slots;
pub mod standby;
pub mod standing;

pub use queue::QueueState;
pub use roster::{Counts, Roster};
pub use slots::SlotCounts;

use crate::delivery::Credit;
use crate::inbox::Inbox;
use crate::presence::Presence;
use crate::replica::Replica;
use crate::sessions::limits::Limits;
use crate::sessions::queue::Queue;
use crate::sessions::roster::Session;
use crate::witness::{Reason, Witness};
use saltern_pubsub::publisher::Publisher;
use saltern_pubsub::serve::{Caller, MasterCredentials, ServedSession};
use saltern_pubsub::zmq::GateLimits;
use saltern_store::StoreError;
use saltern_wire::crypto::PublicKey;
use saltern_wire::io::{Address, Io, Link, Listener, TransportError};
use saltern_wire::limits::HANDSHAKE_TIMEOUT_MS;
use saltern_wire::session::{Attach, Standing, ToMaster, ToMinion};
use saltern_wire::{MasterId, MinionId, Ordinal};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Handshakes under way at one time. At about 0.3 ms of one core each they are done at once; what the bound is for are
/// peers that say nothing for [`HANDSHAKE_TIMEOUT_MS`]. A little more than the gate lets in unproven
/// ([`saltern_pubsub::zmq::GateLimits::UNPROVEN_MAX`]): the gate is fair between sources, a semaphore is not.
const HANDSHAKES_MAX: usize = 1100;

/// Sessions of one master: the file descriptors of one process, three a minion, end earlier.
const SESSIONS_MAX: u64 = 20_000;

/// Sessions of minions whose key is not accepted: a rack or two that wait for an operator. Accepted minions have the rest to
/// themselves, whoever else comes.
const STRANGER_SESSIONS_MAX: u64 = 4_000;

/// Grains and incarnations proposed at one time: each is an entry of its own, of up to 256 KiB.
const FACTS_IN_FLIGHT_MAX: usize = 8;

/// Minions seated and not yet looked at by publishing. Whoever finds no place is found by its sweep.
const SEATED_MAX: usize = 4096;

/// How long a majority may take to confirm what is applied here: two of the longest round trips, generously.
const CONFIRM_WITHIN: Duration = Duration::from_secs(2);

/// How long a minion's second session stays away from a master that has no room for it, in milliseconds.
const STANDBY_RETRY_AFTER_MS: u64 = 60_000;

/// Why a second session is not let in.
const NO_STANDBY: &str = "this master keeps its places for minions that work through it";

/// How long a minion stays away from a master that cannot serve it now, in milliseconds.
pub(crate) const RETRY_AFTER_MS: u64 = 2_000;

/// What sessions are made of.
pub struct Parts {
    /// The truth.
    pub replica: Arc<dyn Replica>,
    /// The edges.
    pub io: Io,
    /// The fan-out that accepted minions may listen to.
    pub publisher: SharedPublisher,
    /// Proves this master.
    pub credentials: MasterCredentials,
    /// Where attached minions are shown.
    pub presence: Presence,
    /// The way of returns into the log.
    pub inbox: Inbox,
    /// Counts what is refused, and tells who asked for it.
    pub witness: Arc<Witness>,
}

/// The fan-out, shared between sessions, which admit and revoke, and publishing, which publishes and rekeys. Locked for one
/// call at a time.
#[derive(Clone)]
pub struct SharedPublisher(Arc<Mutex<Publisher>>);

impl SharedPublisher {
    /// Shares `publisher`.
    pub fn new(publisher: Publisher) -> Self {
        Self(Arc::new(Mutex::new(publisher)))
    }

    /// Locks it for one call.
    pub fn lock(&self) -> MutexGuard<'_, Publisher> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What every session shares.
pub(crate) struct Shared {
    pub(crate) replica: Arc<dyn Replica>,
    pub(crate) io: Io,
    pub(crate) publisher: SharedPublisher,
    pub(crate) presence: Presence,
    pub(crate) inbox: Inbox,
    pub(crate) credit: Credit,
    pub(crate) roster: Roster,
    pub(crate) witness: Arc<Witness>,
    pub(crate) limits: Mutex<Limits>,
    queue: Arc<Queue>,
    pub(crate) facts: Semaphore,
    /// Tells publishing of accepted minions that have just been seated.
    pub(crate) seated: mpsc::Sender<Ordinal>,
    credentials: MasterCredentials,
    confirmations: mpsc::Sender<oneshot::Sender<()>>,
    contact: AtomicBool,
    /// This master is about to end: nobody attaches any more.
    closed: AtomicBool,
    next: AtomicU64,
    /// Minions that came from other masters.
    pub(crate) moves: moves::Moves,
    /// Connections for sessions that the gate lets in.
    connections_max: u64,
}

/// The sessions of this master. Cheap to clone.
#[derive(Clone)]
pub struct Sessions {
    shared: Arc<Shared>,
    address: Address,
    /// For publishing, which takes it once.
    seated: Arc<Mutex<Option<mpsc::Receiver<Ordinal>>>>,
}

impl Sessions {
    /// Accepts minions on `listener` until `cancel`, which also ends every session. Tasks are tracked by `tasks`.
    pub fn start(parts: Parts, listener: Box<dyn Listener>, tasks: &TaskTracker, cancel: CancellationToken) -> Self {
        let Parts { replica, io, publisher, credentials, presence, inbox, witness } = parts;
        let (seated, seated_waiting) = mpsc::channel(SEATED_MAX);
        let (confirmations, confirmations_waiting) = mpsc::channel(HANDSHAKES_MAX);
        tasks.spawn(confirm(Arc::clone(&replica), confirmations_waiting, cancel.clone()));
        let limits = Mutex::new(Limits::new(io.clock.monotonic()));
        let queue = Arc::new(Queue::open(&io, &credentials, Arc::clone(&witness)));
        tasks.spawn(Arc::clone(&queue).keep_pace(Arc::clone(&replica), presence.clone(), cancel.clone()));
        let credit = Credit::new(Arc::clone(&replica), Arc::clone(&io.clock), inbox.clone());
        tasks.spawn(credit.clone().run(cancel.clone()));
        let shared = Arc::new(Shared {
            contact: AtomicBool::new(replica.quorum().fresh),
            closed: AtomicBool::new(false),
            replica,
            io,
            publisher,
            presence,
            inbox,
            credit,
            roster: Roster::default(),
            witness,
            limits,
            queue,
            facts: Semaphore::new(FACTS_IN_FLIGHT_MAX),
            seated,
            confirmations,
            credentials,
            next: AtomicU64::new(1),
            moves: moves::Moves::default(),
            connections_max: u64::try_from(GateLimits::default().connections_max).unwrap_or(u64::MAX),
        });
        let seated = Arc::new(Mutex::new(Some(seated_waiting)));
        let sessions = Self { shared: Arc::clone(&shared), address: listener.address(), seated };
        tasks.spawn(accept(shared, listener, tasks.clone(), cancel));
        sessions
    }

    /// Where they are accepted.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// All sessions.
    pub fn roster(&self) -> &Roster {
        &self.shared.roster
    }

    /// Minions that came from other masters.
    pub fn moves(&self) -> &moves::Moves {
        &self.shared.moves
    }

    /// The way of returns into the log.
    pub fn inbox(&self) -> &Inbox {
        &self.shared.inbox
    }

    /// Over how long this master's minions should spread when it dies: as long as the others take to let them in, if they
    /// cannot do so at once. Without others, they all come back to this one.
    pub fn reconnect_window(&self) -> Duration {
        let others = self.shared.presence.room_of_others();
        let room = if others.rate == 0 { self.queue().room() } else { others };
        pace::reconnect_window(self.shared.roster.counts().accepted, room)
    }

    /// What the queue of those who want to attach is like.
    pub fn queue(&self) -> QueueState {
        self.shared.queue.read()
    }

    /// How outboxes are drained.
    pub fn credit(&self) -> &Credit {
        &self.shared.credit
    }

    /// Counts what is refused, and tells who asked for it.
    pub fn witness(&self) -> &Arc<Witness> {
        &self.shared.witness
    }

    /// Numbers of accepted minions that have just been seated and are to be offered their open jobs. For one taker.
    pub(crate) fn take_seated(&self) -> Option<mpsc::Receiver<Ordinal>> {
        self.seated.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Remembers that this master has contact to a majority: without any since its start, nobody may attach.
    pub fn note_contact(&self) {
        self.shared.contact.store(true, Ordering::Relaxed);
    }

    /// Lets nobody attach any more: this master is about to end.
    pub fn close(&self) {
        self.shared.closed.store(true, Ordering::Relaxed);
    }

    /// Ends the session of `key` at once with these last words, withdraws its right to the fan-out and its seat.
    pub fn evict(&self, key: &PublicKey, last: Vec<ToMinion>) -> bool {
        let evicted = self.shared.roster.evict(key, last);
        if let Some(session) = &evicted {
            self.shared.release(session);
        }
        evicted.is_some()
    }

    /// The standing of `key` may have changed.
    pub fn recheck(&self, key: &PublicKey) {
        if let Some(session) = self.shared.roster.get(key) {
            session.mailbox.recheck.notify_one();
        }
    }

    /// Holds every session against the truth: whoever must not stay is evicted before this returns, the others look again.
    pub fn verify_all(&self) {
        for session in self.shared.roster.list() {
            let standing = match self.shared.standing(&session.minion, &session.public_key) {
                Ok(standing) => standing,
                Err(error) => {
                    tracing::error!(minion = %session.minion, %error, "a key cannot be read");
                    continue;
                }
            };
            // A key that the truth does not hold may be on its way there, unless it was accepted before.
            let missing = session.seat.map(|_| Standing::Deleted);
            match standing.or(missing).filter(|standing| standing::farewell(*standing).is_some()) {
                Some(standing) => _ = self.evict(&session.public_key, session::last_words(standing)),
                None => session.mailbox.recheck.notify_one(),
            }
        }
    }
}

impl Shared {
    /// What the truth thinks of `key` under the id `minion`; `None` if it has never seen it there.
    pub(crate) fn standing(&self, minion: &MinionId, key: &PublicKey) -> Result<Option<Standing>, StoreError> {
        let state = self.replica.state();
        if let Some(standing) = state.key(minion).and_then(|record| standing::judge(&[record], key)) {
            return Ok(Some(standing));
        }
        Ok(standing::judge(&state.denied_of(minion)?, key))
    }

    /// Takes back what a session held that is no longer in the roster.
    pub(crate) fn release(&self, session: &Session) {
        if let Some(seat) = session.seat {
            self.publisher.lock().revoke(seat.capability);
        }
        if session.shown {
            self.presence.detach(&session.minion, self.replica.now());
        }
    }

    /// The limits that all sessions share.
    pub(crate) fn limits(&self) -> MutexGuard<'_, Limits> {
        self.limits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a minion may try to attach now. One that comes again and again takes its time from nobody else; strangers have
    /// a part of the sessions, and never the accepted minions' part.
    fn admit(&self, served: &ServedSession, attach: &Attach, peer: &str) -> Result<(), &'static str> {
        let now = self.io.clock.monotonic();
        if !self.limits().attach(served.public_key, now) {
            self.witness.refuse_of(Reason::AttachRate, served.minion.as_str());
            return Err("this minion attaches too often");
        }
        let accepted = matches!(self.standing(&served.minion, &served.public_key), Ok(Some(Standing::Accepted { .. })));
        let counts = self.roster.counts();
        if attach.role.is_standby() {
            if !accepted {
                return Err("only an accepted minion has a second session");
            }
            return standby::fits(counts, self.connections_max).then_some(()).ok_or(NO_STANDBY);
        }
        let strangers = counts.attached.saturating_sub(counts.accepted).saturating_sub(counts.standby);
        if !accepted && strangers >= STRANGER_SESSIONS_MAX {
            self.witness.refuse_of(Reason::StrangerSessions, limits::source_of(peer));
            return Err("too many minions wait for their acceptance");
        }
        Ok(())
    }

    /// Makes room for those who work through this master, of those who wait; minions of `spared` wait for good reason.
    pub(crate) fn make_room(&self, spared: Option<MasterId>) {
        let excess = standby::excess(self.roster.counts(), self.connections_max);
        self.roster.dismiss_standbys(excess, spared, STANDBY_RETRY_AFTER_MS);
    }

    /// Waits until whatever was acknowledged before is applied here, so that a decision about a key counts for every session
    /// that begins after it. Without a majority there is nobody to ask, and [`Shared::closed`] decides.
    async fn confirm(&self) {
        if !self.replica.quorum().contact {
            return;
        }
        let (answer, answered) = oneshot::channel();
        if self.confirmations.send(answer).await.is_ok() {
            // Dropped without an answer: this master is stopping, and so is the session.
            let _ = answered.await;
        }
    }

    /// Why nobody may attach now, for people; `None` if minions may.
    fn closed(&self) -> Option<String> {
        if self.closed.load(Ordering::Relaxed) {
            return Some("this master is about to end".into());
        }
        let quorum = self.replica.quorum();
        if quorum.fresh {
            self.contact.store(true, Ordering::Relaxed);
        } else if !self.contact.load(Ordering::Relaxed) {
            return Some("this master has had no contact to a majority since its start".into());
        }
        let limit_s = self.replica.state().settings().auth_max_stale_seconds;
        let stale_ms = quorum.stale_ms.unwrap_or(0);
        if stale_ms > limit_s.saturating_mul(1000) {
            return Some(format!(
                "this master lost contact to a majority {} s ago, the limit is {limit_s} s",
                stale_ms / 1000
            ));
        }
        (self.roster.counts().attached >= SESSIONS_MAX).then(|| format!("this master has its {SESSIONS_MAX} sessions"))
    }
}

/// Asks for all minions that attach at one time together: a herd costs a few round trips, not one each.
async fn confirm(
    replica: Arc<dyn Replica>,
    mut waiting: mpsc::Receiver<oneshot::Sender<()>>,
    cancel: CancellationToken,
) {
    let mut asking = Vec::new();
    loop {
        let came = tokio::select! {
            () = cancel.cancelled() => return,
            came = waiting.recv_many(&mut asking, HANDSHAKES_MAX) => came,
        };
        if came == 0 {
            return;
        }
        if let Err(error) = replica.confirm(CONFIRM_WITHIN).await {
            tracing::info!(%error, "minions attach on what is applied here: no majority confirms that it is the newest");
        }
        for answer in asking.drain(..) {
            let _ = answer.send(());
        }
    }
}

/// The accept loop.
async fn accept(shared: Arc<Shared>, mut listener: Box<dyn Listener>, tasks: TaskTracker, cancel: CancellationToken) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    loop {
        let accepted = tokio::select! {
            () = cancel.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let link = match accepted {
            Ok(link) => link,
            Err(error) => {
                tracing::error!(%error, "the listener for minions is gone: this master takes no new sessions");
                return;
            }
        };
        let Ok(permit) = Arc::clone(&handshakes).try_acquire_owned() else {
            // Dropped before any cryptography; the minion's back-off brings it again.
            shared.witness.refuse_of(Reason::Handshakes, limits::source_of(&link.peer));
            continue;
        };
        tasks.spawn(attend(Arc::clone(&shared), link, permit, cancel.child_token()));
    }
}

/// One link, from handshake to end.
async fn attend(shared: Arc<Shared>, link: Link, permit: OwnedSemaphorePermit, ended: CancellationToken) {
    let peer = link.peer.clone();
    let opened = tokio::select! {
        () = ended.cancelled() => return,
        opened = open(&shared, link) => opened,
    };
    drop(permit);
    match opened {
        Ok(None) => {}
        Ok(Some((served, attach))) => {
            if let Err(reason) = shared.admit(&served, &attach, &peer) {
                session::dismiss(served, reason.into()).await;
                return;
            }
            shared.confirm().await;
            if let Some(reason) = shared.closed() {
                tracing::info!(minion = %served.minion, %peer, %reason, "a minion may not attach");
                session::dismiss(served, reason).await;
                return;
            }
            let id = roster::SessionId(shared.next.fetch_add(1, Ordering::Relaxed));
            session::run(shared, served, session::Opening { attach, id, peer }, ended).await;
        }
        Err(error) => tracing::info!(%peer, %error, "no session came to be"),
    }
}

/// Why a link brought no session.
#[derive(Debug, thiserror::Error)]
enum OpenError {
    /// The handshake failed.
    #[error(transparent)]
    Session(#[from] saltern_pubsub::channel::SessionError),
    /// The first message was late.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The first message was another.
    #[error("the first message of {peer} was no attach")]
    NotAttached {
        /// The other end's address.
        peer: String,
    },
}

/// Handshake and first message, each under its limit; `None` if the minion was given a slot instead.
async fn open(shared: &Shared, link: Link) -> Result<Option<(ServedSession, Attach)>, OpenError> {
    let within = Duration::from_millis(HANDSHAKE_TIMEOUT_MS);
    let peer = link.peer.clone();
    let caller = Caller::listen(link, within).await?;
    let source = limits::source_of(&peer);
    if let Some(slot) = shared.queue.arrive(source, caller.ticket()) {
        caller.turn_away(slot, within).await?;
        return Ok(None);
    }
    let (entropy, clock) = (shared.io.entropy.as_ref(), shared.io.clock.as_ref());
    let served = caller.serve(&shared.credentials, entropy, clock, within).await;
    shared.queue.handle_over(source, served.as_ref().ok().map(|served| served.worked));
    let mut served = served?;
    match tokio::time::timeout(within, served.receiver.recv()).await {
        Ok(Ok(ToMaster::Attach(attach))) => Ok(Some((served, attach))),
        Ok(Ok(ToMaster::Ping { .. } | ToMaster::Call { .. } | ToMaster::Want { .. } | ToMaster::Role(_))) => {
            Err(OpenError::NotAttached { peer })
        }
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(TransportError::TimedOut { peer, after_ms: HANDSHAKE_TIMEOUT_MS }.into()),
    }
}

#[cfg(test)]
mod tests;
