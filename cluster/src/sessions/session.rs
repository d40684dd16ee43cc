//! One session: a reader that decides, and a writer that drains a bounded queue. Both in one task, both ended together.
//!
//! ```text
//!   look ─▶ unknown ─▶ submit the key ─▶ look
//!        ─▶ pending ─▶ (only pings) … recheck ─▶ look
//!        ─▶ accepted ─▶ settle the incarnation ─▶ seat ─▶ look again ─▶ grant ─▶ open jobs
//!        ─▶ rejected, denied, deleted ─▶ last words
//! ```
//!
//! **Invariants.** The reader alone decides the standing, from the truth, whenever somebody says that it may have changed.
//! The grant follows a second look after the seat was taken: whoever is revoked in between is either seen by that look or
//! found in the roster by the one who revokes. A minion that is not accepted gets answers to pings and nothing else.

use crate::delivery::Purse;
use crate::inbox::{late, settle, unreadable};
use crate::sessions::calls::{Caller, carry_out, cost_of, cost_of_target, report_facts};
use crate::sessions::limits::{Share, full, source_of};
use crate::sessions::roster::{Drain, Mailbox, Seat, Session, SessionId};
use crate::sessions::standby::Standby;
use crate::sessions::standing::farewell;
use crate::sessions::{RETRY_AFTER_MS, Shared};
use crate::truth::{Lane, PROPOSE_TIMEOUT};
use crate::witness::Reason;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use saltern_pubsub::serve::{ServedReceiver, ServedSender, ServedSession};
use saltern_store::command::{Command, KeyCommand};
use saltern_wire::crypto::PublicKey;
use saltern_wire::fault_point;
use saltern_wire::io::Address;
use saltern_wire::session::{
    Answer, Attach, Call, Grant, MoveReason, Refusal, SessionRole, Standing, ToMaster, ToMinion,
};
use saltern_wire::{LogicalTime, MasterId, MinionId, Ordinal, Revision};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// A minion that says nothing for so long is gone: four of its pings.
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// How long one message may take to leave. The transport's queue is full for that long when the minion does not read.
const SEND_WITHIN: Duration = Duration::from_secs(10);

/// How long the last words may take.
const LAST_WORDS_WITHIN: Duration = Duration::from_secs(1);

/// Calls of one session under way at one time; a minion that drains its outbox needs a few.
const CALLS_IN_FLIGHT_MAX: usize = 64;

/// Longest time that a call may take, whatever the minion says it waits.
const CALL_DEADLINE_MS_MAX: u64 = 60_000;

/// How long a session that was replaced by one of the same key stays away: two processes under one identity would otherwise
/// evict each other without end.
const REPLACED_RETRY_AFTER_MS: u64 = 30_000;

/// How long a stranger stays away while no more keys may be pending.
const FULL_RETRY_AFTER_MS: u64 = 60_000;

/// Longest time for which nothing is read from a session: less than its minion waits for a pong.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Pause before what a missing quorum prevented is tried again.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Tells a minion that it may not attach.
pub(crate) async fn dismiss(mut served: ServedSession, reason: String) {
    let bye = ToMinion::Bye { reason, retry_after_ms: RETRY_AFTER_MS };
    // Whether it hears is its own affair: the link is closed either way.
    let _ = tokio::time::timeout(LAST_WORDS_WITHIN, served.sender.send(&bye)).await;
}

/// How a session begins.
pub(crate) struct Opening {
    /// What the minion said first.
    pub(crate) attach: Attach,
    /// The session's name.
    pub(crate) id: SessionId,
    /// Where the link comes from.
    pub(crate) peer: String,
}

