//! Every change of the truth, on one page. A new command is one variant here and one file in [`crate::machine`].
//!
//! A [`Proposal`] is what goes into the replicated log. Its encoding is `{version, kind, body}` with named fields; variants
//! are known by name, so they are never renamed, and fields are only added, with a default.

use roaring::RoaringBitmap;
use saltern_wire::codec::Encoded;
use saltern_wire::crypto::{Fingerprint, PublicKey, Signed};
use saltern_wire::job::{Job, ReturnPart};
use saltern_wire::master::{Certificate, Directory, Endpoints, MasterState};
use saltern_wire::mine::{MineReport, MineStamp};
use saltern_wire::rolling::{Rolling, Stand};
use saltern_wire::settings::Settings;
use saltern_wire::{ClusterId, JobId, LogicalTime, Map, MasterId, MinionId, Ordinal, RequestId, Value};
use serde::{Deserialize, Serialize};

/// One entry of the replicated log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Proposal {
    /// Names the write: applying a second proposal of the same name answers what the first one did. `None` for commands
    /// that are harmless to repeat by themselves (returns, acceptance, ticks).
    #[serde(default)]
    pub request: Option<RequestId>,
    /// The master that took it.
    pub by: MasterId,
    /// The leader's stamp. Apply takes the larger of this and the last time + 1 µs.
    pub stamp: LogicalTime,
    /// What to change.
    pub command: Command,
}

impl Encoded for Proposal {
    const KIND: u8 = 60;
}

/// A change of the truth.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Command {
    /// Nothing but time passes: expiry and retention happen.
    Tick,
    /// Minion keys.
    Key(KeyCommand),
    /// What minions are.
    Minion(MinionCommand),
    /// Jobs and returns.
    Job(JobCommand),
    /// Mine data.
    Mine(MineCommand),
    /// Masters, join tokens, the directory.
    Master(MasterCommand),
    /// Replicated settings.
    Settings(SettingsCommand),
    /// Raises the cluster's feature level: every voter runs a build that knows it. One that is reached already changes nothing; a
    /// replica whose build does not know it stops.
    Level {
        /// The level from here on.
        level: u32,
    },
    /// The state secret.
    Secret(SecretCommand),
}

/// Minion keys.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum KeyCommand {
    /// A minion showed a key that the truth does not hold. Becomes pending, or denied if the id belongs to another key, or
    /// accepted if the setting `auto_accept` says so. Repeating it changes nothing.
    Submit {
        /// Whose it says it is.
        minion: MinionId,
        /// The key.
        public_key: PublicKey,
    },
    /// Accepts exactly these keys. A key that is no longer there, or is another one by now, is skipped.
    Accept {
        /// Which keys.
        keys: Vec<(MinionId, Fingerprint)>,
        /// Which operator.
        by: String,
    },
    /// Remembers and refuses exactly these keys; ends their sessions.
    Reject {
        /// Which keys.
        keys: Vec<(MinionId, Fingerprint)>,
        /// Which operator.
        by: String,
    },
    /// Forgets exactly these keys; ends their sessions. The minion may enrol again.
    Delete {
        /// Which keys.
        keys: Vec<(MinionId, Fingerprint)>,
        /// Which operator.
        by: String,
    },
}

/// What minions are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum MinionCommand {
    /// A minion's grains, whole. Also says which incarnation reported them.
    Facts {
        /// Which minion.
        minion: MinionId,
        /// Its incarnation.
        incarnation: u64,
        /// Its program version.
        version: String,
        /// The grains.
        facts: Map,
    },
}

/// Jobs and returns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum JobCommand {
    /// Opens a job. Targets that are not accepted at this point of the log are dropped from those expected to answer; none
    /// left is a refusal.
    Open {
        /// The job, signed by the master that took it. Apply reads it with `peek`: the proposing master checked it.
        job: Signed<Job>,
    },
    /// Minions that have the job on their disk.
    Accept {
        /// Which minion accepted which job.
        accepted: Vec<(JobId, Ordinal)>,
    },
    /// Parts of returns, from one or many minions.
    Record {
        /// Which minion returned what.
        returns: Vec<(Ordinal, ReturnPart)>,
    },
    /// Both in one entry: first the acceptances, then the returns. Replied as [`JobCommand::Record`] is.
    Deliver {
        /// Which minion accepted which job.
        accepted: Vec<(JobId, Ordinal)>,
        /// Which minion returned what.
        returns: Vec<(Ordinal, ReturnPart)>,
    },
    /// Opens a job that goes to so many of its minions at a time. Otherwise as `Open`. Whose turn it is, apply decides.
    Roll {
        /// The job, signed by the master that took it. Its time to live is that of the whole round.
        job: Signed<Job>,
        /// How it goes round.
        rolling: Rolling,
    },
    /// Lets nobody's turn come in a rolling job, or lets turns come again. Repeating it changes nothing.
    Pause {
        /// Which job.
        jid: JobId,
        /// Whether it rests from here on.
        paused: bool,
        /// Which operator.
        by: String,
    },
    /// Ends an open job for everybody who has not accepted it. Who has goes on: only the minion itself can stop what it runs.
    /// Repeating it changes nothing.
    End {
        /// Which job.
        jid: JobId,
        /// Which operator.
        by: String,
    },
}

