//! The second session of a minion, beside the one that it works through.
//!
//! ```text
//!   Waiting ─▶ Dialling ─▶ Open, standby ──────── primary lost, or called dead and silent ─▶ it is the primary one, at once
//!      ▲                        │
//!      │                        └─ Move ─▶ Open, takeover ─▶ its fan-out stands ─▶ it is the primary one; the old one is left
//!      └── lost, refused, no longer the one that is wanted
//! ```
//!
//! **Invariants.** The session that waits gets nothing and says nothing but pings, until it is needed. A move reaches the new
//! master before it leaves the old one: until the new fan-out stands, the minion works through the old one, and if the new one
//! does not come to be, it stays. What a dead master's peers say is believed only once that master was asked again.
//!
//! **It refuses** a second session with a master that it works through, under whatever name, and one that is not in the
//! directory.

use super::connection::{Connection, Event};
use super::core::Core;
use super::hear::{Fate, Wish};
use super::run::{Loop, Missed, Phase, dialling};
use crate::attach::{Pulse, Wanted, jittered};
use futures::future::BoxFuture;
use saltern_pubsub::call::Session;
use saltern_wire::MasterId;
use saltern_wire::io::{Address, draw};
use saltern_wire::level::LEVEL_FLEET;
use saltern_wire::session::{MoveReason, SessionRole, Standing, ToMaster, ToMinion};
use std::time::Duration;

/// How often it is looked at whether the session that waits is still with the right master: round trips change in minutes.
const REVIEW_EVERY: Duration = Duration::from_secs(30);

/// What the second session is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// It waits. Whether the minion would rather work through it.
    Standby {
        /// As was last told.
        preferred: bool,
    },
    /// It is about to take over, until then at most.
    Takeover {
        /// Why.
        reason: MoveReason,
        /// Until when.
        by: Duration,
    },
}

/// Where the second session stands.
pub(super) enum Beside {
    /// There is none. When to look for one; not before there is a primary one, if never was said.
    Waiting { at: Option<Duration> },
    /// It is on its way.
    Dialling { wanted: Wanted, purpose: Purpose, attempt: BoxFuture<'static, Result<Session, Missed>> },
    /// It stands.
    Open { connection: Box<Connection>, purpose: Purpose, accepted: bool, review: Duration },
}

impl Beside {
    /// Nothing, and nothing planned.
    pub(super) fn none() -> Self {
        Self::Waiting { at: None }
    }

    /// The master of a standby session that could take over now.
    pub(super) fn ready(&self) -> Option<&Connection> {
        match self {
            Self::Open { connection, accepted: true, .. } => Some(connection),
            Self::Open { .. } | Self::Waiting { .. } | Self::Dialling { .. } => None,
        }
    }
}

impl Loop {
    /// Does what is due for the second session.
    pub(super) fn poll_beside(&mut self, now: Duration) {
        let hasty = self.beside.ready().is_some();
        if let Phase::Attached(connection) = &mut self.phase {
            connection.vitals.set_hasty(hasty);
        }
        let Some(primary) = self.ready_primary() else {
            match &self.beside {
                // One that waits for a primary session that is none any more is good for nothing.
                Beside::Open { purpose: Purpose::Standby { .. }, .. } => self.beside = Beside::none(),
                Beside::Open { purpose: Purpose::Takeover { .. }, .. } => self.poll_open(None, now),
                Beside::Waiting { .. } | Beside::Dialling { .. } => {}
            }
            return;
        };
        match &mut self.beside {
            Beside::Waiting { at: None } => {
                let delay = jittered(self.core.config.standby_delay_max, self.core.random());
                self.beside = Beside::Waiting { at: Some(now + delay) };
            }
            Beside::Waiting { at: Some(at) } if now >= *at => {
                match self.core.candidates.standby(primary, self.stay, now) {
                    Some(wanted) => {
                        let purpose = Purpose::Standby { preferred: wanted.preferred };
                        self.dial_beside(wanted, purpose);
                    }
                    None => {
                        let again = self.core.candidates.standby_again(now).unwrap_or(now + REVIEW_EVERY);
                        self.beside = Beside::Waiting { at: Some(again) };
                    }
                }
            }
            Beside::Waiting { at: Some(_) } | Beside::Dialling { .. } => {}
            Beside::Open { .. } => self.poll_open(Some(primary), now),
        }
    }

    /// The master of the primary session, once a second one makes sense.
    fn ready_primary(&self) -> Option<MasterId> {
        let Phase::Attached(connection) = &self.phase else { return None };
        let may = self.core.config.standby && self.core.level >= LEVEL_FLEET;
        let ready = self.subscribed && self.core.is_accepted() && connection.admit_by.is_none();
        (may && ready).then_some(connection.certificate.master)
    }

