//! The loop: chooses a master, attaches, listens to everything at once, and moves on when the master is gone: to the session
//! that waits beside ([`super::beside`]), or to the next master.

use super::beside::{Beside, BesideEvent, next_beside};
use super::connection::{Connection, Event};
use super::core::{Core, Inlets};
use super::desk::Ask;
use super::hear::Fate;
use super::{Attached, Status};
use crate::attach::{Pulse, jittered};
use futures::FutureExt;
use futures::StreamExt;
use futures::future::BoxFuture;
use saltern_pubsub::call::{MinionCredentials, Session};
use saltern_pubsub::channel::SessionError;
use saltern_wire::io::{Address, draw};
use saltern_wire::session::{MoveReason, SessionRole, Standing, ToMaster, ToMinion};
use saltern_wire::slot::Slot;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Longest time between two looks at the clock, whatever is due.
const TICK_MAX: Duration = Duration::from_secs(30);

/// How long a minion whose key was refused keeps away before it asks again.
const REFUSED_PAUSE: Duration = Duration::from_secs(10);

/// Where the loop stands with masters.
pub(super) enum Phase {
    /// Waits until `at`, or for ever if there is no master at all.
    Away { at: Duration },
    /// Dials one.
    Dialling { address: Address, attempt: BoxFuture<'static, Result<Session, Missed>> },
    /// Attached to one.
    Attached(Box<Connection>),
}

/// What woke the loop.
enum Wake {
    Stop,
    Clock,
    Dialled(Box<Result<Session, Missed>>),
    Connection(Event),
    Beside(BesideEvent),
    Ended(saltern_wire::JobId),
    Asked(Ask),
    Done(super::core::Done),
}

/// Why a call brought no session.
pub(super) enum Missed {
    /// The master has a queue.
    Slot(Slot),
    /// It failed.
    Failed(String),
}

impl Missed {
    fn failed(error: impl std::fmt::Display) -> Self {
        Self::Failed(error.to_string())
    }
}

pub(super) struct Loop {
    pub(super) core: Core,
    pub(super) phase: Phase,
    pub(super) beside: Beside,
    pub(super) subscribed: bool,
    /// An operator sent this minion to the master that it works through: it looks for no better one.
    pub(super) stay: bool,
    pub(super) tasks: TaskTracker,
    /// After a refused key: not before this time.
    pause_until: Duration,
    /// Why the next master is attached to in the place of one before.
    moved: Option<MoveReason>,
    /// What the session that takes over has been given for returns.
    pub(super) credit_beside: Option<u64>,
}

/// Runs until `token` is cancelled.
pub(super) async fn run(
    core: Core,
    mut inlets: Inlets,
    status: watch::Sender<Status>,
    token: CancellationToken,
    tasks: TaskTracker,
) {
    let phase = Phase::Away { at: core.io.clock.monotonic() };
    let mut this = Loop {
        core,
        phase,
        beside: Beside::none(),
        subscribed: false,
        stay: false,
        tasks,
        pause_until: Duration::ZERO,
        moved: None,
        credit_beside: None,
    };
    loop {
        let now = this.core.io.clock.monotonic();
        this.poll(now);
        this.publish(&status);
        let wait = this.deadline(now).saturating_sub(now).min(TICK_MAX);
        match this.wake(&mut inlets, &token, wait).await {
            Wake::Stop => break,
            Wake::Clock => {}
            Wake::Dialled(result) => this.handle_dialled(*result),
            Wake::Connection(event) => this.handle_event(event),
            Wake::Beside(BesideEvent::Dialled(result)) => this.handle_dialled_beside(*result),
            Wake::Beside(BesideEvent::Connection(event)) => this.handle_event_beside(event),
            Wake::Ended(jid) => this.core.look_after(jid),
            Wake::Asked(ask) => this.core.handle_ask(ask),
            Wake::Done(done) => this.core.handle_done(done),
        }
    }
    if let Err(error) = this.core.journal.rewrite(this.core.rules.ledger()) {
        tracing::warn!(%error, "the journal was not shortened");
    }
    tracing::info!(running = this.core.running.len(), "stopped; supervised jobs go on");
}

impl Loop {
    async fn wake(&mut self, inlets: &mut Inlets, token: &CancellationToken, wait: Duration) -> Wake {
        let phase = &mut self.phase;
        let master = async {
            match phase {
                Phase::Away { .. } => std::future::pending().await,
                Phase::Dialling { attempt, .. } => Wake::Dialled(Box::new(attempt.await)),
                Phase::Attached(connection) => Wake::Connection(connection.next().await),
            }
        };
        let (work, beside) = (&mut self.core.work, &mut self.beside);
        tokio::select! {
            biased;
            () = token.cancelled() => Wake::Stop,
            Some(jid) = inlets.ended.recv() => Wake::Ended(jid),
            Some(ask) = inlets.asks.recv() => Wake::Asked(ask),
            Some(done) = work.next() => Wake::Done(done),
            wake = master => wake,
            event = next_beside(beside) => Wake::Beside(event),
            () = tokio::time::sleep(wait) => Wake::Clock,
        }
    }

