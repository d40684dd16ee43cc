//! The handle to the replicated truth: propose, read, follow. Every part of a master that is not Raft holds one of these.
//!
//! ```text
//!   propose ─▶ leader here? ─ yes ─▶ Group::write ─▶ committed and applied
//!                  │ no
//!                  └─▶ Mesh::ask(leader, Propose) ─▶ wait until applied here as well ─▶ Committed
//! ```
//!
//! **Invariants.** A proposal is retried under one request id until its deadline, so repeating it is harmless. `NoQuorum`
//! is answered only when nothing was handed to any log; otherwise the outcome is `Unknown`. A committed proposal has been
//! applied on this master before the caller hears of it, so that the caller reads its own writes here. This master is fresh
//! only while it hears a majority within its lease *and* a ReadIndex asked since the last gap has been applied ([`contact`]).
//!
//! Control and bulk have lanes of their own at the leader, and bulk few places on the way there: a flood of returns does not
//! stand before the revocation of a key.

mod attempts;
mod confirm;
mod contact;
mod lanes;
mod members;
mod room;
mod sameness;
mod ways;

use crate::mesh::Mesh;
use crate::mesh::message::{ProposeRefusal, Proposed};
use crate::quarantine::Quarantines;
use crate::raft::{Group, GroupError, Leading};
use crate::regions::{Way, Ways};
use crate::space::{Level, Room, Space};
use crate::stamper::{Stamper, median};
use crate::witness::Witness;
use attempts::Attempts;
use confirm::Confirmations;
use contact::Contact;
use lanes::Lanes;
pub use members::Expelled;
use members::Membership;
use room::DecidingLevel;
use saltern_store::command::{Applied, Command, Proposal};
use saltern_store::{AppliedEntry, Check, State};
use saltern_wire::io::{Clock, Entropy, draw};
use saltern_wire::profile::Profile;
use saltern_wire::{LogicalTime, MasterId, RequestId, Revision};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{broadcast, watch};

/// How long a proposal may take, retries included, before its outcome is called unknown.
pub const PROPOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// Looks at the masters' clocks that a fresh leader takes before its first stamp: two seconds in all.
const CLOCK_SETTLE_POLLS: usize = 100;

/// Pause between two looks for a leader.
const LEADER_POLL: Duration = Duration::from_millis(20);

/// Which proposals go first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Keys, jobs, membership.
    Control,
    /// Returns, mine, facts.
    Bulk,
}

/// A proposal that is committed and applied on this master.
#[derive(Debug, Clone, PartialEq)]
pub struct Committed {
    /// The entry's index.
    pub revision: Revision,
    /// The truth's time at the entry.
    pub time: LogicalTime,
    /// What apply answered.
    pub applied: Applied,
}

/// Why a proposal is not (known to be) committed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// No majority can be reached. Nothing was written.
    #[error("no quorum")]
    NoQuorum,
    /// It may or may not be committed. Asking again under the same request id is harmless.
    #[error("the outcome is unknown")]
    Unknown,
    /// Too much waits already. Nothing was written.
    #[error("busy")]
    Busy,
    /// A disk runs out of room. Nothing was written.
    #[error("{0}")]
    NoRoom(Box<Room>),
    /// This master is stopping.
    #[error("this master is stopping")]
    Stopped,
}

/// Contact to a majority, as this master knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quorum {
    /// Whether there was contact within the lease, and this master is known to have caught up since it began.
    pub fresh: bool,
    /// Whether there was contact within the lease.
    pub contact: bool,
    /// If not: milliseconds since the last contact (since the start, if there was none).
    pub stale_ms: Option<u64>,
    /// The leader, if known.
    pub leader: Option<MasterId>,
    /// Raft term.
    pub term: u64,
}

