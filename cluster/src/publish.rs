//! Brings what the truth decides to the minions attached here: jobs, revocations, directories, beacons.
//!
//! ```text
//!   applied entries ─▶ JobOpened  ─▶ one sealed frame to all, or an offer down each targeted session
//!                   ─▶ Key        ─▶ evict, withdraw the capability, rekey  ·  or have the session look again
//!                   ─▶ Directory  ─▶ every session
//!   seated minions  ─▶ the open jobs that they have not accepted
//!   timers          ─▶ beacons, the sweep, the hourly key
//! ```
//!
//! **Invariants.** Nothing is published before it is applied here, and no job whose time to live is over. A revoked session
//! is ended before the next fan-out key is drawn, and that key goes to the remaining ones only. Effects are for speed: when
//! some were missed, the tables are read again, and the sweep offers what nobody has accepted.
//!
//! **It refuses** to know what became of an offer: acceptance is in the truth.

pub mod ledger;

use crate::replica::Replica;
use crate::sessions::session::last_words;
use crate::sessions::{Sessions, SharedPublisher};
use ledger::{Due, Ledger, Road, Round, road};
use roaring::RoaringBitmap;
use saltern_store::command::Effect;
use saltern_store::{AppliedEntry, StoreError};
use saltern_wire::crypto::Signed;
use saltern_wire::crypto::seal::SealError;
use saltern_wire::fanout::{Beacon, Broadcast, Offer};
use saltern_wire::fault_point;
use saltern_wire::io::{Clock, Entropy, Io, draw};
use saltern_wire::job::Job;
use saltern_wire::key::{KeyRecord, KeyState};
use saltern_wire::session::{Standing, ToMinion};
use saltern_wire::{JobId, LogicalTime, Ordinal};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How often the sweep looks for jobs whose time to be offered again has come. The setting `offer_again_ms` says when that is.
const SWEEP_EVERY: Duration = Duration::from_millis(500);

/// Offers of one round of the sweep: two thousand minions that all missed a frame have it again within a second, and the
/// sessions of a busy master carry little else than replies.
const OFFERS_PER_ROUND_MAX: u64 = 1_000;

/// Open jobs that one round looks at, each for about a microsecond: all that there may be have their turn within three seconds.
const JOBS_PER_ROUND_MAX: usize = 2_000;

/// The shortest time that a minion has to accept a job, whatever the setting says: a round trip and the fsync of a busy one.
const OFFER_AGAIN_MS_MIN: u64 = 200;

/// How often contact to a majority is looked at; minions hear of a change within that.
const QUORUM_EVERY: Duration = Duration::from_millis(100);

/// Longest life of a fan-out key.
const REKEY_EVERY: Duration = Duration::from_secs(3600);

/// How long after its grant a minion may not have subscribed yet: it gets wide jobs down its session as well.
const SUBSCRIBING: Duration = Duration::from_secs(3);

/// Starts publishing to `sessions`, until `cancel`. One task, tracked by `tasks`.
pub fn start(
    replica: Arc<dyn Replica>,
    io: Io,
    publisher: SharedPublisher,
    sessions: Sessions,
    tasks: &TaskTracker,
    cancel: CancellationToken,
) {
    let Some(seated) = sessions.take_seated() else {
        return tracing::error!("publishing was started twice: the first one goes on");
    };
    let publishing = Publishing::new(replica, io, publisher, sessions);
    tasks.spawn(publishing.run(seated, cancel));
}

/// What publishing works with.
struct Publishing {
    replica: Arc<dyn Replica>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    publisher: SharedPublisher,
    sessions: Sessions,
    ledger: Ledger,
    /// Who has been offered the open jobs since it came, by number.
    known: RoaringBitmap,
    newest_job: Option<JobId>,
    sequence: u64,
    quorum: bool,
    rekey_due: bool,
}

impl Publishing {
    fn new(replica: Arc<dyn Replica>, io: Io, publisher: SharedPublisher, sessions: Sessions) -> Self {
        let quorum = replica.quorum().fresh;
        Self {
            replica,
            clock: io.clock,
            entropy: io.entropy,
            publisher,
            sessions,
            ledger: Ledger::default(),
            known: RoaringBitmap::new(),
            newest_job: None,
            sequence: 0,
            quorum,
            rekey_due: false,
        }
    }