    /// Does what is due at `now`, and sends what may go.
    fn poll(&mut self, now: Duration) {
        self.core.poll(now);
        self.core.poll_calls(now);
        if let Phase::Away { at } = self.phase
            && now >= at
        {
            self.dial(now);
        }
        if let Phase::Attached(connection) = &mut self.phase {
            let (mut leave, mut useless, mut why) = (None, None, MoveReason::Lost);
            if connection.vitals.poll_stable(now) {
                self.core.candidates.handle_stable(&connection.address);
            }
            if connection.admit_by.is_some_and(|by| now >= by) {
                leave = Some("it is not in the directory of masters and brought no newer one".to_owned());
            }
            match connection.vitals.poll(now) {
                Pulse::Fine => {}
                Pulse::Ping(sequence) => {
                    if !connection.send(ToMaster::Ping { sequence }) {
                        leave = Some("it does not drain its queue".to_owned());
                    }
                }
                Pulse::Gone(reason) => leave = Some(reason),
                Pulse::NoQuorum(since) => {
                    useless = Some(format!("no quorum for {} s, another may have one", since.as_secs()));
                }
            }
            if let Some(since) = self.core.poll_refused(now) {
                useless = Some(format!("it has taken no call for {} s, another may", since.as_secs()));
            }
            if let Some(reason) = useless {
                // One that says that it has a quorum is better than one that is only not known to have none.
                let waits = self.beside.ready().is_some_and(|standby| standby.vitals.has_quorum());
                if self.core.candidates.handle_useless(&connection.address, now) || waits {
                    (why, leave) = (MoveReason::Useless, Some(reason));
                }
            }
            if leave.is_none() && connection.admit_by.is_none() {
                for message in self.core.next_calls(now) {
                    if !connection.send(message) {
                        leave = Some("it does not drain its queue".to_owned());
                    }
                }
            }
            if let Some(reason) = leave {
                self.leave(&reason, None, why, now);
            }
        }
        self.poll_beside(now);
    }

    /// When [`Loop::poll`] has something to do again.
    fn deadline(&self, now: Duration) -> Duration {
        let master = match &self.phase {
            Phase::Away { at } => Some(*at),
            Phase::Dialling { .. } => None,
            Phase::Attached(connection) => Some(
                connection.admit_by.map_or(connection.vitals.deadline(), |by| by.min(connection.vitals.deadline())),
            ),
        };
        let deadlines = [master, self.deadline_beside(), self.core.deadline(), self.core.calls.deadline(now)];
        deadlines.into_iter().flatten().min().unwrap_or(now + TICK_MAX)
    }

    /// Starts a session with the best master, or waits until there is one to try.
    fn dial(&mut self, now: Duration) {
        let Some(choice) = self.core.candidates.choose(now) else {
            self.phase = Phase::Away { at: now + TICK_MAX };
            return;
        };
        if choice.at.max(self.pause_until) > now {
            self.phase = Phase::Away { at: choice.at.max(self.pause_until) };
            return;
        }
        let attempt = dialling(&mut self.core, &choice.address);
        self.phase = Phase::Dialling { address: choice.address, attempt };
    }

    fn handle_dialled(&mut self, result: Result<Session, Missed>) {
        let now = self.core.io.clock.monotonic();
        let Phase::Dialling { address, .. } = std::mem::replace(&mut self.phase, Phase::Away { at: now }) else {
            return;
        };
        match result {
            Err(Missed::Slot(slot)) => {
                tracing::info!(master = %address, wait_ms = slot.wait_ms, "the master has a queue");
                let random = self.core.random();
                self.core.candidates.handle_slot(&address, slot, now, random);
            }
            Err(Missed::Failed(error)) => {
                tracing::warn!(master = %address, %error, "could not attach");
                self.fail(&address, Duration::ZERO, now);
            }
            Ok(session) => {
                let patience = self.core.patience();
                let mut connection = Connection::new(session, address, patience, now, &self.tasks);
                self.core.handle_session(&mut connection, now);
                let attach = self.core.attach(SessionRole::Primary { moved: self.moved.take() });
                connection.send(attach);
                let (master, name) = (connection.certificate.master, &connection.certificate.name);
                tracing::info!(%master, name, address = %connection.address, "attached");
                self.phase = Phase::Attached(Box::new(connection));
            }
        }
    }