/// One member of the group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RaftMember {
    /// Who.
    pub id: MasterId,
    /// Whether it votes.
    pub voter: bool,
    /// Newest index it is known to have: exact at the leader, its applied index as last probed elsewhere.
    pub last_log: Option<u64>,
    /// Whether it answered the last probe.
    pub reachable: bool,
    /// Round trip of the last probe, in microseconds.
    pub round_trip_us: Option<u64>,
    /// Sessions it held at the last probe.
    pub sessions: Option<u64>,
    /// Its program version.
    pub version: Option<String>,
    /// The newest feature level that its build knows.
    pub level: Option<u32>,
}

/// The group, as this master sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RaftStatus {
    /// Contact to a majority.
    pub quorum: Quorum,
    /// The members, this one included.
    pub members: Vec<RaftMember>,
    /// Newest index in this master's log.
    pub last_log: u64,
    /// Newest index applied here.
    pub applied: u64,
}

/// What the last probe of a master brought.
#[derive(Debug, Clone, Default)]
pub(crate) struct Probed {
    pub(crate) reachable: bool,
    pub(crate) round_trip_us: Option<u64>,
    pub(crate) sessions: Option<u64>,
    pub(crate) version: Option<String>,
    pub(crate) level: Option<u32>,
    /// The hash of its state at some of its newest entries.
    pub(crate) checks: Vec<Check>,
    pub(crate) applied: Option<u64>,
    /// Its wall clock less our monotonic clock, in microseconds.
    pub(crate) wall_less_monotonic: Option<i128>,
    /// The truth's time, if it leads.
    pub(crate) time: Option<LogicalTime>,
    /// The room on its disk.
    pub(crate) room: Option<Room>,
    /// What it measured of its own ways.
    pub(crate) ways: Vec<Way>,
    /// The profile that it runs with.
    pub(crate) runs: Option<Profile>,
    /// The number of the state secret in force, if it holds that one.
    pub(crate) secret: Option<u64>,
}

struct Inner {
    id: MasterId,
    group: Group,
    mesh: Arc<Mesh>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    started: Duration,
    contact: Mutex<Contact>,
    stamper: Mutex<Stamper>,
    probes: Mutex<BTreeMap<MasterId, Probed>>,
    ways: Mutex<Ways>,
    quarantines: Quarantines,
    lanes: Lanes,
    room: Mutex<DecidingLevel>,
    confirmations: Confirmations,
    membership: Membership,
    witness: Arc<Witness>,
    /// The newest entry at which masters differ and no majority tells who is right; 0 for none.
    split: AtomicU64,
}

/// The handle. Cloning is cheap.
#[derive(Clone)]
pub struct Truth(Arc<Inner>);

