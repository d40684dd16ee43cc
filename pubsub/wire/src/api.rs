//! The operator's API: JSON over HTTPS (port 4511) and over the unix socket, the same on both.
//!
//! ```text
//!   GET  /livez  /readyz?verbose  /metrics
//!   GET  /v1/keys                        Answer<Vec<KeyView>>
//!   POST /v1/keys/{accept,reject,delete} KeyDecision            → Answer<KeyChanges>
//!   POST /v1/jobs                        Submit                 → Answer<Submitted>
//!   GET  /v1/jobs?limit=&before=&active= Answer<JobPage>
//!   GET  /v1/jobs/{jid}                  Answer<JobView>
//!   GET  /v1/jobs/{jid}/events           server-sent events: JobEvent, until every targeted minion is settled
//!   POST /v1/jobs/{jid}/{pause,resume}   Answer<BatchView>
//!   POST /v1/jobs/{jid}/kill             Answer<Killed>         (nobody else gets it, and a saltutil.kill_job for those that may run it)
//!   GET  /v1/mine?kind=&target=&function= Answer<Vec<MineEntry>>
//!   GET  /v1/minions  /v1/minions/{id}   Answer<MinionList>, Answer<MinionView>
//!   GET  /v1/cluster/status              Answer<ClusterStatus>
//!   GET  /v1/cluster/forecast?lose=      Answer<Forecast>       (region:R, zone:Z or a name, comma separated)
//!   POST /v1/cluster/join-token          JoinTokenRequest       → Answer<JoinTokenView>
//!   POST /v1/cluster/join                JoinRequest            → Answer<JoinGrant>   (no bearer token: the join token proves)
//!   POST /v1/cluster/export-keys         ExportKeys             → Answer<ExportedKeys>
//!   GET  /v1/snapshot                    an archive (crate::archive), as bytes
//!   GET  /v1/config   PUT /v1/config/{name}  Answer<Settings>
//!   GET  /v1/events                      server-sent events: Event
//! ```
//!
//! Every query takes `revision=N` (read at least that far) and every answer carries one. Errors are `{"error": Failure}` with
//! the HTTP status of [`FailureCode::status`]. Writes take the header `saltern-request` (a [`crate::RequestId`]): a retry
//! under the same id finds the first answer. Any request takes the header `saltern-deadline-ms`: for how long the client waits.

mod hold;
pub mod member;
mod region;
mod snapshot;

pub use hold::Killed;
pub use region::{Candidate, Forecast, Outlook, RoundTrip, TimingStatus};
pub use snapshot::{BackupStatus, ExportKeys, ExportedKeys, Passphrase};

use crate::crypto::{Fingerprint, PublicKey};
use crate::id::{ClusterId, JobId, MasterId, MinionId, Ordinal, Revision};
use crate::job::Progress;
use crate::key::KeyState;
use crate::master::{Endpoints, MasterState};
use crate::rolling::{Batch, BatchView};
use crate::target::Target;
use crate::time::LogicalTime;
use crate::{Map, Value};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Header that names a write; 32 hexadecimal digits.
pub const REQUEST_HEADER: &str = "saltern-request";

/// Header that says for how many milliseconds the client waits: what is not begun by then is not done any more.
pub const DEADLINE_HEADER: &str = "saltern-deadline-ms";

/// A stream of server-sent events carries something at least this often, a comment if nothing else, in milliseconds: a client
/// takes three times this long of silence for a frozen master and goes on at another.
pub const EVENTS_KEEPALIVE_MS: u64 = 3_000;

/// Any answer: what was asked for, and how fresh it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer<T> {
    /// What the answering master had applied.
    pub revision: Revision,
    /// The truth's time at that revision.
    pub as_of: LogicalTime,
    /// Milliseconds since the master last had quorum contact, if its lease has passed: the answer may be old.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale_ms: Option<u64>,
    /// The name of the answering master.
    pub master: String,
    /// What was asked for.
    pub value: T,
}