/// Mine data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum MineCommand {
    /// Reports of one minion. Each is taken only if its stamp is above the held one of that function.
    Report {
        /// Which minion.
        minion: Ordinal,
        /// The reports.
        reports: Vec<MineReport>,
    },
    /// Minions reported again what the truth holds: only the stamp rises, so that an older value that is still on its way
    /// never takes the newer one's place. Taken only where the truth still holds what the proposing master saw.
    Affirm {
        /// Of one or many minions.
        affirmed: Vec<MineAffirmation>,
    },
}

/// A mine value that a minion reported again unchanged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MineAffirmation {
    /// Which minion.
    pub minion: Ordinal,
    /// The function.
    pub function: String,
    /// The stamp of the value that the proposing master compared with.
    pub held: MineStamp,
    /// The stamp of the report.
    pub stamp: MineStamp,
}

/// Masters, join tokens, the directory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum MasterCommand {
    /// The very first command: makes the cluster. Refused if there is one.
    Found {
        /// Its name.
        cluster: ClusterId,
        /// The CA's public key.
        ca: PublicKey,
        /// The CA's secret key, sealed with the state secret.
        #[serde(with = "serde_bytes")]
        ca_sealed: Vec<u8>,
        /// The CA's X.509 certificate, PEM.
        ca_certificate_pem: String,
        /// The directory with the founding master, whose id is 1.
        directory: Signed<Directory>,
        /// What YAML seeded.
        settings: Settings,
        /// The founder's feature level, which is the cluster's from here on. Absent in what the first version wrote.
        #[serde(default = "saltern_wire::level::first")]
        level: u32,
    },
    /// Makes a join token. The truth holds BLAKE3 of its secret only.
    Token {
        /// BLAKE3 of the secret's text.
        #[serde(with = "serde_bytes")]
        secret_hash: [u8; 32],
        /// How long it is good for, in milliseconds.
        ttl_ms: u64,
        /// How many masters may use it.
        uses: u32,
    },
    /// Uses a join token and gives out a master id. The same public key asking again gets the same id without a use.
    /// Refused: an unknown, used up or expired token; a name that another key holds.
    Join {
        /// BLAKE3 of the secret's text.
        #[serde(with = "serde_bytes")]
        secret_hash: [u8; 32],
        /// The joiner's name.
        name: String,
        /// The joiner's key.
        public_key: PublicKey,
    },
    /// Puts a new directory in place, signed with the CA key. Refused unless its version is exactly one above the held one
    /// of its generation: whoever lost the race builds it anew.
    Directory {
        /// The new directory.
        directory: Signed<Directory>,
    },
    /// Gives out a fresh id for a master of the directory that lost its data and proved who it was. The same key asking
    /// again gets the same id. Refused: a master that is not in the directory; a name or key that another one holds.
    Rejoin {
        /// The id that it had.
        gone: MasterId,
        /// Its name.
        name: String,
        /// Its fresh key.
        public_key: PublicKey,
    },
    /// A master carries the truth on alone, after a restore or a recovery: raises the generation, which fences every other
    /// master. Open jobs are cancelled, join tokens and all other masters are forgotten; keys, minions, jobs, returns and
    /// mine values stay. Written into the log by that master itself, beside the membership that makes it the only voter.
    Refound {
        /// The cluster's name from now on: the same after a recovery, a fresh one after a restore.
        cluster: ClusterId,
        /// The CA's X.509 certificate under that name, PEM. Its key stays.
        ca_certificate_pem: String,
        /// The CA's secret key, sealed with the state secret that this master has.
        #[serde(with = "serde_bytes")]
        ca_sealed: Vec<u8>,
        /// The feature level that it brings: that of the build that wrote it.
        level: u32,
        /// The directory with that master alone, of a higher generation. Names the clusters that it succeeds.
        directory: Signed<Directory>,
    },
}

/// Replicated settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum SettingsCommand {
    /// Changes one setting.
    Set {
        /// Which.
        name: String,
        /// To what.
        value: Value,
    },
}

