//! The sessions of this master, by public key.
//!
//! Sessions are known by the key that their handshake proved, not by the id it claims: a stranger who claims a minion's id
//! never meets that minion's session.
//!
//! **Invariants.** At most one session a key: a second one ends the first. A capability and a place among the accepted are
//! given together and taken together. A session that has been ended is sent nothing but its farewell, so that whoever was
//! revoked never receives the fan-out key that follows: *end, then rekey* is the order in which publishing calls.
//!
//! One lock, held for the length of one decision and never across an await.

use crate::sessions::parcel::Parcel;
use crate::sessions::standby::Standby;
use roaring::RoaringBitmap;
use saltern_wire::crypto::PublicKey;
use saltern_wire::io::Capability;
use saltern_wire::session::ToMinion;
use saltern_wire::{LogicalTime, MasterId, MinionId, Ordinal};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

/// Most messages that wait for one minion. A minion that drains nothing is ended long before the memory is felt: messages
/// are shared between sessions.
pub const QUEUE_MAX: usize = 512;

/// Most bytes that wait for one minion, counted as if they were its alone: a few of the largest messages. It bounds what replies
/// of many kinds make a master keep for minions that ask and do not read.
pub const QUEUE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Places in a queue that offers leave to everything else, so that a burst of jobs never ends a session.
const QUEUE_RESERVE: usize = QUEUE_MAX / 4;

/// How long it is remembered when a seat was given: far longer than a minion takes to subscribe.
pub const RECENT_MAX: Duration = Duration::from_secs(60);

/// Names one session of this boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SessionId(pub u64);

/// A message that waits, with the bytes that it counts for.
type Waiting = (Parcel, usize);

/// The end of a mailbox that a session's writer drains.
pub struct Drain {
    queue: mpsc::Receiver<Waiting>,
    bytes: Arc<AtomicUsize>,
}

impl Drain {
    /// The next message; `None` if nobody can queue any more. Cancel safe.
    pub async fn recv(&mut self) -> Option<Parcel> {
        let (parcel, bytes) = self.queue.recv().await?;
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        Some(parcel)
    }
}

/// How others reach a session's task.
#[derive(Clone)]
pub struct Mailbox {
    queue: mpsc::Sender<Waiting>,
    /// Bytes that wait.
    bytes: Arc<AtomicUsize>,
    /// The minion was sent away because it did not read.
    overflowed: Arc<AtomicBool>,
    /// The minion's standing may have changed: look again.
    pub recheck: Arc<Notify>,
    ended: CancellationToken,
    farewell: Arc<OnceLock<Vec<ToMinion>>>,
}

impl Mailbox {
    /// A mailbox and the end that the session's writer drains. `ended` is cancelled when the session is to end.
    pub fn new(ended: CancellationToken) -> (Self, Drain) {
        let (queue, drain) = mpsc::channel(QUEUE_MAX);
        let (bytes, overflowed) = (Arc::default(), Arc::default());
        let drain = Drain { queue: drain, bytes: Arc::clone(&bytes) };
        (Self { queue, bytes, overflowed, recheck: Arc::default(), ended, farewell: Arc::default() }, drain)
    }

    /// Queues a message that must arrive; a full queue ends the session.
    pub fn push(&self, message: Arc<ToMinion>) {
        if self.ended.is_cancelled() {
            return;
        }
        if !self.queue(Parcel { message, since: None }, QUEUE_BYTES_MAX) {
            self.note_unread();
            self.end(vec![ToMinion::Bye {
                reason: "the minion does not read what it is sent".into(),
                retry_after_ms: 0,
            }]);
        }
    }

    /// Queues an offer if there is room; says whether there was. One that is lost is offered again by the sweep. What remains of
    /// its time is as of `now`, monotonic.
    pub fn offer(&self, offer: Arc<ToMinion>, now: Duration) -> bool {
        let room = self.queue.capacity() > QUEUE_RESERVE && !self.ended.is_cancelled();
        room && self.queue(Parcel { message: offer, since: Some(now) }, QUEUE_BYTES_MAX / 4 * 3)
    }