/// What kind of failure it was; decides HTTP status and exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureCode {
    /// The request is wrong and stays wrong. Exit 64.
    Invalid,
    /// There is no such thing. Exit 1.
    NotFound,
    /// The target matches nothing. Exit 2.
    NoMatch,
    /// No quorum; nothing was written. Exit 75.
    NoQuorum,
    /// The outcome is unknown; ask again under the same request id. Exit 75.
    Unknown,
    /// Too much at once, or a limit of the truth. Exit 75.
    Busy,
    /// The caller may not. Exit 77.
    Denied,
    /// Refused because of what the truth holds now (already decided, already used). Exit 1.
    Conflict,
    /// A fault of the master itself. Exit 70.
    Internal,
}

impl FailureCode {
    /// The HTTP status that goes with it.
    pub fn status(self) -> u16 {
        match self {
            Self::Invalid => 400,
            Self::Denied => 401,
            Self::NotFound | Self::NoMatch => 404,
            Self::Conflict => 409,
            Self::Busy => 429,
            Self::Internal => 500,
            Self::NoQuorum | Self::Unknown => 503,
        }
    }

    /// The exit code of `saltern` for it (sysexits.h where it has one).
    pub fn exit_code(self) -> u8 {
        match self {
            Self::NotFound | Self::Conflict => 1,
            Self::NoMatch => 2,
            Self::Invalid => 64,
            Self::Internal => 70,
            Self::NoQuorum | Self::Unknown | Self::Busy => 75,
            Self::Denied => 77,
        }
    }
}

/// The body of every unsuccessful response, under the key `error`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What kind it was.
    pub code: FailureCode,
    /// A sentence that names the value and the remedy.
    pub message: String,
}

impl Failure {
    /// A failure with a message.
    pub fn new(code: FailureCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// `{"error": …}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureBody {
    /// The failure.
    pub error: Failure,
}

/// One key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyView {
    /// Whose it says it is.
    pub minion: MinionId,
    /// What was decided.
    pub state: KeyState,
    /// SHA-256 of the public key.
    pub fingerprint: Fingerprint,
    /// The minion's number, once accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ordinal: Option<Ordinal>,
    /// First seen.
    pub submitted: LogicalTime,
    /// Last decision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decided: Option<LogicalTime>,
    /// Who decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decided_by: Option<String>,
}

/// Which keys a decision is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeySelection {
    /// Every key to which the decision applies.
    All,
    /// Ids that match this glob.
    Glob(String),
    /// The key with this fingerprint (a prefix of at least 8 digits that names one key only).
    Fingerprint(String),
}

/// The body of accept, reject and delete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyDecision {
    /// Which keys.
    pub select: KeySelection,
    /// Also take keys out of `rejected` or `denied` (accept), or `accepted` (reject). Without it, accept and reject take
    /// pending keys only.
    #[serde(default)]
    pub include_decided: bool,
}

/// Which keys changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyChanges {
    /// The keys as they are now (as they were, for delete).
    pub changed: Vec<KeyView>,
}

/// The body of a submission.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Submit {
    /// For whom.
    pub target: Target,
    /// `module.function`.
    pub function: String,
    /// Positional arguments.
    #[serde(default)]
    pub arguments: Vec<Value>,
    /// Keyword arguments.
    #[serde(default)]
    pub keywords: Map,
    /// How long minions may accept it, in milliseconds; the setting `job_ttl_ms` if absent. In a batch, from their turn on.
    #[serde(default)]
    pub ttl_ms: Option<u64>,
    /// How it goes to so many minions at a time; to all at once if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<Batch>,
    /// For so many of those that the target matches, drawn at random; for all of them if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subset: Option<u32>,
}

/// A submitted job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Submitted {
    /// Its name.
    pub jid: JobId,
    /// For whom it is, sorted.
    pub targeted: Vec<MinionId>,
}

/// A page of jobs, newest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobPage {
    /// The jobs.
    pub jobs: Vec<JobSummary>,
    /// Hand back as `before` for the next page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<JobId>,
}

/// Whether a job still waits for somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Somebody owes an answer.
    Open,
    /// Everybody is settled.
    Done,
}