/// Serves one minion until it leaves or `ended` is cancelled.
pub(crate) async fn run(shared: Arc<Shared>, served: ServedSession, opening: Opening, ended: CancellationToken) {
    let ServedSession { minion, public_key, sender, receiver, worked: _ } = served;
    let Opening { attach, id, peer } = opening;
    let (mailbox, drain) = Mailbox::new(ended);
    let session = Session {
        id,
        minion: minion.clone(),
        public_key,
        version: attach.version.clone(),
        level: attach.level,
        standby: None,
        since: shared.replica.now(),
        seat: None,
        shown: false,
        mailbox: mailbox.clone(),
    };
    if let Some(replaced) = shared.roster.insert(session, REPLACED_RETRY_AFTER_MS)
        && let Some(seat) = replaced.seat
    {
        shared.publisher.lock().revoke(seat.capability);
    }
    let role = attach.role;
    tracing::debug!(%minion, ?role, "a minion attached");
    let own_entries = Semaphore::new(1);
    let who = Who { minion, public_key, id, peer, attach, mailbox, shown: AtomicBool::new(false), own_entries };
    let who = Arc::new(who);
    let reader = Reader {
        shared: &shared,
        who: &who,
        told: None,
        moved: match role {
            SessionRole::Primary { moved } => moved.map(|reason| (reason, shared.io.clock.monotonic())),
            SessionRole::Standby { .. } => None,
        },
        role,
        left: None,
        seating: false,
        work: FuturesUnordered::new(),
        share: Share::new(shared.io.clock.monotonic()),
        purse: Purse::new(shared.credit.clone(), id),
    };
    tokio::join!(write(&shared, sender, drain, &who.mailbox), reader.run(receiver));
    if who.mailbox.is_unread() {
        shared.witness.refuse_of(Reason::SessionUnread, who.minion.as_str());
    }
    match shared.roster.remove(&who.public_key, id) {
        Some(session) => shared.release(&session),
        // Evicted in the middle of being seated: presence may have learned of it after the one who evicts took it out.
        None if who.shown.load(Ordering::Relaxed) && shared.roster.get(&who.public_key).is_none() => {
            shared.presence.detach(&who.minion, shared.replica.now());
        }
        None => {}
    }
    tracing::debug!(minion = %who.minion, "a minion left");
}

/// Who is at the other end.
struct Who {
    minion: MinionId,
    public_key: PublicKey,
    id: SessionId,
    /// Where it comes from.
    peer: String,
    attach: Attach,
    mailbox: Mailbox,
    /// One of its writes at a time that is an entry of its own: grains and mine values. So whoever has many waits behind
    /// itself for the few places that all minions share.
    own_entries: Semaphore,
    /// Whether presence was told of this session.
    shown: AtomicBool,
}

