//! A running member of the Raft group, in our own nouns.

use crate::mesh::Mesh;
use crate::raft::gather::Gatherer;
use crate::raft::log::RaftLog;
use crate::raft::machine::Machine;
use crate::raft::meters::Meters;
use crate::raft::network::NetworkFactory;
use crate::raft::service::RaftService;
use crate::raft::types::{LogRecord, Logged, Raft, Types, Written};
use openraft::async_runtime::WatchReceiver;
use openraft::error::{LinearizableReadError, RaftError};
use openraft::raft::ReadPolicy;
use openraft::{ChangeMembers, Config, Instant as _, SnapshotPolicy};
use saltern_store::Log;
use saltern_store::command::Proposal;
use saltern_store::kv::Pressure;
use saltern_wire::io::{Address, Clock};
use saltern_wire::profile::Timing;
use saltern_wire::{MasterId, Revision};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Entries that a snapshot leaves in the log, so that a master that was away for a moment needs no snapshot.
const LOG_KEEP: u64 = 2_000;

/// Bytes of the log after which a snapshot is due: what a restart applies again, and what stands on the disk beside the state.
const LOG_COMPACT_BYTES: u64 = 256 * 1024 * 1024;

/// Bytes that a snapshot leaves in the log at most: minutes of an ordinary load.
const LOG_KEEP_BYTES: u64 = 64 * 1024 * 1024;

/// Shortest wait for a change. Every write that the core refuses changes its metrics as well: whoever tries again on every
/// change would never rest while there is no quorum.
const REST: Duration = Duration::from_millis(2);

/// Timing and compaction of the group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupConfig {
    /// Pause between heartbeats, in milliseconds. Also the limit of one append.
    pub heartbeat_ms: u64,
    /// Shortest silence of the leader before an election, in milliseconds.
    pub election_ms_min: u64,
    /// Longest silence of the leader before an election, in milliseconds.
    pub election_ms_max: u64,
    /// Entries between two snapshots.
    pub snapshot_entries: u64,
    /// Entries that stay in the log below a snapshot.
    pub log_keep_entries: u64,
    /// Bytes of entries after which a snapshot is due, however few they are.
    pub log_compact_bytes: u64,
    /// Bytes of entries that stay in the log below a snapshot, at most.
    pub log_keep_bytes: u64,
}

impl Default for GroupConfig {
    /// The profile `lan`.
    fn default() -> Self {
        Self {
            heartbeat_ms: 50,
            election_ms_min: 200,
            election_ms_max: 250,
            snapshot_entries: 20_000,
            log_keep_entries: LOG_KEEP,
            log_compact_bytes: LOG_COMPACT_BYTES,
            log_keep_bytes: LOG_KEEP_BYTES,
        }
    }
}

impl GroupConfig {
    /// Takes the timing of a profile.
    pub fn follow(&mut self, timing: Timing) {
        let Timing { heartbeat_ms, election_ms_min, election_ms_max } = timing;
        *self = Self { heartbeat_ms, election_ms_min, election_ms_max, ..self.clone() };
    }

    /// How long a contact to a majority counts: two elections.
    pub fn lease(&self) -> Duration {
        Duration::from_millis(self.election_ms_max * 2)
    }
}

/// Why the group cannot be started or asked.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    /// The core stopped. The process must end.
    #[error("the Raft core stopped: {0}")]
    Stopped(String),
    /// The configuration is impossible.
    #[error("the Raft timing is impossible: {0}")]
    Config(String),
    /// This master does not lead (any more); that one may.
    #[error("another master leads")]
    NotLeader(Option<MasterId>),
    /// It is in the log of this master and may or may not be committed.
    #[error("the outcome is unknown")]
    Unknown,
    /// No majority answered.
    #[error("no quorum")]
    NoQuorum,
    /// The membership cannot be changed now.
    #[error("the membership cannot be changed now: {0}")]
    Membership(String),
}