    /// Queues a message, unless the places are taken or more than `bytes_max` would wait. A message that nothing waits in front of
    /// always fits.
    fn queue(&self, parcel: Parcel, bytes_max: usize) -> bool {
        let bytes = parcel.weight();
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let fits = before == 0 || before + bytes <= bytes_max;
        let queued = fits && self.queue.try_send((parcel, bytes)).is_ok();
        if !queued {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
        queued
    }

    /// The minion does not read what it is sent.
    pub fn note_unread(&self) {
        self.overflowed.store(true, Ordering::Relaxed);
    }

    /// Whether the minion was found not to read.
    pub fn is_unread(&self) -> bool {
        self.overflowed.load(Ordering::Relaxed)
    }

    /// Ends the session with these last words. The first to end it chooses them.
    pub fn end(&self, last: Vec<ToMinion>) {
        let _ = self.farewell.set(last);
        self.ended.cancel();
    }

    /// Whether the session is to end.
    pub fn is_ended(&self) -> bool {
        self.ended.is_cancelled()
    }

    /// Waits until the session is to end.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// The last words, if somebody chose them.
    pub fn last_words(&self) -> &[ToMinion] {
        self.farewell.get().map_or(&[], Vec::as_slice)
    }
}

/// What an accepted minion's session holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seat {
    /// The minion's number.
    pub ordinal: Ordinal,
    /// Opens the gate of the fan-out.
    pub capability: Capability,
    /// When it was given, monotonic: for a moment the minion cannot have subscribed yet.
    pub given: Duration,
    /// When the truth first heard of this incarnation: jobs opened before are not for it.
    pub enrolled: LogicalTime,
}

/// One session.
#[derive(Clone)]
pub struct Session {
    /// Its name.
    pub id: SessionId,
    /// Whom the key claims to be.
    pub minion: MinionId,
    /// The key that the handshake proved.
    pub public_key: PublicKey,
    /// The minion's program version.
    pub version: String,
    /// The newest feature level that it knows.
    pub level: u32,
    /// What it waits for, if it does.
    pub standby: Option<Standby>,
    /// Since when, in the truth's time.
    pub since: LogicalTime,
    /// What it holds if it is accepted.
    pub seat: Option<Seat>,
    /// Whether presence shows a seat for this key: its own, or one that it took over.
    pub shown: bool,
    /// The way to its task.
    pub mailbox: Mailbox,
}

#[derive(Default)]
struct Book {
    by_key: BTreeMap<PublicKey, Session>,
    accepted: BTreeMap<u32, PublicKey>,
    ordinals: RoaringBitmap,
    /// When seats were given lately, and to which number; some have left by now.
    recent: VecDeque<(Duration, u32)>,
    /// Those that wait.
    standbys: BTreeSet<PublicKey>,
}

/// How many sessions there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// All sessions.
    pub attached: u64,
    /// Those of accepted minions.
    pub accepted: u64,
    /// Those that wait: their minions work through another master.
    pub standby: u64,
}

/// All sessions of this master. Cheap to clone.
#[derive(Clone, Default)]
pub struct Roster {
    book: Arc<Mutex<Book>>,
}

impl Roster {
    /// A new session. One that the same key had is ended with a word to stay away for `retry_after_ms`, and returned.
    pub fn insert(&self, mut session: Session, retry_after_ms: u64) -> Option<Session> {
        let mut book = self.lock();
        let replaced = book.take(&session.public_key);
        if let Some(old) = &replaced {
            session.shown = old.shown;
            let reason = format!("{} attached again: the newer session stays", old.minion);
            old.mailbox.end(vec![ToMinion::Bye { reason, retry_after_ms }]);
        }
        if session.standby.is_some() {
            book.standbys.insert(session.public_key);
        }
        book.by_key.insert(session.public_key, session);
        replaced
    }