/// Sends what is queued, then the last words.
async fn write(shared: &Shared, mut sender: ServedSender, mut drain: Drain, mailbox: &Mailbox) {
    loop {
        let parcel = tokio::select! {
            biased;
            () = mailbox.ended() => break,
            parcel = drain.recv() => parcel,
        };
        let Some(parcel) = parcel else { break };
        let quorum = || shared.replica.quorum().fresh;
        let Some(message) = parcel.open(shared.io.clock.monotonic(), quorum) else { continue };
        match tokio::time::timeout(SEND_WITHIN, sender.send(&message)).await {
            Ok(Ok(())) => {
                if let ToMinion::Reply { result: Ok(Answer::Recorded(_)), .. } = &*message {
                    fault_point!("return.acknowledge.after");
                }
            }
            Ok(Err(saltern_pubsub::channel::SessionError::Large { len, max, .. })) => {
                tracing::error!(peer = sender.peer(), len, max, "a message is too long for a session and was not sent");
            }
            Ok(Err(_)) => {
                mailbox.end(Vec::new());
                return;
            }
            Err(_) => {
                mailbox.note_unread();
                mailbox.end(Vec::new());
                return;
            }
        }
    }
    let stopping = [ToMinion::Bye { reason: "this master ends the session".into(), retry_after_ms: RETRY_AFTER_MS }];
    let last = match mailbox.last_words() {
        [] => &stopping,
        chosen => chosen,
    };
    for message in last {
        match tokio::time::timeout(LAST_WORDS_WITHIN, sender.send(message)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
}

/// What a piece of work under way came to.
enum Done {
    /// A call was answered, or its deadline passed.
    Called,
    /// The key was submitted, or could not be.
    Submitted(Result<(), Refusal>),
    /// The minion has its seat and its offers, or has to wait.
    Seated(Result<(), Refusal>),
}

/// The deciding half.
struct Reader<'a> {
    shared: &'a Arc<Shared>,
    who: &'a Arc<Who>,
    /// The standing that the minion was last told.
    told: Option<Standing>,
    /// What the session is to its minion.
    role: SessionRole,
    /// Why it came from another master, and when it said so, until it has its seat.
    moved: Option<(MoveReason, Duration)>,
    /// The master that the minion worked through before this one, if it waited here meanwhile.
    left: Option<MasterId>,
    /// Whether a seat is being prepared, or was given.
    seating: bool,
    work: FuturesUnordered<BoxFuture<'static, Done>>,
    /// What it has asked for, beside what it may.
    share: Share,
    /// Its returns under way.
    purse: Purse,
}

impl Reader<'_> {
    async fn run(mut self, mut receiver: ServedReceiver) {
        let mut silence = pin!(tokio::time::sleep(SILENCE_MAX));
        // Over: messages are read. What a minion sends meanwhile waits in its own socket.
        let mut pause = pin!(tokio::time::sleep(Duration::ZERO));
        self.note_role();
        self.look();
        loop {
            tokio::select! {
                biased;
                () = self.who.mailbox.ended() => return,
                () = self.who.mailbox.recheck.notified() => self.look(),
                Some(done) = self.work.next() => self.handle_done(done),
                received = receiver.recv(), if pause.is_elapsed() => match received {
                    Ok(message) => {
                        silence.set(tokio::time::sleep(SILENCE_MAX));
                        let cost = self.cost(&message);
                        self.handle_message(message);
                        let now = self.shared.io.clock.monotonic();
                        let wait = self.share.spend(cost, &self.who.minion, &self.shared.witness, now);
                        if !wait.is_zero() {
                            pause.set(tokio::time::sleep(wait.min(PAUSE_MAX)));
                        }
                    }
                    Err(error) => {
                        tracing::debug!(minion = %self.who.minion, %error, "a session is over");
                        return self.who.mailbox.end(Vec::new());
                    }
                },
                () = &mut pause, if !pause.is_elapsed() => {}
                () = &mut silence => {
                    tracing::info!(minion = %self.who.minion, "a minion has been silent for {SILENCE_MAX:?}");
                    return self.end("silent for too long", 0);
                }
            }
        }
    }

    /// What this message costs the session, in units of its share.
    fn cost(&self, message: &ToMaster) -> u32 {
        match message {
            ToMaster::Ping { .. } | ToMaster::Attach(_) | ToMaster::Want { .. } | ToMaster::Role(_) => 1,
            ToMaster::Call { call: call @ Call::MineGet { .. }, .. } => {
                cost_of(call).saturating_add(cost_of_target(self.shared))
            }
            ToMaster::Call { call, .. } => cost_of(call),
        }
    }

    fn end(&self, reason: &str, retry_after_ms: u64) {
        self.who.mailbox.end(vec![ToMinion::Bye { reason: reason.into(), retry_after_ms }]);
    }

    /// Decides the standing anew, tells it if it changed, and starts what follows from it.
    fn look(&mut self) {
        let standing = match self.shared.standing(&self.who.minion, &self.who.public_key) {
            Ok(standing) => standing,
            Err(error) => {
                tracing::error!(minion = %self.who.minion, %error, "a key cannot be read");
                return self.end("this master cannot read its tables", RETRY_AFTER_MS);
            }
        };
        let Some(standing) = standing else {
            return if self.told.is_some() || self.role.is_standby() {
                self.dismiss(Standing::Deleted)
            } else {
                self.submit()
            };
        };
        if farewell(standing).is_some() {
            return self.dismiss(standing);
        }
        if self.told != Some(standing) {
            self.told = Some(standing);
            self.who.mailbox.push(Arc::new(ToMinion::Standing(standing)));
        }
        if let Standing::Accepted { ordinal } = standing
            && !self.seating
            && !self.role.is_standby()
        {
            self.seating = true;
            let (shared, who, left) = (Arc::clone(self.shared), Arc::clone(self.who), self.left);
            self.work.push(async move { Done::Seated(seat(&shared, &who, ordinal, left).await) }.boxed());
        }
    }

    fn dismiss(&self, standing: Standing) {
        tracing::info!(minion = %self.who.minion, ?standing, "a session ends with its key");
        leave(self.shared, self.who, standing);
    }

    /// Shows the truth a key that it does not hold.
    fn submit(&mut self) {
        let now = self.shared.io.clock.monotonic();
        let source = source_of(&self.who.peer);
        if let Some(reason) = full(self.shared.replica.as_ref(), &self.who.minion) {
            self.shared.witness.refuse_of(Reason::PendingKeys, source);
            return self.end(&reason, FULL_RETRY_AFTER_MS);
        }
        if !self.shared.limits().submit(source, now) {
            self.shared.witness.refuse_of(Reason::StrangerRate, source);
            return self.end("too many new keys at once", RETRY_AFTER_MS);
        }
        let (shared, who) = (Arc::clone(self.shared), Arc::clone(self.who));
        let submit = async move {
            let key = KeyCommand::Submit { minion: who.minion.clone(), public_key: who.public_key };
            settle(shared.replica.propose(Lane::Control, Command::Key(key), None).await).map(|_| ())
        };
        self.work.push(submit.map(Done::Submitted).boxed());
    }

    fn handle_done(&mut self, done: Done) {
        match done {
            Done::Called => {}
            Done::Submitted(Ok(())) => {
                // Only now is it held that the truth knows the key: not finding it from here on means that it was deleted.
                self.told = self.told.or(Some(Standing::Deleted));
                self.look();
            }
            Done::Submitted(Err(refusal)) => {
                self.end(&format!("the key cannot be submitted: {refusal}"), RETRY_AFTER_MS)
            }
            Done::Seated(Ok(())) => {
                if let Some((reason, said)) = self.moved.take() {
                    let took = self.shared.io.clock.monotonic().saturating_sub(said);
                    tracing::debug!(minion = %self.who.minion, reason = reason.name(), ?took, "a minion came here");
                    self.shared.moves.count(reason, took);
                }
            }
            Done::Seated(Err(refusal)) => {
                tracing::debug!(minion = %self.who.minion, %refusal, "an accepted minion waits for its seat");
                self.seating = false;
                let recheck = Arc::clone(&self.who.mailbox.recheck);
                let again = async move {
                    tokio::time::sleep(AGAIN_AFTER).await;
                    recheck.notify_one();
                    Done::Called
                };
                self.work.push(again.boxed());
            }
        }
    }

    fn handle_message(&mut self, message: ToMaster) {
        match message {
            ToMaster::Ping { sequence } => {
                let quorum = self.shared.replica.quorum().fresh;
                self.who.mailbox.push(Arc::new(ToMinion::Pong { sequence, quorum }));
            }
            ToMaster::Call { sequence, deadline_ms, call } => self.handle_call(sequence, deadline_ms, call),
            ToMaster::Want { bytes } => self.purse.want(bytes, &self.who.mailbox),
            ToMaster::Role(role) => self.handle_role(role),
            ToMaster::Attach(_) => self.end("a session attaches once", RETRY_AFTER_MS),
        }
    }

    /// The minion says what this session is to it from now on.
    fn handle_role(&mut self, role: SessionRole) {
        match (self.role, role) {
            (SessionRole::Primary { .. }, SessionRole::Primary { .. }) => {}
            (SessionRole::Primary { .. }, SessionRole::Standby { .. }) => {
                self.end("a session that a minion works through does not go back to waiting", RETRY_AFTER_MS);
            }
            (SessionRole::Standby { .. }, SessionRole::Standby { .. }) => {
                self.role = role;
                self.note_role();
            }
            (SessionRole::Standby { primary, .. }, SessionRole::Primary { moved }) => {
                self.role = role;
                self.left = Some(primary);
                self.moved = moved.map(|reason| (reason, self.shared.io.clock.monotonic()));
                self.note_role();
                self.look();
            }
        }
    }

    /// Lets the others know whether this session waits.
    fn note_role(&self) {
        let standby = match self.role {
            SessionRole::Primary { .. } => None,
            SessionRole::Standby { primary, preferred } => {
                let (since, mailbox) = (self.shared.io.clock.monotonic(), self.who.mailbox.clone());
                Some(Standby { primary, preferred, since, mailbox })
            }
        };
        self.shared.roster.set_standby(&self.who.public_key, self.who.id, standby);
    }

    fn handle_call(&mut self, sequence: u64, deadline_ms: u64, call: Call) {
        let revision = self.shared.replica.revision();
        let refuse = |refusal| {
            self.who.mailbox.push(Arc::new(ToMinion::Reply { sequence, revision, result: Err(refusal) }));
        };
        let works = self.told.filter(|_| !self.role.is_standby());
        let Some(Standing::Accepted { ordinal }) = works else {
            self.shared.witness.refuse(Reason::NotAccepted);
            return refuse(Refusal::NotAccepted);
        };
        if self.work.len() >= CALLS_IN_FLIGHT_MAX {
            self.shared.witness.refuse(Reason::SessionCalls);
            return refuse(Refusal::Busy { retry_after_ms: RETRY_AFTER_MS });
        }
        let now = self.shared.io.clock.monotonic();
        if let Err(refusal) = self.share.admit(&call, &self.who.minion, &self.shared.witness, now) {
            return refuse(refusal);
        }
        let charge = if let Call::Return(parts) = &call { Some(self.purse.charge(parts)) } else { None };
        let (shared, who) = (Arc::clone(self.shared), Arc::clone(self.who));
        let deadline = now + Duration::from_millis(deadline_ms.min(CALL_DEADLINE_MS_MAX));
        let answer = async move {
            let (result, revision) = match answer(&shared, &who, ordinal, deadline, call).await {
                Ok((answer, revision)) => (Ok(answer), revision),
                Err(refusal) => (Err(refusal), shared.replica.revision()),
            };
            who.mailbox.push(Arc::new(ToMinion::Reply { sequence, revision, result }));
            drop(charge);
            Done::Called
        };
        self.work.push(answer.boxed());
    }
}