/// Who leads, as far as this member knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaderState {
    /// The leader, if there is one.
    pub leader: Option<MasterId>,
    /// Whether it is this member.
    pub is_self: bool,
    /// Raft term.
    pub term: u64,
    /// If this member leads: how long ago a majority last answered.
    pub quorum_age: Option<Duration>,
    /// Newest index in this member's log.
    pub last_log: u64,
    /// Newest index applied here.
    pub applied: u64,
    /// Voters of the newest membership.
    pub voters: BTreeSet<MasterId>,
    /// Learners of the newest membership.
    pub learners: BTreeSet<MasterId>,
    /// Whether the newest membership is the first half of a change: both the old and the new voters have to agree.
    pub joint: bool,
    /// If this member leads: the newest index each other member has.
    pub matched: BTreeMap<MasterId, Option<u64>>,
    /// Set once the core has stopped.
    pub stopped: Option<String>,
}

/// Who leads, in short: what every proposal asks, so it costs no allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leading {
    /// The leader, if there is one.
    pub leader: Option<MasterId>,
    /// Whether it is this member.
    pub is_self: bool,
    /// If this member leads: how long ago a majority last answered.
    pub quorum_age: Option<Duration>,
    /// Whether the core has stopped.
    pub is_stopped: bool,
}

/// When a leader was heard, in this process's monotonic time; zero if never.
///
/// What is heard may be old: a frozen process reads what was sent to it before, and a road that was cut gives back what it
/// kept. Without a gap nothing is older than the silence that makes one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Heard {
    /// Last.
    pub at: Duration,
    /// First, after the last gap.
    pub since: Duration,
}

impl Heard {
    /// A leader is heard at `now`. Whether a gap of at least `silence_max` ends with it.
    pub(super) fn note(&mut self, now: Duration, silence_max: Duration) -> bool {
        let is_gap = self.at.is_zero() || now.saturating_sub(self.at) >= silence_max;
        self.at = now;
        if is_gap {
            self.since = now;
        }
        is_gap
    }
}

/// A running member. Cloning gives another handle.
#[derive(Clone)]
pub struct Group {
    pub(super) raft: Raft,
    gatherer: Gatherer,
    pub(super) machine: Machine,
    pub(super) log: Log<LogRecord>,
    meters: Arc<Meters>,
    heard: watch::Receiver<Heard>,
    pub(super) config: Arc<GroupConfig>,
}

impl Group {
    /// Starts the core over an open log and state. `service` answers the other masters; the mesh server is given it.
    pub async fn start(
        id: MasterId,
        config: GroupConfig,
        mesh: Arc<Mesh>,
        log: Log<LogRecord>,
        machine: Machine,
        clock: Arc<dyn Clock>,
    ) -> Result<(Self, Arc<RaftService>), GroupError> {
        let raft_config = raft_config(&config).validate().map_err(|error| GroupError::Config(error.to_string()))?;
        let meters = Arc::new(Meters::default());
        let network = NetworkFactory::new(mesh, machine.clone(), Arc::clone(&clock), Arc::clone(&meters));
        let raft = Raft::new(id.0, Arc::new(raft_config), network, RaftLog::new(log.clone()), machine.clone())
            .await
            .map_err(|error| GroupError::Stopped(error.to_string()))?;
        let (heard_sender, heard) = watch::channel(Heard::default());
        let service =
            RaftService::new(raft.clone(), &machine, clock, Arc::clone(&meters), (heard_sender, config.lease()));
        Ok((
            Self {
                gatherer: Gatherer::start(raft.clone()),
                raft,
                machine,
                log,
                meters,
                heard,
                config: Arc::new(config),
            },
            Arc::new(service),
        ))
    }

    /// Makes this member the first of a new group. Harmless on a member of a group.
    pub async fn found(&self, id: MasterId, mesh: &Address) -> Result<(), GroupError> {
        if self.raft.is_initialized().await.map_err(|error| GroupError::Stopped(error.to_string()))? {
            return Ok(());
        }
        let members = BTreeMap::from([(id.0, openraft::impls::BasicNode::new(mesh.to_string()))]);
        self.raft.initialize(members).await.map_err(|error| GroupError::Membership(error.to_string()))
    }