    /// The session is accepted from now on; false if it is no longer the one of its key, or has been ended.
    pub fn accept(&self, key: &PublicKey, id: SessionId, seat: Seat) -> bool {
        let mut book = self.lock();
        let Some(session) = book.by_key.get_mut(key).filter(|session| session.id == id) else { return false };
        if session.mailbox.is_ended() {
            return false;
        }
        session.seat = Some(seat);
        session.shown = true;
        book.accepted.insert(seat.ordinal.0, *key);
        book.ordinals.insert(seat.ordinal.0);
        book.recent.push_back((seat.given, seat.ordinal.0));
        book.forget_seats(seat.given.saturating_sub(RECENT_MAX));
        true
    }

    /// What the session waits for from now on, if it is still the one of its key. Since when it does stays as it was.
    pub fn set_standby(&self, key: &PublicKey, id: SessionId, standby: Option<Standby>) {
        let mut book = self.lock();
        let Some(session) = book.by_key.get_mut(key).filter(|session| session.id == id) else { return };
        let since = session.standby.as_ref().map(|before| before.since);
        let waits = standby.is_some();
        session.standby = standby.map(|standby| Standby { since: since.unwrap_or(standby.since), ..standby });
        if waits {
            book.standbys.insert(*key);
        } else {
            book.standbys.remove(key);
        }
    }

    /// The sessions that wait.
    pub fn standbys(&self) -> Vec<(PublicKey, Standby)> {
        let book = self.lock();
        let session = |key: &PublicKey| Some((*key, book.by_key.get(key)?.standby.clone()?));
        book.standbys.iter().filter_map(session).collect()
    }

    /// Ends up to `count` sessions that wait, those of minions that work through `spared` last.
    pub fn dismiss_standbys(&self, count: u64, spared: Option<MasterId>, retry_after_ms: u64) {
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        if count == 0 {
            return;
        }
        let mut standbys = self.standbys();
        standbys.sort_by_key(|(_, standby)| Some(standby.primary) == spared);
        for (key, standby) in standbys.into_iter().take(count) {
            // Taken out at once, so that the next one that comes does not count it again.
            self.lock().standbys.remove(&key);
            let reason = "its place is needed for minions that work through this master".into();
            standby.mailbox.end(vec![ToMinion::Bye { reason, retry_after_ms }]);
        }
    }

    /// The session is over; `None` if it is no longer the one of its key.
    pub fn remove(&self, key: &PublicKey, id: SessionId) -> Option<Session> {
        let mut book = self.lock();
        book.by_key.get(key).filter(|session| session.id == id)?;
        book.take(key)
    }

    /// Ends the session of `key` with these last words and forgets it at once.
    pub fn evict(&self, key: &PublicKey, last: Vec<ToMinion>) -> Option<Session> {
        let session = self.lock().take(key)?;
        session.mailbox.end(last);
        Some(session)
    }

    /// The session of `key`.
    pub fn get(&self, key: &PublicKey) -> Option<Session> {
        self.lock().by_key.get(key).cloned()
    }

    /// The numbers of the accepted minions attached here.
    pub fn ordinals(&self) -> RoaringBitmap {
        self.lock().ordinals.clone()
    }

    /// How many of `targets` have an accepted session here.
    pub fn count_of(&self, targets: &RoaringBitmap) -> u64 {
        self.lock().ordinals.intersection_len(targets)
    }

    /// The numbers of minions whose seat was given at `since` or later, by the monotonic clock; at most [`RECENT_MAX`] back.
    /// Some of them may have left.
    pub fn seated_since(&self, since: Duration) -> RoaringBitmap {
        let mut book = self.lock();
        book.forget_seats(since);
        book.recent.iter().map(|(_, ordinal)| *ordinal).collect()
    }