/// Carries out a call within its time; one that is an entry of its own takes its turn among those of this session. What a
/// call that ran out of time has come to is said by whoever had it: refused while it waited, unknown afterwards.
async fn answer(
    shared: &Shared,
    who: &Who,
    ordinal: Ordinal,
    deadline: Duration,
    call: Call,
) -> Result<(Answer, Revision), Refusal> {
    let left = || deadline.saturating_sub(shared.io.clock.monotonic());
    let _turn = match &call {
        Call::Facts(_) | Call::MineReport(_) => match tokio::time::timeout(left(), who.own_entries.acquire()).await {
            Ok(turn) => Some(turn.map_err(|_| Refusal::Unknown)?),
            Err(_) => return Err(late(&shared.witness)),
        },
        Call::Accept(_) | Call::Return(_) | Call::MineGet { .. } => None,
    };
    if left().is_zero() {
        return Err(late(&shared.witness));
    }
    let incarnation = who.attach.incarnation;
    let caller = Caller { minion: &who.minion, ordinal, incarnation, version: &who.attach.version, deadline };
    carry_out(shared, &caller, call).await
}

/// Ends the session for its key's sake, and takes its seat at once.
fn leave(shared: &Shared, who: &Who, standing: Standing) {
    who.mailbox.end(last_words(standing));
    if let Some(session) = shared.roster.remove(&who.public_key, who.id) {
        shared.release(&session);
    }
}

