//! Changes of the masters: what an operator asks for, what it would do, and how far it is.
//!
//! ```text
//!   POST /v1/cluster/members           MemberRequest     → Answer<MemberAnswer>
//!   POST /v1/cluster/transfer-leader   TransferRequest   → Answer<TransferAnswer>
//!   POST /v1/cluster/rotate-secrets    {}                → Answer<SecretsView>
//!   GET  /v1/cluster/secrets                             → Answer<SecretsView>
//! ```
//!
//! A request with `dry_run` changes nothing and says what it would do. The other one names the directory that the plan was
//! made upon: if the masters changed meanwhile it is refused, and the operator looks again.

use crate::id::MasterId;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A change of one master.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemberChange {
    /// It is to vote.
    Promote,
    /// It is to vote no more, and stays a learner.
    Demote,
    /// It is to leave the cluster for ever.
    Remove,
    /// It is to give its minions and its leadership away.
    Drain,
    /// It is to take minions again.
    Undrain,
}

impl fmt::Display for MemberChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Promote => "promote",
            Self::Demote => "demote",
            Self::Remove => "remove",
            Self::Drain => "drain",
            Self::Undrain => "undrain",
        })
    }
}

/// The body of a request to change a master.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberRequest {
    /// What is to be done.
    pub change: MemberChange,
    /// To whom: a name, or a number.
    pub master: String,
    /// The (generation, version) of the directory that the plan was made upon. Without one, whatever stands now counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<(u64, u64)>,
    /// Whether only to say what would be done.
    #[serde(default)]
    pub dry_run: bool,
}

/// What a change does, worked out before it is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberPlan {
    /// What is asked for.
    pub change: MemberChange,
    /// Whose turn it is; 0 if there is no such master (any more).
    pub master: MasterId,
    /// Its name.
    pub name: String,
    /// The (generation, version) of the directory that this was worked out upon.
    pub directory: (u64, u64),
    /// What will be done, in order. Empty: nothing, it is so already.
    pub steps: Vec<String>,
    /// What an operator should know before.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// Why it will not be done, with the numbers and the remedy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// The voters before and after, by name.
    pub voters: (Vec<String>, Vec<String>),
    /// How many more voters may die before writes stop, before and after.
    pub tolerance: (u32, u32),
}

/// How a change went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberAnswer {
    /// What it does.
    pub plan: MemberPlan,
    /// Whether everything is as it is to be.
    pub complete: bool,
    /// What is still under way, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<String>,
}

/// The body of a request to hand leadership over.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransferRequest {
    /// To whom: a name or a number. Without one the leader chooses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Whether only to say who would lead.
    #[serde(default)]
    pub dry_run: bool,
}

/// How leadership went over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransferAnswer {
    /// Who led.
    pub from: String,
    /// Who leads, or would.
    pub to: String,
    /// Whether anything changed.
    pub changed: bool,
    /// How long it took until the other one led, in milliseconds.
    pub took_ms: u64,
}

/// The state secret, which seals every secret value of the truth. Says nothing of the secret itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretsView {
    /// How often it was changed: the number of the one in force.
    pub epoch: u64,
    /// The number that it is to reach; above `epoch` while a rotation is under way.
    pub wanted: u64,
    /// Masters that are known to hold the one in force, by name.
    pub holders: Vec<String>,
    /// Masters of the directory that are not known to hold it yet: they ask for it as soon as they are reached.
    pub missing: Vec<String>,
}