    /// The accepted sessions among `targets`, with their seats.
    pub fn targeted(&self, targets: &RoaringBitmap) -> Vec<(Seat, Mailbox)> {
        let book = self.lock();
        let both = targets & &book.ordinals;
        let session = |ordinal| book.accepted.get(&ordinal).and_then(|key| book.by_key.get(key));
        let seated = both.iter().filter_map(session);
        seated.filter_map(|session| session.seat.map(|seat| (seat, session.mailbox.clone()))).collect()
    }

    /// The mailboxes of all accepted sessions.
    pub fn accepted(&self) -> Vec<Mailbox> {
        let book = self.lock();
        let sessions = book.accepted.values().filter_map(|key| book.by_key.get(key));
        sessions.map(|session| session.mailbox.clone()).collect()
    }

    /// The mailboxes of all sessions.
    pub fn everyone(&self) -> Vec<Mailbox> {
        self.lock().by_key.values().map(|session| session.mailbox.clone()).collect()
    }

    /// All sessions, by key.
    pub fn list(&self) -> Vec<Session> {
        self.lock().by_key.values().cloned().collect()
    }

    /// How many there are.
    pub fn counts(&self) -> Counts {
        let book = self.lock();
        let count = |len: usize| u64::try_from(len).unwrap_or(u64::MAX);
        let (attached, accepted) = (count(book.by_key.len()), count(book.accepted.len()));
        Counts { attached, accepted, standby: count(book.standbys.len()) }
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    fn forget_seats(&mut self, before: Duration) {
        while self.recent.pop_front_if(|(given, _)| *given < before).is_some() {}
    }

    fn take(&mut self, key: &PublicKey) -> Option<Session> {
        let session = self.by_key.remove(key)?;
        self.standbys.remove(key);
        if let Some(seat) = session.seat
            && self.accepted.get(&seat.ordinal.0) == Some(key)
        {
            self.accepted.remove(&seat.ordinal.0);
            self.ordinals.remove(seat.ordinal.0);
        }
        Some(session)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use saltern_wire::Revision;
    use saltern_wire::mine::{MineEntry, MineStamp};
    use saltern_wire::session::Answer;

    fn session(key: u8, id: u64) -> (Session, Drain) {
        let (mailbox, drain) = Mailbox::new(CancellationToken::new());
        let session = Session {
            id: SessionId(id),
            minion: MinionId::new("web-1").expect("an id"),
            public_key: PublicKey([key; 32]),
            version: "1".into(),
            level: saltern_wire::level::LEVEL,
            standby: None,
            since: LogicalTime::ZERO,
            seat: None,
            shown: false,
            mailbox,
        };
        (session, drain)
    }

    fn seat(ordinal: u32) -> Seat {
        Seat {
            ordinal: Ordinal(ordinal),
            capability: Capability([0; 16]),
            given: Duration::ZERO,
            enrolled: LogicalTime::ZERO,
        }
    }

    #[test]
    fn the_newer_session_of_a_key_stays_and_the_older_one_cannot_undo_it() {
        let roster = Roster::default();
        let (first, _drain) = session(1, 1);
        let old = first.mailbox.clone();
        assert!(roster.insert(first, 0).is_none());
        assert!(roster.accept(&PublicKey([1; 32]), SessionId(1), seat(7)));
        let (second, _drain) = session(1, 2);
        let replaced = roster.insert(second, 5).expect("the first");
        assert_eq!((replaced.id, replaced.seat), (SessionId(1), Some(seat(7))));
        assert!(old.is_ended());
        assert!(matches!(old.last_words(), [ToMinion::Bye { retry_after_ms: 5, .. }]));
        assert!(roster.remove(&PublicKey([1; 32]), SessionId(1)).is_none(), "it is not the one of its key any more");
        assert!(!roster.accept(&PublicKey([1; 32]), SessionId(1), seat(7)));
        assert_eq!(roster.counts(), Counts { attached: 1, accepted: 0, standby: 0 });
        assert!(roster.remove(&PublicKey([1; 32]), SessionId(2)).expect("the second").shown, "it took the seat over");
    }

    #[test]
    fn a_stranger_with_the_same_id_meets_nobody() {
        let roster = Roster::default();
        let (real, _drain) = session(1, 1);
        let mailbox = real.mailbox.clone();
        roster.insert(real, 0);
        let (stranger, _drain) = session(2, 2);
        assert!(roster.insert(stranger, 0).is_none());
        assert!(!mailbox.is_ended());
    }

    #[test]
    fn a_burst_of_offers_leaves_room_and_a_full_queue_ends_the_session() {
        let (session, _drain) = session(1, 1);
        let message = Arc::new(ToMinion::Pong { sequence: 1, quorum: true });
        let offered =
            (0..QUEUE_MAX * 2).filter(|_| session.mailbox.offer(Arc::clone(&message), Duration::ZERO)).count();
        assert_eq!(offered, QUEUE_MAX - QUEUE_RESERVE);
        for _ in 0..QUEUE_RESERVE {
            session.mailbox.push(Arc::clone(&message));
        }
        assert!(!session.mailbox.is_ended());
        session.mailbox.push(message);
        assert!(session.mailbox.is_ended());
    }

    #[tokio::test]
    async fn what_waits_is_bounded_in_bytes_and_what_was_read_makes_room() {
        let large = |bytes: usize| {
            let stamp = MineStamp { incarnation: 1, counter: 1 };
            let (minion, function) = (MinionId::new("web-1").expect("an id"), "f".into());
            let entry = MineEntry { minion, function, value: "x".repeat(bytes).into(), stamp };
            let result = Ok(Answer::Mine(vec![entry]));
            Arc::new(ToMinion::Reply { sequence: 1, revision: Revision(1), result })
        };
        let (session, mut drain) = session(1, 1);
        session.mailbox.push(large(QUEUE_BYTES_MAX));
        assert!(!session.mailbox.is_ended(), "one that nothing waits in front of always fits");
        assert!(!session.mailbox.offer(large(1), Duration::ZERO), "an offer waits for room");
        drain.recv().await.expect("the large one");
        for _ in 0..3 {
            session.mailbox.push(large(QUEUE_BYTES_MAX / 4));
        }
        assert!(!session.mailbox.is_ended() && !session.mailbox.is_unread());
        session.mailbox.push(large(QUEUE_BYTES_MAX / 2));
        assert!(session.mailbox.is_ended() && session.mailbox.is_unread());
        for _ in 0..3 {
            drain.recv().await.expect("what was queued");
        }
        assert_eq!(session.mailbox.bytes.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn who_was_seated_lately_is_known_for_as_long_as_it_may_not_have_subscribed() {
        let roster = Roster::default();
        let mut drains = Vec::new();
        for number in 1..=90_u8 {
            let (session, drain) = session(number, number.into());
            drains.push(drain);
            roster.insert(session, 0);
            let given = Duration::from_secs(number.into());
            assert!(roster.accept(
                &PublicKey([number; 32]),
                SessionId(number.into()),
                Seat { given, ..seat(number.into()) }
            ));
        }
        assert_eq!(roster.lock().recent.len(), 61, "no longer than it matters");
        assert_eq!(roster.seated_since(Duration::from_secs(88)), RoaringBitmap::from_iter([88, 89, 90]));
        assert_eq!(roster.count_of(&RoaringBitmap::from_iter([1, 90, 91])), 2);
    }

    #[test]
    fn an_ended_session_is_not_accepted_any_more() {
        let roster = Roster::default();
        let (first, _drain) = session(1, 1);
        first.mailbox.end(Vec::new());
        roster.insert(first, 0);
        assert!(!roster.accept(&PublicKey([1; 32]), SessionId(1), seat(7)));
        assert!(roster.targeted(&RoaringBitmap::from_iter([7])).is_empty());
    }
}