/// What a session with this standing hears last.
pub(crate) fn last_words(standing: Standing) -> Vec<ToMinion> {
    let reason = farewell(standing).unwrap_or("the session is over").to_owned();
    vec![ToMinion::Standing(standing), ToMinion::Bye { reason, retry_after_ms: RETRY_AFTER_MS }]
}

/// Gives an accepted minion everything that it works with. One that waited here while it worked through the master `left`
/// begins anew: what was decided about its key meanwhile counts.
async fn seat(shared: &Shared, who: &Who, ordinal: Ordinal, left: Option<MasterId>) -> Result<(), Refusal> {
    if left.is_some() {
        shared.confirm().await;
        if let Some(reason) = shared.closed() {
            who.mailbox.end(vec![ToMinion::Bye { reason, retry_after_ms: RETRY_AFTER_MS }]);
            return Ok(());
        }
    }
    shared.make_room(left);
    let enrolled = settle_incarnation(shared, who, ordinal).await?;
    let capability = shared.publisher.lock().admit();
    let given = shared.io.clock.monotonic();
    let seat = Seat { ordinal, capability, given, enrolled };
    if !shared.roster.accept(&who.public_key, who.id, seat) {
        // Replaced or ended meanwhile: nobody will use it.
        shared.publisher.lock().revoke(capability);
        return Ok(());
    }
    let standing = shared.standing(&who.minion, &who.public_key).map_err(|error| unreadable(&error))?;
    if standing != Some(Standing::Accepted { ordinal }) {
        leave(shared, who, standing.unwrap_or(Standing::Deleted));
        return Ok(());
    }
    who.shown.store(true, Ordering::Relaxed);
    shared.presence.attach(crate::presence::Seat {
        minion: who.minion.clone(),
        ordinal,
        since: shared.replica.now(),
        version: who.attach.version.clone(),
    });
    tell_directory(shared, who);
    let address = fanout_address(shared);
    let key = shared.publisher.lock().key();
    if who.attach.credit {
        shared.credit.open(&who.mailbox);
    }
    who.mailbox.push(Arc::new(ToMinion::Grant(Grant { address, capability, key })));
    // Publishing knows the open jobs. If too many are being seated at once, its sweep finds this one a moment later.
    let _ = shared.seated.try_send(ordinal);
    Ok(())
}