    /// Writes a proposal, if this member leads; returns once it is committed and applied here. `bulk` lets others go first.
    pub async fn write(&self, proposal: Proposal, bulk: bool) -> Result<Written, GroupError> {
        self.gatherer.write(Logged::new(proposal), bulk).await
    }

    /// ReadIndex, if this member leads: an index at or above everything that was acknowledged before the call.
    pub async fn read_index(&self) -> Result<Revision, GroupError> {
        match self.raft.get_read_log_id(ReadPolicy::ReadIndex).await {
            Ok((read, _)) => Ok(Revision(read.index())),
            Err(RaftError::Fatal(fatal)) => Err(GroupError::Stopped(fatal.to_string())),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(to))) => {
                Err(GroupError::NotLeader(to.leader_id.map(MasterId)))
            }
            Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => Err(GroupError::NoQuorum),
        }
    }

    /// Adds a learner that is reached at `mesh`; returns at once, replication goes on by itself.
    pub async fn add_learner(&self, id: MasterId, mesh: &Address) -> Result<(), GroupError> {
        let added = self.raft.add_learner(id.0, openraft::impls::BasicNode::new(mesh.to_string()), false).await;
        added.map(drop).map_err(|error| GroupError::Membership(error.to_string()))
    }

    /// Makes exactly `voters` vote, in one step; whoever voted before stays as a learner. Each new one must be a learner.
    pub async fn set_voters(&self, voters: BTreeSet<MasterId>) -> Result<(), GroupError> {
        let change = ChangeMembers::ReplaceAllVoters(voters.into_iter().map(|id| id.0).collect());
        let changed = self.raft.change_membership(change, true).await;
        changed.map(drop).map_err(|error| GroupError::Membership(error.to_string()))
    }

    /// Finishes a change of the voters whose leader died between its two entries.
    pub async fn settle_voters(&self) -> Result<(), GroupError> {
        let changed = self.raft.change_membership(ChangeMembers::AddVoterIds(BTreeSet::new()), true).await;
        changed.map(drop).map_err(|error| GroupError::Membership(error.to_string()))
    }

    /// Makes a learner a voter.
    pub async fn promote(&self, id: MasterId) -> Result<(), GroupError> {
        let change = ChangeMembers::AddVoterIds(BTreeSet::from([id.0]));
        let changed = self.raft.change_membership(change, true).await;
        changed.map(drop).map_err(|error| GroupError::Membership(error.to_string()))
    }

    /// Takes a member out of the group, whether it votes or not. Not this member while it leads.
    pub async fn remove(&self, id: MasterId) -> Result<(), GroupError> {
        let gone = BTreeSet::from([id.0]);
        let votes = self.leader_state().voters.contains(&id);
        let change = if votes { ChangeMembers::RemoveVoters(gone) } else { ChangeMembers::RemoveNodes(gone) };
        let changed = self.raft.change_membership(change, false).await;
        changed.map(drop).map_err(|error| GroupError::Membership(error.to_string()))
    }

    /// Asks `to` to lead instead of this member.
    pub async fn transfer(&self, to: MasterId) -> Result<(), GroupError> {
        self.raft.trigger().transfer_leader(to.0).await.map_err(|error| GroupError::Stopped(error.to_string()))
    }

    /// Takes a snapshot soon.
    pub async fn snapshot(&self) -> Result<(), GroupError> {
        self.raft.trigger().snapshot().await.map_err(|error| GroupError::Stopped(error.to_string()))
    }

    /// Who leads now, in short.
    pub fn leading(&self) -> Leading {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let is_self = metrics.current_leader == Some(metrics.id) && metrics.state.is_leader();
        let mut sets = metrics.membership_config.membership().get_joint_config().iter();
        // As in `leader_state`.
        let alone = is_self && sets.all(|voters| voters.len() == 1 && voters.contains(&metrics.id));
        let acked = metrics.last_quorum_acked.as_ref().map(|at| at.elapsed());
        Leading {
            leader: metrics.current_leader.map(MasterId),
            is_self,
            quorum_age: if alone { Some(Duration::ZERO) } else { acked },
            is_stopped: metrics.running_state.is_err(),
        }
    }

    /// Who leads now.
    pub fn leader_state(&self) -> LeaderState {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        let ids = |ids: Vec<u64>| ids.into_iter().map(MasterId).collect::<BTreeSet<_>>();
        let matched = metrics.replication.iter().flatten();
        let is_self = metrics.current_leader == Some(metrics.id) && metrics.state.is_leader();
        // The only voter is its own majority at any time; nobody acknowledges its heartbeats, because it sends none.
        let alone = is_self && membership.voter_ids().all(|id| id == metrics.id);
        let acked = metrics.last_quorum_acked.as_ref().map(|at| at.elapsed());
        LeaderState {
            leader: metrics.current_leader.map(MasterId),
            is_self,
            term: metrics.current_term,
            quorum_age: if alone { Some(Duration::ZERO) } else { acked },
            last_log: metrics.last_log_index.unwrap_or(0),
            applied: self.machine.state().applied_index(),
            voters: ids(membership.voter_ids().collect()),
            learners: ids(membership.learner_ids().collect()),
            joint: membership.get_joint_config().len() > 1,
            matched: matched.map(|(id, log)| (MasterId(*id), log.as_ref().map(|log| log.index()))).collect(),
            stopped: metrics.running_state.as_ref().err().map(ToString::to_string),
        }
    }

    /// Waits until something about [`Group::leader_state`] changed, at most `within` and at least [`REST`].
    pub async fn changed(&self, within: Duration) {
        let mut metrics = self.raft.metrics();
        // A fresh receiver has seen nothing: without this it would report a change at once, for ever.
        drop(metrics.borrow_and_update());
        let rest = REST.min(within);
        tokio::time::sleep(rest).await;
        let _ = tokio::time::timeout(within.saturating_sub(rest), metrics.changed()).await;
    }

    /// When a leader was heard. The receiver is woken when one is heard again after a gap, not each time.
    pub fn heard(&self) -> watch::Receiver<Heard> {
        self.heard.clone()
    }

    /// What its traffic is measured by.
    pub fn meters(&self) -> &Meters {
        &self.meters
    }

    /// The state machine.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// How the log and the tables keep up with what is written to them.
    pub fn pressures(&self) -> [(&'static str, Pressure); 2] {
        [("log", self.log.pressure()), ("state", self.machine.state().pressure())]
    }

    /// The configuration it runs with.
    pub fn config(&self) -> &GroupConfig {
        &self.config
    }

    /// Stops the core.
    pub async fn stop(&self) {
        if let Err(error) = self.raft.shutdown().await {
            tracing::error!(%error, "the Raft core did not stop in order");
        }
    }
}

fn raft_config(config: &GroupConfig) -> Config {
    Config {
        cluster_name: "saltern".into(),
        heartbeat_interval: config.heartbeat_ms,
        election_timeout_min: config.election_ms_min,
        election_timeout_max: config.election_ms_max,
        enable_pre_vote: Some(true),
        // Without it a partial partition can leave the cluster without a leader.
        quorum_loss_probe_interval: Some(config.election_ms_max * 2),
        install_snapshot_timeout: 600_000,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(config.snapshot_entries),
        max_in_snapshot_log_to_keep: config.log_keep_entries,
        // A follower that lags by less than this catches up from the log.
        replication_lag_threshold: config.snapshot_entries * 2,
        max_payload_entries: 256,
        // A leader sends entries while it writes them. One that died in between and led on in its old term would give the
        // same positions to other entries than its followers hold, and nobody could tell: it has to win a new term.
        enable_leader_restore: Some(false),
        // A log that is kept short is purged as often as snapshots are made.
        purge_batch_size: config.snapshot_entries.clamp(1, 256),
        ..Config::default()
    }
}

/// openraft's type parameters, for signatures outside this folder that must not name it.
pub type RaftTypes = Types;