    fn poll_open(&mut self, primary: Option<MasterId>, now: Duration) {
        let Beside::Open { connection, purpose, review, .. } = &mut self.beside else { return };
        if connection.vitals.poll_stable(now) {
            self.core.candidates.handle_stable(&connection.address);
        }
        let mut over = None;
        match connection.vitals.poll(now) {
            Pulse::Fine => {}
            Pulse::Ping(sequence) => {
                if !connection.send(ToMaster::Ping { sequence }) {
                    over = Some("it does not drain its queue".to_owned());
                }
            }
            Pulse::Gone(reason) => over = Some(reason),
            Pulse::NoQuorum(since) => over = Some(format!("no quorum for {} s", since.as_secs())),
        }
        match (purpose, primary) {
            (Purpose::Takeover { by, .. }, _) if now >= *by => over = Some("it did not take over in time".to_owned()),
            (Purpose::Standby { preferred }, Some(primary)) if now >= *review => {
                *review = now + REVIEW_EVERY;
                match self.core.candidates.standby(primary, self.stay, now) {
                    Some(wanted) if wanted.master == connection.certificate.master => {
                        if *preferred != wanted.preferred {
                            *preferred = wanted.preferred;
                            connection.send(role_of(primary, wanted.preferred));
                        }
                    }
                    Some(wanted) => {
                        tracing::info!(master = %wanted.master, "the second session is to wait elsewhere");
                        let purpose = Purpose::Standby { preferred: wanted.preferred };
                        return self.dial_beside(wanted, purpose);
                    }
                    // Nobody else is left, and this one is no master any more.
                    None => over = Some("it is not to hold sessions".to_owned()),
                }
            }
            (Purpose::Takeover { .. } | Purpose::Standby { .. }, _) => {}
        }
        if let Some(reason) = over {
            self.leave_beside(&reason, Duration::ZERO, now);
        }
    }

    /// The directory changed: what the second session is for may have changed with it.
    pub(super) fn review_beside(&mut self, now: Duration) {
        match &mut self.beside {
            Beside::Open { review, .. } => {
                *review = now + jittered(self.core.config.standby_delay_max, self.core.random())
            }
            Beside::Waiting { at: at @ Some(_) } => *at = None,
            Beside::Waiting { at: None } | Beside::Dialling { .. } => {}
        }
    }

    /// When [`Loop::poll_beside`] has something to do again.
    pub(super) fn deadline_beside(&self) -> Option<Duration> {
        match &self.beside {
            Beside::Waiting { at } => at.filter(|_| self.ready_primary().is_some()),
            Beside::Dialling { .. } => None,
            Beside::Open { connection, purpose, review, .. } => {
                let due = match purpose {
                    Purpose::Standby { .. } => *review,
                    Purpose::Takeover { by, .. } => *by,
                };
                Some(due.min(connection.vitals.deadline()))
            }
        }
    }

    fn dial_beside(&mut self, wanted: Wanted, purpose: Purpose) {
        let attempt = dialling(&mut self.core, &wanted.address);
        self.beside = Beside::Dialling { wanted, purpose, attempt };
    }

    /// The dialling of the second session came to an end.
    pub(super) fn handle_dialled_beside(&mut self, result: Result<Session, Missed>) {
        let now = self.core.io.clock.monotonic();
        let Beside::Dialling { wanted, purpose, .. } = std::mem::replace(&mut self.beside, Beside::none()) else {
            return;
        };
        let Phase::Attached(primary) = &self.phase else { return };
        let primary = primary.certificate.master;
        let session = match result {
            Ok(session) => session,
            Err(Missed::Slot(slot)) => {
                let random = self.core.random();
                let at = self.core.candidates.handle_slot(&wanted.address, slot, now, random);
                self.beside = Beside::Waiting { at: Some(at) };
                return;
            }
            Err(Missed::Failed(error)) => {
                tracing::debug!(master = %wanted.address, %error, "no second session came to be");
                return self.refuse_beside(&wanted.address, Duration::ZERO, now);
            }
        };
        let master = session.certificate.master;
        let patience = self.core.patience();
        let patience = if matches!(purpose, Purpose::Standby { .. }) { patience.of_standby() } else { patience };
        let mut connection = Connection::new(session, wanted.address.clone(), patience, now, &self.tasks);
        self.core.handle_session(&mut connection, now);
        if master == primary || master != wanted.master || connection.admit_by.is_some() {
            tracing::warn!(%master, address = %wanted.address, "another master answers there than the directory says");
            return self.refuse_beside(&wanted.address, REVIEW_EVERY, now);
        }
        let role = match purpose {
            Purpose::Standby { preferred } => SessionRole::Standby { primary, preferred },
            Purpose::Takeover { reason, .. } => SessionRole::Primary { moved: Some(reason) },
        };
        let attach = self.core.attach(role);
        connection.send(attach);
        let review = now + REVIEW_EVERY;
        self.credit_beside = None;
        self.beside = Beside::Open { connection: Box::new(connection), purpose, accepted: false, review };
    }

