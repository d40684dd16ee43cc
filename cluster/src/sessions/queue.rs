//! The queue of those who want to attach, as the sessions share it: [`Slots`], whose rate follows from the [`Pace`].
//!
//! One task looks ten times a second whether the runtime of the sessions keeps up, and sets the rate. At the start a few
//! handshakes are tried against ourselves, so that the first storm after a restart meets a measured rate.

use super::pace::Pace;
use super::slots::{SlotCounts, Slots, Verdict};
use crate::presence::{AttachRoom, Presence};
use crate::replica::Replica;
use crate::witness::{Reason, Witness};
use saltern_pubsub::serve::MasterCredentials;
use saltern_wire::MinionId;
use saltern_wire::crypto::Identity;
use saltern_wire::crypto::handshake::{Expectation, Initiator, Responder};
use saltern_wire::io::{Io, draw};
use saltern_wire::slot::{Slot, Ticket};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often the rate follows what was measured.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Handshakes that are tried at the start: the first of them find nothing in the caches. A few milliseconds.
const TRIES: usize = 6;

/// What the queue is like, for metrics and for the beacon.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct QueueState {
    /// How many a second may attach.
    pub rate: f64,
    /// How many may attach at once.
    pub burst: f64,
    /// What a handshake's cryptography takes on average.
    pub cost: Duration,
    /// Slots that are given and not yet taken.
    pub waiting: usize,
    /// What happened so far.
    pub counts: SlotCounts,
}

impl QueueState {
    /// How many minions this master could take on, for the others to know.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rate and a burst are some thousands"
    )]
    pub(crate) fn room(&self) -> AttachRoom {
        AttachRoom { rate: self.rate as u32, burst: self.burst as u32 }
    }
}

/// The queue.
pub(crate) struct Queue {
    io: Io,
    witness: Arc<Witness>,
    state: Mutex<State>,
}

struct State {
    slots: Slots,
    pace: Pace,
    burst: f64,
}

impl Queue {
    /// Tries what a handshake costs, and opens.
    pub(crate) fn open(io: &Io, credentials: &MasterCredentials, witness: Arc<Witness>) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let pace = Pace::new(try_handshakes(io, credentials), cores);
        let (rate, burst) = pace.rate(0);
        let slots = Slots::new(rate, burst, io.clock.monotonic());
        Self { io: io.clone(), witness, state: Mutex::new(State { slots, pace, burst }) }
    }

    /// Somebody from `source` has said its first word. `Some` is what it is told instead of a second one.
    pub(crate) fn arrive(&self, source: &str, ticket: Option<Ticket>) -> Option<Slot> {
        let secret = draw(self.io.entropy.as_ref());
        let now = self.io.clock.monotonic();
        match self.lock().slots.arrive(source, ticket, secret, now) {
            Verdict::Enter => None,
            Verdict::Wait(slot) => Some(slot),
            Verdict::Refuse(slot) => {
                self.witness.refuse_of(Reason::SlotsWasted, source);
                Some(slot)
            }
        }
    }

    /// A handshake with `source` is over: how long it kept this side busy if it brought a session.
    pub(crate) fn handle_over(&self, source: &str, worked: Option<Duration>) {
        let mut state = self.lock();
        state.slots.handle_over(source, worked.is_some());
        if let Some(worked) = worked {
            state.pace.handle_worked(worked);
        }
    }

    /// What it is like now.
    pub(crate) fn read(&self) -> QueueState {
        let state = self.lock();
        let (rate, burst, cost) = (state.slots.rate(), state.burst, state.pace.cost());
        QueueState { rate, burst, cost, waiting: state.slots.waiting(), counts: state.slots.counts() }
    }

    /// Follows what is measured and what is allowed, until `cancel`. Runs where the sessions run, whose lateness it measures.
    /// The other masters hear of it over `presence`.
    pub(crate) async fn keep_pace(
        self: Arc<Self>,
        replica: Arc<dyn Replica>,
        presence: Presence,
        cancel: CancellationToken,
    ) {
        loop {
            let before = self.io.clock.monotonic();
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            let now = self.io.clock.monotonic();
            let highest = replica.state().settings().attach_per_second;
            self.look(now, now.saturating_sub(before + LOOK_EVERY), highest);
            presence.set_room(self.read().room());
        }
    }

    fn look(&self, now: Duration, late: Duration, highest: u32) {
        let mut state = self.lock();
        state.pace.handle_lateness(late);
        let (rate, burst) = state.pace.rate(highest);
        state.burst = burst;
        state.slots.set_rate(rate, burst, now);
        state.slots.poll(now);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What this side's part of a handshake takes here: the shortest of a few, because what disturbs one of them makes it longer.
fn try_handshakes(io: &Io, credentials: &MasterCredentials) -> Duration {
    let (minion, entropy) = (Identity::from_seed(draw(io.entropy.as_ref())), io.entropy.as_ref());
    let Ok(id) = MinionId::new("this-master-itself") else { return Duration::ZERO };
    let expectation = Expectation { ca: credentials.ca.fingerprint(), cluster: None, generation_min: 0 };
    let attempt = || {
        let mut initiator = Initiator::new(minion.clone(), id.clone(), expectation.clone(), entropy);
        let hello = initiator.hello().ok()?;
        let began = io.clock.monotonic();
        let MasterCredentials { identity, certificate, ca } = credentials.clone();
        let mut responder = Responder::new(identity, certificate, ca, entropy);
        let answer = responder.handle_hello(&hello).ok()?;
        let answered = io.clock.monotonic();
        let (proof, _) = initiator.handle_answer(&answer).ok()?;
        let went_on = io.clock.monotonic();
        responder.handle_proof(&proof).ok()?;
        Some(answered.saturating_sub(began) + io.clock.monotonic().saturating_sub(went_on))
    };
    (0..TRIES).filter_map(|_| attempt()).min().unwrap_or_default()
}