/// The state secret. It never is in the log, only what it seals.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SecretCommand {
    /// Asks for a new secret in the place of number `epoch`. Changes nothing if that one has been followed already.
    Want {
        /// The number of the secret that is to go.
        epoch: u64,
    },
    /// Puts a new secret in force, which a majority of the voters holds on disk: every secret value, sealed with it. Join
    /// tokens that were not used yet end. Refused unless `epoch` is exactly one above the one in force.
    Rotate {
        /// The number of the new secret.
        epoch: u64,
        /// The CA's secret key, sealed with it.
        #[serde(with = "serde_bytes")]
        ca_sealed: Vec<u8>,
    },
}

/// What a directory entry is made from, before it has an id. Kept here so that `init` and `join` build the same thing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MasterDraft {
    /// Its name.
    pub name: String,
    /// Where it is reached.
    pub endpoints: Endpoints,
    /// Region label.
    pub region: String,
    /// Zone label.
    pub zone: String,
    /// Its certificate.
    pub certificate: Signed<Certificate>,
    /// Its key.
    pub public_key: PublicKey,
    /// Where it stands.
    pub state: MasterState,
}

/// What apply answers. The same on every replica.
pub type Applied = Result<Reply, Refused>;

/// The answer of a command that was carried out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    /// Nothing more to say.
    Done,
    /// The keys that changed, as they are now (as they were, for delete).
    Keys(Vec<saltern_wire::key::KeyRecord>),
    /// The job is open for so many minions: the ids it is for, in order.
    Opened {
        /// Its name.
        jid: JobId,
        /// For whom it is, sorted by id.
        minions: Vec<MinionId>,
    },
    /// One verdict a part, in order.
    Recorded(Vec<saltern_wire::job::Recorded>),
    /// The id of a joining master.
    Joined {
        /// Its id.
        master: MasterId,
    },
    /// A token's end.
    Token {
        /// When it ends.
        expires: LogicalTime,
    },
}

/// Why a command changed nothing. A refusal is a value of the truth: the same on every replica.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refused {
    /// The command is wrong and stays wrong.
    #[error("{0}")]
    Invalid(String),
    /// There is no such thing.
    #[error("{0}")]
    NotFound(String),
    /// The target matches no accepted minion.
    #[error("no accepted minion is among the targets")]
    NoTargets,
    /// What the truth holds now stands against it.
    #[error("{0}")]
    Conflict(String),
    /// A limit of the truth.
    #[error("{0}")]
    Limit(String),
    /// The join token is unknown, used up or expired.
    #[error("{0}")]
    Token(String),
}

/// What a command did that somebody may want to hear of. Effects are hints: tables are facts, a lost effect is repaired by a
/// sweep and a repeated one is harmless.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// A key was submitted, decided or deleted.
    Key {
        /// The record as it is now; as it was, if deleted.
        record: saltern_wire::key::KeyRecord,
        /// Whether it is gone.
        deleted: bool,
    },
    /// A job was opened.
    JobOpened {
        /// The job.
        job: Signed<Job>,
        /// Its name.
        jid: JobId,
    },
    /// Minions accepted jobs.
    JobAccepted {
        /// Which minion accepted which job.
        accepted: Vec<(JobId, Ordinal)>,
    },
    /// A whole return was recorded for the first time, or replaced `expired` or `unreachable`.
    Returned {
        /// The record.
        record: Box<saltern_wire::job::ReturnRecord>,
    },
    /// A minion was settled without a return: expired, unreachable, skipped or killed.
    Settled {
        /// Which job.
        jid: JobId,
        /// Which minion.
        ordinal: Ordinal,
        /// Expired, unreachable, cancelled, skipped or killed.
        progress: saltern_wire::job::Progress,
    },
    /// Minions whose turn in a rolling job has come: from now on they may be offered it.
    Released {
        /// Which job.
        jid: JobId,
        /// Whose turn it is.
        ordinals: RoaringBitmap,
    },
    /// An operator paused, resumed or ended a job, or it ended at a minion that failed.
    JobStands {
        /// Which job.
        jid: JobId,
        /// How it stands now.
        stand: Stand,
        /// Which operator; `None` if the job's own rule ended it.
        by: Option<String>,
    },
    /// Every targeted minion of the job is settled.
    JobDone {
        /// Which job.
        jid: JobId,
    },
    /// A minion reported its grains.
    Facts {
        /// Which minion.
        minion: MinionId,
    },
    /// A mine value was taken.
    Mine {
        /// Which minion.
        minion: MinionId,
        /// Of which functions.
        functions: Vec<String>,
    },
    /// The directory changed.
    Directory {
        /// The new one.
        directory: Signed<Directory>,
    },
    /// A setting changed.
    Settings {
        /// All of them now.
        settings: Settings,
    },
    /// A snapshot took the place of all tables: anything may have changed, and no other effect says what. Whoever follows
    /// effects reads the tables anew.
    Replaced,
}