impl Truth {
    /// Over a running member of the group.
    pub fn new(id: MasterId, group: Group, mesh: Arc<Mesh>, clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> Self {
        let started = clock.monotonic();
        let witness = Witness::new(Arc::clone(&clock));
        let stamper = Stamper::new(group.machine().state().time(), started);
        Self(Arc::new(Inner {
            id,
            group,
            mesh,
            clock,
            entropy,
            started,
            contact: Mutex::new(Contact::new(started)),
            stamper: Mutex::new(stamper),
            probes: Mutex::default(),
            ways: Mutex::default(),
            quarantines: Quarantines::default(),
            lanes: Lanes::default(),
            room: Mutex::default(),
            confirmations: Confirmations::default(),
            membership: Membership::default(),
            witness,
            split: AtomicU64::new(0),
        }))
    }

    /// This master.
    pub fn id(&self) -> MasterId {
        self.0.id
    }

    /// The tables, as far as they are applied here.
    pub fn state(&self) -> &Arc<State> {
        self.0.group.machine().state()
    }

    /// The group member below.
    pub fn group(&self) -> &Group {
        &self.0.group
    }

    /// Counts what is refused, and tells who asked for it.
    pub fn witness(&self) -> &Arc<Witness> {
        &self.0.witness
    }

    /// The other masters.
    pub fn mesh(&self) -> &Arc<Mesh> {
        &self.0.mesh
    }

    /// The room on this master's disk.
    pub fn space(&self) -> &Space {
        self.0.group.machine().space()
    }

    /// The room on the disk of another master, if it answered the last probe.
    pub(crate) fn room_of(&self, master: MasterId) -> Option<Room> {
        let probes = self.0.probes.lock().unwrap_or_else(PoisonError::into_inner);
        probes.get(&master).filter(|probed| probed.reachable)?.room.clone()
    }

    /// Masters that said that their data cannot be trusted.
    pub fn quarantines(&self) -> &Quarantines {
        &self.0.quarantines
    }

    /// Carries `command` into the log, from any master. Without a request id one is drawn, so that the retries of this call
    /// are harmless; a caller that may call again brings its own.
    pub async fn propose(
        &self,
        lane: Lane,
        command: Command,
        request: Option<RequestId>,
    ) -> Result<Committed, ProposeError> {
        self.propose_within(lane, command, request, PROPOSE_TIMEOUT).await
    }

    /// The same, for somebody who waits for `within` and no longer, nor longer than [`PROPOSE_TIMEOUT`]. Once that time is
    /// over nothing is written any more; what may have been is unknown.
    pub async fn propose_within(
        &self,
        lane: Lane,
        command: Command,
        request: Option<RequestId>,
        within: Duration,
    ) -> Result<Committed, ProposeError> {
        let _under_way = self.0.membership.begin();
        let request = match (lane, request) {
            (_, Some(request)) => Some(request),
            (Lane::Control, None) => Some(RequestId::from_bytes(draw(&*self.0.entropy))),
            // Returns, acceptance, facts and mine reports are harmless to repeat by their own nature.
            (Lane::Bulk, None) => None,
        };
        let proposal = Proposal { request, by: self.0.id, stamp: LogicalTime::ZERO, command };
        // A master that takes no more entries would never apply this one: another one may.
        if self.space().level() == Level::Spent {
            self.space().count_refusal();
            return Err(ProposeError::NoRoom(Box::new(self.space().room())));
        }
        let deadline = self.0.clock.monotonic() + within.min(PROPOSE_TIMEOUT);
        let proposed = Attempts { truth: self, lane, deadline }.run(proposal).await?;
        let left = deadline.saturating_sub(self.0.clock.monotonic());
        self.reach(proposed.revision, left).await.map_err(|_| ProposeError::Unknown)?;
        Ok(Committed { revision: proposed.revision, time: proposed.time, applied: proposed.applied })
    }

    /// Carries a proposal into the log if this master leads; nothing is written once `within` is over. Serves
    /// [`crate::mesh::message::Request::Propose`].
    pub(crate) async fn propose_here(
        &self,
        mut proposal: Proposal,
        lane: Lane,
        within: Duration,
    ) -> Result<Proposed, ProposeRefusal> {
        let leading = self.0.group.leading();
        if !leading.is_self {
            return Err(ProposeRefusal::NotLeader(leading.leader));
        }
        if let Err(refused) = proposal.command.require_level(self.state().level()) {
            return Ok(Proposed { revision: self.revision(), time: self.state().time(), applied: Err(refused) });
        }
        self.require_room(&proposal.command)?;
        let deadline = self.0.clock.monotonic() + within.min(PROPOSE_TIMEOUT);
        let _permit = self.turn(lane, within).await?;
        if !self.leads_with_quorum(self.0.group.leading()) {
            return Err(ProposeRefusal::NoQuorum);
        }
        self.settle_clock().await;
        let left = deadline.saturating_sub(self.0.clock.monotonic());
        if left.is_zero() {
            self.0.witness.expire(crate::witness::Queue::Lane);
            return Err(ProposeRefusal::Busy);
        }
        proposal.stamp = self.now();
        match tokio::time::timeout(left, self.0.group.write(proposal, lane == Lane::Bulk)).await {
            Ok(Ok(written)) => match written.applied {
                Some(applied) => Ok(Proposed { revision: written.revision, time: written.time, applied }),
                None => Err(ProposeRefusal::Unknown),
            },
            Ok(Err(GroupError::NotLeader(leader))) => Err(ProposeRefusal::NotLeader(leader)),
            Ok(Err(error)) => {
                tracing::debug!(%error, "a proposal's outcome is unknown");
                Err(ProposeRefusal::Unknown)
            }
            Err(_) => Err(ProposeRefusal::Unknown),
        }
    }

    fn leads_with_quorum(&self, leading: Leading) -> bool {
        leading.is_self && leading.quorum_age.is_some_and(|age| age < self.lease())
    }

    /// How long a contact to a majority counts: two elections.
    fn lease(&self) -> Duration {
        self.0.group.config().lease()
    }

    /// How long there may be no quorum before new proposals are refused at once: long enough for an ordinary election.
    fn patience(&self) -> Duration {
        Duration::from_millis(self.0.group.config().election_ms_max * 6).max(Duration::from_millis(1500))
    }

    /// Hears of every entry that is applied from now on. A listener that lags is told so and reads the tables instead.
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<AppliedEntry>> {
        self.0.group.machine().effects()
    }

    /// Follows the index of the newest applied entry.
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.0.group.machine().applied()
    }

