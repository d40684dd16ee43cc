//! The loop: chooses a master, attaches, listens to everything at once, and moves on when the master is gone.

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
use saltern_wire::session::{Standing, ToMaster};
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
enum Phase {
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
    Ended(saltern_wire::JobId),
    Asked(Ask),
    Done(super::core::Done),
}

/// Why a call brought no session.
enum Missed {
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

struct Loop {
    core: Core,
    phase: Phase,
    subscribed: bool,
    tasks: TaskTracker,
    /// After a refused key: not before this time.
    pause_until: Duration,
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
    let mut this = Loop { core, phase, subscribed: false, tasks, pause_until: Duration::ZERO };
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
        let work = &mut self.core.work;
        tokio::select! {
            biased;
            () = token.cancelled() => Wake::Stop,
            Some(jid) = inlets.ended.recv() => Wake::Ended(jid),
            Some(ask) = inlets.asks.recv() => Wake::Asked(ask),
            Some(done) = work.next() => Wake::Done(done),
            wake = master => wake,
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
            let mut leave = None;
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
                    if self.core.candidates.handle_useless(&connection.address, now) {
                        leave = Some(format!("no quorum for {} s, another may have one", since.as_secs()));
                    }
                }
            }
            if let Some(since) = self.core.poll_refused(now)
                && self.core.candidates.handle_useless(&connection.address, now)
            {
                leave = Some(format!("it has taken no call for {} s, another may", since.as_secs()));
            }
            if leave.is_none() && connection.admit_by.is_none() {
                for message in self.core.next_calls(now) {
                    if !connection.send(message) {
                        leave = Some("it does not drain its queue".to_owned());
                    }
                }
            }
            if let Some(reason) = leave {
                self.leave(&reason, None, now);
            }
        }
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
        let deadlines = [master, self.core.deadline(), self.core.calls.deadline(now)];
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
        let credentials = MinionCredentials {
            identity: self.core.identity.clone(),
            minion: self.core.config.id.clone(),
            expectation: self.core.rules.trust.expectation(),
        };
        let ticket = self.core.candidates.take_ticket(&choice.address);
        let (io, timeout, address) = (self.core.io.clone(), self.core.config.dial_timeout, choice.address.clone());
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
        self.phase = Phase::Dialling { address: choice.address, attempt: attempt.boxed() };
    }

    fn handle_dialled(&mut self, result: Result<Session, Missed>) {
        let now = self.core.io.clock.monotonic();
        let Phase::Dialling { address, .. } = std::mem::replace(&mut self.phase, Phase::Away { at: now }) else {
            return;
        };
        match result {
            Err(Missed::Slot(slot)) => {
                tracing::info!(master = %address, wait_ms = slot.wait_ms, "the master has a queue");
                let random = u64::from_be_bytes(draw(self.core.io.entropy.as_ref()));
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
                let attach = self.core.attach();
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
        let fate = match event {
            Event::Session(message) => self.core.handle_message(connection, *message, now),
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
        self.core.frames_refused.handle_current(connection.frames_refused());
        match fate {
            Fate::Stay => {}
            Fate::Leave(reason) => self.leave(&reason, None, now),
            Fate::Bye(reason, retry_after) => self.leave(&reason, Some(retry_after), now),
        }
    }

    /// Drops the connection; what was on its way waits again.
    fn leave(&mut self, reason: &str, retry_after: Option<Duration>, now: Duration) {
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
            Some(Standing::Rejected | Standing::Denied) => self.pause_until = now + REFUSED_PAUSE,
            Some(Standing::Pending | Standing::Accepted { .. } | Standing::Deleted) | None => {}
        }
        match retry_after {
            None => self.fail(&address, lived, now),
            Some(retry_after) => {
                let random = u64::from_be_bytes(draw(self.core.io.entropy.as_ref()));
                self.core.candidates.handle_bye(&address, retry_after, lived, now, random);
            }
        }
        // Thousands may have lost the same master in this moment: it said itself how they are to spread.
        let random = u64::from_be_bytes(draw(self.core.io.entropy.as_ref()));
        self.pause_until = self.pause_until.max(now + jittered(window, random));
    }

    fn fail(&mut self, address: &Address, lived: Duration, now: Duration) {
        let random = u64::from_be_bytes(draw(self.core.io.entropy.as_ref()));
        self.core.candidates.handle_failure(address, lived, now, random);
    }

    fn publish(&self, status: &watch::Sender<Status>) {
        let attached = match &self.phase {
            Phase::Attached(connection) if connection.admit_by.is_none() => Some(Attached {
                master: connection.certificate.master,
                name: connection.certificate.name.clone(),
                address: connection.address.clone(),
            }),
            Phase::Attached(_) | Phase::Away { .. } | Phase::Dialling { .. } => None,
        };
        let now = Status {
            fingerprint: status.borrow().fingerprint,
            attached,
            standing: self.core.standing,
            subscribed: self.subscribed,
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