    /// Publishes until `cancel`. `seated` names accepted minions that have just been seated.
    async fn run(mut self, mut seated: mpsc::Receiver<Ordinal>, cancel: CancellationToken) {
        let mut effects = self.replica.subscribe();
        self.repair();
        let mut sweep = ticks(SWEEP_EVERY);
        let mut quorum = ticks(QUORUM_EVERY);
        let mut rekey = ticks(REKEY_EVERY);
        rekey.reset();
        let mut beacon = pin!(tokio::time::sleep(Duration::ZERO));
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                entry = effects.recv() => {
                    if !self.handle_received(entry, &mut effects) {
                        return;
                    }
                }
                Some(ordinal) = seated.recv() => self.handle_seated(ordinal, &mut seated),
                () = &mut beacon => beacon.set(tokio::time::sleep(self.beacon())),
                _ = quorum.tick() => {
                    if self.quorum_changed() {
                        beacon.set(tokio::time::sleep(self.beacon()));
                    }
                }
                _ = sweep.tick() => self.sweep(),
                _ = rekey.tick() => self.rekey(),
            }
        }
    }

    /// Takes an entry and whatever waits behind it; one new key is enough for all of them. False if the truth is gone.
    fn handle_received(
        &mut self,
        mut received: Result<Arc<AppliedEntry>, RecvError>,
        effects: &mut broadcast::Receiver<Arc<AppliedEntry>>,
    ) -> bool {
        use broadcast::error::TryRecvError;
        loop {
            match received {
                Ok(entry) => self.handle_entry(&entry),
                Err(RecvError::Lagged(missed)) => {
                    tracing::warn!(missed, "publishing fell behind: reading the tables anew");
                    self.repair();
                    self.rekey_due = true;
                }
                Err(RecvError::Closed) => return false,
            }
            received = match effects.try_recv() {
                Ok(entry) => Ok(entry),
                Err(TryRecvError::Lagged(missed)) => Err(RecvError::Lagged(missed)),
                Err(TryRecvError::Closed) => Err(RecvError::Closed),
                Err(TryRecvError::Empty) => break,
            };
        }
        if std::mem::take(&mut self.rekey_due) {
            self.rekey();
        }
        true
    }

    fn handle_entry(&mut self, entry: &AppliedEntry) {
        for effect in &entry.effects {
            match effect {
                Effect::JobOpened { job, jid } => self.handle_opened(*jid, job, entry.time),
                Effect::JobAccepted { accepted } => {
                    for (jid, ordinal) in accepted {
                        self.ledger.settle(*jid, *ordinal);
                    }
                }
                Effect::Returned { record } => self.ledger.settle(record.jid, record.ordinal),
                Effect::Settled { jid, ordinal, .. } => self.ledger.settle(*jid, *ordinal),
                Effect::JobDone { jid } => self.ledger.close(*jid),
                Effect::Key { record, deleted } => self.handle_key(record, *deleted),
                Effect::Directory { directory } => {
                    let message = Arc::new(ToMinion::Directory(directory.clone()));
                    for mailbox in self.sessions.roster().accepted() {
                        mailbox.push(Arc::clone(&message));
                    }
                }
                Effect::Replaced => {
                    tracing::info!("a snapshot took the place of the tables: reading them anew");
                    self.repair();
                    self.rekey_due = true;
                }
                Effect::Released { jid, ordinals } => self.handle_released(*jid, ordinals),
                Effect::Facts { .. } | Effect::Mine { .. } | Effect::Settings { .. } | Effect::JobStands { .. } => {}
            }
        }
    }

    /// A key changed: whoever must not stay leaves now, whoever may looks again.
    fn handle_key(&mut self, record: &KeyRecord, deleted: bool) {
        let standing = match record.state {
            _ if deleted => Standing::Deleted,
            KeyState::Rejected => Standing::Rejected,
            KeyState::Denied => Standing::Denied,
            KeyState::Accepted | KeyState::Pending => return self.sessions.recheck(&record.public_key),
        };
        if self.sessions.evict(&record.public_key, last_words(standing)) {
            tracing::info!(minion = %record.minion, ?standing, "a session ends with its key");
        }
        // Attached now or a moment ago, it may hold the key of this fan-out.
        self.rekey_due |= record.ordinal.is_some();
    }

    fn handle_opened(&mut self, jid: JobId, signed: &Signed<Job>, opened: LogicalTime) {
        // The truth may be ahead of this effect: whoever has accepted meanwhile, through another master, is left out.
        let Some(waiting) = self.replica.state().waiting_for(&jid) else { return };
        let job = match signed.peek() {
            Ok(job) => job,
            Err(error) => return tracing::error!(%jid, %error, "a job in the log cannot be read"),
        };
        self.newest_job = self.newest_job.max(Some(jid));
        if self.replica.state().batch_of(&jid).is_some() {
            // Its minions are told as their turns come.
            return;
        }
        let now = self.clock.monotonic();
        self.ledger.open(jid, waiting.clone(), opened, job.expires(), now + self.patience());
        let Some(offer) = self.offer_of(signed, job.expires()) else { return };
        fault_point!("publish.before");
        let roster = self.sessions.roster();
        let road = road(roster.count_of(&waiting), roster.counts().accepted);
        let sent = road == Road::Fanout && self.publish(&Broadcast::Job(offer.clone()));
        let roster = self.sessions.roster();
        // A frame reaches whoever has subscribed. Nobody else is looked up: there are thousands of them.
        let whom = if sent { waiting & roster.seated_since(now.saturating_sub(SUBSCRIBING)) } else { waiting };
        let message = Arc::new(ToMinion::Offer(offer));
        for (seat, mailbox) in roster.targeted(&whom) {
            if seat.enrolled <= opened {
                mailbox.offer(Arc::clone(&message), now);
            }
        }
        fault_point!("publish.after");
    }

    /// Minions whose turn in a rolling job has come. Never over the fan-out: everybody would hear it.
    fn handle_released(&mut self, jid: JobId, ordinals: &RoaringBitmap) {
        let Some(offers) = self.replica.state().offers_of(&jid) else { return };
        let waiting = offers.groups.iter().fold(RoaringBitmap::new(), |all, (_, group)| all | group);
        let whom = ordinals & waiting;
        let due = self.clock.monotonic() + self.patience();
        self.ledger.release(jid, &whom, offers.opened, offers.expires, due);
        self.offer(&Due { jid, opened: offers.opened, whom });
    }

    /// The job as it is offered now; `None` if the time `until` which it may be is over.
    fn offer_of(&self, signed: &Signed<Job>, until: LogicalTime) -> Option<Offer> {
        let remaining = until.since(self.replica.now());
        let remaining_ms = u64::try_from(remaining.as_millis()).unwrap_or(u64::MAX);
        (remaining_ms > 0).then(|| Offer { job: signed.clone(), remaining_ms })
    }

    /// Offers a job again, down the sessions: those who lack it are few, or were missed by the fan-out.
    fn offer(&self, due: &Due) {
        let signed = match self.replica.state().signed_job(&due.jid) {
            Ok(Some(signed)) => signed,
            Ok(None) => return,
            Err(error) => return tracing::error!(jid = %due.jid, %error, "an open job cannot be read"),
        };
        let Some(offers) = self.replica.state().offers_of(&due.jid) else { return };
        let now = self.clock.monotonic();
        for (until, group) in offers.groups {
            let Some(offer) = self.offer_of(&signed, until) else { continue };
            let message = Arc::new(ToMinion::Offer(offer));
            for (seat, mailbox) in self.sessions.roster().targeted(&(group & &due.whom)) {
                if seat.enrolled <= due.opened {
                    mailbox.offer(Arc::clone(&message), now);
                }
            }
        }
    }

    /// Offers their open jobs to those who have just come: a herd costs one look at each job, not one a minion.
    fn handle_seated(&mut self, first: Ordinal, seated: &mut mpsc::Receiver<Ordinal>) {
        let mut next = Some(first);
        while let Some(ordinal) = next {
            self.known.insert(ordinal.0);
            self.ledger.seat(ordinal);
            next = seated.try_recv().ok();
        }
        let attached = self.sessions.roster().ordinals();
        self.offer_seated(&attached);
    }

    fn offer_seated(&mut self, attached: &RoaringBitmap) {
        let round = self.round();
        for due in self.ledger.poll_seated(attached, &round) {
            self.offer(&due);
        }
    }

    fn patience(&self) -> Duration {
        Duration::from_millis(self.replica.state().settings().offer_again_ms.max(OFFER_AGAIN_MS_MIN))
    }

    fn round(&self) -> Round {
        Round {
            time: self.replica.now(),
            now: self.clock.monotonic(),
            patience: self.patience(),
            offers_max: OFFERS_PER_ROUND_MAX,
            jobs_max: JOBS_PER_ROUND_MAX,
            random: u64::from_be_bytes(draw(self.entropy.as_ref())),
        }
    }

    fn sweep(&mut self) {
        let attached = self.sessions.roster().ordinals();
        // Whoever came while too many did was not told of.
        for ordinal in &attached - &self.known {
            self.ledger.seat(Ordinal(ordinal));
        }
        self.known.clone_from(&attached);
        self.offer_seated(&attached);
        let round = self.round();
        for due in self.ledger.poll_overdue(&attached, &round) {
            tracing::debug!(jid = %due.jid, minions = due.whom.len(), "offering a job again");
            self.offer(&due);
        }
    }

    /// Reads the tables anew: at the start, and when effects were missed.
    fn repair(&mut self) {
        self.sessions.verify_all();
        match self.read_ledger() {
            Ok(ledger) => {
                let before = std::mem::replace(&mut self.ledger, ledger);
                self.ledger.succeed(before);
            }
            Err(error) => tracing::error!(%error, "the open jobs cannot be read"),
        }
        self.sweep();
    }

    fn read_ledger(&mut self) -> Result<Ledger, StoreError> {
        let state = self.replica.state();
        let mut ledger = Ledger::default();
        for jid in state.open_jobs() {
            let (Some(held), Some(waiting)) = (state.job(&jid)?, state.waiting_for(&jid)) else { continue };
            ledger.open(jid, waiting, held.opened, held.job.expires(), Duration::ZERO);
            self.newest_job = self.newest_job.max(Some(jid));
        }
        Ok(ledger)
    }

    fn quorum_changed(&mut self) -> bool {
        let fresh = self.replica.quorum().fresh;
        if fresh {
            self.sessions.note_contact();
        }
        let changed = std::mem::replace(&mut self.quorum, fresh) != fresh;
        if changed {
            self.tell_quorum(fresh);
        }
        changed
    }

    /// Tells operators, and every minion in its session: the beacon that follows reaches those that listen to the fan-out.
    fn tell_quorum(&self, fresh: bool) {
        let master = format!("master {}", self.replica.id());
        let kind = if fresh { "quorum_regained" } else { "quorum_lost" };
        self.sessions.witness().proclaim(kind, &master, serde_json::json!({}));
        // The answer to no ping: its number is below every one that a minion sends.
        let pong = Arc::new(ToMinion::Pong { sequence: 0, quorum: fresh });
        for mailbox in self.sessions.roster().everyone() {
            mailbox.push(Arc::clone(&pong));
        }
    }

    /// Publishes a beacon; answers how long it is to the next.
    fn beacon(&mut self) -> Duration {
        let state = self.replica.state();
        let interval = Duration::from_millis(state.settings().beacon_interval_ms.max(1));
        // Before the cluster is known here, there is nothing that a minion could check a beacon against.
        let Some(cluster) = state.cluster() else { return interval };
        let held = state.directory().and_then(|signed| signed.peek().ok());
        let directory = held.map_or((0, 0), |held| (held.generation, held.version));
        let window = self.sessions.reconnect_window();
        let window_ms = u64::try_from(window.as_millis()).unwrap_or(u64::MAX);
        self.sequence += 1;
        let beacon = Beacon {
            cluster,
            sequence: self.sequence,
            newest_job: self.newest_job,
            time: self.replica.now(),
            directory,
            quorum: self.quorum,
            reconnect_window_ms: window_ms,
            next_ms: u64::try_from(interval.as_millis()).unwrap_or(u64::MAX),
            level: state.level(),
        };
        self.publish(&Broadcast::Beacon(beacon));
        interval
    }

    /// Sends a frame to all; says whether it left.
    fn publish(&mut self, broadcast: &Broadcast) -> bool {
        let first = self.publisher.lock().publish(broadcast);
        let outcome = match first {
            Err(SealError::Exhausted { .. }) => {
                self.rekey();
                self.publisher.lock().publish(broadcast)
            }
            other => other,
        };
        if let Err(error) = &outcome {
            tracing::error!(%error, "a frame was not published");
        }
        self.sessions.witness().frame(outcome.is_ok());
        outcome.is_ok()
    }

    /// A new fan-out key, for every session that is accepted now.
    fn rekey(&mut self) {
        let key = self.publisher.lock().rekey();
        let message = Arc::new(ToMinion::Rekey(key));
        for mailbox in self.sessions.roster().accepted() {
            mailbox.push(Arc::clone(&message));
        }
    }
}

fn ticks(every: Duration) -> tokio::time::Interval {
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