    /// There is no second session at this address for a while.
    fn refuse_beside(&mut self, address: &Address, asked: Duration, now: Duration) {
        let random = self.core.random();
        self.core.candidates.handle_standby_failure(address, asked, now, random);
        let delay = jittered(self.core.config.standby_delay_max, self.core.random());
        self.beside = Beside::Waiting { at: Some(now + delay) };
    }

    fn leave_beside(&mut self, reason: &str, asked: Duration, now: Duration) {
        let Beside::Open { connection, purpose, .. } = std::mem::replace(&mut self.beside, Beside::none()) else {
            return;
        };
        tracing::info!(master = %connection.certificate.master, reason, ?purpose, "left the second session");
        self.refuse_beside(&connection.address, asked, now);
    }

    /// Something happened on the second session.
    pub(super) fn handle_event_beside(&mut self, event: Event) {
        let now = self.core.io.clock.monotonic();
        let Beside::Open { connection, purpose, accepted, .. } = &mut self.beside else { return };
        let takes_over = match purpose {
            Purpose::Takeover { reason, .. } => Some(*reason),
            Purpose::Standby { .. } => None,
        };
        let fate = match event {
            Event::Session(message) => match *message {
                ToMinion::Promote { peer, slot_ms } => return self.handle_promote(peer, slot_ms, now),
                ToMinion::Standing(standing) => {
                    let is_accepted = matches!(standing, Standing::Accepted { .. });
                    *accepted = is_accepted;
                    connection.vitals.handle_standing(is_accepted && takes_over.is_some(), now);
                    if is_accepted { Fate::Stay } else { Fate::Leave("the key is not accepted there".into()) }
                }
                message @ (ToMinion::Pong { .. }
                | ToMinion::Directory(_)
                | ToMinion::Bye { .. }
                | ToMinion::Move { .. }) => self.core.handle_message(connection, message, now),
                ToMinion::Credit { bytes } if takes_over.is_some() => {
                    // Of the session that takes over, not of the one that is worked through until then.
                    self.credit_beside = Some(bytes);
                    Fate::Stay
                }
                ToMinion::Credit { .. } => Fate::Leave("it gives credit to a session that waits".into()),
                message @ (ToMinion::Grant(_) | ToMinion::Rekey(_) | ToMinion::Offer(_) | ToMinion::Reply { .. }) => {
                    if takes_over.is_some() {
                        self.core.handle_message(connection, message, now)
                    } else {
                        Fate::Leave("it says what only the master of a primary session says".into())
                    }
                }
            },
            Event::Subscribed => {
                connection.vitals.handle_subscribed(now);
                return self.take_over(takes_over.unwrap_or(MoveReason::Lost), now);
            }
            Event::Broadcast(_) => Fate::Stay,
            Event::Lost(cause) => Fate::Leave(cause),
        };
        match fate {
            Fate::Stay => {}
            Fate::Leave(reason) => self.leave_beside(&reason, Duration::ZERO, now),
            Fate::Bye(reason, retry_after) => self.leave_beside(&reason, retry_after, now),
            Fate::Move(wish) => self.handle_wish_of_standby(wish, now),
        }
    }

    /// Others say that `peer` does not answer. If this minion works through it, it asks once more; whoever does not answer then
    /// is left for the session that waits.
    fn handle_promote(&mut self, peer: MasterId, slot_ms: u64, now: Duration) {
        let Phase::Attached(primary) = &mut self.phase else { return };
        if primary.certificate.master == peer {
            tracing::info!(master = %peer, slot_ms, "others say that it does not answer: asking it once more");
            primary.vitals.handle_doubt(Duration::from_millis(slot_ms), now);
        }
    }

    /// The standby session's master is ready to be the primary one, and better.
    fn handle_wish_of_standby(&mut self, wish: Wish, now: Duration) {
        let Beside::Open { connection, purpose: Purpose::Standby { preferred }, accepted, .. } = &self.beside else {
            return;
        };
        let own = connection.certificate.master;
        let welcome = *preferred || wish.reason != MoveReason::Failback;
        if *accepted && welcome && wish.to.is_none_or(|to| to == own) {
            self.begin_takeover(wish.reason, wish.by, now);
        }
    }