/// Makes sure that the truth knows this incarnation of the minion. A new one is offered only jobs opened after that.
async fn settle_incarnation(shared: &Shared, who: &Who, ordinal: Ordinal) -> Result<LogicalTime, Refusal> {
    let held = || shared.replica.state().facts(&who.minion).map_err(|error| unreadable(&error));
    let before = held()?;
    if let Some(facts) = before.as_ref().filter(|facts| facts.incarnation == who.attach.incarnation) {
        return Ok(facts.enrolled);
    }
    let incarnation = who.attach.incarnation;
    let deadline = shared.io.clock.monotonic() + PROPOSE_TIMEOUT;
    let caller = Caller { minion: &who.minion, ordinal, incarnation, version: &who.attach.version, deadline };
    // Its grains follow in a call of its own; until then the old ones are the best there is.
    report_facts(shared, &caller, before.map(|facts| facts.facts).unwrap_or_default()).await?;
    held()?.map(|facts| facts.enrolled).ok_or(Refusal::Unknown)
}

/// Sends the directory if the minion's is older.
fn tell_directory(shared: &Shared, who: &Who) {
    let Some(held) = shared.replica.state().directory() else { return };
    let Ok(directory) = held.peek() else { return };
    if who.attach.directory.is_none_or(|minions| minions < (directory.generation, directory.version)) {
        who.mailbox.push(Arc::new(ToMinion::Directory(held)));
    }
}

/// Where minions find this master's fan-out: as the directory says, which is what the operator named.
fn fanout_address(shared: &Shared) -> Address {
    let directory = shared.replica.state().directory().and_then(|signed| signed.peek().ok());
    let own = directory.as_ref().and_then(|directory| directory.master(shared.replica.id()));
    own.map_or_else(|| shared.publisher.lock().address(), |master| master.endpoints.fanout.clone())
}