    /// The newest entry applied here.
    pub fn revision(&self) -> Revision {
        Revision(self.state().applied_index())
    }

    /// Waits until `revision` is applied here. `Unknown` if that does not happen within `within`.
    pub async fn reach(&self, revision: Revision, within: Duration) -> Result<(), ProposeError> {
        // A leader has applied what it answers.
        if self.revision() >= revision {
            return Ok(());
        }
        let mut applied = self.applied();
        let reached = tokio::time::timeout(within, applied.wait_for(|index| *index >= revision.0)).await;
        match reached {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(ProposeError::Stopped),
            Err(_) => Err(ProposeError::Unknown),
        }
    }

    /// Contact to a majority.
    pub fn quorum(&self) -> Quorum {
        let state = self.0.group.leader_state();
        let heard = *self.0.group.heard().borrow();
        let (now, heard_ago) = (self.0.clock.monotonic(), self.quorum_age(self.0.group.leading()));
        let contact = heard_ago < self.lease();
        let age = self.contact().age(now, heard_ago, self.lease(), (!state.is_self).then_some(heard.since));
        let fresh = age < self.lease();
        let stale_ms = (!fresh).then(|| u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
        Quorum { fresh, contact, stale_ms, leader: state.leader.filter(|_| contact), term: state.term }
    }

    /// How long ago a majority was heard; since the start, if it never was.
    fn quorum_age(&self, leading: Leading) -> Duration {
        let now = self.0.clock.monotonic();
        let since_start = now.saturating_sub(self.0.started);
        if leading.is_self {
            return leading.quorum_age.unwrap_or(since_start);
        }
        let heard = self.0.group.heard().borrow().at;
        let age = now.saturating_sub(heard.max(self.0.started));
        age.max(if heard.is_zero() { self.lease() } else { Duration::ZERO })
    }

    /// Whether there has been no contact to a majority for so long that waiting for an election would be in vain.
    fn is_lost(&self) -> bool {
        self.quorum_age(self.0.group.leading()) > self.patience()
    }

    /// The group, with what probes brought.
    pub fn status(&self) -> RaftStatus {
        let state = self.0.group.leader_state();
        let probes = self.0.probes.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let member = |id: &MasterId, voter: bool| {
            if *id == self.0.id {
                return RaftMember {
                    id: *id,
                    voter,
                    last_log: Some(state.last_log),
                    reachable: true,
                    round_trip_us: None,
                    sessions: None,
                    version: Some(env!("CARGO_PKG_VERSION").into()),
                    level: Some(saltern_wire::level::LEVEL),
                };
            }
            let probed = probes.get(id).cloned().unwrap_or_default();
            let matched = state.matched.get(id).copied().flatten();
            RaftMember {
                id: *id,
                voter,
                last_log: matched.or(probed.applied),
                reachable: probed.reachable,
                round_trip_us: probed.round_trip_us,
                sessions: probed.sessions,
                version: probed.version,
                level: probed.level,
            }
        };
        let voters = state.voters.iter().map(|id| member(id, true));
        let members = voters.chain(state.learners.iter().map(|id| member(id, false))).collect();
        RaftStatus { quorum: self.quorum(), members, last_log: state.last_log, applied: state.applied }
    }

    /// The truth's time: the newest applied entry's, carried on by this machine's monotonic clock.
    pub fn now(&self) -> LogicalTime {
        let now = self.0.clock.monotonic();
        let mut stamper = self.stamper();
        stamper.handle_applied(self.state().time(), now);
        stamper.estimate(now)
    }

    /// Before its first stamp a leader whose time nobody has told hears a majority's clocks; bounded, so that a master whose
    /// peers cannot be probed goes on from what its disk says.
    async fn settle_clock(&self) {
        for _ in 0..CLOCK_SETTLE_POLLS {
            if self.stamper().is_told() {
                return;
            }
            if self.hears_majority() {
                break;
            }
            tokio::time::sleep(LEADER_POLL).await;
        }
        self.handle_clocks();
        self.stamper().settle();
    }

    /// Whether the clocks of a majority, this master's included, are known. A master that knows no voters yet waits for
    /// their leader's time.
    fn hears_majority(&self) -> bool {
        let voters = self.0.group.leader_state().voters.len();
        let probes = self.0.probes.lock().unwrap_or_else(PoisonError::into_inner);
        let reachable = probes.values().filter(|probed| probed.reachable).count();
        voters > 0 && 1 + reachable > voters / 2
    }

    fn stamper(&self) -> MutexGuard<'_, Stamper> {
        self.0.stamper.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what a probe brought. Called by the probing duty.
    pub(crate) fn handle_probe(&self, of: MasterId, probed: Probed) {
        if let Some(time) = probed.time {
            self.stamper().handle_leader(time, self.0.clock.monotonic());
        }
        if probed.reachable {
            self.0.quarantines.handle_heard(of, self.0.clock.monotonic());
        }
        self.ways().handle_probe(of, &probed);
        self.0.probes.lock().unwrap_or_else(PoisonError::into_inner).insert(of, probed);
    }

    /// Forgets what was probed of masters that are gone: their clocks count no more.
    pub(crate) fn retain_probes(&self, masters: &BTreeSet<MasterId>) {
        self.ways().retain(masters);
        self.0.probes.lock().unwrap_or_else(PoisonError::into_inner).retain(|id, _| masters.contains(id));
    }

    /// Moves logical time toward the median of the clocks that were probed; not before a majority was heard, because alone a
    /// wrong clock would be the median. Called by the probing duty.
    pub(crate) fn handle_clocks(&self) {
        if !self.hears_majority() {
            return;
        }
        let now = self.0.clock.monotonic();
        let now_micros = i128::try_from(now.as_micros()).unwrap_or(i128::MAX);
        let probes = self.0.probes.lock().unwrap_or_else(PoisonError::into_inner);
        let others = probes.values().filter(|probed| probed.reachable).filter_map(|probed| probed.wall_less_monotonic);
        let mut clocks: Vec<u64> = others.filter_map(|offset| u64::try_from(offset + now_micros).ok()).collect();
        drop(probes);
        clocks.push(self.0.clock.wall_unix_micros());
        if let Some(median) = median(clocks) {
            self.stamper().handle_median(median, now);
        }
    }

    /// This master's clock.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.0.clock
    }

    /// This master's random source.
    pub fn entropy(&self) -> &Arc<dyn Entropy> {
        &self.0.entropy
    }
}