/// One job in a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobSummary {
    /// Its name.
    pub jid: JobId,
    /// `module.function`.
    #[serde(rename = "fun")]
    pub function: String,
    /// Positional arguments.
    pub arguments: Vec<Value>,
    /// Keyword arguments.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub keywords: Map,
    /// What the operator wrote.
    pub target: Target,
    /// Who asked.
    pub user: String,
    /// When it was taken.
    pub opened: LogicalTime,
    /// Whether somebody owes an answer.
    pub state: JobState,
    /// How many minions it is for.
    pub targeted: u32,
    /// How many have returned (a result, good or bad).
    pub returned: u32,
    /// Where it stands, if it goes to so many minions at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<BatchView>,
}

/// One minion's return.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReturnView {
    /// What the function returned.
    #[serde(rename = "return")]
    pub value: Value,
    /// Exit code.
    pub retcode: i32,
    /// Whether it worked.
    pub success: bool,
    /// Where the minion stands: returned, failed or interrupted.
    pub state: Progress,
    /// The master that carried it into the log.
    pub master: String,
    /// How long it ran, in milliseconds.
    pub duration_ms: u64,
}

/// Why a targeted minion has not answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// Which minion.
    pub minion: MinionId,
    /// Where it stands: held, waiting, accepted, expired, unreachable, cancelled, skipped or killed.
    pub state: Progress,
    /// A sentence: `disconnected since …`, `delivered, still running`, `expired`, `key not accepted`, `its master is
    /// unreachable`.
    pub reason: String,
}

/// One job, whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobView {
    /// What a list shows.
    #[serde(flatten)]
    pub summary: JobSummary,
    /// The master that accepted it.
    pub master: String,
    /// The ids it is for, sorted.
    pub minions: Vec<MinionId>,
    /// Who returned what.
    pub returns: BTreeMap<MinionId, ReturnView>,
    /// Who has not, and why.
    pub missing: Vec<Missing>,
}

/// One step of a running job, as a server-sent event. The event's name is the variant in snake case.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum JobEvent {
    /// A minion returned.
    Return {
        /// Which.
        minion: MinionId,
        /// What.
        #[serde(flatten)]
        view: ReturnView,
    },
    /// A minion will not return any more: expired, unreachable.
    Missing(Missing),
    /// The turn of some minions has come, or the job was paused, resumed or ended: how it stands now.
    Batch(BatchView),
    /// Every targeted minion is settled. Last event of the stream.
    Done {
        /// What the master had applied.
        revision: Revision,
    },
}

/// Minions and how much of the cluster the list covers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MinionList {
    /// Accepted minions by id.
    pub minions: Vec<MinionView>,
    /// Masters whose sessions are counted.
    pub masters_heard: u32,
    /// Masters there are.
    pub masters_all: u32,
}

/// Whether a minion has a session somewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Presence {
    /// Attached to a master that answers.
    Connected,
    /// Attached to no master that answers, and every master answers.
    Disconnected,
    /// Its master, or some master, does not answer.
    Unknown,
}

/// One minion.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MinionView {
    /// Its name.
    pub id: MinionId,
    /// Its number.
    pub ordinal: Ordinal,
    /// Whether it has a session.
    pub presence: Presence,
    /// The name of the master it is (or was last) attached to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub master: Option<String>,
    /// When that began (or ended, if disconnected), wall clock of that master.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<LogicalTime>,
    /// Program version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Its grains; only in `/v1/minions/{id}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grains: Option<Map>,
}

/// The cluster as one master sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// Which cluster.
    pub cluster: ClusterId,
    /// SHA-256 of the CA's key, which minions pin.
    pub ca_fingerprint: Fingerprint,
    /// Whether a majority answers.
    pub quorum: bool,
    /// How many more voters may die before writes stop.
    pub failure_tolerance: u32,
    /// The leader, if known.
    pub leader: Option<String>,
    /// Raft term.
    pub term: u64,
    /// The members.
    pub members: Vec<MemberStatus>,
    /// Accepted minions.
    pub minions_accepted: u64,
    /// Minions with a session on a master that answers.
    pub minions_connected: u64,
    /// Open jobs.
    pub jobs_open: u64,
    /// Orders masters' directories.
    pub directory: (u64, u64),
    /// The cluster's feature level: it rises once every voter runs a version that knows the next one.
    #[serde(default = "crate::level::first")]
    pub level: u32,
    /// What the scheduled backups of the answering master came to, if it makes any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<BackupStatus>,
    /// The group's timing; absent from masters that do not say.
    #[serde(default)]
    pub timing: Option<TimingStatus>,
}

