//! How full outboxes are drained: minions ask for credit, and get it in turn.
//!
//! ```text
//!   minion ── Want(bytes) ──▶ Credits (a queue) ── Credit(bytes) ──▶ minion ── Return … ──▶ Purse ─▶ inbox
//!                                   ▲───────────── answered, over, unused ─────────────────┘
//! ```
//!
//! Returns that fit a session's window ([`RETURN_WINDOW_BYTES`]) come unasked and cost nothing here. Beyond it a fleet that
//! comes back with full outboxes would send at once what its masters need minutes for, to be refused and sent again.
//!
//! **Invariants.** A master reads at most [`CREDIT_BYTES_MAX`] beyond the windows at one time, of minions that keep to it; of
//! those that do not, the inbox takes what it has room for. Nothing is given while no majority is in reach, or while the
//! inbox is full: what would come could not be committed.

pub mod credits;

use crate::inbox::{Inbox, ROOM_BYTES};
use crate::replica::Replica;
use crate::sessions::roster::{Mailbox, SessionId};
use credits::Credits;
use saltern_wire::io::Clock;
use saltern_wire::job::ReturnPart;
use saltern_wire::limits::{RETURN_PART_OVERHEAD_BYTES, RETURN_WINDOW_BYTES};
use saltern_wire::session::ToMinion;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Most bytes of returns that are given and not answered: half of what the inbox holds, and about what a second commits.
const CREDIT_BYTES_MAX: u64 = ROOM_BYTES as u64 / 2;

/// How often it is looked whether those who wait can be given something, when nothing else says so.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// The credit of one master. Cheap to clone.
#[derive(Clone)]
pub struct Credit(Arc<Shared>);

struct Shared {
    replica: Arc<dyn Replica>,
    clock: Arc<dyn Clock>,
    inbox: Inbox,
    book: Mutex<Book>,
}

struct Book {
    credits: Credits,
    /// The ways to those who wait.
    mailboxes: BTreeMap<SessionId, Mailbox>,
}

impl Credit {
    /// Of a master with this inbox. [`Credit::run`] has to run beside it.
    pub fn new(replica: Arc<dyn Replica>, clock: Arc<dyn Clock>, inbox: Inbox) -> Self {
        let book = Book { credits: Credits::new(CREDIT_BYTES_MAX), mailboxes: BTreeMap::new() };
        Self(Arc::new(Shared { replica, clock, inbox, book: Mutex::new(book) }))
    }

    /// Gives what a quorum that came back, room in the inbox or unused credit allow, until `cancel`.
    pub async fn run(self, cancel: CancellationToken) {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                _ = ticks.tick() => self.give(),
            }
        }
    }

    /// A session begins whose minion sends by credit.
    pub fn open(&self, mailbox: &Mailbox) {
        mailbox.push(Arc::new(ToMinion::Credit { bytes: 0 }));
    }

    /// The session wants to send so many bytes.
    pub fn want(&self, session: SessionId, bytes: u64, mailbox: &Mailbox) {
        {
            let mut book = self.lock();
            book.credits.want(session, bytes);
            book.mailboxes.insert(session, mailbox.clone());
        }
        self.give();
    }

    /// The session is over.
    pub fn end(&self, session: SessionId) {
        {
            let mut book = self.lock();
            book.mailboxes.remove(&session);
            book.credits.end(session);
        }
        self.give();
    }

    /// Bytes that are given and not answered, and sessions that wait for their turn.
    pub fn figures(&self) -> (u64, usize) {
        let book = self.lock();
        (book.credits.held(), book.credits.waiting())
    }

    fn spend(&self, session: SessionId, bytes: usize) {
        self.lock().credits.spend(session, bytes as u64);
    }

    fn settle(&self, session: SessionId, bytes: usize) {
        self.lock().credits.settle(session, bytes as u64);
        self.give();
    }

    /// Gives what may be given now.
    fn give(&self) {
        let given: Vec<(Mailbox, u64)> = {
            let mut book = self.lock();
            // Without a majority they wait, and so they do while the log takes less than comes. What was given and is not
            // here yet needs its room as well.
            let fresh = book.credits.waiting() > 0 && self.0.replica.quorum().fresh;
            let free = ROOM_BYTES.saturating_sub(self.0.inbox.held_bytes()) as u64;
            let room = if fresh { (free / 2).saturating_sub(book.credits.held()) } else { 0 };
            let given = book.credits.poll(self.0.clock.monotonic(), room);
            given.into_iter().filter_map(|(session, bytes)| Some((book.mailboxes.remove(&session)?, bytes))).collect()
        };
        for (mailbox, bytes) in given {
            mailbox.push(Arc::new(ToMinion::Credit { bytes }));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.0.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the returns of one session weigh that are under way. Its end is the session's.
pub struct Purse {
    credit: Credit,
    session: SessionId,
    /// Bytes of the window that are in use.
    used: Arc<AtomicUsize>,
}

impl Purse {
    /// Of a session that has sent nothing.
    pub fn new(credit: Credit, session: SessionId) -> Self {
        Self { credit, session, used: Arc::default() }
    }

    /// Counts a call with these parts until what comes of this is dropped.
    pub fn charge(&self, parts: &[ReturnPart]) -> Charge {
        let bytes = parts.iter().map(|part| part.body.len() + RETURN_PART_OVERHEAD_BYTES).sum();
        // Only its session's reader charges a purse: nobody takes the room between the look and the addition.
        if self.used.load(Ordering::Relaxed) + bytes <= RETURN_WINDOW_BYTES {
            self.used.fetch_add(bytes, Ordering::Relaxed);
            return Charge { bytes, window: Some(Arc::clone(&self.used)), credit: None };
        }
        self.credit.spend(self.session, bytes);
        Charge { bytes, window: None, credit: Some((self.credit.clone(), self.session)) }
    }

    /// It wants to send so many bytes more.
    pub fn want(&self, bytes: u64, mailbox: &Mailbox) {
        self.credit.want(self.session, bytes, mailbox);
    }
}

impl Drop for Purse {
    fn drop(&mut self) {
        self.credit.end(self.session);
    }
}

/// A call under way.
pub struct Charge {
    bytes: usize,
    window: Option<Arc<AtomicUsize>>,
    credit: Option<(Credit, SessionId)>,
}

impl Drop for Charge {
    fn drop(&mut self) {
        if let Some(used) = &self.window {
            used.fetch_sub(self.bytes, Ordering::Relaxed);
        }
        if let Some((credit, session)) = &self.credit {
            credit.settle(*session, self.bytes);
        }
    }
}
