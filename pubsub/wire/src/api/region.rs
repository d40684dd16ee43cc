//! What masters say about regions: distances, timing, and what the loss of some of them would mean.

use crate::profile::{Profile, ProfileChoice};
use serde::{Deserialize, Serialize};

/// The group's timing, as the answering master knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimingStatus {
    /// What the operator set.
    pub profile: ProfileChoice,
    /// What every master is to run with.
    pub timing: Profile,
    /// Masters that run with another timing, or one of their own, by name: each starts anew in its turn.
    #[serde(default)]
    pub other: Vec<String>,
    /// Why the timing does not fit what is measured, with the remedy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unfit: Option<String>,
    /// The region that is to lead; empty for none.
    #[serde(default)]
    pub preferred_region: String,
}

/// What is measured of the way between two masters, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoundTrip {
    /// Half of the round trips took no longer.
    pub p50_us: u64,
    /// Ninety-nine of a hundred took no longer.
    pub p99_us: u64,
    /// Over so many.
    pub count: u32,
}

/// What would happen if some masters were lost at once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Forecast {
    /// Masters that would be lost, by name.
    pub lost: Vec<String>,
    /// Masters that do not answer already, by name: they count as lost, before and after.
    pub unreachable: Vec<String>,
    /// How many vote.
    pub voters: u32,
    /// How many of them have to answer.
    pub majority: u32,
    /// How it is.
    pub before: Outlook,
    /// How it would be.
    pub after: Outlook,
    /// Longest time without a write, in milliseconds, from and to; nothing if writes would not come back.
    pub write_gap_ms: Option<(u64, u64)>,
    /// Minions that would have to attach elsewhere.
    pub minions_moved: u64,
    /// What cannot be known, in words.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// A cluster with some of its masters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outlook {
    /// Whether a majority of the voters answers.
    pub quorum: bool,
    /// How many more voters may be lost.
    pub failure_tolerance: u32,
    /// Who leads in the end, if that can be said.
    pub leader: Option<String>,
    /// Everybody who may lead, with what a write would take there.
    pub candidates: Vec<Candidate>,
}

/// A master that may lead.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// Its name.
    pub name: String,
    /// Its region.
    pub region: String,
    /// Round trips of a commit, in microseconds, for a client beside it; the disks add their syncs. Nothing if the way to
    /// some voter it needs was never measured.
    pub commit_us: Option<u64>,
}