    /// Makes the session that waits the one that is about to take over.
    fn begin_takeover(&mut self, reason: MoveReason, by: Duration, now: Duration) {
        let patience = self.core.patience();
        let Beside::Open { connection, purpose, .. } = &mut self.beside else { return };
        *purpose = Purpose::Takeover { reason, by };
        connection.vitals.handle_promoted(patience, now);
        connection.send(ToMaster::Role(SessionRole::Primary { moved: Some(reason) }));
    }

    /// The primary session's master wants this minion to work through another one.
    pub(super) fn handle_wish(&mut self, wish: Wish, now: Duration) {
        let Phase::Attached(primary) = &self.phase else { return };
        let primary = primary.certificate.master;
        // Asked by a person, it stays where it was sent until it has to leave.
        self.stay = wish.reason == MoveReason::Asked;
        if wish.to == Some(primary) {
            return;
        }
        if let Beside::Open { connection, purpose, accepted: true, .. } = &self.beside
            && wish.to.is_none_or(|to| to == connection.certificate.master)
        {
            if matches!(purpose, Purpose::Standby { .. }) {
                self.begin_takeover(wish.reason, wish.by, now);
            }
            return;
        }
        let candidates = &self.core.candidates;
        let wanted = match wish.to {
            Some(master) => candidates.address_of(master).map(|address| {
                let address = address.clone();
                Wanted { address, master, preferred: false }
            }),
            None => candidates.standby(primary, false, now).or_else(|| candidates.elsewhere(primary)),
        };
        match wanted {
            Some(wanted) => self.dial_beside(wanted, Purpose::Takeover { reason: wish.reason, by: wish.by }),
            None => tracing::warn!(to = ?wish.to, "asked to move, and no other master is known that takes sessions"),
        }
    }

    /// The second session is the primary one from now on; the one before is left in order.
    fn take_over(&mut self, reason: MoveReason, now: Duration) {
        let Beside::Open { connection, .. } = std::mem::replace(&mut self.beside, Beside::none()) else { return };
        tracing::info!(master = %connection.certificate.master, reason = reason.name(), "moved");
        self.subscribed = true;
        self.replace_primary(connection);
        if let Some(bytes) = self.credit_beside.take() {
            self.core.handle_credit(bytes);
        }
        self.beside =
            Beside::Waiting { at: Some(now + jittered(self.core.config.standby_delay_max, self.core.random())) };
    }

    /// The primary session is lost: the one that waits takes its place at once. Whether there was one.
    pub(super) fn promote(&mut self, reason: MoveReason, now: Duration) -> bool {
        if self.beside.ready().is_none() {
            return false;
        }
        let patience = self.core.patience();
        let Beside::Open { mut connection, purpose, .. } = std::mem::replace(&mut self.beside, Beside::none()) else {
            return false;
        };
        // One that is taking over has heard it, and is on its way to its fan-out.
        if matches!(purpose, Purpose::Standby { .. }) {
            connection.vitals.handle_promoted(patience, now);
            if !connection.send(ToMaster::Role(SessionRole::Primary { moved: Some(reason) })) {
                return false;
            }
        }
        tracing::info!(master = %connection.certificate.master, reason = reason.name(), "works through its second session");
        self.subscribed = false;
        self.stay = false;
        if let Some(bytes) = self.credit_beside.take() {
            self.core.handle_credit(bytes);
        }
        self.phase = Phase::Attached(connection);
        true
    }

    /// The primary session is lost while the second one is being dialled: that one becomes the primary one.
    pub(super) fn adopt_dialling(&mut self) {
        if let Beside::Dialling { wanted, attempt, .. } = std::mem::replace(&mut self.beside, Beside::none()) {
            self.phase = Phase::Dialling { address: wanted.address, attempt };
        }
    }
}

impl Core {
    /// A random number.
    pub(super) fn random(&self) -> u64 {
        u64::from_be_bytes(draw(self.io.entropy.as_ref()))
    }
}

fn role_of(primary: MasterId, preferred: bool) -> ToMaster {
    ToMaster::Role(SessionRole::Standby { primary, preferred })
}

/// The next event of the second session; never, if there is none.
pub(super) async fn next_beside(beside: &mut Beside) -> BesideEvent {
    match beside {
        Beside::Waiting { .. } => std::future::pending().await,
        Beside::Dialling { attempt, .. } => BesideEvent::Dialled(Box::new(attempt.await)),
        Beside::Open { connection, .. } => BesideEvent::Connection(connection.next().await),
    }
}

/// What happens with the second session.
pub(super) enum BesideEvent {
    /// Its dialling came to an end.
    Dialled(Box<Result<Session, Missed>>),
    /// Something on it.
    Connection(Event),
}