    fn handle_event(&mut self, event: Event) {
        let now = self.core.io.clock.monotonic();
        let Phase::Attached(connection) = &mut self.phase else { return };
        let mut is_directory = false;
        let fate = match event {
            Event::Session(message) => {
                is_directory = matches!(*message, ToMinion::Directory(_));
                self.core.handle_message(connection, *message, now)
            }
            Event::Broadcast(broadcast) if connection.admit_by.is_none() => {
                self.core.handle_broadcast(connection, *broadcast, now)
            }
            Event::Broadcast(_) => Fate::Stay,
            Event::Subscribed => {
                self.subscribed = true;
                connection.vitals.handle_subscribed(now);
                Fate::Stay
            }
            Event::Lost(cause) => Fate::Leave(cause),
        };
        if let Phase::Attached(connection) = &self.phase {
            self.core.frames_refused.handle_current(connection.frames_refused());
        }
        if is_directory {
            self.review_beside(now);
        }
        match fate {
            Fate::Stay => {}
            Fate::Leave(reason) => self.leave(&reason, None, MoveReason::Lost, now),
            Fate::Bye(reason, retry_after) => self.leave(&reason, Some(retry_after), MoveReason::Drain, now),
            Fate::Move(wish) => self.handle_wish(wish, now),
        }
    }

    /// Drops the connection; what was on its way waits again.
    fn leave(&mut self, reason: &str, retry_after: Option<Duration>, why: MoveReason, now: Duration) {
        let Phase::Attached(connection) = std::mem::replace(&mut self.phase, Phase::Away { at: now }) else { return };
        self.subscribed = false;
        let lived = now.saturating_sub(connection.vitals.attached());
        let (master, address) = (connection.certificate.master, connection.address.clone());
        tracing::warn!(%master, %address, reason, lived_ms = lived.as_millis(), "left");
        self.core.frames_refused.handle_current(connection.frames_refused());
        self.core.frames_refused.handle_ended();
        let window = connection.vitals.window();
        drop(connection);
        self.core.handle_session_over();
        match self.core.standing {
            // The truth has spoken: asking every other master at once would change nothing.
            Some(Standing::Rejected | Standing::Denied) => {
                self.pause_until = now + REFUSED_PAUSE;
                self.beside = Beside::none();
            }
            Some(Standing::Pending | Standing::Deleted) | None => self.beside = Beside::none(),
            Some(Standing::Accepted { .. }) => {}
        }
        match retry_after {
            None => self.fail(&address, lived, now),
            Some(retry_after) => {
                let random = u64::from_be_bytes(draw(self.core.io.entropy.as_ref()));
                self.core.candidates.handle_bye(&address, retry_after, lived, now, random);
            }
        }
        self.stay = false;
        if !self.promote(why, now) {
            self.moved = Some(why);
            self.adopt_dialling();
            // Thousands may have lost the same master in this moment: it said itself how they are to spread.
            let random = self.core.random();
            self.pause_until = self.pause_until.max(now + jittered(window, random));
        }
    }

    /// Works through `connection` from now on; the one before is closed, and what was on its way waits again.
    pub(super) fn replace_primary(&mut self, connection: Box<Connection>) {
        if let Phase::Attached(old) = std::mem::replace(&mut self.phase, Phase::Attached(connection)) {
            self.core.frames_refused.handle_current(old.frames_refused());
            self.core.frames_refused.handle_ended();
        }
        self.core.handle_session_over();
    }

    fn fail(&mut self, address: &Address, lived: Duration, now: Duration) {
        let random = u64::from_be_bytes(draw(self.core.io.entropy.as_ref()));
        self.core.candidates.handle_failure(address, lived, now, random);
    }

    fn publish(&self, status: &watch::Sender<Status>) {
        let attached = match &self.phase {
            Phase::Attached(connection) if connection.admit_by.is_none() => Some(name_of(connection)),
            Phase::Attached(_) | Phase::Away { .. } | Phase::Dialling { .. } => None,
        };
        let now = Status {
            fingerprint: status.borrow().fingerprint,
            attached,
            standing: self.core.standing,
            subscribed: self.subscribed,
            standby: self.beside.ready().map(name_of),
            running: self.core.running.len(),
            waiting: self.core.delivery.len(),
        };
        status.send_if_modified(|before| {
            let changed = *before != now;
            *before = now;
            changed
        });
    }
}

fn name_of(connection: &Connection) -> Attached {
    Attached {
        master: connection.certificate.master,
        name: connection.certificate.name.clone(),
        address: connection.address.clone(),
    }
}

/// Opens a session with whoever answers at `address`. A name is looked up anew each time.
pub(super) fn dialling(core: &mut Core, address: &Address) -> BoxFuture<'static, Result<Session, Missed>> {
    let credentials = MinionCredentials {
        identity: core.identity.clone(),
        minion: core.config.id.clone(),
        expectation: core.rules.trust.expectation(),
    };
    let ticket = core.candidates.take_ticket(address);
    let (io, timeout, address) = (core.io.clone(), core.config.dial_timeout, address.clone());
    let attempt = async move {
        let link = match tokio::time::timeout(timeout, io.transport.dial(&address)).await {
            Ok(link) => link.map_err(Missed::failed)?,
            Err(_) => {
                return Err(Missed::Failed(format!("{address}: no connection within {} ms", timeout.as_millis())));
            }
        };
        let session = Session::open_at_slot(link, &credentials, ticket, io.entropy.as_ref(), timeout).await;
        session.map_err(|error| match error {
            SessionError::Slot { slot, .. } => Missed::Slot(slot),
            error => Missed::failed(error),
        })
    };
    attempt.boxed()
}