/// One member.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MemberStatus {
    /// Its number.
    pub id: MasterId,
    /// Its name.
    pub name: String,
    /// `leader`, `follower`, `learner`, `joining` or `quarantined`.
    pub role: String,
    /// Where it stands in its life.
    pub state: MasterState,
    /// Where it is reached.
    pub endpoints: Endpoints,
    /// Region label.
    pub region: String,
    /// Zone label.
    pub zone: String,
    /// Whether the answering master hears from it.
    pub reachable: bool,
    /// What made it take part no more, if it said so before it ended: its data cannot be trusted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantined: Option<String>,
    /// Last log index it is known to have, if the answering master knows.
    #[serde(default)]
    pub last_log: Option<u64>,
    /// Entries it lacks, if known.
    #[serde(default)]
    pub lag: Option<u64>,
    /// Round trip from the answering master, in microseconds, if measured.
    #[serde(default)]
    pub round_trip_us: Option<u64>,
    /// What is measured of the way from the answering master, over the last minutes.
    #[serde(default)]
    pub round_trip: Option<RoundTrip>,
    /// Sessions it holds, if it answers.
    #[serde(default)]
    pub minions: Option<u64>,
    /// Program version, if it answers.
    #[serde(default)]
    pub version: Option<String>,
    /// The newest feature level that its program knows, if it answers.
    #[serde(default)]
    pub level: Option<u32>,
}

/// The body of a request for a join token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinTokenRequest {
    /// How long it is good for, in milliseconds; at most 7 days.
    pub ttl_ms: u64,
    /// How many masters may use it.
    pub uses: u32,
}

/// A join token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinTokenView {
    /// Give this to `saltern-master join`. Shown once.
    pub token: String,
    /// When it ends.
    pub expires: LogicalTime,
}

/// What a join token holds, before it is written as base64url of its encoding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinToken {
    /// API addresses of masters.
    pub addresses: Vec<crate::io::Address>,
    /// Whom to believe.
    pub ca_fingerprint: Fingerprint,
    /// Proves the right to join. The truth holds its hash only.
    pub secret: JoinSecret,
}

/// The secret half of a join token: 32 hexadecimal digits, never printed by `Debug`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JoinSecret(pub String);

impl std::fmt::Debug for JoinSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JoinSecret(…)")
    }
}

impl crate::codec::Encoded for JoinToken {
    const KIND: u8 = 50;
}

/// The body of a join.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinRequest {
    /// The token's secret.
    pub secret: JoinSecret,
    /// The joiner's name.
    pub name: String,
    /// The joiner's identity.
    pub public_key: PublicKey,
    /// Where it will be reached.
    pub endpoints: Endpoints,
    /// Region label.
    pub region: String,
    /// Zone label.
    pub zone: String,
    /// The joiner's feature level. Absent in what the first version sends.
    #[serde(default = "crate::level::first")]
    pub level: u32,
}

/// What a joiner gets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JoinGrant {
    /// Which cluster.
    pub cluster: ClusterId,
    /// Its number.
    pub master: MasterId,
    /// The CA's public key.
    pub ca: PublicKey,
    /// The CA's X.509 certificate, PEM.
    pub ca_certificate_pem: String,
    /// Its X.509 certificate for the mesh and the API, PEM.
    pub tls_certificate_pem: String,
    /// Its certificate for sessions.
    pub certificate: crate::crypto::Signed<crate::master::Certificate>,
    /// The state secret, 64 hexadecimal digits.
    pub state_secret: String,
    /// The directory with it inside.
    pub directory: crate::crypto::Signed<crate::master::Directory>,
    /// The cluster's feature level: a joiner whose build does not know it goes no further.
    #[serde(default = "crate::level::first")]
    pub level: u32,
}
